//! Virtual services and real servers of the Linux load balancer (IPVS): say what should be, apply
//! it.
//!
//! ```no_run
//! use lvs::{RealServer, Table, VirtualService, client::Client};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let ipvs = Client::connect()?;
//! let web = VirtualService::tcp("10.0.0.185:80".parse()?)
//!     .scheduler("wrr")
//!     .real_server(RealServer::nat("172.17.0.3:80".parse()?).weight(3))
//!     .real_server(RealServer::nat("172.17.0.4:80".parse()?))
//!     .build()?;
//! web.apply(&ipvs).await?;
//! print!("{}", Table::read(&ipvs).await?);
//! # Ok(())
//! # }
//! ```
//!
//! # Rules
//!
//! The kernel stores much that cannot work: a service on port 0 without persistence, a
//! direct-routed real server on another port than the service's, a protocol that it does not
//! balance. Here such a service does not build: a [`RealServer::direct`] has no port to get wrong,
//! and what is left is a [`Rule`], by whose name the refusal tells what is the matter.
//!
//! # Applying
//!
//! [`VirtualService::apply`] adds what is missing, changes what differs in any setting, and takes
//! away the service's other real servers; applied again, it writes nothing.
//! [`plan`](VirtualService::plan) tells the same without writing. A change is an edit where the
//! kernel has one, so that connections live on: the scheduler, the weights, and the forwarding
//! method of a live service.
//!
//! After a switch from NAT to direct routing, a packet of an old connection may let the kernel keep
//! the real server's old route, over which new connections then fail. Writing 1 to
//! `net.ipv4.route.flush` in the director's network namespace makes it forget.
//!
//! # What it leaves to others
//!
//! The virtual address on a link of the director, and all that direct routing asks of a real server,
//! are the crate `netns-link`'s. Health checks, announcements and draining are the application's.

#![forbid(unsafe_code)]

mod apply;
mod desired;
mod encapsulation;
mod invalid;
mod real_server;
mod table;
mod virtual_service;

pub use ipvs_client as client;

pub use crate::{
    apply::Change,
    desired::Desired,
    encapsulation::Encapsulation,
    invalid::{Invalid, Rule, Violation},
    real_server::RealServer,
    table::Table,
    virtual_service::{VirtualService, VirtualServiceBuilder},
};
