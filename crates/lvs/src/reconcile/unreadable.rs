//! Services and real servers that cannot be read are left as they are, whatever is desired.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{collections::BTreeSet, time::Instant};

use ipvs_client::packet::{DestinationKey, Request, ServiceKey};
use proptest::{collection::btree_set, prelude::*};

use super::laws::{SECOND, TWO, guarded, key, round, service, services, settled};
use crate::{
    Desired, Drain, Invalid, Ledger, Plan, Policy, Rule, Scope, block_on,
    model::{Kernel, Scripted},
};

fn server(number: u8, host: u8) -> DestinationKey {
    format!("10.1.{number}.{host}:80").parse().unwrap()
}

fn service_of(write: &Request) -> ServiceKey {
    match write {
        Request::NewService(service) | Request::SetService(service) => *service.key(),
        Request::DeleteService(key)
        | Request::NewDestination(key, _)
        | Request::SetDestination(key, _)
        | Request::DeleteDestination(key, _) => *key,
        other => panic!("{other:?}"),
    }
}

/// Each of them differs from what is desired: by its weights, by a real server too many, by being there
/// at all.
#[test]
fn nothing_of_them_is_written_and_the_rest_is() {
    let start = Instant::now();
    let policy = Policy::new().scope(Scope::All);
    let (mut reconciler, port) = settled(policy, services(5, TWO), start);
    port.take_writes();
    port.set_unreadable([
        (key(0), None),
        (key(1), Some(server(1, 2))),
        (key(2), None),
        (key(3), Some(server(3, 1))),
    ]);
    // 0 and 1 get other weights, 2 and 3 are not desired any more.
    reconciler.set(
        [0, 1, 4]
            .map(|it| service(it, &[(1, 7)]))
            .into_iter()
            .collect::<Result<Desired, _>>()
            .unwrap(),
    );
    let round = block_on(reconciler.round(&port, start + SECOND)).unwrap();
    let touched: BTreeSet<_> = port.take_writes().iter().map(service_of).collect();
    assert_eq!(touched, BTreeSet::from([key(4)]));
    let error = round.result.unwrap_err();
    assert_eq!(error.applied().unwrap().unreadable().count(), 4);
    let text = error.to_string();
    for named in [
        "service -t 10.0.1.0:80 cannot be read: the script says so; its service is left as it is\n",
        "destination 10.1.1.2:80 of service -t 10.0.1.1:80 cannot be read",
        "changes made: 2, failed: 0, not tried: 0",
    ] {
        assert!(text.contains(named), "{text}");
    }
    assert!(reconciler.status().in_effect < reconciler.generation());
    // They can be read again: each is tried again by itself.
    port.set_unreadable([]);
    let mut now = start + SECOND;
    for _ in 0..5 {
        now += 4 * SECOND;
        super::laws::round(&mut reconciler, &port, now);
    }
    assert_eq!(port.kernel().snapshot().services.len(), 3);
    assert_eq!(reconciler.status().in_effect, reconciler.generation());
}

/// A round about one service reads it by itself.
#[test]
fn a_round_about_one_leaves_it_too() {
    let start = Instant::now();
    for entry in [(key(1), None), (key(1), Some(server(1, 2)))] {
        let (mut reconciler, port) = settled(Policy::new(), services(3, TWO), start);
        port.take_writes();
        port.set_unreadable([entry]);
        reconciler.insert(service(1, &[(9, 1)]));
        reconciler.insert(service(2, &[(9, 1)]));
        let round = block_on(reconciler.round(&port, start + SECOND)).unwrap();
        assert_eq!(round.services().map(BTreeSet::len), Some(2));
        let touched: BTreeSet<_> = port.take_writes().iter().map(service_of).collect();
        assert_eq!(touched, BTreeSet::from([key(2)]));
        assert!(round.result.is_err());
        // One service, without a reconciler.
        let error = block_on(service(1, &[(9, 1)]).apply(&port)).unwrap_err();
        assert!(error.to_string().contains("cannot be read"), "{error}");
        assert!(port.take_writes().is_empty());
    }
}

/// What is owned and cannot be read stays owned, and a drain's clock goes on.
#[test]
fn nothing_is_forgotten_of_them() {
    let start = Instant::now();
    let policy =
        Policy::new().drain(Drain::for_at_most(10 * SECOND)).scope(Scope::Ledger(Ledger::new()));
    let (mut reconciler, port) = settled(policy, services(2, TWO), start);
    reconciler.store(|_| Ok(())).unwrap();
    port.kernel().set_connections(&key(0), &server(0, 2), 1, 0);
    reconciler.insert(service(0, &[(1, 1)]));
    round(&mut reconciler, &port, start);
    assert_eq!(reconciler.status().draining, 1);
    reconciler.remove(&key(1));
    port.set_unreadable([(key(0), None), (key(1), None)]);
    for second in 1..9 {
        round(&mut reconciler, &port, start + second * SECOND);
        reconciler.resync();
    }
    assert_eq!(port.kernel().snapshot().services.len(), 2);
    assert!(reconciler.ledger().is_some_and(|ledger| ledger.contains(&key(1))));
    port.set_unreadable([]);
    reconciler.resync();
    round(&mut reconciler, &port, start + 11 * SECOND);
    let table = port.kernel().snapshot();
    assert_eq!(table.services.keys().collect::<Vec<_>>(), [&key(0)]);
    assert_eq!(table.services[&key(0)].destinations.len(), 1, "its time was over");
}

/// Somebody else's concern nobody, where the policy leaves them alone.
#[test]
fn those_of_others_are_not_named() {
    let start = Instant::now();
    let (mut reconciler, port) = settled(Policy::new(), services(2, TWO), start);
    reconciler.remove(&key(1));
    port.set_unreadable([(key(1), None)]);
    reconciler.resync();
    let round = block_on(reconciler.round(&port, start + SECOND)).unwrap();
    assert_eq!(round.result.unwrap().unreadable().count(), 0);
}

/// A table that is not known whole is not taken for what should be.
#[test]
fn no_desired_state_is_made_of_half_a_table() {
    let (_, port) = settled(Policy::new(), services(2, TWO), Instant::now());
    port.set_unreadable([(key(1), Some(server(1, 1)))]);
    let table = block_on(crate::Table::read(&port)).unwrap();
    assert!(
        !table.is_complete() && table.to_string().contains("Not shown: destination 10.1.1.1:80")
    );
    let refused: Invalid = Desired::try_from(&table.snapshot).unwrap_err();
    assert_eq!(refused.violations()[0].rule(), Rule::Unreadable);
    let plan = Plan::new(&services(2, TWO), &table.snapshot, &guarded(1));
    assert!(plan.is_empty() && plan.to_string().starts_with("# destination 10.1.1.1:80"), "{plan}");
}

proptest! {
    /// Whatever is there and desired, nothing is written of what cannot be read, and of all else
    /// everything.
    #[test]
    fn what_cannot_be_read_is_never_written(
        present in btree_set(0..6u8, 0..6),
        wanted in btree_set(0..6u8, 0..6),
        odd in btree_set((0..6u8, prop::option::of(1..3u8)), 0..4),
        all in any::<bool>(),
    ) {
        let start = Instant::now();
        let scope = if all { Scope::All } else { Scope::Named };
        let make = |numbers: &BTreeSet<u8>, weight| {
            let services = numbers.iter().map(|it| service(*it, &[(1, weight), (2, 1)]));
            services.collect::<Result<Desired, _>>().unwrap()
        };
        let port = Scripted::new(Kernel::new());
        block_on(make(&present, 1).apply(&port, &Policy::new())).unwrap();
        port.take_writes();
        port.set_unreadable(odd.iter().map(|(it, host)| (key(*it), host.map(|host| server(*it, host)))));
        let is_odd = |it: &u8| present.contains(it) && odd.iter().any(|(odd, _)| odd == it);
        let mut reconciler = super::Reconciler::new(Policy::new().scope(scope));
        let desired = make(&wanted, 3);
        reconciler.set(desired.clone());
        for second in 0..20 {
            round(&mut reconciler, &port, start + second * SECOND);
        }
        for write in port.take_writes() {
            let number = (0..6).find(|it| key(*it) == service_of(&write)).unwrap();
            prop_assert!(!is_odd(&number), "{write:?}");
        }
        let table = port.kernel().snapshot();
        for it in (0..6).filter(|it| !is_odd(it)) {
            let found = table.service(&key(it));
            let same = desired.get(&key(it)).is_none_or(|wanted| {
                found.is_some_and(|found| found.destinations.iter().map(|entry| &entry.destination).eq(wanted.destinations()))
            });
            prop_assert!(same);
            let stays = wanted.contains(&it) || present.contains(&it) && !all;
            prop_assert_eq!(found.is_some(), stays);
        }
    }
}
