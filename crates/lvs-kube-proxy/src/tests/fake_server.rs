//! An API server on a loopback address, that says what a test wants, and remembers what it was asked.

use std::{
    convert::Infallible,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

/// What was asked: path with query, and who asked.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) path: String,
    pub(super) agent: String,
    pub(super) authorization: String,
}

/// What is answered.
pub(super) enum Answer {
    Json(u16, Value),
    /// Events of a watch, after which it stays open.
    Watch(Vec<Value>),
}

type Say = dyn Fn(&Asked) -> Answer + Send + Sync;

/// It ends when this is dropped, and so do its connections.
pub(super) struct FakeServer {
    pub(super) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl FakeServer {
    /// Listens, at a port of its own if `address` has none.
    pub(super) async fn start(
        address: SocketAddr,
        tls: Option<ServerConfig>,
        say: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        // One that was dropped a moment before may still have its port.
        let listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let (note, say): (_, Arc<Say>) = (asked.clone(), Arc::new(say));
        let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (note, say, tls) = (note.clone(), say.clone(), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve(stream, note, say).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, note, say).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, asked, task }
    }

    /// What it was asked until now.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// A kubeconfig for it, with more lines for the cluster and the user.
    pub(super) fn kubeconfig(&self, directory: &Path, cluster: &str, user: &str) -> PathBuf {
        let scheme = if cluster.is_empty() { "http" } else { "https" };
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: '{scheme}://{}'{cluster}}}}}]\n\
             users: [{{name: u, user: {{{user}}}}}]\n",
            self.address
        );
        let path = directory.join("kubeconfig");
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    asked: Arc<Mutex<Vec<Asked>>>,
    say: Arc<Say>,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let header = |name: &str| {
            let value = request.headers().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let question = Asked {
            path: request.uri().to_string(),
            agent: header("user-agent"),
            authorization: header("authorization"),
        };
        asked.lock().unwrap().push(question.clone());
        let response = response(say(&question));
        async move { Ok::<_, Infallible>(response) }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

fn response(answer: Answer) -> Response<BoxBody<Bytes, Infallible>> {
    let (code, body) = match answer {
        Answer::Json(code, value) => (code, Full::new(Bytes::from(value.to_string())).boxed()),
        Answer::Watch(events) => {
            let lines = events.into_iter().map(|event| format!("{event}\n"));
            let frames = lines.map(|line| Ok(Frame::data(Bytes::from(line))));
            let body = stream::iter(frames).chain(stream::pending());
            (200, BodyExt::boxed(StreamBody::new(body)))
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response.headers_mut().insert(CONTENT_TYPE, "application/json".parse().unwrap());
    response
}

/// What a cluster of this version with one service answers.
pub(super) fn cluster(minor: &str, asked: &Asked) -> Answer {
    let path = asked.path.split('?').next().unwrap();
    let (kind, items) = match path {
        "/version" => {
            let version = json!({
                "major": "1", "minor": minor, "gitVersion": "", "gitCommit": "", "gitTreeState": "",
                "buildDate": "", "goVersion": "", "compiler": "", "platform": ""
            });
            return Answer::Json(200, version);
        }
        "/apis" => {
            let version = json!({"groupVersion": "discovery.k8s.io/v1", "version": "v1"});
            let group = json!({"name": "discovery.k8s.io", "versions": [version]});
            let version = json!({"groupVersion": "networking.k8s.io/v1", "version": "v1"});
            let other = json!({"name": "networking.k8s.io", "versions": [version]});
            return Answer::Json(200, json!({"kind": "APIGroupList", "groups": [group, other]}));
        }
        "/apis/networking.k8s.io/v1" => {
            let kind = json!({
                "name": "servicecidrs", "kind": "ServiceCIDR", "namespaced": false,
                "singularName": "", "verbs": ["list", "watch"]
            });
            return Answer::Json(
                200,
                json!({"groupVersion": "networking.k8s.io/v1", "resources": [kind]}),
            );
        }
        "/apis/networking.k8s.io/v1/servicecidrs" => {
            ("ServiceCIDR", vec![range("a", "10.96.0.0/12")])
        }
        "/api/v1/services" => ("Service", vec![service()]),
        "/api/v1/nodes" => ("Node", vec![]),
        "/apis/discovery.k8s.io/v1/endpointslices" => ("EndpointSlice", vec![]),
        _ => return refusal(404, "NotFound", "the server could not find the requested resource"),
    };
    let metadata = json!({"resourceVersion": "7"});
    if asked.path.contains("sendInitialEvents=true") {
        let end = json!({
            "apiVersion": "v1", "kind": kind,
            "metadata": {"resourceVersion": "7", "annotations": {"k8s.io/initial-events-end": "true"}}
        });
        let all = items.into_iter().map(|item| json!({"type": "ADDED", "object": item}));
        return Answer::Watch(all.chain([json!({"type": "BOOKMARK", "object": end})]).collect());
    }
    match asked.path.contains("watch=true") {
        true => Answer::Watch(Vec::new()),
        false => Answer::Json(200, json!({"kind": kind, "metadata": metadata, "items": items})),
    }
}

pub(super) fn refusal(code: u16, reason: &str, message: &str) -> Answer {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": message
    });
    Answer::Json(code, status)
}

pub(super) fn range(name: &str, cidr: &str) -> Value {
    json!({
        "kind": "ServiceCIDR", "apiVersion": "networking.k8s.io/v1",
        "metadata": {"name": name, "resourceVersion": "6"}, "spec": {"cidrs": [cidr]}
    })
}

fn service() -> Value {
    json!({
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop", "resourceVersion": "5"},
        "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]}
    })
}
