//! A client keeps its real server, and a netmask makes a whole network count as one client.
//!
//! ```sh
//! cargo run --example persistence
//! ```
//!
//! It needs neither root nor IPVS in the kernel: see the package `lvs-guest`.

use std::{
    collections::BTreeSet,
    error::Error,
    net::{IpAddr, SocketAddr},
};

use clap::Parser;
use examples::{Conversation, Scene, command, heading};
use lvs::{RealServer, VirtualService, VirtualServiceBuilder};

/// The same clients without persistence, with persistence, and with a netmask.
#[derive(Parser)]
struct Arguments {
    /// How many times each client connects
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
}

fn main() -> Result<(), Box<dyn Error>> {
    run(&examples::start())
}

#[tokio::main(flavor = "current_thread")]
async fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let scene = Scene::new(3).await?;
    let _servers = scene.pods.iter().map(|pod| pod.serve_tcp(80)).collect::<Result<Vec<_>, _>>()?;
    // Two networks with two clients each.
    let clients = [[172, 17, 1, 1], [172, 17, 1, 2], [172, 17, 2, 1], [172, 17, 2, 2]];
    for client in clients {
        scene.add_client_address(client.into()).await?;
    }

    let address = SocketAddr::new(scene.vip, 80);
    let service = || {
        let real_servers = scene.pods.iter().map(|pod| RealServer::nat((pod.address(), 80).into()));
        VirtualService::tcp(address).scheduler("rr").real_servers(real_servers)
    };
    let pods_of = async |title: &str, service: VirtualServiceBuilder| {
        heading(title);
        let service = service.build()?;
        for change in service.apply(&scene.ipvs).await? {
            command(change.command_line());
        }
        let mut pods = Vec::new();
        for client in clients.map(IpAddr::from) {
            let mut answers = Vec::new();
            for _ in 0..arguments.times {
                let from = scene.client.namespace();
                answers.push(Conversation::open(from, client, address).await?.pod().await?);
            }
            println!("{client}: {}", answers.join(" "));
            pods.push(BTreeSet::from_iter(answers));
        }
        // The next service starts without this one's connections and templates.
        command(format_args!("ipvsadm -D {}", service.key()));
        service.delete(&scene.ipvs).await?;
        Ok::<_, Box<dyn Error>>(pods)
    };

    pods_of("Without persistence, every connection goes to the next pod", service()).await?;
    let pods = pods_of("With it, every client keeps its pod", service().persistent()).await?;
    if pods.iter().any(|pods| pods.len() > 1) {
        return Err("a client has several pods".into());
    }
    let masked = service().persistent().netmask(24);
    let pods =
        pods_of("With a netmask, every network of 256 addresses keeps its pod", masked).await?;
    if pods[0] != pods[1] || pods[2] != pods[3] || pods[0] == pods[2] {
        return Err(
            "clients of one network have different pods, or both networks have the same".into()
        );
    }
    Ok(())
}
