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
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use ipvs_client::packet::{DestinationEntry, ForwardMethod, ServiceEntry, Tunnel, TunnelFlags};

    use super::*;
    use crate::Encapsulation;

    fn http() -> VirtualServiceBuilder {
        VirtualService::tcp("10.0.0.185:80".parse().unwrap())
    }

    fn dns() -> VirtualServiceBuilder {
        VirtualService::udp("10.0.0.185:53".parse().unwrap())
    }

    fn every_port() -> VirtualServiceBuilder {
        VirtualService::tcp("10.0.0.185:0".parse().unwrap())
    }

    fn nat(address: &str) -> RealServer {
        RealServer::nat(address.parse().unwrap())
    }

    #[track_caller]
    fn refused(builder: VirtualServiceBuilder, rule: Rule) {
        let invalid = builder.build().expect_err("it breaks a rule");
        let [violation] = invalid.violations() else { panic!("one violation: {invalid}") };
        assert_eq!(violation.rule(), rule, "{invalid}");
        let text = invalid.to_string();
        assert!(text.contains("service "), "{text}");
        assert!(text.ends_with(&format!(": {} ({})", rule.remedy(), rule.name())), "{text}");
    }

    #[test]
    fn defaults_are_ipvsadms() {
        let service = http().real_server(nat("172.17.0.3:8080")).build().unwrap();
        assert_eq!(*service.service(), Service::new("-t 10.0.0.185:80".parse().unwrap()));
        assert_eq!(service.service().scheduler, SchedulerName::WLC);
        let expected = Destination::new("172.17.0.3:8080".parse().unwrap());
        assert_eq!(service.destinations(), [expected]);
    }

    #[test]
    fn rules_of_the_service() {
        refused(every_port(), Rule::PortZeroNeedsPersistence);
        assert!(every_port().persistent().build().is_ok());
        for address in [
            "0.0.0.0:80",
            "[::]:80",
            "224.0.0.5:80",
            "239.1.1.1:80",
            "[ff02::5]:80",
            "255.255.255.255:80",
            "[::ffff:10.0.0.1]:80",
        ] {
            refused(VirtualService::tcp(address.parse().unwrap()), Rule::VirtualAddress);
        }
        for address in ["127.0.0.1:80", "240.0.0.1:80", "[fe80::1]:80", "[::10.0.0.1]:80"] {
            assert!(VirtualService::tcp(address.parse().unwrap()).build().is_ok(), "{address}");
        }
        refused(VirtualService::tcp("[fe80::9%3]:80".parse().unwrap()), Rule::Zone);
        let zoned = RealServer::nat("[fe80::9%3]:80".parse().unwrap());
        refused(
            VirtualService::tcp("[fe80::9]:80".parse().unwrap()).real_server(zoned),
            Rule::Zone,
        );
        let other = "--protocol 47 10.0.0.185:80".parse().unwrap();
        refused(VirtualService::builder(other), Rule::Protocol);
        refused(VirtualService::firewall_mark(0), Rule::MarkIsZero);
        refused(VirtualService::firewall_mark_ipv6(0), Rule::MarkIsZero);
        assert!(VirtualService::firewall_mark(u32::MAX).build().is_ok());
        refused(http().one_packet(), Rule::OnePacketNeedsUdp);
        assert!(dns().one_packet().build().is_ok());
        assert!(VirtualService::firewall_mark(1).one_packet().build().is_ok());
        refused(http().scheduler(""), Rule::Name);
        for name in ["a-name-of-16-byt", "w rr", " wrr", "wrr\n", "w\0rr"] {
            refused(http().scheduler(name), Rule::Name);
        }
        refused(http().scheduler("none"), Rule::SchedulerNone);
        assert!(http().scheduler("a-name-of-15-by").build().is_ok());
    }

    #[test]
    fn rules_of_persistence() {
        for timeout in [
            Duration::ZERO,
            Duration::from_millis(1500),
            MAX_PERSISTENCE + Duration::from_secs(1),
            Duration::MAX,
        ] {
            refused(http().persistent_for(timeout), Rule::PersistenceTimeout);
        }
        let longest = http().persistent_for(MAX_PERSISTENCE).build().unwrap();
        assert_eq!(longest.service().timeout, 2_678_400);
        assert!(longest.service().flags.contains(ServiceFlags::PERSISTENT));
        assert_eq!(http().persistent().build().unwrap().service().timeout, 360);

        refused(http().netmask(24), Rule::NetmaskNeedsPersistence);
        refused(http().persistent().netmask(33), Rule::Netmask);
        let masked = http().persistent().netmask(24).build().unwrap();
        assert_eq!(masked.service().netmask().to_string(), "255.255.255.0");
        let ipv6 = || VirtualService::tcp("[2001:db8::1]:80".parse().unwrap()).persistent();
        refused(ipv6().netmask(0), Rule::Netmask);
        refused(ipv6().netmask(129), Rule::Netmask);
        assert!(ipv6().netmask(64).build().is_ok());

        refused(dns().engine("sip"), Rule::EngineNeedsPersistence);
        refused(http().persistent().engine("sip"), Rule::SipNeedsUdp);
        refused(dns().persistent().engine(""), Rule::Name);
        assert!(dns().persistent().engine("sip").build().is_ok());
    }

    #[test]
    fn rules_of_real_servers() {
        let too_heavy = nat("172.17.0.3:80").weight(i32::MAX as u32 + 1);
        refused(http().real_server(too_heavy), Rule::Weight);
        assert!(http().real_server(nat("172.17.0.3:80").weight(i32::MAX as u32)).build().is_ok());
        assert!(http().real_server(nat("172.17.0.3:80").weight(0)).build().is_ok());
        for (upper, lower) in [(0, 1), (5, 6), (u32::MAX, 0)] {
            let real_server = nat("172.17.0.3:80").thresholds(upper, lower);
            refused(http().real_server(real_server), Rule::Thresholds);
        }
        assert!(http().real_server(nat("172.17.0.3:80").thresholds(6, 6)).build().is_ok());
        for address in ["0.0.0.0:80", "224.0.0.1:80", "255.255.255.255:80"] {
            refused(http().real_server(nat(address)), Rule::RealServerAddress);
        }
        refused(http().real_server(nat("[2001:db8::3]:80")), Rule::FamilyNeedsTunnel);
        let direct = |address: &str| RealServer::direct(address.parse().unwrap());
        refused(http().real_server(direct("2001:db8::3")), Rule::FamilyNeedsTunnel);
        let tunnel = || RealServer::tunnel("2001:db8::3".parse().unwrap());
        assert!(http().real_server(tunnel()).build().is_ok());
        let wrapped = |encapsulation| http().real_server(tunnel().encapsulation(encapsulation));
        refused(wrapped(Encapsulation::gue(0)), Rule::EncapsulationPort);
        refused(wrapped(Encapsulation::IPIP.checksum()), Rule::EncapsulationChecksum);
        refused(wrapped(Encapsulation::gre().remote_checksum()), Rule::EncapsulationChecksum);
        for encapsulation in [
            Encapsulation::IPIP,
            Encapsulation::gue(6080),
            Encapsulation::gue(6080).checksum().remote_checksum(),
            Encapsulation::gre().checksum(),
        ] {
            assert!(wrapped(encapsulation).build().is_ok(), "{encapsulation}");
        }
        let translated = nat("172.17.0.3:80").encapsulation(Encapsulation::gre());
        refused(http().real_server(translated), Rule::EncapsulationNeedsTunnel);
        refused(http().real_server(nat("172.17.0.3:0")), Rule::RealServerPortZero);
        assert!(every_port().persistent().real_server(nat("172.17.0.3:0")).build().is_ok());
        let two = [nat("172.17.0.3:80"), nat("172.17.0.3:80").weight(2)];
        let twice = http().real_servers(two);
        refused(twice.clone(), Rule::Duplicate);
        assert!(twice.build().unwrap_err().to_string().contains("weight 1 -> 2"));
        let alike = http().real_servers([nat("172.17.0.3:80"), nat("172.17.0.3:80")]);
        assert_eq!(alike.build().unwrap().destinations().len(), 1);
    }

    #[test]
    fn every_violation_is_reported() {
        let invalid = every_port()
            .one_packet()
            .scheduler("w rr")
            .netmask(40)
            .real_server(nat("172.17.0.3:80").weight(u32::MAX).thresholds(1, 2))
            .real_server(nat("224.0.0.1:80"))
            .build()
            .unwrap_err();
        let rules: Vec<Rule> = invalid.violations().iter().map(Violation::rule).collect();
        assert_eq!(
            rules,
            [
                Rule::PortZeroNeedsPersistence,
                Rule::Name,
                Rule::OnePacketNeedsUdp,
                Rule::NetmaskNeedsPersistence,
                Rule::Netmask,
                Rule::Weight,
                Rule::Thresholds,
                Rule::RealServerAddress,
            ],
            "{invalid}"
        );
        assert_eq!(invalid.to_string().lines().count(), 8, "{invalid}");
        assert!(
            invalid.to_string().contains(
                "real server 172.17.0.3:80 of service -t 10.0.0.185:0: weight 4294967295: give a \
                 weight of 0 to 2147483647 (weight)"
            ),
            "{invalid}"
        );
    }

    #[test]
    fn names_of_rules_are_unique() {
        assert_eq!(Rule::PortZeroNeedsPersistence.name(), "port-zero-needs-persistence");
        let names: std::collections::BTreeSet<_> =
            Rule::ALL.iter().map(|rule| rule.name()).collect();
        assert_eq!(names.len(), Rule::ALL.len());
    }

    #[test]
    fn what_was_built_is_built_again() {
        let service = VirtualService::udp("10.0.0.185:5060".parse().unwrap())
            .scheduler("mh")
            .scheduler_flags(ServiceFlags::MH_PORT)
            .persistent_for(Duration::from_secs(300))
            .netmask(24)
            .engine("sip")
            .one_packet()
            .real_server(nat("172.17.0.4:5061").weight(3).thresholds(9, 3))
            .real_server(nat("172.17.0.3:5061").weight(0))
            .real_server(
                RealServer::tunnel("2001:db8::3".parse().unwrap())
                    .encapsulation(Encapsulation::gue(6080).checksum()),
            )
            .build()
            .unwrap();
        assert_eq!(service.to_builder().build().unwrap(), service);
        let mut entry = ServiceEntry::new(service.service().clone());
        // As the kernel reports it.
        entry.service.flags |= ServiceFlags::HASHED;
        let destinations =
            service.destinations().iter().rev().cloned().map(DestinationEntry::new).collect();
        let snapshot = ServiceSnapshot::new(entry, destinations);
        assert_eq!(VirtualService::try_from(&snapshot).unwrap(), service);
        let gue = Tunnel::gue(6080.try_into().unwrap(), TunnelFlags::CHECKSUM);
        assert!(service.destinations().iter().any(|destination| destination.tunnel == gue));
        let plain = service.to_builder().not_persistent().without_real_servers().build().unwrap();
        assert_eq!(plain.service().timeout, 0);
        assert!(plain.destinations().is_empty());
    }

    #[test]
    fn what_the_kernel_stores_and_cannot_work_is_refused() {
        let service = Service::new("-t 10.0.0.185:80".parse().unwrap());
        let mut destination = Destination::new("172.17.0.3:8080".parse().unwrap());
        assert!(VirtualService::from_parts(&service, [&destination]).is_ok());
        let mut refused = |forward, rule| {
            destination.forward = forward;
            let invalid = VirtualService::from_parts(&service, [&destination]).unwrap_err();
            assert_eq!(invalid.violations()[0].rule(), rule, "{invalid}");
        };
        refused(ForwardMethod::DIRECT_ROUTE, Rule::RealServerPort);
        refused(ForwardMethod::TUNNEL, Rule::RealServerPort);
        refused(ForwardMethod::BYPASS, Rule::Forwarding);
        refused(ForwardMethod(6), Rule::Forwarding);
        // A marked packet keeps its port whatever is written there.
        let marked = Service::new("-f 1".parse().unwrap());
        destination.forward = ForwardMethod::DIRECT_ROUTE;
        assert!(VirtualService::from_parts(&marked, [&destination]).is_ok());
    }

    #[test]
    fn direct_routing_and_tunnels_keep_the_port() {
        for real_server in [
            RealServer::direct("172.17.0.3".parse().unwrap()),
            RealServer::tunnel("172.17.0.3".parse().unwrap()),
        ] {
            let service = http().real_server(real_server.clone()).build().unwrap();
            assert_eq!(service.destinations()[0].key.to_string(), "172.17.0.3:80");
            let marked = VirtualService::firewall_mark(7).real_server(real_server).build().unwrap();
            assert_eq!(marked.destinations()[0].key.to_string(), "172.17.0.3:0");
        }
    }

    #[test]
    fn scheduler_flags_are_the_schedulers() {
        for flag in [ServiceFlags::PERSISTENT, ServiceFlags::ONE_PACKET, ServiceFlags::HASHED] {
            refused(dns().scheduler_flags(flag | ServiceFlags::SH_PORT), Rule::SchedulerFlags);
        }
        let service = dns().one_packet().scheduler_flags(ServiceFlags::SH_PORT).build().unwrap();
        let expected = ServiceFlags::ONE_PACKET | ServiceFlags::SH_PORT;
        assert_eq!(service.service().flags.bits(), expected.bits());
    }
}
