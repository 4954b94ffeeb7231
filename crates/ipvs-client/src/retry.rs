//! What to do about a failed request: what the async and the blocking client share.

use std::fs;

use ipvs_packet::Request;

use crate::{Error, ErrorKind, error::errno, exchange::is_read};

/// How often a read is done at most, when its answers are dropped or the table changes meanwhile.
const READ_ATTEMPTS: usize = 4;

/// The tries of one request.
pub(crate) struct Tries {
    /// How many are left.
    left: usize,
    /// Whether the family's number was looked up again.
    resolved: bool,
}

/// What to do after a failure.
pub(crate) enum Next {
    /// Try again.
    Again,
    /// Look the family up, then ask [`Tries::found`].
    Resolve(Error),
    /// Give up.
    Fail(Error),
}

impl Tries {
    pub(crate) fn of(request: &Request) -> Self {
        // A write whose answer was dropped may have taken effect: doing it twice is not the same.
        Self { left: if is_read(request) { READ_ATTEMPTS } else { 1 }, resolved: false }
    }

    pub(crate) fn failed(&mut self, error: Error) -> Next {
        self.left = self.left.saturating_sub(1);
        match error.kind() {
            ErrorKind::Overrun | ErrorKind::Interrupted if self.left > 0 => Next::Again,
            // After an overrun in a list, the kernel may still be at it when the next one is asked
            // for.
            _ if error.errno() == Some(errno::BUSY) && self.left > 0 => Next::Again,
            // ENOENT says that a thing is missing, or that the family is: when ip_vs was unloaded
            // and loaded again, it has another number.
            _ if error.errno() == Some(errno::NOENT) && !self.resolved => Next::Resolve(error),
            _ => Next::Fail(error),
        }
    }

    /// The family was looked up after `error`: whether it has a new number.
    pub(crate) fn found(&mut self, request: &Request, error: Error, new: bool) -> Next {
        self.resolved = true;
        if new { Next::Again } else { Next::Fail(explain(request, error)) }
    }
}

/// Tells a missing scheduler from a missing persistence engine. The kernel looks for the scheduler
/// first, and its module stays when the engine is then not found.
pub(crate) fn explain(request: &Request, error: Error) -> Error {
    let (Request::NewService(service) | Request::SetService(service)) = request else {
        return error;
    };
    let Some(engine) = service.engine else { return error };
    let scheduler = service.scheduler;
    let modules = fs::read_to_string("/proc/modules").unwrap_or_default();
    let loaded = |name: String| modules.lines().any(|line| line.split(' ').next() == Some(&name));
    if loaded(format!("ip_vs_{scheduler}")) {
        let text = format!("persistence engine module ip_vs_pe_{engine} is not available");
        error.with_meaning(ErrorKind::EngineNotFound, &text)
    } else if loaded(format!("ip_vs_pe_{engine}")) {
        error
    } else {
        let text = format!(
            "scheduler module ip_vs_{scheduler} or persistence engine module ip_vs_pe_{engine} is \
             not available"
        );
        error.with_meaning(ErrorKind::SchedulerNotFound, &text)
    }
}
