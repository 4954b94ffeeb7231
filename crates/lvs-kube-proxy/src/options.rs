//! The command line and the configuration file: kube-proxy's, where they mean the same.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::{ArgAction, Parser, ValueEnum};
use ipnet::IpNet;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::settings::{MarkBits, NodePortAddresses, WithoutLocal, network};

/// A service proxy for Kubernetes on IPVS. Flags that kube-proxy has mean the same.
#[derive(Clone, Debug, Parser)]
#[command(name = "lvs-kube-proxy", version)]
pub struct Options {
    /// Reads Services and EndpointSlices from the manifests in this directory instead of from an API
    /// server, and follows what changes there
    #[arg(long, value_name = "DIRECTORY")]
    pub manifests: Option<PathBuf>,

    /// How to reach the API server; without it and --manifests, what Kubernetes gives to a pod
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// A configuration file of kube-proxy's (kubeproxy.config.k8s.io/v1alpha1, mode ipvs); flags
    /// come before it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The name of this node in the cluster [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,

    /// ipvs is the only one
    #[arg(long, value_name = "MODE")]
    pub proxy_mode: Option<String>,

    /// The scheduler of services that choose none [default: rr]
    #[arg(long, value_name = "NAME")]
    pub ipvs_scheduler: Option<String>,

    /// How often everything is compared and repaired, whatever happens [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub ipvs_sync_period: Option<GoDuration>,

    /// The least time from the end of a run to the beginning of the next [default: 0s]
    #[arg(long, value_name = "DURATION")]
    pub ipvs_min_sync_period: Option<GoDuration>,

    /// Virtual services in these networks are left alone, even if they are ours
    #[arg(long, value_name = "NETWORK", value_delimiter = ',', value_parser = network)]
    pub ipvs_exclude_cidrs: Vec<IpNet>,

    /// The other links do not answer ARP for virtual addresses (arp_ignore 1, arp_announce 2)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub ipvs_strict_arp: Option<bool>,

    /// When idle TCP connections expire; 0 leaves it as it is [default: 0s]
    #[arg(long, value_name = "DURATION")]
    pub ipvs_tcp_timeout: Option<GoDuration>,

    /// When TCP connections expire after a FIN; 0 leaves it as it is [default: 0s]
    #[arg(long, value_name = "DURATION")]
    pub ipvs_tcpfin_timeout: Option<GoDuration>,

    /// When idle UDP connections expire; 0 leaves it as it is [default: 0s]
    #[arg(long, value_name = "DURATION")]
    pub ipvs_udp_timeout: Option<GoDuration>,

    /// On which addresses of the node node ports are served: networks, or the word primary
    /// [default: on all]
    #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
    pub nodeport_addresses: Vec<NodePortAddresses>,

    /// Where /healthz and /livez are served; an empty text serves them nowhere
    /// [default: 0.0.0.0:10256]
    #[arg(long, value_name = "ADDRESS")]
    pub healthz_bind_address: Option<BindAddress>,

    /// Where /metrics is served, and health once more; an empty text serves them nowhere
    /// [default: 127.0.0.1:10249]
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_bind_address: Option<BindAddress>,

    /// An address for health or metrics that cannot be had ends the proxy, instead of being tried again
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub bind_address_hard_fail: Option<bool>,

    /// The networks from which the cluster gives addresses to services: they become local by one
    /// route each, and what is in them is ours
    #[arg(long, value_name = "NETWORK", value_delimiter = ',', value_parser = network)]
    pub service_cluster_ip_range: Vec<IpNet>,

    /// How virtual addresses become local: by a route for each service range, by addresses on
    /// kube-ipvs0, or routes where the ranges are known
    #[arg(long, value_enum, default_value_t = VipMode::Auto)]
    pub vip_mode: VipMode,

    /// The node's own address, the source of its connections to services [default: that of the Node
    /// object, or of the default route]
    #[arg(long, visible_alias = "bind-address", value_name = "ADDRESS", value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,

    /// The networks of the cluster's pods. Clients from elsewhere get the node's address as source at
    /// cluster addresses, and are outside where a policy is Local
    #[arg(long, value_name = "NETWORK", value_delimiter = ',', value_parser = network)]
    pub cluster_cidr: Vec<IpNet>,

    /// By what pods are known: ClusterCIDR (--cluster-cidr), NodeCIDR (the Node's podCIDRs),
    /// BridgeInterface (--pod-bridge-interface) or InterfaceNamePrefix (--pod-interface-name-prefix);
    /// the latter two are this node's pods [default: ClusterCIDR]
    #[arg(long, value_name = "MODE")]
    pub detect_local_mode: Option<DetectLocal>,

    /// The bridge over which packets of this node's pods come, with --detect-local-mode=BridgeInterface
    #[arg(long, value_name = "LINK")]
    pub pod_bridge_interface: Option<LinkName>,

    /// How the names of the links begin over which packets of this node's pods come, with
    /// --detect-local-mode=InterfaceNamePrefix
    #[arg(long, value_name = "PREFIX")]
    pub pod_interface_name_prefix: Option<LinkName>,

    /// Clients of cluster addresses get the node's address as source, too
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub masquerade_all: Option<bool>,

    /// Serves spec.externalIPs: whoever may write a Service can then take traffic for any address
    #[arg(long)]
    pub external_ips: bool,

    /// Watches all Nodes, not only this one, so that no external or load-balancer address which is
    /// another node's own is served here: that would cut this node off from the other one. Nodes are
    /// large and change every few minutes; a directory of manifests does so in any case
    #[arg(long)]
    pub watch_nodes: bool,

    /// What an address of policy Local does when this node has no endpoint: fall-back leads everybody to
    /// those of other nodes, as kube-proxy does; by-mark leads pods and this node there and refuses
    /// clients outside; refuse refuses all [default: by-mark where there are nftables and the networks
    /// of pods are known, else fall-back]
    #[arg(long, value_enum)]
    pub without_local: Option<WithoutLocal>,

    /// The bits that marks of by-mark may have, of which they all have the highest [default:
    /// 0x1fff1fff, which leaves out those of kubelet and of CNI's portmap]
    #[arg(long, value_name = "BITS")]
    pub mark_bits: Option<MarkBits>,

    /// The longest that an endpoint which leaves may keep its TCP connections; those of UDP and SCTP
    /// end at once [default: as long as an EndpointSlice has it, which is until its pod has ended, and
    /// 60s if none has it]
    #[arg(long, value_name = "DURATION")]
    pub drain_limit: Option<GoDuration>,

    /// Where it is noted what is ours in the kernel. Without it, what lies in the service ranges is,
    /// and what else was made stays after a restart if nobody wants it any more
    #[arg(long, value_name = "DIRECTORY")]
    pub state_dir: Option<PathBuf>,

    /// Brings the kernel to what should be once, and ends
    #[arg(long)]
    pub once: bool,

    /// Prints what would be done, does nothing, and ends
    #[arg(long)]
    pub dry_run: bool,

    /// Takes away what is ours in the kernel, and ends
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", action = ArgAction::Set, value_name = "BOOL")]
    pub cleanup: bool,

    /// Makes the node's settings (net.ipv4.vs and forwarding), and ends
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", action = ArgAction::Set, value_name = "BOOL")]
    pub init_only: bool,

    /// How much is logged: 0 to 2 what matters, 3 and 4 more, 5 and more everything
    #[arg(short, long, default_value_t = 2, value_name = "LEVEL")]
    pub v: u8,
}

/// How virtual addresses become local to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum VipMode {
    /// Routes where the service ranges are known, else addresses.
    Auto,
    /// One local route for each service range; what lies outside of them is an address of
    /// `kube-ipvs0`.
    Routes,
    /// An address of `kube-ipvs0` for each, as kube-proxy has it.
    Addresses,
}

/// By what the pods of the cluster are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetectLocal {
    /// By `--cluster-cidr`.
    ClusterCidr,
    /// By `spec.podCIDRs` of the Node.
    NodeCidr,
    /// By the bridge over which their packets come: `--pod-bridge-interface`.
    BridgeInterface,
    /// By how the names of the links over which their packets come begin:
    /// `--pod-interface-name-prefix`.
    InterfaceNamePrefix,
}

impl FromStr for DetectLocal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ClusterCIDR" => Ok(Self::ClusterCidr),
            "NodeCIDR" => Ok(Self::NodeCidr),
            "BridgeInterface" => Ok(Self::BridgeInterface),
            "InterfaceNamePrefix" => Ok(Self::InterfaceNamePrefix),
            _ => Err(format!(
                "{text:?} is not one of ClusterCIDR, NodeCIDR, BridgeInterface and \
                 InterfaceNamePrefix"
            )),
        }
    }
}

/// The name of a network link, or how it begins: 1 to 15 visible characters of ASCII, none of them a
/// slash, colon, asterisk, quotation mark or backslash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkName(String);

impl FromStr for LinkName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Those of Linux, but for what would mean something else to nft.
        let is_good = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '*' | '"' | '\\');
        match (1..=15).contains(&text.len()) && text.chars().all(is_good) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("{text:?} is not the name of a network link")),
        }
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Options {
    /// Reads a command line as kube-proxy takes it, and the configuration file. The process ends, with a
    /// text, if a flag is wrong or asks for help.
    ///
    /// Returns what is asked for and has no effect in this proxy, too: to be logged.
    ///
    /// # Errors
    ///
    /// As [`complete`](Self::complete).
    pub fn from_command_line(
        words: impl IntoIterator<Item = OsString>,
    ) -> Result<(Self, Vec<String>), OptionsError> {
        let (words, mut left_out) = without_unused(words);
        let mut options = Self::parse_from(words);
        left_out.extend(options.complete()?);
        Ok((options, left_out))
    }

    /// Reads the configuration file, if one is named, and checks everything. Flags come first.
    ///
    /// Returns what the file asks for and this proxy does not have: to be logged.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or it asks for another mode than `ipvs`.
    pub fn complete(&mut self) -> Result<Vec<String>, OptionsError> {
        let mut left_out = Vec::new();
        if let Some(path) = self.config.clone() {
            let error = |reason: String| OptionsError { place: path.display().to_string(), reason };
            let text = fs::read_to_string(&path).map_err(|reason| error(reason.to_string()))?;
            let file = ConfigFile::parse(&text).map_err(error)?;
            left_out = file
                .lay_under(self)
                .map_err(|reason| OptionsError { place: path.display().to_string(), reason })?;
        }
        match self.proxy_mode.as_deref() {
            None | Some("ipvs" | "") => {}
            Some(mode) => {
                return Err(OptionsError {
                    place: "--proxy-mode".to_owned(),
                    reason: format!("{mode:?} is not a mode of this proxy, which is ipvs"),
                });
            }
        }
        // What kube-proxy binds to need not be an address of its own.
        self.node_ip.retain(|address| !address.is_unspecified());
        for range in &self.service_cluster_ip_range {
            let meets = |other: &&IpNet| {
                range.contains(&other.network()) || other.contains(&range.network())
            };
            if let Some(pods) = self.cluster_cidr.iter().find(meets) {
                return Err(OptionsError {
                    place: "--service-cluster-ip-range".to_owned(),
                    reason: format!(
                        "{range} and the pods' {pods} (--cluster-cidr) have addresses in common"
                    ),
                });
            }
        }
        let needed = match self.detect_local_mode {
            Some(DetectLocal::BridgeInterface) if self.pod_bridge_interface.is_none() => {
                Some(("BridgeInterface", "--pod-bridge-interface"))
            }
            Some(DetectLocal::InterfaceNamePrefix) if self.pod_interface_name_prefix.is_none() => {
                Some(("InterfaceNamePrefix", "--pod-interface-name-prefix"))
            }
            _ => None,
        };
        if let Some((mode, flag)) = needed {
            return Err(OptionsError {
                place: format!("--detect-local-mode={mode}"),
                reason: format!("needs {flag}"),
            });
        }
        if self.vip_mode == VipMode::Routes && self.service_cluster_ip_range.is_empty() {
            return Err(OptionsError {
                place: "--vip-mode=routes".to_owned(),
                reason: "needs --service-cluster-ip-range".to_owned(),
            });
        }
        Ok(left_out)
    }

    /// The name of this node.
    ///
    /// # Errors
    ///
    /// None was given, and the host's own cannot be read.
    pub fn node_name(&self) -> io::Result<String> {
        let name = match &self.hostname_override {
            Some(name) => name.clone(),
            None => fs::read_to_string("/proc/sys/kernel/hostname")?,
        };
        Ok(name.trim().to_lowercase())
    }

    /// Whether virtual addresses of the service ranges are local by routes.
    pub fn has_routes(&self) -> bool {
        self.vip_mode != VipMode::Addresses && !self.service_cluster_ip_range.is_empty()
    }

    /// How often everything is compared.
    pub fn sync_period(&self) -> Duration {
        // In kube-proxy's file 0 is the default.
        let period =
            self.ipvs_sync_period.map(|period| period.0).filter(|period| !period.is_zero());
        period.unwrap_or(Duration::from_secs(30))
    }

    /// The least time between two runs.
    pub fn min_sync_period(&self) -> Duration {
        self.ipvs_min_sync_period.map_or(Duration::ZERO, |period| period.0)
    }

    /// Where health is served.
    pub fn healthz(&self) -> Option<SocketAddr> {
        let default = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 10_256));
        self.healthz_bind_address.map_or(Some(default), |address| address.or(default.port()))
    }

    /// Where metrics are served.
    pub fn metrics(&self) -> Option<SocketAddr> {
        let default = SocketAddr::from((Ipv4Addr::LOCALHOST, 10_249));
        self.metrics_bind_address.map_or(Some(default), |address| address.or(default.port()))
    }
}

/// Flags of kube-proxy's that are taken and have no effect, and whether each has a value.
const UNUSED: [(&str, bool); 36] = [
    ("--add_dir_header", false),
    ("--alsologtostderr", false),
    ("--config-sync-period", true),
    ("--conntrack-max-per-core", true),
    ("--conntrack-min", true),
    ("--conntrack-tcp-be-liberal", false),
    ("--conntrack-tcp-timeout-close-wait", true),
    ("--conntrack-tcp-timeout-established", true),
    ("--conntrack-udp-timeout", true),
    ("--conntrack-udp-timeout-stream", true),
    ("--feature-gates", true),
    ("--iptables-localhost-nodeports", false),
    ("--iptables-masquerade-bit", true),
    ("--iptables-min-sync-period", true),
    ("--iptables-sync-period", true),
    ("--kube-api-burst", true),
    ("--kube-api-content-type", true),
    ("--kube-api-qps", true),
    ("--log-flush-frequency", true),
    ("--logging-format", true),
    ("--log_backtrace_at", true),
    ("--log_dir", true),
    ("--log_file", true),
    ("--log_file_max_size", true),
    ("--logtostderr", false),
    ("--master", true),
    ("--one_output", false),
    ("--oom-score-adj", true),
    ("--profiling", false),
    ("--proxy-port-range", true),
    ("--show-hidden-metrics-for-version", true),
    ("--skip_headers", false),
    ("--skip_log_headers", false),
    ("--stderrthreshold", true),
    ("--udp-timeout", true),
    ("--vmodule", true),
];

/// A command line without those flags, and what is to be said of each.
fn without_unused(words: impl IntoIterator<Item = OsString>) -> (Vec<OsString>, Vec<String>) {
    let (mut kept, mut left_out) = (Vec::new(), Vec::new());
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (&*text, None),
        };
        let Some((name, has_value)) = UNUSED.iter().find(|(unused, _)| *unused == name) else {
            kept.push(word);
            continue;
        };
        if value.is_none() && *has_value {
            words.next();
        }
        left_out.push(format!("{name} has no effect in this proxy"));
    }
    (kept, left_out)
}

/// Why the command line or the configuration file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionsError {
    place: String,
    reason: String,
}

impl fmt::Display for OptionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.reason)
    }
}

impl std::error::Error for OptionsError {}

/// A duration as Go writes it: `30s`, `1m30s`, `250ms`, `1.5h`, `0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoDuration(pub Duration);

impl FromStr for GoDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a duration such as 30s, 1m30s or 250ms");
        let mut rest = text.trim();
        if rest == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let mut seconds = 0.0;
        let units =
            [("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let number: f64 = rest[..end].parse().map_err(|_| wrong())?;
            rest = &rest[end..];
            let (unit, factor) =
                units.iter().find(|(unit, _)| rest.starts_with(unit)).ok_or_else(wrong)?;
            seconds += number * factor;
            rest = &rest[unit.len()..];
        }
        // A hundred years: what is longer cannot be added to a time.
        let duration = Duration::try_from_secs_f64(seconds.min(3.2e9)).map_err(|_| wrong())?;
        Ok(Self(duration))
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0.as_secs_f64())
    }
}

/// An address to listen on, or an empty text for none. Without a port, kube-proxy's own is for the
/// caller to add; so one is needed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindAddress(pub Option<SocketAddr>);

impl BindAddress {
    /// With a port where none was given.
    fn or(self, port: u16) -> Option<SocketAddr> {
        self.0.map(|address| match address.port() {
            0 => (address.ip(), port).into(),
            _ => address,
        })
    }
}

impl FromStr for BindAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "" => Ok(Self(None)),
            text => text
                .parse()
                .or_else(|error| text.parse().map(|ip: IpAddr| (ip, 0).into()).map_err(|_| error))
                .map(|address| Self(Some(address)))
                .map_err(|_| format!("{text:?} is not an address and port such as 0.0.0.0:10256")),
        }
    }
}

/// A KubeProxyConfiguration. What is not used is kept by name, to be said.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ConfigFile {
    api_version: String,
    kind: String,
    mode: Option<String>,
    bind_address: Option<String>,
    bind_address_hard_fail: Option<bool>,
    client_connection: ClientConnection,
    hostname_override: Option<String>,
    ipvs: Ipvs,
    iptables: Iptables,
    #[serde(deserialize_with = "crate::object::or_default")]
    node_port_addresses: Vec<String>,
    healthz_bind_address: Option<String>,
    metrics_bind_address: Option<String>,
    #[serde(rename = "clusterCIDR")]
    cluster_cidr: Option<String>,
    detect_local_mode: Option<String>,
    detect_local: DetectLocalLinks,
    #[serde(flatten)]
    rest: Rest,
}

/// Fields that are not used, with whether each is set to something.
type Rest = BTreeMap<String, Unused>;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ClientConnection {
    kubeconfig: Option<String>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DetectLocalLinks {
    bridge_interface: Option<String>,
    interface_name_prefix: Option<String>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Ipvs {
    scheduler: Option<String>,
    sync_period: Option<String>,
    min_sync_period: Option<String>,
    #[serde(rename = "excludeCIDRs", deserialize_with = "crate::object::or_default")]
    exclude_cidrs: Vec<String>,
    #[serde(rename = "strictARP")]
    strict_arp: Option<bool>,
    tcp_timeout: Option<String>,
    tcp_fin_timeout: Option<String>,
    udp_timeout: Option<String>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Iptables {
    masquerade_all: Option<bool>,
    #[serde(flatten)]
    rest: Rest,
}

/// A value of which only matters whether it says something: not null, empty, zero or false.
#[derive(Clone, Copy, Debug)]
struct Unused(bool);

impl<'de> Deserialize<'de> for Unused {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Look;

        impl<'de> Visitor<'de> for Look {
            type Value = Unused;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_unit<E>(self) -> Result<Unused, E> {
                Ok(Unused(false))
            }

            fn visit_none<E>(self) -> Result<Unused, E> {
                Ok(Unused(false))
            }

            fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<Unused, D::Error> {
                Unused::deserialize(value)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Unused, E> {
                Ok(Unused(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Unused, E> {
                Ok(Unused(value != 0))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Unused, E> {
                Ok(Unused(value != 0))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Unused, E> {
                Ok(Unused(value != 0.0))
            }

            fn visit_str<E>(self, value: &str) -> Result<Unused, E> {
                Ok(Unused(!matches!(value, "" | "0" | "0s")))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Unused, A::Error> {
                let mut is_set = false;
                while let Some(Unused(element)) = list.next_element()? {
                    is_set |= element;
                }
                Ok(Unused(is_set))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unused, A::Error> {
                let mut is_set = false;
                while let Some((_, Unused(value))) = map.next_entry::<IgnoredAny, Unused>()? {
                    is_set |= value;
                }
                Ok(Unused(is_set))
            }
        }

        deserializer.deserialize_any(Look)
    }
}

impl ConfigFile {
    fn parse(text: &str) -> Result<Self, String> {
        let file: Self = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        let (version, kind) = ("kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration");
        if (file.api_version.as_str(), file.kind.as_str()) != (version, kind) {
            return Err(format!("it is not a {kind} of {version}"));
        }
        Ok(file)
    }

    /// Fills in what no flag has set. Returns what is set and has no effect here.
    fn lay_under(self, options: &mut Options) -> Result<Vec<String>, String> {
        fill(&mut options.proxy_mode, "mode", self.mode)?;
        let kubeconfig = self.client_connection.kubeconfig;
        if options.manifests.is_none() {
            fill(&mut options.kubeconfig, "clientConnection.kubeconfig", kubeconfig)?;
        }
        fill(&mut options.hostname_override, "hostnameOverride", self.hostname_override)?;
        fill(&mut options.ipvs_scheduler, "ipvs.scheduler", self.ipvs.scheduler)?;
        fill(&mut options.ipvs_sync_period, "ipvs.syncPeriod", self.ipvs.sync_period)?;
        fill(&mut options.ipvs_min_sync_period, "ipvs.minSyncPeriod", self.ipvs.min_sync_period)?;
        fill(&mut options.ipvs_tcp_timeout, "ipvs.tcpTimeout", self.ipvs.tcp_timeout)?;
        fill(&mut options.ipvs_tcpfin_timeout, "ipvs.tcpFinTimeout", self.ipvs.tcp_fin_timeout)?;
        fill(&mut options.ipvs_udp_timeout, "ipvs.udpTimeout", self.ipvs.udp_timeout)?;
        fill(&mut options.healthz_bind_address, "healthzBindAddress", self.healthz_bind_address)?;
        fill(&mut options.metrics_bind_address, "metricsBindAddress", self.metrics_bind_address)?;
        options.masquerade_all = options.masquerade_all.or(self.iptables.masquerade_all);
        options.ipvs_strict_arp = options.ipvs_strict_arp.or(self.ipvs.strict_arp);
        let excluded = &self.ipvs.exclude_cidrs;
        fill_list(&mut options.ipvs_exclude_cidrs, "ipvs.excludeCIDRs", excluded, network)?;
        let ports = &self.node_port_addresses;
        fill_list(&mut options.nodeport_addresses, "nodePortAddresses", ports, str::parse)?;

        let cidrs: Vec<_> = self.cluster_cidr.iter().flat_map(|text| text.split(',')).collect();
        let cidrs = cidrs.into_iter().filter(|text| !text.is_empty()).map(str::to_owned);
        fill_list(&mut options.cluster_cidr, "clusterCIDR", &cidrs.collect::<Vec<_>>(), network)?;
        options.bind_address_hard_fail =
            options.bind_address_hard_fail.or(self.bind_address_hard_fail);
        let bind = self.bind_address.filter(|text| !matches!(text.as_str(), "" | "0.0.0.0" | "::"));
        fill_list(&mut options.node_ip, "bindAddress", bind.as_slice(), str::parse)?;

        fill(&mut options.detect_local_mode, "detectLocalMode", self.detect_local_mode)?;
        let links = self.detect_local;
        let (bridge, prefix) = (links.bridge_interface, links.interface_name_prefix);
        fill(&mut options.pod_bridge_interface, "detectLocal.bridgeInterface", bridge)?;
        fill(&mut options.pod_interface_name_prefix, "detectLocal.interfaceNamePrefix", prefix)?;

        let mut left_out = Vec::new();
        for (place, rest) in [
            ("", self.rest),
            ("clientConnection.", self.client_connection.rest),
            ("ipvs.", self.ipvs.rest),
            ("iptables.", self.iptables.rest),
            ("detectLocal.", links.rest),
        ] {
            let set = rest.iter().filter(|(_, Unused(is_set))| *is_set);
            left_out
                .extend(set.map(|(name, _)| format!("{place}{name} has no effect in this proxy")));
        }
        Ok(left_out)
    }
}

fn fill<T: FromStr>(option: &mut Option<T>, field: &str, text: Option<String>) -> Result<(), String>
where
    T::Err: fmt::Display,
{
    let text = text.filter(|text| !text.is_empty());
    if option.is_none()
        && let Some(text) = text
    {
        *option = Some(text.parse().map_err(|error| format!("{field}: {error}"))?);
    }
    Ok(())
}

fn fill_list<T, E: fmt::Display>(
    options: &mut Vec<T>,
    field: &str,
    texts: &[String],
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<(), String> {
    if options.is_empty() {
        for text in texts {
            let entry = parse(text).map_err(|error| format!("{field}: {text:?}: {error}"))?;
            options.push(entry);
        }
    }
    Ok(())
}

/// A path below the state directory.
pub(crate) fn ledger_path(directory: &Path) -> PathBuf {
    directory.join("ledger")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_needs_its_length() {
        let refused = |words: &[&str]| {
            Options::try_parse_from([&["lvs-kube-proxy"], words].concat()).unwrap_err().to_string()
        };
        for option in [
            "--nodeport-addresses",
            "--service-cluster-ip-range",
            "--ipvs-exclude-cidrs",
            "--cluster-cidr",
        ] {
            let text = refused(&[option, "192.0.2.11"]);
            assert!(
                text.contains("must be a network, which has a length: 192.0.2.11/32"),
                "{text}"
            );
            let text = refused(&[option, "192.0.2.0/33"]);
            assert!(text.contains("must be a network such as 192.0.2.0/24"), "{text}");
        }
    }

    fn options(words: &[&str]) -> Options {
        Options::try_parse_from([&["lvs-kube-proxy"], words].concat()).unwrap()
    }

    fn with_file(text: &str, words: &[&str]) -> Result<(Options, Vec<String>), OptionsError> {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("config.conf");
        fs::write(&path, text).unwrap();
        let mut options = options(&[words, &["--config", path.to_str().unwrap()]].concat());
        let left_out = options.complete()?;
        Ok((options, left_out))
    }

    const HEAD: &str =
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

    #[test]
    fn defaults_are_kube_proxys() {
        let mut options = options(&[]);
        assert_eq!(options.complete(), Ok(vec![]));
        assert_eq!(options.sync_period(), Duration::from_secs(30));
        assert_eq!(options.min_sync_period(), Duration::ZERO);
        assert_eq!(options.healthz(), Some("0.0.0.0:10256".parse().unwrap()));
        assert_eq!(options.metrics(), Some("127.0.0.1:10249".parse().unwrap()));
        assert!(!options.has_routes());
    }

    #[test]
    fn flags_come_before_the_file() {
        let file = format!(
            "{HEAD}mode: ipvs\nclusterCIDR: 10.244.0.0/16\nhostnameOverride: node-b\n\
             clientConnection: {{kubeconfig: /var/lib/kube-proxy/kubeconfig.conf}}\n\
             nodePortAddresses: [192.0.2.0/24, primary]\nmetricsBindAddress: ''\nportRange: ''\n\
             ipvs: {{scheduler: lc, syncPeriod: 1m0s, minSyncPeriod: 0s, excludeCIDRs: null, \
             strictARP: true, tcpTimeout: 0s}}\n"
        );
        let (options, left_out) = with_file(&file, &["--ipvs-scheduler", "sh"]).unwrap();
        assert_eq!(options.ipvs_scheduler.as_deref(), Some("sh"));
        assert_eq!(options.sync_period(), Duration::from_secs(60));
        assert_eq!(options.ipvs_strict_arp, Some(true));
        assert_eq!(options.node_name().unwrap(), "node-b");
        assert_eq!(options.nodeport_addresses.len(), 2);
        assert!(options.kubeconfig.is_some());
        assert_eq!(options.cluster_cidr, ["10.244.0.0/16".parse().unwrap()]);
        assert_eq!(left_out, [""; 0]);
    }

    /// A ConfigMap as kubeadm makes it, with some fields set.
    #[test]
    fn what_has_no_effect_is_named() {
        let file = format!(
            "{HEAD}bindAddress: 192.0.2.11\nbindAddressHardFail: false\n\
             clientConnection: {{acceptContentTypes: '', burst: 10, contentType: '', kubeconfig: '', qps: 0}}\n\
             configSyncPeriod: 0s\nconntrack: {{maxPerCore: null, min: 5}}\ndetectLocalMode: BridgeInterface\n\
             detectLocal: {{bridgeInterface: cni0, interfaceNamePrefix: ''}}\nenableProfiling: false\n\
             iptables: {{masqueradeAll: true, masqueradeBit: null, syncPeriod: 0s}}\nipvs: {{excludeCIDRs: null, minSyncPeriod: 0s, \
             scheduler: '', schedulr: lc, strictARP: false, syncPeriod: 0s, tcpFinTimeout: 0s, tcpTimeout: 0s, \
             udpTimeout: 0s}}\n\
             logging: {{flushFrequency: 0, options: {{json: {{infoBufferSize: '0'}}}}, verbosity: 0}}\n\
             mode: ipvs\nnodePortAddresses: null\noomScoreAdj: null\nwinkernel: {{enableDSR: false}}\n"
        );
        let (options, left_out) = with_file(&file, &[]).unwrap();
        assert_eq!(options.node_ip, ["192.0.2.11".parse::<IpAddr>().unwrap()]);
        assert_eq!(options.masquerade_all, Some(true));
        assert_eq!(options.sync_period(), Duration::from_secs(30));
        assert_eq!(options.ipvs_scheduler, None);
        assert_eq!(options.detect_local_mode, Some(DetectLocal::BridgeInterface));
        assert_eq!(options.pod_bridge_interface, Some("cni0".parse().unwrap()));
        assert_eq!(
            left_out,
            [
                "conntrack has no effect in this proxy",
                "clientConnection.burst has no effect in this proxy",
                "ipvs.schedulr has no effect in this proxy",
            ]
        );
    }

    #[test]
    fn flags_of_kube_proxy_without_effect() {
        let words = [
            "lvs-kube-proxy",
            "--conntrack-min",
            "0",
            "--ipvs-scheduler=lc",
            "--profiling",
            "--feature-gates=A=true",
            "--cluster-cidr=10.244.0.0/16",
        ];
        let (options, left_out) = Options::from_command_line(words.map(OsString::from)).unwrap();
        assert_eq!(options.ipvs_scheduler.as_deref(), Some("lc"));
        assert_eq!(options.cluster_cidr.len(), 1);
        let names = ["--conntrack-min", "--profiling", "--feature-gates"];
        assert_eq!(left_out, names.map(|name| format!("{name} has no effect in this proxy")));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let error = with_file(&format!("{HEAD}mode: iptables\n"), &[]).unwrap_err().to_string();
        assert!(error.contains("\"iptables\" is not a mode of this proxy"), "{error}");
        let error = with_file("kind: Pod\n", &[]).unwrap_err().to_string();
        assert!(error.contains("config.conf: it is not a KubeProxyConfiguration"), "{error}");
        let file = format!("{HEAD}ipvs: {{syncPeriod: soon}}\n");
        let error = with_file(&file, &[]).unwrap_err().to_string();
        assert!(error.contains("ipvs.syncPeriod: \"soon\" is not a duration"), "{error}");
        let file = format!("{HEAD}detectLocalMode: InterfaceNamePrefix\n");
        let error = with_file(&file, &[]).unwrap_err().to_string();
        assert_eq!(
            error,
            "--detect-local-mode=InterfaceNamePrefix: needs --pod-interface-name-prefix"
        );
        for text in ["", "a/b", "a name", "veth*", "a\"b", "a-name-of-16-byt"] {
            assert!(text.parse::<LinkName>().is_err(), "{text:?}");
        }
        let words =
            ["--service-cluster-ip-range=10.0.0.0/8", "--cluster-cidr=fd42::/48,10.42.0.0/16"];
        let error = options(&words).complete().unwrap_err().to_string();
        assert_eq!(
            error,
            "--service-cluster-ip-range: 10.0.0.0/8 and the pods' 10.42.0.0/16 (--cluster-cidr) have \
             addresses in common"
        );
        let error = options(&["--vip-mode", "routes"]).complete().unwrap_err().to_string();
        assert_eq!(error, "--vip-mode=routes: needs --service-cluster-ip-range");
    }

    #[test]
    fn durations() {
        let read = |text: &str| text.parse::<GoDuration>().map(|duration| duration.0);
        assert_eq!(read("0"), Ok(Duration::ZERO));
        assert_eq!(read("1h2m3s"), Ok(Duration::from_secs(3723)));
        assert_eq!(read("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(read("250ms"), Ok(Duration::from_millis(250)));
        // No time is so far away that it cannot be added to another one.
        let longest = read("3000000000000000h").unwrap();
        assert!(std::time::Instant::now().checked_add(longest * 2).is_some());
        for text in ["", "s", "5", "-1s", "1d", "1s2", "..s", "1e9h"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_flags_are_well_formed() {
        use clap::CommandFactory;
        Options::command().debug_assert();
        assert_eq!(options(&["--ipvs-strict-arp"]).ipvs_strict_arp, Some(true));
        assert_eq!(options(&["--ipvs-strict-arp=false"]).ipvs_strict_arp, Some(false));
        let options = options(&["--healthz-bind-address", "", "--nodeport-addresses", "primary"]);
        assert_eq!(options.healthz(), None);
        let words = ["--cleanup=true", "--init-only=false", "--metrics-bind-address=0.0.0.0"];
        let mut options = self::options(&[&words[..], &["--bind-address=0.0.0.0"]].concat());
        options.complete().unwrap();
        assert!(options.cleanup && !options.init_only && options.node_ip.is_empty());
        assert_eq!(options.metrics(), Some("0.0.0.0:10249".parse().unwrap()));
    }
}
