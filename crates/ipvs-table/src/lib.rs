//! A table of Linux IPVS, the kernel's load balancer, as a value.
//!
//! Pure like [`ipvs_packet`], on which it stands: no I/O, no clock, no unsafe code. Whoever plans,
//! compares or prints a table can therefore be tested without a kernel.
//!
//! - [`Snapshot`]: every service with its destinations. `ipvs-client` reads them from the kernel;
//!   anybody can make one.
//! - [`Differences`]: what differs between two snapshots, and the traffic between them.
//! - [`ServiceChanges`] and [`DestinationChanges`]: what differs between two settings, in words.
//! - [`Connection`]: one entry of the connection table.

#![forbid(unsafe_code)]

mod changes;
mod connection;
mod differences;
mod snapshot;

pub use ipvs_packet as packet;

pub use crate::{
    changes::{DestinationChanges, ServiceChanges},
    connection::{Connection, ConnectionOrigin, ConnectionState, EngineData, MalformedConnection},
    differences::{Activity, Differences, TableChange, Traffic},
    snapshot::{ServiceSnapshot, Snapshot},
};
