//! Debian's package of User-Mode Linux, had without root.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::time::Instant;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{self, AccessFlags, Uid};

use crate::error::{Context, Error};
use crate::options::Options;

const PACKAGE: &str = "user-mode-linux";
/// Where the package has its kernel and its modules.
const BINARY: &str = "usr/bin/linux.uml";
const MODULES: &str = "usr/lib/uml/modules";
/// The C library that a kernel of another release is linked with.
const LIBRARY: &str = "libc6";
/// The keys of Debian's archive.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Where a package is fetched before it is whole.
const PARTIAL: &str = "partial-";

/// A User-Mode Linux kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Uml {
    pub(crate) binary: PathBuf,
    /// The directory that holds its modules, in one named by the kernel's release.
    pub(crate) modules: PathBuf,
    /// The directory in which it finds its program interpreter, and that of its C library, if they
    /// are not the machine's own.
    pub(crate) library: Option<(PathBuf, PathBuf)>,
}

/// The kernel that was asked for, that is installed, or that was fetched; fetches it otherwise.
pub(crate) fn find(options: &Options) -> Result<Uml, Error> {
    if !cfg!(target_arch = "x86_64") {
        let reason = "User-Mode Linux runs on x86-64 only".to_owned();
        return Err(Error::NoKernel { reason });
    }
    if let Some(binary) = &options.uml {
        return given(binary, options.uml_modules.as_deref());
    }
    let suite = options.kernel.suite();
    if let Some(installed) = below(Path::new("/")).filter(|_| suite.is_none()) {
        return Ok(installed);
    }
    let cache = cache_directory(options)?;
    let name = suite.map_or_else(system_name, |(suite, _)| suite.to_owned());
    let unpacked = cache.join(format!("{PACKAGE}-{name}"));
    if let Some(fetched) = below(&unpacked) {
        return Ok(fetched);
    }
    let lock_path = cache.join("lock");
    let lock = File::create(&lock_path).context("make", lock_path.display())?;
    let _lock = match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((lock, _)) => {
            eprintln!("guest: waiting for another process that fetches the package {PACKAGE}");
            Flock::lock(lock, FlockArg::LockExclusive)
                .map_err(|(_, error)| error)
                .context("lock", lock_path.display())?
        }
    };
    if let Some(fetched) = below(&unpacked) {
        return Ok(fetched);
    }
    // Nobody else is here: what there is was left by a run that was ended half-way. Its apt may be
    // at work still, so that the directory's name is not used again.
    for entry in fs::read_dir(&cache).context("read", cache.display())?.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(PARTIAL.as_bytes()) {
            remove(&entry.path())?;
        }
    }
    let partial = cache.join(format!("{PARTIAL}{}", process::id()));
    let result = fetch(&partial, suite.map(|(suite, _)| suite)).and_then(|()| {
        let tree = partial.join("tree");
        let Some(kernel) = below(&tree) else {
            let reason = format!("the package {PACKAGE} has no {BINARY} or no {MODULES}");
            return Err(Error::NoKernel { reason });
        };
        if let Some((suite, release)) = suite {
            check_release(&kernel, suite, release)?;
            use_own_library(&tree)?;
        }
        remove(&unpacked)?;
        fs::rename(&tree, &unpacked).context("rename", tree.display())
    });
    remove(&partial)?;
    result?;
    below(&unpacked)
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        .context("find the kernel in", unpacked.display())
}

/// The kernel that the user named.
fn given(binary: &Path, modules: Option<&Path>) -> Result<Uml, Error> {
    let real = fs::canonicalize(binary).context("find", binary.display())?;
    unistd::access(&real, AccessFlags::X_OK).context("run", binary.display())?;
    let modules = match modules {
        Some(modules) => modules.to_owned(),
        None => {
            real.parent().and_then(Path::parent).unwrap_or(Path::new("/")).join("lib/uml/modules")
        }
    };
    let modules = fs::canonicalize(&modules)
        .context("find the kernel's modules (LVS_GUEST_UML_MODULES) in", modules.display())?;
    Ok(Uml { binary: real, modules, library: None })
}

/// The kernel of a package that was unpacked in a directory.
fn below(directory: &Path) -> Option<Uml> {
    let (binary, modules) = (directory.join(BINARY), directory.join(MODULES));
    let there = unistd::access(&binary, AccessFlags::X_OK).is_ok() && modules.is_dir();
    let own = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
        .map(|name| directory.join(name))
        .into_iter()
        .find(|path| directory != Path::new("/") && path.join("libc.so.6").exists());
    let library = own.map(|path| (directory.to_owned(), path));
    there.then_some(Uml { binary, modules, library })
}

/// Suites that are not released yet move on to newer kernels.
fn check_release(kernel: &Uml, suite: &str, release: &str) -> Result<(), Error> {
    let names: Vec<String> = fs::read_dir(&kernel.modules)
        .context("read", kernel.modules.display())?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    if names.iter().any(|name| name.starts_with(release)) {
        return Ok(());
    }
    let names = names.join(", ");
    let reason = format!("Debian's {suite} has User-Mode Linux {names} now, not {release}x");
    Err(Error::NoKernel { reason })
}

/// Makes a kernel look for its program interpreter below the directory in which it is started: the
/// name loses its leading slash, which needs no other change to the file.
fn use_own_library(tree: &Path) -> Result<(), Error> {
    const NAME: &[u8] = b"/lib64/ld-linux-x86-64.so.2\0";
    let binary = tree.join(BINARY);
    let mut bytes = fs::read(&binary).context("read", binary.display())?;
    let at = bytes
        .windows(NAME.len())
        .position(|window| window == NAME)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
        .context("find the program interpreter of", binary.display())?;
    bytes[at..at + NAME.len() - 1].copy_from_slice(&NAME[1..]);
    fs::write(&binary, bytes).context("write", binary.display())?;
    let Some(Uml { library: Some((_, library)), .. }) = below(tree) else {
        return Err(io::Error::from(io::ErrorKind::NotFound))
            .context("find the C library in", tree.display());
    };
    // The interpreter is beside the library. Links of the package's own may lead out of the tree.
    let link = tree.join("lib64");
    remove(&link)?;
    let target = library.strip_prefix(tree).unwrap_or(&library);
    symlink(target, &link).context("make", link.display())
}

/// Fetches the package into a directory and unpacks it in `tree` there; if it is a suite's, with the
/// C library of the suite.
fn fetch(directory: &Path, suite: Option<&str>) -> Result<(), Error> {
    let started = Instant::now();
    let of = suite.map(|suite| format!(" of Debian's {suite}")).unwrap_or_default();
    eprintln!(
        "guest: fetching the package {PACKAGE}{of}, a kernel with IPVS, once (about 50 MB) ..."
    );
    for name in ["lists/partial", "archives/partial", "tree"] {
        let path = directory.join(name);
        fs::create_dir_all(&path).context("make the directory", path.display())?;
    }
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).context("write", path.display())
    };
    write("status", "")?;
    let configuration = apt_configuration(directory);
    write("apt.conf", &configuration)?;
    let apt = |verb: &[&str]| {
        let mut command = Command::new("apt-get");
        command.arg("-c").arg(directory.join("apt.conf")).args(verb).current_dir(directory);
        command
    };
    let mut packages = vec!["-q", "download", PACKAGE];
    if let Some(suite) = suite {
        packages.push(LIBRARY);
        let addresses = said(&mut apt(&["--print-uris", "update"]))?;
        let mirror = mirror(&addresses).ok_or_else(|| {
            let reason = "this machine's apt has no source of Debian's archive".to_owned();
            Error::NoKernel { reason }
        })?;
        let keys = if Path::new(KEYRING).exists() {
            format!(" [signed-by={KEYRING}]")
        } else {
            String::new()
        };
        write("sources.list", &format!("deb{keys} {mirror} {suite} main\n"))?;
        let sources = directory.join("sources.list");
        let sources = format!(
            "Dir::Etc::sourcelist \"{}\";\nDir::Etc::sourceparts \"/dev/null\";\n",
            sources.display()
        );
        write("apt.conf", &(configuration + &sources))?;
    }
    // A failure of one of several sources need not matter. Its words do, if the package is not had.
    let update = said(&mut apt(&["-q", "update"]));
    if let Err(Error::NoKernel { .. }) = update {
        return update.map(drop);
    }
    if let Err(download) = said(&mut apt(&packages)) {
        return Err(match (update, download) {
            (Err(Error::Fetch { words, .. }), Error::Fetch { command, words: more }) => {
                Error::Fetch { command, words: format!("{words}\n{more}") }
            }
            (Ok(_), Error::Fetch { words, .. }) if words.contains("Unable to locate") => {
                Error::NoKernel { reason: format!("apt says: {words}") }
            }
            (_, download) => download,
        });
    }
    for entry in fs::read_dir(directory).context("read", directory.display())?.flatten() {
        let path = entry.path();
        if path.extension() == Some(OsStr::new("deb")) {
            said(Command::new("dpkg").arg("-x").arg(&path).arg(directory.join("tree")))?;
        }
    }
    eprintln!("guest: fetched in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// The mirror that this machine uses of Debian's archive, from what apt would fetch: one has the
/// other suites as well. It is the source that has a suite of updates; others of the machine's
/// sources may be somebody else's.
fn mirror(addresses: &str) -> Option<&str> {
    let sources = || {
        addresses
            .lines()
            .filter_map(|line| line.strip_prefix('\'')?.split('\'').next()?.split_once("/dists/"))
            .filter(|(mirror, _)| !mirror.contains("security"))
    };
    let updated = sources()
        .find(|(_, rest)| rest.split('/').next().is_some_and(|suite| suite.ends_with("-updates")));
    updated.or_else(|| sources().next()).map(|(mirror, _)| mirror)
}

/// What apt is told, in a file, since a list cannot be emptied on its command line. All that it
/// writes goes below one directory; the machine's sources and keys are its own.
fn apt_configuration(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        r#"#clear APT::Update;
#clear DPkg;
#clear APT::Architectures;
#clear Acquire::Languages;
Dir::State "{directory}";
Dir::State::status "{directory}/status";
Dir::State::lists "{directory}/lists";
Dir::Cache "{directory}";
Dir::Cache::archives "{directory}/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages {{ "none"; }};
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::CNF::DefaultEnabled "false";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
"#
    )
}

/// Runs a command to its end: what it said, or its own words as the error if it fails.
fn said(command: &mut Command) -> Result<String, Error> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.env("LC_ALL", "C").stdin(Stdio::null()).output().map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            Error::NoKernel { reason: format!("there is no {name} on this machine") }
        } else {
            Error::Fetch { command: name.clone(), words: error.to_string() }
        }
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let words = format!("{}\n({})", words.trim_end(), output.status);
    Err(Error::Fetch { command: name, words })
}

/// Where packages are kept: where the user said, or the first place that this user may have.
fn cache_directory(options: &Options) -> Result<PathBuf, Error> {
    if let Some(path) = &options.cache {
        let made = fs::create_dir_all(path).and_then(|()| std::path::absolute(path));
        return made
            .map_err(|error| Error::Cache { path: path.clone(), reason: error.to_string() });
    }
    let variable =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let places = [variable("XDG_CACHE_HOME"), variable("HOME").map(|home| home.join(".cache"))];
    let own = places.into_iter().flatten().map(|place| place.join("lvs-guest")).find(|path| {
        // With sudo, HOME can be another user's: nothing of root's is left there.
        let nearest = path.ancestors().find(|path| path.exists());
        nearest.is_some_and(is_own)
            && fs::create_dir_all(path).is_ok()
            && unistd::access(path, AccessFlags::W_OK).is_ok()
    });
    own.map_or_else(|| temporary_cache(Path::new("/tmp")), Ok)
}

/// A directory where everybody may write: another user must not have made what is run from there.
fn temporary_cache(base: &Path) -> Result<PathBuf, Error> {
    let path = base.join(format!("lvs-guest-cache-{}", Uid::effective()));
    let refused = |reason: String| Err(Error::Cache { path: path.clone(), reason });
    match DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => refused(error.to_string()),
        _ => match fs::symlink_metadata(&path) {
            Err(error) => refused(error.to_string()),
            Ok(metadata) if !metadata.is_dir() => refused("it is not a directory".to_owned()),
            Ok(metadata) if metadata.uid() != Uid::effective().as_raw() => {
                refused("it belongs to another user".to_owned())
            }
            Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => {
                refused("other users have rights to it".to_owned())
            }
            Ok(_) => Ok(path),
        },
    }
}

fn is_own(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.uid() == Uid::effective().as_raw())
}

/// This machine's distribution and release, as `debian-12`: a kernel fetched on one may not run on
/// another that shares the home directory.
fn system_name() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |key| {
        text.lines()
            .filter_map(|line| line.split_once('='))
            .find_map(|(name, value)| (name == key).then_some(value.trim_matches('"')))
            .unwrap_or("unknown")
    };
    format!("{}-{}", value("ID"), value("VERSION_ID")).replace('/', "-")
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context("remove", path.display())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_others_may_have_made_is_refused() {
        let base = std::env::temp_dir().join(format!("guest-cache-test-{}", process::id()));
        fs::create_dir_all(&base).unwrap();
        let path = temporary_cache(&base).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_eq!(temporary_cache(&base).unwrap(), path);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(temporary_cache(&base), Err(Error::Cache { .. })));
        fs::remove_dir(&path).unwrap();
        symlink("/", &path).unwrap();
        assert!(matches!(temporary_cache(&base), Err(Error::Cache { .. })));
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn the_mirror_is_the_one_with_updates() {
        let line = |address: &str| format!("'{address}/InRelease' file_InRelease 0 \n");
        let other = line("https://other.example/linux/debian/dists/stable");
        let security = line("http://mirror.example/debian-security/dists/bookworm-security");
        let main = line("http://mirror.example/debian/dists/bookworm");
        let updates = line("http://mirror.example/debian/dists/bookworm-updates");
        let all = format!("{other}{security}{main}{updates}");
        assert_eq!(mirror(&all), Some("http://mirror.example/debian"));
        assert_eq!(mirror(&format!("{security}{main}")), Some("http://mirror.example/debian"));
        assert_eq!(mirror(&security), None);
        assert_eq!(mirror("nonsense\n'/dists\n"), None);
    }

    #[test]
    fn a_kernel_that_is_not_there_is_named() {
        let options = Options { uml: Some("/no/such/linux.uml".into()), ..Options::default() };
        if cfg!(target_arch = "x86_64") {
            assert!(find(&options).unwrap_err().to_string().contains("/no/such/linux.uml"));
        }
    }
}
