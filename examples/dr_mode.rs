//! Kube-proxy's IPVS mode by hand, with direct routing: the pods answer their clients themselves.
//!
//! It starts where the NAT walkthrough ends: two pods behind a virtual service. Each pod then also gets
//! the virtual address, on a dummy link that is moved into its namespace, and the service is created
//! again with direct-routed real servers. IPVS now only forwards the client's packets, unchanged, to
//! the pod's link-layer address.
//!
//! ```sh
//! cargo run --example dr_mode
//! ```
//!
//! It needs neither root nor IPVS in the kernel: see the package `lvs-guest`.

use std::{
    error::Error,
    net::SocketAddr,
    time::{Duration, Instant},
};

use clap::Parser;
use examples::{Options, WebServer, command, fetch, heading};
use lvs::{
    RealServer, Table, VirtualService,
    client::{
        Client, ServiceSnapshot,
        packet::ServiceKey,
        table::{ListOptions, Listed, Listing},
    },
};
use netns_link::{Address, NetNs, RealServerArp};
use testbed::DockerHost;

/// The documented DR walkthrough of kube-proxy's IPVS mode, against a real kernel.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { options } = examples::start();
    walkthrough(&options)
}

#[tokio::main(flavor = "current_thread")]
async fn walkthrough(options: &Options) -> Result<(), Box<dyn Error>> {
    options.check().await?;
    examples::legend();
    let (family, address) = options.addresses();

    heading("Where the NAT walkthrough ends: two pods behind a virtual service");
    let host = DockerHost::new(family).await?;
    let pods = [host.container("pod1", 3).await?, host.container("pod2", 4).await?];
    let container = host.container("client", 5).await?;
    let mut servers = Vec::new();
    for pod in &pods {
        let server = WebServer::start(pod, options.nginx).await?;
        let at = SocketAddr::new(pod.address(), 80);
        println!("{} at {at}, process {}", pod.name(), server.pid());
        servers.push(server);
    }
    let dummy = host.links().create_dummy("dummy0").await?.link;
    host.links().add_address(&dummy, Address::host(address.ip()).nodad()).await?;
    host.links().up(&dummy).await?;
    host.forward()?;

    let ipvs = Client::connect_in(host.namespace())?;
    let by_nat = VirtualService::tcp(address)
        .scheduler(&options.scheduler)
        .real_servers(
            options
                .weighted(&pods)
                .map(|(pod, weight)| RealServer::nat((pod.address(), 80).into()).weight(weight)),
        )
        .build()?;
    by_nat.apply(&ipvs).await?;
    command("ipvsadm -L -n");
    print!("{}", Table::read(&ipvs).await?);

    heading("The virtual address in each pod, too");
    for (pod, server) in pods.iter().zip(&servers) {
        // `ip netns` needs a name for the pod's namespace: a link to that of one of its processes.
        let (name, pid) = (pod.name(), server.pid());
        command(format_args!("ln -s /proc/{pid}/ns/net /var/run/netns/{name}"));
        let namespace = NetNs::from_pid(pid)?;
        namespace.attach(name)?;

        // Pods and clients share a bridge, and every host with the virtual address would now answer ARP
        // requests for it. The walkthrough's text leaves this out: a pod must answer only for the addresses
        // of the link on which it is asked, and must not send requests with the virtual address as source.
        // IPv6 has no ARP; there `nodad` lets several pods have the address.
        if !options.ipv6 {
            command(format_args!("ip netns exec {name} sysctl -w net.ipv4.conf.all.arp_ignore=1"));
            command(format_args!(
                "ip netns exec {name} sysctl -w net.ipv4.conf.all.arp_announce=2"
            ));
            let _ = RealServerArp::apply(&namespace)?;
        }

        command("ip link add dummy1 type dummy");
        let dummy = host.links().create_dummy("dummy1").await?.link;
        command(format_args!("ip link set dummy1 netns {name}"));
        host.links().move_to(&dummy, &namespace).await?;
        let dummy = pod.links().find("dummy1").await?.ok_or("dummy1 did not arrive")?;
        command(format_args!("ip netns exec {name} ip addr add {} dev dummy1", address.ip()));
        pod.links().add_address(&dummy, Address::host(address.ip()).nodad()).await?;
        command(format_args!("ip netns exec {name} ip link set dummy1 up"));
        pod.links().up(&dummy).await?;
    }

    heading("The service again, with direct-routed real servers");
    command(format_args!("ipvsadm -D {}", by_nat.key()));
    by_nat.delete(&ipvs).await?;
    let direct = VirtualService::tcp(address)
        .scheduler(&options.scheduler)
        .real_servers(
            options
                .weighted(&pods)
                .map(|(pod, weight)| RealServer::direct(pod.address()).weight(weight)),
        )
        .build()?;
    for change in direct.apply(&ipvs).await? {
        command(change.command_line());
    }
    command("ipvsadm -L -n");
    print!("{}", Table::read(&ipvs).await?);

    heading("The page, fetched from the container");
    for &client in &options.client {
        fetch(client, container.namespace(), address, options.times, &pods).await?;
    }
    println!(
        "(From the host it does not work: the source of its packets is the virtual address, and a"
    );
    println!("pod drops packets that come from one of its own addresses.)");

    heading("The replies did not pass the director");
    command(format_args!("ipvsadm -L -n --stats {}", direct.key()));
    show_packets(&ipvs, direct.key()).await?;

    heading("Clean up");
    command(format_args!("ipvsadm -D {}", direct.key()));
    direct.delete(&ipvs).await?;
    command("ip link del dummy0");
    host.links().delete_dummy("dummy0").await?;
    for pod in &pods {
        command(format_args!("ip netns exec {} ip link del dummy1", pod.name()));
        pod.links().delete_dummy("dummy1").await?;
        command(format_args!("rm /var/run/netns/{}", pod.name()));
        NetNs::delete(pod.name())?;
    }
    Ok(())
}

/// Waits for the kernel to update its counters, which it does every two seconds, and prints the
/// service's packets in both directions, as ipvsadm does.
async fn show_packets(ipvs: &Client, service: &ServiceKey) -> Result<(), Box<dyn Error>> {
    let until = Instant::now() + Duration::from_secs(10);
    let found = loop {
        let entry = ipvs.service(service).await?;
        if entry.statistics.incoming_packets > 0 || Instant::now() > until {
            break ServiceSnapshot::new(entry, ipvs.destinations(service).await?.all()?);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let mut columns = ListOptions::new(Listed::Service(*service));
    columns.statistics = true;
    print!("{}", Listing::of_service(&found).options(&columns));
    let statistics = found.entry.statistics;
    if statistics.incoming_packets == 0 || statistics.outgoing_packets != 0 {
        return Err("the director has forwarded answers".into());
    }
    Ok(())
}
