//! A service proxy for Kubernetes on IPVS, the kernel's load balancer: what kube-proxy's IPVS mode
//! does, on the crate [`lvs`].
//!
//! What objects say becomes what should be on the node, as a value; a plan lies between that and what is
//! there, and is carried out in phases. The page [`design`] has the road of an event.
//!
//! # What differs from kube-proxy
//!
//! | case | kube-proxy | here |
//! |---|---|---|
//! | external IPs | always served | served with `--external-ips` |
//! | a loopback, link-local or multicast address as external or load-balancer address | served | refused, with a notice |
//! | an external or load-balancer address of a pod, of the API server, or of another node where Nodes are watched | served: it is made local here, and this node cannot reach the other one any more | refused, with a notice |
//! | two services that claim one address and port | each takes it from the other in every run | the cluster address comes first, then load-balancer addresses, external ones, node ports; then the name. The other one is a notice |
//! | policy `Local` without an endpoint here | endpoints of other nodes | with nftables and known pods those for clients inside, and clients outside are refused; else the same: `--without-local` |
//! | a weight that somebody has changed | stays | is repaired |
//! | services and addresses that others have made | deleted | left alone |
//! | an endpoint that leaves, with TCP connections | keeps them without a limit | keeps them until its pod has ended |
//! | the node gets another address | the process ends | it is taken over |
//! | a source range that cannot be read | left out | lets nobody in |
//! | schedulers, forwarding, weights | one scheduler for the node, masquerade, 1 | by annotations, for each service |
//!
//! The library is the program for those who start it in a program of their own: a [`Config`] from flags, a
//! [source](source::Source) of objects, and [`run`] or a [`Proxy`].
//!
//! ```toml
//! [dependencies]
//! lvs-kube-proxy = { version = "0.1", features = ["kubernetes"] }
//! tokio = { version = "1", features = ["macros", "rt"] }
//! ```
//!
//! ```no_run
//! use lvs_kube_proxy::{Config, run};
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let words = ["lvs-kube-proxy", "--manifests", "/etc/services", "--cluster-cidr", "10.244.0.0/16"];
//!     let config = Config::from_command_line(words)?;
//!     run(config).await
//! }
//! ```

#![forbid(unsafe_code)]

mod annotation;
mod config;
#[doc = include_str!("design.md")]
pub mod design {}
mod failure;
mod health;
mod lenient;
mod manifest;
mod metrics;
mod node;
mod object;
mod process;
mod program;
mod proxy;
mod records;
mod remains;
mod rules;
mod settings;
pub mod source;
mod state;
#[cfg(test)]
mod tests;
mod text;
mod translate;

pub use crate::{
    config::{Config, ConfigError},
    failure::Failure,
    node::kernel::LINK,
    program::run,
    proxy::{Proxy, clean_up},
};
