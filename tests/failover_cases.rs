//! An address on the director's own link moves to another director: its connections continue.

use std::{
    net::{IpAddr, SocketAddr, TcpStream as StdStream},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ipvs_client::{
    Client, SyncThreshold, Sysctl,
    packet::{DaemonRole, SyncDaemon},
};
use kernel_tests::{Outcome, block_on};
use libtest_mimic::{Failed, Trial};
use lvs::{RealServer, VirtualService};
use netns_link::{
    Address, Director, NetNs, RealServerSetup, prepare_director, prepare_real_server,
};
use testbed::{Container, DockerHost, Family, Server};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

const CONNECTIONS: usize = 4;
/// The longest wait for any request.
const REQUEST_LIMIT: Duration = Duration::from_secs(1);
/// Enough for a slow emulated machine.
const LIMIT: Duration = Duration::from_secs(20);

/// Every case by its name.
pub(crate) fn cases() -> Vec<Trial> {
    let case = |name: &str, family, announced| {
        Trial::test(name, move || block_on(failover(family, announced)))
    };
    vec![
        Trial::test("director_is_reached_on_its_link", || block_on(reached_on_its_link())),
        case("failover_ipv4_announced", Family::Ipv4, true),
        case("failover_ipv6_announced", Family::Ipv6, true),
        case("failover_ipv4_not_announced_stalls", Family::Ipv4, false),
        case("failover_ipv6_not_announced_stalls", Family::Ipv6, false),
    ]
}

/// Two directors, a direct-routed real server and a client, all on one segment.
struct Segment {
    host: DockerHost,
    directors: [(Container, Client); 2],
    client: Container,
    vip: SocketAddr,
    _server: (Container, RealServerSetup, Server),
}

impl Segment {
    async fn new(family: Family) -> Result<Self, Failed> {
        let host = DockerHost::new(family).await?;
        let vip = SocketAddr::new(family.on_bridge(100), 80);
        let server = host.container("server", 20).await?;
        let setup = prepare_real_server(server.namespace(), "dummy0", &[vip.ip()])?;
        let serving = Server::tcp(server.namespace(), vip, "server")?;
        let service =
            VirtualService::tcp(vip).real_server(RealServer::direct(server.address())).build()?;
        let mut directors = Vec::new();
        for (name, number) in [("director1", 11), ("director2", 12)] {
            let director = host.container(name, number).await?;
            let link = director.links().find("eth0").await?.ok_or("no eth0")?;
            // Sync daemons use IPv4.
            let address = Address::new(IpAddr::from([172, 31, 0, number]), 24)?;
            director.links().add_address(&link, address).await?;
            let ipvs = Client::connect_in(director.namespace())?;
            ipvs.add_service(service.service()).await?;
            ipvs.add_destination(service.key(), &service.destinations()[0]).await?;
            directors.push((director, ipvs));
        }
        let directors = directors.try_into().map_err(|_| "two directors")?;
        let client = host.container("client", 30).await?;
        Ok(Self { host, directors, client, vip, _server: (server, setup, serving) })
    }

    async fn talk(&self) -> Result<Talk, Failed> {
        let at = self.vip;
        let stream =
            self.client.namespace().run(|| StdStream::connect_timeout(&at, REQUEST_LIMIT))??;
        stream.set_nonblocking(true)?;
        Ok(Talk(TcpStream::from_std(stream)?))
    }
}

/// A connection with a real server that answers.
struct Talk(TcpStream);

impl Talk {
    /// Sends a request and waits for its answer. Returns how long it took.
    async fn ask(&mut self) -> Result<Duration, Failed> {
        let since = Instant::now();
        timeout(LIMIT, async {
            self.0.write_all(b"request").await?;
            let mut answer = [0; 64];
            let length = self.0.read(&mut answer).await?;
            if &answer[..length] != b"server: request" {
                return Err(format!("answered {:?}", &answer[..length]).into());
            }
            Ok(since.elapsed())
        })
        .await?
    }
}

/// IPv4 answers for an address on a dummy link; IPv6 only for addresses of the link itself.
async fn reached_on_its_link() -> Outcome {
    for family in [Family::Ipv4, Family::Ipv6] {
        let segment = Segment::new(family).await?;
        let (director, vips) = (segment.directors[0].0.namespace(), [segment.vip.ip()]);
        prepare_director(director, "ipvs0", &vips)?;
        assert_eq!(
            segment.talk().await.is_ok(),
            family == Family::Ipv4,
            "{family:?} on a dummy link"
        );
        let on_link = Director::new("ipvs0").clients_on("eth0");
        on_link.prepare(director, &vips)?;
        // The client remembers that it got no answer.
        forget_neighbours(segment.client.namespace())?;
        segment.talk().await?.ask().await?;
        on_link.remove(director, &vips)?;
        let all = segment.directors[0].0.links().all_addresses().await?;
        assert!(!all.values().flatten().any(|address| address.ip() == vips[0]), "{family:?}");
        let missing = Director::new("ipvs0").clients_on("eth7").prepare(director, &vips);
        assert_eq!(missing.unwrap_err().kind(), netns_link::ErrorKind::NotFound);
        segment.directors[0].1.flush().await?;
        segment.directors[1].1.flush().await?;
    }
    Ok(())
}

/// Makes a client forget its neighbours, as time does.
fn forget_neighbours(client: &NetNs) -> Outcome {
    let links = netns_link::blocking::Links::connect(client)?;
    let link = links.find("eth0")?.ok_or("no eth0")?;
    links.set_arp(&link, false)?;
    links.set_arp(&link, true)?;
    Ok(())
}

/// The first director is lost in the middle of traffic, and the second one takes over its address.
async fn failover(family: Family, announced: bool) -> Outcome {
    let segment = Segment::new(family).await?;
    let [(first, master), (second, backup)] = &segment.directors;
    for (ipvs, role) in [(master, DaemonRole::MASTER), (backup, DaemonRole::BACKUP)] {
        // A connection is synchronised at its third packet, and at every second one after that.
        let each = SyncThreshold::new(1, 2);
        ipvs.set_sysctl(Sysctl::SYNC_THRESHOLD, each)?;
        ipvs.start_daemon(&SyncDaemon::new(role, "eth0".parse()?, 7.into())).await?;
    }
    let vips = [segment.vip.ip()];
    let director = Director::new("ipvs0").clients_on("eth0");
    director.prepare(first.namespace(), &vips)?;

    let mut talks = Vec::new();
    for _ in 0..CONNECTIONS {
        talks.push(segment.talk().await?);
    }
    let since = Instant::now();
    while backup.connections()?.filter(Result::is_ok).count() < CONNECTIONS {
        for talk in &mut talks {
            talk.ask().await?;
        }
        if since.elapsed() > LIMIT {
            return Err("the connections were not synchronized".into());
        }
        sleep(Duration::from_millis(50)).await;
    }

    // From now on each connection sends requests without a pause.
    let ended = Arc::new(AtomicBool::new(false));
    let traffic: Vec<_> = talks
        .into_iter()
        .map(|mut talk| {
            let ended = Arc::clone(&ended);
            tokio::spawn(async move {
                let (mut worst, mut count) = (Duration::ZERO, 0_u32);
                while !ended.load(Ordering::Relaxed) {
                    worst = worst.max(talk.ask().await.map_err(|error| format!("{error:?}"))?);
                    count += 1;
                    sleep(Duration::from_millis(5)).await;
                }
                Ok::<_, String>((worst, count))
            })
        })
        .collect();
    sleep(Duration::from_millis(200)).await;
    let cable = segment.host.links().find("veth11").await?.ok_or("no veth11")?;
    segment.host.links().down(&cable).await?;
    let taking_over =
        if announced { director.announce(3, Duration::from_millis(50)) } else { director };
    let namespace = second.namespace().as_fd().try_clone_to_owned()?;
    tokio::task::spawn_blocking(move || taking_over.prepare(&NetNs::from_fd(namespace)?, &vips))
        .await??;
    sleep(2 * REQUEST_LIMIT).await;
    ended.store(true, Ordering::Relaxed);
    for task in traffic {
        let ran = timeout(REQUEST_LIMIT, task).await;
        match (announced, ran) {
            (true, Ok(ended)) => {
                let (worst, count) = ended??;
                assert!(
                    worst < REQUEST_LIMIT && count > 10,
                    "{count} requests, the worst took {worst:?}"
                );
            }
            (true, Err(_)) => return Err("a connection has stalled".into()),
            (false, ran) => assert!(ran.is_err(), "without an announcement it went on: {ran:?}"),
        }
    }
    for ipvs in [master, backup] {
        let role = if std::ptr::eq(ipvs, master) { DaemonRole::MASTER } else { DaemonRole::BACKUP };
        ipvs.stop_daemon(role).await?;
        ipvs.flush().await?;
    }
    Ok(())
}
