//! Handshakes.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{CertificateParams, KeyPair};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::check::tls::judge;

/// 1 January 2027.
const NEW_YEAR: u64 = 1_798_761_600;

struct Server {
    address: SocketAddr,
    certificate: Vec<u8>,
}

/// A server that answers a request with its name and the HTTP head before it.
async fn tls_server(name: &str, last_year: i32) -> Server {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(last_year, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let private = PrivatePkcs8KeyDer::from(key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private.into())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let address = server(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let name = stream.get_ref().1.server_name().unwrap_or("nobody").to_owned();
            let _ = stream.read(&mut [0; 4096]).await;
            let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nI am {name}");
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    })
    .await;
    Server { address, certificate: certificate.der().to_vec() }
}

/// The certificate as a file that is gone with the test.
struct Pem(PathBuf);

impl Pem {
    fn new(server: &Server, name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lvs-health-{name}-{}", std::process::id()));
        // No line may be longer, and the alphabet is not ours to write.
        let text = base64(&server.certificate);
        let text = format!("-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n");
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for Pem {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let [a, b, c] = [0, 1, 2].map(|at| u32::from(group.get(at).copied().unwrap_or(0)));
        let number = a << 16 | b << 8 | c;
        for at in 0..4 {
            let digit = usize::try_from(number >> (18 - 6 * at) & 63).unwrap();
            text.push(if at <= group.len() { ALPHABET[digit].into() } else { '=' });
        }
        if text.len() % 65 == 64 {
            text.push('\n');
        }
    }
    text + "\n"
}

fn named(name: &str, verify: Verify) -> Tls {
    Tls { server_name: Some(name.to_owned()), verify, days: None }
}

#[tokio::test]
async fn a_handshake_passes_with_any_certificate_or_the_right_one() {
    let server = tls_server("web.example", 4000).await;
    let found = run(Kind::Tls(Tls::default()), server.address).await;
    assert_eq!(found.unwrap(), "TLSv1.3");
    let pem = Pem::new(&server, "right");
    let file = || Verify::File(pem.0.clone());
    run(Kind::Tls(named("web.example", file())), server.address).await.unwrap();
    let wrong = run(Kind::Tls(named("other.example", file())), server.address).await.unwrap_err();
    assert!(wrong.starts_with("TLS: invalid peer certificate"), "{wrong}");
    let other = Pem::new(&tls_server("web.example", 4000).await, "other");
    let verify = Verify::File(other.0.clone());
    let wrong = run(Kind::Tls(named("web.example", verify)), server.address).await.unwrap_err();
    assert!(wrong.starts_with("TLS: invalid peer certificate"), "{wrong}");
    // A file that changes is read again.
    let time = std::fs::metadata(&pem.0).unwrap().modified().unwrap();
    std::fs::copy(&other.0, &pem.0).unwrap();
    let file_now = std::fs::File::options().write(true).open(&pem.0).unwrap();
    file_now.set_modified(time + Duration::from_secs(9)).unwrap();
    run(Kind::Tls(named("web.example", file())), server.address).await.unwrap_err();
    let none = Verify::File("/nowhere".into());
    let unable = run(Kind::Tls(named("web.example", none)), server.address).await.unwrap_err();
    assert!(unable.starts_with("cannot be checked: /nowhere"), "{unable}");
}

#[tokio::test]
async fn a_certificate_that_expires_is_told() {
    let server = tls_server("web.example", 2027).await;
    let at = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(NEW_YEAR - days * 86_400);
    assert_eq!(judge(&server.certificate, 30, at(30)), Ok(()));
    let bad = |reason: &str| Err(Failure::Bad(format!("TLS: the certificate {reason}")));
    let found = judge(&server.certificate, 30, at(29));
    assert_eq!(found, bad("expires in 29 days, wanted 30 or more"));
    let after = SystemTime::UNIX_EPOCH + Duration::from_secs(NEW_YEAR + 1);
    assert_eq!(judge(&server.certificate, 0, after), bad("has expired"));
    for end in 0..server.certificate.len() {
        assert_eq!(judge(&server.certificate[..end], 0, at(30)), bad("cannot be read"));
    }
    let old = tls_server("web.example", 2020).await;
    let days = |days| Kind::Tls(Tls { days, ..Tls::default() });
    run(days(None), old.address).await.unwrap();
    let reason = run(days(Some(0)), old.address).await.unwrap_err();
    assert_eq!(reason, "TLS: the certificate has expired");
}

#[tokio::test]
async fn what_is_no_tls_is_told() {
    for bytes in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"\x16\x03\x03\xff\xff", &[0; 999], b""]
    {
        let reason = run(Kind::Tls(Tls::default()), says(bytes).await).await.unwrap_err();
        assert!(reason.starts_with("TLS: "), "{reason}");
    }
}

#[tokio::test]
async fn lines_and_http_go_over_it() {
    let server = tls_server("web.example", 4000).await;
    let line = Line { tls: Some(Tls::default()), ..Line::new(b"hello", b"HTTP/1.1 200") };
    run(Kind::Line(line), server.address).await.unwrap();
    #[cfg(feature = "http")]
    for (host, name) in [
        (None, "nobody"),
        (Some("web.example"), "web.example"),
        (Some("web.example:8443"), "web.example"),
        (Some("127.0.0.1:8443"), "nobody"),
        (Some("[::1]"), "nobody"),
    ] {
        let http = Http {
            host: host.map(str::to_owned),
            pattern: Some(format!("I am {name}$").parse().unwrap()),
            tls: Some(Tls::default()),
            ..Http::default()
        };
        let found = run(Kind::Http(http), server.address).await;
        assert_eq!(found.unwrap(), "status 200", "{host:?}");
    }
}
