#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::net::{IpAddr, Ipv4Addr};

use ipvs_packet::{
    DaemonRole, ForwardMethod, Netmask, Protocol, Request, Service, ServiceFlags, SyncId, Tunnel,
    TunnelType, strategy,
};
use proptest::prelude::*;

use super::*;

fn parse(line: &str) -> Result<String, String> {
    match line.parse::<Command>() {
        Ok(command) => Ok(command.to_string()),
        Err(mistakes) => Err(mistakes.to_string()),
    }
}

/// What is read is displayed in ipvsadm's form. Each line was given to ipvsadm 1.31 and shown by
/// `ipvsadm -Sn`.
#[test]
fn lines_mean_what_they_mean_to_ipvsadm() {
    for (line, expected) in [
        ("-At 10.0.0.1:80 -srr", "-A -t 10.0.0.1:80 -s rr"),
        ("-A -t 10.0.0.1:80 -p -s rr", "-A -t 10.0.0.1:80 -s rr -p 360"),
        ("-A -t 10.0.0.1:80 -p +60", "-A -t 10.0.0.1:80 -s wlc -p 60"),
        ("-A -t 10.0.0.1:+80", "-A -t 10.0.0.1:80 -s wlc"),
        ("-A -f 3 -6 -6", "-A -f 3 -6 -s wlc"),
        ("-A -f 4294967295", "-A -f 4294967295 -s wlc"),
        ("-A -t fd00::1 -p", "-A -t [fd00::1]:0 -s wlc -p 360"),
        ("-A -o -u 10.0.0.1:80", "-A -u 10.0.0.1:80 -s wlc -o"),
        ("-A -o -f 5", "-A -f 5 -s wlc -o"),
        ("-A -t 10.0.0.1:80 -b flag-1,flag-3", "-A -t 10.0.0.1:80 -s wlc -b flag-1,flag-3"),
        ("-A -t 10.0.0.1:80 -b sh-port -s sh", "-A -t 10.0.0.1:80 -s sh -b sh-port"),
        ("-A -t 10.0.0.1:80 -b ,,flag-2,,", "-A -t 10.0.0.1:80 -s wlc -b flag-2"),
        ("-A -t 10.0.0.1:80 -s '' --pe ''", "-A -t 10.0.0.1:80 -s wlc"),
        ("-A -t [fd00::1]:80 -p 60 -M 64", "-A -t [fd00::1]:80 -s wlc -p 60 -M 64"),
        ("-E -t 9.9.9.9:80 -s rr", "-E -t 9.9.9.9:80 -s rr"),
        ("-a -t 9.9.9.9:80 -r 10.1.0.1", "-a -t 9.9.9.9:80 -r 10.1.0.1:80 -g -w 1"),
        ("-a -t 9.9.9.9:80 -r 10.1.0.1:81 -g", "-a -t 9.9.9.9:80 -r 10.1.0.1:80 -g -w 1"),
        ("-a -f 3 -r 10.1.0.1:81 -g", "-a -f 3 -r 10.1.0.1:81 -g -w 1"),
        (
            "-a -t 9.9.9.9:80 -r [fd00::1]:80 -i",
            "-a -t 9.9.9.9:80 -r [fd00::1]:80 -i -w 1 --tun-type ipip",
        ),
        (
            "-a -t 9.9.9.9:80 -r 10.1.0.1 -i --tun-type gue --tun-port 5",
            "-a -t 9.9.9.9:80 -r 10.1.0.1:80 -i -w 1 --tun-type gue --tun-port 5 --tun-nocsum",
        ),
        (
            "-a -t 9.9.9.9:80 -r 10.1.0.1:81 -m -w 3 -x 100 -y 50",
            "-a -t 9.9.9.9:80 -r 10.1.0.1:81 -m -w 3 -x 100 -y 50",
        ),
        ("-d -t 9.9.9.9:80 -r 10.1.0.1", "-d -t 9.9.9.9:80 -r 10.1.0.1:80"),
        ("-l -n --sort --sort", "-L -n"),
        ("-Lnc", "-L -c -n"),
        ("-L -f 3 -6 --stats --exact", "-L -f 3 -6 --stats --exact"),
        ("-Sn", "-S -n"),
        ("-Z", "-Z"),
        ("1 --set 2 3", "--set 1 2 3"),
        ("--start-daemon master", "--start-daemon master --mcast-interface eth0 --syncid 0"),
        ("--stop-daemon backup --syncid 3", "--stop-daemon backup"),
        ("-hA foo", "-h"),
        ("-v foo", "-v"),
        // Right here, wrong there.
        ("-A -t 10.0.0.1:80 -p 60 -M 24", "-A -t 10.0.0.1:80 -s wlc -p 60 -M 255.255.255.0"),
        ("-a -r 10.1.0.1 -t 9.9.9.9:80 -m", "-a -t 9.9.9.9:80 -r 10.1.0.1:80 -m -w 1"),
        ("-A -p -M 64 -t [fd00::1]:80", "-A -t [fd00::1]:80 -s wlc -p 360 -M 64"),
        // Not there.
        ("--add-serv --tcp 10.0.0.1:80 --sched rr", "error"),
        ("--add-service --tcp 10.0.0.1:80 --schedul rr", "-A -t 10.0.0.1:80 -s rr"),
        ("/sbin/ipvsadm -A --protocol 99 10.0.0.1:80", "-A --protocol 99 10.0.0.1:80 -s wlc"),
        (
            "-a -f 3 -r 10.1.0.1 --forward-method local",
            "-a -f 3 -r 10.1.0.1:0 --forward-method 1 -w 1",
        ),
        (
            "-a -t 9.9.9.9:80 -r 10.1.0.1:81 --forward-method 3",
            "-a -t 9.9.9.9:80 -r 10.1.0.1:81 --forward-method 3 -w 1",
        ),
    ] {
        match expected {
            "error" => assert!(parse(line).is_err(), "{line}"),
            _ => assert_eq!(parse(line).as_deref(), Ok(expected), "{line}"),
        }
    }
}

/// Each line was given to ipvsadm 1.31, which refused it with the same exit status.
#[test]
fn what_ipvsadm_refuses_is_refused() {
    for (status, line, expected) in [
        (2, "-A -t 10.0.0.1:80 foo", "line 1, column 19: \"foo\" belongs to no option"),
        (2, "foo -A -t 10.0.0.1:80", "line 1, column 1: \"foo\" belongs to no option"),
        (255, "-A -t 10.0.0.1:80 -s", "line 1, column 21: -s needs a value"),
        (255, "-A -t 10.0.0.1:80 --bogus", "line 1, column 19: --bogus is not an option"),
        (255, "-A -t 10.0.0.1:80 -q", "line 1, column 19: -q is not an option"),
        (2, "-ACf1", "line 1, column 3: -C is a second command beside -A"),
        (2, "-A -A -t 10.0.0.1:80", "line 1, column 4: -A is a second command beside -A"),
        (255, "--list=3", "line 1, column 1: --list takes no value"),
        (255, "-n -L", "line 1, column 1: -n must follow a command such as -A or -L"),
        (
            255,
            "-",
            "line 1, column 1: \"-\" is not an option; a command such as -A or -L is missing",
        ),
        (
            255,
            "foo",
            "line 1, column 1: \"foo\" is not an option; a command such as -A or -L is missing",
        ),
        (
            255,
            "–a -t 10.0.0.1:80",
            "line 1, column 1: \"–a\" begins with a dash (U+2013) that is not \"-\"",
        ),
        (255, "—list", "line 1, column 1: \"—list\" begins with a dash (U+2014) that is not \"-\""),
        (2, "-L −n", "line 1, column 4: \"−n\" begins with a dash (U+2212) that is not \"-\""),
        (2, "-A -t 10.0.0.1:80 -s rr -s wrr", "line 1, column 25: -s is given twice"),
        (2, "-A -t 10.0.0.1:80 -u 10.0.0.1:80", "line 1, column 19: -u cannot go with -t"),
        (2, "-A -6 -f 3", "line 1, column 4: -6 must follow -f and a firewall mark"),
        (
            2,
            "-A -f 4294967296",
            "line 1, column 7: \"4294967296\" must be a firewall mark, 1 to 4294967295",
        ),
        (2, "-A -f 0x10", "line 1, column 7: \"0x10\" must be a firewall mark, 1 to 4294967295"),
        (2, "-A -t 1010", "line 1, column 7: \"1010\" must be an address such as 10.0.0.185"),
        (
            2,
            "-A -t 10.0.0.1",
            "line 1, column 4: port 0, which is every port, needs persistence: -p",
        ),
        (2, "-A -t 10.0.0.1:", "line 1, column 16: \"\" must be a port, 0 to 65535"),
        (2, "-A -t [fd00::1]", "line 1, column 7: \"[fd00::1]\" must be such as [2001:db8::1]:80"),
        (2, "-A -t 10.0.0.1:65536", "line 1, column 16: \"65536\" must be a port, 0 to 65535"),
        (
            2,
            "-A -o -t 10.0.0.1:80",
            "line 1, column 4: one-packet scheduling (-o) is for UDP and firewall marks",
        ),
        (
            2,
            "-A -t 10.0.0.1:80 -b sh-port",
            "line 1, column 22: \"sh-port\" does not go with scheduler wlc",
        ),
        (
            2,
            "-A -t 10.0.0.1:80 -b flag-0",
            "line 1, column 22: \"flag-0\" must be sh-fallback, sh-port, mh-fallback, mh-port, or flag-1 to flag-3",
        ),
        (2, "-A -t ''", "line 1, column 7: \"\" must be an address such as 10.0.0.185"),
        (2, "-a -t 9.9.9.9:80 -r 10.1.0.1:81 -m -g", "line 1, column 36: -g cannot go with -m"),
        (
            2,
            "-a -t 9.9.9.9:80 -r [fd00::1]:80 -m",
            "line 1, column 18: only a tunnelled real server (-i) may be of another address family than its service",
        ),
        (
            2,
            "-a -t 9.9.9.9:80 -r 10.1.0.1 -m --tun-type gue",
            "line 1, column 33: --tun-type is for tunnelled real servers (-i) only",
        ),
        (
            2,
            "-a -t 9.9.9.9:80 -r 10.1.0.1 -i --tun-type gue",
            "line 1, column 33: encapsulation gue needs --tun-port",
        ),
        (
            2,
            "-a -t 9.9.9.9:80 -r 10.1.0.1 -i --tun-type gue --tun-port 5 --tun-csum --tun-remcsum",
            "line 1, column 72: --tun-remcsum cannot go with --tun-csum",
        ),
        (
            2,
            "-a -t 9.9.9.9:80 -r 10.1.0.1 -i --tun-type gre --tun-port 5",
            "line 1, column 48: --tun-port does not go with encapsulation gre",
        ),
        (
            2,
            "-a -t 9.9.9.9:80 -r 10.1.0.1 -i --tun-port 5",
            "line 1, column 33: --tun-port does not go with encapsulation ipip",
        ),
        (
            2,
            "-a -t 9.9.9.9:80 -r 10.1.0.1 -w5x",
            "line 1, column 32: \"5x\" must be a weight, 0 to 2147483647",
        ),
        (2, "-a -t 9.9.9.9:80 -w 5", "line 1, column 22: -a needs a real server: -r"),
        (
            2,
            "-a -r 10.1.0.1 -w 5",
            "line 1, column 20: -a needs a service: -t, -u, --sctp-service or -f",
        ),
        (2, "-D -t 9.9.9.9:80 -s rr", "line 1, column 18: -s does not go with -D"),
        (2, "-L -c -t 9.9.9.9:80", "line 1, column 7: -t cannot go with -c"),
        (2, "-L --timeout --stats", "line 1, column 14: --stats is for services and real servers"),
        (
            2,
            "-L --daemon --persistent-conn",
            "line 1, column 13: --persistent-conn is for services and real servers",
        ),
        (2, "-L -n -n", "line 1, column 7: -n is given twice"),
        (
            2,
            "--set 1 2",
            "line 1, column 10: --set needs three timeouts in seconds: of TCP, of TCP after FIN, and of UDP; 0 leaves one as it is",
        ),
        (2, "--set 1 2 3 4", "line 1, column 13: \"4\" belongs to no option"),
        (
            2,
            "--set 1 2 2678401",
            "line 1, column 11: \"2678401\" must be a timeout in seconds, 0 to 2678400",
        ),
        (
            2,
            "--start-daemon master --mcast-interface lo --syncid 300",
            "line 1, column 53: \"300\" must be a sync id, 0 to 255",
        ),
        (2, "--start-daemon foo", "line 1, column 16: \"foo\" must be master or backup"),
        (
            2,
            "--stop-daemon master --mcast-ttl 3",
            "line 1, column 22: --mcast-ttl does not go with --stop-daemon",
        ),
        (255, "--stop-daemon", "line 1, column 14: --stop-daemon needs a value"),
        (2, "-R -n", "line 1, column 4: -n does not go with -R"),
        (2, "-A -t 1.2.3.4:80 -X", "line 1, column 18: -X does not go with -A"),
    ] {
        let mistakes = line.parse::<Command>().unwrap_err();
        assert_eq!(mistakes.to_string(), expected, "{line}");
        assert_eq!(mistakes.iter().next().unwrap().exit_status(), status, "{line}");
    }
}

#[test]
fn all_mistakes_of_a_line_are_told() {
    assert_eq!(
        parse("-a -t 10.0.0.256:80 -r 10.1.0.1:99999 -w x -x 1 -y 2 -Z -s rr").unwrap_err(),
        "line 1, column 7: \"10.0.0.256\" must be an address such as 10.0.0.185\n\
         line 1, column 33: \"99999\" must be a port, 0 to 65535\n\
         line 1, column 42: \"x\" must be a weight, 0 to 2147483647\n\
         line 1, column 49: lower threshold \"2 (upper 1)\" must not exceed the upper threshold\n\
         line 1, column 54: -Z is a second command beside -a\n\
         line 1, column 57: -s does not go with -a"
    );
}

#[test]
fn names_are_looked_up() {
    struct Hosts;
    impl Names for Hosts {
        fn address(&self, host: &str) -> Option<IpAddr> {
            (host == "www").then_some(Ipv4Addr::new(10, 0, 0, 1).into())
        }

        fn port(&self, service: &str, protocol: Protocol) -> Option<u16> {
            match (service, protocol) {
                ("http", Protocol::TCP) => Some(80),
                ("domain", Protocol::UDP) => Some(53),
                _ => None,
            }
        }
    }
    let parse = |line| Command::parse_line(line, &Hosts).map(|command| command.to_string());
    assert_eq!(parse("-A -t www:http").unwrap(), "-A -t 10.0.0.1:80 -s wlc");
    assert_eq!(parse("-A -u www:domain").unwrap(), "-A -u 10.0.0.1:53 -s wlc");
    assert_eq!(parse("-d -t www:1 -r www:http").unwrap(), "-d -t 10.0.0.1:1 -r 10.0.0.1:80");
    assert!(parse("-A -t www:domain").is_err() && parse("-A -t www2:http").is_err());
    assert_eq!(Command::parse(&[""; 0], &Hosts).unwrap().to_string(), "-L");
}

#[test]
fn what_is_not_looked_up_is_said() {
    let hint = "names are not looked up here: save with ipvsadm -Sn, or use Rules::parse";
    for (line, expected) in [
        ("-A -t 10.0.0.1:http", format!("column 16: \"http\" must be a port, 0 to 65535; {hint}")),
        (
            "-D -t www:80",
            format!("column 7: \"www\" must be an address such as 10.0.0.185; {hint}"),
        ),
        ("-D -t 10.0.0.1:-1", "column 16: \"-1\" must be a port, 0 to 65535".to_owned()),
    ] {
        assert_eq!(parse(line), Err(format!("line 1, {expected}")));
    }
    // The machine's names would be known here.
    struct NoNames;
    impl Names for NoNames {}
    let text = Command::parse_line("-D -t 10.0.0.1:http", &NoNames).unwrap_err().to_string();
    assert!(text.ends_with("is neither a port, 0 to 65535, nor the name of a known service"));
}

#[test]
fn a_zone_is_refused() {
    /// As the C library does, it takes addresses for names.
    struct Zones;
    impl Names for Zones {
        fn address(&self, _: &str) -> Option<IpAddr> {
            Some("fe80::1".parse().unwrap())
        }

        fn ipv6_address(&self, _: &str) -> Option<std::net::Ipv6Addr> {
            Some("fe80::1".parse().unwrap())
        }
    }
    for (zone, column) in [("[fe80::1%lo]:80", 9), ("[fe80::1%2]:80", 9), ("fe80::1%0", 8)] {
        let reason = format!(
            "{zone:?} must have no zone such as %eth0: IPVS keeps an address without its interface"
        );
        for (before, behind) in
            [("-A -p -t ", ""), ("-D -t ", ""), ("-a -f 1 -6 -r ", " -m"), ("-d -f 1 -r ", "")]
        {
            let mistakes =
                Command::parse_line(&format!("{before}{zone}{behind}"), &Zones).unwrap_err();
            let expected = format!("line 1, column {}: {reason}", before.len() + column);
            assert_eq!(mistakes.to_string(), expected);
            assert_eq!(mistakes.exit_status(), 2);
        }
    }
    let group = parse("--start-daemon master --mcast-group ff02::51%eth0").unwrap_err();
    assert!(group.ends_with("must have no zone such as %eth0; --mcast-interface says it"));
}

#[test]
fn forgotten_brackets_are_warned_of() {
    let warnings = |line: &str| -> Vec<String> {
        let rules = crate::Rules::parse(line, &Numeric).unwrap();
        rules.iter().flat_map(|rule| &rule.warnings).map(ToString::to_string).collect()
    };
    let warning =
        "2001:db8::1:80 is an address without a port; with port 80 it is [2001:db8::1]:80";
    assert_eq!(parse("-A -t 2001:db8::1:80 -s rr"), Err(format!("line 1, column 4: {warning}")));
    assert_eq!(
        warnings("\n-A -t 2001:db8::1:80 -s rr -p"),
        [format!("line 2, column 7: {warning}")]
    );
    assert_eq!(
        warnings("-a -t [2001:db8::9]:80 -r 2001:db8::1:80 -m"),
        [format!("line 1, column 27: {warning}")]
    );
    for line in [
        "-A -t [2001:db8::1:80]:80",
        "-A -t 2001:db8::80 -p",
        "-A -t 2001:db8::1:8 -p",
        "-A -t 2001:db8:0:0:0:0:0:80 -p",
        "-A -t 10.0.0.1:80",
    ] {
        assert_eq!(warnings(line), [""; 0], "{line}");
    }
}

#[test]
fn requests_as_command_lines() {
    let line = |request| CommandLine(&request).to_string();
    assert_eq!(line(Request::Flush), "ipvsadm -C");
    assert_eq!(line(Request::GetInfo), "ipvsadm -L -n");
    let key = "-t 10.0.0.1:80".parse().unwrap();
    assert_eq!(line(Request::ListDestinations(key)), "ipvsadm -L -t 10.0.0.1:80 -n");
    let other = Request::Other { command: ipvs_packet::CommandNumber(99), payload: Vec::new() };
    assert_eq!(line(other), "# command 99");
    let mut odd = Service::new(key);
    odd.scheduler = "it's".parse().unwrap();
    assert_eq!(line(Request::NewService(odd)), r"ipvsadm -A -t 10.0.0.1:80 -s 'it'\''s'");
}

/// A service as the kernel keeps it, less what has no effect, and so that ipvsadm takes it.
pub(crate) fn effective(mut service: Service) -> Service {
    if let ServiceKey::Address { protocol, port, .. } = *service.key() {
        if port == 0 {
            service.flags |= ServiceFlags::PERSISTENT;
        }
        if protocol != Protocol::UDP {
            service.flags -= ServiceFlags::ONE_PACKET;
        }
    }
    if service.flags.contains(ServiceFlags::PERSISTENT) {
        service.timeout = service.timeout.clamp(1, 2_678_400);
    } else {
        service.timeout = 0;
        service.set_netmask(Netmask::host(service.key().family())).unwrap();
    }
    service
}

/// The same of a destination.
pub(crate) fn effective_destination(mut destination: Destination) -> Destination {
    let tunnel = destination.tunnel;
    destination.tunnel = match (destination.forward, tunnel.kind()) {
        (ForwardMethod::TUNNEL, TunnelType::GRE) => Tunnel::gre(tunnel.flags()),
        (ForwardMethod::TUNNEL, kind) if kind != TunnelType::IPIP => tunnel,
        _ => Tunnel::IPIP,
    };
    destination
}

/// Requests that have an ipvsadm command of their own, without what has no effect.
fn writes() -> impl Strategy<Value = Request> {
    let settings = || strategy::service().prop_map(effective);
    let server = || {
        (strategy::service_key(), strategy::destination()).prop_map(|(key, mut destination)| {
            if key.family() != destination.key.family() {
                destination.forward = ForwardMethod::TUNNEL;
            }
            (key, effective_destination(destination))
        })
    };
    let timeouts = (0..=2_678_400u32, 0..=2_678_400u32, 0..=2_678_400u32)
        .prop_map(|(tcp, tcp_fin, udp)| Timeouts::new(tcp, tcp_fin, udp));
    let daemon = strategy::sync_daemon().prop_map(|mut daemon| {
        if daemon.role != DaemonRole::MASTER {
            daemon.role = DaemonRole::BACKUP;
        }
        daemon.sync_id = SyncId::from(daemon.sync_id.get() as u8);
        daemon.max_length = daemon.max_length.filter(|length| length.get() <= 65507);
        daemon
    });
    prop_oneof![
        settings().prop_map(Request::NewService),
        settings().prop_map(Request::SetService),
        strategy::service_key().prop_map(Request::DeleteService),
        server().prop_map(|(key, server)| Request::NewDestination(key, server)),
        server().prop_map(|(key, server)| Request::SetDestination(key, server)),
        server().prop_map(|(key, server)| Request::DeleteDestination(key, server.key)),
        timeouts.prop_map(Request::SetTimeouts),
        daemon.prop_map(Request::NewDaemon),
        Just(Request::DeleteDaemon(DaemonRole::MASTER)),
        Just(Request::Flush),
        Just(Request::Zero(None)),
        strategy::service_key().prop_map(|key| Request::Zero(Some(key))),
        strategy::service_key().prop_map(Request::GetService),
        Just(Request::ListServices),
        Just(Request::ListDaemons),
        Just(Request::GetTimeouts),
    ]
}

proptest! {
    #![proptest_config(crate::cases(2000))]

    #[test]
    fn requests_survive_their_command_lines(request in writes()) {
        let line = CommandLine(&request).to_string();
        let command: Command = line.parse().map_err(|error| {
            TestCaseError::fail(format!("{line}: {error}"))
        })?;
        prop_assert_eq!(command.request(), Some(request), "{}", line);
        prop_assert_eq!(format!("ipvsadm {command}"), line);
    }

    #[test]
    fn any_text_is_read_or_refused(line in "(-[A-Za-z] |--[a-z]{2,9}[ =]|[0-9.:\\[\\]]{1,9}| |.){0,12}") {
        if let Ok(command) = line.parse::<Command>() {
            let again: Command = command.to_string().parse().unwrap();
            prop_assert_eq!(again.to_string(), command.to_string());
        }
    }

    #[test]
    fn real_servers_survive_their_text(destination in strategy::destination()) {
        let text = destination.to_string();
        let read = Command::parse_server(&text).map_err(|error| {
            TestCaseError::fail(format!("{text}: {error}"))
        })?;
        prop_assert_eq!(read.to_string(), text);
    }
}

#[test]
fn mistakes_of_a_real_server_are_at_their_place() {
    for (text, expected) in [
        ("-r 172.17.0.3:80 -m -w x", "line 1, column 24: "),
        ("", "line 1, column 1: "),
        ("-r 172.17.0.3 -f 2", "line 1, column 15: "),
        ("-m # nothing", "line 1, column "),
        ("-r [fd00::3", "line 1, column 4: "),
    ] {
        let error = Command::parse_server(text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
}
