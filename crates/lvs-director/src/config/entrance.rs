//! By what the packets of a service come in: addresses, ports and protocols, or marks.

use std::{net::SocketAddr, num::NonZeroU32, ops::RangeInclusive};

use lvs::client::packet::{AddressFamily, Protocol, ServiceKey};

use super::{
    build::{Builder, MOST_SERVICES, word},
    range::{self, Addresses},
    tree::Node,
};

impl<'a> Builder<'a> {
    /// What a service's packets come in by.
    pub(super) fn keys(&mut self, node: &'a Node) -> Vec<ServiceKey> {
        let protocols: Vec<Protocol> = match node.get("protocol") {
            Some(node) => node.each().iter().filter_map(Node::text).filter_map(protocol).collect(),
            None => vec![Protocol::TCP],
        };
        let ways = ["address", "mark", "group"].into_iter().filter(|way| node.get(way).is_some());
        let ways: Vec<_> = ways.collect();
        if ways.len() != 1 {
            let there = if ways.is_empty() { "none".to_owned() } else { ways.join(" and ") };
            self.wrong(
                node,
                format!("a service needs address, mark or group: one of them, not {there}"),
            );
            return Vec::new();
        }
        let mut keys = self.entrance(node, &protocols);
        if let Some(group) = node.get("group").filter(|group| group.text().is_some()) {
            let entrances = self.groups.get(group.text().unwrap_or_default()).copied();
            match entrances {
                Some(entrances) => {
                    for entrance in entrances.each() {
                        keys.extend(self.member_of_group(entrance, &protocols));
                    }
                }
                None => self.wrong(group, format!("there is no group {}", group.shown())),
            }
        }
        keys.truncate(MOST_SERVICES + 1);
        keys
    }

    fn member_of_group(&mut self, node: &'a Node, protocols: &[Protocol]) -> Vec<ServiceKey> {
        let Some(text) = node.text() else {
            if node.get("address").is_some() == node.get("mark").is_some() {
                self.wrong(node, "an entrance needs address or mark, one of them");
            }
            return self.entrance(node, protocols);
        };
        match range::endpoints(text) {
            Some((addresses, Some(ports))) => product(addresses, &[ports], protocols),
            Some((_, None)) => {
                self.wrong(node, format!("{text:?} has no port: write 192.0.2.1:80"));
                Vec::new()
            }
            None => {
                self.wrong(
                    node,
                    format!("{text:?} is not an address with a port, as 192.0.2.1-20:80"),
                );
                Vec::new()
            }
        }
    }

    fn entrance(&mut self, node: &'a Node, protocols: &[Protocol]) -> Vec<ServiceKey> {
        let mut keys = Vec::new();
        let ports: Vec<_> = node
            .get("port")
            .map(Node::each)
            .unwrap_or_default()
            .iter()
            .filter_map(Node::ports)
            .collect();
        if let Some(addresses) = node.get("address") {
            if node.get("port").is_none() {
                self.wrong(addresses, "an address needs a port");
            }
            for addresses in addresses.each().iter().filter_map(Node::addresses) {
                keys.extend(product(addresses, &ports, protocols));
            }
        }
        if let Some(marks) = node.get("mark") {
            let family = match word(node, "family") {
                Some("ipv6") => AddressFamily::Ipv6,
                _ => AddressFamily::Ipv4,
            };
            let marks = marks.each().iter().filter_map(Node::number).filter_map(NonZeroU32::new);
            keys.extend(marks.map(|mark| ServiceKey::mark(mark, family)));
            for field in ["port", "protocol"].into_iter().filter_map(|name| node.get(name)) {
                self.wrong(field, "a firewall mark stands for all ports and protocols");
            }
        }
        keys
    }
}

fn product(
    addresses: Addresses,
    ports: &[RangeInclusive<u16>],
    protocols: &[Protocol],
) -> Vec<ServiceKey> {
    let mut keys = Vec::new();
    for address in addresses.iter() {
        for port in ports.iter().cloned().flatten() {
            for protocol in protocols {
                // An address without a zone makes a key.
                keys.extend(ServiceKey::new(*protocol, SocketAddr::new(address, port)));
                if keys.len() > MOST_SERVICES {
                    return keys;
                }
            }
        }
    }
    keys
}

fn protocol(word: &str) -> Option<Protocol> {
    match word {
        "tcp" => Some(Protocol::TCP),
        "udp" => Some(Protocol::UDP),
        "sctp" => Some(Protocol::SCTP),
        _ => None,
    }
}
