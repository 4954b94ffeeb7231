//! Packages of User-Mode Linux with their checksums, for machines without apt.

use crate::options::Kernel;

/// A package of Debian's archive, for amd64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Package {
    /// Its path below a mirror.
    pub(super) path: String,
    /// In bytes.
    pub(super) size: u64,
    /// SHA-256, in hexadecimal digits.
    pub(super) sum: String,
}

/// The kernel's package and that of the C library that it is linked with, as they were when this program
/// was written, and the suite that may have newer ones. `None` for kernels that only apt fetches.
pub(super) fn packages(kernel: Kernel) -> Option<(&'static str, [Package; 2])> {
    let (suite, packages) = match kernel {
        Kernel::Uml5_10 => (
            "bullseye",
            [
                (
                    "u/user-mode-linux/user-mode-linux_5.10um3+b1_amd64.deb",
                    38_177_908,
                    "2cf4c2b2b36272b0b42c973d1239b4e73ad24c53d1a041a227f28bbee9b7082b",
                ),
                (
                    "g/glibc/libc6_2.31-13+deb11u11_amd64.deb",
                    2_822_708,
                    "05f7264da867b37f4c5ce49266b558ea1e81e05a9464f623152fca70f3550282",
                ),
            ],
        ),
        Kernel::Uml | Kernel::Uml6_1 => (
            "bookworm",
            [
                (
                    "u/user-mode-linux/user-mode-linux_6.1um4+b13_amd64.deb",
                    41_388_548,
                    "0ce700f835c385ab09860ad33137817402403a29e424177510244bd75a81c687",
                ),
                (
                    "g/glibc/libc6_2.36-9+deb12u14_amd64.deb",
                    2_759_320,
                    "ba4f88f73dbc3ae9055f3c20f4523bfdbaf1ad13ff95e258924f77d20b4fbedf",
                ),
            ],
        ),
        Kernel::Uml6_12 => (
            "trixie",
            [
                (
                    "u/user-mode-linux/user-mode-linux_6.12um1+b22_amd64.deb",
                    35_777_868,
                    "6930e97133531bab93f83b6d691a94f5872505d8f5d88c1f3f1296da0820a3a0",
                ),
                (
                    "g/glibc/libc6_2.41-12+deb13u5_amd64.deb",
                    2_850_108,
                    "b59b0625cd1a791375d40dab23a4d5d3d0641e3d0a773501becdc3725b7f99cf",
                ),
            ],
        ),
        Kernel::UmlTesting => (
            "testing",
            [
                (
                    "u/user-mode-linux/user-mode-linux_7.2um1_amd64.deb",
                    36_430_088,
                    "f947c9244fd79d481299df2ad68961f6b3b7703bff38c4b0e726f861161da62c",
                ),
                (
                    "g/glibc/libc6_2.43-7_amd64.deb",
                    1_866_392,
                    "5c71715c51103beb4fbba9fe9f8dff604af6610dfa71c70bff342f54a7860803",
                ),
            ],
        ),
        _ => return None,
    };
    let package = |(path, size, sum): (&str, u64, &str)| Package {
        path: format!("pool/main/{path}"),
        size,
        sum: sum.to_owned(),
    };
    Some((suite, packages.map(package)))
}

impl Package {
    /// The package's name: `libc6`.
    pub(super) fn name(&self) -> &str {
        let file = self.file_name();
        file.split_once('_').map_or(file, |(name, _)| name)
    }

    /// Its file's name.
    pub(super) fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}
