//! Runs the command in the guest, and passes on what it reads and writes.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{self, Stdio},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{self, SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::{
    error::{Context, Error},
    feed::{Decoder, Message},
    inside::{
        lines::Lines,
        terminal::{self, Terminal},
    },
    order::{Command, End, Order, Report, STARTS, STOPPED},
};

/// The running command, and our ends of its standard streams.
pub(super) struct Running {
    pub(super) process: Pid,
    pub(super) output: Option<File>,
    pub(super) errors: Option<File>,
    pub(super) input: Option<File>,
    /// Its terminal, if it has one: the output and the input are the other side of that.
    pub(super) terminal: Option<Terminal>,
}

/// Runs the command, passing on its output until it ends.
pub(super) fn run(order: &Order, lines: &mut Lines) -> Result<Report, Error> {
    // The runner waits for this before it sends input: from now on the line takes any byte.
    lines.say(STARTS)?;

    let mut written = [0, 0];
    let started = match &order.terminal {
        Some(terminal) => terminal::start(&order.command, terminal)?,
        None => start(&order.command, order.input),
    };
    let running = match started {
        Ok(running) => running,
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(Errno::ENOEXEC as i32);
            return Ok(Report { end: End::NotRun(errno), written });
        }
    };
    // Not blocked earlier, since the command would inherit it; a process that ended before is found below.
    let set = SigSet::from_iter([Signal::SIGCHLD]);
    set.thread_block().context("block", "SIGCHLD")?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("make a descriptor for", "SIGCHLD")?;

    let Running { process, output, errors, input: sink, terminal } = running;
    let mut pipes = [output, errors];
    let feed = lines.input.take().zip(sink).map(|(line, sink)| Feed::new(line, sink));
    let mut feed = feed.transpose().context("set up", "standard input")?;
    let mut ended = None;
    loop {
        if reap(process, terminal.is_some(), &mut ended)? {
            lines.say(STOPPED)?;
        }
        // What is in the pipes when the command ends is its output. Later output, of processes that it left
        // running, is not.
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
        if feed.as_mut().is_some_and(|feed| !feed.step(process, terminal.as_ref())) {
            feed = None;
        }
        let mut moved = false;
        for ((pipe, line), count) in pipes.iter_mut().zip(&mut lines.outputs).zip(&mut written) {
            let before = *count;
            pass_on(pipe, line, count)?;
            moved |= *count > before;
        }
        if let Some(end) = ended.as_ref().filter(|_| !moved) {
            let end = terminal::not_run().map_or_else(|| end.clone(), End::NotRun);
            return Ok(Report { end, written });
        }
    }
}

fn start(command: &Command, input: bool) -> io::Result<Running> {
    let mut child = process::Command::new(command.look_up()?)
        .arg0(&command.name)
        .args(&command.arguments)
        .env_clear()
        .envs(command.environment.iter().map(|(name, value)| (name, value)))
        .process_group(0)
        .stdin(if input { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    Ok(Running {
        process: Pid::from_raw(child.id() as i32),
        output: child.stdout.take().map(|pipe| OwnedFd::from(pipe).into()),
        errors: child.stderr.take().map(|pipe| OwnedFd::from(pipe).into()),
        input: child.stdin.take().map(|pipe| OwnedFd::from(pipe).into()),
        terminal: None,
    })
}

/// Collects ended processes; every orphan of the guest is init's. Returns whether the command
/// was stopped, if `look_at_stops`.
fn reap(command: Pid, look_at_stops: bool, ended: &mut Option<End>) -> Result<bool, Error> {
    let mut flags = WaitPidFlag::WNOHANG;
    flags.set(WaitPidFlag::WUNTRACED, look_at_stops);
    let mut stopped = false;
    loop {
        let status = match waitpid(None, Some(flags)) {
            Err(Errno::ECHILD) => return Ok(stopped),
            status => status.context("wait for", "a process")?,
        };
        match status {
            WaitStatus::StillAlive => return Ok(stopped),
            WaitStatus::Exited(process, status) if process == command => {
                *ended = Some(End::Exit(status));
            }
            WaitStatus::Signaled(process, signal, _) if process == command => {
                *ended = Some(End::Signal(signal as i32));
            }
            WaitStatus::Stopped(process, _) => stopped |= process == command,
            _ => {}
        }
    }
}

/// Writes the data of a pipe to a serial line, and counts it. The line blocks init while the
/// runner's reader is slow, as a pipe would.
fn pass_on(pipe: &mut Option<File>, line: &mut File, count: &mut u64) -> Result<(), Error> {
    let Some(source) = pipe.as_mut().filter(|pipe| is_ready(pipe)) else { return Ok(()) };
    let mut piece = vec![0; 1 << 16];
    let length = match source.read(&mut piece) {
        // Nobody has the terminal open any more, or there is no data now: neither is an error.
        Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => 0,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
        length => length.context("read", "output")?,
    };
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

/// Standard input on its way from its serial line to the command; `Feed` is also on the runner's side.
struct Feed {
    line: File,
    sink: File,
    decoder: Decoder,
    /// Bytes that arrived and are not passed on yet.
    pending: VecDeque<u8>,
    is_last: bool,
}

impl Feed {
    fn new(line: File, sink: File) -> io::Result<Self> {
        // A command that does not read must not block its output.
        fcntl(&sink, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let (decoder, pending) = (Decoder::default(), VecDeque::new());
        Ok(Self { line, sink, decoder, pending, is_last: false })
    }

    fn waits_for(&self) -> Option<PollFd<'_>> {
        if self.pending.is_empty() {
            Some(PollFd::new(self.line.as_fd(), PollFlags::POLLIN))
        } else {
            Some(PollFd::new(self.sink.as_fd(), PollFlags::POLLOUT))
        }
    }

    /// Moves data as far as possible without blocking. Returns false if that was all, or nobody reads it.
    fn step(&mut self, command: Pid, terminal: Option<&Terminal>) -> bool {
        if self.pending.is_empty() && is_ready(&self.line) {
            let mut piece = [0; 4096];
            match self.line.read(&mut piece) {
                Ok(length @ 1..) => self.decoder.take(&piece[..length]),
                _ => self.is_last = true,
            }
        }
        while let Some(message) = self.decoder.next() {
            match message {
                Message::Data(data) => self.pending.extend(data),
                Message::End => self.is_last = true,
                Message::Size(size) => {
                    if let Some(terminal) = terminal {
                        terminal.resize(size);
                    }
                }
                // It may have ended already.
                Message::Continue => drop(signal::kill(command, Signal::SIGCONT)),
            }
        }
        while !self.pending.is_empty() {
            let (piece, _) = self.pending.as_slices();
            match self.sink.write(piece) {
                Ok(length) => drop(self.pending.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        !self.is_last
    }
}
