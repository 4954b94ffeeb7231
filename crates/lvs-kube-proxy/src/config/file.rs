//! kube-proxy's configuration file.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::Deserialize;

use super::{
    Flags,
    unused::{Rest, notices},
};
use crate::{manifest::documents, settings::network};

const VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const KIND: &str = "KubeProxyConfiguration";

/// A KubeProxyConfiguration. What is not used is kept by name, to be said.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ConfigFile {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    mode: Option<String>,
    bind_address: Option<String>,
    bind_address_hard_fail: Option<bool>,
    client_connection: ClientConnection,
    hostname_override: Option<String>,
    ipvs: Ipvs,
    iptables: Iptables,
    #[serde(deserialize_with = "crate::object::or_default")]
    node_port_addresses: Vec<String>,
    healthz_bind_address: Option<String>,
    metrics_bind_address: Option<String>,
    #[serde(rename = "clusterCIDR")]
    cluster_cidr: Option<String>,
    detect_local_mode: Option<String>,
    detect_local: DetectLocalLinks,
    logging: Logging,
    #[serde(flatten)]
    rest: Rest,
}

/// What a document is.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Head {
    api_version: String,
    kind: String,
    /// A ConfigMap's.
    #[serde(deserialize_with = "crate::object::or_default")]
    data: BTreeMap<String, String>,
}

impl Head {
    fn is_configuration(&self) -> bool {
        (self.api_version.as_str(), self.kind.as_str()) == (VERSION, KIND)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Logging {
    format: Option<String>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ClientConnection {
    kubeconfig: Option<String>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DetectLocalLinks {
    bridge_interface: Option<String>,
    interface_name_prefix: Option<String>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Ipvs {
    scheduler: Option<String>,
    sync_period: Option<String>,
    min_sync_period: Option<String>,
    #[serde(rename = "excludeCIDRs", deserialize_with = "crate::object::or_default")]
    exclude_cidrs: Vec<String>,
    #[serde(rename = "strictARP")]
    strict_arp: Option<bool>,
    tcp_timeout: Option<String>,
    tcp_fin_timeout: Option<String>,
    udp_timeout: Option<String>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Iptables {
    masquerade_all: Option<bool>,
    #[serde(flatten)]
    rest: Rest,
}

impl ConfigFile {
    /// Reads the one configuration in a file: in one of its documents, or in a ConfigMap there.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut found = Vec::new();
        for (line, document) in documents(text) {
            let error = |error: &dyn fmt::Display| match line {
                1 => error.to_string(),
                _ => format!("document that begins on line {line}: {error}"),
            };
            let head: Option<Head> =
                serde_saphyr::from_str(document).map_err(|reason| error(&reason))?;
            let head = head.unwrap_or_default();
            if head.is_configuration() {
                found.push(serde_saphyr::from_str(document).map_err(|reason| error(&reason))?);
            }
            if head.kind == "ConfigMap" {
                for (name, text) in head.data {
                    let inner: Option<Head> = serde_saphyr::from_str(&text).unwrap_or_default();
                    if inner.is_some_and(|inner| inner.is_configuration()) {
                        let file = serde_saphyr::from_str(&text);
                        found
                            .push(file.map_err(|reason| error(&format!("data.{name}: {reason}")))?);
                    }
                }
            }
        }
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(format!("it is not a {KIND} of {VERSION}")),
            count => Err(format!("it has {count} of {KIND}: one is needed")),
        }
    }

    /// Fills in what no flag has set. Returns what is set and has no effect here.
    pub(super) fn fill_unset(self, flags: &mut Flags) -> Result<Vec<String>, String> {
        fill(&mut flags.proxy_mode, "mode", self.mode)?;
        let kubeconfig = self.client_connection.kubeconfig;
        if flags.manifests.is_none() {
            fill(&mut flags.kubeconfig, "clientConnection.kubeconfig", kubeconfig)?;
        }
        fill(&mut flags.hostname_override, "hostnameOverride", self.hostname_override)?;
        fill(&mut flags.ipvs_scheduler, "ipvs.scheduler", self.ipvs.scheduler)?;
        fill(&mut flags.ipvs_sync_period, "ipvs.syncPeriod", self.ipvs.sync_period)?;
        fill(&mut flags.ipvs_min_sync_period, "ipvs.minSyncPeriod", self.ipvs.min_sync_period)?;
        fill(&mut flags.ipvs_tcp_timeout, "ipvs.tcpTimeout", self.ipvs.tcp_timeout)?;
        fill(&mut flags.ipvs_tcpfin_timeout, "ipvs.tcpFinTimeout", self.ipvs.tcp_fin_timeout)?;
        fill(&mut flags.ipvs_udp_timeout, "ipvs.udpTimeout", self.ipvs.udp_timeout)?;
        fill(&mut flags.healthz_bind_address, "healthzBindAddress", self.healthz_bind_address)?;
        fill(&mut flags.metrics_bind_address, "metricsBindAddress", self.metrics_bind_address)?;
        flags.masquerade_all = flags.masquerade_all.or(self.iptables.masquerade_all);
        flags.ipvs_strict_arp = flags.ipvs_strict_arp.or(self.ipvs.strict_arp);
        let excluded = &self.ipvs.exclude_cidrs;
        fill_list(&mut flags.ipvs_exclude_cidrs, "ipvs.excludeCIDRs", excluded, network)?;
        let ports = &self.node_port_addresses;
        fill_list(&mut flags.nodeport_addresses, "nodePortAddresses", ports, str::parse)?;

        let cidrs: Vec<_> = self.cluster_cidr.iter().flat_map(|text| text.split(',')).collect();
        let cidrs = cidrs.into_iter().filter(|text| !text.is_empty()).map(str::to_owned);
        fill_list(&mut flags.cluster_cidr, "clusterCIDR", &cidrs.collect::<Vec<_>>(), network)?;
        flags.bind_address_hard_fail = flags.bind_address_hard_fail.or(self.bind_address_hard_fail);
        let bind = self.bind_address.filter(|text| !matches!(text.as_str(), "" | "0.0.0.0" | "::"));
        fill_list(&mut flags.node_ip, "bindAddress", bind.as_slice(), str::parse)?;

        fill(&mut flags.detect_local_mode, "detectLocalMode", self.detect_local_mode)?;
        let links = self.detect_local;
        let (bridge, prefix) = (links.bridge_interface, links.interface_name_prefix);
        fill(&mut flags.pod_bridge_interface, "detectLocal.bridgeInterface", bridge)?;
        fill(&mut flags.pod_interface_name_prefix, "detectLocal.interfaceNamePrefix", prefix)?;

        fill(&mut flags.logging_format, "logging.format", self.logging.format)?;
        Ok(notices([
            ("", self.rest),
            ("clientConnection.", self.client_connection.rest),
            ("ipvs.", self.ipvs.rest),
            ("iptables.", self.iptables.rest),
            ("detectLocal.", links.rest),
            ("logging.", self.logging.rest),
        ]))
    }
}

fn fill<T: FromStr>(option: &mut Option<T>, field: &str, text: Option<String>) -> Result<(), String>
where
    T::Err: fmt::Display,
{
    let text = text.filter(|text| !text.is_empty());
    if option.is_none()
        && let Some(text) = text
    {
        *option = Some(text.parse().map_err(|error| format!("{field}: {error}"))?);
    }
    Ok(())
}

fn fill_list<T, E: fmt::Display>(
    flags: &mut Vec<T>,
    field: &str,
    texts: &[String],
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<(), String> {
    if flags.is_empty() {
        for text in texts {
            let entry = parse(text).map_err(|error| format!("{field}: {text:?}: {error}"))?;
            flags.push(entry);
        }
    }
    Ok(())
}
