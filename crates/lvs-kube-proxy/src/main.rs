//! The program.
//!
//! Exit codes: 0 when it was ended by a signal, or has done what it was asked to do once; 2 when the
//! command line or the configuration file is wrong; 1 when something else cannot be had that it does
//! not try again to get.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use lvs_kube_proxy::Options;
use tracing_subscriber::filter::LevelFilter;

fn main() -> ExitCode {
    let (options, left_out) = match Options::from_command_line(std::env::args_os()) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("lvs-kube-proxy: {error}");
            return ExitCode::from(2);
        }
    };
    let level = match options.v {
        0..=2 => LevelFilter::INFO,
        3..=4 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    left_out.iter().for_each(|text| tracing::warn!("{text}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(lvs_kube_proxy::run(options)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lvs-kube-proxy: {error}");
            ExitCode::FAILURE
        }
    }
}
