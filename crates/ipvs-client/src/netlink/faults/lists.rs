//! Lists that go wrong.

use super::*;

#[test]
fn a_list_of_which_something_was_dropped_is_not_believed() {
    // Its end did come.
    let result = call(&Request::ListServices, |sent| {
        vec![Datagram(sent.entry(&service())), Dropped, sent.done(0)]
    });
    assert_eq!(kind(result), ErrorKind::Overrun);
}

#[test]
fn a_list_without_its_end_is_an_error() {
    let result = call(&Request::ListServices, |sent| vec![Datagram(sent.entry(&service()))]);
    assert_eq!(kind(result), ErrorKind::Malformed);
}

#[test]
fn an_error_in_a_list_is_reported() {
    let list = Request::ListServices;
    let result =
        call(&list, |sent| vec![Datagram(sent.entry(&service())), sent.error(errno::PERM)]);
    assert_eq!(kind(result), ErrorKind::PermissionDenied);
    let result =
        call(&list, |sent| vec![Datagram(sent.entry(&service())), sent.done(errno::AFNOSUPPORT)]);
    assert_eq!(kind(result), ErrorKind::Unsupported);
    // Today's kernels do not say so, but may one day.
    let interrupted = |sent: &Sent| {
        let flags = NLM_F_MULTIPART | NLM_F_DUMP_INTR;
        vec![Datagram(sent.message(FAMILY, flags, &generic(&service()))), sent.done(0)]
    };
    assert_eq!(kind(call(&list, move |sent| interrupted(sent))), ErrorKind::Interrupted);
    let mut asked = 0;
    let result = call(&list, move |sent| {
        asked += 1;
        if asked < 4 { interrupted(sent) } else { vec![sent.done(0)] }
    });
    assert!(result.unwrap().is_empty());
}

#[test]
fn a_busy_socket_is_asked_again() {
    let mut asked = 0;
    let result = call(&Request::ListServices, move |sent| {
        asked += 1;
        if asked < 3 { vec![sent.error(errno::BUSY)] } else { vec![sent.done(0)] }
    });
    assert!(result.unwrap().is_empty());
}

#[test]
fn a_list_that_breaks_off_leaves_nothing_behind() {
    let mut lists = 0;
    let mut direct = direct(move |sent| {
        lists += 1;
        let entry = || Datagram(sent.entry(&service()));
        match lists {
            1 => {
                let cut = Datagram(sent.entry(&service())[..30].to_vec());
                vec![entry(), cut, entry(), sent.done(0)]
            }
            _ => vec![entry(), sent.done(0)],
        }
    });
    assert_eq!(kind(direct.run(&Request::ListServices, Result::ok)), ErrorKind::Malformed);
    // The kernel lists nothing else while it is at it, and it goes on as it is read.
    let flags = MsgFlags::MSG_DONTWAIT.bits();
    let left = direct.socket().netlink().recv_from(&mut Vec::with_capacity(64), flags);
    assert_eq!(left.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(direct.run(&Request::ListServices, Result::ok).unwrap(), [service()]);
}
