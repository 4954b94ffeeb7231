//! What holds for every pool, whatever is reported; and what each setting does, step by step.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::time::{Duration, Instant};

use lvs::{RealServer, VirtualService, client::packet::DestinationKey};
use proptest::{collection::vec, prelude::*};

use crate::{
    AllFailed, BeforeResult, Event, Health, Member, Mode, OnFailure, Outcome, Pool, PoolBuilder,
    Quorum, StateError, Step,
};

const SECOND: Duration = Duration::from_secs(1);

fn server(host: u8) -> RealServer {
    RealServer::nat(([172, 17, 0, host], 80).into())
}

fn key(host: u8) -> DestinationKey {
    DestinationKey::new(([172, 17, 0, host], 80).into()).unwrap()
}

/// Members 1 to `members`, each of weight 100.
fn pool(members: u8) -> PoolBuilder {
    let web = VirtualService::tcp("10.0.0.185:80".parse().unwrap());
    (1..=members)
        .fold(Pool::new(web), |pool, host| pool.member(Member::new(server(host)).weight(100)))
}

fn weights(step: &Step) -> Vec<(DestinationKey, u32)> {
    let service = step.service.as_ref().unwrap();
    service.destinations().iter().map(|it| (it.key, it.weight.get())).collect()
}

fn bad() -> Outcome {
    Outcome::Bad("no answer".to_owned())
}

fn report(times: usize, pool: &mut Pool, host: u8, outcome: &Outcome, now: Instant) {
    for _ in 0..times {
        assert!(pool.report(&key(host), outcome.clone(), now));
    }
}

/// A pool all of whose members are up, and the time.
fn all_up(builder: PoolBuilder) -> (Pool, Instant) {
    let (mut pool, now) = (builder.build().unwrap(), Instant::now());
    let keys: Vec<_> = pool.members().map(|(key, ..)| *key).collect();
    keys.iter().for_each(|key| assert!(pool.report(key, Outcome::Good, now)));
    pool.step(now);
    (pool, now)
}

#[test]
fn rise_and_fall_count_results_in_a_row() {
    let (mut pool, now) = all_up(pool(2));
    for outcome in [bad(), bad(), Outcome::Good, bad(), bad()] {
        pool.report(&key(1), outcome, now);
        assert!(pool.step(now).events.is_empty());
    }
    pool.report(&key(1), bad(), now);
    let step = pool.step(now);
    assert_eq!(step.events, [Event::Down(key(1), "no answer".to_owned())]);
    assert_eq!(weights(&step), [(key(1), 0), (key(2), 100)]);
    pool.report(&key(1), Outcome::Good, now);
    assert!(pool.step(now).events.is_empty());
    pool.report(&key(1), Outcome::Good, now);
    let step = pool.step(now);
    assert_eq!(step.events, [Event::Up(key(1))]);
    assert_eq!(weights(&step), [(key(1), 100), (key(2), 100)]);
}

#[test]
fn before_the_first_result_the_choice_counts() {
    let now = Instant::now();
    let mut waiting = pool(2).build().unwrap();
    assert_eq!(waiting.step(now).service, None);
    waiting.report(&key(1), Outcome::Good, now);
    assert_eq!(waiting.step(now).service, None, "one has no result");
    waiting.report(&key(2), bad(), now);
    assert_eq!(weights(&waiting.step(now)), [(key(1), 100), (key(2), 0)], "the first one decides");
    // Nobody checks what is in maintenance.
    let mut waiting = pool(2).build().unwrap();
    waiting.report(&key(1), Outcome::Good, now);
    waiting.report(&key(2), Outcome::Maintenance, now);
    assert_eq!(weights(&waiting.step(now)), [(key(1), 100)]);
    for (choice, weight) in [(BeforeResult::Up, 100), (BeforeResult::Down, 0)] {
        let mut pool = pool(1).before_result(choice).build().unwrap();
        assert_eq!(weights(&pool.step(now)), [(key(1), weight)]);
    }
}

#[test]
fn failed_members_stay_or_go() {
    let (mut pool, now) = all_up(pool(2).on_failure(OnFailure::TakeAway));
    report(3, &mut pool, 1, &bad(), now);
    let step = pool.step(now);
    assert_eq!((weights(&step), step.failed), (vec![(key(2), 100)], vec![key(1)]));
}

#[test]
fn a_quorum_has_hysteresis() {
    let (mut pool, now) = all_up(pool(5).quorum(Quorum::Members(3)).hysteresis(1).sorry(server(9)));
    let down = |pool: &mut Pool, host| {
        report(3, pool, host, &bad(), now);
        pool.step(now)
    };
    let up = |pool: &mut Pool, host| {
        report(2, pool, host, &Outcome::Good, now);
        pool.step(now)
    };
    for host in 1..=3 {
        assert_eq!(down(&mut pool, host).events.len(), 1, "2 are enough");
    }
    let step = down(&mut pool, 4);
    assert_eq!(step.events[1..], [Event::QuorumLost, Event::SorryIn]);
    let expected = [(key(1), 0), (key(2), 0), (key(3), 0), (key(4), 0), (key(5), 0), (key(9), 1)];
    assert_eq!(weights(&step), expected);
    for host in 2..=3 {
        assert_eq!(up(&mut pool, host).events, [Event::Up(key(host))], "3 are not enough");
    }
    let step = up(&mut pool, 4);
    assert_eq!(step.events[1..], [Event::QuorumRegained, Event::SorryOut]);
    assert_eq!(weights(&step)[1..], [(key(2), 100), (key(3), 100), (key(4), 100), (key(5), 100)]);
    // More than all members cannot be asked for.
    let mut small = pool_of_one_with_a_quorum_of(300);
    small.report(&key(1), Outcome::Good, now);
    assert_eq!(small.step(now).events, [Event::Up(key(1))]);
}

fn pool_of_one_with_a_quorum_of(weight: u32) -> Pool {
    pool(1).quorum(Quorum::Weight(weight)).hysteresis(50).build().unwrap()
}

#[test]
fn all_failed_is_what_was_chosen() {
    let fail = |builder: PoolBuilder| {
        let (mut pool, now) = all_up(builder);
        for host in 1..=2 {
            report(3, &mut pool, host, &bad(), now);
        }
        pool.report(&key(3), Outcome::Drain, now);
        (pool.step(now), pool, now)
    };
    let (step, ..) = fail(pool(3));
    assert_eq!(weights(&step), [(key(1), 0), (key(2), 0), (key(3), 0)]);
    let (step, ..) = fail(pool(3).sorry(server(9).weight(0)));
    assert_eq!(weights(&step).last(), Some(&(key(9), 1)));
    let (step, mut pool, now) = fail(pool(3).all_failed(AllFailed::Open));
    assert!(step.events.contains(&Event::FailOpenBegan));
    assert_eq!(weights(&step), [(key(1), 100), (key(2), 100), (key(3), 0)]);
    report(2, &mut pool, 1, &Outcome::Good, now);
    let step = pool.step(now);
    assert!(step.events.contains(&Event::FailOpenEnded));
    assert_eq!(weights(&step), [(key(1), 100), (key(2), 0), (key(3), 0)]);
}

#[test]
fn a_sorry_server_may_be_a_member() {
    let (mut pool, now) = all_up(pool(2).sorry(server(2)).quorum(Quorum::Members(2)));
    report(3, &mut pool, 1, &bad(), now);
    assert_eq!(weights(&pool.step(now)), [(key(1), 0), (key(2), 1)]);
}

#[test]
fn an_agent_and_a_person_have_their_say() {
    let (mut pool, now) = all_up(pool(2));
    for (outcome, weight) in [
        (Outcome::Weight(50), Some(50)),
        (Outcome::Weight(0), Some(0)),
        (Outcome::Weight(255), Some(100)),
        (Outcome::Drain, Some(0)),
        (Outcome::Enable, Some(100)),
        (Outcome::Maintenance, None),
        (Outcome::Good, None),
        (Outcome::Enable, Some(100)),
    ] {
        pool.report(&key(1), outcome.clone(), now);
        let found = weights(&pool.step(now)).into_iter().find(|(member, _)| *member == key(1));
        assert_eq!(found.map(|(_, weight)| weight), weight, "{outcome:?}");
    }
    assert!(!pool.report(&key(7), Outcome::Good, now), "there is no such member");
}

#[test]
fn a_slow_start_rises_to_the_whole() {
    let (mut pool, now) = all_up(pool(2).slow_start(10 * SECOND));
    report(3, &mut pool, 1, &bad(), now);
    pool.step(now);
    report(2, &mut pool, 1, &Outcome::Good, now);
    let mut step = pool.step(now);
    let mut seen = vec![weights(&step)[0].1];
    let mut time = now;
    while let Some(next) = step.next {
        assert!(next > time);
        time = next;
        step = pool.step(time);
        seen.push(weights(&step)[0].1);
        assert!(seen.len() < 30, "{seen:?}");
    }
    assert_eq!((seen[0], *seen.last().unwrap(), time), (1, 100, now + 10 * SECOND));
    assert!(seen.is_sorted() && seen.len() > 15, "{seen:?}");
    assert_eq!(step.events, [Event::RampEnded(key(1))]);
}

#[test]
fn one_that_flaps_has_to_be_good_for_longer() {
    let (mut pool, mut now) = all_up(pool(2).damping(1, 60 * SECOND, 20 * SECOND));
    let flap = |pool: &mut Pool, now| {
        report(3, pool, 1, &bad(), now);
        pool.step(now);
        report(2, pool, 1, &Outcome::Good, now);
        pool.step(now)
    };
    assert_eq!(flap(&mut pool, now).events, [Event::Up(key(1))]);
    now += SECOND;
    let step = flap(&mut pool, now);
    assert_eq!((step.events, step.next), (vec![], Some(now + 20 * SECOND)));
    assert!(pool.step(now + 19 * SECOND).events.is_empty());
    assert_eq!(pool.step(now + 20 * SECOND).events, [Event::Up(key(1))], "without a report");
    // Long after, it is as at first.
    now += 100 * SECOND;
    assert_eq!(flap(&mut pool, now).events, [Event::Up(key(1))]);
}

#[test]
fn a_reload_keeps_what_is_known() {
    let (mut pool, now) = all_up(pool(2));
    report(3, &mut pool, 1, &bad(), now);
    pool.step(now);
    let members = [1, 3].map(|host| Member::new(server(host)).weight(50));
    pool.replace(members, now).unwrap();
    assert_eq!(weights(&pool.step(now)), [(key(1), 0), (key(3), 0)], "3 has no result yet");
    pool.report(&key(3), Outcome::Good, now);
    assert_eq!(weights(&pool.step(now)), [(key(1), 0), (key(3), 50)]);
    // Of a mistake nothing is taken.
    let wrong = Member::new(RealServer::nat("[fd00::1]:80".parse().unwrap()));
    pool.replace([wrong], now).unwrap_err();
    assert_eq!(weights(&pool.step(now)).len(), 2);
}

#[test]
fn what_is_stored_is_read() {
    let (mut known, now) = all_up(pool(3));
    report(3, &mut known, 1, &Outcome::Bad("line\nbreak".to_owned()), now);
    known.report(&key(2), Outcome::Drain, now);
    known.report(&key(2), Outcome::Weight(50), now);
    let text = known.state();
    let mut after = pool(3).build().unwrap();
    after.restore(&text, now).unwrap();
    assert_eq!(after.step(now).service, known.step(now).service, "at once, without a result");
    assert_eq!(after.state(), text);
    // A part of it is none, wherever it is cut.
    for end in 0..text.len() {
        let mut fresh = pool(3).build().unwrap();
        assert!(fresh.restore(&text[..end], now).is_err(), "{:?}", &text[..end]);
        assert!(fresh.members().all(|(_, health, _)| *health == Health::Unknown));
    }
    let mut other = pool(3).build().unwrap();
    for (text, expected) in [
        (
            text.replace("10.0.0.185", "10.0.0.186"),
            StateError::Service("-t 10.0.0.186:80".to_owned()),
        ),
        (
            text.replace("health 1", "health 2"),
            StateError::Header("lvs-health 2 -t 10.0.0.185:80".to_owned()),
        ),
        (
            text.replace("draining", "sleeping"),
            StateError::Line(3, "172.17.0.2:80 sleeping 50 up".to_owned()),
        ),
    ] {
        assert_eq!(other.restore(&text, now), Err(expected));
    }
}

#[derive(Clone, Debug)]
enum Act {
    Report(u8, Outcome),
    Replace(Vec<u8>),
    /// Half seconds forward, or back.
    Time(i8),
}

fn act() -> impl Strategy<Value = Act> {
    let outcome = prop_oneof![
        6 => Just(Outcome::Good),
        6 => Just(bad()),
        1 => any::<u8>().prop_map(Outcome::Weight),
        1 => Just(Outcome::Drain),
        1 => Just(Outcome::Maintenance),
        2 => Just(Outcome::Enable),
    ];
    prop_oneof![
        12 => (1..=5u8, outcome).prop_map(|(host, outcome)| Act::Report(host, outcome)),
        1 => vec(1..=5u8, 0..5).prop_map(Act::Replace),
        6 => (-4..40i8).prop_map(Act::Time),
    ]
}

fn settings() -> impl Strategy<Value = PoolBuilder> {
    let quorum =
        prop_oneof![(0..350u32).prop_map(Quorum::Weight), (0..5u32).prop_map(Quorum::Members),];
    let choices =
        (any::<bool>(), any::<bool>(), 0..3u8, any::<bool>(), any::<bool>(), any::<bool>());
    (quorum, 0..3u32, choices).prop_map(|(quorum, hysteresis, choices)| {
        let (sorry, open, before, away, slow, damped) = choices;
        let mut builder = pool(4).quorum(quorum).hysteresis(hysteresis);
        builder = if sorry { builder.sorry(server(9)) } else { builder };
        builder = if open { builder.all_failed(AllFailed::Open) } else { builder };
        builder = if away { builder.on_failure(OnFailure::TakeAway) } else { builder };
        builder = if slow { builder.slow_start(7 * SECOND) } else { builder };
        builder = if damped { builder.damping(1, 10 * SECOND, 5 * SECOND) } else { builder };
        builder.before_result(match before {
            0 => BeforeResult::Wait,
            1 => BeforeResult::Up,
            _ => BeforeResult::Down,
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_report_breaks_a_law(builder in settings(), acts in vec(act(), 0..80)) {
        let [mut pool, mut twin] = [builder.clone().build().unwrap(), builder.build().unwrap()];
        let start = Instant::now() + 1000 * SECOND;
        // The latest time that the pool was told: it holds to that when the clock goes back.
        let (mut now, mut latest) = (start, None);
        for act in acts {
            match act {
                Act::Report(host, outcome) => {
                    pool.report(&key(host), outcome.clone(), now);
                    twin.report(&key(host), outcome, now);
                }
                Act::Replace(hosts) => {
                    for pool in [&mut pool, &mut twin] {
                        let members = hosts.iter().map(|host| Member::new(server(*host)).weight(100));
                        pool.replace(members, now).unwrap();
                    }
                }
                Act::Time(halves) if halves < 0 => now -= SECOND / 2 * u32::from(halves.unsigned_abs()),
                Act::Time(halves) => now += SECOND / 2 * u32::from(halves.unsigned_abs()),
            }
            latest = latest.max(Some(now));
            let step = pool.step(now);
            prop_assert_eq!(&step, &twin.step(now), "the same reports give the same");
            if let Some(next) = step.next {
                prop_assert!(Some(next) > latest, "a step that is due at once again is never done");
            }
            let Some(service) = &step.service else { continue };
            let weight = |key: &DestinationKey| service.destination(key).map(|it| it.weight.get());
            let mut wants = false;
            for (key, health, mode) in pool.members() {
                let found = weight(key);
                prop_assert!(found.unwrap_or(0) <= 100);
                prop_assert_eq!(found.is_none(), step.failed.contains(key));
                match mode {
                    Mode::Maintenance => prop_assert_eq!(found, None),
                    Mode::Draining => prop_assert_eq!(found, Some(0)),
                    _ => wants |= *health == Health::Up && pool.percent(key) > 0,
                }
                if mode != Mode::Maintenance && *health == Health::Up {
                    prop_assert!(found.is_some(), "a healthy one is there");
                }
            }
            let is_usable = service.destinations().iter().any(|it| it.weight.get() > 0);
            prop_assert!(is_usable || !(wants || pool.has_sorry()), "{service}");
            // Restarted at any moment it is the same, but for slow starts.
            let mut restarted = pool.clone();
            restarted.restore(&pool.state(), now).unwrap();
            let again = restarted.step(now).service.unwrap();
            for (key, health, _) in pool.members() {
                let found = again.destination(key).map(|it| it.weight.get());
                prop_assert_eq!(found.is_some(), weight(key).is_some(), "{} {}", key, health);
                prop_assert!(found >= weight(key));
            }
        }
        // Nothing starves: checks that pass bring everybody who is enabled back.
        let keys: Vec<_> = pool.members().map(|(key, ..)| *key).collect();
        for _ in 0..60 {
            now = latest.map_or(now, |it| now.max(it)) + SECOND;
            for key in &keys {
                for outcome in [Outcome::Good, Outcome::Enable, Outcome::Weight(100)] {
                    pool.report(key, outcome, now);
                }
            }
            pool.step(now);
        }
        let step = pool.step(now);
        prop_assert!(keys.is_empty() || weights(&step).iter().all(|(_, weight)| *weight == 100));
        prop_assert_eq!((step.next, step.failed.len()), (None, 0));
    }
}

impl Pool {
    fn percent(&self, key: &DestinationKey) -> u8 {
        self.stored().find(|(it, ..)| *it == key).map_or(0, |(_, _, percent, _)| percent)
    }
}
