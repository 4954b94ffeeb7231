//! IPVS over a connection of netlink-proto that a program already has (feature `netlink-proto`).
//!
//! For programs of the rust-netlink family, which drive their connections on tokio by themselves: one
//! connection, one driver, for IPVS and all other families of generic netlink. Its messages are [`Raw`],
//! so that each family reads its own. [`NetlinkProto`] is a [`Port`](crate::Port), like the clients.
//!
//! Every other program is better served by [`Client`](crate::client::Client), which needs no driver, and
//! is several times as fast.
//!
//! ```no_run
//! use lvs::{Desired, Policy, netlink_proto::NetlinkProto};
//! use netlink_proto::{new_connection, sys::protocols::NETLINK_GENERIC};
//!
//! # async fn example(desired: Desired) -> Result<(), Box<dyn std::error::Error>> {
//! let (mut connection, handle, _unsolicited) = new_connection(NETLINK_GENERIC)?;
//! connection.set_forward_ack(true);
//! connection.set_forward_done(true);
//! tokio::spawn(connection);
//! desired.apply(&NetlinkProto::new(handle), &Policy::new()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Limits
//!
//! - The connection has to forward acknowledgements and ends of lists, as above: netlink-proto ends the
//!   answers to a request in the same way when it is answered and when the connection is dropped. Without
//!   them every call fails.
//! - The kernel makes one list at a time for a socket. The calls of one `NetlinkProto` and its clones
//!   take turns; beside a list of another family's on the same connection they try again, up to the time
//!   limit.
//! - When the receive buffer overflows, netlink-proto reports that on its channel of unsolicited messages,
//!   and the requests under way never end. After 5 seconds without an answer a call fails with
//!   [`ErrorKind::Overrun`]: a read has to be repeated, and whether a write took effect is not known. An
//!   apply reads such services again.
//! - A reply that cannot be read fails the call ([`ErrorKind::Malformed`]). One that netlink-proto itself
//!   cannot split is only logged by it, and is missing.
//! - Where the driver is not polled, nothing is answered. When it is dropped, calls fail with
//!   [`ErrorKind::NotAvailable`].
//! - The kernel's own words of an error are not passed on.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use ipvs_client::{
    Error, ErrorKind, List, ServiceSnapshot, Snapshot,
    packet::{
        CommandNumber, DestinationEntry, FAMILY_NAME, FAMILY_VERSION, Info, Reply, Request,
        ServiceEntry, ServiceKey,
    },
};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_generic::{
    GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_proto::{ConnectionHandle, sys::SocketAddr};
pub use netlink_talk::Raw;
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

use crate::port::sealed;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How often the services are listed at most, and the destinations of one.
const LOOKS: usize = 6;
/// So few destinations are in one datagram, which is whole.
const FEW: usize = 8;
/// How many writes are under way at once: their acknowledgements fit into any receive buffer.
const WRITES: usize = 32;
/// The length of the generic netlink header.
const HEADER: usize = 4;
const EBUSY: i32 = 16;
const ENOENT: i32 = 2;

/// IPVS over a connection of netlink-proto, as a [`Port`](crate::Port). Clones share the connection.
#[derive(Clone, Debug)]
pub struct NetlinkProto {
    connection: ConnectionHandle<Raw>,
    /// The family's number; 0 is not known.
    family: Arc<AtomicU16>,
    /// Whose turn it is to have a list made.
    list: Arc<Mutex<()>>,
    limit: Duration,
}

impl NetlinkProto {
    /// Over this connection, whose driver the caller runs. Nothing is sent yet.
    pub fn new(connection: ConnectionHandle<Raw>) -> Self {
        let (family, list) = (Arc::default(), Arc::default());
        Self { connection, family, list, limit: LIMIT }
    }

    /// How long an answer may take, before it counts as lost; 5 seconds by default.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The connection: for other families.
    pub fn connection(&self) -> &ConnectionHandle<Raw> {
        &self.connection
    }

    /// Looks the family's number up: it changes when the module is loaded again.
    async fn look_up(&self) -> Result<u16, Error> {
        let operation = "looking up the generic netlink family IPVS";
        let nlas = vec![GenlCtrlAttrs::FamilyName(FAMILY_NAME.to_owned())];
        let question = GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas };
        let message = Raw::of(&GenlMessage::from_payload(question));
        let answers = self.send(message, NLM_F_REQUEST | NLM_F_ACK, operation)?;
        let answers = match self.answers(answers, operation).await? {
            Ok(answers) => answers,
            Err(ENOENT) => {
                let text = "IPVS is not available in this kernel: the module ip_vs is not loaded";
                return Err(Error::new(ErrorKind::NotAvailable, operation, text));
            }
            Err(errno) => {
                let text = std::io::Error::from_raw_os_error(errno).to_string();
                return Err(Error::new(ErrorKind::Os, operation, &text));
            }
        };
        let number = answers.iter().find_map(|raw| family_number(&raw.bytes));
        let malformed = || Error::new(ErrorKind::Malformed, operation, "the answer has no number");
        let number = number.ok_or_else(malformed)?;
        self.family.store(number, Ordering::Relaxed);
        Ok(number)
    }

    async fn family(&self) -> Result<u16, Error> {
        match self.family.load(Ordering::Relaxed) {
            0 => self.look_up().await,
            number => Ok(number),
        }
    }

    /// Sends a message. The answers come in the stream.
    fn send(
        &self,
        message: Raw,
        flags: u16,
        operation: &str,
    ) -> Result<impl Stream<Item = NetlinkMessage<Raw>> + use<>, Error> {
        let payload = NetlinkPayload::InnerMessage(message);
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
        message.header.flags = flags;
        message.finalize();
        self.connection.request(message, SocketAddr::new(0, 0)).map_err(|_| ended(operation))
    }

    fn send_request(
        &self,
        family: u16,
        request: &Request,
    ) -> Result<impl Stream<Item = NetlinkMessage<Raw>> + use<>, Error> {
        let mut bytes = vec![request.command().0, FAMILY_VERSION, 0, 0];
        bytes.resize(HEADER + request.buffer_len(), 0);
        request.emit(&mut bytes[HEADER..]);
        self.send(Raw { message_type: family, bytes }, request.flags(), &operation(request))
    }

    /// All answers to a message, or the kernel's error number.
    async fn answers(
        &self,
        answers: impl Stream<Item = NetlinkMessage<Raw>>,
        operation: &str,
    ) -> Result<Result<Vec<Raw>, i32>, Error> {
        let mut answers = pin!(answers);
        let mut found = Vec::new();
        loop {
            let Ok(next) = timeout(self.limit, answers.next()).await else {
                let text =
                    "no answer came in time: it was dropped, or the connection is not driven";
                return Err(Error::new(ErrorKind::Overrun, operation, text));
            };
            match next.ok_or_else(|| ended(operation))?.payload {
                NetlinkPayload::InnerMessage(answer) => found.push(answer),
                NetlinkPayload::Done(_) => return Ok(Ok(found)),
                NetlinkPayload::Error(error) => {
                    return Ok(match error.code {
                        None => Ok(found),
                        Some(code) => Err(code.get().saturating_neg()),
                    });
                }
                NetlinkPayload::Overrun(_) => {
                    let text = "the kernel dropped answers; they have to be asked for again";
                    return Err(Error::new(ErrorKind::Overrun, operation, text));
                }
                _ => {}
            }
        }
    }

    /// Carries a request out.
    async fn ask(&self, request: &Request) -> Result<Vec<Reply>, Error> {
        let family = self.family().await?;
        let _turn = match request.is_dump() {
            true => Some(self.list.lock().await),
            false => None,
        };
        let operation = operation(request);
        let (mut pause, mut left) = (Duration::from_millis(1), self.limit);
        loop {
            let answers = self.send_request(family, request)?;
            return match self.answers(answers, &operation).await? {
                Ok(answers) => answers.iter().map(|raw| read(raw, &operation)).collect(),
                // Somebody else's list is under way on this connection.
                Err(EBUSY) if request.is_dump() && !left.is_zero() => {
                    sleep(pause).await;
                    left = left.saturating_sub(pause);
                    pause = (pause * 2).min(Duration::from_millis(50));
                    continue;
                }
                Err(errno) => Err(Error::answer(request, errno, None)),
            };
        }
    }

    async fn services(&self) -> Result<Vec<ServiceEntry>, Error> {
        let replies = self.ask(&Request::ListServices).await?.into_iter();
        Ok(replies
            .filter_map(|reply| match reply {
                Reply::Service(entry) => Some(entry),
                _ => None,
            })
            .collect())
    }

    /// A service's destinations, and whether nobody changed them meanwhile. A long list is looked at until
    /// two looks agree.
    async fn list(&self, key: &ServiceKey) -> Result<(Vec<DestinationEntry>, bool), Error> {
        let settings = |list: &[DestinationEntry]| -> Vec<_> {
            list.iter().map(|entry| entry.destination.clone()).collect()
        };
        let mut last = None;
        for _ in 0..LOOKS {
            let replies = self.ask(&Request::ListDestinations(*key)).await?.into_iter();
            let list: Vec<DestinationEntry> = replies
                .filter_map(|reply| match reply {
                    Reply::Destination(entry) => Some(entry),
                    _ => None,
                })
                .collect();
            let agrees = last.is_some_and(|last| last == settings(&list));
            if agrees || list.len() <= FEW {
                return Ok((list, true));
            }
            last = Some(settings(&list));
            if list.is_empty() {
                break;
            }
        }
        let replies = self.ask(&Request::ListDestinations(*key)).await?.into_iter();
        let list = replies.filter_map(|reply| match reply {
            Reply::Destination(entry) => Some(entry),
            _ => None,
        });
        Ok((list.collect(), false))
    }

    async fn existing(&self, key: &ServiceKey) -> Result<Option<ServiceEntry>, Error> {
        match sealed::Port::service(self, key).await {
            Ok(entry) => Ok(Some(entry)),
            Err(error) if error.kind() == ErrorKind::ServiceNotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl sealed::Port for NetlinkProto {
    async fn info(&self) -> Result<Info, Error> {
        let replies = self.ask(&Request::GetInfo).await?.into_iter();
        let mut found = replies.filter_map(|reply| match reply {
            Reply::Info(info, _) => Some(info),
            _ => None,
        });
        found.next().ok_or_else(|| unanswered(&Request::GetInfo))
    }

    /// The services are listed until a list brings no news. What nobody touches is missing only if every
    /// list lacks it.
    async fn snapshot(&self) -> Result<Snapshot, Error> {
        self.look_up().await?;
        let mut found: BTreeMap<ServiceKey, ServiceSnapshot> = BTreeMap::new();
        let mut uncertain = BTreeSet::new();
        for look in 0..LOOKS {
            let listed: BTreeMap<ServiceKey, ServiceEntry> = self
                .services()
                .await?
                .into_iter()
                .map(|entry| (*entry.service.key(), entry))
                .collect();
            let is_same = |entry: &ServiceEntry| {
                let known = found.get(entry.service.key());
                known.is_some_and(|known| known.entry.service == entry.service)
            };
            let missing: Vec<ServiceKey> =
                found.keys().filter(|key| !listed.contains_key(*key)).copied().collect();
            let mut news: Vec<ServiceEntry> =
                listed.into_values().filter(|entry| !is_same(entry)).collect();
            let mut gone = Vec::new();
            for key in missing {
                match self.existing(&key).await? {
                    Some(entry) if is_same(&entry) => {}
                    Some(entry) => news.push(entry),
                    None => gone.push(key),
                }
            }
            let changed: Vec<ServiceKey> =
                news.iter().map(|entry| *entry.service.key()).chain(gone.iter().copied()).collect();
            for key in gone {
                found.remove(&key);
            }
            for entry in news {
                let key = *entry.service.key();
                let (destinations, certain) = self.list(&key).await?;
                if destinations.is_empty() && self.existing(&key).await?.is_none() {
                    found.remove(&key);
                    continue;
                }
                match certain {
                    true => uncertain.remove(&key),
                    false => uncertain.insert(key),
                };
                found.insert(key, ServiceSnapshot::new(entry, destinations));
            }
            if look > 0 && changed.is_empty() {
                break;
            }
            if look == LOOKS - 1 {
                uncertain.extend(changed);
            }
        }
        let mut snapshot: Snapshot = found.into_values().collect();
        snapshot.uncertain = uncertain;
        Ok(snapshot)
    }

    async fn snapshot_of(&self, keys: &BTreeSet<ServiceKey>) -> Result<Snapshot, Error> {
        let (mut found, mut uncertain) = (Vec::with_capacity(keys.len()), BTreeSet::new());
        for key in keys {
            let Some(entry) = self.existing(key).await? else { continue };
            let (destinations, certain) = self.list(key).await?;
            if destinations.is_empty() && self.existing(key).await?.is_none() {
                continue;
            }
            if !certain {
                uncertain.insert(*key);
            }
            found.push(ServiceSnapshot::new(entry, destinations));
        }
        let mut snapshot: Snapshot = found.into_iter().collect();
        snapshot.uncertain = uncertain;
        Ok(snapshot)
    }

    async fn service(&self, key: &ServiceKey) -> Result<ServiceEntry, Error> {
        let request = Request::GetService(*key);
        let replies = self.ask(&request).await?.into_iter();
        let mut found = replies.filter_map(|reply| match reply {
            Reply::Service(entry) => Some(entry),
            _ => None,
        });
        found.next().ok_or_else(|| unanswered(&request))
    }

    async fn destinations(&self, key: &ServiceKey) -> Result<List<DestinationEntry>, Error> {
        let (list, _) = self.list(key).await?;
        if list.is_empty() {
            // For a service that does not exist the kernel lists nothing, too.
            sealed::Port::service(self, key).await?;
        }
        Ok(list.into_iter().map(Ok).collect())
    }

    async fn batch(&self, writes: &[Request]) -> Vec<Result<(), Error>> {
        let mut outcomes = Vec::with_capacity(writes.len());
        let family = match self.family().await {
            Ok(family) => family,
            Err(error) => {
                outcomes.push(Err(error));
                outcomes.extend(writes.iter().skip(1).map(not_sent));
                return outcomes;
            }
        };
        for writes in writes.chunks(WRITES) {
            let sent: Vec<_> =
                writes.iter().map(|write| self.send_request(family, write)).collect();
            for (write, answers) in writes.iter().zip(sent) {
                let outcome = match answers {
                    Ok(answers) => self.answers(answers, &operation(write)).await,
                    Err(error) => Err(error),
                };
                outcomes.push(match outcome {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(errno)) => Err(Error::answer(write, errno, None)),
                    Err(error) => Err(error),
                });
            }
        }
        outcomes
    }
}

/// The number in the controller's answer about a family.
fn family_number(bytes: &[u8]) -> Option<u16> {
    let mut rest = bytes.get(HEADER..)?;
    while let [a, b, c, d, ..] = *rest {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let attribute = rest.get(4..length)?;
        // CTRL_ATTR_FAMILY_ID
        if u16::from_ne_bytes([c, d]) == 1 {
            return Some(u16::from_ne_bytes(attribute.try_into().ok()?));
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn read(raw: &Raw, operation: &str) -> Result<Reply, Error> {
    let malformed = |text: &str| Error::new(ErrorKind::Malformed, operation, text);
    let [command, _, _, _, payload @ ..] = &*raw.bytes else {
        return Err(malformed("an answer without a header"));
    };
    Reply::parse(CommandNumber(*command), payload, None)
        .map_err(|error| malformed(&error.to_string()))
}

fn operation(request: &Request) -> String {
    // What an answer to it would be called.
    Error::answer(request, 0, None).operation().to_owned()
}

fn unanswered(request: &Request) -> Error {
    Error::new(
        ErrorKind::Malformed,
        operation(request),
        "the kernel acknowledged it without a reply",
    )
}

fn not_sent(request: &Request) -> Result<(), Error> {
    Err(Error::new(ErrorKind::NotSent, operation(request), "it was not sent"))
}

fn ended(operation: &str) -> Error {
    let text = "the netlink-proto connection has ended, or it does not forward acknowledgements and ends \
                of lists (set_forward_ack, set_forward_done)";
    Error::new(ErrorKind::NotAvailable, operation, text)
}
