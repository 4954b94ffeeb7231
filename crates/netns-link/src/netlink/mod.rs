//! Route netlink requests, each of which ends: with its answer, or with an error.

pub(crate) mod attributes;
pub(crate) mod blocking_socket;
#[cfg(test)]
mod faults;
#[cfg(feature = "tokio")]
pub(crate) mod tokio_socket;

use std::{fmt, sync::Arc};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::Socket;
use netlink_talk::{Answers, Failure, Raw};

use self::blocking_socket::BlockingSocket;
#[cfg(feature = "tokio")]
use self::tokio_socket::TokioSocket;
use crate::error::{Error, Operation};

/// How often a listing is tried that changes disturb.
const DUMP_ATTEMPTS: u32 = 10;

/// Messages to a datagram. Each answer takes some 800 bytes of the socket's receive buffer of
/// 208 KiB before it is read, so that all fit.
const BATCH: usize = 128;

/// A route netlink socket of a namespace. Clones share it.
#[derive(Clone, Debug)]
pub(crate) enum Netlink {
    /// For async programs.
    #[cfg(feature = "tokio")]
    Tokio(Arc<TokioSocket>),
    /// For blocking ones: no future over it is ever pending.
    Blocking(Arc<BlockingSocket>),
    #[cfg(test)]
    Scripted(Arc<std::sync::Mutex<faults::Script>>),
}

impl Netlink {
    /// Asks for one object.
    pub(crate) async fn get(
        &self,
        operation: &Operation,
        request: RouteNetlinkMessage,
    ) -> Result<Raw, Error> {
        let answers = self.exchange(vec![(Raw::of(&request), NLM_F_REQUEST)]).await;
        answers.one().map_err(|failure| explained(operation, failure))
    }

    /// Asks for all objects of a kind; again, if a change in the middle disturbed the listing.
    pub(crate) async fn dump(
        &self,
        operation: &Operation,
        request: RouteNetlinkMessage,
    ) -> Result<Vec<Raw>, Error> {
        let request = Raw::of(&request);
        for _ in 0..DUMP_ATTEMPTS {
            let requests = vec![(request.clone(), NLM_F_REQUEST | NLM_F_DUMP)];
            let listed = self.exchange(requests).await.list();
            if let Some(objects) = listed.map_err(|failure| explained(operation, failure))? {
                return Ok(objects);
            }
        }
        Err(Error::interrupted(operation, DUMP_ATTEMPTS))
    }

    /// Makes one change.
    pub(crate) async fn change(&self, change: Change) -> Result<(), Error> {
        self.changes(vec![change]).await.into_iter().collect()
    }

    /// Makes changes in this order, many to a datagram, each whether or not those before it were
    /// refused. The results are in the same order.
    pub(crate) async fn changes(&self, changes: Vec<Change>) -> Vec<Result<(), Error>> {
        let mut results = Vec::with_capacity(changes.len());
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            let (operations, requests): (Vec<_>, Vec<_>) = changes
                .by_ref()
                .take(BATCH)
                .map(|change| {
                    let flags = NLM_F_REQUEST | NLM_F_ACK | change.flags;
                    (change.operation, (Raw::of(&change.request), flags))
                })
                .unzip();
            let outcomes = self.exchange(requests).await.changes(operations.len());
            results.extend(operations.iter().zip(outcomes).map(|(operation, outcome)| {
                outcome.map_err(|failure| explained(operation, failure))
            }));
        }
        results
    }

    /// Sends requests with their flags in one datagram and takes in their answers.
    async fn exchange(&self, requests: Vec<(Raw, u16)>) -> Answers {
        match self {
            #[cfg(feature = "tokio")]
            Self::Tokio(socket) => socket.exchange(requests).await,
            Self::Blocking(socket) => socket.exchange(&requests),
            #[cfg(test)]
            Self::Scripted(script) => {
                let script = script.lock();
                script.map(|mut script| script.exchange(&requests)).unwrap_or_default()
            }
        }
    }
}

/// One change and the words for its failure.
pub(crate) struct Change {
    pub(crate) operation: Operation,
    pub(crate) request: RouteNetlinkMessage,
    /// `NLM_F_CREATE`, `NLM_F_EXCL`, `NLM_F_REPLACE`.
    pub(crate) flags: u16,
}

/// Lists of what was asked for alone. Kernels before 4.20 do not know it and list all, which is sifted
/// here in any case.
fn strict(socket: &Socket) {
    let _ = socket.set_netlink_get_strict_chk(true);
}

/// Why there is no result, in words.
fn explained(operation: &Operation, failure: Failure) -> Error {
    match failure {
        Failure::Refused(error, words) => Error::kernel(operation, error, words),
        Failure::Lost(why) => Error::disconnected(operation, why),
        Failure::Malformed(what) => Error::malformed(operation, what),
        other => Error::malformed(operation, format_args!("{other:?}")),
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.operation.fmt(f)
    }
}
