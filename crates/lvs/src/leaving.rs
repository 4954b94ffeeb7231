//! Real servers that leave, since when, and for how long.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use ipvs_client::packet::{DestinationEntry, DestinationKey, ServiceKey};

use crate::Drain;

/// A real server of a service.
pub(crate) type Server = (ServiceKey, DestinationKey);

/// The real servers that are being drained, and the limits of some.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leaving {
    since: BTreeMap<Server, Instant>,
    /// Those, and those that are desired again and have no weight yet.
    without_weight: BTreeSet<Server>,
    limits: BTreeMap<Server, Duration>,
}

impl Leaving {
    pub(crate) fn since(&self) -> &BTreeMap<Server, Instant> {
        &self.since
    }

    /// Whether a real server lost its weight here, and has not got it back.
    pub(crate) fn took_weight(&self, service: &ServiceKey, server: &DestinationKey) -> bool {
        self.without_weight.contains(&(*service, *server))
    }

    /// It leaves from now on.
    pub(crate) fn begin(&mut self, server: Server, now: Instant) {
        self.since.entry(server).or_insert(now);
        self.without_weight.insert(server);
    }

    /// It is gone, or its service is with all of them.
    pub(crate) fn gone(&mut self, service: &ServiceKey, server: Option<&DestinationKey>) {
        match server {
            Some(server) => {
                self.since.remove(&(*service, *server));
                self.without_weight.remove(&(*service, *server));
            }
            None if self.without_weight.is_empty() => {}
            None => {
                self.since.retain(|(of, _), _| of != service);
                self.without_weight.retain(|(of, _)| of != service);
            }
        }
    }

    /// Its weight could not be taken: its time begins when it is.
    pub(crate) fn not_begun(&mut self, service: &ServiceKey, server: &DestinationKey) {
        self.since.remove(&(*service, *server));
    }

    pub(crate) fn services(&self) -> BTreeSet<ServiceKey> {
        self.since.keys().map(|(service, _)| *service).collect()
    }

    /// Limits in the place of the policy's.
    pub(crate) fn set_limits(&mut self, limits: BTreeMap<Server, Duration>) {
        self.limits = limits;
    }

    /// Whether a real server that leaves is drained at all.
    pub(crate) fn has_time(
        &self,
        service: &ServiceKey,
        server: &DestinationKey,
        drain: &Drain,
    ) -> bool {
        self.limit(service, server, drain) > Duration::ZERO
    }

    fn limit(&self, service: &ServiceKey, server: &DestinationKey, drain: &Drain) -> Duration {
        match self.limits.get(&(*service, *server)) {
            Some(limit) => *limit,
            None => drain.limit(service, server),
        }
    }

    /// Whether a real server of weight 0 has connections, and time left. Without a clock only no time
    /// at all is over.
    pub(crate) fn waits(
        &self,
        service: &ServiceKey,
        entry: &DestinationEntry,
        drain: &Drain,
        now: Option<Instant>,
    ) -> bool {
        let server = &entry.destination.key;
        let limit = self.limit(service, server, drain);
        let is_empty = entry.active_connections == 0 && entry.inactive_connections == 0;
        if is_empty || limit.is_zero() {
            return false;
        }
        let waits_for = drain.waits_for(service, entry);
        let (Some(now), Some(since)) = (now, self.since.get(&(*service, *server))) else {
            // Its clock begins now, if there is one.
            return true;
        };
        let is_over = |time| since.checked_add(time).is_some_and(|end| end <= now);
        !is_over(limit) && (waits_for || !is_over(drain.interval()))
    }

    /// Remembers those that leave, of the services that a plan covers: those of `leaving`, and those
    /// of which `stays` says that their deletion is held back. Those that are `returning` are desired
    /// again.
    pub(crate) fn remember(
        &mut self,
        leaving: impl Iterator<Item = Server>,
        returning: &BTreeSet<Server>,
        covers: impl Fn(&ServiceKey) -> bool,
        stays: impl Fn(&Server) -> bool,
        now: Instant,
    ) {
        let leaving: BTreeSet<Server> = leaving.collect();
        let still =
            |server: &Server| !covers(&server.0) || leaving.contains(server) || stays(server);
        self.since.retain(|server, _| still(server));
        self.without_weight.retain(|server| still(server) || returning.contains(server));
        self.without_weight.extend(&leaving);
        for server in leaving {
            self.since.entry(server).or_insert(now);
        }
    }

    /// When to look at a real server again.
    pub(crate) fn next_look(
        &self,
        server: &Server,
        drain: &Drain,
        now: Instant,
    ) -> Option<Instant> {
        let since = self.since.get(server)?;
        let look = now.checked_add(drain.interval());
        let end = since.checked_add(self.limit(&server.0, &server.1, drain));
        look.into_iter().chain(end.filter(|end| *end > now)).min()
    }
}
