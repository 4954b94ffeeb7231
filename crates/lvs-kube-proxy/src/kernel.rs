//! The node's kernel: links, routes, settings and the table of IPVS, as far as the proxy needs them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
};

use ipnet::IpNet;
use lvs::client::{
    Client, ErrorKind, ServiceSnapshot, Snapshot,
    packet::{ServiceKey, Timeouts},
};
use netns_link::{Address, Link, Links, NetNs, Route, RouteProtocol, Setting};

/// The link of virtual addresses that no route covers. The name is kube-proxy's, by which Calico and
/// others know it.
pub const LINK: &str = "kube-ipvs0";
/// By this number the proxy's routes are known from those of others.
const PROTOCOL: RouteProtocol = RouteProtocol::new(196);
/// Where the kernel would send from, to anywhere: nothing is sent there.
const ANYWHERE: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 9),
];

/// A step that failed, and why.
#[derive(Debug)]
pub struct Failure {
    pub(crate) step: &'static str,
    reason: String,
}

impl Failure {
    pub(crate) fn new(step: &'static str, reason: impl fmt::Display) -> Self {
        Self { step, reason: reason.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Failure {}

/// A network namespace with what the proxy reads and writes in it.
#[derive(Debug)]
pub(crate) struct Kernel<'n> {
    namespace: &'n NetNs,
    links: Links,
    pub(crate) ipvs: Client,
    /// The proxy's link, once it is needed.
    link: Option<Link>,
    /// Whether it was looked for.
    link_is_known: bool,
}

impl<'n> Kernel<'n> {
    /// Opens the sockets. Changes nothing.
    pub(crate) async fn open(namespace: &'n NetNs) -> Result<Self, Failure> {
        let links = Links::connect(namespace).map_err(|error| Failure::new("links", error))?;
        let ipvs = Client::connect_in(namespace);
        let ipvs = ipvs.map_err(|error| Failure::new("ipvs", error))?;
        Ok(Self { namespace, links, ipvs, link: None, link_is_known: false })
    }

    /// Makes the settings that IPVS for services needs, and returns those that were different.
    pub(crate) fn settle(&self, strict_arp: bool) -> Result<Vec<String>, Failure> {
        let failed = |error: &dyn fmt::Display| Failure::new("settings", error);
        let changes = self.ipvs.set_kube_proxy_sysctls().map_err(|error| failed(&error))?;
        let mut changed: Vec<String> = changes.iter().map(ToString::to_string).collect();
        let mut settings = vec![(Setting::ip_forward(), "1")];
        if let Ok(forwarding) = Setting::ipv6_forwarding("all") {
            settings.push((forwarding, "1"));
        }
        if strict_arp {
            let ignore = Setting::arp_ignore("all").map_err(|error| failed(&error))?;
            let announce = Setting::arp_announce("all").map_err(|error| failed(&error))?;
            settings.extend([(ignore, "1"), (announce, "2")]);
        }
        for (setting, value) in settings {
            let before = match setting.read(self.namespace) {
                Ok(before) => before,
                // A kernel without IPv6 has none of its settings.
                Err(error) if error.kind() == netns_link::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(&error)),
            };
            if before != value {
                setting.write(self.namespace, value).map_err(|error| failed(&error))?;
                changed.push(format!("{setting} {before} -> {value}"));
            }
        }
        Ok(changed)
    }

    /// Sets the time-outs of connections; 0 leaves one as it is.
    pub(crate) async fn set_timeouts(&self, timeouts: Timeouts) -> Result<(), Failure> {
        if timeouts == Timeouts::default() {
            return Ok(());
        }
        self.ipvs.set_timeouts(timeouts).await.map_err(|error| Failure::new("time-outs", error))
    }

    /// The addresses of all links but the proxy's own.
    pub(crate) async fn node_addresses(&mut self) -> Result<BTreeSet<IpAddr>, Failure> {
        let failed = |error| Failure::new("addresses", error);
        match self.link().await? {
            Some(link) => self.links.local_addresses_except(&link).await.map_err(failed),
            None => self.links.local_addresses().await.map_err(failed),
        }
    }

    /// The address from which the node reaches other networks, if it has a route to any.
    pub(crate) fn source(&self, ipv4: bool) -> Option<IpAddr> {
        let far = ANYWHERE[usize::from(!ipv4)];
        let near = SocketAddr::new(
            if ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() },
            0,
        );
        let look = move || {
            let socket = UdpSocket::bind(near)?;
            // Chooses a route and a source; sends nothing.
            socket.connect(far)?;
            socket.local_addr()
        };
        let found: io::Result<SocketAddr> = self.namespace.run(look).ok()?;
        found.ok().map(|address| address.ip()).filter(|address| !address.is_unspecified())
    }

    /// Makes each range local by one route, with the source for the node's own connections. Other
    /// routes of the proxy's are taken away. Returns what was changed.
    pub(crate) async fn set_routes(
        &self,
        ranges: &[(IpNet, Option<IpAddr>)],
    ) -> Result<Vec<String>, Failure> {
        let failed = |error| Failure::new("routes", error);
        let Some(loopback) = self.links.find("lo").await.map_err(failed)? else {
            return Err(Failure::new("routes", "the namespace has no link lo"));
        };
        let mut wanted = BTreeMap::new();
        for (range, source) in ranges {
            let prefix = range.trunc().to_string().parse().map_err(failed)?;
            let mut route = Route::local(prefix).with_protocol(PROTOCOL);
            if let Some(source) = source {
                route = route.with_source(*source);
            }
            wanted.insert(range.trunc(), route);
        }
        let mut changed = Vec::new();
        let present = self.links.routes(&loopback).await.map_err(failed)?;
        let ours: Vec<_> =
            present.into_iter().filter(|route| route.protocol() == PROTOCOL).collect();
        for route in wanted.values() {
            let is_there = ours
                .iter()
                .any(|found| (found.prefix(), found.source()) == (route.prefix(), route.source()));
            if !is_there {
                self.links.replace_route(&loopback, *route).await.map_err(failed)?;
                changed.push(format!("+ {route}"));
            }
        }
        for route in ours {
            if !wanted.values().any(|wanted| wanted.prefix() == route.prefix()) {
                self.links.delete_route(&loopback, route).await.map_err(failed)?;
                changed.push(format!("- {route}"));
            }
        }
        Ok(changed)
    }

    /// The addresses of the proxy's link.
    pub(crate) async fn virtual_addresses(&mut self) -> Result<BTreeSet<IpAddr>, Failure> {
        let failed = |error| Failure::new("addresses", error);
        let Some(link) = self.link().await? else { return Ok(BTreeSet::new()) };
        let addresses = self.links.addresses(&link).await.map_err(failed)?;
        let is_made = |ip: &IpAddr| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        Ok(addresses.iter().map(Address::ip).filter(is_made).collect())
    }

    /// Gives the proxy's link exactly these addresses. It is made if it is not there.
    pub(crate) async fn set_virtual_addresses(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<(), Failure> {
        let failed = |error| Failure::new("addresses", error);
        let link = match self.link().await? {
            None if addresses.is_empty() => return Ok(()),
            None => {
                let made = self.links.create_dummy(LINK).await.map_err(failed)?;
                self.link.insert(made.link).clone()
            }
            Some(link) => link,
        };
        let addresses: Vec<_> = addresses.iter().map(|ip| host(*ip)).collect();
        let changed = self.links.set_addresses(&link, &addresses).await;
        changed.map(drop).map_err(|error| Failure::new("addresses", error))
    }

    /// Adds one address to the proxy's link, or takes it away, without looking at the others.
    pub(crate) async fn change_virtual_address(
        &mut self,
        address: IpAddr,
        wanted: bool,
    ) -> Result<(), Failure> {
        let failed = |error| Failure::new("addresses", error);
        let Some(link) = self.link().await? else {
            return match wanted {
                true => self.set_virtual_addresses(&BTreeSet::from([address])).await,
                false => Ok(()),
            };
        };
        match wanted {
            true => self.links.add_address(&link, host(address)).await.map_err(failed)?,
            false => self.links.remove_address(&link, host(address)).await.map_err(failed)?,
        };
        Ok(())
    }

    /// Deletes the proxy's link if it has no address left.
    pub(crate) async fn delete_empty_link(&mut self) -> Result<bool, Failure> {
        if self.link().await?.is_none() || !self.virtual_addresses().await?.is_empty() {
            return Ok(false);
        }
        let deleted = self.links.delete_dummy(LINK).await;
        self.link = None;
        deleted.map_err(|error| Failure::new("addresses", error))
    }

    /// Some services of the table, each read for itself: those that exist.
    pub(crate) async fn services(&self, keys: &BTreeSet<ServiceKey>) -> Result<Snapshot, Failure> {
        let failed = |error| Failure::new("ipvs", error);
        let mut services = Vec::with_capacity(keys.len());
        for key in keys {
            match self.ipvs.service(key).await {
                Ok(entry) => match self.ipvs.destinations(key).await {
                    Ok(destinations) => services.push(ServiceSnapshot::new(entry, destinations)),
                    Err(error) if error.kind() == ErrorKind::ServiceNotFound => {}
                    Err(error) => return Err(failed(error)),
                },
                Err(error) if error.kind() == ErrorKind::ServiceNotFound => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(services.into_iter().collect())
    }

    /// The namespace.
    pub(crate) fn namespace(&self) -> &'n NetNs {
        self.namespace
    }

    /// A listening socket of the node's.
    pub(crate) fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let listen = move || TcpListener::bind(address);
        self.namespace.run(listen).map_err(io::Error::from)?
    }

    async fn link(&mut self) -> Result<Option<Link>, Failure> {
        if !self.link_is_known || self.link.is_some() {
            // Somebody may have deleted it and made it again.
            self.link =
                self.links.find(LINK).await.map_err(|error| Failure::new("links", error))?;
            self.link_is_known = true;
        }
        Ok(self.link.clone())
    }
}

fn host(address: IpAddr) -> Address {
    Address::host(address).nodad()
}
