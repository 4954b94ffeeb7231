//! `--apply` and `--diff`: the table as a file says it should be.

use std::{
    fs,
    io::{self, Read as _},
    thread,
    time::Instant,
};

use ipvs_table::{Names, Rules};
use lvs::{Desired, Draining, Policy, client::blocking::Client};

use crate::{
    failure::{FAILED, Failure},
    options::Mode,
    output::{is_coloured, print, say},
};

/// The exit status when something differs.
const DIFFERENT: u8 = 2;

/// Returns the exit status.
pub(crate) fn apply(
    connect: &dyn Fn() -> Result<Client, Failure>,
    file: &str,
    policy: &Policy,
    mode: Mode,
    names: &dyn Names,
) -> Result<u8, Failure> {
    match mode {
        Mode::Apply | Mode::Drain => {
            let desired = read(file, names)?;
            let client = connect()?;
            match mode {
                Mode::Drain => drain(&client, &desired, policy)?,
                _ => once(&client, &desired, policy)?,
            }
            Ok(0)
        }
        Mode::ShowDifferences | Mode::ShowCommands => {
            // Whatever goes wrong must not look like a difference.
            let failed = |failure: Failure| failure.with_status(FAILED);
            let desired = read(file, names).map_err(failed)?;
            let client = connect().map_err(failed)?;
            let plan = desired
                .blocking_plan(&client, policy)
                .map_err(|error| failed(Failure::from(error)))?;
            match mode {
                Mode::ShowCommands => print(&plan.command_lines()),
                _ => print(&plan.diff().coloured(is_coloured())),
            }
            .map_err(failed)?;
            Ok(if plan.is_empty() { 0 } else { DIFFERENT })
        }
    }
}

/// Applies, and prints what was changed.
fn once(client: &Client, desired: &Desired, policy: &Policy) -> Result<(), Failure> {
    let applied = desired.blocking_apply(client, policy);
    let done = match &applied {
        Ok(applied) => Some(applied),
        Err(error) => error.applied(),
    };
    for change in done.into_iter().flat_map(|applied| applied.done()) {
        print(&format_args!("{change}\n"))?;
    }
    let applied = applied?;
    if let Some(key) = applied.uncertain().first() {
        let count = applied.uncertain().len();
        say(&format!(
            "others kept changing {count} services, {key} among them: nothing of these was deleted; \
             apply again"
        ));
    }
    Ok(())
}

/// Applies until nothing is left to be drained.
fn drain(client: &Client, desired: &Desired, policy: &Policy) -> Result<(), Failure> {
    let mut draining = Draining::new();
    loop {
        let now = Instant::now();
        let (plan, next) = draining.step(desired, &client.snapshot()?, policy, now);
        for change in plan.blocking_apply(client)? {
            print(&format_args!("{change}\n"))?;
        }
        let Some(next) = next else { return Ok(()) };
        thread::sleep(next.saturating_duration_since(now));
    }
}

/// Reads rules of `ipvsadm -S`, or a table as JSON.
fn read(file: &str, names: &dyn Names) -> Result<Desired, Failure> {
    let mut text = String::new();
    let (name, outcome) = match file {
        "-" => ("the standard input", io::stdin().lock().read_to_string(&mut text)),
        file => (file, fs::File::open(file).and_then(|mut file| file.read_to_string(&mut text))),
    };
    outcome.map_err(|error| Failure::file(name, &error))?;
    let wrong = |status, text: String| {
        let lines: Vec<_> = text.lines().map(|line| format!("{name}: {line}")).collect();
        Failure::new(status, lines.join("\n") + "\nnothing was changed")
    };
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(&text).map_err(|error| wrong(DIFFERENT, error.to_string()));
    }
    let rules = Rules::parse(&text, names)
        .map_err(|mistakes| wrong(mistakes.exit_status(), mistakes.to_string()))?;
    Desired::try_from(&rules).map_err(|error| wrong(DIFFERENT, error.to_string()))
}
