//! Our ipvsadm beside ipvsadm 1.31, whole processes on a kernel that has IPVS: start-up, `-R`, `-Ln`
//! and `-Sn`. README.md shows the table that it prints.
//!
//! ```sh
//! cargo build --profile installed -p ipvsadm
//! cargo bench -p benches --bench ipvsadm                             # in the User-Mode Linux guest
//! LVS_GUEST_KERNEL=qemu-6.1 cargo bench -p benches --bench ipvsadm   # in QEMU
//! ```
//!
//! `-- --test` runs everything once on a small table.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark may end where it fails")]

use std::{
    env,
    fmt::Write as _,
    fs::File,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    time::{Duration, Instant},
};

use ipvs_client::blocking::Client;
use netns_link::NetNs;

fn main() {
    guest::assume_role();
    let ours = program();
    if !ours.exists() {
        eprintln!("there is no {}: cargo build --profile installed -p ipvsadm", ours.display());
        process::exit(1);
    }
    println!("On {}.\n", guest::enter_or_exit());
    let test = env::args().any(|argument| argument == "--test");
    let (services, starts, runs) = if test { (5, 1, 1) } else { (500, 51, 3) };
    let namespace = NetNs::new().unwrap();
    let client = Client::connect_in(&namespace).unwrap();
    let up = ["link", "set", "lo", "up"];
    assert!(namespace.run(|| Command::new("ip").args(up).status()).unwrap().unwrap().success());

    let directory = tempfile::tempdir().unwrap();
    let rules = directory.path().join("rules");
    std::fs::write(&rules, text(services)).unwrap();
    let programs = [ours.as_path(), Path::new("ipvsadm")];

    println!("| | ours | ipvsadm 1.31 | times as fast |");
    println!("|---|---|---|---|");
    let run = |program: &Path, option: &str| measure(&namespace, program, option, &rules);
    row("`-Ln` of an empty table", starts, programs, |program| run(program, "-Ln"));
    row(&format!("`-R` of {} lines", services * 11), runs, programs, |program| {
        client.flush().unwrap();
        run(program, "-R")
    });
    let real_servers = services * 10;
    for option in ["-Ln", "-Sn"] {
        let what = format!("`{option}` of {real_servers} real servers");
        row(&what, runs, programs, |program| run(program, option));
    }
    client.flush().unwrap();
}

/// Both by turns, so that a machine that slows down slows both down; the median of each.
fn row(what: &str, runs: usize, programs: [&Path; 2], mut measure: impl FnMut(&Path) -> Duration) {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..runs {
        for (program, times) in programs.iter().zip(&mut times) {
            times.push(measure(program));
        }
    }
    let [ours, theirs] = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e3
    });
    println!("| {what} | {ours:.1} ms | {theirs:.1} ms | {:.1} |", theirs / ours);
}

/// How long a process takes, from its start to its end.
fn measure(namespace: &NetNs, program: &Path, option: &str, rules: &Path) -> Duration {
    let input = File::open(rules).unwrap();
    namespace
        .run(|| {
            let begun = Instant::now();
            let mut command = Command::new(program);
            // Cargo sets it, and a loader that looks everywhere is what would be measured.
            command.env_remove("LD_LIBRARY_PATH");
            command.arg(option).stdin(input).stdout(Stdio::null());
            assert!(command.status().unwrap().success());
            begun.elapsed()
        })
        .unwrap()
}

/// Services with ten real servers each.
fn text(services: usize) -> String {
    let mut text = String::new();
    for service in 0..services {
        let key = format!("-t 10.0.{}.{}:80", service / 250, service % 250);
        writeln!(text, "-A {key} -s wlc").unwrap();
        for server in 1..=10 {
            writeln!(text, "-a {key} -r 10.1.0.{server}:80 -m -w 1").unwrap();
        }
    }
    text
}

/// What `cargo build --profile installed` makes, beside the directory of this program.
fn program() -> PathBuf {
    let here = env::current_exe().unwrap();
    // target/release/deps/ipvsadm-1234
    here.ancestors().nth(3).unwrap().join("installed/ipvsadm")
}
