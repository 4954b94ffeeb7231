//! rust-netlink's traits (feature `netlink-packet`).

use netlink_packet_core::{DecodeError, Emitable, ParseableParametrized};
use netlink_packet_generic::{GenlFamily, GenlHeader};

use crate::{CommandNumber, FAMILY_NAME, FAMILY_VERSION, ParseError, Reply, Request};

/// The payload of a `GenlMessage` on a netlink-proto connection, which needs one type for both
/// directions (feature `netlink-packet`).
///
/// Requests and replies can be written. Reading always gives a reply.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_enums, reason = "a message goes one way or the other")]
#[allow(clippy::large_enum_variant, reason = "see Reply")]
pub enum Message {
    /// From user space to the kernel.
    Request(Request),
    /// From the kernel to user space.
    Reply(Reply),
}

impl From<Request> for Message {
    fn from(request: Request) -> Self {
        Self::Request(request)
    }
}

impl From<Reply> for Message {
    fn from(reply: Reply) -> Self {
        Self::Reply(reply)
    }
}

impl Emitable for Message {
    fn buffer_len(&self) -> usize {
        match self {
            Self::Request(request) => request.buffer_len(),
            Self::Reply(reply) => reply.buffer_len(),
        }
    }

    fn emit(&self, buffer: &mut [u8]) {
        match self {
            Self::Request(request) => request.emit(buffer),
            Self::Reply(reply) => reply.emit(buffer),
        }
    }
}

impl GenlFamily for Message {
    fn family_name() -> &'static str {
        FAMILY_NAME
    }

    fn command(&self) -> u8 {
        match self {
            Self::Request(request) => request.command().0,
            Self::Reply(reply) => reply.command().0,
        }
    }

    fn version(&self) -> u8 {
        FAMILY_VERSION
    }
}

/// Reads a reply. The family of its service, needed for kernels before 3.18, is not
/// known.
impl ParseableParametrized<[u8], GenlHeader> for Message {
    fn parse_with_param(payload: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        Ok(Reply::parse(CommandNumber(header.cmd), payload, None)?.into())
    }
}

impl From<ParseError> for DecodeError {
    fn from(error: ParseError) -> Self {
        Self::from(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
    use netlink_packet_generic::GenlMessage;

    use super::*;
    use crate::{Service, ServiceEntry};

    fn bytes(message: Message) -> Vec<u8> {
        let mut message = GenlMessage::from_payload(message);
        message.set_resolved_family_id(0x17);
        assert_eq!(message.message_type(), 0x17);
        let mut bytes = vec![0; NetlinkSerializable::buffer_len(&message)];
        message.serialize(&mut bytes);
        bytes
    }

    #[test]
    fn requests_are_sent() {
        let request = Request::DeleteService("-t 10.0.0.185:80".parse().unwrap());
        let bytes = bytes(request.clone().into());
        assert_eq!(bytes[..4], [CommandNumber::DEL_SERVICE.0, FAMILY_VERSION, 0, 0]);
        assert_eq!(bytes[4..], request.to_bytes());
    }

    #[test]
    fn replies_are_received() {
        let service = Service::new("-t 10.0.0.185:80".parse().unwrap());
        let reply = Reply::Service(ServiceEntry::new(service));
        let bytes = bytes(reply.clone().into());
        let header = NetlinkHeader::default();
        let read = GenlMessage::<Message>::deserialize(&header, &bytes).unwrap();
        assert_eq!(read.payload, Message::Reply(reply));

        let cut = &bytes[..bytes.len() - 1];
        let error = GenlMessage::<Message>::deserialize(&header, cut).unwrap_err();
        assert!(error.to_string().contains("IPVS message NEW_SERVICE"), "{error}");
    }
}
