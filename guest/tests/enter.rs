//! A program such as the examples: `lvs_guest::enter_or_exit` first in `main`.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{self, Command, Stdio},
    time::Duration,
};

use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::prctl;

use lvs_guest::{Choice, ErrorKind, Options};

/// Set in the process that enters.
const ENTERS: &str = "LVS_GUEST_TEST_ENTERS";
/// Set in a process that may pass without a kernel.
const SKIPS: &str = "LVS_GUEST_TEST_SKIPS";
const VALUE: &str = "LVS_GUEST_TEST_VALUE";

fn main() {
    if std::env::var_os(ENTERS).is_some() {
        look(&lvs_guest::enter_or_exit());
    }
    if std::env::var_os(SKIPS).is_some() {
        println!("on {}", lvs_guest::enter_or_skip());
        process::exit(7);
    }
    lvs_guest::assume_role();
    let mut arguments = Arguments::from_args();
    // A process that enters must have one thread.
    arguments.test_threads = Some(1);
    let case = |name: &str, case: fn()| {
        Trial::test(name, move || {
            case();
            Ok::<(), Failed>(())
        })
    };
    let cases = vec![
        case("enter_hands_everything_on", enter_hands_everything_on),
        case("a_crash_is_no_excuse", a_crash_is_no_excuse),
        case("a_failed_enter_leaves_the_process_as_it_was", a_failed_enter_leaves_no_trace),
    ];
    libtest_mimic::run(&arguments, cases).exit();
}

/// A test may pass without a kernel only if there is none.
fn a_crash_is_no_excuse() {
    let cache = tempfile::tempdir().unwrap();
    let cache = cache.path().to_str().unwrap();
    let slow = Path::new(cache).join("slow");
    fs::write(&slow, "#!/bin/sh\nexec sleep 60\n").unwrap();
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).unwrap();
    let slow = slow.to_str().unwrap();
    let crash = [("LVS_GUEST_UML", "/bin/true"), ("LVS_GUEST_UML_MODULES", "/")];
    // It starts, and does not end in time.
    let late =
        [("LVS_GUEST_TIME_LIMIT", "1"), ("LVS_GUEST_UML", slow), ("LVS_GUEST_UML_MODULES", "/")];
    let none = [
        ("LVS_GUEST_KERNEL", "uml-5.10"),
        ("LVS_GUEST_CACHE", cache),
        ("LVS_GUEST_UML", ""),
        ("PATH", "/nowhere"),
    ];
    for (variables, required, status, words) in [
        (&crash[..], "", 125, "without an exit status"),
        (&late, "", 124, "time limit of 1 s"),
        (&none, "1", 125, "there is no apt-get"),
        (&none, "", 0, "there is no apt-get"),
    ] {
        let output = Command::new(std::env::current_exe().unwrap())
            .env(SKIPS, "1")
            .env("LVS_GUEST_PLACE", "guest")
            .env("LVS_REQUIRE_KERNEL", required)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let errors = text(output.stderr);
        assert_eq!(output.status.code(), Some(status), "{errors}");
        assert!(output.stdout.is_empty() && errors.contains(words), "{errors}");
        let last = errors.lines().last()
            == Some("guest: nothing was tested, since there is no kernel for it");
        assert_eq!(last, status == 0, "{errors}");
    }
}

fn a_failed_enter_leaves_no_trace() {
    let state = || {
        let descriptors = fs::read_dir("/proc/self/fd").unwrap().count();
        let directory = std::env::current_dir().unwrap();
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let blocked = status.lines().find(|line| line.starts_with("SigBlk:")).map(str::to_owned);
        (blocked, prctl::get_child_subreaper().unwrap(), descriptors, directory)
    };
    let mut guest = Options::default();
    guest.choice = Choice::Guest;
    let (mut late, mut crashed, mut small) = (guest.clone(), guest.clone(), guest);
    late.time_limit = Some(Duration::from_millis(1));
    crashed.uml = Some("/bin/true".into());
    crashed.uml_modules = Some("/".into());
    small.memory = 1;
    let before = state();
    for (options, kind) in
        [(late, ErrorKind::TimeLimit), (crashed, ErrorKind::Guest), (small, ErrorKind::Setting)]
    {
        assert_eq!(lvs_guest::enter(&options).unwrap_err().kind(), kind);
        assert_eq!(state(), before, "after {kind:?}");
    }
}

/// Starts this program again and compares what it finds with what it got.
fn enter_hands_everything_on() {
    let arguments = ["", "two words", "line\nbreak", "'\"$HOME\\"];
    let value = "a=b\n'\"\\";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(arguments)
        .env(ENTERS, "1")
        .env(VALUE, value)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"in\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let (said, errors) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(7), "{said}\n{errors}");
    assert!(errors.ends_with("to standard error\n"), "{errors}");
    let said: BTreeMap<&str, &str> = said.lines().filter_map(|line| line.split_once('=')).collect();
    println!("entered {}", said["place"]);
    assert_eq!(said["arguments"], format!("{arguments:?}"));
    assert_eq!(said["value"], format!("{value:?}"));
    assert_eq!(said["input"], format!("{:?}", "in\n"));
    assert_eq!(said["directory"], env!("CARGO_MANIFEST_DIR"));
    assert_eq!(said["program"], std::env::current_exe().unwrap().to_str().unwrap());
    // On any kernel, IPVS is there, and nobody else's links are.
    assert_eq!(said["links"], r#"["lo"]"#);
    assert_eq!(said["lo"], "0x9", "lo is not up");
    assert_eq!(said["ipvs"], "true");
    assert_eq!(said["names"], "0");
    // For the program inside, its own kernel is this machine's: it can ask for that.
    assert!(said["threads"].contains("already has 2 threads"), "{}", said["threads"]);
    assert!(said["host"].contains("in new namespaces"), "{}", said["host"]);
    assert_eq!(said["moved"], "true");
}

fn look(place: &lvs_guest::Place) -> ! {
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input).unwrap();
    let links = fs::read_dir("/sys/class/net").unwrap().map(|link| link.unwrap().file_name());
    println!("place={place}");
    println!("arguments={:?}", std::env::args().skip(1).collect::<Vec<_>>());
    println!("value={:?}", std::env::var(VALUE).unwrap());
    println!("input={input:?}");
    println!("directory={}", std::env::current_dir().unwrap().display());
    println!("program={}", std::env::current_exe().unwrap().display());
    println!("links={:?}", links.collect::<Vec<_>>());
    println!("lo={}", fs::read_to_string("/sys/class/net/lo/flags").unwrap().trim());
    println!("ipvs={}", fs::exists("/proc/sys/net/ipv4/vs").unwrap());
    println!("names={}", fs::read_dir("/run/netns").unwrap().count());

    let mut host = Options::default();
    host.choice = Choice::Host;
    let namespace = || fs::read_link("/proc/self/ns/net").unwrap();
    let before = namespace();
    // Only one thread would move.
    let threads =
        std::thread::scope(|scope| scope.spawn(|| lvs_guest::enter(&host)).join().unwrap());
    println!("threads={}", threads.unwrap_err());
    // A joined thread may stay on the kernel's list for a moment.
    while fs::read_dir("/proc/self/task").unwrap().count() > 1 {
        std::thread::yield_now();
    }
    println!("host={}", lvs_guest::enter(&host).unwrap());
    println!("moved={}", namespace() != before);
    eprintln!("to standard error");
    process::exit(7)
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}
