//! A table from a file: prints the plan, asks, applies it, and keeps the table so.
//!
//! ```sh
//! cargo run --example apply                                     # in the guest, with its own file
//! cargo run --example apply -- --here --watch 60 services.yaml  # this machine's table
//! ```
//!
//! The file has the schema of `ipvs_table::TableDocument`. Other services are left alone, unless
//! `--all` says that the file is the whole table.

use std::{
    error::Error,
    fs,
    io::{self, BufRead, Write},
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use examples::heading;
use ipvs_table::UncheckedDocument;
use lvs::{
    Desired, Drain, Policy, Reconciler, Scope, VirtualService, block_on, client::blocking::Client,
};

/// Changes the table of this network namespace to what a file describes.
#[derive(Parser)]
struct Arguments {
    /// The services, in YAML or JSON; without it, two services of this example
    file: Option<PathBuf>,
    /// Use this machine's kernel and network namespace instead of the guest's
    #[arg(long, requires = "file")]
    here: bool,
    /// Delete every service that the file does not name
    #[arg(long)]
    all: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    /// Only print the plan
    #[arg(long)]
    dry_run: bool,
    /// How many seconds to keep the table so
    #[arg(long, default_value_t = 2)]
    watch: u64,
}

const SERVICES: &str = "\
services:
  - address: 10.0.0.185:80
    scheduler: wrr
    real_servers:
      - {address: 172.17.0.3:80, forwarding: masquerade, weight: 3}
      - {address: 172.17.0.4:80, forwarding: masquerade}
  - address: 10.0.0.185:53
    protocol: udp
    real_servers:
      - {address: 172.17.0.3:53, forwarding: masquerade}
";

fn main() -> ExitCode {
    guest::assume_role();
    examples::end(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    // A file with errors changes nothing: all of them are printed, one in each line.
    let text = match &arguments.file {
        Some(file) => {
            fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?
        }
        None => SERVICES.to_owned(),
    };
    let document: UncheckedDocument = serde_saphyr::from_str(&text)?;
    let desired = Desired::try_from(document.check()?.snapshot())?;
    if !arguments.here {
        println!("Running on {}.", guest::enter_or_exit());
    }
    let ipvs = Client::connect()?;
    if arguments.file.is_none() {
        heading("The table, which somebody has set differently");
        let other: VirtualService = "\
            -A -t 10.0.0.185:80 -s sh -p 300\n\
            -a -t 10.0.0.185:80 -r 172.17.0.2:80 -m\n\
            -a -t 10.0.0.185:80 -r 172.17.0.3:80 -m\n"
            .parse()?;
        block_on(other.apply(&ipvs))?;
        print!("{other}");
        heading("The desired table");
        print!("{text}");
    }

    let scope = if arguments.all { Scope::All } else { Scope::Named };
    let policy = Policy::new().scope(scope).drain(Drain::for_at_most(Duration::from_secs(60)));
    let plan = block_on(desired.plan(&ipvs, &policy))?;
    heading("The plan");
    anstream::print!("{}", plan.diff().coloured(true));
    if plan.is_empty() {
        println!("no changes: the table is as desired");
    }
    if arguments.dry_run {
        return Ok(());
    }
    let ask = !arguments.yes && arguments.file.is_some() && !plan.is_empty();
    if ask && !confirmed(plan.len())? {
        return Ok(());
    }
    let applied = block_on(plan.apply(&ipvs))?;
    println!("{} changes made", applied.len());

    heading(&format!("Kept for {} s", arguments.watch));
    if arguments.file.is_none() {
        println!("(another program deletes a service)");
        let service = desired.iter().next().ok_or("the example has services")?;
        block_on(service.delete(&ipvs))?;
    }
    let mut reconciler = Reconciler::new(policy).resync_every(Duration::from_secs(1));
    reconciler.set(desired);
    let end = Instant::now() + Duration::from_secs(arguments.watch);
    while Instant::now() < end {
        if let Some(round) = block_on(reconciler.round(&ipvs, Instant::now())) {
            match &round.result {
                Ok(applied) => applied.done().for_each(|change| println!("{change}")),
                Err(error) => eprintln!("{error}"),
            }
        }
        thread::sleep(Duration::from_millis(50));
    }
    let status = reconciler.status();
    println!("{} rounds, {} changes", status.rounds, status.changes);
    if arguments.file.is_none()
        && !block_on(reconciler.desired().plan(&ipvs, &Policy::new()))?.is_empty()
    {
        return Err("the table is not as desired".into());
    }
    Ok(())
}

fn confirmed(changes: usize) -> io::Result<bool> {
    print!("Make these {changes} changes? [y/N] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
