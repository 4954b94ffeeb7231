//! Runs every kernel case on kernel after kernel, and prints a table.
//!
//! ```sh
//! cargo run -p kernel-tests --bin matrix                       # on all of them
//! cargo run -p kernel-tests --bin matrix -- uml-6.1 qemu-6.12  # on these
//! ```
//!
//! It ends with 1 when a case failed somewhere, or a kernel could not be had.

use std::{
    collections::BTreeMap,
    error::Error,
    ffi::OsString,
    io::{BufRead, BufReader},
    process::{Command, ExitCode, Stdio},
};

/// The kernels, as `LVS_GUEST_KERNEL` names them.
const KERNELS: &[&str] = &[
    "uml-5.10",
    "uml-6.1",
    "uml-6.12",
    "uml-7.2",
    "qemu-5.10",
    "qemu-6.1",
    "qemu-6.12",
    "qemu-6.18",
    "qemu-newest",
];

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut kernels: Vec<String> = std::env::args().skip(1).collect();
    if kernels.is_empty() {
        kernels.extend(KERNELS.iter().map(ToString::to_string));
    }
    let binary = build()?;
    let columns: Vec<Column> =
        kernels.iter().map(|kernel| run(&binary, kernel)).collect::<Result<_, _>>()?;
    print(&columns);
    let well = columns.iter().all(Column::is_well);
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds the binary with the kernel cases, and returns its path.
fn build() -> Result<String, Box<dyn Error>> {
    // Optimized: QEMU translates every instruction, and the cases take a third of the time.
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
        .ok_or_else(|| "cargo does not tell where the kernel cases are".into())
}

/// What came of the cases on one kernel.
struct Column {
    kernel: String,
    /// The kernel's release, as the cases told it; `None` where they did not run.
    release: Option<String>,
    results: BTreeMap<String, String>,
    passed: bool,
}

impl Column {
    fn is_well(&self) -> bool {
        self.passed && !self.results.is_empty()
    }
}

fn run(binary: &str, kernel: &str) -> Result<Column, Box<dyn Error>> {
    eprintln!("{kernel}: running");
    // QEMU takes minutes where User-Mode Linux takes half of one.
    let limit = std::env::var_os("LVS_GUEST_TIME_LIMIT").unwrap_or_else(|| OsString::from("1800"));
    let mut child = Command::new(binary)
        .env("LVS_GUEST_PLACE", "guest")
        .env("LVS_GUEST_KERNEL", kernel)
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
            // What a case printed itself comes before its result.
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
    Ok(Column { kernel: kernel.to_owned(), release, results, passed })
}

/// Prints kernels x cases; cases that passed everywhere share a row.
fn print(columns: &[Column]) {
    let mut names: Vec<&String> = columns.iter().flat_map(|column| column.results.keys()).collect();
    names.sort();
    names.dedup();
    let cell = |column: &Column, name: &String| {
        column.results.get(name).cloned().unwrap_or_else(|| "not run".to_owned())
    };
    let (well, other): (Vec<_>, Vec<_>) = names
        .into_iter()
        .partition(|&name| columns.iter().all(|column| cell(column, name) == "ok"));

    let row = |first: &str, cells: Vec<String>| println!("| {first} | {} |", cells.join(" | "));
    row("", columns.iter().map(|column| column.kernel.clone()).collect());
    row("---", columns.iter().map(|_| "---".to_owned()).collect());
    let release = |column: &Column| column.release.clone().unwrap_or_else(|| "none".to_owned());
    row("release", columns.iter().map(release).collect());
    row(&format!("{} cases", well.len()), columns.iter().map(|_| "ok".to_owned()).collect());
    for name in other {
        row(name, columns.iter().map(|column| cell(column, name)).collect());
    }
}
