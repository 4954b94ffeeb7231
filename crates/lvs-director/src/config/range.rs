//! Ranges of addresses and ports.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

/// A range has at most so many addresses.
const MOST: u128 = 4096;

/// Addresses one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    first: IpAddr,
    count: u128,
}

impl Addresses {
    pub(crate) fn one(address: IpAddr) -> Self {
        Self { first: address, count: 1 }
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = IpAddr> {
        (0..self.count).map(move |number| match self.first {
            // A range does not go beyond the last address.
            IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() + number as u32).into(),
            IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() + number).into(),
        })
    }
}

/// `192.0.2.1`, `192.0.2.1-20`, `192.0.2.1-192.0.2.20`, `2001:db8::1-ff` (hexadecimal, as IPv6 is).
pub(crate) fn addresses(text: &str) -> Option<Addresses> {
    let (first, last) = text.split_once('-').unwrap_or((text, ""));
    let first: IpAddr = first.trim().parse().ok()?;
    let last = last.trim();
    if !text.contains('-') {
        return Some(Addresses::one(first));
    }
    let (from, to) = match first {
        IpAddr::V4(first) => {
            let [a, b, c, _] = first.octets();
            let last: Ipv4Addr = match last.parse::<u8>() {
                Ok(last) => [a, b, c, last].into(),
                Err(_) => last.parse().ok()?,
            };
            (u128::from(first.to_bits()), u128::from(last.to_bits()))
        }
        IpAddr::V6(first) => {
            let last: Ipv6Addr = match u16::from_str_radix(last, 16) {
                Ok(last) => (first.to_bits() & !0xffff | u128::from(last)).into(),
                Err(_) => last.parse().ok()?,
            };
            (first.to_bits(), last.to_bits())
        }
    };
    let count = to.checked_sub(from)?.checked_add(1)?;
    (count <= MOST).then_some(Addresses { first, count })
}

/// `80`, `8000-8010`.
pub(crate) fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first <= last).then_some(first..=last)
}

/// Addresses with ports, `192.0.2.1-20:80` or `[2001:db8::1]:80-90`; without one `None`.
pub(crate) fn endpoints(text: &str) -> Option<(Addresses, Option<RangeInclusive<u16>>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, rest) = rest.split_once(']')?;
        let addresses = addresses(inside)?;
        return match rest {
            "" => Some((addresses, None)),
            _ => Some((addresses, Some(ports(rest.strip_prefix(':')?)?))),
        };
    }
    if let Some(addresses) = addresses(text) {
        return Some((addresses, None));
    }
    let (before, port) = text.rsplit_once(':')?;
    // IPv6 with a port has brackets.
    let addresses = addresses(before).filter(|it| it.first.is_ipv4())?;
    Some((addresses, Some(ports(port)?)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use super::*;

    fn listed(text: &str) -> Option<Vec<String>> {
        addresses(text).map(|it| it.iter().map(|ip| ip.to_string()).collect())
    }

    #[test]
    fn ranges_of_addresses() {
        assert_eq!(listed("192.0.2.9").unwrap(), ["192.0.2.9"]);
        assert_eq!(listed("192.0.2.254-255").unwrap(), ["192.0.2.254", "192.0.2.255"]);
        assert_eq!(listed("192.0.2.255 - 192.0.3.0").unwrap(), ["192.0.2.255", "192.0.3.0"]);
        assert_eq!(listed("2001:db8::9-a").unwrap(), ["2001:db8::9", "2001:db8::a"]);
        assert_eq!(listed("255.255.255.255-255").unwrap(), ["255.255.255.255"]);
        for wrong in
            ["192.0.2.9-8", "192.0.2.9-", "-", "10.0.0.0-10.1.0.0", "::-ffff:ffff", "x", ""]
        {
            assert_eq!(listed(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn endpoints_with_ports() {
        let of = |text| endpoints(text).map(|(it, ports)| (it.iter().count(), ports));
        assert_eq!(of("192.0.2.1-20:80"), Some((20, Some(80..=80))));
        assert_eq!(of("[2001:db8::1-2]:80-81"), Some((2, Some(80..=81))));
        assert_eq!(of("2001:db8::1"), Some((1, None)));
        assert_eq!(of("[2001:db8::1]"), Some((1, None)));
        for wrong in
            ["192.0.2.1:", "192.0.2.1:99999", "[2001:db8::1]80", "2001:db8::1::80", ":80", "["]
        {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
