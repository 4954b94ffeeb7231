//! A netlink socket that one caller uses at a time: send, then take in the answers.
//!
//! Everything here is written once for blocking and for async sockets: a line has `send` and
//! `receive`, and the macros make the rest of them.

use std::io;

use bytes::BytesMut;
use ipvs_packet::{Reply, Request};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_sys::{Socket as NetlinkSocket, SocketAddr};
use nix::sys::socket::MsgFlags;

use crate::{
    Error,
    batch::Batch,
    error::{Operation, errno},
    exchange::Exchange,
    retry::{Next, Tries},
    socket::{CONTROL_FAMILY, DATAGRAM, family_number, family_request, receive, uninterrupted},
    wire::{self, Raw},
};

/// Makes the methods of a line.
macro_rules! line {
    ($line:ident, [$($async:ident)?], [$($wait:tt)*]) => {
        impl $line {
            /// Carries out a request, tried again where that helps.
            pub(crate) $($async)? fn run(&mut self, request: &Request) -> Result<Vec<Reply>, Error> {
                let mut tries = Tries::of(request);
                loop {
                    let number = self.family;
                    let mut next = match self.exchange(number, request)$($wait)* {
                        Ok(replies) => return Ok(replies),
                        Err(error) => tries.failed(error),
                    };
                    if let Next::Resolve(error) = next {
                        self.resolve()$($wait)*?;
                        next = tries.found(request, error, self.family != number);
                    }
                    if let Next::Fail(error) = next {
                        return Err(error);
                    }
                }
            }

            /// Looks up the family's number.
            pub(crate) $($async)? fn resolve(&mut self) -> Result<(), Error> {
                let replies = self.exchange(CONTROL_FAMILY, &family_request())$($wait)*;
                self.family = family_number(replies)?;
                Ok(())
            }

            /// Sends a request to a family and takes in its answers.
            $($async)? fn exchange(
                &mut self,
                family: u16,
                request: &Request,
            ) -> Result<Vec<Reply>, Error> {
                let fail = |error| Error::io(Operation(request), error);
                let mut exchange = Exchange::new(request.clone());
                let first = self.sequence.wrapping_add(1);
                let mut datagram = Vec::new();
                for mut message in exchange.messages(family) {
                    self.sequence = self.sequence.wrapping_add(1);
                    message.header.sequence_number = self.sequence;
                    let start = datagram.len();
                    datagram.resize(start + message.buffer_len(), 0);
                    message.serialize(&mut datagram[start..]);
                }
                self.send(&datagram)$($wait)*.map_err(fail)?;
                loop {
                    let message = self.receive()$($wait)*.map_err(fail)?;
                    // Answers to earlier requests, given up half-way, may still be in the queue.
                    let behind = message.header.sequence_number.wrapping_sub(first);
                    let ours = behind <= self.sequence.wrapping_sub(first);
                    let overrun = matches!(message.payload, NetlinkPayload::Overrun(_));
                    if (ours || overrun) && exchange.take(message) {
                        return exchange.finish();
                    }
                }
            }

        }
    };
}

/// Makes the methods of a line that carries out batches.
macro_rules! batch_line {
    ($line:ident, [$($async:ident)?], [$($wait:tt)*]) => {
        impl $line {
            /// Carries out a batch: datagram after datagram, each to its last answer.
            pub(crate) $($async)? fn run_batch(&mut self, batch: &mut Batch<'_, '_>) {
                while batch.next_datagram(self.family, &mut self.sequence) {
                    if let Err(error) = self.run_datagram(batch)$($wait)* {
                        batch.broken(&error);
                        return;
                    }
                    if batch.lost_family() {
                        let number = self.family;
                        if self.resolve()$($wait)*.is_ok() && self.family != number {
                            batch.again();
                        }
                    }
                    batch.tell();
                }
            }

            $($async)? fn run_datagram(&mut self, batch: &mut Batch<'_, '_>) -> io::Result<()> {
                self.send(batch.datagram())$($wait)*?;
                loop {
                    match self.receive()$($wait)* {
                        Ok(message) if matches!(message.payload, NetlinkPayload::Overrun(_)) => {
                            batch.overrun();
                        }
                        Ok(message) => {
                            if batch.take(&message) {
                                return Ok(());
                            }
                            continue;
                        }
                        Err(error) if error.raw_os_error() == Some(errno::NOBUFS) => batch.overrun(),
                        Err(error) => return Err(error),
                    }
                    // Answers were dropped, and more will be until the queue is empty. All that
                    // there are were queued before `send` returned.
                    while let Some(message) = self.leftover()? {
                        batch.take(&message);
                    }
                    return Ok(());
                }
            }

            /// A message that is there already.
            fn leftover(&mut self) -> io::Result<Option<NetlinkMessage<Raw>>> {
                loop {
                    if let Some(message) = wire::next_message(&mut self.buffer)? {
                        return Ok(Some(message));
                    }
                    self.buffer.reserve(DATAGRAM);
                    let flags = MsgFlags::MSG_DONTWAIT;
                    let (netlink, buffer) = self.parts();
                    match uninterrupted(|| receive(netlink, buffer, flags)) {
                        Ok(_) => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                        Err(error) if error.raw_os_error() == Some(errno::NOBUFS) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    };
}

/// A line that blocks.
#[derive(Debug)]
pub(crate) struct BlockingLine {
    netlink: NetlinkSocket,
    /// The number that the kernel gave to the family.
    pub(crate) family: u16,
    sequence: u32,
    buffer: BytesMut,
}

impl BlockingLine {
    pub(crate) fn new(netlink: NetlinkSocket, family: u16) -> Self {
        Self { netlink, family, sequence: 0, buffer: BytesMut::new() }
    }

    #[cfg(feature = "_async")]
    pub(crate) fn into_netlink(self) -> NetlinkSocket {
        self.netlink
    }

    pub(crate) fn netlink(&self) -> &NetlinkSocket {
        &self.netlink
    }

    #[cfg(feature = "blocking")]
    fn parts(&mut self) -> (&NetlinkSocket, &mut BytesMut) {
        (&self.netlink, &mut self.buffer)
    }

    fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        let kernel = SocketAddr::new(0, 0);
        uninterrupted(|| self.netlink.send_to(datagram, &kernel, 0)).map(drop)
    }

    /// The next message, from the datagram at hand or from a new one.
    fn receive(&mut self) -> io::Result<NetlinkMessage<Raw>> {
        loop {
            if let Some(message) = wire::next_message(&mut self.buffer)? {
                return Ok(message);
            }
            self.buffer.reserve(DATAGRAM);
            uninterrupted(|| receive(&self.netlink, &mut self.buffer, MsgFlags::empty()))?;
        }
    }
}

line!(BlockingLine, [], []);
#[cfg(feature = "blocking")]
batch_line!(BlockingLine, [], []);

#[cfg(feature = "_async")]
mod on_runtime {
    use std::future::poll_fn;

    use netlink_sys::AsyncSocket;

    use super::*;
    use crate::runtime::RuntimeSocket;

    /// A line on an async runtime.
    pub(crate) struct AsyncLine {
        socket: RuntimeSocket,
        /// The number that the kernel gave to the family.
        pub(crate) family: u16,
        sequence: u32,
        buffer: BytesMut,
    }

    impl AsyncLine {
        pub(crate) fn new(socket: RuntimeSocket, family: u16) -> Self {
            Self { socket, family, sequence: 0, buffer: BytesMut::new() }
        }

        pub(crate) fn netlink(&self) -> &NetlinkSocket {
            self.socket.socket_ref()
        }

        fn parts(&mut self) -> (&NetlinkSocket, &mut BytesMut) {
            (self.socket.socket_ref(), &mut self.buffer)
        }

        async fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
            let kernel = SocketAddr::new(0, 0);
            poll_fn(|context| self.socket.poll_send_to(context, datagram, &kernel)).await?;
            Ok(())
        }

        /// The next message, from the datagram at hand or from a new one.
        async fn receive(&mut self) -> io::Result<NetlinkMessage<Raw>> {
            loop {
                if let Some(message) = wire::next_message(&mut self.buffer)? {
                    return Ok(message);
                }
                self.buffer.reserve(DATAGRAM);
                let Self { socket, buffer, .. } = self;
                poll_fn(|context| socket.poll_recv_from(context, buffer)).await?;
            }
        }
    }

    line!(AsyncLine, [async], [.await]);
    batch_line!(AsyncLine, [async], [.await]);

    impl std::fmt::Debug for AsyncLine {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("AsyncLine").field("family", &self.family).finish_non_exhaustive()
        }
    }
}

#[cfg(feature = "_async")]
pub(crate) use on_runtime::AsyncLine;
