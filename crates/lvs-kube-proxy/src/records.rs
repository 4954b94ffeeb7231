//! What the proxy has made in the kernel, which stores no owner.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::{self, File},
    io::{self, Write as _},
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use lvs::{
    Desired, Ledger, Scope,
    client::{Snapshot, packet::ServiceKey},
};
use tokio::time::sleep;

use crate::config::Ownership;

/// How an address is marked in the file.
const ADDRESS: &str = "address ";
/// How the file begins; the version and the boot follow.
const HEAD: &str = "lvs-kube-proxy ledger";
/// The version of what is written here. Lines of later ones are kept as they are.
const VERSION: u32 = 1;

/// The services and addresses that are the proxy's own: those in its ledger, and those in the service
/// ranges.
///
/// The ledger is a text with a line for each, behind one with its version and the boot of the machine: a
/// service in ipvsadm's notation, or `address` and an address. It is stored before the kernel is written, so
/// that a proxy that is killed at any moment finds all that it has made. The kernel's table does not outlive a
/// boot: what a ledger of an earlier one names may be somebody else's now.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    services: Ledger,
    addresses: BTreeSet<IpAddr>,
    ranges: Vec<IpNet>,
    excluded: Vec<IpNet>,
    /// The boot of the machine.
    boot: String,
    /// Lines of a later version.
    unknown: Vec<String>,
    /// Whether the first line is stored.
    has_head: bool,
    /// What was noted since the ledger was stored.
    new_services: BTreeSet<ServiceKey>,
    new_addresses: BTreeSet<IpAddr>,
    /// Whether what is stored has to be replaced.
    is_dirty: bool,
}

/// How the stored ledger is brought up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LedgerWrite {
    /// These lines come behind what is stored.
    Append(String),
    /// This text takes the place of what is stored.
    Replace(String),
    /// Nothing is left to be stored.
    Remove,
}

impl Records {
    /// Nothing is noted yet.
    pub(crate) fn new(ownership: &Ownership, boot: &str) -> Self {
        Self {
            boot: boot.to_owned(),
            unknown: Vec::new(),
            has_head: false,
            services: Ledger::new(),
            addresses: BTreeSet::new(),
            ranges: ownership.ranges.clone(),
            excluded: ownership.excluded.clone(),
            new_services: BTreeSet::new(),
            new_addresses: BTreeSet::new(),
            is_dirty: false,
        }
    }

    /// Reads what is stored.
    ///
    /// # Errors
    ///
    /// The text is not a ledger; nothing is taken from it.
    pub(crate) fn read(&mut self, text: &str) -> Result<(), String> {
        let mut lines = text.split_inclusive('\n');
        let Some(head) = lines.next() else { return Ok(()) };
        // A proxy that was killed while it wrote a line has not made yet what the line says.
        let Some(head) = head.strip_suffix('\n') else { return Ok(()) };
        let Some(boot) = boot_of(head) else { return Err(head.to_owned()) };
        if boot != self.boot {
            self.is_dirty = true;
            tracing::info!("the ledger is of an earlier boot: what it names is not there any more");
            return Ok(());
        }
        self.has_head = true;
        let (mut services, mut addresses) = (Vec::new(), BTreeSet::new());
        for text in lines {
            let Some(line) = text.strip_suffix('\n') else {
                self.is_dirty = true;
                continue;
            };
            let line = line.trim();
            let is_known = match line.strip_prefix(ADDRESS) {
                _ if line.is_empty() => true,
                Some(address) => address.parse().map(|ip| addresses.insert(ip)).is_ok(),
                None => line.parse::<ServiceKey>().map(|key| services.push(key)).is_ok(),
            };
            if !is_known {
                tracing::warn!(
                    "the ledger has a line that this version does not know: {line:?}; it stays"
                );
                self.unknown.push(line.to_owned());
            }
        }
        self.services = services.into_iter().collect();
        self.addresses = addresses;
        Ok(())
    }

    /// Notes what is about to be made: those of the services that are desired, and addresses.
    pub(crate) fn claim<'a>(
        &mut self,
        desired: &Desired,
        services: impl IntoIterator<Item = &'a ServiceKey>,
        addresses: impl IntoIterator<Item = &'a IpAddr>,
    ) {
        for key in services.into_iter().filter(|key| desired.get(key).is_some()) {
            if self.services.insert(*key) {
                self.new_services.insert(*key);
            }
        }
        for address in addresses {
            if self.addresses.insert(*address) {
                self.new_addresses.insert(*address);
            }
        }
    }

    /// Forgets what is neither wanted nor there any more.
    pub(crate) fn settle(
        &mut self,
        desired: &Desired,
        table: &Snapshot,
        stays: impl Fn(&IpAddr) -> bool,
    ) {
        self.is_dirty |= self.services.settle(desired, table);
        let before = self.addresses.len();
        self.addresses.retain(stays);
        self.is_dirty |= self.addresses.len() != before;
    }

    /// Whether nothing is noted.
    pub(crate) fn is_empty(&self) -> bool {
        self.services.iter().next().is_none()
            && self.addresses.is_empty()
            && self.unknown.is_empty()
    }

    /// Forgets everything, after it was taken away.
    pub(crate) fn clear(&mut self) {
        (self.services, self.addresses) = (Ledger::new(), BTreeSet::new());
        self.new_services.clear();
        self.new_addresses.clear();
        self.unknown.clear();
        self.is_dirty = true;
    }

    /// What has to be stored, if anything has.
    pub(crate) fn to_store(&self) -> Option<LedgerWrite> {
        if !self.is_dirty && !self.has_new() {
            return None;
        }
        if !self.is_dirty && self.has_head {
            return Some(LedgerWrite::Append(lines(&self.new_services, &self.new_addresses)));
        }
        let mut text = lines(self.services.iter(), &self.addresses);
        for line in &self.unknown {
            let _ = writeln!(text, "{line}");
        }
        let head = format!("{HEAD} {VERSION} boot {}\n", self.boot);
        Some(if text.is_empty() { LedgerWrite::Remove } else { LedgerWrite::Replace(head + &text) })
    }

    /// Takes in whether it was stored.
    pub(crate) fn has_stored(&mut self, stored: bool) {
        self.has_head = stored && !self.is_empty();
        self.is_dirty = !stored;
        if stored {
            self.new_services.clear();
            self.new_addresses.clear();
        }
    }

    /// Whether something is noted that is not stored.
    pub(crate) fn has_new(&self) -> bool {
        !self.new_services.is_empty() || !self.new_addresses.is_empty()
    }

    /// Whether a later proxy would know that this service is its own.
    pub(crate) fn proves_service(&self, key: &ServiceKey) -> bool {
        let is_in_ranges = match key {
            ServiceKey::Address { address, .. } => is_in(&self.ranges, address),
            ServiceKey::Mark { .. } => false,
        };
        is_in_ranges || !self.new_services.contains(key)
    }

    /// Whether a later proxy would know that this address is its own.
    pub(crate) fn proves_address(&self, address: &IpAddr) -> bool {
        is_in(&self.ranges, address) || !self.new_addresses.contains(address)
    }

    /// Which services may be deleted.
    pub(crate) fn scope(&self) -> Scope {
        let (services, ranges) = (self.services.clone(), self.ranges.clone());
        let excluded = self.excluded.clone();
        Scope::only(move |key| match key {
            ServiceKey::Address { address, .. } => {
                (services.contains(key) || is_in(&ranges, address)) && !is_in(&excluded, address)
            }
            ServiceKey::Mark { .. } => services.contains(key),
        })
    }

    /// Whether an address of the proxy's link may be taken away.
    pub(crate) fn owns_address(&self, address: &IpAddr) -> bool {
        (self.addresses.contains(address) || is_in(&self.ranges, address))
            && !is_in(&self.excluded, address)
    }
}

impl LedgerWrite {
    /// The text that is stored afterwards.
    #[cfg(test)]
    pub(crate) fn apply_to(&self, text: &mut String) {
        match self {
            Self::Append(lines) => text.push_str(lines),
            Self::Replace(new) => text.clone_from(new),
            Self::Remove => text.clear(),
        }
    }
}

/// The lines of services and addresses.
fn lines<'a>(
    services: impl IntoIterator<Item = &'a ServiceKey>,
    addresses: &BTreeSet<IpAddr>,
) -> String {
    let services = services.into_iter().map(|key| format!("{key}\n"));
    let addresses = addresses.iter().map(|address| format!("{ADDRESS}{address}\n"));
    services.chain(addresses).collect()
}

/// The boot that a ledger's first line names. Later versions say it at the same place.
fn boot_of(head: &str) -> Option<&str> {
    let (version, boot) = head.strip_prefix(HEAD)?.trim().split_once(" boot ")?;
    version.parse::<u32>().ok()?;
    Some(boot)
}

/// Which boot of the machine this is.
pub(crate) fn this_boot() -> io::Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(path)
        .map_err(|error| io::Error::new(error.kind(), format!("read {path}: {error}")))?;
    Ok(text.trim().to_owned())
}

/// The file that a ledger is stored in, if it is stored.
#[derive(Debug, Default)]
pub(crate) struct LedgerFile(Option<PathBuf>);

impl LedgerFile {
    /// Makes the directory, and reads the file if there is one.
    pub(crate) fn open(path: Option<&Path>) -> io::Result<(Self, String)> {
        let file = Self(path.map(Path::to_owned));
        let Some(path) = path else { return Ok((file, String::new())) };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(|error| {
                let reason = format!("make {}: {error}", directory.display());
                io::Error::new(error.kind(), reason)
            })?;
        }
        match fs::read_to_string(path) {
            Ok(text) => Ok((file, text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((file, String::new())),
            Err(error) => {
                let reason = format!("read {}: {error}", path.display());
                Err(io::Error::new(error.kind(), reason))
            }
        }
    }

    /// Puts a file aside that cannot be used, because of this line.
    pub(crate) fn put_aside(&self, line: &str) -> io::Result<()> {
        let Some(path) = &self.0 else { return Ok(()) };
        let bad = path.with_extension("bad");
        tracing::error!(
            "{}: {line:?} is not how a ledger begins; moved to {}; objects recorded in it are no longer \
             cleaned up",
            path.display(),
            bad.display()
        );
        fs::rename(path, &bad).map_err(|error| {
            io::Error::new(error.kind(), format!("rename {}: {error}", path.display()))
        })
    }

    /// Whether somebody has left a confirmation beside the ledger, which is taken.
    pub(crate) fn take_confirmation(&self) -> bool {
        self.confirmation().is_some_and(|path| fs::remove_file(path).is_ok())
    }

    /// Leaves a confirmation. Returns whether a proxy has taken it within a time.
    pub(crate) async fn confirm(&self, limit: Duration) -> io::Result<bool> {
        let Some(path) = self.confirmation() else { return Ok(false) };
        let failed = |error: io::Error| {
            io::Error::new(error.kind(), format!("write {}: {error}", path.display()))
        };
        File::create(&path).map_err(failed)?;
        let begin = Instant::now();
        while begin.elapsed() < limit {
            if !path.exists() {
                return Ok(true);
            }
            sleep(Duration::from_millis(50)).await;
        }
        // Nobody may take it for a confirmation of something later.
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            result => result.map(|()| false).map_err(failed),
        }
    }

    fn confirmation(&self) -> Option<PathBuf> {
        self.0.as_ref().map(|path| path.with_file_name("confirm"))
    }

    pub(crate) fn store(&self, write: &LedgerWrite) -> io::Result<()> {
        let Some(path) = &self.0 else { return Ok(()) };
        let stored = match write {
            LedgerWrite::Append(lines) => append(path, lines),
            LedgerWrite::Replace(text) => replace(path, text),
            LedgerWrite::Remove => match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        };
        stored.map_err(|error| {
            io::Error::new(error.kind(), format!("write {}: {error}", path.display()))
        })
    }
}

fn append(path: &Path, text: &str) -> io::Result<()> {
    File::options().append(true).create(true).open(path)?.write_all(text.as_bytes())
}

fn is_in(networks: &[IpNet], address: &IpAddr) -> bool {
    networks.iter().any(|network| network.contains(address))
}

/// Writes a file in one step: it holds the old text or the new one, whenever the proxy is killed. That it is
/// on the disk is not waited for: when the machine fails, the kernel's table is gone, too.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use lvs::VirtualService;

    use super::*;

    fn open(ranges: &[&str], excluded: &[&str]) -> Records {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let (ranges, excluded) = (networks(ranges), networks(excluded));
        Records::new(
            &Ownership {
                ledger: None,
                ranges,
                excluded,
                has_routes: false,
                may_route: false,
                routes_without_rules: false,
            },
            "b1",
        )
    }

    fn desired(addresses: &[&str]) -> Desired {
        let mut desired = Desired::new();
        for address in addresses {
            desired.insert(VirtualService::tcp(address.parse().unwrap()).build().unwrap());
        }
        desired
    }

    fn claim(records: &mut Records, services: &[&str], addresses: &[IpAddr]) {
        let desired = desired(services);
        records.claim(&desired, desired.keys(), addresses);
    }

    /// Stores what has to be stored.
    fn store(records: &mut Records, file: &LedgerFile) -> io::Result<()> {
        let Some(write) = records.to_store() else { return Ok(()) };
        let stored = file.store(&write);
        records.has_stored(stored.is_ok());
        stored
    }

    #[test]
    fn a_ledger_is_read_as_it_was_written() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("ledger");
        let (file, text) = LedgerFile::open(Some(&path)).unwrap();
        assert_eq!(text, "");
        let read = || {
            let mut records = open(&[], &[]);
            let (_, text) = LedgerFile::open(Some(&path)).unwrap();
            records.read(&text).map(|()| records)
        };
        let mut records = open(&[], &[]);
        let address: IpAddr = "203.0.113.50".parse().unwrap();
        claim(&mut records, &["203.0.113.50:80"], &[]);
        store(&mut records, &file).unwrap();
        claim(&mut records, &["203.0.113.50:80", "[fd96::1]:80"], &[address]);
        store(&mut records, &file).unwrap();
        assert_eq!(records.to_store(), None);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 4);
        let again = read().unwrap();
        assert_eq!(
            (again.services, again.addresses),
            (records.services.clone(), records.addresses.clone())
        );
        assert!(read().unwrap().owns_address(&address));

        records.settle(&desired(&["[fd96::1]:80"]), &Snapshot::new(), |_| false);
        store(&mut records, &file).unwrap();
        let head = "lvs-kube-proxy ledger 1 boot b1\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{head}-t [fd96::1]:80\n"));
        records.clear();
        store(&mut records, &file).unwrap();
        assert!(!path.exists());

        // Its writer was killed within a line: what it says was not made, and is not taken for a whole
        // line that says something else.
        for cut in ["address 203.0.1", "-t [fd96::1]:8", "address 203.0.113.5"] {
            fs::write(&path, format!("{head}-t [fd96::1]:80\n{cut}")).unwrap();
            let mut records = read().unwrap();
            assert_eq!(records.services.iter().count(), 1, "{cut}");
            assert!(records.addresses.is_empty(), "{cut}");
            // The next line does not come behind the cut one.
            claim(&mut records, &["203.0.113.50:80"], &[]);
            store(&mut records, &file).unwrap();
            assert_eq!(read().unwrap().services.iter().count(), 2, "{cut}");
        }

        fs::write(&path, "nonsense\n").unwrap();
        // A damaged file is put aside.
        file.put_aside(&read().unwrap_err()).unwrap();
        assert!(!path.exists());
        assert_eq!(fs::read_to_string(path.with_extension("bad")).unwrap(), "nonsense\n");
    }

    /// A ledger of an earlier boot names nothing that is the proxy's: somebody else may have made it since.
    /// Lines of a later version cost nothing, and stay.
    #[test]
    fn ledgers_of_other_boots_and_versions() {
        let read = |text: &str| {
            let mut records = open(&[], &[]);
            records.read(text).map(|()| records)
        };
        let lines = "-t 203.0.113.50:80\naddress 203.0.113.50\n";
        let mut records = read(&format!("lvs-kube-proxy ledger 1 boot b0\n{lines}")).unwrap();
        assert!(records.services.iter().next().is_none() && records.addresses.is_empty());
        assert_eq!(records.to_store(), Some(LedgerWrite::Remove));
        claim(&mut records, &["203.0.113.50:80"], &[]);
        let text = "lvs-kube-proxy ledger 1 boot b1\n-t 203.0.113.50:80\n".to_owned();
        assert_eq!(records.to_store(), Some(LedgerWrite::Replace(text)));

        let later = format!("lvs-kube-proxy ledger 2 boot b1\nroute 10.96.0.0/12\n{lines}");
        let mut records = read(&later).unwrap();
        assert_eq!((records.services.iter().count(), records.addresses.len()), (1, 1));
        assert_eq!(records.to_store(), None);
        records.settle(&desired(&[]), &Snapshot::new(), |_| false);
        let text = "lvs-kube-proxy ledger 1 boot b1\nroute 10.96.0.0/12\n".to_owned();
        assert_eq!(records.to_store(), Some(LedgerWrite::Replace(text)));
        // Without its first line it is none, and with a part of it nothing was made yet.
        assert!(read(lines).is_err() && read("lvs-kube-proxy ledger x boot b1\n").is_err());
        assert!(read("lvs-kube-proxy led").unwrap().to_store().is_none());
    }

    /// What could not be written is written as soon as it can be.
    #[test]
    fn a_ledger_that_could_not_be_written() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("later").join("ledger");
        let (file, _) = LedgerFile::open(Some(&path)).unwrap();
        let mut records = open(&[], &[]);
        fs::remove_dir(path.parent().unwrap()).unwrap();
        claim(&mut records, &["203.0.113.50:80"], &[]);
        assert!(store(&mut records, &file).is_err());
        fs::create_dir(path.parent().unwrap()).unwrap();
        store(&mut records, &file).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "lvs-kube-proxy ledger 1 boot b1\n-t 203.0.113.50:80\n");
    }

    #[test]
    fn what_is_ours() {
        let mut records = open(&["10.96.0.0/12"], &["10.96.9.0/24"]);
        let excluded = "10.96.9.1".parse().unwrap();
        claim(&mut records, &["203.0.113.50:80", "10.96.9.1:80"], &[excluded]);
        let scope = records.scope();
        for (key, is_ours) in [
            ("-t 203.0.113.50:80", true),
            ("-t 203.0.113.50:81", false),
            ("-t 10.96.0.1:80", true),
            ("-t 10.96.9.1:80", false),
            ("-f 7", false),
        ] {
            assert_eq!(scope.contains(&key.parse().unwrap()), is_ours, "{key}");
        }
        assert!(!records.owns_address(&"10.96.9.1".parse().unwrap()));
        assert!(records.owns_address(&"10.96.0.1".parse().unwrap()));
        assert!(!records.owns_address(&"192.0.2.1".parse().unwrap()));
    }
}
