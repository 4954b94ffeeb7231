//! The program.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use lvs_kube_proxy::Options;
use tracing_subscriber::filter::LevelFilter;

fn main() -> ExitCode {
    let mut options = Options::parse();
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
    match options.complete() {
        Ok(left_out) => left_out.iter().for_each(|text| tracing::warn!("{text}")),
        Err(error) => {
            eprintln!("lvs-kube-proxy: {error}");
            return ExitCode::from(2);
        }
    }
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
