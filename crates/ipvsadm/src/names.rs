//! Names of hosts and services, as this machine knows them.

use std::{
    cell::{OnceCell, RefCell},
    collections::HashMap,
    fs,
    net::{IpAddr, Ipv6Addr},
};

use dns_lookup::{AddrFamily, AddrInfoHints, SockType, getaddrinfo, lookup_addr};
use ipvs_table::Names;
use lvs::client::packet::Protocol;

/// Hosts by the C library (/etc/hosts, DNS, whatever /etc/nsswitch.conf says), and services by
/// /etc/services. Each is looked up once.
#[derive(Default)]
pub(crate) struct System {
    hosts: RefCell<HashMap<IpAddr, Option<String>>>,
    services: OnceCell<Services>,
}

impl System {
    fn services(&self) -> &Services {
        self.services.get_or_init(|| {
            // Where there is no such file, ports have no names.
            Services::parse(&fs::read_to_string("/etc/services").unwrap_or_default())
        })
    }
}

impl Names for System {
    fn address(&self, host: &str) -> Option<IpAddr> {
        // As ipvsadm: a host has its first IPv4 address.
        first_address(host, AddrFamily::Inet)
    }

    fn ipv6_address(&self, host: &str) -> Option<Ipv6Addr> {
        match first_address(host, AddrFamily::Inet6)? {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        }
    }

    fn port(&self, service: &str, protocol: Protocol) -> Option<u16> {
        self.services().ports.get(&(service.to_owned(), protocol)).copied()
    }

    fn host(&self, address: IpAddr) -> Option<String> {
        let mut hosts = self.hosts.borrow_mut();
        hosts.entry(address).or_insert_with(|| lookup_addr(&address).ok()).clone()
    }

    fn service(&self, port: u16, protocol: Protocol) -> Option<String> {
        self.services().names.get(&(port, protocol)).cloned()
    }
}

fn first_address(host: &str, family: AddrFamily) -> Option<IpAddr> {
    let hints = AddrInfoHints {
        address: family.into(),
        socktype: SockType::Stream.into(),
        ..AddrInfoHints::default()
    };
    let mut found = getaddrinfo(Some(host), None, Some(hints)).ok()?;
    found.find_map(Result::ok).map(|found| found.sockaddr.ip())
}

/// What /etc/services says. Of two lines for the same, the first counts.
#[derive(Default)]
struct Services {
    ports: HashMap<(String, Protocol), u16>,
    names: HashMap<(u16, Protocol), String>,
}

impl Services {
    /// Lines such as `http 80/tcp www # WorldWideWeb HTTP`.
    fn parse(text: &str) -> Self {
        let mut services = Self::default();
        for line in text.lines() {
            let line = line.split_once('#').map_or(line, |(line, _)| line);
            let mut words = line.split_whitespace();
            let (Some(name), Some(port)) = (words.next(), words.next()) else { continue };
            let Some((port, protocol)) = port.split_once('/') else { continue };
            let (Ok(port), Ok(protocol)) = (port.parse(), protocol.parse::<Protocol>()) else {
                continue;
            };
            services.names.entry((port, protocol)).or_insert_with(|| name.to_owned());
            for name in words.chain([name]) {
                services.ports.entry((name.to_owned(), protocol)).or_insert(port);
            }
        }
        services
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_have_names_and_aliases() {
        let services = Services::parse(
            "# comment\nhttp\t80/tcp  www # web\nwww-alt 80/tcp\nhttp 80/udp\nx\ny z\nz 1/nosuch\n\
             diameter 3868/sctp\n",
        );
        let port = |name: &str, protocol| services.ports.get(&(name.to_owned(), protocol)).copied();
        assert_eq!(port("www", Protocol::TCP), Some(80));
        assert_eq!(port("www", Protocol::UDP), None);
        assert_eq!(port("diameter", Protocol::SCTP), Some(3868));
        let name = |port, protocol| services.names.get(&(port, protocol)).map(String::as_str);
        assert_eq!(name(80, Protocol::TCP), Some("http"));
        assert_eq!(name(80, Protocol::SCTP), None);
    }
}
