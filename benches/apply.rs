//! Large desired states applied to a kernel that has IPVS, beside bare batches of the same requests.
//! README.md shows the tables that it prints.
//!
//! ```sh
//! cargo bench -p benches --bench apply                             # in the User-Mode Linux guest
//! LVS_GUEST_KERNEL=qemu-6.1 cargo bench -p benches --bench apply   # in QEMU
//! ```
//!
//! `-- --test` runs everything once on small tables.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark may end where it fails")]

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use ipvs_client::{Client, packet::Request};
use lvs::{Desired, Plan, Policy, RealServer, Reconciler, Scope, VirtualService, client::Snapshot};
use netns_link::{Links, NetNs};

fn main() {
    println!("On {}.\n", guest::enter_or_exit());
    let test = std::env::args().any(|argument| argument == "--test");
    let (sizes, runs): (&[(u32, u32)], _) = match test {
        true => (&[(20, 1), (20, 5)], 1),
        false => (&[(1_000, 1), (3_000, 1), (10_000, 1), (45_000, 1), (10_000, 5)], 3),
    };
    println!(
        "| services x real servers | bare batch | through `Desired::apply` | an unchanged resync \
         (reading + planning; writes) | a change of one service |"
    );
    println!("|---|---|---|---|---|");
    for &(services, real_servers) in sizes {
        block_on(measure(services, real_servers, runs));
    }
}

async fn measure(services: u32, real_servers: u32, runs: usize) {
    let policy = Policy::new().scope(Scope::All);
    let desired = desired(services, real_servers);
    let plan = Plan::new(&desired, &Snapshot::new(), &policy);
    let requests: Vec<Request> = plan.requests().collect();
    let writes = plan.len();
    drop(plan);
    let [mut bare, mut ours] = [Duration::MAX; 2];
    for _ in 0..runs {
        let client = client().await;
        let start = Instant::now();
        client.batch(&requests).await.into_result().unwrap();
        bare = bare.min(start.elapsed());
        client.flush().await.unwrap();

        let client = self::client().await;
        let start = Instant::now();
        let applied = desired.apply(&client, &policy).await.unwrap();
        ours = ours.min(start.elapsed());
        assert_eq!(applied.len(), writes);
        client.flush().await.unwrap();
    }

    let client = client().await;
    client.batch(&requests).await.into_result().unwrap();
    let mut reconciler = Reconciler::new(policy).resync_every(Duration::from_secs(3600));
    reconciler.set(desired.clone());
    let [mut reading, mut planning, mut event] = [Duration::MAX; 3];
    for run in 0..=runs {
        reconciler.resync();
        let round = reconciler.round(&client, Instant::now()).await.unwrap();
        assert!(round.services().is_none() && round.result.unwrap().is_empty());
        reading = reading.min(round.reading);
        planning = planning.min(round.planning);

        let service = desired.iter().next().unwrap();
        let scheduler = if run % 2 == 0 { "wrr" } else { "rr" };
        let changed = service.to_builder().scheduler(scheduler).build().unwrap();
        let start = Instant::now();
        reconciler.insert(changed);
        let round = reconciler.round(&client, Instant::now()).await.unwrap();
        event = event.min(start.elapsed());
        assert_eq!(round.services().map(std::collections::BTreeSet::len), Some(1));
        assert_eq!(round.result.unwrap().len(), 1);
    }
    client.flush().await.unwrap();
    let per_second = |time: Duration| writes as f64 / time.as_secs_f64();
    println!(
        "| {services} x {real_servers} | {:.1} ms, {:.0}/s | {:.1} ms, {:.0}/s ({:.2}x) | {:.1} ms + \
         {:.2} ms; 0 | {:.2} ms |",
        bare.as_secs_f64() * 1e3,
        per_second(bare),
        ours.as_secs_f64() * 1e3,
        per_second(ours),
        ours.as_secs_f64() / bare.as_secs_f64(),
        reading.as_secs_f64() * 1e3,
        planning.as_secs_f64() * 1e3,
        event.as_secs_f64() * 1e3,
    );
}

/// A client in a namespace of its own, whose schedulers are loaded.
async fn client() -> Client {
    let namespace = NetNs::new().unwrap();
    let links = Links::connect(&namespace).unwrap();
    links.up(&links.find("lo").await.unwrap().unwrap()).await.unwrap();
    let client = Client::connect_in(&namespace).unwrap();
    for scheduler in ["rr", "wrr"] {
        let service = VirtualService::firewall_mark(1).scheduler(scheduler).build().unwrap();
        service.apply(&client).await.unwrap();
    }
    client.flush().await.unwrap();
    client
}

fn desired(services: u32, real_servers: u32) -> Desired {
    let mut desired = Desired::new();
    for number in 0..services {
        let real_servers = (0..real_servers).map(|real_server| {
            let address = 0xac10_0001 + (number * real_servers + real_server) % 0xf_0000;
            RealServer::nat((IpAddr::from(address.to_be_bytes()), 8080).into())
        });
        let address = IpAddr::from((0x0a60_0001 + number).to_be_bytes());
        let service =
            VirtualService::tcp((address, 80).into()).scheduler("rr").real_servers(real_servers);
        desired.insert(service.build().unwrap());
    }
    desired
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
