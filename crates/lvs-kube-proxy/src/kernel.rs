//! The node's kernel: links, routes, settings and the table of IPVS, as far as the proxy needs them.

mod routes;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
};

use ipnet::IpNet;
use lvs::{
    Applied, ApplyError, Plan,
    client::{
        Client, ErrorKind, ServiceSnapshot, Snapshot, Sysctl,
        packet::{ServiceKey, Timeouts},
    },
};
use netns_link::{Address, Link, Links, NetNs, Route, Setting};

use crate::settings::is_reachable;

/// The link of virtual addresses that no route covers. The name is kube-proxy's, by which Calico and
/// others know it.
pub const LINK: &str = "kube-ipvs0";
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

/// The addresses of a namespace, without link-local ones.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    /// Those of all links but the proxy's, without loopback.
    pub(crate) node: BTreeSet<IpAddr>,
    /// Those of the proxy's link.
    pub(crate) own: BTreeSet<IpAddr>,
}

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
    loopback: Option<Link>,
    /// The proxy's routes, as far as it knows.
    routes: BTreeMap<IpNet, Route>,
    /// What was asked for, and how often.
    asked: RefCell<BTreeMap<&'static str, u64>>,
}

impl<'n> Kernel<'n> {
    /// Opens the sockets. Changes nothing.
    pub(crate) async fn open(namespace: &'n NetNs) -> Result<Self, Failure> {
        let links = Links::connect(namespace).map_err(|error| Failure::new("links", error))?;
        let ipvs = Client::connect_in(namespace);
        let ipvs = ipvs.map_err(|error| Failure::new("ipvs", error))?;
        Ok(Self {
            namespace,
            links,
            ipvs,
            link: None,
            link_is_known: false,
            loopback: None,
            routes: BTreeMap::new(),
            asked: RefCell::default(),
        })
    }

    /// Makes the settings that IPVS for services needs, and returns those that were different.
    pub(crate) fn settle(&self, strict_arp: bool) -> Result<Vec<String>, Failure> {
        let failed = |error: &dyn fmt::Display| Failure::new("settings", error);
        let changes = self.ipvs.set_kube_proxy_sysctls().map_err(|error| failed(&error))?;
        let mut changed: Vec<String> = changes.iter().map(ToString::to_string).collect();
        let mut settings = vec![(Setting::ip_forward(), "1")];
        if strict_arp {
            let ignore = Setting::arp_ignore("all").map_err(|error| failed(&error))?;
            let announce = Setting::arp_announce("all").map_err(|error| failed(&error))?;
            settings.extend([(ignore, "1"), (announce, "2")]);
        }
        for (setting, value) in settings {
            let before = setting.read(self.namespace).map_err(|error| failed(&error))?;
            if before != value {
                setting.write(self.namespace, value).map_err(|error| failed(&error))?;
                changed.push(format!("{setting} {before} -> {value}"));
            }
        }
        Ok(changed)
    }

    /// Whether the node forwards IPv6. The proxy leaves that as it is, as kube-proxy does: a node that
    /// begins to forward loses the default route that a router has advertised to it.
    pub(crate) fn forwards_ipv6(&self) -> bool {
        let read = || Setting::ipv6_forwarding("all")?.read(self.namespace);
        read().is_ok_and(|value| value == "1")
    }

    /// Sets the time-outs of connections; 0 leaves one as it is.
    pub(crate) async fn set_timeouts(&self, timeouts: Timeouts) -> Result<(), Failure> {
        if timeouts == Timeouts::default() {
            return Ok(());
        }
        self.ipvs.set_timeouts(timeouts).await.map_err(|error| Failure::new("time-outs", error))
    }

    /// All addresses: those of the node, and those of the proxy's link.
    pub(crate) async fn addresses(&mut self) -> Result<Addresses, Failure> {
        let own = self.link().await?.map(|link| link.index);
        self.count("addresses");
        let all = self.links.all_addresses().await;
        let mut addresses = Addresses::default();
        for (link, found) in all.map_err(|error| Failure::new("addresses", error))? {
            let is_own = Some(link) == own;
            let set = if is_own { &mut addresses.own } else { &mut addresses.node };
            let found = found.iter().map(Address::ip);
            // An administrator's loopback address on our link is none of ours, but is one of it.
            set.extend(found.filter(|ip| is_reachable(ip) || (is_own && !is_link_local(ip))));
        }
        Ok(addresses)
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

    /// Adds addresses to the proxy's link, which is made if it is not there, and takes others away. All
    /// that are not named stay. What is refused does not hold up the others.
    pub(crate) async fn change_virtual_addresses<'a>(
        &mut self,
        added: impl IntoIterator<Item = &'a IpAddr>,
        removed: impl IntoIterator<Item = &'a IpAddr>,
    ) -> Result<(), Failure> {
        let failed = |error| Failure::new("addresses", error);
        let host = |ip: &IpAddr| Address::host(*ip).nodad();
        let added: Vec<_> = added.into_iter().map(host).collect();
        let removed: Vec<_> = removed.into_iter().map(host).collect();
        if added.is_empty() && removed.is_empty() {
            return Ok(());
        }
        let link = match self.link().await? {
            None if added.is_empty() => return Ok(()),
            None => {
                self.count("link changes");
                let made = self.links.create_dummy(LINK).await.map_err(failed)?;
                self.link.insert(made.link).clone()
            }
            Some(link) => link,
        };
        self.count("address changes");
        let changed = self.links.change_addresses(&link, &added, &removed).await;
        changed.map(drop).map_err(|error| Failure::new("addresses", error))
    }

    /// Deletes the proxy's link if it has no address left.
    pub(crate) async fn delete_empty_link(&mut self) -> Result<bool, Failure> {
        if self.link().await?.is_none() || !self.addresses().await?.own.is_empty() {
            return Ok(false);
        }
        self.count("link changes");
        let deleted = self.links.delete_dummy(LINK).await;
        self.link = None;
        deleted.map_err(|error| Failure::new("addresses", error))
    }

    /// Some services of the table, each read for itself: those that exist.
    pub(crate) async fn services(&self, keys: &BTreeSet<ServiceKey>) -> Result<Snapshot, Failure> {
        let failed = |error| Failure::new("ipvs", error);
        let mut services = Vec::with_capacity(keys.len());
        for key in keys {
            self.count("services");
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

    /// The whole table.
    pub(crate) async fn snapshot(&self) -> Result<Snapshot, Failure> {
        self.count("snapshots");
        self.ipvs.snapshot().await.map_err(|error| Failure::new("ipvs", error))
    }

    /// Carries a plan out.
    pub(crate) async fn apply(&self, plan: Plan) -> Result<Applied, ApplyError> {
        if !plan.is_empty() {
            self.count("batches");
        }
        plan.apply(&self.ipvs).await
    }

    /// Whether the kernel ends the connections to a real server that is taken away, and with them their
    /// entries in connection tracking: since 5.9, if `expire_nodest_conn` is 1.
    pub(crate) fn forgets_clients(&self) -> bool {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        is_since(&release, (5, 9)) && self.ipvs.sysctl(Sysctl::EXPIRE_NODEST_CONN).unwrap_or(false)
    }

    /// Counts something that the kernel is asked for, or a process.
    pub(crate) fn count(&self, request: &'static str) {
        *self.asked.borrow_mut().entry(request).or_default() += 1;
    }

    /// What was counted since the last time.
    pub(crate) fn take_counts(&self) -> BTreeMap<&'static str, u64> {
        self.asked.take()
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
            self.count("links");
            self.link =
                self.links.find(LINK).await.map_err(|error| Failure::new("links", error))?;
            self.link_is_known = true;
        }
        Ok(self.link.clone())
    }
}

/// Whether a kernel's release is this one or a later one.
fn is_since(release: &str, since: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= since,
        _ => false,
    }
}

fn is_link_local(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    #[test]
    fn releases_are_compared_by_number() {
        let is_since = |release| super::is_since(release, (5, 9));
        for release in ["5.9.0", "5.10.0-32-amd64", "6.1.0\n", "10.0"] {
            assert!(is_since(release), "{release}");
        }
        for release in ["5.8.18", "4.19.0-27-amd64", "", "nonsense", "5"] {
            assert!(!is_since(release), "{release}");
        }
    }
}
