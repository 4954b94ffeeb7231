//! Which services are the caller's.

use std::{fmt, sync::Arc};

use ipvs_client::packet::ServiceKey;

use crate::Ledger;

/// Which services may be deleted where they are not desired. IPVS stores no owner, so the caller has
/// to say.
///
/// A service that is desired belongs to the caller with all its real servers, whatever the scope.
///
/// Scopes can be combined: what the ledger knows and what is in a network of the caller's,
///
/// ```
/// use lvs::{Ledger, Scope};
///
/// let ledger: Ledger = ["-t 192.0.2.1:80".parse()?].into_iter().collect();
/// let scope = Scope::Ledger(ledger).or(Scope::only(|key| key.to_string().starts_with("-t 10.96.")));
/// assert!(scope.contains(&"-t 192.0.2.1:80".parse()?) && scope.contains(&"-t 10.96.0.1:80".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Scope {
    /// None: other services are left alone. The default.
    #[default]
    Named,
    /// Those in a ledger, which the caller keeps.
    Ledger(Ledger),
    /// Those of which a function says so; see [`only`](Self::only).
    Only(Predicate),
    /// Every service of the network namespace.
    All,
    /// What is in one of the two; see [`or`](Self::or).
    Either(Box<[Self; 2]>),
    /// What is in both; see [`and`](Self::and).
    Both(Box<[Self; 2]>),
}

impl Scope {
    /// What is in this scope or in the other.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self::Either(Box::new([self, other]))
    }

    /// What is in this scope and in the other.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self::Both(Box::new([self, other]))
    }

    /// Whether a service may be deleted.
    pub fn contains(&self, service: &ServiceKey) -> bool {
        match self {
            Self::Named => false,
            Self::Ledger(ledger) => ledger.contains(service),
            Self::Only(Predicate(is_mine)) => is_mine(service),
            Self::All => true,
            Self::Either(scopes) => scopes.iter().any(|scope| scope.contains(service)),
            Self::Both(scopes) => scopes.iter().all(|scope| scope.contains(service)),
        }
    }

    /// The first ledger in it.
    pub(crate) fn ledger(&self) -> Option<&Ledger> {
        match self {
            Self::Ledger(ledger) => Some(ledger),
            Self::Either(scopes) | Self::Both(scopes) => scopes.iter().find_map(Self::ledger),
            Self::Named | Self::Only(_) | Self::All => None,
        }
    }

    pub(crate) fn ledger_mut(&mut self) -> Option<&mut Ledger> {
        match self {
            Self::Ledger(ledger) => Some(ledger),
            Self::Either(scopes) | Self::Both(scopes) => {
                scopes.iter_mut().find_map(Self::ledger_mut)
            }
            Self::Named | Self::Only(_) | Self::All => None,
        }
    }

    /// Those of which a function says so: that their address is in some networks, say.
    pub fn only(is_mine: impl Fn(&ServiceKey) -> bool + Send + Sync + 'static) -> Self {
        Self::Only(Predicate(Arc::new(is_mine)))
    }
}

/// What says which services are the caller's. Made by [`Scope::only`].
#[derive(Clone)]
pub struct Predicate(Arc<dyn Fn(&ServiceKey) -> bool + Send + Sync>);

impl fmt::Debug for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Predicate")
    }
}
