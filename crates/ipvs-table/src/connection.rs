//! Connections, as the kernel lists them in /proc.

use std::{
    borrow::Cow,
    error, fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    time::Duration,
};

use ipvs_packet::{DestinationKey, EngineName, Protocol, ServiceKey};

/// One entry of the kernel's connection table: a line of /proc/net/ip_vs_conn, as
/// `ipvsadm -L -n -c` shows it.
///
/// Addresses and ports are the client's, the one to which it connected, and the real server's. Of
/// the three, only the real server's may be of another family (tunnelled).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct Connection {
    /// The transport protocol; 0 (`IPPROTO_IP`) in the templates of services of a firewall mark.
    pub protocol: Protocol,
    /// The client. In a [template](Self::is_template), its network and port 0.
    pub client: SocketAddr,
    /// The virtual address; in the templates of services of a firewall mark, [the
    /// mark](Self::mark) in the disguise of an address.
    pub virtual_address: SocketAddr,
    /// The real server. Port 0 in templates that hold for every port.
    pub destination: SocketAddr,
    /// Its state.
    pub state: ConnectionState,
    /// How long until it times out if no packet comes, in whole seconds; 0 when that is due. The
    /// kernel's defaults are 900 s for established TCP, 120 s for closing TCP, 300 s for UDP
    /// ([`Timeouts`](ipvs_packet::Timeouts)); of a template, what is left of the service's timeout.
    #[cfg_attr(feature = "serde", serde(with = "crate::serialize::whole_seconds"))]
    pub expires: Duration,
    /// What a persistence engine read out of the traffic, in templates of services that have one.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub engine: Option<EngineData>,
    /// Whether the connection was made here or came from a sync daemon. Only
    /// /proc/net/ip_vs_conn_sync says so.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub origin: Option<ConnectionOrigin>,
}

impl Connection {
    /// Whether this is a persistence template, which stands for no connection but says where the
    /// next ones of a client go.
    ///
    /// The kernel does not say so; their client has port 0, as otherwise only an FTP data
    /// connection has whose port is not known yet, and that is in state `LISTEN`.
    pub fn is_template(&self) -> bool {
        self.client.port() == 0 && self.state != ConnectionState::LISTEN
    }

    /// The firewall mark of the service, in the templates of such services. (Their connections do
    /// not tell it: they have the address to which the client connected.)
    pub fn mark(&self) -> Option<NonZeroU32> {
        if self.protocol != Protocol(0) {
            return None;
        }
        let [a, b, c, d] = match self.virtual_address.ip() {
            IpAddr::V4(address) => address.octets(),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.octets();
                [a, b, c, d]
            }
        };
        NonZeroU32::new(u32::from_be_bytes([a, b, c, d]))
    }

    /// Whether it is one of this real server in this service, templates included: to list or count the
    /// connections of one real server, filter the table by it. A service on port 0 has the connections
    /// to every port of its address that no other service has. Of a firewall mark, only templates
    /// name the service; for connections the real server alone decides.
    pub fn is_of(&self, service: &ServiceKey, real_server: &DestinationKey) -> bool {
        let at = self.destination;
        let is_port = |port: u16, key: u16| port == key || port == 0 || key == 0;
        if at.ip() != real_server.address || !is_port(at.port(), real_server.port) {
            return false;
        }
        match *service {
            ServiceKey::Address { protocol, address, port } => {
                self.protocol == protocol
                    && self.virtual_address.ip() == address
                    && is_port(self.virtual_address.port(), port)
            }
            ServiceKey::Mark { mark, .. } => self.mark().is_none_or(|found| found == mark),
        }
    }

    /// Reads a line of /proc/net/ip_vs_conn, without its end.
    ///
    /// # Errors
    ///
    /// [`MalformedConnection`] names the first column that is missing or cannot be read.
    pub fn parse(line: &[u8]) -> Result<Self, MalformedConnection> {
        Self::parse_columns(line, false).map_err(MalformedConnection)
    }

    /// Reads a line of /proc/net/ip_vs_conn_sync, without its end: it has the connection's origin.
    ///
    /// # Errors
    ///
    /// As for [`parse`](Self::parse).
    pub fn parse_with_origin(line: &[u8]) -> Result<Self, MalformedConnection> {
        Self::parse_columns(line, true).map_err(MalformedConnection)
    }

    fn parse_columns(line: &[u8], has_origin: bool) -> Result<Self, &'static str> {
        let mut columns = Columns(line);
        let protocol = columns.next().and_then(protocol).ok_or("Pro")?;
        let client_address = columns.next().and_then(address).ok_or("FromIP")?;
        let client_port = columns.next().and_then(port).ok_or("FPrt")?;
        let virtual_address = columns.next().and_then(address).ok_or("ToIP")?;
        let virtual_port = columns.next().and_then(port).ok_or("TPrt")?;
        let destination_address = columns.next().and_then(address).ok_or("DestIP")?;
        let destination_port = columns.next().and_then(port).ok_or("DPrt")?;
        let state = columns.next().and_then(ConnectionState::parse).ok_or("State")?;
        let origin = match has_origin {
            true => Some(columns.next().and_then(ConnectionOrigin::parse).ok_or("Origin")?),
            false => None,
        };
        let expires = columns.next().and_then(seconds).ok_or("Expires")?;
        Ok(Self {
            protocol,
            client: SocketAddr::new(client_address, client_port),
            virtual_address: SocketAddr::new(virtual_address, virtual_port),
            destination: SocketAddr::new(destination_address, destination_port),
            state,
            expires,
            engine: EngineData::parse(columns.0)?,
            origin,
        })
    }
}

/// The state of a connection, by the kernel's name for it. Each protocol has its own; templates
/// have [`NONE`](Self::NONE) and [`ASSURED`](Self::ASSURED) since Linux 4.19, before that any.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionState(Cow<'static, str>);

macro_rules! states {
    ($($(#[$doc:meta])* $const:ident;)*) => {
        impl ConnectionState {
            $(
                $(#[$doc])*
                pub const $const: Self = Self(Cow::Borrowed(stringify!($const)));
            )*

            /// Those that have a constant need no memory.
            fn known(name: &str) -> Option<Self> {
                match name {
                    $(stringify!($const) => Some(Self::$const),)*
                    _ => None,
                }
            }
        }
    };
}

states! {
    /// No packet has set a state yet; also an unassured template.
    NONE;
    /// A template whose connection got past its handshake.
    ASSURED;
    /// TCP, SCTP: open in both directions.
    ESTABLISHED;
    /// TCP: the real server sent SYN. (In FTP's active data connections.)
    SYN_SENT;
    /// TCP: the client sent SYN.
    SYN_RECV;
    /// TCP: one side sent FIN.
    FIN_WAIT;
    /// TCP: both sides sent FIN.
    TIME_WAIT;
    /// TCP: reset.
    CLOSE;
    /// TCP: the client sent FIN.
    CLOSE_WAIT;
    /// TCP: the last acknowledgement is awaited.
    LAST_ACK;
    /// TCP: a data connection of FTP that is awaited.
    LISTEN;
    /// TCP: the answer to SYN, where `net.ipv4.vs.secure_tcp` is on.
    SYNACK;
    /// UDP: its only state.
    UDP;
    /// ICMP: its only state.
    ICMP;
    /// SCTP: the client sent INIT.
    INIT1;
    /// SCTP: the real server sent INIT.
    INIT;
    /// SCTP: the client sent COOKIE-ECHO.
    COOKIE_SENT;
    /// SCTP: COOKIE-ACK was sent.
    COOKIE_REPLIED;
    /// SCTP: a cookie is awaited.
    COOKIE_WAIT;
    /// SCTP: the real server sent its cookie.
    COOKIE;
    /// SCTP: the cookie was echoed.
    COOKIE_ECHOED;
    /// SCTP: SHUTDOWN was sent.
    SHUTDOWN_SENT;
    /// SCTP: SHUTDOWN was received.
    SHUTDOWN_RECEIVED;
    /// SCTP: SHUTDOWN-ACK was sent.
    SHUTDOWN_ACK_SENT;
    /// SCTP: refused.
    REJECTED;
    /// SCTP: over.
    CLOSED;
}

impl ConnectionState {
    /// The kernel's name.
    pub fn name(&self) -> &str {
        &self.0
    }

    fn parse(column: &[u8]) -> Option<Self> {
        Self::from_name(std::str::from_utf8(column).ok()?)
    }

    /// A word without white space.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        if name.is_empty() || name.contains(char::is_whitespace) {
            return None;
        }
        Some(Self::known(name).unwrap_or_else(|| Self(Cow::Owned(name.to_owned()))))
    }
}

impl fmt::Display for ConnectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ConnectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a persistence engine keeps in a template.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct EngineData {
    /// The engine.
    pub name: EngineName,
    /// Its data, at most 255 bytes, as it came in a packet: for `sip`, the Call-ID. Bytes, since a
    /// client chooses them; what follows a NUL the kernel does not tell.
    #[cfg_attr(feature = "serde", serde(with = "crate::serialize::escaped"))]
    pub data: Vec<u8>,
}

impl EngineData {
    /// Data of an engine.
    pub fn new(name: EngineName, data: impl Into<Vec<u8>>) -> Self {
        Self { name, data: data.into() }
    }

    fn parse(rest: &[u8]) -> Result<Option<Self>, &'static str> {
        let Some(rest) = rest.strip_prefix(b" ") else { return Ok(None) };
        // The data may hold blanks too, so that only the first one counts.
        let end = rest.iter().position(|&byte| byte == b' ').ok_or("PEData")?;
        let name = std::str::from_utf8(&rest[..end]).map_err(|_| "PEName")?;
        let name = EngineName::new(name).map_err(|_| "PEName")?;
        Ok(Some(Self::new(name, &rest[end + 1..])))
    }
}

/// Where a connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[allow(clippy::exhaustive_enums, reason = "the kernel has one bit for it")]
pub enum ConnectionOrigin {
    /// Here. (`LOCAL`)
    Local,
    /// On another director; a backup sync daemon took it over. (`SYNC`, `IP_VS_CONN_F_SYNC`)
    Sync,
}

impl ConnectionOrigin {
    fn parse(column: &[u8]) -> Option<Self> {
        match column {
            b"LOCAL" => Some(Self::Local),
            b"SYNC" => Some(Self::Sync),
            _ => None,
        }
    }
}

/// A line of the connection table that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MalformedConnection(&'static str);

impl MalformedConnection {
    /// The column that is missing or malformed, by its name in the table's header: `FromIP`.
    pub fn column(&self) -> &'static str {
        self.0
    }
}

impl fmt::Display for MalformedConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {} is missing or cannot be read", self.0)
    }
}

impl error::Error for MalformedConnection {}

/// Columns between blanks, and what is left of the line behind those that were taken.
struct Columns<'a>(&'a [u8]);

impl<'a> Iterator for Columns<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let start = self.0.iter().position(|&byte| byte != b' ')?;
        let rest = &self.0[start..];
        let end = rest.iter().position(|&byte| byte == b' ').unwrap_or(rest.len());
        let (column, rest) = rest.split_at(end);
        self.0 = rest;
        Some(column)
    }
}

/// As the kernel's `ip_vs_proto_name` writes it.
fn protocol(column: &[u8]) -> Option<Protocol> {
    Some(match column {
        b"TCP" => Protocol::TCP,
        b"UDP" => Protocol::UDP,
        b"SCTP" => Protocol::SCTP,
        b"IP" => Protocol(0),
        b"ICMP" => Protocol(1),
        b"ICMPv6" => Protocol(58),
        other => Protocol(digits(other.strip_prefix(b"IP_")?)?.try_into().ok()?),
    })
}

/// Eight hexadecimal digits, or an IPv6 address in full.
fn address(column: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(column).ok()?;
    if column.contains(&b':') {
        return text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    let number = hexadecimal(column).filter(|_| column.len() == 8)?;
    Some(Ipv4Addr::from(u32::try_from(number).ok()?).into())
}

fn port(column: &[u8]) -> Option<u16> {
    hexadecimal(column)?.try_into().ok()
}

/// The kernel counts the ticks that are left without a sign: of a connection whose time is over but
/// which is still there, 2^64 ticks less a few are left. No timeout is half as long.
fn seconds(column: &[u8]) -> Option<Duration> {
    const OVERDUE: u64 = (1 << 63) / 1000;
    Some(Duration::from_secs(match digits(column)? {
        OVERDUE.. => 0,
        seconds => seconds,
    }))
}

fn digits(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok().filter(|text| !text.starts_with('+'))?;
    text.parse().ok()
}

/// A number as the kernel's `%X` writes it, of 64 bits at most.
fn hexadecimal(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok().filter(|text| !text.starts_with('+'))?;
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests;
