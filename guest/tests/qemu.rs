//! `cargo guest --kernel qemu-6.1 -- COMMAND`: what is special to QEMU. The rest is in `command.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    ffi::OsStr,
    fs,
    io::{Read, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
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

const KERNEL: &str = "qemu-6.1";

#[test]
fn streams_status_and_files_are_the_same() {
    let Some(command) = guest(&[]) else { return };
    let directory = std::env::current_dir().unwrap().join(format!("qemu-{}", std::process::id()));
    fs::create_dir(&directory).unwrap();
    let release = streams_status_and_files(command, &directory);
    fs::remove_dir_all(&directory).unwrap();
    assert!(release.starts_with("6.1.0-") && release.ends_with(flavour()), "{release}");
}

/// Then QEMU itself serves the files.
#[test]
fn a_user_without_rights_boots_a_guest() {
    let Some(mut command) = guest(&[]) else { return };
    if !Uid::effective().is_root() {
        return eprintln!("this is such a user, and every other test shows it");
    }
    // In a directory that this user may enter, with its own cache: it may not read root's.
    let directory = std::env::temp_dir().join(format!("guest-qemu-{}", std::process::id()));
    fs::create_dir(&directory).unwrap();
    nix::unistd::chown(&directory, Some(65534.into()), Some(65534.into())).unwrap();
    let program = directory.join("guest");
    fs::copy(env!("CARGO_BIN_EXE_lvs-guest"), &program).unwrap();
    let secret = directory.join("secret");
    fs::write(&secret, "not for others").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let words: Vec<_> = command.get_args().map(OsStr::to_owned).collect();
    let user = || {
        let mut command = Command::new(&program);
        command
            .args(&words)
            .env_clear()
            .envs([("PATH", "/usr/bin:/bin"), ("LVS_GUEST_KERNEL", KERNEL)])
            .env("LVS_GUEST_CACHE", directory.join("cache"))
            .current_dir(&directory)
            .stdin(Stdio::null())
            .uid(65534)
            .gid(65534);
        command
    };
    let release = streams_status_and_files(user(), &directory);
    // The guest's root has only the rights of the user outside.
    let script = "id -u; cat secret; chmod 640 /etc/shadow; cat /etc/shadow; echo x >/etc/lvs-guest-test; \
                  head -1 /proc/net/ip_vs; ip link add type dummy && ls /sys/class/net; exit 7";
    command = user();
    let output = command.args(["sh", "-c", script]).output().unwrap();
    let owner = fs::metadata(directory.join("release")).unwrap().uid();
    fs::remove_dir_all(&directory).unwrap();
    assert!(release.starts_with("6.1.0-") && release.ends_with("-amd64"), "{release}");
    assert!(!release.ends_with("-cloud-amd64"), "{release}");
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(said.starts_with("0\nIP Virtual Server version 1.2.1"), "{output:?}");
    assert!(said.contains("\ndummy0\nlo\n"), "{output:?}");
    assert!(errors(&output).contains("secret: Permission denied"), "{output:?}");
    assert!(errors(&output).contains("/etc/shadow: Permission denied"), "{output:?}");
    assert!(!Path::new("/etc/lvs-guest-test").exists());
    assert_eq!(owner, 65534);
}

/// Runs a command that shows all of this, in a directory, and returns the kernel's release.
fn streams_status_and_files(mut command: Command, directory: &Path) -> String {
    let script = r#"cat; printf '\000\377\n%s|' "$@" "$VALUE"; printf 'e\r\n' >&2; uname -r >release
                    echo lost >/etc/lvs-guest-test; cat /etc/lvs-guest-test >kept
                    head -c 3000000 /dev/zero; exit 42"#;
    let mut child = command
        .args(["sh", "-c", script, "sh", "two words", ""])
        .env("VALUE", "a\nb")
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = b"\x04\x11\x13".to_vec();
    input.resize(100_000, b'i');
    let written = child.stdin.take().unwrap().write_all(&input);
    let output = child.wait_with_output().unwrap();
    assert!(written.is_ok(), "{written:?} {output:?}");
    let read = |name| fs::read_to_string(directory.join(name)).unwrap();
    assert_eq!(output.status.code(), Some(42), "{}", errors(&output));
    let mut expected = input;
    expected.extend(b"\0\xff\ntwo words|\0\xff\n|\0\xff\na\nb|");
    expected.resize(expected.len() + 3_000_000, 0);
    assert!(output.stdout == expected, "{} of {} bytes", output.stdout.len(), expected.len());
    // The first run fetches the kernel and prints that.
    assert!(output.stderr.ends_with(b"e\r\n"), "{}", errors(&output));
    assert_eq!(read("kept"), "lost\n");
    assert!(!Path::new("/etc/lvs-guest-test").exists());
    read("release").trim_end().to_owned()
}

/// The guest waits for its turn to end.
#[test]
fn a_slow_reader_gets_all_of_the_output() {
    let Some(mut command) = guest(&[]) else { return };
    let script = "echo so far; head -c 1000000 /dev/zero; echo end >&2; exit 3";
    let command = command.args(["sh", "-c", script]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut output = vec![0; 7];
    child.stdout.as_mut().unwrap().read_exact(&mut output).unwrap();
    // Time enough for the command to end: the lines buffer all that it writes.
    std::thread::sleep(Duration::from_secs(8));
    let rest = child.wait_with_output().unwrap();
    assert_eq!(rest.status.code(), Some(3), "{}", errors(&rest));
    assert_eq!(output, b"so far\n");
    assert_eq!(rest.stdout.len(), 1_000_000);
    assert_eq!(errors(&rest), "end\n");
}

#[test]
fn signals_and_commands_that_do_not_exist_are_reported() {
    let Some(mut command) = guest(&[]) else { return };
    let output = command.args(["sh", "-c", "kill -ABRT $$"]).output().unwrap();
    assert_eq!(output.status.signal(), Some(6), "{output:?}");
    let Some(mut command) = guest(&[]) else { return };
    let output = command.arg("no-such-command").output().unwrap();
    assert_eq!(output.status.code(), Some(127), "{output:?}");
}

#[test]
fn modules_load_by_themselves() {
    let Some(mut command) = guest(&[]) else { return };
    let script = "head -1 /proc/net/ip_vs; for name in rtnl-link-dummy ip_vs_mh no-such-module; do \
                  $(cat /proc/sys/kernel/modprobe) -q -- $name; echo $?; done; \
                  ls /lib/modules/$(uname -r); ls -A /run/lvs-guest/host; ls /sys/module | grep _mh";
    let output = command.args(["sh", "-c", script]).output().unwrap();
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(said.starts_with("IP Virtual Server version 1.2.1"), "{output:?}");
    assert!(said.contains("\n0\n0\n1\n") && said.contains("\nmodules.dep\n"), "{said}");
    // This machine's files are visible only through the layer.
    assert!(said.ends_with("modules.symbols.bin\nip_vs_mh\n"), "{said}");
}

#[test]
fn the_time_limit_ends_the_command() {
    let started = Instant::now();
    let Some(mut command) = guest(&["--time-limit", "20"]) else { return };
    let output = command.args(["sh", "-c", "echo so far; sleep 100"]).output().unwrap();
    assert_eq!(output.status.code(), Some(124), "{output:?}");
    assert_eq!(output.stdout, b"so far\n");
    assert!(errors(&output).contains("time limit of 20 s"), "{output:?}");
    // The limit is extended, up to four times, while other processes have the processor.
    assert!(started.elapsed() < Duration::from_secs(90), "{:?}", started.elapsed());
}

#[test]
fn a_signal_to_the_runner_leaves_nothing() {
    let Some(mut command) = guest(&[]) else { return };
    let mut child =
        command.args(["sh", "-c", "echo up; sleep 100"]).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    let name = format!("lvs-guest-{}-{}-", Uid::effective(), child.id());
    assert_ne!(processes_of(&name), Vec::<PathBuf>::new());
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(Signal::SIGTERM as i32));
    assert_eq!(processes_of(&name), Vec::<PathBuf>::new());
    let bases = [PathBuf::from("/dev/shm"), std::env::temp_dir()];
    let entries = bases.iter().flat_map(|base| fs::read_dir(base).into_iter().flatten().flatten());
    let left: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    assert!(!left.iter().any(|left| left.to_string_lossy().starts_with(&name)), "{left:?}");
}

#[test]
fn a_panic_of_the_guest_is_reported() {
    let Some(mut command) = guest(&[]) else { return };
    let script = "echo before; echo c > /proc/sysrq-trigger; echo after";
    let output = command.args(["sh", "-c", script]).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(errors(&output).contains("sysrq triggered crash"), "{output:?}");
}

#[test]
fn the_newest_kernel_of_the_backports_boots() {
    let Some(mut command) = guest(&["--kernel", "qemu-backports"]) else { return };
    let output = command.args(["sh", "-c", "uname -r; head -1 /proc/net/ip_vs"]).output().unwrap();
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    let (release, table) = said.split_once('\n').unwrap();
    assert!(release.ends_with("-amd64"), "{output:?}");
    let version: Vec<u32> = release.split('.').filter_map(|number| number.parse().ok()).collect();
    assert!(version >= vec![6, 16], "Debian 13's own kernel is not newer: {release}");
    assert!(table.starts_with("IP Virtual Server version 1.2.1"), "{output:?}");
}

#[test]
fn the_next_older_kernel_is_taken_if_the_newest_cannot_be_fetched() {
    let Some(mut command) = guest(&["--kernel", "qemu-backports"]) else { return };
    let directory = std::env::current_dir().unwrap().join(format!("apt-{}", std::process::id()));
    let names = archive(&directory);
    let output = command
        .arg("true")
        .env("APT_CONFIG", directory.join("apt.conf"))
        .env("LVS_GUEST_CACHE", directory.join("cache"))
        .output();
    let kept = if has_file_server() { "" } else { "-generic" };
    let kept = directory.join(format!("cache/linux-qemu-backports{kept}/lib/modules"));
    let kept = fs::read_dir(kept);
    let kept: Vec<_> =
        kept.into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    fs::remove_dir_all(&directory).unwrap();
    let output = output.unwrap();
    // The fetched package has no kernel. It was used all the same.
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let said = errors(&output);
    assert!(
        said.contains(&format!("{} is not available, trying the next older", names[0])),
        "{said}"
    );
    assert!(said.contains("fetched in") && said.contains("without an exit status"), "{said}");
    assert_eq!(kept, [format!("9.1.0{}", flavour()).as_str()]);
}

#[test]
fn what_qemu_needs_is_named() {
    if Path::new("/usr/sbin/qemu-system-x86_64").exists() {
        return eprintln!("not tested: this machine's QEMU is where it is always found");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_lvs-guest"));
    command.args(["--place", "guest", "--kernel", KERNEL, "--", "true"]).env("PATH", "/nowhere");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(errors(&output).contains("apt-get install qemu-system-x86"), "{output:?}");
}

/// Whether a file server, not QEMU, serves this machine's files.
fn has_file_server() -> bool {
    let mut paths =
        ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"].map(Path::new).into_iter();
    Uid::effective().is_root() && paths.any(Path::exists)
}

/// The end of the releases of the kernels that are fetched.
fn flavour() -> &'static str {
    if has_file_server() { "-cloud-amd64" } else { "-amd64" }
}

/// A guest in QEMU. Without QEMU on this machine the test cannot run and prints that.
fn guest(options: &[&str]) -> Option<Command> {
    let path = std::env::var_os("PATH").unwrap();
    if !std::env::split_paths(&path).any(|path| path.join("qemu-system-x86_64").exists()) {
        assert!(!lvs_guest::is_required(), "there is no QEMU here");
        eprintln!("not tested: there is no QEMU on this machine");
        return None;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_lvs-guest"));
    command.args(["--place", "guest"]).env("LVS_GUEST_KERNEL", KERNEL).args(options);
    command.arg("--").stdin(Stdio::null());
    Some(command)
}

/// An archive like Debian's: its list names two kernels, and the package of the newer one is missing.
/// Writes a configuration for apt that leads there. Returns the names of the packages.
fn archive(directory: &Path) -> [String; 2] {
    let run = |program: &str, words: &[&str]| {
        let output = Command::new(program).args(words).current_dir(directory).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let write = |path: &str, text: &str| {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let [newer, older] =
        ["9.2.0", "9.1.0"].map(|version| format!("linux-image-{version}{}", flavour()));
    write(&format!("tree/boot/vmlinuz-9.1.0{}", flavour()), "no kernel");
    write(&format!("tree/lib/modules/9.1.0{}/modules.order", flavour()), "");
    let fields = |name: &str| {
        format!(
            "Package: {name}\nVersion: 1\nArchitecture: amd64\nMaintainer: nobody\n\
             Description: none\nInstalled-Size: 1\nDepends: linux-base-{name}\n"
        )
    };
    write("tree/DEBIAN/control", &fields(&older));
    run("dpkg-deb", &["--root-owner-group", "--build", "tree", "older.deb"]);
    let sum = run("sha256sum", &["older.deb"]);
    let sum = sum.split(' ').next().unwrap();
    let size = fs::metadata(directory.join("older.deb")).unwrap().len();
    let entry =
        |name, file| format!("{}Filename: {file}\nSize: {size}\nSHA256: {sum}\n\n", fields(name));
    let list = "dists/trixie-backports/main/binary-amd64/Packages";
    write(list, &(entry(&newer, "newer.deb") + &entry(&older, "older.deb")));
    write("dists/trixie-backports/Release", "Suite: trixie-backports\n");
    let path = directory.display();
    write("sources.list", &format!("deb [trusted=yes] file:{path} trixie-backports main\n"));
    write(
        "apt.conf",
        &format!(
            "Dir::Etc::sourcelist \"{path}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
             Acquire::AllowInsecureRepositories \"true\";\nAPT::Get::AllowUnauthenticated \"true\";\n"
        ),
    );
    [newer, older]
}

/// The living processes whose command line contains a word.
fn processes_of(word: &str) -> Vec<PathBuf> {
    let has = |path: &Path| {
        let line = fs::read(path.join("cmdline")).unwrap_or_default();
        line.windows(word.len()).any(|window| window == word.as_bytes())
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.map(|entry| entry.path()).filter(|path| has(path)).collect()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
