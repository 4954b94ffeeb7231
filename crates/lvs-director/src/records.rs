//! What is stored: what this program has made, which the kernel does not know, and the health of servers.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use lvs::Ledger;

use crate::host::Placed;

/// How the records begin; the version follows.
const HEADER: &str = "lvs-director-records 1";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// No file of this program's is longer.
const LONGEST: u64 = 256 << 20;

/// The directory of the state. Only one process has it at a time.
#[derive(Debug)]
pub(crate) struct StateDirectory {
    path: PathBuf,
    /// Locked while it is open.
    _lock: File,
}

impl StateDirectory {
    /// Makes the directory where it is missing, and locks it. What another boot left is removed: the kernel
    /// has nothing of it any more.
    ///
    /// # Errors
    ///
    /// It cannot be made or written, or another process has it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let said = |doing: &str, path: &Path, error: io::Error| {
            io::Error::new(error.kind(), format!("{doing} {}: {error}", path.display()))
        };
        fs::create_dir_all(path).map_err(|error| said("make", path, error))?;
        let lock_path = path.join("lock");
        let lock = File::create(&lock_path).map_err(|error| said("open", &lock_path, error))?;
        if let Err(error) = lock.try_lock() {
            let text = match error {
                fs::TryLockError::WouldBlock => {
                    format!("{}: another lvs-director uses this directory", path.display())
                }
                fs::TryLockError::Error(error) => format!("lock {}: {error}", lock_path.display()),
            };
            return Err(io::Error::other(text));
        }
        let directory = Self { path: path.to_owned(), _lock: lock };
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
        if directory.read("boot")?.is_none_or(|of| of != boot) {
            for name in ["ledger", "records", "health"] {
                directory.remove(name)?;
            }
            directory.write("boot", &boot)?;
        }
        Ok(directory)
    }

    fn read(&self, name: &str) -> io::Result<Option<String>> {
        let path = self.path.join(name);
        let said = |error: io::Error| {
            io::Error::new(error.kind(), format!("read {}: {error}", path.display()))
        };
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => {}
            Ok(_) => return Err(said(io::Error::other("it is not a file"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(said(error)),
        }
        let mut bytes = Vec::new();
        File::open(&path).and_then(|it| it.take(LONGEST).read_to_end(&mut bytes)).map_err(said)?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Writes a file such that it is there after a crash, and never half.
    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let (path, new) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|error| {
            io::Error::new(error.kind(), format!("write {}: {error}", path.display()))
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Puts a file aside that cannot be used.
    fn put_aside(&self, name: &str, why: &str) -> io::Result<()> {
        let (path, bad) = (self.path.join(name), self.path.join(format!("{name}.bad")));
        tracing::error!("{}: {why}; moved to {}", path.display(), bad.display());
        fs::rename(&path, &bad)
    }
}

/// What this program has made, and where it is stored, if it is.
#[derive(Debug, Default)]
pub(crate) struct Records {
    directory: Option<StateDirectory>,
    addresses: BTreeSet<Placed>,
    daemons: BTreeSet<u32>,
    /// As it is stored.
    stored: String,
}

impl Records {
    /// Reads what is stored. What cannot be read is put aside: what it named stays in the kernel.
    pub(crate) fn open(directory: Option<StateDirectory>) -> io::Result<Self> {
        let mut records = Self { directory, ..Self::default() };
        let Some(directory) = &records.directory else { return Ok(records) };
        if let Some(text) = directory.read("records")? {
            match parse(&text) {
                Some((addresses, daemons)) => {
                    (records.addresses, records.daemons) = (addresses, daemons);
                    records.stored = text;
                }
                None => directory.put_aside("records", "these are no records, or half")?,
            }
        }
        Ok(records)
    }

    pub(crate) fn addresses(&self) -> &BTreeSet<Placed> {
        &self.addresses
    }

    pub(crate) fn own(&mut self, addresses: &[Placed]) {
        self.addresses.extend(addresses.iter().cloned());
    }

    pub(crate) fn disown(&mut self, addresses: &[Placed]) {
        for address in addresses {
            self.addresses.remove(address);
        }
    }

    /// The numbers of the roles of sync daemons that this program started.
    pub(crate) fn daemons(&self) -> &BTreeSet<u32> {
        &self.daemons
    }

    pub(crate) fn own_daemon(&mut self, role: u32) {
        self.daemons.insert(role);
    }

    pub(crate) fn disown_daemon(&mut self, role: u32) {
        self.daemons.remove(&role);
    }

    /// Stores them, if they are others than those that are stored.
    pub(crate) fn store(&mut self) -> io::Result<()> {
        let text = self.text();
        if text == self.stored {
            return Ok(());
        }
        if let Some(directory) = &self.directory {
            directory.write("records", &text)?;
        }
        self.stored = text;
        Ok(())
    }

    fn text(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for (link, address) in &self.addresses {
            let _ = writeln!(text, "address {address} {link}");
        }
        for role in &self.daemons {
            let _ = writeln!(text, "daemon {role}");
        }
        let _ = writeln!(text, "end {}", self.addresses.len() + self.daemons.len());
        text
    }

    /// The services that this program has made.
    pub(crate) fn ledger(&self) -> io::Result<Ledger> {
        let Some(directory) = &self.directory else { return Ok(Ledger::new()) };
        let Some(text) = directory.read("ledger")? else { return Ok(Ledger::new()) };
        match text.parse() {
            Ok(ledger) => Ok(ledger),
            Err(error) => {
                let error: lvs::LedgerError = error;
                directory.put_aside("ledger", &error.to_string())?;
                Ok(Ledger::new())
            }
        }
    }

    pub(crate) fn store_ledger(&self, ledger: &Ledger) -> io::Result<()> {
        match &self.directory {
            Some(directory) => directory.write("ledger", &ledger.to_string()),
            None => Ok(()),
        }
    }

    /// What was known of servers.
    pub(crate) fn health(&self) -> io::Result<String> {
        let text = self.directory.as_ref().map(|it| it.read("health")).transpose()?;
        Ok(text.flatten().unwrap_or_default())
    }

    pub(crate) fn store_health(&self, text: &str) -> io::Result<()> {
        match &self.directory {
            Some(directory) => directory.write("health", text),
            None => Ok(()),
        }
    }
}

fn parse(text: &str) -> Option<(BTreeSet<Placed>, BTreeSet<u32>)> {
    let mut lines = text.lines();
    lines.next().filter(|line| *line == HEADER)?;
    let (mut addresses, mut daemons) = (BTreeSet::new(), BTreeSet::new());
    for line in lines {
        let (word, rest) = line.split_once(' ')?;
        match word {
            "address" => {
                let (address, link) = rest.split_once(' ')?;
                addresses.insert((link.to_owned(), address.parse().ok()?));
            }
            "daemon" => {
                daemons.insert(rest.parse().ok()?);
            }
            "end" => {
                let is_whole = rest.parse() == Ok(addresses.len() + daemons.len());
                return (is_whole && text.ends_with('\n')).then_some((addresses, daemons));
            }
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use super::*;

    fn open(path: &Path) -> Records {
        Records::open(Some(StateDirectory::open(path).unwrap())).unwrap()
    }

    #[test]
    fn records_are_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut records = open(directory.path());
        let placed = ("eth0".to_owned(), "192.0.2.1".parse().unwrap());
        records.own(std::slice::from_ref(&placed));
        records.own_daemon(2);
        records.store().unwrap();
        records.store_ledger(&["-t 192.0.2.1:80".parse().unwrap()].into_iter().collect()).unwrap();
        assert!(StateDirectory::open(directory.path()).is_err(), "it is locked");
        drop(records);
        let mut records = open(directory.path());
        assert_eq!(records.addresses(), &[placed].into());
        assert_eq!(records.daemons(), &[2].into());
        assert_eq!(records.ledger().unwrap().iter().count(), 1);
        records.disown_daemon(2);
        records.store().unwrap();
        drop(records);
        // Another boot has none of it.
        fs::write(directory.path().join("boot"), "another").unwrap();
        let records = open(directory.path());
        assert!(records.addresses().is_empty() && records.daemons().is_empty());
        assert_eq!(records.ledger().unwrap().iter().count(), 0);
    }

    #[test]
    fn records_that_were_cut_are_put_aside() {
        let mut whole = Records::default();
        whole.own(&[("eth0".to_owned(), "192.0.2.1".parse().unwrap())]);
        let text = whole.text();
        for end in 0..text.len() {
            let directory = tempfile::tempdir().unwrap();
            drop(open(directory.path()));
            fs::write(directory.path().join("records"), &text[..end]).unwrap();
            fs::write(directory.path().join("ledger"), &"lvs-ledger 1\nend 0\n"[..end.min(18)])
                .unwrap();
            let records = open(directory.path());
            assert!(records.addresses().is_empty(), "{end}");
            assert_eq!(records.ledger().unwrap().iter().count(), 0);
            assert!(directory.path().join("records.bad").exists(), "{end}");
        }
    }
}
