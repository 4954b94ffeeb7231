//! The files of a directory of manifests: which there are, and what they hold.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use inotify::{EventStream, Inotify, WatchMask};

use super::{Key, SETTLED, Stamp};
use crate::{
    manifest::{self, Object},
    source::advice::{advice, of_endpoints},
    state::Event,
};

pub(super) fn watch(path: &Path) -> io::Result<EventStream<Vec<u8>>> {
    let inotify = Inotify::init()?;
    let mask = WatchMask::CLOSE_WRITE
        | WatchMask::MOVE
        | WatchMask::CREATE
        | WatchMask::DELETE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR;
    inotify.watches().add(path, mask)?;
    inotify.into_event_stream(vec![0; 4096])
}

pub(super) fn manifests(directory: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut paths = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if is_manifest(&path) {
            paths.insert(path);
        }
    }
    Ok(paths)
}

pub(super) fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let ends_so = path.extension().and_then(OsStr::to_str);
    !hidden && matches!(ends_so, Some("yaml" | "yml" | "json"))
}

pub(super) fn is_in_config_map(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".."))
}

/// What is in a file, and what is to be said of it.
pub(super) struct Content {
    pub(super) objects: Vec<Object>,
    pub(super) notices: Vec<String>,
}

/// What a file holds, and what is to be said of it; `None` if it is gone.
pub(super) fn read_file(path: &Path) -> Result<Option<Content>, String> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let found = manifest::manifests(&text).map_err(|error| error.to_string())?;
    let notices = found.objects.iter().flat_map(advice);
    let notices = notices.chain(found.endpoints.iter().map(of_endpoints)).collect();
    Ok(Some(Content { objects: found.objects, notices }))
}

pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.len(), metadata.modified().ok()?))
}

pub(super) fn is_settled((_, _, modified): Stamp) -> bool {
    // A clock that was set back must not keep a file out for ever.
    modified.elapsed().map_or(true, |age| age >= SETTLED)
}

pub(super) fn key(object: &Object) -> Key {
    match object {
        Object::Service(service) => Key::Service(service.metadata.object_name()),
        Object::Slice(slice) => Key::Slice(slice.metadata.object_name()),
        Object::Node(node) => Key::Node(node.metadata.name.clone()),
    }
}

pub(super) fn event(object: Object) -> Event {
    match object {
        Object::Service(service) => Event::Service(service),
        Object::Slice(slice) => Event::Slice(slice),
        Object::Node(node) => Event::Node(node),
    }
}

/// The objects that are new or have changed as lists. Nodes, of which there is none, come before.
pub(super) fn listed(events: impl Iterator<Item = Event>) -> Vec<Event> {
    let (mut services, mut slices, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for event in events {
        match event {
            Event::Service(service) => services.push(service),
            Event::Slice(slice) => slices.push(slice),
            Event::ServiceGone(_) | Event::SliceGone(_) => {}
            other => others.push(other),
        }
    }
    others.extend([Event::Services(services), Event::Slices(slices)]);
    others
}

pub(super) fn describe(object: &Object) -> String {
    match object {
        Object::Service(service) => format!("service {}", service.metadata.object_name()),
        Object::Slice(slice) => format!("endpoint slice {}", slice.metadata.object_name()),
        Object::Node(node) => format!("node {}", node.metadata.name),
    }
}
