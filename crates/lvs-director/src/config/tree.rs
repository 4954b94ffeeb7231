//! A YAML document as a tree that remembers where each part stands.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;

use super::Mistake;

/// A part of a document.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// A line and a column, the first being 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) line: u64,
    pub(crate) column: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the order of the document.
    Map(Vec<(String, Place, Node)>),
}

/// Reads a document. An empty one is an empty map.
pub(crate) fn read(text: &str) -> Result<Node, Mistake> {
    let options = serde_saphyr::options! {
        // Of ten thousand servers with a line each for address, port and weight.
        budget: serde_saphyr::budget! {
            max_events: 10_000_000,
            max_nodes: 2_500_000,
            max_total_scalar_bytes: 256 * 1024 * 1024,
        },
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map(Raw::node).map_err(|error| {
        let place = error.location().map(|it| Place { line: it.line(), column: it.column() });
        let text = error.without_snippet().to_string();
        // The place is said once.
        let text = match (text.find(" at line "), place) {
            (Some(end), Some(_)) => text[..end].to_owned(),
            _ => text,
        };
        Mistake { place: place.unwrap_or_default(), text: format!("not YAML: {text}") }
    })
}

/// As it is read; the place comes from the wrapper.
struct Raw(Spanned<RawValue>);

enum RawValue {
    Scalar(Value),
    List(Vec<Raw>),
    Map(Vec<(Spanned<String>, Raw)>),
}

impl Raw {
    fn node(self) -> Node {
        let at = place(&self.0);
        let value = match self.0.value {
            RawValue::Scalar(value) => value,
            RawValue::List(list) => Value::List(list.into_iter().map(Self::node).collect()),
            RawValue::Map(map) => Value::Map(
                map.into_iter()
                    .map(|(key, value)| {
                        let place = place(&key);
                        (key.value, place, value.node())
                    })
                    .collect(),
            ),
        };
        Node { place: at, value }
    }
}

fn place<T>(spanned: &Spanned<T>) -> Place {
    Place { line: spanned.referenced.line(), column: spanned.referenced.column() }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(Self)
    }
}

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = RawValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<RawValue, D::Error> {
        RawValue::deserialize(value)
    }

    fn visit_bool<E>(self, value: bool) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Integer(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(
            i64::try_from(value).map_or(Value::Float(value as f64), Value::Integer),
        ))
    }

    fn visit_f64<E>(self, value: f64) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Text(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<RawValue, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element()? {
            elements.push(element);
        }
        Ok(RawValue::List(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawValue, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(RawValue::Map(entries))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}
