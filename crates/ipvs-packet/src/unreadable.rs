//! An entry of the kernel's lists that cannot be read, with its identity if known.

use std::fmt;

use crate::{
    CommandNumber, DestinationKey, ParseError, Reply, ServiceKey,
    attribute::Reader,
    error::{Problem, Space},
    number::message::{DEST, SERVICE},
};

/// The length of a generic netlink header.
const HEADER: usize = 4;

/// An entry of a list that cannot be read: its identity, if known, and why.
///
/// It has no effect on the other entries. The kernel has this entry: a program that compares tables
/// must not treat it as absent.
///
/// ```
/// use ipvs_packet::{CommandNumber, Reply, Service, ServiceEntry};
///
/// let service = ServiceEntry::new(Service::new("-t 10.0.0.185:80".parse()?));
/// let mut answer = vec![CommandNumber::NEW_SERVICE.0, 1, 0, 0];
/// answer.extend(Reply::Service(service).to_bytes());
/// // "wlc" becomes a name that is not UTF-8.
/// let name = answer.windows(3).position(|bytes| bytes == b"wlc").ok_or("no name")?;
/// answer[name] = 0xff;
/// let unreadable = Reply::parse_entry(CommandNumber::NEW_SERVICE, &answer, None).unwrap_err();
/// assert_eq!(
///     unreadable.to_string(),
///     "service -t 10.0.0.185:80 cannot be read: IPVS message NEW_SERVICE: IPVS_SVC_ATTR_SCHED_NAME at \
///      byte 48: must be UTF-8"
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct Unreadable {
    /// Its kind.
    pub kind: EntryKind,
    /// The service, or that of the destination; `None` if that could not be read either.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub service: Option<ServiceKey>,
    /// The destination; `None` if that could not be read either.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub destination: Option<DestinationKey>,
    /// Why it cannot be read: the text of a [`ParseError`], with the attribute, its place and what is
    /// wrong with it.
    pub reason: String,
}

/// What an entry of a list describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum EntryKind {
    /// A service.
    Service,
    /// A destination of a service.
    Destination,
    /// A sync daemon.
    Daemon,
}

impl Unreadable {
    /// A service that cannot be read.
    pub fn of_service(service: Option<ServiceKey>, reason: impl fmt::Display) -> Self {
        let (kind, destination) = (EntryKind::Service, None);
        Self { kind, service, destination, reason: reason.to_string() }
    }

    /// A destination of a service that cannot be read.
    pub fn of_destination(
        service: Option<ServiceKey>,
        destination: Option<DestinationKey>,
        reason: impl fmt::Display,
    ) -> Self {
        Self { kind: EntryKind::Destination, service, destination, reason: reason.to_string() }
    }

    /// A sync daemon that cannot be read.
    pub fn of_daemon(reason: impl fmt::Display) -> Self {
        let (kind, reason) = (EntryKind::Daemon, reason.to_string());
        Self { kind, service: None, destination: None, reason }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            EntryKind::Daemon => f.write_str("a sync daemon")?,
            EntryKind::Destination => match self.destination {
                Some(key) => write!(f, "destination {key}")?,
                None => f.write_str("a destination")?,
            },
            EntryKind::Service if self.service.is_none() => f.write_str("a service")?,
            EntryKind::Service => {}
        }
        match (self.service, self.kind) {
            (Some(key), EntryKind::Destination) => write!(f, " of service {key}")?,
            (Some(key), _) => write!(f, "service {key}")?,
            (None, _) => {}
        }
        write!(f, " cannot be read: {}", self.reason)
    }
}

impl std::error::Error for Unreadable {}

impl Reply {
    /// Reads an entry of a list, with the generic netlink header before it: a reply of the `expected`
    /// command. `service` is the one whose destinations were asked for.
    ///
    /// # Errors
    /// If it cannot be read; the error has its identity, if known.
    pub fn parse_entry(
        expected: CommandNumber,
        entry: &[u8],
        service: Option<&ServiceKey>,
    ) -> Result<Self, Unreadable> {
        let fail = |payload, error: ParseError| {
            let reason = error.of_command(expected);
            let service = service.copied();
            match expected {
                CommandNumber::NEW_DEST => {
                    let key = destination_key(payload, service.as_ref());
                    Unreadable::of_destination(service, key, reason)
                }
                CommandNumber::NEW_DAEMON => Unreadable::of_daemon(reason),
                _ => Unreadable::of_service(service.or_else(|| service_key(payload)), reason),
            }
        };
        let Some((header, payload)) = entry.split_at_checked(HEADER) else {
            let problem = Problem::Truncated { need: HEADER, have: entry.len() };
            return Err(fail(&[], ParseError::new(Space::Message, None, 0, problem)));
        };
        if header[0] != expected.0 {
            let problem = Problem::Value("of a command that was not asked for");
            return Err(fail(&[], ParseError::new(Space::Message, None, 0, problem)));
        }
        Self::parse(expected, payload, service.map(ServiceKey::family))
            .map_err(|error| fail(payload, error))
    }
}

/// The key in the `SERVICE` nest of a payload whose other parts cannot be read.
fn service_key(payload: &[u8]) -> Option<ServiceKey> {
    let nests = Reader::new(payload, 0, Space::Message).flatten();
    let nest = nests.filter(|nest| nest.number == SERVICE).last()?;
    ServiceKey::salvage(nest.nested(Space::Service))
}

/// The same of a `DEST` nest.
fn destination_key(payload: &[u8], service: Option<&ServiceKey>) -> Option<DestinationKey> {
    let nests = Reader::new(payload, 0, Space::Message).flatten();
    let nest = nests.filter(|nest| nest.number == DEST).last()?;
    DestinationKey::salvage(&nest, service.map(ServiceKey::family))
}
