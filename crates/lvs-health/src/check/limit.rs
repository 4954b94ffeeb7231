//! The time that a check has.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::Failure;

/// When a check has to end, and how long it had.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    until: Instant,
    whole: Duration,
}

impl Limit {
    pub(crate) fn new(whole: Duration) -> Self {
        // A day is for ever here, and cannot overflow.
        let whole = whole.clamp(Duration::from_millis(1), Duration::from_secs(86_400));
        Self { until: Instant::now() + whole, whole }
    }

    /// Awaits a part of the check that is named for who reads of its failure.
    pub(crate) async fn within<T>(
        self,
        doing: &str,
        part: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        timeout_at(self.until, part).await.map_err(|_| {
            Failure::Bad(format!(
                "{doing}: no end within {}",
                humantime::format_duration(self.whole)
            ))
        })
    }
}
