//! From a document to what it means. The shape is checked apart: what has the wrong one counts as not
//! there, and only what the shape does not show is said here.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::{NonZeroU8, NonZeroU16},
    ops::RangeInclusive,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use lvs::{
    Encapsulation, VirtualService, VirtualServiceBuilder,
    client::packet::{
        DaemonRole, ForwardMethod, InterfaceName, ServiceFlags, ServiceKey, SyncDaemon, SyncId,
    },
};
use lvs_health::{AllFailed, BeforeResult, OnFailure, Quorum};
use netns_link::Setting;

use super::{
    Common, Config, Deletions, DrainSettings, Hook, Mistake, RoleSetting, Server, Service, Stop,
    Timeouts, VirtualAddress,
    check::Checks,
    range::{self, Addresses},
    tree::Node,
};

/// A file has at most so many services, and so many servers in them.
pub(super) const MOST_SERVICES: usize = 100_000;
const MOST_SERVERS: usize = 1_000_000;

/// What a file says, with defaults for what it does not.
pub(crate) fn config(file: &Node, mistakes: &mut Vec<Mistake>) -> Config {
    let mut builder = Builder::new(file, mistakes);
    let duration = |name, default| {
        file.get(name).and_then(Node::duration).unwrap_or(Duration::from_secs(default))
    };
    Config {
        http: file.get("http").and_then(Node::parsed),
        role: match word(file, "role") {
            Some("backup") => RoleSetting::Backup,
            Some("from-program") => RoleSetting::FromProgram,
            _ => RoleSetting::Master,
        },
        stop: if word(file, "stop") == Some("drain") { Stop::Drain } else { Stop::Leave },
        max_deletions: builder.max_deletions(),
        resync: duration("resync", 30).max(Duration::from_secs(1)),
        drain: file.get("drain").map(drain),
        settings: builder.settings(),
        timeouts: builder.timeouts(),
        sync: file.get("sync").and_then(|node| builder.sync(node)),
        hooks: list(file, "hooks").iter().filter_map(|node| builder.hook(node)).collect(),
        addresses: builder.addresses(),
        services: builder.services(),
    }
}

pub(super) fn word<'a>(node: &'a Node, name: &str) -> Option<&'a str> {
    node.get(name)?.text()
}

/// The elements of a field that is a list.
fn list<'a>(node: &'a Node, name: &str) -> &'a [Node] {
    node.get(name).filter(|node| node.is_list()).map_or(&[], Node::each)
}

fn drain(node: &Node) -> DrainSettings {
    let is = |name, default| node.get(name).and_then(Node::bool).unwrap_or(default);
    DrainSettings {
        limit: node.get("for").and_then(Node::duration).unwrap_or_default(),
        services: is("services", false),
        tcp: is("tcp", true),
        udp: is("udp", false),
        sctp: is("sctp", false),
        inactive: node.get("wait_for_inactive").and_then(Node::bool),
    }
}

pub(super) struct Builder<'a> {
    file: &'a Node,
    checks: Checks<'a>,
    pub(super) groups: BTreeMap<&'a str, &'a Node>,
    pools: BTreeMap<&'a str, &'a Node>,
    servers: usize,
    mistakes: &'a mut Vec<Mistake>,
}

/// A service's fields, and behind them those that hold for all.
#[derive(Clone, Copy)]
struct Fields<'a> {
    own: &'a Node,
    defaults: Option<&'a Node>,
}

impl<'a> Fields<'a> {
    fn get(self, name: &str) -> Option<&'a Node> {
        self.own.get(name).or_else(|| self.defaults?.get(name))
    }

    fn word(self, name: &str) -> Option<&'a str> {
        self.get(name)?.text()
    }

    fn number<T: TryFrom<i64>>(self, name: &str, default: T) -> T {
        self.get(name).and_then(Node::number).unwrap_or(default)
    }
}

impl<'a> Builder<'a> {
    fn new(file: &'a Node, mistakes: &'a mut Vec<Mistake>) -> Self {
        let map = |name| file.get(name).map(|node| node.entries().collect()).unwrap_or_default();
        Self {
            file,
            checks: Checks::new(file),
            groups: map("groups"),
            pools: map("pools"),
            servers: 0,
            mistakes,
        }
    }

    pub(super) fn wrong(&mut self, node: &Node, text: impl Into<String>) {
        self.mistakes.push(Mistake::at(node, text));
    }

    fn max_deletions(&mut self) -> Option<Deletions> {
        let node = self.file.get("max_deletions")?;
        if let Some(number) = node.number() {
            return Some(Deletions::Number(number));
        }
        let percent = node.text()?.strip_suffix('%').and_then(|text| text.trim().parse().ok());
        let percent = percent.filter(|percent| (1..=100).contains(percent));
        if percent.is_none() {
            self.wrong(node, "max_deletions: give a number, or 1% to 100%");
        }
        percent.map(Deletions::Percent)
    }

    fn settings(&mut self) -> Vec<(Setting, String)> {
        let Some(node) = self.file.get("settings") else { return Vec::new() };
        let mut settings = Vec::new();
        for (name, value) in node.entries() {
            match (Setting::new(name), value.scalar()) {
                (Ok(setting), Some(value)) => settings.push((setting, value)),
                (Ok(_), None) => {}
                (Err(error), _) => self.wrong(value, format!("setting {name}: {error}")),
            }
        }
        settings
    }

    fn timeouts(&mut self) -> Timeouts {
        let Some(node) = self.file.get("timeouts") else { return Timeouts::default() };
        let mut seconds = |name| {
            let node = node.get(name)?;
            let duration = node.duration()?;
            // The kernel counts in ticks, in 32 bits.
            let is_right =
                duration.subsec_nanos() == 0 && (1..=2_000_000).contains(&duration.as_secs());
            if !is_right {
                self.wrong(node, format!("{name}: give whole seconds, 1 s to 23 days"));
            }
            u32::try_from(duration.as_secs()).ok().filter(|_| is_right)
        };
        Timeouts {
            tcp: seconds("tcp").unwrap_or(0),
            tcp_fin: seconds("tcp_fin").unwrap_or(0),
            udp: seconds("udp").unwrap_or(0),
        }
    }

    fn sync(&mut self, node: &'a Node) -> Option<SyncDaemon> {
        let link = node.get("interface")?;
        let interface = match InterfaceName::new(link.text()?) {
            Ok(interface) => interface,
            Err(error) => {
                self.wrong(link, format!("interface: {error}"));
                return None;
            }
        };
        let number = |name| node.get(name).and_then(Node::number::<u16>);
        let id = SyncId::from(node.get("id").and_then(Node::number::<u8>).unwrap_or(0));
        let mut daemon = SyncDaemon::new(DaemonRole::MASTER, interface, id);
        daemon.max_length = number("max_length").and_then(NonZeroU16::new);
        daemon.port = number("port").and_then(NonZeroU16::new);
        daemon.ttl = node.get("ttl").and_then(Node::number).and_then(NonZeroU8::new);
        if let Some(group) = node.get("group")
            && let Some(address) = group.parsed()
            && let Err(error) = daemon.set_group(Some(address))
        {
            self.wrong(group, format!("group: {error}"));
        }
        Some(daemon)
    }

    fn hook(&mut self, node: &'a Node) -> Option<Hook> {
        let mut words = list(node, "run").iter().map(|word| word.text().map(str::to_owned));
        let program = PathBuf::from(words.next().flatten().unwrap_or_default());
        if !program.is_absolute() {
            if let Some(run) = node.get("run") {
                self.wrong(run, "run: the program's absolute path comes first");
            }
            return None;
        }
        Some(Hook {
            program,
            arguments: words.flatten().collect(),
            events: list(node, "events").iter().filter_map(Node::text).map(str::to_owned).collect(),
            timeout: node
                .get("timeout")
                .and_then(Node::duration)
                .unwrap_or(Duration::from_secs(10)),
        })
    }

    fn addresses(&mut self) -> Vec<VirtualAddress> {
        let mut all: BTreeMap<IpAddr, VirtualAddress> = BTreeMap::new();
        for node in list(self.file, "addresses") {
            let name = |name| word(node, name).map(str::to_owned);
            for part in node.get("address").map(Node::each).unwrap_or_default() {
                for address in part.addresses().into_iter().flat_map(Addresses::iter) {
                    if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
                        self.wrong(part, format!("{address} cannot be a virtual address"));
                    }
                    let new =
                        VirtualAddress { address, link: name("link"), announce: name("announce") };
                    if all.insert(address, new).is_some() {
                        self.wrong(part, format!("{address} is named twice"));
                    }
                }
            }
            for field in ["link", "announce"] {
                let Some(link) = node.get(field) else { continue };
                if let Some(Err(error)) = link.text().map(InterfaceName::new) {
                    self.wrong(link, format!("{field}: {error}"));
                }
            }
        }
        all.into_values().collect()
    }

    fn services(&mut self) -> BTreeMap<ServiceKey, Service> {
        let mut services = BTreeMap::new();
        self.checks.named(self.mistakes);
        let mut names: BTreeSet<String> = BTreeSet::new();
        for node in list(self.file, "services") {
            let fields = Fields { own: node, defaults: self.file.get("defaults") };
            let keys = self.keys(node);
            let Some(first) = keys.first() else { continue };
            let name = word(node, "name").map_or_else(|| first.to_string(), str::to_owned);
            if !names.insert(name.clone()) {
                self.wrong(node, format!("there are two services of the name {name:?}"));
            }
            let (name, common) = (Arc::from(name), Arc::new(self.common(fields)));
            self.servers = self.servers.saturating_add(keys.len() * common.servers.len());
            if services.len() + keys.len() > MOST_SERVICES || self.servers > MOST_SERVERS {
                let text = format!("more than {MOST_SERVICES} services, or {MOST_SERVERS} servers");
                self.wrong(node, text);
                break;
            }
            let mut said = BTreeSet::new();
            for key in keys {
                let frame = match self.frame(key, fields) {
                    Ok(frame) => frame,
                    Err(invalid) => {
                        self.invalid(node, &invalid, &mut said);
                        continue;
                    }
                };
                let service =
                    Service { name: Arc::clone(&name), frame, common: Arc::clone(&common) };
                if let Err(invalid) = service.pool() {
                    self.invalid(node, &invalid, &mut said);
                }
                if services.insert(key, service).is_some() {
                    self.wrong(node, format!("service {key} is there twice"));
                }
            }
        }
        services
    }

    /// Each rule once for services that were written as one.
    fn invalid(&mut self, node: &Node, invalid: &lvs::Invalid, said: &mut BTreeSet<&'static str>) {
        for violation in invalid.violations() {
            if said.insert(violation.rule().name()) {
                self.wrong(node, violation.to_string());
            }
        }
    }

    fn frame(&self, key: ServiceKey, fields: Fields<'_>) -> Result<VirtualService, lvs::Invalid> {
        let mut builder: VirtualServiceBuilder = VirtualService::builder(key);
        if let Some(scheduler) = fields.word("scheduler") {
            builder = builder.scheduler(scheduler);
        }
        let flags = fields.get("flags").map(Node::each).unwrap_or_default();
        let flags: ServiceFlags = flags.iter().filter_map(Node::text).filter_map(flag).collect();
        builder = builder.scheduler_flags(flags);
        if let Some(node) = fields.get("persistence") {
            builder = match (node.bool(), node.duration()) {
                (Some(true), _) => builder.persistent(),
                (Some(false), _) | (None, None) => builder,
                (None, Some(duration)) => builder.persistent_for(duration),
            };
        }
        if let Some(bits) = fields.get("netmask").and_then(Node::number) {
            builder = builder.netmask(bits);
        }
        if let Some(engine) = fields.word("engine") {
            builder = builder.engine(engine);
        }
        if fields.get("one_packet").and_then(Node::bool) == Some(true) {
            builder = builder.one_packet();
        }
        builder.build()
    }

    fn common(&mut self, fields: Fields<'a>) -> Common {
        let node = fields.own;
        let mut servers = Vec::new();
        for server in list(node, "servers") {
            servers.extend(self.server(server, fields, true));
        }
        if let Some(pool) = node.get("pool").filter(|pool| pool.text().is_some()) {
            match self.pools.get(pool.text().unwrap_or_default()).copied() {
                Some(list) => {
                    for server in list.each() {
                        servers.extend(self.server(server, fields, true));
                    }
                }
                None => self.wrong(pool, format!("there is no pool {}", pool.shown())),
            }
        }
        let mut seen = BTreeSet::new();
        for server in &servers {
            if !seen.insert((server.address, server.port)) {
                self.wrong(node, format!("server {} is there twice", server.address));
            }
        }
        let sorry = fields.get("sorry").map(|node| self.server(node, fields, false));
        let quorum = fields.number("quorum", 1);
        Common {
            servers,
            sorry: sorry.and_then(|servers| servers.into_iter().next()),
            quorum: match fields.word("quorum_by") {
                Some("members") => Quorum::Members(quorum),
                _ => Quorum::Weight(quorum),
            },
            hysteresis: fields.number("hysteresis", 0),
            on_failure: match fields.word("on_failure") {
                Some("remove") => OnFailure::TakeAway,
                _ => OnFailure::Inhibit,
            },
            all_failed: match fields.word("all_failed") {
                Some("open") => AllFailed::Open,
                _ => AllFailed::Empty,
            },
            before_result: match fields.word("before_result") {
                Some("up") => BeforeResult::Up,
                Some("down") => BeforeResult::Down,
                _ => BeforeResult::Wait,
            },
            slow_start: fields.get("slow_start").and_then(Node::duration).unwrap_or_default(),
            damping: fields.get("damping").and_then(|node| {
                let time = |name| node.get(name).and_then(Node::duration);
                Some((node.get("falls")?.number()?, time("within")?, time("hold")?))
            }),
        }
    }

    /// A server, or a range of them.
    fn server(&mut self, node: &'a Node, fields: Fields<'a>, is_checked: bool) -> Vec<Server> {
        let (addresses, mut port) = match node.text() {
            Some(text) => match range::endpoints(text) {
                Some((addresses, ports)) => match single(ports) {
                    Ok(port) => (addresses, port),
                    Err(()) => {
                        self.wrong(node, format!("server {text:?}: one port, not a range"));
                        return Vec::new();
                    }
                },
                None => {
                    let text = format!("{text:?} is not a server such as 10.1.0.1 or 10.1.0.1:80");
                    self.wrong(node, text);
                    return Vec::new();
                }
            },
            None => match node.get("address").and_then(Node::addresses) {
                Some(addresses) => (addresses, node.get("port").and_then(Node::number)),
                None => return Vec::new(),
            },
        };
        let own = Fields { own: node, defaults: None };
        let forwarding = match own.word("forwarding").or_else(|| fields.word("forwarding")) {
            Some("direct") => ForwardMethod::DIRECT_ROUTE,
            Some("tunnel") => ForwardMethod::TUNNEL,
            _ => ForwardMethod::MASQUERADE,
        };
        if forwarding != ForwardMethod::MASQUERADE && port.take().is_some() {
            self.wrong(node, "direct routing and tunnels leave the port as it is: give none");
        }
        let encapsulation = match node.get("encapsulation").map(|node| (node, node.text())) {
            Some((node, Some(text))) => match text.parse() {
                Ok(encapsulation) => {
                    if forwarding != ForwardMethod::TUNNEL {
                        self.wrong(node, "encapsulation: only tunnels have one");
                    }
                    encapsulation
                }
                Err(error) => {
                    self.wrong(node, format!("encapsulation: {error}"));
                    Encapsulation::IPIP
                }
            },
            _ => Encapsulation::IPIP,
        };
        let checks = match node.get("check").or_else(|| fields.get("check")) {
            Some(check) if is_checked => self.checks.of(check, self.mistakes),
            _ => Vec::new(),
        };
        let weight = own.number("weight", fields.number("weight", 1));
        let thresholds = (own.number("max_connections", 0), own.number("min_connections", 0));
        addresses
            .iter()
            .map(|address| Server {
                address,
                port,
                forwarding,
                weight,
                thresholds,
                encapsulation,
                checks: checks.clone(),
            })
            .collect()
    }
}

fn single(ports: Option<RangeInclusive<u16>>) -> Result<Option<u16>, ()> {
    match ports {
        Some(ports) if ports.start() != ports.end() => Err(()),
        ports => Ok(ports.map(|ports| *ports.start())),
    }
}

fn flag(word: &str) -> Option<ServiceFlags> {
    match word {
        "sh-fallback" => Some(ServiceFlags::SH_FALLBACK),
        "sh-port" => Some(ServiceFlags::SH_PORT),
        "mh-fallback" => Some(ServiceFlags::MH_FALLBACK),
        "mh-port" => Some(ServiceFlags::MH_PORT),
        _ => None,
    }
}
