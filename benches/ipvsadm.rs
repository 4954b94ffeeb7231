//! Our ipvsadm beside ipvsadm 1.31, whole processes on a kernel that has IPVS: start-up, `-R`, `-Ln`
//! and `-Sn`. README.md shows the table that it prints.
//!
//! ```sh
//! cargo build --profile installed -p ipvsadm
//! cargo build --profile installed -p ipvsadm --target x86_64-unknown-linux-musl   # one static file
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

use ipvs_client::{blocking::Client, packet::Request};
use ipvs_table::Rules;
use netns_link::NetNs;

fn main() {
    guest::assume_role();
    let [ours, static_file] = programs();
    if !ours.exists() {
        eprintln!("there is no {}: cargo build --profile installed -p ipvsadm", ours.display());
        process::exit(1);
    }
    println!("On {}.\n", guest::enter_or_exit());
    let test = env::args().any(|argument| argument == "--test");
    let (services, starts, runs) = if test { (5, 1, 1) } else { (500, 51, 9) };
    let directory = tempfile::tempdir().unwrap();
    let rules = directory.path().join("rules");
    let text = text(services);
    std::fs::write(&rules, &text).unwrap();
    let requests: Vec<Request> = text.parse::<Rules>().unwrap().requests().collect();

    let static_file = static_file.exists().then_some(static_file);
    let contenders = Contenders { ours, static_file, rules };
    let mut table = fresh();
    println!(
        "| | ours | ours, one static file | ipvsadm 1.31 | times as fast | the kernel alone |"
    );
    println!("|---|---|---|---|---|---|");
    contenders.row("`-Ln` of an empty table", starts, |contender| {
        contender.map_or(Duration::ZERO, |run| run(&table.0, "-Ln"))
    });
    contenders.row(&format!("`-R` of {} lines", services * 11), runs, |contender| {
        // The kernel goes through the real servers that were deleted a short while ago, in each
        // namespace, for every one that is added.
        table = fresh();
        match contender {
            Some(run) => run(&table.0, "-R"),
            None => timed(|| table.1.batch(&requests).into_result().unwrap()),
        }
    });
    for option in ["-Ln", "-Sn"] {
        let what = format!("`{option}` of {} real servers", services * 10);
        contenders.row(&what, runs, |contender| match contender {
            Some(run) => run(&table.0, option),
            None => timed(|| assert_eq!(table.1.snapshot().unwrap().services.len(), services)),
        });
    }
    table.1.flush().unwrap();
}

/// A namespace with an empty table.
fn fresh() -> (NetNs, Client) {
    let namespace = NetNs::new().unwrap();
    let up = ["link", "set", "lo", "up"];
    assert!(namespace.run(|| Command::new("ip").args(up).status()).unwrap().unwrap().success());
    let client = Client::connect_in(&namespace).unwrap();
    (namespace, client)
}

/// What is measured, and what the lines for `-R` are in.
struct Contenders {
    ours: PathBuf,
    static_file: Option<PathBuf>,
    rules: PathBuf,
}

/// Runs a contender in a namespace with an option.
type Run<'a> = &'a dyn Fn(&NetNs, &str) -> Duration;

impl Contenders {
    /// All in turns, so that a machine that slows down slows all of them; the best of each. `None` is
    /// what the kernel alone takes, asked by this process.
    fn row(&self, what: &str, runs: usize, mut measure: impl FnMut(Option<Run<'_>>) -> Duration) {
        let original = PathBuf::from("ipvsadm");
        let programs = [Some(&self.ours), self.static_file.as_ref(), Some(&original), None];
        let mut times = programs.map(|_| Vec::new());
        for _ in 0..runs {
            for (number, (program, times)) in programs.iter().zip(&mut times).enumerate() {
                match program {
                    Some(program) => times.push(measure(Some(&|namespace, option| {
                        self.process(namespace, program, option)
                    }))),
                    None if number + 1 == programs.len() => times.push(measure(None)),
                    None => {}
                }
            }
        }
        let [ours, static_file, theirs, kernel] = times
            .map(|times| times.into_iter().min().map(|time: Duration| time.as_secs_f64() * 1e3));
        let shown = |time: Option<f64>| match time {
            Some(time) if time > 0.0 => format!("{time:.1} ms"),
            _ => "-".to_owned(),
        };
        let ratio = |time: Option<f64>| match (theirs, time) {
            (Some(theirs), Some(ours)) => format!("{:.2}", theirs / ours),
            _ => "-".to_owned(),
        };
        println!(
            "| {what} | {} | {} | {} | {}, {} | {} |",
            shown(ours),
            shown(static_file),
            shown(theirs),
            ratio(ours),
            ratio(static_file),
            shown(kernel),
        );
    }

    /// How long a process takes, from its start to its end.
    fn process(&self, namespace: &NetNs, program: &Path, option: &str) -> Duration {
        let input = File::open(&self.rules).unwrap();
        let mut command = Command::new(program);
        // Cargo sets it, and a loader that looks everywhere is what would be measured.
        command.env_remove("LD_LIBRARY_PATH");
        command.arg(option).stdin(input).stdout(Stdio::null());
        let run = || timed(|| assert!(command.status().unwrap().success()));
        namespace.run(run).unwrap()
    }
}

fn timed(run: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    run();
    begun.elapsed()
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

/// What `cargo build --profile installed` makes beside the directory of this program, for this
/// machine's C library and as a static file.
fn programs() -> [PathBuf; 2] {
    let here = env::current_exe().unwrap();
    // target/release/deps/ipvsadm-1234
    let target = here.ancestors().nth(3).unwrap();
    ["installed", "x86_64-unknown-linux-musl/installed"]
        .map(|directory| target.join(directory).join("ipvsadm"))
}
