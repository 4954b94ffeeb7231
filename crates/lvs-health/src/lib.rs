//! Pools of real servers whose health decides their weights: values and time, no I/O.
//!
//! A [`Pool`] is a virtual service with members. Whoever checks the members
//! [reports](Pool::report) what was found; [`step`](Pool::step) says what the service should be now, what
//! happened, and when to ask again. Time is an argument. The service goes to the kernel as any desired state
//! does: `lvs::Reconciler`, or `VirtualService::apply`.
//!
//! ```
//! use std::time::{Duration, Instant};
//!
//! use lvs::{RealServer, VirtualService};
//! use lvs_health::{Member, OnFailure, Outcome, Pool, Quorum};
//!
//! let [a, b] = [RealServer::nat("172.17.0.3:80".parse()?), RealServer::nat("172.17.0.4:80".parse()?)];
//! let mut pool = Pool::new(VirtualService::tcp("10.0.0.185:80".parse()?).scheduler("wlc"))
//!     .member(Member::new(a.clone()).weight(100).rise(2).fall(3))
//!     .member(Member::new(b.clone()).weight(100))
//!     .sorry(RealServer::nat("172.17.0.9:80".parse()?))
//!     .quorum(Quorum::Members(1))
//!     .on_failure(OnFailure::Inhibit)
//!     .slow_start(Duration::from_secs(30))
//!     .build()?;
//!
//! let (a, b) = (a.key(pool.key()), b.key(pool.key()));
//! let now = Instant::now();
//! pool.report(&a, Outcome::Good, now);
//! pool.report(&b, Outcome::Bad("connect: Connection refused".to_owned()), now);
//! let step = pool.step(now);
//! assert_eq!(step.events.len(), 2); // 172.17.0.3:80 is up, 172.17.0.4:80 is down
//! let service = step.service.expect("each member has a result");
//! assert_eq!(service.destination(&b).map(|it| it.weight.get()), Some(0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What holds
//!
//! - While a member is healthy, or there is a sorry server, the service has a server with a weight.
//! - A weight is never above the member's own, and never 0 for one that is healthy and wants connections.
//! - The same reports at the same times give the same services and events.
//! - Time does not go back: an earlier `now` counts as the latest one.
//! - What is stored ([`Pool::state`]) and read back ([`Pool::restore`]) leaves the service as it was, but
//!   for slow starts, which are over, and damping, which is forgotten.
//!
//! # Where reports come from
//!
//! From whoever looks: with the feature `checks` from the module `check`, which asks the members themselves.

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "checks")]
pub mod check;
#[cfg(feature = "checks")]
mod checker;
#[doc = include_str!("design.md")]
pub mod design {}
mod event;
#[cfg(test)]
mod laws;
mod member;
mod passive;
mod pool;
mod state;

pub use crate::{
    event::Event,
    member::{Health, Member, Mode, Outcome},
    passive::Passive,
    pool::{AllFailed, BeforeResult, OnFailure, Pool, PoolBuilder, Quorum, Step},
    state::StateError,
};

/// The program in the README, which has to compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
