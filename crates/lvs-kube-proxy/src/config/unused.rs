//! Fields of a configuration file that are not used here: which of them are set to something that
//! matters, and which kube-proxy does not know either.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

/// Fields that are not used, by name.
pub(super) type Rest = BTreeMap<String, Value>;

/// kube-proxy's fields that are not used here, from the top, and those below them that it sets by itself, as
/// `kube-proxy --write-config-to` does. What is so says nothing.
const KNOWN: [(&str, &[(&str, &str)]); 22] = [
    ("clientConnection.acceptContentTypes", &[]),
    ("clientConnection.burst", &[("", "10")]),
    ("clientConnection.contentType", &[("", "application/vnd.kubernetes.protobuf")]),
    ("clientConnection.qps", &[("", "5")]),
    ("configSyncPeriod", &[("", "15m0s")]),
    (
        "conntrack",
        &[
            (".maxPerCore", "32768"),
            (".min", "131072"),
            (".tcpCloseWaitTimeout", "1h0m0s"),
            (".tcpEstablishedTimeout", "24h0m0s"),
        ],
    ),
    ("enableProfiling", &[]),
    ("featureGates", &[]),
    ("iptables.localhostNodePorts", &[("", "true")]),
    ("iptables.masqueradeBit", &[("", "14")]),
    ("iptables.minSyncPeriod", &[("", "1s")]),
    ("iptables.syncPeriod", &[("", "30s")]),
    ("linux", &[]),
    ("logging.flushFrequency", &[("", "5s"), ("", "5000000000")]),
    ("logging.options", &[]),
    ("logging.verbosity", &[]),
    ("logging.vmodule", &[]),
    ("nftables", &[(".masqueradeBit", "14"), (".minSyncPeriod", "1s"), (".syncPeriod", "30s")]),
    ("oomScoreAdj", &[("", "-999")]),
    ("portRange", &[]),
    ("udpIdleTimeout", &[]),
    ("winkernel", &[]),
];
/// Others that no release has any more, or that mean nothing on Linux.
const FORMER: [&str; 4] =
    ["showHiddenMetricsForVersion", "windowsRunAsService", "resourceContainer", "metadata"];

/// What is to be said of the fields of a place: `""`, or `ipvs.`.
pub(super) fn notices(places: impl IntoIterator<Item = (&'static str, Rest)>) -> Vec<String> {
    let (mut without_effect, mut notices) = (Vec::new(), Vec::new());
    for (place, rest) in places {
        for (name, value) in rest {
            let mut leaves = Vec::new();
            value.leaves(format!("{place}{name}"), &mut leaves);
            let path = format!("{place}{name}");
            let known = KNOWN.iter().find(|(known, _)| *known == path);
            if known.is_none() && !FORMER.contains(&path.as_str()) {
                notices.push(format!(
                    "{path} is no field of kube-proxy's configuration, and is ignored"
                ));
                continue;
            }
            let is_default = |path: &str, text: &str| {
                matches!(text, "" | "0" | "0s" | "false")
                    || known.is_some_and(|(known, defaults)| {
                        let below = path.strip_prefix(known).unwrap_or_default();
                        defaults.contains(&(below, text))
                    })
            };
            let set = leaves.into_iter().filter(|(path, text)| !is_default(path, text));
            without_effect.extend(set.map(|(path, _)| path));
        }
    }
    if !without_effect.is_empty() {
        let fields = without_effect.join(", ");
        let verb = if without_effect.len() == 1 { "has" } else { "have" };
        notices.push(format!("{fields} {verb} no effect in this proxy"));
    }
    notices
}

/// A value of any shape, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Scalar(String),
    Inner(Vec<(String, Self)>),
}

impl Value {
    fn leaves(self, path: String, found: &mut Vec<(String, String)>) {
        match self {
            Self::Scalar(text) => found.push((path, text)),
            Self::Inner(values) => {
                for (name, value) in values {
                    value.leaves(format!("{path}.{name}"), found);
                }
            }
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Look;

        impl<'de> Visitor<'de> for Look {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Scalar(String::new()))
            }

            fn visit_none<E>(self) -> Result<Value, E> {
                Ok(Value::Scalar(String::new()))
            }

            fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<Value, D::Error> {
                Value::deserialize(value)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Scalar(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(Value::Scalar(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(Value::Scalar(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(Value::Scalar(value.to_string()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(Value::Scalar(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = list.next_element()? {
                    values.push((values.len().to_string(), value));
                }
                Ok(Value::Inner(values))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut values = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    values.push(entry);
                }
                Ok(Value::Inner(values))
            }
        }

        deserializer.deserialize_any(Look)
    }
}
