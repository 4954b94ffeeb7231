use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::utsname::uname;

use crate::error::{Context, Error};
use crate::job::Command;
use crate::netlink;

/// The running kernel's release, as `uname -r` prints it.
pub(crate) fn release() -> Result<String, Error> {
    let name = uname().context("ask for the name of", "the kernel")?;
    Ok(name.release().to_string_lossy().into_owned())
}

/// Moves this process into a network and a mount namespace of its own, with `lo` up, a `/sys` that
/// shows this network namespace's links, and a `/run/netns` for its own names.
pub(crate) fn isolate() -> Result<(), Error> {
    // Only the calling thread would be moved; others would go on working on the machine's own.
    let threads = fs::read_dir("/proc/self/task").context("read", "/proc/self/task")?.count();
    if threads > 1 {
        return Err(Error::Threads { count: threads });
    }
    match unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS) {
        Err(Errno::EPERM) => {
            let source = io::Error::from(Errno::EPERM);
            return Err(Error::NotPermitted { step: "make namespaces", source });
        }
        result => result.context("make", "namespaces")?,
    }
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("make private the mounts below", "/")?;
    // What is mounted below /sys (cgroups) goes with it: as `ip netns exec` does.
    let _ = umount2("/sys", MntFlags::MNT_DETACH);
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).context("mount", "/sys")?;
    let names = Path::new("/run/netns");
    fs::create_dir_all(names).context("make the directory", names.display())?;
    mount(Some("netns"), names, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .context("mount", names.display())?;
    netlink::loopback_up().context("bring up", "lo")
}

/// Becomes a command; returns only if that is not possible.
pub(crate) fn become_command(command: &Command) -> Error {
    let source =
        process::Command::new(&command.program).arg0(&command.name).args(&command.arguments).exec();
    Error::Command { program: command.program.to_string_lossy().into_owned(), source }
}
