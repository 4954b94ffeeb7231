//! What identifies a virtual service and a destination.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    str::FromStr,
};

use crate::{
    InvalidValue,
    attribute::{Attribute, Reader, Sink},
    error::{ParseError, Problem},
    number::service::{ADDR, AF, FWMARK, PORT, PROTOCOL},
    open_set::open_set,
};

/// The address family of a service or destination: `AF_INET` (2) or `AF_INET6` (10).
///
/// It displays and reads as `IPv4` or `IPv6`, and reads in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[allow(
    clippy::exhaustive_enums,
    reason = "IPVS has these two, and a third would concern every user"
)]
pub enum AddressFamily {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl AddressFamily {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    pub(crate) const fn number(self) -> u16 {
        match self {
            Self::Ipv4 => 2,
            Self::Ipv6 => 10,
        }
    }

    pub(crate) fn parse(attribute: &Attribute<'_>) -> Result<Self, ParseError> {
        match attribute.u16()? {
            2 => Ok(Self::Ipv4),
            10 => Ok(Self::Ipv6),
            _ => Err(attribute.error(Problem::Value("must be AF_INET (2) or AF_INET6 (10)"))),
        }
    }
}

impl fmt::Display for AddressFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

impl FromStr for AddressFamily {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text {
            _ if text.eq_ignore_ascii_case("ipv4") => Ok(Self::Ipv4),
            _ if text.eq_ignore_ascii_case("ipv6") => Ok(Self::Ipv6),
            _ => Err(InvalidValue::new("address family", text, "must be IPv4 or IPv6")),
        }
    }
}

/// The transport protocol of a service: its IP protocol number.
///
/// The kernel balances TCP, UDP and SCTP. Over generic netlink it also accepts any other 16-bit
/// number, without complaint, but such a service never gets a packet.
///
/// It displays as `TCP`, `UDP`, `SCTP`, or `IP_99` for another number. It reads the same, in any
/// case, or a plain number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(clippy::exhaustive_structs, reason = "a number, whatever it means")]
pub struct Protocol(pub u16);

impl Protocol {
    /// `IPPROTO_TCP`, `ipvsadm -t`.
    pub const TCP: Self = Self(6);
    /// `IPPROTO_UDP`, `ipvsadm -u`.
    pub const UDP: Self = Self(17);
    /// `IPPROTO_SCTP`, `ipvsadm --sctp-service`.
    pub const SCTP: Self = Self(132);
}

open_set! {
    Protocol(u16), "protocol", "IP_",
    TCP = "TCP" | "tcp",
    UDP = "UDP" | "udp",
    SCTP = "SCTP" | "sctp",
}

/// What identifies a virtual service: an address to which clients connect, or a firewall mark that
/// their packets carry.
///
/// It displays and reads as ipvsadm's own switches: `-t 10.0.0.185:80`, `-u [2001:db8::1]:53`,
/// `--sctp-service 10.0.0.185:5060`, `-f 10`, `-f 10 -6`. For other protocols, which ipvsadm cannot
/// name, it is `--protocol 99 10.0.0.185:80`.
///
/// ```
/// use ipvs_packet::ServiceKey;
///
/// let key: ServiceKey = "-t 10.0.0.185:80".parse()?;
/// assert_eq!(key, ServiceKey::tcp("10.0.0.185:80".parse()?)?);
/// assert_eq!(key.to_string(), "-t 10.0.0.185:80");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(
    clippy::exhaustive_enums,
    reason = "what the kernel looks a service up by, and all of it: with one field more every key that \
              programs keep would mean something else, so a break is right"
)]
pub enum ServiceKey {
    /// Packets to this protocol, address and port. `IPVS_SVC_ATTR_PROTOCOL`, `_ADDR`, `_PORT`.
    Address {
        /// The transport protocol.
        protocol: Protocol,
        /// The virtual address. Packets only reach IPVS if it is local on the director, which the
        /// kernel does not check.
        address: IpAddr,
        /// The port, 0 to 65535. 0 means every port. The kernel accepts it for any service, but it
        /// only works for a persistent one.
        port: u16,
    },
    /// Packets that the firewall marked. `IPVS_SVC_ATTR_FWMARK`, `ipvsadm -f`.
    Mark {
        /// The mark, 1 to 2^32 - 1. (To the kernel, mark 0 means TCP to 0.0.0.0:0.)
        mark: NonZeroU32,
        /// The family of the packets, `ipvsadm -6` for IPv6.
        family: AddressFamily,
    },
}

impl ServiceKey {
    /// A TCP service, `ipvsadm -t`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn tcp(address: SocketAddr) -> Result<Self, InvalidValue> {
        Self::new(Protocol::TCP, address)
    }

    /// A UDP service, `ipvsadm -u`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn udp(address: SocketAddr) -> Result<Self, InvalidValue> {
        Self::new(Protocol::UDP, address)
    }

    /// An SCTP service, `ipvsadm --sctp-service`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn sctp(address: SocketAddr) -> Result<Self, InvalidValue> {
        Self::new(Protocol::SCTP, address)
    }

    /// A service of any protocol. From an address and a port, which have no zone, make a
    /// [`ServiceKey::Address`] directly.
    ///
    /// # Errors
    /// If the address has a zone (`[fe80::1%2]:80`, `scope_id`): IPVS does not distinguish links.
    pub fn new(protocol: Protocol, address: SocketAddr) -> Result<Self, InvalidValue> {
        let (address, port) = without_zone("service", address)?;
        Ok(Self::Address { protocol, address, port })
    }

    /// A service of marked packets, `ipvsadm -f`.
    pub const fn mark(mark: NonZeroU32, family: AddressFamily) -> Self {
        Self::Mark { mark, family }
    }

    /// The address family of the service.
    pub const fn family(&self) -> AddressFamily {
        match self {
            Self::Address { address, .. } => AddressFamily::of(*address),
            Self::Mark { family, .. } => *family,
        }
    }

    /// The transport protocol; `None` for a service of marked packets, which may have any.
    pub const fn protocol(&self) -> Option<Protocol> {
        match self {
            Self::Address { protocol, .. } => Some(*protocol),
            Self::Mark { .. } => None,
        }
    }

    /// The virtual address; `None` for a service of marked packets, which may have any.
    pub const fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Address { address, .. } => Some(*address),
            Self::Mark { .. } => None,
        }
    }

    /// The port, 0 for every port; `None` for a service of marked packets, which may have any.
    pub const fn port(&self) -> Option<u16> {
        match self {
            Self::Address { port, .. } => Some(*port),
            Self::Mark { .. } => None,
        }
    }

    #[inline]
    pub(crate) fn put(&self, out: &mut impl Sink) {
        out.put_u16(AF, self.family().number());
        match *self {
            Self::Address { protocol, address, port } => {
                out.put_u16(PROTOCOL, protocol.0);
                put_address(ADDR, address, out);
                out.put_u16_be(PORT, port);
            }
            Self::Mark { mark, .. } => out.put_u32(FWMARK, mark.get()),
        }
    }

    /// Reads only the key of a `SERVICE` nest.
    pub(crate) fn parse(reader: Reader<'_>) -> Result<Self, ParseError> {
        let mut parts = ServiceKeyParts::default();
        let mut rest = reader;
        for attribute in rest.by_ref() {
            parts.take(&attribute?)?;
        }
        parts.finish(&rest)
    }

    /// The key, even if another part, such as a later attribute, cannot be read.
    pub(crate) fn salvage(mut reader: Reader<'_>) -> Option<Self> {
        let mut parts = ServiceKeyParts::default();
        for attribute in reader.by_ref().flatten() {
            parts.take(&attribute).ok()?;
        }
        parts.finish(&reader).ok()
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Address { protocol, address, port } => {
                match protocol {
                    Protocol::TCP => f.write_str("-t ")?,
                    Protocol::UDP => f.write_str("-u ")?,
                    Protocol::SCTP => f.write_str("--sctp-service ")?,
                    Protocol(number) => write!(f, "--protocol {number} ")?,
                }
                SocketAddr::new(address, port).fmt(f)
            }
            Self::Mark { mark, family: AddressFamily::Ipv4 } => write!(f, "-f {mark}"),
            Self::Mark { mark, family: AddressFamily::Ipv6 } => write!(f, "-f {mark} -6"),
        }
    }
}

impl FromStr for ServiceKey {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let refuse = || {
            InvalidValue::new(
                "service",
                text,
                "must look like \"-t 10.0.0.185:80\", \"-u [2001:db8::1]:53\", \"--sctp-service \
                 10.0.0.185:5060\", \"--protocol 99 10.0.0.185:80\", \"-f 10\" or \"-f 10 -6\"",
            )
        };
        let address = |protocol, address: &str| match has_zone(address) {
            true => Err(InvalidValue::new("service", text, NO_ZONE)),
            false => Self::new(protocol, address.parse().map_err(|_| refuse())?),
        };
        let mark = |mark: &str, family| {
            Ok(Self::Mark { mark: mark.parse().map_err(|_| refuse())?, family })
        };
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        match words[..] {
            ["-t" | "--tcp-service", to] => address(Protocol::TCP, to),
            ["-u" | "--udp-service", to] => address(Protocol::UDP, to),
            ["--sctp-service", to] => address(Protocol::SCTP, to),
            ["--protocol", number, to] => {
                address(Protocol(number.parse().map_err(|_| refuse())?), to)
            }
            ["-f" | "--fwmark-service", number] => mark(number, AddressFamily::Ipv4),
            ["-f" | "--fwmark-service", number, "-6" | "--ipv6"] => {
                mark(number, AddressFamily::Ipv6)
            }
            _ => Err(refuse()),
        }
    }
}

/// The attributes of a key, collected in any order.
#[derive(Default)]
pub(crate) struct ServiceKeyParts<'a> {
    family: Option<AddressFamily>,
    protocol: Option<u16>,
    address: Option<Attribute<'a>>,
    port: Option<u16>,
    mark: Option<u32>,
}

impl<'a> ServiceKeyParts<'a> {
    /// Takes an attribute if it belongs to a key. Returns whether it did.
    #[inline]
    pub(crate) fn take(&mut self, attribute: &Attribute<'a>) -> Result<bool, ParseError> {
        match attribute.number {
            AF => self.family = Some(AddressFamily::parse(attribute)?),
            PROTOCOL => self.protocol = Some(attribute.u16()?),
            ADDR => self.address = Some(*attribute),
            PORT => self.port = Some(attribute.u16_be()?),
            FWMARK => self.mark = Some(attribute.u32()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(crate) fn finish(self, reader: &Reader<'_>) -> Result<ServiceKey, ParseError> {
        let family = self.family.ok_or_else(|| reader.missing(AF))?;
        // As in the kernel, a mark wins over an address, and mark 0 means TCP to every address.
        if let Some(mark) = self.mark {
            return Ok(match NonZeroU32::new(mark) {
                Some(mark) => ServiceKey::Mark { mark, family },
                None => ServiceKey::Address {
                    protocol: Protocol::TCP,
                    address: unspecified(family),
                    port: 0,
                },
            });
        }
        let protocol = self.protocol.ok_or_else(|| reader.missing(PROTOCOL))?;
        let address = self.address.ok_or_else(|| reader.missing(ADDR))?;
        let port = self.port.ok_or_else(|| reader.missing(PORT))?;
        Ok(ServiceKey::Address {
            protocol: Protocol(protocol),
            address: parse_address(&address, family)?,
            port,
        })
    }
}

/// What identifies a destination within its service: a real server's address and port.
///
/// It displays and reads as ipvsadm writes it: `172.17.0.3:80`, `[2001:db8::3]:80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(
    clippy::exhaustive_structs,
    reason = "what the kernel looks a destination up by, and all of it, as in a ServiceKey"
)]
pub struct DestinationKey {
    /// The real server's address. `IPVS_DEST_ATTR_ADDR`; its family is
    /// `IPVS_DEST_ATTR_ADDR_FAMILY`.
    pub address: IpAddr,
    /// The port, 0 to 65535; 0 means the port to which the client connected.
    /// `IPVS_DEST_ATTR_PORT`.
    pub port: u16,
}

impl DestinationKey {
    /// A destination at an address and port.
    ///
    /// # Errors
    /// If the address has a zone, as for [`ServiceKey::new`].
    pub fn new(address: SocketAddr) -> Result<Self, InvalidValue> {
        let (address, port) = without_zone("destination", address)?;
        Ok(Self { address, port })
    }

    /// The address family.
    pub const fn family(&self) -> AddressFamily {
        AddressFamily::of(self.address)
    }
}

impl TryFrom<SocketAddr> for DestinationKey {
    type Error = InvalidValue;

    fn try_from(address: SocketAddr) -> Result<Self, InvalidValue> {
        Self::new(address)
    }
}

impl fmt::Display for DestinationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port).fmt(f)
    }
}

impl FromStr for DestinationKey {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let refuse = |rule| InvalidValue::new("destination", text, rule);
        if has_zone(text) {
            return Err(refuse(NO_ZONE));
        }
        let rule = "must look like \"172.17.0.3:80\" or \"[2001:db8::3]:80\"";
        Self::new(text.parse().map_err(|_| refuse(rule))?)
    }
}

const NO_ZONE: &str =
    "must have no zone such as %eth0: IPVS keeps an address without its interface";

/// The address and the port, if there is nothing else.
fn without_zone(what: &'static str, address: SocketAddr) -> Result<(IpAddr, u16), InvalidValue> {
    match address {
        SocketAddr::V6(with_zone) if with_zone.scope_id() != 0 => {
            Err(InvalidValue::new(what, address, NO_ZONE))
        }
        _ => Ok((address.ip(), address.port())),
    }
}

/// Whether an IPv6 address names its zone, which a key cannot hold: `[fe80::1%2]:80`.
fn has_zone(text: &str) -> bool {
    text.contains('%')
}

/// Writes an address in the 16 bytes of a `union nf_inet_addr`: IPv4 in the first four.
#[inline]
pub(crate) fn put_address(number: u16, address: IpAddr, out: &mut impl Sink) {
    let bytes = match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(address) => address.octets(),
    };
    out.put(number, &bytes);
}

/// Reads an address. Short ones are padded with zeros, as the kernel does.
pub(crate) fn parse_address(
    attribute: &Attribute<'_>,
    family: AddressFamily,
) -> Result<IpAddr, ParseError> {
    let mut bytes = [0; 16];
    let length = attribute.value.len();
    let Some(start) = bytes.get_mut(..length) else {
        return Err(attribute.error(Problem::Value("must be at most 16 bytes")));
    };
    start.copy_from_slice(attribute.value);
    let [a, b, c, d, ..] = bytes;
    Ok(match family {
        AddressFamily::Ipv4 => Ipv4Addr::new(a, b, c, d).into(),
        AddressFamily::Ipv6 => Ipv6Addr::from(bytes).into(),
    })
}

const fn unspecified(family: AddressFamily) -> IpAddr {
    match family {
        AddressFamily::Ipv4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Ipv6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests;
