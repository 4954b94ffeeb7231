//! Async client for Linux IPVS, the kernel's load balancer, over generic netlink.

#![forbid(unsafe_code)]

mod client;
mod connections;
mod driver;
mod error;
mod exchange;
mod namespace;
mod observe;
mod retry;
mod socket;
mod tokio_socket;
mod verbs;
mod wire;

pub use ipvs_packet as packet;

pub use crate::{
    client::Client,
    connections::{
        Connection, ConnectionOrigin, ConnectionState, ConnectionStream, Connections, EngineData,
    },
    driver::Driver,
    error::{Error, ErrorKind},
    socket::Socket,
};
