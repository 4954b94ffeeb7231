//! How the table is brought to what should be.

use std::{fmt, sync::Arc};

use ipvs_client::packet::{DestinationKey, ServiceKey};

use crate::{Drain, Ledger, Limit, Scope};

/// How a [`Plan`](crate::Plan) brings the table to the desired state.
///
/// By default it deletes no service, takes away other real servers of the services that are named,
/// at once, and any number of them.
///
/// ```
/// use std::time::Duration;
///
/// use lvs::{Drain, Limit, Policy, Scope};
///
/// let policy = Policy::new()
///     .scope(Scope::only(|key| key.to_string().starts_with("-t 10.96.")))
///     .drain(Drain::for_at_most(Duration::from_secs(60)))
///     .max_deletions(Limit::percent(50).at_least(20));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Policy {
    scope: Scope,
    real_servers: Option<OfRealServers>,
    kept_weights: Option<OfRealServers>,
    drain: Option<Drain>,
    limit: Option<Limit>,
}

/// What is said of real servers.
#[derive(Clone)]
#[allow(clippy::type_complexity, reason = "it is said once")]
struct OfRealServers(Arc<dyn Fn(&ServiceKey, &DestinationKey) -> bool + Send + Sync>);

impl Policy {
    /// The default policy.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which services may be deleted; none by default.
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// Which real servers may be taken away from a service that is desired, or that may be deleted;
    /// all by default. Others stay, and with them the service, so that several programs can share one.
    #[must_use]
    pub fn real_servers(
        mut self,
        is_mine: impl Fn(&ServiceKey, &DestinationKey) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.real_servers = Some(OfRealServers(Arc::new(is_mine)));
        self
    }

    /// Real servers whose weight somebody else sets, such as a feedback agent; none by default. The
    /// desired weight is that of a new one, and the weight of one that is there is left as it is. One
    /// that was being drained by the same [`Reconciler`](crate::Reconciler) and is desired again gets
    /// its desired weight.
    #[must_use]
    pub fn keep_weights(
        mut self,
        keeps: impl Fn(&ServiceKey, &DestinationKey) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.kept_weights = Some(OfRealServers(Arc::new(keeps)));
        self
    }

    /// Real servers that leave are drained; by default they are taken away at once, and their
    /// connections break.
    #[must_use]
    pub fn drain(mut self, drain: Drain) -> Self {
        self.drain = Some(drain);
        self
    }

    /// How much may be taken away: a [`Limit`], or a number for any minute. More is held back, all of
    /// it, until it is confirmed; without a limit, the default, nothing is.
    ///
    /// A [`Reconciler`](crate::Reconciler) keeps the limit over time and over all rounds, whatever a
    /// single round is about, and remembers [what is held back](crate::Reconciler::held_back). A
    /// [`Plan`](crate::Plan) by itself knows nothing of what was taken away before: its limit is for
    /// one plan and its apply, and a real server that was drained counts when it is deleted.
    #[must_use]
    pub fn max_deletions(mut self, limit: impl Into<Limit>) -> Self {
        self.limit = Some(limit.into());
        self
    }

    pub(crate) fn limit(&self) -> Option<&Limit> {
        self.limit.as_ref()
    }

    pub(crate) fn may_delete(&self, service: &ServiceKey) -> bool {
        self.scope.contains(service)
    }

    pub(crate) fn may_take_away(&self, service: &ServiceKey, server: &DestinationKey) -> bool {
        self.real_servers.as_ref().is_none_or(|OfRealServers(is_mine)| is_mine(service, server))
    }

    pub(crate) fn keeps_weight(&self, service: &ServiceKey, server: &DestinationKey) -> bool {
        self.kept_weights.as_ref().is_some_and(|OfRealServers(keeps)| keeps(service, server))
    }

    /// How a service's real servers are drained, if they are.
    pub(crate) fn drain_of(&self, service: &ServiceKey) -> Option<&Drain> {
        self.drain.as_ref().filter(|drain| drain.takes(service))
    }

    /// The ledger in the scope.
    pub(crate) fn ledger(&self) -> Option<&Ledger> {
        self.scope.ledger()
    }

    pub(crate) fn ledger_mut(&mut self) -> Option<&mut Ledger> {
        self.scope.ledger_mut()
    }

    pub(crate) fn scope_mut(&mut self) -> &mut Scope {
        &mut self.scope
    }

    /// Everything is drained, and nothing is held back.
    pub(crate) fn drain_all(&mut self, drain: Drain) {
        self.drain = Some(drain);
        self.limit = None;
    }
}

impl fmt::Debug for OfRealServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OfRealServers")
    }
}
