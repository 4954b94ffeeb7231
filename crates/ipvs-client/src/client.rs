//! The async client.

#[cfg(feature = "tokio")]
use std::os::fd::AsFd;
use std::{
    future::poll_fn,
    io,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    task::Poll,
};

use ipvs_packet::{
    DaemonEntry, DaemonRole, Destination, DestinationEntry, DestinationKey, Info, Reply, Request,
    Service, ServiceEntry, ServiceKey, SyncDaemon, Timeouts,
};
use netlink_sys::Socket as NetlinkSocket;
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    Driver, Error, ErrorKind, ServiceSnapshot, Snapshot, Socket,
    batch::BatchOptions,
    driver::{self, Link},
    line::Line,
    namespace::Namespace,
    observe::observe,
    retry::{Next, Tries},
    runtime::RuntimeSocket,
    snapshot::{self, Taking},
    socket::{CONTROL_FAMILY, family_number, family_request},
    verbs::{self, no_destination, only, pick, verbs},
};

/// A client of the kernel's IPVS in one network namespace.
///
/// Clones are cheap and share two sockets; calls on them may run concurrently, from any task and
/// thread. One socket is for batches and snapshots, which are carried out one after the other. The
/// other is for all other calls, which the kernel carries out in the order in which they were made:
/// at most 48 wait for their answers at a time, and one list at a time is read; further callers
/// queue in the order in which they came. Between the two there is no order: await a call before
/// the batch that needs it.
///
/// Every call may be cancelled by dropping its future, which harms nobody else. What the call asked
/// for may still take effect.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    link: Link,
    family: AtomicU16,
    /// A second socket, for what takes many requests. It never waits, so it needs no driver.
    bulk: Mutex<Line>,
    namespace: Arc<Namespace>,
}

impl Client {
    /// Connects to IPVS in the network namespace of the calling thread, and spawns the driver on
    /// the current tokio runtime.
    ///
    /// The kernel is made to load ip_vs if it can.
    ///
    /// # Errors
    ///
    /// [`NotAvailable`](ErrorKind::NotAvailable) when the kernel has no IPVS;
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) without `CAP_NET_ADMIN` in the initial
    /// user namespace.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O enabled.
    #[cfg(feature = "tokio")]
    pub async fn connect() -> Result<Self, Error> {
        // The socket belongs to the namespace of the thread that makes it: this one.
        let mut socket = Socket::create()?;
        let prepared = tokio::task::spawn_blocking(move || {
            socket.prepare()?;
            Ok(socket)
        });
        Self::spawn(prepared.await.map_err(|error| Error::io("connecting", error.into()))??)
    }

    /// Connects to IPVS in another network namespace, given by a file descriptor of it, such as
    /// `/run/netns/blue` or `/proc/1234/ns/net` opened for reading. Otherwise as
    /// [`connect`](Self::connect).
    #[cfg(feature = "tokio")]
    pub async fn connect_in(namespace: impl AsFd) -> Result<Self, Error> {
        let namespace = namespace
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| Error::io("connecting in a network namespace", error))?;
        let opened = tokio::task::spawn_blocking(move || Socket::open_in(namespace));
        Self::spawn(opened.await.map_err(|error| Error::io("connecting", error.into()))??)
    }

    /// A client on a socket, and the driver that must be polled for it to answer. The driver is a
    /// future of type `()`; spawn it where you like.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O enabled.
    #[cfg(feature = "tokio")]
    pub fn from_socket(socket: Socket) -> Result<(Self, Driver), Error> {
        Self::on_runtime(socket, RuntimeSocket::on_tokio)
    }

    /// A client on a socket, and the driver that must be polled for it to answer, on smol's reactor,
    /// which needs no runtime: whatever polls futures will do. The driver is a future of type `()`;
    /// spawn it where you like.
    #[cfg(feature = "smol")]
    pub fn from_socket_on_smol(socket: Socket) -> Result<(Self, Driver), Error> {
        Self::on_runtime(socket, RuntimeSocket::on_smol)
    }

    fn on_runtime(
        socket: Socket,
        register: impl Fn(NetlinkSocket) -> io::Result<RuntimeSocket>,
    ) -> Result<(Self, Driver), Error> {
        let family = socket.calls.family;
        let bulk = Mutex::new(Line::new(socket.bulk, family));
        let registered = register(socket.calls.into_netlink())
            .map_err(|error| Error::io("registering a netlink socket", error))?;
        let (link, driver) = driver::new(registered);
        let family = AtomicU16::new(family);
        let namespace = socket.namespace;
        Ok((Self { shared: Arc::new(Shared { link, family, bulk, namespace }) }, driver))
    }

    #[cfg(feature = "tokio")]
    fn spawn(socket: Socket) -> Result<Self, Error> {
        let (client, driver) = Self::from_socket(socket)?;
        tokio::spawn(driver);
        Ok(client)
    }

    async fn bulk(&self) -> MutexGuard<'_, Line> {
        self.shared.bulk.lock().await
    }

    fn namespace(&self) -> &Arc<Namespace> {
        &self.shared.namespace
    }

    async fn run<T>(
        &self,
        request: &Request,
        pick: impl Fn(Reply) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let Shared { link, family, .. } = &*self.shared;
        let mut tries = Tries::of(request);
        loop {
            let number = family.load(Ordering::Relaxed);
            let mut next = match link.exchange(number, request).await {
                Ok(replies) => return Ok(replies.into_iter().filter_map(pick).collect()),
                Err(error) => tries.failed(error),
            };
            if let Next::Resolve(error) = next {
                let replies = link.exchange(CONTROL_FAMILY, &family_request()).await;
                let found = family_number(replies)?;
                family.store(found, Ordering::Relaxed);
                next = tries.found(request, error, found != number);
            }
            if let Next::Fail(error) = next {
                return Err(error);
            }
        }
    }
}

/// Lets other tasks run, when enough work was done.
async fn pause(work: &mut usize, more: usize) {
    *work += more;
    if *work < verbs::AT_A_TIME {
        return;
    }
    *work = 0;
    let mut paused = false;
    poll_fn(|context| {
        if std::mem::replace(&mut paused, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

verbs!(Client, [async], [.await]);
observe!(Client);
