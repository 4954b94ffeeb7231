use std::{error, fmt, io, path::PathBuf, time::Duration};

use crate::{architecture::Architecture, cause::Cause, options::Kernel};

/// Why a process did not get onto a kernel with IPVS, or did not end there by itself.
///
/// Its `Debug` text is its `Display` text, so that it is readable if `main` returns it.
#[non_exhaustive]
pub enum Error {
    /// A variable or option has an invalid value.
    Setting {
        /// The variable's name.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is valid.
        expected: &'static str,
    },
    /// This kernel has no IPVS.
    NoIpvs,
    /// This kernel has IPVS, but the process may not use it.
    NotPermitted {
        /// What was refused.
        step: &'static str,
        /// The errno.
        source: io::Error,
    },
    /// A system call on this machine or in the guest failed.
    System {
        /// What failed, such as `open`.
        step: &'static str,
        /// The object, such as a path.
        object: String,
        /// The errno.
        source: io::Error,
    },
    /// This kernel lacks a module.
    NoModule {
        /// The module's name.
        module: String,
        /// The kernel's release.
        release: String,
    },
    /// [`enter`](crate::enter) was called when the process already had several threads.
    Threads {
        /// How many threads there were.
        count: usize,
    },
    /// This machine cannot get a kernel for a guest.
    NoKernel {
        /// Why not.
        reason: String,
    },
    /// This machine is known to be unable to run the kernel.
    Unfit {
        /// Why not.
        reason: String,
    },
    /// No guest starts here: not the kernel that the user named, or, if none was named, none at all.
    NoGuest {
        /// The kernels that were tried, each with its error.
        tried: Vec<(Kernel, Self)>,
        /// What helps on this machine, the surest remedy first.
        ways: Vec<String>,
    },
    /// A program that runs the kernel is not installed.
    NoProgram {
        /// The program.
        program: &'static str,
    },
    /// Fetching or unpacking the kernel's package failed.
    Fetch {
        /// The command that failed.
        command: String,
        /// What it printed.
        words: String,
        /// What helps.
        remedy: String,
    },
    /// A package of a kernel cannot be used.
    Package {
        /// Where it is.
        path: String,
        /// Why not.
        reason: String,
    },
    /// A signal interrupted the download of a kernel. [`enter`](crate::enter) and [`run`](crate::run)
    /// do not return this: they end by that signal.
    Interrupted {
        /// The signal's number.
        signal: i32,
    },
    /// The cache directory cannot hold the kernel's package.
    Cache {
        /// The directory.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The command cannot be run.
    Command {
        /// Its name.
        program: String,
        /// The errno.
        source: io::Error,
        /// Whether this machine has it, but the guest cannot see it or what it needs.
        is_hidden: bool,
    },
    /// The time limit was reached and the guest was ended.
    TimeLimit {
        /// The limit.
        limit: Duration,
    },
    /// The guest ended without an exit status: its kernel panicked or never started.
    Crash {
        /// Why, if known.
        cause: Option<Cause>,
        /// How the kernel's process ended.
        end: String,
        /// The last lines of the guest's kernel log, without addresses.
        log: String,
    },
    /// The guest's init could not set the guest up.
    Init {
        /// What it reported.
        words: String,
    },
    /// Output that the command wrote in the guest was lost.
    Lost {
        /// How many bytes are missing.
        bytes: u64,
    },
}

/// The kind of an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting is wrong.
    Setting,
    /// The kernel that runs this process cannot be used.
    Unavailable,
    /// There is no kernel for a guest.
    NoKernel,
    /// The command does not exist or cannot be run.
    Command,
    /// The time limit was reached.
    TimeLimit,
    /// The guest crashed or failed.
    Guest,
    /// A system call failed.
    System,
}

impl Error {
    /// What kind of error it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Setting { .. } => ErrorKind::Setting,
            Self::NoIpvs | Self::NotPermitted { .. } | Self::NoModule { .. } => {
                ErrorKind::Unavailable
            }
            Self::NoKernel { .. }
            | Self::NoProgram { .. }
            | Self::Fetch { .. }
            | Self::Package { .. }
            | Self::Interrupted { .. }
            | Self::Cache { .. } => ErrorKind::NoKernel,
            Self::Command { .. } => ErrorKind::Command,
            Self::TimeLimit { .. } => ErrorKind::TimeLimit,
            // A kernel that failed to start was there.
            Self::NoGuest { tried, .. }
                if tried.iter().all(|(_, error)| error.kind() == ErrorKind::NoKernel) =>
            {
                ErrorKind::NoKernel
            }
            Self::NoGuest { .. }
            | Self::Unfit { .. }
            | Self::Crash { .. }
            | Self::Init { .. }
            | Self::Lost { .. } => ErrorKind::Guest,
            Self::System { .. } | Self::Threads { .. } => ErrorKind::System,
        }
    }

    /// Why, in a few words.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Crash { cause: Some(cause), .. } => cause.to_string(),
            Self::Crash { end, log, .. } => match log.lines().last() {
                Some(line) => format!("{end}; its last log line is: {}", line.trim()),
                None => end.clone(),
            },
            Self::Fetch { command, .. } => format!("{command} cannot fetch its package"),
            error => error.to_string().lines().next().unwrap_or_default().to_owned(),
        }
    }

    /// The status to exit with: 124 after the time limit, 127 for a command that does not exist, 126
    /// for one that cannot be run, else 125.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::TimeLimit { .. } => 124,
            Self::Command { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Command { .. } => 126,
            _ => 125,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting { name, value, expected } => {
                write!(f, "{name}={value}: expected {expected}")
            }
            Self::NoIpvs => {
                write!(f, "this kernel has no IPVS: run `modprobe ip_vs` as root")
            }
            Self::NotPermitted { step, source } => write!(
                f,
                "cannot {step}: {source}: this needs CAP_NET_ADMIN and CAP_SYS_ADMIN in the initial \
                 user namespace (root of the machine, not of a container's user namespace)"
            ),
            Self::NoModule { module, release } => write!(
                f,
                "the kernel {release} has no module {module}: choose another kernel with LVS_GUEST_KERNEL"
            ),
            Self::System { step, object, source } => write!(f, "cannot {step} {object}: {source}"),
            Self::Threads { count } => write!(
                f,
                "the process already has {count} threads: call lvs_guest::enter first thing in main, \
                 or lvs_guest::test in a #[test]"
            ),
            Self::NoKernel { reason } | Self::Unfit { reason } => f.write_str(reason),
            Self::NoGuest { tried, ways } => {
                f.write_str("no guest starts here:")?;
                for (kernel, error) in tried {
                    let words = error.to_string().replace('\n', "\n    ");
                    write!(f, "\n  {kernel}: {words}")?;
                }
                f.write_str("\nAny of these helps:")?;
                ways.iter().try_for_each(|way| write!(f, "\n  - {way}"))
            }
            Self::NoProgram { program } => {
                write!(
                    f,
                    "{program} is not installed, and the kernels named qemu-* need it: as root, install \
                     QEMU and kmod"
                )?;
                let architecture = Architecture::here();
                if let Some(Architecture { qemu_package, .. }) = architecture {
                    write!(f, " (Debian: apt-get install {qemu_package} kmod)")?;
                }
                f.write_str(". Running them needs no root")?;
                if Architecture::has_uml_here() {
                    f.write_str(". The kernels named uml* need no installed program")?;
                }
                Ok(())
            }
            Self::Fetch { command, words, remedy } => {
                write!(f, "cannot fetch a kernel's package: {command} printed:\n{words}\n{remedy}.")
            }
            Self::Package { path, reason } => {
                write!(f, "cannot use the kernel's package {path}: {reason}")
            }
            Self::Interrupted { signal } => {
                write!(f, "signal {signal} interrupted the download of a kernel")
            }
            Self::Cache { path, reason } => write!(
                f,
                "cannot keep a kernel's package in {}: {reason}: set LVS_GUEST_CACHE to a directory \
                 that can hold it",
                path.display()
            ),
            Self::Command { program, source, is_hidden: false } => {
                write!(f, "cannot run {program}: {source}")
            }
            Self::Command { program, source, is_hidden: true } => write!(
                f,
                "cannot run {program}: {source}: this machine has it, but the guest does not see it or \
                 its interpreter, since the guest has its own /dev, /proc, /run, /sys and /tmp. \
                 --write DIRECTORY or LVS_GUEST_WRITE=DIRECTORY shows a directory to the guest"
            ),
            Self::TimeLimit { limit } => write!(
                f,
                "the command ran longer than the time limit of {} s and was ended: set \
                 LVS_GUEST_TIME_LIMIT to more seconds, or to 0 for no limit",
                limit.as_secs_f64()
            ),
            Self::Crash { cause, end, log } => {
                write!(f, "the guest ended without an exit status ({end})")?;
                if let Some(cause) = cause {
                    write!(f, ": {cause}")?;
                }
                f.write_str(". LVS_GUEST_VERBOSE=1 shows its whole kernel log")?;
                if log.is_empty() { Ok(()) } else { write!(f, ", which ends with:\n{log}") }
            }
            Self::Init { words } => write!(f, "cannot set up the guest: {words}"),
            Self::Lost { bytes } => {
                write!(
                    f,
                    "{bytes} bytes of the command's output were lost between the guest and this process"
                )
            }
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::NotPermitted { source, .. }
            | Self::System { source, .. }
            | Self::Command { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Setting { .. } => io::ErrorKind::InvalidInput,
            Error::NoIpvs => io::ErrorKind::Unsupported,
            Error::TimeLimit { .. } => io::ErrorKind::TimedOut,
            Error::NotPermitted { source, .. }
            | Error::System { source, .. }
            | Error::Command { source, .. } => source.kind(),
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Names the step and the object of a failed system call.
pub(crate) trait Context<T> {
    fn context(self, step: &'static str, object: impl fmt::Display) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, step: &'static str, object: impl fmt::Display) -> Result<T, Error> {
        self.map_err(|error| Error::System {
            step,
            object: object.to_string(),
            source: error.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_main_prints_can_be_read() {
        let failed: Result<(), Error> = Err(io::Error::from_raw_os_error(13)).context("open", "/x");
        let error = failed.unwrap_err();
        assert_eq!(format!("{error:?}"), "cannot open /x: Permission denied (os error 13)");
        assert_eq!(format!("{error:#?}"), error.to_string());
    }
}
