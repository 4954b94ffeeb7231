//! Desired state on a real kernel: what builds, what an apply writes, and what it leaves when
//! something fails.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use ipvs_client::{
    Client,
    packet::{Destination, ForwardMethod, Service, ServiceKey, Tunnel, TunnelFlags},
};
use kernel_tests::{Outcome, block_on, client_case, needing};
use libtest_mimic::Trial;
use lvs::{Encapsulation, RealServer, VirtualService};
use netns_link::NetNs;
use testbed::{Family, run};

use crate::scene::Scene;

/// Every case by its name.
pub(crate) fn cases() -> Vec<Trial> {
    let unreachable = Trial::test("lvs_addresses_without_clients_do_not_build", || {
        block_on(addresses_without_clients_do_not_build())
    });
    vec![
        client_case("lvs_encapsulation_is_kept", encapsulation_is_kept),
        needing(&[("ip", "iproute2")], unreachable),
    ]
}

/// A tunnel's checksum that another tool has set is a setting like the others.
async fn encapsulation_is_kept(_namespace: NetNs, client: Client) -> Outcome {
    let build = |encapsulation| {
        VirtualService::tcp("10.0.0.185:80".parse().expect("an address"))
            .real_server(
                RealServer::tunnel("172.17.0.3".parse().expect("an address"))
                    .encapsulation(encapsulation),
            )
            .build()
    };
    let service = build(Encapsulation::gue(6080).checksum())?;
    // ipvsadm -a … -i --tun-type gue --tun-port 6080 --tun-csum
    client.add_service(service.service()).await?;
    let mut destination = Destination::new("172.17.0.3:80".parse()?);
    destination.forward = ForwardMethod::TUNNEL;
    destination.tunnel = Tunnel::gue(6080.try_into()?, TunnelFlags::CHECKSUM);
    client.add_destination(service.key(), &destination).await?;
    assert!(service.plan(&client).await?.is_empty());
    for encapsulation in [
        Encapsulation::IPIP,
        Encapsulation::gue(6080).checksum().remote_checksum(),
        Encapsulation::gre().checksum(),
        Encapsulation::gre(),
    ] {
        let service = build(encapsulation)?;
        assert_eq!(service.apply(&client).await?.len(), 1, "{encapsulation}");
        let entry = client.destinations(service.key()).await?.remove(0);
        assert_eq!(Encapsulation::from(entry.destination.tunnel), encapsulation);
        assert!(service.plan(&client).await?.is_empty(), "{encapsulation}");
    }
    Ok(())
}

/// The kernel stores a service at any address. Where no client's packet ever meets it, it does not
/// build; elsewhere it does.
async fn addresses_without_clients_do_not_build() -> Outcome {
    for (family, addresses) in [
        (
            Family::Ipv4,
            &[
                "10.0.0.186",
                "0.0.0.1",
                "169.254.1.1",
                "240.0.0.1",
                "0.0.0.0",
                "224.0.0.5",
                "239.1.1.1",
                "255.255.255.255",
            ][..],
        ),
        (
            Family::Ipv6,
            &[
                "fd00:10::186",
                "::10.0.0.186",
                "64:ff9b::1",
                "2001:db8::1",
                "::",
                "::ffff:10.0.0.186",
                "ff02::5",
                "ff0e::5",
            ],
        ),
    ] {
        let scene = Scene::new(family).await?;
        scene.host.forward()?;
        scene.host.filter_bridge()?;
        for address in addresses {
            let to = SocketAddr::new(address.parse()?, 53);
            let service = Service::new(ServiceKey::udp(to));
            scene.client.add_service(&service).await?;
            let pod = Destination::new(SocketAddr::new(scene.pods[0].address(), 53).into());
            scene.client.add_destination(service.key(), &pod).await?;
            // Every way to make an address local; some take this one, some that.
            let host = scene.host.namespace();
            let bits = if to.is_ipv4() { 32 } else { 128 };
            let range = format!("{address}/{bits}");
            let local = [
                run(host, "iproute2", &["ip", "addr", "add", &range, "dev", "dummy0"]),
                run(host, "iproute2", &["ip", "route", "add", "local", &range, "dev", "lo"]),
            ];
            assert!(local.iter().any(Result::is_ok), "{address} is not made local");

            let sent = scene.container.namespace().run(|| send(to))?;
            tokio::time::sleep(Duration::from_millis(20)).await;
            let entry = scene.client.destinations(service.key()).await?.remove(0);
            let reached = entry.active_connections + entry.inactive_connections > 0;
            let built = VirtualService::udp(to).build();
            assert_eq!(built.is_ok(), reached, "{address}: sent {sent:?}, built {built:?}");
        }
    }
    Ok(())
}

fn send(to: SocketAddr) -> std::io::Result<usize> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_broadcast(true)?;
    socket.send_to(b"x", to)
}
