//! A document of any format as a tree, which is read field by field so that every mistake is found.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};

use ipvs_packet::AddressFamily;

use crate::{Mistake, Place};

/// What a document can hold.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Null,
    Boolean(bool),
    /// Wide enough for every integer of every format.
    Number(i128),
    Fraction(f64),
    Text(String),
    List(Vec<Self>),
    Fields(Vec<(String, Self)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

impl Node {
    pub(crate) fn text(text: impl fmt::Display) -> Self {
        Self::Text(text.to_string())
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Boolean(value) => value.serialize(serializer),
            // Not every format has numbers of 128 bits.
            Self::Number(value) => match u64::try_from(*value) {
                Ok(value) => value.serialize(serializer),
                Err(_) => value.serialize(serializer),
            },
            Self::Fraction(value) => value.serialize(serializer),
            Self::Text(value) => value.serialize(serializer),
            Self::List(list) => list.serialize(serializer),
            Self::Fields(fields) => {
                serializer.collect_map(fields.iter().map(|(name, node)| (name, node)))
            }
        }
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fields, a list, text, a number or a boolean")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Boolean(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Node, E> {
        Ok(Node::Number(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Fraction(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Node, E> {
        Ok(Node::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = access.next_element()? {
            list.push(node);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = access.next_entry()? {
            fields.push(field);
        }
        Ok(Node::Fields(fields))
    }
}

impl fmt::Display for Node {
    /// How a mistake names what is there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("nothing"),
            Self::Boolean(value) => value.fmt(f),
            Self::Number(value) => value.fmt(f),
            Self::Fraction(value) => value.fmt(f),
            Self::Text(value) => write!(f, "{value:?}"),
            Self::List(_) => f.write_str("a list"),
            Self::Fields(_) => f.write_str("a group of fields"),
        }
    }
}

/// The fields of a group that nobody has taken yet.
pub(crate) struct Fields {
    pub(crate) path: String,
    fields: Vec<(String, Node)>,
}

impl Fields {
    /// A field with its path. One that holds nothing is as one that is not there.
    pub(crate) fn take(&mut self, name: &str) -> Option<(String, Node)> {
        let position = self.fields.iter().position(|(field, _)| field == name)?;
        match self.fields.swap_remove(position) {
            (_, Node::Null) => None,
            (_, node) => Some((below(&self.path, name), node)),
        }
    }

    /// A field that must be there.
    pub(crate) fn required(&mut self, reader: &mut Reader, name: &str) -> Option<(String, Node)> {
        let field = self.take(name);
        if field.is_none() {
            reader.refuse(self.path.clone(), format!("needs the field {name}"));
        }
        field
    }
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Reads nodes as what they should be, and keeps the mistakes.
#[derive(Default)]
pub(crate) struct Reader {
    pub(crate) mistakes: Vec<Mistake>,
    /// Of the service that is read, where its key can be read.
    pub(crate) family: Option<AddressFamily>,
}

impl Reader {
    pub(crate) fn refuse(&mut self, path: String, message: impl Into<String>) {
        self.mistakes.push(Mistake::new(Place::Field(path), message));
    }

    /// A group of fields, each of which is known and there once.
    pub(crate) fn fields(&mut self, path: String, node: Node, known: &[&str]) -> Option<Fields> {
        self.fields_of_listing(path, node, known, &[])
    }

    /// The same, with what a listing has beside settings.
    pub(crate) fn fields_of_listing(
        &mut self,
        path: String,
        node: Node,
        known: &[&str],
        listed: &[&str],
    ) -> Option<Fields> {
        let Node::Fields(all) = node else {
            self.refuse(path, format!("{node} must be a group of fields: {}", known.join(", ")));
            return None;
        };
        let mut fields = Vec::<(String, Node)>::with_capacity(all.len());
        for (name, node) in all {
            if ![known, listed].iter().any(|names| names.contains(&name.as_str())) {
                let known = known.join(", ");
                let message = format!("there is no such field here; there are {known}");
                self.refuse(below(&path, &name), message);
            } else if fields.iter().any(|(other, _)| *other == name) {
                self.refuse(below(&path, &name), "is there twice");
            } else {
                fields.push((name, node));
            }
        }
        Some(Fields { path, fields })
    }

    /// The elements of a list with their paths; none if it is no list.
    pub(crate) fn list(&mut self, (path, node): (String, Node)) -> Vec<(String, Node)> {
        match node {
            Node::List(list) => {
                let numbered = list.into_iter().enumerate();
                numbered.map(|(index, node)| (format!("{path}[{index}]"), node)).collect()
            }
            other => {
                self.refuse(path, format!("{other} must be a list"));
                Vec::new()
            }
        }
    }

    pub(crate) fn boolean(&mut self, (path, node): (String, Node)) -> Option<bool> {
        match node {
            Node::Boolean(value) => Some(value),
            other => {
                self.refuse(path, format!("{other} must be true or false"));
                None
            }
        }
    }

    pub(crate) fn number(
        &mut self,
        (path, node): (String, Node),
        least: u32,
        most: u32,
    ) -> Option<u32> {
        let number = match node {
            Node::Number(number) => u32::try_from(number).ok(),
            _ => None,
        };
        let number = number.filter(|number| (least..=most).contains(number));
        if number.is_none() {
            self.refuse(path, format!("{node} must be a number from {least} to {most}"));
        }
        number
    }

    /// Text that is read further.
    pub(crate) fn text<T, E: fmt::Display>(
        &mut self,
        (path, node): (String, Node),
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let message = match &node {
            Node::Text(text) => match read(text) {
                Ok(value) => return Some(value),
                Err(error) => {
                    let error = error.to_string();
                    // What reads values names them, with what they are.
                    if error.contains(&format!("{text:?}")) {
                        error
                    } else {
                        format!("{node} {error}")
                    }
                }
            },
            Node::List(_) | Node::Fields(_) => {
                format!("{node} must be text; in YAML, brackets at its beginning need quotes")
            }
            _ => format!("{node} must be text"),
        };
        self.refuse(path, message);
        None
    }

    /// Text or a number that is read as its text.
    pub(crate) fn text_or_number<T, E: fmt::Display>(
        &mut self,
        (path, node): (String, Node),
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let node = match node {
            Node::Number(number) => Node::Text(number.to_string()),
            other => other,
        };
        self.text((path, node), read)
    }

    /// A word, or a number up to a limit.
    pub(crate) fn word_or_number<T, E: fmt::Display>(
        &mut self,
        (path, node): (String, Node),
        most: u32,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        if let Node::Number(number) = node {
            if !(0..=i128::from(most)).contains(&number) {
                self.refuse(path, format!("{number} must be a word or a number from 0 to {most}"));
                return None;
            }
        }
        self.text_or_number((path, node), read)
    }
}
