//! The parts of Kubernetes' objects that matter to a service proxy, in the form of manifests and of
//! an API server's answers.
//!
//! What is left out is not read, so nothing else of an object is kept in memory. Values that have a
//! meaning of their own (addresses, protocols, policies) are kept as text: one that cannot be
//! understood costs that value, with a notice, and not the whole object.

use std::{borrow::Cow, fmt, sync::Arc, time::UNIX_EPOCH};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, value::MapAccessDeserializer},
};

use crate::lenient::{Any, Value, fields, lenient, optional};

/// The label of services that another proxy takes care of, whatever its value.
pub(crate) const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// The label of slices of headless services.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";
/// The label of slices that names their service.
pub(crate) const OWNER: &str = "kubernetes.io/service-name";
/// The label of nodes, and in `v1beta1` of endpoints, that names their zone.
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";
/// The label of endpoints, in `v1beta1`, that names their node.
pub(crate) const HOST_NAME: &str = "kubernetes.io/hostname";
/// The annotation of slices that says when what they say became so.
pub(crate) const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// How the names of our own annotations begin.
pub(crate) const OWN: &str = "lvs-kube-proxy/";

/// Which Service object it is: its namespace and its name. Shown as `shop/web`. Clones are cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ObjectName {
    /// The namespace.
    pub(crate) namespace: Arc<str>,
    /// The name.
    pub(crate) name: Arc<str>,
}

impl ObjectName {
    /// An object of a namespace.
    pub(crate) fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What every object has: `metadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Metadata {
    /// Its name, unique among the objects of its kind in the namespace.
    #[serde(deserialize_with = "lenient")]
    pub(crate) name: String,
    /// Its namespace. Nodes have none.
    #[serde(deserialize_with = "lenient")]
    pub(crate) namespace: String,
    /// Labels, by which objects are selected.
    #[serde(deserialize_with = "lenient")]
    pub(crate) labels: Labels,
    /// Annotations; see [`annotation`](crate::annotation) for those that are read.
    #[serde(deserialize_with = "lenient")]
    pub(crate) annotations: Labels,
    /// The version of the object in the API server.
    #[serde(deserialize_with = "lenient")]
    pub(crate) resource_version: String,
    /// When it was made.
    #[serde(rename = "creationTimestamp", deserialize_with = "lenient")]
    pub(crate) created: Created,
    /// When its deletion was asked for, where it was.
    #[serde(deserialize_with = "lenient")]
    pub(crate) deletion_timestamp: Option<String>,
}

impl Metadata {
    /// Namespace and name.
    pub(crate) fn object_name(&self) -> ObjectName {
        ObjectName::new(&*self.namespace, &*self.name)
    }
}

/// When an object was made, in seconds since 1970. What is not known is later than all that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Created(u64);

impl Created {
    /// Before everything.
    pub(crate) const FIRST: Self = Self(0);
}

impl Default for Created {
    fn default() -> Self {
        Self(u64::MAX)
    }
}

impl Value<'_> for Created {
    fn null() -> Self {
        Self::default()
    }

    fn wrong() -> Self {
        Self::default()
    }

    fn of_text(text: &str) -> Self {
        let time = humantime::parse_rfc3339_weak(text).ok();
        let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        since.map_or_else(Self::default, |since| Self(since.as_secs()))
    }
}

/// Labels or annotations, by name. Those that no service proxy reads are left out when an object is
/// read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels(Vec<(String, String)>);

impl Labels {
    /// The value of a label.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }

    /// The names that there are.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| &**name)
    }

    /// Whether there is such a label.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Sets a label.
    pub(crate) fn insert(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let (name, value) = (name.into(), value.into());
        match self.0.binary_search_by(|(found, _)| found.cmp(&name)) {
            Ok(place) => self.0[place].1 = value,
            Err(place) => {
                self.0.reserve_exact(1);
                self.0.insert(place, (name, value));
            }
        }
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(labels: I) -> Self {
        let mut all = Self::default();
        labels.into_iter().for_each(|(name, value)| all.insert(name, value));
        all
    }
}

impl<'de> Value<'de> for Labels {
    fn null() -> Self {
        Self::default()
    }

    fn wrong() -> Self {
        Self::default()
    }

    fn of_map<A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        let mut labels = Self::default();
        while let Some(Text(name)) = map.next_key()? {
            match is_read(&name) {
                true => labels.insert(name, map.next_value::<Any<String>>()?.0),
                false => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(labels)
    }
}

/// A text that need not be copied.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn is_read(label: &str) -> bool {
    [OTHER_PROXY, HEADLESS, OWNER, ZONE, HOST_NAME, TRIGGER_TIME].contains(&label)
        || label.starts_with(OWN)
}

/// A Service (`v1`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Service {
    /// Name, labels, annotations.
    #[serde(deserialize_with = "lenient")]
    pub(crate) metadata: Metadata,
    /// What is wanted.
    #[serde(deserialize_with = "lenient")]
    pub(crate) spec: ServiceSpec,
    /// What the load balancer's controller has written.
    #[serde(deserialize_with = "lenient")]
    pub(crate) status: ServiceStatus,
}

/// `spec` of a [`Service`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ServiceSpec {
    /// `ClusterIP` (also where it is missing), `NodePort`, `LoadBalancer` or `ExternalName`.
    #[serde(rename = "type", deserialize_with = "lenient")]
    pub(crate) kind: Option<String>,
    /// The service's address in the cluster; `None` for a headless service.
    #[serde(rename = "clusterIP", deserialize_with = "lenient")]
    pub(crate) cluster_ip: Option<String>,
    /// One address for each family. Where it is empty, [`cluster_ip`](Self::cluster_ip) counts.
    #[serde(rename = "clusterIPs", deserialize_with = "lenient")]
    pub(crate) cluster_ips: Vec<String>,
    /// The ports, each with a protocol.
    #[serde(deserialize_with = "lenient")]
    pub(crate) ports: Vec<ServicePort>,
    /// Addresses that lead to a node by other means.
    #[serde(rename = "externalIPs", deserialize_with = "lenient")]
    pub(crate) external_ips: Vec<String>,
    /// `Cluster` or `Local`, for traffic to node ports, external and load-balancer addresses.
    #[serde(deserialize_with = "lenient")]
    pub(crate) external_traffic_policy: Option<String>,
    /// `Cluster` or `Local`, for traffic to the cluster address.
    #[serde(deserialize_with = "lenient")]
    pub(crate) internal_traffic_policy: Option<String>,
    /// `None` or `ClientIP`.
    #[serde(deserialize_with = "lenient")]
    pub(crate) session_affinity: Option<String>,
    /// How long a client keeps its endpoint.
    #[serde(deserialize_with = "lenient")]
    pub(crate) session_affinity_config: Option<SessionAffinityConfig>,
    /// The port on which a load balancer asks for local endpoints; 0 is none.
    #[serde(deserialize_with = "lenient")]
    pub(crate) health_check_node_port: i64,
    /// The only clients that load-balancer addresses serve, in CIDR notation; empty is all.
    #[serde(deserialize_with = "lenient")]
    pub(crate) load_balancer_source_ranges: Vec<String>,
}

/// A port of a [`Service`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ServicePort {
    /// Its name, by which slices know it. Missing is empty.
    #[serde(deserialize_with = "lenient")]
    pub(crate) name: String,
    /// `TCP` (also where it is missing), `UDP` or `SCTP`.
    #[serde(deserialize_with = "lenient")]
    pub(crate) protocol: Option<String>,
    /// The port of the service's addresses.
    #[serde(deserialize_with = "lenient")]
    pub(crate) port: i64,
    /// The port of the nodes' addresses; 0 is none.
    #[serde(deserialize_with = "lenient")]
    pub(crate) node_port: i64,
}

/// `sessionAffinityConfig` of a [`Service`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct SessionAffinityConfig {
    /// For `ClientIP`.
    #[serde(rename = "clientIP", deserialize_with = "lenient")]
    pub(crate) client_ip: Option<ClientIpConfig>,
}

/// `sessionAffinityConfig.clientIP` of a [`Service`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ClientIpConfig {
    /// Seconds, 1 to 86400.
    #[serde(deserialize_with = "lenient")]
    pub(crate) timeout_seconds: Option<i64>,
}

/// `status` of a [`Service`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ServiceStatus {
    /// What the load balancer has.
    #[serde(deserialize_with = "lenient")]
    pub(crate) load_balancer: LoadBalancerStatus,
}

/// `status.loadBalancer` of a [`Service`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct LoadBalancerStatus {
    /// The load balancer's addresses.
    #[serde(deserialize_with = "lenient")]
    pub(crate) ingress: Vec<Ingress>,
}

/// An address of a load balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Ingress {
    /// The address, unless the load balancer has only a host name.
    #[serde(deserialize_with = "lenient")]
    pub(crate) ip: Option<String>,
    /// `VIP` (also where it is missing): packets reach the node with this address. `Proxy`: they do
    /// not.
    #[serde(deserialize_with = "lenient")]
    pub(crate) ip_mode: Option<String>,
}

/// An EndpointSlice (`discovery.k8s.io/v1` or `v1beta1`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct EndpointSlice {
    /// Name and labels. The label `kubernetes.io/service-name` says whose slice it is.
    #[serde(deserialize_with = "lenient")]
    pub(crate) metadata: Metadata,
    /// `IPv4`, `IPv6` or `FQDN`.
    #[serde(deserialize_with = "lenient")]
    pub(crate) address_type: String,
    /// The ports of every endpoint in it.
    #[serde(deserialize_with = "lenient")]
    pub(crate) ports: Vec<EndpointPort>,
    /// The endpoints.
    #[serde(deserialize_with = "lenient")]
    pub(crate) endpoints: Vec<Endpoint>,
}

/// A port of an [`EndpointSlice`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct EndpointPort {
    /// The name of the service's port. A port without a name (not the empty one) is not used.
    #[serde(deserialize_with = "lenient")]
    pub(crate) name: Option<String>,
    /// `TCP` (also where it is missing), `UDP` or `SCTP`.
    #[serde(deserialize_with = "lenient")]
    pub(crate) protocol: Option<String>,
    /// The number. A port without a number is not used.
    #[serde(deserialize_with = "lenient")]
    pub(crate) port: Option<i64>,
}

/// An endpoint of an [`EndpointSlice`]: most often a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Endpoint {
    /// Its addresses, of which the first one counts.
    #[serde(deserialize_with = "lenient")]
    pub(crate) addresses: Vec<String>,
    /// Whether it takes connections.
    #[serde(deserialize_with = "lenient")]
    pub(crate) conditions: Conditions,
    /// The node that it is on.
    #[serde(deserialize_with = "lenient")]
    pub(crate) node_name: Option<String>,
    /// The zone that it is in.
    #[serde(deserialize_with = "lenient")]
    pub(crate) zone: Option<String>,
    /// For which nodes and zones it is meant.
    #[serde(deserialize_with = "lenient")]
    pub(crate) hints: Option<Hints>,
    /// Labels of its node, in `v1beta1`: `kubernetes.io/hostname` is the node's name where
    /// `nodeName` is not there.
    #[serde(deserialize_with = "lenient")]
    pub(crate) topology: Labels,
}

/// `conditions` of an [`Endpoint`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Conditions {
    /// It takes new connections; missing is yes.
    #[serde(deserialize_with = "lenient")]
    pub(crate) ready: Option<bool>,
    /// It answers, though it may be terminating; missing is yes.
    #[serde(deserialize_with = "lenient")]
    pub(crate) serving: Option<bool>,
    /// It is ending; missing is no.
    #[serde(deserialize_with = "lenient")]
    pub(crate) terminating: Option<bool>,
}

/// `hints` of an [`Endpoint`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Hints {
    /// The zones whose nodes should use it.
    #[serde(deserialize_with = "lenient")]
    pub(crate) for_zones: Vec<Hint>,
    /// The nodes that should use it.
    #[serde(deserialize_with = "lenient")]
    pub(crate) for_nodes: Vec<Hint>,
}

/// A zone or a node that an endpoint is meant for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Hint {
    /// Its name.
    #[serde(deserialize_with = "lenient")]
    pub(crate) name: String,
}

/// A Node (`v1`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Node {
    /// Name and labels.
    #[serde(deserialize_with = "lenient")]
    pub(crate) metadata: Metadata,
    /// What is wanted.
    #[serde(deserialize_with = "lenient")]
    pub(crate) spec: NodeSpec,
    /// What the kubelet says.
    #[serde(deserialize_with = "lenient")]
    pub(crate) status: NodeStatus,
}

impl Node {
    /// Whether it is about to go: load balancers are to leave it out.
    pub(crate) fn is_leaving(&self) -> bool {
        let taint = "ToBeDeletedByClusterAutoscaler";
        self.metadata.deletion_timestamp.is_some()
            || self.spec.taints.iter().any(|found| found.key == taint)
    }
}

/// `spec` of a [`Node`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct NodeSpec {
    /// The networks of its pods, in CIDR notation.
    #[serde(rename = "podCIDRs", deserialize_with = "lenient")]
    pub(crate) pod_cidrs: Vec<String>,
    /// What keeps pods away.
    #[serde(deserialize_with = "lenient")]
    pub(crate) taints: Vec<Taint>,
}

/// A taint of a [`Node`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Taint {
    /// Its name.
    #[serde(deserialize_with = "lenient")]
    pub(crate) key: String,
}

/// `status` of a [`Node`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct NodeStatus {
    /// The node's addresses and names.
    #[serde(deserialize_with = "lenient")]
    pub(crate) addresses: Vec<NodeAddress>,
}

/// An address of a [`Node`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname` and others.
    #[serde(rename = "type", deserialize_with = "lenient")]
    pub(crate) kind: String,
    /// The address or name.
    #[serde(deserialize_with = "lenient")]
    pub(crate) address: String,
}

fields! {
    Metadata,
    ServiceSpec,
    ServicePort = Self { port: Value::wrong(), ..Self::default() },
    SessionAffinityConfig = Self { client_ip: Value::wrong() },
    ClientIpConfig = Self { timeout_seconds: Value::wrong() },
    ServiceStatus,
    LoadBalancerStatus = Self { ingress: Value::wrong() },
    Ingress = Self { ip: Value::wrong(), ..Self::default() },
    EndpointPort,
    Endpoint = Self { addresses: Value::wrong(), ..Self::default() },
    Conditions,
    Hints,
    Hint,
    NodeSpec,
    Taint,
    NodeStatus,
    NodeAddress,
}

optional!(SessionAffinityConfig, ClientIpConfig, Hints);

/// Takes `null` for a missing value.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
