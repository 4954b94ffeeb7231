//! Values of options: durations, addresses, names of links.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use clap::ValueEnum;

/// How virtual addresses become local to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum VipMode {
    /// Routes where the service ranges are known, else addresses.
    Auto,
    /// One local route for each service range; what lies outside of them is an address of
    /// `kube-ipvs0`.
    Routes,
    /// An address of `kube-ipvs0` for each, as kube-proxy has it.
    Addresses,
}

/// How the lines of the log are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// As text.
    Text,
    /// As an object in JSON each.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        <Self as ValueEnum>::from_str(text, false)
    }
}

/// By what the pods of the cluster are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DetectLocal {
    /// By `--cluster-cidr`.
    ClusterCidr,
    /// By `spec.podCIDRs` of the Node.
    NodeCidr,
    /// By the bridge over which their packets come: `--pod-bridge-interface`.
    BridgeInterface,
    /// By how the names of the links over which their packets come begin:
    /// `--pod-interface-name-prefix`.
    InterfaceNamePrefix,
}

impl FromStr for DetectLocal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ClusterCIDR" => Ok(Self::ClusterCidr),
            "NodeCIDR" => Ok(Self::NodeCidr),
            "BridgeInterface" => Ok(Self::BridgeInterface),
            "InterfaceNamePrefix" => Ok(Self::InterfaceNamePrefix),
            _ => Err(format!(
                "{text:?} is not one of ClusterCIDR, NodeCIDR, BridgeInterface and \
                 InterfaceNamePrefix"
            )),
        }
    }
}

/// The name of a network link, or how it begins: 1 to 15 visible characters of ASCII, none of them a
/// slash, colon, asterisk, quotation mark or backslash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkName(String);

impl FromStr for LinkName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Those of Linux, but for what would mean something else to nft.
        let is_good = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '*' | '"' | '\\');
        match (1..=15).contains(&text.len()) && text.chars().all(is_good) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("{text:?} is not the name of a network link")),
        }
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A duration as Go writes it: `30s`, `1m30s`, `250ms`, `1.5h`, `0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GoDuration(pub(crate) Duration);

impl FromStr for GoDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a duration such as 30s, 1m30s or 250ms");
        let mut rest = text.trim();
        if rest == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let mut seconds = 0.0;
        let units =
            [("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let number: f64 = rest[..end].parse().map_err(|_| wrong())?;
            rest = &rest[end..];
            let (unit, factor) =
                units.iter().find(|(unit, _)| rest.starts_with(unit)).ok_or_else(wrong)?;
            seconds += number * factor;
            rest = &rest[unit.len()..];
        }
        // A hundred years: what is longer cannot be added to a time.
        let duration = Duration::try_from_secs_f64(seconds.min(3.2e9)).map_err(|_| wrong())?;
        Ok(Self(duration))
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0.as_secs_f64())
    }
}

/// An address to listen on, or an empty text for none. Without a port, kube-proxy's own is for the
/// caller to add; so one is needed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BindAddress(Option<SocketAddr>);

impl BindAddress {
    /// With a port where none was given.
    pub(super) fn or(self, port: u16) -> Option<SocketAddr> {
        self.0.map(|address| match address.port() {
            0 => (address.ip(), port).into(),
            _ => address,
        })
    }
}

impl FromStr for BindAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "" => Ok(Self(None)),
            text => text
                .parse()
                .or_else(|error| text.parse().map(|ip: IpAddr| (ip, 0).into()).map_err(|_| error))
                .map(|address| Self(Some(address)))
                .map_err(|_| format!("{text:?} is not an address and port such as 0.0.0.0:10256")),
        }
    }
}
