//! What is guarded by nftables is closed while these cannot be used, and that is said.

use std::collections::BTreeSet;

use super::{
    cases::{NO_RANGES, restricted, round, usable},
    world::{Form, World},
};
use crate::node::NoRules;

fn lack(may_be_there: bool) -> Option<NoRules> {
    Some(NoRules { reason: "nft did not end within 60 s".to_owned(), may_be_there })
}

/// At the start nftables cannot be used: a service with source ranges is not served, and is named; the others
/// are. As soon as they can be used, it is, behind its rules.
#[test]
fn no_restricted_service_without_nftables() {
    let mut world = World::new(NO_RANGES);
    world.node.present_mut().refusals.nftables = lack(true);
    world.set_service(1, Some(Form::Restricted));
    world.set_service(2, Some(Form::Cluster));
    world.restart();
    for _ in 0..2 {
        assert!(round(&mut world, true).is_partial);
        assert_eq!(world.table(), "-A -t 10.96.0.1:80 -s rr\n-A -t 10.96.0.2:80 -s rr\n");
        let failing = world.failing();
        assert!(failing.len() == 1 && failing[0].contains("service default/s1"), "{failing:?}");
        assert!(failing[0].contains("60 s"), "{failing:?}");
        assert!(world.conditions().contains("rulesUnusable"), "{}", world.conditions());
    }
    world.node.present_mut().refusals.nftables = None;
    assert!(!round(&mut world, true).is_partial);
    assert_eq!((world.difference(), world.broken()), (String::new(), None));
    assert!(world.table().contains("203.0.113.1"), "{}", world.table());
    assert_eq!((world.conditions(), world.failing().len()), (String::new(), 0));
    // What can be used is not looked for again.
    let looks = world.node.present().looks_for_rules;
    round(&mut world, true);
    assert_eq!(world.node.present().looks_for_rules, looks);
}

/// After a restart the rules of the proxy before may be in force, so that what is there stays; where the
/// kernel has no nftables they are not, and it goes, however many these are.
#[test]
fn what_is_there_without_nftables() {
    for may_be_there in [true, false] {
        let mut world = World::new(&["--vip-mode=addresses", "--hold=5m"]);
        world.apply(&restricted(60));
        round(&mut world, true);
        assert_eq!(usable(&world).0, 120);
        world.node.present_mut().refusals.nftables = lack(may_be_there);
        world.restart();
        round(&mut world, true);
        assert_eq!(usable(&world).0, if may_be_there { 120 } else { 60 });
        world.node.present_mut().refusals.nftables = None;
        round(&mut world, true);
        assert_eq!((usable(&world).0, world.broken()), (120, None));
    }
}

/// The operator wants it so.
#[test]
fn served_without_source_ranges() {
    let mut world = World::new(&["--vip-mode=addresses", "--serve-without-source-ranges"]);
    world.node.present_mut().law = None;
    world.node.present_mut().refusals.nftables = lack(false);
    world.set_service(1, Some(Form::Restricted));
    world.restart();
    assert!(!round(&mut world, true).is_partial);
    assert!(world.table().contains("203.0.113.1"), "{}", world.table());
    assert!(world.conditions().contains("rulesUnusable"), "{}", world.conditions());
}

/// A range does not become local as a whole, with all that listens on the node, before rules shield that;
/// unless the operator asks for routes.
#[test]
fn no_range_is_local_without_nftables() {
    for (mode, is_route) in [("auto", false), ("routes", true)] {
        let mode = format!("--vip-mode={mode}");
        let mut world = World::new(&["--service-cluster-ip-range=10.96.0.0/12", &mode]);
        world.node.present_mut().refusals.nftables = lack(true);
        world.set_service(1, Some(Form::Cluster));
        world.set_endpoints(1, &BTreeSet::from([1]));
        world.restart();
        round(&mut world, true);
        let has_route = |world: &World| {
            let range = "10.96.0.0/12".parse().unwrap();
            (world.node.present().routes.contains_key(&range), world.node.present().addresses.len())
        };
        // One is somebody else's.
        assert_eq!(has_route(&world), (is_route, if is_route { 1 } else { 2 }));
        let before = world.log().len();
        world.node.present_mut().refusals.nftables = None;
        round(&mut world, true);
        assert_eq!(has_route(&world), (true, 1));
        assert_eq!((world.difference(), world.broken()), (String::new(), None));
        let log = world.log().split_off(before);
        let place = |line: &str| log.iter().position(|other| other.starts_with(line));
        if !is_route {
            assert!(place("+ route") < place("- address"), "{log:?}");
            assert!(place("rules") < place("- address"), "{log:?}");
        }
    }
}
