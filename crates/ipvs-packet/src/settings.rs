//! The version of IPVS, and the timeouts of connections.

use std::{fmt, str::FromStr};

use crate::{
    InvalidValue, Level, ParseError, UnknownAttributes,
    attribute::{Reader, Sink},
    number::info::{CONN_TAB_SIZE, VERSION},
    number::message::{TIMEOUT_TCP, TIMEOUT_TCP_FIN, TIMEOUT_UDP},
};

/// How long idle connections are kept, in seconds, network-namespace wide.
/// `ipvsadm --set tcp tcpfin udp`, `ipvsadm -L --timeout`.
///
/// They display and read as the three numbers of `ipvsadm --set`: `900 120 300`.
///
/// In a request, 0 leaves a timeout as it is. Every kernel takes up to 2,147,483 (24 days); some
/// refuse a larger value with EINVAL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields, default))]
#[non_exhaustive]
pub struct Timeouts {
    /// An established TCP connection; the kernel's default is 900. `IPVS_CMD_ATTR_TIMEOUT_TCP`.
    pub tcp: u32,
    /// A TCP connection after a FIN; 120. `IPVS_CMD_ATTR_TIMEOUT_TCP_FIN`.
    pub tcp_fin: u32,
    /// A UDP connection; 300. `IPVS_CMD_ATTR_TIMEOUT_UDP`.
    pub udp: u32,
}

impl Timeouts {
    /// In the order of `ipvsadm --set`.
    pub const fn new(tcp: u32, tcp_fin: u32, udp: u32) -> Self {
        Self { tcp, tcp_fin, udp }
    }

    #[inline]
    pub(crate) fn put(&self, out: &mut impl Sink) {
        out.put_u32(TIMEOUT_TCP, self.tcp);
        out.put_u32(TIMEOUT_TCP_FIN, self.tcp_fin);
        out.put_u32(TIMEOUT_UDP, self.udp);
    }

    pub(crate) fn parse(
        reader: Reader<'_>,
        unknown: &mut UnknownAttributes,
    ) -> Result<Self, ParseError> {
        // All are optional; without the protocol's module the kernel leaves its timeout out.
        let mut timeouts = Self::default();
        for attribute in reader {
            let attribute = attribute?;
            match attribute.number {
                TIMEOUT_TCP => timeouts.tcp = attribute.u32()?,
                TIMEOUT_TCP_FIN => timeouts.tcp_fin = attribute.u32()?,
                TIMEOUT_UDP => timeouts.udp = attribute.u32()?,
                _ => unknown.keep(Level::Timeouts, &attribute)?,
            }
        }
        Ok(timeouts)
    }
}

impl fmt::Display for Timeouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.tcp, self.tcp_fin, self.udp)
    }
}

impl FromStr for Timeouts {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let numbers: Result<Vec<u32>, _> = text.split_ascii_whitespace().map(str::parse).collect();
        match numbers.as_deref() {
            Ok(&[tcp, tcp_fin, udp]) => Ok(Self::new(tcp, tcp_fin, udp)),
            _ => Err(InvalidValue::new(
                "timeouts",
                text,
                "must be three numbers of seconds, for TCP, TCP after a FIN, and UDP, such as \
                 \"900 120 300\"",
            )),
        }
    }
}

/// What `GET_INFO` answers. It displays as the first line of `ipvsadm -L`: `IP Virtual Server
/// version 1.2.1 (size=4096)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct Info {
    /// The version of IPVS, 1.2.1 since 2003. `IPVS_INFO_ATTR_VERSION`.
    pub version: Version,
    /// The number of buckets of the connection table: 4096 by default (module parameter
    /// `conn_tab_bits`). Since Linux 7.1, those of the network namespace's own table, 0 while it
    /// has none. `IPVS_INFO_ATTR_CONN_TAB_SIZE`.
    pub connection_table_size: u32,
}

impl Info {
    /// An info.
    pub const fn new(version: Version, connection_table_size: u32) -> Self {
        Self { version, connection_table_size }
    }

    #[inline]
    pub(crate) fn put(&self, out: &mut impl Sink) {
        out.put_u32(VERSION, self.version.0);
        out.put_u32(CONN_TAB_SIZE, self.connection_table_size);
    }

    pub(crate) fn parse(
        mut reader: Reader<'_>,
        unknown: &mut UnknownAttributes,
    ) -> Result<Self, ParseError> {
        let mut version = None;
        let mut size = None;
        for attribute in reader.by_ref() {
            let attribute = attribute?;
            match attribute.number {
                VERSION => version = Some(Version(attribute.u32()?)),
                CONN_TAB_SIZE => size = Some(attribute.u32()?),
                _ => unknown.keep(Level::Info, &attribute)?,
            }
        }
        Ok(Self {
            version: version.ok_or_else(|| reader.missing(VERSION))?,
            connection_table_size: size.ok_or_else(|| reader.missing(CONN_TAB_SIZE))?,
        })
    }
}

impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, connection_table_size } = self;
        write!(f, "IP Virtual Server version {version} (size={connection_table_size})")
    }
}

/// A version as the kernel packs it: 0x010201 displays as 1.2.1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(clippy::exhaustive_structs, reason = "a number, whatever it means")]
pub struct Version(pub u32);

impl FromStr for Version {
    type Err = InvalidValue;

    /// Reads `1.2.1`; the first number is 0 to 65535, the others 0 to 255.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let parse = || {
            let mut parts = text.split('.');
            let major: u16 = parts.next()?.parse().ok()?;
            let minor: u8 = parts.next()?.parse().ok()?;
            let patch: u8 = parts.next()?.parse().ok()?;
            let version = u32::from(major) << 16 | u32::from(minor) << 8 | u32::from(patch);
            parts.next().is_none().then_some(Self(version))
        };
        parse().ok_or_else(|| InvalidValue::new("version", text, "must look like 1.2.1"))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0 >> 16, self.0 >> 8 & 0xff, self.0 & 0xff)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_are_ipvsadms() {
        assert_eq!(" 900  120 300".parse(), Ok(Timeouts::new(900, 120, 300)));
        assert_eq!(Timeouts::new(900, 120, 300).to_string(), "900 120 300");
        for wrong in ["", "900 120", "900 120 300 1", "900 120 x", "-1 1 1", "4294967296 1 1"] {
            let error = wrong.parse::<Timeouts>().unwrap_err();
            assert!(error.rule().contains("900 120 300"), "{error}");
        }
        assert_eq!(
            Info::new(Version(0x01_0201), 4096).to_string(),
            "IP Virtual Server version 1.2.1 (size=4096)"
        );
    }
}
