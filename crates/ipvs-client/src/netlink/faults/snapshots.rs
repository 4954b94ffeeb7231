//! Snapshots of a table that others change meanwhile.

use super::*;

#[test]
fn a_short_list_in_two_datagrams_is_looked_at_twice() {
    // As when the kernel's memory is fragmented: it fills small datagrams, and lets others change the
    // list in between.
    let asked = Arc::new(AtomicUsize::new(0));
    let client = client({
        let asked = asked.clone();
        move |sent| match sent.request {
            Request::ListServices => vec![Datagram(sent.entry(&service())), sent.done(0)],
            _ => {
                // The first look lacks one, and the second repeats one.
                let (first, second): (&[u8], &[u8]) = match asked.fetch_add(1, Ordering::Relaxed) {
                    0 => (&[1, 2], &[4]),
                    1 => (&[1, 2], &[2, 3, 4]),
                    _ => (&[1, 2], &[3, 4]),
                };
                let datagram = |lasts: &[u8]| {
                    let entries = lasts.iter().map(|&last| sent.entry(&destination_of(last)));
                    Datagram(entries.collect::<Vec<_>>().concat())
                };
                vec![datagram(first), datagram(second), sent.done(0)]
            }
        }
    });
    let snapshot = run(client.snapshot()).unwrap();
    assert!(snapshot.is_certain());
    assert_eq!(snapshot.services[&key()].destinations.len(), 4);
    assert_eq!(asked.load(Ordering::Relaxed), 4);
}

/// A kernel that lists other services at each look, each a number with a timeout, and asked for one
/// answers from the last list but for those that are `hidden` from lists. Destinations have the
/// timeout for their address. Returns the snapshot, and how many requests it took.
fn snapshot_concerning(
    looks: &'static [&'static [(u16, u8)]],
    hidden: &'static [(u16, u8)],
    concerns: Option<u16>,
) -> (Snapshot, usize) {
    let asked = Arc::new(AtomicUsize::new(0));
    let mut look = 0;
    let kernel = {
        let asked = asked.clone();
        move |sent: &Sent| {
            asked.fetch_add(1, Ordering::Relaxed);
            let entry = |&(number, timeout): &(u16, u8)| {
                let mut service = Service::new(numbered(number));
                service.timeout = timeout.into();
                Reply::Service(ServiceEntry::new(service))
            };
            let now = looks[look.max(1).min(looks.len()) - 1];
            let known = |key: &ServiceKey| {
                now.iter().chain(hidden).find(|(number, _)| numbered(*number) == *key)
            };
            match &sent.request {
                Request::ListServices => {
                    look += 1;
                    let now = looks[look.min(looks.len()) - 1];
                    let entries: Vec<_> = now.iter().map(|it| sent.entry(&entry(it))).collect();
                    vec![Datagram(entries.concat()), sent.done(0)]
                }
                Request::GetService(key) => match known(key) {
                    Some(it) => vec![sent.reply(&entry(it)), sent.acknowledge()],
                    None => vec![sent.error(errno::SRCH)],
                },
                Request::ListDestinations(key) => {
                    let entries = known(key).map(|(_, last)| sent.entry(&destination_of(*last)));
                    entries.into_iter().map(Datagram).chain([sent.done(0)]).collect()
                }
                other => panic!("{other:?} is not asked for"),
            }
        }
    };
    let client = client(kernel);
    let snapshot = run(async {
        match concerns {
            Some(number) => client.snapshot_concerning(|key| *key == numbered(number)).await,
            None => client.snapshot().await,
        }
    });
    (snapshot.unwrap(), asked.load(Ordering::Relaxed))
}

fn snapshot_of(
    looks: &'static [&'static [(u16, u8)]],
    hidden: &'static [(u16, u8)],
) -> (Snapshot, usize) {
    snapshot_concerning(looks, hidden, None)
}

/// The services of a snapshot, with the timeout and the address of the one destination of each.
fn numbers(snapshot: &Snapshot) -> Vec<(u16, u8)> {
    let number = |(key, service): (&ServiceKey, &ServiceSnapshot)| {
        let ServiceKey::Address { port, .. } = *key else { panic!("{key}") };
        let timeout = u8::try_from(service.entry.service.timeout).unwrap();
        let destinations: Vec<_> =
            service.destinations.iter().map(|entry| entry.destination.key).collect();
        let Reply::Destination(expected) = destination_of(timeout) else { unreachable!() };
        assert_eq!(destinations, [expected.destination.key]);
        (port, timeout)
    };
    snapshot.services.iter().map(number).collect()
}

#[test]
fn a_quiet_table_costs_a_request_for_each_service_and_two() {
    let (snapshot, asked) = snapshot_of(&[&[(1, 1), (2, 1), (3, 1)]], &[]);
    assert!(snapshot.is_certain());
    assert_eq!((numbers(&snapshot), asked), (vec![(1, 1), (2, 1), (3, 1)], 5));
}

#[test]
fn a_service_that_the_first_list_lacks_is_taken_in() {
    // Its destinations, and a third list to see that this was all.
    let (snapshot, asked) = snapshot_of(&[&[(1, 1), (3, 1)], &[(1, 1), (2, 1), (3, 1)]], &[]);
    assert!(snapshot.is_certain());
    assert_eq!((numbers(&snapshot), asked), (vec![(1, 1), (2, 1), (3, 1)], 2 + 3 + 1));
}

#[test]
fn a_service_that_a_later_list_lacks_is_asked_for() {
    let (snapshot, asked) = snapshot_of(&[&[(1, 1), (2, 1)], &[(1, 1)]], &[(2, 1)]);
    assert!(snapshot.is_certain());
    assert_eq!((numbers(&snapshot), asked), (vec![(1, 1), (2, 1)], 2 + 2 + 1));
}

#[test]
fn a_service_that_is_gone_is_left_out() {
    // Gone after its destinations were listed.
    let (snapshot, asked) = snapshot_of(&[&[(1, 1), (2, 1)], &[(1, 1)]], &[]);
    assert!(snapshot.is_certain());
    assert_eq!((numbers(&snapshot), asked), (vec![(1, 1)], 2 + 2 + 1 + 1));
}

#[test]
fn a_service_that_differs_is_read_again() {
    let (snapshot, asked) = snapshot_of(&[&[(1, 1), (2, 1)], &[(1, 1), (2, 9)]], &[]);
    assert!(snapshot.is_certain());
    assert_eq!((numbers(&snapshot), asked), (vec![(1, 1), (2, 9)], 2 + 2 + 1 + 1));
}

#[test]
fn what_changes_until_the_end_is_named() {
    let (snapshot, asked) = snapshot_of(
        &[
            &[(1, 1), (2, 1)],
            &[(1, 1), (2, 2)],
            &[(1, 1), (2, 3)],
            &[(1, 1), (3, 1)],
            &[(1, 1), (2, 4)],
            &[(1, 1), (2, 5)],
            &[(1, 1), (2, 6)],
        ],
        &[],
    );
    assert_eq!(snapshot.uncertain.into_iter().collect::<Vec<_>>(), [numbered(2)]);
    assert!(snapshot.services.contains_key(&numbered(1)));
    // Six lists, and few requests for each change.
    assert!(asked <= 6 + 2 + 3 * 6, "{asked}");
}

/// Beside a writer that never ends, six lists were made though it touched nothing that mattered.
#[test]
fn what_concerns_nobody_is_not_looked_at_again() {
    const LOOKS: &[&[(u16, u8)]] = &[
        &[(1, 1), (2, 1)],
        &[(1, 1), (2, 2)],
        &[(1, 1), (2, 3)],
        &[(1, 1), (2, 4)],
        &[(1, 1), (2, 5)],
        &[(1, 1), (2, 6)],
    ];
    let (snapshot, asked) = snapshot_concerning(LOOKS, &[], Some(1));
    // Two lists of services, and three of destinations.
    assert_eq!((numbers(&snapshot)[0], asked), ((1, 1), 5));
    assert!(snapshot.uncertain.iter().eq([&numbered(2)]));
    let (snapshot, asked) = snapshot_concerning(LOOKS, &[], Some(2));
    assert!(asked >= 6 + 2 + 5 && snapshot.uncertain.contains(&numbered(2)), "{asked}");
}

/// Each service is asked for by itself, and a long list until two looks agree.
#[test]
fn some_services_are_asked_for_by_themselves() {
    let mut look = 0;
    let client = client(move |sent| match &sent.request {
        Request::GetService(asked) if *asked == key() => {
            vec![sent.reply(&service()), sent.acknowledge()]
        }
        Request::GetService(_) => vec![sent.error(errno::SRCH)],
        Request::ListDestinations(_) => {
            // The first look lacks one.
            look += 1;
            let seen: Vec<u8> = (1..=9).filter(|last| look > 1 || *last != 5).collect();
            let entries: Vec<_> =
                seen.iter().map(|last| sent.entry(&destination_of(*last))).collect();
            let halves = entries.chunks(5).map(|half| Datagram(half.concat()));
            halves.chain([sent.done(0)]).collect()
        }
        other => panic!("{other:?} is not asked for"),
    });
    let snapshot = run(client.snapshot_of([&numbered(7), &key()])).unwrap();
    assert!(snapshot.is_certain());
    assert_eq!(snapshot.services.len(), 1);
    assert_eq!(snapshot.services[&key()].destinations.len(), 9);
}

#[test]
fn a_long_list_that_changes_until_the_end_is_named() {
    // In each look another one of those that stay is passed over.
    let mut look = 0;
    let snapshot = run(client(move |sent| match sent.request {
        Request::ListServices => vec![Datagram(sent.entry(&service())), sent.done(0)],
        _ => {
            look += 1;
            let seen = (1..=9).filter(|last| *last != look).chain([100 + look]);
            let entries: Vec<_> = seen.map(|last| sent.entry(&destination_of(last))).collect();
            let halves = entries.chunks(5).map(|half| Datagram(half.concat()));
            halves.chain([sent.done(0)]).collect()
        }
    })
    .snapshot())
    .unwrap();
    assert_eq!(snapshot.uncertain.iter().copied().collect::<Vec<_>>(), [key()]);
    let found = &snapshot.services[&key()];
    for last in 1..=9 {
        let Reply::Destination(expected) = destination_of(last) else { unreachable!() };
        assert!(found.destination(&expected.destination.key).is_some(), "{last} is missing");
    }
}
