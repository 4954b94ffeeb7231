//! ipvsadm's options: one unit for each, with its spelling, its value, its help, its completion, and the
//! commands that it goes with. Those of settings are with their [settings](crate::settings).

mod scan;
mod values;

use std::fmt;

use ipvs_packet::{ForwardMethod, Protocol, ServiceFlags, TunnelFlags};

pub(crate) use self::{
    scan::{Given, Scanner, Text, Typed},
    values::{mask, number, quoted, required},
};

use self::{
    Completion::{Lines, Words},
    OptionGroup::{Command, Daemon, Listing, RealServer, Service},
    OptionValue::{None as No, Required as Must},
};
use crate::settings::{REAL_SERVER_OPTIONS, SERVICE_OPTIONS};

/// What ipvsadm is told to do: the first option of a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    AddService,
    EditService,
    DeleteService,
    Clear,
    List,
    AddServer,
    EditServer,
    DeleteServer,
    SetTimeouts,
    StartDaemon,
    StopDaemon,
    Restore,
    Save,
    Zero,
    Help,
    Version,
}

impl Verb {
    const ALL: &'static [Self] = &[
        Self::AddService,
        Self::EditService,
        Self::DeleteService,
        Self::Clear,
        Self::List,
        Self::AddServer,
        Self::EditServer,
        Self::DeleteServer,
        Self::SetTimeouts,
        Self::StartDaemon,
        Self::StopDaemon,
        Self::Restore,
        Self::Save,
        Self::Zero,
        Self::Help,
        Self::Version,
    ];

    pub(crate) fn needs_service(self) -> bool {
        self.needs_server()
            || matches!(self, Self::AddService | Self::EditService | Self::DeleteService)
    }

    pub(crate) fn needs_server(self) -> bool {
        matches!(self, Self::AddServer | Self::EditServer | Self::DeleteServer)
    }
}

/// An option. Those that exclude each other are one, with what tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opt {
    Verb(Verb),
    /// `-t`, `-u`, `--sctp-service`; of our own, `--protocol`, whose protocol is its first word.
    Service(Option<Protocol>),
    /// `-f`, which counts as [`Service`](Self::Service).
    Mark,
    Ipv6,
    Scheduler,
    Persistent,
    Netmask,
    Engine,
    /// `-o`: a flag that is on or off.
    ServiceFlag(ServiceFlags),
    SchedulerFlags,
    /// Of our own: which flags a change sets.
    FlagsMask,
    RealServer,
    /// `-g`, `-i`, `-m`; of our own, `--forward-method`, whose value says it.
    Forward(Option<ForwardMethod>),
    Weight,
    UpperThreshold,
    LowerThreshold,
    TunnelType,
    TunnelPort,
    /// `--tun-nocsum`, `--tun-csum`, `--tun-remcsum`; of our own, `--tun-flags`, whose value says
    /// it.
    TunnelFlags(Option<TunnelFlags>),
    Numeric,
    Connections,
    Timeouts,
    Daemons,
    Statistics,
    Rates,
    Thresholds,
    PersistentConnections,
    TunnelInformation,
    Exact,
    NoSort,
    Sort,
    SyncId,
    MaxLength,
    Interface,
    Group,
    Port,
    Ttl,
    /// One that the caller has beyond ipvsadm's, by its index.
    Own(usize),
}

impl Opt {
    /// Whether it is at most once in a command line, and so are all that are the same but for
    /// what tells them apart. As in ipvsadm, `-6` and `--sort` may be repeated.
    pub(crate) fn excludes(self, other: Self) -> bool {
        match (self, other) {
            (Self::Ipv6, _) | (Self::Sort, _) => false,
            (Self::Service(_) | Self::Mark, Self::Service(_) | Self::Mark) => true,
            (Self::Own(one), Self::Own(other)) => one == other,
            (Self::ServiceFlag(one), Self::ServiceFlag(other)) => one == other,
            _ => std::mem::discriminant(&self) == std::mem::discriminant(&other),
        }
    }
}

/// An option as it is written, and what it is for: of ipvsadm's ([`Command::options`]), or of a
/// program that has more ([`Command::parse_with`]).
///
/// [`Command::options`]: crate::Command::options
/// [`Command::parse_with`]: crate::Command::parse_with
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommandOption {
    /// The long spelling, without its dashes.
    pub long: &'static str,
    /// The letters that are short spellings; most often one or none.
    pub short: &'static str,
    /// What follows it.
    pub value: OptionValue,
    /// What it is about.
    pub group: OptionGroup,
    /// What it does, in a few words.
    pub help: &'static str,
    /// What a shell offers for its value.
    pub completion: Completion,
}

impl CommandOption {
    /// An option of one program's own, without a short spelling.
    pub const fn new(long: &'static str, value: OptionValue, help: &'static str) -> Self {
        option(OptionGroup::Own, long, "", value, help)
    }

    /// The same, with what a shell offers for its value.
    #[must_use]
    pub const fn completed_by(self, completion: Completion) -> Self {
        Self { completion, ..self }
    }
}

/// What follows an option, by the word that stands for it in a description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "there is nothing else that could follow")]
pub enum OptionValue {
    /// Nothing.
    None,
    /// A value, attached or as the next word.
    Required(&'static str),
    /// A value, attached or as the next word, unless that begins with a dash.
    Optional(&'static str),
}

/// What a shell offers for the value of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Completion {
    /// Nothing.
    Any,
    /// These words, with a blank between them.
    Words(&'static str),
    /// The names of files.
    Files,
    /// The lines that a command of the shell prints.
    Lines(&'static str),
}

/// What an option is about. It displays as a heading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum OptionGroup {
    /// What is to be done.
    Command,
    /// The virtual service.
    Service,
    /// The real server.
    RealServer,
    /// How something is listed.
    Listing,
    /// The sync daemon.
    Daemon,
    /// Something else, for one program.
    Own,
}

impl OptionGroup {
    /// All groups, in the order in which they are described.
    pub const ALL: [Self; 6] =
        [Self::Command, Self::Service, Self::RealServer, Self::Listing, Self::Daemon, Self::Own];
}

impl fmt::Display for OptionGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Command => "Commands",
            Self::Service => "Virtual services",
            Self::RealServer => "Real servers",
            Self::Listing => "Listings",
            Self::Daemon => "Sync daemons",
            Self::Own => "More than ipvsadm 1.31",
        })
    }
}

/// One option, all of it.
pub(crate) struct OptionUnit {
    pub(crate) option: Opt,
    /// The commands that it goes with.
    pub(crate) goes_with: &'static [Verb],
    pub(crate) described: CommandOption,
}

pub(crate) const fn unit(
    option: Opt,
    goes_with: &'static [Verb],
    described: CommandOption,
) -> OptionUnit {
    OptionUnit { option, goes_with, described }
}

pub(crate) const fn option(
    group: OptionGroup,
    long: &'static str,
    short: &'static str,
    value: OptionValue,
    help: &'static str,
) -> CommandOption {
    CommandOption { long, short, value, group, help, completion: Completion::Any }
}

/// What sets a service.
pub(crate) const SET_SERVICE: &[Verb] = &[Verb::AddService, Verb::EditService];
/// What sets a real server.
pub(crate) const SET_SERVER: &[Verb] = &[Verb::AddServer, Verb::EditServer];
const NONE: &[Verb] = &[];
const ON_SERVER: &[Verb] = &[Verb::AddServer, Verb::EditServer, Verb::DeleteServer];
const ON_SERVICE: &[Verb] = &[
    Verb::AddService,
    Verb::EditService,
    Verb::DeleteService,
    Verb::Zero,
    Verb::List,
    Verb::AddServer,
    Verb::EditServer,
    Verb::DeleteServer,
];
const LIST: &[Verb] = &[Verb::List];
const LIST_OR_SAVE: &[Verb] = &[Verb::List, Verb::Save];
const START_DAEMON: &[Verb] = &[Verb::StartDaemon];
const DAEMON: &[Verb] = &[Verb::StartDaemon, Verb::StopDaemon];
/// As in ipvsadm, some options have no effect, and bring no complaint, with any command.
const ANY: &[Verb] = Verb::ALL;

/// In the order in which they are described.
const UNITS: &[&[OptionUnit]] = &[
    COMMANDS,
    SERVICE_KEYS,
    SERVICE_OPTIONS,
    REAL_SERVER_KEY,
    REAL_SERVER_OPTIONS,
    LISTING_OPTIONS,
    DAEMON_OPTIONS,
];

#[rustfmt::skip]
const COMMANDS: &[OptionUnit] = &[
    unit(Opt::Verb(Verb::AddService), NONE, option(Command, "add-service", "A", No, "adds a virtual service")),
    unit(Opt::Verb(Verb::EditService), NONE, option(Command, "edit-service", "E", No, "changes a virtual service; settings that are not given get their defaults")),
    unit(Opt::Verb(Verb::DeleteService), NONE, option(Command, "delete-service", "D", No, "deletes a virtual service with its real servers")),
    unit(Opt::Verb(Verb::Clear), NONE, option(Command, "clear", "C", No, "deletes all virtual services")),
    unit(Opt::Verb(Verb::List), NONE, option(Command, "list", "Ll", No, "lists the table, or one service; with -c, --timeout or --daemon what these name")),
    unit(Opt::Verb(Verb::Zero), NONE, option(Command, "zero", "Z", No, "zeroes the counters of a service, or of all")),
    unit(Opt::Verb(Verb::AddServer), NONE, option(Command, "add-server", "a", No, "adds a real server to a virtual service")),
    unit(Opt::Verb(Verb::EditServer), NONE, option(Command, "edit-server", "e", No, "changes a real server; settings that are not given get their defaults")),
    unit(Opt::Verb(Verb::DeleteServer), NONE, option(Command, "delete-server", "d", No, "deletes a real server")),
    unit(Opt::Verb(Verb::SetTimeouts), NONE, option(Command, "set", "", No, "sets the timeouts of connections, three numbers of seconds: TCP, TCP after FIN, UDP; 0 leaves one as it is")),
    unit(Opt::Verb(Verb::Help), NONE, option(Command, "help", "h", No, "describes the options")),
    unit(Opt::Verb(Verb::Version), NONE, option(Command, "version", "v", No, "prints the version")),
    unit(Opt::Verb(Verb::Restore), NONE, option(Command, "restore", "R", No, "runs the lines of standard input, each a command line")),
    unit(Opt::Verb(Verb::Save), NONE, option(Command, "save", "S", No, "prints the table as lines for -R")),
    unit(Opt::Verb(Verb::StartDaemon), NONE, option(Command, "start-daemon", "", Must("STATE"), "starts a sync daemon: master or backup").completed_by(Words("master backup"))),
    unit(Opt::Verb(Verb::StopDaemon), NONE, option(Command, "stop-daemon", "", Must("STATE"), "stops a sync daemon: master or backup").completed_by(Words("master backup"))),
];

#[rustfmt::skip]
const SERVICE_KEYS: &[OptionUnit] = &[
    unit(Opt::Service(Some(Protocol::TCP)), ON_SERVICE, option(Service, "tcp-service", "t", Must("ADDRESS[:PORT]"), "a TCP service: 10.0.0.185:80, [2001:db8::1]:80")),
    unit(Opt::Service(Some(Protocol::UDP)), ON_SERVICE, option(Service, "udp-service", "u", Must("ADDRESS[:PORT]"), "a UDP service")),
    unit(Opt::Service(Some(Protocol::SCTP)), ON_SERVICE, option(Service, "sctp-service", "", Must("ADDRESS[:PORT]"), "an SCTP service")),
    unit(Opt::Service(None), ON_SERVICE, option(Service, "protocol", "", Must("NUMBER ADDRESS[:PORT]"), "a service of another protocol, by its number (not in ipvsadm 1.31)")),
    unit(Opt::Mark, ON_SERVICE, option(Service, "fwmark-service", "f", Must("MARK"), "a service of a firewall mark, 1 to 4294967295")),
    unit(Opt::Ipv6, ANY, option(Service, "ipv6", "6", No, "the firewall mark is for IPv6 packets")),
];

#[rustfmt::skip]
const REAL_SERVER_KEY: &[OptionUnit] = &[
    unit(Opt::RealServer, ON_SERVER, option(RealServer, "real-server", "r", Must("ADDRESS[:PORT]"), "the real server; by default its port is the service's")),
];

#[rustfmt::skip]
const LISTING_OPTIONS: &[OptionUnit] = &[
    unit(Opt::Numeric, LIST_OR_SAVE, option(Listing, "numeric", "n", No, "addresses and ports as numbers; also with -S")),
    unit(Opt::Connections, LIST, option(Listing, "connection", "c", No, "lists the connections")),
    unit(Opt::Timeouts, LIST, option(Listing, "timeout", "", No, "lists the timeouts of connections")),
    unit(Opt::Daemons, LIST, option(Listing, "daemon", "", No, "lists the sync daemons")),
    unit(Opt::Statistics, LIST, option(Listing, "stats", "", No, "shows connections, packets and bytes")),
    unit(Opt::Rates, LIST, option(Listing, "rate", "", No, "shows connections, packets and bytes per second")),
    unit(Opt::Thresholds, LIST, option(Listing, "thresholds", "", No, "shows the thresholds -x and -y, and connections")),
    unit(Opt::PersistentConnections, LIST, option(Listing, "persistent-conn", "", No, "shows persistence templates; with -c the data of persistence engines")),
    unit(Opt::TunnelInformation, LIST, option(Listing, "tun-info", "", No, "shows encapsulations")),
    unit(Opt::Exact, LIST, option(Listing, "exact", "X", No, "shows large numbers in full")),
    unit(Opt::NoSort, LIST, option(Listing, "nosort", "", No, "keeps the kernel's order")),
    unit(Opt::Sort, ANY, option(Listing, "sort", "", No, "sorts, which is the default")),
];

#[rustfmt::skip]
const DAEMON_OPTIONS: &[OptionUnit] = &[
    unit(Opt::SyncId, DAEMON, option(Daemon, "syncid", "", Must("NUMBER"), "a backup accepts masters with the same number, or with 0 all masters; 0 to 255, 0 by default")),
    unit(Opt::MaxLength, START_DAEMON, option(Daemon, "sync-maxlen", "", Must("BYTES"), "the longest message, 1 to 65507")),
    unit(Opt::Interface, START_DAEMON, option(Daemon, "mcast-interface", "", Must("INTERFACE"), "the interface that sends and receives messages; eth0 by default").completed_by(Lines("ls /sys/class/net"))),
    unit(Opt::Group, START_DAEMON, option(Daemon, "mcast-group", "", Must("ADDRESS"), "the multicast address; 224.0.0.81 by default")),
    unit(Opt::Port, START_DAEMON, option(Daemon, "mcast-port", "", Must("PORT"), "the UDP port; 8848 by default")),
    unit(Opt::Ttl, START_DAEMON, option(Daemon, "mcast-ttl", "", Must("NUMBER"), "the time to live, 1 to 255; 1 by default")),
];

/// Where in [`UNITS`] the option of a letter is.
const LETTERS: [Option<(u8, u8)>; 128] = {
    let mut letters = [None; 128];
    let mut list = 0;
    while list < UNITS.len() {
        let mut index = 0;
        while index < UNITS[list].len() {
            let short = UNITS[list][index].described.short.as_bytes();
            let mut letter = 0;
            while letter < short.len() {
                letters[short[letter] as usize] = Some((list as u8, index as u8));
                letter += 1;
            }
            index += 1;
        }
        list += 1;
    }
    letters
};

/// Every option of ipvsadm's, and those for what ipvsadm cannot say.
pub(crate) fn units() -> impl Iterator<Item = &'static OptionUnit> {
    UNITS.iter().copied().flatten()
}

/// The option of a letter. Files have thousands of lines of nothing else.
pub(crate) fn lettered(letter: char) -> Option<&'static OptionUnit> {
    let (list, index) = (*LETTERS.get(letter as usize)?)?;
    UNITS.get(usize::from(list))?.get(usize::from(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_one_options() {
        let described: Vec<_> = units().map(|unit| &unit.described).collect();
        for (i, option) in described.iter().enumerate() {
            assert!(!option.help.is_empty(), "{option:?}");
            for other in &described[i + 1..] {
                assert_ne!(option.long, other.long);
                assert!(!option.short.chars().any(|it| other.short.contains(it)), "{option:?}");
            }
        }
    }

    #[test]
    fn every_option_goes_with_a_command() {
        for unit in units() {
            let is_command = matches!(unit.option, Opt::Verb(_));
            assert_eq!(unit.goes_with.is_empty(), is_command, "{:?}", unit.described);
        }
    }
}
