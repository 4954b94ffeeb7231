//! Both clients against a scripted kernel: each way in which answers go wrong.
//!
//! The kernel is the other end of a pair of netlink sockets. It gets what is really sent and answers
//! within the call that sends it, as the true one does.
//!
//! What the documentation promises, and what shows it:
//!
//! | promise | case |
//! |---|---|
//! | every call ends | `nothing_is_waited_for`, `a_stop_that_is_not_acknowledged_…` |
//! | dropped answers are an overrun | `an_overrun_is_reported`, `a_list_of_which_something_was_dropped_…`, `a_batch_whose_answers_were_dropped_…` |
//! | no answer is lost in silence | `a_reply_that_cannot_be_read_…`, `an_acknowledgement_without_a_reply_…`, `a_reply_to_something_else_…`, `a_list_without_its_end_…`, `a_cut_datagram_…`, `a_batch_without_its_last_answer_…` |
//! | strangers' answers are not believed | `a_foreign_sequence_number_is_not_ours`, `nobody_but_the_kernel_is_heard` (socket.rs) |
//! | one list at a time; EBUSY is not seen | `ten_thousand_calls_…`, `a_busy_socket_is_asked_again` |
//! | calls may be dropped | `a_call_that_is_dropped_has_sent_nothing`, `a_batch_that_is_dropped_half_way_…` |
//! | a call waits for a turn, not for a snapshot or a batch | `a_call_gets_its_turn_within_a_snapshot`, `a_call_gets_its_turn_within_a_batch`, `a_thread_gets_its_turn_within_a_snapshot`, `a_task_gets_its_turn_within_a_snapshot_on_another_thread` |
//! | a call's wait has an end | `a_call_gets_its_turn_beside_a_thread_that_makes_one_after_the_other` |
//! | other tasks run, and timers | `other_tasks_run`, `timers_fire_within_a_snapshot` |
//! | no runtime is needed | `no_runtime_is_needed` |
//! | ten thousand calls | `ten_thousand_calls_at_once_each_get_their_own_answer` |
//! | a panic in a closure of the caller's harms nobody | `a_panic_in_a_callers_closure_leaves_the_client_usable` |
//! | a reload of ip_vs goes unnoticed | `a_family_of_another_number_is_looked_up`, `a_batch_outlives_many_reloads` |
//! | an upsert ends | `an_upsert_tries_four_times` |
//! | the kernel's words are passed on | `the_kernels_words_are_passed_on` |
//! | a batch says of each write what a call says | `a_batch_says_what_a_call_says` |
//! | a list that comes in steps is looked at twice | `a_short_list_in_two_datagrams_is_looked_at_twice` |
//! | a snapshot heals | `a_service_that_the_first_list_lacks_…`, `a_service_that_a_later_list_lacks_…`, `a_service_that_is_gone_…`, `a_service_that_differs_…` |
//! | it costs as much as changed | the requests counted in these |
//! | it names what changed until the end | `what_changes_until_the_end_is_named`, `a_long_list_that_changes_until_the_end_is_named` |
//!
//! What only the true kernel shows is in the package `kernel-tests`.

#![allow(clippy::unwrap_used, clippy::type_complexity, reason = "these are tests")]

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use ipvs_packet::{
    CommandNumber, DaemonEntry, DaemonRole, Destination, DestinationEntry, EngineName, Info, Reply,
    Request, Service, ServiceEntry, ServiceKey, SyncDaemon, UnknownAttributes, Version,
};
use ipvs_table::{ServiceSnapshot, Snapshot};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP_INTR, NLM_F_MULTIPART,
};
use netlink_sys::{Socket as NetlinkSocket, protocols::NETLINK_USERSOCK};
use nix::sys::socket::MsgFlags;

use super::{batch::BatchOptions, direct::Direct, family::CONTROL_FAMILY, socket::Socket};
use crate::{Client, Error, ErrorKind, blocking, error::errno, proc::namespace::Namespace};

const FAMILY: u16 = 34;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// A datagram that arrives.
enum Arrival {
    Datagram(Vec<u8>),
    /// The kernel drops a datagram, since a buffer is full.
    Dropped,
}

use Arrival::{Datagram, Dropped};

/// A request as the kernel got it.
#[derive(Clone)]
struct Sent {
    family: u16,
    sequence: u32,
    flags: u16,
    request: Request,
}

impl Sent {
    fn reply(&self, reply: &Reply) -> Arrival {
        Datagram(self.message(FAMILY, 0, &generic(reply)))
    }

    fn entry(&self, reply: &Reply) -> Vec<u8> {
        self.message(FAMILY, NLM_F_MULTIPART, &generic(reply))
    }

    fn acknowledge(&self) -> Arrival {
        self.error(0)
    }

    fn error(&self, errno: i32) -> Arrival {
        Datagram(self.message(NLMSG_ERROR, NLM_F_CAPPED, &self.error_body(errno)))
    }

    fn error_body(&self, errno: i32) -> Vec<u8> {
        let mut body = (-errno).to_ne_bytes().to_vec();
        body.extend(20u32.to_ne_bytes());
        body.extend(FAMILY.to_ne_bytes());
        body.extend(self.flags.to_ne_bytes());
        body.extend(self.sequence.to_ne_bytes());
        body.extend(0u32.to_ne_bytes());
        body
    }

    fn done(&self, errno: i32) -> Arrival {
        Datagram(self.message(NLMSG_DONE, NLM_F_MULTIPART, &(-errno).to_ne_bytes()))
    }

    /// The controller's answer: the number of the family.
    fn family_is(&self, number: u16) -> Vec<Arrival> {
        let attribute = [&6u16.to_ne_bytes()[..], &1u16.to_ne_bytes(), &number.to_ne_bytes()];
        let body = [&[1, 2, 0, 0], &attribute.concat()[..], &[0, 0]].concat();
        vec![Datagram(self.message(CONTROL_FAMILY, 0, &body)), self.acknowledge()]
    }

    /// What a kernel without any service answers.
    fn nothing_there(&self) -> Vec<Arrival> {
        match &self.request {
            request if request.is_dump() => vec![self.done(0)],
            Request::GetService(_) => vec![self.error(errno::SRCH)],
            Request::GetInfo => vec![self.reply(&info()), self.acknowledge()],
            _ if self.flags & NLM_F_ACK != 0 => vec![self.acknowledge()],
            _ => Vec::new(),
        }
    }

    fn message(&self, message_type: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(message_type.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }
}

fn generic(reply: &Reply) -> Vec<u8> {
    let mut bytes = vec![0; 4 + reply.buffer_len()];
    bytes[0] = reply.command().0;
    bytes[1] = 1;
    reply.emit(&mut bytes[4..]);
    bytes
}

/// The requests in a datagram.
fn requests(datagram: &[u8]) -> Vec<Sent> {
    let mut rest = datagram;
    let mut requests = Vec::new();
    while let Some(length) = rest.first_chunk::<4>() {
        let length = u32::from_ne_bytes(*length) as usize;
        let half = |at: usize| u16::from_ne_bytes(rest[at..at + 2].try_into().unwrap());
        let (family, command, payload) = (half(4), CommandNumber(rest[16]), &rest[20..length]);
        let request = match family {
            CONTROL_FAMILY => Request::Other { command, payload: payload.to_vec() },
            _ => Request::parse(command, payload).unwrap(),
        };
        let sequence = u32::from_ne_bytes(rest[8..12].try_into().unwrap());
        requests.push(Sent { family, sequence, flags: half(6), request });
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    requests
}

/// A socket whose kernel is a function from a request to what then arrives.
fn direct(mut kernel: impl FnMut(&Sent) -> Vec<Arrival> + Send + 'static) -> Direct {
    let mut netlink = NetlinkSocket::new(NETLINK_USERSOCK).unwrap();
    let mut other_end = NetlinkSocket::new(NETLINK_USERSOCK).unwrap();
    let to = netlink.bind_auto().unwrap();
    let mut socket = netlink_talk::Socket::with_peer(netlink, other_end.bind_auto().unwrap());
    socket.after_send(Box::new(move || {
        let (datagram, _) = other_end.recv_from_full().unwrap();
        for sent in requests(&datagram) {
            for arrival in kernel(&sent) {
                // One that does not fit is as good as dropped, and reported in the same way.
                let datagram = match arrival {
                    Datagram(datagram) => datagram,
                    Dropped => vec![0; 40_000],
                };
                other_end.send_to(&datagram, &to, 0).unwrap();
            }
        }
    }));
    Direct::with_kernel(socket, FAMILY)
}

fn socket(kernel: impl FnMut(&Sent) -> Vec<Arrival> + Send + 'static) -> Socket {
    Socket { direct: direct(kernel), namespace: Namespace::current() }
}

fn client(kernel: impl FnMut(&Sent) -> Vec<Arrival> + Send + 'static) -> Client {
    Client::from_socket(socket(kernel))
}

/// A call to a scripted kernel.
fn call(
    request: &Request,
    kernel: impl FnMut(&Sent) -> Vec<Arrival> + Send + 'static,
) -> Result<Vec<Reply>, Error> {
    direct(kernel).run(request, Some)
}

fn run<T>(future: impl Future<Output = T>) -> T {
    run_on(tokio::runtime::Builder::new_current_thread(), future)
}

fn run_on_two_threads<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2);
    run_on(runtime, future)
}

fn run_on<T>(mut runtime: tokio::runtime::Builder, future: impl Future<Output = T>) -> T {
    let runtime = runtime.enable_time().build().unwrap();
    // Nothing takes long; this is for what hangs, on a slow machine too.
    let limited = async { tokio::time::timeout(Duration::from_secs(100), future).await };
    runtime.block_on(limited).expect("it hangs")
}

fn batch(direct: &mut Direct, writes: &[Request]) -> Vec<Option<ErrorKind>> {
    let mut batch = direct.batch(writes, BatchOptions::new());
    while direct.run_next(&mut batch) {}
    batch.finish().into_iter().map(|outcome| outcome.err().map(|error| error.kind())).collect()
}

fn key() -> ServiceKey {
    "-t 10.0.0.185:80".parse().unwrap()
}

fn numbered(number: u16) -> ServiceKey {
    ServiceKey::udp(([10, 0, 0, 1], number).into())
}

fn service() -> Reply {
    service_of(key())
}

fn service_of(key: ServiceKey) -> Reply {
    Reply::Service(ServiceEntry::new(Service::new(key)))
}

fn destination() -> Reply {
    destination_of(3)
}

fn destination_of(last: u8) -> Reply {
    let destination = Destination::new(format!("172.17.0.{last}:80").parse().unwrap());
    Reply::Destination(DestinationEntry::new(destination))
}

fn info() -> Reply {
    Reply::Info(Info::new(Version(0x01_02_01), 4096), UnknownAttributes::new())
}

fn kind<T>(result: Result<T, Error>) -> ErrorKind {
    let error = result.err().expect("it must fail");
    assert!(!error.operation().is_empty());
    error.kind()
}

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
    let result = call(&Request::ListServices, move |sent| {
        let entry = Datagram(sent.entry(&service()));
        vec![entry, Datagram(broken(sent, NLM_F_MULTIPART)), sent.done(0)]
    });
    assert_eq!(kind(result), ErrorKind::Malformed);
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
    assert_eq!(kind(direct.run(&Request::ListServices, Some)), ErrorKind::Malformed);
    // The kernel lists nothing else while it is at it, and it goes on as it is read.
    let flags = MsgFlags::MSG_DONTWAIT.bits();
    let left = direct.socket().netlink().recv_from(&mut Vec::with_capacity(64), flags);
    assert_eq!(left.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(direct.run(&Request::ListServices, Some).unwrap(), [service()]);
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
        assert!(direct.run(&Request::ListServices, Some).unwrap().is_empty());
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
            let alone = direct(kernel).run(write, Some).unwrap_err();
            let mut direct = direct(kernel);
            let mut batch = direct.batch(std::slice::from_ref(write), BatchOptions::new());
            while direct.run_next(&mut batch) {}
            let batched = batch.finish().into_iter().next().unwrap().unwrap_err();
            assert_eq!(batched.to_string(), alone.to_string());
            assert_eq!((batched.kind(), batched.errno()), (alone.kind(), alone.errno()));
        }
    }
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

/// Polls a future once, without any runtime.
fn poll<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Poll<T> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn no_runtime_is_needed() {
    let client = client(Sent::nothing_there);
    assert!(poll(&mut Box::pin(client.flush())).is_ready());
    assert!(
        matches!(poll(&mut Box::pin(client.services())), Poll::Ready(Ok(list)) if list.is_empty())
    );
    let mut snapshot = Box::pin(client.snapshot());
    assert!((0..10).any(|_| poll(&mut snapshot).is_ready()));
    let mut batch = Box::pin(client.batch(&[Request::Flush]));
    assert!((0..10).any(|_| poll(&mut batch).is_ready()));
}

#[test]
fn a_call_that_is_dropped_has_sent_nothing() {
    let flushed = Arc::new(AtomicUsize::new(0));
    let client = client({
        let flushed = flushed.clone();
        move |sent| {
            flushed.fetch_add(usize::from(sent.request == Request::Flush), Ordering::Relaxed);
            sent.nothing_there()
        }
    });
    // Most are done when they are polled; some let others run first, and are dropped there.
    let mut done = 0;
    for _ in 0..1_000 {
        done += usize::from(poll(&mut Box::pin(client.flush())).is_ready());
    }
    assert!((900..1_000).contains(&done), "{done}");
    assert_eq!(flushed.load(Ordering::Relaxed), done);
    assert!(run(client.services()).unwrap().is_empty());
}

#[test]
fn a_batch_that_is_dropped_half_way_leaves_the_rest_unsent() {
    let written = Arc::new(AtomicUsize::new(0));
    let client = client({
        let written = written.clone();
        move |sent| {
            written.fetch_add(usize::from(sent.request == Request::Flush), Ordering::Relaxed);
            sent.nothing_there()
        }
    });
    let writes = vec![Request::Flush; 10_000];
    let mut batch = Box::pin(client.batch(&writes));
    assert!(poll(&mut batch).is_pending());
    drop(batch);
    let sent = written.load(Ordering::Relaxed);
    assert!(sent > 0 && sent < 1_000 && sent % 128 == 0, "{sent}");
    assert!(run(client.services()).unwrap().is_empty());
    assert_eq!(written.load(Ordering::Relaxed), sent);
}

/// A kernel with so many services without destinations, which counts what it is asked.
fn large(services: u16, asked: Arc<AtomicUsize>) -> impl FnMut(&Sent) -> Vec<Arrival> {
    move |sent| {
        asked.fetch_add(1, Ordering::Relaxed);
        match &sent.request {
            Request::ListServices => {
                let numbers: Vec<_> = (1..=services).collect();
                let entries = |numbers: &[u16]| {
                    let entries = numbers.iter().map(|&n| sent.entry(&service_of(numbered(n))));
                    Datagram(entries.collect::<Vec<_>>().concat())
                };
                numbers.chunks(50).map(entries).chain([sent.done(0)]).collect()
            }
            Request::GetService(key) => vec![sent.reply(&service_of(*key)), sent.acknowledge()],
            _ => sent.nothing_there(),
        }
    }
}

#[test]
fn a_call_gets_its_turn_within_a_snapshot() {
    let asked = Arc::new(AtomicUsize::new(0));
    let client = client(large(400, asked.clone()));
    run(async {
        let mut snapshot = Box::pin(client.snapshot());
        let mut calls = 0;
        loop {
            assert!(asked.swap(0, Ordering::Relaxed) < 100, "too much at a time");
            if let Poll::Ready(snapshot) = poll(&mut snapshot) {
                assert_eq!(snapshot.unwrap().services.len(), 400);
                break;
            }
            client.flush().await.unwrap();
            calls += 1;
        }
        assert!(calls > 5, "{calls}");
    });
}

#[test]
fn a_call_gets_its_turn_within_a_batch() {
    let client = client(Sent::nothing_there);
    let writes = vec![Request::Flush; 10_000];
    run(async {
        let mut batch = Box::pin(client.batch(&writes));
        let mut calls = 0;
        while poll(&mut batch).is_pending() {
            client.flush().await.unwrap();
            calls += 1;
        }
        assert!(calls > 5, "{calls}");
    });
}

#[test]
fn a_thread_gets_its_turn_within_a_snapshot() {
    let client = blocking::Client::from_socket(socket(large(400, Arc::default())));
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let snapshots = scope.spawn(|| {
            let mut snapshots = 0;
            while !ended.load(Ordering::Relaxed) {
                assert_eq!(client.snapshot().unwrap().services.len(), 400);
                snapshots += 1;
            }
            snapshots
        });
        // Each waits for a turn or two, and a snapshot has 802.
        for _ in 0..4_000 {
            client.flush().unwrap();
        }
        ended.store(true, Ordering::Relaxed);
        let snapshots = snapshots.join().unwrap();
        assert!(snapshots < 100, "{snapshots} snapshots went first");
    });
}

#[test]
fn a_task_gets_its_turn_within_a_snapshot_on_another_thread() {
    let client = client(large(400, Arc::default()));
    let snapshots = run_on_two_threads(async {
        let taken = Arc::new(AtomicUsize::new(0));
        let snapshots = tokio::spawn({
            let (client, taken) = (client.clone(), taken.clone());
            async move {
                loop {
                    assert_eq!(client.snapshot().await.unwrap().services.len(), 400);
                    taken.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let calls = tokio::spawn(async move {
            for _ in 0..4_000 {
                client.flush().await.unwrap();
            }
        });
        calls.await.unwrap();
        snapshots.abort();
        taken.load(Ordering::Relaxed)
    });
    assert!(snapshots < 100, "{snapshots} snapshots went first");
}

#[test]
fn a_call_gets_its_turn_beside_a_thread_that_makes_one_after_the_other() {
    let client = blocking::Client::from_socket(socket(Sent::nothing_there));
    let (started, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            let mut calls = 0;
            while !ended.load(Ordering::Relaxed) {
                client.flush().unwrap();
                started.store(true, Ordering::Relaxed);
                calls += 1;
            }
            calls
        });
        while !started.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        for _ in 0..100 {
            client.flush().unwrap();
        }
        ended.store(true, Ordering::Relaxed);
        // Within a millisecond or so, which is some hundred calls of the other thread.
        let others = others.join().unwrap();
        assert!(others < 500_000, "{others} calls went first");
    });
}

#[test]
fn other_tasks_run() {
    let client = client(Sent::nothing_there);
    // On a runtime that leaves that to its tasks, unlike tokio: two futures in turn, while they can.
    let calls = AtomicUsize::new(0);
    let mut busy = Box::pin(async {
        loop {
            client.flush().await.unwrap();
            calls.fetch_add(1, Ordering::Relaxed);
        }
    });
    for _ in 0..10 {
        let result: Poll<()> = poll(&mut busy);
        assert!(result.is_pending());
        let calls = calls.swap(0, Ordering::Relaxed);
        assert!((1..100).contains(&calls), "{calls}");
    }
}

#[test]
fn timers_fire_within_a_snapshot() {
    // tokio looks at its timers after 61 tasks, if all that it has are ready at once.
    let asked = Arc::new(AtomicUsize::new(0));
    let client = client(large(400, asked.clone()));
    run(async {
        let snapshots = tokio::spawn(async move {
            loop {
                client.snapshot().await.unwrap();
            }
        });
        tokio::task::yield_now().await;
        for _ in 0..10 {
            asked.store(0, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
            let asked = asked.load(Ordering::Relaxed);
            assert!(asked < 1_000, "{asked} requests went first");
        }
        snapshots.abort();
    });
}

#[test]
fn a_panic_in_a_callers_closure_leaves_the_client_usable() {
    let kernel = |sent: &Sent| vec![sent.reply(&service()), sent.acknowledge()];
    let panics = |_: &mut Service| panic!("a fault of the caller's");
    let client = client(kernel);
    run(async {
        let task = tokio::spawn({
            let client = client.clone();
            async move { client.modify_service(&key(), panics).await }
        });
        assert!(task.await.is_err_and(|error| error.is_panic()));
        assert!(client.service(&key()).await.is_ok());
    });
    let client = blocking::Client::from_socket(socket(kernel));
    let thread = std::thread::spawn({
        let client = client.clone();
        move || client.modify_service(&key(), panics)
    });
    assert!(thread.join().is_err());
    assert!(client.service(&key()).is_ok());
}

#[test]
fn ten_thousand_calls_at_once_each_get_their_own_answer() {
    let client = client(|sent| match &sent.request {
        Request::GetService(key) => vec![sent.reply(&service_of(*key)), sent.acknowledge()],
        _ => sent.nothing_there(),
    });
    let answers = async || {
        let call = |number| {
            let client = client.clone();
            tokio::spawn(async move { client.service(&numbered(number)).await })
        };
        let mut answers = Vec::new();
        for call in (1..=10_000).map(call).collect::<Vec<_>>() {
            answers.push(*call.await.unwrap().unwrap().service.key());
        }
        answers
    };
    for answers in [run(answers()), run_on_two_threads(answers())] {
        assert!(answers.into_iter().eq((1..=10_000).map(numbered)));
    }
}

/// A kernel that lists other services at each look, each a number with a timeout, and asked for one
/// answers from the last list but for those that are `hidden` from lists. Destinations have the
/// timeout for their address. Returns the snapshot, and how many requests it took.
fn snapshot_of(
    looks: &'static [&'static [(u16, u8)]],
    hidden: &'static [(u16, u8)],
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
    let snapshot = run(client(kernel).snapshot()).unwrap();
    (snapshot, asked.load(Ordering::Relaxed))
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
