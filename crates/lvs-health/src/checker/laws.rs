//! What holds for every schedule, whatever is inserted, removed and found.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::{Duration, Instant},
};

use proptest::{collection::vec, prelude::*};

use super::schedule::{Limits, Pace, Schedule, Verdict};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
enum Act {
    Insert(u64, u16),
    Remove(u64),
    /// Ends the check that has been under way for longest.
    End(u8),
    /// Milliseconds forward, or back.
    Time(i16),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..40u64, 10..3000u16).prop_map(|(number, interval)| Act::Insert(number, interval)),
        1 => (0..40u64).prop_map(Act::Remove),
        8 => (0..3u8).prop_map(Act::End),
        6 => (-50..2000i16).prop_map(Act::Time),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_history_breaks_a_law(
        at_once in 1..8usize,
        per_second in 1..500u32,
        seed in any::<u64>(),
        acts in vec(act(), 0..200),
    ) {
        let mut schedule = Schedule::new(Limits { at_once, per_second }, seed);
        let mut now = Instant::now() + 1000 * SECOND;
        let mut running = Vec::new();
        let mut starts = Vec::new();
        // The pace of each, when it was started last, and how often it came to an end.
        let mut known: BTreeMap<u64, (Pace, Option<Instant>, u32)> = BTreeMap::new();
        for act in acts {
            match act {
                Act::Insert(number, interval) => {
                    let pace = Pace::every(MILLISECOND * u32::from(interval));
                    schedule.insert(number, pace, now);
                    running.retain(|it| *it != number);
                    known.insert(number, (pace, None, 0));
                }
                Act::Remove(number) => {
                    schedule.remove(number);
                    running.retain(|it| *it != number);
                    known.remove(&number);
                }
                Act::End(verdict) if !running.is_empty() => {
                    let verdict = [Verdict::Good, Verdict::Bad, Verdict::Short][usize::from(verdict)];
                    let number = running.remove(0);
                    schedule.finished(number, verdict, now);
                    if let Some((_, start, ends)) = known.get_mut(&number) {
                        match verdict {
                            Verdict::Short => *start = None,
                            _ => *ends += 1,
                        }
                    }
                }
                Act::End(_) => {
                    // One that is not under way.
                    schedule.finished(99, Verdict::Good, now);
                }
                Act::Time(by) if by < 0 => now -= MILLISECOND * u32::from(by.unsigned_abs()),
                Act::Time(by) => now += MILLISECOND * u32::from(by.unsigned_abs()),
            }
            while let Some(next) = schedule.next().filter(|next| *next <= now) {
                let first = schedule.waiting().next();
                let Some(number) = schedule.start(now) else {
                    return Err(TestCaseError::fail(format!("due at {next:?}, and nothing starts")));
                };
                prop_assert!(first.is_some_and(|(due, first)| first == number && due <= now));
                if let Some((pace, start, ends)) = known.get_mut(&number) {
                    // Half of it at most was lost to those before it.
                    let early = pace.interval * u32::from(50 - pace.jitter) / 100;
                    if let (Some(start), 2..) = (*start, *ends) {
                        prop_assert!(now + MILLISECOND >= start + early);
                    }
                    *start = Some(now);
                }
                running.push(number);
                starts.push(now);
            }
            prop_assert_eq!(schedule.start(now), None);
            prop_assert_eq!(schedule.running(), running.len());
            prop_assert!(running.len() <= at_once);
            prop_assert_eq!(schedule.waiting().count() + running.len(), known.len(), "none is lost");
        }
        starts.sort();
        let burst = usize::try_from((per_second / 100).max(1)).unwrap_or(1);
        for (index, first) in starts.iter().enumerate() {
            for (count, last) in starts[index..].iter().enumerate() {
                let allowed = last.duration_since(*first).as_secs_f64() * f64::from(per_second);
                // A clock that went back shows less time than there was.
                let slack = 1.0 + 0.1 * f64::from(per_second);
                prop_assert!(count as f64 <= allowed + burst as f64 + slack);
            }
        }
        // Nothing starves: everybody is started, and soon.
        let mut seen: BTreeMap<_, _> = known.into_keys().map(|number| (number, false)).collect();
        for _ in 0..4000 {
            now += 10 * MILLISECOND;
            for number in running.drain(..) {
                schedule.finished(number, Verdict::Good, now);
            }
            while let Some(number) = schedule.start(now) {
                seen.insert(number, true);
                running.push(number);
            }
        }
        prop_assert!(seen.values().all(|is_seen| *is_seen), "{:?}", seen);
    }
}

/// Runs checks that take some time each for a while, and tells when each was started.
fn simulate(
    count: u64,
    limits: Limits,
    pace: Pace,
    takes: Duration,
    lasts: Duration,
    verdict: impl Fn(u64, Duration) -> Verdict,
) -> Vec<(Duration, u64)> {
    let mut schedule = Schedule::new(limits, 7);
    let begin = Instant::now();
    let mut now = begin;
    (0..count).for_each(|number| schedule.insert(number, pace, now));
    let mut ends = BinaryHeap::new();
    let mut starts = Vec::new();
    while now < begin + lasts {
        while let Some(number) = schedule.start(now) {
            starts.push((now - begin, number));
            ends.push(Reverse((now + takes, number)));
        }
        let end = ends.peek().map(|Reverse((end, _))| *end);
        let Some(next) = schedule.next().into_iter().chain(end).min() else { break };
        now = next.max(now);
        while ends.peek().is_some_and(|Reverse((end, _))| *end <= now) {
            if let Some(Reverse((_, number))) = ends.pop() {
                schedule.finished(number, verdict(number, now - begin), now);
            }
        }
    }
    starts
}

#[test]
fn many_checks_spread_over_the_interval() {
    let pace = Pace::every(SECOND);
    let limits = Limits { at_once: 10_000, per_second: 20_000 };
    let starts = simulate(5000, limits, pace, MILLISECOND, 12 * SECOND, |_, _| Verdict::Good);
    let mut counts = [0; 100];
    for (time, _) in starts.iter().filter(|(time, _)| (2 * SECOND..12 * SECOND).contains(time)) {
        counts[usize::try_from((*time - 2 * SECOND).as_millis() / 100).unwrap()] += 1;
    }
    // 500 and a little more, since jitter makes them early.
    assert!(counts.iter().all(|count| (350..750).contains(count)), "{counts:?}");
    let first = starts.iter().take_while(|(time, _)| *time <= SECOND / 2).count();
    assert!(first >= 5000, "each was made once in half a second: {first}");
}

#[test]
fn all_down_at_once_makes_no_burst() {
    let pace = Pace { interval_down: Some(SECOND / 4), ..Pace::every(SECOND) };
    let limits = Limits { at_once: 400, per_second: 4000 };
    let starts = simulate(1000, limits, pace, 50 * MILLISECOND, 10 * SECOND, |_, time| {
        if (3 * SECOND..6 * SECOND).contains(&time) { Verdict::Bad } else { Verdict::Good }
    });
    for window in starts.windows(100) {
        let (first, last) = (window[0].0, window[99].0);
        assert!(
            last - first >= MILLISECOND * 100 / 4 - 10 * MILLISECOND - MILLISECOND,
            "{first:?}"
        );
    }
    let within = |from: Duration, until: Duration| {
        starts.iter().filter(|(time, _)| (from..until).contains(time)).count()
    };
    assert!(within(4 * SECOND, 5 * SECOND) > 3500, "four times as often");
    assert!(within(8 * SECOND, 9 * SECOND) < 1200, "and then as before");
}

#[test]
fn with_too_little_time_for_all_each_is_late_alike() {
    let limits = Limits { at_once: 10, per_second: 5000 };
    let starts =
        simulate(100, limits, Pace::every(SECOND), SECOND, 100 * SECOND, |_, _| Verdict::Good);
    let mut counts = BTreeMap::new();
    starts.iter().for_each(|(_, number)| *counts.entry(*number).or_insert(0) += 1);
    assert_eq!(counts.len(), 100);
    assert!(counts.values().all(|count| (9..=11).contains(count)), "{counts:?}");
}

#[test]
fn what_is_short_is_made_later_and_room_comes_back() {
    let limits = Limits { at_once: 100, per_second: 5000 };
    let mut schedule = Schedule::new(limits, 1);
    let mut now = Instant::now();
    (0..100).for_each(|number| schedule.insert(number, Pace::every(SECOND), now));
    let mut started = Vec::new();
    for _ in 0..1000 {
        now += MILLISECOND;
        started.extend(std::iter::from_fn(|| schedule.start(now)));
    }
    assert_eq!(started.len(), 100);
    for number in started.drain(20..) {
        schedule.finished(number, Verdict::Short, now);
    }
    assert!(schedule.is_short());
    now += 10 * SECOND;
    assert_eq!(schedule.start(now), None, "20 are under way, and 20 is what there is room for");
    let mut rounds = 0;
    while schedule.is_short() {
        for number in started.drain(..) {
            schedule.finished(number, Verdict::Good, now);
        }
        now += SECOND / 10;
        started.extend(std::iter::from_fn(|| schedule.start(now)));
        assert!(started.len() <= 100);
        rounds += 1;
        assert!(rounds < 500);
    }
}
