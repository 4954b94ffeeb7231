//! The commands as methods, written once for the async and the blocking client.

use ipvs_packet::{DestinationKey, ServiceKey};

use crate::{Error, ErrorKind};

/// How many entries a snapshot reads, and how many writes a batch carries out, before other tasks may
/// run: some hundred microseconds' worth on most machines. Giving way more often would cost more
/// than it is good for.
#[cfg(feature = "_async")]
pub(crate) const AT_A_TIME: usize = 512;
/// What a list costs besides its entries, in entries.
pub(crate) const LIST: usize = 16;

/// What calls keep of the replies.
#[allow(clippy::needless_pass_by_value, reason = "all are used alike")]
pub(crate) mod pick {
    use ipvs_packet::{
        DaemonEntry, DestinationEntry, Info, Reply, Service, ServiceEntry, Timeouts,
    };

    pub(crate) fn nothing(_: Reply) -> Option<()> {
        None
    }

    pub(crate) fn service(reply: Reply) -> Option<ServiceEntry> {
        if let Reply::Service(entry) = reply { Some(entry) } else { None }
    }

    pub(crate) fn service_settings(reply: Reply) -> Option<Service> {
        service(reply).map(|entry| entry.service)
    }

    pub(crate) fn destination(reply: Reply) -> Option<DestinationEntry> {
        if let Reply::Destination(entry) = reply { Some(entry) } else { None }
    }

    pub(crate) fn daemon(reply: Reply) -> Option<DaemonEntry> {
        if let Reply::Daemon(entry) = reply { Some(entry) } else { None }
    }

    pub(crate) fn timeouts(reply: Reply) -> Option<Timeouts> {
        if let Reply::Timeouts(timeouts, _) = reply { Some(timeouts) } else { None }
    }

    pub(crate) fn info(reply: Reply) -> Option<Info> {
        if let Reply::Info(info, _) = reply { Some(info) } else { None }
    }
}

/// The one answer of a request that has one.
pub(crate) fn only<T>(picked: Vec<T>) -> Result<T, Error> {
    picked
        .into_iter()
        .next()
        .ok_or_else(|| Error::malformed("reading an IPVS answer", "it is not what was asked for"))
}

/// The service has no such destination: found out without the kernel.
pub(crate) fn no_destination(key: &ServiceKey, destination: &DestinationKey) -> Error {
    Error::new(
        ErrorKind::DestinationNotFound,
        format_args!("reading destination {destination} of service {key}"),
        "the service has no such destination",
    )
}

/// Writes the `impl` block of a client that has `run`, `bulk` and `pause`.
macro_rules! verbs {
    ($client:ident, [$($async:ident)?], [$($wait:tt)*]) => {
        impl $client {
            /// The version of IPVS and the size of its connection table.
            ///
            /// `IPVS_CMD_GET_INFO`, equivalent to the first line of `ipvsadm -L`.
            pub $($async)? fn info(&self) -> Result<Info, Error> {
                only(self.run(&Request::GetInfo, pick::info)$($wait)*?)
            }

            /// All services, in no particular order, with their statistics; empty where there is
            /// none.
            ///
            /// The kernel lists in steps, and does not say when others change the table in between
            /// (up to Linux 7.0, that of any network namespace): then a service may be missing or
            /// come twice.
            ///
            /// `IPVS_CMD_GET_SERVICE` as a dump, equivalent to `ipvsadm -L` without the
            /// destinations.
            pub $($async)? fn services(&self) -> Result<Vec<ServiceEntry>, Error> {
                self.run(&Request::ListServices, pick::service)$($wait)*
            }

            /// One service with its statistics.
            ///
            /// `IPVS_CMD_GET_SERVICE`, equivalent to `ipvsadm -L -t …` without the destinations.
            ///
            /// # Errors
            ///
            /// [`ServiceNotFound`](crate::ErrorKind::ServiceNotFound).
            pub $($async)? fn service(&self, key: &ServiceKey) -> Result<ServiceEntry, Error> {
                only(self.run(&Request::GetService(*key), pick::service)$($wait)*?)
            }

            /// Adds a service.
            ///
            /// `IPVS_CMD_NEW_SERVICE`, equivalent to `ipvsadm -A`.
            ///
            /// # Errors
            ///
            /// [`AlreadyExists`](crate::ErrorKind::AlreadyExists) whatever the settings of the one that is
            /// there; [`SchedulerNotFound`](crate::ErrorKind::SchedulerNotFound),
            /// [`EngineNotFound`](crate::ErrorKind::EngineNotFound).
            pub $($async)? fn add_service(&self, service: &Service) -> Result<(), Error> {
                self.write(&Request::NewService(service.clone()))$($wait)*
            }

            /// Sets everything about a service but its key.
            ///
            /// Everything: a persistence engine that `service` does not name is taken away. To
            /// change one setting, change it in what [`service`](Self::service) tells.
            ///
            /// `IPVS_CMD_SET_SERVICE`, equivalent to `ipvsadm -E`.
            ///
            /// # Errors
            ///
            /// [`ServiceNotFound`](crate::ErrorKind::ServiceNotFound),
            /// [`SchedulerNotFound`](crate::ErrorKind::SchedulerNotFound),
            /// [`EngineNotFound`](crate::ErrorKind::EngineNotFound).
            pub $($async)? fn update_service(&self, service: &Service) -> Result<(), Error> {
                self.write(&Request::SetService(service.clone()))$($wait)*
            }

            /// Deletes a service with its destinations. Its connections stay in the connection
            /// table until they time out, and their packets are dropped.
            ///
            /// `IPVS_CMD_DEL_SERVICE`, equivalent to `ipvsadm -D`.
            ///
            /// # Errors
            ///
            /// [`ServiceNotFound`](crate::ErrorKind::ServiceNotFound).
            pub $($async)? fn delete_service(&self, key: &ServiceKey) -> Result<(), Error> {
                self.write(&Request::DeleteService(*key))$($wait)*
            }

            /// The destinations of a service, the newest first, with their connections and
            /// statistics.
            ///
            /// The kernel answers for a service that does not exist as for one without
            /// destinations, so an empty list is checked by asking for the service. As with
            /// [`services`](Self::services), the kernel does not say when others change the list
            /// meanwhile.
            ///
            /// `IPVS_CMD_GET_DEST` as a dump, equivalent to `ipvsadm -L -t …`.
            ///
            /// # Errors
            ///
            /// [`ServiceNotFound`](crate::ErrorKind::ServiceNotFound).
            pub $($async)? fn destinations(
                &self,
                key: &ServiceKey,
            ) -> Result<Vec<DestinationEntry>, Error> {
                let list = Request::ListDestinations(*key);
                let destinations = self.run(&list, pick::destination)$($wait)*?;
                if destinations.is_empty() {
                    self.service(key)$($wait)*?;
                }
                Ok(destinations)
            }

            /// Adds a destination to a service.
            ///
            /// One that was deleted in the last two minutes, or that still has connections, comes
            /// back with its counters.
            ///
            /// `IPVS_CMD_NEW_DEST`, equivalent to `ipvsadm -a`.
            ///
            /// # Errors
            ///
            /// [`ServiceNotFound`](crate::ErrorKind::ServiceNotFound),
            /// [`AlreadyExists`](crate::ErrorKind::AlreadyExists).
            pub $($async)? fn add_destination(
                &self,
                key: &ServiceKey,
                destination: &Destination,
            ) -> Result<(), Error> {
                self.write(&Request::NewDestination(*key, destination.clone()))$($wait)*
            }

            /// Sets everything about a destination but its key. Its connections stay.
            ///
            /// `IPVS_CMD_SET_DEST`, equivalent to `ipvsadm -e`.
            ///
            /// # Errors
            ///
            /// [`ServiceNotFound`](crate::ErrorKind::ServiceNotFound),
            /// [`DestinationNotFound`](crate::ErrorKind::DestinationNotFound).
            pub $($async)? fn update_destination(
                &self,
                key: &ServiceKey,
                destination: &Destination,
            ) -> Result<(), Error> {
                self.write(&Request::SetDestination(*key, destination.clone()))$($wait)*
            }

            /// Deletes a destination of a service. Its connections stay in the connection table,
            /// and their packets are dropped while it is away. To let them end first, set its
            /// weight to 0 and wait.
            ///
            /// `IPVS_CMD_DEL_DEST`, equivalent to `ipvsadm -d`.
            ///
            /// # Errors
            ///
            /// [`ServiceNotFound`](crate::ErrorKind::ServiceNotFound),
            /// [`DestinationNotFound`](crate::ErrorKind::DestinationNotFound).
            pub $($async)? fn delete_destination(
                &self,
                key: &ServiceKey,
                destination: &DestinationKey,
            ) -> Result<(), Error> {
                self.write(&Request::DeleteDestination(*key, *destination))$($wait)*
            }

            /// The sync daemons that run: at most a master and a backup.
            ///
            /// `IPVS_CMD_GET_DAEMON` as a dump, equivalent to `ipvsadm -L --daemon`.
            pub $($async)? fn daemons(&self) -> Result<Vec<DaemonEntry>, Error> {
                self.run(&Request::ListDaemons, pick::daemon)$($wait)*
            }

            /// Starts a sync daemon.
            ///
            /// `IPVS_CMD_NEW_DAEMON`, equivalent to `ipvsadm --start-daemon`.
            ///
            /// # Errors
            ///
            /// [`AlreadyExists`](crate::ErrorKind::AlreadyExists) when one of that role runs, whatever its
            /// settings; [`InterfaceNotFound`](crate::ErrorKind::InterfaceNotFound).
            pub $($async)? fn start_daemon(&self, daemon: &SyncDaemon) -> Result<(), Error> {
                self.write(&Request::NewDaemon(daemon.clone()))$($wait)*
            }

            /// Stops a sync daemon.
            ///
            /// The kernel does not always acknowledge it when it has just been started; then the
            /// list of daemons tells whether it was stopped.
            ///
            /// `IPVS_CMD_DEL_DAEMON`, equivalent to `ipvsadm --stop-daemon`.
            ///
            /// # Errors
            ///
            /// [`DaemonNotFound`](crate::ErrorKind::DaemonNotFound).
            pub $($async)? fn stop_daemon(&self, role: DaemonRole) -> Result<(), Error> {
                self.write(&Request::DeleteDaemon(role))$($wait)*
            }

            /// How long idle connections are kept.
            ///
            /// `IPVS_CMD_GET_CONFIG`, equivalent to `ipvsadm -L --timeout`.
            pub $($async)? fn timeouts(&self) -> Result<Timeouts, Error> {
                only(self.run(&Request::GetTimeouts, pick::timeouts)$($wait)*?)
            }

            /// Sets how long idle connections are kept; 0 leaves a timeout as it is.
            ///
            /// `IPVS_CMD_SET_CONFIG`, equivalent to `ipvsadm --set`.
            ///
            /// # Errors
            ///
            /// [`Invalid`](crate::ErrorKind::Invalid) when one is too long.
            pub $($async)? fn set_timeouts(&self, timeouts: Timeouts) -> Result<(), Error> {
                self.write(&Request::SetTimeouts(timeouts))$($wait)*
            }

            /// Zeroes the statistics of a service and of its destinations.
            ///
            /// `IPVS_CMD_ZERO`, equivalent to `ipvsadm -Z -t …`.
            ///
            /// # Errors
            ///
            /// [`ServiceNotFound`](crate::ErrorKind::ServiceNotFound).
            pub $($async)? fn zero_service(&self, key: &ServiceKey) -> Result<(), Error> {
                self.write(&Request::Zero(Some(*key)))$($wait)*
            }

            /// Zeroes the statistics of all services, of their destinations, and the totals.
            ///
            /// `IPVS_CMD_ZERO`, equivalent to `ipvsadm -Z`.
            pub $($async)? fn zero(&self) -> Result<(), Error> {
                self.write(&Request::Zero(None))$($wait)*
            }

            /// Adds a service, or sets everything about the one that is there. Returns whether it
            /// was added. `IPVS_CMD_NEW_SERVICE`, then `IPVS_CMD_SET_SERVICE`.
            ///
            /// # Errors
            ///
            /// [`SchedulerNotFound`](crate::ErrorKind::SchedulerNotFound),
            /// [`EngineNotFound`](crate::ErrorKind::EngineNotFound).
            pub $($async)? fn upsert_service(&self, service: &Service) -> Result<bool, Error> {
                match self.add_service(service)$($wait)* {
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                        self.update_service(service)$($wait)*.map(|()| false)
                    }
                    result => result.map(|()| true),
                }
            }

            /// Changes some settings of a service and leaves the others as they are: reads it, lets
            /// `change` change it, and writes it if that made a difference. Returns whether it did.
            ///
            /// # Errors
            ///
            /// As [`service`](Self::service) and [`update_service`](Self::update_service).
            pub $($async)? fn modify_service(
                &self,
                key: &ServiceKey,
                change: impl FnOnce(&mut Service),
            ) -> Result<bool, Error> {
                let old = self.service(key)$($wait)*?.service;
                let mut new = old.clone();
                change(&mut new);
                if new == old {
                    return Ok(false);
                }
                self.update_service(&new)$($wait)*.map(|()| true)
            }

            /// Adds a destination, or sets everything about the one that is there. Returns whether
            /// it was added. `IPVS_CMD_NEW_DEST`, then `IPVS_CMD_SET_DEST`.
            ///
            /// # Errors
            ///
            /// [`ServiceNotFound`](crate::ErrorKind::ServiceNotFound).
            pub $($async)? fn upsert_destination(
                &self,
                key: &ServiceKey,
                destination: &Destination,
            ) -> Result<bool, Error> {
                match self.add_destination(key, destination)$($wait)* {
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                        self.update_destination(key, destination)$($wait)*.map(|()| false)
                    }
                    result => result.map(|()| true),
                }
            }

            /// Changes some settings of a destination and leaves the others as they are: reads it
            /// (in the list of its service's), lets `change` change it, and writes it if that made
            /// a difference. Returns whether it did. A change of its key has no effect.
            ///
            /// # Errors
            ///
            /// As [`destinations`](Self::destinations) and
            /// [`update_destination`](Self::update_destination).
            pub $($async)? fn modify_destination(
                &self,
                key: &ServiceKey,
                destination: &DestinationKey,
                change: impl FnOnce(&mut Destination),
            ) -> Result<bool, Error> {
                let entries = self.destinations(key)$($wait)*?;
                let found = entries.into_iter().find(|entry| entry.destination.key == *destination);
                let Some(old) = found.map(|entry| entry.destination) else {
                    return Err(no_destination(key, destination));
                };
                let mut new = old.clone();
                change(&mut new);
                new.key = *destination;
                if new == old {
                    return Ok(false);
                }
                self.update_destination(key, &new)$($wait)*.map(|()| true)
            }

            /// Carries out many writes in few system calls: up to 128 in one datagram, of which
            /// only those that fail are answered, and the last. Returns what came of each, in
            /// order. All are tried, in order, whatever became of those before; see
            /// [`batch_with`](Self::batch_with) for other ways.
            ///
            /// Batches and snapshots of one client are carried out one after the other; other calls
            /// need not wait for them. A datagram of writes is executed within the system call that
            /// sends it, and other tasks have their turn after every 512 writes: the thread is kept
            /// for as long as the kernel takes for these, less than a millisecond as a rule, more
            /// where it has to load modules or fill large tables (mh). Dropped half-way, what was
            /// sent takes effect, and the rest is not sent.
            ///
            /// Requests that only read get [`Invalid`](crate::ErrorKind::Invalid). Where the kernel
            /// dropped answers, which takes a receive buffer made too small,
            /// [`Overrun`](crate::ErrorKind::Overrun).
            ///
            /// Equivalent to `ipvsadm -R`.
            pub $($async)? fn batch(&self, writes: &[Request]) -> Vec<Result<(), Error>> {
                self.batch_with(writes, BatchOptions::new())$($wait)*
            }

            /// As [`batch`](Self::batch), with options: to stop at a failure, to tell of progress.
            pub $($async)? fn batch_with(
                &self,
                writes: &[Request],
                options: BatchOptions<'_>,
            ) -> Vec<Result<(), Error>> {
                let mut line = self.bulk()$($wait)*;
                let mut batch = line.batch(writes, options);
                let mut work = 0;
                while line.run_next(&mut batch) {
                    pause(&mut work, batch.in_datagram())$($wait)*;
                }
                batch.finish()
            }

            /// All services with all destinations: one list of services, one of destinations for
            /// each of them, and another of services to see that nothing changed meanwhile. Where
            /// something did, it is taken again, up to four times; see
            /// [`Snapshot::uncertain`].
            ///
            /// Batches and snapshots of one client are carried out one after the other; other calls
            /// need not wait for them. Other tasks have their turn after every few lists; one list
            /// is read at once.
            ///
            /// Equivalent to `ipvsadm -L`.
            pub $($async)? fn snapshot(&self) -> Result<Snapshot, Error> {
                let mut line = self.bulk()$($wait)*;
                let mut attempts = snapshot::ATTEMPTS;
                let mut work = 0;
                loop {
                    let services = line.run(&Request::ListServices, snapshot::listed)?;
                    pause(&mut work, services.len())$($wait)*;
                    let mut taking = Taking::new(services);
                    while let Some(key) = taking.next() {
                        let list = Request::ListDestinations(key);
                        let destinations = line.run(&list, pick::destination)?;
                        let length = destinations.len();
                        if taking.put(destinations) {
                            pause(&mut work, length)$($wait)*;
                            taking.compare(&key, line.run(&list, pick::destination)?);
                        }
                        pause(&mut work, verbs::LIST + length)$($wait)*;
                    }
                    let after = line.run(&Request::ListServices, pick::service_settings)?;
                    let snapshot = taking.finish(after);
                    attempts -= 1;
                    if snapshot.is_certain() || attempts == 0 {
                        return Ok(snapshot);
                    }
                }
            }

            /// Shows every service with its destinations to `visit`, one after the other in order
            /// of their keys, for tables too large to hold: besides the list of services, one list
            /// of destinations is held at a time. It looks once, so what others change meanwhile
            /// may or may not be seen; a service that goes away meanwhile is left out.
            pub $($async)? fn visit_services(
                &self,
                mut visit: impl FnMut(ServiceSnapshot),
            ) -> Result<(), Error> {
                let mut services = self.services()$($wait)*?;
                services.sort_by_key(|entry| *entry.service.key());
                services.dedup_by_key(|entry| *entry.service.key());
                for entry in services {
                    let key = *entry.service.key();
                    let list = Request::ListDestinations(key);
                    let destinations = self.run(&list, pick::destination)$($wait)*?;
                    if destinations.is_empty() {
                        match self.service(&key)$($wait)* {
                            Err(error) if error.kind() == ErrorKind::ServiceNotFound => continue,
                            result => result?,
                        };
                    }
                    visit(ServiceSnapshot::new(entry, destinations));
                }
                Ok(())
            }

            /// Deletes all services of the network namespace; it is no error if there is none.
            ///
            /// `IPVS_CMD_FLUSH`, equivalent to `ipvsadm -C`.
            pub $($async)? fn flush(&self) -> Result<(), Error> {
                self.write(&Request::Flush)$($wait)*
            }

            $($async)? fn write(&self, request: &Request) -> Result<(), Error> {
                self.run(request, pick::nothing)$($wait)*.map(drop)
            }
        }
    };
}
pub(crate) use verbs;
