//! One member of a pool: what it should be, and what is known of its health.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use lvs::RealServer;

/// A real server of a [`Pool`](crate::Pool), and how many results decide its health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub(crate) server: RealServer,
    pub(crate) rise: u32,
    pub(crate) fall: u32,
}

impl Member {
    /// A real server with the weight that it has when it is healthy.
    pub fn new(server: RealServer) -> Self {
        Self { server, rise: 2, fall: 3 }
    }

    /// The weight that it has when it is healthy, 0 to 2,147,483,647; the real server's own by default.
    /// For [slow start](crate::PoolBuilder::slow_start) choose one of 10 or more. `ipvsadm -w`.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.server = self.server.weight(weight);
        self
    }

    /// How many good results in a row bring it back; 2 by default, at least 1.
    #[must_use]
    pub fn rise(mut self, results: u32) -> Self {
        self.rise = results.max(1);
        self
    }

    /// How many bad results in a row take it out; 3 by default, at least 1. The very first result decides
    /// by itself.
    #[must_use]
    pub fn fall(mut self, results: u32) -> Self {
        self.fall = results.max(1);
        self
    }
}

impl From<RealServer> for Member {
    fn from(server: RealServer) -> Self {
        Self::new(server)
    }
}

/// What a check, an agent or a person says of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// A check passed.
    Good,
    /// A check failed, and why, in words for a log: `connect: Connection refused`.
    Bad(String),
    /// It wants this share of its weight, in percent, 0 to 100; more counts as 100.
    Weight(u8),
    /// No new connections; those that it has, and persistent clients, go on.
    Drain,
    /// It is taken away at once, whatever connections it has.
    Maintenance,
    /// The end of [`Drain`](Self::Drain) and [`Maintenance`](Self::Maintenance).
    Enable,
}

/// Whether a member is healthy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// No check has said anything yet.
    Unknown,
    /// It answers.
    Up,
    /// It does not answer, and why.
    Down(String),
}

/// What a person or an agent wants of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// Its health decides.
    Enabled,
    /// It gets no new connections.
    Draining,
    /// It is not in the service.
    Maintenance,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown"),
            Self::Up => f.write_str("up"),
            Self::Down(reason) => write!(f, "down: {reason}"),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Enabled => "enabled",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
        })
    }
}

/// How often a member may go down before it has to be good for longer to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damping {
    pub(crate) falls: usize,
    pub(crate) within: Duration,
    pub(crate) hold: Duration,
}

/// What is known of a member.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) health: Health,
    pub(crate) mode: Mode,
    pub(crate) percent: u8,
    /// Results of one kind in a row.
    good: u32,
    bad: u32,
    good_since: Option<Instant>,
    /// When it went down lately.
    falls: VecDeque<Instant>,
    /// When it came back, while its weight still rises.
    pub(crate) ramp: Option<Instant>,
}

impl State {
    pub(crate) fn new() -> Self {
        Self {
            health: Health::Unknown,
            mode: Mode::Enabled,
            percent: 100,
            good: 0,
            bad: 0,
            good_since: None,
            falls: VecDeque::new(),
            ramp: None,
        }
    }

    pub(crate) fn report(&mut self, member: &Member, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Good => {
                self.bad = 0;
                self.good = self.good.saturating_add(1);
                self.good_since.get_or_insert(now);
                if self.health == Health::Unknown {
                    self.health = Health::Up;
                }
            }
            Outcome::Bad(reason) => {
                self.good = 0;
                self.good_since = None;
                self.bad = self.bad.saturating_add(1);
                match &mut self.health {
                    Health::Unknown => self.health = Health::Down(reason),
                    Health::Up if self.bad >= member.fall => {
                        self.health = Health::Down(reason);
                        self.ramp = None;
                        self.falls.push_back(now);
                    }
                    Health::Up => {}
                    // The last reason is the one that helps.
                    Health::Down(last) => *last = reason,
                }
            }
            Outcome::Weight(percent) => self.percent = percent.min(100),
            Outcome::Drain => self.mode = Mode::Draining,
            Outcome::Maintenance => self.mode = Mode::Maintenance,
            Outcome::Enable => self.mode = Mode::Enabled,
        }
    }

    /// Brings it back if it has been good for long enough. Otherwise, when that may be: `None` for
    /// after another result.
    pub(crate) fn rise(
        &mut self,
        member: &Member,
        damping: Option<Damping>,
        now: Instant,
    ) -> (bool, Option<Instant>) {
        if !matches!(self.health, Health::Down(_)) || self.good < member.rise {
            return (false, None);
        }
        if let Some(damping) = damping {
            let recent = |fall: &Instant| now.saturating_duration_since(*fall) < damping.within;
            while self.falls.front().is_some_and(|fall| !recent(fall)) {
                self.falls.pop_front();
            }
            let since = self.good_since.unwrap_or(now);
            if self.falls.len() > damping.falls && now < since + damping.hold {
                return (false, Some(since + damping.hold));
            }
        }
        self.health = Health::Up;
        (true, None)
    }
}
