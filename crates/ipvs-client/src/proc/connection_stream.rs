//! The connection table for async programs.

use std::vec;

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
    /// [`Os`](ErrorKind::Os) when no thread can be started.
    pub fn stream(mut self) -> Result<ConnectionStream, Error> {
        let (sender, receiver) = mpsc::channel(PARCELS);
        let operation = self.operation();
        let read = move || {
            loop {
                let parcel: Vec<_> = self.by_ref().take(PARCEL).collect();
                // Nobody waits for it any more: that is how a stream is dropped.
                if parcel.is_empty() || sender.blocking_send(parcel).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("ipvs-connections".to_owned()).spawn(read).map_err(
            |error| Error::file(operation, ErrorKind::Os, "no thread could be started", error),
        )?;
        Ok(ConnectionStream { receiver, parcel: Vec::new().into_iter() })
    }
}

/// The connection table, connection by connection: see [`Connections::stream`].
#[derive(Debug)]
pub struct ConnectionStream {
    receiver: mpsc::Receiver<Vec<Result<Connection, Error>>>,
    parcel: vec::IntoIter<Result<Connection, Error>>,
}

impl ConnectionStream {
    /// The next connection; `None` at the end. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Connection, Error>> {
        loop {
            if let Some(connection) = self.parcel.next() {
                return Some(connection);
            }
            self.parcel = self.receiver.recv().await?.into_iter();
        }
    }
}
