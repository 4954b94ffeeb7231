//! What holds for any objects, in any order.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use lvs::client::packet::DestinationKey;
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::{
    manifest::{self, Object},
    object::{
        Conditions, Endpoint, EndpointPort, EndpointSlice, Hint, Hints, Ingress,
        LoadBalancerStatus, Metadata, Service, ServicePort, ServiceSpec, ServiceStatus,
    },
    settings::{Settings, ThisNode},
    state::{Event, State},
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_order_of_events_comes_to_the_same(
        (services, slices, events) in objects().prop_flat_map(|(services, slices)| {
            let events = shuffled(&services, &slices);
            (Just(services), Just(slices), events)
        }),
        pauses: [bool; 16],
    ) {
        let mut listed = state();
        listed.apply(Event::Services(services));
        listed.apply(Event::Slices(slices));
        listed.update();

        let mut told = state();
        let mut keys = BTreeSet::new();
        for (number, event) in events.into_iter().enumerate() {
            told.apply(event);
            // Some events are translated one by one, some together.
            if pauses[number % pauses.len()] {
                keys.extend(told.update().keys);
            }
        }
        keys.extend(told.update().keys);
        prop_assert_eq!(outcome(&told), outcome(&listed));
        // Whatever is there now was named when it changed.
        for (_, target) in told.targets() {
            prop_assert!(keys.contains(target.key()));
        }
    }

    #[test]
    fn what_is_gone_leaves_nothing((services, slices) in objects()) {
        let mut state = state();
        state.apply(Event::Slices(slices.clone()));
        state.apply(Event::Services(services.clone()));
        let keys = state.update().keys;
        for service in &services {
            state.apply(Event::ServiceGone(service.metadata.object_name()));
        }
        // Those that other proxies have were never there.
        let gone = state.update().keys;
        prop_assert_eq!(keys, gone);
        state.apply(Event::Slices(Vec::new()));
        state.update();
        prop_assert_eq!(outcome(&state), outcome(&self::state()));
        prop_assert!(state.update().is_empty());
    }

    #[test]
    fn each_real_server_once_and_of_the_family((services, slices) in objects()) {
        let mut state = state();
        state.apply(Event::Services(services));
        state.apply(Event::Slices(slices));
        state.update();
        for (_, target) in state.targets() {
            let family = target.key().family();
            let mut seen = BTreeSet::new();
            for destination in target.virtual_service.destinations() {
                prop_assert!(seen.insert(destination.key));
                let address: IpAddr = destination.key.address;
                prop_assert_eq!(address.is_ipv4(), family == lvs::client::packet::AddressFamily::Ipv4);
            }
            if let Some(address) = target.address() {
                prop_assert!(state.wants_address(&address) || state.node().addresses.contains(&address));
            }
        }
    }

    #[test]
    fn nothing_is_said_twice((services, slices) in objects()) {
        let mut state = state();
        state.apply(Event::Services(services.clone()));
        state.apply(Event::Slices(slices.clone()));
        state.update();
        state.set_node_addresses(BTreeSet::new());
        state.set_node_addresses(node().addresses);
        state.apply(Event::Services(services));
        state.apply(Event::Slices(slices));
        let notices = state.update().notices;
        prop_assert!(notices.is_empty(), "{notices:?}");
    }

    #[test]
    fn any_manifest_is_read_or_refused(text: String) {
        let _ = manifest::parse(&text);
    }
}

/// Ten thousand endpoints in one service, with ten thousand bad ones beside them.
#[test]
fn many_endpoints() {
    let endpoint = |number: u32| Endpoint {
        addresses: vec![IpAddr::from((0x0a80_0000 + number).to_be_bytes()).to_string()],
        ..Endpoint::default()
    };
    let bad = |number: u32| Endpoint { addresses: vec![format!("pod-{number}")], ..endpoint(0) };
    let mut slice = EndpointSlice {
        metadata: owned("web-1", "web"),
        address_type: "IPv4".to_owned(),
        ports: vec![EndpointPort { name: Some(String::new()), protocol: None, port: Some(80) }],
        endpoints: (1..=10_000).map(endpoint).chain((0..10_000).map(bad)).collect(),
    };
    let service = Service {
        metadata: named("web"),
        spec: ServiceSpec {
            cluster_ip: Some("10.96.0.1".to_owned()),
            ports: vec![ServicePort { port: 80, ..ServicePort::default() }],
            ..ServiceSpec::default()
        },
        ..Service::default()
    };
    let mut state = state();
    state.apply(Event::Service(service));
    state.apply(Event::Slice(slice.clone()));
    let notices = state.update().notices;
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert!(notices[0].contains("and 9999 more like it"), "{notices:?}");
    let (_, target) = state.targets().next().unwrap();
    assert_eq!(target.virtual_service.destinations().len(), 10_000);
    // One bad endpoint less is no news.
    slice.endpoints.pop();
    state.apply(Event::Slice(slice));
    assert_eq!(state.update().notices, [""; 0]);
}

/// Two services claim one address: always the same one has it, the other is told of once, and gets it
/// when the first one goes.
#[test]
fn two_services_claim_one_address() {
    let service = |name: &str, cluster_ip: &str| Service {
        metadata: named(name),
        spec: ServiceSpec {
            cluster_ip: Some(cluster_ip.to_owned()),
            external_ips: vec!["198.51.100.9".to_owned()],
            ports: vec![ServicePort { port: 80, ..ServicePort::default() }],
            ..ServiceSpec::default()
        },
        ..Service::default()
    };
    let key = "-t 198.51.100.9:80".parse().unwrap();
    let winner = |state: &State| state.target(&key).map(|(name, _)| name.to_string());
    for order in [["a", "b"], ["b", "a"]] {
        let mut state = state();
        let mut notices = Vec::new();
        for (number, name) in order.into_iter().enumerate() {
            state.apply(Event::Service(service(name, &format!("10.96.0.{}", number + 1))));
            notices.extend(state.update().notices);
        }
        assert_eq!(winner(&state).as_deref(), Some("shop/a"));
        assert_eq!(
            notices,
            ["service shop/b: external address -t 198.51.100.9:80 is not served: it belongs to \
              service shop/a"]
        );
        state.apply(Event::ServiceGone(named("a").object_name()));
        let update = state.update();
        assert!(update.keys.contains(&key) && update.notices.is_empty(), "{update:?}");
        assert_eq!(winner(&state).as_deref(), Some("shop/b"));
        // Who has it as its cluster address comes first.
        state.apply(Event::Service(service("z", "198.51.100.9")));
        state.update();
        assert_eq!(winner(&state).as_deref(), Some("shop/z"));
    }
}

/// How long a real server that leaves may keep its connections follows from what slices say of its pod.
#[test]
fn a_pod_that_lives_keeps_its_connections() {
    let service = |annotations: &[(&str, &str)]| Service {
        metadata: Metadata { annotations: annotations.iter().copied().collect(), ..named("web") },
        spec: ServiceSpec {
            cluster_ip: Some("10.96.0.1".to_owned()),
            ports: vec![ServicePort { port: 80, ..ServicePort::default() }],
            ..ServiceSpec::default()
        },
        ..Service::default()
    };
    let slice = |name: &str, endpoints: &[(&str, bool, bool)]| EndpointSlice {
        metadata: owned(name, "web"),
        address_type: "IPv4".to_owned(),
        ports: vec![EndpointPort { name: Some(String::new()), protocol: None, port: Some(80) }],
        endpoints: endpoints
            .iter()
            .map(|(address, ready, terminating)| Endpoint {
                addresses: vec![(*address).to_owned()],
                conditions: Conditions {
                    ready: Some(*ready),
                    terminating: Some(*terminating),
                    ..Conditions::default()
                },
                ..Endpoint::default()
            })
            .collect(),
    };
    let key = "-t 10.96.0.1:80".parse().unwrap();
    let limits = |state: &State, given: Option<u64>| {
        let servers = ["10.42.0.1:80", "10.42.0.2:80", "10.42.0.3:80", "10.42.0.4:80"];
        let servers = servers.map(|server| server.parse::<DestinationKey>().unwrap());
        let leaving = servers.iter().map(|server| (&key, server));
        let limits = state.drain_limits(leaving, given.map(Duration::from_secs));
        servers.map(|server| limits.get(&(key, server)).copied())
    };
    let (ended, lives) = (Some(Duration::ZERO), Some(Duration::MAX));
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let (ready, unready, terminating) = ((true, false), (false, false), (false, true));
    let at = |number: u8, (ready, terminating)| (number, ready, terminating);
    let slice = |name: &str, endpoints: &[(u8, bool, bool)]| {
        let texts: Vec<_> =
            endpoints.iter().map(|(number, ..)| format!("10.42.0.{number}")).collect();
        let endpoints = endpoints.iter().zip(&texts);
        let endpoints: Vec<_> =
            endpoints.map(|((_, ready, ending), text)| (&**text, *ready, *ending)).collect();
        slice(name, &endpoints)
    };
    let mut state = state();
    state.apply(Event::Service(service(&[])));
    let three = [at(1, ready), at(2, unready), at(3, terminating)];
    state.apply(Event::Slice(slice("web-1", &three)));
    state.update();
    assert_eq!(limits(&state, None), [lives, lives, lives, None]);
    assert_eq!(limits(&state, Some(9)), [seconds(9); 4]);

    // The first pod's labels changed, the third one has ended. The second one is in another slice now.
    state.apply(Event::Slice(slice("web-2", &[at(2, terminating)])));
    state.apply(Event::Slice(slice("web-1", &[])));
    state.update();
    assert_eq!(limits(&state, None), [None, lives, ended, None]);
    assert_eq!(limits(&state, Some(9)), [seconds(9), seconds(9), ended, seconds(9)]);
    // With its slice it has ended, too. A new pod has its address.
    state.apply(Event::SliceGone(owned("web-2", "web").object_name()));
    state.apply(Event::Slice(slice("web-1", &[at(3, unready)])));
    state.update();
    assert_eq!(limits(&state, None), [None, ended, lives, None]);
    let annotation = [("lvs-kube-proxy/drain-limit", "5s")];
    state.apply(Event::Service(service(&annotation)));
    state.update();
    assert_eq!(limits(&state, Some(9)), [seconds(5), ended, seconds(5), seconds(5)]);
    // What does not leave any more is forgotten.
    state.forget_ended(&["10.42.0.2:80".parse().unwrap()].into());
    state.apply(Event::Slices(Vec::new()));
    assert_eq!(limits(&state, None), [seconds(5), ended, seconds(5), seconds(5)]);
    state.forget_ended(&BTreeSet::new());
    assert_eq!(limits(&state, None), [seconds(5); 4]);
}

/// Other nodes, the pods' networks and the API server have their addresses whenever they become known,
/// and lose them when they go.
#[test]
fn addresses_of_others_are_not_served() {
    let service = Service {
        metadata: named("web"),
        spec: ServiceSpec {
            cluster_ip: Some("10.96.0.1".to_owned()),
            external_ips: vec!["192.0.2.12".to_owned(), "10.42.0.7".to_owned()],
            ports: vec![ServicePort { port: 80, ..ServicePort::default() }],
            ..ServiceSpec::default()
        },
        ..Service::default()
    };
    let object = |text: &str| match manifest::parse(text).unwrap().remove(0) {
        Object::Node(node) => Event::Node(node),
        other => panic!("{other:?}"),
    };
    let mut state = state();
    state.apply(Event::Service(service));
    let mut step = |event: Option<Event>| {
        event.into_iter().for_each(|event| state.apply(event));
        let notices = state.update().notices;
        let served: Vec<_> = state.addresses().map(|address| address.to_string()).collect();
        (served.join(" "), notices.join("; "))
    };
    let all = "10.42.0.7 10.96.0.1 192.0.2.12";
    assert_eq!(step(None), (all.to_owned(), String::new()));
    let other = "kind: Node\nmetadata: {name: node-b}\nstatus: {addresses: \
                 [{type: InternalIP, address: 192.0.2.12}, {type: Hostname, address: node-b}]}\n";
    let (served, notices) = step(Some(object(other)));
    assert_eq!(served, "10.42.0.7 10.96.0.1");
    assert_eq!(
        notices,
        "service shop/web: 192.0.2.12 is another node's own address; it is not served"
    );
    let own =
        "kind: Node\nmetadata: {name: node-a}\nspec: {podCIDRs: [10.42.0.0/24, 'fd42::/64']}\n";
    let (served, notices) = step(Some(object(own)));
    assert_eq!(served, "10.96.0.1");
    assert_eq!(notices, "service shop/web: 10.42.0.7 is in a network of pods; it is not served");
    assert_eq!(step(Some(Event::NodeGone("node-b".to_owned()))).0, "10.96.0.1 192.0.2.12");
    // A node of which nothing is known any more.
    assert_eq!(step(Some(object("kind: Node\nmetadata: {name: node-a}\n"))).0, all);

    let server = Some("192.0.2.12".parse().unwrap());
    let settings = Settings { api_server: server, ..state.settings().clone() };
    state.set_settings(settings);
    let notices = state.update().notices;
    let expected = "service shop/web: 192.0.2.12 is the API server's own address; it is not served";
    assert_eq!(notices, [expected]);
}

fn node() -> ThisNode {
    let addresses = ["127.0.0.1", "192.0.2.11", "fe80::1", "2001:db8::11", "10.96.0.3"];
    ThisNode {
        name: "node-a".to_owned(),
        zone: Some("z1".to_owned()),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        primary: vec!["192.0.2.11".parse().unwrap()],
        ..ThisNode::default()
    }
}

fn state() -> State {
    State::new(node(), Settings { external_ips: true, ..Settings::default() })
}

type Outcome<'a> = (Vec<String>, Vec<IpAddr>, Vec<String>);

fn outcome(state: &State) -> Outcome<'_> {
    let targets = state.targets().map(|(name, target)| format!("{name} {target:?}")).collect();
    let health = state.health_checks().map(|(name, check)| format!("{name} {check:?}")).collect();
    (targets, state.addresses().collect(), health)
}

/// Each object's events in order: sometimes another form of it and its end, last the object itself.
fn shuffled(
    services: &[Service],
    slices: &[EndpointSlice],
) -> impl Strategy<Value = Vec<Event>> + use<> {
    let mut streams: Vec<Vec<Event>> = Vec::new();
    for (number, service) in services.iter().enumerate() {
        let name = service.metadata.object_name();
        let mut other = services[(number + 1) % services.len()].clone();
        other.metadata = service.metadata.clone();
        streams.push(match number % 3 {
            0 => vec![Event::Service(service.clone())],
            1 => vec![Event::Service(other), Event::Service(service.clone())],
            _ => {
                vec![
                    Event::Service(other),
                    Event::ServiceGone(name),
                    Event::Service(service.clone()),
                ]
            }
        });
    }
    for (number, slice) in slices.iter().enumerate() {
        let mut other = slices[(number + 1) % slices.len()].clone();
        other.metadata.name.clone_from(&slice.metadata.name);
        streams.push(match number % 2 {
            0 => vec![Event::Slice(slice.clone())],
            _ => vec![Event::Slice(other), Event::Slice(slice.clone())],
        });
    }
    let turns: Vec<usize> = streams
        .iter()
        .enumerate()
        .flat_map(|(number, stream)| std::iter::repeat_n(number, stream.len()))
        .collect();
    Just(turns).prop_shuffle().prop_map(move |turns| {
        let mut streams: Vec<_> = streams.iter().map(|stream| stream.clone().into_iter()).collect();
        turns.into_iter().filter_map(|turn| streams[turn].next()).collect()
    })
}

fn objects() -> impl Strategy<Value = (Vec<Service>, Vec<EndpointSlice>)> {
    (vec(service(), 0..5), vec(slice(), 0..7)).prop_map(|(services, slices)| {
        let mut by_name = BTreeMap::new();
        for service in services {
            by_name.insert(service.metadata.object_name(), service);
        }
        let services = by_name.into_values().collect();
        let slices = slices.into_iter().enumerate().map(|(number, mut slice)| {
            slice.metadata.name = format!("slice-{number}");
            slice
        });
        (services, slices.collect())
    })
}

fn named(name: &str) -> Metadata {
    Metadata { namespace: "shop".to_owned(), name: name.to_owned(), ..Metadata::default() }
}

fn owned(name: &str, owner: &str) -> Metadata {
    let labels = [("kubernetes.io/service-name", owner)].into_iter().collect();
    Metadata { labels, ..named(name) }
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![8 => select(vec!["a", "b", "c"]).prop_map(str::to_owned), 1 => any::<String>()]
}

fn address() -> impl Strategy<Value = String> {
    let known = vec![
        "10.96.0.1",
        "10.96.0.2",
        "10.96.0.3",
        "fd96::1",
        "fd96::2",
        "192.0.2.11",
        "127.0.0.1",
        "::ffff:10.0.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "None",
        "",
    ];
    prop_oneof![
        12 => select(known).prop_map(str::to_owned),
        1 => any::<IpAddr>().prop_map(|address| address.to_string()),
        1 => any::<String>(),
    ]
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![8 => select(vec![0, 53, 80, 8080]), 1 => any::<i64>()]
}

fn protocol() -> impl Strategy<Value = Option<String>> {
    option::of(select(vec!["TCP", "UDP", "SCTP", "QUIC"]).prop_map(str::to_owned))
}

fn port_name() -> impl Strategy<Value = String> {
    select(vec!["", "http", "dns"]).prop_map(str::to_owned)
}

fn policy() -> impl Strategy<Value = Option<String>> {
    option::of(select(vec!["Local", "Cluster", "Nearest"]).prop_map(str::to_owned))
}

fn service() -> impl Strategy<Value = Service> {
    let kind = select(vec!["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]);
    let port = (port_name(), protocol(), number(), number()).prop_map(
        |(name, protocol, port, node_port)| ServicePort { name, protocol, port, node_port },
    );
    let ingress = (option::of(address()), option::of(select(vec!["VIP", "Proxy"])))
        .prop_map(|(ip, mode)| Ingress { ip, ip_mode: mode.map(str::to_owned) });
    let spec = (
        option::of(kind.prop_map(str::to_owned)),
        vec(address(), 0..3),
        vec(port, 0..4),
        vec(address(), 0..3),
        (policy(), policy(), number()),
        vec(prop_oneof![Just("10.0.0.0/8".to_owned()), any::<String>()], 0..2),
    );
    (name(), any::<bool>(), spec, vec(ingress, 0..3)).prop_map(|(name, foreign, spec, ingress)| {
        let (kind, cluster_ips, ports, external_ips, policies, source_ranges) = spec;
        let (external, internal, health_check_node_port) = policies;
        let mut metadata = named(&name);
        if foreign && name == "c" {
            let label = "service.kubernetes.io/service-proxy-name";
            metadata.labels.insert(label, "");
        }
        Service {
            metadata,
            spec: ServiceSpec {
                kind,
                cluster_ips,
                ports,
                external_ips,
                external_traffic_policy: external,
                internal_traffic_policy: internal,
                session_affinity: Some("ClientIP".to_owned()),
                health_check_node_port,
                load_balancer_source_ranges: source_ranges,
                ..ServiceSpec::default()
            },
            status: ServiceStatus { load_balancer: LoadBalancerStatus { ingress } },
        }
    })
}

fn slice() -> impl Strategy<Value = EndpointSlice> {
    let port = (option::of(port_name()), protocol(), option::of(number()))
        .prop_map(|(name, protocol, port)| EndpointPort { name, protocol, port });
    let hint = |names: Vec<&'static str>| {
        vec(select(names).prop_map(|name| Hint { name: name.to_owned() }), 0..2)
    };
    let condition = || option::of(any::<bool>());
    let endpoint = (
        vec(address(), 0..3),
        (condition(), condition(), condition()),
        option::of(select(vec!["node-a", "node-b"])),
        hint(vec!["z1", "z2"]),
        hint(vec!["node-a", "node-b"]),
    )
        .prop_map(|(addresses, conditions, node, for_zones, for_nodes)| {
            let (ready, serving, terminating) = conditions;
            Endpoint {
                addresses,
                conditions: Conditions { ready, serving, terminating },
                node_name: node.map(str::to_owned),
                hints: Some(Hints { for_zones, for_nodes }),
                ..Endpoint::default()
            }
        });
    let family = select(vec!["IPv4", "IPv6", "FQDN", ""]);
    (name(), family, vec(port, 0..3), vec(endpoint, 0..5)).prop_map(
        |(owner, address_type, ports, endpoints)| EndpointSlice {
            metadata: owned("", &owner),
            address_type: address_type.to_owned(),
            ports,
            endpoints,
        },
    )
}
