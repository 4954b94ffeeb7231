//! What was received and not yet read.

use std::{
    collections::VecDeque,
    io::{self, IoSliceMut},
    ops::Range,
    os::fd::AsRawFd,
};

use netlink_packet_core::NetlinkMessage;
use netlink_sys::Socket as NetlinkSocket;
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg};

use crate::{error::errno, socket::uninterrupted, wire};

/// The kernel makes none longer.
const DATAGRAM: usize = 32 * 1024;
/// How many datagrams one system call takes in at most: system calls are what takes the time. A
/// list is one datagram for each 90 entries or so, and one for its end.
const DATAGRAMS: usize = 2;

/// A socket's receive buffer on our side.
#[derive(Default)]
pub(crate) struct Inbox {
    /// Room for so many datagrams, one after the other; empty until it is used.
    room: Vec<u8>,
    /// What of the room is received and not yet read, datagram by datagram.
    unread: VecDeque<Range<usize>>,
}

impl Inbox {
    /// The next message; `None` when there is no other.
    ///
    /// # Errors
    ///
    /// ENOBUFS where the kernel dropped answers or a datagram does not fit; the next call goes on
    /// behind it.
    pub(crate) fn next(
        &mut self,
        netlink: &NetlinkSocket,
    ) -> io::Result<Option<NetlinkMessage<&[u8]>>> {
        while self.unread.front().is_none_or(Range::is_empty) {
            self.unread.pop_front();
            if self.unread.is_empty() && !self.receive(netlink)? {
                return Ok(None);
            }
        }
        let Some(datagram) = self.unread.front_mut() else { return Ok(None) };
        let bytes = &self.room[datagram.clone()];
        let first = wire::first(bytes);
        // Behind one that cannot be read, nothing can.
        datagram.start = match &first {
            Ok(message) => datagram.start + wire::step(message.header.length, bytes),
            Err(_) => datagram.end,
        };
        first.map(Some)
    }

    /// Takes in datagrams. Returns whether there were any.
    fn receive(&mut self, netlink: &NetlinkSocket) -> io::Result<bool> {
        if self.room.is_empty() {
            // Not `resize`, which would touch all of it.
            self.room = vec![0; DATAGRAMS * DATAGRAM];
        }
        let received = uninterrupted(|| {
            let mut slices: Vec<_> =
                self.room.chunks_exact_mut(DATAGRAM).map(|room| [IoSliceMut::new(room)]).collect();
            let mut headers = MultiHeaders::<()>::preallocate(DATAGRAMS, None);
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
            let received = recvmmsg(netlink.as_raw_fd(), &mut headers, &mut slices, flags, None)?;
            Ok(received.map(|datagram| datagram.bytes).collect::<Vec<_>>())
        });
        let lengths = match received {
            Ok(lengths) => lengths,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        // One that was cut is as bad as one that was dropped; those before it count.
        for (number, &length) in lengths.iter().enumerate() {
            if length > DATAGRAM {
                return Err(io::Error::from_raw_os_error(errno::NOBUFS));
            }
            let start = number * DATAGRAM;
            self.unread.push_back(start..start + length);
        }
        Ok(true)
    }
}
