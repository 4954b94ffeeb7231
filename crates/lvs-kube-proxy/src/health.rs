//! What the proxy answers over HTTP: its health, that of the services, and its metrics.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    task::{AbortHandle, JoinHandle},
    time::timeout,
};

use crate::{
    config::Config, metrics::Metrics, object::ObjectName, source::Contact, text::json,
    translate::HealthCheck,
};

/// The longest that one connection is kept.
const CONNECTION: Duration = Duration::from_secs(60);
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(3);
/// So many connections there are at once, of all listeners: of more, the oldest one ends. Whoever holds
/// connections open takes neither the descriptors of the proxy nor the answers of others, which take no
/// time.
const CONNECTIONS: usize = 64;
/// How long the main loop may take for one step, besides the patience with changes: writing rules may take
/// a minute.
const STEP: Duration = Duration::from_secs(60);

/// What is known of the proxy's health. One value for all listeners.
#[derive(Debug)]
pub(crate) struct Health {
    pub(crate) metrics: Metrics,
    begin: Instant,
    /// A change that waits longer is a sign of illness: twice the sync period.
    patience: Duration,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    last_success: Option<SystemTime>,
    /// Since when a change waits to be written.
    waiting: Option<SystemTime>,
    /// When the main loop last went on, once it runs.
    beat: Option<Instant>,
    node_is_eligible: bool,
    checks: BTreeMap<u16, (ObjectName, HealthCheck)>,
    /// At which addresses of the node these are answered, if not at all.
    check_addresses: Option<BTreeSet<IpAddr>>,
    /// How it stands with the server that is asked, if one is.
    contact: Option<Contact>,
    /// What is configured, in JSON, and by which command line.
    configuration: String,
    command_line: String,
    /// What is the matter.
    conditions: BTreeMap<Condition, String>,
}

/// What can be the matter with a proxy that goes on all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Condition {
    /// Large deletions wait to be confirmed.
    Holding,
    /// nftables cannot be used.
    RulesUnusable,
    /// The proxy's Node was deleted.
    NodeGone,
    /// What another proxy has left, or one that runs.
    OtherProxy,
}

impl Condition {
    pub(crate) const ALL: [Self; 4] =
        [Self::Holding, Self::RulesUnusable, Self::NodeGone, Self::OtherProxy];

    /// Its name in metrics and in the body of /healthz.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Holding => "holding",
            Self::RulesUnusable => "rulesUnusable",
            Self::NodeGone => "nodeGone",
            Self::OtherProxy => "otherProxy",
        }
    }
}

impl Health {
    pub(crate) fn new(sync_period: Duration) -> Self {
        Self {
            metrics: Metrics::new(),
            begin: Instant::now(),
            patience: sync_period.saturating_mul(2),
            known: Mutex::new(Known {
                last_success: None,
                // Nothing is wanted before the lists have come.
                waiting: None,
                beat: None,
                node_is_eligible: true,
                checks: BTreeMap::new(),
                check_addresses: None,
                contact: None,
                configuration: "{}".to_owned(),
                command_line: String::new(),
                conditions: BTreeMap::new(),
            }),
        }
    }

    /// A change waits to be written.
    pub(crate) fn queued(&self) {
        self.with(|known| known.waiting = known.waiting.or_else(|| Some(SystemTime::now())));
    }

    /// The main loop goes on.
    pub(crate) fn beat(&self, now: Instant) {
        self.with(|known| known.beat = Some(now));
    }

    /// How often the main loop has to go on at least.
    pub(crate) fn rhythm(&self) -> Duration {
        (self.patience / 4).max(Duration::from_millis(100))
    }

    /// Everything is written.
    pub(crate) fn ran(&self) {
        self.with(|known| {
            known.last_success = Some(SystemTime::now());
            known.waiting = None;
        });
    }

    /// Says from now on how it stands with a server, and what is configured.
    pub(crate) fn follow(&self, contact: Option<Contact>, config: &Config) {
        self.with(|known| {
            known.contact = contact;
            known.configuration = config.shown();
            known.command_line = config.command_line();
        });
    }

    pub(crate) fn set_node_is_eligible(&self, eligible: bool) {
        self.with(|known| known.node_is_eligible = eligible);
    }

    pub(crate) fn set_checks(&self, checks: &BTreeMap<u16, (ObjectName, HealthCheck)>) {
        self.with(|known| known.checks.clone_from(checks));
    }

    /// Says what is the matter, or that nothing is.
    pub(crate) fn set_condition(&self, condition: Condition, text: Option<String>) {
        self.metrics.set_condition(condition, text.is_some());
        self.with(|known| match text {
            Some(text) => known.conditions.insert(condition, text),
            None => known.conditions.remove(&condition),
        });
    }

    /// What is the matter: the fields of a JSON object.
    pub(crate) fn conditions(&self) -> String {
        let conditions = self.with(|known| known.conditions.clone());
        let fields = conditions
            .iter()
            .map(|(condition, text)| format!("{}: {}", json(condition.name()), json(text)));
        fields.collect::<Vec<_>>().join(", ")
    }

    /// Answers the health checks of services at these addresses only, or at all.
    pub(crate) fn set_check_addresses(&self, addresses: Option<BTreeSet<IpAddr>>) {
        self.with(|known| known.check_addresses = addresses);
    }

    fn checks_at(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.with(|known| known.check_addresses.as_ref().is_none_or(|all| all.contains(&address)))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Known) -> T) -> T {
        act(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Another thread asks than the one that beats.
    fn is_live(&self) -> bool {
        self.is_live_at(Instant::now())
    }

    fn is_live_at(&self, now: Instant) -> bool {
        let (waited, beat) = self.with(|known| (known.waiting, known.beat));
        let goes_on = beat.is_none_or(|beat| {
            now.saturating_duration_since(beat) <= self.patience.saturating_add(STEP)
        });
        goes_on && waited.is_none_or(|since| since.elapsed().unwrap_or_default() <= self.patience)
    }

    fn answer(&self, path: &str, has_metrics: bool) -> Response<Full<Bytes>> {
        match path {
            "/healthz" => self.healthz(),
            "/livez" => self.livez(),
            "/readyz" => {
                let is_ready = self.with(|known| known.last_success.is_some()) && self.is_live();
                let text = if is_ready { "ok" } else { "the table is not what the lists say yet" };
                response(is_ready, "text/plain", text.to_owned())
            }
            "/metrics" if has_metrics => match self.metrics_text() {
                Ok(text) => {
                    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                    response(true, kind, text)
                }
                Err(_) => response(false, "text/plain", "the metrics cannot be written".to_owned()),
            },
            "/configz" if has_metrics => {
                let configuration = self.with(|known| known.configuration.clone());
                let text = format!("{{\"kubeproxy.config.k8s.io\": {}}}", configuration.trim());
                response(true, "application/json", text)
            }
            "/flagz" if has_metrics => {
                let words = self.with(|known| known.command_line.clone());
                response(true, "text/plain", format!("lvs-kube-proxy flags\n\n{words}"))
            }
            "/statusz" if has_metrics => response(true, "text/plain", self.statusz()),
            "/proxyMode" if has_metrics => response(true, "text/plain", "ipvs".to_owned()),
            _ => not_found(),
        }
    }

    fn metrics_text(&self) -> Result<String, std::fmt::Error> {
        let contact = self.with(|known| known.contact.clone());
        self.metrics.text(contact.as_ref().map(Contact::metrics).as_ref())
    }

    /// As kube-proxy 1.36 has it, with how it stands with the API server.
    fn healthz(&self) -> Response<Full<Bytes>> {
        let (eligible, good) = (self.with(|known| known.node_is_eligible), self.is_live());
        let (updated, now) = self.times(good);
        let family = format!(r#"{{"lastUpdated": "{updated}", "healthy": {good}}}"#);
        let server = self.with(|known| known.contact.as_ref().map(Contact::known));
        let server = server.map_or_else(String::new, |known| {
            let quoted = |time: SystemTime| format!("\"{}\"", shown(time));
            let or_null = |time: Option<SystemTime>| time.map_or("null".to_owned(), quoted);
            let (heard, failing) = (or_null(known.heard), or_null(known.failing));
            format!(r#", "apiServer": {{"lastHeard": {heard}, "failingSince": {failing}}}"#)
        });
        let conditions = self.conditions();
        let text = format!(
            r#"{{"lastUpdated": "{updated}", "currentTime": "{now}", "nodeEligible": {eligible}, "healthy": {good}, "status": {{"IPv4": {family}, "IPv6": {family}}}{server}, "conditions": {{{conditions}}}}}"#
        );
        let response = response(good && eligible, "application/json", text);
        self.metrics.asked_for_health(response.status().as_u16());
        response
    }

    fn livez(&self) -> Response<Full<Bytes>> {
        let good = self.is_live();
        let (updated, now) = self.times(good);
        let text =
            format!(r#"{{"lastUpdated": "{updated}", "currentTime": "{now}", "healthy": {good}}}"#);
        let response = response(good, "application/json", text);
        self.metrics.asked_for_life(response.status().as_u16());
        response
    }

    /// As kube-proxy has it, for people.
    fn statusz(&self) -> String {
        let up = self.begin.elapsed();
        let up = humantime::format_duration(Duration::from_secs(up.as_secs()));
        let (last, now) = self.times(false);
        format!(
            "lvs-kube-proxy statusz\n\nUp: {up}\nTime: {now}\nBinary version: {}\nProxy mode: ipvs\nLast run \
             that brought everything to what it should be: {last}\n\nPaths: /healthz /livez /readyz /metrics \
             /proxyMode /configz /flagz /statusz\n",
            env!("CARGO_PKG_VERSION")
        )
    }

    /// When all was as it should be, which is now while it is, and what time it is.
    fn times(&self, good: bool) -> (String, String) {
        let now = SystemTime::now();
        let last = self.with(|known| known.last_success).unwrap_or(SystemTime::UNIX_EPOCH);
        (shown(if good { now } else { last }), shown(now))
    }

    /// What a load balancer learns, on any path.
    fn check(&self, port: u16) -> Response<Full<Bytes>> {
        let healthy = self.is_live();
        let Some((name, check)) = self.with(|known| known.checks.get(&port).cloned()) else {
            return not_found();
        };
        let count = check.local_endpoints;
        let text = format!(
            r#"{{"service": {{"namespace": {}, "name": {}}}, "localEndpoints": {count}, "serviceProxyHealthy": {healthy}}}"#,
            json(&name.namespace),
            json(&name.name),
        );
        let mut response = response(count > 0 && healthy, "application/json", text);
        response.headers_mut().insert("x-load-balancing-endpoint-weight", count.into());
        response
    }
}

/// A listener, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    task: JoinHandle<()>,
    address: SocketAddr,
}

/// The thread that answers: a run that takes long is not to look like a proxy that is dead.
#[derive(Debug)]
pub(crate) struct Server {
    runtime: Option<Runtime>,
    connections: Connections,
}

/// The connections that there are, the oldest one first.
type Connections = Arc<Mutex<VecDeque<AbortHandle>>>;

impl Server {
    pub(crate) fn start() -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).thread_name("health").enable_all().build()?;
        Ok(Self { runtime: Some(runtime), connections: Connections::default() })
    }

    /// Serves the proxy's own health, and its metrics where they are wanted.
    pub(crate) fn own(
        &self,
        socket: std::net::TcpListener,
        health: Arc<Health>,
        has_metrics: bool,
    ) -> io::Result<Listener> {
        self.serve(socket, |_| true, move |path| health.answer(path, has_metrics))
    }

    /// Serves what load balancers ask of a service.
    pub(crate) fn of_service(
        &self,
        socket: std::net::TcpListener,
        health: Arc<Health>,
    ) -> io::Result<Listener> {
        let port = socket.local_addr()?.port();
        let (at, health) = (health.clone(), health);
        self.serve(socket, move |address| at.checks_at(address), move |_| health.check(port))
    }

    /// Answers whoever comes to one of the addresses that are right, and lets go of others.
    fn serve(
        &self,
        socket: std::net::TcpListener,
        is_right: impl Fn(IpAddr) -> bool + Send + 'static,
        answer: impl Fn(&str) -> Response<Full<Bytes>> + Send + Sync + 'static,
    ) -> io::Result<Listener> {
        let runtime =
            self.runtime.as_ref().ok_or_else(|| io::Error::other("the thread has ended"))?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let _here = runtime.enter();
        let socket = TcpListener::from_std(socket)?;
        let answer = Arc::new(answer);
        let connections = self.connections.clone();
        let task = runtime.spawn(async move {
            loop {
                let Ok((stream, _)) = socket.accept().await else {
                    // Out of descriptors, most likely: others will end.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                if !stream.local_addr().is_ok_and(|place| is_right(place.ip())) {
                    continue;
                }
                let answer = answer.clone();
                let connection = tokio::spawn(async move {
                    let service = service_fn(|request: Request<Incoming>| {
                        let response = answer(request.uri().path());
                        async move { Ok::<_, Infallible>(response) }
                    });
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEAD)
                        .serve_connection(TokioIo::new(stream), service);
                    let _ = timeout(CONNECTION, connection).await;
                });
                admit(&connections, connection.abort_handle());
            }
        });
        Ok(Listener { task, address })
    }
}

/// Takes in a connection; of too many, the oldest one ends.
fn admit(connections: &Connections, new: AbortHandle) {
    let mut all = connections.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|connection| !connection.is_finished());
    all.push_back(new);
    while all.len() > CONNECTIONS {
        all.pop_front().iter().for_each(AbortHandle::abort);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Listener {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn shown(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

fn response(good: bool, kind: &str, text: String) -> Response<Full<Bytes>> {
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    if let Ok(kind) = kind.parse() {
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    response
}

fn not_found() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"not found\n")));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
