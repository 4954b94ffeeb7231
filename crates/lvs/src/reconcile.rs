//! A desired state that is kept in effect.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use ipvs_client::{Client, Snapshot, blocking, packet::ServiceKey};
use ipvs_table::{Pair, pairs};

use crate::{
    Applied, ApplyError, Desired, Draining, Ledger, Plan, Policy, VirtualService,
    drive::{blocking_read_services, read_services},
};

/// No interval is shorter.
const SHORTEST: Duration = Duration::from_millis(1);

/// Keeps a desired state in effect, round by round.
///
/// It says [when](Self::due) a round is due and carries [one](Self::round) out: reads, plans, writes.
/// The loop is the caller's, or [`run`](Self::run).
///
/// - A new desired state takes the place of the last one. Its round reads only the services that
///   differ, so that a change of one service costs the same in any table.
/// - Every so often, and first of all, a round reads the whole table and repairs what others did to
///   it. Where nothing differs, it writes nothing.
/// - Real servers that are being drained are looked at as often as their [`Drain`](crate::Drain)
///   says.
/// - What failed is tried again, first after a second, then after twice as long, up to a minute.
///
/// It keeps no socket and no task. Dropped at any moment it leaves the table as it is, and another
/// one takes over from the table.
///
/// ```no_run
/// use std::time::{Duration, Instant};
///
/// use lvs::{Desired, Policy, Reconciler, client::blocking::Client};
///
/// # fn new_state() -> Option<Desired> { None }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let ipvs = Client::connect()?;
/// let mut reconciler = Reconciler::new(Policy::new()).resync_every(Duration::from_secs(30));
/// loop {
///     if let Some(desired) = new_state() {
///         reconciler.set(desired);
///     }
///     if let Some(round) = reconciler.blocking_round(&ipvs, Instant::now()) {
///         if let Err(error) = &round.result {
///             eprintln!("{error}");
///         }
///     }
///     std::thread::sleep(Duration::from_millis(100));
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Reconciler {
    desired: Desired,
    policy: Policy,
    draining: Draining,
    resync: Duration,
    back_off: (Duration, Duration),
    /// When the whole table is to be read; `None` before the first desired state.
    whole: Option<When>,
    /// Services that have to be looked at now.
    changed: BTreeSet<ServiceKey>,
    /// Services of which something failed, and when they are tried again.
    retry: Option<(Instant, BTreeSet<ServiceKey>)>,
    /// When to look at what is being drained.
    look: Option<Instant>,
    /// As many deletions are allowed whatever the policy says.
    confirmed: usize,
    status: Status,
}

#[derive(Clone, Copy, Debug)]
enum When {
    Now,
    At(Instant),
}

impl When {
    fn is_due(self, now: Instant) -> bool {
        match self {
            Self::Now => true,
            Self::At(at) => at <= now,
        }
    }
}

/// What a reconciler has done so far.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Status {
    /// Rounds carried out.
    pub rounds: u64,
    /// Those of them that read the whole table.
    pub whole_rounds: u64,
    /// Changes made.
    pub changes: u64,
    /// Changes that failed, and rounds that failed as a whole.
    pub failures: u64,
    /// How many rounds have failed since the last one that did not.
    pub failed_in_a_row: u32,
    /// When a round last ended without a failure.
    pub last_success: Option<Instant>,
    /// The error of the last round that failed.
    pub last_error: Option<String>,
    /// How many services and real servers are to go, and are held back until that is
    /// [confirmed](Reconciler::confirm); counted as [the limit](Policy::max_deletions) counts them.
    pub held_back: usize,
    /// How many real servers are being drained.
    pub draining: usize,
}

/// One round of a [`Reconciler`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Round {
    /// The services that it was about; `None` where it was the whole table.
    pub services: Option<BTreeSet<ServiceKey>>,
    /// What it read, before it wrote: the whole table, or those of the services that existed. `None`
    /// where it could not be read.
    pub table: Option<Snapshot>,
    /// How long it took to read.
    pub reading: Duration,
    /// How long it took to plan.
    pub planning: Duration,
    /// How long it took to write.
    pub writing: Duration,
    /// What it did.
    pub result: Result<Applied, ApplyError>,
}

impl Round {
    /// What became of each change; `None` where the table could not be read.
    pub fn applied(&self) -> Option<&Applied> {
        match &self.result {
            Ok(applied) => Some(applied),
            Err(error) => error.applied(),
        }
    }
}

impl Reconciler {
    /// A reconciler without a desired state: nothing is due before it is [set](Self::set).
    ///
    /// By default the whole table is read every 30 seconds.
    pub fn new(policy: Policy) -> Self {
        Self {
            desired: Desired::new(),
            policy,
            draining: Draining::new(),
            resync: Duration::from_secs(30),
            back_off: (Duration::from_secs(1), Duration::from_secs(60)),
            whole: None,
            changed: BTreeSet::new(),
            retry: None,
            look: None,
            confirmed: 0,
            status: Status::default(),
        }
    }

    /// How often the whole table is read, at least.
    #[must_use]
    pub fn resync_every(mut self, interval: Duration) -> Self {
        self.resync = interval.max(SHORTEST);
        self
    }

    /// How soon what failed is tried again: after the first time, doubled each time up to the
    /// second one. By default 1 second and 60 seconds.
    #[must_use]
    pub fn back_off(mut self, first: Duration, longest: Duration) -> Self {
        self.back_off = (first.max(SHORTEST), longest.max(SHORTEST));
        self
    }

    /// Takes a new desired state in the place of the last one.
    ///
    /// With a ledger in its [scope](crate::Scope), it is [claimed](Ledger::claim) in that
    /// [ledger](Self::ledger), which the caller stores before the next round.
    pub fn set(&mut self, desired: Desired) {
        let differing = differing(&self.desired, &desired);
        self.desired = desired;
        if self.whole.is_none() {
            self.whole = Some(When::Now);
            self.was_changed();
        } else if !differing.is_empty() {
            self.changed.extend(differing);
            self.was_changed();
        }
    }

    /// Takes one service into the desired state, in the place of one with the same key.
    pub fn insert(&mut self, service: VirtualService) {
        let key = *service.key();
        if self.desired.insert(service) {
            self.changed.insert(key);
            self.was_changed();
        }
        self.whole.get_or_insert(When::Now);
    }

    /// Takes one service out of the desired state.
    pub fn remove(&mut self, key: &ServiceKey) {
        if self.desired.remove(key) {
            self.changed.insert(*key);
            self.was_changed();
        }
    }

    fn was_changed(&mut self) {
        self.confirmed = 0;
        if let Some(ledger) = self.policy.ledger_mut() {
            ledger.claim(&self.desired);
        }
    }

    /// Takes a new policy. The whole table is read for it.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
        if self.whole.is_some() {
            self.whole = Some(When::Now);
        }
        self.was_changed();
    }

    /// Has the whole table read now: something changed it, say.
    pub fn resync(&mut self) {
        if self.whole.is_some() {
            self.whole = Some(When::Now);
        }
    }

    /// Allows as many deletions as [are held back](Status::held_back), once and for this desired
    /// state. Where there are more of them meanwhile, they are held back again.
    pub fn confirm(&mut self) {
        self.confirmed = self.status.held_back;
        self.resync();
    }

    /// The desired state.
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// The ledger in its [scope](crate::Scope), as it is to be stored; of several, the first one.
    pub fn ledger(&mut self) -> Option<&Ledger> {
        self.policy.ledger_mut().map(|ledger| &*ledger)
    }

    /// The real servers that are being drained.
    pub fn draining(&self) -> &Draining {
        &self.draining
    }

    /// What was done so far.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// When the next round is due: now or later. `None` before there is a desired state.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let whole = match self.whole? {
            When::Now => now,
            When::At(at) => at,
        };
        let changed = (!self.changed.is_empty()).then_some(now);
        let retry = self.retry.as_ref().map(|(at, _)| *at);
        [Some(whole), changed, retry, self.look].into_iter().flatten().min().map(|due| due.max(now))
    }

    /// What a round would be about now.
    fn next(&self, now: Instant) -> Option<Option<BTreeSet<ServiceKey>>> {
        if self.whole?.is_due(now) {
            return Some(None);
        }
        let mut services = self.changed.clone();
        if let Some((at, retry)) = &self.retry {
            if *at <= now {
                services.extend(retry);
            }
        }
        if self.look.is_some_and(|look| look <= now) {
            services.extend(self.draining.services());
        }
        // Then a snapshot is cheaper.
        let many = services.len() > 64 && services.len() > self.desired.len() / 4;
        match services.len() {
            0 => None,
            _ if many => Some(None),
            _ => Some(Some(services)),
        }
    }

    fn plan(
        &mut self,
        services: Option<&BTreeSet<ServiceKey>>,
        table: &Snapshot,
        now: Instant,
    ) -> Plan {
        if let (Some(ledger), None) = (self.policy.ledger_mut(), services) {
            ledger.settle(&self.desired, table);
        }
        let (desired, policy, draining) = (&self.desired, &self.policy, &mut self.draining);
        let confirmed = self.confirmed;
        let mut step = |policy: &Policy| match services {
            None => draining.step(desired, table, policy, now),
            Some(keys) => draining.step_of_services(keys, desired, table, policy, now),
        };
        let (mut plan, mut look) = step(policy);
        if (1..=confirmed).contains(&plan.held_back_count()) {
            (plan, look) = step(&policy.clone().without_max_deletions());
        }
        self.look = look;
        plan
    }

    /// Takes in how a round ended.
    fn finish(&mut self, round: &Round, now: Instant) {
        let status = &mut self.status;
        status.rounds += 1;
        status.whole_rounds += u64::from(round.services.is_none());
        status.draining = self.draining.iter().len();
        let mut again: BTreeSet<ServiceKey> = BTreeSet::new();
        let mut failures = 0;
        if let Some(applied) = round.applied() {
            status.changes += applied.len() as u64;
            // A round about some services does not see what is held back of the others.
            let held_back = applied.held_back_count();
            if round.services.is_none() || held_back > 0 {
                status.held_back = held_back;
            }
            again.extend(applied.uncertain());
            for (change, _) in applied.failed() {
                again.insert(*change.service());
                failures += 1;
            }
        }
        match &round.result {
            Ok(_) => {
                status.failed_in_a_row = 0;
                status.last_success = Some(now);
            }
            Err(error) => {
                status.failures += failures.max(1);
                status.failed_in_a_row += 1;
                status.last_error = Some(error.to_string());
            }
        }
        let common = round.result.as_ref().is_err_and(|error| error.common().is_some());
        let retry_at = later(now, self.pause());
        match &round.services {
            _ if common => {
                self.whole = Some(When::At(retry_at));
                self.changed.clear();
                self.retry = None;
                self.look = None;
                return;
            }
            None => {
                self.whole = Some(When::At(later(now, self.resync)));
                self.changed.clear();
                self.retry = None;
            }
            Some(services) => {
                self.changed.retain(|key| !services.contains(key));
                if let Some((_, retry)) = &mut self.retry {
                    retry.retain(|key| !services.contains(key));
                    again.append(retry);
                }
            }
        }
        self.retry = (!again.is_empty()).then_some((retry_at, again));
    }

    /// How long to wait before the next try.
    fn pause(&self) -> Duration {
        let (first, longest) = self.back_off;
        let times = self.status.failed_in_a_row.saturating_sub(1).min(31);
        first.saturating_mul(1 << times).min(longest)
    }

    /// Carries out a round if one is due: reads, plans and writes. `None` if none is.
    ///
    /// `now` is what the schedule goes by: [`Instant::now`], or what a test says. A round that is
    /// dropped half-way stays due.
    pub async fn round(&mut self, client: &Client, now: Instant) -> Option<Round> {
        let services = self.next(now)?;
        let clock = Instant::now();
        let table = match &services {
            None => client.snapshot().await,
            Some(keys) => read_services(client, keys).await,
        };
        let reading = clock.elapsed();
        let mut planning = Duration::ZERO;
        let (table, result) = match table {
            Err(error) => (None, Err(ApplyError::unread(error))),
            Ok(table) => {
                let plan = self.plan(services.as_ref(), &table, now);
                planning = clock.elapsed() - reading;
                (Some(table), plan.apply(client).await)
            }
        };
        let took = clock.elapsed();
        let writing = took - reading - planning;
        let round = Round { services, table, reading, planning, writing, result };
        // Intervals count from the end, so that a large table is not read without a pause.
        self.finish(&round, later(now, took));
        Some(round)
    }

    /// As [`round`](Self::round), without async.
    pub fn blocking_round(&mut self, client: &blocking::Client, now: Instant) -> Option<Round> {
        let services = self.next(now)?;
        let clock = Instant::now();
        let table = match &services {
            None => client.snapshot(),
            Some(keys) => blocking_read_services(client, keys),
        };
        let reading = clock.elapsed();
        let mut planning = Duration::ZERO;
        let (table, result) = match table {
            Err(error) => (None, Err(ApplyError::unread(error))),
            Ok(table) => {
                let plan = self.plan(services.as_ref(), &table, now);
                planning = clock.elapsed() - reading;
                (Some(table), plan.blocking_apply(client))
            }
        };
        let took = clock.elapsed();
        let writing = took - reading - planning;
        let round = Round { services, table, reading, planning, writing, result };
        // Intervals count from the end, so that a large table is not read without a pause.
        self.finish(&round, later(now, took));
        Some(round)
    }

    /// Keeps in effect what comes through a channel, until every sender is gone: then it returns
    /// after the round under way, and after one for a state that was sent before. `report` is shown
    /// each round, and may [confirm](Self::confirm) what was held back.
    ///
    /// What the channel holds at the beginning is the first desired state. Of several states that
    /// come during a round, the last one counts.
    #[cfg(feature = "tokio")]
    pub async fn run(
        &mut self,
        client: &Client,
        states: &mut tokio::sync::watch::Receiver<Desired>,
        mut report: impl FnMut(&mut Self, &Round),
    ) {
        states.mark_changed();
        loop {
            let closed = match states.has_changed() {
                Ok(true) => {
                    let desired = states.borrow_and_update().clone();
                    self.set(desired);
                    false
                }
                Ok(false) => false,
                // The value that was sent last counts still.
                Err(_) => {
                    let desired = states.borrow_and_update().clone();
                    if self.whole.is_none() || desired != self.desired {
                        self.set(desired);
                    }
                    true
                }
            };
            if let Some(round) = self.round(client, Instant::now()).await {
                report(self, &round);
                if !closed {
                    continue;
                }
            }
            if closed {
                return;
            }
            let now = Instant::now();
            let wait = self.due(now).map_or(self.resync, |due| due - now);
            if let Ok(Ok(())) = tokio::time::timeout(wait, states.changed()).await {
                // It is taken above.
                states.mark_changed();
            }
        }
    }
}

/// So much later, or for ever.
fn later(now: Instant, interval: Duration) -> Instant {
    const FOR_EVER: Duration = Duration::from_secs(1 << 30);
    now.checked_add(interval).unwrap_or_else(|| now + FOR_EVER)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use ipvs_client::{Error, packet::Request};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Drain, Scope,
        apply::{Apply, Step},
        model::Kernel,
        strategy,
    };

    const SECOND: Duration = Duration::from_secs(1);

    /// A round on the model, where nothing fails.
    fn round(reconciler: &mut Reconciler, kernel: &mut Kernel, now: Instant) -> Option<Round> {
        let services = reconciler.next(now)?;
        let mut table = kernel.snapshot();
        if let Some(keys) = &services {
            table.services.retain(|key, _| keys.contains(key));
        }
        let mut apply = Apply::<Error>::new(reconciler.plan(services.as_ref(), &table, now));
        loop {
            match apply.step() {
                Step::Write(writes) => {
                    let count = writes.len();
                    writes.iter().for_each(|write| kernel.execute(write).unwrap());
                    apply.wrote(std::iter::repeat_with(|| Ok(())).take(count));
                }
                Step::Read(_) => panic!("nobody else writes"),
                Step::Done => break,
            }
        }
        let zero = Duration::ZERO;
        let result = apply.finish();
        let round = Round {
            services,
            table: Some(table),
            reading: zero,
            planning: zero,
            writing: zero,
            result,
        };
        reconciler.finish(&round, now);
        Some(round)
    }

    fn rules(text: &str) -> Desired {
        text.parse().unwrap()
    }

    fn changes(round: &Option<Round>) -> Vec<String> {
        let applied = round.as_ref().unwrap().applied().unwrap();
        applied.done().map(ToString::to_string).collect()
    }

    const TWO: &str = "-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.1.0.2:80 -m\n\
                       -A -t 10.0.0.2:80 -s rr\n-a -t 10.0.0.2:80 -r 10.1.0.2:80 -m\n";

    #[test]
    fn the_first_round_is_whole_and_a_resync_writes_nothing() {
        let (mut kernel, now) = (Kernel::new(), Instant::now());
        let mut reconciler = Reconciler::new(Policy::new()).resync_every(30 * SECOND);
        assert!(
            reconciler.due(now).is_none() && round(&mut reconciler, &mut kernel, now).is_none()
        );
        reconciler.set(rules(TWO));
        assert_eq!(reconciler.due(now), Some(now));
        let first = round(&mut reconciler, &mut kernel, now);
        assert!(first.as_ref().unwrap().services.is_none());
        assert_eq!(changes(&first).len(), 4);
        assert_eq!(reconciler.due(now), Some(now + 30 * SECOND));
        assert!(round(&mut reconciler, &mut kernel, now + 29 * SECOND).is_none());
        let resync = round(&mut reconciler, &mut kernel, now + 30 * SECOND);
        assert!(resync.as_ref().unwrap().services.is_none() && changes(&resync).is_empty());
        let status = reconciler.status();
        assert_eq!((status.rounds, status.whole_rounds, status.changes), (2, 2, 4));
        assert_eq!(status.last_success, Some(now + 30 * SECOND));
        // What somebody else did is repaired.
        kernel.execute(&Request::DeleteService("-t 10.0.0.2:80".parse().unwrap())).unwrap();
        assert_eq!(changes(&round(&mut reconciler, &mut kernel, now + 60 * SECOND)).len(), 2);
    }

    #[test]
    fn an_event_reads_what_it_concerns() {
        let (mut kernel, now) = (Kernel::new(), Instant::now());
        let mut reconciler = Reconciler::new(Policy::new());
        reconciler.set(rules(TWO));
        round(&mut reconciler, &mut kernel, now);
        reconciler.set(rules(TWO));
        assert!(reconciler.due(now) > Some(now), "nothing differs");
        reconciler.set(rules(&TWO.replace("-a -t 10.0.0.2:80", "-a -w 3 -t 10.0.0.2:80")));
        reconciler.set(rules(&TWO.replace("-a -t 10.0.0.2:80", "-a -w 5 -t 10.0.0.2:80")));
        let event = round(&mut reconciler, &mut kernel, now);
        let keys = BTreeSet::from(["-t 10.0.0.2:80".parse().unwrap()]);
        assert_eq!(event.as_ref().unwrap().services, Some(keys));
        // The last one counts.
        assert_eq!(changes(&event), ["~ -t 10.0.0.2:80 -> 10.1.0.2:80 weight 1 -> 5"]);
        let more = "-A -t 10.0.0.3:80 -s rr\n".parse().unwrap();
        reconciler.insert(more);
        assert_eq!(changes(&round(&mut reconciler, &mut kernel, now)), ["+ -t 10.0.0.3:80 -s rr"]);
        reconciler.remove(&"-t 10.0.0.3:80".parse().unwrap());
        // Not its own, by the default scope.
        assert!(changes(&round(&mut reconciler, &mut kernel, now)).is_empty());
    }

    #[test]
    fn drains_are_looked_at_in_between() {
        let (mut kernel, now) = (Kernel::new(), Instant::now());
        let policy = Policy::new().drain(Drain::for_at_most(60 * SECOND));
        let mut reconciler = Reconciler::new(policy);
        reconciler.set(rules(TWO));
        round(&mut reconciler, &mut kernel, now);
        let (service, at) = ("-t 10.0.0.1:80".parse().unwrap(), "10.1.0.2:80".parse().unwrap());
        kernel.set_connections(&service, &at, 1, 0);
        reconciler.set(rules(&TWO.replace("-r 10.1.0.2:80 -m\n-A", "-r 10.1.0.3:80 -m\n-A")));
        assert_eq!(changes(&round(&mut reconciler, &mut kernel, now)).len(), 2);
        assert_eq!(reconciler.status().draining, 1);
        assert_eq!(reconciler.due(now), Some(now + SECOND));
        let look = round(&mut reconciler, &mut kernel, now + SECOND);
        assert!(changes(&look).is_empty());
        assert_eq!(look.unwrap().services, Some(BTreeSet::from([service])));
        kernel.set_connections(&service, &at, 0, 0);
        let look = round(&mut reconciler, &mut kernel, now + 2 * SECOND);
        assert_eq!(changes(&look), ["- -t 10.0.0.1:80 -> 10.1.0.2:80"]);
    }

    #[test]
    fn deletions_wait_until_they_are_confirmed() {
        let (mut kernel, now) = (Kernel::new(), Instant::now());
        let policy = Policy::new().scope(Scope::Ledger(Ledger::new())).max_deletions(1);
        let mut reconciler = Reconciler::new(policy);
        reconciler.set(rules(TWO));
        assert_eq!(reconciler.ledger().unwrap().iter().count(), 2);
        round(&mut reconciler, &mut kernel, now);
        reconciler.set(Desired::new());
        assert!(changes(&round(&mut reconciler, &mut kernel, now)).is_empty());
        assert_eq!(reconciler.status().held_back, 4, "each with its real server");
        assert_eq!(reconciler.ledger().unwrap().iter().count(), 2, "still its own");
        reconciler.confirm();
        assert_eq!(changes(&round(&mut reconciler, &mut kernel, now)).len(), 2);
        assert_eq!(reconciler.status().held_back, 0);
        reconciler.resync();
        round(&mut reconciler, &mut kernel, now);
        assert_eq!(reconciler.ledger().unwrap(), &Ledger::new());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever comes, and whatever others write, the next resync has it right.
        #[test]
        fn a_resync_has_it_right(
            steps in proptest::collection::vec(
                (strategy::desired(), proptest::collection::vec(strategy::request(), 0..5)),
                1..5,
            ),
        ) {
            let (mut kernel, mut now) = (Kernel::new(), Instant::now());
            let mut reconciler = Reconciler::new(Policy::new().scope(Scope::All));
            for (desired, others) in steps {
                reconciler.set(desired.clone());
                round(&mut reconciler, &mut kernel, now);
                prop_assert!(reconciler.due(now) > Some(now));
                for request in others {
                    let _ = kernel.execute(&request);
                }
                now += 30 * SECOND;
                round(&mut reconciler, &mut kernel, now);
                prop_assert_eq!(Desired::try_from(&kernel.snapshot()).unwrap(), desired);
            }
        }
    }
}
