//! The command line inside another program, which has an allocator of its own.

use std::{alloc::System, ffi::OsString, process::ExitCode};

use ipvsadm::{run_to, run_with};

/// A library with one too would not link (`.ci/run program` builds this for musl).
#[global_allocator]
static ALLOCATOR: System = System;

fn words(line: &str) -> impl Iterator<Item = OsString> {
    line.split(' ').map(OsString::from)
}

/// Status, output, messages.
fn ended(line: &str, input: &str) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = run_with(words(line), &mut input.as_bytes(), &mut out, &mut err);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (status.code(), text(&out), text(&err))
}

#[test]
fn everything_goes_to_the_callers_streams() {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = run_to(words("-v"), &mut out, &mut err);
    assert!(status.is_success() && out.starts_with(b"ipvsadm v1.31 ") && err.is_empty());
    assert_eq!(status.to_string(), "exit status 0");
    let _: ExitCode = status.into();

    let (status, out, err) = ended("-q", "");
    assert_eq!((status, out.as_str()), (255, ""));
    assert!(err.starts_with("ipvsadm: argument 1: -q is not an option\n"), "{err}");
}

#[test]
fn the_input_is_the_callers() {
    assert_eq!(ended("-R --dry-run", "-A -f 1\n"), (0, String::new(), String::new()));
    let (status, out, err) = ended("-R --dry-run", "-A -f 1\n-A -f 0\n");
    assert_eq!((status, out.as_str()), (2, ""));
    assert!(err.contains("line 2, column 7"), "{err}");
    let (status, _, err) = ended("--diff -", "-A -f 0");
    assert_eq!(status, 1);
    assert!(err.contains("the standard input: line 1, column 7"), "{err}");
}

/// What cannot be written is a failure, as on a full disk.
#[test]
fn output_that_cannot_be_written_is_noticed() {
    let (mut full, mut err) = ([0; 3], Vec::new());
    let status = run_to(words("-h"), &mut &mut full[..], &mut err);
    assert!(!status.is_success());
    assert!(String::from_utf8_lossy(&err).contains("cannot be written"));
}
