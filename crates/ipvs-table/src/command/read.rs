//! Arguments and lines, read as commands.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
};

use ipvs_packet::{
    AddressFamily, DaemonRole, Destination, DestinationKey, EngineName, ForwardMethod,
    InterfaceName, InvalidValue, Netmask, Protocol, SchedulerName, Service, ServiceFlags,
    ServiceKey, SyncDaemon, SyncId, Thresholds, Timeouts, Tunnel, TunnelFlags, TunnelType, Weight,
};

use super::{Command, ListOptions, Listed, OwnOption, ParsedCommand};
use crate::{
    CommandOption, Mistake, Mistakes, Names, Place, Rule,
    options::{Given, Opt, Scanner, Text, Typed, Verb},
    words::split,
};

/// The longest timeout that ipvsadm sets: 31 days, in seconds.
const LONGEST_TIMEOUT: i64 = 31 * 24 * 60 * 60;

/// How long persistence lasts where `-p` says nothing, in seconds.
const DEFAULT_PERSISTENCE: i64 = 360;

/// [`Command::parse`], with warnings.
pub(super) fn read<S: AsRef<str>>(
    arguments: &[S],
    names: &dyn Names,
) -> Result<(Command, Vec<Mistake>), Mistakes> {
    let ParsedCommand { command, warnings, .. } = read_with(arguments, &[], names)?;
    Ok((command.unwrap_or(Command::List(ListOptions::new(Listed::Table))), warnings))
}

/// [`Command::parse_with`].
pub(super) fn read_with<S: AsRef<str>>(
    arguments: &[S],
    own: &[CommandOption],
    names: &dyn Names,
) -> Result<ParsedCommand, Mistakes> {
    let mut scanner = Scanner::new(arguments, own);
    let mut before = Vec::new();
    let said = loop {
        match scanner.option()? {
            Some(Given { option: Opt::Verb(verb), typed, value, .. }) => {
                break Some((verb, typed, value));
            }
            Some(given) if matches!(given.option, Opt::Own(_)) => before.push(given),
            Some(Given { typed, place, .. }) => {
                let mistake = odd_dash(&scanner.others).unwrap_or_else(|| {
                    let message = format!("{typed} must follow a command such as -A or -L");
                    Mistake::usage(place, message)
                });
                return Err(mistake.into());
            }
            None if before.is_empty() && !arguments.is_empty() => {
                let mistake = odd_dash(&scanner.others).unwrap_or_else(|| {
                    let missing = "a command such as -A or -L is missing";
                    match scanner.others.first() {
                        Some(word) => {
                            let message = format!("{} is no option; {missing}", quoted(word.text));
                            Mistake::usage(word.place.clone(), message)
                        }
                        None => Mistake::usage(scanner.end(), missing),
                    }
                });
                return Err(mistake.into());
            }
            None => break None,
        }
    };
    let is_said = said.is_some();
    let (verb, typed, value) = said.unwrap_or((Verb::List, Typed::Short('L'), None));
    let mut draft = Draft::new(verb, typed, names);
    for given in before {
        draft.add(given, &mut scanner);
    }
    let command = match verb {
        Verb::Help => Some(Command::Help),
        Verb::Version => Some(Command::Version),
        _ => match draft.scan(&mut scanner) {
            Ok(()) => draft.command(value, &scanner),
            Err(mistake) => {
                draft.mistakes.push(mistake);
                None
            }
        },
    };
    let own = draft.own();
    Mistakes::none(draft.mistakes, ())?;
    let warnings = draft.warnings;
    // What is not there has left a mistake.
    let command =
        command.ok_or_else(|| Mistake::new(scanner.end(), "this command line cannot be read"))?;
    Ok(ParsedCommand { command: is_said.then_some(command), own, warnings })
}

/// Reads a line with its number; `None` if there is nothing but white space and a comment.
pub(crate) fn read_line(
    number: usize,
    line: &str,
    names: &dyn Names,
) -> Result<Option<Rule>, Mistakes> {
    read_behind(&[], number, line, names)
}

/// Reads a line behind some arguments that it does not say itself.
pub(super) fn read_behind(
    before: &[&str],
    number: usize,
    line: &str,
    names: &dyn Names,
) -> Result<Option<Rule>, Mistakes> {
    let place = |offset: usize| {
        let before = line.get(..offset).unwrap_or(line);
        Place::Line { line: number, column: before.chars().count() + 1 }
    };
    let mut words = split(line).map_err(|unclosed| {
        Mistake::new(place(unclosed.0), "a quotation mark or backslash has nothing behind it")
    })?;
    if words.first().is_some_and(|word| word.text.rsplit('/').next() == Some("ipvsadm")) {
        words.remove(0);
        if words.is_empty() {
            // As ipvsadm -R has it.
            return Ok(None);
        }
    }
    if words.is_empty() && before.is_empty() {
        return Ok(None);
    }
    let arguments: Vec<&str> =
        before.iter().copied().chain(words.iter().map(|word| &*word.text)).collect();
    let in_line = |mistake: Mistake| {
        let offset = match mistake.place() {
            Place::Argument { number, offset } => match words.get(number - 1 - before.len()) {
                Some(word) => word.start + offset,
                None => line.trim_end().len(),
            },
            _ => 0,
        };
        mistake.moved_to(place(offset))
    };
    match read(&arguments, names) {
        Ok((command, warnings)) => {
            let warnings = warnings.into_iter().map(in_line).collect();
            Ok(Some(Rule { line: number, command, warnings }))
        }
        Err(mistakes) => Err(mistakes.map(in_line)),
    }
}

/// A service's address as it is written, before the family of a mark is known.
#[derive(Clone, Copy)]
enum Key {
    Address { protocol: Protocol, address: IpAddr, port: u16 },
    Mark(NonZeroU32),
}

/// A command line of which all options are taken in, but not yet judged.
struct Draft<'a> {
    verb: Verb,
    verb_typed: Typed,
    names: &'a dyn Names,
    given: Vec<Given<'a>>,
    key: Option<Key>,
    ipv6: bool,
    mistakes: Vec<Mistake>,
    /// What can be read, and is probably not meant.
    warnings: Vec<Mistake>,
}

impl<'a> Draft<'a> {
    fn new(verb: Verb, verb_typed: Typed, names: &'a dyn Names) -> Self {
        Self {
            verb,
            verb_typed,
            names,
            given: Vec::with_capacity(8),
            key: None,
            ipv6: false,
            mistakes: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Takes in the options, up to a word that is none.
    fn scan<S: AsRef<str>>(&mut self, scanner: &mut Scanner<'a, S>) -> Result<(), Mistake> {
        while let Some(given) = scanner.option()? {
            self.add(given, scanner);
        }
        Ok(())
    }

    /// Takes in an option.
    fn add<S: AsRef<str>>(&mut self, given: Given<'a>, scanner: &mut Scanner<'a, S>) {
        let mut refuse = |message| {
            self.mistakes.push(Mistake::new(given.place.clone(), message));
        };
        if let Opt::Verb(_) = given.option {
            let first = &self.verb_typed;
            return refuse(format!("{} is a second command beside {first}", given.typed));
        }
        let excludes = |other: &&Given<'_>| other.option.excludes(given.option);
        match self.given.iter().find(excludes) {
            Some(first) if first.typed == given.typed => {
                refuse(format!("{} is given twice", given.typed));
            }
            Some(first) => refuse(format!("{} cannot go with {}", given.typed, first.typed)),
            None => {
                if let Err(mistake) = self.take(&given, scanner) {
                    self.mistakes.push(mistake);
                }
                self.given.push(given);
            }
        }
    }

    /// The options that the caller has beyond ipvsadm's.
    fn own(&self) -> Vec<OwnOption> {
        let own = |given: &Given<'_>| match given.option {
            Opt::Own(index) => Some(OwnOption {
                index,
                place: given.place.clone(),
                value: given.value.as_ref().map(|value| value.text.to_owned()),
            }),
            _ => None,
        };
        self.given.iter().filter_map(own).collect()
    }

    /// What must be known for other options, or depends on their order.
    fn take<S: AsRef<str>>(
        &mut self,
        given: &Given<'a>,
        scanner: &mut Scanner<'a, S>,
    ) -> Result<(), Mistake> {
        match given.option {
            Opt::Service(protocol) => {
                let (protocol, address) = match protocol {
                    Some(protocol) => (protocol, required(given)),
                    None => {
                        let number = self.number(given, "a protocol", 0, u16::MAX.into());
                        let address = scanner.word().ok_or_else(|| {
                            Mistake::usage(scanner.end(), "--protocol needs an address too")
                        })?;
                        (Protocol(number? as u16), address)
                    }
                };
                self.warn_of_port(&address);
                let (address, port) = address_and_port(&address, protocol, self.names)?;
                self.key = Some(Key::Address { protocol, address, port: port.unwrap_or(0) });
            }
            Opt::Mark => {
                let mark = self.number(given, "a firewall mark", 1, u32::MAX.into())?;
                self.key = NonZeroU32::new(mark as u32).map(Key::Mark);
            }
            Opt::Ipv6 => match self.key {
                Some(Key::Mark(_)) => self.ipv6 = true,
                _ => {
                    let message = "-6 must follow -f and a firewall mark";
                    return Err(Mistake::new(given.place.clone(), message));
                }
            },
            _ => {}
        }
        Ok(())
    }

    /// Judges the whole. `None` if there was a mistake.
    fn command<S: AsRef<str>>(
        &mut self,
        state: Option<Text<'_>>,
        scanner: &Scanner<'a, S>,
    ) -> Option<Command> {
        let role = match (self.verb, state) {
            (Verb::StartDaemon | Verb::StopDaemon, Some(state)) => self.role(&state),
            _ => None,
        };
        let timeouts = self.timeouts(scanner);
        let taken = if self.verb == Verb::SetTimeouts { 3 } else { 0 };
        for other in scanner.others.iter().skip(taken) {
            let message = odd_dash_message(other.text)
                .unwrap_or_else(|| format!("{} belongs to no option", quoted(other.text)));
            self.mistakes.push(Mistake::new(other.place.clone(), message));
        }
        self.check_options(scanner.end());
        let key = self.service_key();
        Some(match self.verb {
            Verb::AddService => Command::AddService(self.service(key)?),
            Verb::EditService => Command::EditService(self.service(key)?),
            Verb::DeleteService => Command::DeleteService(key?),
            Verb::Clear => Command::Clear,
            Verb::AddServer => {
                let destination = self.destination(key);
                Command::AddServer(key?, destination?)
            }
            Verb::EditServer => {
                let destination = self.destination(key);
                Command::EditServer(key?, destination?)
            }
            Verb::DeleteServer => {
                let destination = self.destination_key(key);
                Command::DeleteServer(key?, destination?)
            }
            Verb::List => Command::List(self.list_options()?),
            Verb::Zero => Command::Zero(key),
            Verb::SetTimeouts => Command::SetTimeouts(timeouts?),
            Verb::StartDaemon => Command::StartDaemon(self.sync_daemon(role?)?),
            Verb::StopDaemon => {
                self.value(Opt::SyncId, |draft, given| draft.number(given, "a sync id", 0, 255));
                Command::StopDaemon(role?)
            }
            Verb::Restore => Command::Restore,
            Verb::Save => Command::Save { numeric: self.find(Opt::Numeric).is_some() },
            Verb::Help => Command::Help,
            Verb::Version => Command::Version,
        })
    }

    /// Which options go with the command, and which it needs.
    fn check_options(&mut self, end: Place) {
        for given in &self.given {
            if !allowed(self.verb, given.option) {
                let message = format!("{} does not go with {}", given.typed, self.verb_typed);
                self.mistakes.push(Mistake::new(given.place.clone(), message));
            }
        }
        let needs_service = !matches!(
            self.verb,
            Verb::Clear
                | Verb::List
                | Verb::Zero
                | Verb::SetTimeouts
                | Verb::StartDaemon
                | Verb::StopDaemon
                | Verb::Restore
                | Verb::Save
        );
        let needs_server =
            matches!(self.verb, Verb::AddServer | Verb::EditServer | Verb::DeleteServer);
        if needs_service && !self.given.iter().any(|given| is_service(given.option)) {
            let message =
                format!("{} needs a service: -t, -u, --sctp-service or -f", self.verb_typed);
            self.mistakes.push(Mistake::new(end.clone(), message));
        }
        if needs_server && self.find(Opt::RealServer).is_none() {
            let message = format!("{} needs a real server: -r", self.verb_typed);
            self.mistakes.push(Mistake::new(end, message));
        }
    }

    fn find(&self, option: Opt) -> Option<&Given<'a>> {
        self.given.iter().find(|given| given.option == option)
    }

    /// The value of an option, read; a mistake is kept.
    fn value<T>(
        &mut self,
        option: Opt,
        read: impl FnOnce(&Self, &Given<'a>) -> Result<T, Mistake>,
    ) -> Option<T> {
        let read = read(self, self.find(option)?);
        read.map_err(|mistake| self.mistakes.push(mistake)).ok()
    }

    /// The value of an option as a value that has limits of its own.
    fn limited<T>(
        &mut self,
        option: Opt,
        read: impl FnOnce(&str) -> Result<T, InvalidValue>,
    ) -> Option<T> {
        self.value(option, |_, given| {
            let value = required(given);
            let mistake = match option {
                Opt::Scheduler | Opt::Engine | Opt::Interface => Mistake::refused,
                _ => Mistake::new,
            };
            read(value.text).map_err(|error| mistake(value.place, error.to_string()))
        })
    }

    /// The value of an option as a number.
    fn number(&self, given: &Given<'_>, what: &str, least: i64, most: i64) -> Result<i64, Mistake> {
        number(&required(given), what, least, most)
    }

    fn service_key(&self) -> Option<ServiceKey> {
        let family = if self.ipv6 { AddressFamily::Ipv6 } else { AddressFamily::Ipv4 };
        self.key.map(|key| match key {
            Key::Address { protocol, address, port } => {
                ServiceKey::Address { protocol, address, port }
            }
            Key::Mark(mark) => ServiceKey::Mark { mark, family },
        })
    }

    fn service(&mut self, key: Option<ServiceKey>) -> Option<Service> {
        // Without a key its options are judged all the same.
        let any = ServiceKey::Mark { mark: NonZeroU32::MIN, family: AddressFamily::Ipv4 };
        let mut service = Service::new(key.unwrap_or(any));
        // As in ipvsadm, an empty name is none.
        let not_empty = |draft: &Self, option| {
            draft.find(option).is_some_and(|given| !required(given).text.is_empty())
        };
        if not_empty(self, Opt::Scheduler) {
            let scheduler = self.limited(Opt::Scheduler, SchedulerName::new);
            service.scheduler = scheduler.unwrap_or(service.scheduler);
        }
        if not_empty(self, Opt::Engine) {
            service.engine = self.limited(Opt::Engine, EngineName::new);
        }
        if let Some(timeout) = self.value(Opt::Persistent, |_, given| match &given.value {
            Some(value) => number(value, "a timeout in seconds", 1, LONGEST_TIMEOUT),
            None => Ok(DEFAULT_PERSISTENCE),
        }) {
            service.timeout = timeout as u32;
        }
        if self.find(Opt::Persistent).is_some() {
            service.flags |= ServiceFlags::PERSISTENT;
        }
        if let Some(key) = key {
            let netmask = |text: &str| Netmask::from_text(key.family(), text);
            if let Some(netmask) = self.limited(Opt::Netmask, netmask) {
                // Of the key's family by the way it was read.
                service.set_netmask(netmask).ok()?;
            }
        }
        if self.find(Opt::OnePacket).is_some() {
            service.flags |= ServiceFlags::ONE_PACKET;
        }
        let scheduler = service.scheduler;
        if let Some(flags) = self.value(Opt::SchedulerFlags, |_, given| {
            parse_scheduler_flags(&required(given), &scheduler)
        }) {
            service.flags |= flags;
        }
        if let Some(mask) =
            self.value(Opt::FlagsMask, |_, given| mask(&required(given), u32::MAX.into()))
        {
            service.flags_mask = mask as u32;
        }
        if let Some(ServiceKey::Address { protocol, port, .. }) = key {
            if port == 0 && !service.flags.contains(ServiceFlags::PERSISTENT) {
                // What was warned of is why.
                let message = match self.warnings.first() {
                    Some(warning) => warning.message().to_owned(),
                    None => "port 0, which is every port, needs persistence: -p".to_owned(),
                };
                self.refuse(is_service, &message);
            }
            if service.flags.contains(ServiceFlags::ONE_PACKET) && protocol != Protocol::UDP {
                let message = "one-packet scheduling (-o) is for UDP and firewall marks";
                self.refuse(|option| option == Opt::OnePacket, message);
            }
        }
        key.map(|_| service)
    }

    /// Warns of an IPv6 address without brackets that ends as if it had a port.
    fn warn_of_port(&mut self, text: &Text<'_>) {
        if let Some((address, port)) = unbracketed(text.text) {
            let message = format!(
                "{} is an address without a port; with port {port} it is [{address}]:{port}",
                text.text
            );
            self.warnings.push(Mistake::new(text.place.clone(), message));
        }
    }

    /// Keeps a mistake at the first such option.
    fn refuse(&mut self, option: impl Fn(Opt) -> bool, message: &str) {
        self.mistakes.push(Mistake::new(self.place(option), message));
    }

    /// Where the first such option stands.
    fn place(&self, option: impl Fn(Opt) -> bool) -> Place {
        let given = self.given.iter().find(|given| option(given.option));
        let start = Place::Argument { number: 1, offset: 0 };
        given.map_or(start, |given| given.place.clone())
    }

    fn destination_key(&mut self, service: Option<ServiceKey>) -> Option<DestinationKey> {
        let (protocol, service_port) = match service {
            Some(ServiceKey::Address { protocol, port, .. }) => (protocol, port),
            _ => (Protocol::TCP, 0),
        };
        if let Some(text) = self.find(Opt::RealServer).map(required) {
            self.warn_of_port(&text);
        }
        let (address, port) = self.value(Opt::RealServer, |draft, given| {
            address_and_port(&required(given), protocol, draft.names)
        })?;
        Some(DestinationKey { address, port: port.unwrap_or(service_port) })
    }

    fn destination(&mut self, service: Option<ServiceKey>) -> Option<Destination> {
        let key = self.destination_key(service);
        let forward = self.forward();
        let weight = match self.find(Opt::Weight) {
            None => Some(Weight::ONE),
            Some(_) => self.value(Opt::Weight, |draft, given| {
                let weight = draft.number(given, "a weight", 0, Weight::MAX.get().into())?;
                Ok(Weight::new(weight as u32).unwrap_or_default())
            }),
        };
        let thresholds = self.thresholds();
        let tunnel = self.tunnel(forward);
        let mut destination = Destination::new(key?);
        destination.forward = forward?;
        destination.weight = weight?;
        destination.thresholds = thresholds?;
        destination.tunnel = tunnel?;
        let said_by_ipvsadm = self.find(Opt::Forward(None)).is_none();
        match service {
            Some(ServiceKey::Address { port, .. })
                if said_by_ipvsadm && destination.forward != ForwardMethod::MASQUERADE =>
            {
                destination.key.port = port;
            }
            _ => {}
        }
        if destination.key.family() != service?.family()
            && destination.forward != ForwardMethod::TUNNEL
        {
            let message = "only a tunnelled real server (-i) may be of another address family than \
                           its service";
            self.refuse(|option| option == Opt::RealServer, message);
        }
        Some(destination)
    }

    fn forward(&mut self) -> Option<ForwardMethod> {
        let given = self.given.iter().find(|given| matches!(given.option, Opt::Forward(_)));
        Some(match given.map(|given| given.option) {
            None => ForwardMethod::DIRECT_ROUTE,
            Some(Opt::Forward(Some(method))) => method,
            Some(_) => self.limited(Opt::Forward(None), str::parse)?,
        })
    }

    fn thresholds(&mut self) -> Option<Thresholds> {
        let mut limit = |option| {
            let before = self.mistakes.len();
            let limit = self.value(option, |draft, given| {
                draft.number(given, "a number of connections", 0, i32::MAX.into())
            });
            (self.mistakes.len() == before).then(|| limit.unwrap_or(0) as u32)
        };
        let (upper, lower) = (limit(Opt::UpperThreshold), limit(Opt::LowerThreshold));
        let thresholds = Thresholds::new(upper?, lower?);
        let refuse = |error: InvalidValue| {
            let place = self.place(|option| option == Opt::LowerThreshold);
            self.mistakes.push(Mistake::refused(place, error.to_string()));
        };
        thresholds.map_err(refuse).ok()
    }

    fn tunnel(&mut self, forward: Option<ForwardMethod>) -> Option<Tunnel> {
        let of_tunnels =
            |option| matches!(option, Opt::TunnelType | Opt::TunnelPort | Opt::TunnelFlags(_));
        let given: Vec<_> =
            self.given.iter().filter(|given| of_tunnels(given.option)).cloned().collect();
        if forward? != ForwardMethod::TUNNEL {
            for given in &given {
                let message = format!("{} is for tunnelled real servers (-i) only", given.typed);
                self.mistakes.push(Mistake::new(given.place.clone(), message));
            }
            return given.is_empty().then_some(Tunnel::IPIP);
        }
        let kind = match self.find(Opt::TunnelType) {
            None => TunnelType::IPIP,
            Some(_) => self.value(Opt::TunnelType, |draft, given| match required(given).text {
                "ipip" => Ok(TunnelType::IPIP),
                "gue" => Ok(TunnelType::GUE),
                "gre" => Ok(TunnelType::GRE),
                _ => {
                    let what = "\"ipip\", \"gue\", \"gre\" or an encapsulation's number";
                    draft.number(given, what, 3, 255).map(|number| TunnelType(number as u8))
                }
            })?,
        };
        let mut flags = TunnelFlags::empty();
        for given in &given {
            let refused = match given.option {
                Opt::TunnelPort => matches!(kind, TunnelType::IPIP | TunnelType::GRE),
                // What the kernel holds is said by a number, whatever the type.
                Opt::TunnelFlags(None) => {
                    flags =
                        TunnelFlags::from_bits_retain(self.value(given.option, |_, given| {
                            mask(&required(given), u16::MAX.into())
                        })? as u16);
                    false
                }
                Opt::TunnelFlags(Some(named)) => {
                    flags = named;
                    kind == TunnelType::IPIP
                        || kind == TunnelType::GRE && named == TunnelFlags::REMOTE_CHECKSUM
                }
                _ => false,
            };
            if refused {
                let message = format!("{} does not go with encapsulation {kind}", given.typed);
                self.mistakes.push(Mistake::new(given.place.clone(), message));
            }
        }
        let port = match self.find(Opt::TunnelPort) {
            None => 0,
            Some(_) => self.value(Opt::TunnelPort, |draft, given| {
                draft.number(given, "a tunnel's port", 1, u16::MAX.into())
            })? as u16,
        };
        let refuse = |_| {
            let message = "encapsulation gue needs --tun-port";
            self.refuse(|option| option == Opt::TunnelType, message);
        };
        Tunnel::new(kind, port, flags).map_err(refuse).ok()
    }

    fn list_options(&mut self) -> Option<ListOptions> {
        let listed = |option| match option {
            Opt::Service(_) | Opt::Mark => self.service_key().map(Listed::Service),
            Opt::Connections => Some(Listed::Connections),
            Opt::Timeouts => Some(Listed::Timeouts),
            Opt::Daemons => Some(Listed::Daemons),
            _ => None,
        };
        let mut exclusive = self
            .given
            .iter()
            .filter_map(|given| listed(given.option).map(|listed| (given, listed)));
        let first = exclusive.next();
        let mut mistakes: Vec<_> = match &first {
            Some((first, _)) => exclusive
                .map(|(given, _)| {
                    let message = format!("{} cannot go with {}", given.typed, first.typed);
                    Mistake::new(given.place.clone(), message)
                })
                .collect(),
            None => Vec::new(),
        };
        let listed = first.map_or(Listed::Table, |(_, listed)| listed);
        for given in &self.given {
            let no_counters = match given.option {
                Opt::Statistics | Opt::Rates | Opt::Thresholds => {
                    !matches!(listed, Listed::Table | Listed::Service(_))
                }
                Opt::PersistentConnections => matches!(listed, Listed::Timeouts | Listed::Daemons),
                _ => false,
            };
            if no_counters {
                let message = format!("{} is for services and real servers", given.typed);
                mistakes.push(Mistake::new(given.place.clone(), message));
            }
        }
        self.mistakes.append(&mut mistakes);
        let is = |option| self.find(option).is_some();
        Some(ListOptions {
            listed,
            numeric: is(Opt::Numeric),
            statistics: is(Opt::Statistics),
            rates: is(Opt::Rates),
            thresholds: is(Opt::Thresholds),
            persistent_connections: is(Opt::PersistentConnections),
            tunnels: is(Opt::TunnelInformation),
            exact: is(Opt::Exact),
            sorted: !is(Opt::NoSort),
        })
    }

    fn role(&mut self, state: &Text<'_>) -> Option<DaemonRole> {
        match state.text {
            "master" => Some(DaemonRole::MASTER),
            "backup" => Some(DaemonRole::BACKUP),
            other => {
                let message = format!("{} must be master or backup", quoted(other));
                self.mistakes.push(Mistake::new(state.place.clone(), message));
                None
            }
        }
    }

    fn sync_daemon(&mut self, role: DaemonRole) -> Option<SyncDaemon> {
        let default = InterfaceName::new("eth0").ok()?;
        let interface = match self.find(Opt::Interface) {
            Some(given) if !required(given).text.is_empty() => {
                self.limited(Opt::Interface, InterfaceName::new)?
            }
            _ => default,
        };
        let mut number = |option, what, least, most| {
            self.value(option, |draft, given| draft.number(given, what, least, most))
        };
        let sync_id = number(Opt::SyncId, "a sync id", 0, 255).unwrap_or(0);
        let max_length = number(Opt::MaxLength, "a message's length in bytes", 1, 65535 - 20 - 8);
        let port = number(Opt::Port, "a port", 1, u16::MAX.into());
        let ttl = number(Opt::Ttl, "a time to live", 1, 255);
        let mut daemon = SyncDaemon::new(role, interface, SyncId::from(sync_id as u8));
        daemon.max_length = max_length.and_then(|length| (length as u16).try_into().ok());
        daemon.port = port.and_then(|port| (port as u16).try_into().ok());
        daemon.ttl = ttl.and_then(|ttl| (ttl as u8).try_into().ok());
        if let Some(group) = self.value(Opt::Group, |_, given| {
            let value = required(given);
            let group = value.text.parse().ok().filter(IpAddr::is_multicast);
            let message = || match zone(value.text) {
                Some(_) => format!("{}; --mcast-interface says it", no_zone(value.text)),
                None => format!("{} must be a multicast address", quoted(value.text)),
            };
            group.ok_or_else(|| Mistake::new(value.place.clone(), message()))
        }) {
            daemon.set_group(Some(group)).ok()?;
        }
        Some(daemon)
    }

    /// The three words of `--set`.
    fn timeouts<S: AsRef<str>>(&mut self, scanner: &Scanner<'a, S>) -> Option<Timeouts> {
        if self.verb != Verb::SetTimeouts {
            return None;
        }
        let [tcp, tcp_fin, udp, ..] = &scanner.others[..] else {
            let message = "--set needs three timeouts in seconds: of TCP, of TCP after FIN, and of \
                           UDP; 0 leaves one as it is";
            self.mistakes.push(Mistake::new(scanner.end(), message));
            return None;
        };
        let mut seconds = |word| {
            let seconds = number(word, "a timeout in seconds", 0, LONGEST_TIMEOUT);
            seconds.map_err(|mistake| self.mistakes.push(mistake)).map_or(0, |it| it as u32)
        };
        Some(Timeouts::new(seconds(tcp), seconds(tcp_fin), seconds(udp)))
    }
}

/// The first word that begins with a dash of word processors and web pages, which is no option.
fn odd_dash(words: &[Text<'_>]) -> Option<Mistake> {
    let mut found = words
        .iter()
        .filter_map(|word| Some(Mistake::usage(word.place.clone(), odd_dash_message(word.text)?)));
    found.next()
}

fn odd_dash_message(word: &str) -> Option<String> {
    let is_odd = |it: &char| {
        matches!(it, '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{fe58}' | '\u{fe63}' | '\u{ff0d}')
    };
    let dash = word.chars().next().filter(is_odd)?;
    let code = u32::from(dash);
    Some(format!("{} begins with a dash (U+{code:04X}) that is not \"-\"", quoted(word)))
}

fn is_service(option: Opt) -> bool {
    matches!(option, Opt::Service(_) | Opt::Mark)
}

/// Which options go with a command, required ones included.
fn allowed(verb: Verb, option: Opt) -> bool {
    let service = is_service(option);
    match verb {
        // No effect, and no complaint, with any command.
        _ if matches!(option, Opt::Ipv6 | Opt::Sort) => true,
        // The caller knows.
        _ if matches!(option, Opt::Own(_)) => true,
        Verb::AddService | Verb::EditService => {
            service
                || matches!(
                    option,
                    Opt::Scheduler
                        | Opt::Persistent
                        | Opt::Netmask
                        | Opt::Engine
                        | Opt::OnePacket
                        | Opt::SchedulerFlags
                        | Opt::FlagsMask
                )
        }
        Verb::DeleteService | Verb::Zero => service,
        Verb::AddServer | Verb::EditServer => {
            service
                || matches!(
                    option,
                    Opt::RealServer
                        | Opt::Forward(_)
                        | Opt::Weight
                        | Opt::UpperThreshold
                        | Opt::LowerThreshold
                        | Opt::TunnelType
                        | Opt::TunnelPort
                        | Opt::TunnelFlags(_)
                )
        }
        Verb::DeleteServer => service || option == Opt::RealServer,
        Verb::List => {
            service
                || matches!(
                    option,
                    Opt::Numeric
                        | Opt::Connections
                        | Opt::Timeouts
                        | Opt::Daemons
                        | Opt::Statistics
                        | Opt::Rates
                        | Opt::Thresholds
                        | Opt::PersistentConnections
                        | Opt::TunnelInformation
                        | Opt::Exact
                        | Opt::NoSort
                )
        }
        Verb::Save => option == Opt::Numeric,
        Verb::StartDaemon => matches!(
            option,
            Opt::SyncId | Opt::MaxLength | Opt::Interface | Opt::Group | Opt::Port | Opt::Ttl
        ),
        Verb::StopDaemon => option == Opt::SyncId,
        Verb::Clear | Verb::SetTimeouts | Verb::Restore | Verb::Help | Verb::Version => false,
    }
}

/// The value of an option that has one.
fn required<'a>(given: &Given<'a>) -> Text<'a> {
    given.value.clone().unwrap_or(Text { text: "", place: given.place.clone() })
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// A number as C's `strtol` reads it, within limits.
fn number(text: &Text<'_>, what: &str, least: i64, most: i64) -> Result<i64, Mistake> {
    let number = text.text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| {
        let message = format!("{} must be {what}, {least} to {most}", quoted(text.text));
        Mistake::new(text.place.clone(), message)
    })
}

/// Bits, decimal or hexadecimal.
fn mask(text: &Text<'_>, most: i64) -> Result<i64, Mistake> {
    let digits = text.text.strip_prefix("0x");
    let bits = digits.map_or_else(|| text.text.parse(), |digits| i64::from_str_radix(digits, 16));
    bits.ok().filter(|bits| (0..=most).contains(bits)).ok_or_else(|| {
        let message = format!("{} must be bits such as 0x1, at most {most:#x}", quoted(text.text));
        Mistake::new(text.place.clone(), message)
    })
}

/// An address and, if it says one, a port: `10.0.0.185:80`, `[2001:db8::1]:80`, `2001:db8::1`,
/// `www:http`, `[www]:http`.
fn address_and_port(
    text: &Text<'_>,
    protocol: Protocol,
    names: &dyn Names,
) -> Result<(IpAddr, Option<u16>), Mistake> {
    let refuse = |offset: usize, message: String| {
        let place = match text.place {
            Place::Argument { number, offset: start } => {
                Place::Argument { number, offset: start + offset }
            }
            ref other => other.clone(),
        };
        Mistake::new(place, message)
    };
    let whole = text.text;
    if let Some(offset) = zone(whole) {
        let message = format!("{}: IPVS keeps an address without its interface", no_zone(whole));
        return Err(refuse(offset, message));
    }
    let (address, port) = if let Some(rest) = whole.strip_prefix('[') {
        let parts = rest.split_once("]:").filter(|(address, _)| !address.contains(']'));
        let parsed = parts.and_then(|(host, port)| {
            Some((host.parse().ok().or_else(|| names.ipv6_address(host))?, port))
        });
        let (address, port) = parsed.ok_or_else(|| {
            refuse(0, format!("{} must be such as [2001:db8::1]:80", quoted(whole)))
        })?;
        (IpAddr::V6(address), Some(port))
    } else {
        let (host, port) = match whole.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (whole, None),
        };
        if let Ok(address) = host.parse() {
            (IpAddr::V4(address), port)
        } else if let Ok(address) = whole.parse() {
            (IpAddr::V6(address), None)
        } else {
            // ipvsadm takes a bare number for neither.
            let digits = whole.bytes().all(|byte| byte.is_ascii_digit());
            let named = (!digits && !host.is_empty()).then(|| names.address(host)).flatten();
            let address = named.ok_or_else(|| {
                let what = match names.looks_up() {
                    true => "is neither an address such as 10.0.0.185 nor the name of a known host",
                    false => "must be an address such as 10.0.0.185",
                };
                refuse(0, format!("{} {what}{}", quoted(host), hint(host, names)))
            })?;
            (address, port)
        }
    };
    let Some(port) = port else { return Ok((address, None)) };
    let numeric = port.parse::<i64>().ok().and_then(|port| u16::try_from(port).ok());
    let port_number = numeric.or_else(|| names.port(port, protocol)).ok_or_else(|| {
        let what = match names.looks_up() {
            true => "is neither a port, 0 to 65535, nor the name of a known service",
            false => "must be a port, 0 to 65535",
        };
        refuse(whole.len() - port.len(), format!("{} {what}{}", quoted(port), hint(port, names)))
    })?;
    Ok((address, Some(port_number)))
}

/// What helps where a text may be a name, and none is looked up.
fn hint(text: &str, names: &dyn Names) -> &'static str {
    let may_be_name = text.contains(|it: char| it.is_ascii_alphabetic());
    match may_be_name && !names.looks_up() {
        true => "; names are not looked up here: save with ipvsadm -Sn, or use Rules::parse",
        false => "",
    }
}

/// Where the zone of an IPv6 address begins: `fe80::1%eth0`, `[fe80::1%2]:80`.
fn zone(text: &str) -> Option<usize> {
    text.find('%')
}

fn no_zone(text: &str) -> String {
    format!("{} must have no zone such as %eth0", quoted(text))
}

/// An IPv6 address without brackets that ends as if a port followed it, taken apart:
/// `2001:db8::1:80`.
fn unbracketed(text: &str) -> Option<(Ipv6Addr, u16)> {
    text.parse::<Ipv6Addr>().ok()?;
    let (address, port) = text.rsplit_once(':')?;
    // Ports of one digit are rarer than such addresses.
    let looks_so = port.len() >= 2 && !port.starts_with('0');
    Some((address.parse().ok()?, port.parse().ok().filter(|_| looks_so)?))
}

/// A list of flags, where those of a scheduler need that scheduler.
fn parse_scheduler_flags(
    text: &Text<'_>,
    scheduler: &SchedulerName,
) -> Result<ServiceFlags, Mistake> {
    let names = text.text.split(',').filter(|name| !name.is_empty());
    let flags = names.map(|name| scheduler_flag(name, scheduler));
    let flags: Result<Vec<_>, _> = flags.collect();
    let flags = flags.map_err(|message| Mistake::new(text.place.clone(), message))?;
    Ok(flags.into_iter().fold(ServiceFlags::empty(), |all, flag| all | flag))
}

/// A flag by its name. Those of a scheduler need that scheduler.
pub(crate) fn scheduler_flag(
    name: &str,
    scheduler: &SchedulerName,
) -> Result<ServiceFlags, String> {
    let (flag, of) = match name {
        "sh-fallback" => (ServiceFlags::SH_FALLBACK, SchedulerName::SH),
        "sh-port" => (ServiceFlags::SH_PORT, SchedulerName::SH),
        "mh-fallback" => (ServiceFlags::MH_FALLBACK, SchedulerName::MH),
        "mh-port" => (ServiceFlags::MH_PORT, SchedulerName::MH),
        _ => {
            let first = ServiceFlags::SCHEDULER_1.bits();
            let number = name.strip_prefix("flag-").and_then(|number| number.parse().ok());
            let bit = number.and_then(|number: u32| first.checked_shl(number.checked_sub(1)?));
            return bit.filter(|&bit| bit != 0).map(ServiceFlags::from_bits_retain).ok_or_else(
                || {
                    let names = "sh-fallback, sh-port, mh-fallback, mh-port, or flag-1 to flag-3";
                    format!("{} must be {names}", quoted(name))
                },
            );
        }
    };
    match of == *scheduler {
        true => Ok(flag),
        false => Err(format!("{} does not go with scheduler {scheduler}", quoted(name))),
    }
}
