#![allow(clippy::unwrap_used, reason = "these are tests")]

use proptest::prelude::*;

use super::*;

fn one(line: &str) -> Connection {
    Connection::parse(line.as_bytes()).expect("the line is well-formed")
}

#[test]
fn plain_connection() {
    let connection = one("TCP AC110005 B9C4 0A0000B9 0050 AC110004 0050 ESTABLISHED     899");
    assert_eq!(connection.protocol, Protocol::TCP);
    assert_eq!(connection.client, "172.17.0.5:47556".parse().unwrap());
    assert_eq!(connection.virtual_address, "10.0.0.185:80".parse().unwrap());
    assert_eq!(connection.destination, "172.17.0.4:80".parse().unwrap());
    assert_eq!(connection.state, ConnectionState::ESTABLISHED);
    assert_eq!(connection.expires, Duration::from_secs(899));
    assert_eq!((connection.engine.clone(), connection.origin), (None, None));
    assert!(!connection.is_template());
    assert_eq!(connection.mark(), None);
}

#[test]
fn connections_of_one_real_server() {
    let connection = one("TCP AC110005 B9C4 0A0000B9 0050 AC110004 0050 ESTABLISHED     899");
    let template = one("IP  AC110005 0000 00000007 0000 AC110004 0050 NONE            300");
    let is_of = |connection: &Connection, service: &str, server: &str| {
        connection.is_of(&service.parse().unwrap(), &server.parse().unwrap())
    };
    for (service, server, expected) in [
        ("-t 10.0.0.185:80", "172.17.0.4:80", true),
        ("-t 10.0.0.185:0", "172.17.0.4:0", true),
        ("-f 7", "172.17.0.4:80", true),
        ("-u 10.0.0.185:80", "172.17.0.4:80", false),
        ("-t 10.0.0.185:81", "172.17.0.4:80", false),
        ("-t 10.0.0.185:80", "172.17.0.4:81", false),
        ("-t 10.0.0.185:80", "172.17.0.3:80", false),
    ] {
        assert_eq!(is_of(&connection, service, server), expected, "{service} {server}");
    }
    assert!(is_of(&template, "-f 7", "172.17.0.4:80"));
    assert!(!is_of(&template, "-f 8", "172.17.0.4:80"));
}

#[test]
fn mixed_families() {
    let connection = one("UDP 2001:0db8:0000:0000:0000:0000:0000:0005 CD01 \
         2001:0db8:0000:0000:0000:0000:0000:0185 0035 AC110004 0035 UDP             300");
    assert_eq!(connection.client, "[2001:db8::5]:52481".parse().unwrap());
    assert_eq!(connection.destination, "172.17.0.4:53".parse().unwrap());
    assert_eq!(connection.state, ConnectionState::UDP);
}

#[test]
fn templates() {
    let template = one("TCP AC110000 0000 0A0000B9 0050 AC110004 0050 ASSURED         359");
    assert!(template.is_template());
    assert_eq!(template.mark(), None);
    let marked = one("IP  AC110005 0000 0000000A 0000 AC110004 0000 NONE             47");
    assert!(marked.is_template());
    assert_eq!(marked.mark(), NonZeroU32::new(10));
    let marked = one("IP  fd00:0172:0017:0000:0000:0000:0000:0005 0000 \
         0000:000a:0000:0000:0000:0000:0000:0000 0000 \
         fd00:0172:0017:0000:0000:0000:0000:0004 0000 ASSURED          47");
    assert_eq!(marked.mark(), NonZeroU32::new(10));
    let ftp = one("TCP AC110005 0000 0A0000B9 0014 AC110004 0014 LISTEN           47");
    assert!(!ftp.is_template());
}

#[test]
fn overdue_is_zero() {
    // -3 ticks of 250 a second.
    let overdue = one("TCP AC110005 B9C4 0A0000B9 0050 AC110004 0050 CLOSE   73786976294838206");
    assert_eq!(overdue.expires, Duration::ZERO);
}

#[test]
fn unknown_names_survive() {
    let connection = one("IP_300 AC110005 B9C4 0A0000B9 0050 AC110004 0050 STRANGE! 9");
    assert_eq!(connection.protocol, Protocol(300));
    assert_eq!(connection.state.name(), "STRANGE!");
}

#[test]
fn engine_data_reaches_to_the_end_of_the_line() {
    let line = "UDP AC110005 0000 0A0000B9 13C4 AC110004 13C4 NONE            298 sip ";
    for data in [&b"a84b4c76e66710@pc33"[..], b" two  blanks ", b"\xff\xfe\r", b""] {
        let connection = Connection::parse(&[line.as_bytes(), data].concat()).unwrap();
        let engine = connection.engine.unwrap();
        assert_eq!((engine.name, engine.data.as_slice()), (EngineName::SIP, data));
    }
}

#[test]
fn origin() {
    let lines = [
        "TCP AC110005 B9C4 0A0000B9 0050 AC110004 0050 ESTABLISHED LOCAL      899",
        "TCP AC110005 B9C5 0A0000B9 0050 AC110004 0050 TIME_WAIT   SYNC       119",
    ];
    let origins =
        lines.map(|line| Connection::parse_with_origin(line.as_bytes()).unwrap().origin.unwrap());
    assert_eq!(origins, [ConnectionOrigin::Local, ConnectionOrigin::Sync]);
}

#[test]
fn the_malformed_column_is_named() {
    for (bad, column) in [
        ("", "Pro"),
        ("QUIC AC110005 B9C4 0A0000B9 0050 AC110004 0050 ESTABLISHED 899", "Pro"),
        ("TCP AC11000 B9C4 0A0000B9 0050 AC110004 0050 ESTABLISHED 899", "FromIP"),
        ("TCP AC110005 +9C4 0A0000B9 0050 AC110004 0050 ESTABLISHED 899", "FPrt"),
        ("TCP AC110005 B9C4 ::1:z 0050 AC110004 0050 ESTABLISHED 899", "ToIP"),
        ("TCP AC110005 B9C4 0A0000B9 10050 AC110004 0050 ESTABLISHED 899", "TPrt"),
        ("TCP AC110005 B9C4 0A0000B9 0050", "DestIP"),
        ("TCP AC110005 B9C4 0A0000B9 0050 AC110004 0050", "State"),
        ("TCP AC110005 B9C4 0A0000B9 0050 AC110004 0050 ESTABLISHED -1", "Expires"),
        ("TCP AC110005 B9C4 0A0000B9 0050 AC110004 0050 ESTABLISHED 899 sip", "PEData"),
        ("TCP AC110005 B9C4 0A0000B9 0050 AC110004 0050 ESTABLISHED 899  sip x", "PEName"),
    ] {
        let error = Connection::parse(bad.as_bytes()).unwrap_err();
        assert_eq!(error.column(), column, "{bad}");
    }
}

/// A line as the kernel's `ip_vs_conn_seq_show` and `ip_vs_conn_sync_seq_show` write it.
fn line_of(connection: &Connection) -> Vec<u8> {
    let protocol = match connection.protocol {
        Protocol(0) => "IP".to_owned(),
        Protocol(1) => "ICMP".to_owned(),
        Protocol(58) => "ICMPv6".to_owned(),
        other => other.to_string(),
    };
    let address = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => format!("{:08X} {:04X}", ip.to_bits(), address.port()),
        IpAddr::V6(ip) => {
            let groups = ip.segments().map(|group| format!("{group:04x}"));
            format!("{} {:04X}", groups.join(":"), address.port())
        }
    };
    let origin = connection.origin.map_or(String::new(), |origin| {
        format!("{:<6} ", if origin == ConnectionOrigin::Local { "LOCAL" } else { "SYNC" })
    });
    let mut line = format!(
        "{protocol:<3} {} {} {} {:<11} {origin}{:>7}",
        address(connection.client),
        address(connection.virtual_address),
        address(connection.destination),
        connection.state,
        connection.expires.as_secs(),
    )
    .into_bytes();
    if let Some(engine) = &connection.engine {
        line.extend_from_slice(format!(" {} ", engine.name).as_bytes());
        line.extend_from_slice(&engine.data);
    }
    line
}

fn connections() -> impl Strategy<Value = Connection> {
    let engine =
        ("[a-z]{1,15}", prop::collection::vec(1u8.., 0..255)).prop_map(|(name, mut data)| {
            data.retain(|&byte| byte != b'\n');
            EngineData::new(name.parse().unwrap(), data)
        });
    let tail = prop_oneof![
        prop::option::of(engine).prop_map(|engine| (engine, None)),
        any::<bool>().prop_map(|local| {
            let origin = if local { ConnectionOrigin::Local } else { ConnectionOrigin::Sync };
            (None, Some(origin))
        }),
    ];
    let address =
        || (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port));
    let numbers = (any::<u16>(), 0u64..1 << 50);
    (numbers, address(), address(), address(), "[A-Z_0-9!]{1,20}", tail).prop_map(
        |((protocol, seconds), client, virtual_address, destination, state, tail)| Connection {
            protocol: Protocol(protocol),
            client,
            virtual_address,
            destination,
            state: ConnectionState::parse(state.as_bytes()).unwrap(),
            expires: Duration::from_secs(seconds),
            engine: tail.0,
            origin: tail.1,
        },
    )
}

proptest! {
    #![proptest_config(crate::cases(256))]

    #[test]
    fn lines_read_back_equal(connection in connections()) {
        let line = line_of(&connection);
        let read = match connection.origin {
            Some(_) => Connection::parse_with_origin(&line),
            None => Connection::parse(&line),
        };
        prop_assert!(line.len() < 1024);
        prop_assert_eq!(read, Ok(connection));
    }

    #[test]
    fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..300), n in 0usize..99) {
        let _ = Connection::parse(&bytes);
        let _ = Connection::parse_with_origin(&bytes);
        let good = b"TCP AC110005 B9C4 0A0000B9 0050 AC110004 0050 ESTABLISHED 899 sip x";
        let _ = Connection::parse(&good[..n.min(good.len())]);
    }
}
