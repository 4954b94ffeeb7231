//! What IPVS cannot do by itself, as one table of nftables: source addresses that can be answered to,
//! and who may reach what.
//!
//! - A pod that reaches itself through its service gets the node's address as source. (On a bridge, its
//!   port needs hairpin mode, too.)
//! - Clients of node ports, external and load-balancer addresses with the policy `Cluster` get the
//!   node's address as source, so that endpoints of other nodes answer through this one. With
//!   `--masquerade-all` so do those of cluster addresses.
//! - A load balancer's addresses serve the service's source ranges only.
//! - At a service's addresses nothing but its ports is reached: not what else listens on the node.
//!
//! The decision is made in the postrouting hook by the connection's original destination, which is the
//! virtual service (`net.ipv4.vs.conntrack` is 1): no packet is marked.
//!
//! Here the rules are values. The node's kernel takes them as text, by the program `nft`.

mod elements;
mod listing;
mod ruleset;

use std::{collections::BTreeSet, fmt};

use ipnet::IpNet;
use lvs::client::packet::ServiceKey;

pub(crate) use self::elements::Element;
use self::{
    elements::{Elements, Set},
    ruleset::ruleset,
};
use crate::{
    config::LinkName,
    state::{State, Update},
};

/// The table's name.
pub(crate) const TABLE: &str = "inet lvs-kube-proxy";
/// From this number of changed elements on, the whole table is written.
const WHOLE_TABLE_THRESHOLD: usize = 4096;

/// What the rules are, besides what is in their sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    /// The service ranges that are local by a route.
    pub(crate) ranges: Vec<IpNet>,
    pub(crate) masquerade_all: bool,
    pub(crate) inside: Inside,
    /// What is left alone, whoever has it.
    pub(crate) excluded: Vec<IpNet>,
}

/// Which clients are pods, and so inside of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Inside {
    /// Those with an address of these networks; without any, it is not known.
    Networks(Vec<IpNet>),
    /// Those whose packets come in over this link, or over those whose names begin so.
    Link { name: LinkName, is_prefix: bool },
}

impl Default for Inside {
    fn default() -> Self {
        Self::Networks(Vec::new())
    }
}

/// The rules as they should be, and what of them the kernel may lack.
///
/// Which elements belong in which set is kept up to date one service at a time, so that a change
/// writes what has changed. The kernel counts changes of rules: if others have made some, the next
/// whole round writes everything, whatever they were.
#[derive(Clone, Debug)]
pub(crate) struct RuleSet {
    rules: Rules,
    elements: Elements,
    /// The generation of the kernel's rules after the last write that succeeded. `None` if it is not
    /// known what is there, so that everything has to be written.
    written: Option<u32>,
    /// Whether the last write failed.
    has_failed: bool,
}

impl RuleSet {
    pub(crate) fn new(rules: Rules) -> Self {
        Self { rules, elements: Elements::default(), written: None, has_failed: false }
    }

    /// Which clients are pods, as the Node says.
    pub(crate) fn set_inside(&mut self, inside: Inside) {
        if self.rules.inside != inside {
            self.rules.inside = inside;
            self.written = None;
        }
    }

    /// Takes in what has changed. What is for services that are gone stays, until
    /// [`drop_gone`](Self::drop_gone).
    pub(crate) fn take_in(&mut self, state: &State, update: &Update) {
        self.elements.take_in(state, update, &self.rules);
    }

    /// Takes in what an earlier proxy has left in the sets. What is for services that are not wanted
    /// stays until they are gone, as if they had gone just now.
    pub(crate) fn adopt(&mut self, listed: &BTreeSet<Element>) {
        self.elements.adopt(listed, &self.rules);
    }

    /// Drops what is for services that nobody wants and that are gone from the table. Before that it
    /// stays, so that nobody is let in who was not, and none is shut out while deletions are held back.
    pub(crate) fn drop_gone(&mut self, is_gone: impl Fn(&ServiceKey) -> bool) {
        self.elements.drop_gone(is_gone);
    }

    /// What the kernel says of its rules now: if others have changed some, everything is written.
    /// Returns whether they have.
    pub(crate) fn look(&mut self, generation: Option<u32>) -> bool {
        let is_changed = self.written.is_some() && self.written != generation;
        if is_changed {
            self.written = None;
        }
        is_changed
    }

    /// What has to be written so that the sets are as they should be, if anything has.
    pub(crate) fn plan(&self) -> RulePlan {
        let is_whole =
            self.written.is_none() || self.elements.changed.len() >= WHOLE_TABLE_THRESHOLD;
        let (added, removed) = (self.elements.changed.iter().cloned())
            .partition(|element| self.elements.wanted.contains_key(element));
        RulePlan { is_whole, added, removed }
    }

    /// The plan from what is listed in the sets.
    pub(crate) fn plan_from(&self, listed: &BTreeSet<Element>) -> RulePlan {
        let wanted = &self.elements.wanted;
        let added = wanted.keys().filter(|element| !listed.contains(element));
        // The ranges are no service's: they are written with the table, and stay.
        let is_range = |element: &Element| {
            element.set == Set::Addresses && ruleset::ranges(&self.rules).contains(&element.text)
        };
        let removed =
            listed.iter().filter(|element| !wanted.contains_key(element) && !is_range(element));
        RulePlan {
            is_whole: false,
            added: added.cloned().collect(),
            removed: removed.cloned().collect(),
        }
    }

    /// What of the plan has to be written, and how.
    pub(crate) fn write<'a>(&'a self, plan: &'a RulePlan) -> Option<RuleWrite<'a>> {
        match plan.is_whole {
            true => Some(RuleWrite::Whole(self)),
            false if plan.is_empty() => None,
            false => Some(RuleWrite::Changes(plan)),
        }
    }

    /// Takes in that everything is written, and the generation of the rules before and after.
    pub(crate) fn has_written(&mut self, before: Option<u32>, after: Option<u32>) {
        // What others have changed before a change of elements is still to be found.
        let is_known = self.written.is_none() || self.written == before;
        self.has_failed = false;
        self.elements.changed.clear();
        // One step more is ours. If others have written meanwhile, everything is written once more.
        let is_ours = |after: &u32| is_known && before.map(|it| it.wrapping_add(1)) == Some(*after);
        self.written = after.filter(is_ours);
    }

    /// Takes in that a write failed: everything is written next.
    pub(crate) fn has_not_written(&mut self) {
        self.written = None;
        self.has_failed = true;
    }

    /// Whether the kernel may lack rules.
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// The elements that should be in the sets.
    #[cfg(test)]
    pub(crate) fn elements(&self) -> BTreeSet<Element> {
        self.elements.wanted.keys().cloned().collect()
    }
}

/// What has to be written of the rules.
///
/// It displays as a line for each element that comes or goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RulePlan {
    /// Whether the whole table is written, whatever is there.
    is_whole: bool,
    added: Vec<Element>,
    removed: Vec<Element>,
}

impl RulePlan {
    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }

    /// Without the elements that go, apart.
    pub(crate) fn split(self) -> (Self, Self) {
        let removed = Self { is_whole: false, added: Vec::new(), removed: self.removed };
        (Self { removed: Vec::new(), ..self }, removed)
    }
}

impl fmt::Display for RulePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.removed.iter().try_for_each(|element| writeln!(f, "- rule {element}"))?;
        self.added.iter().try_for_each(|element| writeln!(f, "+ rule {element}"))
    }
}

/// A write of rules, in one step.
///
/// It displays in the language of `nft -f`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RuleWrite<'a> {
    /// The table, in the place of the one that is there.
    Whole(&'a RuleSet),
    /// Elements that go and come.
    Changes(&'a RulePlan),
}

impl RuleWrite<'_> {
    /// What is in the sets after the write, if `elements` was before.
    #[cfg(test)]
    pub(crate) fn apply_to(&self, elements: &mut BTreeSet<Element>) {
        match self {
            Self::Whole(set) => *elements = set.elements(),
            Self::Changes(plan) => {
                for element in &plan.removed {
                    assert!(elements.remove(element), "there is no element {element}");
                }
                for element in &plan.added {
                    assert!(elements.insert(element.clone()), "{element} is there");
                }
            }
        }
    }
}

impl fmt::Display for RuleWrite<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = match self {
            Self::Whole(set) => return f.write_str(&ruleset(&set.rules, &set.elements)),
            Self::Changes(plan) => plan,
        };
        // What goes comes first: of a map and of intervals, both cannot be there.
        for (verb, elements) in [("delete", &plan.removed), ("add", &plan.added)] {
            for element in elements {
                writeln!(f, "{verb} element {TABLE} {element}")?;
            }
        }
        Ok(())
    }
}

/// The elements in what `nft list table` prints.
pub(crate) fn listed(text: &str) -> BTreeSet<Element> {
    listing::elements(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        manifest::{self, Object},
        object::ObjectName,
        settings::{Settings, ThisNode},
        state::Event,
    };

    #[test]
    fn what_is_masqueraded_and_who_is_let_in() {
        let node = ThisNode {
            name: "node-a".to_owned(),
            addresses: ["192.0.2.11".parse().unwrap()].into(),
            ..ThisNode::default()
        };
        let mut state = State::new(node, Settings::default());
        let text = "
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  clusterIP: 10.96.7.20
  ports: [{port: 80, nodePort: 31080}]
  loadBalancerSourceRanges: [198.51.100.0/24]
status: {loadBalancer: {ingress: [{ip: 203.0.113.50}]}}
---
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: '', port: 8080}]
endpoints: [{addresses: [10.42.1.5], nodeName: node-a}, {addresses: [10.42.2.6], nodeName: node-b}]
";
        for object in manifest::parse(text).unwrap() {
            state.apply(match object {
                Object::Service(service) => Event::Service(service),
                Object::Slice(slice) => Event::Slice(slice),
                Object::Node(node) => Event::Node(node),
            });
        }
        let rules = |ranges: &[IpNet], masquerade_all| Rules {
            ranges: ranges.to_vec(),
            masquerade_all,
            inside: Inside::Networks(vec!["10.42.0.0/16".parse().unwrap()]),
            excluded: vec!["10.96.9.0/24".parse().unwrap(), "10.96.9.128/25".parse().unwrap()],
        };
        let update = state.update();
        let mut elements = Elements::default();
        elements.take_in(&state, &update, &rules(&[], false));
        let set = |ruleset: &str, name: &str| {
            let from = ruleset.find(&format!("set {name} ")).unwrap();
            let set = &ruleset[from..];
            let lines = set[..set.find("\n    set ").unwrap_or(set.find("chain").unwrap())].lines();
            let elements = lines.filter_map(|line| line.strip_prefix("        "));
            elements.map(|line| line.trim_end_matches(',').to_owned()).collect::<Vec<_>>()
        };
        let text = ruleset(&rules(&[], false), &elements);
        assert_eq!(set(&text, "hairpin-ip"), ["10.42.1.5 . 10.42.1.5"]);
        let outside = ["192.0.2.11 . 31080", "203.0.113.50 . 80"];
        assert_eq!(set(&text, "masquerade-ip-tcp"), outside);
        assert_eq!(set(&text, "cluster-ip-tcp"), ["10.96.7.20 . 80"]);
        assert_eq!(set(&text, "restricted-ip"), ["203.0.113.50 . tcp . 80"]);
        assert_eq!(set(&text, "allowed-ip-tcp"), ["203.0.113.50 . 80 . 198.51.100.0/24"]);
        assert_eq!(set(&text, "services-ip"), ["10.96.7.20 . tcp . 80", "203.0.113.50 . tcp . 80"]);
        assert_eq!(set(&text, "addresses-ip"), ["10.96.7.20", "203.0.113.50"]);
        assert_eq!(set(&text, "masquerade-ip6-tcp"), [""; 0]);
        let chain = |name: &str| {
            let from = text.find(&format!("chain {name} ")).unwrap();
            text[from..].split("    }").next().unwrap()
        };
        // Source ranges hold for the node's own clients, too, which the input chain does not see.
        let kept = "@restricted-ip ip daddr . th dport . ip saddr != @allowed-ip-tcp drop";
        assert!(chain("input").contains(kept) && chain("output").contains(kept), "{text}");
        let shield = "new ip daddr != { 10.96.9.0/24 } ip daddr @addresses-ip ip daddr";
        assert!(chain("input").contains(shield), "{text}");
        assert!(chain("input").contains("new ip6 daddr @addresses-ip6"), "{text}");
        let clients = "tcp ip saddr != { 10.42.0.0/16 } ct original ip daddr";
        assert!(text.contains(clients), "{text}");
        assert!(!ruleset(&rules(&[], true), &elements).contains(clients));
        // Pods by the links over which their packets come.
        for (is_prefix, name) in [(false, "cni0"), (true, "cni0*")] {
            let inside = Inside::Link { name: "cni0".parse().unwrap(), is_prefix };
            let text = ruleset(&Rules { inside, ..rules(&[], false) }, &elements);
            for line in [
                format!("tcp iifname != \"{name}\" ct original ip daddr . ct original proto-dst"),
                format!("iifname \"{name}\" meta mark set ip6 daddr"),
            ] {
                assert!(text.contains(&line), "{line}: {text}");
            }
        }
        // A range takes the place of the addresses in it.
        let ranges = ["10.96.0.0/12".parse().unwrap()];
        let mut elements = Elements::default();
        elements.take_in(&state, &update, &rules(&ranges, false));
        let text = ruleset(&rules(&ranges, false), &elements);
        assert_eq!(set(&text, "addresses-ip"), ["10.96.0.0/12", "203.0.113.50"]);

        // With the policy Local, clients keep their address: what has changed is written, no more.
        elements.changed.clear();
        let local = "
kind: Service
metadata: {name: web, namespace: default}
spec:
  type: LoadBalancer
  clusterIP: 10.96.7.20
  externalTrafficPolicy: Local
  ports: [{port: 80, nodePort: 31080}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.50}]}}
";
        let Object::Service(local) = manifest::parse(local).unwrap().remove(0) else { panic!() };
        state.apply(Event::Service(local));
        let update = state.update();
        elements.take_in(&state, &update, &rules(&ranges, false));
        let changes = |elements: &Elements| {
            let set = RuleSet {
                elements: elements.clone(),
                written: Some(1),
                ..RuleSet::new(Rules::default())
            };
            let plan = set.plan();
            set.write(&plan).map_or(String::new(), |write| write.to_string())
        };
        assert_eq!(
            changes(&elements),
            "delete element inet lvs-kube-proxy masquerade-ip-tcp { 192.0.2.11 . 31080 }\n\
             delete element inet lvs-kube-proxy masquerade-ip-tcp { 203.0.113.50 . 80 }\n\
             delete element inet lvs-kube-proxy restricted-ip { 203.0.113.50 . tcp . 80 }\n\
             delete element inet lvs-kube-proxy allowed-ip-tcp { 203.0.113.50 . 80 . 198.51.100.0/24 }\n"
        );
        // And back again within one run: nothing is to be written.
        elements.changed.clear();
        let name = ObjectName::new("default", "web");
        let service = Event::ServiceGone(name);
        state.apply(service);
        let gone = state.update();
        elements.take_in(&state, &gone, &rules(&ranges, false));
        // It stays until the virtual services are gone.
        assert_eq!(changes(&elements), "");
        assert!(!elements.wanted.is_empty());
        elements.drop_gone(|_| true);
        assert!(elements.wanted.is_empty(), "{:?}", elements.wanted);
    }
}
