//! `--apply` and `--diff`: the table as a file says it should be.

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
};

use ipvs_table::{Command, Names, Rules};
use lvs::{
    Action, Applied, ApplyError, Desired, Invalid, Plan, Policy, TextError, block_on,
    client::blocking::Client,
};

use crate::{
    drain,
    failure::{FAILED, Failure, UNUSABLE},
    options::Mode,
    output::Console,
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
    console: &Console<'_>,
) -> Result<u8, Failure> {
    let changes = matches!(mode, Mode::Apply | Mode::Drain);
    let carry_out = || {
        let desired = read(file, names, console).map_err(|failure| match changes {
            true => failure.with_note("nothing was changed"),
            false => failure,
        })?;
        let client = connect()?;
        let plan = || block_on(desired.plan(&client, policy));
        match mode {
            Mode::Apply => {
                let mut report = Report::new(console);
                report.of(block_on(desired.apply(&client, policy)))?;
                report.end().map(|()| 0)
            }
            Mode::Drain => drain::table(&client, &desired, policy, console).map(|()| 0),
            Mode::ShowDifferences => {
                let plan = plan()?;
                console.print(&plan.diff().coloured(console.is_coloured()))?;
                Ok(status(&plan))
            }
            Mode::ShowCommands => {
                let plan = plan()?;
                console.print(&format!("{}{}", plan.command_lines(), later(&plan, &desired)))?;
                Ok(status(&plan))
            }
        }
    };
    // Whatever goes wrong with a look must not look like a difference.
    carry_out().map_err(|failure: Failure| match changes {
        true => failure,
        false => failure.with_status(FAILED),
    })
}

fn status(plan: &Plan) -> u8 {
    if plan.is_empty() { 0 } else { DIFFERENT }
}

/// The commands for what is drained, which are not for now.
fn later(plan: &Plan, desired: &Desired) -> String {
    let drained = plan.changes().filter_map(|change| match change.action() {
        Action::DrainRealServer { before, .. } => {
            let key = *change.service();
            Some((key, desired.get(&key).map(|_| before.key)))
        }
        _ => None,
    });
    let commands = drained.collect::<BTreeSet<_>>().into_iter().map(|(key, server)| {
        let command = match server {
            Some(server) => Command::DeleteServer(key, server),
            None => Command::DeleteService(key),
        };
        format!("# when its connections have ended: ipvsadm {command}\n")
    });
    commands.collect()
}

/// What was done, printed as it is done. That nobody reads it is no reason to leave the rest.
pub(crate) struct Report<'a, 'b> {
    console: &'a Console<'b>,
    unprinted: Option<Failure>,
}

impl<'a, 'b> Report<'a, 'b> {
    pub(crate) fn new(console: &'a Console<'b>) -> Self {
        Self { console, unprinted: None }
    }

    /// Prints what was done, also where something else failed.
    pub(crate) fn of(&mut self, outcome: Result<Applied, ApplyError>) -> Result<Applied, Failure> {
        let applied = match &outcome {
            Ok(applied) => Some(applied),
            Err(error) => error.applied(),
        };
        let done = applied.into_iter().flat_map(Applied::done);
        let lines: String = done.map(|change| format!("{change}\n")).collect();
        if self.unprinted.is_none() && !lines.is_empty() {
            self.unprinted = self.console.print(&lines).err();
        }
        if let Some((applied, key)) = applied.and_then(|it| Some((it, it.uncertain().first()?))) {
            let count = applied.uncertain().len();
            self.console.say(&format!(
                "{count} services were being changed by another program, {key} among them: nothing \
                 of these was deleted. Run it again"
            ));
        }
        Ok(outcome?)
    }

    /// What went wrong with the printing.
    pub(crate) fn end(self) -> Result<(), Failure> {
        self.unprinted.map_or(Ok(()), Err)
    }
}

/// Reads rules of `ipvsadm -S`, or what `--json` prints of the table.
fn read(file: &str, names: &dyn Names, console: &Console<'_>) -> Result<Desired, Failure> {
    let (name, text) = match file {
        "-" => ("the standard input", console.read()),
        file => (file, fs::read(file)),
    };
    let not_utf8 = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let text = text
        .and_then(|bytes| String::from_utf8(bytes).map_err(not_utf8))
        .map_err(|error| Failure::file(name, &error))?;
    let wrong = |status, text: &str| {
        let lines: Vec<_> = text.lines().map(|line| format!("{name}: {line}")).collect();
        Failure::new(status, lines.join("\n"))
    };
    // Some editors begin a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| wrong(UNUSABLE, &error.to_string()));
    }
    let rules = Rules::parse(text, names)
        .map_err(|mistakes| wrong(mistakes.exit_status(), &mistakes.to_string()))?;
    for warning in rules.iter().flat_map(|rule| &rule.warnings) {
        console.say(&format!("warning: {name}: {warning}"));
    }
    // More likely is that whatever should have written it failed.
    if rules.is_empty() {
        let text = "the file has no rules; to delete all services, write -C";
        return Err(wrong(UNUSABLE, text));
    }
    Desired::try_from(&rules).map_err(|error| {
        let text = match &error {
            TextError::Invalid(invalid) => with_lines(invalid, &rules),
            other => other.to_string(),
        };
        wrong(UNUSABLE, &text)
    })
}

/// What breaks the rules of lvs, each with the line that said so last.
fn with_lines(invalid: &Invalid, rules: &Rules) -> String {
    let said = rules.iter().filter_map(|rule| {
        let object = match &rule.command {
            Command::AddService(service) | Command::EditService(service) => {
                format!("service {}", service.key())
            }
            Command::AddServer(service, server) | Command::EditServer(service, server) => {
                format!("real server {} of service {service}", server.key)
            }
            _ => return None,
        };
        Some((object, rule.line))
    });
    let lines: HashMap<_, _> = said.collect();
    let texts = invalid.violations().iter().map(|violation| match lines.get(violation.object()) {
        Some(line) => format!("line {line}: {violation}"),
        None => violation.to_string(),
    });
    texts.collect::<Vec<_>>().join("\n")
}
