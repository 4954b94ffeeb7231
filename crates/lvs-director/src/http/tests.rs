//! What is answered, to programs and to a real browser.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use prometheus_parse::Scrape;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;
use crate::{
    control::{Answer, Request as Asked},
    status::{CheckStatus, EventStatus, MemberStatus, ServiceStatus, Traffic},
};

/// A status to look at. From the second time on, a server is down.
fn status(number: usize) -> Status {
    let check = |passed: bool, text: &str| CheckStatus {
        name: "web".to_owned(),
        at: 1_800_000_000,
        passed: Some(passed),
        text: text.to_owned(),
    };
    let member = |address: &str, health: &str, weight: u32, check: CheckStatus| MemberStatus {
        address: address.to_owned(),
        forwarding: "nat".to_owned(),
        health: health.to_owned(),
        mode: "enabled".to_owned(),
        since: Some(1_799_990_000),
        weight: Some(weight),
        wanted: Some(weight),
        active: 12 * weight,
        inactive: 40 * weight,
        traffic: Traffic { connections: 5000, connection_rate: 31, ..Traffic::default() },
        history: (0..60).map(|n| 20 + (n * n / 40 + n * u64::from(weight)) % 11).collect(),
        checks: vec![check],
        ..MemberStatus::default()
    };
    let second = match number {
        0 => member("10.1.0.2:80", "up", 1, check(true, "status 200")),
        _ => member("10.1.0.2:80", "down", 0, check(false, "connect: connection refused")),
    };
    let first = member("10.1.0.1:80", "up", 3, check(true, "status 200"));
    let service = |name: &str, key: &str, members| ServiceStatus {
        name: name.to_owned(),
        key: key.to_owned(),
        scheduler: "wlc".to_owned(),
        is_there: true,
        traffic: Traffic {
            connections: 10_000,
            connection_rate: 62,
            incoming_byte_rate: 1_250_000,
            outgoing_byte_rate: 9_800_000,
            ..Traffic::default()
        },
        history: (0..60).map(|n| 50 + (n * n / 30) % 13).collect(),
        members,
        ..ServiceStatus::default()
    };
    let draining = MemberStatus {
        mode: "draining".to_owned(),
        ..member("10.1.1.1:443", "up", 0, check(true, "connected"))
    };
    Status {
        version: "0".to_owned(),
        now: 1_800_000_002,
        role: "master".to_owned(),
        file: "/etc/lvs-director.yaml".to_owned(),
        checks: 4,
        services: vec![
            service("web", "-t 192.0.2.1:80", vec![first, second]),
            service("tls", "-t 192.0.2.1:443", vec![draining]),
        ],
        events: vec![EventStatus {
            at: 1_799_999_990,
            kind: "down".to_owned(),
            text: "web: 10.1.0.2:80 is down: connect: connection refused".to_owned(),
        }],
        metrics: vec![("lvs_reconciler_rounds_total".to_owned(), "Rounds".to_owned(), true, 7)],
        ..Status::default()
    }
}

/// Serves statuses, one after the other.
async fn serve_statuses() -> Http {
    let (asks, mut asked) = mpsc::channel::<Ask>(16);
    tokio::spawn(async move {
        let count = AtomicUsize::new(0);
        while let Some((request, reply)) = asked.recv().await {
            assert!(matches!(request, Asked::Status), "nothing else can be asked");
            let status = Some(Box::new(status(count.fetch_add(1, Ordering::Relaxed))));
            let _ = reply.send(Answer { done: true, text: String::new(), status });
        }
    });
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    Http::listen_with(free, asks, Duration::ZERO).await.unwrap()
}

async fn get(http: &Http, head: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(http.address).await.unwrap();
    let request = format!("{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (code, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

#[tokio::test]
async fn each_path() {
    let http = serve_statuses().await;
    for (head, code, text) in [
        ("GET /", 200, "<!DOCTYPE html>"),
        ("GET /part", 200, "connection refused"),
        ("GET /healthz", 200, "ok"),
        ("GET /status.json", 200, "\"role\":\"master\""),
        ("GET /metrics", 200, "lvs_director_member_up"),
        ("GET /../etc/passwd", 404, "not found"),
        ("POST /", 405, "read only"),
        ("DELETE /status.json", 405, "read only"),
    ] {
        let (found, body) = get(&http, head).await;
        assert!(found == code && body.contains(text), "{head}: {found} {body}");
    }
}

/// One who says nothing keeps nobody else out.
#[tokio::test]
async fn silent_clients_keep_nobody_out() {
    let http = serve_statuses().await;
    let mut silent = Vec::new();
    for _ in 0..AT_ONCE / 2 {
        let mut stream = TcpStream::connect(http.address).await.unwrap();
        stream.write_all(b"GET / HT").await.unwrap();
        silent.push(stream);
    }
    assert_eq!(get(&http, "GET /healthz").await.0, 200);
}

/// As Prometheus reads it: every line is a sample, and each is there once.
#[test]
fn metrics_are_scraped() {
    let mut status = status(1);
    status.services[1].name = "tls \"x\"\\\n".to_owned();
    let text = metrics::text(&status).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let scrape = Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).unwrap();
    assert_eq!(scrape.samples.len(), lines.count(), "{text}");
    let of = |name: &str, member: &str| {
        let sample = scrape
            .samples
            .iter()
            .find(|it| it.metric == name && it.labels.get("member").unwrap_or_default() == member);
        match sample.map(|it| &it.value) {
            Some(
                prometheus_parse::Value::Gauge(value)
                | prometheus_parse::Value::Counter(value)
                | prometheus_parse::Value::Untyped(value),
            ) => *value,
            other => panic!("{name} {member}: {other:?} in {text}"),
        }
    };
    assert_eq!(of("lvs_director_member_up", "10.1.0.1:80"), 1.0);
    assert_eq!(of("lvs_director_member_up", "10.1.0.2:80"), 0.0);
    assert_eq!(of("lvs_director_member_weight", "10.1.0.1:80"), 3.0);
    assert_eq!(of("lvs_director_member_enabled", "10.1.1.1:443"), 0.0);
    assert_eq!(of("lvs_director_member_connections_total", "10.1.0.1:80"), 5000.0);
    assert_eq!(of("lvs_reconciler_rounds_total", ""), 7.0);
    assert_eq!(of("lvs_director_master", ""), 1.0);
}

/// A browser loads the page with a server that is up. Within two seconds its script shows that it is down, and
/// the console has no error. With `LVS_PICTURE` it makes a picture, too.
#[tokio::test]
async fn a_browser_sees_a_server_go_down() {
    let programs = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
    let Some(browser) = programs.into_iter().find(|it| Path::new(it).exists()) else {
        eprintln!("not run: there is no chromium here");
        return;
    };
    let http = serve_statuses().await;
    let profile = tempfile::tempdir().unwrap();
    let url = format!("http://{}/", http.address);
    let run = async |words: &[&str]| {
        let mut command = tokio::process::Command::new(browser);
        command
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-background-networking", "--enable-logging=stderr"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(words)
            .arg(&url)
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true);
        timeout(Duration::from_secs(120), command.output()).await.unwrap().unwrap()
    };
    let output = run(&["--dump-dom", "--virtual-time-budget=2000"]).await;
    let dom = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(dom.contains("state down"), "{dom}\n{said}");
    let console: Vec<_> = said.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(console.is_empty(), "{console:?}");
    if let Some(directory) = std::env::var_os("LVS_PICTURE") {
        let directory = Path::new(&directory).display();
        for (name, size) in [("page", "1000,620"), ("phone", "390,844")] {
            let picture = format!("--screenshot={directory}/{name}.png");
            let output = run(&[&picture, &format!("--window-size={size}")]).await;
            assert!(output.status.success(), "{output:?}");
        }
    }
}
