//! The same client without async.
//!
//! ```no_run
//! use ipvs_client::blocking::Client;
//!
//! let client = Client::connect()?;
//! println!("IPVS {}", client.info()?.version);
//! # Ok::<(), ipvs_client::Error>(())
//! ```

use std::{
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipvs_packet::{
    DaemonEntry, DaemonRole, Destination, DestinationEntry, DestinationKey, Info, Reply, Request,
    Service, ServiceEntry, ServiceKey, SyncDaemon, Timeouts,
};

use crate::{
    BatchOptions, Error, ErrorKind, ServiceSnapshot, Snapshot, Socket,
    line::Line,
    namespace::Namespace,
    observe::observe,
    snapshot::{self, Taking},
    verbs::{self, no_destination, only, pick, verbs},
};

/// A blocking client of the kernel's IPVS in one network namespace.
///
/// Clones are cheap and share two sockets, one for batches and snapshots and one for all other calls;
/// on each, calls are carried out one after the other. The kernel
/// answers within the system call that asks, so nothing waits for an answer: one that is not there
/// then is an error, [`Malformed`](ErrorKind::Malformed).
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    calls: Mutex<Line>,
    bulk: Mutex<Line>,
    namespace: Arc<Namespace>,
}

impl Client {
    /// Connects to IPVS in the network namespace of the calling thread.
    ///
    /// The kernel is made to load ip_vs if it can.
    ///
    /// # Errors
    ///
    /// [`NotAvailable`](ErrorKind::NotAvailable) when the kernel has no IPVS;
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) without `CAP_NET_ADMIN` in the initial
    /// user namespace.
    pub fn connect() -> Result<Self, Error> {
        Socket::open().map(Self::from_socket)
    }

    /// Connects to IPVS in another network namespace, given by a file descriptor of it, such as
    /// `/run/netns/blue` or `/proc/1234/ns/net` opened for reading. Otherwise as
    /// [`connect`](Self::connect).
    pub fn connect_in(namespace: impl AsFd) -> Result<Self, Error> {
        Socket::open_in(namespace).map(Self::from_socket)
    }

    /// A client on a socket.
    pub fn from_socket(socket: Socket) -> Self {
        let bulk = Mutex::new(Line::new(socket.bulk, socket.calls.family));
        let calls = Mutex::new(socket.calls);
        Self { shared: Arc::new(Shared { calls, bulk, namespace: socket.namespace }) }
    }

    fn bulk(&self) -> MutexGuard<'_, Line> {
        // A line whose user panicked is as good as any: leftover answers are told by their numbers.
        self.shared.bulk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn namespace(&self) -> &Arc<Namespace> {
        &self.shared.namespace
    }

    fn run<T>(
        &self,
        request: &Request,
        pick: impl Fn(Reply) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        self.shared.calls.lock().unwrap_or_else(PoisonError::into_inner).run(request, pick)
    }
}

/// Where the async client lets other tasks run.
fn pause(_: &mut usize, _: usize) {}

verbs!(Client, [], []);
observe!(Client);
