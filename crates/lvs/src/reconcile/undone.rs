//! What others keep undoing.

use std::{collections::BTreeMap, time::Instant};

use ipvs_client::packet::{DestinationKey, ServiceKey};

/// How many are remembered.
const REMEMBERED: usize = 1024;

/// A service or a real server that was as desired, and that another program then changed or deleted:
/// each time the reconciler had to write it again.
///
/// One that grows with every resync is a second program that writes the same services: two
/// reconcilers, or a keepalived beside one. Which program that is, the kernel does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Undone {
    /// The service.
    pub service: ServiceKey,
    /// The real server; `None` where it was the service itself.
    pub real_server: Option<DestinationKey>,
    /// How often it was undone.
    pub times: u64,
    /// When that was seen first.
    pub first: Instant,
    /// When that was seen last.
    pub last: Instant,
}

/// What was undone lately; of more than 1024, what was seen last.
#[derive(Debug, Default)]
pub(super) struct Repairs(BTreeMap<(ServiceKey, Option<DestinationKey>), Undone>);

impl Repairs {
    pub(super) fn add(
        &mut self,
        service: ServiceKey,
        real_server: Option<DestinationKey>,
        now: Instant,
    ) {
        let new = Undone { service, real_server, times: 0, first: now, last: now };
        let undone = self.0.entry((service, real_server)).or_insert(new);
        undone.times += 1;
        undone.last = now;
        if self.0.len() > REMEMBERED {
            let oldest = self.0.iter().min_by_key(|(_, undone)| undone.last).map(|(key, _)| *key);
            oldest.map(|key| self.0.remove(&key));
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Undone> + '_ {
        self.0.values()
    }
}
