//! What has to be done so that the table becomes what it should be.

mod change;
mod display;
#[cfg(test)]
mod laws;
#[cfg(feature = "serde")]
mod serialize;

use std::{collections::BTreeSet, sync::Arc};

use ipvs_client::{
    ServiceSnapshot, Snapshot,
    packet::{DestinationEntry, DestinationKey, Request, ServiceKey, Weight},
};
use ipvs_table::{Pair, pairs};

pub use self::{
    change::{Action, Change, Phase},
    display::{CommandLines, Diff},
};
use crate::{Desired, Drain, Policy, VirtualService};

/// The changes that bring a table to the desired state: the fewest, in an order that keeps every
/// service usable.
///
/// A plan is a value. It is made from values, without a kernel, and [applied](Self::apply) when its
/// owner wants.
///
/// ```
/// use lvs::{Desired, Plan, Policy, RealServer, VirtualService, client::Snapshot};
///
/// let web = VirtualService::tcp("10.0.0.185:80".parse()?)
///     .real_server(RealServer::nat("172.17.0.3:80".parse()?))
///     .build()?;
/// let plan = Plan::new(&Desired::from(web), &Snapshot::new(), &Policy::new());
/// assert_eq!(
///     plan.to_string(),
///     "+ -t 10.0.0.185:80 -s wlc\n\
///      + -t 10.0.0.185:80 -> 172.17.0.3:80 -m -w 1\n"
/// );
/// assert_eq!(
///     plan.command_lines().to_string(),
///     "ipvsadm -A -t 10.0.0.185:80 -s wlc\n\
///      ipvsadm -a -t 10.0.0.185:80 -r 172.17.0.3:80 -m -w 1\n"
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Order
///
/// The changes come in four [phases](Phase): services are added and changed; real servers are added
/// and changed; real servers lose their weight; services and real servers are taken away. So a
/// service that has a usable real server (one with a weight) before and after has one all the while.
///
/// # What is compared
///
/// Every setting of services and real servers. What is equal is not written. Statistics, connections
/// and the kernel's own flag make no difference, nor does the order of real servers, though `sh`,
/// `dh` and others choose by it: a real server that is added comes first there.
///
/// # What it is not sure of
///
/// Of services that the snapshot [is not sure of](Snapshot::uncertain), nothing is drained or taken
/// away. They are [named](Self::uncertain), so that they can be read again.
///
/// Two plans are equal when their changes are.
#[derive(Clone, Debug)]
pub struct Plan {
    /// By [`Phase`].
    phases: [Vec<Change>; 4],
    held_back: Vec<(Phase, Change)>,
    uncertain: BTreeSet<ServiceKey>,
    /// The real servers that are being drained and have to wait, or go with their service.
    waiting: Vec<(ServiceKey, DestinationKey)>,
    /// What it was made from, to make the rest of it again when others change the table meanwhile.
    desired: Desired,
    policy: Policy,
}

impl Plan {
    /// Compares what should be with what is.
    pub fn new(desired: &Desired, table: &Snapshot, policy: &Policy) -> Self {
        Self::with_expiry(None, desired, table, policy, &|_, _| false)
    }

    /// Compares some services only: those with these keys, of which the snapshot holds those that
    /// exist. It takes no longer for a large table.
    pub fn of_services(
        keys: &BTreeSet<ServiceKey>,
        desired: &Desired,
        table: &Snapshot,
        policy: &Policy,
    ) -> Self {
        Self::with_expiry(Some(keys), desired, table, policy, &|_, _| false)
    }

    /// As [`new`](Self::new), or for the keys as [`of_services`](Self::of_services); and `expired`
    /// says which drained real servers have had their time.
    pub(crate) fn with_expiry(
        keys: Option<&BTreeSet<ServiceKey>>,
        desired: &Desired,
        table: &Snapshot,
        policy: &Policy,
        expired: &dyn Fn(&ServiceKey, &DestinationKey) -> bool,
    ) -> Self {
        let mut planner = Planner::new(desired, table, policy, expired);
        let (wanted, present) = (desired.shared(), &table.services);
        match keys {
            None => {
                for pair in pairs(present.values(), wanted.values()) {
                    planner.service(pair);
                }
            }
            Some(keys) => {
                let found = |key| Pair::found(present.get(key), wanted.get(key));
                for pair in keys.iter().filter_map(found) {
                    planner.service(pair);
                }
            }
        }
        planner.finish()
    }

    /// Whether there is nothing to do. (Something may be [held back](Self::held_back).)
    pub fn is_empty(&self) -> bool {
        self.phases.iter().all(Vec::is_empty)
    }

    /// How many changes there are, each one write to the kernel.
    pub fn len(&self) -> usize {
        self.phases.iter().map(Vec::len).sum()
    }

    /// The changes, in order.
    pub fn changes(&self) -> impl Iterator<Item = &Change> + '_ {
        self.phases.iter().flatten()
    }

    /// The changes of one phase, in order.
    pub fn phase(&self, phase: Phase) -> &[Change] {
        &self.phases[phase as usize]
    }

    /// The changes as the kernel takes them, in order.
    pub fn requests(&self) -> impl Iterator<Item = Request> + '_ {
        self.changes().map(Change::request)
    }

    /// What is not done because it is [more than allowed](Policy::max_deletions), in order.
    pub fn held_back(&self) -> impl ExactSizeIterator<Item = &Change> + '_ {
        self.held_back.iter().map(|(_, change)| change)
    }

    /// How many services and real servers are held back, as the [limit](Policy::max_deletions) counts
    /// them.
    pub fn held_back_count(&self) -> usize {
        count(&self.held_back)
    }

    /// The same plan with what was held back.
    #[must_use]
    pub fn confirm(mut self) -> Self {
        self.policy = self.policy.without_max_deletions();
        for (phase, change) in std::mem::take(&mut self.held_back) {
            self.phases[phase as usize].push(change);
        }
        self
    }

    /// The services of which nothing is drained or taken away because the snapshot is not sure of
    /// them.
    pub fn uncertain(&self) -> &BTreeSet<ServiceKey> {
        &self.uncertain
    }

    /// The same as ipvsadm's command lines, one a line.
    pub fn command_lines(&self) -> CommandLines<'_> {
        CommandLines(self)
    }

    /// Displays it as [`Display`](std::fmt::Display) does, with colours for a terminal if asked for.
    pub fn diff(&self) -> Diff<'_> {
        Diff::new(self)
    }

    /// The real servers that are on their way out when the plan is carried out: those that begin to
    /// be drained, those that have to wait, and those that are taken away.
    pub(crate) fn leaving(&self) -> impl Iterator<Item = (ServiceKey, DestinationKey)> + '_ {
        let leave = [Phase::Drain, Phase::TakeAway]
            .into_iter()
            .flat_map(|phase| self.phase(phase))
            .filter_map(|change| match change.action() {
                Action::DrainRealServer { before, .. } | Action::DeleteRealServer { before } => {
                    Some((*change.service(), before.key))
                }
                _ => None,
            });
        self.waiting.iter().copied().chain(leave)
    }

    /// The plan for services that others changed while this one was applied.
    pub(crate) fn again(&self, keys: &BTreeSet<ServiceKey>, table: &Snapshot) -> Self {
        // What was held back stays so, now that there is less of it.
        match self.held_back.len() {
            0 => Self::of_services(keys, &self.desired, table, &self.policy),
            _ => {
                let policy = self.policy.clone().max_deletions(0);
                Self::of_services(keys, &self.desired, table, &policy)
            }
        }
    }

    /// Appends another plan's changes.
    pub(crate) fn extend(&mut self, other: Self) {
        for (phase, changes) in self.phases.iter_mut().zip(other.phases) {
            phase.extend(changes);
        }
        self.uncertain = other.uncertain;
    }
}

impl PartialEq for Plan {
    fn eq(&self, other: &Self) -> bool {
        self.phases == other.phases
            && self.held_back == other.held_back
            && self.uncertain == other.uncertain
    }
}

impl Eq for Plan {}

/// How many services and real servers are taken away.
fn count(deletions: &[(Phase, Change)]) -> usize {
    let of_change = |(_, change): &(Phase, Change)| match change.action() {
        Action::DeleteService { real_servers, .. } => 1 + real_servers,
        _ => 1,
    };
    deletions.iter().map(of_change).sum()
}

struct Planner<'a> {
    table: &'a Snapshot,
    policy: &'a Policy,
    expired: &'a dyn Fn(&ServiceKey, &DestinationKey) -> bool,
    plan: Plan,
    /// What takes something away, apart until it is known how much it is.
    deletions: Vec<(Phase, Change)>,
}

impl<'a> Planner<'a> {
    fn new(
        desired: &Desired,
        table: &'a Snapshot,
        policy: &'a Policy,
        expired: &'a dyn Fn(&ServiceKey, &DestinationKey) -> bool,
    ) -> Self {
        let plan = Plan {
            phases: Default::default(),
            held_back: Vec::new(),
            uncertain: BTreeSet::new(),
            waiting: Vec::new(),
            desired: desired.clone(),
            policy: policy.clone(),
        };
        Self { table, policy, expired, plan, deletions: Vec::new() }
    }

    fn finish(mut self) -> Plan {
        let deletions = self.deletions;
        if self.policy.allows(count(&deletions)) {
            for (phase, change) in deletions {
                self.plan.phases[phase as usize].push(change);
            }
        } else {
            self.plan.held_back = deletions;
            self.plan.held_back.sort_by_key(|(phase, _)| *phase);
        }
        self.plan
    }

    fn put(&mut self, phase: Phase, change: Change) {
        self.plan.phases[phase as usize].push(change);
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
        match pair {
            Pair::After(wanted) => {
                self.put(Phase::Services, Change::add_service(wanted));
                for index in 0..wanted.destinations().len() {
                    self.put(Phase::RealServers, Change::add_real_server(wanted, index));
                }
                self.is_certain(wanted.key());
            }
            Pair::Before(present) => {
                let key = present.entry.service.key();
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

    fn real_servers(
        &mut self,
        present: &ServiceSnapshot,
        service: &Arc<VirtualService>,
        certain: bool,
    ) {
        let mut index = 0;
        for pair in pairs(&present.destinations, service.destinations()) {
            match pair {
                Pair::After(_) => {
                    self.put(Phase::RealServers, Change::add_real_server(service, index));
                }
                Pair::Both(present, wanted) if pair.is_changed() => {
                    let before = &present.destination;
                    let stops = wanted.weight == Weight::ZERO && before.weight != Weight::ZERO;
                    let phase = if stops { Phase::Drain } else { Phase::RealServers };
                    self.put(phase, Change::update_real_server(service, before, index));
                }
                Pair::Both(..) => {}
                Pair::Before(leaving) => {
                    self.leaving(service, leaving, certain);
                    continue;
                }
            }
            index += 1;
        }
    }

    /// A service that should not be.
    fn leaving_service(&mut self, present: &ServiceSnapshot) {
        let key = present.entry.service.key();
        let delete = (Phase::TakeAway, Change::delete_service(present));
        let drain = self.policy.drain_of(key).is_some_and(Drain::takes_services);
        if !drain || present.destinations.is_empty() {
            self.deletions.push(delete);
            return;
        }
        let (mut begins, mut waits) = (false, false);
        for entry in &present.destinations {
            let before = &entry.destination;
            if before.weight != Weight::ZERO {
                self.deletions.push((Phase::Drain, Change::drain(key, before)));
                begins = true;
            } else {
                self.plan.waiting.push((*key, before.key));
                waits |= self.has_to_wait(key, entry);
            }
        }
        if !begins && !waits {
            // It was counted when it was drained.
            self.put(delete.0, delete.1);
        }
    }

    /// A real server that its service should not have.
    fn leaving(&mut self, service: &Arc<VirtualService>, entry: &DestinationEntry, certain: bool) {
        let before = &entry.destination;
        let key = service.key();
        let delete = || (Phase::TakeAway, Change::delete_real_server(service, before));
        let drained = before.weight == Weight::ZERO;
        match self.policy.drain_of(key) {
            Some(_) if drained && (!certain || self.has_to_wait(key, entry)) => {
                self.plan.waiting.push((*key, before.key));
            }
            _ if !certain => {}
            Some(_) if drained => {
                // It was counted when it was drained.
                let (phase, change) = delete();
                self.put(phase, change);
            }
            leaves => {
                let drain = || (Phase::Drain, Change::drain(key, before));
                let has_time = leaves.is_some_and(|leaves| leaves.has_time(key, &before.key));
                self.deletions.push(if has_time { drain() } else { delete() });
            }
        }
    }

    /// Whether a drained real server has connections, and time left.
    fn has_to_wait(&self, service: &ServiceKey, entry: &DestinationEntry) -> bool {
        let empty = entry.active_connections == 0 && entry.inactive_connections == 0;
        !empty && !(self.expired)(service, &entry.destination.key)
    }
}
