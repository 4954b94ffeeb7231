//! The program.

#![forbid(unsafe_code)]

use std::{env, process::ExitCode};

/// The one of musl takes more time than all else of a long listing.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    ipvsadm::run(env::args_os().skip(1)).into()
}
