//! How a snapshot of the table is taken.

use std::{collections::BTreeMap, ops::Bound};

use ipvs_packet::{DestinationEntry, Reply, Service, ServiceKey};
use ipvs_table::{ServiceSnapshot, Snapshot};

use crate::verbs::pick;

/// How often a snapshot is taken at most, until one is consistent.
pub(crate) const ATTEMPTS: usize = 4;
/// Lists up to this length come in one datagram, which the kernel fills without letting others change
/// the list by netlink (from Linux 7.1 on, ipvsadm built without it still can): some 90 destinations
/// fit 32 KiB.
const ONE_DATAGRAM: usize = 64;

/// What a snapshot keeps of a list of services.
pub(crate) fn listed(reply: Reply) -> Option<(ServiceKey, ServiceSnapshot)> {
    let entry = pick::service(reply)?;
    Some((*entry.service.key(), ServiceSnapshot::new(entry, Vec::new())))
}

/// A snapshot that is being taken.
pub(crate) struct Taking {
    snapshot: Snapshot,
    /// The service whose destinations were asked for last; those behind it have none yet.
    last: Option<ServiceKey>,
}

impl Taking {
    /// Begins with a list of services.
    pub(crate) fn new(entries: Vec<(ServiceKey, ServiceSnapshot)>) -> Self {
        let mut snapshot = Snapshot::new();
        for (key, service) in entries {
            if snapshot.services.insert(key, service).is_some() {
                snapshot.uncertain.insert(key);
            }
        }
        Self { snapshot, last: None }
    }

    /// The next service whose destinations are wanted.
    pub(crate) fn next(&mut self) -> Option<ServiceKey> {
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        self.last =
            self.snapshot.services.range((after, Bound::Unbounded)).next().map(|(key, _)| *key);
        self.last
    }

    /// Takes in its destinations. Returns whether to look at them twice.
    pub(crate) fn put(&mut self, destinations: Vec<DestinationEntry>) -> bool {
        let count = destinations.len();
        let service = self.last.and_then(|key| self.snapshot.services.get_mut(&key));
        if let (Some(key), Some(service)) = (self.last, service) {
            *service = ServiceSnapshot::new(service.entry.clone(), destinations);
            if service.destinations.len() != count {
                self.snapshot.uncertain.insert(key);
            }
        }
        count > ONE_DATAGRAM
    }

    /// The second look at the destinations of a service.
    pub(crate) fn compare(&mut self, key: &ServiceKey, again: Vec<DestinationEntry>) {
        let count = again.len();
        let Some(service) = self.snapshot.services.get(key) else { return };
        let again = ServiceSnapshot::new(service.entry.clone(), again);
        let settings = |service: &ServiceSnapshot| -> Vec<_> {
            service.destinations.iter().map(|entry| entry.destination.clone()).collect()
        };
        if again.destinations.len() != count || settings(service) != settings(&again) {
            self.snapshot.uncertain.insert(*key);
        }
    }

    /// Ends with the second look at the services.
    pub(crate) fn finish(mut self, again: Vec<Service>) -> Snapshot {
        let again: BTreeMap<_, _> =
            again.into_iter().map(|service| (*service.key(), service)).collect();
        let seen = &self.snapshot.services;
        let changed =
            seen.iter().filter(|(key, service)| again.get(key) != Some(&service.entry.service));
        let changed: Vec<_> = changed.map(|(key, _)| *key).collect();
        let new = again.keys().filter(|key| !seen.contains_key(key));
        let uncertain: Vec<_> = changed.into_iter().chain(new.copied()).collect();
        self.snapshot.uncertain.extend(uncertain);
        self.snapshot
    }
}
