//! Checks the crate against real messages: each of our requests is, byte for byte,
//! what ipvsadm sends for the same command line, and each reply of a kernel decodes to what the
//! command lines before it made.

#![allow(clippy::unwrap_used)]

use std::{num::NonZeroU16, path::Path, sync::LazyLock};

use ipvs_packet::{
    CommandNumber, DaemonEntry, DaemonRole, Destination, DestinationEntry, DestinationKey,
    FAMILY_VERSION, ForwardMethod, InterfaceName, Netmask, Reply, Request, Service, ServiceEntry,
    ServiceFlags, ServiceKey, SyncDaemon, SyncId, Thresholds, Timeouts, Tunnel, TunnelFlags,
    TunnelType, UnknownAttributes, Version, Weight,
};
use support::{DIRECTORY, Golden, Message};

mod support;

/// Attributes of the `SERVICE` nest: scheduler, flags, timeout, netmask.
const SERVICE_SETTINGS: &[u16] = &[6, 7, 8, 9];
/// Attributes of the `DEST` nest: forwarding method, weight, thresholds, tunnel.
const DESTINATION_SETTINGS: &[u16] = &[3, 4, 5, 6, 13, 14, 15];
/// Attributes of the `DAEMON` nest: interface, sync id.
const DAEMON_SETTINGS: &[u16] = &[2, 3];

#[test]
fn requests_are_ipvsadms() {
    for golden in golden() {
        let requests: Vec<&Message> =
            golden.messages.iter().filter(|message| message.is_request).collect();
        let expected = State::before(golden).requests(&golden.line);
        assert_eq!(requests.len(), expected.len(), "{}", golden.name);
        for (captured, ours) in requests.into_iter().zip(expected) {
            assert_eq!(captured.version, FAMILY_VERSION, "{}", golden.name);
            assert_eq!(captured.command, ours.command().0, "{}", golden.name);
            assert_eq!(
                hex(&corrected(golden, captured)),
                hex(&ours.to_bytes()),
                "{}: ipvsadm's on the left, {ours:?} on the right",
                golden.name
            );
            // Read, ipvsadm's request means the same.
            assert_eq!(Request::parse(ours.command(), &captured.payload).as_ref(), Ok(&ours));
            // ipvsadm asks to acknowledge dumps too. A dump ends with a message of its own, so we
            // do not.
            let acknowledge = if ours.is_dump() { 0x4 } else { 0 };
            assert_eq!(captured.flags, ours.flags() | acknowledge, "{}", golden.name);
        }
    }
}

/// ipvsadm reads our displayed options as the same value.
#[test]
fn displayed_is_what_ipvsadm_takes() {
    let mut seen = 0;
    for golden in golden() {
        let state = State::before(golden);
        for request in state.requests(&golden.line) {
            let line = match &request {
                Request::NewService(service) => format!("-A {service}"),
                Request::SetService(service) => format!("-E {service}"),
                Request::DeleteService(key) => format!("-D {key}"),
                Request::NewDestination(key, destination) => format!("-a {key} {destination}"),
                Request::SetDestination(key, destination) => format!("-e {key} {destination}"),
                Request::DeleteDestination(key, destination) => {
                    format!("-d {key} -r {destination}")
                }
                Request::NewDaemon(daemon) => daemon.to_string(),
                Request::SetTimeouts(timeouts) => format!("--set {timeouts}"),
                _ => continue,
            };
            assert_eq!(state.requests(&line).last(), Some(&request), "{line}: {}", golden.name);
            seen += 1;
        }
    }
    assert!(cfg!(miri) || seen > 100, "{seen}");
}

fn golden() -> &'static [Golden] {
    static GOLDEN: LazyLock<Vec<Golden>> =
        LazyLock::new(|| support::golden(&Path::new(env!("CARGO_MANIFEST_DIR")).join(DIRECTORY)));
    &GOLDEN
}

/// ipvsadm's bytes without its useless or wrong parts, where ours differ on purpose. Each
/// such part must exist, or the difference is out of date.
fn corrected(golden: &Golden, captured: &Message) -> Vec<u8> {
    let payload = &captured.payload;
    match CommandNumber(captured.command) {
        // ipvsadm fills in a whole service (an empty scheduler, no flags, the default netmask) where
        // the kernel reads its key alone.
        CommandNumber::NEW_DEST | CommandNumber::SET_DEST => {
            let mut payload = without(payload, 1, SERVICE_SETTINGS);
            // After an IPv4 address stand the last bytes of the service's IPv6 address.
            if golden.line == "-a -t [2001:db8::1]:80 -r 172.17.0.3:80 -i" {
                let wrong = [172, 17, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
                let at = payload.windows(16).position(|bytes| bytes == wrong).unwrap();
                payload[at + 15] = 0;
            }
            payload
        }
        // Here it fills in a whole destination as well.
        CommandNumber::DEL_DEST => {
            without(&without(payload, 1, SERVICE_SETTINGS), 2, DESTINATION_SETTINGS)
        }
        CommandNumber::DEL_SERVICE => without(payload, 1, SERVICE_SETTINGS),
        CommandNumber::GET_SERVICE | CommandNumber::ZERO if !payload.is_empty() => {
            without(payload, 1, SERVICE_SETTINGS)
        }
        // The kernel reads the role alone; ipvsadm adds an empty interface and sync id 0.
        CommandNumber::DEL_DAEMON => without(payload, 3, DAEMON_SETTINGS),
        _ => payload.clone(),
    }
}

#[test]
fn replies_are_read_as_what_was_set() {
    let mut seen = [0; 15];
    for golden in golden() {
        let state = State::before(golden);
        let requests = state.requests(&golden.line);
        let mut expected = requests.iter().flat_map(|request| state.replies(request));
        for captured in golden.messages.iter().filter(|message| !message.is_request) {
            let command = CommandNumber(captured.command);
            // Without the service's family, for the kernel tells each destination's.
            let reply = Reply::parse(command, &captured.payload, None).unwrap();
            match (expected.next(), &reply) {
                // The size of the table is the kernel's own: from Linux 7.1 on it grows.
                (Some(Reply::Info(expected, _)), Reply::Info(info, unknown)) => {
                    assert_eq!(info.version, expected.version);
                    let size = info.connection_table_size;
                    assert!(size == 0 || size.is_power_of_two(), "{size}");
                    assert!(unknown.is_empty());
                }
                (expected, reply) => {
                    assert_eq!(Some(reply), expected.as_ref(), "{}", golden.name);
                }
            }
            seen[usize::from(captured.command)] += 1;
            // And written again as the kernel writes it, but for the padding attributes that some
            // kernels put before 64-bit values.
            let written = reply.to_bytes();
            if !golden.kernel.starts_with("6.1.") {
                assert_eq!(hex(&written), hex(&captured.payload), "{}", golden.name);
            }
            assert_eq!(Reply::parse(command, &written, None), Ok(reply));
        }
        assert_eq!(expected.next(), None, "{}", golden.name);
    }
    for command in [
        CommandNumber::NEW_SERVICE,
        CommandNumber::NEW_DEST,
        CommandNumber::NEW_DAEMON,
        CommandNumber::SET_CONFIG,
        CommandNumber::SET_INFO,
    ] {
        assert_ne!(seen[usize::from(command.0)], 0, "no capture of {command}");
    }
}

#[test]
fn every_kernel_is_sent_the_same() {
    let mut by_line = std::collections::HashMap::new();
    for golden in golden() {
        let requests: Vec<&[u8]> = golden
            .messages
            .iter()
            .filter(|message| message.is_request)
            .map(|message| &message.payload[..])
            .collect();
        let line = (&golden.before, &golden.line);
        let first = by_line.entry(line).or_insert_with(|| requests.clone());
        assert_eq!(*first, requests, "{}", golden.name);
    }
}

/// Every truncation and every change of a single byte is decoded or refused, and a decoded message can be
/// encoded and decoded again to the same value.
#[test]
fn every_damage_is_safe() {
    let mut distinct: Vec<(bool, CommandNumber, &[u8])> = golden()
        .iter()
        .flat_map(|golden| &golden.messages)
        .map(|message| (message.is_request, CommandNumber(message.command), &message.payload[..]))
        .collect();
    distinct.sort();
    distinct.dedup();
    // Miri takes a thousand times as long; it sees some.
    let step = |of_miri| if cfg!(miri) { of_miri } else { 1 };
    for (is_request, command, payload) in distinct.into_iter().step_by(step(5)) {
        for length in (0..payload.len()).step_by(step(17)) {
            preserve(is_request, command, &payload[..length]);
        }
        let mut changed = payload.to_vec();
        for at in (0..payload.len()).step_by(step(37)) {
            for change in (1..=255).step_by(step(128)) {
                changed[at] = payload[at] ^ change;
                preserve(is_request, command, &changed);
            }
            changed[at] = payload[at];
        }
    }
}

fn preserve(is_request: bool, command: CommandNumber, payload: &[u8]) {
    if is_request {
        if let Ok(request) = Request::parse(command, payload) {
            assert_eq!(Request::parse(command, &request.to_bytes()), Ok(request), "{payload:?}");
        }
    } else if let Ok(reply) = Reply::parse(command, payload, None) {
        assert_eq!(Reply::parse(command, &reply.to_bytes(), None), Ok(reply), "{payload:?}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.chunks(4).map(|word| format!("{word:02x?}\n")).collect()
}

/// Takes attributes out of a nest; all of them must be there.
fn without(payload: &[u8], nest: u16, numbers: &[u16]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, attribute) in attributes(payload) {
        if number & 0x3fff != nest {
            out.extend(attribute);
            continue;
        }
        let inner: Vec<_> = attributes(&attribute[4..]);
        let kept: Vec<u8> = inner
            .iter()
            .filter(|(number, _)| !numbers.contains(number))
            .flat_map(|(_, attribute)| attribute.to_vec())
            .collect();
        let dropped = inner.iter().filter(|(number, _)| numbers.contains(number)).count();
        assert_eq!(dropped, numbers.len());
        out.extend((kept.len() as u16 + 4).to_ne_bytes());
        out.extend(number.to_ne_bytes());
        out.extend(kept);
    }
    out
}

/// Number and whole padded bytes of each attribute.
fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut list = Vec::new();
    while let [a, b, c, d, ..] = *bytes {
        let length = usize::from(u16::from_ne_bytes([a, b])).next_multiple_of(4);
        list.push((u16::from_ne_bytes([c, d]), &bytes[..length]));
        bytes = &bytes[length..];
    }
    list
}

/// What the kernel holds after some command lines.
struct State {
    service: Option<Service>,
    /// The newest first, as the kernel lists them.
    destinations: Vec<Destination>,
    /// Master, then backup, as the kernel lists them.
    daemons: Vec<SyncDaemon>,
    timeouts: Timeouts,
}

impl State {
    fn before(golden: &Golden) -> Self {
        let mut state = Self {
            service: None,
            destinations: Vec::new(),
            daemons: Vec::new(),
            timeouts: Timeouts::new(900, 120, 300),
        };
        for line in &golden.before {
            let request = state.requests(line).pop().unwrap();
            match request {
                Request::NewService(service) | Request::SetService(service) => {
                    state.service = Some(service);
                }
                Request::NewDestination(_, destination) => {
                    state.destinations.insert(0, destination);
                }
                Request::NewDaemon(mut daemon) => {
                    let is_master = daemon.role == DaemonRole::MASTER;
                    // The kernel's defaults on an interface whose MTU is 1500.
                    daemon.max_length = daemon.max_length.or(NonZeroU16::new(1472));
                    daemon.port = daemon.port.or(NonZeroU16::new(8848));
                    daemon.ttl = daemon.ttl.or(1.try_into().ok());
                    let group = daemon.group().or("224.0.0.81".parse().ok());
                    daemon.set_group(group).unwrap();
                    state.daemons.insert(if is_master { 0 } else { state.daemons.len() }, daemon);
                }
                Request::SetTimeouts(timeouts) => state.timeouts = timeouts,
                other => panic!("{other:?} before a capture"),
            }
        }
        state
    }

    /// What the kernel answers.
    fn replies(&self, request: &Request) -> Vec<Reply> {
        match request {
            Request::ListServices | Request::GetService(_) => {
                self.service.iter().cloned().map(ServiceEntry::new).map(Reply::Service).collect()
            }
            Request::ListDestinations(_) => self
                .destinations
                .iter()
                .cloned()
                .map(|destination| Reply::Destination(DestinationEntry::new(destination)))
                .collect(),
            Request::ListDaemons => self
                .daemons
                .iter()
                .cloned()
                .map(|daemon| Reply::Daemon(DaemonEntry::new(daemon)))
                .collect(),
            Request::GetTimeouts => {
                vec![Reply::Timeouts(self.timeouts, UnknownAttributes::new())]
            }
            Request::GetInfo => vec![Reply::Info(
                ipvs_packet::Info::new(Version(0x01_0201), 0),
                UnknownAttributes::new(),
            )],
            _ => Vec::new(),
        }
    }

    /// What ipvsadm asks for a command line: first always the version.
    fn requests(&self, line: &str) -> Vec<Request> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let has = |word: &str| words.contains(&word);
        let mut requests = vec![Request::GetInfo];
        match words[0] {
            "-L" | "-S" if has("-c") => {}
            "-L" if has("--daemon") => requests.push(Request::ListDaemons),
            "-L" if has("--timeout") => requests.push(Request::GetTimeouts),
            "-L" | "-S" => {
                requests.push(key(&words).map_or(Request::ListServices, Request::GetService));
                let key = self.service.as_ref().map(|service| *service.key());
                requests.extend(key.map(Request::ListDestinations));
            }
            "-A" => requests.push(Request::NewService(service(&words))),
            "-E" => requests.push(Request::SetService(service(&words))),
            "-D" => requests.push(Request::DeleteService(key(&words).unwrap())),
            "-a" => {
                let key = key(&words).unwrap();
                requests.push(Request::NewDestination(key, destination(&words, key)));
            }
            "-e" => {
                let key = key(&words).unwrap();
                requests.push(Request::SetDestination(key, destination(&words, key)));
            }
            "-d" => {
                let key = key(&words).unwrap();
                requests.push(Request::DeleteDestination(key, destination(&words, key).key));
            }
            "-Z" => requests.push(Request::Zero(key(&words))),
            "-C" => requests.push(Request::Flush),
            "--set" => requests.push(Request::SetTimeouts(Timeouts::new(
                words[1].parse().unwrap(),
                words[2].parse().unwrap(),
                words[3].parse().unwrap(),
            ))),
            "--start-daemon" => requests.push(Request::NewDaemon(daemon(&words))),
            "--stop-daemon" => requests.push(Request::DeleteDaemon(role(words[1]))),
            other => panic!("{other}"),
        }
        requests
    }
}

/// The word after a switch.
fn after<'a>(words: &[&'a str], switch: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| *word == switch)?;
    words.get(at + 1).copied()
}

fn key(words: &[&str]) -> Option<ServiceKey> {
    let switch = words.iter().find(|word| ["-t", "-u", "--sctp-service", "-f"].contains(*word))?;
    let to = after(words, switch).unwrap();
    let suffix = match *switch {
        "-f" if words.contains(&"-6") => " -6",
        "-f" => "",
        // ipvsadm takes an address without a port.
        _ if !to.contains(':') => ":0",
        _ => "",
    };
    Some(format!("{switch} {to}{suffix}").parse().unwrap())
}

fn service(words: &[&str]) -> Service {
    let mut service = Service::new(key(words).unwrap());
    if let Some(scheduler) = after(words, "-s") {
        service.scheduler = scheduler.parse().unwrap();
    }
    if words.contains(&"-p") {
        service.flags |= ServiceFlags::PERSISTENT;
        service.timeout = after(words, "-p").and_then(|word| word.parse().ok()).unwrap_or(360);
    }
    if let Some(netmask) = after(words, "-M") {
        let netmask = Netmask::from_text(service.key().family(), netmask).unwrap();
        service.set_netmask(netmask).unwrap();
    }
    service.engine = after(words, "--pe").map(|engine| engine.parse().unwrap());
    if words.contains(&"-o") {
        service.flags |= ServiceFlags::ONE_PACKET;
    }
    for flag in after(words, "-b").iter().flat_map(|flags| flags.split(',')) {
        service.flags |= match flag {
            "sh-fallback" => ServiceFlags::SH_FALLBACK,
            "sh-port" => ServiceFlags::SH_PORT,
            "mh-fallback" => ServiceFlags::MH_FALLBACK,
            "mh-port" => ServiceFlags::MH_PORT,
            "flag-1" => ServiceFlags::SCHEDULER_1,
            "flag-2" => ServiceFlags::SCHEDULER_2,
            "flag-3" => ServiceFlags::SCHEDULER_3,
            other => panic!("{other}"),
        };
    }
    service
}

fn destination(words: &[&str], service: ServiceKey) -> Destination {
    let to = after(words, "-r").unwrap();
    let key: DestinationKey = to.parse().unwrap_or_else(|_| {
        // Without a port, ipvsadm takes the service's.
        let port = match service {
            ServiceKey::Address { port, .. } => port,
            ServiceKey::Mark { .. } => 0,
        };
        DestinationKey { address: to.parse().unwrap(), port }
    });
    let has = |word: &str| words.contains(&word);
    let number = |switch| after(words, switch).map_or(0, |word| word.parse().unwrap());
    let mut destination = Destination::new(key);
    destination.forward = match () {
        () if has("-m") => ForwardMethod::MASQUERADE,
        () if has("-i") => ForwardMethod::TUNNEL,
        () => ForwardMethod::DIRECT_ROUTE,
    };
    if has("-w") {
        destination.weight = Weight::new(number("-w")).unwrap();
    }
    destination.thresholds = Thresholds::new(number("-x"), number("-y")).unwrap();
    let kind = match after(words, "--tun-type") {
        None | Some("ipip") => TunnelType::IPIP,
        Some("gue") => TunnelType::GUE,
        Some("gre") => TunnelType::GRE,
        Some(other) => panic!("{other}"),
    };
    let flags = match () {
        () if has("--tun-csum") => TunnelFlags::CHECKSUM,
        () if has("--tun-remcsum") => TunnelFlags::REMOTE_CHECKSUM,
        () => TunnelFlags::empty(),
    };
    let port = number("--tun-port").try_into().unwrap();
    destination.tunnel = Tunnel::new(kind, port, flags).unwrap();
    destination
}

fn role(word: &str) -> DaemonRole {
    match word {
        "master" => DaemonRole::MASTER,
        "backup" => DaemonRole::BACKUP,
        other => panic!("{other}"),
    }
}

fn daemon(words: &[&str]) -> SyncDaemon {
    let number = |switch| after(words, switch).and_then(|word| word.parse::<u16>().ok());
    let interface = InterfaceName::new(after(words, "--mcast-interface").unwrap()).unwrap();
    let id = SyncId::from(number("--syncid").unwrap_or(0) as u8);
    let mut daemon = SyncDaemon::new(role(words[1]), interface, id);
    daemon.max_length = number("--sync-maxlen").and_then(NonZeroU16::new);
    daemon.port = number("--mcast-port").and_then(NonZeroU16::new);
    daemon.ttl = number("--mcast-ttl").and_then(|ttl| (ttl as u8).try_into().ok());
    daemon.set_group(after(words, "--mcast-group").map(|group| group.parse().unwrap())).unwrap();
    daemon
}
