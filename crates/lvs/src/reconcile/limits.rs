//! What a limit promises over confirmations, restarts and changes of the policy, on the model.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{collections::BTreeSet, time::Instant};

use ipvs_client::packet::Request;

use super::{
    Reconciler,
    laws::{SECOND, TWO, guarded, key, round, service, services, settled, table},
};
use crate::{
    Desired, Drain, Ledger, Limit, Policy, RemovalKind, Scope, block_on,
    model::{Errno, Kernel, Scripted},
};

fn owned(ledger: Ledger) -> Policy {
    Policy::new().scope(Scope::Ledger(ledger)).max_deletions(3)
}

fn store(reconciler: &mut Reconciler, disk: &mut String) {
    let write = |ledger: &Ledger| {
        *disk = ledger.to_string();
        Ok(())
    };
    reconciler.store(write).unwrap();
}

/// Before: removed 3 at a time with a limit of 3, all 60 were gone and nothing was ever held back.
#[test]
fn a_limit_is_over_time() {
    let start = Instant::now();
    let (mut reconciler, port) = settled(guarded(3), services(60, &[]), start);
    let mut now = start;
    for number in 0..60 {
        reconciler.remove(&key(number));
        if number % 3 == 2 {
            now += SECOND;
            round(&mut reconciler, &port, now);
        }
    }
    assert_eq!((table(&port).0, reconciler.status().held_back), (57, 57));
    // A few that are within the limit later go then.
    let (mut reconciler, port) = settled(guarded(3), services(60, &[]), start);
    for (number, left) in [(0, 59), (1, 58), (2, 57), (3, 57)] {
        reconciler.remove(&key(number));
        round(&mut reconciler, &port, start + u32::from(number) * SECOND);
        assert_eq!(table(&port).0, left);
    }
    assert_eq!(reconciler.status().held_back, 1);
    let due = reconciler.due(start + 40 * SECOND).unwrap();
    assert!(due <= start + 60 * SECOND);
    round(&mut reconciler, &port, start + 60 * SECOND);
    assert_eq!((table(&port).0, reconciler.status().held_back), (56, 0));
}

/// Before: a relative limit did not exist, and none was over the table.
#[test]
fn a_part_of_the_table_is_of_what_there_was() {
    let now = Instant::now();
    let (mut reconciler, port) = settled(guarded(Limit::percent(50)), services(100, &[]), now);
    for number in 0..100 {
        reconciler.remove(&key(number));
        round(&mut reconciler, &port, now + SECOND);
        reconciler.resync();
        round(&mut reconciler, &port, now + SECOND);
    }
    assert_eq!((table(&port).0, reconciler.status().held_back), (50, 50));
}

/// A plan that is confirmed between the halves counted in a memory of its own: the reconciler held back
/// still what was gone, and looked at none of the drains.
#[test]
fn a_plan_is_confirmed_between_the_halves() {
    let now = Instant::now();
    let drain = Drain::for_at_most(10 * SECOND);
    let (mut reconciler, port) = settled(guarded(1).drain(drain), services(4, TWO), now);
    for number in 0..4 {
        let at = format!("10.1.{number}.2:80").parse().unwrap();
        port.kernel().set_connections(&key(number), &at, 1, 0);
    }
    reconciler.set(services(4, &[(1, 1)]));
    let turn = reconciler.turn(now).unwrap();
    let read = block_on(turn.read(&port)).unwrap();
    let plan = reconciler.plan(&turn, &read, now).confirm();
    assert_eq!(plan.len(), 4);
    assert_eq!(reconciler.held_back().len(), 4, "confirmed is what is applied");
    let result = block_on(plan.apply(&port));
    reconciler.finish(&turn, &result, now);
    assert_eq!((reconciler.status().held_back, reconciler.draining().len()), (0, 4));
    assert_eq!(reconciler.due(now), Some(now + SECOND));
    round(&mut reconciler, &port, now + 10 * SECOND);
    assert_eq!((table(&port), reconciler.status().held_back), ((4, 4, 4), 0));
}

/// What a plan of one service confirms is that service's.
#[test]
fn a_confirmed_plan_confirms_its_own() {
    let now = Instant::now();
    let (mut reconciler, port) = settled(guarded(1), services(4, TWO), now);
    reconciler.set(services(4, &[(1, 1)]));
    round(&mut reconciler, &port, now);
    reconciler.insert(service(0, &[(1, 2)]));
    let turn = reconciler.turn(now).unwrap();
    let read = block_on(turn.read(&port)).unwrap();
    let plan = reconciler.plan(&turn, &read, now).confirm();
    let result = block_on(plan.apply(&port));
    reconciler.finish(&turn, &result, now);
    reconciler.resync();
    round(&mut reconciler, &port, now);
    assert_eq!((table(&port).1, reconciler.status().held_back), (7, 3));
}

/// A program that is started again and again took away as much each time.
#[test]
fn a_restart_does_not_begin_the_window_again() {
    let start = Instant::now();
    let (mut reconciler, port) = settled(owned(Ledger::new()), services(20, &[]), start);
    let mut disk = reconciler.ledger().unwrap().to_string();
    let all = reconciler.desired().clone();
    for second in 0..10u8 {
        // Each one removes three, and is killed after the round, or before it is over.
        let now = start + u32::from(second) * SECOND;
        reconciler = Reconciler::new(owned(disk.parse().unwrap()));
        let mut desired = all.clone();
        for number in 0..(3 * (second + 1)).min(20) {
            desired.remove(&key(number));
        }
        reconciler.set(desired);
        for _ in 0..3 {
            store(&mut reconciler, &mut disk);
            round(&mut reconciler, &port, now);
        }
    }
    assert_eq!(table(&port).0, 17);
    assert!(disk.starts_with("lvs-ledger 2\n") && disk.contains("\ntaken 3\n"), "{disk}");
    assert_eq!(reconciler.status().held_back, 17, "and says so");
    // The window of the last one is over, and so is what the ledger says of it.
    let mut fewer = all;
    (0..4).map(key).for_each(|gone| assert!(fewer.remove(&gone)));
    reconciler.set(fewer);
    for second in [70, 140, 210] {
        round(&mut reconciler, &port, start + second * SECOND);
        store(&mut reconciler, &mut disk);
    }
    round(&mut reconciler, &port, start + 211 * SECOND);
    assert_eq!(table(&port).0, 16);
    assert!(!disk.contains("taken"), "{disk}");
}

/// Nothing is taken away that the stored ledger does not speak of.
#[test]
fn a_removal_waits_until_its_count_is_stored() {
    let now = Instant::now();
    let (mut reconciler, port) = settled(owned(Ledger::new()), services(5, &[]), now);
    reconciler.remove(&key(0));
    round(&mut reconciler, &port, now);
    assert_eq!((table(&port).0, reconciler.status().held_back), (5, 0));
    assert!(!reconciler.is_settled() && reconciler.status().in_effect < reconciler.generation());
    assert_eq!(reconciler.unstored().unwrap().taken(), 1);
    assert!(reconciler.due(now) > Some(now), "it does not spin");
    reconciler.store(|_| Ok(())).unwrap();
    assert_eq!(round(&mut reconciler, &port, now), Some(1));
    assert_eq!(table(&port).0, 4);
    assert!(reconciler.is_settled());
}

/// A confirmation of services only let nothing go, and did not say why.
#[test]
fn a_service_that_is_confirmed_goes_with_its_real_servers() {
    let now = Instant::now();
    for drains in [false, true] {
        let drain = Drain::for_at_most(SECOND).services(true);
        let policy = if drains { guarded(1).drain(drain) } else { guarded(1) };
        let (mut reconciler, port) = settled(policy, services(6, TWO), now);
        reconciler.set(Desired::new());
        round(&mut reconciler, &port, now);
        let held_back = reconciler.held_back();
        assert_eq!(held_back.services().len(), 6);
        // Real servers alone do not take their service along.
        let servers = held_back.filter(|it| it.service == key(5) && it.real_server.is_some());
        let stays = reconciler.confirm(&servers);
        assert_eq!(stays.len(), if drains { 1 } else { 2 });
        let of_two = |kind| held_back.filter(|it| it.kind == kind && it.service < key(2));
        assert!(reconciler.confirm(&of_two(RemovalKind::Service)).is_empty());
        for second in 0..5 {
            round(&mut reconciler, &port, now + second * SECOND);
        }
        assert_eq!(table(&port).0, 4);
    }
    // So does one that is left without a usable real server.
    let (mut reconciler, port) = settled(guarded(1), services(6, TWO), now);
    reconciler.set(services(6, &[]));
    round(&mut reconciler, &port, now);
    let held_back = reconciler.held_back();
    let usable = held_back.filter(|it| it.kind == RemovalKind::Usable && it.service == key(0));
    assert!(reconciler.confirm(&usable).is_empty());
    round(&mut reconciler, &port, now);
    assert_eq!(table(&port), (6, 10, 10));
}

/// A source that took away and added by turns made the table seem larger each time.
#[test]
fn a_flapping_source_is_allowed_no_more() {
    let start = Instant::now();
    let policy = guarded(Limit::percent(50));
    let (mut reconciler, port) = settled(policy, services(100, &[]), start - 100 * SECOND);
    reconciler.resync();
    round(&mut reconciler, &port, start);
    let mut gone = BTreeSet::new();
    let mut removals = 0;
    for flap in 0..50u8 {
        let now = start + u32::from(flap) * SECOND;
        for number in 0..30 {
            reconciler.remove(&key(number + flap));
        }
        round(&mut reconciler, &port, now);
        let left = port.kernel().snapshot();
        gone.extend((0..100).filter(|number| left.service(&key(*number)).is_none()));
        removals += 100 - table(&port).0;
        reconciler.set(services(100, &[]));
        round(&mut reconciler, &port, now);
        assert_eq!(table(&port).0, 100);
    }
    assert_eq!((removals, gone.len()), (30, 30));
}

/// What was confirmed made the table seem as large as before.
#[test]
fn what_was_confirmed_is_no_part_of_the_table() {
    let start = Instant::now();
    let policy = guarded(Limit::percent(50));
    let (mut reconciler, port) = settled(policy, services(100, &[]), start - 100 * SECOND);
    reconciler.resync();
    round(&mut reconciler, &port, start);
    reconciler.set(services(20, &[]));
    round(&mut reconciler, &port, start);
    let held_back = reconciler.held_back();
    assert_eq!(held_back.len(), 80);
    reconciler.confirm(&held_back);
    round(&mut reconciler, &port, start);
    assert_eq!(table(&port).0, 20);
    for number in 0..20 {
        reconciler.remove(&key(number));
        round(&mut reconciler, &port, start + SECOND);
    }
    assert_eq!((table(&port).0, reconciler.status().held_back), (10, 10));
}

/// What was drained without a limit was counted, and held back, when a limit came.
#[test]
fn a_limit_that_comes_later_lets_a_drain_end() {
    let start = Instant::now();
    let drain = || Drain::for_at_most(10 * SECOND);
    let (mut reconciler, port) = settled(Policy::new().drain(drain()), services(9, TWO), start);
    for number in 0..9 {
        let at = format!("10.1.{number}.2:80").parse().unwrap();
        port.kernel().set_connections(&key(number), &at, 1, 0);
    }
    reconciler.set(services(9, &[(1, 1)]));
    round(&mut reconciler, &port, start);
    assert_eq!(table(&port), (9, 18, 9));
    reconciler.set_policy(guarded(1).drain(drain()));
    for second in 0..=11 {
        round(&mut reconciler, &port, start + second * SECOND);
    }
    assert_eq!((table(&port), reconciler.status().held_back), ((9, 9, 9), 0));
}

/// What was planned without a limit, and not done, is not confirmed.
#[test]
fn a_limit_that_comes_later_counts_what_failed() {
    let start = Instant::now();
    let drain = || Drain::for_at_most(10 * SECOND);
    let policy = |policy: Policy| policy.scope(Scope::All).drain(drain());
    let (mut reconciler, port) = settled(policy(Policy::new()), services(9, TWO), start);
    port.refuse(|_| Some(Errno(5)));
    reconciler.set(services(9, &[(1, 1)]));
    round(&mut reconciler, &port, start);
    port.mend();
    reconciler.set_policy(policy(guarded(1)));
    round(&mut reconciler, &port, start);
    assert_eq!((table(&port), reconciler.status().held_back), ((9, 18, 18), 9));
}

/// What was let go and not carried out counts when it is, and not when it was planned.
#[test]
fn what_failed_counts_when_it_is_done() {
    let start = Instant::now();
    let (mut reconciler, port) = settled(guarded(3), services(20, &[]), start);
    port.refuse(|_| Some(Errno(5)));
    (0..3).for_each(|number| reconciler.remove(&key(number)));
    round(&mut reconciler, &port, start);
    assert_eq!(table(&port).0, 20);
    // A minute later the first three are tried again, beside three others.
    let later = start + 61 * SECOND;
    port.mend();
    (3..6).for_each(|number| reconciler.remove(&key(number)));
    round(&mut reconciler, &port, later);
    assert_eq!((table(&port).0, reconciler.status().held_back), (20, 6));
    // Three are within the limit.
    (3..6).for_each(|number| reconciler.insert(service(number, &[])));
    round(&mut reconciler, &port, later);
    reconciler.resync();
    round(&mut reconciler, &port, later);
    assert_eq!((table(&port).0, reconciler.status().held_back), (17, 0));
}

/// Another program's writes between are no reason to wait, and none to forget.
#[test]
fn a_window_is_kept_while_the_ledger_cannot_be_stored() {
    let now = Instant::now();
    let port = Scripted::new(Kernel::new());
    let mut reconciler = Reconciler::new(owned(Ledger::new()));
    reconciler.set(services(9, &[]));
    reconciler.store(|_| Ok(())).unwrap();
    round(&mut reconciler, &port, now);
    reconciler.remove(&key(0));
    for second in 0..120 {
        let full = std::io::ErrorKind::StorageFull;
        let _ = reconciler.store(|_| Err(full.into()));
        round(&mut reconciler, &port, now + second * SECOND);
    }
    assert_eq!(table(&port).0, 9);
    // What others deleted needs no count.
    port.kernel().execute(&Request::DeleteService(key(0))).unwrap();
    reconciler.resync();
    round(&mut reconciler, &port, now + 130 * SECOND);
    reconciler.resync();
    round(&mut reconciler, &port, now + 130 * SECOND);
    assert_eq!(reconciler.unstored().unwrap().taken(), 0);
    reconciler.store(|_| Ok(())).unwrap();
    assert!(reconciler.is_settled());
}
