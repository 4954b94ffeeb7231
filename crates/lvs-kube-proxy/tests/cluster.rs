//! The program on a real Kubernetes 1.20.2, end to end: etcd, kube-apiserver,
//! kube-controller-manager and kubectl beside the walkthrough's docker host, all in one guest. There is
//! no kubelet and no scheduler: what they would say of pods is said here.
//!
//! It takes minutes to build them the first time (`cluster/build`), so it runs where `LVS_CLUSTER=1`
//! says so:
//!
//! ```sh
//! LVS_CLUSTER=1 cargo test -p lvs-kube-proxy --features kubernetes --test cluster
//! ```

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod control_plane;

use std::{
    collections::BTreeSet,
    error::Error,
    fs::{self, File},
    net::SocketAddr,
    ops::Deref,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use control_plane::{ControlPlane, Room, lines};
use examples::Conversation;
use lvs::client::Client;
use lvs_kube_proxy::LINK;
use netns_link::NetNs;
use testbed::{Container, DockerHost, Family, Process, http_get};
use tokio::time::sleep;

/// For one step; everything is slow here.
const LIMIT: Duration = Duration::from_secs(90);
/// The walkthrough's service.
const VIP: &str = "10.0.0.185";
/// The API server's own service, which is there from the beginning, and has no endpoint.
const API: &str = "-t 10.0.0.1:443 rr";

fn main() -> Result<(), Box<dyn Error>> {
    control_plane::enter(Room::default())?.map_or(Ok(()), story)
}

#[tokio::main(flavor = "current_thread")]
async fn story(programs: PathBuf) -> Result<(), Box<dyn Error>> {
    let host = DockerHost::new(Family::Ipv4).await?;
    host.forward()?;
    host.filter_bridge()?;
    let mut pods = Vec::new();
    let mut servers = Vec::new();
    for number in 1..=4 {
        let pod = host.container(&format!("pod{number}"), 2 + number).await?;
        servers.push((pod.serve_http(80)?, pod.serve_tcp(7)?));
        pods.push(pod);
    }
    let container = host.container("client", 9).await?;
    let ipvs = Client::connect_in(host.namespace())?;
    let cluster = ControlPlane::new(host.namespace(), programs);
    let scene = Scene { host: &host, ipvs, cluster, begin: Instant::now() };

    scene.say("the control plane starts");
    scene.script("start", &["10.0.0.0/16"]);
    scene.apply("apiVersion: v1\nkind: Node\nmetadata: {name: node1, labels: {topology.kubernetes.io/zone: z1}}\n");
    scene.patch(
        "/api/v1/nodes/node1/status",
        r#"{"status": {"addresses": [{"type": "InternalIP", "address": "172.17.0.1"}]}}"#,
    );

    scene.say("the proxy starts, and has no right to anything: it says so, and tries again");
    let mut proxy = scene.proxy()?;
    scene.until_logged("refuses services").await?;
    scene.until(&[]).await?;
    scene.say("the manifest gives it the least rights");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kube-proxy.yaml");
    println!("{}", scene.kubectl_words(&["apply", "-f", manifest.to_str().unwrap()]));
    scene.until(&[API]).await?;
    assert_eq!(scene.link_addresses()?, BTreeSet::new());

    scene.say("kubectl create deployment nginx --image=nginx --replicas=2");
    scene.kubectl("create deployment nginx --image=nginx --replicas=2");
    let mut names = scene.pods(2).await?;
    for (name, pod) in names.iter().zip(&pods) {
        scene.run_pod(name, pod, true);
    }
    scene.say("kubectl expose deployment nginx --port=80 --target-port=80");
    let overrides = format!(r#"--overrides={{"spec":{{"clusterIP":"{VIP}"}}}}"#);
    let words = ["expose", "deployment", "nginx", "--port=80", "--target-port=80", &overrides];
    scene.kubectl_words(&words);
    let web = format!("-t {VIP}:80 rr");
    let two = format!("{web} 172.17.0.3:80 172.17.0.4:80");
    scene.until(&[API, &two]).await?;
    println!("{}", scene.kubectl("get services"));
    println!("{}", scene.kubectl("get pods -o wide"));

    scene.say("the page, from a container and from the host");
    let address: SocketAddr = format!("{VIP}:80").parse()?;
    for from in [container.namespace(), host.namespace()] {
        let mut answered = BTreeSet::new();
        for _ in 0..4 {
            answered.insert(http_get(from, address, LIMIT).await?);
        }
        assert_eq!(answered.len(), 2, "{answered:?}");
    }

    scene.say("scaled up to three, and down again");
    scene.kubectl("scale deployment nginx --replicas=3");
    let all = scene.pods(3).await?;
    let third = all.iter().find(|name| !names.contains(name)).unwrap().clone();
    scene.run_pod(&third, &pods[2], true);
    scene.until(&[API, &format!("{two} 172.17.0.5:80")]).await?;
    scene.kubectl(&format!("annotate pod {third} controller.kubernetes.io/pod-deletion-cost=-1"));
    scene.kubectl("scale deployment nginx --replicas=2");
    // Nobody ends pods here but this.
    let left = scene.terminating().await?;
    scene.kubectl(&format!("delete pod {left} --grace-period=0 --force"));
    names = scene.pods(2).await?;
    let mut addresses = scene.addresses(&names);
    addresses.sort();
    scene.until(&[API, &format!("{web} {} {}", addresses[0], addresses[1])]).await?;

    scene.say("a pod is not ready, and ready again");
    let (first, pod) = scene.pod_of(&names[0], &pods);
    scene.run_pod(&first, pod, false);
    scene.until(&[API, &format!("{web} {}:80", scene.other(&names, &first))]).await?;
    scene.run_pod(&first, pod, true);
    scene.until(&[API, &format!("{web} {} {}", addresses[0], addresses[1])]).await?;

    scene.say("the port changes");
    scene.kubectl_words(&["patch", "service", "nginx", "--type=json", r#"--patch=[{"op": "replace", "path": "/spec/ports/0/port", "value": 7}, {"op": "replace", "path": "/spec/ports/0/targetPort", "value": 7}]"#]);
    let talk: Vec<_> = addresses.iter().map(|address| address.replace(":80", ":7")).collect();
    let talking = format!("-t {VIP}:7 rr {} {}", talk[0], talk[1]);
    scene.until(&[API, &talking]).await?;

    scene.say("a pod terminates with a live connection");
    let from = container.address();
    let mut conversation =
        Conversation::open(container.namespace(), from, format!("{VIP}:7").parse()?).await?;
    let busy = conversation.pod().await?;
    let busy_pod = pods.iter().find(|pod| pod.name() == busy).unwrap();
    let busy_name = scene.name_of(&names, busy_pod);
    scene.kubectl(&format!("delete pod {busy_name} --wait=false --grace-period=600"));
    let stays = scene.other(&names, &busy_name);
    scene.until_one_of(&talk, busy_pod, &stays).await?;
    assert_eq!(conversation.pod().await?, busy);

    scene.say("the proxy is killed, the connection lives, and a new proxy takes over");
    drop(proxy);
    scene.kubectl("annotate service nginx lvs-kube-proxy/scheduler=wlc");
    assert_eq!(conversation.pod().await?, busy);
    proxy = scene.proxy()?;
    scene.until_with("wlc", |line| line.contains("-t 10.0.0.185:7 wlc")).await?;
    assert_eq!(conversation.pod().await?, busy);
    drop(conversation);
    scene.kubectl("annotate service nginx lvs-kube-proxy/scheduler-");
    scene.kubectl(&format!("delete pod {busy_name} --grace-period=0 --force"));
    names = scene.pods(2).await?;
    let new = scene.without_address(&names);
    scene.run_pod(&new, &pods[3], true);
    let stays = scene.other(&names, &new);
    let mut line = [format!("{stays}:7"), "172.17.0.6:7".to_owned()];
    line.sort();
    scene.until(&[API, &format!("-t {VIP}:7 rr {} {}", line[0], line[1])]).await?;

    scene.say("affinity, then a node port");
    scene.kubectl_words(&[
        "patch",
        "service",
        "nginx",
        "-p",
        r#"{"spec": {"sessionAffinity": "ClientIP"}}"#,
    ]);
    let pair = format!("{} {}", line[0], line[1]);
    scene.until(&[API, &format!("-t {VIP}:7 rr persistent 10800 {pair}")]).await?;
    scene.kubectl_words(&["patch", "service", "nginx", "-p", r#"{"spec": {"sessionAffinity": "None", "type": "NodePort", "ports": [{"port": 7, "targetPort": 7, "nodePort": 31080}]}}"#]);
    let node_port = format!("-t 172.17.0.1:31080 rr {pair}");
    scene.until(&[API, &format!("-t {VIP}:7 rr {pair}"), &node_port]).await?;
    let node: SocketAddr = "172.17.0.1:31080".parse()?;
    let mut conversation = Conversation::open(container.namespace(), from, node).await?;
    assert!(pods.iter().any(|pod| pod.name() == "pod4"));
    conversation.pod().await?;
    drop(conversation);

    scene.say("the API server is killed: what is there stays, and changes come once it is back");
    scene.script("stop", &["apiserver"]);
    sleep(Duration::from_secs(3)).await;
    scene.until(&[API, &format!("-t {VIP}:7 rr {pair}"), &node_port]).await?;
    scene.say("a proxy that is started meanwhile takes nothing away");
    drop(proxy);
    proxy = scene.proxy()?;
    sleep(Duration::from_secs(3)).await;
    scene.until(&[API, &format!("-t {VIP}:7 rr {pair}"), &node_port]).await?;
    scene.script("start", &["apiserver"]);
    scene.kubectl("delete service nginx");
    scene.until(&[API]).await?;

    scene.say("a watch that begins where etcd has forgotten");
    let signal =
        |name: &str| output_of(Command::new("kill").args([name, &proxy.pid().to_string()]));
    // It must not hear of the change before it is forgotten.
    signal("-STOP");
    scene.apply("apiVersion: v1\nkind: Service\nmetadata: {name: late}\nspec: {clusterIP: 10.0.0.7, ports: [{port: 80}]}\n");
    scene.compact();
    scene.script("stop", &["apiserver"]);
    scene.script("start", &["apiserver"]);
    signal("-CONT");
    scene.until(&[API, "-t 10.0.0.7:80 rr"]).await?;

    scene.say("SIGTERM leaves the node as it is");
    signal("-TERM");
    sleep(Duration::from_secs(1)).await;
    scene.until(&[API, "-t 10.0.0.7:80 rr"]).await?;
    scene.clean_up();
    scene.until(&[]).await?;
    scene.script("stop", &[]);
    scene.say("done");
    println!("\n1 passed, 0 failed");
    Ok(())
}

struct Scene<'h> {
    host: &'h DockerHost,
    ipvs: Client,
    cluster: ControlPlane<'h>,
    begin: Instant,
}

impl<'h> Deref for Scene<'h> {
    type Target = ControlPlane<'h>;

    fn deref(&self) -> &ControlPlane<'h> {
        &self.cluster
    }
}

impl Scene<'_> {
    fn say(&self, text: &str) {
        println!("\n== {text} ({:.1} s)", self.begin.elapsed().as_secs_f64());
    }

    fn here(&self) -> &NetNs {
        self.host.namespace()
    }

    /// The names of the pods that are not ending, once there are so many.
    async fn pods(&self, count: usize) -> Result<Vec<String>, Box<dyn Error>> {
        let template = "--template={{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}} {{end}}{{end}}";
        let begin = Instant::now();
        loop {
            let text = self.kubectl_words(&["get", "pods", template]);
            let names: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
            if names.len() == count {
                return Ok(names);
            }
            if begin.elapsed() > LIMIT {
                return Err(format!("the pods are {names:?}, not {count}").into());
            }
            sleep(Duration::from_millis(300)).await;
        }
    }

    /// The pod that is ending.
    async fn terminating(&self) -> Result<String, Box<dyn Error>> {
        let template = "--template={{range .items}}{{if .metadata.deletionTimestamp}}{{.metadata.name}}{{end}}{{end}}";
        let begin = Instant::now();
        loop {
            let name = self.kubectl_words(&["get", "pods", template]);
            if !name.is_empty() {
                return Ok(name);
            }
            if begin.elapsed() > LIMIT {
                return Err("no pod is ending".into());
            }
            sleep(Duration::from_millis(300)).await;
        }
    }

    /// As a scheduler and a kubelet: the pod is on this node and has an address.
    fn run_pod(&self, name: &str, pod: &Container, ready: bool) {
        let place = format!("/api/v1/namespaces/default/pods/{name}");
        let node = self.kubectl_words(&["get", "pod", name, "--template={{.spec.nodeName}}"]);
        if node != "node1" {
            let body = format!(
                r#"{{"kind": "Binding", "apiVersion": "v1", "metadata": {{"name": "{name}"}}, "target": {{"kind": "Node", "name": "node1"}}}}"#
            );
            self.send("POST", &format!("{place}/binding"), "json", &body);
        }
        let (ip, ready) = (pod.address(), if ready { "True" } else { "False" });
        let body = format!(
            r#"{{"status": {{"phase": "Running", "podIP": "{ip}", "podIPs": [{{"ip": "{ip}"}}], "conditions": [{{"type": "Ready", "status": "{ready}"}}]}}}}"#
        );
        self.patch(&format!("{place}/status"), &body);
    }

    fn ip(&self, name: &str) -> String {
        self.kubectl_words(&["get", "pod", name, "--template={{or .status.podIP \"\"}}"])
    }

    fn addresses(&self, names: &[String]) -> Vec<String> {
        names.iter().map(|name| format!("{}:80", self.ip(name))).collect()
    }

    fn pod_of<'p>(&self, name: &str, pods: &'p [Container]) -> (String, &'p Container) {
        let ip = self.ip(name);
        let pod = pods.iter().find(|pod| pod.address().to_string() == ip);
        (name.to_owned(), pod.expect("the pod is one of ours"))
    }

    fn name_of(&self, names: &[String], pod: &Container) -> String {
        let ip = pod.address().to_string();
        names.iter().find(|name| self.ip(name) == ip).unwrap().clone()
    }

    /// The address of the other one of two pods.
    fn other(&self, names: &[String], name: &str) -> String {
        self.ip(names.iter().find(|other| *other != name).unwrap())
    }

    fn without_address(&self, names: &[String]) -> String {
        names.iter().find(|name| self.ip(name).is_empty()).unwrap().clone()
    }

    fn proxy(&self) -> Result<Process, Box<dyn Error>> {
        let log = File::options().create(true).append(true).open(self.path("proxy.log"))?;
        let mut command = self.our_program();
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Process::start(self.here(), &mut command)?)
    }

    fn our_program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lvs-kube-proxy"));
        command.arg("--kubeconfig").arg(self.path("account.kubeconfig"));
        command.arg("--state-dir").arg(self.path(""));
        command.args(["--hostname-override=node1", "--service-cluster-ip-range=10.0.0.0/16"]);
        // The guest may have no nftables.
        command.arg("--vip-mode=routes");
        command.args(["--drain-limit=600s", "--nodeport-addresses=172.17.0.0/16", "-v=4"]);
        command
    }

    fn clean_up(&self) {
        self.output(self.our_program().arg("--cleanup"));
    }

    /// Waits until the whole table is so, but for real servers that still drain.
    async fn until(&self, expected: &[&str]) -> Result<(), Box<dyn Error>> {
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        let without = |line: &String| {
            let words = line.split(' ').filter(|word| !word.ends_with("*0"));
            words.collect::<Vec<_>>().join(" ")
        };
        self.until_so(&format!("{expected:?}"), |lines| {
            lines.iter().map(without).collect::<Vec<_>>() == expected
        })
        .await
    }

    /// Waits until the proxy has logged such a line.
    async fn until_logged(&self, text: &str) -> Result<(), Box<dyn Error>> {
        let begin = Instant::now();
        loop {
            let log = fs::read_to_string(self.path("proxy.log"))?;
            if let Some(line) = log.lines().find(|line| line.contains(text)) {
                println!("{line}");
                return Ok(());
            }
            if begin.elapsed() > LIMIT {
                return Err(format!("nothing of {text:?} in the log: {log}").into());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn until_with(
        &self,
        what: &str,
        line: impl Fn(&str) -> bool,
    ) -> Result<(), Box<dyn Error>> {
        self.until_so(what, |lines| lines.iter().any(|found| line(found))).await
    }

    /// One pod drains, and the other one serves.
    async fn until_one_of(
        &self,
        talk: &[String],
        busy: &Container,
        stays: &str,
    ) -> Result<(), Box<dyn Error>> {
        let busy = format!("{}:7", busy.address());
        let servers: Vec<_> = talk
            .iter()
            .map(|server| if *server == busy { format!("{server}*0") } else { server.clone() })
            .collect();
        assert!(talk.contains(&format!("{stays}:7")));
        let line = format!("-t {VIP}:7 rr {} {}", servers[0], servers[1]);
        self.until_with(&line, |found| found == line).await
    }

    async fn until_so(
        &self,
        what: &str,
        is_so: impl Fn(&[String]) -> bool,
    ) -> Result<(), Box<dyn Error>> {
        let begin = Instant::now();
        loop {
            let lines = lines(&self.ipvs).await?;
            if is_so(&lines) {
                println!("{:.2} s: {lines:?}", begin.elapsed().as_secs_f64());
                return Ok(());
            }
            if begin.elapsed() > LIMIT {
                println!("{}", fs::read_to_string(self.path("proxy.log"))?);
                println!("{}", self.kubectl("get endpointslices -o yaml"));
                return Err(format!("the table is {lines:?}, not {what}").into());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The addresses of the proxy's link.
    fn link_addresses(&self) -> Result<BTreeSet<String>, Box<dyn Error>> {
        let text = testbed::run(self.here(), "iproute2", &["ip", "-o", "address"])?;
        let ours = text.lines().filter(|line| line.contains(LINK));
        Ok(ours.map(str::to_owned).collect())
    }
}

fn output_of(command: &mut Command) -> String {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}
