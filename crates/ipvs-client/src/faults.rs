//! The driver and the line against scripted kernels: each way in which answers go wrong, and that
//! every call still ends with the truth.

#![allow(clippy::unwrap_used, clippy::type_complexity, reason = "these are tests")]

use std::{
    collections::VecDeque,
    future::Future,
    io,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::BufMut;
use ipvs_packet::{
    Command, Destination, DestinationEntry, Info, Reply, Request, Service, ServiceEntry,
    ServiceKey, UnknownAttributes, Version,
};
use netlink_packet_core::{NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_MULTIPART};
use netlink_sys::{AsyncSocket, Socket, SocketAddr, protocols::NETLINK_USERSOCK};
use nix::sys::socket::MsgFlags;

use crate::{
    BatchOptions, Driver, Error, ErrorKind,
    driver::{self, Link},
    error::errno,
    line::Line,
};

const FAMILY: u16 = 34;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// What a socket reads next.
type Arrival = io::Result<Vec<u8>>;

/// A socket whose kernel is a function from a request to what then arrives.
struct FakeSocket {
    kernel: Mutex<Box<dyn FnMut(&Sent) -> Vec<Arrival> + Send>>,
    inbox: Arc<Inbox>,
}

#[derive(Default)]
struct Inbox {
    arrivals: Mutex<VecDeque<Arrival>>,
    reader: Mutex<Option<Waker>>,
}

impl Inbox {
    fn push(&self, arrivals: impl IntoIterator<Item = Arrival>) {
        self.arrivals.lock().unwrap().extend(arrivals);
        if let Some(reader) = self.reader.lock().unwrap().take() {
            reader.wake();
        }
    }
}

/// A request as the kernel got it.
#[derive(Clone)]
struct Sent {
    sequence: u32,
    flags: u16,
    request: Request,
}

impl Sent {
    fn reply(&self, reply: &Reply) -> Arrival {
        Ok(self.message(FAMILY, 0, &generic(reply)))
    }

    fn entry(&self, reply: &Reply) -> Vec<u8> {
        self.message(FAMILY, NLM_F_MULTIPART, &generic(reply))
    }

    fn acknowledge(&self) -> Arrival {
        self.error(0)
    }

    fn error(&self, errno: i32) -> Arrival {
        Ok(self.message(NLMSG_ERROR, NLM_F_CAPPED, &self.error_body(errno)))
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
        Ok(self.message(NLMSG_DONE, NLM_F_MULTIPART, &(-errno).to_ne_bytes()))
    }

    fn message(&self, message_type: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        message(self.sequence, message_type, flags, body)
    }
}

fn message(sequence: u32, message_type: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + body.len()).unwrap();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(message_type.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn generic(reply: &Reply) -> Vec<u8> {
    let mut bytes = vec![0; 4 + reply.buffer_len()];
    bytes[0] = reply.command().0;
    bytes[1] = 1;
    reply.emit(&mut bytes[4..]);
    bytes
}

impl AsyncSocket for FakeSocket {
    fn socket_ref(&self) -> &Socket {
        unreachable!("the driver does not ask for it")
    }

    fn socket_mut(&mut self) -> &mut Socket {
        unreachable!("the driver does not ask for it")
    }

    fn new(_: isize) -> io::Result<Self> {
        unreachable!("the driver does not make sockets")
    }

    fn poll_send(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send_to(context, bytes, &SocketAddr::new(0, 0))
    }

    fn poll_send_to(
        &self,
        _: &mut Context<'_>,
        bytes: &[u8],
        _: &SocketAddr,
    ) -> Poll<io::Result<usize>> {
        let mut rest = bytes;
        while let Some(length) = rest.first_chunk::<4>() {
            let length = u32::from_ne_bytes(*length) as usize;
            let number = |at: usize| u32::from_ne_bytes(rest[at..at + 4].try_into().unwrap());
            let sent = Sent {
                sequence: number(8),
                flags: u16::from_ne_bytes([rest[6], rest[7]]),
                request: Request::parse(Command(rest[16]), &rest[20..length]).unwrap(),
            };
            let arrivals = (self.kernel.lock().unwrap())(&sent);
            self.inbox.push(arrivals);
            rest = &rest[length..];
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_recv<B: BufMut>(
        &self,
        context: &mut Context<'_>,
        buffer: &mut B,
    ) -> Poll<io::Result<()>> {
        self.poll_recv_from(context, buffer).map_ok(drop)
    }

    fn poll_recv_from<B: BufMut>(
        &self,
        context: &mut Context<'_>,
        buffer: &mut B,
    ) -> Poll<io::Result<SocketAddr>> {
        match self.inbox.arrivals.lock().unwrap().pop_front() {
            Some(Ok(bytes)) => {
                buffer.put_slice(&bytes);
                Poll::Ready(Ok(SocketAddr::new(0, 0)))
            }
            Some(Err(error)) => Poll::Ready(Err(error)),
            None => {
                *self.inbox.reader.lock().unwrap() = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_recv_from_full(&self, _: &mut Context<'_>) -> Poll<io::Result<(Vec<u8>, SocketAddr)>> {
        unreachable!("the driver does not read so")
    }
}

struct Scene {
    link: Arc<Link>,
    driver: Driver,
    inbox: Arc<Inbox>,
}

fn scene(kernel: impl FnMut(&Sent) -> Vec<Arrival> + Send + 'static) -> Scene {
    let inbox = Arc::new(Inbox::default());
    let (link, driver) =
        driver::new(FakeSocket { kernel: Mutex::new(Box::new(kernel)), inbox: inbox.clone() });
    Scene { link: Arc::new(link), driver, inbox }
}

/// A call to a scripted kernel. That it does not end is a failure.
fn call(
    request: &Request,
    kernel: impl FnMut(&Sent) -> Vec<Arrival> + Send + 'static,
) -> Result<Vec<Reply>, Error> {
    run(async {
        let Scene { link, driver, .. } = scene(kernel);
        let driver = tokio::spawn(driver);
        let result = link.exchange(FAMILY, request).await;
        drop(link);
        driver.await.expect("the driver ends with the last link");
        result
    })
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    // Nothing takes long; this is for what hangs, on a slow machine too.
    let limited = async { tokio::time::timeout(Duration::from_secs(100), future).await };
    runtime.block_on(limited).expect("it hangs")
}

fn key() -> ServiceKey {
    "-t 10.0.0.185:80".parse().unwrap()
}

fn service() -> Reply {
    Reply::Service(ServiceEntry::new(Service::new(key())))
}

fn destination() -> Reply {
    let destination = Destination::new("172.17.0.3:80".parse().unwrap());
    Reply::Destination(DestinationEntry::new(destination))
}

fn kind(result: Result<Vec<Reply>, Error>) -> ErrorKind {
    let error = result.expect_err("it must fail");
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
        vec![Ok(two), Ok(sent.entry(&destination())), sent.done(0)]
    });
    assert_eq!(replies.unwrap().len(), 3);
    assert!(call(&Request::Flush, |sent| vec![sent.acknowledge()]).unwrap().is_empty());
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
        vec![Ok(broken(sent, 0)), sent.acknowledge()]
    });
    assert_eq!(kind(result), ErrorKind::Malformed);
    // In a list it does not go missing either.
    let result = call(&Request::ListServices, move |sent| {
        vec![Ok(sent.entry(&service())), Ok(broken(sent, NLM_F_MULTIPART)), sent.done(0)]
    });
    assert_eq!(kind(result), ErrorKind::Malformed);
    // Not even a generic netlink header.
    let result = call(&Request::GetService(key()), |sent| {
        vec![Ok(sent.message(FAMILY, 0, &[1])), sent.acknowledge()]
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
    let info = Reply::Info(Info::new(Version(0x01_02_01), 4096), UnknownAttributes::new());
    let result =
        call(&Request::GetService(key()), move |sent| vec![sent.reply(&info), sent.acknowledge()]);
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
fn an_overrun_is_told() {
    // The acknowledgement was dropped.
    let result = call(&Request::Flush, |_| vec![Err(io::Error::from_raw_os_error(errno::NOBUFS))]);
    assert_eq!(kind(result), ErrorKind::Overrun);
    // What did arrive counts.
    let result = call(&Request::Flush, |sent| {
        vec![Err(io::Error::from_raw_os_error(errno::NOBUFS)), sent.acknowledge()]
    });
    assert!(result.is_ok_and(|replies| replies.is_empty()));
}

/// netlink-proto takes a message that does not say that it is one of many for the last.
#[test]
fn a_list_that_ends_too_early_is_an_error() {
    let result = call(&Request::ListServices, |sent| vec![sent.reply(&service()), sent.done(0)]);
    assert_eq!(kind(result), ErrorKind::Malformed);
}

#[test]
fn a_cut_datagram_is_told() {
    let result = call(&Request::ListServices, |sent| {
        let mut two = [sent.entry(&service()), sent.entry(&service())].concat();
        two.truncate(two.len() - 8);
        vec![Ok(two), sent.done(0)]
    });
    assert_eq!(kind(result), ErrorKind::Closed);
    let result = call(&Request::Flush, |sent| vec![Ok(sent.acknowledge().unwrap()[..10].to_vec())]);
    assert_eq!(kind(result), ErrorKind::Closed);
    // One that did not fit the buffer is told as an overrun, and a list of which it was part is not
    // whole, though its end did come.
    let result = call(&Request::ListServices, |sent| {
        let overrun = Err(io::Error::from_raw_os_error(errno::NOBUFS));
        vec![Ok(sent.entry(&service())), overrun, sent.done(0)]
    });
    assert_eq!(kind(result), ErrorKind::Overrun);
}

#[test]
fn an_error_in_a_list_is_told() {
    let list = Request::ListServices;
    let result = call(&list, |sent| vec![Ok(sent.entry(&service())), sent.error(errno::PERM)]);
    assert_eq!(kind(result), ErrorKind::PermissionDenied);
    let result =
        call(&list, |sent| vec![Ok(sent.entry(&service())), sent.done(errno::AFNOSUPPORT)]);
    assert_eq!(kind(result), ErrorKind::Unsupported);
    let result = call(&list, |sent| {
        let mut entry = sent.entry(&service());
        entry[6] |= 0x10; // NLM_F_DUMP_INTR
        vec![Ok(entry), sent.done(0)]
    });
    assert_eq!(kind(result), ErrorKind::Interrupted);
}

#[test]
fn the_kernels_words_are_passed_on() {
    let result = call(&Request::Flush, |sent| {
        let mut body = sent.error_body(errno::INVAL);
        body.extend(10u16.to_ne_bytes());
        body.extend(1u16.to_ne_bytes());
        body.extend(b"no way\0\0");
        Ok::<_, ()>(sent.message(NLMSG_ERROR, NLM_F_CAPPED | NLM_F_ACK_TLVS, &body))
            .map(|bytes| vec![Ok(bytes)])
            .unwrap()
    });
    let error = result.expect_err("it was refused");
    assert_eq!(error.kernel_message(), Some("no way"));
    assert_eq!(error.errno(), Some(22));
    let text = error.to_string();
    assert!(text.contains("FLUSH") && text.contains("EINVAL") && text.contains("no way"), "{text}");
}

#[test]
fn a_stop_that_is_not_acknowledged_is_believed_when_the_daemon_is_gone() {
    use ipvs_packet::{DaemonEntry, DaemonRole, SyncDaemon};

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
            let entries = left.map(running).map(|entry| Ok(sent.entry(&entry)));
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
}

#[test]
fn lists_wait_for_each_other() {
    run(async {
        // A kernel that has one dump at a time, and ends it when told to.
        let open = Arc::new(Mutex::new(None::<Sent>));
        let Scene { link, driver, inbox } = scene({
            let open = open.clone();
            move |sent| match open.lock().unwrap().replace(sent.clone()) {
                None => vec![Ok(sent.entry(&service()))],
                Some(_) => vec![sent.error(errno::BUSY)],
            }
        });
        tokio::spawn(driver);
        let calls: Vec<_> = (0..10)
            .map(|_| {
                let link = link.clone();
                tokio::spawn(async move { link.exchange(FAMILY, &Request::ListServices).await })
            })
            .collect();
        for _ in 0..10 {
            let sent = loop {
                tokio::task::yield_now().await;
                if let Some(sent) = open.lock().unwrap().take() {
                    break sent;
                }
            };
            inbox.push([sent.done(0)]);
            tokio::task::yield_now().await;
        }
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap(), [service()]);
        }
    });
}

#[test]
fn a_call_that_is_dropped_harms_nobody() {
    run(async {
        let first = Arc::new(Mutex::new(None::<Sent>));
        let Scene { link, driver, inbox } = scene({
            let first = first.clone();
            move |sent| {
                let mut first = first.lock().unwrap();
                if first.is_none() {
                    *first = Some(sent.clone());
                    return vec![Ok(sent.entry(&service()))];
                }
                vec![Ok(sent.entry(&service())), sent.done(0)]
            }
        });
        tokio::spawn(driver);
        let dropped = tokio::time::timeout(
            Duration::from_millis(20),
            link.exchange(FAMILY, &Request::ListServices),
        );
        assert!(dropped.await.is_err(), "its answers have not all come");
        // The next list has to wait for the end of the one that nobody wants any more.
        let mut next = Box::pin(link.exchange(FAMILY, &Request::ListServices));
        let early = tokio::time::timeout(Duration::from_millis(20), &mut next).await;
        assert!(early.is_err(), "the socket is still in a list");
        let sent = first.lock().unwrap().clone().unwrap();
        inbox.push([Ok(sent.entry(&service())), sent.done(0)]);
        assert_eq!(next.await.unwrap(), [service()]);
    });
}

#[test]
fn without_a_driver_every_call_fails() {
    run(async {
        let Scene { link, driver, .. } = scene(|_| vec![]);
        let driver = tokio::spawn(driver);
        let calls: Vec<_> = (0..200)
            .map(|_| {
                let link = link.clone();
                tokio::spawn(async move { link.exchange(FAMILY, &Request::Flush).await })
            })
            .collect();
        tokio::task::yield_now().await;
        driver.abort();
        for call in calls {
            assert_eq!(kind(call.await.unwrap()), ErrorKind::Closed);
        }
        assert_eq!(kind(link.exchange(FAMILY, &Request::GetInfo).await), ErrorKind::Closed);
    });
}

#[test]
fn a_driver_that_panics_fails_every_call() {
    let result = run(async {
        let Scene { link, driver, .. } = scene(|_| panic!("a fault in the socket"));
        let driver = tokio::spawn(driver);
        let result = link.exchange(FAMILY, &Request::Flush).await;
        assert!(driver.await.is_err_and(|error| error.is_panic()));
        result
    });
    assert_eq!(kind(result), ErrorKind::Closed);
}

#[test]
fn a_socket_that_fails_closes_the_client() {
    let broken = || io::Error::from_raw_os_error(errno::PERM);
    let result = call(&Request::Flush, move |_| vec![Err(broken())]);
    assert_eq!(kind(result), ErrorKind::Closed);
}

#[test]
fn ten_thousand_calls_at_once_each_get_their_own_answer() {
    let replies = run(async {
        let Scene { link, driver, .. } = scene(|sent| {
            let Request::GetService(key) = &sent.request else { return vec![sent.done(0)] };
            let entry = Reply::Service(ServiceEntry::new(Service::new(*key)));
            vec![sent.reply(&entry), sent.acknowledge()]
        });
        tokio::spawn(driver);
        let calls: Vec<_> = (0..10_000u32)
            .map(|number| {
                let link = link.clone();
                let port = u16::try_from(number + 1).unwrap();
                let key = ServiceKey::udp(([10, 0, 0, 1], port).into());
                tokio::spawn(async move {
                    (key, link.exchange(FAMILY, &Request::GetService(key)).await)
                })
            })
            .collect();
        let mut replies = Vec::new();
        for call in calls {
            replies.push(call.await.unwrap());
        }
        replies
    });
    for (key, replies) in replies {
        assert!(
            matches!(&replies.unwrap()[..], [Reply::Service(entry)] if *entry.service.key() == key)
        );
    }
}

/// A line, and the socket that plays its kernel: what this sends before a call is what arrives.
struct Script {
    line: Line,
    kernel: Socket,
    to: SocketAddr,
}

impl Script {
    fn new() -> Self {
        let mut kernel = Socket::new(NETLINK_USERSOCK).unwrap();
        let mut netlink = Socket::new(NETLINK_USERSOCK).unwrap();
        let to = netlink.bind_auto().unwrap();
        let mut line = Line::new(netlink, FAMILY);
        line.kernel = kernel.bind_auto().unwrap();
        Self { line, kernel, to }
    }

    fn arrives(&self, datagram: Arrival) {
        self.kernel.send_to(&datagram.unwrap(), &self.to, 0).unwrap();
    }

    /// More than a line has room for, so that it is cut: as bad as one that the kernel dropped.
    fn is_dropped(&self) {
        self.arrives(Ok(vec![0; 40_000]));
    }

    fn batch(&mut self, writes: &[Request]) -> Vec<Option<ErrorKind>> {
        let mut batch = self.line.batch(writes, BatchOptions::new());
        while self.line.run_next(&mut batch) {}
        batch.finish().into_iter().map(|outcome| outcome.err().map(|error| error.kind())).collect()
    }
}

/// The request that a line sends as its nth.
fn nth(sequence: u32, request: Request) -> Sent {
    Sent { sequence, flags: request.flags(), request }
}

#[test]
fn a_line_waits_for_no_answer() {
    let mut script = Script::new();
    let result = script.line.run(&Request::GetInfo, Some);
    assert_eq!(kind(result), ErrorKind::Malformed);
}

#[test]
fn a_list_that_breaks_off_leaves_nothing_behind() {
    let mut script = Script::new();
    let first = nth(1, Request::ListServices);
    script.arrives(Ok(first.entry(&service())));
    script.arrives(Ok(first.entry(&service())[..30].to_vec()));
    script.arrives(Ok(first.entry(&service())));
    script.arrives(first.done(0));
    assert_eq!(kind(script.line.run(&Request::ListServices, Some)), ErrorKind::Malformed);
    // The kernel lists nothing else while it is at it, and it goes on as it is read.
    let left =
        script.line.netlink().recv_from(&mut Vec::with_capacity(64), MsgFlags::MSG_DONTWAIT.bits());
    assert_eq!(left.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let second = nth(2, Request::ListServices);
    script.arrives(Ok(second.entry(&service())));
    script.arrives(second.done(0));
    assert_eq!(script.line.run(&Request::ListServices, Some).unwrap(), [service()]);
}

#[test]
fn a_list_of_which_something_was_dropped_is_not_believed() {
    let mut script = Script::new();
    let first = nth(1, Request::ListServices);
    script.arrives(Ok(first.entry(&service())));
    script.is_dropped();
    script.arrives(first.done(0));
    // The second try finds nothing.
    assert_eq!(kind(script.line.run(&Request::ListServices, Some)), ErrorKind::Malformed);
}

#[test]
fn a_batch_whose_answers_were_dropped_believes_only_what_came() {
    let mut script = Script::new();
    script.is_dropped();
    script.arrives(nth(2, Request::Flush).error(errno::EXIST));
    let kinds = script.batch(&[Request::Flush, Request::Flush, Request::Flush]);
    let overrun = Some(ErrorKind::Overrun);
    assert_eq!(kinds, [overrun, Some(ErrorKind::AlreadyExists), overrun]);
}

#[test]
fn a_batch_without_its_last_answer_is_not_taken_for_done() {
    let mut script = Script::new();
    script.arrives(nth(2, Request::Flush).error(errno::EXIST));
    let kinds = script.batch(&vec![Request::Flush; 200]);
    for (position, kind) in kinds.into_iter().enumerate() {
        let expected = match position {
            1 => ErrorKind::AlreadyExists,
            0..128 => ErrorKind::Malformed,
            _ => ErrorKind::NotSent,
        };
        assert_eq!(kind, Some(expected), "{position}");
    }
}
