use std::{fs, os::unix::process::CommandExt, path::Path, process};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use crate::{
    error::{Context, Error},
    netlink,
    order::Command,
};

/// Moves this process into new network and mount namespaces, with `lo` up, a `/sys` that
/// shows this network namespace's links, and its own `/run/netns`.
pub(crate) fn isolate() -> Result<(), Error> {
    // Only the calling thread would move; others would still act on the machine's own.
    let count = threads()?;
    if count > 1 {
        return Err(Error::Threads { count });
    }
    permitted("make namespaces", unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS))?;
    let none: Option<&str> = None;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    permitted("make the mounts private", mount(none, "/", none, private, none))?;
    // This also unmounts what is below /sys (cgroups), as `ip netns exec` does.
    let _ = umount2("/sys", MntFlags::MNT_DETACH);
    permitted("mount /sys", mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none))?;
    let names = Path::new("/run/netns");
    fs::create_dir_all(names).context("make the directory", names.display())?;
    let kind = Some("tmpfs");
    permitted("mount /run/netns", mount(kind, names, kind, MsFlags::empty(), Some("mode=755")))?;
    netlink::loopback_up().context("bring up", "lo")
}

/// How many threads this process has.
pub(crate) fn threads() -> Result<usize, Error> {
    Ok(fs::read_dir("/proc/self/task").context("read", "/proc/self/task")?.count())
}

/// Turns a lack of privilege into its own error: then a guest can help.
fn permitted(step: &'static str, result: nix::Result<()>) -> Result<(), Error> {
    match result {
        Err(error @ (Errno::EPERM | Errno::EACCES)) => {
            Err(Error::NotPermitted { step, source: error.into() })
        }
        result => result.context("isolate this process:", step),
    }
}

/// Becomes a command. Returns only if that fails.
pub(crate) fn become_command(command: &Command) -> Error {
    let source =
        process::Command::new(&command.program).arg0(&command.name).args(&command.arguments).exec();
    Error::Command {
        program: command.program.to_string_lossy().into_owned(),
        source,
        is_hidden: false,
    }
}
