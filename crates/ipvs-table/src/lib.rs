//! A table of Linux IPVS, the kernel's load balancer, as a value.
//!
//! Pure like [`ipvs_packet`], on which it stands: no I/O, no clock, no unsafe code. Whoever plans,
//! compares or prints a table can therefore be tested without a kernel.
//!
//! - [`Snapshot`]: every service with its destinations. `ipvs-client` reads them from the kernel;
//!   anybody can make one.
//! - [`Differences`]: what differs between two snapshots, and the traffic between them.
//! - [`Connection`]: one entry of the connection table.

#![forbid(unsafe_code)]

mod connection;
mod differences;
mod snapshot;

pub use ipvs_packet as packet;

pub use crate::{
    connection::{Connection, ConnectionOrigin, ConnectionState, EngineData, MalformedConnection},
    differences::{Activity, Differences, TableChange, Traffic},
    snapshot::{ServiceSnapshot, Snapshot},
};
