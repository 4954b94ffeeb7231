//! What the proxy says of itself, for Prometheus: kube-proxy's names where they mean the same.

use std::{
    fmt,
    sync::atomic::AtomicU64,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// The metrics, which are served in the text format of OpenMetrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    run_seconds: Histogram,
    last_success: Gauge<f64, AtomicU64>,
    last_queued: Gauge<f64, AtomicU64>,
    service_changes: Counter,
    no_local_endpoints: Family<Policy, Gauge>,
    virtual_services: Gauge,
    real_servers: Gauge,
    draining: Gauge,
    addresses: Gauge,
    changes: Family<Kind, Counter>,
    errors: Family<Step, Counter>,
    held_back: Gauge,
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
struct Step {
    step: &'static str,
}

/// How many there are, after a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) virtual_services: usize,
    pub(crate) real_servers: usize,
    pub(crate) draining: usize,
    pub(crate) addresses: usize,
    pub(crate) held_back: usize,
    pub(crate) no_local_internal: usize,
    pub(crate) no_local_external: usize,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let metrics = Self {
            run_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            last_success: Gauge::default(),
            last_queued: Gauge::default(),
            service_changes: Counter::default(),
            no_local_endpoints: Family::default(),
            virtual_services: Gauge::default(),
            real_servers: Gauge::default(),
            draining: Gauge::default(),
            addresses: Gauge::default(),
            changes: Family::default(),
            errors: Family::default(),
            held_back: Gauge::default(),
            registry: Registry::default(),
        };
        let rules = "kubeproxy_sync_proxy_rules";
        registry.register(
            format!("{rules}_duration_seconds"),
            "How long a run took",
            metrics.run_seconds.clone(),
        );
        registry.register(
            format!("{rules}_last_timestamp_seconds"),
            "When a run last succeeded",
            metrics.last_success.clone(),
        );
        registry.register(
            format!("{rules}_last_queued_timestamp_seconds"),
            "When a run was last asked for",
            metrics.last_queued.clone(),
        );
        registry.register(
            format!("{rules}_service_changes"),
            "Services of which the object or an endpoint changed",
            metrics.service_changes.clone(),
        );
        registry.register(
            format!("{rules}_no_local_endpoints_total"),
            "Services with a policy of Local, and endpoints, but none on this node",
            metrics.no_local_endpoints.clone(),
        );
        let ours = "lvs_kube_proxy";
        registry.register(
            format!("{ours}_virtual_services"),
            "Virtual services that are wanted",
            metrics.virtual_services.clone(),
        );
        registry.register(
            format!("{ours}_real_servers"),
            "Real servers that are wanted",
            metrics.real_servers.clone(),
        );
        registry.register(
            format!("{ours}_draining_real_servers"),
            "Real servers that leave and have connections",
            metrics.draining.clone(),
        );
        registry.register(
            format!("{ours}_addresses"),
            "Virtual addresses that are wanted",
            metrics.addresses.clone(),
        );
        registry.register(
            format!("{ours}_changes"),
            "Changes made in the kernel",
            metrics.changes.clone(),
        );
        registry.register(format!("{ours}_errors"), "Failures, by step", metrics.errors.clone());
        registry.register(
            format!("{ours}_held_back_changes"),
            "Deletions that wait for fresh lists to confirm them",
            metrics.held_back.clone(),
        );
        Self { registry, ..metrics }
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
        for (traffic_policy, count) in
            [("internal", counts.no_local_internal), ("external", counts.no_local_external)]
        {
            set(&self.no_local_endpoints.get_or_create(&Policy { traffic_policy }), count);
        }
    }

    pub(crate) fn changed(&self, kind: ChangeKind, count: usize) {
        self.changes.get_or_create(&Kind { kind }).inc_by(count as u64);
    }

    pub(crate) fn failed(&self, step: &'static str) {
        self.errors.get_or_create(&Step { step }).inc();
    }

    /// The text that a scrape gets.
    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
