//! Facts about this machine that hold until its next boot.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

/// Lines in a file in the cache. A file that cannot be read or written is no error: its facts are found out
/// again.
pub(super) struct Notes {
    path: PathBuf,
    /// The prefix of each line that is still valid.
    time: String,
}

impl Notes {
    pub(super) fn new(cache: &Path, name: &str) -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        // Containers of one machine may share a cache, but differ in what they may do.
        let container = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let time = format!("{} {}", boot.trim(), container.display());
        Self { path: cache.join(name), time }
    }

    /// The note on a subject.
    pub(super) fn find(&self, subject: &str) -> Option<String> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let start = self.start(subject);
        text.lines().find_map(|line| line.strip_prefix(&start)).map(str::to_owned)
    }

    /// Notes something about a subject, in one line.
    pub(super) fn add(&self, subject: &str, what: &str) {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        // Drops notes from before this boot.
        let is_old = !text.contains(&self.time);
        let file = OpenOptions::new()
            .create(true)
            .append(!is_old)
            .write(true)
            .truncate(is_old)
            .open(&self.path);
        let line = format!("{}{}\n", self.start(subject), what.replace('\n', " "));
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }

    fn start(&self, subject: &str) -> String {
        format!("{}\t{subject}\t", self.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_hold_until_the_machine_is_started_again() {
        let cache = std::env::temp_dir().join(format!("guest-notes-{}", std::process::id()));
        fs::create_dir(&cache).unwrap();
        let notes = Notes::new(&cache, "notes");
        assert_eq!(notes.find("uml"), None);
        notes.add("uml", "it\ncrashed");
        notes.add("uml-testing", "");
        assert_eq!(notes.find("uml").as_deref(), Some("it crashed"));
        assert_eq!(notes.find("uml-testing").as_deref(), Some(""));
        assert_eq!(notes.find("uml-6.1"), None);
        let later = Notes { time: "another".to_owned(), ..Notes::new(&cache, "notes") };
        assert_eq!(later.find("uml"), None);
        later.add("uml", "again");
        assert_eq!((notes.find("uml"), later.find("uml").as_deref()), (None, Some("again")));
        let nowhere = Notes::new(Path::new("/no/such"), "notes");
        nowhere.add("uml", "x");
        assert_eq!(nowhere.find("uml"), None);
        fs::remove_dir_all(&cache).unwrap();
    }
}
