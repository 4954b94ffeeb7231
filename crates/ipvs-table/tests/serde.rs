//! The readable forms: what they look like, and that values survive in JSON and YAML.

#![allow(clippy::unwrap_used, reason = "these are tests")]

#[path = "../../ipvs-packet/tests/common/mod.rs"]
mod common;

use std::time::Duration;

use ipvs_packet::{Unreadable, strategy};
use ipvs_table::{
    Command, Connection, ConnectionOrigin, Differences, Rules, ServiceSnapshot, Snapshot,
};
use proptest::{collection::vec, prelude::*};
use serde_json::{from_value, json, to_value};

use common::survives;

fn snapshot() -> impl Strategy<Value = Snapshot> {
    let service = (strategy::service_entry(), vec(strategy::destination_entry(), 0..3))
        .prop_map(|(entry, destinations)| ServiceSnapshot::new(entry, destinations));
    (vec(service, 0..3), vec(strategy::service_key(), 0..2)).prop_map(|(services, uncertain)| {
        let mut snapshot = Snapshot::from_iter(services);
        snapshot.uncertain.extend(&uncertain);
        for key in uncertain {
            snapshot.add_unreadable(Unreadable::of_service(Some(key), "odd"));
            snapshot.add_unreadable(Unreadable::of_destination(Some(key), None, "odd"));
        }
        snapshot.add_unreadable(Unreadable::of_service(None, "odd"));
        snapshot
    })
}

#[test]
fn a_snapshot() {
    let rules: Rules = "-A -f 1 -s rr\n-a -f 1 -r 10.1.0.1:80 -m".parse().unwrap();
    let mut value = to_value(rules.table().unwrap()).unwrap();
    for entry in ["/services/0/entry", "/services/0/destinations/0"] {
        value.pointer_mut(entry).unwrap().as_object_mut().unwrap().remove("statistics").unwrap();
    }
    assert_eq!(
        value,
        json!({"services": [{
            "entry": {"service": {"key": "-f 1", "scheduler": "rr"}},
            "destinations": [{
                "destination": {"key": "10.1.0.1:80", "forward": "masquerade", "weight": 1},
                "active_connections": 0,
                "inactive_connections": 0,
                "persistent_connections": 0,
            }],
        }]})
    );
    assert_eq!(from_value::<Snapshot>(value.clone()).unwrap(), rules.table().unwrap());
    let service = value["services"][0].clone();
    let twice = from_value::<Snapshot>(json!({"services": [service.clone(), service]}));
    assert_eq!(twice.unwrap_err().to_string(), "service -f 1 is there twice");
    let destinations = value.pointer_mut("/services/0/destinations").unwrap();
    let destination = destinations[0].clone();
    destinations.as_array_mut().unwrap().push(destination);
    let twice = from_value::<Snapshot>(value).unwrap_err().to_string();
    assert_eq!(twice, "destination 10.1.0.1:80 is there twice");
    assert!(from_value::<Snapshot>(json!({"services": [], "table": []})).is_err());
}

#[test]
fn a_connection() {
    let line =
        b"UDP AC110005 0000 0A0000B9 13C4 AC110004 13C4 NONE            47 sip a\\b\xff \"x\n";
    let connection = Connection::parse(line).unwrap();
    let value = json!({
        "protocol": "udp",
        "client": "172.17.0.5:0",
        "virtual_address": "10.0.0.185:5060",
        "destination": "172.17.0.4:5060",
        "state": "NONE",
        "expires": 47,
        "engine": {"name": "sip", "data": r#"a\\b\xff \"x\n"#},
    });
    assert_eq!(to_value(&connection).unwrap(), value);
    assert_eq!(from_value::<Connection>(value.clone()).unwrap(), connection);
    for (field, wrong) in [
        ("state", json!("a b")),
        ("state", json!("")),
        ("expires", json!(-1)),
        ("engine", json!({"name": "sip", "data": "\u{e9}"})),
        ("engine", json!({"name": "sip", "data": r"\q"})),
        ("engine", json!({"name": "sip", "data": r"\xf"})),
        ("mark", json!(1)),
    ] {
        let mut value = value.clone();
        value[field] = wrong.clone();
        assert!(from_value::<Connection>(value).is_err(), "{field}: {wrong}");
    }
    let line = b"TCP AC110005 B9C4 0A0000B9 0050 AC110004 0050 ESTABLISHED SYNC 899";
    let connection = Connection::parse_with_origin(line).unwrap();
    assert_eq!(connection.origin, Some(ConnectionOrigin::Sync));
    assert_eq!(to_value(&connection).unwrap()["origin"], "sync");
    survives(&connection).unwrap();
}

#[test]
fn differences() {
    let table = |text: &str| text.parse::<Rules>().unwrap().table().unwrap();
    let before = table("-A -f 1\n-a -f 1 -r 10.1.0.1\n-A -f 2");
    let after = table("-A -f 1 -s rr\n-a -f 1 -r 10.1.0.1 -w 2\n-a -f 1 -r 10.1.0.2\n-A -f 3");
    let differences = Differences::between(&before, &after, Duration::from_millis(1500));
    let value = to_value(&differences).unwrap();
    assert_eq!(value["elapsed"], 1.5);
    let kinds: Vec<_> = value["changes"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|change| change.as_object().unwrap().keys())
        .collect();
    assert_eq!(
        kinds,
        [
            "service_changed",
            "destination_changed",
            "destination_added",
            "service_deleted",
            "service_added"
        ]
    );
    assert_eq!(value["changes"][2]["destination_added"]["service"], "-f 1");
    survives(&differences).unwrap();
}

#[test]
fn rules_are_lines() {
    let value = json!(["-A -f 1", "", "-a -f 1 -r 10.1.0.1 # a server"]);
    let rules: Rules = from_value(value).unwrap();
    assert_eq!(
        to_value(&rules).unwrap(),
        json!(["-A -f 1 -s wlc", "-a -f 1 -r 10.1.0.1:0 -g -w 1"])
    );
    let error = from_value::<Rules>(json!(["-A -f 1", "-A -f 0", "-Q"])).unwrap_err().to_string();
    assert_eq!(
        error,
        "line 2, column 7: \"0\" must be a firewall mark, 1 to 4294967295\n\
         line 3, column 1: -Q is not an option"
    );
    assert!(from_value::<Rules>(json!(["-A -f 1\n-A -f 2"])).is_err());
    assert_eq!(to_value("-Ln".parse::<Command>().unwrap()).unwrap(), "-L -n");
    assert!(from_value::<Command>(json!("-Q")).is_err());
}

proptest! {
    #[test]
    fn snapshots_and_differences_survive(
        before in snapshot(),
        after in snapshot(),
        milliseconds in any::<u32>(),
    ) {
        survives(&before)?;
        let elapsed = Duration::from_millis(milliseconds.into());
        // Rates in decimal digits are exact in JSON alone.
        let mut differences = Differences::between(&before, &after, elapsed);
        differences.activity.clear();
        survives(&differences)?;
    }
}
