//! How a plan is made: what should be, held against what is.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use ipvs_client::{
    ServiceSnapshot, Snapshot,
    packet::{Destination, DestinationEntry, ServiceKey, Weight},
};
use ipvs_table::{Pair, pairs};

use super::{
    change::{Action, Change, Phase},
    value::{Held, Plan},
};
use crate::{
    Desired, Drain, Policy, VirtualService,
    guard::{Due, Group, Verdict},
    leaving::{Leaving, Server},
    memory::Memory,
    removal::{Removal, RemovalKind},
};

/// Which services a plan is about.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'a> {
    /// `None` is every service.
    pub(crate) only: Option<&'a BTreeSet<ServiceKey>>,
    /// Those that are neither compared nor written.
    pub(crate) skipped: &'a BTreeSet<ServiceKey>,
    /// Those that are not to be added.
    pub(crate) held: &'a BTreeSet<ServiceKey>,
}

static NONE: BTreeSet<ServiceKey> = BTreeSet::new();

impl<'a> Keys<'a> {
    pub(crate) fn new(only: Option<&'a BTreeSet<ServiceKey>>) -> Self {
        Self { only, skipped: &NONE, held: &NONE }
    }

    /// Whether the snapshot is of the whole table.
    fn is_whole(&self) -> bool {
        self.only.is_none()
    }

    fn contains(&self, key: &ServiceKey) -> bool {
        self.only.is_none_or(|only| only.contains(key)) && !self.skipped.contains(key)
    }
}

impl Plan {
    /// Compares what should be with what is.
    ///
    /// It has no clock, and no memory: a real server that is being drained waits until it has no
    /// connections, and counts when it is deleted. A [`Reconciler`](crate::Reconciler) has both.
    pub fn new(desired: &Desired, table: &Snapshot, policy: &Policy) -> Self {
        Self::of_keys(Keys::new(None), desired, table, policy)
    }

    /// Compares some services only: those with these keys, of which the snapshot holds those that
    /// exist. It takes no longer for a large table. A [part](crate::Limit::percent) of the table is one
    /// of these services.
    pub fn of_services(
        keys: &BTreeSet<ServiceKey>,
        desired: &Desired,
        table: &Snapshot,
        policy: &Policy,
    ) -> Self {
        Self::of_keys(Keys::new(Some(keys)), desired, table, policy)
    }

    fn of_keys(keys: Keys<'_>, desired: &Desired, table: &Snapshot, policy: &Policy) -> Self {
        make(keys, desired, table, policy, &Memory::default(), None)
    }

    /// The plan for services that others changed while this one was applied.
    pub(crate) fn again(&self, keys: &BTreeSet<ServiceKey>, table: &Snapshot) -> Self {
        let keys = Keys { only: Some(keys), skipped: &self.skipped, held: &self.held };
        make(keys, &self.desired, table, &self.policy, &self.memory, self.now)
    }
}

/// How many services and real servers a policy may take away.
pub(crate) fn size(table: &Snapshot, desired: &Desired, policy: &Policy) -> usize {
    let services = table.services.values().filter(|service| {
        let key = service.entry.service.key();
        desired.get(key).is_some() || policy.may_delete(key)
    });
    services.map(|service| 1 + service.destinations.len()).sum()
}

/// Compares, and lets the guard judge what would be taken away.
pub(crate) fn make(
    keys: Keys<'_>,
    desired: &Desired,
    table: &Snapshot,
    policy: &Policy,
    memory: &Memory,
    now: Option<Instant>,
) -> Plan {
    let mut known = memory.lock();
    let known = &mut *known;
    if policy.limit().is_some() && (keys.is_whole() || !known.guard.knows_size()) {
        known.guard.set_size(size(table, desired, policy));
    }
    let mut planner = Planner::new(keys, desired, table, policy, &known.leaving, now);
    let (wanted, present) = (desired.shared(), &table.services);
    match keys.only {
        None => {
            for pair in pairs(present.values(), wanted.values()) {
                planner.service(pair);
            }
        }
        Some(only) => {
            let found = |key| Pair::found(present.get(key), wanted.get(key));
            for pair in only.iter().filter_map(found) {
                planner.service(pair);
            }
        }
    }
    planner.unreadable();
    let Planner { mut plan, deletions, groups, returning, .. } = planner;
    let covers = |key: &ServiceKey| {
        keys.contains(key) && !table.uncertain.contains(key) && table.is_readable(key)
    };
    let due = Due { groups: &groups, waiting: &plan.waiting, covers: &covers };
    let verdicts = known.guard.judge(policy.limit(), &due, now);
    for ((verdict, (phase, change)), group) in verdicts.into_iter().zip(deletions).zip(groups) {
        match verdict {
            Verdict::Goes => plan.phases[phase as usize].push(change),
            Verdict::HeldBack => {
                let is_held = |removal: &&Removal| known.guard.is_held_back(removal);
                plan.held_back_count += group.removals.iter().filter(is_held).count();
                plan.held_back.push(Held { phase, change, group });
            }
            Verdict::Waits => {}
        }
    }
    plan.held_back.sort_by_key(|held| held.phase);
    if let Some(now) = now {
        let guard = &known.guard;
        let leaving = plan.leaving().filter(|(service, _)| policy.drain_of(service).is_some());
        known.leaving.remember(
            leaving,
            &returning,
            covers,
            |(service, server)| guard.holds(service, server),
            now,
        );
    }
    plan.memory = memory.clone();
    plan
}

/// A change that takes something away, apart until it is known how much that is.
type Deletion = (Phase, Change);

struct Planner<'a> {
    keys: Keys<'a>,
    table: &'a Snapshot,
    policy: &'a Policy,
    leaving: &'a Leaving,
    now: Option<Instant>,
    plan: Plan,
    deletions: Vec<Deletion>,
    /// What each deletion takes away.
    groups: Vec<Group>,
    /// Real servers that were drained, and are desired again.
    returning: BTreeSet<Server>,
}

impl<'a> Planner<'a> {
    fn new(
        keys: Keys<'a>,
        desired: &Desired,
        table: &'a Snapshot,
        policy: &'a Policy,
        leaving: &'a Leaving,
        now: Option<Instant>,
    ) -> Self {
        let plan = Plan {
            phases: Default::default(),
            held_back: Vec::new(),
            held_back_count: 0,
            confirmed: Vec::new(),
            uncertain: BTreeSet::new(),
            unreadable: BTreeMap::new(),
            waiting: Vec::new(),
            skipped: keys.skipped.clone(),
            held: keys.held.clone(),
            desired: desired.clone(),
            policy: policy.clone(),
            memory: Memory::default(),
            now,
        };
        let (deletions, groups, returning) = (Vec::new(), Vec::new(), BTreeSet::new());
        Self { keys, table, policy, leaving, now, plan, deletions, groups, returning }
    }

    fn put(&mut self, phase: Phase, change: Change) {
        self.plan.phases[phase as usize].push(change);
    }

    fn delete(&mut self, phase: Phase, change: Change, removals: Vec<Removal>) {
        let drains = matches!(change.action(), Action::DrainRealServer { .. });
        self.deletions.push((phase, change));
        self.groups.push(Group { removals, drains });
    }

    /// Whether the snapshot is sure of a service; if not, that is noted.
    fn is_certain(&mut self, key: &ServiceKey) -> bool {
        let certain = !self.table.uncertain.contains(key);
        if !certain {
            self.plan.uncertain.insert(*key);
        }
        certain
    }

    fn service(&mut self, pair: Pair<&ServiceSnapshot, &Arc<VirtualService>>) {
        let key = match &pair {
            Pair::Before(present) | Pair::Both(present, _) => present.entry.service.key(),
            Pair::After(wanted) => wanted.key(),
        };
        // What cannot be read is there, whatever it is.
        if self.keys.skipped.contains(key) || !self.table.is_readable(key) {
            return;
        }
        match pair {
            Pair::After(wanted) => {
                if !self.keys.held.contains(wanted.key()) {
                    self.put(Phase::Services, Change::add_service(wanted));
                    for index in 0..wanted.destinations().len() {
                        self.put(Phase::RealServers, Change::add_real_server(wanted, index));
                    }
                }
                self.is_certain(wanted.key());
            }
            Pair::Before(present) => {
                if self.policy.may_delete(key) && self.is_certain(key) {
                    self.leaving_service(present);
                }
            }
            Pair::Both(present, wanted) => {
                if pair.is_changed() {
                    let change = Change::update_service(&present.entry.service, wanted);
                    self.put(Phase::Services, change);
                }
                let certain = self.is_certain(wanted.key());
                self.real_servers(present, wanted, certain);
            }
        }
    }

    /// Names what would have been compared, and cannot be read.
    fn unreadable(&mut self) {
        for (key, entries) in &self.table.unreadable {
            let concerns = match key {
                Some(key) => {
                    self.keys.contains(key)
                        && (self.plan.desired.get(key).is_some() || self.policy.may_delete(key))
                }
                // It may be any service.
                None => self.keys.is_whole(),
            };
            if concerns {
                self.plan.unreadable.insert(*key, entries.clone());
            }
        }
    }

    fn real_servers(
        &mut self,
        present: &ServiceSnapshot,
        service: &Arc<VirtualService>,
        certain: bool,
    ) {
        let key = service.key();
        let first = self.deletions.len();
        // Whether the service had a usable real server, and whether it will have one.
        let (mut had, mut has) = (false, false);
        let mut index = 0;
        for pair in pairs(&present.destinations, service.destinations()) {
            match pair {
                Pair::After(wanted) => {
                    has |= is_usable(wanted);
                    self.put(Phase::RealServers, Change::add_real_server(service, index));
                }
                Pair::Both(present, wanted) => {
                    let before = &present.destination;
                    had |= is_usable(before);
                    has |= self.update(service, before, wanted, index);
                }
                Pair::Before(leaving) => {
                    had |= is_usable(&leaving.destination);
                    has |= self.leaving(key, leaving, certain);
                    continue;
                }
            }
            index += 1;
        }
        // It is the last one that makes the difference, but it is not known which one fails.
        if had && !has {
            if let Some(group) = self.groups.get_mut(first) {
                group.removals.push(Removal::usable(*key));
            }
            return;
        }
        // A weight of 0 beside other real servers takes nothing away.
        let mut kept = first;
        for position in first..self.deletions.len() {
            let removals = &self.groups[position].removals;
            if removals.iter().any(|removal| removal.kind == RemovalKind::Weight) {
                let (phase, change) = self.deletions[position].clone();
                self.put(phase, change);
            } else {
                self.deletions.swap(kept, position);
                self.groups.swap(kept, position);
                kept += 1;
            }
        }
        self.deletions.truncate(kept);
        self.groups.truncate(kept);
    }

    /// A real server that its service has and should have. Returns whether it is usable then.
    fn update(
        &mut self,
        service: &Arc<VirtualService>,
        before: &Destination,
        wanted: &Destination,
        index: usize,
    ) -> bool {
        let key = service.key();
        let kept = before.weight != wanted.weight
            && self.policy.keeps_weight(key, &before.key)
            && !self.leaving.took_weight(key, &before.key);
        if kept {
            let change = Change::keep_weight(key, before, wanted);
            if change.makes_a_difference() {
                self.put(Phase::RealServers, change);
            }
            return is_usable(before);
        }
        if before != wanted {
            let change = Change::update_real_server(service, before, index);
            if is_usable(before) && !is_usable(wanted) {
                self.delete(Phase::Drain, change, vec![Removal::weight(*key, before.key)]);
            } else {
                self.put(Phase::RealServers, change);
            }
            if self.leaving.took_weight(key, &before.key) {
                self.returning.insert((*key, before.key));
            }
        }
        is_usable(wanted)
    }

    /// A service that should not be.
    fn leaving_service(&mut self, present: &ServiceSnapshot) {
        let key = present.entry.service.key();
        let is_mine =
            |entry: &DestinationEntry| self.policy.may_take_away(key, &entry.destination.key);
        if !present.destinations.iter().all(is_mine) {
            // Somebody else has real servers in it: it stays for these.
            for entry in &present.destinations {
                self.leaving(key, entry, true);
            }
            return;
        }
        let servers = present.destinations.iter().map(|entry| entry.destination.key);
        let removals: Vec<Removal> = std::iter::once(Removal::service(*key))
            .chain(servers.map(|server| Removal::real_server(*key, server)))
            .collect();
        let drain = self.policy.drain_of(key).filter(|drain| drain.takes_services());
        let Some(drain) = drain.filter(|_| !present.destinations.is_empty()) else {
            self.delete(Phase::TakeAway, Change::delete_service(present), removals);
            return;
        };
        let (mut begins, mut waits) = (Vec::new(), false);
        for entry in &present.destinations {
            let before = &entry.destination;
            if !is_usable(before) {
                waits |= self.leaving.waits(key, entry, drain, self.now);
            } else if self.leaving.has_time(key, &before.key, drain) {
                begins.push(before);
            }
        }
        if begins.is_empty() && !waits {
            self.delete(Phase::TakeAway, Change::delete_service(present), removals);
            return;
        }
        let without_weight: Vec<Removal> = removals
            .into_iter()
            .filter(|removal| {
                let server = removal.real_server.and_then(|server| present.destination(&server));
                server.is_none_or(|entry| !is_usable(&entry.destination))
            })
            .collect();
        for (number, before) in begins.into_iter().enumerate() {
            let mut group = vec![Removal::real_server(*key, before.key)];
            if number == 0 {
                // The service goes with all that have no weight to lose.
                group.extend(&without_weight);
            }
            self.delete(Phase::Drain, Change::drain(key, before), group);
        }
        self.plan.waiting.extend(without_weight);
    }

    /// A real server that its service should not have. Returns whether it stays, and is usable.
    fn leaving(&mut self, key: &ServiceKey, entry: &DestinationEntry, certain: bool) -> bool {
        let before = &entry.destination;
        if !self.policy.may_take_away(key, &before.key) {
            return is_usable(before);
        }
        let removal = Removal::real_server(*key, before.key);
        let drain = self.policy.drain_of(key);
        let waits = |drain: &Drain| !certain || self.leaving.waits(key, entry, drain, self.now);
        if !is_usable(before) && drain.is_some_and(waits) {
            self.plan.waiting.push(removal);
        } else if certain {
            let begins =
                |drain: &Drain| is_usable(before) && self.leaving.has_time(key, &before.key, drain);
            let (phase, change) = match drain.is_some_and(begins) {
                true => (Phase::Drain, Change::drain(key, before)),
                false => (Phase::TakeAway, Change::delete_real_server(key, before)),
            };
            self.delete(phase, change, vec![removal]);
        } else {
            return is_usable(before);
        }
        false
    }
}

fn is_usable(destination: &Destination) -> bool {
    destination.weight != Weight::ZERO
}
