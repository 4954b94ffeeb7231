//! The whole table, as `ipvsadm -L -n` prints it.

use std::fmt;

use ipvs_client::{
    Client, Error, ServiceSnapshot,
    packet::{AddressFamily, Info, Netmask, Service, ServiceFlags, ServiceKey},
};

/// All services with their destinations. It displays as `ipvsadm -L -n` prints it.
///
/// ```text
/// IP Virtual Server version 1.2.1 (size=4096)
/// Prot LocalAddress:Port Scheduler Flags
///   -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
/// TCP  10.0.0.185:80 wlc
///   -> 172.17.0.3:80                Masq    1      0          0
///   -> 172.17.0.4:80                Masq    1      0          0
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Table {
    /// The version of IPVS and the size of its connection table.
    pub info: Info,
    /// The services with their destinations, in ipvsadm's order: by family, protocol, address and
    /// port, and those of firewall marks last.
    pub services: Vec<ServiceSnapshot>,
}

impl Table {
    /// Reads the table.
    pub async fn read(client: &Client) -> Result<Self, Error> {
        let info = client.info().await?;
        let mut services: Vec<_> = client.snapshot().await?.services.into_values().collect();
        services.sort_by_key(|service| order(service.entry.service.key()));
        Ok(Self { info, services })
    }
}

fn order(key: &ServiceKey) -> impl Ord + use<> {
    let marked = matches!(key, ServiceKey::Mark { .. });
    let family = if marked { None } else { Some(key.family()) };
    (marked, family, *key)
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.info)?;
        writeln!(f, "Prot LocalAddress:Port Scheduler Flags")?;
        writeln!(f, "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn")?;
        for ServiceSnapshot { entry, destinations, .. } in &self.services {
            write_service(f, &entry.service)?;
            for entry in destinations {
                let destination = &entry.destination;
                let address = destination.key.to_string();
                writeln!(
                    f,
                    "  -> {address:<28} {:<7} {:<6} {:<10} {:<10}",
                    destination.forward,
                    destination.weight,
                    entry.active_connections,
                    entry.inactive_connections,
                )?;
            }
        }
        Ok(())
    }
}

fn write_service(f: &mut fmt::Formatter<'_>, service: &Service) -> fmt::Result {
    match *service.key() {
        ServiceKey::Address { protocol, address, port } => {
            write!(f, "{protocol:<4} {}", std::net::SocketAddr::new(address, port))?;
        }
        ServiceKey::Mark { mark, family: AddressFamily::Ipv4 } => write!(f, "FWM  {mark}")?,
        ServiceKey::Mark { mark, family: AddressFamily::Ipv6 } => write!(f, "FWM  {mark} IPv6")?,
    }
    write!(f, " {}", service.scheduler)?;
    write_scheduler_flags(f, service)?;
    if service.flags.contains(ServiceFlags::PERSISTENT) {
        write!(f, " persistent {}", service.timeout)?;
        match service.netmask() {
            mask if mask == Netmask::host(mask.family()) => {}
            mask => write!(f, " mask {mask}")?,
        }
        if let Some(engine) = service.engine {
            write!(f, " pe {engine}")?;
        }
    }
    if service.flags.contains(ServiceFlags::ONE_PACKET) {
        write!(f, " ops")?;
    }
    writeln!(f)
}

/// The scheduler's flags, by the names that they have for it: ` (sh-fallback,sh-port)`.
fn write_scheduler_flags(f: &mut fmt::Formatter<'_>, service: &Service) -> fmt::Result {
    let names: Vec<String> = service.scheduler_flag_names().collect();
    if names.is_empty() { Ok(()) } else { write!(f, " ({})", names.join(",")) }
}
