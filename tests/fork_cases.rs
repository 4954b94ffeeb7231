//! Clients on both sides of a fork: neither side gets the other's answers or hangs.

use std::{
    thread,
    time::{Duration, Instant},
};

use ipvs_client::{
    ErrorKind, blocking,
    packet::{Request, Service, ServiceKey},
};
use kernel_tests::Outcome;
use libtest_mimic::Trial;
use netns_link::NetNs;
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork},
};

use crate::part::{self, Part};

const BOTH_SIDES: Part = Part("fork_both_sides", both_sides);

pub(crate) const PARTS: &[Part] = &[BOTH_SIDES];

/// Every case by its name.
pub(crate) fn cases() -> Vec<Trial> {
    vec![part::case("fork_both_sides", BOTH_SIDES, &["env"])]
}

/// A hundred children, while threads of the parent use the sockets nearly all of the time.
fn both_sides() -> Outcome {
    let here = NetNs::current()?;
    let links = netns_link::blocking::Links::connect(&here)?;
    let loopback = links.find("lo")?.ok_or("no lo")?;
    links.up(&loopback)?;
    let client = blocking::Client::connect()?;
    let key = |port: u16| ServiceKey::tcp(([10, 0, 0, 1], port).into()).expect("IPv4");
    for port in 1..=40 {
        client.add_service(&Service::new(key(port)))?;
    }
    for _ in 0..2 {
        let (client, links) = (client.clone(), links.clone());
        thread::spawn(move || while client.services().is_ok() && links.list().is_ok() {});
    }
    for round in 1..=100_u16 {
        // SAFETY: the child calls only what is tested, and exits without running the parent's code.
        match unsafe { fork() }? {
            ForkResult::Child => {
                let refused = child_is_refused(&client, &links);
                // SAFETY: the process ends here, and nothing of it is used after that.
                unsafe { nix::libc::_exit(if refused { 0 } else { 1 }) }
            }
            ForkResult::Parent { child } => {
                for port in 1..=40 {
                    let found = client.service(&key(port))?;
                    assert_eq!(*found.service.key(), key(port), "round {round}: another's answer");
                }
                end_of(child, round)?;
            }
        }
    }
    client.flush()?;
    Ok(())
}

fn child_is_refused(client: &blocking::Client, links: &netns_link::blocking::Links) -> bool {
    let other = ErrorKind::OtherProcess;
    let key = ServiceKey::tcp(([10, 0, 0, 1], 1).into()).expect("IPv4");
    let batch = client.batch(&[Request::DeleteService(key), Request::Flush]);
    let own = blocking::Client::connect().and_then(|own| own.services());
    client.services().is_err_and(|error| error.kind() == other)
        && client.service(&key).is_err_and(|error| error.to_string().contains("fork"))
        && client.snapshot().is_err_and(|error| error.kind() == other)
        && batch.len() == 2
        && batch.iter().all(|write| write.as_ref().is_err_and(|error| error.kind() == other))
        && links.list().is_err_and(|error| error.kind() == netns_link::ErrorKind::OtherProcess)
        && own.is_ok_and(|services| services.len() == 40)
}

/// Waits for a child, which must not hang.
fn end_of(child: Pid, round: u16) -> Outcome {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::Exited(_, 0) => return Ok(()),
            WaitStatus::StillAlive if Instant::now() < until => {
                thread::sleep(Duration::from_millis(1));
            }
            WaitStatus::StillAlive => {
                kill(child, Signal::SIGKILL)?;
                waitpid(child, None)?;
                return Err(format!("round {round}: the child hangs").into());
            }
            ended => {
                return Err(format!("round {round}: the child got something: {ended:?}").into());
            }
        }
    }
}
