//! How a tunnel wraps packets.

use std::{fmt, str::FromStr};

use ipvs_client::packet::{Tunnel, TunnelFlags, TunnelType};

use crate::{Invalid, Rule, Violation};

/// How a tunnel to a real server wraps packets: IP in IP, in UDP (GUE), or GRE; the last two since
/// Linux 5.3.
///
/// ```
/// use lvs::{Encapsulation, RealServer};
///
/// let far = RealServer::tunnel("172.17.0.3".parse()?)
///     .encapsulation(Encapsulation::gue(6080).checksum());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Encapsulation {
    pub(crate) kind: TunnelType,
    /// Of the real server, for GUE.
    pub(crate) port: u16,
    pub(crate) flags: TunnelFlags,
}

impl Encapsulation {
    /// IP in IP, the default: 20 more bytes a packet over IPv4, 40 over IPv6.
    /// `ipvsadm --tun-type ipip`.
    pub const IPIP: Self = Self { kind: TunnelType::IPIP, port: 0, flags: TunnelFlags::empty() };

    /// Generic UDP encapsulation, to this port of the real server: 12 bytes more than IP in IP.
    /// `ipvsadm --tun-type gue --tun-port`.
    pub const fn gue(port: u16) -> Self {
        Self { kind: TunnelType::GUE, port, flags: TunnelFlags::empty() }
    }

    /// Generic routing encapsulation: 4 bytes more than IP in IP. `ipvsadm --tun-type gre`.
    pub const fn gre() -> Self {
        Self { kind: TunnelType::GRE, port: 0, flags: TunnelFlags::empty() }
    }

    /// With a checksum in the outer header; GUE and GRE only. `ipvsadm --tun-csum`.
    #[must_use]
    pub const fn checksum(mut self) -> Self {
        self.flags = self.flags.union(TunnelFlags::CHECKSUM);
        self
    }

    /// With remote checksum offload; GUE only. `ipvsadm --tun-remcsum`.
    #[must_use]
    pub const fn remote_checksum(mut self) -> Self {
        self.flags = self.flags.union(TunnelFlags::REMOTE_CHECKSUM);
        self
    }
}

impl Default for Encapsulation {
    fn default() -> Self {
        Self::IPIP
    }
}

impl From<Tunnel> for Encapsulation {
    fn from(tunnel: Tunnel) -> Self {
        Self { kind: tunnel.kind(), port: tunnel.port(), flags: tunnel.flags() }
    }
}

/// `ipip`, `gue port 6080 with checksum`.
impl fmt::Display for Encapsulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if self.port != 0 {
            write!(f, " port {}", self.port)?;
        }
        if self.flags.contains(TunnelFlags::CHECKSUM) {
            write!(f, " with checksum")?;
        }
        if self.flags.contains(TunnelFlags::REMOTE_CHECKSUM) {
            write!(f, " with remote checksum")?;
        }
        Ok(())
    }
}

/// Reads what is displayed.
impl FromStr for Encapsulation {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let read = || {
            let mut words = text.split_whitespace().peekable();
            let mut encapsulation = match words.next()? {
                "ipip" => Self::IPIP,
                "gre" => Self::gre(),
                "gue" if words.next_if_eq(&"port").is_some() => {
                    Self::gue(words.next()?.parse().ok()?)
                }
                _ => return None,
            };
            while words.next_if_eq(&"with").is_some() {
                encapsulation = match (words.next()?, words.next_if_eq(&"checksum")) {
                    ("checksum", None) => encapsulation.checksum(),
                    ("remote", Some(_)) => encapsulation.remote_checksum(),
                    _ => return None,
                };
            }
            words.next().is_none().then_some(encapsulation)
        };
        let violation = || Violation::new("encapsulation".to_owned(), text, Rule::Encapsulation);
        read().ok_or_else(|| Invalid::new(vec![violation()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_displayed_is_read() {
        let (gue, gre) = (Encapsulation::gue(6080), Encapsulation::gre());
        for encapsulation in [
            Encapsulation::IPIP,
            gre,
            gre.checksum(),
            gue,
            gue.checksum(),
            gue.remote_checksum(),
            gue.checksum().remote_checksum(),
        ] {
            assert_eq!(encapsulation.to_string().parse(), Ok(encapsulation));
        }
        for text in ["", "gue", "gue port x", "gre with", "ipip with remote", "gre checksum", "sit"]
        {
            let Err(invalid) = text.parse::<Encapsulation>() else { panic!("{text}") };
            assert!(invalid.to_string().ends_with("(encapsulation)"), "{invalid}");
        }
    }
}
