//! Whole messages by command: requests from user space and the kernel's replies.

use crate::{
    AddressFamily, CommandNumber, DaemonEntry, DaemonRole, Destination, DestinationEntry,
    DestinationKey, Info, Level, ParseError, Service, ServiceEntry, ServiceKey, SyncDaemon,
    Timeouts, UnknownAttributes,
    attribute::{Attribute, Length, Reader, Sink, Writer},
    error::Space,
    number::message::{DAEMON, DEST, SERVICE},
};

/// A message from user space: `NLM_F_REQUEST`.
const NLM_F_REQUEST: u16 = 0x001;
/// A request for an acknowledgement: `NLM_F_ACK`.
const NLM_F_ACK: u16 = 0x004;
/// A request for a list: `NLM_F_DUMP`, which is `NLM_F_ROOT | NLM_F_MATCH`.
const NLM_F_DUMP: u16 = 0x300;

/// What user space asks of the kernel.
///
/// [`parse`](Self::parse) reads a request as the kernel does, and ignores the attributes that the
/// kernel ignores.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Request {
    /// Add a service. `IPVS_CMD_NEW_SERVICE`, `ipvsadm -A`.
    NewService(Service),
    /// Change a service: everything but its key. `IPVS_CMD_SET_SERVICE`, `ipvsadm -E`.
    SetService(Service),
    /// Delete a service with its destinations. `IPVS_CMD_DEL_SERVICE`, `ipvsadm -D`.
    DeleteService(ServiceKey),
    /// Ask for one service. `IPVS_CMD_GET_SERVICE`.
    GetService(ServiceKey),
    /// Ask for all services. `IPVS_CMD_GET_SERVICE` as a dump, `ipvsadm -L`.
    ListServices,
    /// Add a destination. `IPVS_CMD_NEW_DEST`, `ipvsadm -a`.
    NewDestination(ServiceKey, Destination),
    /// Change a destination: everything but its key. `IPVS_CMD_SET_DEST`, `ipvsadm -e`.
    SetDestination(ServiceKey, Destination),
    /// Delete a destination. `IPVS_CMD_DEL_DEST`, `ipvsadm -d`.
    DeleteDestination(ServiceKey, DestinationKey),
    /// Ask for the destinations of a service. `IPVS_CMD_GET_DEST` as a dump.
    ListDestinations(ServiceKey),
    /// Start a sync daemon. `IPVS_CMD_NEW_DAEMON`, `ipvsadm --start-daemon`.
    NewDaemon(SyncDaemon),
    /// Stop a sync daemon. `IPVS_CMD_DEL_DAEMON`, `ipvsadm --stop-daemon`.
    DeleteDaemon(DaemonRole),
    /// Ask for the running sync daemons. `IPVS_CMD_GET_DAEMON` as a dump, `ipvsadm -L --daemon`.
    ListDaemons,
    /// Set the connection timeouts. `IPVS_CMD_SET_CONFIG`, `ipvsadm --set`.
    SetTimeouts(Timeouts),
    /// Ask for the connection timeouts. `IPVS_CMD_GET_CONFIG`, `ipvsadm -L --timeout`.
    GetTimeouts,
    /// Ask for version and connection table size. `IPVS_CMD_GET_INFO`.
    GetInfo,
    /// Zero the statistics of one service or of all. `IPVS_CMD_ZERO`, `ipvsadm -Z`.
    Zero(Option<ServiceKey>),
    /// Delete all services. `IPVS_CMD_FLUSH`, `ipvsadm -C`.
    Flush,
    /// Any other command, with its attributes as they are.
    Other {
        /// The command number.
        command: CommandNumber,
        /// What follows the generic netlink header.
        payload: Vec<u8>,
    },
}

impl Request {
    /// The command number.
    pub const fn command(&self) -> CommandNumber {
        match self {
            Self::NewService(_) => CommandNumber::NEW_SERVICE,
            Self::SetService(_) => CommandNumber::SET_SERVICE,
            Self::DeleteService(_) => CommandNumber::DEL_SERVICE,
            Self::GetService(_) | Self::ListServices => CommandNumber::GET_SERVICE,
            Self::NewDestination(..) => CommandNumber::NEW_DEST,
            Self::SetDestination(..) => CommandNumber::SET_DEST,
            Self::DeleteDestination(..) => CommandNumber::DEL_DEST,
            Self::ListDestinations(_) => CommandNumber::GET_DEST,
            Self::NewDaemon(_) => CommandNumber::NEW_DAEMON,
            Self::DeleteDaemon(_) => CommandNumber::DEL_DAEMON,
            Self::ListDaemons => CommandNumber::GET_DAEMON,
            Self::SetTimeouts(_) => CommandNumber::SET_CONFIG,
            Self::GetTimeouts => CommandNumber::GET_CONFIG,
            Self::GetInfo => CommandNumber::GET_INFO,
            Self::Zero(_) => CommandNumber::ZERO,
            Self::Flush => CommandNumber::FLUSH,
            Self::Other { command, .. } => *command,
        }
    }

    /// Whether the kernel answers with a dump: any number of replies and an end.
    pub const fn is_dump(&self) -> bool {
        matches!(self, Self::ListServices | Self::ListDestinations(_) | Self::ListDaemons)
    }

    /// The flags of the netlink header that the request needs: `NLM_F_REQUEST` with `NLM_F_DUMP`
    /// for a dump and with `NLM_F_ACK` for the others.
    pub const fn flags(&self) -> u16 {
        if self.is_dump() { NLM_F_REQUEST | NLM_F_DUMP } else { NLM_F_REQUEST | NLM_F_ACK }
    }

    /// Reads a request's payload: what follows the generic netlink header.
    ///
    /// `GET_SERVICE` is read as a request for one service if it names one, and otherwise for all.
    /// The kernel decides by `NLM_F_DUMP`, which is not in the payload.
    ///
    /// # Errors
    /// If the kernel would not accept the payload for this command.
    pub fn parse(command: CommandNumber, payload: &[u8]) -> Result<Self, ParseError> {
        Self::parse_payload(command, payload).map_err(|error| error.of_command(command))
    }

    fn parse_payload(command: CommandNumber, payload: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader::new(payload, 0, Space::Message);
        if command == CommandNumber::SET_CONFIG {
            let ignored = &mut UnknownAttributes::new();
            return Timeouts::parse(reader, ignored).map(Self::SetTimeouts);
        }
        if command.name().is_none() || command == CommandNumber::SET_INFO {
            return Ok(Self::Other { command, payload: payload.to_vec() });
        }
        let mut nests = Nests::default();
        for attribute in reader.by_ref() {
            nests.take(attribute?);
        }
        let service = || nests.service.ok_or_else(|| reader.missing(SERVICE));
        let full_service =
            || Ok(ServiceEntry::parse(&service()?, UnknownAttributes::new())?.service);
        let service_key = || ServiceKey::parse(service()?.nested(Space::Service));
        let destination = || nests.destination.ok_or_else(|| reader.missing(DEST));
        let full_destination = |family| {
            let entry =
                DestinationEntry::parse(&destination()?, Some(family), UnknownAttributes::new())?;
            Ok(entry.destination)
        };
        let daemon = || nests.daemon.ok_or_else(|| reader.missing(DAEMON));
        Ok(match command {
            CommandNumber::NEW_SERVICE => Self::NewService(full_service()?),
            CommandNumber::SET_SERVICE => Self::SetService(full_service()?),
            CommandNumber::DEL_SERVICE => Self::DeleteService(service_key()?),
            CommandNumber::GET_SERVICE if nests.service.is_none() => Self::ListServices,
            CommandNumber::GET_SERVICE => Self::GetService(service_key()?),
            CommandNumber::NEW_DEST => {
                let key = service_key()?;
                Self::NewDestination(key, full_destination(key.family())?)
            }
            CommandNumber::SET_DEST => {
                let key = service_key()?;
                Self::SetDestination(key, full_destination(key.family())?)
            }
            CommandNumber::DEL_DEST => {
                let key = service_key()?;
                let destination = DestinationKey::parse(&destination()?, Some(key.family()))?;
                Self::DeleteDestination(key, destination)
            }
            CommandNumber::GET_DEST => Self::ListDestinations(service_key()?),
            CommandNumber::NEW_DAEMON => {
                Self::NewDaemon(DaemonEntry::parse(&daemon()?, UnknownAttributes::new())?.daemon)
            }
            CommandNumber::DEL_DAEMON => Self::DeleteDaemon(DaemonRole::parse(&daemon()?)?),
            CommandNumber::GET_DAEMON => Self::ListDaemons,
            CommandNumber::GET_CONFIG => Self::GetTimeouts,
            CommandNumber::GET_INFO => Self::GetInfo,
            CommandNumber::ZERO if nests.service.is_none() => Self::Zero(None),
            CommandNumber::ZERO => Self::Zero(Some(service_key()?)),
            CommandNumber::FLUSH => Self::Flush,
            _ => Self::Other { command, payload: payload.to_vec() },
        })
    }

    /// The length of the payload in bytes, which follows the generic netlink header.
    pub fn buffer_len(&self) -> usize {
        let mut length = Length::default();
        self.put(&mut length);
        length.0
    }

    /// Writes the payload into the first [`buffer_len`](Self::buffer_len) bytes of a buffer.
    /// Allocates nothing.
    ///
    /// # Panics
    ///
    /// If the buffer is shorter than `buffer_len`.
    pub fn emit(&self, buffer: &mut [u8]) {
        self.put(&mut Writer::request(buffer));
    }

    /// The payload in a buffer of its own.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.buffer_len()];
        self.emit(&mut bytes);
        bytes
    }

    #[inline]
    fn put(&self, out: &mut impl Sink) {
        match self {
            Self::NewService(service) | Self::SetService(service) => {
                out.nest(SERVICE, |out| service.put(out));
            }
            Self::DeleteService(key)
            | Self::GetService(key)
            | Self::ListDestinations(key)
            | Self::Zero(Some(key)) => out.nest(SERVICE, |out| key.put(out)),
            Self::NewDestination(key, destination) | Self::SetDestination(key, destination) => {
                out.nest(SERVICE, |out| key.put(out));
                out.nest(DEST, |out| destination.put(out));
            }
            Self::DeleteDestination(key, destination) => {
                out.nest(SERVICE, |out| key.put(out));
                out.nest(DEST, |out| destination.put(out));
            }
            Self::NewDaemon(daemon) => out.nest(DAEMON, |out| daemon.put(out)),
            Self::DeleteDaemon(role) => out.nest(DAEMON, |out| role.put(out)),
            Self::SetTimeouts(timeouts) => timeouts.put(out),
            Self::ListServices
            | Self::ListDaemons
            | Self::GetTimeouts
            | Self::GetInfo
            | Self::Zero(None)
            | Self::Flush => {}
            Self::Other { payload, .. } => out.put_encoded(payload),
        }
    }
}

/// What the kernel answers. An acknowledgement is a message of netlink's own and has no payload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(
    clippy::large_enum_variant,
    reason = "entries are moved once, into the caller's list; a box would cost an allocation each"
)]
pub enum Reply {
    /// A service, to `GET_SERVICE`. Its command number is that of `NEW_SERVICE`.
    Service(ServiceEntry),
    /// A destination, to `GET_DEST`. Its command number is that of `NEW_DEST`. It does not name its
    /// service.
    Destination(DestinationEntry),
    /// A sync daemon, to `GET_DAEMON`. Its command number is that of `NEW_DAEMON`.
    Daemon(DaemonEntry),
    /// The timeouts, to `GET_CONFIG`. Its command number is that of `SET_CONFIG`.
    Timeouts(Timeouts, UnknownAttributes),
    /// The info, to `GET_INFO`. Its command number is that of `SET_INFO`.
    Info(Info, UnknownAttributes),
    /// Any other command, with its attributes as they are.
    Other {
        /// The command number.
        command: CommandNumber,
        /// What follows the generic netlink header.
        payload: Vec<u8>,
    },
}

impl Reply {
    /// The command number.
    pub const fn command(&self) -> CommandNumber {
        match self {
            Self::Service(_) => CommandNumber::NEW_SERVICE,
            Self::Destination(_) => CommandNumber::NEW_DEST,
            Self::Daemon(_) => CommandNumber::NEW_DAEMON,
            Self::Timeouts(..) => CommandNumber::SET_CONFIG,
            Self::Info(..) => CommandNumber::SET_INFO,
            Self::Other { command, .. } => *command,
        }
    }

    /// Reads a reply's payload: what follows the generic netlink header.
    ///
    /// `service_family` is the family of the service whose destinations were asked for. It is only
    /// needed with kernels before 3.18, which do not report the family of a destination.
    ///
    /// # Errors
    /// If the payload is not what a kernel sends for this command.
    pub fn parse(
        command: CommandNumber,
        payload: &[u8],
        service_family: Option<AddressFamily>,
    ) -> Result<Self, ParseError> {
        Self::parse_payload(command, payload, service_family)
            .map_err(|error| error.of_command(command))
    }

    fn parse_payload(
        command: CommandNumber,
        payload: &[u8],
        service_family: Option<AddressFamily>,
    ) -> Result<Self, ParseError> {
        let mut unknown = UnknownAttributes::new();
        let reader = Reader::new(payload, 0, Space::Message);
        Ok(match command {
            CommandNumber::NEW_SERVICE => {
                let nest = only_nest(reader, SERVICE, Level::ServiceMessage, &mut unknown)?;
                Self::Service(ServiceEntry::parse(&nest, unknown)?)
            }
            CommandNumber::NEW_DEST => {
                let nest = only_nest(reader, DEST, Level::DestinationMessage, &mut unknown)?;
                Self::Destination(DestinationEntry::parse(&nest, service_family, unknown)?)
            }
            CommandNumber::NEW_DAEMON => {
                let nest = only_nest(reader, DAEMON, Level::DaemonMessage, &mut unknown)?;
                Self::Daemon(DaemonEntry::parse(&nest, unknown)?)
            }
            CommandNumber::SET_CONFIG => {
                Self::Timeouts(Timeouts::parse(reader, &mut unknown)?, unknown)
            }
            // Numbers 1 and 2 are not the SERVICE and DEST nests here.
            CommandNumber::SET_INFO => {
                let reader = Reader::new(payload, 0, Space::Info);
                Self::Info(Info::parse(reader, &mut unknown)?, unknown)
            }
            _ => Self::Other { command, payload: payload.to_vec() },
        })
    }

    /// The length of the payload in bytes, which follows the generic netlink header.
    pub fn buffer_len(&self) -> usize {
        let mut length = Length::default();
        self.put(&mut length);
        length.0
    }

    /// Writes the payload into the first [`buffer_len`](Self::buffer_len) bytes of a buffer.
    /// Allocates nothing.
    ///
    /// # Panics
    ///
    /// If the buffer is shorter than `buffer_len`.
    pub fn emit(&self, buffer: &mut [u8]) {
        self.put(&mut Writer::reply(buffer));
    }

    /// The payload in a buffer of its own.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.buffer_len()];
        self.emit(&mut bytes);
        bytes
    }

    #[inline]
    fn put(&self, out: &mut impl Sink) {
        match self {
            Self::Service(entry) => {
                out.nest(SERVICE, |out| entry.put(out));
                out.put_encoded(entry.unknown.encoded(Level::ServiceMessage));
            }
            Self::Destination(entry) => {
                out.nest(DEST, |out| entry.put(out));
                out.put_encoded(entry.unknown.encoded(Level::DestinationMessage));
            }
            Self::Daemon(entry) => {
                out.nest(DAEMON, |out| entry.put(out));
                out.put_encoded(entry.unknown.encoded(Level::DaemonMessage));
            }
            Self::Timeouts(timeouts, unknown) => {
                timeouts.put(out);
                out.put_encoded(unknown.encoded(Level::Timeouts));
            }
            Self::Info(info, unknown) => {
                info.put(out);
                out.put_encoded(unknown.encoded(Level::Info));
            }
            Self::Other { payload, .. } => out.put_encoded(payload),
        }
    }
}

/// The nests of a request; the last of a kind wins, as in the kernel.
#[derive(Default)]
struct Nests<'a> {
    service: Option<Attribute<'a>>,
    destination: Option<Attribute<'a>>,
    daemon: Option<Attribute<'a>>,
}

impl<'a> Nests<'a> {
    fn take(&mut self, attribute: Attribute<'a>) {
        match attribute.number {
            SERVICE => self.service = Some(attribute),
            DEST => self.destination = Some(attribute),
            DAEMON => self.daemon = Some(attribute),
            _ => {}
        }
    }
}

/// The one nest of a reply. Other attributes of the message are kept as unknown.
#[inline]
fn only_nest<'a>(
    mut reader: Reader<'a>,
    number: u16,
    level: Level,
    unknown: &mut UnknownAttributes,
) -> Result<Attribute<'a>, ParseError> {
    let mut nest = None;
    for attribute in reader.by_ref() {
        let attribute = attribute?;
        if attribute.number == number {
            nest = Some(attribute);
        } else {
            unknown.keep(level, &attribute)?;
        }
    }
    nest.ok_or_else(|| reader.missing(number))
}

#[cfg(test)]
mod tests;
