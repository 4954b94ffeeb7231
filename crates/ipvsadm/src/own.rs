//! The options that ipvsadm 1.31 does not have: one unit for each, with its spelling, its value, its
//! help, its completion, and what it goes with.

use std::fmt;

use ipvs_table::{Command, CommandOption, Completion, OptionValue};

/// How long `--drain` waits at most if `--grace` says nothing, in seconds. Its help says so, too.
pub(crate) const DEFAULT_GRACE: u64 = 300;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    Json,
    Watch,
    Namespace,
    KeepGoing,
    Drain,
    Grace,
    Apply,
    Diff,
    Only,
    DryRun,
    Completions,
    ManualPage,
}

/// What own options go with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    List,
    Save,
    Restore,
    /// `-d` and `-D` with `--drain`.
    Delete,
    Apply,
    Diff,
    Completions,
    ManualPage,
    /// Any other command of ipvsadm's.
    Other,
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::List => "-L",
            Self::Save => "-S",
            Self::Restore => "-R",
            Self::Delete => "-d and -D",
            Self::Apply => "--apply",
            Self::Diff => "--diff",
            Self::Completions => "--completions",
            Self::ManualPage => "--man",
            Self::Other => "this command",
        })
    }
}

/// One option, all of it.
struct Unit {
    option: Own,
    goes_with: &'static [Use],
    described: CommandOption,
}

const fn unit(option: Own, goes_with: &'static [Use], described: CommandOption) -> Unit {
    Unit { option, goes_with, described }
}

const UNITS: &[Unit] = &{
    use Use::{Apply, Completions, Delete, Diff, List, ManualPage, Other, Restore, Save};
    [
        unit(
            Own::Json,
            &[List, Save],
            CommandOption::new(
                "json",
                OptionValue::None,
                "prints any listing, or with -S the table, as JSON",
            ),
        ),
        unit(
            Own::Watch,
            &[List],
            CommandOption::new(
                "watch",
                OptionValue::Optional("SECONDS"),
                "repeats the listing every second, or at this interval, until interrupted",
            ),
        ),
        unit(
            Own::Namespace,
            &[List, Save, Restore, Delete, Apply, Diff, Other],
            CommandOption::new(
                "netns",
                OptionValue::Required("NAME|PID|PATH"),
                "works in another network namespace: a name from ip netns, a process id, or a file",
            )
            .completed_by(Completion::Lines("ls /run/netns 2>/dev/null")),
        ),
        unit(
            Own::KeepGoing,
            &[Restore],
            CommandOption::new(
                "keep-going",
                OptionValue::None,
                "with -R, runs the valid lines even if others are not",
            ),
        ),
        unit(
            Own::Drain,
            &[Delete, Apply, Diff],
            CommandOption::new(
                "drain",
                OptionValue::None,
                "with -d, -D and --apply, sets the weight of a real server to 0 first, and deletes it \
         when its connections have ended",
            ),
        ),
        unit(
            Own::Grace,
            &[Delete, Apply, Diff],
            CommandOption::new(
                "grace",
                OptionValue::Required("SECONDS"),
                "longest time that --drain waits; 300 by default",
            ),
        ),
        unit(
            Own::Apply,
            &[Apply],
            CommandOption::new(
                "apply",
                OptionValue::Required("FILE"),
                "makes the table equal to the file with the fewest changes; - is standard input",
            )
            .completed_by(Completion::Files),
        ),
        unit(
            Own::Diff,
            &[Diff],
            CommandOption::new(
                "diff",
                OptionValue::Required("FILE"),
                "shows what --apply would change; exit status 2 if anything differs",
            )
            .completed_by(Completion::Files),
        ),
        unit(
            Own::Only,
            &[Apply, Diff],
            CommandOption::new(
                "only",
                OptionValue::Required("LIST"),
                "with --apply and --diff, deletes services that are not in the file only in these networks, \
         and with the word fwmark those of firewall marks: 10.96.0.0/12,fwmark",
            ),
        ),
        unit(
            Own::DryRun,
            &[Restore, Apply, Diff],
            CommandOption::new(
                "dry-run",
                OptionValue::None,
                "with --apply, only prints the equivalent commands, exit status 2 if there are any; with -R, \
         only checks for mistakes",
            ),
        ),
        unit(
            Own::Completions,
            &[Completions],
            CommandOption::new(
                "completions",
                OptionValue::Required("SHELL"),
                "prints completions for bash, zsh or fish",
            )
            .completed_by(Completion::Words("bash zsh fish")),
        ),
        unit(
            Own::ManualPage,
            &[ManualPage],
            CommandOption::new("man", OptionValue::None, "prints the manual page, for man -l -"),
        ),
    ]
};

/// What ipvs-table reads beside ipvsadm's options.
pub(crate) const OPTIONS: &[CommandOption] = &{
    let mut options = [UNITS[0].described; UNITS.len()];
    let mut index = 0;
    while index < UNITS.len() {
        options[index] = UNITS[index].described;
        index += 1;
    }
    options
};

impl Own {
    /// The option at an index of [`OPTIONS`].
    pub(crate) fn at(index: usize) -> Option<Self> {
        UNITS.get(index).map(|unit| unit.option)
    }

    fn unit(self) -> Option<&'static Unit> {
        UNITS.iter().find(|unit| unit.option == self)
    }

    pub(crate) fn long(self) -> &'static str {
        self.unit().map_or("", |unit| unit.described.long)
    }

    pub(crate) fn goes_with(self, what: Use) -> bool {
        self.unit().is_some_and(|unit| unit.goes_with.contains(&what))
    }

    /// Whether one of the arguments is this option, in full or shortened, as far as it can be told
    /// where the command line cannot be read.
    pub(crate) fn is_in(self, arguments: &[impl AsRef<str>]) -> bool {
        let words = arguments.iter().filter_map(|word| word.as_ref().strip_prefix("--"));
        let mut names = words.map(|word| word.split_once('=').map_or(word, |(name, _)| name));
        names.any(|name| {
            let mut begin_so = Command::options()
                .chain(OPTIONS)
                .map(|option| option.long)
                .filter(|long| !name.is_empty() && long.starts_with(name));
            match (begin_so.next(), begin_so.next()) {
                (Some(only), None) => only == self.long(),
                _ => name == self.long(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_has_one_unit() {
        for (index, unit) in UNITS.iter().enumerate() {
            assert_eq!(Own::at(index), Some(unit.option));
            assert!(!unit.goes_with.is_empty(), "{:?}", unit.option);
            let same = |other: &&Unit| other.option == unit.option;
            assert_eq!(UNITS.iter().filter(same).count(), 1, "{:?}", unit.option);
        }
        let grace = Own::Grace.unit().map_or("", |unit| unit.described.help);
        assert!(grace.contains(&DEFAULT_GRACE.to_string()), "{grace}");
    }
}
