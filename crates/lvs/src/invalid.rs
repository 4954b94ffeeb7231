//! Services that the kernel would take and that would not work.

use std::{fmt, io};

/// A virtual service, or several, that broke rules: every [`Violation`] that was found.
///
/// It displays one violation a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// At least one.
    violations: Vec<Violation>,
}

impl Invalid {
    /// Takes at least one.
    pub(crate) fn new(violations: Vec<Violation>) -> Self {
        Self { violations }
    }

    /// The violations, in the order in which they were found. There is at least one.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    pub(crate) fn into_violations(self) -> Vec<Violation> {
        self.violations
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, violation) in self.violations.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            write!(f, "{violation}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

impl From<Invalid> for io::Error {
    fn from(invalid: Invalid) -> Self {
        Self::new(io::ErrorKind::InvalidInput, invalid)
    }
}

/// A rule that is broken, by what, and what to do about it.
///
/// ```text
/// real server 172.17.0.3:80 of service -t 10.0.0.185:80: weight 2147483648: give a weight of 0 to 2147483647 (weight)
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    object: String,
    value: String,
    rule: Rule,
}

impl Violation {
    pub(crate) fn new(object: impl fmt::Display, value: impl fmt::Display, rule: Rule) -> Self {
        Self { object: object.to_string(), value: value.to_string(), rule }
    }

    /// What is affected: `service -t 10.0.0.185:80` or
    /// `real server 172.17.0.3:80 of service -t 10.0.0.185:80`.
    pub fn object(&self) -> &str {
        &self.object
    }

    /// What breaks the rule: `weight 2147483648`.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The rule that is broken.
    pub fn rule(&self) -> Rule {
        self.rule
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, value, rule } = self;
        write!(f, "{object}: {value}: {} ({})", rule.remedy(), rule.name())
    }
}

macro_rules! rules {
    ($($(#[$doc:meta])* $rule:ident => $name:literal, $remedy:literal,)*) => {
        /// The rules of a virtual service. Most are ipvsadm's; the kernel itself checks few.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Rule {
            $($(#[$doc])* $rule,)*
        }

        impl Rule {
            /// All rules.
            pub const ALL: &[Self] = &[$(Self::$rule),*];

            /// Its name, the same from version to version: `port-zero-needs-persistence`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$rule => $name,)*
                }
            }

            /// What to do where it is broken.
            pub const fn remedy(self) -> &'static str {
                match self {
                    $(Self::$rule => $remedy,)*
                }
            }
        }
    };
}

rules! {
    /// The kernel stores any protocol and balances three.
    Protocol => "protocol", "only TCP, UDP and SCTP are balanced: use one of them, or a firewall mark",
    /// The address is one that clients can connect to. The kernel stores any; packets from clients
    /// never reach a service at `0.0.0.0`, `::`, a multicast address, `255.255.255.255` or an
    /// IPv4-mapped IPv6 address.
    VirtualAddress => "virtual-address", "no client's packet is ever for this address: use a unicast \
        one, and for an IPv4-mapped address the IPv4 address itself",
    /// An address has no zone (`fe80::1%eth0`): to IPVS it is the same on every link.
    Zone => "zone", "IPVS knows no zones, an address is the same on every link to it: leave the zone out",
    /// Port 0, every port, is served for persistent services only.
    PortZeroNeedsPersistence => "port-zero-needs-persistence", "every port is served for persistent \
        services only: make it persistent or name the port",
    /// A firewall mark is not 0.
    MarkIsZero => "mark-is-zero", "the firewall mark must be 1 to 4294967295",
    /// One-packet scheduling works for UDP only.
    OnePacketNeedsUdp => "one-packet-needs-udp", "only UDP can be scheduled by the packet: leave it \
        out or use UDP",
    /// A scheduler's or persistence engine's name is part of a module's name.
    Name => "name", "a name must be 1 to 15 bytes long, without blanks",
    /// The kernel stores the scheduler `none`, which chooses no real server.
    SchedulerNone => "scheduler-none", "without a scheduler no real server is ever chosen: name one, \
        such as wlc",
    /// The scheduler has three flags; the others are not its.
    SchedulerFlags => "scheduler-flags", "a scheduler has the flags flag-1 to flag-3 only: leave the \
        others out",
    /// A persistence timeout is 1 second to 31 days.
    PersistenceTimeout => "persistence-timeout", "give 1 second to 31 days (2678400 seconds), in \
        whole seconds",
    /// A netmask groups the clients of a persistent service.
    NetmaskNeedsPersistence => "netmask-needs-persistence", "a netmask is for persistent services: \
        leave it out or make the service persistent",
    /// The netmask must be of the service's address family: 0 to 32 bits for IPv4, 1 to 128 for
    /// IPv6.
    Netmask => "netmask", "give 0 to 32 bits for IPv4, 1 to 128 for IPv6",
    /// A persistence engine gives persistence another key.
    EngineNeedsPersistence => "engine-needs-persistence", "a persistence engine is for persistent \
        services: leave it out or make the service persistent",
    /// The persistence engine sip reads UDP.
    SipNeedsUdp => "sip-needs-udp", "the persistence engine sip reads UDP only: leave it out or use \
        UDP",
    /// A real server's address is one host's. The kernel refuses others.
    RealServerAddress => "real-server-address", "a real server's address must be a unicast address, \
        IPv4 not written as IPv6",
    /// Port 0, the port that the client connected to, says nothing where the service has one port.
    RealServerPortZero => "real-server-port-zero", "give the real server's port",
    /// Direct routing and tunnelling leave the port in the packet as it is.
    RealServerPort => "real-server-port", "direct routing and tunnelling cannot change the port: use \
        the service's port, or NAT",
    /// The kernel stores eight forwarding methods, and three of them reach a real server.
    Forwarding => "forwarding", "use NAT, direct routing or tunnelling",
    /// Only tunnels carry IPv4 over IPv6 or the other way round.
    FamilyNeedsTunnel => "family-needs-tunnel", "a real server of the other address family must be \
        tunnelled",
    /// A weight is 0 to 2,147,483,647: the kernel would take a larger one for negative.
    Weight => "weight", "give a weight of 0 to 2147483647",
    /// The upper threshold is 0 to 2,147,483,647, and the lower one at most the upper.
    Thresholds => "thresholds", "give 0 to 2147483647, the lower at most the upper",
    /// An encapsulation is how a tunnel wraps packets.
    EncapsulationNeedsTunnel => "encapsulation-needs-tunnel", "only tunnels have an encapsulation: \
        leave it out or use a tunnel",
    /// Generic UDP encapsulation has a port, and the others have none.
    EncapsulationPort => "encapsulation-port", "generic UDP encapsulation needs a port of 1 to 65535, \
        and no other encapsulation has one",
    /// GUE and GRE have a checksum, and GUE alone a remote one.
    EncapsulationChecksum => "encapsulation-checksum", "GUE and GRE can have a checksum, GUE alone a \
        remote checksum",
    /// The kernel stores any number for an encapsulation and knows three.
    Encapsulation => "encapsulation", "use IP in IP, GUE or GRE",
    /// Two that differ have the same key: two real servers with one address and port, or two
    /// services. (Two that are alike count as one.)
    Duplicate => "duplicate", "it is named twice, and the two differ: leave one of them out",
    /// A table was read, and something in it [could not be](ipvs_client::Snapshot::unreadable).
    Unreadable => "unreadable", "the table cannot be kept as it is while it is not known whole: write         down what should be",
}
