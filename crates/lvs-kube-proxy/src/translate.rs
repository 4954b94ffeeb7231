//! From one Service and its EndpointSlices to virtual services.

use std::{
    collections::{BTreeMap, BTreeSet},
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

use crate::{
    annotation::{Choice, Forwarding},
    object::{Endpoint, EndpointSlice, HOST_NAME, ObjectName, Service, ServicePort, ZONE},
    settings::{MarkBits, Settings, ThisNode, WithoutLocal},
};

/// How long a client of affinity `ClientIP` keeps its endpoint, where the service does not say.
const AFFINITY: i64 = 10_800;
/// The longest that a service may say, a day.
const MAX_AFFINITY: i64 = 86_400;

/// What one Service comes to on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Translation {
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
        for port in &self.service.spec.ports {
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
        for (kind, ip, port, source_ranges) in places {
            let local = match kind {
                TargetKind::ClusterIp => internal_local,
                _ => external_local,
            };
            let key = ServiceKey::Address { protocol, address: ip, port };
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
            self.target(target, port, chosen.select(local, fall_back));
        }
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

    /// The endpoints of a port, each address once, in order.
    fn endpoints(
        &mut self,
        port: &ServicePort,
        protocol: Protocol,
        ipv4: bool,
    ) -> Vec<Candidate<'a>> {
        let mut found: BTreeMap<SocketAddr, Candidate<'a>> = BTreeMap::new();
        let slices: Vec<&'a EndpointSlice> = self.slices.clone();
        for slice in slices {
            let family = match slice.address_type.as_str() {
                "IPv4" => true,
                "IPv6" => false,
                _ => continue,
            };
            if family != ipv4 {
                continue;
            }
            for slice_port in &slice.ports {
                let fits = slice_port.name.as_ref() == Some(&port.name)
                    && self::protocol(slice_port.protocol.as_deref()) == Some(protocol);
                let Some(number) = slice_port.port.filter(|number| fits && *number != 0) else {
                    continue;
                };
                let Some(number) = port_number(number) else {
                    self.notes.add("is not a port number of an endpoint; it is not used", number);
                    continue;
                };
                for endpoint in &slice.endpoints {
                    let Some(text) = endpoint.addresses.first() else { continue };
                    let Some(ip) = address_of(text, ipv4) else {
                        self.notes.add(not_an_address(ipv4), format!("{text:?}"));
                        continue;
                    };
                    let candidate =
                        Candidate::new(SocketAddr::new(ip, number), endpoint, self.node);
                    let place = found.entry(candidate.address).or_insert_with(|| candidate.clone());
                    if candidate.rank() > place.rank() {
                        *place = candidate;
                    }
                }
            }
        }
        found.into_values().collect()
    }

    fn cluster_address(&mut self, ipv4: bool) -> Option<IpAddr> {
        let mut found = None;
        for text in cluster_addresses(self.service) {
            match text.parse::<IpAddr>() {
                Ok(address) if address.is_ipv4() == ipv4 => {
                    found = found.or_else(|| self.virtual_address(address));
                }
                Ok(_) => {}
                // Said once, though both families come by.
                Err(_) if ipv4 => self.notes.add(NO_ADDRESS, format!("clusterIP {text:?}")),
                Err(_) => {}
            }
        }
        found
    }

    /// An address from outside of the cluster that may be made local to this node, if it is not its own.
    fn external_address(&mut self, address: IpAddr) -> Option<IpAddr> {
        let (node, settings) = (self.node, self.settings);
        let mut networks = settings.pod_networks.iter().chain(&node.pod_networks);
        let whose = if node.addresses.contains(&address) {
            None
        } else if node.others.contains(&address) {
            Some("is another node's own address; it is not served")
        } else if settings.api_server == Some(address) {
            Some("is the API server's own address; it is not served")
        } else if networks.any(|network| network.contains(&address)) {
            Some("is in a network of pods; it is not served")
        } else {
            None
        };
        match whose {
            None => self.virtual_address(address),
            Some(whose) => {
                self.notes.add(whose, address);
                None
            }
        }
    }

    fn load_balancer_addresses(&mut self, ipv4: bool) -> Addresses {
        let ingress = self.service.status.load_balancer.ingress.iter();
        let texts: Vec<_> = ingress
            .filter(|ingress| ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"))
            .filter_map(|ingress| ingress.ip.as_deref())
            .collect();
        let addresses = self.usable_addresses(&texts, ipv4);
        let source_ranges = self.source_ranges(ipv4);
        Addresses { kind: TargetKind::LoadBalancer, addresses, source_ranges }
    }

    fn external_addresses(&mut self, ipv4: bool) -> Addresses {
        let texts: Vec<_> = self.service.spec.external_ips.iter().map(String::as_str).collect();
        let addresses = match self.settings.external_ips {
            true => self.usable_addresses(&texts, ipv4),
            false => {
                if ipv4 {
                    for text in texts {
                        self.notes.add("is not served: external IPs are switched off", text);
                    }
                }
                BTreeSet::new()
            }
        };
        Addresses { kind: TargetKind::ExternalIp, addresses, source_ranges: None }
    }

    fn usable_addresses(&mut self, texts: &[&str], ipv4: bool) -> BTreeSet<IpAddr> {
        let mut addresses = BTreeSet::new();
        for text in texts {
            match text.trim().parse::<IpAddr>() {
                Ok(address) if address.is_ipv4() == ipv4 => {
                    addresses.extend(self.external_address(address));
                }
                Ok(_) => {}
                Err(_) if ipv4 => self.notes.add(NO_ADDRESS, format!("{text:?}")),
                Err(_) => {}
            }
        }
        addresses
    }

    /// An address that may be made local to this node.
    fn virtual_address(&mut self, address: IpAddr) -> Option<IpAddr> {
        let unusable = address.is_unspecified()
            || address.is_multicast()
            || address.is_loopback()
            || match address {
                IpAddr::V4(address) => address.is_broadcast() || address.is_link_local(),
                IpAddr::V6(address) => {
                    address.is_unicast_link_local() || address.to_ipv4_mapped().is_some()
                }
            };
        if unusable {
            self.notes.add("is not an address that services can have; it is not served", address);
        }
        (!unusable).then_some(address)
    }

    /// The networks of one family from which a load balancer's address may be reached. A range of
    /// all addresses is no restriction. One that cannot be read lets nobody in.
    fn source_ranges(&mut self, ipv4: bool) -> Option<Vec<IpNet>> {
        let mut ranges = Vec::new();
        let mut restricted = false;
        for text in &self.service.spec.load_balancer_source_ranges {
            match text.trim().parse::<IpNet>() {
                Ok(range) if range.addr().is_ipv4() != ipv4 => {}
                Ok(range) if range.prefix_len() == 0 => return None,
                Ok(range) => ranges.push(range.trunc()),
                Err(_) => {
                    restricted = true;
                    if ipv4 {
                        self.notes
                            .add("is not a source range; it lets nobody in", format!("{text:?}"));
                    }
                }
            }
        }
        // Without overlaps, which sets of nftables do not take.
        let ranges = IpNet::aggregate(&ranges);
        (restricted || !ranges.is_empty()).then_some(ranges)
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

const NO_ADDRESS: &str = "is not an address; it is not used";

fn not_an_address(ipv4: bool) -> &'static str {
    match ipv4 {
        true => "is not an address of an IPv4 endpoint; it is not used",
        false => "is not an address of an IPv6 endpoint; it is not used",
    }
}

fn address_of(text: &str, ipv4: bool) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().filter(|address| address.is_ipv4() == ipv4)
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

/// An endpoint at one of its ports.
#[derive(Clone, Debug)]
struct Candidate<'a> {
    address: SocketAddr,
    ready: bool,
    serving: bool,
    terminating: bool,
    local: bool,
    node: Option<&'a str>,
    zone: Option<&'a str>,
    endpoint: &'a Endpoint,
}

impl<'a> Candidate<'a> {
    fn new(address: SocketAddr, endpoint: &'a Endpoint, this: &ThisNode) -> Self {
        let conditions = endpoint.conditions;
        let node = endpoint.node_name.as_deref().or_else(|| endpoint.topology.get(HOST_NAME));
        let zone = endpoint.zone.as_deref().or_else(|| endpoint.topology.get(ZONE));
        Self {
            address,
            ready: conditions.ready.unwrap_or(true),
            serving: conditions.serving.unwrap_or(true),
            terminating: conditions.terminating.unwrap_or(false),
            local: node.is_some_and(|node| node == this.name),
            node,
            zone,
            endpoint,
        }
    }

    /// Which of two entries for one address counts: a local one, and the one that can do more. An
    /// endpoint that moves from one slice to another is in both for a moment.
    fn rank(&self) -> (bool, bool, bool, bool) {
        (self.local, self.ready, self.serving, self.terminating)
    }

    fn is_last_resort(&self) -> bool {
        self.serving && self.terminating
    }

    fn is_for_node(&self, name: &str) -> bool {
        self.endpoint.hints.iter().any(|hints| hints.for_nodes.iter().any(|hint| hint.name == name))
    }

    fn is_for_zone(&self, name: &str) -> bool {
        self.endpoint.hints.iter().any(|hints| hints.for_zones.iter().any(|hint| hint.name == name))
    }

    fn has_node_hints(&self) -> bool {
        self.endpoint.hints.as_ref().is_some_and(|hints| !hints.for_nodes.is_empty())
    }

    fn has_zone_hints(&self) -> bool {
        self.endpoint.hints.as_ref().is_some_and(|hints| !hints.for_zones.is_empty())
    }
}

/// The endpoints that get connections, by policy.
struct Chosen<'c, 'a> {
    cluster: Vec<&'c Candidate<'a>>,
    local: Vec<&'c Candidate<'a>>,
}

impl<'c, 'a> Chosen<'c, 'a> {
    fn new(endpoints: &'c [Candidate<'a>], node: &ThisNode) -> Self {
        let ready: Vec<_> = endpoints.iter().filter(|endpoint| endpoint.ready).collect();
        let local = ready.iter().copied().filter(|endpoint| endpoint.local).collect();
        let mut chosen = Self { cluster: hinted(ready, node), local };
        let last_resort = endpoints.iter().filter(|endpoint| endpoint.is_last_resort());
        if chosen.cluster.is_empty() {
            chosen.cluster = last_resort.clone().collect();
        }
        if chosen.local.is_empty() {
            chosen.local = last_resort.filter(|endpoint| endpoint.local).collect();
        }
        chosen
    }

    fn select(&self, local: bool, fall_back: bool) -> &[&'c Candidate<'a>] {
        match local {
            true if fall_back && self.local.is_empty() => &self.cluster,
            true => &self.local,
            false => &self.cluster,
        }
    }
}

/// Those that are meant for this node, or else for its zone. Hints count only if every endpoint has
/// them and some are for here.
fn hinted<'c, 'a>(ready: Vec<&'c Candidate<'a>>, node: &ThisNode) -> Vec<&'c Candidate<'a>> {
    let narrow = |fits: &dyn Fn(&Candidate<'_>) -> bool| {
        let narrowed: Vec<_> = ready.iter().copied().filter(|endpoint| fits(endpoint)).collect();
        (!narrowed.is_empty()).then_some(narrowed)
    };
    let by_node = ready
        .iter()
        .all(|endpoint| endpoint.has_node_hints())
        .then(|| narrow(&|endpoint| endpoint.is_for_node(&node.name)))
        .flatten();
    let by_zone = || {
        let zone = node.zone.as_deref()?;
        let all = ready.iter().all(|endpoint| endpoint.has_zone_hints());
        all.then(|| narrow(&|endpoint| endpoint.is_for_zone(zone))).flatten()
    };
    by_node.or_else(by_zone).unwrap_or(ready)
}

/// Notices of one service: each kind once, with an example, however many there are.
#[derive(Debug, Default)]
struct Notes {
    single: Vec<String>,
    counted: BTreeMap<&'static str, (String, BTreeSet<String>)>,
}

impl Notes {
    fn add(&mut self, kind: &'static str, what: impl fmt::Display) {
        let what = what.to_string();
        let (example, all) = self.counted.entry(kind).or_default();
        if all.is_empty() || what < *example {
            example.clone_from(&what);
        }
        all.insert(what);
    }

    fn into_texts(self, service: &ObjectName) -> Vec<String> {
        let counted = self.counted.into_iter().map(|(kind, (example, all))| match all.len() {
            1 => format!("{example} {kind}"),
            count => format!("{example} {kind} (and {} more like it)", count - 1),
        });
        let texts = self.single.into_iter().chain(counted);
        texts.map(|text| format!("service {service}: {text}")).collect()
    }
}

#[cfg(test)]
mod tests {
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
