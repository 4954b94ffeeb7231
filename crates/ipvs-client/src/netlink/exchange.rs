//! One request and its answers: the rules of netlink, without I/O.

use ipvs_packet::{CommandNumber, Reply, Request, ServiceKey, Unreadable};
use netlink_packet_core::{
    ErrorMessage, NLM_F_DUMP, NLM_F_DUMP_INTR, NetlinkMessage, NetlinkPayload,
};
use netlink_talk::{words_in, words_of};

use super::message::GENL_HEADER;
use crate::{Error, ErrorKind, error::Operation};

/// A request whose answers are being taken in.
pub(super) struct Exchange<'a> {
    request: &'a Request,
    /// A second request that the kernel certainly answers, sent behind one whose acknowledgement it
    /// may lose.
    barrier: Option<Request>,
    /// How many replies there were.
    replies: usize,
    failure: Option<Error>,
    acknowledged: bool,
    /// Whether the daemon that is to be stopped was among those that run.
    runs: bool,
    interrupted: bool,
}

impl<'a> Exchange<'a> {
    pub(super) fn new(request: &'a Request) -> Self {
        // Stopping a daemon whose thread has not yet run, the kernel takes its own EINTR for
        // "answered already" and sends neither acknowledgement nor error.
        let barrier = matches!(request, Request::DeleteDaemon(_)).then_some(Request::ListDaemons);
        Self {
            request,
            barrier,
            replies: 0,
            failure: None,
            acknowledged: false,
            runs: false,
            interrupted: false,
        }
    }

    /// Whether its answer is a list, of which something may be missing.
    pub(super) fn is_list(&self) -> bool {
        self.request.is_dump() || self.barrier.is_some()
    }

    /// What is sent, in one datagram.
    pub(super) fn requests(&self) -> impl Iterator<Item = &Request> {
        std::iter::once(self.request).chain(&self.barrier)
    }

    /// Takes in an answer, and hands it on if it is a reply, or an entry of a list that cannot be read.
    /// Returns whether it was the last.
    pub(super) fn take(
        &mut self,
        message: &NetlinkMessage<&[u8]>,
        hand_on: impl FnOnce(Result<Reply, Unreadable>),
    ) -> bool {
        let flags = message.header.flags;
        self.interrupted |= flags & NLM_F_DUMP_INTR != 0;
        match &message.payload {
            NetlinkPayload::InnerMessage(answer) => {
                if let Err(error) = self.take_reply(answer, hand_on) {
                    self.fail(error);
                }
                false
            }
            NetlinkPayload::Error(error) => self.take_error(error, flags),
            NetlinkPayload::Done(done) => {
                if done.code < 0 {
                    self.fail(Error::kernel(
                        self.request,
                        done.code.saturating_neg(),
                        words_of(&done.extended_ack),
                    ));
                }
                true
            }
            _ => false,
        }
    }

    /// What came of it, after the last answer.
    pub(super) fn finish(self) -> Result<(), Error> {
        if let Some(error) = self.failure {
            return Err(error);
        }
        let operation = Operation(self.request);
        if self.interrupted {
            return Err(Error::new(
                ErrorKind::Interrupted,
                operation,
                "the table changed while it was read",
            ));
        }
        match self.request {
            // By the kernel's word or, where that was lost, by the list of those that still run.
            Request::DeleteDaemon(_) if self.runs && !self.acknowledged => Err(Error::malformed(
                operation,
                "the kernel did not acknowledge it, and the daemon still runs",
            )),
            request if expected_reply(request).is_some() && !request.is_dump() => {
                match self.replies {
                    1 => Ok(()),
                    0 => Err(Error::malformed(
                        operation,
                        "the kernel acknowledged it without an answer",
                    )),
                    _ => Err(Error::malformed(operation, "the kernel answered more than once")),
                }
            }
            _ => Ok(()),
        }
    }

    fn take_reply(
        &mut self,
        answer: &[u8],
        hand_on: impl FnOnce(Result<Reply, Unreadable>),
    ) -> Result<(), Error> {
        let reply = match expected_reply(self.barrier.as_ref().unwrap_or(self.request)) {
            Some(
                entry @ (CommandNumber::NEW_SERVICE
                | CommandNumber::NEW_DEST
                | CommandNumber::NEW_DAEMON),
            ) => Reply::parse_entry(entry, answer, self.service()),
            expected => Ok(self.read_reply(expected, answer)?),
        };
        let operation = Operation(self.request);
        match (self.request, &reply) {
            // An entry of a list loses no other one.
            (request, Err(_)) if request.is_dump() => {}
            // It may be the daemon that is to be stopped.
            (Request::DeleteDaemon(_), Err(_)) => self.runs = true,
            (_, Err(entry)) => return Err(Error::unreadable(operation, entry.clone())),
            // Everything else that a reply says of its request is in the numbers of its header.
            (Request::GetService(key), Ok(Reply::Service(entry))) if entry.service.key() != key => {
                let other = format!("the kernel answered with service {}", entry.service.key());
                return Err(Error::malformed(operation, &other));
            }
            (Request::DeleteDaemon(role), Ok(Reply::Daemon(entry))) => {
                self.runs |= entry.daemon.role == *role;
            }
            _ => {}
        }
        self.replies += 1;
        hand_on(reply);
        Ok(())
    }

    /// Reads a reply that is no entry of a list.
    fn read_reply(&self, expected: Option<CommandNumber>, answer: &[u8]) -> Result<Reply, Error> {
        let operation = Operation(self.request);
        let Some((header, payload)) = answer.split_at_checked(GENL_HEADER) else {
            return Err(Error::malformed(operation, "the answer has no generic netlink header"));
        };
        let command = CommandNumber(header[0]);
        if expected.is_some_and(|expected| expected != command) {
            return Err(Error::malformed(
                operation,
                &format!("the kernel answered with {command}, which was not asked for"),
            ));
        }
        match self.request {
            // What else is asked is not of IPVS, so its answers are not either.
            Request::Other { .. } => Ok(Reply::Other { command, payload: payload.to_vec() }),
            _ => Reply::parse(command, payload, None)
                .map_err(|error| Error::parse(&operation, error)),
        }
    }

    fn take_error(&mut self, error: &ErrorMessage, flags: u16) -> bool {
        // The message to which this is the answer comes with it: all of it, or only its header.
        let original_flags =
            error.header.get(6..8).map_or(0, |bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
        let of_barrier = self.barrier.is_some() && original_flags & NLM_F_DUMP == NLM_F_DUMP;
        match error.code {
            None if !of_barrier => self.acknowledged = true,
            None => {}
            Some(code) => {
                let extended = words_in(error, flags);
                let request = self.barrier.as_ref().filter(|_| of_barrier).unwrap_or(self.request);
                let error = Error::kernel(request, code.get().saturating_neg(), extended);
                self.fail(error);
            }
        }
        self.barrier.is_none() || of_barrier
    }

    /// Keeps the first failure. The rest of the answers is still taken in: the socket has to be
    /// emptied of them.
    fn fail(&mut self, error: Error) {
        self.failure.get_or_insert(error);
    }

    /// The service that the replies are about.
    fn service(&self) -> Option<&ServiceKey> {
        match self.request {
            Request::ListDestinations(key) | Request::GetService(key) => Some(key),
            _ => None,
        }
    }
}

/// The command number of the replies to a request; `None` where there are none, or any.
const fn expected_reply(request: &Request) -> Option<CommandNumber> {
    match request {
        Request::GetService(_) | Request::ListServices => Some(CommandNumber::NEW_SERVICE),
        Request::ListDestinations(_) => Some(CommandNumber::NEW_DEST),
        Request::ListDaemons => Some(CommandNumber::NEW_DAEMON),
        Request::GetTimeouts => Some(CommandNumber::SET_CONFIG),
        Request::GetInfo => Some(CommandNumber::SET_INFO),
        _ => None,
    }
}

/// Whether a request changes nothing, so that it may be repeated.
pub(super) const fn is_read(request: &Request) -> bool {
    expected_reply(request).is_some()
}
