//! The commands of the family.

use std::fmt;

/// `GENL_NAME` of the family, whose number the kernel assigns when ip_vs is loaded.
pub const FAMILY_NAME: &str = "IPVS";
/// `IPVS_GENL_VERSION`. The kernel does not check it.
pub const FAMILY_VERSION: u8 = 1;

/// A command number of the family: `IPVS_CMD_*`. Numbers unknown to this crate are kept as they
/// are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(clippy::exhaustive_structs, reason = "a number, whatever it means")]
pub struct CommandNumber(pub u8);

macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        impl CommandNumber {
            $($(#[$doc])* pub const $name: Self = Self($number);)*

            /// The name in `linux/ip_vs.h` without `IPVS_CMD_`; `None` for an unknown number.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

commands! {
    /// Add a service; also the command number of a service in a reply. `ipvsadm -A`.
    NEW_SERVICE = 1;
    /// Change a service. `ipvsadm -E`.
    SET_SERVICE = 2;
    /// Delete a service with its destinations. `ipvsadm -D`.
    DEL_SERVICE = 3;
    /// Ask for one service, or as a dump for all. `ipvsadm -L`.
    GET_SERVICE = 4;
    /// Add a destination; also the command number of a destination in a reply. `ipvsadm -a`.
    NEW_DEST = 5;
    /// Change a destination. `ipvsadm -e`.
    SET_DEST = 6;
    /// Delete a destination. `ipvsadm -d`.
    DEL_DEST = 7;
    /// Ask, as a dump only, for the destinations of a service. `ipvsadm -L`.
    GET_DEST = 8;
    /// Start a sync daemon; also the command number of a daemon in a reply.
    /// `ipvsadm --start-daemon`.
    NEW_DAEMON = 9;
    /// Stop a sync daemon. `ipvsadm --stop-daemon`.
    DEL_DAEMON = 10;
    /// Ask, as a dump only, for the running sync daemons. `ipvsadm -L --daemon`.
    GET_DAEMON = 11;
    /// Set the connection timeouts; also the command number of the timeouts in a reply.
    /// `ipvsadm --set`.
    SET_CONFIG = 12;
    /// Ask for the connection timeouts. `ipvsadm -L --timeout`.
    GET_CONFIG = 13;
    /// Never a request: the command number of the info in a reply.
    SET_INFO = 14;
    /// Ask for the version and the connection table's size. First line of `ipvsadm -L`.
    GET_INFO = 15;
    /// Zero the statistics of one service or of all. `ipvsadm -Z`.
    ZERO = 16;
    /// Delete all services. `ipvsadm -C`.
    FLUSH = 17;
}

impl fmt::Display for CommandNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "command {}", self.0),
        }
    }
}

impl fmt::Debug for CommandNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
