//! One round: what has changed becomes what should be on the node, that becomes a plan, and the plan
//! is carried out.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use lvs::{
    Drain, Draining, Plan, Policy,
    client::{
        Snapshot,
        packet::{AddressFamily, ServiceKey},
    },
};

use super::{
    checks::Checks,
    guard::{self, Guard},
    journal::Journal,
    shield::Shield,
};
use crate::{
    config::{Config, Pods},
    failure::Failure,
    health::{Condition, Health},
    metrics::Counts,
    node::{Extent, Node, NodeDesired, NodePlan, NodePresent, Phase},
    records::Records,
    rules::{Inside, RuleSet},
    settings::Surroundings,
    state::{Event, State, Update},
};

/// From this number of services on, the whole table is read, and not each service.
const WHOLE_TABLE_THRESHOLD: usize = 512;
/// This number of changes of endpoints is timed at once.
const TRIGGERS: usize = 10_000;

/// What the proxy knows, and its rounds. It has no clock: whoever asks for a round says what time it is.
///
/// A round may be dropped at any moment, and this with it: the next one goes on from what the node has
/// and what the ledger says.
#[derive(Debug)]
pub(crate) struct Rounds<N: Node> {
    pub(super) node: N,
    pub(super) config: Config,
    pub(super) shield: Shield,
    pub(super) state: State,
    pub(super) desired: NodeDesired,
    pub(super) present: NodePresent,
    pub(super) records: Records,
    /// Services of which the node may have something else than is desired.
    pub(super) pending: BTreeSet<ServiceKey>,
    pub(super) draining: Draining,
    /// When to look at what is being drained.
    pub(super) look: Option<Instant>,
    pub(super) guard: Guard,
    pub(super) journal: Journal,
    pub(super) health: Arc<Health>,
    pub(super) checks: Checks<N::Listener>,
    pub(super) counts: Counts,
    /// When endpoints became what is not written yet.
    triggers: Vec<SystemTime>,
    /// Whether a whole round has ended: before, each round is one.
    knows_node: bool,
    /// Whether what an earlier proxy left in the rules is known.
    has_adopted: bool,
    has_looked_at_forwarding: bool,
    node_has_moved: bool,
}

/// How a round ended that nothing common ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Round {
    /// Whether something was refused that holds up nothing else, so that it has to be tried again.
    pub(crate) is_partial: bool,
    /// Whether the source has to confirm what was held back.
    pub(crate) relist: bool,
}

/// What a round has done so far.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) has_failed: bool,
    /// How many services and real servers were not taken away.
    pub(super) held_back: usize,
    pub(super) addresses: usize,
}

impl<N: Node> Rounds<N> {
    pub(crate) fn new(
        node: N,
        config: Config,
        state: State,
        desired: NodeDesired,
        shield: Shield,
        records: Records,
    ) -> Self {
        Self {
            shield,
            node,
            state,
            desired,
            present: NodePresent::default(),
            records,
            pending: BTreeSet::new(),
            draining: Draining::new(),
            look: None,
            guard: Guard::new(config.timing.hold),
            journal: Journal::default(),
            health: Arc::new(Health::new(config.timing.sync_period)),
            checks: Checks::default(),
            counts: Counts::default(),
            triggers: Vec::new(),
            knows_node: false,
            has_adopted: false,
            has_looked_at_forwarding: false,
            node_has_moved: false,
            config,
        }
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn node(&self) -> &N {
        &self.node
    }

    pub(crate) fn node_mut(&mut self) -> &mut N {
        &mut self.node
    }

    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    /// Fresh lists are enough to confirm deletions: somebody asks for them now.
    pub(crate) fn hold_nothing(&mut self) {
        self.guard = Guard::new(Duration::ZERO);
    }

    /// How many deletions wait to be confirmed.
    pub(crate) fn held_back(&self) -> usize {
        self.guard.len()
    }

    /// When the first of them may go.
    pub(crate) fn release(&self, now: Instant) -> Option<Instant> {
        self.guard.due(now)
    }

    /// Somebody confirms them, if the node says so. Returns whether that is so.
    pub(crate) fn look_for_confirmation(&mut self) -> bool {
        let is_confirmed = self.node.take_confirmation();
        if is_confirmed {
            match self.guard.len() {
                0 => tracing::warn!("nothing is held back that could be confirmed"),
                count => tracing::warn!("deletion of {count} services and endpoints is confirmed"),
            }
            self.guard.confirm();
        }
        is_confirmed
    }

    /// What fails, and holds up nothing else.
    #[cfg(test)]
    pub(crate) fn failing(&self) -> Vec<String> {
        self.journal.failing().cloned().collect()
    }

    pub(crate) fn listeners(&self) -> impl Iterator<Item = &N::Listener> {
        self.checks.own()
    }

    /// Whether a round is due, whatever the time.
    pub(crate) fn is_wanted(&self) -> bool {
        self.state.is_touched() || !self.pending.is_empty()
    }

    /// When to look at what is being drained.
    pub(crate) fn look(&self) -> Option<Instant> {
        self.look
    }

    /// Whether the Node has other addresses since this was asked last, so that everything has to be
    /// looked at.
    pub(crate) fn take_node_has_moved(&mut self) -> bool {
        std::mem::take(&mut self.node_has_moved)
    }

    /// Takes in what a source says.
    pub(crate) fn take_in(&mut self, events: Vec<Event>) {
        for event in events {
            match &event {
                Event::Node(node) if node.metadata.name == self.state.node().name => {
                    self.health.set_node_is_eligible(!node.is_leaving());
                    self.health.set_condition(Condition::NodeGone, None);
                }
                Event::NodeGone(name) if *name == self.state.node().name => {
                    let text =
                        format!("the Node {name} was deleted: what it said last stays in use");
                    tracing::warn!("{text}");
                    self.health.set_condition(Condition::NodeGone, Some(text));
                }
                Event::Services(_) => self.guard.heard(true),
                Event::Slices(_) => self.guard.heard(false),
                _ => {}
            }
            match &event {
                Event::Services(services) => self.health.metrics.heard(services.len(), 0),
                Event::Service(_) | Event::ServiceGone(_) => self.health.metrics.heard(1, 0),
                Event::Slices(slices) => self.health.metrics.heard(0, slices.len()),
                Event::Slice(_) | Event::SliceGone(_) => self.health.metrics.heard(0, 1),
                Event::Node(_) | Event::NodeGone(_) => {}
            }
            let before = self.state.node().primary.clone();
            self.state.apply(event);
            self.node_has_moved |= self.state.node().primary != before;
        }
        if self.state.is_touched() && self.state.is_complete() {
            self.health.queued();
        }
    }

    /// Serves health and metrics where that is not done yet. Returns whether something failed.
    pub(crate) fn listen(&mut self) -> bool {
        let failures = self.checks.serve_own(&mut self.node, &self.config.listen, &self.health);
        self.fail_all(&failures)
    }

    /// Brings the node to what should be: all of it, or what has changed and what is being drained.
    pub(crate) async fn round(&mut self, is_whole: bool, now: Instant) -> Result<Round, Failure> {
        let is_whole = is_whole || !self.knows_node;
        let mut progress = Progress::default();
        let mut has_begun_rules = false;
        if is_whole {
            self.read_node().await?;
            has_begun_rules = self.knows_node && self.look_for_rules();
        }
        self.translate(is_whole, has_begun_rules);
        if is_whole {
            self.look_at_forwarding();
            progress.has_failed |= self.listen();
            self.look_at_rules().await;
        }
        let confirmed = self.guard.confirmed(&self.draining.held_back(), now);
        let confirmed = self.draining.confirm(&confirmed);
        self.pending.extend(confirmed.iter().map(|removal| removal.service));
        let extent = self.extent(is_whole, now);
        let mut table = self.read_table(&extent).await?;
        let policy = self.policy();
        // Whether rules can be written is seen when they are.
        let (table_plan, look) = match self.shield.no_rules.is_some() {
            true => self.plan_protected(&extent, &table, &policy, now, &BTreeSet::new()),
            false => self.plan_table(&extent, &table, &policy, now, &BTreeSet::new()),
        };
        let claims = self.pending.clone();
        let mut plan = NodePlan::between(
            &self.present,
            &self.desired,
            &extent,
            &self.records,
            claims,
            table_plan,
        );
        self.look = look;
        for phase in Phase::ALL {
            if phase > Phase::Table && progress.held_back > 0 {
                break;
            }
            if phase == Phase::Table {
                progress.has_failed |= self.say_unprotected(&extent, &table);
                let unproven = self.unproven(&table);
                if self.has_not_written_rules() || !unproven.is_empty() {
                    (plan.table, self.look) =
                        self.plan_protected(&extent, &table, &policy, now, &unproven);
                }
            }
            self.carry_out(phase, &mut plan, &mut table, &extent, now, &mut progress).await?;
        }
        self.knows_node |= is_whole;
        self.finish(is_whole, now, &progress)
    }

    /// What a whole round would do.
    pub(crate) async fn dry_run(&mut self, now: Instant) -> Result<NodePlan, Failure> {
        self.read_node().await?;
        self.translate(true, true);
        let table = self.read_table(&Extent::Whole).await?;
        let policy = self.policy();
        let (table, _) =
            self.plan_protected(&Extent::Whole, &table, &policy, now, &BTreeSet::new());
        let plan = NodePlan::between(
            &self.present,
            &self.desired,
            &Extent::Whole,
            &self.records,
            BTreeSet::new(),
            table,
        );
        let Some(rules) = &self.desired.rules else { return Ok(plan) };
        let listed = self.node.rules().await?;
        Ok(plan.with_rules(rules.plan_from(&listed)))
    }

    /// Takes in how long a round took that succeeded, and when it ended.
    pub(crate) fn record(&mut self, is_whole: bool, took: Duration, end: SystemTime) {
        self.health.metrics.ran(is_whole, took, &self.counts);
        for trigger in self.triggers.drain(..) {
            let took = end.duration_since(trigger).unwrap_or_default();
            self.health.metrics.programmed(took);
        }
        if !self.state.is_touched() {
            self.health.ran();
        }
    }

    /// Reads what is on the node besides the table.
    async fn read_node(&mut self) -> Result<(), Failure> {
        let addresses = self.node.addresses().await?;
        self.state.set_node_addresses(addresses.node);
        let listening = self.state.node().around.listening.clone();
        let (gateways, broadcasts) = (addresses.gateways, addresses.broadcasts);
        self.state.set_surroundings(Surroundings { gateways, broadcasts, listening });
        let routes = self.node.routes().await?;
        self.present = NodePresent { addresses: addresses.own, routes };
        Ok(())
    }

    /// Makes what has changed a part of what is desired.
    fn translate(&mut self, is_whole: bool, has_begun: bool) {
        // At first what was not translated would look as if nobody wanted it.
        let mut update = match self.knows_node && !has_begun {
            true => self.state.update_share(),
            false => self.state.update(),
        };
        if is_whole && self.state.is_at_node() {
            let around = &self.state.node().around;
            let around = Surroundings { listening: self.node.listening(), ..around.clone() };
            self.state.set_surroundings(around);
            update.extend(self.state.update());
        }
        if self.config.filter.pods == Pods::OfNode
            && let Some(rules) = &mut self.desired.rules
        {
            rules.set_inside(Inside::Networks(self.state.node().pod_networks.clone()));
        }
        self.desired.take_in(&self.state, &update);
        for ipv4 in [true, false] {
            let source = self.source(ipv4);
            self.desired.set_source(ipv4, source);
        }
        let Update { keys, services, notices, triggers } = update;
        self.triggers.extend(triggers);
        // While nothing can be written, more and more would wait here.
        self.triggers.truncate(TRIGGERS);
        if !services.is_empty() {
            self.health.metrics.queued();
        }
        for notice in notices {
            tracing::warn!("{notice}");
        }
        self.pending.extend(keys);
    }

    /// The source of the node's own connections to services.
    fn source(&self, ipv4: bool) -> Option<IpAddr> {
        let node = self.state.node();
        let own = node.primary.iter().find(|address| address.is_ipv4() == ipv4);
        own.copied()
            .filter(|address| node.addresses.contains(address))
            .or_else(|| self.node.source(ipv4))
    }

    /// Says once that IPv6 services need something that the proxy leaves as it is.
    fn look_at_forwarding(&mut self) {
        if self.has_looked_at_forwarding || !self.desired.has(AddressFamily::Ipv6) {
            return;
        }
        if !self.node.forwards_ipv6() {
            self.has_looked_at_forwarding = true;
            tracing::warn!(
                "net.ipv6.conf.all.forwarding is not 1, so pods are not reached through IPv6 services; it is \
                 left as it is, since a node that forwards loses the default route that a router advertises, \
                 unless its link has accept_ra 2"
            );
        }
    }

    /// Notices what others have done to the rules, and what an earlier proxy has left there: if that were
    /// overwritten while its services are still there, those would be open to everybody.
    async fn look_at_rules(&mut self) {
        let Some(rules) = &mut self.desired.rules else { return };
        if !self.has_adopted {
            match self.node.rules().await {
                Ok(listed) => {
                    rules.adopt(&listed);
                    self.has_adopted = true;
                }
                Err(failure) => {
                    self.fail(&failure);
                }
            }
            return;
        }
        if rules.look(self.node.rules_generation()) {
            tracing::info!("somebody has changed rules of nftables: writing ours again");
        }
    }

    fn extent(&self, is_whole: bool, now: Instant) -> Extent {
        if is_whole {
            return Extent::Whole;
        }
        let mut services = self.pending.clone();
        if self.look.is_some_and(|look| look <= now) {
            services.extend(self.draining.services());
        }
        Extent::Services(services)
    }

    async fn read_table(&mut self, extent: &Extent) -> Result<Snapshot, Failure> {
        match extent {
            Extent::Services(services) if services.len() <= WHOLE_TABLE_THRESHOLD => {
                self.node.table(Some(services)).await
            }
            _ => self.node.table(None).await,
        }
    }

    /// New services that wait because a later proxy would not know them for its own: the ledger could not be
    /// stored.
    fn unproven(&self, table: &Snapshot) -> BTreeSet<ServiceKey> {
        if !self.records.has_new() {
            return BTreeSet::new();
        }
        let keys = self.desired.table.iter().map(|service| service.key());
        let new = keys.filter(|key| !table.services.contains_key(key));
        new.filter(|key| !self.records.proves_service(key)).copied().collect()
    }

    /// The plan for the table without some services, and when to look at what is being drained.
    pub(super) fn plan_table(
        &mut self,
        extent: &Extent,
        table: &Snapshot,
        policy: &Policy,
        now: Instant,
        without: &BTreeSet<ServiceKey>,
    ) -> (Plan, Option<Instant>) {
        let allowed = (!without.is_empty()).then(|| self.desired.without(without));
        let desired = allowed.as_ref().unwrap_or(&self.desired.table);
        match extent {
            Extent::Whole => self.draining.step(desired, table, policy, now),
            Extent::Services(services) => {
                self.draining.step_of_services(services, desired, table, policy, now)
            }
        }
    }

    fn has_not_written_rules(&self) -> bool {
        self.desired.rules.as_ref().is_some_and(RuleSet::has_failed)
    }

    pub(super) fn policy(&self) -> Policy {
        let timing = &self.config.timing;
        // Those that only now begin to leave are not there yet: they are looked at again in time.
        let leaving: Vec<_> =
            self.draining.iter().map(|(service, server, _)| (service, server)).collect();
        let leaving = leaving.iter().map(|(service, server)| (service, server));
        let limits = self.state.drain_limits(leaving, timing.drain_limit);
        let at_once = self.desired.marks_that_leave_at_once();
        let drain = Drain::for_at_most(timing.unknown_pod_drain())
            .wait_for_inactive(true)
            .limit_of(move |service, real_server| match at_once.contains(service) {
                true => Some(Duration::ZERO),
                false => limits.get(&(*service, *real_server)).copied(),
            });
        Policy::new().scope(self.records.scope()).drain(drain).max_deletions(guard::limit())
    }
}
