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
//! | what cannot be read loses nothing else | `unreadable.rs` |
//! | it names what changed until the end | `what_changes_until_the_end_is_named`, `a_long_list_that_changes_until_the_end_is_named` |
//!
//! What only the true kernel shows is in the package `kernel-tests`.

#![allow(clippy::unwrap_used, clippy::type_complexity, reason = "these are tests")]

mod answers;
mod batches;
mod lists;
mod reloads;
mod snapshots;
mod turns;
mod unreadable;

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
use crate::{Client, Error, ErrorKind, List, blocking, error::errno, proc::namespace::Namespace};

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
    direct(kernel).run(request, Result::ok)
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
    ServiceKey::udp(([10, 0, 0, 1], number).into()).unwrap()
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
