//! What a Service can choose for itself, by annotations.
//!
//! | annotation | value | default |
//! |---|---|---|
//! | `lvs-kube-proxy/scheduler` | the name of a scheduler: `rr`, `wrr`, `lc`, `wlc`, `sh`, `mh`, … | the proxy's |
//! | `lvs-kube-proxy/scheduler-flags` | of `sh-port`, `sh-fallback`, `mh-port`, `mh-fallback`, divided by commas | `mh-port` with the scheduler `mh`, else none |
//! | `lvs-kube-proxy/forwarding` | `masquerade`, `direct` or `tunnel` | `masquerade` |
//! | `lvs-kube-proxy/weights` | `WHAT=WEIGHT`, divided by commas; WHAT is an address, a network, `node:NAME` or `zone:NAME`, WEIGHT is 0 to 65535 | 1 for every endpoint |
//! | `lvs-kube-proxy/drain-limit` | the longest that endpoints which leave may keep their TCP connections: `30s`, `10m`, `0` | the proxy's `--drain-limit`, or until the pod has ended |
//!
//! The first entry of `weights` that fits an endpoint counts. `direct` and `tunnel` leave ports as
//! they are, so endpoints with another port than the address that clients use (node ports, most
//! often) are masqueraded all the same.
//!
//! A wrong value is a notice, and the default is taken: it never costs the service. Schedulers are those
//! that `--allow-schedulers` names, since the kernel loads a module for a name that it does not know.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use ipnet::IpNet;
use lvs::client::packet::{SchedulerName, ServiceFlags};

use crate::{config::GoDuration, object::Labels, settings::Settings};

/// The annotation for the scheduler.
pub(crate) const SCHEDULER: &str = "lvs-kube-proxy/scheduler";
/// The annotation for the scheduler's flags.
pub(crate) const SCHEDULER_FLAGS: &str = "lvs-kube-proxy/scheduler-flags";
/// The annotation for the forwarding method.
pub(crate) const FORWARDING: &str = "lvs-kube-proxy/forwarding";
/// The annotation for the weights.
pub(crate) const WEIGHTS: &str = "lvs-kube-proxy/weights";

/// The annotation for the longest drain.
pub(crate) const DRAIN_LIMIT: &str = "lvs-kube-proxy/drain-limit";

/// All annotations that there are.
pub(crate) const KNOWN: [&str; 5] = [SCHEDULER, SCHEDULER_FLAGS, FORWARDING, WEIGHTS, DRAIN_LIMIT];

/// The greatest weight that an annotation can give. Weights are multiplied in some schedulers.
const MAX_WEIGHT: u32 = 65_535;
/// The most entries that one annotation can have: each is held against every endpoint.
const MAX_WEIGHTS: usize = 1_000;

/// How a service is balanced.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    pub(crate) scheduler: String,
    pub(crate) flags: ServiceFlags,
    pub(crate) forwarding: Forwarding,
    weights: Vec<(Selector, u32)>,
    pub(crate) drain_limit: Option<Duration>,
}

/// How packets reach an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forwarding {
    Masquerade,
    Direct,
    Tunnel,
}

#[derive(Clone, Debug)]
enum Selector {
    Network(IpNet),
    Node(String),
    Zone(String),
}

impl Choice {
    /// Reads a service's annotations. What is wrong with them is said in `notices`.
    pub(crate) fn read(
        annotations: &Labels,
        settings: &Settings,
        notices: &mut Vec<String>,
    ) -> Self {
        let value = |name: &str| match settings.ignore_annotations {
            true => None,
            false => annotations.get(name).map(str::trim),
        };
        let mut wrong = |name: &str, value: &str, reason: &str| {
            notices.push(format!("annotation {name}: {value:?} {reason}; the default is used"));
        };

        let mut scheduler = settings.scheduler.clone();
        if let Some(name) = value(SCHEDULER) {
            if !is_scheduler_name(name) {
                wrong(SCHEDULER, name, "is not the name of a scheduler");
            } else if !settings.allowed_schedulers.contains(name) {
                wrong(SCHEDULER, name, "is not one of --allow-schedulers");
            } else if settings.refused_schedulers.contains(name) {
                wrong(SCHEDULER, name, "is not a scheduler of this node's kernel");
            } else {
                name.clone_into(&mut scheduler);
            }
        }

        let default_flags = match scheduler.as_str() {
            "mh" => ServiceFlags::MH_PORT,
            _ => ServiceFlags::empty(),
        };
        let flags = match value(SCHEDULER_FLAGS) {
            None => default_flags,
            Some(text) => flags(text, &scheduler).unwrap_or_else(|reason| {
                wrong(SCHEDULER_FLAGS, text, reason);
                default_flags
            }),
        };

        let forwarding = match value(FORWARDING) {
            None | Some("masquerade") => Forwarding::Masquerade,
            Some("direct") => Forwarding::Direct,
            Some("tunnel") => Forwarding::Tunnel,
            Some(text) => {
                wrong(FORWARDING, text, "is not masquerade, direct or tunnel");
                Forwarding::Masquerade
            }
        };

        let weights = match value(WEIGHTS) {
            None => Vec::new(),
            Some(text) => weights(text).unwrap_or_else(|reason| {
                wrong(WEIGHTS, text, reason);
                Vec::new()
            }),
        };
        let drain_limit = value(DRAIN_LIMIT).and_then(|text| match text.parse::<GoDuration>() {
            Ok(limit) => Some(limit.0),
            Err(_) => {
                wrong(DRAIN_LIMIT, text, "is not a duration such as 30s or 10m");
                None
            }
        });
        Self { scheduler, flags, forwarding, weights, drain_limit }
    }

    /// The weight of an endpoint.
    pub(crate) fn weight(&self, address: IpAddr, node: Option<&str>, zone: Option<&str>) -> u32 {
        let fits = |selector: &Selector| match selector {
            Selector::Network(network) => network.contains(&address),
            Selector::Node(name) => node == Some(name),
            Selector::Zone(name) => zone == Some(name),
        };
        self.weights.iter().find(|(selector, _)| fits(selector)).map_or(1, |(_, weight)| *weight)
    }
}

fn flags(text: &str, scheduler: &str) -> Result<ServiceFlags, &'static str> {
    let mut flags = ServiceFlags::empty();
    for name in words(text) {
        let (owner, flag) = match name {
            "sh-port" => ("sh", ServiceFlags::SH_PORT),
            "sh-fallback" => ("sh", ServiceFlags::SH_FALLBACK),
            "mh-port" => ("mh", ServiceFlags::MH_PORT),
            "mh-fallback" => ("mh", ServiceFlags::MH_FALLBACK),
            _ => return Err("is not of sh-port, sh-fallback, mh-port and mh-fallback"),
        };
        if owner != scheduler {
            return Err("is for another scheduler");
        }
        flags |= flag;
    }
    Ok(flags)
}

fn weights(text: &str) -> Result<Vec<(Selector, u32)>, &'static str> {
    let entry = |word: &str| {
        let (what, weight) = word.rsplit_once('=').ok_or("lacks a weight: WHAT=WEIGHT")?;
        let selector = match what.trim().split_once(':') {
            Some(("node", name)) => Selector::Node(name.to_owned()),
            Some(("zone", name)) => Selector::Zone(name.to_owned()),
            _ => Selector::Network(network(what.trim()).ok_or(
                "names something that is neither an address, a network, node:NAME nor zone:NAME",
            )?),
        };
        match weight.trim().parse() {
            Ok(weight) if weight <= MAX_WEIGHT => Ok((selector, weight)),
            _ => Err("has a weight that is not 0 to 65535"),
        }
    };
    if words(text).nth(MAX_WEIGHTS).is_some() {
        return Err("has more than 1000 entries");
    }
    words(text).map(entry).collect()
}

/// An address or a network.
fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

/// The schedulers that come with Linux.
pub(crate) fn kernels_schedulers() -> BTreeSet<String> {
    SchedulerName::ALL.iter().map(ToString::to_string).collect()
}

/// Whether a text can be the name of a scheduler. The kernel loads the module `ip_vs_NAME` for it, so
/// the names of other modules are none.
pub(crate) fn is_scheduler_name(text: &str) -> bool {
    let is_of_modules = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let is_other = text == "ftp" || text.starts_with("pe_") || text.starts_with("pe-");
    SchedulerName::new(text).is_ok()
        && !text.is_empty()
        && text.chars().all(is_of_modules)
        && !is_other
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(annotations: &[(&str, &str)]) -> (Choice, Vec<String>) {
        let annotations = annotations.iter().copied();
        let mut notices = Vec::new();
        let choice = Choice::read(&annotations.collect(), &Settings::default(), &mut notices);
        (choice, notices)
    }

    #[track_caller]
    fn wrong(name: &str, value: &str) {
        let (choice, notices) = read(&[(name, value)]);
        assert_eq!(notices.len(), 1, "{notices:?}");
        let shown = format!("{value:?}");
        assert!(notices[0].contains(name) && notices[0].contains(&shown), "{notices:?}");
        let (default, none) = read(&[]);
        assert_eq!(none, [""; 0]);
        assert_eq!(format!("{choice:?}"), format!("{default:?}"));
    }

    #[test]
    fn schedulers_and_flags() {
        let (choice, notices) = read(&[(SCHEDULER, " sh "), (SCHEDULER_FLAGS, "sh-port")]);
        assert_eq!((choice.scheduler.as_str(), choice.flags), ("sh", ServiceFlags::SH_PORT));
        assert_eq!(notices, [""; 0]);
        // As kube-proxy does for mh, unless the service says otherwise.
        assert_eq!(read(&[(SCHEDULER, "mh")]).0.flags, ServiceFlags::MH_PORT);
        assert_eq!(read(&[(SCHEDULER, "mh"), (SCHEDULER_FLAGS, "")]).0.flags.bits(), 0);
        wrong(SCHEDULER, "");
        wrong(SCHEDULER, "a-name-of-16-byt");
        // The last ones are names of other modules.
        for text in ["wrr, rr", "a b", "a\nb", "rr;", "r\u{e9}", "nosuch", "ftp", "pe_sip"] {
            wrong(SCHEDULER, text);
        }
        wrong(SCHEDULER_FLAGS, "sh-port");
        wrong(SCHEDULER_FLAGS, "fast");
    }

    /// The operator decides which schedulers Services may choose, and whether they choose at all.
    #[test]
    fn schedulers_that_are_allowed() {
        let read = |settings: &Settings, name: &str| {
            let mut notices = Vec::new();
            let annotations = [(SCHEDULER, name), (WEIGHTS, "10.42.1.5=7")];
            let choice = Choice::read(&annotations.into_iter().collect(), settings, &mut notices);
            (choice.scheduler, choice.weights.len(), notices.len())
        };
        let few = Settings {
            allowed_schedulers: ["wlc".to_owned(), "own".to_owned()].into(),
            ..Settings::default()
        };
        assert_eq!(read(&few, "wlc"), ("wlc".to_owned(), 1, 0));
        assert_eq!(read(&few, "own"), ("own".to_owned(), 1, 0));
        assert_eq!(read(&few, "lc"), ("rr".to_owned(), 1, 1));
        let none = Settings { ignore_annotations: true, ..Settings::default() };
        assert_eq!(read(&none, "wlc"), ("rr".to_owned(), 0, 0));
        assert_eq!(read(&none, "ftp"), ("rr".to_owned(), 0, 0));
    }

    #[test]
    fn weights_by_address_node_and_zone() {
        let (choice, notices) =
            read(&[(WEIGHTS, "10.42.1.5=7, node:node-b=0,zone:z2=3,10.42.0.0/16=2,fd42::/16=9")]);
        assert_eq!(notices, [""; 0]);
        let weight =
            |address: &str, node, zone| choice.weight(address.parse().unwrap(), node, zone);
        assert_eq!(weight("10.42.1.5", Some("node-b"), None), 7);
        assert_eq!(weight("10.42.1.6", Some("node-b"), Some("z2")), 0);
        assert_eq!(weight("10.42.1.6", Some("node-c"), Some("z2")), 3);
        assert_eq!(weight("10.42.1.6", None, None), 2);
        assert_eq!(weight("10.43.1.6", None, None), 1);
        assert_eq!(weight("fd42::1", None, None), 9);
        wrong(WEIGHTS, &"10.42.1.5=7,".repeat(MAX_WEIGHTS + 1));
        for text in ["3", "=3", "a=3", "10.0.0.0/33=1", "10.0.0.1=-1", "10.0.0.1=65536", "node:a"] {
            wrong(WEIGHTS, text);
        }
    }

    #[test]
    fn forwarding() {
        assert_eq!(read(&[(FORWARDING, "direct")]).0.forwarding, Forwarding::Direct);
        wrong(FORWARDING, "dsr");
    }

    #[test]
    fn drain_limits() {
        let limit = |text: &str| read(&[(DRAIN_LIMIT, text)]).0.drain_limit;
        assert_eq!(limit("10m"), Some(Duration::from_secs(600)));
        assert_eq!(limit("0"), Some(Duration::ZERO));
        for text in ["", "-1s", "for ever"] {
            wrong(DRAIN_LIMIT, text);
        }
    }
}
