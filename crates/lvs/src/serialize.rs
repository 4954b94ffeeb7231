//! Readable forms (feature `serde`).

use ipvs_client::{Snapshot, packet::ServiceKey};
use ipvs_table::TableDocument;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Desired, Ledger};

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

/// A list of keys: `["-t 10.0.0.185:80"]`.
impl Serialize for Ledger {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Ledger {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<ServiceKey>::deserialize(deserializer)?.into_iter().collect())
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
            let mut ledger = Ledger::new();
            ledger.claim(&desired);
            let json = serde_json::to_string(&ledger).unwrap();
            prop_assert_eq!(serde_json::from_str::<Ledger>(&json).unwrap(), ledger);
        }
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
