//! The links of a namespace: here those themselves, in `addresses.rs` and `routes.rs` what is on them.

mod address;
mod address_plan;
mod addresses;
mod link;
mod prefix;
mod route;
mod routes;
mod scope;

use std::{
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
};

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};
use nix::errno::Errno;

pub(crate) use self::prefix::number;
pub use self::{
    address::Address,
    addresses::Changed,
    link::{DummyLink, Link},
    prefix::Prefix,
    route::{Route, RouteProtocol},
    scope::Scope,
};
#[cfg(feature = "tokio")]
use crate::netlink::tokio_socket::TokioSocket;
use crate::{
    error::{Error, ErrorKind, LinkChange, Operation},
    name::link_name,
    netlink::{Change, Netlink, blocking_socket::BlockingSocket},
    netns::NetNs,
};

/// `IFLA_IFNAME`.
const NAME: u16 = 3;

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
        Ok(Self { netlink: Netlink::Tokio(Arc::new(TokioSocket::connect(namespace)?)) })
    }

    /// Opens a socket over which no call is ever pending.
    pub(crate) fn connect_blocking(namespace: &NetNs) -> Result<Self, Error> {
        Ok(Self { netlink: Netlink::Blocking(Arc::new(BlockingSocket::connect(namespace)?)) })
    }

    #[cfg(test)]
    pub(crate) fn over(netlink: Netlink) -> Self {
        Self { netlink }
    }

    /// All links: `ip link show`. A name that is not UTF-8 does not spoil the list: see [`Link::name`].
    ///
    /// # Errors
    /// [`ErrorKind::Interrupted`](crate::ErrorKind) if changes disturb the listing ten times in a
    /// row.
    pub async fn list(&self) -> Result<Vec<Link>, Error> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let operation = Operation::ListLinks;
        let objects = self.netlink.dump(&operation, request).await?;
        objects.iter().filter_map(|raw| Link::read(&operation, raw).transpose()).collect()
    }

    /// The link with this name, if there is one: `ip link show NAME`.
    ///
    /// # Errors
    /// If the name is impossible ([`ErrorKind::InvalidInput`](crate::ErrorKind)).
    pub async fn find(&self, name: &str) -> Result<Option<Link>, Error> {
        let mut request = LinkMessage::default();
        request.attributes = vec![named(name)?];
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
        request.attributes =
            vec![named(name)?, LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Dummy)])];
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

    async fn get(&self, link: String, request: LinkMessage) -> Result<Option<Link>, Error> {
        let request = RouteNetlinkMessage::GetLink(request);
        let operation = Operation::FindLink(link);
        match self.netlink.get(&operation, request).await {
            Ok(raw) => Link::read(&operation, &raw),
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
}

/// The name of a link that is asked for, as bytes.
fn named(name: &str) -> Result<LinkAttribute, Error> {
    let mut bytes = link_name(name)?;
    bytes.push(0);
    Ok(LinkAttribute::Other(DefaultNla::new(NAME, bytes)))
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
}
