//! The parts of Kubernetes' objects that matter to a service proxy, in the form of manifests and of
//! an API server's answers.
//!
//! What is left out is not read, so nothing else of an object is kept in memory. Values that have a
//! meaning of their own (addresses, protocols, policies) are kept as text: one that cannot be
//! understood costs that value, with a notice, and not the whole object.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer};

/// Which Service object it is: its namespace and its name. Shown as `shop/web`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectName {
    /// An object of a namespace.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
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
pub struct Metadata {
    /// Its name, unique among the objects of its kind in the namespace.
    pub name: String,
    /// Its namespace. Nodes have none.
    #[serde(deserialize_with = "or_default")]
    pub namespace: String,
    /// Labels, by which objects are selected.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// Annotations; see [`annotation`](crate::annotation) for those that are read.
    #[serde(deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
    /// The version of the object in the API server.
    #[serde(deserialize_with = "or_default")]
    pub resource_version: String,
    /// When its deletion was asked for, where it was.
    pub deletion_timestamp: Option<String>,
}

impl Metadata {
    /// Namespace and name.
    pub fn object_name(&self) -> ObjectName {
        ObjectName::new(self.namespace.clone(), self.name.clone())
    }
}

/// A Service (`v1`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Name, labels, annotations.
    pub metadata: Metadata,
    /// What is wanted.
    #[serde(deserialize_with = "or_default")]
    pub spec: ServiceSpec,
    /// What the load balancer's controller has written.
    #[serde(deserialize_with = "or_default")]
    pub status: ServiceStatus,
}

/// `spec` of a [`Service`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceSpec {
    /// `ClusterIP` (also where it is missing), `NodePort`, `LoadBalancer` or `ExternalName`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The service's address in the cluster; `None` for a headless service.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    /// One address for each family. Where it is empty, [`cluster_ip`](Self::cluster_ip) counts.
    #[serde(rename = "clusterIPs", deserialize_with = "or_default")]
    pub cluster_ips: Vec<String>,
    /// The ports, each with a protocol.
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<ServicePort>,
    /// Addresses that lead to a node by other means.
    #[serde(rename = "externalIPs", deserialize_with = "or_default")]
    pub external_ips: Vec<String>,
    /// `Cluster` or `Local`, for traffic to node ports, external and load-balancer addresses.
    pub external_traffic_policy: Option<String>,
    /// `Cluster` or `Local`, for traffic to the cluster address.
    pub internal_traffic_policy: Option<String>,
    /// `None` or `ClientIP`.
    pub session_affinity: Option<String>,
    /// How long a client keeps its endpoint.
    pub session_affinity_config: Option<SessionAffinityConfig>,
    /// The port on which a load balancer asks for local endpoints; 0 is none.
    #[serde(deserialize_with = "or_default")]
    pub health_check_node_port: i64,
    /// The only clients that load-balancer addresses serve, in CIDR notation; empty is all.
    #[serde(deserialize_with = "or_default")]
    pub load_balancer_source_ranges: Vec<String>,
}

/// A port of a [`Service`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServicePort {
    /// Its name, by which slices know it. Missing is empty.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// `TCP` (also where it is missing), `UDP` or `SCTP`.
    pub protocol: Option<String>,
    /// The port of the service's addresses.
    #[serde(deserialize_with = "or_default")]
    pub port: i64,
    /// The port of the nodes' addresses; 0 is none.
    #[serde(deserialize_with = "or_default")]
    pub node_port: i64,
}

/// `sessionAffinityConfig` of a [`Service`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SessionAffinityConfig {
    /// For `ClientIP`.
    #[serde(rename = "clientIP")]
    pub client_ip: Option<ClientIpConfig>,
}

/// `sessionAffinityConfig.clientIP` of a [`Service`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClientIpConfig {
    /// Seconds, 1 to 86400.
    pub timeout_seconds: Option<i64>,
}

/// `status` of a [`Service`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceStatus {
    /// What the load balancer has.
    #[serde(deserialize_with = "or_default")]
    pub load_balancer: LoadBalancerStatus,
}

/// `status.loadBalancer` of a [`Service`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LoadBalancerStatus {
    /// The load balancer's addresses.
    #[serde(deserialize_with = "or_default")]
    pub ingress: Vec<Ingress>,
}

/// An address of a load balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Ingress {
    /// The address, unless the load balancer has only a host name.
    pub ip: Option<String>,
    /// `VIP` (also where it is missing): packets reach the node with this address. `Proxy`: they do
    /// not.
    pub ip_mode: Option<String>,
}

/// An EndpointSlice (`discovery.k8s.io/v1` or `v1beta1`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Name and labels. The label `kubernetes.io/service-name` says whose slice it is.
    pub metadata: Metadata,
    /// `IPv4`, `IPv6` or `FQDN`.
    #[serde(deserialize_with = "or_default")]
    pub address_type: String,
    /// The ports of every endpoint in it.
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<EndpointPort>,
    /// The endpoints.
    #[serde(deserialize_with = "or_default")]
    pub endpoints: Vec<Endpoint>,
}

/// A port of an [`EndpointSlice`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    /// The name of the service's port. A port without a name (not the empty one) is not used.
    pub name: Option<String>,
    /// `TCP` (also where it is missing), `UDP` or `SCTP`.
    pub protocol: Option<String>,
    /// The number. A port without a number is not used.
    pub port: Option<i64>,
}

/// An endpoint of an [`EndpointSlice`]: most often a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Endpoint {
    /// Its addresses, of which the first one counts.
    #[serde(deserialize_with = "or_default")]
    pub addresses: Vec<String>,
    /// Whether it takes connections.
    #[serde(deserialize_with = "or_default")]
    pub conditions: Conditions,
    /// The node that it is on.
    pub node_name: Option<String>,
    /// The zone that it is in.
    pub zone: Option<String>,
    /// For which nodes and zones it is meant.
    pub hints: Option<Hints>,
    /// Labels of its node, in `v1beta1`: `kubernetes.io/hostname` is the node's name where
    /// `nodeName` is not there.
    #[serde(deserialize_with = "or_default")]
    pub topology: BTreeMap<String, String>,
}

/// `conditions` of an [`Endpoint`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Conditions {
    /// It takes new connections; missing is yes.
    pub ready: Option<bool>,
    /// It answers, though it may be terminating; missing is yes.
    pub serving: Option<bool>,
    /// It is ending; missing is no.
    pub terminating: Option<bool>,
}

/// `hints` of an [`Endpoint`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Hints {
    /// The zones whose nodes should use it.
    #[serde(deserialize_with = "or_default")]
    pub for_zones: Vec<Hint>,
    /// The nodes that should use it.
    #[serde(deserialize_with = "or_default")]
    pub for_nodes: Vec<Hint>,
}

/// A zone or a node that an endpoint is meant for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Hint {
    /// Its name.
    pub name: String,
}

/// A Node (`v1`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Name and labels.
    pub metadata: Metadata,
    /// What is wanted.
    #[serde(deserialize_with = "or_default")]
    pub spec: NodeSpec,
    /// What the kubelet says.
    #[serde(deserialize_with = "or_default")]
    pub status: NodeStatus,
}

/// `spec` of a [`Node`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeSpec {
    /// What keeps pods away.
    #[serde(deserialize_with = "or_default")]
    pub taints: Vec<Taint>,
}

/// A taint of a [`Node`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Taint {
    /// Its name.
    pub key: String,
}

/// `status` of a [`Node`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// The node's addresses and names.
    #[serde(deserialize_with = "or_default")]
    pub addresses: Vec<NodeAddress>,
}

/// An address of a [`Node`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname` and others.
    #[serde(rename = "type")]
    pub kind: String,
    /// The address or name.
    pub address: String,
}

/// Takes `null` for a missing value: an API server writes empty lists so.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
