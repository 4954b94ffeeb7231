//! Real servers.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
};

use ipvs_client::packet::{
    AddressFamily, Destination, DestinationKey, ForwardMethod, ServiceKey, Thresholds, Tunnel,
    TunnelFlags, Weight,
};

use crate::{Invalid, Rule};

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealServer {
    address: IpAddr,
    /// Where `None`, the service's port: direct routing and tunnelling leave ports as they are.
    port: Option<u16>,
    forward: ForwardMethod,
    weight: u32,
    upper: u32,
    lower: u32,
    tunnel: TunnelChoice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TunnelChoice {
    Ipip,
    Gue(u16),
    Gre,
}

impl RealServer {
    /// A real server behind network address translation: its address and port are written into the
    /// packets, and its replies must come back through the director. `ipvsadm -a -r … -m`.
    ///
    /// Port 0 means the port that the client connected to, where the service has more than one.
    pub fn nat(address: SocketAddr) -> Self {
        Self::new(address.ip(), Some(address.port()), ForwardMethod::MASQUERADE)
    }

    /// A real server that packets reach unchanged, at its link-layer address, and that replies to
    /// the client directly. `ipvsadm -a -r … -g`.
    ///
    /// It must be on a network of the director's, hold the service's address on a link that does
    /// not answer ARP for it, and serve the service's port.
    pub fn direct(address: IpAddr) -> Self {
        Self::new(address, None, ForwardMethod::DIRECT_ROUTE)
    }

    /// A real server that packets reach in a tunnel, IP in IP unless [`gue`](Self::gue) or
    /// [`gre`](Self::gre) say otherwise, and that replies to the client directly.
    /// `ipvsadm -a -r … -i`.
    ///
    /// It must take the packets out of the tunnel, hold the service's address, and serve the
    /// service's port.
    pub fn tunnel(address: IpAddr) -> Self {
        Self::new(address, None, ForwardMethod::TUNNEL)
    }

    const fn new(address: IpAddr, port: Option<u16>, forward: ForwardMethod) -> Self {
        Self {
            address,
            port,
            forward,
            weight: Weight::ONE.get(),
            upper: 0,
            lower: 0,
            tunnel: TunnelChoice::Ipip,
        }
    }

    /// Its share of the connections relative to the others', 0 to 2,147,483,647; 1 by default. 0
    /// gets no new connections and keeps those that it has. `ipvsadm -w`.
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

    /// Tunnels in UDP to this port of the real server (generic UDP encapsulation, since Linux 5.3).
    /// Without effect but for [`tunnel`](Self::tunnel). `ipvsadm --tun-type gue --tun-port`.
    #[must_use]
    pub fn gue(mut self, port: u16) -> Self {
        self.tunnel = TunnelChoice::Gue(port);
        self
    }

    /// Tunnels in generic routing encapsulation, since Linux 5.3. Without effect but for
    /// [`tunnel`](Self::tunnel). `ipvsadm --tun-type gre`.
    #[must_use]
    pub fn gre(mut self) -> Self {
        self.tunnel = TunnelChoice::Gre;
        self
    }

    /// The destination that it is for the kernel, if it fits the service.
    pub(crate) fn destination(&self, service: &ServiceKey) -> Result<Destination, Invalid> {
        let service_port = match service {
            ServiceKey::Address { port, .. } => *port,
            // Marked packets keep whatever port they were sent to.
            ServiceKey::Mark { .. } => 0,
        };
        let port = self.port.unwrap_or(service_port);
        let key = DestinationKey { address: self.address, port };
        let invalid =
            |rule| Invalid::new(format_args!("real server {key} of service {service}"), rule);

        if !is_unicast(self.address) {
            return Err(invalid(Rule::RealServerAddress));
        }
        if AddressFamily::of(self.address) != service.family()
            && self.forward != ForwardMethod::TUNNEL
        {
            return Err(invalid(Rule::FamilyNeedsTunnel));
        }
        if port == 0 && service_port != 0 {
            return Err(invalid(Rule::RealServerPortZero));
        }
        let mut destination = Destination::new(key);
        destination.forward = self.forward;
        destination.weight = Weight::new(self.weight).map_err(|_| invalid(Rule::Weight))?;
        destination.thresholds =
            Thresholds::new(self.upper, self.lower).map_err(|_| invalid(Rule::Thresholds))?;
        destination.tunnel = match self.tunnel {
            TunnelChoice::Ipip => Tunnel::IPIP,
            TunnelChoice::Gre => Tunnel::gre(TunnelFlags::empty()),
            TunnelChoice::Gue(port) => match NonZeroU16::new(port) {
                Some(port) => Tunnel::gue(port, TunnelFlags::empty()),
                None => return Err(invalid(Rule::GuePort)),
            },
        };
        Ok(destination)
    }
}

fn is_unicast(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    let mapped = matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
    !(address.is_unspecified() || address.is_multicast() || broadcast || mapped)
}
