//! All services with all destinations, as one value.

use std::{collections::BTreeMap, ops::Bound};

use ipvs_packet::{DestinationEntry, DestinationKey, Reply, Service, ServiceEntry, ServiceKey};

use crate::verbs::pick;

/// How often a snapshot is taken at most, until one is consistent.
pub(crate) const ATTEMPTS: usize = 4;
/// Lists up to this length come in one datagram, which the kernel fills without letting others change
/// the list by netlink (from Linux 7.1 on, ipvsadm built without it still can): some 90 destinations
/// fit 32 KiB.
const ONE_DATAGRAM: usize = 64;

/// The whole table of a network namespace: every service with its destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The services by their keys, in order.
    pub services: BTreeMap<ServiceKey, ServiceSnapshot>,
    /// Whether no change by others was noticed while the snapshot was taken.
    ///
    /// The kernel lists in steps and never says that others changed the table in between, so a
    /// snapshot looks twice: at the services before and after, and at each list of destinations
    /// that does not come in one step. `false` when after four attempts the two still differed;
    /// then services or destinations may be missing, or differ in age.
    pub consistent: bool,
}

impl Snapshot {
    /// An empty table: what to compare the first snapshot with, so that everything is new.
    pub const fn empty() -> Self {
        Self { services: BTreeMap::new(), consistent: true }
    }

    /// A service with its destinations.
    pub fn service(&self, key: &ServiceKey) -> Option<&ServiceSnapshot> {
        self.services.get(key)
    }
}

/// A service with its destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceSnapshot {
    /// The service with its statistics.
    pub entry: ServiceEntry,
    /// The destinations with their connections and statistics, in order of their keys.
    pub destinations: Vec<DestinationEntry>,
}

impl ServiceSnapshot {
    /// A destination.
    pub fn destination(&self, key: &DestinationKey) -> Option<&DestinationEntry> {
        let position =
            self.destinations.binary_search_by_key(key, |entry| entry.destination.key).ok()?;
        self.destinations.get(position)
    }

    /// A service and what its list held.
    pub(crate) fn new(entry: ServiceEntry, mut destinations: Vec<DestinationEntry>) -> Self {
        sort(&mut destinations);
        Self { entry, destinations }
    }
}

/// What a snapshot keeps of a list of services.
pub(crate) fn listed(reply: Reply) -> Option<(ServiceKey, ServiceSnapshot)> {
    let entry = pick::service(reply)?;
    Some((*entry.service.key(), ServiceSnapshot { entry, destinations: Vec::new() }))
}

/// A snapshot that is being taken.
pub(crate) struct Taking {
    services: BTreeMap<ServiceKey, ServiceSnapshot>,
    /// The service whose destinations were asked for last; those behind it have none yet.
    last: Option<ServiceKey>,
    consistent: bool,
}

impl Taking {
    /// Begins with a list of services.
    pub(crate) fn new(entries: Vec<(ServiceKey, ServiceSnapshot)>) -> Self {
        let count = entries.len();
        let services: BTreeMap<_, _> = entries.into_iter().collect();
        let consistent = services.len() == count;
        Self { services, last: None, consistent }
    }

    /// The next service whose destinations are wanted.
    pub(crate) fn next(&mut self) -> Option<ServiceKey> {
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        self.last = self.services.range((after, Bound::Unbounded)).next().map(|(key, _)| *key);
        self.last
    }

    /// Takes in its destinations. Returns whether to look at them twice.
    pub(crate) fn put(&mut self, mut destinations: Vec<DestinationEntry>) -> bool {
        let long = destinations.len() > ONE_DATAGRAM;
        self.consistent &= sort(&mut destinations);
        if let Some(service) = self.last.and_then(|key| self.services.get_mut(&key)) {
            service.destinations = destinations;
        }
        long
    }

    /// The second look at the destinations of a service.
    pub(crate) fn compare(&mut self, key: &ServiceKey, mut again: Vec<DestinationEntry>) {
        let once = sort(&mut again);
        let same = self.services.get(key).is_some_and(|service| {
            let first = service.destinations.iter().map(|entry| &entry.destination);
            first.eq(again.iter().map(|entry| &entry.destination))
        });
        self.consistent &= once && same;
    }

    /// Ends with the second look at the services.
    pub(crate) fn finish(mut self, mut again: Vec<Service>) -> Snapshot {
        again.sort_unstable_by_key(|service| *service.key());
        let first = self.services.values().map(|service| &service.entry.service);
        self.consistent &= first.eq(&again);
        Snapshot { services: self.services, consistent: self.consistent }
    }
}

/// Sorts destinations by their keys. Returns whether none came twice; the second is left out.
fn sort(destinations: &mut Vec<DestinationEntry>) -> bool {
    let count = destinations.len();
    // The kernel lists the newest first, which most often is the last in order.
    destinations.reverse();
    destinations.sort_by_key(|entry| entry.destination.key);
    destinations.dedup_by_key(|entry| entry.destination.key);
    destinations.shrink_to_fit();
    destinations.len() == count
}
