//! What the client reads in /proc, on a real kernel with real traffic.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    num::NonZeroU32,
    time::Duration,
};

use ipvs_client::{
    Client, Connection, ConnectionOrigin, ConnectionState, DefenseMode, Differences, Error,
    ErrorKind, SyncThreshold, Sysctl, SysctlChange, SysctlInfo, SysctlValue, TableChange, Traffic,
    blocking,
    packet::{
        AddressFamily, DaemonRole, Destination, DestinationKey, EngineName, ForwardMethod, Netmask,
        Protocol, SchedulerName, Service, ServiceFlags, ServiceKey, Statistics, SyncDaemon, Weight,
    },
};
use kernel_tests::{Outcome, block_on, client_case, key};
use libtest_mimic::{Failed, Trial};
use netns_link::NetNs;
use nix::sys::socket::{setsockopt, sockopt::Mark};
use testbed::{Container, DockerHost, Family, Server, page};

use crate::scene::{Director, LIMIT};

/// Every case by its name.
pub(crate) fn cases() -> Vec<Trial> {
    let mut cases = vec![
        client_case("observe_empty_table", empty_table),
        client_case("observe_connections_in_a_stream", connections_in_a_stream),
        client_case("observe_sysctls_known", sysctls_known),
        client_case("observe_sysctls_read_back_equal", sysctls_read_back_equal),
        client_case("observe_sysctls_refused", sysctls_refused),
        client_case("observe_sysctls_of_kube_proxy", sysctls_of_kube_proxy),
        client_case("observe_watch_cancelled", watch_cancelled),
        Trial::test("observe_watch", || block_on(watch())),
        Trial::test("observe_totals", || block_on(totals())),
        Trial::test("observe_mixed_families", || block_on(mixed_families())),
        Trial::test("observe_synced_connections", || block_on(synced_connections())),
        Trial::test("observe_engine_data", || block_on(engine_data())),
    ];
    for (family, suffix) in [(Family::Ipv4, "ipv4"), (Family::Ipv6, "ipv6")] {
        let mut case = |name: &str, run: fn(Family) -> Outcome| {
            cases.push(Trial::test(format!("observe_{name}_{suffix}"), move || run(family)));
        };
        case("connections", |family| block_on(connections(family)));
        case("templates", |family| block_on(templates(family)));
        case("marked_template", |family| block_on(marked_template(family)));
    }
    cases
}

/// A director, and two pods that serve pages and echo datagrams.
struct Scene {
    host: DockerHost,
    pods: [Container; 2],
    _servers: Vec<Server>,
    client: Client,
    address: IpAddr,
}

impl Scene {
    async fn new(family: Family) -> Result<Self, Failed> {
        let Director { host, pods, client, vip: address } = Director::new(family).await?;
        let mut servers = Vec::new();
        for pod in &pods {
            servers.push(pod.serve_http(80)?);
            servers.push(pod.serve_udp((pod.address(), 5060).into())?);
        }
        Ok(Self { host, pods, _servers: servers, client, address })
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }

    /// A service by round robin, with a destination in each pod.
    async fn serve(&self, mut service: Service, port: u16) -> Outcome {
        service.scheduler = SchedulerName::RR;
        self.client.add_service(&service).await?;
        for pod in &self.pods {
            let key = DestinationKey { address: pod.address(), port };
            self.client.add_destination(service.key(), &Destination::new(key)).await?;
        }
        Ok(())
    }

    async fn fetch(&self, times: usize) -> Outcome {
        for _ in 0..times {
            let got = testbed::http_get(self.host.namespace(), self.at(80), LIMIT).await?;
            assert!(self.pods.iter().any(|pod| got == page(pod.name())), "{got}");
        }
        Ok(())
    }

    /// The connection table, read in every possible way; all ways must agree.
    async fn table(&self) -> Result<Vec<Connection>, Failed> {
        let listed = self.client.connections()?.collect::<Result<Vec<_>, Error>>()?;
        let mut streamed = Vec::new();
        let mut stream = self.client.connections()?.stream()?;
        while let Some(connection) = stream.next().await {
            streamed.push(connection?);
        }
        // By a thread that is already in the namespace.
        let inside = self.host.namespace().run(|| {
            blocking::Client::connect()?.connections()?.collect::<Result<Vec<_>, Error>>()
        })??;
        let with_origin =
            self.client.connections_with_origin()?.collect::<Result<Vec<_>, Error>>()?;
        assert!(
            with_origin.iter().all(|connection| connection.origin == Some(ConnectionOrigin::Local))
        );
        for other in [&streamed, &inside, &with_origin] {
            assert_eq!(identities(other), identities(&listed));
        }
        Ok(listed)
    }
}

/// The parts that do not change over time.
fn identities(table: &[Connection]) -> BTreeSet<(Protocol, [SocketAddr; 3], ConnectionState)> {
    table
        .iter()
        .map(|connection| {
            let Connection { protocol, client, virtual_address, destination, .. } = *connection;
            (protocol, [client, virtual_address, destination], connection.state.clone())
        })
        .collect()
}

async fn empty_table(_: NetNs, client: Client) -> Outcome {
    assert_eq!(client.connections()?.count(), 0);
    assert_eq!(client.connections_with_origin()?.count(), 0);
    assert!(client.connections()?.stream()?.next().await.is_none());
    Ok(())
}

async fn connections(family: Family) -> Outcome {
    let scene = Scene::new(family).await?;
    scene.serve(Service::new(ServiceKey::tcp(scene.at(80))?), 80).await?;
    scene.serve(Service::new(ServiceKey::udp(scene.at(53))?), 5060).await?;
    scene.fetch(6).await?;
    let answer = testbed::udp_exchange(scene.host.namespace(), scene.at(53), "ping", LIMIT).await?;
    assert!(answer.ends_with(": ping"), "{answer}");

    let table = scene.table().await?;
    let mut counts = BTreeMap::new();
    for connection in &table {
        assert!(!connection.is_template() && connection.mark().is_none(), "{connection:?}");
        assert!(connection.engine.is_none() && connection.origin.is_none(), "{connection:?}");
        // The host itself is the client, and takes the address to which it connects.
        assert_eq!(connection.client.ip(), scene.address);
        let limit = match connection.protocol {
            Protocol::TCP => {
                let closing = [
                    ConnectionState::FIN_WAIT,
                    ConnectionState::TIME_WAIT,
                    ConnectionState::CLOSE_WAIT,
                    ConnectionState::LAST_ACK,
                    ConnectionState::CLOSE,
                ];
                assert!(closing.contains(&connection.state), "{connection:?}");
                assert_eq!(connection.virtual_address, scene.at(80));
                assert_eq!(connection.destination.port(), 80);
                120
            }
            _ => {
                assert_eq!(connection.state, ConnectionState::UDP);
                assert_eq!(connection.virtual_address, scene.at(53));
                assert_eq!(connection.destination.port(), 5060);
                300
            }
        };
        assert!(connection.expires <= Duration::from_secs(limit), "{connection:?}");
        *counts.entry((connection.protocol, connection.destination.ip())).or_insert(0) += 1;
    }
    let [first, second] = scene.pods.each_ref().map(Container::address);
    assert_eq!(counts[&(Protocol::TCP, first)], 3);
    assert_eq!(counts[&(Protocol::TCP, second)], 3);
    assert_eq!(table.len(), 7);

    // Another namespace has another table.
    let elsewhere = Client::connect_in(scene.pods[0].namespace())?;
    assert_eq!(elsewhere.connections()?.count(), 0);
    Ok(())
}

async fn templates(family: Family) -> Outcome {
    let scene = Scene::new(family).await?;
    let mut service = Service::new(ServiceKey::tcp(scene.at(80))?);
    service.flags = ServiceFlags::PERSISTENT;
    service.timeout = 360;
    let (family, prefix, network): (_, _, IpAddr) = match family {
        Family::Ipv4 => (AddressFamily::Ipv4, 24, "10.0.0.0".parse()?),
        Family::Ipv6 => (AddressFamily::Ipv6, 64, "fd00:10::".parse()?),
    };
    service.set_netmask(Netmask::prefix(family, prefix)?)?;
    scene.serve(service, 80).await?;
    scene.fetch(3).await?;
    let table = scene.table().await?;
    let (templates, others): (Vec<_>, Vec<_>) =
        table.into_iter().partition(Connection::is_template);
    assert_eq!(templates.len(), 1, "{templates:?}");
    assert_eq!(others.len(), 3);
    let template = &templates[0];
    assert_eq!(template.client, SocketAddr::new(network, 0));
    assert_eq!(template.virtual_address, scene.at(80));
    assert!(others.iter().all(|connection| connection.destination == template.destination));
    assert_eq!(template.state, ConnectionState::ASSURED);
    assert!(template.expires <= Duration::from_secs(360));
    assert_eq!((template.mark(), &template.engine), (None, &None));
    Ok(())
}

/// A firewall mark without a firewall: the host's own socket sets it.
async fn marked_template(family: Family) -> Outcome {
    let scene = Scene::new(family).await?;
    let mark = NonZeroU32::new(0xA1B2).ok_or("0")?;
    let family = AddressFamily::of(scene.address);
    let mut service = Service::new(ServiceKey::mark(mark, family));
    service.flags = ServiceFlags::PERSISTENT;
    service.timeout = 60;
    scene.serve(service, 5060).await?;
    let address = scene.at(4711);
    scene.host.namespace().run(|| {
        let socket = UdpSocket::bind((scene.address, 0))?;
        setsockopt(&socket, Mark, &mark.get())?;
        socket.send_to(b"ping", address)
    })??;
    let table = scene.table().await?;
    let (templates, others): (Vec<_>, Vec<_>) =
        table.into_iter().partition(Connection::is_template);
    assert_eq!((templates.len(), others.len()), (1, 1));
    assert_eq!(templates[0].mark(), Some(mark));
    assert_eq!(templates[0].client, SocketAddr::new(scene.address, 0));
    assert_eq!(templates[0].destination.ip(), others[0].destination.ip());
    assert_eq!(others[0].mark(), None);
    assert_eq!(others[0].virtual_address, address);
    Ok(())
}

async fn engine_data() -> Outcome {
    let scene = Scene::new(Family::Ipv4).await?;
    let mut service = Service::new(ServiceKey::udp(scene.at(5060))?);
    service.flags = ServiceFlags::PERSISTENT;
    service.timeout = 60;
    service.engine = Some(EngineName::SIP);
    scene.serve(service, 5060).await?;
    let call = "a84b4c76e66710@pc33.example";
    let invite = format!(
        "INVITE sip:bob@example SIP/2.0\r\nVia: SIP/2.0/UDP pc33.example\r\nFrom: <sip:a@example>\r\n\
         To: <sip:bob@example>\r\nCall-ID: {call}\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
    );
    testbed::udp_exchange(scene.host.namespace(), scene.at(5060), &invite, LIMIT).await?;
    let table = scene.table().await?;
    let engines: Vec<_> = table
        .iter()
        .filter(|connection| connection.is_template())
        .filter_map(|template| template.engine.as_ref())
        .collect();
    assert_eq!(engines.len(), 1, "{table:?}");
    assert_eq!((engines[0].name, engines[0].data.as_slice()), (EngineName::SIP, call.as_bytes()));
    Ok(())
}

/// An IPv6 service whose real server is reached through an IPv4 tunnel.
async fn mixed_families() -> Outcome {
    let scene = Scene::new(Family::Ipv6).await?;
    let service = Service::new(ServiceKey::udp(scene.at(53))?);
    scene.client.add_service(&service).await?;
    let mut destination = Destination::new("127.0.0.9:53".parse()?);
    destination.forward = ForwardMethod::TUNNEL;
    scene.client.add_destination(service.key(), &destination).await?;
    scene
        .host
        .namespace()
        .run(|| UdpSocket::bind((scene.address, 0))?.send_to(b"ping", scene.at(53)))??;
    let table = scene.table().await?;
    assert_eq!(table.len(), 1);
    assert_eq!(table[0].virtual_address, scene.at(53));
    assert_eq!(table[0].destination, "127.0.0.9:53".parse()?);
    Ok(())
}

/// A backup director knows the master's connections, and that they are not its own.
async fn synced_connections() -> Outcome {
    let scene = Scene::new(Family::Ipv4).await?;
    let backup_host = scene.host.container("backup", 9).await?;
    let backup = Client::connect_in(backup_host.namespace())?;
    // Every packet is synchronised.
    let threshold = SyncThreshold::new(0, 1);
    for client in [&scene.client, &backup] {
        client.set_sysctl(Sysctl::SYNC_THRESHOLD, threshold)?;
    }
    let daemon = |role, interface: &str| -> Result<SyncDaemon, Failed> {
        Ok(SyncDaemon::new(role, interface.parse()?, 7.into()))
    };
    backup.start_daemon(&daemon(DaemonRole::BACKUP, "eth0")?).await?;
    scene.client.start_daemon(&daemon(DaemonRole::MASTER, "docker0")?).await?;
    scene.serve(Service::new(ServiceKey::tcp(scene.at(80))?), 80).await?;
    scene.fetch(2).await?;
    let mut synced = Vec::new();
    for _ in 0..100 {
        synced = backup.connections_with_origin()?.collect::<Result<Vec<_>, Error>>()?;
        if synced.len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(synced.len(), 2, "{synced:?}");
    for connection in &synced {
        assert_eq!(connection.origin, Some(ConnectionOrigin::Sync));
        assert_eq!(connection.virtual_address, scene.at(80));
    }
    let ports = |table: &[Connection]| -> BTreeSet<u16> {
        table.iter().map(|connection| connection.client.port()).collect()
    };
    assert_eq!(ports(&synced), ports(&scene.table().await?));
    scene.client.stop_daemon(DaemonRole::MASTER).await?;
    backup.stop_daemon(DaemonRole::BACKUP).await?;
    Ok(())
}

/// More connections than any buffer on the way holds. A stream that is not read to its end
/// leaves no thread behind.
async fn connections_in_a_stream(namespace: NetNs, client: Client) -> Outcome {
    const PORTS: std::ops::Range<u16> = 20_000..23_000;
    let service = key("-u 127.0.0.1:53");
    client.add_service(&Service::new(service)).await?;
    let destination = Destination::new("127.0.0.1:5353".parse()?);
    client.add_destination(&service, &destination).await?;
    namespace.run(|| {
        PORTS.into_iter().try_for_each(|port| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port))?;
            socket.send_to(b"x", "127.0.0.1:53").map(drop)
        })
    })??;
    let mut seen = BTreeSet::new();
    let mut stream = client.connections()?.stream()?;
    while let Some(connection) = stream.next().await {
        seen.insert(connection?.client.port());
    }
    assert!(seen.iter().copied().eq(PORTS), "{} of {}", seen.len(), PORTS.len());
    assert_eq!(client.connections()?.count(), PORTS.len());

    let mut stream = client.connections()?.stream()?;
    assert!(stream.next().await.is_some_and(|first| first.is_ok()));
    assert!(reading_threads()? > 0);
    drop(stream);
    for _ in 0..500 {
        if reading_threads()? == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err("the reading thread outlives its stream".into())
}

async fn totals() -> Outcome {
    let scene = Scene::new(Family::Ipv4).await?;
    let nothing = scene.client.totals()?;
    assert_eq!(nothing, Default::default());
    assert!(!scene.client.cpu_totals()?.cpus.is_empty());
    scene.serve(Service::new(ServiceKey::tcp(scene.at(80))?), 80).await?;
    scene.fetch(5).await?;
    // In the counters of each CPU they are visible at once.
    let live = scene.client.cpu_totals()?.live();
    assert_eq!(live.connections, 5);
    assert!(live.incoming_packets >= 25 && live.outgoing_packets >= 20, "{live:?}");
    assert!(live.incoming_bytes >= 1000 && live.outgoing_bytes >= 1000, "{live:?}");
    // The estimator adds them up every two seconds.
    let mut totals = scene.client.totals()?;
    for _ in 0..100 {
        if totals.connections == 5 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        totals = scene.client.totals()?;
    }
    let by_cpu = scene.client.cpu_totals()?;
    let counters = |it: Statistics| [it.connections, it.incoming_packets, it.outgoing_packets];
    assert_eq!(counters(totals), counters(by_cpu.live()));
    assert_eq!(counters(totals), counters(by_cpu.total));
    assert!(totals.incoming_packet_rate > 0, "{totals:?}");
    let service = scene.client.services().await?.all()?.remove(0);
    assert_eq!(counters(service.statistics), counters(totals));
    scene.client.zero().await?;
    assert_eq!(counters(scene.client.totals()?), [0; 3]);
    assert_eq!(counters(scene.client.cpu_totals()?.live()), counters(by_cpu.live()));
    let inside = scene.host.namespace().run(|| blocking::Client::connect()?.cpu_totals())??;
    assert_eq!(inside.cpus, by_cpu.cpus);
    let elsewhere = Client::connect_in(scene.pods[0].namespace())?;
    assert_eq!(elsewhere.totals()?, nothing);
    Ok(())
}

fn kernel_version() -> Result<(u32, u32), Failed> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split('.').map(str::parse);
    Ok((numbers.next().ok_or("no major")??, numbers.next().ok_or("no minor")??))
}

/// This kernel has exactly the expected settings.
async fn sysctls_known(_: NetNs, client: Client) -> Outcome {
    let version = kernel_version()?;
    let listed = client.sysctls()?;
    for info in SysctlInfo::ALL {
        let due = info.since.is_none_or(|since| since <= version);
        let there = listed.contains_key(info.name);
        assert!(due || !there, "{info:?} is older");
        assert!(!due || there || info.needs.is_some(), "{info:?} is younger");
    }
    let known: Vec<_> = SysctlInfo::ALL.iter().map(|info| info.name).collect();
    for name in listed.keys() {
        assert!(known.contains(&name.as_str()), "{name}");
    }
    for (sysctl, age) in [(Sysctl::SVC_LFACTOR, "Linux 7.1"), (Sysctl::EST_NICE, "Linux 6.2")] {
        match client.sysctl(sysctl) {
            Ok(_) => assert!(listed.contains_key(sysctl.info().name)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(error.to_string().contains(age), "{error}");
                let error = client.set_sysctl(sysctl, 1).expect_err("it is not there");
                assert_eq!((error.kind(), error.errno()), (ErrorKind::Unsupported, Some(2)));
            }
        }
    }
    Ok(())
}

async fn sysctls_read_back_equal(namespace: NetNs, client: Client) -> Outcome {
    // Only settings of new network namespaces: a setting that exists in another one stays as it is.
    let other = Client::connect_in(&NetNs::new()?)?;
    let before = other.sysctls()?;
    let version = kernel_version()?;
    let inside = namespace.run(blocking::Client::connect)??;

    fn check<T>(
        clients: (&Client, &blocking::Client),
        sysctl: Sysctl<T>,
        default: &T,
        values: &[T],
    ) -> Outcome
    where
        T: SysctlValue + Clone + PartialEq + std::fmt::Debug,
    {
        let (client, inside) = clients;
        if !client.sysctls()?.contains_key(sysctl.info().name) {
            return Ok(());
        }
        assert_eq!(client.sysctl(sysctl)?, *default, "{sysctl}");
        for value in values {
            client.set_sysctl(sysctl, value.clone())?;
            assert_eq!(client.sysctl(sysctl)?, *value, "{sysctl}");
            assert_eq!(inside.sysctl(sysctl)?, *value, "{sysctl}");
        }
        inside.set_sysctl(sysctl, default.clone())?;
        assert_eq!(client.sysctl(sysctl)?, *default, "{sysctl}");
        Ok(())
    }
    let clients = (&client, &inside);
    for sysctl in [
        Sysctl::BACKUP_ONLY,
        Sysctl::CACHE_BYPASS,
        Sysctl::CONNTRACK,
        Sysctl::EXPIRE_NODEST_CONN,
        Sysctl::EXPIRE_QUIESCENT_TEMPLATE,
        Sysctl::IGNORE_TUNNELED,
        Sysctl::NAT_ICMP_SEND,
        Sysctl::SCHEDULE_ICMP,
        Sysctl::SLOPPY_SCTP,
        Sysctl::SLOPPY_TCP,
        Sysctl::SYNC_PERSIST_MODE,
    ] {
        check(clients, sysctl, &false, &[true, false])?;
    }
    for sysctl in [Sysctl::PMTU_DISC, Sysctl::RUN_ESTIMATION, Sysctl::SNAT_REROUTE] {
        check(clients, sysctl, &true, &[false, true])?;
    }
    check(clients, Sysctl::AM_DROPRATE, &10, &[0, 1, i32::MAX])?;
    check(clients, Sysctl::AMEMTHRESH, &1024, &[0, i32::MAX])?;
    check(clients, Sysctl::CONN_REUSE_MODE, &1, &[0, 2, 3])?;
    check(clients, Sysctl::SYNC_PORTS, &1, &[2, 64])?;
    check(clients, Sysctl::SYNC_RETRIES, &0, &[1, 3])?;
    check(clients, Sysctl::SYNC_SOCK_SIZE, &0, &[i32::MAX])?;
    check(clients, Sysctl::SYNC_VERSION, &1, &[0])?;
    check(clients, Sysctl::EST_NICE, &0, &[-20, 19])?;
    check(clients, Sysctl::SVC_LFACTOR, &-2, &[-8, 8])?;
    check(clients, Sysctl::CONN_LFACTOR, &-2, &[-8, 8])?;
    check(clients, Sysctl::CONN_MAX, &(1 << 30), &[0, 1])?;
    let always = DefenseMode::Always;
    for sysctl in [Sysctl::DROP_ENTRY, Sysctl::DROP_PACKET, Sysctl::SECURE_TCP] {
        check(clients, sysctl, &DefenseMode::Off, &[DefenseMode::Automatic, always])?;
    }
    let period = [Duration::from_secs(1), Duration::from_secs(2_147_483)];
    check(clients, Sysctl::SYNC_REFRESH_PERIOD, &Duration::ZERO, &period)?;
    let threshold = SyncThreshold::new;
    let thresholds =
        [threshold(0, 0), threshold(7, 0), threshold(0, 1), threshold(0, 2_147_483_647)];
    check(clients, Sysctl::SYNC_THRESHOLD, &threshold(3, 50), &thresholds)?;
    let queue = client.sysctl(Sysctl::SYNC_QLEN_MAX)?;
    assert!(queue > 0);
    check(clients, Sysctl::SYNC_QLEN_MAX, &queue, &[0, 1, 1 << 40])?;
    if version >= (6, 2) {
        let cpus = client.sysctl(Sysctl::EST_CPULIST)?;
        check(clients, Sysctl::EST_CPULIST, &cpus, &["0".to_owned(), String::new()])?;
    }
    // Of a scheduler that was loaded with its first service.
    let mut service = Service::new(key("-t 10.0.0.185:80"));
    service.scheduler = SchedulerName::LBLC;
    client.add_service(&service).await?;
    let day = Duration::from_secs(86_400);
    check(clients, Sysctl::LBLC_EXPIRATION, &day, &[Duration::from_secs(1)])?;

    let mut after = other.sysctls()?;
    after.remove("lblc_expiration");
    let before: BTreeMap<_, _> =
        before.into_iter().filter(|(name, _)| name != "lblc_expiration").collect();
    assert_eq!(after, before);
    Ok(())
}

async fn sysctls_refused(_: NetNs, client: Client) -> Outcome {
    // The kernel's own unit: the number of ticks in a second.
    let long = Duration::from_secs(i32::MAX as u64);
    let error = client.set_sysctl(Sysctl::SYNC_REFRESH_PERIOD, long).expect_err("too long");
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Invalid, Some(22)));
    assert!(error.to_string().contains("net.ipv4.vs.sync_refresh_period"), "{error}");
    // One value for all network namespaces: older kernels would let this one set it.
    if kernel_version()? >= (6, 1) && client.sysctls()?.contains_key("debug_level") {
        let before = client.sysctl(Sysctl::DEBUG_LEVEL)?;
        let error = client.set_sysctl(Sysctl::DEBUG_LEVEL, before).expect_err("read-only");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    }
    Ok(())
}

async fn sysctls_of_kube_proxy(_: NetNs, client: Client) -> Outcome {
    let names = |changes: Vec<SysctlChange>| -> Vec<String> {
        changes.iter().map(ToString::to_string).collect()
    };
    client.set_sysctl(Sysctl::EXPIRE_NODEST_CONN, true)?;
    let mut expected =
        vec!["net.ipv4.vs.conntrack = 1", "net.ipv4.vs.expire_quiescent_template = 1"];
    if kernel_version()? < (5, 9) {
        expected.push("net.ipv4.vs.conn_reuse_mode = 0");
    }
    assert_eq!(names(client.set_kube_proxy_sysctls()?), expected);
    assert!(client.sysctl(Sysctl::CONNTRACK)? && client.sysctl(Sysctl::EXPIRE_NODEST_CONN)?);
    assert!(client.sysctl(Sysctl::EXPIRE_QUIESCENT_TEMPLATE)?);
    assert!(client.set_kube_proxy_sysctls()?.is_empty());
    Ok(())
}

async fn watch() -> Outcome {
    let scene = Scene::new(Family::Ipv4).await?;
    let service = Service::new(ServiceKey::tcp(scene.at(80))?);
    let key = *service.key();
    scene.serve(service.clone(), 80).await?;
    let period = Duration::from_millis(300);
    let mut watch = scene.client.watch(period);
    assert!(watch.snapshot().services.is_empty());
    let told = |differences: &Differences| -> Vec<String> {
        assert!(differences.uncertain.is_empty());
        differences.changes.iter().map(ToString::to_string).collect()
    };

    // At first, everything is new; then nothing is.
    let first = watch.next().await?;
    assert_eq!(first.elapsed, Duration::ZERO);
    assert_eq!(told(&first), [format!("service {key} added")]);
    assert_eq!(watch.snapshot().services[&key].destinations.len(), 2);
    let second = watch.next().await?;
    assert!(second.is_empty() && second.elapsed > period / 2, "{second:?}");

    let mut drained =
        Destination::new(DestinationKey { address: scene.pods[0].address(), port: 80 });
    drained.weight = Weight::ZERO;
    scene.client.update_destination(&key, &drained).await?;
    let other = Service::new("-u 10.0.0.185:53".parse()?);
    scene.client.add_service(&other).await?;
    let third = watch.next().await?;
    assert_eq!(
        told(&third),
        [
            format!("destination {} of {key} changed: weight 1 -> 0", drained.key),
            "service -u 10.0.0.185:53 added".to_owned()
        ]
    );
    assert_eq!(third.changes[0].service(), &key);
    assert!(third.elapsed > period / 2);

    // All traffic, in any number of parts from the estimator; all of it to the second pod.
    scene.fetch(6).await?;
    let (mut whole, mut second_pod) = (0, 0);
    for _ in 0..30 {
        let differences = watch.next().await?;
        assert_eq!(differences.changes, []);
        for activity in &differences.activity {
            assert!(!activity.reset && activity.service == key);
            let Traffic { connections, .. } = activity.traffic;
            let rate = connections as f64 / differences.elapsed.as_secs_f64();
            assert!((activity.rates.connections - rate).abs() < 1e-9);
            match activity.destination {
                None => whole += connections,
                Some(pod) => {
                    assert_eq!(pod.address, scene.pods[1].address());
                    second_pod += connections;
                }
            }
        }
        if whole == 6 {
            break;
        }
    }
    assert_eq!((whole, second_pod), (6, 6));

    scene.client.zero().await?;
    let zeroed = watch.next().await?;
    assert!(!zeroed.activity.is_empty() && zeroed.activity.iter().all(|it| it.reset));
    scene.client.delete_destination(&key, &drained.key).await?;
    scene.client.delete_service(other.key()).await?;
    let last = watch.next().await?;
    assert_eq!(
        told(&last),
        [
            format!("destination {} of {key} removed", drained.key),
            "service -u 10.0.0.185:53 removed".to_owned()
        ]
    );
    Ok(())
}

/// Calls dropped half-way lose no difference and report none twice.
async fn watch_cancelled(_: NetNs, client: Client) -> Outcome {
    let mut watch = client.watch(Duration::from_millis(5));
    let (mut added, mut completed) = (Vec::new(), 0);
    let note = |differences: Differences, added: &mut Vec<ServiceKey>| {
        for change in differences.changes {
            assert!(matches!(change, TableChange::ServiceAdded(_)), "{change}");
            added.push(*change.service());
        }
    };
    let mut keys = Vec::new();
    for round in 1..=200u16 {
        let service = Service::new(ServiceKey::tcp(([10, 0, 0, 1], round).into())?);
        client.add_service(&service).await?;
        keys.push(*service.key());
        tokio::select! {
            differences = watch.next() => {
                note(differences?, &mut added);
                completed += 1;
            }
            () = tokio::time::sleep(Duration::from_micros(u64::from(round) * 37 % 3000)) => {}
        }
    }
    note(watch.next().await?, &mut added);
    added.sort();
    assert_eq!(added, keys);
    assert!(completed < 200, "no call was cancelled");
    Ok(())
}

fn reading_threads() -> Result<usize, Failed> {
    let mut count = 0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        // A thread that is just ending does not count.
        let name = std::fs::read_to_string(thread?.path().join("comm")).unwrap_or_default();
        // The kernel keeps 15 bytes of a name.
        count += usize::from(name.trim_end() == "ipvs-connection");
    }
    Ok(count)
}
