//! ldirectord's configuration.

use std::net::{IpAddr, Ipv4Addr};

use super::{Check, Notes, yaml::Yaml};

/// A line `name = value`.
#[derive(Clone, Debug)]
struct Line {
    number: usize,
    name: String,
    value: String,
}

/// What holds where a service says nothing else.
#[derive(Clone, Debug, Default)]
struct Rhythm {
    interval: Option<Yaml>,
    timeout: Option<Yaml>,
    fall: Option<u64>,
    quiescent: Option<bool>,
    fallback: Option<Line>,
}

/// ldirectord's file as ours.
pub(super) fn import(text: &str, notes: &mut Notes) -> Yaml {
    let mut global = Rhythm::default();
    let mut services: Vec<(Line, Vec<Line>)> = Vec::new();
    for (number, text) in text.lines().enumerate() {
        let number = number + 1;
        let is_inside = text.starts_with(char::is_whitespace);
        let content = without_comment(text).trim();
        if content.is_empty() {
            continue;
        }
        let Some((name, value)) = content.split_once('=') else {
            notes.add(number, format!("{content}: not read"));
            continue;
        };
        let value = value.trim();
        let value = value.strip_prefix('"').and_then(|it| it.strip_suffix('"')).unwrap_or(value);
        let line = Line { number, name: name.trim().to_ascii_lowercase(), value: value.to_owned() };
        match line.name.as_str() {
            "virtual" | "virtual6" => services.push((line, Vec::new())),
            _ if is_inside => match services.last_mut() {
                Some((_, lines)) => lines.push(line),
                None => {
                    notes.add(number, format!("{content}: it stands before the first virtual="));
                }
            },
            _ if global.take(&line, notes) => {}
            "autoreload" => {
                notes.add(
                    number,
                    "autoreload: the file is always followed; one with mistakes changes nothing",
                );
            }
            "cleanstop" => notes.add(number, "cleanstop: see `stop`"),
            "callback" | "execute" | "fork" | "supervised" | "logfile" | "emailalert"
            | "emailalertfrom" | "emailalertfreq" | "emailalertstatus" | "smtp"
            | "maintenancedir" => {
                notes.add(
                    number,
                    format!("{content}: no counterpart; see `hooks` and the command `maintain`"),
                );
            }
            _ => notes.add(number, format!("{content}: no counterpart")),
        }
    }
    let services =
        services.iter().map(|(head, lines)| service(head, lines, &global, notes)).collect();
    let mut yaml = Yaml::map();
    yaml.put("services", Yaml::List(services));
    yaml
}

/// A `#` begins a comment, but in quotes and behind a backslash.
fn without_comment(line: &str) -> &str {
    let (mut quoted, mut escaped) = (false, false);
    for (at, char) in line.char_indices() {
        match char {
            '"' if !escaped => quoted = !quoted,
            '#' if !quoted && !escaped => return &line[..at],
            _ => {}
        }
        escaped = char == '\\' && !escaped;
    }
    line
}

impl Rhythm {
    /// Takes in a line. Returns whether it was one of these.
    fn take(&mut self, line: &Line, notes: &mut Notes) -> bool {
        match line.name.as_str() {
            "checkinterval" => self.interval = seconds(line, notes),
            "checktimeout" | "negotiatetimeout" => self.timeout = seconds(line, notes),
            "failurecount" | "checkcount" => match line.value.parse::<u64>() {
                Ok(count) => self.fall = Some(count.clamp(1, 1000)),
                Err(_) => not_read(line, notes),
            },
            "quiescent" => self.quiescent = Some(line.value == "yes"),
            "fallback" | "fallback6" => self.fallback = Some(line.clone()),
            _ => return false,
        }
        true
    }
}

fn not_read(line: &Line, notes: &mut Notes) {
    notes.add(line.number, format!("{} = {}: not read", line.name, line.value));
}

fn seconds(line: &Line, notes: &mut Notes) -> Option<Yaml> {
    let seconds = Yaml::seconds(&line.value);
    if seconds.is_none() {
        not_read(line, notes);
    }
    seconds
}

fn service(head: &Line, lines: &[Line], global: &Rhythm, notes: &mut Notes) -> Yaml {
    let mut map = Yaml::map();
    let mut rhythm = global.clone();
    let of = |name: &str| lines.iter().rev().find(|line| line.name == name);
    let mut port = None;
    match (head.value.parse::<u64>(), address_and_port(&head.value)) {
        (Ok(mark), _) => {
            map.put("mark", Yaml::Number(mark));
            if head.name == "virtual6" {
                map.put("family", Yaml::text_of("ipv6"));
            }
        }
        (Err(_), Some((address, Some(service_port)))) => {
            port = Some(service_port);
            map.put("address", Yaml::text_of(address));
            map.put("port", Yaml::Number(service_port.into()));
        }
        _ => notes
            .add(head.number, format!("{} = {}: names are not looked up", head.name, head.value)),
    }
    for line in lines {
        match line.name.as_str() {
            "servicename" => map.put("name", Yaml::text_of(&line.value)),
            "comment" => notes.add(line.number, format!("comment: {}", line.value)),
            "scheduler" => {}
            "protocol" if matches!(line.value.as_str(), "tcp" | "udp" | "sctp") => {
                map.put("protocol", Yaml::text_of(&line.value));
            }
            "protocol" if line.value == "fwm" => {}
            "persistent" => {
                if let Some(seconds) = seconds(line, notes) {
                    map.put("persistence", seconds);
                }
            }
            "netmask" => match netmask(&line.value) {
                Some(bits) => map.put("netmask", Yaml::Number(bits)),
                None => not_read(line, notes),
            },
            "ops" => map.put("one_packet", Yaml::Bool(line.value == "yes")),
            "real" | "real6" | "checktype" | "service" | "request" | "receive" | "virtualhost"
            | "checkport" | "checkcommand" | "httpmethod" => {}
            "monitorfile" => not_read(line, notes),
            _ if rhythm.take(line, notes) => {}
            _ => notes.add(line.number, format!("{} = {}: no counterpart", line.name, line.value)),
        }
    }
    // The last of several counts.
    if let Some(line) = of("scheduler") {
        map.put("scheduler", Yaml::text_of(&line.value));
    }
    let quiescent = rhythm.quiescent.unwrap_or(true);
    map.put("on_failure", Yaml::text_of(if quiescent { "inhibit" } else { "remove" }));
    map.put("before_result", Yaml::text_of("down"));
    let mut forwardings = Vec::new();
    let mut servers = Vec::new();
    for line in lines.iter().filter(|line| matches!(line.name.as_str(), "real" | "real6")) {
        if let Some(server) = server(line, &mut forwardings, notes) {
            servers.push(server);
        }
    }
    if let Some(line) = &rhythm.fallback {
        let words: Vec<&str> = line.value.split_whitespace().collect();
        match words.first().and_then(|word| address_and_port(word)) {
            Some((address, fallback_port)) => {
                let mut sorry = Yaml::map();
                sorry.put("address", Yaml::text_of(address));
                let word = words.get(1).and_then(|word| forwarding(word)).unwrap_or("nat");
                sorry.put("forwarding", Yaml::text_of(word));
                if let (Some(port), "nat") = (fallback_port.or(port), word) {
                    sorry.put("port", Yaml::Number(port.into()));
                }
                map.put("sorry", sorry);
            }
            None => not_read(line, notes),
        }
    }
    map.put("check", check(head, lines, port, &rhythm, notes));
    map.put("servers", Yaml::List(servers));
    map
}

/// `192.0.2.1:80 gate 3 "request", "receive"`, or a range `192.0.2.1->192.0.2.9:80 masq`.
fn server(line: &Line, forwardings: &mut Vec<&'static str>, notes: &mut Notes) -> Option<Yaml> {
    let mut words = line.value.split_whitespace();
    let first = words.next().unwrap_or_default();
    let (range, from) = match first.split_once("->") {
        Some((from, to)) => (Some(from), to),
        None => (None, first),
    };
    let Some((last, port)) = address_and_port(from) else {
        notes.add(line.number, format!("{} = {}: names are not looked up", line.name, line.value));
        return None;
    };
    let address = match range {
        Some(first) => format!("{}-{last}", first.trim_start_matches('[').trim_end_matches(']')),
        None => last,
    };
    let mut map = Yaml::map();
    map.put("address", Yaml::text_of(address));
    let word = words.next().unwrap_or("gate");
    let Some(forwarding) = forwarding(word) else {
        not_read(line, notes);
        return None;
    };
    forwardings.push(forwarding);
    map.put("forwarding", Yaml::text_of(forwarding));
    if let (Some(port), "nat") = (port, forwarding) {
        map.put("port", Yaml::Number(port.into()));
    }
    let mut rest = words.peekable();
    if let Some(weight) = rest.next_if(|word| word.parse::<u32>().is_ok()) {
        map.put("weight", Yaml::Number(weight.parse().unwrap_or(1)));
    }
    let rest: Vec<&str> = rest.collect();
    if !rest.is_empty() {
        notes.add(line.number, format!("a request of one server's own: {}", rest.join(" ")));
    }
    Some(map)
}

fn forwarding(word: &str) -> Option<&'static str> {
    match word {
        "gate" => Some("direct"),
        "ipip" => Some("tunnel"),
        "masq" => Some("nat"),
        _ => None,
    }
}

fn address_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let text = text.trim();
    if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Some((address.to_string(), None));
    }
    let (address, port) = text.rsplit_once(':')?;
    let address: IpAddr = address.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
    Some((address.to_string(), Some(port.parse().ok().or_else(|| known(port))?)))
}

/// Ports that are written as words.
fn known(name: &str) -> Option<u16> {
    match name {
        "http" | "www" => Some(80),
        "https" => Some(443),
        "smtp" => Some(25),
        "domain" => Some(53),
        "imap" | "imap2" => Some(143),
        "pop3" => Some(110),
        "ftp" => Some(21),
        "ldap" => Some(389),
        _ => None,
    }
}

fn netmask(word: &str) -> Option<u64> {
    match word.parse::<IpAddr>() {
        Ok(IpAddr::V4(mask)) => {
            let bits = mask.to_bits();
            (bits.leading_ones() + bits.trailing_zeros() == 32).then(|| bits.leading_ones().into())
        }
        Ok(IpAddr::V6(_)) => None,
        Err(_) => word.parse().ok().filter(|bits| *bits <= 128),
    }
}

fn check(
    head: &Line,
    lines: &[Line],
    port: Option<u16>,
    rhythm: &Rhythm,
    notes: &mut Notes,
) -> Yaml {
    let value = |name: &str| {
        let line = lines.iter().rev().find(|line| line.name == name);
        line.map(|line| line.value.as_str())
    };
    // As ldirectord guesses: by the port.
    let guessed = match port {
        Some(80 | 8080) => "http",
        Some(25 | 587) => "smtp",
        Some(443) => "https",
        Some(53) => "dns",
        Some(110) => "pop",
        Some(143) => "imap",
        Some(993) => "imaps",
        Some(995) => "pops",
        Some(3306) => "mysql",
        _ => "none",
    };
    let service = value("service").unwrap_or(guessed);
    let kind = match value("checktype").unwrap_or("negotiate") {
        "connect" if value("protocol") == Some("udp") => "ping",
        "connect" => "connect",
        "ping" => "ping",
        "on" => return Yaml::text_of("none"),
        "off" => {
            notes.add(
                head.number,
                "checktype = off: its servers are down there, and up here: drain them",
            );
            return Yaml::text_of("none");
        }
        "negotiate" => service,
        "external" | "external-perl" => "external",
        number if number.parse::<u32>().is_ok() => {
            notes.add(head.number, format!("checktype = {number}: a negotiation each time here"));
            service
        }
        other => other,
    };
    let line = |send: &str, expect: &str| {
        let mut check = Check::new("line");
        if !send.is_empty() {
            check.fields.push(("send", Yaml::text_of(send)));
        }
        check.fields.push(("expect", Yaml::words([expect])));
        check
    };
    let mut check = match kind {
        "http" | "https" => {
            let mut check = Check::new("http");
            if kind == "https" {
                check.fields.push(("tls", Yaml::map()));
            }
            let path = value("request").unwrap_or("/");
            let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
            check.fields.push(("path", Yaml::text_of(path)));
            if let Some(method) = value("httpmethod") {
                check.fields.push(("method", Yaml::text_of(method.to_ascii_uppercase())));
            }
            if let Some(host) = value("virtualhost") {
                check.fields.push(("host", Yaml::text_of(host)));
            }
            if let Some(receive) = value("receive") {
                check.fields.push(("pattern", Yaml::text_of(format!("/{receive}/"))));
            }
            check
        }
        "dns" => dns(value("request"), value("receive")),
        "smtp" | "submission" => Check::new("smtp"),
        "imap" => line("", "* OK"),
        "pop" => line("", "+OK"),
        "imaps" | "pops" => {
            let mut check = line("", if kind == "imaps" { "* OK" } else { "+OK" });
            check.fields.push(("tls", Yaml::map()));
            check
        }
        "ping" => Check::new("icmp"),
        "connect" => Check::new("tcp"),
        "external" => {
            let mut check = Check::new("program");
            let mut words = value("checkcommand").unwrap_or_default().split_whitespace();
            check.fields.push(("path", Yaml::text_of(words.next().unwrap_or_default())));
            let ours = ["{virtual_address}", "{virtual_port}", "{address}", "{port}"];
            check.fields.push(("args", Yaml::words(words.chain(ours))));
            check
        }
        "none" => return Yaml::text_of("none"),
        other => {
            let text = format!("a check of {other}: not here; a connection is checked instead");
            notes.add(head.number, text);
            if value("protocol") == Some("udp") { Check::new("icmp") } else { Check::new("tcp") }
        }
    };
    for name in ["request", "receive"] {
        if !matches!(check.kind, "http" | "dns") && value(name).is_some() {
            notes.add(head.number, format!("{name}: only checks of http and dns have it"));
        }
    }
    if let Some(number) = value("checkport") {
        match number.parse() {
            Ok(number) => check.common.push(("port", Yaml::Number(number))),
            Err(_) => notes.add(head.number, format!("checkport = {number}: not read")),
        }
    }
    check
        .common
        .push(("interval", rhythm.interval.clone().unwrap_or_else(|| Yaml::text_of("10s"))));
    check.common.push(("timeout", rhythm.timeout.clone().unwrap_or_else(|| Yaml::text_of("5s"))));
    check.common.push(("rise", Yaml::Number(1)));
    check.common.push(("fall", Yaml::Number(rhythm.fall.unwrap_or(1))));
    check.yaml()
}

/// A question for a name's address, or for an address's name.
fn dns(request: Option<&str>, receive: Option<&str>) -> Check {
    let mut check = Check::new("dns");
    if let Some(request) = request {
        let (name, kind) = match request.parse::<Ipv4Addr>() {
            Ok(address) => {
                let [a, b, c, d] = address.octets();
                (format!("{d}.{c}.{b}.{a}.in-addr.arpa"), "PTR")
            }
            Err(_) => (request.to_owned(), "A"),
        };
        check.fields.push(("name", Yaml::text_of(name)));
        check.fields.push(("type", Yaml::text_of(kind)));
    }
    check.fields.extend(receive.map(|it| ("expect", Yaml::words([it]))));
    check
}
