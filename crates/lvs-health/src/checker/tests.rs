//! The checker on the loopback.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use tokio::{net::TcpListener, time::timeout};

use super::*;
use crate::check::Kind;

const LONG: Duration = Duration::from_secs(20);

/// A server that counts its connections.
async fn counting() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counter = count.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    (address, count)
}

fn wanted(service: u8, member: SocketAddr, seconds: u64) -> Wanted {
    Wanted {
        pool: ServiceKey::tcp(([10, 0, 0, service], 80).into()).unwrap(),
        member: DestinationKey::new(member).unwrap(),
        check: Check::new(Kind::Tcp).timeout(LONG),
        pace: Pace::every(Duration::from_secs(seconds)),
    }
}

async fn result(news: &mut mpsc::Receiver<News>) -> Report {
    match timeout(LONG, news.recv()).await.unwrap().unwrap() {
        News::Result(report) => report,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn equal_checks_are_made_once_and_a_reload_restarts_none() {
    let (address, count) = counting().await;
    let (checker, mut news) = Checker::start(Limits::default());
    checker.replace(vec![wanted(1, address, 3600), wanted(2, address, 3600)]);
    for service in [1, 2] {
        let report = result(&mut news).await;
        assert_eq!(report.pool, wanted(service, address, 1).pool);
        assert_eq!(report.outcomes, [Outcome::Good]);
    }
    // A third pool hears of it at once, the others go on.
    checker.replace((1..=3).map(|service| wanted(service, address, 3600)).collect());
    assert_eq!(result(&mut news).await.pool, wanted(3, address, 1).pool);
    assert!(news.try_recv().is_err());
    assert_eq!(count.load(Ordering::Relaxed), 1);
    // With another pace it is another check.
    checker.replace(vec![wanted(1, address, 1800)]);
    assert_eq!(result(&mut news).await.outcomes, [Outcome::Good]);
    checker.replace(Vec::new());
    drop(checker);
    assert!(timeout(LONG, news.recv()).await.unwrap().is_none(), "it ends with its handle");
}

#[tokio::test]
async fn a_check_that_is_taken_away_ends_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap();
    let (checker, mut news) = Checker::start(Limits { at_once: 1, ..Limits::default() });
    let mut slow = wanted(1, silent, 1);
    slow.check = Check::new(Kind::Line(crate::check::Line::imap()));
    slow.check.timeout = Duration::from_secs(3600);
    checker.replace(vec![slow]);
    let (mut connection, _) = timeout(LONG, listener.accept()).await.unwrap().unwrap();
    let (address, _count) = counting().await;
    checker.replace(vec![wanted(1, address, 1)]);
    assert_eq!(result(&mut news).await.outcomes, [Outcome::Good], "its place is free");
    let mut read = Vec::new();
    let end = tokio::io::AsyncReadExt::read_to_end(&mut connection, &mut read);
    let _ = timeout(LONG, end).await.expect("its connection is closed");
}

#[tokio::test]
async fn checks_are_made_again_and_changes_are_seen() {
    let (address, _) = counting().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = closed.local_addr().unwrap();
    let (checker, mut news) = Checker::start(Limits::default());
    let often =
        |member| Wanted { pace: Pace::every(Duration::from_millis(10)), ..wanted(1, member, 1) };
    checker.replace(vec![often(address), often(other)]);
    let mut good = 0;
    while good < 10 {
        let report = result(&mut news).await;
        assert_eq!(report.outcomes, [Outcome::Good]);
        good += usize::from(report.member == DestinationKey::new(other).unwrap());
    }
    drop(closed);
    loop {
        let report = result(&mut news).await;
        if let [Outcome::Bad(reason)] = &report.outcomes[..] {
            assert_eq!(report.member, DestinationKey::new(other).unwrap());
            assert_eq!(reason, "connect: connection refused");
            break;
        }
    }
}
