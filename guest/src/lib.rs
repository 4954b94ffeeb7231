//! Runs a test or a program on its own Linux kernel: no root, no virtual machine, no set-up.
//!
//! Code for netlink, `/proc` or `/sys` needs a kernel to be tested on, with root and
//! with modules. Development machines and CI runners have neither. [`test()`] runs the body of a
//! `#[test]` as root on a kernel that has them:
//!
//! ```
//! #[test]
//! fn a_bridge_comes_up() {
//!     lvs_guest::test(&["bridge"], || {
//!         let ip = |words: &str| {
//!             std::process::Command::new("ip").args(words.split(' ')).status().unwrap().success()
//!         };
//!         assert!(ip("link add br0 type bridge") && ip("link set br0 up"));
//!     });
//! }
//! ```
//!
//! ```toml
//! [dev-dependencies]
//! lvs-guest = { version = "0.1", default-features = false }
//! ```
//!
//! Each test gets a kernel of its own, in a fifth of a second, so tests run beside each other and
//! leave nothing behind. Debian's User-Mode Linux, the default, has IPVS with all its schedulers,
//! bridge, veth, dummy, VLAN, VXLAN, bonding, tunnels, ipset, conntrack, iptables and traffic
//! control. It has no WireGuard, and no nftables except for bridges. A test that asks for such a module
//! gets a kernel in QEMU, which takes seconds, if QEMU is installed.
//!
//! # Programs
//!
//! A program that needs such a kernel (an example, a test binary with its own harness) makes
//! one call, first in `main`:
//!
//! ```no_run
//! let place = lvs_guest::enter_or_exit();
//! println!("running on {place}");
//! ```
//!
//! The call returns only where IPVS (or the modules in [`Options::modules`]) can be used:
//!
//! - **On this machine's kernel**, if it has IPVS and the process may use it (root in the initial
//!   user namespace). The process first moves into new network and mount namespaces, so
//!   it never touches the machine's own IPVS table, links or settings.
//! - **In a guest** otherwise. By default that is User-Mode Linux, an
//!   ordinary program that needs no root, no KVM and no disk image; on request, or if that does not
//!   start, it is one of Debian's kernels in QEMU. The same program runs again inside, with the same
//!   arguments, environment, working directory and standard input. Its standard output and standard error
//!   stay separate and arrive at once. The first process ends as the second did, with its exit status or
//!   by its signal.
//!
//! `cargo guest -- COMMAND ARGUMENTS...` does the same for any command. Options come before the `--`;
//! `cargo guest --help` lists them.
//!
//! # Inside the guest
//!
//! The process is root. It sees this machine's files. What it writes goes to a layer in memory and
//! is lost at the end, except below the working directory, cargo's target directory and
//! [`Options::write`]: there it changes this machine's files, with the rights of the user who started
//! the guest. A working directory that contains system directories (`/`, `/usr`, `/etc`) is not
//! changed either.
//!
//! The guest has its own `/dev`, `/proc`, `/run`, `/sys` and `/tmp`, which do not show this
//! machine's files. There are two exceptions below `/dev/shm`, `/run` and `/tmp`: the directories of
//! the program and of `PATH` and similar variables can be read, and a directory that any other
//! variable names (`TMPDIR`, `XDG_RUNTIME_DIR`) exists, empty and writable. If a command fails, a line on
//! standard error names those of its arguments that are files hidden in this way.
//!
//! The network has only `lo`. There is one CPU. Kernel modules load by themselves. The guest
//! ends when the command ends, even if it left processes behind.
//!
//! # Terminals
//!
//! If standard input and standard output are a terminal, the command has one inside, and interactive
//! programs work: `cargo guest -- top`, `vi`, `bash`. The terminal has the same size, and follows its
//! changes. Control-C and Control-Z go to the command; when Control-Z stops the command, it stops the
//! whole job outside too. Control-] three times within a second ends a guest that does not respond.
//! The time limit applies. However the guest ends, the terminal's settings are restored.
//!
//! Otherwise, and for a job in the background, standard input is passed on if it is a pipe or a file
//! (and read ahead, as ssh does); else it is `/dev/null`. Standard output and standard error are
//! pipes.
//!
//! # How it works
//!
//! The kernel is Debian's package `user-mode-linux`. If it is not installed, apt fetches it once. apt gets
//! its own state directory, so this needs no root, and verifies the signatures. The package is
//! unpacked into a cache directory. The other kernels come from Debian's other suites, each with the C
//! library that it was linked with. The guest's root is a
//! read-only view of this machine's files, so this program itself is the guest's init; it also answers the
//! kernel's calls for `modprobe`. A job directory (private, in `/dev/shm` or `$TMPDIR`) carries the
//! command in and the exit status out. The guest dies with the process that started it.
//!
//! Without apt (Fedora, Alpine, Arch, a container) set `LVS_GUEST_MIRROR` to a mirror of Debian. `curl` or `wget`
//! fetches two packages from it, through their usual proxies. This program checks their
//! SHA-256 and unpacks them; `uml` is then Debian 12's kernel. If the mirror has only newer packages, their
//! checksums come from the suite's list, and `gpgv` checks its signature with the archive's keys. A directory can
//! be a mirror; it needs only the package files, `pool/...`. A kernel in the cache needs no network.
//!
//! The kernels named `qemu-*` are the ones that Debian makes for virtual machines, fetched in
//! the same way. Real machines run these, while User-Mode Linux is an architecture of its
//! own, and there are more versions of them. They boot in three to six seconds, without root, and need
//! QEMU, which is not fetched: `apt-get install qemu-system-x86 kmod`, on arm64 `qemu-system-arm` and
//! `kmod`. QEMU translates instructions, so
//! programs run some ten times slower. KVM is used if the user may use it (Debian's group `kvm`) and it
//! works; if it hangs or dies, it is given up after five seconds, until the machine's next boot.
//!
//! QEMU's kernel starts with this program and its libraries, packed into an initramfs with the modules
//! that are needed to mount this machine's files. The program changes to those files and is the same init
//! from there on. Virtio ports replace the serial lines. QEMU serves the files itself, by 9p,
//! which needs a kernel for any machine (a download of 80 MB, 190 MB on disk). For root, `virtiofsd` serves
//! them if it is installed, to a kernel for virtual machines (36 MB and 110 MB).
//!
//! # Variables
//!
//! | Variable | Meaning | Default |
//! |---|---|---|
//! | `LVS_GUEST_PLACE` | `any`; `host`: this machine's kernel or fail; `host-shared`: this machine's kernel without new namespaces, **changing the machine's own table**; `guest`: always a guest | `any` |
//! | `LVS_GUEST_KERNEL` | the guest's kernel: `uml` (from this machine's distribution); `uml-5.10`, `uml-6.1`, `uml-6.12` and `qemu-5.10`, `qemu-6.1`, `qemu-6.12` (of Debian 11, 12, 13); or the newest when it is fetched: `uml-testing`, `qemu-backports` (to Debian 13), `qemu-unstable`. It is never replaced by another | the first of `uml`, `uml-testing`, `qemu-6.1` that runs here |
//! | `LVS_GUEST_TIME_LIMIT` | seconds until the guest is ended, 0 for no limit; time spent waiting for a busy processor does not count, up to three times the limit | 600 |
//! | `LVS_GUEST_MEMORY` | the guest's memory in MiB: at least 32, in QEMU at least 128 | 512 |
//! | `LVS_GUEST_VERBOSE` | `1` shows the guest's kernel log on standard error | `0` |
//! | `LVS_GUEST_WRITE` | more directories that the guest may change, separated by `:` | |
//! | `LVS_GUEST_UML` | path of a User-Mode Linux binary, instead of the package `user-mode-linux` | |
//! | `LVS_GUEST_UML_MODULES` | directory of its modules, with one directory for each version | `../lib/uml/modules` from the binary |
//! | `LVS_GUEST_SHIM` | `1` or `0`: with or without the shim for processors with AMX, on any processor | if needed |
//! | `LVS_GUEST_CACHE` | where packages are unpacked | `$XDG_CACHE_HOME/lvs-guest`, `~/.cache/lvs-guest`, or one in `/tmp` |
//! | `LVS_GUEST_MIRROR` | a mirror of Debian's archive to fetch User-Mode Linux from instead of apt: an address (`http://HOST/debian`) or a directory | apt's own |
//! | `LVS_GUEST_KEYRING` | the public keys of Debian's archive, for that mirror's lists | `/usr/share/keyrings/debian-archive-keyring.gpg` |
//! | `LVS_GUEST_SKIP` | `1`: if this machine can get no kernel, a [`test()`] passes and prints that it did not run | it fails |
//!
//! # Processors
//!
//! Guests run on any x86-64. For arm64 (aarch64) there is no User-Mode Linux. There, the first choice is root and
//! `modprobe ip_vs`, on this machine's own kernel, and the second is Debian's arm64 kernel in QEMU
//! (by default `qemu-6.1`).
//!
//! On x86-64, User-Mode Linux before 6.13 does not know the registers of AMX (Intel's Sapphire
//! Rapids and later) and panics at boot. There it gets a shim: a library of 3 KB, part of this
//! program and preloaded into the kernel, that handles those registers.
//!
//! # If a kernel does not start
//!
//! If no kernel is named, and the first choice ends before it starts the command, cannot be fetched, or lacks a
//! module ([`Options::modules`]), another one is used: Debian testing's User-Mode Linux (which has
//! no packet filter for iptables or nft), then a kernel in QEMU if that is installed. A line on standard
//! error tells this, once until this machine's next boot; until then the first choice is not tried again. If no
//! kernel starts, the error has the reason for each, and what helps on this machine.
//!
//! # Exit status
//!
//! The command's exit status, or its signal. Otherwise: 124 after the time limit, 125 if no guest
//! starts or it crashed (its kernel's last lines are shown), 126 and 127 for a command that cannot
//! be run or does not exist.
//!
//! # Limits
//!
//! Guests run on x86-64 and arm64 only. The kernels named `uml*` run on x86-64 only; only apt can fetch those named
//! `qemu-*`. A system call under User-Mode Linux takes some 20 microseconds. The
//! time limit is for guests only. Under `uml-5.10`, files that are not below the writable directories are read
//! only: there is no layer in memory.

// Except in the constructor that the crate `ctor` writes for `test`.
#![deny(unsafe_code)]
#![allow(clippy::test_attr_in_doctest, reason = "tests/harness.rs runs the example of the page")]

mod architecture;
mod cause;
#[doc = include_str!("design.md")]
pub mod design {}
mod error;
mod feed;
mod host;
mod inside;
mod ipvs;
mod modules;
mod needs;
mod netlink;
mod options;
mod order;
mod test;

use std::{ffi::OsString, fmt, fs, os::unix::ffi::OsStringExt, process};

use nix::{sys::utsname::uname, unistd};

use crate::{
    error::Context,
    host::{launcher, native, run},
    inside::init,
    order::Command,
};

pub use crate::{
    cause::Cause,
    error::{Error, ErrorKind},
    host::supervise::Outcome,
    options::{Choice, Kernel, Options},
    test::test,
};

/// Where a process runs, once [`enter`] has returned.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// This machine's kernel, in new network and mount namespaces.
    Host {
        /// The kernel's release, as `uname -r` prints it.
        release: String,
    },
    /// This machine's kernel, in the namespaces in which the process was started.
    HostShared {
        /// The kernel's release, as `uname -r` prints it.
        release: String,
    },
    /// A guest.
    Guest {
        /// The guest kernel's release, as `uname -r` prints it.
        release: String,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { release } => {
                write!(f, "this machine's kernel {release}, in new namespaces")
            }
            Self::HostShared { release } => {
                write!(f, "this machine's kernel {release}, in the machine's own namespaces")
            }
            Self::Guest { release } => write!(f, "a guest kernel {release}"),
        }
    }
}

/// Puts this process on a kernel that has IPVS; returns only there.
///
/// Call it first in `main`, while the process has one thread. If a guest is needed, this
/// process becomes its runner, and ends here as the program inside ended.
///
/// # Errors
///
/// There is no such kernel, or the guest failed; [`Error::exit_code`] is the status to exit with.
pub fn enter(options: &Options) -> Result<Place, Error> {
    assume_role();
    if let Some(place) = test::place() {
        return Ok(place);
    }
    // A guest would run the whole program again for one of its threads, and then end it.
    if !is_first_thread() && !init::is_guest() {
        return Err(Error::Threads { count: native::threads()? });
    }
    if let Some(place) = settle(options)? {
        return Ok(place);
    }
    let program = std::env::current_exe().context("find the path of", "this program")?;
    let mut words = words();
    let name = words.next().unwrap_or_else(|| program.clone().into_os_string());
    let command = Command::here(program.into_os_string(), name, words.collect())?;
    run::run(options, &command)?.exit()
}

/// [`enter`] with [`Options::from_env`]; prints an error to standard error and exits with its
/// [`Error::exit_code`].
pub fn enter_or_exit() -> Place {
    assume_role();
    Options::from_env().and_then(|options| enter(&options)).unwrap_or_else(|error| fail(&error))
}

/// [`enter`] for a test that is a program of its own, such as one in documentation. If there is
/// no such kernel, it prints why and exits with success, unless [`is_required`].
pub fn enter_or_skip() -> Place {
    assume_role();
    match Options::from_env().and_then(|options| enter(&options)) {
        Ok(place) => place,
        Err(error) if !is_excused(&error) || !is_first_thread() => fail(&error),
        Err(error) => {
            eprintln!("guest: {error}\nguest: nothing was tested, since there is no kernel for it");
            process::exit(0)
        }
    }
}

/// Whether tests must have a kernel with IPVS: with `LVS_REQUIRE_KERNEL=1`, which CI
/// sets.
pub fn is_required() -> bool {
    std::env::var_os("LVS_REQUIRE_KERNEL").is_some_and(|value| value == "1")
}

/// Whether this error excuses a test from running: this machine can have no kernel, and none
/// [`is_required`]. A guest that crashed, did not start or ran out of time is no excuse.
pub fn is_excused(error: &Error) -> bool {
    !is_required() && matches!(error.kind(), ErrorKind::NoKernel | ErrorKind::Unavailable)
}

/// Runs a command on a kernel that has IPVS, as `cargo guest` does: becomes the command on this
/// machine's kernel, or returns how it ended in a guest.
///
/// The program that calls this must have called [`assume_role`] first in `main`.
///
/// # Errors
///
/// There is no such kernel, the command cannot be run, the time limit was reached or the guest
/// failed.
pub fn run(
    options: &Options,
    program: OsString,
    arguments: Vec<OsString>,
) -> Result<Outcome, Error> {
    let command = Command::here(program.clone(), program, arguments)?;
    match settle(options)? {
        Some(_) => Err(native::become_command(&command)),
        None => run::run(options, &command),
    }
}

/// Runs the internal program for which this process was started: the guest's init, its `modprobe`, or the
/// launcher of its kernel. Then it does not return. In any other process it returns at once.
///
/// [`enter`] calls it. Programs that call [`run`] must call it themselves.
pub fn assume_role() {
    init::assume_role();
    launcher::assume_role();
}

/// Prints an error to standard error and exits with its [`Error::exit_code`]. In another thread, such as
/// that of a `#[test]`, it panics with the error, so that only the one test fails.
pub fn fail(error: &Error) -> ! {
    assert!(is_first_thread(), "{error}");
    eprintln!("guest: {error}");
    process::exit(error.exit_code())
}

/// Tries to stay on the kernel that runs this process; `None` if it needs a guest.
fn settle(options: &Options) -> Result<Option<Place>, Error> {
    let release = release()?;
    if init::is_guest() && options.choice != Choice::Host {
        needs::probe(&options.modules)?;
        return Ok(Some(Place::Guest { release }));
    }
    let found = match options.choice {
        Choice::Guest => return Ok(None),
        Choice::HostShared => {
            needs::probe(&options.modules).map(|()| Place::HostShared { release })
        }
        Choice::Host | Choice::Any => needs::probe(&options.modules)
            .and_then(|()| native::isolate())
            .map(|()| Place::Host { release }),
    };
    match found {
        Ok(place) => Ok(Some(place)),
        Err(error) if options.choice == Choice::Any && error.kind() == ErrorKind::Unavailable => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// This process's name and arguments. Some C libraries (musl) provide them only when `main` starts;
/// the kernel knows them before.
fn words() -> impl DoubleEndedIterator<Item = OsString> {
    let mut words: Vec<_> = std::env::args_os().collect();
    if words.is_empty() {
        let mut line = fs::read("/proc/self/cmdline").unwrap_or_default();
        // A NUL ends each word.
        line.pop();
        words =
            line.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
    }
    words.into_iter()
}

/// Whether this is the thread that runs `main`.
fn is_first_thread() -> bool {
    unistd::gettid() == unistd::getpid()
}

/// The running kernel's release, as `uname -r` prints it.
fn release() -> Result<String, Error> {
    let name = uname().context("ask for the name of", "the kernel")?;
    Ok(name.release().to_string_lossy().into_owned())
}
