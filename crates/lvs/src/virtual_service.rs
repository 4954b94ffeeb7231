//! Virtual services.

use std::{collections::HashSet, net::SocketAddr, num::NonZeroU32, time::Duration};

use ipvs_client::packet::{
    AddressFamily, Destination, EngineName, Netmask, Protocol, SchedulerName, Service,
    ServiceFlags, ServiceKey,
};

use crate::{Invalid, RealServer, Rule};

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
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualService {
    service: Service,
    destinations: Vec<Destination>,
}

impl VirtualService {
    /// Starts a TCP service at an address and port. `ipvsadm -A -t`.
    ///
    /// Port 0 is every port, for persistent services. The address must be local on the director for
    /// packets to reach the service: on a dummy link, say.
    pub fn tcp(address: SocketAddr) -> VirtualServiceBuilder {
        VirtualServiceBuilder::new(Ok(ServiceKey::tcp(address)))
    }

    /// Starts a UDP service at an address and port. `ipvsadm -A -u`. Otherwise as
    /// [`tcp`](Self::tcp).
    pub fn udp(address: SocketAddr) -> VirtualServiceBuilder {
        VirtualServiceBuilder::new(Ok(ServiceKey::udp(address)))
    }

    /// Starts an SCTP service at an address and port. `ipvsadm -A --sctp-service`. Otherwise as
    /// [`tcp`](Self::tcp).
    pub fn sctp(address: SocketAddr) -> VirtualServiceBuilder {
        VirtualServiceBuilder::new(Ok(ServiceKey::sctp(address)))
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

    fn marked(mark: u32, family: AddressFamily) -> VirtualServiceBuilder {
        VirtualServiceBuilder::new(match NonZeroU32::new(mark) {
            Some(mark) => Ok(ServiceKey::mark(mark, family)),
            None => Err(Invalid::new("service -f 0", Rule::MarkIsZero)),
        })
    }

    /// What identifies it.
    pub fn key(&self) -> &ServiceKey {
        self.service.key()
    }

    /// The service as the kernel takes it.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// The real servers as the kernel takes them, in the order in which they were named.
    pub fn destinations(&self) -> &[Destination] {
        &self.destinations
    }
}

/// Collects what a [`VirtualService`] is to be; [`build`](Self::build) checks it.
#[derive(Clone, Debug)]
#[must_use = "nothing is checked or done before `build`"]
pub struct VirtualServiceBuilder {
    key: Result<ServiceKey, Invalid>,
    scheduler: String,
    scheduler_flags: ServiceFlags,
    one_packet: bool,
    persistence: Option<Duration>,
    netmask: Option<u8>,
    engine: Option<String>,
    real_servers: Vec<RealServer>,
}

impl VirtualServiceBuilder {
    fn new(key: Result<ServiceKey, Invalid>) -> Self {
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

    /// Persistence takes clients together whose addresses agree in this many first bits; all by
    /// default. `ipvsadm -M`.
    pub fn netmask(mut self, bits: u8) -> Self {
        self.netmask = Some(bits);
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
    /// The first [`Rule`] that is broken, and what breaks it.
    pub fn build(self) -> Result<VirtualService, Invalid> {
        let key = self.key?;
        let invalid = |rule| Invalid::new(format_args!("service {key}"), rule);
        let persistent = self.persistence.is_some();

        let protocol = match key {
            ServiceKey::Address { address, .. } if address.is_unspecified() => {
                return Err(invalid(Rule::AddressIsUnspecified));
            }
            ServiceKey::Address { port: 0, .. } if !persistent => {
                return Err(invalid(Rule::PortZeroNeedsPersistence));
            }
            ServiceKey::Address { protocol, .. } => Some(protocol),
            // Marked packets may be of any protocol.
            ServiceKey::Mark { .. } => None,
        };
        let may_be_udp = protocol.is_none_or(|protocol| protocol == Protocol::UDP);
        if self.one_packet && !may_be_udp {
            return Err(invalid(Rule::OnePacketNeedsUdp));
        }
        if !SCHEDULER_FLAGS.contains(self.scheduler_flags) {
            return Err(invalid(Rule::SchedulerFlags));
        }

        let mut service = Service::new(key);
        service.scheduler = SchedulerName::new(&self.scheduler).map_err(|_| invalid(Rule::Name))?;
        service.flags = self.scheduler_flags;
        service.flags.set(ServiceFlags::ONE_PACKET, self.one_packet);
        if let Some(timeout) = self.persistence {
            let whole = timeout.subsec_nanos() == 0;
            if !whole || timeout.is_zero() || timeout > MAX_PERSISTENCE {
                return Err(invalid(Rule::PersistenceTimeout));
            }
            service.flags |= ServiceFlags::PERSISTENT;
            // At most 31 days.
            service.timeout = timeout.as_secs() as u32;
        }
        if let Some(bits) = self.netmask {
            if !persistent {
                return Err(invalid(Rule::NetmaskNeedsPersistence));
            }
            Netmask::prefix(key.family(), bits)
                .and_then(|netmask| service.set_netmask(netmask))
                .map_err(|_| invalid(Rule::Netmask))?;
        }
        if let Some(name) = &self.engine {
            if !persistent {
                return Err(invalid(Rule::EngineNeedsPersistence));
            }
            let engine = EngineName::new(name).map_err(|_| invalid(Rule::Name))?;
            if engine == EngineName::SIP && !may_be_udp {
                return Err(invalid(Rule::SipNeedsUdp));
            }
            service.engine = Some(engine);
        }

        let mut destinations: Vec<Destination> = Vec::with_capacity(self.real_servers.len());
        let mut keys = HashSet::with_capacity(self.real_servers.len());
        for real_server in &self.real_servers {
            let destination = real_server.destination(&key)?;
            if !keys.insert(destination.key) {
                let object = format!("real server {} of service {key}", destination.key);
                return Err(Invalid::new(object, Rule::Duplicate));
            }
            destinations.push(destination);
        }
        Ok(VirtualService { service, destinations })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(invalid.rule(), rule, "{invalid}");
        assert!(invalid.to_string().contains("service "), "{invalid}");
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
        refused(VirtualService::tcp("0.0.0.0:80".parse().unwrap()), Rule::AddressIsUnspecified);
        refused(VirtualService::tcp("[::]:80".parse().unwrap()), Rule::AddressIsUnspecified);
        refused(VirtualService::firewall_mark(0), Rule::MarkIsZero);
        refused(VirtualService::firewall_mark_ipv6(0), Rule::MarkIsZero);
        assert!(VirtualService::firewall_mark(u32::MAX).build().is_ok());
        refused(http().one_packet(), Rule::OnePacketNeedsUdp);
        assert!(dns().one_packet().build().is_ok());
        assert!(VirtualService::firewall_mark(1).one_packet().build().is_ok());
        refused(http().scheduler(""), Rule::Name);
        refused(http().scheduler("a-name-of-16-byt"), Rule::Name);
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
        let direct = RealServer::direct("2001:db8::3".parse().unwrap());
        refused(http().real_server(direct), Rule::FamilyNeedsTunnel);
        let tunnel = || RealServer::tunnel("2001:db8::3".parse().unwrap());
        assert!(http().real_server(tunnel()).build().is_ok());
        refused(http().real_server(tunnel().gue(0)), Rule::GuePort);
        assert!(http().real_server(tunnel().gue(6080)).build().is_ok());
        refused(http().real_server(nat("172.17.0.3:0")), Rule::RealServerPortZero);
        assert!(every_port().persistent().real_server(nat("172.17.0.3:0")).build().is_ok());
        refused(
            http().real_servers([nat("172.17.0.3:80"), nat("172.17.0.3:80").weight(2)]),
            Rule::Duplicate,
        );
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
