//! New pods replace old ones under traffic, and no request fails.
//!
//! Each old pod is drained: it gets no new connections, keeps its old ones, and is deleted
//! when they have ended or its time is over.
//!
//! ```sh
//! cargo run --example roll_out
//! ```
//!
//! It needs neither root nor IPVS in the kernel: see the package `lvs-guest`.

use std::{
    cell::Cell,
    collections::BTreeMap,
    error::Error,
    net::SocketAddr,
    time::{Duration, Instant},
};

use clap::Parser;
use examples::{Conversation, Scene, heading};
use futures_util::future::join_all;
use lvs::{Desired, Drain, Policy, RealServer, Reconciler, Table, VirtualService};
use testbed::Container;

/// Replaces the pods of a service under traffic.
#[derive(Parser)]
struct Arguments {
    /// How many clients send requests at the same time
    #[arg(long, default_value_t = 4)]
    clients: usize,
    /// How many pods are replaced, one after the other
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    pods: u8,
}

fn main() -> Result<(), Box<dyn Error>> {
    roll_out(&examples::start())
}

#[tokio::main(flavor = "current_thread")]
async fn roll_out(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let scene = Scene::new(2 * arguments.pods).await?;
    let mut servers = Vec::new();
    for pod in &scene.pods {
        servers.push(pod.serve_tcp(7)?);
    }
    let address = SocketAddr::new(scene.vip, 7);
    let desired = |pods: &[Container]| -> Result<Desired, Box<dyn Error>> {
        let pods = pods.iter().map(|pod| RealServer::nat((pod.address(), 7).into()));
        let service = VirtualService::tcp(address).scheduler("rr").real_servers(pods);
        Ok(service.build()?.into())
    };
    // The connections here end at once, but the kernel counts them as inactive for two more minutes.
    let drain = Drain::for_at_most(Duration::from_secs(1)).look_every(Duration::from_millis(100));
    let mut reconciler = Reconciler::new(Policy::new().drain(drain));
    let pods = usize::from(arguments.pods);

    heading("The old pods");
    reconciler.set(desired(&scene.pods[..pods])?);
    settle(&mut reconciler, &scene).await?;

    heading("New pods replace them, one by one, under traffic");
    let over = Cell::new(false);
    let (client, from) = (scene.client.namespace(), scene.client.address());
    let ask = async || -> Result<BTreeMap<String, usize>, Box<dyn Error>> {
        let mut answers = BTreeMap::new();
        while !over.get() {
            let mut conversation = Conversation::open(client, from, address).await?;
            *answers.entry(conversation.pod().await?).or_default() += 1;
        }
        Ok(answers)
    };
    let clients = async {
        let mut answers: BTreeMap<String, usize> = BTreeMap::new();
        // That many requests at a time, each on its own connection.
        for asked in join_all((0..arguments.clients).map(|_| ask())).await {
            for (pod, count) in asked? {
                *answers.entry(pod).or_default() += count;
            }
        }
        Ok::<_, Box<dyn Error>>(answers)
    };
    let roll = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut outcome = Ok(());
        for number in 1..=pods {
            outcome = async {
                reconciler.set(desired(&scene.pods[number..number + pods])?);
                settle(&mut reconciler, &scene).await
            }
            .await;
            if outcome.is_err() {
                break;
            }
        }
        over.set(true);
        outcome
    };
    let (answers, rolled) = tokio::join!(clients, roll);
    rolled?;
    let answers = answers?;
    print!("{}", Table::read(&scene.ipvs).await?);

    heading("Requests by pod");
    for (pod, count) in &answers {
        println!("{pod}: {count} requests");
    }
    let status = reconciler.status();
    println!("{} requests, none failed", answers.values().sum::<usize>());
    println!("{} rounds, {} changes, {} failures", status.rounds, status.changes, status.failures);
    match answers.len() == 2 * pods {
        true => Ok(()),
        false => Err("not every pod got a request".into()),
    }
}

/// Runs the rounds that are due until nothing is being drained.
async fn settle(reconciler: &mut Reconciler, scene: &Scene) -> Result<(), Box<dyn Error>> {
    loop {
        if let Some(round) = reconciler.round(&scene.ipvs, Instant::now()).await {
            for change in round.result? {
                println!("{change}");
            }
            if reconciler.draining().iter().len() == 0 {
                return Ok(());
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
