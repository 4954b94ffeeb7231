//! When the next round is due, and whether it is a whole one. It has no clock.

use std::time::{Duration, Instant};

use super::round::Round;
use crate::{config::Timing, failure::Failure};

/// The waits after a round that failed.
pub(crate) const FIRST_WAIT: Duration = Duration::from_millis(500);
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The rhythm of rounds: each sync period everything is compared, changes are written at once, and what
/// failed is tried again after waits that double.
#[derive(Clone, Debug)]
pub(crate) struct Rhythm {
    sync_period: Duration,
    min_sync_period: Duration,
    next_whole: Instant,
    not_before: Instant,
    /// After a round that failed.
    wait: Duration,
    /// For what failed alone, and holds up nothing else.
    retry: Duration,
}

impl Rhythm {
    /// A whole round is due at once.
    pub(crate) fn new(timing: &Timing, now: Instant) -> Self {
        Self {
            sync_period: timing.sync_period,
            min_sync_period: timing.min_sync_period,
            next_whole: now,
            not_before: now,
            wait: FIRST_WAIT,
            retry: FIRST_WAIT,
        }
    }

    /// When the next round is due: at once if something has changed, and when drains have to be looked
    /// at.
    pub(crate) fn next(&self, is_wanted: bool, look: Option<Instant>) -> Instant {
        let changed = is_wanted.then_some(self.not_before);
        let next = [changed, look].into_iter().flatten().fold(self.next_whole, Instant::min);
        next.max(self.not_before)
    }

    /// Whether a round at this time is a whole one.
    pub(crate) fn is_whole(&self, now: Instant) -> bool {
        self.next_whole <= now
    }

    /// Everything has to be looked at.
    pub(crate) fn whole_at(&mut self, now: Instant) {
        self.next_whole = self.next_whole.min(now);
    }

    /// After a round. Returns how long the next attempt waits, if it failed.
    pub(crate) fn finished(
        &mut self,
        is_whole: bool,
        result: &Result<Round, Failure>,
        now: Instant,
    ) -> Option<Duration> {
        self.not_before = now + self.min_sync_period;
        let Ok(round) = result else {
            let wait = self.wait;
            self.next_whole = now + wait;
            self.not_before = self.not_before.max(self.next_whole);
            self.wait = (wait * 2).min(LONGEST_WAIT);
            return Some(wait);
        };
        self.wait = FIRST_WAIT;
        if is_whole {
            self.next_whole = now + self.sync_period;
        }
        if round.is_partial {
            self.next_whole = self.next_whole.min(now + self.retry);
        }
        if is_whole {
            self.retry = match round.is_partial {
                false => FIRST_WAIT,
                true => (self.retry * 2).min(LONGEST_WAIT),
            };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Step;

    fn timing(min_sync_period: u64) -> Timing {
        Timing {
            sync_period: Duration::from_secs(30),
            min_sync_period: Duration::from_secs(min_sync_period),
            hold: Duration::ZERO,
            drain_limit: None,
        }
    }

    fn round(is_partial: bool) -> Result<Round, Failure> {
        Ok(Round { is_partial, relist: false })
    }

    #[test]
    fn changes_are_written_at_once_and_everything_is_compared_in_time() {
        let start = Instant::now();
        let mut rhythm = Rhythm::new(&timing(0), start);
        assert!(rhythm.is_whole(start) && rhythm.next(false, None) == start);
        assert_eq!(rhythm.finished(true, &round(false), start), None);
        let later = start + Duration::from_secs(5);
        assert_eq!(rhythm.next(false, None), start + Duration::from_secs(30));
        assert_eq!(rhythm.next(false, Some(later)), later);
        assert_eq!(rhythm.next(true, Some(later)), start);
        assert!(!rhythm.is_whole(later));
        rhythm.whole_at(later);
        assert!(rhythm.is_whole(later));
    }

    #[test]
    fn no_round_comes_before_the_least_period() {
        let start = Instant::now();
        let mut rhythm = Rhythm::new(&timing(2), start);
        rhythm.finished(true, &round(false), start);
        assert_eq!(rhythm.next(true, Some(start)), start + Duration::from_secs(2));
    }

    /// Waits double, up to half a minute, and begin again after a round that went well.
    #[test]
    fn waits_double() {
        let mut now = Instant::now();
        let mut rhythm = Rhythm::new(&timing(0), now);
        let failed = Err(Failure::new(Step::Table, "no"));
        let waits = [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000];
        for wait in waits.map(Duration::from_millis) {
            assert_eq!(rhythm.finished(true, &failed, now), Some(wait));
            assert_eq!(rhythm.next(true, Some(now)), now + wait);
            now += wait;
        }
        rhythm.finished(true, &round(true), now);
        for wait in waits.map(Duration::from_millis) {
            // What failed alone does not hold up changes.
            assert_eq!(rhythm.next(true, None), now);
            assert_eq!(rhythm.next(false, None), now + wait);
            rhythm.finished(false, &round(false), now);
            now += wait;
            rhythm.finished(true, &round(true), now);
        }
    }
}
