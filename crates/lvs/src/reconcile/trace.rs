//! What a reconciler tells `tracing` (feature `tracing`).

use std::time::Instant;

use tracing::{Span, debug, field::display, info, info_span, warn};

use super::Reconciler;
use crate::{Action, Applied, ApplyError, Outcome, Turn};

/// The span of a round.
pub(super) fn round(reconciler: &Reconciler, turn: &Turn) -> Span {
    info_span!(
        target: "lvs",
        "round",
        generation = reconciler.generation(),
        // 0 is the whole table.
        services = turn.services().map_or(0, std::collections::BTreeSet::len),
        reasons = ?turn.reasons().collect::<Vec<_>>(),
    )
}

/// The events of a round that has ended: what was done and refused, and what is to be done again.
pub(super) fn changes(result: &Result<Applied, ApplyError>) {
    let (applied, common) = match result {
        Ok(applied) => (Some(applied), None),
        Err(error) => (error.applied(), error.common()),
    };
    for (change, outcome) in applied.iter().flat_map(|applied| applied.outcomes()) {
        match (outcome, change.action()) {
            (Outcome::Failed(error), _) => {
                warn!(target: "lvs", service = %change.service(), %error, "refused");
            }
            (Outcome::Done, Action::DrainRealServer { before, .. }) => {
                let (service, real_server) = (change.service(), &before.key);
                info!(target: "lvs", %service, %real_server, "draining");
            }
            (Outcome::Done, _) => {
                debug!(target: "lvs", service = %change.service(), %change, "changed");
            }
            (Outcome::Already | Outcome::NotSent, _) => {}
        }
    }
    if let Some(error) = common {
        warn!(target: "lvs", %error, "failed");
    }
}

/// The events of what a round leaves.
pub(super) fn left(reconciler: &Reconciler, held_back: usize, repairs: u64, now: Instant) {
    let status = reconciler.status();
    if status.held_back != held_back {
        warn!(target: "lvs", removals = status.held_back, "held back");
    }
    if status.repairs != repairs {
        for undone in reconciler.undone().filter(|undone| undone.last == now) {
            let (service, times) = (undone.service, undone.times);
            let real_server = undone.real_server.map(display);
            warn!(target: "lvs", %service, real_server, times, "another program undid it");
        }
    }
    for (service, after, times) in reconciler.schedule.retried(now) {
        info!(target: "lvs", %service, ?after, times, "to be tried again");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use std::{
        io,
        sync::{Arc, Mutex},
        time::Instant,
    };

    use ipvs_client::packet::Request;
    use tracing::{Dispatch, subscriber::NoSubscriber};

    use super::super::laws::{SECOND, TWO, guarded, key, round, service, services, settled};
    use crate::{Drain, model::Errno};

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_round_tells_what_happens() {
        // While only one subscriber is alive, `tracing` asks the thread that meets a callsite first
        // whether anybody listens there, and keeps the answer. That may be another test's thread,
        // where nobody does: the round's span would then be lost. With two alive it asks both.
        let _second = Dispatch::new(NoSubscriber::new());
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .without_time()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let now = Instant::now();
            let policy = guarded(2).drain(Drain::for_at_most(9 * SECOND));
            let (mut reconciler, port) = settled(policy, services(5, TWO), now);
            reconciler.insert(service(0, &[(1, 1)]));
            round(&mut reconciler, &port, now);
            port.refuse(|write| matches!(write, Request::SetDestination(..)).then_some(Errno(5)));
            reconciler.insert(service(1, &[(1, 7), (2, 1)]));
            round(&mut reconciler, &port, now);
            port.mend();
            reconciler.set(services(1, &[(1, 1)]));
            round(&mut reconciler, &port, now);
            port.kernel().execute(&Request::DeleteService(key(0))).unwrap();
            round(&mut reconciler, &port, now + 30 * SECOND);
            port.set_unavailable(true);
            round(&mut reconciler, &port, now + 60 * SECOND);
        });
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        for expected in [
            "round{generation=1 services=0 reasons=[Event, Resync]}: lvs: changed service=-t 10.0.1.0:80",
            "round{generation=2 services=1 reasons=[Event]}: lvs: draining \
             service=-t 10.0.1.0:80 real_server=10.1.0.2:80",
            "WARN round{generation=3 services=1 reasons=[Event]}: lvs: refused \
             service=-t 10.0.1.1:80 error=",
            "lvs: to be tried again service=-t 10.0.1.1:80 after=1s times=1",
            "lvs: held back removals=12",
            "lvs: another program undid it service=-t 10.0.1.0:80 times=1",
            "lvs: another program undid it service=-t 10.0.1.0:80 real_server=10.1.0.1:80 times=1",
            "lvs: failed error=",
        ] {
            assert!(log.contains(expected), "{expected} is not in\n{log}");
        }
    }
}
