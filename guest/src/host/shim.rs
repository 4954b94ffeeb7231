//! The shim that old User-Mode Linux kernels need on processors with AMX: see `shim/ptrace.rs`.

use std::{fs, path::PathBuf};

use crate::{
    error::{Context, Error},
    host::{job::Job, processor},
    options::Options,
};

/// Empty if it could not be compiled.
const SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ptrace.so"));
/// The first release that asks the machine for the size of its registers.
const FIRST_WITHOUT: (u32, u32) = (6, 13);

/// Whether a User-Mode Linux kernel gets the shim: as the options say, else if it needs it.
pub(super) fn is_used(options: &Options, releases: &[String]) -> bool {
    let is_wanted = options
        .shim
        .unwrap_or_else(|| releases.iter().any(|release| is_old(release)) && processor::has_amx());
    is_wanted && !SHIM.is_empty()
}

/// Whether a release panics without the shim on a processor with AMX.
pub(super) fn is_old(release: &str) -> bool {
    version(release).is_some_and(|version| version < FIRST_WITHOUT)
}

/// The first two numbers of a release.
pub(super) fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse().ok());
    numbers.next().zip(numbers.next())
}

/// Puts the shim into a job's directory, since programs can be loaded from there.
pub(super) fn put(job: &Job) -> Result<PathBuf, Error> {
    let path = job.path().join("ptrace.so");
    fs::write(&path, SHIM).context("write", path.display())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_before_6_13_are_old() {
        for release in ["5.10.46", "6.1.176", "6.12.113", "6.12-rc1"] {
            assert!(is_old(release), "{release}");
        }
        for release in ["6.13.0", "6.13-rc1", "7.2.7", "10.0.1", "", "next"] {
            assert!(!is_old(release), "{release}");
        }
    }

    #[test]
    fn the_shim_needs_no_library() {
        if cfg!(target_arch = "x86_64") {
            assert!(SHIM.starts_with(b"\x7fELF") && SHIM.len() < 10_000, "{}", SHIM.len());
            let has = |word: &[u8]| SHIM.windows(word.len()).any(|bytes| bytes == word);
            assert!(has(b"\0ptrace\0") && !has(b".so.") && !has(b"GLIBC_"));
        }
    }
}
