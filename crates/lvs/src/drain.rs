//! How gently real servers leave.

use std::{fmt, sync::Arc, time::Duration};

use ipvs_client::packet::{DestinationEntry, DestinationKey, Protocol, ServiceKey};

/// How real servers that leave are drained: they get weight 0, and so no new connections, and are
/// taken away when they have no connections left, or when their time is over.
///
/// A real server has left when it is not desired any more while its service is. A service that is
/// not desired, and [may be deleted](crate::Scope), is deleted at once with its real servers, unless
/// [`services`](Self::services) says that it is drained as a whole.
///
/// # One apply
///
/// An apply by itself leaves them at weight 0 and [names them](crate::Applied::draining);
/// [`Desired::apply_until_drained`](crate::Desired::apply_until_drained) waits, and a
/// [`Reconciler`](crate::Reconciler) looks at them in its rounds.
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
    inactive: Option<bool>,
    limits: Option<Limits>,
}

/// No look comes sooner after another one.
const SHORTEST: Duration = Duration::from_millis(10);

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
            inactive: None,
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

    /// How long to wait between looks at what is being drained; a second by default, 10 milliseconds
    /// at least.
    #[must_use]
    pub fn look_every(mut self, interval: Duration) -> Self {
        self.interval = interval.max(SHORTEST);
        self
    }

    /// Whether inactive connections are waited for as well as active ones (the columns `ActiveConn`
    /// and `InActConn` of `ipvsadm -L`).
    ///
    /// Of TCP and SCTP, inactive are the connections that are not established: those that closed
    /// lately, which the kernel keeps for up to two minutes, so that a busy web server never gets
    /// empty; and those whose client has closed its half. By default they are not waited for, only an
    /// interval of [looks](Self::look_every), in which connections that are just being opened become
    /// active. Of UDP all connections are inactive, and those behind a firewall mark may be: there
    /// they are waited for by default.
    #[must_use]
    pub fn wait_for_inactive(mut self, waits: bool) -> Self {
        self.inactive = Some(waits);
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

    /// Whether a real server has connections that are waited for.
    pub(crate) fn waits_for(&self, service: &ServiceKey, entry: &DestinationEntry) -> bool {
        let tells_active =
            matches!(service, ServiceKey::Address { protocol: Protocol::TCP | Protocol::SCTP, .. });
        let inactive = self.inactive.unwrap_or(!tells_active);
        entry.active_connections > 0 || inactive && entry.inactive_connections > 0
    }

    pub(crate) fn takes(&self, service: &ServiceKey) -> bool {
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

    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, interval, tcp, sctp, udp, services, inactive, limits: _ } = self;
        f.debug_struct("Drain")
            .field("limit", limit)
            .field("interval", interval)
            .field("tcp", tcp)
            .field("sctp", sctp)
            .field("udp", udp)
            .field("services", services)
            .field("inactive", inactive)
            .finish_non_exhaustive()
    }
}
