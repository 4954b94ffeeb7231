//! What the proxy has made in the kernel, which stores no owner.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::{self, File},
    io::{self, Write as _},
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use lvs::{
    Desired, Ledger, Scope,
    client::{Snapshot, packet::ServiceKey},
};

use crate::config::Ownership;

/// How an address is marked in the file.
const ADDRESS: &str = "address ";

/// The services and addresses that are the proxy's own: those in its ledger, and those in the service
/// ranges.
///
/// The ledger is a file with a line for each: a service in ipvsadm's notation, or `address` and an
/// address. It is written before the kernel is, so that a proxy that is killed at any moment finds
/// all that it has made. It need not outlive the machine: neither does the kernel's table.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    path: Option<PathBuf>,
    services: Ledger,
    addresses: BTreeSet<IpAddr>,
    ranges: Vec<IpNet>,
    excluded: Vec<IpNet>,
    /// Whether the file lacks something.
    is_dirty: bool,
}

impl Records {
    /// Reads the ledger, if there is one.
    pub(crate) fn open(ownership: &Ownership) -> io::Result<Self> {
        let Ownership { ledger: path, ranges, excluded, .. } = ownership.clone();
        let (services, addresses) = (Ledger::new(), BTreeSet::new());
        let mut records = Self { path, services, addresses, ranges, excluded, is_dirty: false };
        if let Some(path) = records.path.clone() {
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory).map_err(|error| {
                    let reason = format!("make {}: {error}", directory.display());
                    io::Error::new(error.kind(), reason)
                })?;
            }
            match fs::read_to_string(&path) {
                Ok(text) => {
                    if let Err(line) = records.read(&text) {
                        let bad = path.with_extension("bad");
                        tracing::error!(
                            "{}: {line:?} is neither a service nor an address; the file is {} now, and what \
                             was made outside of the service ranges and nobody wants any more stays",
                            path.display(),
                            bad.display()
                        );
                        (records.services, records.addresses) = (Ledger::new(), BTreeSet::new());
                        fs::rename(&path, &bad).map_err(|error| {
                            let reason = format!("rename {}: {error}", path.display());
                            io::Error::new(error.kind(), reason)
                        })?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let reason = format!("read {}: {error}", path.display());
                    return Err(io::Error::new(error.kind(), reason));
                }
            }
        }
        Ok(records)
    }

    fn read(&mut self, text: &str) -> Result<(), String> {
        let mut services = Vec::new();
        for text in text.split_inclusive('\n') {
            let line = text.trim();
            let known = match line.strip_prefix(ADDRESS) {
                _ if line.is_empty() => true,
                Some(address) => address.parse().map(|ip| self.addresses.insert(ip)).is_ok(),
                None => line.parse::<ServiceKey>().map(|key| services.push(key)).is_ok(),
            };
            // Whoever is killed while it writes a line has not made yet what the line says.
            if !known && text.ends_with('\n') {
                return Err(line.to_owned());
            }
        }
        self.services = services.into_iter().collect();
        Ok(())
    }

    /// Notes what is about to be made: those of the services that are desired, and addresses.
    pub(crate) fn claim(
        &mut self,
        desired: &Desired,
        services: &BTreeSet<ServiceKey>,
        addresses: &BTreeSet<IpAddr>,
    ) -> io::Result<()> {
        let mut new = String::new();
        for key in services.iter().filter(|key| desired.get(key).is_some()) {
            if self.services.insert(*key) {
                let _ = writeln!(new, "{key}");
            }
        }
        for address in addresses {
            if self.addresses.insert(*address) {
                let _ = writeln!(new, "{ADDRESS}{address}");
            }
        }
        match &self.path {
            Some(path) if !self.is_dirty && !new.is_empty() => {
                let result = append(path, &new);
                self.is_dirty = result.is_err();
                result.map_err(|error| explained(path, &error))
            }
            _ => self.write(),
        }
    }

    /// Forgets what is neither wanted nor there any more.
    pub(crate) fn settle(
        &mut self,
        desired: &Desired,
        table: &Snapshot,
        stays: impl Fn(&IpAddr) -> bool,
    ) -> io::Result<()> {
        self.is_dirty |= self.services.settle(desired, table);
        let before = self.addresses.len();
        self.addresses.retain(stays);
        self.is_dirty |= self.addresses.len() != before;
        self.write()
    }

    /// Forgets everything, after it was taken away.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        (self.services, self.addresses) = (Ledger::new(), BTreeSet::new());
        match &self.path {
            Some(path) if path.exists() => fs::remove_file(path),
            _ => Ok(()),
        }
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

    fn write(&mut self) -> io::Result<()> {
        let Some(path) = self.path.as_ref().filter(|_| self.is_dirty) else { return Ok(()) };
        let addresses = self.addresses.iter().map(|address| format!("{ADDRESS}{address}\n"));
        let text = self.services.to_string() + &addresses.collect::<String>();
        replace(path, &text).map_err(|error| explained(path, &error))?;
        self.is_dirty = false;
        Ok(())
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

fn explained(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use lvs::VirtualService;

    use super::*;

    fn open(path: Option<PathBuf>, ranges: &[&str], excluded: &[&str]) -> Records {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let (ranges, excluded) = (networks(ranges), networks(excluded));
        let ownership = Ownership { ledger: path, ranges, excluded, has_routes: false };
        Records::open(&ownership).unwrap()
    }

    fn desired(addresses: &[&str]) -> Desired {
        let mut desired = Desired::new();
        for address in addresses {
            desired.insert(VirtualService::tcp(address.parse().unwrap()).build().unwrap());
        }
        desired
    }

    fn claim(records: &mut Records, services: &[&str], addresses: &[IpAddr]) -> io::Result<()> {
        let desired = desired(services);
        let keys = desired.keys().copied().collect();
        records.claim(&desired, &keys, &addresses.iter().copied().collect())
    }

    #[test]
    fn a_ledger_is_read_as_it_was_written() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("ledger");
        let open = || open(Some(path.clone()), &[], &[]);
        let mut records = open();
        let address: IpAddr = "203.0.113.50".parse().unwrap();
        claim(&mut records, &["203.0.113.50:80"], &[]).unwrap();
        claim(&mut records, &["203.0.113.50:80", "[fd96::1]:80"], &[address]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 3);
        let again = open();
        assert_eq!(
            (again.services, again.addresses),
            (records.services.clone(), records.addresses.clone())
        );
        assert!(open().owns_address(&address));

        records.settle(&desired(&["[fd96::1]:80"]), &Snapshot::new(), |_| false).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "-t [fd96::1]:80\n");
        records.clear().unwrap();
        assert!(!path.exists());

        // Its writer was killed within a line.
        fs::write(&path, "-t [fd96::1]:80\naddress 203.0.1").unwrap();
        assert!(open().scope().contains(&"-t [fd96::1]:80".parse().unwrap()));

        fs::write(&path, "nonsense\n").unwrap();
        // A damaged file is put aside.
        let again = open();
        assert!(again.addresses.is_empty() && !path.exists());
        assert_eq!(fs::read_to_string(path.with_extension("bad")).unwrap(), "nonsense\n");
    }

    /// What could not be written is written as soon as it can be.
    #[test]
    fn a_ledger_that_could_not_be_written() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("later").join("ledger");
        let mut records = open(Some(path.clone()), &[], &[]);
        fs::remove_dir(path.parent().unwrap()).unwrap();
        assert!(claim(&mut records, &["203.0.113.50:80"], &[]).is_err());
        fs::create_dir(path.parent().unwrap()).unwrap();
        claim(&mut records, &[], &[]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "-t 203.0.113.50:80\n");
    }

    #[test]
    fn what_is_ours() {
        let mut records = open(None, &["10.96.0.0/12"], &["10.96.9.0/24"]);
        let excluded = "10.96.9.1".parse().unwrap();
        claim(&mut records, &["203.0.113.50:80", "10.96.9.1:80"], &[excluded]).unwrap();
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
