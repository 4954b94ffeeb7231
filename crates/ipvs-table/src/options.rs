//! ipvsadm's options, and a command line as options with their values.

use std::fmt;

use ipvs_packet::{ForwardMethod, Protocol, TunnelFlags};

use crate::{Mistake, Place};

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
    OnePacket,
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
}

impl CommandOption {
    /// An option of one program's own, without a short spelling.
    pub const fn new(long: &'static str, value: OptionValue, help: &'static str) -> Self {
        option(OptionGroup::Own, long, "", value, help)
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

/// An option, and how it is written.
struct Spelling(Opt, CommandOption);

const fn option(
    group: OptionGroup,
    long: &'static str,
    short: &'static str,
    value: OptionValue,
    help: &'static str,
) -> CommandOption {
    CommandOption { long, short, value, group, help }
}

#[rustfmt::skip]
const SPELLINGS: &[Spelling] = &{
    use OptionGroup::{Command, Daemon, Listing, RealServer, Service};
    use OptionValue::{None as No, Optional as May, Required as Must};
    [
        Spelling(Opt::Verb(Verb::AddService), option(Command, "add-service", "A", No, "adds a virtual service")),
        Spelling(Opt::Verb(Verb::EditService), option(Command, "edit-service", "E", No, "changes a virtual service; what is not given gets its default")),
        Spelling(Opt::Verb(Verb::DeleteService), option(Command, "delete-service", "D", No, "deletes a virtual service with its real servers")),
        Spelling(Opt::Verb(Verb::Clear), option(Command, "clear", "C", No, "deletes all virtual services")),
        Spelling(Opt::Verb(Verb::List), option(Command, "list", "Ll", No, "lists the table, or one service, or what -c, --timeout or --daemon names")),
        Spelling(Opt::Verb(Verb::Zero), option(Command, "zero", "Z", No, "zeroes the counters of a service, or of all")),
        Spelling(Opt::Verb(Verb::AddServer), option(Command, "add-server", "a", No, "adds a real server to a virtual service")),
        Spelling(Opt::Verb(Verb::EditServer), option(Command, "edit-server", "e", No, "changes a real server; what is not given gets its default")),
        Spelling(Opt::Verb(Verb::DeleteServer), option(Command, "delete-server", "d", No, "deletes a real server")),
        Spelling(Opt::Verb(Verb::SetTimeouts), option(Command, "set", "", No, "sets the timeouts of connections, three numbers of seconds: TCP, TCP after FIN, UDP; 0 leaves one as it is")),
        Spelling(Opt::Verb(Verb::Help), option(Command, "help", "h", No, "describes the options")),
        Spelling(Opt::Verb(Verb::Version), option(Command, "version", "v", No, "prints the version")),
        Spelling(Opt::Verb(Verb::Restore), option(Command, "restore", "R", No, "carries out the lines of standard input, each a command line")),
        Spelling(Opt::Verb(Verb::Save), option(Command, "save", "S", No, "prints the table as lines for -R")),
        Spelling(Opt::Verb(Verb::StartDaemon), option(Command, "start-daemon", "", Must("STATE"), "starts a sync daemon: master or backup")),
        Spelling(Opt::Verb(Verb::StopDaemon), option(Command, "stop-daemon", "", Must("STATE"), "stops a sync daemon: master or backup")),
        Spelling(Opt::Service(Some(Protocol::TCP)), option(Service, "tcp-service", "t", Must("ADDRESS[:PORT]"), "a TCP service: 10.0.0.185:80, [2001:db8::1]:80")),
        Spelling(Opt::Service(Some(Protocol::UDP)), option(Service, "udp-service", "u", Must("ADDRESS[:PORT]"), "a UDP service")),
        Spelling(Opt::Service(Some(Protocol::SCTP)), option(Service, "sctp-service", "", Must("ADDRESS[:PORT]"), "an SCTP service")),
        Spelling(Opt::Service(None), option(Service, "protocol", "", Must("NUMBER ADDRESS[:PORT]"), "a service of another protocol, by its number (not in ipvsadm 1.31)")),
        Spelling(Opt::Mark, option(Service, "fwmark-service", "f", Must("MARK"), "a service of a firewall mark, 1 to 4294967295")),
        Spelling(Opt::Ipv6, option(Service, "ipv6", "6", No, "the mark before it is of IPv6 packets")),
        Spelling(Opt::Scheduler, option(Service, "scheduler", "s", Must("NAME"), "how real servers are chosen: rr, wrr, lc, wlc (the default), lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh")),
        Spelling(Opt::Persistent, option(Service, "persistent", "p", May("SECONDS"), "a client stays with its real server for so long after its last connection; 360 if no number is given")),
        Spelling(Opt::Netmask, option(Service, "netmask", "M", Must("NETMASK"), "what of a client's address counts for -p: a mask or a prefix length")),
        Spelling(Opt::Engine, option(Service, "pe", "", Must("NAME"), "a persistence engine, which tells clients apart by what they send: sip")),
        Spelling(Opt::OnePacket, option(Service, "ops", "o", No, "each packet is scheduled by itself (UDP and firewall marks)")),
        Spelling(Opt::SchedulerFlags, option(Service, "sched-flags", "b", Must("FLAGS"), "flags of the scheduler: sh-fallback, sh-port, mh-fallback, mh-port, flag-1 to flag-3")),
        Spelling(Opt::FlagsMask, option(Service, "flags-mask", "", Must("BITS"), "which flags -E sets; the others stay (not in ipvsadm 1.31)")),
        Spelling(Opt::RealServer, option(RealServer, "real-server", "r", Must("ADDRESS[:PORT]"), "the real server; without a port it has the service's")),
        Spelling(Opt::Forward(Some(ForwardMethod::DIRECT_ROUTE)), option(RealServer, "gatewaying", "g", No, "direct routing, which is the default")),
        Spelling(Opt::Forward(Some(ForwardMethod::TUNNEL)), option(RealServer, "ipip", "i", No, "tunnelling")),
        Spelling(Opt::Forward(Some(ForwardMethod::MASQUERADE)), option(RealServer, "masquerading", "m", No, "masquerading (NAT)")),
        Spelling(Opt::Forward(None), option(RealServer, "forward-method", "", Must("METHOD"), "local, bypass or a number (not in ipvsadm 1.31)")),
        Spelling(Opt::Weight, option(RealServer, "weight", "w", Must("WEIGHT"), "its share of the connections, 0 to 2147483647; 1 by default, 0 for no new ones")),
        Spelling(Opt::UpperThreshold, option(RealServer, "u-threshold", "x", Must("CONNECTIONS"), "it is full with so many connections; 0, the default, for no limit")),
        Spelling(Opt::LowerThreshold, option(RealServer, "l-threshold", "y", Must("CONNECTIONS"), "once full, it takes new ones again below so many; 0, the default, for three quarters of -x")),
        Spelling(Opt::TunnelType, option(RealServer, "tun-type", "", Must("TYPE"), "encapsulation of a tunnel: ipip (the default), gue, gre")),
        Spelling(Opt::TunnelPort, option(RealServer, "tun-port", "", Must("PORT"), "UDP port of a gue tunnel")),
        Spelling(Opt::TunnelFlags(Some(TunnelFlags::empty())), option(RealServer, "tun-nocsum", "", No, "no checksums in a gue or gre tunnel, which is the default")),
        Spelling(Opt::TunnelFlags(Some(TunnelFlags::CHECKSUM)), option(RealServer, "tun-csum", "", No, "checksums in a gue or gre tunnel")),
        Spelling(Opt::TunnelFlags(Some(TunnelFlags::REMOTE_CHECKSUM)), option(RealServer, "tun-remcsum", "", No, "remote checksum offload in a gue tunnel")),
        Spelling(Opt::TunnelFlags(None), option(RealServer, "tun-flags", "", Must("BITS"), "flags of a tunnel by their number (not in ipvsadm 1.31)")),
        Spelling(Opt::Numeric, option(Listing, "numeric", "n", No, "addresses and ports as numbers; also with -S")),
        Spelling(Opt::Connections, option(Listing, "connection", "c", No, "lists the connections")),
        Spelling(Opt::Timeouts, option(Listing, "timeout", "", No, "lists the timeouts of connections")),
        Spelling(Opt::Daemons, option(Listing, "daemon", "", No, "lists the sync daemons")),
        Spelling(Opt::Statistics, option(Listing, "stats", "", No, "shows connections, packets and bytes")),
        Spelling(Opt::Rates, option(Listing, "rate", "", No, "shows the same by the second")),
        Spelling(Opt::Thresholds, option(Listing, "thresholds", "", No, "shows when real servers are full")),
        Spelling(Opt::PersistentConnections, option(Listing, "persistent-conn", "", No, "shows persistence templates; with -c the data of persistence engines")),
        Spelling(Opt::TunnelInformation, option(Listing, "tun-info", "", No, "shows encapsulations")),
        Spelling(Opt::Exact, option(Listing, "exact", "X", No, "shows large numbers in full")),
        Spelling(Opt::NoSort, option(Listing, "nosort", "", No, "in the kernel's order")),
        Spelling(Opt::Sort, option(Listing, "sort", "", No, "in order, which is the default")),
        Spelling(Opt::SyncId, option(Daemon, "syncid", "", Must("NUMBER"), "which daemons listen to each other, 0 to 255; 0 by default")),
        Spelling(Opt::MaxLength, option(Daemon, "sync-maxlen", "", Must("BYTES"), "the longest message, 1 to 65507")),
        Spelling(Opt::Interface, option(Daemon, "mcast-interface", "", Must("INTERFACE"), "where messages are sent and received; eth0 by default")),
        Spelling(Opt::Group, option(Daemon, "mcast-group", "", Must("ADDRESS"), "the multicast address; 224.0.0.81 by default")),
        Spelling(Opt::Port, option(Daemon, "mcast-port", "", Must("PORT"), "the UDP port; 8848 by default")),
        Spelling(Opt::Ttl, option(Daemon, "mcast-ttl", "", Must("NUMBER"), "the time to live, 1 to 255; 1 by default")),
    ]
};

/// Which of [`SPELLINGS`] a letter is; of others, a number that none of them has.
const LETTERS: [u8; 128] = {
    let mut letters = [u8::MAX; 128];
    let mut index = 0;
    while index < SPELLINGS.len() {
        let short = SPELLINGS[index].1.short.as_bytes();
        let mut letter = 0;
        while letter < short.len() {
            letters[short[letter] as usize] = index as u8;
            letter += 1;
        }
        index += 1;
    }
    letters
};

/// Every option of ipvsadm's, and those of our own.
pub(crate) fn described() -> impl ExactSizeIterator<Item = &'static CommandOption> {
    SPELLINGS.iter().map(|Spelling(_, described)| described)
}

/// A value of an option, or a word that belongs to none, and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Text<'a> {
    pub(crate) text: &'a str,
    pub(crate) place: Place,
}

/// An option as it was typed: `-t`, `--tcp-service`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    Short(char),
    Long(&'static str),
}

impl fmt::Display for Typed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(letter) => write!(f, "-{letter}"),
            Self::Long(name) => write!(f, "--{name}"),
        }
    }
}

/// An option in a command line.
#[derive(Clone, Debug)]
pub(crate) struct Given<'a> {
    pub(crate) option: Opt,
    pub(crate) typed: Typed,
    pub(crate) place: Place,
    pub(crate) value: Option<Text<'a>>,
}

/// Goes through a command line as popt does for ipvsadm: options and other words in any order,
/// short options together (`-Ln`), values attached (`-w3`, `-w=3`, `--weight=3`) or as the next
/// word, and behind `--` only other words.
///
/// A long option may be shortened as long as it is clear which one is meant, which popt does not
/// know.
pub(crate) struct Scanner<'a, S> {
    words: &'a [S],
    own: &'a [CommandOption],
    next: usize,
    /// What is left of a word of short options, and its offset in the word.
    cluster: Option<(usize, usize)>,
    only_words: bool,
    /// The words that are no options.
    pub(crate) others: Vec<Text<'a>>,
}

impl<'a, S: AsRef<str>> Scanner<'a, S> {
    /// A command line, and what options there are beyond ipvsadm's.
    pub(crate) fn new(words: &'a [S], own: &'a [CommandOption]) -> Self {
        Self { words, own, next: 0, cluster: None, only_words: false, others: Vec::new() }
    }

    /// Behind the last word.
    pub(crate) fn end(&self) -> Place {
        place(self.words.len(), 0)
    }

    /// The next word as it is, for an option of two words.
    pub(crate) fn word(&mut self) -> Option<Text<'a>> {
        let text = self.words.get(self.next)?.as_ref();
        self.next += 1;
        Some(Text { text, place: place(self.next - 1, 0) })
    }

    /// The next option.
    pub(crate) fn option(&mut self) -> Result<Option<Given<'a>>, Mistake> {
        if let Some((word, offset)) = self.cluster.take() {
            return self.short(word, offset).map(Some);
        }
        while let Some(word) = self.words.get(self.next) {
            let (word, number) = (word.as_ref(), self.next);
            self.next += 1;
            match word.strip_prefix('-') {
                _ if self.only_words => {}
                Some("-") => {
                    self.only_words = true;
                    continue;
                }
                None | Some("") => {}
                Some(rest) => {
                    return match rest.strip_prefix('-') {
                        Some(long) => self.long(number, long).map(Some),
                        None => self.short(number, 1).map(Some),
                    };
                }
            }
            self.others.push(Text { text: word, place: place(number, 0) });
        }
        Ok(None)
    }

    fn long(&mut self, number: usize, word: &'a str) -> Result<Given<'a>, Mistake> {
        let (name, attached) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let here = place(number, 0);
        let (option, CommandOption { long, value, .. }) = self
            .spelled(name)
            .map_err(|message| Mistake::usage(here.clone(), format!("--{name} {message}")))?;
        let typed = Typed::Long(long);
        let attached = attached
            .map(|text| Text { text, place: place(number, "--".len() + name.len() + "=".len()) });
        let value = match (value, attached) {
            (OptionValue::None, Some(_)) => {
                return Err(Mistake::usage(here, format!("{typed} takes no value")));
            }
            (OptionValue::None, None) => None,
            (_, Some(attached)) => Some(attached),
            (OptionValue::Optional(_), None) => self.optional(),
            (OptionValue::Required(_), None) => Some(self.required(typed)?),
        };
        Ok(Given { option, typed, place: here, value })
    }

    /// A short option at an offset in a word.
    fn short(&mut self, number: usize, offset: usize) -> Result<Given<'a>, Mistake> {
        // Of the first one, the dash is where it begins.
        let here = place(number, if offset == 1 { 0 } else { offset });
        let rest = self.words[number].as_ref().get(offset..).unwrap_or_default();
        let mut characters = rest.chars();
        let letter = characters.next().unwrap_or('-');
        let rest = characters.as_str();
        let typed = Typed::Short(letter);
        let Some((option, value)) = self.lettered(letter) else {
            return Err(Mistake::usage(
                here,
                format!("-{} is not an option", letter.escape_debug()),
            ));
        };
        let behind = offset + letter.len_utf8();
        let attached = (!rest.is_empty()).then(|| match rest.strip_prefix('=') {
            Some(text) => Text { text, place: place(number, behind + 1) },
            None => Text { text: rest, place: place(number, behind) },
        });
        let value = match (value, attached) {
            (OptionValue::None, Some(_)) if rest.starts_with('=') => {
                return Err(Mistake::usage(here, format!("{typed} takes no value")));
            }
            (OptionValue::None, attached) => {
                self.cluster = attached.map(|_| (number, behind));
                None
            }
            (_, Some(attached)) => Some(attached),
            (OptionValue::Optional(_), None) => self.optional(),
            (OptionValue::Required(_), None) => Some(self.required(typed)?),
        };
        Ok(Given { option, typed, place: here, value })
    }

    /// The option of a letter, and what follows it.
    fn lettered(&self, letter: char) -> Option<(Opt, OptionValue)> {
        // Files have thousands of lines of nothing but letters.
        if let Some(index) = LETTERS.get(letter as usize) {
            if let Some(Spelling(option, described)) = SPELLINGS.get(usize::from(*index)) {
                return Some((*option, described.value));
            }
        }
        let mut own = (0..).zip(self.own);
        let (index, found) = own.find(|(_, option)| option.short.contains(letter))?;
        Some((Opt::Own(index), found.value))
    }

    /// Every option that there is.
    fn spellings(&self) -> impl Iterator<Item = (Opt, &'a CommandOption)> + use<'a, S> {
        let own = self.own.iter().enumerate().map(|(index, option)| (Opt::Own(index), option));
        SPELLINGS.iter().map(|Spelling(option, described)| (*option, described)).chain(own)
    }

    /// The option of that long spelling, or the only one that begins so.
    fn spelled(&self, name: &str) -> Result<(Opt, &'a CommandOption), String> {
        if let Some(exact) = self.spellings().find(|(_, option)| option.long == name) {
            return Ok(exact);
        }
        let begin_so = |(_, option): &(Opt, &CommandOption)| option.long.starts_with(name);
        let candidates: Vec<_> = self.spellings().filter(begin_so).collect();
        match candidates[..] {
            [] => Err("is not an option".to_owned()),
            [only] if !name.is_empty() => Ok(only),
            _ => {
                let names: Vec<_> =
                    candidates.iter().map(|(_, option)| format!("--{}", option.long)).collect();
                Err(format!("could be {}", names.join(", ")))
            }
        }
    }

    /// The next word, unless it is an option.
    fn optional(&mut self) -> Option<Text<'a>> {
        let word = self.words.get(self.next)?;
        if word.as_ref().starts_with('-') { None } else { self.word() }
    }

    fn required(&mut self, typed: Typed) -> Result<Text<'a>, Mistake> {
        let end = self.end();
        self.word().ok_or_else(|| Mistake::usage(end, format!("{typed} needs a value")))
    }
}

/// A place in the word of an index.
fn place(word: usize, offset: usize) -> Place {
    Place::Argument { number: word + 1, offset }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use super::*;

    /// The options with their values as they come, and then the other words.
    fn scan(line: &str) -> Result<String, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut scanner = Scanner::new(&words, &[]);
        let mut found = Vec::new();
        while let Some(given) = scanner.option().map_err(|mistake| mistake.to_string())? {
            let value = given.value.map(|value| format!("({})", value.text)).unwrap_or_default();
            found.push(format!("{}{value}", given.typed));
        }
        found.extend(scanner.others.iter().map(|other| other.text.to_owned()));
        Ok(found.join(" "))
    }

    #[test]
    fn options_are_taken_as_popt_takes_them() {
        for (line, expected) in [
            ("-Ln", "-L -n"),
            ("-At 10.0.0.1:80 -srr", "-A -t(10.0.0.1:80) -s(rr)"),
            ("-At=10.0.0.1:80 -s=rr", "-A -t(10.0.0.1:80) -s(rr)"),
            ("-A --tcp-service=x -p -s rr", "-A --tcp-service(x) -p -s(rr)"),
            ("-p60 -p=60 -p 60 -p", "-p(60) -p(60) -p(60) -p"),
            ("--persistent 60 --persistent=", "--persistent(60) --persistent()"),
            ("-s -p", "-s(-p)"),
            ("900 --set 120 300", "--set 900 120 300"),
            ("-L -- -n - x", "-L -n - x"),
            ("-L -", "-L -"),
            ("--num --lis --persistent-c", "--numeric --list --persistent-conn"),
        ] {
            assert_eq!(scan(line).as_deref(), Ok(expected), "{line}");
        }
    }

    #[test]
    fn what_popt_refuses_is_refused() {
        for (line, expected) in [
            ("-L --bogus", "argument 2: --bogus is not an option"),
            ("-Lq", "argument 1: -q is not an option"),
            ("-n=3", "argument 1: -n takes no value"),
            ("-Ln=3", "argument 1: -n takes no value"),
            ("-A -s", "argument 3: -s needs a value"),
            ("--list=3", "argument 1: --list takes no value"),
            ("--tun-t", "argument 2: --tun-type needs a value"),
            ("--st", "argument 1: --st could be --start-daemon, --stop-daemon, --stats"),
            ("-é", "argument 1: -é is not an option"),
        ] {
            assert_eq!(scan(line), Err(expected.to_owned()), "{line}");
        }
    }

    #[test]
    fn every_spelling_is_one_options() {
        let described: Vec<_> = described().collect();
        for (i, option) in described.iter().enumerate() {
            assert!(!option.help.is_empty(), "{option:?}");
            for other in &described[i + 1..] {
                assert_ne!(option.long, other.long);
                assert!(!option.short.chars().any(|it| other.short.contains(it)), "{option:?}");
            }
        }
    }
}
