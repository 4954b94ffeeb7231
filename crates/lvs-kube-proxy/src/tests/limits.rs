//! What one object cannot take from the node or from others.

use std::fmt::Write as _;

use lvs::client::packet::Protocol;

use crate::{
    manifest::{self, Object},
    settings::{Settings, Surroundings, ThisNode},
    state::{Event, State},
};

fn state_with(settings: Settings) -> State {
    let addresses = ["192.0.2.11", "2001:db8::11", "169.254.20.10", "10.96.0.10"];
    let node = ThisNode {
        name: "node-a".to_owned(),
        addresses: addresses.map(|address| address.parse().unwrap()).into(),
        around: Surroundings {
            gateways: ["192.0.2.1", "fd00::1"].map(|ip| ip.parse().unwrap()).into(),
            broadcasts: ["192.0.2.0", "192.0.2.255"].map(|ip| ip.parse().unwrap()).into(),
            listening: [(Protocol::TCP, 10_250)].into(),
        },
        ..ThisNode::default()
    };
    State::new(node, Settings { external_ips: true, ..settings })
}

fn state() -> State {
    state_with(Settings::default())
}

/// Takes in what a text says, and returns what is said to it.
fn tell(state: &mut State, text: &str) -> Vec<String> {
    for object in manifest::parse(text).unwrap() {
        state.apply(match object {
            Object::Service(service) => Event::Service(service),
            Object::Slice(slice) => Event::Slice(slice),
            Object::Node(node) => Event::Node(node),
        });
    }
    state.update().notices
}

/// Each key with the Service that has it.
fn served(state: &State) -> Vec<String> {
    state.targets().map(|(name, target)| format!("{name} {}", target.key())).collect()
}

fn balanced(metadata: &str, ip: &str, rest: &str) -> String {
    format!(
        "---\nkind: Service\nmetadata: {{{metadata}}}\n\
         spec: {{type: LoadBalancer, clusterIP: 10.97.0.1, ports: [{{port: 443}}]{rest}}}\n\
         status: {{loadBalancer: {{ingress: [{{ip: '{ip}'}}]}}}}\n"
    )
}

/// Who had an address and port first keeps it, whatever the name of who comes later; among those of one
/// second, and those of which nobody knows, the name decides. Health check ports go the same way.
#[test]
fn the_older_service_keeps_its_address() {
    let text = |namespace: &str, name: &str, created: &str, address: &str| {
        let created = match created {
            "" => String::new(),
            created => format!(", creationTimestamp: '2026-11-30T{created}Z'"),
        };
        let local = ", externalTrafficPolicy: Local, healthCheckNodePort: 30999";
        balanced(&format!("name: {name}, namespace: {namespace}{created}"), "203.0.113.5", local)
            .replace("10.97.0.1", address)
    };
    let shop = text("shop", "web", "10:00:00", "10.97.0.1");
    let late = text("aaa", "x", "10:00:01", "10.97.0.2");
    let unknown = text("aaa", "a", "", "10.97.0.3");
    let key = "-t 203.0.113.5:443".parse().unwrap();
    for order in [[&shop, &late, &unknown], [&unknown, &late, &shop]] {
        let mut state = state();
        for text in order {
            tell(&mut state, text);
        }
        let owner = |state: &State| state.target(&key).unwrap().0.to_string();
        assert_eq!(owner(&state), "shop/web");
        assert_eq!(state.health_checks().next().unwrap().0.to_string(), "shop/web");
        state.apply(Event::ServiceGone(crate::object::ObjectName::new("shop", "web")));
        let _ = state.update();
        assert_eq!(owner(&state), "aaa/x");
        assert_eq!(state.health_checks().next().unwrap().0.to_string(), "aaa/x");
    }
}

#[test]
fn addresses_that_no_service_gets() {
    for (address, reason) in [
        ("192.0.2.1", "gateway"),
        ("fd00::1", "gateway"),
        ("192.0.2.255", "broadcast"),
        ("192.0.2.0", "network address"),
        ("0.1.2.3", "not an address that services can have"),
        ("240.0.0.1", "not an address that services can have"),
        ("169.254.169.254", "not an address that services can have"),
        ("::", "not an address that services can have"),
        ("::7", "not an address that services can have"),
        ("::ffff:192.0.2.9", "not an address that services can have"),
        ("100::5", "not an address that services can have"),
        ("fe80::1", "not an address that services can have"),
        ("198.51.100.77", "API server"),
    ] {
        let mut state = state();
        // Whatever the Service of the API servers is itself.
        tell(
            &mut state,
            "kind: EndpointSlice\n\
             metadata: {name: k, namespace: default, labels: {kubernetes.io/service-name: kubernetes}}\n\
             addressType: IPv4\nports: [{name: https, port: 6443}]\n\
             endpoints: [{addresses: [198.51.100.77]}]\n",
        );
        let text = balanced("name: evil", address, "")
            .replace("10.97.0.1", "10.97.0.1, clusterIPs: [10.97.0.1, 'fd97::1']");
        let notices = tell(&mut state, &text);
        assert!(notices.len() == 1 && notices[0].contains(reason), "{address}: {notices:?}");
        assert_eq!(served(&state).len(), 2, "{address}: {:?}", served(&state));
    }
}

/// A service does not take the port from what listens on the node, unless the operator wants that and it
/// has an endpoint.
#[test]
fn ports_on_which_the_node_listens() {
    let text = balanced("name: evil", "192.0.2.11", "").replace("443", "10250");
    let slice = "---\nkind: EndpointSlice\n\
        metadata: {name: evil-1, labels: {kubernetes.io/service-name: evil}}\n\
        addressType: IPv4\nports: [{name: '', port: 80}]\nendpoints: [{addresses: [10.42.0.1]}]\n";
    for (host_ports, has_endpoint, is_served) in
        [(false, false, false), (false, true, false), (true, false, false), (true, true, true)]
    {
        let mut state = state_with(Settings { host_ports, ..Settings::default() });
        let all = if has_endpoint { text.clone() + slice } else { text.clone() };
        let notices = tell(&mut state, &all);
        let at_node = served(&state).iter().any(|it| it.ends_with("192.0.2.11:10250"));
        assert_eq!((at_node, notices.is_empty()), (is_served, is_served), "{notices:?}");
        // Nothing listens there any more.
        let around = Surroundings { listening: [].into(), ..state.node().around.clone() };
        state.set_surroundings(around);
        state.update();
        assert!(served(&state).iter().any(|it| it.ends_with("192.0.2.11:10250")));
    }
}

/// Node-local DNS has a link-local address, and that of the cluster's DNS: node ports are not served
/// there.
#[test]
fn node_ports_are_on_the_nodes_own_addresses() {
    let settings =
        Settings { service_ranges: vec!["10.96.0.0/12".parse().unwrap()], ..Settings::default() };
    let mut state = state_with(settings);
    tell(
        &mut state,
        "kind: Service\nmetadata: {name: web}\n\
         spec: {type: NodePort, clusterIP: 10.97.0.1, ports: [{port: 80, nodePort: 30080}]}\n",
    );
    assert_eq!(served(&state), ["default/web -t 10.97.0.1:80", "default/web -t 192.0.2.11:30080"]);
}

#[test]
fn addresses_that_no_endpoint_has() {
    let mut state = state();
    tell(&mut state, &balanced("name: web", "203.0.113.5", ""));
    for address in
        ["127.0.0.1", "169.254.169.254", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255"]
    {
        let slice = format!(
            "kind: EndpointSlice\nmetadata: {{name: w, labels: {{kubernetes.io/service-name: web}}}}\n\
             addressType: IPv4\nports: [{{name: '', port: 80}}]\n\
             endpoints: [{{addresses: [{address}]}}, {{addresses: [10.42.0.1]}}]\n"
        );
        let notices = tell(&mut state, &slice);
        assert!(notices.len() == 1 && notices[0].contains("endpoints can have"), "{notices:?}");
        for (_, target) in state.targets() {
            assert_eq!(target.virtual_service.destinations().len(), 1, "{address}");
        }
    }
}

/// One object asks every node for so much, and no more; what is left out is said, and counted.
#[test]
fn one_object_has_its_limits() {
    let list = |count: u32, item: &dyn Fn(u32) -> String| -> String {
        (0..count).fold(String::new(), |mut text, number| {
            let _ = write!(text, "{}, ", item(number));
            text
        })
    };
    let ranges =
        list(2_000, &|number| format!("10.{}.{}.0/24", number / 200, number % 200 * 2 % 256));
    let mut state = state();
    let text =
        balanced("name: a", "203.0.113.5", &format!(", loadBalancerSourceRanges: [{ranges}]"));
    let notices = tell(&mut state, &text);
    assert!(notices[0].contains("source ranges are too many"), "{notices:?}");
    let (_, target) = state.target(&"-t 203.0.113.5:443".parse().unwrap()).unwrap();
    // The others are not let in.
    assert_eq!(target.source_ranges.as_ref().unwrap().len(), 500);

    let addresses = list(300, &|number| format!("198.18.{}.{}", number / 200, number % 200));
    let ports = list(2_000, &|number| format!("{{port: {}, name: p{number}}}", number + 1));
    let text = format!(
        "kind: Service\nmetadata: {{name: b}}\n\
         spec: {{clusterIP: 10.97.0.2, externalIPs: [{addresses}], ports: [{ports}]}}\n"
    );
    let notices = tell(&mut state, &text);
    assert_eq!(notices.iter().filter(|text| text.contains("too many")).count(), 3, "{notices:?}");
    assert_eq!(served(&state).iter().filter(|it| it.starts_with("default/b")).count(), 4_949);
    assert_eq!(state.translations().filter(|(_, it)| it.is_cut).count(), 2);
}
