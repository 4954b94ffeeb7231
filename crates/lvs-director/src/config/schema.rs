//! The language as JSON Schema, for editors.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{
    language::FILE,
    shape::{Kind, Object},
};

/// The JSON Schema (2020-12) of the file: what editors complete and check. A test holds `schema.json`
/// of this crate to it.
pub fn schema() -> String {
    let mut objects = BTreeMap::new();
    let file = object(&FILE, &mut objects);
    let objects: Map<String, Value> =
        objects.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "lvs-director",
        "$defs": objects,
    });
    if let (Value::Object(schema), Value::Object(file)) = (&mut schema, file) {
        schema.extend(file);
    }
    format!("{schema:#}\n")
}

type Objects = BTreeMap<&'static str, Value>;

fn object(of: &'static Object, objects: &mut Objects) -> Value {
    let properties: Map<String, Value> = of
        .fields
        .iter()
        .map(|field| {
            let mut value = kind(&field.kind, objects);
            if let Value::Object(value) = &mut value {
                value.insert("description".to_owned(), field.help.into());
            }
            (field.name.to_owned(), value)
        })
        .collect();
    let required: Vec<_> =
        of.fields.iter().filter(|field| field.is_required).map(|field| field.name).collect();
    json!({
        "type": "object",
        "description": of.help,
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn kind(of: &'static Kind, objects: &mut Objects) -> Value {
    match of {
        Kind::Text => json!({ "type": "string" }),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Integer(from, to) => json!({ "type": "integer", "minimum": from, "maximum": to }),
        Kind::Scalar => json!({ "type": ["string", "number", "boolean"] }),
        Kind::Duration => json!({ "type": ["string", "number"] }),
        Kind::Address => json!({ "type": "string" }),
        Kind::Addresses | Kind::Endpoint => json!({ "type": "string" }),
        Kind::Ports => json!({ "type": ["integer", "string"] }),
        Kind::Word(words) => json!({ "enum": words }),
        Kind::List(kind_of) => json!({ "type": "array", "items": kind(kind_of, objects) }),
        Kind::OneOrMore(kind_of) => {
            let one = kind(kind_of, objects);
            json!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
        }
        Kind::Map(kind_of) => {
            json!({ "type": "object", "additionalProperties": kind(kind_of, objects) })
        }
        Kind::Object(of) => {
            if !objects.contains_key(of.name) {
                // First, so that one that holds itself ends.
                objects.insert(of.name, Value::Null);
                let value = object(of, objects);
                objects.insert(of.name, value);
            }
            json!({ "$ref": format!("#/$defs/{}", of.name) })
        }
        Kind::Either(kinds) => {
            let kinds: Vec<_> = kinds.iter().map(|of| kind(of, objects)).collect();
            json!({ "anyOf": kinds })
        }
    }
}
