//! The service proxy for Kubernetes on a real kernel, from a directory of manifests: its table of
//! cases, and what happens over time. Tests that need no kernel use a fake node, beside the code.

mod drain;
mod health;
mod netfilter;
mod node;
mod restart;
mod table;

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use ipvs_client::Client;
use kernel_tests::{Outcome, fresh_namespace};
use libtest_mimic::{Failed, Trial};
use lvs::Desired;
use lvs_kube_proxy::{Config, LINK, Proxy, source::Directory};
use netns_link::{Address, Links, NetNs};
use tempfile::TempDir;
use testbed::{Container, DockerHost, Family};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{kube_proxy_table::table_lines, part::Part, scene::LIMIT};

/// What a case with nftables needs.
const NFT: &[(&str, &str)] = &[("ip", "iproute2"), ("nft", "nftables")];

pub(crate) const PARTS: &[Part] = restart::PARTS;

/// Cases by the names of their functions, each with a namespace and a client.
macro_rules! client_cases {
    ($($case:ident),* $(,)?) => {
        vec![$(kernel_tests::client_case(concat!("kube_proxy_", stringify!($case)), $case)),*]
    };
}

/// Cases by the names of their functions, which make what they need.
macro_rules! whole_cases {
    ($($case:ident),* $(,)?) => {
        vec![$(libtest_mimic::Trial::test(concat!("kube_proxy_", stringify!($case)), || {
            kernel_tests::block_on($case())
        })),*]
    };
}

use {client_cases, whole_cases};

/// Every case by its name.
pub(crate) fn cases() -> Vec<Trial> {
    let cases = [
        table::cases(),
        node::cases(),
        restart::cases(),
        health::cases(),
        drain::cases(),
        netfilter::cases(),
    ];
    cases.into_iter().flatten().collect()
}

/// Cases that need a packet filter.
pub(crate) fn filter_cases() -> Vec<Trial> {
    drain::filter_cases()
}

/// Whether nftables can filter both families; User-Mode Linux 5.10 has tables only. Leaves a table
/// `t` behind.
fn has_nft(namespace: &NetNs) -> bool {
    let nft = |words: &str| testbed::run(namespace, "nftables", &["nft", words]).is_ok();
    nft("add table inet t") && nft("add chain inet t c { type nat hook postrouting priority 0; }")
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

    /// Which pod answers.
    async fn say(&mut self) -> Result<String, Failed> {
        self.0.write_all(b"hello").await?;
        let mut answer = [0; 64];
        let length = self.0.read(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        Ok(answer.strip_suffix(": hello").unwrap_or(&answer).to_owned())
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

/// Runs the proxy while the test's steps run.
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
    // Kernels without nftables have no routes unless they are asked for.
    let has_routes = given("--service-cluster-ip-range") && !given("--vip-mode");
    let routes = has_routes.then_some("--vip-mode=routes");
    Ok(Config::from_command_line(own.chain(routes).chain(words.iter().copied()))?)
}

fn source(directory: &TempDir) -> Result<Directory, Failed> {
    Ok(Directory::open(directory.path())?)
}

async fn lines(client: &Client) -> Result<Vec<String>, Failed> {
    let desired = Desired::try_from(&client.snapshot().await?)?;
    Ok(table_lines(desired.iter()))
}

/// Waits until the table is as expected.
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

/// Moves a file into the directory, complete.
fn write(directory: &TempDir, name: &str, text: &str) -> Result<(), Failed> {
    let part: &Path = &directory.path().join(format!("{name}.part"));
    fs::write(part, text)?;
    Ok(fs::rename(part, directory.path().join(name))?)
}

fn service(name: &str, spec: &str) -> String {
    format!("---\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}

/// Endpoints by address, with the other fields of each.
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
