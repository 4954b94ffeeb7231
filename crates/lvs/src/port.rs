//! What touches the kernel's table, and what stands in for it.

use std::{
    collections::BTreeSet,
    future::Future,
    pin::pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use ipvs_client::{
    Client, Error, ErrorKind, List, ServiceSnapshot, Snapshot, blocking,
    packet::{DestinationEntry, Info, Request, ServiceEntry, ServiceKey, Unreadable},
};

/// A way to a table: what everything in this crate reads and writes through.
///
/// - [`Client`], the kernel's table, for async programs; and [`blocking::Client`], the same without
///   async, whose futures are ready at once: see [`block_on`].
/// - [`model::Kernel`](https://docs.rs/lvs/latest/lvs/model/struct.Kernel.html) in a [`Mutex`](std::sync::Mutex), and
///   [`model::Scripted`](https://docs.rs/lvs/latest/lvs/model/struct.Scripted.html), which fails where a test says so (feature `model`):
///   a program is tested without a kernel.
/// - `Arc`s of these.
///
/// It is sealed: others cannot implement it, so that it can grow.
pub trait Port: sealed::Port {}

impl<T: sealed::Port + ?Sized> Port for T {}

pub(crate) mod sealed {
    use super::*;

    /// Which services a caller cares for.
    pub(crate) type Concerns<'a> = &'a (dyn Fn(&ServiceKey) -> bool + Send + Sync);

    /// The calls. None of them needs a clock.
    pub trait Port: Send + Sync {
        /// The version of IPVS, and the size of its connection table.
        fn info(&self) -> impl Future<Output = Result<Info, Error>> + Send;

        /// The whole table.
        fn snapshot(&self) -> impl Future<Output = Result<Snapshot, Error>> + Send;

        /// The whole table, for a caller who cares for some services only.
        fn snapshot_concerning(
            &self,
            _concerns: Concerns<'_>,
        ) -> impl Future<Output = Result<Snapshot, Error>> + Send {
            self.snapshot()
        }

        /// Those of some services that exist.
        fn snapshot_of(
            &self,
            keys: &BTreeSet<ServiceKey>,
        ) -> impl Future<Output = Result<Snapshot, Error>> + Send {
            async move {
                let mut services = Vec::with_capacity(keys.len());
                let mut unreadable: Vec<Unreadable> = Vec::new();
                for key in keys {
                    let entry = match existing(self.service(key).await) {
                        Ok(Some(entry)) => entry,
                        Ok(None) => continue,
                        Err(error) => {
                            unreadable.push(error.unreadable_entry().cloned().ok_or(error)?);
                            continue;
                        }
                    };
                    if let Some(destinations) = existing(self.destinations(key).await)? {
                        let (destinations, rest) = destinations.apart();
                        services.push(ServiceSnapshot::new(entry, destinations));
                        unreadable.extend(rest);
                    }
                }
                let mut table: Snapshot = services.into_iter().collect();
                unreadable.into_iter().for_each(|entry| table.add_unreadable(entry));
                Ok(table)
            }
        }

        /// A service.
        fn service(
            &self,
            key: &ServiceKey,
        ) -> impl Future<Output = Result<ServiceEntry, Error>> + Send;

        /// A service's real servers.
        fn destinations(
            &self,
            key: &ServiceKey,
        ) -> impl Future<Output = Result<List<DestinationEntry>, Error>> + Send;

        /// Writes, and what came of each.
        fn batch(&self, writes: &[Request]) -> impl Future<Output = Vec<Result<(), Error>>> + Send;

        /// The time since some moment, to measure how long calls take. A port without a kernel says
        /// what it pretends.
        fn clock(&self) -> Duration {
            static START: OnceLock<Instant> = OnceLock::new();
            START.get_or_init(Instant::now).elapsed()
        }
    }
}

impl sealed::Port for Client {
    async fn info(&self) -> Result<Info, Error> {
        self.info().await
    }

    async fn snapshot_concerning(&self, concerns: sealed::Concerns<'_>) -> Result<Snapshot, Error> {
        self.snapshot_concerning(concerns).await
    }

    async fn snapshot_of(&self, keys: &BTreeSet<ServiceKey>) -> Result<Snapshot, Error> {
        self.snapshot_of(keys).await
    }

    async fn snapshot(&self) -> Result<Snapshot, Error> {
        self.snapshot().await
    }

    async fn service(&self, key: &ServiceKey) -> Result<ServiceEntry, Error> {
        self.service(key).await
    }

    async fn destinations(&self, key: &ServiceKey) -> Result<List<DestinationEntry>, Error> {
        self.destinations(key).await
    }

    async fn batch(&self, writes: &[Request]) -> Vec<Result<(), Error>> {
        self.batch(writes).await.into_iter().collect()
    }
}

impl sealed::Port for blocking::Client {
    async fn info(&self) -> Result<Info, Error> {
        self.info()
    }

    async fn snapshot_concerning(&self, concerns: sealed::Concerns<'_>) -> Result<Snapshot, Error> {
        self.snapshot_concerning(concerns)
    }

    async fn snapshot_of(&self, keys: &BTreeSet<ServiceKey>) -> Result<Snapshot, Error> {
        self.snapshot_of(keys)
    }

    async fn snapshot(&self) -> Result<Snapshot, Error> {
        self.snapshot()
    }

    async fn service(&self, key: &ServiceKey) -> Result<ServiceEntry, Error> {
        self.service(key)
    }

    async fn destinations(&self, key: &ServiceKey) -> Result<List<DestinationEntry>, Error> {
        self.destinations(key)
    }

    async fn batch(&self, writes: &[Request]) -> Vec<Result<(), Error>> {
        self.batch(writes).into_iter().collect()
    }
}

impl<P: sealed::Port> sealed::Port for Arc<P> {
    async fn info(&self) -> Result<Info, Error> {
        P::info(self).await
    }

    async fn snapshot_concerning(&self, concerns: sealed::Concerns<'_>) -> Result<Snapshot, Error> {
        P::snapshot_concerning(self, concerns).await
    }

    async fn snapshot_of(&self, keys: &BTreeSet<ServiceKey>) -> Result<Snapshot, Error> {
        P::snapshot_of(self, keys).await
    }

    async fn snapshot(&self) -> Result<Snapshot, Error> {
        P::snapshot(self).await
    }

    async fn service(&self, key: &ServiceKey) -> Result<ServiceEntry, Error> {
        P::service(self, key).await
    }

    async fn destinations(&self, key: &ServiceKey) -> Result<List<DestinationEntry>, Error> {
        P::destinations(self, key).await
    }

    async fn batch(&self, writes: &[Request]) -> Vec<Result<(), Error>> {
        P::batch(self, writes).await
    }

    fn clock(&self) -> Duration {
        P::clock(self)
    }
}

/// Above this number of services the whole table is read, since that is faster, whatever its size.
const MANY: usize = 512;
/// Up to this number each is read for itself, whatever the table's size.
const FEW: usize = 64;

/// Whether reading the whole table is faster than reading this number of services, each for itself.
/// `table` is the table's number of services, if that is known.
pub fn is_whole_table_faster(services: usize, table: Option<usize>) -> bool {
    services > MANY || services > FEW && table.is_some_and(|table| services > table / 4)
}

/// Reads some services, each for itself: those that exist are in the snapshot, and what of them cannot be
/// read is [named](Snapshot::unreadable). It takes no longer for
/// a large table; of more than 512 services the whole table is read, since that is faster then. A long
/// list of real servers is looked at until two looks agree, as in a snapshot of the whole table.
///
/// What [`Plan::of_services`](crate::Plan::of_services) compares.
///
/// # Errors
///
/// Where the table cannot be read. A service that does not exist is no error.
pub async fn read_services(
    port: &impl Port,
    keys: &BTreeSet<ServiceKey>,
) -> Result<Snapshot, Error> {
    if is_whole_table_faster(keys.len(), None) {
        return port.snapshot().await;
    }
    port.snapshot_of(keys).await
}

/// Only what exists.
fn existing<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::ServiceNotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Runs a future to its end on this thread: for programs without async. Every call of this crate that
/// touches the kernel has one name, and is an `async fn`; over a [`blocking::Client`] its future is
/// ready when it is first polled, so that nothing waits here.
///
/// ```no_run
/// use lvs::{RealServer, VirtualService, block_on, client::blocking::Client};
///
/// let ipvs = Client::connect()?;
/// let web = VirtualService::tcp("10.0.0.185:80".parse()?)
///     .real_server(RealServer::nat("172.17.0.3:80".parse()?))
///     .build()?;
/// block_on(web.apply(&ipvs))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Other futures are polled when they are woken, and the thread sleeps in between. It is no runtime:
/// a future that needs tokio's timer has to be run by tokio.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut future = pin!(future);
    if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        return output;
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}
