//! What is answered over HTTP: the page, metrics, health and the status as JSON. Nothing can be changed here.

mod metrics;
mod page;
#[cfg(test)]
mod tests;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS,
    },
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::{
    control::{self, Ask},
    status::Status,
};

/// So many connections are served at once; others wait.
const AT_ONCE: usize = 64;
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(5);
/// The longest that one connection is kept.
const CONNECTION: Duration = Duration::from_secs(60);
/// Who asks more often sees the same again.
const FRESH: Duration = Duration::from_millis(400);

/// A listener, which ends with its connections when this is dropped.
pub(crate) struct Http {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Http {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Http {
    pub(crate) async fn listen(address: SocketAddr, asks: mpsc::Sender<Ask>) -> io::Result<Self> {
        Self::listen_with(address, asks, FRESH).await
    }

    async fn listen_with(
        address: SocketAddr,
        asks: mpsc::Sender<Ask>,
        fresh: Duration,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            io::Error::new(error.kind(), format!("http: listen on {address}: {error}"))
        })?;
        let source = Arc::new(Source { asks, fresh, last: Mutex::new(None) });
        Ok(Self { address, task: tokio::spawn(serve(listener, source)) })
    }
}

async fn serve(listener: TcpListener, source: Arc<Source>) {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    // Dropped with this task.
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: others will end.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let source = Arc::clone(&source);
        connections.spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let source = Arc::clone(&source);
                async move {
                    Ok::<_, Infallible>(source.answer(request.method(), request.uri().path()).await)
                }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .max_buf_size(16 << 10)
                .serve_connection(TokioIo::new(stream), service);
            let _ = timeout(CONNECTION, connection).await;
            drop(permit);
        });
    }
}

/// Where the status comes from.
struct Source {
    asks: mpsc::Sender<Ask>,
    fresh: Duration,
    last: Mutex<Option<(Instant, Arc<Status>)>>,
}

impl Source {
    async fn status(&self) -> Option<Arc<Status>> {
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, status)) = &*last()
            && at.elapsed() < self.fresh
        {
            return Some(Arc::clone(status));
        }
        let answer = control::ask(&self.asks, control::Request::Status).await?;
        let status: Arc<Status> = Arc::new(*answer.status?);
        *last() = Some((Instant::now(), Arc::clone(&status)));
        Some(status)
    }

    async fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return response(
                StatusCode::METHOD_NOT_ALLOWED,
                "text/plain",
                "read only\n".to_owned(),
            );
        }
        let paths = ["/", "/part", "/metrics", "/healthz", "/status.json"];
        if !paths.contains(&path) {
            return response(StatusCode::NOT_FOUND, "text/plain", "not found\n".to_owned());
        }
        let Some(status) = self.status().await else {
            let text = "the director does not answer\n".to_owned();
            return response(StatusCode::SERVICE_UNAVAILABLE, "text/plain", text);
        };
        let ok = StatusCode::OK;
        match path {
            "/" => response(ok, "text/html; charset=utf-8", page::page(&status)),
            "/part" => response(ok, "text/html; charset=utf-8", page::part(&status)),
            "/metrics" => match metrics::text(&status) {
                Ok(text) => {
                    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                    response(ok, kind, text)
                }
                Err(error) => {
                    response(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string())
                }
            },
            "/healthz" => match &status.failure {
                None => response(ok, "text/plain", "ok\n".to_owned()),
                Some(failure) => {
                    response(StatusCode::SERVICE_UNAVAILABLE, "text/plain", format!("{failure}\n"))
                }
            },
            _ => match serde_json::to_string(&*status) {
                Ok(text) => response(ok, "application/json", text),
                Err(error) => {
                    response(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string())
                }
            },
        }
    }
}

fn response(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // What servers say is escaped; this is for the day when it is not.
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::POLICY));
    response
}
