//! What is said of a Service.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::object::ObjectName;

/// Notices of one service: each kind once, with an example, however many there are.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) single: Vec<String>,
    counted: BTreeMap<&'static str, (String, BTreeSet<String>)>,
}

impl Notes {
    pub(super) fn add(&mut self, kind: &'static str, what: impl fmt::Display) {
        let what = what.to_string();
        let (example, all) = self.counted.entry(kind).or_default();
        if all.is_empty() || what < *example {
            example.clone_from(&what);
        }
        all.insert(what);
    }

    pub(super) fn into_texts(self, service: &ObjectName) -> Vec<String> {
        let counted = self.counted.into_iter().map(|(kind, (example, all))| match all.len() {
            1 => format!("{example} {kind}"),
            count => format!("{example} {kind} (and {} more like it)", count - 1),
        });
        let texts = self.single.into_iter().chain(counted);
        texts.map(|text| format!("service {service}: {text}")).collect()
    }
}
