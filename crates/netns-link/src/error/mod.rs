//! Why a call failed, in words.

mod operation;

use std::{error, fmt, io};

use netlink_talk::OtherProcess;
use nix::errno::Errno;

pub(crate) use self::operation::{LinkChange, Operation, Text};

/// A failed call: what was being done, to what, and why it failed.
///
/// [`kind`](Self::kind) is what programs branch on. The text is for people. It says what to do
/// where the error number can mean one thing only; where it can mean several, it is the kernel's
/// own words.
///
/// ```text
/// adding address 10.0.0.185/32 to link ipvs0: CAP_NET_ADMIN in the user namespace of the network
/// namespace is needed (EPERM, errno 1)
/// ```
///
/// The debug form is the same text with its sources, so that a `main` that returns an error prints
/// it well.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    operation: String,
    text: String,
    kernel_message: Option<String>,
    source: Option<io::Error>,
    /// Why what had been done before could not be undone.
    not_undone: Option<Error>,
}

/// What kind of failure an [`Error`](struct@Error) is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A name, an address or a value that cannot be right. (Also the kernel's EINVAL and ERANGE.)
    InvalidInput,
    /// The namespace, process, link or setting does not exist, or no longer.
    NotFound,
    /// The name of a namespace, the address with another prefix length, or another route for the
    /// same prefix exists already. (EEXIST.)
    AlreadyExists,
    /// A link of another kind has the name of the dummy link.
    NotDummy,
    /// A capability is missing. (EPERM, EACCES.)
    PermissionDenied,
    /// `/proc/sys` is mounted read-only, as in a container that is not privileged, or the setting
    /// or the file system is read-only. (EROFS.)
    ReadOnly,
    /// The kernel has no such kind of link. (EOPNOTSUPP.)
    Unsupported,
    /// IPv6 is switched off on the link, or the kernel has none. (EACCES, EOPNOTSUPP or
    /// EAFNOSUPPORT in answer to an IPv6 address or route.)
    Ipv6Disabled,
    /// A limit of open files, threads or network namespaces is reached. (EMFILE, ENFILE, EAGAIN,
    /// ENOSPC.)
    LimitReached,
    /// Changes disturbed a listing each time that it was tried.
    Interrupted,
    /// The netlink socket failed or its driver ended before the answer came. Whether the call took
    /// effect is not known.
    Disconnected,
    /// Another process opened the socket, and this one was made by a fork since: the two would take each
    /// other's answers. Connect in this process.
    OtherProcess,
    /// The kernel's answer is not what the protocol says.
    Malformed,
    /// Anything else. The text and the source say what.
    Other,
}

impl Error {
    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The error number, positive as in [`io::Error::raw_os_error`], if there is one.
    pub fn errno(&self) -> Option<i32> {
        self.0.source.as_ref()?.raw_os_error()
    }

    /// What was being done, such as `adding address 10.0.0.185/32 to link ipvs0`.
    pub fn operation(&self) -> &str {
        &self.0.operation
    }

    /// The kernel's own words (netlink's extended acknowledgement), where it gave any.
    pub fn kernel_message(&self) -> Option<&str> {
        self.0.kernel_message.as_deref()
    }

    /// Why a call that failed could not undo what it had done before. `None`: nothing is left of
    /// the call, or it is one that undoes nothing.
    pub fn not_undone(&self) -> Option<&Self> {
        self.0.not_undone.as_ref()
    }

    /// A name, an address or a route that breaks a rule.
    pub(crate) fn invalid(object: impl fmt::Display, rule: &str) -> Self {
        Self::new(ErrorKind::InvalidInput, object, rule)
    }

    /// A system call that failed.
    pub(crate) fn system(operation: &Operation, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let errno = source.raw_os_error().map(Errno::from_raw);
        let (kind, text) = match errno {
            Some(errno) => operation.meaning(errno),
            None => (ErrorKind::Other, source.to_string()),
        };
        let mut error = Self::new(kind, operation, &text);
        error.0.source = Some(source);
        error
    }

    /// A request that the kernel refused, perhaps with its own words.
    pub(crate) fn kernel(
        operation: &Operation,
        source: io::Error,
        kernel_message: Option<String>,
    ) -> Self {
        let mut error = Self::system(operation, source);
        error.0.kernel_message = kernel_message;
        error
    }

    /// An answer that did not come.
    pub(crate) fn disconnected(operation: &Operation, source: Option<io::Error>) -> Self {
        let other = source.as_ref().and_then(io::Error::get_ref);
        if let Some(other) = other.and_then(|inner| inner.downcast_ref::<OtherProcess>()) {
            return Self::new(ErrorKind::OtherProcess, operation, &other.to_string());
        }
        let text = if source.as_ref().and_then(io::Error::raw_os_error)
            == Some(Errno::ENOBUFS as i32)
        {
            "the kernel dropped answers because the socket's receive buffer was full, so whether \
             this took effect is not known; list what is there"
        } else {
            "the netlink socket failed or the runtime that drives it has ended, so whether this \
             took effect is not known; connect again and list what is there"
        };
        let mut error = Self::new(ErrorKind::Disconnected, operation, text);
        error.0.source = source;
        error
    }

    /// An answer that cannot be read.
    pub(crate) fn malformed(operation: &Operation, reason: impl fmt::Display) -> Self {
        let text = format!("the kernel's answer cannot be read: {reason}");
        Self::new(ErrorKind::Malformed, operation, &text)
    }

    /// A listing that changes disturbed at each attempt.
    pub(crate) fn interrupted(operation: &Operation, attempts: u32) -> Self {
        let text = format!("changes disturbed the listing {attempts} times in a row; try again");
        Self::new(ErrorKind::Interrupted, operation, &text)
    }

    /// A failure whose kind is known better than its error number says.
    pub(crate) fn with_meaning(mut self, kind: ErrorKind, text: &str) -> Self {
        self.0.kind = kind;
        text.clone_into(&mut self.0.text);
        self
    }

    /// The same failure, after what was done before was undone, or was not.
    pub(crate) fn after_undoing(mut self, undone: Result<(), Self>) -> Self {
        self.0.not_undone = undone.err();
        self
    }

    pub(crate) fn number(&self) -> Option<Errno> {
        self.errno().map(Errno::from_raw)
    }

    pub(crate) fn new(kind: ErrorKind, operation: impl fmt::Display, text: &str) -> Self {
        Self(Box::new(Inner {
            kind,
            operation: operation.to_string(),
            text: text.to_owned(),
            kernel_message: None,
            source: None,
            not_undone: None,
        }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { operation, text, kernel_message, source, not_undone, .. } = &*self.0;
        write!(f, "{operation}: {text}")?;
        match source.as_ref().and_then(io::Error::raw_os_error) {
            Some(number) if Errno::from_raw(number) != Errno::UnknownErrno => {
                write!(f, " ({:?}, errno {number})", Errno::from_raw(number))?;
            }
            Some(number) => write!(f, " (errno {number})")?,
            None => {}
        }
        if let Some(message) = kernel_message {
            write!(f, "; the kernel says: {message}")?;
        }
        if let Some(error) = not_undone {
            write!(f, "; what was done before could not be undone: {error}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        match &self.0.source {
            Some(source) => write!(f, "\n\nCaused by:\n    {source}"),
            None => Ok(()),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.0.source.as_ref().map(|source| source as _)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::InvalidInput => io::ErrorKind::InvalidInput,
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::AlreadyExists | ErrorKind::NotDummy => io::ErrorKind::AlreadyExists,
            ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
            ErrorKind::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
            ErrorKind::Unsupported | ErrorKind::Ipv6Disabled => io::ErrorKind::Unsupported,
            ErrorKind::Disconnected => io::ErrorKind::BrokenPipe,
            ErrorKind::Malformed => io::ErrorKind::InvalidData,
            ErrorKind::LimitReached
            | ErrorKind::Interrupted
            | ErrorKind::OtherProcess
            | ErrorKind::Other => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidInput => "invalid input",
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::NotDummy => "not a dummy link",
            Self::PermissionDenied => "permission denied",
            Self::ReadOnly => "read-only",
            Self::Unsupported => "unsupported",
            Self::Ipv6Disabled => "IPv6 disabled",
            Self::LimitReached => "limit reached",
            Self::Interrupted => "interrupted",
            Self::Disconnected => "disconnected",
            Self::OtherProcess => "opened by another process",
            Self::Malformed => "malformed answer",
            Self::Other => "other error",
        })
    }
}

/// Several changes of which one failed: what was changed all the same, and the first error.
///
/// It turns into its [`Error`](struct@Error) with `?`. Keep it where what was changed is to be
/// undone.
#[derive(Debug)]
#[non_exhaustive]
pub struct Incomplete<T> {
    /// What was changed.
    pub done: T,
    /// Why the rest was not.
    pub error: Error,
}

impl<T> From<Incomplete<T>> for Error {
    fn from(incomplete: Incomplete<T>) -> Self {
        incomplete.error
    }
}

impl<T> fmt::Display for Incomplete<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T: fmt::Debug> error::Error for Incomplete<T> {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.error.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(operation: &Operation, errno: Errno, words: Option<&str>) -> Error {
        Error::kernel(operation, errno.into(), words.map(str::to_owned))
    }

    #[test]
    fn ipv6_that_is_off_is_no_missing_capability() {
        let add = |ip: &str| Operation::AddAddress {
            address: Text { ip: ip.parse().unwrap(), text: format!("{ip}/128") },
            link: "ipvs0".to_owned(),
        };
        let error = refused(&add("fd00::1"), Errno::EACCES, None);
        assert_eq!(error.kind(), ErrorKind::Ipv6Disabled);
        assert_eq!(
            error.to_string(),
            "adding address fd00::1/128 to link ipvs0: IPv6 is switched off on this link \
             (net.ipv6.conf.ipvs0.disable_ipv6) (EACCES, errno 13)"
        );
        assert_eq!(
            refused(&add("fd00::1"), Errno::EOPNOTSUPP, None).kind(),
            ErrorKind::Ipv6Disabled
        );
        let error = refused(&add("fd00::1"), Errno::EPERM, None);
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
        // In IPv4 the number says nothing that is sure.
        let error = refused(&add("10.0.0.1"), Errno::EACCES, None);
        assert!(!error.to_string().contains("CAP_"), "{error}");
    }

    #[test]
    fn limits_say_which() {
        for (operation, errno, words) in [
            (Operation::CreateNamespace, Errno::EMFILE, "RLIMIT_NOFILE"),
            (Operation::CreateNamespace, Errno::ENFILE, "fs.file-max"),
            (Operation::CreateNamespace, Errno::ENOSPC, "user.max_net_namespaces"),
            (Operation::StartThread, Errno::EAGAIN, "RLIMIT_NPROC"),
        ] {
            let error = Error::system(&operation, errno);
            assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn an_io_error_keeps_the_kind_and_the_text() {
        for (errno, kind) in [
            (Errno::EPERM, io::ErrorKind::PermissionDenied),
            (Errno::ENODEV, io::ErrorKind::NotFound),
            (Errno::EEXIST, io::ErrorKind::AlreadyExists),
            (Errno::EROFS, io::ErrorKind::ReadOnlyFilesystem),
            (Errno::EBUSY, io::ErrorKind::Other),
        ] {
            let error = Error::system(&Operation::FindLink("ipvs0".to_owned()), errno);
            let text = error.to_string();
            let converted = io::Error::from(error);
            assert_eq!(converted.kind(), kind, "{text}");
            assert_eq!(converted.to_string(), text);
        }
    }

    #[test]
    fn the_debug_form_is_the_text_with_its_source() {
        let error = Error::system(&Operation::EnterNamespace("blue".to_owned()), Errno::EPERM);
        assert_eq!(
            format!("{error:?}"),
            "entering network namespace blue: CAP_SYS_ADMIN is needed to enter a network \
             namespace that is not the caller's (EPERM, errno 1)\n\nCaused by:\n    \
             Operation not permitted (os error 1)"
        );
        let own = Error::invalid("link name \"\"", "it is empty");
        assert_eq!(format!("{own:?}"), "link name \"\": it is empty");
        let kept = error.after_undoing(Err(own));
        assert!(kept.to_string().ends_with("could not be undone: link name \"\": it is empty"));
    }
}
