//! Metrics as Prometheus reads them.

use std::fmt;

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::status::{Status, Traffic};

type Labels = Vec<(&'static str, String)>;

/// The text that a scrape gets.
pub(super) fn text(status: &Status) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    let mut all = Collect(&mut registry);
    all.gauge(
        "lvs_director_master",
        "Whether this director is the master",
        [(Vec::new(), u64::from(status.role == "master"))],
    );
    all.gauge(
        "lvs_director_file_has_mistakes",
        "Whether the file as it is now is not in effect",
        [(Vec::new(), u64::from(status.mistakes.is_some()))],
    );
    let has_failure = status.failure.is_some() || !status.host_failures.is_empty();
    all.gauge(
        "lvs_director_failing",
        "Whether the kernel could not be brought to what it should be",
        [(Vec::new(), u64::from(has_failure))],
    );
    all.gauge("lvs_director_checks", "Checks that are made", [(Vec::new(), status.checks as u64)]);
    let services = || {
        status.services.iter().map(|service| {
            let labels = vec![("service", service.name.clone()), ("address", service.key.clone())];
            (labels, service)
        })
    };
    let members = || {
        services().flat_map(|(labels, service)| {
            service.members.iter().map(move |member| {
                let mut labels: Labels = labels.clone();
                labels.push(("member", member.address.clone()));
                (labels, member)
            })
        })
    };
    all.gauge(
        "lvs_director_service_sorry",
        "Whether the sorry server has taken over",
        services().map(|(labels, it)| (labels, it.sorry.is_some().into())),
    );
    let up = |health: &str| u64::from(health == "up");
    all.gauge(
        "lvs_director_member_up",
        "Whether a member is healthy",
        members().map(|(labels, it)| (labels, up(&it.health))),
    );
    all.gauge(
        "lvs_director_member_enabled",
        "Whether a member is neither draining nor in maintenance",
        members().map(|(labels, it)| (labels, u64::from(it.mode == "enabled"))),
    );
    all.gauge(
        "lvs_director_member_weight",
        "The weight of a member in the kernel",
        members().filter_map(|(labels, it)| Some((labels, it.weight?.into()))),
    );
    all.gauge(
        "lvs_director_member_active_connections",
        "Connections in use",
        members().map(|(labels, it)| (labels, it.active.into())),
    );
    all.gauge(
        "lvs_director_member_inactive_connections",
        "Connections that are closing or, for UDP, all",
        members().map(|(labels, it)| (labels, it.inactive.into())),
    );
    for (name, help, of) in COUNTERS {
        all.counter(
            &format!("lvs_director_service_{name}"),
            help,
            services().map(|(labels, it)| (labels, of(&it.traffic))),
        );
        all.counter(
            &format!("lvs_director_member_{name}"),
            help,
            members().map(|(labels, it)| (labels, of(&it.traffic))),
        );
    }
    for (name, help, is_counter, value) in &status.metrics {
        match is_counter {
            // The encoder adds its ending again.
            true => all.counter(name.trim_end_matches("_total"), help, [(Vec::new(), *value)]),
            false => all.gauge(name, help, [(Vec::new(), *value)]),
        }
    }
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[allow(clippy::type_complexity, reason = "it is said once")]
const COUNTERS: [(&str, &str, fn(&Traffic) -> u64); 5] = [
    ("connections", "Connections so far", |it| it.connections),
    ("incoming_packets", "Packets from clients so far", |it| it.incoming_packets),
    ("outgoing_packets", "Packets to clients so far, where they come back through here", |it| {
        it.outgoing_packets
    }),
    ("incoming_bytes", "Bytes from clients so far", |it| it.incoming_bytes),
    ("outgoing_bytes", "Bytes to clients so far, where they come back through here", |it| {
        it.outgoing_bytes
    }),
];

struct Collect<'a>(&'a mut Registry);

impl Collect<'_> {
    fn gauge(&mut self, name: &str, help: &str, rows: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Gauge>::default();
        for (labels, value) in rows {
            family.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        self.0.register(name, help, family);
    }

    fn counter(&mut self, name: &str, help: &str, rows: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in rows {
            family.get_or_create(&labels).inc_by(value);
        }
        self.0.register(name, help, family);
    }
}
