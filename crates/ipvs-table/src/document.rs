//! A whole table as a document that people write: YAML, JSON, TOML.

mod node;
mod part;

use std::{
    collections::{
        BTreeMap,
        btree_map::Entry::{Occupied, Vacant},
    },
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    str::FromStr,
};

use ipvs_packet::{
    AddressFamily, Destination, DestinationEntry, DestinationKey, EngineName, ForwardMethod,
    Netmask, Protocol, SchedulerName, Service, ServiceEntry, ServiceFlags, ServiceKey, Thresholds,
    Tunnel, TunnelFlags, TunnelType, Weight,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use self::part::{RealServerDocument, ServiceDocument};

use self::{
    node::{Fields, Node, Reader},
    part::Endpoint,
};
use crate::{
    Mistakes, ServiceSnapshot, Snapshot,
    command::scheduler_flag,
    listing::{destinations_in_order, services_in_order},
};

/// A whole table as a document that people write, in any format of serde's that describes itself
/// (YAML, JSON, TOML): the services with their real servers, without statistics.
///
/// ```
/// use ipvs_table::TableDocument;
///
/// let yaml = "
/// services:
///   - address: 10.0.0.185:80
///     scheduler: wrr
///     persistence: {timeout: 300, netmask: 24}
///     real_servers:
///       - {address: 172.17.0.3, forwarding: masquerade, weight: 3}
///       - {address: 172.17.0.4:8080, forwarding: masquerade, upper_threshold: 100}
///   - mark: 10
///     family: ipv6
///     real_servers:
///       - address: fd00::3
///         forwarding: tunnel
///         tunnel: {type: gue, port: 6080, checksum: true}
/// ";
/// let document: TableDocument = serde_saphyr::from_str(yaml)?;
/// assert_eq!(
///     ipvs_table::Rules::from(document.snapshot()).to_string(),
///     "\
/// -A -t 10.0.0.185:80 -s wrr -p 300 -M 255.255.255.0
/// -a -t 10.0.0.185:80 -r 172.17.0.3:80 -m -w 3
/// -a -t 10.0.0.185:80 -r 172.17.0.4:8080 -m -w 1 -x 100
/// -A -f 10 -6 -s wlc
/// -a -f 10 -6 -r [fd00::3]:0 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum
/// "
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # The schema
///
/// Its top is one field, `services`, a list. Of each service:
///
/// | field | value | if left out |
/// |---|---|---|
/// | `address` | where clients connect: `10.0.0.185:80`, `"[2001:db8::1]:80"`; without a port, or with port 0, every port | there must be a `mark` |
/// | `protocol` | `tcp`, `udp`, `sctp`, or a number | `tcp` |
/// | `mark` | instead of an address, a firewall mark, 1 to 4294967295 | |
/// | `family` | of a mark: `ipv4` or `ipv6` | `ipv4` |
/// | `scheduler` | its name | `wlc` |
/// | `scheduler_flags` | a list: `sh-fallback`, `sh-port`, `mh-fallback`, `mh-port`, `flag-1` to `flag-29` | none |
/// | `persistence` | `{timeout: 300, netmask: 24, engine: sip}`, each with a default: seconds, 360; a mask or a prefix length, each client for itself; an engine's name, none | not persistent |
/// | `one_packet` | `true` for one-packet scheduling | `false` |
/// | `real_servers` | a list | none |
///
/// Of each real server:
///
/// | field | value | if left out |
/// |---|---|---|
/// | `address` | `172.17.0.3:80`, `"[2001:db8::3]:80"`, or without a port, which then is the service's | must be there |
/// | `forwarding` | `masquerade`, `direct`, `tunnel`, `local`, `bypass`, or a number | must be there |
/// | `weight` | 0 to 2147483647 | 1 |
/// | `upper_threshold` | connections at which it is full, 0 to 2147483647; 0 for no limit | 0 |
/// | `lower_threshold` | connections below which it is free again; 0 for three quarters of the other | 0 |
/// | `tunnel` | with `forwarding: tunnel`: `{type: gue, port: 6080, checksum: true, remote_checksum: true}`, where `type` is `ipip`, `gue`, `gre` or a number, `port` is for `gue`, and there may be a number of other `flags` | `{type: ipip}` |
///
/// In YAML, IPv6 addresses in brackets need quotes.
///
/// # What is refused
///
/// Fields that do not exist or are there twice, values of another type or out of range, two services
/// with one key, and two real servers of a service with one address. All such [`Mistakes`] are
/// reported together, each with the path to its field, counted from 0:
///
/// ```
/// let json = r#"{"services": [
///     {"address": "10.0.0.185:80", "real_servers": [
///         {"address": "172.17.0.3", "forwarding": "masquerade", "weight": "three"},
///         {"address": "172.17.0.3:80", "forwarding": "masquerade", "wait": 3}
///     ]}
/// ]}"#;
/// let unchecked: ipvs_table::UncheckedDocument = serde_json::from_str(json)?;
/// assert_eq!(
///     unchecked.check().unwrap_err().to_string(),
///     "\
/// services[0].real_servers[0].weight: \"three\" must be a number from 0 to 2147483647
/// services[0].real_servers[1].wait: there is no such field here; there are address, forwarding, \
/// weight, upper_threshold, lower_threshold, tunnel
/// services[0].real_servers[1].address: real server 172.17.0.3:80 is there already, as \
/// services[0].real_servers[0]"
/// );
/// # Ok::<(), serde_json::Error>(())
/// ```
///
/// Whether a table makes sense (every port without persistence, say) is for crate lvs to judge.
///
/// # What is not said
///
/// What has no effect in the kernel: the netmask and timeout of a service that is not persistent, and
/// the encapsulation of a real server that is not tunnelled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableDocument(Snapshot);

impl TableDocument {
    /// The table, without statistics.
    pub fn snapshot(&self) -> &Snapshot {
        &self.0
    }

    /// The table, without statistics.
    pub fn into_snapshot(self) -> Snapshot {
        self.0
    }
}

/// The settings of a table. Of an uncertain one, those that it has.
impl From<&Snapshot> for TableDocument {
    fn from(snapshot: &Snapshot) -> Self {
        Self(snapshot.services.values().map(without_statistics).collect())
    }
}

fn without_statistics(service: &ServiceSnapshot) -> ServiceSnapshot {
    let destinations = service.destinations.iter();
    let entries = destinations.map(|it| DestinationEntry::new(it.destination.clone()));
    ServiceSnapshot::new(ServiceEntry::new(service.entry.service.clone()), entries.collect())
}

impl<'de> Deserialize<'de> for TableDocument {
    /// All mistakes are in the error's text, a line each. [`UncheckedDocument`] has them as values.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        UncheckedDocument::deserialize(deserializer)?.check().map_err(de::Error::custom)
    }
}

/// A document of which only the format has been read, so that its mistakes can be had one by one.
#[derive(Clone, Debug)]
pub struct UncheckedDocument(Node);

impl UncheckedDocument {
    /// Reads the table.
    ///
    /// # Errors
    ///
    /// All mistakes, each at its field. The [schema](TableDocument) says what they can be.
    pub fn check(self) -> Result<TableDocument, Mistakes> {
        let mut document = Document::default();
        let top = document.reader.fields(String::new(), self.0, &["services"]);
        if let Some(mut top) = top {
            document.services(&mut top);
        }
        let services = document.services.into_values().filter_map(|(_, service)| service);
        Mistakes::none(document.reader.mistakes, TableDocument(services.collect()))
    }
}

impl<'de> Deserialize<'de> for UncheckedDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Node::deserialize(deserializer).map(Self)
    }
}

const SERVICE: &[&str] = &[
    "address",
    "protocol",
    "mark",
    "family",
    "scheduler",
    "scheduler_flags",
    "persistence",
    "one_packet",
    "real_servers",
];
const PERSISTENCE: &[&str] = &["timeout", "netmask", "engine"];
const REAL_SERVER: &[&str] =
    &["address", "forwarding", "weight", "upper_threshold", "lower_threshold", "tunnel"];
const TUNNEL: &[&str] = &["type", "port", "checksum", "remote_checksum", "flags"];

/// How long persistence lasts if nothing is said, in seconds: as ipvsadm has it.
const DEFAULT_PERSISTENCE: u32 = 360;

/// What has been read, and by which path.
#[derive(Default)]
struct Document {
    reader: Reader,
    services: BTreeMap<ServiceKey, (String, Option<ServiceSnapshot>)>,
}

impl Document {
    fn services(&mut self, top: &mut Fields) {
        let Some(services) = top.required(&mut self.reader, "services") else { return };
        for (path, service) in self.reader.list(services) {
            let Some(mut fields) = self.reader.fields(path, service, SERVICE) else { continue };
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

    fn whole_service(
        &mut self,
        key: Option<ServiceKey>,
        fields: &mut Fields,
    ) -> Option<ServiceSnapshot> {
        let service = self.service(key, fields);
        let real_servers = self.real_servers(key, fields);
        let entries = real_servers.into_iter().map(DestinationEntry::new).collect();
        Some(ServiceSnapshot::new(ServiceEntry::new(service?), entries))
    }

    fn service_key(&mut self, fields: &mut Fields) -> Option<ServiceKey> {
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
        let reader = &mut self.reader;
        // Without a key the other fields are judged all the same.
        let any = ServiceKey::Mark { mark: NonZeroU32::MIN, family: AddressFamily::Ipv4 };
        let mut service = Service::new(key.unwrap_or(any));
        if let Some(node) = fields.take("scheduler") {
            service.scheduler =
                reader.text(node, SchedulerName::from_str).unwrap_or(service.scheduler);
        }
        if let Some(flags) = fields.take("scheduler_flags") {
            for node in reader.list(flags) {
                let scheduler = service.scheduler;
                service.flags |=
                    reader.text(node, |text| scheduler_flag(text, &scheduler)).unwrap_or_default();
            }
        }
        if let Some(node) = fields.take("one_packet") {
            if reader.boolean(node) == Some(true) {
                service.flags |= ServiceFlags::ONE_PACKET;
            }
        }
        if let Some((path, node)) = fields.take("persistence") {
            let mut fields = reader.fields(path, node, PERSISTENCE)?;
            service.flags |= ServiceFlags::PERSISTENT;
            service.timeout = match fields.take("timeout") {
                Some(node) => reader.number(node, 0, u32::MAX).unwrap_or(0),
                None => DEFAULT_PERSISTENCE,
            };
            if let (Some(node), Some(key)) = (fields.take("netmask"), key) {
                let netmask =
                    reader.text_or_number(node, |text| Netmask::from_text(key.family(), text));
                // Of the key's family by the way it was read.
                service.set_netmask(netmask.unwrap_or(service.netmask())).ok()?;
            }
            if let Some(node) = fields.take("engine") {
                service.engine = reader.text(node, EngineName::from_str);
            }
        }
        key.map(|_| service)
    }

    fn real_servers(&mut self, key: Option<ServiceKey>, fields: &mut Fields) -> Vec<Destination> {
        let Some(servers) = fields.take("real_servers") else { return Vec::new() };
        let port = key.and_then(|key| key.port()).unwrap_or(0);
        let mut seen = BTreeMap::<DestinationKey, String>::new();
        let mut destinations = Vec::new();
        for (path, server) in self.reader.list(servers) {
            let Some(mut fields) = self.reader.fields(path, server, REAL_SERVER) else { continue };
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

    fn real_server(
        &mut self,
        key: Option<DestinationKey>,
        fields: &mut Fields,
    ) -> Option<Destination> {
        let reader = &mut self.reader;
        let forward = fields
            .required(reader, "forwarding")
            .and_then(|node| reader.word_or_number(node, u32::MAX, ForwardMethod::from_str));
        let weight = match fields.take("weight") {
            Some(node) => reader.number(node, 0, Weight::MAX.get()),
            None => Some(Weight::ONE.get()),
        };
        let thresholds = ["upper_threshold", "lower_threshold"].map(|name| {
            let node = fields.take(name)?;
            let path = node.0.clone();
            reader.number(node, 0, i32::MAX as u32).map(|limit| (limit, path))
        });
        let [upper, lower] = thresholds.clone().map(|limit| limit.map_or(0, |(limit, _)| limit));
        let thresholds = Thresholds::new(upper, lower).map_err(|error| {
            let path = thresholds[1].clone().map_or_else(|| fields.path.clone(), |(_, path)| path);
            reader.refuse(path, error.to_string());
        });
        let tunnel = match fields.take("tunnel") {
            None => Some(Tunnel::IPIP),
            Some((path, node)) => {
                if forward.is_some_and(|forward| forward != ForwardMethod::TUNNEL) {
                    reader.refuse(path.clone(), "is for forwarding tunnel");
                }
                tunnel(reader, path, node)
            }
        };
        let mut destination = Destination::new(key?);
        destination.forward = forward?;
        destination.weight = Weight::new(weight?).ok()?;
        destination.thresholds = thresholds.ok()?;
        destination.tunnel = tunnel?;
        Some(destination)
    }
}

fn tunnel(reader: &mut Reader, path: String, node: Node) -> Option<Tunnel> {
    let mut fields = reader.fields(path, node, TUNNEL)?;
    let kind = fields
        .required(reader, "type")
        .and_then(|node| reader.word_or_number(node, u8::MAX.into(), TunnelType::from_str));
    let port = match fields.take("port") {
        Some(node) => reader.number(node, 0, u16::MAX.into())? as u16,
        None => 0,
    };
    let mut flags = match fields.take("flags") {
        Some(node) => reader.number(node, 0, u16::MAX.into())? as u16,
        None => 0,
    };
    for (name, flag) in
        [("checksum", TunnelFlags::CHECKSUM), ("remote_checksum", TunnelFlags::REMOTE_CHECKSUM)]
    {
        if let Some(node) = fields.take(name) {
            if reader.boolean(node)? {
                flags |= flag.bits();
            }
        }
    }
    Tunnel::new(kind?, port, TunnelFlags::from_bits_retain(flags))
        .map_err(|error| reader.refuse(fields.path.clone(), error.to_string()))
        .ok()
}

/// An address with or without a port: `10.0.0.185:80`, `10.0.0.185`, `[2001:db8::1]:80`,
/// `2001:db8::1`.
fn endpoint(text: &str) -> Result<(IpAddr, Option<u16>), &'static str> {
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

#[derive(Serialize)]
struct DocumentForm<'a> {
    services: Vec<ServiceForm<'a>>,
}

#[derive(Serialize)]
struct ServiceForm<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<Protocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mark: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    family: Option<AddressFamily>,
    scheduler: SchedulerName,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scheduler_flags: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    persistence: Option<PersistenceForm>,
    #[serde(skip_serializing_if = "is_false")]
    one_packet: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    real_servers: Vec<RealServerForm<'a>>,
}

#[derive(Serialize)]
struct PersistenceForm {
    timeout: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    netmask: Option<Netmask>,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<EngineName>,
}

#[derive(Serialize)]
struct RealServerForm<'a> {
    address: Endpoint<'a>,
    forwarding: ForwardMethod,
    weight: Weight,
    #[serde(skip_serializing_if = "is_zero")]
    upper_threshold: u32,
    #[serde(skip_serializing_if = "is_zero")]
    lower_threshold: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    tunnel: Option<TunnelForm>,
}

#[derive(Serialize)]
struct TunnelForm {
    #[serde(rename = "type")]
    kind: TunnelType,
    #[serde(skip_serializing_if = "is_zero")]
    port: u32,
    #[serde(skip_serializing_if = "is_false")]
    checksum: bool,
    #[serde(skip_serializing_if = "is_false")]
    remote_checksum: bool,
    #[serde(skip_serializing_if = "is_zero")]
    flags: u32,
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl<'a> From<&'a ServiceSnapshot> for ServiceForm<'a> {
    fn from(snapshot: &'a ServiceSnapshot) -> Self {
        let service = &snapshot.entry.service;
        let persistent = service.flags.contains(ServiceFlags::PERSISTENT);
        let own_netmask = service.netmask() != Netmask::host(service.key().family());
        let persistence = persistent.then(|| PersistenceForm {
            timeout: service.timeout,
            netmask: own_netmask.then(|| service.netmask()),
            engine: service.engine,
        });
        let destinations = destinations_in_order(&snapshot.destinations).into_iter();
        let mut form = Self {
            address: None,
            protocol: None,
            mark: None,
            family: None,
            scheduler: service.scheduler,
            scheduler_flags: service.scheduler_flag_names().collect(),
            persistence,
            one_packet: service.flags.contains(ServiceFlags::ONE_PACKET),
            real_servers: destinations.map(|it| RealServerForm::from(&it.destination)).collect(),
        };
        match *service.key() {
            ServiceKey::Address { protocol, address, port } => {
                form.address = Some(SocketAddr::new(address, port));
                form.protocol = (protocol != Protocol::TCP).then_some(protocol);
            }
            ServiceKey::Mark { mark, family } => {
                form.mark = Some(mark);
                form.family = (family != AddressFamily::Ipv4).then_some(family);
            }
        }
        form
    }
}

impl<'a> From<&'a Destination> for RealServerForm<'a> {
    fn from(destination: &'a Destination) -> Self {
        let Destination { key, forward, weight, thresholds, tunnel, .. } = destination;
        let tunnelled = *forward == ForwardMethod::TUNNEL && *tunnel != Tunnel::IPIP;
        let named = TunnelFlags::CHECKSUM | TunnelFlags::REMOTE_CHECKSUM;
        Self {
            address: Endpoint::Key(key),
            forwarding: *forward,
            weight: *weight,
            upper_threshold: thresholds.upper(),
            lower_threshold: thresholds.lower(),
            tunnel: tunnelled.then(|| TunnelForm {
                kind: tunnel.kind(),
                port: tunnel.port().into(),
                checksum: tunnel.flags().contains(TunnelFlags::CHECKSUM),
                remote_checksum: tunnel.flags().contains(TunnelFlags::REMOTE_CHECKSUM),
                flags: (tunnel.flags() - named).bits().into(),
            }),
        }
    }
}

/// In the order of a listing.
impl Serialize for TableDocument {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let services = services_in_order(self.0.services.values()).into_iter();
        DocumentForm { services: services.map(ServiceForm::from).collect() }.serialize(serializer)
    }
}

#[cfg(test)]
mod tests;
