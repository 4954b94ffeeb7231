//! Laws of the director: whatever comes in, in whatever order.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;

fn config(services: &[(u8, u8)], how: &str) -> Arc<Config> {
    let none = if services.is_empty() { " []" } else { "" };
    let mut text = format!("services:{none}\n");
    for (service, servers) in services {
        let list: Vec<String> = (1..=*servers).map(|it| format!("10.1.0.{it}")).collect();
        text += &format!(
            "  - {{address: 192.0.2.{service}, port: 80, servers: [{}], {how}}}\n",
            list.join(", ")
        );
    }
    Arc::new(Config::parse(&text).unwrap())
}

#[derive(Clone, Debug)]
enum Told {
    Good(u8),
    Bad(u8),
    Wish(u8, Wish),
    Config(Vec<(u8, u8)>, usize),
    Later(u64),
    Restart,
}

const HOWS: [&str; 4] = [
    "check: tcp",
    "check: tcp, on_failure: remove, sorry: 10.9.9.9:80",
    "check: tcp, before_result: up, all_failed: open",
    "check: none",
];

fn told() -> impl Strategy<Value = Told> {
    let services = prop::collection::btree_map(1..4u8, 1..5u8, 0..4);
    let wish = prop_oneof![
        Just(Wish::Drain),
        Just(Wish::Maintain),
        Just(Wish::Enable),
        (0..=100u8).prop_map(Wish::Weight)
    ];
    prop_oneof![
        4 => (1..5u8).prop_map(Told::Good),
        4 => (1..5u8).prop_map(Told::Bad),
        1 => (1..5u8, wish).prop_map(|(member, wish)| Told::Wish(member, wish)),
        1 => (services, 0..HOWS.len()).prop_map(|(it, how)| Told::Config(it.into_iter().collect(), how)),
        2 => (0..20_000u64).prop_map(Told::Later),
        1 => Just(Told::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// What was handed out is what the pools say; what has left the file is told to go, once; a restart with
    /// the stored state changes no health; and the same file again changes nothing.
    #[test]
    fn any_history(history in prop::collection::vec(told(), 1..40)) {
        let start = Instant::now();
        let mut millis = 0;
        let now = |millis: u64| Now {
            instant: start + Duration::from_millis(millis),
            wall: UNIX_EPOCH + Duration::from_secs(1000),
        };
        let mut file = config(&[(1, 2)], HOWS[0]);
        let mut director = Director::new(Arc::clone(&file), now(0));
        // As the reconciler has it.
        let mut table: BTreeMap<ServiceKey, VirtualService> = BTreeMap::new();
        for told in history {
            let reported = match &told {
                Told::Good(member) => Some((*member, Outcome::Good)),
                Told::Bad(member) => Some((*member, Outcome::Bad("refused".to_owned()))),
                _ => None,
            };
            if let Some((member, outcome)) = reported {
                for (key, kept) in &mut director.services {
                    let member = format!("10.1.0.{member}:80").parse().unwrap();
                    // Without a check nobody says so.
                    if kept.members.get(&member).is_some_and(|it| !it.checks.is_empty()) {
                        kept.pool.report(&member, outcome.clone(), now(millis).instant);
                        director.dirty.insert(*key);
                    }
                }
            }
            match told {
                Told::Good(_) | Told::Bad(_) => {}
                Told::Wish(member, wish) => {
                    director.wish(None, &format!("10.1.0.{member}"), wish, now(millis));
                }
                Told::Config(services, how) => {
                    file = config(&services, HOWS[how]);
                    director.set_config(Arc::clone(&file), now(millis));
                }
                Told::Later(more) => millis += more,
                Told::Restart => {
                    // A new process tells all that should be.
                    table.clear();
                    let stored = director.state();
                    director = Director::new(Arc::clone(&file), now(millis));
                    prop_assert_eq!(director.restore(&stored, now(millis)), Ok(()));
                    let is_same = |new: &str| {
                        // Those without a check are up again at once, which is what they were.
                        stored == new || file.services.values().any(|it| it.common.servers.iter().any(|it| it.checks.is_empty()))
                    };
                    prop_assert!(is_same(&director.state()), "{}\n{}", stored, director.state());
                }
            }
            let step = director.step(now(millis));
            for key in &step.removed {
                table.remove(key);
                prop_assert!(!file.services.contains_key(key));
            }
            for service in step.set {
                prop_assert!(table.get(service.key()) != Some(&service), "told again");
                table.insert(*service.key(), service);
            }
            // Nothing is there that the file does not have.
            prop_assert!(table.keys().all(|key| file.services.contains_key(key)));
            for (key, kept) in director.services() {
                if let Some(desired) = &kept.desired {
                    prop_assert_eq!(table.get(key), Some(desired));
                }
                prop_assert_eq!(kept.members.len(), kept.pool.members().count());
            }
            let known: usize = director.services().values().map(|kept| kept.members.len()).sum();
            prop_assert!(director.checks().len() <= known);
            // The same file again, at the same time: nothing follows from it.
            director.set_config(Arc::clone(&file), now(millis));
            let again = director.step(now(millis));
            prop_assert!(again.set.is_empty() && again.removed.is_empty() && again.happened.is_empty());
        }
    }
}

#[test]
fn a_member_is_found_by_its_name() {
    let now = Now::read();
    let mut director = Director::new(config(&[(1, 2), (2, 2)], HOWS[0]), now);
    assert_eq!(director.wish(None, "10.1.0.1:80", Wish::Drain, now), 2);
    assert_eq!(director.wish(Some("-t 192.0.2.1:80"), "10.1.0.1", Wish::Drain, now), 1);
    assert_eq!(director.wish(Some("nobody"), "10.1.0.1", Wish::Drain, now), 0);
    assert_eq!(director.wish(None, "10.1.0.3", Wish::Drain, now), 0);
    let modes = |director: &Director| {
        let services = director.services().values();
        services
            .flat_map(|it| it.health().map(|(_, _, mode, _)| mode).collect::<Vec<_>>())
            .collect::<Vec<_>>()
    };
    use Mode::{Draining, Enabled};
    assert_eq!(modes(&director), [Draining, Enabled, Draining, Enabled]);
    // A file that changes something else leaves it so.
    director.set_config(config(&[(1, 3), (2, 2)], HOWS[1]), now);
    assert_eq!(modes(&director), [Draining, Enabled, Enabled, Draining, Enabled]);
}

#[test]
fn stored_state_that_was_cut_is_said() {
    let now = Now::read();
    let director = Director::new(config(&[(1, 2), (2, 2)], HOWS[0]), now);
    let stored = director.state();
    for end in 0..stored.len() {
        let mut new = Director::new(config(&[(1, 2), (2, 2)], HOWS[0]), now);
        let is_whole = stored[..end].is_empty() || stored[..end].ends_with("end 2\n");
        if !is_whole && !stored[..end].ends_with("end 2") {
            assert!(new.restore(&stored[..end], now).is_err(), "{end}");
        }
    }
}
