//! What clients tell beyond the commands of netlink, written once for every kind of client: the
//! files in /proc of the client's own network namespace.

use std::{fs::File, io};

use crate::{Error, ErrorKind};

/// Opens a file of ip_vs.
pub(crate) fn open(operation: &str, path: &str) -> Result<File, Error> {
    File::open(path).map_err(|error| refused(operation, error))
}

/// What it means that a file of ip_vs cannot be read.
pub(crate) fn refused(operation: &str, error: io::Error) -> Error {
    let (kind, text) = match error.kind() {
        io::ErrorKind::NotFound => (
            ErrorKind::NotAvailable,
            "the kernel does not tell it: ip_vs is not loaded, or /proc is not mounted",
        ),
        io::ErrorKind::PermissionDenied => {
            (ErrorKind::PermissionDenied, "the kernel does not tell it to this user")
        }
        _ => (ErrorKind::Os, "the file cannot be read"),
    };
    Error::file(operation, kind, text, error)
}

/// Writes the `impl` block of a client that has `namespace() -> &Arc<Namespace>`.
macro_rules! observe {
    ($client:ident) => {
        /// What the kernel tells in /proc of the client's own network namespace, whatever the
        /// calling thread's is. These calls are not async: no disk is behind /proc, and each is over
        /// in microseconds. Where the calling thread is in another network namespace, a thread is
        /// started that enters the client's, which takes `CAP_SYS_ADMIN`.
        impl $client {
            /// The connection table, read as it is iterated, with its persistence templates.
            ///
            /// The kernel tells it in parts of 4 KiB, without a lock: a connection that comes, goes
            /// or changes in between may be missing or come twice.
            ///
            /// `/proc/net/ip_vs_conn`, equivalent to `ipvsadm -L -n -c --persistent-conn`.
            pub fn connections(&self) -> Result<crate::Connections, crate::Error> {
                use crate::connections::{Connections, Source};
                Connections::open(self.namespace(), Source::PLAIN)
            }

            /// The connection table, told with each connection's origin, and without the data of
            /// persistence engines.
            ///
            /// `/proc/net/ip_vs_conn_sync`, for which ipvsadm has no switch.
            pub fn connections_with_origin(&self) -> Result<crate::Connections, crate::Error> {
                use crate::connections::{Connections, Source};
                Connections::open(self.namespace(), Source::WITH_ORIGIN)
            }

            /// The counters and rates of all services together, of those too that were deleted
            /// since. As all statistics, up to two seconds old, and since [`zero`](Self::zero).
            ///
            /// `/proc/net/ip_vs_stats`, for which ipvsadm has no switch.
            pub fn totals(&self) -> Result<crate::packet::Statistics, crate::Error> {
                crate::totals::read_totals(self.namespace())
            }

            /// The same by CPU, with counters as they are at this moment.
            ///
            /// `/proc/net/ip_vs_stats_percpu`.
            pub fn cpu_totals(&self) -> Result<crate::CpuTotals, crate::Error> {
                crate::CpuTotals::read(self.namespace())
            }
        }
    };
}
pub(crate) use observe;
