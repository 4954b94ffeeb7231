//! The proxy's routes: they make virtual addresses local, with the node's address as the source of its own
//! connections.
//!
//! For an address of a link the kernel itself makes a local route, whose source is that address, which
//! pods may have no way to answer to. So each virtual address that is one of the proxy's link has a route
//! over `lo` besides. In IPv4 it takes the place of the kernel's, or comes before it; in IPv6 the kernel's
//! has the better metric, and is deleted.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use ipnet::IpNet;
use netns_link::{Link, Route, RouteProtocol};
use tokio::time::sleep;

use super::{Kernel, Routes};
use crate::failure::{Failure, Step};

/// By this number the proxy's routes are known from those of others.
const PROTOCOL: RouteProtocol = RouteProtocol::new(196);
/// How often the kernel's route for a new IPv6 address is looked for, which comes a moment after the
/// address, and how long that is.
const LOOKS: usize = 20;
const MOMENT: Duration = Duration::from_millis(5);

impl Kernel<'_> {
    /// The proxy's routes.
    pub(super) async fn read_routes(&mut self) -> Result<Routes, Failure> {
        let failed = |error| Failure::new(Step::Routes, error);
        let loopback = self.loopback().await?;
        self.count("routes");
        let present = self.links.routes(&loopback).await.map_err(failed)?;
        let ours = present.into_iter().filter(|route| route.protocol() == PROTOCOL);
        let routes: Routes = ours
            .filter_map(|route| {
                let prefix = route.prefix();
                Some((IpNet::new(prefix.ip(), prefix.length()).ok()?, route.source()))
            })
            .collect();
        self.routed = routes.keys().copied().collect();
        Ok(routes)
    }

    pub(super) async fn write_route(
        &mut self,
        range: IpNet,
        source: Option<IpAddr>,
    ) -> Result<(), Failure> {
        let failed = |error: netns_link::Error| Failure::new(Step::Routes, error);
        let mut route = route(range)?;
        if let Some(source) = source {
            route = route.with_source(source);
        }
        let loopback = self.loopback().await?;
        self.count("route changes");
        self.links.replace_route(&loopback, route).await.map_err(failed)?;
        self.routed.insert(range);
        Ok(())
    }

    /// Takes away one of the proxy's routes, whatever its source and its metric.
    pub(super) async fn delete_route(&mut self, range: IpNet) -> Result<(), Failure> {
        let route = route(range)?;
        let loopback = self.loopback().await?;
        self.count("route changes");
        let deleted = self.links.delete_route(&loopback, route).await;
        deleted.map_err(|error| Failure::new(Step::Routes, error))?;
        self.routed.remove(&range);
        Ok(())
    }

    /// Deletes the kernel's own routes for IPv6 addresses of the proxy's link, which would come before
    /// the proxy's. Those for new addresses are waited for, for a moment.
    pub(super) async fn delete_routes_of_kernel(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        new: &BTreeSet<IpAddr>,
    ) -> Result<(), Failure> {
        let failed = |error| Failure::new(Step::Routes, error);
        let is_ipv6 = |address: &&IpAddr| address.is_ipv6();
        if !addresses.iter().any(|address| address.is_ipv6()) {
            return Ok(());
        }
        let Some(link) = self.link.clone() else { return Ok(()) };
        let mut missing: BTreeSet<IpAddr> = new.iter().filter(is_ipv6).copied().collect();
        for look in 0..LOOKS {
            if look > 0 {
                sleep(MOMENT).await;
            }
            self.count("routes");
            for route in self.links.routes(&link).await.map_err(failed)? {
                let address = route.prefix().ip();
                let is_host = route.prefix().length() == 128;
                // Without the proxy's own route the address would be lost.
                let is_outdone = self.routed.contains(&IpNet::from(address));
                if is_host
                    && is_outdone
                    && route.protocol() == RouteProtocol::KERNEL
                    && addresses.contains(&address)
                {
                    missing.remove(&address);
                    self.count("route changes");
                    self.links.delete_route(&link, route).await.map_err(failed)?;
                }
            }
            if missing.is_empty() {
                break;
            }
        }
        Ok(())
    }

    async fn loopback(&mut self) -> Result<Link, Failure> {
        if let Some(loopback) = &self.loopback {
            return Ok(loopback.clone());
        }
        self.count("links");
        let found =
            self.links.find("lo").await.map_err(|error| Failure::new(Step::Routes, error))?;
        let missing = || Failure::new(Step::Routes, "the namespace has no link lo");
        Ok(self.loopback.insert(found.ok_or_else(missing)?).clone())
    }
}

fn route(range: IpNet) -> Result<Route, Failure> {
    let prefix = range.to_string().parse();
    let prefix = prefix.map_err(|error| Failure::new(Step::Routes, error))?;
    Ok(Route::local(prefix).with_protocol(PROTOCOL))
}
