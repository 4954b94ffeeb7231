//! What the cases share: each gets a new network namespace with a client in it.

use std::future::Future;

use ipvs_client::{Client, packet::ServiceKey};
use libtest_mimic::{Failed, Trial};
use netns_link::{Links, NetNs};

/// The result of a case.
pub type Outcome = Result<(), Failed>;

/// A case with a client in a new namespace, on its own runtime.
pub fn client_case<F>(name: &str, case: impl FnOnce(NetNs, Client) -> F + Send + 'static) -> Trial
where
    F: Future<Output = Outcome>,
{
    Trial::test(name, move || {
        block_on(async {
            let namespace = fresh_namespace().await?;
            let client = Client::connect_in(&namespace)?;
            // Kernels from 6.2 on, some up to 7.1.8, crash if a namespace with more than 50 services
            // and destinations ends within a tenth of a second after its first one (CVE-2026-74670).
            let last = Client::connect_in(&namespace)?;
            let outcome = case(namespace, client).await;
            last.flush().await?;
            outcome
        })
    })
}

/// A case that needs programs, each given with its package. If one is not installed, the case is
/// ignored and prints why, or fails with `LVS_REQUIRE_KERNEL=1`.
pub fn needing(programs: &[(&str, &str)], case: Trial) -> Trial {
    let missing = programs.iter().find_map(|(name, package)| testbed::program(name, package).err());
    match missing {
        Some(error) if !guest::is_required() => {
            eprintln!("kernel-tests: {} is ignored: {error}", case.name());
            case.with_ignored_flag(true)
        }
        _ => case,
    }
}

/// A namespace whose loopback is up. Without any address in it the kernel has no routes, takes
/// every IPv4 address for a broadcast address, and refuses it as a destination.
pub async fn fresh_namespace() -> Result<NetNs, Failed> {
    let namespace = NetNs::new()?;
    let links = Links::connect(&namespace)?;
    let loopback = links.find("lo").await?.ok_or("a namespace without lo")?;
    links.up(&loopback).await?;
    Ok(namespace)
}

/// Runs a future on a new runtime.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a tokio runtime can be made")
        .block_on(future)
}

/// Parses a service's key in ipvsadm's notation.
pub fn key(text: &str) -> ServiceKey {
    text.parse().expect("the cases' keys are well-formed")
}
