//! The checked configuration: the command line, the configuration file under it, and the defaults,
//! decided in one place.

mod file;
mod flags;
mod ignored;
mod values;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fmt, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::Parser;
use ipnet::IpNet;
use lvs::client::packet::Timeouts;

pub(crate) use self::values::{GoDuration, LinkName};
use self::{
    file::ConfigFile,
    flags::Flags,
    values::{BindAddress, DetectLocal, LogFormat, VipMode},
};
use crate::{
    annotation::is_scheduler_name,
    settings::{MarkBits, NodePortAddresses, WithoutLocal},
};

/// How long a real server may keep its TCP connections when nothing is known of its pod.
const UNKNOWN_POD_DRAIN: Duration = Duration::from_secs(60);

/// What the program is to do, and how: every value checked, every default filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub(crate) task: Task,
    pub(crate) source: SourceConfig,
    pub(crate) node: NodeConfig,
    pub(crate) services: ServiceConfig,
    pub(crate) ownership: Ownership,
    pub(crate) filter: FilterConfig,
    pub(crate) kernel: KernelConfig,
    pub(crate) listen: ListenConfig,
    pub(crate) timing: Timing,
    /// What is set and has no effect in this proxy.
    pub(crate) unused: Vec<String>,
    verbosity: u8,
    logs_json: bool,
}

/// What the program is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Follow the source.
    Run,
    /// Bring the kernel to what it should be, once.
    Once,
    /// Say what `Once` would do.
    DryRun,
    /// Make the node's settings.
    Init,
    /// Take everything of the proxy's away.
    CleanUp,
}

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SourceConfig {
    Manifests(PathBuf),
    ApiServer {
        kubeconfig: Option<PathBuf>,
        /// Whether all Nodes are watched, and not this one only.
        all_nodes: bool,
    },
}

/// The node in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeConfig {
    pub(crate) name: String,
    /// The node's own addresses, where they are given.
    pub(crate) addresses: Vec<IpAddr>,
}

/// How services are translated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceConfig {
    pub(crate) scheduler: String,
    pub(crate) node_port_addresses: Vec<NodePortAddresses>,
    pub(crate) external_ips: bool,
    /// `None` is what this node can do best.
    pub(crate) without_local: Option<WithoutLocal>,
    pub(crate) mark_bits: MarkBits,
    pub(crate) pod_networks: Vec<IpNet>,
}

/// What the proxy owns in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ownership {
    /// The file in which it is noted.
    pub(crate) ledger: Option<PathBuf>,
    /// The networks in which everything is the proxy's.
    pub(crate) ranges: Vec<IpNet>,
    /// Those in which nothing is.
    pub(crate) excluded: Vec<IpNet>,
    /// Whether the ranges become local by a route each.
    pub(crate) has_routes: bool,
}

/// What the rules of nftables depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FilterConfig {
    pub(crate) masquerade_all: bool,
    pub(crate) pods: Pods,
}

/// How traffic from pods is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pods {
    /// By its source address; not at all, if there is no network.
    Networks(Vec<IpNet>),
    /// By its source address; the Node says which.
    OfNode,
    /// By the link over which it comes, or by how the name of that begins.
    Link { name: LinkName, is_prefix: bool },
}

/// Settings of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KernelConfig {
    pub(crate) strict_arp: bool,
    pub(crate) timeouts: Timeouts,
}

/// Where health and metrics are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListenConfig {
    pub(crate) health: Option<SocketAddr>,
    pub(crate) metrics: Option<SocketAddr>,
    /// Whether the proxy ends if they cannot be served.
    pub(crate) hard_fail: bool,
}

/// When things happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timing {
    /// How often everything is compared.
    pub(crate) sync_period: Duration,
    /// The least time from the end of a round to the beginning of the next.
    pub(crate) min_sync_period: Duration,
    /// How long a removed endpoint may keep its connections, where its Service does not say.
    pub(crate) drain_limit: Option<Duration>,
}

impl ListenConfig {
    /// Where the proxy serves its own health, metrics, or both.
    pub(crate) fn addresses(&self) -> BTreeSet<SocketAddr> {
        [self.health, self.metrics].into_iter().flatten().collect()
    }
}

impl Timing {
    /// The drain limit of real servers of whose pods nothing is known.
    pub(crate) fn unknown_pod_drain(&self) -> Duration {
        self.drain_limit.unwrap_or(UNKNOWN_POD_DRAIN)
    }
}

impl Config {
    /// Reads a command line as kube-proxy takes it, the program's name first, and the configuration
    /// file that it names. Flags come before the file.
    ///
    /// # Errors
    ///
    /// A flag or the file is wrong, or help was asked for: see [`ConfigError::exit`].
    pub fn from_command_line(
        words: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Result<Self, ConfigError> {
        let (words, mut unused) = ignored::take_out(words.into_iter().map(Into::into));
        let mut flags = Flags::try_parse_from(words).map_err(ConfigError::of_clap)?;
        if let Some(path) = flags.config.clone() {
            let error = |reason| ConfigError::new(path.display(), reason);
            let text = fs::read_to_string(&path).map_err(|reason| error(reason.to_string()))?;
            let file = ConfigFile::parse(&text).map_err(error)?;
            unused.extend(file.fill_unset(&mut flags).map_err(error)?);
        }
        Self::new(flags, unused)
    }

    /// What is asked for and has no effect in this proxy: to be logged.
    pub fn unused(&self) -> &[String] {
        &self.unused
    }

    /// The log level, as `-v` has it: 0 to 2 is info, 3 and 4 debug, from 5 on trace.
    pub fn verbosity(&self) -> u8 {
        self.verbosity
    }

    /// Whether each line of the log is an object in JSON: `--logging-format=json`.
    pub fn logs_json(&self) -> bool {
        self.logs_json
    }

    fn new(flags: Flags, unused: Vec<String>) -> Result<Self, ConfigError> {
        match flags.proxy_mode.as_deref() {
            None | Some("ipvs" | "") => {}
            Some(mode) => {
                let reason = format!("unsupported proxy mode {mode:?}: only \"ipvs\"");
                return Err(ConfigError::new("--proxy-mode", reason));
            }
        }
        let (ranges, pod_networks) = (flags.service_cluster_ip_range, flags.cluster_cidr);
        for range in &ranges {
            let meets = |other: &&IpNet| {
                range.contains(&other.network()) || other.contains(&range.network())
            };
            if let Some(pods) = pod_networks.iter().find(meets) {
                let reason = format!(
                    "{range} and the pods' {pods} (--cluster-cidr) have addresses in common"
                );
                return Err(ConfigError::new("--service-cluster-ip-range", reason));
            }
        }
        if flags.vip_mode == VipMode::Routes && ranges.is_empty() {
            let reason = "needs --service-cluster-ip-range".to_owned();
            return Err(ConfigError::new("--vip-mode=routes", reason));
        }
        let link = |mode: &str, flag: &str, name: Option<LinkName>, is_prefix| match name {
            Some(name) => Ok(Pods::Link { name, is_prefix }),
            None => {
                let place = format!("--detect-local-mode={mode}");
                Err(ConfigError::new(place, format!("needs {flag}")))
            }
        };
        let (bridge, prefix) = (flags.pod_bridge_interface, flags.pod_interface_name_prefix);
        let pods = match flags.detect_local_mode.unwrap_or(DetectLocal::ClusterCidr) {
            DetectLocal::ClusterCidr => Pods::Networks(pod_networks.clone()),
            DetectLocal::NodeCidr => Pods::OfNode,
            DetectLocal::BridgeInterface => {
                link("BridgeInterface", "--pod-bridge-interface", bridge, false)?
            }
            DetectLocal::InterfaceNamePrefix => {
                link("InterfaceNamePrefix", "--pod-interface-name-prefix", prefix, true)?
            }
        };
        let name = match flags.hostname_override {
            Some(name) => name,
            None => fs::read_to_string("/proc/sys/kernel/hostname").map_err(|error| {
                ConfigError::new("--hostname-override", format!("read the host's name: {error}"))
            })?,
        };
        let scheduler = flags.ipvs_scheduler.filter(|name| !name.is_empty());
        let scheduler = scheduler.unwrap_or_else(|| "rr".to_owned());
        if !is_scheduler_name(&scheduler) {
            let reason = format!("{scheduler:?} is not the name of a scheduler");
            return Err(ConfigError::new("--ipvs-scheduler", reason));
        }
        // In kube-proxy's file 0 is the default.
        let sync_period = flags.ipvs_sync_period.map(|period| period.0);
        let sync_period = sync_period.filter(|period| !period.is_zero());
        let seconds = |duration: Option<GoDuration>| {
            duration.map_or(0, |duration| u32::try_from(duration.0.as_secs()).unwrap_or(u32::MAX))
        };
        let bind = |address: Option<BindAddress>, default: (Ipv4Addr, u16)| {
            address.map_or(Some(default.into()), |address| address.or(default.1))
        };
        let has_routes = flags.vip_mode != VipMode::Addresses && !ranges.is_empty();
        Ok(Self {
            task: match () {
                () if flags.cleanup => Task::CleanUp,
                () if flags.init_only => Task::Init,
                () if flags.dry_run => Task::DryRun,
                () if flags.once => Task::Once,
                () => Task::Run,
            },
            source: match flags.manifests {
                Some(path) => SourceConfig::Manifests(path),
                None => SourceConfig::ApiServer {
                    kubeconfig: flags.kubeconfig,
                    all_nodes: flags.watch_nodes,
                },
            },
            node: NodeConfig {
                name: name.trim().to_lowercase(),
                // What kube-proxy binds to need not be an address of its own.
                addresses: flags.node_ip.into_iter().filter(|ip| !ip.is_unspecified()).collect(),
            },
            services: ServiceConfig {
                scheduler,
                node_port_addresses: flags.nodeport_addresses,
                external_ips: flags.external_ips,
                without_local: flags.without_local,
                mark_bits: flags.mark_bits.unwrap_or_default(),
                pod_networks,
            },
            ownership: Ownership {
                ledger: flags.state_dir.map(|directory| directory.join("ledger")),
                ranges,
                excluded: flags.ipvs_exclude_cidrs,
                has_routes,
            },
            filter: FilterConfig { masquerade_all: flags.masquerade_all.unwrap_or(false), pods },
            kernel: KernelConfig {
                strict_arp: flags.ipvs_strict_arp.unwrap_or(false),
                timeouts: Timeouts::new(
                    seconds(flags.ipvs_tcp_timeout),
                    seconds(flags.ipvs_tcpfin_timeout),
                    seconds(flags.ipvs_udp_timeout),
                ),
            },
            listen: ListenConfig {
                health: bind(flags.healthz_bind_address, (Ipv4Addr::UNSPECIFIED, 10_256)),
                metrics: bind(flags.metrics_bind_address, (Ipv4Addr::LOCALHOST, 10_249)),
                hard_fail: flags.bind_address_hard_fail.unwrap_or(false),
            },
            timing: Timing {
                sync_period: sync_period.unwrap_or(Duration::from_secs(30)),
                min_sync_period: flags.ipvs_min_sync_period.map_or(Duration::ZERO, |it| it.0),
                drain_limit: flags.drain_limit.map(|limit| limit.0),
            },
            unused,
            verbosity: flags.v,
            logs_json: flags.logging_format == Some(LogFormat::Json),
        })
    }
}

/// Why the command line or the configuration file cannot be used.
#[derive(Debug)]
pub struct ConfigError(Reason);

#[derive(Debug)]
enum Reason {
    /// What clap says of a flag, which may be the help that was asked for.
    Flag(clap::Error),
    Value {
        place: String,
        reason: String,
    },
}

impl ConfigError {
    fn new(place: impl fmt::Display, reason: String) -> Self {
        Self(Reason::Value { place: place.to_string(), reason })
    }

    fn of_clap(error: clap::Error) -> Self {
        Self(Reason::Flag(error))
    }

    /// Prints it and ends the process: with 2, or with 0 where help or the version was asked for.
    pub fn exit(self) -> ! {
        match self.0 {
            Reason::Flag(error) => error.exit(),
            Reason::Value { .. } => {
                eprintln!("lvs-kube-proxy: {self}");
                std::process::exit(2)
            }
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Reason::Flag(error) => error.fmt(f),
            Reason::Value { place, reason } => write!(f, "{place}: {reason}"),
        }
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(words: &[&str]) -> Result<Config, ConfigError> {
        Config::from_command_line([&["lvs-kube-proxy"], words].concat())
    }

    fn with_file(text: &str, words: &[&str]) -> Result<Config, ConfigError> {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("config.conf");
        fs::write(&path, text).unwrap();
        config(&[words, &["--config", path.to_str().unwrap()]].concat())
    }

    const HEAD: &str =
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

    #[test]
    fn defaults_are_kube_proxys() {
        let config = config(&[]).unwrap();
        assert_eq!(config.unused, [""; 0]);
        assert_eq!(config.timing.sync_period, Duration::from_secs(30));
        assert_eq!(config.timing.min_sync_period, Duration::ZERO);
        assert_eq!(config.listen.health, Some("0.0.0.0:10256".parse().unwrap()));
        assert_eq!(config.listen.metrics, Some("127.0.0.1:10249".parse().unwrap()));
        assert!(!config.ownership.has_routes && config.services.scheduler == "rr");
        assert_eq!(config.task, Task::Run);
    }

    #[test]
    fn a_scheduler_has_a_name() {
        for name in ["wrr, rr", "a b", "a\nb", "ipvs-scheduler-x", "rr;"] {
            let error = config(&["--ipvs-scheduler", name]).unwrap_err().to_string();
            assert!(error.contains("is not the name of a scheduler"), "{error}");
        }
        assert_eq!(config(&["--ipvs-scheduler="]).unwrap().services.scheduler, "rr");
    }

    #[test]
    fn a_network_needs_its_length() {
        for option in [
            "--nodeport-addresses",
            "--service-cluster-ip-range",
            "--ipvs-exclude-cidrs",
            "--cluster-cidr",
        ] {
            let text = config(&[option, "192.0.2.11"]).unwrap_err().to_string();
            let expected = "must be a network, which has a length: 192.0.2.11/32";
            assert!(text.contains(expected), "{text}");
            let text = config(&[option, "192.0.2.0/33"]).unwrap_err().to_string();
            assert!(text.contains("must be a network such as 192.0.2.0/24"), "{text}");
        }
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
        let config = with_file(&file, &["--ipvs-scheduler", "sh"]).unwrap();
        assert_eq!(config.services.scheduler, "sh");
        assert_eq!(config.timing.sync_period, Duration::from_secs(60));
        assert!(config.kernel.strict_arp);
        assert_eq!(config.node.name, "node-b");
        assert_eq!(config.services.node_port_addresses.len(), 2);
        assert!(matches!(
            config.source,
            SourceConfig::ApiServer { kubeconfig: Some(_), all_nodes: false }
        ));
        assert_eq!(config.services.pod_networks, ["10.244.0.0/16".parse().unwrap()]);
        assert_eq!(config.unused, [""; 0]);
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
        let config = with_file(&file, &[]).unwrap();
        assert_eq!(config.node.addresses, ["192.0.2.11".parse::<IpAddr>().unwrap()]);
        assert!(config.filter.masquerade_all);
        assert_eq!(config.timing.sync_period, Duration::from_secs(30));
        assert_eq!(config.services.scheduler, "rr");
        let bridge = Pods::Link { name: "cni0".parse().unwrap(), is_prefix: false };
        assert_eq!(config.filter.pods, bridge);
        assert_eq!(
            config.unused,
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
            "--conntrack-min",
            "0",
            "--ipvs-scheduler=lc",
            "--profiling",
            "--feature-gates=A=true",
            "--cluster-cidr=10.244.0.0/16",
        ];
        let config = config(&words).unwrap();
        assert_eq!(config.services.scheduler, "lc");
        assert_eq!(config.services.pod_networks.len(), 1);
        let names = ["--conntrack-min", "--profiling", "--feature-gates"];
        assert_eq!(config.unused, names.map(|name| format!("{name} has no effect in this proxy")));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let error = with_file(&format!("{HEAD}mode: iptables\n"), &[]).unwrap_err().to_string();
        assert!(error.contains("unsupported proxy mode \"iptables\""), "{error}");
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
        let error = config(&words).unwrap_err().to_string();
        assert_eq!(
            error,
            "--service-cluster-ip-range: 10.0.0.0/8 and the pods' 10.42.0.0/16 (--cluster-cidr) have \
             addresses in common"
        );
        let error = config(&["--vip-mode", "routes"]).unwrap_err().to_string();
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
        Flags::command().debug_assert();
        assert!(config(&["--ipvs-strict-arp"]).unwrap().kernel.strict_arp);
        assert!(!config(&["--ipvs-strict-arp=false"]).unwrap().kernel.strict_arp);
        let none = config(&["--healthz-bind-address", "", "--nodeport-addresses", "primary"]);
        assert_eq!(none.unwrap().listen.health, None);
        let words = ["--cleanup=true", "--init-only=false", "--metrics-bind-address=0.0.0.0"];
        let config = config(&[&words[..], &["--bind-address=0.0.0.0"]].concat()).unwrap();
        assert!(config.task == Task::CleanUp && config.node.addresses.is_empty());
        assert_eq!(config.listen.metrics, Some("0.0.0.0:10249".parse().unwrap()));
    }
}
