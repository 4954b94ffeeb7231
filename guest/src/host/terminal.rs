//! This process's terminal, while a command in a guest has it.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg, OFlag},
    sys::{
        signal::{self, Signal},
        termios::{self, SetArg, Termios},
    },
    unistd::{self, Pid},
};
use rustix::termios::tcgetwinsize;

use crate::{
    error::{Context, Error},
    feed::Size,
};

/// The keys that end a guest that does not respond: Control-], this often, within this time.
const ESCAPE: u8 = 0x1d;
const ESCAPES: usize = 3;
const ESCAPE_TIME: Duration = Duration::from_secs(1);

/// A terminal that is both standard input and standard output. Dropping this restores the
/// terminal's settings.
pub(super) struct Terminal {
    terminal: OwnedFd,
    before: Option<Termios>,
    /// Held for its lock: two programs cannot both have the terminal.
    _lock: Option<Flock<File>>,
}

/// Finds the keys that end a guest that does not respond.
#[derive(Debug, Default)]
pub(super) struct Escape {
    times: Vec<Instant>,
}

impl Terminal {
    /// The terminal, if this process may have it: the process is not in the background, and no other
    /// guest has the same terminal.
    pub(super) fn find() -> Option<Self> {
        let input = io::stdin();
        if !input.is_terminal() || !io::stdout().is_terminal() {
            return None;
        }
        match unistd::tcgetpgrp(&input) {
            Ok(group) if group != unistd::getpgrp() => return None,
            // A terminal that does not control this process has no background.
            Ok(_) | Err(Errno::ENOTTY) => {}
            Err(_) => return None,
        }
        let terminal = input.as_fd().try_clone_to_owned().ok()?;
        let path = unistd::ttyname(&terminal).ok()?;
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_NOCTTY | OFlag::O_NONBLOCK).bits())
            .open(path);
        // Another user's terminal cannot be opened again.
        let lock = opened.ok().map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock));
        let lock = lock.transpose().ok()?;
        Some(Self { terminal, before: None, _lock: lock })
    }

    /// The terminal's size, 0 if it does not know.
    pub(super) fn size(&self) -> Size {
        tcgetwinsize(&self.terminal)
            .map_or(Size::default(), |size| Size { rows: size.ws_row, columns: size.ws_col })
    }

    /// Passes every key and every byte of output through: the guest's terminal handles them.
    pub(super) fn make_raw(&mut self) -> Result<(), Error> {
        let settings = termios::tcgetattr(&self.terminal).context("ask for", "the terminal")?;
        let mut raw = settings.clone();
        termios::cfmakeraw(&mut raw);
        self.before.get_or_insert(settings);
        termios::tcsetattr(&self.terminal, SetArg::TCSANOW, &raw).context("set", "the terminal")
    }

    /// Stops this process and the rest of its job, as Control-Z does; returns when it continues.
    pub(super) fn suspend(&mut self) -> Result<(), Error> {
        self.give_back();
        signal::kill(Pid::from_raw(0), Signal::SIGTSTP).context("stop", "this job")?;
        self.make_raw()
    }

    fn give_back(&mut self) {
        if let Some(before) = self.before.take() {
            let _ = termios::tcsetattr(&self.terminal, SetArg::TCSANOW, &before);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Escape {
    /// Whether the keys typed now, with those before, end the guest.
    pub(super) fn is_in(&mut self, typed: &[u8], now: Instant) -> bool {
        for &byte in typed {
            if byte == ESCAPE {
                self.times.push(now);
            } else {
                self.times.clear();
            }
        }
        self.times.retain(|&time| now.saturating_duration_since(time) < ESCAPE_TIME);
        self.times.len() >= ESCAPES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_escapes_within_a_second_end_the_guest() {
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        let ends = |keys: &[(&[u8], u64)]| {
            let mut escape = Escape::default();
            keys.iter().map(|(keys, time)| escape.is_in(keys, after(*time))).collect::<Vec<_>>()
        };
        assert_eq!(ends(&[(b"a\x1d\x1d\x1d", 0)]), [true]);
        assert_eq!(ends(&[(b"\x1d", 0), (b"\x1d", 400), (b"\x1d", 900)]), [false, false, true]);
        assert_eq!(ends(&[(b"\x1d", 0), (b"\x1d", 400), (b"\x1d", 1100)]), [false; 3]);
        assert_eq!(ends(&[(b"\x1d\x1d", 0), (b"a\x1d", 1)]), [false, false]);
    }
}
