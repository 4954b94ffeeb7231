//! What `cargo guest` does, and prints, if a kernel does not start.

#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use nix::unistd::Uid;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_lvs-guest");
/// The output of 6.1 on a processor with AMX, without most of its stack.
const AMX: &str = "\
Core dump limits :
	soft - 0
	hard - 0
Checking that ptrace can change system call numbers...OK
Checking syscall emulation patch for ptrace...OK
Checking environment variables for a tempdir.../dev/shm
Checking if /dev/shm is on tmpfs...OK
Checking PROT_EXEC mmap in /dev/shm...OK
userspace - ptrace set fp regs failed, errno = 14
Kernel panic - not syncing: userspace - ptrace set fp regs failed, errno = 14
CPU: 0 PID: 1 Comm: init Not tainted 6.1.176 #1
Stack:
 60a4bde0 60043c1f 00000001 606d8f5a
Call Trace:
 [<6004a0b5>] ? panic+0x1a0/0x388
RIP: 0033:0000000060025ac4
RAX: 0000000000000000 RBX: 00000000deadbeef
";
const ADVICE: &str = "Any of these helps:";

/// A cache in which the distribution's kernel is a fake.
struct Packages {
    directory: TempDir,
}

impl Packages {
    /// With a kernel that prints something and exits as if it aborted. `None`, with a message, if the
    /// distribution's kernel is not taken from the cache.
    fn new(words: &str) -> Option<Self> {
        if Path::new("/usr/bin/linux.uml").exists() {
            println!("not tested: this machine's own kernel is installed");
            return None;
        }
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let packages = Self { directory };
        packages.add_fake(&distribution(), "6.1.176", words);
        Some(packages)
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn add_fake(&self, name: &str, release: &str, words: &str) {
        let tree = self.path().join(format!("user-mode-linux-{name}"));
        fs::create_dir_all(tree.join("usr/bin")).unwrap();
        fs::create_dir_all(tree.join("usr/lib/uml/modules").join(release)).unwrap();
        fs::write(tree.join("words"), words).unwrap();
        let kernel = tree.join("usr/bin/linux.uml");
        let script =
            format!("#!/bin/sh\necho >> {0}/starts\ncat {0}/words\nexit 134\n", tree.display());
        fs::write(&kernel, script).unwrap();
        fs::set_permissions(&kernel, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Adds a real kernel, from the machine's own cache, which fetches it if necessary.
    fn add_testing(&self) {
        let output = Command::new(PROGRAM)
            .args(["--place", "guest", "--kernel", "uml-testing", "--", "true"])
            .env_remove("LVS_GUEST_UML")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        let places = [
            variable("LVS_GUEST_CACHE"),
            variable("XDG_CACHE_HOME").map(|path| path.join("lvs-guest")),
            variable("HOME").map(|path| path.join(".cache/lvs-guest")),
            Some(format!("/tmp/lvs-guest-cache-{}", Uid::effective()).into()),
        ];
        let name = "user-mode-linux-testing";
        let mut found = places.into_iter().flatten().map(|path| path.join(name));
        symlink(found.find(|path| path.exists()).unwrap(), self.path().join(name)).unwrap();
    }

    /// How often the distribution's fake kernel was started.
    fn starts(&self) -> usize {
        let path = self.path().join(format!("user-mode-linux-{}/starts", distribution()));
        fs::read_to_string(path).unwrap_or_default().lines().count()
    }

    /// Without apt and QEMU, so that nothing can be fetched.
    fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(["--place", "guest", "--", "/bin/uname", "-r"]).stdin(Stdio::null());
        command.env("LVS_GUEST_CACHE", self.path()).env("PATH", self.path());
        for name in ["LVS_GUEST_KERNEL", "LVS_GUEST_UML", "LVS_GUEST_VERBOSE", "LVS_GUEST_MIRROR"] {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, variables: &[(&str, &str)]) -> Output {
        self.command().envs(variables.iter().copied()).output().unwrap()
    }

    /// The error if no kernel starts.
    fn failure(&self, variables: &[(&str, &str)]) -> String {
        let output = self.run(variables);
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        errors(&output)
    }
}

#[test]
fn the_next_kernel_is_taken_and_the_first_remembered() {
    let Some(packages) = Packages::new(AMX) else { return };
    packages.add_testing();
    let output = packages.run(&[]);
    assert!(said(&output).starts_with('7') && output.status.success(), "{output:?}");
    let line = errors(&output);
    assert_eq!(line.lines().count(), 1, "{line}");
    for words in
        ["using the kernel uml-testing", "no packet filter", "uml does not work", "has AMX"]
    {
        assert!(line.contains(words), "{words} in {line}");
    }
    // The line appears once, and the kernel is not tried again.
    let output = packages.run(&[]);
    assert!(said(&output).starts_with('7') && output.stderr.is_empty(), "{output:?}");
    assert_eq!(packages.starts(), 1);
    // The note holds until the next boot; and with the shim it does not apply.
    let output = packages.run(&[("LVS_GUEST_SHIM", "1")]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(packages.starts(), 2);
    let notes = packages.path().join("bad-uml");
    let text = fs::read_to_string(&notes).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert!(text.contains(boot.trim()), "{text}");
    fs::write(notes, text.replace(boot.trim(), "another boot")).unwrap();
    assert!(errors(&packages.run(&[])).contains("using the kernel uml-testing"));
    assert_eq!(packages.starts(), 3);
}

#[test]
fn a_kernel_that_was_named_is_not_replaced() {
    let Some(packages) = Packages::new(AMX) else { return };
    packages.add_testing();
    for _ in 0..2 {
        let failure = packages.failure(&[("LVS_GUEST_KERNEL", "uml")]);
        assert!(failure.contains("has AMX"), "{failure}");
        let advice = advice(&failure);
        assert!(
            advice.starts_with("  - set LVS_GUEST_KERNEL=uml-testing: that kernel is here"),
            "{advice}"
        );
        assert!(advice.contains("a virtual machine whose processor model has no AMX"), "{advice}");
    }
    assert_eq!(packages.starts(), 2, "what was named is tried again");
    // Neither is a kernel given as a file.
    let fake =
        packages.path().join(format!("user-mode-linux-{}/usr/bin/linux.uml", distribution()));
    let failure = packages.failure(&[("LVS_GUEST_UML", fake.to_str().unwrap())]);
    assert!(failure.contains("has AMX"), "{failure}");
    assert_eq!(packages.starts(), 3);
}

#[test]
fn where_none_starts_there_are_words_and_no_stack() {
    let Some(packages) = Packages::new(AMX) else { return };
    packages.add_fake("testing", "7.2.7", "something else\n");
    for number in 1..=2 {
        let failure = packages.failure(&[]);
        assert!(failure.starts_with("guest: no guest starts here:\n  uml: "), "{failure}");
        for words in ["has AMX", "uml-testing: ", "LVS_GUEST_VERBOSE=1", "something else"] {
            assert!(failure.contains(words), "{words} in {failure}");
        }
        for words in ["60a4bde0", "deadbeef", "Call Trace", "+0x1a0", "soft - 0"] {
            assert!(!failure.contains(words), "{words} in {failure}");
        }
        let log = failure.lines().skip(2).take_while(|line| line.starts_with("    "));
        assert_eq!(log.count(), 5, "{failure}");
        // It does not advise a kernel that was tried.
        let advice = advice(&failure);
        assert!(!advice.contains("LVS_GUEST_KERNEL=uml"), "{advice}");
        assert!(advice.contains("no AMX") && advice.contains("modprobe ip_vs"), "{advice}");
        // Perhaps this machine is at fault, not the kernel: the kernel is tried again.
        assert_eq!(packages.starts(), number);
    }
    let all = packages.failure(&[("LVS_GUEST_VERBOSE", "1")]);
    assert!(all.contains("deadbeef") && all.contains("soft - 0"), "{all}");
}

#[test]
fn every_known_cause_has_its_words_and_its_way_out() {
    let Some(packages) = Packages::new("") else { return };
    for (log, cause, way) in [
        (AMX, "this processor has AMX", "processor model has no AMX"),
        ("check_ptrace : expected SIGSTOP, got status = 9", "may not trace another", "SYS_PTRACE"),
        ("/tmp must be not mounted noexec", "mounted noexec", "TMPDIR=DIRECTORY"),
        (
            "Bus error - the host /dev/shm or /tmp mount likely just ran out of space",
            "there is no room for the file that is its memory",
            "TMPDIR=DIRECTORY to one that has room for 512 MB",
        ),
        (
            "setup_physmem - mapping 520306688 bytes of memory at 0x(____ptrval____) failed - \
             errno = -12",
            "this machine has no memory for it",
            "LVS_GUEST_MEMORY=64",
        ),
        (
            "Kernel panic - not syncing: System is deadlocked on memory",
            "it had too little memory",
            "LVS_GUEST_MEMORY=1024",
        ),
        (
            "linux.uml: version `GLIBC_2.38' not found (required by linux.uml)",
            "needs another C library",
            "LVS_GUEST_KERNEL=uml-testing",
        ),
    ] {
        packages.add_fake(&distribution(), "6.1.176", log);
        let failure = packages.failure(&[]);
        assert!(failure.contains(cause), "{cause} in {failure}");
        assert!(advice(&failure).contains(way), "{way} in {failure}");
    }
}

#[test]
fn a_kernel_that_prints_nothing_has_its_status() {
    let Some(packages) = Packages::new("") else { return };
    let failure = packages.failure(&[]);
    assert!(failure.contains("its process exited with status 134"), "{failure}");
    assert!(!failure.contains("ends with"), "{failure}");
}

/// Real kernels in a container that refuses to trace.
#[test]
fn where_tracing_is_refused_a_newer_kernel_is_taken() {
    const REFUSE: &str = r#"
import ctypes, os, struct, sys
# Loads the system call's number; ptrace is 101, and refused with EPERM.
words = [(0x20, 0, 0, 0), (0x15, 0, 1, 101), (6, 0, 0, 0x50001), (6, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *word) for word in words))
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
c = ctypes.CDLL(None)
assert c.prctl(38, 1, 0, 0, 0) == 0
assert c.prctl(22, 2, ctypes.byref(Filter(4, ctypes.addressof(code)))) == 0
os.execv(sys.argv[1], sys.argv[1:])
"#;
    if !Path::new("/usr/bin/python3").exists() {
        assert!(!lvs_guest::is_required(), "there is no python3 here");
        println!("not tested: there is no python3 on this machine");
        return;
    }
    let guest = |kernel: &[&str]| {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", REFUSE, PROGRAM, "--place", "guest"]).args(kernel);
        command.args(["--", "uname", "-r"]).env_remove("LVS_GUEST_KERNEL").stdin(Stdio::null());
        command.env_remove("LVS_GUEST_UML").output().unwrap()
    };
    let output = guest(&["--kernel", "uml-6.1"]);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    for words in ["may not trace another here", "check_ptrace", "SYS_PTRACE", "uml-testing"] {
        assert!(errors(&output).contains(words), "{words} in {output:?}");
    }
    let output = guest(&[]);
    assert!(output.status.success() && said(&output).starts_with('7'), "{output:?}");
    // A restriction of such a container is not remembered for others.
    let output = Command::new(PROGRAM)
        .args(["--place", "guest", "--", "uname", "-r"])
        .env_remove("LVS_GUEST_KERNEL")
        .env_remove("LVS_GUEST_UML")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!errors(&output).contains("trace"), "{output:?}");
}

/// A real kernel with less memory than the guest needs.
#[test]
fn where_memory_is_limited_it_says_so() {
    let guest = |memory: &str| {
        let script = "ulimit -v 300000; exec \"$@\"";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script, "sh", PROGRAM, "--place", "guest", "--kernel", "uml-6.1"]);
        command.args(["--memory", memory, "--", "uname", "-r"]).env_remove("LVS_GUEST_UML");
        command.stdin(Stdio::null()).output().unwrap()
    };
    let output = guest("512");
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    for words in ["no memory for it", "ulimit -v", "LVS_GUEST_MEMORY=64"] {
        assert!(errors(&output).contains(words), "{words} in {output:?}");
    }
    let output = guest("64");
    assert!(output.status.success(), "the way out is one: {output:?}");
}

#[test]
fn a_kernel_without_a_module_is_passed_over() {
    let Some(packages) = Packages::new("") else { return };
    let directory = packages.path().join(format!("user-mode-linux-{}", distribution()));
    let modules = directory.join("usr/lib/uml/modules/6.1.176");
    fs::write(modules.join("modules.dep"), "").unwrap();
    fs::write(modules.join("modules.builtin"), "").unwrap();
    packages.add_testing();
    let output = packages.run(&[]);
    assert!(output.status.success(), "{output:?}");
    assert!(errors(&output).contains("6.1.176 has no module ip_vs"), "{output:?}");
    assert_eq!(packages.starts(), 0);
}

/// The release of Debian whose kernel is this machine's distribution's.
fn distribution() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap();
    let value = |key: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        let found = lines.find(|(name, _)| *name == key);
        found.map_or("unknown", |(_, value)| value.trim_matches('"')).to_owned()
    };
    let name = match format!("{}-{}", value("ID"), value("VERSION_ID")).as_str() {
        "debian-11" => "bullseye",
        "debian-13" => "trixie",
        // Elsewhere, without apt, it is Debian 12's.
        _ => "bookworm",
    };
    name.to_owned()
}

fn advice(failure: &str) -> &str {
    let (_, advice) = failure.split_once(&format!("{ADVICE}\n")).unwrap();
    advice
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
