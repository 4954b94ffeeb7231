//! A netlink socket that knows IPVS.

use std::{io, os::fd::AsFd, sync::Arc};

use ipvs_packet::{Command, FAMILY_NAME, Reply, Request};
use netlink_packet_core::NlasIterator;
use netlink_sys::{Socket as NetlinkSocket, SocketAddr, protocols::NETLINK_GENERIC};

use crate::{
    Error,
    error::errno,
    line::Line,
    namespace::{self, Namespace},
    verbs::pick,
};

/// `GENL_ID_CTRL`: the family that knows the others' numbers.
pub(crate) const CONTROL_FAMILY: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

const LOOKING_UP: &str = "looking up the generic netlink family IPVS";

/// A netlink socket over which IPVS was found and may be used.
///
/// It belongs for ever to the network namespace of the thread that opened it, wherever it is used
/// later.
#[derive(Debug)]
pub struct Socket {
    /// For one request after the other.
    pub(crate) calls: Line,
    /// For batches and snapshots, so that they and single requests do not wait for each other.
    pub(crate) bulk: NetlinkSocket,
    /// Where it was made.
    pub(crate) namespace: Arc<Namespace>,
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread, looks IPVS up (which lets the
    /// kernel load the module ip_vs) and asks it for its version.
    ///
    /// This blocks: for microseconds, or for as long as loading the module takes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotAvailable`](crate::ErrorKind::NotAvailable) when the kernel has no IPVS;
    /// nothing is ever sent to it then.
    /// [`ErrorKind::PermissionDenied`](crate::ErrorKind::PermissionDenied) without `CAP_NET_ADMIN`
    /// in the initial user namespace.
    pub fn open() -> Result<Self, Error> {
        let mut socket = Self::create()?;
        socket.prepare()?;
        Ok(socket)
    }

    /// Opens a socket in another network namespace, given by a file descriptor of it, such as
    /// `/run/netns/blue` or `/proc/1234/ns/net` opened for reading.
    ///
    /// A thread of its own enters the namespace, so that the caller's stays where it is. Entering
    /// takes `CAP_SYS_ADMIN`. Otherwise as [`open`](Self::open).
    pub fn open_in(namespace: impl AsFd) -> Result<Self, Error> {
        let namespace = namespace.as_fd();
        let opened = std::thread::scope(|scope| {
            let enter = move || namespace::enter(namespace, "connecting in a network namespace");
            scope.spawn(move || enter().and_then(|()| Self::open())).join()
        });
        opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Sets the size of the receive buffers in bytes (`SO_RCVBUF`): Linux doubles it, and keeps
    /// within 2,304 and twice `net.core.rmem_max`. By default it is `net.core.rmem_default`,
    /// 212,992.
    pub fn set_receive_buffer(&self, bytes: u32) -> Result<(), Error> {
        [self.calls.netlink(), &self.bulk]
            .into_iter()
            .try_for_each(|netlink| netlink.set_rx_buf_sz(bytes))
            .map_err(|error| Error::io("setting the size of a receive buffer", error))
    }

    /// The socket as the kernel makes it: in the calling thread's namespace, nothing sent yet.
    pub(crate) fn create() -> Result<Self, Error> {
        let netlink =
            || create().map_err(|error| Error::io("opening a generic netlink socket", error));
        Ok(Self {
            calls: Line::new(netlink()?, 0),
            bulk: netlink()?,
            namespace: Arc::new(Namespace::current()),
        })
    }

    /// Looks the family up and asks for the version, which tells early of a missing privilege.
    pub(crate) fn prepare(&mut self) -> Result<(), Error> {
        self.calls.resolve()?;
        self.calls.run(&Request::GetInfo, pick::nothing)?;
        Ok(())
    }
}

fn create() -> io::Result<NetlinkSocket> {
    let mut netlink = NetlinkSocket::new(NETLINK_GENERIC)?;
    netlink.bind_auto()?;
    // So that nobody else can send to it, who would be believed.
    netlink.connect(&SocketAddr::new(0, 0))?;
    // Errors carry the kernel's words, and of the request they answer only the header, so that many
    // fit the receive buffer. Kernels before 4.12 have neither.
    for result in [netlink.set_ext_ack(true), netlink.set_cap_ack(true)] {
        match result {
            Err(error) if error.raw_os_error() != Some(errno::NOPROTOOPT) => return Err(error),
            _ => {}
        }
    }
    Ok(netlink)
}

/// Repeats a system call that a signal interrupted.
pub(crate) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Asks the controller for the number of the family IPVS.
pub(crate) fn family_request() -> Request {
    let name = FAMILY_NAME.as_bytes();
    // The name ends with a NUL.
    let length = (4 + name.len() + 1) as u16;
    let mut payload = Vec::new();
    payload.extend_from_slice(&length.to_ne_bytes());
    payload.extend_from_slice(&CTRL_ATTR_FAMILY_NAME.to_ne_bytes());
    payload.extend_from_slice(name);
    payload.resize(usize::from(length).next_multiple_of(4), 0);
    Request::Other { command: Command(CTRL_CMD_GETFAMILY), payload }
}

/// The number in the controller's answer.
pub(crate) fn family_number(replies: Result<Vec<Reply>, Error>) -> Result<u16, Error> {
    let replies = replies.map_err(|error| error.doing(LOOKING_UP))?;
    let payload = replies.iter().find_map(|reply| match reply {
        Reply::Other { payload, .. } => Some(payload),
        _ => None,
    });
    payload
        .and_then(|payload| {
            NlasIterator::new(payload.as_slice())
                .flatten()
                .find(|attribute| attribute.kind() == CTRL_ATTR_FAMILY_ID)
                .and_then(|attribute| attribute.value().try_into().ok().map(u16::from_ne_bytes))
        })
        // 0 would send every request to netlink itself, which acknowledges it and does nothing.
        .filter(|&number| number != 0)
        .ok_or_else(|| Error::malformed(LOOKING_UP, "the kernel did not tell its number"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use super::*;

    #[test]
    fn nobody_but_the_kernel_is_heard() {
        let ours = create().unwrap();
        let mut address = SocketAddr::new(0, 0);
        ours.get_address(&mut address).unwrap();
        let stranger = NetlinkSocket::new(NETLINK_GENERIC).unwrap();
        let error = stranger.send_to(b"believe me", &address, 0).unwrap_err();
        // The second is what others than root get for trying.
        let refusals = [io::ErrorKind::ConnectionRefused, io::ErrorKind::PermissionDenied];
        assert!(refusals.contains(&error.kind()), "{error}");
    }
}
