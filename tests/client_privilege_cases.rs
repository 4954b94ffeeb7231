//! ipvs-client with the least privileges that its documentation names, and at the limits of a process.

use std::fs::File;

use ipvs_client::{
    Client, Error, ErrorKind, Socket, Sysctl, blocking,
    packet::{Request, Service},
};
use kernel_tests::{Outcome, block_on, key};
use libtest_mimic::{Failed, Trial};
use netns_link::NetNs;

use crate::part::{self, Part};

const WITHOUT_CAPABILITIES: Part = Part("client_without_capabilities", without_capabilities);
const WITH_NET_ADMIN: Part = Part("client_with_net_admin", with_net_admin);
const ONE_THREAD: Part = Part("client_one_thread", one_thread);
const FEW_DESCRIPTORS: Part = Part("client_few_descriptors", few_descriptors);
const SETTINGS_READ_ONLY: Part = Part("client_settings_read_only", settings_read_only);

const ONE_SETTING_READ_ONLY: Part = Part("client_one_setting_read_only", one_setting_read_only);

pub(crate) const PARTS: &[Part] = &[
    WITHOUT_CAPABILITIES,
    WITH_NET_ADMIN,
    ONE_THREAD,
    FEW_DESCRIPTORS,
    SETTINGS_READ_ONLY,
    ONE_SETTING_READ_ONLY,
];

/// Every case by its name.
pub(crate) fn cases() -> Vec<Trial> {
    let case = part::case;
    vec![
        case(
            "client_root_without_capabilities",
            WITHOUT_CAPABILITIES,
            part::ROOT_WITHOUT_CAPABILITIES,
        ),
        case(
            "client_user_without_capabilities",
            WITHOUT_CAPABILITIES,
            part::USER_WITHOUT_CAPABILITIES,
        ),
        case("client_root_with_net_admin", WITH_NET_ADMIN, part::ROOT_WITH_NET_ADMIN),
        case("client_user_with_net_admin", WITH_NET_ADMIN, part::USER_WITH_NET_ADMIN),
        case("client_one_thread", ONE_THREAD, part::USER_WITH_ONE_THREAD),
        case("client_few_descriptors", FEW_DESCRIPTORS, &["prlimit", "--nofile=32"]),
        case("client_settings_read_only", SETTINGS_READ_ONLY, &["unshare", "--mount"]),
        case("client_one_setting_read_only", ONE_SETTING_READ_ONLY, &["unshare", "--mount"]),
    ]
}

fn without_capabilities() -> Outcome {
    refused("CAP_NET_ADMIN", Client::connect());
    refused("CAP_NET_ADMIN", Client::connect_in(&NetNs::current()?));
    refused("CAP_SYS_ADMIN", Client::connect_in(&part::other_namespace()?));
    Ok(())
}

/// In the process's own namespace one capability is enough for everything.
fn with_net_admin() -> Outcome {
    let here = NetNs::current()?;
    let service = Service::new(key("-f 7"));
    let use_it = |client: Client| {
        block_on(async move {
            client.add_service(&service).await?;
            client.batch(&[Request::SetService(service.clone())]).await.into_result()?;
            assert_eq!(client.snapshot().await?.services.len(), 1);
            client.flush().await?;
            client.set_sysctl(Sysctl::CONNTRACK, client.sysctl(Sysctl::CONNTRACK)?)?;
            assert_eq!(client.connections()?.count(), 0);
            client.totals()?;
            Ok::<_, Failed>(())
        })
    };
    use_it(Client::connect()?)?;
    let home = Client::connect_in(&here)?;
    let elsewhere = std::thread::spawn(move || home.sysctl(Sysctl::CONNTRACK));
    elsewhere.join().map_err(|_| "it panicked")??;
    assert!(blocking::Client::connect_in(&here)?.services()?.is_empty());
    refused("CAP_SYS_ADMIN", Client::connect_in(&part::other_namespace()?));
    Ok(())
}

fn one_thread() -> Outcome {
    let Err(error) = Socket::open_in(&part::other_namespace()?) else {
        return Err("a thread was made".into());
    };
    assert_eq!((error.kind(), error.errno()), (ErrorKind::LimitReached, Some(11)), "{error}");
    assert!(error.to_string().contains("RLIMIT_NPROC"), "{error}");
    Ok(())
}

/// With one descriptor free the client has its socket, and none to hold its namespace: what needs one
/// says so, and works when there is one.
fn few_descriptors() -> Outcome {
    // The first look at the modules, and whatever else is opened once.
    blocking::Client::connect()?.info()?;
    let mut held = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        held.push(file);
    }
    let limited = |error: Error| {
        assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
        assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
    };
    limited(blocking::Client::connect().expect_err("none is free"));
    drop(held.pop());
    let client = blocking::Client::connect()?;
    for _ in 0..2 {
        assert!(client.services()?.is_empty() && client.snapshot()?.services.is_empty());
        limited(client.connections().expect_err("none is free"));
        limited(client.totals().expect_err("none is free"));
        limited(client.cpu_totals().expect_err("none is free"));
        limited(client.sysctls().expect_err("none is free"));
        limited(client.sysctl(Sysctl::CONNTRACK).expect_err("none is free"));
        limited(client.set_sysctl(Sysctl::CONNTRACK, true).expect_err("none is free"));
    }
    drop(held);
    assert_eq!(client.connections()?.count(), 0);
    assert!(!client.sysctl(Sysctl::CONNTRACK)?);
    client.totals()?;
    // Its namespace is held by now, so that it is found from another one.
    client.set_sysctl(Sysctl::CONNTRACK, true)?;
    let elsewhere = NetNs::new()?.run(|| {
        let found = client.sysctl(Sysctl::CONNTRACK)?;
        Ok::<_, Error>(found && client.connections()?.count() == 0)
    })?;
    assert!(elsewhere?);
    client.set_sysctl(Sysctl::CONNTRACK, false)?;
    Ok(())
}

/// As in an unprivileged container.
fn settings_read_only() -> Outcome {
    let client = blocking::Client::connect()?;
    let before = client.sysctl(Sysctl::CONNTRACK)?;
    make_read_only("/proc/sys")?;
    assert_eq!(client.sysctl(Sysctl::CONNTRACK)?, before);
    let error = client.set_sysctl(Sysctl::CONNTRACK, !before).expect_err("read-only");
    assert_eq!((error.kind(), error.errno()), (ErrorKind::ReadOnly, Some(30)), "{error}");
    assert!(error.to_string().contains("read-only"), "{error}");
    Ok(())
}

/// If a setting fails, the changes before it are returned, and can be undone.
fn one_setting_read_only() -> Outcome {
    let client = blocking::Client::connect()?;
    let before = client.sysctls()?;
    make_read_only("/proc/sys/net/ipv4/vs/expire_quiescent_template")?;
    let error = client.set_kube_proxy_sysctls().expect_err("one is read-only");
    assert_eq!(error.error.kind(), ErrorKind::ReadOnly, "{error}");
    let changed: Vec<_> = error.changed.iter().map(ToString::to_string).collect();
    assert_eq!(changed, ["net.ipv4.vs.conntrack = 1", "net.ipv4.vs.expire_nodest_conn = 1"]);
    let text = error.to_string();
    assert!(text.contains("changed before that: net.ipv4.vs.conntrack = 1 (it was 0), "), "{text}");
    assert!(client.sysctl(Sysctl::CONNTRACK)?);
    client.restore_sysctls(&error.changed)?;
    assert_eq!(client.sysctls()?, before);
    Ok(())
}

fn make_read_only(path: &str) -> Outcome {
    let mount =
        std::process::Command::new("mount").args(["--bind", "-o", "ro", path, path]).status()?;
    if mount.success() { Ok(()) } else { Err(format!("mount {path}: {mount}").into()) }
}

/// A capability is missing, and the error names it and no other.
fn refused<T>(capability: &str, result: Result<T, Error>) {
    let Err(error) = result else { panic!("it was allowed without {capability}") };
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    let text = error.to_string();
    assert!(text.contains(capability) && text.matches("CAP_").count() == 1, "{text}");
}
