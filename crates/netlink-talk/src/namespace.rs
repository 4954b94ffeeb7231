//! The network namespace that a client belongs to.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    panic,
    sync::OnceLock,
    thread,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
};

/// The namespace of the calling thread. Not `/proc/self`, which is that of the process's first
/// thread.
pub const OWN: &str = "/proc/thread-self/ns/net";

/// What makes two file descriptors the same namespace: device and inode number.
pub type Id = (u64, u64);

/// The namespace of the calling thread. It takes no file descriptor.
///
/// # Errors
/// If /proc is not mounted.
pub fn current() -> io::Result<Id> {
    fs::metadata(OWN).map(|own| (own.dev(), own.ino()))
}

/// Why a namespace was not entered.
#[derive(Debug)]
#[non_exhaustive]
pub enum NotEntered {
    /// No thread could be started for it.
    Thread(io::Error),
    /// The kernel refuses it.
    Refused(Errno),
    /// It could not be found when the client connected, and for want of the same thing it cannot be
    /// found now.
    Unknown(io::Error),
}

/// Runs a closure in a network namespace: at once where the calling thread is in it, else on a thread
/// of its own that enters it, which takes `CAP_SYS_ADMIN`, and ends with the closure. A panic of the
/// closure goes on in the caller.
///
/// # Errors
/// If the namespace cannot be entered; the closure has not run then.
pub fn run_in<T: Send>(
    namespace: BorrowedFd<'_>,
    id: Id,
    closure: impl FnOnce() -> T + Send,
) -> Result<T, NotEntered> {
    // If /proc does not tell, try to enter.
    if current().is_ok_and(|own| own == id) {
        return Ok(closure());
    }
    on_thread(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(NotEntered::Refused)?;
        Ok(closure())
    })
    .map_err(NotEntered::Thread)?
}

/// Runs a closure on a new thread.
///
/// # Errors
/// If no thread can be started.
pub fn on_thread<T: Send>(closure: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread =
            thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, closure)?;
        Ok(thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic)))
    })
}

/// The network namespace in which a client was connected.
///
/// It is known by its numbers, and held open by a descriptor. Where there was none free when the client
/// connected, it is held as soon as there is one and a thread of that namespace asks.
#[derive(Debug)]
pub struct Namespace {
    id: io::Result<Id>,
    file: OnceLock<File>,
}

impl Namespace {
    /// The namespace of the calling thread.
    #[allow(clippy::new_without_default, reason = "it looks at the system")]
    pub fn here() -> Self {
        let namespace = Self { id: current(), file: OnceLock::new() };
        // Without a descriptor, try again when it is needed.
        let _ = namespace.hold();
        namespace
    }

    /// Runs a closure that looks at /proc/thread-self/net or /proc/sys/net, which show each thread its
    /// own namespace, in this one: see [`run_in`].
    ///
    /// A file that the closure opens stays one of this namespace wherever it is read.
    ///
    /// # Errors
    /// As [`run_in`], and where the namespace could not be found out.
    pub fn run<T: Send>(&self, closure: impl FnOnce() -> T + Send) -> Result<T, NotEntered> {
        let id = match &self.id {
            Ok(id) => *id,
            Err(error) => return Err(NotEntered::Unknown(copy(error))),
        };
        if current().is_ok_and(|own| own == id) {
            // A later call may come from a thread in another namespace.
            let _ = self.hold();
            return Ok(closure());
        }
        let file = self.hold().map_err(NotEntered::Unknown)?;
        run_in(file.as_fd(), id, closure)
    }

    /// The descriptor, opened if that was not possible before and is now.
    fn hold(&self) -> io::Result<&File> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let file = File::open(OWN)?;
        let metadata = file.metadata()?;
        match &self.id {
            Ok(id) if (metadata.dev(), metadata.ino()) == *id => Ok(self.file.get_or_init(|| file)),
            _ => Err(io::Error::other(
                "no file descriptor was free to hold it when the client connected, and the calling \
                 thread is in another one",
            )),
        }
    }
}

fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_could_not_be_held_is_held_later() {
        let id = current();
        let namespace = Namespace { id, file: OnceLock::new() };
        assert!(namespace.file.get().is_none());
        assert!(namespace.run(|| true).unwrap());
        assert!(namespace.file.get().is_some());
    }

    #[test]
    fn what_was_not_found_is_said_as_it_was() {
        let gone = || Err(io::Error::from_raw_os_error(Errno::EACCES as i32));
        let namespace = Namespace { id: gone(), file: OnceLock::new() };
        for _ in 0..2 {
            let Err(NotEntered::Unknown(error)) = namespace.run(|| true) else { panic!("it ran") };
            assert_eq!(error.raw_os_error(), Some(Errno::EACCES as i32));
        }
        let elsewhere = Namespace { id: Ok((0, 0)), file: OnceLock::new() };
        assert!(matches!(elsewhere.run(|| true), Err(NotEntered::Unknown(_))));
    }
}
