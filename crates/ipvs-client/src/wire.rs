//! Netlink messages as bytes: what is sent, and what is received, unread.

use std::{convert::Infallible, io};

use ipvs_packet::{FAMILY_VERSION, Request};
use netlink_packet_core::{
    DecodeError, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, Parseable,
};

/// `NLMSG_MIN_TYPE`: smaller ones are netlink's own.
const NLMSG_MIN_TYPE: u16 = 16;
/// Size of `struct nlmsghdr`.
pub(crate) const NETLINK_HEADER: usize = 16;
/// `GENL_HDRLEN`: command, version, two reserved bytes.
pub(crate) const GENL_HEADER: usize = 4;

/// Appends a request to a datagram.
pub(crate) fn append(
    datagram: &mut Vec<u8>,
    message_type: u16,
    sequence: u32,
    flags: u16,
    request: &Request,
) {
    let start = datagram.len();
    let length = NETLINK_HEADER + GENL_HEADER + request.buffer_len();
    datagram.resize(start + length.next_multiple_of(4), 0);
    let message = &mut datagram[start..start + length];
    // Far below 4 GiB.
    message[0..4].copy_from_slice(&(length as u32).to_ne_bytes());
    message[4..6].copy_from_slice(&message_type.to_ne_bytes());
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    message[8..12].copy_from_slice(&sequence.to_ne_bytes());
    emit(request, &mut message[NETLINK_HEADER..]);
}

/// Writes a request and its generic netlink header.
fn emit(request: &Request, bytes: &mut [u8]) {
    bytes[0] = request.command().0;
    bytes[1] = FAMILY_VERSION;
    request.emit(&mut bytes[GENL_HEADER..]);
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
        // The kernel tells of an overrun by ENOBUFS.
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

#[cfg(feature = "_async")]
pub(crate) use for_netlink_proto::{Codec, Raw, message};

/// netlink-proto drops a message that its type fails to decode: the caller would wait for ever, or
/// miss an entry of a list. So payloads travel raw through it, which cannot fail, and are decoded
/// by [`Exchange`](crate::exchange::Exchange), where a failure has a caller to go to.
#[cfg(feature = "_async")]
mod for_netlink_proto {
    use std::fmt::Debug;

    use bytes::BytesMut;
    use netlink_packet_core::NetlinkSerializable;
    use netlink_proto::NetlinkMessageCodec;

    use super::*;

    /// A netlink message's type and what follows its header, unread.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) struct Raw {
        message_type: u16,
        bytes: Vec<u8>,
    }

    impl AsRef<[u8]> for Raw {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
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

    /// The netlink message that carries a request to the family of number `message_type`.
    pub(crate) fn message(message_type: u16, request: &Request) -> NetlinkMessage<Raw> {
        let mut bytes = vec![0; GENL_HEADER + request.buffer_len()];
        emit(request, &mut bytes);
        let mut header = NetlinkHeader::default();
        header.flags = request.flags();
        let payload = NetlinkPayload::InnerMessage(Raw { message_type, bytes });
        let mut message = NetlinkMessage::new(header, payload);
        message.finalize();
        message
    }

    /// netlink-proto's codec, but that nothing is dropped in silence: a datagram that is not made of
    /// messages ends the connection. The kernel sends none.
    pub(crate) struct Codec;

    impl NetlinkMessageCodec for Codec {
        fn decode<T>(datagram: &mut BytesMut) -> io::Result<Option<NetlinkMessage<T>>>
        where
            T: NetlinkDeserializable + Debug,
        {
            if datagram.is_empty() {
                return Ok(None);
            }
            let length = match NetlinkBuffer::new_checked(&datagram) {
                Ok(buffer) => buffer.length(),
                Err(error) => {
                    datagram.clear();
                    return Err(broken(error));
                }
            };
            let bytes = datagram.split_to(step(length, datagram));
            NetlinkMessage::deserialize(&bytes).map(Some).map_err(broken)
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
}
