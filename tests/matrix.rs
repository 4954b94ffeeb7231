//! Runs every kernel case on one kernel after another, and prints a table.
//!
//! ```sh
//! cargo run -p kernel-tests --bin matrix                       # on all of them
//! cargo run -p kernel-tests --bin matrix -- uml-6.1 qemu-6.12  # on these
//! ```
//!
//! The exit status is 1 if a case failed on any kernel, or a kernel was not available. The table shows
//! both, and "ok" only for cases that ran.

use std::{
    collections::BTreeMap,
    error::Error,
    ffi::OsString,
    io::{BufRead, BufReader},
    process::{Command, ExitCode, Stdio},
};

use guest::Kernel;

/// Features, and the cases that show each, by prefixes of their names.
const FEATURES: &[(&str, &[&str])] = &[
    ("masquerade (NAT), IPv4", &["nat_from_host_and_container_ipv4", "traffic_nat_ipv4"]),
    ("masquerade (NAT), IPv6", &["nat_from_host_and_container_ipv6", "traffic_nat_ipv6"]),
    ("direct routing, IPv4", &["traffic_direct_ipv4"]),
    ("direct routing, IPv6", &["traffic_direct_ipv6"]),
    ("tunnel, IP in IP", &["traffic_tunnel_ipv4"]),
    ("tunnel, IPv6 in IPv6", &["traffic_tunnel_ipv6"]),
    ("tunnel, GUE", &["traffic_gue_"]),
    ("schedulers", &["traffic_schedulers_"]),
    (
        "persistence, also by firewall mark",
        &["traffic_persistence_", "observe_templates_", "observe_marked_"],
    ),
    ("persistence engine sip", &["observe_engine_data"]),
    ("thresholds", &["traffic_thresholds_"]),
    (
        "draining and roll-outs under traffic",
        &["traffic_drain", "traffic_roll_out_", "traffic_weight_zero_"],
    ),
    ("sync daemons", &["client_daemons", "observe_synced_connections"]),
    (
        "connections, statistics, totals",
        &["observe_connections_", "observe_watch", "observe_totals"],
    ),
    ("settings net.ipv4.vs.*", &["observe_sysctls_"]),
    ("batches and snapshots", &["batch_", "snapshot_"]),
    ("desired state", &["lvs_"]),
    ("ip_vs unloaded and loaded again", &["client_outlives_a_reload_of_ip_vs"]),
    ("namespaces, dummy links, routes", &["netns_"]),
    ("the service proxy", &["kube_proxy_"]),
];

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut kernels: Vec<Kernel> =
        std::env::args().skip(1).map(|name| name.parse()).collect::<Result<_, _>>()?;
    if kernels.is_empty() {
        // The machine's own kernel is one of the others, or unknown.
        kernels.extend(Kernel::ALL.into_iter().filter(|kernel| *kernel != Kernel::Uml));
    }
    let binary = build()?;
    let columns: Vec<Column> =
        kernels.into_iter().map(|kernel| run(&binary, kernel)).collect::<Result<_, _>>()?;
    print!("{}\n{}", table(&columns), features(&columns));
    let well = columns.iter().all(Column::is_well);
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds the binary with the kernel cases, and returns its path.
fn build() -> Result<String, Box<dyn Error>> {
    // Optimized: QEMU translates every instruction, and the cases then take a third of the time.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let output = Command::new(cargo)
        .args(["test", "--release", "--package", "kernel-tests", "--test", "kernel", "--no-run"])
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err("the kernel cases do not build".into());
    }
    String::from_utf8(output.stdout)?
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "kernel")
        .find_map(|message| message["executable"].as_str().map(str::to_owned))
        .ok_or_else(|| "cargo does not say where the kernel cases are".into())
}

/// The results of the cases on one kernel.
struct Column {
    kernel: String,
    /// The kernel's release, as the cases report it; `None` if no case ran.
    release: Option<String>,
    results: BTreeMap<String, String>,
    passed: bool,
}

impl Column {
    fn is_well(&self) -> bool {
        self.passed && self.release.is_some() && !self.results.is_empty()
    }

    fn release(&self) -> &str {
        self.release.as_deref().unwrap_or("not available")
    }

    /// The result of a case.
    fn result(&self, case: &str) -> &str {
        match self.release {
            Some(_) => self.results.get(case).map_or("not run", String::as_str),
            None => "not available",
        }
    }
}

fn run(binary: &str, kernel: Kernel) -> Result<Column, Box<dyn Error>> {
    eprintln!("{kernel}: running");
    // QEMU takes minutes, User-Mode Linux half a minute.
    let limit = std::env::var_os("LVS_GUEST_TIME_LIMIT").unwrap_or_else(|| OsString::from("1800"));
    let mut child = Command::new(binary)
        .env("LVS_GUEST_PLACE", "guest")
        .env("LVS_GUEST_KERNEL", kernel.name())
        .env("LVS_GUEST_TIME_LIMIT", limit)
        .env("LVS_REQUIRE_KERNEL", "1")
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let errors = child.stderr.take().ok_or("no standard error")?;
    let release = std::thread::spawn(move || {
        let mut release = None;
        for line in BufReader::new(errors).lines().map_while(Result::ok) {
            if let Some((_, told)) = line.split_once("kernel-tests: on a guest kernel ") {
                release = Some(told.to_owned());
            } else {
                eprintln!("    {line}");
            }
        }
        release
    });
    let mut results = BTreeMap::new();
    let output = child.stdout.take().ok_or("no standard output")?;
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["test", name, "...", result] => {
                results.insert(name.to_owned(), result.to_owned());
            }
            // The case's own output comes before its result.
            ["ok" | "FAILED" | "ignored"] => {
                if let Some((_, result)) = results.iter_mut().find(|(_, r)| r.is_empty()) {
                    words[0].clone_into(result);
                }
            }
            ["test", name, "...", ..] => {
                results.insert(name.to_owned(), String::new());
            }
            _ => eprintln!("    {line}"),
        }
    }
    let passed = child.wait()?.success();
    let release = release.join().map_err(|_| "reading standard error panicked")?;
    Ok(Column { kernel: kernel.to_string(), release, results, passed })
}

/// Kernels x cases; cases that passed on every available kernel share a row.
fn table(columns: &[Column]) -> String {
    let available = || columns.iter().filter(|column| column.release.is_some());
    let mut names: Vec<&String> = columns.iter().flat_map(|column| column.results.keys()).collect();
    names.sort();
    names.dedup();
    let (well, other): (Vec<_>, Vec<_>) =
        names.into_iter().partition(|name| available().all(|column| column.result(name) == "ok"));

    let row = |first: &str, cells: Vec<&str>| format!("| {first} | {} |\n", cells.join(" | "));
    let mut table = row("", columns.iter().map(|column| column.kernel.as_str()).collect());
    table += &row("---", columns.iter().map(|_| "---").collect());
    table += &row("release", columns.iter().map(Column::release).collect());
    if let Some(name) = well.first() {
        let cells = columns.iter().map(|column| column.result(name)).collect();
        table += &row(&format!("{} cases", well.len()), cells);
    }
    for name in other {
        table += &row(name, columns.iter().map(|column| column.result(name)).collect());
    }
    table
}

/// Kernels x features: "yes" if every case of a feature passed.
fn features(columns: &[Column]) -> String {
    let row = |first: &str, cells: Vec<String>| format!("| {first} | {} |\n", cells.join(" | "));
    let mut table = row("", columns.iter().map(|column| column.kernel.clone()).collect());
    table += &row("---", columns.iter().map(|_| "---".to_owned()).collect());
    for (feature, beginnings) in FEATURES {
        let shows = |case: &str| beginnings.iter().any(|beginning| case.starts_with(beginning));
        let cell = |column: &Column| {
            let cases: Vec<_> = column.results.iter().filter(|(case, _)| shows(case)).collect();
            let passed = cases.iter().filter(|(_, result)| *result == "ok").count();
            match cases.len() {
                0 => "not run".to_owned(),
                all if passed == all => "yes".to_owned(),
                all => format!("{passed} of {all}"),
            }
        };
        table += &row(feature, columns.iter().map(cell).collect());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(kernel: &str, release: Option<&str>, results: &[(&str, &str)]) -> Column {
        let results =
            results.iter().map(|(case, result)| (case.to_string(), result.to_string())).collect();
        let release = release.map(str::to_owned);
        Column { kernel: kernel.to_owned(), release, results, passed: true }
    }

    #[test]
    fn a_feature_is_there_when_all_its_cases_passed() {
        let columns = [
            column("a", Some("1.0"), &[("traffic_gue_ipv4", "ok"), ("traffic_gue_ipv6", "ok")]),
            column("b", Some("2.0"), &[("traffic_gue_ipv4", "ok"), ("traffic_gue_ipv6", "FAILED")]),
            column("c", None, &[]),
        ];
        assert!(features(&columns).contains("| tunnel, GUE | yes | 1 of 2 | not run |\n"));
    }

    #[test]
    fn what_did_not_run_is_not_ok() {
        let columns = [
            column("a", Some("1.0"), &[("one", "ok"), ("two", "ok"), ("three", "ok")]),
            column("b", Some("2.0"), &[("one", "ok"), ("two", "FAILED")]),
            column("c", None, &[]),
        ];
        let expected = "|  | a | b | c |\n| --- | --- | --- | --- |\n\
            | release | 1.0 | 2.0 | not available |\n\
            | 1 cases | ok | ok | not available |\n\
            | three | ok | not run | not available |\n\
            | two | ok | FAILED | not available |\n";
        assert_eq!(table(&columns), expected);
        assert_eq!(columns.map(|column| column.is_well()), [true, true, false]);
        let expected = "|  | c |\n| --- | --- |\n| release | not available |\n";
        assert_eq!(table(&[column("c", None, &[])]), expected);
    }
}
