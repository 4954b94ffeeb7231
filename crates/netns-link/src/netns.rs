use std::{
    fmt, fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::fs::MetadataExt,
    panic,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};

use crate::error::Error;

/// Where `ip netns` keeps the named namespaces (iproute2's `NETNS_RUN_DIR`).
const RUN_DIR: &str = "/var/run/netns";

/// The namespace of the calling thread. Not `/proc/self`, which is that of the process's first
/// thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace, held open by a file descriptor.
///
/// A namespace lives as long as something holds it: a process in it, a bind mount (the named ones
/// of `ip netns`), a socket made in it, or a value of this type. An anonymous one
/// ([`NetNs::new`]) is therefore gone, with its links, when the last of these is dropped.
///
/// No call changes the namespace of the calling thread: [`run`](NetNs::run) enters on a fresh
/// thread that ends with the closure. Sockets and child processes keep the namespace in which
/// they were made, so that they are made in `run` and used anywhere:
///
/// ```no_run
/// use std::net::TcpListener;
///
/// use netns_link::NetNs;
///
/// let pod = NetNs::new()?;
/// let listener = pod.run(|| TcpListener::bind("0.0.0.0:80"))??;
/// let inside = listener.accept()?; // a connection that came to the pod
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Entering another namespace needs CAP_SYS_ADMIN, as making one does.
#[derive(Debug)]
pub struct NetNs {
    fd: OwnedFd,
    /// Device and inode number: what makes two file descriptors the same namespace.
    id: (u64, u64),
    label: String,
}

impl NetNs {
    /// Makes a namespace without a name: `unshare --net`. It has one link, `lo`, which is down.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN ([`ErrorKind::PermissionDenied`](crate::ErrorKind)), or when a limit
    /// is reached (`user.max_net_namespaces`, open files, threads).
    pub fn new() -> Result<Self, Error> {
        let object = "without a name";
        let file = on_fresh_thread("create namespace", object, || {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Error::refused("create namespace", object, errno))?;
            fs::File::open(OWN).map_err(|error| Error::refused("open namespace", OWN, error))
        })??;
        Self::from_fd(file.into())
    }

    /// Makes a namespace with a name: `ip netns add NAME`. It stays until [`NetNs::delete`], also
    /// when this value is dropped.
    ///
    /// # Errors
    /// As [`NetNs::new`] and [`attach`](NetNs::attach).
    pub fn create(name: &str) -> Result<Self, Error> {
        path_of(name)?;
        let namespace = Self::new()?;
        namespace.attach(name)?;
        Ok(Self { label: name.to_owned(), ..namespace })
    }

    /// Gives a name to a namespace that is there, as that of a process: `ip netns attach NAME PID`
    /// (and what `ln -s /proc/PID/ns/net /var/run/netns/NAME` is meant to do; the name outlives the
    /// process, though). It stays until [`NetNs::delete`].
    ///
    /// # Errors
    /// If the name is taken ([`ErrorKind::AlreadyExists`](crate::ErrorKind)) or impossible, or
    /// without CAP_SYS_ADMIN. Nothing is left behind then.
    pub fn attach(&self, name: &str) -> Result<(), Error> {
        let path = path_of(name)?;
        share_run_dir()?;
        fs::File::create_new(&path)
            .map_err(|error| Error::refused("name namespace", name, error))?;
        let mounted = self.run(|| {
            mount(Some(OWN), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .map_err(|errno| Error::refused("mount namespace at", path.display(), errno))
        });
        mounted.and_then(|mounted| mounted).inspect_err(|_| {
            // The first error is the one that counts; the file is empty and nothing is mounted.
            let _ = fs::remove_file(&path);
        })
    }

    /// Opens a namespace by its name in `ip netns list`.
    ///
    /// # Errors
    /// If there is none ([`ErrorKind::NotFound`](crate::ErrorKind)), if the name is impossible, or
    /// if the file is one that a deletion or a reboot left without a namespace.
    pub fn open(name: &str) -> Result<Self, Error> {
        let namespace = Self::from_path(path_of(name)?)?;
        Ok(Self { label: name.to_owned(), ..namespace })
    }

    /// Opens the namespace of a process: `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// If there is no such process ([`ErrorKind::NotFound`](crate::ErrorKind)) or the caller may
    /// not trace it ([`ErrorKind::PermissionDenied`](crate::ErrorKind)).
    pub fn from_pid(pid: u32) -> Result<Self, Error> {
        let namespace = Self::from_path(format!("/proc/{pid}/ns/net"))?;
        Ok(Self { label: format!("of process {pid}"), ..namespace })
    }

    /// Opens a namespace by a path that leads to one: a bind mount, or a symbolic link to
    /// `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// If nothing is there, or what is there is not a namespace.
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let file = fs::File::open(path)
            .map_err(|error| Error::refused("open namespace", path.display(), error))?;
        Self::held(file.into(), path.display().to_string())
    }

    /// Takes a file descriptor that holds a namespace, as one passed by another process.
    ///
    /// # Errors
    /// If it does not hold a namespace.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Error> {
        let namespace = Self::held(fd, "file descriptor".to_owned())?;
        let label = format!("net:[{}]", namespace.id.1);
        Ok(Self { label, ..namespace })
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// Where /proc is not mounted, or at the limit of open files.
    pub fn current() -> Result<Self, Error> {
        Self::from_path(OWN)
    }

    /// The names of the named namespaces, sorted: `ip netns list`.
    ///
    /// # Errors
    /// If the directory of `ip netns` cannot be read. That it does not exist is no error.
    pub fn names() -> Result<Vec<String>, Error> {
        let failed = |error| Error::refused("list namespaces in", RUN_DIR, error);
        let entries = match fs::read_dir(RUN_DIR) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = entries
            .map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<Vec<_>, Error>>()?;
        names.sort_unstable();
        Ok(names)
    }

    /// Removes the name of a namespace: `ip netns delete NAME`. The namespace itself goes when
    /// nothing else holds it.
    ///
    /// # Errors
    /// If there is no such name ([`ErrorKind::NotFound`](crate::ErrorKind)).
    pub fn delete(name: &str) -> Result<(), Error> {
        let path = path_of(name)?;
        match umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // Not a mount point: a file that a reboot left behind, or a symbolic link to
            // /proc/PID/ns/net.
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(errno) => return Err(Error::refused("unmount namespace", name, errno)),
        }
        fs::remove_file(&path).map_err(|error| Error::refused("delete namespace", name, error))
    }

    /// Runs a closure in the namespace, on a thread of its own that ends with it, and waits for
    /// its result. A panic of the closure goes on in the caller.
    ///
    /// The closure may borrow. It must not block for long where that would matter to the caller;
    /// an async program takes `spawn_blocking` for such. `/proc/sys/net` and `/proc/thread-self/net`
    /// are those of the namespace; `/sys` is the caller's, and so is every mount (`ip netns exec`
    /// mounts `/sys` anew, this does not).
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN ([`ErrorKind::PermissionDenied`](crate::ErrorKind)), or at the limit
    /// of threads. The closure has not run then.
    pub fn run<T: Send>(&self, closure: impl FnOnce() -> T + Send) -> Result<T, Error> {
        on_fresh_thread("enter namespace", &self.label, || {
            setns(&self.fd, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Error::refused("enter namespace", &self.label, errno))?;
            Ok(closure())
        })?
    }

    /// Starts a process in the namespace: `ip netns exec NAME COMMAND`, without its mounts.
    ///
    /// A tokio `Command` is started by [`run`](NetNs::run) with the runtime entered:
    /// `let rt = Handle::current(); ns.run(|| { let _rt = rt.enter(); command.spawn() })`.
    ///
    /// The kernel counts the thread that started a child as its parent for
    /// `PR_SET_PDEATHSIG`; that thread has ended when this call returns, so do not set it.
    ///
    /// # Errors
    /// As [`run`](NetNs::run), and if the program cannot be started
    /// ([`ErrorKind::NotFound`](crate::ErrorKind) if there is none).
    pub fn spawn(&self, command: &mut Command) -> Result<Child, Error> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.run(|| command.spawn())?
            .map_err(|error| Error::refused("start process", program, error))
    }

    fn held(fd: OwnedFd, label: String) -> Result<Self, Error> {
        let file = fs::File::from(fd);
        let failed = |error: io::Error| Error::refused("examine namespace", &label, error);
        let filesystem = fstatfs(&file).map_err(|errno| failed(errno.into()))?.filesystem_type();
        if filesystem != NSFS_MAGIC {
            return Err(Error::refused("enter namespace", label, Errno::EINVAL));
        }
        let metadata = file.metadata().map_err(failed)?;
        Ok(Self { fd: file.into(), id: (metadata.dev(), metadata.ino()), label })
    }
}

/// The name, where the namespace was opened or made by one; else what it was opened by, or
/// `net:[inode]` as `readlink /proc/PID/ns/net` shows it.
impl fmt::Display for NetNs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

/// Equal if it is the same namespace, however it was opened.
impl PartialEq for NetNs {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for NetNs {}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The file of a named namespace, if it can be one.
fn path_of(name: &str) -> Result<PathBuf, Error> {
    let rule = if name.is_empty() {
        "it is empty"
    } else if name == "." || name == ".." {
        "it is a directory"
    } else if name.contains('/') {
        "it has a slash"
    } else if name.contains('\0') {
        "it has a NUL"
    } else if name.len() > 255 {
        "it is longer than 255 bytes"
    } else {
        return Ok(Path::new(RUN_DIR).join(name));
    };
    Err(Error::InvalidName { what: "namespace", name: name.to_owned(), rule })
}

/// Makes the directory of named namespaces a mount point that shares its mounts, as the first
/// `ip netns add` does: a name made in one mount namespace is then seen, and can be deleted, in
/// the others.
fn share_run_dir() -> Result<(), Error> {
    fs::create_dir_all(RUN_DIR)
        .map_err(|error| Error::refused("create directory", RUN_DIR, error))?;
    // The lock that iproute2 takes: two that find it unmounted must not both mount it.
    let dir = fs::File::open(RUN_DIR)
        .map_err(|error| Error::refused("open directory", RUN_DIR, error))?;
    let _lock = Flock::lock(dir, FlockArg::LockExclusive)
        .map_err(|(_, errno)| Error::refused("lock directory", RUN_DIR, errno))?;
    let share = || mount_dir(MsFlags::MS_SHARED | MsFlags::MS_REC);
    match share() {
        // Not a mount point yet: it is bound onto itself to become one.
        Err(Errno::EINVAL) => mount_dir(MsFlags::MS_BIND | MsFlags::MS_REC).and_then(|()| share()),
        done => done,
    }
    .map_err(|errno| Error::refused("share mounts of", RUN_DIR, errno))
}

fn mount_dir(flags: MsFlags) -> nix::Result<()> {
    mount(Some(RUN_DIR), RUN_DIR, None::<&str>, flags, None::<&str>)
}

fn on_fresh_thread<T: Send>(
    step: &'static str,
    object: &str,
    closure: impl FnOnce() -> T + Send,
) -> Result<T, Error> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, closure)
            .map_err(|error| Error::refused(step, object, error))
            .map(|thread| thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn names_that_cannot_be() {
        let long = "n".repeat(256);
        for name in ["", ".", "..", "a/b", "/", "a\0b", long.as_str()] {
            for result in [NetNs::open(name).map(drop), NetNs::delete(name)] {
                assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidInput, "{name:?}");
            }
        }
        assert!(path_of(&"n".repeat(255)).is_ok());
    }

    #[test]
    fn what_is_not_a_namespace() {
        let error = NetNs::from_path("/proc/self/status").unwrap_err();
        assert!(error.to_string().contains("not a network namespace"), "{error}");
        assert_eq!(NetNs::from_pid(u32::MAX).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(NetNs::open("no such name").unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn the_same_namespace_is_equal() {
        let current = NetNs::current().unwrap();
        assert_eq!(current, NetNs::from_pid(std::process::id()).unwrap());
        assert_eq!(current, NetNs::from_fd(current.as_fd().try_clone_to_owned().unwrap()).unwrap());
    }
}
