//! What was taken away lately, and what is held back. It does no I/O and takes the time as an
//! argument.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use ipvs_client::packet::{DestinationKey, ServiceKey};

use crate::{
    limit::Limit,
    removal::{HeldBack, Removal, RemovalKind},
};

/// The memory behind a [`Limit`].
///
/// A removal is counted when a plan lets it go, not when it is written: a round that is dropped
/// half-way has counted all that it may have done. What turns out not to have been done is counted
/// back. A real server whose drain was counted is deleted later without being counted again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guard {
    window: Vec<Spent>,
    counted: BTreeMap<Removal, Counted>,
    /// What is held back, and the removal that it goes with: that of its service, or that its service is
    /// left without a usable real server.
    held: BTreeMap<Removal, Option<Removal>>,
    confirmed: BTreeSet<Removal>,
    /// How many services and real servers there are, without those that are counted.
    size: Option<usize>,
    journal: Option<Journal>,
}

/// What a ledger says of the window, so that it holds over a restart.
#[derive(Clone, Debug, Default)]
struct Journal {
    /// How many removals the one that is stored speaks of: no more are let go.
    stored: usize,
    /// How many it should speak of.
    wanted: usize,
    /// The services with removals that wait for it.
    waiting: BTreeSet<ServiceKey>,
    /// What was let go before the restart: it counts from the first look at the clock.
    before: usize,
}

/// What one plan let go.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    /// `None` is without a clock, and never over.
    at: Option<Instant>,
    removals: usize,
    /// How large the table was: before removals, and after something was added.
    size: usize,
}

/// A removal that was let go.
#[derive(Clone, Copy, Debug)]
struct Counted {
    by: By,
    /// It begins with a drain.
    drains: bool,
    /// Whether it was carried out is not known.
    open: bool,
}

/// Why a removal was let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// It was within the limit, at this time.
    Limit(Option<Instant>),
    Confirmation,
    /// There was no limit.
    Nothing,
}

/// What becomes of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Goes,
    /// It is more than the limit allows.
    HeldBack,
    /// It is let go when the ledger that says so is stored.
    Waits,
}

/// What a plan would take away.
pub(crate) struct Due<'a> {
    /// Each group goes as a whole or not at all.
    pub(crate) groups: &'a [Group],
    /// Removals that have begun and have to wait.
    pub(crate) waiting: &'a [Removal],
    /// Which services the plan is about, and sure of.
    pub(crate) covers: &'a dyn Fn(&ServiceKey) -> bool,
}

/// What one change takes away.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) removals: Vec<Removal>,
    /// The change is the beginning of a drain.
    pub(crate) drains: bool,
}

impl Guard {
    /// The table has this many services and real servers.
    pub(crate) fn set_size(&mut self, size: usize) {
        let counted = self.counted.keys().filter(|removal| removal.kind.is_object()).count();
        self.size = Some(size.saturating_sub(counted));
    }

    /// A service or a real server was added.
    pub(crate) fn added(&mut self, now: Option<Instant>) {
        let Some(size) = &mut self.size else { return };
        *size += 1;
        match self.window.last_mut().filter(|spent| spent.at == now) {
            Some(spent) => spent.size = spent.size.max(*size),
            None => self.window.push(Spent { at: now, removals: 0, size: *size }),
        }
    }

    /// There is a ledger, and the one that is stored speaks of this many removals. Nothing is let go that
    /// it does not speak of.
    pub(crate) fn set_stored(&mut self, stored: Option<usize>) {
        self.journal = stored.map(|stored| {
            let journal = self.journal.take();
            Journal { stored, ..journal.unwrap_or_default() }
        });
    }

    /// Before a restart this many removals were let go, nobody knows when.
    pub(crate) fn set_before(&mut self, before: usize) {
        self.journal = Some(Journal { stored: before, before, ..Journal::default() });
    }

    /// How many removals the ledger should speak of.
    pub(crate) fn wanted(&mut self, limit: Option<&Limit>, now: Instant) -> usize {
        let used = limit.map_or(0, |limit| self.used(limit, Some(now)));
        let before = self.journal.as_ref().filter(|_| limit.is_some());
        before.map_or(used, |journal| match journal.waiting.is_empty() {
            true => used + journal.before,
            false => journal.wanted.max(used),
        })
    }

    /// Whether removals wait for the ledger.
    pub(crate) fn waits(&self) -> bool {
        self.journal.as_ref().is_some_and(|journal| !journal.waiting.is_empty())
    }

    /// The services with removals that wait for a ledger, if this one speaks of them.
    pub(crate) fn waited_for(&self, stored: usize) -> BTreeSet<ServiceKey> {
        let journal = self.journal.as_ref().filter(|journal| journal.wanted <= stored);
        journal.map(|journal| journal.waiting.clone()).unwrap_or_default()
    }

    pub(crate) fn knows_size(&self) -> bool {
        self.size.is_some()
    }

    /// Which groups may go.
    pub(crate) fn judge(
        &mut self,
        limit: Option<&Limit>,
        due: &Due<'_>,
        now: Option<Instant>,
    ) -> Vec<Verdict> {
        self.forget(due);
        let Some(limit) = limit else {
            for group in due.groups {
                self.let_go(group, By::Nothing);
            }
            return vec![Verdict::Goes; due.groups.len()];
        };
        self.count_back(due);
        let is_new = |removal: &&Removal| !self.is_free(removal);
        let new: Vec<&Removal> =
            due.groups.iter().flat_map(|group| &group.removals).filter(is_new).collect();
        let others = self.held.keys().filter(|removal| !(due.covers)(&removal.service));
        let others = others.filter(is_new).count();
        let spent = Spent { at: now, removals: new.len(), size: self.size.unwrap_or(0) };
        let used = self.used(limit, now);
        let fits = spent.removals == 0 || self.allows(limit, &self.window, spent.removals + others);
        let sum = used + spent.removals;
        let is_unstored =
            |journal: &Journal| spent.removals > 0 && now.is_some() && sum > journal.stored;
        let verdict = match self.journal.as_mut().filter(|_| fits) {
            _ if !fits => Verdict::HeldBack,
            Some(journal) if is_unstored(journal) => {
                let others = if journal.waiting.is_empty() { 0 } else { journal.wanted };
                journal.wanted = sum.max(others);
                Verdict::Waits
            }
            _ => Verdict::Goes,
        };
        let mut verdicts = Vec::with_capacity(due.groups.len());
        for group in due.groups {
            let is_free = group.removals.iter().all(|removal| self.is_free(removal));
            let verdict = if is_free { Verdict::Goes } else { verdict };
            match verdict {
                Verdict::Goes => self.let_go(group, By::Limit(now)),
                Verdict::HeldBack => self.hold_back(group),
                Verdict::Waits => self.wait(group),
            }
            verdicts.push(verdict);
        }
        if verdict == Verdict::Goes && spent.removals > 0 {
            self.window.push(spent);
        }
        verdicts
    }

    fn is_free(&self, removal: &Removal) -> bool {
        self.counted.contains_key(removal) || self.confirmed.contains(removal)
    }

    /// A group is let go. What was counted is not counted again.
    fn let_go(&mut self, group: &Group, by: By) {
        for removal in &group.removals {
            self.held.remove(removal);
            let was_confirmed = self.confirmed.remove(removal);
            // Only what is deleted later has to be known without a limit.
            if by == By::Nothing && !group.drains || self.counted.contains_key(removal) {
                continue;
            }
            let by = if was_confirmed { By::Confirmation } else { by };
            self.counted.insert(*removal, Counted { by, drains: group.drains, open: true });
            let is_object = usize::from(removal.kind.is_object());
            self.size = self.size.map(|size| size.saturating_sub(is_object));
            if by == By::Confirmation {
                // What was confirmed is no part of the table of which a part may go.
                for spent in &mut self.window {
                    spent.size = spent.size.saturating_sub(is_object);
                }
            }
        }
    }

    /// Takes in that a plan with what was held back is carried out.
    pub(crate) fn let_go_confirmed(&mut self, group: &Group) {
        self.let_go(group, By::Confirmation);
    }

    fn hold_back(&mut self, group: &Group) {
        let with = group.removals.iter().find(|removal| removal.kind.is_of_service()).copied();
        for removal in &group.removals {
            if !self.counted.contains_key(removal) {
                self.held.insert(*removal, with.filter(|with| with != removal));
            }
        }
    }

    fn wait(&mut self, group: &Group) {
        for removal in &group.removals {
            self.held.remove(removal);
            if let Some(journal) = &mut self.journal {
                journal.waiting.insert(removal.service);
            }
        }
    }

    /// Forgets what is not due any more.
    fn forget(&mut self, due: &Due<'_>) {
        if let Some(journal) = &mut self.journal {
            journal.waiting.retain(|service| !(due.covers)(service));
        }
        if self.counted.is_empty() && self.held.is_empty() && self.confirmed.is_empty() {
            return;
        }
        let groups = due.groups.iter().flat_map(|group| &group.removals);
        let still: BTreeSet<&Removal> = groups.chain(due.waiting).collect();
        let stays = |removal: &Removal| still.contains(removal) || !(due.covers)(&removal.service);
        self.counted.retain(|removal, _| stays(removal));
        self.held.retain(|removal, _| stays(removal));
        self.confirmed.retain(stays);
    }

    /// What was let go and is still to be begun was not carried out.
    fn count_back(&mut self, due: &Due<'_>) {
        for group in due.groups {
            for removal in &group.removals {
                let Some(counted) = self.counted.get(removal).copied() else { continue };
                if !counted.open || counted.drains && !group.drains {
                    continue;
                }
                self.counted.remove(removal);
                let is_object = usize::from(removal.kind.is_object());
                self.size = self.size.map(|size| size + is_object);
                let at = match counted.by {
                    By::Limit(at) => at,
                    By::Confirmation => {
                        self.confirmed.insert(*removal);
                        continue;
                    }
                    By::Nothing => continue,
                };
                let entry =
                    self.window.iter_mut().find(|spent| spent.at == at && spent.removals > 0);
                if let Some(spent) = entry {
                    spent.removals -= 1;
                }
            }
        }
    }

    /// What was counted in the interval before now.
    fn used(&mut self, limit: &Limit, now: Option<Instant>) -> usize {
        if let (Some(journal), Some(_)) = (&mut self.journal, now) {
            let removals = std::mem::take(&mut journal.before);
            self.window.push(Spent { at: now, removals, size: 0 });
        }
        let is_over = |spent: &Spent| match (spent.at, now) {
            (Some(at), Some(now)) => {
                at.checked_add(limit.interval()).is_some_and(|over| over <= now)
            }
            _ => false,
        };
        self.window.retain(|spent| (spent.removals > 0 || spent.size > 0) && !is_over(spent));
        self.window.iter().map(|spent| spent.removals).sum()
    }

    /// Whether this many more may go, after these. A part is one of the largest table in that time: what
    /// a source that flaps adds again makes it no larger.
    fn allows(&self, limit: &Limit, window: &[Spent], removals: usize) -> bool {
        let used: usize = window.iter().map(|spent| spent.removals).sum();
        let sizes = window.iter().map(|spent| spent.size);
        let size = sizes.fold(self.size.unwrap_or(0), usize::max);
        used + removals <= limit.of(size)
    }

    /// When what is held back is within the limit, if only time has to pass for it.
    pub(crate) fn release(&mut self, limit: Option<&Limit>, now: Instant) -> Option<Instant> {
        let limit = limit.filter(|_| !self.held.is_empty())?;
        let held = self.held.keys().filter(|removal| !self.is_free(removal)).count();
        self.used(limit, Some(now));
        if self.allows(limit, &self.window, held) {
            return Some(now);
        }
        let mut window = self.window.clone();
        window.sort_unstable_by_key(|spent| spent.at);
        (1..=window.len())
            .find(|over| self.allows(limit, &window[*over..], held))
            .and_then(|over| window[over - 1].at?.checked_add(limit.interval()))
    }

    /// Takes in that a drain has begun, or that a real server has lost its weight.
    pub(crate) fn begun(&mut self, service: &ServiceKey, real_server: &DestinationKey) {
        let of = |kind| Removal { service: *service, real_server: Some(*real_server), kind };
        self.counted.remove(&of(RemovalKind::Weight));
        for removal in
            [of(RemovalKind::RealServer), Removal::service(*service), Removal::usable(*service)]
        {
            if let Some(counted) = self.counted.get_mut(&removal) {
                counted.open = false;
            }
        }
    }

    /// Takes in that a real server, or a service with all of its real servers, is gone.
    pub(crate) fn gone(&mut self, service: &ServiceKey, real_server: Option<&DestinationKey>) {
        let of_service = self.counted.range(Removal::first_of(*service)..);
        let gone: Vec<Removal> = of_service
            .map(|(removal, _)| *removal)
            .take_while(|removal| removal.service == *service)
            .filter(|removal| real_server.is_none() || removal.real_server.as_ref() == real_server)
            .collect();
        // That the service has no usable one stays counted while others of it are to go.
        for removal in &gone {
            self.counted.remove(removal);
        }
    }

    /// Whether a real server leaves, and its deletion or that of its service is held back or waits.
    pub(crate) fn holds(&self, service: &ServiceKey, real_server: &DestinationKey) -> bool {
        let journal = self.journal.as_ref();
        journal.is_some_and(|journal| journal.waiting.contains(service))
            || self.held.contains_key(&Removal::service(*service))
            || self.held.contains_key(&Removal::real_server(*service, *real_server))
    }

    pub(crate) fn held_back(&self) -> HeldBack {
        HeldBack(self.held.keys().copied().collect())
    }

    pub(crate) fn held_back_count(&self) -> usize {
        self.held.len()
    }

    pub(crate) fn is_held_back(&self, removal: &Removal) -> bool {
        self.held.contains_key(removal)
    }

    /// Lets go what is held back and named, a service with all that goes with it. Returns what was named
    /// and stays, since its service is not named.
    pub(crate) fn confirm(&mut self, confirmed: &HeldBack) -> HeldBack {
        let named = |removal: &Removal| confirmed.0.contains(removal);
        let of_service = |removal: &Removal| {
            [Removal::service(removal.service), Removal::usable(removal.service)]
                .iter()
                .any(|service| self.held.contains_key(service) && named(service))
        };
        let mut stays = BTreeSet::new();
        for (removal, with) in &self.held {
            if of_service(removal) {
                self.confirmed.insert(*removal);
            } else if named(removal) {
                match with {
                    Some(with) if !self.confirmed.contains(with) => stays.insert(*removal),
                    _ => self.confirmed.insert(*removal),
                };
            }
        }
        HeldBack(stays)
    }
}
