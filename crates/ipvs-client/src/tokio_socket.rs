//! A netlink socket on tokio.

use std::{
    io,
    task::{Context, Poll, ready},
};

use bytes::BufMut;
use netlink_sys::{AsyncSocket, Socket, SocketAddr};
use nix::sys::socket::MsgFlags;
use tokio::io::unix::AsyncFd;

use crate::socket::{receive, uninterrupted};

/// As netlink-sys's own, but made of a socket that may come from another network namespace, and
/// with interrupted calls repeated and truncated datagrams noticed.
pub(crate) struct TokioSocket(AsyncFd<Socket>);

impl TokioSocket {
    pub(crate) fn of(socket: Socket) -> io::Result<Self> {
        socket.set_non_blocking(true)?;
        // Deprecated for descriptors that change or close under it, which this one cannot. What
        // replaces it is an unsafe function, and of tokio 1.54.
        #[allow(deprecated)]
        AsyncFd::new(socket).map(Self)
    }

    fn poll_write<T>(
        &self,
        context: &mut Context<'_>,
        mut call: impl FnMut(&Socket) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            if let Ok(result) = guard.try_io(|socket| uninterrupted(|| call(socket.get_ref()))) {
                return Poll::Ready(result);
            }
        }
    }

    fn poll_read<T>(
        &self,
        context: &mut Context<'_>,
        mut call: impl FnMut(&Socket) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            if let Ok(result) = guard.try_io(|socket| uninterrupted(|| call(socket.get_ref()))) {
                return Poll::Ready(result);
            }
        }
    }
}

impl AsyncSocket for TokioSocket {
    fn socket_ref(&self) -> &Socket {
        self.0.get_ref()
    }

    fn socket_mut(&mut self) -> &mut Socket {
        self.0.get_mut()
    }

    fn new(protocol: isize) -> io::Result<Self> {
        Self::of(Socket::new(protocol)?)
    }

    fn poll_send(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write(context, |socket| socket.send(bytes, 0))
    }

    fn poll_send_to(
        &self,
        context: &mut Context<'_>,
        bytes: &[u8],
        address: &SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.poll_write(context, |socket| socket.send_to(bytes, address, 0))
    }

    fn poll_recv<B: BufMut>(
        &self,
        context: &mut Context<'_>,
        buffer: &mut B,
    ) -> Poll<io::Result<()>> {
        self.poll_recv_from(context, buffer).map_ok(|_| ())
    }

    fn poll_recv_from<B: BufMut>(
        &self,
        context: &mut Context<'_>,
        buffer: &mut B,
    ) -> Poll<io::Result<SocketAddr>> {
        self.poll_read(context, |socket| receive(socket, buffer, MsgFlags::empty()))
    }

    fn poll_recv_from_full(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<(Vec<u8>, SocketAddr)>> {
        self.poll_read(context, Socket::recv_from_full)
    }
}
