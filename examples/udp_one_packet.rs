//! Each datagram scheduled on its own, as DNS servers need behind resolvers that always ask from
//! the same port.
//!
//! Otherwise IPVS takes all datagrams from one port for one connection, which stays with one pod until
//! it has been silent for five minutes.
//!
//! ```sh
//! cargo run --example udp_one_packet
//! ```
//!
//! It needs neither root nor IPVS in the kernel: see the package `lvs-guest`.

use std::{collections::BTreeMap, error::Error, net::SocketAddr, time::Duration};

use clap::Parser;
use examples::{Scene, command, heading};
use lvs::{RealServer, VirtualService};
use netns_link::prepare_real_server;
use tokio::{net::UdpSocket, time::timeout};

/// Datagrams from one port to two pods, with and without one-packet scheduling.
#[derive(Parser)]
struct Arguments {
    /// How many datagrams the client sends
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..))]
    datagrams: u32,
}

fn main() -> Result<(), Box<dyn Error>> {
    run(&examples::start())
}

#[tokio::main(flavor = "current_thread")]
async fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let scene = Scene::new(2).await?;
    let address = SocketAddr::new(scene.vip, 53);
    // With direct routing: IPVS keeps no connection that would let it translate an answer's address.
    let mut servers = Vec::new();
    for pod in &scene.pods {
        // It ends with the pod.
        let _ = prepare_real_server(pod.namespace(), "dummy1", &[scene.vip])?;
        servers.push(pod.serve_udp(address)?);
    }
    let service = || {
        let real_servers = scene.pods.iter().map(|pod| RealServer::direct(pod.address()));
        VirtualService::udp(address).scheduler("rr").real_servers(real_servers)
    };

    for (title, service, expected) in [
        ("One port is one connection", service(), 1),
        ("Each datagram on its own", service().one_packet(), scene.pods.len()),
    ] {
        heading(title);
        let service = service.build()?;
        for change in service.apply(&scene.ipvs).await? {
            command(change.command_line());
        }
        let socket = scene.client.namespace().run(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
            socket.set_nonblocking(true)?;
            Ok::<_, std::io::Error>(socket)
        })??;
        let socket = UdpSocket::from_std(socket)?;
        socket.connect(address).await?;
        let mut answers: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..arguments.datagrams {
            socket.send(b"hello").await?;
            let mut answer = [0; 64];
            let length = timeout(Duration::from_secs(10), socket.recv(&mut answer)).await??;
            *answers.entry(String::from_utf8(answer[..length].to_vec())?).or_default() += 1;
        }
        println!("from {}:", socket.local_addr()?);
        for (answer, count) in &answers {
            println!("  {answer:?} {count} times");
        }
        if answers.len() != expected {
            return Err(format!("{} pods answered instead of {expected}", answers.len()).into());
        }
        command(format_args!("ipvsadm -D {}", service.key()));
        service.delete(&scene.ipvs).await?;
    }
    Ok(())
}
