//! How the proxy grows with the number of services, from a directory, on the guest's kernel:
//!
//! ```sh
//! cargo run --release -p lvs-kube-proxy --example scale -- 100 1000 5000
//! ```
//!
//! Each number of services has two endpoints each and one route for all. Beside the times of the proxy
//! stand those of the bare parts in the same run: reading the manifests, and one batch of the same
//! writes.

use std::{
    error::Error,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use clap::Parser;
use lvs::{
    Plan, Policy,
    client::{Client, Snapshot},
};
use lvs_kube_proxy::{Config, Proxy, source::Directory};
use netns_link::NetNs;

/// Times of the proxy by the number of services.
#[derive(Parser)]
struct Arguments {
    /// Numbers of services, each up to 65000
    #[arg(default_values_t = [100, 1000, 5000])]
    services: Vec<u32>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { services } = examples::start();
    println!(
        "{:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8}",
        "services", "list s", "batch s", "start s", "ratio", "event ms", "resync s", "peak MB"
    );
    for number in services {
        // Once for nothing: what touches the guest's memory first waits for the host's. That would
        // always be the proxy, whose table the bare batch then repeats.
        measure(number)?;
        println!("{}", measure(number)?);
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn measure(number: u32) -> Result<String, Box<dyn Error>> {
    let namespace = NetNs::new()?;
    testbed::run(&namespace, "iproute2", &["ip", "link", "set", "lo", "up"])?;
    testbed::run(&namespace, "iproute2", &["ip", "address", "add", "192.0.2.1/32", "dev", "lo"])?;
    let directory = tempfile::TempDir::new()?;
    for service in 0..number {
        write(directory.path(), service, 2)?;
    }

    // The bare list: every object is at hand.
    let begin = Instant::now();
    let mut objects: Vec<serde_json::Value> = Vec::new();
    for entry in fs::read_dir(directory.path())? {
        for document in fs::read_to_string(entry?.path())?.split_inclusive("\n---\n") {
            objects.push(serde_saphyr::from_str(document.trim_end_matches("---\n"))?);
        }
    }
    let list = begin.elapsed();
    assert_eq!(objects.len(), 2 * number as usize);
    drop(objects);

    let config = Config::from_command_line([
        "lvs-kube-proxy",
        "--hostname-override=node-a",
        "--node-ip=192.0.2.1",
        "--service-cluster-ip-range=10.0.0.0/8",
        "--vip-mode=routes",
        "--healthz-bind-address=",
        "--metrics-bind-address=",
    ])?;
    let ipvs = Client::connect_in(&namespace)?;
    let begin = Instant::now();
    let source = Directory::open(directory.path())?;
    let mut proxy = Proxy::new(source, config, &namespace).await?;
    proxy.once().await?;
    let start = begin.elapsed();

    let desired = lvs::Desired::try_from(&ipvs.snapshot().await?)?;
    assert_eq!(desired.len(), number as usize);
    let begin = Instant::now();
    proxy.once().await?;
    let resync = begin.elapsed();

    // One endpoint more, until it is in the table.
    let key = "-t 10.0.0.2:80".parse()?;
    let look = async {
        let mut times = Vec::new();
        tokio::time::sleep(Duration::from_millis(500)).await;
        for endpoints in [3_u32, 2, 3, 2, 3] {
            let begin = Instant::now();
            write(directory.path(), 1, endpoints)?;
            while wanted(&ipvs, &key).await? != endpoints as usize {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            times.push(begin.elapsed());
        }
        times.sort();
        Ok::<_, Box<dyn Error>>(times[times.len() / 2])
    };
    let event = tokio::select! {
        event = look => event?,
        ended = proxy.run(std::future::pending()) => return Err(format!("{ended:?}").into()),
    };
    let peak = fs::read_to_string("/proc/self/status")?;
    let peak = peak.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse()?;

    // The same table in one batch, in a namespace of its own: in this one the kernel would look through
    // the real servers that were just deleted.
    ipvs.flush().await?;
    let other = NetNs::new()?;
    testbed::run(&other, "iproute2", &["ip", "link", "set", "lo", "up"])?;
    let other = Client::connect_in(&other)?;
    let plan = Plan::new(&desired, &Snapshot::new(), &Policy::new());
    let writes: Vec<_> = plan.requests().collect();
    let begin = Instant::now();
    for outcome in other.batch(&writes).await {
        outcome?;
    }
    let batch = begin.elapsed();
    other.flush().await?;
    Ok(format!(
        "{number:>8} {:>9.3} {:>9.3} {:>9.3} {:>9.2} {:>9.1} {:>9.3} {:>8}",
        list.as_secs_f64(),
        batch.as_secs_f64(),
        start.as_secs_f64(),
        start.as_secs_f64() / (list + batch).as_secs_f64(),
        event.as_secs_f64() * 1000.0,
        resync.as_secs_f64(),
        peak / 1024,
    ))
}

/// How many real servers get new connections.
async fn wanted(
    ipvs: &Client,
    key: &lvs::client::packet::ServiceKey,
) -> Result<usize, Box<dyn Error>> {
    let servers = ipvs.destinations(key).await?.all()?;
    Ok(servers.iter().filter(|server| server.destination.weight.get() > 0).count())
}

/// A service with so many endpoints, in a file of its own.
fn write(directory: &Path, service: u32, endpoints: u32) -> std::io::Result<()> {
    let address = |base: u32, number: u32| std::net::Ipv4Addr::from(base + number);
    let cluster_ip = address(0x0a00_0001, service);
    let endpoints: String = (0..endpoints)
        .map(|number| {
            format!("- {{addresses: [{}]}}\n", address(0x6440_0001, service * 4 + number))
        })
        .collect();
    let text = format!(
        "kind: Service\nmetadata: {{name: s{service}}}\n\
         spec: {{clusterIP: {cluster_ip}, ports: [{{port: 80}}]}}\n---\n\
         kind: EndpointSlice\n\
         metadata: {{name: s{service}-1, labels: {{kubernetes.io/service-name: s{service}}}}}\n\
         addressType: IPv4\nports: [{{name: '', port: 8080}}]\nendpoints:\n{endpoints}"
    );
    let part = directory.join(format!("{service}.part"));
    fs::write(&part, text)?;
    fs::rename(&part, directory.join(format!("{service}.yaml")))
}
