//! Route netlink requests, each of which ends: with its answer, or with an error.

use std::{convert::Infallible, fmt, io, sync::Arc};

use futures_util::{Stream, StreamExt, future};
use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REQUEST,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_proto::{
    ConnectionHandle,
    sys::{AsyncSocket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};
use tokio::{runtime::Handle, sync::Mutex, task::AbortHandle};

use crate::{error::Error, netns::NetNs};

/// How often a listing is tried that changes disturb.
const DUMP_ATTEMPTS: u32 = 10;

/// Messages to a datagram. Each answer takes some 800 bytes of the socket's receive buffer of
/// 208 KiB before it is read, so that all fit.
const BATCH: usize = 128;

/// `sizeof(struct nlmsghdr)`: a refusal repeats the header of its request.
const REQUEST_HEADER_LEN: usize = 16;

/// include/uapi/linux/netlink.h.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A route netlink socket made in a namespace. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Netlink {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    requests: ConnectionHandle<Raw>,
    runtime: Handle,
    driver: AbortHandle,
    dumping: Mutex<()>,
}

impl Netlink {
    pub(crate) fn connect(namespace: &NetNs) -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|error| {
            Error::refused("connect netlink in", namespace, io::Error::other(error))
        })?;
        let socket = namespace
            .run(|| {
                let _runtime = runtime.enter();
                let socket = TokioSocket::new(NETLINK_ROUTE)?;
                // Errors without a copy of the request, and with the kernel's words.
                socket.socket_ref().set_cap_ack(true)?;
                socket.socket_ref().set_ext_ack(true)?;
                Ok(socket)
            })?
            .map_err(|error: io::Error| Error::refused("connect netlink in", namespace, error))?;
        let (mut connection, requests, mut unsolicited) =
            netlink_proto::from_socket_with_codec::<Raw, _, netlink_proto::NetlinkCodec>(socket);
        // So that an answer that came to its end is told from a connection that did.
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        let driver = runtime.spawn(async move {
            // The only unsolicited message of a socket without groups says that answers were
            // lost. Which ones is not known: all that wait are told by the connection's end.
            future::select(&mut connection, unsolicited.next()).await;
        });
        let (driver, dumping) = (driver.abort_handle(), Mutex::default());
        Ok(Self { shared: Arc::new(Shared { requests, runtime, driver, dumping }) })
    }

    /// Asks for one object.
    pub(crate) async fn get(
        &self,
        step: &'static str,
        object: &str,
        request: RouteNetlinkMessage,
    ) -> Result<RouteNetlinkMessage, Error> {
        let mut answers = self.shared.send(step, vec![(request, NLM_F_REQUEST)])?;
        let Some(message) = answers.next().await else { return Err(Error::Disconnected { step }) };
        match message.payload {
            NetlinkPayload::InnerMessage(raw) => raw.decode(step, &message.header),
            NetlinkPayload::Error(error) => Err(refusal(step, object, &error)),
            other => {
                Err(Error::Decode { step, reason: format!("message {}", other.message_type()) })
            }
        }
    }

    /// Asks for all objects of a kind; again, if a change in the middle disturbed the listing.
    pub(crate) async fn dump(
        &self,
        step: &'static str,
        request: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        for _ in 0..DUMP_ATTEMPTS {
            let shared = Arc::clone(&self.shared);
            let request = request.clone();
            // On a task of its own, so that a caller who no longer waits does not leave a listing
            // half read: the socket has one at a time, and answers EBUSY to the next.
            let listing =
                self.shared.runtime.spawn(async move { shared.dump_once(step, request).await });
            if let Some(objects) = listing.await.map_err(|_| Error::Disconnected { step })?? {
                return Ok(objects);
            }
        }
        Err(Error::Interrupted { step, attempts: DUMP_ATTEMPTS })
    }

    /// Makes one change.
    pub(crate) async fn change(
        &self,
        step: &'static str,
        object: &str,
        request: RouteNetlinkMessage,
    ) -> Result<(), Error> {
        let change = Change { step, object: object.to_owned(), request };
        self.changes(vec![change]).await.into_iter().collect()
    }

    /// Makes changes in this order, many to a datagram, each whether or not those before it were
    /// refused. The results are in the same order.
    pub(crate) async fn changes(&self, changes: Vec<Change>) -> Vec<Result<(), Error>> {
        let mut results = Vec::with_capacity(changes.len());
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            let (described, requests): (Vec<_>, Vec<_>) = changes
                .by_ref()
                .take(BATCH)
                .map(|change| {
                    let flags = change.flags();
                    ((change.step, change.object), (change.request, flags))
                })
                .unzip();
            let mut answers = self.shared.send("send changes", requests).ok();
            for (step, object) in described {
                let answer = match &mut answers {
                    Some(answers) => answers.next().await.map(|message| message.payload),
                    None => None,
                };
                results.push(match answer {
                    Some(NetlinkPayload::Error(error)) if error.code.is_none() => Ok(()),
                    Some(NetlinkPayload::Error(error)) => Err(refusal(step, object, &error)),
                    Some(_) | None => Err(Error::Disconnected { step }),
                });
            }
        }
        results
    }
}

impl Shared {
    fn send(
        &self,
        step: &'static str,
        requests: Vec<(RouteNetlinkMessage, u16)>,
    ) -> Result<impl Stream<Item = NetlinkMessage<Raw>> + use<>, Error> {
        let messages: Vec<_> = requests
            .into_iter()
            .map(|(request, flags)| {
                let mut header = NetlinkHeader::default();
                header.flags = flags;
                NetlinkMessage::new(header, NetlinkPayload::InnerMessage(Raw::from(&request)))
            })
            .collect();
        self.requests
            .request_batch(messages, SocketAddr::new(0, 0))
            .map_err(|_| Error::Disconnected { step })
    }

    /// `None`: a change in the middle disturbed it.
    async fn dump_once(
        &self,
        step: &'static str,
        request: RouteNetlinkMessage,
    ) -> Result<Option<Vec<RouteNetlinkMessage>>, Error> {
        let _one_at_a_time = self.dumping.lock().await;
        let mut answers = self.send(step, vec![(request, NLM_F_REQUEST | NLM_F_DUMP)])?;
        let mut objects = Ok(Vec::new());
        let mut disturbed = false;
        while let Some(message) = answers.next().await {
            disturbed |= message.header.flags & NLM_F_DUMP_INTR != 0;
            match message.payload {
                NetlinkPayload::InnerMessage(raw) => {
                    // Read to the end also after an answer that could not be understood.
                    objects = objects.and_then(|mut objects: Vec<_>| {
                        objects.push(raw.decode(step, &message.header)?);
                        Ok(objects)
                    });
                }
                NetlinkPayload::Done(done) if done.code < 0 => {
                    let errno = io::Error::from_raw_os_error(done.code.saturating_neg());
                    return Err(Error::refused(step, "", errno));
                }
                NetlinkPayload::Done(_) if disturbed => return Ok(None),
                NetlinkPayload::Done(_) => return objects.map(Some),
                NetlinkPayload::Error(error) => return Err(refusal(step, "", &error)),
                other => {
                    let reason = format!("message {}", other.message_type());
                    objects = Err(Error::Decode { step, reason });
                }
            }
        }
        Err(Error::Disconnected { step })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// One change and the words for its failure.
pub(crate) struct Change {
    pub(crate) step: &'static str,
    pub(crate) object: String,
    pub(crate) request: RouteNetlinkMessage,
}

impl Change {
    fn flags(&self) -> u16 {
        let makes = matches!(
            self.request,
            RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::NewAddress(_)
        );
        // Not on deletions: there the bit of NLM_F_EXCL means NLM_F_BULK.
        NLM_F_REQUEST | NLM_F_ACK | if makes { NLM_F_CREATE | NLM_F_EXCL } else { 0 }
    }
}

/// A message as bytes. netlink-proto drops an answer that its type cannot parse, and who asked
/// would wait for ever; these always parse, and are decoded where a failure can be reported.
#[derive(Debug)]
struct Raw {
    message_type: u16,
    bytes: Vec<u8>,
}

impl Raw {
    fn decode(
        &self,
        step: &'static str,
        header: &NetlinkHeader,
    ) -> Result<RouteNetlinkMessage, Error> {
        RouteNetlinkMessage::deserialize(header, &self.bytes)
            .map_err(|error| Error::Decode { step, reason: error.to_string() })
    }
}

impl From<&RouteNetlinkMessage> for Raw {
    fn from(message: &RouteNetlinkMessage) -> Self {
        let mut bytes = vec![0; NetlinkSerializable::buffer_len(message)];
        message.serialize(&mut bytes);
        Self { message_type: NetlinkSerializable::message_type(message), bytes }
    }
}

impl NetlinkSerializable for Raw {
    fn message_type(&self) -> u16 {
        self.message_type
    }

    fn buffer_len(&self) -> usize {
        self.bytes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.bytes);
    }
}

impl NetlinkDeserializable for Raw {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self { message_type: header.message_type, bytes: payload.to_vec() })
    }
}

/// The kernel's no: errno, and its own words behind the header of the refused request.
fn refusal(step: &'static str, object: impl fmt::Display, error: &ErrorMessage) -> Error {
    let attributes = error.header.get(REQUEST_HEADER_LEN..).unwrap_or_default();
    let reason = NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
        .map(|attribute| {
            String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned()
        });
    Error::Refused { step, object: object.to_string(), source: error.to_io(), reason }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroI32;

    use netlink_packet_core::{ErrorBuffer, Parseable};

    use super::*;

    /// An answer as the kernel gives it with NETLINK_CAP_ACK and NETLINK_EXT_ACK.
    fn error_message(tail: &[u8]) -> ErrorMessage {
        let bytes = [&(-22_i32).to_ne_bytes(), tail].concat();
        ErrorMessage::parse(&ErrorBuffer::new_checked(&bytes).unwrap()).unwrap()
    }

    #[test]
    fn the_kernel_s_words_are_kept() {
        let mut tail = vec![0; REQUEST_HEADER_LEN];
        tail.extend_from_slice(&8_u16.to_ne_bytes());
        tail.extend_from_slice(&NLMSGERR_ATTR_MSG.to_ne_bytes());
        tail.extend_from_slice(b"why\0");
        let error = error_message(&tail);
        assert_eq!(error.code, NonZeroI32::new(-22));
        let text = refusal("add address", "10.0.0.1/33", &error).to_string();
        assert_eq!(text, "add address 10.0.0.1/33: Invalid argument (os error 22) (why)");
    }

    #[test]
    fn a_short_answer_is_an_error_without_words() {
        for length in 0..REQUEST_HEADER_LEN + 4 {
            let error = refusal("step", "object", &error_message(&vec![1; length]));
            assert_eq!(error.kind(), crate::ErrorKind::InvalidInput);
        }
    }
}
