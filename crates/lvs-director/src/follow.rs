//! Follows one file: says when it may have changed.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use futures_util::StreamExt as _;
use inotify::{EventMask, EventStream, Inotify, WatchMask};
use tokio::time::{sleep, timeout};

/// How often the file is looked at, whatever the kernel says of it: it does not see what another machine
/// writes to a shared file system, nor behind a symbolic link.
const LOOK: Duration = Duration::from_secs(10);
/// A change counts when nothing more came for so long.
const GATHER: Duration = Duration::from_millis(50);

/// By what a changed file is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp(u64, u64, Option<SystemTime>);

/// Watches the directory of a file: editors write another file and rename it.
pub(crate) struct Follow {
    path: PathBuf,
    directory: PathBuf,
    name: OsString,
    watch: Option<EventStream<Vec<u8>>>,
    stamp: Option<Stamp>,
}

impl Follow {
    pub(crate) fn new(path: &Path) -> Self {
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let name = path.file_name().unwrap_or_default().to_owned();
        let mut follow =
            Self { path: path.to_owned(), directory, name, watch: None, stamp: stamp(path) };
        follow.watch();
        follow
    }

    fn watch(&mut self) {
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::MOVED_TO
            | WatchMask::CREATE
            | WatchMask::ATTRIB
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF;
        self.watch = Inotify::init().ok().and_then(|inotify| {
            inotify.watches().add(&self.directory, mask).ok()?;
            inotify.into_event_stream(vec![0; 4096]).ok()
        });
    }

    /// Returns when the file is another one than before. It can be dropped at any moment.
    pub(crate) async fn changed(&mut self) {
        loop {
            self.event().await;
            let now = stamp(&self.path);
            if now != self.stamp {
                self.stamp = now;
                return;
            }
        }
    }

    /// Waits until something happened to the file, or for the next look.
    async fn event(&mut self) {
        let Some(watch) = &mut self.watch else {
            sleep(LOOK.min(Duration::from_secs(1))).await;
            self.watch();
            return;
        };
        let mut is_over = false;
        let mut wait = LOOK;
        let mut concerned = false;
        while let Ok(event) = timeout(wait, watch.next()).await {
            let Some(Ok(event)) = event else {
                is_over = true;
                break;
            };
            let gone = EventMask::IGNORED | EventMask::DELETE_SELF | EventMask::MOVE_SELF;
            is_over |= event.mask.intersects(gone);
            // In a directory of which a ConfigMap is mounted, the link `..data` is what changes.
            let is_it = event.name.as_ref().is_none_or(|name| *name == self.name)
                || event.name.as_ref().is_some_and(|name| name.to_string_lossy().starts_with(".."));
            if is_it || event.mask.contains(EventMask::Q_OVERFLOW) {
                concerned = true;
            }
            if concerned {
                wait = GATHER;
            }
            if is_over {
                break;
            }
        }
        if is_over {
            self.watch = None;
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).ok()?;
    Some(Stamp(metadata.ino(), metadata.len(), metadata.modified().ok()))
}
