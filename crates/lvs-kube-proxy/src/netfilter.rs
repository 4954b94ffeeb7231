//! What IPVS cannot do by itself, as one table of nftables: source addresses that can be answered to,
//! and who may reach what.
//!
//! - A pod that reaches itself through its service gets the node's address as source. (On a bridge, its
//!   port needs hairpin mode, too.)
//! - Clients of node ports, external and load-balancer addresses with the policy `Cluster` get the
//!   node's address as source, so that endpoints of other nodes answer through this one. With
//!   `--masquerade-all` so do those of cluster addresses.
//! - A load balancer's addresses serve the service's source ranges only.
//! - At a service's addresses nothing but its ports is reached: not what else listens on the node.
//!
//! The decision is made in the postrouting hook by the connection's original destination, which is the
//! virtual service (`net.ipv4.vs.conntrack` is 1): no packet is marked.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    io::{self, Read as _, Write as _},
    net::IpAddr,
    process::{Child, Command, ExitStatus, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use lvs::client::packet::{AddressFamily, Protocol, ServiceKey};
use netns_link::NetNs;

use crate::{
    config::LinkName,
    nfnetlink::Nfnetlink,
    object::ObjectName,
    state::{State, Update},
    translate::{Target, TargetKind},
};

/// The protocols of services.
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];
/// The table's name.
const TABLE: &str = "inet lvs-kube-proxy";
/// How long nft may take. Tens of thousands of elements take seconds.
const NFT_LIMIT: Duration = Duration::from_secs(60);
/// From so many changed elements on, the whole table is written anew.
const MANY: usize = 4096;

/// What the rules are, besides what is in their sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    /// The service ranges that are local by a route.
    pub(crate) ranges: Vec<IpNet>,
    pub(crate) masquerade_all: bool,
    pub(crate) inside: Inside,
    /// What is left alone, whoever has it.
    pub(crate) excluded: Vec<IpNet>,
}

/// Which clients are pods, and so inside of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Inside {
    /// Those with an address of these networks; without any, it is not known.
    Networks(Vec<IpNet>),
    /// Those whose packets come in over this link, or over those whose names begin so.
    Link { name: LinkName, is_prefix: bool },
}

impl Default for Inside {
    fn default() -> Self {
        Self::Networks(Vec::new())
    }
}

impl Inside {
    /// What matches pods of a family, or what matches all others; `None` if it is not known.
    fn matches(&self, family: AddressFamily, is_inside: bool) -> Option<String> {
        let operator = if is_inside { "" } else { "!= " };
        match self {
            Self::Networks(networks) => {
                let networks = of_family(networks, family)?;
                Some(format!("{} saddr {operator}{{ {networks} }}", ip(family)))
            }
            Self::Link { name, is_prefix } => {
                let rest = if *is_prefix { "*" } else { "" };
                Some(format!("iifname {operator}\"{name}{rest}\""))
            }
        }
    }
}

/// The node's nftables, where there are any.
///
/// Which elements belong in which set is kept up to date one service at a time, so that a change
/// writes what has changed. The kernel counts changes of rules: if others have made some, the next
/// full run writes everything anew, whatever they were.
#[derive(Debug)]
pub(crate) struct Netfilter {
    /// `None` if there are no nftables here.
    socket: Option<Nfnetlink>,
    rules: Rules,
    elements: Elements,
    /// The rules' generation after the last write that succeeded.
    written: Option<u32>,
    /// Whether the last write failed.
    has_failed: bool,
}

impl Netfilter {
    /// Looks for nftables: the kernel's, and the program `nft`. Says what does not work without.
    pub(crate) fn open(namespace: &NetNs, rules: Rules) -> Self {
        let empty = ruleset(&rules, &Elements::default());
        let socket = look(namespace, &empty).inspect_err(|reason| {
            tracing::warn!(
                "nftables cannot be used ({reason}), so these do not work: clients outside of the \
                 cluster reach endpoints of other nodes, pods reach themselves through their service, \
                 source ranges of load balancers, and shielding what listens on the node from service \
                 addresses"
            );
        });
        let socket = socket.ok();
        Self { socket, rules, elements: Elements::default(), written: None, has_failed: false }
    }

    pub(crate) fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// Other pods, as the Node says.
    pub(crate) fn set_inside(&mut self, inside: Inside) {
        if self.rules.inside != inside {
            self.rules.inside = inside;
            self.written = None;
        }
    }

    /// Takes in what has changed. Nothing is written yet.
    pub(crate) fn take_in(&mut self, state: &State, update: &Update) {
        if self.is_there() {
            self.elements.take_in(state, update, &self.rules);
        }
    }

    /// Takes in that the services are gone that nobody wants any more: before, what is for them stays, so
    /// that nobody is let in who was not, and none is shut out while deletions are held back.
    pub(crate) fn take_away(&mut self) {
        self.elements.take_away();
    }

    /// Writes what has changed. A full run also notices what others have done.
    ///
    /// After a failure everything is written anew.
    pub(crate) fn write(&mut self, namespace: &NetNs, is_full: bool) -> Result<bool, String> {
        let Some(socket) = &mut self.socket else { return Ok(false) };
        if is_full && self.written.is_some() && socket.generation().ok() != self.written {
            tracing::info!("somebody has changed rules of nftables: ours are written anew");
            self.written = None;
        }
        let text = match self.written {
            Some(_) if self.elements.changed.is_empty() => return Ok(false),
            Some(_) if self.elements.changed.len() < MANY => self.elements.changes(),
            _ => ruleset(&self.rules, &self.elements),
        };
        let before = socket.generation().ok();
        // What others have changed before a change of elements is still to be found.
        let is_known = self.written.is_none() || self.written == before;
        if let Err(error) = nft(namespace, &[], &text) {
            self.written = None;
            self.has_failed = true;
            return Err(format!("write the rules of nftables: {error}"));
        }
        self.has_failed = false;
        self.elements.changed.clear();
        // One step more is ours. If others have written meanwhile, everything is written once more.
        let after = socket.generation().ok();
        let is_ours = |after: &u32| is_known && before.map(|it| it.wrapping_add(1)) == Some(*after);
        self.written = after.filter(is_ours);
        Ok(true)
    }

    /// Whether the kernel may lack rules.
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Takes the table away.
    pub(crate) fn remove(namespace: &NetNs) -> io::Result<()> {
        nft(namespace, &[], &format!("table {TABLE}\ndelete table {TABLE}\n"))
    }
}

/// What is in the sets.
#[derive(Debug, Default)]
struct Elements {
    /// How often each is wanted.
    wanted: BTreeMap<Element, usize>,
    of_targets: BTreeMap<ServiceKey, Vec<Element>>,
    of_services: BTreeMap<ObjectName, Vec<Element>>,
    /// What is wanted only until the services are gone that it is for.
    gone: Vec<Element>,
    /// Those services.
    gone_keys: BTreeSet<ServiceKey>,
    /// Those that the kernel may not have although they are wanted, or the other way round.
    changed: BTreeSet<Element>,
}

/// An element of a set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Element {
    set: Set,
    family: AddressFamily,
    text: String,
}

/// One for each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Set {
    /// Endpoints here, each with itself.
    Hairpin,
    /// Where clients get the node's address. One for each protocol: in a concatenation the protocol's
    /// port has no type.
    Masquerade(&'static str),
    /// Cluster addresses, where clients that are no pods get the node's address.
    Cluster(&'static str),
    /// What serves some clients only.
    Restricted,
    /// Those clients. One for each protocol: some kernels (Debian's 6.12.118) take no protocol in a
    /// concatenation with intervals.
    Allowed(&'static str),
    /// What may be reached at the addresses.
    Services,
    /// The addresses that are local for the sake of services.
    Addresses,
    /// By which mark clients inside of the cluster reach endpoints of other nodes. This is a map.
    Inside,
}

impl Set {
    const ALL: [Self; 14] = [
        Self::Hairpin,
        Self::Masquerade(PROTOCOLS[0]),
        Self::Masquerade(PROTOCOLS[1]),
        Self::Masquerade(PROTOCOLS[2]),
        Self::Cluster(PROTOCOLS[0]),
        Self::Cluster(PROTOCOLS[1]),
        Self::Cluster(PROTOCOLS[2]),
        Self::Restricted,
        Self::Allowed(PROTOCOLS[0]),
        Self::Allowed(PROTOCOLS[1]),
        Self::Allowed(PROTOCOLS[2]),
        Self::Services,
        Self::Addresses,
        Self::Inside,
    ];

    /// Its name in one family.
    fn name(self, family: AddressFamily) -> String {
        let ip = ip(family);
        match self {
            Self::Hairpin => format!("hairpin-{ip}"),
            Self::Masquerade(protocol) => format!("masquerade-{ip}-{protocol}"),
            Self::Cluster(protocol) => format!("cluster-{ip}-{protocol}"),
            Self::Restricted => format!("restricted-{ip}"),
            Self::Allowed(protocol) => format!("allowed-{ip}-{protocol}"),
            Self::Services => format!("services-{ip}"),
            Self::Addresses => format!("addresses-{ip}"),
            Self::Inside => format!("inside-{ip}"),
        }
    }

    fn definition(self, family: AddressFamily) -> String {
        let address = if family == AddressFamily::Ipv4 { "ipv4_addr" } else { "ipv6_addr" };
        let place = format!("{address} . inet_proto . inet_service");
        let name = self.name(family);
        match self {
            Self::Hairpin => format!("set {name} {{ type {address} . {address};"),
            Self::Masquerade(_) | Self::Cluster(_) => {
                format!("set {name} {{ type {address} . inet_service;")
            }
            Self::Restricted | Self::Services => format!("set {name} {{ type {place};"),
            Self::Allowed(_) => {
                format!("set {name} {{ type {address} . inet_service . {address}; flags interval;")
            }
            Self::Addresses => format!("set {name} {{ type {address}; flags interval;"),
            Self::Inside => format!("map {name} {{ type {place} : mark;"),
        }
    }
}

impl Elements {
    fn take_in(&mut self, state: &State, update: &Update, rules: &Rules) {
        for key in &update.keys {
            let Some((_, target)) = state.target(key) else {
                self.gone_keys.insert(*key);
                continue;
            };
            self.gone_keys.remove(key);
            let elements = self.want(of_target(target, state, rules));
            let before = self.of_targets.insert(*key, elements);
            self.unwant(before.into_iter().flatten());
        }
        for name in &update.services {
            let translation = state.translation(name);
            let endpoints = translation.into_iter().flat_map(|found| &found.local_endpoints);
            let elements: BTreeSet<_> = endpoints
                .map(|(_, endpoint)| {
                    let (ip, family) = (endpoint.ip(), family_of(&endpoint.ip()));
                    Element { set: Set::Hairpin, family, text: format!("{ip} . {ip}") }
                })
                .collect();
            let before = match elements.is_empty() {
                true => self.of_services.remove(name),
                false => {
                    let elements = self.want(elements.into_iter().collect());
                    self.of_services.insert(name.clone(), elements)
                }
            };
            self.gone.extend(before.into_iter().flatten());
        }
    }

    fn take_away(&mut self) {
        for key in std::mem::take(&mut self.gone_keys) {
            self.gone.extend(self.of_targets.remove(&key).into_iter().flatten());
        }
        let gone = std::mem::take(&mut self.gone);
        self.unwant(gone);
    }

    fn want(&mut self, elements: Vec<Element>) -> Vec<Element> {
        for element in &elements {
            let count = self.wanted.entry(element.clone()).or_default();
            *count += 1;
            if *count == 1 {
                self.toggle(element);
            }
        }
        elements
    }

    fn unwant(&mut self, elements: impl IntoIterator<Item = Element>) {
        for element in elements {
            let Some(count) = self.wanted.get_mut(&element) else { continue };
            *count -= 1;
            if *count == 0 {
                self.wanted.remove(&element);
                self.toggle(&element);
            }
        }
    }

    fn toggle(&mut self, element: &Element) {
        if !self.changed.remove(element) {
            self.changed.insert(element.clone());
        }
    }

    /// What takes the sets from what was written to what is wanted.
    fn changes(&self) -> String {
        let mut text = String::new();
        // What goes comes first: of a map and of intervals, both cannot be there.
        for (verb, is_wanted) in [("delete", false), ("add", true)] {
            let of_kind = |element: &&Element| self.wanted.contains_key(*element) == is_wanted;
            for element in self.changed.iter().filter(of_kind) {
                let name = element.set.name(element.family);
                let element = &element.text;
                let _ = writeln!(text, "{verb} element {TABLE} {name} {{ {element} }}");
            }
        }
        text
    }

    fn of_set(&self, set: Set, family: AddressFamily) -> impl Iterator<Item = &str> {
        let first = Element { set, family, text: String::new() };
        let elements = self.wanted.range(first..).map(|(element, _)| element);
        elements
            .take_while(move |element| (element.set, element.family) == (set, family))
            .map(|element| element.text.as_str())
    }
}

/// What a virtual service needs in the sets.
fn of_target(target: &Target, state: &State, rules: &Rules) -> Vec<Element> {
    let mut elements = Vec::new();
    let (key, mark) = match (target.key(), &target.stands_for) {
        (ServiceKey::Mark { mark, .. }, Some(key)) => (key, Some(mark.get())),
        (key, _) => (key, None),
    };
    let ServiceKey::Address { protocol, address, port } = *key else { return elements };
    let (family, Some(protocol)) = (family_of(&address), protocol_name(protocol)) else {
        return elements;
    };
    let mut add = |set: Set, text: String| elements.push(Element { set, family, text });
    let place = format!("{address} . {protocol} . {port}");
    if let Some(mark) = mark {
        add(Set::Inside, format!("{place} : {mark:#x}"));
        return elements;
    }
    match target.kind {
        TargetKind::ClusterIp => add(Set::Cluster(protocol), format!("{address} . {port}")),
        _ if target.local && !rules.masquerade_all => {}
        _ => add(Set::Masquerade(protocol), format!("{address} . {port}")),
    }
    if let Some(sources) = &target.source_ranges {
        add(Set::Restricted, place.clone());
        for source in sources {
            add(Set::Allowed(protocol), format!("{address} . {port} . {source}"));
        }
    }
    if target.address().is_some() {
        add(Set::Services, place);
        let is_in_range = rules.ranges.iter().any(|range| range.contains(&address));
        if !is_in_range && state.wants_address(&address) {
            add(Set::Addresses, address.to_string());
        }
    }
    elements
}

/// The whole table, in the language of `nft -f`: it takes the place of the one that is there, in one
/// step.
fn ruleset(rules: &Rules, elements: &Elements) -> String {
    let mut text = format!("table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n");
    let families = [AddressFamily::Ipv4, AddressFamily::Ipv6];
    for family in families {
        for set in Set::ALL {
            write_set(&mut text, set, family, rules, elements);
        }
    }
    // After what others mark there; the kernel picks the service by the whole mark.
    text += "    chain prerouting {\n        type filter hook prerouting priority mangle + 10\n";
    for family in families {
        let ip = ip(family);
        if let Some(pods) = rules.inside.matches(family, true) {
            let _ = writeln!(
                text,
                "        {pods} meta mark set {ip} daddr . meta l4proto . th dport \
                 map @inside-{ip}"
            );
        }
    }
    text += "    }\n    chain output {\n        type filter hook output priority mangle + 10\n";
    for family in families {
        let ip = ip(family);
        let _ = writeln!(
            text,
            "        meta mark set {ip} daddr . meta l4proto . th dport map @inside-{ip}"
        );
    }
    // The node's own clients come by here only.
    text += &restrictions();
    text += "    }\n    chain postrouting {\n        type nat hook postrouting priority srcnat\n";
    for family in families {
        let ip = ip(family);
        let _ = writeln!(text, "        {ip} saddr . {ip} daddr @hairpin-{ip} masquerade");
        // The node's own connections to an address that is local for the sake of a service: the kernel
        // takes that address for their source, too.
        let _ =
            writeln!(text, "        {ip} saddr @addresses-{ip} fib saddr type local masquerade");
        // Who is masqueraded at cluster addresses.
        let clients = match rules.masquerade_all {
            true => Some(String::new()),
            false => rules.inside.matches(family, false).map(|clients| clients + " "),
        };
        for protocol in PROTOCOLS {
            let place = format!("ct original {ip} daddr . ct original proto-dst");
            let _ = writeln!(
                text,
                "        meta l4proto {protocol} {place} @masquerade-{ip}-{protocol} masquerade"
            );
            if let Some(clients) = &clients {
                let _ = writeln!(
                    text,
                    "        meta l4proto {protocol} {clients}{place} @cluster-{ip}-{protocol} \
                     masquerade"
                );
            }
        }
    }
    text += "    }\n    chain input {\n        type filter hook input priority filter\n";
    text += &restrictions();
    for family in families {
        let ip = ip(family);
        let others = match of_family(&rules.excluded, family) {
            None => String::new(),
            Some(excluded) => format!("{ip} daddr != {{ {excluded} }} "),
        };
        let _ = writeln!(
            text,
            "        meta l4proto {{ tcp, udp, sctp }} ct state new {others}{ip} daddr @addresses-{ip} \
             {ip} daddr . meta l4proto . th dport != @services-{ip} reject",
        );
    }
    text += "    }\n}\n";
    text
}

/// What lets only some clients in where only some are served.
fn restrictions() -> String {
    let mut text = String::new();
    for family in [AddressFamily::Ipv4, AddressFamily::Ipv6] {
        let ip = ip(family);
        for protocol in PROTOCOLS {
            let _ = writeln!(
                text,
                "        meta l4proto {protocol} {ip} daddr . meta l4proto . th dport @restricted-{ip} \
                 {ip} daddr . th dport . {ip} saddr != @allowed-{ip}-{protocol} drop",
            );
        }
    }
    text
}

fn write_set(
    text: &mut String,
    set: Set,
    family: AddressFamily,
    rules: &Rules,
    elements: &Elements,
) {
    let ranges: Vec<_> = match set {
        Set::Addresses => rules.ranges.iter().map(|range| range.trunc().to_string()).collect(),
        _ => Vec::new(),
    };
    let is_fit = |range: &&String| range.contains(':') == (family == AddressFamily::Ipv6);
    let ranges = ranges.iter().filter(is_fit).map(String::as_str);
    let mut all = ranges.chain(elements.of_set(set, family)).peekable();
    let _ = write!(text, "    {}", set.definition(family));
    if all.peek().is_some() {
        text.push_str(" elements = {\n");
        for element in all {
            let _ = writeln!(text, "        {element},");
        }
        text.push_str("    }");
    }
    text.push_str(" }\n");
}

/// The networks of one family as the elements of a set, if there are any.
fn of_family(networks: &[IpNet], family: AddressFamily) -> Option<String> {
    let fit = networks.iter().filter(|network| family_of(&network.addr()) == family);
    // Without overlaps, which sets do not take.
    let fit = IpNet::aggregate(&fit.map(IpNet::trunc).collect());
    let fit: Vec<_> = fit.iter().map(ToString::to_string).collect();
    (!fit.is_empty()).then(|| fit.join(", "))
}

fn family_of(address: &IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Ipv4 } else { AddressFamily::Ipv6 }
}

/// The family in the language of nft.
fn ip(family: AddressFamily) -> &'static str {
    if family == AddressFamily::Ipv4 { "ip" } else { "ip6" }
}

fn protocol_name(protocol: Protocol) -> Option<&'static str> {
    match protocol {
        Protocol::TCP => Some(PROTOCOLS[0]),
        Protocol::UDP => Some(PROTOCOLS[1]),
        Protocol::SCTP => Some(PROTOCOLS[2]),
        _ => None,
    }
}

/// A socket to the kernel's nftables, if these and the program are there and take such rules.
fn look(namespace: &NetNs, rules: &str) -> Result<Nfnetlink, String> {
    let failed = |error: &dyn fmt::Display| format!("the kernel: {error}");
    let mut socket = Nfnetlink::open(namespace).map_err(|error| failed(&error))?;
    socket.generation().map_err(|error| failed(&error))?;
    // One kernel and one program for all namespaces.
    static CHECKED: OnceLock<Result<(), String>> = OnceLock::new();
    let check = || nft(namespace, &["--check"], rules).map_err(|error| error.to_string());
    CHECKED.get_or_init(check).clone().map(|()| socket)
}

fn nft(namespace: &NetNs, switches: &[&str], text: &str) -> io::Result<()> {
    let mut command = Command::new("nft");
    command
        .args(switches)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = namespace.spawn(&mut command).map_err(io::Error::from)?;
    let (input, errors) = (child.stdin.take(), child.stderr.take());
    thread::scope(|scope| {
        scope.spawn(move || {
            // nft that ends before it has read all says why itself.
            let _ = input.map(|mut input| input.write_all(text.as_bytes()));
        });
        let said = scope.spawn(move || {
            let mut said = Vec::new();
            let _ = errors.map(|mut errors| errors.read_to_end(&mut said));
            said
        });
        let status = end(&mut child, NFT_LIMIT)?;
        let said = said.join().unwrap_or_default();
        let Some(status) = status else {
            let reason = format!("nft did not end within {} s", NFT_LIMIT.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
        };
        if status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&said);
        let first = said.lines().next().unwrap_or("it says nothing");
        Err(io::Error::other(format!("nft: {status}: {first}")))
    })
}

/// Waits until a process has ended; one that does not in time is killed, and `None` returned.
fn end(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begin.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Event, Settings, ThisNode,
        manifest::{self, Object},
    };

    #[test]
    fn a_process_that_does_not_end_is_ended() {
        let spawn = |seconds: &str| Command::new("sleep").arg(seconds).spawn().unwrap();
        let begin = Instant::now();
        assert!(end(&mut spawn("0"), Duration::from_secs(20)).unwrap().unwrap().success());
        assert_eq!(end(&mut spawn("60"), Duration::from_millis(50)).unwrap(), None);
        assert!(begin.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn what_is_masqueraded_and_who_is_let_in() {
        let node = ThisNode {
            name: "node-a".to_owned(),
            addresses: ["192.0.2.11".parse().unwrap()].into(),
            ..ThisNode::default()
        };
        let mut state = State::new(node, Settings::default());
        let text = "
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  clusterIP: 10.96.7.20
  ports: [{port: 80, nodePort: 31080}]
  loadBalancerSourceRanges: [198.51.100.0/24]
status: {loadBalancer: {ingress: [{ip: 203.0.113.50}]}}
---
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: '', port: 8080}]
endpoints: [{addresses: [10.42.1.5], nodeName: node-a}, {addresses: [10.42.2.6], nodeName: node-b}]
";
        for object in manifest::parse(text).unwrap() {
            state.apply(match object {
                Object::Service(service) => Event::Service(service),
                Object::Slice(slice) => Event::Slice(slice),
                Object::Node(node) => Event::Node(node),
            });
        }
        let rules = |ranges: &[IpNet], masquerade_all| Rules {
            ranges: ranges.to_vec(),
            masquerade_all,
            inside: Inside::Networks(vec!["10.42.0.0/16".parse().unwrap()]),
            excluded: vec!["10.96.9.0/24".parse().unwrap(), "10.96.9.128/25".parse().unwrap()],
        };
        let update = state.update();
        let mut elements = Elements::default();
        elements.take_in(&state, &update, &rules(&[], false));
        let set = |ruleset: &str, name: &str| {
            let from = ruleset.find(&format!("set {name} ")).unwrap();
            let set = &ruleset[from..];
            let lines = set[..set.find("\n    set ").unwrap_or(set.find("chain").unwrap())].lines();
            let elements = lines.filter_map(|line| line.strip_prefix("        "));
            elements.map(|line| line.trim_end_matches(',').to_owned()).collect::<Vec<_>>()
        };
        let text = ruleset(&rules(&[], false), &elements);
        assert_eq!(set(&text, "hairpin-ip"), ["10.42.1.5 . 10.42.1.5"]);
        let outside = ["192.0.2.11 . 31080", "203.0.113.50 . 80"];
        assert_eq!(set(&text, "masquerade-ip-tcp"), outside);
        assert_eq!(set(&text, "cluster-ip-tcp"), ["10.96.7.20 . 80"]);
        assert_eq!(set(&text, "restricted-ip"), ["203.0.113.50 . tcp . 80"]);
        assert_eq!(set(&text, "allowed-ip-tcp"), ["203.0.113.50 . 80 . 198.51.100.0/24"]);
        assert_eq!(set(&text, "services-ip"), ["10.96.7.20 . tcp . 80", "203.0.113.50 . tcp . 80"]);
        assert_eq!(set(&text, "addresses-ip"), ["10.96.7.20", "203.0.113.50"]);
        assert_eq!(set(&text, "masquerade-ip6-tcp"), [""; 0]);
        let chain = |name: &str| {
            let from = text.find(&format!("chain {name} ")).unwrap();
            text[from..].split("    }").next().unwrap()
        };
        // Source ranges hold for the node's own clients, too, which the input chain does not see.
        let kept = "@restricted-ip ip daddr . th dport . ip saddr != @allowed-ip-tcp drop";
        assert!(chain("input").contains(kept) && chain("output").contains(kept), "{text}");
        let shield = "new ip daddr != { 10.96.9.0/24 } ip daddr @addresses-ip ip daddr";
        assert!(chain("input").contains(shield), "{text}");
        assert!(chain("input").contains("new ip6 daddr @addresses-ip6"), "{text}");
        let clients = "tcp ip saddr != { 10.42.0.0/16 } ct original ip daddr";
        assert!(text.contains(clients), "{text}");
        assert!(!ruleset(&rules(&[], true), &elements).contains(clients));
        // Pods by the links over which their packets come.
        for (is_prefix, name) in [(false, "cni0"), (true, "cni0*")] {
            let inside = Inside::Link { name: "cni0".parse().unwrap(), is_prefix };
            let text = ruleset(&Rules { inside, ..rules(&[], false) }, &elements);
            for line in [
                format!("tcp iifname != \"{name}\" ct original ip daddr . ct original proto-dst"),
                format!("iifname \"{name}\" meta mark set ip6 daddr"),
            ] {
                assert!(text.contains(&line), "{line}: {text}");
            }
        }
        // A range takes the place of the addresses in it.
        let ranges = ["10.96.0.0/12".parse().unwrap()];
        let mut elements = Elements::default();
        elements.take_in(&state, &update, &rules(&ranges, false));
        let text = ruleset(&rules(&ranges, false), &elements);
        assert_eq!(set(&text, "addresses-ip"), ["10.96.0.0/12", "203.0.113.50"]);

        // With the policy Local, clients keep their address: what has changed is written, no more.
        elements.changed.clear();
        let local = "
kind: Service
metadata: {name: web, namespace: default}
spec:
  type: LoadBalancer
  clusterIP: 10.96.7.20
  externalTrafficPolicy: Local
  ports: [{port: 80, nodePort: 31080}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.50}]}}
";
        let Object::Service(local) = manifest::parse(local).unwrap().remove(0) else { panic!() };
        state.apply(Event::Service(local));
        let update = state.update();
        elements.take_in(&state, &update, &rules(&ranges, false));
        assert_eq!(
            elements.changes(),
            "delete element inet lvs-kube-proxy masquerade-ip-tcp { 192.0.2.11 . 31080 }\n\
             delete element inet lvs-kube-proxy masquerade-ip-tcp { 203.0.113.50 . 80 }\n\
             delete element inet lvs-kube-proxy restricted-ip { 203.0.113.50 . tcp . 80 }\n\
             delete element inet lvs-kube-proxy allowed-ip-tcp { 203.0.113.50 . 80 . 198.51.100.0/24 }\n"
        );
        // And back again within one run: nothing is to be written.
        elements.changed.clear();
        let name = ObjectName::new("default", "web");
        let service = Event::ServiceGone(name);
        state.apply(service);
        let gone = state.update();
        elements.take_in(&state, &gone, &rules(&ranges, false));
        // It stays until the virtual services are gone.
        assert_eq!(elements.changes(), "");
        assert!(!elements.wanted.is_empty());
        elements.take_away();
        assert!(elements.wanted.is_empty(), "{:?}", elements.wanted);
    }
}
