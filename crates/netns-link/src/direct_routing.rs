use std::net::IpAddr;

use crate::{
    blocking::Links,
    error::Error,
    links::{Address, Link},
    netns::NetNs,
    settings::{Setting, SettingChanges},
};

/// Makes a dummy link with exactly these virtual IPs, up, in the director's namespace.
///
/// The kernel hands packets to IPVS only if their destination is an address of the host. Calling
/// it again with other addresses changes what differs; [`Links::delete_dummy`] removes it all.
/// Equivalent to `ip link add LINK type dummy`, `ip address add VIP/32 dev LINK` (and `delete`)
/// for each that differs, `ip link set LINK up`.
///
/// This is a plain function for async programs too. The kernel answers within each system call, so
/// it never waits, and there is no future that could be dropped half-way. An address takes some
/// 0.1 ms; for thousands of addresses use `spawn_blocking`, or one [`Route`](crate::Route) for the
/// whole range.
///
/// When a director of direct routing connects to its own virtual IP, it sends ARP requests for the
/// real servers with that IP as the source. The real servers have the IP too and do not answer, and
/// for a while the packets of other clients are lost as well. Set [`Setting::arp_announce`] to 2
/// for `all` to avoid this.
///
/// # Errors
/// As [`Links::create_dummy`] and [`Links::set_addresses`]. What was done before the error is
/// undone: a link that was made is deleted, another has the addresses that it had. Where that fails
/// too, [`Error::not_undone`] says why.
pub fn prepare_director(namespace: &NetNs, link: &str, vips: &[IpAddr]) -> Result<Link, Error> {
    let links = Links::connect(namespace)?;
    let dummy = links.create_dummy(link)?;
    let wanted: Vec<_> = vips.iter().copied().map(vip).collect();
    let before = match links.addresses(&dummy.link) {
        Ok(before) => before,
        Err(error) if dummy.created => {
            return Err(error.after_undoing(links.delete_dummy_link(dummy.link).map(drop)));
        }
        Err(error) => return Err(error),
    };
    let done = links
        .set_addresses(&dummy.link, &wanted)
        .map_err(Error::from)
        .and_then(|_| links.up(&dummy.link));
    match done {
        Ok(()) => Ok(Link { up: true, ..dummy.link }),
        Err(error) if dummy.created => {
            Err(error.after_undoing(links.delete_dummy_link(dummy.link).map(drop)))
        }
        Err(error) => {
            let restored = links.set_addresses(&dummy.link, &before).map_err(Error::from);
            Err(error.after_undoing(restored.map(drop)))
        }
    }
}

/// Does what a real server needs for direct routing: the virtual IPs on a dummy link of its own,
/// so that it takes packets for them, and ARP settings that keep it silent about them
/// ([`RealServerArp`]), so that clients go on sending to the director.
///
/// Equivalent, in the namespace, to `sysctl -w net.ipv4.conf.all.arp_ignore=1`,
/// `sysctl -w net.ipv4.conf.all.arp_announce=2`, `ip link add LINK type dummy`,
/// `ip address add VIP/32 dev LINK` (`VIP/128 … nodad` for IPv6), `ip link set LINK up`. In this
/// order, so the host never answers for a virtual IP. What is there already stays, and undoing does
/// not remove it.
///
/// This is a plain function for async programs too. The kernel answers within each system call, so
/// it never waits, and there is no future that could be dropped half-way.
///
/// # Errors
/// As [`Setting::write`], [`Links::create_dummy`] and [`Links::add_address`]. What was done before
/// the error is undone. Where that fails too, [`Error::not_undone`] says why.
pub fn prepare_real_server(
    namespace: &NetNs,
    link: &str,
    vips: &[IpAddr],
) -> Result<RealServerSetup, Error> {
    let mut setup = RealServerSetup::default();
    match setup.apply(namespace, link, vips) {
        Ok(()) => Ok(setup),
        Err(error) => Err(error.after_undoing(setup.undo(namespace))),
    }
}

/// What [`prepare_real_server`] changed, so that it can be undone. Dropping it changes nothing: the
/// real server stays prepared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "the real server stays prepared unless this is undone"]
pub struct RealServerSetup {
    arp: SettingChanges,
    /// The link, once it is there, as it was found or made.
    link: Option<Link>,
    /// Whether it was made.
    created: bool,
    added: Vec<Address>,
    /// Whether it was set up, having been down.
    raised: bool,
}

impl RealServerSetup {
    /// Removes the virtual IPs that were added, or the link with all its addresses if it was made,
    /// and sets down a link that was down. Then restores the ARP settings.
    ///
    /// # Errors
    /// The first one. While a virtual IP cannot be removed, the ARP settings stay, or the host
    /// would answer for it. What could not be undone stays in this value, so that the call can
    /// be repeated. It is no error if something is gone already.
    pub fn undo(&mut self, namespace: &NetNs) -> Result<(), Error> {
        self.remove(namespace)?;
        self.arp.undo(namespace)
    }

    fn apply(&mut self, namespace: &NetNs, name: &str, vips: &[IpAddr]) -> Result<(), Error> {
        let links = Links::connect(namespace)?;
        if vips.iter().any(IpAddr::is_ipv4) {
            self.arp = RealServerArp::apply(namespace)?.changes;
        }
        let dummy = links.create_dummy(name)?;
        self.created = dummy.created;
        let link = self.link.insert(dummy.link);
        for address in vips.iter().copied().map(vip) {
            if links.add_address(link, address)? {
                self.added.push(address);
            }
        }
        self.raised = !link.up;
        links.up(link)
    }

    fn remove(&mut self, namespace: &NetNs) -> Result<(), Error> {
        let Some(link) = &self.link else { return Ok(()) };
        let links = Links::connect(namespace)?;
        let now = links.find_index(link.index)?.filter(|now| now.name == link.name);
        match now {
            None => {}
            Some(now) if self.created => drop(links.delete_dummy_link(now)?),
            Some(now) => {
                let mut result = Ok(());
                self.added.retain(|address| match links.remove_address(&now, *address) {
                    Ok(_) => false,
                    Err(error) => {
                        result = std::mem::replace(&mut result, Ok(())).and(Err(error));
                        true
                    }
                });
                result?;
                if self.raised {
                    links.down(&now)?;
                }
            }
        }
        self.link = None;
        self.added.clear();
        Ok(())
    }
}

/// The ARP settings that a real server of direct routing needs for its IPv4 virtual IPs:
/// `net.ipv4.conf.all.arp_ignore` at least 1 and `net.ipv4.conf.all.arp_announce` at least 2.
///
/// Without the first, it answers ARP requests for the virtual IP, which is one of its addresses,
/// and clients on the same segment may send to it past the director. Without the second, its own
/// ARP requests may have the virtual IP as their source, which teaches others the same. `all` holds
/// for every link that the host has or gets. IPv6 needs nothing of the kind: neighbour discovery
/// answers only for the addresses of the link on which the request came.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the settings stay unless this is undone"]
pub struct RealServerArp {
    changes: SettingChanges,
}

impl RealServerArp {
    /// Sets them in a namespace. Greater values, which are stricter, stay.
    ///
    /// # Errors
    /// As [`Setting::write`]. What was changed before the error is undone; where that fails too,
    /// [`Error::not_undone`] says why.
    pub fn apply(namespace: &NetNs) -> Result<Self, Error> {
        let mut changes = SettingChanges::default();
        let raised = Setting::arp_ignore("all")
            .and_then(|ignore| changes.raise(namespace, ignore, 1))
            .and_then(|()| Setting::arp_announce("all"))
            .and_then(|announce| changes.raise(namespace, announce, 2));
        match raised {
            Ok(()) => Ok(Self { changes }),
            Err(error) => Err(error.after_undoing(changes.undo(namespace))),
        }
    }

    /// What was changed, with the values before and after.
    pub fn changes(&self) -> &SettingChanges {
        &self.changes
    }

    /// Restores the earlier values, except where somebody else has changed them since.
    ///
    /// # Errors
    /// As [`SettingChanges::undo`].
    pub fn undo(&mut self, namespace: &NetNs) -> Result<(), Error> {
        self.changes.undo(namespace)
    }
}

/// /32 or /128, usable at once: that other hosts have it too is the point.
fn vip(ip: IpAddr) -> Address {
    Address::host(ip).nodad()
}
