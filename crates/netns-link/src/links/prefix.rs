use std::{fmt, net::IpAddr, str::FromStr};

use crate::error::Error;

/// A range of addresses: `10.0.0.0/16`, `fd00::/64`.
///
/// Parsed from and shown in the notation of `ip route`. Without a length it is a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(into = "String", try_from = "String"))]
pub struct Prefix {
    ip: IpAddr,
    len: u8,
}

impl Prefix {
    /// A range by its first address and the number of bits that its addresses share: 0 to 32
    /// (IPv4) or 128 (IPv6).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind) if the length is above that, or if the address
    /// has bits beyond it, as 10.0.0.1/16.
    pub fn new(ip: IpAddr, len: u8) -> Result<Self, Error> {
        let invalid = |rule| Error::invalid(format_args!("prefix {ip}/{len}"), rule);
        checked(ip, len).map_err(invalid)?;
        if ip != network(ip, len) {
            return Err(invalid("the address has bits beyond the length"));
        }
        Ok(Self { ip, len })
    }

    /// The first address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// The length in bits.
    pub fn length(&self) -> u8 {
        self.len
    }

    /// Whether an address is in the range.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.ip.is_ipv4() == ip.is_ipv4() && network(ip, self.len) == self.ip
    }
}

/// A single address.
impl From<IpAddr> for Prefix {
    fn from(ip: IpAddr) -> Self {
        Self { ip, len: host_len(ip) }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.len)
    }
}

impl FromStr for Prefix {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (ip, len) =
            parse(text).map_err(|rule| Error::invalid(format_args!("prefix {text:?}"), rule))?;
        Self::new(ip, len)
    }
}

text_form!(Prefix);

/// Reads `10.0.0.1/8`; the whole length where there is none. The length is not checked.
pub(crate) fn parse(text: &str) -> Result<(IpAddr, u8), &'static str> {
    let (ip, len) = match text.split_once('/') {
        Some((ip, len)) => (ip, Some(len)),
        None => (text, None),
    };
    let ip = ip.parse().map_err(|_| "it is neither IPv4 nor IPv6")?;
    Ok((ip, len.map_or(Ok(host_len(ip)), number)?))
}

/// Whether a length can be one of the address's family.
pub(crate) fn checked(ip: IpAddr, len: u8) -> Result<(), &'static str> {
    match ip {
        _ if len <= host_len(ip) => Ok(()),
        IpAddr::V4(_) => Err("an IPv4 prefix length is 0 to 32"),
        IpAddr::V6(_) => Err("an IPv6 prefix length is 0 to 128"),
    }
}

/// The address without the bits beyond a length.
pub(crate) fn network(ip: IpAddr, len: u8) -> IpAddr {
    let cut = u32::from(host_len(ip).saturating_sub(len));
    match ip {
        IpAddr::V4(ip) => {
            IpAddr::V4((ip.to_bits() & u32::MAX.checked_shl(cut).unwrap_or(0)).into())
        }
        IpAddr::V6(ip) => {
            IpAddr::V6((ip.to_bits() & u128::MAX.checked_shl(cut).unwrap_or(0)).into())
        }
    }
}

pub(crate) fn host_len(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// A number of the notation, which has no sign where Rust's has.
pub(crate) fn number<T: FromStr>(digits: &str) -> Result<T, &'static str> {
    if digits.starts_with('+') {
        return Err("a number has no sign");
    }
    digits.parse().map_err(|_| "a number is missing or too great")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ErrorKind;

    #[test]
    fn notation() {
        let range: Prefix = "10.0.0.0/16".parse().unwrap();
        assert!(range.contains("10.0.255.1".parse().unwrap()));
        assert!(!range.contains("10.1.0.0".parse().unwrap()));
        assert!(!range.contains("a00::".parse().unwrap()));
        assert_eq!("::1".parse::<Prefix>().unwrap().to_string(), "::1/128");
        assert_eq!("0.0.0.0/0".parse::<Prefix>().unwrap().length(), 0);
        for bad in ["", "/", "10.0.0.1/16", "10.0.0.0/33", "fd00::1/64", "10.0.0.0/+8", "::/129"] {
            assert_eq!(bad.parse::<Prefix>().unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn notation_survives(ip: IpAddr, len in 0_u8..=128) {
            let len = len.min(host_len(ip));
            let prefix = Prefix::new(network(ip, len), len).unwrap();
            prop_assert_eq!(prefix.to_string().parse::<Prefix>().unwrap(), prefix);
            prop_assert!(prefix.contains(ip));
        }

        #[test]
        fn any_text_is_a_prefix_or_an_error(text: String) {
            let _ = text.parse::<Prefix>();
        }
    }
}
