//! Names for addresses and ports, which only the caller can look up.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipvs_packet::{Protocol, ServiceKey};

/// Looks up names of hosts and services, for texts that have names and for listings that are to
/// have them. This crate does no I/O, so the caller does: in files, by DNS, or not at all.
///
/// Each method returns `None` for what has no name, and so do the methods that an implementation
/// leaves out. [`Numeric`] looks up nothing.
pub trait Names {
    /// Whether names are looked up at all. Where they are not, mistakes say so.
    fn looks_up(&self) -> bool {
        true
    }

    /// The address of a host. ipvsadm takes the first IPv4 address only.
    fn address(&self, host: &str) -> Option<IpAddr> {
        let _ = host;
        None
    }

    /// The IPv6 address of a host, for a name in brackets: `[ip6-localhost]:http`. So IPv6 addresses are
    /// listed and saved without `-n`; ipvsadm does not read it.
    fn ipv6_address(&self, host: &str) -> Option<Ipv6Addr> {
        let _ = host;
        None
    }

    /// The port of a service such as `http`.
    fn port(&self, service: &str, protocol: Protocol) -> Option<u16> {
        let _ = (service, protocol);
        None
    }

    /// The name of a host, for listings without `-n`.
    fn host(&self, address: IpAddr) -> Option<String> {
        let _ = address;
        None
    }

    /// The name of a service, for listings without `-n`. The protocol is 0 for a real server of a
    /// firewall mark's service, and ipvsadm then knows no name.
    fn service(&self, port: u16, protocol: Protocol) -> Option<String> {
        let _ = (port, protocol);
        None
    }
}

/// No names: only numbers are read and written, as with `ipvsadm -n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_structs, reason = "it has nothing")]
pub struct Numeric;

impl Names for Numeric {
    fn looks_up(&self) -> bool {
        false
    }
}

/// The protocol by which ipvsadm looks up the names of ports: of marks it knows none.
pub(crate) fn protocol_of(key: &ServiceKey) -> Protocol {
    match *key {
        ServiceKey::Address { protocol, .. } => protocol,
        ServiceKey::Mark { .. } => Protocol(0),
    }
}

/// An address and a port as ipvsadm writes them, by names where there are some.
pub(crate) fn endpoint(
    address: IpAddr,
    port: u16,
    protocol: Protocol,
    names: &dyn Names,
) -> String {
    let mut text = String::with_capacity(24);
    // Into a string, which does not fail.
    let _ = match (names.host(address), address) {
        (Some(host), IpAddr::V4(_)) => write!(text, "{host}:"),
        (Some(host), IpAddr::V6(_)) => write!(text, "[{host}]:"),
        (None, IpAddr::V4(short)) => {
            for (index, octet) in short.octets().into_iter().enumerate() {
                text.push_str(if index > 0 { "." } else { "" });
                push_decimal(&mut text, octet.into());
            }
            text.write_char(':')
        }
        (None, IpAddr::V6(long)) => write!(text, "[{}]:", numeric(long)),
    };
    let _ = match names.service(port, protocol) {
        Some(name) => text.write_str(&name),
        None => {
            push_decimal(&mut text, port.into());
            Ok(())
        }
    };
    text
}

/// Writes a number. A long listing has tens of thousands, and the formatter takes ten times as long for
/// each.
pub(crate) fn push_decimal(text: &mut String, number: u32) {
    let mut power = 1;
    while number / power > 9 {
        power *= 10;
    }
    while power > 0 {
        text.push(char::from_digit(number / power % 10, 10).unwrap_or('0'));
        power /= 10;
    }
}

/// An address as C's `inet_ntop` writes it, which has IPv4 in the end of `::172.17.0.3` too.
fn numeric(address: Ipv6Addr) -> String {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => {
            format!("::{}", Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
        }
        _ => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_are_as_the_formatter_writes_them(
            number in any::<u32>(),
            digits in 0..32_u32,
            address in any::<[u8; 4]>(),
            port in any::<u16>(),
        ) {
            let mut text = String::new();
            push_decimal(&mut text, number >> digits);
            prop_assert_eq!(text, (number >> digits).to_string());
            let place = endpoint(address.into(), port, Protocol::TCP, &Numeric);
            prop_assert_eq!(place, format!("{}:{port}", Ipv4Addr::from(address)));
        }
    }
}
