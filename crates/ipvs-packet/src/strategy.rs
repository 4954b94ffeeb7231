//! Strategies that make every value that the constructors of this crate allow, and entries as a
//! kernel may report them, for property tests (feature `proptest`).
//!
//! Special values (limits, named constants, zero) are frequent; the rest of the range is less so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::{
    AddressFamily, CommandNumber, DaemonEntry, DaemonRole, Destination, DestinationEntry,
    DestinationKey, EngineName, ForwardMethod, Info, InterfaceName, Level, Netmask, Protocol,
    Reply, Request, SchedulerName, Service, ServiceEntry, ServiceFlags, ServiceKey, Statistics,
    SyncDaemon, SyncId, Thresholds, Timeouts, Tunnel, TunnelFlags, TunnelType, UnknownAttributes,
    Version, Weight,
};

/// An address of either family.
pub fn address() -> BoxedStrategy<IpAddr> {
    prop_oneof![
        any::<Ipv4Addr>().prop_map(IpAddr::V4),
        any::<Ipv6Addr>().prop_map(IpAddr::V6),
        select(vec![
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped()),
        ]),
    ]
    .boxed()
}

/// An address family.
pub fn family() -> BoxedStrategy<AddressFamily> {
    select(vec![AddressFamily::Ipv4, AddressFamily::Ipv6]).boxed()
}

/// TCP, UDP, SCTP or any number.
pub fn protocol() -> BoxedStrategy<Protocol> {
    prop_oneof![
        3 => select(vec![Protocol::TCP, Protocol::UDP, Protocol::SCTP]),
        1 => any::<u16>().prop_map(Protocol),
    ]
    .boxed()
}

/// An address or a firewall mark.
pub fn service_key() -> BoxedStrategy<ServiceKey> {
    prop_oneof![
        3 => (protocol(), address(), any::<u16>())
            .prop_map(|(protocol, address, port)| ServiceKey::Address { protocol, address, port }),
        1 => (any::<std::num::NonZeroU32>(), family())
            .prop_map(|(mark, family)| ServiceKey::Mark { mark, family }),
    ]
    .boxed()
}

/// An address and a port.
pub fn destination_key() -> BoxedStrategy<DestinationKey> {
    (address(), any::<u16>()).prop_map(|(address, port)| DestinationKey { address, port }).boxed()
}

/// One of the kernel's schedulers or any name.
pub fn scheduler_name() -> BoxedStrategy<SchedulerName> {
    prop_oneof![
        3 => select(SchedulerName::ALL.to_vec()),
        1 => name().prop_filter_map("a scheduler's name", |name| SchedulerName::new(&name).ok()),
    ]
    .boxed()
}

/// The kernel's persistence engine or any name.
pub fn engine_name() -> BoxedStrategy<EngineName> {
    prop_oneof![
        Just(EngineName::SIP),
        name().prop_filter_map("an engine's name", |name| EngineName::new(&name).ok()),
    ]
    .boxed()
}

/// Any name of an interface.
pub fn interface_name() -> BoxedStrategy<InterfaceName> {
    prop_oneof![
        "[a-z]{2,4}[0-9]{1,3}".prop_map(|name| name),
        name().prop_filter("an interface's name", |name| InterfaceName::new(name).is_ok()),
    ]
    .prop_filter_map("an interface's name", |name| InterfaceName::new(&name).ok())
    .boxed()
}

/// Text of one to fifteen bytes without NUL.
fn name() -> BoxedStrategy<String> {
    prop_oneof![
        "[!-~]{1,15}",
        "[^\0]{1,7}".prop_filter("at most 15 bytes", |name| name.len() <= 15),
    ]
    .boxed()
}

/// Any flags: named, unnamed, and the kernel's own.
pub fn service_flags() -> BoxedStrategy<ServiceFlags> {
    prop_oneof![0..0x40u32, any::<u32>()].prop_map(ServiceFlags::from_bits_retain).boxed()
}

/// A netmask of a family: a prefix or, for IPv4, any bits.
pub fn netmask(family: AddressFamily) -> BoxedStrategy<Netmask> {
    let prefixes: Vec<Netmask> =
        (0..=128).filter_map(|length| Netmask::prefix(family, length).ok()).collect();
    match family {
        AddressFamily::Ipv4 => {
            prop_oneof![select(prefixes), any::<Ipv4Addr>().prop_map(Netmask::Ipv4)].boxed()
        }
        AddressFamily::Ipv6 => select(prefixes).boxed(),
    }
}

/// Any service.
pub fn service() -> BoxedStrategy<Service> {
    service_key()
        .prop_flat_map(|key| {
            (
                scheduler_name(),
                service_flags(),
                prop_oneof![3 => Just(u32::MAX), 1 => any::<u32>()],
                number(),
                netmask(key.family()),
                option::of(engine_name()),
            )
                .prop_map(
                    move |(scheduler, flags, flags_mask, timeout, netmask, engine)| {
                        let mut service = Service::new(key);
                        service.scheduler = scheduler;
                        service.flags = flags;
                        service.flags_mask = flags_mask;
                        service.timeout = timeout;
                        service.engine = engine;
                        service.set_netmask(netmask).expect("a netmask of the key's family");
                        service
                    },
                )
        })
        .boxed()
}

/// A service with statistics and, now and then, unknown attributes.
pub fn service_entry() -> BoxedStrategy<ServiceEntry> {
    (service(), statistics(), unknown_attributes(&OF_SERVICE))
        .prop_map(|(service, statistics, unknown)| {
            let mut entry = ServiceEntry::new(service);
            entry.statistics = statistics;
            entry.unknown = unknown;
            entry
        })
        .boxed()
}

/// A named forwarding method or any number.
pub fn forward_method() -> BoxedStrategy<ForwardMethod> {
    prop_oneof![4 => (0..=7u32).prop_map(ForwardMethod), 1 => any::<u32>().prop_map(ForwardMethod)]
        .boxed()
}

/// Any weight.
pub fn weight() -> BoxedStrategy<Weight> {
    prop_oneof![
        select(vec![Weight::ZERO, Weight::ONE, Weight::MAX]),
        (0..=Weight::MAX.get()).prop_map(|weight| Weight::new(weight).expect("within the range")),
    ]
    .boxed()
}

/// Thresholds with the lower one at most the upper one.
pub fn thresholds() -> BoxedStrategy<Thresholds> {
    let upper = prop_oneof![Just(0), 0..1000u32, 0..=i32::MAX as u32];
    upper
        .prop_flat_map(|upper| {
            (0..=upper).prop_map(move |lower| Thresholds::new(upper, lower).expect("in order"))
        })
        .boxed()
}

/// Any encapsulation; GUE with a port.
pub fn tunnel() -> BoxedStrategy<Tunnel> {
    let kind = prop_oneof![4 => 0..=2u8, 1 => any::<u8>()].prop_map(TunnelType);
    let flags = prop_oneof![0..=2u16, any::<u16>()].prop_map(TunnelFlags::from_bits_retain);
    let port = prop_oneof![Just(0), any::<u16>()];
    (kind, port, flags)
        .prop_filter_map("GUE has a port", |(kind, port, flags)| {
            Tunnel::new(kind, port, flags).ok()
        })
        .boxed()
}

/// Any destination.
pub fn destination() -> BoxedStrategy<Destination> {
    (destination_key(), forward_method(), weight(), thresholds(), tunnel())
        .prop_map(|(key, forward, weight, thresholds, tunnel)| Destination {
            key,
            forward,
            weight,
            thresholds,
            tunnel,
        })
        .boxed()
}

/// A destination with connections, statistics and, now and then, unknown attributes. As a kernel
/// may report it: thresholds and tunnel can be what their constructors refuse.
pub fn destination_entry() -> BoxedStrategy<DestinationEntry> {
    let connections = (number(), number(), number());
    let thresholds = prop_oneof![
        3 => thresholds(),
        1 => (number(), number()).prop_map(|(upper, lower)| Thresholds { upper, lower }),
    ];
    let tunnel = prop_oneof![
        3 => tunnel(),
        1 => Just(Tunnel { kind: TunnelType::GUE, ..Tunnel::IPIP }),
    ];
    let destination =
        (destination(), thresholds, tunnel).prop_map(|(mut destination, thresholds, tunnel)| {
            destination.thresholds = thresholds;
            destination.tunnel = tunnel;
            destination
        });
    (destination, connections, statistics(), unknown_attributes(&OF_DESTINATION))
        .prop_map(|(destination, (active, inactive, persistent), statistics, unknown)| {
            DestinationEntry {
                destination,
                active_connections: active,
                inactive_connections: inactive,
                persistent_connections: persistent,
                statistics,
                unknown,
            }
        })
        .boxed()
}

/// Any sync daemon.
pub fn sync_daemon() -> BoxedStrategy<SyncDaemon> {
    let role = prop_oneof![
        4 => select(vec![DaemonRole::MASTER, DaemonRole::BACKUP]),
        1 => any::<u32>().prop_map(DaemonRole),
    ];
    let group = prop_oneof![
        (224..=239u8, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| Ipv4Addr::new(a, b, c, d).into()),
        any::<[u16; 7]>().prop_map(|[b, c, d, e, f, g, h]| {
            Ipv6Addr::new(0xff00 | b & 0xff, b, c, d, e, f, g, h).into()
        }),
    ];
    (
        role,
        interface_name(),
        any::<u8>().prop_map(SyncId::from),
        any::<Option<std::num::NonZeroU16>>(),
        option::of(group),
        any::<Option<std::num::NonZeroU16>>(),
        any::<Option<std::num::NonZeroU8>>(),
    )
        .prop_map(|(role, interface, sync_id, max_length, group, port, ttl)| {
            let mut daemon = SyncDaemon::new(role, interface, sync_id);
            daemon.max_length = max_length;
            daemon.set_group(group).expect("a multicast address");
            daemon.port = port;
            daemon.ttl = ttl;
            daemon
        })
        .boxed()
}

/// A sync daemon with, now and then, unknown attributes. As a kernel may report it: the sync id can
/// be any number.
pub fn daemon_entry() -> BoxedStrategy<DaemonEntry> {
    let sync_id = prop_oneof![0..=255u32, number()].prop_map(SyncId);
    (sync_daemon(), sync_id, unknown_attributes(&OF_DAEMON))
        .prop_map(|(mut daemon, sync_id, unknown)| {
            daemon.sync_id = sync_id;
            DaemonEntry { daemon, unknown }
        })
        .boxed()
}

/// Any timeouts.
pub fn timeouts() -> BoxedStrategy<Timeouts> {
    (number(), number(), number())
        .prop_map(|(tcp, tcp_fin, udp)| Timeouts { tcp, tcp_fin, udp })
        .boxed()
}

/// Any version and table size.
pub fn info() -> BoxedStrategy<Info> {
    (prop_oneof![Just(0x01_0201), any::<u32>()], any::<u32>())
        .prop_map(|(version, size)| Info::new(Version(version), size))
        .boxed()
}

/// Any counters and rates.
pub fn statistics() -> BoxedStrategy<Statistics> {
    let counter = || prop_oneof![Just(0), any::<u32>().prop_map(u64::from), any::<u64>()];
    let counters = || [(); 5].map(|()| counter());
    (counters(), counters()).prop_map(|(counters, rates)| Statistics::new(counters, rates)).boxed()
}

const OF_SERVICE: [Level; 4] =
    [Level::ServiceMessage, Level::Service, Level::Statistics, Level::Statistics64];
const OF_DESTINATION: [Level; 4] =
    [Level::DestinationMessage, Level::Destination, Level::Statistics, Level::Statistics64];
const OF_DAEMON: [Level; 2] = [Level::DaemonMessage, Level::Daemon];

/// Usually none; sometimes up to four, at any of these levels.
pub fn unknown_attributes(levels: &[Level]) -> BoxedStrategy<UnknownAttributes> {
    let attribute = (select(levels.to_vec()), any::<u16>(), vec(any::<u8>(), 0..40));
    prop_oneof![3 => Just(Vec::new()), 1 => vec(attribute, 1..=4)]
        .prop_map(|attributes| {
            let mut unknown = UnknownAttributes::new();
            for (level, number, value) in attributes {
                // A number that is known at its level is refused, and left out.
                let _ = unknown.push(level, number, &value);
            }
            unknown
        })
        .boxed()
}

/// Any request. Commands that this crate does not know carry any bytes.
pub fn request() -> BoxedStrategy<Request> {
    prop_oneof![
        service().prop_map(Request::NewService),
        service().prop_map(Request::SetService),
        service_key().prop_map(Request::DeleteService),
        service_key().prop_map(Request::GetService),
        (service_key(), destination()).prop_map(|(key, to)| Request::NewDestination(key, to)),
        (service_key(), destination()).prop_map(|(key, to)| Request::SetDestination(key, to)),
        (service_key(), destination_key())
            .prop_map(|(key, to)| Request::DeleteDestination(key, to)),
        service_key().prop_map(Request::ListDestinations),
        sync_daemon().prop_map(Request::NewDaemon),
        sync_daemon().prop_map(|daemon| Request::DeleteDaemon(daemon.role)),
        timeouts().prop_map(Request::SetTimeouts),
        option::of(service_key()).prop_map(Request::Zero),
        select(vec![
            Request::ListServices,
            Request::ListDaemons,
            Request::GetTimeouts,
            Request::GetInfo,
            Request::Flush,
        ]),
        (unknown_command(), vec(any::<u8>(), 0..40))
            .prop_map(|(command, payload)| Request::Other { command, payload }),
    ]
    .boxed()
}

/// Any reply. Commands that this crate does not know carry any bytes.
pub fn reply() -> BoxedStrategy<Reply> {
    prop_oneof![
        service_entry().prop_map(Reply::Service),
        destination_entry().prop_map(Reply::Destination),
        daemon_entry().prop_map(Reply::Daemon),
        (timeouts(), unknown_attributes(&[Level::Timeouts]))
            .prop_map(|(timeouts, unknown)| Reply::Timeouts(timeouts, unknown)),
        (info(), unknown_attributes(&[Level::Info]))
            .prop_map(|(info, unknown)| Reply::Info(info, unknown)),
        (unknown_command(), vec(any::<u8>(), 0..40))
            .prop_map(|(command, payload)| Reply::Other { command, payload }),
    ]
    .boxed()
}

fn unknown_command() -> BoxedStrategy<CommandNumber> {
    any::<u8>()
        .prop_map(CommandNumber)
        .prop_filter("a command without a name", |command| command.name().is_none())
        .boxed()
}

fn number() -> BoxedStrategy<u32> {
    prop_oneof![select(vec![0, 1, 300, u32::MAX]), any::<u32>()].boxed()
}
