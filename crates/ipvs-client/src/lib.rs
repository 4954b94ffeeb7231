//! Async client for Linux IPVS, the kernel's load balancer, over generic netlink.

#![forbid(unsafe_code)]

mod batch;
#[cfg(feature = "blocking")]
pub mod blocking;
#[cfg(feature = "tokio")]
mod client;
mod connections;
#[cfg(feature = "tokio")]
mod driver;
mod error;
mod exchange;
#[cfg(all(test, feature = "tokio"))]
mod faults;
mod line;
mod namespace;
mod observe;
mod retry;
mod snapshot;
mod socket;
mod sysctl;
#[cfg(feature = "tokio")]
mod tokio_socket;
mod totals;
mod verbs;
mod watch;
mod wire;

pub use ipvs_packet as packet;

pub use crate::{
    batch::BatchOptions,
    connections::{
        Connection, ConnectionOrigin, ConnectionState, ConnectionStream, Connections, EngineData,
    },
    error::{Error, ErrorKind},
    snapshot::{ServiceSnapshot, Snapshot},
    socket::Socket,
    sysctl::{DefenseMode, SyncThreshold, Sysctl, SysctlChange, SysctlInfo, SysctlValue},
    totals::CpuTotals,
    watch::{Activity, Differences, TableChange, Traffic},
};
#[cfg(feature = "tokio")]
pub use crate::{client::Client, driver::Driver, watch::Watch};
