//! A whole table as a document that people write: YAML, JSON, TOML.

mod node;
mod part;
mod read;
mod write;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use self::part::{RealServerDocument, ServiceDocument};
pub(crate) use self::{
    node::{Node, Reader},
    write::{ListingForm, ServiceForm},
};

use self::read::Document;
use crate::{Mistakes, ServiceSnapshot, Snapshot, listing::services_in_order};

/// A whole table as a document that people write, in any format of serde's that describes itself
/// (YAML, JSON, TOML): the services with their real servers, without statistics. A
/// [`Listing`](crate::Listing) is the same document with statistics, and is read as one.
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
/// What a listing has beside these is skipped: `statistics` of services and real servers,
/// `active_connections`, `inactive_connections` and `persistent_connections` of real servers, and at the
/// top `version` and `connection_table_size`. A listing that names services as
/// `uncertain` or `unreadable` is refused.
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
        Self(snapshot.services.values().map(ServiceSnapshot::without_statistics).collect())
    }
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
        Document::table(self.0).map(TableDocument)
    }
}

impl<'de> Deserialize<'de> for UncheckedDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Node::deserialize(deserializer).map(Self)
    }
}

/// In the order of a listing.
impl Serialize for TableDocument {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let services = services_in_order(self.0.services.values()).into_iter();
        let services = services.map(|service| ServiceForm::new(service, false)).collect();
        ListingForm { services, ..ListingForm::default() }.serialize(serializer)
    }
}

#[cfg(test)]
mod tests;
