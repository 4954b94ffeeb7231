//! What is in the sets, read from what `nft list table` prints.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use lvs::client::packet::AddressFamily;

use super::elements::{Element, Set};

/// The elements of the proxy's sets. What cannot be read is left out.
pub(super) fn elements(text: &str) -> BTreeSet<Element> {
    let mut elements = BTreeSet::new();
    for family in [AddressFamily::Ipv4, AddressFamily::Ipv6] {
        for set in Set::ALL {
            let name = set.name(family);
            let begin = [format!("set {name} {{"), format!("map {name} {{")];
            let Some(body) = begin.iter().find_map(|begin| text.split_once(begin.as_str())) else {
                continue;
            };
            // The first brace ends the list of elements, or a set without any.
            let (definition, _) = body.1.split_once('}').unwrap_or_default();
            let Some((_, list)) = definition.split_once("elements = {") else { continue };
            for text in list.split(',') {
                let words: Vec<&str> = text.split_whitespace().collect();
                elements.insert(Element { set, family, text: normal(set, &words) });
            }
        }
    }
    elements
}

/// An element in the proxy's spelling: nft writes marks with leading zeros, and a network of one address
/// without its length.
fn normal(set: Set, words: &[&str]) -> String {
    let mut text = words.join(" ");
    match set {
        Set::Inside => {
            if let Some((place, mark)) = text.rsplit_once(" : ")
                && let Some(digits) = mark.strip_prefix("0x")
                && let Ok(mark) = u32::from_str_radix(digits, 16)
            {
                text = format!("{place} : {mark:#x}");
            }
        }
        Set::Allowed(_) => {
            if let Some((place, client)) = text.rsplit_once(" . ")
                && let Ok(client) = client.parse::<IpAddr>()
            {
                text = format!("{place} . {}", IpNet::from(client));
            }
        }
        _ => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nft_prints() {
        let text = "\
table inet lvs-kube-proxy {
	set hairpin-ip {
		type ipv4_addr . ipv4_addr
		elements = { 10.42.1.5 . 10.42.1.5 }
	}

	set allowed-ip-tcp {
		type ipv4_addr . inet_service . ipv4_addr
		flags interval
		elements = { 203.0.113.50 . 80 . 198.51.100.0/24,
			     203.0.113.50 . 80 . 192.0.2.1 }
	}

	set services-ip {
		type ipv4_addr . inet_proto . inet_service
	}

	map inside-ip {
		type ipv4_addr . inet_proto . inet_service : mark
		elements = { 203.0.113.50 . tcp . 80 : 0x000a0b0c }
	}

	chain prerouting {
	}
}
";
        let found: Vec<String> = elements(text).iter().map(ToString::to_string).collect();
        let expected = [
            "hairpin-ip { 10.42.1.5 . 10.42.1.5 }",
            "allowed-ip-tcp { 203.0.113.50 . 80 . 192.0.2.1/32 }",
            "allowed-ip-tcp { 203.0.113.50 . 80 . 198.51.100.0/24 }",
            "inside-ip { 203.0.113.50 . tcp . 80 : 0xa0b0c }",
        ];
        assert_eq!(found, expected);
        assert!(elements("").is_empty() && elements("set services-ip {").is_empty());
    }
}
