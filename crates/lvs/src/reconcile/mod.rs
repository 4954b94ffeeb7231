//! A desired state that is kept in effect.

#[cfg(test)]
mod laws;
#[cfg(test)]
mod limits;
mod metrics;
#[cfg(test)]
mod neighbours;
#[cfg(test)]
mod promises;
mod round;
#[cfg(feature = "tokio")]
mod run;
#[cfg(test)]
mod tests;
#[cfg(feature = "tracing")]
mod trace;
mod undone;
#[cfg(test)]
mod unreadable;

use std::{
    collections::BTreeSet,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use ipvs_client::packet::{DestinationKey, ServiceKey};
use ipvs_table::{Pair, pairs};

use self::undone::Repairs;
pub use self::{
    metrics::Metric,
    round::{Round, Status},
    undone::Undone,
};
use crate::{Desired, Drain, Draining, HeldBack, Ledger, Policy, Schedule, Scope, VirtualService};

/// Keeps a desired state in effect, round by round: a desired state, a [policy](Policy), a memory, and
/// a [schedule](Schedule).
///
/// It says [when](Self::due) a round is due and carries [one](Self::round) out: reads, plans, writes.
/// The loop is the caller's, or [`run`](Self::run).
///
/// - A new desired state takes the place of the last one. Its round reads only the services that
///   differ, so that a change of one service costs the same in any table.
/// - Every so often, and first of all, a round reads the whole table and repairs what others did to
///   it. Where nothing differs, it writes nothing.
/// - Real servers that are being drained are looked at as often as their [`Drain`] says.
/// - What failed is tried again, first after a second, then after twice as long, up to a minute; each
///   service by itself.
/// - Its promises hold over all rounds: what the [limit](crate::Limit) holds back stays
///   [held back](Self::held_back), whatever a round is about, until it is [confirmed](Self::confirm).
/// - With a [`Ledger`], no service is written before its claim [is stored](Self::unstored).
///
/// It keeps no socket, no task and no clock. Dropped at any moment it leaves the table as it is, and
/// another one takes over from the table.
///
/// ```no_run
/// use std::time::{Duration, Instant};
///
/// use lvs::{Desired, Policy, Reconciler, block_on, client::blocking::Client};
///
/// # fn new_state() -> Option<Desired> { None }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let ipvs = Client::connect()?;
/// let mut reconciler = Reconciler::new(Policy::new()).resync_every(Duration::from_secs(30));
/// loop {
///     if let Some(desired) = new_state() {
///         reconciler.set(desired);
///     }
///     if let Some(round) = block_on(reconciler.round(&ipvs, Instant::now())) {
///         if let Err(error) = &round.result {
///             eprintln!("{error}");
///         }
///     }
///     std::thread::sleep(Duration::from_millis(100));
/// }
/// # }
/// ```
///
/// # The halves of a round
///
/// A program that has something to do between reading and writing calls the halves itself:
///
#[cfg_attr(feature = "model", doc = "```")]
#[cfg_attr(not(feature = "model"), doc = "```ignore")]
/// use std::{sync::Mutex, time::Instant};
///
/// use lvs::{Desired, Policy, Reconciler, block_on, model::Kernel};
///
/// let port = Mutex::new(Kernel::new());
/// let mut reconciler = Reconciler::new(Policy::new());
/// reconciler.set("-A -t 10.0.0.185:80 -s wrr\n".parse()?);
/// let now = Instant::now();
/// if let Some(turn) = reconciler.turn(now) {
///     let table = block_on(turn.read(&port))?;
///     let plan = reconciler.plan(&turn, &table, now);
///     // Here: addresses that have to be there before the service.
///     let result = block_on(plan.apply(&port));
///     reconciler.finish(&turn, &result, now);
/// }
/// assert_eq!(port.lock().unwrap().snapshot().services.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Reconciler {
    desired: Desired,
    policy: Policy,
    draining: Draining,
    schedule: Schedule,
    /// Services that are not to be added yet.
    held: BTreeSet<ServiceKey>,
    /// Those of them that are desired and were not there.
    absent: BTreeSet<ServiceKey>,
    /// The ledger as it was stored last.
    stored: Option<Ledger>,
    /// Services whose claim is not stored.
    claims: BTreeSet<ServiceKey>,
    generation: u64,
    /// The generation that the last plan was made from.
    planned: u64,
    repairs: Repairs,
    status: Status,
}

impl Reconciler {
    /// A reconciler without a desired state: nothing is due before it is [set](Self::set).
    ///
    /// By default the whole table is read every 30 seconds.
    pub fn new(policy: Policy) -> Self {
        let draining = Draining::new();
        if let Some(ledger) = policy.ledger() {
            draining.memory.lock().guard.set_before(ledger.taken());
        }
        Self {
            desired: Desired::new(),
            stored: policy.ledger().cloned(),
            policy,
            draining,
            schedule: Schedule::new(),
            held: BTreeSet::new(),
            absent: BTreeSet::new(),
            claims: BTreeSet::new(),
            generation: 0,
            planned: 0,
            repairs: Repairs::default(),
            status: Status::default(),
        }
    }

    /// Another schedule: intervals of resyncs and retries, and a pause between rounds.
    #[must_use]
    pub fn with_schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// How often the whole table is read, at least: [`Schedule::resync_every`].
    #[must_use]
    pub fn resync_every(mut self, interval: Duration) -> Self {
        self.schedule = self.schedule.resync_every(interval);
        self
    }

    /// How soon what failed is tried again: [`Schedule::back_off`].
    #[must_use]
    pub fn back_off(mut self, first: Duration, longest: Duration) -> Self {
        self.schedule = self.schedule.back_off(first, longest);
        self
    }

    /// Takes a new desired state in the place of the last one.
    ///
    /// With a ledger in its [scope](Scope), it is [claimed](Ledger::claim) there, and a service that
    /// is claimed for the first time is written when the ledger [is stored](Self::unstored).
    pub fn set(&mut self, desired: Desired) {
        let differing = differing(&self.desired, &desired);
        self.desired = desired;
        self.changed(differing);
    }

    /// Takes one service into the desired state, in the place of one with the same key.
    pub fn insert(&mut self, service: impl Into<Arc<VirtualService>>) {
        let service = service.into();
        let key = *service.key();
        let differs = self.desired.insert(service);
        self.changed(differs.then_some(key));
    }

    /// Takes one service out of the desired state.
    pub fn remove(&mut self, key: &ServiceKey) {
        if self.desired.remove(key) {
            self.changed([*key]);
        }
    }

    fn changed(&mut self, keys: impl IntoIterator<Item = ServiceKey>) {
        let mut keys = keys.into_iter().peekable();
        if self.schedule.is_new() {
            self.schedule.resync();
        } else if keys.peek().is_none() {
            return;
        }
        self.generation += 1;
        let keys: Vec<ServiceKey> = keys.collect();
        self.claim(keys.iter().copied());
        self.schedule.changed(keys);
    }

    /// Claims what is desired of these services, and forgets claims that are not needed any more.
    fn claim(&mut self, keys: impl IntoIterator<Item = ServiceKey>) {
        let Some(ledger) = self.policy.ledger_mut() else { return };
        for key in keys {
            if self.desired.get(&key).is_none() {
                self.claims.remove(&key);
                continue;
            }
            ledger.insert(key);
            if !self.stored.as_ref().is_some_and(|stored| stored.contains(&key)) {
                self.claims.insert(key);
            }
        }
    }

    /// Takes a new policy. The whole table is read for it. What was claimed in the ledger stays
    /// claimed, if the new one has a ledger.
    pub fn set_policy(&mut self, mut policy: Policy) {
        if let (Some(new), Some(old)) = (policy.ledger_mut(), self.policy.ledger()) {
            new.merge(old);
        }
        self.policy = policy;
        self.stored = match (self.policy.ledger(), self.stored.take()) {
            (None, _) => None,
            (Some(_), Some(stored)) => Some(stored),
            (Some(given), None) => Some(given.clone()),
        };
        self.claims.clear();
        self.claim(self.desired.keys().copied().collect::<Vec<_>>());
        self.resync();
    }

    /// Has the whole table read now: something changed it, say.
    pub fn resync(&mut self) {
        if !self.schedule.is_new() {
            self.schedule.resync();
        }
    }

    /// The ledger in its [scope](Scope), if that has one; of several, the first one.
    pub fn ledger(&self) -> Option<&Ledger> {
        self.policy.ledger()
    }

    /// The ledger, if it is another one than was [stored](Self::stored) last. It is to be stored
    /// before a round, so that what that round adds is found after a crash; until then, services that
    /// are claimed for the first time are left out, and with a [limit](crate::Limit) nothing is taken away
    /// that the ledger [does not count](Ledger::taken): a program that is started again and again takes
    /// away no more than one that runs on. After a round it may have become smaller.
    pub fn unstored(&self) -> Option<&Ledger> {
        self.policy.ledger().filter(|ledger| self.stored.as_ref() != Some(ledger))
    }

    /// Takes in that a ledger was stored, such that it is there after a crash.
    pub fn stored(&mut self, ledger: Ledger) {
        let has_ledger = self.policy.ledger().is_some();
        let is_claim = |key: &&ServiceKey| has_ledger && !ledger.contains(key);
        // What was stored may be older than what was claimed and stored before.
        let claims: BTreeSet<ServiceKey> = self.desired.keys().filter(is_claim).copied().collect();
        let old = std::mem::replace(&mut self.claims, claims);
        let mut now: BTreeSet<ServiceKey> = old.difference(&self.claims).copied().collect();
        now.extend(self.draining.memory.lock().guard.waited_for(ledger.taken()));
        self.stored = Some(ledger);
        if !now.is_empty() {
            self.schedule.changed(now);
        }
    }

    /// Stores the ledger if that [is to be done](Self::unstored), and returns whether it was.
    ///
    /// # Errors
    ///
    /// Those of `store`. Then services that are claimed for the first time are left out still.
    pub fn store(&mut self, store: impl FnOnce(&Ledger) -> io::Result<()>) -> io::Result<bool> {
        let Some(ledger) = self.unstored().cloned() else { return Ok(false) };
        store(&ledger)?;
        self.stored(ledger);
        Ok(true)
    }

    /// Services that are not to be added yet, in the place of those that were named before: they lack
    /// an address or a firewall rule, say. What is there of them is kept as desired. Those that are
    /// named no more are added.
    pub fn hold(&mut self, services: impl IntoIterator<Item = ServiceKey>) {
        let held = services.into_iter().collect();
        let old = std::mem::replace(&mut self.held, held);
        let released: Vec<ServiceKey> = old.difference(&self.held).copied().collect();
        if !released.is_empty() {
            self.schedule.changed(released);
        }
    }

    /// Limits of real servers that are drained, in the place of the policy's:
    /// [`Draining::set_limits`].
    pub fn set_drain_limits(
        &mut self,
        limits: impl IntoIterator<Item = ((ServiceKey, DestinationKey), Duration)>,
    ) {
        self.draining.set_limits(limits);
        self.schedule.changed(self.draining.services());
    }

    /// What is to be taken away, and is more than the [limit](Policy::max_deletions) allows.
    pub fn held_back(&self) -> HeldBack {
        self.draining.held_back()
    }

    /// Lets go what is [held back](Self::held_back) and named: once. What is held back besides, or
    /// comes later, is not confirmed; and a change of anything else takes nothing of it back. What is
    /// named and is no longer to be taken away is forgotten.
    ///
    /// A service that is named goes with all its real servers. Returns what is named and stays held back
    /// all the same: real servers that go only with their service, where that is not named.
    pub fn confirm(&mut self, confirmed: &HeldBack) -> HeldBack {
        let held_back = self.held_back();
        let stays = self.draining.confirm(confirmed);
        self.schedule.changed(held_back.filter(|it| confirmed.0.contains(it)).services());
        stays
    }

    /// Takes everything away that is desired now or in the [scope](Scope), draining it all, whatever
    /// the protocol: for the end of a program. Services go when none of their real servers has
    /// connections any more, or when `drain` ends it; UDP and SCTP as well. No limit holds it back,
    /// since it is asked for.
    ///
    /// The rounds go on as ever. It is over when [`is_settled`](Self::is_settled).
    pub fn drain_all(&mut self, drain: Drain) {
        let named: BTreeSet<ServiceKey> = self.desired.keys().copied().collect();
        let scope = self.policy.scope_mut();
        *scope = std::mem::take(scope).or(Scope::only(move |key| named.contains(key)));
        self.policy.drain_all(drain.services(true).tcp(true).udp(true).sctp(true));
        self.set(Desired::new());
        self.resync();
    }

    /// Whether nothing is left to do but to wait for the next resync: every service is as desired,
    /// and nothing is being drained or held back.
    pub fn is_settled(&self) -> bool {
        self.schedule.is_idle()
            && self.claims.is_empty()
            && self.absent.is_empty()
            && self.draining.is_empty()
            && self.draining.held_back_count() == 0
            && !self.draining.memory.lock().guard.waits()
    }

    /// The desired state.
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// The number of the desired state: each change of it makes it greater by one.
    /// [`Status::in_effect`] is the last one that is in the kernel.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The real servers that are being drained.
    pub fn draining(&self) -> &Draining {
        &self.draining
    }

    /// What was done so far.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// What was as desired and another program changed or deleted, in order of the services: the sign
    /// of a program that keeps undoing this one.
    pub fn undone(&self) -> impl Iterator<Item = &Undone> + '_ {
        self.repairs.iter()
    }

    /// When the next round is due: now or later. `None` before there is a desired state.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        self.schedule.due(now)
    }
}

/// The keys of the services that are not the same in both.
fn differing(old: &Desired, new: &Desired) -> BTreeSet<ServiceKey> {
    pairs(old.shared().values(), new.shared().values())
        .filter_map(|pair| match pair {
            Pair::Before(service) | Pair::After(service) => Some(*service.key()),
            Pair::Both(one, other) => {
                let same = Arc::ptr_eq(one, other) || one == other;
                (!same).then(|| *one.key())
            }
        })
        .collect()
}
