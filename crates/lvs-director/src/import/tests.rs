//! What others write, as ours. The files are ours, in the style of those that people have.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use proptest::prelude::*;

use super::*;

const KEEPALIVED: &str = r#"! Two web services, a group, marks and mail.
global_defs {
    notification_email {
        admin@example.org
    }
    router_id lb1
}
$WEIGHT=3
vrrp_instance VI_1 {
    state MASTER
    virtual_ipaddress {
        192.0.2.1
    }
}
virtual_server_group many {
    192.0.2.10-12 80
    192.0.2.20 443
    fwmark 7
}
virtual_server 192.0.2.1 80 {
    delay_loop 6
    lb_algo wrr   # by weight
    lb_kind NAT
    persistence_timeout 50
    persistence_granularity 255.255.255.0
    protocol TCP
    virtualhost www.example.org
    quorum 2
    hysteresis 1
    quorum_up "/usr/local/bin/up now"
    sorry_server 10.1.0.9 80
    real_server 10.1.0.1 8080 {
        weight $WEIGHT
        inhibit_on_failure
        uthreshold 100
        HTTP_GET {
            url {
                path /a
                status_code 200-299 301
            }
            url { path /b
                digest 0123
            }
            connect_port 81
            connect_timeout 3
            retry 2
            delay_before_retry 1
        }
    }
    real_server 10.1.0.2 8080
    {
        TCP_CHECK { connect_timeout 1.5 }
        notify_down /bin/false
    }
}
virtual_server group many {
    lb_algo sh
    sh-port
    lb_kind DR
    real_server 10.1.0.3 80 {
        MISC_CHECK {
            misc_path "/usr/local/bin/check -v"
        }
    }
}
virtual_server fwmark 9 {
    alpha
    lb_kind TUN
    protocol UDP
    real_server 10.1.0.4 {
        PING_CHECK { }
        BFD_CHECK {
            name x
        }
        nonsense here
    }
}
@high include other.conf
"#;

const LDIRECTORD: &str = r#"
checktimeout=3
checkinterval=1
autoreload=yes
quiescent=no
emailalert="admin@example.org"
virtual=192.0.2.1:80
	servicename=Web
	real=10.1.0.1:80 gate
	real=10.1.0.2->10.1.0.4:80 gate 5
	real=10.1.0.5:80 masq 2 "other.html", "text"
	fallback=127.0.0.1:8080 masq
	service=http
	request="index.html"
	receive="it # works"
	virtualhost=www.example.org
	scheduler=wlc
	scheduler=rr   # the last counts
	protocol=tcp
	checktype=negotiate
	persistent=600
	netmask=255.255.255.0
virtual=7
	real=10.1.0.1 ipip
	protocol=fwm
	checktype=ping
virtual6=[2001:db8::1]:25
	real6=[2001:db8::2]:25 masq
	checktype=negotiate
	protocol=tcp
virtual=192.0.2.1:53
	real=10.1.0.1:53 masq
	real=name.example.org:53 masq
	protocol=udp
	service=dns
	checktype=on
	login=x
"#;

fn notes_of(imported: &Imported) -> Vec<String> {
    imported.notes.iter().map(|(line, text)| format!("{line} {text}")).collect()
}

fn table(imported: &Imported) -> String {
    let config =
        Config::parse(&imported.yaml).unwrap_or_else(|error| panic!("{error}\n{}", imported.yaml));
    let mut text = String::new();
    for service in config.services.values() {
        // As if all were healthy.
        let servers = service.common.servers.iter().map(|it| it.real_server(service.frame.key()));
        let whole = service.frame.to_builder().real_servers(servers).build().unwrap();
        text += &format!("{}\n", lvs::client::packet::Service::clone(whole.service()));
        for destination in whole.destinations() {
            text += &format!("  {destination}\n");
        }
    }
    text
}

#[test]
fn a_file_of_keepalived() {
    let imported = import(Origin::Keepalived, KEEPALIVED);
    let found = table(&imported);
    for line in [
        "-t 192.0.2.1:80 -s wrr -p 50 -M 255.255.255.0",
        "10.1.0.1:8080 -m -w 3 -x 100",
        "10.1.0.2:8080 -m",
        "-t 192.0.2.12:80 -s sh -b sh-port",
        "-t 192.0.2.20:443 -s sh",
        "-f 7 -s sh",
        "-f 9 -s wlc",
        "10.1.0.4:0 -i",
    ] {
        assert!(found.contains(line), "{line:?} of\n{found}\n{}", imported.yaml);
    }
    let config = Config::parse(&imported.yaml).unwrap();
    let web = &config.services[&"-t 192.0.2.1:80".parse().unwrap()];
    assert_eq!(web.common.servers[0].checks.len(), 2, "a check for each URL");
    let check = &web.common.servers[0].checks[0];
    assert_eq!((check.fall, check.check.port, check.pace.interval.as_secs()), (3, Some(81), 6));
    assert_eq!(web.common.servers[1].checks[0].check.timeout.as_millis(), 1500);
    let notes = notes_of(&imported);
    let lines: Vec<usize> = imported.notes.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [3, 6, 9, 30, 34, 42, 47, 53, 60, 72, 75, 78], "{notes:#?}");
    assert!(notes.iter().all(|note| !note.starts_with("0 ")), "{notes:#?}");
}

#[test]
fn a_file_of_ldirectord() {
    let imported = import(Origin::Ldirectord, LDIRECTORD);
    let found = table(&imported);
    for line in [
        "-t 192.0.2.1:80 -s rr -p 600 -M 255.255.255.0",
        "10.1.0.1:80 -g",
        "10.1.0.3:80 -g -w 5",
        "10.1.0.5:80 -m -w 2",
        "-f 7 -s wlc",
        "10.1.0.1:0 -i",
        "-t [2001:db8::1]:25",
        "-u 192.0.2.1:53",
    ] {
        assert!(found.contains(line), "{line:?} of\n{found}\n{}", imported.yaml);
    }
    assert!(imported.yaml.contains("it # works"), "{}", imported.yaml);
    let notes = notes_of(&imported);
    for line in ["4 ", "6 ", "11 ", "33 ", "37 "] {
        assert!(notes.iter().any(|note| note.starts_with(line)), "{line} of {notes:#?}");
    }
    assert!(notes.iter().all(|note| !note.starts_with("0 ")), "{notes:#?}");
}

/// The checks of the first server of the first service, as values.
fn checks(origin: Origin, text: &str) -> (serde_json::Value, Vec<String>) {
    let imported = import(origin, text);
    let config = Config::parse(&imported.yaml).unwrap_or_else(|error| {
        panic!("{error}\n{}", imported.yaml);
    });
    let service = config.services.values().next().unwrap();
    let checks = service.common.servers[0].checks.iter().map(|it| &it.check.kind);
    let checks = checks.map(|it| serde_json::to_value(it).unwrap()).collect();
    (checks, notes_of(&imported))
}

#[test]
fn checks_over_tls_and_of_dns() {
    let of_keepalived = |check: &str| {
        let text = format!(
            "virtual_server 192.0.2.1 443 {{\nreal_server 10.1.0.1 443 {{\n{check}\n}}\n}}"
        );
        checks(Origin::Keepalived, &text)
    };
    let (found, notes) = of_keepalived(
        "SSL_GET {\nenable_sni\nurl {\npath /a\nvirtualhost www.example.org\n}\nurl {\npath /b\n}\n}",
    );
    assert_eq!(notes, Vec::<String>::new());
    assert_eq!(found[0]["http"]["host"], "www.example.org");
    assert_eq!(found[1]["http"]["path"], "/b");
    for check in [&found[0], &found[1]] {
        assert_eq!(check["http"]["tls"]["verify"], "none", "{check}");
    }
    let (found, notes) = of_keepalived("HTTP_GET {\nurl {\npath /a\n}\n}");
    assert_eq!((&found[0]["http"]["tls"], notes.len()), (&serde_json::Value::Null, 0));
    let (found, notes) = of_keepalived("DNS_CHECK {\ntype mx\nname example.org\n}");
    assert_eq!((&found[0]["dns"]["type"], notes.len()), (&"MX".into(), 0));
    assert_eq!(found[0]["dns"]["name"], "example.org");
    let (found, notes) = of_keepalived("DNS_CHECK {\ntype RRSIG\nurl {\n}\n}");
    assert_eq!((&found[0]["dns"]["type"], &found[0]["dns"]["name"]), (&"SOA".into(), &".".into()));
    assert_eq!(notes.len(), 2, "{notes:?}");

    let of_ldirectord = |lines: &str| {
        let text =
            format!("virtual=192.0.2.1:443\n real=10.1.0.1:443 masq\n protocol=tcp\n{lines}");
        let (found, notes) = checks(Origin::Ldirectord, &text);
        assert_eq!(notes, Vec::<String>::new(), "{lines}");
        found[0].clone()
    };
    let found = of_ldirectord(" request=a\n receive=ok\n virtualhost=www.example.org\n");
    assert_eq!((&found["http"]["path"], &found["http"]["pattern"]), (&"/a".into(), &"/ok/".into()));
    assert_eq!(found["http"]["tls"]["verify"], "none", "the port says HTTPS: {found}");
    let found = of_ldirectord(" service=imaps\n");
    assert_eq!(found["line"]["tls"]["verify"], "none", "{found}");
    let found = of_ldirectord(" service=dns\n request=www.example.org\n receive=192.0.2.9\n");
    assert_eq!(
        (&found["dns"]["type"], &found["dns"]["expect"][0]),
        (&"A".into(), &"192.0.2.9".into())
    );
    let found = of_ldirectord(" service=dns\n request=192.0.2.9\n receive=www.example.org\n");
    assert_eq!(found["dns"]["name"], "9.2.0.192.in-addr.arpa");
    assert_eq!(
        (&found["dns"]["type"], &found["dns"]["expect"][0]),
        (&"PTR".into(), &"www.example.org".into())
    );
}

#[test]
fn what_cannot_be_read_is_said() {
    for (origin, text) in [
        (Origin::Keepalived, "virtual_server 10.0.0.1 http { lb_kind X }"),
        (Origin::Keepalived, "virtual_server 10.0.0.1 80 { lb_algo rr"),
        (Origin::Keepalived, "}"),
        (Origin::Keepalived, "{ { { {"),
        (Origin::Ldirectord, "virtual=www.example.org:80"),
        (Origin::Ldirectord, "nonsense"),
        (Origin::Ldirectord, "\treal=10.0.0.1 gate"),
    ] {
        let imported = import(origin, text);
        assert!(!imported.notes.is_empty(), "{text}");
    }
    let deep = "a {\n".repeat(100_000);
    assert!(!import(Origin::Keepalived, &deep).notes.is_empty());
}

#[test]
fn texts_in_yaml() {
    for text in
        ["", "yes", "1", "a: b", "# x", "\u{7f}\t\n\"", "é", "- x", "5s", "{a}", "null", "1e3"]
    {
        let mut map = Yaml::map();
        map.put("a", Yaml::List(vec![Yaml::text_of(text), Yaml::List(vec![Yaml::map()])]));
        let written = map.text();
        let read: serde_json::Value = serde_saphyr::from_str(&written).unwrap();
        assert_eq!(read["a"][0], serde_json::json!(text), "{written}");
    }
}

proptest! {
    /// Any text is imported: no panic, and what comes out is our language or says why not.
    #[test]
    fn any_text(text in "\\PC{0,300}") {
        for origin in [Origin::Keepalived, Origin::Ldirectord] {
            let imported = import(origin, &text);
            let is_right = Config::parse(&imported.yaml).is_ok();
            prop_assert!(is_right || !imported.notes.is_empty());
        }
    }

    #[test]
    fn damaged(at in 0..KEEPALIVED.len(), length in 0..40usize, with in "[ -~\\n]{0,8}") {
        for (origin, text) in [(Origin::Keepalived, KEEPALIVED), (Origin::Ldirectord, LDIRECTORD)] {
            let at = at.min(text.len());
            let mut text = text.to_owned();
            let end = (at + length).min(text.len());
            text.replace_range(at..end, &with);
            let imported = import(origin, &text);
            let is_right = Config::parse(&imported.yaml).is_ok();
            prop_assert!(is_right || !imported.notes.is_empty());
        }
    }
}
