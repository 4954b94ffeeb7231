//! The table as the rules of `ipvsadm -S`, and back.
//!
//! ```sh
//! cargo run --example save_restore                               # in the guest, both ways
//! cargo run --example save_restore -- --here save > rules        # this machine's table
//! cargo run --example save_restore -- --here restore rules
//! ```
//!
//! Unlike `ipvsadm -R`, restoring applies nothing of a file with mistakes, and leaves what is already
//! in the table as it is, with its connections.

use std::{error::Error, fs, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use examples::{command, heading};
use lvs::{Desired, Policy, Scope, block_on, client::blocking::Client};

/// Saves or restores the table of this network namespace, in ipvsadm's format.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    /// Use this machine's kernel and network namespace instead of the guest's
    #[arg(long)]
    here: bool,
}

#[derive(Subcommand)]
enum What {
    /// Print the table
    Save,
    /// Make the table what a file describes
    Restore {
        /// A file of `ipvsadm -S`
        file: PathBuf,
    },
}

const RULES: &str = "\
-A -t 10.0.0.185:80 -s wrr -p 300
-a -t 10.0.0.185:80 -r 172.17.0.3:80 -m -w 3 -x 100 -y 80
-a -t 10.0.0.185:80 -r 172.17.0.4:80 -m -w 1
-A -t [fd00:10::185]:443 -s mh -b mh-port
-a -t [fd00:10::185]:443 -r [fd00:17::3]:443 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum
-A -f 10 -s wlc
-a -f 10 -r 172.17.0.3:0 -g -w 1
";

fn main() -> ExitCode {
    guest::assume_role();
    examples::end(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let restored = match &arguments.what {
        Some(What::Restore { file }) => Some(read(file)?),
        _ => None,
    };
    if !arguments.here {
        eprintln!("Running on {}.", guest::enter_or_exit());
    }
    let ipvs = Client::connect()?;
    match (&arguments.what, restored) {
        (Some(What::Save), _) => print!("{}", save(&ipvs)?),
        (Some(What::Restore { .. }), Some(desired)) => restore(&ipvs, &desired)?,
        _ => to_and_fro(&ipvs)?,
    }
    Ok(())
}

/// Reads a file. Reports all its mistakes, each with line and column.
fn read(file: &PathBuf) -> Result<Desired, Box<dyn Error>> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(text.parse()?)
}

fn save(ipvs: &Client) -> Result<Desired, Box<dyn Error>> {
    Ok(Desired::try_from(&ipvs.snapshot()?)?)
}

fn restore(ipvs: &Client, desired: &Desired) -> Result<(), Box<dyn Error>> {
    let plan = block_on(desired.plan(ipvs, &Policy::new().scope(Scope::All)))?;
    anstream::print!("{}", plan.diff().coloured(true));
    block_on(plan.apply(ipvs))?;
    Ok(())
}

fn to_and_fro(ipvs: &Client) -> Result<(), Box<dyn Error>> {
    heading("A file with mistakes: nothing of it is applied");
    let wrong = RULES.replace("-w 3", "-w three").replace("wlc", "none");
    println!("{}", wrong.parse::<Desired>().err().ok_or("the mistakes were not found")?);
    heading("Restored into an empty table");
    let rules: Desired = RULES.parse()?;
    restore(ipvs, &rules)?;
    heading("Saved again");
    command("ipvsadm -Sn");
    let saved = save(ipvs)?;
    print!("{saved}");
    if saved != rules {
        return Err("what was saved is not what was restored".into());
    }
    heading("Restored with one weight changed: one write, the rest stays");
    restore(ipvs, &RULES.replace("-w 3", "-w 5").parse()?)?;
    heading("Restored as it was");
    restore(ipvs, &rules)?;
    Ok(())
}
