//! The settings of a real server.

use ipvs_packet::{
    Destination, ForwardMethod, InvalidValue, Thresholds, Tunnel, TunnelFlags, Weight,
};

use super::{OptionReader, Setting, limit};
use crate::{
    Mistake,
    options::{
        Completion::Words,
        Given, Opt,
        OptionGroup::RealServer as Group,
        OptionUnit,
        OptionValue::{None as No, Required as Must},
        SET_SERVER, number, option, required, unit,
    },
};
#[cfg(feature = "serde")]
use {
    super::Field,
    crate::document::{Node, Reader},
    ipvs_packet::TunnelType,
    std::str::FromStr,
};

pub(crate) const REAL_SERVER: &[Setting<Destination>] = &[
    Setting {
        name: "forwarding",
        words: |server| match FORWARDING.iter().find(|(method, ..)| *method == server.forward) {
            Some((.., words)) => (*words).to_owned(),
            None => server.forward.0.to_string(),
        },
        is_same: |one, other| one.forward == other.forward,
        listed: |_| None,
        option: None,
        #[cfg(feature = "serde")]
        field: Some(Field {
            name: "forwarding",
            is_required: true,
            write: |server| {
                let known = FORWARDING.iter().find(|(method, ..)| *method == server.forward);
                let number = Node::Number(server.forward.0.into());
                Some(known.map_or(number, |(_, word, _)| Node::text(word)))
            },
            read: |reader, node, server| {
                let forward = reader.word_or_number(node, u32::MAX, ForwardMethod::from_str);
                server.forward = forward.unwrap_or(server.forward);
            },
        }),
    },
    Setting {
        name: "weight",
        words: |server| server.weight.to_string(),
        is_same: |one, other| one.weight == other.weight,
        listed: |_| None,
        option: Some(OptionReader {
            option: Opt::Weight,
            read: |given, server| {
                let weight = number(&required(given), "a weight", 0, Weight::MAX.get().into())?;
                server.weight = Weight::new(weight as u32).unwrap_or(server.weight);
                Ok(())
            },
        }),
        #[cfg(feature = "serde")]
        field: Some(Field {
            name: "weight",
            is_required: false,
            write: |server| Some(Node::Number(server.weight.get().into())),
            read: |reader, node, server| {
                let weight = reader.number(node, 0, Weight::MAX.get());
                server.weight = weight.and_then(|it| Weight::new(it).ok()).unwrap_or(server.weight);
            },
        }),
    },
    Setting {
        name: "upper threshold",
        words: |server| limit(server.thresholds.upper()),
        is_same: |one, other| one.thresholds.upper() == other.thresholds.upper(),
        listed: |_| None,
        option: Some(OptionReader {
            option: Opt::UpperThreshold,
            read: |given, server| {
                let upper = connections(given);
                // One that cannot be read is higher than any other.
                let known = *upper.as_ref().unwrap_or(&(i32::MAX as u32));
                set_thresholds(given, server, known, server.thresholds.lower())?;
                upper.map(|_| ())
            },
        }),
        #[cfg(feature = "serde")]
        field: Some(Field {
            name: "upper_threshold",
            is_required: false,
            write: |server| not_zero(server.thresholds.upper()),
            read: |reader, (path, node), server| {
                let lower = server.thresholds.lower();
                read_thresholds(reader, path, node, server, |upper| (upper, lower));
            },
        }),
    },
    // Behind the upper one, which must not be lower.
    Setting {
        name: "lower threshold",
        words: |server| limit(server.thresholds.lower()),
        is_same: |one, other| one.thresholds.lower() == other.thresholds.lower(),
        listed: |_| None,
        option: Some(OptionReader {
            option: Opt::LowerThreshold,
            read: |given, server| {
                let lower = connections(given)?;
                set_thresholds(given, server, server.thresholds.upper(), lower)
            },
        }),
        #[cfg(feature = "serde")]
        field: Some(Field {
            name: "lower_threshold",
            is_required: false,
            write: |server| not_zero(server.thresholds.lower()),
            read: |reader, (path, node), server| {
                let upper = server.thresholds.upper();
                read_thresholds(reader, path, node, server, |lower| (upper, lower));
            },
        }),
    },
    Setting {
        name: "encapsulation",
        words: |server| encapsulation(server.tunnel),
        is_same: |one, other| one.tunnel == other.tunnel,
        listed: |_| None,
        option: None,
        #[cfg(feature = "serde")]
        field: Some(Field {
            name: "tunnel",
            is_required: false,
            write: write_tunnel,
            read: |reader, (path, node), server| {
                if server.forward != ForwardMethod::TUNNEL {
                    reader.refuse(path.clone(), "is for forwarding tunnel");
                }
                server.tunnel = read_tunnel(reader, path, node).unwrap_or(server.tunnel);
            },
        }),
    },
];

/// Their options.
#[rustfmt::skip]
pub(crate) const REAL_SERVER_OPTIONS: &[OptionUnit] = &[
    unit(Opt::Forward(Some(ForwardMethod::DIRECT_ROUTE)), SET_SERVER, option(Group, "gatewaying", "g", No, "direct routing, which is the default")),
    unit(Opt::Forward(Some(ForwardMethod::TUNNEL)), SET_SERVER, option(Group, "ipip", "i", No, "tunnelling")),
    unit(Opt::Forward(Some(ForwardMethod::MASQUERADE)), SET_SERVER, option(Group, "masquerading", "m", No, "masquerading (NAT)")),
    unit(Opt::Forward(None), SET_SERVER, option(Group, "forward-method", "", Must("METHOD"), "local, bypass or a number (not in ipvsadm 1.31)").completed_by(Words("local bypass"))),
    unit(Opt::Weight, SET_SERVER, option(Group, "weight", "w", Must("WEIGHT"), "its share of the connections, 0 to 2147483647; 1 by default, 0 for no new ones")),
    unit(Opt::UpperThreshold, SET_SERVER, option(Group, "u-threshold", "x", Must("CONNECTIONS"), "no new connections at this number; 0, the default, for no limit")),
    unit(Opt::LowerThreshold, SET_SERVER, option(Group, "l-threshold", "y", Must("CONNECTIONS"), "after -x is reached, new connections again below this number; 0, the default, for three quarters of -x")),
    unit(Opt::TunnelType, SET_SERVER, option(Group, "tun-type", "", Must("TYPE"), "encapsulation of a tunnel: ipip (the default), gue, gre").completed_by(Words("ipip gue gre"))),
    unit(Opt::TunnelPort, SET_SERVER, option(Group, "tun-port", "", Must("PORT"), "UDP port of a gue tunnel")),
    unit(Opt::TunnelFlags(Some(TunnelFlags::empty())), SET_SERVER, option(Group, "tun-nocsum", "", No, "no checksums in a gue or gre tunnel, which is the default")),
    unit(Opt::TunnelFlags(Some(TunnelFlags::CHECKSUM)), SET_SERVER, option(Group, "tun-csum", "", No, "checksums in a gue or gre tunnel")),
    unit(Opt::TunnelFlags(Some(TunnelFlags::REMOTE_CHECKSUM)), SET_SERVER, option(Group, "tun-remcsum", "", No, "remote checksum offload in a gue tunnel")),
    unit(Opt::TunnelFlags(None), SET_SERVER, option(Group, "tun-flags", "", Must("BITS"), "flags of a tunnel by their number (not in ipvsadm 1.31)")),
];

/// The value of a threshold's option.
fn connections(given: &Given<'_>) -> Result<u32, Mistake> {
    number(&required(given), "a number of connections", 0, i32::MAX.into()).map(|it| it as u32)
}

fn set_thresholds(
    given: &Given<'_>,
    server: &mut Destination,
    upper: u32,
    lower: u32,
) -> Result<(), Mistake> {
    let refused = |error: InvalidValue| Mistake::refused(given.place.clone(), error.to_string());
    server.thresholds = Thresholds::new(upper, lower).map_err(refused)?;
    Ok(())
}

/// Forwarding methods with their words in documents and where tables differ.
const FORWARDING: &[(ForwardMethod, &str, &str)] = &[
    (ForwardMethod::MASQUERADE, "masquerade", "masquerade"),
    (ForwardMethod::LOCAL_NODE, "local", "local"),
    (ForwardMethod::TUNNEL, "tunnel", "tunnel"),
    (ForwardMethod::DIRECT_ROUTE, "direct", "direct routing"),
    (ForwardMethod::BYPASS, "bypass", "bypass"),
];

/// A tunnel's flags: the field of each in a document, and its words.
const TUNNEL_FLAGS: &[(TunnelFlags, &str, &str)] = &[
    (TunnelFlags::CHECKSUM, "checksum", " with checksum"),
    (TunnelFlags::REMOTE_CHECKSUM, "remote_checksum", " with remote checksum"),
];

/// The flags that have no words.
fn unnamed(flags: TunnelFlags) -> TunnelFlags {
    TUNNEL_FLAGS.iter().fold(flags, |rest, (flag, ..)| rest - *flag)
}

/// `ipip`, `gue port 6080`, `gre with checksum`.
pub(super) fn encapsulation(tunnel: Tunnel) -> String {
    let mut words = tunnel.kind().to_string();
    if tunnel.port() != 0 {
        words += &format!(" port {}", tunnel.port());
    }
    for (flag, _, with) in TUNNEL_FLAGS {
        if tunnel.flags().contains(*flag) {
            words += with;
        }
    }
    let rest = unnamed(tunnel.flags());
    if !rest.is_empty() {
        words += &format!(" with flags {:#x}", rest.bits());
    }
    words
}

#[cfg(feature = "serde")]
fn not_zero(limit: u32) -> Option<Node> {
    (limit != 0).then(|| Node::Number(limit.into()))
}

#[cfg(feature = "serde")]
fn read_thresholds(
    reader: &mut Reader,
    path: String,
    node: Node,
    server: &mut Destination,
    both: impl FnOnce(u32) -> (u32, u32),
) {
    let Some(limit) = reader.number((path.clone(), node), 0, i32::MAX as u32) else { return };
    let (upper, lower) = both(limit);
    match Thresholds::new(upper, lower) {
        Ok(thresholds) => server.thresholds = thresholds,
        Err(error) => reader.refuse(path, error.to_string()),
    }
}

/// Nothing where it has no effect.
#[cfg(feature = "serde")]
fn write_tunnel(server: &Destination) -> Option<Node> {
    let tunnel = server.tunnel;
    if server.forward != ForwardMethod::TUNNEL || tunnel == Tunnel::IPIP {
        return None;
    }
    let kind = match tunnel.kind() {
        named @ (TunnelType::IPIP | TunnelType::GUE | TunnelType::GRE) => Node::text(named),
        TunnelType(number) => Node::Number(number.into()),
    };
    let mut fields = vec![("type".to_owned(), kind)];
    let port = not_zero(tunnel.port().into());
    fields.extend(port.map(|port| ("port".to_owned(), port)));
    for (flag, name, _) in TUNNEL_FLAGS {
        if tunnel.flags().contains(*flag) {
            fields.push(((*name).to_owned(), Node::Boolean(true)));
        }
    }
    let rest = not_zero(unnamed(tunnel.flags()).bits().into());
    fields.extend(rest.map(|rest| ("flags".to_owned(), rest)));
    Some(Node::Fields(fields))
}

#[cfg(feature = "serde")]
fn read_tunnel(reader: &mut Reader, path: String, node: Node) -> Option<Tunnel> {
    let flags = TUNNEL_FLAGS.iter().map(|(_, name, _)| *name);
    let known: Vec<_> = ["type", "port"].into_iter().chain(flags).chain(["flags"]).collect();
    let mut fields = reader.fields(path, node, &known)?;
    let kind = fields
        .required(reader, "type")
        .and_then(|node| reader.word_or_number(node, u8::MAX.into(), TunnelType::from_str));
    let mut number = |name| match fields.take(name) {
        Some(node) => reader.number(node, 0, u16::MAX.into()).map(|it| it as u16),
        None => Some(0),
    };
    let (port, bits) = (number("port")?, number("flags")?);
    let mut flags = TunnelFlags::from_bits_retain(bits);
    for (flag, name, _) in TUNNEL_FLAGS {
        if let Some(node) = fields.take(name) {
            if reader.boolean(node)? {
                flags |= *flag;
            }
        }
    }
    Tunnel::new(kind?, port, flags)
        .map_err(|error| reader.refuse(fields.path.clone(), error.to_string()))
        .ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use ipvs_packet::{Tunnel, TunnelFlags, TunnelType};

    use super::encapsulation;

    #[test]
    fn flags_without_words_are_a_number() {
        let odd = Tunnel::new(TunnelType(9), 0, TunnelFlags::from_bits_retain(0xa)).unwrap();
        assert_eq!(encapsulation(odd), "9 with remote checksum with flags 0x8");
    }
}
