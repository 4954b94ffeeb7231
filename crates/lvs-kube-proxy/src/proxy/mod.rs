//! The proxy itself: what a source says, brought to the node and kept there.

mod carry_out;
mod checks;
mod finish;
mod guard;
mod journal;
#[cfg(test)]
mod laws;
mod rhythm;
mod round;
mod run;
mod shield;

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use ipnet::IpNet;
use lvs::Policy;
use netns_link::NetNs;

pub(crate) use self::rhythm::{FIRST_WAIT, LONGEST_WAIT};
pub use self::run::Proxy;
use self::{round::Rounds, shield::Shield};
use crate::{
    config::{Config, FilterConfig, Ownership, Pods},
    failure::{Failure, Step},
    node::{
        NoRules, Node, NodeDesired,
        kernel::{Kernel, LINK},
    },
    records::{LedgerFile, Records},
    rules::{Inside, Rules},
    settings::{Settings, ThisNode, WithoutLocal},
    state::{State, firsts},
};

/// How long the running proxy has to take a confirmation.
const CONFIRMATION: Duration = Duration::from_secs(10);

/// The rounds of a proxy on a node, of which nothing is known yet but its addresses.
async fn rounds<N: Node>(
    mut node: N,
    config: Config,
    api_server: Option<IpAddr>,
    records: Records,
) -> Result<Rounds<N>, Failure> {
    // Until the Node says more.
    let sources = [true, false].into_iter().filter_map(|ipv4| node.source(ipv4));
    let primary: Vec<_> = config.node.addresses.iter().copied().chain(sources).collect();
    let this_node = ThisNode {
        name: config.node.name.clone(),
        addresses: node.addresses().await?.node,
        given: config.node.addresses.clone(),
        primary: firsts(&primary),
        ..ThisNode::default()
    };
    let no_rules = node.look_for_rules().err();
    if let Some(NoRules { reason, .. }) = &no_rules {
        tracing::warn!(
            "nftables cannot be used ({reason}), so these do not work before they can: clients outside of the \
             cluster reach endpoints of other nodes, pods reach themselves through their service, source \
             ranges of load balancers (such an address is not served), and shielding what listens on the \
             node from service addresses"
        );
    }
    let routable = routed(&config.ownership, &this_node.addresses, api_server);
    let ranges = match no_rules.is_none() || config.ownership.routes_without_rules {
        true => routable.clone(),
        false => Vec::new(),
    };
    let settings = Settings {
        scheduler: config.services.scheduler.clone(),
        allowed_schedulers: config.services.allowed_schedulers.clone(),
        ignore_annotations: config.services.ignore_annotations,
        node_port_addresses: config.services.node_port_addresses.clone(),
        external_ips: config.services.external_ips,
        service_ranges: config.ownership.ranges.clone(),
        host_ports: config.services.host_ports,
        without_local: without_local(&config, no_rules.is_none()),
        mark_bits: config.services.mark_bits,
        pod_networks: config.services.pod_networks.clone(),
        api_server,
        ..Settings::default()
    };
    let rules = no_rules.is_none().then(|| rules(&config, &ranges));
    let shield = Shield { no_rules, routable };
    let desired = NodeDesired::new(ranges, rules);
    Ok(Rounds::new(node, config, State::new(this_node, settings), desired, shield, records))
}

/// The service ranges that can be local by a route, if any should be: one that holds an address of
/// this node or of the API server holds more than services, and their addresses become local one by
/// one.
fn routed(ownership: &Ownership, own: &BTreeSet<IpAddr>, server: Option<IpAddr>) -> Vec<IpNet> {
    let mut ranges = match ownership.has_routes {
        true => ownership.ranges.clone(),
        false => Vec::new(),
    };
    ranges.retain(|range| {
        let found = own.iter().chain(&server).find(|address| range.contains(*address));
        if let Some(address) = found {
            tracing::error!(
                "--service-cluster-ip-range: {range} contains {address}, which belongs to this node or the \
                 API server; not adding a route, using addresses on {LINK} instead"
            );
        }
        found.is_none()
    });
    ranges
}

/// What the rules are, besides what is in their sets.
fn rules(config: &Config, ranges: &[IpNet]) -> Rules {
    Rules {
        ranges: ranges.to_vec(),
        excluded: config.ownership.excluded.clone(),
        masquerade_all: config.filter.masquerade_all,
        inside: inside(&config.filter),
    }
}

/// How pods are recognised, where the configuration says so.
fn inside(config: &FilterConfig) -> Inside {
    match &config.pods {
        Pods::Networks(networks) => Inside::Networks(networks.clone()),
        // The Node says.
        Pods::OfNode => Inside::default(),
        Pods::Link { name, is_prefix } => {
            Inside::Link { name: name.clone(), is_prefix: *is_prefix }
        }
    }
}

/// What a policy of `Local` does without an endpoint here. Logs a warning if it is less than could be.
fn without_local(config: &Config, has_rules: bool) -> WithoutLocal {
    let knows_pods = config.filter.pods != Pods::Networks(Vec::new());
    let reason = match config.services.without_local {
        Some(chosen @ (WithoutLocal::FallBack | WithoutLocal::Refuse)) => return chosen,
        _ if !has_rules => "there are no nftables",
        _ if !knows_pods => "it is not known which clients are pods (--cluster-cidr)",
        _ => return WithoutLocal::ByMark,
    };
    tracing::warn!(
        "{reason}: while this node has no endpoint, external clients of a Local service are sent to other \
         nodes and get no answer (same as kube-proxy)"
    );
    WithoutLocal::FallBack
}

/// Makes the node's settings.
pub(crate) async fn init(config: &Config, namespace: &NetNs) -> Result<(), Failure> {
    let mut kernel = Kernel::open(namespace)?;
    kernel.open_ledger(&config.ownership)?;
    kernel.settle(&config.kernel, &config.ownership).await
}

/// Confirms what the running proxy holds back.
pub(crate) async fn confirm(config: &Config) -> Result<(), Failure> {
    let failed = |reason: &str| Err(Failure::new(Step::Ledger, reason));
    let Some(path) = config.ownership.ledger.as_deref() else {
        return failed("confirm needs the --state-dir of the running proxy");
    };
    let (file, _) =
        LedgerFile::open(Some(path)).map_err(|error| Failure::new(Step::Ledger, error))?;
    match file.confirm(CONFIRMATION).await {
        Ok(true) => Ok(()),
        Ok(false) => {
            failed("no proxy with this --state-dir holds anything back: nothing is confirmed")
        }
        Err(error) => Err(Failure::new(Step::Ledger, error)),
    }
}

/// Takes away what is the proxy's own in the kernel: its services, addresses and routes, then the settings
/// that it changed, and last the rules that protect the rest. What others have made stays. What is the proxy's
/// own is known from the state directory of its runs, and from the service ranges.
///
/// # Errors
///
/// Nothing is known of what a proxy has made, or one runs: nothing is taken away then. Something could not
/// be read or taken away: the next attempt goes on from there.
pub async fn clean_up(config: &Config, namespace: &NetNs) -> Result<(), Failure> {
    let mut kernel = Kernel::open(namespace)?;
    let mut ownership = config.ownership.clone();
    let mut records = kernel.open_ledger(&ownership)?;
    kernel.lock()?;
    let remains = kernel.remains()?;
    if let Some(remains) = &remains {
        ownership = remains.owned(&ownership);
        records = kernel.open_ledger(&ownership)?;
    } else if ownership.ranges.is_empty() && records.is_empty() {
        let reason = "nothing is removed, as it is not known what a proxy has made here: --cleanup needs the \
                      --state-dir of the run, or else its --service-cluster-ip-range";
        return Err(Failure::new(Step::Ledger, reason));
    }
    kernel.remove_services(&Policy::new().scope(records.scope())).await?;
    let present = kernel.addresses().await?.own;
    let own = present.into_iter().filter(|address| records.owns_address(address)).collect();
    kernel.change_addresses(&BTreeSet::new(), &own).await?;
    for range in kernel.routes().await?.into_keys() {
        kernel.remove_route(range).await?;
    }
    kernel.delete_empty_link().await?;
    // The ranges stay: another clean-up finds that nothing is left.
    if let Some(mut remains) = remains {
        let restored = kernel.restore_settings(&mut remains);
        kernel.store_remains(&remains)?;
        restored?;
    }
    kernel.remove_rules()?;
    records.clear();
    match records.to_store() {
        Some(write) => kernel.store(&write).await,
        None => Ok(()),
    }
}
