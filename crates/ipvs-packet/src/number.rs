//! Attribute numbers: the enums of `linux/ip_vs.h`, each in its own space.

macro_rules! numbers {
    ($($(#[$doc:meta])* $space:ident $prefix:literal { $($name:ident = $number:literal,)* })*) => {$(
        $(#[$doc])*
        pub(crate) mod $space {
            $(pub(crate) const $name: u16 = $number;)*

            /// The name in the header.
            pub(crate) const fn name(number: u16) -> Option<&'static str> {
                match number {
                    $($number => Some(concat!($prefix, stringify!($name))),)*
                    _ => None,
                }
            }

            #[cfg(test)]
            pub(crate) const ALL: &[(&str, u16)] =
                &[$((concat!($prefix, stringify!($name)), $number)),*];
        }
    )*};
}

numbers! {
    /// At the top level of a message.
    message "IPVS_CMD_ATTR_" {
        SERVICE = 1,
        DEST = 2,
        DAEMON = 3,
        TIMEOUT_TCP = 4,
        TIMEOUT_TCP_FIN = 5,
        TIMEOUT_UDP = 6,
    }
    /// In the reply to `GET_INFO`, instead of the above.
    info "IPVS_INFO_ATTR_" {
        VERSION = 1,
        CONN_TAB_SIZE = 2,
    }
    service "IPVS_SVC_ATTR_" {
        AF = 1,
        PROTOCOL = 2,
        ADDR = 3,
        PORT = 4,
        FWMARK = 5,
        SCHED_NAME = 6,
        FLAGS = 7,
        TIMEOUT = 8,
        NETMASK = 9,
        STATS = 10,
        PE_NAME = 11,
        STATS64 = 12,
    }
    destination "IPVS_DEST_ATTR_" {
        ADDR = 1,
        PORT = 2,
        FWD_METHOD = 3,
        WEIGHT = 4,
        U_THRESH = 5,
        L_THRESH = 6,
        ACTIVE_CONNS = 7,
        INACT_CONNS = 8,
        PERSIST_CONNS = 9,
        STATS = 10,
        ADDR_FAMILY = 11,
        STATS64 = 12,
        TUN_TYPE = 13,
        TUN_PORT = 14,
        TUN_FLAGS = 15,
    }
    daemon "IPVS_DAEMON_ATTR_" {
        STATE = 1,
        MCAST_IFN = 2,
        SYNC_ID = 3,
        SYNC_MAXLEN = 4,
        MCAST_GROUP = 5,
        MCAST_GROUP6 = 6,
        MCAST_PORT = 7,
        MCAST_TTL = 8,
    }
    statistics "IPVS_STATS_ATTR_" {
        CONNS = 1,
        INPKTS = 2,
        OUTPKTS = 3,
        INBYTES = 4,
        OUTBYTES = 5,
        CPS = 6,
        INPPS = 7,
        OUTPPS = 8,
        INBPS = 9,
        OUTBPS = 10,
        PAD = 11,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, fs};

    use super::*;
    use crate::{CommandNumber, DaemonRole, ForwardMethod, ServiceFlags, TunnelFlags, TunnelType};

    const HEADER: &str = "/usr/include/linux/ip_vs.h";

    /// The names and numbers of the header's enums, the defines with a plain number among them.
    fn constants(header: &str) -> HashMap<String, u32> {
        let mut constants = HashMap::new();
        let mut next = 0;
        for line in header.lines() {
            let line = line.split("/*").next().unwrap_or_default().trim();
            if line.starts_with("enum") {
                next = 0;
            } else if let Some(define) = line.strip_prefix("#define") {
                let words: Vec<&str> = define.split_ascii_whitespace().collect();
                if let [name, value @ ..] = &words[..] {
                    constants.extend(number(&value.join(" ")).map(|it| ((*name).to_owned(), it)));
                }
            } else if line.starts_with("IP") && !line.contains('(') {
                let mut parts = line.trim_end_matches(',').split('=').map(str::trim);
                let name = parts.next().unwrap_or_default();
                next = parts.next().and_then(|number| number.parse().ok()).unwrap_or(next);
                constants.insert(name.to_owned(), next);
                next += 1;
            }
        }
        constants
    }

    /// A number as the header spells it: `12`, `0x0c`, `(1 << 3)`.
    fn number(text: &str) -> Option<u32> {
        if let Some(hex) = text.strip_prefix("0x") {
            return u32::from_str_radix(hex, 16).ok();
        }
        match text.strip_prefix("(1 << ").and_then(|shift| shift.strip_suffix(')')) {
            Some(shift) => 1_u32.checked_shl(shift.parse().ok()?),
            None => text.parse().ok(),
        }
    }

    /// The installed header, or `None`, with the reason printed, where that is allowed.
    fn header() -> Option<String> {
        match fs::read_to_string(HEADER) {
            Ok(header) => Some(header),
            Err(error) => {
                let required = std::env::var_os("LVS_REQUIRE_KERNEL").is_some_and(|it| it == "1");
                assert!(!required, "{HEADER} (package linux-libc-dev): {error}");
                eprintln!("skipped: {HEADER} (package linux-libc-dev): {error}");
                None
            }
        }
    }

    #[test]
    fn are_those_of_the_header() {
        let Some(header) = header() else { return };
        let constants = constants(&header);
        let commands = (1..=CommandNumber::FLUSH.0).map(CommandNumber);
        let commands = commands.map(|command| {
            let name = command.name().expect("no gap");
            (format!("IPVS_CMD_{name}"), u32::from(command.0))
        });
        let attributes =
            [message::ALL, info::ALL, service::ALL, destination::ALL, daemon::ALL, statistics::ALL];
        let attributes = attributes
            .into_iter()
            .flatten()
            .map(|&(name, number)| (name.to_owned(), u32::from(number)));
        let values = [
            ("IP_VS_CONN_F_MASQ", ForwardMethod::MASQUERADE.0),
            ("IP_VS_CONN_F_LOCALNODE", ForwardMethod::LOCAL_NODE.0),
            ("IP_VS_CONN_F_TUNNEL", ForwardMethod::TUNNEL.0),
            ("IP_VS_CONN_F_DROUTE", ForwardMethod::DIRECT_ROUTE.0),
            ("IP_VS_CONN_F_BYPASS", ForwardMethod::BYPASS.0),
            ("IP_VS_CONN_F_TUNNEL_TYPE_IPIP", TunnelType::IPIP.0.into()),
            ("IP_VS_CONN_F_TUNNEL_TYPE_GUE", TunnelType::GUE.0.into()),
            ("IP_VS_CONN_F_TUNNEL_TYPE_GRE", TunnelType::GRE.0.into()),
            ("IP_VS_TUNNEL_ENCAP_FLAG_CSUM", TunnelFlags::CHECKSUM.bits().into()),
            ("IP_VS_TUNNEL_ENCAP_FLAG_REMCSUM", TunnelFlags::REMOTE_CHECKSUM.bits().into()),
            ("IP_VS_SVC_F_PERSISTENT", ServiceFlags::PERSISTENT.bits()),
            ("IP_VS_SVC_F_HASHED", ServiceFlags::HASHED.bits()),
            ("IP_VS_SVC_F_ONEPACKET", ServiceFlags::ONE_PACKET.bits()),
            ("IP_VS_SVC_F_SCHED1", ServiceFlags::SCHEDULER_1.bits()),
            ("IP_VS_SVC_F_SCHED2", ServiceFlags::SCHEDULER_2.bits()),
            ("IP_VS_SVC_F_SCHED3", ServiceFlags::SCHEDULER_3.bits()),
            ("IP_VS_STATE_MASTER", DaemonRole::MASTER.0),
            ("IP_VS_STATE_BACKUP", DaemonRole::BACKUP.0),
            ("IPVS_GENL_VERSION", crate::FAMILY_VERSION.into()),
            ("IP_VS_SCHEDNAME_MAXLEN", 16),
            ("IP_VS_PENAME_MAXLEN", 16),
            ("IP_VS_IFNAME_MAXLEN", 16),
        ];
        let values = values.map(|(name, number)| (name.to_owned(), number));
        for (name, number) in commands.chain(attributes).chain(values) {
            assert_eq!(constants.get(&name), Some(&number), "{name}");
        }
        let name = format!("\"{}\"", crate::FAMILY_NAME);
        assert!(
            header.lines().any(|line| line.contains("IPVS_GENL_NAME") && line.ends_with(&name))
        );
    }

    /// A newer header shows what this crate does not know yet.
    #[test]
    fn leave_nothing_of_the_header_out() {
        let Some(header) = header() else { return };
        let known = [
            ("IPVS_CMD_ATTR_MAX", message::ALL.len()),
            ("IPVS_INFO_ATTR_MAX", info::ALL.len()),
            ("IPVS_SVC_ATTR_MAX", service::ALL.len()),
            ("IPVS_DEST_ATTR_MAX", destination::ALL.len()),
            ("IPVS_DAEMON_ATTR_MAX", daemon::ALL.len()),
            ("IPVS_STATS_ATTR_MAX", statistics::ALL.len()),
            ("IPVS_CMD_MAX", usize::from(CommandNumber::FLUSH.0)),
        ];
        let constants = constants(&header);
        for (name, count) in known {
            // `__IPVS_…_MAX` ends each enum.
            let end = format!("__{name},");
            assert!(header.contains(&end), "{end}");
            let prefix = name.trim_end_matches("MAX");
            let last = constants
                .iter()
                .filter(|(name, _)| {
                    name.starts_with(prefix)
                        && (prefix != "IPVS_CMD_" || !name.starts_with("IPVS_CMD_ATTR_"))
                })
                .map(|(_, number)| *number)
                .max();
            assert_eq!(last, u32::try_from(count).ok(), "{name}");
        }
    }
}
