//! Reads `conformance.yaml`: objects in, table out. The kernel's cases use it too.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each of the tests that share this file uses a part of it"
)]

use std::{collections::BTreeSet, fmt::Write as _};

use lvs::{
    VirtualService,
    client::packet::{AddressFamily, ForwardMethod, Protocol, ServiceFlags, ServiceKey},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// A case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// Its number, or its name.
    #[serde(deserialize_with = "text")]
    pub(crate) case: String,
    /// What it is about.
    pub(crate) what: String,
    #[serde(default)]
    pub(crate) settings: CaseSettings,
    #[serde(default)]
    service: Value,
    endpoints: Option<Vec<Value>>,
    slices: Option<Vec<Value>>,
    /// The virtual services that are expected.
    pub(crate) table: Vec<String>,
    addresses: Option<Vec<String>>,
    /// Health checks, as port and number of endpoints.
    #[serde(default)]
    pub(crate) health: Vec<String>,
    /// Parts of the notices that are expected.
    #[serde(default)]
    pub(crate) notices: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct CaseSettings {
    pub(crate) scheduler: String,
    #[serde(rename = "externalIPs")]
    pub(crate) external_ips: bool,
    pub(crate) node_port_addresses: Vec<String>,
    pub(crate) without_local: String,
    pub(crate) zone: Option<String>,
    /// The networks of pods.
    #[serde(rename = "clusterCIDR")]
    pub(crate) cluster_cidr: Option<String>,
    /// The addresses of node-b.
    pub(crate) node_b: Vec<String>,
}

impl Default for CaseSettings {
    fn default() -> Self {
        Self {
            scheduler: "rr".to_owned(),
            external_ips: false,
            node_port_addresses: Vec::new(),
            without_local: "fall back".to_owned(),
            zone: Some("z1".to_owned()),
            cluster_cidr: None,
            node_b: Vec::new(),
        }
    }
}

/// All cases.
pub(crate) fn all() -> Vec<Case> {
    serde_saphyr::from_str(include_str!("../conformance.yaml")).unwrap()
}

impl Case {
    /// The addresses that are to be made local.
    pub(crate) fn addresses(&self) -> BTreeSet<String> {
        match &self.addresses {
            Some(addresses) => addresses.iter().cloned().collect(),
            None => BTreeSet::from(["10.96.7.20".to_owned()]),
        }
    }

    /// The objects, as a manifest.
    pub(crate) fn manifest(&self) -> String {
        self.objects().iter().map(|object| format!("---\n{object}\n")).collect()
    }

    /// The Service and its slices.
    pub(crate) fn objects(&self) -> Vec<Value> {
        let mut service = json!({
            "kind": "Service",
            "apiVersion": "v1",
            "metadata": {"namespace": "shop", "name": "web"},
            "spec": {
                "clusterIP": "10.96.7.20",
                "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
            },
        });
        merge(&mut service, &self.service);
        let one = || vec![json!({"endpoints": self.endpoints.clone().unwrap_or_default()})];
        let slices = self.slices.clone().unwrap_or_else(one);
        let slices =
            slices.into_iter().enumerate().map(|(number, slice)| self::slice(number, &slice));
        std::iter::once(service).chain(slices).collect()
    }

    /// The nodes of the frame, as a manifest.
    pub(crate) fn node_manifest(&self) -> String {
        let labels =
            self.settings.zone.as_ref().map(|zone| json!({"topology.kubernetes.io/zone": zone}));
        let node = |name: &str, labels: Option<Value>, addresses: &[String]| {
            let addresses = addresses.iter();
            let addresses: Vec<_> =
                addresses.map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
            let node = json!({
                "kind": "Node",
                "metadata": {"name": name, "labels": labels},
                "status": {"addresses": addresses},
            });
            format!("---\n{node}\n")
        };
        let own = ["192.0.2.11", "2001:db8:77::11"].map(str::to_owned);
        node("node-a", labels, &own) + &node("node-b", None, &self.settings.node_b)
    }

    /// The settings as flags of the program.
    pub(crate) fn flags(&self) -> Vec<String> {
        let settings = &self.settings;
        let mut flags = vec![format!("--ipvs-scheduler={}", settings.scheduler)];
        if settings.external_ips {
            flags.push("--external-ips".to_owned());
        }
        if !settings.node_port_addresses.is_empty() {
            flags.push(format!("--nodeport-addresses={}", settings.node_port_addresses.join(",")));
        }
        flags.extend(settings.cluster_cidr.iter().map(|it| format!("--cluster-cidr={it}")));
        match settings.without_local.as_str() {
            "refuse" => flags.push("--without-local=refuse".to_owned()),
            "by mark" => flags.push("--cluster-cidr=10.42.0.0/16".to_owned()),
            _ => {}
        }
        flags
    }

    /// Whether it is so only where there are nftables.
    pub(crate) fn needs_nftables(&self) -> bool {
        self.settings.without_local == "by mark"
    }
}

/// Virtual services in the cases' notation, sorted.
pub(crate) fn table_lines<'a>(
    services: impl IntoIterator<Item = &'a VirtualService>,
) -> Vec<String> {
    let mut lines: Vec<_> = services.into_iter().map(table_line).collect();
    lines.sort();
    lines
}

fn table_line(service: &VirtualService) -> String {
    let settings = service.service();
    let place = match settings.key() {
        ServiceKey::Address { protocol, address, port } => {
            let name = match *protocol {
                Protocol::TCP => "TCP",
                Protocol::UDP => "UDP",
                _ => "SCTP",
            };
            format!("{name} {}", std::net::SocketAddr::new(*address, *port))
        }
        ServiceKey::Mark { mark, .. } => format!("FWM {mark:#x}"),
    };
    let mut line = format!("{place} {}", settings.scheduler);
    let scheduler_flags = settings.flags - ServiceFlags::PERSISTENT;
    if scheduler_flags.bits() != 0 {
        write!(line, " flags {:#x}", scheduler_flags.bits()).unwrap();
    }
    if settings.flags.contains(ServiceFlags::PERSISTENT) {
        let full = match settings.key().family() {
            AddressFamily::Ipv4 => 32,
            AddressFamily::Ipv6 => 128,
        };
        write!(line, " persistent {} mask {full}", settings.timeout).unwrap();
    }
    line += " ->";
    for destination in service.destinations() {
        match destination.forward {
            ForwardMethod::DIRECT_ROUTE => line += " direct",
            ForwardMethod::TUNNEL => line += " tunnel",
            _ => {}
        }
        write!(line, " {}", destination.key).unwrap();
        if destination.weight.get() != 1 {
            write!(line, " weight {}", destination.weight.get()).unwrap();
        }
    }
    line
}

fn slice(number: usize, case: &Value) -> Value {
    let mut slice = json!({
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {
            "namespace": "shop",
            "name": format!("web-{number}"),
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    });
    for (name, value) in case.as_object().unwrap() {
        match name.as_str() {
            "endpoints" => {
                let endpoints = value.as_array().unwrap().iter().map(endpoint);
                slice["endpoints"] = endpoints.collect();
            }
            "labels" => merge(&mut slice["metadata"]["labels"], value),
            "ports" | "addressType" => slice[name] = value.clone(),
            other => panic!("{other}"),
        }
    }
    slice
}

fn endpoint(case: &Value) -> Value {
    let words: Vec<&str> = match case {
        Value::Array(words) => words.iter().map(|word| word.as_str().unwrap()).collect(),
        word => vec![word.as_str().unwrap()],
    };
    let address = words[0];
    let mut endpoint = json!({"addresses": [address], "conditions": {}});
    let node =
        [("1", "node-a"), ("2", "node-b"), ("3", "node-c")].into_iter().find(|(digit, _)| {
            address.starts_with(&format!("10.42.{digit}."))
                || address.starts_with(&format!("fd42:{digit}::"))
        });
    if let Some((_, node)) = node {
        endpoint["nodeName"] = json!(node);
    }
    for word in &words[1..] {
        match word.split_once(':') {
            Some(("zone", zone)) => endpoint["hints"]["forZones"] = json!([{"name": zone}]),
            Some(("node", node)) => endpoint["hints"]["forNodes"] = json!([{"name": node}]),
            Some(("also", address)) => {
                endpoint["addresses"].as_array_mut().unwrap().push(json!(address));
            }
            _ => {
                let (condition, value) = match *word {
                    "not-ready" => ("ready", false),
                    "serving" => ("serving", true),
                    "not-serving" => ("serving", false),
                    "terminating" => ("terminating", true),
                    "no-node" => {
                        endpoint.as_object_mut().unwrap().remove("nodeName");
                        continue;
                    }
                    other => panic!("{other}"),
                };
                endpoint["conditions"][condition] = json!(value);
            }
        }
    }
    endpoint
}

/// Lays `over` over a value: maps are merged, anything else is replaced.
fn merge(value: &mut Value, over: &Value) {
    match over {
        Value::Null => {}
        Value::Object(fields) => {
            if !value.is_object() {
                *value = Value::Object(Map::new());
            }
            for (name, field) in fields {
                match field {
                    Value::Object(_) => merge(&mut value[name], field),
                    field => value[name] = field.clone(),
                }
            }
        }
        other => *value = other.clone(),
    }
}

fn text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => text,
        other => other.to_string(),
    })
}
