//! How `cargo guest` gets its kernel, and what it prints if it cannot.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
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
    // Leftovers of a run that was ended half-way are no package.
    fs::create_dir_all(directory.0.join("partial-1/tree/usr/bin")).unwrap();
    let outputs = [start(), start()].map(|child| child.wait_with_output().unwrap());
    let said: Vec<String> = outputs.iter().map(errors).collect();
    assert!(outputs.iter().all(|output| output.status.code() == Some(7)), "{outputs:?}");
    let count = |word| said.iter().filter(|errors| errors.contains(word)).count();
    assert_eq!((count("fetched in"), count("waiting")), (1, 1), "{said:?}");
    // It reports the disk space that it really uses.
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
    let copied = format!(" to {}: then it needs neither network nor apt", directory.0.display());
    for word in ["there is no apt-get", &copied, "modprobe ip_vs", "Debian"] {
        assert!(errors(&output).contains(word), "{word} in {output:?}");
    }
    // It starts nothing that cannot work, and advises nothing that cannot help.
    for word in ["fetching", "LVS_GUEST_KERNEL", "LVS_GUEST_UML"] {
        assert!(!errors(&output).contains(word), "{word} in {output:?}");
    }
}

#[test]
fn without_a_network_it_says_so() {
    let Some(failure) = fails_in("no-network", &["--net"], "", &[]) else { return };
    // A machine's apt may use a proxy, which is unreachable then.
    let reasons = ["No name server answered", "could not be reached", "No proxy"];
    assert!(reasons.iter().any(|reason| failure.contains(reason)), "{failure}");
    for word in ["Failed to fetch", "run this again when", "http_proxy", "copy ~/.cache/lvs-guest"]
    {
        assert!(failure.contains(word), "{word} in {failure}");
    }
}

#[test]
fn a_proxy_that_does_not_answer_is_named() {
    // No program listens there.
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
        for word in ["apt uses the proxy http://127.0.0.1:9/", "Failed to fetch"] {
            assert!(failure.contains(word), "{word} in {failure}");
        }
    }
}

#[test]
fn a_full_disk_is_named_with_the_way_out() {
    // Without room for apt's configuration, for the lists of packages, and for the package.
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
    // Not below the target directory, which another user may be unable to enter.
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
        let end = child.wait().unwrap();
        // If the signal is ignored, as under nohup, the status is a shell's for it.
        let number = end.signal().or(end.code().map(|status| status - 128));
        assert_eq!(number, Some(signal as i32));
        assert_eq!(names(&directory.0), ["lock"]);
        let left = Command::new("pgrep").arg("-f").arg(&partial).output();
        assert!(left.is_ok_and(|left| left.stdout.is_empty()), "apt is still at work");
    }
}

/// On a machine without apt, with real packages of Debian's archive.
#[test]
fn a_mirror_takes_the_place_of_apt() {
    let Some(address) = mirror_of_apt() else {
        return println!("not tested: this machine's apt has no source of Debian's archive");
    };
    let directory = Scratch::new("mirror");
    let run = |mirror: &str| {
        without_apt(&directory.0, mirror)
            .args(["uml-6.1", "--", "sh", "-c", "uname -r; head -1 /proc/net/ip_vs; exit 7"])
            .output()
            .unwrap()
    };
    let output = run(&address);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(said.starts_with("6.1.") && said.contains("\nIP Virtual Server"), "{output:?}");
    let said = errors(&output);
    assert!(said.contains(&address) && said.contains("fetched in"), "{said}");
    assert_eq!(names(&directory.0.join("cache")).len(), 2, "the kernel and the lock are left");
    // A kernel in the cache needs no mirror.
    let output = run("/nowhere");
    assert_eq!((output.status.code(), errors(&output).as_str()), (Some(7), ""), "{output:?}");
}

#[test]
fn what_a_mirror_has_is_checked() {
    let directory = Scratch::new("mirror-checked");
    let mirror = directory.0.join("mirror");
    let run = |mirror: &str, variables: &[(&str, &str)]| {
        let mut command = without_apt(&directory.0, mirror);
        let output = command.args(["uml-testing", "--", "true"]).envs(variables.iter().copied());
        let output = output.output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        assert_eq!(names(&directory.0.join("cache")), ["lock"], "{output:?}");
        errors(&output)
    };
    let path = mirror.to_str().unwrap();
    let failure = run("", &[]);
    assert!(failure.contains("no apt-get") && failure.contains("LVS_GUEST_MIRROR"), "{failure}");
    let failure = run(path, &[]);
    assert!(failure.contains("LVS_GUEST_MIRROR") && failure.contains("No such file"), "{failure}");

    // The suite has newer packages: only a package in the signed list is used.
    let keys = archive(&mirror);
    let keys = [("LVS_GUEST_KEYRING", keys.to_str().unwrap())];
    let failure = run(path, &[("LVS_GUEST_KEYRING", "/nowhere")]);
    for word in ["has no such file", "needs gpgv", "/nowhere", "LVS_GUEST_KEYRING"] {
        assert!(failure.contains(word), "{word} in {failure}");
    }
    let server = Server::start(&mirror);
    for mirror in [path, &server.address, &format!("{}/", server.address)] {
        let failure = run(mirror, &keys);
        assert!(failure.contains("is gone, using user-mode-linux_9_amd64.deb"), "{failure}");
        // It has no modules.
        assert!(failure.contains("no usr/bin/linux.uml"), "{failure}");
    }
    let damage = |name: &str, text: &str| {
        let file = mirror.join(name);
        let before = fs::read(&file).unwrap();
        fs::write(&file, text).unwrap();
        let failure = run(&server.address, &keys);
        fs::write(&file, before).unwrap();
        failure
    };
    let failure = damage("pool/user-mode-linux_9_amd64.deb", "changed");
    assert!(failure.contains("_9_amd64.deb: its SHA-256 is "), "{failure}");
    let failure = damage("dists/testing/main/binary-amd64/Packages.xz", "changed");
    assert!(failure.contains("Packages.xz: its SHA-256 is "), "{failure}");
    let release = fs::read_to_string(mirror.join("dists/testing/InRelease")).unwrap();
    let failure = damage("dists/testing/InRelease", &release.replace("nobody", "others"));
    assert!(failure.contains("InRelease: its signature is not valid"), "{failure}");
    // A package with a known checksum is checked by that.
    let known = "pool/main/u/user-mode-linux/user-mode-linux_7.2um1_amd64.deb";
    fs::create_dir_all(mirror.join(known).parent().unwrap()).unwrap();
    fs::write(mirror.join(known), "changed").unwrap();
    let failure = run(&server.address, &keys);
    assert!(failure.contains("_7.2um1_amd64.deb: its SHA-256 is "), "{failure}");
    assert!(failure.contains("to another mirror"), "{failure}");

    let proxy = [("http_proxy", "http://127.0.0.1:9/")];
    let failure = run("http://mirror.example/debian", &proxy);
    assert!(failure.contains("could not be reached"), "{failure}");
    assert!(failure.contains("uses the proxy http://127.0.0.1:9/"), "{failure}");
}

/// cargo guest on a machine without apt, with its files in a directory; the caller adds the kernel's name.
fn without_apt(directory: &Path, mirror: &str) -> Command {
    let programs = directory.join("bin");
    if fs::create_dir(&programs).is_ok() {
        for name in ["curl", "wget", "gpgv", "sh", "uname", "head", "true"] {
            let path = Path::new("/usr/bin").join(name);
            std::os::unix::fs::symlink(path, programs.join(name)).unwrap();
        }
    }
    let mut command = Command::new(PROGRAM);
    command
        .args(["--place", "guest", "--kernel"])
        .env("PATH", programs)
        .env("LVS_GUEST_CACHE", directory.join("cache"))
        .env("LVS_GUEST_MIRROR", mirror)
        .env_remove("LVS_GUEST_UML")
        .stdin(Stdio::null());
    command
}

/// The mirror of Debian's archive that this machine's apt uses.
fn mirror_of_apt() -> Option<String> {
    let output = Command::new("apt-get").args(["--print-uris", "update"]).output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    let mut addresses = said.lines().filter_map(|line| line.strip_prefix('\'')?.split('\'').next());
    let suite = addresses.find_map(|address| address.strip_suffix("/dists/bookworm/InRelease"));
    suite.filter(|address| address.starts_with("http")).map(str::to_owned)
}

/// An archive like Debian's, signed by a new key. Its packages have no kernel. Returns the file of the
/// public key.
fn archive(directory: &Path) -> PathBuf {
    let script = r#"
        set -e
        mkdir -p pool dists/testing/main/binary-amd64 tree/DEBIAN keys
        chmod 700 keys
        list=dists/testing/main/binary-amd64/Packages
        for name in user-mode-linux libc6; do
            printf 'Package: %s\nVersion: 9\nArchitecture: amd64\nMaintainer: nobody\nDescription: x\n' \
                $name >tree/DEBIAN/control
            file=pool/${name}_9_amd64.deb
            dpkg-deb -Zxz --root-owner-group --build tree $file >/dev/null
            printf 'Package: %s\nFilename: %s\nSize: %s\nSHA256: %s\n\n' $name $file \
                $(stat -c %s $file) $(sha256sum <$file | cut -d ' ' -f 1) >>$list
        done
        xz $list
        printf 'Origin: nobody\nSuite: testing\nSHA256:\n %s %s main/binary-amd64/Packages.xz\n' \
            $(sha256sum <$list.xz | cut -d ' ' -f 1) $(stat -c %s $list.xz) >Release
        export GNUPGHOME=$PWD/keys
        gpg --batch --quiet --passphrase '' --quick-generate-key nobody ed25519 sign
        gpg --batch --quiet --export >keys.gpg
        gpg --batch --quiet --clearsign --output dists/testing/InRelease Release
        gpgconf --kill all
    "#;
    fs::create_dir(directory).unwrap();
    let output = Command::new("sh").args(["-c", script]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    directory.join("keys.gpg")
}

/// A server of a directory's files, on the loopback, for as long as the test runs.
struct Server {
    address: String,
}

impl Server {
    fn start(directory: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let directory = directory.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // It does not matter if a client goes away.
                let _ = serve(stream, &directory);
            }
        });
        Self { address }
    }
}

fn serve(stream: io::Result<TcpStream>, directory: &Path) -> io::Result<()> {
    let mut stream = BufReader::new(stream?);
    let mut request = String::new();
    stream.read_line(&mut request)?;
    let mut line = String::new();
    while stream.read_line(&mut line)? > 2 {
        line.clear();
    }
    let path = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
    let (status, body) = match fs::read(directory.join(path)) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", b"no such file".to_vec()),
    };
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.get_mut().write_all(head.as_bytes())?;
    stream.get_mut().write_all(&body)
}

/// Fetches in a sandbox in which that fails, and returns the error. Checks that nothing is left behind in
/// the cache or in /tmp.
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
        println!("skipped: this machine allows no namespaces here");
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

/// Whether the package is installed, so that nothing is ever fetched; prints that.
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

/// A test's own directory, deleted with it.
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
