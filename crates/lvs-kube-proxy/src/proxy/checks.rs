//! Where the proxy serves: its own health and metrics, and the health of services.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    config::ListenConfig,
    failure::{Failure, Step},
    health::Health,
    node::{Listening, Node},
    object::ObjectName,
    translate::HealthCheck,
};

/// What is served; each ends when it is not wanted any more.
#[derive(Debug)]
pub(crate) struct Checks<L> {
    own: BTreeMap<Listening, L>,
    services: BTreeMap<u16, L>,
}

impl<L> Default for Checks<L> {
    fn default() -> Self {
        Self { own: BTreeMap::new(), services: BTreeMap::new() }
    }
}

impl<L> Checks<L> {
    /// Serves health and metrics where that is not done yet. Returns what failed.
    pub(crate) fn serve_own<N: Node<Listener = L>>(
        &mut self,
        node: &mut N,
        config: &ListenConfig,
        health: &Arc<Health>,
    ) -> Vec<Failure> {
        let mut failures = Vec::new();
        for address in config.addresses() {
            let with_metrics = config.metrics == Some(address);
            let place = Listening::Own { address, with_metrics };
            if self.own.contains_key(&place) {
                continue;
            }
            match node.listen(place, health) {
                Ok(listener) => {
                    self.own.insert(place, listener);
                }
                Err(failure) => failures.push(Failure::new(
                    Step::Listen,
                    format!("listen on {address} for health and metrics: {failure}"),
                )),
            }
        }
        failures
    }

    /// Serves the health checks that are wanted, and no others. Returns what failed.
    pub(crate) fn serve_services<N: Node<Listener = L>>(
        &mut self,
        node: &mut N,
        checks: &BTreeMap<u16, (ObjectName, HealthCheck)>,
        health: &Arc<Health>,
    ) -> Vec<Failure> {
        let mut failures = Vec::new();
        self.services.retain(|port, _| checks.contains_key(port));
        for (port, (name, _)) in checks {
            if self.services.contains_key(port) {
                continue;
            }
            match node.listen(Listening::Service { port: *port }, health) {
                Ok(listener) => {
                    self.services.insert(*port, listener);
                }
                Err(failure) => failures.push(Failure::new(
                    Step::Listen,
                    format!("service {name}: listen on its health check port {port}: {failure}"),
                )),
            }
        }
        health.set_checks(checks);
        failures
    }

    /// Where the proxy serves its own health and metrics.
    pub(crate) fn own(&self) -> impl Iterator<Item = &L> {
        self.own.values()
    }
}
