//! The elements of the sets: what of each service the rules have to know.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use lvs::client::packet::{AddressFamily, Protocol, ServiceKey};

use super::Rules;
use crate::{
    object::ObjectName,
    state::{State, Update},
    translate::{Target, TargetKind},
};

/// The protocols of services.
pub(super) const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// What is in the sets.
#[derive(Clone, Debug, Default)]
pub(super) struct Elements {
    /// How often each is wanted.
    pub(super) wanted: BTreeMap<Element, usize>,
    of_targets: BTreeMap<ServiceKey, Vec<Element>>,
    of_services: BTreeMap<ObjectName, Vec<Element>>,
    /// What is wanted only until the services are gone that it is for.
    gone: Vec<Element>,
    /// Those services.
    gone_keys: BTreeSet<ServiceKey>,
    /// Those that the kernel may not have although they are wanted, or the other way round.
    pub(super) changed: BTreeSet<Element>,
}

/// An element of a set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Element {
    pub(super) set: Set,
    pub(super) family: AddressFamily,
    pub(super) text: String,
}

/// One for each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Set {
    /// Endpoints here, each with itself.
    Hairpin,
    /// Where clients get the node's address. One for each protocol: in a concatenation the protocol's
    /// port has no type.
    Masquerade(&'static str),
    /// Cluster addresses, where clients that are no pods get the node's address.
    Cluster(&'static str),
    /// What serves some clients only.
    Restricted,
    /// Those clients. One for each protocol: some kernels (Debian's 6.12.118) take no protocol in a
    /// concatenation with intervals.
    Allowed(&'static str),
    /// What may be reached at the addresses.
    Services,
    /// The addresses that are local for the sake of services.
    Addresses,
    /// By which mark clients inside of the cluster reach endpoints of other nodes. This is a map.
    Inside,
}

/// `services-ip { 10.96.0.1 . tcp . 80 }`, as `nft` takes it.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {{ {} }}", self.set.name(self.family), self.text)
    }
}

impl Element {
    /// The service that it is for, where it names one.
    pub(super) fn service(&self) -> Option<ServiceKey> {
        let mut words = self.text.split(" . ");
        let address = words.next()?.parse().ok()?;
        let (protocol, port) = match self.set {
            Set::Masquerade(protocol) | Set::Cluster(protocol) | Set::Allowed(protocol) => {
                (protocol, words.next()?)
            }
            Set::Restricted | Set::Services => (words.next()?, words.next()?),
            Set::Hairpin | Set::Addresses | Set::Inside => return None,
        };
        let protocol = match protocol {
            "tcp" => Protocol::TCP,
            "udp" => Protocol::UDP,
            "sctp" => Protocol::SCTP,
            _ => return None,
        };
        Some(ServiceKey::Address { protocol, address, port: port.parse().ok()? })
    }
}

impl Set {
    pub(super) const ALL: [Self; 14] = [
        Self::Hairpin,
        Self::Masquerade(PROTOCOLS[0]),
        Self::Masquerade(PROTOCOLS[1]),
        Self::Masquerade(PROTOCOLS[2]),
        Self::Cluster(PROTOCOLS[0]),
        Self::Cluster(PROTOCOLS[1]),
        Self::Cluster(PROTOCOLS[2]),
        Self::Restricted,
        Self::Allowed(PROTOCOLS[0]),
        Self::Allowed(PROTOCOLS[1]),
        Self::Allowed(PROTOCOLS[2]),
        Self::Services,
        Self::Addresses,
        Self::Inside,
    ];

    /// Its name in one family.
    pub(super) fn name(self, family: AddressFamily) -> String {
        let ip = ip(family);
        match self {
            Self::Hairpin => format!("hairpin-{ip}"),
            Self::Masquerade(protocol) => format!("masquerade-{ip}-{protocol}"),
            Self::Cluster(protocol) => format!("cluster-{ip}-{protocol}"),
            Self::Restricted => format!("restricted-{ip}"),
            Self::Allowed(protocol) => format!("allowed-{ip}-{protocol}"),
            Self::Services => format!("services-{ip}"),
            Self::Addresses => format!("addresses-{ip}"),
            Self::Inside => format!("inside-{ip}"),
        }
    }

    pub(super) fn definition(self, family: AddressFamily) -> String {
        let address = if family == AddressFamily::Ipv4 { "ipv4_addr" } else { "ipv6_addr" };
        let place = format!("{address} . inet_proto . inet_service");
        let name = self.name(family);
        match self {
            Self::Hairpin => format!("set {name} {{ type {address} . {address};"),
            Self::Masquerade(_) | Self::Cluster(_) => {
                format!("set {name} {{ type {address} . inet_service;")
            }
            Self::Restricted | Self::Services => format!("set {name} {{ type {place};"),
            Self::Allowed(_) => {
                format!("set {name} {{ type {address} . inet_service . {address}; flags interval;")
            }
            Self::Addresses => format!("set {name} {{ type {address}; flags interval;"),
            Self::Inside => format!("map {name} {{ type {place} : mark;"),
        }
    }
}

impl Elements {
    pub(super) fn take_in(&mut self, state: &State, update: &Update, rules: &Rules) {
        for key in &update.keys {
            let Some((_, target)) = state.target(key) else {
                self.gone_keys.insert(*key);
                continue;
            };
            self.gone_keys.remove(key);
            let elements = self.want(of_target(target, state, rules));
            let before = self.of_targets.insert(*key, elements);
            self.unwant(before.into_iter().flatten());
        }
        for name in &update.services {
            let translation = state.translation(name);
            let endpoints = translation.into_iter().flat_map(|found| &found.local_endpoints);
            let elements: BTreeSet<_> = endpoints
                .map(|(_, endpoint)| {
                    let (ip, family) = (endpoint.ip(), family_of(&endpoint.ip()));
                    Element { set: Set::Hairpin, family, text: format!("{ip} . {ip}") }
                })
                .collect();
            let before = match elements.is_empty() {
                true => self.of_services.remove(name),
                false => {
                    let elements = self.want(elements.into_iter().collect());
                    self.of_services.insert(name.clone(), elements)
                }
            };
            self.gone.extend(before.into_iter().flatten());
        }
    }

    pub(super) fn drop_gone(&mut self, is_gone: impl Fn(&ServiceKey) -> bool) {
        let (gone, still): (BTreeSet<_>, _) =
            std::mem::take(&mut self.gone_keys).into_iter().partition(is_gone);
        self.gone_keys = still;
        for key in gone {
            self.gone.extend(self.of_targets.remove(&key).into_iter().flatten());
        }
        let gone = std::mem::take(&mut self.gone);
        self.unwant(gone);
    }

    /// Takes in elements of services that are not wanted, as if these had gone just now.
    pub(super) fn adopt(&mut self, listed: &BTreeSet<Element>, rules: &Rules) {
        let mut left: BTreeMap<ServiceKey, Vec<Element>> = BTreeMap::new();
        for element in listed {
            let Some(key) = element.service() else { continue };
            if !self.of_targets.contains_key(&key) {
                left.entry(key).or_default().push(element.clone());
            }
        }
        for (key, elements) in &mut left {
            let ServiceKey::Address { address, .. } = key else { continue };
            let text = address.to_string();
            let local = Element { set: Set::Addresses, family: family_of(address), text };
            // A set with intervals takes no overlaps.
            let is_in_range = rules.ranges.iter().any(|range| range.contains(address));
            if listed.contains(&local) && !is_in_range {
                elements.push(local);
            }
        }
        for (key, elements) in left {
            let elements = self.want(elements);
            self.of_targets.insert(key, elements);
            self.gone_keys.insert(key);
        }
    }

    fn want(&mut self, elements: Vec<Element>) -> Vec<Element> {
        for element in &elements {
            let count = self.wanted.entry(element.clone()).or_default();
            *count += 1;
            if *count == 1 {
                self.toggle(element);
            }
        }
        elements
    }

    fn unwant(&mut self, elements: impl IntoIterator<Item = Element>) {
        for element in elements {
            let Some(count) = self.wanted.get_mut(&element) else { continue };
            *count -= 1;
            if *count == 0 {
                self.wanted.remove(&element);
                self.toggle(&element);
            }
        }
    }

    fn toggle(&mut self, element: &Element) {
        if !self.changed.remove(element) {
            self.changed.insert(element.clone());
        }
    }

    pub(super) fn of_set(&self, set: Set, family: AddressFamily) -> impl Iterator<Item = &str> {
        let first = Element { set, family, text: String::new() };
        let elements = self.wanted.range(first..).map(|(element, _)| element);
        elements
            .take_while(move |element| (element.set, element.family) == (set, family))
            .map(|element| element.text.as_str())
    }
}

/// What a virtual service needs in the sets.
fn of_target(target: &Target, state: &State, rules: &Rules) -> Vec<Element> {
    let mut elements = Vec::new();
    let (key, mark) = match (target.key(), &target.stands_for) {
        (ServiceKey::Mark { mark, .. }, Some(key)) => (key, Some(mark.get())),
        (key, _) => (key, None),
    };
    let ServiceKey::Address { protocol, address, port } = *key else { return elements };
    let (family, Some(protocol)) = (family_of(&address), protocol_name(protocol)) else {
        return elements;
    };
    let mut add = |set: Set, text: String| elements.push(Element { set, family, text });
    let place = format!("{address} . {protocol} . {port}");
    if let Some(mark) = mark {
        add(Set::Inside, format!("{place} : {mark:#x}"));
        return elements;
    }
    match target.kind {
        TargetKind::ClusterIp => add(Set::Cluster(protocol), format!("{address} . {port}")),
        _ if target.local && !rules.masquerade_all => {}
        _ => add(Set::Masquerade(protocol), format!("{address} . {port}")),
    }
    if let Some(sources) = &target.source_ranges {
        add(Set::Restricted, place.clone());
        for source in sources {
            add(Set::Allowed(protocol), format!("{address} . {port} . {source}"));
        }
    }
    if target.address().is_some() {
        add(Set::Services, place);
        let is_in_range = rules.ranges.iter().any(|range| range.contains(&address));
        if !is_in_range && state.wants_address(&address) {
            add(Set::Addresses, address.to_string());
        }
    }
    elements
}

pub(super) fn family_of(address: &IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Ipv4 } else { AddressFamily::Ipv6 }
}

/// The family in the language of nft.
pub(super) fn ip(family: AddressFamily) -> &'static str {
    if family == AddressFamily::Ipv4 { "ip" } else { "ip6" }
}

fn protocol_name(protocol: Protocol) -> Option<&'static str> {
    match protocol {
        Protocol::TCP => Some(PROTOCOLS[0]),
        Protocol::UDP => Some(PROTOCOLS[1]),
        Protocol::SCTP => Some(PROTOCOLS[2]),
        _ => None,
    }
}
