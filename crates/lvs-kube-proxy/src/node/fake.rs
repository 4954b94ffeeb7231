//! A node without a kernel, for tests: the model of the table, and sets that can refuse. It ends in the
//! middle if it is told to, and looks after each step whether something holds that must always hold.

use std::{
    cell::{Ref, RefCell, RefMut},
    collections::{BTreeMap, BTreeSet},
    future::pending,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
};

use ipnet::IpNet;
use lvs::{
    Plan,
    client::{
        Snapshot,
        packet::{DestinationKey, Protocol, Request, ServiceKey},
    },
    model::{self, Errno, Scripted},
};

use super::{Addresses, Listening, NoRules, Node, Routes, StaleClients, Written};
use crate::{
    failure::{Failure, Step},
    health::Health,
    records::LedgerWrite,
    rules::{Element, RuleWrite},
};

/// A node that lives on when a proxy ends. Clones are the same node.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeNode(Rc<RefCell<Present>>);

/// What is on it.
#[derive(Debug, Default)]
pub(crate) struct Present {
    pub(crate) table: model::Kernel,
    /// Of the node's own links.
    pub(crate) own: BTreeSet<IpAddr>,
    pub(crate) gateways: BTreeSet<IpAddr>,
    pub(crate) listening: BTreeSet<(Protocol, u16)>,
    /// Of the proxy's link.
    pub(crate) addresses: BTreeSet<IpAddr>,
    pub(crate) routes: Routes,
    pub(crate) elements: BTreeSet<Element>,
    generation: u32,
    pub(crate) is_confirmed: bool,
    pub(crate) looks_for_rules: usize,
    pub(crate) ledger: String,
    pub(crate) ports: BTreeSet<Listening>,
    pub(crate) refusals: Refusals,
    /// How many writes there were.
    pub(crate) writes: usize,
    /// How many reads there were.
    pub(crate) reads: usize,
    /// After this number of writes the proxy is killed.
    pub(crate) writes_left: Option<usize>,
    /// What must hold after each write, and returns what does not.
    pub(crate) law: Option<Law>,
    /// What did not hold.
    pub(crate) broken: Option<String>,
    /// Each write, in order.
    pub(crate) log: Vec<String>,
}

/// What must hold on a node; it returns what does not.
pub(crate) type Law = fn(&Present) -> Result<(), String>;

/// What the node refuses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusals {
    pub(crate) services: BTreeSet<ServiceKey>,
    pub(crate) real_servers: BTreeSet<DestinationKey>,
    /// The names of those that the kernel lacks.
    pub(crate) schedulers: BTreeSet<String>,
    pub(crate) addresses: BTreeSet<IpAddr>,
    pub(crate) routes: BTreeSet<IpNet>,
    pub(crate) rules: bool,
    /// There are none.
    pub(crate) nftables: Option<NoRules>,
    pub(crate) ledger: bool,
    pub(crate) ports: bool,
    pub(crate) table: bool,
}

impl Refusals {
    /// With which error a write of the table is refused.
    fn of(&self, request: &Request) -> Option<Errno> {
        match request {
            Request::NewService(service) | Request::SetService(service)
                if self.schedulers.contains(&service.scheduler.to_string()) =>
            {
                Some(Errno::ENOENT)
            }
            Request::NewService(service) if self.services.contains(service.key()) => {
                Some(Errno::EINVAL)
            }
            Request::NewDestination(_, server) if self.real_servers.contains(&server.key) => {
                Some(Errno::EINVAL)
            }
            _ => None,
        }
    }
}

/// Serves nothing, as long as it lives.
#[derive(Debug)]
pub(crate) struct FakeListener {
    node: FakeNode,
    place: Listening,
}

impl Drop for FakeListener {
    fn drop(&mut self) {
        self.node.present_mut().ports.remove(&self.place);
    }
}

impl FakeNode {
    pub(crate) fn present(&self) -> Ref<'_, Present> {
        self.0.borrow()
    }

    pub(crate) fn present_mut(&self) -> RefMut<'_, Present> {
        self.0.borrow_mut()
    }

    /// Before a write: whoever is killed here never comes back.
    async fn step(&self, what: String) {
        let is_killed = {
            let mut present = self.present_mut();
            match &mut present.writes_left {
                Some(0) => true,
                Some(left) => {
                    *left -= 1;
                    false
                }
                None => false,
            }
        };
        if is_killed {
            pending::<()>().await;
        }
        let mut present = self.present_mut();
        present.writes += 1;
        present.log.push(what);
    }

    /// After a write.
    fn look(&self) {
        let mut present = self.present_mut();
        if let Some(law) = present.law
            && let Err(broken) = law(&present)
        {
            let last = present.log.last().cloned().unwrap_or_default();
            present.broken.get_or_insert_with(|| format!("after {last}: {broken}"));
        }
    }

    fn refuses(&self, refuses: impl Fn(&Refusals) -> bool) -> bool {
        refuses(&self.present().refusals)
    }
}

fn refused<T>(step: Step, what: impl std::fmt::Display) -> Result<T, Failure> {
    Err(Failure::new(step, format!("{what}: refused")))
}

impl Node for FakeNode {
    type Listener = FakeListener;

    async fn addresses(&mut self) -> Result<Addresses, Failure> {
        let mut present = self.present_mut();
        present.reads += 1;
        Ok(Addresses {
            node: present.own.clone(),
            own: present.addresses.clone(),
            gateways: present.gateways.clone(),
            broadcasts: BTreeSet::new(),
        })
    }

    fn listening(&mut self) -> BTreeSet<(Protocol, u16)> {
        self.present().listening.clone()
    }

    async fn routes(&mut self) -> Result<Routes, Failure> {
        let mut present = self.present_mut();
        present.reads += 1;
        Ok(present.routes.clone())
    }

    async fn table(
        &mut self,
        services: Option<&BTreeSet<ServiceKey>>,
    ) -> Result<Snapshot, Failure> {
        let mut present = self.present_mut();
        present.reads += 1;
        if present.refusals.table {
            return refused(Step::Table, "read the table");
        }
        let mut snapshot = present.table.snapshot();
        if let Some(services) = services {
            snapshot.services.retain(|key, _| services.contains(key));
        }
        Ok(snapshot)
    }

    async fn rules(&mut self) -> Result<BTreeSet<Element>, Failure> {
        Ok(self.present().elements.clone())
    }

    fn rules_generation(&mut self) -> Option<u32> {
        Some(self.present().generation)
    }

    fn look_for_rules(&mut self) -> Result<(), NoRules> {
        self.present_mut().looks_for_rules += 1;
        self.present().refusals.nftables.clone().map_or(Ok(()), Err)
    }

    fn source(&self, ipv4: bool) -> Option<IpAddr> {
        self.present().own.iter().find(|address| address.is_ipv4() == ipv4).copied()
    }

    fn forwards_ipv6(&self) -> bool {
        true
    }

    async fn store(&mut self, write: &LedgerWrite) -> Result<(), Failure> {
        self.step(format!("ledger {write:?}")).await;
        if self.refuses(|refusals| refusals.ledger) {
            return refused(Step::Ledger, "write the ledger");
        }
        write.apply_to(&mut self.present_mut().ledger);
        self.look();
        Ok(())
    }

    async fn add_route(&mut self, range: IpNet, source: Option<IpAddr>) -> Result<(), Failure> {
        self.step(format!("+ route {range}")).await;
        if self.refuses(|refusals| refusals.routes.contains(&range)) {
            return refused(Step::Routes, range);
        }
        self.present_mut().routes.insert(range, source);
        self.look();
        Ok(())
    }

    async fn remove_route(&mut self, range: IpNet) -> Result<(), Failure> {
        self.step(format!("- route {range}")).await;
        self.present_mut().routes.remove(&range);
        self.look();
        Ok(())
    }

    async fn change_addresses(
        &mut self,
        added: &BTreeSet<IpAddr>,
        removed: &BTreeSet<IpAddr>,
    ) -> Result<(), Failure> {
        let mut result = Ok(());
        for address in added {
            self.step(format!("+ address {address}")).await;
            match self.refuses(|refusals| refusals.addresses.contains(address)) {
                true => result = refused(Step::Addresses, address),
                false => {
                    self.present_mut().addresses.insert(*address);
                }
            }
            self.look();
        }
        for address in removed {
            self.step(format!("- address {address}")).await;
            self.present_mut().addresses.remove(address);
            self.look();
        }
        result
    }

    async fn remove_routes_of_kernel(
        &mut self,
        _: &BTreeSet<IpAddr>,
        _: &BTreeSet<IpAddr>,
    ) -> Result<(), Failure> {
        Ok(())
    }

    async fn write_rules(&mut self, write: RuleWrite<'_>) -> Result<(), Failure> {
        self.step("rules".to_owned()).await;
        if self.refuses(|refusals| refusals.rules) {
            return refused(Step::Rules, "write the rules");
        }
        let mut present = self.present_mut();
        write.apply_to(&mut present.elements);
        present.generation = present.generation.wrapping_add(1);
        drop(present);
        self.look();
        Ok(())
    }

    /// What lvs makes of the plan on a copy of the table is what it writes to it, and is then written here,
    /// one by one.
    async fn write_table(&mut self, plan: Plan) -> Written {
        let port = Scripted::new(self.present().table.clone());
        let refusals = self.present().refusals.clone();
        port.refuse(move |request| refusals.of(request));
        let changes: Vec<_> =
            plan.changes().map(|change| (change.request(), change.to_string())).collect();
        let mut changes = changes.into_iter();
        let written = Written::by(plan.apply(&port).await);
        for request in port.take_writes() {
            let text = changes.find(|(other, _)| *other == request).map(|(_, text)| text);
            self.step(text.unwrap_or_else(|| format!("{request:?}"))).await;
            if self.present().refusals.of(&request).is_none() {
                let _ = self.present_mut().table.execute(&request);
            }
            self.look();
        }
        written
    }

    async fn forget_clients(&mut self, _: &StaleClients) -> Result<usize, Failure> {
        Ok(0)
    }

    fn take_confirmation(&mut self) -> bool {
        std::mem::take(&mut self.present_mut().is_confirmed)
    }

    fn listen(&mut self, place: Listening, _: &Arc<Health>) -> Result<FakeListener, Failure> {
        if self.refuses(|refusals| refusals.ports) {
            return refused(Step::Listen, "the port is in use");
        }
        assert!(self.present_mut().ports.insert(place), "{place:?} is served already");
        Ok(FakeListener { node: self.clone(), place })
    }

    fn take_counts(&mut self) -> BTreeMap<&'static str, u64> {
        BTreeMap::new()
    }
}
