//! Tests of `sysctl.rs`.

use super::{value::private::Text, *};

#[test]
fn names_are_sorted_and_unique() {
    let names: Vec<_> = SysctlInfo::ALL.iter().map(|info| info.name).collect();
    assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
    assert_eq!(Sysctl::CONNTRACK.to_string(), "net.ipv4.vs.conntrack");
}

#[test]
fn values_read_and_write_as_the_kernel_does() {
    assert_eq!(
        ["0", "1", "2", "-1", "x", ""].map(bool::parse),
        [Some(false), Some(true), Some(true), Some(true), None, None]
    );
    assert_eq!((true.text(), false.text()), ("1".to_owned(), "0".to_owned()));
    let threshold = SyncThreshold::new(3, 50);
    assert_eq!(SyncThreshold::parse("3\t50"), Some(threshold));
    assert_eq!(SyncThreshold::parse(&threshold.text()), Some(threshold));
    for text in ["", "3", "3 -1", "3 x", "3 50 7"] {
        assert_eq!(SyncThreshold::parse(text), None, "{text}");
    }
    assert_eq!(Duration::parse("86400"), Some(Duration::from_secs(86_400)));
    assert_eq!(Duration::parse("-1"), None);
    assert_eq!(u64::parse("18446744073709551615"), Some(u64::MAX));
    for mode in [
        DefenseMode::Off,
        DefenseMode::Automatic,
        DefenseMode::AutomaticActive,
        DefenseMode::Always,
    ] {
        assert_eq!(DefenseMode::parse(&mode.text()), Some(mode));
    }
    assert_eq!(DefenseMode::parse("4"), None);
}

#[test]
fn what_no_kernel_takes_is_refused_before() {
    let here = Namespace::current();
    let errors = [
        write(&here, Sysctl::SYNC_PORTS, 3),
        write(&here, Sysctl::SYNC_THRESHOLD, SyncThreshold::new(50, 50)),
        write(&here, Sysctl::SYNC_REFRESH_PERIOD, Duration::from_millis(1500)),
        write(&here, Sysctl::EST_CPULIST, "0\n1".to_owned()),
        write(&here, Sysctl::CONN_REUSE_MODE, 4),
    ];
    for error in errors.map(Result::unwrap_err) {
        assert_eq!((error.kind(), error.errno()), (ErrorKind::Invalid, None));
        assert!(error.to_string().contains(": it must be "), "{error}");
    }
}

#[test]
fn reuse_is_turned_off_where_it_delays() {
    for (release, version, wants) in [
        ("3.16.0-4-amd64\n", (3, 16), false),
        ("4.1.0\n", (4, 1), true),
        ("4.19.0-27-amd64\n", (4, 19), true),
        ("5.8.18\n", (5, 8), true),
        ("5.9.0-rc1+\n", (5, 9), false),
        ("6.1.176\n", (6, 1), false),
    ] {
        assert_eq!(kernel_version(release), Some(version));
        assert_eq!(wants_no_reuse(version), wants, "{release}");
    }
    assert_eq!(["", "six", "6", "6.x"].map(kernel_version), [None; 4]);
}
