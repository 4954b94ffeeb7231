//! Lines of `-R` that add what is there already. One that repeats what is exactly so leaves the table
//! as the file wants it, so it is no failure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipvs_table::{CommandLine, DestinationChanges, ServiceChanges, Snapshot};
use lvs::{
    block_on,
    client::{
        Error, ErrorKind,
        blocking::Client,
        packet::{
            DaemonEntry, DaemonRole, DestinationKey, Request, Service, ServiceFlags, ServiceKey,
            SyncDaemon,
        },
    },
    read_services,
};

/// What is there where a line adds something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum There {
    /// Exactly what it adds.
    Same,
    /// Something else, and in words what.
    Other(String),
}

/// Judges the writes of a batch that the kernel refused since what they add exists, by their numbers.
/// Of one that is not among them it is not known what was there.
pub(crate) fn judge<'a>(
    client: &Client,
    writes: &[Request],
    outcomes: impl Iterator<Item = &'a Result<(), Error>>,
) -> HashMap<usize, There> {
    let ends = outcomes.map(|outcome| match outcome {
        Ok(()) => End::Done,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => End::Exists,
        Err(_) => End::Failed,
    });
    judge_by(writes, ends, |services, daemons| {
        let table = block_on(read_services(client, services))?;
        let daemons = if daemons { client.daemons()?.all()? } else { Vec::new() };
        Ok((table, daemons))
    })
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    Exists,
    Failed,
}

/// What a write is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Object {
    Service(ServiceKey),
    Server(ServiceKey, DestinationKey),
    Daemon(DaemonRole),
}

impl Object {
    fn of(write: &Request) -> Option<Self> {
        Some(match write {
            Request::NewService(service) | Request::SetService(service) => {
                Self::Service(*service.key())
            }
            Request::DeleteService(key) => Self::Service(*key),
            Request::NewDestination(key, destination)
            | Request::SetDestination(key, destination) => Self::Server(*key, destination.key),
            Request::DeleteDestination(key, destination) => Self::Server(*key, *destination),
            Request::NewDaemon(daemon) => Self::Daemon(daemon.role),
            Request::DeleteDaemon(role) => Self::Daemon(*role),
            _ => return None,
        })
    }

    /// Whether it goes when a service is deleted.
    fn is_of(&self, key: &ServiceKey) -> bool {
        matches!(self, Self::Service(service) | Self::Server(service, _) if service == key)
    }

    /// The request that adds it as it is in the kernel.
    fn present(&self, table: &Snapshot, daemons: &[DaemonEntry]) -> Option<Request> {
        match self {
            Self::Service(key) => {
                Some(Request::NewService(table.service(key)?.entry.service.clone()))
            }
            Self::Server(key, server) => {
                let entry = table.service(key)?.destination(server)?;
                Some(Request::NewDestination(*key, entry.destination.clone()))
            }
            Self::Daemon(role) => {
                let entry = daemons.iter().find(|entry| entry.daemon.role == *role)?;
                Some(Request::NewDaemon(entry.daemon.clone()))
            }
        }
    }
}

/// Goes through the writes in order. What earlier ones left is known from them; of what was there
/// before, the kernel is asked, unless later ones changed it.
fn judge_by(
    writes: &[Request],
    ends: impl Iterator<Item = End>,
    read: impl FnOnce(&BTreeSet<ServiceKey>, bool) -> Result<(Snapshot, Vec<DaemonEntry>), Error>,
) -> HashMap<usize, There> {
    let ends: Vec<End> = ends.collect();
    let mut judged = HashMap::new();
    if !ends.contains(&End::Exists) {
        return judged;
    }
    let mut known: BTreeMap<Object, Request> = BTreeMap::new();
    let mut asked: BTreeMap<Object, Vec<usize>> = BTreeMap::new();
    for (number, (write, end)) in writes.iter().zip(ends).enumerate() {
        let object = Object::of(write);
        match (end, object) {
            (End::Exists, Some(object)) => match known.get(&object) {
                Some(there) => {
                    judged.insert(number, compare(there, write));
                }
                None => asked.entry(object).or_default().push(number),
            },
            (End::Done, _) => {
                let left = left(write, object.and_then(|object| known.get(&object)));
                forget(&mut known, write, object);
                forget(&mut asked, write, object);
                known.extend(object.zip(left));
            }
            (End::Exists, None) | (End::Failed, _) => {}
        }
    }
    let services = asked.keys().filter_map(|object| match object {
        Object::Service(key) | Object::Server(key, _) => Some(*key),
        Object::Daemon(_) => None,
    });
    let daemons = asked.keys().any(|object| matches!(object, Object::Daemon(_)));
    if let Some(Ok((table, daemons))) =
        (!asked.is_empty()).then(|| read(&services.collect(), daemons))
    {
        for (object, numbers) in asked {
            let Some(there) = object.present(&table, &daemons) else { continue };
            judged.extend(numbers.into_iter().map(|it| (it, compare(&there, &writes[it]))));
        }
    }
    judged
}

/// Takes out what a write has changed.
fn forget<T>(map: &mut BTreeMap<Object, T>, write: &Request, object: Option<Object>) {
    match (write, object) {
        (Request::Flush, _) => map.retain(|it, _| matches!(it, Object::Daemon(_))),
        (Request::DeleteService(key), _) => map.retain(|it, _| !it.is_of(key)),
        (_, Some(object)) => {
            map.remove(&object);
        }
        (_, None) => {}
    }
}

/// What a write has left of its object, as the request that adds it; `None` if nothing, or if that is
/// not known.
fn left(write: &Request, before: Option<&Request>) -> Option<Request> {
    match write {
        Request::NewService(_) | Request::NewDestination(..) | Request::NewDaemon(_) => {
            Some(write.clone())
        }
        Request::SetDestination(key, destination) => {
            Some(Request::NewDestination(*key, destination.clone()))
        }
        Request::SetService(service) => {
            let old = match before {
                Some(Request::NewService(before)) => settled(before).flags,
                _ if service.flags_mask == u32::MAX => ServiceFlags::empty(),
                _ => return None,
            };
            let kept = old.bits() & !service.flags_mask;
            let mut service = settled(service);
            service.flags |= ServiceFlags::from_bits_retain(kept);
            Some(Request::NewService(service))
        }
        _ => None,
    }
}

/// Compares what is there with what a line adds. What has no effect makes no difference, so their
/// command lines tell.
fn compare(there: &Request, line: &Request) -> There {
    let is_same = |one: &Request, other: &Request| {
        CommandLine(one).to_string() == CommandLine(other).to_string()
    };
    match (there, line) {
        (Request::NewService(there), Request::NewService(line)) => {
            let (there, line) = (settled(there), settled(line));
            let changes = ServiceChanges::between(&there, &line);
            match is_same(&Request::NewService(there), &Request::NewService(line)) {
                true => There::Same,
                false => There::Other(format!("and differs: {changes}")),
            }
        }
        (Request::NewDestination(_, old), Request::NewDestination(_, new))
            if !is_same(there, line) =>
        {
            There::Other(format!("and differs: {}", DestinationChanges::between(old, new)))
        }
        (Request::NewDaemon(there), Request::NewDaemon(line)) => {
            let (there, line) = (complete(there, there), complete(line, there));
            match there == line {
                true => There::Same,
                false => There::Other(format!("as {there}")),
            }
        }
        _ => There::Same,
    }
}

/// A service as the kernel adds it: with the flags of the mask only.
fn settled(service: &Service) -> Service {
    let mut service = service.clone();
    service.flags &= ServiceFlags::from_bits_retain(service.flags_mask);
    service.flags -= ServiceFlags::HASHED;
    service.flags_mask = u32::MAX;
    service
}

/// A daemon with the kernel's defaults for what is not said. The longest message depends on the
/// interface: where it is not said, whatever runs is right.
fn complete(daemon: &SyncDaemon, running: &SyncDaemon) -> SyncDaemon {
    let mut daemon = daemon.clone();
    daemon.max_length = daemon.max_length.or(running.max_length);
    daemon.port = daemon.port.or(8848.try_into().ok());
    daemon.ttl = daemon.ttl.or(1.try_into().ok());
    if daemon.group().is_none() {
        // It is a multicast address.
        let _ = daemon.set_group(Some([224, 0, 0, 81].into()));
    }
    daemon
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use ipvs_table::Rules;

    use super::*;

    /// What is found of lines, each with `+` before it where it was done and with `=` where the kernel
    /// says that it exists, over a table.
    fn judged(table: &str, lines: &[&str]) -> Vec<Option<There>> {
        let table = table.parse::<Rules>().unwrap().table().unwrap();
        let rules: String = lines.iter().map(|line| line[1..].to_owned() + "\n").collect();
        let writes: Vec<_> = rules.parse::<Rules>().unwrap().requests().collect();
        let ends = lines.iter().map(|line| match &line[..1] {
            "+" => End::Done,
            "=" => End::Exists,
            _ => End::Failed,
        });
        let mut daemon = SyncDaemon::new(
            DaemonRole::MASTER,
            lvs::client::packet::InterfaceName::new("lo").unwrap(),
            1.into(),
        );
        daemon.max_length = 1472.try_into().ok();
        daemon.port = 8848.try_into().ok();
        let mut judged =
            judge_by(&writes, ends, |_, _| Ok((table, vec![DaemonEntry::new(daemon)])));
        (0..lines.len()).map(|number| judged.remove(&number)).collect()
    }

    fn other(text: &str) -> Option<There> {
        Some(There::Other(text.to_owned()))
    }

    #[test]
    fn what_is_there_is_compared() {
        let table = "-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.1.0.1 -m -w 2\n";
        assert_eq!(
            judged(
                table,
                &[
                    "=-A -t 10.0.0.1:80 -s rr",
                    "=-A -t 10.0.0.1:80 -s rr -b flag-1 --flags-mask 0x1",
                    "=-A -t 10.0.0.1:80",
                    "=-a -t 10.0.0.1:80 -r 10.1.0.1:80 -w 2 -m",
                    "=-a -t 10.0.0.1:80 -r 10.1.0.1 -g -w 2",
                    "=-a -t 10.0.0.1:80 -r 10.1.0.9 -g -w 2",
                    "!-A -f 1",
                    "=--start-daemon master --mcast-interface lo --syncid 1",
                    "=--start-daemon master --mcast-interface lo --syncid 2",
                ]
            ),
            [
                Some(There::Same),
                Some(There::Same),
                other("and differs: scheduler rr -> wlc"),
                Some(There::Same),
                other("and differs: forwarding masquerade -> direct routing"),
                // Somebody has deleted it since.
                None,
                None,
                Some(There::Same),
                other(
                    "as --start-daemon master --mcast-interface lo --syncid 1 \
                     --sync-maxlen 1472 --mcast-group 224.0.0.81 --mcast-port 8848 --mcast-ttl 1"
                ),
            ]
        );
    }

    #[test]
    fn what_counts_is_what_was_there_then() {
        let table = "-A -f 1 -s rr\n-A -f 2 -s rr\n-A -f 3 -s sh\n";
        assert_eq!(
            judged(
                table,
                &[
                    // The kernel's answer is of later, when both have changed.
                    "=-A -f 1 -s rr",
                    "+-E -f 1 -s sh",
                    "=-A -f 1 -s sh",
                    "=-A -f 1 -s rr",
                    "=-A -f 2 -s rr",
                    "+-D -f 2",
                    "+-A -f 2 -s sh -b sh-port",
                    "+-E -f 2 -s sh -b sh-fallback --flags-mask 0x8",
                    "=-A -f 2 -s sh -b sh-port,sh-fallback",
                    "+-a -f 2 -r 10.1.0.1 -m",
                    "+-e -f 2 -r 10.1.0.1 -m -w 5",
                    "=-a -f 2 -r 10.1.0.1 -m -w 5",
                    "=-a -f 2 -r 10.1.0.1 -m",
                    // Flags that no line says.
                    "+-E -f 3 -s sh --flags-mask 0x8",
                    "=-A -f 3 -s sh",
                    "=-A -f 3 -s rr",
                ]
            )[..],
            [
                None,
                None,
                Some(There::Same),
                other("and differs: scheduler sh -> rr"),
                None,
                None,
                None,
                None,
                Some(There::Same),
                None,
                None,
                Some(There::Same),
                other("and differs: weight 5 -> 1"),
                None,
                Some(There::Same),
                other("and differs: scheduler sh -> rr"),
            ]
        );
        // Nothing is left, and then all is known.
        assert_eq!(
            judged("", &["=-A -f 1", "+-C", "+-A -f 1", "=-A -f 1"]),
            [None, None, None, Some(There::Same)]
        );
    }
}
