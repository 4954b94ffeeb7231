//! Checks what the examples show, on the guest: `cargo test -p live-examples`.

#![allow(clippy::unwrap_used, reason = "these are tests")]

#[allow(dead_code, reason = "its main is not run")]
#[path = "director.rs"]
mod director;
#[allow(dead_code, reason = "its main is not run")]
#[path = "exporter.rs"]
mod exporter;
#[allow(dead_code, reason = "its main is not run")]
#[path = "top.rs"]
mod top;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Failed, Trial};
use lvs::{
    Desired, Policy, block_on,
    client::{Snapshot, blocking::Client, packet::Statistics},
};
use netns_link::{NetNs, blocking::Links};
use prometheus_parse::{Sample, Scrape, Value};

use crate::top::{Busy, Top};

fn main() {
    guest::assume_role();
    let arguments = Arguments::from_args();
    let mut ignored = false;
    if !arguments.list {
        match guest::Options::from_env().and_then(|options| guest::enter(&options)) {
            Ok(_) => {}
            Err(error) if !guest::is_excused(&error) => guest::fail(&error),
            Err(error) => {
                eprintln!("live: {error}");
                ignored = true;
            }
        }
    }
    let cases = vec![
        Trial::test("director_takes_a_dead_server_out", takes_a_dead_server_out)
            .with_ignored_flag(ignored),
        Trial::test("exporter_has_the_names_of_node_exporter", names_of_node_exporter),
        Trial::test("exporter_is_scraped", exporter_is_scraped).with_ignored_flag(ignored),
        Trial::test("top_draws_a_table", top_draws_a_table),
        Trial::test("top_shows_traffic", top_shows_traffic).with_ignored_flag(ignored),
    ];
    let conclusion = libtest_mimic::run(&arguments, cases);
    if ignored {
        println!("live: nothing was tested on a kernel: this machine can get none");
    }
    conclusion.exit();
}

/// The metrics of node_exporter's IPVS collector.
const NODE_EXPORTER: [(&str, bool); 8] = [
    ("node_ipvs_connections_total", true),
    ("node_ipvs_incoming_packets_total", true),
    ("node_ipvs_outgoing_packets_total", true),
    ("node_ipvs_incoming_bytes_total", true),
    ("node_ipvs_outgoing_bytes_total", true),
    ("node_ipvs_backend_connections_active", false),
    ("node_ipvs_backend_connections_inactive", false),
    ("node_ipvs_backend_weight", false),
];
const LABELS: [&str; 6] =
    ["local_address", "local_mark", "local_port", "proto", "remote_address", "remote_port"];

/// Parses the text as Prometheus does. No two samples may be the same.
fn parsed(text: &str) -> Result<Vec<Sample>, Failed> {
    let lines = text.lines().map(|line| Ok(line.to_owned()));
    let samples = Scrape::parse(lines)?.samples;
    let lines = text.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(samples.len(), lines, "every line is a sample");
    let ids: BTreeSet<String> =
        samples.iter().map(|sample| format!("{} {}", sample.metric, sample.labels)).collect();
    assert_eq!(ids.len(), lines, "no sample twice");
    Ok(samples)
}

fn value(sample: &Sample) -> f64 {
    match sample.value {
        Value::Counter(value) | Value::Gauge(value) => value,
        ref other => panic!("{other:?}"),
    }
}

fn names_of_node_exporter() -> Result<(), Failed> {
    let both_families = "\
        -A -f 10 -6 -s rr\n\
        -a -f 10 -6 -r 172.17.0.3:0 -i -w 1\n\
        -A -u [fd00::1]:53 -s rr\n\
        -a -u [fd00::1]:53 -r [fd00::3]:53 -m -w 7\n";
    let rules = exporter::RULES.replace("-r 172.17.0.3:0 -g", "-r 172.17.0.3:0 -i");
    let desired: Desired = (rules + both_families).parse()?;
    let samples = parsed(&exporter::metrics(&Statistics::default(), &Snapshot::from(&desired)))?;
    for (name, is_counter) in NODE_EXPORTER {
        let found: Vec<_> = samples.iter().filter(|sample| sample.metric == name).collect();
        assert!(!found.is_empty(), "{name}");
        for sample in found {
            assert_eq!(matches!(sample.value, Value::Counter(_)), is_counter, "{sample:?}");
        }
    }
    for sample in samples.iter().filter(|sample| sample.metric.contains("backend")) {
        let mut labels: Vec<&str> = sample.labels.keys().map(String::as_str).collect();
        labels.sort_unstable();
        labels.retain(|label| *label != "family");
        assert_eq!(labels, LABELS, "{sample:?}");
    }
    let weight = |expected: &[(&str, &str)]| -> Vec<f64> {
        let weights = samples.iter().filter(|sample| sample.metric == "node_ipvs_backend_weight");
        let fits = |sample: &&Sample| {
            expected.iter().all(|(label, text)| sample.labels.get(label) == Some(*text))
        };
        weights.filter(fits).map(value).collect()
    };
    // As in node_exporter's own tests: the protocol in capitals, the mark as in /proc/net/ip_vs.
    let tcp = [
        ("proto", "TCP"),
        ("local_address", "10.0.0.185"),
        ("local_port", "80"),
        ("local_mark", ""),
    ];
    assert_eq!(weight(&tcp), [3.0, 1.0]);
    let udp = [("proto", "UDP"), ("local_address", "fd00::1"), ("remote_address", "fd00::3")];
    assert_eq!(weight(&udp), [7.0]);
    let mark =
        [("proto", "FWM"), ("local_mark", "0000000A"), ("local_port", "0"), ("local_address", "")];
    assert_eq!(weight(&mark), [1.0, 1.0], "of both families");
    assert_eq!(weight(&[("family", "ipv6")]), [1.0]);
    Ok(())
}

/// Over HTTP, as Prometheus does.
fn exporter_is_scraped() -> Result<(), Failed> {
    let namespace = NetNs::new()?;
    let ipvs = Client::connect_in(&namespace)?;
    let links = Links::connect(&namespace)?;
    links.up(&links.find("lo")?.ok_or("there is no lo")?)?;
    block_on(exporter::RULES.parse::<Desired>()?.apply(&ipvs, &Policy::new()))?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let scraper = thread::spawn(move || exporter::scrape(address));
    exporter::serve(listener.accept()?.0, &ipvs).map_err(|error| error.to_string())?;
    let text = scraper.join().map_err(|_| "the scraper failed")??;
    let samples = parsed(&text)?;
    let weights: BTreeMap<_, f64> = samples
        .iter()
        .filter(|sample| sample.metric == "node_ipvs_backend_weight")
        .map(|sample| ((sample.labels.get("proto"), sample.labels.get("remote_address")), sample))
        .map(|(labels, sample)| (labels, value(sample)))
        .collect();
    let expected =
        [("FWM", "172.17.0.3", 1.0), ("TCP", "172.17.0.3", 3.0), ("TCP", "172.17.0.4", 1.0)];
    let expected = expected.map(|(proto, to, weight)| ((Some(proto), Some(to)), weight));
    assert_eq!(weights, BTreeMap::from(expected));
    let complete = samples.iter().find(|sample| sample.metric == "node_ipvs_table_complete");
    assert_eq!(complete.map(value), Some(1.0));
    Ok(())
}

const FRAME: &str = "\
IPVS: 2 services, 2 real servers, 24 active and 2 inactive connections, 0B/s in, 0B/s out
┌connections/s: 25.0───────────────────────────────────────────────────────────────────────────────┐
│                                                                                                 █│
│                                                                                                 █│
└──────────────────────────────────────────────────────────────────────────────────────────────────┘
service, real server                            weight  active   inactive conn/s   in/s     out/s
-t 10.0.0.185:80                     wrr                24       2        12.5     0        0
  172.17.0.3:80                      Masq       3       12       1        12.5     1.5k     0
  172.17.0.4:80                      Masq       0       12       1        12.5     1.5k     0
-f 10 -6                             rr                 0        0        12.5     0        0
";

/// A frame shows the table, and the traffic since the frame before.
fn top_draws_a_table() -> Result<(), Failed> {
    let rules = "\
        -A -t 10.0.0.185:80 -s wrr\n\
        -a -t 10.0.0.185:80 -r 172.17.0.3:80 -m -w 3\n\
        -a -t 10.0.0.185:80 -r 172.17.0.4:80 -m -w 0\n\
        -A -f 10 -6 -s rr\n";
    let mut table = Snapshot::from(&rules.parse::<Desired>()?);
    let (mut top, start) = (Top::default(), Instant::now());
    top.update(table.clone(), start);
    for service in table.services.values_mut() {
        service.entry.statistics.connections += 25;
        for entry in &mut service.destinations {
            entry.active_connections = 12;
            entry.inactive_connections = 1;
            entry.statistics.connections += 25;
            entry.statistics.incoming_bytes += 3_000;
        }
    }
    top.update(table, start + Duration::from_secs(2));
    assert_eq!(top.text(100, 12)?, FRAME);
    top.scroll(1);
    assert!(!top.text(100, 12)?.contains("-t 10.0.0.185:80"), "it is above the first line");
    // No terminal is too small.
    for (width, height) in [(1, 1), (20, 3), (3, 40), (500, 2)] {
        top.text(width, height)?;
    }
    Ok(())
}

/// Frames without a terminal, of a service under traffic.
fn top_shows_traffic() -> Result<(), Failed> {
    let (ipvs, _traffic) = Busy::start().map_err(|error| error.to_string())?;
    let mut out = Vec::new();
    top::print_frames(&ipvs, Duration::from_secs(3), 2, &mut out)
        .map_err(|error| error.to_string())?;
    let out = String::from_utf8(out)?;
    println!("{out}");
    let last = out.rsplit("IPVS: ").next().ok_or("there are frames")?;
    assert!(last.starts_with("1 services, 2 real servers, "), "{last}");
    let rate: f64 = last
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("172.17.0.3:7"))
        .and_then(|cells| cells.split_whitespace().nth(4)?.parse().ok())
        .ok_or("its row has a rate")?;
    assert!(rate > 1.0, "{last}");
    Ok(())
}

/// Requests fail between the stop of a server and the next check, and never after it; both servers answer in the end.
fn takes_a_dead_server_out() -> Result<(), Failed> {
    let counted = director::tell(Duration::from_secs(2)).map_err(|error| error.to_string())?;
    println!("{counted:?}");
    assert!(counted.good > 10, "{counted:?}");
    assert_eq!(counted.failed_otherwise, 0, "{counted:?}");
    Ok(())
}
