//! The program.
//!
//! Exit codes: 0 when it was ended by a signal, or has done what it was asked to do once; 2 when the
//! command line or the configuration file is wrong; 1 when a required resource is unavailable that it
//! does not try again to get.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use lvs_kube_proxy::Config;
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

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
    // What other crates log of an API server that fails, this one says once and in words.
    let others = ["kube", "kube_client", "kube_runtime", "hyper", "hyper_util", "rustls", "tower"];
    let of_others = if config.verbosity() < 5 { LevelFilter::OFF } else { level };
    let filter = Targets::new().with_default(level);
    let filter = filter.with_targets(others.map(|target| (target, of_others)));
    let (text, json) = match config.logs_json() {
        false => (Some(fmt::layer().with_writer(std::io::stderr).with_target(false)), None),
        true => (None, Some(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr))),
    };
    tracing_subscriber::registry().with(filter).with(text).with(json).init();
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
