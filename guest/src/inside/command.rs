//! Running the command in the guest, and passing on what it reads and writes.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::OpenOptionsExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{self, Child, ChildStdin, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        termios::{self, SetArg},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::{
    error::{Context, Error},
    order::{Command, End, Files, Order, Report},
};

/// How long QEMU's lines may take to appear.
const LINES_WAIT: Duration = Duration::from_secs(10);

/// Runs the command, passing on its output until it ends.
pub(super) fn run(order: &Order) -> Result<Report, Error> {
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
    process::Command::new(command.look_up()?)
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
}
