use std::{
    ffi::OsStr,
    fmt, fs,
    hash::{Hash, Hasher},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    process::{Child, Command},
};

use netlink_talk::{
    names,
    namespace::{self, NotEntered, OWN},
};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};

use crate::error::{Error, ErrorKind, Operation};

/// Where `ip netns` keeps the named namespaces (iproute2's `NETNS_RUN_DIR`).
pub(crate) const RUN_DIR: &str = "/var/run/netns";

/// A network namespace, held open by a file descriptor.
///
/// A namespace lives as long as something holds it: a process in it, a bind mount (the named ones
/// of `ip netns`), a socket made in it, or a value of this type. An anonymous one
/// ([`NetNs::new`]) is therefore gone, with its links, when the last of these is dropped.
///
/// No call changes the namespace of the calling thread: [`run`](NetNs::run) enters another one on a
/// fresh thread that ends with the closure. Sockets and child processes keep the namespace in which
/// they were made, so make them in `run` and use them anywhere:
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
/// Making a namespace needs CAP_SYS_ADMIN, and so does entering one that is not the caller's. The
/// caller's own namespace is never entered, so every call works there without that capability.
///
/// A value holds one file descriptor. Two values are equal if they hold the same namespace, however
/// they were opened: `NetNs::from_pid(pid)? == NetNs::current()?` says whether a process shares the
/// caller's namespace.
#[derive(Debug)]
pub struct NetNs {
    fd: OwnedFd,
    id: namespace::Id,
    label: String,
}

impl NetNs {
    /// Makes a namespace without a name: `unshare --net`. It has one link, `lo`, which is down.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN ([`ErrorKind::PermissionDenied`](crate::ErrorKind)), or when a limit
    /// is reached (`user.max_net_namespaces`, open files, threads).
    pub fn new() -> Result<Self, Error> {
        let failed = |error: io::Error| Error::system(&Operation::CreateNamespace, error);
        let file = namespace::on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
            fs::File::open(OWN)
        })
        .map_err(|error| Error::system(&Operation::StartThread, error))?
        .map_err(failed)?;
        Self::from_fd(file.into())
    }

    /// Makes a namespace with a name: `ip netns add NAME`. The name stays until [`NetNs::delete`],
    /// even when this value is dropped.
    ///
    /// # Errors
    /// As [`NetNs::new`] and [`attach`](NetNs::attach).
    pub fn create(name: &str) -> Result<Self, Error> {
        path_of(name)?;
        let namespace = Self::new()?;
        namespace.attach(name)?;
        Ok(Self { label: name.to_owned(), ..namespace })
    }

    /// Gives a name to a namespace, such as that of a process: `ip netns attach NAME PID`. The name
    /// stays until [`NetNs::delete`]. Unlike a symbolic link to `/proc/PID/ns/net`, it outlives the
    /// process.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`](crate::ErrorKind) if the name is taken; the text says whether
    /// by a namespace or by a stale file, which [`NetNs::delete`] removes.
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind) if it cannot be a name,
    /// [`ErrorKind::PermissionDenied`](crate::ErrorKind) without CAP_SYS_ADMIN. Nothing is left
    /// behind then.
    pub fn attach(&self, name: &str) -> Result<(), Error> {
        let path = path_of(name)?;
        share_run_dir()?;
        let operation = Operation::NameNamespace(name.to_owned());
        fs::File::create_new(&path).map_err(|error| taken(&operation, &path, error))?;
        let mounted = self.run(|| {
            mount(Some(OWN), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .map_err(|errno| Error::system(&operation, errno))
        });
        mounted.and_then(|mounted| mounted).inspect_err(|_| {
            // The first error is the one that counts; the file is empty and nothing is mounted.
            let _ = fs::remove_file(&path);
        })
    }

    /// Opens a namespace by its name in `ip netns list`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind) if there is none;
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind) if it cannot be a name, or if the file is a
    /// stale one, which a deletion or a reboot has left without a namespace.
    pub fn open(name: &str) -> Result<Self, Error> {
        Self::opened(&path_of(name)?, &Operation::OpenNamespace(name.to_owned()), name.to_owned())
    }

    /// Opens the namespace of a process: `/proc/PID/ns/net`. It stays open when the process ends.
    ///
    /// After a process has ended, the kernel may give its number to another. A container's process
    /// whose namespace equals [`NetNs::current`] is likely to be such another one.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind) if there is no such process;
    /// [`ErrorKind::PermissionDenied`](crate::ErrorKind) if the caller may not trace it.
    pub fn from_pid(pid: u32) -> Result<Self, Error> {
        let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
        // Without /proc nothing is known of the process.
        if !Path::new(OWN).exists() {
            return Self::from_path(path);
        }
        let operation = Operation::OpenNamespaceOf(pid);
        match Self::opened(&path, &operation, format!("of process {pid}")) {
            // Some kernels (Debian's 5.10.0-46) open the link's directory instead of refusing.
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                Err(Error::system(&operation, Errno::EACCES))
            }
            result => result,
        }
    }

    /// Opens a namespace by a path that leads to one: a bind mount, or a symbolic link to
    /// `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// If nothing is there, or what is there is not a namespace.
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let label = path.display().to_string();
        Self::opened(path, &Operation::OpenNamespaceAt(label.clone()), label)
    }

    /// Takes a file descriptor that holds a namespace, such as one passed by another process.
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
        let file = fs::File::open(OWN)
            .map_err(|error| Error::system(&Operation::OpenNamespaceAt(OWN.to_owned()), error))?;
        Self::from_fd(file.into())
    }

    /// The names of the named namespaces, sorted: `ip netns list`. What is not UTF-8 in one is `\xff`, and
    /// every call that takes a name reads that.
    ///
    /// # Errors
    /// If the directory of `ip netns` cannot be read. Where it does not exist there are no names.
    pub fn names() -> Result<Vec<String>, Error> {
        let failed = |error| Error::system(&Operation::ListNamespaces, error);
        let entries = match fs::read_dir(RUN_DIR) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = entries
            .map(|entry| Ok(names::to_text(entry.map_err(failed)?.file_name().as_bytes())))
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
        let failed =
            |error: io::Error| Error::system(&Operation::DeleteNamespace(name.to_owned()), error);
        match umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // Not a mount point: a file that a reboot left behind, or a symbolic link to
            // /proc/PID/ns/net.
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
        fs::remove_file(&path).map_err(failed)
    }

    /// Runs a closure in the namespace and returns its result. If the calling thread is in the
    /// namespace already, the closure runs there; else it runs on a fresh thread, which enters the
    /// namespace and ends with the closure. A panic of the closure goes on in the caller.
    ///
    /// The closure may borrow. The caller waits for it, so in an async program a closure that
    /// blocks belongs into `spawn_blocking`. `/proc/sys/net` and `/proc/thread-self/net` are
    /// those of the namespace. `/sys` and all mounts are the caller's (`ip netns exec` mounts
    /// `/sys` anew, this does not).
    ///
    /// # Errors
    /// Only for a namespace that is not the caller's:
    /// [`ErrorKind::PermissionDenied`](crate::ErrorKind) without CAP_SYS_ADMIN,
    /// [`ErrorKind::LimitReached`](crate::ErrorKind) if no more threads can be made. The closure
    /// has not run then.
    pub fn run<T: Send>(&self, closure: impl FnOnce() -> T + Send) -> Result<T, Error> {
        namespace::run_in(self.fd.as_fd(), self.id, closure).map_err(|error| match error {
            NotEntered::Thread(error) => Error::system(&Operation::StartThread, error),
            NotEntered::Refused(errno) => {
                Error::system(&Operation::EnterNamespace(self.label.clone()), errno)
            }
            error => Error::new(
                ErrorKind::Other,
                Operation::EnterNamespace(self.label.clone()),
                &format!("{error:?}"),
            ),
        })
    }

    /// Starts a process in the namespace: `ip netns exec NAME COMMAND`, without its mounts.
    ///
    /// To start a tokio `Command`, enter the runtime within [`run`](NetNs::run):
    /// `let rt = Handle::current(); ns.run(|| { let _rt = rt.enter(); command.spawn() })`.
    ///
    /// Do not set `PR_SET_PDEATHSIG`: the kernel sends that signal when the thread that started the
    /// child ends, and that thread may end with this call.
    ///
    /// # Errors
    /// As [`run`](NetNs::run), and if the program cannot be started
    /// ([`ErrorKind::NotFound`](crate::ErrorKind) if there is none).
    pub fn spawn(&self, command: &mut Command) -> Result<Child, Error> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.run(|| command.spawn())?
            .map_err(|error| Error::system(&Operation::StartProcess(program), error))
    }

    pub(crate) fn id(&self) -> namespace::Id {
        self.id
    }

    fn opened(path: &Path, operation: &Operation, label: String) -> Result<Self, Error> {
        let file = fs::File::open(path).map_err(|error| Error::system(operation, error))?;
        Self::held(file.into(), label)
    }

    fn held(fd: OwnedFd, label: String) -> Result<Self, Error> {
        let file = fs::File::from(fd);
        let operation = Operation::ExamineNamespace(label.clone());
        let failed = |error: io::Error| Error::system(&operation, error);
        if !is_namespace(&file).map_err(failed)? {
            let text = "it is not a network namespace";
            return Err(Error::new(ErrorKind::InvalidInput, &operation, text));
        }
        let metadata = file.metadata().map_err(failed)?;
        Ok(Self { fd: file.into(), id: (metadata.dev(), metadata.ino()), label })
    }
}

/// The name, where the namespace was opened or made by one; else the process or the path that it
/// was opened by, or `net:[inode]` as `readlink /proc/PID/ns/net` shows it.
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

impl Hash for NetNs {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The file of a named namespace, if it can be one.
fn path_of(name: &str) -> Result<PathBuf, Error> {
    let bytes = names::from_text(name);
    let rule = if bytes.is_empty() {
        "it is empty"
    } else if bytes == b"." || bytes == b".." {
        "it is a directory"
    } else if bytes.contains(&b'/') {
        "it has a slash"
    } else if bytes.contains(&0) {
        "it has a NUL"
    } else if bytes.len() > 255 {
        "it is longer than 255 bytes"
    } else {
        return Ok(Path::new(RUN_DIR).join(OsStr::from_bytes(&bytes)));
    };
    Err(Error::invalid(format_args!("namespace name {name:?}"), rule))
}

/// What is in the way of a new name.
fn taken(operation: &Operation, path: &Path, error: io::Error) -> Error {
    let exists = error.kind() == io::ErrorKind::AlreadyExists;
    let error = Error::system(operation, error);
    let stale = || {
        let file = fs::File::open(path).map_err(|error| error.kind());
        // A symbolic link to a process that has ended leads nowhere.
        file.map_or_else(
            |kind| kind == io::ErrorKind::NotFound,
            |file| is_namespace(&file).is_ok_and(|is| !is),
        )
    };
    match exists {
        true if stale() => error.with_meaning(
            ErrorKind::AlreadyExists,
            "a file of this name is there that is no network namespace, as a reboot or a crash \
             leaves it; delete the name first (ip netns delete)",
        ),
        true => error.with_meaning(
            ErrorKind::AlreadyExists,
            "there is a network namespace of this name already",
        ),
        false => error,
    }
}

fn is_namespace(file: &fs::File) -> io::Result<bool> {
    Ok(fstatfs(file)?.filesystem_type() == NSFS_MAGIC)
}

/// Makes the directory of named namespaces a mount point that shares its mounts, as the first
/// `ip netns add` does: a name made in one mount namespace is then seen, and can be deleted, in
/// the others.
fn share_run_dir() -> Result<(), Error> {
    let failed = |error: io::Error| Error::system(&Operation::ShareNames(RUN_DIR), error);
    fs::create_dir_all(RUN_DIR).map_err(failed)?;
    // The lock that iproute2 takes: two that find it unmounted must not both mount it.
    let dir = fs::File::open(RUN_DIR).map_err(failed)?;
    let _lock =
        Flock::lock(dir, FlockArg::LockExclusive).map_err(|(_, errno)| failed(errno.into()))?;
    let share = || mount_dir(MsFlags::MS_SHARED | MsFlags::MS_REC);
    match share() {
        // Not a mount point yet: it is bound onto itself to become one.
        Err(Errno::EINVAL) => mount_dir(MsFlags::MS_BIND | MsFlags::MS_REC).and_then(|()| share()),
        done => done,
    }
    .map_err(|errno| failed(errno.into()))
}

fn mount_dir(flags: MsFlags) -> nix::Result<()> {
    mount(Some(RUN_DIR), RUN_DIR, None::<&str>, flags, None::<&str>)
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
