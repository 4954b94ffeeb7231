//! What the crate promises of answers that go wrong, over a scripted socket and over real ones
//! whose receive buffer is too small; and what it asks of the kernel, request by request.

use std::{
    collections::VecDeque,
    io,
    num::NonZeroI32,
    sync::{Arc, Mutex},
};

use netlink_packet_core::{
    DoneMessage, ErrorMessage, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_MULTIPART, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
};
use nix::errno::Errno;

use netlink_talk::{Answers, Raw};

#[cfg(feature = "tokio")]
use super::tokio_socket::TokioSocket;
use super::{Netlink, blocking_socket::BlockingSocket};
use crate::{Address, Error, ErrorKind, Link, Route, blocking, error::Operation, links::Links};

/// A kernel that answers datagram by datagram as the script says, and notes what it was asked.
#[derive(Debug, Default)]
pub(crate) struct Script {
    answers: VecDeque<Answers>,
    /// By the name of each request, and whether it is a listing.
    asked: Vec<(&'static str, bool)>,
}

impl Script {
    pub(crate) fn exchange(&mut self, requests: &[(Raw, u16)]) -> Answers {
        self.asked.extend(requests.iter().map(|(raw, flags)| {
            let name = match raw.message_type {
                16 => "NEWLINK",
                17 => "DELLINK",
                18 => "GETLINK",
                19 => "SETLINK",
                20 => "NEWADDR",
                21 => "DELADDR",
                22 => "GETADDR",
                24 => "NEWROUTE",
                25 => "DELROUTE",
                26 => "GETROUTE",
                _ => "?",
            };
            (name, flags & NLM_F_DUMP == NLM_F_DUMP && name.starts_with("GET"))
        }));
        self.answers.pop_front().unwrap_or_default()
    }
}

fn links(answers: impl IntoIterator<Item = Answers>) -> (blocking::Links, Arc<Mutex<Script>>) {
    let script = Script { answers: answers.into_iter().collect(), asked: Vec::new() };
    let script = Arc::new(Mutex::new(script));
    let netlink = Netlink::Scripted(Arc::clone(&script));
    (blocking::Links::over(Links::over(netlink)), script)
}

fn asked(script: &Mutex<Script>) -> Vec<(&'static str, bool)> {
    script.lock().unwrap().asked.clone()
}

fn message(flags: u16, payload: NetlinkPayload<Raw>) -> NetlinkMessage<Raw> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    NetlinkMessage::new(header, payload)
}

fn object(flags: u16, object: &RouteNetlinkMessage) -> NetlinkMessage<Raw> {
    let mut message = message(flags, NetlinkPayload::InnerMessage(Raw::of(object)));
    message.header.message_type = message.payload.message_type();
    message
}

fn answered(messages: Vec<NetlinkMessage<Raw>>) -> Answers {
    Answers { messages, broken: None }
}

fn error(errno: Option<Errno>) -> NetlinkMessage<Raw> {
    let mut error = ErrorMessage::default();
    error.code = errno.and_then(|errno| NonZeroI32::new(-(errno as i32)));
    message(0, NetlinkPayload::Error(error))
}

fn done(flags: u16, code: i32) -> NetlinkMessage<Raw> {
    let mut done = DoneMessage::default();
    done.code = code;
    message(NLM_F_MULTIPART | flags, NetlinkPayload::Done(done))
}

fn dummy() -> Link {
    Link::read(&Operation::ListLinks, &Raw::of(&dummy_message())).unwrap().unwrap()
}

fn dummy_message() -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = 7;
    message.attributes = vec![
        LinkAttribute::IfName("ipvs0".to_owned()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Dummy)]),
    ];
    RouteNetlinkMessage::NewLink(message)
}

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

fn listed(text: &str) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewAddress(address(text).message(7))
}

#[test]
fn an_address_that_is_there_is_not_looked_for_in_lists() {
    let (links, script) = links([answered(vec![error(Some(Errno::EEXIST))])]);
    assert!(!links.add_address(&dummy(), address("10.0.0.1")).unwrap());
    assert_eq!(asked(&script), [("NEWADDR", false)]);

    // IPv6 says the same of another prefix length, so the one address is looked at.
    for (there, same) in [("fd00::1/128", true), ("fd00::1/64", false)] {
        let (links, script) = self::links([
            answered(vec![error(Some(Errno::EEXIST))]),
            answered(vec![object(0, &listed(there))]),
        ]);
        let added = links.add_address(&dummy(), address("fd00::1/128"));
        assert_eq!(
            added.map_err(|error| error.kind()),
            if same { Ok(false) } else { Err(ErrorKind::AlreadyExists) }
        );
        assert_eq!(asked(&script), [("NEWADDR", false), ("GETADDR", false)]);
    }
}

#[test]
fn what_an_address_costs() {
    let (links, script) = links([answered(vec![error(None)]), answered(vec![error(None)])]);
    assert!(links.add_address(&dummy(), address("10.0.0.1")).unwrap());
    assert!(links.delete_address(&dummy(), address("10.0.0.1")).unwrap());
    assert_eq!(asked(&script), [("NEWADDR", false), ("DELADDR", false)]);
}

#[test]
fn a_disturbed_listing_is_made_again() {
    let disturbed =
        || answered(vec![object(NLM_F_MULTIPART, &dummy_message()), done(NLM_F_DUMP_INTR, 0)]);
    let good = || answered(vec![object(NLM_F_MULTIPART, &dummy_message()), done(0, 0)]);
    let (links, script) = links([disturbed(), disturbed(), good()]);
    assert_eq!(links.list().unwrap(), [dummy()]);
    assert_eq!(asked(&script), [("GETLINK", true); 3]);

    // But not for ever.
    let (links, script) = self::links((0..20).map(|_| disturbed()));
    let failed = links.list().unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Interrupted, "{failed}");
    assert_eq!(asked(&script).len(), 10);
}

#[test]
fn a_listing_that_fails_is_an_error() {
    for answers in [vec![error(Some(Errno::EBUSY))], vec![done(0, -(Errno::EBUSY as i32))]] {
        let (links, _) = links([answered(answers)]);
        let failed = links.list().unwrap_err();
        assert_eq!(failed.errno(), Some(Errno::EBUSY as i32), "{failed}");
    }
}

#[test]
fn a_link_that_is_gone_has_nothing() {
    let gone = || answered(vec![done(0, -(Errno::ENODEV as i32))]);
    let (links, _) = links([gone(), gone()]);
    assert_eq!(links.addresses(&dummy()).unwrap(), []);
    assert_eq!(links.routes(&dummy()).unwrap(), []);
}

/// Kernels before 4.20 list everything.
#[test]
fn what_was_not_asked_for_is_sifted_out() {
    let of_other = |text: &str| RouteNetlinkMessage::NewAddress(address(text).message(8));
    let route = |text: &str, index| {
        RouteNetlinkMessage::NewRoute(text.parse::<Route>().unwrap().message(index))
    };
    let list = |objects: Vec<RouteNetlinkMessage>| {
        let mut messages: Vec<_> =
            objects.iter().map(|object| self::object(NLM_F_MULTIPART, object)).collect();
        messages.push(done(0, 0));
        answered(messages)
    };
    let mut main = Route::filter(7);
    main.header.table = 254;
    let (links, _) = links([
        list(vec![of_other("10.0.0.1"), listed("10.0.0.2")]),
        list(vec![
            route("local 10.0.0.1/32", 8),
            RouteNetlinkMessage::NewRoute(main),
            route("local 10.0.0.2/32", 7),
        ]),
    ]);
    assert_eq!(links.addresses(&dummy()).unwrap(), [address("10.0.0.2")]);
    assert_eq!(links.routes(&dummy()).unwrap(), ["local 10.0.0.2/32".parse().unwrap()]);
}

#[test]
fn an_answer_that_does_not_come_is_an_error() {
    // A listing without its end is none.
    let half = answered(vec![object(NLM_F_MULTIPART, &dummy_message())]);
    let none = || Answers::default();
    let (links, _) = links([half, none(), none(), none()]);
    for failed in [
        links.list().unwrap_err(),
        links.find("ipvs0").unwrap_err(),
        links.up(&dummy()).unwrap_err(),
        links.set_addresses(&dummy(), &[]).unwrap_err().error,
    ] {
        assert_eq!(failed.kind(), ErrorKind::Disconnected, "{failed}");
    }
}

#[test]
fn an_answer_that_cannot_be_read_is_an_error() {
    let short = Raw { message_type: 16, bytes: vec![0; 3] };
    let strange = |payload| answered(vec![message(0, payload)]);
    for (answers, what) in [
        (strange(NetlinkPayload::InnerMessage(short.clone())), "short"),
        (strange(NetlinkPayload::Noop), "noop"),
    ] {
        let (links, _) = links([answers]);
        let failed = links.find("ipvs0").unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::Malformed, "{what}: {failed}");
    }
    let (links, _) = links([
        answered(vec![message(NLM_F_MULTIPART, NetlinkPayload::InnerMessage(short)), done(0, 0)]),
        strange(NetlinkPayload::Noop),
    ]);
    assert_eq!(links.list().unwrap_err().kind(), ErrorKind::Malformed);
    assert_eq!(links.up(&dummy()).unwrap_err().kind(), ErrorKind::Malformed);
}

/// Each result stands at its request, also when answers are missing at the end.
#[test]
fn results_are_in_order_to_the_last_that_came() {
    let mut answers =
        answered(vec![error(None), error(Some(Errno::EEXIST)), error(Some(Errno::EPERM))]);
    answers.broken = Some(io::Error::from_raw_os_error(Errno::ENOBUFS as i32));
    let (links, _) = links([answered(vec![done(0, 0)]), answers]);
    let wanted = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"].map(address);
    let failed = links.set_addresses(&dummy(), &wanted).unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::PermissionDenied, "{failed}");
    assert_eq!(failed.done.added, [address("10.0.0.1")]);
}

/// An EINVAL of which a look at the link does not say the reason stays what it is.
#[test]
fn what_is_not_sure_is_not_said() {
    let refused = || answered(vec![error(Some(Errno::EINVAL))]);
    let (links, _) = links([refused(), Answers::default()]);
    let failed = links.add_address(&dummy(), address("fd00::1")).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::InvalidInput);
    assert_eq!(
        failed.to_string(),
        "adding address fd00::1/128 to link ipvs0: Invalid argument (EINVAL, errno 22)"
    );
}

/// More answers than the buffer holds: those that came count, the others are not known.
fn overrun(change: impl Fn(&[Address]) -> Vec<Result<(), Error>>) {
    let addresses: Vec<_> = (0..=100_u8).map(|n| Address::host([10, 0, 0, n].into())).collect();
    let results = change(&addresses);
    assert_eq!(results.len(), addresses.len());
    let kinds: Vec<_> = results.into_iter().map(|result| result.unwrap_err().kind()).collect();
    assert_eq!(kinds.last(), Some(&ErrorKind::Disconnected));
    let known = kinds.iter().position(|kind| *kind == ErrorKind::Disconnected).unwrap();
    assert!(kinds[known..].iter().all(|kind| *kind == ErrorKind::Disconnected));
    // No such link, or no right to change it: whoever runs this.
    let refused = [ErrorKind::NotFound, ErrorKind::PermissionDenied];
    assert!(kinds[..known].iter().all(|kind| refused.contains(kind)), "{kinds:?}");
}

fn no_link() -> Link {
    Link { index: i32::MAX as u32, ..dummy() }
}

#[test]
fn a_direct_socket_says_what_was_dropped() {
    let here = crate::NetNs::current().unwrap();
    let socket = BlockingSocket::connect(&here).unwrap();
    socket.shrink();
    let links = Links::over(Netlink::Blocking(Arc::new(socket)));
    let link = no_link();
    overrun(|addresses| blocking::at_once(links.add_all(&link, addresses)));
    // And goes on.
    let links = blocking::Links::over(links);
    assert!(links.list().unwrap().iter().any(|link| link.name == "lo"));
    assert_eq!(links.find("no-such-link").unwrap(), None);
}

#[cfg(feature = "tokio")]
#[test]
fn a_driven_socket_says_what_was_dropped() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let here = crate::NetNs::current().unwrap();
    let _entered = runtime.enter();
    let socket = TokioSocket::connect_shrunk(&here).unwrap();
    let links = Links::over(Netlink::Tokio(Arc::new(socket)));
    let link = no_link();
    overrun(|addresses| runtime.block_on(links.add_all(&link, addresses)));
    let failed = runtime.block_on(links.list()).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Disconnected, "{failed}");
}

#[cfg(feature = "tokio")]
#[test]
fn a_runtime_is_needed_and_one_with_io() {
    let here = crate::NetNs::current().unwrap();
    let failed = Links::connect(&here).unwrap_err();
    assert!(failed.to_string().contains("no reactor running"), "{failed}");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _entered = runtime.enter();
    assert!(std::panic::catch_unwind(|| Links::connect(&here)).is_err());
}
