//! The addresses of links.

use std::collections::BTreeMap;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{RouteNetlinkMessage, address::AddressMessage};
use nix::errno::Errno;

use super::{
    Links,
    address::{Address, Present},
    address_plan::{Edit, plan},
    link::Link,
};
use crate::{
    error::{Error, ErrorKind, Incomplete, Operation},
    netlink::Change,
};

/// The least MTU of a link that has IPv6, in bytes (`IPV6_MIN_MTU`).
const IPV6_MIN_MTU: u32 = 1280;

#[cfg_attr(not(feature = "tokio"), allow(unreachable_pub, reason = "the blocking one has it"))]
impl Links {
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
    pub async fn delete_address(&self, link: &Link, address: Address) -> Result<bool, Error> {
        let edit = Edit::Delete(address);
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
    /// each call. An IPv4 address is deleted and added again if a scope, a label or `noprefixroute`
    /// is wanted that it does not have. `nodad` matters only for addresses that are added.
    /// Link-local IPv6 addresses, which the kernel makes for itself, are never deleted.
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

    /// Adds addresses to a link and deletes others, in batches, and leaves all that are not named as they
    /// are. Added ones come first; one that is there already keeps its properties, and it is no error
    /// if one to be deleted is gone.
    ///
    /// # Errors
    /// As [`add_address`](Links::add_address). If a change is refused the others are made all the
    /// same, and are returned with the first refusal.
    pub async fn change_addresses(
        &self,
        link: &Link,
        added: &[Address],
        deleted: &[Address],
    ) -> Result<Changed, Incomplete<Changed>> {
        let added = added.iter().copied().map(Edit::Add);
        let deleted = deleted.iter().copied().map(Edit::Delete);
        self.carry_out(link, &added.chain(deleted).collect::<Vec<_>>()).await
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

    #[cfg(test)]
    pub(crate) async fn add_all(
        &self,
        link: &Link,
        addresses: &[Address],
    ) -> Vec<Result<(), Error>> {
        let changes = addresses.iter().map(|address| change(link, Edit::Add(*address)));
        self.netlink.changes(changes.collect()).await
    }

    /// The prefix length that a link's IPv6 address has.
    async fn prefix_len(&self, link: &Link, address: Address) -> Result<Option<u8>, Error> {
        let mut request = address.key_message(link.index);
        // Strict checking wants nothing here.
        request.header.prefix_len = 0;
        let request = RouteNetlinkMessage::GetAddress(request);
        let operation = Operation::FindAddress { address: address.text(), link: link.name.clone() };
        match self.netlink.get(&operation, request).await {
            Ok(raw) => Ok(Present::read(&operation, &raw, &link.name)?
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
        let operation = Operation::ListAddresses;
        let objects = self.netlink.dump(&operation, request).await?;
        let read = |raw| Present::read(&operation, raw, link).transpose();
        objects.iter().filter_map(read).collect()
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

/// What [`Links::set_addresses`] changed. All three are empty when nothing was to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changed {
    /// What was missing.
    pub added: Vec<Address>,
    /// What was there with other properties.
    pub changed: Vec<Address>,
    /// What was there and not wanted.
    pub deleted: Vec<Address>,
}

impl Changed {
    /// Whether nothing was changed.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.deleted.is_empty()
    }

    /// Takes in an edit that was made.
    fn note(&mut self, edit: Edit) {
        match edit {
            Edit::Add(address) => self.added.push(address),
            Edit::Change(address) => self.changed.push(address),
            Edit::Delete(address) => self.deleted.push(address),
            Edit::Renew(address) => {
                // It was deleted for that.
                self.deleted.retain(|deleted| deleted.key() != address.key());
                self.changed.push(address);
            }
            Edit::Restore(_) => {}
        }
    }
}

fn change(link: &Link, edit: Edit) -> Change {
    let (of, link_name) = (edit.address(), link.name.clone());
    let (message, address) = (of.message(link.index), of.text());
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
        Edit::Delete(_) => Change {
            operation: Operation::DeleteAddress { address, link: link_name },
            request: RouteNetlinkMessage::DelAddress(of.key_message(link.index)),
            // Not NLM_F_EXCL, whose bit means NLM_F_BULK here.
            flags: 0,
        },
    }
}
