//! What becomes of an apply when a write of it fails.

use std::error::Error as _;

use ipvs_client::{Error, ErrorKind};

/// What a failed write says about the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The table is not as it was read.
    Meanwhile,
    /// This cannot be done; others can.
    Refused,
    /// Nothing can be done.
    Common,
    /// It was not tried.
    NotSent,
}

impl Verdict {
    pub(super) fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::AlreadyExists
            | ErrorKind::ServiceNotFound
            | ErrorKind::DestinationNotFound => Self::Meanwhile,
            // Whether it took effect is not known.
            ErrorKind::Overrun | ErrorKind::Malformed | ErrorKind::Interrupted => Self::Meanwhile,
            ErrorKind::PermissionDenied | ErrorKind::NotAvailable | ErrorKind::OtherProcess => {
                Self::Common
            }
            // A socket that failed, and not the kernel's answer.
            ErrorKind::Os | ErrorKind::LimitReached if error.source().is_some() => Self::Common,
            ErrorKind::NotSent => Self::NotSent,
            _ => Self::Refused,
        }
    }
}
