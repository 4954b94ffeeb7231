//! Destinations (real servers): the `DEST` nest (`ip_vs_genl_parse_dest`,
//! `ip_vs_genl_dump_dest`).
//!
//! Longer than 500 lines: a destination with its settings, the encapsulation included, is one nest.

use std::{fmt, num::NonZeroU16, str::FromStr};

#[cfg(feature = "serde")]
use crate::serialize::is_default;
use crate::{
    AddressFamily, DestinationKey, InvalidValue, Level, ParseError, Statistics, UnknownAttributes,
    attribute::{Attribute, Reader, Sink},
    error::{Problem, Space},
    key::{parse_address, put_address},
    number::destination::{
        ACTIVE_CONNS, ADDR, ADDR_FAMILY, FWD_METHOD, INACT_CONNS, L_THRESH, PERSIST_CONNS, PORT,
        STATS, STATS64, TUN_FLAGS, TUN_PORT, TUN_TYPE, U_THRESH, WEIGHT,
    },
    open_set::open_set,
};

/// A destination of a service (a real server): what identifies it and how it is set.
///
/// ```
/// use ipvs_packet::{Destination, ForwardMethod, Weight};
///
/// let mut destination = Destination::new("172.17.0.3:80".parse()?);
/// assert_eq!(destination.forward, ForwardMethod::MASQUERADE);
/// destination.weight = Weight::new(3)?;
/// assert_eq!(destination.to_string(), "-r 172.17.0.3:80 -m -w 3");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// It displays as ipvsadm's options. Values without an option of ipvsadm's are shown as
/// `--forward-method 5` and `--tun-flags 0x10`. Settings without effect are not shown: the tunnel of
/// other forwarding methods, port and flags of IPIP, and the port of GRE.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Destination {
    /// Address and port.
    pub key: DestinationKey,
    /// How packets reach it; masquerading by default. (ipvsadm's default is direct routing.)
    pub forward: ForwardMethod,
    /// Its share of the connections; 1 by default, as in ipvsadm.
    pub weight: Weight,
    /// The number of connections at which it is full, and the number below which it is free again;
    /// no limit by default.
    pub thresholds: Thresholds,
    /// How packets are encapsulated if the forwarding method is tunnelling; IPIP by default.
    pub tunnel: Tunnel,
}

impl Destination {
    /// A destination to which packets are masqueraded, of weight 1, without thresholds.
    pub const fn new(key: DestinationKey) -> Self {
        Self {
            key,
            forward: ForwardMethod::MASQUERADE,
            weight: Weight::ONE,
            thresholds: Thresholds::NONE,
            tunnel: Tunnel::IPIP,
        }
    }

    /// The settings as ipvsadm's options, without the key: `-m -w 1`.
    pub fn switches(&self) -> impl fmt::Display + '_ {
        Switches(self)
    }

    #[inline]
    pub(crate) fn put(&self, out: &mut impl Sink) {
        out.put_u16(ADDR_FAMILY, self.key.family().number());
        put_address(ADDR, self.key.address, out);
        out.put_u16_be(PORT, self.key.port);
        out.put_u32(FWD_METHOD, self.forward.0);
        out.put_u32(WEIGHT, self.weight.0);
        self.tunnel.put(out);
        out.put_u32(U_THRESH, self.thresholds.upper);
        out.put_u32(L_THRESH, self.thresholds.lower);
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "-r {} {}", self.key, self.switches())
    }
}

/// What [`Destination::switches`] returns.
struct Switches<'a>(&'a Destination);

impl fmt::Display for Switches<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Destination { forward, weight, thresholds, tunnel, .. } = self.0;
        match *forward {
            ForwardMethod::MASQUERADE => f.write_str("-m")?,
            ForwardMethod::TUNNEL => f.write_str("-i")?,
            ForwardMethod::DIRECT_ROUTE => f.write_str("-g")?,
            ForwardMethod(number) => write!(f, "--forward-method {number}")?,
        }
        write!(f, " -w {weight}")?;
        if thresholds.upper != 0 {
            write!(f, " -x {}", thresholds.upper)?;
        }
        if thresholds.lower != 0 {
            write!(f, " -y {}", thresholds.lower)?;
        }
        if *forward == ForwardMethod::TUNNEL {
            write_tunnel(*tunnel, f)?;
        }
        Ok(())
    }
}

/// Flags that do not fit the type, or each other, are written as a number, since ipvsadm
/// refuses them.
fn write_tunnel(tunnel: Tunnel, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Tunnel { kind, port, flags } = tunnel;
    write!(f, " --tun-type {kind}")?;
    if kind == TunnelType::IPIP {
        return Ok(());
    }
    if kind != TunnelType::GRE && port != 0 {
        write!(f, " --tun-port {port}")?;
    }
    match flags {
        flags if flags.is_empty() => f.write_str(" --tun-nocsum"),
        TunnelFlags::CHECKSUM => f.write_str(" --tun-csum"),
        TunnelFlags::REMOTE_CHECKSUM if kind != TunnelType::GRE => f.write_str(" --tun-remcsum"),
        flags => write!(f, " --tun-flags {:#x}", flags.bits()),
    }
}

impl DestinationKey {
    /// What a request that only names a destination carries.
    #[inline]
    pub(crate) fn put(&self, out: &mut impl Sink) {
        out.put_u16(ADDR_FAMILY, self.family().number());
        put_address(ADDR, self.address, out);
        out.put_u16_be(PORT, self.port);
    }

    /// Reads only the key of a `DEST` nest.
    pub(crate) fn parse(
        nest: &Attribute<'_>,
        service_family: Option<AddressFamily>,
    ) -> Result<Self, ParseError> {
        let mut reader = nest.nested(Space::Destination);
        let mut parts = DestinationKeyParts::default();
        for attribute in reader.by_ref() {
            parts.take(&attribute?)?;
        }
        parts.finish(&reader, service_family)
    }

    /// The key, even if another part, such as a later attribute, cannot be read.
    pub(crate) fn salvage(
        nest: &Attribute<'_>,
        service_family: Option<AddressFamily>,
    ) -> Option<Self> {
        let mut reader = nest.nested(Space::Destination);
        let mut parts = DestinationKeyParts::default();
        for attribute in reader.by_ref().flatten() {
            parts.take(&attribute).ok()?;
        }
        parts.finish(&reader, service_family).ok()
    }
}

/// The attributes of a key, collected in any order.
#[derive(Default)]
struct DestinationKeyParts<'a> {
    family: Option<AddressFamily>,
    address: Option<Attribute<'a>>,
    port: Option<u16>,
}

impl<'a> DestinationKeyParts<'a> {
    /// Takes an attribute if it belongs to a key. Returns whether it did.
    #[inline]
    fn take(&mut self, attribute: &Attribute<'a>) -> Result<bool, ParseError> {
        match attribute.number {
            ADDR => self.address = Some(*attribute),
            PORT => self.port = Some(attribute.u16_be()?),
            // 0 means the same as no attribute: the service's family.
            ADDR_FAMILY if attribute.u16()? == 0 => self.family = None,
            ADDR_FAMILY => self.family = Some(AddressFamily::parse(attribute)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn finish(
        self,
        reader: &Reader<'_>,
        service_family: Option<AddressFamily>,
    ) -> Result<DestinationKey, ParseError> {
        let family = self.family.or(service_family).ok_or_else(|| reader.missing(ADDR_FAMILY))?;
        let address = self.address.ok_or_else(|| reader.missing(ADDR))?;
        Ok(DestinationKey {
            address: parse_address(&address, family)?,
            port: self.port.ok_or_else(|| reader.missing(PORT))?,
        })
    }
}

/// A destination as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct DestinationEntry {
    /// Identity and settings.
    pub destination: Destination,
    /// Connections in use now. `IPVS_DEST_ATTR_ACTIVE_CONNS`.
    #[cfg_attr(feature = "serde", serde(default))]
    pub active_connections: u32,
    /// Connections that are closing or, for UDP, all of them. `IPVS_DEST_ATTR_INACT_CONNS`.
    #[cfg_attr(feature = "serde", serde(default))]
    pub inactive_connections: u32,
    /// Persistence templates. `IPVS_DEST_ATTR_PERSIST_CONNS`.
    #[cfg_attr(feature = "serde", serde(default))]
    pub persistent_connections: u32,
    /// Counters and rates.
    #[cfg_attr(feature = "serde", serde(default))]
    pub statistics: Statistics,
    /// Attributes that this crate does not know.
    #[cfg_attr(
        feature = "serde",
        serde(default, skip_serializing_if = "UnknownAttributes::is_empty")
    )]
    pub unknown: UnknownAttributes,
}

impl DestinationEntry {
    /// An entry without connections and statistics.
    pub fn new(destination: Destination) -> Self {
        Self {
            destination,
            active_connections: 0,
            inactive_connections: 0,
            persistent_connections: 0,
            statistics: Statistics::default(),
            unknown: UnknownAttributes::new(),
        }
    }

    #[inline]
    pub(crate) fn put(&self, out: &mut impl Sink) {
        let Destination { key, forward, weight, thresholds, tunnel } = &self.destination;
        put_address(ADDR, key.address, out);
        out.put_u16_be(PORT, key.port);
        out.put_u32(FWD_METHOD, forward.0);
        out.put_u32(WEIGHT, weight.0);
        tunnel.put(out);
        out.put_u32(U_THRESH, thresholds.upper);
        out.put_u32(L_THRESH, thresholds.lower);
        out.put_u32(ACTIVE_CONNS, self.active_connections);
        out.put_u32(INACT_CONNS, self.inactive_connections);
        out.put_u32(PERSIST_CONNS, self.persistent_connections);
        out.put_u16(ADDR_FAMILY, key.family().number());
        self.statistics.put(STATS, STATS64, &self.unknown, out);
        out.put_encoded(self.unknown.encoded(Level::Destination));
    }

    /// Reads a whole `DEST` nest, of a request or of a reply.
    ///
    /// Thresholds and tunnel are not checked. Kernels before July 2026 can report an upper
    /// threshold above `i32::MAX`. Since Linux 7.1 a dump can run during a change, and report half
    /// of it.
    pub(crate) fn parse(
        nest: &Attribute<'_>,
        service_family: Option<AddressFamily>,
        mut unknown: UnknownAttributes,
    ) -> Result<Self, ParseError> {
        let mut reader: Reader<'_> = nest.nested(Space::Destination);
        let mut key = DestinationKeyParts::default();
        let mut forward = None;
        let mut weight = None;
        let mut upper = None;
        let mut lower = None;
        let mut tunnel = Tunnel::IPIP;
        let mut active = 0;
        let mut inactive = 0;
        let mut persistent = 0;
        let mut narrow = None;
        let mut wide = None;
        for attribute in reader.by_ref() {
            let attribute = attribute?;
            match attribute.number {
                FWD_METHOD => forward = Some(ForwardMethod(attribute.u32()?)),
                WEIGHT => weight = Some(Weight::parse(&attribute)?),
                U_THRESH => upper = Some(attribute.u32()?),
                L_THRESH => lower = Some(attribute.u32()?),
                ACTIVE_CONNS => active = attribute.u32()?,
                INACT_CONNS => inactive = attribute.u32()?,
                PERSIST_CONNS => persistent = attribute.u32()?,
                STATS => narrow = Some(Statistics::parse(&attribute, false, &mut unknown)?),
                STATS64 => wide = Some(Statistics::parse(&attribute, true, &mut unknown)?),
                TUN_TYPE => tunnel.kind = TunnelType(attribute.u8()?),
                TUN_PORT => tunnel.port = attribute.u16_be()?,
                TUN_FLAGS => tunnel.flags = TunnelFlags::from_bits_retain(attribute.u16()?),
                _ => {
                    if !key.take(&attribute)? {
                        unknown.keep(Level::Destination, &attribute)?;
                    }
                }
            }
        }
        Ok(Self {
            destination: Destination {
                key: key.finish(&reader, service_family)?,
                forward: forward.ok_or_else(|| reader.missing(FWD_METHOD))?,
                weight: weight.ok_or_else(|| reader.missing(WEIGHT))?,
                thresholds: Thresholds {
                    upper: upper.ok_or_else(|| reader.missing(U_THRESH))?,
                    lower: lower.ok_or_else(|| reader.missing(L_THRESH))?,
                },
                tunnel,
            },
            active_connections: active,
            inactive_connections: inactive,
            persistent_connections: persistent,
            statistics: wide.or(narrow).unwrap_or_default(),
            unknown,
        })
    }
}

/// How packets reach a destination: `IP_VS_CONN_F_FWD_MASK`, `IPVS_DEST_ATTR_FWD_METHOD`.
///
/// The kernel drops bits above the lowest three, stores 5 to 7, and then delivers such packets
/// locally.
///
/// It displays as the word in ipvsadm's table (`Masq`, `Local`, `Tunnel`, `Route`, `Bypass`) or as
/// a number. It reads the same, or `masquerade`, `local`, `tunnel`, `direct`, `bypass`, in any
/// case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(clippy::exhaustive_structs, reason = "a number, whatever it means")]
pub struct ForwardMethod(pub u32);

impl ForwardMethod {
    /// NAT: the destination's address and port are written into the packet, and its replies must
    /// come back through the director. `IP_VS_CONN_F_MASQ`, `ipvsadm -m`.
    pub const MASQUERADE: Self = Self(0);
    /// The director itself. `IP_VS_CONN_F_LOCALNODE`.
    pub const LOCAL_NODE: Self = Self(1);
    /// The packet is encapsulated and sent to the destination, which holds the virtual address too
    /// and replies directly. `IP_VS_CONN_F_TUNNEL`, `ipvsadm -i`.
    pub const TUNNEL: Self = Self(2);
    /// The packet is sent unchanged to the destination's link-layer address; the destination holds
    /// the virtual address too and replies directly. `IP_VS_CONN_F_DROUTE`, `ipvsadm -g`.
    pub const DIRECT_ROUTE: Self = Self(3);
    /// The packet is sent to its original address. `IP_VS_CONN_F_BYPASS`.
    pub const BYPASS: Self = Self(4);
}

// Displayed as in ipvsadm's table.
open_set! {
    ForwardMethod(u32), "forwarding method", "",
    MASQUERADE = "Masq" | "masquerade",
    LOCAL_NODE = "Local" | "local",
    TUNNEL = "Tunnel" | "tunnel",
    DIRECT_ROUTE = "Route" | "direct",
    BYPASS = "Bypass" | "bypass",
}

/// A destination's share of the connections, relative to the others' of its service: 0 to
/// 2,147,483,647. With 0 it gets no new connections, and keeps its existing ones.
/// `IPVS_DEST_ATTR_WEIGHT`, `ipvsadm -w`.
///
/// The kernel reads the 32 bits of the attribute as a signed number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Weight(u32);

impl Weight {
    /// No new connections.
    pub const ZERO: Self = Self(0);
    /// The default.
    pub const ONE: Self = Self(1);
    /// 2,147,483,647 (`i32::MAX`).
    pub const MAX: Self = Self(i32::MAX as u32);

    const RULE: &str = "must be 0 to 2147483647";

    /// Takes 0 to 2,147,483,647.
    ///
    /// # Errors
    /// If the number is larger.
    pub fn new(weight: u32) -> Result<Self, InvalidValue> {
        if weight <= Self::MAX.0 {
            Ok(Self(weight))
        } else {
            Err(InvalidValue::new("weight", weight, Self::RULE))
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    fn parse(attribute: &Attribute<'_>) -> Result<Self, ParseError> {
        Self::new(attribute.u32()?).map_err(|_| attribute.error(Problem::Value(Self::RULE)))
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

impl From<u16> for Weight {
    fn from(weight: u16) -> Self {
        Self(weight.into())
    }
}

impl FromStr for Weight {
    type Err = InvalidValue;

    /// Reads 0 to 2,147,483,647, without separators.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let refuse = || InvalidValue::new("weight", text, Self::RULE);
        text.parse().map_err(|_| refuse()).and_then(Self::new)
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// When a destination is full, and when it is free again.
///
/// At `upper` connections it gets no new ones until they fall below `lower`, or below three
/// quarters of `upper` if `lower` is 0. `IPVS_DEST_ATTR_U_THRESH`, `_L_THRESH`, `ipvsadm -x`, `-y`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct Thresholds {
    pub(crate) upper: u32,
    #[cfg_attr(feature = "serde", serde(default))]
    pub(crate) lower: u32,
}

impl Thresholds {
    /// No limit.
    pub const NONE: Self = Self { upper: 0, lower: 0 };

    /// Takes an upper threshold of 0 (no limit) to 2,147,483,647, and a lower one of at most that.
    ///
    /// # Errors
    /// If a threshold is larger. (The kernel refuses a lower threshold above the upper one with
    /// ERANGE. Since July 2026 it refuses an upper one above 2,147,483,647 with EINVAL; before, it
    /// accepted it.)
    pub fn new(upper: u32, lower: u32) -> Result<Self, InvalidValue> {
        if upper > i32::MAX as u32 {
            return Err(InvalidValue::new("upper threshold", upper, "must be 0 to 2147483647"));
        }
        if lower > upper {
            return Err(InvalidValue::new(
                "lower threshold",
                format_args!("{lower} (upper {upper})"),
                "must not exceed the upper threshold",
            ));
        }
        Ok(Self { upper, lower })
    }

    /// The number of connections at which the destination is full; 0 for no limit.
    pub const fn upper(self) -> u32 {
        self.upper
    }

    /// The number of connections below which it is free again; 0 for three quarters of the upper
    /// one.
    pub const fn lower(self) -> u32 {
        self.lower
    }
}

/// How packets to a tunnelled destination are encapsulated. `ipvsadm --tun-type`, since Linux 5.3.
/// The kernel stores it for other forwarding methods too, where it has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct Tunnel {
    #[cfg_attr(feature = "serde", serde(rename = "type"))]
    pub(crate) kind: TunnelType,
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "is_default"))]
    pub(crate) port: u16,
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "is_default"))]
    pub(crate) flags: TunnelFlags,
}

impl Tunnel {
    /// IP in IP: the default, and the only one before Linux 5.3.
    pub const IPIP: Self = Self { kind: TunnelType::IPIP, port: 0, flags: TunnelFlags::empty() };

    /// Any encapsulation. The kernel only uses the port of GUE.
    ///
    /// # Errors
    /// If it is GUE with port 0.
    pub fn new(kind: TunnelType, port: u16, flags: TunnelFlags) -> Result<Self, InvalidValue> {
        if kind == TunnelType::GUE && port == 0 {
            return Err(InvalidValue::new("tunnel port", port, "must be 1 to 65535 with GUE"));
        }
        Ok(Self { kind, port, flags })
    }

    /// Generic UDP encapsulation to a port of the destination, 1 to 65535 (the kernel refuses 0
    /// with EINVAL). `ipvsadm --tun-type gue --tun-port`.
    pub const fn gue(port: NonZeroU16, flags: TunnelFlags) -> Self {
        Self { kind: TunnelType::GUE, port: port.get(), flags }
    }

    /// Generic routing encapsulation. `ipvsadm --tun-type gre`.
    pub const fn gre(flags: TunnelFlags) -> Self {
        Self { kind: TunnelType::GRE, port: 0, flags }
    }

    /// The encapsulation. `IPVS_DEST_ATTR_TUN_TYPE`.
    pub const fn kind(self) -> TunnelType {
        self.kind
    }

    /// The port of GUE; usually 0 for the others. `IPVS_DEST_ATTR_TUN_PORT`.
    pub const fn port(self) -> u16 {
        self.port
    }

    /// Checksum flags. `IPVS_DEST_ATTR_TUN_FLAGS`.
    pub const fn flags(self) -> TunnelFlags {
        self.flags
    }

    #[inline]
    fn put(self, out: &mut impl Sink) {
        out.put_u8(TUN_TYPE, self.kind.0);
        out.put_u16_be(TUN_PORT, self.port);
        out.put_u16(TUN_FLAGS, self.flags.bits());
    }
}

impl Default for Tunnel {
    fn default() -> Self {
        Self::IPIP
    }
}

/// An encapsulation: `IP_VS_CONN_F_TUNNEL_TYPE_*`. The kernel treats numbers without a name as
/// IPIP.
///
/// It displays and reads as ipvsadm's word (`ipip`, `gue`, `gre`) or as a number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(clippy::exhaustive_structs, reason = "a number, whatever it means")]
pub struct TunnelType(pub u8);

impl TunnelType {
    /// IP in IP.
    pub const IPIP: Self = Self(0);
    /// Generic UDP encapsulation.
    pub const GUE: Self = Self(1);
    /// Generic routing encapsulation.
    pub const GRE: Self = Self(2);
}

open_set! {
    TunnelType(u8), "tunnel type", "",
    IPIP = "ipip" | "ipip",
    GUE = "gue" | "gue",
    GRE = "gre" | "gre",
}

bitflags::bitflags! {
    /// Checksums of the tunnel: `IP_VS_TUNNEL_ENCAP_FLAG_*`. None is `ipvsadm --tun-nocsum`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub struct TunnelFlags: u16 {
        /// Checksums are written. `IP_VS_TUNNEL_ENCAP_FLAG_CSUM`, `ipvsadm --tun-csum`.
        const CHECKSUM = 0x1;
        /// Remote checksum offload. `IP_VS_TUNNEL_ENCAP_FLAG_REMCSUM`, `ipvsadm --tun-remcsum`.
        const REMOTE_CHECKSUM = 0x2;

        // Every other bit is valid too: the kernel stores and echoes them.
        const _ = !0;
    }
}

#[cfg(test)]
mod tests;
