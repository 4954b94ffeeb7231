//! What the program does, from its options to its end.

use std::error::Error;

use netns_link::NetNs;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    options::Options,
    proxy::{Proxy, clean_up},
    source::{Directory, Source},
};

/// Does what the options say, in this process's network namespace: follows the API server or the
/// directory until SIGTERM or SIGINT, or acts once. They must be
/// [complete](Options::complete).
///
/// # Errors
///
/// What the program ends with: something that it cannot do without could not be had.
pub async fn run(options: Options) -> Result<(), Box<dyn Error>> {
    if options.cleanup {
        return Ok(clean_up(&options, &NetNs::current()?).await?);
    }
    if let Some(path) = &options.manifests {
        let source = Directory::open(path)?;
        return act(source, options).await;
    }
    #[cfg(feature = "kubernetes")]
    {
        let node = options.node_name()?;
        let source = crate::source::ApiServer::new(options.kubeconfig.as_deref(), node).await?;
        act(source, options).await
    }
    #[cfg(not(feature = "kubernetes"))]
    Err("this program was built without the feature kubernetes: --manifests is needed".into())
}

async fn act(source: impl Source, options: Options) -> Result<(), Box<dyn Error>> {
    let (once, dry_run) = (options.once, options.dry_run);
    let here = NetNs::current()?;
    let mut proxy = Proxy::new(source, options, &here).await?;
    if dry_run {
        print!("{}", proxy.dry_run().await?);
        return Ok(());
    }
    if once {
        return Ok(proxy.once().await?);
    }
    tracing::info!("node {}", proxy.state().node().name);
    let (mut end, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = async {
        tokio::select! {
            _ = end.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let result = proxy.run(stop).await;
    tracing::info!("the node is left as it is");
    Ok(result?)
}
