use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::IpAddr,
    path::Path,
    time::Duration,
};

use futures_util::{
    FutureExt, Stream, StreamExt,
    stream::{self, BoxStream, SelectAll},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Client, Config, Resource,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, DynamicResourceScope, GroupVersionKind},
    runtime::{WatchStreamExt, watcher},
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use super::Events;
use crate::{
    object::{EndpointSlice, Metadata, Node, Service},
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
/// How long a server may say nothing: to the first questions, and at all.
const ANSWER: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(310);

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
    /// What last failed, by what was asked for: each failure is logged once.
    failures: BTreeMap<&'static str, String>,
}

/// What one of the watches says.
enum Told {
    /// Which version of EndpointSlices the server has, and whether it selects services by their
    /// address.
    Server(Result<(&'static str, bool), kube::Error>),
    Service(Result<watcher::Event<Watched<Service>>, watcher::Error>),
    Slice(Result<watcher::Event<Watched<EndpointSlice>>, watcher::Error>),
    Node(Result<watcher::Event<Watched<Node>>, watcher::Error>),
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
        let mut config = match kubeconfig {
            Some(path) => {
                let error = |reason: &dyn fmt::Display| ApiServerError {
                    reason: format!("read kubeconfig {}: {reason}", path.display()),
                };
                let file = Kubeconfig::read_from(path).map_err(|reason| error(&reason))?;
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                    .await
                    .map_err(|reason| error(&reason))?
            }
            None => Config::incluster().map_err(|reason| ApiServerError {
                reason: format!("this is not a pod, so --kubeconfig is needed: {reason}"),
            })?,
        };
        // A watch hears from the server within 290 s. One that says nothing at all is given up.
        config.read_timeout = Some(SILENCE);
        config.reset_reader_on_write = true;
        let server = config.cluster_url.to_string();
        let host = config.cluster_url.host().unwrap_or_default();
        let host = host.trim_matches(['[', ']']).parse().ok();
        let client = Client::try_from(config).map_err(|reason| ApiServerError {
            reason: format!("prepare the client of {server}: {reason}"),
        })?;
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
            failures: BTreeMap::new(),
        })
    }

    /// Watches all Nodes rather than this one only, so that the addresses of the others are known. A
    /// Node is large and changes every few minutes, if only its heartbeat, and the server sends it whole.
    #[must_use]
    pub fn with_all_nodes(self) -> Self {
        Self { all_nodes: true, ..self }
    }

    /// Asks the server what it has, until it answers.
    fn ask(&mut self) {
        if std::mem::replace(&mut self.asks, true) {
            return;
        }
        let answers = stream::unfold(
            (self.client.clone(), Duration::ZERO, false),
            |(client, wait, has_answered)| async move {
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
                let (wait, has_answered) =
                    ((wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT), answer.is_ok());
                Some((Told::Server(answer), (client, wait, has_answered)))
            },
        );
        self.watches.push(answers.boxed());
    }

    /// Begins all watches; those that there are end.
    fn begin(&mut self, version: &str, by_address: bool) {
        self.watches.clear();
        (self.services, self.slices) = (Vec::new(), Vec::new());

        let mut config = watcher::Config::default().labels(SERVICES);
        if by_address {
            config = config.fields(WITH_ADDRESS);
        }
        let services = self.watch(&resource("", "v1", "Service", "services"), config);
        self.watches.push(services.map(Told::Service).boxed());

        let slices = resource("discovery.k8s.io", version, "EndpointSlice", "endpointslices");
        let config = watcher::Config::default().labels(SLICES);
        self.watches.push(self.watch(&slices, config).map(Told::Slice).boxed());

        let mut config = watcher::Config::default();
        if !self.all_nodes {
            config = config.fields(&format!("metadata.name={}", self.node));
        }
        let nodes = self.watch(&resource("", "v1", "Node", "nodes"), config);
        self.watches.push(nodes.map(Told::Node).boxed());
    }

    fn watch<T: Object>(
        &self,
        resource: &ApiResource,
        config: watcher::Config,
    ) -> impl Stream<Item = Result<watcher::Event<Watched<T>>, watcher::Error>> + Send + use<T>
    {
        let api: Api<Watched<T>> = Api::all_with(self.client.clone(), resource);
        watcher(api, config).default_backoff()
    }

    fn take_in(&mut self, told: Told, events: &mut Vec<Event>) {
        match told {
            Told::Server(Ok((version, by_address))) => {
                self.succeed("the server's versions");
                self.asks = false;
                self.begin(version, by_address);
            }
            Told::Server(Err(error)) => self.fail("the server's versions", &error),
            Told::Service(Ok(event)) => {
                self.succeed("services");
                match event {
                    watcher::Event::Init => self.services.clear(),
                    watcher::Event::InitApply(service) => self.services.push(service.object),
                    watcher::Event::InitDone => {
                        events.push(Event::Services(std::mem::take(&mut self.services)));
                    }
                    watcher::Event::Apply(service) => events.push(Event::Service(service.object)),
                    watcher::Event::Delete(service) => {
                        events.push(Event::ServiceGone(service.object.metadata.object_name()));
                    }
                }
            }
            Told::Slice(Ok(event)) => {
                self.succeed("endpoint slices");
                match event {
                    watcher::Event::Init => self.slices.clear(),
                    watcher::Event::InitApply(slice) => self.slices.push(slice.object),
                    watcher::Event::InitDone => {
                        events.push(Event::Slices(std::mem::take(&mut self.slices)));
                    }
                    watcher::Event::Apply(slice) => events.push(Event::Slice(slice.object)),
                    watcher::Event::Delete(slice) => {
                        events.push(Event::SliceGone(slice.object.metadata.object_name()));
                    }
                }
            }
            Told::Node(Ok(event)) => {
                self.succeed(self.nodes_asked_for());
                match event {
                    watcher::Event::Init => {
                        let before = std::mem::take(&mut self.nodes);
                        self.nodes_before.extend(before);
                    }
                    watcher::Event::InitApply(node) | watcher::Event::Apply(node) => {
                        self.nodes.insert(node.object.metadata.name.clone());
                        events.push(Event::Node(node.object));
                    }
                    watcher::Event::InitDone => {
                        let before = std::mem::take(&mut self.nodes_before);
                        let gone = before.difference(&self.nodes).cloned();
                        events.extend(gone.map(Event::NodeGone));
                        self.waits_for_nodes = false;
                    }
                    watcher::Event::Delete(node) => {
                        let name = node.object.metadata.name;
                        self.nodes.remove(&name);
                        events.push(Event::NodeGone(name));
                    }
                }
            }
            Told::Service(Err(error)) => self.fail("services", &error),
            Told::Slice(Err(error)) => {
                self.fail("endpoint slices", &error);
                if status_of(&error) == Some(404) {
                    // The server is another one, or has another version by now.
                    self.ask();
                }
            }
            Told::Node(Err(error)) => {
                self.fail(self.nodes_asked_for(), &error);
                if status_of(&error) == Some(403) {
                    // Services go on without what only Nodes say.
                    self.waits_for_nodes = false;
                }
            }
        }
    }

    fn nodes_asked_for(&self) -> &'static str {
        if self.all_nodes { "nodes" } else { "this node" }
    }

    fn fail(&mut self, what: &'static str, error: &dyn std::error::Error) {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            let reason = error.to_string();
            if !text.contains(&reason) {
                text = format!("{text}: {reason}");
            }
            source = error.source();
        }
        let before = self.failures.insert(what, text.clone());
        if before.as_ref() != Some(&text) {
            tracing::warn!("ask the API server for {what}: {text}; it is tried again");
        }
    }

    fn succeed(&mut self, what: &'static str) {
        if self.failures.remove(what).is_some() {
            tracing::info!("the API server answers again: {what}");
        }
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
            if self.watches.is_empty() {
                self.asks = false;
                self.ask();
            }
            let mut events = Vec::new();
            let mut next = self.watches.next().await;
            // What else is there already belongs to the same run.
            while let Some(told) = next {
                self.take_in(told, &mut events);
                next = self.watches.next().now_or_never().flatten();
            }
            self.early.append(&mut events);
            if !self.waits_for_nodes && !self.early.is_empty() {
                return std::mem::take(&mut self.early);
            }
        }
    }

    fn relist(&mut self) {
        self.ask();
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

/// Asks a server what it has.
async fn look(client: &Client) -> Result<(&'static str, bool), kube::Error> {
    let groups = client.list_api_groups().await?.groups;
    let versions = groups.iter().filter(|group| group.name == "discovery.k8s.io");
    let has_v1 = versions.flat_map(|group| &group.versions).any(|version| version.version == "v1");

    let services = resource("", "v1", "Service", "services");
    let api: Api<Watched<Service>> = Api::all_with(client.clone(), &services);
    let by_address = match api.list(&ListParams::default().fields(WITH_ADDRESS).limit(1)).await {
        Ok(_) => true,
        Err(kube::Error::Api(status)) if status.code == 400 => false,
        Err(error) => return Err(error),
    };
    Ok((if has_v1 { "v1" } else { "v1beta1" }, by_address))
}

/// The HTTP status with which the server refused a list or a watch.
fn status_of(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    }
}

fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

/// One of our objects. Only what they hold is decoded and kept.
trait Object: DeserializeOwned + Clone + fmt::Debug + Send + 'static {
    fn metadata(&mut self) -> &mut Metadata;
}

impl Object for Service {
    fn metadata(&mut self) -> &mut Metadata {
        &mut self.metadata
    }
}

impl Object for EndpointSlice {
    fn metadata(&mut self) -> &mut Metadata {
        &mut self.metadata
    }
}

impl Object for Node {
    fn metadata(&mut self) -> &mut Metadata {
        &mut self.metadata
    }
}

/// An object with the metadata that a watch goes by.
#[derive(Clone, Debug)]
struct Watched<T> {
    object: T,
    metadata: ObjectMeta,
}

impl<'de, T: Object> Deserialize<'de> for Watched<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = T::deserialize(deserializer)?;
        let Metadata { name, namespace, resource_version, .. } = object.metadata();
        let metadata = ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.clone()),
            // Another version of the object in which nothing else has changed is no news.
            resource_version: Some(std::mem::take(resource_version)),
            ..ObjectMeta::default()
        };
        Ok(Self { object, metadata })
    }
}

impl<T> Resource for Watched<T> {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
