//! Documents, read: field by field, so that every mistake is found.

use std::{
    collections::{
        BTreeMap,
        btree_map::Entry::{Occupied, Vacant},
    },
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    str::FromStr,
};

use ipvs_packet::{
    AddressFamily, Destination, DestinationEntry, DestinationKey, ForwardMethod, Protocol, Service,
    ServiceEntry, ServiceKey,
};

use super::node::{Fields, Node, Reader};
use crate::{
    Mistakes, ServiceSnapshot, Snapshot,
    settings::{REAL_SERVER, SERVICE, Setting, fields},
};

/// What has been read, and by which path.
#[derive(Default)]
pub(super) struct Document {
    pub(super) reader: Reader,
    services: BTreeMap<ServiceKey, (String, Option<ServiceSnapshot>)>,
}

impl Document {
    /// Reads a whole table.
    pub(super) fn table(node: Node) -> Result<Snapshot, Mistakes> {
        let mut document = Self::default();
        let top = document.reader.fields_of_listing(
            String::new(),
            node,
            &["services"],
            &["version", "connection_table_size", "uncertain", "unreadable"],
        );
        if let Some(mut top) = top {
            document.refuse_incomplete(&mut top);
            document.services(&mut top);
        }
        let services = document.services.into_values().filter_map(|(_, service)| service);
        Mistakes::none(document.reader.mistakes, services.collect())
    }

    /// What is left of a document of one service.
    pub(super) fn service_fields(&mut self, path: String, node: Node) -> Option<Fields> {
        let known = ["address", "protocol", "mark", "family"].into_iter();
        let known = known.chain(fields(SERVICE)).chain(["real_servers"]);
        self.reader.fields_of_listing(path, node, &known.collect::<Vec<_>>(), &["statistics"])
    }

    pub(super) fn real_server_fields(&mut self, path: String, node: Node) -> Option<Fields> {
        let known: Vec<_> = ["address"].into_iter().chain(fields(REAL_SERVER)).collect();
        let listed =
            ["active_connections", "inactive_connections", "persistent_connections", "statistics"];
        self.reader.fields_of_listing(path, node, &known, &listed)
    }

    /// A listing names what others changed while it was read, and what could not be read. Real servers
    /// may be missing there.
    fn refuse_incomplete(&mut self, top: &mut Fields) {
        for (name, message) in [
            (
                "uncertain",
                "names services that another program changed while they were listed, so they may not be \
                 complete; list again",
            ),
            ("unreadable", "names entries that could not be read, so the table is not complete"),
        ] {
            match top.take(name) {
                None => {}
                Some((_, Node::List(list))) if list.is_empty() => {}
                Some((path, _)) => self.reader.refuse(path, message),
            }
        }
    }

    fn services(&mut self, top: &mut Fields) {
        let Some(services) = top.required(&mut self.reader, "services") else { return };
        for (path, service) in self.reader.list(services) {
            let Some(mut fields) = self.service_fields(path, service) else { continue };
            let key = self.service_key(&mut fields);
            if let Some(key) = key {
                match self.services.entry(key) {
                    Vacant(place) => drop(place.insert((fields.path.clone(), None))),
                    Occupied(first) => {
                        let first = &first.get().0;
                        let message = format!("service {key} is there already, as {first}");
                        self.reader.refuse(fields.path.clone(), message);
                    }
                }
            }
            let service = self.whole_service(key, &mut fields);
            if let Some((_, place)) = key.and_then(|key| self.services.get_mut(&key)) {
                *place = service;
            }
        }
    }

    pub(super) fn whole_service(
        &mut self,
        key: Option<ServiceKey>,
        fields: &mut Fields,
    ) -> Option<ServiceSnapshot> {
        let service = self.service(key, fields);
        let real_servers = self.real_servers(key, fields);
        let entries = real_servers.into_iter().map(DestinationEntry::new).collect();
        Some(ServiceSnapshot::new(ServiceEntry::new(service?), entries))
    }

    pub(super) fn service_key(&mut self, fields: &mut Fields) -> Option<ServiceKey> {
        let reader = &mut self.reader;
        let address = fields.take("address");
        let mark = fields.take("mark");
        let protocol = fields.take("protocol");
        let family = fields.take("family");
        match (address, mark) {
            (Some(address), None) => {
                let protocol = match protocol {
                    Some(node) => reader.word_or_number(node, u16::MAX.into(), Protocol::from_str),
                    None => Some(Protocol::TCP),
                };
                if let Some((path, _)) = family {
                    reader.refuse(path, "is for services of a mark");
                }
                let (address, port) = reader.text(address, endpoint)?;
                Some(ServiceKey::Address { protocol: protocol?, address, port: port.unwrap_or(0) })
            }
            (None, Some(mark)) => {
                if let Some((path, _)) = protocol {
                    reader.refuse(path, "is for services of an address");
                }
                let family = match family {
                    Some(node) => reader.text(node, AddressFamily::from_str),
                    None => Some(AddressFamily::Ipv4),
                };
                let mark = reader.number(mark, 1, u32::MAX)?;
                Some(ServiceKey::Mark { mark: NonZeroU32::new(mark)?, family: family? })
            }
            (Some(_), Some((path, _))) => {
                reader.refuse(path, "a service has an address or a mark, not both");
                None
            }
            (None, None) => {
                reader.refuse(fields.path.clone(), "needs an address or a mark");
                None
            }
        }
    }

    fn service(&mut self, key: Option<ServiceKey>, fields: &mut Fields) -> Option<Service> {
        // Without a key the other fields are judged all the same.
        let any = ServiceKey::Mark { mark: NonZeroU32::MIN, family: AddressFamily::Ipv4 };
        let mut service = Service::new(key.unwrap_or(any));
        self.reader.family = key.map(|key| key.family());
        self.settings(SERVICE, fields, &mut service);
        key.map(|_| service)
    }

    fn settings<T>(&mut self, settings: &[Setting<T>], fields: &mut Fields, values: &mut T) {
        for field in settings.iter().filter_map(|setting| setting.field.as_ref()) {
            let node = match field.is_required {
                true => fields.required(&mut self.reader, field.name),
                false => fields.take(field.name),
            };
            if let Some(node) = node {
                (field.read)(&mut self.reader, node, values);
            }
        }
    }

    fn real_servers(&mut self, key: Option<ServiceKey>, fields: &mut Fields) -> Vec<Destination> {
        let Some(servers) = fields.take("real_servers") else { return Vec::new() };
        let port = key.and_then(|key| key.port()).unwrap_or(0);
        let mut seen = BTreeMap::<DestinationKey, String>::new();
        let mut destinations = Vec::new();
        for (path, server) in self.reader.list(servers) {
            let Some(mut fields) = self.real_server_fields(path, server) else { continue };
            let address = fields.required(&mut self.reader, "address");
            let at = address.as_ref().map(|(path, _)| path.clone()).unwrap_or_default();
            let address = address.and_then(|node| self.reader.text(node, endpoint));
            let key =
                address.map(|(address, own)| DestinationKey { address, port: own.unwrap_or(port) });
            if let Some(key) = key {
                match seen.entry(key) {
                    Vacant(place) => drop(place.insert(fields.path.clone())),
                    Occupied(first) => {
                        let first = first.get();
                        let message = format!("real server {key} is there already, as {first}");
                        self.reader.refuse(at, message);
                    }
                }
            }
            destinations.extend(self.real_server(key, &mut fields));
        }
        destinations
    }

    /// `None` where it has no key.
    pub(super) fn real_server(
        &mut self,
        key: Option<DestinationKey>,
        fields: &mut Fields,
    ) -> Option<Destination> {
        let any = DestinationKey { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: 0 };
        let mut server = Destination::new(key.unwrap_or(any));
        // Of a method that cannot be read it is not known what goes with it.
        server.forward = ForwardMethod::TUNNEL;
        self.settings(REAL_SERVER, fields, &mut server);
        key.map(|_| server)
    }
}

/// An address with or without a port: `10.0.0.185:80`, `10.0.0.185`, `[2001:db8::1]:80`,
/// `2001:db8::1`.
pub(super) fn endpoint(text: &str) -> Result<(IpAddr, Option<u16>), &'static str> {
    if text.contains('%') {
        return Err("must have no zone such as %eth0: IPVS keeps an address without its interface");
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address, None));
    }
    match text.parse::<SocketAddr>() {
        Ok(address) => Ok((address.ip(), Some(address.port()))),
        Err(_) => {
            Err("must be an address such as 10.0.0.185:80 or [2001:db8::1]:80, or without a \
                       port")
        }
    }
}
