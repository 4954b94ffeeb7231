//! What a reconciler promises where several of its parts meet, on the model.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::time::{Duration, Instant};

use ipvs_client::packet::Request;

use super::laws::{SECOND, TWO, guarded, key, round, service, services, settled, table};
use crate::{
    Desired, Drain, Ledger, Limit, Policy, Scope,
    model::{Errno, Kernel, Scripted},
};

/// A round about other services put every look off, so that with a change of another service every
/// 300 ms a drain never ended.
#[test]
fn a_drain_is_looked_at_whatever_else_changes() {
    let start = Instant::now();
    let drain = Drain::for_at_most(10 * SECOND);
    let (mut reconciler, port) = settled(Policy::new().drain(drain), services(3, TWO), start);
    port.kernel().set_connections(&key(2), &"10.1.2.2:80".parse().unwrap(), 1, 0);
    reconciler.insert(service(2, &[(1, 1)]));
    let mut gone = None;
    for tenth in 0..200u32 {
        let now = start + tenth * Duration::from_millis(100);
        if tenth % 3 == 0 {
            reconciler.insert(service(1, &[(1, tenth + 2), (2, 1)]));
        }
        round(&mut reconciler, &port, now);
        if table(&port).1 == 5 {
            gone.get_or_insert(tenth);
        }
    }
    assert_eq!(gone, Some(100));
}

/// A drained server is empty: it is seen at the next look, not at the limit.
#[test]
fn an_empty_server_is_seen_whatever_else_changes() {
    let start = Instant::now();
    let drain = Drain::for_at_most(100 * SECOND);
    let (mut reconciler, port) = settled(Policy::new().drain(drain), services(3, TWO), start);
    let at = "10.1.2.2:80".parse().unwrap();
    port.kernel().set_connections(&key(2), &at, 1, 0);
    reconciler.insert(service(2, &[(1, 1)]));
    let mut gone = None;
    for tenth in 0..200u32 {
        let now = start + tenth * Duration::from_millis(100);
        if tenth % 3 == 0 {
            reconciler.insert(service(1, &[(1, tenth + 2), (2, 1)]));
        }
        if tenth == 20 {
            port.kernel().set_connections(&key(2), &at, 0, 0);
        }
        round(&mut reconciler, &port, now);
        if table(&port).1 == 5 {
            gone.get_or_insert(tenth);
        }
    }
    assert!(gone.is_some_and(|gone| gone <= 31), "{gone:?}");
}

/// A look at a drain tried the failing change of the same service each second.
#[test]
fn a_failing_service_with_a_drain_has_its_back_off() {
    let start = Instant::now();
    let drain = Drain::for_at_most(3600 * SECOND);
    let (mut reconciler, port) = settled(Policy::new().drain(drain), services(1, TWO), start);
    port.kernel().set_connections(&key(0), &"10.1.0.2:80".parse().unwrap(), 1, 0);
    reconciler.insert(service(0, &[(1, 1)]));
    round(&mut reconciler, &port, start);
    let bad = service(0, &[(1, 1)]).to_builder().scheduler("wrrr").build().unwrap();
    reconciler.insert(bad);
    port.take_writes();
    let mut tries = Vec::new();
    for tenth in 0..=1000u32 {
        round(&mut reconciler, &port, start + tenth * Duration::from_millis(100));
        if !port.take_writes().is_empty() {
            tries.push(tenth);
        }
    }
    assert_eq!(tries, [0, 10, 30, 70, 150, 310, 630]);
}

/// What is due for release but in back-off was planned again at once, for ever.
#[test]
fn a_release_waits_for_a_back_off() {
    let start = Instant::now();
    let (mut reconciler, port) = settled(guarded(3), services(8, TWO), start);
    // One service with its two real servers goes, and the limit is used up.
    reconciler.remove(&key(0));
    round(&mut reconciler, &port, start);
    // One real server of a service that fails is held back.
    let bad = service(7, &[(1, 1)]).to_builder().scheduler("wrrr").build().unwrap();
    reconciler.insert(bad);
    let mut rounds = 0;
    for tenth in 0..=1200u32 {
        let now = start + tenth * Duration::from_millis(100);
        for _ in 0..20 {
            if reconciler.due(now) > Some(now) {
                break;
            }
            round(&mut reconciler, &port, now);
            rounds += 1;
        }
    }
    assert!(rounds < 40, "{rounds} rounds in two minutes");
}

/// The clock of a drain ran while the drain could not begin.
#[test]
fn a_drain_has_its_time_from_when_it_begins() {
    let start = Instant::now();
    let drain = Drain::for_at_most(10 * SECOND);
    let (mut reconciler, port) = settled(Policy::new().drain(drain), services(1, TWO), start);
    port.kernel().set_connections(&key(0), &"10.1.0.2:80".parse().unwrap(), 1, 0);
    port.refuse(|write| matches!(write, Request::SetDestination(..)).then_some(Errno(5)));
    reconciler.set(services(1, &[(1, 1)]));
    let (mut began, mut gone) = (None, None);
    for tenth in 0..800u32 {
        if tenth == 200 {
            port.mend();
        }
        round(&mut reconciler, &port, start + tenth * Duration::from_millis(100));
        match table(&port) {
            (1, 2, 1) => drop(began.get_or_insert(tenth)),
            (1, 1, 1) => drop(gone.get_or_insert(tenth)),
            _ => {}
        }
    }
    assert_eq!((gone.unwrap() - began.unwrap()), 100, "{began:?} {gone:?}");
}

/// A claim that was never stored was waited for after its service was gone.
#[test]
fn a_claim_that_is_not_needed_is_forgotten() {
    let now = Instant::now();
    let policy = Policy::new().scope(Scope::Ledger(Ledger::new()));
    let (mut reconciler, port) = settled(policy, services(1, TWO), now);
    reconciler.insert(service(7, &[]));
    reconciler.remove(&key(7));
    reconciler.resync();
    round(&mut reconciler, &port, now);
    reconciler.store(|_| Ok(())).unwrap();
    round(&mut reconciler, &port, now);
    assert_eq!(reconciler.status().in_effect, reconciler.generation());
    assert!(reconciler.is_settled());
    // Nor does the end of a program wait for it.
    reconciler.insert(service(8, &[]));
    reconciler.drain_all(Drain::for_at_most(SECOND));
    let mut later = now;
    for _ in 0..10 {
        later = reconciler.due(later).unwrap();
        round(&mut reconciler, &port, later);
    }
    assert!(reconciler.is_settled());
}

/// What was stored is what is on the disk, in whatever order it is said.
#[test]
fn an_older_ledger_takes_claims_back() {
    let now = Instant::now();
    let policy = Policy::new().scope(Scope::Ledger(Ledger::new()));
    let (mut reconciler, port) = settled(policy, services(2, TWO), now);
    reconciler.remove(&key(1));
    reconciler.resync();
    round(&mut reconciler, &port, now);
    reconciler.resync();
    round(&mut reconciler, &port, now);
    // It is being stored, and meanwhile it comes again.
    let without = reconciler.unstored().unwrap().clone();
    reconciler.insert(service(1, &[]));
    reconciler.stored(without);
    round(&mut reconciler, &port, now);
    assert!(reconciler.unstored().is_some());
    assert_eq!(table(&port).0, 1, "not written before its claim is stored");
    reconciler.store(|_| Ok(())).unwrap();
    round(&mut reconciler, &port, now);
    assert_eq!(table(&port).0, 2);
}

/// A confirmed service asked for a second confirmation of its real servers of weight 0.
#[test]
fn a_service_is_held_back_with_all_its_real_servers() {
    let start = Instant::now();
    let policy = guarded(3).drain(Drain::for_at_most(5 * SECOND).services(true));
    let (mut reconciler, port) = settled(policy, services(20, &[(1, 1), (2, 0)]), start);
    for number in 0..20 {
        let at = format!("10.1.{number}.1:80").parse().unwrap();
        port.kernel().set_connections(&key(number), &at, 1, 0);
    }
    reconciler.set(Desired::new());
    round(&mut reconciler, &port, start);
    assert_eq!(reconciler.status().held_back, 60);
    let held_back = reconciler.held_back();
    reconciler.confirm(&held_back);
    for second in 0..10 {
        round(&mut reconciler, &port, start + second * SECOND);
    }
    assert_eq!((table(&port).0, reconciler.status().held_back), (0, 0));
}

/// Half of a confirmed change failed, and the rest had to be confirmed again.
#[test]
fn a_confirmation_lasts_until_all_of_it_is_done() {
    let now = Instant::now();
    let (mut reconciler, port) = settled(guarded(0), services(1, TWO), now);
    reconciler.set(services(1, &[]));
    round(&mut reconciler, &port, now);
    let held_back = reconciler.held_back();
    assert_eq!(held_back.len(), 3);
    reconciler.confirm(&held_back);
    port.refuse(|write| match write {
        Request::DeleteDestination(_, at) if at.to_string().contains("0.2") => Some(Errno(5)),
        _ => None,
    });
    round(&mut reconciler, &port, now);
    assert_eq!(table(&port).1, 1);
    port.mend();
    round(&mut reconciler, &port, now + 2 * SECOND);
    assert_eq!((table(&port).1, reconciler.status().held_back), (0, 0));
}

/// With a relative limit, nothing went before the second whole round: the table was empty.
#[test]
fn a_part_of_the_table_is_of_what_was_added_since() {
    let now = Instant::now();
    let (mut reconciler, port) = settled(guarded(Limit::percent(50)), services(100, TWO), now);
    reconciler.remove(&key(7));
    round(&mut reconciler, &port, now + SECOND);
    assert_eq!((table(&port).0, reconciler.status().held_back), (99, 0));
}

/// A weight that could not be given back stayed 0.
#[test]
fn a_kept_weight_is_given_back_after_a_failure() {
    let now = Instant::now();
    let policy = Policy::new().keep_weights(|_, _| true).drain(Drain::for_at_most(60 * SECOND));
    let (mut reconciler, port) = settled(policy, services(1, TWO), now);
    port.kernel().set_connections(&key(0), &"10.1.0.2:80".parse().unwrap(), 1, 0);
    reconciler.insert(service(0, &[(1, 1)]));
    round(&mut reconciler, &port, now);
    assert_eq!(table(&port), (1, 2, 1));
    reconciler.insert(service(0, TWO));
    port.refuse(|_| Some(Errno(5)));
    round(&mut reconciler, &port, now);
    port.mend();
    round(&mut reconciler, &port, now + 2 * SECOND);
    assert_eq!(table(&port), (1, 2, 2));
}

/// What is on hold is not in effect.
#[test]
fn what_is_on_hold_is_not_in_effect() {
    let now = Instant::now();
    let (mut reconciler, port) = settled(Policy::new(), services(2, TWO), now);
    reconciler.hold([key(2)]);
    reconciler.set(services(3, TWO));
    round(&mut reconciler, &port, now);
    assert_eq!(table(&port).0, 2);
    assert!(reconciler.status().in_effect < reconciler.generation());
    assert!(!reconciler.is_settled());
}

/// The window at its edges, with a clock that goes back.
#[test]
fn the_window_has_edges() {
    let start = Instant::now() + 1000 * SECOND;
    let (mut reconciler, port) = settled(guarded(3), services(20, &[]), start);
    let mut log = Vec::new();
    for (number, at) in [(0, 0), (1, 30), (2, 59), (3, 59), (4, 10)] {
        reconciler.remove(&key(number));
        round(&mut reconciler, &port, start + at * SECOND);
        log.push(20 - table(&port).0);
    }
    assert_eq!((log, reconciler.status().held_back), (vec![1, 2, 3, 3, 3], 2));
    // Two are within the limit when the first two of the window are over, and not a moment before.
    let over = start + 90 * SECOND;
    for (now, left) in [(over - Duration::from_nanos(1), 17), (over, 15)] {
        round(&mut reconciler, &port, now);
        assert_eq!(table(&port).0, left);
    }
}

#[test]
fn forever_is_no_problem() {
    let start = Instant::now();
    let max = Duration::MAX;
    let drain = Drain::for_at_most(max).look_every(max);
    let policy = guarded(Limit::number(3).per(max)).drain(drain);
    let port = Scripted::new(Kernel::new());
    let mut reconciler = super::Reconciler::new(policy).resync_every(max).back_off(max, max);
    reconciler.set(services(9, TWO));
    round(&mut reconciler, &port, start);
    reconciler.set(services(9, &[(1, 1)]));
    round(&mut reconciler, &port, start);
    assert_eq!(reconciler.status().held_back, 9);
    reconciler.set(services(8, TWO));
    round(&mut reconciler, &port, start);
    assert_eq!(table(&port).0, 8);
    port.set_unavailable(true);
    reconciler.resync();
    round(&mut reconciler, &port, start);
    assert!(reconciler.due(start).unwrap() > start);
}
