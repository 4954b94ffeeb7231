//! Every forwarding method, from every place, with real traffic, and the effects of schedulers, weights,
//! thresholds and persistence.

use std::{
    cell::Cell,
    collections::BTreeMap,
    net::{SocketAddr, TcpStream as StdTcpStream},
    time::{Duration, Instant},
};

use ipvs_client::{
    Client, Sysctl,
    packet::{DestinationKey, ServiceKey, Timeouts, Weight},
};
use kernel_tests::{Outcome, block_on, needing};
use libtest_mimic::{Failed, Trial};
use lvs::{
    Desired, Drain, Encapsulation, Policy, RealServer, Reconciler, Scope, VirtualService,
    VirtualServiceBuilder,
};
use netns_link::{NetNs, Setting, prepare_real_server};
use testbed::{Container, Family, Server, tcp_exchange, udp_exchange};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::scene::{LIMIT, Scene};

/// How long to wait on a path that does not work.
const NO_ANSWER_WAIT: Duration = Duration::from_millis(400);
const TCP: u16 = 7;
const GUE: u16 = 6080;
const UDP: u16 = 53;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Method {
    Nat,
    Direct,
    Tunnel,
    Gue,
}

/// Every case by its name.
pub(crate) fn cases() -> Vec<Trial> {
    let mut cases = Vec::new();
    for (family, suffix) in [(Family::Ipv4, "ipv4"), (Family::Ipv6, "ipv6")] {
        for (method, name) in
            [(Method::Nat, "nat"), (Method::Direct, "direct"), (Method::Tunnel, "tunnel")]
        {
            cases.push(Trial::test(format!("traffic_{name}_{suffix}"), move || {
                block_on(paths(method, family))
            }));
        }
        let gue = Trial::test(format!("traffic_gue_{suffix}"), move || {
            block_on(paths(Method::Gue, family))
        });
        cases.push(needing(&[("ip", "iproute2")], gue));
    }
    let mut case = |name: &str, run: fn() -> Outcome| {
        cases.push(Trial::test(format!("traffic_{name}"), run));
    };
    case("weight_zero_keeps_what_is_open", || block_on(weight_zero_keeps_what_is_open()));
    case("thresholds_bound_connections", || block_on(thresholds_bound_connections()));
    case("persistence_sticks", || block_on(persistence_sticks()));
    case("schedulers_of_short_connections", || block_on(schedulers_of_short_connections()));
    case("roll_out_breaks_nothing", || block_on(roll_out_breaks_nothing(false)));
    case("roll_out_of_persistent_clients_breaks_nothing", || {
        block_on(roll_out_breaks_nothing(true))
    });
    case("roll_out_without_draining_breaks_requests", || {
        block_on(roll_out_without_draining_breaks_requests())
    });
    case("drain_of_a_whole_service", || block_on(drain_of_a_whole_service()));
    case("drain_of_a_whole_service_ends_with_its_connections", || {
        block_on(drain_of_a_whole_service_ends_with_its_connections())
    });
    case("applies_wait_for_connections", || block_on(applies_wait_for_connections()));
    case("drain_of_persistent_clients", || block_on(drain_of_persistent_clients()));
    case("drained_server_returns", || block_on(drained_server_returns()));
    case("schedulers_of_open_connections", || block_on(schedulers_of_open_connections()));
    cases
}

/// TCP and UDP, from a container on the pods' bridge, from another network, and from the director.
async fn paths(method: Method, family: Family) -> Outcome {
    let scene = Scene::new(family).await?;
    let outside = scene.host.external_client("outside").await?;
    let tcp = SocketAddr::new(scene.address.ip(), TCP);
    let udp = SocketAddr::new(scene.address.ip(), UDP);
    scene.host.forward()?;
    if method == Method::Nat {
        scene.host.filter_bridge()?;
    }
    let mut servers: Vec<Server> = Vec::new();
    for pod in &scene.pods {
        if method != Method::Nat {
            let _ = prepare_real_server(pod.namespace(), "dummy1", &[scene.address.ip()])?;
        }
        if matches!(method, Method::Tunnel | Method::Gue) {
            pod.open_tunnel().await?;
        }
        servers.push(pod.serve_tcp(TCP)?);
        // A datagram's answer comes from the address that it was sent to.
        let address = if method == Method::Nat { pod.address() } else { scene.address.ip() };
        servers.push(pod.serve_udp(SocketAddr::new(address, UDP))?);
    }
    // The director must not ask for the pods' link-layer addresses with the virtual address as source.
    Setting::arp_announce("all")?.write(scene.host.namespace(), 2)?;
    let behind = |builder: VirtualServiceBuilder, port| {
        let real_servers = scene.pods.iter().map(|pod| match method {
            Method::Nat => RealServer::nat((pod.address(), port).into()),
            Method::Direct => RealServer::direct(pod.address()),
            Method::Tunnel => RealServer::tunnel(pod.address()),
            Method::Gue => RealServer::tunnel(pod.address()).encapsulation(Encapsulation::gue(GUE)),
        });
        builder.scheduler("rr").real_servers(real_servers).build()
    };
    behind(VirtualService::tcp(tcp), TCP)?.apply(&scene.client).await?;
    behind(VirtualService::udp(udp), UDP)?.apply(&scene.client).await?;

    if method == Method::Gue {
        // The packets arrive in UDP, and nothing removes it yet.
        let early = tcp_exchange(scene.container.namespace(), tcp, "hello", NO_ANSWER_WAIT).await;
        assert!(early.is_err(), "the packets do not come in UDP");
        scene.pods.iter().try_for_each(|pod| pod.open_gue(GUE))?;
    }
    let works = |place: &str| match (method, family, place) {
        (Method::Nat, ..) | (.., "container") => true,
        // A pod answers clients outside through the director, which has the answer's source address itself,
        // and drops the answer as spoofed. IPv6 does not check.
        (_, Family::Ipv6, "outside") => true,
        // The source of the director's own packets is the virtual address, and a pod drops packets from
        // its own address as well.
        _ => false,
    };
    let places = [
        ("container", scene.container.namespace()),
        ("outside", outside.namespace()),
        ("host", scene.host.namespace()),
    ];
    for (place, from) in places {
        if works(place) {
            let mut answers = BTreeMap::new();
            for _ in 0..4 {
                for answer in [
                    tcp_exchange(from, tcp, "hello", LIMIT).await?,
                    udp_exchange(from, udp, "hello", LIMIT).await?,
                ] {
                    *answers.entry(answer).or_insert(0) += 1;
                }
            }
            // Round robin: each of the two services gives every other connection to each pod.
            let expected = ["pod1: hello", "pod2: hello"].map(|answer| (answer.to_owned(), 4));
            assert_eq!(answers, BTreeMap::from(expected), "{method:?} from {place}");
        } else {
            let error = tcp_exchange(from, tcp, "hello", NO_ANSWER_WAIT).await;
            assert!(error.is_err_and(|e| e.is_timeout()), "TCP, {method:?} from {place}");
            let error = udp_exchange(from, udp, "hello", NO_ANSWER_WAIT).await;
            assert!(error.is_err_and(|e| e.is_timeout()), "UDP, {method:?} from {place}");
        }
    }
    Ok(())
}

/// Two pods that answer with their names, behind a service with NAT, with the host as client.
struct Named {
    scene: Scene,
    address: SocketAddr,
    _servers: Vec<Server>,
}

impl Named {
    async fn new() -> Result<Self, Failed> {
        let scene = Scene::new(Family::Ipv4).await?;
        let servers = scene.pods.iter().map(|pod| pod.serve_tcp(TCP)).collect::<Result<_, _>>()?;
        let address = SocketAddr::new(scene.address.ip(), TCP);
        Ok(Self { scene, address, _servers: servers })
    }

    fn pod(&self, number: usize) -> RealServer {
        RealServer::nat((self.scene.pods[number].address(), TCP).into())
    }

    /// The service with this scheduler and these weights, and nothing of an earlier one.
    async fn serve(&self, scheduler: &str, weights: [u32; 2]) -> Outcome {
        self.scene.client.flush().await?;
        let real_servers = [0, 1].map(|pod| self.pod(pod).weight(weights[pod]));
        let service = VirtualService::tcp(self.address).scheduler(scheduler);
        service.real_servers(real_servers).build()?.apply(&self.scene.client).await?;
        Ok(())
    }

    /// The service with both pods.
    fn both(&self) -> Result<Desired, Failed> {
        let service = VirtualService::tcp(self.address).scheduler("rr");
        Ok(service.real_servers([0, 1].map(|pod| self.pod(pod))).build()?.into())
    }

    fn host(&self) -> &NetNs {
        self.scene.host.namespace()
    }

    /// Which pod answers, for this number of connections, one after the other.
    async fn ask(&self, from: &NetNs, times: usize) -> Result<[usize; 2], Failed> {
        let mut answers = [0; 2];
        for _ in 0..times {
            answers[pod_of(&tcp_exchange(from, self.address, "who", LIMIT).await?)?] += 1;
        }
        Ok(answers)
    }

    /// Which pod answers, for this number of connections that stay open.
    async fn ask_open(&self, times: usize) -> Result<([usize; 2], Vec<Open>), Failed> {
        let mut answers = [0; 2];
        let mut open = Vec::new();
        for _ in 0..times {
            let mut connection = Open::new(self.host(), self.address)?;
            answers[connection.ask().await?] += 1;
            open.push(connection);
        }
        Ok((answers, open))
    }
}

/// A connection that stays open.
struct Open(TcpStream);

impl Open {
    fn new(from: &NetNs, to: SocketAddr) -> Result<Self, Failed> {
        let stream = from.run(|| StdTcpStream::connect_timeout(&to, LIMIT))??;
        stream.set_nonblocking(true)?;
        Ok(Self(TcpStream::from_std(stream)?))
    }

    /// Which pod answers on it.
    async fn ask(&mut self) -> Result<usize, Failed> {
        self.0.write_all(b"who").await?;
        let mut answer = [0; 64];
        let length = tokio::time::timeout(LIMIT, self.0.read(&mut answer)).await??;
        pod_of(std::str::from_utf8(&answer[..length])?)
    }
}

fn pod_of(answer: &str) -> Result<usize, Failed> {
    match answer {
        "pod1: who" => Ok(0),
        "pod2: who" => Ok(1),
        other => Err(format!("nobody's answer: {other:?}").into()),
    }
}

async fn weight_zero_keeps_what_is_open() -> Outcome {
    let named = Named::new().await?;
    named.serve("rr", [1, 1]).await?;
    let (_, mut open) = named.ask_open(2).await?;
    let service = ServiceKey::tcp(named.address)?;
    let drained = DestinationKey { address: named.scene.pods[0].address(), port: TCP };
    let client = &named.scene.client;
    client.modify_destination(&service, &drained, |pod| pod.weight = Weight::ZERO).await?;
    assert_eq!(named.ask(named.host(), 6).await?, [0, 6], "no new connections");
    let mut answers = [0; 2];
    for connection in &mut open {
        answers[connection.ask().await?] += 1;
    }
    assert_eq!(answers, [1, 1], "open connections continue");
    Ok(())
}

async fn thresholds_bound_connections() -> Outcome {
    let named = Named::new().await?;
    let service = VirtualService::tcp(named.address)
        .scheduler("rr")
        .real_servers([named.pod(0).thresholds(2, 1), named.pod(1)])
        .build()?;
    service.apply(&named.scene.client).await?;
    let (answers, open) = named.ask_open(8).await?;
    assert_eq!(answers, [2, 6], "full at two connections");
    drop(open);
    Ok(())
}

async fn persistence_sticks() -> Outcome {
    let named = Named::new().await?;
    let neighbour = named.scene.host.container("neighbour", 6).await?;
    named.scene.host.forward()?;
    named.scene.host.filter_bridge()?;
    let service = |bits| {
        VirtualService::tcp(named.address)
            .scheduler("rr")
            .persistent()
            .netmask(bits)
            .real_servers([named.pod(0), named.pod(1)])
            .build()
    };
    let clients: [&Container; 2] = [&named.scene.container, &neighbour];
    let mut who = Vec::new();
    for bits in [32, 24] {
        named.scene.client.flush().await?;
        service(bits)?.apply(&named.scene.client).await?;
        for client in clients {
            let answers = named.ask(client.namespace(), 6).await?;
            assert!(answers == [6, 0] || answers == [0, 6], "one pod for a client: {answers:?}");
            who.push(answers);
        }
    }
    // With round robin the second client gets the other pod; counted as one client, the same.
    assert_ne!(who[0], who[1]);
    assert_eq!(who[2], who[3]);
    Ok(())
}

/// Keeps the service as desired, with this limit for draining.
fn reconciler(limit: Duration) -> Reconciler {
    Reconciler::new(Policy::new().drain(drain(limit)))
}

fn drain(limit: Duration) -> Drain {
    Drain::for_at_most(limit).look_every(Duration::from_millis(50))
}

/// Runs the rounds that are due until nothing is being drained.
async fn settle(reconciler: &mut Reconciler, client: &Client) -> Outcome {
    let until = Instant::now() + LIMIT;
    loop {
        if let Some(round) = reconciler.round(client, Instant::now()).await {
            round.result?;
            if reconciler.draining().iter().len() == 0 {
                return Ok(());
            }
        }
        if Instant::now() > until {
            return Err("it does not end".into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// No request fails, and both pods answer.
async fn roll_out_breaks_nothing(persistent: bool) -> Outcome {
    // A request takes some hundredths of a second, and more on a busy machine.
    let drained = Policy::new().drain(drain(Duration::from_secs(1)));
    let (answers, failed) = roll_out(persistent, drained, LIMIT).await?;
    println!("requests: {answers:?}, failed: {failed}");
    assert_eq!(failed, 0);
    assert!(answers.as_flattened().iter().all(|answers| *answers > 10), "{answers:?}");
    Ok(())
}

/// The same without draining, to show that the test above can fail.
async fn roll_out_without_draining_breaks_requests() -> Outcome {
    for persistent in [false, true] {
        // One roll-out may be lucky; ten are not.
        let mut failed = 0;
        for _ in 0..10 {
            let (answers, failures) = roll_out(persistent, Policy::new(), NO_ANSWER_WAIT).await?;
            println!("requests: {answers:?}, failed: {failures}");
            failed += failures;
            if failed > 0 {
                break;
            }
        }
        assert!(failed > 0, "persistent: {persistent}");
    }
    Ok(())
}

/// The pods replace each other repeatedly, while two clients send requests all the time with this
/// time limit for an answer. Returns which pod answered each, and how many requests failed.
async fn roll_out(
    persistent: bool,
    policy: Policy,
    limit: Duration,
) -> Result<([[usize; 2]; 2], usize), Failed> {
    let named = Named::new().await?;
    named.scene.host.forward()?;
    named.scene.host.filter_bridge()?;
    let client = &named.scene.client;
    client.set_sysctl(Sysctl::EXPIRE_QUIESCENT_TEMPLATE, true)?;
    let desired = |pod: usize| -> Result<Desired, Failed> {
        let service = VirtualService::tcp(named.address).scheduler("rr");
        let service = if persistent { service.persistent() } else { service };
        Ok(service.real_server(named.pod(pod)).build()?.into())
    };
    let mut reconciler = Reconciler::new(policy);
    reconciler.set(desired(0)?);
    settle(&mut reconciler, client).await?;
    let (over, failed) = (Cell::new(false), Cell::new(0));
    let requests = [Cell::new(0), Cell::new(0)];
    let ask = async |from: &NetNs, requests: &Cell<usize>| {
        let mut answers = [0; 2];
        while !over.get() {
            requests.set(requests.get() + 1);
            match tokio::time::timeout(limit, slow_request(from, named.address)).await {
                Ok(Ok(pod)) => answers[pod] += 1,
                _ => failed.set(failed.get() + 1),
            }
        }
        answers
    };
    // Both send eight requests, however slow this machine is.
    let wait = async || {
        let enough = requests.each_ref().map(|requests| requests.get() + 8);
        while requests.iter().zip(enough).any(|(requests, enough)| requests.get() < enough) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let roll = async {
        let mut outcome = Ok(());
        for pod in [1, 0, 1, 0] {
            // A pod that returns within two minutes returns with its counters; its earlier
            // connections do not matter.
            wait().await;
            reconciler.set(desired(pod)?);
            outcome = settle(&mut reconciler, client).await;
            if outcome.is_err() {
                break;
            }
        }
        wait().await;
        over.set(true);
        outcome
    };
    let (host, container) = (named.host(), named.scene.container.namespace());
    let (one, two, rolled) =
        tokio::join!(ask(host, &requests[0]), ask(container, &requests[1]), roll);
    rolled?;
    let left = client.destinations(&ServiceKey::tcp(named.address)?).await?.all()?;
    assert_eq!(left.len(), 1, "{left:?}");
    Ok(([one, two], failed.get()))
}

/// A slow request: two messages on one connection. Returns the pod that answered.
async fn slow_request(from: &NetNs, to: SocketAddr) -> Result<usize, Failed> {
    let mut connection = Open::new(from, to)?;
    let pod = connection.ask().await?;
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(connection.ask().await?, pod);
    Ok(pod)
}

/// Drains whole services.
fn whole(limit: Duration) -> Reconciler {
    Reconciler::new(Policy::new().scope(Scope::All).drain(drain(limit).services(true)))
}

/// A deleted service takes no new connections, and its existing ones continue until its limit is
/// over; if it is desired again, nothing was interrupted.
async fn drain_of_a_whole_service() -> Outcome {
    let named = Named::new().await?;
    let client = &named.scene.client;
    let both = named.both()?;
    let mut reconciler = whole(Duration::from_millis(600));
    reconciler.set(both.clone());
    settle(&mut reconciler, client).await?;
    let (_, mut open) = named.ask_open(2).await?;
    let mut lines =
        async |reconciler: &mut Reconciler, state: &Desired| -> Result<String, Failed> {
            reconciler.set(state.clone());
            let round = reconciler.round(client, Instant::now()).await.ok_or("it is due")?;
            let lines = round.result?.into_iter().map(|change| change.to_string() + "\n").collect();
            for connection in &mut open {
                connection.ask().await?;
            }
            Ok(lines)
        };
    let none = Desired::new();
    let gone = lines(&mut reconciler, &none).await?;
    assert_eq!(gone.matches("weight 1 -> 0 (it leaves)").count(), 2, "{gone}");
    assert!(
        tcp_exchange(named.host(), named.address, "who", NO_ANSWER_WAIT).await.is_err(),
        "a new one"
    );
    let back = lines(&mut reconciler, &both).await?;
    assert_eq!(back.matches("weight 0 -> 1").count(), 2, "{back}");
    assert_eq!(named.ask(named.host(), 2).await?, [1, 1]);

    lines(&mut reconciler, &none).await?;
    settle(&mut reconciler, client).await?;
    assert!(client.services().await?.is_empty());
    // Dropped, or, if there is no service left at all, refused by the host.
    let asked = tokio::time::timeout(NO_ANSWER_WAIT, open[0].ask()).await;
    assert!(!matches!(asked, Ok(Ok(_))), "it is gone");
    Ok(())
}

/// A deleted service is removed when its last connection has ended, long before its limit.
async fn drain_of_a_whole_service_ends_with_its_connections() -> Outcome {
    let named = Named::new().await?;
    let client = &named.scene.client;
    // The kernel forgets an established connection that was silent for this long.
    client.set_timeouts(Timeouts::new(1, 0, 0)).await?;
    let mut reconciler = whole(Duration::from_secs(600));
    reconciler.set(named.both()?);
    settle(&mut reconciler, client).await?;
    let (_, _open) = named.ask_open(2).await?;
    reconciler.set(Desired::new());
    reconciler.round(client, Instant::now()).await.ok_or("it is due")?.result?;
    let key = ServiceKey::tcp(named.address)?;
    assert_eq!(reconciler.draining().services(), [key].into());
    settle(&mut reconciler, client).await?;
    assert!(client.services().await?.is_empty());
    Ok(())
}

/// One apply waits for the last connection, or says what it left; a program that ends does so, too.
async fn applies_wait_for_connections() -> Outcome {
    let named = Named::new().await?;
    let client = &named.scene.client;
    client.set_timeouts(Timeouts::new(2, 0, 0)).await?;
    let policy = Policy::new().scope(Scope::All);
    let policy = policy.drain(drain(Duration::from_secs(600)).services(true));
    let none = Desired::new();
    for ends in [false, true] {
        named.both()?.apply(client, &policy).await?;
        let (_, _open) = named.ask_open(2).await?;
        let at_most = if ends { LIMIT } else { Duration::from_millis(200) };
        let applied =
            none.apply_until_drained(client, &policy, at_most, tokio::time::sleep).await?;
        let services = client.services().await?.len();
        let expected = if ends { (3, 0, 0) } else { (2, 2, 1) };
        assert_eq!((applied.len(), applied.draining().count(), services), expected);
    }
    let mut reconciler = reconciler(LIMIT);
    reconciler.set(named.both()?);
    settle(&mut reconciler, client).await?;
    let (_, _open) = named.ask_open(2).await?;
    reconciler.drain_all(drain(Duration::from_secs(600)));
    assert!(reconciler.until_settled(client, Instant::now(), LIMIT, tokio::time::sleep).await);
    assert!(client.services().await?.is_empty());
    Ok(())
}

/// A persistent client keeps its pod at weight 0 until the limit; with `expire_quiescent_template`
/// its next connection goes to another pod.
async fn drain_of_persistent_clients() -> Outcome {
    for expire in [false, true] {
        let named = Named::new().await?;
        let client = &named.scene.client;
        client.set_sysctl(Sysctl::EXPIRE_QUIESCENT_TEMPLATE, expire)?;
        let desired = |pods: &[usize]| -> Result<Desired, Failed> {
            let service = VirtualService::tcp(named.address).scheduler("rr").persistent();
            let pods = pods.iter().map(|pod| named.pod(*pod));
            Ok(service.real_servers(pods).build()?.into())
        };
        let mut reconciler = reconciler(Duration::from_millis(300));
        reconciler.set(desired(&[0, 1])?);
        settle(&mut reconciler, client).await?;
        let answers = named.ask(named.host(), 3).await?;
        let its = usize::from(answers[1] > 0);
        assert_eq!(answers[its], 3, "one pod for a client");
        reconciler.set(desired(&[1 - its])?);
        reconciler.round(client, Instant::now()).await.ok_or("it is due")?.result?;
        let answers = named.ask(named.host(), 3).await?;
        let stays = if expire { 1 - its } else { its };
        assert_eq!(answers[stays], 3, "expire_quiescent_template {expire}");
        settle(&mut reconciler, client).await?;
        let answers = named.ask(named.host(), 3).await?;
        assert_eq!(answers[1 - its], 3, "its pod is away");
    }
    Ok(())
}

/// A pod that is desired again while it is being drained gets its weight back, and open connections
/// continue all the time; a deleted pod comes back with its connections.
async fn drained_server_returns() -> Outcome {
    let named = Named::new().await?;
    let client = &named.scene.client;
    let desired = |pods: &[usize]| -> Result<Desired, Failed> {
        let pods = pods.iter().map(|pod| named.pod(*pod));
        Ok(VirtualService::tcp(named.address).scheduler("rr").real_servers(pods).build()?.into())
    };
    let mut reconciler = reconciler(Duration::from_secs(2));
    reconciler.set(desired(&[0])?);
    settle(&mut reconciler, client).await?;
    let (_, mut open) = named.ask_open(2).await?;
    let mut lines = async |reconciler: &mut Reconciler, pods: &[usize]| -> Result<String, Failed> {
        reconciler.set(desired(pods)?);
        let round = reconciler.round(client, Instant::now()).await.ok_or("it is due")?;
        let lines = round.result?.into_iter().map(|change| change.to_string() + "\n").collect();
        for connection in &mut open {
            assert_eq!(connection.ask().await?, 0, "open connections continue");
        }
        Ok(lines)
    };
    let (key, pod) = (ServiceKey::tcp(named.address)?, (named.scene.pods[0].address(), TCP));
    let pod = DestinationKey::new(pod.into())?;
    let leaves = lines(&mut reconciler, &[1]).await?;
    assert!(leaves.contains(&format!("~ {key} -> {pod} weight 1 -> 0 (it leaves)")), "{leaves}");
    let returns = lines(&mut reconciler, &[0, 1]).await?;
    assert_eq!(returns, format!("~ {key} -> {pod} weight 0 -> 1\n"));
    // A new reconciler, as after a restart, recognises it by its weight.
    lines(&mut reconciler, &[1]).await?;
    let mut restarted = self::reconciler(Duration::from_millis(300));
    assert_eq!(lines(&mut restarted, &[1]).await?, "");
    assert_eq!(restarted.draining().iter().len(), 1);
    settle(&mut restarted, client).await?;
    assert!(open[0].ask().await.is_err(), "its limit is over");
    // The kernel kept it with its connections.
    restarted.set(desired(&[0, 1])?);
    settle(&mut restarted, client).await?;
    let back = client.destinations(&key).await?.all()?;
    let back = back.iter().find(|entry| entry.destination.key == pod).ok_or("it is not back")?;
    assert_eq!(back.active_connections, 2, "{back:?}");
    Ok(())
}

/// Connections that end before the next one starts, for schedulers without memory or by address.
async fn schedulers_of_short_connections() -> Outcome {
    let named = Named::new().await?;
    // Round robin takes turns; weighted, in a cycle as long as the sum of the weights divided by their
    // greatest common divisor, in which each gets its weight's share. Failover takes the heaviest.
    for (scheduler, weights, expected) in [
        ("rr", [1, 1], [6, 6]),
        ("rr", [5, 1], [6, 6]),
        ("wrr", [1, 1], [6, 6]),
        ("wrr", [3, 1], [9, 3]),
        ("wrr", [10, 20], [4, 8]),
        ("fo", [1, 2], [0, 12]),
        ("fo", [2, 1], [12, 0]),
    ] {
        named.serve(scheduler, weights).await?;
        assert_eq!(named.ask(named.host(), 12).await?, expected, "{scheduler} {weights:?}");
    }
    // By the client's address (sh, mh) or the service's (dh): always the same pod.
    for scheduler in ["sh", "mh", "dh"] {
        named.serve(scheduler, [1, 1]).await?;
        let answers = named.ask(named.host(), 12).await?;
        assert!(answers.contains(&12), "{scheduler}: {answers:?}");
    }
    Ok(())
}

/// Connections that stay open, for schedulers that count them.
async fn schedulers_of_open_connections() -> Outcome {
    // The least loaded pod is next, so each gets its weight's share of the sum, plus or minus the one
    // that is next. Overflow fills the heaviest until its connections exceed its weight by
    // one.
    for (scheduler, weights, first) in [
        ("lc", [1, 1], 6..=6),
        ("wlc", [1, 1], 6..=6),
        ("wlc", [2, 1], 7..=9),
        ("sed", [2, 1], 7..=9),
        ("nq", [2, 1], 7..=9),
        ("ovf", [4, 1], 5..=5),
    ] {
        // A deleted service's pods come back with their connections: each scheduler gets new pods.
        let named = Named::new().await?;
        named.serve(scheduler, weights).await?;
        let times = if scheduler == "ovf" { 7 } else { 12 };
        let (answers, open) = named.ask_open(times).await?;
        assert!(first.contains(&answers[0]), "{scheduler} {weights:?}: {answers:?}");
        assert_eq!(answers[0] + answers[1], times);
        drop(open);
    }
    Ok(())
}
