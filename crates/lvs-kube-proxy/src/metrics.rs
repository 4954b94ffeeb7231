//! What the proxy says of itself, for Prometheus: kube-proxy's names where they mean the same.

use std::{
    collections::BTreeMap,
    fmt,
    sync::atomic::AtomicU64,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    encoding::{
        EncodeLabelSet, EncodeLabelValue,
        text::{encode_eof, encode_registry},
    },
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Metric, Registry},
};

use crate::{failure::Step, health::Condition, process::Process};

/// kube-proxy's: a quarter of a second to five minutes.
const PROGRAMMING: [f64; 21] = [
    0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
    90.0, 120.0, 180.0, 300.0,
];

/// The metrics, which are served in the text format of OpenMetrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    run_seconds: Seconds,
    full_run_seconds: Seconds,
    partial_run_seconds: Seconds,
    programming_seconds: Seconds,
    last_success: Family<OfFamily, Gauge<f64, AtomicU64>>,
    last_queued: Family<OfFamily, Gauge<f64, AtomicU64>>,
    service_changes: Counter,
    services_pending: Gauge,
    endpoint_changes: Counter,
    endpoints_pending: Gauge,
    no_local_endpoints: Family<Policy, Gauge>,
    virtual_services: Gauge,
    real_servers: Gauge,
    draining: Gauge,
    addresses: Gauge,
    changes: Family<Kind, Counter>,
    requests: Family<Asked, Counter>,
    errors: Family<AtStep, Counter>,
    held_back: Gauge,
    failing: Gauge,
    healthz: Family<Code, Counter>,
    livez: Family<Code, Counter>,
    limited: Gauge,
    conditions: Family<Named, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Named {
    condition: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: u16,
}

/// A histogram for each family.
type Seconds = Family<OfFamily, Histogram, fn() -> Histogram>;

/// kube-proxy works on each family by itself, and its metrics are of each. A round here is of both, so that
/// what is said of rounds is the same for both.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFamily {
    ip_family: &'static str,
}

const FAMILIES: [OfFamily; 2] = [OfFamily { ip_family: "IPv4" }, OfFamily { ip_family: "IPv6" }];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Policy {
    ip_family: &'static str,
    traffic_policy: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
    goos: &'static str,
    arch: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: ChangeKind,
}

/// What was changed in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum ChangeKind {
    Table,
    Address,
    Flow,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    request: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AtStep {
    step: Step,
}

/// How many there are, after a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) virtual_services: usize,
    pub(crate) real_servers: usize,
    pub(crate) draining: usize,
    pub(crate) addresses: usize,
    pub(crate) held_back: usize,
    pub(crate) failing: usize,
    pub(crate) limited: usize,
    /// Services with a policy of `Local` that are of no use here.
    pub(crate) ipv4: NoLocal,
    pub(crate) ipv6: NoLocal,
}

/// Services with endpoints, but none here, of one family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NoLocal {
    pub(crate) internal: usize,
    pub(crate) external: usize,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let mut histogram = |name: &str, help: &str, make: fn() -> Histogram| {
            let histogram = Seconds::new_with_constructor(make);
            registry.register(name, help, histogram.clone());
            histogram
        };
        let runs = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let run_seconds =
            histogram("kubeproxy_sync_proxy_rules_duration_seconds", "How long a run took", runs);
        let full_run_seconds = histogram(
            "kubeproxy_sync_full_proxy_rules_duration_seconds",
            "How long a run took that compared everything",
            runs,
        );
        let partial_run_seconds = histogram(
            "kubeproxy_sync_partial_proxy_rules_duration_seconds",
            "How long a run took of what had changed",
            runs,
        );
        let programming_seconds = histogram(
            "kubeproxy_network_programming_duration_seconds",
            "From the time when endpoints became so, as their slices say, until the kernel has it",
            || Histogram::new(PROGRAMMING),
        );
        let build: Family<Build, Gauge> = registered(
            &mut registry,
            "lvs_kube_proxy_build_info",
            "Which program this is; the value is 1",
        );
        let version = env!("CARGO_PKG_VERSION");
        let (goos, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        build.get_or_create(&Build { version, goos, arch }).set(1);
        registry.register_collector(Box::new(Process));
        let metrics = Self {
            run_seconds,
            full_run_seconds,
            partial_run_seconds,
            programming_seconds,
            last_success: registered(
                &mut registry,
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "When a run last succeeded",
            ),
            last_queued: registered(
                &mut registry,
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
                "When a run was last asked for",
            ),
            service_changes: registered(
                &mut registry,
                "kubeproxy_sync_proxy_rules_service_changes",
                "Services that the source named as new, changed or gone",
            ),
            services_pending: registered(
                &mut registry,
                "kubeproxy_sync_proxy_rules_service_changes_pending",
                "Such services since the last run",
            ),
            endpoint_changes: registered(
                &mut registry,
                "kubeproxy_sync_proxy_rules_endpoint_changes",
                "EndpointSlices that the source named as new, changed or gone",
            ),
            endpoints_pending: registered(
                &mut registry,
                "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
                "Such EndpointSlices since the last run",
            ),
            no_local_endpoints: registered(
                &mut registry,
                "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
                "Services with a policy of Local, and endpoints, but none on this node",
            ),
            virtual_services: registered(
                &mut registry,
                "lvs_kube_proxy_virtual_services",
                "Virtual services that are wanted",
            ),
            real_servers: registered(
                &mut registry,
                "lvs_kube_proxy_real_servers",
                "Real servers that are wanted",
            ),
            draining: registered(
                &mut registry,
                "lvs_kube_proxy_draining_real_servers",
                "Real servers that leave and have connections",
            ),
            addresses: registered(
                &mut registry,
                "lvs_kube_proxy_addresses",
                "Virtual addresses that are wanted",
            ),
            changes: registered(
                &mut registry,
                "lvs_kube_proxy_changes",
                "Changes made in the kernel",
            ),
            requests: registered(
                &mut registry,
                "lvs_kube_proxy_requests",
                "What the kernel was asked for, and processes that were started",
            ),
            errors: registered(&mut registry, "lvs_kube_proxy_errors", "Failures, by step"),
            held_back: registered(
                &mut registry,
                "lvs_kube_proxy_held_back_changes",
                "Services and real servers whose deletion waits for fresh lists to confirm it",
            ),
            failing: registered(
                &mut registry,
                "lvs_kube_proxy_failing_changes",
                "Changes that the kernel refuses, and that are tried again",
            ),
            healthz: registered(
                &mut registry,
                "kubeproxy_proxy_healthz",
                "Answers to /healthz, by status code",
            ),
            livez: registered(
                &mut registry,
                "kubeproxy_proxy_livez",
                "Answers to /livez, by status code",
            ),
            limited: registered(
                &mut registry,
                "lvs_kube_proxy_limited_services",
                "Services that ask for more than one may have, so that a part is left out",
            ),
            conditions: registered(
                &mut registry,
                "lvs_kube_proxy_condition",
                "Whether something is the matter; the body of /healthz says what",
            ),
            registry,
        };
        Condition::ALL.into_iter().for_each(|condition| metrics.set_condition(condition, false));
        metrics
    }

    pub(crate) fn set_condition(&self, condition: Condition, is_so: bool) {
        let name = Named { condition: condition.name() };
        self.conditions.get_or_create(&name).set(i64::from(is_so));
    }

    /// What was asked of the kernel since the last time.
    pub(crate) fn asked(&self, requests: BTreeMap<&'static str, u64>) {
        for (request, count) in requests {
            self.requests.get_or_create(&Asked { request }).inc_by(count);
        }
    }

    /// How long it took until a change of endpoints was in the kernel.
    pub(crate) fn programmed(&self, duration: Duration) {
        for family in &FAMILIES {
            self.programming_seconds.get_or_create(family).observe(duration.as_secs_f64());
        }
    }

    /// What a source has said: so many Services and EndpointSlices.
    pub(crate) fn heard(&self, services: usize, slices: usize) {
        self.service_changes.inc_by(services as u64);
        self.services_pending.inc_by(i64::try_from(services).unwrap_or(i64::MAX));
        self.endpoint_changes.inc_by(slices as u64);
        self.endpoints_pending.inc_by(i64::try_from(slices).unwrap_or(i64::MAX));
    }

    /// A run was asked for.
    pub(crate) fn queued(&self) {
        for family in &FAMILIES {
            self.last_queued.get_or_create(family).set(now());
        }
    }

    pub(crate) fn ran(&self, is_whole: bool, duration: Duration, counts: &Counts) {
        let of_its_kind = if is_whole { &self.full_run_seconds } else { &self.partial_run_seconds };
        for family in &FAMILIES {
            for seconds in [&self.run_seconds, of_its_kind] {
                seconds.get_or_create(family).observe(duration.as_secs_f64());
            }
            self.last_success.get_or_create(family).set(now());
        }
        self.services_pending.set(0);
        self.endpoints_pending.set(0);
        let set = |gauge: &Gauge, count: usize| {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        set(&self.virtual_services, counts.virtual_services);
        set(&self.real_servers, counts.real_servers);
        set(&self.draining, counts.draining);
        set(&self.addresses, counts.addresses);
        set(&self.held_back, counts.held_back);
        set(&self.failing, counts.failing);
        set(&self.limited, counts.limited);
        for (ip_family, found) in [("IPv4", counts.ipv4), ("IPv6", counts.ipv6)] {
            for (traffic_policy, count) in
                [("internal", found.internal), ("external", found.external)]
            {
                let policy = Policy { ip_family, traffic_policy };
                set(&self.no_local_endpoints.get_or_create(&policy), count);
            }
        }
    }

    pub(crate) fn changed(&self, kind: ChangeKind, count: usize) {
        self.changes.get_or_create(&Kind { kind }).inc_by(count as u64);
    }

    pub(crate) fn failed(&self, step: Step) {
        self.errors.get_or_create(&AtStep { step }).inc();
    }

    pub(crate) fn asked_for_health(&self, code: u16) {
        self.healthz.get_or_create(&Code { code }).inc();
    }

    pub(crate) fn asked_for_life(&self, code: u16) {
        self.livez.get_or_create(&Code { code }).inc();
    }

    /// The text that a scrape gets: with what is in another registry.
    pub(crate) fn text(&self, more: Option<&Registry>) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        if let Some(more) = more {
            encode_registry(&mut text, more)?;
        }
        encode_eof(&mut text)?;
        Ok(text)
    }
}

fn registered<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::*;
    use crate::source::Contact;

    /// What a proxy serves that has done everything once.
    fn text() -> String {
        let metrics = Metrics::new();
        metrics.heard(2, 3);
        metrics.queued();
        for is_whole in [true, false] {
            metrics.ran(is_whole, Duration::from_millis(3), &Counts::default());
        }
        metrics.programmed(Duration::from_secs(1));
        metrics.changed(ChangeKind::Table, 1);
        metrics.failed(Step::Table);
        metrics.asked([("snapshots", 1)].into());
        metrics.asked_for_health(200);
        metrics.asked_for_life(200);
        let contact = Contact::new("api:6443");
        contact.asked("GET", Some(200), Duration::ZERO, SystemTime::now());
        metrics.text(Some(&contact.metrics())).unwrap()
    }

    /// Names as they stand in queries.
    fn names(text: &str) -> BTreeSet<&str> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.split([' ', '{']).next()).collect()
    }

    #[test]
    fn names_are_those_of_kube_proxy() {
        let text = text();
        let names = names(&text);
        for (name, labels) in [
            ("kubeproxy_sync_proxy_rules_duration_seconds_count", "{ip_family=\"IPv6\"}"),
            ("kubeproxy_sync_full_proxy_rules_duration_seconds_count", "{ip_family=\"IPv4\"}"),
            ("kubeproxy_sync_partial_proxy_rules_duration_seconds_count", "{ip_family=\"IPv4\"}"),
            ("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "{ip_family=\"IPv4\"}"),
            ("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "{ip_family=\"IPv4\"}"),
            ("kubeproxy_network_programming_duration_seconds_count", "{ip_family=\"IPv4\"}"),
            ("kubeproxy_sync_proxy_rules_endpoint_changes_total", " 3"),
            ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", " 0"),
            ("kubeproxy_sync_proxy_rules_service_changes_total", " 2"),
            ("kubeproxy_sync_proxy_rules_service_changes_pending", " 0"),
            (
                "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
                "{ip_family=\"IPv4\",traffic_policy=\"internal\"}",
            ),
            ("kubeproxy_proxy_healthz_total", "{code=\"200\"} 1"),
            ("kubeproxy_proxy_livez_total", "{code=\"200\"} 1"),
            ("rest_client_requests_total", "{code=\"200\",host=\"api:6443\",method=\"GET\"} 1"),
            ("rest_client_request_duration_seconds_count", "{host=\"api:6443\",verb=\"GET\"} 1"),
            ("process_cpu_seconds_total", " "),
            ("process_resident_memory_bytes", " "),
            ("process_start_time_seconds", " "),
            ("process_open_fds", " "),
            ("process_max_fds", " "),
            ("lvs_kube_proxy_build_info", "{"),
        ] {
            assert!(names.contains(name), "{name} is not in\n{text}");
            assert!(text.contains(&format!("{name}{labels}")), "{name}{labels} is not in\n{text}");
        }
    }

    /// Every name in the dashboard and in the alert rules is one that the proxy serves.
    #[test]
    fn what_deploy_asks_for_is_served() {
        let text = text();
        let names = names(&text);
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
        for (file, least) in [("dashboard.json", 16), ("alerts.yaml", 8)] {
            let content = std::fs::read_to_string(deploy.join(file)).unwrap();
            let words = content.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let ours = ["kubeproxy_", "lvs_kube_proxy_", "rest_client_", "process_"];
            let asked: BTreeSet<&str> =
                words.filter(|word| ours.iter().any(|prefix| word.starts_with(prefix))).collect();
            assert!(asked.len() >= least, "{file}: {asked:?}");
            let unknown: Vec<_> = asked.difference(&names).collect();
            assert!(unknown.is_empty(), "{file}: {unknown:?} are not in\n{text}");
        }
        let dashboard = std::fs::read_to_string(deploy.join("dashboard.json")).unwrap();
        let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
        assert!(dashboard["panels"].as_array().is_some_and(|panels| panels.len() == 12));
    }
}
