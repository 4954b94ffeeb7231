//! Readable forms (feature `serde`).

use ipvs_client::{ServiceSnapshot, Snapshot, packet::ServiceKey};
use ipvs_table::{RealServerDocument, ServiceDocument, TableDocument};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use crate::{Desired, Ledger, RealServer, VirtualService};

/// The schema of [`TableDocument`].
impl Serialize for Desired {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        TableDocument::from(&Snapshot::from(self)).serialize(serializer)
    }
}

/// The schema of [`TableDocument`], in a format that describes itself (YAML, JSON, TOML). All
/// mistakes are in the error's text, a line each; where there are none, every violation of a rule.
impl<'de> Deserialize<'de> for Desired {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let document = TableDocument::deserialize(deserializer)?;
        Self::try_from(document.snapshot()).map_err(de::Error::custom)
    }
}

/// The schema of a service in [`TableDocument`].
impl Serialize for VirtualService {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ServiceDocument::from(&ServiceSnapshot::from(self)).serialize(serializer)
    }
}

/// The schema of a service in [`TableDocument`]. All mistakes are in the error's text, a line each; where
/// there are none, every violation of a rule.
impl<'de> Deserialize<'de> for VirtualService {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let document = ServiceDocument::deserialize(deserializer)?;
        Self::try_from(document.service()).map_err(de::Error::custom)
    }
}

/// The schema of a real server in [`TableDocument`]; one without a port of its own has none in its
/// `address`. One whose values no kernel takes (a weight of 2^31, say) cannot be written.
impl Serialize for RealServer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let destination = self.settings().map_err(ser::Error::custom)?;
        RealServerDocument::new(destination, self.port()).serialize(serializer)
    }
}

/// The schema of a real server in [`TableDocument`]. Whether it fits a service is checked when that is
/// built.
impl<'de> Deserialize<'de> for RealServer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let document = RealServerDocument::deserialize(deserializer)?;
        Ok(Self::with_port(document.destination(), document.port()))
    }
}

/// A list of keys: `["-t 10.0.0.185:80"]`. Where a limit has let removals go lately, their number is the
/// last one in it.
impl Serialize for Ledger {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let taken = (self.taken() > 0).then(|| Entry::Taken(self.taken()));
        serializer.collect_seq(self.iter().map(|key| Entry::Service(*key)).chain(taken))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Entry {
    Service(ServiceKey),
    Taken(usize),
}

impl<'de> Deserialize<'de> for Ledger {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut ledger = Self::new();
        for entry in Vec::<Entry>::deserialize(deserializer)? {
            match entry {
                Entry::Service(key) => drop(ledger.insert(key)),
                Entry::Taken(taken) => ledger.set_taken(taken),
            }
        }
        Ok(ledger)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use proptest::prelude::*;

    use super::*;
    use crate::strategy;

    proptest! {
        #[test]
        fn what_is_written_is_read(desired in strategy::desired()) {
            let json = serde_json::to_string(&desired).unwrap();
            prop_assert_eq!(serde_json::from_str::<Desired>(&json).unwrap(), desired.clone());
            for service in desired.iter() {
                let json = serde_json::to_string(service).unwrap();
                prop_assert_eq!(&serde_json::from_str::<VirtualService>(&json).unwrap(), service);
                for server in service.real_servers() {
                    let json = serde_json::to_string(&server).unwrap();
                    prop_assert_eq!(serde_json::from_str::<RealServer>(&json).unwrap(), server);
                }
            }
            let mut ledger = Ledger::new();
            ledger.claim(&desired);
            let json = serde_json::to_string(&ledger).unwrap();
            prop_assert_eq!(serde_json::from_str::<Ledger>(&json).unwrap(), ledger);
        }
    }

    #[test]
    fn parts_nest_in_a_programs_own_document() {
        #[derive(Serialize, Deserialize, Debug, PartialEq)]
        struct Configuration {
            name: String,
            sorry: RealServer,
            service: VirtualService,
        }
        let json = r#"{"name":"shop","sorry":{"address":"172.17.0.9","forwarding":"direct","weight":0},"service":{"address":"10.0.0.185:80","scheduler":"wlc","real_servers":[{"address":"172.17.0.3:80","forwarding":"masquerade","weight":1}]}}"#;
        let configuration: Configuration = serde_json::from_str(json).unwrap();
        assert_eq!(
            configuration.sorry,
            RealServer::direct("172.17.0.9".parse().unwrap()).weight(0)
        );
        assert_eq!(serde_json::to_string(&configuration).unwrap(), json);
        // A service is checked as a whole; a real server with its service.
        let error = json.replace("10.0.0.185:80", "10.0.0.185");
        let error = serde_json::from_str::<Configuration>(&error).unwrap_err().to_string();
        assert!(error.contains("port-zero-needs-persistence"), "{error}");
        let heavy = RealServer::direct("172.17.0.9".parse().unwrap()).weight(u32::MAX);
        assert!(serde_json::to_string(&heavy).is_err());
    }

    #[test]
    fn everything_wrong_is_reported() {
        let unread = r#"{"services": [
            {"address": "10.0.0.185:80", "sheduler": "rr"},
            {"address": "10.0.0.185:81", "real_servers": [{"address": "172.17.0.3"}]}
        ]}"#;
        let error = serde_json::from_str::<Desired>(unread).unwrap_err().to_string();
        assert!(error.contains("services[0].sheduler"), "{error}");
        assert!(error.contains("services[1].real_servers[0]"), "{error}");
        let invalid = r#"{"services": [
            {"address": "224.0.0.1:80", "one_packet": true},
            {"address": "10.0.0.185:0"}
        ]}"#;
        let error = serde_json::from_str::<Desired>(invalid).unwrap_err().to_string();
        for rule in ["virtual-address", "one-packet-needs-udp", "port-zero-needs-persistence"] {
            assert!(error.contains(rule), "{error}");
        }
    }
}
