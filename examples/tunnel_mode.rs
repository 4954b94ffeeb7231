//! Real servers behind a tunnel: they may be in any network, and answer their clients themselves.
//!
//! IPVS packs each of the client's packets into another one (IP in IP) and sends it to the pod,
//! which unpacks it. So the pod gets the packet as the client sent it, to the virtual address; therefore
//! the pod must have this address, too.
//!
//! ```sh
//! cargo run --example tunnel_mode
//! ```
//!
//! It needs neither root nor IPVS in the kernel: see the package `lvs-guest`.

use std::error::Error;

use clap::Parser;
use examples::{Options, WebServer, command, fetch, heading};
use lvs::{Encapsulation, RealServer, Table, VirtualService, client::Client};
use netns_link::{prepare_director, prepare_real_server};
use testbed::DockerHost;

/// Two pods behind a virtual service, by tunnels.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Use generic UDP encapsulation instead of IP in IP (needs the package iproute2)
    #[arg(long)]
    gue: bool,
}

/// The UDP port on which the pods receive encapsulated packets.
const GUE_PORT: u16 = 6080;

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { options, gue } = examples::start();
    run(&options, gue)
}

#[tokio::main(flavor = "current_thread")]
async fn run(options: &Options, gue: bool) -> Result<(), Box<dyn Error>> {
    options.check().await?;
    examples::legend();
    let (family, address) = options.addresses();
    let host = DockerHost::new(family).await?;
    let pods = [host.container("pod1", 3).await?, host.container("pod2", 4).await?];
    let container = host.container("client", 5).await?;
    let vips = [address.ip()];
    prepare_director(host.namespace(), "dummy0", &vips)?;

    heading("The tunnel's end in each pod, and the virtual address");
    let mut servers = Vec::new();
    for pod in &pods {
        servers.push(WebServer::start(pod, options.nginx).await?);
        command(format_args!("ip netns exec {} sh -c '{}'", pod.name(), pod.tunnel_command()));
        pod.open_tunnel().await?;
        if gue {
            // The kernel removes the UDP header before the tunnel's end gets the packet.
            let line = pod.gue_command(GUE_PORT);
            command(format_args!("ip netns exec {} sh -c '{line}'", pod.name()));
            pod.open_gue(GUE_PORT)?;
        }
        // As for direct routing: see the example dr_mode. It ends with the pod.
        let _ = prepare_real_server(pod.namespace(), "dummy1", &vips)?;
    }

    heading("The virtual service and its real servers");
    let ipvs = Client::connect_in(host.namespace())?;
    let service = VirtualService::tcp(address)
        .scheduler(&options.scheduler)
        .real_servers(options.weighted(&pods).map(|(pod, weight)| {
            let real_server = RealServer::tunnel(pod.address()).weight(weight);
            if gue { real_server.encapsulation(Encapsulation::gue(GUE_PORT)) } else { real_server }
        }))
        .build()?;
    for change in service.apply(&ipvs).await? {
        command(change.command_line());
    }

    heading("The page, fetched from the container");
    for &client in &options.client {
        fetch(client, container.namespace(), address, options.times, &pods).await?;
    }
    println!("(From the host it does not work, for the same reason as in direct routing.)");

    command("ipvsadm -L -n");
    print!("{}", Table::read(&ipvs).await?);
    Ok(())
}
