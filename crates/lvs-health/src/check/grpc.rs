//! gRPC's health service.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request, Response, body::Incoming, header};
use prost::Message;
use serde::{Deserialize, Serialize};

#[cfg(feature = "tls")]
use super::Tls;
use super::{
    Failure, Good, Limit, Way,
    http::{exchange2, refused},
    stream::{Secure, Stream, open},
};

/// How much of an answer is read.
const MOST: usize = 4096;

/// Asks a gRPC server's health service, `grpc.health.v1.Health/Check`, over HTTP/2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Grpc {
    /// The service that is asked after; the server as a whole, an empty name, by default.
    pub service: String,
    /// TLS; none by default.
    #[cfg(feature = "tls")]
    pub tls: Option<Tls>,
}

impl Grpc {
    pub(crate) async fn run(
        &self,
        way: Way<'_>,
        address: SocketAddr,
        limit: Limit,
    ) -> Result<Good, Failure> {
        #[cfg(feature = "tls")]
        let secure = self.tls.as_ref().map_or(Secure::No, |tls| Secure::Tls(tls, None, &[b"h2"]));
        #[cfg(not(feature = "tls"))]
        let secure = Secure::No;
        let stream = open(way, address, secure, limit).await?;
        limit.within("answer", self.over(stream, address)).await?
    }

    /// Asks over a connection.
    pub(crate) async fn over(
        &self,
        stream: Box<dyn Stream>,
        address: SocketAddr,
    ) -> Result<Good, Failure> {
        let (head, body) = exchange2(stream, self.request(address)?, read).await?;
        judge(&head, &body)
    }

    fn request(&self, address: SocketAddr) -> Result<Request<Full<Bytes>>, Failure> {
        // The request is a message with one string, as prost writes a string by itself.
        let message = self.service.encode_to_vec();
        let length = u32::try_from(message.len())
            .map_err(|_| Failure::Unable("the service's name is too long".to_owned()))?;
        let mut body = BytesMut::new();
        body.put_u8(0);
        body.put_u32(length);
        body.put_slice(&message);
        Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(Full::new(body.freeze()))
            .map_err(|error| Failure::Unable(error.to_string()))
    }
}

/// The head and the trailers in one, and the body.
async fn read(response: Response<Incoming>) -> Result<(HeaderMap, Vec<u8>), Failure> {
    let (parts, mut body) = response.into_parts();
    if parts.status.as_u16() != 200 {
        return Err(Failure::bad(format!("status {}, wanted 200", parts.status.as_u16())));
    }
    let (mut head, mut read) = (parts.headers, Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| refused(&error))?;
        if let Some(data) = frame.data_ref() {
            read.extend_from_slice(data);
        }
        if read.len() > MOST {
            return Err(Failure::bad(format!("answer: more than {MOST} bytes")));
        }
        if let Ok(trailers) = frame.into_trailers() {
            head.extend(trailers);
        }
    }
    Ok((head, read))
}

/// What an answer says of the server.
fn judge(head: &HeaderMap, body: &[u8]) -> Result<Good, Failure> {
    let text = |name| head.get(name).map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned());
    match text("grpc-status").as_deref() {
        Some("0") => {}
        Some("5") => return Err(Failure::bad("gRPC: no such service")),
        Some("12") => return Err(Failure::bad("gRPC: the server has no health service")),
        Some(code) => {
            let message = text("grpc-message").unwrap_or_default();
            return Err(Failure::bad(format!("gRPC: status {code} {message}")));
        }
        None => return Err(Failure::bad("gRPC: an answer without a status")),
    }
    // The answer is a message with one number, as prost reads a number by itself.
    let status = match body {
        [0, a, b, c, d, message @ ..]
            if u32::from_be_bytes([*a, *b, *c, *d]).try_into() == Ok(message.len()) =>
        {
            i32::decode(message).ok()
        }
        _ => None,
    };
    match status {
        Some(1) => Ok(Good::new("SERVING")),
        Some(0) => Err(Failure::bad("gRPC: UNKNOWN")),
        Some(2) => Err(Failure::bad("gRPC: NOT_SERVING")),
        Some(3) => Err(Failure::bad("gRPC: SERVICE_UNKNOWN")),
        Some(other) => Err(Failure::bad(format!("gRPC: {other} is no status of health"))),
        None => Err(Failure::bad("gRPC: an answer that is none")),
    }
}
