//! Sync daemons: the `DAEMON` nest (`ip_vs_genl_new_daemon`, `ip_vs_genl_fill_daemon`).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::{NonZeroU8, NonZeroU16},
    str::FromStr,
};

use crate::{
    InterfaceName, InvalidValue, Level, ParseError, UnknownAttributes,
    attribute::{Attribute, Sink},
    error::{Problem, Space},
    name::Quoted,
    number::daemon::{
        MCAST_GROUP, MCAST_GROUP6, MCAST_IFN, MCAST_PORT, MCAST_TTL, STATE, SYNC_ID, SYNC_MAXLEN,
    },
    open_set::open_set,
};

const GROUP_RULE: &str = "must be a multicast address";

/// A connection synchronization daemon. The master sends its connections by multicast, and the
/// backup adds them to its own table. One of each may run at the same time.
///
/// It displays as ipvsadm's options: `--start-daemon master --mcast-interface eth0 --syncid 4`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SyncDaemon {
    /// Master or backup.
    pub role: DaemonRole,
    /// The interface of the multicast traffic. `IPVS_DAEMON_ATTR_MCAST_IFN`,
    /// `ipvsadm --mcast-interface`.
    pub interface: InterfaceName,
    /// Which master's messages a backup accepts. `IPVS_DAEMON_ATTR_SYNC_ID`, `ipvsadm --syncid`.
    pub sync_id: SyncId,
    /// The longest message, in bytes; by default the longest that fits the interface's MTU. The
    /// kernel replaces a value out of range by the nearest one in range.
    /// `IPVS_DAEMON_ATTR_SYNC_MAXLEN`, `ipvsadm --sync-maxlen`, since Linux 4.3.
    pub max_length: Option<NonZeroU16>,
    group: Option<IpAddr>,
    /// The UDP port; 8848 by default. `IPVS_DAEMON_ATTR_MCAST_PORT`, `ipvsadm --mcast-port`, since
    /// Linux 4.3.
    pub port: Option<NonZeroU16>,
    /// The time to live of the multicast packets, in hops; 1 by default.
    /// `IPVS_DAEMON_ATTR_MCAST_TTL`, `ipvsadm --mcast-ttl`, since Linux 4.3.
    pub ttl: Option<NonZeroU8>,
}

impl SyncDaemon {
    /// A daemon with the kernel's defaults.
    pub const fn new(role: DaemonRole, interface: InterfaceName, sync_id: SyncId) -> Self {
        Self { role, interface, sync_id, max_length: None, group: None, port: None, ttl: None }
    }

    /// The multicast group; 224.0.0.81 by default.
    pub const fn group(&self) -> Option<IpAddr> {
        self.group
    }

    /// Sets the multicast group; `None` is the default. `IPVS_DAEMON_ATTR_MCAST_GROUP`, `_GROUP6`,
    /// `ipvsadm --mcast-group`, since Linux 4.3.
    ///
    /// # Errors
    /// If it is not a multicast address. (The kernel refuses it with EINVAL.)
    pub fn set_group(&mut self, group: Option<IpAddr>) -> Result<(), InvalidValue> {
        if let Some(address) = group.filter(|address| !address.is_multicast()) {
            return Err(InvalidValue::new("multicast group", address, GROUP_RULE));
        }
        self.group = group;
        Ok(())
    }

    #[inline]
    pub(crate) fn put(&self, out: &mut impl Sink) {
        out.put_u32(STATE, self.role.0);
        self.interface.put(MCAST_IFN, out);
        out.put_u32(SYNC_ID, self.sync_id.0);
        if let Some(length) = self.max_length {
            out.put_u16(SYNC_MAXLEN, length.get());
        }
        if let Some(port) = self.port {
            out.put_u16(MCAST_PORT, port.get());
        }
        if let Some(ttl) = self.ttl {
            out.put_u8(MCAST_TTL, ttl.get());
        }
        match self.group {
            Some(IpAddr::V4(group)) => out.put(MCAST_GROUP, &group.octets()),
            Some(IpAddr::V6(group)) => out.put(MCAST_GROUP6, &group.octets()),
            None => {}
        }
    }
}

impl fmt::Display for SyncDaemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { role, interface, sync_id, max_length, group, port, ttl } = self;
        let interface = interface.to_string();
        let interface = Quoted(&interface);
        write!(f, "--start-daemon {role} --mcast-interface {interface} --syncid {sync_id}")?;
        if let Some(length) = max_length {
            write!(f, " --sync-maxlen {length}")?;
        }
        if let Some(group) = group {
            write!(f, " --mcast-group {group}")?;
        }
        if let Some(port) = port {
            write!(f, " --mcast-port {port}")?;
        }
        if let Some(ttl) = ttl {
            write!(f, " --mcast-ttl {ttl}")?;
        }
        Ok(())
    }
}

/// A daemon as the kernel reports it, with the defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct DaemonEntry {
    /// The daemon.
    pub daemon: SyncDaemon,
    /// Attributes that this crate does not know.
    #[cfg_attr(
        feature = "serde",
        serde(default, skip_serializing_if = "UnknownAttributes::is_empty")
    )]
    pub unknown: UnknownAttributes,
}

impl DaemonEntry {
    /// An entry.
    pub const fn new(daemon: SyncDaemon) -> Self {
        Self { daemon, unknown: UnknownAttributes::new() }
    }

    #[inline]
    pub(crate) fn put(&self, out: &mut impl Sink) {
        self.daemon.put(out);
        out.put_encoded(self.unknown.encoded(Level::Daemon));
    }

    pub(crate) fn parse(
        nest: &Attribute<'_>,
        mut unknown: UnknownAttributes,
    ) -> Result<Self, ParseError> {
        let mut reader = nest.nested(Space::Daemon);
        let mut role = None;
        let mut interface = None;
        let mut sync_id = None;
        let mut max_length = None;
        let mut group = None;
        let mut group6 = None;
        let mut port = None;
        let mut ttl = None;
        for attribute in reader.by_ref() {
            let attribute = attribute?;
            match attribute.number {
                STATE => role = Some(DaemonRole(attribute.u32()?)),
                MCAST_IFN => interface = Some(InterfaceName::parse(&attribute)?),
                SYNC_ID => sync_id = Some(SyncId(attribute.u32()?)),
                SYNC_MAXLEN => max_length = NonZeroU16::new(attribute.u16()?),
                MCAST_GROUP => {
                    let address = Ipv4Addr::from(attribute.array::<4>()?);
                    group = Some(multicast(address.into(), &attribute)?);
                }
                MCAST_GROUP6 => {
                    let address = Ipv6Addr::from(attribute.array::<16>()?);
                    group6 = Some(multicast(address.into(), &attribute)?);
                }
                MCAST_PORT => port = NonZeroU16::new(attribute.u16()?),
                MCAST_TTL => ttl = NonZeroU8::new(attribute.u8()?),
                _ => unknown.keep(Level::Daemon, &attribute)?,
            }
        }
        Ok(Self {
            daemon: SyncDaemon {
                role: role.ok_or_else(|| reader.missing(STATE))?,
                interface: interface.ok_or_else(|| reader.missing(MCAST_IFN))?,
                sync_id: sync_id.ok_or_else(|| reader.missing(SYNC_ID))?,
                max_length,
                // As in the kernel, IPv4 wins if both are given.
                group: group.or(group6),
                port,
                ttl,
            },
            unknown,
        })
    }
}

fn multicast(address: IpAddr, attribute: &Attribute<'_>) -> Result<IpAddr, ParseError> {
    if address.is_multicast() {
        Ok(address)
    } else {
        Err(attribute.error(Problem::Value(GROUP_RULE)))
    }
}

/// What a sync daemon does: `IP_VS_STATE_*`, `IPVS_DAEMON_ATTR_STATE`.
///
/// It displays and reads as `master`, `backup` or a number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(clippy::exhaustive_structs, reason = "a number, whatever it means")]
pub struct DaemonRole(pub u32);

impl DaemonRole {
    /// Sends its connections. `IP_VS_STATE_MASTER`, `ipvsadm --start-daemon master`.
    pub const MASTER: Self = Self(1);
    /// Receives the connections of a master. `IP_VS_STATE_BACKUP`, `ipvsadm --start-daemon backup`.
    pub const BACKUP: Self = Self(2);

    /// What a request that only names a role carries.
    #[inline]
    pub(crate) fn put(self, out: &mut impl Sink) {
        out.put_u32(STATE, self.0);
    }

    pub(crate) fn parse(nest: &Attribute<'_>) -> Result<Self, ParseError> {
        let mut reader = nest.nested(Space::Daemon);
        let mut role = None;
        for attribute in reader.by_ref() {
            let attribute = attribute?;
            if attribute.number == STATE {
                role = Some(Self(attribute.u32()?));
            }
        }
        role.ok_or_else(|| reader.missing(STATE))
    }
}

open_set! {
    DaemonRole(u32), "sync daemon", "",
    MASTER = "master" | "master",
    BACKUP = "backup" | "backup",
}

/// The number by which a backup recognises its master: 0 to 255. A backup with 0 accepts the
/// messages of every master.
///
/// The kernel stores and reports any 32-bit number, but sends only its lowest 8 bits to backups. So
/// an id that the kernel reports can be larger than 255.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct SyncId(pub(crate) u32);

impl SyncId {
    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl From<u8> for SyncId {
    fn from(id: u8) -> Self {
        Self(id.into())
    }
}

impl FromStr for SyncId {
    type Err = InvalidValue;

    /// Reads 0 to 255.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let id: Result<u8, _> = text.parse();
        id.map(Self::from).map_err(|_| InvalidValue::new("sync id", text, "must be 0 to 255"))
    }
}

impl fmt::Display for SyncId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_displays_as_ipvsadms_switches() {
        let interface = InterfaceName::new("eth0").unwrap();
        let mut daemon = SyncDaemon::new(DaemonRole::MASTER, interface, SyncId::from(4));
        assert_eq!(daemon.to_string(), "--start-daemon master --mcast-interface eth0 --syncid 4");
        daemon.max_length = NonZeroU16::new(1472);
        daemon.set_group("224.0.0.81".parse().ok()).unwrap();
        daemon.port = NonZeroU16::new(8848);
        daemon.ttl = NonZeroU8::new(1);
        assert_eq!(
            daemon.to_string(),
            "--start-daemon master --mcast-interface eth0 --syncid 4 --sync-maxlen 1472 \
             --mcast-group 224.0.0.81 --mcast-port 8848 --mcast-ttl 1"
        );
    }

    #[test]
    fn groups_are_multicast() {
        let interface = InterfaceName::new("eth0").unwrap();
        let mut daemon = SyncDaemon::new(DaemonRole::MASTER, interface, SyncId::from(255));
        for wrong in ["10.0.0.1", "2001:db8::1", "0.0.0.0"] {
            let error = daemon.set_group(wrong.parse().ok()).unwrap_err();
            assert_eq!(error.rule(), GROUP_RULE);
            assert_eq!(daemon.group(), None);
        }
        daemon.set_group("ff05::1".parse().ok()).unwrap();
        daemon.set_group(None).unwrap();
        assert_eq!(daemon.group(), None);
    }
}
