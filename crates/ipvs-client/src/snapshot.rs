//! All services with all destinations, as one value.

use std::collections::{BTreeMap, btree_map};

use ipvs_packet::{DestinationEntry, DestinationKey, Reply, Service, ServiceEntry, ServiceKey};

use crate::verbs::all;

/// How often a snapshot is taken at most, until one is consistent.
pub(crate) const ATTEMPTS: usize = 4;
/// Lists up to this length come in one datagram, which the kernel fills without letting others
/// change the list: some 90 destinations fit 32 KiB.
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

    /// Of what the kernel answered, and whether that held nothing twice.
    pub(crate) fn new(entry: ServiceEntry, replies: Vec<Reply>) -> (Self, bool) {
        let mut destinations = destinations(replies);
        let length = destinations.len();
        destinations.sort_by_key(|entry| entry.destination.key);
        destinations.dedup_by_key(|entry| entry.destination.key);
        destinations.shrink_to_fit();
        let whole = destinations.len() == length;
        (Self { entry, destinations }, whole)
    }
}

/// A snapshot that is being taken.
pub(crate) struct Taking {
    /// Those that were listed and have no destinations yet.
    waiting: btree_map::IntoIter<ServiceKey, ServiceEntry>,
    current: Option<ServiceEntry>,
    services: BTreeMap<ServiceKey, ServiceSnapshot>,
    consistent: bool,
}

impl Taking {
    /// Begins with a list of services.
    pub(crate) fn new(replies: Vec<Reply>) -> Self {
        let (services, consistent) = by_key(replies);
        Self { waiting: services.into_iter(), current: None, services: BTreeMap::new(), consistent }
    }

    /// The next service whose destinations are wanted.
    pub(crate) fn next(&mut self) -> Option<ServiceKey> {
        let (key, entry) = self.waiting.next()?;
        self.current = Some(entry);
        Some(key)
    }

    /// Takes in its destinations. Returns whether to look at them twice.
    pub(crate) fn put(&mut self, replies: Vec<Reply>) -> bool {
        let Some(entry) = self.current.take() else { return false };
        let long = replies.len() > ONE_DATAGRAM;
        let key = *entry.service.key();
        let (service, whole) = ServiceSnapshot::new(entry, replies);
        self.consistent &= whole;
        self.services.insert(key, service);
        long
    }

    /// The second look at the destinations of a service.
    pub(crate) fn compare(&mut self, key: &ServiceKey, replies: Vec<Reply>) {
        let same = self.services.get(key).is_some_and(|first| {
            let (second, whole) = ServiceSnapshot::new(first.entry.clone(), replies);
            let settings = |entry: &DestinationEntry| entry.destination.clone();
            whole
                && first.destinations.len() == second.destinations.len()
                && first
                    .destinations
                    .iter()
                    .map(settings)
                    .eq(second.destinations.iter().map(settings))
        });
        self.consistent &= same;
    }

    /// Ends with the second look at the services.
    pub(crate) fn finish(mut self, replies: Vec<Reply>) -> Snapshot {
        let (after, whole) = by_key(replies);
        let settings = |entry: &ServiceEntry| -> Service { entry.service.clone() };
        let before = self.services.values().map(|service| settings(&service.entry));
        self.consistent &= whole && before.eq(after.values().map(settings));
        Snapshot { services: self.services, consistent: self.consistent }
    }
}

/// The services by their keys, and whether none came twice.
fn by_key(replies: Vec<Reply>) -> (BTreeMap<ServiceKey, ServiceEntry>, bool) {
    let count = replies.len();
    let entries = all(replies, |reply| match reply {
        Reply::Service(entry) => Some(entry),
        _ => None,
    });
    let services: BTreeMap<_, _> =
        entries.into_iter().map(|entry| (*entry.service.key(), entry)).collect();
    let whole = services.len() == count;
    (services, whole)
}

fn destinations(replies: Vec<Reply>) -> Vec<DestinationEntry> {
    all(replies, |reply| match reply {
        Reply::Destination(entry) => Some(entry),
        _ => None,
    })
}
