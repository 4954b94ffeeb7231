//! The language by examples.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{collections::BTreeSet, fs};

use lvs_health::check::Target;
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer},
};

use super::{
    check_language::{CHECK, KINDS},
    language::FILE,
    shape::{Kind, Object},
    tree::{self, Node, Value},
    *,
};

const EXAMPLE: &str = include_str!("example.yaml");

/// The mistakes of a text: line, column and words.
fn mistakes(text: &str) -> Vec<String> {
    Config::parse(text).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn the_example_is_right() {
    let config = Config::parse(EXAMPLE).unwrap();
    assert_eq!(config.addresses.len(), 5);
    // 3 ports x 2 protocols, 2 marks, 2 + 2 addresses and a mark, and one.
    assert_eq!(config.services.len(), 6 + 2 + 5 + 1);
    let web = &config.services[&"-t 192.0.2.1:8001".parse().unwrap()];
    assert_eq!((&*web.name, web.common.servers.len()), ("web", 4));
    assert_eq!(web.frame.service().scheduler.to_string(), "wrr");
    let [first, second, ..] = &web.common.servers[..] else { panic!() };
    let names = |server: &Server| {
        server.checks.iter().map(|check| check.name.clone()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!((names(first), names(second)), ("web other-port".to_owned(), "plain".to_owned()));
    // A check that is like another differs in what it says.
    let [web, other] = &first.checks[..] else { panic!() };
    assert_eq!((web.check.port, other.check.port), (None, Some(8081)));
    assert_eq!((&web.check.kind, web.pace), (&other.check.kind, other.pace));
    let port = |server: &Server| server.real_server(&"-t 192.0.2.1:8001".parse().unwrap()).port();
    assert_eq!((port(first), port(second)), (Some(8001), Some(8080)));
    // Each part is held in one place, however often it is written.
    let marks = config.services.values().filter(|service| &*service.name == "marks");
    let marks: Vec<_> = marks.collect();
    assert!(Arc::ptr_eq(&marks[0].common, &marks[1].common));
}

#[test]
fn an_empty_file_is_right() {
    for text in ["", "# nothing\n", "services: []\n", "{}"] {
        assert!(Config::parse(text).unwrap().services.is_empty(), "{text:?}");
    }
}

/// All of them, each with its place.
#[test]
fn every_mistake_is_said() {
    let text = "\
http: here
rol: master
drain: {services: yes please}
addresses:
  - address: 127.0.0.1
  - {address: 192.0.2.1, link: far-too-long-a-name-for-a-link}
checks:
  ring: {like: ring, tcp: {}}
  both: {tcp: {}, http: {path: /}}
  empty: {interval: 1s}
services:
  - address: 192.0.2.1
    port: 80
    schedular: rr
    servers: [10.1.0.1, 10.1.0.1, 10.1.0.300, {weight: 3}]
    check: webb
  - address: 192.0.2.1
    port: 80
    mark: 7
  - address: 192.0.2.2
    port: 0
    servers: [{address: 10.1.0.1, weight: -1, port: 80, forwarding: direct}]
    check: [ring, both, empty]
  - address: 192.0.2.3
    port: 80
    pool: nobody
    group: nobody
";
    let found = mistakes(text);
    let expected = [
        "line 1, column 7: http: \"here\" is not an address with a port",
        "line 2, column 1: a file has no field \"rol\"; \"role\"?",
        "line 3, column 8: a drain needs the field \"for\"",
        "line 3, column 19: services: \"yes please\" is not true or false",
        "line 5, column 14: 127.0.0.1 cannot be a virtual address",
        "line 6, column 32: link: ",
        "line 8, column 16: checks that are like each other in a ring",
        "line 9, column 9: a check has one kind, not tcp and http",
        "line 10, column 10: a check needs a kind",
        "line 12, column 5: server 10.1.0.1 is there twice",
        "line 14, column 5: a service has no field \"schedular\"; \"scheduler\"?",
        "line 15, column 35: \"10.1.0.300\" is not a server",
        "line 15, column 47: a server needs the field \"address\"",
        "line 16, column 12: there is no check \"webb\"",
        "line 17, column 5: a service needs address, mark or group: one of them, not address and mark",
        "line 20, column 5: service -t 192.0.2.2:0: port 0",
        "line 22, column 15: direct routing and tunnels leave the port as it is",
        "line 22, column 43: weight: \"-1\" is not a number from 0",
        "line 24, column 5: a service needs address, mark or group: one of them, not address and group",
    ];
    for expected in expected {
        assert!(found.iter().any(|it| it.starts_with(expected)), "{expected:?} of {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn what_is_not_yaml_has_a_place() {
    let found = mistakes("services:\n  - address: [1\n");
    assert!(found[0].starts_with("line ") && found[0].contains("not YAML"), "{found:?}");
    assert_eq!(mistakes("- 1").len(), 1);
    assert_eq!(mistakes("a: 1\na: 2").len(), 1, "a field that is there twice");
}

#[test]
fn services_that_meet_are_a_mistake() {
    let text =
        "services: [{address: 192.0.2.1-3, port: 80}, {name: b, address: 192.0.2.3, port: 80}]";
    let found = mistakes(text);
    assert_eq!(found, ["line 1, column 46: service -t 192.0.2.3:80 is there twice"]);
}

#[test]
fn a_check_takes_from_the_default_what_it_does_not_say() {
    let text = "
defaults: {check: {http: {path: /x}, interval: 7s}}
services:
  - {address: 192.0.2.1, port: 80, servers: [10.1.0.1], check: {interval: 1s}}
  - {address: 192.0.2.2, port: 80, servers: [10.1.0.1]}
  - {address: 192.0.2.3, port: 80, servers: [10.1.0.1], check: tcp}
";
    let config = Config::parse(text).unwrap();
    let check = |key: &str| {
        let service = &config.services[&key.parse().unwrap()];
        let check = &service.common.servers[0].checks[0];
        (
            serde_json::to_value(&check.check.kind).unwrap().to_string(),
            check.pace.interval.as_secs(),
        )
    };
    let (of_first, of_second) = (check("-t 192.0.2.1:80"), check("-t 192.0.2.2:80"));
    assert_eq!(of_first.0, of_second.0);
    assert!(of_first.0.contains("/x"), "{}", of_first.0);
    assert_eq!((of_first.1, of_second.1), (1, 7));
    assert_eq!(check("-t 192.0.2.3:80"), ("\"tcp\"".to_owned(), 5));
}

#[test]
fn files_that_are_none() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let binary = directory.path().join("binary");
    fs::write(&binary, [0xff, 0xfe, 0]).unwrap();
    let missing = directory.path().join("missing");
    for path in [directory.path(), &fifo, &binary, &missing, Path::new("/dev/zero")] {
        let error = Config::load(path).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
    }
}

/// The schema that is published is that of the language.
#[test]
fn the_schema_is_published() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schema.json");
    if std::env::var_os("LVS_WRITE").is_some() {
        fs::write(path, schema()).unwrap();
    }
    assert_eq!(fs::read_to_string(path).unwrap(), schema(), "write it anew with LVS_WRITE=1");
}

/// Every field of the language is in the example, which is right: so each is read, or at least taken.
#[test]
fn the_example_has_every_field() {
    fn collect(kind: &'static Kind, node: &Node, found: &mut BTreeSet<(&'static str, String)>) {
        match kind {
            Kind::Object(object) => {
                for (name, value) in node.entries() {
                    if let Some(field) = object.fields.iter().find(|field| field.name == name) {
                        found.insert((object.name, name.to_owned()));
                        collect(&field.kind, value, found);
                    }
                }
            }
            Kind::List(kind) | Kind::OneOrMore(kind) => {
                node.each().iter().for_each(|node| collect(kind, node, found));
            }
            Kind::Map(kind) => node.entries().for_each(|(_, node)| collect(kind, node, found)),
            Kind::Either(kinds) => kinds.iter().for_each(|kind| collect(kind, node, found)),
            _ => {}
        }
    }
    fn all(object: &'static Object, found: &mut BTreeSet<(&'static str, String)>) {
        fn of(kind: &'static Kind, found: &mut BTreeSet<(&'static str, String)>) {
            match kind {
                Kind::Object(object) => all(object, found),
                Kind::List(kind) | Kind::OneOrMore(kind) | Kind::Map(kind) => of(kind, found),
                Kind::Either(kinds) => kinds.iter().for_each(|kind| of(kind, found)),
                _ => {}
            }
        }
        for field in object.fields {
            if found.insert((object.name, field.name.to_owned())) {
                of(&field.kind, found);
            }
        }
    }
    let (mut there, mut known) = (BTreeSet::new(), BTreeSet::new());
    collect(language::kind(), &tree::read(EXAMPLE).unwrap(), &mut there);
    all(&FILE, &mut known);
    // The same fields as a service's.
    known.retain(|(object, _)| *object != "defaults");
    let missing: Vec<_> = known.difference(&there).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// A check's kinds and fields are those that the checks themselves have.
#[test]
fn kinds_are_those_of_the_checks() {
    for (kind, object) in KINDS {
        assert!(CHECK.fields.iter().any(|field| field.name == *kind), "{kind}");
        let text = format!(
            "services: [{{address: 192.0.2.1, port: 80, servers: [10.1.0.1], check: {{{kind}: {{no_such_field: 1}}}}}}]"
        );
        let found = mistakes(&text);
        assert!(found.iter().any(|it| it.contains("no_such_field")), "{kind}: {found:?}");
        assert_eq!(object.name, format!("{kind} check"));
    }
}

/// A file's check over TLS: it takes the certificate that the file trusts, and no other.
#[tokio::test]
async fn a_check_over_tls() {
    let signed = rcgen::generate_simple_self_signed(["web.example".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der());
    let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key.into())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    });
    let directory = tempfile::tempdir().unwrap();
    let trusted = directory.path().join("ca.pem");
    fs::write(&trusted, signed.cert.pem()).unwrap();
    let trusted = trusted.display();
    for (kind, is_good) in [
        ("tls: {}".to_owned(), true),
        (format!("tls: {{server_name: web.example, verify: {{file: {trusted}}}}}"), true),
        (format!("tls: {{server_name: other.example, verify: {{file: {trusted}}}}}"), false),
        ("tls: {server_name: web.example, verify: system}".to_owned(), false),
        ("http: {tls: {}, pattern: ok}".to_owned(), true),
        (
            format!(
                "http: {{host: web.example, pattern: ok, tls: {{verify: {{file: {trusted}}}}}}}"
            ),
            true,
        ),
        ("http: {pattern: ok}".to_owned(), false),
    ] {
        let file = format!(
            "services: [{{address: 192.0.2.1, port: 443, servers: ['127.0.0.1:{port}'], check: {{{kind}}}}}]"
        );
        let config = Config::parse(&file).unwrap_or_else(|error| panic!("{error}\n{file}"));
        let member = &config.services[&"-t 192.0.2.1:443".parse().unwrap()].common.servers[0];
        let target = Target::new(SocketAddr::from(([127, 0, 0, 1], port)));
        let result = member.checks[0].check.run(&target).await;
        assert_eq!(result.is_ok(), is_good, "{kind}: {result:?}");
    }
    server.abort();
}

proptest! {
    /// Any text is a file or has mistakes: no panic, no endless loop.
    #[test]
    fn any_text(text in "\\PC{0,200}") {
        let _ = Config::parse(&text);
    }

    /// The example, damaged.
    #[test]
    fn damaged(at in 0..EXAMPLE.len(), length in 0..40usize, with in "[ -~\\n]{0,8}") {
        let mut text = EXAMPLE.to_owned();
        let end = (at + length).min(text.len());
        text.replace_range(at..end, &with);
        let _ = Config::parse(&text);
    }
}

#[test]
fn the_shape_of_values() {
    let node = tree::read("[1, 1.5, true, text, null, \"7\", 0x10, 1_000]").unwrap();
    let Value::List(list) = &node.value else { panic!() };
    let shown: Vec<_> = list.iter().map(Node::shown).collect();
    assert_eq!(shown[..6], ["\"1\"", "\"1.5\"", "\"1\"", "\"text\"", "nothing", "\"7\""]);
    assert_eq!(list[5].text(), Some("7"), "quoted is a text");
}
