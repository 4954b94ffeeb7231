//! The files through which a runner and the guest's init speak: the command in, its end out.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
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

use crate::error::{Context, Error};

const PREFIX: &str = "lvs-guest-";
const UNFINISHED: &str = ".new";

/// A command and its surroundings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    /// What is run: a path, or a name to be looked up in the environment's `PATH`.
    pub(crate) program: OsString,
    /// What the program is told as its own name.
    pub(crate) name: OsString,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) directory: PathBuf,
}

/// All that the guest's init has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) command: Command,
    /// The directory of the modules of all the package's kernel releases.
    pub(crate) modules: PathBuf,
    /// How the guest sees this machine's files.
    pub(crate) files: Files,
    /// Directories and files that are written straight through.
    pub(crate) write: Vec<PathBuf>,
    /// Directories that the guest would hide, and that are to be seen all the same.
    pub(crate) show: Vec<PathBuf>,
    /// The program that serves as init and modprobe.
    pub(crate) helper: PathBuf,
    pub(crate) host_name: OsString,
    /// Standard input is passed on.
    pub(crate) input: bool,
}

/// How a guest sees this machine's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Files {
    /// As User-Mode Linux does: any directory of the machine's can be mounted.
    Hostfs,
    /// As QEMU's guests do: all of them are one file system.
    Virtiofs,
}

/// What init reports when it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) end: End,
    /// How many bytes were written to standard output and to standard error.
    pub(crate) written: [u64; 2],
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Exit(i32),
    Signal(i32),
    /// It could not be run: an errno.
    NotRun(i32),
    /// The guest could not be set up.
    Failed(String),
}

/// A job's directory: private, locked while its runner lives, gone with it.
pub(crate) struct Job {
    path: PathBuf,
    /// Held for its lock.
    _lock: Flock<File>,
}

impl Command {
    /// A command with this process's environment and working directory.
    pub(crate) fn here(
        program: OsString,
        name: OsString,
        arguments: Vec<OsString>,
    ) -> Result<Self, Error> {
        let directory = std::env::current_dir().context("find the", "working directory")?;
        let environment = std::env::vars_os().collect();
        Ok(Self { program, name, arguments, environment, directory })
    }
}

impl Order {
    /// Fields ended by a NUL, which none of them can hold, each a key, `=` and a value.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut field = |key: &str, value: &OsStr| {
            bytes.extend(key.as_bytes());
            bytes.push(b'=');
            bytes.extend(value.as_bytes());
            bytes.push(0);
        };
        field("program", &self.command.program);
        field("name", &self.command.name);
        self.command.arguments.iter().for_each(|argument| field("argument", argument));
        for (name, value) in &self.command.environment {
            field("variable", name);
            field("value", value);
        }
        field("directory", self.command.directory.as_os_str());
        field("modules", self.modules.as_os_str());
        if self.files == Files::Virtiofs {
            field("virtiofs", OsStr::new(""));
        }
        self.write.iter().for_each(|path| field("write", path.as_os_str()));
        self.show.iter().for_each(|path| field("show", path.as_os_str()));
        field("helper", self.helper.as_os_str());
        field("host-name", &self.host_name);
        if self.input {
            field("input", OsStr::new(""));
        }
        bytes
    }

    /// The reverse of [`Order::to_bytes`].
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let mut order = Self {
            command: Command {
                program: OsString::new(),
                name: OsString::new(),
                arguments: Vec::new(),
                environment: Vec::new(),
                directory: PathBuf::new(),
            },
            modules: PathBuf::new(),
            files: Files::Hostfs,
            write: Vec::new(),
            show: Vec::new(),
            helper: PathBuf::new(),
            host_name: OsString::new(),
            input: false,
        };
        for field in bytes.split(|&byte| byte == 0) {
            let Some(equals) = field.iter().position(|&byte| byte == b'=') else { continue };
            let value = OsString::from_vec(field[equals + 1..].to_vec());
            match &field[..equals] {
                b"program" => order.command.program = value,
                b"name" => order.command.name = value,
                b"argument" => order.command.arguments.push(value),
                b"variable" => order.command.environment.push((value, OsString::new())),
                b"value" => {
                    if let Some((_, last)) = order.command.environment.last_mut() {
                        *last = value;
                    }
                }
                b"directory" => order.command.directory = value.into(),
                b"modules" => order.modules = value.into(),
                b"virtiofs" => order.files = Files::Virtiofs,
                b"write" => order.write.push(value.into()),
                b"show" => order.show.push(value.into()),
                b"helper" => order.helper = value.into(),
                b"host-name" => order.host_name = value,
                b"input" => order.input = true,
                _ => {}
            }
        }
        order
    }

    pub(crate) fn read(job: &Path) -> Result<Self, Error> {
        let path = job.join("order");
        Ok(Self::from_bytes(&fs::read(&path).context("read", path.display())?))
    }
}

impl Report {
    /// The report in a job's directory; `None` if init did not get so far.
    pub(crate) fn read(job: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(job.join("report")).ok()?)
    }

    pub(crate) fn write(&self, job: &Path) -> io::Result<()> {
        // Written through to this machine's file when it is closed; sync first tells of an error.
        let mut file = File::create(job.join("report"))?;
        file.write_all(self.to_string().as_bytes())?;
        file.sync_all()
    }

    fn parse(text: &str) -> Option<Self> {
        let (line, words) = text.split_once('\n')?;
        let mut fields = line.split(' ');
        let (end, code) = (fields.next()?, fields.next()?.parse().ok()?);
        let written = [fields.next()?.parse().ok()?, fields.next()?.parse().ok()?];
        let end = match end {
            "exit" => End::Exit(code),
            "signal" => End::Signal(code),
            "not-run" => End::NotRun(code),
            "failed" => End::Failed(words.to_owned()),
            _ => return None,
        };
        Some(Self { end, written })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (end, code, words) = match &self.end {
            End::Exit(code) => ("exit", *code, ""),
            End::Signal(number) => ("signal", *number, ""),
            End::NotRun(errno) => ("not-run", *errno, ""),
            End::Failed(words) => ("failed", 0, words.as_str()),
        };
        let [output, errors] = self.written;
        write!(f, "{end} {code} {output} {errors}\n{words}")
    }
}

impl Job {
    /// Makes a job's directory below another, after the removal of what runners left there that
    /// were killed.
    pub(crate) fn create(base: &Path) -> Result<Self, Error> {
        remove_stale(base);
        let user = Uid::effective();
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let path = base.join(format!("{PREFIX}{user}-{}-{time:x}", process::id()));
        // Locked under a name that the others leave alone, so that it is never seen unlocked.
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

    /// Writes the order, which has the environment in it, for this user only, and the link through
    /// which the kernel finds init: a path that fits on a kernel's command line.
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
        // What cannot be removed now is removed by the next run.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Notes which process group a job's kernel is, so that a later run can end what is left of it.
pub(crate) fn note_group(job: &Path, kernel: &Path) -> io::Result<()> {
    let mut note = format!("{}\n", process::id()).into_bytes();
    note.extend(kernel.as_os_str().as_bytes());
    fs::write(job.join("group"), note)
}

/// Removes the directories that runners of this user left behind, and ends what is left of their
/// kernels. A directory that somebody has locked belongs to a living runner.
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

/// Ends the processes of a noted group that run the noted kernel. Process numbers come round again:
/// others that have the number by now are left alone.
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
    fn an_order_survives() {
        let order = Order {
            command: Command {
                program: "/bin/sh".into(),
                name: "sh".into(),
                arguments: vec!["-c".into(), "a=b\n'\"".into(), "".into()],
                environment: vec![
                    ("A".into(), "x=y\nz".into()),
                    ("EMPTY".into(), "".into()),
                    (OsString::from_vec(vec![b'B', 0xff]), OsString::from_vec(vec![0xfe])),
                ],
                directory: "/a b".into(),
            },
            modules: "/m".into(),
            files: Files::Virtiofs,
            write: vec!["/w".into(), "/x y".into()],
            show: vec!["/tmp/s".into()],
            helper: "/h".into(),
            host_name: "name".into(),
            input: true,
        };
        assert_eq!(Order::from_bytes(&order.to_bytes()), order);
        let order = Order { input: false, files: Files::Hostfs, ..order };
        assert_eq!(Order::from_bytes(&order.to_bytes()), order);
    }

    #[test]
    fn a_report_survives_and_half_a_report_is_none() {
        for end in [
            End::Exit(0),
            End::Exit(255),
            End::Signal(6),
            End::NotRun(2),
            End::Failed("two\nlines".to_owned()),
        ] {
            let report = Report { end, written: [1, u64::MAX] };
            assert_eq!(Report::parse(&report.to_string()), Some(report));
        }
        for text in ["", "exit", "exit 1", "exit 1 2", "exit 1 2 3", "exit x 2 3\n", "no 1 2 3\n"] {
            assert_eq!(Report::parse(text), None, "{text}");
        }
    }

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
