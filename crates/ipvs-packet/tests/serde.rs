//! The readable forms: what they look like, that all that a kernel reports survives in JSON and YAML,
//! and that they refuse what no kernel reports.

// The lint knows test functions, not the functions that they call.
#![allow(clippy::unwrap_used)]

mod common;

use std::fmt::Debug;

use ipvs_packet::{
    AddressFamily, CommandNumber, DaemonEntry, DaemonRole, Destination, DestinationEntry,
    ForwardMethod, Info, InterfaceName, Level, Netmask, Protocol, Reply, SchedulerName, Service,
    ServiceEntry, ServiceFlags, Statistics, SyncDaemon, SyncId, Thresholds, Timeouts, Tunnel,
    TunnelFlags, Version, Weight, strategy,
};
use proptest::{collection::vec, prelude::*, sample::Index};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use common::survives;

/// Both ways in JSON, and through YAML.
fn looks_like<T: Serialize + DeserializeOwned + PartialEq + Debug>(
    value: &T,
    form: &serde_json::Value,
) {
    assert_eq!(serde_json::to_value(value).unwrap(), *form);
    assert_eq!(serde_json::from_value::<T>(form.clone()).unwrap(), *value);
    survives(value).unwrap();
}

/// What a kernel reports can be written and read again, whatever it is.
fn reported_survives(reply: &Reply) -> Result<(), TestCaseError> {
    match reply {
        Reply::Service(entry) => survives(entry),
        Reply::Destination(entry) => survives(entry),
        Reply::Daemon(entry) => survives(entry),
        Reply::Timeouts(timeouts, unknown) => survives(&(*timeouts, unknown.clone())),
        Reply::Info(info, unknown) => survives(&(*info, unknown.clone())),
        // No readable form: its meaning is unknown.
        _ => Ok(()),
    }
}

/// A reply as a kernel could send it: its command and its payload. All of the fields that a number
/// can be in have any number, and at each level there are attributes that nobody knows.
fn reported() -> impl Strategy<Value = (CommandNumber, Vec<u8>)> {
    let numbers = || vec(prop_oneof![Just(0), 0..512u32, any::<u32>()], 12);
    let family = || any::<bool>();
    let unknown = |known: &'static [u16]| {
        vec((any::<u16>(), vec(any::<u8>(), 0..6)), 0..3).prop_map(|attributes| {
            let attributes = attributes.into_iter().map(|(number, value)| {
                // As often as not a number that means something elsewhere.
                (if number & 0x100 == 0 { number & 0x800f } else { number }, value)
            });
            let unknown = attributes.filter(|(number, _)| !known.contains(&(number & 0x3fff)));
            unknown.flat_map(|(number, value)| attribute(number, &value)).collect::<Vec<u8>>()
        })
    };
    let service = (family(), numbers(), unknown(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]))
        .prop_map(|(is_ipv6, n, unknown)| {
            let netmask = if is_ipv6 { n[5] % 128 + 1 } else { n[5] };
            let identity = if n[6] % 4 == 0 {
                u32(5, n[0])
            } else {
                [u16(2, n[0]), address(3, &n), u16(4, n[1])].concat()
            };
            let flags = [n[2].to_ne_bytes(), n[3].to_ne_bytes()].concat();
            let parts = [
                u16(1, if is_ipv6 { 10 } else { 2 }),
                identity,
                attribute(6, b"mh\0"),
                attribute(7, &flags),
                u32(8, n[4]),
                u32(9, netmask),
                unknown,
            ];
            parts.concat()
        });
    let destination = (
        family(),
        numbers(),
        unknown(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
        unknown(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
    )
        .prop_map(|(is_ipv6, n, unknown, of_statistics)| {
            let parts = [
                address(1, &n),
                u16(2, n[0]),
                u32(3, n[1]),
                u32(4, n[2] >> 1),
                u32(5, n[3]),
                u32(6, n[4]),
                u32(7, n[5]),
                u16(11, if is_ipv6 { 10 } else { 2 }),
                attribute(13, &[n[6] as u8 & n[7] as u8]),
                u16(14, n[8]),
                u16(15, n[9]),
                attribute(12, &of_statistics),
                unknown,
            ];
            parts.concat()
        });
    let daemon = (numbers(), unknown(&[1, 2, 3, 4, 5, 6, 7, 8])).prop_map(|(n, unknown)| {
        let parts = [
            u32(1, n[0]),
            attribute(2, b"eth0\0"),
            u32(3, n[1]),
            u16(4, n[2]),
            attribute(5, &(n[3] >> 4 | 0xe000_0000).to_be_bytes()),
            u16(7, n[4]),
            attribute(8, &[n[5] as u8]),
            unknown,
        ];
        parts.concat()
    });
    let timeouts = numbers().prop_map(|n| [u32(4, n[0]), u32(5, n[1]), u32(6, n[2])].concat());
    let info = numbers().prop_map(|n| [u32(1, n[0]), u32(2, n[1])].concat());
    prop_oneof![
        (Just(CommandNumber::NEW_SERVICE), service.prop_map(|it| attribute(1, &it)), unknown(&[1])),
        (
            Just(CommandNumber::NEW_DEST),
            destination.prop_map(|it| attribute(2, &it)),
            unknown(&[2])
        ),
        (Just(CommandNumber::NEW_DAEMON), daemon.prop_map(|it| attribute(3, &it)), unknown(&[3])),
        (Just(CommandNumber::SET_CONFIG), timeouts, unknown(&[4, 5, 6])),
        (Just(CommandNumber::SET_INFO), info, unknown(&[1, 2])),
    ]
    .prop_map(|(command, known, unknown)| (command, [known, unknown].concat()))
}

fn attribute(number: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
    bytes.extend(number.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn u16(number: u16, value: u32) -> Vec<u8> {
    attribute(number, &(value as u16).to_ne_bytes())
}

fn u32(number: u16, value: u32) -> Vec<u8> {
    attribute(number, &value.to_ne_bytes())
}

fn address(number: u16, words: &[u32]) -> Vec<u8> {
    let bytes: Vec<u8> = words[8..12].iter().flat_map(|word| word.to_ne_bytes()).collect();
    attribute(number, &bytes)
}

fn refuses<T: DeserializeOwned + Debug>(form: serde_json::Value, because: &str) {
    let error = serde_json::from_value::<T>(form).unwrap_err().to_string();
    assert!(error.contains(because), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn services_survive(entry in strategy::service_entry()) {
        survives(&entry.service)?;
        survives(&entry.statistics)?;
        survives(&entry)?;
    }

    #[test]
    fn destinations_survive(entry in strategy::destination_entry()) {
        survives(&entry.destination)?;
        survives(&entry)?;
    }

    #[test]
    fn daemons_survive(entry in strategy::daemon_entry()) {
        survives(&entry.daemon)?;
        survives(&entry)?;
    }

    #[test]
    fn settings_survive(timeouts in strategy::timeouts(), info in strategy::info()) {
        survives(&timeouts)?;
        survives(&info)?;
    }

    #[test]
    fn what_is_reported_survives((command, payload) in reported()) {
        let reply = Reply::parse(command, &payload, None);
        prop_assert!(reply.is_ok(), "{reply:?}");
        reported_survives(&reply.unwrap())?;
    }

    /// Any bytes that can be read at all.
    #[test]
    fn what_is_reported_wrongly_survives(
        (command, mut payload) in reported(),
        changes in vec((any::<Index>(), any::<u8>()), 0..4),
        service_family in any::<Option<bool>>(),
    ) {
        for (at, byte) in changes {
            if !payload.is_empty() {
                let at = at.index(payload.len());
                payload[at] = byte;
            }
        }
        let family = service_family.map(|is_ipv6| match is_ipv6 {
            true => AddressFamily::Ipv6,
            false => AddressFamily::Ipv4,
        });
        if let Ok(reply) = Reply::parse(command, &payload, family) {
            reported_survives(&reply)?;
        }
    }

    #[test]
    fn netmasks_survive(netmask in strategy::family().prop_flat_map(strategy::netmask)) {
        survives(&netmask)?;
    }
}

#[test]
fn a_service() {
    let mut service = Service::new("-t 10.0.0.185:80".parse().unwrap());
    looks_like(&service, &json!({"key": "-t 10.0.0.185:80", "scheduler": "wlc"}));
    assert_eq!(serde_saphyr::from_str::<Service>("key: -t 10.0.0.185:80").unwrap(), service);

    service.scheduler = SchedulerName::MH;
    service.flags = ServiceFlags::PERSISTENT
        | ServiceFlags::HASHED
        | ServiceFlags::MH_PORT
        | ServiceFlags::from_bits_retain(0x140);
    service.timeout = 300;
    service.set_netmask("255.255.255.0".parse().unwrap()).unwrap();
    service.engine = Some("sip".parse().unwrap());
    looks_like(
        &service,
        &json!({
            "key": "-t 10.0.0.185:80",
            "scheduler": "mh",
            "flags": ["persistent", "flag-2", 0x140],
            "timeout": 300,
            "netmask": "255.255.255.0",
            "engine": "sip",
        }),
    );
    let yaml = "
key: -t 10.0.0.185:80
scheduler: mh
flags: [persistent, mh-port, 256, 64]
timeout: 300
netmask: 24
engine: sip
";
    assert_eq!(serde_saphyr::from_str::<Service>(yaml).unwrap(), service);
}

#[test]
fn an_ipv6_service_by_mark() {
    let mut service = Service::new("-f 10 -6".parse().unwrap());
    service.set_netmask(Netmask::prefix(service.key().family(), 64).unwrap()).unwrap();
    looks_like(&service, &json!({"key": "-f 10 -6", "scheduler": "wlc", "netmask": 64}));
}

#[test]
fn a_destination() {
    let mut destination = Destination::new("[2001:db8::3]:80".parse().unwrap());
    looks_like(
        &destination,
        &json!({"key": "[2001:db8::3]:80", "forward": "masquerade", "weight": 1}),
    );
    destination.forward = ForwardMethod::TUNNEL;
    destination.weight = Weight::ZERO;
    destination.thresholds = Thresholds::new(100, 50).unwrap();
    destination.tunnel = Tunnel::gue(
        6080.try_into().unwrap(),
        TunnelFlags::CHECKSUM | TunnelFlags::from_bits_retain(0x10),
    );
    looks_like(
        &destination,
        &json!({
            "key": "[2001:db8::3]:80",
            "forward": "tunnel",
            "weight": 0,
            "thresholds": {"upper": 100, "lower": 50},
            "tunnel": {"type": "gue", "port": 6080, "flags": ["checksum", 16]},
        }),
    );
}

#[test]
fn a_daemon() {
    let mut daemon =
        SyncDaemon::new(DaemonRole::BACKUP, InterfaceName::new("eth0").unwrap(), SyncId::from(7));
    daemon.set_group(Some("ff02::7".parse().unwrap())).unwrap();
    daemon.ttl = 2.try_into().ok();
    looks_like(
        &daemon,
        &json!({"role": "backup", "interface": "eth0", "sync_id": 7, "group": "ff02::7", "ttl": 2}),
    );
}

#[test]
fn entries() {
    let mut entry = ServiceEntry::new(Service::new("-u 10.0.0.185:53".parse().unwrap()));
    entry.statistics.connections = u64::MAX;
    entry.unknown.push(Level::Service, 13, &[0, 255]).unwrap();
    let statistics = json!({
        "connections": u64::MAX,
        "incoming_packets": 0, "outgoing_packets": 0,
        "incoming_bytes": 0, "outgoing_bytes": 0,
        "connection_rate": 0,
        "incoming_packet_rate": 0, "outgoing_packet_rate": 0,
        "incoming_byte_rate": 0, "outgoing_byte_rate": 0,
    });
    looks_like(
        &entry,
        &json!({
            "service": {"key": "-u 10.0.0.185:53", "scheduler": "wlc"},
            "statistics": statistics,
            "unknown": [{"level": "service", "number": 13, "value": "00ff"}],
        }),
    );

    let read: DestinationEntry =
        serde_json::from_value(json!({"destination": {"key": "172.17.0.3:80"}})).unwrap();
    assert_eq!(read, DestinationEntry::new(Destination::new("172.17.0.3:80".parse().unwrap())));
    assert_eq!(read.statistics, Statistics::default());

    let daemon =
        SyncDaemon::new(DaemonRole(3), InterfaceName::new("eth0").unwrap(), SyncId::default());
    looks_like(
        &DaemonEntry::new(daemon),
        &json!({"daemon": {"role": 3, "interface": "eth0", "sync_id": 0}}),
    );
}

#[test]
fn settings() {
    looks_like(&Timeouts::new(900, 120, 300), &json!({"tcp": 900, "tcp_fin": 120, "udp": 300}));
    looks_like(
        &Info::new(Version(0x01_0201), 4096),
        &json!({"version": "1.2.1", "connection_table_size": 4096}),
    );
    looks_like(&Protocol::SCTP, &json!("sctp"));
    looks_like(&Protocol(99), &json!(99));
    looks_like(&ForwardMethod::DIRECT_ROUTE, &json!("direct"));
    looks_like(&ForwardMethod(5), &json!(5));
    looks_like(&AddressFamily::Ipv6, &json!("ipv6"));
}

/// Kernels report values that the constructors refuse.
#[test]
fn what_kernels_alone_make() {
    let read = |command, payload: Vec<u8>| Reply::parse(command, &payload, None).unwrap();
    let daemon = [u32(1, 1), attribute(2, b"eth0\0"), u32(3, 300)].concat();
    let Reply::Daemon(entry) = read(CommandNumber::NEW_DAEMON, attribute(3, &daemon)) else {
        panic!("no daemon");
    };
    looks_like(&entry.daemon.sync_id, &json!(300));
    looks_like(&entry, &json!({"daemon": {"role": "master", "interface": "eth0", "sync_id": 300}}));

    // Before July 2026 any upper threshold; and half of a change.
    let destination = [
        attribute(1, &[172, 17, 0, 3]),
        u16(2, 0),
        u32(3, 2),
        u32(4, 1),
        u32(5, 1 << 31),
        u32(6, u32::MAX),
        u16(11, 2),
        attribute(13, &[1]),
    ];
    let Reply::Destination(entry) =
        read(CommandNumber::NEW_DEST, attribute(2, &destination.concat()))
    else {
        panic!("no destination");
    };
    looks_like(
        &entry.destination,
        &json!({
            "key": "172.17.0.3:0",
            "forward": "tunnel",
            "weight": 1,
            "thresholds": {"upper": 2_147_483_648_u32, "lower": u32::MAX},
            "tunnel": {"type": "gue"},
        }),
    );
}

#[test]
fn what_no_kernel_reports_is_refused() {
    refuses::<Weight>(json!(2_147_483_648_u32), "must be 0 to 2147483647");
    refuses::<Thresholds>(json!({"upper": -1}), "u32");
    refuses::<Thresholds>(json!({"lower": 1}), "missing field `upper`");
    refuses::<Thresholds>(json!({"upper": 1, "loser": 1}), "unknown field");
    refuses::<Tunnel>(json!({"type": "gue", "port": 70000}), "u16");
    refuses::<Service>(json!({"key": "-t 10.0.0.185:80", "netmask": 33}), "0 to 32");
    refuses::<Service>(json!({"key": "-f 1 -6", "netmask": 0}), "1 to 128");
    refuses::<Service>(json!({"key": "-f 1 -6", "netmask": "255.0.0.0"}), "1 to 128");
    refuses::<Service>(json!({"key": "-f 0"}), "-f 10");
    refuses::<Service>(json!({"key": "-f 1", "scheduler": "0123456789abcdef"}), "1 to 15 bytes");
    refuses::<Service>(json!({"key": "-f 1", "scheduler": "a\0b"}), "without NUL");
    refuses::<Service>(json!({"key": "-f 1", "sheduler": "rr"}), "unknown field");
    refuses::<ServiceFlags>(json!(["persistant"]), "must be persistent, one-packet");
    refuses::<ServiceFlags>(json!([4_294_967_296_u64]), "32 bits");
    refuses::<TunnelFlags>(json!([65536]), "16 bits");
    refuses::<ForwardMethod>(json!("masq"), "must be masquerade, local, tunnel, direct, bypass");
    refuses::<SyncId>(json!(4_294_967_296_u64), "u32");
    refuses::<InterfaceName>(json!("a/b"), "slash");
    refuses::<SyncDaemon>(
        json!({"role": "master", "interface": "eth0", "group": "10.0.0.1"}),
        "must be a multicast address",
    );
    refuses::<Version>(json!("1.2"), "look like 1.2.1");
    refuses::<ServiceEntry>(
        json!({
            "service": {"key": "-f 1"},
            "unknown": [{"level": "service", "number": 12, "value": ""}],
        }),
        "known at its level",
    );
    refuses::<ServiceEntry>(
        json!({
            "service": {"key": "-f 1"},
            "unknown": [{"level": "service", "number": 13, "value": "0g"}],
        }),
        "hexadecimal",
    );
}
