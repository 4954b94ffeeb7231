//! The command's standard streams on their way between this process and the guest.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileTypeExt,
    },
    time::Instant,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::{
    error::{Context, Error},
    feed::Message,
    host::terminal::Escape,
};

/// As much as a writable pipe takes without blocking the writer (`PIPE_BUF`).
pub(crate) const PIECE: usize = 4096;
/// How much of a kernel log is kept.
const LOG: usize = 1 << 16;

/// Output on its way: read from a pipe, written to one of our descriptors.
pub(crate) struct Stream {
    kind: Kind,
    source: Option<File>,
    sink: Option<OwnedFd>,
    pending: VecDeque<u8>,
    /// Of a log: the end of the data.
    kept: VecDeque<u8>,
    /// Bytes read so far.
    count: u64,
    /// Lines end as in raw mode of a terminal.
    is_raw: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Output,
    Errors,
    Log,
    Control,
}

/// Standard input on its way, as messages.
pub(crate) struct Feed {
    source: Option<File>,
    sink: File,
    pending: VecDeque<u8>,
    /// Standard input is a terminal.
    escape: Option<Escape>,
    is_escaped: bool,
}

impl Stream {
    /// To standard output.
    pub(crate) fn output(source: OwnedFd) -> Result<Self, Error> {
        let sink = io::stdout().as_fd().try_clone_to_owned().context("copy", "standard output")?;
        Ok(Self::new(Kind::Output, source, Some(sink)))
    }

    /// To standard error.
    pub(crate) fn errors(source: OwnedFd) -> Result<Self, Error> {
        let sink = io::stderr().as_fd().try_clone_to_owned().context("copy", "standard error")?;
        Ok(Self::new(Kind::Errors, source, Some(sink)))
    }

    /// Kept for its end, and also passed to standard error if it is shown.
    pub(crate) fn log(source: OwnedFd, show: bool, is_raw: bool) -> Result<Self, Error> {
        let sink = show.then(|| io::stderr().as_fd().try_clone_to_owned()).transpose();
        let log = Self::new(Kind::Log, source, sink.context("copy", "standard error")?);
        Ok(Self { is_raw, ..log })
    }

    /// What init reports about the command.
    pub(crate) fn control(source: OwnedFd) -> Self {
        Self::new(Kind::Control, source, None)
    }

    fn new(kind: Kind, source: OwnedFd, sink: Option<OwnedFd>) -> Self {
        let (pending, kept) = (VecDeque::new(), VecDeque::new());
        Self { kind, source: Some(source.into()), sink, pending, kept, count: 0, is_raw: false }
    }

    /// Init's words since the last call.
    pub(super) fn take_words(&mut self) -> Vec<u8> {
        match self.kind {
            Kind::Control => self.kept.drain(..).collect(),
            _ => Vec::new(),
        }
    }

    /// How many bytes arrived.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Of a log: the end of the data.
    pub(crate) fn text(&self) -> String {
        let kept: Vec<u8> = self.kept.iter().copied().filter(|&byte| byte != b'\r').collect();
        String::from_utf8_lossy(&kept).into_owned()
    }

    /// Whether some data is not passed on yet.
    pub(super) fn is_behind(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn is_done(&self) -> bool {
        self.source.is_none() && !self.is_behind()
    }

    /// Waits for room downstream if data is pending, else for data from upstream.
    pub(super) fn waits_for(&self) -> Option<PollFd<'_>> {
        match &self.sink {
            Some(sink) if !self.pending.is_empty() => {
                Some(PollFd::new(sink.as_fd(), PollFlags::POLLOUT))
            }
            _ => self.source.as_ref().map(|source| PollFd::new(source.as_fd(), PollFlags::POLLIN)),
        }
    }

    /// Moves data as far as possible without blocking.
    pub(super) fn step(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            self.fill()?;
        }
        let Some(sink) = &self.sink else { return Ok(()) };
        while !self.pending.is_empty() && is_ready(sink.as_fd(), PollFlags::POLLOUT) {
            let (piece, _) = self.pending.as_slices();
            let piece = &piece[..piece.len().min(PIECE)];
            let written = match nix::unistd::write(sink, piece) {
                // Programs seldom end because nobody reads their errors.
                Err(Errno::EPIPE) if self.kind != Kind::Output => piece.len(),
                result => retry(result)?,
            };
            self.pending.drain(..written);
        }
        Ok(())
    }

    fn fill(&mut self) -> io::Result<()> {
        let Some(source) = &mut self.source else { return Ok(()) };
        if !is_ready(source.as_fd(), PollFlags::POLLIN) {
            return Ok(());
        }
        let mut piece = vec![0; 1 << 16];
        let length = source.read(&mut piece)?;
        if length == 0 {
            self.source = None;
        }
        self.count += length as u64;
        if matches!(self.kind, Kind::Log | Kind::Control) {
            self.kept.extend(&piece[..length]);
            self.kept.drain(..self.kept.len().saturating_sub(LOG));
        }
        if self.sink.is_some() {
            for &byte in &piece[..length] {
                if byte == b'\n' && self.is_raw {
                    self.pending.push_back(b'\r');
                }
                self.pending.push_back(byte);
            }
        }
        Ok(())
    }
}

impl Feed {
    /// Whether this process's standard input is a pipe, a socket or a file. `/dev/null` is not passed
    /// on.
    pub(crate) fn wanted() -> bool {
        let Ok(input) = io::stdin().as_fd().try_clone_to_owned() else { return false };
        File::from(input).metadata().is_ok_and(|metadata| {
            let kind = metadata.file_type();
            kind.is_file() || kind.is_fifo() || kind.is_socket()
        })
    }

    pub(crate) fn new(sink: OwnedFd, is_terminal: bool) -> Result<Self, Error> {
        let source = io::stdin().as_fd().try_clone_to_owned().context("copy", "standard input")?;
        Ok(Self {
            source: Some(source.into()),
            sink: sink.into(),
            pending: VecDeque::new(),
            escape: is_terminal.then(Escape::default),
            is_escaped: false,
        })
    }

    /// Sends a message of its own.
    pub(super) fn send(&mut self, message: &Message) {
        self.pending.extend(message.to_bytes());
    }

    /// Whether the user typed the keys that end a guest that does not respond.
    pub(super) fn is_escaped(&self) -> bool {
        self.is_escaped
    }

    pub(super) fn waits_for(&self) -> Option<PollFd<'_>> {
        if self.pending.is_empty() {
            self.source.as_ref().map(|source| PollFd::new(source.as_fd(), PollFlags::POLLIN))
        } else {
            Some(PollFd::new(self.sink.as_fd(), PollFlags::POLLOUT))
        }
    }

    pub(super) fn step(&mut self) {
        if self.pending.is_empty() {
            self.fill();
        }
        if !self.pending.is_empty() && is_ready(self.sink.as_fd(), PollFlags::POLLOUT) {
            let length = self.pending.len().min(PIECE);
            match self.sink.write(&self.pending.make_contiguous()[..length]) {
                Ok(length) => drop(self.pending.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The guest is about to end, and no longer takes input.
                Err(_) => {
                    self.pending.clear();
                    self.source = None;
                }
            }
        }
    }

    fn fill(&mut self) {
        let Some(source) = &mut self.source else { return };
        if !is_ready(source.as_fd(), PollFlags::POLLIN) {
            return;
        }
        let mut piece = [0; PIECE - 3];
        // An input that cannot be read counts as ended.
        let length = source.read(&mut piece).unwrap_or(0);
        let typed = &piece[..length];
        if let Some(escape) = &mut self.escape {
            self.is_escaped |= escape.is_in(typed, Instant::now());
        }
        if typed.is_empty() {
            self.source = None;
            self.send(&Message::End);
        } else {
            self.send(&Message::Data(typed.to_vec()));
        }
    }
}

/// Whether a descriptor can be read or written now, or is at its end.
fn is_ready(descriptor: BorrowedFd<'_>, flags: PollFlags) -> bool {
    let mut waited = [PollFd::new(descriptor, flags)];
    matches!(poll(&mut waited, PollTimeout::ZERO), Ok(1..))
}

fn retry(result: nix::Result<usize>) -> io::Result<usize> {
    match result {
        Err(Errno::EINTR | Errno::EAGAIN) => Ok(0),
        result => Ok(result?),
    }
}
