//! The node around the table: its addresses, routes and Node, and the proxy's requests at rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use ipvs_client::Client;
use kernel_tests::{Outcome, block_on, needing};
use libtest_mimic::{Failed, Trial};
use lvs::VirtualService;
use lvs_kube_proxy::{LINK, clean_up};
use netns_link::{Address, Links, NetNs};
use tempfile::TempDir;
use testbed::{Family, tcp_exchange};
use tokio::time::sleep;

use super::{
    Node, client_cases, config, has_nft, link_addresses, raw_get, service, slice, until,
    with_proxy, write,
};
use crate::scene::LIMIT;

pub(super) fn cases() -> Vec<Trial> {
    let mut cases = client_cases![node_moves, ranges_that_are_not_ours, at_rest];
    for (family, suffix) in [(Family::Ipv4, "ipv4"), (Family::Ipv6, "ipv6")] {
        let name = format!("kube_proxy_source_of_the_node_{suffix}");
        let case = Trial::test(name, move || block_on(source_of_the_node(family)));
        cases.push(needing(&[("ip", "iproute2")], case));
    }
    cases
}

/// The Node gets another address while the proxy runs: kube-proxy exits and must be restarted. This proxy
/// uses the address at once: as the source of the node's own connections, and for node ports.
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
    // Meanwhile no timer runs.
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

/// Excluded services and addresses are left alone, even in a service range. A range
/// that contains one of the node's addresses gets no local route.
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

/// The source of the node's own connections to a service is an address of the node, so that pods without a
/// route to the service's address can answer. This holds at cluster and load-balancer addresses,
/// however they are made local, and without nftables (User-Mode Linux has none).
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
    // It knows only its own network.
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
                // A port without a service refuses at once.
                let nobody = SocketAddr::new(place.ip(), 8);
                let begin = Instant::now();
                assert!(tcp_exchange(here, nobody, "hello", LIMIT).await.is_err());
                assert!(begin.elapsed() < Duration::from_secs(2));
            }
            // The load balancer's address goes, and comes back in a separate event.
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
        // A second proxy, in the other mode, takes over from this one; the last one leaves nothing behind.
        if mode == "addresses" {
            let state = format!("--vip-mode={mode}");
            clean_up(&config(&[words[0], &state])?, here).await?;
            assert_eq!(shown("lo").await?, "");
        }
    }
    Ok(())
}

/// At rest a full run requests one link, one list of addresses, one of routes, and the table; it starts
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
        "--ipvs-sync-period=500ms",
        &state_dir,
    ];
    testbed::run(&namespace, "iproute2", &["ip", "link", "set", "lo", "up"])?;
    let has_nft = has_nft(&namespace);
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
        let runs = "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}";
        let begin = Instant::now();
        // Metrics that are read in the middle of a run hold its requests, but not the run. Between
        // two runs both stand still.
        let between_runs = async || -> Result<BTreeMap<String, f64>, Failed> {
            let mut last = metrics().await?;
            loop {
                sleep(Duration::from_millis(150)).await;
                let now = metrics().await?;
                let counts = |name: &str| name == runs || name.starts_with("requests_total");
                if now
                    .iter()
                    .filter(|(name, _)| counts(name))
                    .all(|(name, n)| last.get(name) == Some(n))
                {
                    return Ok(now);
                }
                assert!(begin.elapsed() < LIMIT, "runs without a pause");
                last = now;
            }
        };
        sleep(Duration::from_millis(300)).await;
        let (before, children) = (between_runs().await?, ended_children()?);
        let (after, children_after) = loop {
            sleep(Duration::from_millis(200)).await;
            let (after, children) = (between_runs().await?, ended_children()?);
            if after[runs] - before[runs] >= 3.0 {
                break (after, children);
            }
            assert!(begin.elapsed() < LIMIT, "fewer than 3 runs");
        };
        let runs = after[runs] - before[runs];
        let asked: BTreeMap<_, _> = after
            .iter()
            .filter_map(|(name, count)| {
                let name = name.strip_prefix("requests_total{request=\"")?.strip_suffix("\"}")?;
                let before = before.get(&format!("requests_total{{request=\"{name}\"}}"));
                let count = count - before.copied().unwrap_or_default();
                (count > 0.0).then_some((name, count / runs))
            })
            .collect();
        let mut once =
            BTreeMap::from(["addresses", "links", "routes", "snapshots"].map(|name| (name, 1.0)));
        // Where nftables cannot be used they are looked for again.
        if !has_nft && asked.contains_key("processes") {
            once.insert("processes", 1.0);
        }
        assert_eq!(asked, once);
        let changes = |metrics: &BTreeMap<String, f64>| -> f64 {
            metrics.iter().filter(|(name, _)| name.starts_with("changes_")).map(|(_, n)| n).sum()
        };
        assert_eq!(changes(&before), changes(&after));
        assert!(children == children_after || !has_nft, "a process was started");
        Ok(())
    };
    with_proxy(&namespace, &directory, &words, story).await
}

/// Shows whether this process had a child that ended: the page faults of such children.
fn ended_children() -> Result<i64, Failed> {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN)?;
    Ok(usage.minor_page_faults())
}
