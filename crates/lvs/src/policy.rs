//! How the table is brought to what should be: what may be deleted, and how gently.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc, time::Duration};

use ipvs_client::{
    Snapshot,
    packet::{DestinationKey, InvalidValue, Protocol, ServiceKey},
};

use crate::Desired;

/// How a [`Plan`](crate::Plan) brings the table to the desired state.
///
/// By default it deletes no service, takes away other real servers of the services that are named,
/// at once, and any number of them.
///
/// ```
/// use std::time::Duration;
///
/// use lvs::{Drain, Policy, Scope};
///
/// let policy = Policy::new()
///     .scope(Scope::only(|key| key.to_string().starts_with("-t 10.96.")))
///     .drain(Drain::for_at_most(Duration::from_secs(60)))
///     .max_deletions(100);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Policy {
    scope: Scope,
    drain: Option<Drain>,
    max_deletions: Option<usize>,
}

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

    /// Real servers that leave are drained; by default they are taken away at once, and their
    /// connections break.
    #[must_use]
    pub fn drain(mut self, drain: Drain) -> Self {
        self.drain = Some(drain);
        self
    }

    /// A plan that takes away more than this, services and real servers counted together, holds all
    /// of that back until it is [confirmed](crate::Plan::confirm); any number by default.
    ///
    /// It guards against a source that is empty or half read: adding and changing go on meanwhile.
    /// Beginning to drain a real server counts, taking it away later does not count again. A service
    /// that is deleted counts with its real servers.
    #[must_use]
    pub fn max_deletions(mut self, number: usize) -> Self {
        self.max_deletions = Some(number);
        self
    }

    pub(crate) fn allows(&self, deletions: usize) -> bool {
        self.max_deletions.is_none_or(|number| deletions <= number)
    }

    pub(crate) fn may_delete(&self, service: &ServiceKey) -> bool {
        self.scope.contains(service)
    }

    /// How a service's real servers are drained, if they are.
    pub(crate) fn drain_of(&self, service: &ServiceKey) -> Option<&Drain> {
        self.drain.as_ref().filter(|drain| drain.takes(service))
    }

    /// The ledger in the scope.
    pub(crate) fn ledger_mut(&mut self) -> Option<&mut Ledger> {
        self.scope.ledger_mut()
    }

    pub(crate) fn without_max_deletions(mut self) -> Self {
        self.max_deletions = None;
        self
    }
}

/// Which services may be deleted where they are not desired. IPVS stores no owner, so the caller has
/// to say.
///
/// A service that is desired belongs to the caller with all its real servers, whatever the scope.
///
/// Scopes can be combined: what the ledger knows and what is in a network of the caller's,
///
/// ```
/// use lvs::{Ledger, Scope};
///
/// let ledger: Ledger = "-t 192.0.2.1:80\n".parse()?;
/// let scope = Scope::Ledger(ledger).or(Scope::only(|key| key.to_string().starts_with("-t 10.96.")));
/// assert!(scope.contains(&"-t 192.0.2.1:80".parse()?) && scope.contains(&"-t 10.96.0.1:80".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Scope {
    /// None: other services are left alone. The default.
    #[default]
    Named,
    /// Those in a ledger, which the caller keeps.
    Ledger(Ledger),
    /// Those of which a function says so; see [`only`](Self::only).
    Only(Predicate),
    /// Every service of the network namespace.
    All,
    /// What is in one of the two; see [`or`](Self::or).
    Either(Box<[Self; 2]>),
    /// What is in both; see [`and`](Self::and).
    Both(Box<[Self; 2]>),
}

impl Scope {
    /// What is in this scope or in the other.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self::Either(Box::new([self, other]))
    }

    /// What is in this scope and in the other.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self::Both(Box::new([self, other]))
    }

    /// Whether a service may be deleted.
    pub fn contains(&self, service: &ServiceKey) -> bool {
        match self {
            Self::Named => false,
            Self::Ledger(ledger) => ledger.contains(service),
            Self::Only(Predicate(is_mine)) => is_mine(service),
            Self::All => true,
            Self::Either(scopes) => scopes.iter().any(|scope| scope.contains(service)),
            Self::Both(scopes) => scopes.iter().all(|scope| scope.contains(service)),
        }
    }

    /// The first ledger in it.
    fn ledger_mut(&mut self) -> Option<&mut Ledger> {
        match self {
            Self::Ledger(ledger) => Some(ledger),
            Self::Either(scopes) | Self::Both(scopes) => {
                scopes.iter_mut().find_map(Self::ledger_mut)
            }
            Self::Named | Self::Only(_) | Self::All => None,
        }
    }

    /// Those of which a function says so: that their address is in some networks, say.
    pub fn only(is_mine: impl Fn(&ServiceKey) -> bool + Send + Sync + 'static) -> Self {
        Self::Only(Predicate(Arc::new(is_mine)))
    }
}

/// What says which services are the caller's. Made by [`Scope::only`].
#[derive(Clone)]
pub struct Predicate(Arc<dyn Fn(&ServiceKey) -> bool + Send + Sync>);

impl fmt::Debug for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Predicate")
    }
}

/// The services that the caller has made. The caller stores it, so that it knows after a restart what
/// it may delete.
///
/// 1. Before an apply, [`claim`](Self::claim) what is desired, and store the ledger if that changed
///    it: a program that ends in the middle of the apply then finds what it added.
/// 2. With the next snapshot, [`settle`](Self::settle) forgets what is neither desired nor there any
///    more, so that it is not deleted when somebody else adds it later.
///
/// Without its ledger a program can still change the services that it names; what it made and no
/// longer names stays in the table.
///
/// It displays and reads as one key a line. Clones are cheap.
///
/// ```
/// use lvs::{Desired, Ledger, VirtualService};
///
/// let mut ledger = Ledger::new();
/// let desired = Desired::from(VirtualService::tcp("10.0.0.185:80".parse()?).build()?);
/// assert!(ledger.claim(&desired));
/// assert_eq!(ledger.to_string(), "-t 10.0.0.185:80\n");
/// assert_eq!(ledger.to_string().parse::<Ledger>()?, ledger);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    services: Arc<BTreeSet<ServiceKey>>,
}

impl Ledger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what is desired. Returns whether that changed it.
    pub fn claim(&mut self, desired: &Desired) -> bool {
        if desired.keys().all(|key| self.contains(key)) {
            return false;
        }
        Arc::make_mut(&mut self.services).extend(desired.keys());
        true
    }

    /// Takes in one service. Returns whether it is new.
    pub fn insert(&mut self, service: ServiceKey) -> bool {
        !self.contains(&service) && Arc::make_mut(&mut self.services).insert(service)
    }

    /// Forgets what is neither desired nor in the table. Returns whether that changed it.
    pub fn settle(&mut self, desired: &Desired, table: &Snapshot) -> bool {
        let stays = |key: &ServiceKey| {
            desired.get(key).is_some()
                || table.services.contains_key(key)
                || table.uncertain.contains(key)
        };
        if self.services.iter().all(stays) {
            return false;
        }
        Arc::make_mut(&mut self.services).retain(stays);
        true
    }

    /// Whether a service is in it.
    pub fn contains(&self, service: &ServiceKey) -> bool {
        self.services.contains(service)
    }

    /// Its services, in order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &ServiceKey> + '_ {
        self.services.iter()
    }
}

impl FromIterator<ServiceKey> for Ledger {
    fn from_iter<I: IntoIterator<Item = ServiceKey>>(services: I) -> Self {
        Self { services: Arc::new(services.into_iter().collect()) }
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|key| writeln!(f, "{key}"))
    }
}

impl FromStr for Ledger {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        text.lines().filter(|line| !line.trim().is_empty()).map(str::parse).collect()
    }
}

/// How real servers that leave are drained: they get weight 0, and so no new connections, and are
/// taken away when they have no connections left, or when their time is over.
///
/// A real server has left when it is not desired any more while its service is. A service that is
/// not desired, and [may be deleted](Scope), is deleted at once with its real servers, unless
/// [`services`](Self::services) says that it is drained as a whole.
///
/// # Persistence
///
/// A client of a persistent service keeps coming to its real server, weight 0 or not, as long as the
/// kernel remembers it. So that such a server can get empty, set
/// `net.ipv4.vs.expire_quiescent_template` to 1 (`Sysctl::EXPIRE_QUIESCENT_TEMPLATE`): the client's
/// next connection then goes elsewhere. Without it, the limit ends the drain.
///
/// # UDP
///
/// The kernel takes datagrams from one port for one connection until none came for five minutes, so
/// busy clients never leave. UDP services are therefore not drained unless [`udp`](Self::udp) says
/// so. With `net.ipv4.vs.expire_nodest_conn` 1 (`Sysctl::EXPIRE_NODEST_CONN`) the next datagram goes
/// to another real server once theirs is taken away; without it, such datagrams are dropped until
/// the connection expires.
#[derive(Clone)]
pub struct Drain {
    limit: Duration,
    interval: Duration,
    tcp: bool,
    sctp: bool,
    udp: bool,
    services: bool,
    limits: Option<Limits>,
}

/// A limit of a real server's own.
#[derive(Clone)]
#[allow(clippy::type_complexity, reason = "it is said once")]
struct Limits(Arc<dyn Fn(&ServiceKey, &DestinationKey) -> Option<Duration> + Send + Sync>);

impl Drain {
    /// A drain that ends after this time, whatever connections are left; after no time, real servers
    /// are taken away at once. TCP services and those of firewall marks are drained, UDP and SCTP
    /// services are not.
    pub fn for_at_most(limit: Duration) -> Self {
        Self {
            limit,
            interval: Duration::from_secs(1),
            tcp: true,
            sctp: false,
            udp: false,
            services: false,
            limits: None,
        }
    }

    /// A limit of its own for some real servers, such as a pod's grace period; `None` for the
    /// common one.
    #[must_use]
    pub fn limit_of(
        mut self,
        limits: impl Fn(&ServiceKey, &DestinationKey) -> Option<Duration> + Send + Sync + 'static,
    ) -> Self {
        self.limits = Some(Limits(Arc::new(limits)));
        self
    }

    /// How long to wait between looks at what is being drained; a second by default.
    #[must_use]
    pub fn look_every(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Whether TCP services and those of firewall marks are drained.
    #[must_use]
    pub fn tcp(mut self, drained: bool) -> Self {
        self.tcp = drained;
        self
    }

    /// Whether SCTP services are drained.
    #[must_use]
    pub fn sctp(mut self, drained: bool) -> Self {
        self.sctp = drained;
        self
    }

    /// Whether UDP services are drained.
    #[must_use]
    pub fn udp(mut self, drained: bool) -> Self {
        self.udp = drained;
        self
    }

    /// Whether a service that is deleted is drained as a whole; by default it is deleted at once. Its
    /// real servers get weight 0, so that it takes no new connections (the kernel refuses them, as
    /// where no service is), and it goes with all of them when none has connections any more, or time
    /// left.
    ///
    /// Desired again meanwhile, it gets its weights back, and its connections never notice.
    #[must_use]
    pub fn services(mut self, drained: bool) -> Self {
        self.services = drained;
        self
    }

    pub(crate) fn takes_services(&self) -> bool {
        self.services
    }

    fn takes(&self, service: &ServiceKey) -> bool {
        match service {
            ServiceKey::Address { protocol: Protocol::UDP, .. } => self.udp,
            ServiceKey::Address { protocol: Protocol::SCTP, .. } => self.sctp,
            _ => self.tcp,
        }
    }

    pub(crate) fn limit(&self, service: &ServiceKey, real_server: &DestinationKey) -> Duration {
        let own = self.limits.as_ref().and_then(|Limits(limits)| limits(service, real_server));
        own.unwrap_or(self.limit)
    }

    pub(crate) fn has_time(&self, service: &ServiceKey, real_server: &DestinationKey) -> bool {
        self.limit(service, real_server) > Duration::ZERO
    }

    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, interval, tcp, sctp, udp, services, limits: _ } = self;
        f.debug_struct("Drain")
            .field("limit", limit)
            .field("interval", interval)
            .field("tcp", tcp)
            .field("sctp", sctp)
            .field("udp", udp)
            .field("services", services)
            .finish_non_exhaustive()
    }
}
