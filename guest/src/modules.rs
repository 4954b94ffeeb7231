//! Loads kernel modules without kmod: `modules.dep` has each module's name with all that it needs,
//! `modules.alias` its other names.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    kmod::{self, ModuleInitFlags},
};

/// Parameters for modules. By default dummy makes a link when it loads, and the first link that the
/// user asks for would then be the second.
const PARAMETERS: [(&str, &std::ffi::CStr); 1] = [("dummy", c"numdummies=0")];

/// `MODULE_INIT_COMPRESSED_FILE`, from Linux 5.17 on: the kernel decompresses the module itself.
const COMPRESSED: ModuleInitFlags = ModuleInitFlags::from_bits_retain(4);

/// The modules of one kernel release: a directory as depmod leaves it.
pub(crate) struct Modules {
    directory: PathBuf,
}

impl Modules {
    pub(crate) fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Loads a module and those that it needs, by its name or by an alias, as
    /// `modprobe -q NAME` does. A module that is already loaded, or built in, is a success.
    pub(crate) fn load(&self, name: &str) -> io::Result<()> {
        let dependencies = self.read("modules.dep")?;
        if let Some(line) = dependency_line(&dependencies, name) {
            return self.load_line(line);
        }
        if built_in(&self.built_in()?.unwrap_or_default(), name) {
            return Ok(());
        }
        if self.is_alias_of_built_in(name) {
            return Ok(());
        }
        let aliases = self.read("modules.alias")?;
        let mut result = Err(io::Error::new(io::ErrorKind::NotFound, "no such module"));
        for line in modules_of_alias(&aliases, name)
            .filter_map(|module| dependency_line(&dependencies, module))
        {
            // An alias may have several modules; one that loads is enough.
            result = self.load_line(line).or_else(|error| result.map_err(|_| error));
        }
        result
    }

    /// The files to load for a module, in order; none if it is built in.
    pub(crate) fn files(&self, name: &str) -> io::Result<Vec<PathBuf>> {
        let dependencies = self.read("modules.dep")?;
        if let Some(line) = dependency_line(&dependencies, name) {
            return Ok(files_of(line).map(|file| self.directory.join(file)).collect());
        }
        // Without the list, a module without a file counts as built in.
        if self.built_in()?.is_none_or(|list| built_in(&list, name)) {
            return Ok(Vec::new());
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "no such module"))
    }

    /// Whether a module is here or built in, by its name or by an alias.
    pub(crate) fn has(&self, name: &str) -> bool {
        let has_alias = || {
            let aliases = self.read("modules.alias").unwrap_or_default();
            modules_of_alias(&aliases, name).next().is_some()
        };
        self.files(name).is_ok() || self.is_alias_of_built_in(name) || has_alias()
    }

    /// Whether something built in has an alias. Its properties are a list of entries such as
    /// `ext4.alias=fs-ext4`, each ended by a NUL.
    fn is_alias_of_built_in(&self, name: &str) -> bool {
        let properties = fs::read(self.directory.join("modules.builtin.modinfo"));
        let is_it = |property: &[u8]| {
            let text = String::from_utf8_lossy(property);
            text.split_once(".alias=").is_some_and(|(_, alias)| same_name(alias, name))
        };
        properties.is_ok_and(|properties| properties.split(|byte| *byte == 0).any(is_it))
    }

    /// The list of built-in modules, if there is one: since 6.18 it is in a separate package.
    fn built_in(&self) -> io::Result<Option<String>> {
        match self.read("modules.builtin") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            list => list.map(Some),
        }
    }

    fn read(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(self.directory.join(name))
    }

    fn load_line(&self, line: &str) -> io::Result<()> {
        files_of(line).try_for_each(|file| insert(&self.directory.join(file)))
    }
}

/// Loads a module's file; one that is already loaded is a success.
pub(crate) fn insert(path: &Path) -> io::Result<()> {
    let file = path.to_string_lossy();
    let name = module_name(&file);
    let parameters = PARAMETERS
        .iter()
        .find_map(|(module, parameters)| same_name(name, module).then_some(*parameters))
        .unwrap_or(c"");
    let flags = if file.ends_with(".ko") { ModuleInitFlags::empty() } else { COMPRESSED };
    match kmod::finit_module(&File::open(path)?, parameters, flags) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The files of a line of `modules.dep` in the order in which they are loaded. The line has the file,
/// a colon, and what it needs, the innermost last.
fn files_of(line: &str) -> impl Iterator<Item = &str> {
    let (file, needs) = line.split_once(':').unwrap_or((line, ""));
    needs.split_whitespace().rev().chain([file])
}

/// The line of `modules.dep` for a module.
fn dependency_line<'a>(dependencies: &'a str, name: &str) -> Option<&'a str> {
    dependencies.lines().find(|line| {
        line.split_once(':').is_some_and(|(file, _)| same_name(module_name(file), name))
    })
}

fn built_in(builtin: &str, name: &str) -> bool {
    builtin.lines().any(|file| same_name(module_name(file), name))
}

/// The modules with an alias.
fn modules_of_alias<'a>(aliases: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    aliases.lines().filter_map(move |line| {
        let (pattern, module) = line.strip_prefix("alias ")?.rsplit_once(' ')?;
        matches(pattern.as_bytes(), name.as_bytes()).then_some(module)
    })
}

/// `kernel/net/netfilter/ipvs/ip_vs_rr.ko` is `ip_vs_rr`.
fn module_name(file: &str) -> &str {
    let name = file.rsplit_once('/').map_or(file, |(_, name)| name);
    name.split_once(".ko").map_or(name, |(name, _)| name)
}

/// Module names are the same if they differ in `-` and `_` only.
fn same_name(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).all(|(a, b)| same_byte(a, b))
}

fn same_byte(a: u8, b: u8) -> bool {
    a == b || matches!((a, b), (b'-', b'_') | (b'_', b'-'))
}

/// Whether an alias' pattern matches a name. Patterns that the kernel's own code asks for have no
/// wildcard but `*`; here, the character classes of device tables match only themselves.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let Some(star) = pattern.iter().position(|&byte| byte == b'*') else {
        return pattern.len() == name.len() && starts_with(name, pattern);
    };
    let (start, rest) = (&pattern[..star], &pattern[star + 1..]);
    starts_with(name, start) && (start.len()..=name.len()).any(|at| matches(rest, &name[at..]))
}

fn starts_with(name: &[u8], start: &[u8]) -> bool {
    name.len() >= start.len() && name.iter().zip(start).all(|(&a, &b)| same_byte(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "kernel/fs/overlayfs/overlay.ko:\n\
        kernel/net/netfilter/ipvs/ip_vs_rr.ko: kernel/net/netfilter/ipvs/ip_vs.ko kernel/a.ko\n\
        kernel/net/netfilter/ipvs/ip_vs.ko: kernel/a.ko\n\
        kernel/lib/crc-ccitt.ko.xz:\n";
    const ALIASES: &str = "# Aliases\nalias fs-overlay overlay\nalias rtnl-link-dummy dummy\n\
        alias net-pf-16-proto-16-family-IPVS ip_vs\nalias char-major-116-* snd\n\
        alias ip_conntrack nf_conntrack_one\nalias ip_conntrack nf_conntrack_two\n";

    #[test]
    fn a_module_is_found_by_its_whole_name() {
        let line = |name| dependency_line(DEPENDENCIES, name);
        assert_eq!(line("overlay"), Some("kernel/fs/overlayfs/overlay.ko:"));
        assert_eq!(line("ip-vs"), Some("kernel/net/netfilter/ipvs/ip_vs.ko: kernel/a.ko"));
        assert_eq!(line("crc_ccitt"), Some("kernel/lib/crc-ccitt.ko.xz:"));
        assert_eq!(line("ip_v"), None);
        assert_eq!(line(""), None);
        assert!(built_in("kernel/fs/ext4/ext4.ko\n", "ext4"));
        assert!(!built_in("kernel/fs/ext4/ext4.ko\n", "ext"));
    }

    #[test]
    fn a_list_of_what_is_built_in_can_be_missing() {
        let directory = std::env::temp_dir().join(format!("guest-modules-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let write = |name, text| fs::write(directory.join(name), text).unwrap();
        write("modules.dep", DEPENDENCIES);
        write("modules.alias", ALIASES);
        let modules = Modules::new(&directory);
        let without = [modules.files("overlay"), modules.files("virtiofs")];
        write("modules.builtin", "kernel/fs/fuse/virtiofs.ko\n");
        write("modules.builtin.modinfo", "ext4.license=GPL\0ext4.alias=fs-ext4\0a.alias=b\0");
        for (name, is_there) in [
            ("overlay", true),
            ("virtiofs", true),
            ("fs-ext4", true),
            ("rtnl-link-dummy", true),
            ("nothing", false),
            ("GPL", false),
        ] {
            assert_eq!(modules.has(name), is_there, "{name}");
        }
        modules.load("fs_ext4").unwrap();
        let with = [modules.files("virtiofs"), modules.files("nothing")];
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(without[0].as_ref().unwrap().len(), 1);
        assert!(without[1].as_ref().unwrap().is_empty() && with[0].as_ref().unwrap().is_empty());
        assert_eq!(with[1].as_ref().unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn an_alias_names_its_modules() {
        let of = |name| modules_of_alias(ALIASES, name).collect::<Vec<_>>();
        assert_eq!(of("net-pf-16-proto-16-family-IPVS"), ["ip_vs"]);
        assert_eq!(of("rtnl-link-dummy"), ["dummy"]);
        assert_eq!(of("char-major-116-7"), ["snd"]);
        assert_eq!(of("ip_conntrack"), ["nf_conntrack_one", "nf_conntrack_two"]);
        assert!(of("net-pf-16-proto-16-family-NONE").is_empty());
        assert!(of("rtnl-link").is_empty());
    }

    #[test]
    fn patterns_match_as_a_shell_would() {
        for (pattern, name, expected) in [
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "acb", false),
            ("*", "", true),
            ("a", "ab", false),
            ("ab", "a", false),
            ("a-b*", "a_b-c", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
