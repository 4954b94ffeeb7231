//! Manifests in a directory, followed.

mod files;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt, StreamExt};
use inotify::{EventMask, EventOwned, EventStream};
use tokio::time::{Instant, sleep, sleep_until};

use self::files::{
    Content, describe, event, is_in_config_map, is_manifest, is_settled, key, listed, manifests,
    read_file, stamp, watch,
};
use super::Events;
use crate::{
    manifest::Object,
    object::{EndpointSlice, Metadata, Node, OWNER, ObjectName},
    state::Event,
};

/// So many notices of manifests are logged at once.
const NOTICES: usize = 20;

/// How often the directory is looked through, whatever the kernel says of it: it does not see what
/// other machines write to a shared file system.
const LOOK: Duration = Duration::from_secs(30);
/// How often a directory is looked for that is not there or cannot be watched.
const RETRY: Duration = Duration::from_secs(1);
/// How long the writing of several files may take until the first one counts.
const GATHER: Duration = Duration::from_millis(20);
/// A file that was changed so recently may be half-written, unless the kernel says that it was
/// closed.
const SETTLED: Duration = Duration::from_secs(1);

/// Manifests in a directory: files that end in `.yaml`, `.yml` or `.json`, watched. Needs no API
/// server. Subdirectories and names that begin with a dot are left out.
///
/// A file counts when its writer has closed it, or has moved it here; a directory of which a
/// ConfigMap is mounted is right, too. Whoever writes a file of many objects in place risks that the
/// proxy reads half of it: moving a finished file here does not.
///
/// A file that cannot be read is logged, and what it last held goes on to count. While there is such
/// a file at the start, there is no list of all objects, and nothing is written to the kernel.
pub struct Directory {
    path: PathBuf,
    watch: Option<EventStream<Vec<u8>>>,
    /// What the kernel has named and was not read yet.
    changed: BTreeSet<PathBuf>,
    files: BTreeMap<Arc<Path>, File>,
    /// Which files hold an object. Of several, the last one in order of the names counts.
    places: BTreeSet<(Key, Arc<Path>)>,
    is_listed: bool,
    relist: bool,
    next_look: Instant,
    /// When to try to make lists, if they are wanted.
    next_list: Instant,
    /// The files that could not be read when lists were last wanted, so that it is logged once.
    unread: Vec<String>,
    /// The names of services' ports, where there are any but the empty one.
    port_names: BTreeMap<ObjectName, Box<[String]>>,
    /// What is to be said of manifests.
    notices: Vec<String>,
    #[cfg(test)]
    said: Vec<String>,
    /// The last failure to look through the directory, so that it is logged once.
    failure: Option<String>,
}

#[derive(Debug, Default)]
struct File {
    stamp: Option<Stamp>,
    /// What is in it, in order.
    keys: Box<[Key]>,
    /// Whether it could be read the last time, or why not.
    is_good: bool,
    reason: Option<Box<str>>,
}

/// By what a changed file is known.
type Stamp = (u64, u64, SystemTime);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Service(ObjectName),
    Slice(ObjectName),
    Node(String),
}

impl Directory {
    /// Watches a directory.
    ///
    /// # Errors
    ///
    /// It is not there, is not a directory or cannot be watched.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, DirectoryError> {
        let path = path.into();
        let error = |source| DirectoryError { path: path.clone(), source };
        fs::read_dir(&path).map_err(error)?;
        let watch = watch(&path).map_err(error)?;
        Ok(Self {
            path,
            watch: Some(watch),
            changed: BTreeSet::new(),
            files: BTreeMap::new(),
            places: BTreeSet::new(),
            is_listed: false,
            relist: true,
            next_look: Instant::now(),
            next_list: Instant::now(),
            unread: Vec::new(),
            port_names: BTreeMap::new(),
            notices: Vec::new(),
            #[cfg(test)]
            said: Vec::new(),
            failure: None,
        })
    }

    /// Looks through the whole directory.
    fn look(&mut self, events: &mut Vec<Event>) {
        if self.watch.is_none() {
            self.watch = watch(&self.path).ok();
        }
        let paths = match manifests(&self.path) {
            Ok(paths) => paths,
            Err(source) => return self.fail(source),
        };
        let is_watched = self.watch.is_some();
        self.next_look = Instant::now() + if is_watched { LOOK } else { RETRY };
        self.failure = None;
        let gone: Vec<_> =
            self.files.keys().filter(|path| !paths.contains(&***path)).cloned().collect();
        let (mut changed, mut all_settled) = (BTreeMap::new(), true);
        for path in paths {
            let before = self.files.get(&*path).and_then(|file| file.stamp);
            let stamp = stamp(&path);
            if stamp == before {
                continue;
            }
            if self.is_listed && !stamp.is_none_or(is_settled) {
                all_settled = false;
                continue;
            }
            changed.insert(path.into(), stamp);
        }
        if !all_settled {
            self.next_look = Instant::now() + SETTLED;
        }
        changed.extend(gone.into_iter().map(|path| (path, None)));
        self.read(changed, events);
    }

    fn fail(&mut self, source: io::Error) {
        self.watch = None;
        self.next_look = Instant::now() + RETRY;
        let error = DirectoryError { path: self.path.clone(), source }.to_string();
        if self.failure.as_ref() != Some(&error) {
            tracing::error!("{error}; what it held last goes on to count");
            self.failure = Some(error);
        }
    }

    /// Reads files that are new, have changed or are gone, and what else holds an object that one of
    /// them no longer has. Each comes with its stamp.
    fn read(&mut self, mut waiting: BTreeMap<Arc<Path>, Option<Stamp>>, events: &mut Vec<Event>) {
        let mut slices = Vec::new();
        while let Some((path, stamp)) = waiting.pop_first() {
            let objects = match read_file(&path) {
                Ok(objects) => objects,
                Err(reason) => {
                    let file = self.files.entry(path.clone()).or_default();
                    // Once for each state of the file.
                    if file.stamp != stamp || stamp.is_none() {
                        let path = path.display();
                        tracing::error!("{path}: {reason}; what it held last goes on to count");
                    }
                    file.stamp = stamp;
                    file.is_good = false;
                    file.reason = Some(reason.into());
                    continue;
                }
            };
            let Some(Content { objects, notices }) = objects else {
                let before = self.files.remove(&path).map(|file| file.keys).unwrap_or_default();
                self.withdraw(&path, &before, &mut waiting, events);
                continue;
            };
            self.notices.extend(notices);
            let mut keys: Vec<_> = objects.iter().map(key).collect();
            keys.sort();
            keys.dedup();
            let before = self.files.get_mut(&path).map(|file| std::mem::take(&mut file.keys));
            let mut gone = before.unwrap_or_default().into_vec();
            gone.retain(|key| keys.binary_search(key).is_err());
            self.withdraw(&path, &gone, &mut waiting, events);
            let file = File { stamp, keys: keys.into(), is_good: true, reason: None };
            self.files.insert(path.clone(), file);
            for object in objects {
                match &object {
                    Object::Service(service) => {
                        let names = service.spec.ports.iter().map(|port| port.name.clone());
                        self.port_names.insert(service.metadata.object_name(), names.collect());
                    }
                    Object::Slice(slice) => slices.push(port_names(slice)),
                    Object::Node(_) => {}
                }
                let place = (key(&object), path.clone());
                let is_new = !self.places.contains(&place);
                self.places.insert(place.clone());
                if is_new && self.places_of(&place.0).nth(1).is_some() {
                    let others = self.places_of(&place.0).map(|path| path.display().to_string());
                    let others = others.collect::<Vec<_>>().join(", ");
                    let name = describe(&object);
                    tracing::warn!("{name} is in several files; the last one counts: {others}");
                }
                if self.places_of(&place.0).last() == Some(&path) {
                    events.push(event(object));
                }
            }
        }
        self.compare_ports(slices);
        self.say();
    }

    /// Notes slices of which no port is called as one of their service is.
    fn compare_ports(&mut self, slices: Vec<(ObjectName, ObjectName, Vec<String>)>) {
        for (slice, service, ports) in slices {
            let Some(names) = self.port_names.get(&service) else { continue };
            if !ports.is_empty() && !ports.iter().any(|port| names.contains(port)) {
                let quoted = |names: &[String]| {
                    let names = names.iter().map(|name| format!("{name:?}"));
                    names.collect::<Vec<_>>().join(", ")
                };
                self.notices.push(format!(
                    "endpoint slice {slice}: no port of it has the name of a port of service {service}, so it is \
                     not used: {} and {}",
                    quoted(&ports),
                    quoted(names)
                ));
            }
        }
    }

    fn say(&mut self) {
        let notices = std::mem::take(&mut self.notices);
        for notice in notices.iter().take(NOTICES) {
            tracing::warn!("{notice}");
        }
        if let Some(more @ 1..) = notices.len().checked_sub(NOTICES) {
            tracing::warn!("{more} more such notices of manifests");
        }
        #[cfg(test)]
        self.said.extend(notices);
    }

    /// What was said of manifests.
    #[cfg(test)]
    pub(crate) fn said(&self) -> &[String] {
        &self.said
    }

    /// Takes in that a file no longer holds some objects.
    fn withdraw(
        &mut self,
        path: &Arc<Path>,
        keys: &[Key],
        waiting: &mut BTreeMap<Arc<Path>, Option<Stamp>>,
        events: &mut Vec<Event>,
    ) {
        for key in keys {
            if !self.places.remove(&(key.clone(), path.clone())) {
                continue;
            }
            if let Some(other) = self.places_of(key).last() {
                waiting.insert(other.clone(), stamp(other));
                continue;
            }
            match key {
                Key::Service(name) => {
                    self.port_names.remove(name);
                    events.push(Event::ServiceGone(name.clone()));
                }
                Key::Slice(name) => events.push(Event::SliceGone(name.clone())),
                // A node without its object is still there, but nothing is known of it.
                Key::Node(name) => events.push(Event::Node(Node {
                    metadata: Metadata { name: name.clone(), ..Metadata::default() },
                    ..Node::default()
                })),
            }
        }
    }

    /// The files that hold an object.
    fn places_of(&self, key: &Key) -> impl Iterator<Item = &Arc<Path>> {
        let first = (key.clone(), Path::new("").into());
        let places = self.places.range(first..);
        places.take_while(move |(found, _)| found == key).map(|(_, path)| path)
    }

    /// What all files hold together, read anew; `None` while a file cannot be read or is being changed.
    fn lists(&mut self) -> Option<Vec<Event>> {
        if !self.is_good() {
            return None;
        }
        let mut objects = BTreeMap::new();
        let paths = manifests(&self.path).ok()?;
        if paths.len() != self.files.len() {
            return None;
        }
        for (path, file) in &self.files {
            let found = read_file(path).ok()??.objects;
            // Others than those that are known are about to be read.
            if stamp(path) != file.stamp {
                return None;
            }
            // Of an object in several files, the last one counts.
            objects.extend(found.into_iter().map(|object| (key(&object), object)));
        }
        Some(listed(objects.into_values().map(event)))
    }

    /// Whether the directory and every file in it could be read. What could not is said once.
    fn is_good(&mut self) -> bool {
        let unread = self.files.iter().filter(|(_, file)| !file.is_good);
        let unread: Vec<_> = unread.map(|(path, _)| path.display().to_string()).collect();
        if self.unread != unread {
            if !unread.is_empty() {
                let what = if self.is_listed { "deleted" } else { "written" };
                tracing::warn!("nothing is {what} before these can be read: {}", unread.join(", "));
            }
            self.unread.clone_from(&unread);
        }
        unread.is_empty() && self.failure.is_none()
    }

    /// Waits until the kernel says that files have changed, or until it is time to look through the
    /// whole directory.
    async fn wait(&mut self) {
        if self.changed.is_empty() {
            let next = match self.relist {
                true => self.next_look.min(self.next_list),
                false => self.next_look,
            };
            let Some(watch) = &mut self.watch else { return sleep_until(next).await };
            tokio::select! {
                () = sleep_until(next) => return,
                event = watch.next() => self.note(event),
            }
        }
        sleep(GATHER).await;
        while let Some(event) = self.watch.as_mut().and_then(|watch| watch.next().now_or_never()) {
            self.note(event);
        }
    }

    /// Takes in what the kernel says.
    fn note(&mut self, event: Option<io::Result<EventOwned>>) {
        let Some(Ok(event)) = event else {
            self.watch = None;
            self.next_look = Instant::now();
            return;
        };
        match event.name.map(|name| self.path.join(name)) {
            Some(path) if is_manifest(&path) => {
                // A new file is there before anything is in it; a link is whole.
                if !event.mask.contains(EventMask::CREATE) || path.is_symlink() {
                    self.changed.insert(path);
                }
            }
            // By `..data` the files of a ConfigMap are replaced, all at once.
            Some(path) if !is_in_config_map(&path) => {}
            _ => self.next_look = Instant::now(),
        }
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Events for Directory {
    async fn next(&mut self) -> Vec<Event> {
        loop {
            let mut events = Vec::new();
            if self.next_look <= Instant::now() {
                let is_first = self.files.is_empty();
                self.look(&mut events);
                if self.relist && is_first && self.is_good() {
                    // Everything was read only now.
                    self.relist = false;
                    self.is_listed = true;
                    return listed(events.into_iter());
                }
            }
            if self.relist && self.next_list <= Instant::now() {
                if let Some(lists) = self.lists() {
                    self.relist = false;
                    self.is_listed = true;
                    return lists;
                }
                self.next_list = Instant::now() + RETRY;
            }
            // Before the first lists, files are read to know which of them can be.
            if self.is_listed && !events.is_empty() {
                return events;
            }
            self.wait().await;
            let changed = std::mem::take(&mut self.changed);
            let stamped = |path: PathBuf| {
                let stamp = stamp(&path);
                (path.into(), stamp)
            };
            self.read(changed.into_iter().map(stamped).collect(), &mut events);
            if self.is_listed && !events.is_empty() {
                return events;
            }
        }
    }

    fn is_stuck(&self) -> Option<String> {
        let (path, file) = self.files.iter().find(|(_, file)| !file.is_good)?;
        let reason = file.reason.as_deref().unwrap_or("it cannot be read");
        Some(format!("{}: {reason}", path.display()))
    }

    fn relist(&mut self) {
        self.relist = true;
        self.next_list = Instant::now();
    }
}

/// A directory of manifests that cannot be read or watched.
#[derive(Debug)]
pub struct DirectoryError {
    path: PathBuf,
    source: io::Error,
}

impl fmt::Display for DirectoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "read the directory of manifests {}: {}", self.path.display(), self.source)
    }
}

impl std::error::Error for DirectoryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// A slice, its service, and the names of its ports.
fn port_names(slice: &EndpointSlice) -> (ObjectName, ObjectName, Vec<String>) {
    let name = slice.metadata.object_name();
    let owner = slice.metadata.labels.get(OWNER).unwrap_or_default();
    let ports = slice.ports.iter().map(|port| port.name.clone().unwrap_or_default());
    let service = ObjectName::new(name.namespace.clone(), owner);
    (name, service, ports.collect())
}
