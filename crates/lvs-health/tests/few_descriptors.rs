//! More checks at once than this process may open descriptors. A process of its own, since the limit is
//! a process's.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{collections::HashSet, net::UdpSocket, time::Duration};

use lvs::client::packet::{DestinationKey, ServiceKey};
use lvs_health::{
    Outcome,
    check::{Check, Checker, Kind, Limits, News, Pace, Target, Udp, Wanted},
};
use nix::sys::resource::{Resource, setrlimit};
use tokio::time::timeout;

const CHECKS: u16 = 10_000;
/// Long enough for any machine.
const LONG: Duration = Duration::from_secs(120);

#[tokio::test]
async fn fewer_are_made_at_once_and_none_fails_for_it() {
    // Silent, so that each check has its descriptor for its whole time.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    setrlimit(Resource::RLIMIT_NOFILE, 300, 300).unwrap();
    let mut udp = Udp::default();
    udp.answer = false;
    let check = Check::new(Kind::Udp(udp)).timeout(Duration::from_millis(50));
    let wanted = |number: u16| {
        let [high, low] = number.to_be_bytes();
        Wanted {
            pool: ServiceKey::udp(([10, 0, 0, 1], 53).into()).unwrap(),
            member: DestinationKey::new(([127, 1, high, low], port).into()).unwrap(),
            check: check.clone(),
            pace: Pace::every(Duration::from_secs(3600)),
        }
    };
    drop(silent);
    // Bound to every address, so that each member is there.
    let _silent = UdpSocket::bind(("0.0.0.0", port)).unwrap();
    let mut limits = Limits::default();
    (limits.at_once, limits.per_second) = (usize::from(CHECKS), 100_000);
    let (checker, mut news) = Checker::start(limits);
    checker.replace((0..CHECKS).map(wanted).collect());
    let (mut seen, mut shortages) = (HashSet::new(), 0);
    timeout(LONG, async {
        while seen.len() < usize::from(CHECKS) {
            match news.recv().await.unwrap() {
                News::Result(report) => {
                    assert_eq!(report.outcomes, [Outcome::Good], "{:?}", report.result);
                    seen.insert(report.member);
                }
                News::Shortage(reason) => {
                    assert!(reason.contains("too many open files"), "{reason}");
                    shortages += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    })
    .await
    .unwrap();
    assert_eq!(shortages, 1, "it is said once");
    // Alone it works, too.
    drop(checker);
    let member = wanted(1).member;
    check.run(&Target::new((member.address, member.port).into())).await.unwrap();
}
