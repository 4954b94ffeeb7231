//! How `cargo guest` gets its kernel, and what it says where it does not.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    fs,
    os::unix::{
        fs::PermissionsExt,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_lvs-guest");

#[test]
fn two_first_runs_fetch_once() {
    if is_installed() {
        return;
    }
    let directory = Scratch::new("cache");
    let start = || {
        guest()
            .args(["sh", "-c", "exit 7"])
            .env("LVS_GUEST_CACHE", &directory.0)
            .env_remove("LVS_GUEST_UML")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    // What a run left that was ended half-way is no package.
    fs::create_dir_all(directory.0.join("partial-1/tree/usr/bin")).unwrap();
    let outputs = [start(), start()].map(|child| child.wait_with_output().unwrap());
    let said: Vec<String> = outputs.iter().map(errors).collect();
    assert!(outputs.iter().all(|output| output.status.code() == Some(7)), "{outputs:?}");
    let count = |word| said.iter().filter(|errors| errors.contains(word)).count();
    assert_eq!((count("fetched in"), count("waiting")), (1, 1), "{said:?}");
    // What it says that it took on the disk is what it takes.
    let said = said.concat();
    let line = said.lines().find(|line| line.contains("fetched in")).unwrap();
    let mut numbers = line.split(" MB ").filter_map(|part| part.rsplit(' ').next()?.parse().ok());
    let (downloaded, on_disk): (f64, f64) = (numbers.next().unwrap(), numbers.next().unwrap());
    let usage = Command::new("du").arg("-sk").arg(&directory.0).output().unwrap();
    let usage = String::from_utf8(usage.stdout).unwrap();
    let kibibytes: f64 = usage.split_whitespace().next().unwrap().parse().unwrap();
    assert!((on_disk - kibibytes * 1024.0 / 1e6).abs() < 1.0, "{said} {usage}");
    assert!(downloaded > 20.0 && downloaded < on_disk, "{said}");
    let mut names: Vec<_> =
        fs::read_dir(&directory.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(names[0], "lock");
}

#[test]
fn without_apt_it_names_what_helps() {
    if is_installed() {
        return;
    }
    let directory = Scratch::new("no-apt");
    let output = guest()
        .arg("/bin/true")
        .env("PATH", &directory.0)
        .env("LVS_GUEST_CACHE", &directory.0)
        .env_remove("LVS_GUEST_UML")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125));
    let copied = format!("copied to {}", directory.0.display());
    for word in ["there is no apt-get", &copied, "modprobe ip_vs", "Debian"] {
        assert!(errors(&output).contains(word), "{word} in {output:?}");
    }
    // What cannot be done is not begun, and what cannot help is not advised.
    for word in ["fetching", "LVS_GUEST_KERNEL", "LVS_GUEST_UML"] {
        assert!(!errors(&output).contains(word), "{word} in {output:?}");
    }
}

#[test]
fn without_a_network_it_says_so() {
    let Some(failure) = fails_in("no-network", &["--net"], "", &[]) else { return };
    // A machine's apt may know a proxy, which cannot be reached then.
    let reasons = ["No name server answered", "could not be reached", "No proxy"];
    assert!(reasons.iter().any(|reason| failure.contains(reason)), "{failure}");
    for word in ["Failed to fetch", "run this again when", "http_proxy", "copied to"] {
        assert!(failure.contains(word), "{word} in {failure}");
    }
}

#[test]
fn a_proxy_that_does_not_answer_is_named() {
    // Nobody listens there.
    let proxy = "http://127.0.0.1:9/";
    let directory = Scratch::new("proxy-configuration");
    let configuration = directory.0.join("apt.conf");
    fs::write(
        &configuration,
        format!("Acquire::http::Proxy \"{proxy}\"; Acquire::https::Proxy \"{proxy}\";"),
    )
    .unwrap();
    let by_apt = [("APT_CONFIG", configuration.to_str().unwrap())];
    let by_variable = [("http_proxy", proxy), ("https_proxy", proxy)];
    for (name, variables) in [("proxy-of-apt", &by_apt[..]), ("proxy-variable", &by_variable)] {
        let Some(failure) = fails_in(name, &[], "", variables) else { return };
        for word in ["apt goes through the proxy http://127.0.0.1:9/", "Failed to fetch"] {
            assert!(failure.contains(word), "{word} in {failure}");
        }
    }
}

#[test]
fn a_full_disk_is_named_with_the_way_out() {
    // With no room for apt's configuration, for the lists of packages, and for the package.
    for (size, word) in [("4k", ""), ("6m", ""), ("20m", ""), ("130m", " MB are free")] {
        let setup = format!("mount -t tmpfs -o size={size} full \"$LVS_GUEST_CACHE\"");
        let Some(failure) = fails_in(&format!("full-{size}"), &[], &setup, &[]) else { return };
        assert!(failure.contains(&format!("full-{size}/cache")), "{failure}");
        assert!(failure.contains("LVS_GUEST_CACHE") && failure.contains(word), "{failure}");
    }
}

#[test]
fn a_cache_without_rights_is_named_with_the_way_out() {
    if is_installed() {
        return;
    }
    // Not below the target directory, which another user may not be let into.
    let directory = Scratch::within(&std::env::temp_dir(), "rights");
    let program = directory.0.join("guest");
    fs::copy(PROGRAM, &program).unwrap();
    let cache = directory.0.join("cache");
    fs::create_dir(&cache).unwrap();
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o555)).unwrap();
    for path in [cache.clone(), cache.join("below"), "/proc/none".into()] {
        let mut command = Command::new(&program);
        command.args(["--place", "guest", "--", "true"]).env("LVS_GUEST_CACHE", &path);
        command.env_remove("LVS_GUEST_UML").stdin(Stdio::null());
        if Uid::effective().is_root() {
            command.uid(65534).gid(65534).current_dir("/");
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        for word in [path.to_str().unwrap(), "set LVS_GUEST_CACHE to a directory"] {
            assert!(errors(&output).contains(word), "{word} in {output:?}");
        }
    }
}

#[test]
fn a_signal_ends_it_and_leaves_nothing() {
    if is_installed() {
        return;
    }
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let directory = Scratch::new("signal");
        let mut child = guest().arg("true").env("LVS_GUEST_CACHE", &directory.0).spawn().unwrap();
        let partial = directory.0.join(format!("partial-{}", child.id()));
        let deadline = Instant::now() + Duration::from_secs(60);
        while !partial.join("lists").exists() {
            assert!(Instant::now() < deadline, "it does not begin");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(100));
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(signal as i32));
        assert_eq!(names(&directory.0), ["lock"]);
        let left = Command::new("pgrep").arg("-f").arg(&partial).output();
        assert!(left.is_ok_and(|left| left.stdout.is_empty()), "apt is still at work");
    }
}

/// Fetches in a sandbox where that fails, and returns what it says. Nothing is left behind: not in
/// the cache, not in /tmp.
fn fails_in(
    name: &str,
    namespaces: &[&str],
    setup: &str,
    variables: &[(&str, &str)],
) -> Option<String> {
    if is_installed() {
        return None;
    }
    let directory = Scratch::new(name);
    let cache = directory.0.join("cache");
    fs::create_dir(&cache).unwrap();
    let mut command = Command::new("unshare");
    command.arg("--mount").args(namespaces);
    if !Uid::effective().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let can = Command::new(command.get_program()).args(command.get_args()).arg("true").output();
    if !can.is_ok_and(|output| output.status.success()) {
        println!("skipped: no namespaces to be had here");
        return None;
    }
    let script =
        "eval \"$SETUP\"; \"$@\"; status=$?; ls -A \"$LVS_GUEST_CACHE\" \"$TMPDIR\"; exit $status";
    let temporary = directory.0.join("tmp");
    fs::create_dir(&temporary).unwrap();
    let tmpfs =
        if Path::new(PROGRAM).starts_with("/tmp") { "" } else { "mount -t tmpfs tmp /tmp;" };
    let output = command
        .args(["sh", "-c", &format!("{tmpfs} {script}; "), "sh", PROGRAM])
        .args(["--place", "guest", "--", "true"])
        .env("SETUP", setup)
        .env("LVS_GUEST_CACHE", &cache)
        .env("TMPDIR", &temporary)
        .env_remove("http_proxy")
        .env_remove("https_proxy")
        .env_remove("LVS_GUEST_UML")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let expected = format!("{}:\nlock\n\n{}:\n", cache.display(), temporary.display());
    assert_eq!(String::from_utf8(output.stdout.clone()).unwrap(), expected);
    Some(errors(&output))
}

/// Whether nothing is ever fetched on this machine; then it says so.
fn is_installed() -> bool {
    let installed = Path::new("/usr/bin/linux.uml").exists();
    if installed {
        println!("skipped: the package is installed, nothing is ever fetched");
    }
    installed
}

fn guest() -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["--place", "guest", "--"]).stdin(Stdio::null()).env_remove("LVS_GUEST_UML");
    command
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

/// A directory of a test's own, gone with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self::within(Path::new(env!("CARGO_TARGET_TMPDIR")), name)
    }

    fn within(directory: &Path, name: &str) -> Self {
        let path = directory.join(format!("guest-fetch-{}-{name}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
