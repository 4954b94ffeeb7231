//! All data between this process and a guest while the command runs.

use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use nix::{poll::PollFd, sys::signal::Signal};

use crate::{
    error::{Context, Error},
    feed::Message,
    host::{
        streams::{Feed, Stream},
        terminal::Terminal,
    },
    order::{ENDED, Report, STARTS, STOPPED},
};

/// Data that init has written counts as lost after this long without any of it.
const LOST_TIMEOUT: Duration = Duration::from_secs(10);

/// The streams of a guest, standard input, and the terminal if the command has it.
pub(super) struct Traffic<'a> {
    /// The job's directory.
    pub(super) job: PathBuf,
    pub(super) output: Stream,
    pub(super) errors: Stream,
    pub(super) log: Stream,
    pub(super) control: Stream,
    pub(super) feed: Option<Feed>,
    pub(super) terminal: Option<Terminal>,
    /// Init reported that the command starts, and listens for standard input: its serial line would have
    /// mangled earlier input.
    pub(super) has_begun: bool,
    /// What is still to arrive, once init reported the end of the command.
    pub(super) rest: Option<Rest>,
    /// Called when the command starts.
    pub(super) begin: &'a dyn Fn(),
}

/// Output that init has written.
pub(super) struct Rest {
    /// How many bytes in total.
    written: u64,
    /// How many bytes were missing when the last ones arrived, and when that was.
    missing: u64,
    since: Instant,
}

impl Traffic<'_> {
    fn streams(&self) -> [&Stream; 4] {
        [&self.output, &self.errors, &self.log, &self.control]
    }

    pub(super) fn is_done(&self) -> bool {
        self.streams().iter().all(|stream| stream.is_done())
    }

    /// When the guest can be ended, if it does not end by itself: when all that it wrote has arrived, or
    /// nothing arrives any more. A slow reader of ours does not count.
    pub(super) fn can_end_at(&self) -> Option<Instant> {
        let Rest { missing, since, .. } = self.rest.as_ref()?;
        match missing {
            0 => Some(*since),
            _ => (!self.is_behind()).then(|| *since + LOST_TIMEOUT),
        }
    }

    fn is_behind(&self) -> bool {
        self.output.is_behind() || self.errors.is_behind()
    }

    fn look_at_rest(&mut self) {
        let count = self.output.count() + self.errors.count();
        let is_behind = self.is_behind();
        if let Some(rest) = &mut self.rest {
            let missing = rest.written.saturating_sub(count);
            if missing != rest.missing || is_behind {
                (rest.missing, rest.since) = (missing, Instant::now());
            }
        }
    }

    pub(super) fn waits_for(&self) -> impl Iterator<Item = PollFd<'_>> {
        let feed = self.feed.as_ref().filter(|_| self.has_begun);
        self.streams()
            .into_iter()
            .filter_map(Stream::waits_for)
            .chain(feed.and_then(Feed::waits_for))
    }

    /// Moves data as far as possible without blocking. Returns the signal that ends the run if nobody
    /// reads the output any more, or the user gave the guest up.
    pub(super) fn step(&mut self) -> Result<Option<Signal>, Error> {
        for stream in [&mut self.output, &mut self.errors, &mut self.log, &mut self.control] {
            match stream.step() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Ok(Some(Signal::SIGPIPE));
                }
                Err(error) => return Err(error).context("pass on", "output"),
            }
        }
        for word in self.control.take_words() {
            match (word, &mut self.terminal) {
                (STARTS, terminal) => {
                    self.has_begun = true;
                    (self.begin)();
                    if let Some(terminal) = terminal {
                        terminal.make_raw()?;
                    }
                }
                (STOPPED, Some(terminal)) => {
                    terminal.suspend()?;
                    self.send(&Message::Continue);
                    self.send_size();
                }
                (ENDED, _) => {
                    let written = Report::read(&self.job).map_or(0, |report| report.bytes());
                    self.rest = Some(Rest { written, missing: written, since: Instant::now() });
                }
                _ => {}
            }
        }
        self.look_at_rest();
        if let Some(feed) = self.feed.as_mut().filter(|_| self.has_begun) {
            feed.step();
            if feed.is_escaped() {
                return Ok(Some(Signal::SIGTERM));
            }
        }
        Ok(None)
    }

    /// The terminal has a new size, or this process was stopped and another had the terminal.
    pub(super) fn look_at_terminal(&mut self, signal: Signal) -> Result<(), Error> {
        if let Some(terminal) = self.terminal.as_mut().filter(|_| self.has_begun) {
            if signal == Signal::SIGCONT {
                terminal.make_raw()?;
            }
        }
        self.send_size();
        Ok(())
    }

    fn send_size(&mut self) {
        if let Some(size) = self.terminal.as_ref().map(Terminal::size) {
            self.send(&Message::Size(size));
        }
    }

    fn send(&mut self, message: &Message) {
        if let Some(feed) = &mut self.feed {
            feed.send(message);
        }
    }
}
