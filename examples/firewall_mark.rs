//! Two ports in one service: the firewall marks the packets, and IPVS goes by the mark.
//!
//! Ports 80 and 443 of the virtual address are one service. With persistence, a client gets both from
//! the same pod, as a shop that keeps its sessions in memory wants it.
//!
//! ```sh
//! cargo run --example firewall_mark
//! ```
//!
//! It needs neither root nor IPVS in the kernel: see the package `guest`. It needs the package
//! iptables, and a kernel with its tables, which User-Mode Linux 7.2 does not have.

use std::{error::Error, net::SocketAddr};

use clap::Parser;
use examples::{Conversation, Scene, command, heading};
use lvs::{RealServer, Table, VirtualService};

/// Two ports in one service, by a firewall mark.
#[derive(Parser)]
struct Arguments {
    /// The mark
    #[arg(long, default_value_t = 7)]
    mark: u32,
}

fn main() -> Result<(), Box<dyn Error>> {
    run(&examples::start())
}

#[tokio::main(flavor = "current_thread")]
async fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let scene = Scene::new(3).await?;
    let ports = [80, 443];
    let mut servers = Vec::new();
    for pod in &scene.pods {
        for port in ports {
            servers.push(pod.serve_tcp(port)?);
        }
    }

    heading("The firewall's rule");
    let (vip, mark) = (scene.vip, arguments.mark);
    let rule = format!(
        "-t mangle -A PREROUTING -d {vip} -p tcp -m multiport --dports 80,443 -j MARK --set-mark \
         {mark}"
    );
    command(format_args!("iptables {rule}"));
    testbed::iptables(scene.host.namespace(), &rule)?;

    heading("The service of the mark");
    let service = VirtualService::firewall_mark(mark)
        .scheduler("rr")
        .persistent()
        // Port 0: the one to which the client connected.
        .real_servers(scene.pods.iter().map(|pod| RealServer::nat((pod.address(), 0).into())))
        .build()?;
    for change in service.apply(&scene.ipvs).await? {
        command(change.command_line());
    }

    heading("Six clients, each on both ports");
    for number in 1..=6 {
        let client = [172, 17, 1, number].into();
        scene.add_client_address(client).await?;
        let mut answers = Vec::new();
        for port in ports {
            let address = SocketAddr::new(vip, port);
            let mut connection =
                Conversation::open(scene.client.namespace(), client, address).await?;
            answers.push(connection.pod().await?);
        }
        println!("{client}: port 80 {}, port 443 {}", answers[0], answers[1]);
        if answers[0] != answers[1] {
            return Err(format!("{client} has two pods").into());
        }
    }
    command("ipvsadm -L -n");
    print!("{}", Table::read(&scene.ipvs).await?);
    Ok(())
}
