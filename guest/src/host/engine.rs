//! What runs a guest's kernel.

use std::{fs, os::fd::OwnedFd, path::Path};

use crate::{
    error::Error,
    host::{qemu::Machine, uml::Uml},
    modules::Modules,
    order::Files,
};

/// The launcher's names for the engines.
pub(super) const UML: &str = "uml";
pub(super) const QEMU: &str = "qemu";

/// What runs a guest's kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Uml(Uml),
    Qemu(Machine),
}

/// The descriptors of a guest's lines, which its engine inherits.
pub(crate) struct Lines {
    pub(crate) output: OwnedFd,
    pub(crate) errors: OwnedFd,
    /// What init reports about the command.
    pub(crate) control: OwnedFd,
    pub(crate) input: Option<OwnedFd>,
}

impl Engine {
    /// Refuses a kernel that lacks a module.
    pub(super) fn check(&self, modules: &[String]) -> Result<(), Error> {
        let entries = fs::read_dir(self.modules()).into_iter().flatten().flatten();
        let releases: Vec<_> = entries.map(|entry| entry.path()).collect();
        let is_missing = |name: &&String| !releases.iter().any(|path| Modules::new(path).has(name));
        // Without lists, its modules are unknown.
        let Some(directory) = releases.iter().find(|path| path.join("modules.dep").exists()) else {
            return Ok(());
        };
        let release = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match modules.iter().find(is_missing) {
            Some(module) => Err(Error::NoModule { module: module.clone(), release }),
            None => Ok(()),
        }
    }

    /// The directory that holds the kernel's modules, in one named by the kernel's release.
    pub(super) fn modules(&self) -> &Path {
        match self {
            Self::Uml(kernel) => &kernel.modules,
            Self::Qemu(machine) => &machine.modules,
        }
    }

    pub(super) fn files(&self) -> Files {
        match self {
            Self::Uml(_) => Files::Hostfs,
            Self::Qemu(machine) => machine.files(),
        }
    }

    /// The launcher's name for it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Uml(_) => UML,
            Self::Qemu(_) => QEMU,
        }
    }

    /// Its process's working directory.
    pub(super) fn directory(&self) -> &Path {
        match self {
            Self::Uml(Uml { library: Some((tree, _)), .. }) => tree,
            _ => Path::new("/"),
        }
    }
}
