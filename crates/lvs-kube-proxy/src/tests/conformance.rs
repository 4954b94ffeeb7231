//! The cases of `conformance.yaml`, translated.

use std::collections::BTreeSet;

use super::cases::{self, Case, table_lines};
use crate::{
    manifest::{self, Object},
    settings::{Settings, ThisNode, WithoutLocal},
    state::{Event, State},
};

#[test]
fn every_case() {
    let cases = cases::all();
    assert!(cases.len() > 50, "{} cases", cases.len());
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let mut state = State::new(case.node(), case.settings());
            case.events().into_iter().for_each(|event| state.apply(event));
            case.failure(&mut state)
        })
        .collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

impl Case {
    /// The settings that it asks for.
    pub(crate) fn settings(&self) -> Settings {
        let addresses = &self.settings.node_port_addresses;
        Settings {
            scheduler: self.settings.scheduler.clone(),
            external_ips: self.settings.external_ips,
            node_port_addresses: addresses.iter().map(|entry| entry.parse().unwrap()).collect(),
            without_local: match self.settings.without_local.as_str() {
                "refuse" => WithoutLocal::Refuse,
                "by mark" => WithoutLocal::ByMark,
                _ => WithoutLocal::FallBack,
            },
            pod_networks: self.settings.cluster_cidr.iter().map(|it| it.parse().unwrap()).collect(),
            ..Settings::default()
        }
    }

    /// The frame's node.
    pub(crate) fn node(&self) -> ThisNode {
        let addresses = ["127.0.0.1", "::1", "192.0.2.11", "10.42.1.1"].into_iter();
        let addresses = addresses.chain(["2001:db8:77::11", "fd42:1::1", "fe80::11"]);
        ThisNode {
            name: "node-a".to_owned(),
            zone: self.settings.zone.clone(),
            addresses: addresses.map(|address| address.parse().unwrap()).collect(),
            primary: vec!["192.0.2.11".parse().unwrap(), "2001:db8:77::11".parse().unwrap()],
            others: self.settings.node_b.iter().map(|address| address.parse().unwrap()).collect(),
            ..ThisNode::default()
        }
    }

    /// The objects, as a source gives them.
    pub(crate) fn events(&self) -> Vec<Event> {
        let (mut services, mut slices) = (Vec::new(), Vec::new());
        for object in manifest::parse(&self.manifest()).unwrap() {
            match object {
                Object::Service(service) => services.push(service),
                Object::Slice(slice) => slices.push(slice),
                Object::Node(_) => {}
            }
        }
        vec![Event::Services(services), Event::Slices(slices)]
    }

    /// Translates what a state has taken in, and says what of it is not as expected.
    pub(crate) fn failure(&self, state: &mut State) -> Option<String> {
        let update = state.update();
        let table = table_lines(state.targets().map(|(_, target)| &*target.virtual_service));
        let addresses: BTreeSet<String> =
            state.addresses().map(|address| address.to_string()).collect();
        let health: Vec<String> = state
            .health_checks()
            .map(|(_, check)| format!("{} {}", check.port, check.local_endpoints))
            .collect();
        let mut wrong = Vec::new();
        if table != self.table {
            wrong.push(format!("table {table:#?}\n  expected {:#?}", self.table));
        }
        if addresses != self.addresses() {
            wrong.push(format!("addresses {addresses:?}\n  expected {:?}", self.addresses()));
        }
        if health != self.health {
            wrong.push(format!("health {health:?}\n  expected {:?}", self.health));
        }
        let mut notices = update.notices;
        for expected in &self.notices {
            match notices.iter().position(|notice| notice.contains(expected.as_str())) {
                Some(position) => {
                    notices.remove(position);
                }
                None => wrong.push(format!("no notice {expected:?}")),
            }
        }
        if !notices.is_empty() {
            wrong.push(format!("notices {notices:#?}"));
        }
        let (case, what) = (&self.case, &self.what);
        (!wrong.is_empty()).then(|| format!("case {case}, {what}:\n  {}", wrong.join("\n  ")))
    }
}
