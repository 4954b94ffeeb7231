//! The settings `net.ipv4.vs.*`, typed.

mod value;

use std::{collections::BTreeMap, fmt, fs, io, path::Path, time::Duration};

use netlink_talk::setting::{self, Changed};

use super::namespace::Namespace;
use crate::{
    Error, ErrorKind,
    error::{LOAD_IP_VS, errno},
};

/// Shows each thread the settings of its own network namespace.
pub use self::value::{DefenseMode, SyncThreshold, SysctlValue};

const DIRECTORY: &str = "/proc/sys/net/ipv4/vs";
const LISTING: &str = "listing net.ipv4.vs.*";
const RELEASE: &str = "/proc/sys/kernel/osrelease";
const RESTORING: &str = "restoring net.ipv4.vs.*";
const KUBE_PROXY: &str = "setting net.ipv4.vs.* as kube-proxy does";

/// A setting of IPVS with the type of its value: `net.ipv4.vs.<name>` of a network namespace.
///
/// ```no_run
/// use ipvs_client::Sysctl;
///
/// # fn example(client: ipvs_client::Client) -> Result<(), ipvs_client::Error> {
/// client.set_sysctl(Sysctl::CONNTRACK, true)?; // sysctl -w net.ipv4.vs.conntrack=1
/// assert_eq!(client.sysctl(Sysctl::SYNC_THRESHOLD)?.to_string(), "3 50");
/// # Ok(())
/// # }
/// ```
pub struct Sysctl<T> {
    info: SysctlInfo,
    /// What a value must be, in words: "0 to 3".
    rule: &'static str,
    /// The same as a test, as far as it does not depend on the machine.
    allowed: fn(&T) -> bool,
}

impl<T> Sysctl<T> {
    /// Its name, and which kernels have it.
    pub const fn info(&self) -> SysctlInfo {
        self.info
    }

    const fn new(info: SysctlInfo, rule: &'static str, allowed: fn(&T) -> bool) -> Self {
        Self { info, rule, allowed }
    }
}

impl<T> Clone for Sysctl<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Sysctl<T> {}

/// As sysctl writes it: `net.ipv4.vs.conntrack`.
impl<T> fmt::Display for Sysctl<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info.fmt(f)
    }
}

impl<T> fmt::Debug for Sysctl<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info.fmt(f)
    }
}

/// Which kernels have a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SysctlInfo {
    /// Its name after `net.ipv4.vs.`.
    pub name: &'static str,
    /// The version of Linux in which it came; `None` where that was before 3.2, the oldest that
    /// Rust programs run on.
    pub since: Option<(u32, u32)>,
    /// What else the kernel needs for it.
    pub needs: Option<&'static str>,
}

/// As sysctl writes it: `net.ipv4.vs.conntrack`.
impl fmt::Display for SysctlInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net.ipv4.vs.{}", self.name)
    }
}

macro_rules! sysctls {
    ($(
        $(#[$doc:meta])*
        $const:ident: $type:ty = $name:literal, $since:expr, $needs:expr, $rule:literal, $allowed:expr;
    )*) => {
        $(
            impl Sysctl<$type> {
                $(#[$doc])*
                pub const $const: Self = Self::new(
                    SysctlInfo { name: $name, since: $since, needs: $needs },
                    $rule,
                    $allowed,
                );
            }
        )*

        impl SysctlInfo {
            /// Every setting that this crate knows, in the order of the alphabet.
            pub const ALL: &'static [Self] = &[$(Sysctl::<$type>::$const.info),*];
        }
    };
}

sysctls! {
    /// In mode [`Always`](DefenseMode::Always) of [`DROP_PACKET`](Sysctl::DROP_PACKET), one of so
    /// many packets is dropped: 0 (none) to 2^31 - 1, by default 10.
    AM_DROPRATE: i32 = "am_droprate", None, None, "0 to 2147483647", |&value| value >= 0;
    /// Below so many pages of free memory the automatic modes of defence are on: 0 to 2^31 - 1, by
    /// default 1024.
    AMEMTHRESH: i32 = "amemthresh", None, None, "0 to 2147483647", |&value| value >= 0;
    /// Whether a director whose backup sync daemon runs leaves packets alone, so that those of
    /// direct routing and tunnelling do not circle; off by default. Since Linux 3.9.
    BACKUP_ONLY: bool = "backup_only", Some((3, 9)), None, "0 or 1", |_| true;
    /// Whether packets go on to where they were addressed, if that is not local, while no destination is
    /// available (for transparent caches); off by default.
    CACHE_BYPASS: bool = "cache_bypass", None, None, "0 or 1", |_| true;
    /// How full the connection table gets before it grows, as a power of two: -8 to 8. By default -4,
    /// which is 2^4 buckets for a connection; in network namespaces other than the initial one -2.
    /// Since Linux 7.1.
    CONN_LFACTOR: i32 = "conn_lfactor", Some((7, 1)), None, "-8 to 8", |value| {
        (-8..=8).contains(value)
    };
    /// How many connections there may be: 0 to 2^30, by default 2^30. Since Linux 7.2.
    CONN_MAX: u64 = "conn_max", Some((7, 2)), None, "0 to 1073741824", |&value| value <= 1 << 30;
    /// What becomes of a new connection with the address and port of an old one that is still in
    /// the table: 0, it goes where the old one went; 1 (the default), it is scheduled anew where
    /// that is safe (in `TIME_WAIT`, or if the destination is gone); 2 or 3, also in `FIN_WAIT`,
    /// the last state that a director sees in direct routing. Since Linux 4.1.
    ///
    /// Before Linux 5.9, with [`CONNTRACK`](Sysctl::CONNTRACK), other modes than 0 delay such
    /// connections by a second.
    CONN_REUSE_MODE: i32 = "conn_reuse_mode", Some((4, 1)), None, "0 to 3", |value| {
        (0..=3).contains(value)
    };
    /// Whether connections are known to connection tracking too, as rules of the firewall that are
    /// stateful or rewrite sources (`MASQUERADE`) need it; off by default, and slower.
    CONNTRACK: bool = "conntrack", None, Some("a kernel built with CONFIG_IP_VS_NFCT"),
        "0 or 1", |_| true;
    /// How much the kernel logs: 0 (the default, little) to 12 and more. One for all network
    /// namespaces; in newer kernels, read-only but in the initial one.
    DEBUG_LEVEL: i32 = "debug_level", None, Some("a kernel built with CONFIG_IP_VS_DEBUG"),
        "0 to 2147483647", |&value| value >= 0;
    /// When unfinished connections are dropped at random against a flood of SYN; off by default.
    DROP_ENTRY: DefenseMode = "drop_entry", None, None, "0 to 3", |_| true;
    /// When packets are dropped at random against overload; off by default.
    DROP_PACKET: DefenseMode = "drop_packet", None, None, "0 to 3", |_| true;
    /// The CPUs on which statistics are estimated, as a list such as `0-3,8`, or `all`; empty stops
    /// the estimation. By default the CPUs for the kernel's housekeeping. Since Linux 6.2.
    EST_CPULIST: String = "est_cpulist", Some((6, 2)), None, "a list of CPUs such as 0-3,8", |text| {
        !text.contains(|c: char| c.is_control())
    };
    /// The niceness of the threads that estimate: -20 to 19, by default 0. Since Linux 6.2.
    EST_NICE: i32 = "est_nice", Some((6, 2)), None, "-20 to 19", |value| {
        (-20..=19).contains(value)
    };
    /// Whether a connection ends when its destination was deleted, instead of waiting for it to
    /// come back while its packets are dropped; off by default.
    EXPIRE_NODEST_CONN: bool = "expire_nodest_conn", None, None, "0 or 1", |_| true;
    /// Whether a persistence template ends when its destination has weight 0, so that the next
    /// connection of its client goes elsewhere; off by default.
    EXPIRE_QUIESCENT_TEMPLATE: bool = "expire_quiescent_template", None, None, "0 or 1", |_| true;
    /// Whether packets of protocols that IPVS does not know are kept from being scheduled again
    /// behind a tunnel; off by default. Since Linux 4.3.
    IGNORE_TUNNELED: bool = "ignore_tunneled", Some((4, 3)), None, "0 or 1", |_| true;
    /// How long the scheduler lblc keeps an entry that is not used: whole seconds up to 2^31 - 1
    /// ticks, by default 86,400. (Its module must be loaded: it is with the first service that
    /// names it.)
    LBLC_EXPIRATION: Duration = "lblc_expiration", None, Some("the module ip_vs_lblc"),
        "whole seconds, at most 2^31 - 1 ticks", whole_seconds;
    /// The same for the scheduler lblcr.
    LBLCR_EXPIRATION: Duration = "lblcr_expiration", None, Some("the module ip_vs_lblcr"),
        "whole seconds, at most 2^31 - 1 ticks", whole_seconds;
    /// Whether, in masquerading, a real server gets an ICMP error for a packet that belongs to no
    /// connection; off by default.
    NAT_ICMP_SEND: bool = "nat_icmp_send", None, None, "0 or 1", |_| true;
    /// Whether packets that are too long and must not be fragmented are refused by ICMP; on by
    /// default. Off, tunnelling fragments them. Since Linux 3.7.
    PMTU_DISC: bool = "pmtu_disc", Some((3, 7)), None, "0 or 1", |_| true;
    /// Whether statistics are estimated; on by default. Off, counters and rates stand still. Since
    /// Linux 5.16.
    RUN_ESTIMATION: bool = "run_estimation", Some((5, 16)), None, "0 or 1", |_| true;
    /// Whether ICMP of other kinds than errors is scheduled too; off by default. Since Linux 4.3.
    SCHEDULE_ICMP: bool = "schedule_icmp", Some((4, 3)), None, "0 or 1", |_| true;
    /// When TCP's states are watched more strictly against floods; off by default.
    SECURE_TCP: DefenseMode = "secure_tcp", None, None, "0 to 3", |_| true;
    /// Whether SCTP connections are taken over in the middle (on backup directors); off by default.
    /// Since Linux 3.11.
    SLOPPY_SCTP: bool = "sloppy_sctp", Some((3, 11)), None, "0 or 1", |_| true;
    /// The same for TCP. Since Linux 3.11.
    SLOPPY_TCP: bool = "sloppy_tcp", Some((3, 11)), None, "0 or 1", |_| true;
    /// Whether answers of real servers are routed as if the director had sent them; on by default.
    SNAT_REROUTE: bool = "snat_reroute", None, None, "0 or 1", |_| true;
    /// How full the table of services gets before it grows, as a power of two: -8 to 8. By default
    /// -3, in network namespaces other than the initial one -2. Since Linux 7.1.
    SVC_LFACTOR: i32 = "svc_lfactor", Some((7, 1)), None, "-8 to 8", |value| {
        (-8..=8).contains(value)
    };
    /// Whether sync daemons send only the templates of persistent services, without their
    /// connections; off by default. Since Linux 3.11.
    SYNC_PERSIST_MODE: bool = "sync_persist_mode", Some((3, 11)), None, "0 or 1", |_| true;
    /// By how many threads, each with a UDP port of its own, a sync daemon sends or receives: a
    /// power of two, by default 1; more than 64 are not used. Since Linux 3.5.
    SYNC_PORTS: i32 = "sync_ports", Some((3, 5)), None, "a power of two, 1 to 64", |&value| {
        (1..=64).contains(&value) && value.count_ones() == 1
    };
    /// How many messages may wait for a sync daemon to send them: by default a 32nd of the memory
    /// in pages. Read-only in other user namespaces. Since Linux 3.5.
    SYNC_QLEN_MAX: u64 = "sync_qlen_max", Some((3, 5)), None, "a number of messages", |_| true;
    /// By how much the time that is left to a connection must change before a sync daemon sends it
    /// again, if nothing else about it changed: whole seconds up to 2^31 - 1 ticks, by default 0. Since
    /// Linux 3.5.
    SYNC_REFRESH_PERIOD: Duration = "sync_refresh_period", Some((3, 5)), None,
        "whole seconds, at most 2^31 - 1 ticks", whole_seconds;
    /// How often a sync message is repeated, each time an eighth of
    /// [`SYNC_REFRESH_PERIOD`](Sysctl::SYNC_REFRESH_PERIOD) later: 0 (the default) to 3. Since
    /// Linux 3.5.
    SYNC_RETRIES: i32 = "sync_retries", Some((3, 5)), None, "0 to 3", |value| {
        (0..=3).contains(value)
    };
    /// The buffer of a sync daemon's socket in bytes (`SO_SNDBUF`, `SO_RCVBUF`), 0 to 2^31 - 1; 0,
    /// the default, leaves the system's. Read-only in other user namespaces. Since Linux 3.5.
    SYNC_SOCK_SIZE: i32 = "sync_sock_size", Some((3, 5)), None, "0 to 2147483647", |&value| {
        value >= 0
    };
    /// After which packets a sync daemon sends a connection to the backup; by default "3 50".
    SYNC_THRESHOLD: SyncThreshold = "sync_threshold", None, None,
        "a threshold below the period, or a period of 0, neither above 2147483647", |value| {
        (value.period == 0 || value.threshold < value.period)
            && value.period.max(value.threshold) <= i32::MAX as u32
    };
    /// In which version a sync daemon sends, 0 or 1; by default 1.
    SYNC_VERSION: i32 = "sync_version", None, None, "0 or 1", |value| (0..=1).contains(value);
}

/// A setting that a call changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SysctlChange {
    /// Which one.
    pub sysctl: SysctlInfo,
    /// Its value before, as the kernel writes it.
    pub before: String,
    /// Its value now.
    pub after: String,
}

/// As sysctl prints it: `net.ipv4.vs.conntrack = 1`.
impl fmt::Display for SysctlChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.sysctl, self.after)
    }
}

/// Several settings were to be changed, and one could not be: see
/// [`Client::set_kube_proxy_sysctls`](crate::Client::set_kube_proxy_sysctls).
///
/// [`Client::restore_sysctls`](crate::Client::restore_sysctls) undoes what was changed before.
#[derive(Debug)]
#[non_exhaustive]
pub struct SysctlsError {
    /// Why the one that failed did.
    pub error: Error,
    /// What was changed before, in order.
    pub changed: Vec<SysctlChange>,
}

impl fmt::Display for SysctlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)?;
        for (position, change) in self.changed.iter().enumerate() {
            let start = if position == 0 { "; changed before that:" } else { "," };
            write!(f, "{start} {change} (it was {})", change.before)?;
        }
        Ok(())
    }
}

impl std::error::Error for SysctlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl From<SysctlsError> for Error {
    fn from(error: SysctlsError) -> Self {
        error.error
    }
}

/// Reads a setting in a namespace.
pub(crate) fn read<T: SysctlValue>(namespace: &Namespace, sysctl: Sysctl<T>) -> Result<T, Error> {
    namespace.run(&format!("reading {sysctl}"), || read_here(sysctl).map(|(value, _)| value))
}

/// Writes a setting in a namespace.
pub(crate) fn write<T: SysctlValue>(
    namespace: &Namespace,
    sysctl: Sysctl<T>,
    value: T,
) -> Result<(), Error> {
    let operation = format!("setting {sysctl}");
    if !(sysctl.allowed)(&value) {
        let text = format!("it must be {}, not {}", sysctl.rule, value.text());
        return Err(Error::new(ErrorKind::Invalid, operation, &text));
    }
    let text = value.text();
    namespace.run(&operation, || write_here(sysctl, &text))
}

/// Reads every setting in a namespace, known or not.
pub(crate) fn list(namespace: &Namespace) -> Result<BTreeMap<String, String>, Error> {
    namespace.run(LISTING, || {
        let refused = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => absent(LISTING, error),
            _ => Error::file(LISTING, ErrorKind::Os, "it cannot be read", error),
        };
        fs::read_dir(DIRECTORY)
            .map_err(refused)?
            .map(|entry| {
                let entry = entry.map_err(refused)?;
                let text = setting::read(&entry.path()).map_err(refused)?;
                Ok((entry.file_name().to_string_lossy().into_owned(), text))
            })
            .collect()
    })
}

/// Sets in a namespace what kube-proxy sets in its IPVS mode. Returns what was different before.
pub(crate) fn prepare_kube_proxy(namespace: &Namespace) -> Result<Vec<SysctlChange>, SysctlsError> {
    let nothing_changed = |error| SysctlsError { error, changed: Vec::new() };
    let changes = namespace.run(KUBE_PROXY, || {
        let release = fs::read_to_string(RELEASE).map_err(|error| {
            Error::file(KUBE_PROXY, ErrorKind::Os, "the kernel's version cannot be read", error)
        })?;
        let version = kernel_version(&release).ok_or_else(|| {
            let text = format!("the kernel's version cannot be read: {}", release.trim_end());
            Error::malformed(KUBE_PROXY, &text)
        })?;
        // Looked at before the first is written: one that is not there is no half a success.
        let mut changes = Vec::new();
        for sysctl in
            [Sysctl::CONNTRACK, Sysctl::EXPIRE_NODEST_CONN, Sysctl::EXPIRE_QUIESCENT_TEMPLATE]
        {
            changes.extend(difference(sysctl, true)?);
        }
        if wants_no_reuse(version) {
            changes.extend(difference(Sysctl::CONN_REUSE_MODE, 0)?);
        }
        Ok(changes)
    });
    let changes = changes.map_err(nothing_changed)?;
    let written = namespace.run(KUBE_PROXY, || {
        let failed = changes.iter().enumerate().find_map(|(position, change)| {
            let written = write_text_here(change.sysctl, &change.after);
            written.err().map(|error| (position, error))
        });
        Ok(failed)
    });
    match written.map_err(nothing_changed)? {
        None => Ok(changes),
        Some((position, error)) => {
            let changed = changes.into_iter().take(position).collect();
            Err(SysctlsError { error, changed })
        }
    }
}

/// Gives settings in a namespace the values that they had before they were changed, where nobody else
/// has changed them since.
pub(crate) fn restore(namespace: &Namespace, changes: &[SysctlChange]) -> Result<(), Error> {
    let changes = changes.iter().map(|SysctlChange { sysctl, before, after }| Changed {
        setting: *sysctl,
        before: before.clone(),
        after: after.clone(),
    });
    namespace.run(RESTORING, || {
        let read = |sysctl: &SysctlInfo| match read_here(any_value(*sysctl)) {
            Ok((_, text)) => Ok(Some(text)),
            // Gone with the module or the namespace's settings: there is nothing to restore.
            Err(error)
                if matches!(error.kind(), ErrorKind::NotAvailable | ErrorKind::Unsupported) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        };
        setting::restore(changes, read, |sysctl, value| write_text_here(*sysctl, value)).1
    })
}

/// From Linux 4.1, which has the mode, until 5.9, where it no longer delays connections.
fn wants_no_reuse(version: (u32, u32)) -> bool {
    ((4, 1)..(5, 9)).contains(&version)
}

/// What it takes to give a setting a value.
fn difference<T>(sysctl: Sysctl<T>, value: T) -> Result<Option<SysctlChange>, Error>
where
    T: SysctlValue + PartialEq,
{
    let (current, before) = read_here(sysctl)?;
    let differs = current != value;
    let change = SysctlChange { sysctl: sysctl.info, before, after: value.text() };
    Ok(differs.then_some(change))
}

/// Reads a setting in the namespace of the calling thread: its value, and its text.
fn read_here<T: SysctlValue>(sysctl: Sysctl<T>) -> Result<(T, String), Error> {
    let operation = format!("reading {sysctl}");
    let text =
        setting::read(&path_of(sysctl.info)).map_err(|error| refused(&operation, sysctl, error))?;
    let value = T::parse(&text).ok_or_else(|| {
        Error::malformed(operation, &format!("the value \"{text}\" is not {}", sysctl.rule))
    })?;
    Ok((value, text))
}

/// Writes a setting in the namespace of the calling thread.
fn write_here<T>(sysctl: Sysctl<T>, text: &str) -> Result<(), Error> {
    setting::write(&path_of(sysctl.info), text)
        .map_err(|error| refused(&format!("setting {sysctl}"), sysctl, error))
}

/// Writes a value that the kernel is known to take, as text.
fn write_text_here(sysctl: SysctlInfo, text: &str) -> Result<(), Error> {
    write_here(any_value(sysctl), text)
}

/// A setting with its value as text.
fn any_value(sysctl: SysctlInfo) -> Sysctl<String> {
    Sysctl::new(sysctl, "a value that it had", |_| true)
}

fn path_of(info: SysctlInfo) -> std::path::PathBuf {
    Path::new(DIRECTORY).join(info.name)
}

/// What it means that a setting cannot be read or written.
fn refused<T>(operation: &str, sysctl: Sysctl<T>, error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(errno::NOENT) => {
            let any = fs::read_dir(DIRECTORY).is_ok_and(|mut directory| directory.next().is_some());
            let SysctlInfo { since, needs, .. } = sysctl.info;
            let text = match (since, needs) {
                (Some((major, minor)), _) if any => {
                    format!("this kernel does not have it; it came with Linux {major}.{minor}")
                }
                (None, Some(needs)) if any => {
                    format!("this kernel does not have it; it needs {needs}")
                }
                _ => return absent(operation, error),
            };
            Error::file(operation, ErrorKind::Unsupported, &text, error)
        }
        Some(errno::INVAL) => {
            let text = format!("the kernel refuses it: it must be {}", sysctl.rule);
            Error::file(operation, ErrorKind::Invalid, &text, error)
        }
        Some(errno::PERM | errno::ACCES) => {
            let text = "root in the network namespace is needed, or CAP_NET_ADMIN there; outside of the \
                        initial network and user namespaces some settings are read-only";
            Error::file(operation, ErrorKind::PermissionDenied, text, error)
        }
        Some(errno::ROFS) => {
            let text = "/proc/sys is mounted read-only, as in a container that is not privileged; set \
                        it on the host, for this network namespace";
            Error::file(operation, ErrorKind::ReadOnly, text, error)
        }
        _ => Error::file(operation, ErrorKind::Os, "the kernel refuses it", error),
    }
}

/// None of the settings is there.
fn absent(operation: &str, error: io::Error) -> Error {
    let text = format!(
        "ip_vs is not loaded ({LOAD_IP_VS}), /proc is not mounted, or (before Linux 6.10) the network \
         namespace does not belong to the initial user namespace"
    );
    Error::file(operation, ErrorKind::NotAvailable, &text, error)
}

fn whole_seconds(value: &Duration) -> bool {
    value.subsec_nanos() == 0 && value.as_secs() <= i32::MAX as u64
}

/// Of a release such as `6.1.0-18-amd64`, the first two numbers.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests;
