//! What is shown: to `lvs-director status`, over HTTP, on the page and in metrics.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{SystemTime, UNIX_EPOCH},
};

use lvs::client::{
    Snapshot,
    packet::{DestinationKey, ForwardMethod, ServiceKey, Statistics},
};
use lvs_health::Health;
use serde::{Deserialize, Serialize};

use crate::director::{Director, Kept};

/// Everything that is shown, at one moment. Times are seconds since 1970.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) now: u64,
    pub(crate) role: String,
    pub(crate) file: String,
    /// Why the file as it is now is not in effect.
    pub(crate) mistakes: Option<String>,
    /// The last failure to bring the kernel to what it should be, while it lasts.
    pub(crate) failure: Option<String>,
    /// What fails beside the table.
    pub(crate) host_failures: Vec<String>,
    pub(crate) held_back: usize,
    pub(crate) draining: usize,
    pub(crate) checks: usize,
    pub(crate) services: Vec<ServiceStatus>,
    pub(crate) events: Vec<EventStatus>,
    /// Counters of the reconciler: name, help, whether it only grows, value.
    pub(crate) metrics: Vec<(String, String, bool, u64)>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ServiceStatus {
    pub(crate) name: String,
    /// As ipvsadm names it.
    pub(crate) key: String,
    pub(crate) scheduler: String,
    /// Whether it waits for first results.
    pub(crate) waits: bool,
    /// Whether it is in the kernel.
    pub(crate) is_there: bool,
    pub(crate) sorry: Option<String>,
    pub(crate) traffic: Traffic,
    /// Connections a second, the newest last.
    pub(crate) history: Vec<u64>,
    pub(crate) members: Vec<MemberStatus>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct MemberStatus {
    pub(crate) address: String,
    pub(crate) forwarding: String,
    /// `up`, `down` or `unknown`.
    pub(crate) health: String,
    /// `enabled`, `draining` or `maintenance`.
    pub(crate) mode: String,
    pub(crate) reason: String,
    /// Since when; `None` for before this process.
    pub(crate) since: Option<u64>,
    /// In the kernel; `None` if it is not there.
    pub(crate) weight: Option<u32>,
    /// That it should have now; `None` if it should not be there.
    pub(crate) wanted: Option<u32>,
    pub(crate) active: u32,
    pub(crate) inactive: u32,
    pub(crate) traffic: Traffic,
    pub(crate) history: Vec<u64>,
    pub(crate) checks: Vec<CheckStatus>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct CheckStatus {
    pub(crate) name: String,
    pub(crate) at: u64,
    /// `None` if it could not be made.
    pub(crate) passed: Option<bool>,
    pub(crate) text: String,
}

/// Counters, and rates a second, as the kernel keeps them.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Traffic {
    pub(crate) connections: u64,
    pub(crate) incoming_packets: u64,
    pub(crate) outgoing_packets: u64,
    pub(crate) incoming_bytes: u64,
    pub(crate) outgoing_bytes: u64,
    pub(crate) connection_rate: u64,
    pub(crate) incoming_byte_rate: u64,
    pub(crate) outgoing_byte_rate: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct EventStatus {
    pub(crate) at: u64,
    pub(crate) kind: String,
    pub(crate) text: String,
}

impl From<&Statistics> for Traffic {
    fn from(of: &Statistics) -> Self {
        Self {
            connections: of.connections,
            incoming_packets: of.incoming_packets,
            outgoing_packets: of.outgoing_packets,
            incoming_bytes: of.incoming_bytes,
            outgoing_bytes: of.outgoing_bytes,
            connection_rate: of.connection_rate,
            incoming_byte_rate: of.incoming_byte_rate,
            outgoing_byte_rate: of.outgoing_byte_rate,
        }
    }
}

/// Connections a second over the last minutes.
#[derive(Debug, Default)]
pub(crate) struct History {
    services: BTreeMap<ServiceKey, Line>,
    members: BTreeMap<(ServiceKey, DestinationKey), Line>,
}

#[derive(Debug, Default)]
struct Line {
    last: Option<u64>,
    rates: VecDeque<u64>,
}

impl Line {
    /// So many samples are kept.
    const LENGTH: usize = 60;

    fn add(&mut self, counter: u64, seconds: u64) {
        if let Some(last) = self.last {
            // A service that was made again begins at 0.
            self.rates.push_back(counter.saturating_sub(last) / seconds.max(1));
        }
        self.last = Some(counter);
        if self.rates.len() > Self::LENGTH {
            self.rates.pop_front();
        }
    }
}

impl History {
    /// Takes in counters, so many seconds after the last ones.
    pub(crate) fn add(&mut self, director: &Director, table: &Snapshot, seconds: u64) {
        self.services.retain(|key, _| director.services().contains_key(key));
        self.members.retain(|(key, member), _| {
            director.services().get(key).is_some_and(|kept| kept.members.contains_key(member))
        });
        for (key, kept) in director.services() {
            let Some(service) = table.service(key) else { continue };
            let counter = service.entry.statistics.connections;
            self.services.entry(*key).or_default().add(counter, seconds);
            for entry in &service.destinations {
                let member = entry.destination.key;
                if kept.members.contains_key(&member) {
                    let line = self.members.entry((*key, member)).or_default();
                    line.add(entry.statistics.connections, seconds);
                }
            }
        }
    }
}

/// The services, as they are in the kernel and as they should be.
pub(crate) fn services(
    director: &Director,
    table: Option<&Snapshot>,
    history: &History,
) -> Vec<ServiceStatus> {
    director
        .services()
        .iter()
        .map(|(key, kept)| {
            let there = table.and_then(|table| table.service(key));
            let frame = kept.service.frame.service();
            let rates = |line: Option<&Line>| {
                line.map(|line| line.rates.iter().copied().collect()).unwrap_or_default()
            };
            let members = kept.health().map(|(member, ..)| *member).collect::<Vec<_>>();
            ServiceStatus {
                name: kept.service.name.to_string(),
                key: key.to_string(),
                scheduler: frame.scheduler.to_string(),
                waits: kept.desired.is_none(),
                is_there: there.is_some(),
                sorry: sorry(kept, key),
                traffic: there.map(|it| (&it.entry.statistics).into()).unwrap_or_default(),
                history: rates(history.services.get(key)),
                members: members
                    .into_iter()
                    .filter_map(|member| {
                        let mut status = self::member(kept, &member)?;
                        let entry = there.and_then(|service| {
                            service.destinations.iter().find(|it| it.destination.key == member)
                        });
                        if let Some(entry) = entry {
                            status.weight = Some(entry.destination.weight.get());
                            status.active = entry.active_connections;
                            status.inactive = entry.inactive_connections;
                            status.traffic = (&entry.statistics).into();
                        }
                        status.history = rates(history.members.get(&(*key, member)));
                        Some(status)
                    })
                    .collect(),
            }
        })
        .collect()
}

/// The sorry server, while it is in.
fn sorry(kept: &Kept, key: &ServiceKey) -> Option<String> {
    let sorry = kept.service.common.sorry.as_ref()?.real_server(key).key(key);
    let desired = kept.desired.as_ref()?.destination(&sorry)?;
    let is_member = kept.members.contains_key(&sorry) && desired.weight.get() == 0;
    (!is_member).then(|| sorry.to_string())
}

fn member(kept: &Kept, key: &DestinationKey) -> Option<MemberStatus> {
    let (_, health, mode, member) = kept.health().find(|(other, ..)| *other == key)?;
    let (health, reason) = match health {
        Health::Up => ("up", String::new()),
        Health::Down(reason) => ("down", reason.clone()),
        _ => ("unknown", String::new()),
    };
    let server = kept.service.common.servers.iter().find(|server| {
        let service = kept.service.frame.key();
        server.real_server(service).key(service) == *key
    });
    let forwarding = match server.map(|server| server.forwarding) {
        Some(ForwardMethod::DIRECT_ROUTE) => "direct",
        Some(ForwardMethod::TUNNEL) => "tunnel",
        _ => "nat",
    };
    let checks = member.last.iter().flatten();
    Some(MemberStatus {
        address: key.to_string(),
        forwarding: forwarding.to_owned(),
        health: health.to_owned(),
        mode: mode.to_string(),
        reason,
        since: (member.since != UNIX_EPOCH).then(|| seconds(member.since)),
        wanted: kept.desired.as_ref().and_then(|it| it.destination(key)).map(|it| it.weight.get()),
        checks: checks
            .map(|last| CheckStatus {
                name: last.name.clone(),
                at: seconds(last.at),
                passed: last.passed,
                text: last.text.clone(),
            })
            .collect(),
        ..MemberStatus::default()
    })
}

pub(crate) fn events(director: &Director) -> Vec<EventStatus> {
    let event = |it: &crate::director::Happening| EventStatus {
        at: seconds(it.at),
        kind: it.kind.to_owned(),
        text: it.text.clone(),
    };
    director.log().map(event).collect()
}

pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Status {
    /// As a table for a terminal.
    pub(crate) fn text(&self) -> String {
        use std::fmt::Write as _;
        let mut text = format!("{} as {}", self.file, self.role);
        let _ = match self.checks {
            1 => writeln!(text, ", 1 check"),
            checks => writeln!(text, ", {checks} checks"),
        };
        if let Some(mistakes) = &self.mistakes {
            let _ = writeln!(text, "the file is not in effect as it is now:\n{mistakes}");
        }
        for failure in self.failure.iter().chain(&self.host_failures) {
            let _ = writeln!(text, "failure: {failure}");
        }
        if self.held_back > 0 {
            let _ =
                writeln!(text, "{} removals are held back: lvs-director confirm", self.held_back);
        }
        for service in &self.services {
            let named = if service.name == service.key { "" } else { &service.name };
            let state = match (service.waits, service.is_there, &service.sorry) {
                (true, ..) => "  waits for first results".to_owned(),
                (_, false, _) => "  not in the kernel".to_owned(),
                (.., Some(sorry)) => format!("  sorry server {sorry}"),
                _ => String::new(),
            };
            let _ = writeln!(
                text,
                "\n{named}{}{} {}  {} conn/s{state}",
                if named.is_empty() { "" } else { "  " },
                service.key,
                service.scheduler,
                service.traffic.connection_rate,
            );
            let _ = writeln!(
                text,
                "  {:<26} {:<12} {:>9} {:>8} {:>8} {:>8}  since",
                "member", "state", "weight", "active", "inactive", "conn/s"
            );
            for member in &service.members {
                let _ = writeln!(text, "  {}", member.line(self.now));
            }
        }
        text
    }
}

impl MemberStatus {
    pub(crate) fn state(&self) -> &str {
        if self.mode == "enabled" { &self.health } else { &self.mode }
    }

    fn line(&self, now: u64) -> String {
        let shown = |weight: Option<u32>| weight.map_or("-".to_owned(), |it| it.to_string());
        let weight = match self.weight == self.wanted {
            true => shown(self.weight),
            false => format!("{}>{}", shown(self.weight), shown(self.wanted)),
        };
        let since = self.since.map_or("-".to_owned(), |since| age(now, since));
        let mut line = format!(
            "{:<26} {:<12} {weight:>9} {:>8} {:>8} {:>8}  {since}",
            self.address,
            self.state(),
            self.active,
            self.inactive,
            self.traffic.connection_rate,
        );
        if !self.reason.is_empty() {
            line.push_str("  ");
            line.push_str(&self.reason);
        }
        line
    }
}

/// How long ago, in one unit or two.
pub(crate) fn age(now: u64, then: u64) -> String {
    let seconds = now.saturating_sub(then);
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d", seconds / 86400),
    }
}
