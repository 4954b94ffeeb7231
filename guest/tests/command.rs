//! `cargo guest -- COMMAND`, as a user sees it. The guest is asked for by name, so that the same is
//! tested on a machine whose own kernel has IPVS.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, symlink},
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Once,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};

#[test]
fn exit_statuses_are_the_same() {
    for status in [0, 1, 42, 101, 124, 125, 255] {
        let output = shell(&format!("exit {status}"));
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    }
}

#[test]
fn signals_are_the_same() {
    for (name, number) in [("ABRT", 6), ("KILL", 9), ("SEGV", 11), ("TERM", 15)] {
        let output = shell(&format!("kill -{name} $$"));
        assert_eq!(output.status.signal(), Some(number), "{output:?}");
        assert!(!output.status.core_dumped());
    }
}

#[test]
fn a_command_that_cannot_be_run_is_not_one_that_fails() {
    let output = guest().arg("no-such-command").output().unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert!(errors(&output).contains("no-such-command: No such file"), "{output:?}");
    let output = guest().arg("/etc/passwd").output().unwrap();
    assert_eq!(output.status.code(), Some(126));
    assert!(errors(&output).contains("/etc/passwd: Permission denied"), "{output:?}");
}

#[test]
fn output_and_errors_come_out_apart_and_byte_for_byte() {
    let output = shell(r"printf 'a\nb\r\n\000\377\004\021'; printf 'e\n\023' >&2");
    assert_eq!(output.stdout, b"a\nb\r\n\0\xff\x04\x11");
    assert_eq!(output.stderr, b"e\n\x13");
}

#[test]
fn megabytes_come_out_whole() {
    let script = "i=0; while [ $i -lt 20 ]; do head -c 200000 /dev/zero; echo $i; \
                  echo $i >&2; i=$((i+1)); done";
    let mut expected = Vec::new();
    for line in 0..20 {
        expected.extend([0; 200_000]);
        expected.extend(format!("{line}\n").bytes());
    }
    let output = shell(script);
    assert!(output.stdout == expected, "{} of {} bytes", output.stdout.len(), expected.len());
    let lines: Vec<String> = (0..20).map(|line| line.to_string()).collect();
    assert_eq!(errors(&output).lines().collect::<Vec<_>>(), lines);
}

#[test]
fn output_is_live() {
    let mut command = guest();
    let mut child =
        command.args(["sh", "-c", "echo first; sleep 100"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"first\n");
    assert_eq!(child.try_wait().unwrap(), None, "the command has ended before its time");
    end(&mut child, Signal::SIGTERM);
}

#[test]
fn a_reader_that_goes_away_ends_the_command() {
    let mut child = guest().args(["sh", "-c", "yes"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 2];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    // As a shell reports SIGPIPE.
    assert_eq!(child.wait().unwrap().code(), Some(128 + 13));
}

#[test]
fn arguments_and_environment_are_the_same() {
    let words = ["", "two words", "line\nbreak", "'\"$HOME\\", "-v", "--", "a=b"];
    let output = guest()
        .args(["sh", "-c", r#"printf '%s\0' "$@" "$VALUE" "$EMPTY""#, "sh"])
        .args(words)
        .env("VALUE", "x=y\n'\"\\ \u{1f980}")
        .env("EMPTY", "")
        .output()
        .unwrap();
    let mut expected = words.join("\0");
    expected.push_str("\0x=y\n'\"\\ \u{1f980}\0\0");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);

    // The whole environment, and nothing else, except the variables that name the package.
    let places = [
        "HOME",
        "XDG_CACHE_HOME",
        "LVS_GUEST_CACHE",
        "LVS_GUEST_KERNEL",
        "LVS_GUEST_SHIM",
        "LVS_GUEST_UML",
    ];
    let mut variables: Vec<(&str, String)> =
        places.iter().filter_map(|name| Some((*name, std::env::var(name).ok()?))).collect();
    variables.extend([("A", "1".to_owned()), ("PATH", "/bin".to_owned())]);
    let mut command = guest();
    command.args(["/usr/bin/env", "-0"]).env_clear().envs(variables.clone());
    let output = command.output().unwrap();
    let mut found: Vec<String> = said(&output).split_terminator('\0').map(str::to_owned).collect();
    let mut expected: Vec<String> =
        variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected, "{output:?}");
}

#[test]
fn the_working_directory_is_the_same_and_written_through() {
    let directory = Scratch::new("cwd with space");
    let script =
        "pwd; echo new > made; mkdir sub; echo x > /usr/guest-was-here; cat /usr/guest-was-here";
    let output = guest().args(["sh", "-c", script]).current_dir(&directory.0).output().unwrap();
    assert_eq!(said(&output), format!("{}\nx\n", directory.0.display()), "{output:?}");
    assert_eq!(fs::read_to_string(directory.0.join("made")).unwrap(), "new\n");
    assert!(directory.0.join("sub").is_dir());
    assert!(!Path::new("/usr/guest-was-here").exists(), "the guest wrote to this machine");
}

#[test]
fn the_root_as_working_directory_is_not_written_through() {
    let script = "pwd; echo x > /guest-was-here && ls /guest-was-here && ls /proc/self/exe";
    let output = guest().args(["sh", "-c", script]).current_dir("/").output().unwrap();
    assert_eq!(said(&output), "/\n/guest-was-here\n/proc/self/exe\n", "{output:?}");
    assert!(!Path::new("/guest-was-here").exists(), "the guest wrote to this machine");
}

#[test]
fn a_directory_is_written_through_on_request_only() {
    let directory = Scratch::new("write");
    fs::write(directory.0.join("before"), "old").unwrap();
    let path = directory.0.to_str().unwrap();
    // The guest does not even see what is not shared below /tmp: it has its own /tmp.
    let output = guest().args(["sh", "-c", &format!("cat '{path}/before'")]).output().unwrap();
    assert_ne!(output.status.code(), Some(0));
    let script = format!("cat '{path}/before'; echo new > '{path}/after'");
    let output = guest_with(&["--write", path]).args(["sh", "-c", &script]).output().unwrap();
    assert_eq!(said(&output), "old", "{output:?}");
    assert_eq!(fs::read_to_string(directory.0.join("after")).unwrap(), "new\n");
    for wrong in ["/", "/etc", "/no/such/directory"] {
        let output = guest_with(&["--write", wrong]).arg("true").output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{wrong}");
        assert!(errors(&output).contains(wrong), "{output:?}");
    }
}

#[test]
fn directories_that_variables_name_are_there() {
    // libpam-tmpdir and logind make such directories, below those of which the guest has its own.
    let temporary = Scratch::new("variables");
    let shared = Scratch::within(Path::new("/dev/shm"), "variables");
    let (tmpdir, runtime) = (temporary.0.join("user/1000"), shared.0.join("user"));
    for path in [&tmpdir, &runtime] {
        fs::create_dir_all(path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    }
    let link = temporary.0.join("link");
    symlink("/usr", &link).unwrap();
    let file = temporary.0.join("file");
    fs::write(&file, "").unwrap();
    let script = r#"for d in "$TMPDIR" "$XDG_RUNTIME_DIR" "$LINK"; do
                        stat -c %a "$d"; echo x > "$d/made" && cat "$d/made"; done
                    mktemp -d | sed 's/[^/]*$//'; ls "$FILE" "$NONE" 2>/dev/null; ls /tmp"#;
    let output = guest()
        .args(["sh", "-c", script])
        .env("TMPDIR", &tmpdir)
        .env("XDG_RUNTIME_DIR", &runtime)
        .env("LINK", &link)
        .env("FILE", &file)
        .env("NONE", temporary.0.join("none"))
        .output()
        .unwrap();
    let name = temporary.0.file_name().unwrap().to_str().unwrap();
    let expected = format!("700\nx\n700\nx\n755\nx\n{}/\n{name}\n", tmpdir.display());
    assert_eq!(said(&output), expected, "{output:?}");
    assert_eq!(fs::read_dir(&tmpdir).unwrap().count(), 0, "the guest wrote to this machine");
    assert_eq!(fs::read_dir(&runtime).unwrap().count(), 0, "the guest wrote to this machine");
}

#[test]
fn programs_below_tmp_run() {
    let directory = Scratch::new("programs");
    let script = |path: &Path| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "#!/bin/sh\necho $0; cat ${0%/*}/beside; touch /tmp/new && echo new\n")
            .unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let tool = directory.0.join("bin/tool");
    script(&tool);
    fs::write(directory.0.join("bin/beside"), "beside\n").unwrap();
    let link = directory.0.join("links/tool");
    fs::create_dir(directory.0.join("links")).unwrap();
    symlink(&tool, &link).unwrap();
    let path = format!("{}:/usr/bin:/bin", directory.0.join("bin").display());
    for name in [tool.to_str().unwrap(), "tool"] {
        let output = guest().arg(name).env("PATH", &path).output().unwrap();
        assert_eq!(said(&output), format!("{}\nbeside\nnew\n", tool.display()), "{output:?}");
    }
    let output = guest().arg(&link).output().unwrap();
    assert_eq!(said(&output), format!("{}\nnew\n", link.display()), "{output:?}");

    // In /tmp itself: the guest has its own /tmp with just the program in it. The same
    // holds for a program that enters a guest by itself.
    let alone = Alone(Path::new("/tmp").join(format!("guest-test-{}-alone", std::process::id())));
    script(&alone.0);
    let output = guest().arg(&alone.0).output().unwrap();
    assert_eq!(said(&output), format!("{}\nnew\n", alone.0.display()), "{output:?}");
    fs::copy(env!("CARGO_BIN_EXE_lvs-guest"), &alone.0).unwrap();
    let output = Command::new(&alone.0)
        .args(["--place", "guest", "--", "sh", "-c", "ls /tmp; touch /tmp/new; ls /tmp"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let name = alone.0.file_name().unwrap().to_str().unwrap();
    assert_eq!(said(&output), format!("{name}\n{name}\nnew\n"), "{output:?}");
}

#[test]
fn a_program_that_the_guest_cannot_start_is_not_a_missing_one() {
    let directory = Scratch::new("interpreter");
    let (shell, script) = (directory.0.join("a/sh"), directory.0.join("b/script"));
    for path in [&shell, &script] {
        fs::create_dir(path.parent().unwrap()).unwrap();
    }
    symlink("/bin/sh", &shell).unwrap();
    fs::write(&script, format!("#!{}\necho ran\n", shell.display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let output = guest().arg(&script).output().unwrap();
    assert_eq!(output.status.code(), Some(127), "{output:?}");
    for word in [script.to_str().unwrap(), "its own", "/tmp", "--write", "LVS_GUEST_WRITE"] {
        assert!(errors(&output).contains(word), "{word} in {}", errors(&output));
    }
    let output = guest_with(&["--write", directory.0.to_str().unwrap()]).arg(&script).output();
    assert_eq!(said(&output.unwrap()), "ran\n");
}

#[test]
fn a_script_that_the_guest_does_not_see_is_named_when_it_fails() {
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    let script = directory.path().join("x.sh");
    fs::write(&script, "exit 3").unwrap();
    let output = guest().arg("sh").arg(&script).output().unwrap();
    assert!(!output.status.success() && output.status.code() != Some(3), "{output:?}");
    let (path, place) = (script.display(), directory.path().display());
    let words = format!(
        "guest: the command failed. The guest does not see {path} of this machine, since it has its own \
         /tmp. --write {place} or"
    );
    assert!(errors(&output).contains(&words), "{output:?}");
    // The hint's advice works.
    let output = guest_with(&["--write", directory.path().to_str().unwrap()])
        .arg("sh")
        .arg(&script)
        .output()
        .unwrap();
    assert_eq!((output.status.code(), errors(&output).as_str()), (Some(3), ""));
    // A command that does not need it fails with its own message, and one that succeeds prints nothing.
    let output = guest().arg("echo").arg(&script).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn standard_input_is_passed_on() {
    let bytes: Vec<u8> = (0..300_000u32).map(|n| (n.wrapping_mul(n) >> 3) as u8).collect();
    let directory = Scratch::new("input");
    let file = directory.0.join("bytes");
    fs::write(&file, &bytes).unwrap();
    let input = fs::File::open(&file).unwrap();
    let output = guest().arg("cat").stdin(input).output().unwrap();
    assert!(output.stdout == bytes, "{} of {} bytes of a file", output.stdout.len(), bytes.len());

    let mut child =
        guest().arg("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let written = bytes.clone();
    let writer = std::thread::spawn(move || pipe.write_all(&written));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.stdout == bytes, "{} of {} bytes of a pipe", output.stdout.len(), bytes.len());

    // A pipe that never ends does not delay a command that does not read it.
    let mut child = guest().arg("true").stdin(Stdio::piped()).spawn().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let output = guest().args(["sh", "-c", "cat; readlink /proc/self/fd/0"]).output().unwrap();
    assert_eq!(said(&output), "/dev/null\n");
}

#[test]
fn the_time_limit_ends_the_command() {
    let started = Instant::now();
    let output = guest_with(&["--time-limit", "1"])
        .args(["sh", "-c", "echo so far; sleep 100"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(124));
    assert_eq!(said(&output), "so far\n");
    assert!(errors(&output).contains("time limit of 1 s"), "{output:?}");
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

#[test]
fn signals_to_the_runner_leave_nothing() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        let (mut child, runner) = sleeper();
        end(&mut child, signal);
        assert_eq!(kernels_of(runner), Vec::<i32>::new(), "after {signal}");
        assert_eq!(jobs_of(runner), Vec::<PathBuf>::new(), "after {signal}");
    }
}

#[test]
fn what_a_killed_runner_leaves_goes_with_the_next_run() {
    let (mut child, runner) = sleeper();
    assert_eq!(jobs_of(runner).len(), 1);
    assert_ne!(kernels_of(runner), Vec::<i32>::new());
    end(&mut child, Signal::SIGKILL);
    assert_eq!(shell("exit 0").status.code(), Some(0));
    assert_eq!(jobs_of(runner), Vec::<PathBuf>::new());
    let deadline = Instant::now() + Duration::from_secs(5);
    while !kernels_of(runner).is_empty() {
        assert!(Instant::now() < deadline, "left: {:?}", kernels_of(runner));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_panic_of_the_guest_is_reported() {
    let output = shell("echo before; sleep 0.3; echo c > /proc/sysrq-trigger; echo after");
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(said(&output), "before\n");
    let errors = errors(&output);
    assert!(errors.contains("ended without an exit status"), "{errors}");
    assert!(errors.contains("sysrq triggered crash"), "{errors}");
}

#[test]
fn links_schedulers_and_the_rest_load_by_themselves() {
    // ipvsadm need not be installed: this makes the kernel's requests by hand, as root.
    let names =
        ["rtnl-link-dummy", "rtnl-link-veth", "rtnl-link-bridge", "br-netfilter", "nlmon", "ipip"];
    let schedulers =
        ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "fo", "ovf", "mh", "sed", "nq"];
    let schedulers = schedulers.map(|scheduler| format!("ip_vs_{scheduler}"));
    let mut script = String::from("set -e; m=$(cat /proc/sys/kernel/modprobe)\n");
    for name in names.into_iter().chain(schedulers.iter().map(String::as_str)) {
        script.push_str(&format!("$m -q -- {name} || echo {name} does not load\n"));
    }
    // IPv6 is built in from Linux 7.1 on, and nothing requests it.
    script.push_str("[ -d /proc/sys/net/ipv6 ] || $m -q net-pf-10; ls -d /proc/sys/net/ipv6\n");
    script.push_str("! $m -q -- net-pf-16-proto-16-family-NONE; cut -d' ' -f1 /proc/modules\n");
    script.push_str("ls /sys/class/net");
    let output = shell(&script);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(!said.contains("does not load"), "{said}");
    for module in ["dummy", "veth", "bridge", "ip_vs", "br_netfilter", "nlmon", "ipip"] {
        assert!(said.lines().any(|line| line == module), "{module} in {said}");
    }
    for module in &schedulers {
        assert!(said.lines().any(|line| line == module), "{module} in {said}");
    }
    assert!(!said.contains("dummy0"), "dummy made a link of its own: {said}");
}

#[test]
fn the_kernel_loads_a_module_by_itself() {
    // A raw socket of another family makes the kernel call request_module.
    let script = "grep -c '^af_key ' /proc/modules; \
                  python3 -c 'import socket; socket.socket(15, socket.SOCK_RAW, 2)' || exit 77; \
                  grep -c '^af_key ' /proc/modules";
    let output = shell(script);
    if output.status.code() == Some(77) {
        println!("skipped: no python3 to open a socket with");
        return;
    }
    assert_eq!(said(&output), "0\n1\n", "{output:?}");
}

#[test]
fn a_guest_in_a_guest_stays_where_it_is_in_namespaces_of_its_own_if_asked() {
    let inner = env!("CARGO_BIN_EXE_lvs-guest");
    let script = format!(
        "readlink /proc/self/ns/net; {inner} -- readlink /proc/self/ns/net; \
         {inner} --place host-shared -- readlink /proc/self/ns/net; mkdir /run/netns/mine; \
         {inner} --place host -- sh -c \
         'readlink /proc/self/ns/net; ls /sys/class/net /run/netns; cat /sys/class/net/lo/flags'; \
         ls /run/netns; ls -d /sys/class/net/lo"
    );
    let output = shell(&script);
    let said = said(&output);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!((lines[1], lines[2]), (lines[0], lines[0]), "{output:?}");
    assert_ne!(lines[3], lines[0], "the machine's own namespace");
    let rest = ["/run/netns:", "", "/sys/class/net:", "lo", "0x9", "mine", "/sys/class/net/lo"];
    assert_eq!(lines[4..], rest, "{output:?}");
}

#[test]
fn a_user_without_rights_boots_a_guest() {
    if !Uid::effective().is_root() {
        println!("skipped: this is such a user, and every other test shows it");
        return;
    }
    let directory = Scratch::new("nobody");
    let program = copy_for_everybody(&directory.0);
    // This user fetches the package: it may not read root's cache.
    let cache = directory.0.join("cache");
    fs::create_dir(&cache).unwrap();
    nix::unistd::chown(&cache, Some(65534.into()), Some(65534.into())).unwrap();
    let output = Command::new(program)
        .args(["--place", "guest", "--", "sh", "-c", "id -u; echo new > made; exit 7"])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LVS_GUEST_CACHE", &cache)
        .envs(std::env::var_os("LVS_GUEST_KERNEL").map(|kernel| ("LVS_GUEST_KERNEL", kernel)))
        .current_dir(&cache)
        .stdin(Stdio::null())
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(said(&output), "0\n");
    assert!(errors(&output).contains("fetching"), "{output:?}");
    assert_eq!(fs::metadata(cache.join("made")).unwrap().uid(), 65534);
}

#[test]
fn settings_that_mean_nothing_are_refused() {
    for (name, value) in [
        ("LVS_GUEST_PLACE", "moon"),
        ("LVS_GUEST_KERNEL", "hurd"),
        ("LVS_GUEST_TIME_LIMIT", "soon"),
        ("LVS_GUEST_MEMORY", "-1"),
        ("LVS_GUEST_MEMORY", "8"),
        ("LVS_GUEST_VERBOSE", "perhaps"),
    ] {
        let output = guest().arg("true").env(name, value).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{name}={value}");
        assert!(errors(&output).contains(name), "{output:?}");
    }
    let output = guest().arg("true").env("LVS_GUEST_UML", "/no/such").output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(errors(&output).contains("/no/such"), "{output:?}");
}

#[test]
fn a_kernel_of_another_release_runs_with_its_own_library() {
    let output =
        guest_with(&["--kernel", "uml-6.12"]).args(["sh", "-c", "uname -r; exit 7"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert!(said(&output).starts_with("6.12."), "{output:?}");
}

fn guest() -> Command {
    guest_with(&[])
}

fn guest_with(options: &[&str]) -> Command {
    // The very first run fetches the package and prints that.
    static FETCHED: Once = Once::new();
    FETCHED.call_once(|| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lvs-guest"));
        let status = command.args(["--place", "guest", "--", "true"]).status().unwrap();
        assert!(status.success(), "this machine cannot have a guest");
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_lvs-guest"));
    command.args(["--place", "guest"]).args(options).arg("--").stdin(Stdio::null());
    command
}

fn shell(script: &str) -> Output {
    guest().args(["sh", "-c", script]).output().unwrap()
}

/// A guest that is sleeping, and its runner's process id.
fn sleeper() -> (Child, i32) {
    let mut child =
        guest().args(["sh", "-c", "echo up; sleep 100"]).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    let runner = child.id() as i32;
    (child, runner)
}

fn end(child: &mut Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
    let status = child.wait().unwrap();
    if is_ignored(signal) {
        // The test may inherit that this signal ends no process: then the status is a shell's for it.
        assert_eq!(status.code(), Some(128 + signal as i32));
    } else {
        assert_eq!(status.signal(), Some(signal as i32));
    }
}

/// Whether this process, and what it starts, ignores a signal: a script's background job ignores
/// SIGINT and SIGQUIT.
fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
    mask & (1 << (signal as u32 - 1)) != 0
}

/// The job directories of a runner.
fn jobs_of(runner: i32) -> Vec<PathBuf> {
    let prefix = format!("lvs-guest-{}-{runner}-", Uid::effective());
    ["/dev/shm".into(), std::env::temp_dir()]
        .into_iter()
        .flat_map(|base: PathBuf| fs::read_dir(base).into_iter().flatten().flatten())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect()
}

/// The living processes of a runner's kernel: their command lines contain the name of the job.
fn kernels_of(runner: i32) -> Vec<i32> {
    let word = format!("lvs-guest-{}-{runner}-", Uid::effective());
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            line.windows(word.len()).any(|window| window == word.as_bytes())
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn copy_for_everybody(directory: &Path) -> PathBuf {
    let program = directory.join("guest");
    fs::copy(env!("CARGO_BIN_EXE_lvs-guest"), &program).unwrap();
    program
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A test's own directory, deleted with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self::within(&std::env::temp_dir().canonicalize().unwrap(), name)
    }

    fn within(directory: &Path, name: &str) -> Self {
        let path = directory.join(format!("guest-test-{}-{name}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A test's own file, deleted with it.
struct Alone(PathBuf);

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn a_guest_starts_where_temporary_directories_are_noexec() {
    if !Uid::effective().is_root() {
        return eprintln!("not tested: mounting takes root");
    }
    let script = "mount -t tmpfs -o noexec none /tmp && mount -t tmpfs -o noexec none /dev/shm && \
                  exec \"$0\" --place guest -- sh -c 'exit 7'";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_lvs-guest")]);
    let output = command.env_remove("TMPDIR").stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
}
