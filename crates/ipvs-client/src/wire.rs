//! Netlink messages as bytes: what is sent, and what is received, unread.
//!
//! netlink-proto drops a message that its type fails to decode: the caller would wait for ever, or
//! miss an entry of a list. So payloads travel raw through it, which cannot fail, and are decoded
//! by [`Exchange`](crate::exchange::Exchange), where a failure has a caller to go to.

use std::{convert::Infallible, fmt::Debug, io};

use bytes::BytesMut;
use ipvs_packet::{FAMILY_VERSION, Request};
use netlink_packet_core::{
    Emitable, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
#[cfg(feature = "_async")]
use netlink_proto::NetlinkMessageCodec;

/// Size of `struct nlmsghdr`.
pub(crate) const NETLINK_HEADER: usize = 16;
/// `GENL_HDRLEN`: command, version, two reserved bytes.
pub(crate) const GENL_HEADER: usize = 4;

/// A netlink message's type and what follows its header, unread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Raw {
    pub(crate) message_type: u16,
    pub(crate) bytes: Vec<u8>,
}

impl Raw {
    /// A request to the family of number `message_type`.
    pub(crate) fn request(message_type: u16, request: &Request) -> Self {
        let mut bytes = vec![0; GENL_HEADER + request.buffer_len()];
        bytes[0] = request.command().0;
        bytes[1] = FAMILY_VERSION;
        request.emit(&mut bytes[GENL_HEADER..]);
        Self { message_type, bytes }
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

/// The netlink message that carries a request.
pub(crate) fn message(message_type: u16, request: &Request) -> NetlinkMessage<Raw> {
    let mut header = NetlinkHeader::default();
    header.flags = request.flags();
    let payload = NetlinkPayload::InnerMessage(Raw::request(message_type, request));
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    message
}

/// Cuts the first message off a datagram; `None` when the datagram is empty.
///
/// # Errors
///
/// What is left is no whole message. The rest of the datagram is lost.
pub(crate) fn next_message<T>(datagram: &mut BytesMut) -> io::Result<Option<NetlinkMessage<T>>>
where
    T: NetlinkDeserializable,
{
    if datagram.is_empty() {
        return Ok(None);
    }
    let broken = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let length = match NetlinkBuffer::new_checked(datagram.as_ref()) {
        Ok(buffer) => buffer.length() as usize,
        Err(error) => {
            datagram.clear();
            return Err(broken(error));
        }
    };
    let bytes = datagram.split_to(length.next_multiple_of(4).min(datagram.len()));
    NetlinkMessage::deserialize(&bytes[..length]).map(Some).map_err(broken)
}

/// netlink-proto's codec, but that nothing is dropped in silence: a datagram that is not made of
/// messages ends the connection. The kernel sends none.
#[cfg(feature = "_async")]
pub(crate) struct Codec;

#[cfg(feature = "_async")]
impl NetlinkMessageCodec for Codec {
    fn decode<T>(datagram: &mut BytesMut) -> io::Result<Option<NetlinkMessage<T>>>
    where
        T: NetlinkDeserializable + Debug,
    {
        next_message(datagram)
    }

    fn encode<T>(message: NetlinkMessage<T>, buffer: &mut BytesMut) -> io::Result<()>
    where
        T: NetlinkSerializable + Debug,
    {
        let start = buffer.len();
        buffer.resize(start + message.buffer_len(), 0);
        message.serialize(&mut buffer[start..]);
        Ok(())
    }
}
