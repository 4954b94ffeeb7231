//! An HTTP request and its answer.

use std::{error::Error, fmt, net::SocketAddr, ops::RangeInclusive, str::FromStr};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, Uri,
    body::Incoming,
    header::{self, HeaderName, HeaderValue},
    http::uri::Scheme,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

#[cfg(feature = "tls")]
use super::Tls;
use super::{
    Failure, Good, Limit, Pattern, Way,
    beside::beside,
    stream::{Secure, Stream, open},
};

/// A header of this size or more is none.
const LONGEST_HEADER: usize = 64 << 10;

/// An HTTP request and what its answer has to be. Redirects are answers like others and are not
/// followed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Http {
    /// `GET` by default.
    pub method: String,
    /// The path with its query; `/` by default.
    pub path: String,
    /// The header `Host`; the address and port that are asked by default.
    pub host: Option<String>,
    /// Other headers.
    pub headers: Vec<(String, String)>,
    /// The good statuses; `200-299` by default.
    pub status: Statuses,
    /// What has to be in the body's first [`limit`](Self::limit) bytes; nothing by default.
    pub pattern: Option<Pattern>,
    /// How many bytes of the body are read for the pattern; 16,384 by default. Without a pattern none is
    /// waited for.
    pub limit: usize,
    /// TLS: HTTPS; none by default.
    #[cfg(feature = "tls")]
    pub tls: Option<Tls>,
    /// Whether it is HTTP/2, without TLS by prior knowledge; HTTP/1.1 by default.
    #[cfg(feature = "http2")]
    pub http2: bool,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            method: "GET".to_owned(),
            path: "/".to_owned(),
            host: None,
            headers: Vec::new(),
            status: Statuses::default(),
            pattern: None,
            limit: 16 << 10,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "http2")]
            http2: false,
        }
    }
}

impl Http {
    pub(crate) async fn run(
        &self,
        way: Way<'_>,
        address: SocketAddr,
        limit: Limit,
    ) -> Result<Good, Failure> {
        let stream = open(way, address, self.secure(), limit).await?;
        limit.within("answer", self.over(stream, address)).await?
    }

    /// Asks over a connection.
    pub(crate) async fn over(
        &self,
        stream: Box<dyn Stream>,
        address: SocketAddr,
    ) -> Result<Good, Failure> {
        let request = self.request(address)?;
        let read = |response| self.read(response);
        #[cfg(feature = "http2")]
        if self.http2 {
            let (status, body) = exchange2(stream, request, read).await?;
            return self.judge(status, &body);
        }
        let (status, body) = exchange(stream, request, read).await?;
        self.judge(status, &body)
    }

    #[cfg(feature = "tls")]
    fn secure(&self) -> Secure<'_> {
        let Some(tls) = &self.tls else { return Secure::No };
        #[cfg(feature = "http2")]
        let protocols: &[&[u8]] = if self.http2 { &[b"h2"] } else { &[b"http/1.1"] };
        #[cfg(not(feature = "http2"))]
        let protocols: &[&[u8]] = &[b"http/1.1"];
        // A port after the name, and an address in brackets.
        let name = self.host.as_deref().map(|host| match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        });
        Secure::Tls(tls, name.map(|name| name.trim_matches(['[', ']'])), protocols)
    }

    #[cfg(not(feature = "tls"))]
    fn secure(&self) -> Secure<'_> {
        Secure::No
    }

    /// What an answer says of the server.
    fn judge(&self, status: u16, body: &[u8]) -> Result<Good, Failure> {
        if !self.status.contains(status) {
            return Err(Failure::bad(format!("status {status}, wanted {}", self.status)));
        }
        match &self.pattern {
            Some(pattern) if !pattern.is_in(body) => Err(Failure::bad(format!(
                "status {status}, and {pattern:?} is not in the first {} bytes",
                body.len(),
                pattern = pattern.as_str(),
            ))),
            _ => Ok(Good::new(format!("status {status}"))),
        }
    }

    fn request(&self, address: SocketAddr) -> Result<Request<Full<Bytes>>, Failure> {
        let wrong = |what: &str, text: &str| Failure::Unable(format!("{text:?} is no {what}"));
        let method = Method::from_bytes(self.method.as_bytes())
            .map_err(|_| wrong("method", &self.method))?;
        let uri: Uri = self.path.parse().map_err(|_| wrong("path", &self.path))?;
        let host = self.host.clone().unwrap_or_else(|| address.to_string());
        let host = HeaderValue::from_str(&host).map_err(|_| wrong("host", &host))?;
        #[cfg(feature = "http2")]
        let is_http2 = self.http2;
        #[cfg(not(feature = "http2"))]
        let is_http2 = false;
        let mut request = Request::new(Full::default());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(header::USER_AGENT, HeaderValue::from_static("lvs-health"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        if is_http2 {
            let authority = host.to_str().ok().and_then(|host| host.parse().ok());
            let mut parts = std::mem::take(request.uri_mut()).into_parts();
            parts.authority = Some(authority.ok_or_else(|| wrong("host", &format!("{host:?}")))?);
            parts.scheme = Some(Scheme::HTTPS);
            *request.uri_mut() = Uri::from_parts(parts).map_err(|_| wrong("path", &self.path))?;
        } else {
            headers.insert(header::HOST, host);
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let headers = request.headers_mut();
        for (name, value) in &self.headers {
            let name: HeaderName = name.parse().map_err(|_| wrong("header", name))?;
            headers.insert(name, HeaderValue::from_str(value).map_err(|_| wrong("value", value))?);
        }
        Ok(request)
    }

    /// The status, and as much of the body as is looked at.
    async fn read(&self, response: Response<Incoming>) -> Result<(u16, Vec<u8>), Failure> {
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let mut read = Vec::new();
        // An answer with the wrong status needs no body to be wrong.
        if self.pattern.is_none() || !self.status.contains(status) {
            return Ok((status, read));
        }
        while read.len() < self.limit {
            let Some(frame) = body.frame().await else { break };
            let frame = frame.map_err(|error| refused(&error))?;
            if let Some(data) = frame.data_ref() {
                let left = self.limit - read.len();
                read.extend_from_slice(&data[..left.min(data.len())]);
            }
            if self.pattern.as_ref().is_some_and(|pattern| pattern.is_in(&read)) {
                break;
            }
        }
        Ok((status, read))
    }
}

/// Sends a request over HTTP/1.1 and reads its answer.
async fn exchange<T, F: Future<Output = Result<T, Failure>>>(
    stream: Box<dyn Stream>,
    request: Request<Full<Bytes>>,
    read: impl FnOnce(Response<Incoming>) -> F,
) -> Result<T, Failure> {
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(LONGEST_HEADER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| refused(&error))?;
    let work =
        async { read(sender.send_request(request).await.map_err(|error| refused(&error))?).await };
    beside(connection, work).await
}

/// The same over HTTP/2.
#[cfg(feature = "http2")]
pub(crate) async fn exchange2<T, F: Future<Output = Result<T, Failure>>>(
    stream: Box<dyn Stream>,
    request: Request<Full<Bytes>>,
    read: impl FnOnce(Response<Incoming>) -> F,
) -> Result<T, Failure> {
    let (mut sender, connection) =
        hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
            .max_header_list_size(64 << 10)
            .initial_stream_window_size(64 << 10)
            .initial_connection_window_size(64 << 10)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| refused(&error))?;
    let work =
        async { read(sender.send_request(request).await.map_err(|error| refused(&error))?).await };
    beside(connection, work).await
}

/// hyper's error with its cause, which says more.
pub(crate) fn refused(error: &hyper::Error) -> Failure {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = error.downcast_ref().map_or_else(|| error.to_string(), super::failure::words);
        cause = error.source();
    }
    Failure::bad(format!("answer: {text}"))
}

/// A set of HTTP statuses: `200-299,301`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Statuses(Vec<RangeInclusive<u16>>);

/// A text that is no set of statuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidStatuses(String);

impl Statuses {
    /// Whether a status is one of them.
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

impl Default for Statuses {
    fn default() -> Self {
        Self(vec![200..=299])
    }
}

impl FromStr for Statuses {
    type Err = InvalidStatuses;

    fn from_str(text: &str) -> Result<Self, InvalidStatuses> {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let status =
                |text: &str| text.trim().parse().ok().filter(|status| (100..=599).contains(status));
            let (first, last) = (status(first)?, status(last)?);
            (first <= last).then_some(first..=last)
        };
        let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
        ranges.map(Self).ok_or_else(|| InvalidStatuses(text.to_owned()))
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{}", range.start())?;
            if range.end() > range.start() {
                write!(f, "-{}", range.end())?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for InvalidStatuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no set of statuses from 100 to 599 like 200-299,301", self.0)
    }
}

impl Error for InvalidStatuses {}

impl Serialize for Statuses {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Statuses {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Words;
        impl de::Visitor<'_> for Words {
            type Value = Statuses;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("statuses: 200, or \"200-299,301\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Statuses, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, status: u64) -> Result<Statuses, E> {
                self.visit_str(&status.to_string())
            }

            fn visit_i64<E: de::Error>(self, status: i64) -> Result<Statuses, E> {
                self.visit_str(&status.to_string())
            }
        }
        from.deserialize_any(Words)
    }
}
