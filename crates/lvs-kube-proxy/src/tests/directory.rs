//! A directory of manifests, followed.

use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use tempfile::TempDir;
use tokio::time::timeout;

use crate::{
    settings::{Settings, ThisNode},
    source::{Directory, Events as _},
    state::{Event, State},
    translate::Target,
};

/// Nothing waits for it when all goes well.
const LIMIT: Duration = Duration::from_secs(20);
/// How long nothing is to come.
const QUIET: Duration = Duration::from_millis(300);

#[tokio::test]
async fn files_come_change_and_go() {
    let directory = TempDir::new().unwrap();
    write(directory.path(), "a.yaml", &service("a", 1));
    write(directory.path(), "b.yml", &(service("b", 2) + &slice("b", "10.42.0.2")));
    write(directory.path(), "ignored.txt", "kind: [");
    write(directory.path(), ".hidden.yaml", "kind: [");
    let mut source = Directory::open(directory.path()).unwrap();
    let mut state = State::new(ThisNode::default(), Settings::default());

    step(&mut source, &mut state).await;
    assert!(state.is_complete());
    assert_eq!(table(&state), ["10.96.0.1", "10.96.0.2 10.42.0.2"]);

    write(directory.path(), "b.yml", &(service("b", 2) + &slice("b", "10.42.0.3")));
    step(&mut source, &mut state).await;
    assert_eq!(table(&state), ["10.96.0.1", "10.96.0.2 10.42.0.3"]);

    let moved = service("c", 3);
    write(directory.path(), "c.part", &moved);
    fs::rename(directory.path().join("c.part"), directory.path().join("c.json")).unwrap();
    step(&mut source, &mut state).await;
    assert_eq!(table(&state).len(), 3);

    fs::remove_file(directory.path().join("a.yaml")).unwrap();
    step(&mut source, &mut state).await;
    assert_eq!(table(&state), ["10.96.0.2 10.42.0.3", "10.96.0.3"]);
    assert!(timeout(QUIET, source.next()).await.is_err(), "at rest nothing comes");
}

#[tokio::test]
async fn a_broken_file_keeps_what_it_held() {
    let directory = TempDir::new().unwrap();
    write(directory.path(), "a.yaml", &service("a", 1));
    let mut source = Directory::open(directory.path()).unwrap();
    let mut state = State::new(ThisNode::default(), Settings::default());
    step(&mut source, &mut state).await;

    write(directory.path(), "a.yaml", "kind: Service\nspec: [");
    assert!(timeout(QUIET, source.next()).await.is_err());
    // Not even by a list: it waits until the file is whole again.
    source.relist();
    assert!(timeout(QUIET, source.next()).await.is_err());
    write(directory.path(), "a.yaml", &service("a", 4));
    let events = timeout(LIMIT, source.next()).await.unwrap();
    assert!(matches!(events[0], Event::Services(_)) || events.len() == 1, "{events:?}");
    events.into_iter().for_each(|event| state.apply(event));
    state.update();
    assert_eq!(table(&state), ["10.96.0.4"]);
}

#[tokio::test]
async fn nothing_is_complete_before_every_file_is_read() {
    let directory = TempDir::new().unwrap();
    write(directory.path(), "a.yaml", &service("a", 1));
    write(directory.path(), "b.yaml", "kind: Service\nspec: [");
    let mut source = Directory::open(directory.path()).unwrap();
    let mut state = State::new(ThisNode::default(), Settings::default());
    // It waits, rather than to read everything again and again.
    assert!(timeout(QUIET, source.next()).await.is_err());
    write(directory.path(), "b.yaml", &service("b", 2));
    step(&mut source, &mut state).await;
    assert!(state.is_complete());
    assert_eq!(table(&state), ["10.96.0.1", "10.96.0.2"]);
}

/// Lists that are asked for anew hold what was written a moment before.
#[tokio::test]
async fn new_lists_hold_new_files() {
    let directory = TempDir::new().unwrap();
    write(directory.path(), "a.yaml", &service("a", 1));
    let mut source = Directory::open(directory.path()).unwrap();
    let mut state = State::new(ThisNode::default(), Settings::default());
    step(&mut source, &mut state).await;
    for round in 1..5 {
        fs::remove_file(directory.path().join("a.yaml")).unwrap();
        write(directory.path(), "a.yaml", &service("a", round));
        write(
            directory.path(),
            &format!("{round}.yaml"),
            &service(&format!("b{round}"), 10 + round),
        );
        source.relist();
        let mut is_listed = false;
        while !is_listed {
            let events = timeout(LIMIT, source.next()).await.unwrap();
            is_listed = events.iter().any(|event| matches!(event, Event::Services(_)));
            events.into_iter().for_each(|event| state.apply(event));
        }
        state.update();
        let expected: Vec<_> =
            [round].into_iter().chain(11..=10 + round).map(|n| format!("10.96.0.{n}")).collect();
        assert_eq!(table(&state), expected);
    }
}

/// A Node whose manifest goes is there still, but nothing is known of it.
#[tokio::test]
async fn a_node_that_goes() {
    let directory = TempDir::new().unwrap();
    let node = "kind: Node\nmetadata: {name: node-a, labels: {topology.kubernetes.io/zone: z1}}\n";
    write(directory.path(), "node.yaml", node);
    let mut source = Directory::open(directory.path()).unwrap();
    let this = ThisNode { name: "node-a".to_owned(), ..ThisNode::default() };
    let mut state = State::new(this, Settings::default());
    step(&mut source, &mut state).await;
    assert_eq!(state.node().zone.as_deref(), Some("z1"));
    fs::remove_file(directory.path().join("node.yaml")).unwrap();
    step(&mut source, &mut state).await;
    assert_eq!(state.node().zone, None);
}

/// An object in two files: the last one counts, and the other one when that is gone.
#[tokio::test]
async fn the_same_object_twice() {
    let directory = TempDir::new().unwrap();
    write(directory.path(), "a.yaml", &service("web", 1));
    write(directory.path(), "b.yaml", &service("web", 2));
    let mut source = Directory::open(directory.path()).unwrap();
    let mut state = State::new(ThisNode::default(), Settings::default());
    step(&mut source, &mut state).await;
    assert_eq!(table(&state), ["10.96.0.2"]);
    fs::remove_file(directory.path().join("b.yaml")).unwrap();
    step(&mut source, &mut state).await;
    assert_eq!(table(&state), ["10.96.0.1"]);
}

/// As a ConfigMap is mounted: files are links into a directory that is replaced in one step.
#[tokio::test]
async fn a_config_map() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    for (version, number) in [("..1", 1), ("..2", 2)] {
        fs::create_dir(path.join(version)).unwrap();
        fs::write(path.join(version).join("a.yaml"), service("a", number)).unwrap();
    }
    symlink("..1", path.join("..data")).unwrap();
    symlink("..data/a.yaml", path.join("a.yaml")).unwrap();
    let mut source = Directory::open(path).unwrap();
    let mut state = State::new(ThisNode::default(), Settings::default());
    step(&mut source, &mut state).await;
    assert_eq!(table(&state), ["10.96.0.1"]);

    symlink("..2", path.join("..new")).unwrap();
    fs::rename(path.join("..new"), path.join("..data")).unwrap();
    step(&mut source, &mut state).await;
    assert_eq!(table(&state), ["10.96.0.2"]);
}

/// The directory goes and comes back: what it held counts meanwhile.
#[tokio::test]
async fn a_directory_that_goes_and_comes_back() {
    let parent = TempDir::new().unwrap();
    let path = parent.path().join("manifests");
    fs::create_dir(&path).unwrap();
    write(&path, "a.yaml", &service("a", 1));
    let mut source = Directory::open(&path).unwrap();
    let mut state = State::new(ThisNode::default(), Settings::default());
    step(&mut source, &mut state).await;
    let away = parent.path().join("away");
    fs::rename(&path, &away).unwrap();
    assert!(timeout(QUIET, source.next()).await.is_err());
    write(&away, "a.yaml", &service("a", 2));
    fs::rename(&away, &path).unwrap();
    step(&mut source, &mut state).await;
    assert_eq!(table(&state), ["10.96.0.2"]);

    let error = Directory::open(parent.path().join("none")).unwrap_err().to_string();
    assert!(error.contains("none") && error.contains("No such file"), "{error}");
}

/// An interrupted wait loses no event.
#[tokio::test]
async fn a_wait_may_be_given_up() {
    let directory = TempDir::new().unwrap();
    let mut source = Directory::open(directory.path()).unwrap();
    let mut state = State::new(ThisNode::default(), Settings::default());
    step(&mut source, &mut state).await;
    for number in 1..30 {
        write(directory.path(), &format!("{number}.yaml"), &service(&format!("s{number}"), number));
        let wait = Duration::from_millis(u64::from(number));
        if let Ok(events) = timeout(wait, source.next()).await {
            events.into_iter().for_each(|event| state.apply(event));
        }
    }
    while let Ok(events) = timeout(QUIET, source.next()).await {
        events.into_iter().for_each(|event| state.apply(event));
    }
    state.update();
    assert_eq!(table(&state).len(), 29);
}

async fn step(source: &mut Directory, state: &mut State) {
    let events = timeout(LIMIT, source.next()).await.unwrap();
    assert!(!events.is_empty());
    events.into_iter().for_each(|event| state.apply(event));
    state.update();
}

fn table(state: &State) -> Vec<String> {
    let line = |target: &Target| {
        let address = target.address().unwrap().to_string();
        let servers = target.virtual_service.destinations().iter();
        servers.fold(address, |line, server| format!("{line} {}", server.key.address))
    };
    state.targets().map(|(_, target)| line(target)).collect()
}

fn write(directory: &Path, name: &str, text: &str) {
    fs::write(directory.join(name), text).unwrap();
}

fn service(name: &str, number: u8) -> String {
    format!(
        "---\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{clusterIP: 10.96.0.{number}, ports: [{{port: 80}}]}}\n"
    )
}

fn slice(owner: &str, address: &str) -> String {
    format!(
        "---\nkind: EndpointSlice\n\
         metadata: {{name: {owner}-1, labels: {{kubernetes.io/service-name: {owner}}}}}\n\
         addressType: IPv4\nports: [{{name: '', port: 8080}}]\n\
         endpoints: [{{addresses: [{address}]}}]\n"
    )
}

/// What an API server would have said of each is said here.
#[tokio::test]
async fn what_an_api_server_would_have_said() {
    let directory = TempDir::new().unwrap();
    let slice = |text: &str| {
        format!("kind: EndpointSlice\nmetadata: {text}\nendpoints: [{{addresses: [10.42.0.1]}}]\n")
    };
    let owned = "labels: {kubernetes.io/service-name: web}";
    for (name, text, expected) in [
        ("a", "kind: Endpoints\nmetadata: {name: web}\n".to_owned(), "endpoints default/web are not read: an EndpointSlice"),
        ("b", "kind: Service\nmetadata: {name: b}\nspec: {ports: [{port: 80}]}\n".to_owned(), "service default/b has no spec.clusterIP"),
        ("c", slice(&format!("{{name: c, {owned}}}")), "endpoint slice default/c has no addressType"),
        ("d", slice(&format!("{{name: d, {owned}}}\naddressType: FQDN")), "endpoint slice default/d has the addressType \"FQDN\""),
        ("e", slice("{name: e}\naddressType: IPv4"), "endpoint slice default/e has no label"),
        ("f", slice(&format!("{{name: f, {owned}}}\naddressType: IPv4\nports: [{{name: http, port: 8080}}]")),
            "endpoint slice default/f: no port of it has the name of a port of service default/web, so it is not used: \"http\" and \"\""),
        ("g", "kind: Service\nmetadata: {name: g, annotations: {lvs-kube-proxy/schedular: lc}}\nspec: {clusterIP: None}\n".to_owned(),
            "service default/g: there is no annotation lvs-kube-proxy/schedular"),
    ] {
        fs::remove_dir_all(directory.path()).unwrap();
        fs::create_dir(directory.path()).unwrap();
        write(directory.path(), "web.yaml", &service("web", 1));
        write(directory.path(), &format!("{name}.yaml"), &text);
        let mut source = Directory::open(directory.path()).unwrap();
        let mut state = State::new(ThisNode::default(), Settings::default());
        step(&mut source, &mut state).await;
        let [said] = source.said() else { panic!("{name}: {:?}", source.said()) };
        assert!(said.starts_with(expected), "{said}");
    }
}

/// A port without a name, which an API server would have given the empty one.
#[tokio::test]
async fn ports_without_a_name() {
    let directory = TempDir::new().unwrap();
    write(directory.path(), "web.yaml", &service("web", 1));
    let slice = "kind: EndpointSlice\nmetadata: {name: web-1, labels: {kubernetes.io/service-name: web}}\n\
                 addressType: IPv4\nports: [{port: 8080}]\nendpoints: [{addresses: [10.42.0.1]}]\n";
    write(directory.path(), "slice.yaml", slice);
    let mut source = Directory::open(directory.path()).unwrap();
    let mut state = State::new(ThisNode::default(), Settings::default());
    step(&mut source, &mut state).await;
    assert_eq!(table(&state), ["10.96.0.1 10.42.0.1"]);
    assert_eq!(source.said(), [""; 0]);
}

/// Why nothing comes, for who does not want to wait.
#[tokio::test]
async fn a_broken_file_is_why_nothing_comes() {
    let directory = TempDir::new().unwrap();
    write(directory.path(), "a.yaml", &(service("a", 1) + "---\nkind: Service\nspec: [\n"));
    let mut source = Directory::open(directory.path()).unwrap();
    assert_eq!(source.is_stuck(), None);
    assert!(timeout(QUIET, source.next()).await.is_err());
    let reason = source.is_stuck().unwrap();
    assert!(reason.contains("a.yaml: document that begins on line "), "{reason}");
    write(directory.path(), "a.yaml", &service("a", 1));
    assert!(timeout(LIMIT, source.next()).await.is_ok());
    assert_eq!(source.is_stuck(), None);
}
