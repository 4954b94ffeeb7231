//! What a check found.

use std::{error::Error, fmt, io};

use crate::Outcome;

/// What a check found that passed. It displays as a few words for a status page: `200 OK`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Good {
    /// What was found, in a few words.
    pub detail: String,
    /// What the server asks for itself, of an agent: a share of its weight, to be drained. Empty
    /// otherwise.
    pub wishes: Vec<Outcome>,
}

/// Why a check did not pass. It displays as a short reason for a status page: `connect: connection refused`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// The server does not answer as it should.
    Bad(String),
    /// The check cannot be made here, whatever the server does: a right or a device is missing. It says
    /// nothing of the server.
    Unable(String),
    /// There is too little of something here for the moment: descriptors, memory, ports. It says nothing of
    /// the server, and is to be tried again.
    Short(String),
}

impl Good {
    pub(crate) fn new(detail: impl Into<String>) -> Self {
        Self { detail: printable(&detail.into()), wishes: Vec::new() }
    }
}

impl Failure {
    /// What a system call's error says of the server.
    pub(crate) fn of(doing: &str, error: &io::Error) -> Self {
        use nix::errno::Errno;
        let reason = format!("{doing}: {}", words(error));
        match error.raw_os_error().map(Errno::from_raw) {
            Some(
                Errno::EMFILE
                | Errno::ENFILE
                | Errno::ENOMEM
                | Errno::ENOBUFS
                | Errno::EAGAIN
                | Errno::EADDRNOTAVAIL,
            ) => Self::Short(reason),
            Some(Errno::EPERM | Errno::EACCES | Errno::ENODEV | Errno::EAFNOSUPPORT) => {
                Self::Unable(reason)
            }
            _ => Self::Bad(reason),
        }
    }

    /// What an error here says, which no server causes.
    pub(crate) fn here(doing: &str, error: &io::Error) -> Self {
        match Self::of(doing, error) {
            Self::Bad(reason) => Self::Unable(reason),
            other => other,
        }
    }

    /// The server does not answer as it should; `reason` may have been written by it.
    pub(crate) fn bad(reason: impl AsRef<str>) -> Self {
        Self::Bad(printable(reason.as_ref()))
    }
}

impl fmt::Display for Good {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bad(reason) => f.write_str(reason),
            Self::Unable(reason) => write!(f, "cannot be checked: {reason}"),
            Self::Short(reason) => write!(f, "not checked for the moment: {reason}"),
        }
    }
}

impl Error for Failure {}

/// An error in a few words, without its number.
pub(crate) fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_lowercase().to_string()).unwrap_or_default();
    first + chars.as_str()
}

/// What may stand in a log or on a status page of a text that a server wrote: one line, 200 characters.
pub(crate) fn printable(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut line: String = text
        .chars()
        .take(LONGEST)
        .map(|char| if char.is_control() { '\u{fffd}' } else { char })
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        line.push('…');
    }
    line
}
