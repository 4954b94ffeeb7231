//! The guest's first process: makes the guest's root of this machine's files, runs the command,
//! reports how it ended, and turns the guest off. It also is the guest's `modprobe`.
//!
//! Nothing that is installed is needed in the guest.

use std::{
    collections::VecDeque,
    convert::Infallible,
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{OpenOptionsExt, symlink},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{self, Child, ChildStdin, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    mount::{MntFlags, MsFlags, mount, umount2},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        reboot::{RebootMode, reboot},
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        termios::{self, SetArg},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{self, AccessFlags, Pid},
};

use crate::{
    error::{Context, Error},
    job::{Command, End, Files, Order, Report},
    modules::{self, Modules},
    native, netlink,
};

/// The parameter on the kernel's command line that names the job's directory. The kernel hands
/// parameters that it does not know to init as variables.
pub(crate) const JOB: &str = "lvs_guest";
/// Directories of which the guest has its own.
pub(crate) const HIDDEN: [&str; 5] = ["/dev", "/proc", "/run", "/sys", "/tmp"];

/// The path of the program that QEMU's guests start with, and its modules.
pub(crate) const FIRST_STAGE: &str = "/lvs-guest-init";
pub(crate) const FIRST_MODULES: &str = "/modules";
/// Where that program sees this machine's files.
pub(crate) const HOST: &str = "/host";
/// The name of the file system that is this machine's files.
pub(crate) const TAG: &str = "host";

/// Where the new root is put together: a directory that every Linux has.
const SCRATCH: &str = "/proc";
/// Init's own directory in the guest.
const OWN: &str = "/run/lvs-guest";
const MODPROBE: &str = "/run/lvs-guest/modprobe";
const MODULES: &str = "/run/lvs-guest/modules";
/// How long QEMU's lines may take to appear.
const LINES_WAIT: Duration = Duration::from_secs(10);

/// Plays init or modprobe if this process was started as that, and does not return then.
pub(crate) fn assume_role() {
    if process::id() == 1 {
        if let Some(job) = std::env::var_os(JOB) {
            if std::env::args_os().next().as_deref() == Some(OsStr::new(FIRST_STAGE)) {
                first_stage(Path::new(&job));
            }
            init(Path::new(&job));
        }
    }
    let mut words = std::env::args_os();
    if words.next().as_deref() == Some(OsStr::new(MODPROBE)) && is_guest() {
        // The kernel says `modprobe -q -- NAME`, and iptables `modprobe NAME -q`.
        let mut names = words.filter(|word| !word.as_encoded_bytes().starts_with(b"-"));
        let name = names.next_back().unwrap_or_default();
        process::exit(modprobe(&name.to_string_lossy()));
    }
}

/// Whether this process runs in a guest.
pub(crate) fn is_guest() -> bool {
    fs::read_to_string("/proc/cmdline").is_ok_and(|line| {
        line.split_ascii_whitespace()
            .any(|word| word.strip_prefix(JOB).is_some_and(|rest| rest.starts_with('=')))
    })
}

fn modprobe(name: &str) -> i32 {
    let result = Modules::new(MODULES).load(name);
    match result {
        Ok(()) => 0,
        // The kernel asks for many things that may be there or not.
        Err(error) if error.kind() == io::ErrorKind::NotFound => 1,
        Err(error) => {
            // To the kernel log: nobody else listens.
            let _ = fs::write("/dev/kmsg", format!("guest: cannot load module {name}: {error}\n"));
            1
        }
    }
}

/// What QEMU's guests start with: goes over to this machine's files, and to the init there.
fn first_stage(job: &Path) -> ! {
    let Err(error) = go_over(job);
    eprintln!("guest: {error}");
    turn_off();
}

fn go_over(job: &Path) -> Result<Infallible, Error> {
    let mut modules: Vec<PathBuf> = fs::read_dir(FIRST_MODULES)
        .context("read", FIRST_MODULES)?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    modules.sort();
    for module in modules {
        modules::insert(&module).context("load", module.display())?;
    }
    let none: Option<&str> = None;
    mount_host(Path::new(HOST))?;
    std::env::set_current_dir(HOST).context("enter", HOST)?;
    mount(Some("."), "/", none, MsFlags::MS_MOVE, none).context("move", HOST)?;
    unistd::chroot(".").context("change to", HOST)?;
    std::env::set_current_dir("/").context("enter", "/")?;
    let init = job.join("init");
    let error = process::Command::new(&init).env_clear().env(JOB, job).exec();
    Err(error).context("run", init.display())
}

fn init(job: &Path) -> ! {
    let report = perform(job).unwrap_or_else(|error| {
        eprintln!("guest: {error}");
        Report { end: End::Failed(error.to_string()), written: [0; 2] }
    });
    // Without a report the runner shows the kernel log, where this is.
    if let Err(error) = report.write(&own("job")) {
        eprintln!("guest: cannot report {report}: {error}");
    }
    turn_off();
}

fn turn_off() -> ! {
    unistd::sync();
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    // The kernel panics when init ends, and so the guest ends in any case.
    eprintln!("guest: cannot turn off: {error}");
    process::exit(1);
}

fn perform(job: &Path) -> Result<Report, Error> {
    let order = Order::read(job)?;
    let release = native::release()?;
    let modules = order.modules.join(&release);
    make_root(&order, &modules, &release)?;
    furnish(job, &order, &modules, &release)?;
    let directory = &order.command.directory;
    std::env::set_current_dir(directory).context("enter", directory.display())?;
    run(&order)
}

/// Makes the guest's root, this machine's files with a layer in memory over them, and moves there.
fn make_root(order: &Order, modules: &Path, release: &str) -> Result<(), Error> {
    let scratch = Path::new(SCRATCH);
    mount_own("tmpfs", SCRATCH, Some("mode=755"))?;
    for name in ["upper", "work", "root"] {
        let path = scratch.join(name);
        fs::create_dir(&path).context("make the directory", path.display())?;
    }
    let root = &scratch.join("root");
    if has_layer(order, release) {
        Modules::new(modules).load("overlay").context("load the module", "overlay")?;
        let layers = format!("lowerdir=/,upperdir={SCRATCH}/upper,workdir={SCRATCH}/work");
        mount(Some("overlay"), root, Some("overlay"), MsFlags::empty(), Some(layers.as_str()))
            .context("mount", "the overlay")?;
    } else {
        make_plain_root(root)?;
    }
    // The new root goes over the old one, which is then below it in the same place, and let go.
    std::env::set_current_dir(root).context("enter", root.display())?;
    unistd::pivot_root(".", ".").context("change to", root.display())?;
    umount2(".", MntFlags::MNT_DETACH).context("let go of", "the old root")?;
    std::env::set_current_dir("/").context("enter", "/")
}

/// Whether the kernel can have a layer over this machine's files: up to 5.10, an overlay over hostfs
/// loses files.
fn has_layer(order: &Order, release: &str) -> bool {
    order.files == Files::Virtiofs || !release.starts_with("5.")
}

/// Makes a root in memory with this machine's directories in it, which can only be read.
fn make_plain_root(root: &Path) -> Result<(), Error> {
    mount(Some("tmpfs"), root, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .context("mount", root.display())?;
    for entry in fs::read_dir("/").context("read", "/")?.flatten() {
        let (path, new) = (entry.path(), root.join(entry.file_name()));
        match entry.file_type() {
            Ok(kind) if kind.is_symlink() => {
                let target = fs::read_link(&path).context("read", path.display())?;
                symlink(target, &new).context("make", path.display())?;
            }
            Ok(kind) if kind.is_dir() && HIDDEN.iter().all(|hidden| path != Path::new(hidden)) => {
                fs::create_dir(&new).context("make the directory", path.display())?;
                let (kind, flags) = (Some("hostfs"), MsFlags::MS_RDONLY);
                mount(kind, &new, kind, flags, Some(&path)).context("mount", path.display())?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Gives the guest its own system directories, and what is written straight through.
fn furnish(job: &Path, order: &Order, modules: &Path, release: &str) -> Result<(), Error> {
    mount_own("proc", "/proc", None)?;
    mount_own("sysfs", "/sys", None)?;
    mount_own("devtmpfs", "/dev", None)?;
    mount_own("devpts", "/dev/pts", Some("ptmxmode=666"))?;
    mount_own("tmpfs", "/dev/shm", Some("mode=1777"))?;
    mount_own("tmpfs", "/run", Some("mode=755"))?;
    mount_own("tmpfs", "/tmp", Some("mode=1777"))?;
    for path in ["/run/netns", "/run/lock", OWN] {
        fs::create_dir(path).context("make the directory", path)?;
    }
    for (link, target) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        let link = Path::new("/dev").join(link);
        symlink(format!("/proc/self/fd{target}"), &link).context("make", link.display())?;
    }
    let host = &HostFiles::new(order.files)?;
    host.show(job, &own("job"), MsFlags::empty())?;
    host.show(modules, Path::new(MODULES), MsFlags::MS_RDONLY)?;
    // What the guest is for. Asking for the family loads it, but not up to 5.10.
    Modules::new(MODULES).load("ip_vs").context("load the module", "ip_vs")?;
    if has_layer(order, release) {
        // Where other programs look for them.
        host.show(modules, &Path::new("/lib/modules").join(release), MsFlags::MS_RDONLY)?;
    }
    for path in &order.show {
        host.show(path, path, MsFlags::MS_RDONLY)?;
    }
    for path in &order.write {
        host.show(path, path, MsFlags::empty())?;
    }
    // The helper's directory need not be seen elsewhere.
    if let (Some(directory), Some(name)) = (order.helper.parent(), order.helper.file_name()) {
        host.show(directory, &own("program"), MsFlags::MS_RDONLY)?;
        symlink(own("program").join(name), MODPROBE).context("make", MODPROBE)?;
    }
    fs::write("/proc/sys/kernel/modprobe", MODPROBE).context("write", "kernel.modprobe")?;
    unistd::sethostname(&order.host_name).context("set", "the host name")?;
    netlink::loopback_up().context("bring up", "lo")
}

/// Mounts a file system of the kernel's own.
fn mount_own(kind: &str, path: &str, data: Option<&str>) -> Result<(), Error> {
    fs::create_dir_all(path).context("make the directory", path)?;
    mount(Some(kind), path, Some(kind), MsFlags::empty(), data).context("mount", path)
}

/// This machine's files, while the guest's root is furnished.
enum HostFiles {
    Hostfs,
    /// All of them are to be seen here.
    Virtiofs(PathBuf),
}

impl HostFiles {
    fn new(files: Files) -> Result<Self, Error> {
        if files == Files::Hostfs {
            return Ok(Self::Hostfs);
        }
        let path = own("host");
        fs::create_dir(&path).context("make the directory", path.display())?;
        mount_host(&path)?;
        Ok(Self::Virtiofs(path))
    }

    /// Shows one of this machine's directories in the guest.
    fn show(&self, host: &Path, path: &Path, flags: MsFlags) -> Result<(), Error> {
        let none: Option<&str> = None;
        fs::create_dir_all(path).context("make the directory", path.display())?;
        match self {
            Self::Hostfs => mount(Some("hostfs"), path, Some("hostfs"), flags, Some(host)),
            Self::Virtiofs(all) => {
                let source = all.join(host.strip_prefix("/").unwrap_or(host));
                let again = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags;
                mount(Some(&source), path, none, MsFlags::MS_BIND, none)
                    .and_then(|()| mount(none, path, none, again, none))
            }
        }
        .context("mount", path.display())
    }
}

impl Drop for HostFiles {
    fn drop(&mut self) {
        // The command is to see what is shown only.
        if let Self::Virtiofs(path) = self {
            let _ = umount2(path.as_path(), MntFlags::MNT_DETACH);
        }
    }
}

/// Mounts all of this machine's files in a guest of QEMU.
fn mount_host(path: &Path) -> Result<(), Error> {
    let none: Option<&str> = None;
    mount(Some(TAG), path, Some("virtiofs"), MsFlags::empty(), none)
        .context("mount this machine's files at", path.display())
}

fn own(name: &str) -> PathBuf {
    Path::new(OWN).join(name)
}

/// Runs the command, passing on its output until it ends.
fn run(order: &Order) -> Result<Report, Error> {
    let mut lines = [
        open_line(&line_path(order.files, 0)?, OpenOptions::new().write(true))?,
        open_line(&line_path(order.files, 1)?, OpenOptions::new().write(true))?,
    ];
    let input = if order.input {
        Some(open_line(&line_path(order.files, 2)?, OpenOptions::new().read(true))?)
    } else {
        None
    };
    // The runner waits for this before it sends input: the line is ready for any byte now.
    let mut written = [1, 0];
    lines[0].write_all(b"!").context("write to", "the line of standard output")?;

    let mut child = match start(&order.command, order.input) {
        Ok(child) => child,
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(Errno::ENOEXEC as i32);
            return Ok(Report { end: End::NotRun(errno), written });
        }
    };
    // Blocked only now, as the command would inherit it; what ended before is asked for below.
    let set = SigSet::from_iter([Signal::SIGCHLD]);
    set.thread_block().context("block", "SIGCHLD")?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("make a descriptor for", "SIGCHLD")?;

    let command = Pid::from_raw(child.id() as i32);
    let mut pipes = [
        child.stdout.take().map(|pipe| File::from(OwnedFd::from(pipe))),
        child.stderr.take().map(|pipe| File::from(OwnedFd::from(pipe))),
    ];
    let feed = input.zip(child.stdin.take()).map(|(line, pipe)| Feed::new(line, pipe));
    let mut feed = feed.transpose().context("set up", "standard input")?;
    let mut ended = None;
    loop {
        reap(command, &mut ended)?;
        // What is in the pipes when the command has ended is its output; what others write later,
        // that it left running, is not.
        let timeout = if ended.is_some() { PollTimeout::ZERO } else { PollTimeout::NONE };
        let mut waited = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        waited.extend(feed.as_ref().and_then(Feed::waits_for));
        let readable = |pipe| PollFd::new(File::as_fd(pipe), PollFlags::POLLIN);
        waited.extend(pipes.iter().flatten().map(readable));
        match poll(&mut waited, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("wait for", "output"),
        }
        while signals.read_signal().context("read", "signals")?.is_some() {}
        if feed.as_mut().is_some_and(|feed| !feed.step()) {
            feed = None;
        }
        let mut moved = false;
        for ((pipe, line), count) in pipes.iter_mut().zip(&mut lines).zip(&mut written) {
            let before = *count;
            pass_on(pipe, line, count)?;
            moved |= *count > before;
        }
        if let Some(end) = ended.as_ref().filter(|_| !moved) {
            for line in lines.iter().filter(|line| line.is_terminal()) {
                termios::tcdrain(line).context("empty", "a serial line")?;
            }
            return Ok(Report { end: end.clone(), written });
        }
    }
}

/// The path of a line to the runner: 0 standard output, 1 standard error, 2 standard input.
fn line_path(files: Files, number: u8) -> Result<PathBuf, Error> {
    if files == Files::Hostfs {
        return Ok(format!("/dev/ttyS{number}").into());
    }
    // QEMU's are virtio ports, numbered from 1 within a device that may have any number. They appear
    // some time after their driver.
    let end = format!("p{}", number + 1);
    let deadline = Instant::now() + LINES_WAIT;
    loop {
        let names = fs::read_dir("/dev").context("read", "/dev")?.flatten();
        let mut names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        if let Some(name) = names.find(|name| name.starts_with("vport") && name.ends_with(&end)) {
            return Ok(Path::new("/dev").join(name));
        }
        if Instant::now() > deadline {
            return Err(io::Error::from(io::ErrorKind::NotFound)).context("find the port", end);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// A line to the runner as a plain stream of bytes.
fn open_line(path: &Path, options: &mut OpenOptions) -> Result<File, Error> {
    let line =
        options.custom_flags(OFlag::O_NOCTTY.bits()).open(path).context("open", path.display())?;
    if line.is_terminal() {
        let mut settings =
            termios::tcgetattr(&line).context("ask for the settings of", path.display())?;
        termios::cfmakeraw(&mut settings);
        termios::tcsetattr(&line, SetArg::TCSANOW, &settings).context("set", path.display())?;
    }
    Ok(line)
}

fn start(command: &Command, input: bool) -> io::Result<Child> {
    process::Command::new(look_up(command)?)
        .arg0(&command.name)
        .args(&command.arguments)
        .env_clear()
        .envs(command.environment.iter().map(|(name, value)| (name, value)))
        .process_group(0)
        .stdin(if input { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// The path of a command's program, as execvp finds it.
fn look_up(command: &Command) -> io::Result<PathBuf> {
    if command.program.as_bytes().contains(&b'/') {
        return Ok(PathBuf::from(&command.program));
    }
    let path = command.environment.iter().find(|(name, _)| name == "PATH");
    let path = path.map_or(OsStr::new("/bin:/usr/bin"), |(_, path)| path);
    let mut result = Err(Errno::ENOENT.into());
    for candidate in std::env::split_paths(path).map(|path| path.join(&command.program)) {
        if unistd::access(&candidate, AccessFlags::X_OK).is_ok() && !candidate.is_dir() {
            return Ok(candidate);
        }
        if candidate.exists() {
            result = Err(Errno::EACCES.into());
        }
    }
    result
}

/// Takes note of ended processes; every orphan of the guest is init's.
fn reap(command: Pid, ended: &mut Option<End>) -> Result<(), Error> {
    loop {
        let status = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return Ok(()),
            status => status.context("wait for", "a process")?,
        };
        match status {
            WaitStatus::StillAlive => return Ok(()),
            WaitStatus::Exited(process, status) if process == command => {
                *ended = Some(End::Exit(status));
            }
            WaitStatus::Signaled(process, signal, _) if process == command => {
                *ended = Some(End::Signal(signal as i32));
            }
            _ => {}
        }
    }
}

/// Writes what a pipe has to a serial line, and counts it. The line makes init wait while the
/// runner's reader is slow: so does a pipe.
fn pass_on(pipe: &mut Option<File>, line: &mut File, count: &mut u64) -> Result<(), Error> {
    let Some(source) = pipe.as_mut().filter(|pipe| is_ready(pipe)) else { return Ok(()) };
    let mut piece = vec![0; 1 << 16];
    let length = source.read(&mut piece).context("read", "output")?;
    if length == 0 {
        *pipe = None;
    }
    *count += length as u64;
    line.write_all(&piece[..length]).context("write to", "a serial line")
}

fn is_ready(pipe: &File) -> bool {
    let mut waited = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut waited, PollTimeout::ZERO), Ok(1..))
}

/// Standard input on its way from its serial line to the command: see the runner's side.
struct Feed {
    line: File,
    pipe: ChildStdin,
    pieces: Pieces,
}

/// The bytes of a serial line taken apart: a length (u16, little endian), so many bytes, and so on,
/// until a length of 0.
#[derive(Default)]
struct Pieces {
    /// Bytes of the current piece that are still to come.
    left: usize,
    /// The start of a piece's length.
    first: Option<u8>,
    /// Bytes that came and are not passed on yet.
    pending: VecDeque<u8>,
    is_last: bool,
}

impl Feed {
    fn new(line: File, pipe: ChildStdin) -> io::Result<Self> {
        // A command that does not read must not keep its output from being passed on.
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self { line, pipe, pieces: Pieces::default() })
    }

    fn waits_for(&self) -> Option<PollFd<'_>> {
        if self.pieces.pending.is_empty() {
            Some(PollFd::new(self.line.as_fd(), PollFlags::POLLIN))
        } else {
            Some(PollFd::new(self.pipe.as_fd(), PollFlags::POLLOUT))
        }
    }

    /// Moves what can be moved without waiting; false when that was all, or nobody reads it.
    fn step(&mut self) -> bool {
        if self.pieces.pending.is_empty() && is_ready(&self.line) {
            let mut piece = [0; 4096];
            match self.line.read(&mut piece) {
                Ok(length @ 1..) => self.pieces.take(&piece[..length]),
                _ => self.pieces.is_last = true,
            }
        }
        while !self.pieces.pending.is_empty() {
            let (piece, _) = self.pieces.pending.as_slices();
            match self.pipe.write(piece) {
                Ok(length) => drop(self.pieces.pending.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        !self.pieces.is_last
    }
}

impl Pieces {
    fn take(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.left > 0 {
                let (data, rest) = bytes.split_at(self.left.min(bytes.len()));
                self.pending.extend(data);
                self.left -= data.len();
                bytes = rest;
                continue;
            }
            bytes = rest;
            match self.first.take() {
                None => self.first = Some(byte),
                Some(first) => {
                    self.left = u16::from_le_bytes([first, byte]).into();
                    self.is_last |= self.left == 0;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_apart_wherever_they_are_cut() {
        let line = [&[3, 0][..], b"abc", &[1, 1], &[b'x'; 257], &[1, 0], b"\0", &[0, 0]].concat();
        let expected = [b"abc".as_slice(), &[b'x'; 257], b"\0"].concat();
        for length in 1..=line.len() {
            let mut pieces = Pieces::default();
            for cut in line.chunks(length) {
                assert!(!pieces.is_last);
                pieces.take(cut);
            }
            assert!(pieces.is_last);
            assert_eq!(pieces.pending, expected);
        }
    }

    #[test]
    fn a_program_is_looked_up_as_a_shell_does() {
        let look_up = |program: &str, path: &str| {
            let environment = vec![("PATH".into(), path.into())];
            let directory = PathBuf::from("/");
            let (name, program, arguments) = (program.into(), program.into(), Vec::new());
            look_up(&Command { program, name, arguments, environment, directory })
        };
        assert_eq!(look_up("sh", "/nowhere:/bin").unwrap(), Path::new("/bin/sh"));
        assert_eq!(look_up("./sh", "/bin").unwrap(), Path::new("./sh"));
        assert_eq!(look_up("sh", "/nowhere").unwrap_err().raw_os_error(), Some(2));
        assert_eq!(look_up("passwd", "/etc:/nowhere").unwrap_err().raw_os_error(), Some(13));
    }
}
