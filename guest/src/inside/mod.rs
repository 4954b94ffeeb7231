//! What runs as process 1 of the other kernel, and as its `modprobe`.

pub(crate) mod init;

mod command;
mod lines;
mod root;
mod terminal;

use std::path::{Path, PathBuf};

/// The parameter on the kernel's command line that names the job's directory. The kernel hands
/// parameters that it does not know to init as variables.
pub(crate) const JOB: &str = "lvs_guest";
/// The same of the kind of file system that is this machine's files, in QEMU.
pub(crate) const FILES: &str = "lvs_guest_files";
/// Directories of which a guest has its own: it does not see this machine's.
pub(crate) const OWN_DIRECTORIES: [&str; 5] = ["/dev", "/proc", "/run", "/sys", "/tmp"];
/// The path of the program that QEMU's guests start with, and its modules.
pub(crate) const FIRST_STAGE: &str = "/lvs-guest-init";
pub(crate) const FIRST_MODULES: &str = "/modules";
/// Where that program sees this machine's files.
pub(crate) const HOST: &str = "/host";
/// The name of the file system that is this machine's files, and of the same to be written, if that is
/// another one.
pub(crate) const TAG: &str = "host";
pub(crate) const WRITABLE_TAG: &str = "write";
/// Init's own directory in the guest.
const OWN: &str = "/run/lvs-guest";
const MODPROBE: &str = "/run/lvs-guest/modprobe";
pub(crate) const MODULES: &str = "/run/lvs-guest/modules";

fn own(name: &str) -> PathBuf {
    Path::new(OWN).join(name)
}
