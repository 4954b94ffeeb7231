//! From one Service and its EndpointSlices to virtual services.

mod addresses;
mod endpoints;
mod notes;

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use lvs::{
    RealServer, VirtualService, VirtualServiceBuilder,
    client::packet::{Protocol, ServiceKey},
};

use self::{
    endpoints::{Candidate, Chosen},
    notes::Notes,
};
use crate::{
    annotation::{Choice, Forwarding},
    object::{Created, EndpointSlice, Service, ServicePort},
    settings::{MarkBits, Settings, ThisNode, WithoutLocal},
};

/// How long a client of affinity `ClientIP` keeps its endpoint, where the service does not say.
const AFFINITY: i64 = 10_800;
/// The longest that a service may say, a day.
const MAX_AFFINITY: i64 = 86_400;
/// The most that one object can ask of every node: ports, external or load-balancer addresses, source
/// ranges, and endpoints of a port.
const MAX_PORTS: usize = 1_000;
const MAX_ADDRESSES: usize = 100;
const MAX_RANGES: usize = 500;
const MAX_ENDPOINTS: usize = 20_000;
/// The most virtual services that come of one object.
const MAX_TARGETS: usize = 5_000;

/// What one Service comes to on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Translation {
    /// When the Service was made: of two that claim the same, the older one has it.
    pub(crate) created: Created,
    /// Its virtual services, in the order of cluster address, load balancer, external address, node
    /// port for each of its ports.
    pub(crate) targets: Vec<Target>,
    /// Its endpoints on this node, ready or not, by protocol: what they send to their own service
    /// comes back to them and must not have their own address as source.
    pub(crate) local_endpoints: BTreeSet<(Protocol, SocketAddr)>,
    /// How long endpoints that leave may keep their connections, where the service says so.
    pub(crate) drain_limit: Option<Duration>,
    /// What a load balancer asks this node.
    pub(crate) health_check: Option<HealthCheck>,
    /// Whether the internal policy is `Local` and there is an endpoint, but none here.
    pub(crate) no_local_internal: bool,
    /// Whether the external policy is `Local` and there is an endpoint, but none here.
    pub(crate) no_local_external: bool,
    /// Whether it claims an address of this node itself as an external one.
    pub(crate) is_at_node: bool,
    /// Whether it asks for more than one Service can have, so that a part of it is left out.
    pub(crate) is_cut: bool,
    /// What could not be used, and why. Each begins with the service's name.
    pub(crate) notices: Vec<String>,
}

/// A virtual service, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The virtual service.
    pub(crate) virtual_service: Arc<VirtualService>,
    /// Which of the service's addresses it serves.
    pub(crate) kind: TargetKind,
    /// Whether the policy is `Local`: clients from outside keep their address.
    pub(crate) local: bool,
    /// The only clients that are served, where not all are.
    pub(crate) source_ranges: Option<Vec<IpNet>>,
    /// For a service by firewall mark: the address and port at which it serves the clients inside of
    /// the cluster.
    pub(crate) stands_for: Option<ServiceKey>,
}

impl Target {
    /// What identifies its virtual service.
    pub(crate) fn key(&self) -> &ServiceKey {
        self.virtual_service.key()
    }

    /// The address that must be local for packets to reach IPVS; `None` for a node port, whose
    /// address is the node's own.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        match self.key() {
            ServiceKey::Address { address, .. } if self.kind != TargetKind::NodePort => {
                Some(*address)
            }
            _ => None,
        }
    }
}

/// Which of a service's addresses it is. Where two services claim the same address and port, the
/// kind that comes first here has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum TargetKind {
    /// `spec.clusterIP`, which the cluster itself has given out.
    ClusterIp,
    /// `status.loadBalancer.ingress`.
    LoadBalancer,
    /// `spec.externalIPs`.
    ExternalIp,
    /// `nodePort` on an address of this node.
    NodePort,
}

impl fmt::Display for TargetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterIp => "cluster address",
            Self::LoadBalancer => "load-balancer address",
            Self::ExternalIp => "external address",
            Self::NodePort => "node port",
        })
    }
}

/// What a load balancer learns at a service's `healthCheckNodePort`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HealthCheck {
    /// The port, on all addresses of the node.
    pub(crate) port: u16,
    /// How many endpoints of this node are ready, each address counted once.
    pub(crate) local_endpoints: usize,
}

/// Translates a service. The order of the slices does not matter.
///
/// A service without an address in the cluster, or of type `ExternalName`, comes to nothing.
pub(crate) fn translate<'a>(
    service: &Service,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    node: &ThisNode,
    settings: &Settings,
) -> Translation {
    let mut slices: Vec<_> = slices.into_iter().collect();
    // Of two that name the same endpoint with the same conditions, always the same one counts.
    slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    Translator::new(service, slices, node, settings).run()
}

/// Whether the service is one for a proxy at all.
pub(crate) fn is_proxied(service: &Service) -> bool {
    let spec = &service.spec;
    spec.kind.as_deref() != Some("ExternalName") && cluster_addresses(service).next().is_some()
}

fn cluster_addresses(service: &Service) -> impl Iterator<Item = &str> {
    let spec = &service.spec;
    let one = spec.cluster_ip.iter().filter(|_| spec.cluster_ips.is_empty());
    spec.cluster_ips
        .iter()
        .chain(one)
        .map(|text| text.trim())
        .filter(|text| !text.is_empty() && *text != "None")
}

struct Translator<'a> {
    service: &'a Service,
    slices: Vec<&'a EndpointSlice>,
    node: &'a ThisNode,
    settings: &'a Settings,
    choice: Choice,
    notes: Notes,
    result: Translation,
}

/// A virtual service before its real servers are known.
struct Aim {
    key: ServiceKey,
    kind: TargetKind,
    local: bool,
    source_ranges: Option<Vec<IpNet>>,
    stands_for: Option<ServiceKey>,
}

/// The addresses of one kind and the policy that holds for them.
struct Addresses {
    kind: TargetKind,
    addresses: BTreeSet<IpAddr>,
    source_ranges: Option<Vec<IpNet>>,
}

impl<'a> Translator<'a> {
    fn new(
        service: &'a Service,
        slices: Vec<&'a EndpointSlice>,
        node: &'a ThisNode,
        settings: &'a Settings,
    ) -> Self {
        let mut notes = Notes::default();
        let annotations = &service.metadata.annotations;
        let choice = Choice::read(annotations, settings, &mut notes.single);
        Self { service, slices, node, settings, choice, notes, result: Translation::default() }
    }

    fn run(mut self) -> Translation {
        self.result.created = self.service.metadata.created;
        self.result.drain_limit = self.choice.drain_limit;
        if is_proxied(self.service) {
            for ipv4 in [true, false] {
                self.family(ipv4);
            }
            self.health_check();
        }
        self.result.notices = self.notes.into_texts(&self.service.metadata.object_name());
        self.result.targets.shrink_to_fit();
        self.result
    }

    fn family(&mut self, ipv4: bool) {
        let Some(cluster_address) = self.cluster_address(ipv4) else { return };
        let external = [self.load_balancer_addresses(ipv4), self.external_addresses(ipv4)];
        let ports = &self.service.spec.ports;
        if ports.len() > MAX_PORTS {
            self.result.is_cut = true;
            self.notes.add("ports are too many; the first 1000 are served", ports.len());
        }
        for port in ports.iter().take(MAX_PORTS) {
            self.port(port, cluster_address, &external);
        }
    }

    fn port(&mut self, port: &ServicePort, cluster_address: IpAddr, external: &[Addresses]) {
        let ipv4 = cluster_address.is_ipv4();
        let Some(protocol) = protocol(port.protocol.as_deref()) else {
            let name = port.protocol.clone().unwrap_or_default();
            self.notes.add("is not TCP, UDP or SCTP; the port is not served", name);
            return;
        };
        let Some(number) = port_number(port.port) else {
            self.notes
                .add("is not a port number, which is 1 to 65535; it is not served", port.port);
            return;
        };
        let node_port = port_number(port.node_port);
        if node_port.is_none() && port.node_port != 0 {
            self.notes.add("is not a port number; it is not served", port.node_port);
        }
        let from_outside =
            node_port.is_some() || external.iter().any(|group| !group.addresses.is_empty());

        let endpoints = self.endpoints(port, protocol, ipv4);
        let locals = endpoints.iter().filter(|endpoint| endpoint.local);
        let locals: Vec<_> = locals.map(|endpoint| (protocol, endpoint.address)).collect();
        self.result.local_endpoints.extend(locals);
        let chosen = Chosen::new(&endpoints, self.node);

        let internal_local = self.internal_local();
        let external_local = self.external_local();
        // Kube-proxy falls back only where it has the endpoints of other nodes at hand.
        let without_local =
            if from_outside { self.settings.without_local } else { WithoutLocal::Refuse };
        let fall_back = without_local == WithoutLocal::FallBack;
        let by_mark = without_local == WithoutLocal::ByMark;
        let has_none = chosen.local.is_empty() && !chosen.cluster.is_empty();
        self.result.no_local_internal |= internal_local && has_none;
        self.result.no_local_external |= external_local && from_outside && has_none;

        let mut places = vec![(TargetKind::ClusterIp, cluster_address, number, None)];
        for group in external {
            let ranges = &group.source_ranges;
            let addresses = group.addresses.iter();
            places.extend(addresses.map(|ip| (group.kind, *ip, number, ranges.clone())));
        }
        if let Some(node_port) = node_port {
            let addresses = self.node.node_port_addresses(self.settings, ipv4).into_iter();
            places.extend(addresses.map(|ip| (TargetKind::NodePort, ip, node_port, None)));
        }
        if self.result.targets.len() + places.len() > MAX_TARGETS {
            self.result.is_cut = true;
            let text = "ports and addresses come to too many virtual services; 5000 are served";
            self.notes.add(text, "its");
            return;
        }
        for (kind, ip, port, source_ranges) in places {
            let local = match kind {
                TargetKind::ClusterIp => internal_local,
                _ => external_local,
            };
            let key = ServiceKey::Address { protocol, address: ip, port };
            let endpoints = chosen.select(local, fall_back);
            if self.is_of_host(kind, &key, !endpoints.is_empty()) {
                self.notes
                    .add("is this node's own, and something listens there; it is not served", key);
                continue;
            }
            let target = Aim { key, kind, local, source_ranges, stands_for: None };
            if local && has_none && by_mark {
                // Clients outside are refused, those inside reach the endpoints of other nodes.
                let inside = Aim {
                    key: mark_of(&key, self.settings.mark_bits),
                    source_ranges: None,
                    stands_for: Some(key),
                    ..target
                };
                self.target(inside, port, &chosen.cluster);
            }
            self.target(target, port, endpoints);
        }
    }

    /// Whether the node itself listens where an external address of a service is its own: it would be
    /// cut off from what listens there, kubelet for one.
    fn is_of_host(&self, kind: TargetKind, key: &ServiceKey, has_endpoints: bool) -> bool {
        let ServiceKey::Address { protocol, address, port } = key else { return false };
        let is_external = matches!(kind, TargetKind::LoadBalancer | TargetKind::ExternalIp);
        is_external
            && self.node.addresses.contains(address)
            && self.node.around.listening.contains(&(*protocol, *port))
            && !(self.settings.host_ports && has_endpoints)
    }

    fn target(&mut self, aim: Aim, port: u16, endpoints: &[&Candidate<'_>]) {
        let Aim { key, kind, local, source_ranges, stands_for } = aim;
        let mut builder = VirtualService::builder(key);
        builder = builder.scheduler(&self.choice.scheduler).scheduler_flags(self.choice.flags);
        if let Some(timeout) = self.affinity() {
            builder = builder.persistent_for(timeout);
        }
        let real_servers: Vec<_> =
            endpoints.iter().map(|endpoint| self.real_server(endpoint, port)).collect();
        if let Some(virtual_service) = self.build(builder, real_servers) {
            let virtual_service = Arc::new(virtual_service);
            let target = Target { virtual_service, kind, local, source_ranges, stands_for };
            self.result.targets.push(target);
        }
    }

    fn real_server(&self, endpoint: &Candidate<'_>, port: u16) -> RealServer {
        let address = endpoint.address;
        let weight = self.choice.weight(address.ip(), endpoint.node, endpoint.zone);
        let real_server = match self.choice.forwarding {
            Forwarding::Direct if address.port() == port => RealServer::direct(address.ip()),
            Forwarding::Tunnel if address.port() == port => RealServer::tunnel(address.ip()),
            _ => RealServer::nat(address),
        };
        real_server.weight(weight)
    }

    /// Builds the virtual service without the real servers that cannot be.
    fn build(
        &mut self,
        builder: VirtualServiceBuilder,
        real_servers: Vec<RealServer>,
    ) -> Option<VirtualService> {
        if let Ok(service) = builder.clone().real_servers(real_servers.iter().cloned()).build() {
            return Some(service);
        }
        if let Err(invalid) = builder.clone().build() {
            self.notes.add("it is not served", format!("{invalid};"));
            return None;
        }
        let mut good = Vec::with_capacity(real_servers.len());
        for real_server in real_servers {
            match builder.clone().real_server(real_server.clone()).build() {
                Ok(_) => good.push(real_server),
                Err(invalid) => self.notes.add("it is not used", format!("{invalid};")),
            }
        }
        match builder.real_servers(good).build() {
            Ok(service) => Some(service),
            Err(invalid) => {
                self.notes.add("it is not served", format!("{invalid};"));
                None
            }
        }
    }

    fn affinity(&mut self) -> Option<Duration> {
        let spec = &self.service.spec;
        if spec.session_affinity.as_deref() != Some("ClientIP") {
            return None;
        }
        let client_ip = spec.session_affinity_config.as_ref().and_then(|config| {
            config.client_ip.as_ref().and_then(|client_ip| client_ip.timeout_seconds)
        });
        let seconds = match client_ip {
            None => AFFINITY,
            Some(seconds) if (1..=MAX_AFFINITY).contains(&seconds) => seconds,
            Some(seconds) => {
                self.notes.add(
                    "is not a time-out of ClientIP, which is 1 to 86400 s; 10800 s are taken",
                    seconds,
                );
                AFFINITY
            }
        };
        Some(Duration::from_secs(seconds.unsigned_abs()))
    }

    fn internal_local(&self) -> bool {
        self.service.spec.internal_traffic_policy.as_deref() == Some("Local")
    }

    /// The policy counts for services that can be reached from outside only.
    fn external_local(&self) -> bool {
        let spec = &self.service.spec;
        let counts = match spec.kind.as_deref() {
            Some("LoadBalancer" | "NodePort") => true,
            _ => !spec.external_ips.is_empty(),
        };
        counts && spec.external_traffic_policy.as_deref() == Some("Local")
    }

    fn health_check(&mut self) {
        let spec = &self.service.spec;
        let is_balanced = spec.kind.as_deref() == Some("LoadBalancer") && self.external_local();
        if !is_balanced || spec.health_check_node_port == 0 {
            return;
        }
        let Some(port) = port_number(spec.health_check_node_port) else {
            let number = spec.health_check_node_port;
            self.notes.add("is not a port number; no health check is served", number);
            return;
        };
        let mut local = BTreeSet::new();
        for port in &spec.ports {
            let Some(protocol) = protocol(port.protocol.as_deref()) else { continue };
            for ipv4 in [true, false] {
                let endpoints = self.endpoints(port, protocol, ipv4);
                let ready = endpoints.iter().filter(|endpoint| endpoint.ready && endpoint.local);
                local.extend(ready.map(|endpoint| endpoint.address.ip()));
            }
        }
        self.result.health_check = Some(HealthCheck { port, local_endpoints: local.len() });
    }
}

/// The service by firewall mark that serves clients inside of the cluster at this address. The mark
/// follows from the address, so that it is the same after a restart.
fn mark_of(key: &ServiceKey, bits: MarkBits) -> ServiceKey {
    // FNV-1a. Of two that come to the same mark, one has it, and the other one is a notice.
    let hash = key
        .to_string()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    ServiceKey::Mark { mark: bits.mark(hash), family: key.family() }
}

fn protocol(text: Option<&str>) -> Option<Protocol> {
    match text {
        None | Some("TCP") => Some(Protocol::TCP),
        Some("UDP") => Some(Protocol::UDP),
        Some("SCTP") => Some(Protocol::SCTP),
        Some(_) => None,
    }
}

fn port_number(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn marks_keep_off_those_of_others() {
        let mut marks = BTreeSet::new();
        for number in 0..20_000_u32 {
            let address = IpAddr::from((0xcb00_7100 + number).to_be_bytes());
            let key = ServiceKey::Address { protocol: Protocol::TCP, address, port: 443 };
            let ServiceKey::Mark { mark, .. } = mark_of(&key, MarkBits::default()) else {
                panic!()
            };
            assert_eq!(mark.get() & 0xf000_e000, 0x1000_0000, "{mark:#x}");
            marks.insert(mark);
        }
        // As good as 25 random bits: half a dozen meet.
        assert!(marks.len() > 19_900, "{}", marks.len());
    }
}
