//! What should be, as a value: files, results of checks and commands in, services and events out. It does no
//! I/O, and time is an argument.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Instant, SystemTime},
};

use lvs::{
    VirtualService,
    client::packet::{DestinationKey, ServiceKey},
};
use lvs_health::{
    Event, Health, Mode, Outcome, Pool, StateError,
    check::{Failure, Report, Wanted},
};

use crate::config::{CheckSpec, Config, Service};

/// So many events are kept for those who look.
const KEPT_EVENTS: usize = 200;

/// A time by both clocks: what is decided goes by the first, what is shown by the second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    pub(crate) wall: SystemTime,
}

impl Now {
    pub(crate) fn read() -> Self {
        Self { instant: Instant::now(), wall: SystemTime::now() }
    }
}

/// What a check found, for those who look.
#[derive(Clone, Debug)]
pub(crate) struct LastCheck {
    pub(crate) at: SystemTime,
    pub(crate) passed: Option<bool>,
    pub(crate) text: String,
    /// The name that the file gives it.
    pub(crate) name: String,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Happening {
    pub(crate) at: SystemTime,
    /// As hooks know it: `up`.
    pub(crate) kind: &'static str,
    pub(crate) service: Option<(Arc<str>, ServiceKey)>,
    pub(crate) member: Option<DestinationKey>,
    pub(crate) reason: String,
    pub(crate) text: String,
}

/// What somebody wants of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Drain,
    Maintain,
    Enable,
    Weight(u8),
}

/// What follows from all that was told so far.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// Services that are to be otherwise than before.
    pub(crate) set: Vec<VirtualService>,
    /// Services that are no longer in the file.
    pub(crate) removed: Vec<ServiceKey>,
    pub(crate) happened: Vec<Happening>,
    /// Whether the members that are to go at once are others.
    pub(crate) failed_changed: bool,
}

/// A service of the file, with its pool.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) service: Service,
    pub(crate) pool: Pool,
    pub(crate) members: BTreeMap<DestinationKey, KeptMember>,
    /// What was last handed out; `None` while it waits for first results.
    pub(crate) desired: Option<VirtualService>,
    failed: Vec<DestinationKey>,
    next: Option<Instant>,
}

#[derive(Debug)]
pub(crate) struct KeptMember {
    checks: Vec<Arc<CheckSpec>>,
    /// What each of its checks found last.
    pub(crate) last: Vec<Option<LastCheck>>,
    /// Since when its health is as it is.
    pub(crate) since: SystemTime,
    health: Health,
}

/// The director's mind.
#[derive(Debug)]
pub(crate) struct Director {
    config: Arc<Config>,
    services: BTreeMap<ServiceKey, Kept>,
    dirty: BTreeSet<ServiceKey>,
    removed: Vec<ServiceKey>,
    happened: Vec<Happening>,
    log: VecDeque<Happening>,
    next: Option<Instant>,
}

impl Director {
    pub(crate) fn new(config: Arc<Config>, now: Now) -> Self {
        let mut director = Self {
            config: Arc::clone(&config),
            services: BTreeMap::new(),
            dirty: BTreeSet::new(),
            removed: Vec::new(),
            happened: Vec::new(),
            log: VecDeque::new(),
            next: None,
        };
        director.set_config(config, now);
        director
    }

    /// Takes another file. What stays keeps its health; checks that stay are not disturbed.
    pub(crate) fn set_config(&mut self, config: Arc<Config>, now: Now) {
        let mut before = std::mem::take(&mut self.services);
        for (key, service) in &config.services {
            let kept = before.remove(key);
            if let Some(kept) = Self::taken_over(service, kept, now) {
                self.services.insert(*key, kept);
                self.dirty.insert(*key);
            }
        }
        self.removed.extend(before.into_keys());
        self.config = config;
    }

    /// A service as the file has it now, with what was known of it.
    fn taken_over(service: &Service, before: Option<Kept>, now: Now) -> Option<Kept> {
        let (mut pool, mut known, desired) = match before {
            None => (service.pool().ok()?, BTreeMap::new(), None),
            Some(Kept { service: old, mut pool, members, desired, .. }) => {
                let is_same = old.frame == service.frame && old.common.is_like(&service.common);
                if !is_same || pool.replace(service.members(), now.instant).is_err() {
                    // A file that was checked makes a pool.
                    let mut new = service.pool().ok()?;
                    let _ = new.restore(&pool.state(), now.instant);
                    pool = new;
                }
                (pool, members, desired)
            }
        };
        let key = *service.frame.key();
        let mut members = BTreeMap::new();
        for server in &service.common.servers {
            let member = server.real_server(&key).key(&key);
            let checks = server.checks.clone();
            if checks.is_empty() {
                pool.report(&member, Outcome::Good, now.instant);
            }
            let kept = match known.remove(&member) {
                Some(old) if old.checks == checks => old,
                Some(old) => KeptMember { last: vec![None; checks.len()], checks, ..old },
                None => KeptMember {
                    last: vec![None; checks.len()],
                    checks,
                    since: now.wall,
                    health: Health::Unknown,
                },
            };
            members.insert(member, kept);
        }
        let service = service.clone();
        Some(Kept { service, pool, members, desired, failed: Vec::new(), next: None })
    }

    /// The checks that are to be made.
    pub(crate) fn checks(&self) -> Vec<Wanted> {
        let of = |(key, kept): (&ServiceKey, &Kept)| {
            let pool = *key;
            let members = kept.members.iter().flat_map(move |(member, state)| {
                state.checks.iter().map(move |check| Wanted {
                    pool,
                    member: *member,
                    check: check.check.clone(),
                    pace: check.pace,
                })
            });
            members.collect::<Vec<_>>()
        };
        self.services.iter().flat_map(of).collect()
    }

    pub(crate) fn config(&self) -> &Arc<Config> {
        &self.config
    }

    pub(crate) fn services(&self) -> &BTreeMap<ServiceKey, Kept> {
        &self.services
    }

    /// The last events, the newest first.
    pub(crate) fn log(&self) -> impl Iterator<Item = &Happening> {
        self.log.iter().rev()
    }

    /// Whether no service waits for first results any more.
    pub(crate) fn has_begun(&self) -> bool {
        self.services.values().all(|kept| kept.desired.is_some())
    }

    /// Services that wait for first results: what the table has of them stays.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &ServiceKey> {
        self.services.iter().filter(|(_, kept)| kept.desired.is_none()).map(|(key, _)| key)
    }

    /// The members that are to be taken away at once, not drained.
    pub(crate) fn failed(&self) -> impl Iterator<Item = (ServiceKey, DestinationKey)> {
        self.services
            .iter()
            .flat_map(|(key, kept)| kept.failed.iter().map(move |member| (*key, *member)))
    }

    /// Takes in what a check found.
    pub(crate) fn report(&mut self, report: Report, now: Now) {
        // One that has left the file may still be under way.
        let Some(kept) = self.services.get_mut(&report.pool) else { return };
        let Some(member) = kept.members.get_mut(&report.member) else { return };
        let (passed, text) = match &report.result {
            Ok(good) => (Some(true), good.to_string()),
            Err(failure @ Failure::Bad(_)) => (Some(false), failure.to_string()),
            Err(failure) => (None, failure.to_string()),
        };
        for (check, last) in member.checks.iter().zip(&mut member.last) {
            if check.check == *report.check {
                let (name, text) = (check.name.clone(), text.clone());
                *last = Some(LastCheck { at: now.wall, passed, text, name });
            }
        }
        for outcome in report.outcomes {
            kept.pool.report(&report.member, outcome, now.instant);
        }
        self.dirty.insert(report.pool);
    }

    /// Takes in what somebody wants of a member, in one service or in all that have it: `10.1.0.1:80`, or
    /// an address for all its ports. Returns how many there are.
    pub(crate) fn wish(
        &mut self,
        service: Option<&str>,
        member: &str,
        wish: Wish,
        now: Now,
    ) -> usize {
        let mut count = 0;
        for (key, kept) in &mut self.services {
            let is_it = |name: &str| *kept.service.name == *name || key.to_string() == name;
            if !service.is_none_or(is_it) {
                continue;
            }
            let is_member =
                |it: &&DestinationKey| it.to_string() == member || it.address.to_string() == member;
            let found: Vec<_> = kept.members.keys().filter(is_member).copied().collect();
            for member in found {
                let outcome = match wish {
                    Wish::Drain => Outcome::Drain,
                    Wish::Maintain => Outcome::Maintenance,
                    Wish::Enable => Outcome::Enable,
                    Wish::Weight(percent) => Outcome::Weight(percent),
                };
                kept.pool.report(&member, outcome, now.instant);
                count += 1;
                self.dirty.insert(*key);
            }
        }
        count
    }

    /// What follows now.
    pub(crate) fn step(&mut self, now: Now) -> Step {
        let mut step = Step { removed: std::mem::take(&mut self.removed), ..Step::default() };
        step.failed_changed = !step.removed.is_empty();
        self.next = None;
        for (key, kept) in &mut self.services {
            let is_due = kept.next.is_some_and(|next| next <= now.instant);
            if self.dirty.contains(key) || is_due {
                kept.step(now, &mut step, &mut self.happened);
            }
            self.next = self.next.into_iter().chain(kept.next).min();
        }
        self.dirty.clear();
        step.happened = std::mem::take(&mut self.happened);
        self.log.extend(step.happened.iter().cloned());
        let surplus = self.log.len().saturating_sub(KEPT_EVENTS);
        self.log.drain(..surplus);
        step
    }

    /// Takes every member of which nothing is known for healthy: for a plan.
    pub(crate) fn assume(&mut self, now: Now) {
        for (key, kept) in &mut self.services {
            let unknown = |(member, health, _): (&DestinationKey, &Health, Mode)| {
                (*health == Health::Unknown).then_some(*member)
            };
            let unknown: Vec<_> = kept.pool.members().filter_map(unknown).collect();
            for member in unknown {
                kept.pool.report(&member, Outcome::Good, now.instant);
            }
            self.dirty.insert(*key);
        }
    }

    /// When the next step is due, if nothing is told before.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Notes something that is not about a member.
    pub(crate) fn note(&mut self, kind: &'static str, text: String, now: Now) {
        let happening = Happening {
            at: now.wall,
            kind,
            service: None,
            member: None,
            reason: String::new(),
            text,
        };
        self.happened.push(happening);
    }

    /// What is known of all members, as text.
    pub(crate) fn state(&self) -> String {
        self.services.values().map(|kept| kept.pool.state()).collect()
    }

    /// Takes over what [`state`](Self::state) wrote. Services that it does not know are as they are.
    ///
    /// # Errors
    ///
    /// The first part that cannot be read; the others are taken over.
    pub(crate) fn restore(&mut self, text: &str, now: Now) -> Result<(), StateError> {
        let mut result = Ok(());
        let by_key: BTreeMap<String, ServiceKey> =
            self.services.keys().map(|key| (key.to_string(), *key)).collect();
        let mut part = String::new();
        for line in text.lines() {
            part.push_str(line);
            part.push('\n');
            if !line.starts_with("end ") {
                continue;
            }
            let whole = std::mem::take(&mut part);
            let key = whole.lines().next().and_then(|line| line.splitn(3, ' ').nth(2));
            let Some(key) = key.and_then(|key| by_key.get(key)) else { continue };
            let Some(kept) = self.services.get_mut(key) else { continue };
            result = result.and(kept.pool.restore(&whole, now.instant));
            kept.note_health(now, true);
            self.dirty.insert(*key);
        }
        if part.is_empty() { result } else { result.and(Err(StateError::Cut)) }
    }
}

impl Kept {
    fn step(&mut self, now: Now, step: &mut Step, happened: &mut Vec<Happening>) {
        let found = self.pool.step(now.instant);
        self.next = found.next;
        self.note_health(now, false);
        for event in found.events {
            happened.push(self.happening(event, now));
        }
        if self.failed != found.failed {
            self.failed = found.failed;
            step.failed_changed = true;
        }
        if let Some(service) = found.service
            && self.desired.as_ref() != Some(&service)
        {
            self.desired = Some(service.clone());
            step.set.push(service);
        }
    }

    /// Notes since when each member's health is as it is.
    fn note_health(&mut self, now: Now, is_old: bool) {
        for (key, health, _) in self.pool.members() {
            let Some(member) = self.members.get_mut(key) else { continue };
            // Another reason is no other health.
            if std::mem::discriminant(&member.health) != std::mem::discriminant(health) {
                member.since = if is_old { SystemTime::UNIX_EPOCH } else { now.wall };
            }
            if member.health != *health {
                member.health = health.clone();
            }
        }
    }

    fn happening(&self, event: Event, now: Now) -> Happening {
        let text = event.to_string();
        let (kind, member, reason) = match event {
            Event::Up(member) => ("up", Some(member), String::new()),
            Event::Down(member, reason) => ("down", Some(member), reason),
            Event::RampEnded(member) => ("ramp-ended", Some(member), String::new()),
            Event::QuorumLost => ("quorum-lost", None, String::new()),
            Event::QuorumRegained => ("quorum-regained", None, String::new()),
            Event::SorryIn => ("sorry-in", None, String::new()),
            Event::SorryOut => ("sorry-out", None, String::new()),
            Event::FailOpenBegan => ("fail-open-began", None, String::new()),
            Event::FailOpenEnded => ("fail-open-ended", None, String::new()),
            _ => ("other", None, String::new()),
        };
        let key = *self.pool.key();
        let service = Arc::clone(&self.service.name);
        let text = format!("{service}: {text}");
        Happening { at: now.wall, kind, service: Some((service, key)), member, reason, text }
    }

    pub(crate) fn health(
        &self,
    ) -> impl Iterator<Item = (&DestinationKey, &Health, Mode, &KeptMember)> {
        self.pool.members().filter_map(|(key, health, mode)| {
            self.members.get(key).map(|member| (key, health, mode, member))
        })
    }
}
