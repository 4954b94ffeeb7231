//! Many writes in few system calls.

use ipvs_packet::Request;
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_talk::{NETLINK_HEADER, words_in};

use super::{
    exchange::is_read,
    message::{self, GENL_HEADER},
    outcomes::BatchOutcomes,
};
use crate::{
    Error, ErrorKind,
    error::{Operation, errno},
    proc::modules::LoadedModules,
};

/// How many writes go into one datagram at most: enough that system calls no longer count, and few
/// enough that the answers, should every write fail, fit the receive buffer.
const WRITES: usize = 128;
/// What an answer takes of the receive buffer at most, by the kernel's count.
const ANSWER: usize = 1024;
/// How long a datagram gets at most, in bytes.
const LENGTH: usize = 48 * 1024;
/// What of the send buffer a datagram must leave: 32 bytes to the kernel, and room for a last request
/// that is sure to be answered.
const SEND_RESERVE: usize = 32 + NETLINK_HEADER + GENL_HEADER;

/// How a batch is carried out.
#[derive(Default)]
pub struct BatchOptions<'a> {
    stop_at_failure: bool,
    progress: Option<&'a mut (dyn FnMut(usize) + Send)>,
}

impl<'a> BatchOptions<'a> {
    /// Everything is tried, and no progress is reported.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops after a datagram in which a write failed. The up to 127 writes behind the one that
    /// failed, in the same datagram, are still tried; those after that get
    /// [`ErrorKind::NotSent`].
    #[must_use]
    pub fn stop_at_failure(mut self) -> Self {
        self.stop_at_failure = true;
        self
    }

    /// Calls this after every datagram, with the number of writes whose outcome is known. It must not
    /// call the client that carries out the batch.
    #[must_use]
    pub fn progress(mut self, report: &'a mut (dyn FnMut(usize) + Send)) -> Self {
        self.progress = Some(report);
        self
    }
}

impl std::fmt::Debug for BatchOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchOptions")
            .field("stop_at_failure", &self.stop_at_failure)
            .finish_non_exhaustive()
    }
}

/// A batch under way. It does no I/O: it makes datagrams and takes in the answers.
///
/// Only failures answer, and the last write of a datagram. The kernel carries the writes out in
/// order, so when the last has answered, those that did not answer have succeeded.
pub(crate) struct Batch<'a, 'b> {
    writes: &'a [Request],
    options: BatchOptions<'b>,
    per_datagram: usize,
    length: usize,
    outcomes: Vec<Result<(), Error>>,
    datagram: Vec<u8>,
    /// The positions of the writes in the datagram, in order of their sequence numbers.
    sent: Vec<usize>,
    /// The sequence number of the first of them.
    first: u32,
    /// The position of the first write of the datagram after which the family was looked up last.
    looked_up_after: Option<usize>,
}

impl<'a, 'b> Batch<'a, 'b> {
    /// A batch for a socket with buffers of so many bytes.
    pub(crate) fn new(
        writes: &'a [Request],
        options: BatchOptions<'b>,
        receive_buffer: usize,
        send_buffer: usize,
    ) -> Self {
        Self {
            writes,
            options,
            per_datagram: (receive_buffer / ANSWER).clamp(1, WRITES),
            length: send_buffer.saturating_sub(SEND_RESERVE).min(LENGTH),
            outcomes: Vec::with_capacity(writes.len()),
            datagram: Vec::new(),
            sent: Vec::new(),
            first: 0,
            looked_up_after: None,
        }
    }

    /// Makes the next datagram. Returns false when there is none.
    pub(crate) fn next_datagram(&mut self, family: u16, sequence: &mut u32) -> bool {
        self.datagram.clear();
        self.sent.clear();
        self.first = sequence.wrapping_add(1);
        if self.options.stop_at_failure && self.outcomes.iter().any(Result::is_err) {
            return false;
        }
        let mut last = 0;
        while let Some(write) = self.writes.get(self.outcomes.len()) {
            if is_read(write) {
                let text = "a batch takes only requests that change something";
                self.outcomes.push(Err(Error::new(ErrorKind::Invalid, Operation(write), text)));
                continue;
            }
            let length = NETLINK_HEADER + GENL_HEADER + write.buffer_len();
            let full = self.sent.len() == self.per_datagram
                || self.datagram.len() + length > self.length && !self.sent.is_empty();
            if full {
                break;
            }
            last = self.datagram.len();
            *sequence = sequence.wrapping_add(1);
            // It answers only if it fails.
            message::append(&mut self.datagram, family, *sequence, NLM_F_REQUEST, write);
            self.sent.push(self.outcomes.len());
            self.outcomes.push(Ok(()));
        }
        let Some(&position) = self.sent.last() else { return false };
        if matches!(self.writes[position], Request::DeleteDaemon(_)) {
            // Its acknowledgement may be lost, so that it cannot be the one that is waited for.
            last = self.datagram.len();
            *sequence = sequence.wrapping_add(1);
            message::append(
                &mut self.datagram,
                family,
                *sequence,
                NLM_F_REQUEST,
                &Request::GetInfo,
            );
        }
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        self.datagram[last + 6..last + 8].copy_from_slice(&flags.to_ne_bytes());
        true
    }

    /// How many writes the datagram holds.
    pub(crate) fn in_datagram(&self) -> usize {
        self.sent.len()
    }

    pub(crate) fn datagram(&self) -> &[u8] {
        &self.datagram
    }

    /// Takes in an answer. Returns whether it is the datagram's last.
    pub(crate) fn take(&mut self, message: &NetlinkMessage<&[u8]>) -> bool {
        let NetlinkPayload::Error(error) = &message.payload else { return false };
        let behind = message.header.sequence_number.wrapping_sub(self.first) as usize;
        if let (Some(&position), Some(code)) = (self.sent.get(behind), error.code) {
            let write = &self.writes[position];
            let extended = words_in(error, message.header.flags);
            let failure = Error::kernel(write, code.get().saturating_neg(), extended);
            self.outcomes[position] = Err(failure);
        }
        // The last write, or behind it the one that is sure to be answered.
        let barrier = match self.sent.last() {
            Some(&last) if matches!(self.writes[last], Request::DeleteDaemon(_)) => self.sent.len(),
            _ => self.sent.len() - 1,
        };
        behind == barrier
    }

    /// Answers to the datagram were dropped: no silence is a success any more.
    pub(crate) fn overrun(&mut self) {
        for &position in &self.sent {
            if self.outcomes[position].is_ok() {
                let operation = Operation(&self.writes[position]);
                self.outcomes[position] = Err(Error::overrun(operation));
            }
        }
    }

    /// Whether the datagram may have gone to a family that is no more, so that it has to be looked
    /// up. True only once for each datagram, however often it is sent.
    pub(crate) fn lost_family(&mut self) -> bool {
        let first = self.sent.first().copied();
        let gone = |&position: &usize| {
            self.outcomes[position].as_ref().is_err_and(|error| error.errno() == Some(errno::NOENT))
        };
        let lost = self.looked_up_after != first && self.sent.iter().all(gone);
        if lost {
            self.looked_up_after = first;
        }
        lost
    }

    /// Sends the datagram's writes again: none had an effect.
    pub(crate) fn again(&mut self) {
        if let Some(&first) = self.sent.first() {
            self.outcomes.truncate(first);
        }
    }

    /// The family is no more, which is why each of the datagram's writes failed.
    pub(crate) fn gone(&mut self, error: &Error) {
        for &position in &self.sent {
            let outcome = std::mem::replace(&mut self.outcomes[position], Ok(()));
            self.outcomes[position] =
                outcome.map_err(|failure| failure.with_meaning(error.kind(), error.text()));
        }
    }

    /// The socket failed: what became of the datagram is not known, and the rest is not sent.
    pub(crate) fn broken(&mut self, error: &std::io::Error) {
        for &position in &self.sent {
            let again = error.raw_os_error().map_or_else(
                || std::io::Error::new(error.kind(), error.to_string()),
                std::io::Error::from_raw_os_error,
            );
            if self.outcomes[position].is_ok() {
                let operation = Operation(&self.writes[position]);
                self.outcomes[position] = Err(Error::io(operation, again));
            }
        }
    }

    /// Says of the datagram's failures what only the list of loaded modules can say.
    pub(crate) fn explain(&mut self, modules: &LoadedModules) {
        for &position in &self.sent {
            // The datagram may have to be sent again.
            let Some(outcome) = self.outcomes.get_mut(position) else { return };
            if outcome.is_err() {
                let write = &self.writes[position];
                let failed = std::mem::replace(outcome, Ok(()));
                *outcome = failed.map_err(|error| modules.explain(write, error));
            }
        }
    }

    /// Reports how far it got.
    pub(crate) fn report_progress(&mut self) {
        let known = self.outcomes.len();
        if let Some(progress) = &mut self.options.progress {
            progress(known);
        }
    }

    /// What came of each write, in order.
    pub(crate) fn finish(self) -> BatchOutcomes {
        let mut outcomes = self.outcomes;
        let text = "not sent, because the batch ended at an earlier failure";
        let rest = &self.writes[outcomes.len()..];
        outcomes.extend(
            rest.iter().map(|write| Err(Error::new(ErrorKind::NotSent, Operation(write), text))),
        );
        BatchOutcomes::new(outcomes)
    }
}
