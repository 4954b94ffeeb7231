//! Local routes: one for a whole range instead of an address for each virtual IP.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use kernel_tests::Outcome;
use libtest_mimic::{Failed, Trial};
use netns_link::{
    Address, ErrorKind, Link, NetNs, Prefix, Route, RouteProtocol, Setting, blocking::Links,
};

/// Every case by its name.
pub(crate) fn cases() -> Vec<Trial> {
    vec![
        Trial::test("netns_route_add_and_delete_twice", || {
            both(["10.1.2.3", "10.96.0.0/12", "10.97.0.0/16"], add_and_delete_twice)?;
            both(["fd00:1::3", "fd00:96::/64", "fd00:97::/64"], add_and_delete_twice)
        }),
        Trial::test("netns_route_of_a_range_has_the_node_s_source", || {
            both(["10.1.2.3", "10.96.0.0/12", "10.97.1.1"], range_has_the_node_s_source)?;
            both(["fd00:1::3", "fd00:96::/64", "fd00:96::9:1"], range_has_the_node_s_source)
        }),
        Trial::test("netns_route_of_a_vip_has_the_node_s_source", || {
            both(["10.1.2.3", "10.0.0.185/32", ""], vip_has_the_node_s_source)?;
            both(["fd00:1::3", "fd00::185/128", ""], vip_has_the_node_s_source)
        }),
        Trial::test("netns_route_errors", route_errors),
    ]
}

/// A node: its link is a dummy that is up, and its `lo` is up.
struct Node {
    namespace: NetNs,
    links: Links,
    lo: Link,
    uplink: Link,
    address: IpAddr,
}

fn both([address, second, third]: [&str; 3], case: fn(&Node, &str, &str) -> Outcome) -> Outcome {
    let node = Node::new(address.parse()?)?;
    case(&node, second, third)
}

impl Node {
    fn new(address: IpAddr) -> Result<Self, Failed> {
        let namespace = NetNs::new()?;
        let links = Links::connect(&namespace)?;
        let lo = links.find("lo")?.ok_or("no lo")?;
        let uplink = links.create_dummy("uplink0")?.link;
        links.up(&lo)?;
        links.up(&uplink)?;
        let prefix_len = if address.is_ipv4() { 24 } else { 64 };
        links.add_address(&uplink, Address::new(address, prefix_len)?.nodad())?;
        let node = Self { namespace, links, lo, uplink, address };
        node.route_of_kernel(&node.uplink, address)?;
        Ok(node)
    }

    /// The kernel's own route for an address. For IPv6 it appears a moment after the call that adds
    /// the address.
    fn route_of_kernel(&self, link: &Link, ip: IpAddr) -> Result<Route, Failed> {
        let limit = Instant::now() + Duration::from_secs(10);
        loop {
            let routes = self.links.routes(link)?;
            if let Some(route) = routes.into_iter().find(|route| route.prefix() == ip.into()) {
                return Ok(route);
            }
            assert!(Instant::now() < limit, "the kernel makes no route for {ip}");
        }
    }

    /// The source that the kernel chooses for connections to an address.
    fn source_to(&self, ip: IpAddr) -> Result<IpAddr, Failed> {
        Ok(self.namespace.run(|| -> std::io::Result<_> {
            let socket = UdpSocket::bind(SocketAddr::new(any(ip), 0))?;
            socket.connect((ip, 80))?;
            Ok(socket.local_addr()?.ip())
        })??)
    }
}

fn add_and_delete_twice(node: &Node, first: &str, second: &str) -> Outcome {
    let Node { links, lo, uplink, address, .. } = node;
    let route = Route::local(first.parse()?).with_source(*address);
    assert!(links.add_route(lo, route)?);
    assert!(!links.add_route(lo, route)?, "it is there");
    let mut own = links.routes(lo)?;
    own.retain(|route| route.protocol() != RouteProtocol::KERNEL);
    let metric = if address.is_ipv4() { 0 } else { 1024 };
    assert_eq!(own, [route.with_metric(metric)]);
    // The same prefix and metric with another source.
    let other = Route::local(first.parse()?);
    let error = links.add_route(lo, other).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    links.replace_route(lo, other)?;
    assert!(!links.routes(lo)?.contains(&route.with_metric(metric)));
    links.replace_route(lo, route)?;
    assert!(links.routes(lo)?.contains(&route.with_metric(metric)));

    // Another metric is another route, and so is another link.
    let second: Prefix = second.parse()?;
    let marked = Route::local(second).with_metric(7).with_protocol(RouteProtocol::new(77));
    assert!(links.add_route(uplink, marked)?);
    assert!(links.add_route(uplink, marked.with_metric(8))?);
    assert!(!links.routes(lo)?.contains(&marked));
    // A route that another program made is left alone.
    assert!(!links.delete_route(uplink, marked.with_protocol(RouteProtocol::STATIC))?);
    assert!(!links.delete_route(lo, marked)?);
    assert!(links.delete_route(uplink, marked)?);
    assert!(!links.delete_route(uplink, marked)?);
    assert!(links.routes(uplink)?.contains(&marked.with_metric(8)));
    // A listed route can be deleted.
    for route in links.routes(uplink)? {
        assert!(links.delete_route(uplink, route)?, "{route}");
    }
    assert_eq!(links.routes(uplink)?, []);
    assert!(links.delete_route(lo, route)?);
    assert!(!links.delete_route(lo, route)?);
    Ok(())
}

/// One route makes every address of the range local, and the node's address the source of
/// its connections, so that others can answer.
fn range_has_the_node_s_source(node: &Node, range: &str, vip: &str) -> Outcome {
    let Node { namespace, links, lo, address, .. } = node;
    let (range, vip): (Prefix, IpAddr) = (range.parse()?, vip.parse()?);
    assert!(range.contains(vip));
    links.add_route(lo, Route::local(range).with_source(*address))?;
    assert_eq!(node.source_to(vip)?, *address);
    // A connection, and its peer as the server sees it.
    // IPv6 allows no bind to an address that no link has.
    let listener = namespace.run(|| TcpListener::bind(SocketAddr::new(any(vip), 0)))??;
    let to = SocketAddr::new(vip, listener.local_addr()?.port());
    let mut stream =
        namespace.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)))??;
    let (mut accepted, peer) = listener.accept()?;
    assert_eq!(peer.ip(), *address);
    stream.write_all(b"hello")?;
    drop(stream);
    let mut text = String::new();
    accepted.read_to_string(&mut text)?;
    assert_eq!(text, "hello");
    // Without a server a connection is refused at once, not lost.
    drop((listener, accepted));
    let error =
        namespace.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)))?.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
    // Without a source, IPv4 uses the virtual IP and IPv6 chooses among the links' addresses.
    links.replace_route(lo, Route::local(range))?;
    assert_eq!(node.source_to(vip)?, if vip.is_ipv4() { vip } else { *address });
    Ok(())
}

/// For a virtual IP on a link the kernel makes a route, which IPv4 replaces and IPv6 does not.
fn vip_has_the_node_s_source(node: &Node, vip: &str, _: &str) -> Outcome {
    let Node { links, address, .. } = node;
    let vip: Address = vip.parse()?;
    let dummy = links.create_dummy("ipvs0")?.link;
    links.up(&dummy)?;
    links.add_address(&dummy, vip.nodad())?;
    assert_eq!(node.source_to(vip.ip())?, vip.ip());
    let made = node.route_of_kernel(&dummy, vip.ip())?;
    assert_eq!(made.protocol(), RouteProtocol::KERNEL);
    let route = Route::local(vip.ip().into()).with_source(*address);
    links.replace_route(&dummy, route)?;
    if vip.ip().is_ipv6() {
        assert_eq!(node.source_to(vip.ip())?, vip.ip(), "the kernel's own still wins");
        assert!(links.delete_route(&dummy, made)?);
    }
    assert_eq!(node.source_to(vip.ip())?, *address);
    Ok(())
}

fn route_errors() -> Outcome {
    let node = Node::new("10.1.2.3".parse()?)?;
    let Node { namespace, links, lo, uplink, .. } = &node;
    let range: Prefix = "10.96.0.0/12".parse()?;
    let stranger = Route::local(range).with_source("10.9.9.9".parse()?);
    let error = links.add_route(lo, stranger).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(error.to_string().contains("local 10.96.0.0/12 src 10.9.9.9"), "{error}");

    let v6 = Route::local("fd00::/64".parse()?);
    let dummy = links.create_dummy("down0")?.link;
    let error = links.add_route(&dummy, v6).unwrap_err();
    assert!(error.to_string().contains("the link is down"), "{error}");
    links.up(&dummy)?;
    Setting::new("net/ipv6/conf/down0/disable_ipv6")?.write(namespace, 1)?;
    let error = links.add_route(&dummy, v6).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Ipv6Disabled, "{error}");
    assert!(error.to_string().contains("net.ipv6.conf.down0.disable_ipv6"), "{error}");

    let route = Route::local(range);
    links.add_route(uplink, route)?;
    links.delete_dummy("uplink0")?;
    assert_eq!(links.routes(uplink)?, []);
    assert!(!links.delete_route(uplink, route)?);
    for error in [
        links.add_route(uplink, route).unwrap_err(),
        links.replace_route(uplink, route).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    Ok(())
}

fn any(ip: IpAddr) -> IpAddr {
    if ip.is_ipv4() { [0; 4].into() } else { [0; 16].into() }
}
