//! Endpoints that leave while they have connections.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use kernel_tests::{Outcome, needing};
use libtest_mimic::{Failed, Trial};
use tempfile::TempDir;
use testbed::{Container, Family, udp_exchange};
use tokio::time::{sleep, timeout};

use super::{
    NFT, Node, Talk, has_nft, lines, raw_get, service, slice, until, whole_cases, with_proxy, write,
};
use crate::scene::LIMIT;

pub(super) fn cases() -> Vec<Trial> {
    let mut cases = whole_cases![drain, drain_ends_with_the_pod];
    cases.extend(whole_cases![udp_by_mark].into_iter().map(|case| needing(NFT, case)));
    cases
}

/// Cases that need a packet filter.
pub(super) fn filter_cases() -> Vec<Trial> {
    let cases = whole_cases![udp_is_taken_away_at_once].into_iter();
    cases.map(|case| needing(&[("iptables", "iptables")], case)).collect()
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

        // It leaves, and its connection continues.
        write(&directory, "slice.yaml", &pods(&[(first, leaves), (second, "")]))?;
        until(client, &[&draining]).await?;
        assert_eq!(talk.say().await?, "pod1");
        // It comes back, with its connection, and is not deleted later.
        write(&directory, "slice.yaml", &pods(&[(first, ""), (second, "")]))?;
        until(client, &[&both]).await?;
        sleep(Duration::from_millis(2500)).await;
        until(client, &[&both]).await?;
        assert_eq!(talk.say().await?, "pod1");

        // It leaves for good: after the limit it is deleted, even with an open connection.
        let begin = Instant::now();
        write(&directory, "slice.yaml", &pods(&[(second, "")]))?;
        until(client, &[&draining]).await?;
        until(client, &[&other]).await?;
        assert!(begin.elapsed() >= Duration::from_secs(2), "{:?}", begin.elapsed());
        let answer = timeout(Duration::from_millis(500), talk.say()).await;
        assert!(!matches!(answer, Ok(Ok(_))), "{answer:?}");

        // One without a connection is deleted at the next check.
        write(&directory, "slice.yaml", &pods(&[(first, ""), (second, "")]))?;
        until(client, &[&both]).await?;
        write(&directory, "slice.yaml", &pods(&[(second, "")]))?;
        let begin = Instant::now();
        until(client, &[&other]).await?;
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());

        // A deleted service is removed at once, whatever the state of its real servers.
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

/// Without a configured limit, a real server drains until its pod has ended: until its endpoint, which
/// was terminating, is no longer in any slice.
async fn drain_ends_with_the_pod() -> Outcome {
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

        // An endpoint that is in no slice any more and was never terminating may still run.
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

/// Case 44, for UDP: the real server is deleted at once, and the next datagram from the same port goes
/// to another one.
async fn udp_is_taken_away_at_once() -> Outcome {
    let scene = Node::new(Family::Ipv4).await?;
    // Connections are tracked as soon as a rule requires it.
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
        // The client's entry in connection tracking, by the address of the answers.
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
        // Kernels since 5.9 forget them by themselves if this is 1.
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
        // With 0, as on older kernels, they do not.
        scene.host.namespace().run(|| fs::write(setting, "0"))??;
        write(&directory, "slice.yaml", &pods(&addresses[1..]))?;
        until(&scene.client, &[&line(addresses[1])]).await?;
        forgotten(addresses[0]).await?;
        scene.host.namespace().run(|| fs::write(setting, "1"))??;
        assert_eq!(ask().await?, "pod2: who");
        assert!(tracked(addresses[1]).await?);
        scene.host.namespace().run(|| fs::write(setting, "0"))??;
        // Deleting the service removes all its clients.
        fs::remove_file(directory.path().join("dns.yaml"))?;
        forgotten(addresses[1]).await?;
        Ok(())
    };
    with_proxy(scene.host.namespace(), &directory, &words, story).await
}

/// A UDP endpoint behind a firewall mark is deleted at once, too, and connection tracking forgets its clients.
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
        // As on kernels before 5.9, which do not expire such connections by themselves.
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
