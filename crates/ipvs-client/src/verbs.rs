//! The calls of both clients that take one turn of the socket, written once. What they mean is
//! documented at [`Client`](crate::Client).

use ipvs_packet::{
    DaemonEntry, DaemonRole, Destination, DestinationEntry, DestinationKey, Info, Request, Service,
    ServiceEntry, ServiceKey, SyncDaemon, Timeouts, Unreadable,
};

use crate::{
    Error, ErrorKind, List, ServiceSnapshot,
    netlink::{direct::Direct, reply},
};

/// How often an upsert adds or updates at most, where others delete and add the same object.
const UPSERT_ATTEMPTS: usize = 4;

impl Direct {
    pub(crate) fn info(&mut self) -> Result<Info, Error> {
        only(self.run(&Request::GetInfo, reply::info)?)
    }

    pub(crate) fn services(&mut self) -> Result<List<ServiceEntry>, Error> {
        Ok(self.run(&Request::ListServices, reply::service)?.into_iter().collect())
    }

    /// All services in order of their keys, each once.
    pub(crate) fn services_in_order(
        &mut self,
    ) -> Result<Vec<Result<ServiceEntry, Unreadable>>, Error> {
        let key = |entry: &Result<ServiceEntry, Unreadable>| match entry {
            Ok(entry) => Some(*entry.service.key()),
            Err(entry) => entry.service,
        };
        let mut services = self.run(&Request::ListServices, reply::service)?;
        services.sort_by_key(key);
        services.dedup_by(|one, other| key(one).is_some() && key(one) == key(other));
        Ok(services)
    }

    pub(crate) fn service(&mut self, key: &ServiceKey) -> Result<ServiceEntry, Error> {
        Ok(only(self.run(&Request::GetService(*key), reply::service)?)??)
    }

    pub(crate) fn add_service(&mut self, service: &Service) -> Result<(), Error> {
        self.write(&Request::NewService(service.clone()))
    }

    pub(crate) fn update_service(&mut self, service: &Service) -> Result<(), Error> {
        self.write(&Request::SetService(service.clone()))
    }

    pub(crate) fn upsert_service(&mut self, service: &Service) -> Result<bool, Error> {
        let (add, update) =
            (Request::NewService(service.clone()), Request::SetService(service.clone()));
        self.upsert(&add, &update)
    }

    pub(crate) fn modify_service(
        &mut self,
        key: &ServiceKey,
        change: impl FnOnce(&mut Service),
    ) -> Result<bool, Error> {
        let old = self.service(key)?.service;
        let mut new = old.clone();
        change(&mut new);
        if new == old {
            return Ok(false);
        }
        self.update_service(&new).map(|()| true)
    }

    pub(crate) fn delete_service(&mut self, key: &ServiceKey) -> Result<(), Error> {
        self.write(&Request::DeleteService(*key))
    }

    pub(crate) fn destinations(
        &mut self,
        key: &ServiceKey,
    ) -> Result<List<DestinationEntry>, Error> {
        let destinations = self.run(&Request::ListDestinations(*key), reply::destination)?;
        // For a service that does not exist the kernel lists nothing, too.
        if destinations.is_empty() {
            self.service(key)?;
        }
        Ok(destinations.into_iter().collect())
    }

    /// A service with its destinations, and those that cannot be read; `None` where it is gone.
    pub(crate) fn with_destinations(
        &mut self,
        service: ServiceEntry,
    ) -> Result<Option<(ServiceSnapshot, Vec<Unreadable>)>, Error> {
        match self.destinations(service.service.key()) {
            Ok(entries) => {
                let (destinations, unreadable) = entries.apart();
                Ok(Some((ServiceSnapshot::new(service, destinations), unreadable)))
            }
            Err(error) if error.kind() == ErrorKind::ServiceNotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn add_destination(
        &mut self,
        key: &ServiceKey,
        destination: &Destination,
    ) -> Result<(), Error> {
        self.write(&Request::NewDestination(*key, destination.clone()))
    }

    pub(crate) fn update_destination(
        &mut self,
        key: &ServiceKey,
        destination: &Destination,
    ) -> Result<(), Error> {
        self.write(&Request::SetDestination(*key, destination.clone()))
    }

    pub(crate) fn upsert_destination(
        &mut self,
        key: &ServiceKey,
        destination: &Destination,
    ) -> Result<bool, Error> {
        let add = Request::NewDestination(*key, destination.clone());
        let update = Request::SetDestination(*key, destination.clone());
        self.upsert(&add, &update)
    }

    pub(crate) fn modify_destination(
        &mut self,
        key: &ServiceKey,
        destination: &DestinationKey,
        change: impl FnOnce(&mut Destination),
    ) -> Result<bool, Error> {
        let (entries, unreadable) = self.destinations(key)?.apart();
        let found = entries.into_iter().find(|entry| entry.destination.key == *destination);
        let Some(old) = found.map(|entry| entry.destination) else {
            // It may be one that cannot be read.
            let is_it = |entry: &Unreadable| entry.destination.is_none_or(|it| it == *destination);
            if let Some(entry) = unreadable.into_iter().find(is_it) {
                return Err(entry.into());
            }
            return Err(Error::new(
                ErrorKind::DestinationNotFound,
                format_args!("reading destination {destination} of service {key}"),
                "the service has no such destination",
            ));
        };
        let mut new = old.clone();
        change(&mut new);
        new.key = *destination;
        if new == old {
            return Ok(false);
        }
        self.update_destination(key, &new).map(|()| true)
    }

    pub(crate) fn delete_destination(
        &mut self,
        key: &ServiceKey,
        destination: &DestinationKey,
    ) -> Result<(), Error> {
        self.write(&Request::DeleteDestination(*key, *destination))
    }

    pub(crate) fn daemons(&mut self) -> Result<List<DaemonEntry>, Error> {
        Ok(self.run(&Request::ListDaemons, reply::daemon)?.into_iter().collect())
    }

    pub(crate) fn start_daemon(&mut self, daemon: &SyncDaemon) -> Result<(), Error> {
        self.write(&Request::NewDaemon(daemon.clone()))
    }

    pub(crate) fn stop_daemon(&mut self, role: DaemonRole) -> Result<(), Error> {
        self.write(&Request::DeleteDaemon(role))
    }

    pub(crate) fn timeouts(&mut self) -> Result<Timeouts, Error> {
        only(self.run(&Request::GetTimeouts, reply::timeouts)?)
    }

    pub(crate) fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), Error> {
        self.write(&Request::SetTimeouts(timeouts))
    }

    pub(crate) fn zero_service(&mut self, key: &ServiceKey) -> Result<(), Error> {
        self.write(&Request::Zero(Some(*key)))
    }

    pub(crate) fn zero(&mut self) -> Result<(), Error> {
        self.write(&Request::Zero(None))
    }

    pub(crate) fn flush(&mut self) -> Result<(), Error> {
        self.write(&Request::Flush)
    }

    /// Adds, or updates what is there. Returns whether it was added.
    fn upsert(&mut self, add: &Request, update: &Request) -> Result<bool, Error> {
        let mut attempts = UPSERT_ATTEMPTS;
        loop {
            attempts -= 1;
            match self.write(add) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                result => return result.map(|()| true),
            }
            let error = match self.write(update) {
                Ok(()) => return Ok(false),
                Err(error) => error,
            };
            // Deleted in between. Where the service of a destination was, adding says so.
            let gone = [ErrorKind::ServiceNotFound, ErrorKind::DestinationNotFound];
            if !gone.contains(&error.kind()) || attempts == 0 {
                return Err(error);
            }
        }
    }

    fn write(&mut self, request: &Request) -> Result<(), Error> {
        self.run(request, |_| None::<()>).map(drop)
    }
}

/// The one reply to a request that has one.
fn only<T>(replies: Vec<T>) -> Result<T, Error> {
    replies
        .into_iter()
        .next()
        .ok_or_else(|| Error::malformed("reading an IPVS answer", "it is not what was asked for"))
}
