//! A netlink socket that knows IPVS.

use std::os::fd::AsFd;

use ipvs_packet::Request;
use netlink_sys::protocols::NETLINK_GENERIC;

use super::direct::Direct;
use crate::{
    Error,
    proc::namespace::{self, Namespace},
};

/// A netlink socket over which IPVS was found and may be used.
///
/// It stays in the network namespace of the thread that opened it, wherever it is used later.
#[derive(Debug)]
pub struct Socket {
    pub(crate) direct: Direct,
    /// Where it was made.
    pub(crate) namespace: Namespace,
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread, looks IPVS up (which lets the
    /// kernel load the module ip_vs) and asks it for its version.
    ///
    /// This blocks: for microseconds, or for as long as loading the module takes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotAvailable`](crate::ErrorKind::NotAvailable) when the kernel has no IPVS.
    /// [`ErrorKind::PermissionDenied`](crate::ErrorKind::PermissionDenied) without `CAP_NET_ADMIN`
    /// in the initial user namespace.
    pub fn open() -> Result<Self, Error> {
        let socket = netlink_talk::Socket::open(NETLINK_GENERIC)
            .map_err(|error| Error::io("opening a generic netlink socket", error))?;
        let mut direct = Direct::new(socket);
        direct.look_up_family()?;
        // So that a missing privilege shows early.
        direct.run(&Request::GetInfo, Some)?;
        Ok(Self { direct, namespace: Namespace::current() })
    }

    /// Opens a socket in a network namespace, given by a file descriptor of it, such as
    /// `/run/netns/blue` or `/proc/1234/ns/net` opened for reading. Otherwise as
    /// [`open`](Self::open).
    ///
    /// A namespace that is not the calling thread's is entered by a thread of its own, so that the
    /// caller's stays where it is. That takes `CAP_SYS_ADMIN`.
    pub fn open_in(namespace: impl AsFd) -> Result<Self, Error> {
        const CONNECTING: &str = "connecting in a network namespace";
        namespace::run_in(namespace.as_fd(), CONNECTING, Self::open)
    }

    /// Sets the size of the receive buffer in bytes (`SO_RCVBUF`): Linux doubles it, and keeps
    /// within 2,304 and twice `net.core.rmem_max`. By default it is `net.core.rmem_default`,
    /// 212,992.
    pub fn set_receive_buffer(&self, bytes: u32) -> Result<(), Error> {
        self.direct
            .socket()
            .netlink()
            .set_rx_buf_sz(bytes)
            .map_err(|error| Error::io("setting the size of the receive buffer", error))
    }
}
