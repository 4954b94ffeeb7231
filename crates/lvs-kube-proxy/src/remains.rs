//! What a clean-up has to know of the runs before it, beside the ledger: the service ranges in which
//! everything is the proxy's, and the settings that it has changed. A file in the state directory.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use ipnet::IpNet;

use crate::config::Ownership;

/// How the file begins; the version and the boot follow.
const HEAD: &str = "lvs-kube-proxy remains";
const VERSION: u32 = 1;

/// What earlier runs leave, besides what is in the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Remains {
    pub(crate) ranges: Vec<IpNet>,
    pub(crate) excluded: Vec<IpNet>,
    /// The settings that were changed in this boot: what they were, and what they became.
    pub(crate) settings: BTreeMap<String, (String, String)>,
}

impl Remains {
    /// What a file says; `None` if there is none.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub(crate) fn read(path: &Path, boot: &str) -> io::Result<Option<Self>> {
        match fs::read_to_string(path) {
            Ok(text) => Ok(Self::parse(&text, boot)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                Err(io::Error::new(error.kind(), format!("read {}: {error}", path.display())))
            }
        }
    }

    /// Lines that are not known are of a later version.
    fn parse(text: &str, boot: &str) -> Option<Self> {
        let mut lines = text.lines();
        let (_, found) = lines.next()?.strip_prefix(HEAD)?.split_once(" boot ")?;
        let mut remains = Self::default();
        for line in lines {
            let words: Vec<&str> = line.split('\t').collect();
            match words[..] {
                ["range", range] => remains.ranges.extend(range.parse::<IpNet>().ok()),
                ["excluded", range] => remains.excluded.extend(range.parse::<IpNet>().ok()),
                // The machine has begun anew with its own.
                ["setting", name, before, after] if found == boot => {
                    let values = (before.to_owned(), after.to_owned());
                    remains.settings.insert(name.to_owned(), values);
                }
                _ => {}
            }
        }
        Some(remains)
    }

    /// The file's text.
    fn text(&self, boot: &str) -> String {
        let mut text = format!("{HEAD} {VERSION} boot {boot}\n");
        for (word, ranges) in [("range", &self.ranges), ("excluded", &self.excluded)] {
            for range in ranges {
                let _ = writeln!(text, "{word}\t{range}");
            }
        }
        for (name, (before, after)) in &self.settings {
            let _ = writeln!(text, "setting\t{name}\t{before}\t{after}");
        }
        text
    }

    pub(crate) fn store(&self, path: &Path, boot: &str) -> io::Result<()> {
        let new: PathBuf = path.with_extension("new");
        let stored = fs::write(&new, self.text(boot)).and_then(|()| fs::rename(&new, path));
        stored.map_err(|error| {
            io::Error::new(error.kind(), format!("write {}: {error}", path.display()))
        })
    }

    /// Takes in what a run begins with. Ranges of earlier runs are still the proxy's.
    pub(crate) fn begin(&mut self, ownership: &Ownership) {
        for range in &ownership.ranges {
            if !self.ranges.contains(range) {
                self.ranges.push(*range);
            }
        }
        self.excluded.clone_from(&ownership.excluded);
    }

    /// Takes in a setting that was changed; what it was before the first change counts.
    pub(crate) fn changed(&mut self, name: String, before: String, after: String) {
        let (_, now) = self.settings.entry(name).or_insert_with(|| (before, after.clone()));
        *now = after;
    }

    /// What belongs to this run and to those before it.
    pub(crate) fn owned(&self, ownership: &Ownership) -> Ownership {
        let mut all = self.clone();
        let excluded = match ownership.excluded.is_empty() {
            true => all.excluded.clone(),
            false => ownership.excluded.clone(),
        };
        all.begin(ownership);
        Ownership { ranges: all.ranges, excluded, ..ownership.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_is_read() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("remains");
        assert_eq!(Remains::read(&path, "b1").unwrap(), None);
        let ownership = |range: &str, excluded: &[&str]| Ownership {
            ledger: None,
            ranges: vec![range.parse().unwrap()],
            excluded: excluded.iter().map(|text| text.parse().unwrap()).collect(),
            has_routes: true,
            may_route: true,
            routes_without_rules: false,
        };
        let mut remains = Remains::default();
        remains.begin(&ownership("10.96.0.0/12", &["10.96.9.0/24"]));
        remains.begin(&ownership("fd96::/64", &["10.96.9.0/24"]));
        remains.changed(
            "net.ipv4.vs.sync_threshold".into(),
            "3\t50".replace('\t', " "),
            "1 2".into(),
        );
        remains.changed("net.ipv4.ip_forward".into(), "0".into(), "1".into());
        remains.changed("net.ipv4.ip_forward".into(), "2".into(), "1".into());
        remains.store(&path, "b1").unwrap();
        assert_eq!(Remains::read(&path, "b1").unwrap(), Some(remains.clone()));
        assert_eq!(remains.settings["net.ipv4.ip_forward"], ("0".to_owned(), "1".to_owned()));
        // After a boot the settings are the machine's own, and the ranges still ours.
        let later = Remains::read(&path, "b2").unwrap().unwrap();
        assert!(later.settings.is_empty() && later.ranges == remains.ranges);
        let owned = later.owned(&ownership("10.0.0.0/16", &[]));
        assert_eq!((owned.ranges.len(), owned.excluded.len()), (3, 1));
        // Lines of a later version cost nothing.
        let text = fs::read_to_string(&path).unwrap().replace(" 1 boot", " 2 boot") + "more\tx\n";
        fs::write(&path, text).unwrap();
        assert_eq!(Remains::read(&path, "b1").unwrap(), Some(remains));
        fs::write(&path, "nonsense").unwrap();
        assert_eq!(Remains::read(&path, "b1").unwrap(), None);
    }
}
