//! What the host has beside the table: virtual addresses, kernel settings, time-outs and the sync daemon.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use lvs::client::{
    Client,
    packet::{DaemonRole, SyncDaemon},
};
use netns_link::{Address, NetNs, blocking::Links};

use crate::{
    config::{Config, VirtualAddress},
    records::Records,
};

/// The dummy link of the virtual addresses that name none.
pub(crate) const LINK: &str = "lvs0";

/// So often addresses are announced, with this time between.
const ANNOUNCEMENTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);

/// Whether this director has the virtual addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Master,
    Backup,
}

/// Where an address is.
pub(crate) type Placed = (String, IpAddr);

/// The addresses that are to be added and to be taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AddressPlan {
    /// Those that this program makes, and that were not there.
    pub(crate) add: Vec<Placed>,
    /// Those that this program made and that are no longer wanted.
    pub(crate) remove: Vec<Placed>,
    /// Those that it made, and that are gone.
    pub(crate) forget: Vec<Placed>,
}

impl AddressPlan {
    /// From what is wanted, what is there and what this program has made. What others made stays, wanted or
    /// not.
    pub(crate) fn new(
        wanted: &BTreeSet<Placed>,
        present: &BTreeSet<Placed>,
        own: &BTreeSet<Placed>,
        stays: impl Fn(&IpAddr) -> bool,
    ) -> Self {
        let unwanted = || own.difference(wanted).cloned();
        Self {
            add: wanted.difference(present).cloned().collect(),
            remove: unwanted().filter(|it| present.contains(it) && !stays(&it.1)).collect(),
            forget: unwanted().filter(|it| !present.contains(it)).collect(),
        }
    }
}

/// The addresses that a role has.
pub(crate) fn wanted(config: &Config, role: Role) -> BTreeSet<Placed> {
    let place =
        |it: &VirtualAddress| (it.link.clone().unwrap_or_else(|| LINK.to_owned()), it.address);
    match role {
        Role::Master => config.addresses.iter().map(place).collect(),
        Role::Backup => BTreeSet::new(),
    }
}

/// The host's own part.
pub(crate) struct Host {
    pub(crate) namespace: NetNs,
    links: Links,
    /// What failed, so that it is said once.
    said: BTreeSet<String>,
}

/// What was done and what failed.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) changes: Vec<String>,
    pub(crate) failures: Vec<String>,
}

impl Host {
    pub(crate) fn new(namespace: NetNs) -> Result<Self, netns_link::Error> {
        let links = Links::connect(&namespace)?;
        Ok(Self { namespace, links, said: BTreeSet::new() })
    }

    fn present(&self, links: &BTreeSet<&str>) -> Result<BTreeSet<Placed>, netns_link::Error> {
        let mut present = BTreeSet::new();
        for name in links {
            let Some(link) = self.links.find(name)? else { continue };
            let addresses = self.links.addresses(&link)?;
            present.extend(addresses.iter().map(|it| ((*name).to_owned(), it.ip())));
        }
        Ok(present)
    }

    /// What lies between the addresses that are there and those that are wanted.
    pub(crate) fn plan(
        &self,
        wanted: &BTreeSet<Placed>,
        records: &Records,
        stays: impl Fn(&IpAddr) -> bool,
    ) -> Result<AddressPlan, netns_link::Error> {
        let own = records.addresses();
        let links = wanted.iter().chain(own).map(|(link, _)| link.as_str()).collect();
        let present = self.present(&links)?;
        Ok(AddressPlan::new(wanted, &present, own, stays))
    }

    /// Takes away what is no longer wanted.
    pub(crate) fn remove(&self, plan: &AddressPlan, records: &mut Records, done: &mut Done) {
        for (name, ip) in &plan.remove {
            let removed = self.links.find(name).and_then(|link| match link {
                Some(link) => self.links.delete_address(&link, Address::host(*ip)).map(drop),
                None => Ok(()),
            });
            match removed {
                Ok(()) => {
                    done.changes.push(format!("address {ip} of {name} taken away"));
                    records.disown(&[(name.clone(), *ip)]);
                }
                Err(error) => done.failures.push(error.to_string()),
            }
        }
        records.disown(&plan.forget);
        if let Err(error) = records.store() {
            done.failures.push(error.to_string());
        }
    }

    /// Adds what is missing. It is recorded first: what is added is found after a crash.
    pub(crate) fn add(
        &self,
        plan: &AddressPlan,
        records: &mut Records,
        done: &mut Done,
    ) -> Vec<Placed> {
        if plan.add.is_empty() {
            return Vec::new();
        }
        records.own(&plan.add);
        if let Err(error) = records.store() {
            records.disown(&plan.add);
            done.failures.push(format!("no address is added: {error}"));
            return Vec::new();
        }
        let mut added = Vec::new();
        for (name, ip) in &plan.add {
            let result = self.link(name).and_then(|link| {
                let added = self.links.add_address(&link, Address::host(*ip).nodad());
                added.map(drop).map_err(|error| error.to_string())
            });
            match result {
                Ok(()) => {
                    done.changes.push(format!("address {ip} added to {name}"));
                    added.push((name.clone(), *ip));
                }
                Err(error) => done.failures.push(error),
            }
        }
        added
    }

    fn link(&self, name: &str) -> Result<netns_link::Link, String> {
        if name == LINK {
            let dummy = self.links.create_dummy(name).map_err(|error| error.to_string())?;
            self.links.up(&dummy.link).map_err(|error| error.to_string())?;
            return Ok(dummy.link);
        }
        let found = self.links.find(name).map_err(|error| error.to_string())?;
        found.ok_or_else(|| format!("addresses: there is no link {name}"))
    }

    /// Announces addresses in a thread of its own.
    pub(crate) fn announce(&self, config: &Config, addresses: &BTreeSet<IpAddr>, done: &mut Done) {
        let mut by_link: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
        for address in config.addresses.iter().filter(|it| addresses.contains(&it.address)) {
            if let Some(link) = &address.announce {
                by_link.entry(link).or_default().push(address.address);
            }
        }
        for (name, addresses) in by_link {
            let announcer = match self.links.find(name) {
                Ok(Some(link)) => netns_link::Announcer::open(&self.namespace, &link, &addresses),
                Ok(None) => {
                    done.failures.push(format!("announce on {name}: there is no such link"));
                    continue;
                }
                Err(error) => Err(error),
            };
            match announcer {
                // The first at once: it is what counts.
                Ok(announcer) => match announcer.send() {
                    Ok(()) => {
                        done.changes
                            .push(format!("{} addresses announced on {name}", addresses.len()));
                        tokio::spawn(async move {
                            for _ in 1..ANNOUNCEMENTS {
                                tokio::time::sleep(PAUSE).await;
                                let _ = announcer.send();
                            }
                        });
                    }
                    Err(error) => done.failures.push(error.to_string()),
                },
                Err(error) => done.failures.push(error.to_string()),
            }
        }
    }

    /// Writes the settings that differ.
    pub(crate) fn settings(&self, config: &Config, done: &mut Done) {
        for (setting, value) in &config.settings {
            match setting.read(&self.namespace) {
                Ok(there) if is_same(&there, value) => {}
                Ok(there) => match setting.write(&self.namespace, value) {
                    Ok(()) => done.changes.push(format!("{setting}: {there} -> {value}")),
                    Err(error) => done.failures.push(error.to_string()),
                },
                Err(error) => done.failures.push(error.to_string()),
            }
        }
    }

    /// Those of a set of failures that were not said before.
    pub(crate) fn unsaid(&mut self, failures: &[String]) -> Vec<String> {
        let now: BTreeSet<String> = failures.iter().cloned().collect();
        let new = now.difference(&self.said).cloned().collect();
        self.said = now;
        new
    }
}

/// `1 2` is what the kernel writes as `1<tab>2`.
pub(crate) fn is_same(there: &str, wanted: &str) -> bool {
    there.split_whitespace().eq(wanted.split_whitespace())
}

/// Sets the time-outs that differ.
pub(crate) async fn timeouts(client: &Client, config: &Config, done: &mut Done) {
    let wanted = config.timeouts;
    if wanted == Default::default() {
        return;
    }
    let result = async {
        let mut there = client.timeouts().await?;
        let before = there;
        let set = |field: &mut u32, value: u32| {
            if value != 0 {
                *field = value;
            }
        };
        set(&mut there.tcp, wanted.tcp);
        set(&mut there.tcp_fin, wanted.tcp_fin);
        set(&mut there.udp, wanted.udp);
        if there == before {
            return Ok(false);
        }
        client.set_timeouts(there).await.map(|()| true)
    };
    match result.await {
        Ok(true) => done.changes.push("time-outs set".to_owned()),
        Ok(false) => {}
        Err(error) => {
            let error: lvs::client::Error = error;
            done.failures.push(error.to_string());
        }
    }
}

/// The two halves of a change of the sync daemon: what the new role needs is started first, and what the
/// old one had is stopped last, with the addresses between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Start,
    Stop,
}

/// Starts or stops sync daemons. One that runs with other settings than wanted is started again.
pub(crate) async fn daemon(
    client: &Client,
    config: &Config,
    role: Role,
    records: &mut Records,
    half: Half,
    done: &mut Done,
) {
    let roles = match role {
        Role::Master => (DaemonRole::MASTER, DaemonRole::BACKUP),
        Role::Backup => (DaemonRole::BACKUP, DaemonRole::MASTER),
    };
    let result = async {
        if config.sync.is_none() && records.daemons().is_empty() {
            return Ok(());
        }
        // One that cannot be read is not ours.
        let there: Vec<_> = client.daemons().await?.into_iter().flatten().collect();
        let find = |role: DaemonRole| there.iter().find(|it| it.daemon.role == role);
        if half == Half::Stop {
            let unwanted = [roles.1].into_iter().chain(config.sync.is_none().then_some(roles.0));
            for role in unwanted {
                if records.daemons().contains(&role.0) {
                    if find(role).is_some() {
                        client.stop_daemon(role).await?;
                        done.changes.push(format!("sync daemon {role} stopped"));
                    }
                    records.disown_daemon(role.0);
                }
            }
            return Ok(());
        }
        let Some(mut wanted) = config.sync.clone() else { return Ok(()) };
        wanted.role = roles.0;
        if let Some(there) = find(roles.0) {
            if is_as_wanted(&there.daemon, &wanted) {
                return Ok(());
            }
            client.stop_daemon(roles.0).await?;
        }
        // Recorded first: a daemon that was started is found after a crash.
        records.own_daemon(roles.0.0);
        if let Err(error) = records.store() {
            done.failures.push(error.to_string());
        }
        client.start_daemon(&wanted).await?;
        done.changes.push(format!("sync daemon {} started on {}", roles.0, wanted.interface));
        Ok(())
    };
    if let Err(error) = result.await {
        let error: lvs::client::Error = error;
        done.failures.push(error.to_string());
    }
}

/// What is not named is the kernel's choice.
fn is_as_wanted(there: &SyncDaemon, wanted: &SyncDaemon) -> bool {
    there.interface == wanted.interface
        && there.sync_id == wanted.sync_id
        && wanted.max_length.is_none_or(|it| there.max_length == Some(it))
        && wanted.port.is_none_or(|it| there.port == Some(it))
        && wanted.ttl.is_none_or(|it| there.ttl == Some(it))
        && wanted.group().is_none_or(|it| there.group() == Some(it))
}
