//! An address of a link, with all its properties. Longer than 500 lines by their documentation.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
    time::Duration,
};

use netlink_packet_core::DefaultNla;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, CacheInfo},
};
use netlink_talk::{Raw, names};

use super::{
    prefix::{self, host_len, number},
    scope::Scope,
};
use crate::{
    error::{Error, Operation, Text},
    netlink::attributes::{self, Object},
};

/// What an address is listed as.
const RTM_NEWADDR: u16 = 20;
/// `IFA_LABEL`.
const LABEL: u16 = 3;

/// `INFINITY_LIFE_TIME`.
const FOREVER: u32 = u32::MAX;

/// An address of a link, with the length of its prefix and its properties.
///
/// Parsed from and shown in the notation of `ip address add`: `10.0.0.185/32`,
/// `fd00::185/128 preferred_lft 0 nodad`. Without a length it is a host's: /32 for IPv4, /128 for
/// IPv6, which is right for a virtual IP. What is not said is the kernel's default.
///
/// A link has an IPv6 address once, and an IPv4 address once for each length, whatever the
/// properties. Two values are equal if all of it is equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(into = "String", try_from = "String"))]
pub struct Address {
    ip: IpAddr,
    prefix_len: u8,
    /// `None`: the default.
    scope: Option<Scope>,
    /// `None`: the link's name.
    label: Option<Label>,
    metric: u32,
    /// Seconds.
    valid: u32,
    /// Seconds, at most those of `valid`.
    preferred: u32,
    nodad: bool,
    noprefixroute: bool,
}

impl Address {
    /// An address with a prefix length of 0 to 32 (IPv4) or 128 (IPv6) bits.
    ///
    /// # Errors
    /// If the length is above that ([`ErrorKind::InvalidInput`](crate::ErrorKind)).
    pub fn new(ip: IpAddr, prefix_len: u8) -> Result<Self, Error> {
        prefix::checked(ip, prefix_len)
            .map_err(|rule| Error::invalid(format_args!("address {ip}/{prefix_len}"), rule))?;
        Ok(Self {
            ip,
            prefix_len,
            scope: None,
            label: None,
            metric: 0,
            valid: FOREVER,
            preferred: FOREVER,
            nodad: false,
            noprefixroute: false,
        })
    }

    /// An address with the whole length: /32 or /128.
    pub fn host(ip: IpAddr) -> Self {
        Self {
            ip,
            prefix_len: host_len(ip),
            scope: None,
            label: None,
            metric: 0,
            valid: FOREVER,
            preferred: FOREVER,
            nodad: false,
            noprefixroute: false,
        }
    }

    /// Without duplicate address detection: `nodad` (`IFA_F_NODAD`). The address is usable at once
    /// instead of after about two seconds. Right for one that several hosts have, such as the
    /// virtual IP of direct routing. IPv4 has no such detection, so nothing changes there.
    #[must_use]
    pub fn nodad(self) -> Self {
        Self { nodad: self.ip.is_ipv6(), ..self }
    }

    /// Without a route to its prefix over the link: `noprefixroute` (`IFA_F_NOPREFIXROUTE`).
    /// A /32 never has one.
    #[must_use]
    pub fn noprefixroute(self) -> Self {
        Self { noprefixroute: true, ..self }
    }

    /// Not the source of new connections while there is another address: `preferred_lft 0`. Right
    /// for an IPv6 virtual IP on a link that has an address of its own, since the kernel could
    /// choose either. In IPv4 the kernel stores it and ignores it; there the order of the
    /// addresses and their [`scope`](Self::with_scope) decide.
    #[must_use]
    pub fn deprecated(self) -> Self {
        Self { preferred: 0, ..self }
    }

    /// Limits how long the address is there (`valid_lft`) and how long it may be the source of new
    /// connections (`preferred_lft`), in whole seconds; fractions are dropped. `None` is for ever,
    /// which is the default of both. The kernel removes the address when the time is up.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind) if `preferred` is longer than `valid`, if
    /// `valid` is less than a second, or if either is longer than 4294967294 seconds.
    pub fn with_lifetimes(
        self,
        valid: Option<Duration>,
        preferred: Option<Duration>,
    ) -> Result<Self, Error> {
        let invalid = |rule| Error::invalid(format_args!("address {self}"), rule);
        let seconds = |time: Option<Duration>| match time.map(|time| time.as_secs()) {
            None => Ok(FOREVER),
            Some(seconds) => u32::try_from(seconds)
                .ok()
                .filter(|seconds| *seconds != FOREVER)
                .ok_or_else(|| invalid("a lifetime is at most 4294967294 seconds")),
        };
        let (valid, preferred) = (seconds(valid)?, seconds(preferred)?);
        self.with_seconds(valid, preferred).map_err(invalid)
    }

    /// How far the address is valid: `scope`. The default is [`Scope::GLOBAL`], and
    /// [`Scope::HOST`] for loopback addresses. In IPv6 the scope follows from the address, so
    /// nothing changes there. The kernel wants the same scope for all IPv4 addresses of a
    /// network on a link.
    #[must_use]
    pub fn with_scope(self, scope: Scope) -> Self {
        let said = self.ip.is_ipv4() && scope != default_scope(self.ip);
        Self { scope: said.then_some(scope), ..self }
    }

    /// A name for the address: `label` (`IFA_LABEL`). The default is the link's name. `ip address`
    /// takes only labels that begin with it, such as `eth0:1`, which older programs show as an
    /// interface. IPv6 has no labels, so nothing changes there.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind) unless it has 1 to 15 bytes without white
    /// space and NUL.
    pub fn with_label(self, label: &str) -> Result<Self, Error> {
        let label = Label::new(&names::from_text(label))
            .map_err(|rule| Error::invalid(format_args!("address label {label:?}"), rule))?;
        Ok(Self { label: self.ip.is_ipv4().then_some(label), ..self })
    }

    /// The metric of the route to its prefix: `metric` (`IFA_RT_PRIORITY`), which Linux knows since
    /// 4.18. 0 is the kernel's default: 0 in IPv4, 256 in IPv6.
    #[must_use]
    pub fn with_metric(self, metric: u32) -> Self {
        Self { metric, ..self }
    }

    /// The address itself.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// The length of the prefix in bits.
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// Whether duplicate address detection is left out.
    pub fn is_nodad(&self) -> bool {
        self.nodad
    }

    /// Whether there is no route to its prefix.
    pub fn is_noprefixroute(&self) -> bool {
        self.noprefixroute
    }

    /// Whether it is not to be the source of new connections: its preferred lifetime is over.
    pub fn is_deprecated(&self) -> bool {
        self.preferred == 0
    }

    /// How long it is there. In a list, what is left of that. `None` is for ever.
    pub fn valid_lifetime(&self) -> Option<Duration> {
        duration(self.valid)
    }

    /// How long it may be the source of new connections. In a list, what is left of that. `None` is
    /// for ever.
    pub fn preferred_lifetime(&self) -> Option<Duration> {
        duration(self.preferred)
    }

    /// How far it is valid.
    pub fn scope(&self) -> Scope {
        self.scope.unwrap_or_else(|| default_scope(self.ip))
    }

    /// Its name, where that is not the link's. Bytes that are not UTF-8 are written as `\xff`.
    pub fn label(&self) -> Option<Cow<'_, str>> {
        self.label.as_ref().map(|label| match std::str::from_utf8(label.bytes()) {
            Ok(text) if !text.contains('\\') => Cow::Borrowed(text),
            _ => Cow::Owned(names::to_text(label.bytes())),
        })
    }

    /// The metric of the route to its prefix, 0 for the default.
    pub fn metric(&self) -> u32 {
        self.metric
    }

    /// For errors.
    pub(crate) fn text(&self) -> Text {
        Text::new(self.ip, self)
    }

    /// The part that it shares with the other hosts of its link.
    pub(crate) fn network(&self) -> IpAddr {
        prefix::network(self.ip, self.prefix_len)
    }

    /// What tells it from the others of a link.
    pub(crate) fn key(&self) -> (IpAddr, u8) {
        (self.ip, self.prefix_len)
    }

    /// What must be done so that an address that is there in the form `present` gets the
    /// properties of this one. What this one leaves to the kernel is left as it is, but for the
    /// lifetimes.
    pub(crate) fn difference(&self, present: &Self) -> Difference {
        let other_scope = self.scope.is_some() && self.scope != present.scope;
        let other_label = self.label.is_some() && self.label != present.label;
        let no_route = self.noprefixroute && !present.noprefixroute;
        // A limited lifetime is renewed each time.
        let other_time = self.preferred != present.preferred
            || self.valid != present.valid
            || self.valid != FOREVER;
        let other_metric = self.metric != 0 && self.metric != present.metric;
        if self.ip.is_ipv4() && (other_scope || other_label || no_route) {
            return Difference::Anew;
        }
        if other_time || other_metric || no_route {
            return Difference::InPlace(Self {
                metric: if self.metric == 0 { present.metric } else { self.metric },
                nodad: self.nodad || present.nodad,
                noprefixroute: self.noprefixroute || present.noprefixroute,
                ..*self
            });
        }
        Difference::None
    }

    /// What the kernel is asked to add or change.
    pub(crate) fn message(&self, index: u32) -> AddressMessage {
        let mut message = self.key_message(index);
        message.header.scope = self.scope().number().into();
        let mut flags = AddressFlags::empty();
        flags.set(AddressFlags::Nodad, self.nodad);
        flags.set(AddressFlags::Noprefixroute, self.noprefixroute);
        if self.nodad {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        let attributes = &mut message.attributes;
        if !flags.is_empty() {
            attributes.push(AddressAttribute::Flags(flags));
        }
        if let Some(label) = self.label {
            let bytes = [label.bytes(), &[0]].concat();
            attributes.push(AddressAttribute::Other(DefaultNla::new(LABEL, bytes)));
        }
        if self.metric != 0 {
            attributes.push(AddressAttribute::RoutePriority(self.metric));
        }
        if (self.valid, self.preferred) != (FOREVER, FOREVER) {
            let mut times = CacheInfo::default();
            (times.ifa_valid, times.ifa_preferred) = (self.valid, self.preferred);
            attributes.push(AddressAttribute::CacheInfo(times));
        }
        message
    }

    /// What the kernel is asked to find or remove.
    pub(crate) fn key_message(&self, index: u32) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = self.prefix_len;
        message.header.family = match self.ip {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message.attributes =
            vec![AddressAttribute::Local(self.ip), AddressAttribute::Address(self.ip)];
        message
    }

    #[cfg(test)]
    pub(crate) fn with_times_of(self, other: &Self) -> Self {
        Self { valid: other.valid, preferred: other.preferred, ..self }
    }

    fn with_seconds(self, valid: u32, preferred: u32) -> Result<Self, &'static str> {
        match () {
            () if valid == 0 => Err("its valid lifetime is less than a second"),
            () if preferred > valid => Err("its preferred lifetime is longer than the valid one"),
            () => Ok(Self { valid, preferred, ..self }),
        }
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        Self::host(ip)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix_len)?;
        if let Some(scope) = self.scope {
            write!(f, " scope {scope}")?;
        }
        if let Some(label) = self.label() {
            write!(f, " label {label}")?;
        }
        if self.metric != 0 {
            write!(f, " metric {}", self.metric)?;
        }
        if self.valid != FOREVER {
            write!(f, " valid_lft {}", self.valid)?;
        }
        if self.preferred != FOREVER {
            write!(f, " preferred_lft {}", self.preferred)?;
        }
        if self.nodad {
            write!(f, " nodad")?;
        }
        if self.noprefixroute {
            write!(f, " noprefixroute")?;
        }
        Ok(())
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |rule| Error::invalid(format_args!("address {text:?}"), rule);
        let mut words = text.split(' ');
        let (ip, len) = prefix::parse(words.next().unwrap_or_default()).map_err(invalid)?;
        let mut address = Self::new(ip, len)?;
        let (mut valid, mut preferred) = (FOREVER, FOREVER);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| invalid("it ends too early"));
            match word {
                "nodad" => address = address.nodad(),
                "noprefixroute" => address = address.noprefixroute(),
                "scope" => address = address.with_scope(value()?.parse()?),
                "label" => address = address.with_label(value()?)?,
                "metric" => address = address.with_metric(number(value()?).map_err(invalid)?),
                "valid_lft" => valid = seconds(value()?).map_err(invalid)?,
                "preferred_lft" => preferred = seconds(value()?).map_err(invalid)?,
                _ => return Err(invalid("there is a word that is no property of an address")),
            }
        }
        if valid != FOREVER && preferred == FOREVER {
            return Err(invalid("with valid_lft it takes preferred_lft too"));
        }
        address.with_seconds(valid, preferred).map_err(invalid)
    }
}

text_form!(Address);

/// How two forms of an address differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    None,
    /// In what the kernel changes where it is: to this.
    InPlace(Address),
    /// In what it has from the moment that it is added.
    Anew,
}

/// An address as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Present {
    pub(crate) address: Address,
    /// Index of its link.
    pub(crate) index: u32,
    /// IPv4: another of the same network came before it; it goes when that one goes.
    pub(crate) secondary: bool,
}

impl Present {
    /// Reads what the kernel lists. A label that is the link's name counts as none. `None`: it is not an
    /// address of IPv4 or IPv6.
    pub(crate) fn read(
        operation: &Operation,
        raw: &Raw,
        link: &str,
    ) -> Result<Option<Self>, Error> {
        if raw.message_type != RTM_NEWADDR {
            return Ok(None);
        }
        // `struct ifaddrmsg`.
        let object = Object::new(raw, 8)
            .ok_or_else(|| Error::malformed(operation, "it is too short for an address"))?;
        let link = names::from_text(link);
        let mut flags = u32::from(object.byte(2));
        let (mut local, mut peer, mut label, mut metric) = (None, None, None, 0);
        let (mut valid, mut preferred) = (FOREVER, FOREVER);
        object.each(|number, value| match number {
            1 => peer = attributes::address(value),
            2 => local = attributes::address(value),
            LABEL if attributes::name(value) != link => {
                label = Label::new(attributes::name(value)).ok();
            }
            // `struct ifa_cacheinfo`.
            6 => {
                preferred = attributes::number(value).unwrap_or(FOREVER);
                valid = value.get(4..).and_then(attributes::number).unwrap_or(FOREVER);
            }
            8 => flags = attributes::number(value).unwrap_or(flags),
            9 => metric = attributes::number(value).unwrap_or_default(),
            _ => {}
        });
        let flags = AddressFlags::from_bits_retain(flags);
        if flags.contains(AddressFlags::Deprecated) {
            // IPv4 lists no lifetimes of an address that is valid for ever.
            preferred = 0;
        }
        // IPv6 gives the address in IFA_ADDRESS unless it has a peer; IPv4 in IFA_LOCAL.
        let Some(ip) = local.or(peer) else { return Ok(None) };
        let Ok(address) = Address::new(ip, object.byte(1)) else { return Ok(None) };
        let address = address.with_scope(Scope::new(object.byte(3)));
        Ok(Some(Self {
            address: Address {
                label: label.filter(|_| address.ip.is_ipv4()),
                metric,
                valid,
                preferred,
                nodad: flags.contains(AddressFlags::Nodad) && address.ip.is_ipv6(),
                noprefixroute: flags.contains(AddressFlags::Noprefixroute),
                ..address
            },
            index: object.number(4),
            secondary: address.ip.is_ipv4() && flags.contains(AddressFlags::Secondary),
        }))
    }
}

/// Fifteen bytes, those behind the end being NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Label([u8; 15]);

impl Label {
    fn new(name: &[u8]) -> Result<Self, &'static str> {
        if name.is_empty() || name.len() > 15 {
            return Err("it has 1 to 15 bytes");
        }
        if name.iter().any(|byte| byte.is_ascii_whitespace() || matches!(byte, 0x0b | 0)) {
            return Err("it has neither white space nor NUL");
        }
        let mut bytes = [0; 15];
        bytes[..name.len()].copy_from_slice(name);
        Ok(Self(bytes))
    }

    fn bytes(&self) -> &[u8] {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        &self.0[..end]
    }
}

/// fe80::/10, which the kernel makes for itself on each link that is up.
pub(crate) fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if is_link_local_v6(ip))
}

fn is_link_local_v6(ip: Ipv6Addr) -> bool {
    ip.segments()[0] & 0xffc0 == 0xfe80
}

/// As `ip address` and the kernel have it: 127.0.0.0/8 is of no use outside the host.
fn default_scope(ip: IpAddr) -> Scope {
    match ip {
        _ if ip.is_loopback() => Scope::HOST,
        _ if is_link_local(ip) => Scope::LINK,
        // fec0::/10.
        IpAddr::V6(ip) if ip.segments()[0] & 0xffc0 == 0xfec0 => Scope::SITE,
        _ => Scope::GLOBAL,
    }
}

fn duration(seconds: u32) -> Option<Duration> {
    (seconds != FOREVER).then(|| Duration::from_secs(seconds.into()))
}

fn seconds(text: &str) -> Result<u32, &'static str> {
    if text == "forever" { Ok(FOREVER) } else { number(text) }
}

#[cfg(test)]
mod tests;
