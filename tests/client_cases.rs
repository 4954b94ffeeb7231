//! ipvs-client on a real kernel.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use ipvs_client::{
    BatchOptions, Client, Error, ErrorKind,
    packet::{
        AddressFamily, DaemonRole, Destination, EngineName, ForwardMethod, Netmask, Request,
        SchedulerName, Service, ServiceFlags, ServiceKey, SyncDaemon, Thresholds, Timeouts, Tunnel,
        TunnelFlags, Weight,
    },
};
use kernel_tests::{Outcome, client_case, key};
use libtest_mimic::{Failed, Trial};
use netns_link::NetNs;
use nix::{
    errno::Errno,
    kmod::{DeleteModuleFlags, delete_module},
};

/// Every case by its name.
pub(crate) fn cases() -> Vec<Trial> {
    vec![
        client_case("client_info", info),
        client_case("client_services_read_back_equal", services_read_back_equal),
        client_case("client_service_updates_read_back_equal", service_updates_read_back_equal),
        client_case("client_service_deletes", service_deletes),
        client_case("client_destinations_read_back_equal", destinations_read_back_equal),
        client_case("client_destination_updates", destination_updates),
        client_case("client_more_than_one_datagram", more_than_one_datagram),
        client_case("client_missing_service", missing_service),
        client_case("client_missing_destination", missing_destination),
        client_case("client_existing_service_and_destination", existing),
        client_case("client_unknown_scheduler_and_engine", unknown_scheduler_and_engine),
        client_case("client_refused_values", refused_values),
        client_case("client_timeouts", timeouts),
        client_case("client_daemons", daemons),
        client_case("client_daemon_on_an_odd_interface", daemon_on_an_odd_interface),
        client_case("client_zero_and_flush", zero_and_flush),
        client_case("client_two_in_one_process", two_in_one_process),
        client_case("client_namespaces_are_apart", namespaces_are_apart),
        client_case("client_many_at_once", many_at_once),
        client_case("client_cancelled_calls_harm_nobody", cancelled_calls_harm_nobody),
    ]
}

/// Cases that need a kernel of their own: they change settings of the whole machine.
pub(crate) fn guest_cases() -> Vec<Trial> {
    vec![
        client_case("client_outlives_a_reload_of_ip_vs", outlives_a_reload_of_ip_vs),
        client_case("batch_with_the_smallest_send_buffer", smallest_send_buffer),
    ]
}

/// Loading the module again changes the family's number: calls still work.
async fn outlives_a_reload_of_ip_vs(namespace: NetNs, client: Client) -> Outcome {
    let blocking = ipvs_client::blocking::Client::connect_in(&namespace)?;
    let key = key("-t 10.0.0.185:80");
    for round in 0..3 {
        client.add_service(&Service::new(key)).await?;
        client.flush().await?;
        unload_ip_vs()?;
        if std::fs::read_to_string("/proc/sys/kernel/osrelease")?.starts_with("5.10.") {
            // Linux 5.10 does not know which module has the family.
            let error = client.info().await.expect_err("there is no IPVS");
            assert_eq!(error.kind(), ErrorKind::NotAvailable, "{error}");
            let writes = vec![Request::NewService(Service::new(key)); 300];
            let kinds = client.batch(&writes).await.into_iter().map(|o| o.map_err(|e| e.kind()));
            let expected = (0..300).map(|position| match position {
                0..128 => Err(ErrorKind::NotAvailable),
                _ => Err(ErrorKind::NotSent),
            });
            assert!(kinds.eq(expected), "not for want of a scheduler");
            load_ip_vs()?;
        }
        // After it, a call of each kind finds the family again.
        match round {
            0 => drop(client.info().await?),
            1 => {
                client.batch(&[Request::NewService(Service::new(key))]).await.into_result()?;
            }
            _ => assert!(client.snapshot().await?.services.is_empty()),
        }
        client.flush().await?;
        assert!(blocking.services()?.is_empty());
        // A missing object is not confused with a missing family.
        let error = client.delete_service(&key).await.expect_err("there is none");
        assert_eq!(error.kind(), ErrorKind::ServiceNotFound);
    }
    Ok(())
}

/// The kernel refuses a datagram longer than the send buffer, and a batch's usually are longer.
fn key_of(port: u16) -> ServiceKey {
    ServiceKey::tcp(([10, 0, 0, 185], port).into()).expect("IPv4")
}

async fn smallest_send_buffer(namespace: NetNs, _: Client) -> Outcome {
    const DEFAULT: &str = "/proc/sys/net/core/wmem_default";
    let before = std::fs::read_to_string(DEFAULT)?;
    // `SOCK_MIN_SNDBUF`: a socket gets at least this.
    std::fs::write(DEFAULT, "4608")?;
    let small = Client::connect_in(&namespace);
    std::fs::write(DEFAULT, before)?;
    let writes: Vec<_> =
        (1..=300u16).map(|port| Request::NewService(Service::new(key_of(port)))).collect();
    let mut told = Vec::new();
    let mut tell = |known| told.push(known);
    let options = BatchOptions::new().progress(&mut tell);
    small?.batch_with(&writes, options).await.into_result()?;
    assert!(told.len() > 3, "the usual datagrams: {told:?}");
    Ok(())
}

fn unload_ip_vs() -> Result<(), Failed> {
    let modules = std::fs::read_to_string("/proc/modules")?;
    let names = modules.lines().filter_map(|line| line.split(' ').next());
    // First the schedulers, then the modules that they use.
    for name in names.filter(|name| name.starts_with("ip_vs_")).chain(["ip_vs"]) {
        let name = std::ffi::CString::new(name)?;
        // The kernel frees what earlier cases left only after a while.
        let until = Instant::now() + Duration::from_secs(30);
        while let Err(errno) = delete_module(&name, DeleteModuleFlags::empty()) {
            if errno != Errno::EAGAIN || Instant::now() > until {
                return Err(format!("unloading {}: {errno}", name.to_string_lossy()).into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

fn load_ip_vs() -> Outcome {
    let modprobe = std::fs::read_to_string("/proc/sys/kernel/modprobe")?;
    let status = Command::new(modprobe.trim()).args(["-q", "--", "ip_vs"]).status()?;
    if status.success() { Ok(()) } else { Err(format!("loading ip_vs: {status}").into()) }
}

async fn info(_: NetNs, client: Client) -> Outcome {
    let info = client.info().await?;
    assert_eq!(info.version.to_string(), "1.2.1");
    // From 7.1 on each namespace has its own table of connections, from its first service on.
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let numbers: Vec<u32> = release.split('.').map_while(|part| part.parse().ok()).collect();
    let own_table = numbers >= vec![7, 1];
    assert_eq!(info.connection_table_size, if own_table { 0 } else { 4096 });
    client.add_service(&Service::new(key("-t 10.0.0.185:80"))).await?;
    let size = client.info().await?.connection_table_size;
    if own_table {
        assert!(size.is_power_of_two() && size <= 4096, "{size}");
    } else {
        assert_eq!(size, 4096);
    }
    Ok(())
}

/// Services with every kind of key, each with other settings.
fn services() -> Result<Vec<Service>, Failed> {
    let mut services: Vec<Service> = [
        "-t 10.0.0.185:80",
        "-u 10.0.0.185:53",
        "--sctp-service 10.0.0.185:5060",
        "-t [2001:db8::185]:80",
        "-u [2001:db8::185]:53",
        "-f 10",
        "-f 4294967295",
        "-f 10 -6",
        "-t 10.0.0.185:443",
        "-u [2001:db8::]:5060",
    ]
    .into_iter()
    .map(|text| Service::new(key(text)))
    .collect();
    let schedulers =
        ["wlc", "rr", "wrr", "lc", "sh", "mh", "dh", "sed", "nq", "fo"].map(SchedulerName::new);
    for (service, scheduler) in services.iter_mut().zip(schedulers) {
        service.scheduler = scheduler?;
    }
    services[4].flags = ServiceFlags::SH_PORT | ServiceFlags::SH_FALLBACK;
    services[1].flags = ServiceFlags::ONE_PACKET;
    services[3].flags = ServiceFlags::PERSISTENT;
    services[3].timeout = 360;
    services[3].set_netmask(Netmask::prefix(AddressFamily::Ipv6, 64)?)?;
    services[8].flags = ServiceFlags::PERSISTENT;
    services[8].timeout = 7200;
    services[8].set_netmask(Netmask::from_text(AddressFamily::Ipv4, "255.255.255.0")?)?;
    services[9].flags = ServiceFlags::PERSISTENT;
    services[9].timeout = 30;
    services[9].engine = Some(EngineName::SIP);
    Ok(services)
}

async fn services_read_back_equal(_: NetNs, client: Client) -> Outcome {
    let mut expected = services()?;
    for service in &expected {
        client.add_service(service).await?;
        let entry = client.service(service.key()).await?;
        assert_eq!(entry.service, *service);
        assert!(entry.service.flags.contains(ServiceFlags::HASHED));
        assert!(entry.unknown.is_empty(), "{:?}", entry.unknown);
        assert_eq!(entry.statistics, Default::default());
    }
    let mut listed: Vec<Service> =
        client.services().await?.all()?.into_iter().map(|entry| entry.service).collect();
    listed.sort_by_key(|service| *service.key());
    expected.sort_by_key(|service| *service.key());
    assert_eq!(listed, expected);
    Ok(())
}

async fn service_updates_read_back_equal(_: NetNs, client: Client) -> Outcome {
    for mut service in services()? {
        client.add_service(&Service::new(*service.key())).await?;
        client.update_service(&service).await?;
        assert_eq!(client.service(service.key()).await?.service, service);
        // And back: flags are cleared, and an absent engine is removed.
        service = Service::new(*service.key());
        client.update_service(&service).await?;
        assert_eq!(client.service(service.key()).await?.service, service);
    }
    Ok(())
}

async fn service_deletes(_: NetNs, client: Client) -> Outcome {
    let services = services()?;
    for service in &services {
        client.add_service(service).await?;
    }
    for service in &services {
        client.delete_service(service.key()).await?;
        let error = client.service(service.key()).await.expect_err("it was deleted");
        assert_eq!(error.kind(), ErrorKind::ServiceNotFound);
    }
    assert!(client.services().await?.is_empty());
    Ok(())
}

fn destinations(ipv6: bool) -> Result<Vec<Destination>, Failed> {
    let address = |last: u8| match ipv6 {
        false => format!("172.17.0.{last}:80"),
        true => format!("[2001:db8::{last}]:80"),
    };
    let mut destinations = Vec::new();
    for last in 3..9 {
        destinations.push(Destination::new(address(last).parse()?));
    }
    destinations[1].forward = ForwardMethod::DIRECT_ROUTE;
    destinations[1].weight = Weight::ZERO;
    destinations[2].forward = ForwardMethod::TUNNEL;
    destinations[2].weight = Weight::MAX;
    destinations[3].forward = ForwardMethod::TUNNEL;
    destinations[3].tunnel = Tunnel::gue(6080.try_into()?, TunnelFlags::CHECKSUM);
    destinations[4].forward = ForwardMethod::TUNNEL;
    destinations[4].tunnel = Tunnel::gre(TunnelFlags::REMOTE_CHECKSUM);
    destinations[5].weight = Weight::new(70_000)?;
    destinations[5].thresholds = Thresholds::new(2_000_000, 1_000_000)?;
    Ok(destinations)
}

async fn destinations_read_back_equal(_: NetNs, client: Client) -> Outcome {
    for service in ["-t 10.0.0.185:80", "-t [2001:db8::185]:80", "-f 7", "-f 7 -6"] {
        let key = key(service);
        client.add_service(&Service::new(key)).await?;
        let mut expected = destinations(key.family() == AddressFamily::Ipv6)?;
        for destination in &expected {
            client.add_destination(&key, destination).await?;
        }
        let entries = client.destinations(&key).await?.all()?;
        let mut listed: Vec<_> = entries.iter().map(|entry| entry.destination.clone()).collect();
        // The kernel lists the newest first.
        expected.reverse();
        assert_eq!(listed, expected, "{service}");
        assert!(
            entries.iter().all(|entry| entry.unknown.is_empty() && entry.active_connections == 0)
        );
        // A tunnelled destination may be of the other family.
        let mut other = destinations(key.family() == AddressFamily::Ipv4)?.swap_remove(2);
        other.weight = Weight::ONE;
        client.add_destination(&key, &other).await?;
        listed = client
            .destinations(&key)
            .await?
            .all()?
            .into_iter()
            .map(|entry| entry.destination)
            .collect();
        assert!(listed.contains(&other), "{service}: {listed:?}");
    }
    Ok(())
}

async fn destination_updates(_: NetNs, client: Client) -> Outcome {
    let key = key("-t 10.0.0.185:80");
    client.add_service(&Service::new(key)).await?;
    let mut plain = Destination::new("172.17.0.3:80".parse()?);
    client.add_destination(&key, &plain).await?;
    for mut destination in destinations(false)? {
        destination.key = plain.key;
        client.update_destination(&key, &destination).await?;
        assert_eq!(client.destinations(&key).await?.all()?[0].destination, destination);
    }
    plain.weight = Weight::ZERO;
    client.update_destination(&key, &plain).await?;
    assert_eq!(client.destinations(&key).await?.all()?[0].destination, plain);
    client.delete_destination(&key, &plain.key).await?;
    assert!(client.destinations(&key).await?.is_empty());
    Ok(())
}

async fn more_than_one_datagram(_: NetNs, client: Client) -> Outcome {
    for port in 1..=500 {
        let service = Service::new(key_of(port));
        client.add_service(&service).await?;
    }
    let expected: Vec<_> = (1..=500).map(key_of).collect();
    let list = async || -> Result<Vec<ServiceKey>, Failed> {
        let mut keys: Vec<_> =
            client.services().await?.all()?.iter().map(|entry| *entry.service.key()).collect();
        keys.sort();
        Ok(keys)
    };
    let mut listed = list().await?;
    // From 7.1 on the kernel may still be enlarging its table, which disturbs a list as changes do.
    for _ in 0..20 {
        if listed == expected {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        listed = list().await?;
    }
    assert_eq!(listed, expected);
    Ok(())
}

async fn missing_service(_: NetNs, client: Client) -> Outcome {
    let key = key("-t 10.0.0.185:80");
    let destination = Destination::new("172.17.0.3:80".parse()?);
    let calls: [(&str, Result<(), Error>); 8] = [
        ("service", client.service(&key).await.map(drop)),
        ("update_service", client.update_service(&Service::new(key)).await),
        ("delete_service", client.delete_service(&key).await),
        ("destinations", client.destinations(&key).await.map(drop)),
        ("add_destination", client.add_destination(&key, &destination).await),
        ("update_destination", client.update_destination(&key, &destination).await),
        ("delete_destination", client.delete_destination(&key, &destination.key).await),
        ("zero_service", client.zero_service(&key).await),
    ];
    for (call, result) in calls {
        let error = result.expect_err(call);
        assert_eq!(error.kind(), ErrorKind::ServiceNotFound, "{call}: {error}");
        assert_eq!(error.errno(), Some(3), "{call}: {error}");
        let text = error.to_string();
        assert!(text.contains("-t 10.0.0.185:80"), "{text}");
        assert!(text.contains("ESRCH"), "{text}");
    }
    Ok(())
}

async fn missing_destination(_: NetNs, client: Client) -> Outcome {
    let key = key("-t 10.0.0.185:80");
    client.add_service(&Service::new(key)).await?;
    let destination = Destination::new("172.17.0.3:80".parse()?);
    for result in [
        client.update_destination(&key, &destination).await,
        client.delete_destination(&key, &destination.key).await,
    ] {
        let error = result.expect_err("the destination does not exist");
        assert_eq!(error.kind(), ErrorKind::DestinationNotFound);
        assert!(error.to_string().contains("172.17.0.3:80"), "{error}");
    }
    Ok(())
}

async fn existing(_: NetNs, client: Client) -> Outcome {
    let mut service = Service::new(key("-t 10.0.0.185:80"));
    client.add_service(&service).await?;
    service.scheduler = SchedulerName::RR;
    let error = client.add_service(&service).await.expect_err("it exists");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(error.errno(), Some(17));
    let destination = Destination::new("172.17.0.3:80".parse()?);
    client.add_destination(service.key(), &destination).await?;
    let error = client.add_destination(service.key(), &destination).await.expect_err("it exists");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    Ok(())
}

async fn unknown_scheduler_and_engine(_: NetNs, client: Client) -> Outcome {
    let mut service = Service::new(key("-u 10.0.0.185:5060"));
    service.scheduler = SchedulerName::new("nonesuch")?;
    let error = client.add_service(&service).await.expect_err("no such scheduler");
    assert_eq!(error.kind(), ErrorKind::SchedulerNotFound);
    assert!(error.to_string().contains("ip_vs_nonesuch"), "{error}");

    service.scheduler = SchedulerName::RR;
    service.engine = Some(EngineName::new("nonesuch")?);
    let error = client.add_service(&service).await.expect_err("no such engine");
    assert_eq!(error.kind(), ErrorKind::EngineNotFound, "{error}");
    assert!(error.to_string().contains("ip_vs_pe_nonesuch"), "{error}");
    Ok(())
}

async fn refused_values(_: NetNs, client: Client) -> Outcome {
    let key = key("-t 10.0.0.185:80");
    client.add_service(&Service::new(key)).await?;
    for address in ["0.0.0.0:80", "224.0.0.1:80", "[2001:db8::1]:80"] {
        let destination = Destination::new(address.parse()?);
        let error = client.add_destination(&key, &destination).await.expect_err(address);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{address}: {error}");
    }
    let error = client.set_timeouts(Timeouts::new(u32::MAX, 0, 0)).await;
    assert_eq!(error.expect_err("too long").kind(), ErrorKind::Invalid);
    Ok(())
}

async fn timeouts(_: NetNs, client: Client) -> Outcome {
    assert_eq!(client.timeouts().await?, Timeouts::new(900, 120, 300));
    client.set_timeouts(Timeouts::new(60, 0, 5)).await?;
    assert_eq!(client.timeouts().await?, Timeouts::new(60, 120, 5));
    Ok(())
}

async fn daemons(namespace: NetNs, client: Client) -> Outcome {
    let links = netns_link::Links::connect(&namespace)?;
    let link = links.create_dummy("sync0").await?.link;
    links.up(&link).await?;
    for role in [DaemonRole::MASTER, DaemonRole::BACKUP] {
        let error = client.stop_daemon(role).await.expect_err("none runs");
        assert_eq!(error.kind(), ErrorKind::DaemonNotFound, "{error}");
        // If stopped at once, the kernel forgets to acknowledge; see `Exchange`.
        for _ in 0..20 {
            let daemon = SyncDaemon::new(role, "sync0".parse()?, 7.into());
            client.start_daemon(&daemon).await?;
            let entries = client.daemons().await?.all()?;
            assert_eq!(entries.len(), 1);
            assert_eq!(entries[0].daemon.role, role);
            assert_eq!(entries[0].daemon.interface, *"sync0");
            assert_eq!(entries[0].daemon.sync_id.get(), 7);
            assert_eq!(entries[0].daemon.group(), Some("224.0.0.81".parse()?));
            assert!(entries[0].unknown.is_empty());
            let error = client.start_daemon(&daemon).await.expect_err("it runs");
            assert_eq!(error.kind(), ErrorKind::AlreadyExists);
            client.stop_daemon(role).await?;
            assert!(client.daemons().await?.is_empty());
        }
    }
    let missing = SyncDaemon::new(DaemonRole::MASTER, "nonesuch".parse()?, 0.into());
    let error = client.start_daemon(&missing).await.expect_err("no such interface");
    assert_eq!(error.kind(), ErrorKind::InterfaceNotFound);
    Ok(())
}

/// For the kernel a name is bytes: a name that is not UTF-8 is not lost and does not break the list.
async fn daemon_on_an_odd_interface(namespace: NetNs, client: Client) -> Outcome {
    const NAME: &str = r"x\xffy";
    let links = netns_link::Links::connect(&namespace)?;
    let link = links.create_dummy(NAME).await?.link;
    links.up(&link).await?;
    client.start_daemon(&SyncDaemon::new(DaemonRole::MASTER, NAME.parse()?, 7.into())).await?;
    let entries = client.daemons().await?.all()?;
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].daemon.interface, *NAME);
    assert_eq!(entries[0].daemon.interface.as_bytes(), b"x\xffy");
    client.stop_daemon(DaemonRole::MASTER).await?;
    assert!(client.daemons().await?.is_empty());
    Ok(())
}

async fn zero_and_flush(_: NetNs, client: Client) -> Outcome {
    client.flush().await?;
    client.zero().await?;
    for service in services()? {
        client.add_service(&service).await?;
        client.zero_service(service.key()).await?;
    }
    client.zero().await?;
    client.flush().await?;
    assert!(client.services().await?.is_empty());
    Ok(())
}

async fn two_in_one_process(namespace: NetNs, first: Client) -> Outcome {
    let second = Client::connect_in(&namespace)?;
    let key = key("-t 10.0.0.185:80");
    first.add_service(&Service::new(key)).await?;
    assert_eq!(second.service(&key).await?.service, Service::new(key));
    second.delete_service(&key).await?;
    assert!(first.services().await?.is_empty());
    Ok(())
}

async fn namespaces_are_apart(_: NetNs, here: Client) -> Outcome {
    let other = NetNs::new()?;
    let there = Client::connect_in(&other)?;
    let key = key("-t 10.0.0.185:80");
    here.add_service(&Service::new(key)).await?;
    assert!(there.services().await?.is_empty());
    there.add_service(&Service::new(key)).await?;
    here.flush().await?;
    assert_eq!(there.services().await?.len(), 1);
    Ok(())
}

async fn many_at_once(_: NetNs, client: Client) -> Outcome {
    let tasks: Vec<_> = (1..=10_000u16)
        .map(|port| {
            let client = client.clone();
            tokio::spawn(async move {
                let service = Service::new(key_of(port));
                client.add_service(&service).await?;
                assert_eq!(client.service(service.key()).await?.service, service);
                if port % 1_000 == 0 {
                    client.services().await?.all()?;
                    client.destinations(service.key()).await?.all()?;
                }
                Ok::<_, Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    assert_eq!(client.services().await?.len(), 10_000);
    Ok(())
}

async fn cancelled_calls_harm_nobody(_: NetNs, client: Client) -> Outcome {
    for port in 1..=300 {
        client.add_service(&Service::new(ServiceKey::tcp(([10, 0, 0, 1], port).into())?)).await?;
    }
    for round in 0..200u32 {
        // Dropped after a few polls, at any stage.
        let mut call = Box::pin(client.services());
        for _ in 0..round % 8 {
            tokio::select! {
                biased;
                _ = &mut call => break,
                () = tokio::task::yield_now() => {}
            }
        }
        drop(call);
        if round % 3 == 0 {
            assert_eq!(client.services().await?.len(), 300, "round {round}");
        }
    }
    assert_eq!(client.services().await?.len(), 300);
    Ok(())
}
