#![allow(clippy::unwrap_used, reason = "these are tests")]

use ipvs_packet::{DestinationEntry, Info, ServiceEntry, ServiceFlags, Version, strategy};
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    Listing, Rules,
    command::{effective, effective_destination},
};

fn rules(yaml: &str) -> String {
    let document: TableDocument = serde_saphyr::from_str(yaml).unwrap();
    Rules::from(document.snapshot()).to_string()
}

fn mistakes(yaml: &str) -> String {
    let document: UncheckedDocument = serde_saphyr::from_str(yaml).unwrap();
    document.check().unwrap_err().to_string()
}

/// Of one service, fields are judged by kind.
fn sorted(mistakes: &str) -> Vec<&str> {
    let mut lines: Vec<_> = mistakes.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn every_field_is_read() {
    assert_eq!(
        rules(
            "
services:
  - {address: 10.0.0.1:80, scheduler: sh, scheduler_flags: [sh-port, flag-3], persistence: {}}
  - address: '[2001:db8::1]:5060'
    protocol: udp
    one_packet: true
    persistence: {timeout: 60, netmask: 64, engine: sip}
    real_servers:
      - {address: '2001:db8::2', forwarding: direct, weight: 0}
      - {address: 10.1.0.1, forwarding: tunnel, upper_threshold: 9, lower_threshold: 3}
  - {address: 10.0.0.1:0, protocol: 99, persistence: {netmask: 255.255.0.0}}
  - mark: 4294967295
    family: ipv6
    real_servers:
      - address: 2001:db8::3
        forwarding: tunnel
        tunnel: {type: gre, checksum: true, remote_checksum: false}
      - {address: '[2001:db8::3]:8', forwarding: 1, tunnel: }
"
        ),
        "\
-A -t 10.0.0.1:80 -s sh -p 360 -b sh-port,flag-3
-A --protocol 99 10.0.0.1:0 -s wlc -p 360 -M 255.255.0.0
-A -u [2001:db8::1]:5060 -s wlc -p 60 -M 64 --pe sip -o
-a -u [2001:db8::1]:5060 -r 10.1.0.1:5060 -i -w 1 -x 9 -y 3 --tun-type ipip
-a -u [2001:db8::1]:5060 -r [2001:db8::2]:5060 -g -w 0
-A -f 4294967295 -6 -s wlc
-a -f 4294967295 -6 -r [2001:db8::3]:0 -i -w 1 --tun-type gre --tun-csum
-a -f 4294967295 -6 -r [2001:db8::3]:8 --forward-method 1 -w 1
"
    );
    assert_eq!(rules("services: []"), "");
}

#[test]
fn every_mistake_is_told_with_its_path() {
    assert_eq!(
        sorted(&mistakes(
            "
services:
  - {address: 10.0.0.1:80, scheduler: 7, scheduler_flags: [sh-port, 5], one_packet: yes please}
  - {address: 10.0.0.1:80, mark: 5}
  - {address: 10.0.0.1:80, family: ipv4}
  - {mark: 0, protocol: udp, family: ipv5}
  - {scheduler: a-name-that-is-too-long, persistence: {timeout: -1, mask: 5, netmask: 33, engine: {}}}
  - [1, 2]
  - address: 10.0.0.2:80
    persistence: {netmask: 33}
    real_servers:
      - {address: 10.1.0.1, forwarding: nat, weight: 2147483648}
      - {forwarding: tunnel, tunnel: {type: gue}}
      - {address: 10.1.0.1:80, forwarding: direct, tunnel: {type: gre, port: 65536}}
      - {address: '[fe80::1%1]:80', forwarding: direct, upper_threshold: 1, lower_threshold: 2}
      - {address: [2001:db8::1], forwarding: true}
  - {address: 10.0.0.2:80, real_servers: 5}
more: 1
"
        )),
        sorted("\
more: there is no such field here; there are services
services[0].one_packet: \"yes please\" must be true or false
services[0].scheduler: 7 must be text
services[0].scheduler_flags[0]: \"sh-port\" does not go with scheduler wlc
services[0].scheduler_flags[1]: 5 must be text
services[1].mark: a service has an address or a mark, not both
services[2]: service -t 10.0.0.1:80 is there already, as services[0]
services[2].family: is for services of a mark
services[3].family: address family \"ipv5\" must be IPv4 or IPv6
services[3].mark: 0 must be a number from 1 to 4294967295
services[3].protocol: is for services of an address
services[4]: needs an address or a mark
services[4].persistence.engine: a group of fields must be text; in YAML, brackets at its \
beginning need quotes
services[4].persistence.mask: there is no such field here; there are timeout, netmask, engine
services[4].persistence.timeout: -1 must be a number from 0 to 4294967295
services[4].scheduler: scheduler \"a-name-that-is-too-long\" must be 1 to 15 bytes long, \
without NUL
services[5]: a list must be a group of fields: address, protocol, mark, family, scheduler, \
persistence, one_packet, scheduler_flags, real_servers
services[6].persistence.netmask: netmask \"33\" must be an IPv4 mask such as 255.255.255.0 or a \
prefix length 0 to 32
services[6].real_servers[0].forwarding: forwarding method \"nat\" must be masquerade, local, \
tunnel, direct, bypass, or a number
services[6].real_servers[0].weight: 2147483648 must be a number from 0 to 2147483647
services[6].real_servers[1]: needs the field address
services[6].real_servers[1].tunnel: tunnel port \"0\" must be 1 to 65535 with GUE
services[6].real_servers[2].address: real server 10.1.0.1:80 is there already, as \
services[6].real_servers[0]
services[6].real_servers[2].tunnel: is for forwarding tunnel
services[6].real_servers[2].tunnel.port: 65536 must be a number from 0 to 65535
services[6].real_servers[3].address: \"[fe80::1%1]:80\" must have no zone \
such as %eth0: IPVS keeps an address without its interface
services[6].real_servers[3].lower_threshold: lower threshold \"2 (upper 1)\" must not exceed the \
upper threshold
services[6].real_servers[4].address: a list must be text; in YAML, brackets at its beginning need \
quotes
services[6].real_servers[4].forwarding: true must be text
services[7]: service -t 10.0.0.2:80 is there already, as services[6]
services[7].real_servers: 5 must be a list")
    );
    assert_eq!(mistakes("{}"), "the document: needs the field services");
    assert_eq!(mistakes("5"), "the document: 5 must be a group of fields: services");
    let twice = r#"{"services": [], "services": []}"#;
    let document: UncheckedDocument = serde_json::from_str(twice).unwrap();
    assert_eq!(document.check().unwrap_err().to_string(), "services: is there twice");
    let error = serde_saphyr::from_str::<TableDocument>("services:\n  - {}").unwrap_err();
    assert!(error.to_string().contains("services[0]: needs an address or a mark"), "{error}");
}

#[test]
fn a_listing_is_the_document_with_statistics() {
    let rules = "-A -f 7 -6\n-A -t 10.0.0.1:80 -s rr -p 60\n-a -t 10.0.0.1:80 -r 10.1.0.1 -m";
    let mut table = rules.parse::<Rules>().unwrap().table().unwrap();
    let entry = &mut table.services.values_mut().next().unwrap();
    entry.entry.statistics.connections = 5;
    entry.destinations[0].active_connections = 3;
    let mut value =
        serde_json::to_value(Listing::of_table(Info::new(Version(0x01_0201), 4096), &table))
            .unwrap();
    let read: TableDocument = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(read, TableDocument::from(&table));
    for place in ["/services/0", "/services/1", "/services/0/real_servers/0"] {
        let counted = value.pointer_mut(place).unwrap().as_object_mut().unwrap();
        let statistics = counted.remove("statistics").unwrap();
        assert_eq!(
            statistics["connections"],
            if place == "/services/0" { 5 } else { 0 },
            "{place}"
        );
    }
    assert_eq!(
        value,
        serde_json::json!({
            "version": "1.2.1",
            "connection_table_size": 4096,
            "services": [
                {
                    "address": "10.0.0.1:80",
                    "scheduler": "rr",
                    "persistence": {"timeout": 60},
                    "real_servers": [{
                        "address": "10.1.0.1:80",
                        "forwarding": "masquerade",
                        "weight": 1,
                        "active_connections": 3,
                        "inactive_connections": 0,
                        "persistent_connections": 0,
                    }],
                },
                {"mark": 7, "family": "ipv6", "scheduler": "wlc"},
            ],
        })
    );
    // Counters are fields of what they count, and of nothing else.
    for wrong in [
        r#"{"services": [], "statistics": {}}"#,
        r#"{"services": [{"mark": 1, "active_connections": 1}]}"#,
        r#"{"services": [{"mark": 1, "persistence": {"statistics": {}}}]}"#,
    ] {
        let error = serde_json::from_str::<TableDocument>(wrong).unwrap_err().to_string();
        assert!(error.contains("there is no such field"), "{wrong}: {error}");
    }
}

#[test]
fn a_listing_that_may_lack_something_is_no_table() {
    let mut table = "-A -f 7".parse::<Rules>().unwrap().table().unwrap();
    table.uncertain.insert("-f 7".parse().unwrap());
    let listing = Listing::of_table(Info::new(Version(0x01_0201), 4096), &table);
    let json = serde_json::to_string(&listing).unwrap();
    assert!(json.ends_with(r#""uncertain":["-f 7"]}"#), "{json}");
    assert_eq!(
        mistakes(&json),
        "uncertain: names services that another program changed while they were listed, so they \
         may not be complete; list again"
    );
    assert_eq!(rules(r#"{"services": [], "uncertain": [], "unreadable": []}"#), "");
    let unreadable = mistakes(r#"{"services": [], "unreadable": ["real server of service -f 7"]}"#);
    assert!(unreadable.contains("the table is not complete"), "{unreadable}");
}

proptest! {
    #![proptest_config(crate::cases(256))]

    #[test]
    fn tables_survive(
        services in vec((strategy::service(), vec(strategy::destination(), 0..4)), 0..5),
    ) {
        let snapshot: Snapshot = services
            .into_iter()
            .map(|(mut service, destinations)| {
                service.flags_mask = u32::MAX;
                let mut service = effective(service);
                if !service.flags.contains(ServiceFlags::PERSISTENT) {
                    service.engine = None;
                }
                let destinations = destinations.into_iter().map(effective_destination);
                let entries = destinations.map(DestinationEntry::new).collect();
                ServiceSnapshot::new(ServiceEntry::new(service), entries)
            })
            .collect();
        let document = TableDocument::from(&snapshot);
        prop_assert_eq!(document.snapshot(), &snapshot);
        let json = serde_json::to_string(&document).unwrap();
        let read: TableDocument = serde_json::from_str(&json).map_err(|error| {
            TestCaseError::fail(format!("{json}: {error}"))
        })?;
        prop_assert_eq!(&read, &document, "{}", json);
        let yaml = serde_saphyr::to_string(&document).unwrap();
        let read: TableDocument = serde_saphyr::from_str(&yaml).map_err(|error| {
            TestCaseError::fail(format!("{yaml}: {error}"))
        })?;
        prop_assert_eq!(&read, &document, "{}", yaml);
        let listing = Listing::of_table(Info::new(Version(1), 1), &snapshot);
        let read: TableDocument = serde_json::to_value(&listing)
            .and_then(serde_json::from_value)
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(&read, &document);
    }

    /// Whatever is in a document, it is read or refused.
    #[test]
    fn any_document_is_read_or_refused(
        text in "(services|address|mark|persistence|real_servers|tunnel|: |- |\n|\\{|\\}|\\[|\\]|[0-9]|.){0,40}",
    ) {
        let _ = serde_saphyr::from_str::<TableDocument>(&text);
    }
}
