//! The order of listings.

use std::net::IpAddr;

use ipvs_packet::{DestinationEntry, DestinationKey, ServiceKey};

use crate::ServiceSnapshot;

/// By family, protocol, address and port, and then those of firewall marks by mark and family.
pub(crate) fn services_in_order<'a>(
    services: impl Iterator<Item = &'a ServiceSnapshot>,
) -> Vec<&'a ServiceSnapshot> {
    let mut services: Vec<_> = services.collect();
    // The order of keys is the same but for the family of addresses, which it looks at later.
    services.sort_by_key(|service| {
        let key = *service.entry.service.key();
        let family = match key {
            ServiceKey::Address { .. } => Some(key.family()),
            ServiceKey::Mark { .. } => None,
        };
        (family.is_none(), family, key)
    });
    services
}

/// By address and port. An IPv4 address counts as an IPv6 address that begins with it.
pub(crate) fn destinations_in_order(destinations: &[DestinationEntry]) -> Vec<&DestinationEntry> {
    let mut destinations: Vec<_> = destinations.iter().collect();
    destinations.sort_by_key(|entry| {
        let DestinationKey { address, port } = entry.destination.key;
        let bits = match address {
            IpAddr::V4(short) => u128::from(short.to_bits()) << 96,
            IpAddr::V6(long) => long.to_bits(),
        };
        (bits, port, address.is_ipv6())
    });
    destinations
}
