//! Which services build, and which rules the others break.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use ipvs_client::packet::{DestinationEntry, ForwardMethod, ServiceEntry, Tunnel, TunnelFlags};

use super::*;
use crate::Encapsulation;

fn http() -> VirtualServiceBuilder {
    VirtualService::tcp("10.0.0.185:80".parse().unwrap())
}

fn dns() -> VirtualServiceBuilder {
    VirtualService::udp("10.0.0.185:53".parse().unwrap())
}

fn every_port() -> VirtualServiceBuilder {
    VirtualService::tcp("10.0.0.185:0".parse().unwrap())
}

fn nat(address: &str) -> RealServer {
    RealServer::nat(address.parse().unwrap())
}

#[track_caller]
fn refused(builder: VirtualServiceBuilder, rule: Rule) {
    let invalid = builder.build().expect_err("it breaks a rule");
    let [violation] = invalid.violations() else { panic!("one violation: {invalid}") };
    assert_eq!(violation.rule(), rule, "{invalid}");
    let text = invalid.to_string();
    assert!(text.contains("service "), "{text}");
    assert!(text.ends_with(&format!(": {} ({})", rule.remedy(), rule.name())), "{text}");
}

#[test]
fn defaults_are_ipvsadms() {
    let service = http().real_server(nat("172.17.0.3:8080")).build().unwrap();
    assert_eq!(*service.service(), Service::new("-t 10.0.0.185:80".parse().unwrap()));
    assert_eq!(service.service().scheduler, SchedulerName::WLC);
    let expected = Destination::new("172.17.0.3:8080".parse().unwrap());
    assert_eq!(service.destinations(), [expected]);
}

#[test]
fn rules_of_the_service() {
    refused(every_port(), Rule::PortZeroNeedsPersistence);
    assert!(every_port().persistent().build().is_ok());
    for address in [
        "0.0.0.0:80",
        "[::]:80",
        "224.0.0.5:80",
        "239.1.1.1:80",
        "[ff02::5]:80",
        "255.255.255.255:80",
        "[::ffff:10.0.0.1]:80",
    ] {
        refused(VirtualService::tcp(address.parse().unwrap()), Rule::VirtualAddress);
    }
    for address in ["127.0.0.1:80", "240.0.0.1:80", "[fe80::1]:80", "[::10.0.0.1]:80"] {
        assert!(VirtualService::tcp(address.parse().unwrap()).build().is_ok(), "{address}");
    }
    refused(VirtualService::tcp("[fe80::9%3]:80".parse().unwrap()), Rule::Zone);
    let zoned = RealServer::nat("[fe80::9%3]:80".parse().unwrap());
    refused(VirtualService::tcp("[fe80::9]:80".parse().unwrap()).real_server(zoned), Rule::Zone);
    let other = "--protocol 47 10.0.0.185:80".parse().unwrap();
    refused(VirtualService::builder(other), Rule::Protocol);
    refused(VirtualService::firewall_mark(0), Rule::MarkIsZero);
    refused(VirtualService::firewall_mark_ipv6(0), Rule::MarkIsZero);
    assert!(VirtualService::firewall_mark(u32::MAX).build().is_ok());
    refused(http().one_packet(), Rule::OnePacketNeedsUdp);
    assert!(dns().one_packet().build().is_ok());
    assert!(VirtualService::firewall_mark(1).one_packet().build().is_ok());
    refused(http().scheduler(""), Rule::Name);
    for name in ["a-name-of-16-byt", "w rr", " wrr", "wrr\n", "w\0rr"] {
        refused(http().scheduler(name), Rule::Name);
    }
    refused(http().scheduler("none"), Rule::SchedulerNone);
    assert!(http().scheduler("a-name-of-15-by").build().is_ok());
}

#[test]
fn rules_of_persistence() {
    for timeout in [
        Duration::ZERO,
        Duration::from_millis(1500),
        MAX_PERSISTENCE + Duration::from_secs(1),
        Duration::MAX,
    ] {
        refused(http().persistent_for(timeout), Rule::PersistenceTimeout);
    }
    let longest = http().persistent_for(MAX_PERSISTENCE).build().unwrap();
    assert_eq!(longest.service().timeout, 2_678_400);
    assert!(longest.service().flags.contains(ServiceFlags::PERSISTENT));
    assert_eq!(http().persistent().build().unwrap().service().timeout, 360);

    refused(http().netmask(24), Rule::NetmaskNeedsPersistence);
    refused(http().persistent().netmask(33), Rule::Netmask);
    let masked = http().persistent().netmask(24).build().unwrap();
    assert_eq!(masked.service().netmask().to_string(), "255.255.255.0");
    let ipv6 = || VirtualService::tcp("[2001:db8::1]:80".parse().unwrap()).persistent();
    refused(ipv6().netmask(0), Rule::Netmask);
    refused(ipv6().netmask(129), Rule::Netmask);
    assert!(ipv6().netmask(64).build().is_ok());

    refused(dns().engine("sip"), Rule::EngineNeedsPersistence);
    refused(http().persistent().engine("sip"), Rule::SipNeedsUdp);
    refused(dns().persistent().engine(""), Rule::Name);
    assert!(dns().persistent().engine("sip").build().is_ok());
}

#[test]
fn rules_of_real_servers() {
    let too_heavy = nat("172.17.0.3:80").weight(i32::MAX as u32 + 1);
    refused(http().real_server(too_heavy), Rule::Weight);
    assert!(http().real_server(nat("172.17.0.3:80").weight(i32::MAX as u32)).build().is_ok());
    assert!(http().real_server(nat("172.17.0.3:80").weight(0)).build().is_ok());
    for (upper, lower) in [(0, 1), (5, 6), (u32::MAX, 0)] {
        let real_server = nat("172.17.0.3:80").thresholds(upper, lower);
        refused(http().real_server(real_server), Rule::Thresholds);
    }
    assert!(http().real_server(nat("172.17.0.3:80").thresholds(6, 6)).build().is_ok());
    for address in ["0.0.0.0:80", "224.0.0.1:80", "255.255.255.255:80"] {
        refused(http().real_server(nat(address)), Rule::RealServerAddress);
    }
    refused(http().real_server(nat("[2001:db8::3]:80")), Rule::FamilyNeedsTunnel);
    let direct = |address: &str| RealServer::direct(address.parse().unwrap());
    refused(http().real_server(direct("2001:db8::3")), Rule::FamilyNeedsTunnel);
    let tunnel = || RealServer::tunnel("2001:db8::3".parse().unwrap());
    assert!(http().real_server(tunnel()).build().is_ok());
    let wrapped = |encapsulation| http().real_server(tunnel().encapsulation(encapsulation));
    refused(wrapped(Encapsulation::gue(0)), Rule::EncapsulationPort);
    refused(wrapped(Encapsulation::IPIP.checksum()), Rule::EncapsulationChecksum);
    refused(wrapped(Encapsulation::gre().remote_checksum()), Rule::EncapsulationChecksum);
    for encapsulation in [
        Encapsulation::IPIP,
        Encapsulation::gue(6080),
        Encapsulation::gue(6080).checksum().remote_checksum(),
        Encapsulation::gre().checksum(),
    ] {
        assert!(wrapped(encapsulation).build().is_ok(), "{encapsulation}");
    }
    let translated = nat("172.17.0.3:80").encapsulation(Encapsulation::gre());
    refused(http().real_server(translated), Rule::EncapsulationNeedsTunnel);
    refused(http().real_server(nat("172.17.0.3:0")), Rule::RealServerPortZero);
    assert!(every_port().persistent().real_server(nat("172.17.0.3:0")).build().is_ok());
    let two = [nat("172.17.0.3:80"), nat("172.17.0.3:80").weight(2)];
    let twice = http().real_servers(two);
    refused(twice.clone(), Rule::Duplicate);
    assert!(twice.build().unwrap_err().to_string().contains("weight 1 -> 2"));
    let alike = http().real_servers([nat("172.17.0.3:80"), nat("172.17.0.3:80")]);
    assert_eq!(alike.build().unwrap().destinations().len(), 1);
}

#[test]
fn every_violation_is_reported() {
    let invalid = every_port()
        .one_packet()
        .scheduler("w rr")
        .netmask(40)
        .real_server(nat("172.17.0.3:80").weight(u32::MAX).thresholds(1, 2))
        .real_server(nat("224.0.0.1:80"))
        .build()
        .unwrap_err();
    let rules: Vec<Rule> = invalid.violations().iter().map(Violation::rule).collect();
    assert_eq!(
        rules,
        [
            Rule::PortZeroNeedsPersistence,
            Rule::Name,
            Rule::OnePacketNeedsUdp,
            Rule::NetmaskNeedsPersistence,
            Rule::Netmask,
            Rule::Weight,
            Rule::Thresholds,
            Rule::RealServerAddress,
        ],
        "{invalid}"
    );
    assert_eq!(invalid.to_string().lines().count(), 8, "{invalid}");
    assert!(
        invalid.to_string().contains(
            "real server 172.17.0.3:80 of service -t 10.0.0.185:0: weight 4294967295: give a \
             weight of 0 to 2147483647 (weight)"
        ),
        "{invalid}"
    );
}

#[test]
fn names_of_rules_are_unique() {
    assert_eq!(Rule::PortZeroNeedsPersistence.name(), "port-zero-needs-persistence");
    let names: std::collections::BTreeSet<_> = Rule::ALL.iter().map(|rule| rule.name()).collect();
    assert_eq!(names.len(), Rule::ALL.len());
}

#[test]
fn what_was_built_is_built_again() {
    let service = VirtualService::udp("10.0.0.185:5060".parse().unwrap())
        .scheduler("mh")
        .scheduler_flags(ServiceFlags::MH_PORT)
        .persistent_for(Duration::from_secs(300))
        .netmask(24)
        .engine("sip")
        .one_packet()
        .real_server(nat("172.17.0.4:5061").weight(3).thresholds(9, 3))
        .real_server(nat("172.17.0.3:5061").weight(0))
        .real_server(
            RealServer::tunnel("2001:db8::3".parse().unwrap())
                .encapsulation(Encapsulation::gue(6080).checksum()),
        )
        .build()
        .unwrap();
    assert_eq!(service.to_builder().build().unwrap(), service);
    let mut entry = ServiceEntry::new(service.service().clone());
    // As the kernel reports it.
    entry.service.flags |= ServiceFlags::HASHED;
    let destinations =
        service.destinations().iter().rev().cloned().map(DestinationEntry::new).collect();
    let snapshot = ServiceSnapshot::new(entry, destinations);
    assert_eq!(VirtualService::try_from(&snapshot).unwrap(), service);
    let gue = Tunnel::gue(6080.try_into().unwrap(), TunnelFlags::CHECKSUM);
    assert!(service.destinations().iter().any(|destination| destination.tunnel == gue));
    let plain = service.to_builder().not_persistent().without_real_servers().build().unwrap();
    assert_eq!(plain.service().timeout, 0);
    assert!(plain.destinations().is_empty());
}

#[test]
fn what_the_kernel_stores_and_cannot_work_is_refused() {
    let service = Service::new("-t 10.0.0.185:80".parse().unwrap());
    let mut destination = Destination::new("172.17.0.3:8080".parse().unwrap());
    assert!(VirtualService::from_parts(&service, [&destination]).is_ok());
    let mut refused = |forward, rule| {
        destination.forward = forward;
        let invalid = VirtualService::from_parts(&service, [&destination]).unwrap_err();
        assert_eq!(invalid.violations()[0].rule(), rule, "{invalid}");
    };
    refused(ForwardMethod::DIRECT_ROUTE, Rule::RealServerPort);
    refused(ForwardMethod::TUNNEL, Rule::RealServerPort);
    refused(ForwardMethod::BYPASS, Rule::Forwarding);
    refused(ForwardMethod(6), Rule::Forwarding);
    // A marked packet keeps its port whatever is written there.
    let marked = Service::new("-f 1".parse().unwrap());
    destination.forward = ForwardMethod::DIRECT_ROUTE;
    assert!(VirtualService::from_parts(&marked, [&destination]).is_ok());
}

#[test]
fn direct_routing_and_tunnels_keep_the_port() {
    for real_server in [
        RealServer::direct("172.17.0.3".parse().unwrap()),
        RealServer::tunnel("172.17.0.3".parse().unwrap()),
    ] {
        let service = http().real_server(real_server.clone()).build().unwrap();
        assert_eq!(service.destinations()[0].key.to_string(), "172.17.0.3:80");
        let marked = VirtualService::firewall_mark(7).real_server(real_server).build().unwrap();
        assert_eq!(marked.destinations()[0].key.to_string(), "172.17.0.3:0");
    }
}

#[test]
fn scheduler_flags_are_the_schedulers() {
    for flag in [ServiceFlags::PERSISTENT, ServiceFlags::ONE_PACKET, ServiceFlags::HASHED] {
        refused(dns().scheduler_flags(flag | ServiceFlags::SH_PORT), Rule::SchedulerFlags);
    }
    let service = dns().one_packet().scheduler_flags(ServiceFlags::SH_PORT).build().unwrap();
    let expected = ServiceFlags::ONE_PACKET | ServiceFlags::SH_PORT;
    assert_eq!(service.service().flags.bits(), expected.bits());
}
