//! The links of a namespace for programs without an async runtime. No other thread and no runtime
//! is behind it: the kernel answers each request within the system call that asks.
//!
//! ```no_run
//! use netns_link::{NetNs, blocking::Links};
//!
//! let links = Links::connect(&NetNs::current()?)?;
//! let dummy = links.create_dummy("ipvs0")?.link;
//! links.add_address(&dummy, "10.0.0.185".parse()?)?;
//! # Ok::<(), netns_link::Error>(())
//! ```

use std::{
    collections::BTreeMap,
    pin::pin,
    task::{Context, Poll, Waker},
};

use crate::{
    error::{Error, Incomplete},
    links::{self, Address, Changed, DummyLink, Link, Route},
    netns::NetNs,
};

/// The links of one namespace, their addresses and local routes, without async: the same calls as
/// those of [`netns_link::Links`](crate::Links), with the same results and errors.
///
/// Clones share one socket, and with it one file descriptor, on which calls are carried out one
/// after the other. It may be used within an async program too, where waiting for some ten
/// microseconds a change does not matter.
#[derive(Clone, Debug)]
pub struct Links {
    links: links::Links,
}

impl Links {
    /// Opens a socket in the namespace.
    ///
    /// # Errors
    /// As [`NetNs::run`].
    pub fn connect(namespace: &NetNs) -> Result<Self, Error> {
        Ok(Self { links: links::Links::connect_blocking(namespace)? })
    }

    /// All links: [`Links::list`](crate::Links::list).
    ///
    /// # Errors
    /// As there.
    pub fn list(&self) -> Result<Vec<Link>, Error> {
        at_once(self.links.list())
    }

    /// The link with this name, if there is one: [`Links::find`](crate::Links::find).
    ///
    /// # Errors
    /// As there.
    pub fn find(&self, name: &str) -> Result<Option<Link>, Error> {
        at_once(self.links.find(name))
    }

    /// The link with this index, if there is one: [`Links::find_index`](crate::Links::find_index).
    ///
    /// # Errors
    /// As there.
    pub fn find_index(&self, index: u32) -> Result<Option<Link>, Error> {
        at_once(self.links.find_index(index))
    }

    /// Makes a dummy link, or finds the one that has this name:
    /// [`Links::create_dummy`](crate::Links::create_dummy).
    ///
    /// # Errors
    /// As there.
    pub fn create_dummy(&self, name: &str) -> Result<DummyLink, Error> {
        at_once(self.links.create_dummy(name))
    }

    /// Deletes a dummy link with its addresses:
    /// [`Links::delete_dummy`](crate::Links::delete_dummy).
    ///
    /// # Errors
    /// As there.
    pub fn delete_dummy(&self, name: &str) -> Result<bool, Error> {
        at_once(self.links.delete_dummy(name))
    }

    /// Sets a link up: [`Links::up`](crate::Links::up).
    ///
    /// # Errors
    /// As there.
    pub fn up(&self, link: &Link) -> Result<(), Error> {
        at_once(self.links.up(link))
    }

    /// Sets a link down: [`Links::down`](crate::Links::down).
    ///
    /// # Errors
    /// As there.
    pub fn down(&self, link: &Link) -> Result<(), Error> {
        at_once(self.links.down(link))
    }

    /// Switches ARP on or off for a link: [`Links::set_arp`](crate::Links::set_arp).
    ///
    /// # Errors
    /// As there.
    pub fn set_arp(&self, link: &Link, on: bool) -> Result<(), Error> {
        at_once(self.links.set_arp(link, on))
    }

    /// Sets the MTU of a link: [`Links::set_mtu`](crate::Links::set_mtu).
    ///
    /// # Errors
    /// As there.
    pub fn set_mtu(&self, link: &Link, bytes: u32) -> Result<(), Error> {
        at_once(self.links.set_mtu(link, bytes))
    }

    /// Moves a link to another namespace: [`Links::move_to`](crate::Links::move_to).
    ///
    /// # Errors
    /// As there.
    pub fn move_to(&self, link: &Link, namespace: &NetNs) -> Result<(), Error> {
        at_once(self.links.move_to(link, namespace))
    }

    /// The addresses of a link: [`Links::addresses`](crate::Links::addresses).
    ///
    /// # Errors
    /// As there.
    pub fn addresses(&self, link: &Link) -> Result<Vec<Address>, Error> {
        at_once(self.links.addresses(link))
    }

    /// Adds an address to a link; returns whether it was missing:
    /// [`Links::add_address`](crate::Links::add_address).
    ///
    /// # Errors
    /// As there.
    pub fn add_address(&self, link: &Link, address: Address) -> Result<bool, Error> {
        at_once(self.links.add_address(link, address))
    }

    /// Adds an address to a link or changes its properties; returns whether it was missing:
    /// [`Links::replace_address`](crate::Links::replace_address).
    ///
    /// # Errors
    /// As there.
    pub fn replace_address(&self, link: &Link, address: Address) -> Result<bool, Error> {
        at_once(self.links.replace_address(link, address))
    }

    /// Removes an address from a link; returns whether it was there:
    /// [`Links::delete_address`](crate::Links::delete_address).
    ///
    /// # Errors
    /// As there.
    pub fn delete_address(&self, link: &Link, address: Address) -> Result<bool, Error> {
        at_once(self.links.delete_address(link, address))
    }

    /// Gives a link exactly these addresses: [`Links::set_addresses`](crate::Links::set_addresses).
    ///
    /// # Errors
    /// As there.
    pub fn set_addresses(
        &self,
        link: &Link,
        addresses: &[Address],
    ) -> Result<Changed, Incomplete<Changed>> {
        at_once(self.links.set_addresses(link, addresses))
    }

    /// Adds addresses to a link and removes others:
    /// [`Links::change_addresses`](crate::Links::change_addresses).
    ///
    /// # Errors
    /// As there.
    pub fn change_addresses(
        &self,
        link: &Link,
        added: &[Address],
        deleted: &[Address],
    ) -> Result<Changed, Incomplete<Changed>> {
        at_once(self.links.change_addresses(link, added, deleted))
    }

    /// The addresses of all links, by the links' indices:
    /// [`Links::all_addresses`](crate::Links::all_addresses).
    ///
    /// # Errors
    /// As there.
    pub fn all_addresses(&self) -> Result<BTreeMap<u32, Vec<Address>>, Error> {
        at_once(self.links.all_addresses())
    }

    /// The local routes over a link: [`Links::routes`](crate::Links::routes).
    ///
    /// # Errors
    /// As there.
    pub fn routes(&self, link: &Link) -> Result<Vec<Route>, Error> {
        at_once(self.links.routes(link))
    }

    /// Adds a local route over a link; returns whether it was missing:
    /// [`Links::add_route`](crate::Links::add_route).
    ///
    /// # Errors
    /// As there.
    pub fn add_route(&self, link: &Link, route: Route) -> Result<bool, Error> {
        at_once(self.links.add_route(link, route))
    }

    /// Adds a local route over a link in the place of another:
    /// [`Links::replace_route`](crate::Links::replace_route).
    ///
    /// # Errors
    /// As there.
    pub fn replace_route(&self, link: &Link, route: Route) -> Result<(), Error> {
        at_once(self.links.replace_route(link, route))
    }

    /// Deletes a local route over a link; returns whether it was there:
    /// [`Links::delete_route`](crate::Links::delete_route).
    ///
    /// # Errors
    /// As there.
    pub fn delete_route(&self, link: &Link, route: Route) -> Result<bool, Error> {
        at_once(self.links.delete_route(link, route))
    }

    #[cfg(test)]
    pub(crate) fn over(links: links::Links) -> Self {
        Self { links }
    }

    pub(crate) fn delete_dummy_link(&self, link: Link) -> Result<bool, Error> {
        at_once(self.links.delete_dummy_link(link))
    }
}

/// The result of a future over a socket that answers at once: none of them is ever pending.
pub(crate) fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return result;
        }
        std::thread::yield_now();
    }
}
