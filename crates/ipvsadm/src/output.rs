//! The standard output and the standard error.

use std::{
    env,
    fmt::{self, Write as _},
    io::{self, IsTerminal as _, Write as _},
};

use serde::Serialize;

use crate::failure::Failure;

/// Prints a text in few system calls.
pub(crate) fn print(text: &impl fmt::Display) -> Result<(), Failure> {
    let mut chunks = Chunks { text: String::new(), output: io::stdout().lock(), error: None };
    let written = write!(chunks, "{text}").and_then(|()| chunks.send());
    match chunks.error {
        Some(error) => Err(error.into()),
        None => {
            written.map_err(io::Error::other)?;
            Ok(chunks.output.flush()?)
        }
    }
}

/// A text on its way to the standard output. Listings are made of many small pieces, which a string
/// takes in more quickly than a [`BufWriter`](io::BufWriter).
struct Chunks<'a> {
    text: String,
    output: io::StdoutLock<'a>,
    error: Option<io::Error>,
}

impl Chunks<'_> {
    const LENGTH: usize = 1 << 15;

    fn send(&mut self) -> fmt::Result {
        let sent = self.output.write_all(self.text.as_bytes());
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

/// Prints a value as JSON: in one line, or as people read it.
pub(crate) fn print_json(value: &impl Serialize, in_one_line: bool) -> Result<(), Failure> {
    let mut output = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
    match in_one_line {
        true => serde_json::to_writer(&mut output, value)?,
        false => serde_json::to_writer_pretty(&mut output, value)?,
    }
    writeln!(output)?;
    Ok(output.flush()?)
}

/// Says something to the person at the terminal or in the log, under the program's name.
pub(crate) fn say(text: &str) {
    // In one piece, since others may write to the same log. There is nobody to tell if this fails.
    let lines: String = text.lines().map(|line| format!("ipvsadm: {line}\n")).collect();
    let _ = io::stderr().write_all(lines.as_bytes());
}

/// Whether what is printed may have colours: on a terminal that has them, unless NO_COLOR is set.
pub(crate) fn is_coloured() -> bool {
    let forbidden = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
    !forbidden && !dumb && io::stdout().is_terminal()
}
