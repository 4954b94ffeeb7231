//! The language of the file: one table, from which documents are checked and the schema is made.

use super::{
    check_language::{CHECK, CHECK_OR_NAME},
    shape::{Kind, Object, field, required},
};

/// Durations, addresses and the like are texts in the file.
const SCHEDULERS: &str =
    "rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh, twos, or another of the kernel's";

pub(crate) static FILE: Object = Object {
    name: "file",
    help: "What an IPVS director does.",
    fields: &[
        field(
            "http",
            Kind::Endpoint,
            "Where the page, /metrics, /healthz and /status.json are served; nowhere by default.",
        ),
        field(
            "role",
            Kind::Word(&["master", "backup", "from-program"]),
            "Whether this director has the virtual addresses. `master` by default; `from-program` begins as a backup and follows `lvs-director role`, SIGUSR1 (master) and SIGUSR2 (backup).",
        ),
        field(
            "stop",
            Kind::Word(&["leave", "drain"]),
            "What SIGTERM does: `leave` everything in place (default), or `drain` all services and take them and the addresses away.",
        ),
        field(
            "max_deletions",
            Kind::Either(&[Kind::Integer(1, 1_000_000), Kind::Text]),
            "How much may be taken away within a minute, a number or a percentage such as `50%`; more is held back until `lvs-director confirm`. No limit by default.",
        ),
        field(
            "resync",
            Kind::Duration,
            "How often the whole table is compared and repaired; 30 s by default.",
        ),
        field(
            "drain",
            Kind::Object(&DRAIN),
            "How servers that leave are drained. Without it they are taken away at once.",
        ),
        field("settings", Kind::Map(&Kind::Scalar), "Kernel settings, as `sysctl` names them."),
        field(
            "timeouts",
            Kind::Object(&TIMEOUTS),
            "When idle connections expire, as `ipvsadm --set` sets it.",
        ),
        field(
            "sync",
            Kind::Object(&SYNC),
            "The daemon that sends connections to a backup, or takes them from the master, as the role is.",
        ),
        field(
            "hooks",
            Kind::List(&Kind::Object(&HOOK)),
            "Programs that are called when something happens.",
        ),
        field(
            "addresses",
            Kind::List(&Kind::Object(&ADDRESS)),
            "Virtual addresses that this program gives the host while it is the master.",
        ),
        field(
            "defaults",
            Kind::Object(&DEFAULTS),
            "What holds for every service that does not say otherwise.",
        ),
        field("checks", Kind::Map(&Kind::Object(&CHECK)), "Checks by name."),
        field(
            "groups",
            Kind::Map(&Kind::List(&ENTRANCE)),
            "Lists of virtual addresses, ports and marks by name.",
        ),
        field("pools", Kind::Map(&Kind::List(&SERVER_OR_ADDRESS)), "Lists of servers by name."),
        field("services", Kind::List(&Kind::Object(&SERVICE)), "The virtual services."),
    ],
};

static DRAIN: Object = Object {
    name: "drain",
    help: "A server that leaves gets no new connections, and goes when it has none left.",
    fields: &[
        required("for", Kind::Duration, "The longest time."),
        field(
            "services",
            Kind::Bool,
            "Whether a service that is deleted is drained as a whole; false by default.",
        ),
        field("tcp", Kind::Bool, "Whether TCP services are drained; true by default."),
        field("udp", Kind::Bool, "Whether UDP services are drained; false by default."),
        field("sctp", Kind::Bool, "Whether SCTP services are drained; false by default."),
        field(
            "wait_for_inactive",
            Kind::Bool,
            "Whether connections that are not established are waited for.",
        ),
    ],
};

static TIMEOUTS: Object = Object {
    name: "timeouts",
    help: "Whole seconds; what is not named stays as it is.",
    fields: &[
        field("tcp", Kind::Duration, "Of established TCP connections."),
        field("tcp_fin", Kind::Duration, "After a FIN."),
        field("udp", Kind::Duration, "Of UDP."),
    ],
};

static SYNC: Object = Object {
    name: "sync",
    help: "The kernel's connection synchronization.",
    fields: &[
        required("interface", Kind::Text, "The link on which it speaks."),
        field(
            "id",
            Kind::Integer(0, 255),
            "Which master and backups belong together; 0 by default.",
        ),
        field("max_length", Kind::Integer(1, 65507), "The longest message, in bytes."),
        field("group", Kind::Address, "The multicast address."),
        field("port", Kind::Integer(1, 65535), "The UDP port."),
        field("ttl", Kind::Integer(1, 255), "The time to live of its packets."),
    ],
};

static HOOK: Object = Object {
    name: "hook",
    help: "A program that is called with the event as its environment: LVS_EVENT, LVS_TEXT, LVS_SERVICE, LVS_MEMBER, LVS_REASON.",
    fields: &[
        required(
            "run",
            Kind::List(&Kind::Text),
            "The program, an absolute path, and its arguments.",
        ),
        field("events", Kind::List(&Kind::Word(super::EVENTS)), "Which events; all by default."),
        field("timeout", Kind::Duration, "When it is killed; 10 s by default."),
    ],
};

static ADDRESS: Object = Object {
    name: "address",
    help: "Virtual addresses.",
    fields: &[
        required(
            "address",
            Kind::OneOrMore(&Kind::Addresses),
            "Addresses or ranges such as 192.0.2.1-20.",
        ),
        field(
            "link",
            Kind::Text,
            "The link that gets them. A dummy link `lvs0`, made where it is missing, by default; IPv6 clients on a link of this host need that link here.",
        ),
        field(
            "announce",
            Kind::Text,
            "The link on which they are announced (gratuitous ARP, neighbour advertisements); on none by default. It takes CAP_NET_RAW.",
        ),
    ],
};

macro_rules! service_fields {
    ($($own:expr,)*) => {
        &[
            $($own,)*
            field("scheduler", Kind::Text, SCHEDULERS),
            field("flags", Kind::List(&Kind::Word(&["sh-fallback", "sh-port", "mh-fallback", "mh-port"])), "Flags of the schedulers sh and mh."),
            field("persistence", Kind::Either(&[Kind::Bool, Kind::Duration]), "How long a client keeps its server; `true` is 360 s."),
            field("netmask", Kind::Integer(1, 128), "How many bits of a client's address persistence looks at."),
            field("engine", Kind::Text, "The persistence engine, such as sip."),
            field("one_packet", Kind::Bool, "Whether each datagram is scheduled for itself."),
            field("forwarding", FORWARDING, "How packets reach the servers; nat by default."),
            field("weight", Kind::Integer(0, 2_147_483_647), "The weight of servers that name none; 1 by default."),
            field("quorum", Kind::Integer(1, 4_294_967_295), "How much must be healthy, or the sorry server takes over; 1 by default."),
            field("quorum_by", Kind::Word(&["weight", "members"]), "What the quorum counts: weights (default), or servers."),
            field("hysteresis", Kind::Integer(0, 4_294_967_295), "How far below the quorum it is lost, and above it regained; 0 by default."),
            field("on_failure", Kind::Word(&["inhibit", "remove"]), "A server that fails gets weight 0 and keeps its connections (inhibit, default), or is taken away."),
            field("all_failed", Kind::Word(&["empty", "open"]), "When all fail and there is no sorry server, nobody is served (empty, default), or all servers are used (open)."),
            field("before_result", Kind::Word(&["wait", "up", "down"]), "What counts for a server before its first result; the service waits for it by default."),
            field("slow_start", Kind::Duration, "How long the weight of a server that comes back rises; 0 by default."),
            field("damping", Kind::Object(&DAMPING), "When a server that goes down often stays out for longer."),
            field("check", Kind::Either(&[Kind::Text, Kind::Object(&CHECK), Kind::List(&CHECK_OR_NAME)]), "How servers are checked: the name of a check, a check, a list of which all have to pass, or `none`."),
        ]
    };
}

const FORWARDING: Kind = Kind::Word(&["nat", "direct", "tunnel"]);

static DEFAULTS: Object = Object {
    name: "defaults",
    help: "What holds for every service that does not say otherwise.",
    fields: service_fields![],
};

static SERVICE: Object = Object {
    name: "service",
    help: "A virtual service, or several alike: each of its addresses, ports, protocols and marks is one.",
    fields: service_fields![
        field(
            "name",
            Kind::Text,
            "How it is called in status, metrics and hooks; its first address by default."
        ),
        field(
            "address",
            Kind::OneOrMore(&Kind::Addresses),
            "Virtual addresses, or ranges such as 192.0.2.1-20."
        ),
        field(
            "port",
            Kind::OneOrMore(&Kind::Ports),
            "Ports, or ranges such as 8000-8010; 0 is every port, with persistence."
        ),
        field("protocol", Kind::OneOrMore(&Kind::Word(&["tcp", "udp", "sctp"])), "tcp by default."),
        field(
            "mark",
            Kind::OneOrMore(&Kind::Integer(1, 4_294_967_295)),
            "Firewall marks instead of addresses."
        ),
        field("family", Kind::Word(&["ipv4", "ipv6"]), "Of marks; ipv4 by default."),
        field("group", Kind::Text, "The name of a group instead of addresses."),
        field("servers", Kind::List(&SERVER_OR_ADDRESS), "The real servers."),
        field("pool", Kind::Text, "The name of a pool of servers."),
        field(
            "sorry",
            Kind::Either(&[Kind::Text, Kind::Object(&SERVER)]),
            "The server that takes over when the quorum is lost."
        ),
    ],
};

static DAMPING: Object = Object {
    name: "damping",
    help: "A server that went down more than so often within a time comes back only after it was good for a while.",
    fields: &[
        required("falls", Kind::Integer(1, 1000), "How often."),
        required("within", Kind::Duration, "In which time."),
        required("hold", Kind::Duration, "How long it has to be good."),
    ],
};

static ENTRANCE: Kind = Kind::Either(&[Kind::Text, Kind::Object(&ENTRANCE_OBJECT)]);

static ENTRANCE_OBJECT: Object = Object {
    name: "entrance",
    help: "A member of a group, for which `192.0.2.1-20:80` and `[2001:db8::1]:443` are short.",
    fields: &[
        field("address", Kind::OneOrMore(&Kind::Addresses), "Addresses, or ranges."),
        field("port", Kind::OneOrMore(&Kind::Ports), "Ports, or ranges."),
        field("mark", Kind::OneOrMore(&Kind::Integer(1, 4_294_967_295)), "Firewall marks."),
        field("family", Kind::Word(&["ipv4", "ipv6"]), "Of marks; ipv4 by default."),
    ],
};

static SERVER_OR_ADDRESS: Kind = Kind::Either(&[Kind::Text, Kind::Object(&SERVER)]);

static SERVER: Object = Object {
    name: "server",
    help: "A real server, for which `10.1.0.1` and `10.1.0.1:8080` are short.",
    fields: &[
        required("address", Kind::Addresses, "Its address, or a range of them."),
        field("port", Kind::Integer(0, 65535), "Its port (nat); that of the service by default."),
        field("weight", Kind::Integer(0, 2_147_483_647), "Its share of the connections."),
        field("forwarding", FORWARDING, "How packets reach it."),
        field(
            "max_connections",
            Kind::Integer(0, 4_294_967_295),
            "At so many connections it gets no new ones; 0, the default, is no limit.",
        ),
        field(
            "min_connections",
            Kind::Integer(0, 4_294_967_295),
            "Below so many it gets new ones again.",
        ),
        field(
            "encapsulation",
            Kind::Text,
            "Of tunnels: `ipip` (default), `gre`, `gue port 6080`, the latter two also `with checksum`.",
        ),
        field(
            "check",
            Kind::Either(&[Kind::Text, Kind::Object(&CHECK), Kind::List(&CHECK_OR_NAME)]),
            "How it is checked, instead of the service's check.",
        ),
    ],
};

/// What the file's outermost value is.
pub(crate) fn kind() -> &'static Kind {
    static KIND: Kind = Kind::Object(&FILE);
    &KIND
}
