//! The rules in the language of `nft -f`.

use std::fmt::Write as _;

use ipnet::IpNet;
use lvs::client::packet::AddressFamily;

use super::{
    Inside, Rules, TABLE,
    elements::{Elements, PROTOCOLS, Set, family_of, ip},
};

/// The whole table, which takes the place of the one that is there, in one
/// step.
pub(super) fn ruleset(rules: &Rules, elements: &Elements) -> String {
    let mut text = format!("table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n");
    let families = [AddressFamily::Ipv4, AddressFamily::Ipv6];
    for family in families {
        for set in Set::ALL {
            write_set(&mut text, set, family, rules, elements);
        }
    }
    // After what others mark there; the kernel picks the service by the whole mark.
    text += "    chain prerouting {\n        type filter hook prerouting priority mangle + 10\n";
    for family in families {
        let ip = ip(family);
        if let Some(pods) = rules.inside.matches(family, true) {
            let _ = writeln!(
                text,
                "        {pods} meta mark set {ip} daddr . meta l4proto . th dport \
                 map @inside-{ip}"
            );
        }
    }
    text += "    }\n    chain output {\n        type filter hook output priority mangle + 10\n";
    for family in families {
        let ip = ip(family);
        let _ = writeln!(
            text,
            "        meta mark set {ip} daddr . meta l4proto . th dport map @inside-{ip}"
        );
    }
    // The node's own clients come by here only.
    text += &restrictions();
    text += "    }\n    chain postrouting {\n        type nat hook postrouting priority srcnat\n";
    for family in families {
        let ip = ip(family);
        let _ = writeln!(text, "        {ip} saddr . {ip} daddr @hairpin-{ip} masquerade");
        // The node's own connections to an address that is local for the sake of a service: the kernel
        // takes that address for their source, too.
        let _ =
            writeln!(text, "        {ip} saddr @addresses-{ip} fib saddr type local masquerade");
        // Who is masqueraded at cluster addresses.
        let clients = match rules.masquerade_all {
            true => Some(String::new()),
            false => rules.inside.matches(family, false).map(|clients| clients + " "),
        };
        for protocol in PROTOCOLS {
            let place = format!("ct original {ip} daddr . ct original proto-dst");
            let _ = writeln!(
                text,
                "        meta l4proto {protocol} {place} @masquerade-{ip}-{protocol} masquerade"
            );
            if let Some(clients) = &clients {
                let _ = writeln!(
                    text,
                    "        meta l4proto {protocol} {clients}{place} @cluster-{ip}-{protocol} \
                     masquerade"
                );
            }
        }
    }
    text += "    }\n    chain input {\n        type filter hook input priority filter\n";
    text += &restrictions();
    for family in families {
        let ip = ip(family);
        let others = match of_family(&rules.excluded, family) {
            None => String::new(),
            Some(excluded) => format!("{ip} daddr != {{ {excluded} }} "),
        };
        let _ = writeln!(
            text,
            "        meta l4proto {{ tcp, udp, sctp }} ct state new {others}{ip} daddr @addresses-{ip} \
             {ip} daddr . meta l4proto . th dport != @services-{ip} reject",
        );
    }
    text += "    }\n}\n";
    text
}

/// What lets only some clients in where only some are served.
fn restrictions() -> String {
    let mut text = String::new();
    for family in [AddressFamily::Ipv4, AddressFamily::Ipv6] {
        let ip = ip(family);
        for protocol in PROTOCOLS {
            let _ = writeln!(
                text,
                "        meta l4proto {protocol} {ip} daddr . meta l4proto . th dport @restricted-{ip} \
                 {ip} daddr . th dport . {ip} saddr != @allowed-{ip}-{protocol} drop",
            );
        }
    }
    text
}

/// The service ranges as elements of a set: without overlaps, which sets do not take.
pub(super) fn ranges(rules: &Rules) -> Vec<String> {
    IpNet::aggregate(&rules.ranges).iter().map(|range| range.trunc().to_string()).collect()
}

fn write_set(
    text: &mut String,
    set: Set,
    family: AddressFamily,
    rules: &Rules,
    elements: &Elements,
) {
    let ranges: Vec<_> = match set {
        Set::Addresses => ranges(rules),
        _ => Vec::new(),
    };
    let is_fit = |range: &&String| range.contains(':') == (family == AddressFamily::Ipv6);
    let ranges = ranges.iter().filter(is_fit).map(String::as_str);
    let mut all = ranges.chain(elements.of_set(set, family)).peekable();
    let _ = write!(text, "    {}", set.definition(family));
    if all.peek().is_some() {
        text.push_str(" elements = {\n");
        for element in all {
            let _ = writeln!(text, "        {element},");
        }
        text.push_str("    }");
    }
    text.push_str(" }\n");
}

/// The networks of one family as the elements of a set, if there are any.
fn of_family(networks: &[IpNet], family: AddressFamily) -> Option<String> {
    let fit = networks.iter().filter(|network| family_of(&network.addr()) == family);
    // Without overlaps, which sets do not take.
    let fit = IpNet::aggregate(&fit.map(IpNet::trunc).collect());
    let fit: Vec<_> = fit.iter().map(ToString::to_string).collect();
    (!fit.is_empty()).then(|| fit.join(", "))
}

impl Inside {
    /// What matches pods of a family, or what matches all others; `None` if it is not known.
    fn matches(&self, family: AddressFamily, is_inside: bool) -> Option<String> {
        let operator = if is_inside { "" } else { "!= " };
        match self {
            Self::Networks(networks) => {
                let networks = of_family(networks, family)?;
                Some(format!("{} saddr {operator}{{ {networks} }}", ip(family)))
            }
            Self::Link { name, is_prefix } => {
                let rest = if *is_prefix { "*" } else { "" };
                Some(format!("iifname {operator}\"{name}{rest}\""))
            }
        }
    }
}
