//! The loop: it waits for events and for the time, and asks for rounds. The only clock is here.

use std::{
    future::Future,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use netns_link::NetNs;
use tokio::time::{sleep, sleep_until, timeout};

use super::{
    rhythm::Rhythm,
    round::{Round, Rounds},
    rounds,
};
use crate::{
    config::Config,
    failure::{Failure, Step},
    node::kernel::Kernel,
    source::Source,
    state::State,
};

/// How often somebody's confirmation is looked for, while something is held back.
const CONFIRMATION: Duration = Duration::from_secs(1);
/// How often it is asked whether lists can come that have not.
const LOOK: Duration = Duration::from_secs(1);

/// A service proxy for one node.
///
/// It is cancel-safe: whatever was interrupted, the next run goes on from what the kernel has.
#[derive(Debug)]
pub struct Proxy<'n, S> {
    source: S,
    config: Config,
    rounds: Rounds<Kernel<'n>>,
    /// Whether the node's settings are made.
    is_settled: bool,
}

impl<'n, S: Source> Proxy<'n, S> {
    /// Opens what the proxy needs in a namespace. Services and addresses are left as they are until the
    /// source has given both lists.
    ///
    /// # Errors
    ///
    /// IPVS or the state directory cannot be opened.
    pub async fn new(source: S, config: Config, namespace: &'n NetNs) -> Result<Self, Failure> {
        Self::on(Kernel::open(namespace)?, source, config).await
    }

    pub(crate) async fn on(
        mut kernel: Kernel<'n>,
        source: S,
        config: Config,
    ) -> Result<Self, Failure> {
        let records = kernel.open_ledger(&config.ownership)?;
        let rounds = rounds(kernel, config.clone(), source.server(), records).await?;
        rounds.health().follow(source.contact(), &config);
        Ok(Self { source, config, rounds, is_settled: false })
    }

    /// Follows the source until `stop` ends. The node is then left as it is: traffic goes on.
    ///
    /// # Errors
    ///
    /// With `--bind-address-hard-fail`, health or metrics cannot be served. All else is logged and tried
    /// again.
    pub async fn run(&mut self, stop: impl Future<Output = ()>) -> Result<(), Failure> {
        self.rounds.node_mut().lock()?;
        if self.rounds.listen() && self.config.listen.hard_fail {
            let reason = "health or metrics cannot be served, and --bind-address-hard-fail is set";
            return Err(Failure::new(Step::Listen, reason));
        }
        let mut stop = std::pin::pin!(stop);
        let mut rhythm = Rhythm::new(&self.config.timing, Instant::now());
        loop {
            let now = Instant::now();
            self.rounds.health().beat(now);
            let release = self.rounds.release(now);
            let look = [self.rounds.look(), release].into_iter().flatten().min();
            let next = rhythm.next(self.rounds.is_wanted(), look);
            let is_holding = self.rounds.held_back() > 0;
            let ready = self.rounds.state().is_complete();
            tokio::select! {
                () = &mut stop => return Ok(()),
                events = self.source.next() => {
                    self.rounds.take_in(events);
                    if self.rounds.take_node_has_moved() {
                        rhythm.whole_at(Instant::now());
                    }
                }
                // Something has to go on even if nothing happens.
                () = sleep(self.rounds.health().rhythm()) => {}
                () = sleep(CONFIRMATION), if is_holding => {
                    self.rounds.look_for_confirmation();
                }
                () = sleep_until(next.into()), if ready => {
                    let begin = Instant::now();
                    let is_released = release.is_some_and(|release| release <= begin);
                    let is_whole = rhythm.is_whole(begin) || is_released;
                    let result = self.round(is_whole).await;
                    let wait = rhythm.finished(is_whole, &result, Instant::now());
                    if let (Err(failure), Some(wait)) = (result, wait) {
                        self.rounds.health().metrics.failed(failure.step);
                        tracing::error!("{failure}; the next attempt is in {} s", wait.as_secs_f64());
                    }
                }
            }
        }
    }

    /// Waits for both lists, brings the kernel to what they say, and returns.
    ///
    /// # Errors
    ///
    /// Something could not be read or written.
    pub async fn once(&mut self) -> Result<(), Failure> {
        self.rounds.node_mut().lock()?;
        self.rounds.hold_nothing();
        self.wait_for_lists().await?;
        let mut round = self.round(true).await?;
        if self.rounds.state().is_touched() {
            // Without a scheduler that the kernel lacks.
            round = self.round(true).await?;
        }
        if self.rounds.held_back() > 0 {
            while self.rounds.release(Instant::now()).is_none() {
                let events = self.source.next().await;
                self.rounds.take_in(events);
            }
            round = self.round(true).await?;
        }
        match round.is_partial {
            false => Ok(()),
            true => {
                let reason = "not everything could be brought to what it should be";
                Err(Failure::new(Step::Table, reason))
            }
        }
    }

    /// Waits for both lists, and says what a round would do: a line for each change, in the order in
    /// which they would be made.
    ///
    /// # Errors
    ///
    /// Something could not be read.
    pub async fn dry_run(&mut self) -> Result<String, Failure> {
        self.wait_for_lists().await?;
        let plan = self.rounds.dry_run(Instant::now()).await?;
        Ok(plan.to_string())
    }

    /// The source, for another proxy.
    pub(crate) fn into_source(self) -> S {
        self.source
    }

    /// What is known of the objects.
    pub(crate) fn state(&self) -> &State {
        self.rounds.state()
    }

    /// The addresses at which the proxy serves its own health and metrics.
    pub fn listening(&self) -> impl Iterator<Item = SocketAddr> {
        self.rounds.listeners().map(|listener| listener.address())
    }

    /// Waits for both lists, as long as they can come by themselves.
    async fn wait_for_lists(&mut self) -> Result<(), Failure> {
        while !self.rounds.state().is_complete() {
            match timeout(LOOK, self.source.next()).await {
                Ok(events) => self.rounds.take_in(events),
                Err(_) => {
                    if let Some(reason) = self.source.is_stuck() {
                        return Err(Failure::new(Step::Lists, reason));
                    }
                }
            }
        }
        Ok(())
    }

    /// One round, after the node's settings are made.
    async fn round(&mut self, is_whole: bool) -> Result<Round, Failure> {
        if !self.is_settled {
            self.rounds.node().settle(&self.config.kernel, &self.config.ownership).await?;
            self.is_settled = true;
        }
        let begin = Instant::now();
        let round = self.rounds.round(is_whole, begin).await?;
        if round.relist {
            self.source.relist();
        }
        self.rounds.record(is_whole, begin.elapsed(), SystemTime::now());
        Ok(round)
    }
}
