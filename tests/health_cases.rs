//! Pools, checks and the reconciler together, under traffic.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ipvs_client::Client;
use kernel_tests::{Outcome, block_on};
use libtest_mimic::{Failed, Trial};
use lvs::{Policy, RealServer, Reconciler, Scope, VirtualService};
use lvs_health::{
    Event, Member, OnFailure, Pool,
    check::{Check, Checker, Failure, Http, Kind, Limits, News, Pace, Target, To, Wanted},
};
use netns_link::{Address, NetNs, Setting, prepare_real_server};
use testbed::{DockerHost, Family, Server, page};
use tokio::time::timeout;

use crate::scene::{Director, LIMIT};

/// Every case by its name.
pub(crate) fn cases() -> Vec<Trial> {
    let case = |name: &str, family| {
        Trial::test(name, move || block_on(stops_and_starts_under_traffic(family)))
    };
    vec![
        case("health_server_stops_and_starts_under_traffic_ipv4", Family::Ipv4),
        case("health_server_stops_and_starts_under_traffic_ipv6", Family::Ipv6),
        Trial::test("health_echo_by_group", || block_on(echo_by_group())),
        Trial::test("health_virtual_address_by_mark", || block_on(virtual_address_by_mark())),
    ]
}

/// How a check finds a namespace.
fn path(namespace: &NetNs) -> PathBuf {
    format!("/proc/self/fd/{}", namespace.as_fd().as_raw_fd()).into()
}

/// What a client's request found, and when it ended.
type Requests = Arc<Mutex<Vec<(Instant, Result<String, String>)>>>;

/// Asks again and again until it is told to stop.
async fn ask(from: NetNs, address: SocketAddr, stop: Arc<AtomicBool>, requests: Requests) {
    while !stop.load(Ordering::Relaxed) {
        let got = testbed::http_get(&from, address, Duration::from_millis(500)).await;
        let got = got.map_err(|error| error.to_string());
        requests.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), got));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A pool with its checks and the table that follows.
struct Looked<'a> {
    pool: Pool,
    reconciler: Reconciler,
    client: &'a Client,
    news: tokio::sync::mpsc::Receiver<News>,
    _checker: Checker,
}

impl Looked<'_> {
    /// Goes on until an event is there.
    async fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Result<(), Failed> {
        let until = Instant::now() + LIMIT;
        loop {
            let step = self.pool.step(Instant::now());
            if let Some(service) = step.service {
                self.reconciler.insert(service);
            }
            while let Some(round) = self.reconciler.round(self.client, Instant::now()).await {
                round.result?;
            }
            if step.events.iter().any(&wanted) {
                return Ok(());
            }
            if let News::Result(report) =
                timeout(until.saturating_duration_since(Instant::now()), self.news.recv())
                    .await?
                    .ok_or("no news")?
            {
                for outcome in report.outcomes {
                    self.pool.report(&report.member, outcome, Instant::now());
                }
            }
        }
    }
}

async fn stops_and_starts_under_traffic(family: Family) -> Outcome {
    let Director { host, pods, client, vip } = Director::new(family).await?;
    let address = SocketAddr::new(vip, 80);
    let servers: Vec<_> =
        pods.iter().map(|pod| RealServer::nat((pod.address(), 80).into()).weight(10)).collect();
    let builder = servers.iter().fold(
        Pool::new(VirtualService::tcp(address).scheduler("rr")).on_failure(OnFailure::Inhibit),
        |pool, server| pool.member(Member::new(server.clone()).rise(1).fall(2)),
    );
    let pool = builder.build()?;
    let (checker, news) = Checker::start(Limits::default());
    let mut check = Check::new(Kind::Http(Http::default())).timeout(Duration::from_millis(300));
    check.netns = Some(path(host.namespace()));
    let pace = Pace::every(Duration::from_millis(100));
    let wanted = pool.members().map(|(member, ..)| Wanted {
        pool: *pool.key(),
        member: *member,
        check: check.clone(),
        pace,
    });
    checker.replace(wanted.collect());
    let members: Vec<_> = servers.iter().map(|server| server.key(pool.key())).collect();
    let reconciler = Reconciler::new(Policy::new().scope(Scope::All));
    let mut looked = Looked { pool, reconciler, client: &client, news, _checker: checker };

    // At first one of both is there.
    let _first = pods[0].serve_http(80)?;
    looked.until(|event| matches!(event, Event::Down(member, _) if *member == members[1])).await?;
    let second = pods[1].serve_http(80)?;
    looked.until(|event| *event == Event::Up(members[1])).await?;

    let requests = Requests::default();
    let stop = Arc::new(AtomicBool::new(false));
    let inside = NetNs::from_path(path(host.namespace()))?;
    let asking = tokio::spawn(ask(inside, address, stop.clone(), requests.clone()));
    let answers_of = |since: Instant| {
        let requests = requests.lock().unwrap_or_else(PoisonError::into_inner);
        let new = requests.iter().filter(move |(time, _)| *time > since);
        new.map(|(_, answer)| answer.clone()).collect::<Vec<_>>()
    };
    let has = |answers: &[Result<String, String>], name: &str| {
        answers.iter().any(|answer| answer.as_deref() == Ok(page(name).as_str()))
    };
    let begin = Instant::now();
    while !["pod1", "pod2"].iter().all(|name| has(&answers_of(begin), name)) {
        assert!(begin.elapsed() < LIMIT, "both get requests: {:?}", answers_of(begin));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    second.stop().await;
    looked.until(|event| matches!(event, Event::Down(member, _) if *member == members[1])).await?;
    // What was under way may still fail; then nothing.
    tokio::time::sleep(Duration::from_millis(600)).await;
    let out = Instant::now();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let answers = answers_of(out);
    assert!(!answers.is_empty() && answers.iter().all(Result::is_ok), "{answers:?}");
    assert!(!has(&answers, "pod2"));

    let back = Instant::now();
    let _second = pods[1].serve_http(80)?;
    looked.until(|event| *event == Event::Up(members[1])).await?;
    while !has(&answers_of(back), "pod2") {
        assert!(back.elapsed() < LIMIT, "it gets requests again: {:?}", answers_of(back));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(answers_of(out).iter().all(Result::is_ok), "{:?}", answers_of(out));
    stop.store(true, Ordering::Relaxed);
    asking.await?;
    Ok(())
}

/// The setting says which groups may send echo requests; root's right alone does not count.
async fn echo_by_group() -> Outcome {
    for family in [Family::Ipv4, Family::Ipv6] {
        let host = DockerHost::new(family).await?;
        let pod = host.container("pod", 3).await?;
        let mut check = Check::new(Kind::Icmp).timeout(LIMIT);
        check.netns = Some(path(host.namespace()));
        let target = Target::new(SocketAddr::new(pod.address(), 0));
        let groups = Setting::new("net.ipv4.ping_group_range")?;
        groups.write(host.namespace(), "1 0")?;
        match check.run(&target).await {
            Err(Failure::Unable(reason)) => {
                assert!(reason.contains("ping_group_range"), "{reason}");
            }
            other => return Err(format!("{other:?}").into()),
        }
        groups.write(host.namespace(), "0 2147483647")?;
        assert_eq!(check.run(&target).await?.to_string(), "echo");
        // Nobody has the next address.
        let nobody = Target::new(SocketAddr::new(family.on_bridge(77), 0));
        let check = check.timeout(Duration::from_millis(300));
        match check.run(&nobody).await {
            Err(Failure::Bad(_)) => {}
            other => return Err(format!("{other:?}").into()),
        }
    }
    Ok(())
}

/// With direct routing a server may answer on its own address and not on the virtual one. A service by mark of
/// its own leads a check's packets where clients' go: to one real server, at the virtual address.
async fn virtual_address_by_mark() -> Outcome {
    let host = DockerHost::new(Family::Ipv4).await?;
    let director = host.container("director", 10).await?;
    let vip = SocketAddr::new(Family::Ipv4.on_bridge(100), 80);
    let names = ["good", "bad"];
    let mut pods = Vec::new();
    for (name, number) in names.into_iter().zip([20, 21]) {
        pods.push(host.container(name, number).await?);
    }
    // Both serve on their own address, one on the virtual address, too.
    let mut setup = prepare_real_server(pods[0].namespace(), "dummy0", &[vip.ip()])?;
    let any = |port| SocketAddr::new(IpAddr::from([0, 0, 0, 0]), port);
    let _servers = [
        Server::http(pods[0].namespace(), any(80), names[0])?,
        Server::http(pods[1].namespace(), any(80), names[1])?,
    ];
    // The director has the address as directors have it.
    let lo = director.links().find("lo").await?.ok_or("no lo")?;
    director.links().add_address(&lo, Address::host(vip.ip())).await?;
    // Replies come from an address that is its own.
    for setting in ["net.ipv4.conf.all.accept_local", "net.ipv4.conf.eth0.accept_local"] {
        Setting::new(setting)?.write(director.namespace(), "1")?;
    }
    for setting in ["net.ipv4.conf.all.rp_filter", "net.ipv4.conf.eth0.rp_filter"] {
        Setting::new(setting)?.write(director.namespace(), "0")?;
    }
    let client = Client::connect_in(director.namespace())?;
    for (pod, mark) in pods.iter().zip([1001, 1002]) {
        let service = VirtualService::firewall_mark(mark)
            .real_server(RealServer::direct(pod.address()))
            .build()?;
        service.apply(&client).await?;
        let service = VirtualService::tcp(vip)
            .real_servers(pods.iter().map(|pod| RealServer::direct(pod.address())))
            .build()?;
        service.apply(&client).await?;
        let member = RealServer::direct(pod.address()).key(service.key());
        let target = Target::of(service.key(), &member);
        let mut check = Check::new(Kind::Http(Http::default())).timeout(LIMIT);
        check.netns = Some(path(director.namespace()));
        check.run(&target).await?;
        (check.to, check.mark, check.from) = (To::Service, Some(mark), Some(director.address()));
        let mut http = Http::default();
        http.pattern = Some(names[0].parse()?);
        check.kind = Kind::Http(http);
        let check = check.timeout(Duration::from_secs(2));
        match (mark, check.run(&target).await) {
            (1001, Ok(_)) | (1002, Err(Failure::Bad(_))) => {}
            (mark, other) => return Err(format!("mark {mark}: {other:?}").into()),
        }
    }
    setup.undo(pods[0].namespace())?;
    Ok(())
}
