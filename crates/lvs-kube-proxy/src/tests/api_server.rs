//! The source on a real API server: etcd, kube-apiserver and kube-controller-manager, which
//! `cluster/build` makes and `cluster/start` starts on loopback addresses, with RBAC and the rights of
//! `system:kube-proxy`.
//!
//! It takes minutes to build them the first time, so it runs where `LVS_CLUSTER=1` says so:
//!
//! ```sh
//! LVS_CLUSTER=1 cargo test -p lvs-kube-proxy --features kubernetes --lib api_server
//! ```

use std::{path::Path, time::Duration};

use netns_link::NetNs;
use serde_json::json;
use tokio::time::timeout;

use super::{
    cases::{self, Case},
    control_plane::{self, ControlPlane},
};
use crate::{
    object::ObjectName,
    settings::{Settings, ThisNode},
    source::{ApiServer, Directory, Events as _},
    state::{Event, State},
    translate::Target,
};

/// Longer than every back-off.
const LIMIT: Duration = Duration::from_secs(60);
/// Fields that Kubernetes 1.20 does not know.
const LATER: [&str; 3] = ["\"hints\"", "\"ipMode\"", "\"internalTrafficPolicy\""];

#[tokio::test]
async fn lists_watches_and_comes_back() {
    let Some(programs) = control_plane::programs().unwrap() else { return };
    let here = NetNs::current().unwrap();
    let cluster = ControlPlane::new(&here, programs);
    let _stop = Stop(&cluster);
    cluster.script("start", &["10.0.0.0/16"]);
    let node = ThisNode { name: "node-a".to_owned(), ..ThisNode::default() };
    let mut state = State::new(node, Settings::default());
    let kubeconfig = cluster.path("proxy.kubeconfig");
    let mut source = ApiServer::new(Some(&kubeconfig), "node-a").await.unwrap();

    conformance(&cluster, &kubeconfig).await;
    defaults(&cluster, &kubeconfig).await;

    // The API server's own service.
    until(&mut source, &mut state, |state| state.is_complete()).await;
    assert_eq!(lines(&state), ["-t 10.0.0.1:443"]);

    cluster.apply(
        "
apiVersion: v1
kind: Node
metadata: {name: node-a, labels: {topology.kubernetes.io/zone: z1}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.0.0.185, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: other, labels: {service.kubernetes.io/service-proxy-name: other}}
spec: {clusterIP: 10.0.0.186, ports: [{port: 80}]}
",
    );
    let slice = |address: &str| slice(cluster.slices(), address);
    cluster.apply(&slice("172.17.0.3"));
    let web = ["-t 10.0.0.1:443", "-t 10.0.0.185:80 172.17.0.3:8080"];
    until(&mut source, &mut state, |state| lines(state) == web && state.node().zone.is_some())
        .await;

    // The server goes and comes back; what changed meanwhile is there.
    cluster.script("stop", &["apiserver"]);
    assert!(timeout(Duration::from_secs(2), source.next()).await.is_err(), "nothing is said");
    cluster.script("start", &["apiserver"]);
    cluster.apply(&slice("172.17.0.4"));
    let web = ["-t 10.0.0.1:443", "-t 10.0.0.185:80 172.17.0.4:8080"];
    until(&mut source, &mut state, |state| lines(state) == web).await;

    // A watch that begins where etcd has forgotten: 410 Gone, and a fresh list.
    cluster.script("stop", &["apiserver"]);
    assert!(timeout(Duration::from_secs(2), source.next()).await.is_err());
    cluster.script("start", &["apiserver"]);
    cluster.kubectl("delete service web");
    for address in ["172.17.0.5", "172.17.0.6"] {
        cluster.apply(&slice(address));
    }
    cluster.compact();
    cluster.script("stop", &["apiserver"]);
    cluster.script("start", &["apiserver"]);
    until(&mut source, &mut state, |state| lines(state) == ["-t 10.0.0.1:443"]).await;

    // Asked for, the lists come anew.
    source.relist();
    let mut fresh = State::new(ThisNode::default(), Settings::default());
    until(&mut source, &mut fresh, State::is_complete).await;
    assert_eq!(lines(&fresh), ["-t 10.0.0.1:443"]);
}

/// The cases of `conformance.yaml` that this server can express, each listed anew.
async fn conformance(cluster: &ControlPlane<'_>, kubeconfig: &Path) {
    let (mut count, mut failures) = (0, Vec::new());
    for case in cases::all() {
        if cluster.minor <= 20 && LATER.iter().any(|field| case.manifest().contains(field)) {
            continue;
        }
        count += 1;
        failures.extend(conformance_case(cluster, kubeconfig, &case).await);
        cluster.etcd_delete("/registry/services/specs/shop/");
        cluster.etcd_delete("/registry/endpointslices/shop/");
    }
    println!("{count} cases from the API server");
    assert!(count > 35, "{count} cases");
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

async fn conformance_case(
    cluster: &ControlPlane<'_>,
    kubeconfig: &Path,
    case: &Case,
) -> Option<String> {
    for mut object in case.objects() {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let place = match object["kind"].as_str() {
            Some("Service") => "services/specs",
            _ => {
                object["apiVersion"] = json!(cluster.slices());
                "endpointslices"
            }
        };
        cluster.etcd_put(&format!("/registry/{place}/shop/{name}"), &object);
    }
    let mut source = ApiServer::new(Some(kubeconfig), "node-a").await.unwrap();
    let mut state = State::new(case.node(), case.settings());
    let list = async {
        while !state.is_complete() {
            source.next().await.into_iter().for_each(|event| state.apply(event));
        }
    };
    timeout(LIMIT, list).await.unwrap();
    // The server's own service is in no case.
    state.apply(Event::ServiceGone(ObjectName::new("default", "kubernetes")));
    case.failure(&mut state)
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let error = ApiServer::new(Some(Path::new("/none/such")), "node-a").await.unwrap_err();
    assert!(error.to_string().contains("/none/such"), "{error}");
    let error = ApiServer::new(None, "node-a").await.unwrap_err();
    assert!(error.to_string().contains("--kubeconfig"), "{error}");
}

/// What the API server fills in is what a directory fills in: the same objects, bare, come to the same.
async fn defaults(cluster: &ControlPlane<'_>, kubeconfig: &Path) {
    let bare = format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: bare, namespace: default}}
spec: {{clusterIP: 10.0.0.190, ports: [{{port: 80}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: sticky, namespace: default}}
spec: {{clusterIP: 10.0.0.191, sessionAffinity: ClientIP, ports: [{{port: 53, protocol: UDP}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: node-port, namespace: default}}
spec: {{clusterIP: 10.0.0.192, type: NodePort, ports: [{{port: 80, nodePort: 30080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: balanced, namespace: default}}
spec: {{clusterIP: 10.0.0.193, type: LoadBalancer, ports: [{{name: a, port: 80, nodePort: 30081}}, {{name: b, port: 81, nodePort: 30082}}]}}
---
apiVersion: {0}
kind: EndpointSlice
metadata: {{name: bare-1, namespace: default, labels: {{kubernetes.io/service-name: bare}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints: [{{addresses: [172.17.0.9]}}, {{addresses: [172.17.0.10], conditions: {{}}}}]
---
apiVersion: {0}
kind: EndpointSlice
metadata: {{name: sticky-1, namespace: default, labels: {{kubernetes.io/service-name: sticky}}}}
addressType: IPv4
ports: [{{port: 5353, protocol: UDP}}]
endpoints: [{{addresses: [172.17.0.9], conditions: {{ready: true}}}}]
",
        cluster.slices()
    );
    cluster.apply(&bare);
    let state = || {
        let node = ThisNode { name: "node-a".to_owned(), ..ThisNode::default() };
        let mut state = State::new(node, Settings::default());
        state.set_node_addresses(["192.0.2.11".parse().unwrap()].into());
        state
    };
    let (mut listed, mut read) = (state(), state());
    let mut source = ApiServer::new(Some(kubeconfig), "node-a").await.unwrap();
    until(&mut source, &mut listed, |state| lines(state).len() > 7).await;
    listed.apply(Event::ServiceGone(ObjectName::new("default", "kubernetes")));
    listed.update();

    let directory = tempfile::TempDir::new().unwrap();
    std::fs::write(directory.path().join("bare.yaml"), bare).unwrap();
    let mut files = Directory::open(directory.path()).unwrap();
    while !read.is_complete() {
        files.next().await.into_iter().for_each(|event| read.apply(event));
    }
    read.update();
    let all = |state: &State| state.targets().map(|(_, target)| target.clone()).collect::<Vec<_>>();
    assert_eq!(all(&listed), all(&read));
    assert!(lines(&read).contains(&"-t 10.0.0.190:80 172.17.0.9:8080 172.17.0.10:8080".to_owned()));
    cluster.kubectl("delete service bare sticky node-port balanced");
    cluster.kubectl("delete endpointslice bare-1 sticky-1");
}

fn slice(version: &str, address: &str) -> String {
    format!(
        "
apiVersion: {version}
kind: EndpointSlice
metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: '', port: 8080}}]
endpoints: [{{addresses: [{address}], conditions: {{ready: true}}}}]
"
    )
}

async fn until(source: &mut ApiServer, state: &mut State, done: impl Fn(&State) -> bool) {
    let wait = async {
        while !done(state) {
            source.next().await.into_iter().for_each(|event| state.apply(event));
            state.update();
        }
    };
    if timeout(LIMIT, wait).await.is_err() {
        panic!("it did not come to that: {:?}", lines(state));
    }
}

fn lines(state: &State) -> Vec<String> {
    let line = |target: &Target| {
        let servers = target.virtual_service.destinations().iter();
        servers.fold(target.key().to_string(), |line, server| format!("{line} {}", server.key))
    };
    state.targets().map(|(_, target)| line(target)).collect()
}

/// Ends the control plane.
struct Stop<'a>(&'a ControlPlane<'a>);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.script("stop", &[]);
    }
}
