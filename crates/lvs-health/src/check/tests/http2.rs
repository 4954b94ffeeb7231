//! HTTP/2 and gRPC.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request, Response, body::Incoming, header::HeaderValue, service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;

use super::*;

/// A server that answers each request with a status, a body and trailers.
async fn h2(
    status: u16,
    body: impl Fn(&str, &[u8]) -> (Vec<u8>, Option<&'static str>) + Clone + Send + Sync + 'static,
) -> SocketAddr {
    server(move |stream| {
        let body = body.clone();
        async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let body = body.clone();
                async move {
                    let path = request.uri().to_string();
                    let read = request.into_body().collect().await.unwrap().to_bytes();
                    let (bytes, code) = body(&path, &read);
                    let trailers = code.map(|code| {
                        let value = HeaderValue::from_static(code);
                        HeaderMap::from_iter([("grpc-status".parse().unwrap(), value)])
                    });
                    let body = Full::new(Bytes::from(bytes))
                        .with_trailers(async move { trailers.map(Ok::<_, Infallible>) });
                    Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap())
                }
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            let _ = connection.await;
        }
    })
    .await
}

fn grpc(service: &str) -> Kind {
    Kind::Grpc(Grpc { service: service.to_owned(), ..Grpc::default() })
}

/// An answer of the health service.
fn status(number: i32) -> Vec<u8> {
    let message = number.encode_to_vec();
    let mut bytes = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
    bytes.extend(message);
    bytes
}

#[tokio::test]
async fn http2_is_spoken_by_prior_knowledge() {
    let address = h2(200, |path, _| (path.as_bytes().to_vec(), None)).await;
    let http = |pattern: &str| {
        Kind::Http(Http {
            http2: true,
            path: "/x?y=1".to_owned(),
            host: Some("web.example".to_owned()),
            pattern: Some(pattern.parse().unwrap()),
            ..Http::default()
        })
    };
    let found = run(http("^https://web.example/x[?]y=1$"), address).await;
    assert_eq!(found.unwrap(), "status 200");
    assert!(run(http("other"), address).await.unwrap_err().contains("is not in the first"));
    let reason = run(http("x"), says("HTTP/1.1 200 OK\r\n\r\n").await).await.unwrap_err();
    assert!(reason.starts_with("answer: "), "{reason}");
}

#[tokio::test]
async fn grpc_serves_or_does_not() {
    let address = h2(200, |path, request| {
        assert!(path.ends_with("/grpc.health.v1.Health/Check"), "{path}");
        let service = String::decode(&request[5..]).unwrap();
        match service.as_str() {
            "" => (status(1), Some("0")),
            "web" => (status(2), Some("0")),
            "late" => (status(0), Some("0")),
            "odd" => (status(7), Some("0")),
            "cut" => (b"\0\0\0\0\x09\x08".to_vec(), Some("0")),
            "long" => (vec![0; 100_000], Some("0")),
            "silent" => (status(1), None),
            "old" => (Vec::new(), Some("12")),
            "sick" => (Vec::new(), Some("13")),
            _ => (Vec::new(), Some("5")),
        }
    })
    .await;
    assert_eq!(run(grpc(""), address).await.unwrap(), "SERVING");
    for (service, reason) in [
        ("web", "gRPC: NOT_SERVING"),
        ("late", "gRPC: UNKNOWN"),
        ("odd", "gRPC: 7 is no status of health"),
        ("cut", "gRPC: an answer that is none"),
        ("long", "answer: more than 4096 bytes"),
        ("silent", "gRPC: an answer without a status"),
        ("old", "gRPC: the server has no health service"),
        ("sick", "gRPC: status 13 "),
        ("none", "gRPC: no such service"),
    ] {
        assert_eq!(run(grpc(service), address).await.unwrap_err(), reason);
    }
    let refuses = h2(404, |_, _| (Vec::new(), None)).await;
    assert_eq!(run(grpc(""), refuses).await.unwrap_err(), "status 404, wanted 200");
}
