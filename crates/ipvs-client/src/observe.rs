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

            /// A setting `net.ipv4.vs.*` of the client's network namespace.
            ///
            /// Equivalent to `sysctl net.ipv4.vs.NAME`.
            ///
            /// # Errors
            ///
            /// [`Unsupported`](crate::ErrorKind::Unsupported) where the kernel does not have the
            /// setting; the text says since when there is one.
            pub fn sysctl<T>(&self, sysctl: crate::Sysctl<T>) -> Result<T, crate::Error>
            where
                T: crate::SysctlValue,
            {
                crate::sysctl::read(self.namespace(), sysctl)
            }

            /// Gives a setting of the client's network namespace a value.
            ///
            /// Equivalent to `sysctl -w net.ipv4.vs.NAME=VALUE`.
            ///
            /// # Errors
            ///
            /// [`Invalid`](crate::ErrorKind::Invalid) when the value is not one that the setting can
            /// have; [`Unsupported`](crate::ErrorKind::Unsupported) as for
            /// [`sysctl`](Self::sysctl);
            /// [`PermissionDenied`](crate::ErrorKind::PermissionDenied).
            pub fn set_sysctl<T>(
                &self,
                sysctl: crate::Sysctl<T>,
                value: T,
            ) -> Result<(), crate::Error>
            where
                T: crate::SysctlValue,
            {
                crate::sysctl::write(self.namespace(), sysctl, &value)
            }

            /// Every setting that this kernel has, known to this crate or not, by its name behind
            /// `net.ipv4.vs.`, with its value as the kernel writes it.
            ///
            /// Equivalent to `sysctl net.ipv4.vs`.
            pub fn sysctls(
                &self,
            ) -> Result<std::collections::BTreeMap<String, String>, crate::Error> {
                crate::sysctl::list(self.namespace())
            }

            /// Sets what kube-proxy sets in its IPVS mode, and returns what had another value
            /// before: `conntrack`, `expire_nodest_conn` and `expire_quiescent_template` on; on
            /// Linux 4.1 to 5.8, `conn_reuse_mode` 0.
            ///
            /// All are read before the first is written. (kube-proxy also turns on
            /// `net.ipv4.ip_forward`, which is not of IPVS.)
            ///
            /// # Errors
            ///
            /// As for [`set_sysctl`](Self::set_sysctl).
            pub fn set_kube_proxy_sysctls(&self) -> Result<Vec<crate::SysctlChange>, crate::Error> {
                crate::sysctl::prepare_kube_proxy(self.namespace())
            }
        }
    };
}
pub(crate) use observe;
