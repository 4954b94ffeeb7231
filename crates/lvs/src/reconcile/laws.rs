//! What a reconciler promises over many rounds, on the model.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::time::{Duration, Instant};

use ipvs_client::packet::{Request, ServiceKey};

use super::Reconciler;
use crate::{
    Desired, Drain, Ledger, Limit, Policy, RealServer, Scope, VirtualService, block_on,
    model::{Errno, Kernel, Scripted},
};

pub(super) const SECOND: Duration = Duration::from_secs(1);

/// Service `number` with these real servers, and their weights.
pub(super) fn service(number: u8, real_servers: &[(u8, u32)]) -> VirtualService {
    let at = |host, port| std::net::SocketAddr::from(([10, 0, 1, host], port));
    let real_servers = real_servers.iter().map(|(host, weight)| {
        let at = ([10, 1, number, *host], 80);
        RealServer::nat(at.into()).weight(*weight)
    });
    VirtualService::tcp(at(number, 80)).real_servers(real_servers).build().unwrap()
}

pub(super) fn key(number: u8) -> ServiceKey {
    *service(number, &[]).key()
}

pub(super) fn services(count: u8, real_servers: &[(u8, u32)]) -> Desired {
    (0..count).map(|number| service(number, real_servers)).collect::<Result<_, _>>().unwrap()
}

/// A reconciler that has brought a table to this state.
pub(super) fn settled(policy: Policy, desired: Desired, now: Instant) -> (Reconciler, Scripted) {
    let port = Scripted::new(Kernel::new());
    let mut reconciler = Reconciler::new(policy);
    reconciler.set(desired);
    reconciler.store(|_| Ok(())).unwrap();
    round(&mut reconciler, &port, now);
    (reconciler, port)
}

pub(super) fn round(reconciler: &mut Reconciler, port: &Scripted, now: Instant) -> Option<usize> {
    let round = block_on(reconciler.round(port, now))?;
    Some(round.applied().map_or(0, crate::Applied::len))
}

/// How many services and real servers there are, and how many of these have a weight.
pub(super) fn table(port: &Scripted) -> (usize, usize, usize) {
    let table = port.kernel().snapshot();
    let servers = || table.services.values().flat_map(|service| &service.destinations);
    let usable = servers().filter(|entry| entry.destination.weight.get() > 0).count();
    (table.services.len(), servers().count(), usable)
}

pub(super) fn guarded(limit: impl Into<Limit>) -> Policy {
    Policy::new().scope(Scope::All).max_deletions(limit)
}

pub(super) const TWO: &[(u8, u32)] = &[(1, 1), (2, 1)];

/// Before: after an unrelated change of each service, all 100 deletions were done, and nothing was
/// confirmed.
#[test]
fn what_is_held_back_is_not_done_by_another_round() {
    let now = Instant::now();
    let (mut reconciler, port) = settled(guarded(10), services(100, TWO), now);
    reconciler.set(services(100, &[(1, 1)]));
    assert_eq!(round(&mut reconciler, &port, now), Some(0));
    for number in 0..100 {
        reconciler.insert(service(number, &[(1, 2)]));
        assert_eq!(round(&mut reconciler, &port, now), Some(1), "the weight, and nothing else");
        assert_eq!(reconciler.status().held_back, 100);
    }
    assert_eq!(table(&port), (100, 200, 200));
    // Not even in time: it is more than the limit allows at all.
    for hour in 1..5 {
        round(&mut reconciler, &port, now + hour * 3600 * SECOND);
    }
    assert_eq!(table(&port), (100, 200, 200));
    // The source is mended: nothing is held back any more.
    reconciler.set(services(100, TWO));
    round(&mut reconciler, &port, now + 5 * 3600 * SECOND);
    assert!(reconciler.held_back().is_empty());
}

/// Before: the looks at two drains did 8 of the 208.
#[test]
fn what_is_held_back_is_not_done_by_a_look_at_a_drain() {
    let now = Instant::now();
    let drain = Drain::for_at_most(60 * SECOND);
    let (mut reconciler, port) = settled(guarded(10).drain(drain), services(70, TWO), now);
    for number in 0..2 {
        let at = "10.1.0.2:80".replace(".0.2", &format!(".{number}.2")).parse().unwrap();
        assert!(port.kernel().set_connections(&key(number), &at, 1, 0));
        reconciler.insert(service(number, &[(1, 1)]));
    }
    assert_eq!(round(&mut reconciler, &port, now), Some(2));
    reconciler.set(Desired::new());
    let mut later = now;
    for _ in 0..100 {
        later += SECOND;
        round(&mut reconciler, &port, later);
    }
    // The two that were drained go with their services, which are held back.
    assert_eq!(table(&port), (70, 140, 138));
    assert_eq!(reconciler.status().held_back, 70 + 138);
}

/// Before: an empty source deleted 50 services with 100 real servers of weight 0 past a limit of 3.
#[test]
fn weight_0_counts_unless_it_was_counted() {
    let now = Instant::now();
    for drains in [false, true] {
        let drain = Drain::for_at_most(60 * SECOND).services(true);
        let policy = if drains { guarded(3).drain(drain) } else { guarded(3) };
        let (mut reconciler, port) = settled(policy, services(50, &[(1, 0), (2, 0)]), now);
        reconciler.set(Desired::new());
        for second in 0..200 {
            round(&mut reconciler, &port, now + second * SECOND);
        }
        assert_eq!((table(&port).1, reconciler.status().held_back), (100, 150));
    }
    // What this reconciler drained is deleted though the limit is used up.
    let drain = Drain::for_at_most(10 * SECOND);
    let (mut reconciler, port) = settled(guarded(3).drain(drain), services(3, TWO), now);
    reconciler.set(services(3, &[(1, 1)]));
    round(&mut reconciler, &port, now);
    assert_eq!(table(&port), (3, 6, 3));
    reconciler.insert(service(0, &[(3, 1)]));
    round(&mut reconciler, &port, now + SECOND);
    assert_eq!(table(&port), (3, 4, 4), "two were empty, one is held back");
    // A plan has no memory, and counts all.
    let plan = crate::Plan::new(&services(3, &[(3, 1)]), &port.kernel().snapshot(), &guarded(0));
    assert!(plan.held_back_count() > 0);
}

/// Before: 60 services had no usable real server left, whatever the limit.
#[test]
fn a_service_without_a_usable_real_server_counts() {
    let now = Instant::now();
    for servers in [&[(1, 0), (2, 0)][..], &[]] {
        let (mut reconciler, port) = settled(guarded(10), services(60, TWO), now);
        reconciler.set(services(60, servers));
        round(&mut reconciler, &port, now);
        assert_eq!(table(&port), (60, 120, 120));
        assert_eq!(reconciler.status().held_back, 180);
        // One of them is within the limit.
        let (mut reconciler, port) = settled(guarded(10), services(60, TWO), now);
        reconciler.insert(service(7, servers));
        round(&mut reconciler, &port, now);
        assert_eq!(table(&port).2, 118);
        // One real server of each is out of order: nothing is taken away.
        let (mut reconciler, port) = settled(guarded(10), services(60, TWO), now);
        reconciler.set(services(60, &[(1, 0), (2, 1)]));
        round(&mut reconciler, &port, now);
        assert_eq!(table(&port), (60, 120, 60));
    }
}

/// Before: the services that were read again were allowed the limit once more, and what they held
/// back was forgotten: 18 deletions at a limit of 10, and a count of 0 where 200 were due.
#[test]
fn what_is_read_again_shares_the_limit() {
    let now = Instant::now();
    let (mut reconciler, port) = settled(guarded(10), services(100, TWO), now);
    reconciler.set(Desired::new());
    port.set_uncertain((0..100).map(key));
    let round = block_on(reconciler.round(&port, now)).unwrap();
    assert_eq!(round.result.unwrap().held_back_count(), 300);
    assert_eq!((table(&port).0, reconciler.held_back().len()), (100, 300));

    let (mut reconciler, port) = settled(guarded(10), services(6, TWO), now);
    reconciler.set(Desired::new());
    reconciler.resync();
    port.set_uncertain((0..3).map(key));
    let round = block_on(reconciler.round(&port, now)).unwrap();
    let applied = round.result.unwrap();
    assert_eq!((applied.len(), applied.held_back_count(), table(&port).0), (3, 9, 3));
    let held_back = reconciler.held_back();
    reconciler.confirm(&held_back);
    block_on(reconciler.round(&port, now)).unwrap().result.unwrap();
    assert_eq!(table(&port).0, 0);
}

/// Before: 19 were confirmed, and 15 others went an hour later; and any state that came between the
/// confirmation and the round revoked it.
#[test]
fn a_confirmation_is_for_what_it_names_and_once() {
    let now = Instant::now();
    let (mut reconciler, port) = settled(guarded(2), services(20, &[]), now);
    reconciler.set(services(1, &[]));
    round(&mut reconciler, &port, now);
    let held_back = reconciler.held_back();
    assert_eq!(held_back.len(), 19);
    reconciler.confirm(&held_back);
    reconciler.insert(service(0, &[(1, 1)]));
    reconciler.insert(service(200, &[]));
    assert_eq!(round(&mut reconciler, &port, now), Some(21), "whatever came in between");
    assert_eq!(table(&port).0, 2);
    // Others, and the same ones again.
    for number in 1..=15 {
        let web = service(number, &[]);
        port.kernel().execute(&Request::NewService(web.service().clone())).unwrap();
    }
    let later = now + 3600 * SECOND;
    round(&mut reconciler, &port, later);
    assert_eq!((table(&port).0, reconciler.status().held_back), (17, 15));
    // An old confirmation of some of them confirms these; a part of it is enough.
    let some = held_back.filter(|removal| removal.service < key(4));
    reconciler.confirm(&some);
    round(&mut reconciler, &port, later);
    assert_eq!((table(&port).0, reconciler.status().held_back), (14, 12));
}

/// A confirmed deletion that fails stays confirmed.
#[test]
fn a_confirmation_is_used_up_by_what_was_done() {
    let now = Instant::now();
    let (mut reconciler, port) = settled(guarded(2), services(20, &[]), now);
    reconciler.set(Desired::new());
    round(&mut reconciler, &port, now);
    let held_back = reconciler.held_back();
    reconciler.confirm(&held_back);
    port.refuse(|_| Some(Errno(5)));
    round(&mut reconciler, &port, now);
    assert_eq!(table(&port).0, 20);
    port.mend();
    round(&mut reconciler, &port, now + 2 * SECOND);
    assert_eq!(table(&port).0, 0);
}

/// Before: killed in its first round, `run` left 1,280 services of which the ledger knew none.
#[test]
fn nothing_is_written_before_its_claim_is_stored() {
    let now = Instant::now();
    let port = Scripted::new(Kernel::new());
    let scope = || Scope::Ledger(Ledger::new());
    let mut reconciler = Reconciler::new(Policy::new().scope(scope()));
    reconciler.set(services(3, TWO));
    round(&mut reconciler, &port, now);
    assert_eq!(table(&port).0, 0);
    assert!(reconciler.store(|_| Err(std::io::ErrorKind::StorageFull.into())).is_err());
    let ledger = reconciler.unstored().unwrap().clone();
    assert_eq!(ledger.iter().count(), 3);
    reconciler.stored(ledger.clone());
    assert!(reconciler.unstored().is_none());
    round(&mut reconciler, &port, now);
    assert_eq!((table(&port).0, reconciler.status().in_effect), (3, 1));
    // One more waits for its own claim, and the others do not.
    reconciler.insert(service(7, &[]));
    reconciler.insert(service(0, &[(1, 1)]));
    assert_eq!(round(&mut reconciler, &port, now), Some(1));
    assert_eq!((table(&port).0, reconciler.status().in_effect), (3, 1));
    assert!(reconciler.store(|_| Ok(())).unwrap());
    round(&mut reconciler, &port, now);
    assert_eq!((table(&port).0, reconciler.status().in_effect), (4, 3));
    // An old ledger in a new policy takes no claim back.
    reconciler.set_policy(Policy::new().scope(Scope::Ledger(ledger)));
    reconciler.set(Desired::new());
    round(&mut reconciler, &port, now);
    assert_eq!(table(&port).0, 0);
    // What is gone leaves the ledger with the next look at the whole table.
    round(&mut reconciler, &port, now + 60 * SECOND);
    assert_eq!(reconciler.unstored(), Some(&Ledger::new()));
}

/// Before: with a change of another service every 300 ms a failing one was tried once in 20 s, and with
/// a drain every 2 to 3 s for ever.
#[test]
fn each_failing_service_has_its_own_back_off() {
    let start = Instant::now();
    let drain = Drain::for_at_most(3600 * SECOND);
    let (mut reconciler, port) = settled(Policy::new().drain(drain), services(3, TWO), start);
    port.kernel().set_connections(&key(2), &"10.1.2.2:80".parse().unwrap(), 1, 0);
    reconciler.insert(service(2, &[(1, 1)]));
    let bad = service(9, &[]).to_builder().scheduler("wrrr").build().unwrap();
    reconciler.insert(bad);
    let (mut now, mut weight) = (start, 1);
    let mut tries = Vec::new();
    while now < start + 100 * SECOND {
        now += Duration::from_millis(100);
        if (now - start).as_millis() % 300 == 0 {
            weight += 1;
            reconciler.insert(service(1, &[(1, weight), (2, 1)]));
        }
        round(&mut reconciler, &port, now);
        let is_try = |request: &Request| matches!(request, Request::NewService(_));
        if port.take_writes().iter().any(is_try) {
            tries.push((now - start).as_millis());
        }
    }
    assert_eq!(tries, [100, 1_100, 3_100, 7_100, 15_100, 31_100, 63_100][..], "and never else");
}

/// Before: a state that came each second while IPVS was not there began a round each second.
#[test]
fn a_common_failure_backs_off_whatever_comes() {
    let start = Instant::now();
    let (mut reconciler, port) = settled(Policy::new(), services(3, TWO), start);
    port.set_unavailable(true);
    reconciler.resync();
    let mut rounds = Vec::new();
    for second in 0..100u32 {
        reconciler.insert(service(1, &[(1, 2 + second)]));
        if round(&mut reconciler, &port, start + second * SECOND).is_some() {
            rounds.push(second);
        }
    }
    assert_eq!(rounds, [0, 1, 3, 7, 15, 31, 63]);
    port.set_unavailable(false);
    assert!(round(&mut reconciler, &port, start + 123 * SECOND).unwrap() > 0);
}

/// Before: such a drain was looked at 2,657 times a second.
#[test]
fn looks_at_a_drain_have_a_pause() {
    let drain = Drain::for_at_most(60 * SECOND).look_every(Duration::ZERO);
    let now = Instant::now();
    let (mut reconciler, port) = settled(Policy::new().drain(drain), services(1, TWO), now);
    port.kernel().set_connections(&key(0), &"10.1.0.2:80".parse().unwrap(), 1, 0);
    reconciler.set(services(1, &[(1, 1)]));
    round(&mut reconciler, &port, now);
    assert_eq!(reconciler.due(now), Some(now + Duration::from_millis(10)));
}

/// Before: a source that was empty for a moment let the limit of a drain begin again.
#[test]
fn a_drain_keeps_its_clock_while_its_service_is_held_back() {
    let start = Instant::now();
    let policy = guarded(3).drain(Drain::for_at_most(10 * SECOND));
    let (mut reconciler, port) = settled(policy, services(10, TWO), start);
    port.kernel().set_connections(&key(0), &"10.1.0.2:80".parse().unwrap(), 1, 0);
    let mut one_less = services(10, TWO);
    one_less.insert(service(0, &[(1, 1)]));
    reconciler.set(one_less.clone());
    round(&mut reconciler, &port, start);
    reconciler.set(Desired::new());
    round(&mut reconciler, &port, start + 5 * SECOND);
    assert!(reconciler.status().held_back > 0);
    reconciler.set(one_less);
    round(&mut reconciler, &port, start + 6 * SECOND);
    round(&mut reconciler, &port, start + 10 * SECOND);
    assert_eq!(table(&port), (10, 19, 19));
}

/// Before: applied once, a drain never ended, not even one without any time.
#[test]
fn an_apply_says_what_it_leaves_draining() {
    let port = Scripted::new(Kernel::new());
    let both: Desired = service(0, TWO).into();
    block_on(both.apply(&port, &Policy::new())).unwrap();
    port.kernel().set_connections(&key(0), &"10.1.0.2:80".parse().unwrap(), 1, 0);
    let one: Desired = service(0, &[(1, 1)]).into();
    let policy = Policy::new().drain(Drain::for_at_most(SECOND));
    let applied = block_on(one.apply(&port, &policy)).unwrap();
    let left = (key(0), "10.1.0.2:80".parse().unwrap());
    assert_eq!(applied.draining().collect::<Vec<_>>(), [(&left.0, &left.1)]);
    // The next one says it as well; with no time, it is gone.
    let applied = block_on(one.apply(&port, &policy)).unwrap();
    assert_eq!((applied.len(), applied.draining().count()), (0, 1));
    let at_once = Policy::new().drain(Drain::for_at_most(Duration::ZERO));
    assert_eq!(block_on(one.apply(&port, &at_once)).unwrap().len(), 1);
    assert_eq!(table(&port), (1, 1, 1));
}

#[test]
fn everything_is_drained_until_it_is_empty() {
    let start = Instant::now();
    let (mut reconciler, port) = settled(Policy::new().max_deletions(1), services(5, TWO), start);
    let others = service(77, TWO);
    block_on(others.apply(&port)).unwrap();
    port.kernel().set_connections(&key(3), &"10.1.3.2:80".parse().unwrap(), 1, 0);
    reconciler.drain_all(Drain::for_at_most(20 * SECOND));
    let mut now = start;
    while !reconciler.is_settled() {
        now = reconciler.due(now).unwrap();
        round(&mut reconciler, &port, now);
        assert!(now <= start + 21 * SECOND);
    }
    assert_eq!((table(&port), now), ((1, 2, 2), start + 20 * SECOND), "others' services stay");
}

#[test]
fn what_is_on_hold_is_not_added_yet() {
    let now = Instant::now();
    let (mut reconciler, port) = settled(Policy::new(), services(2, TWO), now);
    reconciler.hold([key(1), key(2)]);
    reconciler.set(services(3, &[(1, 1)]));
    round(&mut reconciler, &port, now);
    assert_eq!(table(&port), (2, 2, 2), "what is there is kept as desired");
    reconciler.hold([]);
    round(&mut reconciler, &port, now);
    assert_eq!(table(&port), (3, 3, 3));
}

#[test]
fn limits_of_drains_come_from_outside() {
    let start = Instant::now();
    let policy = Policy::new().drain(Drain::for_at_most(60 * SECOND));
    let (mut reconciler, port) = settled(policy, services(1, TWO), start);
    let at = "10.1.0.2:80".parse().unwrap();
    port.kernel().set_connections(&key(0), &at, 1, 0);
    reconciler.set(services(1, &[(1, 1)]));
    round(&mut reconciler, &port, start);
    reconciler.set_drain_limits([((key(0), at), 5 * SECOND)]);
    round(&mut reconciler, &port, start + 4 * SECOND);
    assert_eq!(table(&port).1, 2);
    assert_eq!(reconciler.due(start + 4 * SECOND), Some(start + 5 * SECOND));
    round(&mut reconciler, &port, start + 5 * SECOND);
    assert_eq!(table(&port).1, 1);
}

#[test]
fn weights_of_others_are_kept() {
    let now = Instant::now();
    let policy = Policy::new().keep_weights(|_, _| true).drain(Drain::for_at_most(60 * SECOND));
    let (mut reconciler, port) = settled(policy, services(1, TWO), now);
    let mut set = service(0, &[(1, 9), (2, 1)]).destinations()[0].clone();
    port.kernel().execute(&Request::SetDestination(key(0), set.clone())).unwrap();
    reconciler.resync();
    assert_eq!(round(&mut reconciler, &port, now), Some(0));
    // Another setting changes, and the weight stays.
    let changed = service(0, TWO).to_builder().without_real_servers();
    let thresholds = |host| RealServer::nat(([10, 1, 0, host], 80).into()).thresholds(9, 3);
    reconciler
        .insert(changed.real_server(thresholds(1)).real_server(thresholds(2)).build().unwrap());
    round(&mut reconciler, &port, now);
    set.thresholds = service_thresholds(&port);
    assert_eq!(port.kernel().snapshot().service(&key(0)).unwrap().destinations[0].destination, set);
    // Drained by this reconciler and desired again, it gets its weight back.
    port.kernel().set_connections(&key(0), &set.key, 1, 0);
    reconciler.insert(service(0, &[(2, 1)]));
    round(&mut reconciler, &port, now);
    assert_eq!(table(&port), (1, 2, 1));
    reconciler.insert(service(0, TWO));
    round(&mut reconciler, &port, now);
    assert_eq!(table(&port), (1, 2, 2));
}

fn service_thresholds(port: &Scripted) -> ipvs_client::packet::Thresholds {
    let table = port.kernel().snapshot();
    table.service(&key(0)).unwrap().destinations[0].destination.thresholds
}

#[test]
fn real_servers_of_another_program_stay() {
    let now = Instant::now();
    let mine = |_: &ServiceKey, at: &ipvs_client::packet::DestinationKey| at.port == 80;
    let policy = Policy::new().scope(Scope::All).real_servers(mine);
    let (mut reconciler, port) = settled(policy, services(1, TWO), now);
    let theirs = RealServer::nat("10.1.0.9:8080".parse().unwrap());
    let with = service(0, &[]).to_builder().real_server(theirs).build().unwrap();
    let request = Request::NewDestination(key(0), with.destinations()[0].clone());
    port.kernel().execute(&request).unwrap();
    reconciler.set(services(1, &[(1, 1)]));
    round(&mut reconciler, &port, now);
    assert_eq!(table(&port), (1, 2, 2));
    reconciler.set(Desired::new());
    round(&mut reconciler, &port, now);
    assert_eq!(table(&port), (1, 1, 1), "the service stays for the other one");
}

#[test]
fn what_others_undo_is_named() {
    let start = Instant::now();
    let (mut reconciler, port) = settled(Policy::new(), services(2, TWO), start);
    reconciler.insert(service(0, &[(1, 3)]));
    round(&mut reconciler, &port, start);
    assert_eq!((reconciler.undone().count(), reconciler.status().repairs), (0, 0));
    for number in 1..=3 {
        let other = service(1, &[(1, 1), (2, 7)]).destinations()[1].clone();
        port.kernel().execute(&Request::SetDestination(key(1), other)).unwrap();
        round(&mut reconciler, &port, start + number * 30 * SECOND);
    }
    let undone: Vec<_> = reconciler.undone().collect();
    assert_eq!(undone.len(), 1);
    assert_eq!((undone[0].service, undone[0].times), (key(1), 3));
    assert_eq!(undone[0].real_server, Some("10.1.1.2:80".parse().unwrap()));
    assert_eq!(undone[0].last - undone[0].first, 60 * SECOND);
    let metrics = reconciler.status().metrics();
    let repairs = metrics.filter(|metric| metric.name.contains("repairs"));
    assert_eq!(repairs.map(|metric| metric.value).sum::<u64>(), 3);
}
