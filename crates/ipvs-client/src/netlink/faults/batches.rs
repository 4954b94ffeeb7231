//! Batches of which answers are missing.

use super::*;

#[test]
fn a_batch_whose_answers_were_dropped_believes_only_what_came() {
    let mut direct = direct(|sent| match sent.sequence {
        1 => vec![Dropped],
        2 => vec![sent.error(errno::EXIST)],
        _ => vec![],
    });
    let kinds = batch(&mut direct, &[Request::Flush, Request::Flush, Request::Flush]);
    let overrun = Some(ErrorKind::Overrun);
    assert_eq!(kinds, [overrun, Some(ErrorKind::AlreadyExists), overrun]);
}

#[test]
fn a_batch_without_its_last_answer_is_not_taken_for_done() {
    let mut direct = direct(|sent| match sent.sequence {
        2 => vec![sent.error(errno::EXIST)],
        _ => vec![],
    });
    let kinds = batch(&mut direct, &vec![Request::Flush; 200]);
    for (position, kind) in kinds.into_iter().enumerate() {
        let expected = match position {
            1 => ErrorKind::AlreadyExists,
            0..128 => ErrorKind::Malformed,
            _ => ErrorKind::NotSent,
        };
        assert_eq!(kind, Some(expected), "{position}");
    }
}

#[test]
fn a_batch_says_what_a_call_says() {
    let mut sip = Service::new("-u 10.0.0.185:5060".parse().unwrap());
    sip.engine = Some(EngineName::SIP);
    let destination = Destination::new("172.17.0.3:80".parse().unwrap());
    let daemon = SyncDaemon::new(DaemonRole::MASTER, "eth0".parse().unwrap(), 1.into());
    let writes = [
        Request::NewService(sip.clone()),
        Request::SetService(sip),
        Request::DeleteService(key()),
        Request::NewDestination(key(), destination.clone()),
        Request::SetDestination(key(), destination.clone()),
        Request::DeleteDestination(key(), destination.key),
        Request::NewDaemon(daemon),
        Request::Zero(None),
        Request::Flush,
    ];
    for number in [
        errno::PERM,
        errno::NOENT,
        errno::SRCH,
        errno::EXIST,
        errno::NODEV,
        errno::INVAL,
        errno::RANGE,
        errno::OPNOTSUPP,
        errno::AFNOSUPPORT,
        errno::BUSY,
    ] {
        for write in &writes {
            let kernel = move |sent: &Sent| match sent.family {
                CONTROL_FAMILY => sent.family_is(FAMILY),
                _ => vec![sent.error(number)],
            };
            let alone = direct(kernel).run(write, Result::ok).unwrap_err();
            let mut direct = direct(kernel);
            let mut batch = direct.batch(std::slice::from_ref(write), BatchOptions::new());
            while direct.run_next(&mut batch) {}
            let batched = batch.finish().into_iter().next().unwrap().unwrap_err();
            assert_eq!(batched.to_string(), alone.to_string());
            assert_eq!((batched.kind(), batched.errno()), (alone.kind(), alone.errno()));
        }
    }
}
