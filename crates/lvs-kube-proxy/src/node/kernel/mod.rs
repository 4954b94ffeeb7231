//! The node's kernel: links, routes, settings, rules and the table of IPVS, as the proxy needs them.

mod around;
mod nfnetlink;
mod nft;
mod routes;
mod stay;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    path::PathBuf,
    sync::Arc,
};

use ipnet::IpNet;
use lvs::{
    Plan,
    client::{
        Client, Snapshot, Sysctl,
        packet::{Protocol, ServiceKey},
    },
    read_services,
};
use netns_link::{Address, Link, Links, NetNs, Setting};

use self::{nfnetlink::Nfnetlink, stay::Lock};
use super::{Addresses, Listening, NoRules, Node, Routes, StaleClients, Written};
use crate::{
    failure::{Failure, Step},
    health::{Health, Listener, Server},
    records::{LedgerFile, LedgerWrite},
    rules::{self, Element, RuleWrite},
    settings::is_reachable,
};

/// The link of virtual addresses that no route covers. The name is kube-proxy's, by which Calico and
/// others know it.
pub const LINK: &str = "kube-ipvs0";
/// Where the kernel would send from, to anywhere: nothing is sent there.
const ANYWHERE: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 9),
];

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
    /// Addresses that have one of the proxy's routes.
    routed: BTreeSet<IpNet>,
    /// For the rules; `None` if there are no nftables here.
    rules: Option<Nfnetlink>,
    /// For connection tracking, once it was needed.
    flows: Option<Nfnetlink>,
    ledger: LedgerFile,
    /// The state directory's file of what a clean-up has to know.
    remains: Option<PathBuf>,
    /// Held as long as this proxy is the only one.
    lock: Option<Lock>,
    /// The thread that answers over HTTP, once it is needed.
    server: Option<Server>,
    /// What was asked for, and how often.
    asked: BTreeMap<&'static str, u64>,
}

impl<'n> Kernel<'n> {
    /// Opens the sockets. Changes nothing.
    pub(crate) fn open(namespace: &'n NetNs) -> Result<Self, Failure> {
        let links = Links::connect(namespace).map_err(|error| Failure::new(Step::Links, error))?;
        let ipvs = Client::connect_in(namespace);
        let ipvs = ipvs.map_err(|error| Failure::new(Step::Table, error))?;
        Ok(Self {
            namespace,
            links,
            ipvs,
            link: None,
            link_is_known: false,
            loopback: None,
            routed: BTreeSet::new(),
            rules: None,
            flows: None,
            ledger: LedgerFile::default(),
            remains: None,
            lock: None,
            server: None,
            asked: BTreeMap::new(),
        })
    }

    /// Deletes the proxy's link if it has no address left.
    pub(crate) async fn delete_empty_link(&mut self) -> Result<bool, Failure> {
        if self.link().await?.is_none() || !self.addresses().await?.own.is_empty() {
            return Ok(false);
        }
        self.count("link changes");
        let deleted = self.links.delete_dummy(LINK).await;
        self.link = None;
        deleted.map_err(|error| Failure::new(Step::Addresses, error))
    }

    /// Whether the kernel ends the connections to a real server that is taken away, and with them their
    /// entries in connection tracking: since 5.9, if `expire_nodest_conn` is 1.
    pub(crate) fn forgets_clients(&self) -> bool {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        is_since(&release, (5, 9)) && self.ipvs.sysctl(Sysctl::EXPIRE_NODEST_CONN).unwrap_or(false)
    }

    fn count(&mut self, request: &'static str) {
        *self.asked.entry(request).or_default() += 1;
    }

    fn socket(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let listen = move || TcpListener::bind(address);
        self.namespace.run(listen).map_err(io::Error::from)?
    }

    fn serve(&mut self, place: Listening, health: &Arc<Health>) -> io::Result<Listener> {
        let socket = match place {
            Listening::Own { address, .. } => self.socket(address)?,
            Listening::Service { port } => {
                let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
                let ipv4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
                self.socket(both).or_else(|_| self.socket(ipv4))?
            }
        };
        let server = match &self.server {
            Some(server) => server,
            None => self.server.insert(Server::start()?),
        };
        match place {
            Listening::Own { with_metrics, .. } => server.own(socket, health.clone(), with_metrics),
            Listening::Service { .. } => server.of_service(socket, health.clone()),
        }
    }

    async fn link(&mut self) -> Result<Option<Link>, Failure> {
        if !self.link_is_known || self.link.is_some() {
            // Somebody may have deleted it and made it again.
            self.count("links");
            self.link =
                self.links.find(LINK).await.map_err(|error| Failure::new(Step::Links, error))?;
            self.link_is_known = true;
        }
        Ok(self.link.clone())
    }
}

impl Node for Kernel<'_> {
    type Listener = Listener;

    async fn addresses(&mut self) -> Result<Addresses, Failure> {
        let own = self.link().await?.map(|link| link.index);
        self.count("addresses");
        let all = self.links.all_addresses().await;
        let gateways = around::gateways(self.namespace);
        let mut addresses = Addresses { gateways, ..Addresses::default() };
        for (link, found) in all.map_err(|error| Failure::new(Step::Addresses, error))? {
            let is_own = Some(link) == own;
            addresses.broadcasts.extend(found.iter().flat_map(around::broadcasts));
            let set = if is_own { &mut addresses.own } else { &mut addresses.node };
            let found = found.iter().map(Address::ip);
            // An administrator's loopback address on our link was not added by us but is still on the link.
            set.extend(found.filter(|ip| is_reachable(ip) || (is_own && !is_link_local(ip))));
        }
        Ok(addresses)
    }

    fn listening(&mut self) -> BTreeSet<(Protocol, u16)> {
        around::listening(self.namespace)
    }

    async fn routes(&mut self) -> Result<Routes, Failure> {
        self.read_routes().await
    }

    /// Below a number each service is read by itself, those that exist.
    async fn table(
        &mut self,
        services: Option<&BTreeSet<ServiceKey>>,
    ) -> Result<Snapshot, Failure> {
        let failed = |error| Failure::new(Step::Table, error);
        let Some(keys) = services else {
            self.count("snapshots");
            return self.ipvs.snapshot().await.map_err(failed);
        };
        *self.asked.entry("services").or_default() += keys.len() as u64;
        read_services(&self.ipvs, keys).await.map_err(failed)
    }

    async fn rules(&mut self) -> Result<BTreeSet<Element>, Failure> {
        self.count("processes");
        let text = nft::list(self.namespace).map_err(|error| {
            Failure::new(Step::Rules, format!("list the rules of nftables: {error}"))
        })?;
        Ok(rules::listed(&text))
    }

    fn rules_generation(&mut self) -> Option<u32> {
        self.rules.as_mut()?.generation().ok()
    }

    /// What was found once is not looked for again: a write that fails says so.
    fn look_for_rules(&mut self) -> Result<(), NoRules> {
        if self.rules.is_none() {
            let kernel = nft::kernel(self.namespace)?;
            self.count("processes");
            nft::check(self.namespace)?;
            self.rules = Some(kernel);
        }
        Ok(())
    }

    fn source(&self, ipv4: bool) -> Option<IpAddr> {
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

    fn forwards_ipv6(&self) -> bool {
        let read = || Setting::ipv6_forwarding("all")?.read(self.namespace);
        read().is_ok_and(|value| value == "1")
    }

    async fn store(&mut self, write: &LedgerWrite) -> Result<(), Failure> {
        let failed = |error| {
            let what = "new services outside of the service ranges wait until it can be written";
            Failure::new(Step::Ledger, format!("{error}; {what}"))
        };
        self.ledger.store(write).map_err(failed)
    }

    async fn add_route(&mut self, range: IpNet, source: Option<IpAddr>) -> Result<(), Failure> {
        self.write_route(range, source).await
    }

    async fn remove_route(&mut self, range: IpNet) -> Result<(), Failure> {
        self.delete_route(range).await
    }

    async fn change_addresses(
        &mut self,
        added: &BTreeSet<IpAddr>,
        removed: &BTreeSet<IpAddr>,
    ) -> Result<(), Failure> {
        let failed = |error| Failure::new(Step::Addresses, error);
        let host = |ip: &IpAddr| Address::host(*ip).nodad();
        let added: Vec<_> = added.iter().map(host).collect();
        let removed: Vec<_> = removed.iter().map(host).collect();
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
        changed.map(drop).map_err(|error| Failure::new(Step::Addresses, error))
    }

    async fn remove_routes_of_kernel(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        new: &BTreeSet<IpAddr>,
    ) -> Result<(), Failure> {
        self.delete_routes_of_kernel(addresses, new).await
    }

    async fn write_rules(&mut self, write: RuleWrite<'_>) -> Result<(), Failure> {
        self.count("processes");
        nft::write(self.namespace, &write.to_string()).map_err(|error| {
            Failure::new(Step::Rules, format!("write the rules of nftables: {error}"))
        })
    }

    async fn write_table(&mut self, plan: Plan) -> Written {
        if !plan.is_empty() {
            self.count("batches");
        }
        Written::by(plan.apply(&self.ipvs).await)
    }

    async fn forget_clients(&mut self, stale: &StaleClients) -> Result<usize, Failure> {
        if self.forgets_clients() {
            return Ok(0);
        }
        let mut count = 0;
        for ipv4 in [true, false] {
            if !stale.0.keys().any(|place| place.is_ipv4() == ipv4) {
                continue;
            }
            let flows = match self.flows.take() {
                Some(flows) => Ok(flows),
                None => Nfnetlink::open(self.namespace),
            };
            let forgotten = flows.and_then(|mut flows| {
                let count =
                    flows.forget_udp(ipv4, |place, server| stale.contains(place, server))?;
                self.flows = Some(flows);
                Ok(count)
            });
            count += forgotten.map_err(|error| Failure::new(Step::Conntrack, error))?;
        }
        Ok(count)
    }

    fn take_confirmation(&mut self) -> bool {
        self.ledger.take_confirmation()
    }

    fn listen(&mut self, place: Listening, health: &Arc<Health>) -> Result<Listener, Failure> {
        self.serve(place, health).map_err(|error| Failure::new(Step::Listen, error))
    }

    fn take_counts(&mut self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.asked)
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
