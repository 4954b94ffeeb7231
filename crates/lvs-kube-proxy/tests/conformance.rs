//! The cases of `conformance.yaml`, translated.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod cases;

use std::collections::BTreeSet;

use lvs_kube_proxy::State;

use cases::{Case, table_lines};

#[test]
fn every_case() {
    let cases = cases::all();
    assert!(cases.len() > 50, "{} cases", cases.len());
    let failures: Vec<String> = cases.iter().filter_map(failure).collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

fn failure(case: &Case) -> Option<String> {
    let mut state = State::new(case.node(), case.settings());
    case.events().into_iter().for_each(|event| state.apply(event));
    let update = state.update();

    let table = table_lines(state.targets().map(|(_, target)| &*target.virtual_service));
    let addresses: BTreeSet<String> =
        state.addresses().map(|address| address.to_string()).collect();
    let health: Vec<String> = state
        .health_checks()
        .map(|(_, check)| format!("{} {}", check.port, check.local_endpoints))
        .collect();
    let mut wrong = Vec::new();
    if table != case.table {
        wrong.push(format!("table {table:#?}\n  expected {:#?}", case.table));
    }
    if addresses != case.addresses() {
        wrong.push(format!("addresses {addresses:?}\n  expected {:?}", case.addresses()));
    }
    if health != case.health {
        wrong.push(format!("health {health:?}\n  expected {:?}", case.health));
    }
    let mut notices = update.notices;
    for expected in &case.notices {
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
    (!wrong.is_empty())
        .then(|| format!("case {}, {}:\n  {}", case.case, case.what, wrong.join("\n  ")))
}
