//! What the whole table should be.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use ipvs_client::{Snapshot, packet::ServiceKey};
use ipvs_table::{DestinationChanges, Pair, ServiceChanges, pairs};

use crate::{Invalid, Rule, Violation, VirtualService, VirtualServiceBuilder};

/// The desired state: virtual services, each with a key of its own.
///
/// It is collected from services or from their builders, and then whatever is wrong with any of
/// them is reported at once:
///
/// ```
/// use lvs::{Desired, Invalid, RealServer, VirtualService};
///
/// let services = [
///     VirtualService::tcp("10.0.0.185:80".parse()?)
///         .real_server(RealServer::nat("172.17.0.3:80".parse()?)),
///     VirtualService::udp("10.0.0.185:53".parse()?)
///         .real_server(RealServer::nat("172.17.0.3:53".parse()?)),
/// ];
/// let desired = services.into_iter().collect::<Result<Desired, Invalid>>()?;
/// assert_eq!(desired.len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A service that is there twice alike counts once; two that differ are a [`Rule::Duplicate`].
///
/// Clones are cheap: they share their services. The first edit of a clone copies the index of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Desired {
    services: Arc<BTreeMap<ServiceKey, Arc<VirtualService>>>,
}

impl Desired {
    /// No service.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a service, in the place of one with the same key. Returns whether that makes a
    /// difference. One that is shared already (an `Arc`) is not copied.
    pub fn insert(&mut self, service: impl Into<Arc<VirtualService>>) -> bool {
        let service = service.into();
        match Arc::make_mut(&mut self.services).entry(*service.key()) {
            Entry::Occupied(found) if *found.get() == service => false,
            Entry::Occupied(mut found) => {
                found.insert(service);
                true
            }
            Entry::Vacant(place) => {
                place.insert(service);
                true
            }
        }
    }

    /// Takes out a service. Returns whether it was there.
    pub fn remove(&mut self, key: &ServiceKey) -> bool {
        // Not to copy what is shared in vain.
        self.services.contains_key(key) && Arc::make_mut(&mut self.services).remove(key).is_some()
    }

    /// A service.
    pub fn get(&self, key: &ServiceKey) -> Option<&VirtualService> {
        self.services.get(key).map(|service| &**service)
    }

    /// The services in order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &VirtualService> + '_ {
        self.services.values().map(|service| &**service)
    }

    /// The services' keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &ServiceKey> + '_ {
        self.services.keys()
    }

    /// How many services there are.
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// Whether there is no service.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    pub(crate) fn shared(&self) -> &BTreeMap<ServiceKey, Arc<VirtualService>> {
        &self.services
    }

    /// Collects what was built, or why it was not.
    fn collect(
        services: impl Iterator<Item = Result<VirtualService, Invalid>>,
    ) -> Result<Self, Invalid> {
        let mut desired = Self::new();
        let mut violations = Vec::new();
        for service in services {
            match service {
                Ok(service) => match desired.get(service.key()) {
                    Some(other) if *other != service => {
                        violations.push(duplicate(other, &service));
                    }
                    _ => {
                        desired.insert(service);
                    }
                },
                Err(invalid) => violations.extend(invalid.into_violations()),
            }
        }
        if violations.is_empty() { Ok(desired) } else { Err(Invalid::new(violations)) }
    }
}

impl From<VirtualService> for Desired {
    fn from(service: VirtualService) -> Self {
        let mut desired = Self::new();
        desired.insert(service);
        desired
    }
}

impl FromIterator<VirtualService> for Result<Desired, Invalid> {
    fn from_iter<I: IntoIterator<Item = VirtualService>>(services: I) -> Self {
        Desired::collect(services.into_iter().map(Ok))
    }
}

impl FromIterator<VirtualServiceBuilder> for Result<Desired, Invalid> {
    fn from_iter<I: IntoIterator<Item = VirtualServiceBuilder>>(builders: I) -> Self {
        Desired::collect(builders.into_iter().map(VirtualServiceBuilder::build))
    }
}

/// The table as it is, to be kept so. What the snapshot is not sure of is taken as it says; where
/// something [could not be read](Snapshot::unreadable) it is refused.
impl TryFrom<&Snapshot> for Desired {
    type Error = Invalid;

    fn try_from(snapshot: &Snapshot) -> Result<Self, Invalid> {
        let mut unreadable = snapshot.unreadable.values().flatten().peekable();
        if unreadable.peek().is_some() {
            let violation = |entry| Violation::new("the table", entry, Rule::Unreadable);
            return Err(Invalid::new(unreadable.map(violation).collect()));
        }
        Self::collect(snapshot.services.values().map(VirtualService::try_from))
    }
}

/// Two services with one key that differ.
fn duplicate(one: &VirtualService, other: &VirtualService) -> Violation {
    let mut differences: Vec<String> = Vec::new();
    let changes = ServiceChanges::between(one.service(), other.service());
    if !changes.is_empty() {
        differences.push(changes.to_string());
    }
    differences.extend(pairs(one.destinations(), other.destinations()).filter_map(
        |pair| match pair {
            Pair::Before(destination) => Some(format!("{} in the first only", destination.key)),
            Pair::After(destination) => Some(format!("{} in the second only", destination.key)),
            Pair::Both(destination, found) if pair.is_changed() => {
                let changes = DestinationChanges::between(destination, found);
                Some(format!("{} {changes}", destination.key))
            }
            Pair::Both(..) => None,
        },
    ));
    let object = format!("service {}", one.key());
    Violation::new(object, differences.join(", "), Rule::Duplicate)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use super::*;
    use crate::RealServer;

    fn web(real_servers: &[&str]) -> VirtualServiceBuilder {
        VirtualService::tcp("10.0.0.185:80".parse().unwrap())
            .real_servers(real_servers.iter().map(|at| RealServer::nat(at.parse().unwrap())))
    }

    #[test]
    fn alike_is_once_and_different_is_a_duplicate() {
        let twice = [web(&["10.1.0.2:80", "10.1.0.3:80"]), web(&["10.1.0.3:80", "10.1.0.2:80"])];
        assert_eq!(twice.into_iter().collect::<Result<Desired, _>>().unwrap().len(), 1);
        let differ = [web(&["10.1.0.2:80"]), web(&["10.1.0.3:80"]).scheduler("rr")];
        let invalid = differ.into_iter().collect::<Result<Desired, _>>().unwrap_err();
        assert_eq!(
            invalid.to_string(),
            "service -t 10.0.0.185:80: scheduler wlc -> rr, 10.1.0.2:80 in the first only, \
             10.1.0.3:80 in the second only: it is named twice, and the two differ: leave one of \
             them out (duplicate)"
        );
    }

    #[test]
    fn violations_of_all_services_are_reported() {
        let builders = [web(&["0.0.0.0:80"]), web(&[]).scheduler(""), web(&["10.1.0.2:0"])];
        let invalid = builders.into_iter().collect::<Result<Desired, _>>().unwrap_err();
        assert_eq!(invalid.violations().len(), 3, "{invalid}");
    }

    #[test]
    fn editing_says_whether_it_made_a_difference() {
        let mut desired = Desired::from(web(&["10.1.0.2:80"]).build().unwrap());
        let before = desired.clone();
        assert!(!desired.insert(web(&["10.1.0.2:80"]).build().unwrap()));
        assert!(desired.insert(web(&[]).build().unwrap()));
        assert_ne!(desired, before);
        let key = "-t 10.0.0.185:80".parse().unwrap();
        assert!(desired.remove(&key) && !desired.remove(&key) && desired.is_empty());
    }
}
