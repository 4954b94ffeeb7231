//! The loop of a reconciler, on tokio.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{Reconciler, Round};
use crate::{Desired, Ledger, Port};

/// How soon a ledger that could not be stored is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(1);

impl Reconciler {
    /// Keeps in effect what comes through a channel, until every sender is gone: then it returns
    /// after the round under way, and after one for a state that was sent before.
    ///
    /// `store` stores the [ledger](Self::unstored), before a round and after it, whenever it is
    /// another one: until it succeeds, services that are claimed for the first time are not written.
    /// Without a ledger it is never called. `report` is shown each round, and may
    /// [confirm](Self::confirm) what was held back.
    ///
    /// What the channel holds at the beginning is the first desired state. Of several states that
    /// come during a round, the last one counts.
    ///
    /// ```no_run
    /// use std::{fs, io, path::Path};
    ///
    /// use lvs::{Desired, Ledger, Policy, Reconciler, Scope, client::Client};
    ///
    /// /// Such that it is there after a crash, and never half.
    /// fn store(ledger: &Ledger) -> io::Result<()> {
    ///     fs::write("/var/lib/balancer/ledger.new", ledger.to_string())?;
    ///     fs::File::open("/var/lib/balancer/ledger.new")?.sync_all()?;
    ///     fs::rename("/var/lib/balancer/ledger.new", "/var/lib/balancer/ledger")?;
    ///     // The new name is on the disk when its directory is.
    ///     fs::File::open("/var/lib/balancer")?.sync_all()
    /// }
    ///
    /// # async fn example(
    /// #     mut states: tokio::sync::watch::Receiver<Desired>,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// let ledger = match fs::read_to_string("/var/lib/balancer/ledger") {
    ///     Ok(text) => text.parse()?,
    ///     Err(error) if error.kind() == io::ErrorKind::NotFound => Ledger::new(),
    ///     Err(error) => return Err(error.into()),
    /// };
    /// let mut reconciler = Reconciler::new(Policy::new().scope(Scope::Ledger(ledger)));
    /// let report = |_: &mut Reconciler, round: &lvs::Round| {
    ///     if let Err(error) = &round.result {
    ///         eprintln!("{error}");
    ///     }
    /// };
    /// reconciler.run(&Client::connect()?, &mut states, store, report).await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn run(
        &mut self,
        port: &impl Port,
        states: &mut tokio::sync::watch::Receiver<Desired>,
        mut store: impl FnMut(&Ledger) -> io::Result<()>,
        mut report: impl FnMut(&mut Self, &Round),
    ) {
        states.mark_changed();
        loop {
            let closed = match states.has_changed() {
                Ok(true) => {
                    let desired = states.borrow_and_update().clone();
                    self.set(desired);
                    false
                }
                Ok(false) => false,
                // The value that was sent last counts still.
                Err(_) => {
                    let desired = states.borrow_and_update().clone();
                    self.set(desired);
                    true
                }
            };
            let is_stored = self.store_or_note(&mut store);
            if let Some(round) = self.round(port, Instant::now()).await {
                report(self, &round);
                self.store_or_note(&mut store);
                if !closed {
                    continue;
                }
            }
            if closed {
                return;
            }
            let now = Instant::now();
            let due = self.due(now).map_or(self.schedule.interval(), |due| due - now);
            let wait = if is_stored { due } else { due.min(STORE_AGAIN) };
            if let Ok(Ok(())) = tokio::time::timeout(wait, states.changed()).await {
                // It is taken above.
                states.mark_changed();
            }
        }
    }

    /// Stores the ledger if that is to be done. Returns whether it is stored.
    fn store_or_note(&mut self, store: &mut impl FnMut(&Ledger) -> io::Result<()>) -> bool {
        match self.store(store) {
            Ok(_) => true,
            Err(error) => {
                self.status.failures += 1;
                self.status.last_error = Some(format!("storing the ledger: {error}"));
                false
            }
        }
    }
}
