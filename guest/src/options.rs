use std::{env, ffi::OsString, fmt, path::PathBuf, str::FromStr, time::Duration};

use crate::error::Error;

/// Which kernel a process runs on, and how.
///
/// Start from [`Options::default`] or [`Options::from_env`]: fields may be added.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Which kernel may be used. Default: any.
    pub choice: Choice,
    /// The guest's kernel. It is never replaced by another. Default: `None`, the first that runs here.
    pub kernel: Option<Kernel>,
    /// When a guest is ended. Default: 10 minutes; `None` is no limit.
    pub time_limit: Option<Duration>,
    /// The guest's memory in MiB, at least 32, in QEMU 128. It takes the machine's memory only as it uses
    /// it. Default: 512.
    pub memory: u32,
    /// Modules that the kernel must have, by `modprobe`'s names; for `ip_vs`, IPVS must also answer.
    /// Default: `ip_vs`.
    pub modules: Vec<String>,
    /// Shows the guest's kernel log on standard error. Default: no.
    pub verbose: bool,
    /// Directories of this machine that the guest writes to, besides the working directory and cargo's
    /// target directory.
    pub write: Vec<PathBuf>,
    /// A User-Mode Linux binary to use instead of the package. Not used for kernels in QEMU.
    pub uml: Option<PathBuf>,
    /// The directory of its modules, with one directory for each version. Default: `../lib/uml/modules`
    /// from the binary.
    pub uml_modules: Option<PathBuf>,
    /// Whether User-Mode Linux gets the shim for processors with AMX. Default: if needed, which is before
    /// Linux 6.13 on such a processor.
    pub shim: Option<bool>,
    /// Where packages are unpacked. Default: the first usable of `$XDG_CACHE_HOME/lvs-guest`,
    /// `~/.cache/lvs-guest` and a private directory in `/tmp`.
    pub cache: Option<PathBuf>,
    /// A mirror of Debian's archive to fetch User-Mode Linux from, an address or a directory.
    /// Default: apt's mirror; without apt, none.
    pub mirror: Option<String>,
    /// The public keys of Debian's archive, which check that mirror's lists. Default:
    /// `/usr/share/keyrings/debian-archive-keyring.gpg`.
    pub keyring: Option<PathBuf>,
}

/// Which kernel may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Choice {
    /// This machine's kernel if it has IPVS and the process may use it, in new namespaces;
    /// else a guest's.
    #[default]
    Any,
    /// This machine's kernel, in new namespaces, or an error.
    Host,
    /// This machine's kernel in the caller's namespaces: the process changes the machine's own IPVS
    /// table, links and settings.
    HostShared,
    /// Always a guest's kernel.
    Guest,
}

/// A guest's kernel. Those in QEMU have this machine's architecture; User-Mode Linux exists for x86-64
/// only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kernel {
    /// The User-Mode Linux of this machine's own distribution.
    Uml,
    /// User-Mode Linux 5.10, of Debian 11.
    Uml5_10,
    /// User-Mode Linux 6.1, of Debian 12.
    Uml6_1,
    /// User-Mode Linux 6.12, of Debian 13.
    Uml6_12,
    /// The User-Mode Linux in Debian testing now, of any release.
    UmlTesting,
    /// Debian 11's kernel 5.10 in QEMU.
    Qemu5_10,
    /// Debian 12's kernel 6.1 in QEMU.
    Qemu6_1,
    /// Debian 13's kernel 6.12 in QEMU.
    Qemu6_12,
    /// The newest kernel in Debian 13's backports, in QEMU.
    QemuBackports,
    /// The newest kernel in Debian unstable, in QEMU.
    QemuUnstable,
}

impl Options {
    /// The defaults, overridden by the `LVS_GUEST_*` variables (see the crate's page).
    ///
    /// # Errors
    ///
    /// A variable has an invalid value.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variables(|name| env::var_os(name))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        // An empty variable counts as unset: `LVS_GUEST_UML= cargo test` overrides an exported one.
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        let mut options = Self::default();
        if let Some(value) = variable("LVS_GUEST_PLACE") {
            options.choice = parse("LVS_GUEST_PLACE", &value, Choice::EXPECTED)?;
        }
        if let Some(value) = variable("LVS_GUEST_KERNEL") {
            options.kernel = Some(parse("LVS_GUEST_KERNEL", &value, Kernel::EXPECTED)?);
        }
        if let Some(value) = variable("LVS_GUEST_TIME_LIMIT") {
            let seconds = parse("LVS_GUEST_TIME_LIMIT", &value, "a number of seconds")?;
            options.time_limit = time_limit(seconds);
        }
        if let Some(value) = variable("LVS_GUEST_MEMORY") {
            options.memory = parse("LVS_GUEST_MEMORY", &value, "a number of MiB")?;
        }
        if let Some(value) = variable("LVS_GUEST_VERBOSE") {
            options.verbose = switch("LVS_GUEST_VERBOSE", &value)?;
        }
        if let Some(value) = variable("LVS_GUEST_SHIM") {
            options.shim = Some(switch("LVS_GUEST_SHIM", &value)?);
        }
        if let Some(value) = variable("LVS_GUEST_WRITE") {
            options.write = env::split_paths(&value).collect();
        }
        options.uml = variable("LVS_GUEST_UML").map(PathBuf::from);
        options.uml_modules = variable("LVS_GUEST_UML_MODULES").map(PathBuf::from);
        options.cache = variable("LVS_GUEST_CACHE").map(PathBuf::from);
        options.keyring = variable("LVS_GUEST_KEYRING").map(PathBuf::from);
        if let Some(value) = variable("LVS_GUEST_MIRROR") {
            options.mirror = Some(parse("LVS_GUEST_MIRROR", &value, "an address or a directory")?);
        }
        Ok(options)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            choice: Choice::default(),
            kernel: None,
            time_limit: Some(Duration::from_secs(600)),
            memory: 512,
            modules: vec!["ip_vs".to_owned()],
            verbose: false,
            write: Vec::new(),
            uml: None,
            uml_modules: None,
            shim: None,
            cache: None,
            mirror: None,
            keyring: None,
        }
    }
}

impl Choice {
    const EXPECTED: &'static str = "any, host, host-shared or guest";
}

impl FromStr for Choice {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "any" => Ok(Self::Any),
            "host" => Ok(Self::Host),
            "host-shared" => Ok(Self::HostShared),
            "guest" => Ok(Self::Guest),
            _ => Err(Self::EXPECTED),
        }
    }
}

impl Kernel {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Uml,
        Self::Uml5_10,
        Self::Uml6_1,
        Self::Uml6_12,
        Self::UmlTesting,
        Self::Qemu5_10,
        Self::Qemu6_1,
        Self::Qemu6_12,
        Self::QemuBackports,
        Self::QemuUnstable,
    ];
    const EXPECTED: &'static str = "uml, uml-5.10, uml-6.1, uml-6.12, uml-testing, qemu-5.10, \
                                    qemu-6.1, qemu-6.12, qemu-backports or qemu-unstable";

    /// Its name in `LVS_GUEST_KERNEL`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uml => "uml",
            Self::Uml5_10 => "uml-5.10",
            Self::Uml6_1 => "uml-6.1",
            Self::Uml6_12 => "uml-6.12",
            Self::UmlTesting => "uml-testing",
            Self::Qemu5_10 => "qemu-5.10",
            Self::Qemu6_1 => "qemu-6.1",
            Self::Qemu6_12 => "qemu-6.12",
            Self::QemuBackports => "qemu-backports",
            Self::QemuUnstable => "qemu-unstable",
        }
    }

    /// What this kernel lacks, compared with the first choice.
    pub(crate) fn drawback(self) -> &'static str {
        match self {
            Self::UmlTesting => " (it has no packet filter: no iptables, no nft)",
            kernel if kernel.is_qemu() => " (it takes seconds to boot)",
            _ => "",
        }
    }

    /// Whether it runs in QEMU, not as User-Mode Linux.
    pub(crate) fn is_qemu(self) -> bool {
        self.name().starts_with("qemu")
    }

    /// The suites of Debian's archive that have it; none for the machine's own.
    pub(crate) fn suites(self) -> &'static [&'static str] {
        match self {
            Self::Uml => &[],
            Self::Uml5_10 => &["bullseye"],
            Self::Uml6_1 => &["bookworm"],
            Self::Uml6_12 => &["trixie"],
            Self::UmlTesting => &["testing"],
            Self::Qemu5_10 => &["bullseye", "bullseye-security"],
            Self::Qemu6_1 => &["bookworm", "bookworm-security"],
            Self::Qemu6_12 => &["trixie", "trixie-security"],
            Self::QemuBackports => &["trixie-backports"],
            Self::QemuUnstable => &["unstable"],
        }
    }

    /// The start of its release; empty if that changes over time.
    pub(crate) fn release(self) -> &'static str {
        match self {
            Self::Uml | Self::UmlTesting | Self::QemuBackports | Self::QemuUnstable => "",
            Self::Uml5_10 | Self::Qemu5_10 => "5.10.",
            Self::Uml6_1 | Self::Qemu6_1 => "6.1.",
            Self::Uml6_12 | Self::Qemu6_12 => "6.12.",
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kernel {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kernel| kernel.name() == text).ok_or(Self::EXPECTED)
    }
}

/// A time limit in seconds, where 0 is none.
fn time_limit(seconds: u32) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

fn switch(name: &'static str, value: &OsString) -> Result<bool, Error> {
    match value.to_str() {
        Some("0") => Ok(false),
        Some("1") => Ok(true),
        _ => Err(setting(name, value, "0 or 1")),
    }
}

fn parse<T: FromStr>(
    name: &'static str,
    value: &OsString,
    expected: &'static str,
) -> Result<T, Error> {
    value.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| setting(name, value, expected))
}

fn setting(name: &'static str, value: &OsString, expected: &'static str) -> Error {
    Error::Setting { name, value: value.to_string_lossy().into_owned(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(variables: &[(&str, &str)]) -> Result<Options, Error> {
        Options::from_variables(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn variables_override_the_defaults() {
        assert_eq!(options(&[]).unwrap(), Options::default());
        assert_eq!(options(&[("LVS_GUEST_UML", "")]).unwrap(), Options::default());
        let all = options(&[
            ("LVS_GUEST_PLACE", "host-shared"),
            ("LVS_GUEST_KERNEL", "uml-6.12"),
            ("LVS_GUEST_TIME_LIMIT", "5"),
            ("LVS_GUEST_MEMORY", "64"),
            ("LVS_GUEST_VERBOSE", "1"),
            ("LVS_GUEST_WRITE", "/a:/b c"),
            ("LVS_GUEST_UML", "/uml"),
            ("LVS_GUEST_UML_MODULES", "/modules"),
            ("LVS_GUEST_SHIM", "0"),
            ("LVS_GUEST_CACHE", "/cache"),
            ("LVS_GUEST_MIRROR", "http://mirror.example/debian"),
            ("LVS_GUEST_KEYRING", "/keys"),
        ]);
        let expected = Options {
            choice: Choice::HostShared,
            kernel: Some(Kernel::Uml6_12),
            time_limit: Some(Duration::from_secs(5)),
            memory: 64,
            modules: vec!["ip_vs".to_owned()],
            verbose: true,
            write: vec!["/a".into(), "/b c".into()],
            uml: Some("/uml".into()),
            uml_modules: Some("/modules".into()),
            shim: Some(false),
            cache: Some("/cache".into()),
            mirror: Some("http://mirror.example/debian".into()),
            keyring: Some("/keys".into()),
        };
        assert_eq!(all.unwrap(), expected);
        assert_eq!(options(&[("LVS_GUEST_TIME_LIMIT", "0")]).unwrap().time_limit, None);
    }

    #[test]
    fn a_value_that_means_nothing_is_named() {
        for (name, value) in [
            ("LVS_GUEST_PLACE", "Host"),
            ("LVS_GUEST_KERNEL", "uml-6"),
            ("LVS_GUEST_TIME_LIMIT", "1.5"),
            ("LVS_GUEST_MEMORY", "1G"),
            ("LVS_GUEST_VERBOSE", "yes"),
            ("LVS_GUEST_SHIM", "on"),
        ] {
            let error = options(&[(name, value)]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name}={value}: expected ")), "{error}");
        }
    }
}
