//! What runs behind an async client: the socket, and what callers left half-way.

use std::{
    future::{Future, ready},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::BufMut;
use futures_channel::mpsc::{self, UnboundedSender};
use futures_util::{
    FutureExt, StreamExt,
    future::{Either, select},
    stream::BoxStream,
};
use ipvs_packet::{Reply, Request};
use netlink_packet_core::NetlinkMessage;
use netlink_proto::{ConnectionHandle, sys::SocketAddr};
use netlink_sys::{AsyncSocket, Socket};
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, watch};

use crate::{
    Error,
    error::{Operation, errno},
    exchange::Exchange,
    wire::{self, Codec, Raw},
};

/// How many requests may wait for their answers at one time; further callers queue for a place.
///
/// An acknowledgement takes up to 832 bytes of the receive buffer, an entry some 2 KiB, and a dump
/// half the buffer at most: with 212,992 bytes, Linux's default, nothing overflows.
const IN_FLIGHT: usize = 48;

/// Drives a [`Client`](crate::Client)'s socket. A future that ends when the last clone of the
/// client is gone, or when the socket fails; dropping it earlier fails every call with
/// [`ErrorKind::Closed`](crate::ErrorKind::Closed). Batches, snapshots and what is read in /proc do
/// without a driver.
#[must_use = "a client answers only while its driver is polled: spawn it"]
pub struct Driver(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.poll_unpin(context)
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

/// The callers' end of a driver.
#[derive(Debug)]
pub(crate) struct Link {
    handle: ConnectionHandle<Raw>,
    /// Places for requests in flight.
    places: Arc<Semaphore>,
    /// The one dump that a socket can have.
    dump: Arc<Mutex<()>>,
    /// Counts overruns.
    overruns: watch::Receiver<u64>,
    /// Where exchanges go whose callers went away.
    orphans: UnboundedSender<InFlight>,
}

/// Makes a link and the driver behind it out of a socket.
pub(crate) fn new<S>(socket: S) -> (Link, Driver)
where
    S: AsyncSocket + Send + 'static,
{
    let (overrun_sender, overruns) = watch::channel(0);
    let (mut connection, handle, unsolicited) = netlink_proto::from_socket_with_codec::<
        Raw,
        _,
        Codec,
    >(Watched { socket, overruns: overrun_sender });
    connection.set_forward_ack(true);
    connection.set_forward_done(true);
    let (orphan_sender, orphans) = mpsc::unbounded();
    let ignore_unsolicited = unsolicited.for_each(|(message, _)| {
        log::debug!("IPVS netlink socket: not an answer to a request: {message:?}");
        ready(())
    });
    // Ends when the last link, which is the last sender, is gone and everything is taken in.
    let drain_orphans = orphans.for_each_concurrent(None, InFlight::drain);
    let driver = async move {
        select(connection, select(ignore_unsolicited, pin!(drain_orphans))).await;
    };
    let link = Link {
        handle,
        places: Arc::new(Semaphore::new(IN_FLIGHT)),
        dump: Arc::default(),
        overruns,
        orphans: orphan_sender,
    };
    (link, Driver(Box::pin(driver)))
}

impl Link {
    /// Sends a request to a family and waits for its answers.
    ///
    /// Dropping the future half-way gives the exchange to the driver, which takes in the rest of
    /// its answers before another may have its place.
    pub(crate) async fn exchange(
        &self,
        family: u16,
        request: &Request,
    ) -> Result<Vec<Reply>, Error> {
        let closed = || Error::closed(Operation(request));
        let exchange = Exchange::new(request.clone());
        // First the dump's turn, then a place: dumps that wait for their turn take no place.
        let dump = match exchange.is_dump() {
            true => Some(Arc::clone(&self.dump).lock_owned().await),
            false => None,
        };
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| closed())?;
        let overruns = self.overruns.clone();
        let messages: Vec<_> =
            exchange.requests().map(|request| wire::message(family, request)).collect();
        let stream = self
            .handle
            .request_batch(messages, SocketAddr::new(0, 0))
            .map_err(|_| closed())?
            .boxed();
        let in_flight =
            InFlight { exchange, replies: Vec::new(), stream, overruns, _holds: (place, dump) };
        let mut guard = Guard { in_flight: Some(in_flight), orphans: &self.orphans };
        guard.end().await?;
        match guard.in_flight.take() {
            Some(InFlight { exchange, replies, .. }) => exchange.finish().map(|()| replies),
            None => Err(closed()),
        }
    }
}

/// An exchange under way, with what it holds of the socket.
struct InFlight {
    exchange: Exchange,
    replies: Vec<Reply>,
    stream: BoxStream<'static, NetlinkMessage<Raw>>,
    overruns: watch::Receiver<u64>,
    _holds: (OwnedSemaphorePermit, Option<OwnedMutexGuard<()>>),
}

impl InFlight {
    /// Takes in answers to the last.
    async fn end(&mut self) -> Result<(), Error> {
        loop {
            let mut overruns = self.overruns.clone();
            let overrun = pin!(overruns.changed());
            // Answers that did arrive come first.
            match select(self.stream.next(), overrun).await {
                Either::Left((Some(message), _)) => {
                    if !self.exchange.take(&message, |reply| self.replies.push(reply)) {
                        continue;
                    }
                    // A list of which something was dropped has its end all the same.
                    let whole = !self.exchange.is_dump() || !self.overran();
                    return if whole { Ok(()) } else { Err(self.exchange.overrun()) };
                }
                Either::Right((Ok(()), _)) => return Err(self.exchange.overrun()),
                Either::Left((None, _)) if self.overruns.has_changed().is_ok() => {
                    return Err(self.exchange.cut_short());
                }
                Either::Left((None, _)) | Either::Right((Err(_), _)) => {
                    return Err(self.exchange.closed());
                }
            }
        }
    }

    /// Whether answers were dropped since it began.
    fn overran(&self) -> bool {
        self.overruns.has_changed().unwrap_or(false)
    }

    /// Takes in answers to the last, which nobody waits for.
    async fn drain(mut self) {
        let _ = self.end().await;
    }
}

/// Sees to it that an exchange whose caller goes away is taken to its end.
struct Guard<'a> {
    in_flight: Option<InFlight>,
    orphans: &'a UnboundedSender<InFlight>,
}

impl Guard<'_> {
    /// Takes in answers to the last. A failed exchange is over.
    async fn end(&mut self) -> Result<(), Error> {
        if let Some(in_flight) = &mut self.in_flight {
            if let Err(error) = in_flight.end().await {
                self.in_flight = None;
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(in_flight) = self.in_flight.take() {
            // Without a driver there is nothing left to take in.
            let _ = self.orphans.unbounded_send(in_flight);
        }
    }
}

/// A socket that counts overruns before anything that was read after them is passed on.
struct Watched<S> {
    socket: S,
    overruns: watch::Sender<u64>,
}

impl<S: AsyncSocket> AsyncSocket for Watched<S> {
    fn socket_ref(&self) -> &Socket {
        self.socket.socket_ref()
    }

    fn socket_mut(&mut self) -> &mut Socket {
        self.socket.socket_mut()
    }

    fn new(protocol: isize) -> io::Result<Self> {
        Ok(Self { socket: S::new(protocol)?, overruns: watch::channel(0).0 })
    }

    fn poll_send(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.socket.poll_send(context, bytes)
    }

    fn poll_send_to(
        &self,
        context: &mut Context<'_>,
        bytes: &[u8],
        address: &SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_send_to(context, bytes, address)
    }

    fn poll_recv<B: BufMut>(
        &self,
        context: &mut Context<'_>,
        buffer: &mut B,
    ) -> Poll<io::Result<()>> {
        self.poll_recv_from(context, buffer).map_ok(drop)
    }

    fn poll_recv_from<B: BufMut>(
        &self,
        context: &mut Context<'_>,
        buffer: &mut B,
    ) -> Poll<io::Result<SocketAddr>> {
        let read = std::task::ready!(self.socket.poll_recv_from(context, buffer));
        if read.as_ref().is_err_and(|error| error.raw_os_error() == Some(errno::NOBUFS)) {
            self.overruns.send_modify(|count| *count += 1);
        }
        Poll::Ready(read)
    }

    fn poll_recv_from_full(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<(Vec<u8>, SocketAddr)>> {
        self.socket.poll_recv_from_full(context)
    }
}
