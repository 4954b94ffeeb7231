//! How it stands with the server that a source asks: what the requests came to, and since when nothing
//! was heard. Written by the source, read by what answers over HTTP.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// Clones are of the same server.
#[derive(Clone, Debug)]
pub(crate) struct Contact {
    server: Arc<str>,
    known: Arc<Mutex<Known>>,
    requests: Family<Request, Counter>,
    seconds: Family<Verb, Histogram>,
    received: Counter,
}

/// Since when what is so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// When the server last said something, if it ever did.
    pub(crate) heard: Option<SystemTime>,
    /// Since when requests fail, if the last one did.
    pub(crate) failing: Option<SystemTime>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    code: String,
    host: Arc<str>,
    method: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Verb {
    host: Arc<str>,
    verb: String,
}

#[cfg_attr(not(feature = "kubernetes"), allow(dead_code, reason = "none is asked"))]
impl Contact {
    /// Nothing was asked yet of the server at this host and port.
    pub(crate) fn new(server: &str) -> Self {
        let buckets = || Histogram::new(exponential_buckets(0.005, 2.5, 10));
        Self {
            server: server.into(),
            known: Arc::default(),
            requests: Family::default(),
            seconds: Family::new_with_constructor(buckets as fn() -> Histogram),
            received: Counter::default(),
        }
    }

    /// A request was answered with this code, or not answered at all, after so long.
    pub(crate) fn asked(&self, method: &str, code: Option<u16>, took: Duration, now: SystemTime) {
        let code_text = code.map_or_else(|| "<error>".to_owned(), |code| code.to_string());
        let method = method.to_owned();
        let request =
            Request { code: code_text, host: self.server.clone(), method: method.clone() };
        self.requests.get_or_create(&request).inc();
        let verb = Verb { host: self.server.clone(), verb: method };
        self.seconds.get_or_create(&verb).observe(took.as_secs_f64());
        match is_answer(code) {
            true => self.with(|known| *known = Known { heard: Some(now), failing: None }),
            false => self.failed(now),
        }
    }

    /// A part of an answer with this code has come.
    pub(crate) fn received(&self, code: Option<u16>, bytes: usize, now: SystemTime) {
        self.received.inc_by(bytes as u64);
        if is_answer(code) {
            self.with(|known| known.heard = Some(now));
        }
    }

    /// A request came to nothing, or a watch broke off.
    pub(crate) fn failed(&self, now: SystemTime) {
        self.with(|known| known.failing = known.failing.or(Some(now)));
    }

    fn with<T>(&self, act: impl FnOnce(&mut Known) -> T) -> T {
        act(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether a request came to something: what the server refuses for what is asked, and not for who asks,
/// is an answer.
fn is_answer(code: Option<u16>) -> bool {
    matches!(code, Some(200..=399 | 400 | 404 | 410 | 422))
}

impl Contact {
    pub(crate) fn known(&self) -> Known {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A registry of its metrics, with what is known now.
    pub(crate) fn metrics(&self) -> Registry {
        let mut registry = Registry::default();
        registry.register(
            "rest_client_requests",
            "Requests to the API server, by status code, method and host",
            self.requests.clone(),
        );
        registry.register(
            "rest_client_request_duration_seconds",
            "How long the API server took to begin an answer",
            self.seconds.clone(),
        );
        registry.register(
            "lvs_kube_proxy_api_server_received_bytes",
            "What the API server has sent",
            self.received.clone(),
        );
        let known = self.known();
        for (name, help, time) in [
            (
                "lvs_kube_proxy_api_server_last_heard_timestamp_seconds",
                "When the API server last said something; 0 is never",
                known.heard,
            ),
            (
                "lvs_kube_proxy_api_server_failing_since_timestamp_seconds",
                "Since when requests to the API server fail; 0 while they do not",
                known.failing,
            ),
        ] {
            let seconds = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let gauge = prometheus_client::metrics::gauge::ConstGauge::new(
                seconds.unwrap_or_default().as_secs_f64(),
            );
            registry.register(name, help, gauge);
        }
        registry
    }
}
