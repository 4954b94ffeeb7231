//! The service of a command line.

use std::num::NonZeroU32;

use ipvs_packet::{AddressFamily, Protocol, SchedulerName, Service, ServiceFlags, ServiceKey};

use super::draft::{Draft, is_service};
use crate::{
    options::{Opt, quoted},
    settings::SERVICE,
};

impl Draft<'_> {
    pub(super) fn service(&mut self, key: Option<ServiceKey>) -> Option<Service> {
        // Without a key its options are judged all the same.
        let any = ServiceKey::Mark { mark: NonZeroU32::MIN, family: AddressFamily::Ipv4 };
        let mut service = Service::new(key.unwrap_or(any));
        self.set(SERVICE, &mut service);
        if let Some(ServiceKey::Address { protocol, port, .. }) = key {
            if port == 0 && !service.flags.contains(ServiceFlags::PERSISTENT) {
                // What was warned of is why.
                let message = match self.warnings.first() {
                    Some(warning) => warning.message().to_owned(),
                    None => "port 0, which is every port, needs persistence: -p".to_owned(),
                };
                self.refuse(is_service, &message);
            }
            if service.flags.contains(ServiceFlags::ONE_PACKET) && protocol != Protocol::UDP {
                let message = "one-packet scheduling (-o) is for UDP and firewall marks";
                self.refuse(|option| option == Opt::ServiceFlag(ServiceFlags::ONE_PACKET), message);
            }
        }
        key.map(|_| service)
    }
}

/// A flag by its name. Those of a scheduler need that scheduler.
pub(crate) fn scheduler_flag(
    name: &str,
    scheduler: &SchedulerName,
) -> Result<ServiceFlags, String> {
    let (flag, of) = match name {
        "sh-fallback" => (ServiceFlags::SH_FALLBACK, SchedulerName::SH),
        "sh-port" => (ServiceFlags::SH_PORT, SchedulerName::SH),
        "mh-fallback" => (ServiceFlags::MH_FALLBACK, SchedulerName::MH),
        "mh-port" => (ServiceFlags::MH_PORT, SchedulerName::MH),
        _ => {
            let first = ServiceFlags::SCHEDULER_1.bits();
            let number = name.strip_prefix("flag-").and_then(|number| number.parse().ok());
            let bit = number.and_then(|number: u32| first.checked_shl(number.checked_sub(1)?));
            return bit.filter(|&bit| bit != 0).map(ServiceFlags::from_bits_retain).ok_or_else(
                || {
                    let names = "sh-fallback, sh-port, mh-fallback, mh-port, or flag-1 to flag-3";
                    format!("{} must be {names}", quoted(name))
                },
            );
        }
    };
    match of == *scheduler {
        true => Ok(flag),
        false => Err(format!("{} does not go with scheduler {scheduler}", quoted(name))),
    }
}
