//! Fetching Debian's packages by the machine's own apt, without root.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read},
    os::{fd::AsFd, unix::fs::MetadataExt, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{self, Signal},
        statvfs::statvfs,
    },
    unistd::Pid,
};

use crate::{
    architecture::Architecture,
    error::{Context, Error},
    host::{
        apt, kernel,
        progress::{Progress, megabytes},
        supervise::Signals,
    },
};

/// Where packages are unpacked, below the directory in which they are fetched.
pub(super) const TREE: &str = "tree";
/// How many kernels are tried if the mirror lists packages that it no longer has.
const ATTEMPTS: usize = 3;
/// In bytes: with less, the disk is full.
const LEAST_SPACE: u64 = 1 << 14;
/// In bytes: with less, the disk counts as full after [`SILENCE`] without new output or data. (apt gives up a
/// network that does not answer after 30 seconds.)
const LITTLE_SPACE: u64 = 1 << 28;
const SILENCE: Duration = Duration::from_secs(40);

/// apt with its own state directory, and the packages that it fetches there.
pub(super) struct Fetch<'a> {
    directory: &'a Path,
    signals: Signals,
    progress: Progress,
    /// apt's output if it could not read all of the lists of packages.
    complaint: Option<Error>,
    /// Bytes that came over the network.
    downloaded: u64,
    /// Removes what no guest needs from the unpacked files.
    trim: fn(&Path) -> Result<(), Error>,
    started: Instant,
}

/// The output of a command that ended.
pub(super) struct Printed {
    pub(super) succeeded: bool,
    output: String,
    pub(super) errors: String,
}

impl<'a> Fetch<'a> {
    /// Reads the lists of packages: those of Debian's suites, or without any, the machine's own sources.
    pub(super) fn start(directory: &'a Path, suites: &[&str]) -> Result<Self, Error> {
        if !kernel::has_apt() {
            let reason = "there is no apt-get on this machine".to_owned();
            return Err(Error::NoKernel { reason });
        }
        let of = match suites {
            [] => "this machine's sources of packages".to_owned(),
            suites => format!("Debian's {}", suites.join(" and ")),
        };
        for name in ["lists/partial", "archives/partial", TREE] {
            let path = directory.join(name);
            fs::create_dir_all(&path).context("make the directory", path.display())?;
        }
        let mut fetch = Self {
            directory,
            signals: Signals::block()?,
            progress: Progress::new(),
            complaint: None,
            downloaded: 0,
            trim: |_| Ok(()),
            started: Instant::now(),
        };
        let place = fetch.place().display();
        eprintln!("guest: fetching a kernel with IPVS from {of}, once, into {place}");
        fetch.configure(suites)?;
        // If one of several sources fails, that may not matter. If the package is missing, it is why.
        let printed = fetch.with_progress("apt-get", &["update"], |percent| {
            format!("reading the lists of packages: {percent:.0} %")
        });
        match printed {
            Ok(printed) => fetch.downloaded += apt::fetched(&printed),
            Err(error @ Error::Fetch { .. }) => fetch.complaint = Some(error),
            Err(error) => return Err(error),
        }
        Ok(fetch)
    }

    /// Trims the directory before its size is printed.
    pub(super) fn trimmed(self, trim: fn(&Path) -> Result<(), Error>) -> Self {
        Self { trim, ..self }
    }

    /// The names of the packages that start with this.
    pub(super) fn names(&mut self, start: &str) -> Result<String, Error> {
        self.apt("apt-cache", &["pkgnames", start])
    }

    /// The descriptions of packages.
    pub(super) fn show(&mut self, packages: &[String]) -> Result<String, Error> {
        self.apt("apt-cache", &words("show --no-all-versions", packages))
    }

    /// Fetches and unpacks the first set of packages that is available, and returns the directory.
    /// `none` is the error's reason if there is no set.
    pub(super) fn first_of(&mut self, sets: &[Vec<String>], none: &str) -> Result<PathBuf, Error> {
        let mut failure = None;
        for set in sets.iter().take(ATTEMPTS) {
            match self.fetch(set) {
                Ok(()) => return Ok(self.directory.join(TREE)),
                Err(error @ Error::Fetch { .. }) => {
                    if sets.len() > 1 {
                        let name = set.first().map_or("", String::as_str);
                        eprintln!("guest: {name} is not available, trying the next older kernel");
                    }
                    failure.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        let complaint = self.complaint.take();
        Err(match (complaint, failure) {
            (
                Some(Error::Fetch { command, words, remedy }),
                Some(Error::Fetch { words: more, .. }),
            ) => Error::Fetch { command, words: format!("{words}\n{more}"), remedy },
            (Some(complaint), _) => complaint,
            (None, Some(Error::Fetch { words, .. })) if words.contains("Unable to locate") => {
                Error::NoKernel { reason: format!("apt says: {words}") }
            }
            (None, Some(failure)) => failure,
            (None, None) => Error::NoKernel { reason: none.to_owned() },
        })
    }

    fn fetch(&mut self, packages: &[String]) -> Result<(), Error> {
        // Do not unpack what an earlier attempt left.
        for path in self.packages()? {
            fs::remove_file(&path).context("remove", path.display())?;
        }
        let addresses = self.apt("apt-get", &words("--print-uris download", packages))?;
        let size = apt::download_size(&addresses);
        let unpacked = apt::installed_size(&self.show(packages)?);
        let (packed, disk) = (megabytes(size), megabytes(unpacked));
        self.check_room(size + unpacked)?;
        self.with_progress("apt-get", &words("download", packages), |percent| {
            let done = megabytes((size as f64 * percent / 100.0) as u64);
            format!("downloading {done} of {packed} MB ({disk} MB unpacked)")
        })?;
        self.downloaded += size;
        let tree = self.directory.join(TREE);
        for path in self.packages()? {
            self.progress.say(Instant::now(), "unpacking");
            let mut command = Command::new("dpkg");
            command.arg("-x").arg(&path).arg(&tree);
            self.run(&mut command, |_, _| {})?;
        }
        (self.trim)(&tree)?;
        self.progress.clear();
        eprintln!(
            "guest: fetched in {:.1} s: {} MB downloaded, {} MB on disk",
            self.started.elapsed().as_secs_f64(),
            megabytes(self.downloaded),
            megabytes(disk_usage(&tree)),
        );
        eprintln!(
            "guest: this kernel runs beside this machine's own: it changes nothing on this machine but files \
             below the working directory and cargo's target directory"
        );
        Ok(())
    }

    /// The packages that are here, still packed.
    fn packages(&self) -> Result<Vec<PathBuf>, Error> {
        let entries = fs::read_dir(self.directory).context("read", self.directory.display())?;
        let paths = entries.flatten().map(|entry| entry.path());
        Ok(paths.filter(|path| path.extension() == Some(OsStr::new("deb"))).collect())
    }

    /// Refuses a download for which there is no room.
    fn check_room(&self, needed: u64) -> Result<(), Error> {
        let free = free_space(self.directory);
        if free >= needed {
            return Ok(());
        }
        let (needed, free) = (megabytes(needed), megabytes(free));
        let reason = format!("it needs {needed} MB there, and {free} MB are free");
        Err(Error::Cache { path: self.place().to_owned(), reason })
    }

    /// Writes apt's configuration, and its sources if they are not the machine's own.
    fn configure(&mut self, suites: &[&str]) -> Result<(), Error> {
        let architecture = Architecture::needed()?;
        self.write("status", "")?;
        let configuration = apt::configuration(self.directory, architecture.debian);
        self.write("apt.conf", &configuration)?;
        if suites.is_empty() {
            return Ok(());
        }
        let addresses = self.apt("apt-get", &["--print-uris", "update"])?;
        let Some(lines) = apt::source_lines(&addresses, suites) else {
            let reason = "this machine's apt has no source of Debian's archive".to_owned();
            return Err(Error::NoKernel { reason });
        };
        self.write("sources.list", &lines)?;
        let sources = self.directory.join("sources.list");
        let sources = format!(
            "Dir::Etc::sourcelist \"{}\";\nDir::Etc::sourceparts \"/dev/null\";\n",
            sources.display()
        );
        self.write("apt.conf", &(configuration + &sources))
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.directory.join(name);
        fs::write(&path, text).context("write", path.display())
    }

    /// Runs a program of apt's and returns what it prints.
    fn apt(&mut self, program: &str, words: &[&str]) -> Result<String, Error> {
        let mut command = self.command(program, words);
        self.run(&mut command, |_, _| {})
    }

    /// Runs one of apt's programs that fetches, and shows its progress.
    fn with_progress(
        &mut self,
        program: &str,
        words: &[&str],
        text: impl Fn(f64) -> String,
    ) -> Result<String, Error> {
        let mut command = self.command(program, &[]);
        // Lines such as `dlstatus:1:20.5:Retrieving file 1 of 3` are among the output.
        command.args(["-q", "-o", "APT::Status-Fd=1"]).args(words);
        self.progress.say(Instant::now(), &text(0.0));
        let printed = self.run(&mut command, |progress, line| {
            if let Some(percent) = apt::percent(line) {
                progress.say(Instant::now(), &text(percent));
            }
        });
        self.progress.clear();
        printed
    }

    fn command(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.directory.join("apt.conf")).args(words);
        command
    }

    /// Runs a command to its end, and returns what it prints. If it fails, its output is the error. A
    /// signal to this process ends it.
    fn run(
        &mut self,
        command: &mut Command,
        mut line: impl FnMut(&mut Progress, &str),
    ) -> Result<String, Error> {
        let name = command.get_program().to_string_lossy().into_owned();
        let progress = &mut self.progress;
        let printed = listen(
            // So that it leaves nothing in the directory of temporary files, however it ends.
            command.current_dir(self.directory).env("TMPDIR", self.directory),
            self.directory,
            &mut self.signals,
            |text| line(progress, text),
        );
        match printed? {
            Printed { succeeded: true, output, .. } => Ok(output),
            Printed { errors, .. } => {
                self.progress.clear();
                let words = errors.trim_end().to_owned();
                let remedy = apt::remedy(
                    "apt",
                    &words,
                    self.proxy().as_deref(),
                    self.place(),
                    "this machine's sources of packages",
                );
                Err(Error::Fetch { command: name, words, remedy })
            }
        }
    }

    /// The directory that keeps packages.
    fn place(&self) -> &Path {
        self.directory.parent().unwrap_or(self.directory)
    }

    /// The proxy that apt uses.
    fn proxy(&self) -> Option<String> {
        let mut command = self.command("apt-config", &["dump", "--format", "%v%n"]);
        let output = command.arg("Acquire::http::Proxy").stderr(Stdio::null()).output().ok()?;
        let configured = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        [Some(configured), std::env::var("http_proxy").ok()]
            .into_iter()
            .flatten()
            .find(|proxy| !proxy.is_empty())
    }
}

/// Runs a command that writes to a directory, and passes on each line that it prints at once, and an
/// empty one every half second.
pub(super) fn listen(
    command: &mut Command,
    directory: &Path,
    signals: &mut Signals,
    mut line: impl FnMut(&str),
) -> Result<Printed, Error> {
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command
        .env("LC_ALL", "C")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::NoKernel { reason: format!("there is no {name} on this machine") });
        }
        child => child.context("start", &name)?,
    };
    let mut pipes = [
        child.stdout.take().map(|pipe| File::from(std::os::fd::OwnedFd::from(pipe))),
        child.stderr.take().map(|pipe| File::from(std::os::fd::OwnedFd::from(pipe))),
    ];
    let mut printed = [Vec::new(), Vec::new()];
    let mut shown = 0;
    let mut progress = (Vec::new(), 0, 0);
    let mut since = Instant::now();
    let result = loop {
        if pipes.iter().all(Option::is_none) {
            break Ok(());
        }
        // A program that waits without success may repeat its line.
        let last =
            printed[0].trim_ascii_end().rsplit(|&byte| byte == b'\n').next().unwrap_or_default();
        let space = free_space(directory);
        let now = (last.to_vec(), printed[1].len(), space);
        if now != progress {
            (progress, since) = (now, Instant::now());
        }
        match read_any(&mut pipes, &mut printed, signals) {
            // On a full disk apt can wait endlessly for one of its helpers, which may have made room again
            // before it failed.
            Ok(None)
                if space < LEAST_SPACE || space < LITTLE_SPACE && since.elapsed() > SILENCE =>
            {
                break Err(io::Error::from(Errno::ENOSPC)).context("write to", directory.display());
            }
            Ok(None) => {}
            Ok(Some(signal)) => break Err(Error::Interrupted { signal: signal as i32 }),
            Err(error) => break Err(error),
        }
        line("");
        while let Some(length) = printed[0][shown..].iter().position(|&byte| byte == b'\n') {
            line(&String::from_utf8_lossy(&printed[0][shown..shown + length]));
            shown += length + 1;
        }
    };
    if result.is_err() {
        let _ = signal::killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    }
    let status = child.wait().context("wait for", &name)?;
    result?;
    let [output, errors] = printed.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let errors =
        if status.success() { errors } else { format!("{}\n({status})", errors.trim_end()) };
    Ok(Printed { succeeded: status.success(), output, errors })
}

/// Waits a while for output or a signal; closes a pipe that is at its end.
fn read_any(
    pipes: &mut [Option<File>; 2],
    printed: &mut [Vec<u8>; 2],
    signals: &mut Signals,
) -> Result<Option<Signal>, Error> {
    let mut waited: Vec<PollFd<'_>> = pipes
        .iter()
        .flatten()
        .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN))
        .chain([PollFd::new(signals.as_fd(), PollFlags::POLLIN)])
        .collect();
    match poll(&mut waited, PollTimeout::from(500u16)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error).context("wait for", "a program's output"),
    }
    let mut ready = waited.iter().map(|waited| waited.any() == Some(true));
    let ready = [0, 1].map(|index| pipes[index].is_some() && ready.next() == Some(true));
    for ((pipe, bytes), ready) in pipes.iter_mut().zip(printed).zip(ready) {
        if let Some(source) = pipe.as_mut().filter(|_| ready) {
            let mut piece = [0; 4096];
            let length = source.read(&mut piece).context("read", "a program's output")?;
            bytes.extend(&piece[..length]);
            if length == 0 {
                *pipe = None;
            }
        }
    }
    signals.ending()
}

/// A command's words, and packages.
fn words<'a>(command: &'a str, packages: &'a [String]) -> Vec<&'a str> {
    command.split(' ').chain(packages.iter().map(String::as_str)).collect()
}

/// How many bytes of room a directory has; the maximum if unknown.
pub(super) fn free_space(directory: &Path) -> u64 {
    statvfs(directory).map_or(u64::MAX, |system| system.blocks_available() * system.fragment_size())
}

/// How much of the disk the files below a directory use.
pub(super) fn disk_usage(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some((entry.metadata().ok()?, entry.path())))
        .map(|(metadata, path)| {
            metadata.blocks() * 512 + if metadata.is_dir() { disk_usage(&path) } else { 0 }
        })
        .sum()
}
