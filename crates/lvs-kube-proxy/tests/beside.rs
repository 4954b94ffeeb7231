//! The program beside the original kube-proxy 1.20.2 in IPVS mode: one control plane, two nodes of the same
//! name and addresses, each a network namespace of one guest. After every step the tables and the
//! addresses of `kube-ipvs0` are the same, or differ as is said here.
//!
//! Beside what `cluster.rs` needs, the original needs the packages ipset, iptables and conntrack.
//!
//! ```sh
//! LVS_CLUSTER=1 cargo test -p lvs-kube-proxy --features kubernetes --test beside
//! LVS_CLUSTER=1 LVS_BESIDE_SERVICES=100,1000,5000,45000 cargo test --release …
//! ```
//!
//! The second takes numbers instead: what so many services cost each of the two. From 10,000 on the
//! original is left out.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod control_plane;

use std::{
    collections::BTreeSet,
    error::Error,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use control_plane::{ControlPlane, Room, lines};
use lvs::{
    Desired, Plan, Policy, VirtualService,
    client::{Client, Snapshot},
};
use lvs_kube_proxy::LINK;
use netns_link::{Address, Links, NetNs};
use serde_json::{Value, json};
use testbed::Process;
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};

/// For one step; everything is slow here.
const LIMIT: Duration = Duration::from_secs(60);
/// So long both tables must stay as they are before a step is over.
const SETTLED: Duration = Duration::from_millis(1500);
/// Where the API server is, on both nodes.
const API: &str = "127.0.0.1:6443";
/// Of the service of most steps.
const WEB: &str = "/api/v1/namespaces/default/services/web";
/// A service that changes with every step, and with it its slice: who has both has taken in the step.
const MARKER: &str = "10.0.0.200";

fn main() -> Result<(), Box<dyn Error>> {
    let numbers = std::env::var("LVS_BESIDE_SERVICES").unwrap_or_default();
    let numbers: Vec<u32> = match numbers.as_str() {
        "" => Vec::new(),
        text => text.split(',').map(str::parse).collect::<Result<_, _>>()?,
    };
    let room = match numbers.is_empty() {
        true => Room::default(),
        false => Room { memory: 8192, time_limit: Duration::from_secs(7200) },
    };
    control_plane::enter(room)?.map_or(Ok(()), |programs| run(programs, &numbers))
}

#[tokio::main(flavor = "current_thread")]
async fn run(programs: PathBuf, numbers: &[u32]) -> Result<(), Box<dyn Error>> {
    // One set of addresses, so that node ports are the same.
    let (own, original) = (node().await?, node().await?);
    relay(&original, &own)?;
    let cluster = ControlPlane::new(&own, programs);
    let mut scene = Scene::new(&own, &original, cluster)?;
    scene.cluster.script("start", &["10.0.0.0/16"]);
    scene.cluster.apply("apiVersion: v1\nkind: Node\nmetadata: {name: node1}\n");
    scene.cluster.patch(
        "/api/v1/nodes/node1/status",
        r#"{"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.11"}]}}"#,
    );
    match numbers {
        [] => scene.story().await?,
        numbers => {
            for number in numbers {
                scene.numbers(*number).await?;
            }
        }
    }
    scene.cluster.script("stop", &[]);
    println!("\n1 passed, 0 failed");
    Ok(())
}

async fn steps(scene: &mut Scene<'_>) -> Result<(), Box<dyn Error>> {
    let web = |more: Value| {
        let mut spec = json!({
            "clusterIP": "10.0.0.185",
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
        });
        let more = more.as_object().unwrap().clone();
        spec.as_object_mut().unwrap().extend(more);
        json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "web"}, "spec": spec})
    };
    let plain = web(json!({}));

    scene.post("services", &plain);
    scene.step("a service without endpoints", &[]).await?;
    scene.slice("web-1", &["172.17.0.3", "172.17.0.4"]);
    scene.step("two endpoints", &[]).await?;
    scene.slice("web-1", &["172.17.0.3", "172.17.0.4", "172.17.0.5"]);
    scene.step("one more", &[]).await?;
    scene.slice("web-1", &["172.17.0.3", "172.17.0.4", "172.17.0.5 not ready"]);
    scene.step("it is not ready", &[]).await?;
    scene.slice("web-1", &["172.17.0.3", "172.17.0.4", "172.17.0.5"]);
    scene.step("it is ready again", &[]).await?;
    scene.slice("web-1", &["172.17.0.3", "172.17.0.4"]);
    scene.step("it is gone", &[]).await?;
    scene.slice("web-2", &["172.17.0.4", "172.17.0.6"]);
    scene.step("a second slice, with one endpoint of the first", &[]).await?;
    scene.delete(&format!("{}/web-2", scene.slices_path()));
    scene.step("and without it", &[]).await?;

    let ports = |ports: Value| web(json!({"ports": ports}));
    let two = json!([{"name": "http", "port": 80}, {"name": "adm", "port": 9000}]);
    scene.replace(&ports(two));
    scene.step("a second port, which no slice has", &[]).await?;
    scene.replace(&ports(json!([{"name": "http", "port": 81}])));
    scene.step("another port number", &[]).await?;
    scene.replace(&ports(json!([{"name": "https", "port": 81}])));
    scene.step("a port name that no slice has", &[]).await?;
    let udp = json!([
        {"name": "http", "port": 80},
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "signal", "port": 2905, "protocol": "SCTP"},
    ]);
    scene.replace(&ports(udp));
    scene.step("TCP, UDP and SCTP", &[]).await?;
    scene.replace(&plain);
    scene.step("TCP alone", &[]).await?;

    let affinity = |seconds: u32| {
        web(json!({
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}},
        }))
    };
    scene.replace(&affinity(10_800));
    scene.step("affinity", &[]).await?;
    scene.replace(&affinity(7200));
    scene.step("another time-out", &[]).await?;
    scene.replace(&plain);
    scene.step("no affinity", &[]).await?;

    let node_port = |number: u16| {
        web(json!({
            "type": "NodePort",
            "ports": [{"name": "http", "port": 80, "nodePort": number}],
        }))
    };
    // Before 1.22 the original serves node ports at 127.0.0.1, too, where they cannot work (PR 101023).
    let loopback = "- -t 127.0.0.1:31080 rr 172.17.0.3:8080 172.17.0.4:8080";
    scene.replace(&node_port(31_080));
    scene.step("a node port", &[loopback]).await?;
    scene.replace(&node_port(31_081));
    scene.step("another one", &[&loopback.replace("31080", "31081")]).await?;

    let balanced = |policy: &str, more: Value| {
        let mut spec = json!({
            "type": "LoadBalancer",
            "externalTrafficPolicy": policy,
            "ports": [{"name": "http", "port": 80, "nodePort": 31_080}],
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        web(spec)
    };
    scene.replace(&balanced("Cluster", json!({})));
    scene.step("a load balancer without an address", &[loopback]).await?;
    scene.ingress(&["203.0.113.50"]);
    scene.step("its address", &[loopback]).await?;
    scene.ingress(&["203.0.113.51", "203.0.113.52"]);
    scene.step("two others", &[loopback]).await?;
    let ranges = json!({"loadBalancerSourceRanges": ["198.51.100.0/24"]});
    scene.replace(&balanced("Cluster", ranges));
    scene.step("source ranges, which are no matter of the table", &[loopback]).await?;
    scene.replace(&balanced("Local", json!({})));
    scene
        .step(
            // The endpoints have no node. The original has no fall-back before 1.22 (PR 97081): from
            // then on it does as ours does without nftables.
            "the external policy Local without an endpoint here",
            &[
                "- -t 127.0.0.1:31080 rr",
                "- -t 192.0.2.11:31080 rr",
                "+ -t 192.0.2.11:31080 rr 172.17.0.3:8080 172.17.0.4:8080",
                "- -t 203.0.113.51:80 rr",
                "+ -t 203.0.113.51:80 rr 172.17.0.3:8080 172.17.0.4:8080",
                "- -t 203.0.113.52:80 rr",
                "+ -t 203.0.113.52:80 rr 172.17.0.3:8080 172.17.0.4:8080",
            ],
        )
        .await?;
    scene.slice("web-1", &["172.17.0.3 here", "172.17.0.4"]);
    let here = "- -t 127.0.0.1:31080 rr 172.17.0.3:8080";
    scene.step("and with one", &[here]).await?;
    scene.replace(&plain);
    scene.ingress(&[]);
    scene.step("a plain service again", &[]).await?;

    scene.replace(&web(json!({"externalIPs": ["198.51.100.9", "192.0.2.11"]})));
    // Before 1.23 the original gives its link the node's own address once more (114815).
    let own = "- address 192.0.2.11";
    scene.step("external addresses, one of which is the node's", &[own]).await?;
    scene.replace(&plain);
    scene.step("and none", &[]).await?;

    scene.slice("web-1", &["172.17.0.3 terminating", "172.17.0.4 terminating"]);
    scene
        .step(
            // Since 1.26 the original, too, takes endpoints that serve and terminate for want of better.
            "all endpoints terminate and still serve",
            &["- -t 10.0.0.185:80 rr", "+ -t 10.0.0.185:80 rr 172.17.0.3:8080 172.17.0.4:8080"],
        )
        .await?;
    scene.slice("web-1", &["172.17.0.3", "172.17.0.4"]);
    scene.step("they are ready", &[]).await?;

    let mut labelled = plain.clone();
    labelled["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
    scene.replace(&labelled);
    scene.step("another proxy has the service", &[]).await?;
    scene.replace(&plain);
    scene.step("and gives it back", &[]).await?;

    let named = |name: &str, spec: Value| json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": name}, "spec": spec});
    scene.post(
        "services",
        &named("headless", json!({"clusterIP": "None", "ports": [{"port": 80}]})),
    );
    scene.post(
        "services",
        &named("external", json!({"type": "ExternalName", "externalName": "example.org"})),
    );
    scene.step("services without an address", &[]).await?;

    // A real server's weight is changed by hand, and a foreign service is there.
    scene.foreign().await?;
    scene
        .step(
            // The original deletes what it did not make; ours touches nothing of others.
            "a service that nobody of the cluster has made",
            &["+ -t 198.18.0.1:80 rr 198.18.0.2:80"],
        )
        .await?;
    scene.post(
        "services",
        &named("second", json!({"clusterIP": "10.0.0.99", "ports": [{"port": 443}]})),
    );
    scene.step("a second service", &["+ -t 198.18.0.1:80 rr 198.18.0.2:80"]).await?;
    scene.delete("/api/v1/namespaces/default/services/second");
    scene.step("is deleted", &["+ -t 198.18.0.1:80 rr 198.18.0.2:80"]).await?;
    scene.not_foreign().await?;
    scene.step("the service of nobody is gone", &[]).await?;
    Ok(())
}

struct Scene<'n> {
    own: &'n NetNs,
    original: &'n NetNs,
    own_ipvs: Client,
    original_ipvs: Client,
    cluster: ControlPlane<'n>,
    /// Those that were made.
    slices: BTreeSet<&'static str>,
    steps: usize,
    differences: usize,
}

impl<'n> Scene<'n> {
    fn new(
        own: &'n NetNs,
        original: &'n NetNs,
        cluster: ControlPlane<'n>,
    ) -> Result<Self, Box<dyn Error>> {
        let own_ipvs = Client::connect_in(own)?;
        let original_ipvs = Client::connect_in(original)?;
        let slices = BTreeSet::new();
        Ok(Self {
            own,
            original,
            own_ipvs,
            original_ipvs,
            cluster,
            slices,
            steps: 0,
            differences: 0,
        })
    }

    /// Both from the beginning, through all steps, and started once more.
    async fn story(&mut self) -> Result<(), Box<dyn Error>> {
        let mut proxies = (self.own_proxy("addresses")?, self.original_proxy()?);
        self.step("both start", &[]).await?;
        steps(self).await?;

        println!("\n== both are killed, a service changes, and both start again");
        drop(proxies);
        self.slice("web-1", &["172.17.0.3", "172.17.0.7"]);
        proxies = (self.own_proxy("addresses")?, self.original_proxy()?);
        // Nobody has connections, so the real server that left is gone on both.
        self.step("started again", &[]).await?;
        drop(proxies);
        println!("\n{} steps, {} with differences, each as expected", self.steps, self.differences);
        Ok(())
    }

    fn own_proxy(&self, vip_mode: &str) -> Result<Process, Box<dyn Error>> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lvs-kube-proxy"));
        command.args(["--hostname-override=node1", "--external-ips", "--vip-mode", vip_mode]);
        command.args([
            "--service-cluster-ip-range=10.0.0.0/16",
            "--drain-limit=600s",
            "--hold=0",
            "--serve-without-source-ranges",
        ]);
        command.arg("--state-dir").arg(self.cluster.path(""));
        command.arg("--kubeconfig").arg(self.cluster.path("proxy.kubeconfig"));
        self.start(self.own, "own.log", command)
    }

    fn original_proxy(&self) -> Result<Process, Box<dyn Error>> {
        let mut command = Command::new(self.cluster.program("kube-proxy"));
        // User-Mode Linux has the old tables only.
        let tools = self.cluster.path("tools");
        if !tools.is_dir() {
            fs::create_dir(&tools)?;
            let legacy = testbed::program("xtables-legacy-multi", "iptables")?;
            for family in ["iptables", "ip6tables"] {
                for part in ["", "-save", "-restore"] {
                    symlink(&legacy, tools.join(format!("{family}{part}")))?;
                }
            }
        }
        let path = format!("{}:/usr/sbin:/sbin:/usr/bin:/bin", tools.display());
        command.env("PATH", path);
        command.args(["--proxy-mode=ipvs", "--ipvs-scheduler=rr", "--hostname-override=node1"]);
        command.args(["--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0"]);
        command.args(["--conntrack-tcp-timeout-close-wait=0", "--cluster-cidr=172.17.0.0/16"]);
        command.arg("--v=2");
        if self.cluster.minor <= 20 {
            command.arg("--feature-gates=EndpointSliceTerminatingCondition=true");
        }
        command.arg("--kubeconfig").arg(self.cluster.path("proxy.kubeconfig"));
        self.start(self.original, "original.log", command)
    }

    fn start(
        &self,
        namespace: &NetNs,
        log: &str,
        mut command: Command,
    ) -> Result<Process, Box<dyn Error>> {
        let log = File::options().create(true).append(true).open(self.cluster.path(log))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Process::start(namespace, &mut command)?)
    }

    /// Waits until both sides have come to rest and differ as expected: `-` is what the original alone
    /// has, `+` what ours alone has.
    async fn step(&mut self, what: &str, expected: &[&str]) -> Result<(), Box<dyn Error>> {
        self.steps += 1;
        self.differences += usize::from(!expected.is_empty());
        let expected: BTreeSet<String> = expected.iter().map(|line| (*line).to_owned()).collect();
        let marker = self.mark();
        let begin = Instant::now();
        let (mut before, mut since) = (None, Instant::now());
        loop {
            let own = self.side(self.own, &self.own_ipvs).await?;
            let original = self.side(self.original, &self.original_ipvs).await?;
            let mut differences: BTreeSet<_> =
                own.difference(&original).map(|line| format!("+ {line}")).collect();
            differences.extend(original.difference(&own).map(|line| format!("- {line}")));
            let both = Some((own, original));
            if both != before {
                (before, since) = (both, Instant::now());
            }
            let have_it = before
                .as_ref()
                .is_some_and(|(own, original)| own.contains(&marker) && original.contains(&marker));
            if have_it && differences == expected && since.elapsed() > SETTLED {
                let (own, _) = before.as_ref().unwrap();
                let own: Vec<_> = own.iter().filter(|line| !line.contains(MARKER)).collect();
                let number = self.steps;
                println!("{number:>2} {what} ({:.1} s): {own:?}", begin.elapsed().as_secs_f64());
                differences.iter().for_each(|line| println!("     {line}"));
                return Ok(());
            }
            if begin.elapsed() > LIMIT {
                for log in ["own.log", "original.log"] {
                    let text = fs::read_to_string(self.cluster.path(log))?;
                    let lines: Vec<_> = text.lines().collect();
                    println!("{log}:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
                }
                let text = format!("{what}: {differences:#?}, not {expected:#?}: {before:#?}");
                return Err(text.into());
            }
            sleep(Duration::from_millis(300)).await;
        }
    }

    /// Table and addresses.
    async fn side(
        &self,
        namespace: &NetNs,
        ipvs: &Client,
    ) -> Result<BTreeSet<String>, Box<dyn Error>> {
        let mut side: BTreeSet<_> = lines(ipvs).await?.into_iter().collect();
        let links = Links::connect(namespace)?;
        if let Some(link) = links.find(LINK).await? {
            let addresses = links.addresses(&link).await?;
            side.extend(addresses.iter().map(|address| format!("address {}", address.ip())));
        }
        Ok(side)
    }

    /// The collection of slices.
    fn slices_path(&self) -> String {
        format!("/apis/{}/namespaces/default/endpointslices", self.cluster.slices())
    }

    /// Changes the marker, and returns the line of a table that has taken in both changes.
    fn mark(&mut self) -> String {
        let (port, endpoint) = (1000 + self.steps, format!("172.17.9.{}", self.steps));
        let spec = json!({
            "clusterIP": MARKER, "ports": [{"name": "http", "port": port, "targetPort": 8080}],
        });
        match self.steps {
            1 => {
                let metadata = json!({"name": "marker"});
                let kind = json!({"kind": "Service", "apiVersion": "v1", "metadata": metadata, "spec": spec});
                self.post("services", &kind);
            }
            _ => {
                let patch =
                    json!([{"op": "replace", "path": "/spec/ports", "value": spec["ports"]}]);
                let path = "/api/v1/namespaces/default/services/marker";
                self.cluster.send("PATCH", path, "json-patch+json", &patch.to_string());
            }
        }
        self.slice_of("marker-1", "marker", &[&endpoint]);
        format!("-t {MARKER}:{port} rr {endpoint}:8080")
    }

    fn post(&self, kind: &str, object: &Value) {
        let path = format!("/api/v1/namespaces/default/{kind}");
        self.cluster.send("POST", &path, "json", &object.to_string());
    }

    /// The service `web` as it is to be from now on.
    fn replace(&self, object: &Value) {
        let labels = object["metadata"]["labels"].as_object().cloned().unwrap_or_default();
        let patch = json!([
            {"op": "replace", "path": "/spec", "value": object["spec"]},
            {"op": "add", "path": "/metadata/labels", "value": labels},
        ]);
        self.cluster.send("PATCH", WEB, "json-patch+json", &patch.to_string());
    }

    fn delete(&mut self, path: &str) {
        self.slices.retain(|name| !path.ends_with(name));
        self.cluster.send("DELETE", path, "json", "");
    }

    /// The addresses of the load balancer of the service `web`.
    fn ingress(&self, addresses: &[&str]) {
        let ingress: Vec<_> = addresses.iter().map(|address| json!({"ip": address})).collect();
        let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
        self.cluster.send(
            "PATCH",
            &format!("{WEB}/status"),
            "merge-patch+json",
            &status.to_string(),
        );
    }

    /// A slice of the service `web`. After an address may stand what it is not, or where.
    fn slice(&mut self, name: &'static str, endpoints: &[&str]) {
        self.slice_of(name, "web", endpoints);
    }

    fn slice_of(&mut self, name: &'static str, service: &str, endpoints: &[&str]) {
        let slice = slice(self.cluster.slices(), name, service, endpoints);
        let path = self.slices_path();
        if self.slices.insert(name) {
            return self.cluster.send("POST", &path, "json", &slice.to_string());
        }
        let patch = json!([{"op": "replace", "path": "/endpoints", "value": slice["endpoints"]}]);
        let path = format!("{path}/{name}");
        self.cluster.send("PATCH", &path, "json-patch+json", &patch.to_string());
    }

    /// A service that an administrator has made on both nodes.
    async fn foreign(&self) -> Result<(), Box<dyn Error>> {
        for ipvs in [&self.own_ipvs, &self.original_ipvs] {
            let server = lvs::RealServer::nat("198.18.0.2:80".parse()?);
            let service = VirtualService::tcp("198.18.0.1:80".parse()?).scheduler("rr");
            service.real_server(server).build()?.apply(ipvs).await?;
        }
        Ok(())
    }

    async fn not_foreign(&self) -> Result<(), Box<dyn Error>> {
        Ok(self.own_ipvs.delete_service(&"-t 198.18.0.1:80".parse()?).await?)
    }

    /// What a number of services costs each of the two, one after the other.
    async fn numbers(&mut self, number: u32) -> Result<(), Box<dyn Error>> {
        println!("\n== {number} services with two endpoints each, from the API server");
        let begin = Instant::now();
        self.fill(number);
        println!("put into etcd: {:.1} s", begin.elapsed().as_secs_f64());
        let (list, bytes) = self.cluster.list();
        println!("both lists, by curl: {:.2} s, {bytes} bytes", list.as_secs_f64());
        println!(
            "{:>10} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9} {:>8}",
            "", "start s", "CPU s", "added s", "gone s", "run s", "CPU s/min", "peak MB"
        );
        for is_own in [true, false] {
            if !is_own && number >= 10_000 {
                continue;
            }
            let (namespace, ipvs, name) = match is_own {
                true => (self.own, &self.own_ipvs, "own"),
                false => (self.original, &self.original_ipvs, "kube-proxy"),
            };
            ipvs.flush().await?;
            Links::connect(namespace)?.delete_dummy(LINK).await?;
            let begin = Instant::now();
            let proxy = if is_own { self.own_proxy("routes")? } else { self.original_proxy()? };
            self.wait_for_table(ipvs, number).await?;
            let (start, start_cpu) = (begin.elapsed(), cpu_seconds(proxy.pid())?);
            if is_own {
                let batch = bare_batch(ipvs).await?;
                println!(
                    "the same table in one batch: {:.2} s; the start is {:.2} times lists and batch",
                    batch.as_secs_f64(),
                    start.as_secs_f64() / (list + batch).as_secs_f64()
                );
            }
            come_to_rest(proxy.pid()).await?;
            let settled = begin.elapsed();
            let mut events = Vec::new();
            let key = "-t 10.0.1.1:80".parse()?;
            let two = ["172.18.0.1", "172.18.0.2"];
            let three = [two[0], two[1], "172.18.0.3"];
            for endpoints in [&three[..], &two[..]] {
                let begin = Instant::now();
                let slice = slice(self.cluster.slices(), "many-1-1", "many-1", endpoints);
                self.cluster.etcd_put(&slice_key("many-1-1"), &slice);
                loop {
                    let servers = ipvs.destinations(&key).await?.all()?;
                    let wanted =
                        servers.iter().filter(|server| server.destination.weight.get() > 0);
                    if wanted.count() == endpoints.len() {
                        break;
                    }
                    assert!(begin.elapsed() < Duration::from_secs(300), "the event does not come");
                    sleep(Duration::from_millis(5)).await;
                }
                events.push(begin.elapsed().as_secs_f64());
                come_to_rest(proxy.pid()).await?;
            }
            let (cpu, runs) = (cpu_seconds(proxy.pid())?, run_seconds(namespace)?);
            sleep(Duration::from_secs(60)).await;
            let (cpu_after, runs_after) = (cpu_seconds(proxy.pid())?, run_seconds(namespace)?);
            let status = fs::read_to_string(format!("/proc/{}/status", proxy.pid()))?;
            let peak =
                status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
            let peak: u64 = peak.trim().trim_end_matches(" kB").parse()?;
            println!(
                "{name:>10} {:>8.2} {:>8.2} {:>8.3} {:>8.3} {:>8.3} {:>9.2} {:>8}   at rest after {:.0} s",
                start.as_secs_f64(),
                start_cpu,
                events[0],
                events[1],
                (runs_after.0 - runs.0) / (runs_after.1 - runs.1),
                cpu_after - cpu,
                peak / 1024,
                settled.as_secs_f64(),
            );
        }
        Ok(())
    }

    /// Until all services that were filled in are there with their real servers.
    async fn wait_for_table(&self, ipvs: &Client, number: u32) -> Result<(), Box<dyn Error>> {
        let begin = Instant::now();
        loop {
            if ipvs.services().await?.len() >= number as usize {
                let table = ipvs.snapshot().await?;
                let servers: usize =
                    table.services.values().map(|service| service.destinations.len()).sum();
                if servers >= 2 * number as usize {
                    return Ok(());
                }
            }
            assert!(begin.elapsed() < Duration::from_secs(900), "the table is not whole");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Puts services straight into etcd, which takes seconds, not minutes, for thousands.
    fn fill(&self, number: u32) {
        for chunk in (0..number).collect::<Vec<_>>().chunks(50) {
            let mut puts = Vec::new();
            for service in chunk {
                let ip = Ipv4Addr::from(0x0a00_0100 + service);
                let name = format!("many-{service}");
                let object = json!({
                    "kind": "Service", "apiVersion": "v1",
                    "metadata": {"name": name, "namespace": "default", "uid": uid(*service)},
                    "spec": {
                        "clusterIP": ip, "clusterIPs": [ip], "type": "ClusterIP",
                        "sessionAffinity": "None",
                        "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
                    },
                });
                puts.push((format!("/registry/services/specs/default/{name}"), object));
                let slice = slice(
                    self.cluster.slices(),
                    &format!("{name}-1"),
                    &name,
                    &["172.18.0.1", "172.18.0.2"],
                );
                puts.push((slice_key(&format!("{name}-1")), slice));
            }
            self.cluster.etcd_put_all(&puts);
        }
    }
}

impl ControlPlane<'_> {
    /// How long it takes to transfer what a proxy asks for, and how much that is.
    fn list(&self) -> (Duration, u64) {
        let key = |name: &str| self.path("keys").join(name);
        let mut command = Command::new("curl");
        command.args(["-sSf", "-w", "%{size_download}\\n", "-o", "/dev/null"]);
        command.arg("--cacert").arg(key("ca.crt"));
        command.arg("--cert").arg(key("proxy.crt")).arg("--key").arg(key("proxy.key"));
        command.arg(format!("https://{API}/api/v1/services"));
        command.args(["-o", "/dev/null"]);
        command.arg(format!("https://{API}/apis/{}/endpointslices", self.slices()));
        let begin = Instant::now();
        let sizes = self.output(&mut command);
        (begin.elapsed(), sizes.lines().filter_map(|size| size.parse::<u64>().ok()).sum())
    }
}

fn slice_key(name: &str) -> String {
    format!("/registry/endpointslices/default/{name}")
}

fn uid(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

fn slice(version: &str, name: &str, service: &str, endpoints: &[&str]) -> Value {
    let names_topology = version.ends_with("v1beta1");
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|text| {
            let (address, more) = text.split_once(' ').unwrap_or((text, ""));
            let (ready, terminating) = (more != "not ready", more == "terminating");
            let mut endpoint = json!({
                "addresses": [address],
                "conditions": {
                    "ready": ready && !terminating, "serving": ready, "terminating": terminating,
                },
            });
            match (more == "here", names_topology) {
                (true, true) => endpoint["topology"] = json!({"kubernetes.io/hostname": "node1"}),
                (true, false) => endpoint["nodeName"] = json!("node1"),
                (false, _) => {}
            }
            endpoint
        })
        .collect();
    let ports = [("http", "TCP", 8080), ("dns", "UDP", 5353), ("signal", "SCTP", 2905)];
    let ports = ports
        .map(|(name, protocol, port)| json!({"name": name, "protocol": protocol, "port": port}));
    json!({
        "kind": "EndpointSlice", "apiVersion": version,
        "metadata": {
            "name": name, "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    })
}

/// A node's namespace, with the modules that the original looks for.
async fn node() -> Result<NetNs, Box<dyn Error>> {
    let namespace = NetNs::new()?;
    let links = Links::connect(&namespace)?;
    let loopback = links.find("lo").await?.ok_or("there is no lo")?;
    links.up(&loopback).await?;
    let link = links.create_dummy("eth0").await?.link;
    links.up(&link).await?;
    links.add_address(&link, "192.0.2.11/24".parse::<Address>()?).await?;
    let ipvs = Client::connect_in(&namespace)?;
    for scheduler in ["rr", "wrr", "sh"] {
        VirtualService::tcp("192.0.2.1:1".parse()?)
            .scheduler(scheduler)
            .build()?
            .apply(&ipvs)
            .await?;
        ipvs.flush().await?;
    }
    testbed::iptables(&namespace, "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT")?;
    Ok(namespace)
}

/// Lets programs of one namespace reach the API server in another one.
fn relay(from: &NetNs, to: &NetNs) -> Result<(), Box<dyn Error>> {
    let address: SocketAddr = API.parse()?;
    let listener = from.run(move || std::net::TcpListener::bind(address))??;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let path =
        format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(to)));
    let to = NetNs::from_path(path)?;
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let far = to.run(move || std::net::TcpStream::connect(address));
            let Ok(Ok(far)) = far else { continue };
            if far.set_nonblocking(true).is_err() {
                continue;
            }
            let Ok(mut far) = TcpStream::from_std(far) else { continue };
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    Ok(())
}

/// How long the same table takes by bare requests, in a namespace of its own.
async fn bare_batch(ipvs: &Client) -> Result<Duration, Box<dyn Error>> {
    let table = Desired::try_from(&ipvs.snapshot().await?)?;
    let plan = Plan::new(&table, &Snapshot::new(), &Policy::new());
    let writes: Vec<_> = plan.requests().collect();
    // With an address, as IPv4 real servers need.
    let namespace = node().await?;
    let other = Client::connect_in(&namespace)?;
    let begin = Instant::now();
    for outcome in other.batch(&writes).await {
        outcome?;
    }
    let took = begin.elapsed();
    other.flush().await?;
    Ok(took)
}

/// Waits until a process has had next to nothing to do for a while.
async fn come_to_rest(pid: u32) -> Result<(), Box<dyn Error>> {
    let begin = Instant::now();
    let mut before = cpu_seconds(pid)?;
    loop {
        sleep(Duration::from_secs(10)).await;
        let now = cpu_seconds(pid)?;
        if now - before < 0.5 {
            return Ok(());
        }
        assert!(begin.elapsed() < Duration::from_secs(900), "no rest");
        before = now;
    }
}

/// How long all runs of a proxy took together, and how many there were.
fn run_seconds(namespace: &NetNs) -> Result<(f64, f64), Box<dyn Error>> {
    let url = "http://127.0.0.1:10249/metrics";
    let text = testbed::run(namespace, "curl", &["curl", "-sSf", url])?;
    let value = |name: &str| {
        let name = format!("kubeproxy_sync_proxy_rules_duration_seconds_{name}");
        // Both families say the same here; the kube-proxy of old has one line without a family.
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        let value = line.and_then(|line| line.rsplit_once(' '));
        value.and_then(|(_, value)| value.parse().ok()).ok_or(name)
    };
    Ok((value("sum")?, value("count")?))
}

/// The CPU time of a process and of those that it has waited for.
fn cpu_seconds(pid: u32) -> Result<f64, Box<dyn Error>> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))?;
    let fields = stat.rsplit_once(')').ok_or("no stat")?.1.split_whitespace();
    // utime, stime, cutime and cstime, in hundredths of a second.
    let ticks: f64 = fields.skip(11).take(4).filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks / 100.0)
}
