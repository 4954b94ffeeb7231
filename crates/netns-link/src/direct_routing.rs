use std::net::IpAddr;

use crate::{
    address::Address,
    error::Error,
    link::{Link, Links},
    netns::NetNs,
    settings::Setting,
};

/// Makes a dummy link with exactly these virtual IPs, up, in the director's namespace.
///
/// The kernel hands packets to IPVS only if their destination is an address of the host. Calling
/// it again with other addresses changes what differs; [`Links::delete_dummy`] removes it all.
/// Equivalent to `ip link add LINK type dummy`, `ip address add VIP/32 dev LINK` (and `delete`)
/// for each that differs, `ip link set LINK up`.
///
/// A director of direct routing that connects to its own virtual IP asks for the real servers' link
/// addresses with that IP as the source; they have it too and do not answer, and for a while the
/// packets of other clients fail with them. [`Setting::arp_announce`] 2 for `all` avoids it.
///
/// # Errors
/// As [`Links::create_dummy`] and [`Links::set_addresses`].
pub async fn prepare_director(
    namespace: &NetNs,
    link: &str,
    vips: &[IpAddr],
) -> Result<Link, Error> {
    let links = Links::connect(namespace)?;
    let dummy = links.create_dummy(link).await?;
    links.set_addresses(&dummy, &vips.iter().copied().map(vip).collect::<Vec<_>>()).await?;
    links.up(&dummy).await?;
    Ok(Link { up: true, ..dummy })
}

/// Does what a real server needs for direct routing: the virtual IPs on a dummy link of its own,
/// so that it takes packets for them, and ARP settings that keep it silent about them
/// ([`RealServerArp`]), so that clients go on sending to the director.
///
/// Equivalent, in the namespace, to `sysctl -w net.ipv4.conf.all.arp_ignore=1`,
/// `sysctl -w net.ipv4.conf.all.arp_announce=2`, `ip link add LINK type dummy`,
/// `ip address add VIP/32 dev LINK` (`VIP/128 … nodad` for IPv6), `ip link set LINK up`. In this
/// order: there is no moment at which the host would answer for a virtual IP. What is there
/// already stays and is not removed by the undoing.
///
/// # Errors
/// As [`Setting::write`], [`Links::create_dummy`] and [`Links::add_address`]. What was done until
/// then is undone.
pub async fn prepare_real_server(
    namespace: &NetNs,
    link: &str,
    vips: &[IpAddr],
) -> Result<RealServerSetup, Error> {
    let links = Links::connect(namespace)?;
    let mut setup = RealServerSetup {
        link: link.to_owned(),
        before: links.find(link).await?,
        added: Vec::new(),
        arp: None,
    };
    match setup.apply(namespace, &links, vips).await {
        Ok(()) => Ok(setup),
        Err(error) => {
            // The first error is the one that counts.
            let _ = setup.undo(namespace).await;
            Err(error)
        }
    }
}

/// What [`prepare_real_server`] changed, so that it can be undone. Dropping it changes nothing: the
/// real server stays prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the real server stays prepared unless this is undone"]
pub struct RealServerSetup {
    link: String,
    /// The link as it was found, if it was there.
    before: Option<Link>,
    added: Vec<Address>,
    arp: Option<RealServerArp>,
}

impl RealServerSetup {
    /// Removes the virtual IPs and the link that were added, or sets a link down that was down, then
    /// restores the ARP settings.
    ///
    /// # Errors
    /// The first one; the other steps are done all the same. That something is gone already is
    /// none.
    pub async fn undo(self, namespace: &NetNs) -> Result<(), Error> {
        let addresses = self.remove(namespace).await;
        let arp = self.arp.map_or(Ok(()), |arp| arp.undo(namespace));
        addresses.and(arp)
    }

    async fn apply(
        &mut self,
        namespace: &NetNs,
        links: &Links,
        vips: &[IpAddr],
    ) -> Result<(), Error> {
        if vips.iter().any(IpAddr::is_ipv4) {
            self.arp = Some(RealServerArp::apply(namespace)?);
        }
        let dummy = links.create_dummy(&self.link).await?;
        for address in vips.iter().copied().map(vip) {
            if links.add_address(&dummy, address).await? {
                self.added.push(address);
            }
        }
        links.up(&dummy).await
    }

    async fn remove(&self, namespace: &NetNs) -> Result<(), Error> {
        let links = Links::connect(namespace)?;
        let Some(before) = &self.before else {
            return links.delete_dummy(&self.link).await.map(drop);
        };
        let Some(link) = links.find_index(before.index).await? else { return Ok(()) };
        let mut result = Ok(());
        for address in &self.added {
            result = result.and(links.remove_address(&link, *address).await.map(drop));
        }
        if !before.up {
            result = result.and(links.down(&link).await);
        }
        result
    }
}

/// The ARP settings that a real server of direct routing needs for its IPv4 virtual IPs:
/// `net.ipv4.conf.all.arp_ignore` at least 1 and `net.ipv4.conf.all.arp_announce` at least 2.
///
/// Without the first, it answers ARP requests for the virtual IP, which is an address of its own,
/// and clients of the same segment may send to it past the director. Without the second, its own
/// ARP requests may have the virtual IP as their source, and teach others the same. `all` counts
/// for every link that the host has or gets. IPv6 needs no such thing: neighbour discovery answers
/// for the addresses of the link that was asked only.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the settings stay unless this is undone"]
pub struct RealServerArp {
    /// What was changed, with the values before and after.
    changed: Vec<(Setting, String, &'static str)>,
}

impl RealServerArp {
    /// Sets them in a namespace. Greater values, which are stricter, stay.
    ///
    /// # Errors
    /// As [`Setting::write`]; nothing is changed then.
    pub fn apply(namespace: &NetNs) -> Result<Self, Error> {
        let mut applied = Self { changed: Vec::new() };
        let wanted =
            [(Setting::arp_ignore("all")?, 1, "1"), (Setting::arp_announce("all")?, 2, "2")];
        for (setting, least, value) in wanted {
            if let Err(error) = applied.raise(namespace, setting, least, value) {
                // The first error is the one that counts.
                let _ = applied.undo(namespace);
                return Err(error);
            }
        }
        Ok(applied)
    }

    /// Restores the values of before, except where somebody else has changed them since.
    ///
    /// # Errors
    /// As [`Setting::write`].
    pub fn undo(self, namespace: &NetNs) -> Result<(), Error> {
        let mut result = Ok(());
        for (setting, before, after) in &self.changed {
            result = result.and(setting.read(namespace).and_then(|now| {
                if now == *after { setting.write(namespace, before) } else { Ok(()) }
            }));
        }
        result
    }

    fn raise(
        &mut self,
        namespace: &NetNs,
        setting: Setting,
        least: i32,
        value: &'static str,
    ) -> Result<(), Error> {
        let before = setting.read(namespace)?;
        if before.parse::<i32>().is_ok_and(|before| before >= least) {
            return Ok(());
        }
        setting.write(namespace, value)?;
        self.changed.push((setting, before, value));
        Ok(())
    }
}

/// /32 or /128, usable at once: that other hosts have it too is the point.
fn vip(ip: IpAddr) -> Address {
    Address::host(ip).nodad()
}
