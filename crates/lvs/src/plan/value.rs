//! A plan: changes in order, and what is held back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use ipvs_client::packet::{DestinationKey, Request, ServiceKey, Unreadable};

use super::change::{Action, Change, Phase};
use crate::{
    Desired, Policy,
    guard::Group,
    memory::Memory,
    removal::{Removal, RemovalKind},
};

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
/// Of services that the snapshot [is not sure of](ipvs_client::Snapshot::uncertain), nothing is drained or taken
/// away. They are [named](Self::uncertain), so that they can be read again.
///
/// # What cannot be read
///
/// A service of which something [cannot be read](ipvs_client::Snapshot::unreadable), be it one real
/// server, is left as it is: nothing of it is added, changed or taken away. It is
/// [named](Self::unreadable), and applying the plan fails for it after all else was done.
///
/// Two plans are equal when their changes are.
#[derive(Clone, Debug)]
pub struct Plan {
    /// By [`Phase`].
    pub(super) phases: [Vec<Change>; 4],
    pub(super) held_back: Vec<Held>,
    /// How many removals these are.
    pub(super) held_back_count: usize,
    pub(super) uncertain: BTreeSet<ServiceKey>,
    /// What was held back and is confirmed.
    pub(super) confirmed: Vec<Group>,
    /// By service, as in a snapshot.
    pub(super) unreadable: BTreeMap<Option<ServiceKey>, Vec<Unreadable>>,
    /// What is being drained and has to wait, or goes with its service.
    pub(super) waiting: Vec<Removal>,
    /// Services that are neither compared nor written.
    pub(super) skipped: BTreeSet<ServiceKey>,
    /// Services that are not to be added.
    pub(super) held: BTreeSet<ServiceKey>,
    /// What it was made from, to make the rest of it again when others change the table meanwhile.
    pub(super) desired: Desired,
    pub(super) policy: Policy,
    pub(crate) memory: Memory,
    pub(super) now: Option<Instant>,
}

/// A change that is held back, and what it takes away.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) phase: Phase,
    pub(super) change: Change,
    pub(super) group: Group,
}

/// Two are equal when their changes are.
impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        (self.phase, &self.change) == (other.phase, &other.change)
    }
}

impl Plan {
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
        self.held_back.iter().map(|held| &held.change)
    }

    /// How many services and real servers are held back, as the [limit](Policy::max_deletions) counts
    /// them.
    pub fn held_back_count(&self) -> usize {
        self.held_back_count
    }

    /// The same plan with what was held back. What made the plan takes the confirmation in when it is
    /// applied: none of it is held back or counted then, and what begins to be drained is looked at.
    #[must_use]
    pub fn confirm(mut self) -> Self {
        for held in std::mem::take(&mut self.held_back) {
            self.phases[held.phase as usize].push(held.change);
            self.confirmed.push(held.group);
        }
        self.held_back_count = 0;
        self
    }

    /// Takes into the memory that it is carried out.
    pub(crate) fn begin(&mut self) {
        let mut known = self.memory.lock();
        let known = &mut *known;
        for group in self.confirmed.drain(..) {
            known.guard.let_go_confirmed(&group);
            let Some(now) = self.now.filter(|_| group.drains) else { continue };
            for removal in group.removals.iter().filter(|it| it.kind == RemovalKind::RealServer) {
                if let Some(server) = removal.real_server {
                    known.leaving.begin((removal.service, server), now);
                }
            }
        }
    }

    /// When it was made.
    pub(crate) fn now(&self) -> Option<Instant> {
        self.now
    }

    /// The services of which nothing is drained or taken away because the snapshot is not sure of
    /// them.
    pub fn uncertain(&self) -> &BTreeSet<ServiceKey> {
        &self.uncertain
    }

    /// What cannot be read of the services that the plan is about, so that these are left as they are.
    /// An entry without a service may be any one; the kernel refuses to add one that exists.
    pub fn unreadable(&self) -> impl Iterator<Item = &Unreadable> + '_ {
        self.unreadable.values().flatten()
    }

    /// The services that are left as they are since they cannot be read.
    pub(crate) fn unreadable_services(&self) -> impl Iterator<Item = &ServiceKey> + '_ {
        self.unreadable.keys().flatten()
    }

    /// The real servers that are left draining when the plan is carried out: without a clock of its own
    /// an apply leaves them at weight 0. [`Desired::apply_until_drained`] and a
    /// [`Reconciler`](crate::Reconciler) take them away in time, and so does a later apply once they are
    /// empty.
    pub fn draining(&self) -> impl Iterator<Item = (&ServiceKey, &DestinationKey)> + '_ {
        let begin = self.phase(Phase::Drain).iter().filter_map(|change| match change.action() {
            Action::DrainRealServer { before, .. } => Some((change.service(), &before.key)),
            _ => None,
        });
        let waiting = self.waiting.iter();
        let waiting = waiting.filter_map(|it| Some((&it.service, it.real_server.as_ref()?)));
        waiting.chain(begin)
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
        let waiting = self.waiting.iter();
        let waiting = waiting.filter_map(|removal| Some((removal.service, removal.real_server?)));
        waiting.chain(leave)
    }

    /// Appends another plan's changes.
    pub(crate) fn extend(&mut self, other: Self) {
        for (phase, changes) in self.phases.iter_mut().zip(other.phases) {
            phase.extend(changes);
        }
        self.held_back.extend(other.held_back);
        self.held_back.sort_by_key(|held| held.phase);
        self.held_back_count += other.held_back_count;
        self.waiting.extend(other.waiting);
        self.uncertain = other.uncertain;
        self.unreadable.extend(other.unreadable);
    }
}

impl PartialEq for Plan {
    fn eq(&self, other: &Self) -> bool {
        self.phases == other.phases
            && self.held_back == other.held_back
            && self.uncertain == other.uncertain
            && self.unreadable == other.unreadable
    }
}

impl Eq for Plan {}
