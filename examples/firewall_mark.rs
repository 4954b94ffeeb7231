//! Two ports in one service: packets get a mark as they come in, and IPVS matches the mark.
//!
//! Ports 80 and 443 of the virtual address are one service. With persistence, a client gets both from
//! the same pod, as needed by a shop that keeps its sessions in memory.
//!
//! ```sh
//! cargo run --example firewall_mark
//! ```
//!
//! It needs neither root nor IPVS in the kernel: see the package `lvs-guest`. It needs tc, from the package
//! iproute2. tc sets marks on every kernel, iptables only on kernels that have its tables.

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

    heading("The mark");
    let (vip, mark) = (scene.vip, arguments.mark);
    let mut lines = vec!["tc qdisc add dev docker0 clsact".to_owned()];
    lines.extend(ports.map(|port| {
        format!(
            "tc filter add dev docker0 ingress protocol ip flower dst_ip {vip} ip_proto tcp dst_port \
             {port} action skbedit mark {mark}"
        )
    }));
    for line in lines {
        command(&line);
        testbed::run(scene.host.namespace(), "iproute2", &line.split(' ').collect::<Vec<_>>())?;
    }
    println!("On kernels that have its tables, iptables does the same:");
    println!(
        "    iptables -t mangle -A PREROUTING -d {vip} -p tcp -m multiport --dports 80,443 -j MARK \
         --set-mark {mark}"
    );

    heading("The service of the mark");
    let service = VirtualService::firewall_mark(mark)
        .scheduler("rr")
        .persistent()
        // Port 0: the port to which the client connected.
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
