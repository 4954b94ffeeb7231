//! Tests of the standard harness, each on its own kernel.
//!
//! Such a test runs in a thread of a process that has others, and neither the guest's init nor a
//! new network namespace can start there. So the test binary is started again, with the one
//! test as its filter. That process enters the kernel before its `main`, while it has one thread; in the
//! guest the same filter selects the test.

use std::{
    env,
    fs::File,
    io::{self, BufRead, BufReader, Write},
    os::unix::process::{ExitStatusExt, parent_id},
    panic::{self, AssertUnwindSafe},
    process::{self, Command, ExitCode, ExitStatus, Stdio, Termination},
    sync::OnceLock,
    thread,
};

use nix::{
    fcntl::OFlag,
    sys::{prctl, signal::Signal},
    unistd,
};

use crate::{Options, Place, enter, error::ErrorKind, inside::init};

/// Set in a process that runs one test: the id of the process that started it.
const STARTED_BY: &str = "LVS_GUEST_TEST";
/// The modules that its kernel must have, separated by commas.
const MODULES: &str = "LVS_GUEST_TEST_MODULES";
/// Exit statuses that the harness does not use: a run that skips the test would end with 0.
const PASSED: i32 = 83;
const SKIPPED: i32 = 84;

/// Whether the constructor was called.
static BEFORE_MAIN: OnceLock<()> = OnceLock::new();
/// Where this process runs, if it was started for one test.
static PLACE: OnceLock<Place> = OnceLock::new();

/// Runs the body of a `#[test]` as root on a Linux kernel that has these modules: this machine's,
/// in new namespaces, or a guest's, as [`enter`] does.
///
/// Each test has its own kernel, or its own namespaces: it may run beside others, and leaves nothing
/// behind. The test is a `#[test]` of the standard harness, under `cargo test` or `cargo
/// nextest`. The body runs in a separate process; its output belongs to the test's output.
/// `Ok` and `Err`, panics and `#[should_panic]` work as in any test.
///
/// The [crate's page](crate) has an example.
///
/// Modules have `modprobe`'s names; for `ip_vs`, IPVS must also answer. The guest
/// loads others by itself when the kernel asks for them. An empty list accepts any kernel.
///
/// # Panics
///
/// The body panicked or returned an error; it did not end within
/// [`LVS_GUEST_TIME_LIMIT`](crate#variables); no kernel with these modules can be used. With
/// `LVS_GUEST_SKIP=1`, if this machine can get no kernel, the test passes and prints that it did
/// not run.
#[track_caller]
pub fn test<T: Termination>(modules: &[&str], body: impl FnOnce() -> T) {
    if PLACE.get().is_none() {
        return outside(modules);
    }
    let result = panic::catch_unwind(AssertUnwindSafe(|| body().report()));
    process::exit(if matches!(result, Ok(status) if status == ExitCode::SUCCESS) {
        PASSED
    } else {
        101
    });
}

/// The place of a process that was started for one test.
pub(crate) fn place() -> Option<Place> {
    PLACE.get().cloned()
}

ctor::declarative::ctor! {
    /// Runs before the standard harness's `main`: runs the internal program for which this process was
    /// started, and enters the kernel if it was started for a test.
    #[ctor(unsafe)]
    fn before_main() {
        crate::assume_role();
        let _ = BEFORE_MAIN.set(());
        // Programs that the test starts must not take this for themselves.
        let starter = env::var(STARTED_BY).ok().and_then(|id| id.parse().ok());
        if starter.is_some_and(|starter: u32| starter == parent_id() || init::is_guest()) {
            go_to_kernel();
        }
    }
}

fn go_to_kernel() {
    // This process must not outlive the one that started it.
    let _ = prctl::set_pdeathsig(Signal::SIGTERM);
    let place = Options::from_env().and_then(|mut options| {
        let modules = env::var(MODULES).unwrap_or_default();
        options.modules =
            modules.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        enter(&options)
    });
    match place {
        Ok(place) => drop(PLACE.set(place)),
        Err(error) => {
            eprintln!("guest: {error}");
            let skips = env::var_os("LVS_GUEST_SKIP").is_some_and(|value| value == "1");
            let is_skipped = skips && error.kind() == ErrorKind::NoKernel;
            process::exit(if is_skipped { SKIPPED } else { error.exit_code() });
        }
    }
}

/// Starts the test binary again for the test of this thread, and reports how that ended.
#[track_caller]
fn outside(modules: &[&str]) {
    // The harness gives the thread the test's name.
    let thread = thread::current();
    let name = thread.name().filter(|name| *name != "main");
    let name = name.expect("lvs_guest::test is for a #[test] of the standard harness");
    // A process that starts itself again must be able to tell that it was started so.
    assert!(BEFORE_MAIN.get().is_some(), "the linker left out the constructor of lvs_guest");
    assert!(env::var_os(STARTED_BY).is_none(), "lvs_guest::test within another");
    let (status, output) =
        run(name, &modules.join(",")).expect("the test binary can be started again");
    match status.code() {
        Some(PASSED) => {}
        Some(SKIPPED) => println!("{name} did not run: there is no kernel, and LVS_GUEST_SKIP=1"),
        Some(0) => panic!("{name} did not run: the test binary knows no test of this name"),
        _ => {
            // Where a `should_panic(expected = …)` finds its text.
            let reason = output.find("panicked at").map_or(output.as_str(), |at| &output[at..]);
            panic!("{name} failed on its kernel ({}): {reason}", end(status));
        }
    }
}

fn end(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(101), _) => "it panicked".to_owned(),
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or_default()),
    }
}

/// Runs the test in a separate process. This thread prints its output as it arrives, so
/// that the harness takes it for this test's.
fn run(name: &str, modules: &str) -> io::Result<(ExitStatus, String)> {
    let (output, end) = unistd::pipe2(OFlag::O_CLOEXEC)?;
    let mut command = Command::new(env::current_exe()?);
    command
        .args(["--exact", name, "--nocapture", "--include-ignored", "--test-threads=1"])
        .env(STARTED_BY, process::id().to_string())
        .env(MODULES, modules)
        .stdin(Stdio::null())
        .stdout(end.try_clone()?)
        .stderr(end);
    let mut child = command.spawn()?;
    // Closes this process's copies of the pipe's end.
    drop(command);
    let mut text = String::new();
    let mut line = Vec::new();
    let mut output = BufReader::new(File::from(output));
    while output.read_until(b'\n', &mut line)? > 0 {
        let words = String::from_utf8_lossy(&line);
        // Skip the harness's own lines about the inner run.
        if !matches!(words.trim_end(), "" | "running 1 test") {
            print!("{words}");
        }
        text.push_str(&words);
        line.clear();
    }
    io::stdout().flush()?;
    Ok((child.wait()?, text))
}
