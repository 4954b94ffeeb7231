use std::{error, fmt, io, path::PathBuf, time::Duration};

/// Why a process could not be put on a kernel that has IPVS, or did not end there by itself.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A variable or option has a value that means nothing.
    Setting {
        /// The variable's name.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is expected.
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
        /// What was being done.
        step: &'static str,
        /// To what.
        object: String,
        /// The errno.
        source: io::Error,
    },
    /// [`enter`](crate::enter) was called when the process already had several threads.
    Threads {
        /// How many threads there were.
        count: usize,
    },
    /// There is no kernel for a guest to be had on this machine.
    NoKernel {
        /// Why not.
        reason: String,
    },
    /// A program that runs the kernel is not on this machine.
    NoProgram {
        /// The program.
        program: &'static str,
    },
    /// This is not root, as QEMU's guests take.
    NotRoot,
    /// Fetching or unpacking the kernel's package failed.
    Fetch {
        /// The command that failed.
        command: String,
        /// What it said.
        words: String,
        /// What helps.
        remedy: String,
    },
    /// A signal ended the fetching of a kernel. [`enter`](crate::enter) and [`run`](crate::run) end
    /// as the signal says instead of returning this.
    Interrupted {
        /// The signal's number.
        signal: i32,
    },
    /// No directory for the kernel's package.
    Cache {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The command to be run cannot be run.
    Command {
        /// Its name.
        program: String,
        /// The errno.
        source: io::Error,
        /// Whether it is there on this machine, and the guest cannot see it or what it needs.
        is_hidden: bool,
    },
    /// The time limit was reached and the guest was ended.
    TimeLimit {
        /// The limit.
        limit: Duration,
    },
    /// The guest ended without an exit status: its kernel panicked or never started.
    Crash {
        /// How the kernel's process ended.
        end: String,
        /// The end of the guest's kernel log.
        log: String,
    },
    /// The guest's init could not set things up.
    Init {
        /// Its own words.
        words: String,
    },
    /// Output that the command wrote in the guest did not come out.
    Lost {
        /// How many bytes are missing.
        bytes: u64,
    },
}

/// What users of [`Error`] tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting is wrong.
    Setting,
    /// The kernel that runs this process cannot be used.
    Unavailable,
    /// No kernel for a guest could be had.
    NoKernel,
    /// The command is not there or cannot be run.
    Command,
    /// The time limit was reached.
    TimeLimit,
    /// The guest crashed or failed.
    Guest,
    /// A system call failed.
    System,
}

impl Error {
    /// What went wrong, in one word.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Setting { .. } => ErrorKind::Setting,
            Self::NoIpvs | Self::NotPermitted { .. } => ErrorKind::Unavailable,
            Self::NoKernel { .. }
            | Self::NoProgram { .. }
            | Self::NotRoot
            | Self::Fetch { .. }
            | Self::Interrupted { .. }
            | Self::Cache { .. } => ErrorKind::NoKernel,
            Self::Command { .. } => ErrorKind::Command,
            Self::TimeLimit { .. } => ErrorKind::TimeLimit,
            Self::Crash { .. } | Self::Init { .. } | Self::Lost { .. } => ErrorKind::Guest,
            Self::System { .. } | Self::Threads { .. } => ErrorKind::System,
        }
    }

    /// The status to exit with: 124 after the time limit, 127 for a command that is not there, 126
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
                write!(f, "IPVS is not available on this kernel: load ip_vs (modprobe ip_vs)")
            }
            Self::NotPermitted { step, source } => write!(
                f,
                "{step}: {source}: CAP_NET_ADMIN and CAP_SYS_ADMIN in the initial user namespace \
                 are needed (root, not in a user namespace)"
            ),
            Self::System { step, object, source } => write!(f, "cannot {step} {object}: {source}"),
            Self::Threads { count } => write!(
                f,
                "the process already has {count} threads: call guest::enter first thing in main"
            ),
            Self::NoKernel { reason } => write!(
                f,
                "no kernel with IPVS is to be had here: {reason}\nThere are three ways out:\n  \
                 - set LVS_GUEST_UML to the path of a User-Mode Linux binary\n  \
                 - run as root on a kernel that has IPVS (modprobe ip_vs)\n  \
                 - use a Debian or Ubuntu machine (x86-64), where apt fetches the package \
                 user-mode-linux without root"
            ),
            Self::NoProgram { program } => write!(
                f,
                "there is no {program} on this machine, and the kernels named qemu-* take it: as \
                 root, apt-get install qemu-system-x86 kmod (from Debian 13 on virtiofsd too); the \
                 kernels named uml-* need nothing installed"
            ),
            Self::NotRoot => write!(
                f,
                "the kernels named qemu-* take root: the server of this machine's files reads them \
                 with their owners' rights; the kernels named uml-* do not"
            ),
            Self::Fetch { command, words, remedy } => write!(
                f,
                "cannot fetch the package of a kernel: {command} said:\n{words}\n{remedy}.\nWithout \
                 a network, LVS_GUEST_UML=PATH takes a User-Mode Linux binary from elsewhere, in \
                 place of any kernel named uml."
            ),
            Self::Interrupted { signal } => {
                write!(f, "signal {signal} ended the fetching of a kernel")
            }
            Self::Cache { path, reason } => write!(
                f,
                "{} cannot hold the package of a kernel: {reason}: set LVS_GUEST_CACHE to a \
                 directory that can",
                path.display()
            ),
            Self::Command { program, source, is_hidden: false } => {
                write!(f, "cannot run {program}: {source}")
            }
            Self::Command { program, source, is_hidden: true } => write!(
                f,
                "cannot run {program}: {source}: it is there on this machine, but the guest cannot \
                 see it or its interpreter: the guest has a /dev, /proc, /run, /sys and /tmp of its \
                 own; --write DIRECTORY or LVS_GUEST_WRITE=DIRECTORY shows a directory of this \
                 machine's there"
            ),
            Self::TimeLimit { limit } => write!(
                f,
                "the time limit of {} s was reached and the command was ended: \
                 LVS_GUEST_TIME_LIMIT sets another, 0 none",
                limit.as_secs_f64()
            ),
            Self::Crash { end, log } => write!(
                f,
                "the guest ended without an exit status ({end}); the end of its kernel log:\n{log}"
            ),
            Self::Init { words } => write!(f, "the guest could not be set up: {words}"),
            Self::Lost { bytes } => {
                write!(f, "{bytes} bytes that the command wrote did not come out of the guest")
            }
        }
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
