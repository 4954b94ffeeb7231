//! Route netlink requests, each of which ends: with its answer, or with an error.

use std::{convert::Infallible, fmt, io, sync::Arc};

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::Socket;

#[cfg(feature = "tokio")]
use crate::driven::Driven;
use crate::{direct::Direct, error::Error, operation::Operation};

/// How often a listing is tried that changes disturb.
const DUMP_ATTEMPTS: u32 = 10;

/// Messages to a datagram. Each answer takes some 800 bytes of the socket's receive buffer of
/// 208 KiB before it is read, so that all fit.
const BATCH: usize = 128;

/// `sizeof(struct nlmsghdr)`: a refusal repeats the header of its request.
const REQUEST_HEADER_LEN: usize = 16;

/// include/uapi/linux/netlink.h.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A route netlink socket of a namespace. Clones share it.
#[derive(Clone, Debug)]
pub(crate) enum Netlink {
    /// For async programs.
    #[cfg(feature = "tokio")]
    Driven(Arc<Driven>),
    /// For blocking ones: no future over it is ever pending.
    Direct(Arc<Direct>),
    #[cfg(test)]
    Scripted(Arc<std::sync::Mutex<crate::faults::Script>>),
}

impl Netlink {
    /// Asks for one object.
    pub(crate) async fn get(
        &self,
        operation: &Operation,
        request: RouteNetlinkMessage,
    ) -> Result<RouteNetlinkMessage, Error> {
        let Answers { messages, broken } = self.exchange(vec![(request, NLM_F_REQUEST)]).await;
        let Some(message) = messages.into_iter().next() else {
            return Err(Error::disconnected(operation, broken));
        };
        match message.payload {
            NetlinkPayload::InnerMessage(raw) => raw.decode(operation, &message.header),
            NetlinkPayload::Error(error) => Err(refusal(operation, &error)),
            other => Err(unexpected(operation, &other)),
        }
    }

    /// Asks for all objects of a kind; again, if a change in the middle disturbed the listing.
    pub(crate) async fn dump(
        &self,
        operation: &Operation,
        request: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        for _ in 0..DUMP_ATTEMPTS {
            let requests = vec![(request.clone(), NLM_F_REQUEST | NLM_F_DUMP)];
            if let Some(objects) = listed(operation, self.exchange(requests).await)? {
                return Ok(objects);
            }
        }
        Err(Error::interrupted(operation, DUMP_ATTEMPTS))
    }

    /// Makes one change.
    pub(crate) async fn change(&self, change: Change) -> Result<(), Error> {
        self.changes(vec![change]).await.into_iter().collect()
    }

    /// Makes changes in this order, many to a datagram, each whether or not those before it were
    /// refused. The results are in the same order.
    pub(crate) async fn changes(&self, changes: Vec<Change>) -> Vec<Result<(), Error>> {
        let mut results = Vec::with_capacity(changes.len());
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            let (operations, requests): (Vec<_>, Vec<_>) = changes
                .by_ref()
                .take(BATCH)
                .map(|change| {
                    let flags = NLM_F_REQUEST | NLM_F_ACK | change.flags;
                    (change.operation, (change.request, flags))
                })
                .unzip();
            let Answers { messages, mut broken } = self.exchange(requests).await;
            let mut answers = messages.into_iter().map(|message| message.payload);
            for operation in &operations {
                results.push(match answers.next() {
                    Some(NetlinkPayload::Error(error)) if error.code.is_none() => Ok(()),
                    Some(NetlinkPayload::Error(error)) => Err(refusal(operation, &error)),
                    Some(other) => Err(unexpected(operation, &other)),
                    None => Err(Error::disconnected(operation, broken.take())),
                });
            }
        }
        results
    }

    /// Sends requests in one datagram and takes in their answers.
    async fn exchange(&self, requests: Vec<(RouteNetlinkMessage, u16)>) -> Answers {
        let requests: Vec<_> = requests
            .into_iter()
            .map(|(request, flags)| {
                let mut header = NetlinkHeader::default();
                header.flags = flags;
                NetlinkMessage::new(header, NetlinkPayload::InnerMessage(Raw::from(&request)))
            })
            .collect();
        match self {
            #[cfg(feature = "tokio")]
            Self::Driven(driven) => driven.exchange(requests).await,
            Self::Direct(direct) => direct.exchange(requests),
            #[cfg(test)]
            Self::Scripted(script) => {
                let script = script.lock();
                script.map(|mut script| script.exchange(&requests)).unwrap_or_default()
            }
        }
    }
}

/// The answers to the requests of a datagram: all of them, to the last of each, unless the talk
/// broke off.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) messages: Vec<NetlinkMessage<Raw>>,
    /// Why answers are missing at the end, where that is known.
    pub(crate) broken: Option<io::Error>,
}

/// One change and the words for its failure.
pub(crate) struct Change {
    pub(crate) operation: Operation,
    pub(crate) request: RouteNetlinkMessage,
    /// Those that say what of is there and is not.
    pub(crate) flags: u16,
}

/// A message as bytes. netlink-proto drops an answer that its type cannot parse, and who asked
/// would wait for ever; these always parse, and are decoded where a failure can be reported.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    message_type: u16,
    bytes: Vec<u8>,
}

impl Raw {
    #[cfg(test)]
    pub(crate) fn new(message_type: u16, bytes: Vec<u8>) -> Self {
        Self { message_type, bytes }
    }

    fn decode(
        &self,
        operation: &Operation,
        header: &NetlinkHeader,
    ) -> Result<RouteNetlinkMessage, Error> {
        RouteNetlinkMessage::deserialize(header, &self.bytes)
            .map_err(|error| Error::malformed(operation, error))
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

/// Sets what every socket of this crate has.
pub(crate) fn prepare(socket: &Socket) -> io::Result<()> {
    // Errors without a copy of the request, and with the kernel's words.
    socket.set_cap_ack(true)?;
    socket.set_ext_ack(true)?;
    // Lists of what was asked for alone. Kernels before 4.20 do not know it and list all, which is
    // sifted here in any case.
    let _ = socket.set_netlink_get_strict_chk(true);
    Ok(())
}

/// What an answered listing holds. `None`: a change in the middle disturbed it.
fn listed(
    operation: &Operation,
    Answers { messages, broken }: Answers,
) -> Result<Option<Vec<RouteNetlinkMessage>>, Error> {
    let mut objects = Vec::with_capacity(messages.len());
    let mut disturbed = false;
    for message in messages {
        disturbed |= message.header.flags & NLM_F_DUMP_INTR != 0;
        match message.payload {
            NetlinkPayload::InnerMessage(raw) => {
                objects.push(raw.decode(operation, &message.header)?);
            }
            NetlinkPayload::Done(done) if done.code < 0 => {
                let errno = io::Error::from_raw_os_error(done.code.saturating_neg());
                return Err(Error::system(operation, errno));
            }
            NetlinkPayload::Done(_) => return Ok((!disturbed).then_some(objects)),
            NetlinkPayload::Error(error) => return Err(refusal(operation, &error)),
            other => return Err(unexpected(operation, &other)),
        }
    }
    Err(Error::disconnected(operation, broken))
}

fn unexpected(operation: &Operation, payload: &NetlinkPayload<Raw>) -> Error {
    let number = payload.message_type();
    Error::malformed(operation, format_args!("it holds a message of type {number}"))
}

/// The kernel's no: the error number, and its own words behind the header of the refused request.
fn refusal(operation: &Operation, error: &ErrorMessage) -> Error {
    let attributes = error.header.get(REQUEST_HEADER_LEN..).unwrap_or_default();
    let words = NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
        .map(|attribute| {
            String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned()
        });
    Error::kernel(operation, error.to_io(), words)
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.operation.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroI32;

    use netlink_packet_core::{ErrorBuffer, Parseable};

    use super::*;
    use crate::ErrorKind;

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
        let operation = Operation::SetLink {
            link: "ipvs0".to_owned(),
            change: crate::operation::LinkChange::Mtu(1),
        };
        let error = refusal(&operation, &error);
        assert_eq!(error.kernel_message(), Some("why"));
        assert_eq!(
            error.to_string(),
            "setting the MTU of link ipvs0 to 1 bytes: Invalid argument (EINVAL, errno 22); the \
             kernel says: why"
        );
    }

    #[test]
    fn a_short_answer_is_an_error_without_words() {
        for length in 0..REQUEST_HEADER_LEN + 4 {
            let error = refusal(&Operation::ListLinks, &error_message(&vec![1; length]));
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
    }
}
