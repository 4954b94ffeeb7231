//! Single answers that go wrong.

use super::*;

#[test]
fn all_is_well() {
    let replies =
        call(&Request::GetService(key()), |sent| vec![sent.reply(&service()), sent.acknowledge()]);
    assert_eq!(replies.unwrap(), [service()]);
    let replies = call(&Request::ListDestinations(key()), |sent| {
        let two = [sent.entry(&destination()), sent.entry(&destination())].concat();
        vec![Datagram(two), Datagram(sent.entry(&destination())), sent.done(0)]
    });
    assert_eq!(replies.unwrap().len(), 3);
    assert!(call(&Request::Flush, |sent| vec![sent.acknowledge()]).unwrap().is_empty());
}

#[test]
fn nothing_is_waited_for() {
    assert_eq!(kind(call(&Request::GetInfo, |_| vec![])), ErrorKind::Malformed);
    assert_eq!(kind(call(&Request::Flush, |_| vec![])), ErrorKind::Malformed);
}

#[test]
fn a_reply_that_cannot_be_read_is_an_error() {
    let broken = |sent: &Sent, flags| {
        let mut body = generic(&service());
        // The SERVICE nest says that it is longer than the message.
        body[4..6].copy_from_slice(&4_000u16.to_ne_bytes());
        sent.message(FAMILY, flags, &body)
    };
    let result = call(&Request::GetService(key()), move |sent| {
        vec![Datagram(broken(sent, 0)), sent.acknowledge()]
    });
    assert_eq!(kind(result), ErrorKind::Malformed);
    // In a list it does not go missing either.
    let list = run(client(move |sent| {
        let entry = Datagram(sent.entry(&service()));
        vec![entry, Datagram(broken(sent, NLM_F_MULTIPART)), sent.done(0)]
    })
    .services());
    assert_eq!(list.as_ref().map(List::len).ok(), Some(2));
    assert_eq!(kind(list.unwrap().all()), ErrorKind::Malformed);
    // Not even a generic netlink header.
    let result = call(&Request::GetService(key()), |sent| {
        vec![Datagram(sent.message(FAMILY, 0, &[1])), sent.acknowledge()]
    });
    assert_eq!(kind(result), ErrorKind::Malformed);
}

#[test]
fn an_acknowledgement_without_a_reply_is_an_error() {
    let result = call(&Request::GetInfo, |sent| vec![sent.acknowledge()]);
    assert_eq!(kind(result), ErrorKind::Malformed);
}

#[test]
fn a_reply_to_something_else_is_an_error() {
    let result = call(&Request::GetService(key()), move |sent| {
        vec![sent.reply(&info()), sent.acknowledge()]
    });
    assert_eq!(kind(result), ErrorKind::Malformed);
    let result = call(&Request::GetService(key()), |sent| {
        vec![sent.reply(&service()), sent.reply(&service()), sent.acknowledge()]
    });
    assert_eq!(kind(result), ErrorKind::Malformed);
}

#[test]
fn a_foreign_sequence_number_is_not_ours() {
    let replies = call(&Request::GetService(key()), |sent| {
        let foreign = Sent { sequence: sent.sequence + 77, ..sent.clone() };
        vec![
            foreign.error(errno::SRCH),
            foreign.acknowledge(),
            sent.reply(&service()),
            foreign.reply(&service()),
            sent.acknowledge(),
        ]
    });
    assert_eq!(replies.unwrap(), [service()]);
}

#[test]
fn an_overrun_is_reported() {
    // The acknowledgement was dropped. A write is not done twice.
    let mut asked = 0;
    let result = call(&Request::Flush, move |_| {
        asked += 1;
        assert_eq!(asked, 1);
        vec![Dropped]
    });
    assert_eq!(kind(result), ErrorKind::Overrun);
    // What did arrive counts.
    let result = call(&Request::Flush, |sent| vec![Dropped, sent.acknowledge()]);
    assert!(result.is_ok_and(|replies| replies.is_empty()));
    // A read is done again, and not for ever.
    let mut asked = 0;
    let result = call(&Request::GetInfo, move |sent| {
        asked += 1;
        match asked {
            4 => vec![sent.reply(&info()), sent.acknowledge()],
            _ => vec![Dropped],
        }
    });
    assert_eq!(result.unwrap(), [info()]);
    let result = call(&Request::GetInfo, |_| vec![Dropped]);
    assert_eq!(kind(result), ErrorKind::Overrun);
}

#[test]
fn a_cut_datagram_is_an_error() {
    let result = call(&Request::ListServices, |sent| {
        let mut two = [sent.entry(&service()), sent.entry(&service())].concat();
        two.truncate(two.len() - 8);
        vec![Datagram(two), sent.done(0)]
    });
    assert_eq!(kind(result), ErrorKind::Malformed);
    let result = call(&Request::Flush, |sent| {
        let Datagram(mut acknowledgement) = sent.acknowledge() else { unreachable!() };
        acknowledgement.truncate(10);
        vec![Datagram(acknowledgement)]
    });
    assert_eq!(kind(result), ErrorKind::Malformed);
}

#[test]
fn the_kernels_words_are_passed_on() {
    let result = call(&Request::Flush, |sent| {
        let mut body = sent.error_body(errno::INVAL);
        body.extend(10u16.to_ne_bytes());
        body.extend(1u16.to_ne_bytes());
        body.extend(b"no way\0\0");
        vec![Datagram(sent.message(NLMSG_ERROR, NLM_F_CAPPED | NLM_F_ACK_TLVS, &body))]
    });
    let error = result.expect_err("it was refused");
    assert_eq!(error.kernel_message(), Some("no way"));
    assert_eq!(error.errno(), Some(22));
    let text = error.to_string();
    assert!(text.contains("FLUSH") && text.contains("EINVAL") && text.contains("no way"), "{text}");
}

#[test]
fn a_stop_that_is_not_acknowledged_is_believed_when_the_daemon_is_gone() {
    let stop = Request::DeleteDaemon(DaemonRole::MASTER);
    let running = |role| {
        let daemon = SyncDaemon::new(role, "eth0".parse().unwrap(), 1.into());
        Reply::Daemon(DaemonEntry::new(daemon))
    };
    let answer = move |sent: &Sent, acknowledged: bool, left: Option<DaemonRole>| match (
        &sent.request,
        acknowledged,
    ) {
        (Request::DeleteDaemon(_), true) => vec![sent.acknowledge()],
        (Request::DeleteDaemon(_), false) => vec![],
        _ => {
            let entries = left.map(running).map(|entry| Datagram(sent.entry(&entry)));
            entries.into_iter().chain([sent.done(0)]).collect()
        }
    };
    assert!(call(&stop, move |sent| answer(sent, true, None)).is_ok());
    assert!(call(&stop, move |sent| answer(sent, false, None)).is_ok());
    assert!(call(&stop, move |sent| answer(sent, false, Some(DaemonRole::BACKUP))).is_ok());
    let result = call(&stop, move |sent| answer(sent, false, Some(DaemonRole::MASTER)));
    assert_eq!(kind(result), ErrorKind::Malformed);
    let result = call(&stop, move |sent| match sent.request {
        Request::DeleteDaemon(_) => vec![sent.error(errno::SRCH)],
        _ => vec![sent.done(0)],
    });
    assert_eq!(kind(result), ErrorKind::DaemonNotFound);
    // Of the list something was dropped.
    let result = call(&stop, move |sent| match sent.request {
        Request::DeleteDaemon(_) => vec![],
        _ => vec![Dropped, sent.done(0)],
    });
    assert_eq!(kind(result), ErrorKind::Overrun);
}

#[test]
fn an_upsert_tries_four_times() {
    // Whatever is asked, another program has just done the opposite.
    let (asked, count) = (Arc::new(AtomicUsize::new(0)), Arc::clone);
    let fickle = |missing: i32| {
        let asked = count(&asked);
        move |sent: &Sent| {
            if sent.family == CONTROL_FAMILY {
                return sent.family_is(FAMILY);
            }
            asked.fetch_add(1, Ordering::Relaxed);
            match sent.request {
                Request::NewService(_) | Request::NewDestination(..) => {
                    vec![sent.error(errno::EXIST)]
                }
                _ => vec![sent.error(missing)],
            }
        }
    };
    let new = Service::new(key());
    assert_eq!(kind(direct(fickle(errno::SRCH)).upsert_service(&new)), ErrorKind::ServiceNotFound);
    assert_eq!(asked.swap(0, Ordering::Relaxed), 8);
    let destination = Destination::new("172.17.0.3:80".parse().unwrap());
    let result = direct(fickle(errno::NOENT)).upsert_destination(&key(), &destination);
    assert_eq!(kind(result), ErrorKind::DestinationNotFound);
    assert_eq!(asked.swap(0, Ordering::Relaxed), 8);
    // In the end it is added.
    let mut asked = 0;
    let mut patient = direct(move |sent| {
        asked += 1;
        match asked {
            1 => vec![sent.error(errno::EXIST)],
            2 => vec![sent.error(errno::SRCH)],
            _ => vec![sent.acknowledge()],
        }
    });
    assert!(patient.upsert_service(&new).unwrap());
}
