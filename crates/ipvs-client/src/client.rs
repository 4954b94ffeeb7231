//! The async client.
//!
//! Longer than 500 lines: each call is documented here, and only here. The calls themselves are a line each.

use std::{collections::BTreeMap, os::fd::AsFd};

use ipvs_packet::{
    DaemonEntry, DaemonRole, Destination, DestinationEntry, DestinationKey, Info, Request, Service,
    ServiceEntry, ServiceKey, Statistics, SyncDaemon, Timeouts, Unreadable,
};
use ipvs_table::{ServiceSnapshot, Snapshot};
use parking_lot::MutexGuard;
use tokio::task::yield_now;

use crate::{
    BatchOptions, BatchOutcomes, Connections, CpuTotals, Error, List, Socket, Sysctl, SysctlChange,
    SysctlValue, SysctlsError, blocking,
    netlink::{direct::Direct, snapshot::SnapshotBuilder},
};

/// A client of the kernel's IPVS in one network namespace, for async programs on any runtime.
///
/// Clones are cheap and share a socket, which one call has at a time, from any task and thread. The
/// kernel answers within the system call that asks, so there is nothing to wait for but the socket,
/// and a call blocks its thread for the time that the kernel takes: microseconds as a rule. (The kernel
/// carries out one IPVS request at a time anyway, whatever socket it comes from.)
///
/// A turn of the socket is one request with all of its answers, or one datagram of a batch, up to 128
/// writes. Batches and snapshots take many turns, and calls of other threads come in between. So a
/// call waits for one turn, however long a batch or a snapshot is; the longest turn is a list of all
/// services, some two milliseconds for a thousand of them. Where many threads want the socket, the one
/// that has it may take some more turns, and those that wait get it in order after a millisecond at
/// most: so ten thousand calls at once are about as fast as one after the other.
///
/// After the work of some 500 list entries, a call lets other tasks of its thread run before it
/// takes its turn. That is the only place where its future is ever pending.
///
/// Every call may be cancelled by dropping its future. A call with one turn that was dropped has sent
/// nothing; a batch or a snapshot may be dropped between its turns.
///
/// Only the process that connected uses a client. In a child of `fork` every call over the socket fails
/// with [`OtherProcess`](crate::ErrorKind::OtherProcess), whatever threads of the parent had the socket at
/// the time: connect there.
///
/// A client keeps its network namespace: after `ip netns delete` the namespace lives on, with its links
/// and its table, until the client and its clones are dropped.
#[derive(Clone, Debug)]
pub struct Client {
    blocking: blocking::Client,
}

impl Client {
    /// Connects to IPVS in the network namespace of the calling thread.
    ///
    /// This blocks: for microseconds, or for as long as the kernel takes to load the module ip_vs,
    /// which it does if it can.
    ///
    /// # Errors
    ///
    /// [`NotAvailable`](crate::ErrorKind::NotAvailable) when the kernel has no IPVS;
    /// [`PermissionDenied`](crate::ErrorKind::PermissionDenied) without `CAP_NET_ADMIN` in the
    /// initial user namespace.
    pub fn connect() -> Result<Self, Error> {
        Socket::open().map(Self::from_socket)
    }

    /// Connects to IPVS in a network namespace, given by a file descriptor of it, such as
    /// `/run/netns/blue` or `/proc/1234/ns/net` opened for reading. Otherwise as
    /// [`connect`](Self::connect).
    ///
    /// A namespace that is not the calling thread's is entered by a thread of its own, which takes
    /// `CAP_SYS_ADMIN`.
    pub fn connect_in(namespace: impl AsFd) -> Result<Self, Error> {
        Socket::open_in(namespace).map(Self::from_socket)
    }

    /// A client on a socket.
    pub fn from_socket(socket: Socket) -> Self {
        Self { blocking: blocking::Client::from_socket(socket) }
    }

    /// Lets other tasks run if it is time, and waits for a turn of the socket.
    pub(crate) async fn turn(&self) -> Result<MutexGuard<'_, Direct>, Error> {
        {
            let mut turn = self.blocking.turn()?;
            if !turn.is_pause_due() {
                return Ok(turn);
            }
        }
        yield_now().await;
        self.blocking.turn()
    }
}

/// The commands of the kernel, and what is made of them.
impl Client {
    /// The version of IPVS and the size of its connection table.
    ///
    /// `IPVS_CMD_GET_INFO`, equivalent to the first line of `ipvsadm -L`.
    pub async fn info(&self) -> Result<Info, Error> {
        self.turn().await?.info()
    }

    /// All services, in no particular order, with their statistics; empty where there is none. One that
    /// cannot be read is an item, too: see [`List`].
    ///
    /// The kernel lists in steps, and does not say when others change the table in between (up to
    /// Linux 7.0, that of any network namespace; from 7.1 on, also while the kernel enlarges the
    /// table after many additions): then a service may be missing or come twice.
    /// [`snapshot`](Self::snapshot) sees to that.
    ///
    /// `IPVS_CMD_GET_SERVICE` as a dump, equivalent to `ipvsadm -L` without the destinations.
    pub async fn services(&self) -> Result<List<ServiceEntry>, Error> {
        self.turn().await?.services()
    }

    /// One service with its statistics.
    ///
    /// `IPVS_CMD_GET_SERVICE`, equivalent to `ipvsadm -L -t …` without the destinations.
    ///
    /// # Errors
    ///
    /// [`ServiceNotFound`](crate::ErrorKind::ServiceNotFound).
    pub async fn service(&self, key: &ServiceKey) -> Result<ServiceEntry, Error> {
        self.turn().await?.service(key)
    }

    /// Adds a service.
    ///
    /// The first service with a scheduler or a persistence engine makes the kernel load its module,
    /// and blocks the thread for as long.
    ///
    /// `IPVS_CMD_NEW_SERVICE`, equivalent to `ipvsadm -A`.
    ///
    /// # Errors
    ///
    /// [`AlreadyExists`](crate::ErrorKind::AlreadyExists), even if the settings are the same; [`SchedulerNotFound`](crate::ErrorKind::SchedulerNotFound),
    /// [`EngineNotFound`](crate::ErrorKind::EngineNotFound).
    pub async fn add_service(&self, service: &Service) -> Result<(), Error> {
        self.turn().await?.add_service(service)
    }

    /// Sets everything about a service except its key.
    ///
    /// A persistence engine that `service` does not name is removed. To change one
    /// setting, use [`modify_service`](Self::modify_service). As with
    /// [`add_service`](Self::add_service), the kernel may have to load a module.
    ///
    /// `IPVS_CMD_SET_SERVICE`, equivalent to `ipvsadm -E`.
    ///
    /// # Errors
    ///
    /// [`ServiceNotFound`](crate::ErrorKind::ServiceNotFound),
    /// [`SchedulerNotFound`](crate::ErrorKind::SchedulerNotFound),
    /// [`EngineNotFound`](crate::ErrorKind::EngineNotFound).
    pub async fn update_service(&self, service: &Service) -> Result<(), Error> {
        self.turn().await?.update_service(service)
    }

    /// Adds a service, or sets everything about the one that is there. Returns whether it was
    /// added. Where others delete and add it at the same time, it tries again, four times in all.
    ///
    /// `IPVS_CMD_NEW_SERVICE`, then `IPVS_CMD_SET_SERVICE`, in one turn. As with
    /// [`add_service`](Self::add_service), the kernel may have to load a module.
    ///
    /// # Errors
    ///
    /// [`SchedulerNotFound`](crate::ErrorKind::SchedulerNotFound),
    /// [`EngineNotFound`](crate::ErrorKind::EngineNotFound).
    pub async fn upsert_service(&self, service: &Service) -> Result<bool, Error> {
        self.turn().await?.upsert_service(service)
    }

    /// Changes some settings of a service and leaves the others as they are: reads it, lets `change`
    /// change it, and writes it if that made a difference. Returns whether it did.
    ///
    /// All in one turn, so that no other call of this client and its clones comes in between;
    /// `change` itself must not call it. As with [`add_service`](Self::add_service), the kernel may
    /// have to load a module.
    ///
    /// # Errors
    ///
    /// As [`service`](Self::service) and [`update_service`](Self::update_service).
    pub async fn modify_service(
        &self,
        key: &ServiceKey,
        change: impl FnOnce(&mut Service),
    ) -> Result<bool, Error> {
        self.turn().await?.modify_service(key, change)
    }

    /// Deletes a service with its destinations. Its connections stay in the connection table until
    /// they time out, and their packets are dropped.
    ///
    /// `IPVS_CMD_DEL_SERVICE`, equivalent to `ipvsadm -D`.
    ///
    /// # Errors
    ///
    /// [`ServiceNotFound`](crate::ErrorKind::ServiceNotFound).
    pub async fn delete_service(&self, key: &ServiceKey) -> Result<(), Error> {
        self.turn().await?.delete_service(key)
    }

    /// The destinations of a service, the newest first, with their connections and statistics. One that
    /// cannot be read is an item, too: see [`List`].
    ///
    /// The kernel answers for a service that does not exist as for one without destinations, so an
    /// empty list is checked by asking for the service. As with [`services`](Self::services), the
    /// kernel does not say when others change the list meanwhile.
    ///
    /// `IPVS_CMD_GET_DEST` as a dump, equivalent to `ipvsadm -L -t …`.
    ///
    /// # Errors
    ///
    /// [`ServiceNotFound`](crate::ErrorKind::ServiceNotFound).
    pub async fn destinations(&self, key: &ServiceKey) -> Result<List<DestinationEntry>, Error> {
        self.turn().await?.destinations(key)
    }

    /// Adds a destination to a service.
    ///
    /// One that was deleted in the last two minutes, or that still has connections, comes back with
    /// its counters.
    ///
    /// `IPVS_CMD_NEW_DEST`, equivalent to `ipvsadm -a`.
    ///
    /// # Errors
    ///
    /// [`ServiceNotFound`](crate::ErrorKind::ServiceNotFound),
    /// [`AlreadyExists`](crate::ErrorKind::AlreadyExists).
    pub async fn add_destination(
        &self,
        key: &ServiceKey,
        destination: &Destination,
    ) -> Result<(), Error> {
        self.turn().await?.add_destination(key, destination)
    }

    /// Sets everything about a destination except its key. Its connections stay.
    ///
    /// `IPVS_CMD_SET_DEST`, equivalent to `ipvsadm -e`.
    ///
    /// # Errors
    ///
    /// [`ServiceNotFound`](crate::ErrorKind::ServiceNotFound),
    /// [`DestinationNotFound`](crate::ErrorKind::DestinationNotFound).
    pub async fn update_destination(
        &self,
        key: &ServiceKey,
        destination: &Destination,
    ) -> Result<(), Error> {
        self.turn().await?.update_destination(key, destination)
    }

    /// Adds a destination, or sets everything about the one that is there. Returns whether it was
    /// added. Where others delete and add it at the same time, it tries again, four times in all.
    ///
    /// `IPVS_CMD_NEW_DEST`, then `IPVS_CMD_SET_DEST`, in one turn.
    ///
    /// # Errors
    ///
    /// [`ServiceNotFound`](crate::ErrorKind::ServiceNotFound).
    pub async fn upsert_destination(
        &self,
        key: &ServiceKey,
        destination: &Destination,
    ) -> Result<bool, Error> {
        self.turn().await?.upsert_destination(key, destination)
    }

    /// Changes some settings of a destination and leaves the others as they are: reads it (in the
    /// list of its service's), lets `change` change it, and writes it if that made a difference.
    /// Returns whether it did. A change of its key has no effect.
    ///
    /// All in one turn, so that no other call of this client and its clones comes in between;
    /// `change` itself must not call it.
    ///
    /// # Errors
    ///
    /// As [`destinations`](Self::destinations) and [`update_destination`](Self::update_destination).
    pub async fn modify_destination(
        &self,
        key: &ServiceKey,
        destination: &DestinationKey,
        change: impl FnOnce(&mut Destination),
    ) -> Result<bool, Error> {
        self.turn().await?.modify_destination(key, destination, change)
    }

    /// Deletes a destination of a service. Its connections stay in the connection table, and their
    /// packets are dropped until the destination comes back or the connection times out; with
    /// [`EXPIRE_NODEST_CONN`](Sysctl::EXPIRE_NODEST_CONN) the next packet ends the connection
    /// instead.
    ///
    /// To let connections end first, set the destination's weight to 0 and wait until it has none.
    /// Two kinds of clients do not leave by themselves. Those of a persistent service keep going to a
    /// destination of weight 0, with new connections too: turn
    /// [`EXPIRE_QUIESCENT_TEMPLATE`](Sysctl::EXPIRE_QUIESCENT_TEMPLATE) on first. And UDP that keeps
    /// coming from one port is one connection that never ends: it moves when the destination is
    /// deleted with `EXPIRE_NODEST_CONN` on.
    ///
    /// `IPVS_CMD_DEL_DEST`, equivalent to `ipvsadm -d`.
    ///
    /// # Errors
    ///
    /// [`ServiceNotFound`](crate::ErrorKind::ServiceNotFound),
    /// [`DestinationNotFound`](crate::ErrorKind::DestinationNotFound).
    pub async fn delete_destination(
        &self,
        key: &ServiceKey,
        destination: &DestinationKey,
    ) -> Result<(), Error> {
        self.turn().await?.delete_destination(key, destination)
    }

    /// The sync daemons that run: at most a master and a backup. One that cannot be read is an item, too:
    /// see [`List`].
    ///
    /// `IPVS_CMD_GET_DAEMON` as a dump, equivalent to `ipvsadm -L --daemon`.
    pub async fn daemons(&self) -> Result<List<DaemonEntry>, Error> {
        self.turn().await?.daemons()
    }

    /// Starts a sync daemon.
    ///
    /// `IPVS_CMD_NEW_DAEMON`, equivalent to `ipvsadm --start-daemon`.
    ///
    /// # Errors
    ///
    /// [`AlreadyExists`](crate::ErrorKind::AlreadyExists) when one of that role runs, even with the same
    /// settings; [`InterfaceNotFound`](crate::ErrorKind::InterfaceNotFound).
    pub async fn start_daemon(&self, daemon: &SyncDaemon) -> Result<(), Error> {
        self.turn().await?.start_daemon(daemon)
    }

    /// Stops a sync daemon.
    ///
    /// The kernel does not always acknowledge this when the daemon has just been started; then the
    /// list of daemons shows whether it was stopped.
    ///
    /// `IPVS_CMD_DEL_DAEMON`, equivalent to `ipvsadm --stop-daemon`.
    ///
    /// # Errors
    ///
    /// [`DaemonNotFound`](crate::ErrorKind::DaemonNotFound).
    pub async fn stop_daemon(&self, role: DaemonRole) -> Result<(), Error> {
        self.turn().await?.stop_daemon(role)
    }

    /// How long idle connections are kept.
    ///
    /// `IPVS_CMD_GET_CONFIG`, equivalent to `ipvsadm -L --timeout`.
    pub async fn timeouts(&self) -> Result<Timeouts, Error> {
        self.turn().await?.timeouts()
    }

    /// Sets how long idle connections are kept; 0 leaves a timeout as it is.
    ///
    /// `IPVS_CMD_SET_CONFIG`, equivalent to `ipvsadm --set`.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) when one is too long.
    pub async fn set_timeouts(&self, timeouts: Timeouts) -> Result<(), Error> {
        self.turn().await?.set_timeouts(timeouts)
    }

    /// Zeroes the statistics of a service and of its destinations.
    ///
    /// `IPVS_CMD_ZERO`, equivalent to `ipvsadm -Z -t …`.
    ///
    /// # Errors
    ///
    /// [`ServiceNotFound`](crate::ErrorKind::ServiceNotFound).
    pub async fn zero_service(&self, key: &ServiceKey) -> Result<(), Error> {
        self.turn().await?.zero_service(key)
    }

    /// Zeroes the statistics of all services, of their destinations, and the totals.
    ///
    /// `IPVS_CMD_ZERO`, equivalent to `ipvsadm -Z`.
    pub async fn zero(&self) -> Result<(), Error> {
        self.turn().await?.zero()
    }

    /// Deletes all services of the network namespace; having none is not an error.
    ///
    /// `IPVS_CMD_FLUSH`, equivalent to `ipvsadm -C`.
    pub async fn flush(&self) -> Result<(), Error> {
        self.turn().await?.flush()
    }

    /// Carries out one write, whichever it is: a [batch](Self::batch) of one.
    ///
    /// # Errors
    ///
    /// Those of the method for that command, and [`Invalid`](crate::ErrorKind::Invalid) for a request
    /// that only reads.
    pub async fn execute(&self, write: &Request) -> Result<(), Error> {
        self.batch(std::slice::from_ref(write)).await.into_result()
    }

    /// Carries out many writes in few system calls: up to 128 in one datagram, of which only those
    /// that fail are answered, and the last. Returns the outcome of each, in order. All are tried,
    /// in order, whatever happened to earlier ones; [`batch_with`](Self::batch_with) has other ways.
    ///
    /// A datagram is one turn of the socket, and executed within the system call that sends it: the
    /// thread is kept for as long as the kernel takes, less than a millisecond as a rule, more where
    /// it has to load modules or to fill large tables (mh). If the future is dropped half-way, the
    /// writes that were sent have taken effect, and the rest is not sent.
    ///
    /// Requests that only read get [`Invalid`](crate::ErrorKind::Invalid). Where the kernel dropped
    /// answers, which takes a receive buffer made too small,
    /// [`Overrun`](crate::ErrorKind::Overrun).
    ///
    /// Equivalent to `ipvsadm -R`.
    pub async fn batch(&self, writes: &[Request]) -> BatchOutcomes {
        self.batch_with(writes, BatchOptions::new()).await
    }

    /// As [`batch`](Self::batch), with options: to stop at a failure, to report progress.
    pub async fn batch_with(&self, writes: &[Request], options: BatchOptions<'_>) -> BatchOutcomes {
        let mut batch = match self.turn().await {
            Ok(turn) => turn.batch(writes, options),
            Err(error) => return BatchOutcomes::refused(writes, &error),
        };
        while self.turn().await.is_ok_and(|mut turn| turn.run_next(&mut batch)) {}
        batch.finish()
    }

    /// All services with all destinations.
    ///
    /// One list of services, one of destinations for each of them, and another list of services to
    /// see what changed meanwhile. What did is asked for by itself, and the services are listed
    /// again until a list brings no news, six times at most. So what nobody touches is there, and a
    /// change by others costs a few requests. Services that changed until the end are named:
    /// [`Snapshot::uncertain`]. Each service is as it was at one moment during the call, not all at
    /// the same.
    ///
    /// What cannot be read is named, and loses nothing else: [`Snapshot::unreadable`].
    ///
    /// Each list is one turn of the socket.
    ///
    /// Equivalent to `ipvsadm -L`.
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        self.take(SnapshotBuilder::default()).await
    }

    /// [`snapshot`](Self::snapshot), for a caller who cares for those services only of which `concerns` says
    /// so: others' changes of any others are no reason to list the services again. All are in it; of
    /// those that concern nobody, what changed meanwhile is [uncertain](Snapshot::uncertain) sooner.
    pub async fn snapshot_concerning(
        &self,
        concerns: impl Fn(&ServiceKey) -> bool + Sync,
    ) -> Result<Snapshot, Error> {
        self.take(SnapshotBuilder::concerning(&concerns)).await
    }

    /// Those of these services that exist, with all destinations. It takes no longer for a large table: two
    /// requests for each. A list of destinations that others may have changed while it was made is looked
    /// at until two looks agree, as in a [`snapshot`](Self::snapshot), or its service is
    /// [uncertain](Snapshot::uncertain).
    pub async fn snapshot_of<'a>(
        &self,
        services: impl IntoIterator<Item = &'a ServiceKey>,
    ) -> Result<Snapshot, Error> {
        let builder = SnapshotBuilder::of(services);
        self.take(builder).await
    }

    async fn take(&self, mut builder: SnapshotBuilder<'_>) -> Result<Snapshot, Error> {
        while builder.ask_next(&mut *self.turn().await?)? {}
        Ok(builder.finish())
    }

    /// Shows every service with its destinations to `visit`, one after the other in order of their
    /// keys, for tables too large to hold: besides the list of services, one list of destinations is
    /// held at a time. It looks once, so what others change meanwhile may or may not be seen; a
    /// service that is deleted meanwhile is left out. What cannot be read is an error among them, a
    /// destination behind its service.
    pub async fn visit_services(
        &self,
        mut visit: impl FnMut(Result<ServiceSnapshot, Unreadable>),
    ) -> Result<(), Error> {
        let services = self.turn().await?.services_in_order()?;
        for service in services {
            let service = match service {
                Ok(service) => service,
                Err(entry) => {
                    visit(Err(entry));
                    continue;
                }
            };
            let found = self.turn().await?.with_destinations(service)?;
            if let Some((service, unreadable)) = found {
                visit(Ok(service));
                unreadable.into_iter().for_each(|entry| visit(Err(entry)));
            }
        }
        Ok(())
    }
}

/// What the kernel reports in /proc of the client's own network namespace, even if the calling thread
/// is in another one. These calls are not async: no disk is behind /proc, and each is over in microseconds.
/// Where the calling thread is in another network namespace, a thread is started that enters the
/// client's, which takes `CAP_SYS_ADMIN`.
impl Client {
    /// The connection table, read as it is iterated, with its persistence templates.
    ///
    /// The kernel hands it over in parts of 4 KiB, without a lock: a connection that comes, goes or
    /// changes in between may be missing or come twice.
    ///
    /// `/proc/net/ip_vs_conn`, equivalent to `ipvsadm -L -n -c --persistent-conn`.
    ///
    /// # Errors
    ///
    /// [`NotAvailable`](crate::ErrorKind::NotAvailable) when ip_vs is not loaded.
    pub fn connections(&self) -> Result<Connections, Error> {
        self.blocking.connections()
    }

    /// The connection table with each connection's origin, and without the data of persistence
    /// engines.
    ///
    /// `/proc/net/ip_vs_conn_sync`, for which ipvsadm has no switch.
    pub fn connections_with_origin(&self) -> Result<Connections, Error> {
        self.blocking.connections_with_origin()
    }

    /// The counters and rates of all services together, including those that were deleted since. Like
    /// all statistics they are up to two seconds old, and count from the last [`zero`](Self::zero).
    ///
    /// `/proc/net/ip_vs_stats`, for which ipvsadm has no switch.
    pub fn totals(&self) -> Result<Statistics, Error> {
        self.blocking.totals()
    }

    /// The same by CPU, with live counters.
    ///
    /// `/proc/net/ip_vs_stats_percpu`.
    pub fn cpu_totals(&self) -> Result<CpuTotals, Error> {
        self.blocking.cpu_totals()
    }

    /// A setting `net.ipv4.vs.*` of the client's network namespace.
    ///
    /// Equivalent to `sysctl net.ipv4.vs.NAME`.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where the kernel does not have the setting;
    /// the text says since when there is one.
    pub fn sysctl<T: SysctlValue>(&self, sysctl: Sysctl<T>) -> Result<T, Error> {
        self.blocking.sysctl(sysctl)
    }

    /// Gives a setting of the client's network namespace a value.
    ///
    /// Equivalent to `sysctl -w net.ipv4.vs.NAME=VALUE`.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) when the value is not one that the setting can have;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) as for [`sysctl`](Self::sysctl);
    /// [`PermissionDenied`](crate::ErrorKind::PermissionDenied).
    pub fn set_sysctl<T: SysctlValue>(&self, sysctl: Sysctl<T>, value: T) -> Result<(), Error> {
        self.blocking.set_sysctl(sysctl, value)
    }

    /// Every setting that this kernel has, known to this crate or not, by its name after
    /// `net.ipv4.vs.`, with its value as the kernel writes it.
    ///
    /// Equivalent to `sysctl net.ipv4.vs`.
    pub fn sysctls(&self) -> Result<BTreeMap<String, String>, Error> {
        self.blocking.sysctls()
    }

    /// Sets what kube-proxy sets in its IPVS mode, and returns what had another value before:
    /// `conntrack`, `expire_nodest_conn` and `expire_quiescent_template` on; on Linux 4.1 to 5.8,
    /// `conn_reuse_mode` 0.
    ///
    /// All are read before the first is written. (kube-proxy also turns on `net.ipv4.ip_forward`,
    /// which is not of IPVS.)
    ///
    /// # Errors
    ///
    /// As for [`set_sysctl`](Self::set_sysctl), with what was changed before:
    /// [`restore_sysctls`](Self::restore_sysctls) undoes it.
    pub fn set_kube_proxy_sysctls(&self) -> Result<Vec<SysctlChange>, SysctlsError> {
        self.blocking.set_kube_proxy_sysctls()
    }

    /// Gives settings the values that they had before they were changed, the last one first. One that
    /// somebody else has changed since, or that is gone with its module, is left alone.
    ///
    /// # Errors
    ///
    /// As for [`set_sysctl`](Self::set_sysctl): the first. The others are restored all the same, and a
    /// repeated call tries those again that failed.
    pub fn restore_sysctls(&self, changes: &[SysctlChange]) -> Result<(), Error> {
        self.blocking.restore_sysctls(changes)
    }
}
