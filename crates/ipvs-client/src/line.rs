//! A netlink socket that one caller uses at a time: send, then take in the answers.
//!
//! The kernel carries a request out within the system call that sends it. When that returns, its
//! answers are in the socket's queue, but for the rest of a list, which is made as the list is read.
//! So nothing here waits, in the async client either: an answer that is not there never comes.

use std::io;

use ipvs_packet::{Reply, Request};
use netlink_sys::{Socket as NetlinkSocket, SocketAddr};
use nix::sys::socket::{getsockopt, sockopt::SndBuf};

use crate::{
    Error,
    batch::{Batch, BatchOptions},
    error::{Operation, errno},
    exchange::Exchange,
    inbox::Inbox,
    retry::{Next, Tries},
    socket::{CONTROL_FAMILY, family_number, family_request, uninterrupted},
    wire,
};

/// A socket and the state of the talk over it.
pub(crate) struct Line {
    netlink: NetlinkSocket,
    /// Whom requests go to.
    pub(crate) kernel: SocketAddr,
    /// The number that the kernel gave to the family.
    pub(crate) family: u16,
    sequence: u32,
    outgoing: Vec<u8>,
    inbox: Inbox,
}

impl Line {
    pub(crate) fn new(netlink: NetlinkSocket, family: u16) -> Self {
        Self {
            netlink,
            kernel: SocketAddr::new(0, 0),
            family,
            sequence: 0,
            outgoing: Vec::new(),
            inbox: Inbox::default(),
        }
    }

    #[cfg(feature = "_async")]
    pub(crate) fn into_netlink(self) -> NetlinkSocket {
        self.netlink
    }

    pub(crate) fn netlink(&self) -> &NetlinkSocket {
        &self.netlink
    }

    /// Carries out a request, tried again where that helps, and returns what `pick` keeps of the
    /// replies.
    pub(crate) fn run<T>(
        &mut self,
        request: &Request,
        pick: impl Fn(Reply) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let mut tries = Tries::of(request);
        loop {
            let number = self.family;
            let mut next = match self.exchange(number, request, &pick) {
                Ok(replies) => return Ok(replies),
                Err(error) => tries.failed(error),
            };
            if let Next::Resolve(error) = next {
                self.resolve()?;
                next = tries.found(request, error, self.family != number);
            }
            if let Next::Fail(error) = next {
                return Err(error);
            }
        }
    }

    /// Looks up the family's number.
    pub(crate) fn resolve(&mut self) -> Result<(), Error> {
        let replies = self.exchange(CONTROL_FAMILY, &family_request(), Some);
        self.family = family_number(replies)?;
        Ok(())
    }

    /// Sends a request to a family and takes in its answers.
    fn exchange<T>(
        &mut self,
        family: u16,
        request: &Request,
        pick: impl Fn(Reply) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let mut picked = Vec::new();
        let fail = |error| Error::io(Operation(request), error);
        let mut exchange = Exchange::new(request.clone());
        let first = self.sequence.wrapping_add(1);
        self.outgoing.clear();
        for request in exchange.requests() {
            self.sequence = self.sequence.wrapping_add(1);
            wire::append(&mut self.outgoing, family, self.sequence, request.flags(), request);
        }
        send(&self.netlink, self.kernel, &self.outgoing).map_err(fail)?;
        loop {
            let message = match self.inbox.next(&self.netlink) {
                Ok(Some(message)) => message,
                Ok(None) => return Err(fail(no_answer())),
                Err(error) => {
                    // The socket lists nothing else before the rest of a list is taken in.
                    self.inbox.clear(&self.netlink);
                    return Err(fail(error));
                }
            };
            // Answers to a batch that broke off may still be in the queue.
            let behind = message.header.sequence_number.wrapping_sub(first);
            let ours = behind <= self.sequence.wrapping_sub(first);
            let hand_on = |reply| picked.extend(pick(reply));
            if ours && exchange.take(&message, hand_on) {
                return exchange.finish().map(|()| picked);
            }
        }
    }

    /// A batch that fits the socket's buffers.
    pub(crate) fn batch<'a, 'b>(
        &self,
        writes: &'a [Request],
        options: BatchOptions<'b>,
    ) -> Batch<'a, 'b> {
        let receive_buffer = self.netlink.get_rx_buf_sz().unwrap_or_default();
        let send_buffer = getsockopt(&self.netlink, SndBuf).unwrap_or_default();
        Batch::new(writes, options, receive_buffer, send_buffer)
    }

    /// Carries out the next datagram of a batch, to its last answer. Returns false when there is
    /// none.
    pub(crate) fn run_next(&mut self, batch: &mut Batch<'_, '_>) -> bool {
        if !batch.next_datagram(self.family, &mut self.sequence) {
            return false;
        }
        if let Err(error) = self.run_datagram(batch) {
            batch.broken(&error);
            return false;
        }
        if batch.lost_family() {
            let number = self.family;
            match self.resolve() {
                Ok(()) if self.family != number => batch.again(),
                Ok(()) => {}
                Err(error) => {
                    batch.gone(&error);
                    return false;
                }
            }
        }
        batch.tell();
        true
    }

    fn run_datagram(&mut self, batch: &mut Batch<'_, '_>) -> io::Result<()> {
        send(&self.netlink, self.kernel, batch.datagram())?;
        let mut overrun = false;
        loop {
            match self.inbox.next(&self.netlink) {
                Ok(Some(message)) => {
                    if batch.take(&message) {
                        return Ok(());
                    }
                    continue;
                }
                // The last answer is among those that were dropped.
                Ok(None) if overrun => return Ok(()),
                Ok(None) => return Err(no_answer()),
                Err(error) if error.raw_os_error() == Some(errno::NOBUFS) => overrun = true,
                Err(error) => return Err(error),
            }
            batch.overrun();
        }
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("family", &self.family).finish_non_exhaustive()
    }
}

fn send(netlink: &NetlinkSocket, kernel: SocketAddr, datagram: &[u8]) -> io::Result<()> {
    uninterrupted(|| netlink.send_to(datagram, &kernel, 0)).map(drop)
}

fn no_answer() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel did not answer")
}
