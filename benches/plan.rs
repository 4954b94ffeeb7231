//! Plans for large tables, without a kernel. README.md shows the table that it prints.
//!
//! ```sh
//! cargo bench -p benches --bench plan
//! ```
//!
//! `-- --test` runs everything once on small tables.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark may end where it fails")]

use std::{
    collections::BTreeSet,
    hint::black_box,
    net::IpAddr,
    time::{Duration, Instant},
};

use benches::Counting;
use lvs::{Desired, Plan, Policy, RealServer, Scope, VirtualService, client::Snapshot};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const REAL_SERVERS: u32 = 5;

fn main() {
    let test = std::env::args().any(|argument| argument == "--test");
    let (sizes, runs): (&[u32], _) =
        if test { (&[20, 100], 1) } else { (&[1_000, 3_000, 10_000, 45_000], 100) };
    println!(
        "| services x 5 | unchanged | ns per entry | ns per entry, in the CPU's caches | 1 % changed | \
         one service of them | memory of what is desired, per real server |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut ballast = vec![0_u8; if test { 1 << 10 } else { 1 << 27 }];
    for &services in sizes {
        let before = Counting::start();
        let desired = desired(services, |_| 1);
        let memory = (Counting::live() - before) / (services * REAL_SERVERS) as usize;
        let table = Snapshot::from(&desired);
        let some = self::desired(services, |number| if number % 100 == 0 { 2 } else { 1 });
        let one = BTreeSet::from([*desired.keys().next().unwrap()]);
        let policy = Policy::new().scope(Scope::All);
        let [mut unchanged, mut cached, mut changed, mut single] = [Duration::MAX; 4];
        for _ in 0..runs {
            evict(&mut ballast);
            unchanged = unchanged.min(time(|| Plan::new(&desired, &table, &policy)));
            cached = cached.min(time(|| Plan::new(&desired, &table, &policy)));
            evict(&mut ballast);
            changed = changed.min(time(|| Plan::new(&some, &table, &policy)));
            evict(&mut ballast);
            single = single.min(time(|| Plan::of_services(&one, &desired, &table, &policy)));
        }
        let entries = f64::from(services * (REAL_SERVERS + 1));
        println!(
            "| {services} | {:.2} ms | {:.1} | {:.1} | {:.2} ms ({:.2}x) | {:.1} us | {memory} bytes |",
            unchanged.as_secs_f64() * 1e3,
            unchanged.as_secs_f64() * 1e9 / entries,
            cached.as_secs_f64() * 1e9 / entries,
            changed.as_secs_f64() * 1e3,
            changed.as_secs_f64() / unchanged.as_secs_f64(),
            single.as_secs_f64() * 1e6,
        );
    }
}

/// Empties the CPU's caches, as other work between two resyncs does.
fn evict(ballast: &mut [u8]) {
    for byte in ballast.iter_mut().step_by(64) {
        *byte = byte.wrapping_add(1);
    }
    black_box(ballast);
}

fn time(plan: impl FnOnce() -> Plan) -> Duration {
    let start = Instant::now();
    let plan = black_box(plan());
    let time = start.elapsed();
    drop(plan);
    time
}

fn desired(services: u32, weight: impl Fn(u32) -> u32) -> Desired {
    let mut desired = Desired::new();
    for number in 0..services {
        let real_servers = (0..REAL_SERVERS).map(|real_server| {
            let address =
                IpAddr::from((0xac10_0000 + number * REAL_SERVERS + real_server).to_be_bytes());
            RealServer::nat((address, 8080).into())
                .weight(weight(number * REAL_SERVERS + real_server))
        });
        let address = IpAddr::from((0x0a60_0001 + number).to_be_bytes());
        let service = VirtualService::tcp((address, 80).into()).real_servers(real_servers);
        desired.insert(service.build().unwrap());
    }
    desired
}
