//! Requests as bytes.

use ipvs_packet::{FAMILY_VERSION, Request};
use netlink_talk::start_message;

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
    let length = GENL_HEADER + request.buffer_len();
    let generic = start_message(datagram, message_type, sequence, flags, length);
    generic[0] = request.command().0;
    generic[1] = FAMILY_VERSION;
    request.emit(&mut generic[GENL_HEADER..]);
}
