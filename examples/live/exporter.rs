//! The table and its traffic for Prometheus, over HTTP.
//!
//! ```sh
//! cargo run --example exporter                                        # in the guest, scraped once
//! cargo run --example exporter -- --here --listen 127.0.0.1:9712      # this machine's table
//! ```
//!
//! The metrics have the names, types and labels of node_exporter's IPVS collector, so its
//! dashboards work. More metrics follow the same pattern: every counter of each real server, its
//! upper threshold, and whether nobody changed the table while it was read. Services of an IPv6 mark have
//! the additional label `family`, since marks of both families may be equal.

use std::{
    error::Error,
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use clap::Parser;
use examples::{command, heading};
use lvs::{
    Desired, Policy, block_on,
    client::{
        ServiceSnapshot, Snapshot,
        blocking::Client,
        packet::{AddressFamily, DestinationEntry, ServiceKey, Statistics},
    },
};
use netns_link::{NetNs, blocking::Links};

/// Serves the metrics of this network namespace's IPVS.
#[derive(Parser)]
struct Arguments {
    /// Use this machine's kernel and network namespace instead of the guest's
    #[arg(long)]
    here: bool,
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1:9712")]
    listen: SocketAddr,
}

pub(crate) const RULES: &str = "\
-A -t 10.0.0.185:80 -s wrr
-a -t 10.0.0.185:80 -r 172.17.0.3:80 -m -w 3
-a -t 10.0.0.185:80 -r 172.17.0.4:80 -m -w 1 -x 100
-A -f 10 -s rr
-a -f 10 -r 172.17.0.3:0 -g -w 1
";

fn main() -> Result<(), Box<dyn Error>> {
    guest::assume_role();
    let arguments = Arguments::parse();
    if !arguments.here {
        println!("Running on {}.", guest::enter_or_exit());
        let links = Links::connect(&NetNs::current()?)?;
        links.up(&links.find("lo")?.ok_or("there is no lo")?)?;
    }
    let ipvs = Client::connect()?;
    let listener = TcpListener::bind(arguments.listen)?;
    println!("http://{}/metrics", listener.local_addr()?);
    if arguments.here {
        for stream in listener.incoming() {
            // It does not matter if a client goes away.
            if let Err(error) = stream.map_err(Into::into).and_then(|stream| serve(stream, &ipvs)) {
                eprintln!("{error}");
            }
        }
        return Ok(());
    }
    heading("A table");
    block_on(RULES.parse::<Desired>()?.apply(&ipvs, &Policy::new()))?;
    print!("{RULES}");
    heading("Scraped");
    command(format_args!("curl http://{}/metrics", arguments.listen));
    let address = listener.local_addr()?;
    let scraper = std::thread::spawn(move || scrape(address));
    serve(listener.accept()?.0, &ipvs)?;
    let text = scraper.join().map_err(|_| "the scraper failed")??;
    print!("{text}");
    Ok(())
}

/// Answers one request.
pub(crate) fn serve(stream: TcpStream, ipvs: &Client) -> Result<(), Box<dyn Error>> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = BufReader::new(stream.take(8192));
    let mut line = String::new();
    request.read_line(&mut line)?;
    let mut header = line.clone();
    while !header.trim().is_empty() {
        header.clear();
        if request.read_line(&mut header)? == 0 {
            break;
        }
    }
    let mut stream = request.into_inner().into_inner();
    let (status, body) = match line.split(' ').nth(1) {
        Some("/metrics") => match ipvs.totals().and_then(|totals| Ok((totals, ipvs.snapshot()?))) {
            Ok((totals, table)) => ("200 OK", metrics(&totals, &table)),
            Err(error) => ("503 Service Unavailable", format!("{error}\n")),
        },
        _ => ("404 Not Found", "only /metrics exists\n".to_owned()),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}

/// A metric: its name, its type, its help text, and its value.
struct Metric<T>(&'static str, &'static str, &'static str, fn(&T) -> u64);

/// The sums over all services.
const TOTALS: &[Metric<Statistics>] = &[
    Metric("connections_total", "counter", "Connections made.", |totals| totals.connections),
    Metric("incoming_packets_total", "counter", "Packets from clients.", |totals| {
        totals.incoming_packets
    }),
    Metric("outgoing_packets_total", "counter", "Packets to clients.", |totals| {
        totals.outgoing_packets
    }),
    Metric("incoming_bytes_total", "counter", "Bytes from clients.", |totals| {
        totals.incoming_bytes
    }),
    Metric("outgoing_bytes_total", "counter", "Bytes to clients.", |totals| totals.outgoing_bytes),
];

/// For each real server.
const BACKEND: &[Metric<DestinationEntry>] = &[
    Metric("backend_connections_active", "gauge", "Connections in use.", |entry| {
        entry.active_connections.into()
    }),
    Metric("backend_connections_inactive", "gauge", "Connections that are closing.", |entry| {
        entry.inactive_connections.into()
    }),
    Metric("backend_weight", "gauge", "Weight.", |entry| entry.destination.weight.get().into()),
    Metric(
        "backend_upper_threshold",
        "gauge",
        "Upper connection threshold; 0 for none.",
        |entry| entry.destination.thresholds.upper().into(),
    ),
    Metric("backend_connections_total", "counter", "Connections made.", |entry| {
        entry.statistics.connections
    }),
    Metric("backend_incoming_packets_total", "counter", "Packets from clients.", |entry| {
        entry.statistics.incoming_packets
    }),
    Metric("backend_outgoing_packets_total", "counter", "Packets to clients.", |entry| {
        entry.statistics.outgoing_packets
    }),
    Metric("backend_incoming_bytes_total", "counter", "Bytes from clients.", |entry| {
        entry.statistics.incoming_bytes
    }),
    Metric("backend_outgoing_bytes_total", "counter", "Bytes to clients.", |entry| {
        entry.statistics.outgoing_bytes
    }),
];

/// The table in Prometheus' text format.
pub(crate) fn metrics(totals: &Statistics, table: &Snapshot) -> String {
    let mut text = String::new();
    for Metric(name, kind, help, value) in TOTALS {
        head(&mut text, name, kind, help);
        sample(&mut text, name, "", value(totals));
    }
    for Metric(name, kind, help, value) in BACKEND {
        head(&mut text, name, kind, help);
        for service in table.services.values() {
            for entry in &service.destinations {
                sample(&mut text, name, &labels(service, entry), value(entry));
            }
        }
    }
    let name = "table_complete";
    head(&mut text, name, "gauge", "Whether nobody changed the table while it was read.");
    sample(&mut text, name, "", table.is_certain().into());
    text
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "# HELP node_ipvs_{name} {help}\n# TYPE node_ipvs_{name} {kind}");
}

fn sample(text: &mut String, name: &str, labels: &str, value: u64) {
    let _ = writeln!(text, "node_ipvs_{name}{labels} {value}");
}

/// node_exporter's labels. A mark has eight hexadecimal digits, as in `/proc/net/ip_vs`.
fn labels(service: &ServiceSnapshot, entry: &DestinationEntry) -> String {
    let (address, port, mark, protocol, family) = match service.entry.service.key() {
        ServiceKey::Address { protocol, address, port } => {
            (address.to_string(), *port, String::new(), protocol.to_string(), "")
        }
        ServiceKey::Mark { mark, family } => {
            let family = if *family == AddressFamily::Ipv6 { ",family=\"ipv6\"" } else { "" };
            (String::new(), 0, format!("{mark:08X}"), "FWM".to_owned(), family)
        }
    };
    let remote = entry.destination.key;
    format!(
        "{{local_address=\"{address}\",local_port=\"{port}\",remote_address=\"{}\",\
         remote_port=\"{}\",proto=\"{protocol}\",local_mark=\"{mark}\"{family}}}",
        remote.address, remote.port
    )
}

/// Requests the metrics as Prometheus does.
pub(crate) fn scrape(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned()))
}
