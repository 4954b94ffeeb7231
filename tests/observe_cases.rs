//! What the client reads in /proc, on a real kernel with real traffic.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    num::NonZeroU32,
    time::Duration,
};

use ipvs_client::{
    Client, Connection, ConnectionOrigin, ConnectionState, Error, blocking,
    packet::{
        AddressFamily, Destination, DestinationKey, EngineName, Netmask, Protocol, SchedulerName,
        Service, ServiceFlags, ServiceKey, Statistics,
    },
};
use kernel_tests::{Outcome, block_on, client_case, key};
use libtest_mimic::{Failed, Trial};
use netns_link::{Address, NetNs};
use nix::sys::socket::{setsockopt, sockopt::Mark};
use testbed::{Container, DockerHost, Family, Server, page};

/// Long enough for a slow emulated machine; nothing waits for it when all goes well.
const LIMIT: Duration = Duration::from_secs(10);

/// Every case by its name.
pub(crate) fn cases() -> Vec<Trial> {
    let mut cases = vec![
        client_case("observe_empty_table", empty_table),
        client_case("observe_connections_in_a_stream", connections_in_a_stream),
        Trial::test("observe_totals", || block_on(totals())),
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

/// A director with the virtual address, and two pods that serve pages and echo datagrams.
struct Scene {
    host: DockerHost,
    pods: [Container; 2],
    _servers: Vec<Server>,
    client: Client,
    address: IpAddr,
}

impl Scene {
    async fn new(family: Family) -> Result<Self, Failed> {
        let host = DockerHost::new(family).await?;
        let pods = [host.container("pod1", 3).await?, host.container("pod2", 4).await?];
        let mut servers = Vec::new();
        for pod in &pods {
            servers.push(pod.serve_http(80)?);
            servers.push(pod.serve_udp((pod.address(), 5060).into())?);
        }
        let address = match family {
            Family::Ipv4 => "10.0.0.185".parse()?,
            Family::Ipv6 => "fd00:10::185".parse()?,
        };
        let dummy = host.links().create_dummy("dummy0").await?;
        host.links().add_address(&dummy, Address::host(address).nodad()).await?;
        host.links().up(&dummy).await?;
        let client = Client::connect_in(host.namespace()).await?;
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
            let key = DestinationKey::new((pod.address(), port).into());
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

    /// The table, told in every way that there is, all of which must agree.
    async fn table(&self) -> Result<Vec<Connection>, Failed> {
        let listed = self.client.connections()?.collect::<Result<Vec<_>, Error>>()?;
        let mut streamed = Vec::new();
        let mut stream = self.client.connections()?.stream()?;
        while let Some(connection) = stream.next().await {
            streamed.push(connection?);
        }
        // Of a thread that is in the namespace already.
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

/// What does not change as time goes by.
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
    scene.serve(Service::new(ServiceKey::tcp(scene.at(80))), 80).await?;
    scene.serve(Service::new(ServiceKey::udp(scene.at(53))), 5060).await?;
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

    // Another namespace's table is another one.
    let elsewhere = Client::connect_in(scene.pods[0].namespace()).await?;
    assert_eq!(elsewhere.connections()?.count(), 0);
    Ok(())
}

async fn templates(family: Family) -> Outcome {
    let scene = Scene::new(family).await?;
    let mut service = Service::new(ServiceKey::tcp(scene.at(80)));
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

/// A firewall mark without a firewall: the host's own socket carries it.
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
    let mut service = Service::new(ServiceKey::udp(scene.at(5060)));
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

/// More connections than any buffer on the way holds; and a stream that nobody reads to its end
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
    scene.serve(Service::new(ServiceKey::tcp(scene.at(80))), 80).await?;
    scene.fetch(5).await?;
    // By CPU they are there at once.
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
    let service = scene.client.services().await?.remove(0);
    assert_eq!(counters(service.statistics), counters(totals));
    scene.client.zero().await?;
    assert_eq!(counters(scene.client.totals()?), [0; 3]);
    assert_eq!(counters(scene.client.cpu_totals()?.live()), counters(by_cpu.live()));
    let inside = scene.host.namespace().run(|| blocking::Client::connect()?.cpu_totals())??;
    assert_eq!(inside.cpus, by_cpu.cpus);
    let elsewhere = Client::connect_in(scene.pods[0].namespace()).await?;
    assert_eq!(elsewhere.totals()?, nothing);
    Ok(())
}

fn reading_threads() -> Result<usize, Failed> {
    let mut count = 0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        // One that ends just now is none.
        let name = std::fs::read_to_string(thread?.path().join("comm")).unwrap_or_default();
        // The kernel keeps 15 bytes of a name.
        count += usize::from(name.trim_end() == "ipvs-connection");
    }
    Ok(count)
}
