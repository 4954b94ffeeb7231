//! `#[test]`s of the standard harness on a kernel, as another project would write them.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    env, fs,
    process::{self, Command, Output},
    thread,
};

use rtnetlink::{LinkBridge, LinkUnspec, LinkVeth, LinkVxlan};

/// A whole test of a program that speaks netlink.
#[test]
fn a_bridge_takes_a_port() {
    lvs_guest::test(&["bridge", "veth"], || {
        run(async {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            let links = handle.link();
            links.add(LinkBridge::new("br0").up().build()).execute().await.unwrap();
            links.add(LinkVeth::new("port", "peer").build()).execute().await.unwrap();
            let [bridge, port] = ["br0", "port"].map(index);
            let enslave = LinkUnspec::new_with_index(port).controller(bridge).up().build();
            links.set(enslave).execute().await.unwrap();
        });
        assert!(fs::exists("/sys/class/net/br0/brif/port").unwrap());
    });
}

#[test]
fn modules_beyond_ipvs() {
    lvs_guest::test(&["vxlan", "nf_tables"], || {
        run(async {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            let vxlan = LinkVxlan::new("vxlan0", 7).port(4789).build();
            handle.link().add(vxlan).execute().await.unwrap();
        });
        assert!(fs::exists("/sys/class/net/vxlan0").unwrap());
        assert!(fs::exists("/sys/module/nf_tables").unwrap());
    });
}

#[test]
fn each_has_a_kernel_of_its_own() -> Result<(), String> {
    let mut names = Vec::new();
    for _ in 0..2 {
        lvs_guest::test(&["ip_vs", "dummy"], || {
            run(async {
                let (connection, handle, _) = rtnetlink::new_connection().unwrap();
                tokio::spawn(connection);
                let dummy = rtnetlink::LinkDummy::new("mine").build();
                handle.link().add(dummy).execute().await.map_err(|error| error.to_string())
            })
        });
        names.push(fs::exists("/sys/class/net/mine").map_err(|error| error.to_string())?);
    }
    assert_eq!(names, [false, false], "this machine has the link");
    Ok(())
}

#[test]
#[should_panic(expected = "the body's own words")]
fn a_panic_is_the_tests() {
    lvs_guest::test(&[], || panic!("the body's own words"));
}

/// [`what_fails_says_so`] runs the tests below.
#[test]
#[ignore = "it fails"]
fn fails_by_an_error() {
    lvs_guest::test(&[], || Err::<(), _>("an error's words"));
}

#[test]
#[ignore = "it fails"]
fn fails_by_a_status() {
    lvs_guest::test(&[], || process::exit(7));
}

/// Without its own exit status, the harness would count this as passed.
#[test]
#[ignore = "it fails"]
fn fails_by_status_0() {
    lvs_guest::test(&[], || process::exit(0));
}

#[test]
#[ignore = "it fails"]
fn fails_without_a_module() {
    lvs_guest::test(&["no-such-module"], || ());
}

#[test]
#[ignore = "it fails"]
fn fails_in_a_thread_of_another_name() {
    let test = || lvs_guest::test(&[], || ());
    let thread = thread::Builder::new().name("no_such_test".to_owned()).spawn(test).unwrap();
    let words = *thread.join().unwrap_err().downcast::<String>().unwrap();
    panic!("{words}");
}

/// These calls are for `main`: here they would run the whole binary again, and end it.
#[test]
#[ignore = "it fails"]
fn fails_as_a_program() {
    lvs_guest::enter_or_skip();
}

#[test]
#[ignore = "it fails"]
fn fails_as_a_program_that_must_run() {
    lvs_guest::enter_or_exit();
}

#[test]
#[ignore = "other tests run it"]
fn passes() {
    lvs_guest::test(&[], || println!("the body's output"));
}

#[test]
fn what_fails_says_so() {
    for (name, words) in [
        ("fails_by_an_error", "an error's words"),
        ("fails_by_a_status", "failed on its kernel (exit status 7)"),
        ("fails_by_status_0", "fails_by_status_0 did not run"),
        ("fails_without_a_module", "has no module no-such-module"),
        ("fails_in_a_thread_of_another_name", "the test binary knows no test of this name"),
        ("fails_as_a_program", "lvs_guest::test in a #[test]"),
        ("fails_as_a_program_that_must_run", "lvs_guest::test in a #[test]"),
    ] {
        let output = again(name, &[]);
        let text = text(&output);
        assert_eq!(output.status.code(), Some(101), "{name}: {text}");
        assert!(text.contains(words) && text.contains("test result: FAILED"), "{name}: {text}");
    }
}

#[test]
fn a_pass_shows_its_output() {
    let output = again("passes", &[]);
    let text = text(&output);
    assert!(output.status.success() && text.contains("the body's output"), "{text}");
    assert_eq!(text.matches("running 1 test").count(), 1, "{text}");
}

/// On a machine that can get no kernel, tests fail, unless the user wants them skipped.
#[test]
fn without_a_kernel() {
    let cache = tempfile::tempdir().unwrap();
    let cache = cache.path().to_str().unwrap();
    // Without apt and root, this machine's kernel does not help either.
    let none = [
        ("LVS_GUEST_PLACE", "guest"),
        ("LVS_GUEST_KERNEL", "uml-5.10"),
        ("LVS_GUEST_CACHE", cache),
        ("LVS_GUEST_UML", ""),
        ("LVS_REQUIRE_KERNEL", ""),
        ("PATH", "/nowhere"),
    ];
    let output = again("passes", &none);
    let words = text(&output);
    assert_eq!(output.status.code(), Some(101), "{words}");
    assert!(words.contains("uml-5.10: there is no apt-get"), "{words}");
    let skips = [&none[..], &[("LVS_GUEST_SKIP", "1")]].concat();
    let output = again("passes", &skips);
    let words = text(&output);
    assert!(output.status.success() && words.contains("passes did not run"), "{words}");
}

/// Runs an ignored test of this binary.
fn again(name: &str, variables: &[(&str, &str)]) -> Output {
    let words = ["--exact", name, "--ignored", "--nocapture"];
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(words).envs(variables.iter().copied()).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn index(link: &str) -> u32 {
    fs::read_to_string(format!("/sys/class/net/{link}/ifindex")).unwrap().trim().parse().unwrap()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}
