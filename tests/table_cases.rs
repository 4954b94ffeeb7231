//! ipvs-table's text beside ipvsadm 1.31, on a real kernel: random tables, listed, saved and made by
//! both.

use std::{
    collections::BTreeMap,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU32,
    process::{Command as Process, Output, Stdio},
    time::{Duration, Instant},
};

use ipvs_client::{
    Client, Snapshot,
    packet::{
        AddressFamily, Destination, DestinationKey, EngineName, ForwardMethod, Protocol, Request,
        SchedulerName, Service, ServiceFlags, ServiceKey, Tunnel, TunnelFlags, TunnelType,
        strategy,
    },
};
use ipvs_table::{
    Command, CommandLine, ConnectionListing, DaemonListing, ListOptions, Listed, Listing, Names,
    Rules, TimeoutListing,
};
use kernel_tests::{Outcome, block_on, client_case, key, needing};
use libtest_mimic::{Failed, Trial};
use netns_link::NetNs;
use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::select,
    strategy::ValueTree as _,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};
use testbed::Family;

use crate::scene::{LIMIT, Scene};

/// The number of random tables or command lines in a case.
const ROUNDS: u32 = 100;

/// Every case by its name.
pub(crate) fn cases() -> Vec<Trial> {
    let cases = [
        client_case("table_listings_equal_ipvsadms", listings_equal_ipvsadms),
        client_case("table_rules_are_ipvsadms", rules_are_ipvsadms),
        client_case("table_command_lines_do_the_same", command_lines_do_the_same),
        client_case("table_command_lines_are_refused_alike", command_lines_are_refused_alike),
        client_case("table_right_where_ipvsadm_is_wrong", right_where_ipvsadm_is_wrong),
        client_case("table_names_as_ipvsadm_has_them", names_as_ipvsadm_has_them),
        client_case("table_timeouts_and_daemons", timeouts_and_daemons),
        Trial::test("table_under_traffic_ipv4", || block_on(under_traffic(Family::Ipv4))),
        Trial::test("table_under_traffic_ipv6", || block_on(under_traffic(Family::Ipv6))),
    ];
    cases.into_iter().map(|case| needing(&[("ipvsadm", "ipvsadm")], case)).collect()
}

/// Each listing of random tables, made by ours.
async fn listings_equal_ipvsadms(namespace: NetNs, client: Client) -> Outcome {
    let options = list_options();
    let (mut tables, mut listings) = (0, 0);
    for seed in 0..ROUNDS {
        let table = random(seed, table());
        load(&client, seed, &table).await?;
        let snapshot = client.snapshot().await?;
        let info = client.info().await?;
        // Two of the listings for each table, so that each listing is tried on many tables.
        for options in options.iter().cycle().skip(2 * seed as usize).take(2) {
            let listing = Listing::of_table(info, &snapshot).options(options);
            compare(&namespace, seed, &Command::List(*options), &listing.to_string())?;
            listings += 1;
        }
        compare(&namespace, seed, &Command::Save { numeric: true }, &save(&snapshot))?;
        if let Some(service) = snapshot.services.values().nth(seed as usize % 3) {
            let mut options = options[seed as usize % options.len()];
            options.listed = Listed::Service(*service.entry.service.key());
            let listing = Listing::of_service(service).options(&options);
            compare(&namespace, seed, &Command::List(options), &listing.to_string())?;
            listings += 1;
        }
        tables += 1;
        client.flush().await?;
    }
    eprintln!("{tables} tables (seeds 0 to {}), {listings} listings", ROUNDS - 1);
    Ok(())
}

/// With `ipvsadm -R`, our rules make the table that they describe, and the rules of `ipvsadm -S`
/// parse as the table without thresholds.
async fn rules_are_ipvsadms(namespace: NetNs, client: Client) -> Outcome {
    for seed in 0..ROUNDS {
        let rules: Rules =
            random(1000 + seed, table()).iter().filter_map(Command::for_request).collect();
        let text = rules.to_string();
        let output = ipvsadm(&namespace, &["-R"], &text)?;
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "seed {seed}: {output:?}\n{text}"
        );
        let expected = rules.table().map_err(|mistakes| format!("seed {seed}: {mistakes}"))?;
        let snapshot = client.snapshot().await?;
        assert_eq!(settings(&snapshot), settings(&expected), "seed {seed}:\n{text}");
        assert_eq!(Rules::from(&snapshot), Rules::from(&expected), "seed {seed}");

        let saved = ipvsadm(&namespace, &["-Sn"], "")?;
        let read: Rules = String::from_utf8_lossy(&saved.stdout)
            .parse()
            .map_err(|mistakes| format!("seed {seed}: {mistakes}"))?;
        let read = read.table().map_err(|mistakes| format!("seed {seed}: {mistakes}"))?;
        assert_eq!(settings(&read), settings(&without_thresholds(&snapshot)), "seed {seed}");
        client.flush().await?;
    }
    eprintln!("{ROUNDS} tables (seeds 1000 to {})", 999 + ROUNDS);
    Ok(())
}

/// Each write, as its printed command line: run by a shell, it makes the same table.
async fn command_lines_do_the_same(namespace: NetNs, client: Client) -> Outcome {
    let mut commands = 0;
    for seed in 0..ROUNDS / 4 {
        let mut writes = random(2000 + seed, table());
        writes.truncate(25);
        writes.extend(changes(&writes, seed));
        load(&client, seed, &writes).await?;
        let expected = settings(&client.snapshot().await?);
        client.flush().await?;
        let lines: Vec<_> = writes.iter().map(|write| CommandLine(write).to_string()).collect();
        let mut script = lines.join(" || exit\n");
        script.push('\n');
        let output = run(&namespace, "sh", &["-s"], &script)?;
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "seed {seed}: {output:?}\n{script}"
        );
        assert_eq!(settings(&client.snapshot().await?), expected, "seed {seed}:\n{script}");
        commands += writes.len();
        client.flush().await?;
    }
    eprintln!("{commands} commands of {} tables (seeds 2000 to {})", ROUNDS / 4, 1999 + ROUNDS / 4);
    Ok(())
}

/// Random command lines, most of them wrong: both programs refuse the same ones, with the same
/// status.
async fn command_lines_are_refused_alike(namespace: NetNs, client: Client) -> Outcome {
    let (mut taken, mut refused) = (0, BTreeMap::<u8, u32>::new());
    for seed in 0..5 * ROUNDS {
        let words = random(3000 + seed, command_words());
        // The kernel's errors are ignored, but there should be something to change.
        if seed % 50 == 0 {
            client.flush().await?;
            client.add_service(&Service::new(key("-t 10.0.0.1:80"))).await?;
        }
        let arguments: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = ipvsadm(&namespace, &arguments, "")?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let parsed = Command::parse(&arguments, &ipvs_table::Numeric);
        let ours = parsed.as_ref().err().map(|mistakes| mistakes.exit_status());
        let kernel = [
            "Numerical result out of range",
            "Scheduler or persistence engine not found",
            "No such device",
        ];
        let usage = ["unknown option", "missing argument", "Try `ipvsadm -h'"];
        let theirs = match output.status.code() {
            // Of two mistakes, ours reports an unknown option or a missing value; ipvsadm reports a time-out
            // before it.
            Some(2) if ours == Some(255) && stderr.starts_with("invalid timeout value") => {
                Some(255)
            }
            Some(2) => Some(2),
            Some(255) if usage.iter().any(|text| stderr.contains(text)) => Some(255),
            // Names that are too long and thresholds, which ipvsadm does not check.
            Some(255) if ours == Some(255) && kernel.iter().any(|text| stderr.contains(text)) => {
                ours
            }
            _ => None,
        };
        assert_eq!(ours, theirs, "seed {seed}: ipvsadm {words:?}\n{parsed:?}\n{stderr}");
        match ours {
            None => taken += 1,
            Some(status) => *refused.entry(status).or_default() += 1,
        }
    }
    eprintln!(
        "{} command lines (seeds 3000 to {}): {taken} taken, refused by status {refused:?}",
        5 * ROUNDS,
        2999 + 5 * ROUNDS
    );
    Ok(())
}

/// ipvsadm has the mistakes that `Listing`'s page lists, and ours has not.
async fn right_where_ipvsadm_is_wrong(namespace: NetNs, client: Client) -> Outcome {
    let mut with_bypass = Destination::new("10.1.0.2:80".parse()?);
    with_bypass.forward = ForwardMethod::BYPASS;
    let services = ["-t 10.0.0.1:80", "-t 200.0.0.1:80", "-f 4294967295"].map(key);
    for service in services {
        client.add_service(&Service::new(service)).await?;
    }
    client.add_destination(&services[0], &with_bypass).await?;
    for address in ["10.1.0.1:80", "200.1.0.1:80"] {
        let destination = Destination::new(address.parse()?);
        client.add_destination(&services[1], &destination).await?;
    }
    let snapshot = client.snapshot().await?;
    let ours = Listing::of_table(client.info().await?, &snapshot).to_string();
    let rows: Vec<_> = ours.lines().skip(3).map(str::trim_end).collect();
    assert_eq!(
        rows,
        [
            "TCP  10.0.0.1:80 wlc",
            "  -> 10.1.0.2:80                  Bypass  1      0          0",
            "TCP  200.0.0.1:80 wlc",
            "  -> 10.1.0.1:80                  Masq    1      0          0",
            "  -> 200.1.0.1:80                 Masq    1      0          0",
            "FWM  4294967295 wlc",
        ]
    );
    let theirs = String::from_utf8(ipvsadm(&namespace, &["-Ln"], "")?.stdout)?;
    let theirs: Vec<_> = theirs.lines().skip(3).map(str::trim_end).collect();
    assert_eq!(
        theirs,
        [
            "FWM  -1 wlc",
            "TCP  200.0.0.1:80 wlc",
            "  -> 200.1.0.1:80                 Masq    1      0          0",
            "  -> 10.1.0.1:80                  Masq    1      0          0",
            "TCP  10.0.0.1:80 wlc",
            "  -> 10.1.0.2:80                  (null)  1      0          0",
        ]
    );
    // Our rules lose nothing.
    let rules: Rules = Rules::from(&snapshot).to_string().parse()?;
    assert_eq!(settings(&rules.table()?), settings(&snapshot));
    Ok(())
}

/// Without `-n`: names of hosts and services, from the files that ipvsadm's C library reads.
async fn names_as_ipvsadm_has_them(namespace: NetNs, client: Client) -> Outcome {
    struct Files;
    impl Names for Files {
        fn host(&self, address: IpAddr) -> Option<String> {
            let hosts = std::fs::read_to_string("/etc/hosts").ok()?;
            let mut lines = hosts.lines().map(|line| line.split_whitespace());
            let address = address.to_string();
            let names = lines.find_map(|mut words| {
                (words.next() == Some(&address)).then(|| words.next().map(ToOwned::to_owned))
            });
            names?
        }

        fn service(&self, port: u16, protocol: Protocol) -> Option<String> {
            let services = std::fs::read_to_string("/etc/services").ok()?;
            let end = format!("{port}/{}", protocol.to_string().to_lowercase());
            let mut lines = services.lines().map(|line| line.split_whitespace());
            lines.find_map(|mut words| {
                let name = words.next()?;
                (words.next() == Some(&end)).then(|| name.to_owned())
            })
        }
    }
    for text in ["-t 127.0.0.1:80", "-u 127.0.0.1:53", "-t [::1]:443", "-f 7", "-t 10.0.0.1:4711"] {
        let service = key(text);
        client.add_service(&Service::new(service)).await?;
        let address = match service.family() {
            AddressFamily::Ipv4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
            AddressFamily::Ipv6 => continue,
        };
        for port in [80, 8080] {
            let destination = Destination::new(DestinationKey { address, port });
            client.add_destination(&service, &destination).await?;
        }
    }
    let snapshot = client.snapshot().await?;
    let info = client.info().await?;
    for mut options in list_options() {
        options.numeric = false;
        let listing = Listing::of_table(info, &snapshot).options(&options).names(&Files);
        compare(&namespace, 0, &Command::List(options), &listing.to_string())?;
    }
    let saved = Rules::from(&snapshot).saved(&Files).to_string();
    assert!(saved.contains("localhost:http"), "{saved}");
    compare(&namespace, 0, &Command::Save { numeric: false }, &saved)
}

async fn timeouts_and_daemons(namespace: NetNs, client: Client) -> Outcome {
    let list = |listed| Command::List(ListOptions::new(listed));
    let timeouts = TimeoutListing(client.timeouts().await?).to_string();
    compare(&namespace, 0, &list(Listed::Timeouts), &timeouts)?;
    let none = DaemonListing(&client.daemons().await?.all()?).to_string();
    compare(&namespace, 0, &list(Listed::Daemons), &none)?;
    for line in [
        "--set 7 8 9",
        "--start-daemon master --mcast-interface lo --syncid 7 --sync-maxlen 1400 --mcast-group \
         224.0.0.82 --mcast-port 8849 --mcast-ttl 3",
        "--start-daemon backup --mcast-interface lo --syncid 8 --mcast-group ff02::82",
    ] {
        let request = line.parse::<Command>()?.request().ok_or("it is a write")?;
        assert_eq!(CommandLine(&request).to_string(), format!("ipvsadm {line}"));
        let words: Vec<_> = line.split_whitespace().collect();
        let output = ipvsadm(&namespace, &words, "")?;
        assert!(output.status.success(), "{line}: {output:?}");
        let timeouts = TimeoutListing(client.timeouts().await?).to_string();
        compare(&namespace, 0, &list(Listed::Timeouts), &timeouts)?;
        let daemons = DaemonListing(&client.daemons().await?.all()?).to_string();
        compare(&namespace, 0, &list(Listed::Daemons), &daemons)?;
    }
    Ok(())
}

/// Counters, connections and persistence that traffic made.
async fn under_traffic(family: Family) -> Outcome {
    let scene = Scene::new(family).await?;
    let mut sticky = scene.service("wlc").service().clone();
    sticky.flags = ServiceFlags::PERSISTENT;
    sticky.timeout = 60;
    scene.client.add_service(&sticky).await?;
    let mut calls = Service::new(ServiceKey::udp((scene.address.ip(), 5060).into())?);
    calls.flags = ServiceFlags::PERSISTENT;
    calls.timeout = 60;
    calls.engine = Some(EngineName::SIP);
    scene.client.add_service(&calls).await?;
    let mut servers = Vec::new();
    for pod in &scene.pods {
        servers.push(pod.serve_udp((pod.address(), 5060).into())?);
        for (service, port) in [(&sticky, 80), (&calls, 5060)] {
            let destination = Destination::new(DestinationKey { address: pod.address(), port });
            scene.client.add_destination(service.key(), &destination).await?;
        }
    }
    scene.fetch(scene.host.namespace(), 5).await?;
    let invite = "INVITE sip:bob@example SIP/2.0\r\nVia: SIP/2.0/UDP pc33.example\r\nFrom: \
                  <sip:a@example>\r\nTo: <sip:bob@example>\r\nCall-ID: a84b4c76e66710@pc33.example\r\n\
                  CSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n";
    let phone = (scene.address.ip(), 5060).into();
    testbed::udp_exchange(scene.host.namespace(), phone, invite, LIMIT).await?;

    // The kernel updates counters every two seconds.
    let begun = Instant::now();
    while scene.client.totals()?.incoming_bytes == 0 || counted(&scene.client).await? < 6 {
        assert!(begun.elapsed() < LIMIT, "the counters stand still");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for options in list_options() {
        unless_time_passes(|| async {
            let snapshot = scene.client.snapshot().await?;
            let listing = Listing::of_table(scene.client.info().await?, &snapshot);
            let ours = listing.options(&options).to_string();
            Ok((ours, theirs(scene.host.namespace(), &Command::List(options))?))
        })
        .await?;
    }
    let mut options = ListOptions::new(Listed::Connections);
    options.numeric = true;
    for engine_data in [false, true] {
        options.persistent_connections = engine_data;
        let ours = unless_time_passes(|| async {
            let listing = ConnectionListing::default().options(&options);
            let mut ours = format!("{}\n", listing.title());
            for connection in scene.client.connections()? {
                ours += &format!("{}\n", listing.row(&connection?));
            }
            Ok((ours, theirs(scene.host.namespace(), &Command::List(options))?))
        })
        .await?;
        assert_eq!(ours.contains("sip "), engine_data, "{ours}");
        // Five pages, a call, and the templates of both services.
        assert!(ours.lines().count() >= 2 + 5 + 1 + 2, "{ours}");
    }
    scene.client.flush().await?;
    Ok(())
}

/// The number of connections that the services have counted.
async fn counted(client: &Client) -> Result<u64, Failed> {
    let snapshot = client.snapshot().await?;
    Ok(snapshot.services.values().map(|service| service.entry.statistics.connections).sum())
}

/// Takes two texts until they are equal, a few times at most: a second, or an update of the
/// counters, may pass between them.
async fn unless_time_passes<F>(mut both: impl FnMut() -> F) -> Result<String, Failed>
where
    F: Future<Output = Result<(String, String), Failed>>,
{
    let mut last = (String::new(), String::new());
    for _ in 0..10 {
        last = both().await?;
        if last.0 == last.1 {
            return Ok(last.0);
        }
    }
    Err(format!("ours:\n{}\ntheirs:\n{}", last.0, last.1).into())
}

/// Compares a text with ipvsadm's output of a command.
fn compare(namespace: &NetNs, seed: u32, command: &Command, ours: &str) -> Outcome {
    let theirs = theirs(namespace, command)?;
    let line = command.to_string();
    assert_eq!(ours, theirs, "seed {seed}: ipvsadm {line}\nours:\n{ours}\ntheirs:\n{theirs}");
    Ok(())
}

/// ipvsadm's output of a command.
fn theirs(namespace: &NetNs, command: &Command) -> Result<String, Failed> {
    let line = command.to_string();
    let words: Vec<_> = line.split(' ').collect();
    let output = ipvsadm(namespace, &words, "")?;
    assert!(output.status.success(), "ipvsadm {line}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

fn ipvsadm(namespace: &NetNs, words: &[&str], input: &str) -> Result<Output, Failed> {
    run(namespace, "ipvsadm", words, input)
}

/// Runs a program in a namespace, with a text as its standard input.
pub(crate) fn run(
    namespace: &NetNs,
    program: &str,
    words: &[&str],
    input: &str,
) -> Result<Output, Failed> {
    let output = namespace.run(|| {
        let mut child = Process::new(program)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // A program that does not read its input may have ended.
        let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
        child.wait_with_output()
    })??;
    Ok(output)
}

/// Makes a table, or fails with the first write that fails.
pub(crate) async fn load(client: &Client, seed: u32, writes: &[Request]) -> Outcome {
    for (write, outcome) in writes.iter().zip(client.batch(writes).await) {
        outcome.map_err(|error| format!("seed {seed}: {}: {error}", CommandLine(write)))?;
    }
    Ok(())
}

/// The output of `ipvsadm -Sn` for a table: our rules without thresholds.
fn save(snapshot: &Snapshot) -> String {
    Rules::from(&without_thresholds(snapshot)).to_string()
}

pub(crate) fn without_thresholds(snapshot: &Snapshot) -> Snapshot {
    let mut snapshot = snapshot.clone();
    for service in snapshot.services.values_mut() {
        for entry in &mut service.destinations {
            entry.destination.thresholds = Default::default();
        }
    }
    snapshot
}

/// Services and destinations without statistics.
pub(crate) fn settings(snapshot: &Snapshot) -> Vec<(Service, Vec<Destination>)> {
    let settings = snapshot.services.values().map(|service| {
        let destinations = service.destinations.iter().map(|entry| entry.destination.clone());
        (service.entry.service.clone(), destinations.collect())
    });
    settings.collect()
}

/// Each listing of services, with numbers.
pub(crate) fn list_options() -> Vec<ListOptions> {
    let mut plain = ListOptions::new(Listed::Table);
    plain.numeric = true;
    let with = |change: fn(&mut ListOptions)| {
        let mut options = plain;
        change(&mut options);
        options
    };
    vec![
        plain,
        with(|options| options.statistics = true),
        with(|options| (options.statistics, options.exact) = (true, true)),
        with(|options| options.rates = true),
        with(|options| (options.rates, options.exact) = (true, true)),
        with(|options| options.thresholds = true),
        with(|options| options.persistent_connections = true),
        with(|options| options.tunnels = true),
    ]
}

/// A random value, the same for the same seed.
pub(crate) fn random<S: Strategy>(seed: u32, strategy: S) -> S::Value {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
    strategy.new_tree(&mut runner).expect("the strategies reject little").current()
}

/// The writes that make a table, each key once.
pub(crate) fn table() -> impl Strategy<Value = Vec<Request>> {
    let server = || (endpoint(), strategy::weight(), strategy::thresholds(), forwarding());
    vec((service(), vec(server(), 0..6)), 0..8).prop_map(|services| {
        let services: BTreeMap<_, _> = services
            .into_iter()
            .map(|(service, servers)| (*service.key(), (service, servers)))
            .collect();
        let mut writes = Vec::new();
        for (key, (service, servers)) in services {
            writes.push(Request::NewService(service));
            let mut destinations = BTreeMap::new();
            for ((address, port), weight, thresholds, (forward, tunnel)) in servers {
                let mut destination = Destination::new(DestinationKey { address, port });
                destination.weight = weight;
                destination.thresholds = thresholds;
                destination.forward = forward;
                if destination.key.family() != key.family() {
                    destination.forward = ForwardMethod::TUNNEL;
                }
                if destination.forward == ForwardMethod::TUNNEL {
                    destination.tunnel = tunnel;
                }
                match key {
                    ServiceKey::Address { port, .. }
                        if destination.forward != ForwardMethod::MASQUERADE =>
                    {
                        destination.key.port = port;
                    }
                    _ => {}
                }
                destinations.insert(destination.key, destination);
            }
            // With both families in one service, ipvsadm's order is arbitrary.
            let family = destinations.keys().next().map(DestinationKey::family);
            destinations.retain(|key, _| Some(key.family()) == family);
            let add = |destination| Request::NewDestination(key, destination);
            writes.extend(destinations.into_values().map(add));
        }
        writes
    })
}

/// A change of every other entry of a table, and the removal of every third.
pub(crate) fn changes(writes: &[Request], seed: u32) -> Vec<Request> {
    let changed = |(position, write): (usize, &Request)| match (position as u32 + seed, write) {
        (turn, Request::NewService(service)) if turn % 3 == 0 => {
            let mut service = service.clone();
            service.scheduler = SchedulerName::RR;
            service.flags &= ServiceFlags::PERSISTENT;
            Some(Request::SetService(service))
        }
        (turn, Request::NewDestination(key, destination)) if turn % 3 == 1 => {
            let mut destination = destination.clone();
            destination.weight = 7.into();
            Some(Request::SetDestination(*key, destination))
        }
        (turn, Request::NewDestination(key, destination)) if turn % 3 == 2 => {
            Some(Request::DeleteDestination(*key, destination.key))
        }
        _ => None,
    };
    writes.iter().enumerate().filter_map(changed).chain([Request::Zero(None)]).collect()
}

/// A service that the kernel accepts and ipvsadm can make.
fn service() -> impl Strategy<Value = Service> {
    let protocol = select(vec![Protocol::TCP, Protocol::UDP, Protocol::SCTP]);
    let key = prop_oneof![
        4 => (protocol, endpoint()).prop_map(|(protocol, (address, port))| {
            ServiceKey::Address { protocol, address, port }
        }),
        // ipvsadm prints the upper half as negative numbers.
        1 => (1..=i32::MAX as u32, strategy::family()).prop_map(|(mark, family)| {
            ServiceKey::Mark { mark: NonZeroU32::new(mark).expect("from 1 on"), family }
        }),
    ];
    let schedulers: Vec<_> = SchedulerName::ALL
        .iter()
        .copied()
        .filter(|name| ![SchedulerName::NONE, SchedulerName::TWOS].contains(name))
        .collect();
    let persistence = option::of((1..=2_678_400u32, any::<bool>()));
    (key, select(schedulers), persistence, any::<bool>(), 0..8u32).prop_flat_map(
        |(key, scheduler, persistence, one_packet, flags)| {
            strategy::netmask(key.family()).prop_map(move |netmask| {
                let mut service = Service::new(key);
                service.scheduler = scheduler;
                // The flags for which ipvsadm has names.
                let named = if scheduler == SchedulerName::SH || scheduler == SchedulerName::MH {
                    flags & 3
                } else {
                    flags
                };
                service.flags = ServiceFlags::from_bits_retain(named << 3);
                let (protocol, port) = match key {
                    ServiceKey::Address { protocol, port, .. } => (Some(protocol), port),
                    ServiceKey::Mark { .. } => (None, 1),
                };
                let persistence = persistence.or((port == 0).then_some((300, false)));
                if let Some((timeout, engine)) = persistence {
                    service.flags |= ServiceFlags::PERSISTENT;
                    service.timeout = timeout;
                    service.set_netmask(netmask).expect("of the key's family");
                    service.engine = engine.then_some(EngineName::SIP);
                }
                if one_packet && protocol.is_none_or(|protocol| protocol == Protocol::UDP) {
                    service.flags |= ServiceFlags::ONE_PACKET;
                }
                service
            })
        },
    )
}

/// An address whose 32-bit words are in the lower half, where ipvsadm's order is right; with a
/// port.
fn endpoint() -> impl Strategy<Value = (IpAddr, u16)> {
    let short = (1..=126u8, any::<[u8; 3]>())
        .prop_map(|(a, [b, c, d])| IpAddr::V4(Ipv4Addr::new(a, b, c, d)));
    let half = 0..0x8000u16;
    let long = (half.clone(), any::<u16>(), half.clone(), any::<u16>(), half, any::<u16>())
        .prop_map(|(c, d, e, f, g, h)| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, c, d, e, f, g, h)));
    (prop_oneof![2 => short, 1 => long], prop_oneof![1 => Just(0), 5 => any::<u16>()])
}

/// A forwarding method, and an encapsulation if it is tunnelling.
fn forwarding() -> impl Strategy<Value = (ForwardMethod, Tunnel)> {
    let flags =
        select(vec![TunnelFlags::empty(), TunnelFlags::CHECKSUM, TunnelFlags::REMOTE_CHECKSUM]);
    let tunnel = prop_oneof![
        Just(Tunnel::IPIP),
        (1..=u16::MAX, flags.clone()).prop_map(|(port, flags)| {
            Tunnel::new(TunnelType::GUE, port, flags).expect("it has a port")
        }),
        flags
            .prop_filter("GRE has none", |flags| *flags != TunnelFlags::REMOTE_CHECKSUM)
            .prop_map(Tunnel::gre),
    ];
    let methods =
        vec![ForwardMethod::MASQUERADE, ForwardMethod::DIRECT_ROUTE, ForwardMethod::TUNNEL];
    (select(methods), tunnel)
}

/// A command line, sometimes with a word missing, added or changed.
pub(crate) fn command_words() -> impl Strategy<Value = Vec<String>> {
    let owned = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let lines = [
        "-A -t 10.0.0.2:80 -s rr",
        "-A -t 10.0.0.2 -p 60 -M 255.255.0.0",
        "-A -u 10.0.0.2:53 -o -b flag-1,flag-2",
        "-A -f 3 -6 -s sh -b sh-port -p",
        "-A -f 4 -s thisnameislongerthanfifteen",
        "-A -f 4 -p 2678401",
        "-A -f 4 -p 60 --pe averyveryverylongname1",
        "-a -t 10.0.0.1:80 -r 10.1.0.1:81 -m -x 3 -y 5",
        "--start-daemon backup --mcast-interface averyverylongname",
        "-A -t [fd00::1]:80 --pe sip -p 60 -M 64",
        "-E -t 10.0.0.1:80 --scheduler=wrr",
        "-D -t 10.0.0.9:80",
        "-C",
        "-a -t 10.0.0.1:80 -r 10.1.0.1:81 -m -w 3 -x 9 -y 2",
        "-a -t 10.0.0.1:80 -r [fd00::2]:81 -i --tun-type gue --tun-port 5 --tun-csum",
        "-a -t 10.0.0.1:80 -r 10.1.0.2 -i --tun-type gre --tun-nocsum",
        "-e -t 10.0.0.1:80 -r 10.1.0.1 -g",
        "-d -t 10.0.0.1:80 -r 10.1.0.1:81",
        "-Ln --stats --exact",
        "-L -t 10.0.0.1:80 -n --thresholds",
        "-Lnc --persistent-conn",
        "-L --timeout",
        "-L --daemon",
        "-L -n --tun-info --nosort --sort",
        "-Sn",
        "-Z -t 10.0.0.1:80",
        "--set 10 20 30",
        "--start-daemon master --mcast-interface lo --syncid 3 --mcast-ttl 2",
        "--stop-daemon backup",
        "-v",
    ];
    let spare: Vec<&str> = lines.iter().flat_map(|line| line.split(' ')).collect();
    let mut spare: Vec<String> = owned(&spare);
    spare.extend(owned(&[
        "-q",
        "--bogus",
        "-",
        "--",
        "",
        "x",
        "0",
        "-1",
        "65536",
        "4294967296",
        "0x1",
        "-n=1",
        "--numeric=1",
        "-w",
        "-w-1",
        "-w=5",
        "--weight=5x",
        "-x99999999999",
        "-h",
        "-R",
        "-X",
        "-6",
        "--mcast-group",
        "224.0.0.1",
        "10.0.0.1",
        "-p",
        "-p5",
        "--persistent=0x",
        "-s",
        "-Mx",
        "-bflag-4x",
        "--tun-type=x",
        "-f",
        "--fwmark-service=7",
        "[fd00::1]",
        "fd00::1:80",
        "10.0.0.1:",
        "256.0.0.1:80",
        "-lnX",
        "--syncid=256",
        "--sync-maxlen=70000",
    ]));
    let line = select(lines.map(|line| owned(&line.split(' ').collect::<Vec<_>>())).to_vec());
    (line, 0..6u8, any::<proptest::sample::Index>(), select(spare)).prop_map(
        |(mut words, change, position, spare)| {
            let at = position.index(words.len());
            match change {
                0 => {}
                1 => drop(words.remove(at)),
                2 => words[at] = spare,
                3 => words.insert(at, spare),
                4 => words.push(spare),
                _ => {
                    let other = position.index(words.len().max(2) - 1);
                    words.swap(at, other);
                }
            }
            words
        },
    )
}
