//! Which of this machine's directories a guest sees below its own ones, and which it writes to.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
};

use crate::{
    error::{Context, Error},
    inside::OWN_DIRECTORIES,
    options::Options,
    order::Command,
};

pub(super) const SHARED_MEMORY: &str = "/dev/shm";

/// The directories of this machine that a command in a guest gets, besides what it can read anyway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Visible {
    /// Directories that the guest writes to.
    pub(super) write: Vec<PathBuf>,
    /// Directories that the guest reads below its own ones.
    pub(super) show: Vec<PathBuf>,
    /// Programs in a directory of which the guest has its own.
    pub(super) show_files: Vec<PathBuf>,
    /// Empty directories to make below the guest's own ones, with these modes.
    pub(super) make: Vec<(PathBuf, u32)>,
}

impl Visible {
    /// The command writes to the directories in the options, the working directory
    /// and cargo's target directory. It reads what it needs to start: the directories of its program,
    /// of this program, and of variables such as `PATH`. Other variables, such as `TMPDIR` and
    /// `XDG_RUNTIME_DIR`, name directories to put things in: these are made, empty.
    pub(super) fn new(options: &Options, command: &Command, helper: &Path) -> Result<Self, Error> {
        let mut visible =
            Self { write: written_through(options, command, helper)?, ..Self::default() };
        let program = command.look_up().map(|path| command.directory.join(path));
        for path in program.iter().map(PathBuf::as_path).chain([helper]).flat_map(with_target) {
            visible.show_program(path);
        }
        let directories =
            |path: PathBuf| with_target(&path).into_iter().filter(|path| path.is_dir());
        let (lists, values): (Vec<_>, Vec<_>) = command
            .environment
            .iter()
            .partition(|(name, _)| name.as_encoded_bytes().ends_with(b"PATH"));
        for path in lists.iter().flat_map(|(_, list)| std::env::split_paths(list)) {
            visible.show.extend(directories(path).filter(|path| is_hidden(path)));
        }
        visible.show.retain(|path| !visible.write.iter().any(|write| path.starts_with(write)));
        keep_outermost(&mut visible.show);
        for path in values.into_iter().flat_map(|(_, value)| directories(PathBuf::from(value))) {
            let seen = [&visible.write, &visible.show].into_iter().flatten();
            if is_hidden(&path) && !seen.into_iter().any(|seen| path.starts_with(seen)) {
                let mode = fs::metadata(&path).context("find", path.display())?.permissions();
                visible.make.push((path, mode.mode() & 0o7777));
            }
        }
        visible.make.sort();
        visible.make.dedup();
        Ok(visible)
    }

    /// A hint for a command that failed: its arguments that name files of this machine that the guest does
    /// not show.
    pub(super) fn hint(&self, command: &Command) -> Option<String> {
        let mut hidden: Vec<_> = command
            .arguments
            .iter()
            .filter_map(|argument| self.hidden_by(argument, &command.directory))
            .collect();
        hidden.sort();
        hidden.dedup();
        let (first, _) = hidden.first()?;
        let directory = first.parent().unwrap_or(first);
        let names: Vec<_> = hidden.iter().map(|(path, _)| path.display().to_string()).collect();
        let own: BTreeSet<_> = hidden.iter().map(|(_, own)| *own).collect();
        let own: Vec<_> = own.into_iter().collect();
        let is_one = hidden.iter().all(|(path, _)| path.parent() == Some(directory));
        let way = if is_one && !is_system(directory) {
            let directory = directory.display();
            format!("--write {directory} or LVS_GUEST_WRITE={directory} shows that directory to it")
        } else {
            "To use it, copy it to the working directory".to_owned()
        };
        Some(format!(
            "the command failed. The guest does not see {} of this machine, since it has its own {}. \
             {way}",
            names.join(", "),
            own.join(" and "),
        ))
    }

    /// The path that an argument names (`FILE`, `--name=FILE`) if it is there and the guest does not show
    /// it, and the guest's own directory that hides it.
    fn hidden_by(&self, argument: &OsStr, directory: &Path) -> Option<(PathBuf, &'static str)> {
        let bytes = argument.as_bytes();
        let value = bytes.iter().position(|&byte| byte == b'=').map(|at| &bytes[at + 1..]);
        let names = [Some(bytes), value].into_iter().flatten().filter(|name| !name.is_empty());
        let named = names.map(|name| directory.join(OsStr::from_bytes(name)));
        let path = named.into_iter().find(|path| path.exists())?;
        // Also check the targets of links: all of them must be visible.
        let hidden = with_target(&path).into_iter().find(|path| {
            let shown = self.write.iter().chain(&self.show).any(|shown| path.starts_with(shown));
            is_hidden(path) && !shown && !self.show_files.contains(path)
        })?;
        let mut own = [SHARED_MEMORY].into_iter().chain(OWN_DIRECTORIES);
        let own = own.find(|own| hidden.starts_with(own))?;
        Some((hidden, own))
    }

    fn show_program(&mut self, path: PathBuf) {
        let Some(directory) = path.parent() else { return };
        if is_hidden(directory) {
            self.show.push(directory.to_owned());
        } else if is_hidden(&path) && path.is_file() && !self.write.iter().any(|w| w == directory) {
            self.show_files.push(path);
            self.show_files.dedup();
        }
    }
}

/// The directories that the guest writes to: the user's choice, the working directory and cargo's
/// target directory.
fn written_through(
    options: &Options,
    command: &Command,
    helper: &Path,
) -> Result<Vec<PathBuf>, Error> {
    let mut paths = Vec::new();
    for path in &options.write {
        let real = fs::canonicalize(path).context("find", path.display())?;
        if is_system(&real) || !real.is_dir() {
            let value = path.display().to_string();
            let expected = "directories that are not, and do not contain, the system's";
            return Err(Error::Setting { name: "LVS_GUEST_WRITE", value, expected });
        }
        paths.push(real);
    }
    let target = helper.ancestors().find(|path| path.join("CACHEDIR.TAG").is_file());
    let implied = [Some(command.directory.as_path()), target];
    paths.extend(implied.into_iter().flatten().filter(|path| !is_system(path)).map(Path::to_owned));
    keep_outermost(&mut paths);
    Ok(paths)
}

/// Whether a directory is one of the system's or contains one. If the guest could write to it, it could
/// change the machine, and the guest's own would be hidden.
fn is_system(path: &Path) -> bool {
    const HELD: [&str; 11] =
        ["/bin", "/boot", "/dev", "/etc", "/lib", "/proc", "/run", "/sbin", "/sys", "/usr", "/var"];
    let below = |directory| path.starts_with(directory);
    HELD.iter().any(|held| Path::new(held).starts_with(path))
        || below("/proc")
        || below("/sys")
        || below("/dev") && !below(SHARED_MEMORY)
}

/// Whether a path is below one of the guest's own directories in which it can have some of this machine's
/// files. A kernel's own file systems are not among them.
fn is_hidden(path: &Path) -> bool {
    let shown = [Path::new(SHARED_MEMORY)].into_iter();
    OWN_DIRECTORIES
        .iter()
        .map(Path::new)
        .filter(|own| !["/dev", "/proc", "/sys"].map(Path::new).contains(own))
        .chain(shown)
        .any(|own| path.starts_with(own) && path != own)
}

/// An absolute path, and its target after all links, if that differs.
fn with_target(path: &Path) -> Vec<PathBuf> {
    if !path.is_absolute() {
        return Vec::new();
    }
    let mut paths = vec![path.to_owned()];
    paths.extend(fs::canonicalize(path).ok().filter(|target| target != path));
    paths
}

/// Removes directories that are in others. The outer ones come first.
fn keep_outermost(paths: &mut Vec<PathBuf>) {
    paths.sort();
    paths.dedup_by(|inner, outer| inner.starts_with(outer));
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
    fn a_failed_command_is_told_which_arguments_are_hidden() {
        let directory = tempfile::tempdir_in("/tmp").unwrap();
        let (script, other) = (directory.path().join("x.sh"), directory.path().join("y"));
        fs::write(&script, "").unwrap();
        fs::write(&other, "").unwrap();
        let link = std::env::current_dir().unwrap().join(format!("link-{}", std::process::id()));
        std::os::unix::fs::symlink(&script, &link).unwrap();
        let visible = Visible::default();
        let hint = |visible: &Visible, arguments: &[&str]| {
            let arguments = arguments.iter().map(|argument| (*argument).into()).collect();
            let mut command = Command::here("sh".into(), "sh".into(), arguments).unwrap();
            command.directory = "/".into();
            visible.hint(&command)
        };
        let (path, place) = (script.to_str().unwrap(), directory.path().display());
        let words = hint(&visible, &["-e", path]).unwrap();
        assert!(words.contains(&format!("does not see {path} of this machine")), "{words}");
        let way = format!("--write {place} or LVS_GUEST_WRITE={place} shows that");
        assert!(words.contains(&format!("its own /tmp. {way}")), "{words}");
        // By another name.
        for argument in [&format!("--file={path}"), &path[1..], link.to_str().unwrap()] {
            assert_eq!(hint(&visible, &[argument]).as_ref(), Some(&words), "{argument}");
        }
        let both = hint(&visible, &[path, other.to_str().unwrap()]).unwrap();
        assert!(both.contains(&format!("{path}, {}", other.display())), "{both}");
        // What cannot be shown by an option.
        let elsewhere = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        let words = hint(&visible, &[path, elsewhere.path().to_str().unwrap()]).unwrap();
        assert!(
            words.ends_with(
                "its own /dev/shm and /tmp. To use it, copy it to the working directory"
            ),
            "{words}"
        );
        // Nothing that is not there, that the guest has, or that is shown.
        for argument in ["/tmp/no/such/file", "/etc/passwd", "/tmp", "/dev/null", "/proc/self", ""]
        {
            assert_eq!(hint(&visible, &[argument]), None, "{argument}");
        }
        let shown = Visible { show: vec![directory.path().to_owned()], ..Visible::default() };
        assert_eq!(hint(&shown, &[path]), None);
        let written = Visible { write: vec!["/tmp".into()], ..Visible::default() };
        assert_eq!(hint(&written, &[path]), None);
        fs::remove_file(&link).unwrap();
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
