//! The settings of a service.

use ipvs_packet::{EngineName, InvalidValue, Netmask, SchedulerName, Service, ServiceFlags};

use super::{OptionReader, Setting};
use crate::{
    Mistake,
    command::scheduler_flag,
    options::{
        Completion::Words,
        Given, Opt,
        OptionGroup::Service as Group,
        OptionUnit,
        OptionValue::{None as No, Optional as May, Required as Must},
        SET_SERVICE, mask, number, option, required, unit,
    },
};
#[cfg(feature = "serde")]
use {
    super::Field,
    crate::document::{Node, Reader},
    std::str::FromStr,
};

/// A flag that is on or off: what it is called, its field, what a listing shows where it is on.
macro_rules! flag {
    ($flag:expr, $name:literal, $field:literal, $listed:literal) => {
        Setting {
            name: $name,
            words: |service| if service.flags.contains($flag) { "on" } else { "off" }.to_owned(),
            is_same: |one, other| one.flags.contains($flag) == other.flags.contains($flag),
            listed: |service| service.flags.contains($flag).then_some($listed),
            option: Some(OptionReader {
                option: Opt::ServiceFlag($flag),
                read: |_, service| {
                    service.flags |= $flag;
                    Ok(())
                },
            }),
            #[cfg(feature = "serde")]
            field: Some(Field {
                name: $field,
                is_required: false,
                write: |service| service.flags.contains($flag).then_some(Node::Boolean(true)),
                read: |reader, node, service| {
                    if reader.boolean(node) == Some(true) {
                        service.flags |= $flag;
                    }
                },
            }),
        }
    };
}

/// The longest timeout that ipvsadm sets: 31 days, in seconds.
pub(crate) const LONGEST_TIMEOUT: i64 = 31 * 24 * 60 * 60;

/// How long persistence lasts if nothing is said, in seconds: as ipvsadm has it.
const DEFAULT_PERSISTENCE: u32 = 360;

pub(crate) const SERVICE: &[Setting<Service>] = &[
    Setting {
        name: "scheduler",
        words: |service| service.scheduler.to_string(),
        is_same: |one, other| one.scheduler == other.scheduler,
        listed: |_| None,
        option: Some(OptionReader {
            option: Opt::Scheduler,
            read: |given, service| {
                // As in ipvsadm, an empty name is none.
                if let Some(name) = name(given) {
                    service.scheduler = refused(given, SchedulerName::new(name))?;
                }
                Ok(())
            },
        }),
        #[cfg(feature = "serde")]
        field: Some(Field {
            name: "scheduler",
            is_required: false,
            write: |service| Some(Node::text(service.scheduler)),
            read: |reader, node, service| {
                let scheduler = reader.text(node, SchedulerName::from_str);
                service.scheduler = scheduler.unwrap_or(service.scheduler);
            },
        }),
    },
    Setting {
        name: "persistence",
        words: |service| persistence(service).map_or_else(|| "none".to_owned(), seconds),
        is_same: |one, other| persistence(one) == persistence(other),
        listed: |_| None,
        option: Some(OptionReader {
            option: Opt::Persistent,
            read: |given, service| {
                service.flags |= ServiceFlags::PERSISTENT;
                service.timeout = match &given.value {
                    Some(value) => {
                        number(value, "a timeout in seconds", 1, LONGEST_TIMEOUT)? as u32
                    }
                    None => DEFAULT_PERSISTENCE,
                };
                Ok(())
            },
        }),
        #[cfg(feature = "serde")]
        field: Some(Field {
            name: "persistence",
            is_required: false,
            write: write_persistence,
            read: read_persistence,
        }),
    },
    // It has no effect. It is compared all the same, so that every difference is described.
    Setting {
        name: "unused timeout",
        words: |service| seconds(service.timeout),
        is_same: |one, other| {
            one.timeout == other.timeout
                || persistence(one).is_some()
                || persistence(other).is_some()
        },
        listed: |_| None,
        option: None,
        #[cfg(feature = "serde")]
        field: None,
    },
    Setting {
        name: "netmask",
        words: |service| service.netmask().to_string(),
        is_same: |one, other| one.netmask() == other.netmask(),
        listed: |_| None,
        option: Some(OptionReader {
            option: Opt::Netmask,
            read: |given, service| {
                let text = required(given);
                let family = service.key().family();
                Netmask::from_text(family, text.text)
                    .and_then(|netmask| service.set_netmask(netmask))
                    .map_err(|error| Mistake::new(text.place, error.to_string()))
            },
        }),
        #[cfg(feature = "serde")]
        field: None,
    },
    Setting {
        name: "persistence engine",
        words: |service| service.engine.map_or_else(|| "none".to_owned(), |it| it.to_string()),
        is_same: |one, other| one.engine == other.engine,
        listed: |_| None,
        option: Some(OptionReader {
            option: Opt::Engine,
            read: |given, service| {
                if let Some(name) = name(given) {
                    service.engine = Some(refused(given, EngineName::new(name))?);
                }
                Ok(())
            },
        }),
        #[cfg(feature = "serde")]
        field: None,
    },
    flag!(ServiceFlags::ONE_PACKET, "one-packet scheduling", "one_packet", "ops"),
    Setting {
        name: "scheduler flags",
        words: |service| {
            let names = service.scheduler_flag_names().collect::<Vec<_>>().join(",");
            if names.is_empty() { "none".to_owned() } else { names }
        },
        // With another scheduler the same flags have another name.
        is_same: |one, other| scheduler_flags(one) == scheduler_flags(other),
        listed: |_| None,
        option: Some(OptionReader {
            option: Opt::SchedulerFlags,
            read: |given, service| {
                let text = required(given);
                for name in text.text.split(',').filter(|name| !name.is_empty()) {
                    let flag = scheduler_flag(name, &service.scheduler);
                    service.flags |= flag.map_err(|it| Mistake::new(text.place.clone(), it))?;
                }
                Ok(())
            },
        }),
        #[cfg(feature = "serde")]
        field: Some(Field {
            name: "scheduler_flags",
            is_required: false,
            write: |service| {
                let names: Vec<_> = service.scheduler_flag_names().map(Node::Text).collect();
                (!names.is_empty()).then_some(Node::List(names))
            },
            read: |reader, node, service| {
                for node in reader.list(node) {
                    let flag = reader.text(node, |text| scheduler_flag(text, &service.scheduler));
                    service.flags |= flag.unwrap_or_default();
                }
            },
        }),
    },
    Setting {
        name: "flags mask",
        words: |service| format!("{:#x}", service.flags_mask),
        is_same: |one, other| one.flags_mask == other.flags_mask,
        listed: |_| None,
        option: Some(OptionReader {
            option: Opt::FlagsMask,
            read: |given, service| {
                service.flags_mask = mask(&required(given), u32::MAX.into())? as u32;
                Ok(())
            },
        }),
        #[cfg(feature = "serde")]
        field: None,
    },
];

/// Their options.
#[rustfmt::skip]
pub(crate) const SERVICE_OPTIONS: &[OptionUnit] = &[
    unit(Opt::Scheduler, SET_SERVICE, option(Group, "scheduler", "s", Must("NAME"), "how real servers are chosen: rr, wrr, lc, wlc (the default), lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh").completed_by(Words("rr wrr lc wlc lblc lblcr dh sh sed nq fo ovf mh twos none"))),
    unit(Opt::Persistent, SET_SERVICE, option(Group, "persistent", "p", May("SECONDS"), "persistence: a client keeps its real server for this long after its last connection; 360 by default")),
    unit(Opt::Netmask, SET_SERVICE, option(Group, "netmask", "M", Must("NETMASK"), "clients with equal addresses under this netmask or prefix length share a real server with -p")),
    unit(Opt::Engine, SET_SERVICE, option(Group, "pe", "", Must("NAME"), "persistence engine, which identifies clients by the data that they send: sip").completed_by(Words("sip"))),
    unit(Opt::ServiceFlag(ServiceFlags::ONE_PACKET), SET_SERVICE, option(Group, "ops", "o", No, "one-packet scheduling: each packet on its own (UDP and firewall marks)")),
    unit(Opt::SchedulerFlags, SET_SERVICE, option(Group, "sched-flags", "b", Must("FLAGS"), "flags of the scheduler: sh-fallback, sh-port, mh-fallback, mh-port, flag-1 to flag-3").completed_by(Words("sh-fallback sh-port mh-fallback mh-port flag-1 flag-2 flag-3"))),
    unit(Opt::FlagsMask, SET_SERVICE, option(Group, "flags-mask", "", Must("BITS"), "mask of the flags that -E sets; the others stay (not in ipvsadm 1.31)")),
];

/// The value of an option that is a name, unless it is empty.
fn name<'a>(given: &'a Given<'_>) -> Option<&'a str> {
    given.value.as_ref().map(|value| value.text).filter(|text| !text.is_empty())
}

/// What the kernel would refuse.
fn refused<T>(given: &Given<'_>, value: Result<T, InvalidValue>) -> Result<T, Mistake> {
    value.map_err(|error| Mistake::refused(required(given).place, error.to_string()))
}

/// The timeout of a service that is persistent.
fn persistence(service: &Service) -> Option<u32> {
    service.flags.contains(ServiceFlags::PERSISTENT).then_some(service.timeout)
}

fn seconds(timeout: u32) -> String {
    format!("{timeout} s")
}

/// The flags that are no settings of their own and not the kernel's.
fn scheduler_flags(service: &Service) -> ServiceFlags {
    let kernels = ServiceFlags::PERSISTENT | ServiceFlags::HASHED;
    SERVICE.iter().fold(service.flags - kernels, |rest, setting| match &setting.option {
        Some(OptionReader { option: Opt::ServiceFlag(flag), .. }) => rest - *flag,
        _ => rest,
    })
}

#[cfg(feature = "serde")]
const PERSISTENCE: &[&str] = &["timeout", "netmask", "engine"];

#[cfg(feature = "serde")]
fn write_persistence(service: &Service) -> Option<Node> {
    let mut fields = vec![("timeout".to_owned(), Node::Number(persistence(service)?.into()))];
    let netmask = match service.netmask() {
        netmask if netmask == Netmask::host(service.key().family()) => None,
        Netmask::Ipv4(mask) => Some(Node::text(mask)),
        Netmask::Ipv6(prefix) => Some(Node::Number(prefix.get().into())),
    };
    fields.extend(netmask.map(|netmask| ("netmask".to_owned(), netmask)));
    fields.extend(service.engine.map(|engine| ("engine".to_owned(), Node::text(engine))));
    Some(Node::Fields(fields))
}

#[cfg(feature = "serde")]
fn read_persistence(reader: &mut Reader, (path, node): (String, Node), service: &mut Service) {
    let Some(mut fields) = reader.fields(path, node, PERSISTENCE) else { return };
    service.flags |= ServiceFlags::PERSISTENT;
    service.timeout = match fields.take("timeout") {
        Some(node) => reader.number(node, 0, u32::MAX).unwrap_or(0),
        None => DEFAULT_PERSISTENCE,
    };
    if let (Some(node), Some(family)) = (fields.take("netmask"), reader.family) {
        let netmask = reader.text_or_number(node, |text| Netmask::from_text(family, text));
        if let Some(netmask) = netmask {
            // Of the key's family by the way it was read.
            let _ = service.set_netmask(netmask);
        }
    }
    if let Some(node) = fields.take("engine") {
        service.engine = reader.text(node, EngineName::from_str);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheduler_is_offered() {
        let offered = SERVICE_OPTIONS.iter().find(|unit| unit.option == Opt::Scheduler);
        let names: Vec<_> = SchedulerName::ALL.iter().map(ToString::to_string).collect();
        let completion = offered.map(|unit| unit.described.completion);
        assert!(matches!(completion, Some(Words(words)) if words == names.join(" ")), "{names:?}");
    }
}
