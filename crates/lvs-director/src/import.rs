//! Files of other programs, as ours.

mod blocks;
mod keepalived;
mod ldirectord;
#[cfg(test)]
mod tests;
mod yaml;

use std::fmt::Write as _;

use self::yaml::Yaml;
use crate::Config;

/// A file of another program in our language, with all that has no counterpart.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Imported {
    /// The file; what has no counterpart is in comments at its head.
    pub yaml: String,
    /// What has no counterpart, or another meaning: the line, the first being 1, and what it is.
    pub notes: Vec<(usize, String)>,
}

/// Whose file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// keepalived's: `virtual_server` and what belongs to it.
    Keepalived,
    /// ldirectord's.
    Ldirectord,
}

/// Reads a file of another program. Nothing of it is dropped in silence: what has no counterpart is in the
/// notes.
pub fn import(origin: Origin, text: &str) -> Imported {
    let mut notes = Notes::default();
    let (yaml, name) = match origin {
        Origin::Keepalived => (keepalived::import(text, &mut notes), "keepalived"),
        Origin::Ldirectord => (ldirectord::import(text, &mut notes), "ldirectord"),
    };
    let body = yaml.text();
    if let Err(mistakes) = Config::parse(&body) {
        for mistake in mistakes.iter() {
            notes.add(0, format!("in the new file, counted without this head: {mistake}"));
        }
    }
    notes.0.sort();
    notes.0.dedup();
    let mut head = format!("# Made from a file of {name}'s.\n");
    for (line, text) in &notes.0 {
        let text = text.replace(char::is_control, " ");
        let _ = match line {
            0 => writeln!(head, "# {text}"),
            line => writeln!(head, "# line {line}: {text}"),
        };
    }
    Imported { yaml: head + &body, notes: notes.0 }
}

/// What has no counterpart, with its line.
#[derive(Debug, Default)]
struct Notes(Vec<(usize, String)>);

impl Notes {
    fn add(&mut self, line: usize, text: impl Into<String>) {
        let mut text: String = text.into();
        if let Some((end, _)) = text.char_indices().nth(300) {
            text.truncate(end);
            text.push('…');
        }
        self.0.push((line, text));
    }
}

/// A check as both importers make it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Check {
    kind: &'static str,
    fields: Vec<(&'static str, Yaml)>,
    common: Vec<(&'static str, Yaml)>,
}

impl Check {
    fn new(kind: &'static str) -> Self {
        Self { kind, ..Self::default() }
    }

    fn yaml(&self) -> Yaml {
        let mut map = Yaml::map();
        map.put(
            self.kind,
            Yaml::Map(
                self.fields
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), value.clone()))
                    .collect(),
            ),
        );
        for (name, value) in &self.common {
            map.put(name, value.clone());
        }
        map
    }
}

/// `192.0.2.1 80` or `2001:db8::1 80` as one word.
fn endpoint(address: &str, port: &str) -> String {
    match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    }
}
