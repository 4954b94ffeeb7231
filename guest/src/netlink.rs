//! The three netlink requests that find out whether a kernel has IPVS, and bring up `lo`.

use std::io;

use netlink_sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_GENERIC, NETLINK_ROUTE},
};

const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// `lo` is the first link of every network namespace.
const LOOPBACK_INDEX: i32 = 1;
const IFF_UP: u32 = 1;

/// The identifier of a generic netlink family. The kernel loads the family's module if it has one.
pub(crate) fn family_id(name: &str) -> io::Result<u16> {
    let mut payload = vec![CTRL_CMD_GETFAMILY, 1, 0, 0];
    let length = 4 + name.len() + 1;
    payload.extend((length as u16).to_ne_bytes());
    payload.extend(CTRL_ATTR_FAMILY_NAME.to_ne_bytes());
    payload.extend(name.as_bytes());
    payload.resize(GENERIC_HEADER + length.next_multiple_of(4), 0);
    let reply = request(NETLINK_GENERIC, GENL_ID_CTRL, 0, &payload)?;
    let attributes = reply.get(GENERIC_HEADER..).unwrap_or_default();
    attribute(attributes, CTRL_ATTR_FAMILY_ID)
        .and_then(|value| Some(u16::from_ne_bytes(value.get(..2)?.try_into().ok()?)))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a reply without a family id"))
}

/// Sends a generic netlink command without attributes to a family and waits for its reply.
pub(crate) fn generic(family: u16, command: u8) -> io::Result<Vec<u8>> {
    request(NETLINK_GENERIC, family, 0, &[command, 1, 0, 0])
}

/// Brings up `lo` in the current network namespace: `ip link set lo up`.
pub(crate) fn loopback_up() -> io::Result<()> {
    // struct ifinfomsg: family, padding, type, index, flags, the flags to be changed.
    let mut payload = vec![0; 4];
    payload.extend(LOOPBACK_INDEX.to_ne_bytes());
    payload.extend(IFF_UP.to_ne_bytes());
    payload.extend(IFF_UP.to_ne_bytes());
    request(NETLINK_ROUTE, RTM_NEWLINK, NLM_F_ACK, &payload).map(drop)
}

/// Sends one message and returns the payload of the first answer. The kernel handles a
/// message before `send` returns, so this never waits long.
fn request(protocol: isize, kind: u16, flags: u16, payload: &[u8]) -> io::Result<Vec<u8>> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut message = Vec::with_capacity(HEADER + payload.len());
    message.extend(((HEADER + payload.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(payload);
    socket.send(&message, 0)?;
    let (reply, _) = socket.recv_from_full()?;
    parse_reply(&reply)
}

/// The payload of a reply, or the error that it carries.
fn parse_reply(reply: &[u8]) -> io::Result<Vec<u8>> {
    let truncated = || io::Error::new(io::ErrorKind::InvalidData, "a truncated netlink message");
    let kind = reply.get(4..6).ok_or_else(truncated)?;
    let payload = reply.get(HEADER..).ok_or_else(truncated)?;
    if kind != NLMSG_ERROR.to_ne_bytes() {
        return Ok(payload.to_vec());
    }
    let code = payload.get(..4).and_then(|code| code.try_into().ok()).ok_or_else(truncated)?;
    match i32::from_ne_bytes(code) {
        0 => Ok(Vec::new()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

/// The value of the first attribute of a kind.
fn attribute(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?) as usize;
        if attributes.get(2..4)? == kind.to_ne_bytes() {
            return attributes.get(4..length);
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_and_nonsense_is_not() {
        let bytes = [&[5, 0, 2, 0, b'x', 0, 0, 0][..], &[6, 0, 1, 0, 34, 0, 0, 0]].concat();
        if cfg!(target_endian = "little") {
            assert_eq!(attribute(&bytes, 1), Some(&[34, 0][..]));
            assert_eq!(attribute(&bytes, 2), Some(&[b'x'][..]));
        }
        assert_eq!(attribute(&bytes, 3), None);
        assert_eq!(attribute(&[0, 0, 9, 0], 1), None);
        assert_eq!(attribute(&[255, 255, 1, 0], 1), None);
        assert_eq!(attribute(&[1, 0, 1, 0], 1), None);
    }

    #[test]
    fn the_errno_of_a_reply_is_found() {
        let mut reply = vec![0; HEADER];
        reply[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        assert!(parse_reply(&reply).is_err());
        reply.extend((-1i32).to_ne_bytes());
        assert_eq!(parse_reply(&reply).unwrap_err().raw_os_error(), Some(1));
        reply[HEADER..].copy_from_slice(&0i32.to_ne_bytes());
        assert!(parse_reply(&reply).unwrap().is_empty());
        assert!(parse_reply(&[]).is_err());
    }

    #[test]
    fn the_kernel_knows_its_own_family_and_not_another() {
        assert_eq!(family_id("nlctrl").unwrap(), GENL_ID_CTRL);
        let error = family_id("no such family").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
