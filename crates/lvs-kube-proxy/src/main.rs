//! The program.
//!
//! Exit codes: 0 when it was ended by a signal, or has done what it was asked to do once; 2 when the
//! command line or the configuration file is wrong; 1 when a required resource is unavailable that it
//! does not try again to get.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use lvs_kube_proxy::Config;
use tracing_subscriber::filter::LevelFilter;

fn main() -> ExitCode {
    let config = match Config::from_command_line(std::env::args_os()) {
        Ok(config) => config,
        Err(error) => error.exit(),
    };
    let level = match config.verbosity() {
        0..=2 => LevelFilter::INFO,
        3..=4 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    config.unused().iter().for_each(|text| tracing::warn!("{text}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(lvs_kube_proxy::run(config)),
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
