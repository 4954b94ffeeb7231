//! `--drain`, with `-d`, `-D` and `--apply`: what leaves is deleted when its connections have ended.

use std::{
    cell::Cell,
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use ipvs_table::{ServiceSnapshot, Snapshot};
use lvs::{
    Action, Change, Desired, Drain, Draining, Policy, Scope, block_on,
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
    until_done(client, policy, None, console, look)
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
            console.say(&format!("somebody else deleted {what} meanwhile"));
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
    until_done(client, &policy, Some(&BTreeSet::from([key])), console, look)
}

fn name(service: &ServiceKey, server: Option<&DestinationKey>) -> String {
    match server {
        Some(server) => format!("real server {server} of {service}"),
        None => format!("service {service}"),
    }
}

fn look_at(client: &Client, key: &ServiceKey) -> Result<Option<ServiceSnapshot>, Error> {
    let read = client.service(key).and_then(|entry| Ok((entry, client.destinations(key)?)));
    match read {
        Ok((entry, destinations)) => Ok(Some(ServiceSnapshot::new(entry, destinations))),
        Err(error) if error.kind() == ErrorKind::ServiceNotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes the table as it should be, step by step, until nothing is being drained any more. Each look
/// returns what should be and what is, or `None` to end. What was begun is finished also where
/// nobody reads about it.
fn until_done(
    client: &Client,
    policy: &Policy,
    keys: Option<&BTreeSet<ServiceKey>>,
    console: &Console<'_>,
    mut look: impl FnMut() -> Result<Option<(Desired, Snapshot)>, Failure>,
) -> Result<(), Failure> {
    let (mut draining, mut report) = (Draining::new(), Report::new(console));
    while let Some((desired, table)) = look()? {
        let now = Instant::now();
        let (plan, next) = match keys {
            None => draining.step(&desired, &table, policy, now),
            Some(keys) => draining.step_of_services(keys, &desired, &table, policy, now),
        };
        let applied = report.of(block_on(plan.apply(client)))?;
        warn(client, &table, applied.done(), console);
        let gone: Vec<_> = applied.done().filter_map(deleted).collect();
        let is_gone = |key: &ServiceKey, at: &DestinationKey| {
            gone.iter().any(|(service, server)| service == key && server.is_none_or(|it| it == *at))
        };
        let mut left = draining.iter().filter(|(service, server, _)| !is_gone(service, server));
        let Some(next) = next.filter(|_| left.next().is_some()) else { break };
        thread::sleep(next.saturating_duration_since(now));
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
