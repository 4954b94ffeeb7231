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
    collections::BTreeSet,
    fmt::Write as _,
    io::{self, Write as _},
    net::IpAddr,
    process::{Command, Stdio},
};

use ipnet::IpNet;
use lvs::client::packet::{Protocol, ServiceKey};
use netns_link::NetNs;

use crate::{state::State, translate::TargetKind};

/// The protocols of services.
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];
/// The table's name.
const TABLE: &str = "inet lvs-kube-proxy";

/// The rules that a node should have, in the language of `nft -f`: they take the place of those that
/// are there, in one step.
pub(crate) fn ruleset(state: &State, ranges: &[IpNet], masquerade_all: bool) -> String {
    let mut sets = [Sets::default(), Sets::default()];
    for (_, target) in state.targets() {
        let ServiceKey::Address { protocol, address, port } = *target.key() else { continue };
        let Some(protocol) = protocol_name(protocol) else { continue };
        let sets = &mut sets[usize::from(address.is_ipv6())];
        let place = format!("{address} . {protocol} . {port}");
        let is_cluster = target.kind == TargetKind::ClusterIp;
        if masquerade_all || (!is_cluster && !target.local) {
            sets.masquerade.insert((protocol, format!("{address} . {port}")));
        }
        if let Some(sources) = &target.source_ranges {
            sets.restricted.insert(place.clone());
            let allowed = sources.iter().map(|source| format!("{place} . {source}"));
            sets.allowed.extend(allowed);
        }
        if target.address().is_some() {
            sets.services.insert(place);
        }
    }
    for address in state.addresses() {
        if !ranges.iter().any(|range| range.contains(&address)) {
            sets[usize::from(address.is_ipv6())].addresses.insert(address.to_string());
        }
    }
    for range in ranges {
        let is_ipv6 = range.addr().is_ipv6();
        sets[usize::from(is_ipv6)].addresses.insert(range.trunc().to_string());
    }
    for (_, endpoint) in state.local_endpoints() {
        let address: IpAddr = endpoint.ip();
        sets[usize::from(address.is_ipv6())].hairpin.insert(format!("{address} . {address}"));
    }

    let mut text = format!("table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n");
    for (sets, family) in sets.iter().zip(["ip", "ip6"]) {
        sets.write(family, &mut text);
    }
    text += "    chain postrouting {\n        type nat hook postrouting priority srcnat\n";
    for family in ["ip", "ip6"] {
        let _ =
            writeln!(text, "        {family} saddr . {family} daddr @hairpin-{family} masquerade");
        for protocol in PROTOCOLS {
            let _ = writeln!(
                text,
                "        meta l4proto {protocol} ct original {family} daddr . ct original proto-dst \
                 @masquerade-{family}-{protocol} masquerade",
            );
        }
    }
    text += "    }\n    chain input {\n        type filter hook input priority filter\n";
    for family in ["ip", "ip6"] {
        let place = format!("{family} daddr . meta l4proto . th dport");
        let _ = write!(
            text,
            "        {place} @restricted-{family} {place} . {family} saddr != @allowed-{family} drop\n        \
             meta l4proto {{ tcp, udp, sctp }} ct state new {family} daddr @addresses-{family} \
             {place} != @services-{family} reject\n",
        );
    }
    text += "    }\n}\n";
    text
}

/// Elements by set, for one family.
#[derive(Default)]
struct Sets {
    hairpin: BTreeSet<String>,
    masquerade: BTreeSet<(&'static str, String)>,
    restricted: BTreeSet<String>,
    allowed: BTreeSet<String>,
    services: BTreeSet<String>,
    addresses: BTreeSet<String>,
}

impl Sets {
    fn write(&self, family: &str, text: &mut String) {
        let address = if family == "ip" { "ipv4_addr" } else { "ipv6_addr" };
        let place = format!("{address} . inet_proto . inet_service");
        let from = format!("{place} . {address}");
        for (name, kind, flags, elements) in [
            ("hairpin", format!("{address} . {address}"), "", &self.hairpin),
            ("restricted", place.clone(), "", &self.restricted),
            ("allowed", from, "flags interval; ", &self.allowed),
            ("services", place, "", &self.services),
            ("addresses", address.to_owned(), "flags interval; ", &self.addresses),
        ] {
            write_set(text, &format!("{name}-{family}"), &kind, flags, elements.iter());
        }
        // One for each protocol: in a concatenation the protocol's port has no type.
        for protocol in PROTOCOLS {
            let elements = self.masquerade.iter().filter(|(found, _)| *found == protocol);
            let elements = elements.map(|(_, element)| element);
            let name = format!("masquerade-{family}-{protocol}");
            write_set(text, &name, &format!("{address} . inet_service"), "", elements);
        }
    }
}

fn write_set<'a>(
    text: &mut String,
    name: &str,
    kind: &str,
    flags: &str,
    elements: impl Iterator<Item = &'a String>,
) {
    let _ = write!(text, "    set {name} {{ type {kind}; {flags}");
    let mut elements = elements.peekable();
    if elements.peek().is_some() {
        text.push_str("elements = {\n");
        for element in elements {
            let _ = writeln!(text, "        {element},");
        }
        text.push_str("    }");
    }
    text.push_str(" }\n");
}

fn protocol_name(protocol: Protocol) -> Option<&'static str> {
    match protocol {
        Protocol::TCP => Some("tcp"),
        Protocol::UDP => Some("udp"),
        Protocol::SCTP => Some("sctp"),
        _ => None,
    }
}

/// The node's nftables, where there are any.
#[derive(Debug, Default)]
pub(crate) struct Netfilter {
    /// What was written last.
    written: Option<String>,
    /// It was found that there is no nft, or no nftables in the kernel.
    is_absent: bool,
}

impl Netfilter {
    /// Writes the rules if they are others than before. Returns whether they were written.
    pub(crate) fn write(
        &mut self,
        namespace: &NetNs,
        ruleset: impl FnOnce() -> String,
    ) -> io::Result<bool> {
        if self.is_absent {
            return Ok(false);
        }
        let text = ruleset();
        if self.written.as_ref() == Some(&text) {
            return Ok(false);
        }
        match nft(namespace, &text) {
            Ok(()) => {
                self.written = Some(text);
                Ok(true)
            }
            // The first one says whether there is nftables at all.
            Err(error) if self.written.is_none() => {
                self.is_absent = true;
                tracing::warn!(
                    "nftables cannot be used ({error}), so these do not work: clients outside of the \
                     cluster reach endpoints of other nodes, pods reach themselves through their \
                     service, source ranges of load balancers, and shielding what listens on the node \
                     from service addresses"
                );
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the table away.
    pub(crate) fn remove(namespace: &NetNs) -> io::Result<()> {
        nft(namespace, &format!("table {TABLE}\ndelete table {TABLE}\n"))
    }
}

fn nft(namespace: &NetNs, text: &str) -> io::Result<()> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = namespace.spawn(&mut command).map_err(io::Error::from)?;
    if let Some(mut input) = child.stdin.take() {
        // nft that ends before it has read all says why itself.
        let _ = input.write_all(text.as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().next().unwrap_or("it says nothing");
    Err(io::Error::other(format!("nft: {}: {first}", output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Event, Settings, ThisNode,
        manifest::{self, Object},
    };

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
        state.update();
        let set = |ruleset: &str, name: &str| {
            let from = ruleset.find(&format!("set {name} ")).unwrap();
            let set = &ruleset[from..];
            let lines = set[..set.find("\n    set ").unwrap_or(set.find("chain").unwrap())].lines();
            let elements = lines.filter_map(|line| line.strip_prefix("        "));
            elements.map(|line| line.trim_end_matches(',').to_owned()).collect::<Vec<_>>()
        };
        let ranges = ["10.96.0.0/12".parse().unwrap()];
        let text = ruleset(&state, &ranges, false);
        assert_eq!(set(&text, "hairpin-ip"), ["10.42.1.5 . 10.42.1.5"]);
        let outside = ["192.0.2.11 . 31080", "203.0.113.50 . 80"];
        assert_eq!(set(&text, "masquerade-ip-tcp"), outside);
        assert_eq!(set(&text, "restricted-ip"), ["203.0.113.50 . tcp . 80"]);
        assert_eq!(set(&text, "allowed-ip"), ["203.0.113.50 . tcp . 80 . 198.51.100.0/24"]);
        assert_eq!(set(&text, "services-ip"), ["10.96.7.20 . tcp . 80", "203.0.113.50 . tcp . 80"]);
        assert_eq!(set(&text, "addresses-ip"), ["10.96.0.0/12", "203.0.113.50"]);
        assert_eq!(set(&text, "masquerade-ip6-tcp"), [""; 0]);
        assert_eq!(set(&ruleset(&state, &[], true), "masquerade-ip-tcp").len(), 3);
        // With the policy Local, clients keep their address.
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
        state.update();
        assert_eq!(set(&ruleset(&state, &[], false), "masquerade-ip-tcp"), [""; 0]);
    }
}
