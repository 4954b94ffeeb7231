use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::AddressMessage,
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};
use nix::errno::Errno;

#[cfg(feature = "tokio")]
use crate::driven::Driven;
use crate::{
    address::{Address, Present, is_link_local},
    direct::Direct,
    error::{Error, ErrorKind, Incomplete},
    netlink::{Change, Netlink},
    netns::NetNs,
    operation::{LinkChange, Operation},
    reconcile::{Edit, plan},
    route::Route,
};

/// The least MTU of a link that has IPv6, in bytes (`IPV6_MIN_MTU`).
const IPV6_MIN_MTU: u32 = 1280;

/// The links of one namespace, their addresses and local routes, over route netlink.
///
/// Clones share one socket, and with it one file descriptor; it stays in the namespace where it was
/// made. Any number of calls may run at once. For programs without an async runtime there is
/// [`blocking::Links`](crate::blocking::Links).
///
/// If a call's future is dropped, the call may have been carried out, or not at all, or, if it
/// makes several changes, in part. Repeat the call to be sure: what is there already is success.
///
/// ```no_run
/// use netns_link::{Links, NetNs};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let links = Links::connect(&NetNs::current()?)?;
/// let dummy = links.create_dummy("ipvs0").await?.link; // ip link add ipvs0 type dummy
/// links.add_address(&dummy, "10.0.0.185".parse()?).await?; // ip address add 10.0.0.185/32 …
/// links.delete_dummy("ipvs0").await?; // ip link delete ipvs0
/// # Ok(())
/// # }
/// ```
///
/// Changes need CAP_NET_ADMIN in the user namespace of the network namespace; reading needs
/// nothing. Connecting to a namespace that is not the caller's needs CAP_SYS_ADMIN, to enter it.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "tokio"), allow(unreachable_pub, reason = "the blocking one has it"))]
pub struct Links {
    netlink: Netlink,
}

#[cfg_attr(not(feature = "tokio"), allow(unreachable_pub, reason = "the blocking one has it"))]
impl Links {
    /// Opens a socket in the namespace; a task of the current tokio runtime drives it. Calls may be
    /// awaited on any runtime, and make progress while the first one runs. After it has ended they
    /// fail with [`ErrorKind::Disconnected`](crate::ErrorKind).
    ///
    /// # Errors
    /// Outside of a tokio runtime, and as [`NetNs::run`].
    ///
    /// # Panics
    /// In a runtime that was built without I/O (`enable_io`).
    #[cfg(feature = "tokio")]
    pub fn connect(namespace: &NetNs) -> Result<Self, Error> {
        Ok(Self { netlink: Netlink::Driven(Arc::new(Driven::connect(namespace)?)) })
    }

    /// Opens a socket over which no call is ever pending.
    pub(crate) fn connect_direct(namespace: &NetNs) -> Result<Self, Error> {
        Ok(Self { netlink: Netlink::Direct(Arc::new(Direct::connect(namespace)?)) })
    }

    #[cfg(test)]
    pub(crate) fn over(netlink: Netlink) -> Self {
        Self { netlink }
    }

    #[cfg(test)]
    pub(crate) async fn add_all(
        &self,
        link: &Link,
        addresses: &[Address],
    ) -> Vec<Result<(), Error>> {
        let changes = addresses.iter().map(|address| change(link, Edit::Add(*address)));
        self.netlink.changes(changes.collect()).await
    }

    /// All links: `ip link show`.
    ///
    /// # Errors
    /// [`ErrorKind::Interrupted`](crate::ErrorKind) if changes disturb the listing ten times in a
    /// row.
    pub async fn list(&self) -> Result<Vec<Link>, Error> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let messages = self.netlink.dump(&Operation::ListLinks, request).await?;
        Ok(messages.iter().filter_map(Link::from_message).collect())
    }

    /// The link with this name, if there is one: `ip link show NAME`.
    ///
    /// # Errors
    /// If the name is impossible ([`ErrorKind::InvalidInput`](crate::ErrorKind)).
    pub async fn find(&self, name: &str) -> Result<Option<Link>, Error> {
        let mut request = LinkMessage::default();
        request.attributes = vec![LinkAttribute::IfName(valid_name(name)?.to_owned())];
        self.get(name.to_owned(), request).await
    }

    /// The link with this index, if there is one.
    ///
    /// # Errors
    /// If the kernel's answer does not come or cannot be read.
    pub async fn find_index(&self, index: u32) -> Result<Option<Link>, Error> {
        let mut request = LinkMessage::default();
        request.header.index = index;
        self.get(format!("with index {index}"), request).await
    }

    /// Makes a dummy link, or finds the one that has this name: `ip link add NAME type dummy`.
    /// Which of the two it was is returned with the link.
    ///
    /// A new one is down. Its addresses work before it is [`up`](Links::up), IPv6 ones too; routes
    /// for IPv6 want it up.
    ///
    /// # Errors
    /// If a link of another kind has the name ([`ErrorKind::NotDummy`](crate::ErrorKind)), if the
    /// kernel has no dummy links ([`ErrorKind::Unsupported`](crate::ErrorKind)), if the name is
    /// impossible (it has 1 to 15 bytes, without slash, colon, percent sign and white space), or if
    /// somebody deletes the link at once ([`ErrorKind::NotFound`](crate::ErrorKind)).
    pub async fn create_dummy(&self, name: &str) -> Result<DummyLink, Error> {
        let mut request = LinkMessage::default();
        request.attributes = vec![
            LinkAttribute::IfName(valid_name(name)?.to_owned()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Dummy)]),
        ];
        let operation = Operation::CreateDummy(name.to_owned());
        let made = self.netlink.change(Change {
            operation: operation.clone(),
            request: RouteNetlinkMessage::NewLink(request),
            flags: NLM_F_CREATE | NLM_F_EXCL,
        });
        let created = match made.await {
            Ok(()) => true,
            Err(error) if error.number() == Some(Errno::EEXIST) => false,
            Err(error) => return Err(error),
        };
        match self.find(name).await? {
            Some(link) => Ok(DummyLink { link: link.dummy(&operation)?, created }),
            None => {
                let text = "it was deleted in the same moment";
                Err(Error::new(ErrorKind::NotFound, operation, text))
            }
        }
    }

    /// Deletes a dummy link with its addresses: `ip link delete NAME`. Returns whether it was
    /// there; it is no error if it was not.
    ///
    /// # Errors
    /// If the link is not a dummy ([`ErrorKind::NotDummy`](crate::ErrorKind)): it is left alone.
    pub async fn delete_dummy(&self, name: &str) -> Result<bool, Error> {
        match self.find(name).await? {
            Some(link) => self.delete_dummy_link(link).await,
            None => Ok(false),
        }
    }

    pub(crate) async fn delete_dummy_link(&self, link: Link) -> Result<bool, Error> {
        let operation = Operation::DeleteDummy(link.name.clone());
        let mut request = LinkMessage::default();
        request.header.index = link.dummy(&operation)?.index;
        let request = RouteNetlinkMessage::DelLink(request);
        match self.netlink.change(Change { operation, request, flags: 0 }).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// `ip link set NAME up`.
    ///
    /// # Errors
    /// If the link is gone ([`ErrorKind::NotFound`](crate::ErrorKind)) or a capability is missing
    /// ([`ErrorKind::PermissionDenied`](crate::ErrorKind)).
    pub async fn up(&self, link: &Link) -> Result<(), Error> {
        self.set_flag(LinkChange::Up, link, LinkFlags::Up, true).await
    }

    /// `ip link set NAME down`. Its IPv6 addresses are lost.
    ///
    /// # Errors
    /// As [`up`](Links::up).
    pub async fn down(&self, link: &Link) -> Result<(), Error> {
        self.set_flag(LinkChange::Down, link, LinkFlags::Up, false).await
    }

    /// `ip link set NAME arp on` or `off` (`IFF_NOARP`). A dummy link is made with it off.
    ///
    /// # Errors
    /// As [`up`](Links::up).
    pub async fn set_arp(&self, link: &Link, on: bool) -> Result<(), Error> {
        self.set_flag(LinkChange::Arp(on), link, LinkFlags::Noarp, !on).await
    }

    /// `ip link set NAME mtu BYTES`.
    ///
    /// # Errors
    /// As [`up`](Links::up), and if the link cannot have this MTU
    /// ([`ErrorKind::InvalidInput`](crate::ErrorKind)). Below 1280 bytes the link loses IPv6.
    pub async fn set_mtu(&self, link: &Link, bytes: u32) -> Result<(), Error> {
        self.set(LinkChange::Mtu(bytes), link, |request| {
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
        self.set(LinkChange::Namespace, link, |request| {
            request.attributes = vec![LinkAttribute::NetNsFd(namespace.as_fd().as_raw_fd())];
        })
        .await
    }

    /// The addresses of a link with their properties: `ip address show dev NAME`.
    ///
    /// # Errors
    /// As [`list`](Links::list). A link that is gone has no addresses.
    pub async fn addresses(&self, link: &Link) -> Result<Vec<Address>, Error> {
        Ok(self.present(link).await?.iter().map(|present| present.address).collect())
    }

    /// Adds an address to a link: `ip address add ADDRESS dev NAME`. Returns whether it was
    /// missing. An address that is there already keeps its properties; use
    /// [`replace_address`](Links::replace_address) to change them. In IPv6 the kernel makes the
    /// address's route a moment after the call.
    ///
    /// # Errors
    /// If the link has this IPv6 address with another prefix length
    /// ([`ErrorKind::AlreadyExists`](crate::ErrorKind)), if IPv6 is switched off on the link
    /// ([`ErrorKind::Ipv6Disabled`](crate::ErrorKind)), if it is gone
    /// ([`ErrorKind::NotFound`](crate::ErrorKind)) or a capability is missing.
    pub async fn add_address(&self, link: &Link, address: Address) -> Result<bool, Error> {
        match self.netlink.change(change(link, Edit::Add(address))).await {
            Ok(()) => Ok(true),
            Err(error) if error.number() == Some(Errno::EEXIST) => {
                // IPv4 says so of the very same only; IPv6 whatever the prefix length.
                let same = address.ip().is_ipv4()
                    || self.prefix_len(link, address).await? == Some(address.prefix_len());
                if same { Ok(false) } else { Err(error) }
            }
            Err(error) => Err(self.explained(link, address, error).await),
        }
    }

    /// Adds an address to a link, or changes the properties of one that is there, without taking
    /// it away: `ip address replace ADDRESS dev NAME`. Returns whether it was missing.
    ///
    /// In IPv4 the kernel changes the lifetimes and the metric, and leaves the scope, the label and
    /// `noprefixroute` as they were.
    ///
    /// # Errors
    /// As [`add_address`](Links::add_address).
    pub async fn replace_address(&self, link: &Link, address: Address) -> Result<bool, Error> {
        let added = self.add_address(link, address).await?;
        if !added {
            self.netlink.change(change(link, Edit::Change(address))).await?;
        }
        Ok(added)
    }

    /// Removes an address from a link: `ip address delete ADDRESS dev NAME`. Its properties do not
    /// matter. Returns whether it was there; it is no error if it was not, nor if the link is gone.
    ///
    /// When the first IPv4 address of a network goes, the kernel removes the later ones of that
    /// network with it, unless the setting `promote_secondaries` is on. A /32 has no later ones.
    ///
    /// # Errors
    /// If a capability is missing.
    pub async fn remove_address(&self, link: &Link, address: Address) -> Result<bool, Error> {
        let edit = Edit::Remove(address);
        match self.netlink.change(change(link, edit)).await {
            Ok(()) => Ok(true),
            Err(error) if edit.is_done(&error) || error.number() == Some(Errno::ENODEV) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Gives a link exactly these addresses, by one listing and batches of changes.
    ///
    /// An address that is there and has the wanted properties is not touched. Lifetimes and metrics
    /// are changed in place, and in IPv6 `noprefixroute` too. A limited lifetime starts again with
    /// each call. An IPv4 address is removed and added again if a scope, a label or `noprefixroute`
    /// is wanted that it does not have. `nodad` matters only for addresses that are added.
    /// Link-local IPv6 addresses, which the kernel makes for itself, are never removed.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind) if an IPv6 address is given with two prefix
    /// lengths, before anything is changed; and as [`add_address`](Links::add_address). If a change
    /// is refused the others are made all the same, and are returned with the first refusal.
    pub async fn set_addresses(
        &self,
        link: &Link,
        addresses: &[Address],
    ) -> Result<Changed, Incomplete<Changed>> {
        let nothing = |error| Incomplete { done: Changed::default(), error };
        let present = self.present(link).await.map_err(nothing)?;
        let edits = plan(&present, addresses).map_err(nothing)?;
        self.carry_out(link, &edits).await
    }

    /// Adds addresses to a link and removes others, in batches, and leaves all that are not named as they
    /// are. Added ones come first; one that is there already keeps its properties, and it is no error
    /// if one to be removed is gone.
    ///
    /// # Errors
    /// As [`add_address`](Links::add_address). If a change is refused the others are made all the
    /// same, and are returned with the first refusal.
    pub async fn change_addresses(
        &self,
        link: &Link,
        added: &[Address],
        removed: &[Address],
    ) -> Result<Changed, Incomplete<Changed>> {
        let added = added.iter().copied().map(Edit::Add);
        let removed = removed.iter().copied().map(Edit::Remove);
        self.carry_out(link, &added.chain(removed).collect::<Vec<_>>()).await
    }

    async fn carry_out(&self, link: &Link, edits: &[Edit]) -> Result<Changed, Incomplete<Changed>> {
        let changes = edits.iter().map(|edit| change(link, *edit)).collect();
        let results = self.netlink.changes(changes).await;
        let mut done = Changed::default();
        let mut refused = None;
        for (edit, result) in edits.iter().zip(results) {
            match result {
                Ok(()) => done.note(*edit),
                Err(error) if edit.is_done(&error) => {}
                Err(error) if refused.is_none() => refused = Some((edit.address(), error)),
                Err(_) => {}
            }
        }
        match refused {
            None => Ok(done),
            Some((address, error)) => {
                let error = self.explained(link, address, error).await;
                Err(Incomplete { done, error })
            }
        }
    }

    /// All addresses that are local to the namespace, as kube-proxy wants them: of every link, but
    /// neither loopback (127.0.0.0/8, ::1) nor link-local IPv6 (fe80::/10).
    ///
    /// # Errors
    /// As [`list`](Links::list).
    pub async fn local_addresses(&self) -> Result<BTreeSet<IpAddr>, Error> {
        Ok(local(self.list_addresses(0, "").await?.iter()))
    }

    /// The addresses of all links, by the links' indices, in one list: `ip address show`. A link without
    /// an address is not among them.
    ///
    /// # Errors
    /// As [`list`](Links::list).
    pub async fn all_addresses(&self) -> Result<BTreeMap<u32, Vec<Address>>, Error> {
        let mut all: BTreeMap<u32, Vec<Address>> = BTreeMap::new();
        for present in self.list_addresses(0, "").await? {
            all.entry(present.index).or_default().push(present.address);
        }
        Ok(all)
    }

    /// The local routes over a link, the kernel's own for its addresses among them
    /// ([`RouteProtocol::KERNEL`](crate::RouteProtocol::KERNEL)):
    /// `ip route show table local type local dev NAME`, and with `-6`.
    ///
    /// # Errors
    /// As [`list`](Links::list). A link that is gone has no routes.
    pub async fn routes(&self, link: &Link) -> Result<Vec<Route>, Error> {
        let request = RouteNetlinkMessage::GetRoute(Route::filter(link.index));
        let messages = match self.netlink.dump(&Operation::ListRoutes, request).await {
            Err(error) if error.number() == Some(Errno::ENODEV) => Vec::new(),
            messages => messages?,
        };
        let of_link = |message| Route::from_message(message, link.index);
        Ok(messages.iter().filter_map(of_link).collect())
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
        let operation = Operation::AddRoute { route, link: link.name.clone() };
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
        let operation = Operation::ReplaceRoute { route, link: link.name.clone() };
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
        let operation = Operation::DeleteRoute { route, link: link.name.clone() };
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

    async fn get(&self, link: String, request: LinkMessage) -> Result<Option<Link>, Error> {
        let request = RouteNetlinkMessage::GetLink(request);
        match self.netlink.get(&Operation::FindLink(link), request).await {
            Ok(message) => Ok(Link::from_message(&message)),
            Err(error) if error.number() == Some(Errno::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn set_flag(
        &self,
        change: LinkChange,
        link: &Link,
        flag: LinkFlags,
        on: bool,
    ) -> Result<(), Error> {
        self.set(change, link, |request| {
            request.header.change_mask = flag;
            request.header.flags.set(flag, on);
        })
        .await
    }

    async fn set(
        &self,
        change: LinkChange,
        link: &Link,
        fill: impl FnOnce(&mut LinkMessage),
    ) -> Result<(), Error> {
        let mut request = LinkMessage::default();
        request.header.index = link.index;
        fill(&mut request);
        let operation = Operation::SetLink { link: link.name.clone(), change };
        let request = RouteNetlinkMessage::SetLink(request);
        self.netlink.change(Change { operation, request, flags: 0 }).await
    }

    /// The prefix length that a link's IPv6 address has.
    async fn prefix_len(&self, link: &Link, address: Address) -> Result<Option<u8>, Error> {
        let mut request = address.key_message(link.index);
        // Strict checking wants nothing here.
        request.header.prefix_len = 0;
        let request = RouteNetlinkMessage::GetAddress(request);
        let operation = Operation::FindAddress { address, link: link.name.clone() };
        match self.netlink.get(&operation, request).await {
            Ok(message) => Ok(Present::from_message(&message, &link.name)
                .filter(|present| present.index == link.index)
                .map(|present| present.address.prefix_len())),
            Err(error) if error.number() == Some(Errno::EADDRNOTAVAIL) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn present(&self, link: &Link) -> Result<Vec<Present>, Error> {
        let mut present = match self.list_addresses(link.index, &link.name).await {
            Err(error) if error.number() == Some(Errno::ENODEV) => Vec::new(),
            present => present?,
        };
        present.retain(|present| present.index == link.index);
        Ok(present)
    }

    /// The addresses of a link, or of all for index 0; kernels before 4.20 list all in any case.
    async fn list_addresses(&self, index: u32, link: &str) -> Result<Vec<Present>, Error> {
        let mut request = AddressMessage::default();
        request.header.index = index;
        let request = RouteNetlinkMessage::GetAddress(request);
        let messages = self.netlink.dump(&Operation::ListAddresses, request).await?;
        Ok(messages.iter().filter_map(|message| Present::from_message(message, link)).collect())
    }

    /// What an error number that can mean several things means here, where a look at the link says
    /// so.
    async fn explained(&self, link: &Link, address: Address, error: Error) -> Error {
        let unsure = matches!(error.number(), Some(Errno::EINVAL | Errno::ENOBUFS));
        if !unsure || address.ip().is_ipv4() {
            return error;
        }
        match self.find_index(link.index).await {
            Ok(Some(now)) if now.mtu < IPV6_MIN_MTU => {
                let text = format!(
                    "the link's MTU is {} bytes, and IPv6 needs at least {IPV6_MIN_MTU}",
                    now.mtu
                );
                error.with_meaning(ErrorKind::Ipv6Disabled, &text)
            }
            _ => error,
        }
    }
}

/// A dummy link, and whether the call that returned it made it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct DummyLink {
    /// The link.
    pub link: Link,
    /// Whether it was made; else it was there already.
    pub created: bool,
}

/// A link as it was when it was looked up.
///
/// Calls use its index alone, and the kernel may give the index of a deleted link to a new one. So
/// do not keep a value after its link was deleted: look it up again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
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
    pub(crate) fn from_message(message: &RouteNetlinkMessage) -> Option<Self> {
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

    fn dummy(self, operation: &Operation) -> Result<Self, Error> {
        let text = match self.kind.as_deref() {
            Some("dummy") => return Ok(self),
            Some(kind) => format!("a link of this name is there, of the kind {kind}"),
            None => "a link of this name is there that is not a dummy link".to_owned(),
        };
        Err(Error::new(ErrorKind::NotDummy, operation, &text))
    }
}

/// The name.
impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// What [`Links::set_addresses`] changed. All three are empty when nothing was to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changed {
    /// What was missing.
    pub added: Vec<Address>,
    /// What was there with other properties.
    pub changed: Vec<Address>,
    /// What was there and not wanted.
    pub removed: Vec<Address>,
}

impl Changed {
    /// Whether nothing was changed.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }

    /// Takes in an edit that was made.
    fn note(&mut self, edit: Edit) {
        match edit {
            Edit::Add(address) => self.added.push(address),
            Edit::Change(address) => self.changed.push(address),
            Edit::Remove(address) => self.removed.push(address),
            Edit::Renew(address) => {
                // It was removed for that.
                self.removed.retain(|removed| removed.key() != address.key());
                self.changed.push(address);
            }
            Edit::Restore(_) => {}
        }
    }
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
    Err(Error::invalid(format_args!("link name {name:?}"), rule))
}

fn change(link: &Link, edit: Edit) -> Change {
    let (address, link_name) = (edit.address(), link.name.clone());
    let message = address.message(link.index);
    match edit {
        Edit::Add(_) | Edit::Restore(_) | Edit::Renew(_) => Change {
            operation: Operation::AddAddress { address, link: link_name },
            request: RouteNetlinkMessage::NewAddress(message),
            flags: NLM_F_CREATE | NLM_F_EXCL,
        },
        Edit::Change(_) => Change {
            operation: Operation::ReplaceAddress { address, link: link_name },
            request: RouteNetlinkMessage::NewAddress(message),
            flags: NLM_F_CREATE | NLM_F_REPLACE,
        },
        Edit::Remove(_) => Change {
            operation: Operation::RemoveAddress { address, link: link_name },
            request: RouteNetlinkMessage::DelAddress(address.key_message(link.index)),
            // Not NLM_F_EXCL, whose bit means NLM_F_BULK here.
            flags: 0,
        },
    }
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
        sendable(|links, _| links.all_addresses());
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
