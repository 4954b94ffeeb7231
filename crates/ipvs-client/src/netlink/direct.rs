//! Requests over a netlink socket that one caller has at a time: send, then take in the answers.
//!
//! The kernel carries a request out within the system call that sends it. When that returns, its
//! answers are in the socket's queue, but for the rest of a list, which is made as the list is read.
//! So nothing here waits, in the async client either: an answer that is not there never comes.

use std::io;

use ipvs_packet::{Reply, Request, Unreadable};
use netlink_talk::{Socket, no_answer};

use super::{
    batch::{Batch, BatchOptions},
    exchange::{Exchange, is_read},
    family::{self, CONTROL_FAMILY},
    message,
};
use crate::{
    Error, ErrorKind,
    error::{Operation, errno},
    proc::modules::LoadedModules,
};

/// How often a read is done at most, when its answers are dropped or the table changes meanwhile.
const READ_ATTEMPTS: usize = 4;
/// What a request costs besides the entries that it reads or the writes that it carries, counted in
/// these.
const REQUEST: usize = 16;
/// After how many entries and writes other tasks get a turn: some hundred microseconds' worth on
/// most machines. More often would cost more than it is good for.
const WORK_AT_A_TIME: usize = 512;

/// A socket and the state of the talk over it.
pub(crate) struct Direct {
    socket: Socket,
    /// The number that the kernel gave to the family.
    family: u16,
    outgoing: Vec<u8>,
    /// How much was done since other tasks had their turn.
    work: usize,
}

/// What a request brought.
pub(crate) struct Answer<T> {
    /// What was kept of the replies.
    pub(crate) replies: Vec<T>,
    /// In how many datagrams they came. The kernel fills one without letting others change the list
    /// by netlink (from Linux 7.1 on, ipvsadm built without it still can), and may between two.
    pub(crate) datagrams: usize,
}

impl Direct {
    /// Over a socket on which the family is not yet known.
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, family: 0, outgoing: Vec::new(), work: 0 }
    }

    /// Over a socket whose other end plays the kernel, and has this number for the family.
    #[cfg(test)]
    pub(super) fn with_kernel(socket: Socket, family: u16) -> Self {
        Self { family, ..Self::new(socket) }
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Whether so much was done that other tasks should run now; asked again, it was not.
    pub(crate) fn is_pause_due(&mut self) -> bool {
        let due = self.work >= WORK_AT_A_TIME;
        if due {
            self.work = 0;
        }
        due
    }

    /// Carries out a request and returns what `keep` keeps of the replies.
    pub(crate) fn run<T>(
        &mut self,
        request: &Request,
        keep: impl Fn(Result<Reply, Unreadable>) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        self.ask(request, keep).map(|answer| answer.replies)
    }

    /// Carries out a request, tried again where that helps.
    pub(crate) fn ask<T>(
        &mut self,
        request: &Request,
        keep: impl Fn(Result<Reply, Unreadable>) -> Option<T>,
    ) -> Result<Answer<T>, Error> {
        // A write whose answer was dropped may have taken effect: doing it twice is not the same.
        let mut attempts = if is_read(request) { READ_ATTEMPTS } else { 1 };
        let mut looked_up = false;
        loop {
            let error = match self.exchange(self.family, request, &keep) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            attempts = attempts.saturating_sub(1);
            let again = match (error.kind(), error.errno()) {
                (ErrorKind::Overrun | ErrorKind::Interrupted, _) => attempts > 0,
                // After an overrun in a list, the kernel may still be at it when the next one is
                // asked for.
                (_, Some(errno::BUSY)) => attempts > 0,
                // ENOENT says that a thing is missing, or that the family is.
                (_, Some(errno::NOENT)) if !looked_up => {
                    looked_up = true;
                    self.look_up_family()?
                }
                _ => false,
            };
            if !again {
                return Err(LoadedModules::default().explain(request, error));
            }
        }
    }

    /// Looks up the family's number, and returns whether it is another one: when ip_vs was unloaded
    /// and loaded again, it is.
    pub(super) fn look_up_family(&mut self) -> Result<bool, Error> {
        let answer = self.exchange(CONTROL_FAMILY, &family::request(), Result::ok);
        let number = family::number(answer.map(|answer| answer.replies))?;
        Ok(std::mem::replace(&mut self.family, number) != number)
    }

    /// Sends a request to a family and takes in its answers.
    fn exchange<T>(
        &mut self,
        family: u16,
        request: &Request,
        keep: impl Fn(Result<Reply, Unreadable>) -> Option<T>,
    ) -> Result<Answer<T>, Error> {
        let mut answer = Answer { replies: Vec::new(), datagrams: 0 };
        let fail = |error| Error::io(Operation(request), error);
        let mut exchange = Exchange::new(request);
        let sequence = self.socket.sequence();
        let first = sequence.wrapping_add(1);
        self.outgoing.clear();
        for request in exchange.requests() {
            *sequence = sequence.wrapping_add(1);
            message::append(&mut self.outgoing, family, *sequence, request.flags(), request);
        }
        let sent = sequence.wrapping_sub(first);
        self.work += REQUEST;
        self.socket.send(&self.outgoing).map_err(fail)?;
        // The datagram of the last reply.
        let mut datagram = None;
        let mut overrun = false;
        loop {
            let message = match self.socket.next_message() {
                Ok(Some(message)) => message,
                Ok(None) if overrun => return Err(Error::overrun(Operation(request))),
                Ok(None) => return Err(fail(no_answer())),
                Err(error) if is_overrun(&error) => {
                    // What did arrive counts.
                    overrun = true;
                    continue;
                }
                Err(error) => {
                    // The socket lists nothing else before the rest of a list is taken in.
                    self.socket.clear();
                    return Err(fail(error));
                }
            };
            // Answers to a batch that broke off may still be in the queue.
            let behind = message.header.sequence_number.wrapping_sub(first);
            if behind > sent {
                continue;
            }
            let mut replied = false;
            let last = exchange.take(&message, |reply| {
                replied = true;
                answer.replies.extend(keep(reply));
            });
            if replied {
                self.work += 1;
                let now = Some(self.socket.datagram());
                answer.datagrams += usize::from(std::mem::replace(&mut datagram, now) != now);
            }
            // A list of which something was dropped has its end all the same.
            if last && overrun && exchange.is_list() {
                return Err(Error::overrun(Operation(request)));
            }
            if last {
                return exchange.finish().map(|()| answer);
            }
        }
    }

    /// A batch that fits the socket's buffers.
    pub(crate) fn batch<'a, 'b>(
        &self,
        writes: &'a [Request],
        options: BatchOptions<'b>,
    ) -> Batch<'a, 'b> {
        let (receive_buffer, send_buffer) = self.socket.buffers();
        Batch::new(writes, options, receive_buffer, send_buffer)
    }

    /// Carries out the next datagram of a batch, to its last answer. Returns false when there is
    /// none.
    pub(crate) fn run_next(&mut self, batch: &mut Batch<'_, '_>) -> bool {
        if !batch.next_datagram(self.family, self.socket.sequence()) {
            return false;
        }
        self.work += REQUEST + batch.in_datagram();
        if let Err(error) = self.run_datagram(batch) {
            batch.broken(&error);
            return false;
        }
        if batch.lost_family() {
            match self.look_up_family() {
                Ok(true) => batch.again(),
                Ok(false) => {}
                Err(error) => {
                    batch.gone(&error);
                    return false;
                }
            }
        }
        batch.explain(&LoadedModules::default());
        batch.report_progress();
        true
    }

    fn run_datagram(&mut self, batch: &mut Batch<'_, '_>) -> io::Result<()> {
        self.socket.send(batch.datagram())?;
        let mut overrun = false;
        loop {
            match self.socket.next_message() {
                Ok(Some(message)) => {
                    if batch.take(&message) {
                        return Ok(());
                    }
                    continue;
                }
                // The last answer is among those that were dropped.
                Ok(None) if overrun => return Ok(()),
                Ok(None) => return Err(no_answer()),
                Err(error) if is_overrun(&error) => overrun = true,
                Err(error) => return Err(error),
            }
            batch.overrun();
        }
    }
}

impl std::fmt::Debug for Direct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Direct")
            .field("family", &self.family)
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

fn is_overrun(error: &io::Error) -> bool {
    error.raw_os_error() == Some(errno::NOBUFS)
}
