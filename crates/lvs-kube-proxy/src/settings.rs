//! What the translation depends on besides the objects.

use std::{collections::BTreeSet, fmt, net::IpAddr, num::NonZeroU32, str::FromStr};

use ipnet::IpNet;
use lvs::client::packet::Protocol;

use crate::annotation::kernels_schedulers;

/// How services are translated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The scheduler of services that choose none. `--ipvs-scheduler`, `rr` by default.
    pub(crate) scheduler: String,
    /// The schedulers that services may choose. `--allow-schedulers`, those of Linux by default: nothing
    /// else reaches the kernel, which loads a module for a name that it does not know.
    pub(crate) allowed_schedulers: BTreeSet<String>,
    /// Whether services choose nothing by annotations. `--ignore-annotations`.
    pub(crate) ignore_annotations: bool,
    /// Schedulers that this node's kernel was found not to have: services that choose them get the
    /// default.
    pub(crate) refused_schedulers: BTreeSet<String>,
    /// On which of the node's addresses node ports are served; empty is on all.
    /// `--nodeport-addresses`.
    pub(crate) node_port_addresses: Vec<NodePortAddresses>,
    /// Whether `spec.externalIPs` counts. Off by default: whoever may write a Service could take
    /// traffic for any address, and Kubernetes itself is going to drop it.
    pub(crate) external_ips: bool,
    /// What an address with policy `Local` does when this node has no endpoint.
    pub(crate) without_local: WithoutLocal,
    /// Which firewall marks services get. `--mark-bits`.
    pub(crate) mark_bits: MarkBits,
    /// The networks of the cluster's pods, where they are known. No external or load-balancer address
    /// in them is served: made local, it would be lost to the pod that has it. `--cluster-cidr`.
    pub(crate) pod_networks: Vec<IpNet>,
    /// The networks of services, where they are known. The node's addresses in them (a node-local DNS
    /// has one) get no node ports. `--service-cluster-ip-range`.
    pub(crate) service_ranges: Vec<IpNet>,
    /// Whether services may have the node's own address at a port on which it listens.
    /// `--allow-host-ports`.
    pub(crate) host_ports: bool,
    /// The address of the API server. It is served as little, for the same reason.
    pub(crate) api_server: Option<IpAddr>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            scheduler: "rr".to_owned(),
            allowed_schedulers: kernels_schedulers(),
            ignore_annotations: false,
            refused_schedulers: BTreeSet::new(),
            node_port_addresses: Vec::new(),
            external_ips: false,
            without_local: WithoutLocal::FallBack,
            mark_bits: MarkBits::default(),
            pod_networks: Vec::new(),
            service_ranges: Vec::new(),
            host_ports: false,
            api_server: None,
        }
    }
}

/// What an address with policy `Local` does when this node has no endpoint of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum WithoutLocal {
    /// It leads to the endpoints of other nodes, as with kube-proxy, if the service can be reached
    /// from outside. Pods of this node reach the address so. Clients outside get answers from an
    /// address that they do not know; a load balancer that heeds the health check sends none.
    FallBack,
    /// Clients inside of the cluster reach the endpoints of other nodes, by a second virtual service for
    /// packets that nftables mark; clients outside are refused, as the policy says. Needs nftables and
    /// the networks of pods (`--cluster-cidr`).
    ByMark,
    /// It refuses connections, as the policy says.
    Refuse,
}

/// The bits that the firewall marks of services may have; all of them have the highest one. Reads
/// `0x1fff1fff`, the default.
///
/// A packet for such a service has no other bits in its mark, so these are to be none that mean something
/// to others. The default leaves out 0x8000 and 0x4000, for which kubelet drops and masquerades, and
/// 0x2000, for which CNI's portmap masquerades.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MarkBits(NonZeroU32);

impl MarkBits {
    /// A mark that follows from a number.
    pub(crate) fn mark(self, number: u32) -> NonZeroU32 {
        let highest = 1 << self.0.ilog2();
        NonZeroU32::new(self.0.get() & number | highest).unwrap_or(self.0)
    }
}

impl Default for MarkBits {
    fn default() -> Self {
        const { Self(NonZeroU32::new(0x1fff_1fff).unwrap()) }
    }
}

impl FromStr for MarkBits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("0x");
        let bits = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let bits = bits.and_then(NonZeroU32::new);
        bits.map(Self).ok_or_else(|| format!("{text:?} is not a bit mask such as 0x1fff1fff"))
    }
}

impl fmt::Display for MarkBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// An entry of `--nodeport-addresses`. Reads `primary` or a network: `192.0.2.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodePortAddresses {
    /// The node's first address of each family.
    Primary,
    /// The node's addresses in this network. A network of one family leaves the other family as it
    /// is.
    Network(IpNet),
}

impl NodePortAddresses {
    fn concerns(&self, ipv4: bool) -> bool {
        match self {
            Self::Primary => true,
            Self::Network(network) => network.addr().is_ipv4() == ipv4,
        }
    }
}

impl FromStr for NodePortAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "primary" => Ok(Self::Primary),
            text => network(text).map(Self::Network),
        }
    }
}

/// Reads a network. An address alone is none, as for kube-proxy.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| match text.parse::<IpAddr>() {
        Ok(address) => {
            let whole = IpNet::from(address);
            format!("must be a network, which has a length: {whole} is this address alone")
        }
        Err(_) => "must be a network such as 192.0.2.0/24 or 2001:db8::/64".to_owned(),
    })
}

impl fmt::Display for NodePortAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary => f.write_str("primary"),
            Self::Network(network) => network.fmt(f),
        }
    }
}

/// The node that the proxy runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ThisNode {
    /// Its name, by which endpoints say that they are here.
    pub(crate) name: String,
    /// Its zone: the label `topology.kubernetes.io/zone`.
    pub(crate) zone: Option<String>,
    /// All addresses of its links, but for those that the proxy itself has added.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Its addresses as the proxy was told, of each family one at most: they come before those of the
    /// Node. `--node-ip`.
    pub(crate) given: Vec<IpAddr>,
    /// The addresses by which the cluster knows it, the first of each family.
    pub(crate) primary: Vec<IpAddr>,
    /// The networks of its pods, as its Node says.
    pub(crate) pod_networks: Vec<IpNet>,
    /// The addresses of other nodes, as far as they are known. No external or load-balancer address
    /// that is one of them is served: made local, it would cut this node off from the other one.
    pub(crate) others: BTreeSet<IpAddr>,
    /// The addresses of API servers, as the endpoints of the Service `kubernetes` say.
    pub(crate) api_servers: BTreeSet<IpAddr>,
    /// What is around it.
    pub(crate) around: Surroundings,
}

/// What a node cannot do without, and services cannot have therefore.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Surroundings {
    /// The next hops of its routes.
    pub(crate) gateways: BTreeSet<IpAddr>,
    /// The network and broadcast addresses of its links.
    pub(crate) broadcasts: BTreeSet<IpAddr>,
    /// Where it listens. Read only if a service claims an address of the node.
    pub(crate) listening: BTreeSet<(Protocol, u16)>,
}

impl ThisNode {
    /// The addresses on which node ports are served.
    pub(crate) fn node_port_addresses(&self, settings: &Settings, ipv4: bool) -> BTreeSet<IpAddr> {
        let wanted: Vec<_> =
            settings.node_port_addresses.iter().filter(|entry| entry.concerns(ipv4)).collect();
        let chosen = |address: &IpAddr| {
            wanted.is_empty()
                || wanted.iter().any(|entry| match entry {
                    NodePortAddresses::Primary => self.primary.contains(address),
                    NodePortAddresses::Network(network) => network.contains(address),
                })
        };
        let is_of_service =
            |address: &IpAddr| settings.service_ranges.iter().any(|it| it.contains(address));
        self.addresses
            .iter()
            .filter(|address| address.is_ipv4() == ipv4 && is_reachable(address) && chosen(address))
            .filter(|address| !is_of_service(address))
            .copied()
            .collect()
    }
}

/// Neither loopback nor link-local: others cannot reach these, and node-local DNS has one.
pub(crate) fn is_reachable(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_have_no_bits_of_others() {
        let marks = |bits: MarkBits| {
            let spread = (0..10_000_u32).map(|number| number.wrapping_mul(0x9e37_79b9));
            spread.map(move |number| bits.mark(number).get()).collect::<BTreeSet<_>>()
        };
        let default = marks(MarkBits::default());
        assert!(default.len() > 9_990, "{} marks", default.len());
        assert!(default.iter().all(|mark| mark & 0xe000_e000 == 0 && mark & 0x1000_0000 != 0));
        let few = marks("0xf00".parse().unwrap());
        assert_eq!(few, (8..16).map(|mark| mark << 8).collect());
        assert_eq!(marks("0x80000000".parse().unwrap()), [0x8000_0000].into());

        for text in ["0x1fff1fff", "0x1"] {
            assert_eq!(text.parse::<MarkBits>().unwrap().to_string(), text);
        }
        for text in ["0x0", "", "0x", "17", "0x100000000", "bits"] {
            let error = text.parse::<MarkBits>().unwrap_err();
            assert!(error.contains("not a bit mask"), "{error}");
        }
    }
}
