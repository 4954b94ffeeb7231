//! Which pods get the connections: each of the kernel's schedulers with the same clients and pods.
//!
//! 60 clients connect three times each and hold their connections. The pods' weights are 120, 80 and
//! 40. One character of a bar is three connections.
//!
//! ```sh
//! cargo run --example schedulers
//! ```
//!
//! It needs neither root nor IPVS in the kernel: see the package `lvs-guest`.

use std::{
    collections::BTreeMap,
    error::Error,
    net::{IpAddr, SocketAddr},
};

use clap::Parser;
use examples::{Conversation, Scene, heading};
use lvs::{RealServer, VirtualService};

const WEIGHTS: [u32; 3] = [120, 80, 40];
const CLIENTS: u8 = 60;
const ROUNDS: usize = 3;

/// The result of a scheduler's rule for these connections, which are made one after the other.
enum Expected {
    /// This number of connections for each pod.
    Counts([usize; 3]),
    /// Each client stays with one pod.
    Sticky,
    /// All connections are to one virtual address, so to one pod.
    OnePod,
}

use Expected::{Counts, OnePod, Sticky};

/// Equal shares, and 3 : 2 : 1. Schedulers that choose the least loaded pod reach them exactly
/// whenever the number of connections is a multiple of the weights' sum, 6: a pod that already has its
/// share is never the least loaded while another has not.
const EQUAL: Expected = Counts([60, 60, 60]);
const BY_WEIGHT: Expected = Counts([90, 60, 30]);

const SCHEDULERS: [(&str, &str, Expected); 11] = [
    ("rr", "in turn", EQUAL),
    ("wrr", "in turn, by weight", BY_WEIGHT),
    ("lc", "fewest connections", EQUAL),
    ("wlc", "fewest connections for its weight", BY_WEIGHT),
    ("sed", "shortest expected delay", BY_WEIGHT),
    ("nq", "an idle pod, else as sed", BY_WEIGHT),
    ("fo", "the heaviest, until it fails", Counts([180, 0, 0])),
    // The kernel uses the next pod when a pod has more connections than its weight.
    ("ovf", "the heaviest, until it is full", Counts([121, 59, 0])),
    ("sh", "by the client's address", Sticky),
    ("mh", "by the client's address, Maglev", Sticky),
    ("dh", "by the virtual address", OnePod),
];

/// Shows how each of the kernel's schedulers distributes connections.
#[derive(Parser)]
struct Arguments {
    /// Only these schedulers
    #[arg(long, value_delimiter = ',', value_parser = SCHEDULERS.map(|(name, ..)| name))]
    scheduler: Vec<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    run(&examples::start())
}

#[tokio::main(flavor = "current_thread")]
async fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let scene = Scene::new(3).await?;
    let _servers = scene.pods.iter().map(|pod| pod.serve_tcp(80)).collect::<Result<Vec<_>, _>>()?;
    let clients: Vec<IpAddr> = (1..=CLIENTS).map(|number| [172, 17, 1, number].into()).collect();
    for client in &clients {
        scene.add_client_address(*client).await?;
    }

    heading("Connections of pod1 █ (weight 120), pod2 ▒ (80) and pod3 ░ (40)");
    // A new port for each: a real server that is added again at the same address and port within two
    // minutes still counts its old connections.
    for (port, (scheduler, rule, expected)) in (8000..).zip(&SCHEDULERS) {
        if !arguments.scheduler.is_empty() && !arguments.scheduler.iter().any(|s| s == scheduler) {
            continue;
        }
        let address = SocketAddr::new(scene.vip, port);
        let real_servers = scene.pods.iter().zip(WEIGHTS);
        let service = VirtualService::tcp(address)
            .scheduler(scheduler)
            .real_servers(real_servers.map(|(pod, weight)| {
                RealServer::nat(SocketAddr::new(pod.address(), 80)).weight(weight)
            }))
            .build()?;
        service.apply(&scene.ipvs).await?;

        let mut held = Vec::new();
        let mut counts = [0_usize; WEIGHTS.len()];
        let mut pod_of = BTreeMap::new();
        let mut sticky = true;
        for _ in 0..ROUNDS {
            for &client in &clients {
                let from = scene.client.namespace();
                let mut connection = Conversation::open(from, client, address).await?;
                let name = connection.pod().await?;
                held.push(connection);
                let pod = scene.pods.iter().position(|pod| pod.name() == name);
                let pod = pod.ok_or_else(|| format!("no pod {name}"))?;
                counts[pod] += 1;
                sticky &= *pod_of.entry(client).or_insert(pod) == pod;
            }
        }
        let bar: String = counts
            .iter()
            .zip(["█", "▒", "░"])
            .map(|(n, mark)| mark.repeat(n.div_ceil(3)))
            .collect();
        let [first, second, third] = counts;
        println!("{scheduler:<4}{first:>4}{second:>4}{third:>4}  {bar:<61}  {rule}");
        let as_expected = match expected {
            Counts(expected) => counts == *expected,
            Sticky => sticky && counts.iter().all(|count| *count > 0),
            OnePod => counts.contains(&held.len()),
        };
        if !as_expected {
            return Err(format!("the result does not follow the rule of {scheduler}").into());
        }
        // While the service still exists, so that the pods learn of the end.
        drop(held);
        service.delete(&scene.ipvs).await?;
    }
    Ok(())
}
