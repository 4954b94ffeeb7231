//! The addresses of a Service that this node may serve.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::{Addresses, MAX_ADDRESSES, MAX_RANGES, TargetKind, Translator, cluster_addresses};

const NO_ADDRESS: &str = "is not an address; it is not used";

impl Translator<'_> {
    pub(super) fn cluster_address(&mut self, ipv4: bool) -> Option<IpAddr> {
        let mut found = None;
        for text in cluster_addresses(self.service) {
            match text.parse::<IpAddr>() {
                Ok(address) if address.is_ipv4() == ipv4 => {
                    found = found.or_else(|| self.virtual_address(address));
                }
                Ok(_) => {}
                // Said once, though both families come by.
                Err(_) if ipv4 => self.notes.add(NO_ADDRESS, format!("clusterIP {text:?}")),
                Err(_) => {}
            }
        }
        found
    }

    /// An address from outside of the cluster that may be made local to this node, if it is not its own.
    pub(super) fn external_address(&mut self, address: IpAddr) -> Option<IpAddr> {
        let (node, settings) = (self.node, self.settings);
        let around = &node.around;
        let mut networks = settings.pod_networks.iter().chain(&node.pod_networks);
        let whose = if node.addresses.contains(&address) {
            self.result.is_at_node = true;
            None
        } else if around.gateways.contains(&address) {
            Some("is a gateway of this node; it is not served")
        } else if around.broadcasts.contains(&address) {
            Some("is the broadcast or network address of a link of this node; it is not served")
        } else if node.others.contains(&address) {
            Some("is another node's own address; it is not served")
        } else if settings.api_server == Some(address) || node.api_servers.contains(&address) {
            Some("is the API server's own address; it is not served")
        } else if networks.any(|network| network.contains(&address)) {
            Some("is in a network of pods; it is not served")
        } else {
            None
        };
        match whose {
            None => self.virtual_address(address),
            Some(whose) => {
                self.notes.add(whose, address);
                None
            }
        }
    }

    pub(super) fn load_balancer_addresses(&mut self, ipv4: bool) -> Addresses {
        let ingress = self.service.status.load_balancer.ingress.iter();
        let texts: Vec<_> = ingress
            .filter(|ingress| ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"))
            .filter_map(|ingress| ingress.ip.as_deref())
            .collect();
        let addresses = self.usable_addresses(&texts, ipv4);
        let source_ranges = self.source_ranges(ipv4);
        Addresses { kind: TargetKind::LoadBalancer, addresses, source_ranges }
    }

    pub(super) fn external_addresses(&mut self, ipv4: bool) -> Addresses {
        let texts: Vec<_> = self.service.spec.external_ips.iter().map(String::as_str).collect();
        let addresses = match self.settings.external_ips {
            true => self.usable_addresses(&texts, ipv4),
            false => {
                if ipv4 {
                    for text in texts {
                        self.notes.add("is not served: external IPs are switched off", text);
                    }
                }
                BTreeSet::new()
            }
        };
        Addresses { kind: TargetKind::ExternalIp, addresses, source_ranges: None }
    }

    pub(super) fn usable_addresses(&mut self, texts: &[&str], ipv4: bool) -> BTreeSet<IpAddr> {
        let mut addresses = BTreeSet::new();
        if texts.len() > MAX_ADDRESSES {
            self.result.is_cut = true;
            if ipv4 {
                let text = "addresses of one kind are too many; the first 100 are served";
                self.notes.add(text, texts.len());
            }
        }
        for text in texts.iter().take(MAX_ADDRESSES) {
            match text.trim().parse::<IpAddr>() {
                Ok(address) if address.is_ipv4() == ipv4 => {
                    addresses.extend(self.external_address(address));
                }
                Ok(_) => {}
                Err(_) if ipv4 => self.notes.add(NO_ADDRESS, format!("{text:?}")),
                Err(_) => {}
            }
        }
        addresses
    }

    /// An address that may be made local to this node.
    pub(super) fn virtual_address(&mut self, address: IpAddr) -> Option<IpAddr> {
        let unusable = address.is_unspecified()
            || address.is_multicast()
            || address.is_loopback()
            || match address {
                // "This network", and those that are reserved.
                IpAddr::V4(address) => {
                    let first = address.octets()[0];
                    first == 0 || first >= 240 || address.is_link_local()
                }
                // Those that begin with 96 zeros or hold an IPv4 address, and those that are discarded.
                IpAddr::V6(address) => {
                    let segments = address.segments();
                    address.is_unicast_link_local()
                        || address.to_ipv4_mapped().is_some()
                        || segments[..6] == [0; 6]
                        || segments[..4] == [0x100, 0, 0, 0]
                }
            };
        if unusable {
            self.notes.add("is not an address that services can have; it is not served", address);
        }
        (!unusable).then_some(address)
    }

    /// The networks of one family from which a load balancer's address may be reached. A range of
    /// all addresses is no restriction. One that cannot be read lets nobody in.
    pub(super) fn source_ranges(&mut self, ipv4: bool) -> Option<Vec<IpNet>> {
        let mut ranges = Vec::new();
        let mut restricted = false;
        for text in &self.service.spec.load_balancer_source_ranges {
            match text.trim().parse::<IpNet>() {
                Ok(range) if range.addr().is_ipv4() != ipv4 => {}
                Ok(range) if range.prefix_len() == 0 => return None,
                Ok(range) => ranges.push(range.trunc()),
                Err(_) => {
                    restricted = true;
                    if ipv4 {
                        self.notes
                            .add("is not a source range; it lets nobody in", format!("{text:?}"));
                    }
                }
            }
        }
        // Without overlaps, which sets of nftables do not take.
        let mut ranges = IpNet::aggregate(&ranges);
        if ranges.len() > MAX_RANGES {
            self.result.is_cut = true;
            let text = "source ranges are too many; only clients of the first 500 are let in";
            self.notes.add(text, ranges.len());
            ranges.truncate(MAX_RANGES);
        }
        (restricted || !ranges.is_empty()).then_some(ranges)
    }
}
