//! Plans in words.

use std::fmt;

use ipvs_table::{CommandLine, DestinationChanges, ServiceChanges};

use super::{
    change::{Action, Change},
    value::Plan,
};

const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";

impl Plan {
    /// The same as ipvsadm's command lines, one a line.
    pub fn command_lines(&self) -> CommandLines<'_> {
        CommandLines(self)
    }

    /// Displays it as [`Display`](std::fmt::Display) does, with colours for a terminal if asked for.
    pub fn diff(&self) -> Diff<'_> {
        Diff { plan: self, coloured: false }
    }
}

/// A plan to be displayed, as [`Plan::diff`] makes it: one line a change, `+` for what is added, `~`
/// for what is changed, `-` for what is taken away.
///
/// ```text
/// ~ -t 10.0.0.185:80 scheduler sh -> wrr, persistence 300 s -> none
/// ~ -t 10.0.0.185:80 -> 10.0.0.3:80 weight 1 -> 3
/// + -t 10.0.0.185:80 -> 10.0.0.4:80 -m -w 1
/// - -t 10.0.0.185:80 -> 10.0.0.2:80
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Diff<'a> {
    plan: &'a Plan,
    coloured: bool,
}

impl Diff<'_> {
    /// With colours, by the escape sequences that every terminal knows. Not by default; whether the
    /// output is a terminal, and whether `NO_COLOR` is set, is the caller's to look at.
    #[must_use]
    pub fn coloured(mut self, coloured: bool) -> Self {
        self.coloured = coloured;
        self
    }
}

impl fmt::Display for Diff<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in self.plan.changes() {
            if self.coloured {
                writeln!(f, "{}{change}{PLAIN}", colour(change))?;
            } else {
                writeln!(f, "{change}")?;
            }
        }
        let held_back = self.plan.held_back_count();
        if held_back > 0 {
            writeln!(f, "# held back, since more than allowed: {held_back}")?;
        }
        for change in self.plan.held_back() {
            writeln!(f, "# {change}")?;
        }
        for entry in self.plan.unreadable() {
            writeln!(f, "# {entry}")?;
        }
        Ok(())
    }
}

/// As [`Plan::diff`], without colours.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.diff().fmt(f)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.service();
        match self.action() {
            Action::AddService { after } => write!(f, "+ {after}"),
            Action::UpdateService { before, after } => {
                write!(f, "~ {key} {}", ServiceChanges::between(before, after))
            }
            Action::DeleteService { real_servers: 0, .. } => write!(f, "- {key}"),
            Action::DeleteService { real_servers: 1, .. } => {
                write!(f, "- {key} with 1 real server")
            }
            Action::DeleteService { real_servers, .. } => {
                write!(f, "- {key} with {real_servers} real servers")
            }
            Action::AddRealServer { after } => {
                let settings = after.to_string();
                // The address is in its place already.
                let address = format!("-r {} ", after.key);
                let settings = settings.strip_prefix(&address).unwrap_or(&settings);
                write!(f, "+ {key} -> {} {settings}", after.key)
            }
            Action::UpdateRealServer { before, after } => {
                let changes = DestinationChanges::between(before, after);
                write!(f, "~ {key} -> {} {changes}", after.key)
            }
            Action::DrainRealServer { before, after } => {
                let changes = DestinationChanges::between(before, after);
                write!(f, "~ {key} -> {} {changes} (it leaves)", after.key)
            }
            Action::DeleteRealServer { before } => write!(f, "- {key} -> {}", before.key),
        }
    }
}

fn colour(change: &Change) -> &'static str {
    match change.action() {
        Action::AddService { .. } | Action::AddRealServer { .. } => GREEN,
        Action::UpdateService { .. }
        | Action::UpdateRealServer { .. }
        | Action::DrainRealServer { .. } => YELLOW,
        Action::DeleteService { .. } | Action::DeleteRealServer { .. } => RED,
    }
}

/// A plan as ipvsadm's command lines, as [`Plan::command_lines`] makes it.
#[derive(Clone, Copy, Debug)]
pub struct CommandLines<'a>(&'a Plan);

impl fmt::Display for CommandLines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.changes().try_for_each(|change| writeln!(f, "{}", change.command_line()))
    }
}

impl Change {
    /// The same as ipvsadm's command line: `ipvsadm -a -t 10.0.0.185:80 -r 172.17.0.3:80 -m -w 3`.
    pub fn command_line(&self) -> String {
        CommandLine(&self.request()).to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use ipvs_client::Snapshot;

    use super::*;
    use crate::{Desired, Policy, Scope};

    #[test]
    fn a_diff_names_old_and_new() {
        let before: Desired = "\
            -A -t 10.0.0.185:80 -s sh -p 300\n\
            -a -t 10.0.0.185:80 -r 10.0.0.2:80 -m\n\
            -a -t 10.0.0.185:80 -r 10.0.0.3:80 -m\n\
            -A -f 7 -s rr\n"
            .parse()
            .unwrap();
        let after: Desired = "\
            -A -t 10.0.0.185:80 -s wrr\n\
            -a -t 10.0.0.185:80 -r 10.0.0.3:80 -m -w 3\n\
            -a -t 10.0.0.185:80 -r 10.0.0.4:80 -m\n"
            .parse()
            .unwrap();
        let policy = Policy::new().scope(Scope::All);
        let plan = Plan::new(&after, &Snapshot::from(&before), &policy);
        let lines = [
            "~ -t 10.0.0.185:80 scheduler sh -> wrr, persistence 300 s -> none",
            "~ -t 10.0.0.185:80 -> 10.0.0.3:80 weight 1 -> 3",
            "+ -t 10.0.0.185:80 -> 10.0.0.4:80 -m -w 1",
            "- -t 10.0.0.185:80 -> 10.0.0.2:80",
            "- -f 7",
        ];
        assert_eq!(plan.to_string(), lines.join("\n") + "\n");
        let colours = [YELLOW, YELLOW, GREEN, RED, RED];
        let coloured: String = lines
            .into_iter()
            .zip(colours)
            .map(|(line, colour)| format!("{colour}{line}{PLAIN}\n"))
            .collect();
        assert_eq!(plan.diff().coloured(true).to_string(), coloured);

        let held_back = Plan::new(&after, &Snapshot::from(&before), &policy.max_deletions(1));
        assert!(
            held_back.to_string().ends_with(
                "# held back, since more than allowed: 2\n\
                 # - -t 10.0.0.185:80 -> 10.0.0.2:80\n\
                 # - -f 7\n"
            ),
            "{held_back}"
        );
    }
}
