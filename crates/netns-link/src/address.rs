use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope},
};

use crate::error::Error;

/// An address of a link, with the length of its prefix: `10.0.0.185/32`, `fd00::185/128`.
///
/// Parsed from and shown in the notation of `ip address`. Without a length it is a host's:
/// /32 for IPv4, /128 for IPv6, which is what a virtual IP wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    ip: IpAddr,
    prefix_len: u8,
    nodad: bool,
}

impl Address {
    /// An address with a prefix length of 0 to 32 (IPv4) or 128 (IPv6) bits.
    ///
    /// # Errors
    /// If the length is above that ([`ErrorKind::InvalidInput`](crate::ErrorKind)).
    pub fn new(ip: IpAddr, prefix_len: u8) -> Result<Self, Error> {
        if prefix_len > host_prefix_len(ip) {
            let rule = match ip {
                IpAddr::V4(_) => "an IPv4 prefix length is 0 to 32",
                IpAddr::V6(_) => "an IPv6 prefix length is 0 to 128",
            };
            return Err(Error::InvalidAddress { address: format!("{ip}/{prefix_len}"), rule });
        }
        Ok(Self { ip, prefix_len, nodad: false })
    }

    /// An address with the whole length: /32 or /128.
    pub fn host(ip: IpAddr) -> Self {
        Self { ip, prefix_len: host_prefix_len(ip), nodad: false }
    }

    /// Without duplicate address detection: `nodad` of `ip address add` (`IFA_F_NODAD`). The
    /// address is usable at once instead of after about two seconds; right for one that several
    /// hosts have, as the virtual IP of direct routing. IPv4 has no such detection, nothing
    /// changes there.
    #[must_use]
    pub fn nodad(self) -> Self {
        Self { nodad: self.ip.is_ipv6(), ..self }
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

    /// The part that it shares with the other hosts of its link.
    pub(crate) fn network(&self) -> IpAddr {
        let cut = u32::from(host_prefix_len(self.ip) - self.prefix_len);
        match self.ip {
            IpAddr::V4(ip) => {
                IpAddr::V4((ip.to_bits() & u32::MAX.checked_shl(cut).unwrap_or(0)).into())
            }
            IpAddr::V6(ip) => {
                IpAddr::V6((ip.to_bits() & u128::MAX.checked_shl(cut).unwrap_or(0)).into())
            }
        }
    }

    /// What the kernel is told to add or remove it.
    pub(crate) fn message(&self, index: u32) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = self.prefix_len;
        message.header.family = match self.ip {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        if self.ip.is_loopback() {
            // As `ip address` does it: 127.0.0.0/8 is of no use outside the host.
            message.header.scope = AddressScope::Host;
        }
        if self.nodad {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        message.attributes =
            vec![AddressAttribute::Local(self.ip), AddressAttribute::Address(self.ip)];
        message
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        Self::host(ip)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix_len)
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |rule| Error::InvalidAddress { address: text.to_owned(), rule };
        let (ip, prefix_len) = match text.split_once('/') {
            Some((ip, prefix_len)) => (ip, Some(prefix_len)),
            None => (text, None),
        };
        let ip = ip.parse().map_err(|_| invalid("it is neither IPv4 nor IPv6"))?;
        match prefix_len {
            None => Ok(Self::host(ip)),
            // `u8::from_str` takes a sign, the notation does not.
            Some(digits) if digits.starts_with('+') => Err(invalid("no prefix length")),
            Some(digits) => Self::new(ip, digits.parse().map_err(|_| invalid("no prefix length"))?),
        }
    }
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
    /// `None`: not an address of IPv4 or IPv6.
    pub(crate) fn from_message(message: &RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewAddress(message) = message else { return None };
        let mut flags = u32::from(message.header.flags.bits());
        let (mut local, mut peer) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Address(ip) => peer = Some(*ip),
                AddressAttribute::Flags(all) => flags = all.bits(),
                _ => {}
            }
        }
        let flags = AddressFlags::from_bits_retain(flags);
        // IPv6 gives the address in IFA_ADDRESS unless it has a peer; IPv4 in IFA_LOCAL.
        let address = Address::new(local.or(peer)?, message.header.prefix_len).ok()?;
        Some(Self {
            address: if flags.contains(AddressFlags::Nodad) { address.nodad() } else { address },
            index: message.header.index,
            secondary: address.ip.is_ipv4() && flags.contains(AddressFlags::Secondary),
        })
    }
}

/// fe80::/10, which the kernel makes for itself on each link that is up.
pub(crate) fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if is_link_local_v6(ip))
}

fn is_link_local_v6(ip: Ipv6Addr) -> bool {
    ip.segments()[0] & 0xffc0 == 0xfe80
}

fn host_prefix_len(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn notation() {
        let whole: Address = "10.0.0.185".parse().unwrap();
        assert_eq!(whole, Address::host("10.0.0.185".parse().unwrap()));
        assert_eq!(whole.to_string(), "10.0.0.185/32");
        let subnet: Address = "fd00:172:17::1/64".parse().unwrap();
        assert_eq!(subnet.network(), "fd00:172:17::".parse::<IpAddr>().unwrap());
        assert_eq!(
            "0.0.0.0/0".parse::<Address>().unwrap().network(),
            "0.0.0.0".parse::<IpAddr>().unwrap()
        );
        for bad in [
            "",
            "/",
            "10.0.0.1/",
            "10.0.0.1/33",
            "::/129",
            "10.0.0/8",
            "10.0.0.1/+8",
            "10.0.0.1/-1",
            "10.0.0.1/256",
            "10.0.0.1/8/8",
            " 10.0.0.1",
        ] {
            let error = bad.parse::<Address>().unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::InvalidInput, "{bad:?}");
        }
    }

    #[test]
    fn nodad_is_of_ipv6_only() {
        assert!(!Address::host([10, 0, 0, 1].into()).nodad().is_nodad());
        assert!("fd00::1".parse::<Address>().unwrap().nodad().is_nodad());
    }

    proptest! {
        #[test]
        fn notation_survives(ip: IpAddr, len in 0_u8..=128) {
            let address = Address::new(ip, len.min(host_prefix_len(ip))).unwrap();
            prop_assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
        }

        #[test]
        fn any_text_is_an_address_or_an_error(text: String) {
            let _ = text.parse::<Address>();
        }

        #[test]
        fn what_is_added_is_what_is_listed(ip: IpAddr, len in 0_u8..=128, index: u32) {
            let address = Address::new(ip, len.min(host_prefix_len(ip))).unwrap().nodad();
            let message = RouteNetlinkMessage::NewAddress(address.message(index));
            prop_assert_eq!(
                Present::from_message(&message),
                Some(Present { address, index, secondary: false })
            );
        }
    }
}
