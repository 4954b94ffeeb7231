//! The readable forms of the `serde` feature; the crate page describes them.

use std::{collections::BTreeSet, str::FromStr, time::Duration};

use ipvs_packet::{DestinationEntry, ServiceEntry, ServiceKey, Unreadable};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Command, ConnectionState, Rules, ServiceSnapshot, Snapshot};

#[derive(Serialize)]
struct SnapshotForm<'a> {
    services: Vec<&'a ServiceSnapshot>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    uncertain: &'a BTreeSet<ServiceKey>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreadable: Vec<&'a Unreadable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnedSnapshotForm {
    services: Vec<ServiceSnapshot>,
    #[serde(default)]
    uncertain: BTreeSet<ServiceKey>,
    #[serde(default)]
    unreadable: Vec<Unreadable>,
}

impl Serialize for Snapshot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let services = self.services.values().collect();
        let unreadable = self.unreadable.values().flatten().collect();
        SnapshotForm { services, uncertain: &self.uncertain, unreadable }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Snapshot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let form = OwnedSnapshotForm::deserialize(deserializer)?;
        let mut snapshot = Self { uncertain: form.uncertain, ..Self::new() };
        form.unreadable.into_iter().for_each(|entry| snapshot.add_unreadable(entry));
        for service in form.services {
            let key = *service.entry.service.key();
            if snapshot.services.insert(key, service).is_some() {
                return Err(de::Error::custom(format_args!("service {key} is there twice")));
            }
        }
        Ok(snapshot)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceSnapshotForm {
    entry: ServiceEntry,
    #[serde(default)]
    destinations: Vec<DestinationEntry>,
}

impl<'de> Deserialize<'de> for ServiceSnapshot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ServiceSnapshotForm { entry, destinations } = Deserialize::deserialize(deserializer)?;
        let mut keys = BTreeSet::new();
        if let Some(twice) = destinations.iter().find(|it| !keys.insert(it.destination.key)) {
            let key = twice.destination.key;
            return Err(de::Error::custom(format_args!("destination {key} is there twice")));
        }
        Ok(Self::new(entry, destinations))
    }
}

impl Serialize for ConnectionState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for ConnectionState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::from_name(&name)
            .ok_or_else(|| de::Error::custom("a state must be a word of the kernel's, such as UDP"))
    }
}

impl Serialize for Command {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_str(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl Serialize for Rules {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(|rule| &rule.command))
    }
}

/// One line is one rule, so that the lines' numbers are places in the list.
impl<'de> Deserialize<'de> for Rules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let lines = Vec::<String>::deserialize(deserializer)?;
        match lines.iter().find(|line| line.contains(['\n', '\r'])) {
            Some(line) => Err(de::Error::custom(format_args!("{line:?} is more than one line"))),
            None => Self::from_str(&lines.join("\n")).map_err(de::Error::custom),
        }
    }
}

/// Whole seconds.
pub(crate) mod whole_seconds {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        time: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(time.as_secs())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_secs)
    }
}

/// Seconds and parts of them, to the nanosecond for times below four months.
pub(crate) mod seconds {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        time: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(time.as_secs_f64())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Bytes as text, with escapes as in Rust (`\xff`, `\\`) for what is not printable ASCII.
pub(crate) mod escaped {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&bytes.escape_ascii())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        unescape(&text).ok_or_else(|| {
            de::Error::custom(r"must be ASCII, with \xff, \n, \r, \t, \\, \' and \x22 as escapes")
        })
    }

    fn unescape(text: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'\\' => match rest.next()? {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'x' => {
                        let mut digit = || char::from(rest.next()?).to_digit(16);
                        (digit()? << 4 | digit()?) as u8
                    }
                    literal @ (b'\\' | b'\'' | b'"') => literal,
                    _ => return None,
                },
                plain if plain.is_ascii() => plain,
                _ => return None,
            });
        }
        Some(bytes)
    }
}
