use std::io;

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP_INTR, NetlinkMessage, NetlinkPayload,
    NlasIterator,
};

use crate::message::{NETLINK_HEADER, Raw};

/// `NLMSGERR_ATTR_MSG`: the kernel's words for an error.
const EXTENDED_MESSAGE: u16 = 1;

/// The answers to the requests of a datagram: all of them, to the last of each, unless the exchange
/// failed.
#[derive(Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "made by tests, too")]
pub struct Answers {
    /// In the order of their arrival.
    pub messages: Vec<NetlinkMessage<Raw>>,
    /// Why answers are missing at the end, if known.
    pub broken: Option<io::Error>,
}

/// Why a request has no result.
#[derive(Debug)]
#[non_exhaustive]
pub enum Failure {
    /// The kernel refuses it, perhaps with an explanation.
    Refused(io::Error, Option<String>),
    /// The answer is missing; why, if known.
    Lost(Option<io::Error>),
    /// The answer violates the protocol.
    Malformed(String),
}

impl Answers {
    /// The one answer to a request for an object.
    ///
    /// # Errors
    /// If the kernel refuses it, or the answer is missing.
    pub fn one(self) -> Result<Raw, Failure> {
        let Self { messages, broken } = self;
        let message = messages.into_iter().next().ok_or(Failure::Lost(broken))?;
        match message.payload {
            NetlinkPayload::InnerMessage(raw) => Ok(raw),
            NetlinkPayload::Error(error) => Err(refusal(&error, message.header.flags)),
            other => Err(unexpected(&other)),
        }
    }

    /// What a list holds. `None`: changes in the middle disturbed it, so that it has to be asked for
    /// again.
    ///
    /// # Errors
    /// If the kernel refuses it, or its end is missing.
    pub fn list(self) -> Result<Option<Vec<Raw>>, Failure> {
        let Self { messages, broken } = self;
        let mut objects = Vec::with_capacity(messages.len());
        let mut disturbed = false;
        for message in messages {
            let flags = message.header.flags;
            disturbed |= flags & NLM_F_DUMP_INTR != 0;
            match message.payload {
                NetlinkPayload::InnerMessage(raw) => objects.push(raw),
                NetlinkPayload::Done(done) if done.code < 0 => {
                    let errno = io::Error::from_raw_os_error(done.code.saturating_neg());
                    return Err(Failure::Refused(errno, words_of(&done.extended_ack)));
                }
                NetlinkPayload::Done(_) => return Ok((!disturbed).then_some(objects)),
                NetlinkPayload::Error(error) => return Err(refusal(&error, flags)),
                other => return Err(unexpected(&other)),
            }
        }
        Err(Failure::Lost(broken))
    }

    /// What came of each of so many changes, in their order.
    pub fn changes(self, count: usize) -> Vec<Result<(), Failure>> {
        let Self { messages, mut broken } = self;
        let mut messages = messages.into_iter();
        let mut result = || {
            let Some(message) = messages.next() else { return Err(Failure::Lost(broken.take())) };
            match message.payload {
                NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
                NetlinkPayload::Error(error) => Err(refusal(&error, message.header.flags)),
                other => Err(unexpected(&other)),
            }
        };
        (0..count).map(|_| result()).collect()
    }
}

/// The kernel's explanation in an error message with these header flags, if there is one.
pub fn words_in(error: &ErrorMessage, flags: u16) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    words_of(after_original(&error.header, flags))
}

/// The attributes after the request in an error message, which repeats all of the request or only its header.
fn after_original(original: &[u8], flags: u16) -> &[u8] {
    let length = if flags & NLM_F_CAPPED != 0 {
        NETLINK_HEADER
    } else {
        original
            .first_chunk::<4>()
            .map_or(0, |bytes| u32::from_ne_bytes(*bytes) as usize)
            .next_multiple_of(4)
    };
    original.get(length..).unwrap_or_default()
}

/// The kernel's explanation among the attributes of an extended acknowledgement.
pub fn words_of(attributes: &[u8]) -> Option<String> {
    NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == EXTENDED_MESSAGE)
        .map(|attribute| {
            let text = String::from_utf8_lossy(attribute.value());
            text.trim_end_matches('\0').to_owned()
        })
}

fn refusal(error: &ErrorMessage, flags: u16) -> Failure {
    Failure::Refused(error.to_io(), words_in(error, flags))
}

fn unexpected(payload: &NetlinkPayload<Raw>) -> Failure {
    Failure::Malformed(format!("it holds a message of type {}", payload.message_type()))
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{ErrorBuffer, Parseable};

    use super::*;

    fn error_message(request: &[u8], attributes: &[u8]) -> ErrorMessage {
        let bytes = [&(-22_i32).to_ne_bytes(), request, attributes].concat();
        ErrorMessage::parse(&ErrorBuffer::new_checked(&bytes).unwrap()).unwrap()
    }

    fn attribute(number: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [&length.to_ne_bytes()[..], &number.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn the_kernel_s_words_are_kept() {
        let mut header = [0; NETLINK_HEADER];
        header[..4].copy_from_slice(&24_u32.to_ne_bytes());
        let whole = [&header[..], &[7; 8]].concat();
        let words = [attribute(2, &[1, 2, 3, 4]), attribute(1, b"Invalid address.\0")].concat();
        let capped = NLM_F_ACK_TLVS | NLM_F_CAPPED;
        for (request, flags) in [(&header[..], capped), (&whole, NLM_F_ACK_TLVS)] {
            let said = |attributes: &[u8]| words_in(&error_message(request, attributes), flags);
            assert_eq!(said(&words).as_deref(), Some("Invalid address."));
            for nothing in [&[][..], &[1, 2], &attribute(2, &[0; 4]), &[255; 8]] {
                assert_eq!(said(nothing), None);
            }
        }
        // Without the flag nothing follows the request.
        assert_eq!(words_in(&error_message(&header, &words), NLM_F_CAPPED), None);
    }
}
