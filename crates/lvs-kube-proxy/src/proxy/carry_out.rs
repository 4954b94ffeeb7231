//! How a plan is carried out, phase by phase. What is refused costs nothing but itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use lvs::{
    Action, Plan, Policy,
    client::{
        Snapshot,
        packet::{DestinationKey, ServiceKey},
    },
};

use super::{
    journal::{LOG_LIMIT, log_failures},
    round::{Progress, Rounds},
};
use crate::{
    failure::{Failure, Step},
    metrics::ChangeKind,
    node::{Extent, Node, NodePlan, Phase, StaleClients, Written},
    rules::RulePlan,
};

impl<N: Node> Rounds<N> {
    /// Carries out a phase of a plan. What is refused there costs nothing but itself.
    pub(super) async fn carry_out(
        &mut self,
        phase: Phase,
        plan: &mut NodePlan,
        present: &mut Snapshot,
        extent: &Extent,
        now: Instant,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        match phase {
            Phase::Claim => {
                let (services, addresses) = &plan.claims;
                self.records.claim(&self.desired.table, services, addresses);
                progress.has_failed |= self.store().await;
                plan.drop_unproven(&self.records, &self.present);
            }
            Phase::AddRoutes => {
                for (range, source) in std::mem::take(&mut plan.new_routes) {
                    match self.node.add_route(range, source).await {
                        Ok(()) => {
                            tracing::info!("+ local {range}{}", from(source));
                            self.present.routes.insert(range, source);
                        }
                        Err(failure) => progress.has_failed |= self.fail(&failure),
                    }
                }
            }
            Phase::AddAddresses => {
                let new = std::mem::take(&mut plan.new_addresses);
                if !new.is_empty() {
                    match self.node.change_addresses(&new, &BTreeSet::new()).await {
                        Ok(()) => progress.addresses += new.len(),
                        Err(failure) => progress.has_failed |= self.fail(&failure),
                    }
                    // Some may be there even if others were refused.
                    self.present.addresses.extend(&new);
                }
                if plan.addresses.iter().any(IpAddr::is_ipv6) {
                    let removed = self.node.remove_routes_of_kernel(&plan.addresses, &new).await;
                    if let Err(failure) = removed {
                        progress.has_failed |= self.fail(&failure);
                    }
                }
            }
            Phase::LetIn => {
                let rules = std::mem::take(&mut plan.rules);
                progress.has_failed |= self.write_rules(&rules).await;
            }
            Phase::Table => {
                let table = std::mem::replace(&mut plan.table, nothing());
                let written = self.node.write_table(table).await;
                for change in &written.done {
                    if let Action::DeleteService { .. } = change.action() {
                        present.services.remove(change.service());
                    }
                }
                let refused = refused_servers(&written);
                self.take_in_written(written, progress).await?;
                self.pending.clear();
                self.let_others_go(&refused, now, progress).await?;
            }
            Phase::ShutOut => {
                if let Some(rules) = &mut self.desired.rules {
                    let is_read = |key: &ServiceKey| match extent {
                        Extent::Whole => true,
                        Extent::Services(services) => services.contains(key),
                    };
                    rules.drop_gone(|key| is_read(key) && !present.services.contains_key(key));
                    let plan = rules.plan();
                    progress.has_failed |= self.write_rules(&plan).await;
                }
            }
            Phase::RemoveAddresses => {
                let old = std::mem::take(&mut plan.old_addresses);
                if !old.is_empty() {
                    match self.node.change_addresses(&BTreeSet::new(), &old).await {
                        Ok(()) => {
                            progress.addresses += old.len();
                            self.present.addresses.retain(|address| !old.contains(address));
                        }
                        Err(failure) => progress.has_failed |= self.fail(&failure),
                    }
                }
            }
            Phase::RemoveRoutes => {
                for range in std::mem::take(&mut plan.old_routes) {
                    match self.node.remove_route(range).await {
                        Ok(()) => {
                            tracing::info!("- local {range}");
                            self.present.routes.remove(&range);
                        }
                        Err(failure) => progress.has_failed |= self.fail(&failure),
                    }
                }
            }
            // What is gone can be told only if everything was read.
            Phase::Settle if *extent == Extent::Whole => {
                let addresses = &self.present.addresses;
                let stays = |address: &IpAddr| addresses.contains(address);
                self.records.settle(&self.desired.table, present, stays);
                progress.has_failed |= self.store().await;
            }
            Phase::Settle => {}
        }
        Ok(())
    }

    /// Stores the ledger, if that is needed. Returns whether it failed.
    async fn store(&mut self) -> bool {
        let Some(write) = self.records.to_store() else { return false };
        let stored = self.node.store(&write).await;
        self.records.has_stored(stored.is_ok());
        stored.is_err_and(|failure| self.fail(&failure))
    }

    /// Writes rules. Returns whether that failed.
    async fn write_rules(&mut self, plan: &RulePlan) -> bool {
        let Some(rules) = &mut self.desired.rules else { return false };
        let Some(write) = rules.write(plan) else { return false };
        let before = self.node.rules_generation();
        match self.node.write_rules(write).await {
            Ok(()) => {
                rules.has_written(before, self.node.rules_generation());
                false
            }
            Err(failure) => {
                rules.has_not_written();
                self.fail(&failure)
            }
        }
    }

    /// Takes in what became of the table's plan.
    async fn take_in_written(
        &mut self,
        written: Written,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        self.log_changes(&written);
        let stale = self.desired.stale_clients(&written.done);
        if !stale.0.is_empty() {
            self.forget_clients(&stale).await;
        }
        let (mut lacking, mut news) = (BTreeSet::new(), Vec::new());
        for refused in written.refused {
            let service = self.desired.table.get(&refused.service);
            let scheduler = service.map(|service| service.service().scheduler.to_string());
            match scheduler.filter(|name| *name != self.state.settings().scheduler) {
                Some(name) if refused.lacks_scheduler => {
                    lacking.insert(name);
                }
                _ => {
                    progress.has_failed = true;
                    news.extend(self.note(&Failure::new(Step::Table, refused.reason)));
                }
            }
        }
        log_failures(&news);
        if let Some(failure) = written.common {
            return Err(failure);
        }
        // Whatever this round was about: an address may be that of a service that is held back.
        progress.held_back = self.draining.held_back_count();
        // Translated again, with the default in their place, which is then written at once.
        lacking.into_iter().for_each(|name| self.state.refuse_scheduler(name));
        Ok(())
    }

    /// What is refused in a service holds back all that goes there. One bad endpoint is no reason to lead
    /// clients to those that are gone: where there are usable ones, these go all the same.
    async fn let_others_go(
        &mut self,
        refused: &BTreeMap<ServiceKey, BTreeSet<DestinationKey>>,
        now: Instant,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let desired = self.desired.without_refused(refused);
        if desired.is_empty() {
            return Ok(());
        }
        let services: BTreeSet<ServiceKey> = desired.keys().copied().collect();
        let table = self.node.table(Some(&services)).await?;
        let policy = self.policy();
        let (plan, look) =
            self.draining.step_of_services(&services, &desired, &table, &policy, now);
        self.look = [self.look, look].into_iter().flatten().min();
        let written = self.node.write_table(plan).await;
        self.take_in_written(written, progress).await
    }

    fn log_changes(&self, written: &Written) {
        let count = written.done.len();
        self.health.metrics.changed(ChangeKind::Table, count);
        if count > LOG_LIMIT {
            tracing::info!("{count} changes in the table");
        }
        for change in &written.done {
            match count > LOG_LIMIT {
                true => tracing::debug!("{change}"),
                false => tracing::info!("{change}"),
            }
        }
    }

    async fn forget_clients(&mut self, stale: &StaleClients) {
        match self.node.forget_clients(stale).await {
            Ok(0) => {}
            Ok(count) => {
                self.health.metrics.changed(ChangeKind::Flow, count);
                tracing::info!("{count} UDP entries of connection tracking deleted");
            }
            Err(failure) => {
                self.health.metrics.failed(failure.step);
                tracing::warn!(
                    "delete UDP entries of connection tracking: {failure}; UDP clients of removed endpoints \
                     may see no replies until their conntrack entry expires"
                );
            }
        }
    }
}

/// The real servers that were refused, by service.
fn refused_servers(written: &Written) -> BTreeMap<ServiceKey, BTreeSet<DestinationKey>> {
    let mut servers: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for refused in &written.refused {
        if let Some(server) = refused.real_server {
            servers.entry(refused.service).or_default().insert(server);
        }
    }
    servers
}

/// A plan that does nothing.
fn nothing() -> Plan {
    Plan::new(&lvs::Desired::new(), &Snapshot::new(), &Policy::new())
}

fn from(source: Option<IpAddr>) -> String {
    source.map_or(String::new(), |source| format!(" src {source}"))
}
