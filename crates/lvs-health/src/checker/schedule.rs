//! When each check is made: values and time, no I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::check::seconds;

/// How often a check is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Pace {
    /// From the start of one to the start of the next at most, while the last was good; 5 seconds by
    /// default, at least 10 milliseconds.
    #[serde(with = "seconds")]
    pub interval: Duration,
    /// The same while the last was not good; [`interval`](field@Self::interval) by default.
    #[serde(with = "seconds::optional")]
    pub interval_down: Option<Duration>,
    /// By how many percent of the interval it may be early, 0 to 50, so that many checks do not stay in step;
    /// 5 by default.
    pub jitter: u8,
}

/// How much is done at once for all checks together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Limits {
    /// How many checks are under way at once; 512 by default, at least 1.
    pub at_once: usize,
    /// How many are started in a second; 5,000 by default, at least 1. The hundredth part of them may be
    /// started in one moment.
    pub per_second: u32,
}

/// What became of a check, as far as its next one depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good,
    Bad,
    /// It could not be made for want of something.
    Short,
}

/// Says which check is due. Each has a number that no other ever had.
///
/// It does no I/O and has no clock: [`start`](Self::start) says what to start now,
/// [`finished`](Self::finished) takes in what became of it, [`next`](Self::next) says when to ask again.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    limits: Limits,
    /// How many may be under way now: fewer than the limit after a shortage.
    room: usize,
    /// Good ends since the room last grew.
    ends: usize,
    running: usize,
    entries: BTreeMap<u64, Entry>,
    waiting: BTreeSet<(Instant, u64)>,
    /// When a next one would start at the allowed rate, if none waited.
    paced: Option<Instant>,
    random: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    pace: Pace,
    /// How often it was started with the room that it needs.
    rounds: u8,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// When it is due.
    Waiting(Instant),
    /// The time from which its next one is reckoned.
    Running(Instant),
}

impl Default for Pace {
    fn default() -> Self {
        Self { interval: Duration::from_secs(5), interval_down: None, jitter: 5 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { at_once: 512, per_second: 5_000 }
    }
}

impl Pace {
    /// A check every so often.
    pub fn every(interval: Duration) -> Self {
        Self { interval, ..Self::default() }
    }

    fn interval(&self) -> Duration {
        bounded(self.interval)
    }
}

impl Schedule {
    /// The seed decides on all that is random.
    pub(crate) fn new(limits: Limits, seed: u64) -> Self {
        let limits =
            Limits { at_once: limits.at_once.max(1), per_second: limits.per_second.max(1) };
        Self {
            limits,
            room: limits.at_once,
            ends: 0,
            running: 0,
            entries: BTreeMap::new(),
            waiting: BTreeSet::new(),
            paced: None,
            random: seed,
        }
    }

    /// Adds a check, which is due at once.
    pub(crate) fn insert(&mut self, number: u64, pace: Pace, now: Instant) {
        self.remove(number);
        self.entries.insert(number, Entry { pace, rounds: 0, state: State::Waiting(now) });
        self.waiting.insert((now, number));
    }

    /// Takes a check away, also one that is under way.
    pub(crate) fn remove(&mut self, number: u64) {
        match self.entries.remove(&number).map(|entry| entry.state) {
            Some(State::Waiting(due)) => {
                self.waiting.remove(&(due, number));
            }
            Some(State::Running(_)) => self.running -= 1,
            None => {}
        }
    }

    /// The check that is to be started now, if there is one: that which has been due for longest.
    pub(crate) fn start(&mut self, now: Instant) -> Option<u64> {
        if self.next()? > now {
            return None;
        }
        let (due, number) = self.waiting.pop_first()?;
        let entry = self.entries.get_mut(&number)?;
        // From when it was due: those that had to wait together do not stay together. But what was late for
        // long does not come again at once.
        let late = now.saturating_duration_since(due);
        entry.state = State::Running(due + late.saturating_sub(entry.pace.interval() / 2));
        self.running += 1;
        self.paced = Some(self.paced.map_or(now, |paced| paced.max(now)) + self.gap());
        Some(number)
    }

    /// When [`start`](Self::start) is to be asked again, if nothing happens before; `None` for never.
    pub(crate) fn next(&self) -> Option<Instant> {
        if self.running >= self.room {
            return None;
        }
        let (due, _) = self.waiting.first()?;
        let burst = (self.limits.per_second / 100).max(1) - 1;
        let paced = self.paced.and_then(|paced| paced.checked_sub(self.gap() * burst));
        Some(paced.map_or(*due, |paced| paced.max(*due)))
    }

    /// Takes in what became of a check. One that was taken away counts for nothing.
    pub(crate) fn finished(&mut self, number: u64, verdict: Verdict, now: Instant) {
        let Some(entry) = self.entries.get_mut(&number) else { return };
        let State::Running(started) = entry.state else { return };
        self.running -= 1;
        let Pace { interval_down, jitter, .. } = entry.pace;
        let interval = match (verdict, interval_down) {
            (Verdict::Bad, Some(interval)) => bounded(interval),
            _ => entry.pace.interval(),
        };
        let part = fraction(&mut self.random);
        let due = match verdict {
            Verdict::Short => {
                // Those that are under way have what they need: no more than they.
                self.room = self.room.min(self.running).max(1);
                self.ends = 0;
                now + (interval / 10).min(Duration::from_secs(1))
            }
            _ if entry.rounds == 0 => {
                // All begin at once; from here on they are spread over the interval.
                entry.rounds = 1;
                started + interval.mul_f64(part)
            }
            _ => started + interval.mul_f64(1.0 - part * f64::from(jitter.min(50)) / 100.0),
        };
        if verdict != Verdict::Short {
            self.grow();
        }
        let due = due.max(now);
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.state = State::Waiting(due);
        }
        self.waiting.insert((due, number));
    }

    /// Whether less is done at once than is allowed.
    pub(crate) fn is_short(&self) -> bool {
        self.room < self.limits.at_once
    }

    /// After as many ends as there is room for, there may be room for an eighth more.
    fn grow(&mut self) {
        self.ends += 1;
        if self.is_short() && self.ends >= self.room {
            self.ends = 0;
            self.room = (self.room + (self.room / 8).max(1)).min(self.limits.at_once);
        }
    }

    /// The time between two starts at the allowed rate.
    fn gap(&self) -> Duration {
        Duration::from_secs(1) / self.limits.per_second
    }

    #[cfg(test)]
    pub(crate) fn running(&self) -> usize {
        self.running
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (Instant, u64)> {
        self.waiting.iter().copied()
    }
}

fn bounded(interval: Duration) -> Duration {
    interval.clamp(Duration::from_millis(10), Duration::from_secs(86_400))
}

/// A number from 0 to 1, by SplitMix64.
fn fraction(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let top = u32::try_from((z ^ (z >> 31)) >> 32).unwrap_or_default();
    f64::from(top) / f64::from(u32::MAX)
}
