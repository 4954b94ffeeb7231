//! The connection table, which the kernel reports in /proc only.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
};

use ipvs_table::Connection;
use netlink_talk::{OtherProcess, Owner};

use super::{file::open, namespace::Namespace};
use crate::{Error, ErrorKind};

/// Longer than any line of the kernel's: three IPv6 addresses and 255 bytes of persistence data make
/// some 450 bytes.
const LINE_LIMIT: u64 = 1024;

/// The connection table, read as it is iterated: see
/// [`Client::connections`](crate::Client::connections).
///
/// Some 12 KiB of memory, whatever the size of the table. `next` blocks while the kernel walks its
/// table for the next 4 KiB of text (some 60 connections): microseconds, but milliseconds where
/// there are tens of thousands of connections and the kernel is older than 6.14, which begins each
/// walk from the start. Async programs take [`stream`](Self::stream).
///
/// A line that cannot be read is an `Err` of kind [`Malformed`](ErrorKind::Malformed) that names
/// it, and the lines after it still come. Any other `Err` is the last item.
///
/// ```no_run
/// # async fn example(client: ipvs_client::Client) -> Result<(), ipvs_client::Error> {
/// let mut connections = client.connections()?.stream()?;
/// while let Some(connection) = connections.next().await {
///     let connection = connection?;
///     println!("{} -> {} {}", connection.client, connection.destination, connection.state);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Connections(Table<BufReader<OwnFile>>);

impl Connections {
    pub(crate) fn open(namespace: &Namespace, source: Source) -> Result<Self, Error> {
        let file = namespace.run(source.operation, || open(source.operation, source.path))?;
        let file = OwnFile { file, owner: Owner::current() };
        Table::new(BufReader::new(file), source).map(Self)
    }

    /// What is being done, for errors.
    pub(crate) fn operation(&self) -> &'static str {
        self.0.source.operation
    }
}

impl Iterator for Connections {
    type Item = Result<Connection, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

/// An open file that only the process reads that opened it: a child of `fork` shares the place up to
/// which it was read, and each would miss what the other has.
#[derive(Debug)]
struct OwnFile {
    file: File,
    owner: Owner,
}

impl Read for OwnFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.owner.check().map_err(io::Error::other)?;
        self.file.read(buffer)
    }
}

/// A file of connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    path: &'static str,
    operation: &'static str,
    columns: &'static [&'static str],
}

impl Source {
    pub(crate) const PLAIN: Self = Self {
        path: "/proc/thread-self/net/ip_vs_conn",
        operation: "reading the connection table (/proc/net/ip_vs_conn)",
        columns: &["Pro", "FromIP", "FPrt", "ToIP", "TPrt", "DestIP", "DPrt", "State", "Expires"],
    };
    pub(crate) const WITH_ORIGIN: Self = Self {
        path: "/proc/thread-self/net/ip_vs_conn_sync",
        operation: "reading the connection table (/proc/net/ip_vs_conn_sync)",
        columns: &[
            "Pro", "FromIP", "FPrt", "ToIP", "TPrt", "DestIP", "DPrt", "State", "Origin", "Expires",
        ],
    };

    fn has_origin(&self) -> bool {
        self.columns.contains(&"Origin")
    }

    /// Whether a first line names the columns that are expected. Kernels patched for full NAT, for
    /// one, have more.
    fn is_header(&self, line: &[u8]) -> bool {
        let line = String::from_utf8_lossy(line);
        let mut columns = line.split_ascii_whitespace();
        self.columns.iter().all(|&column| columns.next() == Some(column))
            && columns.all(|column| column.starts_with("PE"))
    }
}

/// A table of connections as text.
#[derive(Debug)]
struct Table<R> {
    source: Source,
    /// `None` after the end and after an error of the system.
    reader: Option<R>,
    /// Of the line that was read last; the first is 1.
    number: u64,
    line: Vec<u8>,
}

impl<R: BufRead> Table<R> {
    fn new(reader: R, source: Source) -> Result<Self, Error> {
        let mut table = Self { source, reader: Some(reader), number: 0, line: Vec::new() };
        match table.advance()? {
            true if source.is_header(&table.line) => Ok(table),
            _ => Err(table.malformed("the header names other columns than those known")),
        }
    }

    /// Reads the next line. Returns whether there is one.
    fn advance(&mut self) -> Result<bool, Error> {
        let Some(reader) = &mut self.reader else { return Ok(false) };
        self.line.clear();
        self.number += 1;
        let line = &mut self.line;
        let read = reader.by_ref().take(LINE_LIMIT).read_until(b'\n', line).and_then(|length| {
            if line.last() == Some(&b'\n') {
                line.pop();
            } else if length as u64 == LINE_LIMIT {
                skip_line(reader)?;
                return Ok(None);
            }
            Ok(Some(length > 0))
        });
        match read {
            Ok(Some(true)) => Ok(true),
            Ok(Some(false)) => {
                self.reader = None;
                Ok(false)
            }
            Ok(None) => Err(self.malformed("it is longer than a line of the kernel's can be")),
            Err(error) => {
                self.reader = None;
                let operation = self.source.operation;
                let other = error.get_ref().and_then(|inner| inner.downcast_ref::<OtherProcess>());
                Err(match other {
                    Some(other) => Error::other_process(operation, *other),
                    None => Error::file(operation, ErrorKind::Os, "the file cannot be read", error),
                })
            }
        }
    }

    fn malformed(&self, what: &str) -> Error {
        let start = &self.line[..self.line.len().min(200)];
        let text = format!("line {}: {what}: \"{}\"", self.number, start.escape_ascii());
        Error::malformed(self.source.operation, &text)
    }
}

impl<R: BufRead> Iterator for Table<R> {
    type Item = Result<Connection, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.advance() {
            Ok(false) => None,
            Ok(true) => {
                let connection = match self.source.has_origin() {
                    true => Connection::parse_with_origin(&self.line),
                    false => Connection::parse(&self.line),
                };
                Some(connection.map_err(|error| self.malformed(&error.to_string())))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

/// Reads to the end of a line, whatever its length, and keeps nothing of it.
fn skip_line(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let mut piece = Vec::new();
        reader.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut piece)?;
        if piece.len() as u64 != LINE_LIMIT || piece.last() == Some(&b'\n') {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: &str =
        "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n";
    const SYNC_HEADER: &str =
        "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Origin Expires\n";
    const GOOD: &str = "TCP AC110005 B9C4 0A0000B9 0050 AC110004 0050 ESTABLISHED     899\n";

    fn read(text: impl AsRef<[u8]>) -> Vec<Result<Connection, Error>> {
        Table::new(text.as_ref(), Source::PLAIN).expect("the header is well-formed").collect()
    }

    #[test]
    fn empty_table() {
        assert!(read(HEADER).is_empty());
    }

    #[test]
    fn both_files() {
        let all = read(format!("{HEADER}{GOOD}"));
        assert!(all[0].as_ref().is_ok_and(|connection| connection.origin.is_none()));
        let line = "TCP AC110005 B9C4 0A0000B9 0050 AC110004 0050 ESTABLISHED LOCAL      899";
        let text = format!("{SYNC_HEADER}{line}\n");
        let table = Table::new(text.as_bytes(), Source::WITH_ORIGIN).unwrap();
        assert!(table.flatten().all(|connection| connection.origin.is_some()));
    }

    #[test]
    fn a_malformed_line_is_named_and_the_next_one_comes() {
        let bad = "TCP AC110005 +9C4 0A0000B9 0050 AC110004 0050 ESTABLISHED 899";
        let mut all = read(format!("{HEADER}{GOOD}{bad}\n{GOOD}"));
        assert_eq!(all.len(), 3);
        assert!(all.pop().is_some_and(|last| last.is_ok()));
        let error = all.pop().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert!(error.to_string().contains("line 3: column FPrt "), "{error}");
        let long = "x".repeat(5000);
        let all = read(format!("{HEADER}{long}\n{GOOD}"));
        assert!(
            all[0].as_ref().is_err_and(|error| error.to_string().contains("line 2: it is longer"))
        );
        assert!(all[1].is_ok() && all.len() == 2);
    }

    #[test]
    fn other_columns_are_refused() {
        let full_nat =
            "Pro FromIP   FPrt ToIP     TPrt LocalIP  LPrt DestIP   DPrt State       Expires\n";
        for header in ["", "Pro\n", full_nat, SYNC_HEADER] {
            let error = Table::new(header.as_bytes(), Source::PLAIN).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed, "{header}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            let mut text = HEADER.as_bytes().to_vec();
            text.extend_from_slice(&bytes);
            let lines = bytes.split(|&byte| byte == b'\n').count();
            prop_assert!(read(&text).len() <= lines);
        }
    }
}
