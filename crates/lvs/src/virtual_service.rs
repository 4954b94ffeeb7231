//! Virtual services.

use std::{collections::HashSet, net::SocketAddr, num::NonZeroU32, time::Duration};

use ipvs_client::packet::{
    AddressFamily, Destination, EngineName, Netmask, Protocol, SchedulerName, Service,
    ServiceFlags, ServiceKey,
};

use crate::{Invalid, RealServer, Rule};

/// ipvsadm's persistence timeout where no number is said.
const PERSISTENCE: Duration = Duration::from_secs(300);
/// ipvsadm's longest.
const MAX_PERSISTENCE: Duration = Duration::from_secs(31 * 24 * 60 * 60);

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
    flags: ServiceFlags,
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
            flags: ServiceFlags::empty(),
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

    /// Flags of the scheduler, such as
    /// [`ServiceFlags::MH_PORT`](ipvs_client::packet::ServiceFlags::MH_PORT). `ipvsadm -b`.
    pub fn flags(mut self, flags: ServiceFlags) -> Self {
        self.flags |= flags;
        self
    }

    /// A client keeps its real server until it has had no connection for five minutes.
    /// `ipvsadm -p`.
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
        self.flags |= ServiceFlags::ONE_PACKET;
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
        if self.flags.contains(ServiceFlags::ONE_PACKET) && !may_be_udp {
            return Err(invalid(Rule::OnePacketNeedsUdp));
        }

        let mut service = Service::new(key);
        service.scheduler = SchedulerName::new(&self.scheduler).map_err(|_| invalid(Rule::Name))?;
        service.flags = self.flags - ServiceFlags::HASHED;
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
                let object = format_args!("real server {} of service {key}", destination.key);
                return Err(Invalid::new(object, Rule::Duplicate));
            }
            destinations.push(destination);
        }
        Ok(VirtualService { service, destinations })
    }
}
