//! A model of the kernel's table, for tests of programs that write it (feature `model`).
//!
//! It carries requests out without a kernel, with the kernel's error numbers. What it does is held
//! against real kernels by the tests of this workspace.
//!
//! ```
//! use lvs::{Desired, Plan, Policy, RealServer, VirtualService, model::Kernel};
//!
//! let web = VirtualService::tcp("10.0.0.185:80".parse()?)
//!     .real_server(RealServer::nat("172.17.0.3:80".parse()?))
//!     .build()?;
//! let desired = Desired::from(web);
//! let mut kernel = Kernel::new();
//! let plan = Plan::new(&desired, &kernel.snapshot(), &Policy::new());
//! for request in plan.requests() {
//!     kernel.execute(&request)?;
//! }
//! assert!(Plan::new(&desired, &kernel.snapshot(), &Policy::new()).is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! In a [`Mutex`](std::sync::Mutex) it is a [`Port`](crate::Port), so that everything that takes a
//! client can be tested with it: [`Reconciler::round`](crate::Reconciler::round), say. [`Scripted`]
//! is one with which things go wrong.

mod scripted;

use std::{collections::BTreeMap, fmt, net::IpAddr};

use ipvs_client::{
    ServiceSnapshot, Snapshot,
    packet::{
        Destination, DestinationEntry, DestinationKey, EngineName, ForwardMethod, Request,
        SchedulerName, Service, ServiceEntry, ServiceFlags, ServiceKey,
    },
};

pub use self::scripted::Scripted;
use crate::virtual_service::is_reachable;

/// The services of one network namespace, as the kernel keeps them: identity and settings, and the
/// numbers of connections, which the caller says.
///
/// It knows the schedulers and the persistence engine that come with Linux, and has no addresses but
/// the loopback's. It keeps neither statistics nor sync daemons.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    services: BTreeMap<ServiceKey, (Service, BTreeMap<DestinationKey, DestinationEntry>)>,
    /// Destinations that are gone and have connections: they get these back when they return.
    trash: BTreeMap<(ServiceKey, DestinationKey), DestinationEntry>,
}

/// The kernel's error number in answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "it is a number")]
pub struct Errno(pub i32);

impl Errno {
    /// Service or destination are not there (`ENOENT`), or a module is not.
    pub const ENOENT: Self = Self(2);
    /// The service is not there.
    pub const ESRCH: Self = Self(3);
    /// It is there already.
    pub const EEXIST: Self = Self(17);
    /// The values cannot be.
    pub const EINVAL: Self = Self(22);
    /// The command is not known here.
    pub const EOPNOTSUPP: Self = Self(95);
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "errno {}", self.0)
    }
}

impl std::error::Error for Errno {}

impl Kernel {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Carries a request out.
    ///
    /// # Errors
    ///
    /// The kernel's, and [`Errno::EOPNOTSUPP`] for what is not about services.
    pub fn execute(&mut self, request: &Request) -> Result<(), Errno> {
        match request {
            Request::NewService(service) => {
                if self.services.contains_key(service.key()) {
                    return Err(Errno::EEXIST);
                }
                check_modules(service)?;
                let stored = stored(service, ServiceFlags::empty());
                self.services.insert(*service.key(), (stored, BTreeMap::new()));
            }
            Request::SetService(service) => {
                let (old, _) = self.services.get_mut(service.key()).ok_or(Errno::ESRCH)?;
                check_modules(service)?;
                *old = stored(service, old.flags);
            }
            Request::DeleteService(key) => {
                let (_, destinations) = self.services.remove(key).ok_or(Errno::ESRCH)?;
                for (_, entry) in destinations {
                    self.throw_away(key, entry);
                }
            }
            Request::NewDestination(key, destination) => {
                let (_, destinations) = self.services.get_mut(key).ok_or(Errno::ESRCH)?;
                check_family(key, destination)?;
                if destinations.contains_key(&destination.key) {
                    return Err(Errno::EEXIST);
                }
                if !may_be_destination(destination.key.address) {
                    return Err(Errno::EINVAL);
                }
                let old = self.trash.remove(&(*key, destination.key));
                let mut entry = old.unwrap_or_else(|| DestinationEntry::new(destination.clone()));
                entry.destination = masked(destination);
                destinations.insert(destination.key, entry);
            }
            Request::SetDestination(key, destination) => {
                let (_, destinations) = self.services.get_mut(key).ok_or(Errno::ESRCH)?;
                check_family(key, destination)?;
                let entry = destinations.get_mut(&destination.key).ok_or(Errno::ENOENT)?;
                entry.destination = masked(destination);
            }
            Request::DeleteDestination(key, destination) => {
                let (_, destinations) = self.services.get_mut(key).ok_or(Errno::ESRCH)?;
                let entry = destinations.remove(destination).ok_or(Errno::ENOENT)?;
                self.throw_away(key, entry);
            }
            Request::Zero(Some(key)) if !self.services.contains_key(key) => {
                return Err(Errno::ESRCH);
            }
            Request::Zero(_) => {}
            Request::Flush => {
                for (key, (_, destinations)) in std::mem::take(&mut self.services) {
                    for (_, entry) in destinations {
                        self.throw_away(&key, entry);
                    }
                }
            }
            _ => return Err(Errno::EOPNOTSUPP),
        }
        Ok(())
    }

    /// What a snapshot would hold.
    pub fn snapshot(&self) -> Snapshot {
        self.services.keys().filter_map(|key| self.service_snapshot(key)).collect()
    }

    fn service_snapshot(&self, key: &ServiceKey) -> Option<ServiceSnapshot> {
        let (service, destinations) = self.services.get(key)?;
        let mut service = service.clone();
        service.flags |= ServiceFlags::HASHED;
        let destinations = destinations.values().cloned().collect();
        Some(ServiceSnapshot::new(ServiceEntry::new(service), destinations))
    }

    /// Says how many connections a destination has. Returns whether it is there.
    pub fn set_connections(
        &mut self,
        service: &ServiceKey,
        destination: &DestinationKey,
        active: u32,
        inactive: u32,
    ) -> bool {
        let found = self.services.get_mut(service);
        match found.and_then(|(_, destinations)| destinations.get_mut(destination)) {
            Some(entry) => {
                entry.active_connections = active;
                entry.inactive_connections = inactive;
                true
            }
            None => false,
        }
    }

    fn throw_away(&mut self, service: &ServiceKey, entry: DestinationEntry) {
        if entry.active_connections > 0 || entry.inactive_connections > 0 {
            self.trash.insert((*service, entry.destination.key), entry);
        }
    }
}

/// The names of schedulers and persistence engines are those of modules.
fn check_modules(service: &Service) -> Result<(), Errno> {
    let scheduler = SchedulerName::ALL.contains(&service.scheduler);
    let engine = service.engine.is_none_or(|engine| engine == EngineName::SIP);
    if scheduler && engine { Ok(()) } else { Err(Errno::ENOENT) }
}

fn check_family(service: &ServiceKey, destination: &Destination) -> Result<(), Errno> {
    let tunnelled = masked(destination).forward == ForwardMethod::TUNNEL;
    if service.family() != destination.key.family() && !tunnelled {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// A request's flags count as far as its mask says.
fn stored(service: &Service, old: ServiceFlags) -> Service {
    let mask = ServiceFlags::from_bits_retain(service.flags_mask);
    let mut stored = service.clone();
    stored.flags = (old & !mask) | (service.flags & mask);
    stored.flags_mask = u32::MAX;
    stored
}

/// The kernel keeps three bits of the forwarding method.
fn masked(destination: &Destination) -> Destination {
    let mut stored = destination.clone();
    stored.forward.0 &= 7;
    stored
}

fn may_be_destination(address: IpAddr) -> bool {
    let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    is_reachable(address) && !link_local
}
