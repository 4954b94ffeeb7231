//! What nftables guard, and what becomes of it while they cannot be used: no service is open to those whom
//! its source ranges keep out, and no range of services makes the node's listeners reachable.

use std::{collections::BTreeSet, time::Instant};

use ipnet::IpNet;
use lvs::{
    Plan, Policy,
    client::{Snapshot, packet::ServiceKey},
};

use super::{journal::log_failures, round::Rounds, rules, without_local};
use crate::{
    failure::{Failure, Step},
    health::Condition,
    node::{Extent, NoRules, Node},
    rules::RuleSet,
    settings::Settings,
};

/// What is known of nftables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shield {
    /// Why they cannot be used, if so.
    pub(super) no_rules: Option<NoRules>,
    /// The ranges that become local by a route where there are rules.
    pub(super) routable: Vec<IpNet>,
}

impl<N: Node> Rounds<N> {
    /// Looks for nftables again, while they cannot be used. When they can, everything has to be looked at
    /// with other eyes; returns whether that is so.
    pub(super) fn look_for_rules(&mut self) -> bool {
        if self.shield.no_rules.is_none() {
            return false;
        }
        self.shield.no_rules = self.node.look_for_rules().err();
        if self.shield.no_rules.is_some() {
            return false;
        }
        tracing::info!("nftables can be used now");
        let ranges = self.shield.routable.clone();
        let rules = rules(&self.config, &ranges);
        self.desired.begin_rules(ranges, rules);
        self.state.set_settings(Settings {
            without_local: without_local(&self.config, true),
            ..self.state.settings().clone()
        });
        self.state.look_at_all();
        true
    }

    /// Why the kernel may lack rules, if it may.
    fn lacking(&self) -> Option<String> {
        if let Some(no_rules) = &self.shield.no_rules {
            return Some(format!("nftables cannot be used: {}", no_rules.reason));
        }
        let has_failed = self.desired.rules.as_ref().is_some_and(RuleSet::has_failed);
        has_failed.then(|| "the rules of nftables could not be written".to_owned())
    }

    /// The services that are not served because the rules that restrict them are lacking. Where rules of an
    /// earlier write may be in force, what is there stays; where there can be none, it goes.
    fn unprotected(&self, table: &Snapshot) -> BTreeSet<ServiceKey> {
        if self.config.filter.serve_unrestricted || self.lacking().is_none() {
            return BTreeSet::new();
        }
        let may_be_there = self.shield.no_rules.as_ref().is_none_or(|it| it.may_be_there);
        self.desired.restricted_without(may_be_there.then_some(table))
    }

    /// The plan for the table, where rules may be lacking, and without what waits. No source was lost here, so
    /// the guard lets it go.
    pub(super) fn plan_protected(
        &mut self,
        extent: &Extent,
        table: &Snapshot,
        policy: &Policy,
        now: Instant,
        waiting: &BTreeSet<ServiceKey>,
    ) -> (Plan, Option<Instant>) {
        let unprotected = self.unprotected(table);
        let without = &unprotected | waiting;
        let planned = self.plan_table(extent, table, policy, now, &without);
        let held_back = self.draining.held_back();
        let held_back = held_back.filter(|removal| unprotected.contains(&removal.service));
        if held_back.is_empty() {
            return planned;
        }
        self.draining.confirm(&held_back);
        self.plan_table(extent, table, policy, now, &without)
    }

    /// Says which services are not served for want of rules. Returns whether there are any.
    pub(super) fn say_unprotected(&mut self, extent: &Extent, table: &Snapshot) -> bool {
        let lacking = self.lacking();
        self.health.set_condition(Condition::RulesUnusable, lacking.clone());
        let Some(reason) = lacking else { return false };
        let mut unprotected = self.unprotected(table);
        // Others were not read.
        unprotected.retain(|key| match extent {
            Extent::Whole => true,
            Extent::Services(services) => services.contains(key),
        });
        let mut news = Vec::new();
        for key in &unprotected {
            let Some((name, _)) = self.state.target(key) else { continue };
            let text =
                format!("service {name}: {key} is not served without its source ranges: {reason}");
            // What failed is counted already: the rules.
            news.extend(self.journal.note(&Failure::new(Step::Rules, text)));
        }
        log_failures(&news);
        !unprotected.is_empty()
    }
}
