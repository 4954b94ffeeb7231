//! Whole messages: what user space sends and what the kernel answers, by command.

use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader};

use crate::{
    AddressFamily, Command, DaemonEntry, DaemonRole, Destination, DestinationEntry, DestinationKey,
    FAMILY_NAME, FAMILY_VERSION, Info, Level, ParseError, Service, ServiceEntry, ServiceKey,
    SyncDaemon, Timeouts, UnknownAttributes,
    attribute::{Attribute, Length, Reader, Sink, Writer},
    error::Space,
    number::message::{DAEMON, DEST, SERVICE},
};

/// What user space asks of the kernel.
///
/// Reading one ([`parse`](Self::parse)) understands what the kernel would: attributes that the
/// kernel ignores are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
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
        command: Command,
        /// What follows the generic netlink header.
        payload: Vec<u8>,
    },
}

impl Request {
    /// The command number.
    pub const fn command(&self) -> Command {
        match self {
            Self::NewService(_) => Command::NEW_SERVICE,
            Self::SetService(_) => Command::SET_SERVICE,
            Self::DeleteService(_) => Command::DEL_SERVICE,
            Self::GetService(_) | Self::ListServices => Command::GET_SERVICE,
            Self::NewDestination(..) => Command::NEW_DEST,
            Self::SetDestination(..) => Command::SET_DEST,
            Self::DeleteDestination(..) => Command::DEL_DEST,
            Self::ListDestinations(_) => Command::GET_DEST,
            Self::NewDaemon(_) => Command::NEW_DAEMON,
            Self::DeleteDaemon(_) => Command::DEL_DAEMON,
            Self::ListDaemons => Command::GET_DAEMON,
            Self::SetTimeouts(_) => Command::SET_CONFIG,
            Self::GetTimeouts => Command::GET_CONFIG,
            Self::GetInfo => Command::GET_INFO,
            Self::Zero(_) => Command::ZERO,
            Self::Flush => Command::FLUSH,
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
    /// Whether `GET_SERVICE` asks for one service or for all is told by whether it names one; the
    /// kernel goes by `NLM_F_DUMP`, which is not part of the payload.
    pub fn parse(command: Command, payload: &[u8]) -> Result<Self, ParseError> {
        Self::parse_payload(command, payload).map_err(|error| error.of_command(command))
    }

    fn parse_payload(command: Command, payload: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader::new(payload, 0, Space::Message);
        if command == Command::SET_CONFIG {
            let ignored = &mut UnknownAttributes::new();
            return Timeouts::parse(reader, ignored).map(Self::SetTimeouts);
        }
        if command.name().is_none() || command == Command::SET_INFO {
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
            Command::NEW_SERVICE => Self::NewService(full_service()?),
            Command::SET_SERVICE => Self::SetService(full_service()?),
            Command::DEL_SERVICE => Self::DeleteService(service_key()?),
            Command::GET_SERVICE if nests.service.is_none() => Self::ListServices,
            Command::GET_SERVICE => Self::GetService(service_key()?),
            Command::NEW_DEST => {
                let key = service_key()?;
                Self::NewDestination(key, full_destination(key.family())?)
            }
            Command::SET_DEST => {
                let key = service_key()?;
                Self::SetDestination(key, full_destination(key.family())?)
            }
            Command::DEL_DEST => {
                let key = service_key()?;
                let destination = DestinationKey::parse(&destination()?, Some(key.family()))?;
                Self::DeleteDestination(key, destination)
            }
            Command::GET_DEST => Self::ListDestinations(service_key()?),
            Command::NEW_DAEMON => {
                Self::NewDaemon(DaemonEntry::parse(&daemon()?, UnknownAttributes::new())?.daemon)
            }
            Command::DEL_DAEMON => Self::DeleteDaemon(DaemonRole::parse(&daemon()?)?),
            Command::GET_DAEMON => Self::ListDaemons,
            Command::GET_CONFIG => Self::GetTimeouts,
            Command::GET_INFO => Self::GetInfo,
            Command::ZERO if nests.service.is_none() => Self::Zero(None),
            Command::ZERO => Self::Zero(Some(service_key()?)),
            Command::FLUSH => Self::Flush,
            _ => Self::Other { command, payload: payload.to_vec() },
        })
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

impl Emitable for Request {
    fn buffer_len(&self) -> usize {
        let mut length = Length::default();
        self.put(&mut length);
        length.0
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.put(&mut Writer::request(buffer));
    }
}

impl GenlFamily for Request {
    fn family_name() -> &'static str {
        FAMILY_NAME
    }

    fn command(&self) -> u8 {
        Self::command(self).0
    }

    fn version(&self) -> u8 {
        FAMILY_VERSION
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Request {
    fn parse_with_param(payload: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        Ok(Self::parse(Command(header.cmd), payload)?)
    }
}

/// What the kernel answers. An acknowledgement is netlink's own message and has no payload.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
// Entries are moved once, into the caller's list; a box would cost an allocation each.
#[allow(clippy::large_enum_variant)]
pub enum Reply {
    /// A service, to `GET_SERVICE`. Its command number is that of `NEW_SERVICE`.
    Service(ServiceEntry),
    /// A destination, to `GET_DEST`. Its command number is that of `NEW_DEST`. It does not say of
    /// which service.
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
        command: Command,
        /// What follows the generic netlink header.
        payload: Vec<u8>,
    },
}

impl Reply {
    /// The command number.
    pub const fn command(&self) -> Command {
        match self {
            Self::Service(_) => Command::NEW_SERVICE,
            Self::Destination(_) => Command::NEW_DEST,
            Self::Daemon(_) => Command::NEW_DAEMON,
            Self::Timeouts(..) => Command::SET_CONFIG,
            Self::Info(..) => Command::SET_INFO,
            Self::Other { command, .. } => *command,
        }
    }

    /// Reads a reply's payload: what follows the generic netlink header.
    ///
    /// `service_family` is the family of the service whose destinations were asked for. It is
    /// needed for kernels before 3.18 only, which do not say a destination's family.
    pub fn parse(
        command: Command,
        payload: &[u8],
        service_family: Option<AddressFamily>,
    ) -> Result<Self, ParseError> {
        Self::parse_payload(command, payload, service_family)
            .map_err(|error| error.of_command(command))
    }

    fn parse_payload(
        command: Command,
        payload: &[u8],
        service_family: Option<AddressFamily>,
    ) -> Result<Self, ParseError> {
        let mut unknown = UnknownAttributes::new();
        let reader = Reader::new(payload, 0, Space::Message);
        Ok(match command {
            Command::NEW_SERVICE => {
                let nest = only_nest(reader, SERVICE, &mut unknown)?;
                Self::Service(ServiceEntry::parse(&nest, unknown)?)
            }
            Command::NEW_DEST => {
                let nest = only_nest(reader, DEST, &mut unknown)?;
                Self::Destination(DestinationEntry::parse(&nest, service_family, unknown)?)
            }
            Command::NEW_DAEMON => {
                let nest = only_nest(reader, DAEMON, &mut unknown)?;
                Self::Daemon(DaemonEntry::parse(&nest, unknown)?)
            }
            Command::SET_CONFIG => Self::Timeouts(Timeouts::parse(reader, &mut unknown)?, unknown),
            // Numbers 1 and 2 are not the SERVICE and DEST nests here.
            Command::SET_INFO => {
                let reader = Reader::new(payload, 0, Space::Info);
                Self::Info(Info::parse(reader, &mut unknown)?, unknown)
            }
            _ => Self::Other { command, payload: payload.to_vec() },
        })
    }

    #[inline]
    fn put(&self, out: &mut impl Sink) {
        match self {
            Self::Service(entry) => {
                out.nest(SERVICE, |out| entry.put(out));
                out.put_encoded(entry.unknown.encoded(Level::Message));
            }
            Self::Destination(entry) => {
                out.nest(DEST, |out| entry.put(out));
                out.put_encoded(entry.unknown.encoded(Level::Message));
            }
            Self::Daemon(entry) => {
                out.nest(DAEMON, |out| entry.put(out));
                out.put_encoded(entry.unknown.encoded(Level::Message));
            }
            Self::Timeouts(timeouts, unknown) => {
                timeouts.put(out);
                out.put_encoded(unknown.encoded(Level::Message));
            }
            Self::Info(info, unknown) => {
                info.put(out);
                out.put_encoded(unknown.encoded(Level::Message));
            }
            Self::Other { payload, .. } => out.put_encoded(payload),
        }
    }
}

impl Emitable for Reply {
    fn buffer_len(&self) -> usize {
        let mut length = Length::default();
        self.put(&mut length);
        length.0
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.put(&mut Writer::reply(buffer));
    }
}

impl GenlFamily for Reply {
    fn family_name() -> &'static str {
        FAMILY_NAME
    }

    fn command(&self) -> u8 {
        Self::command(self).0
    }

    fn version(&self) -> u8 {
        FAMILY_VERSION
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Reply {
    fn parse_with_param(payload: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        Ok(Self::parse(Command(header.cmd), payload, None)?)
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

/// The one nest of a reply; what stands beside it is kept as unknown.
#[inline]
fn only_nest<'a>(
    mut reader: Reader<'a>,
    number: u16,
    unknown: &mut UnknownAttributes,
) -> Result<Attribute<'a>, ParseError> {
    let mut nest = None;
    for attribute in reader.by_ref() {
        let attribute = attribute?;
        if attribute.number == number {
            nest = Some(attribute);
        } else {
            unknown.keep(Level::Message, &attribute)?;
        }
    }
    nest.ok_or_else(|| reader.missing(number))
}
