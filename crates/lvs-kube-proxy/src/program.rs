//! What the program does, from its options to its end.

use std::error::Error;

use netns_link::NetNs;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

use crate::{
    kernel::Kernel,
    options::Options,
    proxy::{FIRST_WAIT, LONGEST_WAIT, Proxy, clean_up, init},
    source::{Directory, Source},
};

/// Does what the options say, in this process's network namespace: follows the API server or the
/// directory until SIGTERM or SIGINT, or acts once. They must be
/// [complete](Options::complete).
///
/// A kernel without IPVS, or a lack of rights, is logged, and tried again at longer and longer intervals
/// (half a second to half a minute), as an API server that does not answer is; not with
/// `--once`, `--dry-run`, `--init-only` and `--cleanup`.
///
/// # Errors
///
/// What the program ends with: something that it cannot do without could not be had, or the Node was
/// deleted.
pub async fn run(options: Options) -> Result<(), Box<dyn Error>> {
    let here = NetNs::current()?;
    if options.cleanup {
        return Ok(clean_up(&options, &here).await?);
    }
    if options.init_only {
        return Ok(init(&options, &here).await?);
    }
    if let Some(path) = &options.manifests {
        let source = Directory::open(path)?;
        return act(source, options, here).await;
    }
    #[cfg(feature = "kubernetes")]
    {
        let node = options.node_name()?;
        let source = crate::source::ApiServer::new(options.kubeconfig.as_deref(), node).await?;
        let source = if options.watch_nodes { source.with_all_nodes() } else { source };
        act(source, options, here).await
    }
    #[cfg(not(feature = "kubernetes"))]
    Err("this program was built without the feature kubernetes: --manifests is needed".into())
}

async fn act(source: impl Source, options: Options, here: NetNs) -> Result<(), Box<dyn Error>> {
    if options.dry_run {
        let kernel = Kernel::open(&here).await?;
        print!("{}", Proxy::on(kernel, source, options).await?.dry_run().await?);
        return Ok(());
    }
    if options.once {
        let kernel = Kernel::open(&here).await?;
        return Ok(Proxy::on(kernel, source, options).await?.once().await?);
    }
    let (mut end, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = async {
        tokio::select! {
            _ = end.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let mut stop = std::pin::pin!(stop);
    let kernel = tokio::select! {
        kernel = open(&here) => kernel,
        () = &mut stop => return Ok(()),
    };
    let mut proxy = Proxy::on(kernel, source, options).await?;
    tracing::info!("node {}", proxy.state().node().name);
    let result = proxy.run(stop).await;
    tracing::info!("the node is left as it is");
    Ok(result?)
}

/// The kernel, as soon as it has what is needed.
async fn open(here: &NetNs) -> Kernel<'_> {
    let mut wait = FIRST_WAIT;
    loop {
        match Kernel::open(here).await {
            Ok(kernel) => return kernel,
            Err(failure) => {
                tracing::error!("{failure}; the next attempt is in {} s", wait.as_secs_f64());
            }
        }
        sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}
