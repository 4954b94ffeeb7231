use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    process::Command,
};

use netlink_packet_route::{
    link::{InfoData, InfoVeth, LinkMessage},
    route::{RouteMessage, RouteScope},
};
use netns_link::{Address, ErrorKind, Link, Links, NetNs, Setting};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::runtime::Handle;

use crate::{
    error::Error,
    nginx::Nginx,
    process::{Process, run},
    server::Server,
};

/// Docker's name for the bridge.
const BRIDGE: &str = "docker0";

/// Docker's name for a container's only link.
const INSIDE: &str = "eth0";

/// The addresses of a topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// The bridge has 172.17.0.1/16, the outside is 192.168.50.0/24.
    Ipv4,
    /// The bridge has fd00:172:17::1/64, the outside is fd00:192:168:50::/64.
    Ipv6,
}

impl Family {
    /// The address with this number on the bridge: 172.17.0.NUMBER, fd00:172:17::NUMBER.
    pub fn on_bridge(self, number: u8) -> IpAddr {
        match self {
            Self::Ipv4 => Ipv4Addr::new(172, 17, 0, number).into(),
            Self::Ipv6 => Ipv6Addr::new(0xfd00, 0x172, 0x17, 0, 0, 0, 0, number.into()).into(),
        }
    }

    fn outside(self, number: u8) -> IpAddr {
        match self {
            Self::Ipv4 => Ipv4Addr::new(192, 168, 50, number).into(),
            Self::Ipv6 => Ipv6Addr::new(0xfd00, 0x192, 0x168, 0x50, 0, 0, 0, number.into()).into(),
        }
    }

    fn bridge_prefix_len(self) -> u8 {
        match self {
            Self::Ipv4 => 16,
            Self::Ipv6 => 64,
        }
    }

    fn outside_prefix_len(self) -> u8 {
        match self {
            Self::Ipv4 => 24,
            Self::Ipv6 => 64,
        }
    }
}

/// A host with docker's bridge, in its own namespace. It is the director of the walkthroughs.
#[derive(Debug)]
pub struct DockerHost {
    namespace: NetNs,
    family: Family,
    links: Links,
    bridge: Link,
    routes: rtnetlink::Handle,
}

impl DockerHost {
    /// Makes a host with its loopback link up and the bridge docker0, which has the address
    /// 172.17.0.1/16 (or fd00:172:17::1/64) and is up. The host does not forward, and bridged
    /// packets do not pass its netfilter, even if the machine has br_netfilter loaded.
    ///
    /// # Errors
    /// Without root, or if the kernel has no bridges.
    pub async fn new(family: Family) -> Result<Self, Error> {
        let (namespace, links) = new_namespace(family).await?;
        let routes = route_netlink(&namespace)?;
        add_link(&routes, "bridge docker0", LinkBridge::new(BRIDGE).build()).await?;
        let bridge = found(&links, BRIDGE).await?;
        let address = Address::new(family.on_bridge(1), family.bridge_prefix_len())?.nodad();
        links.add_address(&bridge, address).await?;
        let host = Self { namespace, family, links, bridge, routes };
        host.unfilter_bridge()?;
        Ok(host)
    }

    /// The host's namespace: for IPVS, and for the client "on the host".
    pub fn namespace(&self) -> &NetNs {
        &self.namespace
    }

    /// The host's links.
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// Its addresses.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The host's address on the bridge, which is the containers' gateway.
    pub fn address(&self) -> IpAddr {
        self.family.on_bridge(1)
    }

    /// Makes a container on the bridge, as `docker run` does. Its address is 172.17.0.NUMBER (2 to 254),
    /// its default route leads to the host.
    ///
    /// # Errors
    /// If the number is taken, and as [`DockerHost::new`].
    pub async fn container(&self, name: &str, number: u8) -> Result<Container, Error> {
        let veth = LinkMessageBuilder::<LinkVeth>::new(&format!("veth{number}"), INSIDE)
            .controller(self.bridge.index)
            .up();
        let address = Address::new(self.family.on_bridge(number), self.family.bridge_prefix_len())?;
        self.attach(name, veth, address, self.address()).await
    }

    /// Makes a client on another network, with this host as its gateway: 192.168.50.2.
    ///
    /// # Errors
    /// If there is one already, and as [`DockerHost::new`].
    pub async fn external_client(&self, name: &str) -> Result<Container, Error> {
        let veth = LinkMessageBuilder::<LinkVeth>::new("outside0", INSIDE).up();
        let prefix_len = self.family.outside_prefix_len();
        let address = Address::new(self.family.outside(2), prefix_len)?;
        let gateway = self.family.outside(1);
        let client = self.attach(name, veth, address, gateway).await?;
        let outside = found(&self.links, "outside0").await?;
        self.links.add_address(&outside, Address::new(gateway, prefix_len)?.nodad()).await?;
        Ok(client)
    }

    /// Lets the host forward packets, as docker does: `sysctl -w net.ipv4.ip_forward=1`.
    ///
    /// # Errors
    /// As [`Setting::write`].
    pub fn forward(&self) -> Result<(), Error> {
        let setting = match self.family {
            Family::Ipv4 => Setting::ip_forward(),
            Family::Ipv6 => Setting::ipv6_forwarding("all")?,
        };
        Ok(setting.write(&self.namespace, 1)?)
    }

    /// The command that is equivalent to [`forward`](Self::forward).
    pub fn forward_command(&self) -> &'static str {
        match self.family {
            Family::Ipv4 => "sysctl -w net.ipv4.ip_forward=1",
            Family::Ipv6 => "sysctl -w net.ipv6.conf.all.forwarding=1",
        }
    }

    /// Makes bridged packets pass the host's netfilter, and so IPVS, as docker does:
    /// `modprobe br_netfilter`, `sysctl -w net.bridge.bridge-nf-call-iptables=1`
    /// (`bridge-nf-call-ip6tables` for IPv6).
    ///
    /// Without it, a pod's answer to a client on the same bridge comes from the pod's own address,
    /// bypasses IPVS, and the client refuses it.
    ///
    /// # Errors
    /// If the module br_netfilter cannot be loaded.
    pub fn filter_bridge(&self) -> Result<(), Error> {
        let setting = self.bridge_filter()?;
        if setting.read(&self.namespace).is_err() {
            load_module("br_netfilter")?;
        }
        Ok(setting.write(&self.namespace, 1)?)
    }

    /// The commands that are equivalent to [`filter_bridge`](Self::filter_bridge).
    pub fn filter_bridge_command(&self) -> &'static str {
        match self.family {
            Family::Ipv4 => "modprobe br_netfilter; sysctl -w net.bridge.bridge-nf-call-iptables=1",
            Family::Ipv6 => {
                "modprobe br_netfilter; sysctl -w net.bridge.bridge-nf-call-ip6tables=1"
            }
        }
    }

    /// The opposite: `sysctl -w net.bridge.bridge-nf-call-iptables=0`, if br_netfilter is loaded.
    /// With direct routing, the pods' answers then do not count as outgoing packets of the
    /// service, as on a segment without a bridge on the host.
    ///
    /// # Errors
    /// As [`Setting::write`].
    pub fn unfilter_bridge(&self) -> Result<(), Error> {
        match self.bridge_filter()?.write(&self.namespace, 0) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => Ok(result?),
        }
    }

    fn bridge_filter(&self) -> Result<Setting, Error> {
        Ok(match self.family {
            Family::Ipv4 => Setting::new("net/bridge/bridge-nf-call-iptables")?,
            Family::Ipv6 => Setting::new("net/bridge/bridge-nf-call-ip6tables")?,
        })
    }

    async fn attach(
        &self,
        name: &str,
        veth: LinkMessageBuilder<LinkVeth>,
        address: Address,
        gateway: IpAddr,
    ) -> Result<Container, Error> {
        let (namespace, links) = new_namespace(self.family).await?;
        // The other end is made in the container, so it needs no free name on the host.
        let inside =
            LinkUnspec::new_with_name(INSIDE).setns_by_fd(namespace.as_fd().as_raw_fd()).build();
        let veth = veth.set_info_data(InfoData::Veth(InfoVeth::Peer(inside))).build();
        add_link(&self.routes, &format!("veth pair of {name}"), veth).await?;

        let link = found(&links, INSIDE).await?;
        links.add_address(&link, address.nodad()).await?;
        links.up(&link).await?;
        let routes = route_netlink(&namespace)?;
        let route = match gateway {
            IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new().gateway(ip).build(),
            IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new().gateway(ip).build(),
        };
        add_route(&routes, &format!("default route of {name}"), route).await?;
        let address = address.ip();
        Ok(Container { name: name.to_owned(), address, namespace, links, link, routes })
    }
}

/// A namespace with one link: a pod, or a client. It is deleted, with its link, when it is dropped and all
/// its processes have ended.
#[derive(Debug)]
pub struct Container {
    name: String,
    address: IpAddr,
    namespace: NetNs,
    links: Links,
    link: Link,
    routes: rtnetlink::Handle,
}

impl Container {
    /// The name, which its servers send.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Its namespace.
    pub fn namespace(&self) -> &NetNs {
        &self.namespace
    }

    /// Its links.
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// Finds a host on its own segment instead of sending to the gateway:
    /// `ip route add HOST dev eth0`.
    ///
    /// # Errors
    /// If there is such a route already.
    pub async fn reach_on_link(&self, host: IpAddr) -> Result<(), Error> {
        let index = self.link.index;
        let route = match host {
            IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(ip, 32)
                .scope(RouteScope::Link)
                .output_interface(index)
                .build(),
            IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(ip, 128)
                .output_interface(index)
                .build(),
        };
        add_route(&self.routes, &format!("route of {} to {host}", self.name), route).await
    }

    /// Sends to a host through the gateway even if it is on its own segment:
    /// `ip route add HOST via GATEWAY`.
    ///
    /// # Errors
    /// If there is such a route already, or the gateway cannot be one.
    pub async fn reach_through(&self, host: IpAddr, gateway: IpAddr) -> Result<(), Error> {
        let what = format!("route of {} to {host}", self.name);
        let route = match (host, gateway) {
            (IpAddr::V4(ip), IpAddr::V4(gateway)) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(ip, 32)
                .gateway(gateway)
                .build(),
            (IpAddr::V6(ip), IpAddr::V6(gateway)) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(ip, 128)
                .gateway(gateway)
                .build(),
            _ => return Err(Error::new(what, "the gateway is of another family")),
        };
        add_route(&self.routes, &what, route).await
    }

    /// Unpacks packets of IP in IP tunnels that end at its address, from any sender:
    /// `modprobe ipip`, `ip link set tunl0 up` (`ip6_tunnel` and `ip6tnl0` for IPv6).
    ///
    /// The tunnel's packets come from clients that are reached over eth0, so the check of
    /// IPv4 sources is switched off for it: `sysctl -w net.ipv4.conf.tunl0.rp_filter=0`, and for
    /// `all`, since the stricter of the two counts.
    ///
    /// # Errors
    /// If the module cannot be loaded.
    pub async fn open_tunnel(&self) -> Result<(), Error> {
        let (module, name) = self.tunnel();
        if self.links.find(name).await?.is_none() {
            // The module makes this link in every namespace.
            load_module(module)?;
        }
        if self.address.is_ipv4() {
            for interface in [name, "all"] {
                Setting::rp_filter(interface)?.write(&self.namespace, 0)?;
            }
        }
        Ok(self.links.up(&found(&self.links, name).await?).await?)
    }

    /// The commands that are equivalent to [`open_tunnel`](Self::open_tunnel).
    pub fn tunnel_command(&self) -> String {
        let (module, name) = self.tunnel();
        let checks = match self.address {
            IpAddr::V4(_) => {
                "; sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.tunl0.rp_filter=0"
            }
            IpAddr::V6(_) => "",
        };
        format!("modprobe {module}{checks}; ip link set {name} up")
    }

    /// Removes the UDP header of packets of generic UDP encapsulation to a port: `modprobe fou` (and `fou6`
    /// for IPv6), `ip fou add port PORT gue`. The inner packet goes to
    /// [`open_tunnel`](Self::open_tunnel)'s link.
    ///
    /// # Errors
    /// If a module cannot be loaded, or if `ip` is not installed.
    pub fn open_gue(&self, port: u16) -> Result<(), Error> {
        let (modules, words) = self.gue(port);
        modules.iter().try_for_each(|module| load_module(module))?;
        let words: Vec<&str> = words.split(' ').collect();
        run(&self.namespace, "iproute2", &words).map(drop)
    }

    /// The commands that are equivalent to [`open_gue`](Self::open_gue).
    pub fn gue_command(&self, port: u16) -> String {
        let (modules, words) = self.gue(port);
        format!("modprobe -a {}; {words}", modules.join(" "))
    }

    fn gue(&self, port: u16) -> (&'static [&'static str], String) {
        match self.address {
            IpAddr::V4(_) => (&["fou"], format!("ip fou add port {port} gue")),
            IpAddr::V6(_) => (&["fou", "fou6"], format!("ip -6 fou add port {port} gue")),
        }
    }

    /// The module, and the link that the module makes.
    fn tunnel(&self) -> (&'static str, &'static str) {
        match self.address {
            IpAddr::V4(_) => ("ipip", "tunl0"),
            IpAddr::V6(_) => ("ip6_tunnel", "ip6tnl0"),
        }
    }

    /// Serves a page that names the container, on a port of all its addresses; see
    /// [`page`](crate::page).
    ///
    /// # Errors
    /// If the port is taken.
    pub fn serve_http(&self, port: u16) -> Result<Server, Error> {
        Server::http(&self.namespace, self.everywhere(port), &self.name)
    }

    /// Answers each message on TCP connections to a port of all its addresses with
    /// `NAME: message`.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn serve_tcp(&self, port: u16) -> Result<Server, Error> {
        Server::tcp(&self.namespace, self.everywhere(port), &self.name)
    }

    /// Answers each datagram to one of its addresses with `NAME: datagram`. The answer comes from
    /// this address, so the container must have it (with direct routing, the virtual address).
    ///
    /// # Errors
    /// If the container does not have the address or the port is taken.
    pub fn serve_udp(&self, address: SocketAddr) -> Result<Server, Error> {
        Server::udp(&self.namespace, address, &self.name)
    }

    /// Serves the page of [`serve_http`](Container::serve_http) by a real nginx, and waits until
    /// nginx answers.
    ///
    /// # Errors
    /// If nginx is not installed or does not start.
    pub async fn serve_nginx(&self, port: u16) -> Result<Nginx, Error> {
        Nginx::start(self, port).await
    }

    /// Starts a process in the container that does nothing. Its PID names the container's
    /// namespace: /proc/PID/ns/net.
    ///
    /// # Errors
    /// If `cat` cannot be started.
    pub fn pause(&self) -> Result<Process, Error> {
        Process::pause(&self.namespace)
    }

    fn everywhere(&self, port: u16) -> SocketAddr {
        match self.address {
            IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
            IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
        }
    }
}

/// A namespace whose loopback link is up and whose links work as soon as they are up.
async fn new_namespace(family: Family) -> Result<(NetNs, Links), Error> {
    let namespace = NetNs::new()?;
    if family == Family::Ipv6 {
        // Otherwise the kernel first checks link-local addresses for duplicates, and finds no
        // neighbour for up to two seconds.
        Setting::new("net/ipv6/conf/default/accept_dad")?.write(&namespace, 0)?;
    }
    let links = Links::connect(&namespace)?;
    links.up(&found(&links, "lo").await?).await?;
    Ok((namespace, links))
}

async fn found(links: &Links, name: &str) -> Result<Link, Error> {
    links.find(name).await?.ok_or_else(|| Error::new(format_args!("find link {name}"), "gone"))
}

/// rtnetlink for what the crate netns-link lacks: bridges, pairs and routes.
fn route_netlink(namespace: &NetNs) -> Result<rtnetlink::Handle, Error> {
    let runtime = Handle::current();
    let (connection, handle, _) = namespace
        .run(|| {
            let _runtime = runtime.enter();
            rtnetlink::new_connection()
        })?
        .map_err(|error| Error::new("connect route netlink", error))?;
    runtime.spawn(connection);
    Ok(handle)
}

async fn add_link(routes: &rtnetlink::Handle, what: &str, link: LinkMessage) -> Result<(), Error> {
    let added = routes.link().add(link).execute().await;
    added.map_err(|error| Error::new(format_args!("create {what}"), error))
}

async fn add_route(
    routes: &rtnetlink::Handle,
    what: &str,
    route: RouteMessage,
) -> Result<(), Error> {
    let added = routes.route().add(route).execute().await;
    added.map_err(|error| Error::new(format_args!("add {what}"), error))
}

/// `modprobe NAME`, by the program that the kernel itself would call.
fn load_module(name: &str) -> Result<(), Error> {
    let step = format!("modprobe {name}");
    let failed =
        |error: String| Error::new(&step, format!("{error}; the topology needs this module"));
    let modprobe = fs::read_to_string("/proc/sys/kernel/modprobe")
        .map_err(|error| failed(error.to_string()))?;
    let output = Command::new(modprobe.trim_end())
        .arg(name)
        .output()
        .map_err(|error| failed(format!("{}: {error}", modprobe.trim_end())))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim_end().to_owned()))
}
