//! What runs on this machine.

pub(crate) mod launcher;
pub(crate) mod native;
pub(crate) mod run;
pub(crate) mod supervise;

mod apt;
mod archive;
mod cache;
mod candidates;
mod engine;
mod fetch;
mod initramfs;
mod job;
mod kernel;
mod mirror;
mod notes;
mod pinned;
mod processor;
mod progress;
mod qemu;
mod shim;
mod starved;
mod streams;
mod terminal;
mod traffic;
mod uml;
mod visible;
mod ways;

use std::path::{Path, PathBuf};

use nix::unistd::{self, AccessFlags};

/// A program in `PATH` or in the administrators' directories.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let administrators = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(administrators)
        .map(|directory| directory.join(name))
        .find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    path.is_file() && unistd::access(path, AccessFlags::X_OK).is_ok()
}
