//! What should be on the node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use lvs::{
    Action, Change, Desired,
    client::{
        Snapshot,
        packet::{AddressFamily, DestinationKey, Protocol, ServiceKey},
    },
};

use super::{Routes, StaleClients};
use crate::{
    object::ObjectName,
    rules::{RuleSet, Rules},
    state::{State, Update},
    translate::HealthCheck,
};

/// What should be on the node: a value that follows from the objects, and from the node's own addresses.
///
/// It is kept up to date one [update](Self::take_in) at a time: what it holds is what all updates
/// together say, whatever their order.
#[derive(Clone, Debug)]
pub(crate) struct NodeDesired {
    /// The table of IPVS.
    pub(crate) table: Desired,
    /// The addresses of the proxy's link: those of services that no range covers.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// The service ranges that are local by a route.
    ranges: Vec<IpNet>,
    /// From where the node connects to services: IPv4, IPv6.
    sources: [Option<IpAddr>; 2],
    /// The rules of nftables; `None` where there are none.
    pub(crate) rules: Option<RuleSet>,
    /// The services that only some clients may reach.
    restricted: BTreeSet<ServiceKey>,
    /// Where the health of services is served, by port.
    pub(crate) checks: BTreeMap<u16, (ObjectName, HealthCheck)>,
    /// For which address and port a service by mark stands, or stood.
    marks: BTreeMap<ServiceKey, ServiceKey>,
}

impl NodeDesired {
    /// Nothing but the ranges, on a node that has these rules.
    pub(crate) fn new(ranges: Vec<IpNet>, rules: Option<Rules>) -> Self {
        Self {
            table: Desired::new(),
            addresses: BTreeSet::new(),
            ranges,
            sources: [None; 2],
            rules: rules.map(RuleSet::new),
            restricted: BTreeSet::new(),
            checks: BTreeMap::new(),
            marks: BTreeMap::new(),
        }
    }

    /// Takes in what has changed.
    pub(crate) fn take_in(&mut self, state: &State, update: &Update) {
        for key in &update.keys {
            let target = state.target(key).map(|(_, target)| target);
            match target {
                Some(target) => {
                    self.table.insert(target.virtual_service.clone());
                    if let Some(place) = target.stands_for {
                        self.marks.insert(*key, place);
                    }
                }
                None => {
                    self.table.remove(key);
                }
            }
            match target.is_some_and(|target| target.source_ranges.is_some()) {
                true => self.restricted.insert(*key),
                false => self.restricted.remove(key),
            };
            if let ServiceKey::Address { address, .. } = key {
                let is_covered = self.ranges.iter().any(|range| range.contains(address));
                match !is_covered && state.wants_address(address) {
                    true => self.addresses.insert(*address),
                    false => self.addresses.remove(address),
                };
            }
        }
        if let Some(rules) = &mut self.rules {
            rules.take_in(state, update);
        }
        if !update.services.is_empty() {
            let checks = state.health_checks();
            self.checks =
                checks.map(|(name, check)| (check.port, (name.clone(), check.clone()))).collect();
        }
    }

    /// From where the node connects to services of a family.
    pub(crate) fn set_source(&mut self, ipv4: bool, source: Option<IpAddr>) {
        self.sources[usize::from(!ipv4)] = source;
    }

    /// The routes that should be: a range with its host bits cleared, or an address of the link.
    pub(crate) fn routes(&self) -> Routes {
        let single = self.addresses.iter().map(|address| IpNet::from(*address));
        let routes = self.ranges.iter().map(IpNet::trunc).chain(single);
        routes.map(|range| (range, self.source_of(&range))).collect()
    }

    /// The routes for these addresses of the link.
    pub(crate) fn routes_of<'a>(&self, addresses: impl IntoIterator<Item = &'a IpAddr>) -> Routes {
        let single = addresses.into_iter().map(|address| IpNet::from(*address));
        single.map(|range| (range, self.source_of(&range))).collect()
    }

    fn source_of(&self, range: &IpNet) -> Option<IpAddr> {
        self.sources[usize::from(range.addr().is_ipv6())]
    }

    /// The addresses of the link that are these services'.
    pub(crate) fn addresses_of<'a>(
        &self,
        services: impl IntoIterator<Item = &'a ServiceKey>,
    ) -> BTreeSet<IpAddr> {
        let addresses = services.into_iter().filter_map(|key| match key {
            ServiceKey::Address { address, .. } => Some(*address),
            ServiceKey::Mark { .. } => None,
        });
        addresses.filter(|address| self.addresses.contains(address)).collect()
    }

    /// The services that only some clients may reach, but for those of a table.
    pub(crate) fn restricted_without(&self, table: Option<&Snapshot>) -> BTreeSet<ServiceKey> {
        let is_there =
            |key: &ServiceKey| table.is_some_and(|table| table.services.contains_key(key));
        self.restricted.iter().filter(|key| !is_there(key)).copied().collect()
    }

    /// The table without some services.
    pub(crate) fn without(&self, services: &BTreeSet<ServiceKey>) -> Desired {
        let mut desired = self.table.clone();
        for key in services {
            desired.remove(key);
        }
        desired
    }

    /// From now on there are rules, and these ranges. What is in them has to be taken in anew.
    pub(crate) fn begin_rules(&mut self, ranges: Vec<IpNet>, rules: Rules) {
        self.ranges = ranges;
        self.rules = Some(RuleSet::new(rules));
    }

    /// Some services without real servers that the kernel refuses: those that have a usable one besides.
    pub(crate) fn without_refused(
        &self,
        refused: &BTreeMap<ServiceKey, BTreeSet<DestinationKey>>,
    ) -> Desired {
        let mut desired = Desired::new();
        for (key, refused) in refused {
            let Some(service) = self.table.get(key) else { continue };
            let others =
                service.real_servers().filter(|server| !refused.contains(&server.key(key)));
            let others: Vec<_> = others.collect();
            let builder = service.to_builder().without_real_servers().real_servers(others);
            let Ok(service) = builder.build() else { continue };
            if service.destinations().iter().any(|server| server.weight.get() > 0) {
                desired.insert(service);
            }
        }
        desired
    }

    /// Whether a service of this family is wanted.
    pub(crate) fn has(&self, family: AddressFamily) -> bool {
        self.table.keys().any(|key| key.family() == family)
    }

    /// The services by mark that stand, or stood, for one of another protocol than TCP: those of UDP
    /// and SCTP leave at once, and the mark does not say so.
    pub(crate) fn marks_that_leave_at_once(&self) -> BTreeSet<ServiceKey> {
        let is_tcp =
            |key: &ServiceKey| matches!(key, ServiceKey::Address { protocol: Protocol::TCP, .. });
        let marks = self.marks.iter().filter(|(_, place)| !is_tcp(place));
        marks.map(|(mark, _)| *mark).collect()
    }

    /// Whose UDP clients connection tracking has to forget after these changes.
    pub(crate) fn stale_clients(&mut self, done: &[Change]) -> StaleClients {
        let mut stale = StaleClients::default();
        for change in done {
            let key = change.service();
            let place = match change.action() {
                Action::DeleteService { .. } => self.marks.remove(key),
                _ => self.marks.get(key).copied(),
            };
            let ServiceKey::Address { protocol: Protocol::UDP, address, port } =
                place.unwrap_or(*key)
            else {
                continue;
            };
            let place = SocketAddr::new(address, port);
            match change.action() {
                Action::DeleteService { .. } => {
                    stale.0.insert(place, None);
                }
                Action::DeleteRealServer { before } => {
                    let servers = stale.0.entry(place).or_insert_with(|| Some(BTreeSet::new()));
                    if let Some(servers) = servers {
                        servers.insert(SocketAddr::new(before.key.address, before.key.port));
                    }
                }
                _ => {}
            }
        }
        stale
    }
}
