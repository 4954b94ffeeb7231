//! Strategies for property tests (feature `proptest`): small worlds, in which tables and what they
//! should be have much in common.

use std::time::Duration;

use ipvs_client::packet::{
    Destination, DestinationKey, ForwardMethod, Request, SchedulerName, Service, ServiceFlags,
    ServiceKey, Thresholds, Tunnel, TunnelFlags, Weight,
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::{
    Desired, Encapsulation, RealServer, VirtualService, VirtualServiceBuilder, model::Kernel,
};

/// Few keys, of every kind.
pub fn service_key() -> BoxedStrategy<ServiceKey> {
    let keys = [
        "-t 10.0.0.185:80",
        "-t 10.0.0.185:443",
        "-u 10.0.0.185:53",
        "--sctp-service 10.0.0.185:5060",
        "-t [2001:db8::185]:80",
        "-f 1",
        "-f 1 -6",
    ];
    select(keys.map(|key| key.parse().expect("a key")).to_vec()).boxed()
}

/// Few real servers that fit a service; of one address, now and then with another forwarding method,
/// weight or thresholds.
pub fn real_server(service: &ServiceKey) -> BoxedStrategy<RealServer> {
    let (ipv6, port) = match service {
        ServiceKey::Address { address, port, .. } => (address.is_ipv6(), *port),
        ServiceKey::Mark { family, .. } => (*family == ipvs_client::packet::AddressFamily::Ipv6, 0),
    };
    let address = (1..=5u8, any::<bool>()).prop_map(move |(host, other)| match ipv6 {
        false if other => DestinationKey { address: [10, 1, 0, host].into(), port: 8080 },
        false => DestinationKey { address: [10, 1, 0, host].into(), port },
        true => {
            let address = std::net::Ipv6Addr::from(0xfd << 120 | u128::from(host)).into();
            DestinationKey { address, port }
        }
    });
    let weight = prop_oneof![2 => Just(0), 3 => Just(1), 1 => 2..9u32];
    let thresholds = prop_oneof![4 => Just((0, 0)), 1 => (5..9u32, 0..=5u32)];
    let encapsulation = select(vec![
        Encapsulation::IPIP,
        Encapsulation::gue(6080),
        Encapsulation::gue(6080).checksum(),
        Encapsulation::gre().checksum(),
    ]);
    (address, 0..6u8, weight, thresholds, encapsulation)
        .prop_map(|(key, method, weight, (upper, lower), encapsulation)| {
            let real_server = match method {
                0 => RealServer::direct(key.address),
                1 => RealServer::tunnel(key.address).encapsulation(encapsulation),
                _ => RealServer::nat((key.address, key.port).into()),
            };
            real_server.weight(weight).thresholds(upper, lower)
        })
        .boxed()
}

/// A valid service.
pub fn virtual_service() -> BoxedStrategy<VirtualService> {
    service_key()
        .prop_flat_map(|key| {
            (
                scheduler(),
                option::of((1..4u64, option::of(1..=32u8))),
                any::<bool>(),
                vec(real_server(&key), 0..6),
            )
                .prop_map(move |(scheduler, persistence, flag, real_servers)| {
                    let mut builder = VirtualService::builder(key).scheduler(scheduler.as_ref());
                    if let Some((minutes, netmask)) = persistence {
                        builder = builder.persistent_for(Duration::from_secs(60 * minutes));
                        if let Some(bits) = netmask {
                            builder = builder.netmask(bits);
                        }
                    }
                    if flag {
                        builder = builder.scheduler_flags(ServiceFlags::SCHEDULER_2);
                    }
                    with_unlike(builder, real_servers)
                })
        })
        .boxed()
}

/// A scheduler that schedules, and that older kernels have too.
fn scheduler() -> impl Strategy<Value = SchedulerName> {
    let common = |name: &SchedulerName| ![SchedulerName::NONE, SchedulerName::TWOS].contains(name);
    select(SchedulerName::ALL.iter().copied().filter(common).collect::<Vec<_>>())
}

/// Builds with those real servers that have addresses and ports of their own.
fn with_unlike(builder: VirtualServiceBuilder, real_servers: Vec<RealServer>) -> VirtualService {
    let mut service = builder.build().expect("it is valid without real servers");
    for real_server in real_servers {
        if let Ok(more) = service.to_builder().real_server(real_server).build() {
            service = more;
        }
    }
    service
}

/// A desired state.
pub fn desired() -> BoxedStrategy<Desired> {
    vec(virtual_service(), 0..6)
        .prop_map(|services| {
            let mut desired = Desired::new();
            for service in services {
                desired.insert(service);
            }
            desired
        })
        .boxed()
}

/// A request that changes services or destinations, now and then one that the kernel refuses.
pub fn request() -> BoxedStrategy<Request> {
    let service = || {
        (service_key(), service_settings()).prop_map(|(key, settings)| {
            let mut service = Service::new(key);
            let (scheduler, flags, mask, timeout) = settings;
            service.scheduler = scheduler;
            service.flags = flags;
            service.flags_mask = mask;
            service.timeout = timeout;
            service
        })
    };
    let destination =
        || (service_key(), destination()).prop_map(|(service, destination)| (service, destination));
    prop_oneof![
        4 => service().prop_map(Request::NewService),
        2 => service().prop_map(Request::SetService),
        1 => service_key().prop_map(Request::DeleteService),
        6 => destination().prop_map(|(key, destination)| Request::NewDestination(key, destination)),
        3 => destination().prop_map(|(key, destination)| Request::SetDestination(key, destination)),
        2 => destination()
            .prop_map(|(key, destination)| Request::DeleteDestination(key, destination.key)),
    ]
    .boxed()
}

fn service_settings() -> impl Strategy<Value = (SchedulerName, ServiceFlags, u32, u32)> {
    let scheduler = prop_oneof![
        8 => scheduler(),
        1 => Just(SchedulerName::NONE),
        1 => Just(SchedulerName::new("wrrr").expect("a name")),
    ];
    let flags = (0..0x40u32).prop_map(|bits| {
        ServiceFlags::from_bits_retain(bits) - ServiceFlags::HASHED - ServiceFlags::PERSISTENT
    });
    let mask = prop_oneof![3 => Just(u32::MAX), 1 => 0..0x40u32];
    (scheduler, flags, mask, 0..1000u32)
}

/// A destination, now and then one that the kernel refuses.
fn destination() -> BoxedStrategy<Destination> {
    let address = prop_oneof![
        6 => (1..=5u8).prop_map(|host| std::net::IpAddr::from([10, 1, 0, host])),
        3 => (1..=5u8).prop_map(|host| {
            std::net::Ipv6Addr::from(0xfd << 120 | u128::from(host)).into()
        }),
        1 => select(["224.0.0.1", "0.0.0.0", "255.255.255.255", "fe80::dead", "::", "ff02::1"]
            .map(|address| address.parse().expect("an address")).to_vec()),
    ];
    let weight = (0..4u16).prop_map(Weight::from);
    let thresholds = prop_oneof![4 => Just((0, 0)), 1 => (5..9u32, 0..=5u32)]
        .prop_map(|(upper, lower)| Thresholds::new(upper, lower).expect("in order"));
    let tunnel = select(vec![
        Tunnel::IPIP,
        Tunnel::gre(TunnelFlags::CHECKSUM),
        Tunnel::gue(std::num::NonZeroU16::MIN, TunnelFlags::empty()),
    ]);
    let port = select(vec![0, 80, 8080]);
    (address, port, 0..9u32, weight, thresholds, tunnel)
        .prop_map(|(address, port, forward, weight, thresholds, tunnel)| {
            let mut destination = Destination::new(DestinationKey { address, port });
            destination.forward = ForwardMethod(forward);
            destination.weight = weight;
            destination.thresholds = thresholds;
            destination.tunnel = tunnel;
            destination
        })
        .boxed()
}

/// A table that some requests have made, some connections in it.
pub fn kernel() -> BoxedStrategy<Kernel> {
    let requests = vec(request(), 0..60);
    let desired = option::weighted(0.7, desired());
    (requests, desired, vec(0..3u32, 40))
        .prop_map(|(requests, desired, connections)| {
            let mut kernel = Kernel::new();
            for service in desired.iter().flat_map(Desired::iter) {
                let _ = kernel.execute(&Request::NewService(service.service().clone()));
                for destination in service.destinations() {
                    let add = Request::NewDestination(*service.key(), destination.clone());
                    let _ = kernel.execute(&add);
                }
            }
            for request in requests {
                let _ = kernel.execute(&request);
            }
            let mut connections = connections.into_iter().cycle();
            for service in kernel.snapshot().services.values() {
                for entry in &service.destinations {
                    let (active, inactive) =
                        (connections.next().unwrap_or(0), connections.next().unwrap_or(0));
                    let (service, destination) =
                        (service.entry.service.key(), &entry.destination.key);
                    kernel.set_connections(service, destination, active, inactive);
                }
            }
            kernel
        })
        .boxed()
}
