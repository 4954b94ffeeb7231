//! The language of checks: a part of the table in `language.rs`.

use super::shape::{Field, Kind, Object, field, required};

pub(crate) static CHECK_OR_NAME: Kind = Kind::Either(&[Kind::Text, Kind::Object(&CHECK)]);

pub(crate) static CHECK: Object = Object {
    name: "check",
    help: "How a server is checked: one of the kinds, and when. What it does not say holds as in the check that `like` names; without a kind, as in that of `defaults`.",
    fields: CHECK_FIELDS,
};

static TCP: Object = Object { name: "tcp check", help: "A TCP connection.", fields: &[] };

static HTTP: Object = Object {
    name: "http check",
    help: "An HTTP request. Redirects are answers like others.",
    fields: &[
        field("method", Kind::Text, "GET by default."),
        field("path", Kind::Text, "The path with its query; / by default."),
        field("host", Kind::Text, "The header Host; the address and port by default."),
        field(
            "headers",
            Kind::List(&Kind::List(&Kind::Text)),
            "Other headers: pairs of a name and a value.",
        ),
        field(
            "status",
            Kind::Scalar,
            "The good statuses, such as `200-299,301`; 200-299 by default.",
        ),
        field(
            "pattern",
            Kind::Text,
            "What has to be in the body: a text, or a regular expression between slashes.",
        ),
        field(
            "limit",
            Kind::Integer(1, 16_777_216),
            "How many bytes of the body are looked at; 16384 by default.",
        ),
        field(
            "tls",
            Kind::Object(&TLS),
            "TLS, as in the check `tls`: `tls: {}` makes it HTTPS; none by default.",
        ),
        field("http2", Kind::Bool, "Whether it is HTTP/2; false by default."),
    ],
};

static TLS: Object = Object {
    name: "tls check",
    help: "A TLS handshake. Every certificate will do, unless `verify` or `days` says otherwise.",
    fields: &[
        field(
            "server_name",
            Kind::Text,
            "The name that is asked for (SNI); the host of an HTTP check, or the address, by default.",
        ),
        field(
            "verify",
            Kind::Either(&[Kind::Word(&["none", "system"]), Kind::Object(&VERIFY)]),
            "Whose certificates are trusted: everybody's (none, default), those of the authorities that this system trusts, or of a file.",
        ),
        field(
            "days",
            Kind::Integer(0, 65_535),
            "For how many days from now the certificate has to be good; not looked at by default.",
        ),
    ],
};

static VERIFY: Object = Object {
    name: "verify",
    help: "Authorities that are trusted.",
    fields: &[required("file", Kind::Text, "A file of PEM certificates.")],
};

static GRPC: Object = Object {
    name: "grpc check",
    help: "gRPC's health service.",
    fields: &[
        field(
            "service",
            Kind::Text,
            "The service that is asked about; the server as a whole by default.",
        ),
        field("tls", Kind::Object(&TLS), "TLS, as in the check `tls`; none by default."),
    ],
};

static DNS: Object = Object {
    name: "dns check",
    help: "A question to a DNS server.",
    fields: &[
        field("name", Kind::Text, "The name that is asked for; the root by default."),
        field("type", Kind::Word(RECORD_TYPES), "The type of the record; SOA by default."),
        field(
            "expect",
            Kind::List(&Kind::Text),
            "Answers, one of which has to be there; any answer is good by default.",
        ),
        field("tcp", Kind::Bool, "Whether it is asked over TCP; over UDP by default."),
    ],
};

/// The types of records that a check of DNS asks for.
pub(crate) const RECORD_TYPES: &[&str] =
    &["A", "AAAA", "CNAME", "MX", "NS", "PTR", "SOA", "SRV", "TXT"];

static LINE: Object = Object {
    name: "line check",
    help: "An answer to some bytes, or a greeting. Texts may have \\r, \\n, \\0 and \\x1f.",
    fields: &[
        field("send", Kind::Text, "What is sent; nothing by default, for servers that greet."),
        field(
            "expect",
            Kind::List(&Kind::Text),
            "What the answer has to begin with, one of these.",
        ),
        field("at", Kind::Integer(0, 16_383), "From which of its bytes on; 0 by default."),
        field("tls", Kind::Object(&TLS), "TLS, as in the check `tls`; none by default."),
    ],
};

static SMTP: Object = Object {
    name: "smtp check",
    help: "A mail server's greeting.",
    fields: &[
        field("helo", Kind::Text, "The name that it is told; localhost by default."),
        field(
            "tls",
            Kind::Object(&TLS),
            "TLS from the first byte on, as in the check `tls`; none by default.",
        ),
    ],
};

static UDP: Object = Object {
    name: "udp check",
    help: "An answer to a datagram.",
    fields: &[
        field("send", Kind::Text, "What is sent; an empty datagram by default."),
        field(
            "expect",
            Kind::List(&Kind::Text),
            "What the answer has to begin with, one of these.",
        ),
        field(
            "answer",
            Kind::Bool,
            "Whether there has to be an answer; true by default. Without, a server is good that refuses nothing.",
        ),
    ],
};

static ICMP: Object = Object {
    name: "icmp check",
    help: "An ICMP echo. The group of this program has to be in net.ipv4.ping_group_range.",
    fields: &[],
};

static PROGRAM: Object = Object {
    name: "program check",
    help: "A program's exit status: 0 is good, others are not.",
    fields: &[
        required("path", Kind::Text, "The program."),
        field(
            "args",
            Kind::List(&Kind::Text),
            "Its arguments, with {address}, {port}, {virtual_address} and {virtual_port}.",
        ),
        field(
            "dynamic",
            Kind::Bool,
            "Whether exit status 2 and more set the weight: 2 is 0 %, 102 is 100 %; false by default.",
        ),
    ],
};

static AGENT: Object = Object {
    name: "agent check",
    help: "HAProxy's agent protocol: the server says its weight in percent, drain, maint, ready, up, down.",
    fields: &[field("send", Kind::Text, "What it is sent; nothing by default.")],
};

/// The kinds of checks: their names in the file are those of `lvs_health::check::Kind`.
pub(crate) static KINDS: &[(&str, &Object)] = &[
    ("tcp", &TCP),
    ("http", &HTTP),
    ("tls", &TLS),
    ("grpc", &GRPC),
    ("dns", &DNS),
    ("line", &LINE),
    ("smtp", &SMTP),
    ("udp", &UDP),
    ("icmp", &ICMP),
    ("program", &PROGRAM),
    ("agent", &AGENT),
];

const CHECK_FIELDS: &[Field] = &[
    field("tcp", Kind::Object(&TCP), "It takes a TCP connection."),
    field("http", Kind::Object(&HTTP), "It answers an HTTP request as it should."),
    field("tls", Kind::Object(&TLS), "Its TLS handshake ends well, and its certificate is good."),
    field("grpc", Kind::Object(&GRPC), "Its gRPC health service says that it serves."),
    field("dns", Kind::Object(&DNS), "It answers a DNS question."),
    field(
        "line",
        Kind::Object(&LINE),
        "Its answer to some bytes, or its greeting, begins as it should.",
    ),
    field("smtp", Kind::Object(&SMTP), "A mail server greets."),
    field("udp", Kind::Object(&UDP), "It answers a datagram."),
    field("icmp", Kind::Object(&ICMP), "It answers an ICMP echo request."),
    field("program", Kind::Object(&PROGRAM), "A program says that it is good."),
    field("agent", Kind::Object(&AGENT), "An agent on it says its weight."),
    field("like", Kind::Text, "The name of a check whose fields hold where this one has none."),
    field("interval", Kind::Duration, "From one check to the next; 5 s by default."),
    field(
        "interval_down",
        Kind::Duration,
        "The same while the server is down; the interval by default.",
    ),
    field(
        "jitter",
        Kind::Integer(0, 50),
        "By how many percent of the interval a check may be early, so that many do not stay in step; 5 by default.",
    ),
    field(
        "rise",
        Kind::Integer(1, 1000),
        "So many passed checks in a row bring a server back; 2 by default.",
    ),
    field(
        "fall",
        Kind::Integer(1, 1000),
        "So many failed ones in a row take it out; 3 by default.",
    ),
    field("timeout", Kind::Duration, "How long one check may take; 3 s by default."),
    field(
        "to",
        Kind::Text,
        "Which address is asked: `server` (default), `service` (the virtual address; then mark, device or netns lead the packets to the one server), or an address.",
    ),
    field(
        "port",
        Kind::Integer(1, 65535),
        "The port that is asked; that of the server by default.",
    ),
    field("from", Kind::Address, "The address from which it is asked."),
    field("device", Kind::Text, "The link through which it is asked."),
    field("mark", Kind::Integer(0, 4_294_967_295), "The mark of its packets."),
    field("netns", Kind::Text, "The path of the network namespace in which it is asked."),
];
