//! A netlink socket on an async runtime.
//!
//! As netlink-sys's own, but made of a socket that may come from another network namespace, and with
//! interrupted calls repeated and truncated datagrams noticed.

use std::{
    io,
    task::{Context, Poll},
};

use bytes::BufMut;
use netlink_sys::{AsyncSocket, Socket, SocketAddr};
use nix::sys::socket::MsgFlags;

use crate::{error::errno, socket::uninterrupted};

/// A socket, and who tells when it is ready.
pub(crate) enum RuntimeSocket {
    #[cfg(feature = "tokio")]
    Tokio(tokio::io::unix::AsyncFd<Socket>),
    #[cfg(feature = "smol")]
    Smol(async_io::Async<Socket>),
}

impl RuntimeSocket {
    #[cfg(feature = "tokio")]
    pub(crate) fn on_tokio(socket: Socket) -> io::Result<Self> {
        socket.set_non_blocking(true)?;
        // Deprecated for descriptors that change or close under it, which this one cannot. What
        // replaces it is an unsafe function, and of tokio 1.54.
        #[allow(deprecated)]
        tokio::io::unix::AsyncFd::new(socket).map(Self::Tokio)
    }

    #[cfg(feature = "smol")]
    pub(crate) fn on_smol(socket: Socket) -> io::Result<Self> {
        async_io::Async::new(socket).map(Self::Smol)
    }

    fn poll_call<T>(
        &self,
        context: &mut Context<'_>,
        direction: Direction,
        mut call: impl FnMut(&Socket) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        // First without asking whether it is ready: the answers are there when `send` returns, and an
        // error alone is no readiness in tokio's eyes.
        #[cfg(feature = "tokio")]
        let budget = match self {
            Self::Tokio(_) => Some(std::task::ready!(tokio::task::coop::poll_proceed(context))),
            #[cfg(feature = "smol")]
            Self::Smol(_) => None,
        };
        match uninterrupted(|| call(self.socket_ref())) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => {
                #[cfg(feature = "tokio")]
                budget.inspect(|budget| budget.made_progress());
                return Poll::Ready(result);
            }
        }
        match self {
            #[cfg(feature = "tokio")]
            Self::Tokio(socket) => loop {
                let mut guard = std::task::ready!(match direction {
                    Direction::Receive => socket.poll_read_ready(context),
                    Direction::Send => socket.poll_write_ready(context),
                })?;
                let call = |socket: &tokio::io::unix::AsyncFd<Socket>| {
                    uninterrupted(|| call(socket.get_ref()))
                };
                if let Ok(result) = guard.try_io(call) {
                    return Poll::Ready(result);
                }
            },
            #[cfg(feature = "smol")]
            Self::Smol(socket) => loop {
                std::task::ready!(match direction {
                    Direction::Receive => socket.poll_readable(context),
                    Direction::Send => socket.poll_writable(context),
                })?;
                match uninterrupted(|| call(socket.get_ref())) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => return Poll::Ready(result),
                }
            },
        }
    }
}

/// What a call does with the socket.
#[derive(Clone, Copy)]
enum Direction {
    Receive,
    Send,
}

impl AsyncSocket for RuntimeSocket {
    fn socket_ref(&self) -> &Socket {
        match self {
            #[cfg(feature = "tokio")]
            Self::Tokio(socket) => socket.get_ref(),
            #[cfg(feature = "smol")]
            Self::Smol(socket) => socket.get_ref(),
        }
    }

    fn socket_mut(&mut self) -> &mut Socket {
        unreachable!("netlink-proto asks for it on behalf of its users only")
    }

    fn new(_: isize) -> io::Result<Self> {
        // Never called: the driver is given a socket that is there already.
        Err(io::ErrorKind::Unsupported.into())
    }

    fn poll_send(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_call(context, Direction::Send, |socket| socket.send(bytes, 0))
    }

    fn poll_send_to(
        &self,
        context: &mut Context<'_>,
        bytes: &[u8],
        address: &SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.poll_call(context, Direction::Send, |socket| socket.send_to(bytes, address, 0))
    }

    fn poll_recv<B: BufMut>(
        &self,
        context: &mut Context<'_>,
        buffer: &mut B,
    ) -> Poll<io::Result<()>> {
        self.poll_recv_from(context, buffer).map_ok(drop)
    }

    fn poll_recv_from<B: BufMut>(
        &self,
        context: &mut Context<'_>,
        buffer: &mut B,
    ) -> Poll<io::Result<SocketAddr>> {
        self.poll_call(context, Direction::Receive, |socket| receive(socket, buffer))
    }

    fn poll_recv_from_full(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<(Vec<u8>, SocketAddr)>> {
        self.poll_call(context, Direction::Receive, Socket::recv_from_full)
    }
}

/// Reads one datagram into an empty buffer and returns its sender's port, 0 for the kernel. A
/// truncated one is as bad as a dropped one, and becomes ENOBUFS.
fn receive<B: BufMut>(netlink: &Socket, buffer: &mut B) -> io::Result<SocketAddr> {
    let room = buffer.chunk_mut().len();
    let (length, sender) = netlink.recv_from(buffer, MsgFlags::MSG_TRUNC.bits())?;
    if length > room {
        return Err(io::Error::from_raw_os_error(errno::NOBUFS));
    }
    Ok(sender)
}
