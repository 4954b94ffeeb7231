//! nfnetlink, as far as the proxy speaks it itself: whether nftables are there and who has changed
//! them, and the entries of connection tracking that outlive a UDP endpoint.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Tuple},
    nftables::{GenAttribute, GenMessage, NfTablesMessage},
};
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use netns_link::NetNs;

/// The kernel fills at most half of it.
const BUFFER: usize = 1 << 16;

/// A socket of one network namespace. Calls do not wait: the kernel answers within the system call
/// that asks.
#[derive(Debug)]
pub(super) struct Nfnetlink {
    socket: Socket,
    sequence: u32,
}

/// An entry of connection tracking, as far as it matters.
struct Flow {
    protocol: Option<Protocol>,
    source: Option<SocketAddr>,
    destination: Option<SocketAddr>,
}

impl Nfnetlink {
    pub(super) fn open(namespace: &NetNs) -> io::Result<Self> {
        let open = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        let socket: io::Result<_> = namespace.run(open).map_err(io::Error::from)?;
        Ok(Self { socket: socket?, sequence: 0 })
    }

    /// The number of the rules' last change in this namespace, whoever made it.
    pub(super) fn generation(&mut self) -> io::Result<u32> {
        let message = NfTablesMessage::GetGen(GenMessage { attributes: Vec::new() });
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
        let mut generation = None;
        self.ask(NLM_F_ACK, NetfilterMessage::new(header, message), |answer| {
            if let NetfilterMessageInner::NfTables(NfTablesMessage::NewGen(found)) = answer {
                generation = found.attributes.iter().find_map(|attribute| match attribute {
                    GenAttribute::Id(id) => Some(*id),
                    _ => None,
                });
            }
        })?;
        generation.ok_or_else(|| io::Error::other("the kernel names no generation of the rules"))
    }

    /// Deletes the UDP entries of one family of which the original destination and the source of the
    /// answers are so. Returns how many there were.
    pub(super) fn forget_udp(
        &mut self,
        ipv4: bool,
        is_stale: impl Fn(SocketAddr, SocketAddr) -> bool,
    ) -> io::Result<usize> {
        let family = if ipv4 { NetfilterProtoFamily::IPv4 } else { NetfilterProtoFamily::IPv6 };
        let message =
            |conntrack| NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), conntrack);
        let mut stale = Vec::new();
        self.ask(NLM_F_DUMP, message(ConntrackMessage::Get(Vec::new())), |answer| {
            let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = answer else {
                return;
            };
            let (mut destination, mut source, mut original) = (None, None, None);
            for attribute in attributes {
                match &attribute {
                    ConntrackAttribute::CtaTupleOrig(tuples) => {
                        let flow = Flow::new(tuples);
                        if flow.protocol != Some(Protocol::Udp) {
                            return;
                        }
                        destination = flow.destination;
                        original = Some(attribute);
                    }
                    ConntrackAttribute::CtaTupleReply(tuples) => source = Flow::new(tuples).source,
                    _ => {}
                }
            }
            if let (Some(destination), Some(source), Some(original)) =
                (destination, source, original)
                && is_stale(destination, source)
            {
                stale.push(original);
            }
        })?;
        let mut count = 0;
        for original in stale {
            match self.ask(NLM_F_ACK, message(ConntrackMessage::Delete(vec![original])), drop) {
                Ok(()) => count += 1,
                // It has expired meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }

    fn ask(
        &mut self,
        flags: u16,
        message: NetfilterMessage,
        mut each: impl FnMut(NetfilterMessageInner),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut buffer = vec![0; request.buffer_len()];
        request.serialize(&mut buffer);
        self.socket.send(&buffer, 0)?;

        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            buffer.clear();
            self.socket.recv(&mut buffer, 0)?;
            let mut rest = &buffer[..];
            while !rest.is_empty() {
                let answer =
                    NetlinkMessage::<NetfilterMessage>::deserialize(rest).map_err(|error| {
                        io::Error::new(io::ErrorKind::InvalidData, error.to_string())
                    })?;
                // Messages are aligned to four bytes.
                let length = usize::try_from(answer.header.length).ok();
                let length = length.and_then(|length| length.checked_next_multiple_of(4));
                rest = length.and_then(|length| rest.get(length.max(4)..)).unwrap_or_default();
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => {
                        return if error.code.is_none() { Ok(()) } else { Err(error.to_io()) };
                    }
                    NetlinkPayload::InnerMessage(message) => each(message.inner),
                    _ => {}
                }
            }
        }
    }
}

impl Flow {
    fn new(tuples: &[Tuple]) -> Self {
        let (mut protocol, mut addresses, mut ports) = (None, (None, None), (None, None));
        for tuple in tuples {
            match tuple {
                Tuple::Ip(parts) => {
                    for part in parts {
                        match part {
                            IPTuple::SourceAddress(address) => addresses.0 = Some(*address),
                            IPTuple::DestinationAddress(address) => addresses.1 = Some(*address),
                            _ => {}
                        }
                    }
                }
                Tuple::Proto(parts) => {
                    for part in parts {
                        match part {
                            ProtoTuple::Protocol(found) => protocol = Some(*found),
                            ProtoTuple::SourcePort(port) => ports.0 = Some(*port),
                            ProtoTuple::DestinationPort(port) => ports.1 = Some(*port),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        let place =
            |address: Option<IpAddr>, port: Option<u16>| Some(SocketAddr::new(address?, port?));
        Self {
            protocol,
            source: place(addresses.0, ports.0),
            destination: place(addresses.1, ports.1),
        }
    }
}
