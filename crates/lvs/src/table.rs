//! The whole table, as `ipvsadm -L -n` prints it.

use std::fmt;

use ipvs_client::{Error, Snapshot, packet::Info};
use ipvs_table::Listing;

use crate::Port;

/// All services with their real servers. It displays as `ipvsadm -L -n` prints it.
///
/// ```text
/// IP Virtual Server version 1.2.1 (size=4096)
/// Prot LocalAddress:Port Scheduler Flags
///   -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
/// TCP  10.0.0.185:80 wlc
///   -> 172.17.0.3:80                Masq    1      0          0
///   -> 172.17.0.4:80                Masq    1      0          0
/// ```
///
/// Where others changed services all the while that it was read, a line at the end names these:
/// there the table may not be complete. What cannot be read is named, too.
///
/// Other listings are made by `ipvs_table::Listing`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Table {
    /// The version of IPVS and the size of its connection table.
    pub info: Info,
    /// The services with their real servers, and which of them [are uncertain](Snapshot::uncertain).
    pub snapshot: Snapshot,
}

impl Table {
    /// A table of what was read before.
    pub fn new(info: Info, snapshot: Snapshot) -> Self {
        Self { info, snapshot }
    }

    /// Reads the table.
    ///
    /// # Errors
    ///
    /// Where it cannot be read.
    pub async fn read(port: &impl Port) -> Result<Self, Error> {
        Ok(Self::new(port.info().await?, port.snapshot().await?))
    }

    /// Whether nothing can be missing: nobody changed a service all the while, and all could be read.
    pub fn is_complete(&self) -> bool {
        self.snapshot.is_complete()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Listing::of_table(self.info, &self.snapshot).fmt(f)?;
        if !self.snapshot.is_certain() {
            f.write_str("Not sure of, since others changed them:")?;
            for (number, key) in self.snapshot.uncertain.iter().enumerate() {
                write!(f, "{} {key}", if number == 0 { "" } else { "," })?;
            }
            f.write_str("\n")?;
        }
        for entry in self.snapshot.unreadable.values().flatten() {
            writeln!(f, "Not shown: {entry}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use ipvs_client::packet::Version;

    use super::*;

    #[test]
    fn an_incomplete_table_says_so() {
        let mut table = Table::new(Info::new(Version(0x01_0201), 4096), Snapshot::new());
        let complete = table.to_string();
        assert!(table.is_complete() && !complete.contains("Not sure"));
        for key in ["-t 10.0.0.185:80", "-f 1"] {
            table.snapshot.uncertain.insert(key.parse().unwrap());
        }
        assert!(!table.is_complete());
        let line = "Not sure of, since others changed them: -t 10.0.0.185:80, -f 1\n";
        assert_eq!(table.to_string(), complete + line);
    }
}
