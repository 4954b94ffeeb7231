//! A director is lost, and another one takes over its virtual address: the connections continue.
//!
//! Two directors with direct routing share their connections by sync daemons. When the first one is lost,
//! the second one adds the virtual address and announces it on the link. The neighbours then know at once
//! where the address is; without the announcement they would send to the lost one for half a
//! minute or more.
//!
//! ```sh
//! cargo run --example failover
//! cargo run --example failover -- --ipv6 --silent    # over IPv6, without the announcement
//! ```
//!
//! It needs neither root nor IPVS in the kernel: see the package `lvs-guest`.

use std::{
    error::Error,
    net::{IpAddr, SocketAddr, TcpStream as StdStream},
    time::{Duration, Instant},
};

use clap::Parser;
use examples::heading;
use lvs::{
    RealServer, VirtualService,
    client::{
        Client, SyncThreshold, Sysctl,
        packet::{DaemonRole, SyncDaemon},
    },
};
use netns_link::{Address, Director, prepare_real_server};
use testbed::{Container, DockerHost, Family, Server};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

const CONNECTIONS: usize = 4;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// A virtual address moves from a lost director to another one under established connections.
#[derive(Parser)]
struct Arguments {
    /// Use IPv6
    #[arg(long)]
    ipv6: bool,
    /// Do not announce the moved address, and see the connections stall
    #[arg(long)]
    silent: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = examples::start();
    walkthrough(&arguments)
}

#[tokio::main(flavor = "current_thread")]
async fn walkthrough(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let family = if arguments.ipv6 { Family::Ipv6 } else { Family::Ipv4 };
    let vip = SocketAddr::new(family.on_bridge(100), 80);

    heading("Two directors, a real server and a client on one segment");
    let host = DockerHost::new(family).await?;
    let server = host.container("server", 20).await?;
    let _setup = prepare_real_server(server.namespace(), "dummy0", &[vip.ip()])?;
    let _serving = Server::tcp(server.namespace(), vip, "server")?;
    let service =
        VirtualService::tcp(vip).real_server(RealServer::direct(server.address())).build()?;
    let first = host.container("director1", 11).await?;
    let second = host.container("director2", 12).await?;
    let _master = balance(&first, &service, DaemonRole::MASTER).await?;
    let backup = balance(&second, &service, DaemonRole::BACKUP).await?;
    print!("{service}");

    heading("The first director has the virtual address");
    let director = Director::new("ipvs0").clients_on("eth0");
    director.prepare(first.namespace(), &[vip.ip()])?;
    let client = host.container("client", 30).await?;
    let mut talks = Vec::new();
    for _ in 0..CONNECTIONS {
        let connect = || StdStream::connect_timeout(&vip, ANSWER_TIMEOUT);
        let stream = client.namespace().run(connect)??;
        stream.set_nonblocking(true)?;
        talks.push(TcpStream::from_std(stream)?);
    }
    let since = Instant::now();
    while backup.connections()?.count() < CONNECTIONS && since.elapsed() < 5 * ANSWER_TIMEOUT {
        for talk in &mut talks {
            ask(talk).await?;
        }
        sleep(Duration::from_millis(100)).await;
    }
    println!(
        "{} connections; the second director has {}",
        talks.len(),
        backup.connections()?.count()
    );

    heading("The first director is lost; the second one takes the address");
    let cable = host.links().find("veth11").await?.ok_or("no veth11")?;
    host.links().down(&cable).await?;
    let director = match arguments.silent {
        true => director,
        false => director.announce(3, Duration::from_millis(100)),
    };
    director.prepare(second.namespace(), &[vip.ip()])?;
    for (number, talk) in talks.iter_mut().enumerate() {
        match timeout(ANSWER_TIMEOUT, ask(talk)).await {
            Ok(took) => println!("connection {number} continues; its request took {:?}", took?),
            Err(_) => println!("connection {number} got no answer in {ANSWER_TIMEOUT:?}"),
        }
    }
    Ok(())
}

/// A director with the service and a sync daemon, without the virtual address.
async fn balance(
    director: &Container,
    service: &VirtualService,
    role: DaemonRole,
) -> Result<Client, Box<dyn Error>> {
    let link = director.links().find("eth0").await?.ok_or("no eth0")?;
    // Sync daemons use IPv4 unless they get an IPv6 group.
    let number = if role == DaemonRole::MASTER { 11 } else { 12 };
    let address = Address::new(IpAddr::from([172, 31, 0, number]), 24)?;
    director.links().add_address(&link, address).await?;
    let client = Client::connect_in(director.namespace())?;
    service.apply(&client).await?;
    client.set_sysctl(Sysctl::SYNC_THRESHOLD, SyncThreshold::new(1, 2))?;
    client.start_daemon(&SyncDaemon::new(role, "eth0".parse()?, 7.into())).await?;
    Ok(client)
}

/// Sends a request, and returns how long the answer took.
async fn ask(talk: &mut TcpStream) -> Result<Duration, Box<dyn Error>> {
    let since = Instant::now();
    talk.write_all(b"request").await?;
    let mut answer = [0; 64];
    match talk.read(&mut answer).await? {
        0 => Err("the connection was closed".into()),
        _ => Ok(since.elapsed()),
    }
}
