//! rust-netlink's traits (feature `netlink-packet`), by which a message goes into a `GenlMessage` and
//! over netlink-proto.

use netlink_packet_core::{DecodeError, Emitable, ParseableParametrized};
use netlink_packet_generic::{GenlFamily, GenlHeader};

use crate::{Command, FAMILY_NAME, FAMILY_VERSION, ParseError, Reply, Request};

macro_rules! traits {
    ($($message:ident),*) => {$(
        impl Emitable for $message {
            fn buffer_len(&self) -> usize {
                Self::buffer_len(self)
            }

            fn emit(&self, buffer: &mut [u8]) {
                Self::emit(self, buffer);
            }
        }

        impl GenlFamily for $message {
            fn family_name() -> &'static str {
                FAMILY_NAME
            }

            fn command(&self) -> u8 {
                Self::command(self).0
            }

            fn version(&self) -> u8 {
                FAMILY_VERSION
            }
        }
    )*};
}

traits!(Request, Reply);

impl ParseableParametrized<[u8], GenlHeader> for Request {
    fn parse_with_param(payload: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        Ok(Self::parse(Command(header.cmd), payload)?)
    }
}

/// Without the family of a service, which kernels from 3.18 on do not need.
impl ParseableParametrized<[u8], GenlHeader> for Reply {
    fn parse_with_param(payload: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        Ok(Self::parse(Command(header.cmd), payload, None)?)
    }
}

impl From<ParseError> for DecodeError {
    fn from(error: ParseError) -> Self {
        Self::from(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{
        NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, ParseableParametrized,
    };
    use netlink_packet_generic::GenlMessage;

    use super::*;

    #[test]
    fn a_genl_message_carries_both_kinds() {
        let request = Request::DeleteService("-t 10.0.0.185:80".parse().unwrap());
        let mut message = GenlMessage::from_payload(request.clone());
        message.set_resolved_family_id(0x17);
        let mut bytes = vec![0; NetlinkSerializable::buffer_len(&message)];
        message.serialize(&mut bytes);
        assert_eq!(bytes[..4], [Command::DEL_SERVICE.0, FAMILY_VERSION, 0, 0]);
        assert_eq!(bytes[4..], request.to_bytes());

        let mut header = NetlinkHeader::default();
        header.message_type = 0x17;
        let read = GenlMessage::<Request>::deserialize(&header, &bytes).unwrap();
        assert_eq!(read.payload, request);

        let cut = &bytes[..bytes.len() - 1];
        let error = GenlMessage::<Request>::deserialize(&header, cut).unwrap_err();
        assert!(error.to_string().contains("IPVS message DEL_SERVICE"), "{error}");

        let header = GenlHeader { cmd: Command::SET_CONFIG.0, version: FAMILY_VERSION };
        let reply = Reply::parse_with_param(&[], header).unwrap();
        assert_eq!(reply.command(), Command::SET_CONFIG);
    }
}
