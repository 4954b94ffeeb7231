//! The client beside ipvsadm, nlrs and bare system calls, on a kernel that has IPVS: loading,
//! reading, re-weighting and deleting tables, and the latency of one request. README.md shows the
//! tables that it prints.
//!
//! ```sh
//! cargo bench -p benches --bench client                             # in the User-Mode Linux guest
//! LVS_GUEST_KERNEL=qemu-6.1 cargo bench -p benches --bench client   # in QEMU
//! ```
//!
//! `-- --test` runs everything once on a small table, `-- --calls` only what is done call by call.

#![allow(
    clippy::unwrap_used,
    clippy::type_complexity,
    missing_docs,
    reason = "a benchmark may end where it fails"
)]

use std::{
    fs::File,
    hint::black_box,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use benches::Counting;
use ipvs_client::{
    Client, blocking,
    packet::{
        CommandNumber, Destination, DestinationKey, Request, SchedulerName, Service, ServiceKey,
        Weight,
    },
    table::{self, Rules},
};
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NlasIterator};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};
use netns_link::{Links, NetNs};
use nlrs::{
    genetlink::socket::{GenericNetlinkSocket, GenericRequestBuilder},
    ipvs::{IpvsService, Protocol, destination, service},
    socket::NetlinkSocket,
};

/// How many requests the floor puts into one datagram.
const WRITES: usize = 128;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    println!("On {}.", guest::enter_or_exit());
    let given = |name: &str| std::env::args().any(|argument| argument == name);
    let test = given("--test");
    let (sizes, runs): (&[(u16, u16)], _) =
        if test { (&[(20, 5)], 1) } else { (&[(500, 10), (2_000, 10)], 3) };
    for &(services, destinations) in sizes.iter().filter(|_| !given("--calls")) {
        Table { services, destinations, runs }.compare();
    }
    latency(if test { 20 } else { 2_000 });
    concurrency(if test { 20 } else { 10_000 });
    let large = Table { services: if test { 20 } else { 2_000 }, destinations: 10, runs: 1 };
    waiting(large, if test { 3 } else { 200 });
    if !given("--calls") {
        memory(if test { 50 } else { 10_000 });
    }
}

/// A table to measure with.
#[derive(Clone, Copy)]
struct Table {
    services: u16,
    destinations: u16,
    runs: usize,
}

/// What is done to a table.
#[derive(Clone, Copy)]
enum Phase {
    Load,
    Read,
    /// Reading just after the last table but one was freed.
    Watch,
    Reweigh,
    Delete,
}

impl Table {
    fn compare(self) {
        let Self { services, destinations, .. } = self;
        println!("\n## {services} services x {destinations} destinations\n");
        println!(
            "| | bare system calls (the floor) | ours, async | ours, blocking | ipvsadm -R, -Ln | \
             ipvsadm -Sn | nlrs 0.2.3 |"
        );
        println!("|---|---|---|---|---|---|---|");
        for (name, phase) in [
            ("load", Phase::Load),
            ("read", Phase::Read),
            ("read, as a watch does", Phase::Watch),
            ("set every weight", Phase::Reweigh),
            ("delete", Phase::Delete),
        ] {
            // In turns, so that a machine that slows down slows all of them.
            let contenders: [fn(Self, Phase) -> Option<Duration>; 6] =
                [bare, ours, ours_blocking, ipvsadm, ipvsadm_save, nlrs];
            let mut best = contenders.map(|contender| (contender, None));
            for _ in 0..self.runs {
                for (contender, best) in &mut best {
                    *best = match (contender(self, phase), *best) {
                        (Some(new), Some(old)) => Some(new.min(old)),
                        (new, old) => new.or(old),
                    };
                }
            }
            let floor = best[0].1.unwrap();
            let cells: Vec<String> =
                best.iter().map(|(_, time)| self.cell(phase, *time, floor)).collect();
            println!("| {name} | {} |", cells.join(" | "));
        }
    }

    fn cell(self, phase: Phase, time: Option<Duration>, floor: Duration) -> String {
        let Some(time) = time else { return "-".to_owned() };
        let times = time.as_secs_f64() / floor.as_secs_f64();
        let milliseconds = time.as_secs_f64() * 1e3;
        match phase {
            Phase::Read | Phase::Watch => format!("{milliseconds:.1} ms ({times:.2}x)"),
            _ => {
                let rate = self.writes(phase).len() as f64 / time.as_secs_f64();
                format!("{milliseconds:.1} ms, {rate:.0}/s ({times:.2}x)")
            }
        }
    }

    fn key(number: u16) -> ServiceKey {
        let [high, low] = number.to_be_bytes();
        ServiceKey::tcp(([10, 0, high, low], 80).into()).expect("IPv4")
    }

    fn destination(number: u16) -> Destination {
        let [high, low] = number.to_be_bytes();
        Destination::new(DestinationKey::new(([172, 17, high, low], 80).into()).expect("IPv4"))
    }

    /// The writes of a phase.
    fn writes(self, phase: Phase) -> Vec<Request> {
        let mut writes = Vec::new();
        for key in (1..=self.services).map(Self::key) {
            let destinations = (1..=self.destinations).map(Self::destination);
            match phase {
                Phase::Load => {
                    let mut service = Service::new(key);
                    service.scheduler = SchedulerName::RR;
                    writes.push(Request::NewService(service));
                    writes.extend(destinations.map(|d| Request::NewDestination(key, d)));
                }
                Phase::Read | Phase::Watch => {}
                Phase::Reweigh => writes.extend(destinations.map(|mut destination| {
                    destination.weight = Weight::from(7);
                    Request::SetDestination(key, destination)
                })),
                Phase::Delete => writes.push(Request::DeleteService(key)),
            }
        }
        writes
    }

    /// The same for `ipvsadm -R`.
    fn rules(self, phase: Phase) -> String {
        let writes = self.writes(phase);
        let rules: Rules = writes.iter().filter_map(table::Command::for_request).collect();
        rules.to_string()
    }

    /// A new namespace for each measurement, with the table in it unless the measurement loads it:
    /// deleted destinations stay in a namespace's memory for minutes and slow it down.
    fn namespace(self, phase: Phase) -> NetNs {
        let namespace = NetNs::new().unwrap();
        block_on(async {
            let links = Links::connect(&namespace).unwrap();
            links.up(&links.find("lo").await.unwrap().unwrap()).await.unwrap();
        });
        let client = blocking::Client::connect_in(&namespace).unwrap();
        if matches!(phase, Phase::Load) {
            // So that no measurement includes loading the scheduler's module.
            client.batch(&self.writes(phase)[..1]).into_result().unwrap();
            client.flush().unwrap();
        } else {
            client.batch(&self.writes(Phase::Load)).into_result().unwrap();
        }
        namespace
    }

    fn check(self, namespace: &NetNs, phase: Phase) {
        let client = blocking::Client::connect_in(namespace).unwrap();
        let snapshot = client.snapshot().unwrap();
        if matches!(phase, Phase::Delete) {
            assert!(snapshot.services.is_empty());
            return;
        }
        assert_eq!(snapshot.services.len(), usize::from(self.services));
        let weight = if matches!(phase, Phase::Reweigh) { 7 } else { 1 };
        for service in snapshot.services.values() {
            assert_eq!(service.destinations.len(), usize::from(self.destinations));
            assert!(service.destinations.iter().all(|d| d.destination.weight.get() == weight));
        }
        // Kernels from 6.2 on, some to 7.1.8, can crash when a namespace ends with a full table.
        client.flush().unwrap();
    }
}

/// The client, asynchronous.
fn ours(table: Table, phase: Phase) -> Option<Duration> {
    let namespace = table.namespace(phase);
    let writes = table.writes(phase);
    let time = block_on(async {
        let client = Client::connect_in(&namespace).unwrap();
        let mut kept = None;
        if matches!(phase, Phase::Watch) {
            let first = client.snapshot().await.unwrap();
            kept = Some(client.snapshot().await.unwrap());
            drop(first);
        }
        let start = Instant::now();
        match phase {
            Phase::Read | Phase::Watch => {
                drop(black_box((client.snapshot().await.unwrap(), kept)));
            }
            _ => client.batch(&writes).await.into_result().unwrap(),
        }
        start.elapsed()
    });
    table.check(&namespace, phase);
    Some(time)
}

/// The client, blocking.
fn ours_blocking(table: Table, phase: Phase) -> Option<Duration> {
    let namespace = table.namespace(phase);
    let writes = table.writes(phase);
    let client = blocking::Client::connect_in(&namespace).unwrap();
    let mut kept = None;
    if matches!(phase, Phase::Watch) {
        let first = client.snapshot().unwrap();
        kept = Some(client.snapshot().unwrap());
        drop(first);
    }
    let start = Instant::now();
    match phase {
        Phase::Read | Phase::Watch => drop(black_box((client.snapshot().unwrap(), kept))),
        _ => client.batch(&writes).into_result().unwrap(),
    }
    let time = start.elapsed();
    table.check(&namespace, phase);
    Some(time)
}

/// The floor: the kernel's own time, with prepared bytes and answers that are not decoded.
fn bare(table: Table, phase: Phase) -> Option<Duration> {
    let namespace = table.namespace(phase);
    let time = namespace.run(|| Bare::open().measure(table, phase)).unwrap();
    table.check(&namespace, phase);
    Some(time)
}

struct Bare {
    socket: Socket,
    family: u16,
    buffer: Vec<u8>,
}

impl Bare {
    fn open() -> Self {
        let mut socket = Socket::new(NETLINK_GENERIC).unwrap();
        socket.bind_auto().unwrap();
        socket.set_cap_ack(true).unwrap();
        let mut bare = Self { socket, family: 16, buffer: Vec::with_capacity(64 * 1024) };
        let payload = [&9u16.to_ne_bytes()[..], &2u16.to_ne_bytes(), b"IPVS\0\0\0\0"].concat();
        let mut message = Vec::new();
        bare.append(&mut message, &Request::Other { command: CommandNumber(3), payload }, 0);
        bare.send(&message);
        bare.receive();
        bare.family = NlasIterator::new(&bare.buffer[20..])
            .flatten()
            .find(|attribute| attribute.kind() == 1)
            .map(|attribute| u16::from_ne_bytes(attribute.value().try_into().unwrap()))
            .unwrap();
        bare
    }

    fn append(&self, datagram: &mut Vec<u8>, request: &Request, flags: u16) {
        let length = 20 + request.buffer_len();
        let start = datagram.len();
        datagram.resize(start + length, 0);
        let message = &mut datagram[start..];
        message[0..4].copy_from_slice(&u32::try_from(length).unwrap().to_ne_bytes());
        message[4..6].copy_from_slice(&self.family.to_ne_bytes());
        message[6..8].copy_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        message[16] = request.command().0;
        message[17] = 1;
        request.emit(&mut message[20..]);
    }

    fn send(&self, datagram: &[u8]) {
        self.socket.send_to(datagram, &SocketAddr::new(0, 0), 0).unwrap();
    }

    fn receive(&mut self) {
        self.buffer.clear();
        self.socket.recv_from(&mut self.buffer, 0).unwrap();
    }

    /// Sends a request for a list and reads to its end, an error or `DONE`, which comes alone.
    fn list(&mut self, request: &[u8]) {
        self.send(request);
        loop {
            self.receive();
            if matches!(u16::from_ne_bytes([self.buffer[4], self.buffer[5]]), 2 | 3) {
                return;
            }
        }
    }

    fn measure(mut self, table: Table, phase: Phase) -> Duration {
        if matches!(phase, Phase::Read | Phase::Watch) {
            let mut services = Vec::new();
            self.append(&mut services, &Request::ListServices, Request::ListServices.flags());
            let lists: Vec<Vec<u8>> = (1..=table.services)
                .map(|number| {
                    let list = Request::ListDestinations(Table::key(number));
                    let mut message = Vec::new();
                    self.append(&mut message, &list, list.flags());
                    message
                })
                .collect();
            let start = Instant::now();
            self.list(&services);
            lists.iter().for_each(|list| self.list(list));
            return start.elapsed();
        }
        let datagrams: Vec<Vec<u8>> = table
            .writes(phase)
            .chunks(WRITES)
            .map(|writes| {
                let mut datagram = Vec::new();
                for (position, write) in writes.iter().enumerate() {
                    let flags = if position + 1 == writes.len() { NLM_F_ACK } else { 0 };
                    self.append(&mut datagram, write, flags);
                }
                datagram
            })
            .collect();
        let start = Instant::now();
        for datagram in &datagrams {
            self.send(datagram);
            self.receive();
        }
        start.elapsed()
    }
}

/// The reference tool: `-R` for writes, `-L -n` for reads.
fn ipvsadm(table: Table, phase: Phase) -> Option<Duration> {
    match phase {
        Phase::Watch => None,
        Phase::Read => run_ipvsadm(table, phase, "-Ln"),
        _ => run_ipvsadm(table, phase, "-R"),
    }
}

/// The reference tool's other way to read.
fn ipvsadm_save(table: Table, phase: Phase) -> Option<Duration> {
    matches!(phase, Phase::Read).then(|| run_ipvsadm(table, phase, "-Sn")).flatten()
}

fn run_ipvsadm(table: Table, phase: Phase, switch: &str) -> Option<Duration> {
    let namespace = table.namespace(phase);
    let rules = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(rules.path(), table.rules(phase)).unwrap();
    let mut command = Command::new("ipvsadm");
    command.arg(switch);
    command.stdin(File::open(rules.path()).unwrap()).stdout(Stdio::null());
    let start = Instant::now();
    let Ok(mut child) = namespace.spawn(&mut command) else {
        eprintln!("ipvsadm is not installed");
        return None;
    };
    let status = child.wait().unwrap();
    let time = start.elapsed();
    assert!(status.success());
    table.check(&namespace, phase);
    Some(time)
}

/// The other Rust crate with a client: one request at a time.
fn nlrs(table: Table, phase: Phase) -> Option<Duration> {
    let namespace = table.namespace(phase);
    let time = namespace.run(|| {
        let socket =
            NetlinkSocket::new_vectored(nlrs::netlink::socket::NlSocketType::NETLINK_GENERIC)
                .ok()?;
        let mut socket =
            GenericNetlinkSocket::from_netlink_socket(socket, "IPVS".to_owned()).ok()?;
        let writes = table.writes(phase);
        let start = Instant::now();
        if matches!(phase, Phase::Read | Phase::Watch) {
            let list: service::GetServiceMessageBuilder<'_, _> = socket.message_builder(());
            for found in list.call().ok()? {
                let selector = IpvsService {
                    service_address: found.service_address,
                    protocol: found.protocol,
                };
                let list: destination::GetDestinationMessageBuilder<'_, _> =
                    socket.message_builder(selector);
                black_box(list.call().ok()?);
            }
            return Some(start.elapsed());
        }
        for write in &writes {
            match write {
                Request::NewService(service) => {
                    let mut new: service::NewServiceMessageBuilder<'_, _> =
                        socket.message_builder(selector(service.key()));
                    new.sched_name = service.scheduler.to_string();
                    new.call().ok()?;
                }
                Request::NewDestination(key, destination) => {
                    let input = (selector(key), address(destination));
                    let mut new: destination::NewDestinationMessageBuilder<'_, _> =
                        socket.message_builder(input);
                    new.forward_method = 0;
                    new.call().ok()?;
                }
                Request::SetDestination(key, destination) => {
                    let input = (selector(key), address(destination));
                    let mut set: destination::SetDestinationMessageBuilder<'_, _> =
                        socket.message_builder(input);
                    set.forward_method = 0;
                    set.weight = destination.weight.get();
                    set.call().ok()?;
                }
                Request::DeleteService(key) => {
                    let delete: service::DeleteServiceMessageBuilder<'_, _> =
                        socket.message_builder(selector(key));
                    delete.call().ok()?;
                }
                other => unreachable!("{other:?}"),
            }
        }
        Some(start.elapsed())
    });
    let time = time.unwrap()?;
    table.check(&namespace, phase);
    Some(time)
}

fn selector(key: &ServiceKey) -> IpvsService {
    let ServiceKey::Address { address, port, .. } = *key else { unreachable!("{key}") };
    IpvsService { service_address: (address, port).into(), protocol: Protocol::TCP }
}

fn address(destination: &Destination) -> std::net::SocketAddr {
    (destination.key.address, destination.key.port).into()
}

/// One request after the other: reading one service.
fn latency(requests: u32) {
    let table = Table { services: 1, destinations: 1, runs: 1 };
    let namespace = table.namespace(Phase::Read);
    let key = Table::key(1);
    let bare = namespace
        .run(|| {
            let mut bare = Bare::open();
            let mut message = Vec::new();
            bare.append(&mut message, &Request::GetService(key), NLM_F_ACK);
            let start = Instant::now();
            for _ in 0..requests {
                bare.send(&message);
                // The reply, and the acknowledgement.
                bare.receive();
                bare.receive();
            }
            start.elapsed()
        })
        .unwrap();
    let client = blocking::Client::connect_in(&namespace).unwrap();
    let start = Instant::now();
    for _ in 0..requests {
        black_box(client.service(&key).unwrap());
    }
    let blocking = start.elapsed();
    let asynchronous = block_on(async {
        let client = Client::connect_in(&namespace).unwrap();
        let start = Instant::now();
        for _ in 0..requests {
            black_box(client.service(&key).await.unwrap());
        }
        start.elapsed()
    });
    println!("\n## One service read, again and again\n");
    println!("| | per request | ratio |");
    println!("|---|---|---|");
    for (name, time) in
        [("bare system calls", bare), ("ours, blocking", blocking), ("ours, async", asynchronous)]
    {
        let micros = time.as_secs_f64() * 1e6 / f64::from(requests);
        println!("| {name} | {micros:.1} us | {:.2}x |", time.as_secs_f64() / bare.as_secs_f64());
    }
}

/// Many calls at once.
fn concurrency(calls: u32) {
    let table = Table { services: 1, destinations: 1, runs: 1 };
    let namespace = table.namespace(Phase::Read);
    let key = Table::key(1);
    let in_a_loop = async |client: Client| {
        for _ in 0..calls {
            black_box(client.service(&key).await.unwrap());
        }
    };
    let at_once = async |client: Client| {
        let tasks: Vec<_> = (0..calls)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.service(&key).await.unwrap() })
            })
            .collect();
        // On top of the tasks' memory, so that it stays the process's for the next round: the kernel
        // takes as long for a page as for a request.
        std::mem::forget(vec![0_u8; 4096]);
        for task in tasks {
            black_box(task.await.unwrap());
        }
    };
    println!("\n## {calls} services read\n");
    println!("| | one caller in a loop | {calls} tasks at once | throughput |");
    println!("|---|---|---|---|");
    for (name, runtime) in runtimes() {
        let measure = |future: &mut dyn FnMut(Client)| {
            let client = Client::connect_in(&namespace).unwrap();
            let start = Instant::now();
            future(client);
            start.elapsed()
        };
        let (mut alone, mut many) = (Duration::MAX, Duration::MAX);
        for _ in 0..5 {
            alone = alone.min(measure(&mut |client| runtime.block_on(in_a_loop(client))));
            many = many.min(measure(&mut |client| runtime.block_on(at_once(client))));
        }
        let milliseconds = [alone, many].map(|time| time.as_secs_f64() * 1e3);
        println!(
            "| {name} | {:.0} ms | {:.0} ms | {:.2}x |",
            milliseconds[0],
            milliseconds[1],
            alone.as_secs_f64() / many.as_secs_f64()
        );
    }
}

/// How long a change of a weight waits while snapshots are taken.
fn waiting(table: Table, changes: u32) {
    let namespace = table.namespace(Phase::Read);
    let key = Table::key(1);
    let destination = Table::destination(1);
    println!(
        "\n## A weight set while snapshots of {} services x {} destinations are taken\n",
        table.services, table.destinations
    );
    println!("| | median | longest |");
    println!("|---|---|---|");
    for (name, runtime) in runtimes() {
        for (socket, shared) in [("the same client", true), ("another client", false)] {
            let waits = runtime.block_on(async {
                let reader = Client::connect_in(&namespace).unwrap();
                let writer = match shared {
                    true => reader.clone(),
                    false => Client::connect_in(&namespace).unwrap(),
                };
                let snapshots = tokio::spawn(async move {
                    loop {
                        black_box(reader.snapshot().await.unwrap());
                    }
                });
                let destination = destination.clone();
                let writer = tokio::spawn(async move {
                    let mut waits = Vec::new();
                    for _ in 0..changes {
                        tokio::time::sleep(Duration::from_millis(7)).await;
                        let start = Instant::now();
                        writer.update_destination(&key, &destination).await.unwrap();
                        waits.push(start.elapsed());
                    }
                    waits
                });
                let mut waits = writer.await.unwrap();
                snapshots.abort();
                waits.sort();
                waits
            });
            let [median, longest] = [waits[waits.len() / 2], waits[waits.len() - 1]]
                .map(|wait| wait.as_secs_f64() * 1e3);
            println!("| {name}, {socket} | {median:.2} ms | {longest:.2} ms |");
        }
    }
    table.check(&namespace, Phase::Read);
}

fn runtimes() -> [(&'static str, tokio::runtime::Runtime); 2] {
    let [one, many] = [
        tokio::runtime::Builder::new_current_thread(),
        tokio::runtime::Builder::new_multi_thread(),
    ]
    .map(|mut builder| builder.enable_all().worker_threads(2).build().unwrap());
    [("one thread", one), ("two threads", many)]
}

/// The memory that a snapshot takes.
fn memory(services: u16) {
    let table = Table { services, destinations: 5, runs: 1 };
    let namespace = table.namespace(Phase::Read);
    let client = blocking::Client::connect_in(&namespace).unwrap();
    let before = Counting::start();
    let start = Instant::now();
    let snapshot = client.snapshot().unwrap();
    let time = start.elapsed();
    let peak = Counting::peak() - before;
    let bytes = Counting::live() - before;
    assert_eq!(snapshot.services.len(), usize::from(services));
    let destinations = usize::from(services) * 5;
    println!("\n## A snapshot of {services} services x 5 destinations\n");
    println!(
        "{} bytes per destination, its part of its service included, and {} at the peak while it \
         was taken, in {:.0} ms.",
        bytes / destinations,
        peak / destinations,
        time.as_secs_f64() * 1e3
    );
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
