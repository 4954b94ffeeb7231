//! What happens over time on a node: single cases that need no packet.

use std::{collections::BTreeSet, time::Duration};

use super::world::{Form, World};
use crate::state::Event;

pub(super) const NO_RANGES: &[&str] = &["--vip-mode=addresses"];

pub(super) fn round(world: &mut World, is_whole: bool) -> crate::proxy::round::Round {
    world.round(is_whole).expect("it is not killed").expect("nothing common fails")
}

pub(super) fn service(name: &str, spec: &str) -> String {
    format!("---\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}

/// This many services with source ranges, each with an address of a load balancer.
pub(super) fn restricted(count: u8) -> String {
    let one = |number| {
        let spec = format!(
            "type: LoadBalancer, clusterIP: 10.96.1.{number}, ports: [{{port: 80}}], \
             loadBalancerSourceRanges: [198.51.100.0/24]"
        );
        let status =
            format!("status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.{number}}}]}}}}\n");
        service(&format!("s{number}"), &spec) + &status
    };
    (1..=count).map(one).collect()
}

pub(super) fn slice(owner: &str, endpoints: &[&str]) -> String {
    let endpoints: String =
        endpoints.iter().map(|address| format!("- {{addresses: [{address}]}}\n")).collect();
    format!(
        "---\nkind: EndpointSlice\n\
         metadata: {{name: {owner}-1, labels: {{kubernetes.io/service-name: {owner}}}}}\n\
         addressType: IPv4\nports: [{{name: '', port: 8080}}]\nendpoints:\n{endpoints}"
    )
}

/// Whether something may go that was held back.
fn released(world: &mut World) -> bool {
    let now = world.now();
    world.rounds().release(now).is_some_and(|release| release <= now)
}

/// How many services there are, and how many real servers with a weight.
pub(super) fn usable(world: &World) -> (usize, usize) {
    let table = world.node.present().table.snapshot();
    let own = table
        .services
        .values()
        .filter(|service| service.entry.service.key().to_string() != "-t 192.0.2.77:80");
    own.fold((0, 0), |(services, servers), service| {
        let there = service.destinations.iter();
        let with_weight = there.filter(|server| server.destination.weight.get() > 0).count();
        (services + 1, servers + with_weight)
    })
}

/// A watch that delivers an empty list: nothing is deleted before fresh lists confirm it, whatever the
/// services' endpoints; and when they do, it is.
#[test]
fn an_empty_list_is_not_obeyed_before_it_is_confirmed() {
    let mut world = World::new(NO_RANGES);
    let text: String = (1..=60)
        .map(|number| {
            let name = format!("s{number}");
            let spec = format!("clusterIP: 10.96.1.{number}, ports: [{{port: 80}}]");
            service(&name, &spec) + &slice(&name, &["10.42.1.5", "10.42.2.6"])
        })
        .collect();
    world.apply(&text);
    round(&mut world, true);
    assert_eq!(usable(&world), (60, 120));
    for lie in [Event::Services(Vec::new()), Event::Slices(Vec::new())] {
        world.tell(lie);
        let before = world.writes();
        assert!(round(&mut world, false).relist);
        assert!(!released(&mut world));
        // It is asked once, whatever rounds follow; nothing goes, not even a rule.
        assert!(!round(&mut world, true).relist);
        assert_eq!((usable(&world), world.writes()), ((60, 120), before), "{:?}", world.log());
        // Fresh lists say that nothing is gone.
        world.relist();
        round(&mut world, true);
        assert_eq!((usable(&world), world.writes()), ((60, 120), before));
        assert_eq!(world.rounds().held_back(), 0);
    }
    world.tell(Event::Services(Vec::new()));
    assert!(round(&mut world, false).relist);
    world.tell(Event::Services(Vec::new()));
    round(&mut world, false);
    assert_eq!(usable(&world), (60, 120), "one list is not both");
    world.tell(Event::Slices(Vec::new()));
    assert!(released(&mut world));
    round(&mut world, true);
    assert_eq!(usable(&world), (0, 0));
    assert_eq!(world.node.present().addresses.len(), 1, "somebody else's");
}

/// Fresh lists that say the same are not enough before `--hold` is over: an API server that was restored from
/// an old backup, say. Somebody can confirm it earlier. Traffic goes on, changes are followed.
#[test]
fn large_deletions_wait() {
    for (is_confirmed, restarts) in [(false, false), (false, true), (true, false)] {
        let mut world = World::new(&["--vip-mode=addresses", "--hold=5m"]);
        let text: String = (1..=60)
            .map(|number| {
                let name = format!("s{number}");
                let spec = format!("clusterIP: 10.96.1.{number}, ports: [{{port: 80}}]");
                service(&name, &spec) + &slice(&name, &["10.42.1.5"])
            })
            .collect();
        world.apply(&text);
        round(&mut world, true);
        let lie = || vec![Event::Services(Vec::new()), Event::Slices(Vec::new())];
        match restarts {
            true => world.restart_with(lie()),
            false => lie().into_iter().for_each(|event| world.tell(event)),
        }
        assert!(round(&mut world, true).relist);
        for _ in 0..4 {
            lie().into_iter().for_each(|event| world.tell(event));
            world.wait(Duration::from_secs(60));
            assert!(!round(&mut world, true).relist);
            assert_eq!(usable(&world), (60, 60));
        }
        assert!(world.conditions().contains("held back"), "{}", world.conditions());
        world.apply(&service("new", "clusterIP: 10.96.2.1, ports: [{port: 80}]"));
        round(&mut world, false);
        assert_eq!(usable(&world), (61, 60));
        if is_confirmed {
            world.node.present_mut().is_confirmed = true;
            assert!(world.rounds().look_for_confirmation());
        } else {
            world.wait(Duration::from_secs(60));
        }
        assert!(released(&mut world));
        round(&mut world, true);
        assert_eq!(usable(&world), (1, 0));
        assert_eq!(world.conditions(), "");
    }
}

/// Each service has one endpoint, with a connection, and all are lost at once: no service is left without a
/// usable one. What else changes meanwhile lets none of it go.
#[test]
fn lost_endpoints_are_held_back_over_many_rounds() {
    let mut world = World::new(NO_RANGES);
    let text = |number: u8, scheduler: &str| {
        let name =
            format!("{{name: s{number}, annotations: {{lvs-kube-proxy/scheduler: {scheduler}}}}}");
        let spec = format!("clusterIP: 10.96.0.{number}, ports: [{{port: 80}}]");
        service("NAME", &spec).replace("{name: NAME}", &name)
    };
    for number in 1..=60 {
        world.apply(&(text(number, "rr") + &slice(&format!("s{number}"), &["10.42.0.1"])));
    }
    round(&mut world, true);
    for number in 1..=60 {
        world.connect(number, 1);
    }
    assert_eq!(usable(&world), (60, 60));
    world.tell(Event::Slices(Vec::new()));
    assert!(round(&mut world, false).relist);
    for number in 1..=60 {
        world.apply(&text(number, "lc"));
        assert!(!round(&mut world, number % 7 == 0).relist);
    }
    assert_eq!(usable(&world), (60, 60));
    assert!(world.table().matches("-s lc").count() == 60, "{}", world.table());
    // Lists that confirm it.
    world.tell(Event::Services(world.services()));
    world.tell(Event::Slices(Vec::new()));
    round(&mut world, true);
    assert_eq!(usable(&world), (60, 0));
}

/// While deletions are held back, restricted services keep their rules, also after a restart.
#[test]
fn what_is_held_back_keeps_its_rules() {
    let mut world = World::new(NO_RANGES);
    world.apply(&restricted(30));
    round(&mut world, true);
    let elements = world.node.present().elements.clone();
    world.restart_with(vec![Event::Services(Vec::new()), Event::Slices(Vec::new())]);
    assert!(round(&mut world, true).relist);
    round(&mut world, false);
    assert_eq!(usable(&world).0, 60);
    assert_eq!(world.node.present().elements, elements);
    assert_eq!(world.broken(), None);
}

/// The kernel refuses one endpoint: the other services are followed as ever, and the one is tried again.
#[test]
fn one_endpoint_that_is_refused() {
    let mut world = World::new(NO_RANGES);
    world.refuse(Some(super::Refusal::Server));
    world.set_service(1, Some(Form::Cluster));
    world.set_endpoints(1, &BTreeSet::from([1, 4]));
    assert!(round(&mut world, true).is_partial);
    assert_eq!(usable(&world), (1, 1));
    assert_eq!(world.failing().len(), 1, "{:?}", world.failing());
    world.set_service(2, Some(Form::Cluster));
    assert!(!round(&mut world, false).is_partial);
    assert_eq!(usable(&world), (2, 1));
    // As long as it fails it is named.
    assert!(round(&mut world, true).is_partial);
    assert_eq!(world.failing().len(), 1, "{:?}", world.failing());
    world.refuse(None);
    assert!(!round(&mut world, true).is_partial);
    assert_eq!((usable(&world), world.failing().len()), ((2, 2), 0));
}

/// While the ledger cannot be stored, nothing new is made that a later proxy would not know for its own; what
/// is there is followed as ever.
#[test]
fn what_no_ledger_names_is_not_made() {
    for (has_ranges, new) in [(false, (1, 2)), (true, (2, 3))] {
        let ranges = &["--service-cluster-ip-range=10.96.0.0/12"][..];
        let mut world = World::new(if has_ranges { ranges } else { NO_RANGES });
        world.set_service(1, Some(Form::Cluster));
        world.set_endpoints(1, &BTreeSet::from([1]));
        round(&mut world, true);
        let places = |world: &World| {
            let present = world.node.present();
            (present.addresses.clone(), present.routes.clone())
        };
        let before = places(&world);
        world.refuse(Some(super::Refusal::Ledger));
        world.set_endpoints(1, &BTreeSet::from([1, 2]));
        // The address of its load balancer is outside of the range.
        world.set_service(2, Some(Form::Restricted));
        world.set_endpoints(2, &BTreeSet::from([1]));
        for is_whole in [false, true, false] {
            round(&mut world, is_whole);
            assert_eq!(usable(&world), new);
            assert!(!world.failing().is_empty());
        }
        assert_eq!(places(&world), before, "{:?}", world.log());
        // It could be stored again, but no round comes before the proxy ends and the Services go.
        world.refuse(None);
        world.restart();
        world.set_service(1, None);
        world.set_service(2, None);
        world.settle();
        assert_eq!((usable(&world), world.difference().as_str()), ((0, 0), ""));
        // What waited comes when it can be stored.
        world.refuse(Some(super::Refusal::Ledger));
        world.set_service(3, Some(Form::Restricted));
        world.set_endpoints(3, &BTreeSet::from([1]));
        round(&mut world, false);
        world.refuse(None);
        world.settle();
        assert_eq!((usable(&world), world.difference().as_str()), ((2, 2), ""));
    }
}

/// A service asks for a scheduler that the kernel lacks, and gets the default.
#[test]
fn a_scheduler_that_the_kernel_lacks() {
    let mut world = World::new(NO_RANGES);
    world.node.present_mut().refusals.schedulers.insert("mh".to_owned());
    world.set_service(1, Some(Form::Hashed));
    world.set_service(2, Some(Form::Cluster));
    assert!(!round(&mut world, true).is_partial);
    assert!(world.rounds().is_wanted());
    round(&mut world, false);
    assert_eq!(world.table(), "-A -t 10.96.0.1:80 -s rr\n-A -t 10.96.0.2:80 -s rr\n");
    assert!(!world.rounds().is_wanted());
}

/// A load balancer's address goes from one service to another, and a service's port changes: the address is
/// there all the while.
#[test]
fn an_address_stays_while_its_services_change() {
    let mut world = World::new(NO_RANGES);
    let balanced = |name: &str, cluster_ip: &str, port: u16, ingress: &str| {
        let spec =
            format!("type: LoadBalancer, clusterIP: {cluster_ip}, ports: [{{port: {port}}}]");
        let service = service(name, &spec);
        format!("{service}status: {{loadBalancer: {{ingress: [{ingress}]}}}}\n")
    };
    world.apply(&balanced("a", "10.96.0.1", 80, "{ip: 198.18.0.50}"));
    world.apply(&balanced("b", "10.96.0.2", 80, ""));
    round(&mut world, true);
    let before = world.log().len();
    world.apply(&balanced("a", "10.96.0.1", 81, ""));
    world.apply(&balanced("b", "10.96.0.2", 80, "{ip: 198.18.0.50}"));
    round(&mut world, false);
    assert_eq!(world.difference(), "");
    let log = world.log().split_off(before);
    assert!(log.iter().all(|line| !line.contains("address")), "{log:?}");
    // The new port comes before the old one goes.
    let place = |line: &str| log.iter().position(|other| other.starts_with(line)).unwrap();
    assert!(place("+ -t 10.96.0.1:81") < place("- -t 10.96.0.1:80"), "{log:?}");
}

/// What others change is repaired by the next whole round.
#[test]
fn changes_of_others_are_repaired() {
    let mut world = World::new(NO_RANGES);
    for number in 1..4 {
        world.set_service(number, Some(Form::Cluster));
        world.set_endpoints(number, &BTreeSet::from([1, 2]));
    }
    round(&mut world, true);
    for number in 0..9 {
        world.disturb(number);
    }
    world.node.present_mut().addresses.remove(&"10.96.0.2".parse().unwrap());
    world.node.present_mut().routes.clear();
    assert_ne!(world.difference(), "");
    round(&mut world, true);
    assert_eq!(world.difference(), "");
}

/// Where rules cannot be written, a new service that serves some clients only waits for them; the others
/// do not.
#[test]
fn no_service_before_its_rules() {
    let mut world = World::new(NO_RANGES);
    round(&mut world, true);
    world.refuse(Some(super::Refusal::Rules));
    world.set_service(1, Some(Form::Restricted));
    world.set_service(2, Some(Form::Cluster));
    assert!(round(&mut world, false).is_partial);
    let lines = |world: &World| world.table().lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&world), ["-A -t 10.96.0.1:80 -s rr", "-A -t 10.96.0.2:80 -s rr"]);
    world.refuse(None);
    assert!(!round(&mut world, true).is_partial);
    assert_eq!(lines(&world).len(), 3);
    assert_eq!((world.difference(), world.broken()), (String::new(), None));
}

/// A dry run says the whole plan, and does nothing; the round then does just that.
#[test]
fn a_dry_run_says_what_comes_and_what_goes() {
    let mut world = World::new(&["--service-cluster-ip-range=10.96.0.0/12"]);
    world.set_service(1, Some(Form::Restricted));
    round(&mut world, true);
    world.set_service(1, None);
    world.set_service(2, Some(Form::Local));
    world.restart();
    let before = world.writes();
    let text = world.dry_run();
    assert_eq!(world.writes(), before);
    assert_eq!(
        text,
        "\
+ local 198.18.0.2/32 dev lo src 192.0.2.11
+ address 198.18.0.2
+ rule cluster-ip-tcp { 10.96.0.2 . 80 }
+ rule services-ip { 10.96.0.2 . tcp . 80 }
+ rule services-ip { 198.18.0.2 . tcp . 80 }
+ rule addresses-ip { 198.18.0.2 }
+ -t 10.96.0.2:80 -s rr
+ -t 198.18.0.2:80 -s rr
- -t 10.96.0.1:80
- -t 203.0.113.1:80
- rule masquerade-ip-tcp { 203.0.113.1 . 80 }
- rule cluster-ip-tcp { 10.96.0.1 . 80 }
- rule restricted-ip { 203.0.113.1 . tcp . 80 }
- rule allowed-ip-tcp { 203.0.113.1 . 80 . 198.51.100.0/24 }
- rule services-ip { 10.96.0.1 . tcp . 80 }
- rule services-ip { 203.0.113.1 . tcp . 80 }
- rule addresses-ip { 203.0.113.1 }
- address 203.0.113.1
- local 203.0.113.1/32 dev lo
"
    );
    world.settle();
    assert_eq!((world.difference(), world.dry_run()), (String::new(), String::new()));
}

/// The proxy's own Node goes, which ends it. Another Node's end is nothing to it.
#[test]
fn the_node_is_deleted() {
    let mut world = World::new(NO_RANGES);
    let before = world.rounds().state().node().clone();
    for name in ["node-b", "node-a"] {
        world.tell(Event::NodeGone(name.to_owned()));
        assert_eq!(world.rounds().state().node(), &before, "{name}");
    }
}
