//! `--drain`, with `-d`, `-D` and `--apply`: what leaves is deleted when its connections have ended.

use std::{
    cell::Cell,
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use ipvs_table::{ServiceSnapshot, Snapshot};
use lvs::{
    Action, Change, Desired, Drain, Policy, Reconciler, Scope, block_on,
    client::{
        Error, ErrorKind, Sysctl,
        blocking::Client,
        packet::{DestinationKey, ServiceFlags, ServiceKey},
    },
};

use crate::{
    apply::Report,
    failure::{Failure, REFUSED},
    output::Console,
};

/// How `--drain` drains: every protocol, and whole services too.
pub(crate) fn policy(grace: Duration) -> Drain {
    Drain::for_at_most(grace).udp(true).sctp(true).services(true).wait_for_inactive(true)
}

/// `--apply`: until nothing is left that leaves.
pub(crate) fn table(
    client: &Client,
    desired: &Desired,
    policy: &Policy,
    console: &Console<'_>,
) -> Result<(), Failure> {
    let look = || Ok(Some((desired.clone(), client.snapshot()?)));
    until_settled(client, Reconciler::new(policy.clone()), console, look)
}

/// `-d` and `-D`: a real server, or a service with all of its real servers.
pub(crate) fn one(
    client: &Client,
    key: ServiceKey,
    server: Option<DestinationKey>,
    grace: Duration,
    console: &Console<'_>,
) -> Result<(), Failure> {
    let scope = Scope::only(move |service| *service == key);
    let policy = Policy::new().scope(scope).drain(policy(grace));
    let is_first = Cell::new(true);
    let what = name(&key, server.as_ref());
    let look = || {
        let (found, first) = (look_at(client, &key)?, is_first.replace(false));
        let is_there = |service: &ServiceSnapshot| {
            server.is_none_or(|server| service.destination(&server).is_some())
        };
        let Some(mut rest) = found.clone().filter(is_there) else {
            if first {
                return Err(Failure::new(REFUSED, format!("{what} does not exist")));
            }
            console.say(&format!("another program deleted {what}"));
            return Ok(None);
        };
        let desired = match server {
            // Everything else is as it is, whoever changes it.
            Some(server) => {
                rest.destinations.retain(|entry| entry.destination.key != server);
                Desired::try_from(&Snapshot::from_iter([rest])).map_err(|error| {
                    Failure::new(REFUSED, format!("{error}\nwithout --drain it can be deleted"))
                })?
            }
            None => Desired::new(),
        };
        Ok(Some((desired, found.into_iter().collect())))
    };
    until_settled(client, Reconciler::new(policy), console, look)
}

fn name(service: &ServiceKey, server: Option<&DestinationKey>) -> String {
    match server {
        Some(server) => format!("real server {server} of {service}"),
        None => format!("service {service}"),
    }
}

fn look_at(client: &Client, key: &ServiceKey) -> Result<Option<ServiceSnapshot>, Error> {
    let read = client.service(key).and_then(|entry| Ok((entry, client.destinations(key)?.all()?)));
    match read {
        Ok((entry, destinations)) => Ok(Some(ServiceSnapshot::new(entry, destinations))),
        Err(error) if error.kind() == ErrorKind::ServiceNotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Carries out the reconciler's rounds until nothing is left that leaves. Each look returns what should
/// be and what is, or `None` to end. What was begun is finished also where nobody reads about it.
fn until_settled(
    client: &Client,
    mut reconciler: Reconciler,
    console: &Console<'_>,
    mut look: impl FnMut() -> Result<Option<(Desired, Snapshot)>, Failure>,
) -> Result<(), Failure> {
    let mut report = Report::new(console);
    while let Some((desired, table)) = look()? {
        reconciler.set(desired);
        let now = Instant::now();
        if let Some(turn) = reconciler.turn(now) {
            let result = block_on(reconciler.plan(&turn, &table, now).apply(client));
            reconciler.finish(&turn, &result, Instant::now());
            let applied = report.of(result)?;
            warn(client, &table, applied.done(), console);
            // What this round deleted needs no further look.
            let gone: Vec<_> = applied.done().filter_map(deleted).collect();
            let is_gone = |key: &ServiceKey, at: &DestinationKey| {
                gone.iter().any(|(it, server)| it == key && server.is_none_or(|it| it == *at))
            };
            let mut draining = reconciler.draining().iter();
            if applied.uncertain().is_empty() && draining.all(|(key, at, _)| is_gone(&key, &at)) {
                break;
            }
        }
        let Some(due) = reconciler.due(now) else { break };
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    report.end()
}

/// What a change took away: a real server, or a service with all of them.
fn deleted(change: &Change) -> Option<(ServiceKey, Option<DestinationKey>)> {
    match change.action() {
        Action::DeleteRealServer { .. } | Action::DeleteService { .. } => {
            Some((*change.service(), change.real_server().copied()))
        }
        _ => None,
    }
}

/// Says which connections broke, and which clients will not leave.
fn warn<'a>(
    client: &Client,
    table: &Snapshot,
    changes: impl Iterator<Item = &'a Change>,
    console: &Console<'_>,
) {
    let mut stays = BTreeSet::new();
    for change in changes {
        let Some(service) = table.service(change.service()) else { continue };
        if let Some((key, server)) = deleted(change) {
            let entries = service.destinations.iter();
            let connections: u64 = entries
                .filter(|entry| server.is_none_or(|server| server == entry.destination.key))
                .map(|entry| u64::from(entry.active_connections + entry.inactive_connections))
                .sum();
            if connections > 0 {
                let what = name(&key, server.as_ref());
                console.say(&format!("{what} was deleted with {connections} connections left"));
            }
        }
        let drains = matches!(change.action(), Action::DrainRealServer { .. });
        if drains && service.entry.service.flags.contains(ServiceFlags::PERSISTENT) {
            stays.insert(change.service());
        }
    }
    let is_off = || matches!(client.sysctl(Sysctl::EXPIRE_QUIESCENT_TEMPLATE), Ok(false));
    if let Some(key) = stays.first().filter(|_| is_off()) {
        console.say(&format!(
            "service {key} is persistent: its clients stay with the real server that leaves, unless \
             net.ipv4.vs.expire_quiescent_template is 1"
        ));
    }
}
