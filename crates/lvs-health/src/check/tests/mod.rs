//! Each check against small servers on the loopback.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::*;
use crate::Outcome;

#[cfg(feature = "dns")]
mod dns;
#[cfg(feature = "http2")]
mod http2;
#[cfg(feature = "http2")]
mod said;
#[cfg(feature = "tls")]
mod tls;

/// Long enough for any machine; a test that fails may take it.
const LONG: Duration = Duration::from_secs(20);

/// A server that does the same with each connection.
async fn server<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
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

/// A server that writes bytes and waits until the other side has closed.
async fn greets(bytes: &'static [u8]) -> SocketAddr {
    server(move |mut stream| async move {
        let _ = stream.write_all(bytes).await;
        let _ = stream.read(&mut [0; 16]).await;
    })
    .await
}

/// A server that says the first, each of the others when it has read something, and closes.
async fn dialogue(answers: &[&'static str]) -> SocketAddr {
    let answers = answers.to_vec();
    server(move |mut stream| {
        let answers = answers.clone();
        async move {
            for (index, answer) in answers.iter().enumerate() {
                if index > 0 {
                    let _ = stream.read(&mut [0; 4096]).await;
                }
                let _ = stream.write_all(answer.as_bytes()).await;
            }
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

#[tokio::test]
async fn an_answer_begins_as_it_should() {
    for (line, answer, expected) in [
        (Line::redis(), &b"+PONG\r\n"[..], Ok("answer \"+PONG\"")),
        (
            Line::redis(),
            b"-NOAUTH Authentication required.\r\n",
            Ok("answer \"-NOAUTH Authentication required.\""),
        ),
        (
            Line::redis(),
            b"-LOADING wait\r\n",
            Err("answer \"-LOADING wait\", wanted \"+PONG\" or \"-NOAUTH\""),
        ),
        (Line::memcached(), b"VERSION 1.6\r\n", Ok("answer \"VERSION 1.6\"")),
        (Line::postgresql(), b"N", Ok("answer \"N\"")),
        (Line::postgresql(), b"E\0\0", Err("answer \"E\\x00\\x00\", wanted \"S\" or \"N\"")),
        (Line::new(b"x", b"+PONG"), b"+PO", Err("answer \"+PO\", wanted \"+PONG\"")),
        (Line::new(b"x", b"+PONG"), b"", Err("answer: closed without a word")),
    ] {
        let found = run(Kind::Line(line), says(answer).await).await;
        let found = found.as_ref().map(String::as_str).map_err(String::as_str);
        assert_eq!(found, expected, "{answer:?}");
    }
    // Greetings come unasked.
    for (line, greeting) in [
        (Line::imap(), &b"* OK ready\r\n"[..]),
        (Line::pop(), b"+OK ready\r\n"),
        (Line::mysql(), b"\x4a\0\0\0\x0a8.0.36\0"),
        (Line::default(), b"\0"),
    ] {
        run(Kind::Line(line), greets(greeting).await).await.unwrap();
    }
    let refusal = greets(b"\x45\0\0\0\xffj\x04Host is not allowed").await;
    let reason = run(Kind::Line(Line::mysql()), refusal).await.unwrap_err();
    assert!(reason.contains("Host is not allowed"), "{reason}");
}

#[tokio::test]
async fn a_mail_server_greets_and_takes_helo() {
    let good = dialogue(&["220-mail\r\n220 mail.example ESMTP\r\n", "250 hello\r\n", ""]).await;
    let found = run(Kind::Smtp(Smtp::default()), good).await;
    assert_eq!(found.unwrap(), "greeting \"220 mail.example ESMTP\"");
    for (answers, reason) in [
        (&["554 no\r\n"][..], "greeting: answer \"554 no\", wanted 220"),
        (&["220 hi\r\n", "550 go away\r\n"], "HELO: answer \"550 go away\", wanted 250"),
        (&["220 hi\r\n", "250-a\r\n"], "answer: closed in the middle"),
        (&["2200\r\n"], "greeting: answer \"2200\", wanted 220"),
        (&["\0\0\n"], "greeting: answer \"\\x00\\x00\", wanted 220"),
    ] {
        let found = run(Kind::Smtp(Smtp::default()), dialogue(answers).await).await.unwrap_err();
        let is_end = found.starts_with("answer: closed") && reason.starts_with("answer: closed");
        assert!(found == reason || is_end, "{found}, not {reason}");
    }
    let smtp = Smtp { helo: "a\r\nMAIL".to_owned(), ..Smtp::default() };
    let error = run(Kind::Smtp(smtp), good).await.unwrap_err();
    assert!(error.contains("no host's name"), "{error}");
}

#[tokio::test]
async fn datagrams_are_answered_or_refused() {
    let server = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        let mut datagram = [0; 2048];
        while let Ok((length, from)) = server.recv_from(&mut datagram).await {
            if &datagram[..length] != b"silence" {
                let _ = server.send_to(&datagram[..length], from).await;
            }
        }
    });
    let udp = |send: &[u8], expect: &[&[u8]], answer| {
        let expect = expect.iter().map(|it| Text::from(*it)).collect();
        Kind::Udp(Udp { send: send.into(), expect, answer })
    };
    assert_eq!(run(udp(b"hello", &[b"he"], true), address).await.unwrap(), "answer of 5 bytes");
    let wrong = run(udp(b"\0\xff", &[b"he"], true), address).await.unwrap_err();
    assert_eq!(wrong, "answer \"\\x00\\xff\", wanted \"he\"");
    assert_eq!(run(udp(b"", &[], false), address).await.unwrap(), "answer of 0 bytes");
    // Silence is good only where an answer is not asked for.
    for (answer, expected) in
        [(false, Ok("not refused")), (true, Err("answer: no end within 100ms"))]
    {
        let check = Check::new(udp(b"silence", &[], answer)).timeout(Duration::from_millis(100));
        let found = check.run(&Target::new(address)).await;
        let found = found.map(|good| good.to_string()).map_err(|failure| failure.to_string());
        assert_eq!(found.as_ref().map(String::as_str).map_err(String::as_str), expected);
    }
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for answer in [false, true] {
        let reason = run(udp(b"hello", &[], answer), closed).await.unwrap_err();
        assert_eq!(reason, "answer: connection refused");
    }
}

#[tokio::test]
async fn an_echo_needs_no_port() {
    let nobody = Target::new("127.0.0.1:0".parse().unwrap());
    match Check::new(Kind::Icmp).timeout(LONG).run(&nobody).await {
        Ok(_) => {}
        // Where this process's group may not.
        Err(failure) => assert!(failure.to_string().contains("ping_group_range"), "{failure}"),
    }
}

#[test]
fn only_the_reply_is_a_reply() {
    assert!(datagram::is_reply(&[0, 0, 1, 2, 3, 4, 0, 1], true));
    assert!(datagram::is_reply(&[129, 0, 1, 2, 3, 4, 0, 1], false));
    for message in [&[][..], &[0; 7], &[8, 0, 1, 2, 3, 4, 0, 1], &[0, 0, 1, 2, 3, 4, 0, 2]] {
        assert!(!datagram::is_reply(message, true), "{message:?}");
    }
}

#[test]
fn an_agent_is_understood() {
    let wishes = |line: &str| agent::judge(line.as_bytes()).map(|good| good.wishes);
    assert_eq!(wishes("75%"), Ok(vec![Outcome::Weight(75)]));
    assert_eq!(wishes("up,ready 500%"), Ok(vec![Outcome::Enable, Outcome::Weight(100)]));
    assert_eq!(wishes("UP maxconn:30"), Ok(vec![]));
    assert_eq!(wishes("drain"), Ok(vec![Outcome::Drain]));
    assert_eq!(wishes("maint\t0%"), Ok(vec![Outcome::Maintenance, Outcome::Weight(0)]));
    for (line, reason) in [
        ("down # no disk", "agent: no disk"),
        ("stopped", "agent: stopped"),
        ("50% failed#\u{7}", "agent: \u{fffd}"),
    ] {
        assert_eq!(wishes(line), Err(Failure::Bad(reason.to_owned())));
    }
    for line in ["", "HTTP/1.1 400 Bad Request", "%", "-5%", "\0"] {
        assert!(matches!(wishes(line), Err(Failure::Unable(_))), "{line}");
    }
}

#[tokio::test]
async fn an_agent_that_does_not_answer_says_nothing() {
    let kind = || Kind::Agent(Agent { send: "hello\n".parse().unwrap() });
    assert_eq!(run(kind(), says("up 20%\n").await).await.unwrap(), "agent: up 20%");
    assert_eq!(run(kind(), says("ready").await).await.unwrap(), "agent: ready");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let reason = run(kind(), closed).await.unwrap_err();
    assert_eq!(reason, "cannot be checked: agent: connect: connection refused");
}

/// Answers to what never ends, comes byte by byte, or breaks off, of every check that reads an answer.
#[tokio::test]
async fn bad_servers_keep_no_check_for_longer_than_its_time() {
    let kinds = || {
        let all = [
            Kind::Line(Line::new(b"x", b"never")),
            Kind::Line(Line { at: 16_000, ..Line::new(b"x", b"never") }),
            Kind::Smtp(Smtp::default()),
            Kind::Agent(Agent::default()),
            #[cfg(feature = "tls")]
            Kind::Tls(Tls::default()),
            #[cfg(feature = "dns")]
            Kind::Dns(Dns { tcp: true, ..Dns::default() }),
            #[cfg(feature = "http2")]
            Kind::Grpc(Grpc::default()),
            #[cfg(feature = "http2")]
            Kind::Http(Http { http2: true, ..Http::default() }),
            #[cfg(feature = "http")]
            Kind::Http(Http::default()),
            #[cfg(feature = "http")]
            Kind::Http(Http { pattern: Some("never".parse().unwrap()), ..Http::default() }),
        ];
        all.into_iter()
    };
    async fn all_fail(kinds: impl Iterator<Item = Kind>, address: SocketAddr) {
        let mut checks: tokio::task::JoinSet<_> = kinds
            .map(|kind| async move {
                let check = Check::new(kind).timeout(Duration::from_millis(300));
                timeout(LONG, check.run(&Target::new(address))).await
            })
            .collect();
        while let Some(result) = checks.join_next().await {
            result.unwrap().expect("it ends").expect_err("no answer is as it should be");
        }
    }
    for bytes in [&b"a"[..], b"\0", b"\r\n", b"\n", b"220-a\r\n", b"HTTP/1.1 200 OK\r\n", b"1"] {
        let endless = server(move |mut stream| async move {
            while stream.write_all(&bytes.repeat(1000)).await.is_ok() {}
        })
        .await;
        all_fail(kinds(), endless).await;
    }
    let slow = server(|mut stream| async move {
        for byte in b"HTTP/1.1 200 OK\r\n".iter().chain(b"220 hello\r\n").cycle() {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    all_fail(kinds(), slow).await;
    // Reset before anything, and after a part of an answer.
    for part in [
        "",
        "H",
        "HTTP/1.1 200 OK\r\n",
        "220 hi\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnev",
    ] {
        let resets = server(move |mut stream| async move {
            let _ = stream.write_all(part.as_bytes()).await;
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        })
        .await;
        for kind in kinds() {
            // What comes before the reset may be enough.
            #[cfg(feature = "http")]
            if matches!(&kind, Kind::Http(http) if http.pattern.is_none()) && part.ends_with("nev")
            {
                continue;
            }
            let result = timeout(LONG, Check::new(kind.clone()).run(&Target::new(resets))).await;
            let agent_or_line = matches!(kind, Kind::Agent(_));
            match result.expect("it ends") {
                Err(Failure::Bad(_)) => {}
                Err(Failure::Unable(_)) if agent_or_line => {}
                other => panic!("{kind:?} {part:?}: {other:?}"),
            }
        }
    }
}

mod program {
    use super::*;

    fn sh(script: &str) -> Program {
        Program::new(
            "sh",
            ["-c", script, "sh", "{virtual_address}", "{virtual_port}", "{address}", "{port}"],
        )
    }

    async fn ends(program: Program) -> Result<Good, Failure> {
        let service = ServiceKey::tcp("10.0.0.185:80".parse().unwrap()).unwrap();
        let member = DestinationKey::new("172.17.0.3:8080".parse().unwrap()).unwrap();
        let check = Check::new(Kind::Program(program)).timeout(LONG);
        check.run(&Target::of(&service, &member)).await
    }

    #[tokio::test]
    async fn its_exit_status_counts() {
        let good = ends(sh("echo $*; exit 0")).await.unwrap();
        assert_eq!(good.detail, "10.0.0.185 80 172.17.0.3 8080");
        let bad = |reason: &str| Err(Failure::Bad(reason.to_owned()));
        assert_eq!(ends(sh("exit 1")).await, bad("exit status: 1"));
        assert_eq!(ends(sh("echo; echo no disk >&2; exit 2")).await, bad("no disk"));
        assert_eq!(ends(sh("kill -9 $$")).await, bad("signal: 9 (SIGKILL)"));
        for (status, percent) in [(2, 0), (52, 50), (102, 100), (255, 100)] {
            let dynamic = Program { dynamic: true, ..sh(&format!("exit {status}")) };
            assert_eq!(ends(dynamic).await.unwrap().wishes, [Outcome::Weight(percent)]);
        }
        let dynamic = Program { dynamic: true, ..sh("exit 1") };
        assert!(matches!(ends(dynamic).await, Err(Failure::Bad(_))));
        let none = Program::new("/nowhere/at-all", ["x"]);
        let reason = "/nowhere/at-all: no such file or directory".to_owned();
        assert_eq!(ends(none).await, Err(Failure::Unable(reason)));
    }

    #[tokio::test]
    async fn endless_output_is_read_and_forgotten() {
        let good = ends(sh("yes | head -c 5000000; yes | head -c 5000000 >&2")).await;
        assert_eq!(good.unwrap().detail, "y");
        let good = ends(sh("printf '\\0\\377\\n'")).await.unwrap();
        assert_eq!(good.detail, "\u{fffd}\u{fffd}");
    }

    /// The lock that a test holds is free once nobody else lives who inherited it.
    async fn is_free_soon(lock: &std::path::Path) -> bool {
        let until = std::time::Instant::now() + LONG;
        while std::time::Instant::now() < until {
            let status = tokio::process::Command::new("flock")
                .args(["--nonblock", &lock.display().to_string(), "true"])
                .status()
                .await;
            if status.unwrap().success() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    #[tokio::test]
    async fn what_it_forked_is_killed_with_it() {
        let folder = std::env::temp_dir();
        let lock = folder.join(format!("lvs-health-{}", std::process::id()));
        let path = lock.display();
        // It ends, and what it started goes on with its output and a lock; no longer than a minute.
        let forks = sh(&format!("exec 9>{path}; flock 9; sleep 60 & exit 0"));
        let begin = std::time::Instant::now();
        ends(forks).await.unwrap();
        assert!(begin.elapsed() < Duration::from_secs(50), "its output is not waited for");
        assert!(is_free_soon(&lock).await);
        // It does not end.
        let hangs = sh(&format!("exec 9>{path}; flock 9; sleep 60 & sleep 60; true"));
        let check = Check::new(Kind::Program(hangs)).timeout(Duration::from_millis(500));
        let result = check.run(&Target::new("127.0.0.1:1".parse().unwrap())).await;
        assert_eq!(result, Err(Failure::Bad("sh: no end within 500ms".to_owned())));
        assert!(is_free_soon(&lock).await);
        std::fs::remove_file(lock).unwrap();
    }
}

#[test]
fn texts_are_read_as_they_are_written() {
    for text in [r"PING\r\n", r"\x00\xff", r#"\"\'\\"#, "", "plain"] {
        let read: Text = text.parse().unwrap();
        assert_eq!(read.to_string(), text);
    }
    assert_eq!("\\0ä".parse::<Text>().unwrap().as_bytes(), b"\0\xc3\xa4");
    for wrong in [r"\", r"\x", r"\x0", r"\xzz", r"\q"] {
        assert!(wrong.parse::<Text>().is_err(), "{wrong}");
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
