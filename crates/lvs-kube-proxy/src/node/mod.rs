//! The node as values, and what reads and writes it: [`NodeDesired`] is what should be, a
//! [`NodePlan`] is what lies between that and what is there, and a [`Node`] is where it is carried
//! out.

mod desired;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod kernel;
mod plan;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use lvs::{
    Applied, ApplyError, Change, Plan,
    client::{
        Error, ErrorKind, Snapshot,
        packet::{DestinationKey, Protocol, ServiceKey},
    },
};

pub(crate) use self::{
    desired::NodeDesired,
    plan::{Extent, NodePlan, Phase},
};
use crate::{
    failure::{Failure, Step},
    health::Health,
    records::LedgerWrite,
    rules::{Element, RuleWrite},
};

/// The proxy's routes: what each makes local, and the source of the node's own connections to it.
pub(crate) type Routes = BTreeMap<IpNet, Option<IpAddr>>;

/// What the proxy reads and writes on its node: the kernel, or what takes its place in tests.
///
/// Each call is one step. It is carried out, or it fails and says why; a proxy that is killed is
/// killed between two of them, or within one that has done a part.
pub(crate) trait Node {
    /// Serves something as long as it lives.
    type Listener;

    /// All addresses: those of the node, and those of the proxy's link.
    async fn addresses(&mut self) -> Result<Addresses, Failure>;

    /// Where the node listens.
    fn listening(&mut self) -> BTreeSet<(Protocol, u16)>;

    /// The proxy's routes.
    async fn routes(&mut self) -> Result<Routes, Failure>;

    /// Some services, or the whole table.
    async fn table(&mut self, services: Option<&BTreeSet<ServiceKey>>)
    -> Result<Snapshot, Failure>;

    /// The elements in the sets of the rules.
    async fn rules(&mut self) -> Result<BTreeSet<Element>, Failure>;

    /// The number of the rules' last change, whoever made it.
    fn rules_generation(&mut self) -> Option<u32>;

    /// Looks whether rules can be written.
    fn look_for_rules(&mut self) -> Result<(), NoRules>;

    /// The address from which the node reaches other networks, if it has a route to any.
    fn source(&self, ipv4: bool) -> Option<IpAddr>;

    /// Whether the node forwards IPv6. The proxy leaves that as it is, as kube-proxy does: a node that
    /// begins to forward loses the default route that a router has advertised to it.
    fn forwards_ipv6(&self) -> bool;

    /// Stores what the ledger says.
    async fn store(&mut self, write: &LedgerWrite) -> Result<(), Failure>;

    /// Makes a range or an address local.
    async fn add_route(&mut self, range: IpNet, source: Option<IpAddr>) -> Result<(), Failure>;

    /// Takes one of the proxy's routes away.
    async fn remove_route(&mut self, range: IpNet) -> Result<(), Failure>;

    /// Adds addresses to the proxy's link, which is made if it is not there, and takes others away.
    /// All that are not named stay. What is refused does not hold up the others.
    async fn change_addresses(
        &mut self,
        added: &BTreeSet<IpAddr>,
        removed: &BTreeSet<IpAddr>,
    ) -> Result<(), Failure>;

    /// Deletes the kernel's own routes for IPv6 addresses of the proxy's link that have one of the
    /// proxy's, before which they would come. Those for new addresses are waited for, for a moment.
    async fn remove_routes_of_kernel(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        new: &BTreeSet<IpAddr>,
    ) -> Result<(), Failure>;

    /// Writes rules in one step.
    async fn write_rules(&mut self, write: RuleWrite<'_>) -> Result<(), Failure>;

    /// Carries out a plan of the table.
    async fn write_table(&mut self, plan: Plan) -> Written;

    /// Lets connection tracking forget the UDP clients of real servers that were taken away: as long
    /// as they send, their entries would stay and lead answers of other servers astray. Returns how
    /// many entries there were.
    async fn forget_clients(&mut self, stale: &StaleClients) -> Result<usize, Failure>;

    /// Whether somebody has confirmed what is held back, since the last time that this was asked.
    fn take_confirmation(&mut self) -> bool;

    /// Serves health and metrics.
    fn listen(&mut self, place: Listening, health: &Arc<Health>)
    -> Result<Self::Listener, Failure>;

    /// What was asked for since the last time, and how often.
    fn take_counts(&mut self) -> BTreeMap<&'static str, u64>;
}

/// The addresses of a node, without link-local ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// Those of all links but the proxy's, without loopback.
    pub(crate) node: BTreeSet<IpAddr>,
    /// Those of the proxy's link.
    pub(crate) own: BTreeSet<IpAddr>,
    /// The next hops of routes.
    pub(crate) gateways: BTreeSet<IpAddr>,
    /// The first and last addresses of the networks that links are in.
    pub(crate) broadcasts: BTreeSet<IpAddr>,
}

/// Why no rules can be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoRules {
    pub(crate) reason: String,
    /// Whether rules of an earlier proxy may be there and in force all the same.
    pub(crate) may_be_there: bool,
}

/// What is on the node besides the table, as far as the proxy knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodePresent {
    /// Of the proxy's link.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Of the proxy.
    pub(crate) routes: Routes,
}

/// What became of a plan of the table.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) done: Vec<Change>,
    pub(crate) refused: Vec<Refused>,
    /// What ended it.
    pub(crate) common: Option<Failure>,
}

impl Written {
    pub(crate) fn by(result: Result<Applied, ApplyError>) -> Self {
        let of = |applied: &Applied| Self {
            done: applied.done().cloned().collect(),
            refused: applied.failed().map(Refused::from).collect(),
            common: None,
        };
        match result {
            Ok(applied) => of(&applied),
            Err(error) => Self {
                common: error.common().map(|error| Failure::new(Step::Table, error)),
                ..error.applied().map(of).unwrap_or_default()
            },
        }
    }
}

impl From<(&Change, &Error)> for Refused {
    fn from((change, error): (&Change, &Error)) -> Self {
        Self {
            service: *change.service(),
            real_server: change.real_server().copied(),
            lacks_scheduler: error.kind() == ErrorKind::SchedulerNotFound,
            reason: error.to_string(),
        }
    }
}

/// A change that failed alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) service: ServiceKey,
    /// The real server that was not added or changed, if it was one.
    pub(crate) real_server: Option<DestinationKey>,
    /// Whether the kernel lacks the scheduler.
    pub(crate) lacks_scheduler: bool,
    pub(crate) reason: String,
}

/// The clients of UDP real servers that are gone: by the virtual address, the real servers; `None` is
/// all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StaleClients(pub(crate) BTreeMap<SocketAddr, Option<BTreeSet<SocketAddr>>>);

impl StaleClients {
    /// Whether it is about this connection.
    pub(crate) fn contains(&self, virtual_address: SocketAddr, real_server: SocketAddr) -> bool {
        self.0.get(&virtual_address).is_some_and(|servers| {
            servers.as_ref().is_none_or(|servers| servers.contains(&real_server))
        })
    }
}

/// Where something is served over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Listening {
    /// The proxy's own health.
    Own { address: SocketAddr, with_metrics: bool },
    /// A service's health, on this port of all addresses.
    Service { port: u16 },
}
