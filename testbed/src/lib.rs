//! What examples and tests of a load balancer need around it: a docker-like host with a bridge,
//! pods and clients in network namespaces, servers that say who they are, and traffic to them.
//!
//! Everything lies in namespaces of its own and is gone when it is dropped; nothing of the machine
//! is touched. It takes root in the initial user namespace, as IPVS does, and a tokio runtime.
#![forbid(unsafe_code)]
#![allow(clippy::exhaustive_enums, clippy::exhaustive_structs, reason = "not published")]

mod client;
mod docker;
mod error;
mod nginx;
mod process;
mod server;

pub use crate::{
    client::{Client, http_get, tcp_exchange, udp_exchange},
    docker::{Container, DockerHost, Family},
    error::Error,
    nginx::Nginx,
    process::{Process, iptables, program, run},
    server::{Server, page},
};
