//! What guards against a source that has lost its objects.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use lvs::{HeldBack, Limit, Removal};

/// This number of deletions needs no fresh lists, whatever part of the table it is.
const UNCONFIRMED_DELETIONS: usize = 20;
/// The part of the table, in percent, of which the deletion in one interval needs fresh lists.
const LARGE_PART: u8 = 50;
const INTERVAL: Duration = Duration::from_secs(60);

/// What may go without being confirmed, counted over all rounds: services and real servers that are
/// deleted, and services that are left without a usable one.
pub(crate) fn limit() -> Limit {
    Limit::percent(LARGE_PART).at_least(UNCONFIRMED_DELETIONS).per(INTERVAL)
}

/// Large deletions wait: until both lists have come anew, and for `--hold`, so that somebody has time to look
/// and the source to find its objects again; or until somebody confirms them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guard {
    hold: Duration,
    /// What is held back.
    held: BTreeMap<Removal, Held>,
    /// How often lists were asked for.
    asked: u64,
    /// Which of both lists have come since: Services, EndpointSlices.
    heard: [bool; 2],
    /// Somebody has confirmed what is held back now.
    is_confirmed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    since: Instant,
    /// The lists that have to come, by their number.
    lists: u64,
}

impl Guard {
    pub(crate) fn new(hold: Duration) -> Self {
        Self { hold, ..Self::default() }
    }

    pub(crate) fn hold(&self) -> Duration {
        self.hold
    }

    /// How many deletions are held back.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Takes in that a list has come.
    pub(crate) fn heard(&mut self, is_services: bool) {
        self.heard[usize::from(!is_services)] = true;
    }

    /// Somebody confirms what is held back.
    pub(crate) fn confirm(&mut self) {
        self.is_confirmed = !self.held.is_empty();
    }

    /// When the first of what is held back may go, if lists have confirmed it.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        if self.is_confirmed {
            return Some(now);
        }
        let confirmed = self.held.values().filter(|held| self.has_come(held));
        confirmed.map(|held| held.since + self.hold).min()
    }

    /// When the last of it may go, if lists confirm it.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.held.values().map(|held| held.since + self.hold).max()
    }

    /// What of this may go now.
    pub(crate) fn confirmed(&self, held_back: &HeldBack, now: Instant) -> HeldBack {
        held_back.filter(|removal| {
            self.held.get(removal).is_some_and(|held| {
                self.is_confirmed || self.has_come(held) && held.since + self.hold <= now
            })
        })
    }

    /// After a round, when this is held back. Returns whether fresh lists are needed: one request at a time,
    /// for all that came to it meanwhile.
    pub(crate) fn after(&mut self, held_back: &HeldBack, now: Instant) -> bool {
        self.is_confirmed = false;
        let has_come = self.heard == [true; 2] || self.asked == 0;
        let before = std::mem::take(&mut self.held);
        let next = self.asked + 1;
        for removal in held_back.iter() {
            let held = before.get(removal).copied();
            self.held.insert(*removal, held.unwrap_or(Held { since: now, lists: next }));
        }
        let asks = has_come && self.held.values().any(|held| held.lists == next);
        if asks {
            self.asked = next;
            self.heard = [false; 2];
        }
        asks
    }

    fn has_come(&self, held: &Held) -> bool {
        held.lists < self.asked || held.lists == self.asked && self.heard == [true; 2]
    }
}

#[cfg(test)]
mod tests {
    use lvs::{Desired, Draining, Policy, client::Snapshot, model::Kernel};

    use super::*;

    /// What is held back when all but these of forty services are lost.
    fn held_back(left: u8) -> HeldBack {
        let mut kernel = Kernel::new();
        let mut desired = Desired::new();
        for number in 1..=40 {
            let address = format!("10.96.0.{number}:80").parse().unwrap();
            let service = lvs::VirtualService::tcp(address).build().unwrap();
            let request = lvs::client::packet::Request::NewService(service.service().clone());
            kernel.execute(&request).unwrap();
            if number <= left {
                desired.insert(service);
            }
        }
        let mut draining = Draining::new();
        let table: Snapshot = kernel.snapshot();
        let policy = Policy::new().scope(lvs::Scope::only(|_| true)).max_deletions(limit());
        drop(draining.step(&desired, &table, &policy, Instant::now()));
        draining.held_back()
    }

    #[test]
    fn both_lists_and_time_confirm() {
        let hold = Duration::from_secs(300);
        let (some, all) = (held_back(10), held_back(0));
        assert_eq!((some.len(), all.len()), (30, 40));
        let start = Instant::now();
        let mut guard = Guard::new(hold);
        assert!(!guard.after(&HeldBack::default(), start));
        assert!(guard.after(&some, start));
        assert!(!guard.after(&some, start), "it is asked once");
        // One list twice is not both.
        guard.heard(true);
        guard.heard(true);
        assert_eq!(guard.due(start), None);
        guard.heard(false);
        assert_eq!(guard.due(start), Some(start + hold));
        let almost = start + hold - Duration::from_secs(1);
        assert!(guard.confirmed(&some, almost).is_empty());
        // What is lost later waits for itself, and for lists of its own.
        assert!(guard.after(&all, almost));
        assert_eq!(guard.confirmed(&all, start + hold).len(), 30);
        assert_eq!(guard.due(almost), Some(start + hold));
        guard.heard(false);
        guard.heard(true);
        assert_eq!(guard.confirmed(&all, almost + hold).len(), 40);
        // Nothing is held back any more, as it is wanted again.
        assert!(!guard.after(&HeldBack::default(), almost));
        assert_eq!((guard.due(almost), guard.len()), (None, 0));
        assert!(guard.after(&some, almost), "lost once more");
    }

    /// While lists are on their way, they are not asked for again, and do not confirm what is lost later.
    #[test]
    fn one_request_at_a_time() {
        let (some, all) = (held_back(10), held_back(0));
        let now = Instant::now();
        let mut guard = Guard::new(Duration::ZERO);
        assert!(guard.after(&some, now));
        assert!(!guard.after(&all, now));
        guard.heard(true);
        guard.heard(false);
        assert_eq!(guard.confirmed(&all, now).len(), 30);
        assert!(guard.after(&all, now));
    }

    #[test]
    fn somebody_confirms() {
        let some = held_back(10);
        let now = Instant::now();
        let mut guard = Guard::new(Duration::from_secs(300));
        guard.confirm();
        assert!(guard.after(&some, now));
        assert_eq!(guard.due(now), None, "nothing was held back then");
        guard.confirm();
        assert_eq!(guard.due(now), Some(now));
        assert_eq!(guard.confirmed(&some, now).len(), 30);
        // Once.
        assert!(!guard.after(&some, now));
        assert_eq!(guard.due(now), None);
    }
}
