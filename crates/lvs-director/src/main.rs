//! The program.

#![forbid(unsafe_code)]

use std::process::ExitCode;

/// musl's own allocator takes more time than all else of a large status.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    lvs_director::run(std::env::args_os())
}
