//! Timeouts and sync daemons as ipvsadm lists them.

use std::fmt;

use ipvs_packet::{DaemonEntry, DaemonRole, Timeouts};

/// Timeouts as `ipvsadm -L --timeout` prints them: `Timeout (tcp tcpfin udp): 900 120 300`, with
/// the line's end.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::exhaustive_structs, reason = "a view of what it holds, and no more")]
pub struct TimeoutListing(pub Timeouts);

impl fmt::Display for TimeoutListing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Timeout (tcp tcpfin udp): {}", self.0)
    }
}

/// Sync daemons as `ipvsadm -L --daemon` prints them, a line for each: `master sync daemon
/// (mcast=eth0, syncid=4, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)`. Nothing where none
/// runs.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::exhaustive_structs, reason = "a view of what it holds, and no more")]
pub struct DaemonListing<'a>(pub &'a [DaemonEntry]);

impl fmt::Display for DaemonListing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for DaemonEntry { daemon, .. } in self.0 {
            let role = match daemon.role {
                DaemonRole::MASTER | DaemonRole::BACKUP => daemon.role,
                _ => continue,
            };
            write!(f, "{role} sync daemon (mcast={}, syncid={}", daemon.interface, daemon.sync_id)?;
            if let Some(length) = daemon.max_length {
                write!(f, ", maxlen={length}")?;
            }
            if let Some(group) = daemon.group() {
                write!(f, ", group={group}")?;
            }
            if let Some(port) = daemon.port {
                write!(f, ", port={port}")?;
            }
            if let Some(ttl) = daemon.ttl {
                write!(f, ", ttl={ttl}")?;
            }
            writeln!(f, ")")?;
        }
        Ok(())
    }
}
