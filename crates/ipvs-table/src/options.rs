//! ipvsadm's options, and a command line as options with their values.

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
}

impl Opt {
    /// Whether it is at most once in a command line, and so are all that are the same but for
    /// what tells them apart. As in ipvsadm, `-6` and `--sort` may be repeated.
    pub(crate) fn excludes(self, other: Self) -> bool {
        match (self, other) {
            (Self::Ipv6, _) | (Self::Sort, _) => false,
            (Self::Service(_) | Self::Mark, Self::Service(_) | Self::Mark) => true,
            _ => std::mem::discriminant(&self) == std::mem::discriminant(&other),
        }
    }
}

/// What follows an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    None,
    Required,
    Optional,
}

/// The long spelling, the short one, and what follows.
struct Spelling(Opt, &'static str, Option<char>, Value);

#[rustfmt::skip]
const SPELLINGS: &[Spelling] = &{
    use Value::{None as No, Optional as May, Required as Must};
    [
        Spelling(Opt::Verb(Verb::AddService), "add-service", Some('A'), No),
        Spelling(Opt::Verb(Verb::EditService), "edit-service", Some('E'), No),
        Spelling(Opt::Verb(Verb::DeleteService), "delete-service", Some('D'), No),
        Spelling(Opt::Verb(Verb::Clear), "clear", Some('C'), No),
        Spelling(Opt::Verb(Verb::List), "list", Some('L'), No),
        Spelling(Opt::Verb(Verb::List), "list", Some('l'), No),
        Spelling(Opt::Verb(Verb::Zero), "zero", Some('Z'), No),
        Spelling(Opt::Verb(Verb::AddServer), "add-server", Some('a'), No),
        Spelling(Opt::Verb(Verb::EditServer), "edit-server", Some('e'), No),
        Spelling(Opt::Verb(Verb::DeleteServer), "delete-server", Some('d'), No),
        Spelling(Opt::Verb(Verb::SetTimeouts), "set", None, No),
        Spelling(Opt::Verb(Verb::Help), "help", Some('h'), No),
        Spelling(Opt::Verb(Verb::Version), "version", Some('v'), No),
        Spelling(Opt::Verb(Verb::Restore), "restore", Some('R'), No),
        Spelling(Opt::Verb(Verb::Save), "save", Some('S'), No),
        Spelling(Opt::Verb(Verb::StartDaemon), "start-daemon", None, Must),
        Spelling(Opt::Verb(Verb::StopDaemon), "stop-daemon", None, Must),
        Spelling(Opt::Service(Some(Protocol::TCP)), "tcp-service", Some('t'), Must),
        Spelling(Opt::Service(Some(Protocol::UDP)), "udp-service", Some('u'), Must),
        Spelling(Opt::Service(Some(Protocol::SCTP)), "sctp-service", None, Must),
        Spelling(Opt::Service(None), "protocol", None, Must),
        Spelling(Opt::Mark, "fwmark-service", Some('f'), Must),
        Spelling(Opt::Ipv6, "ipv6", Some('6'), No),
        Spelling(Opt::Scheduler, "scheduler", Some('s'), Must),
        Spelling(Opt::Persistent, "persistent", Some('p'), May),
        Spelling(Opt::Netmask, "netmask", Some('M'), Must),
        Spelling(Opt::Engine, "pe", None, Must),
        Spelling(Opt::OnePacket, "ops", Some('o'), No),
        Spelling(Opt::SchedulerFlags, "sched-flags", Some('b'), Must),
        Spelling(Opt::FlagsMask, "flags-mask", None, Must),
        Spelling(Opt::RealServer, "real-server", Some('r'), Must),
        Spelling(Opt::Forward(Some(ForwardMethod::DIRECT_ROUTE)), "gatewaying", Some('g'), No),
        Spelling(Opt::Forward(Some(ForwardMethod::TUNNEL)), "ipip", Some('i'), No),
        Spelling(Opt::Forward(Some(ForwardMethod::MASQUERADE)), "masquerading", Some('m'), No),
        Spelling(Opt::Forward(None), "forward-method", None, Must),
        Spelling(Opt::Weight, "weight", Some('w'), Must),
        Spelling(Opt::UpperThreshold, "u-threshold", Some('x'), Must),
        Spelling(Opt::LowerThreshold, "l-threshold", Some('y'), Must),
        Spelling(Opt::TunnelType, "tun-type", None, Must),
        Spelling(Opt::TunnelPort, "tun-port", None, Must),
        Spelling(Opt::TunnelFlags(Some(TunnelFlags::empty())), "tun-nocsum", None, No),
        Spelling(Opt::TunnelFlags(Some(TunnelFlags::CHECKSUM)), "tun-csum", None, No),
        Spelling(Opt::TunnelFlags(Some(TunnelFlags::REMOTE_CHECKSUM)), "tun-remcsum", None, No),
        Spelling(Opt::TunnelFlags(None), "tun-flags", None, Must),
        Spelling(Opt::Numeric, "numeric", Some('n'), No),
        Spelling(Opt::Connections, "connection", Some('c'), No),
        Spelling(Opt::Timeouts, "timeout", None, No),
        Spelling(Opt::Daemons, "daemon", None, No),
        Spelling(Opt::Statistics, "stats", None, No),
        Spelling(Opt::Rates, "rate", None, No),
        Spelling(Opt::Thresholds, "thresholds", None, No),
        Spelling(Opt::PersistentConnections, "persistent-conn", None, No),
        Spelling(Opt::TunnelInformation, "tun-info", None, No),
        Spelling(Opt::Exact, "exact", Some('X'), No),
        Spelling(Opt::NoSort, "nosort", None, No),
        Spelling(Opt::Sort, "sort", None, No),
        Spelling(Opt::SyncId, "syncid", None, Must),
        Spelling(Opt::MaxLength, "sync-maxlen", None, Must),
        Spelling(Opt::Interface, "mcast-interface", None, Must),
        Spelling(Opt::Group, "mcast-group", None, Must),
        Spelling(Opt::Port, "mcast-port", None, Must),
        Spelling(Opt::Ttl, "mcast-ttl", None, Must),
    ]
};

/// A value of an option, or a word that belongs to none, and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Text<'a> {
    pub(crate) text: &'a str,
    pub(crate) place: Place,
}

/// An option in a command line.
#[derive(Clone, Debug)]
pub(crate) struct Given<'a> {
    pub(crate) option: Opt,
    /// As it was typed: `-t`, `--tcp-service`.
    pub(crate) typed: String,
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
    next: usize,
    /// What is left of a word of short options, and its offset in the word.
    cluster: Option<(usize, usize)>,
    only_words: bool,
    /// The words that are no options.
    pub(crate) others: Vec<Text<'a>>,
}

impl<'a, S: AsRef<str>> Scanner<'a, S> {
    pub(crate) fn new(words: &'a [S]) -> Self {
        Self { words, next: 0, cluster: None, only_words: false, others: Vec::new() }
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
        let Spelling(option, full, _, value) = spelled(name)
            .map_err(|message| Mistake::usage(here.clone(), format!("--{name} {message}")))?;
        let typed = format!("--{full}");
        let attached = attached
            .map(|text| Text { text, place: place(number, "--".len() + name.len() + "=".len()) });
        let value = match (value, attached) {
            (Value::None, Some(_)) => {
                return Err(Mistake::usage(here, format!("{typed} takes no value")));
            }
            (Value::None, None) => None,
            (_, Some(attached)) => Some(attached),
            (Value::Optional, None) => self.optional(),
            (Value::Required, None) => Some(self.required(&typed)?),
        };
        Ok(Given { option: *option, typed, place: here, value })
    }

    /// A short option at an offset in a word.
    fn short(&mut self, number: usize, offset: usize) -> Result<Given<'a>, Mistake> {
        // Of the first one, the dash is where it begins.
        let here = place(number, if offset == 1 { 0 } else { offset });
        let rest = self.words[number].as_ref().get(offset..).unwrap_or_default();
        let mut characters = rest.chars();
        let letter = characters.next().unwrap_or('-');
        let rest = characters.as_str();
        let typed = format!("-{letter}");
        let Some(Spelling(option, .., value)) =
            SPELLINGS.iter().find(|spelling| spelling.2 == Some(letter))
        else {
            return Err(Mistake::usage(here, format!("{typed} is not an option")));
        };
        let behind = offset + letter.len_utf8();
        let attached = (!rest.is_empty()).then(|| match rest.strip_prefix('=') {
            Some(text) => Text { text, place: place(number, behind + 1) },
            None => Text { text: rest, place: place(number, behind) },
        });
        let value = match (value, attached) {
            (Value::None, attached) => {
                self.cluster = attached.map(|_| (number, behind));
                None
            }
            (_, Some(attached)) => Some(attached),
            (Value::Optional, None) => self.optional(),
            (Value::Required, None) => Some(self.required(&typed)?),
        };
        Ok(Given { option: *option, typed, place: here, value })
    }

    /// The next word, unless it is an option.
    fn optional(&mut self) -> Option<Text<'a>> {
        let word = self.words.get(self.next)?;
        if word.as_ref().starts_with('-') { None } else { self.word() }
    }

    fn required(&mut self, typed: &str) -> Result<Text<'a>, Mistake> {
        let end = self.end();
        self.word().ok_or_else(|| Mistake::usage(end, format!("{typed} needs a value")))
    }
}

/// The option of that long spelling, or the only one that begins so.
fn spelled(name: &str) -> Result<&'static Spelling, String> {
    if let Some(exact) = SPELLINGS.iter().find(|spelling| spelling.1 == name) {
        return Ok(exact);
    }
    let mut candidates: Vec<_> = SPELLINGS.iter().filter(|it| it.1.starts_with(name)).collect();
    candidates.dedup_by_key(|spelling| spelling.1);
    match candidates[..] {
        [] => Err("is not an option".to_owned()),
        [only] if !name.is_empty() => Ok(only),
        _ => {
            let names: Vec<_> = candidates.iter().map(|it| format!("--{}", it.1)).collect();
            Err(format!("could be {}", names.join(", ")))
        }
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
        let mut scanner = Scanner::new(&words);
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
            ("-n=3", "argument 1: -= is not an option"),
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
        for (i, Spelling(_, long, short, _)) in SPELLINGS.iter().enumerate() {
            for other in &SPELLINGS[i + 1..] {
                assert!(*long != other.1 || *long == "list", "{long}");
                assert!(short.is_none() || *short != other.2, "{short:?}");
            }
        }
    }
}
