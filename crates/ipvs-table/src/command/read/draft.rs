//! A command line that is taken in option by option, and then judged as a whole.

use std::{net::IpAddr, num::NonZeroU32};

use ipvs_packet::{AddressFamily, InvalidValue, Protocol, ServiceKey};

use super::{
    address::{address_and_port, unbracketed},
    dash::odd_dash_message,
};
use crate::{
    Command, Mistake, Names, OwnOption, Place,
    options::{Given, Opt, Scanner, Text, Typed, Verb, number, quoted, required},
    settings::Setting,
};

/// A service's address as it is written, before the family of a mark is known.
#[derive(Clone, Copy)]
pub(super) enum Key {
    Address { protocol: Protocol, address: IpAddr, port: u16 },
    Mark(NonZeroU32),
}

/// A command line of which all options are taken in, but not yet judged.
pub(super) struct Draft<'a> {
    pub(super) verb: Verb,
    pub(super) verb_typed: Typed,
    pub(super) names: &'a dyn Names,
    pub(super) given: Vec<Given<'a>>,
    pub(super) key: Option<Key>,
    pub(super) ipv6: bool,
    pub(super) mistakes: Vec<Mistake>,
    /// What can be read, and is probably not meant.
    pub(super) warnings: Vec<Mistake>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(verb: Verb, verb_typed: Typed, names: &'a dyn Names) -> Self {
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
    pub(super) fn scan<S: AsRef<str>>(
        &mut self,
        scanner: &mut Scanner<'a, S>,
    ) -> Result<(), Mistake> {
        while let Some(given) = scanner.option()? {
            self.add(given, scanner);
        }
        Ok(())
    }

    /// Takes in an option.
    pub(super) fn add<S: AsRef<str>>(&mut self, given: Given<'a>, scanner: &mut Scanner<'a, S>) {
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
    pub(super) fn own(&self) -> Vec<OwnOption> {
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
    pub(super) fn take<S: AsRef<str>>(
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
    pub(super) fn command<S: AsRef<str>>(
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
            if given.goes_with.is_some_and(|verbs| !verbs.contains(&self.verb)) {
                let message = format!("{} does not go with {}", given.typed, self.verb_typed);
                self.mistakes.push(Mistake::new(given.place.clone(), message));
            }
        }
        if self.verb.needs_service() && !self.given.iter().any(|given| is_service(given.option)) {
            let message =
                format!("{} needs a service: -t, -u, --sctp-service or -f", self.verb_typed);
            self.mistakes.push(Mistake::new(end.clone(), message));
        }
        if self.verb.needs_server() && self.find(Opt::RealServer).is_none() {
            let message = format!("{} needs a real server: -r", self.verb_typed);
            self.mistakes.push(Mistake::new(end, message));
        }
    }

    pub(super) fn find(&self, option: Opt) -> Option<&Given<'a>> {
        self.given.iter().find(|given| given.option == option)
    }

    /// The value of an option, read; a mistake is kept.
    pub(super) fn value<T>(
        &mut self,
        option: Opt,
        read: impl FnOnce(&Self, &Given<'a>) -> Result<T, Mistake>,
    ) -> Option<T> {
        let read = read(self, self.find(option)?);
        read.map_err(|mistake| self.mistakes.push(mistake)).ok()
    }

    /// The value of an option as a value that has limits of its own.
    pub(super) fn limited<T>(
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
    pub(super) fn number(
        &self,
        given: &Given<'_>,
        what: &str,
        least: i64,
        most: i64,
    ) -> Result<i64, Mistake> {
        number(&required(given), what, least, most)
    }

    /// Takes in what the options say of the settings.
    pub(super) fn set<T>(&mut self, settings: &[Setting<T>], values: &mut T) {
        for reader in settings.iter().filter_map(|setting| setting.option.as_ref()) {
            // Without a key it is not known which netmasks there are.
            if reader.option == Opt::Netmask && self.key.is_none() {
                continue;
            }
            let Some(given) = self.given.iter().find(|given| given.option == reader.option) else {
                continue;
            };
            if let Err(mistake) = (reader.read)(given, values) {
                self.mistakes.push(mistake);
            }
        }
    }

    pub(super) fn service_key(&self) -> Option<ServiceKey> {
        let family = if self.ipv6 { AddressFamily::Ipv6 } else { AddressFamily::Ipv4 };
        self.key.map(|key| match key {
            Key::Address { protocol, address, port } => {
                ServiceKey::Address { protocol, address, port }
            }
            Key::Mark(mark) => ServiceKey::Mark { mark, family },
        })
    }

    /// Warns of an IPv6 address without brackets that ends as if it had a port.
    pub(super) fn warn_of_port(&mut self, text: &Text<'_>) {
        if let Some((address, port)) = unbracketed(text.text) {
            let message = format!(
                "{} is an address without a port; with port {port} it is [{address}]:{port}",
                text.text
            );
            self.warnings.push(Mistake::new(text.place.clone(), message));
        }
    }

    /// Keeps a mistake at the first such option.
    pub(super) fn refuse(&mut self, option: impl Fn(Opt) -> bool, message: &str) {
        self.mistakes.push(Mistake::new(self.place(option), message));
    }

    /// Where the first such option stands.
    pub(super) fn place(&self, option: impl Fn(Opt) -> bool) -> Place {
        let given = self.given.iter().find(|given| option(given.option));
        let start = Place::Argument { number: 1, offset: 0 };
        given.map_or(start, |given| given.place.clone())
    }
}

pub(super) fn is_service(option: Opt) -> bool {
    matches!(option, Opt::Service(_) | Opt::Mark)
}
