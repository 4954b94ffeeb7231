//! How an API server is asked, on one that a test makes.

use std::{collections::BTreeSet, fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use ipnet::IpNet;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::timeout;
use tokio_rustls::rustls::{
    RootCertStore, ServerConfig, crypto::ring, pki_types::PrivateKeyDer,
    server::WebPkiClientVerifier,
};

use super::fake_server::{Answer, Asked, FakeServer, cluster, range, refusal};
use crate::{
    settings::{Settings, ThisNode},
    source::{ApiServer, Events as _},
    state::State,
};

/// Nothing waits for it when all goes well.
const LIMIT: Duration = Duration::from_secs(60);

fn anywhere() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// Waits for the lists.
async fn listed(source: &mut ApiServer) {
    let mut state = State::new(ThisNode::default(), Settings::default());
    let lists = async {
        while !state.is_complete() {
            source.next().await.into_iter().for_each(|event| state.apply(event));
        }
    };
    timeout(LIMIT, lists).await.expect("lists");
}

/// Goes on until the server was asked so.
async fn until_asked(source: &mut ApiServer, server: &FakeServer, done: impl Fn(&[Asked]) -> bool) {
    let wait = async {
        while !done(&server.asked()) {
            let _ = timeout(Duration::from_millis(20), source.next()).await;
        }
    };
    if timeout(LIMIT, wait).await.is_err() {
        panic!("it was not asked so: {:#?}", server.asked());
    }
}

fn is_watch(asked: &Asked) -> bool {
    asked.path.contains("watch=true") && !asked.path.contains("sendInitialEvents")
}

#[tokio::test]
async fn lists_are_cheap_and_watches_end_at_times_of_their_own() {
    let directory = TempDir::new().unwrap();
    for (minor, has_streams) in [("20+", false), ("33", false), ("36", true)] {
        let server = FakeServer::start(anywhere(), None, move |asked| cluster(minor, asked)).await;
        let kubeconfig = server.kubeconfig(directory.path(), "", "");
        let mut source = ApiServer::new(Some(&kubeconfig), "node-a").await.unwrap();
        listed(&mut source).await;
        let enough = |asked: &[Asked]| {
            asked.iter().filter(|asked| asked.path.contains("watch=true")).count() >= 3
        };
        until_asked(&mut source, &server, enough).await;
        let asked = server.asked();
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let agent = format!("lvs-kube-proxy/{} (linux/{architecture})", env!("CARGO_PKG_VERSION"));
        assert!(asked.iter().all(|asked| asked.agent == agent), "{asked:#?}");
        let mut times = Vec::new();
        for Asked { path, .. } in &asked {
            if path.contains("watch=true") {
                assert_eq!(path.contains("sendInitialEvents=true"), has_streams, "{path}");
                let time = path.split("timeoutSeconds=").nth(1).unwrap();
                let time: u64 = time.split('&').next().unwrap().parse().unwrap();
                assert!((300..600).contains(&time), "{path}");
                times.push(time);
            } else if path.contains("/api") && path.contains('?') {
                assert!(!has_streams, "{path}");
                assert!(path.contains("resourceVersion=0"), "{path}");
            }
        }
        times.dedup();
        assert!(times.len() > 1, "not all at one time: {times:?}");
        // What was asked, once each: no probing.
        let lists = asked.iter().filter(|asked| !is_watch(asked));
        let count = if minor == "20+" { 5 } else { 7 };
        assert_eq!(lists.count(), count, "{asked:#?}");
    }
}

/// Servers that do not take what newer ones do get it in the older way.
#[tokio::test]
async fn what_a_server_refuses_is_asked_otherwise() {
    let directory = TempDir::new().unwrap();
    let server = FakeServer::start(anywhere(), None, |asked| {
        if asked.path.contains("fieldSelector=spec.clusterIP") {
            return refusal(400, "BadRequest", "field label not supported: spec.clusterIP");
        }
        if asked.path.contains("sendInitialEvents") {
            return refusal(422, "Invalid", "sendInitialEvents is forbidden");
        }
        cluster("36", asked)
    })
    .await;
    let kubeconfig = server.kubeconfig(directory.path(), "", "");
    let mut source = ApiServer::new(Some(&kubeconfig), "node-a").await.unwrap();
    listed(&mut source).await;
    let refused = server.asked().iter().filter(|asked| asked.path.contains("fieldSel")).count();
    assert!(refused < 6, "{:#?}", server.asked());
}

/// Service ranges are the server's where it says so, and are followed.
#[tokio::test]
async fn service_ranges_are_learnt() {
    let directory = TempDir::new().unwrap();
    let server = FakeServer::start(anywhere(), None, |asked| {
        if is_watch(asked) && asked.path.contains("servicecidrs") {
            return Answer::Watch(vec![
                json!({"type": "ADDED", "object": range("b", "10.77.0.0/24")}),
            ]);
        }
        cluster("33", asked)
    })
    .await;
    let kubeconfig = server.kubeconfig(directory.path(), "", "");
    let mut source = ApiServer::new(Some(&kubeconfig), "node-a").await.unwrap();
    let mut ranges = source.ranges().await.unwrap();
    let texts = |ranges: &BTreeSet<IpNet>| -> Vec<String> {
        ranges.iter().map(ToString::to_string).collect()
    };
    assert!(texts(&ranges.borrow()).contains(&"10.96.0.0/12".to_owned()));
    let both = async {
        while ranges.borrow_and_update().len() < 2 {
            let _ = timeout(Duration::from_millis(20), source.next()).await;
        }
    };
    timeout(LIMIT, both).await.expect("the other one");
    assert_eq!(texts(&ranges.borrow()), ["10.77.0.0/24", "10.96.0.0/12"]);

    // Who may not list them, or has none, goes on without.
    for (minor, code) in [("36", 403), ("20", 200)] {
        let server = FakeServer::start(anywhere(), None, move |asked| {
            match code == 403 && asked.path.contains("servicecidrs") {
                true => refusal(403, "Forbidden", "servicecidrs is forbidden"),
                false => cluster(minor, asked),
            }
        })
        .await;
        let kubeconfig = server.kubeconfig(directory.path(), "", "");
        let mut source = ApiServer::new(Some(&kubeconfig), "node-a").await.unwrap();
        let ranges = timeout(LIMIT, source.ranges()).await.unwrap().unwrap();
        assert!(ranges.borrow().is_empty());
        listed(&mut source).await;
    }
}

/// What an administrator sees of an outage: since when, and that it is over.
#[tokio::test]
async fn it_is_known_since_when_nothing_was_heard() {
    let directory = TempDir::new().unwrap();
    let server = FakeServer::start(anywhere(), None, |asked| cluster("36", asked)).await;
    let address = server.address;
    let kubeconfig = server.kubeconfig(directory.path(), "", "");
    let mut source = ApiServer::new(Some(&kubeconfig), "node-a").await.unwrap();
    let contact = source.contact().unwrap();
    assert_eq!(contact.known().heard, None);
    listed(&mut source).await;
    let before = contact.known();
    assert!(before.heard.is_some() && before.failing.is_none(), "{before:?}");
    drop(server);
    let fails = async {
        while contact.known().failing.is_none() {
            let _ = timeout(Duration::from_millis(20), source.next()).await;
        }
    };
    timeout(LIMIT, fails).await.expect("it is seen to fail");
    let last = contact.known().heard;
    assert!(last >= before.heard);
    let _server = FakeServer::start(address, None, |asked| cluster("36", asked)).await;
    let comes_back = async {
        while contact.known().failing.is_some() {
            let _ = timeout(Duration::from_millis(20), source.next()).await;
        }
    };
    timeout(LIMIT, comes_back).await.expect("it is heard again");
    assert!(contact.known().heard > last);
}

/// A certificate authority, and what it signs.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate and its key.
    fn signs(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    /// A server with a certificate of this authority, that knows the clients of `clients`.
    fn server(&self, clients: &Self) -> ServerConfig {
        let (certificate, key) = self.signs("server");
        let mut roots = RootCertStore::empty();
        roots.add(clients.0.der().clone()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap()
    }

    /// Writes a client's certificate and key.
    fn writes_client(&self, directory: &Path) {
        let (certificate, key) = self.signs("client");
        fs::write(directory.join("client.crt"), certificate.pem()).unwrap();
        fs::write(directory.join("client.key"), key.serialize_pem()).unwrap();
    }
}

/// The server comes back with another certificate authority, for itself and for its clients. What is
/// renewed on disk is used, without a restart; what is broken there changes nothing.
#[tokio::test]
async fn renewed_certificates_are_read_again() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    fs::write(path.join("ca.crt"), old.pem()).unwrap();
    old.writes_client(path);
    let say = |asked: &Asked| cluster("36", asked);
    let server = FakeServer::start(anywhere(), Some(old.server(&old)), say).await;
    let address = server.address;
    let files = path.display();
    let kubeconfig = server.kubeconfig(
        path,
        &format!(", certificate-authority: '{files}/ca.crt'"),
        &format!("client-certificate: '{files}/client.crt', client-key: '{files}/client.key'"),
    );
    let mut source = ApiServer::new(Some(&kubeconfig), "node-a").await.unwrap();
    listed(&mut source).await;

    // Half of a renewal, and a broken one: what was read before stays in use.
    for broken in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        fs::write(path.join("ca.crt"), broken).unwrap();
        fs::write(path.join("client.key"), "no key").unwrap();
        let before = server.asked().len();
        source.relist();
        listed(&mut source).await;
        assert!(server.asked().len() > before);
    }

    drop(server);
    fs::write(path.join("ca.crt"), old.pem() + &new.pem()).unwrap();
    new.writes_client(path);
    let server = FakeServer::start(address, Some(new.server(&new)), say).await;
    until_asked(&mut source, &server, |asked| asked.len() >= 3).await;
}

/// A token in the kubeconfig itself.
#[tokio::test]
async fn a_changed_kubeconfig_is_read_again() {
    let directory = TempDir::new().unwrap();
    let server = FakeServer::start(anywhere(), None, |asked| match &*asked.authorization {
        "Bearer new" => cluster("36", asked),
        _ => refusal(401, "Unauthorized", "Unauthorized"),
    })
    .await;
    let kubeconfig = server.kubeconfig(directory.path(), "", "token: old");
    let mut source = ApiServer::new(Some(&kubeconfig), "node-a").await.unwrap();
    until_asked(&mut source, &server, |asked| asked.len() >= 2).await;
    let contact = source.contact().unwrap();
    assert!(contact.known().failing.is_some() && contact.known().heard.is_none());
    server.kubeconfig(directory.path(), "", "token: new");
    listed(&mut source).await;
    assert_eq!(contact.known().failing, None);
}
