//! Checks by single datagrams: UDP, and ICMP echo.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use socket2::{Protocol, Type};
use tokio::net::UdpSocket;

use super::{Failure, Good, Limit, Text, Way, failure::words, line::quoted};

/// No datagram is longer.
const LONGEST: usize = 65_535;

/// A datagram that is sent, and what has to come back. keepalived's `UDP_CHECK`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Udp {
    /// What is sent; an empty datagram by default.
    pub send: Text,
    /// What the answer has to begin with, one of these; with none any answer is good.
    pub expect: Vec<Text>,
    /// Whether there has to be an answer; yes by default. Without, a server is good that has refused
    /// nothing (ICMP unreachable) by the end of the time-out: that of a host that is off is good, too.
    pub answer: bool,
}

impl Default for Udp {
    fn default() -> Self {
        Self { send: Text::default(), expect: Vec::new(), answer: true }
    }
}

impl Udp {
    pub(crate) async fn run(
        &self,
        way: Way<'_>,
        address: SocketAddr,
        limit: Limit,
    ) -> Result<Good, Failure> {
        let socket = open(way, address, Protocol::UDP)?;
        socket.send(self.send.as_bytes()).await.map_err(|error| Failure::of("send", &error))?;
        let mut datagram = vec![0; LONGEST];
        match limit.within("answer", socket.recv(&mut datagram)).await {
            Ok(Ok(length)) => self.judge(&datagram[..length]),
            Ok(Err(error)) => Err(Failure::of("answer", &error)),
            Err(_) if !self.answer && self.expect.is_empty() => Ok(Good::new("not refused")),
            Err(silence) => Err(silence),
        }
    }

    /// What an answer says of the server.
    pub(crate) fn judge(&self, answer: &[u8]) -> Result<Good, Failure> {
        let is_good = self.expect.is_empty()
            || self.expect.iter().any(|expected| answer.starts_with(expected.as_bytes()));
        if is_good {
            return Ok(Good::new(format!("answer of {} bytes", answer.len())));
        }
        let wanted: Vec<_> = self.expect.iter().map(|text| format!("{text:?}")).collect();
        let (found, wanted) = (quoted(answer), wanted.join(" or "));
        Err(Failure::bad(format!("answer {found}, wanted {wanted}")))
    }
}

/// Sends an ICMP echo request and awaits the reply, over a socket that needs no right but a group in the
/// kernel's setting.
pub(crate) async fn echo(way: Way<'_>, address: IpAddr, limit: Limit) -> Result<Good, Failure> {
    let protocol = if address.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
    let socket =
        open(way, SocketAddr::new(address, 0), protocol).map_err(|failure| match failure {
            Failure::Unable(reason) if reason.starts_with("socket: permission denied") => {
                Failure::Unable(
                    "ICMP: permission denied: this process's group has to be in the setting \
                 net.ipv4.ping_group_range"
                        .to_owned(),
                )
            }
            other => other,
        })?;
    // The kernel writes checksum and identifier, and brings what answers this socket's identifier.
    let request = [if address.is_ipv4() { 8 } else { 128 }, 0, 0, 0, 0, 0, 0, 1];
    socket.send(&request).await.map_err(|error| Failure::of("send", &error))?;
    let mut reply = [0; 64];
    loop {
        let length = limit
            .within("echo", socket.recv(&mut reply))
            .await?
            .map_err(|error| Failure::bad(format!("echo: {}", words(&error))))?;
        if is_reply(&reply[..length], address.is_ipv4()) {
            return Ok(Good::new("echo"));
        }
    }
}

/// Whether an ICMP message is the reply to our request.
pub(crate) fn is_reply(message: &[u8], is_ipv4: bool) -> bool {
    let kind = if is_ipv4 { 0 } else { 129 };
    matches!(message, [found, 0, _, _, _, _, 0, 1, ..] if *found == kind)
}

pub(crate) fn open(
    way: Way<'_>,
    address: SocketAddr,
    protocol: Protocol,
) -> Result<UdpSocket, Failure> {
    let socket = way.socket(address, Type::DGRAM, protocol)?;
    // Connected, it hears of what ICMP refuses, and nothing from others.
    socket.connect(&address.into()).map_err(|error| Failure::of("connect", &error))?;
    UdpSocket::from_std(socket.into()).map_err(|error| Failure::here("socket", &error))
}
