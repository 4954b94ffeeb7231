//! The proxy itself: what a source says, brought to the kernel and kept there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use lvs::{
    Action, Applied, Desired, Drain, Draining, Plan, Policy,
    client::{
        ErrorKind, Snapshot,
        packet::{AddressFamily, Protocol, ServiceKey},
    },
};
use netns_link::NetNs;
use tokio::time::{Instant, sleep_until};

use crate::{
    config::{Config, FilterConfig, KernelConfig, Ownership, Pods},
    health::{Health, Listener, Server},
    kernel::{Failure, Kernel, LINK},
    metrics::{ChangeKind, Counts},
    netfilter::{Inside, Netfilter, Rules},
    nfnetlink::Nfnetlink,
    records::Records,
    settings::{Settings, ThisNode, WithoutLocal},
    source::Source,
    state::{Event, State, Update, firsts},
};

/// The waits after a run that failed.
pub(crate) const FIRST_WAIT: Duration = Duration::from_millis(500);
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// From how many services on the whole table is read rather than each service.
const MANY: usize = 512;
/// So many deletions need no fresh lists, whatever part of the table they are.
const FEW: usize = 20;
/// So many changes of endpoints are timed at once.
const TRIGGERS: usize = 10_000;
/// So many changes are logged one by one.
const SAID: usize = 20;

/// A service proxy for one node.
///
/// It is cancel-safe: whatever was interrupted, the next run goes on from what the kernel has.
#[derive(Debug)]
pub struct Proxy<'n, S> {
    source: S,
    config: Config,
    kernel: Kernel<'n>,
    records: Records,
    /// The service ranges that are local by routes.
    ranges: Vec<IpNet>,
    state: State,
    desired: Desired,
    /// Services of which the kernel may have something else than is desired.
    pending: BTreeSet<ServiceKey>,
    /// For which address and port a service by mark stands, or stood.
    marks: BTreeMap<ServiceKey, ServiceKey>,
    /// The addresses of the proxy's link, as far as it knows.
    present: BTreeSet<IpAddr>,
    draining: Draining,
    /// The failures that were logged by the last full run and the ones since.
    said: BTreeSet<String>,
    /// Those since the last full run.
    failures: BTreeSet<String>,
    /// Whether it was said that IPv6 is not forwarded.
    said_forwarding: bool,
    /// When to look at what is being drained.
    look: Option<Instant>,
    guard: Guard,
    node_is_gone: bool,
    /// Whether the Node has other addresses, so that everything is to be looked at.
    node_has_moved: bool,
    /// When endpoints became what is not written yet.
    triggers: Vec<SystemTime>,
    netfilter: Netfilter,
    /// For connection tracking, once it was needed.
    flows: Option<Nfnetlink>,
    health: Arc<Health>,
    server: Server,
    listeners: Vec<Listener>,
    checks: BTreeMap<u16, Listener>,
    counts: Counts,
}

/// What became of a plan.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    held_back: usize,
    has_failed: bool,
}

/// Whether something could not be brought to what it should be, so that it is to be tried again, and holds
/// up nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    Whole,
    Partial,
}

/// What guards against a source that has lost its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guard {
    /// Large deletions are held back.
    Up,
    /// They were, and lists were asked for; which of them have come.
    Asked { services: bool, slices: bool },
    /// Fresh lists have come, so whatever is to be deleted is.
    Down,
}

impl<'n, S: Source> Proxy<'n, S> {
    /// Opens what the proxy needs in a namespace, and makes its settings. Services and addresses are
    /// left as they are until the source has given both lists.
    ///
    /// # Errors
    ///
    /// IPVS, its settings or the state directory cannot be had.
    pub async fn new(source: S, config: Config, namespace: &'n NetNs) -> Result<Self, Failure> {
        Self::on(Kernel::open(namespace).await?, source, config).await
    }

    pub(crate) async fn on(
        mut kernel: Kernel<'n>,
        source: S,
        config: Config,
    ) -> Result<Self, Failure> {
        let state_failed = |error: io::Error| Failure::new("state", error);
        let records = Records::open(&config.ownership).map_err(state_failed)?;
        // Until the Node says more.
        let sources = [true, false].into_iter().filter_map(|ipv4| kernel.source(ipv4));
        let primary: Vec<_> = config.node.addresses.iter().copied().chain(sources).collect();
        let node = ThisNode {
            name: config.node.name.clone(),
            addresses: kernel.addresses().await?.node,
            given: config.node.addresses.clone(),
            primary: firsts(&primary),
            ..ThisNode::default()
        };
        let ranges = routed(&config.ownership, &node.addresses, source.server());
        let rules = Rules {
            ranges: ranges.clone(),
            excluded: config.ownership.excluded.clone(),
            masquerade_all: config.filter.masquerade_all,
            inside: inside(&config.filter),
        };
        let netfilter = Netfilter::open(kernel.namespace(), rules);
        let settings = Settings {
            scheduler: config.services.scheduler.clone(),
            node_port_addresses: config.services.node_port_addresses.clone(),
            external_ips: config.services.external_ips,
            without_local: without_local(&config, &netfilter),
            mark_bits: config.services.mark_bits,
            pod_networks: config.services.pod_networks.clone(),
            api_server: source.server(),
            ..Settings::default()
        };
        let health = Arc::new(Health::new(config.timing.sync_period));
        let server = Server::start().map_err(|error| {
            Failure::new("listen", format!("start the thread that serves health: {error}"))
        })?;
        Ok(Self {
            source,
            kernel,
            records,
            ranges,
            state: State::new(node, settings),
            desired: Desired::new(),
            pending: BTreeSet::new(),
            marks: BTreeMap::new(),
            present: BTreeSet::new(),
            draining: Draining::new(),
            said: BTreeSet::new(),
            failures: BTreeSet::new(),
            said_forwarding: false,
            look: None,
            guard: Guard::Up,
            node_is_gone: false,
            node_has_moved: false,
            triggers: Vec::new(),
            netfilter,
            flows: None,
            health,
            server,
            listeners: Vec::new(),
            checks: BTreeMap::new(),
            counts: Counts::default(),
            config,
        })
    }

    /// Follows the source until `stop` ends. The node is then left as it is: traffic goes on.
    ///
    /// # Errors
    ///
    /// The proxy's Node was deleted, or, with `--bind-address-hard-fail`, health or metrics cannot be
    /// served. All else is logged and tried again.
    pub async fn run(&mut self, stop: impl Future<Output = ()>) -> Result<(), Failure> {
        if self.listen() && self.config.listen.hard_fail {
            let reason = "health or metrics cannot be served, and --bind-address-hard-fail is set";
            return Err(Failure::new("listen", reason));
        }
        let mut stop = std::pin::pin!(stop);
        let mut next_full = Instant::now();
        let mut not_before = Instant::now();
        let mut wait = FIRST_WAIT;
        // For what failed alone, and holds up nothing else.
        let mut retry = FIRST_WAIT;
        let mut settled = false;
        loop {
            let wanted =
                self.state.is_touched() || !self.pending.is_empty() || self.guard == Guard::Down;
            let ready = self.state.is_complete();
            let event_run = wanted.then_some(not_before);
            let next = [Some(next_full), event_run, self.look].into_iter().flatten().min();
            let next = next.unwrap_or(next_full).max(not_before);
            tokio::select! {
                () = &mut stop => return Ok(()),
                events = self.source.next() => {
                    self.take_in(events);
                    if self.node_is_gone {
                        let name = &self.state.node().name;
                        return Err(Failure::new("node", format!("the Node {name} was deleted")));
                    }
                    if std::mem::take(&mut self.node_has_moved) {
                        next_full = Instant::now();
                    }
                    continue;
                }
                () = sleep_until(next), if ready => {}
            }
            let result = match settled {
                false => settle(&self.kernel, &self.config.kernel).await,
                true => Ok(()),
            };
            settled = result.is_ok();
            let is_full = next_full <= Instant::now() || self.guard == Guard::Down;
            let result = match result {
                Ok(()) if is_full => self.full_run().await,
                Ok(()) => self.event_run().await,
                Err(failure) => Err(failure),
            };
            let now = Instant::now();
            not_before = now + self.config.timing.min_sync_period;
            match result {
                Ok(run) => {
                    wait = FIRST_WAIT;
                    if is_full {
                        next_full = now + self.config.timing.sync_period;
                    }
                    if run == Run::Partial {
                        next_full = next_full.min(now + retry);
                    }
                    if is_full {
                        retry = match run {
                            Run::Whole => FIRST_WAIT,
                            Run::Partial => (retry * 2).min(LONGEST_WAIT),
                        };
                    }
                }
                Err(failure) => {
                    self.health.metrics.failed(failure.step);
                    tracing::error!("{failure}; the next attempt is in {} s", wait.as_secs_f64());
                    next_full = now + wait;
                    not_before = not_before.max(next_full);
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
            }
        }
    }

    /// Waits for both lists, brings the kernel to what they come to, and returns.
    ///
    /// # Errors
    ///
    /// Something could not be read or written.
    pub async fn once(&mut self) -> Result<(), Failure> {
        self.wait_for_lists().await;
        settle(&self.kernel, &self.config.kernel).await?;
        let mut run = self.full_run().await?;
        if self.state.is_touched() {
            // Without a scheduler that the kernel lacks.
            run = self.full_run().await?;
        }
        if matches!(self.guard, Guard::Asked { .. }) {
            while self.guard != Guard::Down {
                let events = self.source.next().await;
                self.take_in(events);
            }
            run = self.full_run().await?;
        }
        match run {
            Run::Whole => Ok(()),
            Run::Partial => {
                let reason = "not everything could be brought to what it should be";
                Err(Failure::new("ipvs", reason))
            }
        }
    }

    /// Waits for both lists, and says what a run would do.
    ///
    /// # Errors
    ///
    /// Something could not be read.
    pub async fn dry_run(&mut self) -> Result<String, Failure> {
        self.wait_for_lists().await;
        self.translate();
        let mut text = String::new();
        let present = self.kernel.addresses().await?.own;
        let wanted = self.link_addresses();
        for (range, source) in self.routes() {
            let source = source.map_or(String::new(), |source| format!(" src {source}"));
            let _ = writeln!(text, "= local {range} dev lo{source}");
        }
        for address in wanted.difference(&present) {
            let _ = writeln!(text, "+ address {address}");
        }
        let snapshot = self.kernel.snapshot().await?;
        let plan = Plan::new(&self.desired, &snapshot, &self.policy(&snapshot));
        let _ = write!(text, "{plan}");
        for address in
            present.difference(&wanted).filter(|address| self.records.owns_address(address))
        {
            let _ = writeln!(text, "- address {address}");
        }
        Ok(text)
    }

    /// What the source's objects come to.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The addresses at which the proxy serves its own health and metrics.
    pub fn listening(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().map(Listener::address)
    }

    async fn wait_for_lists(&mut self) {
        while !self.state.is_complete() {
            let events = self.source.next().await;
            self.take_in(events);
        }
    }

    /// Serves health and metrics where that is not done yet. Returns whether something failed.
    fn listen(&mut self) -> bool {
        let wanted: BTreeSet<_> =
            [self.config.listen.health, self.config.listen.metrics].into_iter().flatten().collect();
        let mut has_failed = false;
        for address in wanted {
            if self.listeners.iter().any(|listener| listener.address() == address) {
                continue;
            }
            let socket = self.kernel.listen(address);
            let with_metrics = self.config.listen.metrics == Some(address);
            let listener = socket
                .and_then(|socket| self.server.own(socket, self.health.clone(), with_metrics));
            match listener {
                Ok(listener) => self.listeners.push(listener),
                Err(error) => {
                    let reason = format!("listen on {address} for health and metrics: {error}");
                    has_failed |= self.fail(&Failure::new("listen", reason));
                }
            }
        }
        has_failed
    }

    fn take_in(&mut self, events: Vec<Event>) {
        for event in events {
            match &event {
                Event::Node(node) if node.metadata.name == self.state.node().name => {
                    let is_ending = node.metadata.deletion_timestamp.is_some();
                    let taint = "ToBeDeletedByClusterAutoscaler";
                    let is_leaving = node.spec.taints.iter().any(|found| found.key == taint);
                    self.health.set_node_is_eligible(!is_ending && !is_leaving);
                }
                Event::NodeGone(name) if *name == self.state.node().name => {
                    self.node_is_gone = true;
                }
                Event::Services(_) => self.guard = self.guard.heard(true),
                Event::Slices(_) => self.guard = self.guard.heard(false),
                _ => {}
            }
            let before = self.state.node().primary.clone();
            self.state.apply(event);
            self.node_has_moved |= self.state.node().primary != before;
        }
        if self.state.is_touched() && self.state.is_complete() {
            self.health.queued();
        }
    }

    /// Translates what has changed.
    fn translate(&mut self) {
        let update = self.state.update();
        if self.config.filter.pods == Pods::OfNode {
            self.netfilter.set_inside(Inside::Networks(self.state.node().pod_networks.clone()));
        }
        self.netfilter.take_in(&self.state, &update);
        let Update { keys, services, notices, triggers } = update;
        self.triggers.extend(triggers);
        // While nothing can be written, more and more would wait here.
        self.triggers.truncate(TRIGGERS);
        if !services.is_empty() {
            self.health.metrics.queued(services.len());
        }
        for notice in notices {
            tracing::warn!("{notice}");
        }
        for key in keys {
            match self.state.target(&key) {
                Some((_, target)) => {
                    self.desired.insert(target.virtual_service.clone());
                    if let Some(place) = target.stands_for {
                        self.marks.insert(key, place);
                    }
                }
                None => {
                    self.desired.remove(&key);
                }
            }
            self.pending.insert(key);
        }
    }

    /// Says once that IPv6 services need something that the proxy leaves as it is.
    fn look_at_forwarding(&mut self) {
        let is_ipv6 = |key: &ServiceKey| key.family() == AddressFamily::Ipv6;
        if !self.said_forwarding && self.desired.keys().any(is_ipv6) && !self.kernel.forwards_ipv6()
        {
            self.said_forwarding = true;
            tracing::warn!(
                "net.ipv6.conf.all.forwarding is not 1, so pods are not reached through IPv6 services; it is \
                 left as it is, since a node that forwards loses the default route that a router advertises, \
                 unless its link has accept_ra 2"
            );
        }
    }

    /// Compares everything: routes, addresses, the whole table.
    async fn full_run(&mut self) -> Result<Run, Failure> {
        let begin = Instant::now();
        let mut has_failed = false;
        let addresses = self.kernel.addresses().await?;
        self.state.set_node_addresses(addresses.node);
        self.present = addresses.own;
        self.translate();
        self.look_at_forwarding();
        let wanted = self.link_addresses();
        if let Err(failure) = self.claim(&wanted) {
            has_failed |= self.fail(&failure);
        }
        // An address or a range that is refused costs nothing but its own services.
        self.kernel.read_routes().await?;
        let routes = self.routes();
        let sources = [self.source(true), self.source(false)];
        let single = wanted.iter().map(|ip| (IpNet::from(*ip), sources[usize::from(ip.is_ipv6())]));
        for (range, source) in routes.iter().copied().chain(single) {
            match self.kernel.add_route(range, source).await {
                Ok(change) => change.iter().for_each(|change| tracing::info!("{change}")),
                Err(failure) => has_failed |= self.fail(&failure),
            }
        }
        let new: BTreeSet<_> = wanted.difference(&self.present).copied().collect();
        if let Err(failure) = self.kernel.change_virtual_addresses(&new, None).await {
            has_failed |= self.fail(&failure);
        }
        self.present.extend(&new);
        if let Err(failure) = self.kernel.delete_routes_of_kernel(&wanted, &new).await {
            has_failed |= self.fail(&failure);
        }
        has_failed |= self.listen();
        // Before the services, so that no connection misses it.
        has_failed |= self.write_rules(true);

        let snapshot = self.kernel.snapshot().await?;
        let (policy, now) = (self.policy(&snapshot), begin.into_std());
        let allowed = self.allowed(&snapshot);
        let desired = allowed.as_ref().unwrap_or(&self.desired);
        let (plan, look) = self.draining.step(desired, &snapshot, &policy, now);
        self.look = look.map(Instant::from_std);
        let mut outcome = self.apply(plan).await?;
        outcome.has_failed |= has_failed;
        self.pending.clear();

        if outcome.held_back == 0 {
            self.netfilter.take_away();
            outcome.has_failed |= self.write_rules(false);
            let goes =
                |address: &&IpAddr| !wanted.contains(address) && self.records.owns_address(address);
            let removed: BTreeSet<_> = self.present.iter().filter(goes).copied().collect();
            self.kernel.change_virtual_addresses(None, &removed).await?;
            let stays = |range: &IpNet| {
                let is_single = || wanted.contains(&range.addr()) && *range == range.addr().into();
                routes.iter().any(|(route, _)| route.trunc() == *range) || is_single()
            };
            for change in self.kernel.remove_routes(stays).await? {
                tracing::info!("{change}");
            }
            self.health.metrics.changed(ChangeKind::Address, new.len() + removed.len());
            self.present.retain(|address| !removed.contains(address));
            let present = &self.present;
            let settled =
                self.records.settle(&self.desired, &snapshot, |address| present.contains(address));
            if let Err(error) = settled {
                outcome.has_failed |= self.fail(&Failure::new("state", error));
            }
            self.guard = Guard::Up;
        }
        self.said = std::mem::take(&mut self.failures);
        self.finish(begin, outcome)
    }

    /// Brings to the kernel what has changed since the last run, and looks at what leaves.
    async fn event_run(&mut self) -> Result<Run, Failure> {
        let begin = Instant::now();
        let mut has_failed = false;
        self.translate();
        let mut keys = self.pending.clone();
        if self.look.is_some_and(|look| look <= begin) {
            keys.extend(self.draining.services());
        }
        let wanted: BTreeSet<_> = keys.iter().filter_map(|key| self.link_address(key)).collect();
        if let Err(failure) = self.claim(&wanted) {
            has_failed |= self.fail(&failure);
        }
        let new: BTreeSet<_> = wanted.difference(&self.present).copied().collect();
        for address in &new {
            match self.add_address(*address).await {
                Ok(()) => {
                    self.present.insert(*address);
                }
                Err(failure) => has_failed |= self.fail(&failure),
            }
        }
        if let Err(failure) = self.kernel.delete_routes_of_kernel(&new, &new).await {
            has_failed |= self.fail(&failure);
        }
        has_failed |= self.write_rules(false);

        let snapshot = match keys.len() {
            0..=MANY => self.kernel.services(&keys).await?,
            _ => self.kernel.snapshot().await?,
        };
        let (policy, now) = (self.policy(&snapshot), begin.into_std());
        let allowed = self.allowed(&snapshot);
        let desired = allowed.as_ref().unwrap_or(&self.desired);
        let (plan, look) = self.draining.step_of_services(&keys, desired, &snapshot, &policy, now);
        self.look = look.map(Instant::from_std);
        let mut outcome = self.apply(plan).await?;
        outcome.has_failed |= has_failed;
        self.pending.clear();

        let mut removed = 0;
        if outcome.held_back == 0 {
            self.netfilter.take_away();
            outcome.has_failed |= self.write_rules(false);
            for key in &keys {
                let ServiceKey::Address { address, .. } = key else { continue };
                let stays = self.is_link_address(address) || !self.records.owns_address(address);
                if !stays && self.present.remove(address) {
                    self.kernel.change_virtual_addresses(None, [address]).await?;
                    self.kernel.remove_route(IpNet::from(*address)).await?;
                    removed += 1;
                }
            }
        }
        self.health.metrics.changed(ChangeKind::Address, new.len() + removed);
        self.finish(begin, outcome)
    }

    /// Makes an address local.
    async fn add_address(&mut self, address: IpAddr) -> Result<(), Failure> {
        let source = self.source(address.is_ipv4());
        self.kernel.add_route(IpNet::from(address), source).await?;
        self.kernel.change_virtual_addresses([&address], None).await
    }

    /// Takes in that something failed that holds up nothing else. It is logged once, as long as it goes on
    /// to fail.
    fn fail(&mut self, failure: &Failure) -> bool {
        if let Some(text) = self.note(failure) {
            tracing::error!("{text}; it is tried again");
        }
        true
    }

    /// Takes in a failure, and returns what is to be said of it if it is new.
    fn note(&mut self, failure: &Failure) -> Option<String> {
        self.health.metrics.failed(failure.step);
        let text = failure.to_string();
        let is_new = !self.said.contains(&text) && !self.failures.contains(&text);
        self.failures.insert(text.clone());
        is_new.then_some(text)
    }

    /// Carries a plan out. A service that fails does not hold up the others: it is tried again with
    /// the next full run.
    async fn apply(&mut self, plan: Plan) -> Result<Outcome, Failure> {
        let mut refused = BTreeSet::new();
        let result = self.kernel.apply(plan).await;
        let (applied, common) = match &result {
            Ok(applied) => (Some(applied), None),
            Err(error) => (error.applied(), error.common()),
        };
        let (mut held_back, mut has_failed, mut news) = (0, false, Vec::new());
        if let Some(applied) = applied {
            self.forget_clients(applied);
            self.log(applied);
            held_back = applied.held_back_count();
            for (change, error) in applied.failed() {
                let scheduler = self.desired.get(change.service());
                let scheduler = scheduler.map(|service| service.service().scheduler.to_string());
                match scheduler {
                    Some(name)
                        if error.kind() == ErrorKind::SchedulerNotFound
                            && name != self.state.settings().scheduler =>
                    {
                        refused.insert(name);
                    }
                    _ => {
                        has_failed = true;
                        news.extend(self.note(&Failure::new("ipvs", error)));
                    }
                }
            }
        }
        for text in news.iter().take(SAID) {
            tracing::error!("{text}; it is tried again");
        }
        if let Some(more @ 1..) = news.len().checked_sub(SAID) {
            tracing::error!("{more} more changes of the table were refused; they are tried again");
        }
        if let Some(error) = common {
            return Err(Failure::new("ipvs", error));
        }
        if held_back > 0 && self.guard == Guard::Up {
            tracing::warn!(
                "{held_back} services and endpoints are to be deleted at once, more than half of the table: \
                 that waits for fresh lists to confirm it"
            );
            self.source.relist();
            self.guard = Guard::Asked { services: false, slices: false };
        }
        // Translated again, with the default in their place, which is then written at once.
        refused.into_iter().for_each(|name| self.state.refuse_scheduler(name));
        Ok(Outcome { held_back, has_failed })
    }

    fn log(&self, applied: &Applied) {
        let count = applied.len();
        self.health.metrics.changed(ChangeKind::Table, count);
        if count > SAID {
            tracing::info!("{count} changes in the table");
        }
        for change in applied.done() {
            match count > SAID {
                true => tracing::debug!("{change}"),
                false => tracing::info!("{change}"),
            }
        }
    }

    /// Writes rules of nftables. Returns whether that failed.
    fn write_rules(&mut self, is_full: bool) -> bool {
        match self.netfilter.write(self.kernel.namespace(), is_full) {
            Ok(false) => false,
            Ok(true) => {
                self.kernel.count("processes");
                false
            }
            Err(error) => {
                self.kernel.count("processes");
                self.fail(&Failure::new("netfilter", error))
            }
        }
    }

    /// As long as rules could not be written, what is desired without new services that only some clients
    /// may reach.
    fn allowed(&self, table: &Snapshot) -> Option<Desired> {
        if !self.netfilter.has_failed() {
            return None;
        }
        let mut desired = self.desired.clone();
        let restricted = self.state.targets().filter(|(_, target)| target.source_ranges.is_some());
        for (_, target) in restricted {
            if !table.services.contains_key(target.key()) {
                desired.remove(target.key());
            }
        }
        Some(desired)
    }

    /// Lets connection tracking forget the UDP clients of real servers that were taken away: as long as
    /// they send, their entries would stay and lead answers of other servers astray. The kernel may do so
    /// by itself.
    fn forget_clients(&mut self, applied: &Applied) {
        // `None` is every real server.
        let mut gone: BTreeMap<SocketAddr, Option<BTreeSet<SocketAddr>>> = BTreeMap::new();
        for change in applied.done() {
            let key = change.service();
            let place = match change.action() {
                Action::DeleteService { .. } => self.marks.remove(key),
                _ => self.marks.get(key).copied(),
            };
            let ServiceKey::Address { protocol: Protocol::UDP, address, port } =
                place.unwrap_or(*key)
            else {
                continue;
            };
            let place = SocketAddr::new(address, port);
            match change.action() {
                Action::DeleteService { .. } => {
                    gone.insert(place, None);
                }
                Action::DeleteRealServer { before } => {
                    if let Some(servers) =
                        gone.entry(place).or_insert_with(|| Some(BTreeSet::new()))
                    {
                        servers.insert(SocketAddr::new(before.key.address, before.key.port));
                    }
                }
                _ => {}
            }
        }
        if gone.is_empty() || self.kernel.forgets_clients() {
            return;
        }
        for ipv4 in [true, false] {
            if !gone.keys().any(|place| place.is_ipv4() == ipv4) {
                continue;
            }
            let is_stale = |place, server| {
                gone.get(&place).is_some_and(|servers| {
                    servers.as_ref().is_none_or(|servers| servers.contains(&server))
                })
            };
            let flows = match self.flows.take() {
                Some(flows) => Ok(flows),
                None => Nfnetlink::open(self.kernel.namespace()),
            };
            let forgotten = flows.and_then(|mut flows| {
                let count = flows.forget_udp(ipv4, is_stale)?;
                self.flows = Some(flows);
                Ok(count)
            });
            match forgotten {
                Ok(0) => {}
                Ok(count) => {
                    self.health.metrics.changed(ChangeKind::Flow, count);
                    tracing::info!("{count} UDP entries of connection tracking deleted");
                }
                Err(error) => {
                    self.health.metrics.failed("conntrack");
                    tracing::warn!(
                        "delete UDP entries of connection tracking: {error}; clients of endpoints that \
                         left may get no answer until they pause"
                    );
                }
            }
        }
    }

    fn claim(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), Failure> {
        let claimed = self.records.claim(&self.desired, &self.pending, addresses);
        claimed.map_err(|error| Failure::new("state", error))
    }

    fn policy(&self, table: &Snapshot) -> Policy {
        let limit = self.config.timing.drain_limit;
        // Those that only now begin to leave are not there yet: they are looked at again in time.
        let leaving = self.draining.iter().map(|(service, real_server, _)| (service, real_server));
        let limits = self.state.drain_limits(leaving, limit);
        // Those of UDP and SCTP leave at once, also behind a mark, which does not say so.
        let is_tcp =
            |key: &ServiceKey| matches!(key, ServiceKey::Address { protocol: Protocol::TCP, .. });
        let marks = self.marks.iter().filter(|(_, place)| !is_tcp(place));
        let at_once: BTreeSet<_> = marks.map(|(mark, _)| *mark).collect();
        let drain = Drain::for_at_most(self.config.timing.unknown_pod_drain()).limit_of(
            move |service, real_server| match at_once.contains(service) {
                true => Some(Duration::ZERO),
                false => limits.get(&(*service, *real_server)).copied(),
            },
        );
        let policy = Policy::new().scope(self.records.scope()).drain(drain);
        let there: usize =
            table.services.values().map(|service| 1 + service.destinations.len()).sum();
        match self.guard {
            Guard::Down => policy,
            _ => policy.max_deletions(FEW.max(there.max(self.counts.total()) / 2)),
        }
    }

    /// The service ranges with the node's address as the source of its own connections.
    fn routes(&self) -> Vec<(IpNet, Option<IpAddr>)> {
        let ranges = self.ranges.iter();
        ranges.map(|range| (*range, self.source(range.addr().is_ipv4()))).collect()
    }

    /// The source of the node's own connections to services.
    fn source(&self, ipv4: bool) -> Option<IpAddr> {
        let node = self.state.node();
        let own = node.primary.iter().find(|address| address.is_ipv4() == ipv4);
        own.copied()
            .filter(|address| node.addresses.contains(address))
            .or_else(|| self.kernel.source(ipv4))
    }

    /// Whether the proxy's link should have this address.
    fn is_link_address(&self, address: &IpAddr) -> bool {
        let has_route = self.ranges.iter().any(|range| range.contains(address));
        !has_route && self.state.wants_address(address)
    }

    /// The address that the proxy's link should have for a virtual service.
    fn link_address(&self, key: &ServiceKey) -> Option<IpAddr> {
        let (_, target) = self.state.target(key)?;
        target.address().filter(|address| self.is_link_address(address))
    }

    fn link_addresses(&self) -> BTreeSet<IpAddr> {
        self.state.addresses().filter(|address| self.is_link_address(address)).collect()
    }

    /// Says how it stands, and serves the health checks that are wanted.
    fn finish(&mut self, begin: Instant, outcome: Outcome) -> Result<Run, Failure> {
        let mut counts = Counts {
            virtual_services: self.desired.len(),
            real_servers: self.desired.iter().map(|service| service.destinations().len()).sum(),
            draining: self.draining.iter().len(),
            failing: self.failures.union(&self.said).count(),
            addresses: self.present.len(),
            held_back: outcome.held_back,
            ..Counts::default()
        };
        for (_, translation) in self.state.translations() {
            counts.no_local_internal += usize::from(translation.no_local_internal);
            counts.no_local_external += usize::from(translation.no_local_external);
        }
        self.counts = counts;
        let leaving = self.draining.iter();
        let leaving = leaving.map(|(_, server, _)| SocketAddr::new(server.address, server.port));
        self.state.forget_ended(&leaving.collect());
        self.health.metrics.asked(self.kernel.take_counts());
        // Load balancers hear of what is gone when it is.
        let has_failed = outcome.held_back == 0 && self.serve_checks();
        self.health.metrics.ran(begin.elapsed(), &counts);
        let now = SystemTime::now();
        for trigger in self.triggers.drain(..) {
            let took = now.duration_since(trigger).unwrap_or_default();
            self.health.metrics.programmed(took);
        }
        if !self.state.is_touched() {
            self.health.ran();
        }
        Ok(if outcome.has_failed || has_failed { Run::Partial } else { Run::Whole })
    }

    /// Serves the health checks that are wanted. Returns whether one of them could not be.
    fn serve_checks(&mut self) -> bool {
        let mut has_failed = false;
        let checks: BTreeMap<_, _> = self
            .state
            .health_checks()
            .map(|(name, check)| (check.port, (name.clone(), check.clone())))
            .collect();
        self.checks.retain(|port, _| checks.contains_key(port));
        for (port, (name, _)) in &checks {
            if self.checks.contains_key(port) {
                continue;
            }
            let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port));
            let socket = self
                .kernel
                .listen(both)
                .or_else(|_| self.kernel.listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port))));
            match socket.and_then(|socket| self.server.of_service(socket, self.health.clone())) {
                Ok(listener) => {
                    self.checks.insert(*port, listener);
                }
                Err(error) => {
                    let reason =
                        format!("service {name}: listen on its health check port {port}: {error}");
                    has_failed |= self.fail(&Failure::new("listen", reason));
                }
            }
        }
        self.health.set_checks(checks);
        has_failed
    }
}

/// Makes the node's settings.
pub(crate) async fn init(config: &Config, namespace: &NetNs) -> Result<(), Failure> {
    settle(&Kernel::open(namespace).await?, &config.kernel).await
}

async fn settle(kernel: &Kernel<'_>, config: &KernelConfig) -> Result<(), Failure> {
    for change in kernel.settle(config.strict_arp)? {
        tracing::info!("set {change}");
    }
    kernel.set_timeouts(config.timeouts).await
}

/// Takes away what is the proxy's own in the kernel: its services, addresses and routes. What others
/// have made stays. Without a ledger, what lies in the service ranges is the proxy's own.
///
/// # Errors
///
/// Something could not be read or taken away.
pub async fn clean_up(config: &Config, namespace: &NetNs) -> Result<(), Failure> {
    let mut kernel = Kernel::open(namespace).await?;
    let failed = |error: io::Error| Failure::new("state", error);
    let mut records = Records::open(&config.ownership).map_err(failed)?;
    let applied = Desired::new().apply(&kernel.ipvs, &Policy::new().scope(records.scope())).await;
    applied.map_err(|error| Failure::new("ipvs", error))?;
    let present = kernel.addresses().await?.own;
    let own = present.iter().filter(|address| records.owns_address(address));
    kernel.change_virtual_addresses(None, own).await?;
    kernel.read_routes().await?;
    kernel.remove_routes(|_| false).await?;
    kernel.delete_empty_link().await?;
    match Netfilter::remove(namespace) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("take the table of nftables away, if there is one: {error}");
        }
        _ => {}
    }
    records.clear().map_err(failed)
}

/// The service ranges that can be local by a route, if any is to be: one that holds an address of this node
/// or of the API server holds more than services, and their addresses become local one by one.
fn routed(ownership: &Ownership, own: &BTreeSet<IpAddr>, server: Option<IpAddr>) -> Vec<IpNet> {
    let mut ranges = match ownership.has_routes {
        true => ownership.ranges.clone(),
        false => Vec::new(),
    };
    ranges.retain(|range| {
        let found = own.iter().chain(&server).find(|address| range.contains(*address));
        if let Some(address) = found {
            tracing::error!(
                "--service-cluster-ip-range: {range} holds {address}, which is no service but this node or \
                 the API server: it gets no route, and each service in it an address of {LINK}"
            );
        }
        found.is_none()
    });
    ranges
}

/// How pods are recognised, as far as the configuration says.
fn inside(config: &FilterConfig) -> Inside {
    match &config.pods {
        Pods::Networks(networks) => Inside::Networks(networks.clone()),
        // The Node says.
        Pods::OfNode => Inside::default(),
        Pods::Link { name, is_prefix } => {
            Inside::Link { name: name.clone(), is_prefix: *is_prefix }
        }
    }
}

/// What a policy of `Local` without an endpoint here comes to. Says so, if it is less than could be.
fn without_local(config: &Config, netfilter: &Netfilter) -> WithoutLocal {
    let knows_pods = config.filter.pods != Pods::Networks(Vec::new());
    let reason = match config.services.without_local {
        Some(chosen @ (WithoutLocal::FallBack | WithoutLocal::Refuse)) => return chosen,
        _ if !netfilter.is_there() => "there are no nftables",
        _ if !knows_pods => "it is not known which clients are pods (--cluster-cidr)",
        _ => return WithoutLocal::ByMark,
    };
    tracing::warn!(
        "{reason}, so an address with the policy Local leads clients outside of the cluster to other \
         nodes, too, while no endpoint is here, as with kube-proxy: they get no answer"
    );
    WithoutLocal::FallBack
}

impl Guard {
    /// After a list has come.
    fn heard(self, is_services: bool) -> Self {
        match self {
            Self::Asked { services, slices } => {
                let (services, slices) = (services || is_services, slices || !is_services);
                match services && slices {
                    true => Self::Down,
                    false => Self::Asked { services, slices },
                }
            }
            other => other,
        }
    }
}

impl Counts {
    fn total(&self) -> usize {
        self.virtual_services + self.real_servers
    }
}
