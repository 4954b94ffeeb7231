//! A connection's bytes, read no further than a bound.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Failure, Limit, Way};

/// What a check talks over: TCP, or TLS on it.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Whether a connection is secured.
#[derive(Clone, Copy)]
pub(crate) enum Secure<'a> {
    No,
    /// With the name of the host, if that is known, and the protocols to choose from.
    #[cfg(feature = "tls")]
    Tls(&'a super::Tls, Option<&'a str>, &'a [&'a [u8]]),
    /// Without TLS nobody has this.
    #[cfg(not(feature = "tls"))]
    #[expect(dead_code, reason = "it holds the lifetime")]
    Never(std::convert::Infallible, std::marker::PhantomData<&'a ()>),
}

/// Connects.
pub(crate) async fn open(
    way: Way<'_>,
    address: SocketAddr,
    secure: Secure<'_>,
    limit: Limit,
) -> Result<Box<dyn Stream>, Failure> {
    Ok(match secure {
        #[cfg(feature = "tls")]
        Secure::Tls(tls, host, protocols) => {
            Box::new(tls.connect(way, address, host, protocols, limit).await?)
        }
        _ => Box::new(way.connect(address, limit).await?),
    })
}

/// A connection, and what has been read of it.
pub(crate) struct Talk {
    stream: Box<dyn Stream>,
    read: Vec<u8>,
    most: usize,
    limit: Limit,
}

impl Talk {
    /// Connects; at most so many bytes will be read.
    pub(crate) async fn open(
        way: Way<'_>,
        address: SocketAddr,
        secure: Secure<'_>,
        most: usize,
        limit: Limit,
    ) -> Result<Self, Failure> {
        let stream = open(way, address, secure, limit).await?;
        Ok(Self { stream, read: Vec::new(), most: most.max(1), limit })
    }

    /// Writes all of it.
    pub(crate) async fn say(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.limit.within("send", self.stream.write_all(bytes)).await?;
        written.map_err(|error| Failure::of("send", &error))
    }

    /// Reads until what was read decides, which is told whether there can be more.
    pub(crate) async fn hear<T>(
        &mut self,
        decide: impl Fn(&[u8], bool) -> Option<T>,
    ) -> Result<T, Failure> {
        let mut piece = [0; 2048];
        loop {
            if let Some(decision) = decide(&self.read, true) {
                return Ok(decision);
            }
            let room = self.most.saturating_sub(self.read.len()).min(piece.len());
            let read = self.stream.read(&mut piece[..room]);
            let read = self.limit.within("answer", read).await?;
            let read = read.map_err(|error| Failure::of("answer", &error))?;
            self.read.extend_from_slice(&piece[..read]);
            if read == 0 {
                return decide(&self.read, false).ok_or_else(|| match room {
                    0 => Failure::bad(format!("answer: {} bytes and no end", self.most)),
                    _ if self.read.is_empty() => Failure::bad("answer: closed without a word"),
                    _ => Failure::bad("answer: closed in the middle"),
                });
            }
        }
    }

    /// Reads a line, without its end.
    pub(crate) async fn line(&mut self) -> Result<Vec<u8>, Failure> {
        let end = self.hear(|read, _| read.iter().position(|byte| *byte == b'\n')).await?;
        let rest = self.read.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.read, rest);
        // A long dialogue is bounded as a whole.
        self.most = self.most.saturating_sub(line.len()).max(1);
        line.truncate(end);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(line)
    }
}
