//! Datagrams that were received and not yet read.

use std::{
    collections::VecDeque,
    io::{self, IoSliceMut},
    ops::Range,
    os::fd::AsRawFd,
};

use netlink_packet_core::NetlinkMessage;
use netlink_sys::Socket as NetlinkSocket;
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, MultiHeaders, recvmmsg},
};

use crate::{message, uninterrupted};

/// Longest datagram of the kernel, in bytes.
const DATAGRAM: usize = 32 * 1024;
/// How many datagrams one system call takes in at most: system calls are what takes the time. A
/// list is one datagram for each 90 entries or so, and one for its end.
const DATAGRAMS: usize = 2;
const NOBUFS: i32 = Errno::ENOBUFS as i32;

/// A socket's receive buffer on our side.
#[derive(Default)]
pub(crate) struct Inbox {
    /// Room for so many datagrams, one after the other; empty until it is used.
    room: Vec<u8>,
    /// What of the room is received and not yet read, datagram by datagram.
    unread: VecDeque<Range<usize>>,
    /// How many datagrams were begun to be read.
    begun: u64,
}

impl Inbox {
    /// The next message; `None` when there is no other.
    ///
    /// # Errors
    ///
    /// ENOBUFS where the kernel dropped answers or a datagram does not fit, and what of a datagram
    /// is no message; the next call goes on behind it.
    pub(crate) fn next(
        &mut self,
        netlink: &NetlinkSocket,
    ) -> io::Result<Option<NetlinkMessage<&[u8]>>> {
        while self.unread.front().is_none_or(Range::is_empty) {
            self.unread.pop_front();
            if self.unread.is_empty() && !self.receive(netlink)? {
                return Ok(None);
            }
            self.begun += 1;
        }
        let Some(datagram) = self.unread.front_mut() else { return Ok(None) };
        let bytes = &self.room[datagram.clone()];
        let first = message::first(bytes);
        // Behind one that cannot be read, nothing can.
        datagram.start = match &first {
            Ok(message) => datagram.start + message::step(message.header.length, bytes),
            Err(_) => datagram.end,
        };
        first.map(Some)
    }

    /// The number of the datagram in which the last message came.
    pub(crate) fn datagram(&self) -> u64 {
        self.begun
    }

    /// Receives all waiting datagrams, and discards them.
    pub(crate) fn clear(&mut self, netlink: &NetlinkSocket) {
        self.unread.clear();
        // After an overrun there may be more; any other error is the end.
        while match self.receive(netlink) {
            Ok(more) => more,
            Err(error) => error.raw_os_error() == Some(NOBUFS),
        } {
            self.unread.clear();
        }
    }

    /// Receives datagrams. Returns whether there were any.
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
        let mut cut = false;
        for (number, &length) in lengths.iter().enumerate() {
            let start = number * DATAGRAM;
            match length {
                ..=DATAGRAM => self.unread.push_back(start..start + length),
                _ => cut = true,
            }
        }
        // Reported at once, like a dropped datagram.
        if cut {
            return Err(io::Error::from_raw_os_error(NOBUFS));
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NetlinkPayload;
    use netlink_sys::{SocketAddr, protocols::NETLINK_USERSOCK};
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Two programs' sockets: what the first sends, the second receives.
    struct Pair {
        sender: NetlinkSocket,
        receiver: NetlinkSocket,
        to: SocketAddr,
        inbox: Inbox,
    }

    impl Pair {
        fn new() -> Self {
            let sender = NetlinkSocket::new(NETLINK_USERSOCK).unwrap();
            let mut receiver = NetlinkSocket::new(NETLINK_USERSOCK).unwrap();
            let to = receiver.bind_auto().unwrap();
            Self { sender, receiver, to, inbox: Inbox::default() }
        }

        fn send(&self, datagram: &[u8]) {
            self.sender.send_to(datagram, &self.to, 0).unwrap();
        }

        /// The sequence number and payload of the next message, if any.
        fn next(&mut self) -> io::Result<Option<(u32, Vec<u8>)>> {
            let message = self.inbox.next(&self.receiver)?;
            Ok(message.map(|message| {
                let NetlinkPayload::InnerMessage(answer) = message.payload else {
                    panic!("not an answer: {message:?}")
                };
                (message.header.sequence_number, answer.to_vec())
            }))
        }
    }

    fn message(sequence: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(34u16.to_ne_bytes());
        bytes.extend(0u16.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn messages_come_in_order_and_nothing_is_waited_for() {
        let mut pair = Pair::new();
        assert_eq!(pair.next().unwrap(), None);
        for first in [1, 3, 5, 7, 9] {
            pair.send(&[message(first, b"odd"), message(first + 1, &[])].concat());
        }
        for sequence in 1..=10 {
            let payload = if sequence % 2 == 1 { b"odd".to_vec() } else { Vec::new() };
            assert_eq!(pair.next().unwrap(), Some((sequence, payload)));
        }
        assert_eq!(pair.next().unwrap(), None);
    }

    #[test]
    fn a_broken_message_is_reported_and_ends_its_datagram_only() {
        for broken in [&[1, 2, 3][..], &4u32.to_ne_bytes(), &message(2, &[0; 64])[..40]] {
            let mut pair = Pair::new();
            pair.send(&[&message(1, b"well"), broken].concat());
            pair.send(&message(3, b"well"));
            assert_eq!(pair.next().unwrap(), Some((1, b"well".to_vec())));
            assert_eq!(pair.next().unwrap_err().kind(), io::ErrorKind::InvalidData);
            assert_eq!(pair.next().unwrap(), Some((3, b"well".to_vec())));
            assert_eq!(pair.next().unwrap(), None);
        }
    }

    #[test]
    fn what_is_cleared_is_not_read() {
        let mut pair = Pair::new();
        (1..=2).for_each(|sequence| pair.send(&message(sequence, &[0; DATAGRAM - 12])));
        (1..=9).for_each(|sequence| pair.send(&message(sequence, &[])));
        pair.inbox.clear(&pair.receiver);
        assert_eq!(pair.next().unwrap(), None);
        pair.send(&message(10, &[]));
        assert_eq!(pair.next().unwrap(), Some((10, Vec::new())));
    }

    #[test]
    fn a_datagram_that_was_cut_is_reported() {
        let mut pair = Pair::new();
        pair.send(&message(1, &[0; DATAGRAM - 16]));
        pair.send(&message(2, &[0; DATAGRAM - 12]));
        pair.send(&message(3, &[]));
        assert_eq!(pair.next().unwrap_err().raw_os_error(), Some(NOBUFS));
        assert_eq!(pair.next().unwrap().unwrap().0, 1);
        assert_eq!(pair.next().unwrap(), Some((3, Vec::new())));
    }

    proptest! {
        /// Whatever comes, it ends.
        #[test]
        fn any_datagrams_end(datagrams in vec(vec(any::<u8>(), 1..200), 0..6)) {
            let mut pair = Pair::new();
            datagrams.iter().for_each(|datagram| pair.send(datagram));
            let bytes: usize = datagrams.iter().map(Vec::len).sum();
            // A message takes four bytes at least.
            let ends = (0..=bytes).any(|_| matches!(pair.inbox.next(&pair.receiver), Ok(None)));
            prop_assert!(ends);
        }
    }
}
