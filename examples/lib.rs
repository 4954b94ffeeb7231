//! What the examples share: how they start, how they tell their steps, and who answered.

use std::{collections::BTreeMap, error::Error, fmt, net::SocketAddr, time::Duration};

use lvs::{
    Change,
    client::packet::{Destination, ForwardMethod, SchedulerName},
};
use netns_link::NetNs;
use testbed::{Client, Container, Nginx, Server, page};

/// The programs in the README, which have to compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// How long a page may take. Nothing waits for it when all goes well.
const LIMIT: Duration = Duration::from_secs(10);

/// Reads the command line, and puts the example on a kernel that has IPVS.
pub fn start<Arguments: clap::Parser>() -> Arguments {
    // First of all: this program may have been started as the guest's init.
    guest::assume_role();
    let arguments = Arguments::parse();
    println!("Running on {}.", guest::enter_or_exit());
    arguments
}

/// A heading: what comes next, and why.
pub fn heading(text: &str) {
    println!("\n== {text}");
}

/// The command that the next step stands for.
pub fn command(line: impl fmt::Display) {
    println!("$ {line}");
}

/// The ipvsadm command that a change stands for.
pub fn ipvsadm(change: &Change) -> String {
    match change {
        Change::AddService(service) => {
            let scheduler = match service.scheduler {
                SchedulerName::WLC => String::new(),
                other => format!(" -s {other}"),
            };
            format!("ipvsadm -A {}{scheduler}", service.key())
        }
        Change::AddDestination(key, destination) => {
            format!("ipvsadm -a {key} {}", switches(destination))
        }
        Change::UpdateDestination(key, destination) => {
            format!("ipvsadm -e {key} {}", switches(destination))
        }
        Change::DeleteDestination(key, destination) => format!("ipvsadm -d {key} -r {destination}"),
        other => format!("# {other}"),
    }
}

fn switches(destination: &Destination) -> String {
    let method = match destination.forward {
        ForwardMethod::DIRECT_ROUTE => "-g",
        ForwardMethod::TUNNEL => "-i",
        _ => "-m",
    };
    match destination.weight.get() {
        1 => format!("-r {} {method}", destination.key),
        weight => format!("-r {} {method} -w {weight}", destination.key),
    }
}

/// What serves a pod's page: this process, or an nginx in the pod.
#[allow(dead_code, reason = "held for as long as it is to serve")]
#[derive(Debug)]
pub enum WebServer {
    /// A server in this process, on a socket of the pod's namespace.
    InProcess(Server),
    /// A real nginx, a process in the pod's namespace.
    Nginx(Nginx),
}

impl WebServer {
    /// Serves a pod's page on its port 80.
    pub async fn start(pod: &Container, nginx: bool) -> Result<Self, testbed::Error> {
        Ok(match nginx {
            false => Self::InProcess(pod.serve_http(80)?),
            true => Self::Nginx(pod.serve_nginx(80).await?),
        })
    }
}

/// Fetches the page of a virtual service several times, each on a connection of its own, tells what
/// came, and counts which pod it came from.
pub async fn fetch(
    client: Client,
    from: &NetNs,
    address: SocketAddr,
    times: usize,
    pods: &[Container],
) -> Result<BTreeMap<String, usize>, Box<dyn Error>> {
    command(client.command(address));
    let mut answers = BTreeMap::new();
    for time in 0..times {
        let got = client.get(from, address, LIMIT).await?;
        if time == 0 {
            println!("{}", got.trim_end());
        }
        let pod = pods
            .iter()
            .find(|pod| got == page(pod.name()))
            .ok_or_else(|| format!("the page is nobody's: {got}"))?;
        *answers.entry(pod.name().to_owned()).or_default() += 1;
    }
    let told: Vec<_> = answers.iter().map(|(pod, count)| format!("{pod} {count}")).collect();
    println!("({times} times; answered by: {})", told.join(", "));
    Ok(answers)
}
