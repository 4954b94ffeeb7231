//! Checks, with what they inherit.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use lvs_health::check::{Check, Pace};
use serde_json::{Map, Value as Json};

use super::{
    Mistake,
    check_language::KINDS,
    tree::{Node, Value},
};

/// More than any chain of names that somebody means.
const DEEPEST: usize = 16;

/// How a server is checked, and when.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CheckSpec {
    /// As the file calls it.
    pub(crate) name: String,
    pub(crate) check: Check,
    pub(crate) pace: Pace,
    pub(crate) rise: u32,
    pub(crate) fall: u32,
}

/// All that a file says of checks.
pub(crate) struct Checks<'a> {
    named: BTreeMap<&'a str, &'a Node>,
    default: Option<&'a Node>,
    /// Those that were made already: a check of a thousand servers is one.
    made: BTreeMap<(u64, u64), Arc<CheckSpec>>,
    /// Kinds that stand for themselves.
    plain: BTreeMap<&'static str, Arc<CheckSpec>>,
}

/// A check's own fields, then those of the check that it is like, and so on.
struct Layers<'a>(Vec<&'a Node>);

impl<'a> Layers<'a> {
    fn get(&self, name: &str) -> Option<&'a Node> {
        self.0.iter().find_map(|layer| layer.get(name))
    }

    /// The kind, with the fields of all layers of that kind.
    fn kind(&self) -> Option<(&'static str, Map<String, Json>)> {
        let of = |layer: &&'a Node| KINDS.iter().find(|(name, _)| layer.get(name).is_some());
        let (name, _) = self.0.iter().find_map(of)?;
        let mut fields = Map::new();
        for layer in self.0.iter().filter_map(|layer| layer.get(name)) {
            for (name, value) in layer.entries() {
                fields.entry(name).or_insert_with(|| json(value));
            }
        }
        Some((name, fields))
    }
}

impl<'a> Checks<'a> {
    pub(crate) fn new(file: &'a Node) -> Self {
        let named: BTreeMap<_, _> =
            file.get("checks").map(|node| node.entries().collect()).unwrap_or_default();
        let default = file.get("defaults").and_then(|defaults| defaults.get("check"));
        Self { named, default, made: BTreeMap::new(), plain: BTreeMap::new() }
    }

    /// Looks at the checks that have names, used or not.
    pub(crate) fn named(&mut self, mistakes: &mut Vec<Mistake>) {
        for (name, node) in self.named.clone() {
            self.made(node, name, mistakes);
        }
    }

    /// What a field `check` means.
    pub(crate) fn of(
        &mut self,
        node: &'a Node,
        mistakes: &mut Vec<Mistake>,
    ) -> Vec<Arc<CheckSpec>> {
        if node.text() == Some("none") {
            return Vec::new();
        }
        let mut checks = Vec::new();
        for node in node.each() {
            if let Some(check) = self.one(node, mistakes)
                && !checks.contains(&check)
            {
                checks.push(check);
            }
        }
        checks
    }

    fn one(&mut self, node: &'a Node, mistakes: &mut Vec<Mistake>) -> Option<Arc<CheckSpec>> {
        if node.is_map() {
            return self.made(node, "check", mistakes);
        }
        let name = node.text()?;
        if let Some(named) = self.named.get(name).copied() {
            return self.made(named, name, mistakes);
        }
        let Some((kind, _)) = KINDS.iter().find(|(kind, _)| *kind == name) else {
            let names = self.named.keys().copied().chain(KINDS.iter().map(|(kind, _)| *kind));
            let names: Vec<_> = names.collect();
            let names = names.join(", ");
            mistakes
                .push(Mistake::at(node, format!("there is no check {name:?}; there are {names}")));
            return None;
        };
        if let Some(check) = self.plain.get(kind) {
            return Some(Arc::clone(check));
        }
        match build(kind, Map::new(), &Layers(Vec::new()), kind) {
            Ok(check) => {
                let check = Arc::new(check);
                self.plain.insert(kind, Arc::clone(&check));
                Some(check)
            }
            Err(reason) => {
                mistakes.push(Mistake::at(node, format!("check {kind}: {reason}")));
                None
            }
        }
    }

    fn made(
        &mut self,
        node: &'a Node,
        name: &str,
        mistakes: &mut Vec<Mistake>,
    ) -> Option<Arc<CheckSpec>> {
        let place = (node.place.line, node.place.column);
        if let Some(check) = self.made.get(&place) {
            return Some(Arc::clone(check));
        }
        let layers = self.layers(node, mistakes)?;
        let Some((kind, fields)) = layers.kind() else {
            let kinds: Vec<_> = KINDS.iter().map(|(kind, _)| *kind).collect();
            let text = format!("a check needs a kind: one of {}", kinds.join(", "));
            mistakes.push(Mistake::at(node, text));
            return None;
        };
        match build(kind, fields, &layers, name) {
            Ok(check) => {
                let check = Arc::new(check);
                self.made.insert(place, Arc::clone(&check));
                Some(check)
            }
            Err(reason) => {
                let at = layers.get(kind).unwrap_or(node);
                mistakes.push(Mistake::at(at, format!("check {kind}: {reason}")));
                None
            }
        }
    }

    fn layers(&self, node: &'a Node, mistakes: &mut Vec<Mistake>) -> Option<Layers<'a>> {
        for names in [node].into_iter().chain(node.get("like")) {
            let of: Vec<_> = KINDS.iter().filter(|(kind, _)| names.get(kind).is_some()).collect();
            if let [(one, _), (other, _), ..] = of[..] {
                let text = format!("a check has one kind, not {one} and {other}");
                mistakes.push(Mistake::at(names, text));
                return None;
            }
        }
        let mut layers = vec![node];
        let mut last = node;
        while let Some(like) = last.get("like") {
            let named = like.text().and_then(|name| self.named.get(name).copied());
            let Some(named) = named else {
                mistakes.push(Mistake::at(like, format!("there is no check {}", like.shown())));
                return None;
            };
            if layers.len() > DEEPEST {
                mistakes.push(Mistake::at(like, "checks that are like each other in a ring"));
                return None;
            }
            layers.push(named);
            last = named;
        }
        let layers = Layers(layers);
        if layers.kind().is_some() {
            return Some(layers);
        }
        // Only when it is said what, not when.
        let Some(default) = self.default else { return Some(layers) };
        let named = default.text().and_then(|name| self.named.get(name).copied());
        let default = named.unwrap_or(default);
        if !default.is_map() || std::ptr::eq(default, node) || default.get("like").is_some() {
            return Some(layers);
        }
        Some(Layers(layers.0.into_iter().chain([default]).collect()))
    }
}

fn build(
    kind: &'static str,
    fields: Map<String, Json>,
    layers: &Layers<'_>,
    name: &str,
) -> Result<CheckSpec, String> {
    let has_fields =
        KINDS.iter().any(|(known, object)| *known == kind && !object.fields.is_empty());
    let kind_json = match has_fields {
        true => Json::Object([(kind.to_owned(), Json::Object(fields))].into_iter().collect()),
        false => Json::String(kind.to_owned()),
    };
    let mut check = Map::new();
    check.insert("kind".to_owned(), kind_json);
    for name in ["timeout", "port", "from", "device", "mark", "netns"] {
        if let Some(node) = layers.get(name) {
            check.insert(name.to_owned(), json(node));
        }
    }
    if let Some(to) = layers.get("to").and_then(Node::text) {
        let to = match to.parse::<IpAddr>() {
            Ok(address) => serde_json::json!({ "address": address }),
            Err(_) if matches!(to, "server" | "service") => Json::String(to.to_owned()),
            Err(_) => return Err(format!("to: {to:?} is not server, service or an address")),
        };
        check.insert("to".to_owned(), to);
    }
    let number = |name, default| layers.get(name).and_then(Node::number).unwrap_or(default);
    let mut pace = Map::new();
    for name in ["interval", "interval_down", "jitter"] {
        if let Some(node) = layers.get(name) {
            pace.insert(name.to_owned(), json(node));
        }
    }
    Ok(CheckSpec {
        name: name.to_owned(),
        check: serde_json::from_value(Json::Object(check)).map_err(|error| error.to_string())?,
        pace: serde_json::from_value(Json::Object(pace)).map_err(|error| error.to_string())?,
        rise: number("rise", 2),
        fall: number("fall", 3),
    })
}

fn json(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => (*value).into(),
        Value::Integer(value) => (*value).into(),
        Value::Float(value) => (*value).into(),
        Value::Text(text) => text.clone().into(),
        Value::List(list) => list.iter().map(json).collect(),
        Value::Map(_) => {
            node.entries().map(|(name, value)| (name.to_owned(), json(value))).collect()
        }
    }
}
