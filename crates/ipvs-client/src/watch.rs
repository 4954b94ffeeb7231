//! Differences as they come, since IPVS reports none by itself.

use std::time::{Duration, Instant};

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::{Client, Differences, Error, Snapshot};

/// Looks at the table time and again and tells what differs: see [`Client::watch`].
#[derive(Debug)]
pub struct Watch {
    client: Client,
    ticks: Interval,
    last: Snapshot,
    taken: Option<Instant>,
}

impl Watch {
    /// Waits for its time, looks at the table, and tells what differs from the last time.
    ///
    /// The first call looks at once and tells every service as added. Differences are told
    /// also if there are none, so that a caller sees the time go by.
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
    /// Watches the table by taking a [snapshot](Self::snapshot) once in a while: IPVS tells of
    /// no change by itself.
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
