//! Health and metrics over HTTP.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use ipvs_client::Client;
use kernel_tests::Outcome;
use libtest_mimic::{Failed, Trial};
use lvs_kube_proxy::Proxy;
use netns_link::NetNs;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::{client_cases, config, raw_get, service, slice, source, until, with_proxy, write};
use crate::scene::LIMIT;

pub(super) fn cases() -> Vec<Trial> {
    client_cases![health_and_metrics, port_in_use]
}

/// The proxy's health, a service's, and the metrics.
async fn health_and_metrics(namespace: NetNs, client: Client) -> Outcome {
    let directory = TempDir::new()?;
    let service = "kind: Service\nmetadata: {name: web, namespace: shop}\n\
                   spec: {type: LoadBalancer, clusterIP: 10.96.0.1, ports: [{port: 80}], \
                   externalTrafficPolicy: Local, healthCheckNodePort: 30123}\n\
                   status: {loadBalancer: {ingress: [{ip: 203.0.113.50}]}}\n";
    write(&directory, "web.yaml", service)?;
    let in_shop = |text: String| text.replace("metadata: {", "metadata: {namespace: shop, ");
    let local = in_shop(slice("web", 8080, &[("10.42.1.5", "nodeName: node-a")]));
    write(&directory, "slice.yaml", &local)?;
    let words =
        ["--healthz-bind-address=127.0.0.1:10256", "--metrics-bind-address=127.0.0.1:10249"];
    let story = async {
        until(
            &client,
            &["TCP 10.96.0.1:80 rr -> 10.42.1.5:8080", "TCP 203.0.113.50:80 rr -> 10.42.1.5:8080"],
        )
        .await?;
        let get = async |address: &str| {
            testbed::http_get(&namespace, address.parse()?, LIMIT).await.map_err(Failed::from)
        };
        let answer = raw_get(&namespace, "127.0.0.1:30123".parse()?, "/").await?;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.to_lowercase().contains("x-load-balancing-endpoint-weight: 1"), "{answer}");
        assert!(answer.contains(r#""localEndpoints": 1"#), "{answer}");
        let _ = get;
        let answer = raw_get(&namespace, "127.0.0.1:10256".parse()?, "/healthz").await?;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("lastUpdated"), "{answer}");
        // Everybody may ask for health, but not for metrics.
        let answer = raw_get(&namespace, "127.0.0.1:10256".parse()?, "/metrics").await?;
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        let answer = raw_get(&namespace, "127.0.0.1:10249".parse()?, "/metrics").await?;
        for line in [
            "lvs_kube_proxy_virtual_services 2",
            "lvs_kube_proxy_real_servers 2",
            "kubeproxy_sync_proxy_rules_duration_seconds_count",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"}",
            "kubeproxy_sync_proxy_rules_service_changes_total",
        ] {
            assert!(answer.contains(line), "{line}: {answer}");
        }
        // No endpoint is left on this node.
        let remote = in_shop(slice("web", 8080, &[("10.42.2.6", "nodeName: node-b")]));
        write(&directory, "slice.yaml", &remote)?;
        let begin = Instant::now();
        while !raw_get(&namespace, "127.0.0.1:30123".parse()?, "/")
            .await?
            .starts_with("HTTP/1.1 503")
        {
            assert!(begin.elapsed() < LIMIT);
        }
        Ok(())
    };
    with_proxy(&namespace, &directory, &words, story).await
}

/// If another program has the port for health or metrics, services are still served. The proxy takes the port once
/// it is free, unless it is configured to exit.
async fn port_in_use(namespace: NetNs, client: Client) -> Outcome {
    let directory = TempDir::new()?;
    write(&directory, "web.yaml", &service("web", "clusterIP: 10.96.0.1, ports: [{port: 80}]"))?;
    testbed::run(&namespace, "iproute2", &["ip", "link", "set", "lo", "up"])?;
    let place: SocketAddr = "127.0.0.1:10249".parse()?;
    let words = [
        "--healthz-bind-address=127.0.0.1:10256",
        "--metrics-bind-address=127.0.0.1:10249",
        "--ipvs-sync-period=100ms",
    ];
    let other = namespace.run(move || std::net::TcpListener::bind(place))??;
    let story = async {
        until(&client, &["TCP 10.96.0.1:80 rr ->"]).await?;
        let health: SocketAddr = "127.0.0.1:10256".parse()?;
        assert!(raw_get(&namespace, health, "/livez").await?.starts_with("HTTP/1.1 200"));
        // Metrics are available only at their own address.
        assert!(raw_get(&namespace, health, "/metrics").await?.starts_with("HTTP/1.1 404"));
        drop(other);
        let begin = Instant::now();
        loop {
            match raw_get(&namespace, place, "/metrics").await {
                Ok(answer) => {
                    assert!(answer.contains(r#"errors_total{step="listen"}"#), "{answer}");
                    return Ok(());
                }
                Err(error) => assert!(begin.elapsed() < LIMIT, "{error:?}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    with_proxy(&namespace, &directory, &words, story).await?;

    // The thread that serves it ends soon.
    let begin = Instant::now();
    let _other = loop {
        match namespace.run(move || std::net::TcpListener::bind(place))? {
            Ok(other) => break other,
            Err(error) => assert!(begin.elapsed() < LIMIT, "{error}"),
        }
        sleep(Duration::from_millis(10)).await;
    };
    let words: Vec<_> = words.into_iter().chain(["--bind-address-hard-fail"]).collect();
    let mut proxy = Proxy::new(source(&directory)?, config(&words)?, &namespace).await?;
    let ended = timeout(LIMIT, proxy.run(std::future::pending())).await?;
    let error = ended.expect_err("the port is in use").to_string();
    assert!(error.contains("--bind-address-hard-fail"), "{error}");
    Ok(())
}
