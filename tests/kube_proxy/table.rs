//! The table's contents: the cases of `conformance.yaml`, and changes in place.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    time::{Duration, Instant},
};

use ipvs_client::{Client, packet::ServiceFlags};
use kernel_tests::Outcome;
use libtest_mimic::{Failed, Trial};
use lvs::VirtualService;
use lvs_kube_proxy::{LINK, Proxy, clean_up};
use netns_link::{Address, Links, NetNs};
use tempfile::TempDir;
use tokio::time::sleep;

use super::{
    client_cases, config, has_nft, lines, link_addresses, node_namespace, raw_get, service, slice,
    source, until, whole_cases, with_proxy, write,
};
use crate::{
    kube_proxy_table::{self, Case},
    scene::LIMIT,
};

pub(super) fn cases() -> Vec<Trial> {
    let mut cases = client_cases![
        settings_in_place,
        spares_what_is_not_its_own,
        one_that_is_refused,
        scheduler_that_the_kernel_lacks,
        many_endpoints,
        without_ipv6,
        a_broken_manifest,
    ];
    cases.extend(whole_cases![table]);
    cases
}

/// Each case of `conformance.yaml`: the table and the addresses, once with addresses on the link, and once with
/// the service ranges as routes; then everything is deleted.
async fn table() -> Outcome {
    let namespace = node_namespace().await?;
    let client = Client::connect_in(&namespace)?;
    let has_nft = has_nft(&namespace);
    for case in kube_proxy_table::all() {
        if case.needs_nftables() && !has_nft {
            continue;
        }
        for ranges in [&[][..], &["--service-cluster-ip-range=10.96.0.0/12,fd96::/64"]] {
            if let Err(error) = table_case(&namespace, &client, &case, ranges).await {
                let reason = error.message().unwrap_or_default().to_owned();
                return Err(format!("case {} {ranges:?}: {reason}", case.case).into());
            }
        }
    }
    Ok(())
}

async fn table_case(
    namespace: &NetNs,
    client: &Client,
    case: &Case,
    ranges: &[&str],
) -> Result<(), Failed> {
    let directory = TempDir::new()?;
    fs::write(directory.path().join("case.yaml"), case.manifest())?;
    fs::write(directory.path().join("node.yaml"), case.node_manifest())?;
    let state = TempDir::new()?;
    let state_dir = format!("--state-dir={}", state.path().display());
    let flags = case.flags();
    let mut words: Vec<&str> = flags.iter().map(String::as_str).collect();
    words.extend(ranges);
    words.push(&state_dir);
    let config = config(&words)?;

    let mut proxy = Proxy::new(source(&directory)?, config.clone(), namespace).await?;
    proxy.once().await?;
    let expected = (case.table.clone(), case.addresses());
    let covered: Vec<IpAddr> = ["10.96.7.20".parse()?, "fd96::20".parse()?].into();
    let addresses = async || -> Result<BTreeSet<String>, Failed> {
        let mut addresses = link_addresses(namespace).await?;
        if !ranges.is_empty() {
            // An address covered by a route is not on the link.
            assert!(covered.iter().all(|address| !addresses.contains(&address.to_string())));
            let wanted = covered.iter().map(ToString::to_string);
            addresses.extend(wanted.filter(|address| case.addresses().contains(address)));
        }
        Ok(addresses)
    };
    assert_eq!((lines(client).await?, addresses().await?), expected);
    // A second run has nothing to do.
    let mut again = Proxy::new(source(&directory)?, config.clone(), namespace).await?;
    let told = again.dry_run().await?;
    assert!(told.lines().all(|line| line.starts_with("= local")), "{told}");

    // Nothing is cleaned up while a proxy runs.
    let error = clean_up(&config, namespace).await.unwrap_err().to_string();
    assert!(error.contains("another lvs-kube-proxy runs"), "{error}");
    drop((proxy, again));
    clean_up(&config, namespace).await?;
    assert_eq!((lines(client).await?, link_addresses(namespace).await?), Default::default());
    Ok(())
}

/// Cases 16 and 18: affinity and the scheduler change while connections continue.
async fn settings_in_place(namespace: NetNs, client: Client) -> Outcome {
    let directory = TempDir::new()?;
    let web =
        |spec: &str| service("web", &format!("clusterIP: 10.96.7.20, ports: [{{port: 80}}]{spec}"));
    write(&directory, "slice.yaml", &slice("web", 8080, &[("10.42.1.5", "")]))?;
    let affinity =
        ", sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 7200}}";
    write(&directory, "web.yaml", &web(affinity))?;
    let story = async {
        until(&client, &["TCP 10.96.7.20:80 rr persistent 7200 mask 32 -> 10.42.1.5:8080"]).await?;
        let key = "-t 10.96.7.20:80".parse()?;
        // A mark, which shows later that it is the same service.
        let before = client.destinations(&key).await?.all()?;
        write(&directory, "web.yaml", &web(""))?;
        until(&client, &["TCP 10.96.7.20:80 rr -> 10.42.1.5:8080"]).await?;
        assert_eq!(client.destinations(&key).await?.len(), before.len());
        assert!(!client.service(&key).await?.service.flags.contains(ServiceFlags::PERSISTENT));
        Ok(())
    };
    with_proxy(&namespace, &directory, &[], story).await?;
    let story = until(&client, &["TCP 10.96.7.20:80 lc -> 10.42.1.5:8080"]);
    with_proxy(&namespace, &directory, &["--ipvs-scheduler=lc"], story).await
}

/// Cases 40 and 41: other programs' services and addresses are never changed.
async fn spares_what_is_not_its_own(namespace: NetNs, client: Client) -> Outcome {
    let links = Links::connect(&namespace)?;
    let link = links.create_dummy(LINK).await?.link;
    links.add_address(&link, Address::host("10.0.9.9".parse()?)).await?;
    for foreign in ["10.0.9.9:443", "[fd00:9::9]:443"] {
        VirtualService::tcp(foreign.parse()?).build()?.apply(&client).await?;
    }
    let directory = TempDir::new()?;
    write(&directory, "web.yaml", &service("web", "clusterIP: 10.96.7.20, ports: [{port: 80}]"))?;
    let foreign = ["TCP 10.0.9.9:443 wlc ->", "TCP [fd00:9::9]:443 wlc ->"];
    let story = async {
        until(&client, &[foreign[0], "TCP 10.96.7.20:80 rr ->", foreign[1]]).await?;
        fs::remove_file(directory.path().join("web.yaml"))?;
        until(&client, &foreign).await?;
        // They still exist after several full runs.
        sleep(Duration::from_millis(700)).await;
        until(&client, &foreign).await?;
        assert_eq!(link_addresses(&namespace).await?, BTreeSet::from(["10.0.9.9".to_owned()]));
        Ok(())
    };
    let state = TempDir::new()?;
    let state_dir = format!("--state-dir={}", state.path().display());
    with_proxy(&namespace, &directory, &["--ipvs-sync-period=200ms", &state_dir], story).await?;
    clean_up(&config(&[&state_dir])?, &namespace).await?;
    until(&client, &foreign).await?;
    assert_eq!(link_addresses(&namespace).await?, BTreeSet::from(["10.0.9.9".to_owned()]));
    Ok(())
}

/// The kernel refuses one endpoint, a broadcast address: the other services are updated as usual, the
/// proxy is healthy, and the one is tried again.
async fn one_that_is_refused(_: NetNs, _: Client) -> Outcome {
    let namespace = node_namespace().await?;
    let client = Client::connect_in(&namespace)?;
    let directory = TempDir::new()?;
    let web = |number: u8| {
        service(
            &format!("s{number}"),
            &format!("clusterIP: 10.96.0.{number}, ports: [{{port: 80}}]"),
        )
    };
    write(
        &directory,
        "bad.yaml",
        &(web(1) + &slice("s1", 80, &[("10.42.1.255", ""), ("10.42.1.5", "")])),
    )?;
    let words = ["--metrics-bind-address=127.0.0.1:10249", "--ipvs-sync-period=500ms"];
    testbed::run(&namespace, "iproute2", &["ip", "link", "set", "lo", "up"])?;
    let bad = "TCP 10.96.0.1:80 rr -> 10.42.1.5:80";
    let story = async {
        until(&client, &[bad]).await?;
        // Meanwhile it fails again and again.
        sleep(Duration::from_secs(3)).await;
        let mut lines = vec![bad.to_owned()];
        for number in 2..6 {
            let begin = Instant::now();
            write(&directory, &format!("{number}.yaml"), &web(number))?;
            lines.push(format!("TCP 10.96.0.{number}:80 rr ->"));
            until(&client, &lines.iter().map(String::as_str).collect::<Vec<_>>()).await?;
            assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
        }
        let text = raw_get(&namespace, "127.0.0.1:10249".parse()?, "/metrics").await?;
        assert!(text.contains("lvs_kube_proxy_failing_changes 1"), "{text}");
        let text = raw_get(&namespace, "127.0.0.1:10249".parse()?, "/livez").await?;
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        Ok(())
    };
    with_proxy(&namespace, &directory, &words, story).await
}

/// A service names a scheduler that has no module, and gets the default.
async fn scheduler_that_the_kernel_lacks(namespace: NetNs, client: Client) -> Outcome {
    let directory = TempDir::new()?;
    let annotated = "kind: Service\nmetadata: {name: odd, annotations: {lvs-kube-proxy/scheduler: nosuch}}\n\
                     spec: {clusterIP: 10.96.0.9, ports: [{port: 80}]}\n";
    write(&directory, "odd.yaml", annotated)?;
    write(&directory, "web.yaml", &service("web", "clusterIP: 10.96.0.1, ports: [{port: 80}]"))?;
    let both = ["TCP 10.96.0.1:80 rr ->", "TCP 10.96.0.9:80 rr ->"];
    with_proxy(&namespace, &directory, &[], until(&client, &both)).await?;
    client.flush().await?;
    Proxy::new(source(&directory)?, config(&[])?, &namespace).await?.once().await?;
    until(&client, &both).await
}

/// Who acts once does not wait for somebody to mend a file, and touches nothing.
async fn a_broken_manifest(namespace: NetNs, client: Client) -> Outcome {
    let directory = TempDir::new()?;
    write(&directory, "web.yaml", &service("web", "clusterIP: 10.96.0.1, ports: [{port: 80}]"))?;
    write(&directory, "broken.yaml", "kind: Service\nspec: [\n")?;
    for is_dry in [false, true] {
        let mut proxy = Proxy::new(source(&directory)?, config(&[])?, &namespace).await?;
        let error = match is_dry {
            false => proxy.once().await.err(),
            true => proxy.dry_run().await.err(),
        };
        let error = error.ok_or("it is right with a broken file")?.to_string();
        assert!(error.contains("broken.yaml: "), "{error}");
    }
    assert_eq!(lines(&client).await?, [""; 0]);
    Ok(())
}

/// Ten thousand endpoints of one service, of which half go at once: fresh lists confirm it.
async fn many_endpoints(namespace: NetNs, client: Client) -> Outcome {
    let directory = TempDir::new()?;
    write(&directory, "web.yaml", &service("web", "clusterIP: 10.96.7.20, ports: [{port: 80}]"))?;
    let slice = |count: u32| {
        let addresses = (0..count).map(|number| IpAddr::from((0x0a80_0101 + number).to_be_bytes()));
        let addresses: Vec<_> = addresses.map(|address| address.to_string()).collect();
        slice("web", 80, &addresses.iter().map(|address| (&**address, "")).collect::<Vec<_>>())
    };
    let key = "-t 10.96.7.20:80".parse()?;
    let until_there = async |expected: usize| -> Outcome {
        let begin = Instant::now();
        loop {
            let found = client.destinations(&key).await.map_or(0, |found| found.len());
            if found == expected {
                return Ok(());
            }
            assert!(begin.elapsed() < 6 * LIMIT, "{found}, not {expected}");
            // Reading the table is expensive: the kernel lists this many entries in small steps.
            sleep(Duration::from_secs(1)).await;
        }
    };
    write(&directory, "slice.yaml", &slice(10_000))?;
    let story = async {
        until_there(10_000).await?;
        write(&directory, "slice.yaml", &slice(4_000))?;
        until_there(4_000).await
    };
    with_proxy(&namespace, &directory, &["--drain-limit=0", "--hold=0"], story).await
}

/// A node with IPv6 switched off in a dual-stack cluster: IPv4 is still served.
async fn without_ipv6(namespace: NetNs, client: Client) -> Outcome {
    for name in ["all", "default", "lo"] {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
        namespace.run(move || fs::write(path, "1"))??;
    }
    testbed::run(&namespace, "iproute2", &["ip", "link", "set", "lo", "up"])?;
    let directory = TempDir::new()?;
    let spec = "clusterIPs: [10.96.7.20, 'fd96::20'], ports: [{port: 80}]";
    write(&directory, "web.yaml", &service("web", spec))?;
    write(&directory, "slice.yaml", &slice("web", 80, &[("10.42.1.5", "")]))?;
    let range = "--service-cluster-ip-range=10.96.0.0/12,fd96::/64";
    for mode in ["--vip-mode=routes", "--vip-mode=addresses"] {
        let story = async {
            let lines = ["TCP 10.96.7.20:80 rr -> 10.42.1.5:80", "TCP [fd96::20]:80 rr ->"];
            until(&client, &lines).await?;
            let is_local = || std::net::UdpSocket::bind("0.0.0.0:0")?.connect("10.96.7.20:80");
            Ok(namespace.run(is_local)??)
        };
        with_proxy(&namespace, &directory, &[range, mode], story).await?;
    }
    Ok(())
}
