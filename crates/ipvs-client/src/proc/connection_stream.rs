//! The connection table for async programs.

use std::vec;

use netlink_talk::Owner;
use tokio::sync::mpsc;

use crate::{Connection, Connections, Error, ErrorKind};

/// How many connections travel from the reading thread at a time, and how many such parcels wait.
const PARCEL: usize = 128;
const PARCELS: usize = 2;

impl Connections {
    /// The remaining connections as a stream, for async programs on any runtime. A thread of its own
    /// reads the table, at most 512 connections ahead, and ends when the stream has been read to its
    /// end or is dropped.
    ///
    /// # Errors
    ///
    /// [`LimitReached`](ErrorKind::LimitReached) or [`Os`](ErrorKind::Os) when no thread can be started.
    pub fn stream(self) -> Result<ConnectionStream, Error> {
        let operation = self.operation();
        ConnectionStream::of(self, operation)
    }
}

/// The connection table, connection by connection: see [`Connections::stream`].
#[derive(Debug)]
pub struct ConnectionStream {
    receiver: mpsc::Receiver<Parcel>,
    parcel: vec::IntoIter<Result<Connection, Error>>,
    ended: bool,
    owner: Owner,
    operation: &'static str,
}

/// What travels from the reading thread. The empty one is the end; without it the thread has panicked.
type Parcel = Vec<Result<Connection, Error>>;

impl ConnectionStream {
    fn of(
        mut connections: impl Iterator<Item = Result<Connection, Error>> + Send + 'static,
        operation: &'static str,
    ) -> Result<Self, Error> {
        let (sender, receiver) = mpsc::channel(PARCELS);
        let read = move || {
            loop {
                let parcel: Parcel = connections.by_ref().take(PARCEL).collect();
                let ends = parcel.is_empty();
                // Nobody waits for it any more: that is how a stream is dropped.
                if sender.blocking_send(parcel).is_err() || ends {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("ipvs-connections".to_owned())
            .spawn(read)
            .map_err(|error| Error::thread(operation, error))?;
        let parcel = Vec::new().into_iter();
        Ok(Self { receiver, parcel, ended: false, owner: Owner::current(), operation })
    }

    /// The next connection; `None` at the end. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Connection, Error>> {
        loop {
            if let Some(connection) = self.parcel.next() {
                return Some(connection);
            }
            if self.ended {
                return None;
            }
            // A child of `fork` does not have the thread that reads.
            if let Err(other) = self.owner.check() {
                self.ended = true;
                return Some(Err(Error::other_process(self.operation, other)));
            }
            match self.receiver.recv().await {
                Some(parcel) => {
                    self.ended = parcel.is_empty();
                    self.parcel = parcel.into_iter();
                }
                None => {
                    self.ended = true;
                    let text = "the thread that reads it has panicked";
                    return Some(Err(Error::new(ErrorKind::Os, self.operation, text)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use super::*;

    fn connection() -> Result<Connection, Error> {
        let line = b"TCP AC110005 B9C4 0A0000B9 0050 AC110004 0050 ESTABLISHED     899";
        Ok(Connection::parse(line).unwrap())
    }

    #[tokio::test]
    async fn a_thread_that_panics_is_no_end() {
        let connections =
            (0..200).map(|number| if number == 150 { panic!("a test's") } else { connection() });
        let mut stream = ConnectionStream::of(connections, "reading").unwrap();
        let mut count = 0;
        let error = loop {
            match stream.next().await {
                Some(Ok(_)) => count += 1,
                Some(Err(error)) => break error,
                None => panic!("it just ended"),
            }
        };
        assert_eq!(count, 128);
        assert!(error.to_string().contains("panicked"), "{error}");
        assert!(stream.next().await.is_none());

        let mut stream = ConnectionStream::of((0..200).map(|_| connection()), "reading").unwrap();
        for _ in 0..200 {
            assert!(stream.next().await.unwrap().is_ok());
        }
        assert!(stream.next().await.is_none());
    }
}
