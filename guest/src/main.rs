//! Runs a command on a Linux kernel that has IPVS: `cargo guest -- COMMAND ARGUMENTS...`

#![forbid(unsafe_code)]

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::Parser;

use lvs_guest::{Choice, Kernel, Options};

const USAGE: &str = "cargo guest [OPTIONS] -- COMMAND [ARGUMENTS]...";

/// Runs a command on a Linux kernel that has IPVS. For root on a machine whose kernel has IPVS, that is
/// the machine's kernel, in new namespaces. Otherwise it is a guest's kernel, by default User-Mode
/// Linux. A guest sees this machine's files, but changes them only below the working directory and
/// cargo's target directory.
///
/// The exit status is the command's; 124 after the time limit, 125 if the guest failed. If standard
/// input and output are a terminal, the command has a terminal too. To end a guest that does not
/// respond, press Control-] three times within a second.
///
/// Each option also has a variable, such as LVS_GUEST_TIME_LIMIT, which the examples and tests read
/// too. Four more variables: LVS_GUEST_UML (path of your own User-Mode Linux binary),
/// LVS_GUEST_UML_MODULES (directory of its modules), LVS_GUEST_CACHE (directory that keeps fetched
/// kernels), LVS_GUEST_MIRROR (mirror of Debian to fetch from, without apt).
#[derive(Parser)]
#[command(name = "cargo guest", override_usage = USAGE)]
struct Arguments {
    /// Which kernel may be used: any, host (this machine's, or fail), host-shared (this machine's,
    /// without new namespaces: the command changes the machine's own tables), guest
    /// [default: any]
    #[arg(long, value_name = "PLACE")]
    place: Option<Choice>,

    /// The guest's kernel. User-Mode Linux: uml (from this machine's distribution), uml-5.10, uml-6.1,
    /// uml-6.12 (Debian 11, 12, 13), uml-testing (Debian testing). In QEMU: qemu-5.10, qemu-6.1,
    /// qemu-6.12 (Debian 11, 12, 13), qemu-backports (newest in Debian 13's backports), qemu-unstable
    /// (newest in Debian unstable)
    /// [default: the first of uml, uml-testing, qemu-6.1 that runs here]
    #[arg(long, value_name = "KERNEL")]
    kernel: Option<Kernel>,

    /// End the guest after this many seconds, 0 for no limit [default: 600]
    #[arg(long, value_name = "SECONDS")]
    time_limit: Option<u32>,

    /// The guest's memory in MiB: at least 32, in QEMU at least 128 [default: 512]
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,

    /// Show the guest's kernel log on standard error
    #[arg(long, short)]
    verbose: bool,

    /// A directory of this machine that the guest may change, besides the working directory and cargo's
    /// target directory; can be repeated
    #[arg(long, value_name = "DIRECTORY")]
    write: Vec<PathBuf>,

    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

fn main() {
    lvs_guest::assume_role();
    let arguments = Arguments::parse();
    let mut options = Options::from_env().unwrap_or_else(|error| lvs_guest::fail(&error));
    options.choice = arguments.place.unwrap_or(options.choice);
    options.kernel = arguments.kernel.or(options.kernel);
    options.memory = arguments.memory.unwrap_or(options.memory);
    options.verbose |= arguments.verbose;
    options.write.extend(arguments.write);
    if let Some(seconds) = arguments.time_limit {
        options.time_limit = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
    }
    let mut command = arguments.command.into_iter();
    let program = command.next().unwrap_or_default();
    match lvs_guest::run(&options, program, command.collect()) {
        Ok(outcome) => outcome.exit(),
        Err(error) => lvs_guest::fail(&error),
    }
}
