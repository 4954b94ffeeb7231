//! What reads and writes a table: everything here goes through a [`Port`].

use std::collections::BTreeSet;

use ipvs_client::{
    Error, ErrorKind,
    packet::{Request, ServiceKey},
};

use crate::{
    Applied, ApplyError, Desired, Plan, Policy, Port, VirtualService,
    apply::{Apply, Step},
    port::read_services,
};

impl Desired {
    /// What [`apply`](Self::apply) would do now: a dry run.
    ///
    /// # Errors
    ///
    /// Where the table cannot be read.
    pub async fn plan(&self, port: &impl Port, policy: &Policy) -> Result<Plan, Error> {
        let concerns = |key: &ServiceKey| self.get(key).is_some() || policy.may_delete(key);
        Ok(Plan::new(self, &port.snapshot_concerning(&concerns).await?, policy))
    }

    /// Makes the kernel's table agree, as far as the policy allows. See [`Plan::apply`].
    ///
    /// Where nothing differs this takes one snapshot and writes nothing.
    ///
    /// With a [`Drain`](crate::Drain) in the policy, real servers that leave get weight 0 and stay, for
    /// one apply has no clock: [`Applied::draining`] names them. Only what is empty, or has no time at
    /// all, is taken away. A later apply takes away what is empty by then, and never ends the drain of what
    /// is not. What waits for them is [`apply_until_drained`](Self::apply_until_drained), or a
    /// [`Reconciler`](crate::Reconciler).
    ///
    /// # Errors
    ///
    /// As [`Plan::apply`], and where the table cannot be read.
    pub async fn apply(&self, port: &impl Port, policy: &Policy) -> Result<Applied, ApplyError> {
        let plan = self.plan(port, policy).await.map_err(ApplyError::unread)?;
        plan.apply(port).await
    }
}

impl Plan {
    /// Carries the plan out: a batch for each phase.
    ///
    /// Where a change of a service fails, nothing of that service is drained or taken away, and all
    /// other services go on. What another program did meanwhile is no failure: the services that it
    /// changed are read again and what still differs is done, a few times if need be. That counts for
    /// the same [limit](Policy::max_deletions).
    ///
    /// Real servers that are drained are left at weight 0: see [`Desired::apply`].
    ///
    /// Applying is idempotent: whatever interrupted it, a new plan goes on from there. Dropped
    /// half-way, the writes that were sent take effect, and the others are not sent.
    ///
    /// # Errors
    ///
    /// [`ApplyError`] when a change failed, or a service [cannot be read](Self::unreadable). It says what
    /// was done, what failed and what was not tried.
    /// Only a failure that concerns everything, such as a missing right, ends the apply early.
    pub async fn apply(self, port: &impl Port) -> Result<Applied, ApplyError> {
        let mut apply = Apply::new(self);
        loop {
            match apply.step() {
                Step::Write(writes) => {
                    let outcomes = port.batch(writes).await;
                    apply.wrote(outcomes);
                }
                Step::Read(keys) => match read_services(port, keys).await {
                    Ok(table) => apply.read(&table),
                    Err(error) => apply.unread(error),
                },
                Step::Done => return apply.finish(),
            }
        }
    }
}

impl VirtualService {
    /// What [`apply`](Self::apply) would do now: a dry run.
    ///
    /// # Errors
    ///
    /// Where the service cannot be read.
    pub async fn plan(&self, port: &impl Port) -> Result<Plan, Error> {
        let keys = BTreeSet::from([*self.key()]);
        let table = read_services(port, &keys).await?;
        let desired = Desired::from(self.clone());
        Ok(Plan::of_services(&keys, &desired, &table, &Policy::new()))
    }

    /// Makes the kernel's table agree: adds the service and its real servers where they are missing,
    /// changes what differs, and takes away the service's other real servers. Other services are left
    /// alone, and are not read.
    ///
    /// What stays keeps its connections, and so does a real server whose forwarding method changes.
    /// Several programs may apply the same service at once.
    ///
    /// # Errors
    ///
    /// As [`Plan::apply`].
    pub async fn apply(&self, port: &impl Port) -> Result<Applied, ApplyError> {
        let plan = self.plan(port).await.map_err(ApplyError::unread)?;
        plan.apply(port).await
    }

    /// Deletes the service with all its real servers. Returns whether it was there.
    ///
    /// # Errors
    ///
    /// Where it cannot be deleted.
    pub async fn delete(&self, port: &impl Port) -> Result<bool, Error> {
        let outcomes = port.batch(&[Request::DeleteService(*self.key())]).await;
        match outcomes.into_iter().collect::<Result<(), Error>>() {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::ServiceNotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}
