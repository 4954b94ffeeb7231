//! The endpoints of a Service's port, and which of them get connections.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use lvs::client::packet::Protocol;

use super::{MAX_ENDPOINTS, Translator, port_number};
use crate::{
    object::{Endpoint, EndpointSlice, HOST_NAME, ServicePort, ZONE},
    settings::ThisNode,
};

/// An endpoint at one of its ports.
#[derive(Clone, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) address: SocketAddr,
    pub(super) ready: bool,
    serving: bool,
    terminating: bool,
    pub(super) local: bool,
    pub(super) node: Option<&'a str>,
    pub(super) zone: Option<&'a str>,
    endpoint: &'a Endpoint,
}

impl<'a> Candidate<'a> {
    fn new(address: SocketAddr, endpoint: &'a Endpoint, this: &ThisNode) -> Self {
        let conditions = endpoint.conditions;
        let node = endpoint.node_name.as_deref().or_else(|| endpoint.topology.get(HOST_NAME));
        let zone = endpoint.zone.as_deref().or_else(|| endpoint.topology.get(ZONE));
        Self {
            address,
            ready: conditions.ready.unwrap_or(true),
            serving: conditions.serving.unwrap_or(true),
            terminating: conditions.terminating.unwrap_or(false),
            local: node.is_some_and(|node| node == this.name),
            node,
            zone,
            endpoint,
        }
    }

    /// Which of two entries for one address counts: a local one, and the one that can do more. An
    /// endpoint that moves from one slice to another is in both for a moment.
    fn rank(&self) -> (bool, bool, bool, bool) {
        (self.local, self.ready, self.serving, self.terminating)
    }

    fn is_last_resort(&self) -> bool {
        self.serving && self.terminating
    }

    fn is_for_node(&self, name: &str) -> bool {
        self.endpoint.hints.iter().any(|hints| hints.for_nodes.iter().any(|hint| hint.name == name))
    }

    fn is_for_zone(&self, name: &str) -> bool {
        self.endpoint.hints.iter().any(|hints| hints.for_zones.iter().any(|hint| hint.name == name))
    }

    fn has_node_hints(&self) -> bool {
        self.endpoint.hints.as_ref().is_some_and(|hints| !hints.for_nodes.is_empty())
    }

    fn has_zone_hints(&self) -> bool {
        self.endpoint.hints.as_ref().is_some_and(|hints| !hints.for_zones.is_empty())
    }
}

/// The endpoints that get connections, by policy.
pub(super) struct Chosen<'c, 'a> {
    pub(super) cluster: Vec<&'c Candidate<'a>>,
    pub(super) local: Vec<&'c Candidate<'a>>,
}

impl<'c, 'a> Chosen<'c, 'a> {
    pub(super) fn new(endpoints: &'c [Candidate<'a>], node: &ThisNode) -> Self {
        let ready: Vec<_> = endpoints.iter().filter(|endpoint| endpoint.ready).collect();
        let local = ready.iter().copied().filter(|endpoint| endpoint.local).collect();
        let mut chosen = Self { cluster: hinted(ready, node), local };
        let last_resort = endpoints.iter().filter(|endpoint| endpoint.is_last_resort());
        if chosen.cluster.is_empty() {
            chosen.cluster = last_resort.clone().collect();
        }
        if chosen.local.is_empty() {
            chosen.local = last_resort.filter(|endpoint| endpoint.local).collect();
        }
        chosen
    }

    pub(super) fn select(&self, local: bool, fall_back: bool) -> &[&'c Candidate<'a>] {
        match local {
            true if fall_back && self.local.is_empty() => &self.cluster,
            true => &self.local,
            false => &self.cluster,
        }
    }
}

/// Those that are meant for this node, or else for its zone. Hints count only if every endpoint has
/// them and some are for here.
fn hinted<'c, 'a>(ready: Vec<&'c Candidate<'a>>, node: &ThisNode) -> Vec<&'c Candidate<'a>> {
    let narrow = |fits: &dyn Fn(&Candidate<'_>) -> bool| {
        let narrowed: Vec<_> = ready.iter().copied().filter(|endpoint| fits(endpoint)).collect();
        (!narrowed.is_empty()).then_some(narrowed)
    };
    let by_node = ready
        .iter()
        .all(|endpoint| endpoint.has_node_hints())
        .then(|| narrow(&|endpoint| endpoint.is_for_node(&node.name)))
        .flatten();
    let by_zone = || {
        let zone = node.zone.as_deref()?;
        let all = ready.iter().all(|endpoint| endpoint.has_zone_hints());
        all.then(|| narrow(&|endpoint| endpoint.is_for_zone(zone))).flatten()
    };
    by_node.or_else(by_zone).unwrap_or(ready)
}
impl<'a> Translator<'a> {
    /// The endpoints of a port, each address once, in order.
    pub(super) fn endpoints(
        &mut self,
        port: &ServicePort,
        protocol: Protocol,
        ipv4: bool,
    ) -> Vec<Candidate<'a>> {
        let mut found: BTreeMap<SocketAddr, Candidate<'a>> = BTreeMap::new();
        let slices: Vec<&'a EndpointSlice> = self.slices.clone();
        for slice in slices {
            let family = match slice.address_type.as_str() {
                "IPv4" => true,
                "IPv6" => false,
                _ => continue,
            };
            if family != ipv4 {
                continue;
            }
            for slice_port in &slice.ports {
                let fits = slice_port.name.as_ref() == Some(&port.name)
                    && super::protocol(slice_port.protocol.as_deref()) == Some(protocol);
                let Some(number) = slice_port.port.filter(|number| fits && *number != 0) else {
                    continue;
                };
                let Some(number) = port_number(number) else {
                    self.notes.add("is not a port number of an endpoint; it is not used", number);
                    continue;
                };
                for endpoint in &slice.endpoints {
                    let Some(text) = endpoint.addresses.first() else { continue };
                    let Some(ip) = address_of(text, ipv4) else {
                        self.notes.add(not_an_address(ipv4), format!("{text:?}"));
                        continue;
                    };
                    if !may_be_endpoint(&ip) {
                        self.notes
                            .add("is not an address that endpoints can have; it is not used", ip);
                        continue;
                    }
                    let candidate =
                        Candidate::new(SocketAddr::new(ip, number), endpoint, self.node);
                    let place = found.entry(candidate.address).or_insert_with(|| candidate.clone());
                    if candidate.rank() > place.rank() {
                        *place = candidate;
                    }
                }
            }
        }
        if found.len() > MAX_ENDPOINTS {
            self.result.is_cut = true;
            let text = "endpoints of one port are too many; the first 20000 are used";
            self.notes.add(text, found.len());
        }
        found.into_values().take(MAX_ENDPOINTS).collect()
    }
}

fn not_an_address(ipv4: bool) -> &'static str {
    match ipv4 {
        true => "is not an address of an IPv4 endpoint; it is not used",
        false => "is not an address of an IPv6 endpoint; it is not used",
    }
}

/// Whether an endpoint can have this address. At others this node would reach itself, its neighbours
/// or its cloud's metadata (169.254.169.254, fd00:ec2::254) for whoever writes an EndpointSlice; API
/// servers since 1.21 refuse most of them.
fn may_be_endpoint(address: &IpAddr) -> bool {
    const METADATA: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254));
    let is_odd = match address {
        IpAddr::V4(address) => {
            let first = address.octets()[0];
            first == 0 || first >= 240 || address.is_link_local()
        }
        IpAddr::V6(address) => {
            address.is_unicast_link_local() || address.to_ipv4_mapped().is_some()
        }
    };
    !is_odd
        && !address.is_unspecified()
        && !address.is_loopback()
        && !address.is_multicast()
        && *address != METADATA
}

fn address_of(text: &str, ipv4: bool) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().filter(|address| address.is_ipv4() == ipv4)
}
