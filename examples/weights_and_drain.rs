//! Shares by weight, and a pod taken out of service without breaking a connection.
//!
//! With weight 0 a pod gets no new connections, and its old ones continue. When the last of them has
//! ended, the pod is deleted.
//!
//! A persistent service differs: a client of the pod keeps coming to it, even with weight
//! 0, as long as the kernel remembers the client, so the pod may never be empty. For such a service, first set
//! `net.ipv4.vs.expire_quiescent_template` to 1 (`Sysctl::EXPIRE_QUIESCENT_TEMPLATE`); each client's
//! next connection then goes to another pod. A client that keeps sending UDP from one port does not leave
//! either. `lvs::Drain` sets the weight, waits, and has a limit for such clients: see the example roll_out.
//!
//! ```sh
//! cargo run --example weights_and_drain
//! ```
//!
//! It needs neither root nor IPVS in the kernel: see the package `lvs-guest`.

use std::{
    collections::BTreeMap,
    error::Error,
    net::SocketAddr,
    time::{Duration, Instant},
};

use clap::Parser;
use examples::{Conversation, Scene, command, heading};
use lvs::{RealServer, Table, VirtualService, client::packet::DestinationKey};
use testbed::Container;

/// Two pods with weights; one of them is drained under traffic.
#[derive(Parser)]
struct Arguments {
    /// The weights of the two pods
    #[arg(long, value_delimiter = ',', default_value = "3,1", num_args = 2)]
    weight: Vec<u32>,
    /// How many connections to make at a time
    #[arg(long, default_value_t = 12)]
    connections: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    run(&examples::start())
}

#[tokio::main(flavor = "current_thread")]
async fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let scene = Scene::new(2).await?;
    let [first, second] = &scene.pods[..] else { return Err("expected two pods".into()) };
    let _servers = [first.serve_tcp(80)?, second.serve_tcp(80)?];
    let address = SocketAddr::new(scene.vip, 80);
    let apply = async |pods: &[(&Container, u32)]| {
        let service = VirtualService::tcp(address)
            .scheduler("wrr")
            .real_servers(pods.iter().map(|(pod, weight)| {
                RealServer::nat(SocketAddr::new(pod.address(), 80)).weight(*weight)
            }))
            .build()?;
        for change in service.apply(&scene.ipvs).await? {
            command(change.command_line());
        }
        Ok::<_, Box<dyn Error>>(service)
    };
    let connect = async || {
        let mut connections = Vec::new();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..arguments.connections {
            let (client, from) = (scene.client.namespace(), scene.client.address());
            let mut connection = Conversation::open(client, from, address).await?;
            *counts.entry(connection.pod().await?).or_default() += 1;
            connections.push(connection);
        }
        println!("{} connections: {counts:?}", arguments.connections);
        Ok::<_, Box<dyn Error>>((connections, counts))
    };

    heading("Shares by weight");
    let weights = &arguments.weight;
    apply(&[(first, weights[0]), (second, weights[1])]).await?;
    let (mut open, _) = connect().await?;

    heading("pod1 is drained: no new connections");
    let service = apply(&[(first, 0), (second, weights[1])]).await?;
    let (_, counts) = connect().await?;
    if counts.contains_key(first.name()) {
        return Err("a drained pod got a new connection".into());
    }
    let mut alive = 0;
    for connection in &mut open {
        alive += usize::from(connection.pod().await? == first.name());
    }
    println!("{alive} connections to pod1 continue");
    command("ipvsadm -L -n");
    print!("{}", Table::read(&scene.ipvs).await?);

    heading("Its clients end, half of them at a time");
    let key = DestinationKey { address: first.address(), port: 80 };
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        open.truncate(open.len() / 2);
        let entries = scene.ipvs.destinations(service.key()).await?.all()?;
        let entry = entries.iter().find(|entry| entry.destination.key == key);
        let active = entry.ok_or("pod1 is gone")?.active_connections;
        println!("pod1 has {active} active connections");
        if active == 0 {
            break;
        }
        if Instant::now() > until {
            return Err("pod1 still has connections".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    heading("pod1 has no connections and is deleted");
    apply(&[(second, weights[1])]).await?;
    connect().await?;
    command("ipvsadm -L -n");
    print!("{}", Table::read(&scene.ipvs).await?);
    Ok(())
}
