//! What is taken away, by its identity.

use std::{collections::BTreeSet, fmt};

use ipvs_client::packet::{DestinationKey, ServiceKey};

/// Something that is taken away: what a [limit](crate::Limit) counts, each as one.
///
/// A service that is deleted is one, and each of its real servers is another. A real server that is
/// drained and then deleted is the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Removal {
    /// The service.
    pub service: ServiceKey,
    /// The real server; `None` where it is about the service.
    pub real_server: Option<DestinationKey>,
    /// How it is taken away.
    pub kind: RemovalKind,
}

/// How something is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RemovalKind {
    /// The service is deleted, or drained and then deleted.
    Service,
    /// The service stays, and is left without a usable real server (one with a weight).
    Usable,
    /// The real server is deleted, or drained and then deleted.
    RealServer,
    /// The real server stays, with weight 0, in a service that is left without a usable one.
    Weight,
}

impl RemovalKind {
    /// Whether the table then lacks a service or a real server.
    pub(crate) fn is_object(self) -> bool {
        matches!(self, Self::Service | Self::RealServer)
    }

    /// Whether it is about a service, and not about a single real server.
    pub(crate) fn is_of_service(self) -> bool {
        matches!(self, Self::Service | Self::Usable)
    }
}

impl Removal {
    pub(crate) fn service(service: ServiceKey) -> Self {
        Self { service, real_server: None, kind: RemovalKind::Service }
    }

    pub(crate) fn usable(service: ServiceKey) -> Self {
        Self { service, real_server: None, kind: RemovalKind::Usable }
    }

    pub(crate) fn real_server(service: ServiceKey, real_server: DestinationKey) -> Self {
        Self { service, real_server: Some(real_server), kind: RemovalKind::RealServer }
    }

    pub(crate) fn weight(service: ServiceKey, real_server: DestinationKey) -> Self {
        Self { service, real_server: Some(real_server), kind: RemovalKind::Weight }
    }

    /// The first one of a service, in order.
    pub(crate) fn first_of(service: ServiceKey) -> Self {
        Self::service(service)
    }
}

/// `-t 10.0.0.185:80 -> 10.0.0.2:80`, and what happens to it where it is not deleted.
impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.service)?;
        if let Some(real_server) = &self.real_server {
            write!(f, " -> {real_server}")?;
        }
        match self.kind {
            RemovalKind::Service | RemovalKind::RealServer => Ok(()),
            RemovalKind::Usable => f.write_str(" without a usable real server"),
            RemovalKind::Weight => f.write_str(" weight 0"),
        }
    }
}

/// What is [held back](crate::Reconciler::held_back) at some moment, by its identity: what a
/// [confirmation](crate::Reconciler::confirm) confirms.
///
/// It displays as one removal a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldBack(pub(crate) BTreeSet<Removal>);

impl HeldBack {
    /// How many removals these are, as the [limit](crate::Limit) counts them.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is held back.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The services that it is about.
    pub fn services(&self) -> BTreeSet<ServiceKey> {
        self.0.iter().map(|removal| removal.service).collect()
    }

    /// The removals, in order of their services.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Removal> + '_ {
        self.0.iter()
    }

    /// Those of which a function says so: to confirm a part. A service that is confirmed goes with all of
    /// its real servers, named or not; real servers go without it only where they are drained or deleted
    /// apart from it.
    #[must_use]
    pub fn filter(&self, keep: impl Fn(&Removal) -> bool) -> Self {
        Self(self.0.iter().filter(|removal| keep(removal)).copied().collect())
    }
}

impl fmt::Display for HeldBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|removal| writeln!(f, "{removal}"))
    }
}
