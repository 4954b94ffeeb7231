//! Listings, equal to ipvsadm's.

mod connections;
mod order;
#[cfg(feature = "serde")]
mod serialize;
mod settings;

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
};

use ipvs_packet::{
    AddressFamily, Destination, DestinationEntry, ForwardMethod, Info, Netmask, Service,
    ServiceEntry, ServiceFlags, ServiceKey, Statistics, Tunnel, TunnelFlags, TunnelType,
    Unreadable,
};

pub(crate) use self::order::{destinations_in_order, services_in_order};
pub use self::{
    connections::ConnectionListing,
    settings::{DaemonListing, TimeoutListing},
};

use crate::{
    ListOptions, Names, Numeric, ServiceSnapshot, Snapshot,
    names::{endpoint, protocol_of, push_decimal},
    settings::SERVICE,
};

/// Services with their destinations, as `ipvsadm -L -n` prints them. By [`options`](Self::options),
/// as the other listings of ipvsadm 1.31: `--stats`, `--rate`, `--thresholds`, `--persistent-conn`,
/// `--tun-info`, each with or without `--exact`. Where several are given, the first of these counts.
///
/// ```
/// use ipvs_packet::{Destination, DestinationEntry, Info, Service, ServiceEntry, Version};
/// use ipvs_table::{Listing, ServiceSnapshot, Snapshot};
///
/// let service = ServiceEntry::new(Service::new("-t 10.0.0.185:80".parse()?));
/// let destination = DestinationEntry::new(Destination::new("172.17.0.3:80".parse()?));
/// let snapshot = Snapshot::from_iter([ServiceSnapshot::new(service, vec![destination])]);
/// let listing = Listing::of_table(Info::new(Version(0x01_0201), 4096), &snapshot);
/// assert_eq!(
///     listing.to_string(),
///     "\
/// IP Virtual Server version 1.2.1 (size=4096)
/// Prot LocalAddress:Port Scheduler Flags
///   -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
/// TCP  10.0.0.185:80 wlc
///   -> 172.17.0.3:80                Masq    1      0          0         
/// "
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// With the feature `serde` it serializes as a [document](crate::TableDocument) with all statistics and, of a
/// whole table, what the kernel says of itself: the same whatever the options.
///
/// # What differs from ipvsadm
///
/// Equal byte for byte, except where ipvsadm 1.31 is wrong:
///
/// - It cuts counters and rates of real servers to 32 bits.
/// - It subtracts to compare, so that its order is another one where addresses, or 32-bit words of
///   IPv6 addresses, are 2^31 or more apart, and where real servers of both families are in one
///   service. Marks from 2^31 on it prints as negative numbers, and first.
/// - It knows no word for [`BYPASS`](ForwardMethod::BYPASS), other forwarding methods and other
///   protocols (`(null)` and `?`); here they are `Bypass` and numbers, and `IP_99`.
/// - Of scheduler flags it prints those that it knows for the scheduler, and empty brackets where
///   there are others alone. Here all are printed, by the names of
///   [`Service::scheduler_flag_names`].
/// - Flags of a tunnel other than the three that it can set make it read beyond its table.
/// - Names of IPv6 hosts and their ports are cut to 59 bytes.
#[derive(Clone)]
pub struct Listing<'a> {
    info: Option<Info>,
    #[cfg_attr(not(feature = "serde"), allow(dead_code, reason = "only documents have it"))]
    uncertain: Vec<&'a ServiceKey>,
    #[cfg_attr(not(feature = "serde"), allow(dead_code, reason = "only documents have it"))]
    unreadable: Vec<&'a Unreadable>,
    services: Vec<(&'a ServiceEntry, Vec<&'a DestinationEntry>)>,
    columns: Columns,
    exact: bool,
    numeric: bool,
    names: &'a dyn Names,
}

/// What is shown of each entry.
#[derive(Clone, Copy)]
enum Columns {
    Statistics,
    Rates,
    Thresholds,
    PersistentConnections,
    Tunnels,
    Connections,
}

impl<'a> Listing<'a> {
    /// A whole table, in order.
    pub fn of_table(info: Info, snapshot: &'a Snapshot) -> Self {
        let services = services_in_order(snapshot.services.values()).into_iter();
        let services = services
            .map(|service| (&service.entry, destinations_in_order(&service.destinations)))
            .collect();
        let uncertain = snapshot.uncertain.iter().collect();
        let unreadable = snapshot.unreadable.values().flatten().collect();
        Self { info: Some(info), uncertain, unreadable, ..Self::new(services) }
    }

    /// One service, as `ipvsadm -L -n -t 10.0.0.185:80` lists it: without the line of the version.
    pub fn of_service(service: &'a ServiceSnapshot) -> Self {
        Self::new(vec![(&service.entry, destinations_in_order(&service.destinations))])
    }

    /// A whole table in the order in which it is given, for `--nosort`. ipvsadm then prints the
    /// kernel's order, which only lists of the kernel have; a [`Snapshot`] has its own.
    pub fn unsorted(
        info: Info,
        services: impl IntoIterator<Item = (&'a ServiceEntry, &'a [DestinationEntry])>,
    ) -> Self {
        let services = services
            .into_iter()
            .map(|(service, destinations)| (service, destinations.iter().collect()))
            .collect();
        Self { info: Some(info), ..Self::new(services) }
    }

    /// One service with its destinations in the order in which they are given, for `--nosort`.
    pub fn unsorted_service(
        service: &'a ServiceEntry,
        destinations: &'a [DestinationEntry],
    ) -> Self {
        Self::new(vec![(service, destinations.iter().collect())])
    }

    fn new(services: Vec<(&'a ServiceEntry, Vec<&'a DestinationEntry>)>) -> Self {
        let columns = Columns::Connections;
        Self {
            info: None,
            uncertain: Vec::new(),
            unreadable: Vec::new(),
            services,
            columns,
            exact: false,
            numeric: false,
            names: &Numeric,
        }
    }

    /// Which columns are shown, and how. What is listed and whether it is sorted is said by the
    /// listing itself.
    #[must_use]
    pub fn options(self, options: &ListOptions) -> Self {
        let columns = match options {
            ListOptions { statistics: true, .. } => Columns::Statistics,
            ListOptions { rates: true, .. } => Columns::Rates,
            ListOptions { thresholds: true, .. } => Columns::Thresholds,
            ListOptions { persistent_connections: true, .. } => Columns::PersistentConnections,
            ListOptions { tunnels: true, .. } => Columns::Tunnels,
            _ => Columns::Connections,
        };
        Self { columns, exact: options.exact, numeric: options.numeric, ..self }
    }

    /// Where names are looked up, unless the options say `numeric`. By default nowhere.
    #[must_use]
    pub fn names(self, names: &'a dyn Names) -> Self {
        Self { names, ..self }
    }

    fn write_title(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e] = match self.columns {
            Columns::Statistics => ["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"],
            Columns::Rates => ["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"],
            Columns::Thresholds => {
                return writeln!(
                    f,
                    "{LOCAL:<33} Uthreshold Lthreshold ActiveConn InActConn \n{REMOTE}"
                );
            }
            Columns::PersistentConnections => {
                return writeln!(
                    f,
                    "{LOCAL:<33} Weight    PersistConn ActiveConn InActConn \n{REMOTE}"
                );
            }
            Columns::Tunnels => {
                return writeln!(
                    f,
                    "{LOCAL} Scheduler Flags\n{REMOTE:<33} Forward TunnelInfo    Weight \
                     ActiveConn InActConn"
                );
            }
            Columns::Connections => {
                return writeln!(
                    f,
                    "{LOCAL} Scheduler Flags\n{REMOTE:<33} Forward Weight ActiveConn InActConn"
                );
            }
        };
        writeln!(f, "{LOCAL:<33} {a:>8} {b:>8} {c:>8} {d:>8} {e:>8}\n{REMOTE}")
    }

    fn write_service(
        &self,
        f: &mut fmt::Formatter<'_>,
        entry: &ServiceEntry,
        names: &dyn Names,
    ) -> fmt::Result {
        let key = match *entry.service.key() {
            ServiceKey::Address { protocol, address, port } => {
                let key = format!("{protocol:<4} {}", endpoint(address, port, protocol, names));
                cut(key, address, 33)
            }
            ServiceKey::Mark { mark, family: AddressFamily::Ipv4 } => format!("FWM  {mark}"),
            ServiceKey::Mark { mark, family: AddressFamily::Ipv6 } => format!("FWM  {mark} IPv6"),
        };
        match self.columns {
            Columns::Statistics => {
                write!(f, "{key:<33}")?;
                self.write_numbers(f, &counters(&entry.statistics))
            }
            Columns::Rates => {
                write!(f, "{key:<33}")?;
                self.write_numbers(f, &rates(&entry.statistics))
            }
            _ => {
                write!(f, "{key} ")?;
                write_settings(f, &entry.service)
            }
        }
    }

    fn write_destination(
        &self,
        f: &mut fmt::Formatter<'_>,
        service: &ServiceKey,
        entry: &DestinationEntry,
        names: &dyn Names,
    ) -> fmt::Result {
        let DestinationEntry { destination, statistics, .. } = entry;
        let Destination { key, forward, weight, thresholds, tunnel, .. } = destination;
        let key =
            cut(endpoint(key.address, key.port, protocol_of(service), names), key.address, 28);
        let mut line = Line::new("  ->");
        line.left(28, &key);
        match self.columns {
            Columns::Statistics => {
                f.write_str(&line.0)?;
                return self.write_numbers(f, &counters(statistics));
            }
            Columns::Rates => {
                let [connections, incoming, outgoing, incoming_bytes, outgoing_bytes] =
                    rates(statistics);
                write!(f, "{} {connections:>8} {incoming:>8} {outgoing:>8}", line.0)?;
                return self.write_numbers(f, &[incoming_bytes, outgoing_bytes]);
            }
            Columns::Thresholds => {
                line.number(10, thresholds.upper()).number(10, thresholds.lower());
            }
            Columns::PersistentConnections => {
                line.number(9, weight.get()).number(11, entry.persistent_connections);
            }
            Columns::Tunnels => {
                let tunnel = match *forward {
                    ForwardMethod::TUNNEL => tunnel_words(*tunnel),
                    _ => "n/a".to_owned(),
                };
                line.left(7, forward).left(13, &tunnel).number(6, weight.get());
            }
            Columns::Connections => {
                line.left(7, forward).number(6, weight.get());
            }
        }
        line.number(10, entry.active_connections).number(10, entry.inactive_connections);
        line.0.push('\n');
        f.write_str(&line.0)
    }

    /// Numbers to the end of the line.
    fn write_numbers(&self, f: &mut fmt::Formatter<'_>, numbers: &[u64]) -> fmt::Result {
        for &number in numbers {
            if self.exact {
                write!(f, " {number:>8}")?;
                continue;
            }
            let (divisor, unit) = match number {
                0..=99_999_999 => {
                    write!(f, "{number:>9}")?;
                    continue;
                }
                100_000_000..=999_999_999 => (1000, 'K'),
                1_000_000_000..=99_999_999_999 => (1_000_000, 'M'),
                100_000_000_000..=99_999_999_999_999 => (1_000_000_000, 'G'),
                100_000_000_000_000.. => (1_000_000_000_000, 'T'),
            };
            write!(f, "{:>8}{unit}", number / divisor)?;
        }
        writeln!(f)
    }
}

/// A line of columns. It writes blanks in one piece, where the formatter writes one after the other:
/// most of the time of a long listing went there.
struct Line(String);

impl Line {
    fn new(start: &str) -> Self {
        let mut line = String::with_capacity(96);
        line.push_str(start);
        Self(line)
    }

    /// A blank, and a column of this width, or wider if need be, with its text on the left.
    fn left(&mut self, width: usize, text: &dyn fmt::Display) -> &mut Self {
        self.column(width, |line| {
            // Into a string, which does not fail.
            let _ = write!(line, "{text}");
        })
    }

    /// A column with a number on the left.
    fn number(&mut self, width: usize, number: u32) -> &mut Self {
        self.column(width, |line| push_decimal(line, number))
    }

    fn column(&mut self, width: usize, write: impl FnOnce(&mut String)) -> &mut Self {
        const BLANKS: &str = "                                ";
        self.0.push(' ');
        let start = self.0.len();
        write(&mut self.0);
        let length = self.0[start..].chars().count();
        self.0.push_str(&BLANKS[..width.saturating_sub(length).min(BLANKS.len())]);
        self
    }
}

const LOCAL: &str = "Prot LocalAddress:Port";
const REMOTE: &str = "  -> RemoteAddress:Port";

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(info) = self.info {
            writeln!(f, "{info}")?;
        }
        self.write_title(f)?;
        let names = if self.numeric { &Numeric } else { self.names };
        for (service, destinations) in &self.services {
            self.write_service(f, service, names)?;
            for destination in destinations {
                self.write_destination(f, service.service.key(), destination, names)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listing").field("services", &self.services).finish_non_exhaustive()
    }
}

fn write_settings(f: &mut fmt::Formatter<'_>, service: &Service) -> fmt::Result {
    write!(f, "{}", service.scheduler)?;
    let flags = service.scheduler_flag_names().collect::<Vec<_>>().join(",");
    if !flags.is_empty() {
        write!(f, " ({flags})")?;
    }
    if service.flags.contains(ServiceFlags::PERSISTENT) {
        write!(f, " persistent {}", service.timeout)?;
        if service.netmask() != Netmask::host(service.key().family()) {
            write!(f, " mask {}", service.netmask())?;
        }
        if let Some(engine) = &service.engine {
            write!(f, " pe {engine}")?;
        }
    }
    for word in SERVICE.iter().filter_map(|setting| (setting.listed)(service)) {
        write!(f, " {word}")?;
    }
    writeln!(f)
}

/// ipvsadm cuts IPv4 endpoints, which only names can make too long, at their columns' end.
fn cut(mut text: String, address: IpAddr, length: usize) -> String {
    if address.is_ipv4() {
        if let Some((end, _)) = text.char_indices().nth(length) {
            text.truncate(end);
        }
    }
    text
}

fn counters(statistics: &Statistics) -> [u64; 5] {
    [
        statistics.connections,
        statistics.incoming_packets,
        statistics.outgoing_packets,
        statistics.incoming_bytes,
        statistics.outgoing_bytes,
    ]
}

fn rates(statistics: &Statistics) -> [u64; 5] {
    [
        statistics.connection_rate,
        statistics.incoming_packet_rate,
        statistics.outgoing_packet_rate,
        statistics.incoming_byte_rate,
        statistics.outgoing_byte_rate,
    ]
}

/// `ipip`, `gue:6080:-c`, `gre:+c`; `r+c` for remote checksums.
fn tunnel_words(tunnel: Tunnel) -> String {
    let flags = match tunnel.flags() {
        flags if flags.is_empty() => "-c".to_owned(),
        TunnelFlags::CHECKSUM => "+c".to_owned(),
        TunnelFlags::REMOTE_CHECKSUM => "r+c".to_owned(),
        flags => format!("{:#x}", flags.bits()),
    };
    match tunnel.kind() {
        TunnelType::GUE => format!("gue:{}:{flags}", tunnel.port()),
        TunnelType::GRE => format!("gre:{flags}"),
        kind => kind.to_string(),
    }
}
