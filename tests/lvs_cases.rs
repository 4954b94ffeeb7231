//! Desired state on a real kernel: what builds, what an apply writes, and what it leaves after
//! a failure.

use std::{
    cell::Cell,
    collections::BTreeSet,
    future::Future,
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Stdio,
    time::{Duration, Instant},
};

use ipvs_client::{
    Client, Snapshot, blocking,
    packet::{
        Destination, DestinationEntry, ForwardMethod, Request, Service, ServiceFlags, ServiceKey,
        Statistics, Tunnel, TunnelFlags, Weight,
    },
};
use kernel_tests::{Outcome, block_on, client_case, key, needing};
use libtest_mimic::{Failed, Trial};
use lvs::{
    Desired, Encapsulation, Ledger, Phase, Plan, Policy, RealServer, Reconciler, Scope, Table,
    VirtualService, VirtualServiceBuilder, model::Kernel, netlink_proto::NetlinkProto, strategy,
};
use netns_link::NetNs;
use nix::{
    sys::{
        ptrace,
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};
use proptest::{
    collection::vec,
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use testbed::{Family, run};

use crate::{
    part::{self, Part},
    scene::{LIMIT, Scene},
};

/// Every case by its name.
pub(crate) fn cases() -> Vec<Trial> {
    let unreachable = Trial::test("lvs_addresses_without_clients_do_not_build", || {
        block_on(addresses_without_clients_do_not_build())
    });
    vec![
        client_case("lvs_encapsulation_is_kept", encapsulation_is_kept),
        needing(&[("ip", "iproute2")], unreachable),
        client_case("lvs_model_is_the_kernel", model_is_the_kernel),
        client_case("lvs_refused_real_server", refused_real_server),
        client_case("lvs_refused_scheduler", refused_scheduler),
        client_case("lvs_failure_stays_in_its_service", failure_stays_in_its_service),
        client_case("lvs_over_netlink_proto", over_netlink_proto),
        client_case("lvs_two_managers_at_once", two_managers_at_once),
        client_case("lvs_random_tables", random_tables),
        client_case("lvs_scope_and_guard", scope_and_guard),
        client_case("lvs_killed_at_each_write", killed_at_each_write),
        client_case("lvs_killed_at_each_system_call", killed_at_each_system_call),
        client_case("lvs_blocking_twin", blocking_twin),
        client_case("lvs_reconciler_runs", reconciler_runs),
        client_case("lvs_reconciler_tries_again", reconciler_tries_again),
        client_case("lvs_reconciler_keeps_its_promises", reconciler_keeps_its_promises),
    ]
}

fn web() -> VirtualServiceBuilder {
    VirtualService::tcp("10.0.0.185:80".parse().expect("an address")).scheduler("rr")
}

fn nat(address: &str) -> RealServer {
    RealServer::nat(address.parse().expect("an address"))
}

/// The real servers in the kernel, in order, as `address:port weight`.
async fn real_servers(client: &Client, service: &str) -> Result<Vec<String>, Failed> {
    let mut entries: Vec<Destination> = client
        .destinations(&key(service))
        .await?
        .all()?
        .into_iter()
        .map(|entry| entry.destination)
        .collect();
    entries.sort_by_key(|destination| destination.key);
    Ok(entries.iter().map(|found| format!("{} {}", found.key, found.weight)).collect())
}

/// Values of a strategy, the same in each run.
fn values<T: std::fmt::Debug>(strategy: impl Strategy<Value = T>, count: usize) -> Vec<T> {
    let mut runner = TestRunner::deterministic();
    (0..count)
        .map(|_| strategy.new_tree(&mut runner).expect("the strategy has values").current())
        .collect()
}

/// A snapshot with only the settings that the model knows.
fn settings(mut snapshot: Snapshot) -> Snapshot {
    for service in snapshot.services.values_mut() {
        service.entry.statistics = Statistics::default();
        service.entry.service.flags |= ServiceFlags::HASHED;
        for entry in &mut service.destinations {
            *entry = DestinationEntry::new(entry.destination.clone());
        }
    }
    snapshot
}

/// Some thousand random requests have the same answers and the same effect in the model and in the kernel.
async fn model_is_the_kernel(_namespace: NetNs, client: Client) -> Outcome {
    let mut refused = 0;
    for requests in values(vec(strategy::request(), 1..60), 100) {
        client.flush().await?;
        let mut model = Kernel::new();
        let outcomes = client.batch(&requests).await;
        for (request, outcome) in requests.iter().zip(outcomes) {
            let kernel = outcome.err().and_then(|error| error.errno());
            let ours = model.execute(request).err().map(|errno| errno.0);
            assert_eq!(kernel, ours, "{request:?}");
            refused += usize::from(kernel.is_some());
        }
        let found = client.snapshot().await?;
        assert_eq!(settings(found), settings(model.snapshot()), "after {requests:?}");
    }
    assert!(refused > 500, "{refused} are too few refusals");
    Ok(())
}

/// The kernel refuses the new real server, so the old one stays.
async fn refused_real_server(_namespace: NetNs, client: Client) -> Outcome {
    let service = || VirtualService::tcp("[2001:db8::185]:80".parse().expect("an address"));
    service().real_server(nat("[2001:db8::3]:80")).build()?.apply(&client).await?;
    // A link-local address that this host does not have is refused (EINVAL).
    let next = service().real_server(nat("[fe80::dead]:80")).build()?;
    let error = next.apply(&client).await.expect_err("the kernel refuses it");
    let text = error.to_string();
    assert!(text.contains("[fe80::dead]:80"), "{text}");
    assert!(text.ends_with("changes made: 0, failed: 1, not tried: 1"), "{text}");
    assert_eq!(real_servers(&client, "-t [2001:db8::185]:80").await?, ["[2001:db8::3]:80 1"]);
    Ok(())
}

/// The kernel does not know the scheduler: the existing one stays, and new real servers are added.
async fn refused_scheduler(_namespace: NetNs, client: Client) -> Outcome {
    web().real_server(nat("172.17.0.3:80")).build()?.apply(&client).await?;
    let next = web().scheduler("wrrr").real_server(nat("172.17.0.4:80")).build()?;
    let error = next.apply(&client).await.expect_err("no such scheduler").to_string();
    assert!(error.contains("ip_vs_wrrr"), "{error}");
    let found = real_servers(&client, "-t 10.0.0.185:80").await?;
    assert_eq!(found, ["172.17.0.3:80 1", "172.17.0.4:80 1"]);
    // If a new service cannot be added, nothing is tried with its real servers.
    client.flush().await?;
    let error = next.apply(&client).await.expect_err("no such scheduler").to_string();
    assert!(error.ends_with("changes made: 0, failed: 1, not tried: 1"), "{error}");
    Ok(())
}

/// The other services become as desired, deletions included.
async fn failure_stays_in_its_service(_namespace: NetNs, client: Client) -> Outcome {
    let service = |port: u16, real_server: &str, scheduler: &str| {
        VirtualService::tcp((IpAddr::from([10, 0, 0, 185]), port).into())
            .scheduler(scheduler)
            .real_server(nat(real_server))
    };
    let old = (1..=4).map(|port| service(port, "172.17.0.3:80", "rr"));
    let policy = Policy::new().scope(Scope::All);
    old.collect::<Result<Desired, _>>()?.apply(&client, &policy).await?;
    let new = [
        service(1, "172.17.0.4:80", "rr"),
        service(2, "172.17.0.4:80", "wrrr"),
        service(3, "172.17.0.4:80", "wrr"),
    ];
    let desired = new.into_iter().collect::<Result<Desired, _>>()?;
    let error = desired.apply(&client, &policy).await.expect_err("no such scheduler");
    let applied = error.applied().ok_or("the table was read")?;
    let failed: Vec<String> = applied.failed().map(|(change, _)| change.to_string()).collect();
    assert_eq!(failed, ["~ -t 10.0.0.185:2 scheduler rr -> wrrr"]);
    assert_eq!(applied.not_sent(), 1, "the old real server of the second service");
    for port in [1, 3] {
        let found = real_servers(&client, &format!("-t 10.0.0.185:{port}")).await?;
        assert_eq!(found, ["172.17.0.4:80 1"]);
    }
    let found = real_servers(&client, "-t 10.0.0.185:2").await?;
    assert_eq!(found, ["172.17.0.3:80 1", "172.17.0.4:80 1"]);
    let keys: Vec<String> =
        client.snapshot().await?.services.keys().map(ToString::to_string).collect();
    assert_eq!(keys, ["-t 10.0.0.185:1", "-t 10.0.0.185:2", "-t 10.0.0.185:3"]);
    Ok(())
}

/// Both succeed, in either order.
async fn two_managers_at_once(namespace: NetNs, client: Client) -> Outcome {
    let other = Client::connect_in(&namespace)?;
    let service =
        web().real_servers((1..=20).map(|host| nat(&format!("172.17.0.{host}:80")))).build()?;
    let old = web().scheduler("wlc").real_server(nat("172.17.0.3:80").weight(3)).build()?;
    let mut already = 0;
    for round in 0..60 {
        client.flush().await?;
        if round % 2 == 1 {
            old.apply(&client).await?;
        }
        let (one, two) = tokio::join!(service.apply(&client), service.apply(&other));
        already += one?.already() + two?.already();
        assert_eq!(client.destinations(service.key()).await?.len(), 20);
        assert!(service.plan(&client).await?.is_empty());
    }
    assert!(already > 0, "they wrote at the same time");
    Ok(())
}

/// The kernel has exactly what was planned, for every setting.
async fn random_tables(namespace: NetNs, client: Client) -> Outcome {
    let policy = Policy::new().scope(Scope::All);
    for (desired, others) in values((strategy::desired(), vec(strategy::request(), 0..30)), 100) {
        // Another program writes over the result of the last round.
        let _ = client.batch(&others).await;
        let applied = desired.apply(&client, &policy).await?;
        assert!(applied.held_back().len() == 0 && applied.uncertain().is_empty());
        assert!(desired.plan(&client, &policy).await?.is_empty());
        assert_eq!(Desired::try_from(&client.snapshot().await?)?, desired);
    }
    let table = Table::read(&client).await?;
    assert!(table.is_complete());
    let twin = blocking::Client::connect_in(&namespace)?;
    assert_eq!(lvs::block_on(Table::read(&twin))?.to_string(), table.to_string());
    Ok(())
}

async fn scope_and_guard(_namespace: NetNs, client: Client) -> Outcome {
    let service = |host: u8| {
        VirtualService::tcp((IpAddr::from([10, 96, 0, host]), 80).into())
            .real_server(nat("172.17.0.3:80"))
    };
    let five = (1..=5).map(service).collect::<Result<Desired, _>>()?;
    web().build()?.apply(&client).await?;
    let mut ledger = Ledger::new();
    assert!(ledger.claim(&five) && !ledger.claim(&five));
    let policy =
        |ledger: &Ledger| Policy::new().scope(Scope::Ledger(ledger.clone())).max_deletions(3);
    five.apply(&client, &policy(&ledger)).await?;
    assert_eq!(client.services().await?.len(), 6);

    // The source is empty: nothing is deleted before that is confirmed.
    let none = Desired::new();
    let applied = none.apply(&client, &policy(&ledger)).await?;
    assert_eq!((applied.held_back().len(), applied.len()), (5, 0));
    assert_eq!(client.services().await?.len(), 6);
    let plan = none.plan(&client, &policy(&ledger)).await?;
    assert!(plan.to_string().starts_with("# held back, since more than allowed: 10\n"), "{plan}");
    assert_eq!(plan.confirm().apply(&client).await?.len(), 5);
    let left: Vec<ServiceKey> = client.snapshot().await?.services.into_keys().collect();
    assert_eq!(left, [key("-t 10.0.0.185:80")], "somebody else's service is spared");
    assert!(ledger.settle(&none, &client.snapshot().await?));
    assert_eq!(ledger, Ledger::new());

    let mine = Scope::only(|key| key.to_string().starts_with("-t 10.96."));
    five.apply(&client, &Policy::new()).await?;
    let applied = none.apply(&client, &Policy::new().scope(mine)).await?;
    assert_eq!(applied.len(), 5);
    assert!(none.apply(&client, &Policy::new()).await?.is_empty(), "by default nothing is deleted");
    assert_eq!(none.apply(&client, &Policy::new().scope(Scope::All)).await?.len(), 1);
    Ok(())
}

/// If a run is killed between any two writes, the next one finishes the work, and the service always has a
/// usable real server.
async fn killed_at_each_write(_namespace: NetNs, client: Client) -> Outcome {
    let old = web().real_servers([nat("172.17.0.3:80"), nat("172.17.0.4:80").weight(0)]).build()?;
    let new = web()
        .scheduler("wrr")
        .real_servers([
            nat("172.17.0.3:80").weight(0),
            nat("172.17.0.4:80").weight(2),
            nat("172.17.0.5:80"),
        ])
        .build()?;
    let other = VirtualService::firewall_mark(7).real_server(nat("172.17.0.3:80")).build()?;
    let desired = Desired::from(new.clone());
    let policy = Policy::new().scope(Scope::All);
    let keys = BTreeSet::from([*new.key(), *other.key()]);
    for writes in 0..=5 {
        client.flush().await?;
        old.apply(&client).await?;
        other.apply(&client).await?;
        let table = client.snapshot().await?;
        let plan = Plan::of_services(&keys, &desired, &table, &policy);
        assert_eq!(plan.len(), 5, "{plan}");
        assert!(Phase::ALL.into_iter().all(|phase| !plan.phase(phase).is_empty()), "{plan}");
        for request in plan.requests().take(writes) {
            client.batch(&[request]).await.into_iter().collect::<Result<(), _>>()?;
            let found = client.destinations(new.key()).await?.all()?;
            assert!(found.iter().any(|entry| entry.destination.weight != Weight::ZERO));
        }
        let applied = desired.apply(&client, &policy).await?;
        assert_eq!(applied.len(), 5 - writes);
        assert_eq!(Desired::try_from(&client.snapshot().await?)?, desired);
    }
    Ok(())
}

pub(crate) const PARTS: &[Part] = &[APPLIES];
const APPLIES: Part = Part("applies", applies);

/// The table that the killed process finds, with more real servers than fit in one datagram.
fn before_the_kill() -> Result<Desired, Failed> {
    let old = web().real_servers([nat("172.17.0.3:80"), nat("172.17.0.4:80").weight(0)]);
    let other = VirtualService::firewall_mark(7).real_server(nat("172.17.0.3:80"));
    Ok([old, other].into_iter().collect::<Result<Desired, _>>()?)
}

/// The table that it applies.
fn after_the_kill() -> Result<Desired, Failed> {
    let more = (1..=200).map(|host| nat(&format!("172.18.0.{host}:80")));
    let first = [nat("172.17.0.3:80").weight(0), nat("172.17.0.5:80")];
    Ok(web().scheduler("wrr").real_servers(first.into_iter().chain(more)).build()?.into())
}

/// Plans, and applies when its standard input says so.
fn applies() -> Outcome {
    let client = blocking::Client::connect()?;
    let plan = lvs::block_on(after_the_kill()?.plan(&client, &Policy::new().scope(Scope::All)))?;
    println!("ready");
    std::io::stdin().read_line(&mut String::new())?;
    lvs::block_on(plan.apply(&client))?;
    Ok(())
}

/// A process that applies is killed before and after each of its system calls; the next run finishes
/// the work. The service always has a usable real server.
async fn killed_at_each_system_call(namespace: NetNs, client: Client) -> Outcome {
    let policy = Policy::new().scope(Scope::All);
    let (old, new) = (before_the_kill()?, after_the_kill()?);
    let mut left = BTreeSet::new();
    for stops in 0.. {
        assert!(stops < 400, "it does not end");
        client.flush().await?;
        old.apply(&client, &policy).await?;
        let ended = namespace.run(|| killed_after(stops))??;
        let found = client.destinations(&key("-t 10.0.0.185:80")).await?.all()?;
        assert!(found.iter().any(|entry| entry.destination.weight != Weight::ZERO), "{stops}");
        left.insert(new.apply(&client, &policy).await?.len());
        assert_eq!(Desired::try_from(&client.snapshot().await?)?, new, "after {stops} stops");
        if ended {
            break;
        }
    }
    // Its five datagrams: a service, 201 real servers in two, a weight, and the deletions.
    println!("writes left: {left:?}");
    assert_eq!(left, BTreeSet::from([0, 2, 3, 76, 204, 205]));
    Ok(())
}

/// Starts a process that applies and kills it after this number of stops at system calls. Returns
/// whether it had ended before.
fn killed_after(stops: usize) -> Result<bool, Failed> {
    let mut command = part::again(APPLIES)?;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut ready = String::new();
    BufReader::new(child.stdout.take().ok_or("it has an output")?).read_line(&mut ready)?;
    assert_eq!(ready, "ready\n");
    let pid = Pid::from_raw(child.id().try_into()?);
    ptrace::attach(pid)?;
    waitpid(pid, None)?;
    child.stdin.take().ok_or("it has an input")?.write_all(b"go\n")?;
    for _ in 0..stops {
        ptrace::syscall(pid, None)?;
        if let WaitStatus::Exited(_, code) = waitpid(pid, None)? {
            assert_eq!(code, 0, "it ends well");
            return Ok(true);
        }
    }
    child.kill()?;
    child.wait()?;
    Ok(false)
}

/// A connection of netlink-proto in a namespace, and its driver.
fn netlink_proto(
    namespace: &NetNs,
) -> Result<(impl Future<Output = ()> + Send + 'static, NetlinkProto), Failed> {
    let runtime = tokio::runtime::Handle::current();
    let made = namespace.run(move || {
        let _runtime = runtime.enter();
        netlink_proto::new_connection(netlink_sys::protocols::NETLINK_GENERIC)
    })?;
    let (mut driver, connection, _unsolicited) = made?;
    driver.set_forward_ack(true);
    driver.set_forward_done(true);
    Ok((driver, NetlinkProto::new(connection)))
}

/// Over a program's own connection of netlink-proto all is as over the client: what is written, what is
/// read, and what fails. Its limits are errors.
async fn over_netlink_proto(namespace: NetNs, client: Client) -> Outcome {
    let (driver, port) = netlink_proto(&namespace)?;
    let driver = tokio::spawn(driver);
    let mut runner = TestRunner::deterministic();
    let policy = Policy::new().scope(Scope::All);
    for _ in 0..20 {
        let desired = strategy::desired().new_tree(&mut runner)?.current();
        desired.apply(&port, &policy).await?;
        assert_eq!(Desired::try_from(&client.snapshot().await?)?, desired);
        // Read over it, nothing differs.
        assert!(desired.plan(&port, &policy).await?.is_empty());
    }
    // A list of many datagrams, and several lists at once: the kernel makes one at a time.
    let real_servers = (0..250u8).map(|host| RealServer::nat(([172, 17, 1, host], 80).into()));
    let large = web().real_servers(real_servers).build()?;
    large.apply(&port).await?;
    let over = desired_of(&client).await?;
    let (one, other, whole) =
        tokio::join!(large.plan(&port), desired_of(&port), over.plan(&port, &policy));
    assert!(one?.is_empty() && whole?.is_empty());
    assert_eq!(other?, over);
    // Refusals are the kernel's, one for each write.
    let refused = web().scheduler("wrrr").build()?;
    let errors = [
        refused.apply(&port).await.err().map(|error| error.to_string()),
        refused.apply(&client).await.err().map(|error| error.to_string()),
    ];
    assert!(errors[0].is_some() && errors[0] == errors[1], "{errors:?}");
    assert!(
        !lvs::read_services(&port, &BTreeSet::from([key("-f 77")]))
            .await?
            .services
            .contains_key(&key("-f 77"))
    );
    // A reconciler keeps a state in effect over it.
    let mut reconciler = Reconciler::new(policy.clone());
    reconciler.set(Desired::new());
    let round = reconciler.round(&port, Instant::now()).await.ok_or("no round")?;
    round.result?;
    assert!(client.snapshot().await?.services.is_empty());
    // Without its driver nothing is answered, and no call hangs.
    driver.abort();
    let _ = driver.await;
    let error = failure(&port).await?;
    assert!(error.contains("connection has ended"), "{error}");
    let (idle, port) = netlink_proto(&namespace)?;
    let port = port.time_limit(Duration::from_millis(100));
    let error = failure(&port).await?;
    assert!(error.contains("no answer came in time"), "{error}");
    drop(idle);
    Ok(())
}

async fn failure(port: &impl lvs::Port) -> Result<String, Failed> {
    let error = Table::read(port).await.err();
    Ok(error.ok_or("it was answered")?.to_string())
}

async fn desired_of(port: &impl lvs::Port) -> Result<Desired, Failed> {
    Ok(Desired::try_from(&Table::read(port).await?.snapshot)?)
}

/// It takes what comes, repairs what others do, writes nothing where nothing differs, and ends when
/// nothing more can come.
async fn reconciler_runs(_namespace: NetNs, client: Client) -> Outcome {
    let state = |weight: u32| -> Result<Desired, Failed> {
        Ok(web().real_server(nat("172.17.0.3:80").weight(weight)).build()?.into())
    };
    let (sender, mut states) = tokio::sync::watch::channel(state(1)?);
    let mut reconciler =
        Reconciler::new(Policy::new().scope(Scope::All)).resync_every(Duration::from_millis(20));
    let mut errors = Vec::new();
    let rounds = Cell::new(0);
    let run = reconciler.run(
        &client,
        &mut states,
        |_| Ok(()),
        |_, round| {
            rounds.set(rounds.get() + 1);
            errors.extend(round.result.as_ref().err().map(ToString::to_string));
        },
    );
    let others = async {
        let wait = async |expected: &[&str]| -> Outcome {
            for _ in 0..500 {
                if real_servers(&client, "-t 10.0.0.185:80").await.is_ok_and(|got| got == expected)
                {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(format!("it never is {expected:?}").into())
        };
        wait(&["172.17.0.3:80 1"]).await?;
        for weight in 2..=9 {
            sender.send(state(weight)?)?;
        }
        wait(&["172.17.0.3:80 9"]).await?;
        client.flush().await?;
        wait(&["172.17.0.3:80 9"]).await?;
        // On any machine, however slow.
        let enough = rounds.get() + 3;
        while rounds.get() < enough {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        sender.send(state(3)?)?;
        drop(sender);
        Ok::<(), Failed>(())
    };
    let ((), outcome) = tokio::join!(run, others);
    outcome?;
    assert_eq!(real_servers(&client, "-t 10.0.0.185:80").await?, ["172.17.0.3:80 3"]);
    assert!(errors.is_empty(), "{errors:?}");
    let status = reconciler.status();
    assert!(status.changes < 8 && status.rounds > status.changes, "{status:?}");
    Ok(())
}

/// Held-back changes stay held back in any round, a confirmation covers only what it names, nothing
/// is written before its claim is stored, and another writer who keeps undoing it is named.
async fn reconciler_keeps_its_promises(_namespace: NetNs, client: Client) -> Outcome {
    let service = |host: u8, servers: &[(u8, u32)]| {
        let servers = servers.iter().map(|(server, weight)| {
            RealServer::nat(([172, 17, host, *server], 80).into()).weight(*weight)
        });
        VirtualService::tcp((IpAddr::from([10, 96, 0, host]), 80).into())
            .real_servers(servers)
            .build()
    };
    let all = |servers: &[(u8, u32)]| {
        (1..=30).map(|host| service(host, servers)).collect::<Result<Vec<_>, _>>()
    };
    let there = async || -> Result<(usize, usize), Failed> {
        let table = client.snapshot().await?;
        let servers = table.services.values().map(|service| service.destinations.len()).sum();
        Ok((table.services.len(), servers))
    };
    let policy = Policy::new().scope(Scope::Ledger(Ledger::new())).max_deletions(10);
    let mut reconciler = Reconciler::new(policy);
    let now = Instant::now();
    let (two, one) = (&[(1, 1), (2, 1)][..], &[(1, 1)][..]);
    reconciler.set(all(two)?.into_iter().collect::<Result<_, _>>()?);
    reconciler.round(&client, now).await.ok_or("it is due")?.result?;
    assert_eq!(there().await?, (0, 0), "its claim is not stored");
    assert!(reconciler.store(|_| Ok(()))?);
    reconciler.round(&client, now).await.ok_or("it is due")?.result?;
    assert_eq!(there().await?, (30, 60));

    reconciler.set(all(one)?.into_iter().collect::<Result<_, _>>()?);
    reconciler.round(&client, now).await.ok_or("it is due")?.result?;
    for host in 1..=30 {
        reconciler.insert(service(host, &[(1, 2)])?);
        let applied = reconciler.round(&client, now).await.ok_or("it is due")?.result?;
        assert_eq!(applied.len(), 1, "the weight");
    }
    assert_eq!((there().await?, reconciler.status().held_back), ((30, 60), 30));
    // An empty source, while its former real servers have weight 0.
    reconciler.set(all(&[(1, 0), (2, 0)])?.into_iter().collect::<Result<_, _>>()?);
    reconciler.round(&client, now).await.ok_or("it is due")?.result?;
    let table = client.snapshot().await?;
    let servers = table.services.values().flat_map(|service| &service.destinations);
    assert!(servers.map(|entry| entry.destination.weight.get()).all(|weight| weight > 0));
    reconciler.set(Desired::new());
    reconciler.round(&client, now).await.ok_or("it is due")?.result?;
    assert_eq!((there().await?, reconciler.status().held_back), ((30, 60), 90));

    let some = reconciler.held_back().filter(|it| it.service < key("-t 10.96.0.10:80"));
    reconciler.confirm(&some);
    reconciler.insert(service(30, two)?);
    reconciler.round(&client, now).await.ok_or("it is due")?.result?;
    assert_eq!((there().await?, reconciler.status().held_back), ((21, 42), 60));
    client.execute(&Request::DeleteService(key("-t 10.96.0.30:80"))).await?;
    reconciler.resync();
    reconciler.round(&client, now).await.ok_or("it is due")?.result?;
    assert_eq!(there().await?, (21, 42), "it is back");
    let undone: Vec<_> = reconciler.undone().map(|undone| undone.service).collect();
    assert_eq!(undone, [key("-t 10.96.0.30:80"); 3], "the service and its real servers");
    Ok(())
}

/// Only what failed is tried again, each time later.
async fn reconciler_tries_again(_namespace: NetNs, client: Client) -> Outcome {
    let good = web().build()?;
    let bad = VirtualService::udp("10.0.0.185:53".parse()?).scheduler("wrrr").build()?;
    let mut reconciler = Reconciler::new(Policy::new())
        .resync_every(Duration::from_secs(1000))
        .back_off(Duration::from_secs(1), Duration::from_secs(3));
    reconciler.insert(good.clone());
    reconciler.insert(bad.clone());
    let mut now = Instant::now();
    for (number, pause) in [1, 2, 3, 3].into_iter().enumerate() {
        let round = reconciler.round(&client, now).await.ok_or("it is due")?;
        let error = round.result.expect_err("no such scheduler");
        assert!(error.to_string().contains("ip_vs_wrrr"), "{error}");
        let whole = number == 0;
        let read = round.table.ok_or("it was read")?;
        assert!(read.services.is_empty(), "before it wrote, and of these services: {read:?}");
        assert_eq!(round.turn.services().is_none(), whole);
        let due = reconciler.due(now).ok_or("it is tried again")?;
        let pause = Duration::from_secs(pause);
        assert!((pause..pause + LIMIT).contains(&(due - now)), "{:?}", due - now);
        now = due;
    }
    assert_eq!(reconciler.status().failed_in_a_row, 4);
    assert!(good.plan(&client).await?.is_empty());
    reconciler.insert(bad.to_builder().scheduler("rr").build()?);
    reconciler.round(&client, now).await.ok_or("it is due")?.result?;
    assert_eq!(reconciler.status().failed_in_a_row, 0);
    assert_eq!(client.services().await?.len(), 2);
    // Anybody can read the services that a round has read.
    let keys = BTreeSet::from([*bad.key(), key("-t 10.0.0.186:80")]);
    let read = lvs::read_services(&client, &keys).await?;
    assert_eq!(read.services.into_keys().collect::<Vec<_>>(), [*bad.key()]);
    Ok(())
}

/// With the blocking client, every future is ready at once.
async fn blocking_twin(namespace: NetNs, client: Client) -> Outcome {
    let twin = blocking::Client::connect_in(&namespace)?;
    let service = web().real_server(nat("172.17.0.3:80")).build()?;
    assert_eq!(lvs::block_on(service.plan(&twin))?.len(), 2);
    assert_eq!(lvs::block_on(service.apply(&twin))?.len(), 2);
    assert!(service.plan(&client).await?.is_empty());
    let desired = Desired::from(service.clone());
    assert!(lvs::block_on(desired.apply(&twin, &Policy::new()))?.is_empty());
    assert!(
        lvs::block_on(lvs::block_on(desired.plan(&twin, &Policy::new()))?.apply(&twin))?.is_empty()
    );
    let keys = BTreeSet::from([*service.key()]);
    assert_eq!(lvs::block_on(lvs::read_services(&twin, &keys))?, client.snapshot().await?);
    assert!(lvs::block_on(service.delete(&twin))? && !lvs::block_on(service.delete(&twin))?);
    Ok(())
}

/// A tunnel's checksum that another tool has set is a setting like the others.
async fn encapsulation_is_kept(_namespace: NetNs, client: Client) -> Outcome {
    let build = |encapsulation| {
        VirtualService::tcp("10.0.0.185:80".parse().expect("an address"))
            .real_server(
                RealServer::tunnel("172.17.0.3".parse().expect("an address"))
                    .encapsulation(encapsulation),
            )
            .build()
    };
    let service = build(Encapsulation::gue(6080).checksum())?;
    // ipvsadm -a … -i --tun-type gue --tun-port 6080 --tun-csum
    client.add_service(service.service()).await?;
    let mut destination = Destination::new("172.17.0.3:80".parse()?);
    destination.forward = ForwardMethod::TUNNEL;
    destination.tunnel = Tunnel::gue(6080.try_into()?, TunnelFlags::CHECKSUM);
    client.add_destination(service.key(), &destination).await?;
    assert!(service.plan(&client).await?.is_empty());
    for encapsulation in [
        Encapsulation::IPIP,
        Encapsulation::gue(6080).checksum().remote_checksum(),
        Encapsulation::gre().checksum(),
        Encapsulation::gre(),
    ] {
        let service = build(encapsulation)?;
        assert_eq!(service.apply(&client).await?.len(), 1, "{encapsulation}");
        let entry = client.destinations(service.key()).await?.all()?.remove(0);
        assert_eq!(Encapsulation::from(entry.destination.tunnel), encapsulation);
        assert!(service.plan(&client).await?.is_empty(), "{encapsulation}");
    }
    Ok(())
}

/// The kernel stores a service at any address. If no client's packet can reach the address, the service does
/// not build; otherwise it does.
async fn addresses_without_clients_do_not_build() -> Outcome {
    for (family, addresses) in [
        (
            Family::Ipv4,
            &[
                "10.0.0.186",
                "0.0.0.1",
                "169.254.1.1",
                "240.0.0.1",
                "0.0.0.0",
                "224.0.0.5",
                "239.1.1.1",
                "255.255.255.255",
            ][..],
        ),
        (
            Family::Ipv6,
            &[
                "fd00:10::186",
                "::10.0.0.186",
                "64:ff9b::1",
                "2001:db8::1",
                "::",
                "::ffff:10.0.0.186",
                "ff02::5",
                "ff0e::5",
            ],
        ),
    ] {
        let scene = Scene::new(family).await?;
        scene.host.forward()?;
        scene.host.filter_bridge()?;
        for address in addresses {
            let to = SocketAddr::new(address.parse()?, 53);
            let service = Service::new(ServiceKey::udp(to)?);
            scene.client.add_service(&service).await?;
            let pod = Destination::new(SocketAddr::new(scene.pods[0].address(), 53).try_into()?);
            scene.client.add_destination(service.key(), &pod).await?;
            // All ways to make an address local; each works for some addresses.
            let host = scene.host.namespace();
            let bits = if to.is_ipv4() { 32 } else { 128 };
            let range = format!("{address}/{bits}");
            let local = [
                run(host, "iproute2", &["ip", "addr", "add", &range, "dev", "dummy0"]),
                run(host, "iproute2", &["ip", "route", "add", "local", &range, "dev", "lo"]),
            ];
            assert!(local.iter().any(Result::is_ok), "{address} is not made local");

            let sent = scene.container.namespace().run(|| send(to))?;
            tokio::time::sleep(Duration::from_millis(20)).await;
            let entry = scene.client.destinations(service.key()).await?.all()?.remove(0);
            let reached = entry.active_connections + entry.inactive_connections > 0;
            let built = VirtualService::udp(to).build();
            assert_eq!(built.is_ok(), reached, "{address}: sent {sent:?}, built {built:?}");
        }
    }
    Ok(())
}

fn send(to: SocketAddr) -> std::io::Result<usize> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_broadcast(true)?;
    socket.send_to(b"x", to)
}
