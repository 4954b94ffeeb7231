//! All services with all destinations, as one value.

use std::collections::{BTreeMap, BTreeSet};

use ipvs_packet::{DestinationEntry, DestinationKey, ServiceEntry, ServiceKey, Unreadable};

/// The whole table of a network namespace: every service with its destinations.
///
/// Collected from [`ServiceSnapshot`]s; of two with one key the last one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The services by their keys, in order.
    pub services: BTreeMap<ServiceKey, ServiceSnapshot>,
    /// The services that the snapshot is not sure of, because others changed them each time that
    /// they were looked at. Such a service may be in `services` or not; there it may lack
    /// destinations, or have some that are gone.
    ///
    /// The kernel lists in steps and never says that others changed the table in between.
    pub uncertain: BTreeSet<ServiceKey>,
    /// What the kernel listed and cannot be read, by its service; under `None` what does not even tell
    /// its service.
    ///
    /// A service is here itself, and then not in `services`; or some of its destinations are, and then it
    /// is in `services` with the others. It is in the kernel in any case: see
    /// [`is_readable`](Self::is_readable).
    pub unreadable: BTreeMap<Option<ServiceKey>, Vec<Unreadable>>,
}

impl Snapshot {
    /// An empty table: what to compare the first snapshot with, so that everything is new.
    pub const fn new() -> Self {
        Self { services: BTreeMap::new(), uncertain: BTreeSet::new(), unreadable: BTreeMap::new() }
    }

    /// A service with its destinations.
    pub fn service(&self, key: &ServiceKey) -> Option<&ServiceSnapshot> {
        self.services.get(key)
    }

    /// Whether the snapshot is sure of every service: none is [uncertain](Self::uncertain).
    pub fn is_certain(&self) -> bool {
        self.uncertain.is_empty()
    }

    /// Whether a service and its destinations could be read, or are not there. One that could not must
    /// not be taken for absent, nor its destinations for all that it has.
    pub fn is_readable(&self, key: &ServiceKey) -> bool {
        self.unreadable.is_empty() || !self.unreadable.contains_key(&Some(*key))
    }

    /// Whether nothing is missing: it is [certain](Self::is_certain), and all could be read.
    pub fn is_complete(&self) -> bool {
        self.is_certain() && self.unreadable.is_empty()
    }

    /// Notes what cannot be read.
    pub fn add_unreadable(&mut self, entry: Unreadable) {
        let entries = self.unreadable.entry(entry.service).or_default();
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
}

impl FromIterator<ServiceSnapshot> for Snapshot {
    fn from_iter<I: IntoIterator<Item = ServiceSnapshot>>(services: I) -> Self {
        let services = services.into_iter().map(|service| (*service.entry.service.key(), service));
        Self { services: services.collect(), ..Self::new() }
    }
}

/// A service with its destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ServiceSnapshot {
    /// The service with its statistics.
    pub entry: ServiceEntry,
    /// The destinations with their connections and statistics, in order of their keys, each once.
    pub destinations: Vec<DestinationEntry>,
}

impl ServiceSnapshot {
    /// A service and its destinations, in any order. Of two with one key, the last one counts, as
    /// the kernel lists the newest first.
    pub fn new(entry: ServiceEntry, mut destinations: Vec<DestinationEntry>) -> Self {
        // Reversed, since a list is most often in descending order.
        destinations.reverse();
        destinations.sort_by_key(|entry| entry.destination.key);
        destinations.dedup_by_key(|entry| entry.destination.key);
        destinations.shrink_to_fit();
        Self { entry, destinations }
    }

    /// The settings alone.
    #[cfg(feature = "serde")]
    pub(crate) fn without_statistics(&self) -> Self {
        let servers = self.destinations.iter();
        Self {
            entry: ServiceEntry::new(self.entry.service.clone()),
            destinations: servers.map(|it| DestinationEntry::new(it.destination.clone())).collect(),
        }
    }

    /// A destination.
    pub fn destination(&self, key: &DestinationKey) -> Option<&DestinationEntry> {
        let position =
            self.destinations.binary_search_by_key(key, |entry| entry.destination.key).ok()?;
        self.destinations.get(position)
    }
}
