//! The testbed on a real kernel: its paths carry traffic, without a load balancer between.

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use kernel_tests::{block_on, needing};
use libtest_mimic::{Failed, Trial};
use netns_link::{NetNs, Setting, prepare_real_server};
use testbed::{Client, DockerHost, Family, page, tcp_exchange, udp_exchange};

use crate::scene::LIMIT;

/// Every case by its name.
pub(crate) fn cases() -> Vec<Trial> {
    let mut cases = Vec::new();
    for (family, suffix) in [(Family::Ipv4, "ipv4"), (Family::Ipv6, "ipv6")] {
        cases.push(case(format!("testbed_paths_{suffix}"), paths(family)));
        cases.push(case(format!("testbed_exchange_{suffix}"), exchange(family)));
        let programs = [("nginx", "nginx-light"), ("curl", "curl"), ("busybox", "busybox-static")];
        let name = format!("testbed_nginx_and_clients_{suffix}");
        cases.push(needing(&programs, case(name, nginx_and_clients(family))));
    }
    cases.push(case("real_server_arp_keeps_silent".to_owned(), real_server_arp_keeps_silent()));
    cases.push(case("testbed_pause".to_owned(), pause()));
    cases
}

async fn paths(family: Family) -> Result<(), Failed> {
    let host = DockerHost::new(family).await?;
    let pod = host.container("pod1", 3).await?;
    let client = host.container("client", 5).await?;
    let external = host.external_client("external").await?;
    let server = pod.serve_http(80)?;
    let address = SocketAddr::new(pod.address(), 80);
    for from in [host.namespace(), client.namespace(), pod.namespace()] {
        assert_eq!(Client::InProcess.get(from, address, LIMIT).await?, page("pod1"));
    }
    let short = Duration::from_millis(300);
    let error = Client::InProcess.get(external.namespace(), address, short).await.unwrap_err();
    assert!(error.is_timeout(), "the host does not forward yet: {error}");
    host.forward()?;
    host.filter_bridge()?;
    assert_eq!(Client::InProcess.get(external.namespace(), address, LIMIT).await?, page("pod1"));

    server.stop().await;
    let error = Client::InProcess.get(client.namespace(), address, LIMIT).await.unwrap_err();
    // Reset, if a process that another case is starting has the socket until it execs.
    let closed = [Some(ErrorKind::ConnectionRefused), Some(ErrorKind::ConnectionReset)];
    assert!(closed.contains(&error.io_kind()), "{error}");
    Ok(())
}

async fn exchange(family: Family) -> Result<(), Failed> {
    let host = DockerHost::new(family).await?;
    let pod = host.container("pod1", 3).await?;
    let address = SocketAddr::new(pod.address(), 7);
    let _servers = (pod.serve_tcp(7)?, pod.serve_udp(address)?);
    assert_eq!(tcp_exchange(host.namespace(), address, "hello", LIMIT).await?, "pod1: hello");
    assert_eq!(udp_exchange(host.namespace(), address, "hello", LIMIT).await?, "pod1: hello");
    assert!(pod.serve_tcp(7).is_err(), "the port is taken");
    Ok(())
}

async fn nginx_and_clients(family: Family) -> Result<(), Failed> {
    let host = DockerHost::new(family).await?;
    let pod = host.container("pod1", 3).await?;
    let client = host.container("client", 5).await?;
    let nginx = pod.serve_nginx(80).await?;
    assert_eq!(&NetNs::from_pid(nginx.pid())?, pod.namespace());
    let address = SocketAddr::new(pod.address(), 80);
    for program in [Client::InProcess, Client::Curl, Client::Busybox] {
        let got = program.get(client.namespace(), address, LIMIT).await;
        assert_eq!(got?, page("pod1"), "{program}");
    }
    let Err(error) = pod.serve_nginx(80).await else { panic!("the port is taken") };
    assert!(error.to_string().contains("in use"), "{error}");
    let pid = nginx.pid();
    drop(nginx);
    assert!(!std::fs::exists(format!("/proc/{pid}"))?);
    Ok(())
}

/// A client that asks for the virtual IP on its own segment finds a real server that answers ARP
/// requests for it, and bypasses the director; the settings of direct routing prevent these answers.
async fn real_server_arp_keeps_silent() -> Result<(), Failed> {
    let host = DockerHost::new(Family::Ipv4).await?;
    let pod = host.container("pod1", 3).await?;
    let vip = "10.0.0.185".parse()?;
    let address = SocketAddr::new(vip, 80);
    let _server = pod.serve_http(80)?;
    let mut setup = prepare_real_server(pod.namespace(), "dummy1", &[vip])?;
    let silent = host.container("client", 5).await?;
    silent.reach_on_link(vip).await?;
    let error = Client::InProcess.get(silent.namespace(), address, LIMIT).await.unwrap_err();
    assert_eq!(error.io_kind(), Some(ErrorKind::HostUnreachable), "{error}");

    Setting::arp_ignore("all")?.write(pod.namespace(), 0)?;
    let answered = host.container("client2", 6).await?;
    answered.reach_on_link(vip).await?;
    let got = Client::InProcess.get(answered.namespace(), address, LIMIT).await;
    assert_eq!(got?, page("pod1"));
    Ok(setup.undo(pod.namespace())?)
}

async fn pause() -> Result<(), Failed> {
    let host = DockerHost::new(Family::Ipv4).await?;
    let pod = host.container("pod1", 3).await?;
    let process = pod.pause()?;
    let pid = process.pid();
    assert_eq!(&NetNs::from_pid(pid)?, pod.namespace());
    drop(process);
    assert!(!std::fs::exists(format!("/proc/{pid}"))?);
    Ok(())
}

fn case(name: String, test: impl Future<Output = Result<(), Failed>> + Send + 'static) -> Trial {
    Trial::test(name, || block_on(test))
}
