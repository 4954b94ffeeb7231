//! Why a call failed.
//!
//! Longer than 500 lines: the meaning of each error number, for each request, is in one place.

use std::{fmt, io};

use ipvs_packet::{EntryKind, ParseError, Request, SchedulerName, Unreadable};
use netlink_talk::OtherProcess;
use nix::errno::Errno;

/// A failed call: what was asked, of which object, and why it failed.
///
/// [`kind`](Self::kind) is what programs branch on; the text is for people and says what to do. An
/// error number comes with advice only where it can mean nothing else.
///
/// ```text
/// adding service -t 10.0.0.185:80 (NEW_SERVICE): it already exists (EEXIST, errno 17)
/// ```
///
/// `Debug` is the same text with what caused it, so that `fn main() -> Result<(), Error>` prints what
/// a person can read.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    operation: String,
    text: String,
    errno: Option<i32>,
    extended: Option<String>,
    source: Option<Source>,
}

enum Source {
    Io(io::Error),
    Parse(ParseError),
    Unreadable(Unreadable),
}

/// What kind of failure an [`Error`] is. It displays in a few words, for labels and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The kernel has no IPVS: the module ip_vs is not loaded, and the kernel cannot load it by itself.
    /// (ENOENT on the look-up of the family, or of a file in /proc.) `modprobe ip_vs` says more, on the
    /// host where the program runs in a container.
    NotAvailable,
    /// `CAP_NET_ADMIN` in the initial user namespace is missing. (EPERM.)
    PermissionDenied,
    /// The service does not exist. (ESRCH.)
    ServiceNotFound,
    /// The service exists and has no such destination. (ENOENT.)
    DestinationNotFound,
    /// No sync daemon of that role runs. (ESRCH.)
    DaemonNotFound,
    /// The service, destination or daemon is there already. (EEXIST.)
    AlreadyExists,
    /// The kernel has no such scheduler: no module `ip_vs_<name>`. (ENOENT.)
    SchedulerNotFound,
    /// The kernel has no such persistence engine: no module `ip_vs_pe_<name>`. (ENOENT.)
    EngineNotFound,
    /// The interface of a sync daemon does not exist. (ENODEV.)
    InterfaceNotFound,
    /// The kernel refuses the values. (EINVAL, ERANGE.)
    Invalid,
    /// The kernel does not know the command, the address family (EOPNOTSUPP, EAFNOSUPPORT) or the
    /// setting (ENOENT).
    Unsupported,
    /// The setting cannot be changed because /proc/sys is mounted read-only, as in a container that is
    /// not privileged; it can be read. (EROFS.)
    ReadOnly,
    /// The kernel dropped answers because the socket's receive buffer was full: whether the call
    /// took effect is not known. (ENOBUFS.)
    Overrun,
    /// The table changed while it was listed, and again at each retry.
    Interrupted,
    /// A limit of open files or threads, or of memory, is reached. (EMFILE, ENFILE, ENOMEM; EAGAIN where a
    /// thread was to be started.) The text says which. The client works on when there is room again.
    LimitReached,
    /// Another process opened the client, and this one was made by a fork since: the two would take each
    /// other's answers. Connect in this process.
    OtherProcess,
    /// A write of a batch that was not sent, because the batch ended at an earlier failure.
    NotSent,
    /// The kernel's answer is not what the protocol says.
    Malformed,
    /// Any other error of the operating system.
    Os,
}

impl Error {
    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The kernel's error number, positive as in [`io::Error::raw_os_error`].
    pub fn errno(&self) -> Option<i32> {
        self.0.errno
    }

    /// What was being done, such as `adding service -t 10.0.0.185:80 (NEW_SERVICE)`.
    pub fn operation(&self) -> &str {
        &self.0.operation
    }

    /// The kernel's own words (netlink's extended acknowledgement), where it gave any.
    pub fn kernel_message(&self) -> Option<&str> {
        self.0.extended.as_deref()
    }

    /// What cannot be read, where that is why the call failed: it is there.
    pub fn unreadable_entry(&self) -> Option<&Unreadable> {
        match &self.0.source {
            Some(Source::Unreadable(entry)) => Some(entry),
            _ => None,
        }
    }

    /// An error of this kind, for what stands in for a client: a fake in a test, or another way to the
    /// kernel. `operation` is what was being done, `text` why it failed and what to do.
    pub fn new(kind: ErrorKind, operation: impl fmt::Display, text: &str) -> Self {
        Self(Box::new(Inner {
            kind,
            operation: operation.to_string(),
            text: text.to_owned(),
            errno: None,
            extended: None,
            source: None,
        }))
    }

    /// Answers were dropped.
    pub(crate) fn overrun(operation: impl fmt::Display) -> Self {
        let text = "the socket's receive buffer overflowed and the kernel dropped answers, so \
                    whether this took effect is not known; read the table again";
        let mut error = Self::new(ErrorKind::Overrun, operation, text);
        error.0.errno = Some(errno::NOBUFS);
        error
    }

    /// An answer that the protocol does not allow.
    pub(crate) fn malformed(operation: impl fmt::Display, text: &str) -> Self {
        Self::new(ErrorKind::Malformed, operation, text)
    }

    /// An answer that cannot be read.
    pub(crate) fn parse(operation: impl fmt::Display, source: ParseError) -> Self {
        let mut error = Self::malformed(operation, UNREADABLE);
        error.0.source = Some(Source::Parse(source));
        error
    }

    /// An answer that cannot be read, and what it is as far as that is known.
    pub(crate) fn unreadable(operation: impl fmt::Display, source: Unreadable) -> Self {
        let mut error = Self::malformed(operation, UNREADABLE);
        error.0.source = Some(Source::Unreadable(source));
        error
    }

    /// A failed system call on the socket, or a datagram that is none of netlink's.
    pub(crate) fn io(operation: impl fmt::Display, source: io::Error) -> Self {
        let errno = source.raw_os_error();
        let mut error = match errno {
            Some(errno::NOBUFS) => return Self::overrun(operation),
            None if source.kind() == io::ErrorKind::InvalidData => {
                Self::malformed(operation, &source.to_string())
            }
            number => match number.and_then(limit) {
                Some(text) => Self::new(ErrorKind::LimitReached, operation, text),
                None => Self::new(ErrorKind::Os, operation, "the netlink socket failed"),
            },
        };
        error.0.errno = errno;
        error.0.source = Some(Source::Io(source));
        error
    }

    /// A failed look at a file in /proc, or at a network namespace. At a limit, that is what is said.
    pub(crate) fn file(
        operation: impl fmt::Display,
        kind: ErrorKind,
        text: &str,
        source: io::Error,
    ) -> Self {
        let mut error = match source.raw_os_error().and_then(limit) {
            Some(limit) => Self::new(ErrorKind::LimitReached, operation, limit),
            None => Self::new(kind, operation, text),
        };
        error.0.errno = source.raw_os_error();
        error.0.source = Some(Source::Io(source));
        error
    }

    /// No thread could be started.
    pub(crate) fn thread(operation: impl fmt::Display, source: io::Error) -> Self {
        let (kind, text) = match source.raw_os_error() {
            Some(errno::AGAIN) => (
                ErrorKind::LimitReached,
                "there are as many threads as may be (RLIMIT_NPROC, pids.max of the control group, \
                 kernel.threads-max)",
            ),
            _ => (ErrorKind::Os, "no thread could be started"),
        };
        Self::file(operation, kind, text, source)
    }

    /// What another process opened.
    pub(crate) fn other_process(operation: impl fmt::Display, other: OtherProcess) -> Self {
        Self::new(ErrorKind::OtherProcess, operation, &other.to_string())
    }

    /// The error that a client makes of the kernel's error number in answer to a request, with the
    /// kernel's own words where it gave any. For the same purposes as [`new`](Self::new).
    ///
    /// ```
    /// use ipvs_client::{Error, ErrorKind, packet::Request};
    ///
    /// let request = Request::DeleteService("-t 10.0.0.185:80".parse()?);
    /// let error = Error::answer(&request, 3, None);
    /// assert_eq!(error.kind(), ErrorKind::ServiceNotFound);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn answer(request: &Request, errno: i32, kernel_message: Option<String>) -> Self {
        match errno {
            errno::NOBUFS => Self::overrun(Operation(request)),
            _ => Self::kernel(request, errno, kernel_message),
        }
    }

    /// An error number in the kernel's answer to `request`.
    pub(crate) fn kernel(request: &Request, errno: i32, extended: Option<String>) -> Self {
        let operation = Operation(request);
        let (kind, text) = meaning(request, errno);
        let mut error = Self::new(kind, operation, &text);
        error.0.errno = Some(errno);
        error.0.extended = extended;
        error
    }

    /// The same failure of something that IPVS requests do not name.
    pub(crate) fn doing(mut self, operation: &str) -> Self {
        operation.clone_into(&mut self.0.operation);
        self
    }

    /// Why it failed, in words.
    pub(crate) fn text(&self) -> &str {
        &self.0.text
    }

    /// The same failure, understood better.
    pub(crate) fn with_meaning(mut self, kind: ErrorKind, text: &str) -> Self {
        self.0.kind = kind;
        text.clone_into(&mut self.0.text);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { operation, text, errno, extended, .. } = &*self.0;
        write!(f, "{operation}: {text}")?;
        if let Some(errno) = errno {
            match Errno::from_raw(*errno) {
                Errno::UnknownErrno => write!(f, " (errno {errno})")?,
                name => write!(f, " ({name:?}, errno {errno})")?,
            }
        }
        if let Some(extended) = extended {
            write!(f, "; the kernel says: {extended}")?;
        }
        Ok(())
    }
}

/// The text with its cause.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)?;
        match &self.0.source {
            Some(Source::Parse(error)) => write!(f, ": {error}"),
            Some(Source::Unreadable(entry)) => write!(f, ": {entry}"),
            // Of the others the text has the error number already, if there is one.
            Some(Source::Io(error)) if self.0.errno.is_none() => write!(f, ": {error}"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self.0.source.as_ref()? {
            Source::Io(error) => Some(error),
            Source::Parse(error) => Some(error),
            Source::Unreadable(entry) => Some(entry),
        }
    }
}

/// For who wants all entries of a list, or an error: `collect::<Result<Vec<_>, _>>()?`.
impl From<Unreadable> for Error {
    fn from(entry: Unreadable) -> Self {
        Self::unreadable(
            match entry.kind {
                EntryKind::Destination => "listing destinations",
                EntryKind::Daemon => "listing sync daemons",
                _ => "listing services",
            },
            entry,
        )
    }
}

/// In a few words: `service not found`.
impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAvailable => "IPVS not available",
            Self::PermissionDenied => "permission denied",
            Self::ServiceNotFound => "service not found",
            Self::DestinationNotFound => "destination not found",
            Self::DaemonNotFound => "sync daemon not found",
            Self::AlreadyExists => "already exists",
            Self::SchedulerNotFound => "scheduler not found",
            Self::EngineNotFound => "persistence engine not found",
            Self::InterfaceNotFound => "interface not found",
            Self::Invalid => "invalid value",
            Self::Unsupported => "not supported by this kernel",
            Self::ReadOnly => "settings are read-only",
            Self::Overrun => "answers dropped",
            Self::Interrupted => "table changed while it was listed",
            Self::LimitReached => "limit reached",
            Self::OtherProcess => "opened by another process",
            Self::NotSent => "not sent",
            Self::Malformed => "malformed answer",
            Self::Os => "error of the operating system",
        })
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::PermissionDenied => Self::from_raw_os_error(errno::PERM).kind(),
            ErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
            ErrorKind::Invalid => io::ErrorKind::InvalidInput,
            ErrorKind::NotAvailable | ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            ErrorKind::Malformed => io::ErrorKind::InvalidData,
            ErrorKind::Interrupted => io::ErrorKind::Interrupted,
            ErrorKind::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
            ErrorKind::ServiceNotFound
            | ErrorKind::DestinationNotFound
            | ErrorKind::DaemonNotFound
            | ErrorKind::SchedulerNotFound
            | ErrorKind::EngineNotFound
            | ErrorKind::InterfaceNotFound => io::ErrorKind::NotFound,
            ErrorKind::Overrun
            | ErrorKind::NotSent
            | ErrorKind::LimitReached
            | ErrorKind::OtherProcess
            | ErrorKind::Os => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// What an error number means in answer to a request, and what to do about it.
fn meaning(request: &Request, number: i32) -> (ErrorKind, String) {
    let text = |kind, text: &str| (kind, text.to_owned());
    match (number, request) {
        (errno::PERM, _) => text(
            ErrorKind::PermissionDenied,
            "CAP_NET_ADMIN in the initial user namespace is needed, for reading too; root in a \
             user namespace of its own, as in a rootless container, is not enough",
        ),
        (errno::SRCH, Request::DeleteDaemon(_)) => {
            text(ErrorKind::DaemonNotFound, "no sync daemon of that role runs")
        }
        (errno::SRCH, _) => text(ErrorKind::ServiceNotFound, "the service does not exist"),
        (errno::NOENT, Request::NewService(service) | Request::SetService(service)) => (
            ErrorKind::SchedulerNotFound,
            match service.engine {
                None => missing_scheduler(service.scheduler),
                Some(engine) => format!(
                    "scheduler module ip_vs_{} or persistence engine module ip_vs_pe_{engine} is \
                     not available",
                    service.scheduler
                ),
            },
        ),
        (errno::NOENT, Request::SetDestination(..) | Request::DeleteDestination(..)) => {
            text(ErrorKind::DestinationNotFound, "the service has no such destination")
        }
        (errno::NOENT, _) => {
            (ErrorKind::NotAvailable, format!("IPVS is not available: {LOAD_IP_VS}"))
        }
        (errno::EXIST, Request::NewDaemon(daemon)) => (
            ErrorKind::AlreadyExists,
            format!("a {} sync daemon already runs, perhaps with other settings", daemon.role),
        ),
        (errno::EXIST, _) => text(ErrorKind::AlreadyExists, "it already exists"),
        (errno::NODEV, Request::NewDaemon(daemon)) => (
            ErrorKind::InterfaceNotFound,
            format!("the network namespace has no interface {}", daemon.interface),
        ),
        (
            errno::INVAL,
            Request::NewDestination(key, destination) | Request::SetDestination(key, destination),
        ) if key.family() != destination.key.family() => text(
            ErrorKind::Invalid,
            "the kernel refuses it: a destination whose address family is not its service's must be \
             tunnelled, and no sync daemon may run",
        ),
        (errno::INVAL, Request::NewDestination(..)) => text(
            ErrorKind::Invalid,
            "the kernel refuses it: the address must be unicast, and not link-local unless it is this \
             host's own; for IPv4, the network namespace must have an address (is lo up?); a GUE tunnel \
             needs a port; newer kernels take upper thresholds up to 2147483647 only",
        ),
        (errno::INVAL, Request::NewDaemon(_)) => text(
            ErrorKind::Invalid,
            "the kernel refuses it: the role must be master or backup, the group a multicast \
             address, and no service may have a destination of another address family than its own",
        ),
        (errno::INVAL, Request::SetTimeouts(_)) => {
            text(ErrorKind::Invalid, "the kernel refuses it: a timeout is too long")
        }
        (errno::INVAL, _) => text(ErrorKind::Invalid, "the kernel refuses the values"),
        (errno::RANGE, Request::NewDestination(..) | Request::SetDestination(..)) => text(
            ErrorKind::Invalid,
            "the kernel refuses it: the weight must be at most 2147483647, and the lower threshold at \
             most the upper",
        ),
        (errno::RANGE, _) => text(ErrorKind::Invalid, "the kernel refuses the values"),
        (errno::AFNOSUPPORT, _) => {
            text(ErrorKind::Unsupported, "the kernel does not support this address family")
        }
        (errno::OPNOTSUPP, _) => {
            text(ErrorKind::Unsupported, "the kernel does not support this command")
        }
        _ => text(ErrorKind::Os, "the kernel refuses it"),
    }
}

/// The limit that an error number speaks of.
fn limit(number: i32) -> Option<&'static str> {
    Some(match number {
        errno::MFILE => {
            "this process has as many open files as it may: raise its limit (RLIMIT_NOFILE, ulimit -n)"
        }
        errno::NFILE => "the system has as many open files as it may: raise fs.file-max",
        errno::NOMEM => "the kernel has no memory for it",
        _ => return None,
    })
}

/// Why an answer does not help; the source says more.
const UNREADABLE: &str = "the kernel's answer cannot be read";

/// What to do where there is no IPVS.
pub(crate) const LOAD_IP_VS: &str = "run `modprobe ip_vs`, on the host where this is a container";

/// The kernel has no such scheduler, in words.
pub(crate) fn missing_scheduler(name: SchedulerName) -> String {
    format!("scheduler module ip_vs_{name} is not available")
}

/// What a request does, in words: `adding service -t 10.0.0.185:80 (NEW_SERVICE)`.
pub(crate) struct Operation<'a>(pub(crate) &'a Request);

impl fmt::Display for Operation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Request::NewService(service) => write!(f, "adding service {}", service.key()),
            Request::SetService(service) => write!(f, "updating service {}", service.key()),
            Request::DeleteService(key) => write!(f, "deleting service {key}"),
            Request::GetService(key) => write!(f, "reading service {key}"),
            Request::ListServices => write!(f, "listing services"),
            Request::NewDestination(key, destination) => {
                write!(f, "adding destination {} to service {key}", destination.key)
            }
            Request::SetDestination(key, destination) => {
                write!(f, "updating destination {} of service {key}", destination.key)
            }
            Request::DeleteDestination(key, destination) => {
                write!(f, "deleting destination {destination} of service {key}")
            }
            Request::ListDestinations(key) => write!(f, "listing destinations of service {key}"),
            Request::NewDaemon(daemon) => {
                write!(f, "starting {} sync daemon on {}", daemon.role, daemon.interface)
            }
            Request::DeleteDaemon(role) => write!(f, "stopping {role} sync daemon"),
            Request::ListDaemons => write!(f, "listing sync daemons"),
            Request::SetTimeouts(_) => write!(f, "setting timeouts"),
            Request::GetTimeouts => write!(f, "reading timeouts"),
            Request::GetInfo => write!(f, "reading IPVS info"),
            Request::Zero(Some(key)) => write!(f, "zeroing statistics of service {key}"),
            Request::Zero(None) => write!(f, "zeroing statistics of all services"),
            Request::Flush => write!(f, "deleting all services"),
            _ => write!(f, "request"),
        }?;
        write!(f, " ({})", self.0.command())
    }
}

/// Linux's error numbers that mean something to IPVS, as the target has them.
pub(crate) mod errno {
    use nix::errno::Errno;

    pub(crate) const PERM: i32 = Errno::EPERM as i32;
    pub(crate) const ACCES: i32 = Errno::EACCES as i32;
    pub(crate) const NOENT: i32 = Errno::ENOENT as i32;
    pub(crate) const SRCH: i32 = Errno::ESRCH as i32;
    pub(crate) const ROFS: i32 = Errno::EROFS as i32;
    pub(crate) const BUSY: i32 = Errno::EBUSY as i32;
    pub(crate) const EXIST: i32 = Errno::EEXIST as i32;
    pub(crate) const NODEV: i32 = Errno::ENODEV as i32;
    pub(crate) const INVAL: i32 = Errno::EINVAL as i32;
    pub(crate) const RANGE: i32 = Errno::ERANGE as i32;
    pub(crate) const OPNOTSUPP: i32 = Errno::EOPNOTSUPP as i32;
    pub(crate) const AFNOSUPPORT: i32 = Errno::EAFNOSUPPORT as i32;
    pub(crate) const MFILE: i32 = Errno::EMFILE as i32;
    pub(crate) const NFILE: i32 = Errno::ENFILE as i32;
    pub(crate) const AGAIN: i32 = Errno::EAGAIN as i32;
    pub(crate) const NOMEM: i32 = Errno::ENOMEM as i32;
    pub(crate) const NOBUFS: i32 = Errno::ENOBUFS as i32;
}

#[cfg(test)]
mod tests;
