//! The way that a check's packets take: source address, device, mark, network namespace.

use std::{fs::File, io, net::SocketAddr, os::fd::AsFd, os::unix::fs::MetadataExt};

use netlink_talk::namespace::{NotEntered, run_in};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use super::{Check, Failure, Limit};

/// Makes the sockets of a check.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way<'a>(&'a Check);

impl<'a> Way<'a> {
    pub(crate) fn new(check: &'a Check) -> Self {
        Self(check)
    }

    /// A TCP connection.
    pub(crate) async fn connect(self, to: SocketAddr, limit: Limit) -> Result<TcpStream, Failure> {
        let socket = self.socket(to, Type::STREAM, Protocol::TCP)?;
        let socket = TcpSocket::from_std_stream(socket.into());
        limit
            .within("connect", socket.connect(to))
            .await?
            .map_err(|error| Failure::of("connect", &error))
    }

    /// A socket that does not block, bound and marked as the check says.
    pub(crate) fn socket(
        self,
        to: SocketAddr,
        kind: Type,
        protocol: Protocol,
    ) -> Result<Socket, Failure> {
        let new = || Socket::new(Domain::for_address(to), kind, Some(protocol));
        let socket = self.inside(new)?.map_err(|error| Failure::here("socket", &error))?;
        let Check { from, device, mark, .. } = self.0;
        socket.set_nonblocking(true).map_err(|error| Failure::here("socket", &error))?;
        if let Some(device) = device {
            socket
                .bind_device(Some(device.as_bytes()))
                .map_err(|error| Failure::here(&format!("device {device}"), &error))?;
        }
        if let Some(mark) = mark {
            socket
                .set_mark(*mark)
                .map_err(|error| Failure::here(&format!("mark {mark}"), &error))?;
        }
        if let Some(from) = from {
            socket.bind(&SocketAddr::new(*from, 0).into()).map_err(|error| {
                // An address that is not there will not be there the next moment either.
                match Failure::here(&format!("bind to {from}"), &error) {
                    Failure::Short(reason) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                        Failure::Unable(reason)
                    }
                    other => other,
                }
            })?;
        }
        Ok(socket)
    }

    /// Runs a closure in the check's network namespace: what it opens or starts belongs there.
    pub(crate) fn inside<T: Send>(self, closure: impl FnOnce() -> T + Send) -> Result<T, Failure> {
        let Some(path) = &self.0.netns else { return Ok(closure()) };
        let failure = |error| Failure::here(&format!("namespace {}", path.display()), &error);
        let file = File::open(path).map_err(failure)?;
        let metadata = file.metadata().map_err(failure)?;
        run_in(file.as_fd(), (metadata.dev(), metadata.ino()), closure).map_err(|error| match error
        {
            NotEntered::Thread(error) | NotEntered::Unknown(error) => failure(error),
            NotEntered::Refused(errno) => failure(errno.into()),
            _ => failure(io::Error::other("it cannot be entered")),
        })
    }
}
