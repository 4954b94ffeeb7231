//! The files that a runner and the guest's init write for each other: the order with the command, and the report
//! on its end.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    fs::{self, File},
    io::{self, Write},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    unistd::{self, AccessFlags},
};

use crate::{
    error::{Context, Error},
    feed::Size,
};

/// Init's words on the control line: the command starts, and init listens for standard input; the
/// command was stopped; it ended, the report is written, and the runner must end the guest.
pub(crate) const STARTS: u8 = b'!';
pub(crate) const STOPPED: u8 = b'z';
pub(crate) const ENDED: u8 = b'.';

/// A command and its surroundings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    /// The program: a path, or a name to find in the environment's `PATH`.
    pub(crate) program: OsString,
    /// The name that the program gets as its own.
    pub(crate) name: OsString,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) directory: PathBuf,
}

/// All that the guest's init must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) command: Command,
    /// The directory of the modules of all the package's kernel releases.
    pub(crate) modules: PathBuf,
    /// How the guest sees this machine's files.
    pub(crate) files: Files,
    /// Directories that the guest writes to.
    pub(crate) write: Vec<PathBuf>,
    /// Directories that the guest would hide, and must show, read only.
    pub(crate) show: Vec<PathBuf>,
    /// Programs that the guest would hide, and must show.
    pub(crate) show_files: Vec<PathBuf>,
    /// Directories that the guest would hide, and must make, empty, with this mode.
    pub(crate) make: Vec<(PathBuf, u32)>,
    /// The program that serves as init and modprobe.
    pub(crate) helper: PathBuf,
    pub(crate) host_name: OsString,
    /// Standard input is passed on.
    pub(crate) input: bool,
    /// The command gets a terminal.
    pub(crate) terminal: Option<Terminal>,
}

/// A terminal that is standard input and standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terminal {
    /// Its size at first.
    pub(crate) size: Size,
    /// It is also standard error.
    pub(crate) errors: bool,
}

/// How a guest sees this machine's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Files {
    /// In User-Mode Linux: any of the machine's directories can be mounted.
    Hostfs,
    /// In QEMU with a file server: all files are one file system.
    Virtiofs,
    /// In QEMU without one: one file system to read, and the same again to write.
    NineP,
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
    /// The command could not be run: an errno.
    NotRun(i32),
    /// The guest could not be set up.
    Failed(String),
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

    /// The path of the program, as execvp finds it.
    pub(crate) fn look_up(&self) -> io::Result<PathBuf> {
        if self.program.as_bytes().contains(&b'/') {
            return Ok(PathBuf::from(&self.program));
        }
        let path = self.environment.iter().find(|(name, _)| name == "PATH");
        let path = path.map_or(OsStr::new("/bin:/usr/bin"), |(_, path)| path);
        let mut result = Err(Errno::ENOENT.into());
        for candidate in std::env::split_paths(path).map(|path| path.join(&self.program)) {
            if unistd::access(&candidate, AccessFlags::X_OK).is_ok() && !candidate.is_dir() {
                return Ok(candidate);
            }
            if candidate.exists() {
                result = Err(Errno::EACCES.into());
            }
        }
        result
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
        field("files", OsStr::new(self.files.name()));
        self.write.iter().for_each(|path| field("write", path.as_os_str()));
        self.show.iter().for_each(|path| field("show", path.as_os_str()));
        self.show_files.iter().for_each(|path| field("show-file", path.as_os_str()));
        for (path, mode) in &self.make {
            field("make", path.as_os_str());
            field("mode", OsStr::new(&mode.to_string()));
        }
        field("helper", self.helper.as_os_str());
        field("host-name", &self.host_name);
        if self.input {
            field("input", OsStr::new(""));
        }
        if let Some(Terminal { size, errors }) = self.terminal {
            let errors = u8::from(errors);
            field("terminal", OsStr::new(&format!("{} {} {errors}", size.rows, size.columns)));
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
            show_files: Vec::new(),
            make: Vec::new(),
            helper: PathBuf::new(),
            host_name: OsString::new(),
            input: false,
            terminal: None,
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
                b"files" => order.files = Files::named(&value),
                b"write" => order.write.push(value.into()),
                b"show" => order.show.push(value.into()),
                b"show-file" => order.show_files.push(value.into()),
                b"make" => order.make.push((value.into(), 0o700)),
                b"mode" => {
                    if let Some((_, mode)) = order.make.last_mut() {
                        *mode = value.to_str().and_then(|mode| mode.parse().ok()).unwrap_or(*mode);
                    }
                }
                b"helper" => order.helper = value.into(),
                b"host-name" => order.host_name = value,
                b"input" => order.input = true,
                b"terminal" => order.terminal = Terminal::parse(&value.to_string_lossy()),
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

impl Files {
    /// The name of the file system in the guest.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hostfs => "hostfs",
            Self::Virtiofs => "virtiofs",
            Self::NineP => "9p",
        }
    }

    /// The reverse of [`Files::name`].
    pub(crate) fn named(name: &OsStr) -> Self {
        let mut all = [Self::Virtiofs, Self::NineP].into_iter();
        all.find(|files| files.name() == name).unwrap_or(Self::Hostfs)
    }
}

impl Terminal {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(' ').map(str::parse);
        let mut next = || numbers.next()?.ok();
        let size = Size { rows: next()?, columns: next()? };
        Some(Self { size, errors: next()? > 0 })
    }
}

impl Report {
    /// The report in a job's directory; `None` if init wrote none.
    pub(crate) fn read(job: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(job.join("report")).ok()?)
    }

    pub(crate) fn write(&self, job: &Path) -> io::Result<()> {
        // Closing writes it through to this machine's file; sync reports errors of that.
        let mut file = File::create(job.join("report"))?;
        file.write_all(self.to_string().as_bytes())?;
        file.sync_all()
    }

    /// How many bytes of output there are.
    pub(crate) fn bytes(&self) -> u64 {
        self.written.iter().sum()
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
            show_files: vec!["/tmp/f".into()],
            make: vec![("/tmp/m".into(), 0o700), ("/tmp/n".into(), 0o1777)],
            helper: "/h".into(),
            host_name: "name".into(),
            input: true,
            terminal: Some(Terminal { size: Size { rows: 24, columns: 80 }, errors: true }),
        };
        assert_eq!(Order::from_bytes(&order.to_bytes()), order);
        for files in [Files::Hostfs, Files::NineP] {
            let order = Order { input: false, terminal: None, files, ..order.clone() };
            assert_eq!(Order::from_bytes(&order.to_bytes()), order);
        }
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
    fn a_program_is_looked_up_as_a_shell_does() {
        let look_up = |program: &str, path: &str| {
            let environment = vec![("PATH".into(), path.into())];
            let directory = PathBuf::from("/");
            let (name, program, arguments) = (program.into(), program.into(), Vec::new());
            Command { program, name, arguments, environment, directory }.look_up()
        };
        assert_eq!(look_up("sh", "/nowhere:/bin").unwrap(), Path::new("/bin/sh"));
        assert_eq!(look_up("./sh", "/bin").unwrap(), Path::new("./sh"));
        assert_eq!(look_up("sh", "/nowhere").unwrap_err().raw_os_error(), Some(2));
        assert_eq!(look_up("passwd", "/etc:/nowhere").unwrap_err().raw_os_error(), Some(13));
    }
}
