//! Network namespaces, dummy links, their addresses and routes, and the settings that a load
//! balancer and its real servers need, over route netlink. Useful with the crates `ipvs-client` and
//! `lvs`, and without them.
//!
//! - [`NetNs`]: a network namespace, anonymous or named as `ip netns` does; run a closure, start a
//!   process, open a socket in it.
//! - [`Links`], [`blocking::Links`]: the links of a namespace, their addresses and local routes,
//!   async on tokio or without a runtime. Makes and deletes dummy links only, so that no other link
//!   is ever lost by a wrong name.
//! - [`Setting`]: `sysctl net.…` of a namespace.
//! - [`prepare_director`], [`Director`], [`prepare_real_server`]: what the two ends of direct routing
//!   need, in one call, and how it is undone.
//! - [`announce`], [`Announcer`]: gratuitous ARP and unsolicited neighbour advertisements for an address
//!   that has moved here.
//!
//! ```toml
//! [dependencies]
//! netns-link = "0.1"
//! ```
//!
//! ```no_run
//! use std::net::IpAddr;
//!
//! use netns_link::{NetNs, prepare_director, prepare_real_server};
//!
//! fn main() -> Result<(), netns_link::Error> {
//!     let vip: IpAddr = [10, 0, 0, 185].into();
//!     prepare_director(&NetNs::current()?, "ipvs0", &[vip])?;
//!
//!     // The network namespace of a pod, by one of its processes.
//!     let pod = NetNs::from_pid(4711)?;
//!     let mut setup = prepare_real_server(&pod, "dummy1", &[vip])?;
//!     // … until the pod serves no longer:
//!     setup.undo(&pod)?;
//!     Ok(())
//! }
//! ```
//!
//! What is there already is success, and so is what is gone already; each call returns which it was
//! where that matters. Every error names the operation, the object and the error number, and what
//! to do where that is sure.
//!
//! # Privileges
//!
//! In the caller's own namespace, reading (links, addresses, routes, settings) needs nothing and
//! changes need CAP_NET_ADMIN, in the user namespace of the network namespace. Making a namespace,
//! naming one, and entering one that is not the caller's need CAP_SYS_ADMIN, and so do all calls
//! for such a one, as each begins by entering it. Announcing addresses needs CAP_NET_RAW.
//!
//! # Descriptors
//!
//! A [`NetNs`] holds one file descriptor, a [`Links`] or [`blocking::Links`] with all its clones
//! another. The usual limit of 1,024 is soon reached by a program that holds many namespaces; the
//! error says so then ([`ErrorKind::LimitReached`]).
//!
//! # Features
//!
//! - `tokio` (default): the async [`Links`], driven by netlink-proto on the current tokio runtime.
//!   Without it there is neither in the tree.
//! - `serde`: the readable forms of addresses, prefixes, routes, scopes and settings as strings,
//!   and of links as structs.
//!
//! IPv4 and IPv6, Linux only.
#![forbid(unsafe_code)]
// Where the pages of other crates link to, if they are built alone.
#![doc(html_root_url = "https://docs.rs/netns-link/latest")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    not(feature = "tokio"),
    allow(
        rustdoc::broken_intra_doc_links,
        rustdoc::private_intra_doc_links,
        reason = "the links to what needs tokio"
    )
)]

#[doc = include_str!("design.md")]
pub mod design {}
#[macro_use]
mod text_form;

mod announce;
pub mod blocking;
mod direct_routing;
mod error;
mod links;
mod name;
mod netlink;
mod netns;
mod settings;

#[cfg(feature = "tokio")]
pub use crate::links::Links;
pub use crate::{
    announce::{Announcer, announce},
    direct_routing::{
        Director, RealServerArp, RealServerSetup, prepare_director, prepare_real_server,
    },
    error::{Error, ErrorKind, Incomplete},
    links::{Address, Changed, DummyLink, Link, Prefix, Route, RouteProtocol, Scope},
    netns::NetNs,
    settings::{Setting, SettingChanges},
};

/// The programs in the README, which have to compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
