use std::{error, fmt, io};

use nix::errno::Errno;

/// Why a call of this crate failed.
///
/// The text names the step, the object, the kernel's reason and, where it is known, what to do;
/// [`Error::kind`] is what a program branches on.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A name of a namespace or a link that the kernel or `ip netns` could not hold.
    InvalidName {
        /// What was to be named: "namespace", "link" or "setting".
        what: &'static str,
        /// The name as it was given.
        name: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// An address, or a list of addresses, that no link can have.
    InvalidAddress {
        /// The address as it was given.
        address: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// The kernel refused a step.
    Refused {
        /// What was tried, as "create dummy link".
        step: &'static str,
        /// On what, as "ipvs0" or "10.0.0.185/32 on ipvs0".
        object: String,
        /// The errno, positive as in [`io::Error::raw_os_error`].
        source: io::Error,
        /// The kernel's own words (netlink's extended acknowledgement), where it said any.
        reason: Option<String>,
    },
    /// A link with this name exists, but is not the dummy link that it should be.
    NotDummy {
        /// The name of the link.
        link: String,
        /// Its kind as `ip -d link` shows it; `None` for hardware and the loopback link.
        kind: Option<String>,
    },
    /// The kernel's answer could not be understood.
    Decode {
        /// What was asked.
        step: &'static str,
        /// What could not be read in the answer.
        reason: String,
    },
    /// A listing was disturbed by changes every time that it was tried (`NLM_F_DUMP_INTR`).
    Interrupted {
        /// What was listed.
        step: &'static str,
        /// How often it was tried.
        attempts: u32,
    },
    /// The netlink connection ended before the answer came: its tokio runtime has stopped, or the
    /// kernel had to drop answers (`ENOBUFS`). Whether the step was done is not known.
    Disconnected {
        /// What was asked.
        step: &'static str,
    },
}

impl Error {
    /// What a program may want to branch on.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidName { .. } | Self::InvalidAddress { .. } => ErrorKind::InvalidInput,
            Self::NotDummy { .. } => ErrorKind::NotDummy,
            Self::Interrupted { .. } => ErrorKind::Interrupted,
            Self::Disconnected { .. } => ErrorKind::Disconnected,
            Self::Decode { .. } => ErrorKind::Other,
            Self::Refused { .. } => match self.errno() {
                Some(Errno::EPERM | Errno::EACCES) => ErrorKind::PermissionDenied,
                Some(Errno::ENOENT | Errno::ENODEV | Errno::ESRCH | Errno::EADDRNOTAVAIL) => {
                    ErrorKind::NotFound
                }
                Some(Errno::EEXIST) => ErrorKind::AlreadyExists,
                Some(Errno::EOPNOTSUPP) => ErrorKind::Unsupported,
                Some(Errno::EINVAL | Errno::ERANGE) => ErrorKind::InvalidInput,
                _ => ErrorKind::Other,
            },
        }
    }

    pub(crate) fn refused(
        step: &'static str,
        object: impl fmt::Display,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Refused { step, object: object.to_string(), source: source.into(), reason: None }
    }

    pub(crate) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error().map(Errno::from_raw),
            _ => None,
        }
    }

    fn advice(&self) -> Option<&'static str> {
        let Self::Refused { step, .. } = self else { return None };
        match (self.errno()?, *step) {
            (Errno::EPERM | Errno::EACCES, "enter namespace" | "create namespace") => {
                Some("CAP_SYS_ADMIN is needed: run as root")
            }
            (Errno::EPERM | Errno::EACCES, _) => {
                Some("CAP_NET_ADMIN in the namespace's user namespace is needed: run as root")
            }
            (Errno::EOPNOTSUPP, "create dummy link") => {
                Some("this kernel has no dummy links: modprobe dummy")
            }
            (Errno::ENOENT, "open namespace") => {
                Some("there is no namespace of this name, or its process has ended")
            }
            (Errno::EINVAL, "enter namespace") => Some("it is not a network namespace"),
            (Errno::ENOENT, "read setting" | "write setting") => {
                Some("there is no such link, or the kernel or a module does not have the setting")
            }
            (Errno::ENODEV, _) => Some("the link is gone"),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidName { what, name, rule } => {
                write!(f, "{name:?} is no name for a {what}: {rule}")
            }
            Self::InvalidAddress { address, rule } => write!(f, "address {address}: {rule}"),
            Self::Refused { step, object, source, reason } => {
                write!(f, "{step} {object}: {source}")?;
                if let Some(reason) = reason {
                    write!(f, " ({reason})")?;
                }
                match self.advice() {
                    Some(advice) => write!(f, "; {advice}"),
                    None => Ok(()),
                }
            }
            Self::NotDummy { link, kind: Some(kind) } => {
                write!(f, "link {link} exists and is not a dummy link but of kind {kind}")
            }
            Self::NotDummy { link, kind: None } => {
                write!(f, "link {link} exists and is not a dummy link")
            }
            Self::Decode { step, reason } => {
                write!(f, "{step}: the kernel's answer could not be read: {reason}")
            }
            Self::Interrupted { step, attempts } => write!(
                f,
                "{step}: changes disturbed the listing {attempts} times in a row; try again"
            ),
            Self::Disconnected { step } => write!(
                f,
                "{step}: the netlink connection ended before the answer came; \
                 the outcome is unknown, connect again and list"
            ),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Refused { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::InvalidInput => io::ErrorKind::InvalidInput,
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::AlreadyExists | ErrorKind::NotDummy => io::ErrorKind::AlreadyExists,
            ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
            ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            ErrorKind::Disconnected => io::ErrorKind::BrokenPipe,
            ErrorKind::Interrupted | ErrorKind::Other => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// The kinds of [`enum@Error`] that a program may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A name, an address or a value that cannot be right (also the kernel's `EINVAL`, `ERANGE`).
    InvalidInput,
    /// The namespace, process, link or setting does not exist, or no longer.
    NotFound,
    /// The namespace, or an address with another prefix length, exists already.
    AlreadyExists,
    /// A link of another kind has the name of the dummy link.
    NotDummy,
    /// A capability is missing (`EPERM`, `EACCES`).
    PermissionDenied,
    /// The kernel has no such kind of link (`EOPNOTSUPP`).
    Unsupported,
    /// A listing was disturbed by changes too often.
    Interrupted,
    /// The netlink connection ended before the answer came.
    Disconnected,
    /// Anything else; the text and the source say what.
    Other,
}
