//! The network namespace of a client, for what the kernel reports in /proc only.

use std::{
    fs,
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
};

use netlink_talk::namespace::{self, NotEntered};

use crate::{Error, ErrorKind, error::errno};

/// The network namespace of a client; a client works where it cannot be found out, too.
#[derive(Debug)]
pub(crate) struct Namespace(netlink_talk::Namespace);

impl Namespace {
    /// The namespace of the calling thread.
    pub(crate) fn current() -> Self {
        Self(netlink_talk::Namespace::here())
    }

    /// Runs a closure that looks at /proc/thread-self/net or /proc/sys/net, which show each thread
    /// its own namespace, in this one.
    ///
    /// A file that the closure opens stays one of this namespace wherever it is read.
    pub(crate) fn run<T: Send>(
        &self,
        operation: &str,
        closure: impl FnOnce() -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        self.0.run(closure).map_err(|error| explained(operation, error))?
    }
}

/// Runs a closure in a network namespace: at once where the calling thread is in it, else on a
/// thread that enters it, which takes `CAP_SYS_ADMIN`.
pub(crate) fn run_in<T: Send>(
    namespace: BorrowedFd<'_>,
    operation: &str,
    closure: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    // By its numbers, which take no other descriptor.
    let path = format!("/proc/self/fd/{}", namespace.as_raw_fd());
    let id = fs::metadata(path).map_or((0, 0), |there| (there.dev(), there.ino()));
    namespace::run_in(namespace, id, closure).map_err(|error| explained(operation, error))?
}

fn explained(operation: &str, error: NotEntered) -> Error {
    match error {
        NotEntered::Thread(error) => Error::thread(operation, error),
        NotEntered::Refused(number) => {
            let (kind, text) = match number as i32 {
                errno::PERM => (
                    ErrorKind::PermissionDenied,
                    "CAP_SYS_ADMIN is needed to enter another network namespace",
                ),
                errno::INVAL => {
                    (ErrorKind::Invalid, "the file descriptor is not one of a network namespace")
                }
                _ => (ErrorKind::Os, "entering the network namespace failed"),
            };
            Error::file(operation, kind, text, number.into())
        }
        NotEntered::Unknown(error) => {
            let text = format!("the client's network namespace cannot be found in /proc: {error}");
            Error::file(operation, ErrorKind::Os, &text, error)
        }
        error => Error::new(ErrorKind::Os, operation, &format!("{error:?}")),
    }
}
