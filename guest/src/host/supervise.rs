//! Waits for a process and passes on its output; signals and a time limit end it.

use std::{
    os::fd::{AsFd, BorrowedFd},
    process,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        signal::{self, SigSet, SigmaskHow, Signal},
        signalfd::{SfdFlags, SignalFd},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};

use crate::{
    error::{Context, Error},
    host::traffic::Traffic,
};

/// The signals that end a run.
const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
/// The signals that may mean a change of the terminal.
const TERMINAL: [Signal; 2] = [Signal::SIGCONT, Signal::SIGWINCH];

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// With an exit status.
    Exit(i32),
    /// By a signal: one of the command's own, or one that this process passed on.
    Signal(i32),
}

impl Outcome {
    /// Ends this process in the same way. A signal leaves no core file.
    pub fn exit(self) -> ! {
        let number = match self {
            Self::Exit(status) => process::exit(status),
            Self::Signal(number) => number,
        };
        let _ = prctl::set_dumpable(false);
        if let Ok(signal) = Signal::try_from(number) {
            let _ = signal::sigprocmask(
                SigmaskHow::SIG_UNBLOCK,
                Some(&SigSet::from_iter([signal])),
                None,
            );
            // Rust's handler for SIGSEGV and SIGBUS consumes the first and then restores the default.
            let _ = signal::raise(signal).and_then(|()| signal::raise(signal));
        }
        // An ignored signal, such as SIGPIPE in a Rust program: exit with a shell's status for it.
        process::exit(128 + number)
    }
}

/// The signals that a supervised run handles, from before its process starts. Dropping this restores
/// the thread's signal mask.
pub(crate) struct Signals {
    descriptor: SignalFd,
    before: SigSet,
}

/// Why waiting ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The process ended, and all of its output is out.
    Process(WaitStatus),
    /// A signal arrived, or nobody reads the output any more (`SIGPIPE`). The process may still live.
    Signal(Signal),
    /// The time limit was reached. The process may still live.
    TimeLimit,
}

impl Signals {
    /// Blocks the signals. A process that is started from now on inherits that.
    pub(crate) fn block() -> Result<Self, Error> {
        let set: SigSet = ENDING.into_iter().chain(TERMINAL).chain([Signal::SIGCHLD]).collect();
        let descriptor = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context("make a descriptor for", "signals")?;
        let before = set.thread_swap_mask(SigmaskHow::SIG_BLOCK).context("block", "signals")?;
        Ok(Self { descriptor, before })
    }

    /// Waits for a process that leads a process group, and moves data until the process has ended and each
    /// stream is at its end. When the process ends, kills the rest of its group.
    pub(super) fn supervise(
        &mut self,
        child: Pid,
        traffic: &mut Traffic<'_>,
        deadline: Option<Instant>,
    ) -> Result<End, Error> {
        let mut ended = None;
        loop {
            if ended.is_none() {
                ended = end_of(child)?;
                if ended.is_some() {
                    // They may hold the pipes.
                    let _ = signal::killpg(child, Signal::SIGKILL);
                }
            }
            if let Some(status) = ended.filter(|_| traffic.is_done()) {
                return Ok(End::Process(status));
            }
            let left = |at: Instant| at.saturating_duration_since(Instant::now());
            let mut limit = deadline.map(left);
            if limit == Some(Duration::ZERO) {
                return Ok(End::TimeLimit);
            }
            match traffic.can_end_at().filter(|_| ended.is_none()).map(left) {
                Some(Duration::ZERO) => {
                    let _ = signal::killpg(child, Signal::SIGKILL);
                }
                Some(wait) => limit = Some(limit.unwrap_or(wait).min(wait)),
                None => {}
            }
            self.wait_for_any(traffic, limit)?;
            while let Some(signal) = self.next()? {
                if ENDING.contains(&signal) {
                    return Ok(End::Signal(signal));
                }
                if TERMINAL.contains(&signal) {
                    traffic.look_at_terminal(signal)?;
                }
            }
            if let Some(signal) = traffic.step()? {
                return Ok(End::Signal(signal));
            }
        }
    }

    /// A pending signal that ends the run.
    pub(super) fn ending(&mut self) -> Result<Option<Signal>, Error> {
        while let Some(signal) = self.next()? {
            if ENDING.contains(&signal) {
                return Ok(Some(signal));
            }
        }
        Ok(None)
    }

    fn next(&mut self) -> Result<Option<Signal>, Error> {
        let info = self.descriptor.read_signal().context("read", "signals")?;
        Ok(info.and_then(|info| Signal::try_from(info.ssi_signo as i32).ok()))
    }

    fn wait_for_any(&self, traffic: &Traffic<'_>, left: Option<Duration>) -> Result<(), Error> {
        let mut waited = vec![PollFd::new(self.descriptor.as_fd(), PollFlags::POLLIN)];
        waited.extend(traffic.waits_for());
        // Rounded up, so that the deadline has passed when the wait ends.
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut waited, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("wait for", "output and signals"),
        }
    }
}

impl AsFd for Signals {
    /// Readable when a signal is pending.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // A signal that arrived too late for this run takes effect now.
        let _ = self.before.thread_set_mask();
    }
}

/// How a process ended, if it did. Leaves it as a zombie, so that its number is not reused.
fn end_of(child: Pid) -> Result<Option<WaitStatus>, Error> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::Pid(child), flags).context("wait for process", child)? {
        WaitStatus::StillAlive => Ok(None),
        status => Ok(Some(status)),
    }
}
