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
    held: BTreeSet<Removal>,
    confirmed: BTreeSet<Removal>,
    /// How many services and real servers there are, without those that are counted.
    size: Option<usize>,
}

/// What one plan let go.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    /// `None` is without a clock, and never over.
    at: Option<Instant>,
    removals: usize,
    /// How many of them are services and real servers that the table then lacks.
    objects: usize,
}

/// A removal that was let go.
#[derive(Clone, Copy, Debug)]
struct Counted {
    /// When, if that was by the limit and not by a confirmation.
    at: Option<Option<Instant>>,
    /// It begins with a drain.
    drains: bool,
    /// Whether it was carried out is not known.
    open: bool,
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
    pub(crate) fn added(&mut self) {
        self.size = self.size.map(|size| size + 1);
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
    ) -> Vec<bool> {
        self.forget(due);
        let Some(limit) = limit else {
            due.groups.iter().flat_map(|group| &group.removals).for_each(|removal| {
                self.held.remove(removal);
            });
            return vec![true; due.groups.len()];
        };
        self.count_back(due);
        let is_new = |removal: &&Removal| !self.is_free(removal);
        let new: Vec<&Removal> =
            due.groups.iter().flat_map(|group| &group.removals).filter(is_new).collect();
        let others = self.held.iter().filter(|removal| !(due.covers)(&removal.service));
        let others = others.filter(is_new).count();
        let spent = Spent {
            at: now,
            removals: new.len(),
            objects: new.iter().filter(|removal| removal.kind.is_object()).count(),
        };
        let used = self.used(limit, now);
        let fits = spent.removals == 0 || self.allows(limit, used, spent.removals + others);
        let mut verdicts = Vec::with_capacity(due.groups.len());
        for group in due.groups {
            let goes = fits || group.removals.iter().all(|removal| self.is_free(removal));
            for removal in &group.removals {
                if goes {
                    self.count(removal, group.drains, now);
                } else if !self.counted.contains_key(removal) {
                    self.held.insert(*removal);
                }
            }
            verdicts.push(goes);
        }
        if fits && spent.removals > 0 {
            self.window.push(spent);
            self.size = self.size.map(|size| size.saturating_sub(spent.objects));
        }
        verdicts
    }

    fn is_free(&self, removal: &Removal) -> bool {
        self.counted.contains_key(removal) || self.confirmed.contains(removal)
    }

    fn count(&mut self, removal: &Removal, drains: bool, now: Option<Instant>) {
        self.held.remove(removal);
        let at = (!self.confirmed.remove(removal)).then_some(now);
        self.counted.entry(*removal).or_insert(Counted { at, drains, open: true });
    }

    /// Forgets what is not due any more.
    fn forget(&mut self, due: &Due<'_>) {
        if self.counted.is_empty() && self.held.is_empty() && self.confirmed.is_empty() {
            return;
        }
        let groups = due.groups.iter().flat_map(|group| &group.removals);
        let still: BTreeSet<&Removal> = groups.chain(due.waiting).collect();
        let stays = |removal: &Removal| still.contains(removal) || !(due.covers)(&removal.service);
        self.counted.retain(|removal, _| stays(removal));
        self.held.retain(stays);
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
                let Some(at) = counted.at else {
                    self.confirmed.insert(*removal);
                    continue;
                };
                let is_object = usize::from(removal.kind.is_object());
                let entry =
                    self.window.iter_mut().find(|spent| spent.at == at && spent.removals > 0);
                if let Some(spent) = entry {
                    spent.removals -= 1;
                    spent.objects = spent.objects.saturating_sub(is_object);
                    self.size = self.size.map(|size| size + is_object);
                }
            }
        }
    }

    /// What was counted in the interval before now.
    fn used(&mut self, limit: &Limit, now: Option<Instant>) -> Spent {
        let is_over = |spent: &Spent| match (spent.at, now) {
            (Some(at), Some(now)) => {
                at.checked_add(limit.interval()).is_some_and(|over| over <= now)
            }
            _ => false,
        };
        self.window.retain(|spent| spent.removals > 0 && !is_over(spent));
        self.window.iter().fold(Spent::default(), |sum, spent| Spent {
            at: None,
            removals: sum.removals + spent.removals,
            objects: sum.objects + spent.objects,
        })
    }

    /// Whether this many more may go.
    fn allows(&self, limit: &Limit, used: Spent, removals: usize) -> bool {
        let size = self.size.unwrap_or(0) + used.objects;
        used.removals + removals <= limit.of(size)
    }

    /// When what is held back is within the limit, if only time has to pass for it.
    pub(crate) fn release(&mut self, limit: Option<&Limit>, now: Instant) -> Option<Instant> {
        let limit = limit.filter(|_| !self.held.is_empty())?;
        let held = self.held.iter().filter(|removal| !self.is_free(removal)).count();
        let mut used = self.used(limit, Some(now));
        if self.allows(limit, used, held) {
            return Some(now);
        }
        let mut window: Vec<(Instant, Spent)> =
            self.window.iter().filter_map(|spent| Some((spent.at?, *spent))).collect();
        window.sort_unstable_by_key(|(at, _)| *at);
        for (at, spent) in window {
            used.removals -= spent.removals;
            used.objects -= spent.objects;
            if self.allows(limit, used, held) {
                return at.checked_add(limit.interval());
            }
        }
        None
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

    /// Whether a real server leaves, and its deletion or that of its service is held back.
    pub(crate) fn holds(&self, service: &ServiceKey, real_server: &DestinationKey) -> bool {
        self.held.contains(&Removal::service(*service))
            || self.held.contains(&Removal::real_server(*service, *real_server))
    }

    pub(crate) fn held_back(&self) -> HeldBack {
        HeldBack(self.held.clone())
    }

    pub(crate) fn held(&self) -> &BTreeSet<Removal> {
        &self.held
    }

    /// Lets go what is held back and named. Returns the services that it concerns.
    pub(crate) fn confirm(&mut self, confirmed: &HeldBack) -> BTreeSet<ServiceKey> {
        let named: Vec<Removal> = confirmed.0.intersection(&self.held).copied().collect();
        let services = named.iter().map(|removal| removal.service).collect();
        self.confirmed.extend(named);
        services
    }
}
