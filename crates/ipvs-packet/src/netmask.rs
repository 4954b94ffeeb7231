//! The netmask by which a persistent service groups its clients.

use std::{fmt, net::Ipv4Addr, num::NonZeroU8, str::FromStr};

use crate::{
    AddressFamily, InvalidValue,
    attribute::{Attribute, Sink},
    error::{ParseError, Problem},
};

const IPV4_RULE: &str = "must be an IPv4 mask such as 255.255.255.0 or a prefix length 0 to 32";
const IPV6_RULE: &str = "must be a prefix length 1 to 128";

/// Which clients a persistent service sends to the same destination: those whose addresses are
/// equal under this mask. `IPVS_SVC_ATTR_NETMASK`, `ipvsadm -M`.
///
/// The kernel takes a mask in network order for IPv4 and a prefix length in host order for IPv6.
/// This type is both. It displays and reads as ipvsadm writes it: `255.255.255.0`, `64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(clippy::exhaustive_enums, reason = "one for each AddressFamily, and as closed as that")]
pub enum Netmask {
    /// An IPv4 mask. The kernel takes any bits, `0.0.0.0` and gaps included.
    Ipv4(Ipv4Addr),
    /// An IPv6 prefix length, 1 to 128.
    Ipv6(Ipv6Prefix),
}

impl Netmask {
    /// Every client address on its own: 255.255.255.255 or 128, the default.
    pub const fn host(family: AddressFamily) -> Self {
        match family {
            AddressFamily::Ipv4 => Self::Ipv4(Ipv4Addr::BROADCAST),
            AddressFamily::Ipv6 => Self::Ipv6(Ipv6Prefix::HOST),
        }
    }

    /// From a prefix length: 0 to 32 for IPv4, 1 to 128 for IPv6.
    ///
    /// # Errors
    /// If the length is out of range.
    pub fn prefix(family: AddressFamily, length: u8) -> Result<Self, InvalidValue> {
        match family {
            AddressFamily::Ipv4 if length <= 32 => {
                let bits = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                Ok(Self::Ipv4(Ipv4Addr::from_bits(bits)))
            }
            AddressFamily::Ipv4 => Err(InvalidValue::new("netmask", length, IPV4_RULE)),
            AddressFamily::Ipv6 => Ipv6Prefix::new(length).map(Self::Ipv6),
        }
    }

    /// Reads `255.255.255.0` or `24` for IPv4, `64` for IPv6.
    ///
    /// # Errors
    /// If the text is neither, or the length is out of range.
    pub fn from_text(family: AddressFamily, text: &str) -> Result<Self, InvalidValue> {
        let rule = match family {
            AddressFamily::Ipv4 => IPV4_RULE,
            AddressFamily::Ipv6 => IPV6_RULE,
        };
        if let (AddressFamily::Ipv4, Ok(mask)) = (family, Ipv4Addr::from_str(text)) {
            return Ok(Self::Ipv4(mask));
        }
        let length = text.parse().map_err(|_| InvalidValue::new("netmask", text, rule))?;
        Self::prefix(family, length)
    }

    /// The family that the mask is for.
    pub const fn family(self) -> AddressFamily {
        match self {
            Self::Ipv4(_) => AddressFamily::Ipv4,
            Self::Ipv6(_) => AddressFamily::Ipv6,
        }
    }

    /// The prefix length, or `None` for an IPv4 mask with gaps.
    pub const fn prefix_length(self) -> Option<u8> {
        match self {
            Self::Ipv4(mask) => {
                let ones = mask.to_bits().leading_ones();
                if ones == mask.to_bits().count_ones() { Some(ones as u8) } else { None }
            }
            Self::Ipv6(prefix) => Some(prefix.get()),
        }
    }

    pub(crate) fn parse(
        attribute: &Attribute<'_>,
        family: AddressFamily,
    ) -> Result<Self, ParseError> {
        match family {
            AddressFamily::Ipv4 => attribute.array::<4>().map(|mask| Self::Ipv4(mask.into())),
            AddressFamily::Ipv6 => u8::try_from(attribute.u32()?)
                .ok()
                .and_then(|length| Ipv6Prefix::new(length).ok())
                .map(Self::Ipv6)
                .ok_or_else(|| attribute.error(Problem::Value(IPV6_RULE))),
        }
    }

    #[inline]
    pub(crate) fn put(self, number: u16, out: &mut impl Sink) {
        match self {
            Self::Ipv4(mask) => out.put(number, &mask.octets()),
            Self::Ipv6(prefix) => out.put_u32(number, prefix.get().into()),
        }
    }
}

impl FromStr for Netmask {
    type Err = InvalidValue;

    /// Reads what is displayed: a mask such as `255.255.255.0` is for IPv4, a prefix length such as
    /// `64` for IPv6.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text.parse() {
            Ok(mask) => Ok(Self::Ipv4(mask)),
            Err(_) => Self::from_text(AddressFamily::Ipv6, text).map_err(|_| {
                let rule = "must be an IPv4 mask such as 255.255.255.0 or an IPv6 prefix length 1 \
                            to 128";
                InvalidValue::new("netmask", text, rule)
            }),
        }
    }
}

impl fmt::Display for Netmask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipv4(mask) => mask.fmt(f),
            Self::Ipv6(prefix) => prefix.fmt(f),
        }
    }
}

/// An IPv6 prefix length that the kernel accepts: 1 to 128.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ipv6Prefix(NonZeroU8);

impl Ipv6Prefix {
    /// 128: every address on its own.
    pub const HOST: Self = match NonZeroU8::new(128) {
        Some(length) => Self(length),
        None => unreachable!(),
    };

    /// Takes 1 to 128.
    ///
    /// # Errors
    /// If the length is out of range.
    pub fn new(length: u8) -> Result<Self, InvalidValue> {
        NonZeroU8::new(length)
            .filter(|length| length.get() <= 128)
            .map(Self)
            .ok_or_else(|| InvalidValue::new("netmask", length, IPV6_RULE))
    }

    /// The length.
    pub const fn get(self) -> u8 {
        self.0.get()
    }
}

impl fmt::Display for Ipv6Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_have_limits() {
        let prefix = Netmask::prefix;
        assert_eq!(prefix(AddressFamily::Ipv4, 24).unwrap().to_string(), "255.255.255.0");
        assert_eq!(prefix(AddressFamily::Ipv4, 0).unwrap().to_string(), "0.0.0.0");
        assert_eq!(prefix(AddressFamily::Ipv4, 32), Ok(Netmask::host(AddressFamily::Ipv4)));
        assert_eq!(prefix(AddressFamily::Ipv6, 128), Ok(Netmask::host(AddressFamily::Ipv6)));
        assert_eq!(prefix(AddressFamily::Ipv4, 33).unwrap_err().rule(), IPV4_RULE);
        for wrong in [0, 129, 255] {
            assert_eq!(prefix(AddressFamily::Ipv6, wrong).unwrap_err().rule(), IPV6_RULE);
        }
    }

    #[test]
    fn both_spellings_are_read() {
        let read = Netmask::from_text;
        assert_eq!(read(AddressFamily::Ipv4, "24"), read(AddressFamily::Ipv4, "255.255.255.0"));
        assert_eq!(read(AddressFamily::Ipv6, "64").unwrap().prefix_length(), Some(64));
        assert_eq!(read(AddressFamily::Ipv4, "255.0.255.0").unwrap().prefix_length(), None);
        for wrong in ["", "33", "255.255.255", "-1", "256"] {
            assert!(read(AddressFamily::Ipv4, wrong).is_err(), "{wrong:?}");
        }
        for wrong in ["", "0", "129", "255.0.0.0", "ffff::"] {
            assert!(read(AddressFamily::Ipv6, wrong).is_err(), "{wrong:?}");
        }
    }
}
