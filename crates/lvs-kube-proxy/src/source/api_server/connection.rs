//! The connection to an API server: what says how to reach it is read again when it changes, requests
//! say who asks, and what becomes of them is counted.

use std::{
    fmt, fs,
    hash::{BuildHasher, Hasher, RandomState},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use http_body_util::BodyExt;
use hyper::{
    Request, Response, Uri,
    body::{Bytes, Frame},
    header::{HeaderValue, USER_AGENT},
};
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};

use super::{ApiServerError, Contact};

/// How long a server may say nothing at all.
const SILENCE: Duration = Duration::from_secs(310);
/// What kube asks for in a watch, which is the same on all nodes.
const WATCH: &str = "timeoutSeconds=290";
/// What is asked for instead, in seconds: kube-proxy's, so that nodes do not come back together.
const LEAST_WATCH: u64 = 300;
/// Where a pod has the certificate of its API server; kube reads the token beside it again by itself.
const POD_CA: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// How to reach the server, and by what client it is reached now.
pub(super) struct Connection {
    kubeconfig: Option<PathBuf>,
    contact: Contact,
    current: Mutex<Current>,
}

struct Current {
    client: Client,
    /// The files that say how to reach the server, and what was in them: what is used, or what could
    /// not be used.
    files: Vec<(PathBuf, Option<Vec<u8>>)>,
}

/// What was read, and the client that it makes.
struct Made {
    config: Config,
    current: Current,
}

impl Connection {
    /// Reads how to reach the server. Returns with it its address and a client, whose every request
    /// looks whether something has changed. Sends nothing yet.
    pub(super) async fn open(
        kubeconfig: Option<&Path>,
    ) -> Result<(Client, Contact, Uri), ApiServerError> {
        let Made { config, current } = make(kubeconfig).await?;
        let address = config.cluster_url.clone();
        let contact = Contact::new(address.authority().map_or("", |authority| authority.as_str()));
        let connection = Arc::new(Self {
            kubeconfig: kubeconfig.map(Path::to_owned),
            contact: contact.clone(),
            current: Mutex::new(current),
        });
        let service = tower::service_fn(move |request| {
            let connection = connection.clone();
            async move { connection.send(request).await }
        });
        Ok((Client::new(service, config.default_namespace), contact, address))
    }

    async fn send(
        &self,
        mut request: Request<Body>,
    ) -> Result<
        Response<impl hyper::body::Body<Data = Bytes, Error = kube::Error> + use<>>,
        kube::Error,
    > {
        let client = self.client().await;
        *request.uri_mut() = with_own_time(request.uri());
        let method = request.method().to_string();
        let begin = Instant::now();
        let answer = client.send(request).await;
        let code = answer.as_ref().ok().map(|answer| answer.status().as_u16());
        self.contact.asked(&method, code, begin.elapsed(), SystemTime::now());
        let contact = self.contact.clone();
        let count = move |frame: Frame<Bytes>| {
            let size = frame.data_ref().map_or(0, Bytes::len);
            contact.received(code, size, SystemTime::now());
            frame
        };
        Ok(answer?.map(|body| body.map_frame(count)))
    }

    /// The client to ask by: another one when a certificate, a key, the CA or the kubeconfig has
    /// changed. What is broken is said once, and the client stays.
    async fn client(&self) -> Client {
        let (client, known) = self.with(|current| (current.client.clone(), current.files.clone()));
        let now: Vec<_> = known.iter().map(|(path, _)| read(path)).collect();
        if now == known {
            return client;
        }
        let changed: Vec<_> =
            now.iter().zip(&known).filter(|(now, before)| now != before).collect();
        let changed: Vec<_> = changed.iter().map(|(now, _)| now.0.display().to_string()).collect();
        let changed = changed.join(", ");
        match make(self.kubeconfig.as_deref()).await {
            Ok(Made { current, .. }) => {
                tracing::info!("{changed} changed: the API server is asked with what is there now");
                let client = current.client.clone();
                self.with(|before| *before = current);
                client
            }
            Err(error) => {
                tracing::error!(
                    "{changed} changed and cannot be used, so what was read before stays in use: {error}"
                );
                self.with(|current| current.files = now);
                client
            }
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Current) -> T) -> T {
        act(&mut self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Reads everything that says how to reach the server.
async fn make(kubeconfig: Option<&Path>) -> Result<Made, ApiServerError> {
    // Files are read before what is made of them: what changes in between is seen at the next request.
    let files = named(kubeconfig)?.iter().map(|path| read(path)).collect();
    let mut config = match kubeconfig {
        Some(path) => {
            let file = read_kubeconfig(path)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(|reason| wrong(path, &reason))?
        }
        None => Config::incluster().map_err(|reason| ApiServerError {
            reason: format!("this is not a pod, so --kubeconfig is needed: {reason}"),
        })?,
    };
    if config.root_cert.as_ref().is_some_and(Vec::is_empty) {
        let reason = "there is no certificate in the file of the certificate authority".to_owned();
        return Err(ApiServerError { reason });
    }
    // A watch hears from the server within a minute or so. One that says nothing at all is given up.
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    config.headers.push((USER_AGENT, user_agent()));
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config.clone()).map_err(|reason| ApiServerError {
        reason: format!("prepare the client of {server}: {reason}"),
    })?;
    Ok(Made { config, current: Current { client, files } })
}

fn read_kubeconfig(path: &Path) -> Result<Kubeconfig, ApiServerError> {
    Kubeconfig::read_from(path).map_err(|reason| wrong(path, &reason))
}

fn wrong(path: &Path, reason: &dyn fmt::Display) -> ApiServerError {
    ApiServerError { reason: format!("read kubeconfig {}: {reason}", path.display()) }
}

/// The files that say how to reach the server.
fn named(kubeconfig: Option<&Path>) -> Result<Vec<PathBuf>, ApiServerError> {
    let Some(path) = kubeconfig else { return Ok(vec![POD_CA.into()]) };
    let file = read_kubeconfig(path)?;
    let clusters = file.clusters.into_iter().filter_map(|it| it.cluster?.certificate_authority);
    let users = file.auth_infos.into_iter().filter_map(|it| it.auth_info);
    // A file with a token is read again by kube itself.
    let users = users.flat_map(|user| [user.client_certificate, user.client_key]);
    let files = clusters.chain(users.flatten()).filter(|name| !name.is_empty());
    Ok([path.to_owned()].into_iter().chain(files.map(PathBuf::from)).collect())
}

fn read(path: &Path) -> (PathBuf, Option<Vec<u8>>) {
    (path.to_owned(), fs::read(path).ok())
}

/// Who asks, for the server's audit log and its rules of priority.
fn user_agent() -> HeaderValue {
    let text = format!(
        "lvs-kube-proxy/{} ({}/{})",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
    );
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("lvs-kube-proxy"))
}

/// A watch that ends at a time of its own.
fn with_own_time(uri: &Uri) -> Uri {
    let seconds = LEAST_WATCH + random() % LEAST_WATCH;
    let text = uri.to_string().replace(WATCH, &format!("timeoutSeconds={seconds}"));
    text.parse().unwrap_or_else(|_| uri.clone())
}

/// A number that is another one on each node and each time.
pub(super) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
