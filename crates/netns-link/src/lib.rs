//! Network namespaces, dummy links, their addresses, and the settings that a load balancer and its
//! real servers need, over route netlink. Useful with the crates `ipvs-client` and `lvs`, and
//! without them.
//!
//! - [`NetNs`]: a network namespace, anonymous or named as `ip netns` does; run a closure, start a
//!   process, open a socket in it.
//! - [`Links`]: the links of a namespace and their addresses, async. Makes and deletes dummy links
//!   only, so that no other link is ever lost by a wrong name.
//! - [`Setting`]: `sysctl net.…` of a namespace.
//! - [`prepare_director`], [`prepare_real_server`]: what the two ends of direct routing need, in
//!   one call, and how it is undone.
//!
//! ```no_run
//! use std::net::IpAddr;
//!
//! use netns_link::{NetNs, prepare_director, prepare_real_server};
//!
//! # async fn example(pid: u32) -> Result<(), netns_link::Error> {
//! let vip: IpAddr = [10, 0, 0, 185].into();
//! prepare_director(&NetNs::current()?, "ipvs0", &[vip]).await?;
//!
//! let pod = NetNs::from_pid(pid)?;
//! let setup = prepare_real_server(&pod, "dummy1", &[vip]).await?;
//! // … until the pod serves no longer:
//! setup.undo(&pod).await?;
//! # Ok(())
//! # }
//! ```
//!
//! What is there already is success, and so is what is gone already; each call says which it was
//! where that matters. Every error names the step, the object, the kernel's reason and what to do.
//!
//! Entering and making a namespace needs CAP_SYS_ADMIN, changing it CAP_NET_ADMIN; listing the
//! links of the own namespace needs the former too, as the socket is made by entering. IPv4 and
//! IPv6, Linux only.
#![forbid(unsafe_code)]

mod address;
mod direct_routing;
mod error;
mod link;
mod netlink;
mod netns;
mod reconcile;
mod settings;

pub use crate::{
    address::Address,
    direct_routing::{RealServerArp, RealServerSetup, prepare_director, prepare_real_server},
    error::{Error, ErrorKind},
    link::{Changed, Link, Links},
    netns::NetNs,
    settings::Setting,
};
