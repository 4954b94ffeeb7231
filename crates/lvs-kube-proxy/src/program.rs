//! What the program does, from its options to its end.

use std::{
    collections::BTreeSet,
    error::Error,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use netns_link::NetNs;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::sleep,
};

use crate::{
    config::{Config, SourceConfig, Task},
    node::kernel::Kernel,
    proxy::{FIRST_WAIT, LONGEST_WAIT, Proxy, clean_up, confirm, init},
    source::{Directory, Source},
};

/// How often the configuration file is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Does what the configuration says, in this process's network namespace: follows the API server or the
/// directory until SIGTERM or SIGINT, or acts once.
///
/// A kernel without IPVS, or a lack of rights, is logged, and tried again at longer and longer intervals
/// (half a second to half a minute), as an API server that does not answer is; not with
/// `--once`, `--dry-run`, `--init-only` and `--cleanup`.
///
/// # Errors
///
/// What the program ends with: a required resource is unavailable.
pub async fn run(config: Config) -> Result<(), Box<dyn Error>> {
    raise_limit();
    let here = NetNs::current()?;
    match config.task {
        Task::CleanUp => return Ok(clean_up(&config, &here).await?),
        Task::Confirm => return Ok(confirm(&config).await?),
        Task::Init => return Ok(init(&config, &here).await?),
        Task::WriteConfig => {
            let path = config.written_to.as_deref().unwrap_or(Path::new("/dev/stdout"));
            return fs::write(path, config.shown())
                .map_err(|error| format!("write {}: {error}", path.display()).into());
        }
        Task::Run | Task::Once | Task::DryRun => {}
    }
    match config.source.clone() {
        SourceConfig::Manifests(path) => act(Directory::open(&path)?, config, here).await,
        #[cfg(feature = "kubernetes")]
        SourceConfig::ApiServer { kubeconfig, all_nodes } => {
            let node = config.node.name.clone();
            let source = crate::source::ApiServer::new(kubeconfig.as_deref(), node).await?;
            let source = if all_nodes { source.with_all_nodes() } else { source };
            act(source, config, here).await
        }
        #[cfg(not(feature = "kubernetes"))]
        SourceConfig::ApiServer { .. } => {
            Err("this program was built without the feature kubernetes: --manifests is needed"
                .into())
        }
    }
}

/// Takes as many descriptors as the process may have: container runtimes give 1024 at first.
fn raise_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!("raise the limit of open files: {error}");
    }
}

async fn act(mut source: impl Source, config: Config, here: NetNs) -> Result<(), Box<dyn Error>> {
    if matches!(config.task, Task::DryRun | Task::Once) {
        let kernel = Kernel::open(&here)?;
        let ranges = source.ranges().await.map(|ranges| ranges.borrow().clone());
        let task = config.task;
        let config = config.with_ranges(ranges.into_iter().flatten());
        let mut proxy = Proxy::on(kernel, source, config).await?;
        match task {
            Task::DryRun => print!("{}", proxy.dry_run().await?),
            _ => proxy.once().await?,
        }
        return Ok(());
    }
    let (mut end, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = async {
        tokio::select! {
            _ = end.recv() => {}
            _ = interrupt.recv() => {}
        }
        None
    };
    let has_changed = until_changed(config.clone());
    let stop = async {
        tokio::select! {
            end = stop => end,
            path = has_changed => Some(path),
        }
    };
    let mut stop = std::pin::pin!(stop);
    loop {
        let kernel = tokio::select! {
            kernel = open(&here) => kernel,
            _ = &mut stop => return Ok(()),
        };
        let ranges = tokio::select! {
            ranges = source.ranges() => ranges,
            _ = &mut stop => return Ok(()),
        };
        let learned = ranges.as_ref().map(|ranges| ranges.borrow().clone()).unwrap_or_default();
        let now = config.clone().with_ranges(learned.clone());
        let (mut has_ended, mut changed) = (false, None);
        let mut proxy = Proxy::on(kernel, source, now).await?;
        tracing::info!("node {}", proxy.state().node().name);
        let until = async {
            tokio::select! {
                path = &mut stop => (has_ended, changed) = (true, path),
                () = until_others(ranges, &learned) => {}
            }
        };
        proxy.run(until).await?;
        if !has_ended {
            tracing::info!(
                "the cluster's service ranges have changed: everything is compared again"
            );
            source = proxy.into_source();
            source.relist();
            continue;
        }
        tracing::info!("stopping; rules and services stay in place");
        return match changed {
            None => Ok(()),
            Some(path) => Err(format!(
                "{} has changed: the program ends, as kube-proxy does, to be started again with what it says now",
                path.display()
            )
            .into()),
        };
    }
}

/// Waits until there are other service ranges than these.
async fn until_others(ranges: Option<watch::Receiver<BTreeSet<IpNet>>>, known: &BTreeSet<IpNet>) {
    if let Some(mut ranges) = ranges
        && ranges.wait_for(|now| now != known).await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

/// Waits until the configuration file says something else that can be used, and returns its path.
async fn until_changed(config: Config) -> PathBuf {
    let mut complaint = None;
    loop {
        sleep(LOOK).await;
        match config.changed() {
            Ok(Some(Config { file: Some(file), .. })) => return file.path,
            Ok(_) => complaint = None,
            Err(error) => {
                let error = error.to_string();
                if complaint.as_ref() != Some(&error) {
                    tracing::error!("{error}; what was read before stays in use");
                    complaint = Some(error);
                }
            }
        }
    }
}

/// The kernel, as soon as it has what is needed.
async fn open(here: &NetNs) -> Kernel<'_> {
    let mut wait = FIRST_WAIT;
    loop {
        match Kernel::open(here) {
            Ok(kernel) => return kernel,
            Err(failure) => {
                tracing::error!("{failure}; the next attempt is in {} s", wait.as_secs_f64());
            }
        }
        sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}
