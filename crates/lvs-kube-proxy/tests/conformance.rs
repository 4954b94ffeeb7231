//! The cases of `conformance.yaml`, translated.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod cases;

use lvs_kube_proxy::State;

use cases::Case;

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
    case.failure(&mut state)
}
