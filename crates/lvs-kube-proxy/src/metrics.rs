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

use crate::failure::Step;

/// kube-proxy's: a quarter of a second to five minutes.
const PROGRAMMING: [f64; 21] = [
    0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
    90.0, 120.0, 180.0, 300.0,
];

/// The metrics, which are served in the text format of OpenMetrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    run_seconds: Histogram,
    programming_seconds: Histogram,
    last_success: Gauge<f64, AtomicU64>,
    last_queued: Gauge<f64, AtomicU64>,
    service_changes: Counter,
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
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Policy {
    traffic_policy: &'static str,
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
    pub(crate) no_local_internal: usize,
    pub(crate) no_local_external: usize,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let mut histogram = |name: &str, help: &str, buckets: &[f64]| {
            let histogram = Histogram::new(buckets.iter().copied());
            registry.register(name, help, histogram.clone());
            histogram
        };
        let runs: Vec<f64> = exponential_buckets(0.001, 2.0, 15).collect();
        let run_seconds =
            histogram("kubeproxy_sync_proxy_rules_duration_seconds", "How long a run took", &runs);
        let programming_seconds = histogram(
            "kubeproxy_network_programming_duration_seconds",
            "From the time when endpoints became so, as their slices say, until the kernel has it",
            &PROGRAMMING,
        );
        Self {
            run_seconds,
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
                "Services of which the object or an endpoint changed",
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
            registry,
        }
    }

    /// What was asked of the kernel since the last time.
    pub(crate) fn asked(&self, requests: BTreeMap<&'static str, u64>) {
        for (request, count) in requests {
            self.requests.get_or_create(&Asked { request }).inc_by(count);
        }
    }

    /// How long it took until a change of endpoints was in the kernel.
    pub(crate) fn programmed(&self, duration: Duration) {
        self.programming_seconds.observe(duration.as_secs_f64());
    }

    pub(crate) fn queued(&self, services: usize) {
        self.last_queued.set(now());
        self.service_changes.inc_by(services as u64);
    }

    pub(crate) fn ran(&self, duration: Duration, counts: &Counts) {
        self.run_seconds.observe(duration.as_secs_f64());
        self.last_success.set(now());
        let set = |gauge: &Gauge, count: usize| {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        set(&self.virtual_services, counts.virtual_services);
        set(&self.real_servers, counts.real_servers);
        set(&self.draining, counts.draining);
        set(&self.addresses, counts.addresses);
        set(&self.held_back, counts.held_back);
        set(&self.failing, counts.failing);
        for (traffic_policy, count) in
            [("internal", counts.no_local_internal), ("external", counts.no_local_external)]
        {
            set(&self.no_local_endpoints.get_or_create(&Policy { traffic_policy }), count);
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
