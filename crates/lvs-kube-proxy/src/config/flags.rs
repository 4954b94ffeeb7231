//! The command line as it is typed: kube-proxy's flags, where they mean the same.

use std::{net::IpAddr, path::PathBuf};

use clap::{ArgAction, Parser};
use ipnet::IpNet;

use super::values::{BindAddress, DetectLocal, GoDuration, LinkName, LogFormat, VipMode};
use crate::settings::{MarkBits, NodePortAddresses, WithoutLocal, network};

/// A service proxy for Kubernetes on IPVS. Flags that kube-proxy has mean the same.
#[derive(Clone, Debug, Parser)]
#[command(name = "lvs-kube-proxy", version, args_override_self = true)]
pub(super) struct Flags {
    /// `confirm` lets the proxy that runs here with the same --state-dir delete what --hold holds back
    #[arg(value_name = "COMMAND", value_parser = ["confirm"])]
    pub(super) command: Option<String>,

    /// Reads Services and EndpointSlices from the manifests in this directory instead of from an API
    /// server, and follows what changes there
    #[arg(long, value_name = "DIRECTORY")]
    pub(super) manifests: Option<PathBuf>,

    /// Kubeconfig file. Without it and without --manifests, the pod's service account is used
    #[arg(long, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,

    /// A configuration file of kube-proxy's (kubeproxy.config.k8s.io/v1alpha1, mode ipvs); flags
    /// come before it
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    /// The name of this node in the cluster [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub(super) hostname_override: Option<String>,

    /// Proxy mode; only `ipvs` is supported
    #[arg(long, value_name = "MODE")]
    pub(super) proxy_mode: Option<String>,

    /// The scheduler of services that choose none [default: rr]
    #[arg(long, value_name = "NAME")]
    pub(super) ipvs_scheduler: Option<String>,

    /// The schedulers that Services may choose by annotation; the kernel gets no other name. An empty text
    /// allows none but the default one [default: those that come with Linux]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(super) allow_schedulers: Option<Vec<String>>,

    /// Services choose nothing by annotations: scheduler, forwarding, weights, drain limit
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", action = ArgAction::Set, value_name = "BOOL")]
    pub(super) ignore_annotations: bool,

    /// How often everything is compared and repaired, whatever happens [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub(super) ipvs_sync_period: Option<GoDuration>,

    /// The least time from the end of a round to the beginning of the next [default: 0s]
    #[arg(long, value_name = "DURATION")]
    pub(super) ipvs_min_sync_period: Option<GoDuration>,

    /// Virtual services in these networks are left alone, even if they are ours
    #[arg(long, value_name = "NETWORK", value_delimiter = ',', value_parser = network)]
    pub(super) ipvs_exclude_cidrs: Vec<IpNet>,

    /// The other links do not answer ARP for virtual addresses (arp_ignore 1, arp_announce 2)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(super) ipvs_strict_arp: Option<bool>,

    /// When idle TCP connections expire; 0 leaves it as it is [default: 0s]
    #[arg(long, value_name = "DURATION")]
    pub(super) ipvs_tcp_timeout: Option<GoDuration>,

    /// When TCP connections expire after a FIN; 0 leaves it as it is [default: 0s]
    #[arg(long, value_name = "DURATION")]
    pub(super) ipvs_tcpfin_timeout: Option<GoDuration>,

    /// When idle UDP connections expire; 0 leaves it as it is [default: 0s]
    #[arg(long, value_name = "DURATION")]
    pub(super) ipvs_udp_timeout: Option<GoDuration>,

    /// On which addresses of the node node ports are served: networks, or the word primary
    /// [default: on all]
    #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
    pub(super) nodeport_addresses: Vec<NodePortAddresses>,

    /// Where /healthz and /livez are served; an empty text serves them nowhere
    /// [default: 0.0.0.0:10256]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) healthz_bind_address: Option<BindAddress>,

    /// Where /metrics is served, and health once more; an empty text serves them nowhere
    /// [default: 127.0.0.1:10249]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) metrics_bind_address: Option<BindAddress>,

    /// The port of /healthz, where --healthz-bind-address says none; 0 serves it nowhere
    #[arg(long, value_name = "PORT", hide = true)]
    pub(super) healthz_port: Option<u16>,

    /// The port of /metrics, where --metrics-bind-address says none; 0 serves it nowhere
    #[arg(long, value_name = "PORT", hide = true)]
    pub(super) metrics_port: Option<u16>,

    /// Exit if an address for health or metrics cannot be bound [default: retry]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(super) bind_address_hard_fail: Option<bool>,

    /// The networks from which the cluster gives addresses to services: they become local by one
    /// route each, and what is in them is ours
    #[arg(long, value_name = "NETWORK", value_delimiter = ',', value_parser = network)]
    pub(super) service_cluster_ip_range: Vec<IpNet>,

    /// How virtual addresses become local: by a route for each service range, by addresses on
    /// kube-ipvs0, or (auto) by routes where the ranges are known and nftables shield what listens on the node
    #[arg(long, value_enum, default_value_t = VipMode::Auto)]
    pub(super) vip_mode: VipMode,

    /// The node's own address, the source of its connections to services [default: that of the Node
    /// object, or of the default route]
    #[arg(long, visible_alias = "bind-address", value_name = "ADDRESS", value_delimiter = ',')]
    pub(super) node_ip: Vec<IpAddr>,

    /// The networks of the cluster's pods. Clients from elsewhere get the node's address as source at
    /// cluster addresses, and are outside where a policy is Local
    #[arg(long, value_name = "NETWORK", value_delimiter = ',', value_parser = network)]
    pub(super) cluster_cidr: Vec<IpNet>,

    /// How to recognise traffic from pods: ClusterCIDR (--cluster-cidr), NodeCIDR (the Node's podCIDRs),
    /// BridgeInterface (--pod-bridge-interface) or InterfaceNamePrefix (--pod-interface-name-prefix);
    /// the latter two recognise this node's pods only [default: ClusterCIDR]
    #[arg(long, value_name = "MODE")]
    pub(super) detect_local_mode: Option<DetectLocal>,

    /// Bridge that this node's pods are attached to, with --detect-local-mode=BridgeInterface
    #[arg(long, value_name = "LINK")]
    pub(super) pod_bridge_interface: Option<LinkName>,

    /// Prefix of the names of the links to this node's pods, with
    /// --detect-local-mode=InterfaceNamePrefix
    #[arg(long, value_name = "PREFIX")]
    pub(super) pod_interface_name_prefix: Option<LinkName>,

    /// Clients of cluster addresses get the node's address as source, too
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(super) masquerade_all: Option<bool>,

    /// Serves spec.externalIPs: whoever may write a Service can then take traffic for any address
    #[arg(long)]
    pub(super) external_ips: bool,

    /// Serves load-balancer addresses with source ranges also while nftables cannot be used: everybody reaches
    /// them then [default: such an address is not served before its rules are there]
    #[arg(long)]
    pub(super) serve_without_source_ranges: bool,

    /// Serves external and load-balancer addresses that are this node's own also at ports on which the node
    /// itself listens, as long as the Service has an endpoint: what listens there is not reached then
    #[arg(long)]
    pub(super) allow_host_ports: bool,

    /// Watches all Nodes, not only this one, so that no external or load-balancer address which is
    /// another node's own is served here: that would cut this node off from the other one. Nodes are
    /// large and change every few minutes; a directory of manifests does so in any case
    #[arg(long)]
    pub(super) watch_nodes: bool,

    /// What an address of policy Local does when this node has no endpoint: fall-back leads everybody to
    /// those of other nodes, as kube-proxy does; by-mark leads pods and this node there and refuses
    /// clients outside; refuse refuses all [default: by-mark where there are nftables and the networks
    /// of pods are known, else fall-back]
    #[arg(long, value_enum)]
    pub(super) without_local: Option<WithoutLocal>,

    /// Mask of the firewall-mark bits that by-mark may use; the highest bit is always set [default:
    /// 0x1fff1fff, which leaves out the bits of kubelet and of CNI's portmap]
    #[arg(long, value_name = "BITS")]
    pub(super) mark_bits: Option<MarkBits>,

    /// How long a removed endpoint may keep its TCP connections; those of UDP and SCTP end at once
    /// [default: until it is in no EndpointSlice any more, that is until its pod has ended; 60s if no
    /// slice has it and it was not seen terminating]
    #[arg(long, value_name = "DURATION")]
    pub(super) drain_limit: Option<GoDuration>,

    /// If more than half of the table and more than 20 services and endpoints would be deleted within a minute,
    /// that waits for so long, and for fresh lists; 0 waits for the lists only. `lvs-kube-proxy confirm`
    /// does not wait. Traffic goes on meanwhile [default: 5m]
    #[arg(long, value_name = "DURATION")]
    pub(super) hold: Option<GoDuration>,

    /// Directory for the ledger of what this proxy has made. Without it, only what is in the service
    /// ranges counts as ours; the rest is left behind after a restart
    #[arg(long, value_name = "DIRECTORY")]
    pub(super) state_dir: Option<PathBuf>,

    /// Writes the configuration, with all defaults filled in, to this file as kube-proxy's
    /// KubeProxyConfiguration, and exits
    #[arg(long, value_name = "FILE")]
    pub(super) write_config_to: Option<PathBuf>,

    /// Sync once and exit
    #[arg(long)]
    pub(super) once: bool,

    /// Print what a sync would do, and exit
    #[arg(long)]
    pub(super) dry_run: bool,

    /// Remove everything that this proxy has made, and exit
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", action = ArgAction::Set, value_name = "BOOL")]
    pub(super) cleanup: bool,

    /// Makes the node's settings (net.ipv4.vs and forwarding), and ends
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", action = ArgAction::Set, value_name = "BOOL")]
    pub(super) init_only: bool,

    /// How the lines of the log are written [default: text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(super) logging_format: Option<LogFormat>,

    /// Log level: 0-2 info, 3-4 debug, 5 and more trace
    #[arg(short, long, default_value_t = 2, value_name = "LEVEL")]
    pub(super) v: u8,
}
