//! The checked configuration: the command line, the configuration file under it, and the defaults,
//! decided in one place.

mod file;
mod flags;
mod ignored;
mod shown;
#[cfg(test)]
mod tests;
mod unused;
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
    annotation::{is_scheduler_name, kernels_schedulers},
    settings::{MarkBits, NodePortAddresses, WithoutLocal},
};

/// How long a large deletion waits.
const HOLD: Duration = Duration::from_secs(300);
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
    pub(crate) file: Option<ConfigSource>,
    /// The command line, the program's name first.
    words: Vec<OsString>,
    /// Where [`Task::WriteConfig`] writes.
    pub(crate) written_to: Option<PathBuf>,
}

/// The configuration file, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigSource {
    pub(crate) path: PathBuf,
    text: String,
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
    /// Write what is configured to a file.
    WriteConfig,
    /// Let the running proxy do what it holds back.
    Confirm,
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
    pub(crate) allowed_schedulers: BTreeSet<String>,
    pub(crate) ignore_annotations: bool,
    pub(crate) node_port_addresses: Vec<NodePortAddresses>,
    pub(crate) external_ips: bool,
    pub(crate) host_ports: bool,
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
    /// Whether they may, where ranges are known.
    pub(crate) may_route: bool,
    /// Whether they do so without rules that shield the node: everything that listens on it is then reached
    /// at every address of them.
    pub(crate) routes_without_rules: bool,
}

/// What the rules of nftables depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FilterConfig {
    pub(crate) masquerade_all: bool,
    /// Whether services that only some clients may reach are served while that cannot be enforced.
    pub(crate) serve_unrestricted: bool,
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
    /// How long a large deletion waits.
    pub(crate) hold: Duration,
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
        let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
        let (kept, mut unused) = ignored::take_out(words.iter().cloned());
        let mut flags = Flags::try_parse_from(kept).map_err(ConfigError::of_clap)?;
        let mut file = None;
        if let Some(path) = flags.config.clone() {
            let error = |reason| ConfigError::new(path.display(), reason);
            let text = fs::read_to_string(&path).map_err(|reason| error(reason.to_string()))?;
            let parsed = ConfigFile::parse(&text).map_err(error)?;
            unused.extend(parsed.fill_unset(&mut flags).map_err(error)?);
            file = Some(ConfigSource { path, text });
        }
        let config = Self::new(flags, unused, file)?;
        Ok(Self { words, ..config })
    }

    /// The flags that were given, a line each.
    pub(crate) fn command_line(&self) -> String {
        let words = self.words.iter().skip(1).map(|word| word.to_string_lossy());
        words.fold(String::new(), |text, word| {
            let divider = if word.starts_with("--") && !text.is_empty() { "\n" } else { " " };
            format!("{text}{}{word}", if text.is_empty() { "" } else { divider })
        })
    }

    /// With more service ranges, which the cluster names. One that has addresses in common with another one or
    /// with pods is left out.
    pub(crate) fn with_ranges(mut self, learned: impl IntoIterator<Item = IpNet>) -> Self {
        for range in learned {
            let meets = |other: &IpNet| {
                range.contains(&other.network()) || other.contains(&range.network())
            };
            if self.ownership.ranges.iter().any(meets) {
                continue;
            }
            if let Some(pods) = self.services.pod_networks.iter().find(|other| meets(other)) {
                tracing::error!(
                    "the cluster's service range {range} meets {pods}, which is of pods: it is left out"
                );
                continue;
            }
            self.ownership.ranges.push(range);
        }
        self.ownership.has_routes = self.ownership.may_route && !self.ownership.ranges.is_empty();
        self
    }

    /// What has become of the configuration file since it was read: `None` if what it says is the same.
    ///
    /// # Errors
    ///
    /// It cannot be read, or something in it is wrong.
    pub(crate) fn changed(&self) -> Result<Option<Self>, ConfigError> {
        let Some(ConfigSource { path, text }) = &self.file else { return Ok(None) };
        if fs::read_to_string(path).is_ok_and(|now| now == *text) {
            return Ok(None);
        }
        let now = Self::from_command_line(self.words.iter().cloned())?;
        let is_same = Self { file: None, ..now.clone() } == Self { file: None, ..self.clone() };
        Ok((!is_same).then_some(now))
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

    fn new(
        flags: Flags,
        unused: Vec<String>,
        file: Option<ConfigSource>,
    ) -> Result<Self, ConfigError> {
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
        let allowed_schedulers = match flags.allow_schedulers {
            Some(names) => names.into_iter().filter(|name| !name.is_empty()).collect(),
            None => kernels_schedulers(),
        };
        if let Some(name) = allowed_schedulers.iter().find(|name| !is_scheduler_name(name)) {
            let reason = format!("{name:?} is not the name of a scheduler");
            return Err(ConfigError::new("--allow-schedulers", reason));
        }
        // In kube-proxy's file 0 is the default.
        let sync_period = flags.ipvs_sync_period.map(|period| period.0);
        let sync_period = sync_period.filter(|period| !period.is_zero());
        let seconds = |duration: Option<GoDuration>| {
            duration.map_or(0, |duration| u32::try_from(duration.0.as_secs()).unwrap_or(u32::MAX))
        };
        let bind =
            |address: Option<BindAddress>, port: Option<u16>, default: (Ipv4Addr, u16)| match (
                address, port,
            ) {
                (Some(address), port) => address.or(port.unwrap_or(default.1)),
                (None, Some(0)) => None,
                (None, port) => Some((default.0, port.unwrap_or(default.1)).into()),
            };
        let may_route = flags.vip_mode != VipMode::Addresses;
        let has_routes = may_route && !ranges.is_empty();
        Ok(Self {
            task: match () {
                () if flags.write_config_to.is_some() => Task::WriteConfig,
                () if flags.command.is_some() => Task::Confirm,
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
                allowed_schedulers,
                ignore_annotations: flags.ignore_annotations,
                node_port_addresses: flags.nodeport_addresses,
                external_ips: flags.external_ips,
                host_ports: flags.allow_host_ports,
                without_local: flags.without_local,
                mark_bits: flags.mark_bits.unwrap_or_default(),
                pod_networks,
            },
            ownership: Ownership {
                ledger: flags.state_dir.map(|directory| directory.join("ledger")),
                ranges,
                excluded: flags.ipvs_exclude_cidrs,
                has_routes,
                may_route,
                routes_without_rules: flags.vip_mode == VipMode::Routes,
            },
            filter: FilterConfig {
                masquerade_all: flags.masquerade_all.unwrap_or(false),
                serve_unrestricted: flags.serve_without_source_ranges,
                pods,
            },
            kernel: KernelConfig {
                strict_arp: flags.ipvs_strict_arp.unwrap_or(false),
                timeouts: Timeouts::new(
                    seconds(flags.ipvs_tcp_timeout),
                    seconds(flags.ipvs_tcpfin_timeout),
                    seconds(flags.ipvs_udp_timeout),
                ),
            },
            listen: ListenConfig {
                health: bind(
                    flags.healthz_bind_address,
                    flags.healthz_port,
                    (Ipv4Addr::UNSPECIFIED, 10_256),
                ),
                metrics: bind(
                    flags.metrics_bind_address,
                    flags.metrics_port,
                    (Ipv4Addr::LOCALHOST, 10_249),
                ),
                hard_fail: flags.bind_address_hard_fail.unwrap_or(false),
            },
            timing: Timing {
                sync_period: sync_period.unwrap_or(Duration::from_secs(30)),
                min_sync_period: flags.ipvs_min_sync_period.map_or(Duration::ZERO, |it| it.0),
                hold: flags.hold.map_or(HOLD, |hold| hold.0),
                drain_limit: flags.drain_limit.map(|limit| limit.0),
            },
            unused,
            verbosity: flags.v,
            logs_json: flags.logging_format == Some(LogFormat::Json),
            file,
            words: Vec::new(),
            written_to: flags.write_config_to,
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
