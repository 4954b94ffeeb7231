//! A socket that one caller uses at a time, without a driver: send, then take in the answers.
//!
//! The kernel carries a request out within the system call that sends it. When that returns, the
//! answers are in the socket's queue, but for the rest of a list, which is made as the list is
//! read. So nothing waits here: an answer that is not there never comes.

use std::{
    io,
    sync::{Mutex, PoisonError},
};

use netlink_packet_core::{NLM_F_MULTIPART, NetlinkMessage, NetlinkPayload};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::{
    error::Error,
    netlink::{Answers, Raw, prepare},
    netns::NetNs,
    operation::Operation,
};

/// Room for a datagram. The kernel fills at most 32 KiB with a list.
const DATAGRAM: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Direct {
    /// The socket, and the number of the last message that was sent.
    socket: Mutex<(Socket, u32)>,
}

impl Direct {
    pub(crate) fn connect(namespace: &NetNs) -> Result<Self, Error> {
        let socket = namespace
            .run(|| {
                let socket = Socket::new(NETLINK_ROUTE)?;
                // To the kernel: what others send is not received.
                socket.connect(&SocketAddr::new(0, 0))?;
                socket.set_non_blocking(true)?;
                prepare(&socket)?;
                Ok(socket)
            })?
            .map_err(|error: io::Error| {
                Error::system(&Operation::Connect(namespace.to_string()), error)
            })?;
        Ok(Self { socket: Mutex::new((socket, 0)) })
    }

    /// Leaves room for a few answers only.
    #[cfg(test)]
    pub(crate) fn shrink(&self) {
        self.socket.lock().unwrap().0.set_rx_buf_sz(4096_u32).unwrap();
    }

    pub(crate) fn exchange(&self, requests: Vec<NetlinkMessage<Raw>>) -> Answers {
        // Whoever panicked left a socket that works: old answers are told by their numbers.
        let mut guard = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let (socket, sequence) = &mut *guard;
        let mut answers = Answers::default();
        if let Err(error) = talk(socket, sequence, requests, &mut answers.messages) {
            answers.broken = Some(error);
            drain(socket);
        }
        answers
    }
}

fn talk(
    socket: &Socket,
    sequence: &mut u32,
    requests: Vec<NetlinkMessage<Raw>>,
    answers: &mut Vec<NetlinkMessage<Raw>>,
) -> io::Result<()> {
    let mut unanswered = requests.len();
    let count = u32::try_from(unanswered).unwrap_or(u32::MAX);
    let first = sequence.wrapping_add(1);
    let mut datagram = Vec::new();
    for mut request in requests {
        *sequence = sequence.wrapping_add(1);
        request.header.sequence_number = *sequence;
        request.finalize();
        let start = datagram.len();
        // Each message begins at a multiple of four bytes.
        datagram.resize(start + request.buffer_len().next_multiple_of(4), 0);
        request.serialize(&mut datagram[start..]);
    }
    uninterrupted(|| socket.send(&datagram, 0))?;
    let mut room = Vec::with_capacity(DATAGRAM);
    while unanswered > 0 {
        room.clear();
        match uninterrupted(|| socket.recv(&mut room, 0)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the kernel did not answer",
                ));
            }
            received => received?,
        };
        let mut rest = &room[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<Raw>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            if message.header.sequence_number.wrapping_sub(first) < count {
                let more = message.header.flags & NLM_F_MULTIPART != 0
                    && matches!(message.payload, NetlinkPayload::InnerMessage(_));
                unanswered -= usize::from(!more && unanswered > 0);
                answers.push(message);
            }
        }
    }
    Ok(())
}

/// Takes in what is left, so that the next listing is not refused.
fn drain(socket: &Socket) {
    let mut room = Vec::with_capacity(DATAGRAM);
    loop {
        room.clear();
        match uninterrupted(|| socket.recv(&mut room, 0)) {
            Ok(_) => {}
            // An overrun is no end, any other error is.
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32) => {}
            Err(_) => return,
        }
    }
}

fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
