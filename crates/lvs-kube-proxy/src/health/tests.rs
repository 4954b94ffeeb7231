//! What is answered over HTTP.

use super::*;

#[test]
fn metrics_are_where_they_are_wanted() {
    let health = Health::new(Duration::from_secs(30));
    for (path, without) in [
        ("/livez", 200),
        ("/healthz", 200),
        ("/metrics", 404),
        ("/proxyMode", 404),
        ("/configz", 404),
        ("/flagz", 404),
        ("/statusz", 404),
        ("/", 404),
    ] {
        assert_eq!(health.answer(path, false).status().as_u16(), without, "{path}");
        let with = if path == "/" { 404 } else { 200 };
        assert_eq!(health.answer(path, true).status().as_u16(), with, "{path}");
    }
}

/// Health checks of services are answered where node ports are served.
#[test]
fn checks_are_answered_at_some_addresses() {
    use std::io::{Read, Write};
    let health = Arc::new(Health::new(Duration::from_secs(30)));
    let server = Server::start().unwrap();
    let socket = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let _listener = server.of_service(socket, health.clone()).unwrap();
    let ask = |address: &str| {
        let mut stream = std::net::TcpStream::connect((address, port)).unwrap();
        let mut text = String::new();
        let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        // Who is let go of may see a reset.
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.read_to_string(&mut text);
        text
    };
    assert!(ask("127.0.0.1").starts_with("HTTP/1.1 404"));
    health.set_check_addresses(Some(["127.0.0.2".parse().unwrap()].into()));
    assert_eq!(ask("127.0.0.1"), "");
    assert!(ask("127.0.0.2").starts_with("HTTP/1.1 404"));
    health.set_check_addresses(None);
    assert!(ask("127.0.0.1").starts_with("HTTP/1.1 404"));
}

#[test]
fn ready_is_who_has_brought_the_table_to_what_it_should_be() {
    let health = Health::new(Duration::from_secs(30));
    let ready = || health.answer("/readyz", false).status().as_u16();
    assert_eq!(ready(), 503);
    health.ran();
    assert_eq!(ready(), 200);
    health.with(|known| known.waiting = Some(SystemTime::UNIX_EPOCH));
    assert_eq!(ready(), 503, "a change waits and waits");
}

/// What stands in for the body of a response.
fn body(response: Response<Full<Bytes>>) -> serde_json::Value {
    use http_body_util::BodyExt;
    let body = futures_util::FutureExt::now_or_never(response.into_body().collect());
    serde_json::from_slice(&body.unwrap().unwrap().to_bytes()).unwrap()
}

#[test]
fn health_is_told_as_kube_proxy_does() {
    let health = Health::new(Duration::from_secs(30));
    let found = body(health.answer("/healthz", false));
    assert_eq!(found["healthy"], true);
    assert_eq!(found["nodeEligible"], true);
    assert_eq!(found["lastUpdated"], found["currentTime"], "it is well now");
    for family in ["IPv4", "IPv6"] {
        assert_eq!(found["status"][family]["healthy"], true);
        assert_eq!(found["status"][family]["lastUpdated"], found["lastUpdated"]);
    }
    assert!(found.get("apiServer").is_none());

    // A server that has said something an hour ago, and fails since.
    let contact = Contact::new("api:6443");
    let hour = Duration::from_secs(3600);
    let begin = SystemTime::UNIX_EPOCH + hour;
    contact.asked("GET", Some(200), Duration::ZERO, begin);
    contact.asked("GET", None, Duration::ZERO, begin + hour);
    contact.asked("GET", Some(401), Duration::ZERO, begin + hour * 2);
    let words = ["lvs-kube-proxy", "--hostname-override=node-a", "--ipvs-scheduler", "sh"];
    health.follow(Some(contact), &Config::from_command_line(words).unwrap());
    let configuration = body(health.answer("/configz", true));
    let configuration = &configuration["kubeproxy.config.k8s.io"];
    assert_eq!(configuration["ipvs"]["scheduler"], "sh");
    assert_eq!(configuration["hostnameOverride"], "node-a");
    let found = body(health.answer("/healthz", false));
    assert_eq!(found["apiServer"]["lastHeard"], "1970-01-01T01:00:00Z");
    assert_eq!(found["apiServer"]["failingSince"], "1970-01-01T02:00:00Z");
    let text = health.metrics_text().unwrap();
    for line in [
        "lvs_kube_proxy_api_server_last_heard_timestamp_seconds 3600.0",
        "lvs_kube_proxy_api_server_failing_since_timestamp_seconds 7200.0",
        r#"rest_client_requests_total{code="401",host="api:6443",method="GET"} 1"#,
        r#"kubeproxy_proxy_healthz_total{code="200"} 2"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert_eq!(text.matches("# EOF").count(), 1);

    health.set_node_is_eligible(false);
    assert_eq!(health.answer("/healthz", false).status().as_u16(), 503);
    let found = health.answer("/livez", false);
    assert_eq!((found.status().as_u16(), &body(found)["healthy"]), (200, &true.into()));
}

/// Whoever opens connections and says nothing keeps nobody from being answered.
#[test]
fn half_open_requests_are_no_harm() {
    use std::io::{Read as _, Write as _};
    let server = Server::start().unwrap();
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let health = Arc::new(Health::new(Duration::from_secs(30)));
    let listener = server.own(socket, health, false).unwrap();
    let connect = || std::net::TcpStream::connect(listener.address()).unwrap();
    let mut open = Vec::new();
    for number in 0..300 {
        let mut silent = connect();
        let _ = silent.write_all(b"GET /livez HTTP/1.1\r\nHost:");
        open.push(silent);
        if number % 100 != 99 {
            continue;
        }
        let mut asks = connect();
        asks.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        asks.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(server.connections.lock().unwrap().len() <= CONNECTIONS);
    }
}

/// A main loop that hangs is seen, although nothing waits to be written.
#[test]
fn a_loop_that_hangs() {
    let health = Health::new(Duration::from_secs(30));
    let start = Instant::now();
    assert!(health.is_live_at(start + Duration::from_secs(3600)), "it has not begun");
    health.beat(start);
    assert!(health.is_live_at(start + Duration::from_secs(119)));
    assert!(!health.is_live_at(start + Duration::from_secs(121)));
    health.beat(start + Duration::from_secs(121));
    assert!(health.is_live_at(start + Duration::from_secs(122)));
}
