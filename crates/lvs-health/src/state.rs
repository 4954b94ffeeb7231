//! What is known of a pool's members as text, to be stored and read back after a restart.

use std::{error::Error, fmt, time::Instant};

use crate::{Health, Mode, Pool};

/// The first word of the text, and its version.
const HEADER: &str = "lvs-health 1";
const END: &str = "end";

/// Why a text is not the stored state of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateError {
    /// It is of another version, or something else.
    Header(String),
    /// It is of another service.
    Service(String),
    /// A line that means nothing: its number, from 1, and its text.
    Line(usize, String),
    /// Its end is missing.
    Cut,
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(line) => write!(f, "{line:?} is not {HEADER:?}: not read"),
            Self::Service(key) => write!(f, "it is the state of service {key:?}: not read"),
            Self::Line(number, line) => write!(f, "line {number}: {line:?} is no member: not read"),
            Self::Cut => f.write_str("its end is missing: not read"),
        }
    }
}

impl Error for StateError {}

impl Pool {
    /// What is known of the members, as text: a header with the version and the service, a line for each
    /// member, an end mark with the number of lines.
    ///
    /// ```text
    /// lvs-health 1 -t 10.0.0.185:80
    /// 172.17.0.3:80 enabled 100 up
    /// 172.17.0.4:80 enabled 100 down connect: Connection refused
    /// end 2
    /// ```
    pub fn state(&self) -> String {
        use fmt::Write;
        let mut text = format!("{HEADER} {}\n", self.key());
        let mut number = 0;
        for (key, mode, percent, health) in self.stored() {
            number += 1;
            // Writing to a String cannot fail.
            let _ = match health {
                Health::Unknown => writeln!(text, "{key} {mode} {percent} unknown"),
                Health::Up => writeln!(text, "{key} {mode} {percent} up"),
                Health::Down(reason) => {
                    let reason = reason.replace(char::is_control, " ");
                    writeln!(text, "{key} {mode} {percent} down {reason}")
                }
            };
        }
        text + &format!("{END} {number}\n")
    }

    /// Takes over what [`state`](Self::state) wrote, in an earlier process say. Members that it does not
    /// know, and that have left since, are as they are. There are no events for it.
    ///
    /// A member that was down stays down until its checks pass, and one that was up gets connections at
    /// once: whether the text is recent enough for that is for the caller to judge.
    ///
    /// # Errors
    ///
    /// The text is not whole, or of another service or version. Nothing has changed then.
    pub fn restore(&mut self, text: &str, now: Instant) -> Result<(), StateError> {
        let mut lines = text.lines().enumerate();
        let header = lines.next().map_or("", |(_, line)| line);
        let key = header.strip_prefix(HEADER).and_then(|rest| rest.strip_prefix(' '));
        let key = key.ok_or_else(|| StateError::Header(header.to_owned()))?;
        let mut known = Vec::new();
        loop {
            let Some((number, line)) = lines.next() else { return Err(StateError::Cut) };
            if let Some(count) = line.strip_prefix(END).and_then(|rest| rest.strip_prefix(' ')) {
                // A number that lost its last digit is another one.
                if count.parse() == Ok(known.len())
                    && text.ends_with('\n')
                    && lines.next().is_none()
                {
                    break;
                }
                return Err(StateError::Cut);
            }
            let member = read(line).ok_or_else(|| StateError::Line(number + 1, line.to_owned()))?;
            known.push(member);
        }
        if key != self.key().to_string() {
            return Err(StateError::Service(key.to_owned()));
        }
        for (key, mode, percent, health) in known {
            self.know(&key, mode, percent, health, now);
        }
        Ok(())
    }
}

type Stored = (lvs::client::packet::DestinationKey, Mode, u8, Health);

fn read(line: &str) -> Option<Stored> {
    let mut words = line.splitn(5, ' ');
    let key = words.next()?.parse().ok()?;
    let mode = [Mode::Enabled, Mode::Draining, Mode::Maintenance];
    let word = words.next()?;
    let mode = mode.into_iter().find(|mode| mode.to_string() == word)?;
    let percent = words.next()?.parse().ok().filter(|percent| *percent <= 100)?;
    let health = match (words.next()?, words.next()) {
        ("unknown", None) => Health::Unknown,
        ("up", None) => Health::Up,
        ("down", reason) => Health::Down(reason.unwrap_or_default().to_owned()),
        _ => return None,
    };
    Some((key, mode, percent, health))
}
