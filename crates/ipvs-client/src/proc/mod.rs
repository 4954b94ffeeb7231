//! What the kernel reports in /proc only, read in the client's network namespace: connections,
//! totals, the settings `net.ipv4.vs.*`, and which modules are loaded.

pub(crate) mod connection_stream;
pub(crate) mod connections;
mod file;
pub(crate) mod modules;
pub(crate) mod namespace;
pub(crate) mod statistics;
pub(crate) mod sysctl;
