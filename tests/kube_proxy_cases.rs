//! The service proxy for Kubernetes on a real kernel, from a directory of manifests: its table of
//! cases, and what happens over time.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ipvs_client::{
    Client,
    packet::{Destination, Service, ServiceFlags, Weight},
};
use kernel_tests::{Outcome, block_on, client_case, fresh_namespace, needing};
use libtest_mimic::{Failed, Trial};
use lvs::{Desired, VirtualService};
use lvs_kube_proxy::{
    Config, Event, LINK, Proxy, clean_up,
    manifest::{self, Object},
    source::{Directory, Source},
};
use netns_link::{Address, Links, NetNs};
use tempfile::TempDir;
use testbed::{Container, DockerHost, Family, tcp_exchange, udp_exchange};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::{
    kube_proxy_table::{self, Case, table_lines},
    part::{self, Part},
    scene::LIMIT,
};

const AFTER_INIT: Part = Part("kube_proxy_after_init", after_init);
const LEAST_RIGHTS: Part = Part("kube_proxy_least_rights", least_rights);

pub(crate) const PARTS: &[Part] = &[AFTER_INIT, LEAST_RIGHTS];

/// Every case by its name.
pub(crate) fn cases() -> Vec<Trial> {
    let mut cases = vec![
        Trial::test("kube_proxy_table", || block_on(table())),
        client_case("kube_proxy_settings_in_place", settings_in_place),
        client_case("kube_proxy_spares_what_is_not_its_own", spares_what_is_not_its_own),
        client_case("kube_proxy_weights_are_repaired", weights_are_repaired),
        client_case("kube_proxy_port_changes", port_changes),
        client_case("kube_proxy_address_moves_between_services", address_moves),
        client_case("kube_proxy_restart_and_clean_up", restart_and_clean_up),
        client_case("kube_proxy_node_moves", node_moves),
        client_case("kube_proxy_emptied_directory", emptied_directory),
        client_case("kube_proxy_guard", guard),
        client_case("kube_proxy_many_endpoints", many_endpoints),
        client_case("kube_proxy_ranges_that_are_not_ours", ranges_that_are_not_ours),
        client_case("kube_proxy_node_is_deleted", node_is_deleted),
        client_case("kube_proxy_one_that_is_refused", one_that_is_refused),
        client_case("kube_proxy_without_ipv6", without_ipv6),
        client_case("kube_proxy_scheduler_that_the_kernel_lacks", scheduler_that_is_lacking),
        client_case("kube_proxy_health_and_metrics", health_and_metrics),
        client_case("kube_proxy_at_rest", at_rest),
        client_case("kube_proxy_port_in_use", port_in_use),
        part::case("kube_proxy_least_rights", AFTER_INIT, &["unshare", "--mount"]),
        Trial::test("kube_proxy_drain", || block_on(drain())),
        Trial::test("kube_proxy_drain_ends_with_the_pod", || block_on(drain_of_pods())),
        Trial::test("kube_proxy_loses_no_service_when_restarted", || block_on(warm_restart())),
    ];
    let nft = [("ip", "iproute2"), ("nft", "nftables")];
    let case = Trial::test("kube_proxy_netfilter", || block_on(netfilter()));
    cases.push(needing(&nft, case));
    let case = Trial::test("kube_proxy_policy_local_by_mark", || block_on(policy_local()));
    cases.push(needing(&nft, case));
    let case = Trial::test("kube_proxy_udp_by_mark", || block_on(udp_by_mark()));
    cases.push(needing(&nft, case));
    for case in [
        client_case("kube_proxy_excluded_networks", excluded_networks),
        client_case("kube_proxy_no_service_before_its_rules", no_service_before_its_rules),
        client_case("kube_proxy_rules_changed_by_others", rules_changed_by_others),
    ] {
        cases.push(needing(&nft, case));
    }
    for (family, suffix) in [(Family::Ipv4, "ipv4"), (Family::Ipv6, "ipv6")] {
        let name = format!("kube_proxy_source_of_the_node_{suffix}");
        let case = Trial::test(name, move || block_on(source_of_the_node(family)));
        cases.push(needing(&[("ip", "iproute2")], case));
    }
    cases
}

/// Those that need a packet filter.
pub(crate) fn filter_cases() -> Vec<Trial> {
    let case = Trial::test("kube_proxy_udp_is_taken_away_at_once", || block_on(udp_at_once()));
    vec![needing(&[("iptables", "iptables")], case)]
}

/// Each case of `conformance.yaml`: the table and the addresses, once by addresses, and once with the
/// service ranges as routes; then everything is taken away.
async fn table() -> Outcome {
    let namespace = node_namespace().await?;
    let client = Client::connect_in(&namespace)?;
    let has_nft = has_nft(&namespace);
    for case in kube_proxy_table::all() {
        if case.needs_nftables() && !has_nft {
            continue;
        }
        for ranges in [&[][..], &["--service-cluster-ip-range=10.96.0.0/12,fd96::/64"]] {
            if let Err(error) = table_case(&namespace, &client, &case, ranges).await {
                let reason = error.message().unwrap_or_default().to_owned();
                return Err(format!("case {} {ranges:?}: {reason}", case.case).into());
            }
        }
    }
    Ok(())
}

async fn table_case(
    namespace: &NetNs,
    client: &Client,
    case: &Case,
    ranges: &[&str],
) -> Result<(), Failed> {
    let directory = TempDir::new()?;
    fs::write(directory.path().join("case.yaml"), case.manifest())?;
    fs::write(directory.path().join("node.yaml"), case.node_manifest())?;
    let state = TempDir::new()?;
    let state_dir = format!("--state-dir={}", state.path().display());
    let flags = case.flags();
    let mut words: Vec<&str> = flags.iter().map(String::as_str).collect();
    words.extend(ranges);
    words.push(&state_dir);
    let config = config(&words)?;

    let mut proxy = Proxy::new(source(&directory)?, config.clone(), namespace).await?;
    proxy.once().await?;
    let expected = (case.table.clone(), case.addresses());
    let covered: Vec<IpAddr> = ["10.96.7.20".parse()?, "fd96::20".parse()?].into();
    let addresses = async || -> Result<BTreeSet<String>, Failed> {
        let mut addresses = link_addresses(namespace).await?;
        if !ranges.is_empty() {
            // What a route covers is no address of the link.
            assert!(covered.iter().all(|address| !addresses.contains(&address.to_string())));
            let wanted = covered.iter().map(ToString::to_string);
            addresses.extend(wanted.filter(|address| case.addresses().contains(address)));
        }
        Ok(addresses)
    };
    assert_eq!((lines(client).await?, addresses().await?), expected);
    // Again there is nothing to do.
    let mut again = Proxy::new(source(&directory)?, config.clone(), namespace).await?;
    let told = again.dry_run().await?;
    assert!(told.lines().all(|line| line.starts_with("= local")), "{told}");

    clean_up(&config, namespace).await?;
    assert_eq!((lines(client).await?, link_addresses(namespace).await?), Default::default());
    Ok(())
}

/// Cases 16 and 18: affinity and the scheduler change while connections live on.
async fn settings_in_place(namespace: NetNs, client: Client) -> Outcome {
    let directory = TempDir::new()?;
    let web =
        |spec: &str| service("web", &format!("clusterIP: 10.96.7.20, ports: [{{port: 80}}]{spec}"));
    write(&directory, "slice.yaml", &slice("web", 8080, &[("10.42.1.5", "")]))?;
    let affinity =
        ", sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 7200}}";
    write(&directory, "web.yaml", &web(affinity))?;
    let story = async {
        until(&client, &["TCP 10.96.7.20:80 rr persistent 7200 mask 32 -> 10.42.1.5:8080"]).await?;
        let key = "-t 10.96.7.20:80".parse()?;
        // A mark by which the same service is known afterwards.
        let before = client.destinations(&key).await?;
        write(&directory, "web.yaml", &web(""))?;
        until(&client, &["TCP 10.96.7.20:80 rr -> 10.42.1.5:8080"]).await?;
        assert_eq!(client.destinations(&key).await?.len(), before.len());
        assert!(!client.service(&key).await?.service.flags.contains(ServiceFlags::PERSISTENT));
        Ok(())
    };
    with_proxy(&namespace, &directory, &[], story).await?;
    let story = until(&client, &["TCP 10.96.7.20:80 lc -> 10.42.1.5:8080"]);
    with_proxy(&namespace, &directory, &["--ipvs-scheduler=lc"], story).await
}

/// Cases 40 and 41: services and addresses of others are never touched.
async fn spares_what_is_not_its_own(namespace: NetNs, client: Client) -> Outcome {
    let links = Links::connect(&namespace)?;
    let link = links.create_dummy(LINK).await?.link;
    links.add_address(&link, Address::host("10.0.9.9".parse()?)).await?;
    for foreign in ["10.0.9.9:443", "[fd00:9::9]:443"] {
        VirtualService::tcp(foreign.parse()?).build()?.apply(&client).await?;
    }
    let directory = TempDir::new()?;
    write(&directory, "web.yaml", &service("web", "clusterIP: 10.96.7.20, ports: [{port: 80}]"))?;
    let foreign = ["TCP 10.0.9.9:443 wlc ->", "TCP [fd00:9::9]:443 wlc ->"];
    let story = async {
        until(&client, &[foreign[0], "TCP 10.96.7.20:80 rr ->", foreign[1]]).await?;
        fs::remove_file(directory.path().join("web.yaml"))?;
        until(&client, &foreign).await?;
        // Several full runs later they are there still.
        sleep(Duration::from_millis(700)).await;
        until(&client, &foreign).await?;
        assert_eq!(link_addresses(&namespace).await?, BTreeSet::from(["10.0.9.9".to_owned()]));
        Ok(())
    };
    let state = TempDir::new()?;
    let state_dir = format!("--state-dir={}", state.path().display());
    with_proxy(&namespace, &directory, &["--ipvs-sync-period=200ms", &state_dir], story).await?;
    clean_up(&config(&[&state_dir])?, &namespace).await?;
    until(&client, &foreign).await?;
    assert_eq!(link_addresses(&namespace).await?, BTreeSet::from(["10.0.9.9".to_owned()]));
    Ok(())
}

/// Cases 42 and 43: at the start and whenever the timer runs.
async fn weights_are_repaired(namespace: NetNs, client: Client) -> Outcome {
    let directory = TempDir::new()?;
    write(&directory, "web.yaml", &service("web", "clusterIP: 10.96.7.20, ports: [{port: 80}]"))?;
    write(&directory, "slice.yaml", &slice("web", 8080, &[("10.42.1.5", "")]))?;
    let key = "-t 10.96.7.20:80".parse()?;
    client.add_service(&Service::new(key)).await?;
    let mut pod = Destination::new("10.42.1.5:8080".parse()?);
    pod.weight = Weight::new(0)?;
    client.add_destination(&key, &pod).await?;
    let right = ["TCP 10.96.7.20:80 rr -> 10.42.1.5:8080"];
    let story = async {
        until(&client, &right).await?;
        pod.weight = Weight::new(7)?;
        client.update_destination(&key, &pod).await?;
        until(&client, &right).await
    };
    with_proxy(&namespace, &directory, &["--ipvs-sync-period=200ms"], story).await
}

/// Case 48: the address is there all the while.
async fn port_changes(namespace: NetNs, client: Client) -> Outcome {
    let directory = TempDir::new()?;
    let web = |ports: &str| service("web", &format!("clusterIP: 10.96.7.20, ports: [{ports}]"));
    write(&directory, "web.yaml", &web("{name: http, port: 80}, {name: adm, port: 9000}"))?;
    let story = async {
        until(&client, &["TCP 10.96.7.20:80 rr ->", "TCP 10.96.7.20:9000 rr ->"]).await?;
        let watch = Watch::new(&namespace, "10.96.7.20");
        write(&directory, "web.yaml", &web("{name: http, port: 81}, {name: adm, port: 9000}"))?;
        watch
            .during(until(&client, &["TCP 10.96.7.20:81 rr ->", "TCP 10.96.7.20:9000 rr ->"]))
            .await?;
        write(&directory, "web.yaml", &web("{name: http, port: 81}"))?;
        watch.during(until(&client, &["TCP 10.96.7.20:81 rr ->"])).await?;
        fs::remove_file(directory.path().join("web.yaml"))?;
        until(&client, &[]).await?;
        gone(&namespace).await
    };
    with_proxy(&namespace, &directory, &["--vip-mode=addresses"], story).await
}

/// Case 50: a load balancer's address goes from one service to another in one step.
async fn address_moves(namespace: NetNs, client: Client) -> Outcome {
    let directory = TempDir::new()?;
    let balanced = |name: &str, cluster_ip: &str, ingress: &str| {
        let spec = format!("type: LoadBalancer, clusterIP: {cluster_ip}, ports: [{{port: 80}}]");
        let service = service(name, &spec);
        format!("{service}status: {{loadBalancer: {{ingress: [{ingress}]}}}}\n")
    };
    let pair = |a: &str, b: &str| balanced("a", "10.96.0.1", a) + &balanced("b", "10.96.0.2", b);
    write(&directory, "a.yaml", &slice("a", 8080, &[("10.42.1.5", "")]))?;
    write(&directory, "b.yaml", &slice("b", 8080, &[("10.42.1.6", "")]))?;
    write(&directory, "services.yaml", &pair("{ip: 203.0.113.50}", ""))?;
    let own = ["TCP 10.96.0.1:80 rr -> 10.42.1.5:8080", "TCP 10.96.0.2:80 rr -> 10.42.1.6:8080"];
    let story = async {
        until(&client, &[own[0], own[1], "TCP 203.0.113.50:80 rr -> 10.42.1.5:8080"]).await?;
        let watch = Watch::new(&namespace, "203.0.113.50");
        write(&directory, "services.yaml", &pair("", "{ip: 203.0.113.50}"))?;
        let moved = [own[0], own[1], "TCP 203.0.113.50:80 rr -> 10.42.1.6:8080"];
        watch.during(until(&client, &moved)).await
    };
    with_proxy(&namespace, &directory, &[], story).await
}

/// The Node gets another address while the proxy runs: kube-proxy ends, to be started again. Here it is
/// taken over at once: as the source of the node's own connections, and for node ports.
async fn node_moves(namespace: NetNs, client: Client) -> Outcome {
    let directory = TempDir::new()?;
    let spec = "type: NodePort, clusterIP: 10.96.7.20, ports: [{port: 80, nodePort: 31080}]";
    write(&directory, "web.yaml", &service("web", spec))?;
    let links = Links::connect(&namespace)?;
    let eth0 = links.create_dummy("eth0").await?.link;
    links.up(&eth0).await?;
    for address in ["192.0.2.11/24", "192.0.2.12/24"] {
        links.add_address(&eth0, address.parse()?).await?;
    }
    let lo = links.find("lo").await?.ok_or("no lo")?;
    links.up(&lo).await?;
    let node = |address: &str| {
        format!(
            "kind: Node\nmetadata: {{name: node-a}}\n\
             status: {{addresses: [{{type: InternalIP, address: {address}}}]}}\n"
        )
    };
    let source = async |expected: &str| -> Outcome {
        let begin = Instant::now();
        loop {
            let routes = links.routes(&lo).await?;
            let own = routes.iter().find(|route| route.protocol().number() == 196);
            let source = own.and_then(|route| route.source()).map(|source| source.to_string());
            if source.as_deref() == Some(expected) {
                return Ok(());
            }
            assert!(begin.elapsed() < LIMIT, "{source:?}, not {expected}");
            sleep(Duration::from_millis(10)).await;
        }
    };
    // No timer runs meanwhile.
    let words = [
        "--service-cluster-ip-range=10.96.0.0/12",
        "--nodeport-addresses=primary",
        "--ipvs-sync-period=1h",
    ];
    let story = async {
        for address in ["192.0.2.11", "192.0.2.12"] {
            write(&directory, "node.yaml", &node(address))?;
            let node_port = format!("TCP {address}:31080 rr ->");
            until(&client, &["TCP 10.96.7.20:80 rr ->", &node_port]).await?;
            source(address).await?;
        }
        Ok(())
    };
    with_proxy(&namespace, &directory, &words, story).await
}

/// Case 49, and what happens while the proxy is away.
async fn restart_and_clean_up(namespace: NetNs, client: Client) -> Outcome {
    let directory = TempDir::new()?;
    let state = TempDir::new()?;
    let words = [format!("--state-dir={}", state.path().display())];
    let words = [words[0].as_str()];
    write(&directory, "a.yaml", &service("a", "clusterIP: 10.96.0.1, ports: [{port: 80}]"))?;
    write(&directory, "b.yaml", &service("b", "clusterIP: 10.96.0.2, ports: [{port: 80}]"))?;
    let both = ["TCP 10.96.0.1:80 rr ->", "TCP 10.96.0.2:80 rr ->"];
    with_proxy(&namespace, &directory, &words, until(&client, &both)).await?;
    // It has ended, and left everything as it was.
    until(&client, &both).await?;
    assert_eq!(link_addresses(&namespace).await?.len(), 2);

    // A service goes while no proxy is there: the ledger says that it was ours.
    fs::remove_file(directory.path().join("a.yaml"))?;
    with_proxy(&namespace, &directory, &words, until(&client, &both[1..])).await?;

    // Without the ledger it would stay; with the service range, it goes.
    fs::remove_file(state.path().join("ledger"))?;
    write(&directory, "b.yaml", "")?;
    let story = async {
        sleep(Duration::from_millis(300)).await;
        until(&client, &both[1..]).await
    };
    with_proxy(&namespace, &directory, &["--ipvs-sync-period=100ms"], story).await?;
    let range = ["--service-cluster-ip-range=10.96.0.0/12"];
    with_proxy(&namespace, &directory, &range, until(&client, &[])).await?;
    clean_up(&config(&range)?, &namespace).await?;
    gone(&namespace).await
}

/// All objects go at once: that is believed after a second look, and then carried out.
async fn emptied_directory(namespace: NetNs, client: Client) -> Outcome {
    let directory = TempDir::new()?;
    let many: String = (1..=60)
        .map(|number| {
            let spec = format!("clusterIP: 10.96.0.{number}, ports: [{{port: 80}}]");
            service(&format!("s{number}"), &spec)
        })
        .collect();
    write(&directory, "many.yaml", &many)?;
    let story = async {
        let count = async || Ok::<_, Failed>(client.services().await?.len());
        let begin = Instant::now();
        while count().await? < 60 {
            assert!(begin.elapsed() < LIMIT);
            sleep(Duration::from_millis(20)).await;
        }
        // The directory cannot be read for a moment: nothing happens.
        let away = directory.path().with_extension("away");
        fs::rename(directory.path(), &away)?;
        sleep(Duration::from_millis(300)).await;
        assert_eq!(count().await?, 60);
        fs::rename(&away, directory.path())?;
        // The file really is empty.
        write(&directory, "many.yaml", "")?;
        until(&client, &[]).await
    };
    with_proxy(&namespace, &directory, &[], story).await
}

/// A source that says what a case has it say.
struct Told {
    events: mpsc::UnboundedReceiver<Vec<Event>>,
    /// How often lists were asked for.
    asked: Arc<AtomicUsize>,
}

impl Source for Told {
    async fn next(&mut self) -> Vec<Event> {
        match self.events.recv().await {
            Some(events) => events,
            None => std::future::pending().await,
        }
    }

    fn relist(&mut self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }
}

/// A watch that delivers an empty list: nothing is deleted before fresh lists confirm it, whatever the
/// services' endpoints; and when they do, it is.
async fn guard(namespace: NetNs, client: Client) -> Outcome {
    let (sender, events) = mpsc::unbounded_channel();
    let asked = Arc::new(AtomicUsize::new(0));
    let source = Told { events, asked: asked.clone() };
    let (mut services, mut slices) = (Vec::new(), Vec::new());
    for number in 1..=60 {
        let spec = format!("clusterIP: 10.96.0.{number}, ports: [{{port: 80}}]");
        let name = format!("s{number}");
        let text =
            service(&name, &spec) + &slice(&name, 80, &[("10.42.1.5", ""), ("10.42.2.6", "")]);
        for object in manifest::parse(&text)? {
            match object {
                Object::Service(service) => services.push(service),
                Object::Slice(slice) => slices.push(slice),
                Object::Node(_) => {}
            }
        }
    }
    let both = || vec![Event::Services(services.clone()), Event::Slices(slices.clone())];
    let there = async || -> Result<(usize, usize), Failed> {
        let table = client.snapshot().await?;
        let servers = table.services.values().map(|service| {
            let servers = service.destinations.iter();
            servers.filter(|server| server.destination.weight.get() > 0).count()
        });
        Ok((table.services.len(), servers.sum()))
    };
    let until_there = async |expected: (usize, usize)| -> Outcome {
        let begin = Instant::now();
        while there().await? != expected {
            assert!(begin.elapsed() < LIMIT, "{:?}, not {expected:?}", there().await?);
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    };
    let metrics = "127.0.0.1:10249";
    let story = async {
        sender.send(both())?;
        until_there((60, 120)).await?;
        let lies = [vec![Event::Services(Vec::new())], vec![Event::Slices(Vec::new())]];
        for (round, lie) in lies.into_iter().enumerate() {
            sender.send(lie)?;
            let begin = Instant::now();
            while asked.load(Ordering::Relaxed) == round {
                assert!(begin.elapsed() < LIMIT, "no fresh lists are asked for");
                sleep(Duration::from_millis(10)).await;
            }
            sleep(Duration::from_millis(500)).await;
            assert_eq!(there().await?, (60, 120), "round {round}");
            let text = raw_get(&namespace, metrics.parse()?, "/metrics").await?;
            // Deleted, or left without a usable real server: each service and its real servers.
            assert!(text.contains("lvs_kube_proxy_held_back_changes 180"), "{text}");
            // One fresh list is not enough, and they say that nothing is gone.
            sender.send(vec![Event::Services(services.clone())])?;
            sleep(Duration::from_millis(200)).await;
            assert_eq!(there().await?, (60, 120), "round {round}");
            sender.send(both())?;
            sleep(Duration::from_millis(200)).await;
            assert_eq!(there().await?, (60, 120), "round {round}");
        }
        // Now it is so.
        sender.send(vec![Event::Services(Vec::new())])?;
        sleep(Duration::from_millis(300)).await;
        assert_eq!(there().await?, (60, 120));
        sender.send(vec![Event::Services(Vec::new()), Event::Slices(Vec::new())])?;
        until_there((0, 0)).await
    };
    let words = ["--metrics-bind-address=127.0.0.1:10249", "--vip-mode=addresses"];
    testbed::run(&namespace, "iproute2", &["ip", "link", "set", "lo", "up"])?;
    let mut proxy = Proxy::new(source, config(&words)?, &namespace).await?;
    tokio::select! {
        result = story => result,
        ended = proxy.run(std::future::pending()) => Err(format!("the proxy ended: {ended:?}").into()),
    }
}

/// Ten thousand endpoints of one service, of which half go at once: fresh lists confirm it.
async fn many_endpoints(namespace: NetNs, client: Client) -> Outcome {
    let directory = TempDir::new()?;
    write(&directory, "web.yaml", &service("web", "clusterIP: 10.96.7.20, ports: [{port: 80}]"))?;
    let slice = |count: u32| {
        let addresses = (0..count).map(|number| IpAddr::from((0x0a80_0101 + number).to_be_bytes()));
        let addresses: Vec<_> = addresses.map(|address| address.to_string()).collect();
        slice("web", 80, &addresses.iter().map(|address| (&**address, "")).collect::<Vec<_>>())
    };
    let key = "-t 10.96.7.20:80".parse()?;
    let until_there = async |expected: usize| -> Outcome {
        let begin = Instant::now();
        loop {
            let found = client.destinations(&key).await.map_or(0, |found| found.len());
            if found == expected {
                return Ok(());
            }
            assert!(begin.elapsed() < 6 * LIMIT, "{found}, not {expected}");
            // A look is dear: the kernel lists so many in small steps.
            sleep(Duration::from_secs(1)).await;
        }
    };
    write(&directory, "slice.yaml", &slice(10_000))?;
    let story = async {
        until_there(10_000).await?;
        write(&directory, "slice.yaml", &slice(4_000))?;
        until_there(4_000).await
    };
    with_proxy(&namespace, &directory, &["--drain-limit=0"], story).await
}

/// The Node goes: so does the proxy, with an error. Another Node's end is nothing to it.
async fn node_is_deleted(namespace: NetNs, _: Client) -> Outcome {
    let (sender, events) = mpsc::unbounded_channel();
    let source = Told { events, asked: Arc::default() };
    let mut proxy = Proxy::new(source, config(&[])?, &namespace).await?;
    sender.send(vec![Event::NodeGone("node-b".to_owned())])?;
    let ended = timeout(Duration::from_millis(300), proxy.run(std::future::pending())).await;
    assert!(ended.is_err(), "{ended:?}");
    sender.send(vec![Event::NodeGone("node-a".to_owned())])?;
    let ended = timeout(LIMIT, proxy.run(std::future::pending())).await?;
    let error = ended.expect_err("it ends with an error").to_string();
    assert_eq!(error, "the Node node-a was deleted");
    Ok(())
}

/// The kernel refuses one endpoint, a broadcast address: the other services are followed as ever, the
/// proxy is healthy, and the one is tried again.
async fn one_that_is_refused(_: NetNs, _: Client) -> Outcome {
    let namespace = node_namespace().await?;
    let client = Client::connect_in(&namespace)?;
    let directory = TempDir::new()?;
    let web = |number: u8| {
        service(
            &format!("s{number}"),
            &format!("clusterIP: 10.96.0.{number}, ports: [{{port: 80}}]"),
        )
    };
    write(
        &directory,
        "bad.yaml",
        &(web(1) + &slice("s1", 80, &[("10.42.1.255", ""), ("10.42.1.5", "")])),
    )?;
    let words = ["--metrics-bind-address=127.0.0.1:10249", "--ipvs-sync-period=500ms"];
    testbed::run(&namespace, "iproute2", &["ip", "link", "set", "lo", "up"])?;
    let bad = "TCP 10.96.0.1:80 rr -> 10.42.1.5:80";
    let story = async {
        until(&client, &[bad]).await?;
        // It fails again and again meanwhile.
        sleep(Duration::from_secs(3)).await;
        let mut lines = vec![bad.to_owned()];
        for number in 2..6 {
            let begin = Instant::now();
            write(&directory, &format!("{number}.yaml"), &web(number))?;
            lines.push(format!("TCP 10.96.0.{number}:80 rr ->"));
            until(&client, &lines.iter().map(String::as_str).collect::<Vec<_>>()).await?;
            assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
        }
        let text = raw_get(&namespace, "127.0.0.1:10249".parse()?, "/metrics").await?;
        assert!(text.contains("lvs_kube_proxy_failing_changes 1"), "{text}");
        let text = raw_get(&namespace, "127.0.0.1:10249".parse()?, "/livez").await?;
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        Ok(())
    };
    with_proxy(&namespace, &directory, &words, story).await
}

/// A node with IPv6 switched off in a cluster of both families: IPv4 is served all the same.
async fn without_ipv6(namespace: NetNs, client: Client) -> Outcome {
    for name in ["all", "default", "lo"] {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
        namespace.run(move || fs::write(path, "1"))??;
    }
    testbed::run(&namespace, "iproute2", &["ip", "link", "set", "lo", "up"])?;
    let directory = TempDir::new()?;
    let spec = "clusterIPs: [10.96.7.20, 'fd96::20'], ports: [{port: 80}]";
    write(&directory, "web.yaml", &service("web", spec))?;
    write(&directory, "slice.yaml", &slice("web", 80, &[("10.42.1.5", "")]))?;
    let range = "--service-cluster-ip-range=10.96.0.0/12,fd96::/64";
    for mode in ["--vip-mode=routes", "--vip-mode=addresses"] {
        let story = async {
            let lines = ["TCP 10.96.7.20:80 rr -> 10.42.1.5:80", "TCP [fd96::20]:80 rr ->"];
            until(&client, &lines).await?;
            let is_local = || std::net::UdpSocket::bind("0.0.0.0:0")?.connect("10.96.7.20:80");
            Ok(namespace.run(is_local)??)
        };
        with_proxy(&namespace, &directory, &[range, mode], story).await?;
    }
    Ok(())
}

/// A service asks for a scheduler that there is no module for, and gets the default.
async fn scheduler_that_is_lacking(namespace: NetNs, client: Client) -> Outcome {
    let directory = TempDir::new()?;
    let annotated = "kind: Service\nmetadata: {name: odd, annotations: {lvs-kube-proxy/scheduler: nosuch}}\n\
                     spec: {clusterIP: 10.96.0.9, ports: [{port: 80}]}\n";
    write(&directory, "odd.yaml", annotated)?;
    write(&directory, "web.yaml", &service("web", "clusterIP: 10.96.0.1, ports: [{port: 80}]"))?;
    let both = ["TCP 10.96.0.1:80 rr ->", "TCP 10.96.0.9:80 rr ->"];
    with_proxy(&namespace, &directory, &[], until(&client, &both)).await?;
    client.flush().await?;
    Proxy::new(source(&directory)?, config(&[])?, &namespace).await?.once().await?;
    until(&client, &both).await
}

/// What is excluded is left alone, though it lies in a service range: the service, and its address. A range
/// that holds an address of the node itself is none that a route can make local.
async fn ranges_that_are_not_ours(namespace: NetNs, client: Client) -> Outcome {
    let links = Links::connect(&namespace)?;
    let link = links.create_dummy(LINK).await?.link;
    links.add_address(&link, Address::host("10.96.9.5".parse()?)).await?;
    VirtualService::tcp("10.96.9.5:443".parse()?).build()?.apply(&client).await?;
    let eth0 = links.create_dummy("eth0").await?.link;
    links.add_address(&eth0, "10.97.0.1/24".parse()?).await?;
    testbed::run(&namespace, "iproute2", &["ip", "link", "set", "lo", "up"])?;
    let directory = TempDir::new()?;
    write(&directory, "web.yaml", &service("web", "clusterIP: 10.96.7.20, ports: [{port: 80}]"))?;
    let excluded = "--ipvs-exclude-cidrs=10.96.9.0/24";
    for (range, own) in [("10.96.0.0/16", false), ("10.96.0.0/12", true)] {
        let words =
            [&format!("--service-cluster-ip-range={range}"), excluded, "--ipvs-sync-period=100ms"];
        let story = async {
            let lines = ["TCP 10.96.7.20:80 rr ->", "TCP 10.96.9.5:443 wlc ->"];
            until(&client, &lines).await?;
            sleep(Duration::from_millis(500)).await;
            until(&client, &lines).await?;
            let mut expected = BTreeSet::from(["10.96.9.5".to_owned()]);
            expected.extend(own.then(|| "10.96.7.20".to_owned()));
            assert_eq!(link_addresses(&namespace).await?, expected, "{range}");
            Ok(())
        };
        with_proxy(&namespace, &directory, &words, story).await?;
    }
    Ok(())
}

/// The proxy's health, a service's, and the metrics.
async fn health_and_metrics(namespace: NetNs, client: Client) -> Outcome {
    let directory = TempDir::new()?;
    let service = "kind: Service\nmetadata: {name: web, namespace: shop}\n\
                   spec: {type: LoadBalancer, clusterIP: 10.96.0.1, ports: [{port: 80}], \
                   externalTrafficPolicy: Local, healthCheckNodePort: 30123}\n\
                   status: {loadBalancer: {ingress: [{ip: 203.0.113.50}]}}\n";
    write(&directory, "web.yaml", service)?;
    let in_shop = |text: String| text.replace("metadata: {", "metadata: {namespace: shop, ");
    let local = in_shop(slice("web", 8080, &[("10.42.1.5", "nodeName: node-a")]));
    write(&directory, "slice.yaml", &local)?;
    let words =
        ["--healthz-bind-address=127.0.0.1:10256", "--metrics-bind-address=127.0.0.1:10249"];
    let story = async {
        until(
            &client,
            &["TCP 10.96.0.1:80 rr -> 10.42.1.5:8080", "TCP 203.0.113.50:80 rr -> 10.42.1.5:8080"],
        )
        .await?;
        let get = async |address: &str| {
            testbed::http_get(&namespace, address.parse()?, LIMIT).await.map_err(Failed::from)
        };
        let answer = raw_get(&namespace, "127.0.0.1:30123".parse()?, "/").await?;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.to_lowercase().contains("x-load-balancing-endpoint-weight: 1"), "{answer}");
        assert!(answer.contains(r#""localEndpoints": 1"#), "{answer}");
        let _ = get;
        let answer = raw_get(&namespace, "127.0.0.1:10256".parse()?, "/healthz").await?;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("lastUpdated"), "{answer}");
        // Everybody may ask for health, not for metrics.
        let answer = raw_get(&namespace, "127.0.0.1:10256".parse()?, "/metrics").await?;
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        let answer = raw_get(&namespace, "127.0.0.1:10249".parse()?, "/metrics").await?;
        for line in [
            "lvs_kube_proxy_virtual_services 2",
            "lvs_kube_proxy_real_servers 2",
            "kubeproxy_sync_proxy_rules_duration_seconds_count",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        ] {
            assert!(answer.contains(line), "{line}: {answer}");
        }
        // No endpoint is left here.
        let remote = in_shop(slice("web", 8080, &[("10.42.2.6", "nodeName: node-b")]));
        write(&directory, "slice.yaml", &remote)?;
        let begin = Instant::now();
        while !raw_get(&namespace, "127.0.0.1:30123".parse()?, "/")
            .await?
            .starts_with("HTTP/1.1 503")
        {
            assert!(begin.elapsed() < LIMIT);
        }
        Ok(())
    };
    with_proxy(&namespace, &directory, &words, story).await
}

/// As the DaemonSet's containers: the first one, which is privileged, makes the settings.
fn after_init() -> Outcome {
    let init = config(&["--init-only"])?;
    block_on(async { lvs_kube_proxy::run(init).await.map_err(|error| error.to_string()) })?;
    let path = "/proc/sys";
    let mount = Command::new("mount").args(["--bind", "-o", "ro", path, path]).status()?;
    assert!(mount.success(), "{mount}");
    let status = part::again_by(LEAST_RIGHTS, part::ROOT_WITH_NET_ADMIN)?.status()?;
    if status.success() { Ok(()) } else { Err(status.to_string().into()) }
}

/// The second one has CAP_NET_ADMIN alone, and settings that are read-only.
fn least_rights() -> Outcome {
    let directory = TempDir::new()?;
    let spec = "type: LoadBalancer, clusterIP: 10.96.0.1, ports: [{port: 80}]";
    let web = service("web", spec) + "status: {loadBalancer: {ingress: [{ip: 203.0.113.50}]}}\n";
    write(&directory, "web.yaml", &web)?;
    write(&directory, "slice.yaml", &slice("web", 8080, &[("10.42.1.5", "")]))?;
    block_on(async {
        let here = NetNs::current()?;
        let client = Client::connect()?;
        let state = TempDir::new()?;
        let state_dir = format!("--state-dir={}", state.path().display());
        let words = ["--service-cluster-ip-range=10.96.0.0/12", &state_dir];
        let mut proxy = Proxy::new(source(&directory)?, config(&words)?, &here).await?;
        proxy.once().await?;
        let lines = ["10.96.0.1:80", "203.0.113.50:80"];
        let lines = lines.map(|place| format!("TCP {place} rr -> 10.42.1.5:8080"));
        until(&client, &lines.each_ref().map(String::as_str)).await?;
        clean_up(&config(&words)?, &here).await?;
        until(&client, &[]).await
    })
}

/// A port for health or metrics that somebody else has keeps no service from being served. It is taken once
/// it is free, unless the proxy is told to end.
async fn port_in_use(namespace: NetNs, client: Client) -> Outcome {
    let directory = TempDir::new()?;
    write(&directory, "web.yaml", &service("web", "clusterIP: 10.96.0.1, ports: [{port: 80}]"))?;
    testbed::run(&namespace, "iproute2", &["ip", "link", "set", "lo", "up"])?;
    let place: SocketAddr = "127.0.0.1:10249".parse()?;
    let words = [
        "--healthz-bind-address=127.0.0.1:10256",
        "--metrics-bind-address=127.0.0.1:10249",
        "--ipvs-sync-period=100ms",
    ];
    let other = namespace.run(move || std::net::TcpListener::bind(place))??;
    let story = async {
        until(&client, &["TCP 10.96.0.1:80 rr ->"]).await?;
        let health: SocketAddr = "127.0.0.1:10256".parse()?;
        assert!(raw_get(&namespace, health, "/livez").await?.starts_with("HTTP/1.1 200"));
        // Metrics are where they were asked for only.
        assert!(raw_get(&namespace, health, "/metrics").await?.starts_with("HTTP/1.1 404"));
        drop(other);
        let begin = Instant::now();
        loop {
            match raw_get(&namespace, place, "/metrics").await {
                Ok(answer) => {
                    assert!(answer.contains(r#"errors_total{step="listen"}"#), "{answer}");
                    return Ok(());
                }
                Err(error) => assert!(begin.elapsed() < LIMIT, "{error:?}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    with_proxy(&namespace, &directory, &words, story).await?;

    // The thread that serves it ends soon.
    let begin = Instant::now();
    let _other = loop {
        match namespace.run(move || std::net::TcpListener::bind(place))? {
            Ok(other) => break other,
            Err(error) => assert!(begin.elapsed() < LIMIT, "{error}"),
        }
        sleep(Duration::from_millis(10)).await;
    };
    let words: Vec<_> = words.into_iter().chain(["--bind-address-hard-fail"]).collect();
    let mut proxy = Proxy::new(source(&directory)?, config(&words)?, &namespace).await?;
    let ended = timeout(LIMIT, proxy.run(std::future::pending())).await?;
    let error = ended.expect_err("the port is in use").to_string();
    assert!(error.contains("--bind-address-hard-fail"), "{error}");
    Ok(())
}

/// At rest a full run asks for one link, one list of addresses, one of routes, and the table; it starts
/// no process and writes nothing.
async fn at_rest(namespace: NetNs, client: Client) -> Outcome {
    let directory = TempDir::new()?;
    let state = TempDir::new()?;
    let spec = "type: LoadBalancer, clusterIP: 10.96.0.1, ports: [{port: 80}]";
    let web = service("web", spec) + "status: {loadBalancer: {ingress: [{ip: 203.0.113.50}]}}\n";
    write(&directory, "web.yaml", &web)?;
    write(&directory, "slice.yaml", &slice("web", 8080, &[("10.42.1.5", "")]))?;
    let state_dir = format!("--state-dir={}", state.path().display());
    let words = [
        "--service-cluster-ip-range=10.96.0.0/12",
        "--metrics-bind-address=127.0.0.1:10249",
        "--ipvs-sync-period=100ms",
        &state_dir,
    ];
    testbed::run(&namespace, "iproute2", &["ip", "link", "set", "lo", "up"])?;
    let metrics = async || -> Result<BTreeMap<String, f64>, Failed> {
        let text = raw_get(&namespace, "127.0.0.1:10249".parse()?, "/metrics").await?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let values = lines.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            let name = name.strip_prefix("lvs_kube_proxy_").unwrap_or(name);
            Some((name.to_owned(), value.parse().ok()?))
        });
        Ok(values.collect())
    };
    let story = async {
        let place = "10.42.1.5:8080";
        let lines = ["10.96.0.1:80", "203.0.113.50:80"];
        let lines = lines.map(|address| format!("TCP {address} rr -> {place}"));
        until(&client, &lines.each_ref().map(String::as_str)).await?;
        sleep(Duration::from_millis(300)).await;
        let (before, children) = (metrics().await?, ended_children()?);
        sleep(Duration::from_secs(1)).await;
        let (after, children_after) = (metrics().await?, ended_children()?);
        let difference = |name: &str| after[name] - before[name];
        let runs = difference("kubeproxy_sync_proxy_rules_duration_seconds_count");
        assert!(runs >= 3.0, "{runs} runs");
        let asked: BTreeMap<_, _> = after
            .iter()
            .filter_map(|(name, count)| {
                let name = name.strip_prefix("requests_total{request=\"")?.strip_suffix("\"}")?;
                let before = before.get(&format!("requests_total{{request=\"{name}\"}}"));
                let count = count - before.copied().unwrap_or_default();
                (count > 0.0).then_some((name, count / runs))
            })
            .collect();
        let once = ["addresses", "links", "routes", "snapshots"].map(|name| (name, 1.0));
        assert_eq!(asked, BTreeMap::from(once));
        let changes = |metrics: &BTreeMap<String, f64>| -> f64 {
            metrics.iter().filter(|(name, _)| name.starts_with("changes_")).map(|(_, n)| n).sum()
        };
        assert_eq!(changes(&before), changes(&after));
        assert_eq!(children, children_after, "a process was started");
        Ok(())
    };
    with_proxy(&namespace, &directory, &words, story).await
}

/// What tells whether this process had a child that ended: how often such faulted.
fn ended_children() -> Result<i64, Failed> {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN)?;
    Ok(usage.minor_page_faults())
}

/// Cases 44 to 47, for TCP.
async fn drain() -> Outcome {
    let scene = Node::new(Family::Ipv4).await?;
    let (first, second) = (scene.pods[0].address(), scene.pods[1].address());
    let directory = TempDir::new()?;
    let vip: SocketAddr = "10.96.7.20:7".parse()?;
    // The service's own limit counts, not the proxy's.
    let web = service("web", "clusterIP: 10.96.7.20, ports: [{port: 7}]");
    let limit = "{name: web, annotations: {lvs-kube-proxy/drain-limit: 2s}}";
    write(&directory, "web.yaml", &web.replace("{name: web}", limit))?;
    let pods = |words: &[(IpAddr, &str)]| {
        let words: Vec<_> = words.iter().map(|(ip, more)| (ip.to_string(), *more)).collect();
        let words: Vec<_> = words.iter().map(|(ip, more)| (ip.as_str(), *more)).collect();
        slice("web", 7, &words)
    };
    let leaves = "conditions: {ready: false, serving: true, terminating: true}";
    write(&directory, "slice.yaml", &pods(&[(first, "")]))?;
    let one = format!("TCP 10.96.7.20:7 rr -> {first}:7");
    let both = format!("TCP 10.96.7.20:7 rr -> {first}:7 {second}:7");
    let draining = format!("TCP 10.96.7.20:7 rr -> {first}:7 weight 0 {second}:7");
    let other = format!("TCP 10.96.7.20:7 rr -> {second}:7");
    let words =
        ["--service-cluster-ip-range=10.96.0.0/12", "--drain-limit=600s", "--node-ip=172.17.0.1"];
    let client = &scene.client;
    let story = async {
        until(client, &[&one]).await?;
        let mut talk = Talk::open(&scene.container, vip).await?;
        assert_eq!(talk.say().await?, "pod1");

        // It leaves, and its connection lives on.
        write(&directory, "slice.yaml", &pods(&[(first, leaves), (second, "")]))?;
        until(client, &[&draining]).await?;
        assert_eq!(talk.say().await?, "pod1");
        // It comes back, with the connection that it had, and is not taken away later.
        write(&directory, "slice.yaml", &pods(&[(first, ""), (second, "")]))?;
        until(client, &[&both]).await?;
        sleep(Duration::from_millis(2500)).await;
        until(client, &[&both]).await?;
        assert_eq!(talk.say().await?, "pod1");

        // It leaves for good: after the limit it is gone, with whoever still talks.
        let begin = Instant::now();
        write(&directory, "slice.yaml", &pods(&[(second, "")]))?;
        until(client, &[&draining]).await?;
        until(client, &[&other]).await?;
        assert!(begin.elapsed() >= Duration::from_secs(2), "{:?}", begin.elapsed());
        let answer = timeout(Duration::from_millis(500), talk.say()).await;
        assert!(!matches!(answer, Ok(Ok(_))), "{answer:?}");

        // One without a connection is gone as soon as it was looked at again.
        write(&directory, "slice.yaml", &pods(&[(first, ""), (second, "")]))?;
        until(client, &[&both]).await?;
        write(&directory, "slice.yaml", &pods(&[(second, "")]))?;
        let begin = Instant::now();
        until(client, &[&other]).await?;
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());

        // A service that is deleted is gone at once, whatever its real servers are doing.
        let mut talk = Talk::open(&scene.container, vip).await?;
        assert_eq!(talk.say().await?, "pod2");
        fs::remove_file(directory.path().join("web.yaml"))?;
        let begin = Instant::now();
        until(client, &[]).await?;
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
        Ok(())
    };
    with_proxy(scene.host.namespace(), &directory, &words, story).await
}

/// Where nobody says how long, a real server drains until its pod has ended: until its endpoint, which
/// was terminating, is in no slice any more.
async fn drain_of_pods() -> Outcome {
    let scene = Node::new(Family::Ipv4).await?;
    let [first, second] = [&scene.pods[0], &scene.pods[1]].map(|pod| pod.address().to_string());
    let directory = TempDir::new()?;
    let vip: SocketAddr = "10.96.7.20:7".parse()?;
    write(&directory, "web.yaml", &service("web", "clusterIP: 10.96.7.20, ports: [{port: 7}]"))?;
    let terminating = "conditions: {ready: false, serving: true, terminating: true}";
    let draining = format!("TCP 10.96.7.20:7 rr -> {first}:7 weight 0 {second}:7");
    let other = format!("TCP 10.96.7.20:7 rr -> {second}:7");
    let client = &scene.client;
    let story = async {
        write(&directory, "slice.yaml", &slice("web", 7, &[(&first, "")]))?;
        until(client, &[&format!("TCP 10.96.7.20:7 rr -> {first}:7")]).await?;
        let mut talk = Talk::open(&scene.container, vip).await?;
        assert_eq!(talk.say().await?, "pod1");
        write(&directory, "slice.yaml", &slice("web", 7, &[(&first, terminating), (&second, "")]))?;
        until(client, &[&draining]).await?;
        sleep(Duration::from_millis(2500)).await;
        assert_eq!(talk.say().await?, "pod1");
        let begin = Instant::now();
        write(&directory, "slice.yaml", &slice("web", 7, &[(&second, "")]))?;
        until(client, &[&other]).await?;
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());

        // One that is in no slice any more and was never terminating may live on.
        write(&directory, "slice.yaml", &slice("web", 7, &[(&first, "")]))?;
        until(client, &[&format!("TCP 10.96.7.20:7 rr -> {first}:7")]).await?;
        let mut talk = Talk::open(&scene.container, vip).await?;
        assert_eq!(talk.say().await?, "pod1");
        write(&directory, "slice.yaml", &slice("web", 7, &[(&second, "")]))?;
        until(client, &[&draining]).await?;
        sleep(Duration::from_millis(2500)).await;
        until(client, &[&draining]).await?;
        assert_eq!(talk.say().await?, "pod1");
        Ok(())
    };
    with_proxy(scene.host.namespace(), &directory, &["--node-ip=172.17.0.1"], story).await
}

/// Case 44, for UDP: the server is gone at once, and the next datagram from the same port goes
/// elsewhere.
async fn udp_at_once() -> Outcome {
    let scene = Node::new(Family::Ipv4).await?;
    // Connections are tracked as soon as a rule asks for it.
    let rule = "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT";
    testbed::iptables(scene.host.namespace(), rule)?;
    let directory = TempDir::new()?;
    let spec = "clusterIP: 10.96.7.20, ports: [{port: 53, protocol: UDP}]";
    write(&directory, "dns.yaml", &service("dns", spec))?;
    let pods = |addresses: &[IpAddr]| {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let endpoints: Vec<_> = addresses.iter().map(|address| (address.as_str(), "")).collect();
        slice("dns", 53, &endpoints).replace("port: 53", "port: 53, protocol: UDP")
    };
    let addresses: Vec<_> = scene.pods.iter().map(Container::address).collect();
    let _servers: Vec<_> = scene
        .pods
        .iter()
        .map(|pod| pod.serve_udp(SocketAddr::new(pod.address(), 53)))
        .collect::<Result<_, _>>()?;
    write(&directory, "slice.yaml", &pods(&addresses[..1]))?;
    let line = |address: IpAddr| format!("UDP 10.96.7.20:53 rr -> {address}:53");
    let words = ["--service-cluster-ip-range=10.96.0.0/12", "--node-ip=172.17.0.1"];
    let story = async {
        until(&scene.client, &[&line(addresses[0])]).await?;
        let ask = || {
            udp_exchange(
                scene.container.namespace(),
                "10.96.7.20:53".parse().expect("it is an address"),
                "who",
                LIMIT,
            )
        };
        assert_eq!(ask().await?, "pod1: who");
        // The client's entry in connection tracking, by the address that answers.
        let tracked = async |address: IpAddr| -> Result<bool, Failed> {
            let read = || fs::read_to_string("/proc/thread-self/net/nf_conntrack");
            let text = scene.host.namespace().run(read)??;
            let answers = format!(" src={address} ");
            Ok(text.lines().any(|line| {
                line.contains("udp") && line.contains("dst=10.96.7.20") && line.contains(&answers)
            }))
        };
        let forgotten = async |address: IpAddr| -> Outcome {
            let begin = Instant::now();
            while tracked(address).await? {
                assert!(begin.elapsed() < LIMIT);
                sleep(Duration::from_millis(10)).await;
            }
            Ok(())
        };
        assert!(tracked(addresses[0]).await?);
        // Kernels since 5.9 forget them by themselves, as long as this is 1.
        let setting = Path::new("/proc/sys/net/ipv4/vs/expire_nodest_conn");
        write(&directory, "slice.yaml", &pods(&addresses[1..]))?;
        until(&scene.client, &[&line(addresses[1])]).await?;
        forgotten(addresses[0]).await?;
        assert_eq!(ask().await?, "pod2: who");
        write(&directory, "slice.yaml", &pods(&addresses[..1]))?;
        until(&scene.client, &[&line(addresses[0])]).await?;
        let begin = Instant::now();
        while ask().await? != "pod1: who" {
            assert!(begin.elapsed() < LIMIT);
        }
        // As kernels before, which do not.
        scene.host.namespace().run(|| fs::write(setting, "0"))??;
        write(&directory, "slice.yaml", &pods(&addresses[1..]))?;
        until(&scene.client, &[&line(addresses[1])]).await?;
        forgotten(addresses[0]).await?;
        scene.host.namespace().run(|| fs::write(setting, "1"))??;
        assert_eq!(ask().await?, "pod2: who");
        assert!(tracked(addresses[1]).await?);
        scene.host.namespace().run(|| fs::write(setting, "0"))??;
        // With the service go all its clients.
        fs::remove_file(directory.path().join("dns.yaml"))?;
        forgotten(addresses[1]).await?;
        Ok(())
    };
    with_proxy(scene.host.namespace(), &directory, &words, story).await
}

/// Killed in the middle and started again, ten times: whoever looks at the table sees every service
/// all the while.
async fn warm_restart() -> Outcome {
    let namespace = fresh_namespace().await?;
    let client = Client::connect_in(&namespace)?;
    let directory = TempDir::new()?;
    let state = TempDir::new()?;
    let state_dir = format!("--state-dir={}", state.path().display());
    let many: String = (1..=200)
        .map(|number| {
            let spec = format!("clusterIP: 10.96.1.{number}, ports: [{{port: 80}}]");
            let name = format!("s{number}");
            service(&name, &spec) + &slice(&name, 8080, &[("10.42.1.5", ""), ("10.42.2.6", "")])
        })
        .collect();
    write(&directory, "many.yaml", &many)?;
    let mut proxy = Proxy::new(source(&directory)?, config(&[&state_dir])?, &namespace).await?;
    proxy.once().await?;
    drop(proxy);
    for round in 0..10_u64 {
        let watch = async {
            loop {
                let snapshot =
                    client.snapshot().await.map_err(|error| Failed::from(error.to_string()))?;
                let servers: usize =
                    snapshot.services.values().map(|service| service.destinations.len()).sum();
                if (snapshot.services.len(), servers) != (200, 400) {
                    let text = format!("{} services, {servers} servers", snapshot.services.len());
                    return Err::<(), Failed>(text.into());
                }
                tokio::task::yield_now().await;
            }
        };
        let mut proxy = Proxy::new(source(&directory)?, config(&[&state_dir])?, &namespace).await?;
        // Dropped wherever it is.
        let run = timeout(Duration::from_millis(5 * round), proxy.run(std::future::pending()));
        tokio::select! {
            result = watch => result?,
            _ = run => {}
        }
    }
    client.flush().await?;
    Ok(())
}

/// The node's own connections to a service have an address of the node as source, which pods can
/// answer to that know no way to the service's address: at cluster and at load-balancer addresses,
/// whichever way these are local, and without nftables (User-Mode Linux has none).
async fn source_of_the_node(family: Family) -> Outcome {
    let scene = Node::new(family).await?;
    let directory = TempDir::new()?;
    let (vip, range, balancer, kind) = match family {
        Family::Ipv4 => ("10.96.7.20", "10.96.0.0/12", "203.0.113.50", "IPv4"),
        Family::Ipv6 => ("fd96::20", "fd96::/64", "2001:db8:ee::50", "IPv6"),
    };
    let spec = format!("type: LoadBalancer, clusterIP: '{vip}', ports: [{{port: 7}}]");
    let status = format!("status: {{loadBalancer: {{ingress: [{{ip: '{balancer}'}}]}}}}\n");
    let pod = &scene.pods[0];
    // It knows its own network and nothing else.
    let version = if pod.address().is_ipv4() { "-4" } else { "-6" };
    testbed::run(pod.namespace(), "iproute2", &["ip", version, "route", "del", "default"])?;
    let endpoints = format!("'{}'", pod.address());
    let slice = slice("web", 7, &[(&endpoints, "")]).replace("IPv4", kind);
    write(&directory, "slice.yaml", &slice)?;
    let places = [vip, balancer].map(|address| format!("'{address}'").replace('\'', ""));
    let places: Vec<SocketAddr> = places
        .iter()
        .map(|address| Ok::<_, Failed>(SocketAddr::new(address.parse()?, 7)))
        .collect::<Result<_, _>>()?;
    let here = scene.host.namespace();
    let shown = async |dev: &str| -> Result<String, Failed> {
        let words = ["ip", version, "route", "show", "table", "local", "proto", "196", "dev", dev];
        Ok(testbed::run(here, "iproute2", &words)?)
    };
    for mode in ["routes", "addresses"] {
        let words = [
            format!("--service-cluster-ip-range={range}"),
            format!("--node-ip={}", scene.host.address()),
            format!("--vip-mode={mode}"),
        ];
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        write(&directory, "web.yaml", &(service("web", &spec) + &status))?;
        let story = async {
            let lines = places
                .iter()
                .map(|place| format!("TCP {place} rr -> {}", SocketAddr::new(pod.address(), 7)));
            let mut lines: Vec<_> = lines.collect();
            lines.sort();
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            until(&scene.client, &lines).await?;
            for place in &places {
                let answer = tcp_exchange(here, *place, "hello", LIMIT).await?;
                assert_eq!(answer, "pod1: hello", "{mode} {place}");
                // A port that nobody serves refuses at once.
                let nobody = SocketAddr::new(place.ip(), 8);
                let begin = Instant::now();
                assert!(tcp_exchange(here, nobody, "hello", LIMIT).await.is_err());
                assert!(begin.elapsed() < Duration::from_secs(2));
            }
            // The balancer's address goes, and comes back in an event of its own.
            write(&directory, "web.yaml", &service("web", &spec))?;
            let only = format!("TCP {} rr -> {}", places[0], SocketAddr::new(pod.address(), 7));
            until(&scene.client, &[&only]).await?;
            let begin = Instant::now();
            while shown("lo").await?.contains(balancer) {
                assert!(begin.elapsed() < LIMIT, "{}", shown("lo").await?);
                sleep(Duration::from_millis(10)).await;
            }
            write(&directory, "web.yaml", &(service("web", &spec) + &status))?;
            until(&scene.client, &lines).await?;
            let answer = tcp_exchange(here, places[1], "hello", LIMIT).await?;
            assert_eq!(answer, "pod1: hello", "{mode}, again");
            Ok(())
        };
        with_proxy(here, &directory, &words, story).await?;
        // Another proxy, in the other mode, takes over from this one; the last one leaves nothing.
        if mode == "addresses" {
            let state = format!("--vip-mode={mode}");
            clean_up(&config(&[words[0], &state])?, here).await?;
            assert_eq!(shown("lo").await?, "");
        }
    }
    Ok(())
}

/// What nftables adds, on a kernel that has them (User-Mode Linux has none): who is masqueraded, who is
/// let in, and what is not reached at a service's address. Without them the rest goes on.
async fn netfilter() -> Outcome {
    let scene = Node::new(Family::Ipv4).await?;
    let outside = scene.host.external_client("outside").await?;
    let has_nft = has_nft(scene.host.namespace());
    let directory = TempDir::new()?;
    let spec = "type: LoadBalancer, clusterIP: 10.96.7.20, ports: [{port: 7, nodePort: 31080}], \
                loadBalancerSourceRanges: [192.168.50.0/24]";
    let web = service("web", spec) + "status: {loadBalancer: {ingress: [{ip: 203.0.113.50}]}}\n";
    write(&directory, "web.yaml", &web)?;
    let spec = spec.replace("7.20", "7.21").replace(", nodePort: 31080", "");
    let own = service("own", &spec.replace("192.168.50.0/24", "172.17.0.1/32"))
        + "status: {loadBalancer: {ingress: [{ip: 203.0.113.51}]}}\n";
    write(&directory, "own.yaml", &own)?;
    let pod = &scene.pods[0];
    let here = "nodeName: node-a";
    for owner in ["web", "own"] {
        let slice = slice(owner, 7, &[(&pod.address().to_string(), here)]);
        write(&directory, &format!("{owner}-slice.yaml"), &slice)?;
    }
    // It knows no way to clients outside, as a pod on another node whose gateway is not this one.
    testbed::run(pod.namespace(), "iproute2", &["ip", "route", "del", "default"])?;
    testbed::run(
        pod.namespace(),
        "iproute2",
        &["ip", "route", "add", "10.96.0.0/12", "via", "172.17.0.1"],
    )?;
    // What a pod on a bridge needs besides to reach itself; CNI's bridge calls it hairpinMode.
    let hairpin = ["ip", "link", "set", "veth3", "type", "bridge_slave", "hairpin", "on"];
    testbed::run(scene.host.namespace(), "iproute2", &hairpin)?;
    // Something else listens on the node.
    let other: SocketAddr = "0.0.0.0:9".parse()?;
    let _other = scene.host.namespace().run(move || std::net::TcpListener::bind(other))??;
    let words = [
        "--service-cluster-ip-range=10.96.0.0/12",
        "--node-ip=172.17.0.1",
        "--nodeport-addresses=192.168.50.0/24,172.17.0.0/16",
    ];
    const SHORT: Duration = Duration::from_millis(700);
    let story = async {
        let pod_line = format!("rr -> {}:7", pod.address());
        let lines = [
            "10.96.7.20:7",
            "10.96.7.21:7",
            "172.17.0.1:31080",
            "192.168.50.1:31080",
            "203.0.113.50:7",
            "203.0.113.51:7",
        ];
        let lines = lines.map(|place| format!("TCP {place} {pod_line}"));
        until(&scene.client, &lines.each_ref().map(String::as_str)).await?;
        let get = async |from: &Container, place: &str| -> bool {
            let address = place.parse().expect("it is an address");
            tcp_exchange(from.namespace(), address, "hello", SHORT).await.is_ok()
        };
        // The cluster's own way works with and without.
        assert!(get(&scene.container, "10.96.7.20:7").await);
        let node_port = get(&outside, "192.168.50.1:31080").await;
        let balanced = get(&outside, "203.0.113.50:7").await;
        let itself = get(pod, "10.96.7.20:7").await;
        let not_allowed = get(&scene.container, "203.0.113.50:7").await;
        let balancer = "203.0.113.50:7".parse()?;
        let node = tcp_exchange(scene.host.namespace(), balancer, "hello", SHORT).await.is_ok();
        let listener = connects(&scene.container, "10.96.7.20:9").await?;
        let found = (node_port, balanced, itself, not_allowed, node, listener);
        match has_nft {
            true => assert_eq!(found, (true, true, true, false, false, false)),
            false => assert_eq!(found, (false, false, false, true, true, true)),
        }
        // Who is a pod is not known, so nobody is masqueraded at cluster addresses.
        assert!(!get(&outside, "10.96.7.20:7").await);
        // Source ranges hold for the node's own clients, too.
        let node = scene.host.namespace();
        for (place, is_let_in) in [("203.0.113.51:7", true), ("203.0.113.50:7", !has_nft)] {
            let found = tcp_exchange(node, place.parse()?, "hello", SHORT).await.is_ok();
            assert_eq!(found, is_let_in, "the node at {place}");
        }
        Ok(())
    };
    with_proxy(scene.host.namespace(), &directory, &words, story).await?;
    // Pods are those behind the bridge, or behind links of such names.
    for (mode, name) in
        [("BridgeInterface", "bridge-interface"), ("InterfaceNamePrefix", "interface-name-prefix")]
    {
        let link = if mode == "BridgeInterface" { "docker0" } else { "docker" };
        let more = [format!("--detect-local-mode={mode}"), format!("--pod-{name}={link}")];
        let words: Vec<_> = words.iter().copied().chain(more.iter().map(String::as_str)).collect();
        let story = async {
            let place = "10.96.7.20:7".parse()?;
            let begin = Instant::now();
            let mut answers = false;
            while !answers && begin.elapsed() < Duration::from_secs(5) {
                answers = tcp_exchange(outside.namespace(), place, "hello", SHORT).await.is_ok();
            }
            assert_eq!(answers, has_nft, "{mode}");
            assert!(tcp_exchange(scene.container.namespace(), place, "hello", SHORT).await.is_ok());
            Ok(())
        };
        with_proxy(scene.host.namespace(), &directory, &words, story).await?;
    }
    clean_up(&config(&words)?, scene.host.namespace()).await?;
    if has_nft {
        let tables = testbed::run(scene.host.namespace(), "nftables", &["nft", "list", "tables"])?;
        assert_eq!(tables, "table inet t\n");
    }
    Ok(())
}

/// A policy of Local without an endpoint here: where there are nftables, clients inside of the cluster
/// reach endpoints of other nodes, and clients outside are refused. Without, everybody is led there.
async fn policy_local() -> Outcome {
    let scene = Node::new(Family::Ipv4).await?;
    let outside = scene.host.external_client("outside").await?;
    let has_nft = has_nft(scene.host.namespace());
    if has_nft {
        // kubelet's, until 1.27.
        for hook in ["input", "output"] {
            let chain = format!("{hook} {{ type filter hook {hook} priority 0; }}");
            let rule = format!("{hook} mark and 0x8000 == 0x8000 drop");
            for line in [format!("add chain inet t {chain}"), format!("add rule inet t {rule}")] {
                testbed::run(scene.host.namespace(), "nftables", &["nft", &line])?;
            }
        }
    }
    let directory = TempDir::new()?;
    let spec = "type: LoadBalancer, clusterIP: 10.96.7.20, externalTrafficPolicy: Local, \
                ports: [{port: 7}]";
    let web = service("web", spec) + "status: {loadBalancer: {ingress: [{ip: 203.0.113.50}]}}\n";
    write(&directory, "web.yaml", &web)?;
    let pod = scene.pods[0].address().to_string();
    let endpoints = |node: &str| slice("web", 7, &[(&pod, &format!("nodeName: {node}"))]);
    write(&directory, "slice.yaml", &endpoints("node-b"))?;
    let words = [
        "--service-cluster-ip-range=10.96.0.0/12",
        "--node-ip=172.17.0.1",
        "--cluster-cidr=172.17.0.0/16",
    ];
    let place: SocketAddr = "203.0.113.50:7".parse()?;
    let answers = async |from: &NetNs| {
        let limit = Duration::from_millis(700);
        tcp_exchange(from, place, "hello", limit).await.is_ok()
    };
    let everybody = async || {
        (
            answers(scene.container.namespace()).await,
            answers(scene.host.namespace()).await,
            answers(outside.namespace()).await,
        )
    };
    let there =
        |lines: &[String]| lines.iter().any(|line| line.starts_with("TCP 203.0.113.50:7 rr ->"));
    let story = async {
        let begin = Instant::now();
        while !there(&lines(&scene.client).await?) {
            assert!(begin.elapsed() < LIMIT);
            sleep(Duration::from_millis(10)).await;
        }
        let found = lines(&scene.client).await?;
        let marks = found.iter().filter(|line| line.starts_with("FWM")).count();
        match has_nft {
            true => {
                assert_eq!(marks, 1, "{found:?}");
                assert_eq!(everybody().await, (true, true, false));
            }
            false => {
                assert_eq!(marks, 0, "{found:?}");
                // The node's own source is the address itself, to which this pod knows its way back.
                assert!(answers(scene.container.namespace()).await);
            }
        }
        // An endpoint here serves everybody.
        write(&directory, "slice.yaml", &endpoints("node-a"))?;
        let here = format!("TCP 203.0.113.50:7 rr -> {pod}:7");
        let begin = Instant::now();
        loop {
            let found = lines(&scene.client).await?;
            if found.contains(&here) && !found.iter().any(|line| line.starts_with("FWM")) {
                break;
            }
            assert!(begin.elapsed() < LIMIT, "{found:?}");
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(everybody().await, (true, true, true));
        Ok(())
    };
    with_proxy(scene.host.namespace(), &directory, &words, story).await
}

/// A UDP endpoint behind a firewall mark leaves at once, too, and connection tracking forgets its clients.
async fn udp_by_mark() -> Outcome {
    let scene = Node::new(Family::Ipv4).await?;
    if !has_nft(scene.host.namespace()) {
        return Ok(());
    }
    let directory = TempDir::new()?;
    let spec = "type: LoadBalancer, clusterIP: 10.96.7.20, externalTrafficPolicy: Local, \
                ports: [{port: 53, protocol: UDP}]";
    let dns = service("dns", spec) + "status: {loadBalancer: {ingress: [{ip: 203.0.113.50}]}}\n";
    write(&directory, "dns.yaml", &dns)?;
    let pods = |address: IpAddr| {
        let endpoint = address.to_string();
        let text = slice("dns", 53, &[(&endpoint, "nodeName: node-b")]);
        text.replace("port: 53", "port: 53, protocol: UDP")
    };
    let addresses: Vec<_> = scene.pods.iter().map(Container::address).collect();
    let serve = |pod: &Container| pod.serve_udp(SocketAddr::new(pod.address(), 53));
    let _servers: Vec<_> = scene.pods.iter().map(serve).collect::<Result<_, _>>()?;
    let words = [
        "--service-cluster-ip-range=10.96.0.0/12",
        "--node-ip=172.17.0.1",
        "--cluster-cidr=172.17.0.0/16",
        "--metrics-bind-address=172.17.0.1:10249",
    ];
    let client: SocketAddr = SocketAddr::new(scene.container.address(), 40_053);
    let socket = scene.container.namespace().run(move || std::net::UdpSocket::bind(client))??;
    socket.set_nonblocking(true)?;
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    let ask = async || -> Result<String, Failed> {
        socket.send_to(b"who", "203.0.113.50:53").await?;
        let mut answer = [0; 64];
        let (length, from) =
            timeout(Duration::from_secs(2), socket.recv_from(&mut answer)).await??;
        assert_eq!(from, "203.0.113.50:53".parse()?);
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    // Its only real server is the endpoint.
    let led_to = async |address: IpAddr| -> Outcome {
        let begin = Instant::now();
        let end = format!(" rr -> {address}:53");
        loop {
            let found = lines(&scene.client).await?;
            let mut marks = found.iter().filter(|line| line.starts_with("FWM"));
            if marks.next().is_some_and(|line| line.ends_with(&end)) {
                return Ok(());
            }
            assert!(begin.elapsed() < LIMIT, "{found:?}");
            sleep(Duration::from_millis(10)).await;
        }
    };
    let setting = Path::new("/proc/sys/net/ipv4/vs/expire_nodest_conn");
    let story = async {
        write(&directory, "slice.yaml", &pods(addresses[0]))?;
        led_to(addresses[0]).await?;
        assert_eq!(ask().await?, "pod1: who");
        // As kernels before 5.9, which do not expire such connections by themselves.
        scene.host.namespace().run(|| fs::write(setting, "0"))??;
        write(&directory, "slice.yaml", &pods(addresses[1]))?;
        led_to(addresses[1]).await?;
        let begin = Instant::now();
        loop {
            let metrics = raw_get(scene.host.namespace(), "172.17.0.1:10249".parse()?, "/metrics");
            if metrics.await?.contains(r#"changes_total{kind="Flow"} 1"#) {
                break;
            }
            assert!(begin.elapsed() < LIMIT, "no entry of connection tracking was deleted");
            sleep(Duration::from_millis(10)).await;
        }
        scene.host.namespace().run(|| fs::write(setting, "1"))??;
        assert_eq!(ask().await?, "pod2: who");
        // By themselves: the next datagram may still end the old connection.
        write(&directory, "slice.yaml", &pods(addresses[0]))?;
        led_to(addresses[0]).await?;
        let begin = Instant::now();
        while ask().await.ok().as_deref() != Some("pod1: who") {
            assert!(begin.elapsed() < LIMIT);
        }
        Ok(())
    };
    with_proxy(scene.host.namespace(), &directory, &words, story).await
}

/// In excluded networks others have services: their addresses stay on the link, and their packets are let
/// through.
async fn excluded_networks(namespace: NetNs, client: Client) -> Outcome {
    let directory = TempDir::new()?;
    write(&directory, "web.yaml", &service("web", "clusterIP: 10.96.0.1, ports: [{port: 80}]"))?;
    testbed::run(&namespace, "iproute2", &["ip", "link", "set", "lo", "up"])?;
    let links = Links::connect(&namespace)?;
    let link = links.create_dummy(LINK).await?.link;
    for address in ["10.96.9.5", "10.96.8.5"] {
        links.add_address(&link, address.parse::<Address>()?).await?;
    }
    let theirs = VirtualService::tcp("10.96.9.5:443".parse()?).build()?;
    client.add_service(theirs.service()).await?;
    let other: SocketAddr = "0.0.0.0:9".parse()?;
    let _other = namespace.run(move || std::net::TcpListener::bind(other))??;
    let is_open = |address: &'static str| -> Result<bool, Failed> {
        let address: SocketAddr = address.parse()?;
        let limit = Duration::from_millis(700);
        Ok(namespace.run(move || std::net::TcpStream::connect_timeout(&address, limit).is_ok())?)
    };
    let theirs = ["TCP 10.96.9.5:443 wlc ->", "10.96.9.5"];
    for mode in ["addresses", "routes"] {
        let mode = format!("--vip-mode={mode}");
        let words = [
            "--service-cluster-ip-range=10.96.0.0/12",
            "--ipvs-exclude-cidrs=10.96.9.0/24",
            "--ipvs-sync-period=100ms",
            &mode,
        ];
        let story = async {
            until(&client, &["TCP 10.96.0.1:80 rr ->", theirs[0]]).await?;
            // Several full runs long.
            sleep(Duration::from_millis(500)).await;
            let addresses = link_addresses(&namespace).await?;
            assert!(addresses.contains(theirs[1]), "{addresses:?}");
            assert!(!addresses.contains("10.96.8.5"), "{addresses:?}");
            assert!(is_open("10.96.9.5:9")?, "{mode}");
            if has_nft(&namespace) {
                assert!(!is_open("10.96.0.1:9")?, "{mode}");
            }
            Ok(())
        };
        with_proxy(&namespace, &directory, &words, story).await?;
        clean_up(&config(&words)?, &namespace).await?;
        until(&client, &[theirs[0]]).await?;
        assert_eq!(link_addresses(&namespace).await?, [theirs[1].to_owned()].into());
    }
    Ok(())
}

/// Where rules cannot be written, a new service that serves some clients only waits for them; the others
/// do not. It is tried again soon.
async fn no_service_before_its_rules(namespace: NetNs, client: Client) -> Outcome {
    if !has_nft(&namespace) {
        return Ok(());
    }
    let nft = |line: &str| testbed::run(&namespace, "nftables", &["nft", line]);
    let directory = TempDir::new()?;
    write(&directory, "web.yaml", &service("web", "clusterIP: 10.96.0.1, ports: [{port: 80}]"))?;
    let words = ["--metrics-bind-address=127.0.0.1:10249"];
    testbed::run(&namespace, "iproute2", &["ip", "link", "set", "lo", "up"])?;
    let story = async {
        until(&client, &["TCP 10.96.0.1:80 rr ->"]).await?;
        // The next write fails, as its sets are not there.
        nft("delete table inet lvs-kube-proxy")?;
        let spec = "type: LoadBalancer, clusterIP: 10.96.0.2, ports: [{port: 80}], \
                    loadBalancerSourceRanges: [192.0.2.0/24]";
        let lb = service("lb", spec) + "status: {loadBalancer: {ingress: [{ip: 203.0.113.50}]}}\n";
        write(&directory, "lb.yaml", &lb)?;
        let begin = Instant::now();
        let mut waited = false;
        loop {
            let found = lines(&client).await?;
            let has = |place: &str| found.iter().any(|line| line.starts_with(place));
            if has("TCP 203.0.113.50:80") {
                break;
            }
            waited |= has("TCP 10.96.0.2:80");
            assert!(begin.elapsed() < LIMIT, "{found:?}");
            tokio::task::yield_now().await;
        }
        let set = nft("list set inet lvs-kube-proxy restricted-ip")?;
        assert!(set.contains("203.0.113.50 . tcp . 80"), "{set}");
        assert!(waited, "the services without source ranges waited, too");
        let metrics = raw_get(&namespace, "127.0.0.1:10249".parse()?, "/metrics").await?;
        assert!(metrics.contains(r#"errors_total{step="netfilter"} 1"#), "{metrics}");
        Ok(())
    };
    with_proxy(&namespace, &directory, &words, story).await
}

/// What others change in the rules is noticed by the next full run, also if the proxy itself writes some
/// in between; changes of its own are not taken for those of others.
async fn rules_changed_by_others(namespace: NetNs, client: Client) -> Outcome {
    if !has_nft(&namespace) {
        return Ok(());
    }
    let nft = |line: &str| testbed::run(&namespace, "nftables", &["nft", line]);
    let has = |place: &str| -> Result<bool, Failed> {
        Ok(nft("list set inet lvs-kube-proxy services-ip")?.contains(place))
    };
    let directory = TempDir::new()?;
    write(&directory, "1.yaml", &service("s1", "clusterIP: 10.96.0.1, ports: [{port: 80}]"))?;
    let words =
        ["--ipvs-sync-period=3s", "--metrics-bind-address=127.0.0.1:10249", "--vip-mode=addresses"];
    testbed::run(&namespace, "iproute2", &["ip", "link", "set", "lo", "up"])?;
    let processes = async || -> Result<u64, Failed> {
        let text = raw_get(&namespace, "127.0.0.1:10249".parse()?, "/metrics").await?;
        let name = r#"lvs_kube_proxy_requests_total{request="processes"} "#;
        let count = text.lines().find_map(|line| line.strip_prefix(name));
        Ok(count.ok_or("nothing was counted")?.parse()?)
    };
    let story = async {
        until(&client, &["TCP 10.96.0.1:80 rr ->"]).await?;
        // Just after a full run.
        sleep(Duration::from_millis(300)).await;
        nft("delete element inet lvs-kube-proxy services-ip { 10.96.0.1 . tcp . 80 }")?;
        write(&directory, "2.yaml", &service("s2", "clusterIP: 10.96.0.2, ports: [{port: 80}]"))?;
        until(&client, &["TCP 10.96.0.1:80 rr ->", "TCP 10.96.0.2:80 rr ->"]).await?;
        let begin = Instant::now();
        while !has("10.96.0.1 . tcp . 80")? {
            assert!(begin.elapsed() < LIMIT, "it was not noticed");
            sleep(Duration::from_millis(50)).await;
        }
        let before = processes().await?;
        write(&directory, "3.yaml", &service("s3", "clusterIP: 10.96.0.3, ports: [{port: 80}]"))?;
        sleep(Duration::from_secs(7)).await;
        assert!(has("10.96.0.3 . tcp . 80")?);
        assert_eq!(processes().await?, before + 1, "more than the change was written");
        Ok(())
    };
    with_proxy(&namespace, &directory, &words, story).await
}

/// Whether there are nftables that filter both families; User-Mode Linux 5.10 has tables only. A table
/// `t` is there then, too.
fn has_nft(namespace: &NetNs) -> bool {
    let nft = |words: &str| testbed::run(namespace, "nftables", &["nft", words]).is_ok();
    nft("add table inet t") && nft("add chain inet t c { type nat hook postrouting priority 0; }")
}

/// Whether a TCP connection comes about.
async fn connects(from: &Container, address: &str) -> Result<bool, Failed> {
    let address: SocketAddr = address.parse()?;
    let limit = Duration::from_millis(700);
    let connect = move || std::net::TcpStream::connect_timeout(&address, limit).is_ok();
    Ok(from.namespace().run(connect)?)
}

/// A docker host as node, with two pods that answer on port 7, and a client.
struct Node {
    host: DockerHost,
    pods: [Container; 2],
    container: Container,
    client: Client,
    _servers: [testbed::Server; 2],
}

impl Node {
    async fn new(family: Family) -> Result<Self, Failed> {
        let host = DockerHost::new(family).await?;
        host.forward()?;
        host.filter_bridge()?;
        let pods = [host.container("pod1", 3).await?, host.container("pod2", 4).await?];
        let container = host.container("client", 5).await?;
        let servers = [pods[0].serve_tcp(7)?, pods[1].serve_tcp(7)?];
        let client = Client::connect_in(host.namespace())?;
        Ok(Self { host, pods, container, client, _servers: servers })
    }
}

/// A connection that stays open.
struct Talk(TcpStream);

impl Talk {
    async fn open(from: &Container, address: SocketAddr) -> Result<Self, Failed> {
        let stream = from.namespace().run(move || std::net::TcpStream::connect(address))??;
        stream.set_nonblocking(true)?;
        Ok(Self(TcpStream::from_std(stream)?))
    }

    /// Who answers.
    async fn say(&mut self) -> Result<String, Failed> {
        self.0.write_all(b"hello").await?;
        let mut answer = [0; 64];
        let length = self.0.read(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        Ok(answer.strip_suffix(": hello").unwrap_or(&answer).to_owned())
    }
}

/// An address that must be on the proxy's link all the while.
struct Watch<'a> {
    namespace: &'a NetNs,
    address: &'static str,
}

impl<'a> Watch<'a> {
    fn new(namespace: &'a NetNs, address: &'static str) -> Self {
        Self { namespace, address }
    }

    async fn during(&self, story: impl Future<Output = Outcome>) -> Outcome {
        let watch = async {
            loop {
                match link_addresses(self.namespace).await {
                    Ok(addresses) if addresses.contains(self.address) => {}
                    Ok(addresses) => return format!("{} is not among {addresses:?}", self.address),
                    Err(error) => return error.message().unwrap_or_default().to_owned(),
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            result = story => result,
            lack = watch => Err(lack.into()),
        }
    }
}

/// A namespace with the addresses of the frame's node.
async fn node_namespace() -> Result<NetNs, Failed> {
    let namespace = fresh_namespace().await?;
    let links = Links::connect(&namespace)?;
    for (name, addresses) in [
        ("eth0", ["192.0.2.11/24", "2001:db8:77::11/64"]),
        ("cni0", ["10.42.1.1/24", "fd42:1::1/64"]),
    ] {
        let link = links.create_dummy(name).await?.link;
        links.up(&link).await?;
        for address in addresses {
            links.add_address(&link, address.parse::<Address>()?.nodad()).await?;
        }
    }
    Ok(namespace)
}

/// Runs the proxy while a story goes on.
async fn with_proxy(
    namespace: &NetNs,
    directory: &TempDir,
    words: &[&str],
    story: impl Future<Output = Outcome>,
) -> Outcome {
    let mut proxy = Proxy::new(source(directory)?, config(words)?, namespace).await?;
    tokio::select! {
        result = story => result,
        ended = proxy.run(std::future::pending()) => Err(format!("the proxy ended: {ended:?}").into()),
    }
}

fn config(words: &[&str]) -> Result<Config, Failed> {
    let own = [
        "lvs-kube-proxy",
        "--hostname-override=node-a",
        "--healthz-bind-address=",
        "--metrics-bind-address=",
    ];
    let given = |name: &str| words.iter().any(|word| word.starts_with(name));
    let own = own.into_iter().filter(|word| !word.ends_with('=') || !given(word));
    Ok(Config::from_command_line(own.chain(words.iter().copied()))?)
}

fn source(directory: &TempDir) -> Result<Directory, Failed> {
    Ok(Directory::open(directory.path())?)
}

async fn lines(client: &Client) -> Result<Vec<String>, Failed> {
    let desired = Desired::try_from(&client.snapshot().await?)?;
    Ok(table_lines(desired.iter()))
}

/// Waits until the table is so.
async fn until(client: &Client, expected: &[&str]) -> Outcome {
    let begin = Instant::now();
    loop {
        let found = lines(client).await?;
        if found == expected {
            return Ok(());
        }
        if begin.elapsed() > LIMIT {
            return Err(format!("the table is {found:#?}, not {expected:#?}").into());
        }
        sleep(Duration::from_millis(10)).await;
    }
}

async fn link_addresses(namespace: &NetNs) -> Result<BTreeSet<String>, Failed> {
    let links = Links::connect(namespace)?;
    let Some(link) = links.find(LINK).await? else { return Ok(BTreeSet::new()) };
    let addresses = links.addresses(&link).await?;
    let own = addresses.iter().map(|address| address.ip().to_string());
    Ok(own.filter(|address| !address.starts_with("fe80")).collect())
}

/// Waits until the proxy's link has no address.
async fn gone(namespace: &NetNs) -> Outcome {
    let begin = Instant::now();
    while !link_addresses(namespace).await?.is_empty() {
        assert!(begin.elapsed() < LIMIT, "{:?}", link_addresses(namespace).await?);
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn raw_get(namespace: &NetNs, address: SocketAddr, path: &str) -> Result<String, Failed> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    let stream = namespace.run(move || std::net::TcpStream::connect(address))??;
    stream.set_nonblocking(true)?;
    let mut stream = TcpStream::from_std(stream)?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    timeout(LIMIT, stream.read_to_string(&mut answer)).await??;
    Ok(answer)
}

/// Moves a file into the directory, whole.
fn write(directory: &TempDir, name: &str, text: &str) -> Result<(), Failed> {
    let part: &Path = &directory.path().join(format!("{name}.part"));
    fs::write(part, text)?;
    Ok(fs::rename(part, directory.path().join(name))?)
}

fn service(name: &str, spec: &str) -> String {
    format!("---\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}

/// Endpoints by address and what else is to be said of each.
fn slice(owner: &str, port: u16, endpoints: &[(&str, &str)]) -> String {
    let endpoints: String = endpoints
        .iter()
        .map(|(address, more)| {
            let more = if more.is_empty() { String::new() } else { format!(", {more}") };
            format!("- {{addresses: [{address}]{more}}}\n")
        })
        .collect();
    format!(
        "---\nkind: EndpointSlice\n\
         metadata: {{name: {owner}-1, labels: {{kubernetes.io/service-name: {owner}}}}}\n\
         addressType: IPv4\nports: [{{name: '', port: {port}}}]\nendpoints:\n{endpoints}"
    )
}
