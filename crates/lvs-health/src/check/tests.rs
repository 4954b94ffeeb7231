//! Each check against small servers on the loopback.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;

/// Long enough for any machine; a test that fails may take it.
const LONG: Duration = Duration::from_secs(20);

/// A server that does the same with each connection.
async fn server<F: Future<Output = ()> + Send>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            serve(stream).await;
        }
    });
    address
}

/// A server that reads a little, writes bytes and closes.
async fn says(bytes: impl Into<Vec<u8>>) -> SocketAddr {
    let bytes = bytes.into();
    server(move |mut stream| {
        let bytes = bytes.clone();
        async move {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(&bytes).await;
        }
    })
    .await
}

async fn run(kind: Kind, address: SocketAddr) -> Result<String, String> {
    let check = Check::new(kind).timeout(LONG);
    let result = check.run(&Target::new(address)).await;
    result.map(|good| good.to_string()).map_err(|failure| failure.to_string())
}

#[tokio::test]
async fn tcp_connects_or_says_why_not() {
    let address = server(|_| async {}).await;
    assert_eq!(run(Kind::Tcp, address).await.unwrap(), "connected");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = listener.local_addr().unwrap();
    drop(listener);
    assert_eq!(run(Kind::Tcp, closed).await.unwrap_err(), "connect: connection refused");
}

#[tokio::test]
async fn a_way_that_is_not_there_says_nothing_of_the_server() {
    let address = server(|_| async {}).await;
    let unable = |check: Check, target: Target| async move {
        match check.run(&target).await {
            Err(Failure::Unable(reason)) => reason,
            other => panic!("{other:?}"),
        }
    };
    let tcp = || Check::new(Kind::Tcp).timeout(LONG);
    let mut check = tcp();
    check.from = Some("192.0.2.1".parse().unwrap());
    let reason = unable(check, Target::new(address)).await;
    assert_eq!(reason, "bind to 192.0.2.1: cannot assign requested address");
    let mut check = tcp();
    check.device = Some("none0".to_owned());
    assert!(unable(check, Target::new(address)).await.starts_with("device none0: "));
    let mut check = tcp();
    check.netns = Some("/nowhere".into());
    assert!(unable(check, Target::new(address)).await.starts_with("namespace /nowhere: "));
    let mut check = tcp();
    check.to = To::Service;
    assert!(unable(check, Target::new(address)).await.contains("virtual address"));
    let none = Target::new(SocketAddr::new(address.ip(), 0));
    assert!(unable(tcp(), none).await.contains("has no port"));
    // With one it is asked there.
    let mut check = tcp();
    check.port = Some(address.port());
    check.from = Some(address.ip());
    check.run(&none).await.unwrap();
}

#[cfg(feature = "http")]
mod http {
    use super::*;

    fn ok() -> Kind {
        Kind::Http(Http::default())
    }

    fn pattern(pattern: &str, limit: usize) -> Kind {
        let pattern = Some(pattern.parse().unwrap());
        Kind::Http(Http { pattern, limit, ..Http::default() })
    }

    #[tokio::test]
    async fn status_and_pattern_decide() {
        let good = says("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(run(ok(), good).await.unwrap(), "status 204");
        let redirect =
            says("HTTP/1.1 301 Moved\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(run(ok(), redirect).await.unwrap_err(), "status 301, wanted 200-299");
        let moved = Http { status: "200-299,301".parse().unwrap(), ..Http::default() };
        assert_eq!(run(Kind::Http(moved), redirect).await.unwrap(), "status 301");
        let body = says("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello\0world").await;
        assert_eq!(run(pattern("o.w", 100), body).await.unwrap(), "status 200");
        let late = run(pattern("world", 5), body).await.unwrap_err();
        assert_eq!(late, "status 200, and \"world\" is not in the first 5 bytes");
    }

    #[tokio::test]
    async fn no_answer_is_believed_that_is_none() {
        for (answer, expected) in [
            (&b""[..], "connection closed before message completed"),
            (b"HTTP/1.1 200", "connection closed before message completed"),
            (b"\0\0\0\0\0\0\0\0\r\n\r\n", "invalid HTTP version parsed"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "invalid HTTP version parsed"),
            (b"HTTP/1.1 999999 OK\r\n\r\n", "invalid HTTP status-code parsed"),
        ] {
            let reason = run(ok(), says(answer).await).await.unwrap_err();
            assert_eq!(reason, format!("answer: {expected}"), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn a_request_that_cannot_be_is_no_ones_failure() {
        let address = says("").await;
        for http in [
            Http { method: "GE T".to_owned(), ..Http::default() },
            Http { path: "no path".to_owned(), ..Http::default() },
            Http { host: Some("a\nb".to_owned()), ..Http::default() },
            Http { headers: vec![("a b".to_owned(), String::new())], ..Http::default() },
        ] {
            let result = Check::new(Kind::Http(http)).run(&Target::new(address)).await;
            assert!(matches!(result, Err(Failure::Unable(_))), "{result:?}");
        }
    }
}

#[test]
fn a_check_is_read_and_written() {
    let check: Check =
        serde_json::from_str(r#"{"kind": "tcp", "timeout": "500ms", "to": "service"}"#).unwrap();
    assert_eq!((check.timeout, check.to), (Duration::from_millis(500), To::Service));
    let text = serde_json::to_string(&check).unwrap();
    assert_eq!(serde_json::from_str::<Check>(&text).unwrap(), check);
    for wrong in [
        r#"{"kind": "tcp", "time": 3}"#,
        r#"{"kind": "tcp", "timeout": "3 bananas"}"#,
        r#"{"kind": "tcp", "timeout": -1}"#,
        r#"{"kind": "tpc"}"#,
    ] {
        assert!(serde_json::from_str::<Check>(wrong).is_err(), "{wrong}");
    }
    #[cfg(feature = "http")]
    {
        let text =
            r#"{"kind": {"http": {"path": "/x", "status": "200-204,301", "pattern": "ok"}}}"#;
        let check: Check = serde_json::from_str(text).unwrap();
        let again: Check = serde_json::from_str(&serde_json::to_string(&check).unwrap()).unwrap();
        assert_eq!(check, again);
        let text = r#"{"kind": {"http": {"pattern": "("}}}"#;
        let error = serde_json::from_str::<Check>(text).unwrap_err();
        assert!(error.to_string().contains("no regular expression"), "{error}");
    }
}
