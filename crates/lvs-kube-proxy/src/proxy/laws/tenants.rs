//! One tenant harms nobody else: whatever stands in its objects costs these, and nothing of others.

use std::{collections::BTreeSet, fmt::Write as _};

use super::{
    cases::{NO_RANGES, round, service, usable},
    world::{Form, World},
};
use crate::{
    manifest::{self, Object},
    object::{EndpointSlice, Node, Service},
};

/// One endpoint is refused: those that are gone go all the same, as long as a usable one is there.
#[test]
fn a_refused_endpoint_keeps_no_other_one() {
    for is_whole in [false, true] {
        let mut world = World::new(NO_RANGES);
        world.set_service(1, Some(Form::Cluster));
        world.set_endpoints(1, &BTreeSet::from([1, 2]));
        round(&mut world, true);
        world.refuse(Some(super::Refusal::Server));
        world.set_endpoints(1, &BTreeSet::from([1, 4]));
        assert!(round(&mut world, is_whole).is_partial);
        // With a weight, or with none.
        let servers = |world: &World, weight: &str| -> Vec<String> {
            let table = world.table();
            let lines = table.lines().filter_map(|line| line.strip_suffix(weight));
            let servers = lines.filter_map(|line| line.split(" -r ").nth(1));
            servers.map(|server| server.split(' ').next().unwrap().to_owned()).collect()
        };
        assert_eq!(servers(&world, "-w 1"), ["10.42.0.1:80"]);
        // It has no connections.
        round(&mut world, is_whole);
        round(&mut world, is_whole);
        assert_eq!(servers(&world, "-w 0"), [""; 0]);
        assert_eq!(world.failing().len(), 1, "{:?}", world.failing());
        // One more comes, and the first one goes.
        world.set_endpoints(1, &BTreeSet::from([3, 4]));
        round(&mut world, is_whole);
        assert_eq!(servers(&world, "-w 1"), ["10.42.0.3:80"]);
        // The last one that can be used stays.
        world.set_endpoints(1, &BTreeSet::from([4]));
        round(&mut world, is_whole);
        round(&mut world, true);
        assert_eq!(servers(&world, "-w 1"), ["10.42.0.3:80"]);
        world.refuse(None);
        world.settle();
        assert_eq!(servers(&world, "-w 1"), ["10.42.0.4:80"]);
    }
}

/// Made-up schedulers never reach the kernel, which would load a module for each.
#[test]
fn only_schedulers_that_are_allowed_reach_the_kernel() {
    let mut world = World::new(&["--vip-mode=addresses", "--allow-schedulers=wlc,lc"]);
    let text = |number: u8, scheduler: &str| {
        let name = format!(
            "{{name: s{number}, annotations: {{lvs-kube-proxy/scheduler: {scheduler:?}}}}}"
        );
        let spec = format!("clusterIP: 10.96.0.{number}, ports: [{{port: 80}}]");
        service("NAME", &spec).replace("{name: NAME}", &name)
    };
    for (number, name) in (1..).zip(["wlc", "ftp", "pe_sip", "mh", "made-up", "wrr, rr", ""]) {
        world.apply(&text(number, name));
    }
    round(&mut world, true);
    let schedulers: Vec<_> =
        world.table().lines().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect();
    assert_eq!(schedulers, ["wlc", "rr", "rr", "rr", "rr", "rr", "rr"]);
    // A wrong one on a service that is there changes nothing.
    let before = world.writes();
    world.apply(&text(2, "wrr, rr"));
    round(&mut world, false);
    assert_eq!(world.writes(), before);
    for word in ["ftp", "pe_sip", "made-up"] {
        assert!(world.log().iter().all(|line| !line.contains(word)), "{word}");
    }
}

/// Thousands of changes in one namespace: another one's is in the very next round.
#[test]
fn nobody_waits_for_all_changes_of_somebody_else() {
    let mut world = World::new(&["--service-cluster-ip-range=10.96.0.0/12"]);
    round(&mut world, true);
    let of = |namespace: &str, number: u32, port: u16| {
        let spec = format!(
            "clusterIP: 10.96.{}.{}, ports: [{{port: {port}}}]",
            number / 250,
            number % 250 + 1
        );
        let name = format!("{{name: s{number}, namespace: {namespace}}}");
        service("NAME", &spec).replace("{name: NAME}", &name)
    };
    let mut text = of("z", 0, 80);
    (1..=2_500).for_each(|number| text += &of("evil", number, 80));
    world.apply(&text);
    round(&mut world, false);
    assert_eq!(usable(&world).0, 1_001);
    assert!(world.table().contains("-t 10.96.0.1:80"));
    assert!(world.rounds().is_wanted());
    // A whole round takes nothing away of what is still to come.
    round(&mut world, true);
    assert_eq!(usable(&world).0, 2_001);
    round(&mut world, false);
    assert_eq!(usable(&world).0, 2_501);
    assert!(!world.rounds().is_wanted());
    // After a restart everything is known before anything is judged.
    world.restart();
    let before = world.log().len();
    round(&mut world, true);
    assert_eq!(usable(&world).0, 2_501);
    let written = world.log().split_off(before);
    assert!(written.iter().all(|line| line == "rules"), "{written:?}");
}

/// Values that no field has in Kubernetes, or that the kernel or nft would refuse.
const ODD: &[&str] = &[
    "null",
    "true",
    "-1",
    "0",
    "65536",
    "99999999999999999999",
    "1.5",
    "''",
    "'a b'",
    "\"a\\nb\"",
    "\"\\u0000\"",
    "'} } delete table inet lvs-kube-proxy'",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "0.0.0.0",
    "127.0.0.1",
    "169.254.169.254",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "192.0.2.11",
    "192.0.2.1",
    "'::'",
    "'::1'",
    "'::7'",
    "'fe80::1'",
    "'100::1'",
    "0.0.0.0/0",
    "10.0.0.0/33",
    "0.0.0.0/1",
    "Local",
    "[]",
    "[null]",
    "[1, a, {}, []]",
    "[[[]]]",
    "{}",
    "{a: b}",
    "{name: {a: b}}",
    "{port: {}, ip: {}, addresses: {}}",
];

/// Each field of the three kinds; `@` takes the odd value.
const SERVICE: &[&str] = &[
    "metadata: @",
    "metadata: {name: odd, labels: @}",
    "metadata: {name: odd, annotations: @}",
    "metadata: {name: odd, creationTimestamp: @}",
    "metadata: {name: odd, resourceVersion: @, deletionTimestamp: @}",
    "metadata: {name: odd, labels: {service.kubernetes.io/service-proxy-name: @}}",
    "metadata: {name: odd, annotations: {lvs-kube-proxy/scheduler: @}}",
    "metadata: {name: odd, annotations: {lvs-kube-proxy/scheduler-flags: @}}",
    "metadata: {name: odd, annotations: {lvs-kube-proxy/forwarding: @}}",
    "metadata: {name: odd, annotations: {lvs-kube-proxy/weights: @}}",
    "metadata: {name: odd, annotations: {lvs-kube-proxy/drain-limit: @}}",
    "spec: @",
    "status: @",
    "spec: {clusterIP: 10.96.0.9, ports: [{port: 80}], type: @}",
    "spec: {clusterIP: @, ports: [{port: 80}]}",
    "spec: {clusterIPs: @, ports: [{port: 80}]}",
    "spec: {clusterIPs: [10.96.0.9, @], ports: [{port: 80}]}",
    "spec: {clusterIP: 10.96.0.9, ports: @}",
    "spec: {clusterIP: 10.96.0.9, ports: [@, {port: 80}]}",
    "spec: {clusterIP: 10.96.0.9, ports: [{port: @}]}",
    "spec: {clusterIP: 10.96.0.9, ports: [{port: 80, name: @}]}",
    "spec: {clusterIP: 10.96.0.9, ports: [{port: 80, protocol: @}]}",
    "spec: {clusterIP: 10.96.0.9, ports: [{port: 80, nodePort: @}]}",
    "spec: {BASE, externalIPs: @}",
    "spec: {BASE, externalIPs: [198.18.0.9, @]}",
    "spec: {BASE, externalTrafficPolicy: @}",
    "spec: {BASE, internalTrafficPolicy: @}",
    "spec: {BASE, sessionAffinity: @}",
    "spec: {BASE, sessionAffinity: ClientIP, sessionAffinityConfig: @}",
    "spec: {BASE, sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: @}}",
    "spec: {BASE, sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: @}}}",
    "spec: {BASE, externalTrafficPolicy: Local, healthCheckNodePort: @}",
    "spec: {BASE, loadBalancerSourceRanges: @}",
    "spec: {BASE, loadBalancerSourceRanges: [@]}",
    "status: {loadBalancer: @}",
    "status: {loadBalancer: {ingress: @}}",
    "status: {loadBalancer: {ingress: [@]}}",
    "status: {loadBalancer: {ingress: [{ip: @}]}}",
    "status: {loadBalancer: {ingress: [{ip: 198.18.0.9, ipMode: @}]}}",
];
const SLICE: &[&str] = &[
    "metadata: @",
    "metadata: {name: odd-1, labels: @}",
    "metadata: {name: odd-1, labels: {kubernetes.io/service-name: @}}",
    "metadata: {name: odd-1, labels: {kubernetes.io/service-name: odd, service.kubernetes.io/headless: @}}",
    "metadata: {OWNER, annotations: {endpoints.kubernetes.io/last-change-trigger-time: @}}",
    "addressType: @",
    "ports: @",
    "ports: [@]",
    "ports: [{name: @, port: 80}]",
    "ports: [{name: '', port: @}]",
    "ports: [{name: '', port: 80, protocol: @}]",
    "endpoints: @",
    "endpoints: [@]",
    "endpoints: [{addresses: @}]",
    "endpoints: [{addresses: [@]}]",
    "endpoints: [{addresses: [10.42.0.9], conditions: @}]",
    "endpoints: [{addresses: [10.42.0.9], conditions: {ready: @, serving: @, terminating: @}}]",
    "endpoints: [{addresses: [10.42.0.9], nodeName: @, zone: @}]",
    "endpoints: [{addresses: [10.42.0.9], hints: @}]",
    "endpoints: [{addresses: [10.42.0.9], hints: {forZones: @, forNodes: @}}]",
    "endpoints: [{addresses: [10.42.0.9], hints: {forZones: [{name: @}], forNodes: [@]}}]",
    "endpoints: [{addresses: [10.42.0.9], topology: @}]",
];
const NODE: &[&str] = &[
    "metadata: @",
    "metadata: {name: node-b, labels: @}",
    "metadata: {name: node-a, labels: {topology.kubernetes.io/zone: @}}",
    "spec: @",
    "spec: {podCIDRs: @}",
    "spec: {podCIDRs: [@]}",
    "spec: {taints: @}",
    "spec: {taints: [{key: @}]}",
    "status: @",
    "status: {addresses: @}",
    "status: {addresses: [@]}",
    "status: {addresses: [{type: @, address: 192.0.2.13}]}",
    "status: {addresses: [{type: InternalIP, address: @}]}",
];

/// The manifest of an object with an odd value in one place, and what it has in all others.
fn odd(kind: &str, place: &str, value: &str) -> String {
    let base = "type: LoadBalancer, clusterIP: 10.96.0.9, ports: [{port: 80, nodePort: 30009}]";
    let owner = "name: odd-1, labels: {kubernetes.io/service-name: odd}";
    let rest: &[&str] = match kind {
        "Service" => &[
            "metadata: {name: odd}",
            "spec: {BASE}",
            "status: {loadBalancer: {ingress: [{ip: 198.18.0.9}]}}",
        ],
        "EndpointSlice" => &[
            "metadata: {OWNER}",
            "addressType: IPv4",
            "ports: [{name: '', port: 80}]",
            "endpoints: [{addresses: [10.42.0.9]}]",
        ],
        _ => &["metadata: {name: node-b}"],
    };
    let mut text = format!("---\nkind: {kind}\n{}\n", place.replace('@', value));
    let field = |line: &str| line.split(':').next().unwrap().to_owned();
    for line in rest.iter().filter(|line| field(line) != field(place)) {
        writeln!(text, "{line}").unwrap();
    }
    text.replace("BASE", base).replace("OWNER", owner)
}

/// Every odd value in every field of every kind: it is read; the services of others are served as before,
/// with their rules; and nothing has to be tried again for its sake.
#[test]
fn odd_values_cost_only_themselves() {
    let others = "-A -t 10.96.0.1:80 -s rr\n-a -t 10.96.0.1:80 -r 10.42.0.1:80 -m -w 1\n";
    let mut count = 0;
    for (kind, places) in [("Service", SERVICE), ("EndpointSlice", SLICE), ("Node", NODE)] {
        for place in places {
            let mut world = World::new(&["--vip-mode=addresses", "--external-ips"]);
            world.set_service(1, Some(Form::Cluster));
            world.set_service(2, Some(Form::Restricted));
            for number in [1, 2] {
                world.set_endpoints(number, &BTreeSet::from([1]));
            }
            world.apply(&odd("Service", "metadata: {name: odd}", ""));
            world.apply(&odd("EndpointSlice", "metadata: {OWNER}", ""));
            round(&mut world, true);
            let restricted = "-A -t 203.0.113.2:80";
            for value in ODD {
                let text = odd(kind, place, value);
                world.apply(&text);
                let result = round(&mut world, false);
                assert!(!result.is_partial, "{text}{:?}", world.failing());
                let table = world.table();
                assert!(table.contains(others) && table.contains(restricted), "{text}{table}");
                assert_eq!(world.broken(), None, "{text}");
                count += 1;
            }
            // And after a restart, with all of it in the lists.
            world.restart();
            round(&mut world, true);
            let table = world.table();
            assert!(table.contains(others) && table.contains(restricted), "{place}: {table}");
        }
    }
    assert!(count > 2_500, "{count}");
}

/// As an API server sends it: one object with an odd value does not keep the list from being read.
#[test]
fn odd_values_are_read_from_json() {
    fn read<T: serde::de::DeserializeOwned>(text: &str) {
        let mut value: serde_json::Value = serde_saphyr::from_str(text).unwrap();
        value.as_object_mut().unwrap().remove("kind");
        let list = format!("[{value}, {{}}, {value}]");
        assert_eq!(serde_json::from_str::<Vec<T>>(&list).unwrap().len(), 3, "{text}");
    }
    for value in ODD.iter().filter(|value| !value.starts_with("999")) {
        SERVICE.iter().for_each(|place| read::<Service>(&odd("Service", place, value)));
        SLICE.iter().for_each(|place| read::<EndpointSlice>(&odd("EndpointSlice", place, value)));
        NODE.iter().for_each(|place| read::<Node>(&odd("Node", place, value)));
    }
}

/// Source ranges of another type let nobody in; they never let everybody in.
#[test]
fn odd_source_ranges_let_nobody_in() {
    for value in ODD.iter().filter(|value| !["null", "[]"].contains(value)) {
        let text = odd("Service", "spec: {BASE, loadBalancerSourceRanges: @}", value);
        let Object::Service(service) = manifest::parse(&text).unwrap().remove(0) else { panic!() };
        assert!(!service.spec.load_balancer_source_ranges.is_empty(), "{text}");
    }
}
