//! Addresses with and without ports.

use std::net::{IpAddr, Ipv6Addr};

use ipvs_packet::Protocol;

use crate::{
    Mistake, Names, Place,
    options::{Text, quoted},
};

/// An address and, if it says one, a port: `10.0.0.185:80`, `[2001:db8::1]:80`, `2001:db8::1`,
/// `www:http`, `[www]:http`.
pub(super) fn address_and_port(
    text: &Text<'_>,
    protocol: Protocol,
    names: &dyn Names,
) -> Result<(IpAddr, Option<u16>), Mistake> {
    let refuse = |offset: usize, message: String| {
        let place = match text.place {
            Place::Argument { number, offset: start } => {
                Place::Argument { number, offset: start + offset }
            }
            ref other => other.clone(),
        };
        Mistake::new(place, message)
    };
    let whole = text.text;
    if let Some(offset) = zone(whole) {
        let message = format!("{}: IPVS keeps an address without its interface", no_zone(whole));
        return Err(refuse(offset, message));
    }
    let (address, port) = if let Some(rest) = whole.strip_prefix('[') {
        let parts = rest.split_once("]:").filter(|(address, _)| !address.contains(']'));
        let parsed = parts.and_then(|(host, port)| {
            Some((host.parse().ok().or_else(|| names.ipv6_address(host))?, port))
        });
        let (address, port) = parsed.ok_or_else(|| {
            refuse(0, format!("{} must be such as [2001:db8::1]:80", quoted(whole)))
        })?;
        (IpAddr::V6(address), Some(port))
    } else {
        let (host, port) = match whole.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (whole, None),
        };
        if let Ok(address) = host.parse() {
            (IpAddr::V4(address), port)
        } else if let Ok(address) = whole.parse() {
            (IpAddr::V6(address), None)
        } else {
            // ipvsadm takes a bare number for neither.
            let digits = whole.bytes().all(|byte| byte.is_ascii_digit());
            let named = (!digits && !host.is_empty()).then(|| names.address(host)).flatten();
            let address = named.ok_or_else(|| {
                let what = match names.looks_up() {
                    true => "is neither an address such as 10.0.0.185 nor the name of a known host",
                    false => "must be an address such as 10.0.0.185",
                };
                refuse(0, format!("{} {what}{}", quoted(host), hint(host, names)))
            })?;
            (address, port)
        }
    };
    let Some(port) = port else { return Ok((address, None)) };
    let numeric = port.parse::<i64>().ok().and_then(|port| u16::try_from(port).ok());
    let port_number = numeric.or_else(|| names.port(port, protocol)).ok_or_else(|| {
        let what = match names.looks_up() {
            true => "is neither a port, 0 to 65535, nor the name of a known service",
            false => "must be a port, 0 to 65535",
        };
        refuse(whole.len() - port.len(), format!("{} {what}{}", quoted(port), hint(port, names)))
    })?;
    Ok((address, Some(port_number)))
}

/// What helps where a text may be a name, and none is looked up.
fn hint(text: &str, names: &dyn Names) -> &'static str {
    let may_be_name = text.contains(|it: char| it.is_ascii_alphabetic());
    match may_be_name && !names.looks_up() {
        true => "; names are not looked up here: save with ipvsadm -Sn, or use Rules::parse",
        false => "",
    }
}

/// Where the zone of an IPv6 address begins: `fe80::1%eth0`, `[fe80::1%2]:80`.
pub(super) fn zone(text: &str) -> Option<usize> {
    text.find('%')
}

pub(super) fn no_zone(text: &str) -> String {
    format!("{} must have no zone such as %eth0", quoted(text))
}

/// An IPv6 address without brackets that ends as if a port followed it, taken apart:
/// `2001:db8::1:80`.
pub(super) fn unbracketed(text: &str) -> Option<(Ipv6Addr, u16)> {
    text.parse::<Ipv6Addr>().ok()?;
    let (address, port) = text.rsplit_once(':')?;
    // Ports of one digit are rarer than such addresses.
    let looks_so = port.len() >= 2 && !port.starts_with('0');
    Some((address.parse().ok()?, port.parse().ok().filter(|_| looks_so)?))
}
