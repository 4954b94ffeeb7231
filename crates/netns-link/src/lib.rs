//! Network namespaces, dummy links, addresses and the ARP settings of direct-routing real servers.
#![forbid(unsafe_code)]

mod address;
mod error;
mod link;
mod netlink;
mod netns;
mod reconcile;
mod settings;

pub use crate::{
    address::Address,
    error::{Error, ErrorKind},
    link::{Changed, Link, Links},
    netns::NetNs,
    settings::Setting,
};
