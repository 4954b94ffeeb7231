//! Faults of real hosts and their remedies: each section of docs/troubleshooting.md is a case
//! here, in which a path fails first and works after the remedy.

use std::{net::SocketAddr, time::Duration};

use ipvs_client::Sysctl;
use kernel_tests::{Outcome, block_on, needing};
use libtest_mimic::{Failed, Trial};
use lvs::{RealServer, VirtualService};
use netns_link::{Address, NetNs, Setting, prepare_real_server};
use testbed::{Family, http_get, iptables, program, tcp_exchange};

use crate::scene::{LIMIT, Scene};

/// How long to wait on a path that does not work.
const NO_ANSWER_WAIT: Duration = Duration::from_millis(400);

/// Every case by its name.
pub(crate) fn cases() -> Vec<Trial> {
    vec![
        case("address_not_local", || block_on(address_not_local())),
        case("not_forwarding", || block_on(not_forwarding())),
        case("reverse_path_filter", || block_on(reverse_path_filter())),
        case("no_way_back", || block_on(no_way_back())),
    ]
}

/// Cases that need a packet filter, which the newest User-Mode Linux does not have.
pub(crate) fn filter_cases() -> Vec<Trial> {
    let cases = [
        case("input_policy", || block_on(input_policy())),
        case("source_nat", || block_on(source_nat())),
        case("full_packets_in_a_tunnel", || block_on(full_packets_in_a_tunnel())),
    ];
    cases.map(|case| needing(&[("iptables", "iptables")], case)).into()
}

/// Whether this kernel has a packet filter that iptables can use, as far as iptables can tell.
pub(crate) fn has_filter() -> bool {
    let filtered = |namespace: NetNs| iptables(&namespace, "-A INPUT -p icmp -j DROP");
    program("iptables", "iptables").is_err()
        || NetNs::new().is_ok_and(|namespace| filtered(namespace).is_ok())
}

fn case(name: &str, run: fn() -> Outcome) -> Trial {
    Trial::test(format!("trouble_{name}"), run)
}

/// IPVS ignores packets to an address that the director does not have.
async fn address_not_local() -> Outcome {
    let scene = nat_scene().await?;
    let client = scene.container.namespace();
    let dummy = scene.host.links().find("dummy0").await?.ok_or("no dummy0")?;
    scene.host.links().delete_address(&dummy, Address::host(scene.address.ip())).await?;
    fails(&scene, client).await?;
    scene.host.links().add_address(&dummy, Address::host(scene.address.ip())).await?;
    works(&scene, client).await
}

/// With NAT the director forwards the answers, which hosts do not do by default.
async fn not_forwarding() -> Outcome {
    let scene = nat_scene().await?;
    let outside = scene.host.external_client("outside").await?;
    Setting::ip_forward().write(scene.host.namespace(), 0)?;
    fails(&scene, outside.namespace()).await?;
    Setting::ip_forward().write(scene.host.namespace(), 1)?;
    works(&scene, outside.namespace()).await
}

/// The sender of a tunnelled packet is not reached through the tunnel. The loose check (2) helps
/// only if the tunnel's link has an address.
async fn reverse_path_filter() -> Outcome {
    let scene = Scene::new(Family::Ipv4).await?;
    let client = scene.container.namespace();
    // The director must not ask for the pods' link-layer addresses with the virtual address as source.
    Setting::arp_announce("all")?.write(scene.host.namespace(), 2)?;
    let filter = |value: u8| {
        scene
            .pods
            .iter()
            .try_for_each(|pod| Setting::rp_filter("all")?.write(pod.namespace(), value))
    };
    for pod in &scene.pods {
        let _ = prepare_real_server(pod.namespace(), "dummy1", &[scene.address.ip()])?;
        pod.open_tunnel().await?;
    }
    let real_servers = scene.pods.iter().map(|pod| RealServer::tunnel(pod.address()));
    VirtualService::tcp(scene.address)
        .scheduler("rr")
        .real_servers(real_servers)
        .build()?
        .apply(&scene.client)
        .await?;
    for value in [1, 2] {
        filter(value)?;
        fails(&scene, client).await?;
    }
    filter(0)?;
    works(&scene, client).await?;
    for pod in &scene.pods {
        let tunnel = pod.links().find("tunl0").await?.ok_or("no tunl0")?;
        pod.links().add_address(&tunnel, Address::host([192, 0, 2, 1].into())).await?;
    }
    filter(1)?;
    fails(&scene, client).await?;
    filter(2)?;
    works(&scene, client).await
}

/// IPVS comes after the director's INPUT chain.
async fn input_policy() -> Outcome {
    let scene = nat_scene().await?;
    let client = scene.container.namespace();
    iptables(scene.host.namespace(), "-P INPUT DROP")?;
    fails(&scene, client).await?;
    iptables(scene.host.namespace(), "-A INPUT -d 10.0.0.185 -p tcp --dport 80 -j ACCEPT")?;
    works(&scene, client).await
}

/// Netfilter does not translate packets that IPVS handles, unless `net.ipv4.vs.conntrack` is on.
async fn source_nat() -> Outcome {
    let scene = Scene::new(Family::Ipv4).await?;
    scene.host.forward()?;
    // So that the pods' answers do not come back without translation.
    scene.host.unfilter_bridge()?;
    scene.service("rr").apply(&scene.client).await?;
    let client = scene.container.namespace();
    iptables(scene.host.namespace(), "-t nat -A POSTROUTING -d 172.17.0.0/16 -j MASQUERADE")?;
    fails(&scene, client).await?;
    scene.client.set_sysctl(Sysctl::CONNTRACK, true)?;
    works(&scene, client).await
}

/// With NAT a real server must answer through the director.
async fn no_way_back() -> Outcome {
    let scene = nat_scene().await?;
    // The bridge switches the answer, which then does not pass the director.
    scene.host.unfilter_bridge()?;
    fails(&scene, scene.container.namespace()).await?;
    // The director would tell the pods the shorter way again. The larger of the two counts.
    for interface in ["all", "docker0"] {
        let path = format!("net/ipv4/conf/{interface}/send_redirects");
        Setting::new(&path)?.write(scene.host.namespace(), 0)?;
    }
    for pod in &scene.pods {
        pod.reach_through(scene.container.address(), scene.host.address()).await?;
    }
    works(&scene, scene.container.namespace()).await
}

/// A full-size packet does not fit the tunnel, and the client is not told.
async fn full_packets_in_a_tunnel() -> Outcome {
    const ECHO: u16 = 7;
    let scene = Scene::new(Family::Ipv4).await?;
    let client = scene.container.namespace();
    Setting::arp_announce("all")?.write(scene.host.namespace(), 2)?;
    let address = SocketAddr::new(scene.address.ip(), ECHO);
    let mut servers = Vec::new();
    for pod in &scene.pods {
        let _ = prepare_real_server(pod.namespace(), "dummy1", &[address.ip()])?;
        pod.open_tunnel().await?;
        servers.push(pod.serve_tcp(ECHO)?);
    }
    let real_servers = scene.pods.iter().map(|pod| RealServer::tunnel(pod.address()));
    VirtualService::tcp(address).real_servers(real_servers).build()?.apply(&scene.client).await?;
    iptables(client, "-A INPUT -p icmp -j DROP")?;
    // Packet by packet, as from a wire. Linux 5.10 lets packets through that a neighbour sends in one
    // piece, and cuts them behind the tunnel.
    testbed::run(client, "iproute2", &["ip", "link", "set", "eth0", "gso_max_segs", "1"])?;
    let full = "x".repeat(4000);
    assert!(tcp_exchange(client, address, "small", LIMIT).await.is_ok());
    let hangs = tcp_exchange(client, address, &full, NO_ANSWER_WAIT).await;
    assert!(hangs.as_ref().is_err_and(|error| error.is_timeout()), "{hangs:?}");
    scene.client.set_sysctl(Sysctl::PMTU_DISC, false)?;
    let _ = tcp_exchange(client, address, &full, LIMIT).await?;
    Ok(())
}

/// The walkthrough's host with its service, with NAT, and all that makes it work.
async fn nat_scene() -> Result<Scene, Failed> {
    let scene = Scene::new(Family::Ipv4).await?;
    scene.host.forward()?;
    scene.host.filter_bridge()?;
    scene.service("rr").apply(&scene.client).await?;
    Ok(scene)
}

async fn works(scene: &Scene, from: &NetNs) -> Outcome {
    assert_eq!(scene.fetch(from, 4).await?.len(), 2, "both pods answer");
    Ok(())
}

async fn fails(scene: &Scene, from: &NetNs) -> Outcome {
    for _ in 0..2 {
        let answer = http_get(from, scene.address, NO_ANSWER_WAIT).await;
        assert!(answer.is_err(), "the path works although it should not: {answer:?}");
    }
    Ok(())
}
