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
pub(super) const NETLINK_HEADER: usize = 16;
/// `GENL_HDRLEN`: command, version, two reserved bytes.
pub(super) const GENL_HEADER: usize = 4;

/// Appends a request to a datagram.
pub(super) fn append(
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
    let generic = &mut message[NETLINK_HEADER..];
    generic[0] = request.command().0;
    generic[1] = FAMILY_VERSION;
    request.emit(&mut generic[GENL_HEADER..]);
}

/// Reads the first message of a datagram, of which an answer stays where it lies, unread.
pub(super) fn first(datagram: &[u8]) -> io::Result<NetlinkMessage<&[u8]>> {
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
pub(super) fn step(message_length: u32, datagram: &[u8]) -> usize {
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
