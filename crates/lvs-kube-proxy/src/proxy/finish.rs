//! The end of a round: what is served and told after it, what is counted, and what failed.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use lvs::client::packet::AddressFamily;

use super::round::{Progress, Round, Rounds};
use crate::{
    config::GoDuration,
    failure::Failure,
    health::Condition,
    metrics::{ChangeKind, Counts},
    node::Node,
    translate::Target,
};

impl<N: Node> Rounds<N> {
    /// Takes in how it stands, and serves the health checks that are wanted.
    pub(super) fn finish(
        &mut self,
        is_whole: bool,
        now: Instant,
        progress: &Progress,
    ) -> Result<Round, Failure> {
        let held_back = progress.held_back;
        self.health.metrics.changed(ChangeKind::Address, progress.addresses);
        let relist = self.guard.after(&self.draining.held_back(), now);
        if relist {
            tracing::warn!(
                "deletion of {held_back} services and endpoints (over half of the table) postponed until \
                 fresh lists confirm it and --hold ({}) is over, or `lvs-kube-proxy confirm` confirms it",
                GoDuration(self.guard.hold())
            );
        }
        let holding = (held_back > 0).then(|| {
            let left = self
                .guard
                .until()
                .map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
            format!(
                "deletion of {held_back} services and endpoints is held back for {} s",
                left.as_secs()
            )
        });
        self.health.set_condition(Condition::Holding, holding);
        if is_whole {
            self.journal.end_of_whole_round();
        }
        let mut is_partial = progress.has_failed;
        let (settings, node) = (self.state.settings(), self.state.node());
        let addresses = !settings.node_port_addresses.is_empty();
        self.health.set_check_addresses(addresses.then(|| {
            let of = |ipv4| node.node_port_addresses(settings, ipv4);
            of(true).into_iter().chain(of(false)).collect()
        }));
        // Load balancers hear of what is gone when it is.
        if held_back == 0 {
            let failures =
                self.checks.serve_services(&mut self.node, &self.desired.checks, &self.health);
            is_partial |= self.fail_all(&failures);
        }
        self.count(held_back);
        let leaving = self.draining.iter();
        let leaving = leaving.map(|(_, server, _)| SocketAddr::new(server.address, server.port));
        self.state.forget_ended(&leaving.collect());
        self.health.metrics.asked(self.node.take_counts());
        Ok(Round { is_partial, relist })
    }

    fn count(&mut self, held_back: usize) {
        let table = &self.desired.table;
        let mut counts = Counts {
            virtual_services: table.len(),
            real_servers: table.iter().map(|service| service.destinations().len()).sum(),
            draining: self.draining.iter().len(),
            failing: self.journal.failing().count(),
            addresses: self.present.addresses.len(),
            held_back,
            ..Counts::default()
        };
        for (_, translation) in self.state.translations() {
            counts.limited += usize::from(translation.is_cut);
            let (internal, external) =
                (translation.no_local_internal, translation.no_local_external);
            if !internal && !external {
                continue;
            }
            for (family, found) in
                [(AddressFamily::Ipv4, &mut counts.ipv4), (AddressFamily::Ipv6, &mut counts.ipv6)]
            {
                let mut keys = translation.targets.iter().map(Target::key);
                if keys.any(|key| key.family() == family) {
                    found.internal += usize::from(internal);
                    found.external += usize::from(external);
                }
            }
        }
        self.counts = counts;
    }

    /// Takes in a failure that holds up nothing else.
    pub(super) fn fail(&mut self, failure: &Failure) -> bool {
        if let Some(text) = self.note(failure) {
            tracing::error!("{text}; will retry");
        }
        true
    }

    pub(super) fn fail_all(&mut self, failures: &[Failure]) -> bool {
        for failure in failures {
            self.fail(failure);
        }
        !failures.is_empty()
    }

    /// Takes in a failure, and returns what has to be logged of it.
    pub(super) fn note(&mut self, failure: &Failure) -> Option<String> {
        self.health.metrics.failed(failure.step);
        self.journal.note(failure)
    }
}
