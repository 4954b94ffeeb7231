//! The same client without async.
//!
//! ```no_run
//! use ipvs_client::blocking::Client;
//!
//! let client = Client::connect()?;
//! println!("IPVS {}", client.info()?.version);
//! # Ok::<(), ipvs_client::Error>(())
//! ```

use std::{collections::BTreeMap, os::fd::AsFd, sync::Arc};

use ipvs_packet::{
    DaemonEntry, DaemonRole, Destination, DestinationEntry, DestinationKey, Info, Request, Service,
    ServiceEntry, ServiceKey, Statistics, SyncDaemon, Timeouts, Unreadable,
};
use ipvs_table::{ServiceSnapshot, Snapshot};
use netlink_talk::Owner;
use parking_lot::{Mutex, MutexGuard};

use crate::{
    BatchOptions, BatchOutcomes, Connections, CpuTotals, Error, List, Socket, Sysctl, SysctlChange,
    SysctlValue, SysctlsError,
    netlink::{direct::Direct, snapshot::SnapshotBuilder},
    proc::{connections::Source, namespace::Namespace, statistics, sysctl},
};

/// A blocking client of the kernel's IPVS in one network namespace.
///
/// Clones are cheap and share a socket, which one call has at a time: see
/// [the async client](crate::Client), which also says what holds after a fork.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    direct: Mutex<Direct>,
    /// Outside of the lock: in a child that was forked while another thread had it, nobody opens it.
    owner: Owner,
    namespace: Namespace,
}

impl Client {
    /// Connects to IPVS in the network namespace of the calling thread: see
    /// [`Client::connect`](crate::Client::connect).
    pub fn connect() -> Result<Self, Error> {
        Socket::open().map(Self::from_socket)
    }

    /// Connects to IPVS in a network namespace, given by a file descriptor of it: see
    /// [`Client::connect_in`](crate::Client::connect_in).
    pub fn connect_in(namespace: impl AsFd) -> Result<Self, Error> {
        Socket::open_in(namespace).map(Self::from_socket)
    }

    /// A client on a socket.
    pub fn from_socket(socket: Socket) -> Self {
        let Socket { direct, namespace } = socket;
        let owner = direct.socket().owner();
        Self { shared: Arc::new(Shared { direct: Mutex::new(direct), owner, namespace }) }
    }

    /// Waits for a turn of the socket.
    ///
    /// The lock knows no poison: a socket whose user panicked is as good as any, since leftover
    /// answers are known by their numbers.
    ///
    /// # Errors
    /// In another process than the one that connected.
    pub(crate) fn turn(&self) -> Result<MutexGuard<'_, Direct>, Error> {
        let other = |other| Error::other_process("using a client of IPVS", other);
        self.shared.owner.check().map_err(other)?;
        Ok(self.shared.direct.lock())
    }

    fn namespace(&self) -> &Namespace {
        &self.shared.namespace
    }
}

/// The commands of the kernel, what is made of them, and what is read in /proc.
impl Client {
    /// The version of IPVS and the size of its connection table: see
    /// [`Client::info`](crate::Client::info).
    pub fn info(&self) -> Result<Info, Error> {
        self.turn()?.info()
    }

    /// All services, in no particular order, with their statistics: see
    /// [`Client::services`](crate::Client::services).
    pub fn services(&self) -> Result<List<ServiceEntry>, Error> {
        self.turn()?.services()
    }

    /// One service with its statistics: see [`Client::service`](crate::Client::service).
    pub fn service(&self, key: &ServiceKey) -> Result<ServiceEntry, Error> {
        self.turn()?.service(key)
    }

    /// Adds a service: see [`Client::add_service`](crate::Client::add_service).
    pub fn add_service(&self, service: &Service) -> Result<(), Error> {
        self.turn()?.add_service(service)
    }

    /// Sets everything about a service except its key: see
    /// [`Client::update_service`](crate::Client::update_service).
    pub fn update_service(&self, service: &Service) -> Result<(), Error> {
        self.turn()?.update_service(service)
    }

    /// Adds a service, or sets everything about the one that is there: see
    /// [`Client::upsert_service`](crate::Client::upsert_service).
    pub fn upsert_service(&self, service: &Service) -> Result<bool, Error> {
        self.turn()?.upsert_service(service)
    }

    /// Changes some settings of a service and leaves the others as they are: see
    /// [`Client::modify_service`](crate::Client::modify_service).
    pub fn modify_service(
        &self,
        key: &ServiceKey,
        change: impl FnOnce(&mut Service),
    ) -> Result<bool, Error> {
        self.turn()?.modify_service(key, change)
    }

    /// Deletes a service with its destinations: see
    /// [`Client::delete_service`](crate::Client::delete_service).
    pub fn delete_service(&self, key: &ServiceKey) -> Result<(), Error> {
        self.turn()?.delete_service(key)
    }

    /// The destinations of a service, the newest first, with their connections and statistics: see
    /// [`Client::destinations`](crate::Client::destinations).
    pub fn destinations(&self, key: &ServiceKey) -> Result<List<DestinationEntry>, Error> {
        self.turn()?.destinations(key)
    }

    /// Adds a destination to a service: see
    /// [`Client::add_destination`](crate::Client::add_destination).
    pub fn add_destination(
        &self,
        key: &ServiceKey,
        destination: &Destination,
    ) -> Result<(), Error> {
        self.turn()?.add_destination(key, destination)
    }

    /// Sets everything about a destination except its key: see
    /// [`Client::update_destination`](crate::Client::update_destination).
    pub fn update_destination(
        &self,
        key: &ServiceKey,
        destination: &Destination,
    ) -> Result<(), Error> {
        self.turn()?.update_destination(key, destination)
    }

    /// Adds a destination, or sets everything about the one that is there: see
    /// [`Client::upsert_destination`](crate::Client::upsert_destination).
    pub fn upsert_destination(
        &self,
        key: &ServiceKey,
        destination: &Destination,
    ) -> Result<bool, Error> {
        self.turn()?.upsert_destination(key, destination)
    }

    /// Changes some settings of a destination and leaves the others as they are: see
    /// [`Client::modify_destination`](crate::Client::modify_destination).
    pub fn modify_destination(
        &self,
        key: &ServiceKey,
        destination: &DestinationKey,
        change: impl FnOnce(&mut Destination),
    ) -> Result<bool, Error> {
        self.turn()?.modify_destination(key, destination, change)
    }

    /// Deletes a destination of a service: see
    /// [`Client::delete_destination`](crate::Client::delete_destination).
    pub fn delete_destination(
        &self,
        key: &ServiceKey,
        destination: &DestinationKey,
    ) -> Result<(), Error> {
        self.turn()?.delete_destination(key, destination)
    }

    /// The sync daemons that run: see [`Client::daemons`](crate::Client::daemons).
    pub fn daemons(&self) -> Result<List<DaemonEntry>, Error> {
        self.turn()?.daemons()
    }

    /// Starts a sync daemon: see [`Client::start_daemon`](crate::Client::start_daemon).
    pub fn start_daemon(&self, daemon: &SyncDaemon) -> Result<(), Error> {
        self.turn()?.start_daemon(daemon)
    }

    /// Stops a sync daemon: see [`Client::stop_daemon`](crate::Client::stop_daemon).
    pub fn stop_daemon(&self, role: DaemonRole) -> Result<(), Error> {
        self.turn()?.stop_daemon(role)
    }

    /// How long idle connections are kept: see [`Client::timeouts`](crate::Client::timeouts).
    pub fn timeouts(&self) -> Result<Timeouts, Error> {
        self.turn()?.timeouts()
    }

    /// Sets how long idle connections are kept: see
    /// [`Client::set_timeouts`](crate::Client::set_timeouts).
    pub fn set_timeouts(&self, timeouts: Timeouts) -> Result<(), Error> {
        self.turn()?.set_timeouts(timeouts)
    }

    /// Zeroes the statistics of a service and of its destinations: see
    /// [`Client::zero_service`](crate::Client::zero_service).
    pub fn zero_service(&self, key: &ServiceKey) -> Result<(), Error> {
        self.turn()?.zero_service(key)
    }

    /// Zeroes the statistics of all services, of their destinations, and the totals: see
    /// [`Client::zero`](crate::Client::zero).
    pub fn zero(&self) -> Result<(), Error> {
        self.turn()?.zero()
    }

    /// Deletes all services of the network namespace: see [`Client::flush`](crate::Client::flush).
    pub fn flush(&self) -> Result<(), Error> {
        self.turn()?.flush()
    }

    /// Carries out one write: see [`Client::execute`](crate::Client::execute).
    pub fn execute(&self, write: &Request) -> Result<(), Error> {
        self.batch(std::slice::from_ref(write)).into_result()
    }

    /// Carries out many writes in few system calls: see [`Client::batch`](crate::Client::batch).
    pub fn batch(&self, writes: &[Request]) -> BatchOutcomes {
        self.batch_with(writes, BatchOptions::new())
    }

    /// As [`batch`](Self::batch), with options: see
    /// [`Client::batch_with`](crate::Client::batch_with).
    pub fn batch_with(&self, writes: &[Request], options: BatchOptions<'_>) -> BatchOutcomes {
        let mut batch = match self.turn() {
            Ok(turn) => turn.batch(writes, options),
            Err(error) => return BatchOutcomes::refused(writes, &error),
        };
        while self.turn().is_ok_and(|mut turn| turn.run_next(&mut batch)) {}
        batch.finish()
    }

    /// All services with all destinations: see [`Client::snapshot`](crate::Client::snapshot).
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        self.take(SnapshotBuilder::default())
    }

    /// A snapshot for a caller who cares for some services only: see
    /// [`Client::snapshot_concerning`](crate::Client::snapshot_concerning).
    pub fn snapshot_concerning(
        &self,
        concerns: impl Fn(&ServiceKey) -> bool + Sync,
    ) -> Result<Snapshot, Error> {
        self.take(SnapshotBuilder::concerning(&concerns))
    }

    /// Those of these services that exist, with all destinations: see
    /// [`Client::snapshot_of`](crate::Client::snapshot_of).
    pub fn snapshot_of<'a>(
        &self,
        services: impl IntoIterator<Item = &'a ServiceKey>,
    ) -> Result<Snapshot, Error> {
        self.take(SnapshotBuilder::of(services))
    }

    fn take(&self, mut builder: SnapshotBuilder<'_>) -> Result<Snapshot, Error> {
        while builder.ask_next(&mut *self.turn()?)? {}
        Ok(builder.finish())
    }

    /// Shows every service with its destinations to `visit`, one after the other in order of their
    /// keys, for tables too large to hold: see
    /// [`Client::visit_services`](crate::Client::visit_services).
    pub fn visit_services(
        &self,
        mut visit: impl FnMut(Result<ServiceSnapshot, Unreadable>),
    ) -> Result<(), Error> {
        let services = self.turn()?.services_in_order()?;
        for service in services {
            let service = match service {
                Ok(service) => service,
                Err(entry) => {
                    visit(Err(entry));
                    continue;
                }
            };
            let found = self.turn()?.with_destinations(service)?;
            if let Some((service, unreadable)) = found {
                visit(Ok(service));
                unreadable.into_iter().for_each(|entry| visit(Err(entry)));
            }
        }
        Ok(())
    }

    /// The connection table, read as it is iterated, with its persistence templates: see
    /// [`Client::connections`](crate::Client::connections).
    pub fn connections(&self) -> Result<Connections, Error> {
        Connections::open(self.namespace(), Source::PLAIN)
    }

    /// The connection table with each connection's origin, and without the data of persistence
    /// engines: see [`Client::connections_with_origin`](crate::Client::connections_with_origin).
    pub fn connections_with_origin(&self) -> Result<Connections, Error> {
        Connections::open(self.namespace(), Source::WITH_ORIGIN)
    }

    /// The counters and rates of all services together, including those that were deleted since: see
    /// [`Client::totals`](crate::Client::totals).
    pub fn totals(&self) -> Result<Statistics, Error> {
        statistics::read_totals(self.namespace())
    }

    /// The same by CPU, with live counters: see
    /// [`Client::cpu_totals`](crate::Client::cpu_totals).
    pub fn cpu_totals(&self) -> Result<CpuTotals, Error> {
        CpuTotals::read(self.namespace())
    }

    /// A setting `net.ipv4.vs.*` of the client's network namespace: see
    /// [`Client::sysctl`](crate::Client::sysctl).
    pub fn sysctl<T: SysctlValue>(&self, sysctl: Sysctl<T>) -> Result<T, Error> {
        sysctl::read(self.namespace(), sysctl)
    }

    /// Gives a setting of the client's network namespace a value: see
    /// [`Client::set_sysctl`](crate::Client::set_sysctl).
    pub fn set_sysctl<T: SysctlValue>(&self, sysctl: Sysctl<T>, value: T) -> Result<(), Error> {
        sysctl::write(self.namespace(), sysctl, value)
    }

    /// Every setting that this kernel has, known to this crate or not, by its name after
    /// `net.ipv4.vs.`, with its value as the kernel writes it: see
    /// [`Client::sysctls`](crate::Client::sysctls).
    pub fn sysctls(&self) -> Result<BTreeMap<String, String>, Error> {
        sysctl::list(self.namespace())
    }

    /// Sets what kube-proxy sets in its IPVS mode, and returns what had another value before: see
    /// [`Client::set_kube_proxy_sysctls`](crate::Client::set_kube_proxy_sysctls).
    pub fn set_kube_proxy_sysctls(&self) -> Result<Vec<SysctlChange>, SysctlsError> {
        sysctl::prepare_kube_proxy(self.namespace())
    }

    /// Gives settings the values that they had before they were changed: see
    /// [`Client::restore_sysctls`](crate::Client::restore_sysctls).
    pub fn restore_sysctls(&self, changes: &[SysctlChange]) -> Result<(), Error> {
        sysctl::restore(self.namespace(), changes)
    }
}
