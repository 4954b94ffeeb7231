//! When a round is due, and what it is about. It does no I/O and takes the time as an argument.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use ipvs_client::packet::ServiceKey;

use crate::port::is_whole_table_faster;

/// No interval is shorter.
const SHORTEST: Duration = Duration::from_millis(1);

/// When to do what of a table: by events, resyncs, retries and drains.
///
/// It is the schedule of a [`Reconciler`](crate::Reconciler), and by itself one for programs with a
/// loop of their own. Each service has a time and a count of its own: whatever else happens, a service
/// that fails is tried at its own back-off, and one that is drained is looked at in time.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// use lvs::{Ended, Reason, Schedule};
///
/// let now = Instant::now();
/// let mut schedule = Schedule::new().resync_every(Duration::from_secs(30));
/// assert_eq!(schedule.due(now), None);
/// schedule.resync();
/// let turn = schedule.next(now).expect("the first turn is the whole table");
/// assert!(turn.services().is_none() && turn.is_for(Reason::Resync));
/// schedule.finished(&turn, Ended::default(), now);
/// assert_eq!(schedule.due(now), Some(now + Duration::from_secs(30)));
/// schedule.changed(["-t 10.0.0.185:80".parse()?]);
/// assert_eq!(schedule.next(now).and_then(|turn| Some(turn.services()?.len())), Some(1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Schedule {
    resync: Duration,
    first_retry: Duration,
    longest_retry: Duration,
    pause: Duration,
    /// The next time for the whole table.
    whole: Whole,
    /// When they were named, as `asked` counts.
    changed: BTreeMap<ServiceKey, u64>,
    retries: BTreeMap<ServiceKey, Retry>,
    looks: BTreeMap<ServiceKey, Instant>,
    release: Option<Instant>,
    /// How often in a row everything failed.
    failed: u32,
    /// Nothing is due before, whatever it is.
    not_before: Option<Instant>,
    /// Counts what was asked for, so that what comes during a round is not lost by its end.
    asked: u64,
}

#[derive(Clone, Copy, Debug)]
enum Whole {
    Never,
    /// Somebody asked for it.
    Asked(u64),
    At(Instant),
}

#[derive(Clone, Copy, Debug)]
struct Retry {
    at: Instant,
    times: u32,
}

/// What a round is about, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    services: Option<BTreeSet<ServiceKey>>,
    skipped: BTreeSet<ServiceKey>,
    reasons: BTreeSet<Reason>,
    asked: u64,
}

/// Why a round is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reason {
    /// What should be of some services is another than before.
    Event,
    /// The whole table is read, at its interval or because somebody asked for it.
    Resync,
    /// Something failed, or others kept changing it.
    Retry,
    /// Real servers are being drained.
    Drain,
    /// What was held back is within the limit now.
    Release,
}

/// How a round ended.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Ended {
    /// Nothing could be done: everything is tried again.
    pub failed: bool,
    /// The services that are tried again at their back-off.
    pub again: BTreeSet<ServiceKey>,
    /// When to look at services again, at the latest: what is drained there.
    pub looks: BTreeMap<ServiceKey, Instant>,
    /// When what is held back is within the limit.
    pub release: Option<Instant>,
}

impl Turn {
    /// The services that it is about; `None` is the whole table.
    pub fn services(&self) -> Option<&BTreeSet<ServiceKey>> {
        self.services.as_ref()
    }

    /// The services that it leaves out, since they failed lately and their time has not come.
    pub fn skipped(&self) -> &BTreeSet<ServiceKey> {
        &self.skipped
    }

    /// Why it is due, in order.
    pub fn reasons(&self) -> impl Iterator<Item = Reason> + '_ {
        self.reasons.iter().copied()
    }

    /// Whether this is one of the reasons.
    pub fn is_for(&self, reason: Reason) -> bool {
        self.reasons.contains(&reason)
    }

    fn covers(&self, key: &ServiceKey) -> bool {
        self.services.as_ref().is_none_or(|services| services.contains(key))
            && !self.skipped.contains(key)
    }
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            resync: Duration::from_secs(30),
            first_retry: Duration::from_secs(1),
            longest_retry: Duration::from_secs(60),
            pause: Duration::ZERO,
            whole: Whole::Never,
            changed: BTreeMap::new(),
            retries: BTreeMap::new(),
            looks: BTreeMap::new(),
            release: None,
            failed: 0,
            not_before: None,
            asked: 0,
        }
    }
}

impl Schedule {
    /// A schedule of which nothing is due: not before the whole table was read once.
    pub fn new() -> Self {
        Self::default()
    }

    /// How often the whole table is read, at least; every 30 seconds by default, a millisecond at
    /// least.
    #[must_use]
    pub fn resync_every(mut self, interval: Duration) -> Self {
        self.resync = interval.max(SHORTEST);
        self
    }

    /// How soon what failed is tried again: after the first time, doubled each time up to the second
    /// one. By default 1 second and 60 seconds.
    #[must_use]
    pub fn back_off(mut self, first: Duration, longest: Duration) -> Self {
        self.first_retry = first.max(SHORTEST);
        self.longest_retry = longest.max(SHORTEST);
        self
    }

    /// The shortest pause between the end of a round and the next one; none by default. What comes in
    /// between is one round.
    #[must_use]
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn interval(&self) -> Duration {
        self.resync
    }

    /// Has the whole table read: now, or when its back-off is over if it could not be read.
    pub fn resync(&mut self) {
        self.asked += 1;
        self.whole = Whole::Asked(self.asked);
    }

    /// Whether there was nothing to do yet.
    pub(crate) fn is_new(&self) -> bool {
        matches!(self.whole, Whole::Never)
    }

    /// What should be of these services is another than before.
    pub fn changed(&mut self, services: impl IntoIterator<Item = ServiceKey>) {
        self.asked += 1;
        self.changed.extend(services.into_iter().map(|key| (key, self.asked)));
    }

    /// The services that are to be done, or tried again: that are not as they should be.
    pub fn unfinished(&self) -> impl Iterator<Item = &ServiceKey> + '_ {
        self.changed.keys().chain(self.retries.keys())
    }

    /// What failed in a round that ended at this time: when it is tried again, and how often it failed.
    #[cfg(feature = "tracing")]
    pub(crate) fn retried(
        &self,
        now: Instant,
    ) -> impl Iterator<Item = (&ServiceKey, Duration, u32)> + '_ {
        self.retries.iter().filter_map(move |(key, retry)| {
            let after = self.back_off_of(retry.times);
            (retry.at == later(now, after)).then_some((key, after, retry.times))
        })
    }

    pub(crate) fn is_unfinished(&self, key: &ServiceKey) -> bool {
        self.changed.contains_key(key) || self.retries.contains_key(key)
    }

    /// Whether nothing is due but the next resync.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.whole, Whole::At(_))
            && self.failed == 0
            && self.release.is_none()
            && self.looks.is_empty()
            && self.unfinished().next().is_none()
    }

    /// The looks at drains. One at a service that failed waits for its retry: nothing is taken away
    /// before that succeeds.
    fn looks(&self) -> impl Iterator<Item = (&ServiceKey, &Instant)> + '_ {
        self.looks.iter().filter(|(key, _)| !self.retries.contains_key(key))
    }

    /// When the next round is due: now or later. `None` before there is anything to do.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let whole = match self.whole {
            Whole::Never => return None,
            Whole::Asked(_) => now,
            Whole::At(at) => at,
        };
        let changed = (!self.changed.is_empty()).then_some(now);
        let retries = self.retries.values().map(|retry| retry.at);
        let looks = self.looks().map(|(_, at)| *at);
        let single = [changed, self.release].into_iter().flatten();
        let due = single.chain(retries).chain(looks).fold(whole, Instant::min);
        Some(due.max(now).max(self.not_before.unwrap_or(now)))
    }

    /// What is due now. It stays due until it is [finished](Self::finished). `table` is how many
    /// services there are: of many of them it is faster to read all.
    pub fn next_of(&self, table: Option<usize>, now: Instant) -> Option<Turn> {
        if self.due(now)? > now {
            return None;
        }
        let mut services: BTreeSet<ServiceKey> = self.changed.keys().copied().collect();
        let mut reasons = BTreeSet::new();
        if !services.is_empty() {
            reasons.insert(Reason::Event);
        }
        let due_retries = self.retries.iter().filter(|(_, retry)| retry.at <= now);
        let due_looks = self.looks().filter(|(_, at)| **at <= now);
        for (key, reason) in due_retries
            .map(|(key, _)| (key, Reason::Retry))
            .chain(due_looks.map(|(key, _)| (key, Reason::Drain)))
        {
            services.insert(*key);
            reasons.insert(reason);
        }
        let is_asked = matches!(self.whole, Whole::Asked(_));
        let resync = is_asked || matches!(self.whole, Whole::At(at) if at <= now);
        if resync {
            reasons.insert(Reason::Resync);
        }
        let releases = self.release.is_some_and(|at| at <= now);
        if releases {
            reasons.insert(Reason::Release);
        }
        if !resync && !releases && !is_whole_table_faster(services.len(), table) {
            let (services, skipped) = (Some(services), BTreeSet::new());
            return Some(Turn { services, skipped, reasons, asked: self.asked });
        }
        let waits = |key: &ServiceKey| {
            !is_asked
                && !services.contains(key)
                && self.retries.get(key).is_some_and(|retry| retry.at > now)
        };
        let skipped = self.retries.keys().filter(|key| waits(key)).copied().collect();
        Some(Turn { services: None, skipped, reasons, asked: self.asked })
    }

    /// [`next_of`](Self::next_of) a table of an unknown size.
    pub fn next(&self, now: Instant) -> Option<Turn> {
        self.next_of(None, now)
    }

    /// Takes in how a round ended, and when.
    pub fn finished(&mut self, turn: &Turn, ended: Ended, now: Instant) {
        if ended.failed {
            self.failed = self.failed.saturating_add(1);
            let at = later(now, self.back_off_of(self.failed));
            self.not_before = Some(at);
            self.whole = Whole::At(at);
            return;
        }
        self.failed = 0;
        self.not_before = (!self.pause.is_zero()).then(|| later(now, self.pause));
        let is_asked_again = matches!(self.whole, Whole::Asked(asked) if asked > turn.asked);
        if turn.services.is_none() && !is_asked_again {
            self.whole = Whole::At(later(now, self.resync));
        }
        self.changed.retain(|key, asked| *asked > turn.asked || !turn.covers(key));
        self.looks.retain(|key, _| !turn.covers(key));
        for (key, at) in ended.looks {
            // What this round was not about is looked at no later than it would have been.
            self.looks.entry(key).and_modify(|look| *look = at.min(*look)).or_insert(at);
        }
        // What a look at the whole table left is in its back-off.
        let is_left = |at: &Instant| turn.services.is_none() && *at <= now;
        let left = ended.release.filter(is_left).map(|_| later(now, self.longest_retry));
        self.release = left.or(ended.release);
        let mut retries = std::mem::take(&mut self.retries);
        for key in ended.again {
            let times = retries.get(&key).map_or(0, |retry| retry.times).saturating_add(1);
            self.retries.insert(key, Retry { at: later(now, self.back_off_of(times)), times });
        }
        retries.retain(|key, _| !turn.covers(key) && !self.retries.contains_key(key));
        self.retries.append(&mut retries);
    }

    fn back_off_of(&self, times: u32) -> Duration {
        let doubled = self.first_retry.saturating_mul(1 << times.saturating_sub(1).min(31));
        doubled.min(self.longest_retry)
    }
}

/// So much later, or for ever.
pub(crate) fn later(now: Instant, interval: Duration) -> Instant {
    const FOR_EVER: Duration = Duration::from_secs(1 << 30);
    now.checked_add(interval).unwrap_or_else(|| now + FOR_EVER)
}
