//! Readable forms of plans (feature `serde`).

use ipvs_client::packet::{Destination, DestinationKey, Service, ServiceKey};
use serde::{
    Serialize, Serializer,
    ser::{SerializeSeq as _, SerializeStruct as _},
};

use super::{
    change::{Action, Change, Phase},
    value::Plan,
};

/// A plan is an object: `changes`, the list of its changes in order, `held_back`, the list of what is
/// held back, and where there is something that cannot be read `unreadable`, the list of that.
///
/// A change is an object with `phase` (`services`, `real-servers`, `drain`, `take-away`), `action`
/// (`add`, `update`, `delete`), `service` (the key), `real_server` (the address and port, where it
/// concerns one), and the settings `before` and `after`, in the forms of ipvs-packet.
impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let unreadable: Vec<_> = self.unreadable().collect();
        let fields = 2 + usize::from(!unreadable.is_empty());
        let mut plan = serializer.serialize_struct("Plan", fields)?;
        plan.serialize_field("changes", &Changes(self))?;
        let held_back: Vec<_> =
            self.held_back.iter().map(|held| Entry::new(held.phase, &held.change)).collect();
        plan.serialize_field("held_back", &held_back)?;
        if !unreadable.is_empty() {
            plan.serialize_field("unreadable", &unreadable)?;
        }
        plan.end()
    }
}

struct Changes<'a>(&'a Plan);

impl Serialize for Changes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut changes = serializer.serialize_seq(Some(self.0.len()))?;
        for phase in Phase::ALL {
            for change in self.0.phase(phase) {
                changes.serialize_element(&Entry::new(phase, change))?;
            }
        }
        changes.end()
    }
}

#[derive(Serialize)]
struct Entry<'a> {
    phase: Phase,
    action: &'static str,
    service: &'a ServiceKey,
    #[serde(skip_serializing_if = "Option::is_none")]
    real_server: Option<&'a DestinationKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Settings<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Settings<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Settings<'a> {
    Service(&'a Service),
    RealServer(&'a Destination),
}

impl<'a> Entry<'a> {
    fn new(phase: Phase, change: &'a Change) -> Self {
        use Settings::{RealServer, Service};
        let (action, before, after) = match change.action() {
            Action::AddService { after } => ("add", None, Some(Service(after))),
            Action::UpdateService { before, after } => {
                ("update", Some(Service(before)), Some(Service(after)))
            }
            Action::DeleteService { before, .. } => ("delete", Some(Service(before)), None),
            Action::AddRealServer { after } => ("add", None, Some(RealServer(after))),
            Action::UpdateRealServer { before, after }
            | Action::DrainRealServer { before, after } => {
                ("update", Some(RealServer(before)), Some(RealServer(after)))
            }
            Action::DeleteRealServer { before } => ("delete", Some(RealServer(before)), None),
        };
        let (service, real_server) = (change.service(), change.real_server());
        Self { phase, action, service, real_server, before, after }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use crate::{Desired, Plan, Policy, model::Kernel};

    #[test]
    fn plans_are_readable() {
        let desired: Desired = "-A -t 10.0.0.185:80 -s rr\n".parse().unwrap();
        let plan = Plan::new(&desired, &Kernel::new().snapshot(), &Policy::new());
        assert_eq!(
            serde_json::to_string(&plan).unwrap(),
            r#"{"changes":[{"phase":"services","action":"add","service":"-t 10.0.0.185:80","after":{"key":"-t 10.0.0.185:80","scheduler":"rr"}}],"held_back":[]}"#,
        );
    }
}
