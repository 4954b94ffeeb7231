//! What a command line lists, and the timeouts and daemons that it sets.

use std::net::IpAddr;

use ipvs_packet::{DaemonRole, InterfaceName, SyncDaemon, SyncId, Timeouts};

use super::{
    address::{no_zone, zone},
    draft::Draft,
};
use crate::{
    ListOptions, Listed, Mistake,
    options::{Opt, Scanner, Text, Verb, number, quoted, required},
    settings::LONGEST_TIMEOUT,
};

impl<'a> Draft<'a> {
    pub(super) fn list_options(&mut self) -> Option<ListOptions> {
        let listed = |option| match option {
            Opt::Service(_) | Opt::Mark => self.service_key().map(Listed::Service),
            Opt::Connections => Some(Listed::Connections),
            Opt::Timeouts => Some(Listed::Timeouts),
            Opt::Daemons => Some(Listed::Daemons),
            _ => None,
        };
        let mut exclusive = self
            .given
            .iter()
            .filter_map(|given| listed(given.option).map(|listed| (given, listed)));
        let first = exclusive.next();
        let mut mistakes: Vec<_> = match &first {
            Some((first, _)) => exclusive
                .map(|(given, _)| {
                    let message = format!("{} cannot go with {}", given.typed, first.typed);
                    Mistake::new(given.place.clone(), message)
                })
                .collect(),
            None => Vec::new(),
        };
        let listed = first.map_or(Listed::Table, |(_, listed)| listed);
        for given in &self.given {
            let no_counters = match given.option {
                Opt::Statistics | Opt::Rates | Opt::Thresholds => {
                    !matches!(listed, Listed::Table | Listed::Service(_))
                }
                Opt::PersistentConnections => matches!(listed, Listed::Timeouts | Listed::Daemons),
                _ => false,
            };
            if no_counters {
                let message = format!("{} is for services and real servers", given.typed);
                mistakes.push(Mistake::new(given.place.clone(), message));
            }
        }
        self.mistakes.append(&mut mistakes);
        let is = |option| self.find(option).is_some();
        Some(ListOptions {
            listed,
            numeric: is(Opt::Numeric),
            statistics: is(Opt::Statistics),
            rates: is(Opt::Rates),
            thresholds: is(Opt::Thresholds),
            persistent_connections: is(Opt::PersistentConnections),
            tunnels: is(Opt::TunnelInformation),
            exact: is(Opt::Exact),
            sorted: !is(Opt::NoSort),
        })
    }

    pub(super) fn role(&mut self, state: &Text<'_>) -> Option<DaemonRole> {
        match state.text {
            "master" => Some(DaemonRole::MASTER),
            "backup" => Some(DaemonRole::BACKUP),
            other => {
                let message = format!("{} must be master or backup", quoted(other));
                self.mistakes.push(Mistake::new(state.place.clone(), message));
                None
            }
        }
    }

    pub(super) fn sync_daemon(&mut self, role: DaemonRole) -> Option<SyncDaemon> {
        let default = InterfaceName::new("eth0").ok()?;
        let interface = match self.find(Opt::Interface) {
            Some(given) if !required(given).text.is_empty() => {
                self.limited(Opt::Interface, InterfaceName::new)?
            }
            _ => default,
        };
        let mut number = |option, what, least, most| {
            self.value(option, |draft, given| draft.number(given, what, least, most))
        };
        let sync_id = number(Opt::SyncId, "a sync id", 0, 255).unwrap_or(0);
        let max_length = number(Opt::MaxLength, "a message's length in bytes", 1, 65535 - 20 - 8);
        let port = number(Opt::Port, "a port", 1, u16::MAX.into());
        let ttl = number(Opt::Ttl, "a time to live", 1, 255);
        let mut daemon = SyncDaemon::new(role, interface, SyncId::from(sync_id as u8));
        daemon.max_length = max_length.and_then(|length| (length as u16).try_into().ok());
        daemon.port = port.and_then(|port| (port as u16).try_into().ok());
        daemon.ttl = ttl.and_then(|ttl| (ttl as u8).try_into().ok());
        if let Some(group) = self.value(Opt::Group, |_, given| {
            let value = required(given);
            let group = value.text.parse().ok().filter(IpAddr::is_multicast);
            let message = || match zone(value.text) {
                Some(_) => format!("{}; --mcast-interface says it", no_zone(value.text)),
                None => format!("{} must be a multicast address", quoted(value.text)),
            };
            group.ok_or_else(|| Mistake::new(value.place.clone(), message()))
        }) {
            daemon.set_group(Some(group)).ok()?;
        }
        Some(daemon)
    }

    /// The three words of `--set`.
    pub(super) fn timeouts<S: AsRef<str>>(&mut self, scanner: &Scanner<'a, S>) -> Option<Timeouts> {
        if self.verb != Verb::SetTimeouts {
            return None;
        }
        let [tcp, tcp_fin, udp, ..] = &scanner.others[..] else {
            let message = "--set needs three timeouts in seconds: of TCP, of TCP after FIN, and of \
                           UDP; 0 leaves one as it is";
            self.mistakes.push(Mistake::new(scanner.end(), message));
            return None;
        };
        let mut seconds = |word| {
            let seconds = number(word, "a timeout in seconds", 0, LONGEST_TIMEOUT);
            seconds.map_err(|mistake| self.mistakes.push(mistake)).map_or(0, |it| it as u32)
        };
        Some(Timeouts::new(seconds(tcp), seconds(tcp_fin), seconds(udp)))
    }
}
