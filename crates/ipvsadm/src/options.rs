//! What the arguments say.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use ipvs_table::{Command, ListOptions, Listed, Mistake, Names, OwnOption, Place};
use lvs::{
    Policy, Scope,
    client::packet::{DestinationKey, ServiceKey},
};

use crate::{
    drain,
    failure::{FAILED, Failure, UNUSABLE},
    output::Console,
    own::{DEFAULT_GRACE, OPTIONS, Own, Use},
    shell::Shell,
};

/// How often `--watch` lists if it says nothing, in seconds.
const DEFAULT_WATCH: &str = "1";

/// What is to be done, and how.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) task: Task,
    pub(crate) namespace: Option<String>,
    pub(crate) json: bool,
    pub(crate) watch: Option<Duration>,
    pub(crate) keep_going: bool,
    pub(crate) dry_run: bool,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Task {
    /// What ipvsadm can do too.
    Command(Command),
    /// Make the table equal to a file.
    Apply { file: String, policy: Policy, mode: Mode },
    /// Delete a real server, or a service with all of them, once its connections have ended.
    Drain { service: ServiceKey, server: Option<DestinationKey>, grace: Duration },
    /// Print completions.
    Completions(Shell),
    /// Print the manual page.
    ManualPage,
}

/// How far [`Task::Apply`] goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Apply,
    /// Apply, and wait for what is being drained.
    Drain,
    ShowDifferences,
    ShowCommands,
}

impl Invocation {
    /// Reads the arguments, without the program's name.
    pub(crate) fn parse(
        arguments: &[impl AsRef<str>],
        names: &dyn Names,
        console: &Console<'_>,
    ) -> Result<Self, Failure> {
        Self::read(arguments, names, console).map_err(|failure| {
            let hint = match failure.status() {
                UNUSABLE | FAILED => "",
                _ => "\n`ipvsadm -h` describes the options",
            };
            let (status, text) = failure.into_parts();
            // There, 2 means that something differs.
            Failure::new(if only_looks(arguments) { FAILED } else { status }, text + hint)
        })
    }

    fn read(
        arguments: &[impl AsRef<str>],
        names: &dyn Names,
        console: &Console<'_>,
    ) -> Result<Self, Failure> {
        let parsed = Command::parse_with(arguments, OPTIONS, names)?;
        for warning in &parsed.warnings {
            console.say(&format!("warning: {warning}"));
        }
        let given = Given { given: parsed.own };
        if let Some(command) = parsed.command {
            return given.with(command);
        }
        let tasks = [Own::Apply, Own::Diff, Own::Completions, Own::ManualPage];
        let mut tasks = tasks.into_iter().filter(|task| given.has(*task));
        match (tasks.next(), tasks.next()) {
            (None, _) => given.with(Command::List(ListOptions::new(Listed::Table))),
            (Some(task), None) => given.alone(task),
            (Some(one), Some(other)) => {
                Err(given.refuse(other, &format!("cannot go with --{}", one.long())))
            }
        }
    }
}

/// The own options of a command line.
struct Given {
    given: Vec<OwnOption>,
}

impl Given {
    fn find(&self, option: Own) -> Option<&OwnOption> {
        self.given.iter().find(|given| Own::at(given.index) == Some(option))
    }

    fn has(&self, option: Own) -> bool {
        self.find(option).is_some()
    }

    fn value(&self, option: Own) -> Option<String> {
        self.find(option).and_then(|given| given.value.clone())
    }

    /// A mistake in an option.
    fn refuse(&self, option: Own, text: &str) -> Failure {
        let start = Place::Argument { number: 1, offset: 0 };
        let place = self.find(option).map_or(start, |given| given.place.clone());
        let mistake = Mistake::new(place, format!("--{} {text}", option.long()));
        Failure::new(mistake.exit_status(), mistake.to_string())
    }

    /// Refuses what does not go with it.
    fn check(&self, what: Use) -> Result<(), Failure> {
        if self.has(Own::Grace) && !self.has(Own::Drain) {
            return Err(self.refuse(Own::Grace, "needs --drain"));
        }
        let mut options = self.given.iter().filter_map(|given| Own::at(given.index));
        match options.find(|option| !option.goes_with(what)) {
            None => Ok(()),
            Some(option) => Err(self.refuse(option, &format!("does not go with {what}"))),
        }
    }

    fn seconds(&self, option: Own, default: &str) -> Result<Duration, Failure> {
        let text = self.value(option).unwrap_or_else(|| default.to_owned());
        let seconds = text.parse().ok().and_then(|it| Duration::try_from_secs_f64(it).ok());
        let is_sane = |it: &Duration| *it <= Duration::from_secs(u32::MAX.into());
        seconds.filter(is_sane).ok_or_else(|| {
            self.refuse(option, &format!("must be a number of seconds, not {text:?}"))
        })
    }

    fn grace(&self) -> Result<Duration, Failure> {
        self.seconds(Own::Grace, &DEFAULT_GRACE.to_string())
    }

    /// One of ipvsadm's commands with the options that go with it.
    fn with(&self, command: Command) -> Result<Invocation, Failure> {
        let mut watch = None;
        let task = match command {
            Command::List(_) => {
                self.check(Use::List)?;
                if self.has(Own::Watch) {
                    let interval = self.seconds(Own::Watch, DEFAULT_WATCH)?;
                    // More often would be nothing but load.
                    if interval < Duration::from_millis(100) {
                        return Err(self.refuse(Own::Watch, "must be at least 0.1 seconds"));
                    }
                    watch = Some(interval);
                }
                Task::Command(command)
            }
            Command::Save { .. } => {
                self.check(Use::Save)?;
                Task::Command(command)
            }
            Command::Restore => {
                self.check(Use::Restore)?;
                if self.has(Own::KeepGoing) && self.has(Own::DryRun) {
                    return Err(self.refuse(Own::KeepGoing, "cannot go with --dry-run"));
                }
                Task::Command(command)
            }
            Command::DeleteServer(service, _) | Command::DeleteService(service)
                if self.has(Own::Drain) =>
            {
                self.check(Use::Delete)?;
                let server = match command {
                    Command::DeleteServer(_, server) => Some(server),
                    _ => None,
                };
                Task::Drain { service, server, grace: self.grace()? }
            }
            Command::Help | Command::Version => Task::Command(command),
            _ => {
                self.check(Use::Other)?;
                Task::Command(command)
            }
        };
        Ok(self.invocation(task, watch))
    }

    /// A task that ipvsadm does not have.
    fn alone(&self, task: Own) -> Result<Invocation, Failure> {
        let value = self.value(task).unwrap_or_default();
        let task = match task {
            Own::Completions => {
                self.check(Use::Completions)?;
                let shell = Shell::from_name(&value)
                    .ok_or_else(|| self.refuse(task, "must be bash, zsh or fish"))?;
                Task::Completions(shell)
            }
            Own::ManualPage => {
                self.check(Use::ManualPage)?;
                Task::ManualPage
            }
            _ => {
                self.check(if task == Own::Diff { Use::Diff } else { Use::Apply })?;
                let mut policy = Policy::new().scope(self.scope()?);
                if self.has(Own::Drain) {
                    policy = policy.drain(drain::policy(self.grace()?));
                }
                let mode = match (task, self.has(Own::DryRun), self.has(Own::Drain)) {
                    (Own::Diff, ..) => Mode::ShowDifferences,
                    (_, true, _) => Mode::ShowCommands,
                    (_, false, true) => Mode::Drain,
                    (_, false, false) => Mode::Apply,
                };
                Task::Apply { file: value, policy, mode }
            }
        };
        Ok(self.invocation(task, None))
    }

    fn invocation(&self, task: Task, watch: Option<Duration>) -> Invocation {
        Invocation {
            task,
            watch,
            namespace: self.value(Own::Namespace),
            json: self.has(Own::Json),
            keep_going: self.has(Own::KeepGoing),
            dry_run: self.has(Own::DryRun),
        }
    }

    /// Which services may be deleted.
    fn scope(&self) -> Result<Scope, Failure> {
        let Some(list) = self.value(Own::Only) else { return Ok(Scope::All) };
        let (mut networks, mut marks) = (Vec::new(), false);
        for word in list.split(',') {
            match word.trim() {
                "fwmark" => marks = true,
                word => networks.push(network(word).ok_or_else(|| {
                    let text = "takes networks such as 10.96.0.0/12, and the word fwmark";
                    self.refuse(Own::Only, &format!("{text}; {word:?} is neither"))
                })?),
            }
        }
        Ok(Scope::only(move |key| match key {
            ServiceKey::Mark { .. } => marks,
            ServiceKey::Address { address, .. } => networks.iter().any(|it| it.contains(address)),
        }))
    }
}

/// Whether a command line is one that shows differences, as far as it can be told where it cannot be
/// read.
pub(crate) fn only_looks(arguments: &[impl AsRef<str>]) -> bool {
    Own::Diff.is_in(arguments) || Own::Apply.is_in(arguments) && Own::DryRun.is_in(arguments)
}

/// A network, or an address.
fn network(word: &str) -> Option<IpNet> {
    word.parse().ok().or_else(|| word.parse::<IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_that_only_look() {
        for (line, expected) in [
            ("--diff x", true),
            ("--di x --bogus", true),
            ("--diff=x", true),
            ("--app x --dry-r", true),
            ("--apply x", false),
            ("-R --dry-run", false),
            ("--d x", false),
            ("-A -s diff", false),
        ] {
            assert_eq!(only_looks(&line.split(' ').collect::<Vec<_>>()), expected, "{line}");
        }
    }
}
