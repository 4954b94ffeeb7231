//! Answers that come from elsewhere: for the fuzz targets.

use super::{Failure, Good, Kind, agent, datagram, smtp};

/// What bytes say of a server if they are its answer, without a network. `None`: no answer to what was
/// asked.
///
/// Not a part of the API.
#[doc(hidden)]
pub async fn said(kind: &Kind, bytes: &[u8]) -> Option<Result<Good, Failure>> {
    match kind {
        Kind::Tcp | Kind::Program(_) => None,
        Kind::Line(line) => line.judge(bytes, false),
        Kind::Smtp(_) => {
            let judged = smtp::judge(bytes, "greeting", b"220");
            Some(judged.map(|_| Good::new("greeting")))
        }
        Kind::Udp(udp) => Some(udp.judge(bytes)),
        Kind::Icmp => datagram::is_reply(bytes, true).then(|| Ok(Good::new("echo"))),
        Kind::Agent(_) => Some(agent::judge(bytes)),
        #[cfg(feature = "dns")]
        Kind::Dns(dns) => dns.judge(0, bytes),
        #[cfg(feature = "tls")]
        Kind::Tls(_) => {
            let epoch = std::time::SystemTime::UNIX_EPOCH;
            Some(super::tls::judge(bytes, 1, epoch).map(|()| Good::new("certificate")))
        }
        #[cfg(feature = "http2")]
        Kind::Grpc(grpc) => Some(grpc.over(spoken(bytes), NOWHERE).await),
        #[cfg(feature = "http")]
        Kind::Http(http) => Some(http.over(spoken(bytes), NOWHERE).await),
    }
}

#[cfg(feature = "http")]
const NOWHERE: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 80);

/// A stream from which these bytes come, and then its end. What is written to it goes nowhere.
#[cfg(feature = "http")]
fn spoken(bytes: &[u8]) -> Box<dyn super::stream::Stream> {
    Box::new(tokio::io::join(std::io::Cursor::new(bytes.to_vec()), tokio::io::sink()))
}
