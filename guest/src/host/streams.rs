//! The command's standard streams on their way between this process and the guest.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileTypeExt,
    },
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::error::{Context, Error};

/// As much as a pipe that is ready takes without making the writer wait (`PIPE_BUF`).
pub(crate) const PIECE: usize = 4096;
/// How much of a kernel log is kept.
const LOG: usize = 1 << 16;

/// Output on its way: read from a pipe, written to a descriptor of ours.
pub(crate) struct Stream {
    kind: Kind,
    source: Option<File>,
    sink: Option<OwnedFd>,
    pending: VecDeque<u8>,
    /// The end of what came, of a log.
    kept: VecDeque<u8>,
    /// Bytes read so far.
    count: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Output,
    Errors,
    Log,
}

/// Standard input on its way: in pieces, each after its length (u16, little endian); a length of 0
/// is the end. A serial line has no end of its own: it is hung up, and what was not read is gone.
pub(crate) struct Feed {
    source: Option<File>,
    sink: File,
    pending: VecDeque<u8>,
}

impl Stream {
    /// To standard output. The first byte is not passed on: it is init's word that the command
    /// starts, and that it listens for standard input.
    pub(crate) fn output(source: OwnedFd) -> Result<Self, Error> {
        let sink = io::stdout().as_fd().try_clone_to_owned().context("copy", "standard output")?;
        Ok(Self::new(Kind::Output, source, Some(sink)))
    }

    /// To standard error.
    pub(crate) fn errors(source: OwnedFd) -> Result<Self, Error> {
        let sink = io::stderr().as_fd().try_clone_to_owned().context("copy", "standard error")?;
        Ok(Self::new(Kind::Errors, source, Some(sink)))
    }

    /// To be asked for its end, and also to standard error if it is shown.
    pub(crate) fn log(source: OwnedFd, show: bool) -> Result<Self, Error> {
        let sink = show.then(|| io::stderr().as_fd().try_clone_to_owned()).transpose();
        Ok(Self::new(Kind::Log, source, sink.context("copy", "standard error")?))
    }

    fn new(kind: Kind, source: OwnedFd, sink: Option<OwnedFd>) -> Self {
        let (pending, kept) = (VecDeque::new(), VecDeque::new());
        Self { kind, source: Some(source.into()), sink, pending, kept, count: 0 }
    }

    pub(super) fn is_output(&self) -> bool {
        self.kind == Kind::Output
    }

    /// Bytes that came.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The last lines of what came, of a log.
    pub(crate) fn last_lines(&self, lines: usize) -> String {
        let kept: Vec<u8> = self.kept.iter().copied().filter(|&byte| byte != b'\r').collect();
        let text = String::from_utf8_lossy(&kept);
        let skip = text.lines().count().saturating_sub(lines);
        text.lines().skip(skip).collect::<Vec<_>>().join("\n")
    }

    pub(super) fn is_done(&self) -> bool {
        self.source.is_none() && self.pending.is_empty()
    }

    /// Room downstream if something is pending, else more from upstream.
    pub(super) fn waits_for(&self) -> Option<PollFd<'_>> {
        match &self.sink {
            Some(sink) if !self.pending.is_empty() => {
                Some(PollFd::new(sink.as_fd(), PollFlags::POLLOUT))
            }
            _ => self.source.as_ref().map(|source| PollFd::new(source.as_fd(), PollFlags::POLLIN)),
        }
    }

    /// Moves what can be moved without waiting.
    pub(super) fn step(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            self.fill()?;
        }
        let Some(sink) = &self.sink else { return Ok(()) };
        while !self.pending.is_empty() && is_ready(sink.as_fd(), PollFlags::POLLOUT) {
            let (piece, _) = self.pending.as_slices();
            let piece = &piece[..piece.len().min(PIECE)];
            let written = match nix::unistd::write(sink, piece) {
                // A program without a reader for its errors seldom ends for that.
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
        let skip = usize::from(self.count == 0 && self.kind == Kind::Output).min(length);
        self.count += length as u64;
        if self.kind == Kind::Log {
            self.kept.extend(&piece[..length]);
            self.kept.drain(..self.kept.len().saturating_sub(LOG));
        }
        if self.sink.is_some() {
            self.pending.extend(&piece[skip..length]);
        }
        Ok(())
    }
}

impl Feed {
    /// This process's standard input, if it is a pipe, a socket or a file: a terminal is not passed
    /// on, and `/dev/null` need not be.
    pub(crate) fn wanted() -> bool {
        let Ok(input) = io::stdin().as_fd().try_clone_to_owned() else { return false };
        File::from(input).metadata().is_ok_and(|metadata| {
            let kind = metadata.file_type();
            kind.is_file() || kind.is_fifo() || kind.is_socket()
        })
    }

    pub(crate) fn new(sink: OwnedFd) -> Result<Self, Error> {
        let source = io::stdin().as_fd().try_clone_to_owned().context("copy", "standard input")?;
        let pending = VecDeque::new();
        Ok(Self { source: Some(source.into()), sink: sink.into(), pending })
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
            match self.sink.write(self.pending.make_contiguous()) {
                Ok(length) => drop(self.pending.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The guest is about to end, and takes no input any more.
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
        let mut piece = [0; PIECE - 2];
        // An input that cannot be read ends there.
        let length = source.read(&mut piece).unwrap_or(0);
        self.pending.extend((length as u16).to_le_bytes());
        self.pending.extend(&piece[..length]);
        if length == 0 {
            self.source = None;
        }
    }
}

/// Whether a descriptor can be read or written at once, or is at its end.
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
