//! The commands as methods, written once for the async and the blocking client.

use ipvs_packet::Reply;

use crate::Error;

/// The one answer of a request that has one.
pub(crate) fn only<T>(
    replies: Vec<Reply>,
    pick: impl FnMut(Reply) -> Option<T>,
) -> Result<T, Error> {
    replies
        .into_iter()
        .find_map(pick)
        .ok_or_else(|| Error::malformed("reading an IPVS answer", "it is not what was asked for"))
}

/// The answers of a list.
pub(crate) fn all<T>(replies: Vec<Reply>, pick: impl FnMut(Reply) -> Option<T>) -> Vec<T> {
    replies.into_iter().filter_map(pick).collect()
}

/// Writes the `impl` block of a client that has `run(Request) -> Result<Vec<Reply>, Error>`.
macro_rules! verbs {
    ($client:ident, [$($async:ident)?], [$($wait:tt)*]) => {
        impl $client {
            /// The version of IPVS and the size of its connection table.
            ///
            /// `IPVS_CMD_GET_INFO`, equivalent to the first line of `ipvsadm -L`.
            pub $($async)? fn info(&self) -> Result<Info, Error> {
                let replies = self.run(Request::GetInfo)$($wait)*?;
                only(replies, |reply| match reply {
                    Reply::Info(info, _) => Some(info),
                    _ => None,
                })
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
                let replies = self.run(Request::ListServices)$($wait)*?;
                Ok(all(replies, |reply| match reply {
                    Reply::Service(entry) => Some(entry),
                    _ => None,
                }))
            }

            /// One service with its statistics.
            ///
            /// `IPVS_CMD_GET_SERVICE`, equivalent to `ipvsadm -L -t …` without the destinations.
            ///
            /// # Errors
            ///
            /// [`ServiceNotFound`](crate::ErrorKind::ServiceNotFound).
            pub $($async)? fn service(&self, key: &ServiceKey) -> Result<ServiceEntry, Error> {
                let replies = self.run(Request::GetService(*key))$($wait)*?;
                only(replies, |reply| match reply {
                    Reply::Service(entry) => Some(entry),
                    _ => None,
                })
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
                self.run(Request::NewService(service.clone()))$($wait)*?;
                Ok(())
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
                self.run(Request::SetService(service.clone()))$($wait)*?;
                Ok(())
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
                self.run(Request::DeleteService(*key))$($wait)*?;
                Ok(())
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
                let replies = self.run(Request::ListDestinations(*key))$($wait)*?;
                if replies.is_empty() {
                    self.service(key)$($wait)*?;
                }
                Ok(all(replies, |reply| match reply {
                    Reply::Destination(entry) => Some(entry),
                    _ => None,
                }))
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
                self.run(Request::NewDestination(*key, destination.clone()))$($wait)*?;
                Ok(())
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
                self.run(Request::SetDestination(*key, destination.clone()))$($wait)*?;
                Ok(())
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
                self.run(Request::DeleteDestination(*key, *destination))$($wait)*?;
                Ok(())
            }

            /// The sync daemons that run: at most a master and a backup.
            ///
            /// `IPVS_CMD_GET_DAEMON` as a dump, equivalent to `ipvsadm -L --daemon`.
            pub $($async)? fn daemons(&self) -> Result<Vec<DaemonEntry>, Error> {
                let replies = self.run(Request::ListDaemons)$($wait)*?;
                Ok(all(replies, |reply| match reply {
                    Reply::Daemon(entry) => Some(entry),
                    _ => None,
                }))
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
                self.run(Request::NewDaemon(daemon.clone()))$($wait)*?;
                Ok(())
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
                self.run(Request::DeleteDaemon(role))$($wait)*?;
                Ok(())
            }

            /// How long idle connections are kept.
            ///
            /// `IPVS_CMD_GET_CONFIG`, equivalent to `ipvsadm -L --timeout`.
            pub $($async)? fn timeouts(&self) -> Result<Timeouts, Error> {
                let replies = self.run(Request::GetTimeouts)$($wait)*?;
                only(replies, |reply| match reply {
                    Reply::Timeouts(timeouts, _) => Some(timeouts),
                    _ => None,
                })
            }

            /// Sets how long idle connections are kept; 0 leaves a timeout as it is.
            ///
            /// `IPVS_CMD_SET_CONFIG`, equivalent to `ipvsadm --set`.
            ///
            /// # Errors
            ///
            /// [`Invalid`](crate::ErrorKind::Invalid) when one is too long.
            pub $($async)? fn set_timeouts(&self, timeouts: Timeouts) -> Result<(), Error> {
                self.run(Request::SetTimeouts(timeouts))$($wait)*?;
                Ok(())
            }

            /// Zeroes the statistics of a service and of its destinations.
            ///
            /// `IPVS_CMD_ZERO`, equivalent to `ipvsadm -Z -t …`.
            ///
            /// # Errors
            ///
            /// [`ServiceNotFound`](crate::ErrorKind::ServiceNotFound).
            pub $($async)? fn zero_service(&self, key: &ServiceKey) -> Result<(), Error> {
                self.run(Request::Zero(Some(*key)))$($wait)*?;
                Ok(())
            }

            /// Zeroes the statistics of all services, of their destinations, and the totals.
            ///
            /// `IPVS_CMD_ZERO`, equivalent to `ipvsadm -Z`.
            pub $($async)? fn zero(&self) -> Result<(), Error> {
                self.run(Request::Zero(None))$($wait)*?;
                Ok(())
            }

            /// Deletes all services of the network namespace; it is no error if there is none.
            ///
            /// `IPVS_CMD_FLUSH`, equivalent to `ipvsadm -C`.
            pub $($async)? fn flush(&self) -> Result<(), Error> {
                self.run(Request::Flush)$($wait)*?;
                Ok(())
            }
        }
    };
}
pub(crate) use verbs;
