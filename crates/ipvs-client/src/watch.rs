//! Differences as they come, since IPVS reports none by itself.

use std::time::{Duration, Instant};

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::{Client, Differences, Error, Snapshot};

/// Looks at the table again and again and returns what differs: see [`Client::watch`].
#[derive(Debug)]
pub struct Watch {
    client: Client,
    ticks: Interval,
    last: Snapshot,
    taken: Option<Instant>,
}

impl Watch {
    /// Waits until it is time, looks at the table, and returns what differs from the last look.
    ///
    /// The first call looks at once, and every service is an addition. It returns even if nothing
    /// differs, so that the caller sees time pass.
    ///
    /// A call may be cancelled; the next one then compares with the same last snapshot.
    ///
    /// # Errors
    ///
    /// As for [`Client::snapshot`]. The next call looks again.
    pub async fn next(&mut self) -> Result<Differences, Error> {
        self.ticks.tick().await;
        let taken = Instant::now();
        let snapshot = self.client.snapshot().await?;
        let elapsed = self.taken.map_or(Duration::ZERO, |last| taken - last);
        let differences = Differences::between(&self.last, &snapshot, elapsed);
        self.last = snapshot;
        self.taken = Some(taken);
        Ok(differences)
    }

    /// The table as it was last seen; empty before the first call of [`next`](Self::next).
    pub fn snapshot(&self) -> &Snapshot {
        &self.last
    }
}

impl Client {
    /// Watches the table by taking a [snapshot](Self::snapshot) at regular times: IPVS reports no
    /// change by itself.
    ///
    /// At least a millisecond is between two looks. Should one take longer than that, the next
    /// is as much later. Two seconds or more make sense for traffic, since that is how often
    /// the kernel brings its counters up to date.
    ///
    /// Snapshots of a large table take time and memory: two are held while they are compared.
    ///
    /// On other runtimes, and with the blocking client, compare snapshots yourself by
    /// [`Differences::between`].
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with time enabled.
    pub fn watch(&self, period: Duration) -> Watch {
        let mut ticks = interval(period.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Watch { client: self.clone(), ticks, last: Snapshot::new(), taken: None }
    }
}
