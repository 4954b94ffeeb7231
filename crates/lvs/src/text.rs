//! Services and whole tables as text: the rules of `ipvsadm -S` and `-R`.

use std::{error, fmt, io, str::FromStr};

use ipvs_client::{ServiceSnapshot, Snapshot, packet::DestinationEntry, packet::ServiceEntry};
use ipvs_table::{Command, Mistakes, Rules};

use crate::{Desired, Invalid, RealServer, VirtualService};

/// A text that is not a desired state: all that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextError {
    /// It cannot be read. Every mistake, with line and column.
    Mistakes(Mistakes),
    /// It can be read, and breaks rules.
    Invalid(Invalid),
    /// One service was expected, and there are as many.
    Services(usize),
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mistakes(mistakes) => mistakes.fmt(f),
            Self::Invalid(invalid) => invalid.fmt(f),
            Self::Services(number) => write!(f, "the text must name one service, not {number}"),
        }
    }
}

impl error::Error for TextError {}

impl From<Mistakes> for TextError {
    fn from(mistakes: Mistakes) -> Self {
        Self::Mistakes(mistakes)
    }
}

impl From<Invalid> for TextError {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

impl From<TextError> for io::Error {
    fn from(error: TextError) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

/// The table that an empty one becomes by these rules.
impl TryFrom<&Rules> for Desired {
    type Error = TextError;

    fn try_from(rules: &Rules) -> Result<Self, TextError> {
        Ok(Self::try_from(&rules.table()?)?)
    }
}

/// Reads the rules of `ipvsadm -Sn`, with addresses and ports as numbers. Nothing is taken of a text
/// with mistakes; all of them are reported.
///
/// No names are looked up. For a text with names there is [`Rules::parse`], and
/// `Desired::try_from(&rules)`.
impl FromStr for Desired {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        Self::try_from(&text.parse::<Rules>()?)
    }
}

/// The rules that `ipvsadm -Sn` writes, and thresholds as well.
impl fmt::Display for Desired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Rules::from(&Snapshot::from(self)).fmt(f)
    }
}

/// Reads the rules of `ipvsadm -S` for one service.
impl FromStr for VirtualService {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let desired: Desired = text.parse()?;
        match (desired.len(), desired.iter().next()) {
            (1, Some(service)) => Ok(service.clone()),
            (number, _) => Err(TextError::Services(number)),
        }
    }
}

/// The rules that `ipvsadm -Sn` writes, and thresholds as well.
impl fmt::Display for VirtualService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table: Snapshot = [ServiceSnapshot::from(self)].into_iter().collect();
        Rules::from(&table).fmt(f)
    }
}

/// Reads what stands behind `ipvsadm -a SERVICE`: `-r 172.17.0.3:80 -m -w 3`. Without a port, or with 0, it has the
/// service's.
impl FromStr for RealServer {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        Ok(Self::from_switches(&Command::parse_server(text)?))
    }
}

/// What a snapshot of the kernel's table would hold, without statistics.
impl From<&VirtualService> for ServiceSnapshot {
    fn from(service: &VirtualService) -> Self {
        let destinations = service.destinations().iter().cloned();
        Self::new(
            ServiceEntry::new(service.service().clone()),
            destinations.map(DestinationEntry::new).collect(),
        )
    }
}

/// What a snapshot of the kernel's table would hold, without statistics.
impl From<&Desired> for Snapshot {
    fn from(desired: &Desired) -> Self {
        desired.iter().map(ServiceSnapshot::from).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use proptest::prelude::*;

    use super::*;
    use crate::{Encapsulation, strategy};

    proptest! {
        #[test]
        fn what_is_written_is_read(desired in strategy::desired()) {
            prop_assert_eq!(desired.to_string().parse::<Desired>().unwrap(), desired.clone());
            for service in desired.iter() {
                prop_assert_eq!(&service.to_string().parse::<VirtualService>().unwrap(), service);
            }
        }
    }

    #[test]
    fn real_servers_are_read() {
        let read = |text: &str| text.parse::<RealServer>().unwrap();
        let (v4, v6) = ("172.17.0.3".parse().unwrap(), "fd00::3".parse().unwrap());
        let nat = RealServer::nat("172.17.0.3:80".parse().unwrap()).weight(3).thresholds(100, 50);
        assert_eq!(read("-r 172.17.0.3:80 -m -w 3 -x 100 -y 50"), nat);
        assert_eq!(read("-r 172.17.0.3"), RealServer::direct(v4), "ipvsadm's defaults");
        let gue = Encapsulation::gue(6080).checksum();
        assert_eq!(
            read("-r [fd00::3]:0 -i -w 0 --tun-type gue --tun-port 6080 --tun-csum"),
            RealServer::tunnel(v6).weight(0).encapsulation(gue)
        );
        let error = "-r 172.17.0.3 -w x -x y".parse::<RealServer>().unwrap_err().to_string();
        assert_eq!(error.lines().count(), 2, "{error}");
    }

    #[test]
    fn everything_wrong_is_reported() {
        let unread = "-A -t 10.0.0.185:80 -s\n-a -t 10.0.0.185:80 -r 172.17.0.3 -w x\n";
        let error = unread.parse::<Desired>().unwrap_err();
        assert!(matches!(&error, TextError::Mistakes(mistakes) if mistakes.iter().count() == 2));
        let invalid = "-A -t 224.0.0.1:80 -s none\n-a -t 224.0.0.1:80 -r 172.17.0.3 -m\n";
        let error = invalid.parse::<Desired>().unwrap_err().to_string();
        assert!(
            error.contains("(virtual-address)\n") && error.ends_with("(scheduler-none)"),
            "{error}"
        );
        assert_eq!("".parse::<VirtualService>(), Err(TextError::Services(0)));
    }
}
