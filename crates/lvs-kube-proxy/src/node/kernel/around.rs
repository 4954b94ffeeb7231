//! What is around the node: gateways, networks, and where it listens, as /proc/net tells.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use lvs::client::packet::Protocol;
use netns_link::{Address, NetNs};

/// The next hops of all routes.
pub(super) fn gateways(namespace: &NetNs) -> BTreeSet<IpAddr> {
    let ipv4 = read(namespace, "route");
    let ipv6 = read(namespace, "ipv6_route");
    let ipv4 = ipv4.lines().filter_map(|line| hex_ipv4(line.split_whitespace().nth(2)?));
    let ipv6 = ipv6.lines().filter_map(|line| hex_ipv6(line.split_whitespace().nth(4)?));
    let all = ipv4.map(IpAddr::from).chain(ipv6.map(IpAddr::from));
    all.filter(|address| !address.is_unspecified()).collect()
}

/// The first and the last address of the network of an address, which no host has.
pub(super) fn broadcasts(address: &Address) -> Vec<IpAddr> {
    let IpAddr::V4(ip) = address.ip() else { return Vec::new() };
    match address.prefix_len() {
        length @ 1..=30 => {
            let hosts = u32::MAX >> length;
            [u32::from(ip) & !hosts, u32::from(ip) | hosts]
                .map(|ip| Ipv4Addr::from(ip).into())
                .into()
        }
        _ => Vec::new(),
    }
}

/// The ports on which something of the node listens.
pub(super) fn listening(namespace: &NetNs) -> BTreeSet<(Protocol, u16)> {
    // The numbers of the states TCP_LISTEN, and TCP_CLOSE for a UDP socket that is not connected.
    let files = [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")];
    let mut all = BTreeSet::new();
    for (file, state) in files {
        let protocol = if file.starts_with("tcp") { Protocol::TCP } else { Protocol::UDP };
        let text = read(namespace, file);
        let ports = text.lines().filter_map(|line| listening_port(line, state));
        all.extend(ports.map(|port| (protocol, port)));
    }
    all
}

/// The port of a socket in this state.
fn listening_port(line: &str, state: &str) -> Option<u16> {
    let mut words = line.split_whitespace().skip(1);
    let (local, _, found) = (words.next()?, words.next()?, words.next()?);
    let (_, port) = local.rsplit_once(':').filter(|_| found == state)?;
    u16::from_str_radix(port, 16).ok()
}

/// A file of /proc/net; nothing if it is not there, as without IPv6.
fn read(namespace: &NetNs, file: &str) -> String {
    let path = format!("/proc/thread-self/net/{file}");
    let text = namespace.run(move || fs::read_to_string(path));
    text.ok().and_then(Result::ok).unwrap_or_default()
}

/// In the order of the machine's bytes, so that the memory is that of the address.
fn hex_ipv4(text: &str) -> Option<Ipv4Addr> {
    let number = u32::from_str_radix(text, 16).ok().filter(|_| text.len() == 8)?;
    Some(Ipv4Addr::from(number.to_ne_bytes()))
}

fn hex_ipv6(text: &str) -> Option<Ipv6Addr> {
    let number = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32)?;
    Some(Ipv6Addr::from(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_lists() {
        let line = "   1: 00000000000000000000000000000000:280A 00000000000000000000000000000000:0000 0A 0";
        assert_eq!(listening_port(line, "0A"), Some(10250));
        assert_eq!(listening_port(line, "07"), None);
        assert_eq!(listening_port("  sl  local_address rem_address   st", "0A"), None);
        assert_eq!(hex_ipv6("20010db8000000000000000000000001"), "2001:db8::1".parse().ok());
        let gateway = u32::from_ne_bytes([192, 0, 2, 1]);
        assert_eq!(hex_ipv4(&format!("{gateway:08X}")), Some(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(hex_ipv4("Gateway"), None);
        let of = |text: &str| {
            let shown = broadcasts(&text.parse().unwrap());
            shown.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of("192.0.2.11/24"), "192.0.2.0 192.0.2.255");
        assert_eq!(of("10.1.2.3/30"), "10.1.2.0 10.1.2.3");
        assert_eq!(of("10.1.2.3/31") + &of("10.1.2.3") + &of("fd00::1/64"), "");
    }
}
