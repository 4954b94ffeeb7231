//! The command's terminal. Between init and the command is a process that leads the terminal's
//! session, as a shell does: the kernel does not stop children of init.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{self, Stdio},
};

use nix::{
    errno::Errno,
    pty::{OpenptyResult, Winsize, openpty},
    sys::{
        signal::{self, SigSet, Signal},
        termios::{self, InputFlags, SetArg},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{self, Pid},
};
use rustix::termios::tcsetwinsize;

use crate::{
    error::{Context, Error},
    feed::Size,
    host::supervise::Outcome,
    inside::{MODPROBE, command::Running, init::is_guest},
    order::{self, Command},
};

/// The name under which this program leads the terminal's session.
const LEADER: &str = "lvs-guest-leader";
/// The name under which this program becomes the command with its terminal.
const FOREGROUND: &str = "lvs-guest-foreground";
/// The file in which it reports that it could not.
const NOT_RUN: &str = "/run/lvs-guest/not-run";

/// A terminal of the guest's, seen from outside.
pub(super) struct Terminal {
    outside: File,
    /// Kept open, since a terminal that nobody has open loses its session.
    _inside: OwnedFd,
}

impl Terminal {
    /// Sets a new size; the kernel sends the command SIGWINCH if it differs.
    pub(super) fn resize(&self, size: Size) {
        // A wrong size is no reason to end the command.
        let _ = tcsetwinsize(&self.outside, winsize(size));
    }
}

/// Starts the command on a new terminal.
pub(super) fn start(
    command: &Command,
    wanted: &order::Terminal,
) -> Result<io::Result<Running>, Error> {
    let OpenptyResult { master, slave } = openpty(
        &Winsize {
            ws_row: wanted.size.rows,
            ws_col: wanted.size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
        None,
    )
    .context("make", "a terminal")?;
    let mut settings = termios::tcgetattr(&slave).context("ask for", "the terminal")?;
    settings.input_flags |= InputFlags::IUTF8;
    termios::tcsetattr(&slave, SetArg::TCSANOW, &settings).context("set", "the terminal")?;
    let outside = File::from(master);
    let copy = |descriptor: &OwnedFd| descriptor.try_clone().context("copy", "the terminal");
    let (input, output, errors) = (copy(&slave)?, copy(&slave)?, copy(&slave)?);
    Ok(command.look_up().and_then(|program| {
        let mut child = process::Command::new(MODPROBE)
            .arg0(LEADER)
            .arg(program)
            .arg(&command.name)
            .args(&command.arguments)
            .env_clear()
            .envs(command.environment.iter().map(|(name, value)| (name, value)))
            .stdin(input)
            .stdout(output)
            .stderr(if wanted.errors { Stdio::from(errors) } else { Stdio::piped() })
            .spawn()?;
        Ok(Running {
            process: Pid::from_raw(child.id() as i32),
            output: Some(outside.try_clone()?),
            errors: child.stderr.take().map(|pipe| OwnedFd::from(pipe).into()),
            input: Some(outside.try_clone()?),
            terminal: Some(Terminal { outside, _inside: slave }),
        })
    }))
}

/// Leads the session, or becomes the command, if this process was started for that.
pub(super) fn assume_role() {
    let mut words = crate::words();
    let role = words.next();
    let error = match role.as_deref().and_then(OsStr::to_str) {
        Some(LEADER) if is_guest() => match lead(words) {
            Ok(outcome) => outcome.exit(),
            Err(error) => error,
        },
        Some(FOREGROUND) if is_guest() => become_command(words),
        _ => return,
    };
    let errno = error.raw_os_error().unwrap_or(Errno::ENOEXEC as i32);
    let _ = fs::write(NOT_RUN, errno.to_string());
    process::exit(1);
}

/// Starts the command, and ends as it ends. Stops when the command stops, and continues it afterwards.
fn lead(words: impl Iterator<Item = OsString>) -> io::Result<Outcome> {
    unistd::setsid()?;
    // The first terminal that the leader of a session opens is the session's.
    let path = unistd::ttyname(io::stdin())?;
    drop(OpenOptions::new().read(true).write(true).open(path)?);
    let child =
        process::Command::new(MODPROBE).arg0(FOREGROUND).args(words).process_group(0).spawn()?;
    let command = Pid::from_raw(child.id() as i32);
    loop {
        match waitpid(command, Some(WaitPidFlag::WUNTRACED))? {
            WaitStatus::Exited(_, status) => return Ok(Outcome::Exit(status)),
            WaitStatus::Signaled(_, signal, _) => return Ok(Outcome::Signal(signal as i32)),
            WaitStatus::Stopped(..) => {
                signal::raise(Signal::SIGSTOP)?;
                // Init continued this process.
                signal::killpg(command, Signal::SIGCONT)?;
            }
            _ => {}
        }
    }
}

/// Moves to the foreground of the terminal, and becomes the command. Between fork and exec this would
/// need unsafe code.
fn become_command(mut words: impl Iterator<Item = OsString>) -> io::Error {
    let (Some(program), Some(name)) = (words.next(), words.next()) else {
        return Errno::EINVAL.into();
    };
    // This process is still in the background, where this signal would stop it.
    let stop = SigSet::from_iter([Signal::SIGTTOU]);
    let foreground = stop
        .thread_block()
        .and_then(|()| unistd::tcsetpgrp(io::stdin(), unistd::getpid()))
        .and_then(|()| stop.thread_unblock());
    match foreground {
        Ok(()) => process::Command::new(program).arg0(name).args(words).exec(),
        Err(error) => error.into(),
    }
}

/// Why the command could not be run, if it could not: an errno.
pub(super) fn not_run() -> Option<i32> {
    fs::read_to_string(NOT_RUN).ok()?.parse().ok()
}

fn winsize(size: Size) -> rustix::termios::Winsize {
    rustix::termios::Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 }
}
