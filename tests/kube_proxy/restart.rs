//! Starting and stopping: restarts, emptied sources, and required privileges.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use ipvs_client::Client;
use kernel_tests::{Outcome, block_on, fresh_namespace};
use libtest_mimic::{Failed, Trial};
use lvs::VirtualService;
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
    let mut cases =
        client_cases![restart_and_clean_up, clean_up_from_the_state_directory, emptied_directory];
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

/// After a proxy was killed, its state directory is all that a clean-up needs; without it, nothing is taken
/// away. Only one proxy works in a namespace. What others have made stays, and settings come back.
async fn clean_up_from_the_state_directory(namespace: NetNs, client: Client) -> Outcome {
    testbed::run(&namespace, "iproute2", &["ip", "link", "set", "lo", "up"])?;
    let (directory, state) = (TempDir::new()?, TempDir::new()?);
    let state_dir = format!("--state-dir={}", state.path().display());
    let spec = "type: LoadBalancer, clusterIP: 10.96.0.1, ports: [{port: 80}]";
    let web = service("web", spec) + "status: {loadBalancer: {ingress: [{ip: 203.0.113.50}]}}\n";
    write(&directory, "web.yaml", &web)?;
    let foreign = VirtualService::tcp("192.0.2.77:80".parse()?).build()?;
    foreign.apply(&client).await?;
    let foreign = "TCP 192.0.2.77:80 wlc ->";
    let settings = || -> Result<Vec<String>, Failed> {
        let names = ["ip_forward", "vs/conntrack", "vs/expire_nodest_conn", "conf/all/arp_ignore"];
        let read = |name: &str| {
            let path = format!("/proc/sys/net/ipv4/{name}");
            Ok(namespace.run(move || fs::read_to_string(path))??)
        };
        names.into_iter().map(read).collect()
    };
    let before = settings()?;
    let words = ["--service-cluster-ip-range=10.96.0.0/12", "--ipvs-strict-arp", &state_dir];
    let all = ["TCP 10.96.0.1:80 rr ->", foreign, "TCP 203.0.113.50:80 rr ->"];
    let refused = |result: Result<(), lvs_kube_proxy::Failure>, reason: &str| {
        let error = result.expect_err(reason).to_string();
        assert!(error.contains(reason), "{error}");
    };
    for _ in 0..2 {
        let mut proxy = Proxy::new(source(&directory)?, config(&words)?, &namespace).await?;
        proxy.once().await?;
        assert_ne!(settings()?, before);
        // Two at once: the second one ends, and so does a clean-up.
        let mut second = Proxy::new(source(&directory)?, config(&[])?, &namespace).await?;
        refused(second.once().await, "another lvs-kube-proxy runs");
        refused(clean_up(&config(&[&state_dir])?, &namespace).await, "another lvs-kube-proxy runs");
        // As if it were killed.
        drop(proxy);
        let nothing = TempDir::new()?;
        let other = format!("--state-dir={}", nothing.path().display());
        for words in [&[][..], &[other.as_str()]] {
            refused(clean_up(&config(words)?, &namespace).await, "nothing is removed");
            until(&client, &all).await?;
        }
        for _ in 0..2 {
            clean_up(&config(&[&state_dir])?, &namespace).await?;
            until(&client, &[foreign]).await?;
            assert_eq!(settings()?, before);
            let routes = "ip route show table local proto 196; ip -o address show dev kube-ipvs0";
            let left = testbed::run(&namespace, "iproute2", &["sh", "-c", routes]);
            assert!(left.is_err() || left.is_ok_and(|left| left.trim().is_empty()));
        }
    }
    Ok(())
}

/// All objects disappear at once: that waits until somebody confirms it.
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
        drop(proxy);
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
