//! The surroundings of a load balancer for examples and tests: a docker-like host with a bridge,
//! pods and clients in network namespaces, servers that answer with their name, and traffic to them.
//!
//! Everything is in new namespaces and is deleted when it is dropped; the machine's own namespaces are not
//! changed. It needs root in the initial user namespace, as IPVS does, and a tokio runtime.
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
