//! Starting and stopping: restarts, emptied sources, and required privileges.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use ipvs_client::Client;
use kernel_tests::{Outcome, block_on, fresh_namespace};
use libtest_mimic::{Failed, Trial};
use lvs_kube_proxy::{Config, Proxy, clean_up};
use netns_link::NetNs;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::{
    client_cases, config, link_addresses, service, slice, source, until, whole_cases, with_proxy,
    write,
};
use crate::{
    part::{self, Part},
    scene::LIMIT,
};

const AFTER_INIT: Part = Part("kube_proxy_after_init", after_init);
const LEAST_RIGHTS: Part = Part("kube_proxy_least_rights", least_rights);

pub(super) const PARTS: &[Part] = &[AFTER_INIT, LEAST_RIGHTS];

pub(super) fn cases() -> Vec<Trial> {
    let mut cases = client_cases![restart_and_clean_up, emptied_directory];
    cases.extend(whole_cases![loses_no_service_when_restarted]);
    cases.push(part::case("kube_proxy_least_rights", AFTER_INIT, &["unshare", "--mount"]));
    cases
}

/// Case 49, and changes while the proxy is not running.
async fn restart_and_clean_up(namespace: NetNs, client: Client) -> Outcome {
    let directory = TempDir::new()?;
    let state = TempDir::new()?;
    let words = [format!("--state-dir={}", state.path().display())];
    let words = [words[0].as_str()];
    write(&directory, "a.yaml", &service("a", "clusterIP: 10.96.0.1, ports: [{port: 80}]"))?;
    write(&directory, "b.yaml", &service("b", "clusterIP: 10.96.0.2, ports: [{port: 80}]"))?;
    let both = ["TCP 10.96.0.1:80 rr ->", "TCP 10.96.0.2:80 rr ->"];
    with_proxy(&namespace, &directory, &words, until(&client, &both)).await?;
    // It has ended, and left everything in place.
    until(&client, &both).await?;
    assert_eq!(link_addresses(&namespace).await?.len(), 2);

    // A service goes while no proxy runs: the ledger proves that it was ours.
    fs::remove_file(directory.path().join("a.yaml"))?;
    with_proxy(&namespace, &directory, &words, until(&client, &both[1..])).await?;

    // Without the ledger it would stay; with the service range, it is deleted.
    fs::remove_file(state.path().join("ledger"))?;
    write(&directory, "b.yaml", "")?;
    let story = async {
        sleep(Duration::from_millis(300)).await;
        until(&client, &both[1..]).await
    };
    with_proxy(&namespace, &directory, &["--ipvs-sync-period=100ms"], story).await?;
    let range = ["--service-cluster-ip-range=10.96.0.0/12"];
    with_proxy(&namespace, &directory, &range, until(&client, &[])).await?;
    clean_up(&config(&range)?, &namespace).await?;
    gone(&namespace).await
}

/// All objects disappear at once: a second read confirms that, and then they are deleted.
async fn emptied_directory(namespace: NetNs, client: Client) -> Outcome {
    let directory = TempDir::new()?;
    let state = TempDir::new()?;
    let state_dir = format!("--state-dir={}", state.path().display());
    let many: String = (1..=60)
        .map(|number| {
            let spec = format!("clusterIP: 10.96.0.{number}, ports: [{{port: 80}}]");
            service(&format!("s{number}"), &spec)
        })
        .collect();
    write(&directory, "many.yaml", &many)?;
    let story = async {
        let count = async || Ok::<_, Failed>(client.services().await?.len());
        let begin = Instant::now();
        while count().await? < 60 {
            assert!(begin.elapsed() < LIMIT);
            sleep(Duration::from_millis(20)).await;
        }
        // The directory is unreadable for a moment: nothing happens.
        let away = directory.path().with_extension("away");
        fs::rename(directory.path(), &away)?;
        sleep(Duration::from_millis(300)).await;
        assert_eq!(count().await?, 60);
        fs::rename(&away, directory.path())?;
        // The file really is empty: that waits until somebody confirms it.
        write(&directory, "many.yaml", "")?;
        sleep(Duration::from_secs(3)).await;
        assert_eq!(count().await?, 60);
        let words = ["lvs-kube-proxy", "confirm", &state_dir];
        lvs_kube_proxy::run(Config::from_command_line(words)?)
            .await
            .map_err(|error| Failed::from(error.to_string()))?;
        until(&client, &[]).await
    };
    with_proxy(&namespace, &directory, &[&state_dir], story).await
}

/// Killed and started again, ten times: every reader of the table always sees every
/// service.
async fn loses_no_service_when_restarted() -> Outcome {
    let namespace = fresh_namespace().await?;
    let client = Client::connect_in(&namespace)?;
    let directory = TempDir::new()?;
    let state = TempDir::new()?;
    let state_dir = format!("--state-dir={}", state.path().display());
    let many: String = (1..=200)
        .map(|number| {
            let spec = format!("clusterIP: 10.96.1.{number}, ports: [{{port: 80}}]");
            let name = format!("s{number}");
            service(&name, &spec) + &slice(&name, 8080, &[("10.42.1.5", ""), ("10.42.2.6", "")])
        })
        .collect();
    write(&directory, "many.yaml", &many)?;
    let mut proxy = Proxy::new(source(&directory)?, config(&[&state_dir])?, &namespace).await?;
    proxy.once().await?;
    drop(proxy);
    for round in 0..10_u64 {
        let watch = async {
            loop {
                let snapshot =
                    client.snapshot().await.map_err(|error| Failed::from(error.to_string()))?;
                let servers: usize =
                    snapshot.services.values().map(|service| service.destinations.len()).sum();
                if (snapshot.services.len(), servers) != (200, 400) {
                    let text = format!("{} services, {servers} servers", snapshot.services.len());
                    return Err::<(), Failed>(text.into());
                }
                tokio::task::yield_now().await;
            }
        };
        let mut proxy = Proxy::new(source(&directory)?, config(&[&state_dir])?, &namespace).await?;
        // Dropped at any point.
        let run = timeout(Duration::from_millis(5 * round), proxy.run(std::future::pending()));
        tokio::select! {
            result = watch => result?,
            _ = run => {}
        }
    }
    client.flush().await?;
    Ok(())
}

/// As the DaemonSet's containers: the first one, which is privileged, writes the settings.
fn after_init() -> Outcome {
    let init = config(&["--init-only"])?;
    block_on(async { lvs_kube_proxy::run(init).await.map_err(|error| error.to_string()) })?;
    let path = "/proc/sys";
    let mount = Command::new("mount").args(["--bind", "-o", "ro", path, path]).status()?;
    assert!(mount.success(), "{mount}");
    let status = part::again_by(LEAST_RIGHTS, part::ROOT_WITH_NET_ADMIN)?.status()?;
    if status.success() { Ok(()) } else { Err(status.to_string().into()) }
}

/// The second one has only CAP_NET_ADMIN, and settings are read-only for it.
fn least_rights() -> Outcome {
    let directory = TempDir::new()?;
    let spec = "type: LoadBalancer, clusterIP: 10.96.0.1, ports: [{port: 80}]";
    let web = service("web", spec) + "status: {loadBalancer: {ingress: [{ip: 203.0.113.50}]}}\n";
    write(&directory, "web.yaml", &web)?;
    write(&directory, "slice.yaml", &slice("web", 8080, &[("10.42.1.5", "")]))?;
    block_on(async {
        let here = NetNs::current()?;
        let client = Client::connect()?;
        let state = TempDir::new()?;
        let state_dir = format!("--state-dir={}", state.path().display());
        let words = ["--service-cluster-ip-range=10.96.0.0/12", &state_dir];
        let mut proxy = Proxy::new(source(&directory)?, config(&words)?, &here).await?;
        proxy.once().await?;
        let lines = ["10.96.0.1:80", "203.0.113.50:80"];
        let lines = lines.map(|place| format!("TCP {place} rr -> 10.42.1.5:8080"));
        until(&client, &lines.each_ref().map(String::as_str)).await?;
        clean_up(&config(&words)?, &here).await?;
        until(&client, &[]).await
    })
}

/// Waits until the proxy's link has no address.
async fn gone(namespace: &NetNs) -> Outcome {
    let begin = Instant::now();
    while !link_addresses(namespace).await?.is_empty() {
        assert!(begin.elapsed() < LIMIT, "{:?}", link_addresses(namespace).await?);
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
