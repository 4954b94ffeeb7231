//! What runs a guest's kernel.

use std::{os::fd::OwnedFd, path::Path};

use crate::{
    host::{qemu::Machine, uml::Uml},
    order::Files,
};

/// The launcher's words for the engines.
pub(super) const UML: &str = "uml";
pub(super) const QEMU: &str = "qemu";

/// What runs a guest's kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Uml(Uml),
    Qemu(Machine),
}

/// The descriptors through which a guest speaks, for its engine to inherit.
pub(crate) struct Lines {
    pub(crate) output: OwnedFd,
    pub(crate) errors: OwnedFd,
    /// What init says of the command.
    pub(crate) control: OwnedFd,
    pub(crate) input: Option<OwnedFd>,
}

impl Engine {
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

    /// The launcher's word for it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Uml(_) => UML,
            Self::Qemu(_) => QEMU,
        }
    }

    /// Where its process starts.
    pub(super) fn directory(&self) -> &Path {
        match self {
            Self::Uml(Uml { library: Some((tree, _)), .. }) => tree,
            _ => Path::new("/"),
        }
    }
}
