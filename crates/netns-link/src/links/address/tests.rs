//! Tests of `address.rs`.

use netlink_packet_route::RouteNetlinkMessage;
use proptest::prelude::*;

use super::*;
use crate::ErrorKind;

#[test]
fn notation() {
    let whole: Address = "10.0.0.185".parse().unwrap();
    assert_eq!(whole, Address::host("10.0.0.185".parse().unwrap()));
    assert_eq!(whole.to_string(), "10.0.0.185/32");
    let subnet: Address = "fd00:172:17::1/64".parse().unwrap();
    assert_eq!(subnet.network(), "fd00:172:17::".parse::<IpAddr>().unwrap());
    let properties = "10.0.0.1/24 scope link label eth0:1 metric 7 valid_lft 20 \
                      preferred_lft 10 noprefixroute";
    assert_eq!(properties.parse::<Address>().unwrap().to_string(), properties);
    let deprecated: Address = "fd00::1/128 preferred_lft 0 valid_lft forever".parse().unwrap();
    assert_eq!(deprecated, Address::host("fd00::1".parse().unwrap()).deprecated());
    for bad in [
        "",
        "/",
        "10.0.0.1/",
        "10.0.0.1/33",
        "::/129",
        "10.0.0/8",
        "10.0.0.1/+8",
        "10.0.0.1/-1",
        "10.0.0.1/256",
        "10.0.0.1/8/8",
        " 10.0.0.1",
        "10.0.0.1 ",
        "10.0.0.1 dev",
        "10.0.0.1 label",
        "10.0.0.1 label sixteen-bytes-xx",
        "10.0.0.1 metric +1",
        "10.0.0.1 valid_lft 0 preferred_lft 0",
        "10.0.0.1 valid_lft 10",
        "10.0.0.1 valid_lft 10 preferred_lft 11",
    ] {
        let error = bad.parse::<Address>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad:?}");
    }
}

#[test]
fn properties_of_one_family() {
    let (v4, v6) = (Address::host([10, 0, 0, 1].into()), Address::host(Ipv6Addr::LOCALHOST.into()));
    assert!(!v4.nodad().is_nodad());
    assert!(v6.nodad().is_nodad());
    assert_eq!(v4.with_scope(Scope::LINK).scope(), Scope::LINK);
    assert_eq!(v6.with_scope(Scope::LINK).scope(), Scope::HOST);
    assert_eq!(v4.with_label("eth0:1").unwrap().label().as_deref(), Some("eth0:1"));
    assert_eq!(v6.with_label("eth0:1").unwrap().label(), None);
    assert_eq!(Address::host([127, 0, 0, 1].into()).scope(), Scope::HOST);
}

#[test]
fn lifetimes() {
    let address = Address::host([10, 0, 0, 1].into());
    let time = |seconds| Some(Duration::from_secs(seconds));
    let limited = address.with_lifetimes(time(20), time(10)).unwrap();
    assert_eq!((limited.valid_lifetime(), limited.preferred_lifetime()), (time(20), time(10)));
    assert_eq!(address.with_lifetimes(None, None).unwrap(), address);
    assert!(address.with_lifetimes(None, time(0)).unwrap().is_deprecated());
    for (valid, preferred) in [
        (time(10), time(11)),
        (time(10), None),
        (time(0), time(0)),
        (Some(Duration::from_millis(999)), time(0)),
        (time(u32::MAX.into()), time(0)),
        (time(u64::MAX), time(0)),
    ] {
        let error = address.with_lifetimes(valid, preferred).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{valid:?} {preferred:?}");
    }
}

fn address() -> impl Strategy<Value = Address> {
    let times = (1..=FOREVER, any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(valid, part, forever)| {
            let preferred = part.index(valid as usize) as u32;
            if forever { (FOREVER, FOREVER) } else { (valid, preferred) }
        },
    );
    let label = prop::option::of(r"[a-z:é]{1,7}|[a-z]\\xff[a-z\\]");
    let rest = (any::<u8>(), label, any::<u32>(), any::<[bool; 2]>());
    (any::<IpAddr>(), 0_u8..=128, times, rest).prop_map(
        |(ip, len, (valid, preferred), (scope, label, metric, [nodad, noprefixroute]))| {
            let mut address = Address::new(ip, len.min(host_len(ip))).unwrap();
            address = address.with_scope(Scope::new(scope)).with_metric(metric);
            if let Some(label) = label {
                address = address.with_label(&label).unwrap();
            }
            if nodad {
                address = address.nodad();
            }
            Address { noprefixroute, ..address.with_seconds(valid, preferred).unwrap() }
        },
    )
}

proptest! {
    #[test]
    fn notation_survives(address in address()) {
        prop_assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
    }

    #[test]
    fn any_text_is_an_address_or_an_error(text: String) {
        let _ = text.parse::<Address>();
    }

    #[test]
    fn what_is_added_is_what_is_listed(address in address(), index: u32) {
        let raw = Raw::of(&RouteNetlinkMessage::NewAddress(address.message(index)));
        prop_assert_eq!(
            Present::read(&Operation::ListAddresses, &raw, "no such label").unwrap(),
            Some(Present { address, index, secondary: false })
        );
    }

    /// Nothing more is to be done once it was done.
    #[test]
    fn a_difference_is_made_good(wanted in address(), present in address()) {
        let present = Address { ip: wanted.ip, prefix_len: wanted.prefix_len, ..present };
        // The families' own properties.
        let present = Address {
            scope: present.scope.filter(|_| wanted.ip.is_ipv4()),
            label: present.label.filter(|_| wanted.ip.is_ipv4()),
            nodad: present.nodad && wanted.ip.is_ipv6(),
            ..present
        };
        let after = match wanted.difference(&present) {
            Difference::None => present,
            Difference::InPlace(changed) if wanted.ip.is_ipv4() => Address {
                scope: present.scope,
                label: present.label,
                noprefixroute: present.noprefixroute,
                ..changed
            },
            Difference::InPlace(changed) => changed,
            Difference::Anew => wanted,
        };
        let again = wanted.difference(&after);
        prop_assert!(again == Difference::None || wanted.valid != FOREVER, "{:?}", again);
    }
}

#[cfg(feature = "serde")]
#[test]
fn readable_form() {
    let address: Address = "fd00::1/128 preferred_lft 0 nodad".parse().unwrap();
    let json = serde_json::to_string(&address).unwrap();
    assert_eq!(json, "\"fd00::1/128 preferred_lft 0 nodad\"");
    assert_eq!(serde_json::from_str::<Address>(&json).unwrap(), address);
    assert!(serde_json::from_str::<Address>("\"10.0.0.1/33\"").is_err());
}
