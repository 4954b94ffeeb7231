//! Waiting for a process while its output is passed on, signals and a time limit end it.

use std::{
    io,
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
    host::streams::{Feed, Stream},
};

/// The signals that end a run.
const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// With an exit status.
    Exit(i32),
    /// By a signal: the command's own, or one that this process got and passed on.
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
            // Rust's own handler for SIGSEGV and SIGBUS takes the first and makes way for the second.
            let _ = signal::raise(signal).and_then(|()| signal::raise(signal));
        }
        // An ignored signal, such as SIGPIPE in a Rust program: what a shell makes of it.
        process::exit(128 + number)
    }
}

/// The signals that a supervised run looks at itself, from before its process is started. When this
/// is dropped, the thread's signal mask is what it was before.
pub(crate) struct Signals {
    descriptor: SignalFd,
    before: SigSet,
}

/// Why waiting ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The process ended, and all of its output is out.
    Process(WaitStatus),
    /// A signal came, or nobody reads the output any more (`SIGPIPE`). The process may live.
    Signal(Signal),
    /// The time limit was reached. The process may live.
    TimeLimit,
}

impl Signals {
    /// Blocks the signals. A process that is started from now on inherits that.
    pub(crate) fn block() -> Result<Self, Error> {
        let set: SigSet = ENDING.into_iter().chain([Signal::SIGCHLD]).collect();
        let descriptor = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context("make a descriptor for", "signals")?;
        let before = set.thread_swap_mask(SigmaskHow::SIG_BLOCK).context("block", "signals")?;
        Ok(Self { descriptor, before })
    }

    /// Waits for a process that leads a process group, moving data until it has ended and each
    /// stream has come to its end. What else is left in the group is killed when the process ends.
    pub(crate) fn supervise(
        &mut self,
        child: Pid,
        streams: &mut [Stream],
        mut feed: Option<&mut Feed>,
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
            if let Some(status) = ended.filter(|_| streams.iter().all(Stream::is_done)) {
                return Ok(End::Process(status));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(End::TimeLimit);
            }
            // Input that came before the guest listens would be mangled by its serial line.
            let listening = streams.iter().any(|s| s.is_output() && s.count() > 0);
            let mut feed = feed.as_deref_mut().filter(|_| listening);
            self.wait_for_any(streams, feed.as_deref(), left)?;
            if let Some(signal) = self.ending()? {
                return Ok(End::Signal(signal));
            }
            for stream in &mut *streams {
                match stream.step() {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                        return Ok(End::Signal(Signal::SIGPIPE));
                    }
                    Err(error) => return Err(error).context("pass on", "output"),
                }
            }
            if let Some(feed) = &mut feed {
                feed.step();
            }
        }
    }

    /// A signal that came and ends the run. The others are taken note of.
    pub(super) fn ending(&mut self) -> Result<Option<Signal>, Error> {
        while let Some(info) = self.descriptor.read_signal().context("read", "signals")? {
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(signal) if ENDING.contains(&signal) => return Ok(Some(signal)),
                _ => {}
            }
        }
        Ok(None)
    }

    fn wait_for_any(
        &self,
        streams: &[Stream],
        feed: Option<&Feed>,
        left: Option<Duration>,
    ) -> Result<(), Error> {
        let mut waited = vec![PollFd::new(self.descriptor.as_fd(), PollFlags::POLLIN)];
        waited.extend(streams.iter().filter_map(Stream::waits_for));
        waited.extend(feed.and_then(Feed::waits_for));
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
    /// Readable when a signal came.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // One that came too late to be looked at takes effect now.
        let _ = self.before.thread_set_mask();
    }
}

/// How a process ended, if it did. It is not taken off the system's list: its number stays its own.
fn end_of(child: Pid) -> Result<Option<WaitStatus>, Error> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::Pid(child), flags).context("wait for process", child)? {
        WaitStatus::StillAlive => Ok(None),
        status => Ok(Some(status)),
    }
}
