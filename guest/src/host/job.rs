//! The directory through which a runner and the guest's init communicate.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink},
    },
    path::{Path, PathBuf},
    process,
    time::{SystemTime, UNIX_EPOCH},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::signal::{self, Signal},
    unistd::{Pid, Uid},
};

use crate::{
    error::{Context, Error},
    order::Order,
};

const PREFIX: &str = "lvs-guest-";
const UNFINISHED: &str = ".new";

/// A job's directory: private, locked while its runner lives, and deleted with it.
pub(crate) struct Job {
    path: PathBuf,
    /// Held for its lock.
    _lock: Flock<File>,
}

impl Job {
    /// Makes a job's directory below another, and first removes the directories that killed runners left
    /// there.
    pub(crate) fn create(base: &Path) -> Result<Self, Error> {
        remove_stale(base);
        let user = Uid::effective();
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let path = base.join(format!("{PREFIX}{user}-{}-{time:x}", process::id()));
        // Locked under a name that others ignore, so that they never see it unlocked.
        let unfinished = path.with_extension(&UNFINISHED[1..]);
        let made = DirBuilder::new().mode(0o700).create(&unfinished);
        made.context("make the directory", unfinished.display())?;
        let job = (|| {
            let directory = File::open(&unfinished)?;
            let lock = Flock::lock(directory, FlockArg::LockExclusiveNonblock)
                .map_err(|(_, error)| error)?;
            fs::rename(&unfinished, &path)?;
            Ok(Self { path: path.clone(), _lock: lock })
        })();
        job.inspect_err(|_: &io::Error| drop(fs::remove_dir(&unfinished)))
            .context("lock the directory", path.display())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the order, readable by this user only since it holds the environment, and the link through
    /// which the kernel finds init: a path short enough for a kernel's command line.
    pub(crate) fn put(&self, order: &Order) -> Result<(), Error> {
        let path = self.path.join("order");
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(&order.to_bytes()))
            .context("write", path.display())?;
        let link = self.path.join("init");
        symlink(&order.helper, &link).context("make the link", link.display())
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // If it cannot be removed now, the next run removes it.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Writes down the process group of a job's kernel, so that a later run can end what is left of it.
pub(crate) fn note_group(job: &Path, kernel: &Path) -> io::Result<()> {
    let mut note = format!("{}\n", process::id()).into_bytes();
    note.extend(kernel.as_os_str().as_bytes());
    fs::write(job.join("group"), note)
}

/// Removes the directories that this user's runners left behind, and ends what is left of their
/// kernels. A locked directory belongs to a living runner.
fn remove_stale(base: &Path) {
    let user = Uid::effective();
    let prefix = format!("{PREFIX}{user}-");
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with(&prefix) || name.ends_with(UNFINISHED) {
            continue;
        }
        let path = entry.path();
        let ours = fs::symlink_metadata(&path)
            .is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == user.as_raw());
        let Some(directory) = ours.then(|| File::open(&path).ok()).flatten() else { continue };
        let Ok(_lock) = Flock::lock(directory, FlockArg::LockExclusiveNonblock) else { continue };
        end_group(&path);
        let _ = fs::remove_dir_all(&path);
    }
}

/// Ends the processes of a noted group that run the noted kernel. Process numbers are reused: other
/// processes that have the number now are left alone.
fn end_group(job: &Path) {
    let Ok(note) = fs::read(job.join("group")) else { return };
    let Some(newline) = note.iter().position(|&byte| byte == b'\n') else { return };
    let group = std::str::from_utf8(&note[..newline]).ok().and_then(|text| text.parse().ok());
    let (Some(group), kernel) = (group, OsStr::from_bytes(&note[newline + 1..])) else { return };
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let runs_kernel =
            fs::read_link(entry.path().join("exe")).is_ok_and(|program| program == kernel);
        if runs_kernel
            && nix::unistd::getpgid(Some(Pid::from_raw(process))) == Ok(Pid::from_raw(group))
        {
            let _: Result<(), Errno> = signal::kill(Pid::from_raw(process), Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_private_and_gone_when_dropped() {
        let base = std::env::temp_dir();
        let job = Job::create(&base).unwrap();
        let path = job.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        // Another run in the meantime leaves it alone.
        let other = Job::create(&base).unwrap();
        assert!(path.exists() && other.path() != path);
        drop(job);
        assert!(!path.exists());
        // What a killed runner left is removed by the next.
        let stale = base.join(format!("{PREFIX}{}-0-stale", Uid::effective()));
        fs::create_dir_all(stale.join("sub")).unwrap();
        let next = Job::create(&base).unwrap();
        assert!(!stale.exists() && other.path().exists() && next.path().exists());
    }
}
