//! The network namespace of a client, for what the kernel reports in /proc only.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
};

use nix::sched::{CloneFlags, setns};

use crate::{Error, ErrorKind, error::errno};

/// The namespace of the calling thread; that of /proc/self would be the main thread's.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace, or why it could not be held: a client works without /proc too.
#[derive(Debug)]
pub(crate) struct Namespace(io::Result<File>);

impl Namespace {
    /// The namespace of the calling thread.
    pub(crate) fn current() -> Self {
        Self(File::open(OWN))
    }

    /// Runs a closure that looks at /proc/thread-self/net or /proc/sys/net, which show each thread
    /// its own namespace, in this one: see [`run_in`].
    ///
    /// A file that the closure opens stays one of this namespace wherever it is read.
    pub(crate) fn run<T: Send>(
        &self,
        operation: &str,
        closure: impl FnOnce() -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        let there = self.0.as_ref().map_err(|error| {
            let error =
                error.raw_os_error().map_or(error.kind().into(), io::Error::from_raw_os_error);
            Error::file(
                operation,
                ErrorKind::Os,
                "/proc was not mounted when the client connected, so its network namespace cannot be found",
                error,
            )
        })?;
        run_in(there.as_fd(), operation, closure)
    }
}

/// Runs a closure in a network namespace: at once where the calling thread is in it, else on a
/// thread that enters it, which takes `CAP_SYS_ADMIN`.
pub(crate) fn run_in<T: Send>(
    namespace: BorrowedFd<'_>,
    operation: &str,
    closure: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    // Where /proc does not say, entering is tried.
    if is_current(namespace).unwrap_or(false) {
        return closure();
    }
    let entered = move || {
        enter(namespace, operation)?;
        closure()
    };
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("ipvs-namespace".to_owned())
            .spawn_scoped(scope, entered)
            .map_err(|error| {
                Error::file(operation, ErrorKind::Os, "no thread could be started", error)
            })?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Moves the calling thread into a namespace, for good.
fn enter(namespace: BorrowedFd<'_>, operation: &str) -> Result<(), Error> {
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|number| {
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
    })
}

fn is_current(namespace: BorrowedFd<'_>) -> io::Result<bool> {
    let here = fs::metadata(OWN)?;
    let there = File::from(namespace.try_clone_to_owned()?).metadata()?;
    Ok((here.dev(), here.ino()) == (there.dev(), there.ino()))
}
