//! A netlink socket that one caller uses at a time, without a driver: send, then receive the answers.
//!
//! The kernel carries out a request within the system call that sends it. When that returns, its answers
//! are in the socket's queue, except the rest of a list, which the kernel makes as the list is read. So nothing
//! waits here: an answer that is not in the queue never comes.

use std::io;

use netlink_packet_core::{NLM_F_MULTIPART, NetlinkMessage, NetlinkPayload};
use netlink_sys::{Socket as NetlinkSocket, SocketAddr};
use nix::{
    errno::Errno,
    sys::socket::{getsockopt, sockopt::SndBuf},
};

use crate::{
    answers::Answers,
    inbox::Inbox,
    message::{Raw, start_message},
    owner::{OtherProcess, Owner},
    uninterrupted,
};

/// A netlink socket to the kernel.
pub struct Socket {
    netlink: NetlinkSocket,
    /// The address that requests go to.
    kernel: SocketAddr,
    owner: Owner,
    sequence: u32,
    inbox: Inbox,
    /// Runs after each datagram, in tests: the other end answers there.
    after_send: Option<Box<dyn FnMut() + Send>>,
}

impl Socket {
    /// Opens a socket of a protocol (`NETLINK_ROUTE`, `NETLINK_GENERIC`) in the network namespace of the
    /// calling thread, to which nobody but the kernel can send.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn open(protocol: isize) -> io::Result<Self> {
        let mut netlink = NetlinkSocket::new(protocol)?;
        netlink.bind_auto()?;
        netlink.connect(&SocketAddr::new(0, 0))?;
        prepare(&netlink)?;
        Ok(Self::with_peer(netlink, SocketAddr::new(0, 0)))
    }

    /// Over a socket whose other end plays the kernel.
    pub fn with_peer(netlink: NetlinkSocket, kernel: SocketAddr) -> Self {
        Self {
            netlink,
            kernel,
            owner: Owner::current(),
            sequence: 0,
            inbox: Inbox::default(),
            after_send: None,
        }
    }

    /// Runs a closure after each datagram: the other end answers there, in tests.
    pub fn after_send(&mut self, answer: Box<dyn FnMut() + Send>) {
        self.after_send = Some(answer);
    }

    /// The socket itself, for its options.
    pub fn netlink(&self) -> &NetlinkSocket {
        &self.netlink
    }

    /// The process that opened it.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Whether the calling process is the one that opened it.
    ///
    /// # Errors
    /// If it is not.
    pub fn check_owner(&self) -> Result<(), OtherProcess> {
        self.owner.check()
    }

    /// The sizes of the receive and the send buffer in bytes; 0 where they are not known.
    pub fn buffers(&self) -> (usize, usize) {
        let receive = self.netlink.get_rx_buf_sz().unwrap_or_default();
        (receive, getsockopt(&self.netlink, SndBuf).unwrap_or_default())
    }

    /// The number of the last message that was sent, from which the next ones are counted.
    pub fn sequence(&mut self) -> &mut u32 {
        &mut self.sequence
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// Those of the system call; a signal is no error.
    pub fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        uninterrupted(|| self.netlink.send_to(datagram, &self.kernel, 0))?;
        if let Some(answer) = &mut self.after_send {
            answer();
        }
        Ok(())
    }

    /// The next message; `None` when there is no other.
    ///
    /// # Errors
    /// ENOBUFS where the kernel dropped answers or a datagram does not fit, and what of a datagram is no
    /// message; the next call goes on behind it.
    pub fn next_message(&mut self) -> io::Result<Option<NetlinkMessage<&[u8]>>> {
        self.inbox.next(&self.netlink)
    }

    /// The number of the datagram in which the last message came.
    pub fn datagram(&self) -> u64 {
        self.inbox.datagram()
    }

    /// Takes in whatever there is, unread: the socket lists nothing else before the rest of a list is
    /// taken in.
    pub fn clear(&mut self) {
        self.inbox.clear(&self.netlink);
    }

    /// Sends requests with their flags in one datagram, and takes in all of their answers.
    pub fn exchange(&mut self, requests: &[(Raw, u16)]) -> Answers {
        let mut answers = Answers::default();
        if let Err(other) = self.check_owner() {
            answers.broken = Some(io::Error::other(other));
            return answers;
        }
        if let Err(error) = self.talk(requests, &mut answers.messages) {
            answers.broken = Some(error);
            self.clear();
        }
        answers
    }

    fn talk(
        &mut self,
        requests: &[(Raw, u16)],
        answers: &mut Vec<NetlinkMessage<Raw>>,
    ) -> io::Result<()> {
        let mut datagram = Vec::new();
        let first = self.sequence.wrapping_add(1);
        for (request, flags) in requests {
            self.sequence = self.sequence.wrapping_add(1);
            let Raw { message_type, bytes } = request;
            start_message(&mut datagram, *message_type, self.sequence, *flags, bytes.len())
                .copy_from_slice(bytes);
        }
        self.send(&datagram)?;
        let mut unanswered = requests.len();
        while unanswered > 0 {
            let Some(NetlinkMessage { header, payload, .. }) = self.inbox.next(&self.netlink)?
            else {
                return Err(no_answer());
            };
            let number = header.sequence_number.wrapping_sub(first) as usize;
            if number >= requests.len() {
                // Answers to what broke off before may still be in the queue.
                continue;
            }
            let payload = match payload {
                NetlinkPayload::InnerMessage(bytes) => NetlinkPayload::InnerMessage(Raw {
                    message_type: header.message_type,
                    bytes: bytes.to_vec(),
                }),
                NetlinkPayload::Done(done) => NetlinkPayload::Done(done),
                NetlinkPayload::Error(error) => NetlinkPayload::Error(error),
                _ => continue,
            };
            let more = header.flags & NLM_F_MULTIPART != 0
                && matches!(payload, NetlinkPayload::InnerMessage(_));
            unanswered -= usize::from(!more);
            answers.push(NetlinkMessage::new(header, payload));
        }
        Ok(())
    }
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket")
            .field("owner", &self.owner)
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

/// Sets what every socket has: errors carry the kernel's words, and of the request they answer only the
/// header, so that many fit the receive buffer. Kernels before 4.12 have neither.
///
/// # Errors
/// Those of the system calls.
pub fn prepare(netlink: &NetlinkSocket) -> io::Result<()> {
    for result in [netlink.set_ext_ack(true), netlink.set_cap_ack(true)] {
        match result {
            Err(error) if error.raw_os_error() != Some(Errno::ENOPROTOOPT as i32) => {
                return Err(error);
            }
            _ => {}
        }
    }
    Ok(())
}

/// The kernel answers within the call that asks, and there is no answer.
pub fn no_answer() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel did not answer")
}

#[cfg(test)]
mod tests {
    use netlink_sys::protocols::NETLINK_GENERIC;

    use super::*;

    #[test]
    fn nobody_but_the_kernel_is_heard() {
        let ours = Socket::open(NETLINK_GENERIC).unwrap();
        let mut address = SocketAddr::new(0, 0);
        ours.netlink.get_address(&mut address).unwrap();
        let stranger = NetlinkSocket::new(NETLINK_GENERIC).unwrap();
        let error = stranger.send_to(b"believe me", &address, 0).unwrap_err();
        // The second is what others than root get for trying.
        let refusals = [io::ErrorKind::ConnectionRefused, io::ErrorKind::PermissionDenied];
        assert!(refusals.contains(&error.kind()), "{error}");
    }
}
