//! The number that the kernel gave to the family IPVS, which is another one each time that ip_vs is
//! loaded.

use ipvs_packet::{CommandNumber, FAMILY_NAME, Reply, Request};
use netlink_packet_core::NlasIterator;

use crate::Error;

/// `GENL_ID_CTRL`: the family that knows the others' numbers.
pub(super) const CONTROL_FAMILY: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

const LOOKING_UP: &str = "looking up the generic netlink family IPVS";

/// Asks the controller for the number. The kernel loads ip_vs for it if it can.
pub(super) fn request() -> Request {
    let name = FAMILY_NAME.as_bytes();
    // The name ends with a NUL.
    let length = (4 + name.len() + 1) as u16;
    let mut payload = Vec::new();
    payload.extend_from_slice(&length.to_ne_bytes());
    payload.extend_from_slice(&CTRL_ATTR_FAMILY_NAME.to_ne_bytes());
    payload.extend_from_slice(name);
    payload.resize(usize::from(length).next_multiple_of(4), 0);
    Request::Other { command: CommandNumber(CTRL_CMD_GETFAMILY), payload }
}

/// The number in the controller's answer.
pub(super) fn number(replies: Result<Vec<Reply>, Error>) -> Result<u16, Error> {
    let replies = replies.map_err(|error| error.doing(LOOKING_UP))?;
    let payload = replies.iter().find_map(|reply| match reply {
        Reply::Other { payload, .. } => Some(payload),
        _ => None,
    });
    payload
        .and_then(|payload| {
            NlasIterator::new(payload.as_slice())
                .flatten()
                .find(|attribute| attribute.kind() == CTRL_ATTR_FAMILY_ID)
                .and_then(|attribute| attribute.value().try_into().ok().map(u16::from_ne_bytes))
        })
        // 0 would send every request to netlink itself, which acknowledges it and does nothing.
        .filter(|&number| number != 0)
        .ok_or_else(|| Error::malformed(LOOKING_UP, "the kernel's answer names no number"))
}
