//! What holds on a node whatever happens: any order of events and rounds, refusals, and a proxy that is
//! killed after any write. The node is a fake one.

mod cases;
mod shield;
mod tenants;
mod world;

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*, sample::select};

use self::world::{Form, World};

/// What happens.
#[derive(Clone, Debug)]
enum Act {
    /// A Service becomes this, or goes.
    Service(usize, Option<Form>),
    /// Its endpoints are these.
    Endpoints(usize, BTreeSet<u8>),
    /// A round, whole or not.
    Round(bool),
    /// The proxy is killed after this number of writes of a round, and started again.
    Kill(usize, bool),
    /// The node refuses something from now on, or nothing.
    Refuse(Option<Refusal>),
    /// Somebody else changes what is the proxy's.
    Disturb(u8),
    /// A real server has connections.
    Connect(usize, u8),
    /// The source gives both lists.
    Relist,
}

#[derive(Clone, Copy, Debug)]
enum Refusal {
    Server,
    Service,
    Address,
    Route,
    Rules,
    Ledger,
    Ports,
    Table,
}

fn act() -> impl Strategy<Value = Act> {
    use Refusal::{Address, Ledger, Ports, Route, Rules, Server, Service, Table};
    let refusal = select(vec![Server, Service, Address, Route, Rules, Ledger, Ports, Table]);
    let form = prop::option::weighted(0.8, select(Form::ALL.to_vec()));
    let endpoints = prop::collection::btree_set(1..=4u8, 0..4);
    prop_oneof![
        6 => (0..5usize, form).prop_map(|(number, form)| Act::Service(number, form)),
        6 => (0..5usize, endpoints).prop_map(|(number, some)| Act::Endpoints(number, some)),
        8 => any::<bool>().prop_map(Act::Round),
        3 => (0..30usize, any::<bool>()).prop_map(|(writes, whole)| Act::Kill(writes, whole)),
        2 => prop::option::of(refusal).prop_map(Act::Refuse),
        2 => any::<u8>().prop_map(Act::Disturb),
        2 => (0..5usize, 1..=4u8).prop_map(|(number, server)| Act::Connect(number, server)),
        1 => Just(Act::Relist),
    ]
}

fn world(has_ranges: bool) -> World {
    match has_ranges {
        true => World::new(&["--service-cluster-ip-range=10.96.0.0/12"]),
        false => World::new(&[]),
    }
}

fn play(world: &mut World, acts: Vec<Act>) {
    for act in acts {
        match act {
            Act::Service(number, form) => world.set_service(number, form),
            Act::Endpoints(number, endpoints) => world.set_endpoints(number, &endpoints),
            Act::Round(is_whole) => {
                let _ = world.round(is_whole);
            }
            Act::Kill(writes, is_whole) => world.kill_after(writes, is_whole),
            Act::Refuse(refusal) => world.refuse(refusal),
            Act::Disturb(number) => world.disturb(number),
            Act::Connect(number, server) => world.connect(number, server),
            Act::Relist => world.relist(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever has happened: when nothing is refused any more, the node becomes what is desired, and
    /// all the while nothing of others was touched, and no service was without its rules.
    #[test]
    fn any_history_ends_as_desired(has_ranges: bool, acts in vec(act(), 0..40)) {
        let mut world = world(has_ranges);
        play(&mut world, acts);
        world.refuse(None);
        world.settle();
        prop_assert_eq!(world.difference(), "");
        prop_assert_eq!(world.broken(), None);
        // An unchanged round writes nothing.
        let before = world.writes();
        prop_assert!(world.round(true).is_some_and(|round| round.is_ok()));
        prop_assert_eq!(world.writes(), before, "{:?}", world.log());
    }

    /// A refusal costs nothing but what is refused, and that is named.
    #[test]
    fn what_is_refused_is_named_and_costs_nothing_else(
        has_ranges: bool,
        acts in vec(act(), 0..30),
    ) {
        let mut world = world(has_ranges);
        play(&mut world, acts);
        world.refuse(None);
        world.refuse(Some(Refusal::Server));
        world.settle();
        prop_assert_eq!(world.broken(), None);
        let lacking = world.lacking_servers();
        prop_assert!(lacking.iter().all(|server| world.is_refused(server)), "{lacking:?}");
        let named = world.failing().join("\n");
        for server in lacking {
            prop_assert!(named.contains(&server.to_string()), "{server} is not in {named}");
        }
    }
}

/// Killed after each of its writes, on the way to and from a node with every kind of service: the next
/// round mends it.
#[test]
fn killed_after_any_write() {
    for has_ranges in [false, true] {
        for is_whole in [false, true] {
            let mut writes = 0;
            loop {
                let mut world = world(has_ranges);
                for (number, form) in Form::ALL.into_iter().enumerate().take(5) {
                    world.set_service(number, Some(form));
                    world.set_endpoints(number, &BTreeSet::from([1, 2]));
                }
                let killed_up = world.is_killed_after(writes, is_whole);
                world.settle();
                assert_eq!(world.difference(), "", "killed after {writes} writes, up");
                // To the next forms, and some go.
                for (number, form) in Form::ALL.into_iter().rev().enumerate().take(5) {
                    world.set_service(number, Some(form).filter(|_| number != 2));
                    world.set_endpoints(number, &BTreeSet::from([2, 3]));
                }
                let killed_down = world.is_killed_after(writes, is_whole);
                world.settle();
                assert_eq!(world.difference(), "", "killed after {writes} writes, on");
                assert_eq!(world.broken(), None, "killed after {writes} writes");
                if !killed_up && !killed_down {
                    break;
                }
                writes += 1;
            }
            assert!(writes > 15, "{writes} writes");
        }
    }
}
