//! Documents, written: with statistics they are listings.

use ipvs_packet::{
    AddressFamily, Destination, DestinationEntry, DestinationKey, Protocol, ServiceEntry,
    ServiceKey, Statistics,
};
use serde::Serialize;

use super::Node;
use crate::{
    ServiceSnapshot,
    listing::destinations_in_order,
    settings::{REAL_SERVER, SERVICE, Setting},
};

/// A table, or a part of it.
#[derive(Default, Serialize)]
pub(crate) struct ListingForm<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) connection_table_size: Option<u32>,
    pub(crate) services: Vec<ServiceForm<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) uncertain: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) unreadable: Vec<String>,
}

#[derive(Serialize)]
pub(crate) struct ServiceForm<'a> {
    #[serde(flatten)]
    settings: Node,
    #[serde(skip_serializing_if = "Option::is_none")]
    statistics: Option<&'a Statistics>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    real_servers: Vec<RealServerForm<'a>>,
}

impl<'a> ServiceForm<'a> {
    /// A service with its real servers in order.
    pub(crate) fn new(service: &'a ServiceSnapshot, with_statistics: bool) -> Self {
        let servers = destinations_in_order(&service.destinations);
        Self::in_order(&service.entry, servers, with_statistics)
    }

    /// A service with its real servers in the order in which they are given.
    pub(crate) fn in_order(
        entry: &'a ServiceEntry,
        servers: impl IntoIterator<Item = &'a DestinationEntry>,
        with_statistics: bool,
    ) -> Self {
        let servers = servers.into_iter();
        Self {
            settings: with_settings(key_fields(entry.service.key()), SERVICE, &entry.service),
            statistics: with_statistics.then_some(&entry.statistics),
            real_servers: servers.map(|it| RealServerForm::of(it, with_statistics)).collect(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct RealServerForm<'a> {
    #[serde(flatten)]
    settings: Node,
    #[serde(flatten)]
    counters: Option<Counters<'a>>,
}

#[derive(Serialize)]
struct Counters<'a> {
    active_connections: u32,
    inactive_connections: u32,
    persistent_connections: u32,
    statistics: &'a Statistics,
}

impl<'a> RealServerForm<'a> {
    /// The settings alone; the address with a port or without.
    pub(super) fn new(server: &Destination, has_port: bool) -> Self {
        let DestinationKey { address, .. } = server.key;
        let address = if has_port { server.key.to_string() } else { address.to_string() };
        let fields = vec![("address".to_owned(), Node::Text(address))];
        Self { settings: with_settings(fields, REAL_SERVER, server), counters: None }
    }

    fn of(entry: &'a DestinationEntry, with_statistics: bool) -> Self {
        let counters = with_statistics.then_some(Counters {
            active_connections: entry.active_connections,
            inactive_connections: entry.inactive_connections,
            persistent_connections: entry.persistent_connections,
            statistics: &entry.statistics,
        });
        Self { counters, ..Self::new(&entry.destination, true) }
    }
}

fn key_fields(key: &ServiceKey) -> Vec<(String, Node)> {
    let mut fields = Vec::with_capacity(6);
    let mut push = |name: &str, node| fields.push((name.to_owned(), node));
    match *key {
        ServiceKey::Address { protocol, address, port } => {
            push("address", Node::Text(DestinationKey { address, port }.to_string()));
            match protocol {
                Protocol::TCP => {}
                Protocol::UDP => push("protocol", Node::text("udp")),
                Protocol::SCTP => push("protocol", Node::text("sctp")),
                Protocol(number) => push("protocol", Node::Number(number.into())),
            }
        }
        ServiceKey::Mark { mark, family } => {
            push("mark", Node::Number(mark.get().into()));
            if family == AddressFamily::Ipv6 {
                push("family", Node::text("ipv6"));
            }
        }
    }
    fields
}

fn with_settings<T>(mut fields: Vec<(String, Node)>, settings: &[Setting<T>], values: &T) -> Node {
    for field in settings.iter().filter_map(|setting| setting.field.as_ref()) {
        fields.extend((field.write)(values).map(|node| (field.name.to_owned(), node)));
    }
    Node::Fields(fields)
}
