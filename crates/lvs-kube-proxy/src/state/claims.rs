//! Who has an address and port, or a port for health checks: of several Services that claim it, the kind of
//! address decides, then the age, then the name.

use std::collections::BTreeSet;

use lvs::client::packet::ServiceKey;

use super::State;
use crate::{
    object::{Created, ObjectName},
    translate::{HealthCheck, TargetKind, Translation},
};

/// What is wanted, for which of its addresses, since when, by whom.
pub(super) type Claim = (ServiceKey, TargetKind, Created, ObjectName);

impl State {
    /// Who wants a virtual service, best first.
    pub(super) fn claims_on(
        &self,
        key: &ServiceKey,
    ) -> impl Iterator<Item = (&Claim, &usize)> + use<'_> {
        let (key, first) =
            (*key, (*key, TargetKind::ClusterIp, Created::FIRST, ObjectName::default()));
        self.claims.range(first..).take_while(move |((found, ..), _)| *found == key)
    }

    /// Withdraws all that a service claims.
    pub(super) fn retract(&mut self, name: &ObjectName, keys: &mut BTreeSet<ServiceKey>) {
        let Some(translation) = self.translations.remove(name) else { return };
        for target in translation.targets {
            let key = *target.key();
            keys.insert(key);
            if self.claims.remove(&(key, target.kind, translation.created, name.clone())).is_none()
            {
                continue;
            }
            if let Some(address) = target.address()
                && let Some(count) = self.addresses.get_mut(&address)
            {
                *count -= 1;
                if *count == 0 {
                    self.addresses.remove(&address);
                }
            }
        }
        if let Some(HealthCheck { port, .. }) = translation.health_check
            && let Some(names) = self.health_ports.get_mut(&port)
        {
            names.remove(&(translation.created, name.clone()));
            if names.is_empty() {
                self.health_ports.remove(&port);
            }
        }
    }

    pub(super) fn claim(
        &mut self,
        name: &ObjectName,
        translation: Translation,
        keys: &mut BTreeSet<ServiceKey>,
    ) {
        for (position, target) in translation.targets.iter().enumerate() {
            let key = *target.key();
            keys.insert(key);
            let claim = (key, target.kind, translation.created, name.clone());
            // Of two ports of a service with one number, the first one counts.
            if self.claims.contains_key(&claim) {
                continue;
            }
            self.claims.insert(claim, position);
            if let Some(address) = target.address() {
                *self.addresses.entry(address).or_default() += 1;
            }
        }
        if let Some(HealthCheck { port, .. }) = translation.health_check {
            self.health_ports.entry(port).or_default().insert((translation.created, name.clone()));
        }
        self.translations.insert(name.clone(), translation);
    }

    /// Adds what is to be said of a service and was not said before.
    pub(super) fn say(&mut self, name: &ObjectName, notices: &mut Vec<String>) {
        let Some(translation) = self.translations.get(name) else { return };
        let mut texts: BTreeSet<String> = translation.notices.iter().cloned().collect();
        for target in &translation.targets {
            let kind = target.kind;
            match self.claims_on(target.key()).next() {
                Some(((.., winner), _)) if winner != name => {
                    let key = target.key();
                    texts.insert(format!(
                        "service {name}: {kind} {key} is not served: it belongs to service {winner}"
                    ));
                }
                _ => {}
            }
        }
        if let Some(HealthCheck { port, .. }) = translation.health_check
            && let Some(winner) = self.health_ports.get(&port).and_then(BTreeSet::first)
            && winner.1 != *name
        {
            texts.insert(format!(
                "service {name}: health check port {port} is not served: it belongs to service {}",
                winner.1
            ));
        }
        match texts.is_empty() {
            true => {
                self.said.remove(name);
            }
            false => {
                // How many more there are like one changes with each slice.
                let gist = |text: &String| {
                    text.rsplit_once(" (and ").map_or(&**text, |(gist, _)| gist).to_owned()
                };
                let gists = texts.iter().map(gist).collect();
                let before = self.said.insert(name.clone(), gists).unwrap_or_default();
                notices.extend(texts.into_iter().filter(|text| !before.contains(&gist(text))));
            }
        }
    }
}
