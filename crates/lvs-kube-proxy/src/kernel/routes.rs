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

use super::{Failure, Kernel};

/// By this number the proxy's routes are known from those of others.
const PROTOCOL: RouteProtocol = RouteProtocol::new(196);
/// How often the kernel's route for a new IPv6 address is looked for, which comes a moment after the
/// address, and how long that is.
const LOOKS: usize = 20;
const MOMENT: Duration = Duration::from_millis(5);

impl Kernel<'_> {
    /// Reads which routes of the proxy's there are.
    pub(crate) async fn read_routes(&mut self) -> Result<(), Failure> {
        let failed = |error| Failure::new("routes", error);
        let loopback = self.loopback().await?;
        self.count("routes");
        let present = self.links.routes(&loopback).await.map_err(failed)?;
        let ours = present.into_iter().filter(|route| route.protocol() == PROTOCOL);
        let net = |route: &Route| {
            let prefix = route.prefix();
            IpNet::new(prefix.ip(), prefix.length()).ok()
        };
        self.routes = ours.filter_map(|route| Some((net(&route)?, route))).collect();
        Ok(())
    }

    /// Makes a range or an address local, if it is not so as far as is known. Returns what was changed.
    pub(crate) async fn add_route(
        &mut self,
        range: IpNet,
        source: Option<IpAddr>,
    ) -> Result<Option<String>, Failure> {
        let failed = |error: netns_link::Error| Failure::new("routes", error);
        let range = range.trunc();
        if self.routes.get(&range).is_some_and(|route| route.source() == source) {
            return Ok(None);
        }
        let prefix = range.to_string().parse().map_err(failed)?;
        let mut route = Route::local(prefix).with_protocol(PROTOCOL);
        if let Some(source) = source {
            route = route.with_source(source);
        }
        let loopback = self.loopback().await?;
        self.count("route changes");
        self.links.replace_route(&loopback, route).await.map_err(failed)?;
        self.routes.insert(range, route);
        Ok(Some(format!("+ {route}")))
    }

    /// Takes away the proxy's routes but for those that stay. Returns what was changed.
    pub(crate) async fn remove_routes(
        &mut self,
        stays: impl Fn(&IpNet) -> bool,
    ) -> Result<Vec<String>, Failure> {
        let gone: Vec<_> = self.routes.keys().filter(|range| !stays(range)).copied().collect();
        let mut changed = Vec::new();
        for range in gone {
            changed.extend(self.remove_route(range).await?);
        }
        Ok(changed)
    }

    /// Takes one of the proxy's routes away, if it is there as far as is known.
    pub(crate) async fn remove_route(&mut self, range: IpNet) -> Result<Option<String>, Failure> {
        let Some(route) = self.routes.get(&range.trunc()).copied() else { return Ok(None) };
        let loopback = self.loopback().await?;
        self.count("route changes");
        // Of a route that was made in this run the metric is not known; without one any is meant.
        let route = route.with_metric(0);
        let deleted = self.links.delete_route(&loopback, route).await;
        deleted.map_err(|error| Failure::new("routes", error))?;
        self.routes.remove(&range.trunc());
        Ok(Some(format!("- {route}")))
    }

    /// Deletes the kernel's own routes for IPv6 addresses of the proxy's link, which would come before
    /// the proxy's. Those for new addresses are waited for, for a moment.
    pub(crate) async fn delete_routes_of_kernel(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        new: &BTreeSet<IpAddr>,
    ) -> Result<(), Failure> {
        let failed = |error| Failure::new("routes", error);
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
                let is_outdone = self.routes.contains_key(&IpNet::from(address));
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
        let found = self.links.find("lo").await.map_err(|error| Failure::new("routes", error))?;
        let missing = || Failure::new("routes", "the namespace has no link lo");
        Ok(self.loopback.insert(found.ok_or_else(missing)?).clone())
    }
}
