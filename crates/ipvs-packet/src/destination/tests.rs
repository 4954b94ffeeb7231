//! Tests of `destination.rs`.

use super::*;

#[test]
fn weights_have_a_limit() {
    assert_eq!(Weight::new(2_147_483_647), Ok(Weight::MAX));
    assert_eq!(
        Weight::new(2_147_483_648).unwrap_err().to_string(),
        "weight \"2147483648\" must be 0 to 2147483647"
    );
}

#[test]
fn thresholds_are_in_order() {
    assert!(Thresholds::new(0, 0).is_ok() && Thresholds::new(5, 5).is_ok());
    assert!(Thresholds::new(5, 6).unwrap_err().to_string().contains("upper 5"));
    assert!(Thresholds::new(0, 1).is_err());
    assert!(Thresholds::new(1 << 31, 0).is_err());
}

#[test]
fn a_destination_displays_as_ipvsadm_saves_it() {
    let text = |forward, tunnel, thresholds| {
        let mut destination = Destination::new("172.17.0.3:80".parse().unwrap());
        destination.forward = forward;
        destination.tunnel = tunnel;
        destination.thresholds = thresholds;
        destination.to_string()
    };
    let gue = |flags| Tunnel::new(TunnelType::GUE, 6080, flags).unwrap();
    let plain = TunnelFlags::empty();
    // `ipvsadm -Sn` of version 1.31, without `-a` and the service.
    for (method, tunnel, expected) in [
        (ForwardMethod::MASQUERADE, Tunnel::IPIP, "-m -w 1"),
        (ForwardMethod::DIRECT_ROUTE, Tunnel::IPIP, "-g -w 1"),
        (ForwardMethod::TUNNEL, Tunnel::IPIP, "-i -w 1 --tun-type ipip"),
        (ForwardMethod::TUNNEL, Tunnel::gre(plain), "-i -w 1 --tun-type gre --tun-nocsum"),
        (
            ForwardMethod::TUNNEL,
            Tunnel::gre(TunnelFlags::CHECKSUM),
            "-i -w 1 --tun-type gre --tun-csum",
        ),
        (ForwardMethod::TUNNEL, gue(plain), "-i -w 1 --tun-type gue --tun-port 6080 --tun-nocsum"),
        (
            ForwardMethod::TUNNEL,
            gue(TunnelFlags::REMOTE_CHECKSUM),
            "-i -w 1 --tun-type gue --tun-port 6080 --tun-remcsum",
        ),
    ] {
        let expected = format!("-r 172.17.0.3:80 {expected}");
        assert_eq!(text(method, tunnel, Thresholds::NONE), expected);
    }
    // Values that ipvsadm omits or cannot name.
    let thresholds = Thresholds::new(100, 50).unwrap();
    assert_eq!(
        text(ForwardMethod::MASQUERADE, Tunnel::IPIP, thresholds),
        "-r 172.17.0.3:80 -m -w 1 -x 100 -y 50"
    );
    let tunnel = Tunnel::new(TunnelType(7), 9, TunnelFlags::from_bits_retain(0x13)).unwrap();
    assert_eq!(
        text(ForwardMethod(5), tunnel, Thresholds::NONE),
        "-r 172.17.0.3:80 --forward-method 5 -w 1"
    );
    assert_eq!(
        text(ForwardMethod::TUNNEL, tunnel, Thresholds::NONE),
        "-r 172.17.0.3:80 -i -w 1 --tun-type 7 --tun-port 9 --tun-flags 0x13"
    );
}

#[test]
fn open_sets_read_both_kinds_of_words() {
    for (text, method) in [
        ("Masq", ForwardMethod::MASQUERADE),
        ("masquerade", ForwardMethod::MASQUERADE),
        ("ROUTE", ForwardMethod::DIRECT_ROUTE),
        ("direct", ForwardMethod::DIRECT_ROUTE),
        ("5", ForwardMethod(5)),
    ] {
        assert_eq!(text.parse(), Ok(method));
    }
    assert_eq!(
        "nat".parse::<ForwardMethod>().unwrap_err().to_string(),
        "forwarding method \"nat\" must be masquerade, local, tunnel, direct, bypass, or a number"
    );
    for wrong in ["", "-1", "4294967296", "Masq "] {
        assert!(wrong.parse::<ForwardMethod>().is_err(), "{wrong:?}");
    }
}

#[test]
fn gue_has_a_port() {
    let none = TunnelFlags::empty();
    let error = Tunnel::new(TunnelType::GUE, 0, none).unwrap_err();
    assert_eq!(error.rule(), "must be 1 to 65535 with GUE");
    assert_eq!(Tunnel::new(TunnelType::IPIP, 0, none), Ok(Tunnel::IPIP));
    assert_eq!(Tunnel::new(TunnelType::GUE, 1, none), Ok(Tunnel::gue(NonZeroU16::MIN, none)));
}
