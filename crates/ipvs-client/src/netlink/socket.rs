//! A netlink socket that knows IPVS.

use std::{io, os::fd::AsFd};

use ipvs_packet::Request;
use netlink_sys::{Socket as NetlinkSocket, SocketAddr, protocols::NETLINK_GENERIC};

use super::direct::Direct;
use crate::{
    Error,
    error::errno,
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
        let netlink =
            create().map_err(|error| Error::io("opening a generic netlink socket", error))?;
        let mut direct = Direct::new(netlink);
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
            .netlink()
            .set_rx_buf_sz(bytes)
            .map_err(|error| Error::io("setting the size of the receive buffer", error))
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
