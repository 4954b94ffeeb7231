//! Real servers.

use std::net::{IpAddr, SocketAddr};

use ipvs_client::packet::{
    AddressFamily, Destination, DestinationKey, ForwardMethod, ServiceKey, Thresholds, Tunnel,
    TunnelFlags, TunnelType, Weight,
};

use crate::{
    Encapsulation, Rule, Violation,
    virtual_service::{is_reachable, zone},
};

/// A real server of a [`VirtualService`](crate::VirtualService): where it is, how packets reach it,
/// and its share of them.
///
/// ```
/// use lvs::RealServer;
///
/// let pod = RealServer::nat("172.17.0.3:80".parse()?).weight(3);
/// let neighbour = RealServer::direct("172.17.0.4".parse()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The settings of one that is part of a service are in
/// [`VirtualService::destinations`](crate::VirtualService::destinations).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RealServer {
    address: IpAddr,
    /// Of an IPv6 address, which must have none: 0.
    zone: u32,
    /// Where `None`, the service's port: direct routing and tunnelling leave ports as they are.
    port: Option<u16>,
    forward: ForwardMethod,
    weight: u32,
    upper: u32,
    lower: u32,
    encapsulation: Encapsulation,
}

impl RealServer {
    /// A real server behind network address translation: its address and port are written into the
    /// packets, and its replies must come back through the director. `ipvsadm -a -r … -m`.
    ///
    /// Port 0 means the port that the client connected to, where the service has more than one.
    pub fn nat(address: SocketAddr) -> Self {
        let server = Self::new(address.ip(), Some(address.port()), ForwardMethod::MASQUERADE);
        Self { zone: zone(address), ..server }
    }

    /// A real server that packets reach unchanged, at its link-layer address, and that replies to
    /// the client directly. `ipvsadm -a -r … -g`.
    ///
    /// It must be on a network of the director's, hold the service's address on a link that does
    /// not answer ARP for it, and serve the service's port.
    pub fn direct(address: IpAddr) -> Self {
        Self::new(address, None, ForwardMethod::DIRECT_ROUTE)
    }

    /// A real server that packets reach in a tunnel, IP in IP unless
    /// [`encapsulation`](Self::encapsulation) says otherwise, and that replies to the client
    /// directly. `ipvsadm -a -r … -i`.
    ///
    /// It must take the packets out of the tunnel, hold the service's address, and serve the
    /// service's port.
    ///
    /// The outer header takes 20 bytes of each packet (IP in IP over IPv4; GRE 24, GUE 32; 20 more
    /// over IPv6), so a client that fills its packets has to be told to make them shorter. The
    /// director does so by ICMP. Where a firewall drops that, uploads hang; `net.ipv4.vs.pmtu_disc`
    /// 0 (`Sysctl::PMTU_DISC`) then lets the packets be split instead.
    pub fn tunnel(address: IpAddr) -> Self {
        Self::new(address, None, ForwardMethod::TUNNEL)
    }

    const fn new(address: IpAddr, port: Option<u16>, forward: ForwardMethod) -> Self {
        Self {
            address,
            zone: 0,
            port,
            forward,
            weight: Weight::ONE.get(),
            upper: 0,
            lower: 0,
            encapsulation: Encapsulation::IPIP,
        }
    }

    /// Its share of the connections relative to the others', 0 to 2,147,483,647; 1 by default. 0
    /// gets no new connections and keeps those that it has. `ipvsadm -w`.
    ///
    /// But a client that a persistent service has sent there before keeps coming, unless
    /// `net.ipv4.vs.expire_quiescent_template` is 1 (`Sysctl::EXPIRE_QUIESCENT_TEMPLATE`), and so
    /// does one that sends UDP from the same port again.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// At `upper` connections it gets no new ones until there are fewer than `lower`; 0 is no limit
    /// for `upper`, the default, and three quarters of `upper` for `lower`. `ipvsadm -x -y`.
    #[must_use]
    pub fn thresholds(mut self, upper: u32, lower: u32) -> Self {
        self.upper = upper;
        self.lower = lower;
        self
    }

    /// How a [`tunnel`](Self::tunnel) wraps packets; IP in IP by default. `ipvsadm --tun-type`.
    #[must_use]
    pub fn encapsulation(mut self, encapsulation: Encapsulation) -> Self {
        self.encapsulation = encapsulation;
        self
    }

    /// Of a destination that was read without its service: port 0 is the service's.
    pub(crate) fn from_switches(destination: &Destination) -> Self {
        Self::with_port(destination, Some(destination.key.port).filter(|port| *port != 0))
    }

    /// With a destination's settings and this port, or the service's.
    pub(crate) fn with_port(destination: &Destination, port: Option<u16>) -> Self {
        Self { port, ..Self::from(destination) }
    }

    /// Where it is.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Its port; `None` for the service's, which direct routing and tunnelling leave as it is.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// What identifies it within a service: its address and port, the service's port where it has none of
    /// its own. It need not fit the service in other ways.
    ///
    /// ```
    /// use lvs::{RealServer, VirtualService};
    ///
    /// let web = VirtualService::tcp("10.0.0.185:80".parse()?).build()?;
    /// let neighbour = RealServer::direct("172.17.0.4".parse()?);
    /// assert_eq!(neighbour.key(web.key()).to_string(), "172.17.0.4:80");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn key(&self, service: &ServiceKey) -> DestinationKey {
        // Marked packets keep whatever port they were sent to.
        let port = self.port.or(service.port()).unwrap_or(0);
        DestinationKey { address: self.address, port }
    }

    /// The destination that it is for the kernel, if it fits the service.
    pub(crate) fn destination(
        &self,
        service: &ServiceKey,
        violations: &mut Vec<Violation>,
    ) -> Option<Destination> {
        let service_port = service.port();
        let key = self.key(service);
        let port = key.port;
        let before = violations.len();
        let mut violation = |rule, value: &dyn std::fmt::Display| {
            let object = format!("real server {key} of service {service}");
            violations.push(Violation::new(object, value, rule));
        };

        let Self { address, forward, .. } = *self;
        if self.zone != 0 {
            violation(Rule::Zone, &format_args!("zone %{}", self.zone));
        }
        if !is_reachable(address) {
            violation(Rule::RealServerAddress, &format_args!("address {address}"));
        }
        match forward {
            ForwardMethod::MASQUERADE
                if port == 0 && service_port.is_some_and(|port| port != 0) =>
            {
                violation(Rule::RealServerPortZero, &"port 0");
            }
            ForwardMethod::DIRECT_ROUTE | ForwardMethod::TUNNEL
                if service_port.is_some_and(|service_port| port != service_port) =>
            {
                violation(Rule::RealServerPort, &format_args!("port {port}"));
            }
            ForwardMethod::MASQUERADE | ForwardMethod::DIRECT_ROUTE | ForwardMethod::TUNNEL => {}
            other => violation(Rule::Forwarding, &format_args!("forwarding {other}")),
        }
        let tunnelled = forward == ForwardMethod::TUNNEL;
        if AddressFamily::of(address) != service.family() && !tunnelled {
            let family = AddressFamily::of(address);
            violation(
                Rule::FamilyNeedsTunnel,
                &format_args!("{family}, the service {}", service.family()),
            );
        }
        let weight = Weight::new(self.weight);
        if weight.is_err() {
            violation(Rule::Weight, &format_args!("weight {}", self.weight));
        }
        let thresholds = Thresholds::new(self.upper, self.lower);
        if thresholds.is_err() {
            let Self { upper, lower, .. } = self;
            violation(Rule::Thresholds, &format_args!("thresholds {upper} and {lower}"));
        }
        let encapsulation = self.encapsulation;
        if encapsulation != Encapsulation::IPIP && !tunnelled {
            violation(Rule::EncapsulationNeedsTunnel, &encapsulation);
        }
        let Encapsulation { kind, port: tunnel_port, flags } = encapsulation;
        if (kind == TunnelType::GUE) != (tunnel_port != 0) {
            violation(Rule::EncapsulationPort, &format_args!("{kind} port {tunnel_port}"));
        }
        let allowed = match kind {
            TunnelType::IPIP => TunnelFlags::empty(),
            TunnelType::GRE => TunnelFlags::CHECKSUM,
            _ => TunnelFlags::CHECKSUM | TunnelFlags::REMOTE_CHECKSUM,
        };
        if !allowed.contains(flags) {
            violation(
                Rule::EncapsulationChecksum,
                &format_args!("{encapsulation}, flags {flags:?}"),
            );
        }
        if kind > TunnelType::GRE {
            violation(Rule::Encapsulation, &format_args!("encapsulation {kind}"));
        }

        let tunnel = Tunnel::new(kind, tunnel_port, flags);
        let (true, Ok(weight), Ok(thresholds), Ok(tunnel)) =
            (violations.len() == before, weight, thresholds, tunnel)
        else {
            return None;
        };
        let mut destination = Destination::new(key);
        destination.forward = forward;
        destination.weight = weight;
        destination.thresholds = thresholds;
        destination.tunnel = tunnel;
        Some(destination)
    }
}

#[cfg(feature = "serde")]
impl RealServer {
    /// As a destination without a service, if a kernel takes the values.
    pub(crate) fn settings(&self) -> Result<Destination, ipvs_client::packet::InvalidValue> {
        let Encapsulation { kind, port, flags } = self.encapsulation;
        let key = DestinationKey { address: self.address, port: self.port.unwrap_or(0) };
        let mut destination = Destination::new(key);
        destination.forward = self.forward;
        destination.weight = Weight::new(self.weight)?;
        destination.thresholds = Thresholds::new(self.upper, self.lower)?;
        destination.tunnel = Tunnel::new(kind, port, flags)?;
        Ok(destination)
    }
}

/// The real server that a destination of the kernel's is; whether it makes sense is checked when a
/// service with it is built.
impl From<&Destination> for RealServer {
    fn from(destination: &Destination) -> Self {
        Self {
            address: destination.key.address,
            zone: 0,
            port: Some(destination.key.port),
            forward: destination.forward,
            weight: destination.weight.get(),
            upper: destination.thresholds.upper(),
            lower: destination.thresholds.lower(),
            encapsulation: destination.tunnel.into(),
        }
    }
}
