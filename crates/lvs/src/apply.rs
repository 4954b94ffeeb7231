//! How a plan is carried out, without I/O: the next writes come out, and what became of them goes
//! in.

mod verdict;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
};

use ipvs_client::{
    Error, ErrorKind, Snapshot,
    packet::{DestinationKey, Request, ServiceKey, Unreadable},
};

use self::verdict::Verdict;
use crate::{
    Draining,
    plan::{Action, Change, Phase, Plan},
};

/// How often services are read and planned again that others changed meanwhile.
const ROUNDS: usize = 4;
/// How many writes are handed out at once: a bound on the memory that they take. A datagram takes
/// fewer.
const WRITES: usize = 2048;

/// What an apply did: every change with what became of it.
///
/// It iterates over the changes that it made.
#[derive(Debug)]
pub struct Applied {
    plan: Plan,
    /// What became of the changes, by phase and position, of those that were not just done.
    exceptions: BTreeMap<(usize, usize), State>,
    /// The real servers that are left draining.
    draining: BTreeSet<(ServiceKey, DestinationKey)>,
}

/// What became of a [`Change`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Outcome<'a> {
    /// It was made.
    Done,
    /// Another writer was faster: what was to be added was there, or what was to be taken away was
    /// gone. The service was read again, and what still differed became changes of its own.
    Already,
    /// It failed.
    Failed(&'a Error),
    /// It was not tried, because another change of the same service failed, or because the apply
    /// ended before.
    NotSent,
}

/// What became of a change that was not just done.
#[derive(Debug)]
enum State {
    Already,
    Failed(Error),
    NotSent,
    /// It was not tried, and its service was planned again.
    Replaced,
}

impl Applied {
    /// Every change with what became of it, in the order in which they were tried within each phase.
    pub fn outcomes(&self) -> impl Iterator<Item = (&Change, Outcome<'_>)> + '_ {
        Phase::ALL.into_iter().flat_map(move |phase| {
            self.plan.phase(phase).iter().enumerate().filter_map(move |(index, change)| {
                let outcome = match self.exceptions.get(&(phase as usize, index)) {
                    None => Outcome::Done,
                    Some(State::Already) => Outcome::Already,
                    Some(State::Failed(error)) => Outcome::Failed(error),
                    Some(State::NotSent) => Outcome::NotSent,
                    Some(State::Replaced) => return None,
                };
                Some((change, outcome))
            })
        })
    }

    /// The changes that were made.
    pub fn done(&self) -> impl Iterator<Item = &Change> + '_ {
        self.outcomes()
            .filter_map(|(change, outcome)| matches!(outcome, Outcome::Done).then_some(change))
    }

    /// What is not done because it is [more than allowed](crate::Policy::max_deletions).
    pub fn held_back(&self) -> impl ExactSizeIterator<Item = &Change> + '_ {
        self.plan.held_back()
    }

    /// How many services and real servers these are, as the limit counts them.
    pub fn held_back_count(&self) -> usize {
        self.plan.held_back_count()
    }

    /// The services that others kept changing, so that nothing of them was drained or taken away.
    pub fn uncertain(&self) -> &BTreeSet<ServiceKey> {
        self.plan.uncertain()
    }

    /// What cannot be read of the services that the apply was about, so that these were left as they are.
    pub fn unreadable(&self) -> impl Iterator<Item = &Unreadable> + '_ {
        self.plan.unreadable()
    }

    /// The services that were left as they are since they cannot be read.
    pub(crate) fn unreadable_services(&self) -> impl Iterator<Item = &ServiceKey> + '_ {
        self.plan.unreadable_services()
    }

    /// Whether nothing was changed.
    pub fn is_empty(&self) -> bool {
        self.done().next().is_none()
    }

    /// How many changes were made.
    pub fn len(&self) -> usize {
        self.done().count()
    }

    /// The real servers that are left draining, at weight 0: what [`Plan::draining`] said and could be done.
    pub fn draining(&self) -> impl Iterator<Item = (&ServiceKey, &DestinationKey)> + '_ {
        self.draining.iter().map(|(service, real_server)| (service, real_server))
    }

    /// With what became of the changes of a plan that was carried out after this one.
    pub(crate) fn then(mut self, later: Self) -> Self {
        let offsets = Phase::ALL.map(|phase| self.plan.phase(phase).len());
        let moved = later.exceptions.into_iter();
        self.exceptions
            .extend(moved.map(|((phase, index), state)| ((phase, offsets[phase] + index), state)));
        self.plan.extend(later.plan);
        self
    }

    /// What is left draining is what is known to be.
    pub(crate) fn with_draining(mut self, draining: &Draining) -> Self {
        self.draining = draining.iter().map(|(service, server, _)| (service, server)).collect();
        self
    }

    /// Takes what was begun, what is gone and what is new into the plan's memory.
    fn remember(&mut self) {
        let mut left: BTreeSet<_> =
            self.plan.draining().map(|(service, server)| (*service, *server)).collect();
        let mut known = self.plan.memory.lock();
        for (change, outcome) in self.outcomes() {
            let service = change.service();
            if !matches!(outcome, Outcome::Done | Outcome::Already) {
                if let Action::DrainRealServer { before, .. } = change.action() {
                    known.leaving.not_begun(service, &before.key);
                    left.remove(&(*service, before.key));
                }
                continue;
            }
            match change.action() {
                Action::DeleteService { .. } => {
                    known.guard.gone(service, None);
                    known.leaving.gone(service, None);
                }
                Action::DeleteRealServer { before } => {
                    known.guard.gone(service, Some(&before.key));
                    known.leaving.gone(service, Some(&before.key));
                }
                Action::DrainRealServer { after, .. } | Action::UpdateRealServer { after, .. } => {
                    known.guard.begun(service, &after.key);
                }
                Action::AddService { .. } | Action::AddRealServer { .. } => {
                    known.guard.added(self.plan.now());
                }
                Action::UpdateService { .. } => {}
            }
        }
        drop(known);
        self.draining = left;
    }

    fn count(&self, is: impl Fn(Outcome<'_>) -> bool) -> usize {
        self.outcomes().filter(|(_, outcome)| is(*outcome)).count()
    }

    /// How many changes others had made already.
    pub fn already(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Already))
    }

    /// The changes that failed, with their errors.
    pub fn failed(&self) -> impl Iterator<Item = (&Change, &Error)> + '_ {
        self.outcomes().filter_map(|(change, outcome)| match outcome {
            Outcome::Failed(error) => Some((change, error)),
            _ => None,
        })
    }

    fn is_whole(&self) -> bool {
        self.failed().next().is_none() && self.unreadable_services().next().is_none()
    }

    /// How many changes were not tried.
    pub fn not_sent(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::NotSent))
    }
}

/// Over the changes that were made.
impl IntoIterator for Applied {
    type Item = Change;
    type IntoIter = std::vec::IntoIter<Change>;

    fn into_iter(self) -> Self::IntoIter {
        self.done().cloned().collect::<Vec<_>>().into_iter()
    }
}

/// Something of an apply failed. What did not is done, and applying again goes on from there.
#[derive(Debug)]
pub struct ApplyError {
    applied: Option<Box<Applied>>,
    /// What ended the apply.
    common: Option<Error>,
}

impl ApplyError {
    /// The table could not be read, so nothing was sent.
    pub(crate) fn unread(error: Error) -> Self {
        Self { applied: None, common: Some(error) }
    }

    /// What was done, if nothing of it failed.
    pub(crate) fn unless_done(
        applied: Option<Applied>,
        common: Option<Error>,
    ) -> Result<Applied, Self> {
        match applied {
            Some(applied) if common.is_none() && applied.is_whole() => Ok(applied),
            applied => Err(Self { applied: applied.map(Box::new), common }),
        }
    }

    pub(crate) fn into_parts(self) -> (Option<Applied>, Option<Error>) {
        (self.applied.map(|applied| *applied), self.common)
    }

    /// What became of each change; `None` where the table could not be read.
    pub fn applied(&self) -> Option<&Applied> {
        self.applied.as_deref()
    }

    /// What ended the apply, if anything did: an error that is not about one service, such as a
    /// missing right.
    pub fn common(&self) -> Option<&Error> {
        self.common.as_ref()
    }

    /// The first error: the common one, or else that of the first change that failed.
    pub fn first(&self) -> Option<&Error> {
        let failed = self.applied.as_ref().and_then(|applied| applied.failed().next());
        self.common.as_ref().or(failed.map(|(_, error)| error))
    }
}

/// One error a line, and then how much was done.
impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = &self.common {
            write!(f, "{error}")?;
        }
        let Some(applied) = &self.applied else { return Ok(()) };
        for (number, (_, error)) in applied.failed().enumerate() {
            if number > 0 || self.common.is_some() {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        let mut is_first = self.common.is_none() && applied.failed().next().is_none();
        for entry in applied.unreadable() {
            if !std::mem::take(&mut is_first) {
                writeln!(f)?;
            }
            write!(f, "{entry}; its service is left as it is")?;
        }
        let (done, not_sent) = (applied.len(), applied.not_sent());
        write!(f, "\nchanges made: {done}, failed: {}", applied.failed().count())?;
        write!(f, ", not tried: {not_sent}")
    }
}

impl std::error::Error for ApplyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.first().map(|error| error as _)
    }
}

impl From<ApplyError> for io::Error {
    fn from(error: ApplyError) -> Self {
        let kind = match error.first().map(Error::kind) {
            Some(ErrorKind::PermissionDenied) => io::ErrorKind::PermissionDenied,
            Some(ErrorKind::NotAvailable | ErrorKind::Unsupported) => io::ErrorKind::Unsupported,
            Some(ErrorKind::Invalid | ErrorKind::SchedulerNotFound | ErrorKind::EngineNotFound) => {
                io::ErrorKind::InvalidInput
            }
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// What comes next in an apply.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    /// These writes are to be carried out, in order, and their outcomes [told](Apply::wrote).
    Write(&'a [Request]),
    /// These services are to be read, and [told](Apply::read).
    Read(&'a BTreeSet<ServiceKey>),
    /// It is over.
    Done,
}

/// A plan that is being carried out.
#[derive(Debug)]
pub(crate) struct Apply {
    plan: Plan,
    exceptions: BTreeMap<(usize, usize), State>,
    phase: usize,
    /// Where each phase goes on.
    next: [usize; 4],
    writes: Vec<Request>,
    /// The positions in the phase of what `writes` holds.
    written: Vec<usize>,
    /// What others seem to have changed, in this round.
    conflicts: Vec<((usize, usize), Error)>,
    /// The services to read and plan again.
    again: BTreeSet<ServiceKey>,
    /// The services of which something was refused.
    refused: BTreeSet<ServiceKey>,
    /// Those of them that could not even be added.
    missing: BTreeSet<ServiceKey>,
    common: Option<Error>,
    rounds: usize,
}

impl Apply {
    pub(crate) fn new(mut plan: Plan) -> Self {
        plan.begin();
        Self {
            again: plan.uncertain().clone(),
            plan,
            exceptions: BTreeMap::new(),
            phase: 0,
            next: [0; 4],
            writes: Vec::new(),
            written: Vec::new(),
            conflicts: Vec::new(),
            refused: BTreeSet::new(),
            missing: BTreeSet::new(),
            common: None,
            rounds: 1,
        }
    }

    /// What comes next.
    pub(crate) fn step(&mut self) -> Step<'_> {
        while self.phase < Phase::ALL.len() {
            self.fill();
            if !self.writes.is_empty() {
                return Step::Write(&self.writes);
            }
            self.phase += 1;
        }
        self.end_of_round();
        if self.again.is_empty() || self.common.is_some() {
            return Step::Done;
        }
        Step::Read(&self.again)
    }

    /// Takes the next writes of the phase.
    fn fill(&mut self) {
        self.writes.clear();
        self.written.clear();
        let phase = Phase::ALL[self.phase];
        let changes = self.plan.phase(phase);
        while self.written.len() < WRITES {
            let index = self.next[self.phase];
            let Some(change) = changes.get(index) else { break };
            self.next[self.phase] += 1;
            let service = change.service();
            let takes_away = phase >= Phase::Drain && change.real_server().is_some();
            let is_held_back = self.common.is_some()
                || self.missing.contains(service)
                || takes_away && self.refused.contains(service);
            if is_held_back {
                self.exceptions.insert((self.phase, index), State::NotSent);
            } else if takes_away && self.again.contains(service) {
                self.exceptions.insert((self.phase, index), State::Replaced);
            } else {
                self.writes.push(change.request());
                self.written.push(index);
            }
        }
    }

    /// What became of the writes, in their order.
    pub(crate) fn wrote(&mut self, outcomes: impl IntoIterator<Item = Result<(), Error>>) {
        let mut outcomes = outcomes.into_iter();
        for index in std::mem::take(&mut self.written) {
            let place = (self.phase, index);
            let error = match outcomes.next() {
                Some(Ok(())) => continue,
                Some(Err(error)) => error,
                None => {
                    self.exceptions.insert(place, State::NotSent);
                    continue;
                }
            };
            let change = &self.plan.phase(Phase::ALL[self.phase])[index];
            let service = *change.service();
            match (Verdict::of(&error), change.action()) {
                (Verdict::Meanwhile, Action::DeleteService { .. }) => {
                    self.exceptions.insert(place, State::Already);
                }
                (Verdict::Meanwhile, _) => {
                    self.again.insert(service);
                    self.conflicts.push((place, error));
                }
                (Verdict::Refused, action) => {
                    self.refused.insert(service);
                    if let Action::AddService { .. } = action {
                        self.missing.insert(service);
                    }
                    self.exceptions.insert(place, State::Failed(error));
                }
                (Verdict::Common, _) if self.common.is_none() => {
                    self.exceptions.insert(place, State::NotSent);
                    self.common = Some(error);
                }
                (Verdict::Common | Verdict::NotSent, _) => {
                    self.exceptions.insert(place, State::NotSent);
                }
            }
        }
        self.writes.clear();
    }

    /// Judges what others seem to have changed: it is so already, if it can be looked at again.
    fn end_of_round(&mut self) {
        let last = self.rounds == ROUNDS || self.common.is_some();
        for (place, error) in std::mem::take(&mut self.conflicts) {
            let service = self.plan.phase(Phase::ALL[place.0])[place.1].service();
            let state = match last || self.refused.contains(service) {
                true => State::Failed(error),
                false => State::Already,
            };
            self.exceptions.insert(place, state);
        }
        self.again.retain(|service| !last && !self.refused.contains(service));
    }

    /// What the services are now that were to be read.
    pub(crate) fn read(&mut self, table: &Snapshot) {
        let again = self.plan.again(&self.again, table);
        self.rounds += 1;
        self.phase = 0;
        self.again.clone_from(again.uncertain());
        self.plan.extend(again);
    }

    /// They could not be read.
    pub(crate) fn unread(&mut self, error: Error) {
        self.common = Some(error);
        self.again.clear();
    }

    /// What was done.
    ///
    /// # Errors
    ///
    /// Where a change failed, or a service could not be read.
    pub(crate) fn finish(self) -> Result<Applied, ApplyError> {
        let (plan, exceptions) = (self.plan, self.exceptions);
        let mut applied = Applied { plan, exceptions, draining: BTreeSet::new() };
        applied.remember();
        ApplyError::unless_done(Some(applied), self.common)
    }
}
