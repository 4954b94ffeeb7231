//! What lies between what should be on the node and what is there.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use ipnet::IpNet;
use lvs::{Plan, client::packet::ServiceKey};

use super::{NodeDesired, NodePresent, Routes};
use crate::{
    records::Records,
    rules::{RulePlan, RuleSet},
};

/// How much a plan is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Everything, whatever others have done.
    Whole,
    /// What belongs to these services.
    Services(BTreeSet<ServiceKey>),
}

/// The parts of a plan, in the order in which they are carried out: what lets traffic in comes before
/// the table, and what is for services that go, after it. If deletions are held back, nothing of what
/// follows the table is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// What is about to be made is noted in the ledger.
    Claim,
    /// Ranges and addresses become local.
    AddRoutes,
    /// The proxy's link gets addresses.
    AddAddresses,
    /// Rules of services that come or change, before these, so that no connection misses them.
    LetIn,
    /// The table of IPVS.
    Table,
    /// Rules of services that are gone.
    ShutOut,
    /// Addresses of services that are gone.
    RemoveAddresses,
    /// Routes of addresses and ranges that are gone.
    RemoveRoutes,
    /// What is gone is forgotten in the ledger.
    Settle,
}

/// What has to be done so that the node is as it should be.
///
/// It displays as a line for each change, in the order in which they are made.
#[derive(Debug)]
pub(crate) struct NodePlan {
    /// The services and addresses that are claimed.
    pub(crate) claims: (BTreeSet<ServiceKey>, BTreeSet<IpAddr>),
    /// New, or with another source.
    pub(crate) new_routes: Routes,
    pub(crate) new_addresses: BTreeSet<IpAddr>,
    /// Addresses of the link before which the kernel's own routes may come.
    pub(crate) addresses: BTreeSet<IpAddr>,
    pub(crate) rules: RulePlan,
    pub(crate) table: Plan,
    /// Rules that are known now to go; others follow from the table.
    pub(crate) old_rules: RulePlan,
    pub(crate) old_addresses: BTreeSet<IpAddr>,
    pub(crate) old_routes: BTreeSet<IpNet>,
}

impl NodePlan {
    /// The plan for all of the node, or for what belongs to some services. The table's part is planned
    /// apart, as it depends on time.
    pub(crate) fn between(
        present: &NodePresent,
        desired: &NodeDesired,
        extent: &Extent,
        records: &Records,
        claims: BTreeSet<ServiceKey>,
        table: Plan,
    ) -> Self {
        let (wanted, routes, gone): (_, _, BTreeSet<IpAddr>) = match extent {
            Extent::Whole => {
                let gone = present.addresses.difference(&desired.addresses);
                (desired.addresses.clone(), desired.routes(), gone.copied().collect())
            }
            Extent::Services(services) => {
                let wanted = desired.addresses_of(services);
                let routes = desired.routes_of(&wanted);
                let of_services = services.iter().filter_map(|key| match key {
                    ServiceKey::Address { address, .. } => Some(*address),
                    ServiceKey::Mark { .. } => None,
                });
                let is_gone = |address: &IpAddr| {
                    present.addresses.contains(address) && !desired.addresses.contains(address)
                };
                (wanted, routes, of_services.filter(is_gone).collect())
            }
        };
        let old_addresses: BTreeSet<_> =
            gone.into_iter().filter(|address| records.owns_address(address)).collect();
        let old_routes = match extent {
            Extent::Whole => {
                present.routes.keys().filter(|range| !routes.contains_key(range)).copied().collect()
            }
            Extent::Services(_) => {
                let single = old_addresses.iter().map(|address| IpNet::from(*address));
                single.filter(|range| present.routes.contains_key(range)).collect()
            }
        };
        let is_there =
            |range: &IpNet, source: &Option<IpAddr>| present.routes.get(range) == Some(source);
        let new_addresses: BTreeSet<_> = wanted.difference(&present.addresses).copied().collect();
        Self {
            claims: (claims, wanted.clone()),
            new_routes: routes
                .into_iter()
                .filter(|(range, source)| !is_there(range, source))
                .collect(),
            addresses: match extent {
                Extent::Whole => wanted,
                Extent::Services(_) => new_addresses.clone(),
            },
            new_addresses,
            rules: desired.rules.as_ref().map(RuleSet::plan).unwrap_or_default(),
            table,
            old_rules: RulePlan::default(),
            old_addresses,
            old_routes,
        }
    }

    /// Without new addresses that are not in the stored ledger, and their routes: a proxy that is killed
    /// after they were made would not know them for its own.
    pub(crate) fn drop_unproven(&mut self, records: &Records, present: &NodePresent) {
        let waits = |address: &IpAddr| {
            !records.proves_address(address) && !present.addresses.contains(address)
        };
        self.new_addresses.retain(|address| !waits(address));
        self.addresses.retain(|address| !waits(address));
        self.new_routes.retain(|range, _| {
            let is_of_one = range.prefix_len() == range.max_prefix_len();
            !is_of_one || !waits(&range.addr())
        });
    }

    /// With rules as they are listed, for those who want to know.
    pub(crate) fn with_rules(mut self, rules: RulePlan) -> Self {
        (self.rules, self.old_rules) = rules.split();
        self
    }

    /// The lines of a phase.
    fn phase(&self, phase: Phase) -> String {
        let source = |source: &Option<IpAddr>| {
            source.map_or(String::new(), |source| format!(" src {source}"))
        };
        match phase {
            Phase::Claim | Phase::Settle => String::new(),
            Phase::AddRoutes => self
                .new_routes
                .iter()
                .map(|(range, from)| format!("+ local {range} dev lo{}\n", source(from)))
                .collect(),
            Phase::AddAddresses => {
                self.new_addresses.iter().map(|address| format!("+ address {address}\n")).collect()
            }
            Phase::LetIn => self.rules.to_string(),
            Phase::Table => self.table.to_string(),
            Phase::ShutOut => self.old_rules.to_string(),
            Phase::RemoveAddresses => {
                self.old_addresses.iter().map(|address| format!("- address {address}\n")).collect()
            }
            Phase::RemoveRoutes => {
                self.old_routes.iter().map(|range| format!("- local {range} dev lo\n")).collect()
            }
        }
    }
}

impl Phase {
    /// The phases in order.
    pub(crate) const ALL: [Self; 9] = [
        Self::Claim,
        Self::AddRoutes,
        Self::AddAddresses,
        Self::LetIn,
        Self::Table,
        Self::ShutOut,
        Self::RemoveAddresses,
        Self::RemoveRoutes,
        Self::Settle,
    ];
}

impl fmt::Display for NodePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Phase::ALL.iter().try_for_each(|phase| f.write_str(&self.phase(*phase)))
    }
}
