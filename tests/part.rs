//! Cases that start this program again with fewer capabilities, mounts or descriptors, since these belong to a process.

use std::{
    env,
    fs::File,
    process::{self, Command},
};

use kernel_tests::Outcome;
use libtest_mimic::{Failed, Trial};
use netns_link::NetNs;

/// The function that this process runs, by its name.
const PART: &str = "LVS_KERNEL_TEST_PART";
/// The name of a second namespace.
const OTHER: &str = "LVS_KERNEL_TEST_OTHER";

pub(crate) const ROOT_WITHOUT_CAPABILITIES: &[&str] = &["setpriv", "--bounding-set", "-all"];
pub(crate) const USER_WITHOUT_CAPABILITIES: &[&str] =
    &["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--bounding-set", "-all"];
pub(crate) const ROOT_WITH_NET_ADMIN: &[&str] =
    &["setpriv", "--bounding-set", "-all,+net_admin", "--inh-caps", "-all,+net_admin"];
pub(crate) const USER_WITH_NET_ADMIN: &[&str] = &[
    "setpriv",
    "--reuid=1000",
    "--regid=1000",
    "--clear-groups",
    "--bounding-set",
    "-all,+net_admin",
    "--inh-caps",
    "-all,+net_admin",
    "--ambient-caps",
    "-all,+net_admin",
];
/// For root the number of threads is not limited.
pub(crate) const USER_WITH_ONE_THREAD: &[&str] =
    &["setpriv", "--reuid=1001", "--regid=1001", "--clear-groups", "prlimit", "--nproc=1"];

/// A function that a process runs, with its name.
#[derive(Clone, Copy)]
pub(crate) struct Part(pub(crate) &'static str, pub(crate) fn() -> Outcome);

/// A case that runs such a function in a process started by `by`, which restricts it.
pub(crate) fn case(name: &str, Part(part, _): Part, by: &'static [&'static str]) -> Trial {
    Trial::test(name, move || play(part, by))
}

/// Runs this process's function, if it was started for one, and exits.
pub(crate) fn assume(parts: &[Part]) {
    let Ok(part) = env::var(PART) else { return };
    let played = match parts.iter().find(|Part(name, _)| *name == part) {
        Some(Part(_, play)) => play(),
        None => Err(format!("no part {part}").into()),
    };
    match played {
        Ok(()) => process::exit(0),
        Err(failed) => {
            eprintln!("{part}: {}", failed.message().unwrap_or_default());
            process::exit(1)
        }
    }
}

/// The second namespace.
pub(crate) fn other_namespace() -> Result<NetNs, Failed> {
    Ok(NetNs::open(&env::var(OTHER)?)?)
}

/// A command that starts this program again for a function, without restrictions.
pub(crate) fn again(Part(part, _): Part) -> Result<Command, Failed> {
    let mut command = Command::new(env::current_exe()?);
    command.env(PART, part);
    Ok(command)
}

/// The same, started by another program, which restricts it.
pub(crate) fn again_by(Part(part, _): Part, by: &[&str]) -> Result<Command, Failed> {
    let mut command = Command::new(by[0]);
    command.args(&by[1..]).arg(env::current_exe()?).env(PART, part);
    Ok(command)
}

/// Starts this program again, in a new namespace.
fn play(part: &str, by: &[&str]) -> Outcome {
    let namespace = NetNs::new()?;
    let other = format!("lvs-other-{}", process::id());
    NetNs::create(&other)?;
    // By its descriptor: another user may be unable to reach its path.
    let mut command = Command::new(by[0]);
    command
        .args(&by[1..])
        .arg("/proc/self/fd/0")
        .env(PART, part)
        .env(OTHER, &other)
        .stdin(File::open(env::current_exe()?)?);
    let output = namespace.run(|| command.output());
    NetNs::delete(&other)?;
    let output = output??;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{}: {said}", output.status).into()) }
}
