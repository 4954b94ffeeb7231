//! NAT with real traffic: the walkthrough's topology, its paths, and the writes of `apply`.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use ipvs_client::packet::ServiceFlags;
use kernel_tests::{Outcome, block_on, needing};
use libtest_mimic::Trial;
use lvs::{Applied, RealServer, Table, VirtualService};
use testbed::Family;

use crate::scene::Scene;

/// Every case by its name.
pub(crate) fn cases() -> Vec<Trial> {
    let mut cases = Vec::new();
    for (family, suffix) in [(Family::Ipv4, "ipv4"), (Family::Ipv6, "ipv6")] {
        let mut case = |name: &str, run: fn(Family) -> Outcome| {
            cases.push(Trial::test(format!("nat_{name}_{suffix}"), move || run(family)));
        };
        case("from_host_and_container", |family| block_on(from_host_and_container(family)));
        case("without_bridge_filter", |family| block_on(without_bridge_filter(family)));
        case("apply_twice_writes_nothing", |family| block_on(apply_twice_writes_nothing(family)));
        case("apply_changes_what_differs", |family| block_on(apply_changes_what_differs(family)));
    }
    let table =
        Trial::test("nat_table_as_ipvsadm_prints_it", || block_on(table_as_ipvsadm_prints_it()));
    cases.push(needing(&[("ipvsadm", "ipvsadm")], table));
    cases
}

async fn from_host_and_container(family: Family) -> Outcome {
    let scene = Scene::new(family).await?;
    scene.host.forward()?;
    scene.host.filter_bridge()?;
    scene.service("rr").apply(&scene.client).await?;
    let both = BTreeMap::from([("pod1".to_owned(), 4), ("pod2".to_owned(), 4)]);
    assert_eq!(scene.fetch(scene.host.namespace(), 8).await?, both);
    assert_eq!(scene.fetch(scene.container.namespace(), 8).await?, both);
    for entry in scene.client.destinations(scene.service("rr").key()).await?.all()? {
        let connections = entry.active_connections + entry.inactive_connections;
        assert_eq!(connections, 8, "{entry:?}");
    }
    Ok(())
}

/// The walkthrough leaves this to docker: without br_netfilter, a pod's answer to a client on
/// its own bridge bypasses IPVS, and the client does not know its sender.
async fn without_bridge_filter(family: Family) -> Outcome {
    let scene = Scene::new(family).await?;
    scene.host.forward()?;
    // It is on if the module was loaded before the namespace was made.
    scene.host.unfilter_bridge()?;
    scene.service("rr").apply(&scene.client).await?;
    assert_eq!(scene.fetch(scene.host.namespace(), 2).await?.len(), 2);
    let short = Duration::from_millis(500);
    let from = scene.container.namespace();
    let error = testbed::http_get(from, scene.address, short).await;
    assert!(error.is_err_and(|error| error.is_timeout()));
    Ok(())
}

async fn apply_twice_writes_nothing(family: Family) -> Outcome {
    let scene = Scene::new(family).await?;
    let service = scene.service("wlc");
    let changes = lines(service.apply(&scene.client).await?);
    let key = service.key();
    let mut expected = vec![format!("+ {key} -s wlc")];
    expected.extend(
        service
            .destinations()
            .iter()
            .map(|destination| format!("+ {key} -> {} -m -w 1", destination.key)),
    );
    assert_eq!(changes, expected);
    assert!(service.apply(&scene.client).await?.is_empty());
    // Traffic does not change that.
    scene.fetch(scene.host.namespace(), 4).await?;
    assert!(service.apply(&scene.client).await?.is_empty());
    assert!(service.delete(&scene.client).await?);
    assert!(!service.delete(&scene.client).await?);
    assert!(scene.client.services().await?.is_empty());
    Ok(())
}

async fn apply_changes_what_differs(family: Family) -> Outcome {
    let scene = Scene::new(family).await?;
    scene.service("wlc").apply(&scene.client).await?;
    let [first, second] = &scene.pods;
    let key = *scene.service("wlc").key();
    let changed = VirtualService::tcp(scene.address)
        .scheduler("rr")
        .persistent()
        .real_server(RealServer::nat((first.address(), 80).into()).weight(3))
        .real_server(RealServer::nat((first.address(), 81).into()))
        .build()?;
    let [first, second] = [first.address(), second.address()];
    let at = SocketAddr::new;
    assert_eq!(
        lines(changed.apply(&scene.client).await?),
        [
            format!("~ {key} scheduler wlc -> rr, persistence none -> 360 s"),
            format!("~ {key} -> {} weight 1 -> 3", at(first, 80)),
            format!("+ {key} -> {} -m -w 1", at(first, 81)),
            format!("- {key} -> {}", at(second, 80)),
        ]
    );
    assert!(changed.apply(&scene.client).await?.is_empty());
    // An edit changes NAT to direct routing: the address and the port stay the same.
    let direct = VirtualService::tcp(scene.address)
        .scheduler("rr")
        .persistent()
        .real_server(RealServer::direct(first).weight(3))
        .build()?;
    let change = format!("~ {key} -> {} forwarding masquerade -> direct routing", at(first, 80));
    assert_eq!(lines(direct.apply(&scene.client).await?)[0], change);
    assert!(direct.apply(&scene.client).await?.is_empty());
    Ok(())
}

/// The changes that an apply made.
fn lines(applied: Applied) -> Vec<String> {
    applied.into_iter().map(|change| change.to_string()).collect()
}

/// Our table equals that of the installed ipvsadm.
async fn table_as_ipvsadm_prints_it() -> Outcome {
    let scene = Scene::new(Family::Ipv4).await?;
    let persistent = Duration::from_secs(360);
    let services = [
        scene.service("wlc"),
        VirtualService::udp("10.0.0.185:53".parse()?)
            .one_packet()
            .real_server(RealServer::nat("172.17.0.3:5353".parse()?).weight(65535))
            .build()?,
        VirtualService::tcp("10.0.0.185:443".parse()?)
            .persistent_for(persistent)
            .netmask(24)
            .real_server(RealServer::direct("172.17.0.3".parse()?).weight(0))
            .build()?,
        VirtualService::udp("10.0.0.185:5060".parse()?).persistent().engine("sip").build()?,
        VirtualService::tcp("[2001:db8::185]:80".parse()?)
            .scheduler("mh")
            .persistent()
            .netmask(64)
            .real_server(RealServer::tunnel("2001:db8::3".parse()?))
            // (ipvsadm sorts addresses wrongly if they are far apart.)
            .real_server(RealServer::tunnel("10.17.0.3".parse()?))
            .build()?,
        VirtualService::sctp("10.0.0.185:5060".parse()?)
            .scheduler("sh")
            .scheduler_flags(ServiceFlags::SH_FALLBACK | ServiceFlags::SH_PORT)
            .build()?,
        VirtualService::tcp("10.0.0.185:8080".parse()?)
            .scheduler("mh")
            .scheduler_flags(ServiceFlags::MH_PORT)
            .build()?,
        VirtualService::tcp("10.0.0.185:8081".parse()?)
            .scheduler("rr")
            .scheduler_flags(ServiceFlags::SCHEDULER_1 | ServiceFlags::SCHEDULER_3)
            .persistent()
            .build()?,
        VirtualService::firewall_mark(10)
            .real_server(RealServer::nat("172.17.0.4:8080".parse()?))
            .build()?,
        VirtualService::firewall_mark_ipv6(10).build()?,
    ];
    for service in &services {
        service.apply(&scene.client).await?;
    }
    scene.fetch(scene.host.namespace(), 3).await?;
    let ours = Table::read(&scene.client).await?.to_string();
    let theirs = testbed::run(scene.host.namespace(), "ipvsadm", &["ipvsadm", "-Ln"])?;
    assert_eq!(ours, theirs, "\nours:\n{ours}\nipvsadm's:\n{theirs}");
    Ok(())
}
