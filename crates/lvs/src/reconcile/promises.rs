//! The promises of a reconciler, whatever comes in whatever order: events, refusals, lost answers,
//! other writers, rounds that are dropped, confirmations, restarts, and a clock that jumps.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use ipvs_client::{
    Snapshot,
    packet::{DestinationEntry, DestinationKey, Request, ServiceKey, Weight},
};
use proptest::{collection::vec, prelude::*};

use super::Reconciler;
use crate::{
    ApplyError, Desired, Drain, Ledger, Limit, Policy, RealServer, Removal, Scope, VirtualService,
    block_on,
    model::{Errno, Kernel, Scripted},
};

const SECOND: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_secs(60);
const LIMIT: usize = 4;
/// Services of the reconciler; those above are another program's.
const OURS: u8 = 6;

/// What happens.
#[derive(Clone, Debug)]
enum Event {
    /// The desired state is another one: the real servers of each service, or none.
    Set(Vec<Option<[u32; 3]>>),
    /// One service of it.
    Insert(u8, [u32; 3]),
    Remove(u8),
    /// Rounds until nothing is due for this long.
    Rounds(u64),
    /// A round that is dropped after this many polls.
    Dropped(usize),
    /// The ledger is stored before the next round, or that fails.
    StoreFails(bool),
    Confirm,
    /// A plan that is confirmed between the halves of a round.
    ConfirmPlan,
    /// This service cannot be written.
    Refuse(u8),
    LoseAnswers(usize),
    Unavailable(bool),
    Uncertain(u8),
    Mend,
    Restart,
    /// Connections come and go.
    Connections(u8, u8, u32),
    Resync,
}

fn event() -> impl Strategy<Value = Event> {
    let weights = || [0..3u32, 0..3u32, 0..3u32];
    prop_oneof![
        3 => vec(proptest::option::of(weights()), usize::from(OURS)).prop_map(Event::Set),
        3 => (0..OURS, weights()).prop_map(|(number, weights)| Event::Insert(number, weights)),
        2 => (0..OURS).prop_map(Event::Remove),
        6 => (0..90u64).prop_map(Event::Rounds),
        2 => (0..30usize).prop_map(Event::Dropped),
        1 => any::<bool>().prop_map(Event::StoreFails),
        1 => Just(Event::Confirm),
        1 => Just(Event::ConfirmPlan),
        1 => (0..OURS).prop_map(Event::Refuse),
        1 => (1..4usize).prop_map(Event::LoseAnswers),
        1 => any::<bool>().prop_map(Event::Unavailable),
        1 => (0..OURS).prop_map(Event::Uncertain),
        2 => Just(Event::Mend),
        1 => Just(Event::Restart),
        2 => (0..OURS, 0..3u8, 0..3u32).prop_map(|(number, host, count)| Event::Connections(number, host, count)),
        1 => Just(Event::Resync),
    ]
}

/// Real server `host` has this weight less one; 0 is none.
fn service(number: u8, weights: [u32; 3]) -> VirtualService {
    let real_servers =
        (0u8..).zip(weights).filter(|(_, weight)| *weight > 0).map(|(host, weight)| {
            RealServer::nat(([10, 1, number, host + 1], 80).into()).weight(weight - 1)
        });
    VirtualService::tcp(([10, 0, 1, number], 80).into()).real_servers(real_servers).build().unwrap()
}

fn key(number: u8) -> ServiceKey {
    *service(number, [0; 3]).key()
}

/// A program over a reconciler, and what is known of it.
struct Program {
    port: Scripted,
    reconciler: Reconciler,
    policy: Box<dyn Fn(Ledger) -> Policy>,
    limited: bool,
    /// The ledger as it is on disk.
    disk: String,
    store_fails: bool,
    now: Instant,
    /// What was confirmed: the limit says nothing of it.
    confirmed: BTreeSet<Removal>,
    /// What was taken away, and when.
    taken: Vec<(Instant, usize)>,
    /// What was taken away by a drain or a weight of 0, so that its deletion is not another one.
    drained: BTreeSet<(ServiceKey, DestinationKey)>,
    /// Services that are drained as a whole: they count when that begins, with what has no weight.
    drained_services: BTreeSet<ServiceKey>,
}

impl Program {
    fn new(limited: bool, drains: bool) -> Self {
        let policy = move |ledger| {
            let mut policy = Policy::new().scope(Scope::Ledger(ledger));
            if limited {
                policy = policy.max_deletions(Limit::number(LIMIT).per(INTERVAL));
            }
            if drains {
                policy = policy.drain(Drain::for_at_most(10 * SECOND).services(true));
            }
            policy
        };
        let port = Scripted::new(Kernel::new());
        let theirs = service(OURS + 1, [2, 2, 0]);
        block_on(theirs.apply(&port)).unwrap();
        Self {
            port,
            reconciler: Reconciler::new(policy(Ledger::new())),
            policy: Box::new(policy),
            limited,
            disk: Ledger::new().to_string(),
            store_fails: false,
            now: Instant::now(),
            confirmed: BTreeSet::new(),
            taken: Vec::new(),
            drained: BTreeSet::new(),
            drained_services: BTreeSet::new(),
        }
    }

    fn store(&mut self) {
        let (fails, disk) = (self.store_fails, &mut self.disk);
        let _ = self.reconciler.store(|ledger| {
            if fails {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            *disk = ledger.to_string();
            Ok(())
        });
    }

    /// A round, up to this many polls. Returns whether one was due.
    fn round(&mut self, polls: usize) -> bool {
        self.store();
        let before = self.port.kernel().snapshot();
        self.port.yield_times(1);
        let is_due = {
            let mut round = pin!(self.reconciler.round(&self.port, self.now));
            let mut context = Context::from_waker(Waker::noop());
            let mut left = polls;
            loop {
                match round.as_mut().poll(&mut context) {
                    Poll::Ready(round) => break round.is_some(),
                    Poll::Pending if left == 0 => break true,
                    Poll::Pending => left -= 1,
                }
            }
        };
        self.count(&before);
        is_due
    }

    /// Counts what a round took away, by what the table was and is.
    fn count(&mut self, before: &Snapshot) {
        let after = self.port.kernel().snapshot();
        let mut taken = 0;
        for (key, service) in &before.services {
            let found = after.service(key);
            let is_gone = found.is_none() && !self.drained_services.remove(key);
            taken += self.counts(is_gone, Removal::service(*key));
            let is_wanted = self.reconciler.desired().get(key).is_some();
            let begins = |entry: &DestinationEntry| {
                let now = found.and_then(|found| found.destination(&entry.destination.key));
                let is_usable = |entry: &DestinationEntry| entry.destination.weight != Weight::ZERO;
                is_usable(entry) && now.is_some_and(|now| !is_usable(now))
            };
            let is_drained = !is_wanted && service.destinations.iter().any(begins);
            if is_drained {
                let is_new = self.drained_services.insert(*key);
                taken += self.counts(is_new, Removal::service(*key));
            } else if is_wanted {
                self.drained_services.remove(key);
            }
            for entry in &service.destinations {
                let at = (*key, entry.destination.key);
                let had_weight = entry.destination.weight != Weight::ZERO;
                let now = found.and_then(|found| found.destination(&at.1));
                let is_desired = self
                    .reconciler
                    .desired()
                    .get(key)
                    .is_some_and(|wanted| wanted.destination(&at.1).is_some());
                match now {
                    None => {
                        let is_new = !self.drained.remove(&at);
                        taken += self.counts(is_new, Removal::real_server(at.0, at.1));
                    }
                    Some(now)
                        if now.destination.weight == Weight::ZERO
                            && !is_desired
                            && (had_weight || is_drained) =>
                    {
                        // A drain begins.
                        let is_new = self.drained.insert(at);
                        taken += self.counts(is_new, Removal::real_server(at.0, at.1));
                    }
                    Some(now) if now.destination.weight != Weight::ZERO => {
                        self.drained.remove(&at);
                    }
                    Some(_) => {}
                }
            }
            let is_usable = |service: &ipvs_client::ServiceSnapshot| {
                service.destinations.iter().any(|entry| entry.destination.weight != Weight::ZERO)
            };
            let is_desired = self.reconciler.desired().get(key).is_some();
            let is_left =
                is_desired && is_usable(service) && found.is_some_and(|found| !is_usable(found));
            taken += self.counts(is_left, Removal::usable(*key));
        }
        if taken > 0 {
            self.taken.push((self.now, taken));
        }
    }

    /// Whether something was taken away that was not confirmed.
    fn counts(&mut self, is_taken: bool, removal: Removal) -> usize {
        usize::from(is_taken && !self.confirmed.remove(&removal))
    }

    fn confirm_plan(&mut self) {
        self.store();
        let Some(turn) = self.reconciler.turn(self.now) else { return };
        let before = self.port.kernel().snapshot();
        let result = match block_on(turn.read(&self.port)) {
            Ok(table) => {
                let plan = self.reconciler.plan(&turn, &table, self.now);
                let services: BTreeSet<ServiceKey> =
                    plan.held_back().map(|change| *change.service()).collect();
                let held_back = self.reconciler.held_back();
                let is_confirmed = |removal: &&Removal| services.contains(&removal.service);
                self.confirmed.extend(held_back.iter().filter(is_confirmed));
                block_on(plan.confirm().apply(&self.port))
            }
            Err(error) => Err(ApplyError::unread(error)),
        };
        self.reconciler.finish(&turn, &result, self.now);
        self.count(&before);
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Set(services) => {
                let services = (0u8..).zip(services);
                let services =
                    services.filter_map(|(number, weights)| Some(service(number, weights?)));
                self.reconciler.set(services.collect::<Result<Desired, _>>().unwrap());
            }
            Event::Insert(number, weights) => self.reconciler.insert(service(number, weights)),
            Event::Remove(number) => self.reconciler.remove(&key(number)),
            Event::Rounds(seconds) => {
                let end = self.now + Duration::from_secs(seconds);
                for _ in 0..500 {
                    match self.reconciler.due(self.now) {
                        Some(due) if due <= end => self.now = due,
                        _ => break,
                    }
                    self.round(usize::MAX);
                }
                self.now = end;
            }
            Event::Dropped(polls) => {
                self.round(polls);
            }
            Event::StoreFails(fails) => self.store_fails = fails,
            Event::Confirm => {
                let held_back = self.reconciler.held_back();
                self.confirmed.extend(held_back.iter());
                let stays = self.reconciler.confirm(&held_back);
                assert!(stays.is_empty());
            }
            Event::ConfirmPlan => self.confirm_plan(),
            Event::Refuse(number) => self.port.refuse(move |request| {
                let is_of = match request {
                    Request::NewService(service) | Request::SetService(service) => {
                        *service.key() == key(number)
                    }
                    Request::DeleteService(found)
                    | Request::NewDestination(found, _)
                    | Request::SetDestination(found, _)
                    | Request::DeleteDestination(found, _) => *found == key(number),
                    _ => false,
                };
                is_of.then_some(Errno(5))
            }),
            Event::LoseAnswers(calls) => self.port.lose_answers(calls),
            Event::Unavailable(unavailable) => self.port.set_unavailable(unavailable),
            Event::Uncertain(number) => self.port.set_uncertain([key(number)]),
            Event::Mend => self.port.mend(),
            Event::Restart => {
                let desired = self.reconciler.desired().clone();
                self.reconciler = Reconciler::new((self.policy)(self.disk.parse().unwrap()));
                self.reconciler.set(desired);
            }
            Event::Connections(number, host, count) => {
                let at = std::net::SocketAddr::from(([10, 1, number, host + 1], 80));
                let at = at.to_string().parse().unwrap();
                self.port.kernel().set_connections(&key(number), &at, count, 0);
            }
            Event::Resync => self.reconciler.resync(),
        }
    }

    /// Laws (b), (c) and (e), at any moment.
    fn check(&self) -> Result<(), TestCaseError> {
        let table = self.port.kernel().snapshot();
        let theirs = table.service(&key(OURS + 1)).map(|service| service.destinations.len());
        prop_assert_eq!(theirs, Some(2), "what is not owned is touched");
        let ledger: Ledger = self.disk.parse().unwrap();
        for found in table.services.keys().filter(|found| **found != key(OURS + 1)) {
            prop_assert!(
                ledger.contains(found),
                "{} is in the table and not in the stored ledger",
                found
            );
        }
        if self.limited {
            for (at, _) in &self.taken {
                let window =
                    self.taken.iter().filter(|(other, _)| *other >= *at && *other < *at + INTERVAL);
                let sum: usize = window.map(|(_, count)| count).sum();
                prop_assert!(sum <= LIMIT, "{} were taken away within a minute", sum);
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn promises_are_kept(
        events in vec(event(), 1..40),
        limited in any::<bool>(),
        drains in any::<bool>(),
    ) {
        let mut program = Program::new(limited, drains);
        for event in events {
            program.happens(event);
            program.check()?;
        }
        // (a) It ends as desired, or names what is held back.
        program.port.mend();
        program.store_fails = false;
        program.reconciler.resync();
        for _ in 0..10 {
            program.happens(Event::Rounds(90));
            program.check()?;
        }
        let held_back = program.reconciler.held_back();
        program.reconciler.confirm(&held_back);
        program.happens(Event::Rounds(200));
        program.port.take_writes();
        let mut table = program.port.kernel().snapshot();
        table.services.remove(&key(OURS + 1));
        if program.reconciler.generation() > 0 {
            prop_assert_eq!(&Desired::try_from(&table).unwrap(), program.reconciler.desired());
            prop_assert!(program.reconciler.is_settled());
            prop_assert_eq!(program.reconciler.status().in_effect, program.reconciler.generation());
        }
        // (g) Then nothing is written.
        program.happens(Event::Rounds(100));
        prop_assert_eq!(program.port.take_writes(), []);
    }

    /// (e) A ledger that is read back from any part of what was written is none.
    #[test]
    fn a_part_of_a_ledger_is_none(keys in proptest::collection::btree_set(0..255u8, 0..9)) {
        let text = keys.into_iter().map(key).collect::<Ledger>().to_string();
        for end in 0..text.len() {
            prop_assert!(text[..end].parse::<Ledger>().is_err());
        }
    }

    /// (f) Every service that fails is tried at its own back-off, whatever else happens.
    #[test]
    fn nothing_due_starves(events in vec((0..OURS, 0..3u32, 1..900u64), 1..200), bad in 0..OURS) {
        let mut program = Program::new(false, true);
        program.happens(Event::Set(vec![Some([2, 2, 2]); usize::from(OURS)]));
        program.happens(Event::Refuse(bad));
        let start = program.now;
        let mut tries: BTreeMap<u64, Vec<Duration>> = BTreeMap::new();
        for (number, weight, pause) in events {
            if number != bad {
                program.happens(Event::Insert(number, [weight, 1, 2]));
            }
            let end = program.now + Duration::from_millis(pause);
            while let Some(due) = program.reconciler.due(program.now).filter(|due| *due <= end) {
                program.now = due;
                program.round(usize::MAX);
                let is_try = |request: &Request| matches!(request, Request::NewService(new) if *new.key() == key(bad));
                if program.port.take_writes().iter().any(is_try) {
                    tries.entry(0).or_default().push(program.now - start);
                }
            }
            program.now = end;
        }
        let tries = tries.remove(&0).unwrap_or_default();
        let mut expected = Duration::ZERO;
        for (number, at) in tries.iter().enumerate() {
            prop_assert_eq!(*at, expected, "try {}", number);
            expected += (SECOND * (1 << number.min(6))).min(60 * SECOND);
        }
        prop_assert!(program.now - start < expected, "the next one is missing");
    }
}
