//! Checks of a real server: what a pool is told comes from here.
//!
//! A [`Check`] is a plain value: what is asked, of whom, from where, and for how long. It can be read from a
//! file (serde). [`run`](Check::run) makes it once, on tokio's runtime with time and I/O turned on.
//!
//! ```
//! use std::time::Duration;
//!
//! use lvs_health::check::{Check, Kind, Target};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let server = std::net::TcpListener::bind("127.0.0.1:0")?;
//! # let address = server.local_addr()?;
//! let check = Check::new(Kind::Tcp).timeout(Duration::from_secs(2));
//! match check.run(&Target::new(address)).await {
//!     Ok(good) => println!("{address} is good: {good}"), // connected
//!     Err(failure) => println!("{address}: {failure}"),  // connect: connection refused
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Bounds
//!
//! A check ends within its time-out and a little, reads no more than it is told, and has one descriptor at
//! a time, or two. No answer makes it panic. What cannot be tried for want of something here (descriptors,
//! memory, a right) is no [`Failure::Bad`]: it says nothing of the server.

mod agent;
mod beside;
mod datagram;
#[cfg(feature = "dns")]
mod dns;
mod failure;
#[cfg(feature = "http2")]
mod grpc;
#[cfg(feature = "http")]
mod http;
mod limit;
mod line;
#[cfg(feature = "http")]
mod pattern;
mod program;
mod said;
pub(crate) mod seconds;
mod smtp;
mod stream;
mod text;
#[cfg(feature = "tls")]
mod tls;
mod way;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use lvs::client::packet::{DestinationKey, ServiceKey};
use serde::{Deserialize, Serialize};

#[cfg(feature = "dns")]
pub use self::dns::{Dns, RecordType};
#[cfg(feature = "http2")]
pub use self::grpc::Grpc;
#[cfg(feature = "tls")]
pub use self::tls::{Tls, Verify};
pub use self::{
    agent::Agent,
    datagram::Udp,
    failure::{Failure, Good},
    line::Line,
    program::Program,
    said::said,
    smtp::Smtp,
    text::{InvalidText, Text},
};
#[cfg(feature = "http")]
pub use self::{
    http::{Http, InvalidStatuses, Statuses},
    pattern::{InvalidPattern, Pattern},
};
use self::{limit::Limit, way::Way};
pub use crate::checker::{Checker, Limits, News, Pace, Report, Wanted};

/// One check: what is asked, of whom, from where, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Check {
    /// What is asked.
    pub kind: Kind,
    /// How long all of it may take; 3 seconds by default, at least a millisecond. In a file `500ms`, `3s`, or a
    /// number of seconds.
    #[serde(default = "three_seconds", with = "seconds")]
    pub timeout: Duration,
    /// The address that is asked; the real server's by default.
    #[serde(default)]
    pub to: To,
    /// The port that is asked, 1 to 65535; that of the address by default.
    #[serde(default)]
    pub port: Option<u16>,
    /// The address from which it is asked; the kernel's choice by default.
    #[serde(default)]
    pub from: Option<IpAddr>,
    /// The network device through which it is asked; the kernel's choice by default. `SO_BINDTODEVICE`.
    #[serde(default)]
    pub device: Option<String>,
    /// The mark of its packets, for rules and for services by mark; none by default. `SO_MARK`, which takes
    /// `CAP_NET_ADMIN`.
    #[serde(default)]
    pub mark: Option<u32>,
    /// The network namespace in which it is asked, as a path like `/run/netns/web`; the caller's by
    /// default. Another one takes `CAP_SYS_ADMIN`.
    #[serde(default)]
    pub netns: Option<PathBuf>,
}

/// The address that a [`Check`] asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum To {
    /// The real server's.
    #[default]
    Server,
    /// The virtual address: the packets have to be led to the one real server, by a mark, a device or a
    /// namespace.
    Service,
    /// Another one: a management address, say.
    Address(IpAddr),
}

/// What a [`Check`] asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// Does it take a TCP connection? keepalived's `TCP_CHECK`, ldirectord's `checktype=connect`.
    Tcp,
    /// Does it answer an HTTP request as it should? keepalived's `HTTP_GET`, ldirectord's `service=http`.
    #[cfg(feature = "http")]
    Http(Http),
    /// Does a TLS handshake end well, and is the certificate good for long enough?
    #[cfg(feature = "tls")]
    Tls(Tls),
    /// Does gRPC's health service say that it serves?
    #[cfg(feature = "http2")]
    Grpc(Grpc),
    /// Does it answer a DNS question? keepalived's `DNS_CHECK`, ldirectord's `service=dns`.
    #[cfg(feature = "dns")]
    Dns(Dns),
    /// Does its answer to some bytes, or its greeting, begin as it should?
    Line(Line),
    /// Does a mail server greet?
    Smtp(Smtp),
    /// Does it answer a datagram, or refuse none?
    Udp(Udp),
    /// Does it answer an ICMP echo request? keepalived's `PING_CHECK`, ldirectord's `checktype=ping`. This
    /// process's group has to be in the kernel's setting `net.ipv4.ping_group_range`; no right is needed.
    Icmp,
    /// What does a program say of it?
    Program(Program),
    /// What does an agent on it say? HAProxy's `agent-check`.
    Agent(Agent),
}

/// Whom a [`Check`] is about: a real server, and the service to which it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Target {
    /// The real server's address and port. Port 0, of services by mark, stands for the one to which the client
    /// connected: then the check needs a port of its own.
    pub server: SocketAddr,
    /// The service, for [`To::Service`] and for the arguments of a [`Program`].
    pub service: Option<ServiceKey>,
}

impl Check {
    /// A check of the real server's own address and port that takes 3 seconds at most.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            timeout: three_seconds(),
            to: To::Server,
            port: None,
            from: None,
            device: None,
            mark: None,
            netns: None,
        }
    }

    /// Sets [`timeout`](Self::timeout).
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Makes the check, once.
    ///
    /// # Errors
    ///
    /// The server is [bad](Failure::Bad), or the check cannot be made here.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time.
    pub async fn run(&self, target: &Target) -> Result<Good, Failure> {
        let limit = Limit::new(self.timeout);
        let way = Way::new(self);
        match &self.kind {
            Kind::Tcp => {
                way.connect(self.address(target)?, limit).await?;
                Ok(Good::new("connected"))
            }
            #[cfg(feature = "http")]
            Kind::Http(http) => http.run(way, self.address(target)?, limit).await,
            #[cfg(feature = "tls")]
            Kind::Tls(tls) => tls.run(way, self.address(target)?, limit).await,
            #[cfg(feature = "http2")]
            Kind::Grpc(grpc) => grpc.run(way, self.address(target)?, limit).await,
            #[cfg(feature = "dns")]
            Kind::Dns(dns) => dns.run(way, self.address(target)?, limit).await,
            Kind::Line(line) => line.run(way, self.address(target)?, limit).await,
            Kind::Smtp(smtp) => smtp.run(way, self.address(target)?, limit).await,
            Kind::Udp(udp) => udp.run(way, self.address(target)?, limit).await,
            Kind::Icmp => datagram::echo(way, self.host(target)?.ip(), limit).await,
            Kind::Program(program) => program.run(way, target, limit).await,
            Kind::Agent(agent) => agent.run(way, self.address(target)?, limit).await,
        }
    }

    /// The address and port that are asked.
    fn address(&self, target: &Target) -> Result<SocketAddr, Failure> {
        let address = self.host(target)?;
        if address.port() == 0 {
            return Err(Failure::Unable(format!(
                "{} has no port: the check needs one",
                address.ip()
            )));
        }
        Ok(address)
    }

    /// The same where no port is needed.
    fn host(&self, target: &Target) -> Result<SocketAddr, Failure> {
        let mut address = match self.to {
            To::Server => target.server,
            To::Address(address) => SocketAddr::new(address, target.server.port()),
            To::Service => match target.service {
                Some(ServiceKey::Address { address, port, .. }) => SocketAddr::new(address, port),
                _ => {
                    let reason = "it is to ask the virtual address, and the service has none";
                    return Err(Failure::Unable(reason.to_owned()));
                }
            },
        };
        if let Some(port) = self.port {
            address.set_port(port);
        }
        Ok(address)
    }
}

impl Kind {
    /// Whether it needs to know the virtual address, which then is a part of what is asked.
    pub(crate) fn tells_the_service(&self) -> bool {
        matches!(self, Self::Program(_))
    }
}

impl Target {
    /// A real server by itself.
    pub const fn new(server: SocketAddr) -> Self {
        Self { server, service: None }
    }

    /// A member of a service.
    pub fn of(service: &ServiceKey, member: &DestinationKey) -> Self {
        let server = SocketAddr::new(member.address, member.port);
        let service = Some(*service);
        Self { server, service }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.server.fmt(f)
    }
}

fn three_seconds() -> Duration {
    Duration::from_secs(3)
}

#[cfg(test)]
mod tests;
