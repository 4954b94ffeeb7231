//! Runs a command on a Linux kernel that has IPVS: `cargo guest -- COMMAND ARGUMENTS...`

#![forbid(unsafe_code)]

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::Parser;

use lvs_guest::{Choice, Kernel, Options};

const USAGE: &str = "cargo guest [OPTIONS] -- COMMAND [ARGUMENTS]...";

/// Runs a command on a Linux kernel that has IPVS. If this machine's kernel has it and this is root,
/// that is this machine's kernel, in namespaces of its own; else it is a guest's, by default
/// User-Mode Linux. A guest is a kernel of its own that sees this machine's files: nothing on this
/// machine changes except below the working directory and cargo's target directory.
///
/// The exit status is the command's; 124 after the time limit, 125 if the guest failed. If standard
/// input and output are a terminal, the command has a terminal too. Control-] three times within a
/// second ends a guest that does not respond.
///
/// Each option has a variable of the same meaning, LVS_GUEST_TIME_LIMIT and so on, which the
/// examples and tests read too. LVS_GUEST_UML names a User-Mode Linux binary of your own,
/// LVS_GUEST_UML_MODULES its modules, LVS_GUEST_CACHE the directory that keeps fetched kernels,
/// LVS_GUEST_MIRROR a mirror of Debian to fetch from where there is no apt.
#[derive(Parser)]
#[command(name = "cargo guest", override_usage = USAGE)]
struct Arguments {
    /// Which kernel may be used: any, host (this one or fail), host-shared (this one, touching the
    /// machine's own tables), guest
    #[arg(long, value_name = "PLACE")]
    place: Option<Choice>,

    /// The guest's kernel: uml (this machine's distribution's), uml-5.10, uml-6.1, uml-6.12 (of
    /// Debian 11, 12, 13), uml-testing (of Debian testing); with QEMU also qemu-5.10,
    /// qemu-6.1, qemu-6.12, qemu-backports (the newest of Debian 13's backports), qemu-unstable
    /// [default: the first of uml, uml-testing, qemu-6.1 that runs here]
    #[arg(long, value_name = "KERNEL")]
    kernel: Option<Kernel>,

    /// Seconds until a guest is ended, 0 for no limit [default: 600]
    #[arg(long, value_name = "SECONDS")]
    time_limit: Option<u32>,

    /// The guest's memory in MiB, at least 32, in QEMU 128 [default: 512]
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,

    /// Shows the guest's kernel log on standard error
    #[arg(long, short)]
    verbose: bool,

    /// A directory of this machine that the guest writes to, besides the working directory and cargo's
    /// target directory; can be given several times
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
