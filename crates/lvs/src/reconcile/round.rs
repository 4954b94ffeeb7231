//! One round: read, plan, write, and take in how it ended.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use ipvs_client::{Error, Snapshot, packet::ServiceKey};

use super::Reconciler;
use crate::{
    Action, Applied, ApplyError, Ended, Ledger, Plan, Port, Turn,
    plan::planner::{Keys, make},
    port::read_services,
    schedule::later,
};

/// What a reconciler has done so far.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Status {
    /// Rounds carried out.
    pub rounds: u64,
    /// Those of them that read the whole table.
    pub whole_rounds: u64,
    /// Changes made.
    pub changes: u64,
    /// Those of them that made [undone](Reconciler::undone) what another program did.
    pub repairs: u64,
    /// Changes that failed, and rounds that failed as a whole.
    pub failures: u64,
    /// How many rounds have failed since the last one that did not.
    pub failed_in_a_row: u32,
    /// When a round last ended without a failure.
    pub last_success: Option<Instant>,
    /// The error of the last round that failed.
    pub last_error: Option<String>,
    /// How many services and real servers are to go, and are held back until that is
    /// [confirmed](Reconciler::confirm); counted as [the limit](crate::Policy::max_deletions) counts
    /// them.
    pub held_back: usize,
    /// How many real servers are being drained.
    pub draining: usize,
    /// The last [generation](Reconciler::generation) of which everything is in the kernel: nothing of
    /// it failed, is held back or on hold, or waits for the ledger. Real servers may still be draining.
    pub in_effect: u64,
}

/// One round of a [`Reconciler`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Round {
    /// What it was about, and why.
    pub turn: Turn,
    /// The [generation](Reconciler::generation) that it was made from.
    pub generation: u64,
    /// What it read, before it wrote: the whole table, or those of the services that existed. `None`
    /// where it could not be read.
    pub table: Option<Snapshot>,
    /// How long it took to read.
    pub reading: Duration,
    /// How long it took to plan.
    pub planning: Duration,
    /// How long it took to write.
    pub writing: Duration,
    /// What it did.
    pub result: Result<Applied, ApplyError>,
}

impl Round {
    /// The services that it was about; `None` where it was the whole table.
    pub fn services(&self) -> Option<&BTreeSet<ServiceKey>> {
        self.turn.services()
    }

    /// What became of each change; `None` where the table could not be read.
    pub fn applied(&self) -> Option<&Applied> {
        applied(&self.result)
    }
}

impl Turn {
    /// Reads what the turn is about.
    ///
    /// # Errors
    ///
    /// Where the table cannot be read.
    pub async fn read(&self, port: &impl Port) -> Result<Snapshot, Error> {
        match self.services() {
            None => port.snapshot().await,
            Some(keys) => read_services(port, keys).await,
        }
    }
}

impl Reconciler {
    /// What a round would be about now; `None` if none is due.
    pub fn turn(&self, now: Instant) -> Option<Turn> {
        self.schedule.next_of(Some(self.desired.len()), now)
    }

    /// The plan of a turn, given what it read. It is expected to be applied, and then
    /// [finished](Self::finish).
    pub fn plan(&mut self, turn: &Turn, table: &Snapshot, now: Instant) -> Plan {
        if let (Some(ledger), None) = (self.policy.ledger_mut(), turn.services()) {
            ledger.settle(&self.desired, table);
        }
        self.planned = self.generation;
        let stored = self.policy.ledger().and(self.policy.limit()).and(self.stored.as_ref());
        self.draining.memory.lock().guard.set_stored(stored.map(Ledger::taken));
        let covers = |key: &ServiceKey| turn.services().is_none_or(|keys| keys.contains(key));
        self.absent.retain(|key| !covers(key));
        let is_absent = |key: &&ServiceKey| {
            covers(key)
                && self.desired.get(key).is_some()
                && !table.services.contains_key(*key)
                && table.is_readable(key)
        };
        self.absent.extend(self.held.iter().filter(is_absent));
        let skipped: BTreeSet<ServiceKey> = turn.skipped().union(&self.claims).copied().collect();
        let keys = Keys { only: turn.services(), skipped: &skipped, held: &self.held };
        let plan = make(keys, &self.desired, table, &self.policy, &self.draining.memory, Some(now));
        self.note_taken(turn, now);
        plan
    }

    /// Has the ledger say how much was let go, and how much waits for it to say so.
    fn note_taken(&mut self, turn: &Turn, now: Instant) {
        let wanted = self.draining.memory.lock().guard.wanted(self.policy.limit(), now);
        if let Some(ledger) = self.policy.ledger_mut() {
            // What is over is forgotten with the next look at the whole table, to store it less often.
            if wanted > ledger.taken() || turn.services().is_none() {
                ledger.set_taken(wanted);
            }
        }
    }

    /// Takes in how a turn ended, at this time.
    pub fn finish(&mut self, turn: &Turn, result: &Result<Applied, ApplyError>, now: Instant) {
        #[cfg(feature = "tracing")]
        let (held_back, repairs) = (self.status.held_back, self.status.repairs);
        #[cfg(feature = "tracing")]
        super::trace::changes(result);
        self.note_repairs(result, now);
        self.note_taken(turn, now);
        let status = &mut self.status;
        status.rounds += 1;
        status.whole_rounds += u64::from(turn.services().is_none());
        let mut ended = Ended::default();
        let mut failures = 0;
        if let Some(applied) = applied(result) {
            status.changes += applied.len() as u64;
            ended.again.extend(applied.uncertain());
            for (change, _) in applied.failed() {
                ended.again.insert(*change.service());
                failures += 1;
            }
            for key in applied.unreadable_services() {
                ended.again.insert(*key);
                failures += 1;
            }
        }
        match result {
            Ok(_) => {
                status.failed_in_a_row = 0;
                status.last_success = Some(now);
            }
            Err(error) => {
                status.failures += failures.max(1);
                status.failed_in_a_row += 1;
                status.last_error = Some(error.to_string());
                ended.failed = error.common().is_some();
            }
        }
        status.draining = self.draining.len();
        status.held_back = self.draining.held_back_count();
        ended.looks = self.draining.looks(&self.policy, now);
        ended.release = self.draining.release(&self.policy, now);
        let failed = ended.failed;
        self.schedule.finished(turn, ended, now);
        let waits = failed
            || self.status.held_back > 0
            || !self.claims.is_empty()
            || self.draining.memory.lock().guard.waits()
            || !self.absent.is_empty();
        if !waits && self.schedule.unfinished().next().is_none() {
            self.status.in_effect = self.planned;
        }
        #[cfg(feature = "tracing")]
        super::trace::left(self, held_back, repairs, now);
    }

    /// What was added or changed though nothing new was desired was as desired once. The first round
    /// finds the table as it was before.
    fn note_repairs(&mut self, result: &Result<Applied, ApplyError>, now: Instant) {
        let Some(applied) = applied(result).filter(|_| self.status.whole_rounds > 0) else {
            return;
        };
        for change in applied.done().filter(|change| !self.schedule.is_unfinished(change.service()))
        {
            if let Action::AddService { .. }
            | Action::UpdateService { .. }
            | Action::AddRealServer { .. }
            | Action::UpdateRealServer { .. } = change.action()
            {
                self.status.repairs += 1;
                self.repairs.add(*change.service(), change.real_server().copied(), now);
            }
        }
    }

    /// Carries out a round if one is due: reads, plans and writes. `None` if none is.
    ///
    /// `now` is what the schedule goes by: [`Instant::now`], or what a test says. A round that is
    /// dropped half-way stays due. With the feature `tracing` it is a span.
    pub async fn round<P: Port>(&mut self, port: &P, now: Instant) -> Option<Round> {
        let turn = self.turn(now)?;
        #[cfg(feature = "tracing")]
        {
            use tracing::Instrument as _;
            let span = super::trace::round(self, &turn);
            Some(self.carry_out(turn, port, now).instrument(span).await)
        }
        #[cfg(not(feature = "tracing"))]
        Some(self.carry_out(turn, port, now).await)
    }

    async fn carry_out<P: Port>(&mut self, turn: Turn, port: &P, now: Instant) -> Round {
        let start = port.clock();
        let took = || port.clock().saturating_sub(start);
        let table = match turn.services() {
            None => {
                // What others do to what is not ours is no reason to look again.
                let (desired, policy) = (&self.desired, &self.policy);
                let concerns =
                    |key: &ServiceKey| desired.get(key).is_some() || policy.may_delete(key);
                port.snapshot_concerning(&concerns).await
            }
            Some(_) => turn.read(port).await,
        };
        let reading = took();
        let mut planning = Duration::ZERO;
        let (table, result) = match table {
            Err(error) => (None, Err(ApplyError::unread(error))),
            Ok(table) => {
                let plan = self.plan(&turn, &table, now);
                planning = took().saturating_sub(reading);
                (Some(table), plan.apply(port).await)
            }
        };
        let took = took();
        let writing = took.saturating_sub(reading + planning);
        // Intervals count from the end, so that a large table is not read without a pause.
        self.finish(&turn, &result, later(now, took));
        let generation = self.planned;
        Round { turn, generation, table, reading, planning, writing, result }
    }
}

fn applied(result: &Result<Applied, ApplyError>) -> Option<&Applied> {
    match result {
        Ok(applied) => Some(applied),
        Err(error) => error.applied(),
    }
}
