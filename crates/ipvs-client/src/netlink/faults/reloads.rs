//! ip_vs is unloaded and loaded again.

use super::*;

/// A kernel that has another number for the family after each time that it was not asked for it.
fn reloading(mut reload: impl FnMut(&Sent) -> bool + Send) -> impl FnMut(&Sent) -> Vec<Arrival> {
    let mut number = FAMILY;
    move |sent| {
        if sent.family == CONTROL_FAMILY {
            return sent.family_is(number);
        }
        if sent.family == number && reload(sent) {
            number += 1;
        }
        match sent.family == number {
            true => sent.nothing_there(),
            false => vec![sent.error(errno::NOENT)],
        }
    }
}

#[test]
fn a_family_of_another_number_is_looked_up() {
    let mut direct = direct(reloading({
        let mut loaded = 0;
        move |_| {
            loaded += 1;
            loaded % 2 == 1
        }
    }));
    for _ in 0..3 {
        assert!(direct.run(&Request::ListServices, Result::ok).unwrap().is_empty());
    }
    // What is missing is told from the family that is missing.
    let result =
        call(&Request::DeleteDestination(key(), "10.0.0.1:80".parse().unwrap()), |sent| match sent
            .family
        {
            CONTROL_FAMILY => sent.family_is(FAMILY),
            _ => vec![sent.error(errno::NOENT)],
        });
    assert_eq!(kind(result), ErrorKind::DestinationNotFound);
    let result = call(&Request::Flush, |sent| vec![sent.error(errno::NOENT)]);
    assert_eq!(kind(result), ErrorKind::NotAvailable);
}

#[test]
fn a_batch_outlives_many_reloads() {
    let reloads = Arc::new(AtomicUsize::new(0));
    let mut direct = direct(reloading({
        let reloads = reloads.clone();
        let (mut begins, mut datagrams) = (true, 0);
        move |sent| {
            if !std::mem::replace(&mut begins, sent.flags & NLM_F_ACK != 0) {
                return false;
            }
            // Before a datagram: the kernel unloads nothing while it is at one.
            datagrams += 1;
            begins = datagrams % 3 == 1;
            reloads.fetch_add(usize::from(begins), Ordering::Relaxed);
            begins
        }
    }));
    let kinds = batch(&mut direct, &vec![Request::Flush; 20 * 128]);
    assert!(kinds.iter().all(Option::is_none), "{kinds:?}");
    assert!(reloads.load(Ordering::Relaxed) > 3);
    // One that is gone for good is looked up once, and nothing is sent in vain.
    let kernel = |sent: &Sent| vec![sent.error(errno::NOENT)];
    let kinds = batch(&mut self::direct(kernel), &vec![Request::Flush; 200]);
    let expected = (0..200).map(|position| match position {
        0..128 => Some(ErrorKind::NotAvailable),
        _ => Some(ErrorKind::NotSent),
    });
    assert!(kinds.into_iter().eq(expected));
}
