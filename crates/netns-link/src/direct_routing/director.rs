//! What a director needs.

use std::{net::IpAddr, time::Duration};

use super::vip;
use crate::{
    announce::announce,
    blocking::Links,
    error::{Error, ErrorKind, Operation},
    links::{Address, Link},
    netns::NetNs,
};

/// Makes a dummy link with exactly these virtual IPs, up, in the director's namespace:
/// [`Director::new(link)`](Director::new)`.prepare(…)`.
///
/// It is enough where clients come through a router, and for IPv4. For IPv6 clients on a link of the
/// director itself, and for an address that moves between directors, use [`Director::clients_on`].
///
/// # Errors
/// As [`Director::prepare`].
pub fn prepare_director(namespace: &NetNs, link: &str, vips: &[IpAddr]) -> Result<Link, Error> {
    Director::new(link).prepare(namespace, vips)
}

/// What a director needs: the virtual IPs as addresses of its own, where the kernel hands packets for them
/// to IPVS, and their neighbours told.
///
/// ```no_run
/// use std::{net::IpAddr, time::Duration};
///
/// use netns_link::{Director, NetNs};
///
/// # fn example() -> Result<(), netns_link::Error> {
/// let vips: [IpAddr; 2] = [[10, 0, 0, 185].into(), "fd00::185".parse().unwrap_or_else(|_| unreachable!())];
/// let director = Director::new("ipvs0")
///     .clients_on("eth0") // IPv6 addresses go here, and announcements out of it
///     .announce(3, Duration::from_millis(200));
/// director.prepare(&NetNs::current()?, &vips)?;
/// // … when another director takes over:
/// director.remove(&NetNs::current()?, &vips)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "nothing is done before `prepare`"]
pub struct Director {
    dummy: String,
    clients_on: Option<String>,
    announcements: u32,
    interval: Duration,
}

impl Director {
    /// A director with its virtual IPs on a dummy link of this name, which tells nobody.
    pub fn new(dummy: &str) -> Self {
        Self {
            dummy: dummy.to_owned(),
            clients_on: None,
            announcements: 0,
            interval: Duration::ZERO,
        }
    }

    /// The link on which clients are, or the router through which they come.
    ///
    /// IPv4 answers ARP requests for any address of the host on any link, so that a dummy link makes an
    /// address reachable. IPv6 answers neighbour solicitations only for the addresses of the link on which
    /// they come: on a dummy link, an address is reached through a router that has a route for it, and by
    /// nobody on the link itself. With this, IPv6 virtual IPs are added to the link, as /128 and
    /// without duplicate address detection, and stay off the dummy. Other addresses of the link are left
    /// alone.
    pub fn clients_on(mut self, link: &str) -> Self {
        self.clients_on = Some(link.to_owned());
        self
    }

    /// Announces the virtual IPs on [that link](Self::clients_on) so many times, with this interval
    /// between two of them: see [`Announcer`](crate::Announcer), which needs CAP_NET_RAW.
    /// [`prepare`](Self::prepare) takes that long.
    pub fn announce(mut self, count: u32, interval: Duration) -> Self {
        (self.announcements, self.interval) = (count, interval);
        self
    }

    /// Makes the dummy link with exactly these virtual IPs, up. Then adds the IPv6 ones to the link of the
    /// clients, if one is named, and announces all.
    ///
    /// The kernel hands packets to IPVS only if their destination is an address of the host. Calling
    /// it again with other addresses changes what differs on the dummy link; an IPv6 address that is no
    /// longer wanted on the clients' link is taken away by [`remove`](Self::remove).
    /// Equivalent to `ip link add LINK type dummy`, `ip address add VIP/32 dev LINK` (and `delete`)
    /// for each that differs, `ip link set LINK up`; `ip address add VIP/128 dev LINK nodad`.
    ///
    /// This is a plain function for async programs too. The kernel answers within each system call, so
    /// but for the announcements it never waits, and there is no future that could be dropped half-way. An
    /// address takes some 0.1 ms; for thousands of addresses use `spawn_blocking`, or one
    /// [`Route`](crate::Route) for the whole range.
    ///
    /// When a director of direct routing connects to its own virtual IP, it sends ARP requests for the
    /// real servers with that IP as the source. The real servers have the IP too and do not answer, and
    /// for a while the packets of other clients are lost as well. Set
    /// [`Setting::arp_announce`](crate::Setting::arp_announce) to 2 for `all` to avoid this.
    ///
    /// # Errors
    /// As [`Links::create_dummy`], [`Links::set_addresses`] and [`announce`];
    /// [`ErrorKind::NotFound`] if there is no link of the clients' name. What was done before the error is
    /// undone: a link that was made is deleted, another has the addresses that it had. Where that fails
    /// too, [`Error::not_undone`] says why. After an announcement that failed the addresses stay.
    pub fn prepare(&self, namespace: &NetNs, vips: &[IpAddr]) -> Result<Link, Error> {
        let links = Links::connect(namespace)?;
        let clients = self.clients(&links)?;
        let (beside, on_dummy): (Vec<Address>, Vec<Address>) =
            vips.iter().copied().map(vip).partition(|vip| clients.is_some() && vip.ip().is_ipv6());
        let dummy = links.create_dummy(&self.dummy)?;
        let before = match links.addresses(&dummy.link) {
            Ok(before) => before,
            Err(error) if dummy.created => {
                return Err(error.after_undoing(links.delete_dummy_link(dummy.link).map(drop)));
            }
            Err(error) => return Err(error),
        };
        let mut added = Vec::new();
        let done = links
            .set_addresses(&dummy.link, &on_dummy)
            .map_err(Error::from)
            .and_then(|_| links.up(&dummy.link))
            .and_then(|()| {
                let Some(clients) = &clients else { return Ok(()) };
                for address in &beside {
                    if links.add_address(clients, *address)? {
                        added.push(*address);
                    }
                }
                Ok(())
            });
        if let Err(error) = done {
            let mut undone = match &clients {
                Some(clients) => links.change_addresses(clients, &[], &added).map(drop),
                None => Ok(()),
            }
            .map_err(Error::from);
            undone = undone.and(match dummy.created {
                true => links.delete_dummy_link(dummy.link).map(drop),
                false => links.set_addresses(&dummy.link, &before).map(drop).map_err(Error::from),
            });
            return Err(error.after_undoing(undone));
        }
        if let Some(clients) = &clients {
            announce(namespace, clients, vips, self.announcements, self.interval)?;
        }
        Ok(Link { up: true, ..dummy.link })
    }

    /// Deletes the dummy link, and takes these virtual IPs off the link of the clients, as a director does
    /// that another one takes over from. What is gone already is no error.
    ///
    /// # Errors
    /// As [`Links::delete_dummy`] and [`Links::delete_address`].
    pub fn remove(&self, namespace: &NetNs, vips: &[IpAddr]) -> Result<(), Error> {
        let links = Links::connect(namespace)?;
        links.delete_dummy(&self.dummy)?;
        let Some(name) = &self.clients_on else { return Ok(()) };
        let Some(clients) = links.find(name)? else { return Ok(()) };
        let ipv6: Vec<_> = vips.iter().copied().filter(IpAddr::is_ipv6).map(vip).collect();
        links.change_addresses(&clients, &[], &ipv6)?;
        Ok(())
    }

    fn clients(&self, links: &Links) -> Result<Option<Link>, Error> {
        let Some(name) = &self.clients_on else { return Ok(None) };
        match links.find(name)? {
            Some(link) => Ok(Some(link)),
            None => {
                let operation = Operation::FindLink(name.clone());
                Err(Error::new(ErrorKind::NotFound, operation, "there is no link of this name"))
            }
        }
    }
}
