//! Virtual services and real servers of the Linux load balancer (IPVS): say what should be, apply
//! it.
//!
//! ```toml
//! [dependencies]
//! lvs = "0.1"
//! tokio = { version = "1", features = ["macros", "rt"] } # or any other runtime
//! ```
//!
//! ```no_run
//! use lvs::{RealServer, Table, VirtualService, client::Client};
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let ipvs = Client::connect()?;
//!     let web = VirtualService::tcp("10.0.0.185:80".parse()?)
//!         .scheduler("wrr")
//!         .real_server(RealServer::nat("172.17.0.3:80".parse()?).weight(3))
//!         .real_server(RealServer::nat("172.17.0.4:80".parse()?))
//!         .build()?;
//!     web.apply(&ipvs).await?;
//!     print!("{}", Table::read(&ipvs).await?);
//!     Ok(())
//! }
//! ```
//!
//! # Rules
//!
//! The kernel stores much that cannot work: a service on port 0 without persistence, a
//! direct-routed real server on another port than the service's, a protocol that it does not
//! balance. Here such a service does not build: a [`RealServer::direct`] has no port to get wrong,
//! and what is left is a [`Rule`]. [`Invalid`] names every rule that is broken, by what, and what to
//! do about it.
//!
//! # A whole table
//!
//! [`Desired`] is what should be. It is collected from builders, read from the rules that
//! `ipvsadm -S` writes, or taken from a snapshot. Compared with what is, it becomes a [`Plan`]: the
//! fewest changes, in an order in which no service ever is without a real server.
//!
//! ```no_run
//! use lvs::{Desired, Limit, Policy, Scope, client::Client};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let ipvs = Client::connect()?;
//! let desired: Desired = std::fs::read_to_string("/etc/ipvsadm.rules")?.parse()?;
//! let policy = Policy::new().scope(Scope::All).max_deletions(Limit::percent(50).at_least(10));
//! let plan = desired.plan(&ipvs, &policy).await?;
//! print!("{plan}");
//! plan.apply(&ipvs).await?;
//! # Ok(())
//! # }
//! ```
//!
//! ```text
//! ~ -t 10.0.0.185:80 scheduler sh -> wrr, persistence 300 s -> none
//! ~ -t 10.0.0.185:80 -> 10.0.0.3:80 weight 1 -> 3
//! + -t 10.0.0.185:80 -> 10.0.0.4:80 -m -w 1
//! - -t 10.0.0.185:80 -> 10.0.0.2:80
//! ```
//!
//! - Changes are edits where the kernel has one, so that connections live on: the scheduler, the
//!   weights, and the forwarding method of a live service. Applied again, nothing is written.
//! - Other programs' services are left alone unless the [`Scope`] says that they are the caller's.
//!   More deletions than the [`Policy`] allows are held back until they are confirmed.
//! - What fails in one service leaves the others alone, and never takes a real server away from the
//!   service that it failed in. Programs that apply the same at once all succeed.
//! - [`Draining`] takes real servers away when their connections have ended, or their time is over.
//! - [`Reconciler`] keeps a desired state in effect.
//!
//! One service is a desired state as well: [`VirtualService::apply`].
//!
//! For those who know ipvsadm, the [`cookbook`](https://docs.rs/lvs/latest/lvs/cookbook/) has its lines and the same in Rust.
//!
//! After a switch from NAT to direct routing, a packet of an old connection may let the kernel keep
//! the real server's old route, over which new connections then fail. Writing 1 to
//! `net.ipv4.route.flush` in the director's network namespace makes it forget.
//!
//! # What it leaves to others
//!
//! The virtual address on a link of the director, and all that direct routing asks of a real server,
//! are the crate `netns-link`'s. Health checks and announcements are the application's.
//!
//! # Features
//!
//! - `tokio`: what needs tokio's timer, such as `Client::watch`. Everything else runs on any runtime,
//!   and over a blocking client on none: see [`block_on`].
//! - `netlink-proto`: IPVS over a connection of netlink-proto that a program already has.
//! - `tracing`: each round is a span, `round`, with the target `lvs`; what is refused, held back, drained,
//!   tried again or undone by another program is an event. Without it, none of that is compiled.
//! - `serde`: desired states, plans and ledgers have readable forms. The schema of a desired state is
//!   that of [`TableDocument`](https://docs.rs/ipvs-table/latest/ipvs_table/struct.TableDocument.html).
//! - `model`: a model of the kernel's table, for tests without a kernel.
//! - `proptest`: strategies for property tests. proptest itself needs Rust 1.88.

#![forbid(unsafe_code)]
// Where the pages of other crates link to, if they are built alone.
#![doc(html_root_url = "https://docs.rs/lvs/latest")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    not(feature = "tokio"),
    allow(rustdoc::broken_intra_doc_links, reason = "the links to what needs tokio")
)]

mod apply;
#[doc = include_str!("design.md")]
pub mod design {}
mod desired;
mod drain;
mod draining;
mod encapsulation;
mod guard;
mod invalid;
mod kernel;
mod leaving;
mod ledger;
mod limit;
mod memory;
#[cfg(any(test, feature = "model"))]
pub mod model;
#[cfg(feature = "netlink-proto")]
pub mod netlink_proto;
mod plan;
mod policy;
mod port;
mod real_server;
mod reconcile;
mod removal;
mod schedule;
mod scope;
#[cfg(feature = "serde")]
mod serialize;
#[cfg(any(test, feature = "proptest"))]
pub mod strategy;
mod table;
mod text;
mod virtual_service;
mod waiting;

/// The client under this crate: all of [`ipvs_client`].
// A module, not another name of the crate: so the compiler names a type by this path in its errors.
pub mod client {
    #[doc(no_inline)]
    pub use ipvs_client::*;
}

pub use crate::{
    apply::{Applied, ApplyError, Outcome},
    desired::Desired,
    drain::Drain,
    draining::Draining,
    encapsulation::Encapsulation,
    invalid::{Invalid, Rule, Violation},
    ledger::{Ledger, LedgerError},
    limit::Limit,
    plan::{Action, Change, CommandLines, Diff, Phase, Plan},
    policy::Policy,
    port::{Port, block_on, is_whole_table_faster, read_services},
    real_server::RealServer,
    reconcile::{Metric, Reconciler, Round, Status, Undone},
    removal::{HeldBack, Removal, RemovalKind},
    schedule::{Ended, Reason, Schedule, Turn},
    scope::{Predicate, Scope},
    table::Table,
    text::TextError,
    virtual_service::{VirtualService, VirtualServiceBuilder},
};

#[cfg(any(doc, doctest))]
#[doc = include_str!("cookbook.md")]
pub mod cookbook {}

/// The programs in the README, which have to compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
