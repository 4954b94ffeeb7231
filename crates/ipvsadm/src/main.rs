//! The program.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(ipvsadm::run(std::env::args_os().skip(1)))
}
