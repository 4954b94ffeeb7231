//! Client for Linux IPVS, the kernel's load balancer, over generic netlink: async on any runtime, and
//! blocking.
//!
//! ```toml
//! [dependencies]
//! ipvs-client = "0.1"
//! tokio = { version = "1", features = ["macros", "rt"] } # or any other runtime
//! ```
//!
//! ```no_run
//! use ipvs_client::{
//!     Client, ErrorKind,
//!     packet::{Destination, Service, ServiceKey},
//! };
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let client = Client::connect()?;
//!     let service = Service::new(ServiceKey::tcp("10.0.0.185:80".parse()?)?);
//!     client.add_service(&service).await?;
//!     client.add_destination(service.key(), &Destination::new("172.17.0.3:80".parse()?)).await?;
//!
//!     match client.delete_service(service.key()).await {
//!         Err(error) if error.kind() == ErrorKind::ServiceNotFound => println!("somebody was faster"),
//!         result => result?,
//!     }
//!     Ok(())
//! }
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
//!   the others as they are. The kernel's own update resets what it is not given.
//! - [`Client::upsert_service`], [`Client::upsert_destination`].
//! - `Client::watch` (feature `tokio`): what changes and how much traffic there is, from one look at
//!   the table to the next, since IPVS reports nothing by itself.
//! - What the kernel reports in /proc only, read in the client's own network namespace:
//!   [`Client::connections`], [`Client::totals`] and [`Client::cpu_totals`], and the settings
//!   `net.ipv4.vs.*` by [`Client::sysctl`], [`Client::set_sysctl`], [`Client::sysctls`] and
//!   [`Client::set_kube_proxy_sysctls`]. These are not async, but [`Connections::stream`] is.
//!
//! [`blocking::Client`] has the same methods without async.
//!
//! The messages are those of [`ipvs_packet`], here as [`packet`]; snapshots and connections are values
//! of [`ipvs_table`], here as [`table`].
//!
//! # What is certain
//!
//! - **Every call ends**, with its answer or with an error: when the kernel forgets to acknowledge
//!   (it does, when a sync daemon is stopped), and when it drops answers because a buffer is full
//!   ([`ErrorKind::Overrun`]). No call waits for the network or for a background task.
//! - **No answer is lost in silence.** What cannot be read is [`ErrorKind::Malformed`]; in a [`List`] it is
//!   an item among the others, in a snapshot it is [named](Snapshot::unreadable).
//! - **Calls may be dropped half-way**, which harms nobody else: see [`Client`].
//! - **Bounded.** One call has the socket at a time; others queue, first come, first served, each in
//!   its own task. So the queue is as long as the program has calls under way.
//! - **A reload of ip_vs** goes unnoticed by later calls. It empties the table, though, and resets the
//!   timeouts ([`Client::set_timeouts`]) and all settings `net.ipv4.vs.*` to their defaults; nothing
//!   reports that it happened. A program that set any of these sets them again, for instance whenever
//!   it finds the table empty.
//!
//! # Where it runs
//!
//! Reading takes the same privilege as writing: `CAP_NET_ADMIN` in the initial user namespace. The
//! services are those of the network namespace in which the socket was opened, for good:
//! [`Client::connect`] takes the calling thread's, [`Client::connect_in`] another one's.
//!
//! A client needs no runtime, and no call of it may panic for want of one: it makes its system calls
//! on the thread that polls it. They block for microseconds, but for as long as `modprobe` takes
//! where the kernel has to load a module: ip_vs at [`Client::connect`], and at any call after it was
//! unloaded; a scheduler or a persistence engine at the first service that names it.
//!
//! Before a namespace ends, call [`Client::flush`] in it: kernels before 6.6.152, 6.12.104, 6.18.45 and
//! 7.1.9 (from 6.2 on) crash when one ends with more than 50 services and destinations within a tenth
//! of a second after its first one (CVE-2026-74670), and every later call on the machine then waits in
//! the kernel for ever. No client can undo this fault of the kernel's.
//!
//! # Features
//!
//! - `tokio`: `Client::watch`, which needs a timer.
//! - `serde`: readable forms of the messages, as in [`ipvs_packet`].

#![forbid(unsafe_code)]
// Where the pages of other crates link to, if they are built alone.
#![doc(html_root_url = "https://docs.rs/ipvs-client/latest")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod blocking;
mod client;
#[doc = include_str!("design.md")]
pub mod design {}
mod error;
mod list;
mod netlink;
mod proc;
mod verbs;
#[cfg(feature = "tokio")]
mod watch;

/// The messages under this crate: all of [`ipvs_packet`].
// A module, not another name of the crate: so the compiler names a type by this path in its errors.
pub mod packet {
    #[doc(no_inline)]
    pub use ipvs_packet::*;
}

/// The table as a value: all of [`ipvs_table`].
pub mod table {
    #[doc(no_inline)]
    pub use ipvs_table::*;
}

pub use ipvs_table::{
    Activity, Connection, ConnectionOrigin, ConnectionState, Differences, EngineData,
    ServiceSnapshot, Snapshot, TableChange, Traffic,
};

#[cfg(feature = "tokio")]
pub use crate::watch::Watch;
pub use crate::{
    client::Client,
    error::{Error, ErrorKind},
    list::List,
    netlink::{batch::BatchOptions, outcomes::BatchOutcomes, socket::Socket},
    proc::{
        connection_stream::ConnectionStream,
        connections::Connections,
        statistics::CpuTotals,
        sysctl::{
            DefenseMode, SyncThreshold, Sysctl, SysctlChange, SysctlInfo, SysctlValue, SysctlsError,
        },
    },
};

/// The programs in the README, which have to compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
