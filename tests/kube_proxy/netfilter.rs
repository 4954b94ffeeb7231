//! What nftables adds.

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use ipvs_client::Client;
use kernel_tests::{Outcome, needing};
use libtest_mimic::{Failed, Trial};
use lvs::VirtualService;
use lvs_kube_proxy::{LINK, Proxy, clean_up};
use netns_link::{Address, Links, NetNs};
use tempfile::TempDir;
use testbed::{Container, Family, tcp_exchange};
use tokio::time::sleep;

use super::{
    NFT, Node, client_cases, config, has_nft, lines, link_addresses, raw_get, service, slice,
    source, until, whole_cases, with_proxy, write,
};
use crate::scene::LIMIT;

pub(super) fn cases() -> Vec<Trial> {
    let mut cases = whole_cases![netfilter, policy_local_by_mark];
    cases.extend(client_cases![
        excluded_networks,
        no_service_before_its_rules,
        rules_changed_by_others,
        rules_outlive_their_proxy,
    ]);
    cases.into_iter().map(|case| needing(NFT, case)).collect()
}

/// On a kernel with nftables (User-Mode Linux has none): which clients are masqueraded, which are
/// let in, and what is unreachable at a service's address. Without nftables the rest still works.
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
    // It has no route to clients outside, like a pod on another node whose gateway is not this one.
    testbed::run(pod.namespace(), "iproute2", &["ip", "route", "del", "default"])?;
    testbed::run(
        pod.namespace(),
        "iproute2",
        &["ip", "route", "add", "10.96.0.0/12", "via", "172.17.0.1"],
    )?;
    // A pod on a bridge also needs this to reach itself; CNI's bridge calls it hairpinMode.
    let hairpin = ["ip", "link", "set", "veth3", "type", "bridge_slave", "hairpin", "on"];
    testbed::run(scene.host.namespace(), "iproute2", &hairpin)?;
    // Another program listens on the node.
    let other: SocketAddr = "0.0.0.0:9".parse()?;
    let _other = scene.host.namespace().run(move || std::net::TcpListener::bind(other))??;
    let words = [
        "--service-cluster-ip-range=10.96.0.0/12",
        "--node-ip=172.17.0.1",
        "--nodeport-addresses=192.168.50.0/24,172.17.0.0/16",
    ];
    const NO_ANSWER_WAIT: Duration = Duration::from_millis(700);
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
        // Without their rules the last two would serve everybody.
        let count = if has_nft { 6 } else { 4 };
        until(&scene.client, &lines.each_ref().map(String::as_str)[..count]).await?;
        let get = async |from: &Container, place: &str| -> bool {
            let address = place.parse().expect("it is an address");
            tcp_exchange(from.namespace(), address, "hello", NO_ANSWER_WAIT).await.is_ok()
        };
        // The cluster's own path works with and without nftables.
        assert!(get(&scene.container, "10.96.7.20:7").await);
        let node_port = get(&outside, "192.168.50.1:31080").await;
        let balanced = get(&outside, "203.0.113.50:7").await;
        let itself = get(pod, "10.96.7.20:7").await;
        let not_allowed = get(&scene.container, "203.0.113.50:7").await;
        let balancer = "203.0.113.50:7".parse()?;
        let node =
            tcp_exchange(scene.host.namespace(), balancer, "hello", NO_ANSWER_WAIT).await.is_ok();
        let listener = connects(&scene.container, "10.96.7.20:9").await?;
        let found = (node_port, balanced, itself, not_allowed, node, listener);
        match has_nft {
            true => assert_eq!(found, (true, true, true, false, false, false)),
            false => assert_eq!(found, (false, false, false, false, false, true)),
        }
        // Pods cannot be recognised, so nobody is masqueraded at cluster addresses.
        assert!(!get(&outside, "10.96.7.20:7").await);
        // Source ranges also apply to the node's own clients.
        let node = scene.host.namespace();
        for (place, is_let_in) in [("203.0.113.51:7", has_nft), ("203.0.113.50:7", false)] {
            let found = tcp_exchange(node, place.parse()?, "hello", NO_ANSWER_WAIT).await.is_ok();
            assert_eq!(found, is_let_in, "the node at {place}");
        }
        Ok(())
    };
    with_proxy(scene.host.namespace(), &directory, &words, story).await?;
    // Pods are behind the bridge, or behind links with such names.
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
                answers =
                    tcp_exchange(outside.namespace(), place, "hello", NO_ANSWER_WAIT).await.is_ok();
            }
            assert_eq!(answers, has_nft, "{mode}");
            assert!(
                tcp_exchange(scene.container.namespace(), place, "hello", NO_ANSWER_WAIT)
                    .await
                    .is_ok()
            );
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

/// A service with the policy Local without an endpoint here: with nftables, clients inside the cluster
/// reach endpoints of other nodes, and clients outside are refused. Without, all of them reach other nodes.
async fn policy_local_by_mark() -> Outcome {
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
                // The source of the node's own connections is the address itself, to which this pod has a route.
                assert!(answers(scene.container.namespace()).await);
            }
        }
        // An endpoint here serves every client.
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

/// Excluded networks hold services of other programs: their addresses stay on the link, and their packets
/// pass.
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
            // As long as several full runs.
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

/// If rules cannot be written, only new services that restrict their clients wait for them; the others
/// do not. The write is tried again soon.
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
        // The next write fails, since its sets do not exist.
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

/// The next full run notices what another program changes in the rules, even if the proxy writes some
/// in between; the proxy's own changes do not count as another's.
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

/// A restricted service that is no longer desired, and that the proxy may not delete, since it has no ledger:
/// after a restart it is still in the table, and so are its rules. nft lists what was written.
async fn rules_outlive_their_proxy(namespace: NetNs, client: Client) -> Outcome {
    if !has_nft(&namespace) {
        return Ok(());
    }
    let directory = TempDir::new()?;
    let spec = "type: LoadBalancer, clusterIP: 10.96.0.2, ports: [{port: 80}], \
                loadBalancerSourceRanges: [192.0.2.0/24, 192.0.3.1/32]";
    let lb = service("lb", spec) + "status: {loadBalancer: {ingress: [{ip: 203.0.113.50}]}}\n";
    write(&directory, "lb.yaml", &lb)?;
    testbed::run(&namespace, "iproute2", &["ip", "link", "set", "lo", "up"])?;
    let mut proxy = Proxy::new(source(&directory)?, config(&[])?, &namespace).await?;
    proxy.once().await?;
    assert_eq!(proxy.dry_run().await?, "");
    drop(proxy);
    fs::remove_file(directory.path().join("lb.yaml"))?;
    for _ in 0..2 {
        let mut proxy = Proxy::new(source(&directory)?, config(&[])?, &namespace).await?;
        proxy.once().await?;
        until(&client, &["TCP 10.96.0.2:80 rr ->", "TCP 203.0.113.50:80 rr ->"]).await?;
        let list = |set: &str| {
            let command = format!("list set inet lvs-kube-proxy {set}");
            testbed::run(&namespace, "nftables", &["nft", &command])
        };
        let (restricted, allowed) = (list("restricted-ip")?, list("allowed-ip-tcp")?);
        assert!(restricted.contains("203.0.113.50 . tcp . 80"), "{restricted}");
        assert!(allowed.contains("203.0.113.50 . 80 . 192.0.2.0/24"), "{allowed}");
        assert!(allowed.contains("203.0.113.50 . 80 . 192.0.3.1"), "{allowed}");
    }
    Ok(())
}

/// Whether a TCP connection succeeds.
async fn connects(from: &Container, address: &str) -> Result<bool, Failed> {
    let address: SocketAddr = address.parse()?;
    let limit = Duration::from_millis(700);
    let connect = move || std::net::TcpStream::connect_timeout(&address, limit).is_ok();
    Ok(from.namespace().run(connect)?)
}
