//! Parts of a document of a table, to be nested in documents of other programs.

use ipvs_packet::{Destination, DestinationKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Document, ServiceForm, node::Node, read::endpoint, write::RealServerForm};
use crate::{Mistakes, ServiceSnapshot};

/// One service of a [`TableDocument`](crate::TableDocument), in the same schema.
///
/// ```
/// #[derive(serde::Deserialize)]
/// struct Configuration {
///     name: String,
///     service: ipvs_table::ServiceDocument,
/// }
///
/// let configuration: Configuration = serde_saphyr::from_str("
/// name: shop
/// service:
///   address: 10.0.0.185:80
///   real_servers:
///     - {address: 172.17.0.3, forwarding: masquerade}
/// ")?;
/// let service = configuration.service.into_service();
/// assert_eq!(service.entry.service.key().to_string(), "-t 10.0.0.185:80");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceDocument(ServiceSnapshot);

impl ServiceDocument {
    /// The service with its real servers, without statistics.
    pub fn service(&self) -> &ServiceSnapshot {
        &self.0
    }

    /// The service with its real servers, without statistics.
    pub fn into_service(self) -> ServiceSnapshot {
        self.0
    }
}

/// The settings of a service and its real servers.
impl From<&ServiceSnapshot> for ServiceDocument {
    fn from(service: &ServiceSnapshot) -> Self {
        Self(service.without_statistics())
    }
}

impl Serialize for ServiceDocument {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ServiceForm::new(&self.0, false).serialize(serializer)
    }
}

/// All mistakes are in the error's text, a line each.
impl<'de> Deserialize<'de> for ServiceDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let node = Node::deserialize(deserializer)?;
        let mut document = Document::default();
        let service = document.service_fields(String::new(), node).and_then(|mut fields| {
            let key = document.service_key(&mut fields);
            document.whole_service(key, &mut fields)
        });
        finish(document, service).map(Self)
    }
}

/// One real server of a [`TableDocument`](crate::TableDocument), in the same schema. Without a port in its
/// `address`, it has that of whatever service it becomes part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealServerDocument {
    destination: Destination,
    has_port: bool,
}

impl RealServerDocument {
    /// A real server with these settings; of its key only the address, where the port is `None`.
    pub fn new(mut destination: Destination, port: Option<u16>) -> Self {
        destination.key.port = port.unwrap_or(0);
        Self { destination, has_port: port.is_some() }
    }

    /// Its settings. The key's port is 0 where the document has none.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// The port that the document has.
    pub fn port(&self) -> Option<u16> {
        self.has_port.then_some(self.destination.key.port)
    }
}

impl Serialize for RealServerDocument {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RealServerForm::new(&self.destination, self.has_port).serialize(serializer)
    }
}

/// All mistakes are in the error's text, a line each.
impl<'de> Deserialize<'de> for RealServerDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let node = Node::deserialize(deserializer)?;
        let mut document = Document::default();
        let fields = document.real_server_fields(String::new(), node);
        let server = fields.and_then(|mut fields| {
            let reader = &mut document.reader;
            let address = fields.required(reader, "address");
            let address = address.and_then(|node| reader.text(node, endpoint));
            let key =
                address.map(|(address, port)| DestinationKey { address, port: port.unwrap_or(0) });
            let destination = document.real_server(key, &mut fields)?;
            let (_, port) = address?;
            Some(Self { destination, has_port: port.is_some() })
        });
        finish(document, server)
    }
}

fn finish<T, E: de::Error>(document: Document, part: Option<T>) -> Result<T, E> {
    let part = part.ok_or_else(|| E::custom("nothing was read"));
    Mistakes::none(document.reader.mistakes, part).map_err(E::custom)?
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use serde_json::{from_str, from_value, json, to_value};

    use super::*;

    #[test]
    fn a_service_is_that_of_a_table() {
        let service = json!({
            "address": "10.0.0.185:80",
            "scheduler": "wrr",
            "persistence": {"timeout": 300},
            "real_servers": [
                {"address": "172.17.0.3:80", "forwarding": "masquerade", "weight": 3},
            ],
        });
        let alone: ServiceDocument = from_value(service.clone()).unwrap();
        let table: crate::TableDocument = from_value(json!({"services": [service]})).unwrap();
        assert_eq!(table.snapshot().services.values().collect::<Vec<_>>(), [alone.service()]);
        assert_eq!(to_value(&alone).unwrap(), service);
    }

    #[test]
    fn a_real_server_keeps_its_port_or_none() {
        for address in ["172.17.0.3", "172.17.0.3:0", "172.17.0.3:8080", "fd00::3", "[fd00::3]:80"]
        {
            let value = json!({"address": address, "forwarding": "tunnel", "weight": 0});
            let server: RealServerDocument = from_value(value.clone()).unwrap();
            assert_eq!(server.port().is_some(), address.ends_with("80") || address.ends_with(":0"));
            assert_eq!(to_value(&server).unwrap(), value);
        }
    }

    #[test]
    fn every_mistake_is_named() {
        let service =
            r#"{"scheduller": "10.0.0.185:80", "real_servers": [{"address": "172.17.0.3"}]}"#;
        let error = from_str::<ServiceDocument>(service).unwrap_err().to_string();
        for words in
            ["scheduller: there is no such field", "an address or a mark", "real_servers[0]"]
        {
            assert!(error.contains(words), "{error}");
        }
        let server = r#"{"address": "172.17.0.3", "forwarding": "nat", "weight": -1}"#;
        let error = from_str::<RealServerDocument>(server).unwrap_err().to_string();
        assert!(error.contains("forwarding") && error.contains("weight"), "{error}");
        assert!(from_str::<ServiceDocument>("[]").is_err());
        assert!(from_str::<RealServerDocument>("null").is_err());
    }
}
