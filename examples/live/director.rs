//! lvs-director from scratch: a file, two servers, and one of them stopped and started again under traffic.
//!
//! Requests are counted. Some fail between the stop and the next check; none fails after it.
//!
//! ```sh
//! cargo run --example director
//! ```
//!
//! It needs neither root nor IPVS in the kernel: see the package `guest`.

use std::{
    error::Error,
    ffi::OsString,
    fs,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use examples::{Scene, command, heading};
use lvs::Table;
use netns_link::NetNs;
use tokio::time::sleep;

/// Runs lvs-director under traffic.
#[derive(Parser)]
struct Arguments {
    /// How long each part takes, in seconds
    #[arg(long, default_value_t = 2)]
    seconds: u64,
}

/// How often servers are checked, and how long a check may take.
const INTERVAL: Duration = Duration::from_millis(300);
const TIMEOUT: Duration = Duration::from_millis(200);

/// How the requests went.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    pub(crate) good: usize,
    /// Between the stop of a server and the check that found it.
    pub(crate) failed: usize,
    /// At any other time.
    pub(crate) failed_otherwise: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Arguments = examples::start();
    let counted = tell(Duration::from_secs(arguments.seconds))?;
    heading("How the requests went");
    println!("{} answered", counted.good);
    println!("{} failed between the stop of a server and the next check", counted.failed);
    println!("{} failed at other times", counted.failed_otherwise);
    match counted.failed_otherwise {
        0 => Ok(()),
        _ => Err("requests failed after the check".into()),
    }
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn tell(part: Duration) -> Result<Counted, Box<dyn Error>> {
    let scene = Scene::new(2).await?;
    let address: SocketAddr = "10.0.0.200:80".parse()?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("director.yaml");
    let [first, second] = [&scene.pods[0], &scene.pods[1]];

    heading("The file");
    let text = format!(
        "addresses: [{{address: {}}}]\n\
         defaults:\n  check: {{tcp: {{}}, interval: {INTERVAL:?}, timeout: {TIMEOUT:?}, rise: 1, fall: 1}}\n\
         services:\n  - name: web\n    address: {}\n    port: {}\n    scheduler: rr\n    servers: [{}, {}]\n",
        address.ip(),
        address.ip(),
        address.port(),
        first.address(),
        second.address(),
    );
    print!("{text}");
    fs::write(&file, text)?;
    let _first = first.serve_http(80)?;
    let served = second.serve_http(80)?;

    heading("The director makes the service and its address");
    command(format_args!("lvs-director run {}", file.display()));
    direct(scene.host.namespace(), directory.path())?;
    let begun = Instant::now();
    while get(&scene, address).await.is_err() {
        if begun.elapsed() > Duration::from_secs(30) {
            return Err("the service did not come".into());
        }
        sleep(Duration::from_millis(20)).await;
    }
    print!("{}", Table::read(&scene.ipvs).await?);

    let mut counted = Counted::default();
    heading("Both servers answer");
    counted.add(ask(&scene, address, part).await);
    println!("{} answered, {} failed", counted.good, counted.failed_otherwise);

    heading("One is stopped");
    served.stop().await;
    let stopped = Instant::now();
    while weight(&scene, second.address()).await? != Some(0) {
        if stopped.elapsed() > Duration::from_secs(30) {
            return Err("the dead server stays in service".into());
        }
        let (good, failed) = ask(&scene, address, Duration::ZERO).await;
        counted.good += good;
        counted.failed += failed;
    }
    println!("{} ms later it is out; {} failed", stopped.elapsed().as_millis(), counted.failed);
    counted.add(ask(&scene, address, part).await);
    print!("{}", Table::read(&scene.ipvs).await?);

    heading("It is started again");
    let _served = second.serve_http(80)?;
    let started = Instant::now();
    while weight(&scene, second.address()).await? != Some(1) {
        if started.elapsed() > Duration::from_secs(30) {
            return Err("the server does not come back".into());
        }
        counted.add(ask(&scene, address, Duration::ZERO).await);
    }
    counted.add(ask(&scene, address, part).await);
    print!("{}", Table::read(&scene.ipvs).await?);
    Ok(counted)
}

impl Counted {
    fn add(&mut self, (good, failed): (usize, usize)) {
        self.good += good;
        self.failed_otherwise += failed;
    }
}

/// The weight of a server in the kernel.
async fn weight(scene: &Scene, server: IpAddr) -> Result<Option<u32>, Box<dyn Error>> {
    let table = scene.ipvs.snapshot().await?;
    let entries = table.services.values().flat_map(|service| &service.destinations);
    let entry = entries.map(|entry| &entry.destination).find(|it| it.key.address == server);
    Ok(entry.map(|destination| destination.weight.get()))
}

/// Starts the program, as its own process would, in a thread that ends with this one.
fn direct(namespace: &NetNs, directory: &Path) -> Result<(), Box<dyn Error>> {
    let file = |name: &str| directory.join(name).into_os_string();
    let option = |name: &str, value: OsString| {
        let mut option = OsString::from(name);
        option.push(value);
        option
    };
    let arguments = [
        "lvs-director".into(),
        "run".into(),
        file("director.yaml"),
        option("--state-dir=", file("state")),
        option("--socket=", file("socket")),
    ];
    let namespace = NetNs::from_fd(namespace.as_fd().try_clone_to_owned()?)?;
    thread::spawn(move || namespace.run(|| lvs_director::run(arguments)));
    Ok(())
}

/// Asks one time after the other for a while, at least once. Returns how many were answered, and how many
/// failed.
async fn ask(scene: &Scene, address: SocketAddr, part: Duration) -> (usize, usize) {
    let begun = Instant::now();
    let (mut good, mut failed) = (0, 0);
    loop {
        match get(scene, address).await {
            Ok(()) => good += 1,
            Err(_) => failed += 1,
        }
        if begun.elapsed() >= part {
            return (good, failed);
        }
        sleep(Duration::from_millis(5)).await;
    }
}

async fn get(scene: &Scene, address: SocketAddr) -> Result<(), testbed::Error> {
    testbed::http_get(scene.client.namespace(), address, Duration::from_secs(5)).await.map(drop)
}
