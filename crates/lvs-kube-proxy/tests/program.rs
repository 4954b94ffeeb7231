//! The program where it cannot do its work, in a user namespace of its own: there the kernel has no IPVS
//! for it, or no rights.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use tempfile::TempDir;

#[test]
fn what_is_lacking_is_said_and_tried_again() {
    let directory = TempDir::new().unwrap();
    let Some(mut command) = program(directory.path()) else { return };
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut attempts = Vec::new();
    while attempts.len() < 3 {
        let line = lines.next().expect("the program goes on").unwrap();
        if let Some((reason, wait)) = line.split_once("; the next attempt is in ") {
            assert!(reason.contains("IPVS") || reason.contains("CAP_NET_ADMIN"), "{line}");
            attempts.push(wait.to_owned());
        }
    }
    assert_eq!(attempts, ["0.5 s", "1 s", "2 s"]);
    // Asked to end, it does, and nothing was wrong with that.
    assert_eq!(end(&mut child), Some(0));
}

/// Each line is an object, for what collects logs.
#[test]
fn logs_in_json() {
    let directory = TempDir::new().unwrap();
    let Some(mut command) = program(directory.path()) else { return };
    let mut child = command.arg("--logging-format=json").stderr(Stdio::piped()).spawn().unwrap();
    let line = BufReader::new(child.stderr.take().unwrap()).lines().next().unwrap().unwrap();
    assert_eq!(end(&mut child), Some(0));
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["level"], "ERROR", "{line}");
    assert!(line["message"].as_str().unwrap().contains("the next attempt is in"), "{line}");
}

#[test]
fn once_is_once() {
    let directory = TempDir::new().unwrap();
    for word in ["--once", "--dry-run", "--init-only", "--cleanup"] {
        let Some(mut command) = program(directory.path()) else { return };
        let output = command.arg(word).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{word}: {text}");
        let last = text.lines().last().unwrap_or_default();
        assert!(last.starts_with("lvs-kube-proxy: "), "{word}: {text}");
        assert!(last.contains("IPVS") || last.contains("CAP_NET_ADMIN"), "{word}: {text}");
    }
}

#[test]
fn what_is_wrong_with_the_command_line() {
    let output = Command::new(env!("CARGO_BIN_EXE_lvs-kube-proxy"))
        .arg("--proxy-mode=iptables")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}

/// The program in namespaces of its own; `None` where none can be made.
fn program(directory: &Path) -> Option<Command> {
    let unshare = ["--user", "--map-root-user", "--net"];
    let probe = Command::new("unshare").args(unshare).arg("true").status();
    if !probe.is_ok_and(|status| status.success()) {
        eprintln!("not run: user namespaces cannot be made here");
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(unshare).arg(env!("CARGO_BIN_EXE_lvs-kube-proxy"));
    command.arg("--manifests").arg(directory).arg("--hostname-override=node-a");
    Some(command)
}

/// Sends SIGTERM and returns the exit code.
fn end(child: &mut Child) -> Option<i32> {
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    for _ in 0..100 {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        sleep(Duration::from_millis(50));
    }
    child.kill().unwrap();
    panic!("the program does not end");
}
