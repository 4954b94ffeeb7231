//! The lines between the guest and its runner.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    fcntl::OFlag,
    sys::termios::{self, SetArg},
    unistd,
};

use crate::{
    error::{Context, Error},
    order::{ENDED, Files, Order},
};

/// How long QEMU's lines may take to appear.
const WAIT: Duration = Duration::from_secs(10);

/// The guest's side of the lines.
pub(super) struct Lines {
    /// Standard output and standard error.
    pub(super) outputs: [File; 2],
    /// Standard input, if there is any.
    pub(super) input: Option<File>,
    control: File,
    files: Files,
}

impl Lines {
    pub(super) fn open(order: &Order) -> Result<Self, Error> {
        let files = order.files;
        let line = |number, options: &mut OpenOptions| open(&path(files, number)?, options);
        Ok(Self {
            outputs: [
                line(1, OpenOptions::new().write(true))?,
                line(2, OpenOptions::new().write(true))?,
            ],
            input: order.input.then(|| line(3, OpenOptions::new().read(true))).transpose()?,
            control: line(4, OpenOptions::new().write(true))?,
            files,
        })
    }

    /// Tells the runner the state of the command.
    pub(super) fn say(&mut self, word: u8) -> Result<(), Error> {
        self.control.write_all(&[word]).context("write to", "the line of control")
    }

    /// Waits until the runner has received all data. Turning the guest off loses data that is on its
    /// way.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        if self.files == Files::Hostfs {
            for line in &self.outputs {
                termios::tcdrain(line).context("empty", "a serial line")?;
            }
            return Ok(());
        }
        // A virtio port does not tell when it is empty. The runner knows from the report how many bytes to
        // expect, and ends the guest when it has them.
        unistd::sync();
        self.say(ENDED)?;
        loop {
            thread::park();
        }
    }
}

/// The path of a line: 1 standard output, 2 standard error, 3 standard input, 4 what init reports about the
/// command.
fn path(files: Files, number: u8) -> Result<PathBuf, Error> {
    if files == Files::Hostfs {
        return Ok(format!("/dev/ttyS{}", number - 1).into());
    }
    // QEMU's lines are ports of a virtio device with any number. They appear some time after their
    // driver.
    let end = format!("p{number}");
    let deadline = Instant::now() + WAIT;
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

/// A line as a plain stream of bytes.
fn open(path: &Path, options: &mut OpenOptions) -> Result<File, Error> {
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
