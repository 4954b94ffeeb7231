//! netns-link on a real kernel. Each case makes its own namespaces, so all may run at once.

use std::{
    collections::BTreeSet,
    fs,
    future::{Future, poll_fn},
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    os::unix::fs::symlink,
    pin::pin,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    task::Poll,
    time::{Duration, Instant},
};

use libtest_mimic::{Failed, Trial};
use netns_link::{
    Address, DummyLink, Error, ErrorKind, Link, Links, NetNs, RealServerArp, RealServerSetup,
    Scope, Setting, blocking, prepare_director, prepare_real_server,
};

/// Every case by its name.
pub(crate) fn cases() -> Vec<Trial> {
    vec![
        case("netns_is_fresh_and_ends", netns_is_fresh_and_ends),
        case("netns_run_gives_result_and_panic", netns_run_gives_result_and_panic),
        case("netns_named_as_ip_netns", netns_named_as_ip_netns),
        case("netns_from_pid_and_spawn", netns_from_pid_and_spawn),
        case("netns_sockets_stay_inside", netns_sockets_stay_inside),
        async_case("netns_link_dummy_create_and_delete", link_dummy_create_and_delete),
        async_case("netns_link_of_another_kind_is_left_alone", link_of_another_kind_is_left_alone),
        async_case("netns_link_settings", link_settings),
        async_case("netns_odd_names_spoil_no_list", odd_names_spoil_no_list),
        async_case("netns_setting_of_nothing", setting_of_nothing),
        async_case("netns_link_moves_to_a_namespace", link_moves_to_a_namespace),
        async_case("netns_address_add_and_remove_twice", address_add_and_remove_twice),
        async_case("netns_address_reconcile", address_reconcile),
        async_case("netns_address_reconcile_1000", address_reconcile_1000),
        async_case("netns_address_local", address_local),
        async_case("netns_link_gone_in_the_middle", link_gone_in_the_middle),
        async_case("netns_listing_by_many_at_once", listing_by_many_at_once),
        async_case("netns_listing_while_it_changes", listing_while_it_changes),
        case("netns_blocking_by_many_threads", blocking_by_many_threads),
        case("netns_links_serve_other_runtimes", links_serve_other_runtimes),
        case("netns_links_outlive_their_runtime", links_outlive_their_runtime),
        async_case("netns_settings_are_of_the_namespace", settings_are_of_the_namespace),
        async_case("netns_real_server_arp_and_undo", real_server_arp_and_undo),
        async_case("netns_real_server_setup_and_undo", real_server_setup_and_undo),
        async_case("netns_real_server_setups_share", real_server_setups_share),
        async_case("netns_real_server_record_after_a_crash", real_server_record_after_a_crash),
        async_case("netns_real_server_setup_fails_whole", real_server_setup_fails_whole),
        async_case("netns_director_has_exactly_the_vips", director_has_exactly_the_vips),
        async_case("netns_link_loses_its_addresses", link_loses_its_addresses),
        async_case("netns_link_call_dropped", link_call_dropped),
        async_case("netns_address_on_a_dummy_that_is_down", address_on_a_dummy_that_is_down),
        async_case("netns_address_properties", address_properties),
        async_case("netns_address_lifetime_ends", address_lifetime_ends),
        async_case("netns_address_deprecated_is_no_source", address_deprecated_is_no_source),
        async_case("netns_address_properties_reconcile", address_properties_reconcile),
        async_case("netns_address_beside_5000", address_beside_5000),
        async_case("netns_ipv6_switched_off", ipv6_switched_off),
        async_case("netns_ipv6_needs_an_mtu", ipv6_needs_an_mtu),
        async_case("netns_changes_before_a_failure_come_back", changes_before_a_failure_come_back),
    ]
}

fn netns_is_fresh_and_ends() -> Result<(), Failed> {
    let own = NetNs::current()?;
    let made = NetNs::new()?;
    assert_ne!(own, made);
    assert_eq!(made.run(NetNs::current)??, made);
    assert_eq!(NetNs::current()?, own, "the caller's thread stays where it was");
    assert_eq!(made.run(|| fs::read_to_string("/proc/thread-self/net/dev"))??.lines().count(), 3);
    Ok(())
}

fn netns_run_gives_result_and_panic() -> Result<(), Failed> {
    let namespace = NetNs::new()?;
    let mut borrowed = 1;
    assert_eq!(
        namespace.run(|| {
            borrowed += 1;
            borrowed * 10
        })?,
        20
    );
    let panic = std::panic::catch_unwind(|| {
        namespace.run(|| std::panic::resume_unwind(Box::new("inside")))
    });
    assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"inside"));
    Ok(())
}

fn netns_named_as_ip_netns() -> Result<(), Failed> {
    let name = format!("netns-link-{}", std::process::id());
    let made = NetNs::create(&name)?;
    let error = NetNs::create(&name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains("a network namespace of this name"), "{error}");
    assert_eq!(NetNs::open(&name)?, made, "the second attempt left it alone");
    assert!(NetNs::names()?.contains(&name));
    assert_eq!(NetNs::from_path(format!("/var/run/netns/{name}"))?, made);
    drop(made);
    NetNs::open(&name)?.run(|| ())?;
    NetNs::delete(&name)?;
    assert!(!NetNs::names()?.contains(&name));
    assert_eq!(NetNs::open(&name).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(NetNs::delete(&name).unwrap_err().kind(), ErrorKind::NotFound);

    // A bind mount as of `ip netns attach`, and a symbolic link for the same purpose.
    let anonymous = NetNs::new()?;
    anonymous.attach(&name)?;
    assert_eq!(NetNs::open(&name)?, anonymous);
    NetNs::delete(&name)?;
    symlink("/proc/self/ns/net", format!("/var/run/netns/{name}"))?;
    assert_eq!(NetNs::open(&name)?, NetNs::current()?);
    NetNs::delete(&name)?;

    // Leftovers of a reboot: the file without a namespace; and a link to a process that has ended.
    let path = format!("/var/run/netns/{name}");
    for make in [|path: &str| fs::write(path, ""), |path: &str| symlink("/proc/0/ns/net", path)] {
        make(&path)?;
        let error = NetNs::create(&name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        assert!(error.to_string().contains("delete the name first"), "{error}");
        let kind = NetNs::open(&name).unwrap_err().kind();
        assert!(matches!(kind, ErrorKind::InvalidInput | ErrorKind::NotFound), "{kind}");
        NetNs::delete(&name)?;
        assert!(fs::symlink_metadata(&path).is_err());
    }
    Ok(())
}

fn netns_from_pid_and_spawn() -> Result<(), Failed> {
    let namespace = NetNs::new()?;
    // `cat` ends with its input, whatever happens to this process.
    let mut child =
        namespace.spawn(Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()))?;
    let of_child = NetNs::from_pid(child.id());
    drop(child.stdin.take());
    child.wait()?;
    assert_eq!(of_child?, namespace);
    assert_eq!(NetNs::from_pid(child.id()).unwrap_err().kind(), ErrorKind::NotFound);
    let error = namespace.spawn(&mut Command::new("/no/such/program")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("/no/such/program"), "{error}");
    Ok(())
}

fn netns_sockets_stay_inside() -> Result<(), Failed> {
    let namespace = NetNs::new()?;
    tokio()?.block_on(async {
        let links = Links::connect(&namespace)?;
        let lo = found(&links, "lo").await?;
        links.up(&lo).await
    })?;
    let listener = namespace.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))??;
    let port = listener.local_addr()?.port();
    let mut outside = namespace.run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)))??;
    outside.write_all(b"inside")?;
    drop(outside);
    let mut text = String::new();
    listener.accept()?.0.read_to_string(&mut text)?;
    assert_eq!(text, "inside");
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
    Ok(())
}

async fn link_dummy_create_and_delete(_: NetNs, links: Links) -> Result<(), Failed> {
    let DummyLink { link: made, created, .. } = links.create_dummy("ipvs0").await?;
    assert!(created);
    assert_eq!(
        (made.name.as_str(), made.kind.as_deref(), made.up),
        ("ipvs0", Some("dummy"), false)
    );
    assert!(!made.arp);
    let again = links.create_dummy("ipvs0").await?;
    assert_eq!((again.link, again.created), (made.clone(), false), "exists is success");
    assert_eq!(links.find("ipvs0").await?.as_ref(), Some(&made));
    assert_eq!(links.find_index(made.index).await?.as_ref(), Some(&made));
    assert!(links.list().await?.contains(&made));
    assert!(links.delete_dummy("ipvs0").await?);
    assert!(!links.delete_dummy("ipvs0").await?, "absent is success");
    assert_eq!(links.find("ipvs0").await?, None);
    assert_eq!(links.find_index(made.index).await?, None);
    Ok(())
}

async fn link_of_another_kind_is_left_alone(_: NetNs, links: Links) -> Result<(), Failed> {
    for error in [
        links.create_dummy("lo").await.map(drop).unwrap_err(),
        links.delete_dummy("lo").await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotDummy, "{error}");
    }
    found(&links, "lo").await?;
    let error = links.create_dummy("a/b").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    Ok(())
}

async fn link_settings(_: NetNs, links: Links) -> Result<(), Failed> {
    let dummy = links.create_dummy("ipvs0").await?.link;
    links.up(&dummy).await?;
    links.set_mtu(&dummy, 9000).await?;
    links.set_arp(&dummy, true).await?;
    let changed = found(&links, "ipvs0").await?;
    assert_eq!((changed.up, changed.mtu, changed.arp), (true, 9000, true));
    links.down(&dummy).await?;
    links.set_arp(&dummy, false).await?;
    let changed = found(&links, "ipvs0").await?;
    assert_eq!((changed.up, changed.arp), (false, false));
    let error = links.set_mtu(&dummy, u32::MAX).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(error.to_string().contains("ipvs0"), "{error}");
    Ok(())
}

async fn link_moves_to_a_namespace(_: NetNs, links: Links) -> Result<(), Failed> {
    let pod = NetNs::new()?;
    let in_pod = Links::connect(&pod)?;
    let dummy = links.create_dummy("dummy1").await?.link;
    links.move_to(&dummy, &pod).await?;
    assert_eq!(links.find("dummy1").await?, None);
    assert_eq!(found(&in_pod, "dummy1").await?.kind.as_deref(), Some("dummy"));
    let second = links.create_dummy("dummy1").await?.link;
    let error = links.move_to(&second, &pod).await.unwrap_err();
    // The latter before Linux 6.6 and the stable releases with the same fix.
    let taken = [ErrorKind::AlreadyExists, ErrorKind::InvalidInput];
    assert!(taken.contains(&error.kind()), "{error}");
    Ok(())
}

async fn address_add_and_remove_twice(_: NetNs, links: Links) -> Result<(), Failed> {
    let dummy = links.create_dummy("ipvs0").await?.link;
    links.up(&dummy).await?;
    for text in ["10.0.0.185/32", "10.1.0.1/24", "fd00::185/128", "fd01::1/64"] {
        let address = text.parse::<Address>()?.nodad();
        assert!(links.add_address(&dummy, address).await?, "{text}");
        assert!(!links.add_address(&dummy, address).await?, "{text} again");
        assert!(links.addresses(&dummy).await?.contains(&address), "{text}");
    }
    // An IPv6 address exists once, an IPv4 address once for each prefix length.
    let error = links.add_address(&dummy, "fd01::1/128".parse()?).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    assert!(links.add_address(&dummy, "10.1.0.1/32".parse()?).await?);
    for text in ["10.0.0.185/32", "10.1.0.1/24", "10.1.0.1/32", "fd00::185/128", "fd01::1/64"] {
        let address = text.parse::<Address>()?;
        assert!(links.delete_address(&dummy, address).await?, "{text}");
        assert!(!links.delete_address(&dummy, address).await?, "{text} again");
    }
    assert_eq!(addresses(&links, &dummy).await?, []);
    Ok(())
}

async fn address_reconcile(_: NetNs, links: Links) -> Result<(), Failed> {
    let dummy = links.create_dummy("ipvs0").await?.link;
    links.up(&dummy).await?;
    let steps: [&[&str]; 7] = [
        &["10.0.0.1/32", "10.0.0.2/32", "fd00::1/128"],
        &["10.0.0.2/32", "10.0.0.3/32", "fd00::1/64"],
        // Deleting the first address of a network deletes the others of it.
        &["10.2.0.1/24", "10.2.0.2/24", "10.2.0.3/24"],
        &["10.2.0.2/24", "10.2.0.3/24", "10.2.0.4/24"],
        &["10.2.0.2/32", "10.2.0.3/24"],
        &["10.2.0.3/24", "10.2.0.3/24"],
        &[],
    ];
    for step in steps {
        let wanted = step.iter().map(|text| text.parse()).collect::<Result<Vec<Address>, _>>()?;
        links.set_addresses(&dummy, &wanted).await?;
        let unique: BTreeSet<_> = wanted.iter().copied().collect();
        assert_eq!(addresses(&links, &dummy).await?, unique.into_iter().collect::<Vec<_>>());
        let again = links.set_addresses(&dummy, &wanted).await?;
        assert!(again.is_empty(), "{again:?}");
    }
    let twice = ["fd00::1/64".parse()?, "fd00::1/128".parse()?];
    let error = links.set_addresses(&dummy, &twice).await.unwrap_err();
    assert_eq!(error.error.kind(), ErrorKind::InvalidInput, "{error}");
    Ok(())
}

async fn address_reconcile_1000(_: NetNs, links: Links) -> Result<(), Failed> {
    let dummy = links.create_dummy("ipvs0").await?.link;
    let range = |from: u32| -> Vec<Address> {
        (from..from + 1000).map(|n| Address::host(Ipv4Addr::from(0x0a00_0000 + n).into())).collect()
    };
    assert_eq!(links.set_addresses(&dummy, &range(1)).await?.added.len(), 1000);
    let changed = links.set_addresses(&dummy, &range(501)).await?;
    assert_eq!((changed.added.len(), changed.deleted.len()), (500, 500));
    assert_eq!(addresses(&links, &dummy).await?, range(501));
    // Addresses that are not named stay, and an existing one is no error.
    let changed = links.change_addresses(&dummy, &range(1)[..502], &range(1001)[..600]).await?;
    assert_eq!((changed.added.len(), changed.deleted.len()), (500, 500));
    assert_eq!(links.addresses(&dummy).await?.len(), 1000);
    assert_eq!(links.set_addresses(&dummy, &[]).await?.deleted.len(), 1000);
    Ok(())
}

/// Links that are neither loopback nor made by the kernel for IPv6.
async fn local_addresses(links: &Links) -> Result<BTreeSet<IpAddr>, Failed> {
    let all = links.all_addresses().await?;
    let own = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.segments()[0] == 0xfe80);
    let ips = all.values().flatten().map(Address::ip);
    Ok(ips.filter(|ip| !ip.is_loopback() && !own(ip)).collect())
}

async fn address_local(_: NetNs, links: Links) -> Result<(), Failed> {
    let (one, two) = (links.create_dummy("one").await?.link, links.create_dummy("two").await?.link);
    for link in [&one, &two, &found(&links, "lo").await?] {
        links.up(link).await?;
    }
    let shared: IpAddr = "10.0.0.1".parse()?;
    let own: IpAddr = "fd00::1".parse()?;
    links.add_address(&one, shared.into()).await?;
    links.add_address(&two, shared.into()).await?;
    links.add_address(&two, own.into()).await?;
    let all = links.all_addresses().await?;
    let of = |link: &Link| {
        let addresses = all[&link.index].iter().map(|address| address.ip());
        addresses.filter(|ip| !ip.to_string().starts_with("fe80")).collect()
    };
    assert_eq!((of(&one), of(&two)), (BTreeSet::from([shared]), BTreeSet::from([shared, own])));
    Ok(())
}

async fn link_gone_in_the_middle(_: NetNs, links: Links) -> Result<(), Failed> {
    let gone = links.create_dummy("ipvs0").await?.link;
    links.delete_dummy("ipvs0").await?;
    let address = "10.0.0.1".parse()?;
    for error in [
        links.up(&gone).await.unwrap_err(),
        links.add_address(&gone, address).await.unwrap_err(),
        links.set_addresses(&gone, &[address]).await.unwrap_err().error,
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains("ipvs0"), "{error}");
    }
    assert!(!links.delete_address(&gone, address).await?);
    assert_eq!(links.addresses(&gone).await?, []);
    Ok(())
}

async fn listing_by_many_at_once(_: NetNs, links: Links) -> Result<(), Failed> {
    let dummy = links.create_dummy("ipvs0").await?.link;
    let all: Vec<_> =
        (0..200_u32).map(|n| Address::host(Ipv4Addr::from(0x0a00_0000 + n).into())).collect();
    links.set_addresses(&dummy, &all).await?;
    let mut listings = tokio::task::JoinSet::new();
    for turn in 0..20 {
        let (links, dummy) = (links.clone(), dummy.clone());
        let listing = listings.spawn(async move { links.addresses(&dummy).await });
        if turn % 2 == 0 {
            listing.abort();
        }
        tokio::task::yield_now().await;
    }
    while let Some(listing) = listings.join_next().await {
        if let Ok(addresses) = listing {
            assert_eq!(addresses?.len(), all.len());
        }
    }
    Ok(())
}

/// A disturbed listing is made again: no list lacks an address that existed all the time.
async fn listing_while_it_changes(namespace: NetNs, links: Links) -> Result<(), Failed> {
    let dummy = links.create_dummy("ipvs0").await?.link;
    let stay: BTreeSet<_> =
        (0..1000_u32).map(|n| Address::host(Ipv4Addr::from(0x0a00_0000 + n).into())).collect();
    let order: Vec<_> = stay.iter().copied().collect();
    links.set_addresses(&dummy, &order).await?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let changes = scope.spawn(|| {
            tokio()?.block_on(async {
                let links = Links::connect(&namespace)?;
                let first = "10.9.9.9".parse()?;
                while !done.load(Ordering::Relaxed) {
                    links.add_address(&dummy, first).await?;
                    links.delete_address(&dummy, first).await?;
                }
                Ok::<_, Failed>(())
            })
        });
        let listings = scope.spawn(|| {
            tokio()?.block_on(async {
                let links = Links::connect(&namespace)?;
                for _ in 0..20 {
                    match links.addresses(&dummy).await {
                        Ok(listed) => {
                            let listed: BTreeSet<_> = listed.into_iter().collect();
                            assert_eq!(stay.difference(&listed).collect::<Vec<_>>(), [] as [&_; 0]);
                        }
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}"),
                    }
                }
                Ok::<_, Failed>(())
            })
        });
        let listings = listings.join();
        done.store(true, Ordering::Relaxed);
        changes.join().expect("no panic")?;
        listings.expect("no panic")
    })
}

/// Clones of the blocking client change and list at once: each call gets its own answers.
fn blocking_by_many_threads() -> Result<(), Failed> {
    let links = blocking::Links::connect(&NetNs::new()?)?;
    let dummy = links.create_dummy("ipvs0")?.link;
    let stay: BTreeSet<_> =
        (0..300_u32).map(|n| Address::host(Ipv4Addr::from(0x0a00_0000 + n).into())).collect();
    links.set_addresses(&dummy, &stay.iter().copied().collect::<Vec<_>>())?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4_u8)
            .map(|thread| {
                let (links, dummy, stay) = (links.clone(), &dummy, &stay);
                scope.spawn(move || -> Result<(), Error> {
                    let own = Address::host([10, 9, 9, thread].into());
                    for _ in 0..50 {
                        assert!(links.add_address(dummy, own)?);
                        let listed: BTreeSet<_> = links.addresses(dummy)?.into_iter().collect();
                        assert!(listed.contains(&own) && listed.is_superset(stay));
                        assert!(links.delete_address(dummy, own)?);
                        assert_eq!(links.find("no-such-link")?, None);
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })?;
    Ok(())
}

fn links_serve_other_runtimes() -> Result<(), Failed> {
    let namespace = NetNs::new()?;
    let theirs =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let links = theirs.block_on(async { Links::connect(&namespace) })?;
    for _ in 0..2 {
        let listed = tokio()?.block_on(async {
            links.create_dummy("ipvs0").await?;
            links.list().await
        })?;
        assert_eq!(listed.len(), 2);
    }
    Ok(())
}

fn links_outlive_their_runtime() -> Result<(), Failed> {
    let namespace = NetNs::new()?;
    let runtime = tokio()?;
    let (links, dummy) = runtime.block_on(async {
        let links = Links::connect(&namespace)?;
        let dummy = links.create_dummy("ipvs0").await?.link;
        Ok::<_, Error>((links, dummy))
    })?;
    drop(runtime);
    assert_eq!(Links::connect(&namespace).map(drop).unwrap_err().kind(), ErrorKind::Other);
    let address = "10.0.0.1".parse()?;
    tokio()?.block_on(async {
        for error in [
            links.list().await.map(drop).unwrap_err(),
            links.find("ipvs0").await.map(drop).unwrap_err(),
            links.up(&dummy).await.unwrap_err(),
            links.add_address(&dummy, address).await.map(drop).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}");
        }
        Ok(())
    })
}

async fn settings_are_of_the_namespace(namespace: NetNs, links: Links) -> Result<(), Failed> {
    let other = NetNs::new()?;
    links.create_dummy("a.1").await?;
    for setting in [
        Setting::ip_forward(),
        Setting::ipv6_forwarding("all")?,
        Setting::arp_ignore("lo")?,
        Setting::arp_announce("lo")?,
        Setting::rp_filter("all")?,
        Setting::accept_local("all")?,
        Setting::new("net/ipv4/conf/a.1/arp_ignore")?,
    ] {
        let before = setting.read(&namespace)?;
        let value = if before == "0" { "1" } else { "0" };
        setting.write(&namespace, value)?;
        assert_eq!(setting.read(&namespace)?, value, "{setting}");
        if !setting.to_string().contains("a/1") {
            assert_eq!(setting.read(&other)?, before, "{setting} elsewhere");
        }
    }
    let error = Setting::arp_ignore("no-such-link")?.read(&namespace).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let error = Setting::arp_ignore("no-such-link")?.write(&namespace, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let read_only = Setting::new("net/ipv4/tcp_available_congestion_control")?;
    let error = read_only.write(&namespace, "reno").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
    assert!(error.to_string().contains("this setting is read-only"), "{error}");
    let error = Setting::ip_forward().write(&namespace, "much").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(error.to_string().contains("net.ipv4.ip_forward"), "{error}");
    Ok(())
}

async fn real_server_arp_and_undo(namespace: NetNs, _: Links) -> Result<(), Failed> {
    let (ignore, announce) = (Setting::arp_ignore("all")?, Setting::arp_announce("all")?);
    let both = || Ok::<_, Error>((ignore.read(&namespace)?, announce.read(&namespace)?));
    let mut arp = RealServerArp::apply(&namespace)?;
    assert_eq!(both()?, ("1".to_owned(), "2".to_owned()));
    // Twice: the second call has nothing to change and nothing to undo.
    RealServerArp::apply(&namespace)?.undo(&namespace)?;
    assert_eq!(both()?, ("1".to_owned(), "2".to_owned()));
    arp.undo(&namespace)?;
    assert_eq!(both()?, ("0".to_owned(), "0".to_owned()));

    // A stricter value stays, and so does one that another program has set in the meantime.
    ignore.write(&namespace, 8)?;
    let mut arp = RealServerArp::apply(&namespace)?;
    announce.write(&namespace, 1)?;
    arp.undo(&namespace)?;
    assert_eq!(both()?, ("8".to_owned(), "1".to_owned()));
    Ok(())
}

/// For the kernel names are bytes: a name that is not UTF-8 is listed with the others, and can be used.
async fn odd_names_spoil_no_list(namespace: NetNs, links: Links) -> Result<(), Failed> {
    const ODD: &str = r"x\xffy";
    let odd = links.create_dummy(ODD).await?.link;
    let plain = links.create_dummy("plain").await?.link;
    let devices = namespace.run(|| fs::read("/proc/thread-self/net/dev"))??;
    assert!(devices.windows(3).any(|bytes| bytes == b"x\xffy"), "the kernel has the byte itself");
    let names: Vec<_> = links.list().await?.into_iter().map(|link| link.name).collect();
    assert_eq!(names, ["lo", ODD, "plain"]);
    assert_eq!(found(&links, ODD).await?, odd);

    let labelled = "10.0.0.1/32".parse::<Address>()?.with_label(r"plain:\xff")?;
    links.add_address(&plain, labelled).await?;
    links.add_address(&plain, "10.0.0.2".parse()?).await?;
    assert_eq!(addresses(&links, &plain).await?, [labelled, "10.0.0.2".parse()?]);
    assert_eq!(labelled.label().as_deref(), Some(r"plain:\xff"));
    links.add_address(&odd, "10.0.0.3".parse()?).await?;
    let listed = links.all_addresses().await?;
    assert_eq!((listed[&plain.index].len(), listed[&odd.index].len()), (2, 1));
    assert_eq!(listed[&odd.index][0].ip(), "10.0.0.3".parse::<IpAddr>()?);

    assert_eq!(Setting::rp_filter(ODD)?.read(&namespace)?, "0");
    assert!(links.delete_dummy(ODD).await?);

    let name = format!(r"netns-{}-\xfe", std::process::id());
    NetNs::create(&name)?;
    assert!(NetNs::names()?.contains(&name));
    NetNs::open(&name)?;
    NetNs::delete(&name)?;
    Ok(())
}

/// Writing no bytes does nothing: an empty value is written as the end of a line.
async fn setting_of_nothing(namespace: NetNs, _: Links) -> Result<(), Failed> {
    let ports = Setting::new("net.ipv4.ip_local_reserved_ports")?;
    assert_eq!(ports.read(&namespace)?, "");
    let mut changes = Setting::write_all(&namespace, [(ports.clone(), "8080-8090")])?;
    assert_eq!(ports.read(&namespace)?, "8080-8090");
    changes.undo(&namespace)?;
    assert!(changes.is_empty());
    assert_eq!(ports.read(&namespace)?, "");
    ports.write(&namespace, 9090)?;
    ports.write(&namespace, "")?;
    assert_eq!(ports.read(&namespace)?, "");
    Ok(())
}

async fn real_server_setup_and_undo(namespace: NetNs, links: Links) -> Result<(), Failed> {
    let vips: [IpAddr; 2] = ["10.0.0.185".parse()?, "fd00::185".parse()?];
    let wanted = ["10.0.0.185/32".parse()?, "fd00::185/128".parse::<Address>()?.nodad()];
    let ignore = Setting::arp_ignore("all")?;

    let mut setup = prepare_real_server(&namespace, "dummy1", &vips)?;
    let dummy = found(&links, "dummy1").await?;
    assert!(dummy.up);
    assert_eq!(addresses(&links, &dummy).await?, wanted);
    assert_eq!(ignore.read(&namespace)?, "1");
    assert_eq!(local_addresses(&links).await?, BTreeSet::from(vips));
    // The second call does not undo what the first one did.
    prepare_real_server(&namespace, "dummy1", &vips)?.undo(&namespace)?;
    assert_eq!(addresses(&links, &dummy).await?, wanted);
    assert_eq!(ignore.read(&namespace)?, "1");
    setup.undo(&namespace)?;
    assert_eq!(links.find("dummy1").await?, None);
    assert_eq!(ignore.read(&namespace)?, "0");

    // An existing link with an existing address, as in the walkthrough.
    let dummy = links.create_dummy("dummy1").await?.link;
    links.add_address(&dummy, wanted[0]).await?;
    prepare_real_server(&namespace, "dummy1", &vips)?.undo(&namespace)?;
    assert_eq!(addresses(&links, &dummy).await?, wanted[..1]);
    assert!(!found(&links, "dummy1").await?.up, "it was down");

    // Deleted in the meantime.
    let mut setup = prepare_real_server(&namespace, "dummy1", &vips)?;
    links.delete_dummy("dummy1").await?;
    setup.undo(&namespace)?;
    assert_eq!(ignore.read(&namespace)?, "0");
    Ok(())
}

/// What two setups need stays when the first is undone, and is deleted with the last one.
async fn real_server_setups_share(namespace: NetNs, links: Links) -> Result<(), Failed> {
    let (one, two): (IpAddr, IpAddr) = ("10.0.0.1".parse()?, "10.0.0.2".parse()?);
    let settings = [Setting::arp_ignore("all")?, Setting::arp_announce("all")?];
    let arp = || settings.each_ref().map(|setting| setting.read(&namespace));
    let left = |values: [Result<String, Error>; 2]| values.map(Result::unwrap_or_default);
    // A link of each, a link for both, in either order.
    for (link_of_one, link_of_two) in [("vip1", "vip2"), ("vip", "vip")] {
        for first_goes_first in [true, false] {
            let mut first = prepare_real_server(&namespace, link_of_one, &[one])?;
            let mut second = prepare_real_server(&namespace, link_of_two, &[two])?;
            let (goes, stays, ip_left, link_left) = if first_goes_first {
                (&mut first, &mut second, two, link_of_two)
            } else {
                (&mut second, &mut first, one, link_of_one)
            };
            goes.undo(&namespace)?;
            assert_eq!(left(arp()), ["1", "2"], "the other one needs it");
            let link = found(&links, link_left).await?;
            assert!(link.up);
            assert_eq!(addresses(&links, &link).await?, [ip_left.into()]);
            stays.undo(&namespace)?;
            assert_eq!(left(arp()), ["0", "0"]);
            assert!(stays.is_undone());
            assert_eq!(links.list().await?.len(), 1, "{link_of_one} {first_goes_first}");
            first.undo(&namespace)?;
            second.undo(&namespace)?;
            assert!(first.is_undone() && second.is_undone());
        }
    }
    // A director's address existed before and needs no silence.
    prepare_director(&namespace, "ipvs0", &["10.0.0.9".parse()?])?;
    prepare_real_server(&namespace, "vip", &[one])?.undo(&namespace)?;
    assert_eq!(left(arp()), ["0", "0"]);
    let other = NetNs::new()?;
    let mut setup = prepare_real_server(&namespace, "vip", &[one])?;
    assert_eq!(setup.undo(&other).unwrap_err().kind(), ErrorKind::InvalidInput);
    setup.undo(&namespace)?;
    Ok(())
}

/// Only the text that a process stored is left of it.
async fn real_server_record_after_a_crash(namespace: NetNs, links: Links) -> Result<(), Failed> {
    let vips: [IpAddr; 2] = ["10.0.0.185".parse()?, "fd00::185".parse()?];
    let record = prepare_real_server(&namespace, "dummy1", &vips)?.to_string();
    let again = prepare_real_server(&namespace, "dummy1", &vips)?;
    assert_eq!(Setting::arp_ignore("all")?.read(&namespace)?, "1");
    let mut setup: RealServerSetup = record.parse()?;
    setup.undo(&namespace)?;
    assert_eq!(links.find("dummy1").await?, None);
    assert_eq!(Setting::arp_ignore("all")?.read(&namespace)?, "0");
    // Undoing twice, and undoing a setup that found everything in place, do nothing.
    record.parse::<RealServerSetup>()?.undo(&namespace)?;
    let mut again = again;
    again.undo(&namespace)?;
    // After a reboot the kernel has other links, even under the same names.
    let _ = prepare_real_server(&namespace, "dummy1", &vips)?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let old = record.replace(boot.trim(), "11111111-2222-3333-4444-555555555555");
    old.parse::<RealServerSetup>()?.undo(&namespace)?;
    assert!(links.find("dummy1").await?.is_some());
    Ok(())
}

async fn real_server_setup_fails_whole(namespace: NetNs, links: Links) -> Result<(), Failed> {
    let vip = "10.0.0.185".parse()?;
    let error = prepare_real_server(&namespace, "lo", &[vip]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotDummy, "{error}");
    assert_eq!(Setting::arp_ignore("all")?.read(&namespace)?, "0");
    assert_eq!(addresses(&links, &found(&links, "lo").await?).await?, []);
    Ok(())
}

async fn director_has_exactly_the_vips(namespace: NetNs, links: Links) -> Result<(), Failed> {
    for vips in [&["10.0.0.185", "fd00::185"][..], &["10.0.0.186", "fd00::185"], &[]] {
        let vips = vips.iter().map(|vip| vip.parse()).collect::<Result<Vec<IpAddr>, _>>()?;
        let link = prepare_director(&namespace, "ipvs0", &vips)?;
        assert_eq!(links.find("ipvs0").await?.as_ref(), Some(&link));
        assert_eq!(local_addresses(&links).await?, BTreeSet::from_iter(vips));
    }
    Ok(())
}

/// The effects of `down`, `move_to` and `set_mtu` on addresses, as their pages describe.
async fn link_loses_its_addresses(_: NetNs, links: Links) -> Result<(), Failed> {
    let (v4, v6) = ("10.0.0.1/32".parse::<Address>()?, "fd00::1/128".parse::<Address>()?.nodad());
    let dummy = links.create_dummy("ipvs0").await?.link;
    links.up(&dummy).await?;
    links.set_addresses(&dummy, &[v4, v6]).await?;
    links.down(&dummy).await?;
    assert_eq!(addresses(&links, &dummy).await?, [v4]);
    links.set_addresses(&dummy, &[v4, v6]).await?;
    links.set_mtu(&dummy, 1279).await?;
    assert_eq!(addresses(&links, &dummy).await?, [v4]);

    let pod = NetNs::new()?;
    links.up(&dummy).await?;
    links.move_to(&dummy, &pod).await?;
    let in_pod = Links::connect(&pod)?;
    let moved = found(&in_pod, "ipvs0").await?;
    assert!(!moved.up);
    assert_eq!(in_pod.addresses(&moved).await?, []);
    Ok(())
}

/// A dropped call may have been carried out; to call it again settles it.
async fn link_call_dropped(_: NetNs, links: Links) -> Result<(), Failed> {
    for round in 0..20 {
        let name = format!("dummy{round}");
        let mut call = pin!(links.create_dummy(&name));
        // As far as it gets in this number of polls.
        for _ in 0..round {
            let turn = poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await;
            if turn.is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    for round in 0..20 {
        let dummy = links.create_dummy(&format!("dummy{round}")).await?;
        assert_eq!(dummy.link.kind.as_deref(), Some("dummy"));
    }
    assert_eq!(links.list().await?.len(), 21, "with lo");
    Ok(())
}

/// For IPv6 too, where another link would have to be up.
async fn address_on_a_dummy_that_is_down(namespace: NetNs, links: Links) -> Result<(), Failed> {
    links.up(&found(&links, "lo").await?).await?;
    let dummy = links.create_dummy("ipvs0").await?.link;
    for ip in ["10.0.0.185", "fd00::185"].map(|ip| ip.parse::<IpAddr>()) {
        let ip = ip?;
        links.add_address(&dummy, ip.into()).await?;
        // IPv6 completes an address a moment later.
        let limit = Instant::now() + Duration::from_secs(10);
        while namespace.run(|| UdpSocket::bind((ip, 0)))?.is_err() {
            assert!(Instant::now() < limit, "nobody can bind to {ip}");
        }
    }
    assert!(!found(&links, "ipvs0").await?.up);
    Ok(())
}

async fn address_properties(_: NetNs, links: Links) -> Result<(), Failed> {
    let dummy = links.create_dummy("ipvs0").await?.link;
    links.up(&dummy).await?;
    let all: Vec<Address> = [
        "10.0.0.1/32",
        "10.0.0.2/32 scope host",
        "10.0.0.3/32 scope 100 label ipvs0:vip",
        "10.0.0.4/32 preferred_lft 0",
        "10.0.0.5/24 metric 7 noprefixroute",
        "127.1.2.3/32",
        "fd00::1/128 nodad",
        "fd00::2/128 preferred_lft 0 nodad",
        "fd00::3/64 metric 7 nodad noprefixroute",
    ]
    .iter()
    .map(|text| text.parse())
    .collect::<Result<_, _>>()?;
    for address in &all {
        assert!(links.add_address(&dummy, *address).await?, "{address}");
        assert!(!links.add_address(&dummy, *address).await?, "{address} again");
    }
    assert_eq!(addresses(&links, &dummy).await?, sorted(&all));
    assert_eq!(all[1].scope(), Scope::HOST);

    // An existing address is changed in place; the IPv4 scope and label stay.
    for (address, same) in
        [("10.0.0.3/32 preferred_lft 0", false), ("fd00::1/128 preferred_lft 0", true)]
    {
        let address: Address = address.parse()?;
        assert!(!links.add_address(&dummy, address).await?, "adding changes nothing");
        assert!(!links.addresses(&dummy).await?.contains(&address));
        assert!(!links.replace_address(&dummy, address).await?, "it was there");
        let listed = links.addresses(&dummy).await?;
        let listed = listed.iter().find(|listed| listed.ip() == address.ip());
        let listed = listed.ok_or("it is away")?;
        assert!(listed.is_deprecated(), "{listed}");
        assert_eq!(*listed == address, same, "{listed}");
    }
    assert!(links.replace_address(&dummy, "10.0.0.9/32".parse()?).await?, "it was missing");
    // With another prefix length it is another address in IPv4 and the same in IPv6.
    let error = links.replace_address(&dummy, "fd00::1/64".parse()?).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    assert!(error.to_string().contains("another prefix length"), "{error}");
    // Deleting an address ignores its properties.
    for address in ["10.0.0.3/32", "fd00::2/128", "10.0.0.5/24 scope link label other"] {
        assert!(links.delete_address(&dummy, address.parse()?).await?, "{address}");
    }
    Ok(())
}

async fn address_lifetime_ends(_: NetNs, links: Links) -> Result<(), Failed> {
    let dummy = links.create_dummy("ipvs0").await?.link;
    links.up(&dummy).await?;
    let time = |seconds| Some(Duration::from_secs(seconds));
    for ip in ["10.0.0.1", "fd00::1"].map(|ip| ip.parse::<IpAddr>()) {
        let address = Address::host(ip?).nodad();
        links.add_address(&dummy, address.with_lifetimes(time(1000), time(500))?).await?;
        let listed = addresses(&links, &dummy).await?;
        let (valid, preferred) = (listed[0].valid_lifetime(), listed[0].preferred_lifetime());
        assert!(valid <= time(1000) && valid > time(900), "{}", listed[0]);
        assert!(preferred <= time(500) && preferred > time(400), "{}", listed[0]);
        // For ever, and then for a second at most.
        links.replace_address(&dummy, address).await?;
        assert_eq!(addresses(&links, &dummy).await?, [address]);
        links.replace_address(&dummy, address.with_lifetimes(time(1), time(1))?).await?;
        let limit = Instant::now() + Duration::from_secs(20);
        while !addresses(&links, &dummy).await?.is_empty() {
            assert!(Instant::now() < limit, "{address} is still there");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

/// A virtual IP on the link that has the host's own address.
async fn address_deprecated_is_no_source(namespace: NetNs, links: Links) -> Result<(), Failed> {
    let uplink = links.create_dummy("uplink0").await?.link;
    links.up(&uplink).await?;
    let own: Address = "fd00:172:17::1/64".parse()?;
    links.add_address(&uplink, own.nodad()).await?;
    let source = || -> Result<IpAddr, Failed> {
        Ok(namespace.run(|| -> std::io::Result<_> {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
            socket.connect("[fd00:172:17::3:99]:80")?;
            Ok(socket.local_addr()?.ip())
        })??)
    };
    assert_eq!(source()?, own.ip());
    // It shares more bits with the peer than the host's own address does.
    let vip: Address = "fd00:172:17::3:1/128".parse()?;
    links.add_address(&uplink, vip.nodad()).await?;
    assert_eq!(source()?, vip.ip(), "which is what `deprecated` is for");
    links.replace_address(&uplink, vip.nodad().deprecated()).await?;
    assert_eq!(source()?, own.ip());
    links.delete_address(&uplink, vip).await?;
    links.add_address(&uplink, vip.nodad().deprecated()).await?;
    assert_eq!(source()?, own.ip());
    Ok(())
}

async fn address_properties_reconcile(_: NetNs, links: Links) -> Result<(), Failed> {
    let dummy = links.create_dummy("ipvs0").await?.link;
    links.up(&dummy).await?;
    let parse = |texts: &[&str]| -> Result<Vec<Address>, Error> {
        texts.iter().map(|text| text.parse()).collect()
    };
    let plain = parse(&["10.0.0.1/32", "10.1.0.1/24", "10.1.0.2/24", "fd00::1/128 nodad"])?;
    links.set_addresses(&dummy, &plain).await?;
    let other = parse(&[
        "10.0.0.1/32 preferred_lft 0",
        "10.1.0.1/24 label ipvs0:a",
        "10.1.0.2/24",
        "fd00::1/128 preferred_lft 0 nodad noprefixroute",
    ])?;
    let changed = links.set_addresses(&dummy, &other).await?;
    assert_eq!((&*changed.added, &*changed.deleted), (&[][..], &[][..]));
    let mut of_changed: Vec<_> = changed.changed.iter().map(Address::ip).collect();
    of_changed.sort_unstable();
    assert_eq!(of_changed, [other[0].ip(), other[1].ip(), other[3].ip()]);
    assert_eq!(addresses(&links, &dummy).await?, sorted(&other));
    assert!(links.set_addresses(&dummy, &other).await?.is_empty());
    // What is not named stays as it is, except the lifetimes.
    let changed = links.set_addresses(&dummy, &plain).await?;
    assert_eq!(changed.changed.len(), 2, "{changed:?}");
    let stays = parse(&[
        "10.0.0.1/32",
        "10.1.0.1/24 label ipvs0:a",
        "10.1.0.2/24",
        "fd00::1/128 nodad noprefixroute",
    ])?;
    assert_eq!(addresses(&links, &dummy).await?, sorted(&stays));
    Ok(())
}

/// The work of a program that follows events, beside 5,000 addresses of another link. It prints the
/// times; the crate's own tests check the requests.
async fn address_beside_5000(_: NetNs, links: Links) -> Result<(), Failed> {
    let (other, mine) =
        (links.create_dummy("other0").await?.link, links.create_dummy("ipvs0").await?.link);
    let many: Vec<_> =
        (0..5000_u32).map(|n| Address::host(Ipv4Addr::from(0x0b00_0000 + n).into())).collect();
    assert_eq!(links.set_addresses(&other, &many).await?.added.len(), 5000);
    for vip in ["10.0.0.1", "fd00::1"] {
        let vip: Address = vip.parse::<Address>()?.nodad();
        let start = Instant::now();
        assert!(links.add_address(&mine, vip).await?);
        let new = start.elapsed();
        assert!(!links.add_address(&mine, vip).await?);
        let again = start.elapsed() - new;
        assert_eq!(links.addresses(&mine).await?, [vip]);
        let listed = start.elapsed() - again - new;
        assert!(links.delete_address(&mine, vip).await?);
        eprintln!("{vip} beside 5000: added in {new:?}, again in {again:?}, listed in {listed:?}");
    }
    assert_eq!(links.addresses(&other).await?.len(), 5000);
    Ok(())
}

/// Switched-off IPv6 is not reported as a missing capability, and a failure leaves nothing.
async fn ipv6_switched_off(namespace: NetNs, links: Links) -> Result<(), Failed> {
    Setting::new("net/ipv6/conf/default/disable_ipv6")?.write(&namespace, 1)?;
    let vips: [IpAddr; 2] = ["10.0.0.1".parse()?, "fd00::1".parse()?];
    let off = |error: Error| {
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Ipv6Disabled, "{text}");
        assert!(text.contains("net.ipv6.conf.ipvs0.disable_ipv6"), "{text}");
        assert!(!text.contains("CAP_"), "{text}");
        assert!(error.not_undone().is_none(), "{text}");
    };
    off(prepare_director(&namespace, "ipvs0", &vips).unwrap_err());
    assert_eq!(links.find("ipvs0").await?, None, "nothing is left");
    off(prepare_real_server(&namespace, "ipvs0", &vips).unwrap_err());
    assert_eq!(links.find("ipvs0").await?, None, "nothing is left");
    assert_eq!(Setting::arp_ignore("all")?.read(&namespace)?, "0");

    // An existing one is as before.
    let before: Vec<Address> = vec!["10.0.0.7/32".parse()?, "10.0.0.8/32 label ipvs0:8".parse()?];
    let dummy = links.create_dummy("ipvs0").await?.link;
    links.set_addresses(&dummy, &before).await?;
    off(prepare_director(&namespace, "ipvs0", &vips).unwrap_err());
    off(prepare_real_server(&namespace, "ipvs0", &vips).unwrap_err());
    assert_eq!(links.find("ipvs0").await?.as_ref(), Some(&dummy));
    assert_eq!(addresses(&links, &dummy).await?, before);
    off(links.add_address(&dummy, vips[1].into()).await.unwrap_err());
    Ok(())
}

async fn ipv6_needs_an_mtu(_: NetNs, links: Links) -> Result<(), Failed> {
    let dummy = links.create_dummy("ipvs0").await?.link;
    links.set_mtu(&dummy, 1279).await?;
    let error = links.add_address(&dummy, "fd00::1".parse()?).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Ipv6Disabled, "{error}");
    assert!(
        error.to_string().contains("MTU is 1279 bytes, and IPv6 needs at least 1280"),
        "{error}"
    );
    // An invalid address is a different error.
    links.set_mtu(&dummy, 1280).await?;
    let error = links.add_address(&dummy, "ff02::1".parse()?).await.unwrap_err();
    assert_ne!(error.kind(), ErrorKind::Ipv6Disabled, "{error}");
    Ok(())
}

/// If one of several changes fails, the changes before it come back with the error.
async fn changes_before_a_failure_come_back(namespace: NetNs, links: Links) -> Result<(), Failed> {
    let (forward, missing) = (Setting::ip_forward(), Setting::arp_ignore("no-such-link")?);
    let announce = Setting::arp_announce("all")?;
    let values = [(forward.clone(), 1), (announce.clone(), 0), (missing, 1), (announce.clone(), 2)];
    let mut failed = Setting::write_all(&namespace, values).unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::NotFound, "{failed}");
    assert_eq!(failed.done.iter().collect::<Vec<_>>(), [(&forward, "0", "1")]);
    assert_eq!(announce.read(&namespace)?, "0", "those behind are not tried");
    failed.done.undo(&namespace)?;
    assert!(failed.done.is_empty());
    assert_eq!(forward.read(&namespace)?, "0");
    let mut done = Setting::write_all(&namespace, [(forward.clone(), 1), (announce, 2)])?;
    forward.write(&namespace, 0)?;
    forward.write(&namespace, 1)?;
    done.undo(&namespace)?;
    assert_eq!(forward.read(&namespace)?, "0");
    // What was deleted with its link needs no undoing; what another program has changed is left alone.
    let dummy = links.create_dummy("ipvs0").await?.link;
    let of_link = Setting::arp_ignore(&dummy.name)?;
    let mut done = Setting::write_all(&namespace, [(forward.clone(), 1), (of_link, 1)])?;
    links.delete_dummy("ipvs0").await?;
    forward.write(&namespace, 0)?;
    done.undo(&namespace)?;
    assert!(done.is_empty());
    assert_eq!(forward.read(&namespace)?, "0");

    Setting::new("net/ipv6/conf/default/disable_ipv6")?.write(&namespace, 1)?;
    let dummy = links.create_dummy("ipvs0").await?.link;
    links.add_address(&dummy, "10.0.0.1".parse()?).await?;
    let wanted = ["10.0.0.2", "fd00::1", "10.0.0.3"].map(|ip| ip.parse::<Address>());
    let wanted = wanted.into_iter().collect::<Result<Vec<_>, _>>()?;
    let failed = links.set_addresses(&dummy, &wanted).await.unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::Ipv6Disabled, "{failed}");
    assert_eq!(failed.done.added, [wanted[0], wanted[2]]);
    assert_eq!(failed.done.deleted, ["10.0.0.1".parse()?]);
    Ok(())
}

fn sorted(addresses: &[Address]) -> Vec<Address> {
    let mut sorted = addresses.to_vec();
    sorted.sort_unstable();
    sorted
}

async fn found(links: &Links, name: &str) -> Result<Link, Error> {
    Ok(links.find(name).await?.unwrap_or_else(|| panic!("no link {name}")))
}

/// Sorted, without the kernel's own.
async fn addresses(links: &Links, link: &Link) -> Result<Vec<Address>, Error> {
    let mut addresses = links.addresses(link).await?;
    addresses.retain(|address| !address.to_string().starts_with("fe80:"));
    addresses.sort_unstable();
    Ok(addresses)
}

fn case(name: &str, test: fn() -> Result<(), Failed>) -> Trial {
    Trial::test(name, test)
}

/// A case in a new namespace.
fn async_case<F: Future<Output = Result<(), Failed>>>(
    name: &str,
    test: impl FnOnce(NetNs, Links) -> F + Send + 'static,
) -> Trial {
    Trial::test(name, || {
        tokio()?.block_on(async {
            let namespace = NetNs::new()?;
            let links = Links::connect(&namespace)?;
            test(namespace, links).await
        })
    })
}

fn tokio() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
