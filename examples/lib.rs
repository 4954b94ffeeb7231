//! What the examples share: how they start, print their steps, and find out which pod answered.

#![allow(clippy::exhaustive_enums, clippy::exhaustive_structs, reason = "not published")]

use std::{
    collections::BTreeMap,
    error::Error,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use anstyle::{AnsiColor, Style};
use lvs::VirtualService;
use netns_link::{Address, NetNs};
use testbed::{Client, Container, DockerHost, Family, Nginx, Process, Server, page};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// The programs in the README, which must compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// How long fetching a page may take. If all works, nothing waits for it.
const LIMIT: Duration = Duration::from_secs(10);

/// Colours, on a terminal and where `NO_COLOR` is not set.
const HEADING: Style = Style::new().bold();
const COMMAND: Style = AnsiColor::Cyan.on_default();

/// The options of the walkthroughs.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// How a pod is chosen for a new connection: rr, wrr, lc, wlc, sh, …
    #[arg(long, default_value = "wlc")]
    pub scheduler: String,
    /// The weights of the two pods, 0 to 2147483647: two numbers separated by a comma, or one for both
    #[arg(long, default_value = "1", allow_hyphen_values = true, value_parser = weights)]
    pub weight: [u32; 2],
    /// Use IPv6
    #[arg(long)]
    pub ipv6: bool,
    /// Run real nginx processes in the pods (needs the package nginx or nginx-light)
    #[arg(long)]
    pub nginx: bool,
    /// How to fetch the page: in-process, curl, busybox; several separated by commas
    #[arg(long, value_delimiter = ',', default_value = "in-process")]
    pub client: Vec<Client>,
    /// How many times each client fetches the page, at least 1
    #[arg(long, default_value = "4", allow_hyphen_values = true, value_parser = times)]
    pub times: usize,
}

impl Options {
    /// The family of the pods' addresses, and the service's address.
    pub fn addresses(&self) -> (Family, SocketAddr) {
        match self.ipv6 {
            false => (Family::Ipv4, (Ipv4Addr::new(10, 0, 0, 185), 80).into()),
            true => {
                let address = Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, 0x185);
                (Family::Ipv6, (address, 80).into())
            }
        }
    }

    /// The pods, each with its weight.
    pub fn weighted<'a>(
        &self,
        pods: &'a [Container],
    ) -> impl Iterator<Item = (&'a Container, u32)> + use<'a, '_> {
        pods.iter().zip(self.weight)
    }

    /// Refuses, before anything is built, what the kernel would refuse.
    ///
    /// # Errors
    /// If there is no such scheduler.
    pub async fn check(&self) -> Result<(), Box<dyn Error>> {
        let (_, address) = self.addresses();
        let client = lvs::client::Client::connect_in(&NetNs::new()?)?;
        let service = VirtualService::tcp(address).scheduler(&self.scheduler).build()?;
        client.add_service(service.service()).await?;
        Ok(client.flush().await?)
    }
}

fn weights(text: &str) -> Result<[u32; 2], String> {
    let weight = |text: &str| match text.parse() {
        Ok(weight @ 0..=0x7fff_ffff) => Ok(weight),
        _ => Err(format!("{text:?} is not a weight: expected 0 to 2147483647")),
    };
    match text.split(',').collect::<Vec<_>>()[..] {
        [both] => Ok([weight(both)?; 2]),
        [first, second] => Ok([weight(first)?, weight(second)?]),
        _ => Err("expected one weight for both pods, or two separated by a comma".to_owned()),
    }
}

fn times(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(times @ 1..) => Ok(times),
        _ => Err("expected a number, at least 1".to_owned()),
    }
}

/// Reads the command line, and puts the example on a kernel that has IPVS.
pub fn start<Arguments: clap::Parser>() -> Arguments {
    // First: this program may have been started as the guest's init.
    guest::assume_role();
    let arguments = Arguments::parse();
    println!("Running on {}.", guest::enter_or_exit());
    arguments
}

/// Ends a program. Prints an error for people: all mistakes in a file, one in each line.
pub fn end(outcome: Result<(), Box<dyn Error>>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Explains the lines with `$`.
pub fn legend() {
    println!("A line with $ is the equivalent command; this program does the same by netlink.");
}

/// Prints a heading: what comes next.
pub fn heading(text: &str) {
    anstream::println!("\n{HEADING}== {text}{HEADING:#}");
}

/// Prints the command that is equivalent to the next step.
pub fn command(line: impl fmt::Display) {
    anstream::println!("{COMMAND}$ {line}{COMMAND:#}");
}

/// What serves a pod's page: this process, or an nginx in the pod.
#[derive(Debug)]
pub enum WebServer {
    /// A server in this process, on a socket in the pod's namespace, and a process in the pod that
    /// does nothing, like docker's pause container.
    InProcess(Server, Process),
    /// A real nginx, a process in the pod's namespace.
    Nginx(Nginx),
}

impl WebServer {
    /// Serves a pod's page on its port 80.
    pub async fn start(pod: &Container, nginx: bool) -> Result<Self, testbed::Error> {
        Ok(match nginx {
            false => Self::InProcess(pod.serve_http(80)?, pod.pause()?),
            true => Self::Nginx(pod.serve_nginx(80).await?),
        })
    }

    /// A process in the pod; the pod's namespace is `/proc/PID/ns/net`.
    pub fn pid(&self) -> u32 {
        match self {
            Self::InProcess(_, pause) => pause.pid(),
            Self::Nginx(nginx) => nginx.pid(),
        }
    }
}

/// Fetches the page of a virtual service several times, each time on a new connection, prints
/// it, and counts which pods answered.
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
            .ok_or_else(|| format!("the page names no pod: {got}"))?;
        *answers.entry(pod.name().to_owned()).or_default() += 1;
    }
    let counts: Vec<_> = answers.iter().map(|(pod, count)| format!("{pod} {count}")).collect();
    println!("({times} times; answered by: {})", counts.join(", "));
    Ok(answers)
}

/// The setting of the short examples: a docker host as the director, which has the virtual address
/// 10.0.0.185, pods from 172.17.0.3 on, and a client on the same bridge. It includes docker's
/// settings; the example nat_mode explains each of them.
#[derive(Debug)]
pub struct Scene {
    /// The director.
    pub host: DockerHost,
    /// pod1, pod2 and so on.
    pub pods: Vec<Container>,
    /// The client's container, at 172.17.0.2.
    pub client: Container,
    /// The director's IPVS.
    pub ipvs: lvs::client::Client,
    /// The virtual address.
    pub vip: IpAddr,
}

impl Scene {
    /// Builds it with this number of pods.
    pub async fn new(pods: u8) -> Result<Self, Box<dyn Error>> {
        let host = DockerHost::new(Family::Ipv4).await?;
        let client = host.container("client", 2).await?;
        let mut containers = Vec::new();
        for number in 1..=pods {
            containers.push(host.container(&format!("pod{number}"), 2 + number).await?);
        }
        host.forward()?;
        host.filter_bridge()?;
        let vip = IpAddr::from([10, 0, 0, 185]);
        let dummy = host.links().create_dummy("dummy0").await?.link;
        host.links().add_address(&dummy, Address::host(vip)).await?;
        let ipvs = lvs::client::Client::connect_in(host.namespace())?;
        Ok(Self { host, pods: containers, client, ipvs, vip })
    }

    /// Gives the client another address to connect from.
    pub async fn add_client_address(&self, address: IpAddr) -> Result<(), Box<dyn Error>> {
        let links = self.client.links();
        let link = links.find("eth0").await?.ok_or("the client has no eth0")?;
        links.add_address(&link, Address::new(address, 16)?).await?;
        Ok(())
    }
}

/// A TCP connection to a virtual service whose pods answer `NAME: message`, as
/// [`Container::serve_tcp`] does, and stays open.
#[derive(Debug)]
pub struct Conversation {
    stream: TcpStream,
}

impl Conversation {
    /// Connects from an address of a namespace.
    pub async fn open(
        from: &NetNs,
        source: IpAddr,
        address: SocketAddr,
    ) -> Result<Self, Box<dyn Error>> {
        let socket = from.run(|| match source {
            IpAddr::V4(_) => TcpSocket::new_v4(),
            IpAddr::V6(_) => TcpSocket::new_v6(),
        })??;
        socket.bind(SocketAddr::new(source, 0))?;
        Ok(Self { stream: timeout(LIMIT, socket.connect(address)).await?? })
    }

    /// Sends a message and returns the name of the pod that answers.
    pub async fn pod(&mut self) -> Result<String, Box<dyn Error>> {
        self.stream.write_all(b"hello").await?;
        let mut answer = [0; 64];
        let length = timeout(LIMIT, self.stream.read(&mut answer)).await??;
        let answer = std::str::from_utf8(&answer[..length])?;
        let pod = answer.strip_suffix(": hello").ok_or_else(|| format!("no answer: {answer:?}"))?;
        Ok(pod.to_owned())
    }
}
