//! Virtual services.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    time::Duration,
};

use ipvs_client::{
    ServiceSnapshot,
    packet::{
        AddressFamily, Destination, DestinationKey, EngineName, Netmask, Protocol, SchedulerName,
        Service, ServiceFlags, ServiceKey,
    },
};
use ipvs_table::{DestinationChanges, Keyed};

use crate::{Invalid, RealServer, Rule, Violation};

/// ipvsadm's persistence timeout where no number is said.
const PERSISTENCE: Duration = Duration::from_secs(360);
/// ipvsadm's longest.
const MAX_PERSISTENCE: Duration = Duration::from_secs(31 * 24 * 60 * 60);
/// The flags that belong to the scheduler.
const SCHEDULER_FLAGS: ServiceFlags =
    ServiceFlags::SCHEDULER_1.union(ServiceFlags::SCHEDULER_2).union(ServiceFlags::SCHEDULER_3);

/// A virtual service with its real servers, checked as a whole: the desired state of one service.
///
/// ```
/// use lvs::{RealServer, VirtualService};
///
/// let service = VirtualService::tcp("10.0.0.185:80".parse()?)
///     .real_server(RealServer::nat("172.17.0.3:80".parse()?))
///     .real_server(RealServer::nat("172.17.0.4:80".parse()?))
///     .build()?;
/// let without_persistence = service.clone();
/// let persistent = service.to_builder().persistent().build()?;
/// assert_ne!(persistent, without_persistence);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The order in which real servers were named makes no difference, and one that is named twice
/// alike counts once, as where an endpoint is in two of Kubernetes' EndpointSlices.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VirtualService {
    service: Service,
    /// In order of their keys, each once.
    destinations: Vec<Destination>,
}

impl VirtualService {
    /// Starts a TCP service at an address and port. `ipvsadm -A -t`.
    ///
    /// Port 0 is every port, for persistent services. The address must be local on the director for
    /// packets to reach the service: on a dummy link, say.
    pub fn tcp(address: SocketAddr) -> VirtualServiceBuilder {
        Self::at(Protocol::TCP, address)
    }

    /// Starts a UDP service at an address and port. `ipvsadm -A -u`. Otherwise as
    /// [`tcp`](Self::tcp).
    pub fn udp(address: SocketAddr) -> VirtualServiceBuilder {
        Self::at(Protocol::UDP, address)
    }

    /// Starts an SCTP service at an address and port. `ipvsadm -A --sctp-service`. Otherwise as
    /// [`tcp`](Self::tcp).
    pub fn sctp(address: SocketAddr) -> VirtualServiceBuilder {
        Self::at(Protocol::SCTP, address)
    }

    /// Starts a service of the IPv4 packets that the firewall marks so, whatever their protocol and
    /// port. `ipvsadm -A -f`.
    pub fn firewall_mark(mark: u32) -> VirtualServiceBuilder {
        Self::marked(mark, AddressFamily::Ipv4)
    }

    /// Starts a service of the IPv6 packets that the firewall marks so. `ipvsadm -A -f … -6`.
    pub fn firewall_mark_ipv6(mark: u32) -> VirtualServiceBuilder {
        Self::marked(mark, AddressFamily::Ipv6)
    }

    /// Starts the service that a key names: `"-t 10.0.0.185:80".parse()?`.
    pub fn builder(key: ServiceKey) -> VirtualServiceBuilder {
        VirtualServiceBuilder::new(Ok(key))
    }

    fn at(protocol: Protocol, address: SocketAddr) -> VirtualServiceBuilder {
        let key = ServiceKey::Address { protocol, address: address.ip(), port: address.port() };
        VirtualServiceBuilder::new(match zone(address) {
            0 => Ok(key),
            zone => Err(Violation::new(
                format_args!("service {key}"),
                format_args!("zone %{zone}"),
                Rule::Zone,
            )),
        })
    }

    fn marked(mark: u32, family: AddressFamily) -> VirtualServiceBuilder {
        VirtualServiceBuilder::new(match NonZeroU32::new(mark) {
            Some(mark) => Ok(ServiceKey::mark(mark, family)),
            None => Err(Violation::new("service -f 0", "firewall mark 0", Rule::MarkIsZero)),
        })
    }

    /// The service that the kernel's two kinds of objects make.
    ///
    /// A timeout without persistence, which has no effect, becomes 0.
    ///
    /// # Errors
    ///
    /// Every [`Rule`] that is broken, as in [`build`](VirtualServiceBuilder::build).
    pub fn from_parts<'a>(
        service: &Service,
        destinations: impl IntoIterator<Item = &'a Destination>,
    ) -> Result<Self, Invalid> {
        let destinations = destinations.into_iter().map(RealServer::from);
        VirtualServiceBuilder::from(service).real_servers(destinations).build()
    }

    /// A builder with everything that this service has.
    pub fn to_builder(&self) -> VirtualServiceBuilder {
        VirtualServiceBuilder::from(&self.service).real_servers(self.real_servers())
    }

    /// What identifies it.
    pub fn key(&self) -> &ServiceKey {
        self.service.key()
    }

    /// The service as the kernel takes it, with its settings.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// The real servers as the kernel takes them, with their settings, in order of their addresses
    /// and ports.
    pub fn destinations(&self) -> &[Destination] {
        &self.destinations
    }

    /// A real server as the kernel takes it.
    pub fn destination(&self, key: &DestinationKey) -> Option<&Destination> {
        let position = self.destinations.binary_search_by_key(key, |found| found.key).ok()?;
        self.destinations.get(position)
    }

    /// The real servers, to build another service with, in order of their addresses and ports.
    pub fn real_servers(&self) -> impl Iterator<Item = RealServer> + '_ {
        self.destinations.iter().map(RealServer::from)
    }
}

/// Its key and settings; its real servers are compared one by one.
impl Keyed for VirtualService {
    type Key = ServiceKey;
    type Settings = Service;

    fn key(&self) -> ServiceKey {
        *self.service.key()
    }

    fn settings(&self) -> &Service {
        &self.service
    }
}

/// Reads a service back from a snapshot, without its statistics.
impl TryFrom<&ServiceSnapshot> for VirtualService {
    type Error = Invalid;

    fn try_from(snapshot: &ServiceSnapshot) -> Result<Self, Invalid> {
        let destinations = snapshot.destinations.iter().map(|entry| &entry.destination);
        Self::from_parts(&snapshot.entry.service, destinations)
    }
}

/// Collects what a [`VirtualService`] is to be; [`build`](Self::build) checks it.
#[derive(Clone, Debug)]
#[must_use = "nothing is checked or done before `build`"]
pub struct VirtualServiceBuilder {
    key: Result<ServiceKey, Violation>,
    scheduler: String,
    scheduler_flags: ServiceFlags,
    one_packet: bool,
    persistence: Option<Duration>,
    netmask: Option<Mask>,
    engine: Option<String>,
    real_servers: Vec<RealServer>,
}

#[derive(Clone, Copy, Debug)]
enum Mask {
    Bits(u8),
    Whole(Netmask),
}

impl VirtualServiceBuilder {
    fn new(key: Result<ServiceKey, Violation>) -> Self {
        Self {
            key,
            scheduler: SchedulerName::WLC.to_string(),
            scheduler_flags: ServiceFlags::empty(),
            one_packet: false,
            persistence: None,
            netmask: None,
            engine: None,
            real_servers: Vec::new(),
        }
    }

    /// Adds a real server. Without any, the service refuses every connection.
    pub fn real_server(mut self, real_server: RealServer) -> Self {
        self.real_servers.push(real_server);
        self
    }

    /// Adds real servers.
    pub fn real_servers(mut self, real_servers: impl IntoIterator<Item = RealServer>) -> Self {
        self.real_servers.extend(real_servers);
        self
    }

    /// Forgets the real servers that were named so far.
    pub fn without_real_servers(mut self) -> Self {
        self.real_servers.clear();
        self
    }

    /// How a real server is chosen for a new connection: `rr`, `wrr`, `lc`, `wlc` (the default), or
    /// any other for which the kernel has a module `ip_vs_<name>`. `ipvsadm -s`.
    pub fn scheduler(mut self, name: &str) -> Self {
        name.clone_into(&mut self.scheduler);
        self
    }

    /// The scheduler's own flags, such as [`ServiceFlags::MH_PORT`]; those of the service have
    /// methods of their own. `ipvsadm -b`.
    pub fn scheduler_flags(mut self, flags: ServiceFlags) -> Self {
        self.scheduler_flags = flags;
        self
    }

    /// A client keeps its real server until it has had no connection for six minutes, ipvsadm's
    /// default. `ipvsadm -p`.
    pub fn persistent(self) -> Self {
        self.persistent_for(PERSISTENCE)
    }

    /// A client keeps its real server until it has had no connection for this long: 1 second to 31
    /// days, whole seconds. `ipvsadm -p seconds`.
    pub fn persistent_for(mut self, timeout: Duration) -> Self {
        self.persistence = Some(timeout);
        self
    }

    /// Each connection is scheduled for itself, the default.
    pub fn not_persistent(mut self) -> Self {
        self.persistence = None;
        self.netmask = None;
        self.engine = None;
        self
    }

    /// Persistence takes clients together whose addresses agree in this many first bits; all by
    /// default. `ipvsadm -M`.
    pub fn netmask(mut self, bits: u8) -> Self {
        self.netmask = Some(Mask::Bits(bits));
        self
    }

    /// Persistence goes by what this engine reads in the traffic. `ipvsadm --pe`.
    pub fn engine(mut self, name: &str) -> Self {
        self.engine = Some(name.to_owned());
        self
    }

    /// Each datagram is scheduled for itself (UDP). `ipvsadm -o`.
    pub fn one_packet(mut self) -> Self {
        self.one_packet = true;
        self
    }

    /// Checks everything.
    ///
    /// # Errors
    ///
    /// Every [`Rule`] that is broken, and what breaks it.
    pub fn build(self) -> Result<VirtualService, Invalid> {
        let mut violations = Vec::new();
        let service = self.service(&mut violations);
        let mut destinations = BTreeMap::new();
        if let Ok(key) = &self.key {
            for real_server in &self.real_servers {
                let Some(new) = real_server.destination(key, &mut violations) else { continue };
                match destinations.get(&new.key) {
                    None => {
                        destinations.insert(new.key, new);
                    }
                    Some(old) if *old == new => {}
                    Some(old) => violations.push(Violation::new(
                        format_args!("real server {} of service {key}", new.key),
                        DestinationChanges::between(old, &new),
                        Rule::Duplicate,
                    )),
                }
            }
        }
        match service {
            Some(service) if violations.is_empty() => {
                Ok(VirtualService { service, destinations: destinations.into_values().collect() })
            }
            _ => Err(Invalid::new(violations)),
        }
    }

    /// The service without its real servers.
    fn service(&self, violations: &mut Vec<Violation>) -> Option<Service> {
        let key = match &self.key {
            Ok(key) => *key,
            Err(violation) => {
                violations.push(violation.clone());
                return None;
            }
        };
        let mut violation = |rule, value: &dyn fmt::Display| {
            violations.push(Violation::new(format_args!("service {key}"), value, rule));
        };
        let persistent = self.persistence.is_some();
        let mut protocol = None;
        // Marked packets may be of any protocol.
        if let ServiceKey::Address { protocol: of_key, address, port } = key {
            protocol = Some(of_key);
            if ![Protocol::TCP, Protocol::UDP, Protocol::SCTP].contains(&of_key) {
                violation(Rule::Protocol, &format_args!("protocol {}", of_key.0));
            }
            if !is_reachable(address) {
                violation(Rule::VirtualAddress, &format_args!("address {address}"));
            }
            if port == 0 && !persistent {
                violation(Rule::PortZeroNeedsPersistence, &"port 0");
            }
        }
        let may_be_udp = protocol.is_none_or(|protocol| protocol == Protocol::UDP);
        let mut service = Service::new(key);

        match SchedulerName::new(&self.scheduler) {
            Ok(SchedulerName::NONE) => violation(Rule::SchedulerNone, &"scheduler none"),
            Ok(name) if is_word(&self.scheduler) => service.scheduler = name,
            _ => violation(Rule::Name, &format_args!("scheduler {:?}", self.scheduler)),
        }
        if !SCHEDULER_FLAGS.contains(self.scheduler_flags) {
            let others = self.scheduler_flags - SCHEDULER_FLAGS;
            violation(Rule::SchedulerFlags, &format_args!("flags {:#x}", others.bits()));
        }
        service.flags = self.scheduler_flags;
        if self.one_packet && !may_be_udp {
            violation(Rule::OnePacketNeedsUdp, &"one-packet scheduling");
        }
        service.flags.set(ServiceFlags::ONE_PACKET, self.one_packet);

        if let Some(timeout) = self.persistence {
            let whole = timeout.subsec_nanos() == 0;
            if !whole || timeout.is_zero() || timeout > MAX_PERSISTENCE {
                violation(Rule::PersistenceTimeout, &format_args!("persistence {timeout:?}"));
            } else {
                service.flags |= ServiceFlags::PERSISTENT;
                // At most 31 days.
                service.timeout = timeout.as_secs() as u32;
            }
        }
        if let Some(mask) = self.netmask {
            let (netmask, value) = match mask {
                Mask::Bits(bits) => (Netmask::prefix(key.family(), bits), bits.to_string()),
                Mask::Whole(netmask) => (Ok(netmask), netmask.to_string()),
            };
            if !persistent {
                violation(Rule::NetmaskNeedsPersistence, &format_args!("netmask {value}"));
            }
            if netmask.and_then(|netmask| service.set_netmask(netmask)).is_err() {
                violation(Rule::Netmask, &format_args!("netmask {value}"));
            }
        }
        if let Some(name) = &self.engine {
            if !persistent {
                violation(Rule::EngineNeedsPersistence, &format_args!("persistence engine {name}"));
            }
            match EngineName::new(name) {
                Ok(engine) if is_word(name) => service.engine = Some(engine),
                _ => violation(Rule::Name, &format_args!("persistence engine {name:?}")),
            }
            if service.engine == Some(EngineName::SIP) && !may_be_udp {
                violation(Rule::SipNeedsUdp, &"persistence engine sip");
            }
        }
        Some(service)
    }
}

impl From<&Service> for VirtualServiceBuilder {
    fn from(service: &Service) -> Self {
        let flags = service.flags;
        let persistent = flags.contains(ServiceFlags::PERSISTENT);
        let own = ServiceFlags::PERSISTENT | ServiceFlags::ONE_PACKET | ServiceFlags::HASHED;
        let netmask = service.netmask();
        let whole = netmask != Netmask::host(service.key().family());
        Self {
            key: Ok(*service.key()),
            scheduler: service.scheduler.to_string(),
            scheduler_flags: flags - own,
            one_packet: flags.contains(ServiceFlags::ONE_PACKET),
            persistence: persistent.then(|| Duration::from_secs(service.timeout.into())),
            netmask: whole.then_some(Mask::Whole(netmask)),
            engine: service.engine.map(|engine| engine.to_string()),
            real_servers: Vec::new(),
        }
    }
}

/// The zone of an IPv6 address; 0 where there is none.
pub(crate) fn zone(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    }
}

/// Whether packets from somebody else can be for this address.
pub(crate) fn is_reachable(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    let mapped = matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
    !(address.is_unspecified() || address.is_multicast() || broadcast || mapped)
}

/// Whether a name can be part of a module's.
fn is_word(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests;
