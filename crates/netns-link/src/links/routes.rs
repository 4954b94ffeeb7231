//! The local routes over links.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;

use super::{Links, link::Link, route::Route};
use crate::{
    error::{Error, Operation},
    netlink::Change,
};

#[cfg_attr(not(feature = "tokio"), allow(unreachable_pub, reason = "the blocking one has it"))]
impl Links {
    /// The local routes over a link, the kernel's own for its addresses among them
    /// ([`RouteProtocol::KERNEL`](crate::RouteProtocol::KERNEL)):
    /// `ip route show table local type local dev NAME`, and with `-6`.
    ///
    /// # Errors
    /// As [`list`](Links::list). A link that is gone has no routes.
    pub async fn routes(&self, link: &Link) -> Result<Vec<Route>, Error> {
        let request = RouteNetlinkMessage::GetRoute(Route::filter(link.index));
        let operation = Operation::ListRoutes;
        let objects = match self.netlink.dump(&operation, request).await {
            Err(error) if error.number() == Some(Errno::ENODEV) => Vec::new(),
            objects => objects?,
        };
        let of_link = |raw| Route::read(&operation, raw, link.index).transpose();
        objects.iter().filter_map(of_link).collect()
    }

    /// Adds a local route over a link: `ip route add ROUTE dev NAME`. Returns whether it was
    /// missing.
    ///
    /// In IPv6 the link must be up. For a range, use `lo`. For a single virtual IP of a link the
    /// kernel has made a route already: in IPv4 [`replace_route`](Links::replace_route) takes its
    /// place, in IPv6 it wins over every other and must be deleted.
    ///
    /// # Errors
    /// If there is another route for the same prefix and metric
    /// ([`ErrorKind::AlreadyExists`](crate::ErrorKind)), if the source is no address of the host
    /// ([`ErrorKind::InvalidInput`](crate::ErrorKind)), if the link is gone
    /// ([`ErrorKind::NotFound`](crate::ErrorKind)) or a capability is missing.
    pub async fn add_route(&self, link: &Link, route: Route) -> Result<bool, Error> {
        let operation = Operation::AddRoute { route: route.text(), link: link.name.clone() };
        match self.change_route(operation, link, route, NLM_F_CREATE | NLM_F_EXCL).await {
            Ok(()) => Ok(true),
            Err(error) if error.number() == Some(Errno::EEXIST) => {
                // The kernel compares prefix and metric only.
                let same = self.routes(link).await?.contains(&route.as_listed());
                if same { Ok(false) } else { Err(error) }
            }
            Err(error) => Err(error),
        }
    }

    /// Adds a local route over a link in the place of one for the same prefix and metric, if there
    /// is any: `ip route replace ROUTE dev NAME`.
    ///
    /// A route that took the place of the kernel's own must be deleted when it is no longer wanted:
    /// the kernel does not remove it with the address while the link has another one, nor when the
    /// source goes.
    ///
    /// # Errors
    /// As [`add_route`](Links::add_route).
    pub async fn replace_route(&self, link: &Link, route: Route) -> Result<(), Error> {
        let operation = Operation::ReplaceRoute { route: route.text(), link: link.name.clone() };
        self.change_route(operation, link, route, NLM_F_CREATE | NLM_F_REPLACE).await
    }

    /// Deletes a local route over a link: `ip route delete ROUTE dev NAME`. Returns whether it was
    /// there; it is no error if it was not. The [`protocol`](Route::with_protocol), the metric and,
    /// where one is given, the source must be the same. So the kernel's own routes are safe, unless
    /// one is passed as it was listed.
    ///
    /// # Errors
    /// If a capability is missing.
    pub async fn delete_route(&self, link: &Link, route: Route) -> Result<bool, Error> {
        let operation = Operation::DeleteRoute { route: route.text(), link: link.name.clone() };
        let request = RouteNetlinkMessage::DelRoute(route.message(link.index));
        match self.netlink.change(Change { operation, request, flags: 0 }).await {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.number(), Some(Errno::ESRCH | Errno::ENODEV)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn change_route(
        &self,
        operation: Operation,
        link: &Link,
        route: Route,
        flags: u16,
    ) -> Result<(), Error> {
        let request = RouteNetlinkMessage::NewRoute(route.message(link.index));
        self.netlink.change(Change { operation, request, flags }).await
    }
}
