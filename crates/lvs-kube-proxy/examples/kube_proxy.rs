//! A Kubernetes service proxy at work: Services in, virtual services out.
//!
//! The walkthrough's docker host is a node of a cluster, of which there is nothing but a directory
//! with a Service and its EndpointSlice. The proxy follows it: the table appears, a pod is added, one
//! leaves under traffic, the Service is deleted.
//!
//! ```sh
//! cargo run --example kube_proxy
//! ```
//!
//! It needs neither root nor IPVS in the kernel: see the package `lvs-guest`. With the feature
//! `kubernetes` and `--kubeconfig` it is a proxy for the cluster of that file, on this machine.

use std::{
    error::Error,
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use clap::Parser;
use examples::{Conversation, WebServer, command, fetch, heading};
use lvs::{Table, client::Client};
use lvs_kube_proxy::{Config, Proxy, source::Directory};
use testbed::{Container, DockerHost, Family};

/// Long enough for every step; nothing waits for it when all goes well.
const LIMIT: Duration = Duration::from_secs(20);
/// Where the page is.
const WEB: &str = "10.0.0.185:80";
/// Where a pod answers whatever it is told, on one connection.
const TALK: &str = "10.0.0.185:7";

/// A service proxy for Kubernetes, told step by step on a directory of manifests.
#[derive(Parser)]
struct Arguments {
    /// A real proxy for the cluster of this kubeconfig, on this machine, instead of the story; it takes all
    /// options of the program lvs-kube-proxy
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<String>,
    /// Real nginx processes in the pods (needs the package nginx or nginx-light)
    #[arg(long)]
    nginx: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let is_real = |word: String| word == "--kubeconfig" || word.starts_with("--kubeconfig=");
    if std::env::args().any(is_real) {
        return real_proxy();
    }
    let arguments = examples::start();
    story(&arguments)
}

/// What the program does, with all its options.
#[tokio::main(flavor = "current_thread")]
async fn real_proxy() -> Result<(), Box<dyn Error>> {
    if cfg!(not(feature = "kubernetes")) {
        return Err("an API server needs the feature: cargo run --features kubernetes …".into());
    }
    let config = Config::from_command_line(std::env::args_os())?;
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).init();
    config.unused().iter().for_each(|text| tracing::warn!("{text}"));
    lvs_kube_proxy::run(config).await
}

#[tokio::main(flavor = "current_thread")]
async fn story(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    heading("A node: the walkthrough's docker host with two pods, and a client container");
    let host = DockerHost::new(Family::Ipv4).await?;
    host.forward()?;
    host.filter_bridge()?;
    let pods = [
        host.container("pod1", 3).await?,
        host.container("pod2", 4).await?,
        host.container("pod3", 5).await?,
    ];
    let container = host.container("client", 6).await?;
    let mut servers = Vec::new();
    for pod in &pods {
        servers.push((WebServer::start(pod, arguments.nginx).await?, pod.serve_tcp(7)?));
        println!("{} at {}", pod.name(), pod.address());
    }

    heading("What a cluster would say, in a directory");
    let directory = tempfile::TempDir::new()?;
    let write = |name: &str, text: &str| {
        // Moved there when it is whole, so that no half of it is ever read.
        let part = directory.path().join(format!("{name}.part"));
        fs::write(&part, text).and_then(|()| fs::rename(&part, directory.path().join(name)))
    };
    show("service.yaml", SERVICE);
    write("service.yaml", SERVICE)?;
    let slice = slice(&[(&pods[0], true), (&pods[1], true)]);
    show("slice.yaml", &slice);
    write("slice.yaml", &slice)?;

    heading("The proxy, on this node");
    let words = [
        "lvs-kube-proxy",
        "--hostname-override=node1",
        "--service-cluster-ip-range=10.0.0.0/16",
        "--vip-mode=routes",
        "--node-ip=172.17.0.1",
        "--drain-limit=3s",
        "--healthz-bind-address=172.17.0.1:10256",
        "--metrics-bind-address=",
    ];
    command(format_args!("{} --manifests=DIRECTORY", words.join(" ")));
    let config = Config::from_command_line(words)?;
    let source = Directory::open(directory.path())?;
    let mut proxy = Proxy::new(source, config, host.namespace()).await?;
    let ipvs = Client::connect_in(host.namespace())?;

    let told = async {
        let (web, talk): (SocketAddr, SocketAddr) = (WEB.parse()?, TALK.parse()?);
        until(&ipvs, |table| table.contains("172.17.0.4:80")).await?;
        println!(
            "10.0.0.0/16 is local to the node by one route, and no link has an address for it:"
        );
        command("ip route list table local proto 196");
        print!(
            "{}",
            testbed::run(
                host.namespace(),
                "iproute2",
                &["ip", "route", "list", "table", "local", "proto", "196"]
            )?
        );

        heading("The page, fetched from a container and from the node");
        fetch(testbed::Client::InProcess, container.namespace(), web, 4, &pods).await?;
        fetch(testbed::Client::InProcess, host.namespace(), web, 4, &pods).await?;

        heading("A pod is added");
        write("slice.yaml", &self::slice(&[(&pods[0], true), (&pods[1], true), (&pods[2], true)]))?;
        until(&ipvs, |table| table.contains("172.17.0.5:80")).await?;
        fetch(testbed::Client::InProcess, container.namespace(), web, 6, &pods).await?;

        heading("A pod with a connection leaves");
        let mut conversation =
            Conversation::open(container.namespace(), container.address(), talk).await?;
        let busy = conversation.pod().await?;
        println!("a client talks with {busy}, which begins to terminate");
        let states: Vec<_> = pods.iter().map(|pod| (pod, pod.name() != busy)).collect();
        write("slice.yaml", &self::slice(&states))?;
        let leaving = pods.iter().find(|pod| pod.name() == busy).ok_or("the pod is nobody")?;
        let line = format!("{}:7", leaving.address());
        until(&ipvs, |table| weight(table, &line) == Some(0)).await?;
        println!("the connection goes on: {} answers", conversation.pod().await?);
        let answers =
            fetch(testbed::Client::InProcess, container.namespace(), web, 6, &pods).await?;
        if answers.contains_key(&busy) {
            return Err("new connections went to a pod that leaves".into());
        }
        println!("after --drain-limit it is taken away, whoever still talks:");
        until(&ipvs, |table| weight(table, &line).is_none()).await?;
        drop(conversation);

        heading("The Service is deleted");
        command("rm service.yaml");
        fs::remove_file(directory.path().join("service.yaml"))?;
        until(&ipvs, |table| !table.contains("10.0.0.185")).await?;
        Ok::<(), Box<dyn Error>>(())
    };
    // When the story ends, so does the proxy, as by SIGTERM.
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let story = async {
        let result = told.await;
        let _ = stop.send(());
        result
    };
    let (story, proxy) = tokio::join!(story, proxy.run(async { drop(stopped.await) }));
    story?;
    Ok(proxy?)
}

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: nginx
spec:
  clusterIP: 10.0.0.185
  ports:
  - {name: http, port: 80}
  - {name: talk, port: 7}
";

/// The pods with whether they are ready; those that are not are terminating.
fn slice(pods: &[(&Container, bool)]) -> String {
    let endpoints: String = pods
        .iter()
        .map(|(pod, ready)| {
            let conditions = match ready {
                true => "ready: true",
                false => "ready: false, serving: true, terminating: true",
            };
            format!(
                "- {{addresses: [{}], nodeName: node1, conditions: {{{conditions}}}}}\n",
                pod.address()
            )
        })
        .collect();
    format!(
        "\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: nginx-1
  labels: {{kubernetes.io/service-name: nginx}}
addressType: IPv4
ports:
- {{name: http, port: 80}}
- {{name: talk, port: 7}}
endpoints:
{endpoints}"
    )
}

fn show(name: &str, text: &str) {
    command(format_args!("cat {}", Path::new(name).display()));
    print!("{text}");
}

/// Waits until the table is so, and shows it.
async fn until(ipvs: &Client, done: impl Fn(&str) -> bool) -> Result<(), Box<dyn Error>> {
    let begin = Instant::now();
    loop {
        let table = Table::read(ipvs).await?.to_string();
        if done(&table) {
            command("ipvsadm -L -n");
            print!("{table}");
            return Ok(());
        }
        if begin.elapsed() > LIMIT {
            return Err(format!("the table did not come to that:\n{table}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The weight of a real server in a table.
fn weight(table: &str, real_server: &str) -> Option<u32> {
    let line = table.lines().find(|line| line.contains(&format!("-> {real_server} ")))?;
    line.split_whitespace().nth(3)?.parse().ok()
}
