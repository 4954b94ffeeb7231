//! A socket that one caller uses at a time, without a driver: nothing waits, so no future over it is ever
//! pending.

use std::{
    io,
    sync::{Mutex, PoisonError},
};

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_talk::{Answers, Owner, Raw, Socket};

use super::strict;
use crate::{
    error::{Error, Operation},
    netns::NetNs,
};

#[derive(Debug)]
pub(crate) struct BlockingSocket {
    socket: Mutex<Socket>,
    /// Outside of the lock: in a child that was forked while another thread had it, nobody opens it.
    owner: Owner,
}

impl BlockingSocket {
    pub(crate) fn connect(namespace: &NetNs) -> Result<Self, Error> {
        let socket = namespace
            .run(|| {
                let socket = Socket::open(NETLINK_ROUTE)?;
                strict(socket.netlink());
                Ok(socket)
            })?
            .map_err(|error: io::Error| {
                Error::system(&Operation::Connect(namespace.to_string()), error)
            })?;
        Ok(Self { owner: socket.owner(), socket: Mutex::new(socket) })
    }

    /// Leaves room for a few answers only.
    #[cfg(test)]
    pub(crate) fn shrink(&self) {
        self.socket.lock().unwrap().netlink().set_rx_buf_sz(4096_u32).unwrap();
    }

    pub(crate) fn exchange(&self, requests: &[(Raw, u16)]) -> Answers {
        if let Err(other) = self.owner.check() {
            return Answers { messages: Vec::new(), broken: Some(io::Error::other(other)) };
        }
        // A caller that panicked left a socket that works: old answers are filtered by their numbers.
        self.socket.lock().unwrap_or_else(PoisonError::into_inner).exchange(requests)
    }
}
