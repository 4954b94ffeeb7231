//! What is there before a proxy's first round and after its last: the ledger, settings, the lock.

use std::{
    fmt,
    fs::{File, TryLockError},
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
    path::Path,
};

use lvs::{Desired, Policy, client::packet::Timeouts};
use netns_link::{NetNs, Setting};

use super::{Kernel, nft};
use crate::{
    config::{KernelConfig, Ownership},
    failure::{Failure, Step},
    records::{LedgerFile, Records, this_boot},
    remains::Remains,
};

/// Only one proxy has it, in a network namespace and with a state directory: two would undo each other's
/// changes for ever. It ends with the process, whatever ends that.
#[derive(Debug)]
pub(super) struct Lock {
    _of_namespace: UnixListener,
    _of_directory: Option<File>,
}

impl Lock {
    fn take(namespace: &NetNs, directory: Option<&Path>) -> Result<Self, Failure> {
        let failed = |what: &str, error: io::Error| {
            Failure::new(Step::Lock, format!("look whether another proxy runs ({what}): {error}"))
        };
        let other = |place: &str| {
            Failure::new(
                Step::Lock,
                format!(
                    "another lvs-kube-proxy runs {place}: it has to end before this one begins"
                ),
            )
        };
        let listen = || UnixListener::bind_addr(&SocketAddr::from_abstract_name("lvs-kube-proxy")?);
        let bound = namespace.run(listen).map_err(|error| failed("a socket", error.into()))?;
        let of_namespace = bound.map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => other("in this network namespace"),
            _ => failed("a socket", error),
        })?;
        let of_directory = match directory.map(|directory| directory.join("lock")) {
            None => None,
            Some(path) => {
                let shown = path.display().to_string();
                let file = File::create(path).map_err(|error| failed(&shown, error))?;
                match file.try_lock() {
                    Ok(()) => Some(file),
                    Err(TryLockError::WouldBlock) => return Err(other("with this --state-dir")),
                    Err(TryLockError::Error(error)) => return Err(failed(&shown, error)),
                }
            }
        };
        Ok(Self { _of_namespace: of_namespace, _of_directory: of_directory })
    }
}

impl Kernel<'_> {
    /// Reads the ledger, in which the proxy notes what it has made.
    pub(crate) fn open_ledger(&mut self, ownership: &Ownership) -> Result<Records, Failure> {
        let failed = |error| Failure::new(Step::Ledger, error);
        let (file, text) = LedgerFile::open(ownership.ledger.as_deref()).map_err(failed)?;
        let boot = this_boot().map_err(failed)?;
        let mut records = Records::new(ownership, &boot);
        if let Err(line) = records.read(&text) {
            file.put_aside(&line).map_err(failed)?;
        }
        // One from before was not meant for what this proxy will hold back.
        file.take_confirmation();
        self.ledger = file;
        self.remains = ownership.ledger.as_ref().map(|path| path.with_file_name("remains"));
        Ok(records)
    }

    /// Takes the rules away. Where nftables or the program are not there, there are none.
    pub(crate) fn remove_rules(&self) -> Result<(), Failure> {
        let removed = match nft::list(self.namespace) {
            Ok(text) if text.is_empty() => Ok(()),
            Ok(_) => nft::remove(self.namespace),
            Err(error) if nft::is_not_supported(&error) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        removed.map_err(|error| {
            let reason = format!("take the table of nftables away: {error}; all else is removed");
            Failure::new(Step::Rules, reason)
        })
    }

    /// What earlier runs have left besides what is in the ledger; `None` if nothing is known of any.
    pub(crate) fn remains(&self) -> Result<Option<Remains>, Failure> {
        let failed = |error| Failure::new(Step::Ledger, error);
        let Some(path) = &self.remains else { return Ok(None) };
        Remains::read(path, &this_boot().map_err(failed)?).map_err(failed)
    }

    /// Stores what a clean-up has to know, if there is a state directory.
    pub(crate) fn store_remains(&self, remains: &Remains) -> Result<(), Failure> {
        let failed = |error| Failure::new(Step::Ledger, error);
        let Some(path) = &self.remains else { return Ok(()) };
        remains.store(path, &this_boot().map_err(failed)?).map_err(failed)
    }

    /// Brings the settings back that the proxy has changed and nobody else since.
    pub(crate) fn restore_settings(&self, remains: &mut Remains) -> Result<(), Failure> {
        for (name, (before, after)) in std::mem::take(&mut remains.settings) {
            let restore = || {
                let setting = Setting::new(&name)?;
                if setting.read(self.namespace)? == after {
                    setting.write(self.namespace, &before)?;
                }
                Ok::<_, netns_link::Error>(())
            };
            restore().map_err(|error| Failure::new(Step::Settings, error))?;
        }
        Ok(())
    }

    /// Makes sure that no other proxy works here, as long as this one lives.
    pub(crate) fn lock(&mut self) -> Result<(), Failure> {
        if self.lock.is_none() {
            let directory = self.remains.as_deref().and_then(Path::parent);
            self.lock = Some(Lock::take(self.namespace, directory)?);
        }
        Ok(())
    }

    /// Takes away the services that a policy lets go.
    pub(crate) async fn remove_services(&self, policy: &Policy) -> Result<(), Failure> {
        let applied = Desired::new().apply(&self.ipvs, policy).await;
        applied.map(drop).map_err(|error| Failure::new(Step::Table, error))
    }

    /// Makes the node's settings.
    pub(crate) async fn settle(
        &self,
        config: &KernelConfig,
        ownership: &Ownership,
    ) -> Result<(), Failure> {
        let mut remains = self.remains()?.unwrap_or_default();
        remains.begin(ownership);
        let changed = self.write_settings(config.strict_arp, &mut remains);
        self.store_remains(&remains)?;
        changed?;
        // 0 leaves one as it is.
        if config.timeouts == Timeouts::default() {
            return Ok(());
        }
        let set = self.ipvs.set_timeouts(config.timeouts).await;
        set.map_err(|error| Failure::new(Step::TimeOuts, error))
    }

    /// Makes the settings that IPVS for services needs, and notes those that were different.
    fn write_settings(&self, strict_arp: bool, remains: &mut Remains) -> Result<(), Failure> {
        let failed = |error: &dyn fmt::Display| Failure::new(Step::Settings, error);
        let mut note = |name: String, before: String, after: String| {
            tracing::info!("set {name} {before} -> {after}");
            remains.changed(name, before, after);
        };
        let changes = self.ipvs.set_kube_proxy_sysctls().map_err(|error| failed(&error))?;
        for change in changes {
            note(change.sysctl.to_string(), change.before, change.after);
        }
        let mut settings = vec![(Setting::ip_forward(), "1")];
        if strict_arp {
            let ignore = Setting::arp_ignore("all").map_err(|error| failed(&error))?;
            let announce = Setting::arp_announce("all").map_err(|error| failed(&error))?;
            settings.extend([(ignore, "1"), (announce, "2")]);
        }
        for (setting, value) in settings {
            let before = setting.read(self.namespace).map_err(|error| failed(&error))?;
            if before != value {
                setting.write(self.namespace, value).map_err(|error| failed(&error))?;
                note(setting.to_string(), before, value.to_owned());
            }
        }
        Ok(())
    }
}
