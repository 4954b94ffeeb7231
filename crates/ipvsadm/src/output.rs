//! Where the program reads and writes.

use std::{
    cell::RefCell,
    env,
    fmt::{self, Write as _},
    io::{self, IsTerminal as _, Read, Write},
};

use serde::Serialize;

use crate::failure::Failure;

/// The standard streams, or what takes their place.
pub(crate) struct Console<'a> {
    input: RefCell<&'a mut dyn Read>,
    out: RefCell<&'a mut dyn Write>,
    err: RefCell<&'a mut dyn Write>,
    /// Whether a person sees the output.
    pub(crate) out_is_terminal: bool,
    /// Whether a person sees the messages.
    pub(crate) err_is_terminal: bool,
}

impl<'a> Console<'a> {
    /// Streams that are no terminal.
    pub(crate) fn new(
        input: &'a mut dyn Read,
        out: &'a mut dyn Write,
        err: &'a mut dyn Write,
    ) -> Self {
        Self {
            input: RefCell::new(input),
            out: RefCell::new(out),
            err: RefCell::new(err),
            out_is_terminal: false,
            err_is_terminal: false,
        }
    }

    /// The process's streams.
    pub(crate) fn standard(
        input: &'a mut io::StdinLock<'static>,
        out: &'a mut io::StdoutLock<'static>,
        err: &'a mut io::Stderr,
    ) -> Self {
        let (out_is_terminal, err_is_terminal) = (out.is_terminal(), err.is_terminal());
        Self { out_is_terminal, err_is_terminal, ..Self::new(input, out, err) }
    }

    /// Everything that can be read.
    pub(crate) fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.input.borrow_mut().read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Prints a text in few system calls.
    pub(crate) fn print(&self, text: &impl fmt::Display) -> Result<(), Failure> {
        let mut out = self.out.borrow_mut();
        let mut chunks = Chunks { text: String::new(), out: &mut **out, error: None };
        let written = write!(chunks, "{text}").and_then(|()| chunks.send());
        match chunks.error {
            Some(error) => Err(error.into()),
            None => {
                written.map_err(io::Error::other)?;
                Ok(out.flush()?)
            }
        }
    }

    /// Prints a value as JSON: in one line, or as people read it.
    pub(crate) fn print_json(
        &self,
        value: &impl Serialize,
        in_one_line: bool,
    ) -> Result<(), Failure> {
        self.print_pieces(|output| {
            match in_one_line {
                true => serde_json::to_writer(&mut *output, value)?,
                false => serde_json::to_writer_pretty(&mut *output, value)?,
            }
            Ok(writeln!(output)?)
        })
    }

    /// Prints what is written piece by piece.
    pub(crate) fn print_pieces(
        &self,
        write: impl FnOnce(&mut Pieces<'_, 'a>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut out = self.out.borrow_mut();
        let mut output = io::BufWriter::with_capacity(1 << 16, &mut **out);
        write(&mut output)?;
        Ok(output.flush()?)
    }

    /// Detects what could not be written until now.
    pub(crate) fn flush(&self) -> Result<(), Failure> {
        Ok(self.out.borrow_mut().flush()?)
    }

    /// Says something to the person at the terminal or in the log, under the program's name.
    pub(crate) fn say(&self, text: &str) {
        // In one piece, since others may write to the same log.
        let lines: String = text.lines().map(|line| format!("ipvsadm: {line}\n")).collect();
        // There is nobody to tell if this fails.
        let _ = self.err.borrow_mut().write_all(lines.as_bytes());
    }

    /// Whether what is printed may have colours: on a terminal that has them, unless NO_COLOR is
    /// set.
    pub(crate) fn is_coloured(&self) -> bool {
        let forbidden = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        !forbidden && !dumb && self.out_is_terminal
    }
}

/// What takes many small pieces.
type Pieces<'out, 'a> = io::BufWriter<&'out mut (dyn Write + 'a)>;

/// A text on its way out. Listings are made of many small pieces, which a string takes in more
/// quickly than a [`BufWriter`](io::BufWriter).
struct Chunks<'a> {
    text: String,
    out: &'a mut dyn Write,
    error: Option<io::Error>,
}

impl Chunks<'_> {
    const LENGTH: usize = 1 << 15;

    fn send(&mut self) -> fmt::Result {
        let sent = self.out.write_all(self.text.as_bytes());
        self.text.clear();
        sent.map_err(|error| {
            self.error = Some(error);
            fmt::Error
        })
    }
}

impl fmt::Write for Chunks<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text.push_str(text);
        if self.text.len() < Self::LENGTH { Ok(()) } else { self.send() }
    }

    fn write_char(&mut self, character: char) -> fmt::Result {
        // What pads a column: so short that the next piece may see to it.
        self.text.push(character);
        Ok(())
    }
}
