//! A command line as options with their values.

use std::fmt;

use super::{CommandOption, Opt, OptionUnit, OptionValue, Verb, lettered, units};
use crate::{Mistake, Place};

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
    /// The commands that it goes with; of one that the caller has, the caller knows.
    pub(crate) goes_with: Option<&'static [Verb]>,
    pub(crate) typed: Typed,
    pub(crate) place: Place,
    pub(crate) value: Option<Text<'a>>,
}

/// An option that is spelled so.
#[derive(Clone, Copy)]
struct Found<'a> {
    option: Opt,
    goes_with: Option<&'static [Verb]>,
    described: &'a CommandOption,
}

impl<'a> Found<'a> {
    fn of(unit: &'static OptionUnit) -> Self {
        Self { option: unit.option, goes_with: Some(unit.goes_with), described: &unit.described }
    }

    fn own(index: usize, described: &'a CommandOption) -> Self {
        Self { option: Opt::Own(index), goes_with: None, described }
    }
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
        let Found { option, goes_with, described } = self
            .spelled(name)
            .map_err(|message| Mistake::usage(here.clone(), format!("--{name} {message}")))?;
        let typed = Typed::Long(described.long);
        let attached = attached
            .map(|text| Text { text, place: place(number, "--".len() + name.len() + "=".len()) });
        let value = match (described.value, attached) {
            (OptionValue::None, Some(_)) => {
                return Err(Mistake::usage(here, format!("{typed} takes no value")));
            }
            (OptionValue::None, None) => None,
            (_, Some(attached)) => Some(attached),
            (OptionValue::Optional(_), None) => self.optional(),
            (OptionValue::Required(_), None) => Some(self.required(typed)?),
        };
        Ok(Given { option, goes_with, typed, place: here, value })
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
        let Some(Found { option, goes_with, described }) = self.lettered(letter) else {
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
        let value = match (described.value, attached) {
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
        Ok(Given { option, goes_with, typed, place: here, value })
    }

    /// The option of a letter.
    fn lettered(&self, letter: char) -> Option<Found<'a>> {
        if let Some(unit) = lettered(letter) {
            return Some(Found::of(unit));
        }
        let mut own = self.own.iter().enumerate();
        let (index, found) = own.find(|(_, option)| option.short.contains(letter))?;
        Some(Found::own(index, found))
    }

    /// Every option that there is.
    fn all(&self) -> impl Iterator<Item = Found<'a>> + use<'a, S> {
        let own = self.own.iter().enumerate().map(|(index, option)| Found::own(index, option));
        units().map(Found::of).chain(own)
    }

    /// The option of that long spelling, or the only one that begins so.
    fn spelled(&self, name: &str) -> Result<Found<'a>, String> {
        if let Some(exact) = self.all().find(|found| found.described.long == name) {
            return Ok(exact);
        }
        let candidates: Vec<_> =
            self.all().filter(|found| found.described.long.starts_with(name)).collect();
        match candidates[..] {
            [] => Err("is not an option".to_owned()),
            [only] if !name.is_empty() => Ok(only),
            _ => {
                let names: Vec<_> =
                    candidates.iter().map(|found| format!("--{}", found.described.long)).collect();
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
}
