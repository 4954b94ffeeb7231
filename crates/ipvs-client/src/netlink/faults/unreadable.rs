//! One entry that cannot be read: the others come, and it is named.

use proptest::{collection::vec, prelude::*};

use super::*;

/// An entry with any bytes behind netlink's header.
fn raw(sent: &Sent, bytes: &[u8]) -> Vec<u8> {
    sent.message(FAMILY, NLM_F_MULTIPART, bytes)
}

/// An entry in which some bytes are others, of the same length.
fn spoiled(sent: &Sent, reply: &Reply, from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = generic(reply);
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to);
    raw(sent, &bytes)
}

/// A service whose scheduler's name is not UTF-8.
fn odd_service(sent: &Sent, key: ServiceKey) -> Vec<u8> {
    spoiled(sent, &service_of(key), b"wlc", b"w\xffc")
}

/// A destination whose weight is negative.
fn odd_destination(sent: &Sent, last: u8) -> Vec<u8> {
    let Reply::Destination(mut entry) = destination_of(last) else { unreachable!() };
    entry.destination.weight = ipvs_packet::Weight::new(0x1122_3344).unwrap();
    let weight = 0x1122_3344u32.to_ne_bytes();
    spoiled(sent, &Reply::Destination(entry), &weight, &(-1i32).to_ne_bytes())
}

fn daemon(role: DaemonRole) -> Reply {
    Reply::Daemon(DaemonEntry::new(SyncDaemon::new(role, "eth0".parse().unwrap(), 1.into())))
}

/// The services named as unreadable, and how many entries of each.
fn named(snapshot: &Snapshot) -> Vec<(Option<ServiceKey>, usize)> {
    snapshot.unreadable.iter().map(|(key, entries)| (*key, entries.len())).collect()
}

proptest! {
    /// Whatever is in an entry, its neighbours come, and it does not go missing.
    #[test]
    fn any_bytes_in_one_entry_lose_no_other(
        bytes in vec(any::<u8>(), 0..80),
        header in prop::option::weighted(0.7, Just(())),
        at in 0..3usize,
    ) {
        let client = client(move |sent| {
            let (command, good): (CommandNumber, [Vec<u8>; 2]) = match sent.request {
                Request::ListServices => (
                    CommandNumber::NEW_SERVICE,
                    [1, 2].map(|number| sent.entry(&service_of(numbered(number)))),
                ),
                Request::ListDestinations(_) => {
                    (CommandNumber::NEW_DEST, [1, 2].map(|last| sent.entry(&destination_of(last))))
                }
                _ => (
                    CommandNumber::NEW_DAEMON,
                    [DaemonRole::MASTER, DaemonRole::BACKUP].map(|role| sent.entry(&daemon(role))),
                ),
            };
            let mut body = match header {
                Some(()) => vec![command.0, 1, 0, 0],
                None => Vec::new(),
            };
            body.extend(&bytes);
            let mut entries = good.to_vec();
            entries.insert(at, raw(sent, &body));
            vec![Datagram(entries.concat()), sent.done(0)]
        });
        let others = |position: &usize| *position != at;
        let services = run(client.services()).unwrap();
        prop_assert_eq!(services.len(), 3);
        for (number, position) in (1..).zip((0..3).filter(others)) {
            let entry = services.iter().nth(position).unwrap().as_ref().unwrap();
            prop_assert_eq!(*entry.service.key(), numbered(number));
        }
        let destinations = run(client.destinations(&key())).unwrap();
        prop_assert_eq!(destinations.len(), 3);
        for (last, position) in (1..).zip((0..3).filter(others)) {
            let entry = destinations.iter().nth(position).unwrap().clone().unwrap();
            prop_assert_eq!(Reply::Destination(entry), destination_of(last));
        }
        let daemons = run(client.daemons()).unwrap();
        prop_assert_eq!(daemons.len(), 3);
        prop_assert!(daemons.iter().filter(|entry| entry.is_ok()).count() >= 2);
        let snapshot = run(client.snapshot()).unwrap();
        for key in [numbered(1), numbered(2)] {
            let found = snapshot.service(&key).map(|service| service.destinations.len());
            prop_assert!(found >= Some(2), "{key}: {found:?}");
        }
    }
}

#[test]
fn a_snapshot_has_the_rest_and_names_them() {
    // Of the services the second cannot be read, of the third's destinations the second.
    let snapshot = run(client(|sent| match sent.request {
        Request::ListServices => {
            let good = [1, 3].map(|number| sent.entry(&service_of(numbered(number))));
            let entries = [&good[0][..], &odd_service(sent, numbered(2)), &good[1]].concat();
            vec![Datagram(entries), sent.done(0)]
        }
        Request::ListDestinations(key) if key == numbered(3) => {
            let good = [1, 3].map(|last| sent.entry(&destination_of(last)));
            let entries = [&good[0][..], &odd_destination(sent, 2), &good[1]].concat();
            vec![Datagram(entries), sent.done(0)]
        }
        Request::ListDestinations(_) => {
            vec![Datagram(sent.entry(&destination())), sent.done(0)]
        }
        ref other => panic!("{other:?} is not asked for"),
    })
    .snapshot())
    .unwrap();
    assert!(snapshot.is_certain() && !snapshot.is_complete());
    assert_eq!(snapshot.services.keys().copied().collect::<Vec<_>>(), [numbered(1), numbered(3)]);
    assert_eq!(snapshot.services[&numbered(3)].destinations.len(), 2);
    assert_eq!(named(&snapshot), [(Some(numbered(2)), 1), (Some(numbered(3)), 1)]);
    let texts: Vec<_> = snapshot.unreadable.values().flatten().map(ToString::to_string).collect();
    assert!(
        texts[0].starts_with("service -u 10.0.0.1:2 cannot be read: ")
            && texts[0].contains("IPVS_SVC_ATTR_SCHED_NAME")
            && texts[0].ends_with("must be UTF-8"),
        "{texts:?}"
    );
    let expected = "destination 172.17.0.2:80 of service -u 10.0.0.1:3 cannot be read: ";
    assert!(texts[1].starts_with(expected) && texts[1].contains("WEIGHT"), "{texts:?}");
    assert!(!snapshot.is_readable(&numbered(3)) && snapshot.is_readable(&numbered(1)));
}

#[test]
fn a_service_that_becomes_readable_or_unreadable_is_as_it_is_last() {
    // The first look: 1 odd, 2 good. From the second on the other way round. A third one, odd, is gone.
    let mut look = 0;
    let snapshot = run(client(move |sent| match &sent.request {
        Request::ListServices => {
            look += 1;
            let (odd, good) = if look == 1 { (1, 2) } else { (2, 1) };
            let mut entries = odd_service(sent, numbered(odd));
            entries.extend(sent.entry(&service_of(numbered(good))));
            if look == 1 {
                entries.extend(odd_service(sent, numbered(3)));
            }
            vec![Datagram(entries), sent.done(0)]
        }
        Request::GetService(key) if *key == numbered(3) => vec![sent.error(errno::SRCH)],
        Request::ListDestinations(_) => {
            vec![Datagram(sent.entry(&destination())), sent.done(0)]
        }
        other => panic!("{other:?} is not asked for"),
    })
    .snapshot())
    .unwrap();
    assert!(snapshot.is_certain());
    assert_eq!(snapshot.services.keys().copied().collect::<Vec<_>>(), [numbered(1)]);
    assert_eq!(snapshot.services[&numbered(1)].destinations.len(), 1);
    assert_eq!(named(&snapshot), [(Some(numbered(2)), 1)]);
}

#[test]
fn one_that_a_later_list_lacks_is_asked_for() {
    let mut look = 0;
    let snapshot = run(client(move |sent| match &sent.request {
        Request::ListServices => {
            look += 1;
            let odd = if look == 1 { odd_service(sent, key()) } else { Vec::new() };
            vec![Datagram(odd), sent.done(0)].split_off(usize::from(look > 1))
        }
        Request::GetService(key) => {
            vec![Datagram(odd_service(sent, *key)), sent.acknowledge()]
        }
        other => panic!("{other:?} is not asked for"),
    })
    .snapshot())
    .unwrap();
    assert_eq!(named(&snapshot), [(Some(key()), 1)]);
}

#[test]
fn what_does_not_tell_its_key_is_named_too() {
    let snapshot = run(client(|sent| match sent.request {
        Request::ListServices => {
            let entries =
                [sent.entry(&service()), raw(sent, &[CommandNumber::NEW_SERVICE.0, 1, 0, 0])];
            vec![Datagram(entries.concat()), sent.done(0)]
        }
        Request::ListDestinations(_) => vec![Datagram(sent.entry(&destination())), sent.done(0)],
        ref other => panic!("{other:?} is not asked for"),
    })
    .snapshot())
    .unwrap();
    assert_eq!(snapshot.services.len(), 1);
    assert_eq!(named(&snapshot), [(None, 1)]);
}

#[test]
fn asked_for_one_it_is_an_error_that_names_it() {
    let error =
        run(client(|sent| vec![Datagram(odd_service(sent, key())), sent.acknowledge()])
            .service(&key()))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
    assert_eq!(error.unreadable_entry().and_then(|entry| entry.service), Some(key()));
    assert!(format!("{error:?}").contains("IPVS_SVC_ATTR_SCHED_NAME"), "{error:?}");
}

#[test]
fn a_change_of_one_that_cannot_be_read_is_refused() {
    let kernel = |sent: &Sent| match sent.request {
        Request::ListDestinations(_) => {
            let entries = [sent.entry(&destination_of(1)), odd_destination(sent, 2)];
            vec![Datagram(entries.concat()), sent.done(0)]
        }
        _ => vec![sent.acknowledge()],
    };
    let client = client(kernel);
    let change = |last: u8| {
        let Reply::Destination(entry) = destination_of(last) else { unreachable!() };
        let weight = |it: &mut Destination| it.weight = ipvs_packet::Weight::ZERO;
        run(client.modify_destination(&key(), &entry.destination.key, weight))
    };
    assert!(change(1).unwrap());
    let error = change(2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
    assert!(error.unreadable_entry().is_some(), "{error}");
    // One that is not there is something else.
    assert_eq!(kind(change(3)), ErrorKind::DestinationNotFound);
}

#[test]
fn a_daemon_is_stopped_beside_one_that_cannot_be_read() {
    let stop = Request::DeleteDaemon(DaemonRole::MASTER);
    let odd = |sent: &Sent| raw(sent, &[CommandNumber::NEW_DAEMON.0, 1, 0, 0, 0xff, 0xff, 3, 0]);
    let answer = move |sent: &Sent, acknowledged: bool| match sent.request {
        Request::DeleteDaemon(_) if acknowledged => vec![sent.acknowledge()],
        Request::DeleteDaemon(_) => vec![],
        _ => vec![Datagram(odd(sent)), sent.done(0)],
    };
    assert!(call(&stop, move |sent| answer(sent, true)).is_ok());
    // Without an acknowledgement it may be the one that still runs.
    assert_eq!(kind(call(&stop, move |sent| answer(sent, false))), ErrorKind::Malformed);
}
