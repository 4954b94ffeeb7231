//! Which of this machine's directories a guest sees where it has its own, and which it writes to.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    error::{Context, Error},
    inside::OWN_DIRECTORIES,
    options::Options,
    order::Command,
};

pub(super) const SHARED_MEMORY: &str = "/dev/shm";

/// What the guest writes straight through: what is asked for, the working directory and cargo's
/// target directory.
pub(super) fn written_through(
    options: &Options,
    command: &Command,
    helper: &Path,
) -> Result<Vec<PathBuf>, Error> {
    let mut paths = Vec::new();
    for path in &options.write {
        let real = fs::canonicalize(path).context("find", path.display())?;
        if is_system(&real) || !real.is_dir() {
            let value = path.display().to_string();
            let expected = "directories that are none of the system's and hold none";
            return Err(Error::Setting { name: "LVS_GUEST_WRITE", value, expected });
        }
        paths.push(real);
    }
    let target = helper.ancestors().find(|path| path.join("CACHEDIR.TAG").is_file());
    let implied = [Some(command.directory.as_path()), target];
    paths.extend(implied.into_iter().flatten().filter(|path| !is_system(path)).map(Path::to_owned));
    // The outer ones first, which have the inner ones in them.
    paths.sort();
    paths.dedup_by(|inner, outer| inner.starts_with(outer));
    Ok(paths)
}

/// Whether a directory is one of the system's or holds one: mounted over the guest's, it would let
/// the guest change the machine and hide what the guest has of its own.
fn is_system(path: &Path) -> bool {
    const HELD: [&str; 11] =
        ["/bin", "/boot", "/dev", "/etc", "/lib", "/proc", "/run", "/sbin", "/sys", "/usr", "/var"];
    let below = |directory| path.starts_with(directory);
    HELD.iter().any(|held| Path::new(held).starts_with(path))
        || below("/proc")
        || below("/sys")
        || below("/dev") && !below(SHARED_MEMORY)
}

/// Where this program is, if the guest has something of its own there.
pub(super) fn shown(helper: &Path) -> Vec<PathBuf> {
    let hidden = OWN_DIRECTORIES.iter().any(|directory| helper.starts_with(directory));
    helper.parent().filter(|_| hidden).map(Path::to_owned).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_the_system_are_not_written_through() {
        for path in ["/", "/usr", "/etc", "/var", "/proc/1", "/dev", "/dev/pts", "/sys/kernel"] {
            assert!(is_system(Path::new(path)), "{path}");
        }
        for path in ["/home", "/home/me", "/usr/src/app", "/tmp", "/tmp/x", "/dev/shm/x", "/root"] {
            assert!(!is_system(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn what_is_written_through_is_named_once() {
        let directory = std::env::temp_dir().canonicalize().unwrap();
        let options = Options { write: vec![directory.clone()], ..Options::default() };
        let helper = std::env::current_exe().unwrap();
        let mut command = Command::here("x".into(), "x".into(), Vec::new()).unwrap();
        command.directory = directory.join("sub");
        let paths = written_through(&options, &command, &helper).unwrap();
        assert_eq!(paths.iter().filter(|path| path.starts_with(&directory)).count(), 1);
        assert!(paths.iter().any(|path| helper.starts_with(path)), "{paths:?} {helper:?}");

        let options = Options { write: vec!["/".into()], ..Options::default() };
        assert!(written_through(&options, &command, &helper).is_err());
    }
}
