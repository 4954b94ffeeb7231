//! Applies that wait until what leaves is gone.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use ipvs_client::packet::ServiceKey;

use crate::{
    Applied, ApplyError, Desired, Draining, Policy, Port, Reconciler, port::read_services,
    schedule::later,
};

impl Desired {
    /// [`apply`](Self::apply), and then waits for what the policy [drains](Policy::drain): it takes real
    /// servers away when they are empty or their time is over, and returns when all are gone, at the
    /// latest after `at_most`. [`Applied::draining`] names what is left then, at weight 0.
    ///
    /// `sleep` waits for so long: `tokio::time::sleep`, or for a program without async
    /// `async |time| std::thread::sleep(time)`, with [`block_on`](crate::block_on). Dropped half-way, the
    /// table is as an apply leaves it.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use lvs::{Desired, Drain, Policy, block_on, client::blocking::Client};
    ///
    /// let ipvs = Client::connect()?;
    /// let desired: Desired = std::fs::read_to_string("/etc/ipvsadm.rules")?.parse()?;
    /// let policy = Policy::new().drain(Drain::for_at_most(Duration::from_secs(60)));
    /// let sleep = async |time| std::thread::sleep(time);
    /// let applied =
    ///     block_on(desired.apply_until_drained(&ipvs, &policy, Duration::from_secs(90), sleep))?;
    /// for (service, real_server) in applied.draining() {
    ///     println!("{service} -> {real_server} is left at weight 0");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Plan::apply`](crate::Plan::apply), with what was done up to then. A service of which something
    /// failed is left as it is; what drains in the others is waited for.
    pub async fn apply_until_drained(
        &self,
        port: &impl Port,
        policy: &Policy,
        at_most: Duration,
        sleep: impl AsyncFn(Duration),
    ) -> Result<Applied, ApplyError> {
        let mut clock = Clock::new(port, Instant::now());
        let end = later(clock.start, at_most);
        let mut draining = Draining::new();
        let table = port.snapshot().await.map_err(ApplyError::unread)?;
        let (plan, _) = draining.step(self, &table, policy, clock.start);
        let (mut applied, mut common) = parts(plan.apply(port).await);
        let mut failed = BTreeSet::new();
        while common.is_none() {
            failed.extend(applied.iter().flat_map(Applied::failed).map(|(it, _)| *it.service()));
            failed.extend(applied.iter().flat_map(Applied::unreadable_services).copied());
            let looks = draining.looks(policy, clock.now(port));
            let looks = looks.into_iter().filter(|(key, _)| !failed.contains(key));
            let (keys, looks): (BTreeSet<ServiceKey>, Vec<Instant>) = looks.unzip();
            let now = clock.now(port);
            let Some(look) = looks.into_iter().min().filter(|_| now < end) else { break };
            clock.sleep(look.min(end) - now, &sleep).await;
            match read_services(port, &keys).await {
                Ok(table) => {
                    let now = clock.now(port);
                    let (plan, _) = draining.step_of_services(&keys, self, &table, policy, now);
                    let (next, error) = parts(plan.apply(port).await);
                    common = error;
                    applied = match (applied, next) {
                        (Some(applied), Some(next)) => Some(applied.then(next)),
                        (applied, next) => applied.or(next),
                    };
                }
                Err(error) => common = Some(error),
            }
        }
        let applied = applied.map(|applied| applied.with_draining(&draining));
        ApplyError::unless_done(applied, common)
    }
}

impl Reconciler {
    /// Rounds, until nothing is left to do but to wait for the next resync: at the latest after `at_most`.
    /// Returns whether that is so ([`is_settled`](Self::is_settled)); [`draining`](Self::draining) and
    /// [`held_back`](Self::held_back) name what is left, and [`status`](Self::status) has the last error.
    ///
    /// After [`drain_all`](Self::drain_all) it is the end of a program that was told to stop: everything
    /// is drained, and it returns when the last connection has ended. `now` and `sleep` are as for
    /// [`round`](Self::round) and [`Desired::apply_until_drained`].
    ///
    /// ```no_run
    /// use std::time::{Duration, Instant};
    ///
    /// use lvs::{Drain, Policy, Reconciler, client::Client};
    ///
    /// # async fn example(reconciler: &mut Reconciler, ipvs: &Client) {
    /// // SIGTERM came.
    /// reconciler.drain_all(Drain::for_at_most(Duration::from_secs(25)));
    /// let limit = Duration::from_secs(30);
    /// let sleep = async |time| tokio::time::sleep(time).await;
    /// if !reconciler.until_settled(ipvs, Instant::now(), limit, sleep).await {
    ///     eprintln!("{} real servers had connections still", reconciler.draining().len());
    /// }
    /// # }
    /// ```
    pub async fn until_settled(
        &mut self,
        port: &impl Port,
        now: Instant,
        at_most: Duration,
        sleep: impl AsyncFn(Duration),
    ) -> bool {
        let mut clock = Clock::new(port, now);
        let end = later(now, at_most);
        loop {
            let now = clock.now(port);
            if self.round(port, now).await.is_some() && !self.is_settled() {
                continue;
            }
            let now = clock.now(port);
            let due = self.due(now).filter(|_| !self.is_settled() && now < end);
            let Some(due) = due else { return self.is_settled() };
            clock.sleep(due.min(end) - now, &sleep).await;
        }
    }
}

/// The time, by the port's clock and by what was slept: a port without a kernel knows nothing of that.
struct Clock {
    start: Instant,
    began: Duration,
    slept: Duration,
}

impl Clock {
    fn new(port: &impl Port, start: Instant) -> Self {
        Self { start, began: port.clock(), slept: Duration::ZERO }
    }

    fn now(&self, port: &impl Port) -> Instant {
        later(self.start, port.clock().saturating_sub(self.began).max(self.slept))
    }

    async fn sleep(&mut self, time: Duration, sleep: &impl AsyncFn(Duration)) {
        // Timers end on whole milliseconds; a moment too late is better than a look too early.
        let time = time.max(Duration::from_millis(1));
        sleep(time).await;
        self.slept = self.slept.saturating_add(time);
    }
}

fn parts(result: Result<Applied, ApplyError>) -> (Option<Applied>, Option<ipvs_client::Error>) {
    match result {
        Ok(applied) => (Some(applied), None),
        Err(error) => error.into_parts(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use std::cell::RefCell;

    use super::*;
    use crate::{
        Drain, RealServer, VirtualService, block_on,
        model::{Errno, Kernel, Scripted},
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn web(number: u8, hosts: &[u8]) -> VirtualService {
        let servers = hosts.iter().map(|host| RealServer::nat(([10, 1, number, *host], 80).into()));
        VirtualService::tcp(([10, 0, 1, number], 80).into()).real_servers(servers).build().unwrap()
    }

    fn both(hosts: &[u8]) -> Desired {
        [web(1, hosts), web(2, hosts)].into_iter().collect::<Result<_, _>>().unwrap()
    }

    fn set(port: &Scripted, number: u8, active: u32) {
        let at = format!("10.1.{number}.2:80").parse().unwrap();
        assert!(port.kernel().set_connections(web(number, &[]).key(), &at, active, 0));
    }

    /// Two services of which the second real server has connections.
    fn busy() -> Scripted {
        let port = Scripted::new(Kernel::new());
        block_on(both(&[1, 2]).apply(&port, &Policy::new())).unwrap();
        set(&port, 1, 1);
        set(&port, 2, 1);
        port
    }

    fn drains(limit: Duration) -> Policy {
        Policy::new().drain(Drain::for_at_most(limit))
    }

    #[test]
    fn an_apply_waits_for_the_last_connection() {
        let (port, slept) = (busy(), RefCell::new(Vec::new()));
        let sleep = async |time| {
            slept.borrow_mut().push(time);
            match slept.borrow().len() {
                3 => set(&port, 1, 0),
                5 => set(&port, 2, 0),
                _ => {}
            }
        };
        let desired = both(&[1]);
        let applied =
            block_on(desired.apply_until_drained(&port, &drains(60 * SECOND), 90 * SECOND, sleep));
        let applied = applied.unwrap();
        // Two lose their weight, and two are deleted.
        assert_eq!((applied.len(), applied.draining().count()), (4, 0));
        assert_eq!(slept.into_inner(), [SECOND; 5]);
        assert_eq!(Desired::try_from(&port.kernel().snapshot()).unwrap(), desired);
    }

    #[test]
    fn an_apply_says_what_was_left() {
        for (limit, left) in [(SECOND * 5 / 2, 2), (SECOND * 4, 0)] {
            let (port, slept) = (busy(), RefCell::new(Duration::ZERO));
            let sleep = async |time| *slept.borrow_mut() += time;
            let desired = both(&[1]);
            let policy = drains(SECOND * 3);
            let applied =
                block_on(desired.apply_until_drained(&port, &policy, limit, sleep)).unwrap();
            assert_eq!(applied.draining().count(), left);
            assert_eq!(slept.into_inner(), limit.min(SECOND * 3));
            let table = port.kernel().snapshot();
            let servers = table.services.values().map(|it| it.destinations.len());
            assert_eq!(servers.sum::<usize>(), 2 + left);
        }
    }

    #[test]
    fn a_failure_in_one_service_leaves_the_others() {
        let port = busy();
        port.refuse(|write| {
            let is_bad = format!("{write:?}").contains("10.0.1.1");
            is_bad.then_some(Errno(5))
        });
        let tries = RefCell::new(0);
        let sleep = async |_| {
            *tries.borrow_mut() += 1;
            set(&port, 2, 0);
        };
        let desired = both(&[1]);
        let result =
            block_on(desired.apply_until_drained(&port, &drains(60 * SECOND), 90 * SECOND, sleep));
        let error = result.unwrap_err();
        let applied = error.applied().unwrap();
        assert_eq!((applied.len(), applied.failed().count(), tries.into_inner()), (2, 1, 1));
        // A table that cannot be read ends it, with what was done.
        let port = busy();
        let sleep = async |_| port.set_unavailable(true);
        let result =
            block_on(desired.apply_until_drained(&port, &drains(60 * SECOND), 90 * SECOND, sleep));
        let error = result.unwrap_err();
        assert!(error.common().is_some());
        let applied = error.applied().unwrap();
        assert_eq!((applied.len(), applied.draining().count()), (2, 2));
    }

    #[test]
    fn a_program_ends_when_everything_is_drained() {
        for (ends, at_most, expected) in [(Some(4), 30, true), (None, 30, true), (None, 10, false)]
        {
            let port = busy();
            let mut reconciler = Reconciler::new(Policy::new());
            reconciler.set(both(&[1, 2]));
            let (start, looks) = (Instant::now(), RefCell::new(0));
            block_on(reconciler.round(&port, start)).unwrap();
            reconciler.drain_all(Drain::for_at_most(20 * SECOND));
            let sleep = async |_| {
                *looks.borrow_mut() += 1;
                if Some(*looks.borrow()) == ends {
                    set(&port, 1, 0);
                    set(&port, 2, 0);
                }
            };
            let settled = reconciler.until_settled(&port, start, at_most * SECOND, sleep);
            assert_eq!(block_on(settled), expected);
            assert_eq!(looks.into_inner(), ends.unwrap_or(20.min(at_most)));
            assert_eq!(port.kernel().snapshot().services.len(), if expected { 0 } else { 2 });
            assert_eq!(reconciler.draining().len(), if expected { 0 } else { 4 });
        }
    }
}
