//! Flags of kube-proxy's that have no effect here.

use std::ffi::OsString;

/// Flags of kube-proxy's that are taken and have no effect, and whether each has a value.
const UNUSED: [(&str, bool); 41] = [
    ("--add_dir_header", false),
    ("--alsologtostderr", false),
    ("--boot-id-file", true),
    ("--config-sync-period", true),
    ("--conntrack-max-per-core", true),
    ("--conntrack-min", true),
    ("--conntrack-tcp-be-liberal", false),
    ("--conntrack-tcp-timeout-close-wait", true),
    ("--conntrack-tcp-timeout-established", true),
    ("--conntrack-udp-timeout", true),
    ("--conntrack-udp-timeout-stream", true),
    ("--feature-gates", true),
    ("--iptables-localhost-nodeports", false),
    ("--iptables-masquerade-bit", true),
    ("--iptables-min-sync-period", true),
    ("--iptables-sync-period", true),
    ("--kube-api-burst", true),
    ("--kube-api-content-type", true),
    ("--kube-api-qps", true),
    ("--log-flush-frequency", true),
    ("--log-json-info-buffer-size", true),
    ("--log-json-split-stream", false),
    ("--log-text-info-buffer-size", true),
    ("--log-text-split-stream", false),
    ("--log_backtrace_at", true),
    ("--log_dir", true),
    ("--log_file", true),
    ("--log_file_max_size", true),
    ("--logtostderr", false),
    ("--machine-id-file", true),
    ("--master", true),
    ("--one_output", false),
    ("--oom-score-adj", true),
    ("--profiling", false),
    ("--proxy-port-range", true),
    ("--show-hidden-metrics-for-version", true),
    ("--skip_headers", false),
    ("--skip_log_headers", false),
    ("--stderrthreshold", true),
    ("--udp-timeout", true),
    ("--vmodule", true),
];

const LISTS: [&str; 6] = [
    "--bind-address",
    "--cluster-cidr",
    "--ipvs-exclude-cidrs",
    "--node-ip",
    "--nodeport-addresses",
    "--service-cluster-ip-range",
];

/// A command line without those flags, and what is to be said of each.
pub(super) fn take_out(words: impl IntoIterator<Item = OsString>) -> (Vec<OsString>, Vec<String>) {
    let (mut kept, mut left_out) = (Vec::new(), Vec::new());
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (&*text, None),
        };
        // kube-proxy's lists may be empty, which is their default.
        if value == Some("") && LISTS.contains(&name) {
            continue;
        }
        // It prints the version in more than one form.
        if matches!(&*text, "--version=true" | "--version=raw") {
            kept.push("--version".into());
            continue;
        }
        let Some((name, has_value)) = UNUSED.iter().find(|(unused, _)| *unused == name) else {
            kept.push(word);
            continue;
        };
        if value.is_none() && *has_value {
            words.next();
        }
        left_out.push(format!("{name} has no effect in this proxy"));
    }
    (kept, left_out)
}
