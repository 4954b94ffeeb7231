//! The ranges from which a server gives addresses to services, as its ServiceCIDR objects say.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use kube::runtime::watcher::Event;
use tokio::sync::watch;

use super::watched::{ServiceCidr, Watched};

/// What is known of them.
#[derive(Debug)]
pub(super) struct Ranges {
    found: BTreeMap<String, Vec<IpNet>>,
    /// Those of a list that is not whole yet.
    listing: BTreeMap<String, Vec<IpNet>>,
    told: watch::Sender<BTreeSet<IpNet>>,
    /// Whether they were listed, or are not to be had.
    pub(super) are_known: bool,
}

impl Ranges {
    pub(super) fn new() -> Self {
        Self {
            found: BTreeMap::new(),
            listing: BTreeMap::new(),
            told: watch::Sender::new(BTreeSet::new()),
            are_known: false,
        }
    }

    /// The ranges, and how they change.
    pub(super) fn follow(&self) -> watch::Receiver<BTreeSet<IpNet>> {
        self.told.subscribe()
    }

    pub(super) fn take_in(&mut self, event: Event<Watched<ServiceCidr>>) {
        let entry = |cidr: &ServiceCidr| {
            let ranges = cidr.spec.cidrs.iter().filter_map(|text| text.parse().ok());
            (cidr.metadata.name.clone(), ranges.collect::<Vec<IpNet>>())
        };
        match event {
            Event::Init => self.listing.clear(),
            Event::InitApply(cidr) => self.listing.extend([entry(&cidr.object)]),
            Event::InitDone => {
                self.found = std::mem::take(&mut self.listing);
                self.are_known = true;
            }
            Event::Apply(cidr) => self.found.extend([entry(&cidr.object)]),
            Event::Delete(cidr) => {
                self.found.remove(&cidr.object.metadata.name);
            }
        }
        if self.are_known {
            let all: BTreeSet<IpNet> = self.found.values().flatten().copied().collect();
            self.told.send_if_modified(|before| {
                let is_new = *before != all;
                *before = all;
                is_new
            });
        }
    }
}
