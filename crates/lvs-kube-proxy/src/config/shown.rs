//! The configuration as text: kube-proxy's KubeProxyConfiguration in JSON, which is YAML.

use std::fmt::Display;

use super::{Config, Pods, SourceConfig};
use crate::text::json;

impl Config {
    /// What is configured, with all defaults, as kube-proxy's configuration file has it. What only flags
    /// of this program say is not in it.
    pub(crate) fn shown(&self) -> String {
        let text = |value: &dyn Display| json(&value.to_string());
        let list = |values: Vec<String>| {
            format!("[{}]", values.iter().map(|value| json(value)).collect::<Vec<_>>().join(", "))
        };
        let shown = |values: &[ipnet::IpNet]| values.iter().map(ToString::to_string).collect();
        let duration = |duration: std::time::Duration| format!("{}s", duration.as_secs_f64());
        let seconds = |seconds: u32| json(&format!("{seconds}s"));
        let address = |address: Option<std::net::SocketAddr>| {
            json(&address.map(|address| address.to_string()).unwrap_or_default())
        };
        let kubeconfig = match &self.source {
            SourceConfig::ApiServer { kubeconfig: Some(path), .. } => path.display().to_string(),
            _ => String::new(),
        };
        let (mode, bridge, prefix) = match &self.filter.pods {
            Pods::Networks(_) => ("ClusterCIDR", String::new(), String::new()),
            Pods::OfNode => ("NodeCIDR", String::new(), String::new()),
            Pods::Link { name, is_prefix: false } => {
                ("BridgeInterface", name.to_string(), String::new())
            }
            Pods::Link { name, is_prefix: true } => {
                ("InterfaceNamePrefix", String::new(), name.to_string())
            }
        };
        let ports: Vec<String> =
            self.services.node_port_addresses.iter().map(ToString::to_string).collect();
        let networks: Vec<String> = shown(&self.services.pod_networks);
        let bind = self.node.addresses.first().map(ToString::to_string).unwrap_or_default();
        let timeouts = &self.kernel.timeouts;
        let fields = [
            ("apiVersion", json("kubeproxy.config.k8s.io/v1alpha1")),
            ("kind", json("KubeProxyConfiguration")),
            ("mode", json("ipvs")),
            ("hostnameOverride", text(&self.node.name)),
            ("bindAddress", json(&bind)),
            ("bindAddressHardFail", self.listen.hard_fail.to_string()),
            ("healthzBindAddress", address(self.listen.health)),
            ("metricsBindAddress", address(self.listen.metrics)),
            ("clientConnection", format!("{{\"kubeconfig\": {}}}", json(&kubeconfig))),
            ("clusterCIDR", json(&networks.join(","))),
            ("detectLocalMode", json(mode)),
            (
                "detectLocal",
                format!(
                    "{{\"bridgeInterface\": {}, \"interfaceNamePrefix\": {}}}",
                    json(&bridge),
                    json(&prefix)
                ),
            ),
            ("nodePortAddresses", list(ports)),
            (
                "logging",
                format!("{{\"format\": \"{}\"}}", if self.logs_json { "json" } else { "text" }),
            ),
            ("iptables", format!("{{\"masqueradeAll\": {}}}", self.filter.masquerade_all)),
            (
                "ipvs",
                format!(
                    "{{\"scheduler\": {}, \"syncPeriod\": {}, \"minSyncPeriod\": {}, \"excludeCIDRs\": {}, \
                     \"strictARP\": {}, \"tcpTimeout\": {}, \"tcpFinTimeout\": {}, \"udpTimeout\": {}}}",
                    json(&self.services.scheduler),
                    json(&duration(self.timing.sync_period)),
                    json(&duration(self.timing.min_sync_period)),
                    list(shown(&self.ownership.excluded)),
                    self.kernel.strict_arp,
                    seconds(timeouts.tcp),
                    seconds(timeouts.tcp_fin),
                    seconds(timeouts.udp),
                ),
            ),
        ];
        let fields = fields.map(|(name, value)| format!("  \"{name}\": {value}"));
        format!("{{\n{}\n}}\n", fields.join(",\n"))
    }
}
