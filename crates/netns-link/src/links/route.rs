use std::{fmt, net::IpAddr, str::FromStr};

use netlink_packet_route::{
    AddressFamily,
    route::{RouteAttribute, RouteMessage, RouteScope, RouteType},
};

use netlink_talk::Raw;

use super::prefix::{Prefix, number};
use crate::{
    error::{Error, Operation, Text},
    netlink::attributes::{self, Object},
};

/// `RT_TABLE_LOCAL`.
const LOCAL_TABLE: u8 = 255;
/// What a route is listed as.
const RTM_NEWROUTE: u16 = 24;

/// A route of the local table: packets for these addresses are the host's own.
///
/// The kernel makes such a route for each address of a link. One for a whole range takes the place
/// of as many addresses: a director whose `lo` has it gets every packet for the range, and with
/// [`with_source`](Self::with_source) the host's own connections to the range come from an address
/// that others can answer to. (Without, IPv4 takes the address that a connection is for as its
/// source, and IPv6 one of the host's.) Addresses of the range that nobody serves refuse
/// connections. Programs cannot bind to an IPv6 address that only a route makes local. Equivalent
/// to `ip route add local 10.96.0.0/12 dev lo src NODE`.
///
/// ```no_run
/// use netns_link::{NetNs, Route, blocking::Links};
///
/// let links = Links::connect(&NetNs::current()?)?;
/// if let Some(lo) = links.find("lo")? {
///     let route = Route::local("10.96.0.0/12".parse()?).with_source([192, 168, 50, 1].into());
///     links.add_route(&lo, route)?;
/// }
/// # Ok::<(), netns_link::Error>(())
/// ```
///
/// Parsed from and shown in the notation of `ip route add`, without the link:
/// `local 10.96.0.0/12 src 192.168.50.1 metric 10 proto static`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(into = "String", try_from = "String"))]
pub struct Route {
    prefix: Prefix,
    source: Option<IpAddr>,
    metric: u32,
    protocol: RouteProtocol,
}

impl Route {
    /// A local route for a range or a single address.
    pub fn local(prefix: Prefix) -> Self {
        Self { prefix, source: None, metric: 0, protocol: RouteProtocol::BOOT }
    }

    /// The source of the host's own connections to the range, if they do not choose one: `src`
    /// (`RTA_PREFSRC`). An address that the host has, of the prefix's family; the kernel refuses
    /// others. When the address goes, the kernel may leave the route as it is.
    #[must_use]
    pub fn with_source(self, source: IpAddr) -> Self {
        Self { source: Some(source), ..self }
    }

    /// Which one counts of several for the same prefix: the least, `metric` (`RTA_PRIORITY`). The
    /// default, 0, is 1024 in IPv6, and listed as that. The kernel's own local routes have 0.
    #[must_use]
    pub fn with_metric(self, metric: u32) -> Self {
        Self { metric, ..self }
    }

    /// Who made it: `proto` (`RTM_PROTOCOL`). The default is [`RouteProtocol::BOOT`], as with
    /// `ip route`. Only a route with the same one is deleted, so that a program with a number of
    /// its own finds and deletes its own routes only.
    #[must_use]
    pub fn with_protocol(self, protocol: RouteProtocol) -> Self {
        Self { protocol, ..self }
    }

    /// For which addresses it is.
    pub fn prefix(&self) -> Prefix {
        self.prefix
    }

    /// The source of the host's own connections, where it has one.
    pub fn source(&self) -> Option<IpAddr> {
        self.source
    }

    /// The metric: 0 to 4294967295.
    pub fn metric(&self) -> u32 {
        self.metric
    }

    /// Who made it.
    pub fn protocol(&self) -> RouteProtocol {
        self.protocol
    }

    /// As the kernel lists it.
    pub(crate) fn as_listed(&self) -> Self {
        let metric = if self.prefix.ip().is_ipv6() && self.metric == 0 {
            // IP6_RT_PRIO_USER.
            1024
        } else {
            self.metric
        };
        Self { metric, ..*self }
    }

    /// What the kernel is asked to make or delete.
    pub(crate) fn message(&self, index: u32) -> RouteMessage {
        let mut message = Self::filter(index);
        let header = &mut message.header;
        header.address_family = match self.prefix.ip() {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        header.destination_prefix_length = self.prefix.length();
        header.protocol = self.protocol.0.into();
        header.scope = RouteScope::Host;
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Destination(self.prefix.ip().into()));
        if let Some(source) = self.source {
            attributes.push(RouteAttribute::PrefSource(source.into()));
        }
        if self.metric != 0 {
            attributes.push(RouteAttribute::Priority(self.metric));
        }
        message
    }

    /// What the kernel is asked to list; those before 4.20 list all.
    pub(crate) fn filter(index: u32) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.table = LOCAL_TABLE;
        message.header.kind = RouteType::Local;
        message.attributes = vec![RouteAttribute::Oif(index)];
        message
    }

    /// For errors.
    pub(crate) fn text(&self) -> Text {
        Text::new(self.prefix.ip(), self)
    }

    /// Reads what the kernel lists. `None`: it is not a local route over this link.
    pub(crate) fn read(
        operation: &Operation,
        raw: &Raw,
        index: u32,
    ) -> Result<Option<Self>, Error> {
        if raw.message_type != RTM_NEWROUTE {
            return Ok(None);
        }
        // `struct rtmsg`: family, lengths of destination and source, TOS, table, protocol, scope, type.
        let object = Object::new(raw, 12)
            .ok_or_else(|| Error::malformed(operation, "it is too short for a route"))?;
        if object.byte(4) != LOCAL_TABLE || object.byte(7) != u8::from(RouteType::Local) {
            return Ok(None);
        }
        let (mut destination, mut source, mut metric, mut out) = (None, None, 0, None);
        object.each(|number, value| match number {
            1 => destination = attributes::address(value),
            4 => out = attributes::number(value),
            6 => metric = attributes::number(value).unwrap_or_default(),
            7 => source = attributes::address(value),
            _ => {}
        });
        let all = match object.byte(0) {
            2 => IpAddr::from([0; 4]),
            10 => IpAddr::from([0; 16]),
            _ => return Ok(None),
        };
        let Ok(prefix) = Prefix::new(destination.unwrap_or(all), object.byte(1)) else {
            return Ok(None);
        };
        let protocol = RouteProtocol(object.byte(5));
        Ok((out == Some(index)).then_some(Self { prefix, source, metric, protocol }))
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "local {}", self.prefix)?;
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        if self.metric != 0 {
            write!(f, " metric {}", self.metric)?;
        }
        if self.protocol != RouteProtocol::BOOT {
            write!(f, " proto {}", self.protocol)?;
        }
        Ok(())
    }
}

impl FromStr for Route {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |rule| Error::invalid(format_args!("route {text:?}"), rule);
        let mut words = text.split(' ');
        if words.next() != Some("local") {
            return Err(invalid("it does not begin with \"local\""));
        }
        let ends = || invalid("it ends too early");
        let mut route = Self::local(words.next().ok_or_else(ends)?.parse()?);
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(ends)?;
            route = match word {
                "src" => {
                    route.with_source(value.parse().map_err(|_| invalid("src is no address"))?)
                }
                "metric" => route.with_metric(number(value).map_err(invalid)?),
                "proto" => route.with_protocol(value.parse()?),
                _ => return Err(invalid("there is a word that is no property of a route")),
            };
        }
        Ok(route)
    }
}

text_form!(Route);

/// Who made a route: the kernel's `RTPROT_…`, a number of `/etc/iproute2/rt_protos`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(into = "String", try_from = "String"))]
pub struct RouteProtocol(u8);

impl RouteProtocol {
    /// The kernel, for an address (2).
    pub const KERNEL: Self = Self(2);
    /// What `ip route` makes where it is not told otherwise (3).
    pub const BOOT: Self = Self(3);
    /// An administrator (4).
    pub const STATIC: Self = Self(4);

    /// A protocol by its number. Those from 5 on are free for programs, as far as
    /// `/etc/iproute2/rt_protos` does not list them.
    pub const fn new(number: u8) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn number(self) -> u8 {
        self.0
    }
}

const PROTOCOLS: [(RouteProtocol, &str); 3] = [
    (RouteProtocol::KERNEL, "kernel"),
    (RouteProtocol::BOOT, "boot"),
    (RouteProtocol::STATIC, "static"),
];

/// The name, or the number where there is none.
impl fmt::Display for RouteProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PROTOCOLS.iter().find(|(protocol, _)| protocol == self) {
            Some((_, name)) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

impl FromStr for RouteProtocol {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match PROTOCOLS.iter().find(|(_, name)| *name == text) {
            Some((protocol, _)) => Ok(*protocol),
            None => number(text)
                .map(Self)
                .map_err(|rule| Error::invalid(format_args!("route protocol {text:?}"), rule)),
        }
    }
}

text_form!(RouteProtocol);

#[cfg(test)]
mod tests {
    use netlink_packet_route::RouteNetlinkMessage;
    use proptest::prelude::*;

    use super::*;
    use crate::{ErrorKind, links::prefix};

    #[test]
    fn notation() {
        let text = "local 10.96.0.0/12 src 192.168.50.1 metric 10 proto static";
        let route: Route = text.parse().unwrap();
        let source = "192.168.50.1".parse().unwrap();
        assert_eq!(
            route,
            Route::local("10.96.0.0/12".parse().unwrap())
                .with_source(source)
                .with_metric(10)
                .with_protocol(RouteProtocol::STATIC)
        );
        assert_eq!(route.to_string(), text);
        for bad in [
            "",
            "10.0.0.0/8",
            "local",
            "local 10.0.0.1/8",
            "local 10.0.0.0/8 src",
            "local 10.0.0.0/8 src x",
            "local 10.0.0.0/8 via 10.0.0.1",
            "local 10.0.0.0/8 proto 256",
        ] {
            assert_eq!(bad.parse::<Route>().unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }

    fn route() -> impl Strategy<Value = Route> {
        let rest = (any::<Option<IpAddr>>(), any::<u32>(), any::<u8>());
        (any::<IpAddr>(), 0_u8..=128, rest).prop_map(|(ip, len, (source, metric, protocol))| {
            let len = len.min(prefix::host_len(ip));
            let prefix = Prefix::new(prefix::network(ip, len), len).unwrap();
            let source = source.filter(|source| source.is_ipv4() == ip.is_ipv4());
            let route =
                Route::local(prefix).with_metric(metric).with_protocol(RouteProtocol(protocol));
            source.map_or(route, |source| route.with_source(source))
        })
    }

    proptest! {
        #[test]
        fn notation_survives(route in route()) {
            prop_assert_eq!(route.to_string().parse::<Route>().unwrap(), route);
        }

        #[test]
        fn what_is_added_is_what_is_listed(route in route(), index: u32) {
            let raw = Raw::of(&RouteNetlinkMessage::NewRoute(route.message(index)));
            let read = |index| Route::read(&Operation::ListRoutes, &raw, index).unwrap();
            prop_assert_eq!(read(index), Some(route));
            prop_assert_eq!(read(!index), None);
        }
    }
}
