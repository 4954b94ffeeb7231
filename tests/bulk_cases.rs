//! Batches and snapshots on a real kernel. Each kernel bug is shown before its remedy.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use ipvs_client::{
    BatchOptions, Client, ErrorKind, Socket, blocking,
    packet::{
        CommandNumber, DaemonRole, Destination, DestinationKey, EngineName, Reply, Request,
        Service, ServiceKey, SyncDaemon, Weight,
    },
};
use kernel_tests::{Outcome, client_case, key};
use libtest_mimic::{Failed, Trial};
use netlink_packet_core::NlasIterator;
use netlink_sys::{Socket as NetlinkSocket, SocketAddr, protocols::NETLINK_GENERIC};
use netns_link::{Links, NetNs};

/// Every case by its name.
pub(crate) fn cases() -> Vec<Trial> {
    vec![
        client_case("batch_of_none_one_and_many", batch_of_none_one_and_many),
        client_case("batch_returns_each_outcome", batch_returns_each_outcome),
        client_case("batch_says_what_calls_say", batch_says_what_calls_say),
        client_case("batch_stops_and_reports_progress", batch_stops_and_reports_progress),
        client_case("batch_with_the_smallest_buffer", batch_with_the_smallest_buffer),
        client_case("batch_that_ends_with_a_daemon", batch_that_ends_with_a_daemon),
        client_case("batch_dropped_half_way", batch_dropped_half_way),
        client_case("snapshot_of_everything", snapshot_of_everything),
        client_case("list_repeats_what_was_listed", list_repeats_what_was_listed),
        client_case("snapshot_while_others_write", snapshot_while_others_write),
        client_case("snapshot_beside_10_changes_a_second", |namespace, client| {
            snapshot_beside_a_writer(
                namespace,
                client,
                Table { services: 2_000, destinations: 5 },
                10,
            )
        }),
        client_case("snapshot_beside_50_changes_a_second", |namespace, client| {
            snapshot_beside_a_writer(
                namespace,
                client,
                Table { services: 2_000, destinations: 5 },
                50,
            )
        }),
        client_case("snapshot_beside_a_writer_at_full_speed", |namespace, client| {
            let table = Table { services: 500, destinations: 1 };
            snapshot_beside_a_writer(namespace, client, table, u32::MAX)
        }),
        client_case("blocking_client_does_the_same", blocking_client_does_the_same),
        client_case("client_on_smol_does_the_same", client_on_smol_does_the_same),
        client_case("modify_and_upsert", modify_and_upsert),
    ]
}

fn service(number: u16) -> Service {
    Service::new(ServiceKey::tcp(([10, 0, 0, 185], number).into()).expect("IPv4"))
}

fn destination(number: u16) -> Destination {
    let [high, low] = number.to_be_bytes();
    Destination::new(DestinationKey::new(([172, 17, high, low], 80).into()).expect("IPv4"))
}

/// Adds services 1 to `services`, each with this number of destinations.
fn load(services: u16, destinations: u16) -> Vec<Request> {
    let mut writes = Vec::new();
    for number in 1..=services {
        let service = service(number);
        let key = *service.key();
        writes.push(Request::NewService(service));
        writes.extend(
            (1..=destinations).map(|number| Request::NewDestination(key, destination(number))),
        );
    }
    writes
}

async fn batch_of_none_one_and_many(_: NetNs, client: Client) -> Outcome {
    assert!(client.batch(&[]).await.is_empty());
    client.batch(&load(1, 0)).await.into_result()?;
    client.flush().await?;
    let writes = load(500, 10);
    let outcomes = client.batch(&writes).await;
    assert_eq!(outcomes.len(), 5_500);
    outcomes.into_result()?;
    assert_eq!(client.services().await?.len(), 500);
    assert_eq!(client.destinations(service(77).key()).await?.len(), 10);
    // The second time everything exists already: 5,500 failures, each with its own error.
    for (write, outcome) in writes.iter().zip(client.batch(&writes).await) {
        let error = outcome.expect_err("it is there already");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        if let Request::NewService(service) = write {
            assert!(error.to_string().contains(&service.key().to_string()), "{error}");
        }
    }
    Ok(())
}

async fn batch_returns_each_outcome(_: NetNs, client: Client) -> Outcome {
    let present = service(1);
    let key = *present.key();
    let mut unknown = service(2);
    unknown.scheduler = "nonesuch".parse()?;
    let outcomes = client
        .batch(&[
            Request::NewService(present.clone()),
            Request::NewService(present.clone()),
            Request::NewService(unknown),
            Request::GetInfo,
            Request::NewDestination(key, destination(1)),
            Request::DeleteDestination(key, "172.17.9.9:80".parse()?),
            Request::NewDestination(*service(3).key(), destination(1)),
            Request::SetService(present),
        ])
        .await;
    let kinds: Vec<_> =
        outcomes.iter().map(|outcome| outcome.as_ref().err().map(|e| e.kind())).collect();
    assert_eq!(
        kinds,
        [
            None,
            Some(ErrorKind::AlreadyExists),
            Some(ErrorKind::SchedulerNotFound),
            Some(ErrorKind::Invalid),
            None,
            Some(ErrorKind::DestinationNotFound),
            Some(ErrorKind::ServiceNotFound),
            None,
        ]
    );
    Ok(())
}

/// A failure has the same error in a batch as in a single call.
async fn batch_says_what_calls_say(_: NetNs, client: Client) -> Outcome {
    let mut sip = Service::new(key("-u 10.0.0.185:5060"));
    sip.flags = ipvs_client::packet::ServiceFlags::PERSISTENT;
    sip.engine = Some(EngineName::SIP);
    client.add_service(&sip).await?;
    let mut no_engine = Service::new(key("-u 10.0.0.186:5060"));
    no_engine.engine = Some("nonesuch".parse()?);
    let mut neither = no_engine.clone();
    neither.scheduler = "nonesuch".parse()?;
    let mut no_scheduler = sip.clone();
    no_scheduler.scheduler = "nonesuch".parse()?;
    let missing = Service::new(key("-u 10.0.0.187:5060"));
    let broadcast = Destination::new("0.0.0.0:80".parse()?);
    for (write, kind) in [
        (Request::NewService(sip.clone()), ErrorKind::AlreadyExists),
        (Request::NewService(no_engine), ErrorKind::EngineNotFound),
        (Request::NewService(neither), ErrorKind::SchedulerNotFound),
        (Request::SetService(no_scheduler), ErrorKind::SchedulerNotFound),
        (Request::SetService(missing), ErrorKind::ServiceNotFound),
        (Request::NewDestination(*sip.key(), broadcast), ErrorKind::Invalid),
    ] {
        let call = match &write {
            Request::NewService(service) => client.add_service(service).await,
            Request::SetService(service) => client.update_service(service).await,
            Request::NewDestination(key, destination) => {
                client.add_destination(key, destination).await
            }
            other => return Err(format!("{other:?}").into()),
        };
        let call = call.expect_err("it is refused");
        assert_eq!(call.kind(), kind, "{call}");
        let batch = client.batch(&[write]).await.into_result().expect_err("it is refused");
        assert_eq!((batch.kind(), batch.to_string()), (kind, call.to_string()));
    }
    Ok(())
}

async fn batch_stops_and_reports_progress(_: NetNs, client: Client) -> Outcome {
    let mut writes = load(1_000, 0);
    // In the third datagram of 128 requests.
    writes[300] = Request::NewService(service(1));
    let mut told = Vec::new();
    let mut tell = |known| told.push(known);
    let options = BatchOptions::new().stop_at_failure().progress(&mut tell);
    let outcomes = client.batch_with(&writes, options).await;
    assert_eq!(outcomes.len(), 1_000);
    for (position, outcome) in outcomes.iter().enumerate() {
        let expected = match position {
            300 => Some(ErrorKind::AlreadyExists),
            384.. => Some(ErrorKind::NotSent),
            _ => None,
        };
        assert_eq!(outcome.as_ref().err().map(|error| error.kind()), expected, "{position}");
    }
    assert_eq!(told, [128, 256, 384]);
    assert_eq!(client.services().await?.len(), 383);
    Ok(())
}

/// The bug: if each of a thousand requests in one datagram wants an acknowledgement, a full receive
/// buffer drops most of them. A batch on the same buffer gets all acknowledgements.
async fn batch_with_the_smallest_buffer(namespace: NetNs, client: Client) -> Outcome {
    let (acknowledged, overrun) = namespace.run(flood)??;
    assert!(overrun, "the kernel said nothing");
    assert!(acknowledged < 1_000, "{acknowledged} acknowledgements");
    assert_eq!(client.services().await?.len(), 1_000, "though every one was carried out");
    client.flush().await?;

    let socket = Socket::open_in(&namespace)?;
    socket.set_receive_buffer(0)?;
    let small = Client::from_socket(socket);
    small.batch(&load(300, 3)).await.into_result()?;
    for outcome in small.batch(&load(300, 3)).await {
        assert_eq!(outcome.expect_err("it is there").kind(), ErrorKind::AlreadyExists);
    }
    assert_eq!(small.snapshot().await?.services.len(), 300);
    Ok(())
}

/// Sends a thousand NEW_SERVICE in one datagram. Returns the number of acknowledgements, and
/// whether the kernel reported an overrun.
fn flood() -> Result<(usize, bool), Failed> {
    const ENOBUFS: i32 = 105;
    let socket = open()?;
    let family = family(&socket)?;
    socket.set_rx_buf_sz(0)?;
    let mut datagram = Vec::new();
    for number in 1..=1_000u16 {
        let request = Request::NewService(service(number));
        datagram.extend(message(family, number.into(), request.flags(), &request)?);
    }
    socket.send_to(&datagram, &SocketAddr::new(0, 0), 0)?;
    socket.set_non_blocking(true)?;
    let (mut acknowledged, mut overrun) = (0, false);
    loop {
        match socket.recv_from_full() {
            Ok(_) => acknowledged += 1,
            Err(error) if error.raw_os_error() == Some(ENOBUFS) => overrun = true,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok((acknowledged, overrun))
}

async fn batch_that_ends_with_a_daemon(namespace: NetNs, client: Client) -> Outcome {
    let links = Links::connect(&namespace)?;
    links.up(&links.create_dummy("sync0").await?.link).await?;
    let start = Request::NewDaemon(SyncDaemon::new(DaemonRole::BACKUP, "sync0".parse()?, 1.into()));
    let stop = Request::DeleteDaemon(DaemonRole::BACKUP);
    // The kernel forgets to acknowledge the stop; the batch still ends.
    for _ in 0..10 {
        client.batch(&[start.clone(), stop.clone()]).await.into_result()?;
    }
    let outcomes = client.batch(&[start, stop.clone(), stop]).await;
    let kinds: Vec<_> =
        outcomes.iter().map(|outcome| outcome.as_ref().err().map(|e| e.kind())).collect();
    assert_eq!(kinds, [None, None, Some(ErrorKind::DaemonNotFound)]);
    Ok(())
}

async fn batch_dropped_half_way(_: NetNs, client: Client) -> Outcome {
    let writes = load(2_000, 0);
    for polls in 0..6 {
        let mut batch = Box::pin(client.batch(&writes));
        for _ in 0..polls {
            tokio::select! {
                biased;
                _ = &mut batch => break,
                () = std::future::ready(()) => {}
            }
        }
        drop(batch);
        // The next batch gets its own answers.
        let outcomes = client.batch(&[Request::Flush, Request::NewService(service(1))]).await;
        assert!(outcomes.iter().all(Result::is_ok), "{polls}: {outcomes:?}");
        assert_eq!(client.services().await?.len(), 1);
    }
    Ok(())
}

async fn snapshot_of_everything(_: NetNs, client: Client) -> Outcome {
    assert!(client.snapshot().await?.services.is_empty());
    client.batch(&load(150, 3)).await.into_result()?;
    // A service whose list needs more than one datagram.
    let long = Service::new(key("-u 10.0.0.185:53"));
    client.add_service(&long).await?;
    let writes: Vec<_> =
        (1..=300).map(|number| Request::NewDestination(*long.key(), destination(number))).collect();
    client.batch(&writes).await.into_result()?;
    let snapshot = client.snapshot().await?;
    assert!(snapshot.is_certain());
    assert_eq!(snapshot.services.len(), 151);
    for number in 1..=150 {
        let taken = snapshot.service(service(number).key()).ok_or("a service is missing")?;
        assert_eq!(taken.entry.service, service(number));
        let found: Vec<_> = taken.destinations.iter().map(|e| e.destination.clone()).collect();
        assert_eq!(found, (1..=3).map(destination).collect::<Vec<_>>());
    }
    let taken = snapshot.service(long.key()).ok_or("the long service is missing")?;
    assert_eq!(taken.destinations.len(), 300);
    assert!(taken.destination(&destination(255).key).is_some());
    assert!(taken.destination(&destination(301).key).is_none());

    let mut visited = Vec::new();
    client.visit_services(|service| visited.push(service)).await?;
    assert_eq!(visited, snapshot.services.into_values().map(Ok).collect::<Vec<_>>());
    Ok(())
}

/// The bug: if others add services while the kernel lists them, it repeats what it has listed already, and
/// its answers do not show that.
async fn list_repeats_what_was_listed(namespace: NetNs, client: Client) -> Outcome {
    let key = *service(1).key();
    client.batch(&load(1, 200)).await.into_result()?;
    let listed = namespace.run(|| -> Result<Vec<DestinationKey>, Failed> {
        let socket = open()?;
        let family = family(&socket)?;
        let list = Request::ListDestinations(key);
        socket.send_to(&message(family, 1, list.flags(), &list)?, &SocketAddr::new(0, 0), 0)?;
        let mut listed = Vec::new();
        let mut first = true;
        loop {
            let (datagram, _) = socket.recv_from_full()?;
            // The end arrives alone.
            if datagram.len() <= 20 {
                return Ok(listed);
            }
            listed.extend(destinations_in(&datagram)?);
            if std::mem::take(&mut first) {
                let client = blocking::Client::connect()?;
                for number in 1_001..=1_005 {
                    client.add_destination(&key, &destination(number))?;
                }
            }
        }
    })??;
    let distinct: BTreeSet<_> = listed.iter().collect();
    assert_eq!(distinct.len(), 200, "all were there all the time");
    assert_eq!(listed.len(), 205, "the five that were added pushed five back into sight");
    Ok(())
}

/// A snapshot that reports to be consistent has everything that existed all the time, once.
async fn snapshot_while_others_write(namespace: NetNs, client: Client) -> Outcome {
    let key = *service(1).key();
    client.batch(&load(1, 2_000)).await.into_result()?;
    let stay: BTreeSet<_> = (1..=2_000).map(|number| destination(number).key).collect();
    let ended = Arc::new(AtomicBool::new(false));
    let writer = thread::spawn({
        let ended = Arc::clone(&ended);
        let client = blocking::Client::connect_in(&namespace)?;
        move || -> Result<(), ipvs_client::Error> {
            while !ended.load(Ordering::Relaxed) {
                for number in 5_000..5_020 {
                    client.add_destination(&key, &destination(number))?;
                }
                for number in 5_000..5_020 {
                    client.delete_destination(&key, &destination(number).key)?;
                }
            }
            Ok(())
        }
    });
    let whole = |keys: &[DestinationKey]| {
        let set: BTreeSet<_> = keys.iter().copied().collect();
        set.len() == keys.len() && stay.is_subset(&set)
    };
    let (mut wrong_lists, mut inconsistent) = (0, 0);
    for _ in 0..8 {
        let entries = client.destinations(&key).await?.all()?;
        let keys: Vec<_> = entries.iter().map(|entry| entry.destination.key).collect();
        wrong_lists += usize::from(!whole(&keys));
        let snapshot = client.snapshot().await?;
        let taken = snapshot.service(&key).ok_or("the service is missing")?;
        if snapshot.is_certain() {
            let keys: Vec<_> = taken.destinations.iter().map(|e| e.destination.key).collect();
            assert!(whole(&keys), "a consistent snapshot misses or repeats destinations");
        } else {
            inconsistent += 1;
        }
    }
    ended.store(true, Ordering::Relaxed);
    writer.join().map_err(|_| "the writer panicked")??;
    eprintln!("of 8 each: {wrong_lists} plain lists wrong, {inconsistent} snapshots inconsistent");
    let snapshot = client.snapshot().await?;
    assert!(snapshot.is_certain(), "nobody writes any more");
    assert_eq!(snapshot.service(&key).ok_or("the service is missing")?.destinations.len(), 2_000);
    Ok(())
}

#[derive(Clone, Copy)]
struct Table {
    services: u16,
    destinations: u16,
}

/// While another program adds and deletes its services, every snapshot has all the others, all of them
/// certain, and costs a few requests for each change.
async fn snapshot_beside_a_writer(
    namespace: NetNs,
    client: Client,
    table: Table,
    changes_per_second: u32,
) -> Outcome {
    let Table { services, destinations } = table;
    client.batch(&load(services, destinations)).await.into_result()?;
    let mut quiet = usize::MAX;
    // From 7.1 on the kernel may still be enlarging its table, which counts as a change.
    for _ in 0..3 {
        let before = requests(&client)?;
        assert!(client.snapshot().await?.is_certain());
        quiet = quiet.min(requests(&client)? - before);
    }
    assert_eq!(quiet, usize::from(services) + 2);

    let pause = Duration::from_secs(1) / changes_per_second;
    let (ended, changes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let writer = thread::spawn({
        let (ended, changes) = (Arc::clone(&ended), Arc::clone(&changes));
        let client = blocking::Client::connect_in(&namespace)?;
        move || -> Result<(), ipvs_client::Error> {
            for round in 0.. {
                let others = (0..20).map(|number| service(30_000 + (round % 50) * 20 + number));
                for (write, key) in others
                    .clone()
                    .map(|other| (Some(other.clone()), *other.key()))
                    .chain(others.map(|other| (None, *other.key())))
                {
                    if ended.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                    match write {
                        Some(service) => client.add_service(&service)?,
                        None => client.delete_service(&key)?,
                    }
                    changes.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(pause);
                }
            }
            Ok(())
        }
    });
    let (mut certain, mut asked_most, mut changes_most) = (0, 0, 0);
    for _ in 0..5 {
        let (asked, changed) = (requests(&client)?, changes.load(Ordering::Relaxed));
        let snapshot = client.snapshot().await?;
        let asked = requests(&client)? - asked;
        let changed = changes.load(Ordering::Relaxed) - changed;
        for number in 1..=services {
            let key = *service(number).key();
            let found = snapshot.service(&key).ok_or_else(|| format!("{key} is missing"))?;
            assert_eq!(found.entry.service, service(number));
            assert_eq!(found.destinations.len(), usize::from(destinations), "{key}");
            assert!(!snapshot.uncertain.contains(&key), "{key} is in doubt");
        }
        // In addition: four more lists of services; for up to 20 others, whether it exists, and its
        // destinations; the same for each change, and for each service that a disturbed list lacked.
        let most = quiet + 4 + 2 * 20 + 3 * (changed + 1);
        assert!(asked <= most, "{asked} requests for {changed} changes");
        certain += usize::from(snapshot.is_certain());
        asked_most = asked_most.max(asked);
        changes_most = changes_most.max(changed);
    }
    ended.store(true, Ordering::Relaxed);
    writer.join().map_err(|_| "the writer panicked")??;
    eprintln!(
        "{certain} of 5 certain; at most {asked_most} requests, of which {quiet} without any change, \
         and {changes_most} changes"
    );
    Ok(())
}

/// The number of requests that a client has sent: the sequence number of the last.
fn requests(client: &Client) -> Result<usize, Failed> {
    let text = format!("{client:?}");
    let (_, number) = text.split_once("sequence: ").ok_or_else(|| text.clone())?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    Ok(digits.parse()?)
}

async fn blocking_client_does_the_same(namespace: NetNs, client: Client) -> Outcome {
    // Without tokio: a blocking call on its thread would be a mistake in a program, but not here.
    let blocking = blocking::Client::connect_in(&namespace)?;
    assert_eq!(blocking.info()?, client.info().await?);
    blocking.batch(&load(20, 3)).into_result()?;
    assert_eq!(blocking.snapshot()?, client.snapshot().await?);
    assert_eq!(blocking.service(service(3).key())?, client.service(service(3).key()).await?);
    let error = blocking.service(service(99).key()).expect_err("it is not there");
    assert_eq!(error.kind(), ErrorKind::ServiceNotFound);
    let error = blocking.destinations(service(99).key()).expect_err("it is not there");
    assert_eq!(error.kind(), ErrorKind::ServiceNotFound);
    blocking.flush()?;
    assert!(client.services().await?.is_empty());
    Ok(())
}

async fn client_on_smol_does_the_same(namespace: NetNs, client: Client) -> Outcome {
    let on_smol = Client::connect_in(&namespace)?;
    let (outcomes, snapshot, missing) = thread::spawn(move || {
        async_io::block_on(async move {
            let outcomes = on_smol.batch(&load(200, 3)).await;
            let missing = on_smol.service(service(999).key()).await;
            (outcomes, on_smol.snapshot().await, missing)
        })
    })
    .join()
    .map_err(|_| "a call panicked")?;
    outcomes.into_result()?;
    assert_eq!(snapshot?, client.snapshot().await?);
    assert_eq!(missing.expect_err("it is not there").kind(), ErrorKind::ServiceNotFound);
    Ok(())
}

async fn modify_and_upsert(_: NetNs, client: Client) -> Outcome {
    let mut sip = Service::new(key("-u 10.0.0.185:5060"));
    sip.flags = ipvs_client::packet::ServiceFlags::PERSISTENT;
    sip.timeout = 60;
    sip.engine = Some(EngineName::SIP);
    assert!(client.upsert_service(&sip).await?);
    assert!(!client.upsert_service(&sip).await?);
    // The trap: an update that does not name the engine removes it.
    let mut plain = sip.clone();
    plain.engine = None;
    client.update_service(&plain).await?;
    assert_eq!(client.service(sip.key()).await?.service.engine, None);
    client.update_service(&sip).await?;
    // Changing one setting keeps the engine.
    assert!(client.modify_service(sip.key(), |service| service.timeout = 90).await?);
    assert!(!client.modify_service(sip.key(), |service| service.timeout = 90).await?);
    sip.timeout = 90;
    assert_eq!(client.service(sip.key()).await?.service, sip);

    let mut tunnelled = destination(1);
    tunnelled.forward = ipvs_client::packet::ForwardMethod::TUNNEL;
    tunnelled.tunnel = ipvs_client::packet::Tunnel::gue(6080.try_into()?, Default::default());
    assert!(client.upsert_destination(sip.key(), &tunnelled).await?);
    assert!(!client.upsert_destination(sip.key(), &tunnelled).await?);
    let change = |destination: &mut Destination| destination.weight = Weight::ZERO;
    assert!(client.modify_destination(sip.key(), &tunnelled.key, change).await?);
    tunnelled.weight = Weight::ZERO;
    assert_eq!(client.destinations(sip.key()).await?.all()?[0].destination, tunnelled);
    let error = client.modify_destination(sip.key(), &destination(9).key, change).await;
    assert_eq!(error.expect_err("it is not there").kind(), ErrorKind::DestinationNotFound);
    Ok(())
}

// The functions below send netlink messages by hand, to show the kernel's behaviour without the client.

fn open() -> Result<NetlinkSocket, Failed> {
    let mut socket = NetlinkSocket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    Ok(socket)
}

/// A whole netlink message.
fn message(family: u16, sequence: u32, flags: u16, request: &Request) -> Result<Vec<u8>, Failed> {
    let length = 20 + request.buffer_len();
    let mut message = vec![0; length];
    message[0..4].copy_from_slice(&u32::try_from(length)?.to_ne_bytes());
    message[4..6].copy_from_slice(&family.to_ne_bytes());
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    message[8..12].copy_from_slice(&sequence.to_ne_bytes());
    message[16] = request.command().0;
    message[17] = 1;
    request.emit(&mut message[20..]);
    Ok(message)
}

/// The number of the family IPVS.
fn family(socket: &NetlinkSocket) -> Result<u16, Failed> {
    let payload = [&9u16.to_ne_bytes()[..], &2u16.to_ne_bytes(), b"IPVS\0\0\0\0"].concat();
    let request = Request::Other { command: CommandNumber(3), payload };
    socket.send_to(&message(16, 1, 1, &request)?, &SocketAddr::new(0, 0), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let mut attributes = NlasIterator::new(&answer[20..]).flatten();
    let number = attributes.find(|attribute| attribute.kind() == 1).ok_or("no family")?;
    Ok(u16::from_ne_bytes(number.value().try_into()?))
}

/// The destinations in a datagram of a dump.
fn destinations_in(datagram: &[u8]) -> Result<Vec<DestinationKey>, Failed> {
    let mut rest = datagram;
    let mut keys = Vec::new();
    while let Some(length) = rest.first_chunk::<4>() {
        let length = u32::from_ne_bytes(*length) as usize;
        match Reply::parse(CommandNumber(rest[16]), &rest[20..length], None)? {
            Reply::Destination(entry) => keys.push(entry.destination.key),
            other => return Err(format!("not a destination: {other:?}").into()),
        }
        rest = &rest[length..];
    }
    Ok(keys)
}
