//! What changed, which IPVS does not report by itself: the difference of two snapshots.

use std::{collections::BTreeSet, fmt, time::Duration};

use ipvs_packet::{Destination, DestinationEntry, DestinationKey, Service, ServiceKey, Statistics};

use crate::{DestinationChanges, Pair, ServiceChanges, ServiceSnapshot, Snapshot, pairs};

/// What differs between two snapshots of one table.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct Differences {
    /// The time between the two.
    #[cfg_attr(feature = "serde", serde(with = "crate::serialize::seconds"))]
    pub elapsed: Duration,
    /// The services of which one of the two is [not sure](Snapshot::uncertain): what is said of
    /// these may be an artefact, such as a removal of something that was only missed.
    #[cfg_attr(feature = "serde", serde(default))]
    pub uncertain: BTreeSet<ServiceKey>,
    /// The services that could not be [read whole](Snapshot::unreadable) in one of the two: they are in
    /// the kernel, and nothing is said of them.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "BTreeSet::is_empty"))]
    pub unreadable: BTreeSet<ServiceKey>,
    /// What became of services and destinations, in order of the services' keys, then of the
    /// destinations'. What was changed and changed back in between does not show.
    pub changes: Vec<TableChange>,
    /// What went through services and destinations that were there before and after, in the same
    /// order; those through which nothing went are left out.
    pub activity: Vec<Activity>,
}

impl Differences {
    /// Compares two snapshots that were taken so much time apart.
    pub fn between(before: &Snapshot, after: &Snapshot, elapsed: Duration) -> Self {
        let unreadable = before.unreadable.keys().chain(after.unreadable.keys());
        let mut differences = Self {
            elapsed,
            uncertain: &before.uncertain | &after.uncertain,
            unreadable: unreadable.flatten().copied().collect(),
            ..Self::default()
        };
        for pair in pairs(before.services.values(), after.services.values()) {
            let (Pair::Before(one) | Pair::After(one) | Pair::Both(one, _)) = pair;
            if differences.unreadable.contains(one.entry.service.key()) {
                continue;
            }
            match pair {
                Pair::After(new) => {
                    differences.changes.push(TableChange::ServiceAdded(new.clone()));
                }
                Pair::Before(old) => {
                    differences.changes.push(TableChange::ServiceDeleted(old.clone()));
                }
                Pair::Both(old, new) => differences.compare_services(pair.is_changed(), old, new),
            }
        }
        differences
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.activity.is_empty()
    }

    fn compare_services(&mut self, changed: bool, old: &ServiceSnapshot, new: &ServiceSnapshot) {
        let service = *new.entry.service.key();
        if changed {
            self.changes.push(TableChange::ServiceChanged {
                before: old.entry.service.clone(),
                after: new.entry.service.clone(),
            });
        }
        self.compare_statistics(service, None, old.entry.statistics, new.entry.statistics);
        for pair in pairs(&old.destinations, &new.destinations) {
            match pair {
                Pair::After(new) => {
                    let destination = new.clone();
                    self.changes.push(TableChange::DestinationAdded { service, destination });
                }
                Pair::Before(old) => {
                    let destination = old.clone();
                    self.changes.push(TableChange::DestinationDeleted { service, destination });
                }
                Pair::Both(old, new) => {
                    if pair.is_changed() {
                        self.changes.push(TableChange::DestinationChanged {
                            service,
                            before: old.destination.clone(),
                            after: new.destination.clone(),
                        });
                    }
                    let destination = Some(new.destination.key);
                    self.compare_statistics(service, destination, old.statistics, new.statistics);
                }
            }
        }
    }

    fn compare_statistics(
        &mut self,
        service: ServiceKey,
        destination: Option<DestinationKey>,
        old: Statistics,
        new: Statistics,
    ) {
        let (old, new) = (Traffic::from(old), Traffic::from(new));
        let reset = new.zip(old).values().into_iter().any(|(new, old)| new < old);
        let traffic = match reset {
            true => new,
            false => new.zip(old).map(|(new, old)| new - old),
        };
        if reset || traffic != Traffic::default() {
            let seconds = self.elapsed.as_secs_f64();
            let rates = traffic.map(|count| match seconds > 0.0 {
                true => count as f64 / seconds,
                false => 0.0,
            });
            self.activity.push(Activity { service, destination, traffic, rates, reset });
        }
    }
}

/// What became of a service or destination.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[non_exhaustive]
pub enum TableChange {
    /// It is there, and was not before; with its destinations.
    ServiceAdded(ServiceSnapshot),
    /// It was there, and is gone; with the destinations that it had.
    ServiceDeleted(ServiceSnapshot),
    /// Its settings are others.
    ServiceChanged {
        /// As it was.
        before: Service,
        /// As it is.
        after: Service,
    },
    /// A destination came to a service that was there before.
    DestinationAdded {
        /// The service.
        service: ServiceKey,
        /// The destination.
        destination: DestinationEntry,
    },
    /// A destination went from a service that is still there.
    DestinationDeleted {
        /// The service.
        service: ServiceKey,
        /// The destination as it was.
        destination: DestinationEntry,
    },
    /// A destination's settings are others; its weight, as a rule.
    DestinationChanged {
        /// The service.
        service: ServiceKey,
        /// As it was.
        before: Destination,
        /// As it is.
        after: Destination,
    },
}

impl TableChange {
    /// The service that it is about.
    pub fn service(&self) -> &ServiceKey {
        match self {
            Self::ServiceAdded(service) | Self::ServiceDeleted(service) => {
                service.entry.service.key()
            }
            Self::ServiceChanged { after, .. } => after.key(),
            Self::DestinationAdded { service, .. }
            | Self::DestinationDeleted { service, .. }
            | Self::DestinationChanged { service, .. } => service,
        }
    }
}

/// `service -t 10.0.0.185:80 added`, `service -t 10.0.0.185:80 changed: scheduler sh -> wrr`,
/// `destination 172.17.0.3:80 of -t 10.0.0.185:80 changed: weight 1 -> 0`.
impl fmt::Display for TableChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = self.service();
        match self {
            Self::ServiceAdded(_) => write!(f, "service {service} added"),
            Self::ServiceDeleted(_) => write!(f, "service {service} removed"),
            Self::ServiceChanged { before, after } => {
                let changes = ServiceChanges::between(before, after);
                write!(f, "service {service} changed: {changes}")
            }
            Self::DestinationAdded { destination, .. } => {
                write!(f, "destination {} of {service} added", destination.destination.key)
            }
            Self::DestinationDeleted { destination, .. } => {
                write!(f, "destination {} of {service} removed", destination.destination.key)
            }
            Self::DestinationChanged { before, after, .. } => {
                let changes = DestinationChanges::between(before, after);
                write!(f, "destination {} of {service} changed: {changes}", after.key)
            }
        }
    }
}

/// What went through a service or destination between two snapshots.
///
/// The kernel brings its counters up to date every two seconds. Over less time than that they stand
/// still or jump; over more, rates are off by up to two seconds' traffic.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct Activity {
    /// The service.
    pub service: ServiceKey,
    /// The destination; `None` for the service as a whole.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub destination: Option<DestinationKey>,
    /// How much went through.
    pub traffic: Traffic<u64>,
    /// The same by the second: the counters' difference over the time between the snapshots. (The
    /// kernel's own rates, in the entries' statistics, are averages that fade over some ten
    /// seconds.)
    pub rates: Traffic<f64>,
    /// Whether a counter went back: they were zeroed, or it was removed and made again. Then the
    /// traffic is what was counted since.
    pub reset: bool,
}

/// Traffic, counted or by the second. [`Default`] has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct Traffic<T> {
    /// Connections scheduled.
    pub connections: T,
    /// Packets from clients.
    pub incoming_packets: T,
    /// Packets to clients; 0 in direct routing and tunnelling.
    pub outgoing_packets: T,
    /// Bytes from clients.
    pub incoming_bytes: T,
    /// Bytes to clients; 0 in direct routing and tunnelling.
    pub outgoing_bytes: T,
}

impl<T> Traffic<T> {
    fn map<U>(self, mut change: impl FnMut(T) -> U) -> Traffic<U> {
        Traffic {
            connections: change(self.connections),
            incoming_packets: change(self.incoming_packets),
            outgoing_packets: change(self.outgoing_packets),
            incoming_bytes: change(self.incoming_bytes),
            outgoing_bytes: change(self.outgoing_bytes),
        }
    }

    fn zip<U>(self, other: Traffic<U>) -> Traffic<(T, U)> {
        Traffic {
            connections: (self.connections, other.connections),
            incoming_packets: (self.incoming_packets, other.incoming_packets),
            outgoing_packets: (self.outgoing_packets, other.outgoing_packets),
            incoming_bytes: (self.incoming_bytes, other.incoming_bytes),
            outgoing_bytes: (self.outgoing_bytes, other.outgoing_bytes),
        }
    }

    fn values(self) -> [T; 5] {
        [
            self.connections,
            self.incoming_packets,
            self.outgoing_packets,
            self.incoming_bytes,
            self.outgoing_bytes,
        ]
    }
}

/// The counters, without the kernel's rates.
impl From<Statistics> for Traffic<u64> {
    fn from(statistics: Statistics) -> Self {
        Self {
            connections: statistics.connections,
            incoming_packets: statistics.incoming_packets,
            outgoing_packets: statistics.outgoing_packets,
            incoming_bytes: statistics.incoming_bytes,
            outgoing_bytes: statistics.outgoing_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use ipvs_packet::{SchedulerName, ServiceEntry, Unreadable, Weight};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn service(key: &str, destinations: &[(&str, u64)]) -> ServiceSnapshot {
        let mut entry = ServiceEntry::new(Service::new(key.parse().unwrap()));
        entry.statistics.connections = destinations.iter().map(|(_, count)| count).sum();
        let destinations = destinations
            .iter()
            .map(|(address, connections)| {
                let mut entry = DestinationEntry::new(Destination::new(address.parse().unwrap()));
                entry.statistics.connections = *connections;
                entry.statistics.incoming_bytes = connections * 100;
                entry
            })
            .collect();
        ServiceSnapshot::new(entry, destinations)
    }

    fn snapshot(services: impl IntoIterator<Item = ServiceSnapshot>) -> Snapshot {
        services.into_iter().collect()
    }

    #[test]
    fn nothing_differs() {
        let same = snapshot([service("-t 10.0.0.1:80", &[("172.17.0.3:80", 4)])]);
        let differences = Differences::between(&same, &same, SECOND);
        assert!(differences.is_empty() && differences.uncertain.is_empty());
        assert_eq!(differences.elapsed, SECOND);
    }

    #[test]
    fn comings_goings_and_changes() {
        let before = snapshot([
            service("-t 10.0.0.1:80", &[("172.17.0.3:80", 0), ("172.17.0.4:80", 0)]),
            service("-t 10.0.0.2:80", &[]),
            service("-t 10.0.0.3:80", &[]),
        ]);
        let mut changed = service("-t 10.0.0.1:80", &[("172.17.0.4:80", 0), ("172.17.0.5:80", 9)]);
        changed.destinations[0].destination.weight = Weight::ZERO;
        let mut other = service("-t 10.0.0.3:80", &[]);
        other.entry.service.scheduler = SchedulerName::RR;
        let after = snapshot([changed, other, service("-u 10.0.0.4:53", &[("172.17.0.3:53", 7)])]);
        let differences = Differences::between(&before, &after, SECOND);
        let told: Vec<_> = differences.changes.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "destination 172.17.0.3:80 of -t 10.0.0.1:80 removed",
                "destination 172.17.0.4:80 of -t 10.0.0.1:80 changed: weight 1 -> 0",
                "destination 172.17.0.5:80 of -t 10.0.0.1:80 added",
                "service -t 10.0.0.2:80 removed",
                "service -t 10.0.0.3:80 changed: scheduler wlc -> rr",
                "service -u 10.0.0.4:53 added",
            ]
        );
        let TableChange::DestinationChanged { before, after, .. } = &differences.changes[1] else {
            panic!("{:?}", differences.changes[1]);
        };
        assert_eq!((before.weight, after.weight), (Weight::ONE, Weight::ZERO));
        // What is new has no traffic yet: its counters may be older than it.
        let active: Vec<_> = differences.activity.iter().map(|it| it.destination).collect();
        assert_eq!(active, [None]);
    }

    #[test]
    fn what_cannot_be_read_is_no_removal_and_no_addition() {
        let both = || snapshot([service("-f 7", &[("172.17.0.3:80", 1)]), service("-f 8", &[])]);
        let mut half = snapshot([service("-f 7", &[])]);
        let (seven, eight) = ("-f 7".parse().unwrap(), "-f 8".parse().unwrap());
        let server = Some("172.17.0.3:80".parse().unwrap());
        half.add_unreadable(Unreadable::of_destination(Some(seven), server, "odd"));
        half.add_unreadable(Unreadable::of_service(Some(eight), "odd"));
        for (before, after) in [(both(), half.clone()), (half, both())] {
            let differences = Differences::between(&before, &after, SECOND);
            assert!(differences.is_empty(), "{differences:?}");
            assert_eq!(differences.unreadable, BTreeSet::from([seven, eight]));
        }
    }

    #[test]
    fn traffic_and_rates() {
        let at = |first, second| {
            snapshot([service("-f 7", &[("172.17.0.3:80", first), ("172.17.0.4:80", second)])])
        };
        let differences = Differences::between(&at(10, 5), &at(13, 5), 2 * SECOND);
        assert!(differences.changes.is_empty());
        let [whole, first] = differences.activity[..] else { panic!("{differences:?}") };
        assert_eq!((whole.destination, whole.traffic.connections), (None, 3));
        assert_eq!(first.destination, Some("172.17.0.3:80".parse().unwrap()));
        assert_eq!((first.traffic.connections, first.traffic.incoming_bytes), (3, 300));
        assert_eq!((first.rates.connections, first.rates.incoming_bytes), (1.5, 150.0));
        assert!(!first.reset);

        let zeroed = Differences::between(&at(10, 5), &at(2, 0), Duration::ZERO);
        assert_eq!(zeroed.activity.len(), 3);
        assert!(zeroed.activity.iter().all(|activity| activity.reset));
        assert_eq!(zeroed.activity[1].traffic.connections, 2);
        assert_eq!(zeroed.activity[2].traffic, Traffic::default());
        assert_eq!(zeroed.activity[1].rates, Traffic::default());
    }

    #[test]
    fn what_one_snapshot_is_not_sure_of_the_differences_are_not_sure_of() {
        let whole = snapshot([]);
        let uncertain = BTreeSet::from(["-t 10.0.0.1:80".parse().unwrap()]);
        let half = Snapshot { uncertain: uncertain.clone(), ..snapshot([]) };
        assert_eq!(Differences::between(&whole, &half, SECOND).uncertain, uncertain);
        assert_eq!(Differences::between(&half, &whole, SECOND).uncertain, uncertain);
    }
}
