//! A TLS handshake, and how long the certificate is good.

use std::{
    collections::HashMap,
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use x509_cert::{Certificate, der::Decode};

use super::{Failure, Good, Limit, Way};

const DAY: u64 = 86_400;

/// A TLS handshake. keepalived's `SSL_GET`, ldirectord's `checktype=https` without certificate, HAProxy's
/// `check-ssl`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Tls {
    /// The name that is asked for (SNI), and that a verified certificate has to have. The host of an
    /// HTTP check, or the address that is asked, by default.
    pub server_name: Option<String>,
    /// Who has to have signed the certificate; nobody by default.
    pub verify: Verify,
    /// For how many days from now the certificate has to be good, 0 to 65,535; not looked at by default.
    pub days: Option<u16>,
}

/// Who has to have signed a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verify {
    /// It is not verified: a server is checked, not trusted.
    #[default]
    None,
    /// Somebody whom this system trusts.
    System,
    /// Somebody in this file of PEM certificates, which is read again when it changes.
    File(PathBuf),
}

impl Tls {
    pub(crate) async fn run(
        &self,
        way: Way<'_>,
        address: SocketAddr,
        limit: Limit,
    ) -> Result<Good, Failure> {
        let stream = self.connect(way, address, None, &[], limit).await?;
        let version = stream.get_ref().1.protocol_version();
        let version = version.and_then(|it| it.as_str()).unwrap_or("TLS");
        Ok(Good::new(version.replace('_', ".")))
    }

    /// A connection that passed; `host` names the server where `server_name` does not.
    pub(crate) async fn connect(
        &self,
        way: Way<'_>,
        address: SocketAddr,
        host: Option<&str>,
        protocols: &[&[u8]],
        limit: Limit,
    ) -> Result<TlsStream<TcpStream>, Failure> {
        let name = match self.server_name.as_deref().or(host) {
            Some(name) => ServerName::try_from(name.to_owned())
                .map_err(|_| Failure::Unable(format!("{name:?} is no server's name")))?,
            None => ServerName::from(address.ip()),
        };
        let mut config = config(&self.verify)?;
        if !protocols.is_empty() {
            let protocols = protocols.iter().map(|name| name.to_vec()).collect();
            Arc::make_mut(&mut config).alpn_protocols = protocols;
        }
        let stream = way.connect(address, limit).await?;
        let handshake = TlsConnector::from(config).connect(name, stream);
        let stream = limit.within("TLS", handshake).await?;
        let stream = stream.map_err(|error| Failure::of("TLS", &error))?;
        if let Some(days) = self.days {
            let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let first = certificates.first().map_or(&[][..], |it| it);
            judge(first, days, SystemTime::now())?;
        }
        Ok(stream)
    }
}

/// Whether a certificate is good for so many days from now.
pub(crate) fn judge(certificate: &[u8], days: u16, now: SystemTime) -> Result<(), Failure> {
    let certificate = Certificate::from_der(certificate)
        .map_err(|_| Failure::bad("TLS: the certificate cannot be read"))?;
    let until = certificate.tbs_certificate().validity().not_after.to_unix_duration();
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let Some(left) = until.checked_sub(now) else {
        return Err(Failure::bad("TLS: the certificate has expired"));
    };
    if left.as_secs() < u64::from(days) * DAY {
        let left = left.as_secs() / DAY;
        let reason = format!("TLS: the certificate expires in {left} days, wanted {days} or more");
        return Err(Failure::bad(reason));
    }
    Ok(())
}

type Configs = HashMap<Verify, (Option<SystemTime>, Arc<ClientConfig>)>;

/// Whom to trust is read once for all checks that say the same, and again when the file changes.
fn config(verify: &Verify) -> Result<Arc<ClientConfig>, Failure> {
    static CONFIGS: LazyLock<Mutex<Configs>> = LazyLock::new(Mutex::default);
    let changed = match verify {
        Verify::File(path) => fs::metadata(path).and_then(|file| file.modified()).ok(),
        _ => None,
    };
    let mut configs = CONFIGS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((known, config)) = configs.get(verify) {
        if *known == changed {
            return Ok(config.clone());
        }
    }
    let config = Arc::new(read(verify)?);
    configs.insert(verify.clone(), (changed, config.clone()));
    Ok(config)
}

fn read(verify: &Verify) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::Unable(error.to_string()))?;
    let builder = match roots(verify)? {
        Some(roots) => builder.with_root_certificates(roots),
        None => {
            let nobody = Arc::new(Nobody(provider));
            builder.dangerous().with_custom_certificate_verifier(nobody)
        }
    };
    let mut config = builder.with_no_client_auth();
    // A resumed session would not show the certificate.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn roots(verify: &Verify) -> Result<Option<RootCertStore>, Failure> {
    let (certificates, whose) = match verify {
        Verify::None => return Ok(None),
        Verify::System => {
            (rustls_native_certs::load_native_certs().certs, "this system".to_owned())
        }
        Verify::File(path) => {
            let whose = path.display().to_string();
            let unable = |error| Failure::Unable(format!("{whose}: {error}"));
            let read: Result<Vec<_>, _> =
                CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
            (read.map_err(unable)?, whose)
        }
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() {
        return Err(Failure::Unable(format!("{whose} has no certificate of an authority")));
    }
    Ok(Some(roots))
}

/// Takes any certificate.
#[derive(Debug)]
struct Nobody(Arc<CryptoProvider>);

impl ServerCertVerifier for Nobody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
