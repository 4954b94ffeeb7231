//! What differs between the processors on which guests run.

use std::env::consts::ARCH;

use crate::error::Error;

/// A kind of processor.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Architecture {
    /// Its name in Rust.
    name: &'static str,
    /// Its name in Debian's archive. The names of its kernel packages end with it, too.
    pub(crate) debian: &'static str,
    /// Whether User-Mode Linux runs on it.
    pub(crate) has_uml: bool,
    /// The program that runs the other kernels, and Debian's package of it.
    pub(crate) qemu: &'static str,
    pub(crate) qemu_package: &'static str,
    /// The board that QEMU emulates.
    pub(crate) machine: &'static str,
    /// The kernel's name for that board's first serial line.
    pub(crate) console: &'static str,
    /// More kernel parameters, each with a space before it.
    pub(crate) parameters: &'static str,
}

pub(crate) const X86_64: Architecture = Architecture {
    name: "x86_64",
    debian: "amd64",
    has_uml: true,
    qemu: "qemu-system-x86_64",
    qemu_package: "qemu-system-x86",
    machine: "q35",
    console: "ttyS0",
    parameters: "",
};

pub(crate) const ARM64: Architecture = Architecture {
    name: "aarch64",
    debian: "arm64",
    has_uml: false,
    qemu: "qemu-system-aarch64",
    qemu_package: "qemu-system-arm",
    machine: "virt",
    console: "ttyAMA0",
    // QEMU is slow at signing pointers.
    parameters: " arm64.nopauth",
};

impl Architecture {
    /// This program's architecture, if guests run on it.
    pub(crate) fn here() -> Option<&'static Self> {
        Self::named(ARCH)
    }

    /// The same, or why guests do not run here.
    pub(crate) fn needed() -> Result<&'static Self, Error> {
        let reason = || format!("guests run on x86-64 and arm64 only, and not on {ARCH}");
        Self::here().ok_or_else(|| Error::NoKernel { reason: reason() })
    }

    fn named(name: &str) -> Option<&'static Self> {
        const ALL: [&Architecture; 2] = [&X86_64, &ARM64];
        ALL.into_iter().find(|architecture| architecture.name == name)
    }

    /// Whether User-Mode Linux runs here.
    pub(crate) fn has_uml_here() -> bool {
        Self::here().is_some_and(|architecture| architecture.has_uml)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_processor_is_found_by_its_name() {
        assert_eq!(Architecture::named("x86_64"), Some(&X86_64));
        assert_eq!(Architecture::named("aarch64"), Some(&ARM64));
        assert_eq!(Architecture::named("riscv64"), None);
    }
}
