//! What all objects together come to, kept up to date one event at a time.

mod claims;
mod event;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use lvs::client::packet::{DestinationKey, ServiceKey};

use self::claims::Claim;
pub(crate) use self::event::Event;
use crate::{
    annotation::SCHEDULER,
    object::{
        Created, Endpoint, EndpointSlice, HEADLESS, Node, OTHER_PROXY, OWNER, ObjectName, Service,
        TRIGGER_TIME, ZONE,
    },
    settings::{Settings, Surroundings, ThisNode},
    translate::{HealthCheck, Target, Translation, is_proxied, translate},
};

/// What has changed since the last time that it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Update {
    /// The virtual services that may have changed, appeared or gone.
    pub(crate) keys: BTreeSet<ServiceKey>,
    /// The Services whose endpoints or addresses may have changed.
    pub(crate) services: BTreeSet<ObjectName>,
    /// What could not be used and had not been said before.
    pub(crate) notices: Vec<String>,
    /// When endpoints became what these changes make of them, as their slices say; none of those that
    /// were in the first list.
    pub(crate) triggers: Vec<SystemTime>,
}

impl Update {
    /// With what has changed since.
    pub(crate) fn extend(&mut self, later: Self) {
        self.keys.extend(later.keys);
        self.services.extend(later.services);
        self.notices.extend(later.notices);
        self.triggers.extend(later.triggers);
    }

    /// Whether nothing has changed.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// This number of Services of one namespace is translated at once: the others of it wait for the next
/// round, so that nobody waits for all changes of somebody else.
const SHARE: usize = 1_000;
/// Whose endpoints the API servers are.
const API_SERVERS: (&str, &str) = ("default", "kubernetes");

/// All objects and what they come to. Holds no socket and no clock; only [`update`](Self::update)
/// translates, and only what events have touched since.
#[derive(Clone, Debug)]
pub(crate) struct State {
    node: ThisNode,
    /// The addresses of other nodes.
    others: BTreeMap<String, Vec<IpAddr>>,
    settings: Settings,
    // Large values are in boxes and lists, as a map's nodes have room for eleven values each, and are
    // half full.
    services: BTreeMap<ObjectName, Box<Service>>,
    /// The slices of a service in order of their names.
    slices: BTreeMap<ObjectName, Vec<EndpointSlice>>,
    /// Whose slice it is.
    owners: BTreeMap<ObjectName, ObjectName>,
    services_are_listed: bool,
    slices_are_listed: bool,
    touched: BTreeSet<ObjectName>,
    triggers: Vec<SystemTime>,
    translations: BTreeMap<ObjectName, Translation>,
    /// Who wants a virtual service, best first, and which of its targets that is.
    claims: BTreeMap<Claim, usize>,
    /// How many claims there are on each address.
    addresses: BTreeMap<IpAddr, usize>,
    /// Endpoints that were terminating when they were last in a slice, by service. Those that are in
    /// one still do not count.
    ended: BTreeMap<ObjectName, BTreeSet<SocketAddr>>,
    /// Who wants a port for health checks.
    health_ports: BTreeMap<u16, BTreeSet<(Created, ObjectName)>>,
    /// What was said of each service.
    said: BTreeMap<ObjectName, BTreeSet<String>>,
}

impl State {
    /// Nothing yet, on a node.
    pub(crate) fn new(node: ThisNode, settings: Settings) -> Self {
        Self {
            node,
            others: BTreeMap::new(),
            settings,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            owners: BTreeMap::new(),
            services_are_listed: false,
            slices_are_listed: false,
            touched: BTreeSet::new(),
            triggers: Vec::new(),
            translations: BTreeMap::new(),
            claims: BTreeMap::new(),
            addresses: BTreeMap::new(),
            ended: BTreeMap::new(),
            health_ports: BTreeMap::new(),
            said: BTreeMap::new(),
        }
    }

    /// Takes in an event.
    pub(crate) fn apply(&mut self, event: Event) {
        match event {
            Event::Services(services) => {
                self.services_are_listed = true;
                let mut gone: BTreeSet<_> = self.services.keys().cloned().collect();
                for service in services {
                    gone.remove(&service.metadata.object_name());
                    self.set_service(service);
                }
                gone.iter().for_each(|name| self.remove_service(name));
            }
            Event::Slices(slices) => {
                self.slices_are_listed = true;
                let mut gone: BTreeSet<_> = self.owners.keys().cloned().collect();
                for slice in slices {
                    gone.remove(&slice.metadata.object_name());
                    self.set_slice(slice);
                }
                gone.iter().for_each(|name| self.remove_slice(name));
            }
            Event::Service(service) => self.set_service(service),
            Event::ServiceGone(name) => self.remove_service(&name),
            Event::Slice(slice) => self.set_slice(slice),
            Event::SliceGone(name) => self.remove_slice(&name),
            Event::Node(node) => self.set_node_object(&node),
            // This node is still this node, whatever its object: what to do about it is for the proxy.
            Event::NodeGone(name) => self.set_other_node(name, Vec::new()),
        }
    }

    /// Whether both lists have come: before that, what is missing here may well be wanted.
    pub(crate) fn is_complete(&self) -> bool {
        self.services_are_listed && self.slices_are_listed
    }

    /// The node.
    pub(crate) fn node(&self) -> &ThisNode {
        &self.node
    }

    /// The settings.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Changes the node's addresses: those of all its links but the ones that the proxy has added.
    pub(crate) fn set_node_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        if self.node.addresses != addresses {
            self.node.addresses = addresses;
            self.touch_all();
        }
    }

    /// Changes what is around the node.
    pub(crate) fn set_surroundings(&mut self, around: Surroundings) {
        let before = std::mem::replace(&mut self.node.around, around);
        let around = &self.node.around;
        if (&before.gateways, &before.broadcasts) != (&around.gateways, &around.broadcasts) {
            self.touch_all();
        } else if before.listening != around.listening {
            let at_node = self.translations.iter().filter(|(_, it)| it.is_at_node);
            self.touched.extend(at_node.map(|(name, _)| name.clone()));
        }
    }

    /// Whether it matters where the node listens.
    pub(crate) fn is_at_node(&self) -> bool {
        self.translations.values().any(|translation| translation.is_at_node)
    }

    /// Everything is to be translated again.
    pub(crate) fn look_at_all(&mut self) {
        self.touch_all();
    }

    /// Changes the settings.
    pub(crate) fn set_settings(&mut self, settings: Settings) {
        if self.settings != settings {
            self.settings = settings;
            self.touch_all();
        }
    }

    /// Takes in that the kernel lacks a scheduler: the services that choose it get the default.
    pub(crate) fn refuse_scheduler(&mut self, name: String) {
        let chooses = |service: &Service| {
            service.metadata.annotations.get(SCHEDULER).map(str::trim) == Some(name.as_str())
        };
        let who = self.services.iter().filter(|(_, service)| chooses(service));
        self.touched.extend(who.map(|(name, _)| name.clone()));
        self.settings.refused_schedulers.insert(name);
    }

    /// Whether events have come that were not translated yet.
    pub(crate) fn is_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Translates all that events have touched, and says what that changes.
    pub(crate) fn update(&mut self) -> Update {
        self.update_of(usize::MAX)
    }

    /// Translates what events have touched, a share of each namespace. What is left stays touched.
    pub(crate) fn update_share(&mut self) -> Update {
        self.update_of(SHARE)
    }

    fn update_of(&mut self, share: usize) -> Update {
        let mut update = Update {
            services: self.take_touched(share),
            triggers: std::mem::take(&mut self.triggers),
            ..Update::default()
        };
        for name in &update.services {
            self.retract(name, &mut update.keys);
            let Some(service) = self.services.get(name) else {
                self.said.remove(name);
                continue;
            };
            let slices = self.slices.get(name).into_iter().flatten();
            let translation = translate(service, slices, &self.node, &self.settings);
            self.claim(name, translation, &mut update.keys);
        }
        let mut concerned = update.services.clone();
        for key in &update.keys {
            concerned.extend(self.claims_on(key).map(|((.., name), _)| name.clone()));
        }
        for name in &concerned {
            self.say(name, &mut update.notices);
        }
        update
    }

    /// The virtual service with this key and whose it is, if one is wanted.
    pub(crate) fn target(&self, key: &ServiceKey) -> Option<(&ObjectName, &Target)> {
        let ((.., name), position) = self.claims_on(key).next()?;
        Some((name, self.translations.get(name)?.targets.get(*position)?))
    }

    /// All virtual services that are wanted, by key, each with the name of its Service.
    #[cfg(test)]
    pub(crate) fn targets(&self) -> impl Iterator<Item = (&ObjectName, &Target)> {
        let mut before = None;
        self.claims.iter().filter_map(move |((key, .., name), position)| {
            let is_best = before.replace(key) != Some(key);
            is_best.then_some(())?;
            Some((name, self.translations.get(name)?.targets.get(*position)?))
        })
    }

    /// The addresses that must be local to the node for packets to reach IPVS, without those that
    /// it has by itself.
    #[cfg(test)]
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.keys().copied().filter(|address| !self.node.addresses.contains(address))
    }

    /// Whether this address must be local to the node and is not so by itself.
    pub(crate) fn wants_address(&self, address: &IpAddr) -> bool {
        self.addresses.contains_key(address) && !self.node.addresses.contains(address)
    }

    /// The health checks by their ports, each with the name of its service.
    pub(crate) fn health_checks(&self) -> impl Iterator<Item = (&ObjectName, &HealthCheck)> {
        self.health_ports.values().filter_map(|names| {
            let (_, name) = names.first()?;
            Some((name, self.translations.get(name)?.health_check.as_ref()?))
        })
    }

    /// How long real servers that are no endpoints any more, or get no new connections, may keep those
    /// that they have:
    ///
    /// - not at all, if the endpoint was terminating and is in no slice any more: its pod has ended;
    /// - else as long as the Service's annotation says, or else `limit`;
    /// - without either, as long as the endpoint is in a slice: its pod lives, at most for its grace
    ///   period if it is terminating;
    /// - else there is no entry: nothing is known of the pod.
    pub(crate) fn drain_limits<'a>(
        &self,
        leaving: impl IntoIterator<Item = (&'a ServiceKey, &'a DestinationKey)>,
        limit: Option<Duration>,
    ) -> BTreeMap<(ServiceKey, DestinationKey), Duration> {
        let mut listed = BTreeMap::new();
        let mut limits = BTreeMap::new();
        for (key, real_server) in leaving {
            let Some((name, _)) = self.target(key) else { continue };
            let listed = listed.entry(name).or_insert_with(|| self.listed(name));
            let place = SocketAddr::new(real_server.address, real_server.port);
            let (lives, own) = (
                listed.contains(&place),
                self.translations.get(name).and_then(|translation| translation.drain_limit),
            );
            let has_ended = self.ended.get(name).is_some_and(|ended| ended.contains(&place));
            let limit = match own.or(limit) {
                _ if has_ended && !lives => Some(Duration::ZERO),
                Some(limit) => Some(limit),
                None => lives.then_some(Duration::MAX),
            };
            limits.extend(limit.map(|limit| ((*key, *real_server), limit)));
        }
        limits
    }

    /// Forgets which endpoints have ended, but for those whose real servers still leave.
    pub(crate) fn forget_ended(&mut self, leaving: &BTreeSet<SocketAddr>) {
        self.ended.retain(|_, ended| {
            ended.retain(|place| leaving.contains(place));
            !ended.is_empty()
        });
    }

    /// What a Service comes to by itself.
    pub(crate) fn translation(&self, name: &ObjectName) -> Option<&Translation> {
        self.translations.get(name)
    }

    /// What every Service comes to by itself.
    pub(crate) fn translations(&self) -> impl Iterator<Item = (&ObjectName, &Translation)> {
        self.translations.iter()
    }

    fn take_touched(&mut self, share: usize) -> BTreeSet<ObjectName> {
        if self.touched.len() <= share {
            return std::mem::take(&mut self.touched);
        }
        let (mut namespace, mut taken) = (Arc::from(""), 0);
        let is_taken = |name: &ObjectName| {
            if name.namespace != namespace {
                (namespace, taken) = (name.namespace.clone(), 0);
            }
            taken += 1;
            taken <= share
        };
        let (taken, rest) = std::mem::take(&mut self.touched).into_iter().partition(is_taken);
        self.touched = rest;
        taken
    }

    fn set_service(&mut self, service: Service) {
        let name = service.metadata.object_name();
        if service.metadata.labels.contains(OTHER_PROXY) || !is_proxied(&service) {
            self.remove_service(&name);
        } else if self.services.get(&name).is_none_or(|before| **before != service) {
            self.touched.insert(name.clone());
            self.services.insert(name, Box::new(service));
        }
    }

    fn remove_service(&mut self, name: &ObjectName) {
        if self.services.remove(name).is_some() {
            self.touched.insert(name.clone());
        }
    }

    fn set_slice(&mut self, slice: EndpointSlice) {
        let name = slice.metadata.object_name();
        let labels = &slice.metadata.labels;
        let owner = labels.get(OWNER).filter(|owner| !owner.is_empty());
        let owner = owner.map(|owner| ObjectName::new(name.namespace.clone(), owner));
        let Some(owner) = owner.filter(|_| !labels.contains(HEADLESS)) else {
            return self.remove_slice(&name);
        };
        if self.owners.get(&name).is_some_and(|before| *before != owner) {
            self.remove_slice(&name);
        }
        let slices = self.slices.entry(owner.clone()).or_default();
        let mut trigger = slice.metadata.annotations.get(TRIGGER_TIME).map(str::to_owned);
        match slices.binary_search_by(|other| other.metadata.name.cmp(&slice.metadata.name)) {
            Ok(place) if slices[place] == slice => return,
            Ok(place) => {
                let before = std::mem::replace(&mut slices[place], slice);
                note_ended(&mut self.ended, &owner, &before);
                if before.metadata.annotations.get(TRIGGER_TIME) == trigger.as_deref() {
                    trigger = None;
                }
            }
            Err(place) => {
                slices.reserve_exact(1);
                slices.insert(place, slice);
            }
        }
        if self.is_complete() {
            let time = trigger.and_then(|text| humantime::parse_rfc3339_weak(&text).ok());
            self.triggers.extend(time);
        }
        self.touched.insert(owner.clone());
        self.look_at_api_servers(&owner);
        self.owners.insert(name, owner);
    }

    /// The API servers are the endpoints of a Service, which no other one can have as addresses.
    fn look_at_api_servers(&mut self, owner: &ObjectName) {
        if (&*owner.namespace, &*owner.name) != API_SERVERS {
            return;
        }
        let places = self.listed(owner).into_iter();
        let api_servers = places.map(|place| place.ip()).collect();
        if self.node.api_servers != api_servers {
            self.node.api_servers = api_servers;
            self.touch_all();
        }
    }

    fn remove_slice(&mut self, name: &ObjectName) {
        let Some(owner) = self.owners.remove(name) else { return };
        if let Some(slices) = self.slices.get_mut(&owner) {
            let place = slices.iter().position(|slice| *slice.metadata.name == *name.name);
            if let Some(place) = place {
                note_ended(&mut self.ended, &owner, &slices.remove(place));
            }
            if slices.is_empty() {
                self.slices.remove(&owner);
            }
        }
        self.look_at_api_servers(&owner);
        self.touched.insert(owner);
    }

    fn set_node_object(&mut self, node: &Node) {
        if node.metadata.name != self.node.name {
            let addresses = addresses_of(node).collect();
            return self.set_other_node(node.metadata.name.clone(), addresses);
        }
        let zone = node.metadata.labels.get(ZONE).map(str::to_owned);
        // A Node may have none for a while.
        let (own, before) = (primary_addresses(node), &self.node.primary);
        let all: Vec<_> = self.node.given.iter().chain(&own).chain(before).copied().collect();
        let primary = firsts(&all);
        let networks = node.spec.pod_cidrs.iter().filter_map(|network| network.parse().ok());
        let pod_networks = networks.collect();
        let now = ThisNode { zone, primary, pod_networks, ..self.node.clone() };
        if now != self.node {
            self.node = now;
            self.touch_all();
        }
    }

    /// Another node has these addresses now.
    fn set_other_node(&mut self, name: String, addresses: Vec<IpAddr>) {
        if name == self.node.name {
            return;
        }
        match addresses.is_empty() {
            true => self.others.remove(&name),
            false => self.others.insert(name, addresses),
        };
        let others = self.others.values().flatten().copied().collect();
        if self.node.others != others {
            self.node.others = others;
            self.touch_all();
        }
    }

    /// Where the endpoints are that are in a slice, whatever their conditions.
    fn listed(&self, name: &ObjectName) -> BTreeSet<SocketAddr> {
        self.slices
            .get(name)
            .into_iter()
            .flatten()
            .flat_map(|slice| places(slice, |_| true))
            .collect()
    }

    fn touch_all(&mut self) {
        self.touched.extend(self.services.keys().cloned());
    }
}

/// What a slice's endpoints are reached at, those of each port.
fn places(slice: &EndpointSlice, of: fn(&Endpoint) -> bool) -> impl Iterator<Item = SocketAddr> {
    let addresses = slice.endpoints.iter().filter(move |endpoint| of(endpoint));
    let addresses = addresses.filter_map(|endpoint| endpoint.addresses.first()?.parse().ok());
    let ports = slice.ports.iter().filter_map(|port| u16::try_from(port.port?).ok());
    let ports: Vec<u16> = ports.collect();
    addresses.flat_map(move |address: IpAddr| {
        ports.clone().into_iter().map(move |port| SocketAddr::new(address, port))
    })
}

/// Notes which endpoints of a slice that is no more were terminating.
fn note_ended(
    ended: &mut BTreeMap<ObjectName, BTreeSet<SocketAddr>>,
    owner: &ObjectName,
    slice: &EndpointSlice,
) {
    let mut places =
        places(slice, |endpoint| endpoint.conditions.terminating == Some(true)).peekable();
    if places.peek().is_some() {
        ended.entry(owner.clone()).or_default().extend(places);
    }
}

/// The first address of each family by which the cluster knows a node.
fn primary_addresses(node: &Node) -> Vec<IpAddr> {
    firsts(&addresses_of(node).collect::<Vec<_>>())
}

/// The first address of each family.
pub(crate) fn firsts(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first = |ipv4: bool| addresses.iter().find(|address| address.is_ipv4() == ipv4).copied();
    first(true).into_iter().chain(first(false)).collect()
}

/// The addresses by which the cluster knows a node, internal ones before others.
fn addresses_of(node: &Node) -> impl Iterator<Item = IpAddr> {
    let of_kind = |kind| {
        let addresses = node.status.addresses.iter().filter(move |address| address.kind == kind);
        addresses.filter_map(|address| address.address.parse().ok())
    };
    of_kind("InternalIP").chain(of_kind("ExternalIP"))
}
