//! Async client for Linux IPVS, the kernel's load balancer, over generic netlink.

#![forbid(unsafe_code)]

mod client;
mod driver;
mod error;
mod exchange;
mod retry;
mod socket;
mod tokio_socket;
mod verbs;
mod wire;

pub use ipvs_packet as packet;

pub use crate::{
    client::Client,
    driver::Driver,
    error::{Error, ErrorKind},
    socket::Socket,
};
