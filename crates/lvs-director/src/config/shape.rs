//! Whether a document has the shape that the language asks for: every mistake, each with its place.

use std::{net::IpAddr, time::Duration};

use super::{
    Mistake,
    range::{self, Addresses},
    tree::{Node, Value},
};

/// An object of the language.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) fields: &'static [Field],
}

#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) help: &'static str,
    pub(crate) is_required: bool,
}

/// What may stand in a place.
#[derive(Debug)]
pub(crate) enum Kind {
    Text,
    Bool,
    Integer(i64, i64),
    /// A text, a number, or true and false.
    Scalar,
    /// `500ms`, `5s`, `1m 30s`, or a number of seconds.
    Duration,
    Address,
    /// An address, or a range of them.
    Addresses,
    /// A port, or a range of them.
    Ports,
    /// An address and a port.
    Endpoint,
    Word(&'static [&'static str]),
    List(&'static Self),
    OneOrMore(&'static Self),
    Map(&'static Self),
    Object(&'static Object),
    /// Each of another type of YAML, or told apart by trying.
    Either(&'static [Self]),
}

pub(crate) const fn field(name: &'static str, kind: Kind, help: &'static str) -> Field {
    Field { name, kind, help, is_required: false }
}

pub(crate) const fn required(name: &'static str, kind: Kind, help: &'static str) -> Field {
    Field { name, kind, help, is_required: true }
}

impl Kind {
    /// Adds every mistake in a part of a document.
    pub(crate) fn check(&self, node: &Node, mistakes: &mut Vec<Mistake>) {
        let wrong = |mistakes: &mut Vec<Mistake>| {
            mistakes.push(Mistake::at(node, format!("{} is not {}", node.shown(), self.what())));
        };
        match self {
            Self::Object(object) => object.check(node, mistakes),
            Self::List(kind) => match &node.value {
                Value::List(list) => list.iter().for_each(|node| kind.check(node, mistakes)),
                _ => wrong(mistakes),
            },
            Self::OneOrMore(kind) => match &node.value {
                Value::List(list) if list.is_empty() => {
                    mistakes.push(Mistake::at(node, "an empty list".to_owned()));
                }
                Value::List(list) => list.iter().for_each(|node| kind.check(node, mistakes)),
                _ => kind.check(node, mistakes),
            },
            Self::Map(kind) => match &node.value {
                Value::Map(map) => map.iter().for_each(|(_, _, node)| kind.check(node, mistakes)),
                _ => wrong(mistakes),
            },
            Self::Either(kinds) => {
                let mut found = Vec::new();
                for kind in *kinds {
                    let mut of_kind = Vec::new();
                    kind.check(node, &mut of_kind);
                    if of_kind.is_empty() {
                        return;
                    }
                    // One of another type says nothing of what is inside.
                    if kind.is_of_type(node) {
                        found = of_kind;
                    }
                }
                if found.is_empty() { wrong(mistakes) } else { mistakes.append(&mut found) }
            }
            _ if self.fits(node) => {}
            _ => wrong(mistakes),
        }
    }

    /// Whether the value is of the type of YAML that holds others.
    fn is_of_type(&self, node: &Node) -> bool {
        match self {
            Self::Object(_) | Self::Map(_) => matches!(node.value, Value::Map(_)),
            Self::List(_) => matches!(node.value, Value::List(_)),
            _ => false,
        }
    }

    fn fits(&self, node: &Node) -> bool {
        match self {
            Self::Text => node.text().is_some(),
            Self::Scalar => node.scalar().is_some(),
            Self::Bool => node.bool().is_some(),
            Self::Integer(from, to) => node.integer().is_some_and(|it| (*from..=*to).contains(&it)),
            Self::Duration => node.duration().is_some(),
            Self::Address => node.parsed::<IpAddr>().is_some(),
            Self::Addresses => node.addresses().is_some(),
            Self::Ports => node.ports().is_some(),
            Self::Endpoint => node.parsed::<std::net::SocketAddr>().is_some(),
            Self::Word(words) => node.text().is_some_and(|text| words.contains(&text)),
            Self::List(_)
            | Self::OneOrMore(_)
            | Self::Map(_)
            | Self::Object(_)
            | Self::Either(_) => false,
        }
    }

    /// What may stand there, in words.
    pub(crate) fn what(&self) -> String {
        match self {
            Self::Text => "a text".to_owned(),
            Self::Scalar => "a text or a number".to_owned(),
            Self::Bool => "true or false".to_owned(),
            Self::Integer(from, to) => format!("a number from {from} to {to}"),
            Self::Duration => "a duration such as 500ms, 5s or 1m 30s".to_owned(),
            Self::Address => "an IP address".to_owned(),
            Self::Addresses => {
                "an IP address, or a range such as 192.0.2.1-20 of at most 4096".to_owned()
            }
            Self::Ports => "a port, or a range such as 8000-8010".to_owned(),
            Self::Endpoint => "an address with a port, such as 127.0.0.1:9300".to_owned(),
            Self::Word(words) => format!("one of {}", words.join(", ")),
            Self::List(kind) => format!("a list, each entry {}", kind.what()),
            Self::OneOrMore(kind) => format!("{}, or a list of such", kind.what()),
            Self::Map(kind) => format!("a map of names, each to {}", kind.what()),
            Self::Object(object) => format!("a map of a {}'s fields", object.name),
            Self::Either(kinds) => kinds.iter().map(Self::what).collect::<Vec<_>>().join(", or "),
        }
    }
}

impl Object {
    fn check(&self, node: &Node, mistakes: &mut Vec<Mistake>) {
        let Value::Map(map) = &node.value else {
            // A file without a word is one without services.
            if !matches!(node.value, Value::Null) || self.fields.iter().any(|it| it.is_required) {
                let text = format!("{} is not a map of a {}'s fields", node.shown(), self.name);
                mistakes.push(Mistake::at(node, text));
            }
            return;
        };
        for (name, place, value) in map {
            match self.fields.iter().find(|field| field.name == name) {
                // Named without a value, as in a file that is being written.
                Some(_) if matches!(value.value, Value::Null) => {
                    let text = format!("{name} has no value");
                    mistakes.push(Mistake { place: *place, text });
                }
                Some(field) => {
                    let before = mistakes.len();
                    field.kind.check(value, mistakes);
                    for mistake in &mut mistakes[before..] {
                        if mistake.place == value.place && mistake.text.contains(" is not ") {
                            mistake.text = format!("{name}: {}", mistake.text);
                        }
                    }
                }
                None => {
                    let text = match self.like(name) {
                        Some(like) => format!("a {} has no field {name:?}; {like:?}?", self.name),
                        None => {
                            let names: Vec<_> =
                                self.fields.iter().map(|field| field.name).collect();
                            let names = names.join(", ");
                            format!("a {} has no field {name:?}; there are {names}", self.name)
                        }
                    };
                    mistakes.push(Mistake { place: *place, text });
                }
            }
        }
        for field in self.fields.iter().filter(|field| field.is_required) {
            if node.get(field.name).is_none() {
                let text = format!("a {} needs the field {:?}", self.name, field.name);
                mistakes.push(Mistake::at(node, text));
            }
        }
    }

    /// The field whose name differs by a letter or two.
    fn like(&self, name: &str) -> Option<&'static str> {
        let distance = |field: &&Field| distance(field.name, name);
        let nearest = self.fields.iter().min_by_key(distance)?;
        (distance(&nearest) <= 2).then_some(nearest.name)
    }
}

/// How many letters have to be changed, added or left out.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let best = (diagonal + usize::from(a != *b)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], best);
        }
    }
    row[other.len()]
}

impl Node {
    /// A field that is there and has a value.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        let Value::Map(map) = &self.value else { return None };
        let (_, _, node) = map.iter().find(|(key, ..)| key == name)?;
        (!matches!(node.value, Value::Null)).then_some(node)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &Self)> {
        let map = match &self.value {
            Value::Map(map) => &map[..],
            _ => &[],
        };
        map.iter().map(|(name, _, node)| (&name[..], node))
    }

    /// Its elements, or itself.
    pub(crate) fn each(&self) -> &[Self] {
        match &self.value {
            Value::List(list) => list,
            _ => std::slice::from_ref(self),
        }
    }

    pub(crate) fn is_list(&self) -> bool {
        matches!(self.value, Value::List(_))
    }

    pub(crate) fn is_map(&self) -> bool {
        matches!(self.value, Value::Map(_))
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn bool(&self) -> Option<bool> {
        match self.value {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn integer(&self) -> Option<i64> {
        match self.value {
            Value::Integer(value) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn number<T: TryFrom<i64>>(&self) -> Option<T> {
        self.integer().and_then(|value| value.try_into().ok())
    }

    pub(crate) fn scalar(&self) -> Option<String> {
        match &self.value {
            Value::Bool(value) => Some(u8::from(*value).to_string()),
            Value::Integer(value) => Some(value.to_string()),
            Value::Float(value) => Some(value.to_string()),
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }
    }

    pub(crate) fn parsed<T: std::str::FromStr>(&self) -> Option<T> {
        self.text()?.parse().ok()
    }

    pub(crate) fn duration(&self) -> Option<Duration> {
        /// Longer ones are mistakes, and overflow clocks.
        const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
        let duration = match &self.value {
            Value::Integer(seconds) => Duration::from_secs(u64::try_from(*seconds).ok()?),
            Value::Float(seconds) => Duration::try_from_secs_f64(*seconds).ok()?,
            Value::Text(text) => humantime::parse_duration(text).ok()?,
            _ => return None,
        };
        (duration <= LONGEST).then_some(duration)
    }

    pub(crate) fn addresses(&self) -> Option<Addresses> {
        range::addresses(self.text()?)
    }

    pub(crate) fn ports(&self) -> Option<std::ops::RangeInclusive<u16>> {
        match &self.value {
            Value::Integer(port) => u16::try_from(*port).ok().map(|port| port..=port),
            Value::Text(text) => range::ports(text),
            _ => None,
        }
    }

    /// Its value for a message, shortened.
    pub(crate) fn shown(&self) -> String {
        let text = match &self.value {
            Value::Null => return "nothing".to_owned(),
            Value::List(_) => return "a list".to_owned(),
            Value::Map(_) => return "a map".to_owned(),
            _ => format!("{:?}", self.scalar().unwrap_or_default()),
        };
        match text.char_indices().nth(60) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }
}
