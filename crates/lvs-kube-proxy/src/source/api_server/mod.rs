//! Services, EndpointSlices and Nodes from an API server.

mod connection;
mod has;
mod outage;
mod ranges;
mod watched;

use std::{
    collections::BTreeSet,
    fmt, io,
    net::IpAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use futures_util::{
    FutureExt, Stream, StreamExt,
    stream::{self, BoxStream, SelectAll},
};
use ipnet::IpNet;
use kube::{
    Api, Client,
    core::ApiResource,
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, DefaultBackoff, watcher},
    },
};

use tokio::sync::watch;

use self::{
    connection::{Connection, random},
    has::{Has, look},
    outage::{Outage, Trouble},
    ranges::Ranges,
    watched::{Object, ServiceCidr, Watched, resource},
};
use super::{Contact, Events};
use crate::{
    object::{EndpointSlice, Node, Service},
    state::Event,
};

/// Services of other proxies are not asked for.
const SERVICES: &str = "!service.kubernetes.io/service-proxy-name";
/// Nor are headless ones, where the server can tell.
const WITH_ADDRESS: &str = "spec.clusterIP!=None";
/// Nor slices of headless services.
const SLICES: &str = "!service.kubernetes.io/headless";
/// The waits between attempts to reach a server that has not answered yet.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// How long a server may say nothing to the first questions.
const ANSWER: Duration = Duration::from_secs(30);
/// The longest wait before lists that are asked for anew: not all nodes ask at once.
const SPREAD: Duration = Duration::from_secs(5);
/// How long the proxy waits for the service ranges before it begins without.
const RANGES_WAIT: Duration = Duration::from_secs(10);

/// A Kubernetes API server: lists, then watches. EndpointSlices are those of `discovery.k8s.io/v1`, or
/// of `v1beta1` where the server has only these (Kubernetes 1.17 to 1.20).
///
/// A server that cannot be reached is tried again, at longer and longer intervals, and so is a watch
/// that ends; what was known stays known. After "410 Gone" there is a fresh list.
pub struct ApiServer {
    client: Client,
    node: String,
    server: Option<IpAddr>,
    /// Whether all Nodes are watched rather than this one.
    all_nodes: bool,
    watches: SelectAll<BoxStream<'static, Told>>,
    /// Whether one of them asks the server what it has, so that the others can begin, or begin anew.
    asks: bool,
    /// Objects of a list that is not whole yet.
    services: Vec<Service>,
    slices: Vec<EndpointSlice>,
    /// The names of the Nodes that are there.
    nodes: BTreeSet<String>,
    /// Those of the list before the one that is being read.
    nodes_before: BTreeSet<String>,
    /// Whether they were not listed yet. What services come to depends on them.
    waits_for_nodes: bool,
    /// What has come before them.
    early: Vec<Event>,
    /// What the server turned out not to take, so that it is not tried again.
    refused: Refused,
    outage: Outage,
    contact: Contact,
    ranges: Ranges,
}

/// Ways to ask that a server has refused.
#[derive(Clone, Copy, Debug, Default)]
struct Refused {
    /// To select services by their address.
    by_address: bool,
    /// To list by a watch.
    streams: bool,
}

/// What a watch says: an event, or what failed and when it is tried again.
type Said<T> = Result<watcher::Event<Watched<T>>, (watcher::Error, Duration)>;

/// What one of the watches says.
enum Told {
    Server(Result<Has, (kube::Error, Duration)>),
    Service(Said<Service>),
    Slice(Said<EndpointSlice>),
    Node(Said<Node>),
    Range(Said<ServiceCidr>),
}

impl ApiServer {
    /// Reads how to reach the server: from a kubeconfig file, or, without one, what Kubernetes gives
    /// to a pod. `node` is the name of the Node whose zone and addresses count. Sends nothing yet.
    ///
    /// # Errors
    ///
    /// The file cannot be read or is not a kubeconfig, or this is not a pod.
    pub async fn new(
        kubeconfig: Option<&Path>,
        node: impl Into<String>,
    ) -> Result<Self, ApiServerError> {
        let (client, contact, address) = Connection::open(kubeconfig).await?;
        let host = address.host().unwrap_or_default();
        let host = host.trim_matches(['[', ']']).parse().ok();
        Ok(Self {
            client,
            node: node.into(),
            server: host,
            all_nodes: false,
            watches: SelectAll::new(),
            asks: false,
            services: Vec::new(),
            slices: Vec::new(),
            nodes: BTreeSet::new(),
            nodes_before: BTreeSet::new(),
            waits_for_nodes: true,
            early: Vec::new(),
            refused: Refused::default(),
            outage: Outage::new(address.to_string()),
            contact,
            ranges: Ranges::new(),
        })
    }

    /// Watches all Nodes rather than this one only, so that the addresses of the others are known. A
    /// Node is large and changes every few minutes, if only its heartbeat, and the server sends it whole.
    #[must_use]
    pub fn with_all_nodes(self) -> Self {
        Self { all_nodes: true, ..self }
    }

    /// Asks the server what it has, until it answers, after a first wait.
    fn ask(&mut self, first: Duration) {
        if std::mem::replace(&mut self.asks, true) {
            return;
        }
        let answers = stream::unfold(
            (self.client.clone(), first, FIRST_WAIT, false),
            |(client, wait, next, has_answered)| async move {
                if has_answered {
                    return None;
                }
                tokio::time::sleep(wait).await;
                let answer =
                    tokio::time::timeout(ANSWER, look(&client)).await.unwrap_or_else(|_| {
                        let silence =
                            io::Error::new(io::ErrorKind::TimedOut, "no answer within 30 s");
                        Err(kube::Error::Service(silence.into()))
                    });
                let has_answered = answer.is_ok();
                let told = Told::Server(answer.map_err(|error| (error, next)));
                Some((told, (client, next, (next * 2).min(LONGEST_WAIT), has_answered)))
            },
        );
        self.watches.push(answers.boxed());
    }

    /// Begins all watches; those that there are end.
    fn begin(&mut self, has: Has) {
        self.watches.clear();
        (self.services, self.slices) = (Vec::new(), Vec::new());

        let mut config = self.config(has).labels(SERVICES);
        if !self.refused.by_address {
            config = config.fields(WITH_ADDRESS);
        }
        let services = self.watch(&resource("", "v1", "Service", "services"), config);
        self.watches.push(services.map(Told::Service).boxed());

        let slices = resource("discovery.k8s.io", has.slices, "EndpointSlice", "endpointslices");
        let config = self.config(has).labels(SLICES);
        self.watches.push(self.watch(&slices, config).map(Told::Slice).boxed());

        let mut config = self.config(has);
        if !self.all_nodes {
            config = config.fields(&format!("metadata.name={}", self.node));
        }
        let nodes = self.watch(&resource("", "v1", "Node", "nodes"), config);
        self.watches.push(nodes.map(Told::Node).boxed());

        match has.ranges {
            None => self.ranges.are_known = true,
            Some(version) => {
                let kind = resource("networking.k8s.io", version, "ServiceCIDR", "servicecidrs");
                let ranges = self.watch(&kind, self.config(has));
                self.watches.push(ranges.map(Told::Range).boxed());
            }
        }
    }

    /// Lists come from the server's own memory rather than from etcd: as a stream where the server has
    /// that, else whole. Only a server without such a memory makes pages of them.
    fn config(&self, has: Has) -> watcher::Config {
        // With a limit, the version would not be sent.
        let config = watcher::Config { page_size: None, ..watcher::Config::default() };
        let config = config.any_semantic();
        match has.streams && !self.refused.streams {
            true => config.streaming_lists(),
            false => config,
        }
    }

    fn watch<T: Object>(
        &self,
        resource: &ApiResource,
        config: watcher::Config,
    ) -> impl Stream<Item = Said<T>> + Send + use<T> {
        let api: Api<Watched<T>> = Api::all_with(self.client.clone(), resource);
        let wait = Arc::new(AtomicU64::new(0));
        let backoff = Noted { backoff: DefaultBackoff::default(), wait: wait.clone() };
        watcher(api, config).backoff(backoff).map(move |said| {
            said.map_err(|error| (error, Duration::from_millis(wait.load(Ordering::Relaxed))))
        })
    }

    fn take_in(&mut self, told: Told, events: &mut Vec<Event>) {
        match told {
            Told::Server(Ok(has)) => {
                self.succeed("its versions");
                self.asks = false;
                self.begin(has);
            }
            Told::Server(Err((error, wait))) => {
                self.fail("its versions", &Trouble::of_request(&error), wait);
            }
            Told::Service(Ok(event)) => match event {
                watcher::Event::Init => self.services.clear(),
                watcher::Event::InitApply(service) => self.services.push(service.object),
                watcher::Event::InitDone => {
                    self.succeed("services");
                    events.push(Event::Services(std::mem::take(&mut self.services)));
                }
                watcher::Event::Apply(service) => {
                    self.succeed("services");
                    events.push(Event::Service(service.object));
                }
                watcher::Event::Delete(service) => {
                    self.succeed("services");
                    events.push(Event::ServiceGone(service.object.metadata.object_name()));
                }
            },
            Told::Slice(Ok(event)) => match event {
                watcher::Event::Init => self.slices.clear(),
                watcher::Event::InitApply(slice) => self.slices.push(slice.object),
                watcher::Event::InitDone => {
                    self.succeed("endpoint slices");
                    events.push(Event::Slices(std::mem::take(&mut self.slices)));
                }
                watcher::Event::Apply(slice) => {
                    self.succeed("endpoint slices");
                    events.push(Event::Slice(slice.object));
                }
                watcher::Event::Delete(slice) => {
                    self.succeed("endpoint slices");
                    events.push(Event::SliceGone(slice.object.metadata.object_name()));
                }
            },
            Told::Node(Ok(event)) => self.take_in_node(event, events),
            Told::Range(Ok(event)) => {
                if matches!(event, watcher::Event::InitDone) {
                    self.succeed("service ranges");
                }
                self.ranges.take_in(event);
            }
            Told::Range(Err((error, wait))) => {
                let trouble = Trouble::of_watch(&error);
                self.fail("service ranges", &trouble, wait);
                // They are known as the flags say.
                self.ranges.are_known |= trouble.code().is_some();
            }
            Told::Service(Err((error, wait))) => {
                let trouble = Trouble::of_watch(&error);
                let code = trouble.code();
                let before = self.refused;
                match code {
                    // The oldest servers that are supported select services by name only.
                    Some(400) if !self.refused.by_address => self.refused.by_address = true,
                    Some(400 | 422) => self.refused.streams = true,
                    _ => {}
                }
                let is_another_way = before.by_address != self.refused.by_address
                    || before.streams != self.refused.streams;
                match is_another_way {
                    true => self.ask(Duration::ZERO),
                    false => self.fail("services", &trouble, wait),
                }
            }
            Told::Slice(Err((error, wait))) => {
                let trouble = Trouble::of_watch(&error);
                self.fail("endpoint slices", &trouble, wait);
                if trouble.code() == Some(404) {
                    // The server is another one, or has another version by now.
                    self.ask(FIRST_WAIT);
                }
            }
            Told::Node(Err((error, wait))) => {
                let trouble = Trouble::of_watch(&error);
                self.fail(self.nodes_asked_for(), &trouble, wait);
                if trouble.code() == Some(403) {
                    // Services go on without what only Nodes say.
                    self.waits_for_nodes = false;
                }
            }
        }
    }

    fn take_in_node(&mut self, event: watcher::Event<Watched<Node>>, events: &mut Vec<Event>) {
        match event {
            watcher::Event::Init => {
                let before = std::mem::take(&mut self.nodes);
                self.nodes_before.extend(before);
            }
            watcher::Event::InitApply(node) => {
                self.nodes.insert(node.object.metadata.name.clone());
                events.push(Event::Node(node.object));
            }
            watcher::Event::Apply(node) => {
                self.succeed(self.nodes_asked_for());
                self.nodes.insert(node.object.metadata.name.clone());
                events.push(Event::Node(node.object));
            }
            watcher::Event::InitDone => {
                self.succeed(self.nodes_asked_for());
                let before = std::mem::take(&mut self.nodes_before);
                let gone = before.difference(&self.nodes).cloned();
                events.extend(gone.map(Event::NodeGone));
                self.waits_for_nodes = false;
            }
            watcher::Event::Delete(node) => {
                self.succeed(self.nodes_asked_for());
                let name = node.object.metadata.name;
                self.nodes.remove(&name);
                events.push(Event::NodeGone(name));
            }
        }
    }

    /// Waits for what the server says next.
    async fn hear(&mut self) {
        if self.watches.is_empty() {
            self.asks = false;
            self.ask(Duration::ZERO);
        }
        let mut next = self.watches.next().await;
        // What else is there already belongs to the same run.
        while let Some(told) = next {
            let mut events = Vec::new();
            self.take_in(told, &mut events);
            self.early.append(&mut events);
            next = self.watches.next().now_or_never().flatten();
        }
    }

    fn nodes_asked_for(&self) -> &'static str {
        if self.all_nodes { "nodes" } else { "this node" }
    }

    fn fail(&mut self, what: &'static str, trouble: &Trouble, wait: Duration) {
        if *trouble != Trouble::Expired {
            self.contact.failed(SystemTime::now());
        }
        tracing::debug!("{what}: {trouble:?}");
        if let Some(line) = self.outage.fail(what, trouble, wait, Instant::now()) {
            tracing::warn!("{line}");
        }
    }

    fn succeed(&mut self, what: &'static str) {
        if let Some(line) = self.outage.succeed(what, Instant::now()) {
            tracing::info!("{line}");
        }
    }
}

/// A back-off that says how long it takes.
struct Noted {
    backoff: DefaultBackoff,
    wait: Arc<AtomicU64>,
}

impl Iterator for Noted {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.backoff.next()?;
        let milliseconds = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        self.wait.store(milliseconds, Ordering::Relaxed);
        Some(wait)
    }
}

impl Backoff for Noted {
    fn reset(&mut self) {
        self.backoff.reset();
    }
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Events for ApiServer {
    async fn next(&mut self) -> Vec<Event> {
        loop {
            if !self.waits_for_nodes && !self.early.is_empty() {
                return std::mem::take(&mut self.early);
            }
            self.hear().await;
        }
    }

    async fn ranges(&mut self) -> Option<watch::Receiver<BTreeSet<IpNet>>> {
        let known = async {
            while !self.ranges.are_known {
                self.hear().await;
            }
        };
        let _ = tokio::time::timeout(RANGES_WAIT, known).await;
        Some(self.ranges.follow())
    }

    fn relist(&mut self) {
        let spread = u64::try_from(SPREAD.as_millis()).unwrap_or(u64::MAX);
        self.ask(Duration::from_millis(random() % spread));
    }

    fn contact(&self) -> Option<Contact> {
        Some(self.contact.clone())
    }

    fn server(&self) -> Option<IpAddr> {
        self.server
    }
}

/// An API server that cannot be asked, by what was configured.
#[derive(Debug)]
pub struct ApiServerError {
    reason: String,
}

impl fmt::Display for ApiServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for ApiServerError {}
