//! The code that runs as process 1 of the guest's kernel, and as its `modprobe`.

pub(crate) mod init;

mod command;
mod lines;
mod root;
mod terminal;

use std::path::{Path, PathBuf};

/// The kernel parameter that names the job's directory. The kernel passes unknown parameters to init as
/// variables.
pub(crate) const JOB: &str = "lvs_guest";
/// The kernel parameter for the kind of file system that shows this machine's files, in QEMU.
pub(crate) const FILES: &str = "lvs_guest_files";
/// Directories of which the guest has its own: it does not see this machine's.
pub(crate) const OWN_DIRECTORIES: [&str; 5] = ["/dev", "/proc", "/run", "/sys", "/tmp"];
/// The paths of the first program in QEMU's guests, and of its modules.
pub(crate) const FIRST_STAGE: &str = "/lvs-guest-init";
pub(crate) const FIRST_MODULES: &str = "/modules";
/// Where that program mounts this machine's files.
pub(crate) const HOST: &str = "/host";
/// The names of the file systems that show this machine's files: one to read, and one to write, if that
/// is another one.
pub(crate) const TAG: &str = "host";
pub(crate) const WRITABLE_TAG: &str = "write";
/// Init's own directory in the guest.
const OWN: &str = "/run/lvs-guest";
const MODPROBE: &str = "/run/lvs-guest/modprobe";
pub(crate) const MODULES: &str = "/run/lvs-guest/modules";

fn own(name: &str) -> PathBuf {
    Path::new(OWN).join(name)
}
