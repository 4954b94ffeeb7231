//! Tests of `key.rs`.

use super::*;

#[test]
fn keys_read_as_ipvsadm_writes_them() {
    for text in [
        "-t 10.0.0.185:80",
        "-u [2001:db8::1]:53",
        "--sctp-service 10.0.0.185:5060",
        "--protocol 99 10.0.0.185:0",
        "-f 10",
        "-f 4294967295 -6",
    ] {
        let key: ServiceKey = text.parse().unwrap();
        assert_eq!(key.to_string(), text);
    }
    for (long, short) in [
        ("--tcp-service 10.0.0.185:80", "-t 10.0.0.185:80"),
        ("--udp-service  10.0.0.185:53 ", "-u 10.0.0.185:53"),
        ("--fwmark-service 1 --ipv6", "-f 1 -6"),
        ("--protocol 6 10.0.0.185:80", "-t 10.0.0.185:80"),
    ] {
        assert_eq!(long.parse::<ServiceKey>().unwrap().to_string(), short);
    }
    for wrong in [
        "",
        "-t",
        "-t 10.0.0.185",
        "-t 10.0.0.185:65536",
        "-t 2001:db8::1:80",
        "-t [fe80::1%1]:80",
        "-f 0",
        "-f -1",
        "-f 4294967296",
        "-f 1 -4",
        "-x 10.0.0.185:80",
        "--protocol 65536 10.0.0.185:80",
        "-t 10.0.0.185:80 more",
    ] {
        assert!(wrong.parse::<ServiceKey>().is_err(), "{wrong:?}");
    }
    for zone in ["-t [fe80::1%1]:80", "-u [fe80::1%lo]:80", "--protocol 99 [fe80::1%2]:80"] {
        let error = zone.parse::<ServiceKey>().unwrap_err();
        assert!(error.to_string().contains("zone"), "{error}");
    }
}

#[test]
fn destinations_have_no_scope() {
    assert!("172.17.0.3:80".parse::<DestinationKey>().is_ok());
    for wrong in ["172.17.0.3", "[fe80::1%2]:80", ":80", "::1:80"] {
        assert!(wrong.parse::<DestinationKey>().is_err(), "{wrong:?}");
    }
    for zone in ["[fe80::1%2]:80", "[fe80::1%eth0]:80"] {
        let error = zone.parse::<DestinationKey>().unwrap_err();
        assert!(error.to_string().contains("zone"), "{error}");
    }
}

/// A typed address carries its zone as a number.
#[test]
fn a_typed_zone_is_refused() {
    let zoned: SocketAddr = "[fe80::9%3]:80".parse().unwrap();
    for refused in [ServiceKey::tcp, ServiceKey::udp, ServiceKey::sctp] {
        let error = refused(zoned).unwrap_err().to_string();
        assert!(error.contains("[fe80::9%3]:80") && error.contains("no zone"), "{error}");
    }
    let error = DestinationKey::try_from(zoned).unwrap_err().to_string();
    assert!(error.contains("[fe80::9%3]:80") && error.contains("no zone"), "{error}");
    let plain: SocketAddr = "[fe80::9]:80".parse().unwrap();
    assert_eq!(ServiceKey::tcp(plain).unwrap().to_string(), "-t [fe80::9]:80");
    assert_eq!(DestinationKey::new(plain).unwrap().to_string(), "[fe80::9]:80");
}

#[test]
fn keys_order_by_family_and_address() {
    let mut keys: Vec<ServiceKey> = ["-f 1", "-u 10.0.0.1:1", "-t 10.0.0.2:1", "-t 10.0.0.1:2"]
        .map(|text| text.parse().unwrap())
        .into();
    keys.sort();
    let sorted: Vec<String> = keys.iter().map(ToString::to_string).collect();
    assert_eq!(sorted, ["-t 10.0.0.1:2", "-t 10.0.0.2:1", "-u 10.0.0.1:1", "-f 1"]);
}
