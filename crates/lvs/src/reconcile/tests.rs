//! Rounds on the model.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{
    collections::BTreeSet,
    sync::Mutex,
    time::{Duration, Instant},
};

use ipvs_client::packet::Request;
use proptest::prelude::*;

use super::{Reconciler, Round};
use crate::{Desired, Drain, Ledger, Policy, Scope, block_on, model::Kernel, strategy};

const SECOND: Duration = Duration::from_secs(1);

fn round(reconciler: &mut Reconciler, kernel: &Mutex<Kernel>, now: Instant) -> Option<Round> {
    block_on(reconciler.round(kernel, now))
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
    let (kernel, now) = (Mutex::new(Kernel::new()), Instant::now());
    let mut reconciler = Reconciler::new(Policy::new()).resync_every(30 * SECOND);
    assert!(reconciler.due(now).is_none() && round(&mut reconciler, &kernel, now).is_none());
    reconciler.set(rules(TWO));
    assert_eq!(reconciler.due(now), Some(now));
    let first = round(&mut reconciler, &kernel, now);
    assert!(first.as_ref().unwrap().services().is_none());
    assert_eq!(changes(&first).len(), 4);
    assert_eq!(reconciler.due(now), Some(now + 30 * SECOND));
    assert!(round(&mut reconciler, &kernel, now + 29 * SECOND).is_none());
    let resync = round(&mut reconciler, &kernel, now + 30 * SECOND);
    assert!(resync.as_ref().unwrap().services().is_none() && changes(&resync).is_empty());
    let status = reconciler.status();
    assert_eq!((status.rounds, status.whole_rounds, status.changes), (2, 2, 4));
    assert_eq!(status.last_success, Some(now + 30 * SECOND));
    // What somebody else did is repaired.
    kernel
        .lock()
        .unwrap()
        .execute(&Request::DeleteService("-t 10.0.0.2:80".parse().unwrap()))
        .unwrap();
    assert_eq!(changes(&round(&mut reconciler, &kernel, now + 60 * SECOND)).len(), 2);
}

#[test]
fn an_event_reads_what_it_concerns() {
    let (kernel, now) = (Mutex::new(Kernel::new()), Instant::now());
    let mut reconciler = Reconciler::new(Policy::new());
    reconciler.set(rules(TWO));
    round(&mut reconciler, &kernel, now);
    reconciler.set(rules(TWO));
    assert!(reconciler.due(now) > Some(now), "nothing differs");
    reconciler.set(rules(&TWO.replace("-a -t 10.0.0.2:80", "-a -w 3 -t 10.0.0.2:80")));
    reconciler.set(rules(&TWO.replace("-a -t 10.0.0.2:80", "-a -w 5 -t 10.0.0.2:80")));
    let event = round(&mut reconciler, &kernel, now);
    let keys = BTreeSet::from(["-t 10.0.0.2:80".parse().unwrap()]);
    assert_eq!(event.as_ref().unwrap().services(), Some(&keys));
    // The last one counts.
    assert_eq!(changes(&event), ["~ -t 10.0.0.2:80 -> 10.1.0.2:80 weight 1 -> 5"]);
    let more: crate::VirtualService = "-A -t 10.0.0.3:80 -s rr\n".parse().unwrap();
    reconciler.insert(more);
    assert_eq!(changes(&round(&mut reconciler, &kernel, now)), ["+ -t 10.0.0.3:80 -s rr"]);
    reconciler.remove(&"-t 10.0.0.3:80".parse().unwrap());
    // Not its own, by the default scope.
    assert!(changes(&round(&mut reconciler, &kernel, now)).is_empty());
}

#[test]
fn drains_are_looked_at_in_between() {
    let (kernel, now) = (Mutex::new(Kernel::new()), Instant::now());
    let policy = Policy::new().drain(Drain::for_at_most(60 * SECOND));
    let mut reconciler = Reconciler::new(policy);
    reconciler.set(rules(TWO));
    round(&mut reconciler, &kernel, now);
    let (service, at) = ("-t 10.0.0.1:80".parse().unwrap(), "10.1.0.2:80".parse().unwrap());
    kernel.lock().unwrap().set_connections(&service, &at, 1, 0);
    reconciler.set(rules(&TWO.replace("-r 10.1.0.2:80 -m\n-A", "-r 10.1.0.3:80 -m\n-A")));
    assert_eq!(changes(&round(&mut reconciler, &kernel, now)).len(), 2);
    assert_eq!(reconciler.status().draining, 1);
    assert_eq!(reconciler.due(now), Some(now + SECOND));
    let look = round(&mut reconciler, &kernel, now + SECOND);
    assert!(changes(&look).is_empty());
    assert_eq!(look.unwrap().services(), Some(&BTreeSet::from([service])));
    kernel.lock().unwrap().set_connections(&service, &at, 0, 0);
    let look = round(&mut reconciler, &kernel, now + 2 * SECOND);
    assert_eq!(changes(&look), ["- -t 10.0.0.1:80 -> 10.1.0.2:80"]);
}

#[test]
fn deletions_wait_until_they_are_confirmed() {
    let (kernel, now) = (Mutex::new(Kernel::new()), Instant::now());
    let policy = Policy::new().scope(Scope::Ledger(Ledger::new())).max_deletions(1);
    let mut reconciler = Reconciler::new(policy);
    reconciler.set(rules(TWO));
    assert!(reconciler.store(|_| Ok(())).unwrap());
    assert_eq!(reconciler.ledger().unwrap().iter().count(), 2);
    round(&mut reconciler, &kernel, now);
    reconciler.set(Desired::new());
    assert!(changes(&round(&mut reconciler, &kernel, now)).is_empty());
    assert_eq!(reconciler.status().held_back, 4, "each with its real server");
    assert_eq!(reconciler.ledger().unwrap().iter().count(), 2, "still its own");
    let held_back = reconciler.held_back();
    assert_eq!(held_back.len(), 4);
    reconciler.confirm(&held_back);
    assert_eq!(changes(&round(&mut reconciler, &kernel, now)).len(), 2);
    assert_eq!(reconciler.status().held_back, 0);
    reconciler.resync();
    round(&mut reconciler, &kernel, now);
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
        let (kernel, mut now) = (Mutex::new(Kernel::new()), Instant::now());
        let mut reconciler = Reconciler::new(Policy::new().scope(Scope::All));
        for (desired, others) in steps {
            reconciler.set(desired.clone());
            round(&mut reconciler, &kernel, now);
            prop_assert!(reconciler.due(now) > Some(now));
            for request in others {
                let _ = kernel.lock().unwrap().execute(&request);
            }
            now += 30 * SECOND;
            round(&mut reconciler, &kernel, now);
            prop_assert_eq!(Desired::try_from(&kernel.lock().unwrap().snapshot()).unwrap(), desired);
        }
    }
}
