//! One write, with what it replaces.

use std::sync::Arc;

use ipvs_client::{
    ServiceSnapshot,
    packet::{Destination, DestinationKey, Request, Service, ServiceKey, Weight},
};

use crate::VirtualService;

/// One write to the kernel's table, with the settings before and after.
///
/// It displays as a line of a plan: `~ -t 10.0.0.185:80 -> 10.0.0.3:80 weight 1 -> 3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change(Kind);

/// Small, since there may be a hundred thousand: what is desired is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    AddService(Arc<VirtualService>),
    UpdateService(Box<Service>, Arc<VirtualService>),
    DeleteService(Box<Service>, usize),
    /// The real server at this place.
    AddRealServer(Arc<VirtualService>, u32),
    UpdateRealServer(Arc<VirtualService>, Box<Destination>, u32),
    /// The service, and the settings before and after, which are not the desired ones.
    KeepWeight(Box<(ServiceKey, Destination, Destination)>),
    /// The same: they differ in the weight.
    Drain(Box<(ServiceKey, Destination, Destination)>),
    DeleteRealServer(Box<(ServiceKey, Destination)>),
}

/// What a [`Change`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action<'a> {
    /// A service is added. `ipvsadm -A`.
    AddService {
        /// Its settings.
        after: &'a Service,
    },
    /// A service's settings are changed. `ipvsadm -E`.
    UpdateService {
        /// Its settings now.
        before: &'a Service,
        /// Its settings then.
        after: &'a Service,
    },
    /// A service is deleted with its real servers. `ipvsadm -D`.
    DeleteService {
        /// Its settings now.
        before: &'a Service,
        /// How many real servers it has.
        real_servers: usize,
    },
    /// A real server is added to a service. `ipvsadm -a`.
    AddRealServer {
        /// Its settings.
        after: &'a Destination,
    },
    /// A real server's settings are changed; its connections stay. `ipvsadm -e`.
    UpdateRealServer {
        /// Its settings now.
        before: &'a Destination,
        /// Its settings then.
        after: &'a Destination,
    },
    /// A real server that leaves loses its weight; its connections stay. `ipvsadm -e … -w 0`.
    DrainRealServer {
        /// Its settings now.
        before: &'a Destination,
        /// Its settings then, which are those with weight 0.
        after: &'a Destination,
    },
    /// A real server is taken away. `ipvsadm -d`.
    DeleteRealServer {
        /// Its settings now.
        before: &'a Destination,
    },
}

/// When a change comes, relative to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Phase {
    /// Services are added and changed.
    Services,
    /// Real servers are added and changed.
    RealServers,
    /// Real servers lose their weight.
    Drain,
    /// Services and real servers are taken away.
    TakeAway,
}

impl Phase {
    /// The phases in order.
    pub const ALL: [Self; 4] = [Self::Services, Self::RealServers, Self::Drain, Self::TakeAway];
}

impl Change {
    pub(super) fn add_service(service: &Arc<VirtualService>) -> Self {
        Self(Kind::AddService(Arc::clone(service)))
    }

    pub(super) fn update_service(before: &Service, after: &Arc<VirtualService>) -> Self {
        Self(Kind::UpdateService(Box::new(before.clone()), Arc::clone(after)))
    }

    pub(super) fn delete_service(service: &ServiceSnapshot) -> Self {
        let before = Box::new(service.entry.service.clone());
        Self(Kind::DeleteService(before, service.destinations.len()))
    }

    pub(super) fn add_real_server(service: &Arc<VirtualService>, index: usize) -> Self {
        Self(Kind::AddRealServer(Arc::clone(service), index as u32))
    }

    pub(super) fn update_real_server(
        service: &Arc<VirtualService>,
        before: &Destination,
        index: usize,
    ) -> Self {
        let before = Box::new(before.clone());
        Self(Kind::UpdateRealServer(Arc::clone(service), before, index as u32))
    }

    /// The desired settings with the weight that the real server has.
    pub(super) fn keep_weight(
        service: &ServiceKey,
        before: &Destination,
        wanted: &Destination,
    ) -> Self {
        let mut after = wanted.clone();
        after.weight = before.weight;
        Self(Kind::KeepWeight(Box::new((*service, before.clone(), after))))
    }

    pub(super) fn drain(service: &ServiceKey, before: &Destination) -> Self {
        let mut after = before.clone();
        after.weight = Weight::ZERO;
        Self(Kind::Drain(Box::new((*service, before.clone(), after))))
    }

    pub(super) fn delete_real_server(service: &ServiceKey, before: &Destination) -> Self {
        Self(Kind::DeleteRealServer(Box::new((*service, before.clone()))))
    }

    /// Whether the settings before and after differ.
    pub(super) fn makes_a_difference(&self) -> bool {
        match self.action() {
            Action::UpdateRealServer { before, after } => before != after,
            _ => true,
        }
    }

    /// What it does.
    pub fn action(&self) -> Action<'_> {
        match &self.0 {
            Kind::AddService(service) => Action::AddService { after: service.service() },
            Kind::UpdateService(before, after) => {
                Action::UpdateService { before, after: after.service() }
            }
            Kind::DeleteService(before, real_servers) => {
                Action::DeleteService { before, real_servers: *real_servers }
            }
            Kind::AddRealServer(service, index) => {
                Action::AddRealServer { after: &service.destinations()[*index as usize] }
            }
            Kind::UpdateRealServer(service, before, index) => {
                Action::UpdateRealServer { before, after: &service.destinations()[*index as usize] }
            }
            Kind::KeepWeight(update) => {
                Action::UpdateRealServer { before: &update.1, after: &update.2 }
            }
            Kind::Drain(drain) => Action::DrainRealServer { before: &drain.1, after: &drain.2 },
            Kind::DeleteRealServer(delete) => Action::DeleteRealServer { before: &delete.1 },
        }
    }

    /// The service that it concerns.
    pub fn service(&self) -> &ServiceKey {
        match &self.0 {
            Kind::DeleteService(before, _) => before.key(),
            Kind::KeepWeight(update) | Kind::Drain(update) => &update.0,
            Kind::DeleteRealServer(delete) => &delete.0,
            Kind::AddService(service)
            | Kind::UpdateService(_, service)
            | Kind::AddRealServer(service, _)
            | Kind::UpdateRealServer(service, ..) => service.key(),
        }
    }

    /// The real server that it concerns; `None` where it is the service itself.
    pub fn real_server(&self) -> Option<&DestinationKey> {
        match self.action() {
            Action::AddService { .. }
            | Action::UpdateService { .. }
            | Action::DeleteService { .. } => None,
            Action::AddRealServer { after: destination }
            | Action::UpdateRealServer { after: destination, .. }
            | Action::DrainRealServer { after: destination, .. }
            | Action::DeleteRealServer { before: destination } => Some(&destination.key),
        }
    }

    /// The same as the kernel takes it.
    pub fn request(&self) -> Request {
        let key = *self.service();
        match self.action() {
            Action::AddService { after } => Request::NewService(after.clone()),
            Action::UpdateService { after, .. } => Request::SetService(after.clone()),
            Action::DeleteService { .. } => Request::DeleteService(key),
            Action::AddRealServer { after } => Request::NewDestination(key, after.clone()),
            Action::UpdateRealServer { after, .. } | Action::DrainRealServer { after, .. } => {
                Request::SetDestination(key, after.clone())
            }
            Action::DeleteRealServer { before } => Request::DeleteDestination(key, before.key),
        }
    }
}
