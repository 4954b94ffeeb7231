//! Announcing addresses that have moved to a link.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};
use netlink_talk::uninterrupted;
use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, bind, send, socket},
};

use crate::{
    error::{Error, ErrorKind, Operation},
    links::Link,
    netns::NetNs,
    settings::Setting,
};

const BROADCAST: [u8; 6] = [0xff; 6];
/// Of `ff02::1`, all nodes.
const ALL_NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// Flags of a neighbour advertisement.
const ROUTER: u8 = 0x80;
const OVERRIDE: u8 = 0x20;
/// The option "target link-layer address", of eight bytes.
const TARGET_ADDRESS: [u8; 2] = [2, 1];

/// Announces addresses on a link so many times: see [`Announcer`]. Waits for the interval between two
/// times, so in an async program it belongs into `spawn_blocking`, or use an [`Announcer`].
///
/// Three times with 200 ms between them are enough on most networks: the first is what counts, and the
/// others are for those that did not hear it.
///
/// # Errors
/// As [`Announcer::open`] and [`Announcer::send`].
pub fn announce(
    namespace: &NetNs,
    link: &Link,
    addresses: &[IpAddr],
    count: u32,
    interval: Duration,
) -> Result<(), Error> {
    let announcer = Announcer::open(namespace, link, addresses)?;
    for number in 0..count {
        if number > 0 {
            std::thread::sleep(interval);
        }
        announcer.send()?;
    }
    Ok(())
}

/// Tells the hosts on a link that addresses are at this host now: gratuitous ARP (an ARP request for the
/// own address, RFC 5227) for IPv4, and unsolicited neighbour advertisements (RFC 4861, with the override
/// flag) for IPv6. `arping -U`, `ndsend`.
///
/// Neighbours keep the hardware address that they have learnt for a minute or more. When a virtual IP
/// moves to another director they go on sending to the old one, unless the new one says so.
///
/// ```no_run
/// use netns_link::{Announcer, NetNs, blocking::Links};
///
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let here = NetNs::current()?;
/// let link = Links::connect(&here)?.find("eth0")?.ok_or("no eth0")?;
/// Announcer::open(&here, &link, &[[10, 0, 0, 185].into()])?.send()?;
/// # Ok(())
/// # }
/// ```
///
/// It needs CAP_NET_RAW in the user namespace of the network namespace, beside what entering one that is not
/// the caller's needs. Only opening does: an open one works when the capability was dropped. It holds
/// one file descriptor.
#[derive(Debug)]
pub struct Announcer {
    socket: OwnedFd,
    frames: Vec<(IpAddr, Vec<u8>)>,
    link: String,
}

impl Announcer {
    /// Opens a packet socket on a link.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] without CAP_NET_RAW; [`ErrorKind::NotFound`] if the link is gone;
    /// [`ErrorKind::Unsupported`] if it has no Ethernet address, as `lo`.
    pub fn open(namespace: &NetNs, link: &Link, addresses: &[IpAddr]) -> Result<Self, Error> {
        let operation = Operation::Announce { link: link.name.clone() };
        let hardware = <[u8; 6]>::try_from(&link.hardware_address[..]);
        // That of `lo` is all zeros.
        let Some(hardware) = hardware.ok().filter(|address| *address != [0; 6]) else {
            let text = "it has no Ethernet address, so nobody on it asks for one";
            return Err(Error::new(ErrorKind::Unsupported, operation, text));
        };
        // A host that routes says so in each advertisement, or others stop using it as their router.
        let routes = Setting::ipv6_forwarding(&link.name)
            .and_then(|forwarding| forwarding.read(namespace))
            .is_ok_and(|value| value == "1");
        let frame = |ip: &IpAddr| (*ip, frame(hardware, *ip, routes));
        let frames = addresses.iter().map(frame).collect();
        let socket = namespace.run(|| open_socket(link.index))?;
        let socket = socket.map_err(|error| Error::system(&operation, error))?;
        Ok(Self { socket, frames, link: link.name.clone() })
    }

    /// Announces each address once. It does not wait.
    ///
    /// # Errors
    /// Such as that the link is down. The first one; the other addresses are announced all the same.
    pub fn send(&self) -> Result<(), Error> {
        let mut result = Ok(());
        for (_, frame) in &self.frames {
            let sent =
                uninterrupted(|| Ok(send(self.socket.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT)?));
            let operation = || Operation::Announce { link: self.link.clone() };
            result = result.and(sent.map(drop).map_err(|error| Error::system(&operation(), error)));
        }
        result
    }
}

/// A packet socket that sends on a link and receives nothing.
fn open_socket(index: u32) -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    // The one safe way to a packet socket's address.
    let of_link = |address: &LinkAddr| u32::try_from(address.ifindex()) == Ok(index);
    let address = getifaddrs()?
        .filter_map(|interface| interface.address?.as_link_addr().copied())
        .find(of_link)
        .ok_or(nix::errno::Errno::ENODEV)?;
    bind(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

/// The whole Ethernet frame that announces an address.
fn frame(hardware: [u8; 6], ip: IpAddr, routes: bool) -> Vec<u8> {
    let mut frame = Vec::with_capacity(96);
    let written = match ip {
        IpAddr::V4(ip) => {
            let ip = ip.octets();
            ArpPacket::new(
                ArpHardwareId::ETHERNET,
                EtherType::IPV4,
                ArpOperation::REQUEST,
                &hardware,
                &ip,
                &[0; 6],
                &ip,
            )
            .is_ok_and(|arp| {
                PacketBuilder::ethernet2(hardware, BROADCAST).arp(arp).write(&mut frame).is_ok()
            })
        }
        IpAddr::V6(ip) => {
            let flags = OVERRIDE | if routes { ROUTER } else { 0 };
            let payload = [&ip.octets()[..], &TARGET_ADDRESS, &hardware].concat();
            let all_nodes = std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets();
            PacketBuilder::ethernet2(hardware, ALL_NODES)
                .ipv6(ip.octets(), all_nodes, 255)
                .icmpv6_raw(NEIGHBOR_ADVERTISEMENT, 0, [flags, 0, 0, 0])
                .write(&mut frame, &payload)
                .is_ok()
        }
    };
    debug_assert!(written, "a vector takes everything");
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const HARDWARE: [u8; 6] = [2, 0, 0, 0, 0, 7];

    #[test]
    fn a_gratuitous_arp_is_rfc_5227s() {
        let frame = frame(HARDWARE, [10, 0, 0, 185].into(), false);
        let mut expected = [&[0xff; 6][..], &HARDWARE, &[8, 6]].concat();
        expected.extend([0, 1, 8, 0, 6, 4, 0, 1]);
        expected.extend([&HARDWARE[..], &[10, 0, 0, 185], &[0; 6], &[10, 0, 0, 185]].concat());
        assert_eq!(frame, expected);
    }

    #[test]
    fn an_advertisement_is_rfc_4861s() {
        for (routes, flags) in [(false, 0x20), (true, 0xa0)] {
            let ip: std::net::Ipv6Addr = "fd00::185".parse().unwrap();
            let frame = frame(HARDWARE, ip.into(), routes);
            assert_eq!(frame.len(), 14 + 40 + 32);
            assert_eq!(frame[..14], [&ALL_NODES[..], &HARDWARE, &[0x86, 0xdd]].concat());
            // ICMPv6, 32 bytes, hop limit 255.
            assert_eq!((&frame[18..20], frame[20], frame[21]), (&[0, 32][..], 58, 255));
            assert_eq!(frame[22..38], ip.octets());
            assert_eq!((frame[54], frame[55], frame[58]), (136, 0, flags));
            assert_eq!(frame[62..78], ip.octets());
            assert_eq!(frame[78..], [&[2, 1][..], &HARDWARE].concat());
            // The checksum over the pseudo-header and the message makes all ones.
            let pseudo = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, 58], &frame[54..]].concat();
            let sum: u32 =
                pseudo.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1])).sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        }
    }
}
