//! Shows what happens in a load balancer: changes, traffic, connections and totals.
//!
//! There are two pods behind a virtual address, a client that fetches their page again and again, and an
//! administrator who drains one of the pods. The program watches the table.
//!
//! ```sh
//! cargo run --example watch
//! ```
//!
//! It needs neither root nor IPVS in the kernel: see the package `lvs-guest`.

use std::{collections::BTreeMap, error::Error, net::SocketAddr, time::Duration};

use clap::Parser;
use examples::heading;
use lvs::{RealServer, VirtualService, client::Client};
use netns_link::Address;
use testbed::{DockerHost, Family, http_get};

/// Watches a virtual service under traffic, while one of its real servers is drained.
#[derive(Parser)]
struct Arguments {
    /// Seconds between two reads of the table; the kernel updates its counters every two seconds
    #[arg(long, default_value_t = 2)]
    interval: u64,
    /// How many times to read the table
    #[arg(long, default_value_t = 5)]
    times: u32,
}

fn main() -> Result<(), Box<dyn Error>> {
    watch(&examples::start())
}

#[tokio::main(flavor = "current_thread")]
async fn watch(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let host = DockerHost::new(Family::Ipv4).await?;
    let pods = [host.container("pod1", 3).await?, host.container("pod2", 4).await?];
    let _servers = [pods[0].serve_http(80)?, pods[1].serve_http(80)?];
    let address: SocketAddr = "10.0.0.185:80".parse()?;
    let dummy = host.links().create_dummy("dummy0").await?.link;
    host.links().add_address(&dummy, Address::host(address.ip())).await?;
    let client = Client::connect_in(host.namespace())?;
    let service = |weights: [u32; 2]| {
        let real_servers = pods.iter().zip(weights);
        VirtualService::tcp(address)
            .scheduler("wrr")
            .real_servers(real_servers.map(|(pod, weight)| {
                RealServer::nat(SocketAddr::new(pod.address(), 80)).weight(weight)
            }))
            .build()
    };
    service([1, 1])?.apply(&client).await?;

    let traffic = async {
        loop {
            http_get(host.namespace(), address, Duration::from_secs(10)).await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let looks = async {
        let mut watch = client.watch(Duration::from_secs(arguments.interval));
        for look in 0..arguments.times {
            let differences = watch.next().await?;
            match look {
                0 => heading("The table at the start"),
                _ => heading(&format!("{:.1} s later", differences.elapsed.as_secs_f64())),
            }
            for change in &differences.changes {
                println!("{change}");
            }
            for activity in &differences.activity {
                let whose = match activity.destination {
                    Some(destination) => format!("  -> {destination}"),
                    None => activity.service.to_string(),
                };
                println!(
                    "{whose:<24} {:6.1} connections/s {:8.0} bytes/s in {:8.0} out",
                    activity.rates.connections,
                    activity.rates.incoming_bytes,
                    activity.rates.outgoing_bytes,
                );
            }
            if differences.activity.is_empty() && look > 0 {
                println!("(the kernel has not updated its counters since)");
            }
            if look == arguments.times / 2 {
                println!("(now pod1 is drained)");
                service([0, 1])?.apply(&client).await?;
            }
        }
        Ok::<(), Box<dyn Error>>(())
    };
    tokio::select! {
        result = traffic => result,
        result = looks => result,
    }?;

    heading("The connection table, by real server and state");
    let mut states: BTreeMap<_, usize> = BTreeMap::new();
    let mut connections = client.connections()?.stream()?;
    while let Some(connection) = connections.next().await {
        let connection = connection?;
        *states.entry((connection.destination, connection.state)).or_default() += 1;
    }
    for ((destination, state), count) in states {
        println!("{destination:<20} {state:<12} {count}");
    }
    heading("All services together");
    // Not `totals`, which may be two seconds old: these are the CPUs' counters now.
    println!("{} connections", client.cpu_totals()?.live().connections);
    Ok(())
}
