//! keepalived's configuration.

use super::{
    Check, Notes,
    blocks::{Block, parse},
    endpoint,
    yaml::Yaml,
};
use crate::config::RECORD_TYPES;

/// keepalived's file as ours.
pub(super) fn import(text: &str, notes: &mut Notes) -> Yaml {
    let file = parse(text, notes);
    let mut groups = Yaml::map();
    let mut services = Vec::new();
    for block in &file {
        match block.name() {
            "virtual_server_group" => {
                groups.put(block.word(1), Yaml::List(group(block, notes)));
            }
            "virtual_server" => services.push(service(block, notes)),
            "global_defs" => global(block, notes),
            "static_ipaddress" | "static_routes" | "static_rules" => {
                for child in &block.children {
                    notes.add(
                        child.line,
                        format!("{}: {}: no counterpart", block.name(), child.shown()),
                    );
                }
            }
            name if name.starts_with("vrrp") => {
                let text = format!(
                    "{}: who is master is not decided here; keepalived can go on doing it",
                    block.shown()
                );
                notes.add(block.line, text);
            }
            _ => notes.add(block.line, format!("{}: no counterpart", block.shown())),
        }
    }
    let mut yaml = Yaml::map();
    if !groups.is_empty() {
        yaml.put("groups", groups);
    }
    yaml.put("services", Yaml::List(services));
    yaml
}

fn global(block: &Block, notes: &mut Notes) {
    for child in &block.children {
        let what = match child.name() {
            "notification_email"
            | "notification_email_from"
            | "smtp_server"
            | "smtp_connect_timeout"
            | "smtp_helo_name"
            | "smtp_alert"
            | "smtp_alert_checker" => "no mail is sent; a hook can",
            "router_id" => "it is for mails and VRRP only",
            "lvs_sync_daemon" => "see `sync` and `role`; who is master is not decided here",
            "lvs_timeouts" | "lvs_flush" | "lvs_flush_onstop" => "see `timeouts` and `stop`",
            _ => "no counterpart",
        };
        notes.add(child.line, format!("{}: {what}", child.shown()));
    }
}

fn group(block: &Block, notes: &mut Notes) -> Vec<Yaml> {
    let mut entrances = Vec::new();
    for child in &block.children {
        match (child.name(), child.word(1)) {
            ("fwmark", mark) => match mark.parse() {
                Ok(mark) => {
                    let mut map = Yaml::map();
                    map.put("mark", Yaml::Number(mark));
                    entrances.push(map);
                }
                Err(_) => notes.add(child.line, format!("{}: not read", child.shown())),
            },
            (address, port) if !port.is_empty() => {
                entrances.push(Yaml::text_of(endpoint(address, port)));
            }
            _ => notes.add(child.line, format!("{}: a port is missing", child.shown())),
        }
    }
    entrances
}

/// What checks of a service have in common.
#[derive(Clone, Debug, Default)]
struct Rhythm {
    interval: Option<Yaml>,
    timeout: Option<Yaml>,
    fall: Option<u64>,
    host: Option<String>,
}

impl Rhythm {
    /// Takes in a line of a service, a server or a check. Returns whether it was one.
    fn take(&mut self, line: &Block, notes: &mut Notes) -> bool {
        match line.name() {
            "delay_loop" => self.interval = seconds(line, notes),
            "connect_timeout" => self.timeout = seconds(line, notes),
            "retry" | "nb_get_retry" => match line.word(1).parse::<u64>() {
                Ok(count) => self.fall = Some(count.saturating_add(1).min(1000)),
                Err(_) => notes.add(line.line, format!("{}: not read", line.shown())),
            },
            "delay_before_retry" => {
                notes
                    .add(line.line, format!("{}: it is tried again at the interval", line.shown()));
            }
            "warmup" => {
                notes.add(line.line, format!("{}: checks are spread by themselves", line.shown()));
            }
            "virtualhost" => self.host = Some(line.word(1).to_owned()),
            _ => return false,
        }
        true
    }

    fn finish(&self, check: &mut Check) {
        let mut common = Vec::new();
        let interval = self.interval.clone().unwrap_or_else(|| Yaml::text_of("60s"));
        common.push(("interval", interval));
        common.push(("timeout", self.timeout.clone().unwrap_or_else(|| Yaml::text_of("5s"))));
        common.push(("rise", Yaml::Number(1)));
        common.push(("fall", Yaml::Number(self.fall.unwrap_or(1))));
        check.common.extend(common);
    }
}

fn seconds(line: &Block, notes: &mut Notes) -> Option<Yaml> {
    let seconds = Yaml::seconds(line.word(1));
    if seconds.is_none() {
        notes.add(line.line, format!("{}: not read", line.shown()));
    }
    seconds
}

fn service(block: &Block, notes: &mut Notes) -> Yaml {
    let mut map = Yaml::map();
    let mut of = OfService { is_mark: false, port: None, forwarding: "nat" };
    let mut sorry = None;
    match (block.word(1), block.word(2)) {
        ("fwmark", mark) => {
            of.is_mark = true;
            match mark.parse() {
                Ok(mark) => map.put("mark", Yaml::Number(mark)),
                Err(_) => notes.add(block.line, format!("{}: not read", block.shown())),
            }
            if !block.word(3).is_empty() {
                map.put(
                    "family",
                    Yaml::text_of(if block.word(3) == "inet6" { "ipv6" } else { "ipv4" }),
                );
            }
        }
        ("group", name) => map.put("group", Yaml::text_of(name)),
        (address, port) => {
            map.put("address", Yaml::text_of(address));
            match port.parse() {
                Ok(port) => {
                    of.port = Some(port);
                    map.put("port", Yaml::Number(port));
                }
                Err(_) => notes.add(block.line, format!("{}: its port is not read", block.shown())),
            }
        }
    }
    let mut rhythm = Rhythm::default();
    let (mut flags, mut servers, mut inhibits) = (Vec::new(), Vec::new(), Vec::new());
    let mut is_alpha = false;
    // What holds for the servers may come behind them.
    for line in &block.children {
        rhythm.take(line, notes);
    }
    for line in &block.children {
        match line.name() {
            "lb_algo" | "lvs_sched" => map.put("scheduler", Yaml::text_of(line.word(1))),
            "lb_kind" | "lvs_method" => {
                if let Some(word) = forwarding(line, notes) {
                    of.forwarding = word;
                    map.put("forwarding", Yaml::text_of(word));
                }
            }
            "protocol" if of.is_mark => {}
            "protocol" => map.put("protocol", Yaml::text_of(line.word(1).to_ascii_lowercase())),
            "persistence_timeout" => match line.word(1) {
                "" => map.put("persistence", Yaml::Bool(true)),
                _ => {
                    if let Some(seconds) = seconds(line, notes) {
                        map.put("persistence", seconds);
                    }
                }
            },
            "persistence_granularity" => match netmask(line.word(1)) {
                Some(bits) => map.put("netmask", Yaml::Number(bits)),
                None => notes.add(line.line, format!("{}: not read", line.shown())),
            },
            "persistence_engine" => map.put("engine", Yaml::text_of(line.word(1))),
            "ops" => map.put("one_packet", Yaml::Bool(true)),
            "sh-port" | "sh-fallback" | "mh-port" | "mh-fallback" => flags.push(line.name()),
            "flag-1" if flags.is_empty() => flags.push("sh-fallback"),
            name @ ("quorum" | "hysteresis") => match line.word(1).parse() {
                Ok(number) => map.put(name, Yaml::Number(number)),
                Err(_) => notes.add(line.line, format!("{}: not read", line.shown())),
            },
            "alpha" => is_alpha = true,
            "inhibit_on_failure" => inhibits.push(line.line),
            "sorry_server" => sorry = Some(line),
            "real_server" => servers.push(line),
            "quorum_up" | "quorum_down" => {
                let text = "a hook for quorum-regained or quorum-lost; it is called for every service, with LVS_SERVICE";
                notes.add(line.line, format!("{}: {text}", line.shown()));
            }
            "smtp_alert" => notes.add(line.line, "smtp_alert: no mail is sent; a hook can"),
            "weight" => match line.word(1).parse() {
                Ok(weight) => map.put("weight", Yaml::Number(weight)),
                Err(_) => notes.add(line.line, format!("{}: not read", line.shown())),
            },
            _ if rhythm.clone().take(line, &mut Notes::default()) => {}
            _ => notes.add(line.line, format!("{}: no counterpart", line.shown())),
        }
    }
    if !flags.is_empty() {
        map.put("flags", Yaml::words(flags));
    }
    map.put("before_result", Yaml::text_of(if is_alpha { "down" } else { "up" }));
    let count = servers.len();
    if let Some(line) = sorry {
        let mut sorry = Yaml::map();
        sorry.put("address", Yaml::text_of(line.word(1)));
        if let ("nat", Ok(port)) = (of.forwarding, line.word(2).parse::<u64>()) {
            sorry.put("port", Yaml::Number(port));
        }
        map.put("sorry", sorry);
    }
    let made: Vec<_> =
        servers.iter().map(|it| server(it, &rhythm, of, &mut inhibits, notes)).collect();
    let all_inhibit = inhibits.iter().any(|line| {
        block.children.iter().any(|it| it.line == *line && it.name() == "inhibit_on_failure")
    });
    if !all_inhibit && !inhibits.is_empty() && inhibits.len() < count {
        for line in &inhibits {
            notes.add(*line, "inhibit_on_failure: it is for all servers of a service here");
        }
    }
    let word = if inhibits.is_empty() { "remove" } else { "inhibit" };
    map.put("on_failure", Yaml::text_of(word));
    map.put("servers", Yaml::List(made));
    map
}

fn forwarding(line: &Block, notes: &mut Notes) -> Option<&'static str> {
    if line.words.len() > 2 {
        notes.add(line.line, format!("{}: see `encapsulation` of a server", line.shown()));
    }
    match line.word(1).to_ascii_uppercase().as_str() {
        "NAT" => Some("nat"),
        "DR" => Some("direct"),
        "TUN" => Some("tunnel"),
        _ => {
            notes.add(line.line, format!("{}: not read", line.shown()));
            None
        }
    }
}

/// `255.255.255.0`, or a number of bits.
fn netmask(word: &str) -> Option<u64> {
    if let Ok(mask) = word.parse::<std::net::Ipv4Addr>() {
        let bits = mask.to_bits();
        return (bits.leading_ones() + bits.trailing_zeros() == 32)
            .then(|| bits.leading_ones().into());
    }
    word.parse().ok().filter(|bits| *bits <= 128)
}

/// What a server takes from its service.
#[derive(Clone, Copy)]
struct OfService {
    is_mark: bool,
    port: Option<u64>,
    forwarding: &'static str,
}

fn server(
    block: &Block,
    rhythm: &Rhythm,
    of: OfService,
    inhibits: &mut Vec<usize>,
    notes: &mut Notes,
) -> Yaml {
    let mut map = Yaml::map();
    map.put("address", Yaml::text_of(block.word(1)));
    let mut rhythm = rhythm.clone();
    let mut checks = Vec::new();
    let mut kind = None;
    for line in &block.children {
        rhythm.take(line, notes);
    }
    for line in &block.children {
        match line.name() {
            "weight" => match line.word(1).parse() {
                Ok(weight) => map.put("weight", Yaml::Number(weight)),
                Err(_) => notes.add(line.line, format!("{}: not read", line.shown())),
            },
            "inhibit_on_failure" => inhibits.push(line.line),
            "uthreshold" | "lthreshold" => {
                let name =
                    if line.name() == "uthreshold" { "max_connections" } else { "min_connections" };
                match line.word(1).parse() {
                    Ok(number) => map.put(name, Yaml::Number(number)),
                    Err(_) => notes.add(line.line, format!("{}: not read", line.shown())),
                }
            }
            "lb_kind" | "lvs_method" => {
                kind = forwarding(line, notes);
                if let Some(word) = kind {
                    map.put("forwarding", Yaml::text_of(word));
                }
            }
            "notify_up" | "notify_down" => {
                let text = "a hook for up or down; it is called for every server, with LVS_MEMBER";
                notes.add(line.line, format!("{}: {text}", line.shown()));
            }
            "smtp_alert" => notes.add(line.line, "smtp_alert: no mail is sent; a hook can"),
            name if name.ends_with("_CHECK") || name.ends_with("_GET") => {
                checks.extend(self::checks(line, &rhythm, notes));
            }
            _ if rhythm.clone().take(line, &mut Notes::default()) => {}
            _ => notes.add(line.line, format!("{}: no counterpart", line.shown())),
        }
    }
    match (kind.unwrap_or(of.forwarding), block.word(2).parse::<u64>()) {
        ("nat", Ok(port)) if !(of.is_mark && port == 0) => map.put("port", Yaml::Number(port)),
        ("nat", _) => {}
        // Direct routing and tunnels leave the port as it is.
        (_, Ok(port)) if of.port != Some(port) && port != 0 => {
            notes.add(block.line, format!("{}: its port is that of the service", block.shown()));
        }
        _ => {}
    }
    let checks: Vec<Yaml> = checks.iter().map(Check::yaml).collect();
    map.put("check", if checks.is_empty() { Yaml::text_of("none") } else { Yaml::List(checks) });
    map
}

/// A block of a check: one check, or one for each URL or host in it.
fn checks(block: &Block, rhythm: &Rhythm, notes: &mut Notes) -> Vec<Check> {
    let kind = match block.name() {
        "TCP_CHECK" => "tcp",
        "HTTP_GET" | "SSL_GET" => "http",
        "DNS_CHECK" => "dns",
        "SMTP_CHECK" => "smtp",
        "PING_CHECK" => "icmp",
        "UDP_CHECK" => "udp",
        "MISC_CHECK" => "program",
        name => {
            let text =
                format!("{name}: there is no such check here: the server would not be checked");
            notes.add(block.line, text);
            return Vec::new();
        }
    };
    let mut rhythm = rhythm.clone();
    let mut base = Check::new(kind);
    let (mut urls, mut hosts) = (Vec::new(), Vec::new());
    let mut answer = false;
    if block.name() == "SSL_GET" {
        base.fields.push(("tls", Yaml::map()));
    }
    for line in &block.children {
        match line.name() {
            "url" if kind == "http" => urls.push(line),
            "host" => hosts.push(line),
            "helo_name" => base.fields.push(("helo", Yaml::text_of(line.word(1)))),
            "require_reply" => answer = true,
            // Here the host is always named.
            "enable_sni" if block.name() == "SSL_GET" => {}
            "name" if kind == "dns" => base.fields.push(("name", Yaml::text_of(line.word(1)))),
            "type" if kind == "dns" => {
                let wanted = line.word(1).to_ascii_uppercase();
                match RECORD_TYPES.contains(&wanted.as_str()) {
                    true => base.fields.push(("type", Yaml::text_of(wanted))),
                    false => notes.add(line.line, format!("{}: SOA is asked for", line.shown())),
                }
            }
            "payload" => notes.add(line.line, format!("{}: see `send`", line.shown())),
            "misc_path" => {
                let mut words = line.words[1..].iter().flat_map(|word| word.split_whitespace());
                base.fields.push(("path", Yaml::text_of(words.next().unwrap_or_default())));
                let arguments: Vec<&str> = words.collect();
                if !arguments.is_empty() {
                    base.fields.push(("args", Yaml::words(arguments)));
                }
            }
            "misc_timeout" => rhythm.timeout = seconds(line, notes),
            "misc_dynamic" => {
                base.fields.push(("dynamic", Yaml::Bool(true)));
                notes.add(line.line, "misc_dynamic: exit statuses are weights there, percent here");
            }
            _ => place(line, &mut base, &mut rhythm, notes),
        }
    }
    if kind == "udp" && !answer {
        base.fields.push(("answer", Yaml::Bool(false)));
    }
    rhythm.finish(&mut base);
    let mut all = Vec::new();
    for url in &urls {
        let mut check = base.clone();
        let mut of_url = rhythm.clone();
        for line in &url.children {
            match line.name() {
                "path" => check.fields.push(("path", Yaml::text_of(line.word(1)))),
                "status_code" => {
                    let codes = line.words[1..].join(",");
                    check.fields.push(("status", Yaml::text_of(codes)));
                }
                "regex" => {
                    check.fields.push(("pattern", Yaml::text_of(format!("/{}/", line.word(1)))));
                }
                "digest" => {
                    notes.add(line.line, "digest: see `pattern`; the answer is not compared");
                }
                "virtualhost" => of_url.host = Some(line.word(1).to_owned()),
                _ => notes.add(line.line, format!("{}: no counterpart", line.shown())),
            }
        }
        if let Some(host) = of_url.host {
            check.fields.push(("host", Yaml::text_of(host)));
        }
        all.push(check);
    }
    for host in &hosts {
        let mut check = base.clone();
        for line in &host.children {
            place(line, &mut check, &mut rhythm.clone(), notes);
        }
        all.push(check);
    }
    if all.is_empty() {
        if kind == "http" {
            base.fields.extend(rhythm.host.map(|host| ("host", Yaml::text_of(host))));
        }
        all.push(base);
    }
    all
}

/// Where a check goes, and from where.
fn place(line: &Block, check: &mut Check, rhythm: &mut Rhythm, notes: &mut Notes) {
    let text = || Yaml::text_of(line.word(1));
    match line.name() {
        "connect_ip" => check.common.push(("to", text())),
        "connect_port" => match line.word(1).parse() {
            Ok(port) => check.common.push(("port", Yaml::Number(port))),
            Err(_) => notes.add(line.line, format!("{}: not read", line.shown())),
        },
        "bindto" => check.common.push(("from", text())),
        "bind_if" => check.common.push(("device", text())),
        "fwmark" => match line.word(1).parse() {
            Ok(mark) => check.common.push(("mark", Yaml::Number(mark))),
            Err(_) => notes.add(line.line, format!("{}: not read", line.shown())),
        },
        _ if rhythm.take(line, notes) => {}
        _ => notes.add(line.line, format!("{}: no counterpart", line.shown())),
    }
}
