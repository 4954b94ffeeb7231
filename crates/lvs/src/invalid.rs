//! Services that the kernel would take and that would not work.

use std::{fmt, io};

/// A virtual service that was refused when it was built: which service or real server, and the rule
/// that it breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    object: String,
    rule: Rule,
}

impl Invalid {
    pub(crate) fn new(object: impl fmt::Display, rule: Rule) -> Self {
        Self { object: object.to_string(), rule }
    }

    /// The rule that is broken.
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// What breaks it: `service -t 10.0.0.185:80` or
    /// `real server 172.17.0.3:80 of service -t 10.0.0.185:80`.
    pub fn object(&self) -> &str {
        &self.object
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.rule)
    }
}

impl std::error::Error for Invalid {}

impl From<Invalid> for io::Error {
    fn from(invalid: Invalid) -> Self {
        Self::new(io::ErrorKind::InvalidInput, invalid)
    }
}

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// The rules of a virtual service. Most are ipvsadm's; the kernel itself checks few.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Rule {
            $($(#[$doc])* $name,)*
        }

        impl fmt::Display for Rule {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$name => $text,)*
                })
            }
        }
    };
}

rules! {
    /// Port 0, every port, is served for persistent services only.
    PortZeroNeedsPersistence => "port 0 (every port) needs persistence",
    /// The address that clients connect to must be one host's.
    AddressIsUnspecified => "the address must not be 0.0.0.0 or ::",
    /// One-packet scheduling works for UDP only.
    OnePacketNeedsUdp => "one-packet scheduling needs UDP",
    /// The scheduler has three flags; the others are not its.
    SchedulerFlags => "only the three flags of the scheduler are set so",
    /// A persistence timeout is 1 second to 31 days.
    PersistenceTimeout => "the persistence timeout must be 1 second to 31 days (2678400 seconds)",
    /// A netmask groups the clients of a persistent service.
    NetmaskNeedsPersistence => "a netmask needs persistence",
    /// The netmask must be of the service's address family: 0 to 32 bits for IPv4, 1 to 128 for
    /// IPv6.
    Netmask => "the netmask must be 0 to 32 bits for IPv4, 1 to 128 for IPv6",
    /// A persistence engine gives persistence another key.
    EngineNeedsPersistence => "a persistence engine needs persistence",
    /// The persistence engine sip reads UDP.
    SipNeedsUdp => "the persistence engine sip needs UDP",
    /// A scheduler's or persistence engine's name has 1 to 15 bytes.
    Name => "a name must be 1 to 15 bytes long and hold no NUL",
    /// A firewall mark is not 0.
    MarkIsZero => "the firewall mark must not be 0",
    /// A weight is 0 to 2,147,483,647: the kernel would take a larger one for negative.
    Weight => "the weight must be 0 to 2147483647",
    /// The upper threshold is 0 to 2,147,483,647, and the lower one at most the upper.
    Thresholds => "the thresholds must be 0 to 2147483647 and the lower must not exceed the upper",
    /// A real server's address is one host's.
    RealServerAddress => "the address of a real server must be a unicast address",
    /// Only tunnels carry IPv4 over IPv6 or the other way round.
    FamilyNeedsTunnel => "a real server of the other address family must be tunnelled",
    /// Port 0, the port that the client connected to, says nothing where the service has one port.
    RealServerPortZero => "a real server's port must be given where the service's port is",
    /// Generic UDP encapsulation needs a port.
    GuePort => "generic UDP encapsulation needs a port",
    /// Two real servers have the same address and port.
    Duplicate => "the real server is named twice",
}
