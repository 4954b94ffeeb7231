//! What happened in a pool.

use std::fmt;

use lvs::client::packet::DestinationKey;

/// Something that happened in a [`Pool`](crate::Pool), for logs, metrics and hooks.
///
/// It displays as a line of a log: `172.17.0.3:80 is down: connect: Connection refused`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A member answers, for the first time or again.
    Up(DestinationKey),
    /// A member does not answer, and why.
    Down(DestinationKey, String),
    /// A member that came back has its whole weight.
    RampEnded(DestinationKey),
    /// Too few members are left.
    QuorumLost,
    /// There are enough members again.
    QuorumRegained,
    /// The sorry server gets the new connections.
    SorryIn,
    /// The members get them again.
    SorryOut,
    /// All members have failed, and get connections all the same.
    FailOpenBegan,
    /// A member answers again, and those that do not get no connections.
    FailOpenEnded,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up(member) => write!(f, "{member} is up"),
            Self::Down(member, reason) => write!(f, "{member} is down: {reason}"),
            Self::RampEnded(member) => write!(f, "{member} has its whole weight"),
            Self::QuorumLost => f.write_str("quorum lost"),
            Self::QuorumRegained => f.write_str("quorum regained"),
            Self::SorryIn => f.write_str("the sorry server takes over"),
            Self::SorryOut => f.write_str("the sorry server is out"),
            Self::FailOpenBegan => f.write_str("all members failed; all get connections"),
            Self::FailOpenEnded => f.write_str("a member answers; failed members are out"),
        }
    }
}
