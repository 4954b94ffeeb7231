use std::{
    collections::BTreeSet,
    fmt,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    address::AddressMessage,
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};
use nix::errno::Errno;

use crate::{
    address::{Address, Present, is_link_local},
    error::{Error, ErrorKind},
    netlink::{Change, Netlink},
    netns::NetNs,
    reconcile::{Edit, plan},
};

/// The links of one namespace and their addresses, over route netlink.
///
/// Clones share one socket, which stays in the namespace where it was made; any number of calls
/// may run at once. Dropping a call's future stops the waiting, not what the kernel was told.
///
/// ```no_run
/// use netns_link::{Links, NetNs};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let links = Links::connect(&NetNs::current()?)?;
/// let dummy = links.create_dummy("ipvs0").await?; // ip link add ipvs0 type dummy
/// links.add_address(&dummy, "10.0.0.185".parse()?).await?; // ip address add 10.0.0.185/32 …
/// links.delete_dummy("ipvs0").await?; // ip link delete ipvs0
/// # Ok(())
/// # }
/// ```
///
/// Changes need CAP_NET_ADMIN in the user namespace of the network namespace; reading needs
/// nothing.
#[derive(Clone, Debug)]
pub struct Links {
    netlink: Netlink,
}

impl Links {
    /// Opens a socket in the namespace; a task of the current tokio runtime serves it.
    ///
    /// # Errors
    /// Outside of a tokio runtime, and as [`NetNs::run`].
    ///
    /// # Panics
    /// In a runtime that was built without I/O (`enable_io`).
    pub fn connect(namespace: &NetNs) -> Result<Self, Error> {
        Ok(Self { netlink: Netlink::connect(namespace)? })
    }

    /// All links: `ip link show`.
    ///
    /// # Errors
    /// If changes disturb the listing again and again
    /// ([`ErrorKind::Interrupted`](crate::ErrorKind)).
    pub async fn list(&self) -> Result<Vec<Link>, Error> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let messages = self.netlink.dump("list links", request).await?;
        Ok(messages.iter().filter_map(Link::from_message).collect())
    }

    /// The link with this name, if there is one: `ip link show NAME`.
    ///
    /// # Errors
    /// If the name is impossible ([`ErrorKind::InvalidInput`](crate::ErrorKind)).
    pub async fn find(&self, name: &str) -> Result<Option<Link>, Error> {
        let mut request = LinkMessage::default();
        request.attributes = vec![LinkAttribute::IfName(valid_name(name)?.to_owned())];
        self.get(name, request).await
    }

    /// The link with this index, if there is one.
    ///
    /// # Errors
    /// If the kernel's answer does not come or cannot be read.
    pub async fn find_index(&self, index: u32) -> Result<Option<Link>, Error> {
        let mut request = LinkMessage::default();
        request.header.index = index;
        self.get(&format!("index {index}"), request).await
    }

    /// Makes a dummy link, or finds the one that has this name: `ip link add NAME type dummy`.
    ///
    /// A new one is down. An IPv4 address works on it as it is, an IPv6 address after
    /// [`up`](Links::up).
    ///
    /// # Errors
    /// If a link of another kind has the name ([`ErrorKind::NotDummy`](crate::ErrorKind)), if the
    /// kernel has no dummy links ([`ErrorKind::Unsupported`](crate::ErrorKind)), or the name is
    /// impossible: it has 1 to 15 bytes, without slash, colon, percent sign and white space.
    pub async fn create_dummy(&self, name: &str) -> Result<Link, Error> {
        let mut request = LinkMessage::default();
        request.attributes = vec![
            LinkAttribute::IfName(valid_name(name)?.to_owned()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Dummy)]),
        ];
        let request = RouteNetlinkMessage::NewLink(request);
        let made = self.netlink.change("create dummy link", name, request).await;
        match (made, self.find(name).await?) {
            (Ok(()), Some(link)) => Ok(link),
            (Ok(()), None) => Err(Error::refused("find link", name, Errno::ENODEV)),
            (Err(error), Some(link)) if error.kind() == ErrorKind::AlreadyExists => link.dummy(),
            (Err(error), _) => Err(error),
        }
    }

    /// Deletes a dummy link with its addresses: `ip link delete NAME`. Whether it was there is
    /// returned; that it was not is no error.
    ///
    /// # Errors
    /// If the link is not a dummy ([`ErrorKind::NotDummy`](crate::ErrorKind)): it is left alone.
    pub async fn delete_dummy(&self, name: &str) -> Result<bool, Error> {
        let Some(link) = self.find(name).await? else { return Ok(false) };
        let mut request = LinkMessage::default();
        request.header.index = link.dummy()?.index;
        let request = RouteNetlinkMessage::DelLink(request);
        match self.netlink.change("delete dummy link", name, request).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// `ip link set NAME up`.
    ///
    /// # Errors
    /// If the link is gone ([`ErrorKind::NotFound`](crate::ErrorKind)) or a capability is missing.
    pub async fn up(&self, link: &Link) -> Result<(), Error> {
        self.set_flag("set link up", link, LinkFlags::Up, true).await
    }

    /// `ip link set NAME down`. Its IPv6 addresses are lost.
    ///
    /// # Errors
    /// As [`up`](Links::up).
    pub async fn down(&self, link: &Link) -> Result<(), Error> {
        self.set_flag("set link down", link, LinkFlags::Up, false).await
    }

    /// `ip link set NAME arp on` or `off` (`IFF_NOARP`). A dummy link is made with it off.
    ///
    /// # Errors
    /// As [`up`](Links::up).
    pub async fn set_arp(&self, link: &Link, on: bool) -> Result<(), Error> {
        self.set_flag("set arp of link", link, LinkFlags::Noarp, !on).await
    }

    /// `ip link set NAME mtu BYTES`.
    ///
    /// # Errors
    /// As [`up`](Links::up), and if the link cannot have this MTU
    /// ([`ErrorKind::InvalidInput`](crate::ErrorKind)); below 1280 bytes IPv6 is switched off.
    pub async fn set_mtu(&self, link: &Link, bytes: u32) -> Result<(), Error> {
        self.set("set mtu of link", link, |request| {
            request.attributes = vec![LinkAttribute::Mtu(bytes)];
        })
        .await
    }

    /// `ip link set NAME netns NAMESPACE`. The link loses its addresses and goes down, and may get
    /// another index there.
    ///
    /// # Errors
    /// As [`up`](Links::up), and if a link of this name is there already
    /// ([`ErrorKind::AlreadyExists`](crate::ErrorKind); a Linux without the changes of 6.6 says
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind)).
    pub async fn move_to(&self, link: &Link, namespace: &NetNs) -> Result<(), Error> {
        self.set("move link to another namespace", link, |request| {
            request.attributes = vec![LinkAttribute::NetNsFd(namespace.as_fd().as_raw_fd())];
        })
        .await
    }

    /// The addresses of a link: `ip address show dev NAME`.
    ///
    /// # Errors
    /// As [`list`](Links::list). A link that is gone has no addresses.
    pub async fn addresses(&self, link: &Link) -> Result<Vec<Address>, Error> {
        Ok(self.present(link).await?.iter().map(|present| present.address).collect())
    }

    /// Adds an address to a link: `ip address add ADDRESS dev NAME`. Whether it was missing is
    /// returned; that it was not is no error.
    ///
    /// # Errors
    /// If the link has this IPv6 address with another prefix length
    /// ([`ErrorKind::AlreadyExists`](crate::ErrorKind)), if it is gone
    /// ([`ErrorKind::NotFound`](crate::ErrorKind)) or a capability is missing.
    pub async fn add_address(&self, link: &Link, address: Address) -> Result<bool, Error> {
        let edit = Edit::Add(address);
        match self.netlink.changes(vec![change(link, edit)]).await.into_iter().collect() {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(Errno::EEXIST) => {
                // IPv4 says so only of the very same; IPv6 whatever the prefix length.
                let same = |present: &Address| {
                    (present.ip(), present.prefix_len()) == (address.ip(), address.prefix_len())
                };
                let there = self.addresses(link).await?.iter().any(same);
                if there { Ok(false) } else { Err(error) }
            }
            Err(error) => Err(error),
        }
    }

    /// Removes an address from a link: `ip address delete ADDRESS dev NAME`. Whether it was there
    /// is returned; that it was not is no error, nor that the link is gone.
    ///
    /// An IPv4 address that others of its network came after takes these with it, unless the
    /// setting `promote_secondaries` is on. It does not concern /32.
    ///
    /// # Errors
    /// If a capability is missing.
    pub async fn remove_address(&self, link: &Link, address: Address) -> Result<bool, Error> {
        let edit = Edit::Remove(address);
        match self.netlink.changes(vec![change(link, edit)]).await.into_iter().collect() {
            Ok(()) => Ok(true),
            Err(error) if edit.is_done(&error) || error.errno() == Some(Errno::ENODEV) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives a link exactly these addresses, by one listing and batches of changes.
    ///
    /// What is there and wanted is not touched. Link-local IPv6 addresses, which the kernel makes
    /// for itself, are never removed. `nodad` counts for those that are added only.
    ///
    /// # Errors
    /// If an IPv6 address is given with two prefix lengths (before anything is changed), and as
    /// [`add_address`](Links::add_address). All other changes are made even if one is refused;
    /// the first refusal is returned.
    pub async fn set_addresses(
        &self,
        link: &Link,
        addresses: &[Address],
    ) -> Result<Changed, Error> {
        let edits = plan(&self.present(link).await?, addresses)?;
        let changes = edits.iter().map(|edit| change(link, *edit)).collect();
        let results = self.netlink.changes(changes).await;
        let mut changed = Changed::default();
        for (edit, result) in edits.iter().zip(results) {
            match (edit, result) {
                (Edit::Add(address), Ok(())) => changed.added.push(*address),
                (Edit::Remove(address), Ok(())) => changed.removed.push(*address),
                (_, Ok(())) => {}
                (edit, Err(error)) if edit.is_done(&error) => {}
                (_, Err(error)) => return Err(error),
            }
        }
        Ok(changed)
    }

    /// All addresses that are local to the namespace, as kube-proxy wants them: of every link, but
    /// neither loopback (127.0.0.0/8, ::1) nor link-local IPv6 (fe80::/10).
    ///
    /// # Errors
    /// As [`list`](Links::list).
    pub async fn local_addresses(&self) -> Result<BTreeSet<IpAddr>, Error> {
        Ok(local(self.all_present().await?.iter()))
    }

    /// The same without one link: an address that another link has as well stays in.
    ///
    /// # Errors
    /// As [`list`](Links::list).
    pub async fn local_addresses_except(&self, link: &Link) -> Result<BTreeSet<IpAddr>, Error> {
        let all = self.all_present().await?;
        Ok(local(all.iter().filter(|present| present.index != link.index)))
    }

    async fn get(&self, name: &str, request: LinkMessage) -> Result<Option<Link>, Error> {
        let request = RouteNetlinkMessage::GetLink(request);
        match self.netlink.get("find link", name, request).await {
            Ok(message) => Ok(Link::from_message(&message)),
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn set_flag(
        &self,
        step: &'static str,
        link: &Link,
        flag: LinkFlags,
        on: bool,
    ) -> Result<(), Error> {
        self.set(step, link, |request| {
            request.header.change_mask = flag;
            request.header.flags.set(flag, on);
        })
        .await
    }

    async fn set(
        &self,
        step: &'static str,
        link: &Link,
        fill: impl FnOnce(&mut LinkMessage),
    ) -> Result<(), Error> {
        let mut request = LinkMessage::default();
        request.header.index = link.index;
        fill(&mut request);
        self.netlink.change(step, &link.name, RouteNetlinkMessage::SetLink(request)).await
    }

    async fn present(&self, link: &Link) -> Result<Vec<Present>, Error> {
        let mut all = self.all_present().await?;
        all.retain(|present| present.index == link.index);
        Ok(all)
    }

    async fn all_present(&self) -> Result<Vec<Present>, Error> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let messages = self.netlink.dump("list addresses", request).await?;
        Ok(messages.iter().filter_map(Present::from_message).collect())
    }
}

/// A link as it was when it was looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Link {
    /// The number by which the kernel knows it; unique in its namespace.
    pub index: u32,
    /// The name, 1 to 15 bytes.
    pub name: String,
    /// The kind as `ip -d link` shows it: "dummy", "veth", "bridge"; `None` for hardware and the
    /// loopback link.
    pub kind: Option<String>,
    /// The maximum transmission unit in bytes.
    pub mtu: u32,
    /// Whether it is set up (`IFF_UP`), which is not yet whether it has a carrier.
    pub up: bool,
    /// Whether ARP is on (`IFF_NOARP` is not set).
    pub arp: bool,
}

impl Link {
    fn from_message(message: &RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewLink(message) = message else { return None };
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            kind: None,
            mtu: 0,
            up: flags.contains(LinkFlags::Up),
            arp: !flags.contains(LinkFlags::Noarp),
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(bytes) => link.mtu = *bytes,
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        Some(link)
    }

    fn dummy(self) -> Result<Self, Error> {
        match self.kind.as_deref() {
            Some("dummy") => Ok(self),
            _ => Err(Error::NotDummy { link: self.name, kind: self.kind }),
        }
    }
}

/// The name.
impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// What [`Links::set_addresses`] changed. Both are empty when nothing was to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changed {
    /// What was missing.
    pub added: Vec<Address>,
    /// What was there and not wanted.
    pub removed: Vec<Address>,
}

/// The kernel's rule for names of links (`dev_valid_name`); a percent sign would be a pattern.
pub(crate) fn valid_name(name: &str) -> Result<&str, Error> {
    let rule = if name.is_empty() {
        "it is empty"
    } else if name.len() > 15 {
        "it is longer than 15 bytes"
    } else if name == "." || name == ".." {
        "it is a directory"
    } else if name.contains(['/', ':', '%', '\0']) {
        "it has a slash, a colon, a percent sign or a NUL"
    } else if name.contains(|c: char| c.is_ascii_whitespace() || c == '\x0b' || c == '\u{a0}') {
        "it has white space"
    } else {
        return Ok(name);
    };
    Err(Error::InvalidName { what: "link", name: name.to_owned(), rule })
}

fn change(link: &Link, edit: Edit) -> Change {
    let (step, request) = match edit {
        Edit::Add(address) | Edit::Restore(address) => {
            ("add address", RouteNetlinkMessage::NewAddress(address.message(link.index)))
        }
        Edit::Remove(address) => {
            ("remove address", RouteNetlinkMessage::DelAddress(address.message(link.index)))
        }
    };
    Change { step, object: format!("{} of link {link}", edit.address()), request }
}

fn local<'a>(present: impl Iterator<Item = &'a Present>) -> BTreeSet<IpAddr> {
    present
        .map(|present| present.address.ip())
        .filter(|ip| !ip.is_loopback() && !is_link_local(*ip))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn futures_can_be_sent() {
        fn sendable<T: Send>(_: impl FnOnce(&'static Links, &'static Link) -> T) {}
        sendable(|links, _| links.find("lo"));
        sendable(|links, _| links.find_index(1));
        sendable(|links, _| links.create_dummy("ipvs0"));
        sendable(|links, link| links.up(link));
        sendable(|links, link| links.set_mtu(link, 1500));
        sendable(|links, link| links.set_addresses(link, &[]));
        sendable(|links, link| links.local_addresses_except(link));
    }

    #[test]
    fn names() {
        for name in ["lo", "ipvs0", "kube-ipvs0", "a.100", "fifteen-bytes-x", "é"] {
            assert!(valid_name(name).is_ok(), "{name:?}");
        }
        for name in
            ["", ".", "..", "a/b", "a:1", "dummy%d", "a b", "a\tb", "a\0", "sixteen-bytes-xx"]
        {
            assert_eq!(valid_name(name).unwrap_err().kind(), ErrorKind::InvalidInput, "{name:?}");
        }
    }
}
