//! Listings as documents.

use ipvs_packet::{SyncDaemon, Timeouts};
use serde::{Serialize, Serializer};

use super::{DaemonListing, Listing, TimeoutListing};
use crate::document::{ListingForm, ServiceForm};

impl Serialize for Listing<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let services = self.services.iter();
        ListingForm {
            version: self.info.map(|info| info.version.to_string()),
            connection_table_size: self.info.map(|info| info.connection_table_size),
            services: services
                .map(|(entry, servers)| ServiceForm::in_order(entry, servers.iter().copied(), true))
                .collect(),
            uncertain: self.uncertain.iter().map(ToString::to_string).collect(),
            unreadable: self.unreadable.iter().map(ToString::to_string).collect(),
        }
        .serialize(serializer)
    }
}

/// `{"timeouts": {"tcp": 900, "tcp_fin": 120, "udp": 300}}`, in seconds.
impl Serialize for TimeoutListing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Form {
            timeouts: Timeouts,
        }
        Form { timeouts: self.0 }.serialize(serializer)
    }
}

/// `{"daemons": [{"role": "master", "interface": "eth0", "sync_id": 4}]}`.
impl Serialize for DaemonListing<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Form<'a> {
            daemons: Vec<&'a SyncDaemon>,
        }
        Form { daemons: self.0.iter().map(|entry| &entry.daemon).collect() }.serialize(serializer)
    }
}
