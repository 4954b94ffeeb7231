//! From what should be to what is.

use std::{collections::HashMap, fmt};

use ipvs_client::{
    BatchOptions, Client, Error, ErrorKind,
    packet::{Destination, DestinationKey, Request, Service, ServiceKey},
};

use crate::VirtualService;

/// One write to the kernel's table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// The service is added. `ipvsadm -A`.
    AddService(Service),
    /// The service's settings are changed. `ipvsadm -E`.
    UpdateService(Service),
    /// A real server is added. `ipvsadm -a`.
    AddDestination(ServiceKey, Destination),
    /// A real server's settings are changed; its connections stay. `ipvsadm -e`.
    UpdateDestination(ServiceKey, Destination),
    /// A real server is taken away. `ipvsadm -d`.
    DeleteDestination(ServiceKey, DestinationKey),
}

impl From<Change> for Request {
    fn from(change: Change) -> Self {
        match change {
            Change::AddService(service) => Self::NewService(service),
            Change::UpdateService(service) => Self::SetService(service),
            Change::AddDestination(key, destination) => Self::NewDestination(key, destination),
            Change::UpdateDestination(key, destination) => Self::SetDestination(key, destination),
            Change::DeleteDestination(key, destination) => {
                Self::DeleteDestination(key, destination)
            }
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddService(service) => write!(f, "add service {}", service.key()),
            Self::UpdateService(service) => write!(f, "update service {}", service.key()),
            Self::AddDestination(key, destination) => {
                write!(f, "add real server {} to service {key}", destination.key)
            }
            Self::UpdateDestination(key, destination) => {
                write!(f, "update real server {} of service {key}", destination.key)
            }
            Self::DeleteDestination(key, destination) => {
                write!(f, "delete real server {destination} of service {key}")
            }
        }
    }
}

impl VirtualService {
    /// Makes the kernel's table agree: adds the service and its real servers where they are
    /// missing, changes what differs, and takes away the service's other real servers. Other
    /// services are left alone. Returns the writes that this took, in order; none where nothing
    /// differed.
    ///
    /// What stays keeps its connections, and so does a real server whose forwarding method changes.
    ///
    /// # Errors
    ///
    /// The first of the [`Client`]'s methods that would do the same. The writes go out as one
    /// batch, which stops where one fails; applying again goes on from there.
    pub async fn apply(&self, client: &Client) -> Result<Vec<Change>, Error> {
        let changes = self.plan(client).await?;
        let writes: Vec<Request> = changes.iter().cloned().map(Request::from).collect();
        let options = BatchOptions::new().stop_at_failure();
        client.batch_with(&writes, options).await.into_result()?;
        Ok(changes)
    }

    /// The writes that [`apply`](Self::apply) would do now.
    pub async fn plan(&self, client: &Client) -> Result<Vec<Change>, Error> {
        let key = *self.key();
        let mut changes = Vec::new();
        let mut present: HashMap<DestinationKey, Destination> = HashMap::new();
        match client.service(&key).await {
            Ok(entry) => {
                if entry.service != *self.service() {
                    changes.push(Change::UpdateService(self.service().clone()));
                }
                let entries = client.destinations(&key).await?;
                present.extend(
                    entries.into_iter().map(|entry| (entry.destination.key, entry.destination)),
                );
            }
            Err(error) if error.kind() == ErrorKind::ServiceNotFound => {
                changes.push(Change::AddService(self.service().clone()));
            }
            Err(error) => return Err(error),
        }
        for destination in self.destinations() {
            match present.remove(&destination.key) {
                None => changes.push(Change::AddDestination(key, destination.clone())),
                Some(found) if found != *destination => {
                    changes.push(Change::UpdateDestination(key, destination.clone()));
                }
                Some(_) => {}
            }
        }
        let mut others: Vec<_> = present.into_keys().collect();
        others.sort();
        changes.extend(others.into_iter().map(|other| Change::DeleteDestination(key, other)));
        Ok(changes)
    }

    /// Deletes the service with all its real servers. Returns whether it was there.
    pub async fn remove(&self, client: &Client) -> Result<bool, Error> {
        match client.delete_service(self.key()).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::ServiceNotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}
