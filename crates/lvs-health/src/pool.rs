//! A pool: members, what is known of them, and the service that follows.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use lvs::{
    Invalid, RealServer, VirtualService, VirtualServiceBuilder,
    client::packet::{DestinationKey, ServiceKey},
};

use crate::{
    Event, Health, Member, Mode, Outcome,
    member::{Damping, State},
};

/// The weights of slow start change at most this often.
const RAMP_STEP: Duration = Duration::from_millis(500);

/// What becomes of a member that fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnFailure {
    /// Its weight is 0: its connections go on, and so do persistent clients that the kernel still sends
    /// to it. keepalived's `inhibit_on_failure`, ldirectord's `quiescent=yes`.
    #[default]
    Inhibit,
    /// It is taken away at once: [`Step::failed`] names it, so that it is not drained.
    TakeAway,
}

/// What becomes of a service all of whose members have failed, without a sorry server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AllFailed {
    /// It refuses connections.
    #[default]
    Empty,
    /// All members get connections, as if all were healthy: a check that is wrong about all of them does
    /// no harm.
    Open,
}

/// What counts for a member before its first result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BeforeResult {
    /// There is no service to apply before each of the first members has a result; the table stays as
    /// it is. A member that comes later is down until its first result.
    #[default]
    Wait,
    /// It is up.
    Up,
    /// It is down.
    Down,
}

/// How many healthy members a service needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quorum {
    /// The sum of the weights that the healthy ones have without slow start.
    Weight(u32),
    /// Their number.
    Members(u32),
}

/// Collects what a [`Pool`] is to be; [`build`](Self::build) checks it.
#[derive(Clone, Debug)]
#[must_use = "nothing is checked before `build`"]
pub struct PoolBuilder {
    service: VirtualServiceBuilder,
    members: Vec<Member>,
    sorry: Option<RealServer>,
    settings: Settings,
}

#[derive(Clone, Debug)]
struct Settings {
    quorum: Quorum,
    hysteresis: u32,
    on_failure: OnFailure,
    all_failed: AllFailed,
    before_result: BeforeResult,
    slow_start: Duration,
    damping: Option<Damping>,
}

/// A virtual service whose real servers' health decides their weights.
///
/// It does no I/O and has no clock: checks [`report`](Self::report), and [`step`](Self::step) says what the
/// service should be now. The crate's page has an example.
#[derive(Clone, Debug)]
pub struct Pool {
    service: VirtualServiceBuilder,
    key: ServiceKey,
    members: BTreeMap<DestinationKey, Known>,
    sorry: Option<RealServer>,
    settings: Settings,
    /// Whether there has been a service to apply.
    has_begun: bool,
    has_quorum: bool,
    is_sorry_in: bool,
    is_open: bool,
    events: Vec<Event>,
    /// The latest time that anybody told: time does not go back here.
    now: Option<Instant>,
}

/// A member, its whole weight, and what is known of it.
#[derive(Clone, Debug)]
struct Known {
    member: Member,
    weight: u32,
    state: State,
}

/// What follows from all reports so far.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step {
    /// What the service should be now; `None` while the pool [waits](BeforeResult::Wait).
    pub service: Option<VirtualService>,
    /// What happened since the last step, in order.
    pub events: Vec<Event>,
    /// The members that are not in the service because they failed or are in maintenance. They are to be
    /// deleted at once, not drained.
    pub failed: Vec<DestinationKey>,
    /// When the next step is due if nothing is reported before; `None` if never.
    pub next: Option<Instant>,
}

impl PoolBuilder {
    /// Adds a member.
    pub fn member(mut self, member: impl Into<Member>) -> Self {
        self.members.push(member.into());
        self
    }

    /// The server that gets new connections while there is no [quorum](Self::quorum), with the weight that it
    /// has, at least 1. Members then have weight 0 and keep their connections. None by default.
    pub fn sorry(mut self, server: RealServer) -> Self {
        self.sorry = Some(server);
        self
    }

    /// How many healthy members the service needs; a weight of 1 by default.
    pub fn quorum(mut self, quorum: Quorum) -> Self {
        self.settings.quorum = quorum;
        self
    }

    /// The quorum is lost below `quorum - hysteresis`, at least 1, and regained at
    /// `quorum + hysteresis`, at most all members together; 0 by default. keepalived's `hysteresis`.
    pub fn hysteresis(mut self, hysteresis: u32) -> Self {
        self.settings.hysteresis = hysteresis;
        self
    }

    /// What becomes of a member that fails; its weight is 0 by default.
    pub fn on_failure(mut self, on_failure: OnFailure) -> Self {
        self.settings.on_failure = on_failure;
        self
    }

    /// What becomes of the service when all members have failed and there is no sorry server; it refuses
    /// connections by default.
    pub fn all_failed(mut self, all_failed: AllFailed) -> Self {
        self.settings.all_failed = all_failed;
        self
    }

    /// What counts before a member's first result; the pool waits by default.
    pub fn before_result(mut self, before_result: BeforeResult) -> Self {
        self.settings.before_result = before_result;
        self
    }

    /// The weight of a member that comes back, or joins later, rises from 1 to its whole within this time; 0
    /// by default.
    pub fn slow_start(mut self, duration: Duration) -> Self {
        self.settings.slow_start = duration;
        self
    }

    /// A member that went down more than `falls` times within `within` comes back only after it was good
    /// for `hold`. No damping by default.
    pub fn damping(mut self, falls: usize, within: Duration, hold: Duration) -> Self {
        self.settings.damping = Some(Damping { falls, within, hold });
        self
    }

    /// Checks the whole: the service with all members and the sorry server.
    ///
    /// # Errors
    ///
    /// Every [`Rule`](lvs::Rule) that is broken.
    pub fn build(self) -> Result<Pool, Invalid> {
        let Self { service, members, sorry, settings } = self;
        let service = service.without_real_servers();
        let with_sorry = service.clone().real_servers(sorry.clone()).build()?;
        let key = *with_sorry.key();
        // With weight 0 it would be no server to fall back on.
        let is_useless = with_sorry.destinations().iter().any(|it| it.weight.get() == 0);
        let sorry = sorry.map(|server| if is_useless { server.weight(1) } else { server });
        let mut pool = Pool {
            service,
            key,
            members: BTreeMap::new(),
            sorry,
            settings,
            has_begun: false,
            has_quorum: true,
            is_sorry_in: false,
            is_open: false,
            events: Vec::new(),
            now: None,
        };
        pool.take_members(members)?;
        Ok(pool)
    }
}

impl Pool {
    /// Starts a pool for a service. Real servers that the builder has are left out.
    #[allow(clippy::new_ret_no_self, reason = "as VirtualService::tcp")]
    pub fn new(service: VirtualServiceBuilder) -> PoolBuilder {
        PoolBuilder {
            service,
            members: Vec::new(),
            sorry: None,
            settings: Settings {
                quorum: Quorum::Weight(1),
                hysteresis: 0,
                on_failure: OnFailure::default(),
                all_failed: AllFailed::default(),
                before_result: BeforeResult::default(),
                slow_start: Duration::ZERO,
                damping: None,
            },
        }
    }

    /// What identifies the service.
    pub fn key(&self) -> &ServiceKey {
        &self.key
    }

    /// The members in order of their addresses, with their health and mode.
    pub fn members(&self) -> impl Iterator<Item = (&DestinationKey, &Health, Mode)> {
        self.members.iter().map(|(key, known)| (key, &known.state.health, known.state.mode))
    }

    /// Takes in what a check, an agent or a person says of a member. Returns whether there is such a
    /// member: one that has left the pool may still have a check under way.
    pub fn report(&mut self, member: &DestinationKey, outcome: Outcome, now: Instant) -> bool {
        let now = self.time(now);
        let has_begun = self.has_begun;
        let slow_start = self.settings.slow_start;
        let Some(known) = self.members.get_mut(member) else { return false };
        let Known { member: settings, state, .. } = known;
        let before = state.health.clone();
        state.report(settings, outcome, now);
        match (&before, &state.health) {
            (Health::Unknown, Health::Up) => {
                // At the start all members come at once, and there is nobody to spare them.
                state.ramp = (has_begun && !slow_start.is_zero()).then_some(now);
                self.events.push(Event::Up(*member));
            }
            (Health::Unknown | Health::Up, Health::Down(reason)) => {
                self.events.push(Event::Down(*member, reason.clone()));
            }
            _ => {}
        }
        true
    }

    /// What the service should be now.
    pub fn step(&mut self, now: Instant) -> Step {
        let now = self.time(now);
        let mut next = self.raise(now);
        let waits = self.settings.before_result == BeforeResult::Wait
            && !self.has_begun
            && self.members.values().any(|known| {
                known.state.health == Health::Unknown && known.state.mode == Mode::Enabled
            });
        if waits {
            let events = std::mem::take(&mut self.events);
            return Step { service: None, events, failed: Vec::new(), next };
        }
        self.judge();
        let mut servers = Vec::new();
        let mut failed = Vec::new();
        for (key, known) in &self.members {
            let (weight, due) = self.weight(known, now);
            next = next.into_iter().chain(due).min();
            match weight {
                Some(_) if self.is_sorry_in && self.is_sorry(key) => {}
                Some(weight) => servers.push(known.member.server.clone().weight(weight)),
                None => failed.push(*key),
            }
        }
        servers.extend(self.sorry.clone().filter(|_| self.is_sorry_in));
        self.has_begun = true;
        let service = self.service.clone().real_servers(servers).build();
        // With all members it was checked, and a part of them breaks no rule that the whole does not.
        Step { service: service.ok(), events: std::mem::take(&mut self.events), failed, next }
    }

    /// Takes other members. Those that stay keep their health, their mode and their slow start; new ones have
    /// no result yet. Members with one address and port count once, the last.
    ///
    /// # Errors
    ///
    /// Every [`Rule`](lvs::Rule) that is broken; nothing has changed then.
    pub fn replace(
        &mut self,
        members: impl IntoIterator<Item = Member>,
        now: Instant,
    ) -> Result<(), Invalid> {
        self.time(now);
        self.take_members(members)
    }

    fn take_members(&mut self, members: impl IntoIterator<Item = Member>) -> Result<(), Invalid> {
        let members: BTreeMap<_, _> =
            members.into_iter().map(|member| (member.server.key(&self.key), member)).collect();
        let servers = members.values().map(|member| member.server.clone());
        let whole = self.service.clone().real_servers(servers).build()?;
        let mut before = std::mem::take(&mut self.members);
        self.members = members
            .into_iter()
            .map(|(key, member)| {
                let weight = whole.destination(&key).map_or(0, |it| it.weight.get());
                let state = before.remove(&key).map_or_else(State::new, |known| known.state);
                (key, Known { member, weight, state })
            })
            .collect();
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn has_sorry(&self) -> bool {
        self.sorry.is_some()
    }

    /// What is known of each member.
    pub(crate) fn stored(&self) -> impl Iterator<Item = (&DestinationKey, Mode, u8, &Health)> {
        let known = self.members.iter();
        known.map(|(key, Known { state, .. })| (key, state.mode, state.percent, &state.health))
    }

    /// Takes over what was known of a member, if there is such a one.
    pub(crate) fn know(
        &mut self,
        key: &DestinationKey,
        mode: Mode,
        percent: u8,
        health: Health,
        now: Instant,
    ) {
        self.time(now);
        if let Some(known) = self.members.get_mut(key) {
            known.state = State::new();
            (known.state.health, known.state.mode, known.state.percent) = (health, mode, percent);
        }
    }

    fn is_sorry(&self, key: &DestinationKey) -> bool {
        self.sorry.as_ref().is_some_and(|sorry| sorry.key(&self.key) == *key)
    }

    /// Brings back whoever was good for long enough, and ends slow starts. Returns when somebody may come
    /// back without another result.
    fn raise(&mut self, now: Instant) -> Option<Instant> {
        let Settings { damping, slow_start, .. } = self.settings;
        let mut next = None;
        for (key, Known { member, state, .. }) in &mut self.members {
            let (is_back, due) = state.rise(member, damping, now);
            next = next.into_iter().chain(due).min();
            if is_back {
                state.ramp = (!slow_start.is_zero()).then_some(now);
                self.events.push(Event::Up(*key));
            } else if state.ramp.is_some_and(|start| now >= start + slow_start) {
                state.ramp = None;
                self.events.push(Event::RampEnded(*key));
            }
        }
        next
    }

    /// Decides on the quorum, and who gets connections without one.
    fn judge(&mut self) {
        let Settings { quorum, hysteresis, all_failed, .. } = self.settings;
        let worth = |weight: u32| match quorum {
            Quorum::Weight(_) => u64::from(weight),
            Quorum::Members(_) => u64::from(weight > 0),
        };
        let (Quorum::Weight(needed) | Quorum::Members(needed)) = quorum;
        let whole: u64 = self.members.values().map(|known| worth(known.weight)).sum();
        let healthy: u64 = self.members.values().map(|known| worth(self.healthy(known))).sum();
        let (needed, hysteresis) = (u64::from(needed), u64::from(hysteresis));
        let limit = if !self.has_begun {
            needed
        } else if self.has_quorum {
            needed.saturating_sub(hysteresis)
        } else {
            needed + hysteresis
        };
        let had_quorum = self.has_quorum;
        self.has_quorum = healthy >= limit.min(whole).max(1);
        if self.has_quorum != had_quorum {
            let event = if had_quorum { Event::QuorumLost } else { Event::QuorumRegained };
            self.events.push(event);
        }
        let is_sorry_in = !self.has_quorum && self.sorry.is_some();
        if is_sorry_in != self.is_sorry_in {
            self.is_sorry_in = is_sorry_in;
            self.events.push(if is_sorry_in { Event::SorryIn } else { Event::SorryOut });
        }
        let has_failed = self.members.values().any(|known| {
            known.state.mode == Mode::Enabled && matches!(known.state.health, Health::Down(_))
        });
        let is_open =
            all_failed == AllFailed::Open && self.sorry.is_none() && healthy == 0 && has_failed;
        if is_open != self.is_open {
            self.is_open = is_open;
            self.events.push(if is_open { Event::FailOpenBegan } else { Event::FailOpenEnded });
        }
    }

    /// The weight that a member's health and agent allow it, without slow start.
    fn healthy(&self, known: &Known) -> u32 {
        let Known { state, .. } = known;
        let is_up = match state.health {
            Health::Up => true,
            Health::Unknown => self.settings.before_result == BeforeResult::Up,
            Health::Down(_) => false,
        };
        if is_up && state.mode == Mode::Enabled { known.share() } else { 0 }
    }

    /// A member's weight in the service, `None` if it is not to be there, and when that changes by itself.
    fn weight(&self, known: &Known, now: Instant) -> (Option<u32>, Option<Instant>) {
        let Known { state, .. } = known;
        let healthy = self.healthy(known);
        match state.mode {
            Mode::Maintenance => (None, None),
            Mode::Draining => (Some(0), None),
            Mode::Enabled if self.is_sorry_in => (self.failed(&state.health), None),
            Mode::Enabled if healthy > 0 => {
                let (weight, due) = known.risen(healthy, self.settings.slow_start, now);
                (Some(weight), due)
            }
            Mode::Enabled if self.is_open => (Some(known.share()), None),
            Mode::Enabled => (self.failed(&state.health), None),
        }
    }

    /// What is left of the weight of a member that gets no connections.
    fn failed(&self, health: &Health) -> Option<u32> {
        let is_taken_away =
            self.settings.on_failure == OnFailure::TakeAway && matches!(health, Health::Down(_));
        (!is_taken_away).then_some(0)
    }

    fn time(&mut self, now: Instant) -> Instant {
        *self.now.insert(self.now.map_or(now, |last| last.max(now)))
    }
}

impl Known {
    /// Its whole weight by the agent's share, at least 1 unless one of both is 0.
    fn share(&self) -> u32 {
        let share = u64::from(self.weight) * u64::from(self.state.percent) / 100;
        let least = u32::from(self.weight > 0 && self.state.percent > 0);
        // Not above the whole weight, which is a u32.
        u32::try_from(share).unwrap_or(self.weight).max(least)
    }

    /// A weight as far as slow start has come, and when it has come further.
    fn risen(&self, weight: u32, slow_start: Duration, now: Instant) -> (u32, Option<Instant>) {
        let Some(start) = self.state.ramp else { return (weight, None) };
        let elapsed = now.saturating_duration_since(start).as_nanos();
        let whole = slow_start.as_nanos().max(1);
        let part = u128::from(weight) * elapsed / whole;
        let part = u32::try_from(part).unwrap_or(weight).clamp(weight.min(1), weight);
        // When one more is due: rounded up, so that it is then.
        let nanos = (u128::from(part) + 1) * whole / u128::from(weight.max(1)) + 1;
        let after = u64::try_from(nanos).map_or(slow_start, Duration::from_nanos);
        let due = (start + after).max(now + RAMP_STEP).min(start + slow_start).max(now);
        (part, Some(due))
    }
}
