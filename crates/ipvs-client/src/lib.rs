//! Async client for Linux IPVS, the kernel's load balancer, over generic netlink.
//!
//! ```no_run
//! use ipvs_client::{
//!     Client, ErrorKind,
//!     packet::{Destination, Service, ServiceKey},
//! };
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect().await?;
//! let service = Service::new(ServiceKey::tcp("10.0.0.185:80".parse()?));
//! client.add_service(&service).await?;
//! client.add_destination(service.key(), &Destination::new("172.17.0.3:80".parse()?)).await?;
//!
//! match client.delete_service(service.key()).await {
//!     Err(error) if error.kind() == ErrorKind::ServiceNotFound => println!("somebody was faster"),
//!     result => result?,
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Methods
//!
//! Each command of the kernel is a method of [`Client`], named for what it does; its documentation
//! says the kernel's command, ipvsadm's switch and the errors. Beyond the commands:
//!
//! - [`Client::batch`]: many writes in few system calls, with an outcome for each.
//! - [`Client::snapshot`]: every service with its destinations, checked for changes meanwhile.
//! - [`Client::modify_service`], [`Client::modify_destination`]: a change of one setting that leaves
//!   the others as they are. The kernel's own update takes away what it is not told.
//! - [`Client::upsert_service`], [`Client::upsert_destination`].
//! - [`Client::watch`]: what changes and how much traffic there is, from one look at the table to the
//!   next, since IPVS tells of nothing by itself.
//! - What the kernel tells in /proc only, read in the client's own network namespace:
//!   [`Client::connections`], [`Client::totals`] and [`Client::cpu_totals`], and the settings
//!   `net.ipv4.vs.*` by [`Client::sysctl`], [`Client::set_sysctl`], [`Client::sysctls`] and
//!   [`Client::set_kube_proxy_sysctls`]. These are not async, but [`Connections::stream`] is.
//!
//! The messages are those of [`ipvs_packet`], here as [`packet`]; snapshots and connections are values
//! of [`ipvs_table`], here as [`table`].
//!
//! # What is certain
//!
//! - **Every call ends**, with its answer or with an error: when the kernel forgets to acknowledge
//!   (it does, when a sync daemon is stopped), when it drops answers because a buffer is full
//!   ([`ErrorKind::Overrun`]), when the driver is gone ([`ErrorKind::Closed`]; batches and snapshots
//!   have a socket of their own and need no driver).
//! - **No answer is lost in silence.** What cannot be read is [`ErrorKind::Malformed`], for an entry
//!   of a list too.
//! - **Calls may be dropped half-way**, which harms nobody else. What they asked for may still take
//!   effect.
//! - **Bounded.** At most 48 calls of a client and its clones wait for answers, and one list is read
//!   at a time; others queue, first come, first served, each in its own task. So the queue is as long
//!   as the program has calls under way, and a caller that is behind in it just waits.
//!
//! # Where it runs
//!
//! Reading takes the same privilege as writing: `CAP_NET_ADMIN` in the initial user namespace. The
//! services are those of the network namespace in which the socket was opened, for good:
//! [`Client::connect`] takes the calling thread's, [`Client::connect_in`] another one's.
//!
//! Before a namespace ends, call [`Client::flush`] in it: kernels before 6.6.152, 6.12.104, 6.18.45 and
//! 7.1.9 (from 6.2 on) crash when one ends with more than 50 services and destinations within a tenth
//! of a second after its first one (CVE-2026-74670), and every later call on the machine then waits in
//! the kernel for ever. A fault of the kernel's that no client can undo.
//!
//! With the feature `tokio`, the default, [`Client::connect`] spawns its driver on the current
//! runtime; [`Client::from_socket`] returns the driver, for those who place it themselves. With the
//! feature `smol`, `Client::from_socket_on_smol` does so for smol and whatever else polls a future.
//! With the feature `blocking` there is a client without async, `ipvs_client::blocking::Client`, with the same
//! methods.

#![forbid(unsafe_code)]

#[cfg(not(any(feature = "_async", feature = "blocking")))]
compile_error!("ipvs-client needs one of the features `tokio`, `smol` and `blocking`");

mod batch;
#[cfg(feature = "blocking")]
pub mod blocking;
#[cfg(feature = "_async")]
mod client;
#[cfg(feature = "_async")]
mod connection_stream;
mod connections;
#[cfg(feature = "_async")]
mod driver;
mod error;
mod exchange;
#[cfg(all(test, feature = "_async"))]
mod faults;
mod inbox;
mod line;
mod namespace;
mod observe;
mod retry;
#[cfg(feature = "_async")]
mod runtime;
mod snapshot;
mod socket;
mod sysctl;
mod totals;
mod verbs;
#[cfg(feature = "tokio")]
mod watch;
mod wire;

pub use ipvs_packet as packet;
pub use ipvs_table::{
    self as table, Activity, Connection, ConnectionOrigin, ConnectionState, Differences,
    EngineData, ServiceSnapshot, Snapshot, TableChange, Traffic,
};

#[cfg(feature = "tokio")]
pub use crate::watch::Watch;
pub use crate::{
    batch::BatchOptions,
    connections::Connections,
    error::{Error, ErrorKind},
    socket::Socket,
    sysctl::{DefenseMode, SyncThreshold, Sysctl, SysctlChange, SysctlInfo, SysctlValue},
    totals::CpuTotals,
};
#[cfg(feature = "_async")]
pub use crate::{client::Client, connection_stream::ConnectionStream, driver::Driver};
