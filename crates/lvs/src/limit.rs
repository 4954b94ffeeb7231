//! How much may be taken away.

use std::time::Duration;

/// How much may be taken away in any interval: a number, or a part of the table.
///
/// Each service and each real server counts as one, a deleted service with its real servers; so does
/// each desired service that is left without a usable real server (one with a weight). A real server
/// counts when it begins to be drained, and not again when it is deleted.
///
/// With a [`Ledger`](crate::Ledger), a restart of the program does not begin the interval again.
///
/// More than that is held back, all of it, until it is confirmed, or until there is less of it: it
/// guards against a source that is empty or half read. Adding and changing go on meanwhile.
///
/// ```
/// use std::time::Duration;
///
/// use lvs::{Limit, Policy};
///
/// // At most half of the table in any ten minutes; twenty are no matter.
/// let limit = Limit::percent(50).at_least(20).per(Duration::from_secs(600));
/// let policy = Policy::new().max_deletions(limit);
/// // At most a hundred in any minute.
/// let policy = Policy::new().max_deletions(100);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    percent: u8,
    number: usize,
    interval: Duration,
}

impl Limit {
    const INTERVAL: Duration = Duration::from_secs(60);

    /// This number in any minute.
    pub fn number(number: usize) -> Self {
        Self { percent: 0, number, interval: Self::INTERVAL }
    }

    /// This part of the table's services and real servers in any minute: of those that the policy may
    /// take away, when they were the most in that minute; those whose removal was confirmed do not count.
    /// 100 and more is all of them.
    pub fn percent(percent: u8) -> Self {
        Self { percent: percent.min(100), number: 0, interval: Self::INTERVAL }
    }

    /// This number at least, however small the table is; 0 by default.
    #[must_use]
    pub fn at_least(mut self, number: usize) -> Self {
        self.number = self.number.max(number);
        self
    }

    /// In any interval of this length; a minute by default.
    #[must_use]
    pub fn per(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }

    /// The number for a table with this many services and real servers.
    pub(crate) fn of(&self, size: usize) -> usize {
        match self.percent {
            100 => usize::MAX,
            percent => self.number.max((size as u128 * u128::from(percent) / 100) as usize),
        }
    }
}

/// This number in any minute.
impl From<usize> for Limit {
    fn from(number: usize) -> Self {
        Self::number(number)
    }
}
