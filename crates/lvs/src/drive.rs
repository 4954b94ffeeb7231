//! What reads and writes the kernel's table, for the async client and for the blocking one.

use std::collections::BTreeSet;

use ipvs_client::{Error, ErrorKind, ServiceSnapshot, Snapshot, packet::ServiceKey};

use crate::{
    Applied, ApplyError, Desired, Plan, Policy, VirtualService,
    apply::{Apply, Step},
};

/// From how many services on a snapshot of the whole table is taken rather than each read for itself.
const MANY: usize = 512;

/// Only what exists.
fn existing<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::ServiceNotFound => Ok(None),
        Err(error) => Err(error),
    }
}

macro_rules! drive {
    ($client:ty, [$($async:ident)?], [$($wait:tt)*], $suffix:literal,
     $read:ident, $apply:ident, $plan:ident, $remove:ident) => {
        impl Desired {
            #[doc = concat!(
                "What [`", stringify!($apply), "`](Self::", stringify!($apply), ") would do now: a dry run.",
                $suffix,
            )]
            pub $($async)? fn $plan(&self, client: &$client, policy: &Policy) -> Result<Plan, Error> {
                Ok(Plan::new(self, &client.snapshot()$($wait)*?, policy))
            }

            #[doc = concat!(
                "Makes the kernel's table agree, as far as the policy allows. See [`Plan::",
                stringify!($apply), "`].", $suffix,
            )]
            ///
            /// Where nothing differs this takes one snapshot and writes nothing.
            pub $($async)? fn $apply(
                &self,
                client: &$client,
                policy: &Policy,
            ) -> Result<Applied, ApplyError> {
                let plan = self.$plan(client, policy)$($wait)*.map_err(ApplyError::unread)?;
                plan.$apply(client)$($wait)*
            }
        }

        impl Plan {
            /// Carries the plan out: a batch for each phase.
            #[doc = $suffix]
            ///
            /// Where a change of a service fails, nothing of that service is drained or taken away,
            /// and all other services go on. What another program did meanwhile is no failure:
            /// the services that it changed are read again and what still differs is done, a few
            /// times if need be.
            ///
            /// Applying is idempotent: whatever interrupted it, a new plan goes on from there.
            /// Dropped half-way, the writes that were sent take effect, and the others are not sent.
            ///
            /// # Errors
            ///
            /// [`ApplyError`] when a change failed. It says what was done, what failed and what was
            /// not tried. Only a failure that concerns everything, such as a missing right, ends the
            /// apply early.
            pub $($async)? fn $apply(self, client: &$client) -> Result<Applied, ApplyError> {
                let mut apply = Apply::new(self);
                loop {
                    match apply.step() {
                        Step::Write(writes) => {
                            let outcomes = client.batch(writes)$($wait)*;
                            apply.wrote(outcomes);
                        }
                        Step::Read(keys) => match $read(client, keys)$($wait)* {
                            Ok(table) => apply.read(&table),
                            Err(error) => apply.unread(error),
                        },
                        Step::Done => return apply.finish(),
                    }
                }
            }
        }

        impl VirtualService {
            #[doc = concat!(
                "What [`", stringify!($apply), "`](Self::", stringify!($apply), ") would do now: a dry run.",
                $suffix,
            )]
            pub $($async)? fn $plan(&self, client: &$client) -> Result<Plan, Error> {
                let keys = BTreeSet::from([*self.key()]);
                let table = $read(client, &keys)$($wait)*?;
                let desired = Desired::from(self.clone());
                Ok(Plan::of_services(&keys, &desired, &table, &Policy::new()))
            }

            /// Makes the kernel's table agree: adds the service and its real servers where they are
            /// missing, changes what differs, and takes away the service's other real servers.
            /// Other services are left alone, and are not read.
            #[doc = $suffix]
            ///
            /// What stays keeps its connections, and so does a real server whose forwarding method
            /// changes. Several programs may apply the same service at once.
            ///
            /// # Errors
            ///
            #[doc = concat!("As [`Plan::", stringify!($apply), "`].")]
            pub $($async)? fn $apply(&self, client: &$client) -> Result<Applied, ApplyError> {
                let plan = self.$plan(client)$($wait)*.map_err(ApplyError::unread)?;
                plan.$apply(client)$($wait)*
            }

            /// Deletes the service with all its real servers. Returns whether it was there.
            #[doc = $suffix]
            pub $($async)? fn $remove(&self, client: &$client) -> Result<bool, Error> {
                let removed = existing(client.delete_service(self.key())$($wait)*)?;
                Ok(removed.is_some())
            }
        }

        /// Reads some services, each for itself: those that exist are in the snapshot. It takes no
        /// longer for a large table; of more than 512 services, the whole table is read, since that
        /// is faster then.
        #[doc = $suffix]
        ///
        /// What [`Plan::of_services`] and [`Draining::step_of_services`](crate::Draining) compare.
        pub $($async)? fn $read(
            client: &$client,
            keys: &BTreeSet<ServiceKey>,
        ) -> Result<Snapshot, Error> {
            if keys.len() > MANY {
                return client.snapshot()$($wait)*;
            }
            let mut services = Vec::with_capacity(keys.len());
            for key in keys {
                let Some(entry) = existing(client.service(key)$($wait)*)? else { continue };
                if let Some(destinations) = existing(client.destinations(key)$($wait)*)? {
                    services.push(ServiceSnapshot::new(entry, destinations));
                }
            }
            Ok(services.into_iter().collect())
        }
    };
}

drive!(
    ipvs_client::Client, [async], [.await], "", read_services, apply, plan, remove
);
drive!(
    ipvs_client::blocking::Client,
    [],
    [],
    " Without async.",
    blocking_read_services,
    blocking_apply,
    blocking_plan,
    blocking_remove
);
