//! The readable forms: what they look like, that they survive in JSON and YAML, and that they refuse
//! what the constructors refuse.

// The lint knows test functions, not the functions that they call.
#![allow(clippy::unwrap_used)]

use std::fmt::Debug;

use ipvs_packet::{
    DaemonEntry, DaemonRole, Destination, DestinationEntry, ForwardMethod, Info, InterfaceName,
    Level, Netmask, Protocol, SchedulerName, Service, ServiceEntry, ServiceFlags, Statistics,
    SyncDaemon, SyncId, Thresholds, Timeouts, Tunnel, TunnelFlags, Version, Weight, strategy,
};
use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

/// Both ways in JSON, and through YAML.
fn looks_like<T: Serialize + DeserializeOwned + PartialEq + Debug>(
    value: &T,
    form: &serde_json::Value,
) {
    assert_eq!(serde_json::to_value(value).unwrap(), *form);
    assert_eq!(serde_json::from_value::<T>(form.clone()).unwrap(), *value);
    survives(value).unwrap();
}

fn survives<T: Serialize + DeserializeOwned + PartialEq + Debug>(
    value: &T,
) -> Result<(), TestCaseError> {
    let json = serde_json::to_string(value).unwrap();
    prop_assert_eq!(&serde_json::from_str::<T>(&json).unwrap(), value, "{}", json);
    let yaml = serde_saphyr::to_string(value).unwrap();
    match serde_saphyr::from_str::<T>(&yaml) {
        Ok(read) => prop_assert_eq!(&read, value, "{}", yaml),
        Err(error) => return Err(TestCaseError::fail(format!("{error} in {yaml}"))),
    }
    Ok(())
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
    looks_like(
        &Timeouts { tcp: 900, tcp_fin: 120, udp: 300 },
        &json!({"tcp": 900, "tcp_fin": 120, "udp": 300}),
    );
    looks_like(
        &Info::new(Version(0x01_0201), 4096),
        &json!({"version": "1.2.1", "connection_table_size": 4096}),
    );
    looks_like(&Protocol::SCTP, &json!("sctp"));
    looks_like(&Protocol(99), &json!(99));
    looks_like(&ForwardMethod::DIRECT_ROUTE, &json!("direct"));
    looks_like(&ForwardMethod(5), &json!(5));
}

#[test]
fn what_constructors_refuse_is_refused() {
    refuses::<Weight>(json!(2_147_483_648_u32), "must be 0 to 2147483647");
    refuses::<Thresholds>(json!({"upper": 1, "lower": 2}), "must not exceed the upper threshold");
    refuses::<Thresholds>(json!({"upper": 2_147_483_648_u32}), "must be 0 to 2147483647");
    refuses::<Tunnel>(json!({"type": "gue"}), "must be 1 to 65535 with GUE");
    refuses::<Tunnel>(json!({"type": "gue", "port": 70000}), "u16");
    refuses::<Service>(json!({"key": "-t 10.0.0.185:80", "netmask": 33}), "0 to 32");
    refuses::<Service>(json!({"key": "-f 1 -6", "netmask": 0}), "1 to 128");
    refuses::<Service>(json!({"key": "-f 1 -6", "netmask": "255.0.0.0"}), "1 to 128");
    refuses::<Service>(json!({"key": "-f 0"}), "-f 10");
    refuses::<Service>(json!({"key": "-f 1", "scheduler": "0123456789abcdef"}), "1 to 15 bytes");
    refuses::<Service>(json!({"key": "-f 1", "scheduler": "a\0b"}), "no NUL");
    refuses::<Service>(json!({"key": "-f 1", "sheduler": "rr"}), "unknown field");
    refuses::<ServiceFlags>(json!(["persistant"]), "must be persistent, one-packet");
    refuses::<ServiceFlags>(json!([4_294_967_296_u64]), "32 bits");
    refuses::<TunnelFlags>(json!([65536]), "16 bits");
    refuses::<ForwardMethod>(json!("masq"), "must be masquerade, local, tunnel, direct, bypass");
    refuses::<SyncId>(json!(256), "must be 0 to 255");
    refuses::<InterfaceName>(json!("a/b"), "slash");
    refuses::<SyncDaemon>(
        json!({"role": "master", "interface": "eth0", "group": "10.0.0.1"}),
        "must be a multicast address",
    );
    refuses::<Version>(json!("1.2"), "such as 1.2.1");
    refuses::<ServiceEntry>(
        json!({
            "service": {"key": "-f 1"},
            "unknown": [{"level": "service", "number": 12, "value": ""}],
        }),
        "not known at its level",
    );
    refuses::<ServiceEntry>(
        json!({
            "service": {"key": "-f 1"},
            "unknown": [{"level": "service", "number": 13, "value": "0g"}],
        }),
        "hexadecimal",
    );
}
