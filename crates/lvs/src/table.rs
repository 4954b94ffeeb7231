//! The whole table, as `ipvsadm -L -n` prints it.

use std::fmt;

use ipvs_client::{
    Client, Error, ServiceSnapshot,
    packet::{Info, ServiceKey},
};
use ipvs_table::Listing;

/// All services with their destinations. It displays as `ipvsadm -L -n` prints it.
///
/// ```text
/// IP Virtual Server version 1.2.1 (size=4096)
/// Prot LocalAddress:Port Scheduler Flags
///   -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
/// TCP  10.0.0.185:80 wlc
///   -> 172.17.0.3:80                Masq    1      0          0
///   -> 172.17.0.4:80                Masq    1      0          0
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Table {
    /// The version of IPVS and the size of its connection table.
    pub info: Info,
    /// The services with their destinations, in ipvsadm's order: by family, protocol, address and
    /// port, and those of firewall marks last.
    pub services: Vec<ServiceSnapshot>,
}

impl Table {
    /// Reads the table.
    pub async fn read(client: &Client) -> Result<Self, Error> {
        let info = client.info().await?;
        let mut services: Vec<_> = client.snapshot().await?.services.into_values().collect();
        services.sort_by_key(|service| order(service.entry.service.key()));
        Ok(Self { info, services })
    }
}

fn order(key: &ServiceKey) -> impl Ord + use<> {
    let marked = matches!(key, ServiceKey::Mark { .. });
    let family = if marked { None } else { Some(key.family()) };
    (marked, family, *key)
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let services = self.services.iter();
        let services = services.map(|service| (&service.entry, &service.destinations[..]));
        Listing::unsorted(self.info, services).fmt(f)
    }
}
