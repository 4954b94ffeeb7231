//! The laws of plans, held against the model of the kernel.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{
    collections::BTreeSet,
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use ipvs_client::{
    ServiceSnapshot,
    packet::{Destination, ServiceKey, Weight},
};
use proptest::prelude::*;

use crate::{
    Action, Applied, ApplyError, Change, Desired, Drain, Ledger, Phase, Plan, Policy, Scope,
    block_on,
    model::{Errno, Kernel, Scripted},
    strategy,
};

/// Whether the desired services are as they should be.
fn agrees(kernel: &Kernel, desired: &Desired) -> bool {
    let table = kernel.snapshot();
    desired.iter().all(|wanted| {
        table.service(wanted.key()).is_some_and(|found| {
            found.entry.service == *wanted.service()
                && found
                    .destinations
                    .iter()
                    .map(|entry| &entry.destination)
                    .eq(wanted.destinations())
        })
    })
}

fn usable(kernel: &Kernel, key: &ServiceKey) -> bool {
    kernel.snapshot().service(key).is_some_and(|service| {
        service.destinations.iter().any(|entry| entry.destination.weight != Weight::ZERO)
    })
}

/// How many services and real servers differ, where a service that is not there is as many as it
/// has, and one that is not wanted is one: each takes a write of its own.
fn differences(kernel: &Kernel, desired: &Desired, scope_is_all: bool) -> usize {
    let table = kernel.snapshot();
    let mut count = 0;
    for wanted in desired.iter() {
        let Some(found) = table.service(wanted.key()) else {
            count += 1 + wanted.destinations().len();
            continue;
        };
        count += usize::from(found.entry.service != *wanted.service());
        for destination in wanted.destinations() {
            let same =
                |entry: &ipvs_client::packet::DestinationEntry| entry.destination == *destination;
            count += usize::from(!found.destination(&destination.key).is_some_and(same));
        }
        count += found
            .destinations
            .iter()
            .filter(|entry| wanted.destination(&entry.destination.key).is_none())
            .count();
    }
    if scope_is_all {
        count += table.services.keys().filter(|key| desired.get(key).is_none()).count();
    }
    count
}

/// Carries a plan out, up to this many calls; `None` where it was dropped then.
fn run(plan: Plan, port: &Scripted, calls: usize) -> Option<Result<Applied, ApplyError>> {
    port.yield_times(1);
    let mut apply = pin!(plan.apply(port));
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..=calls {
        if let Poll::Ready(result) = apply.as_mut().poll(&mut context) {
            return Some(result);
        }
    }
    None
}

/// How many services and real servers a desired state takes away, and how many services it leaves
/// without a usable one, with the weights that do that.
fn removals(kernel: &Kernel, desired: &Desired) -> usize {
    let is_usable = |destination: &Destination| destination.weight != Weight::ZERO;
    let table = kernel.snapshot();
    let of_service = |found: &ServiceSnapshot| {
        let Some(wanted) = desired.get(found.entry.service.key()) else {
            return 1 + found.destinations.len();
        };
        let present = found.destinations.iter().map(|entry| &entry.destination);
        let gone = present.clone().filter(|it| wanted.destination(&it.key).is_none()).count();
        let had = present.clone().any(is_usable);
        if !had || wanted.destinations().iter().any(is_usable) {
            return gone;
        }
        let stays = |it: &&Destination| is_usable(it) && wanted.destination(&it.key).is_some();
        gone + 1 + present.filter(stays).count()
    };
    table.services.values().map(of_service).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// A plan gives the desired state, in the fewest writes, and then there is none.
    #[test]
    fn a_plan_gives_the_desired_state(
        kernel in strategy::kernel(),
        desired in strategy::desired(),
        all in any::<bool>(),
    ) {
        let policy = Policy::new().scope(if all { Scope::All } else { Scope::Named });
        let mut kernel = kernel;
        let before = kernel.clone();
        let plan = Plan::new(&desired, &kernel.snapshot(), &policy);
        prop_assert_eq!(plan.len(), differences(&kernel, &desired, all), "{}", plan);
        for request in plan.requests() {
            prop_assert_eq!(kernel.execute(&request), Ok(()), "{:?}", request);
        }
        prop_assert!(agrees(&kernel, &desired));
        prop_assert!(Plan::new(&desired, &kernel.snapshot(), &policy).is_empty());
        let keys: Vec<ServiceKey> = kernel.snapshot().services.into_keys().collect();
        for key in before.snapshot().services.keys() {
            let stays = !all || desired.get(key).is_some();
            prop_assert_eq!(keys.contains(key), stays, "{}", key);
        }
    }

    /// No service is without a usable real server that had one before and has one after, and none is
    /// away that stays.
    #[test]
    fn a_service_is_never_without(
        kernel in strategy::kernel(),
        desired in strategy::desired(),
        drained in any::<bool>(),
    ) {
        let mut policy = Policy::new().scope(Scope::All);
        if drained {
            policy = policy.drain(Drain::for_at_most(std::time::Duration::ZERO));
        }
        let plan = Plan::new(&desired, &kernel.snapshot(), &policy);
        let mut after = kernel.clone();
        plan.requests().for_each(|request| after.execute(&request).unwrap());
        let had_and_has: Vec<ServiceKey> = desired
            .keys()
            .copied()
            .filter(|key| usable(&kernel, key) && usable(&after, key))
            .collect();
        let mut kernel = kernel;
        for request in plan.requests() {
            kernel.execute(&request).unwrap();
            for key in &had_and_has {
                prop_assert!(usable(&kernel, key), "{} after {:?} of\n{}", key, request, plan);
            }
        }
    }

    /// The phases come in order, and each holds what its name says.
    #[test]
    fn phases_are_in_order(kernel in strategy::kernel(), desired in strategy::desired()) {
        let plan = Plan::new(&desired, &kernel.snapshot(), &Policy::new().scope(Scope::All));
        for phase in Phase::ALL {
            for change in plan.phase(phase) {
                let right = match change.action() {
                    Action::AddService { .. } | Action::UpdateService { .. } => Phase::Services,
                    Action::AddRealServer { .. } => Phase::RealServers,
                    Action::UpdateRealServer { before, after }
                        if after.weight == Weight::ZERO && before.weight != Weight::ZERO =>
                    {
                        Phase::Drain
                    }
                    Action::UpdateRealServer { .. } => Phase::RealServers,
                    Action::DrainRealServer { .. } => Phase::Drain,
                    Action::DeleteService { .. } | Action::DeleteRealServer { .. } => Phase::TakeAway,
                };
                prop_assert_eq!(phase, right, "{}", change);
            }
        }
        let lines = plan.to_string();
        prop_assert_eq!(lines.lines().count(), plan.len());
        prop_assert_eq!(plan.command_lines().to_string().lines().count(), plan.len());
    }

    /// What is planned for each service alone is what is planned for all.
    #[test]
    fn parts_make_the_whole(kernel in strategy::kernel(), desired in strategy::desired()) {
        let policy = Policy::new().scope(Scope::All);
        let table = kernel.snapshot();
        let keys: BTreeSet<ServiceKey> =
            desired.keys().chain(table.services.keys()).copied().collect();
        let whole = Plan::new(&desired, &table, &policy);
        prop_assert_eq!(&Plan::of_services(&keys, &desired, &table, &policy), &whole);
        let mut count = 0;
        for key in keys {
            count += Plan::of_services(&[key].into(), &desired, &table, &policy).len();
        }
        prop_assert_eq!(count, whole.len());
    }

    /// A table that is taken for what should be needs nothing.
    #[test]
    fn a_snapshot_agrees_with_itself(desired in strategy::desired()) {
        let mut kernel = Kernel::new();
        let plan = Plan::new(&desired, &kernel.snapshot(), &Policy::new());
        plan.requests().for_each(|request| kernel.execute(&request).unwrap());
        prop_assert_eq!(Desired::try_from(&kernel.snapshot()).unwrap(), desired);
    }

    /// More deletions than allowed are held back, all of them, and nothing else is.
    #[test]
    fn many_deletions_are_held_back(
        kernel in strategy::kernel(),
        desired in strategy::desired(),
        allowed in 0..4usize,
    ) {
        let policy = Policy::new().scope(Scope::All);
        let table = kernel.snapshot();
        let free = Plan::new(&desired, &table, &policy);
        let counted = removals(&kernel, &desired);
        let plan = Plan::new(&desired, &table, &policy.max_deletions(allowed));
        if counted <= allowed {
            prop_assert_eq!(plan, free);
        } else {
            prop_assert_eq!(plan.held_back_count(), counted);
            prop_assert!(plan.phase(Phase::TakeAway).is_empty());
            prop_assert_eq!(plan.len() + plan.held_back().len(), free.len());
            let mut port = kernel.clone();
            plan.requests().for_each(|request| port.execute(&request).unwrap());
            prop_assert_eq!(removals(&port, &desired), counted);
            let confirmed: BTreeSet<_> = plan.confirm().changes().map(|it| it.to_string()).collect();
            let all: BTreeSet<_> = free.changes().map(|it| it.to_string()).collect();
            prop_assert_eq!(confirmed, all);
        }
    }

    /// Of what the snapshot is not sure of, nothing is taken away.
    #[test]
    fn nothing_uncertain_is_taken_away(
        kernel in strategy::kernel(),
        desired in strategy::desired(),
        drained in any::<bool>(),
    ) {
        let mut policy = Policy::new().scope(Scope::All);
        if drained {
            policy = policy.drain(Drain::for_at_most(std::time::Duration::ZERO));
        }
        let mut table = kernel.snapshot();
        table.uncertain = table.services.keys().copied().collect();
        let plan = Plan::new(&desired, &table, &policy);
        prop_assert!(plan.phase(Phase::TakeAway).is_empty());
        let drains = |change: &Change| matches!(change.action(), Action::DrainRealServer { .. });
        prop_assert!(!plan.changes().any(drains));
        prop_assert_eq!(plan.uncertain(), &table.uncertain);
    }

    /// Only what the scope names is deleted.
    #[test]
    fn a_scope_bounds_deletions(
        kernel in strategy::kernel(),
        desired in strategy::desired(),
        mine in proptest::collection::btree_set(strategy::service_key(), 0..4),
    ) {
        let table = kernel.snapshot();
        let ledger: Ledger = mine.iter().copied().collect();
        let only = mine.clone();
        let only = Scope::only(move |key| only.contains(key));
        let (first, rest): (BTreeSet<_>, BTreeSet<_>) =
            mine.iter().enumerate().partition(|(index, _)| index % 2 == 0);
        let part = |keys: BTreeSet<(usize, &ServiceKey)>| {
            Scope::Ledger(keys.into_iter().map(|(_, key)| *key).collect())
        };
        let scopes = [
            Scope::Ledger(ledger.clone()),
            only.clone(),
            part(first).or(part(rest)).or(Scope::Named),
            Scope::All.and(only),
        ];
        for scope in scopes {
            let plan = Plan::new(&desired, &table, &Policy::new().scope(scope));
            let deleted: BTreeSet<ServiceKey> = plan
                .changes()
                .filter(|change| matches!(change.action(), Action::DeleteService { .. }))
                .map(|change| *change.service())
                .collect();
            let expected: BTreeSet<ServiceKey> = mine
                .iter()
                .copied()
                .filter(|key| table.services.contains_key(key) && desired.get(key).is_none())
                .collect();
            prop_assert_eq!(deleted, expected);
        }
        let mut settled = ledger;
        settled.settle(&desired, &table);
        prop_assert!(!settled.settle(&desired, &table));
        for key in &mine {
            let stays = desired.get(key).is_some() || table.services.contains_key(key);
            prop_assert_eq!(settled.contains(key), stays);
        }
    }

    /// Killed after any write, the next run finishes the work, and no service is without in between.
    #[test]
    fn the_next_run_finishes_the_work(
        kernel in strategy::kernel(),
        desired in strategy::desired(),
        after in 0..30usize,
    ) {
        let policy = Policy::new().scope(Scope::All);
        let plan = Plan::new(&desired, &kernel.snapshot(), &policy);
        let port = Scripted::new(kernel);
        run(plan, &port, after);
        let table = port.kernel().snapshot();
        block_on(Plan::new(&desired, &table, &policy).apply(&port)).unwrap();
        prop_assert!(agrees(&port.kernel(), &desired));
    }

    /// What another writer did before is no failure, and the desired state is reached.
    #[test]
    fn other_writers_are_no_failure(
        kernel in strategy::kernel(),
        desired in strategy::desired(),
        meanwhile in proptest::collection::vec(strategy::request(), 0..12),
    ) {
        let policy = Policy::new().scope(Scope::All);
        let plan = Plan::new(&desired, &kernel.snapshot(), &policy);
        let port = Scripted::new(kernel);
        for request in &meanwhile {
            let _ = port.kernel().execute(request);
        }
        block_on(plan.apply(&port)).unwrap();
        // What the plan did not look at may differ still; the next one sees it.
        block_on(desired.apply(&port, &policy)).unwrap();
        prop_assert!(agrees(&port.kernel(), &desired));
    }

    /// What fails in one service holds back draining and taking away there, and nothing elsewhere.
    #[test]
    fn a_failure_stays_in_its_service(
        kernel in strategy::kernel(),
        desired in strategy::desired(),
        bad in 0..20usize,
    ) {
        let policy = Policy::new().scope(Scope::All);
        let plan = Plan::new(&desired, &kernel.snapshot(), &policy);
        let early: Vec<_> = plan
            .changes()
            .filter(|change| !matches!(
                change.action(),
                Action::DeleteRealServer { .. } | Action::DeleteService { .. }
            ))
            .cloned()
            .collect();
        prop_assume!(!early.is_empty());
        let bad = &early[bad % early.len()];
        let before = kernel.snapshot();
        let port = Scripted::new(kernel);
        let request = bad.request();
        port.refuse(move |write| (*write == request).then_some(Errno::EINVAL));
        let error = block_on(plan.clone().apply(&port)).unwrap_err();
        prop_assert_eq!(error.applied().unwrap().failed().count(), 1);
        let after = port.kernel().snapshot();
        let hurt = bad.service();
        for change in plan.changes().filter(|change| change.service() != hurt) {
            let found = after.service(change.service());
            match change.action() {
                Action::DeleteService { .. } => prop_assert!(found.is_none()),
                Action::DeleteRealServer { before } => {
                    prop_assert!(found.unwrap().destination(&before.key).is_none());
                }
                Action::AddRealServer { after } | Action::UpdateRealServer { after, .. } => {
                    prop_assert_eq!(&found.unwrap().destination(&after.key).unwrap().destination, after);
                }
                _ => prop_assert!(found.is_some()),
            }
        }
        if let Some(before) = before.service(hurt) {
            let after = after.service(hurt).unwrap();
            for entry in &before.destinations {
                prop_assert!(after.destination(&entry.destination.key).is_some());
            }
        }
    }
}
