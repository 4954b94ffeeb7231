//! The command line and the configuration file.

use super::*;

fn config(words: &[&str]) -> Result<Config, ConfigError> {
    Config::from_command_line([&["lvs-kube-proxy"], words].concat())
}

fn with_file(text: &str, words: &[&str]) -> Result<Config, ConfigError> {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("config.conf");
    fs::write(&path, text).unwrap();
    config(&[words, &["--config", path.to_str().unwrap()]].concat())
}

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

#[test]
fn defaults_are_those_of_kube_proxy() {
    let config = config(&[]).unwrap();
    assert_eq!(config.unused, [""; 0]);
    assert_eq!(config.timing.sync_period, Duration::from_secs(30));
    assert_eq!(config.timing.min_sync_period, Duration::ZERO);
    assert_eq!(config.listen.health, Some("0.0.0.0:10256".parse().unwrap()));
    assert_eq!(config.listen.metrics, Some("127.0.0.1:10249".parse().unwrap()));
    assert!(!config.ownership.has_routes && config.services.scheduler == "rr");
    assert_eq!(config.task, Task::Run);
}

#[test]
fn a_scheduler_has_a_name() {
    for name in ["wrr, rr", "a b", "a\nb", "ipvs-scheduler-x", "rr;"] {
        let error = config(&["--ipvs-scheduler", name]).unwrap_err().to_string();
        assert!(error.contains("is not the name of a scheduler"), "{error}");
    }
    assert_eq!(config(&["--ipvs-scheduler="]).unwrap().services.scheduler, "rr");
}

#[test]
fn a_network_needs_its_length() {
    for option in [
        "--nodeport-addresses",
        "--service-cluster-ip-range",
        "--ipvs-exclude-cidrs",
        "--cluster-cidr",
    ] {
        let text = config(&[option, "192.0.2.11"]).unwrap_err().to_string();
        let expected = "must be a network, which has a length: 192.0.2.11/32";
        assert!(text.contains(expected), "{text}");
        let text = config(&[option, "192.0.2.0/33"]).unwrap_err().to_string();
        assert!(text.contains("must be a network such as 192.0.2.0/24"), "{text}");
    }
}

#[test]
fn flags_come_before_the_file() {
    let file = format!(
        "{HEAD}mode: ipvs\nclusterCIDR: 10.244.0.0/16\nhostnameOverride: node-b\n\
         clientConnection: {{kubeconfig: /var/lib/kube-proxy/kubeconfig.conf}}\n\
         nodePortAddresses: [192.0.2.0/24, primary]\nmetricsBindAddress: ''\nportRange: ''\n\
         ipvs: {{scheduler: lc, syncPeriod: 1m0s, minSyncPeriod: 0s, excludeCIDRs: null, \
         strictARP: true, tcpTimeout: 0s}}\n"
    );
    let config = with_file(&file, &["--ipvs-scheduler", "sh"]).unwrap();
    assert_eq!(config.services.scheduler, "sh");
    assert_eq!(config.timing.sync_period, Duration::from_secs(60));
    assert!(config.kernel.strict_arp);
    assert_eq!(config.node.name, "node-b");
    assert_eq!(config.services.node_port_addresses.len(), 2);
    assert!(matches!(
        config.source,
        SourceConfig::ApiServer { kubeconfig: Some(_), all_nodes: false }
    ));
    assert_eq!(config.services.pod_networks, ["10.244.0.0/16".parse().unwrap()]);
    assert_eq!(config.unused, [""; 0]);
}

/// A ConfigMap as kubeadm makes it, with some fields set.
#[test]
fn what_has_no_effect_is_named() {
    let file = format!(
        "{HEAD}bindAddress: 192.0.2.11\nbindAddressHardFail: false\n\
         clientConnection: {{acceptContentTypes: '', burst: 10, contentType: '', kubeconfig: '', qps: 0}}\n\
         configSyncPeriod: 0s\nconntrack: {{maxPerCore: null, min: 5}}\ndetectLocalMode: BridgeInterface\n\
         detectLocal: {{bridgeInterface: cni0, interfaceNamePrefix: ''}}\nenableProfiling: false\n\
         iptables: {{masqueradeAll: true, masqueradeBit: null, syncPeriod: 0s}}\nipvs: {{excludeCIDRs: null, minSyncPeriod: 0s, \
         scheduler: '', schedulr: lc, strictARP: false, syncPeriod: 0s, tcpFinTimeout: 0s, tcpTimeout: 0s, \
         udpTimeout: 0s}}\n\
         logging: {{flushFrequency: 0, options: {{json: {{infoBufferSize: '0'}}}}, verbosity: 0}}\n\
         mode: ipvs\nnodePortAddresses: null\noomScoreAdj: null\nwinkernel: {{enableDSR: false}}\n"
    );
    let config = with_file(&file, &[]).unwrap();
    assert_eq!(config.node.addresses, ["192.0.2.11".parse::<IpAddr>().unwrap()]);
    assert!(config.filter.masquerade_all);
    assert_eq!(config.timing.sync_period, Duration::from_secs(30));
    assert_eq!(config.services.scheduler, "rr");
    let bridge = Pods::Link { name: "cni0".parse().unwrap(), is_prefix: false };
    assert_eq!(config.filter.pods, bridge);
    assert_eq!(
        config.unused,
        [
            "ipvs.schedulr is no field of kube-proxy's configuration, and is ignored",
            "conntrack.min has no effect in this proxy",
        ]
    );
}

#[test]
fn flags_of_kube_proxy_without_effect() {
    let words = [
        "--conntrack-min",
        "0",
        "--ipvs-scheduler=lc",
        "--profiling",
        "--feature-gates=A=true",
        "--cluster-cidr=10.244.0.0/16",
    ];
    let config = config(&words).unwrap();
    assert_eq!(config.services.scheduler, "lc");
    assert_eq!(config.services.pod_networks.len(), 1);
    let names = ["--conntrack-min", "--profiling", "--feature-gates"];
    assert_eq!(config.unused, names.map(|name| format!("{name} has no effect in this proxy")));
}

#[test]
fn what_cannot_be_is_refused() {
    let error = with_file(&format!("{HEAD}mode: iptables\n"), &[]).unwrap_err().to_string();
    assert!(error.contains("unsupported proxy mode \"iptables\""), "{error}");
    let error = with_file("kind: Pod\n", &[]).unwrap_err().to_string();
    assert!(error.contains("config.conf: it is not a KubeProxyConfiguration"), "{error}");
    let file = format!("{HEAD}ipvs: {{syncPeriod: soon}}\n");
    let error = with_file(&file, &[]).unwrap_err().to_string();
    assert!(error.contains("ipvs.syncPeriod: \"soon\" is not a duration"), "{error}");
    let file = format!("{HEAD}detectLocalMode: InterfaceNamePrefix\n");
    let error = with_file(&file, &[]).unwrap_err().to_string();
    assert_eq!(error, "--detect-local-mode=InterfaceNamePrefix: needs --pod-interface-name-prefix");
    for text in ["", "a/b", "a name", "veth*", "a\"b", "a-name-of-16-byt"] {
        assert!(text.parse::<LinkName>().is_err(), "{text:?}");
    }
    let words = ["--service-cluster-ip-range=10.0.0.0/8", "--cluster-cidr=fd42::/48,10.42.0.0/16"];
    let error = config(&words).unwrap_err().to_string();
    assert_eq!(
        error,
        "--service-cluster-ip-range: 10.0.0.0/8 and the pods' 10.42.0.0/16 (--cluster-cidr) have \
         addresses in common"
    );
    let error = config(&["--vip-mode", "routes"]).unwrap_err().to_string();
    assert_eq!(error, "--vip-mode=routes: needs --service-cluster-ip-range");
}

#[test]
fn durations() {
    let read = |text: &str| text.parse::<GoDuration>().map(|duration| duration.0);
    assert_eq!(read("0"), Ok(Duration::ZERO));
    assert_eq!(read("1h2m3s"), Ok(Duration::from_secs(3723)));
    assert_eq!(read("1.5m"), Ok(Duration::from_secs(90)));
    assert_eq!(read("250ms"), Ok(Duration::from_millis(250)));
    // No time is so far away that it cannot be added to another one.
    let longest = read("3000000000000000h").unwrap();
    assert!(std::time::Instant::now().checked_add(longest * 2).is_some());
    for text in ["", "s", "5", "-1s", "1d", "1s2", "..s", "1e9h"] {
        assert!(read(text).is_err(), "{text}");
    }
}

#[test]
fn the_flags_are_well_formed() {
    use clap::CommandFactory;
    Flags::command().debug_assert();
    assert!(config(&["--ipvs-strict-arp"]).unwrap().kernel.strict_arp);
    assert!(!config(&["--ipvs-strict-arp=false"]).unwrap().kernel.strict_arp);
    let none = config(&["--healthz-bind-address", "", "--nodeport-addresses", "primary"]);
    assert_eq!(none.unwrap().listen.health, None);
    let words = ["--cleanup=true", "--init-only=false", "--metrics-bind-address=0.0.0.0"];
    let config = config(&[&words[..], &["--bind-address=0.0.0.0"]].concat()).unwrap();
    assert!(config.task == Task::CleanUp && config.node.addresses.is_empty());
    assert_eq!(config.listen.metrics, Some("0.0.0.0:10249".parse().unwrap()));
}

/// What `kube-proxy --write-config-to` makes says nothing: its defaults are no choices.
#[test]
fn defaults_without_effect_are_not_named() {
    let file = format!(
        "{HEAD}bindAddress: 0.0.0.0\nbindAddressHardFail: false\nclientConnection: {{acceptContentTypes: '', \
         burst: 10, contentType: application/vnd.kubernetes.protobuf, kubeconfig: '', qps: 5}}\n\
         clusterCIDR: ''\nconfigSyncPeriod: 15m0s\nconntrack: {{maxPerCore: 32768, min: 131072, tcpBeLiberal: false, \
         tcpCloseWaitTimeout: 1h0m0s, tcpEstablishedTimeout: 24h0m0s, udpStreamTimeout: 0s, udpTimeout: 0s}}\n\
         detectLocal: {{bridgeInterface: '', interfaceNamePrefix: ''}}\ndetectLocalMode: ClusterCIDR\n\
         enableProfiling: false\nhealthzBindAddress: 0.0.0.0:10256\nhostnameOverride: ''\n\
         iptables: {{localhostNodePorts: true, masqueradeAll: false, masqueradeBit: 14, minSyncPeriod: 1s, syncPeriod: 30s}}\n\
         ipvs: {{excludeCIDRs: null, minSyncPeriod: 1s, scheduler: '', strictARP: false, syncPeriod: 30s, \
         tcpFinTimeout: 0s, tcpTimeout: 0s, udpTimeout: 0s}}\n\
         logging: {{flushFrequency: 5s, format: text, options: {{json: {{infoBufferSize: '0'}}, text: {{infoBufferSize: '0'}}}}, verbosity: 0}}\n\
         metricsBindAddress: 127.0.0.1:10249\nmode: ipvs\nnftables: {{masqueradeAll: false, masqueradeBit: 14, minSyncPeriod: 1s, syncPeriod: 30s}}\n\
         nodePortAddresses: null\noomScoreAdj: -999\nportRange: ''\nshowHiddenMetricsForVersion: ''\n\
         winkernel: {{enableDSR: false, forwardHealthCheckVip: false, networkName: '', rootHnsEndpointName: '', sourceVip: ''}}\n"
    );
    assert_eq!(with_file(&file, &[]).unwrap().unused, [""; 0]);
    let file = file.replace("oomScoreAdj: -999", "oomScoreAdj: -500\nclusterCIDRs: [10.0.0.0/8]");
    assert_eq!(
        with_file(&file, &[]).unwrap().unused,
        [
            "clusterCIDRs is no field of kube-proxy's configuration, and is ignored",
            "oomScoreAdj has no effect in this proxy",
        ]
    );
}

#[test]
fn a_file_of_several_documents_or_a_config_map() {
    let scheduler = |text: &str| with_file(text, &[]).map(|config| config.services.scheduler);
    let file = format!("{HEAD}mode: ipvs\nipvs: {{scheduler: lc}}\n");
    let several = format!("# The cluster's.\n---\nkind: Kubelet\n---\n{file}---\n");
    assert_eq!(scheduler(&several).unwrap(), "lc");
    let inner: String = file.lines().map(|line| format!("    {line}\n")).collect();
    let map = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: kube-proxy}}\ndata:\n  config.conf: |-\n{inner}\
         \x20 kubeconfig.conf: |-\n    apiVersion: v1\n    kind: Config\n"
    );
    assert_eq!(scheduler(&map).unwrap(), "lc");
    let error = scheduler(&format!("{file}---\n{file}")).unwrap_err().to_string();
    assert!(error.ends_with("it has 2 of KubeProxyConfiguration: one is needed"), "{error}");
    let error = scheduler(&format!("kind: Kubelet\n---\n{HEAD}ipvs: [\n")).unwrap_err().to_string();
    assert!(error.contains("document that begins on line 2"), "{error}");
    let file = format!("{HEAD}nodePortAddresses: [192.0.2.1]\n");
    let error = scheduler(&file).unwrap_err().to_string();
    assert!(
        error.contains("nodePortAddresses: \"192.0.2.1\": must be a network, which has"),
        "{error}"
    );
}

/// What kube-proxy takes, in the ways in which it takes it.
#[test]
fn flags_that_kube_proxy_takes() {
    let words = ["--cluster-cidr=", "--nodeport-addresses=", "--ipvs-scheduler=lc", "--v=1"];
    let again = ["--ipvs-scheduler=sh", "--v=4", "--log-json-split-stream", "--boot-id-file", "/x"];
    let found = config(&[&words[..], &again[..]].concat()).unwrap();
    assert_eq!((found.services.scheduler.as_str(), found.verbosity), ("sh", 4));
    assert_eq!(found.services.pod_networks, []);
    assert_eq!(found.unused.len(), 2);
    let found = config(&["--healthz-port=0", "--metrics-port", "9"]).unwrap();
    assert_eq!(found.listen.health, None);
    assert_eq!(found.listen.metrics, Some("127.0.0.1:9".parse().unwrap()));
    assert!(
        config(&["--version=raw"]).is_err_and(|error| error.to_string().contains("lvs-kube-proxy"))
    );
}

/// What is written is read again as the same.
#[test]
fn the_configuration_is_written() {
    let words = [
        "--write-config-to=/dev/null",
        "--ipvs-scheduler=sh",
        "--cluster-cidr=10.42.0.0/16,fd42::/48",
        "--nodeport-addresses=primary,192.0.2.0/24",
        "--hostname-override=node-a",
        "--bind-address=192.0.2.1",
        "--kubeconfig=/a \"b\"",
        "--ipvs-exclude-cidrs=198.18.0.0/15",
        "--ipvs-sync-period=90s",
        "--ipvs-tcp-timeout=15m",
        "--metrics-bind-address=0.0.0.0",
        "--logging-format=json",
        "--masquerade-all",
    ];
    let written = config(&words).unwrap();
    assert_eq!(written.task, Task::WriteConfig);
    let read = with_file(&written.shown(), &[]).unwrap();
    let same = |config: Config| Config {
        file: None,
        written_to: None,
        words: Vec::new(),
        task: Task::Run,
        ..config
    };
    assert_eq!(same(read), same(written));
}

/// Ranges that the cluster names come to those of the flags.
#[test]
fn ranges_of_the_cluster() {
    let learned =
        || ["10.96.0.0/12", "10.77.0.0/24", "fd96::/108"].map(|text| text.parse().unwrap());
    let found = config(&[]).unwrap().with_ranges(learned()).ownership;
    assert!(found.has_routes && found.ranges == learned());
    let words = ["--service-cluster-ip-range=10.96.0.0/16", "--cluster-cidr=10.77.0.0/16"];
    let found = config(&words).unwrap().with_ranges(learned()).ownership;
    let expected = ["10.96.0.0/16", "fd96::/108"].map(|text| text.parse::<IpNet>().unwrap());
    assert_eq!(found.ranges, expected);
    let found = config(&["--vip-mode=addresses"]).unwrap().with_ranges(learned()).ownership;
    assert!(!found.has_routes && found.ranges.len() == 3, "they are ours all the same");
    assert!(!config(&[]).unwrap().with_ranges([]).ownership.has_routes);
}

#[test]
fn a_changed_file_is_noticed() {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("config.conf");
    fs::write(&path, format!("{HEAD}ipvs: {{scheduler: lc}}\n")).unwrap();
    let config = config(&["--config", path.to_str().unwrap()]).unwrap();
    assert_eq!(config.changed().unwrap(), None);
    fs::write(&path, format!("{HEAD}# The same.\nipvs: {{scheduler: lc}}\n")).unwrap();
    assert_eq!(config.changed().unwrap(), None);
    fs::write(&path, format!("{HEAD}ipvs: {{scheduler: sh}}\n")).unwrap();
    assert_eq!(config.changed().unwrap().unwrap().services.scheduler, "sh");
    fs::write(&path, "ipvs: [").unwrap();
    assert!(config.changed().is_err());
    fs::remove_file(&path).unwrap();
    assert!(config.changed().is_err());
}
