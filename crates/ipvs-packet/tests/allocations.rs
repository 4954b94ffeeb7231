//! Writing into a caller's buffer allocates nothing, and reading an entry allocates nothing unless it
//! holds unknown attributes. A test binary of its own, since it counts what the whole process
//! allocates.

#![allow(unsafe_code, clippy::unwrap_used)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use ipvs_packet::{
    DaemonEntry, Destination, DestinationEntry, Info, Level, Reply, Request, Service, ServiceEntry,
    ServiceKey, SyncDaemon, SyncId, Timeouts, UnknownAttributes, Version,
};

struct Counting;

thread_local! {
    /// By thread, since the test harness allocates on its own.
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: Every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: The caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: The caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = COUNT.get();
    let result = work();
    (COUNT.get() - before, result)
}

fn service() -> Service {
    let mut service = Service::new("-u 10.0.0.185:5060".parse().unwrap());
    service.engine = "sip".parse().ok();
    service
}

fn destination() -> Destination {
    Destination::new("[2001:db8::3]:5060".parse().unwrap())
}

fn daemon() -> SyncDaemon {
    SyncDaemon::new(ipvs_packet::DaemonRole::MASTER, "eth0".parse().unwrap(), SyncId::from(1))
}

#[test]
fn writing_allocates_nothing() {
    let key: ServiceKey = "-f 10 -6".parse().unwrap();
    let requests = [
        Request::NewService(service()),
        Request::DeleteService(key),
        Request::NewDestination(key, destination()),
        Request::DeleteDestination(key, destination().key),
        Request::NewDaemon(daemon()),
        Request::SetTimeouts(Timeouts::default()),
        Request::Flush,
    ];
    let mut buffer = [0; 1024];
    for request in &requests {
        let (count, ()) = allocations(|| request.emit(&mut buffer[..request.buffer_len()]));
        assert_eq!(count, 0, "{request:?}");
    }
}

#[test]
fn reading_allocates_nothing() {
    let replies = [
        Reply::Service(ServiceEntry::new(service())),
        Reply::Destination(DestinationEntry::new(destination())),
        Reply::Daemon(DaemonEntry::new(daemon())),
        Reply::Timeouts(Timeouts::default(), UnknownAttributes::new()),
        Reply::Info(Info::new(Version(0x01_0201), 4096), UnknownAttributes::new()),
    ];
    let mut buffer = [0; 1024];
    for reply in replies {
        let bytes = &mut buffer[..reply.buffer_len()];
        let (count, ()) = allocations(|| reply.emit(bytes));
        assert_eq!(count, 0, "{reply:?}");
        let (count, read) = allocations(|| Reply::parse(reply.command(), bytes, None));
        assert_eq!(count, 0, "{reply:?}");
        assert_eq!(read, Ok(reply));
    }
}

/// That the counting counts.
#[test]
fn an_unknown_attribute_is_allocated() {
    let mut entry = ServiceEntry::new(service());
    entry.unknown.push(Level::Service, 13, &[1]).unwrap();
    let reply = Reply::Service(entry);
    let buffer = reply.to_bytes();
    let (count, read) = allocations(|| Reply::parse(reply.command(), &buffer, None));
    assert!(count > 0);
    assert_eq!(read, Ok(reply));
}
