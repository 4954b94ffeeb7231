//! The model as a [`Port`](crate::Port), and one that does what a test says.

use std::{
    collections::BTreeSet,
    future::poll_fn,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use ipvs_client::{
    Error, ErrorKind, List, Snapshot,
    packet::{
        DestinationEntry, DestinationKey, Info, Request, ServiceEntry, ServiceKey, Unreadable,
        Version,
    },
};

use super::{Errno, Kernel};
use crate::port::sealed;

/// A [`Kernel`] behind a port that does what a test says: it refuses writes, loses answers, lets
/// others write in between, and takes time.
///
/// ```
/// use std::time::Instant;
///
/// use lvs::{Desired, Policy, Reconciler, block_on, client::packet::Request};
/// use lvs::model::{Errno, Kernel, Scripted};
///
/// let port = Scripted::new(Kernel::new());
/// port.refuse(|request| match request {
///     Request::NewService(service) if service.scheduler.to_string() == "mh" => Some(Errno::ENOENT),
///     _ => None,
/// });
/// let mut reconciler = Reconciler::new(Policy::new());
/// reconciler.set("-A -t 10.0.0.185:80 -s mh\n-A -t 10.0.0.185:81 -s rr\n".parse()?);
/// let round = block_on(reconciler.round(&port, Instant::now())).expect("one is due");
/// assert!(round.result.unwrap_err().to_string().contains("ip_vs_mh"));
/// assert_eq!(port.kernel().snapshot().services.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct Scripted {
    script: Mutex<Script>,
}

#[derive(Default)]
struct Script {
    kernel: Kernel,
    refuse: Option<Refuse>,
    meanwhile: Option<Meanwhile>,
    uncertain: BTreeSet<ServiceKey>,
    unreadable: BTreeSet<(ServiceKey, Option<DestinationKey>)>,
    failing: usize,
    unavailable: bool,
    yields: usize,
    takes: Duration,
    clock: Duration,
    calls: usize,
    writes: Vec<Request>,
}

type Meanwhile = Box<dyn FnMut(&mut Kernel) + Send>;
type Refuse = Box<dyn FnMut(&Request) -> Option<Errno> + Send>;

impl Scripted {
    /// A port to this table, with which nothing goes wrong.
    pub fn new(kernel: Kernel) -> Self {
        Self { script: Mutex::new(Script { kernel, ..Script::default() }) }
    }

    /// The table, to look at it and to change it as another program would.
    pub fn kernel(&self) -> impl std::ops::DerefMut<Target = Kernel> + '_ {
        Table(self.lock())
    }

    /// Refuses the writes for which this gives an error number.
    pub fn refuse(&self, refuse: impl FnMut(&Request) -> Option<Errno> + Send + 'static) {
        self.lock().refuse = Some(Box::new(refuse));
    }

    /// What another program does before each call.
    pub fn meanwhile(&self, other: impl FnMut(&mut Kernel) + Send + 'static) {
        self.lock().meanwhile = Some(Box::new(other));
    }

    /// Nothing goes wrong any more, and nobody else writes.
    pub fn mend(&self) {
        let mut script = self.lock();
        let (kernel, writes) =
            (std::mem::take(&mut script.kernel), std::mem::take(&mut script.writes));
        let (calls, clock) = (script.calls, script.clock);
        *script = Script { kernel, writes, calls, clock, ..Script::default() };
    }

    /// Of these services a snapshot of the whole table [is not sure](Snapshot::uncertain).
    pub fn set_uncertain(&self, services: impl IntoIterator<Item = ServiceKey>) {
        self.lock().uncertain = services.into_iter().collect();
    }

    /// These services cannot be read, or these real servers of theirs.
    pub fn set_unreadable(
        &self,
        entries: impl IntoIterator<Item = (ServiceKey, Option<DestinationKey>)>,
    ) {
        self.lock().unreadable = entries.into_iter().collect();
    }

    /// Of the next calls, this many fail with a lost answer ([`ErrorKind::Overrun`]). A write of them
    /// takes effect all the same.
    pub fn lose_answers(&self, calls: usize) {
        self.lock().failing = calls;
    }

    /// Whether every call fails, since IPVS is not there ([`ErrorKind::NotAvailable`]).
    pub fn set_unavailable(&self, unavailable: bool) {
        self.lock().unavailable = unavailable;
    }

    /// Each call is pending this many times, so that a test can drop it there.
    pub fn yield_times(&self, times: usize) {
        self.lock().yields = times;
    }

    /// Each call takes this long, for the times of a round; nothing waits for it.
    pub fn take(&self, time: Duration) {
        self.lock().takes = time;
    }

    /// How many calls there were.
    pub fn calls(&self) -> usize {
        self.lock().calls
    }

    /// The writes that were tried since this was last asked for, those that were refused included.
    pub fn take_writes(&self) -> Vec<Request> {
        std::mem::take(&mut self.lock().writes)
    }

    fn lock(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each call begins with. Whether its answer is lost.
    async fn begin(&self, what: &str) -> Result<bool, Error> {
        let mut left = self.lock().yields;
        poll_fn(|context| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        let mut script = self.lock();
        script.calls += 1;
        script.clock = script.clock.saturating_add(script.takes);
        if script.unavailable {
            return Err(Error::new(ErrorKind::NotAvailable, what, "the script says so"));
        }
        let Script { kernel, meanwhile, failing, .. } = &mut *script;
        if let Some(other) = meanwhile {
            other(kernel);
        }
        let lost = *failing > 0;
        *failing = failing.saturating_sub(1);
        Ok(lost)
    }

    async fn read<T>(
        &self,
        what: &str,
        read: impl FnOnce(&Script) -> Result<T, Error>,
    ) -> Result<T, Error> {
        match self.begin(what).await? {
            true => Err(lost(what)),
            false => read(&self.lock()),
        }
    }
}

fn unreadable(service: &ServiceKey, server: Option<DestinationKey>) -> Unreadable {
    let reason = "the script says so";
    match server {
        None => Unreadable::of_service(Some(*service), reason),
        Some(_) => Unreadable::of_destination(Some(*service), server, reason),
    }
}

fn lost(what: &str) -> Error {
    Error::new(ErrorKind::Overrun, what, "the script loses the answer")
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scripted").field("kernel", &self.lock().kernel).finish_non_exhaustive()
    }
}

/// The table in a script.
struct Table<'a>(MutexGuard<'a, Script>);

impl std::ops::Deref for Table<'_> {
    type Target = Kernel;

    fn deref(&self) -> &Kernel {
        &self.0.kernel
    }
}

impl std::ops::DerefMut for Table<'_> {
    fn deref_mut(&mut self) -> &mut Kernel {
        &mut self.0.kernel
    }
}

impl sealed::Port for Scripted {
    async fn info(&self) -> Result<Info, Error> {
        self.read("reading the version", |_| Ok(INFO)).await
    }

    async fn snapshot(&self) -> Result<Snapshot, Error> {
        self.read("reading the table", |script| {
            let mut snapshot = script.kernel.snapshot();
            snapshot.uncertain.clone_from(&script.uncertain);
            for (key, server) in &script.unreadable {
                let Some(service) = snapshot.services.get_mut(key) else { continue };
                match server {
                    Some(server) if service.destination(server).is_none() => continue,
                    Some(server) => {
                        service.destinations.retain(|entry| entry.destination.key != *server);
                    }
                    None => {
                        snapshot.services.remove(key);
                    }
                }
                snapshot.add_unreadable(unreadable(key, *server));
            }
            Ok(snapshot)
        })
        .await
    }

    async fn service(&self, key: &ServiceKey) -> Result<ServiceEntry, Error> {
        self.read("reading a service", |script| {
            let entry = script.kernel.service(key)?;
            match script.unreadable.contains(&(*key, None)) {
                true => Err(unreadable(key, None).into()),
                false => Ok(entry),
            }
        })
        .await
    }

    async fn destinations(&self, key: &ServiceKey) -> Result<List<DestinationEntry>, Error> {
        self.read("reading real servers", |script| {
            let entries = script.kernel.destinations(key)?.into_iter().map(|entry| {
                let server = entry.destination.key;
                match script.unreadable.contains(&(*key, Some(server))) {
                    true => Err(unreadable(key, Some(server))),
                    false => Ok(entry),
                }
            });
            Ok(entries.collect())
        })
        .await
    }

    async fn batch(&self, writes: &[Request]) -> Vec<Result<(), Error>> {
        let mut outcomes = Vec::with_capacity(writes.len());
        for write in writes {
            let outcome = self.begin("writing").await.and_then(|is_lost| {
                let mut script = self.lock();
                script.writes.push(write.clone());
                let refused = script.refuse.as_mut().and_then(|refuse| refuse(write));
                let result = refused.map_or_else(|| script.kernel.execute(write), Err);
                match result {
                    _ if is_lost => Err(lost("writing")),
                    Ok(()) => Ok(()),
                    Err(errno) => Err(Error::answer(write, errno.0, None)),
                }
            });
            outcomes.push(outcome);
        }
        outcomes
    }

    fn clock(&self) -> Duration {
        self.lock().clock
    }
}

/// Nothing goes wrong, and no time passes.
impl sealed::Port for Mutex<Kernel> {
    async fn info(&self) -> Result<Info, Error> {
        Ok(INFO)
    }

    async fn snapshot(&self) -> Result<Snapshot, Error> {
        Ok(lock(self).snapshot())
    }

    async fn service(&self, key: &ServiceKey) -> Result<ServiceEntry, Error> {
        lock(self).service(key)
    }

    async fn destinations(&self, key: &ServiceKey) -> Result<List<DestinationEntry>, Error> {
        Ok(lock(self).destinations(key)?.into_iter().map(Ok).collect())
    }

    async fn batch(&self, writes: &[Request]) -> Vec<Result<(), Error>> {
        let mut kernel = lock(self);
        let answer = |write: &Request, errno: Errno| Error::answer(write, errno.0, None);
        writes
            .iter()
            .map(|write| kernel.execute(write).map_err(|errno| answer(write, errno)))
            .collect()
    }

    fn clock(&self) -> Duration {
        Duration::ZERO
    }
}

const INFO: Info = Info::new(Version(0x01_02_01), 4096);

fn lock(kernel: &Mutex<Kernel>) -> MutexGuard<'_, Kernel> {
    kernel.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kernel {
    fn service(&self, key: &ServiceKey) -> Result<ServiceEntry, Error> {
        let found = self.service_snapshot(key).map(|service| service.entry);
        found.ok_or_else(|| not_found(&Request::GetService(*key)))
    }

    fn destinations(&self, key: &ServiceKey) -> Result<Vec<DestinationEntry>, Error> {
        let found = self.service_snapshot(key).map(|service| service.destinations);
        found.ok_or_else(|| not_found(&Request::ListDestinations(*key)))
    }
}

fn not_found(request: &Request) -> Error {
    Error::answer(request, Errno::ESRCH.0, None)
}
