//! Writes YAML, in the order in which it was made.

use std::fmt::Write as _;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Yaml {
    Text(String),
    Number(u64),
    Bool(bool),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

impl Yaml {
    pub(super) fn map() -> Self {
        Self::Map(Vec::new())
    }

    pub(super) fn text_of(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub(super) fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        Self::List(words.into_iter().map(Self::text_of).collect())
    }

    /// Seconds, or a fraction of them.
    pub(super) fn seconds(text: &str) -> Option<Self> {
        let seconds: f64 = text.parse().ok()?;
        if !(0.0..31_536_000.0).contains(&seconds) {
            return None;
        }
        let millis = (seconds * 1000.0).round() as u64;
        Some(Self::Text(match millis % 1000 {
            0 => format!("{}s", millis / 1000),
            _ => format!("{millis}ms"),
        }))
    }

    pub(super) fn put(&mut self, name: &str, value: Self) {
        if let Self::Map(map) = self {
            map.push((name.to_owned(), value));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::List(list) => list.is_empty(),
            Self::Map(map) => map.is_empty(),
            _ => false,
        }
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text, 0);
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text.trim_start_matches('\n').to_owned()
    }

    fn write(&self, out: &mut String, depth: usize) {
        match self {
            Self::Text(text) => out.push_str(&quoted(text)),
            Self::Number(number) => drop(write!(out, "{number}")),
            Self::Bool(value) => drop(write!(out, "{value}")),
            Self::List(list) if list.is_empty() => out.push_str("[]"),
            Self::Map(map) if map.is_empty() => out.push_str("{}"),
            Self::List(list) if list.iter().all(Self::is_scalar) => {
                out.push('[');
                for (number, element) in list.iter().enumerate() {
                    if number > 0 {
                        out.push_str(", ");
                    }
                    element.write(out, depth);
                }
                out.push(']');
            }
            Self::List(list) => {
                for element in list {
                    new_line(out, depth);
                    out.push_str("- ");
                    element.write(out, depth + 1);
                }
            }
            Self::Map(map) => {
                for (number, (name, value)) in map.iter().enumerate() {
                    // The first stands behind the dash of a list.
                    if number > 0 || !out.ends_with("- ") {
                        new_line(out, depth);
                    }
                    out.push_str(&quoted(name));
                    out.push(':');
                    if value.is_scalar() || value.is_empty() || value.is_flow() {
                        out.push(' ');
                    }
                    value.write(out, depth + 1);
                }
            }
        }
    }

    fn is_scalar(&self) -> bool {
        matches!(self, Self::Text(_) | Self::Number(_) | Self::Bool(_))
    }

    fn is_flow(&self) -> bool {
        matches!(self, Self::List(list) if list.iter().all(Self::is_scalar))
    }
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.push_str(&"  ".repeat(depth));
}

/// Plain where nothing could read it otherwise.
fn quoted(text: &str) -> String {
    let is_plain =
        |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.' | '/');
    let begins = text.starts_with(|char: char| char.is_ascii_alphabetic() || char == '/');
    let is_word = !matches!(
        text.to_ascii_lowercase().as_str(),
        "true" | "false" | "yes" | "no" | "on" | "off" | "null" | "y" | "n" | "inf" | "nan"
    );
    let is_time = text.len() > 1
        && text.starts_with(|char: char| char.is_ascii_digit())
        && text.ends_with(['s', 'm', 'h', 'd'])
        && text.trim_end_matches(char::is_alphabetic).bytes().all(|byte| byte.is_ascii_digit());
    if (begins && is_word && text.chars().all(is_plain)) || is_time {
        return text.to_owned();
    }
    // JSON's strings are YAML's, too, but for what YAML does not print.
    let mut quoted = String::new();
    for char in serde_json::to_string(text).unwrap_or_default().chars() {
        match char {
            '\u{7f}'..='\u{9f}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(char));
            }
            char => quoted.push(char),
        }
    }
    quoted
}
