#![allow(clippy::unwrap_used, reason = "these are tests")]

use ipvs_packet::{ForwardMethod, SchedulerName, Weight, strategy};
use proptest::{collection::vec, prelude::*};

use super::*;

fn mistakes(text: &str) -> String {
    text.parse::<Rules>().and_then(|rules| rules.table()).unwrap_err().to_string()
}

#[test]
fn lines_keep_their_numbers() {
    let text = "\n# nothing\nipvsadm -C\n\n  /sbin/ipvsadm -A -f 1 # a mark\r\n\tipvsadm\n-D -f 1";
    let rules: Rules = text.parse().unwrap();
    let lines: Vec<_> = rules.iter().map(|rule| rule.line).collect();
    assert_eq!(lines, [3, 5, 7]);
    assert_eq!(rules.to_string(), "-C\n-A -f 1 -s wlc\n-D -f 1\n");
    assert_eq!(rules.requests().count(), 3);
    assert!(rules.table().unwrap().services.is_empty());
    assert!("".parse::<Rules>().unwrap().is_empty());
}

#[test]
fn every_line_is_judged() {
    assert_eq!(
        mistakes("-A -t 10.0.0.1\n-A -f 1\n  -Q\n-Ln\n-A -f 'x\n\u{e9} -Z"),
        "line 1, column 4: port 0, which is every port, needs persistence: -p\n\
         line 3, column 3: -Q is not an option\n\
         line 4, column 1: -L -n changes nothing, so it is no rule\n\
         line 5, column 7: a quotation mark or backslash has nothing behind it\n\
         line 6, column 1: \"\u{e9}\" belongs to no option"
    );
}

#[test]
fn a_table_is_what_the_rules_leave() {
    let rules: Rules = "
        -A -t 10.0.0.1:80 -s rr -p 60
        -a -t 10.0.0.1:80 -r 172.17.0.3 -m
        -a -t 10.0.0.1:80 -r 172.17.0.4 -m
        -A -f 1
        -a -f 1 -r 172.17.0.4
        -e -t 10.0.0.1:80 -r 172.17.0.3 -m -w 0
        -d -t 10.0.0.1:80 -r 172.17.0.4
        -E -t 10.0.0.1:80 -s wrr
        -D -f 1
        -Z -t 10.0.0.1:80
    "
    .parse()
    .unwrap();
    let table = rules.table().unwrap();
    assert_eq!(
        Rules::from(&table).to_string(),
        "-A -t 10.0.0.1:80 -s wrr\n-a -t 10.0.0.1:80 -r 172.17.0.3:80 -m -w 0\n"
    );
    let entry = &table.service(&"-t 10.0.0.1:80".parse().unwrap()).unwrap().destinations[0];
    assert_eq!(entry.destination.weight, Weight::ZERO);
}

#[test]
fn what_the_kernel_would_refuse_is_told_with_both_lines() {
    assert_eq!(
        mistakes(
            "-A -f 1\n-A -f 1 -s rr\n-a -f 1 -r 10.1.0.1\n-a -f 1 -r 10.1.0.1 -m\n-a -f 2 -r \
             10.1.0.1\n-E -f 2\n-D -f 2\n-e -f 1 -r 10.1.0.2\n-d -f 1 -r 10.1.0.2\n-Z -f 2\n--set \
             1 2 3"
        ),
        "line 2, column 1: service -f 1 is there already, from line 1, and differs: \
         scheduler wlc -> rr\n\
         line 4, column 1: real server 10.1.0.1:0 of -f 1 is there already, from line 3, and \
         differs: forwarding direct routing -> masquerade\n\
         line 5, column 1: there is no service -f 2 before this line\n\
         line 6, column 1: there is no service -f 2 before this line\n\
         line 7, column 1: there is no service -f 2 before this line\n\
         line 8, column 1: there is no real server 10.1.0.2:0 of -f 1 before this line\n\
         line 9, column 1: there is no real server 10.1.0.2:0 of -f 1 before this line\n\
         line 10, column 1: there is no service -f 2 before this line\n\
         line 11, column 1: --set 1 2 3 is not about services"
    );
}

#[test]
fn a_byte_order_mark_is_no_mistake() {
    let rules: Rules = "\u{feff}-A -f 1\n-C".parse().unwrap();
    assert_eq!(rules.to_string(), "-A -f 1 -s wlc\n-C\n");
    assert!("-C\n\u{feff}-C".parse::<Rules>().is_err());
}

#[test]
fn a_line_that_repeats_another_changes_nothing() {
    let once = "-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.1.0.1 -m -w 3\n";
    // Spelled in another way, and without effect where there is no persistence.
    let again = "--add-service -t 10.0.0.1:80 -s rr --flags-mask 0x3f\n\
                 -a -t 10.0.0.1:80 -r 10.1.0.1:80 --weight 3 -m\n";
    let table = |text: &str| text.parse::<Rules>().and_then(|rules| rules.table());
    assert_eq!(table(&format!("{once}{once}{again}")), table(once));
    // What counts is what is there then.
    let changed = format!("{once}-E -t 10.0.0.1:80\n-A -t 10.0.0.1:80\n");
    assert_eq!(
        Rules::from(&table(&changed).unwrap()).to_string().lines().next(),
        Some("-A -t 10.0.0.1:80 -s wlc")
    );
    assert!(mistakes(&(changed + once)).contains("scheduler wlc -> rr"));
}

#[test]
fn a_port_that_means_nothing_is_saved_as_ipvsadm_reads_it() {
    let saved = |text: &str| text.parse::<Rules>().unwrap().saved(&Numeric).to_string();
    let service = "-A -t 10.0.0.1:80 -s wlc\n";
    let line = |server: &str, how: &str| format!("-a -t 10.0.0.1:80 -r {server} {how} -w 1\n");
    let (direct, tunnel) = ("--forward-method 3", "--forward-method 2");
    for (how, expected) in [(direct, "-g"), (tunnel, "-i"), ("-m", "-m")] {
        let text = service.to_owned() + &line("10.1.0.1:8080", how);
        let exact = text.parse::<Rules>().unwrap().to_string();
        assert!(exact.contains(&format!("10.1.0.1:8080 {how} ")), "{exact}");
        assert_eq!(saved(&text), exact.replace(how, expected));
    }
    // These would be one and the same.
    for other in [line("10.1.0.1:80", "-m"), line("10.1.0.1:8081", tunnel)] {
        let text = service.to_owned() + &line("10.1.0.1:8080", direct) + &other;
        assert!(saved(&text).contains(&format!("8080 {direct} ")), "{text}");
    }
    // Here it is named by its port.
    let text = service.to_owned()
        + &line("10.1.0.1:8080", direct)
        + "-d -t 10.0.0.1:80 -r 10.1.0.1:8080\n";
    assert_eq!(saved(&text), text);
}

#[test]
fn flags_that_the_mask_leaves_alone_stay() {
    let rules: Rules = "-A -f 1 -b flag-1 -o\n-E -f 1 -b flag-2 --flags-mask 0x18".parse().unwrap();
    assert_eq!(Rules::from(&rules.table().unwrap()).to_string(), "-A -f 1 -s wlc -o -b flag-2\n");
}

/// A file in the form of those that distributions' scripts keep.
#[test]
fn files_of_real_life() {
    let text = "\
# Generated by ipvsadm-save
-A -t director.example:http -s wlc -p 300 -M 255.255.255.0
-a -t director.example:http -r web1.example:http -g -w 1
ipvsadm -A -f 1 -s rr
ipvsadm -a -f 1 -r 192.168.10.1:0 -m
";
    struct Example;
    impl Names for Example {
        fn address(&self, host: &str) -> Option<std::net::IpAddr> {
            let host = host.strip_suffix(".example")?;
            Some(if host == "director" { [10, 0, 0, 1] } else { [10, 1, 0, 1] }.into())
        }

        fn port(&self, service: &str, _: ipvs_packet::Protocol) -> Option<u16> {
            (service == "http").then_some(80)
        }

        fn host(&self, address: std::net::IpAddr) -> Option<String> {
            (address.to_string() == "10.0.0.1").then(|| "director.example".to_owned())
        }
    }
    let rules = Rules::parse(text, &Example).unwrap();
    assert_eq!(
        rules.to_string(),
        "-A -t 10.0.0.1:80 -s wlc -p 300 -M 255.255.255.0\n\
         -a -t 10.0.0.1:80 -r 10.1.0.1:80 -g -w 1\n\
         -A -f 1 -s rr\n\
         -a -f 1 -r 192.168.10.1:0 -m -w 1\n"
    );
    assert!(rules.saved(&Example).to_string().starts_with("-A -t director.example:80 -s wlc"));
    assert_eq!(text.parse::<Rules>().unwrap_err().iter().count(), 3);
}

proptest! {
    #![proptest_config(crate::cases(256))]

    /// What the kernel can hold and ipvsadm can say survives.
    #[test]
    fn tables_survive_their_rules(
        services in vec((strategy::service(), vec(strategy::destination(), 0..4)), 0..5),
    ) {
        let snapshot: Snapshot = services
            .into_iter()
            .map(|(mut service, destinations)| {
                service.flags_mask = u32::MAX;
                // A line holds none of these, and no module has such a name.
                if service.to_string().contains(['\n', '\r']) {
                    service.scheduler = SchedulerName::WLC;
                    service.engine = None;
                }
                let key = *service.key();
                let entry = ServiceEntry::new(crate::command::effective(service));
                let destinations = destinations.into_iter().map(|mut destination| {
                    if key.family() != destination.key.family() {
                        destination.forward = ForwardMethod::TUNNEL;
                    }
                    DestinationEntry::new(crate::command::effective_destination(destination))
                });
                ServiceSnapshot::new(entry, destinations.collect())
            })
            .collect();
        let rules = Rules::from(&snapshot);
        let text = rules.to_string();
        let read: Rules = text.parse().map_err(|error| {
            TestCaseError::fail(format!("{text}\n{error}"))
        })?;
        prop_assert_eq!(&read, &rules);
        prop_assert_eq!(read.table().unwrap(), snapshot);
    }
}
