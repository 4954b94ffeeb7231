//! Messages as bytes: requests to send, and received messages, not parsed.

use std::{convert::Infallible, io};

use netlink_packet_core::{
    DecodeError, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, Parseable,
};

/// `NLMSG_MIN_TYPE`: smaller ones are netlink's own.
const NLMSG_MIN_TYPE: u16 = 16;
/// Size of `struct nlmsghdr`.
pub const NETLINK_HEADER: usize = 16;

/// Appends a message with room for its payload to a datagram, and returns the room.
pub fn start_message(
    datagram: &mut Vec<u8>,
    message_type: u16,
    sequence: u32,
    flags: u16,
    payload_len: usize,
) -> &mut [u8] {
    let start = datagram.len();
    let length = NETLINK_HEADER + payload_len;
    datagram.resize(start + length.next_multiple_of(4), 0);
    let message = &mut datagram[start..start + length];
    // No request is near 4 GiB.
    message[0..4].copy_from_slice(&(length as u32).to_ne_bytes());
    message[4..6].copy_from_slice(&message_type.to_ne_bytes());
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    message[8..12].copy_from_slice(&sequence.to_ne_bytes());
    &mut message[NETLINK_HEADER..]
}

/// Reads the first message of a datagram, of which an answer stays where it lies, unread.
pub(crate) fn first(datagram: &[u8]) -> io::Result<NetlinkMessage<&[u8]>> {
    let buffer = NetlinkBuffer::new_checked(&datagram).map_err(broken)?;
    let header = NetlinkHeader::parse(&buffer).map_err(broken)?;
    if header.message_type >= NLMSG_MIN_TYPE {
        let answer = &datagram[NETLINK_HEADER..header.length as usize];
        return Ok(NetlinkMessage::new(header, NetlinkPayload::InnerMessage(answer)));
    }
    let message = NetlinkMessage::<Unread>::parse(&buffer).map_err(broken)?;
    let payload = match message.payload {
        NetlinkPayload::Error(error) => NetlinkPayload::Error(error),
        NetlinkPayload::Done(done) => NetlinkPayload::Done(done),
        // The kernel reports an overrun by ENOBUFS.
        _ => NetlinkPayload::Noop,
    };
    Ok(NetlinkMessage::new(header, payload))
}

/// What a message takes of its datagram.
pub(crate) fn step(message_length: u32, datagram: &[u8]) -> usize {
    (message_length as usize).next_multiple_of(4).min(datagram.len())
}

fn broken(error: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// An answer left where it lies.
struct Unread;

impl NetlinkDeserializable for Unread {
    type Error = Infallible;

    fn deserialize(_: &NetlinkHeader, _: &[u8]) -> Result<Self, Infallible> {
        Ok(Self)
    }
}

/// A message as bytes, which always parses: a driver such as netlink-proto drops an answer that its type
/// cannot parse, and the caller would wait for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "all that a message is")]
pub struct Raw {
    /// `nlmsg_type`.
    pub message_type: u16,
    /// What follows the netlink header.
    pub bytes: Vec<u8>,
}

impl Raw {
    /// A request as bytes.
    pub fn of(message: &impl NetlinkSerializable) -> Self {
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        Self { message_type: message.message_type(), bytes }
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
