//! Kube-proxy's IPVS mode by hand: a virtual service in front of two pods, with NAT.
//!
//! Two pods serve a page on a docker-like bridge. A dummy link holds the virtual address, and IPVS
//! distributes its connections over the pods. The page is fetched from a container on the
//! same bridge and from the host.
//!
//! ```sh
//! cargo run --example nat_mode
//! ```
//!
//! It needs neither root nor IPVS in the kernel: see the package `lvs-guest`.

use std::{error::Error, net::SocketAddr};

use clap::Parser;
use examples::{Options, WebServer, command, fetch, heading};
use lvs::{RealServer, Table, VirtualService, client::Client};
use netns_link::Address;
use testbed::DockerHost;

/// The documented NAT walkthrough of kube-proxy's IPVS mode, against a real kernel.
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

    heading("A docker host, two pods with a web server, and a client container");
    let host = DockerHost::new(family).await?;
    let pods = [host.container("pod1", 3).await?, host.container("pod2", 4).await?];
    let container = host.container("client", 5).await?;
    let mut servers = Vec::new();
    for pod in &pods {
        println!("{} at {}", pod.name(), SocketAddr::new(pod.address(), 80));
        servers.push(WebServer::start(pod, options.nginx).await?);
    }
    println!("{} at {}", container.name(), container.address());

    heading("Docker's settings, which the walkthrough's text leaves out");
    // The host forwards packets between its links.
    command(host.forward_command());
    host.forward()?;
    // The bridge switches the pods' replies to the container. They must pass IPVS, which undoes the
    // address translation, so the bridge hands them to the host's netfilter.
    command(host.filter_bridge_command());
    host.filter_bridge()?;

    heading("The virtual address, on a dummy link");
    command("ip link add dummy0 type dummy");
    let dummy = host.links().create_dummy("dummy0").await?.link;
    command(format_args!("ip addr add {} dev dummy0", address.ip()));
    host.links().add_address(&dummy, Address::host(address.ip()).nodad()).await?;
    if options.ipv6 {
        // An IPv4 address works on a link that is down, an IPv6 address does not.
        command("ip link set dummy0 up");
        host.links().up(&dummy).await?;
    }

    heading("The virtual service and its real servers");
    let ipvs = Client::connect_in(host.namespace())?;
    let service = VirtualService::tcp(address)
        .scheduler(&options.scheduler)
        .real_servers(
            options
                .weighted(&pods)
                .map(|(pod, weight)| RealServer::nat((pod.address(), 80).into()).weight(weight)),
        )
        .build()?;
    for change in service.apply(&ipvs).await? {
        command(change.command_line());
    }
    command("ipvsadm -L -n");
    print!("{}", Table::read(&ipvs).await?);

    heading("The page, fetched from the container");
    for &client in &options.client {
        fetch(client, container.namespace(), address, options.times, &pods).await?;
    }

    heading("The page, fetched from the host");
    for &client in &options.client {
        fetch(client, host.namespace(), address, options.times, &pods).await?;
    }

    heading("The connection counters");
    command("ipvsadm -L -n");
    print!("{}", Table::read(&ipvs).await?);

    heading("Clean up");
    command(format_args!("ipvsadm -D {}", service.key()));
    service.delete(&ipvs).await?;
    command("ip link del dummy0");
    host.links().delete_dummy("dummy0").await?;
    Ok(())
}
