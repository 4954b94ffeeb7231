//! Where Services and EndpointSlices come from.

mod advice;
#[cfg(feature = "kubernetes")]
mod api_server;
mod contact;
mod directory;

use std::{collections::BTreeSet, future::Future, net::IpAddr};

use ipnet::IpNet;
use tokio::sync::watch;

#[cfg(feature = "kubernetes")]
pub use api_server::{ApiServer, ApiServerError};
pub use directory::{Directory, DirectoryError};

pub(crate) use self::contact::Contact;
use crate::state::Event;

/// Where objects come from: an API server, or a directory of manifests. It is sealed.
#[allow(private_bounds, reason = "what a source says is the proxy's own affair")]
pub trait Source: Events {}

impl<T: Events> Source for T {}

/// What a source says.
///
/// It begins with both lists ([`Event::Services`], [`Event::Slices`]) and goes on with what changes.
/// What goes wrong is its own to log and to try again: the last good objects stay.
pub(crate) trait Events {
    /// Waits for the next events; there is at least one. May be dropped at any time without losing
    /// any.
    fn next(&mut self) -> impl Future<Output = Vec<Event>>;

    /// Why the lists will not come by themselves, where that is known: somebody has to mend something.
    fn is_stuck(&self) -> Option<String> {
        None
    }

    /// Asks for both lists again. The proxy does so before a suspiciously large deletion.
    fn relist(&mut self);

    /// The address of the server that it asks, if it asks one. No service takes it.
    fn server(&self) -> Option<IpAddr> {
        None
    }

    /// The ranges from which that server gives addresses to services, where it says so, and how they
    /// change. Waits until they are known, though not for long.
    fn ranges(&mut self) -> impl Future<Output = Option<watch::Receiver<BTreeSet<IpNet>>>> {
        async { None }
    }

    /// How it stands with that server.
    fn contact(&self) -> Option<Contact> {
        None
    }
}
