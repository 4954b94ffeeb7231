//! Debian's packages of kernels, had without root.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    time::Instant,
};

use nix::{
    fcntl::{Flock, FlockArg},
    unistd::{self, AccessFlags, Uid},
};

use crate::{
    error::{Context, Error},
    options::{Kernel, Options},
    qemu::{self, Machine},
    runner::Engine,
    uml::Uml,
};

const UML: &str = "user-mode-linux";
/// Where the package of User-Mode Linux has its kernel and its modules.
const UML_BINARY: &str = "usr/bin/linux.uml";
const UML_MODULES: &str = "usr/lib/uml/modules";
/// The C library that a kernel of another release is linked with.
const LIBRARY: &str = "libc6";
/// How the packages of kernels for virtual machines are named, around the kernel's release.
const IMAGE: &str = "linux-image-";
const CLOUD: &str = "-cloud-amd64";
/// From 7.2 on the kernel, its modules and their list are in packages of their own.
const IMAGE_PARTS: [&str; 3] = ["linux-binary-", "linux-modules-", "linux-base-"];
/// Where they have the modules: older ones in the second.
const MODULES: [&str; 2] = ["usr/lib/modules", "lib/modules"];
/// The keys of Debian's archive.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Where a package is fetched before it is whole.
const PARTIAL: &str = "partial-";
/// Where it is unpacked there.
const TREE: &str = "tree";

/// The kernel that was asked for, that is installed, or that was fetched; fetches it otherwise.
pub(crate) fn find(options: &Options) -> Result<Engine, Error> {
    if !cfg!(target_arch = "x86_64") {
        let reason = "the guests' kernels run on x86-64 only".to_owned();
        return Err(Error::NoKernel { reason });
    }
    if options.kernel.is_qemu() {
        find_machine(options).map(Engine::Qemu)
    } else {
        find_uml(options).map(Engine::Uml)
    }
}

fn find_uml(options: &Options) -> Result<Uml, Error> {
    if let Some(binary) = &options.uml {
        return given(binary, options.uml_modules.as_deref());
    }
    let suites = options.kernel.suites();
    if let Some(installed) = below(Path::new("/")).filter(|_| suites.is_empty()) {
        return Ok(installed);
    }
    let cache = cache_directory(options)?;
    let name = suites.first().map_or_else(system_name, |suite| (*suite).to_owned());
    kept(&cache, &format!("{UML}-{name}"), below, |partial| {
        let tree = fetch(partial, suites, |_| {
            let library = (!suites.is_empty()).then_some(LIBRARY);
            Ok([Some(UML), library].into_iter().flatten().map(str::to_owned).collect())
        })?;
        let Some(kernel) = below(&tree) else {
            let reason = format!("the package {UML} has no {UML_BINARY} or no {UML_MODULES}");
            return Err(Error::NoKernel { reason });
        };
        if let Some(suite) = suites.first() {
            check_release(&kernel, suite, options.kernel.release())?;
            use_own_library(&tree)?;
        }
        Ok(())
    })
}

fn find_machine(options: &Options) -> Result<Machine, Error> {
    let (program, file_server) = qemu::programs()?;
    let cache = cache_directory(options)?;
    let machine = |tree: &Path| {
        let modules = MODULES.map(|name| tree.join(name)).into_iter().find(|path| path.is_dir())?;
        let release = fs::read_dir(&modules).ok()?.next()?.ok()?.file_name();
        let release = release.to_string_lossy().into_owned();
        // From 7.2 on it is with the modules.
        let boot = tree.join("boot").join(format!("vmlinuz-{release}"));
        let places = [modules.join(&release).join("vmlinuz"), boot];
        let kernel = places.into_iter().find(|path| path.is_file())?;
        let (program, file_server, cache) = (program.clone(), file_server.clone(), cache.clone());
        Some(Machine { kernel, release, modules, cache, program, file_server })
    };
    let kernel = options.kernel;
    kept(&cache, &format!("linux-{kernel}"), machine, |partial| {
        let tree = fetch(partial, kernel.suites(), |apt| image_packages(apt, kernel))?;
        let Some(machine) = machine(&tree) else {
            let reason = format!("the package of {kernel} has no kernel or no modules");
            return Err(Error::NoKernel { reason });
        };
        // Where depmod looks.
        if !tree.join("lib").exists() {
            symlink("usr/lib", tree.join("lib")).context("make the link", "lib")?;
        }
        qemu::write_module_lists(&tree, &machine.release)
    })
}

/// What a directory of the cache has, which is filled by unpacking a package if it is not there.
fn kept<T>(
    cache: &Path,
    name: &str,
    look: impl Fn(&Path) -> Option<T>,
    fill: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<T, Error> {
    let unpacked = cache.join(name);
    if let Some(found) = look(&unpacked) {
        return Ok(found);
    }
    let lock_path = cache.join("lock");
    let lock = File::create(&lock_path).context("make", lock_path.display())?;
    let _lock = match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((lock, _)) => {
            eprintln!("guest: waiting for another process that fetches a kernel");
            Flock::lock(lock, FlockArg::LockExclusive)
                .map_err(|(_, error)| error)
                .context("lock", lock_path.display())?
        }
    };
    if let Some(found) = look(&unpacked) {
        return Ok(found);
    }
    // Nobody else is here: what there is was left by a run that was ended half-way. Its apt may be
    // at work still, so that the directory's name is not used again.
    for entry in fs::read_dir(cache).context("read", cache.display())?.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(PARTIAL.as_bytes()) {
            remove(&entry.path())?;
        }
    }
    let partial = cache.join(format!("{PARTIAL}{}", process::id()));
    let result = fill(&partial).and_then(|()| {
        let tree = partial.join(TREE);
        remove(&unpacked)?;
        fs::rename(&tree, &unpacked).context("rename", tree.display())
    });
    remove(&partial)?;
    result?;
    look(&unpacked)
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        .context("find the kernel in", unpacked.display())
}

/// The packages of the newest kernel, among those that apt knows, whose release begins as asked.
fn image_packages(apt: &Apt<'_>, kernel: Kernel) -> Result<Vec<String>, Error> {
    let names = said(&mut apt.command("apt-cache", &["pkgnames", IMAGE]))?;
    let Some(image) = newest_image(&names, kernel.release()) else {
        let (suites, release) = (kernel.suites().join(", "), kernel.release());
        let reason = format!("Debian's {suites} have no package {IMAGE}{release}*{CLOUD} any more");
        return Err(Error::NoKernel { reason });
    };
    let description = said(&mut apt.command("apt-cache", &["show", image]))?;
    let depends = description.lines().find_map(|line| line.strip_prefix("Depends: "));
    let parts = depends
        .unwrap_or_default()
        .split(", ")
        .filter_map(|package| package.split(' ').next())
        .filter(|package| IMAGE_PARTS.iter().any(|part| package.starts_with(part)));
    Ok([image].into_iter().chain(parts).map(str::to_owned).collect())
}

/// The name with the highest numbers in it: `linux-image-6.12.117+deb13-cloud-amd64`.
fn newest_image<'a>(names: &'a str, release: &str) -> Option<&'a str> {
    let numbers = |name: &str| -> Vec<u64> {
        name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
    };
    names
        .lines()
        .filter_map(|name| {
            let version = name.strip_prefix(IMAGE)?.strip_suffix(CLOUD)?;
            let dotted = version.starts_with(|c: char| c.is_ascii_digit())
                && version.matches('.').count() > 1
                && version.starts_with(release);
            dotted.then(|| (numbers(version), name))
        })
        .max()
        .map(|(_, name)| name)
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
    let (binary, modules) = (directory.join(UML_BINARY), directory.join(UML_MODULES));
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
    let binary = tree.join(UML_BINARY);
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

/// apt with a state directory of its own.
struct Apt<'a> {
    directory: &'a Path,
}

impl Apt<'_> {
    fn command(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.directory.join("apt.conf")).args(words);
        command.current_dir(self.directory);
        command
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.directory.join(name);
        fs::write(&path, text).context("write", path.display())
    }
}

/// Fetches the chosen packages into a directory and unpacks them in `tree` there; from Debian's
/// suites, or without any from the machine's own sources.
fn fetch(
    directory: &Path,
    suites: &[&str],
    choose: impl FnOnce(&Apt<'_>) -> Result<Vec<String>, Error>,
) -> Result<PathBuf, Error> {
    let started = Instant::now();
    let of = if suites.is_empty() {
        String::new()
    } else {
        format!(" from Debian's {}", suites.join(", "))
    };
    eprintln!("guest: fetching a kernel with IPVS{of}, once (about 50 MB) ...");
    let tree = directory.join(TREE);
    for path in [directory.join("lists/partial"), directory.join("archives/partial"), tree.clone()]
    {
        fs::create_dir_all(&path).context("make the directory", path.display())?;
    }
    let apt = Apt { directory };
    apt.write("status", "")?;
    let configuration = apt_configuration(directory);
    apt.write("apt.conf", &configuration)?;
    if !suites.is_empty() {
        let addresses = said(&mut apt.command("apt-get", &["--print-uris", "update"]))?;
        let Some(lines) = source_lines(&addresses, suites) else {
            let reason = "this machine's apt has no source of Debian's archive".to_owned();
            return Err(Error::NoKernel { reason });
        };
        apt.write("sources.list", &lines)?;
        let sources = directory.join("sources.list");
        let sources = format!(
            "Dir::Etc::sourcelist \"{}\";\nDir::Etc::sourceparts \"/dev/null\";\n",
            sources.display()
        );
        apt.write("apt.conf", &(configuration + &sources))?;
    }
    // A failure of one of several sources need not matter. Its words do, if the package is not had.
    let update = said(&mut apt.command("apt-get", &["-q", "update"]));
    if let Err(Error::NoKernel { .. }) = update {
        return update.map(|_| tree);
    }
    let download = choose(&apt).and_then(|packages| {
        let mut words = vec!["-q", "download"];
        words.extend(packages.iter().map(String::as_str));
        said(&mut apt.command("apt-get", &words))
    });
    if let Err(download) = download {
        return Err(match (update, download) {
            (Err(Error::Fetch { words, .. }), Error::Fetch { command, words: more }) => {
                Error::Fetch { command, words: format!("{words}\n{more}") }
            }
            (Err(update), Error::NoKernel { .. }) => update,
            (Ok(_), Error::Fetch { words, .. }) if words.contains("Unable to locate") => {
                Error::NoKernel { reason: format!("apt says: {words}") }
            }
            (_, download) => download,
        });
    }
    for entry in fs::read_dir(directory).context("read", directory.display())?.flatten() {
        let path = entry.path();
        if path.extension() == Some(OsStr::new("deb")) {
            said(Command::new("dpkg").arg("-x").arg(&path).arg(&tree))?;
        }
    }
    eprintln!("guest: fetched in {:.1} s", started.elapsed().as_secs_f64());
    Ok(tree)
}

/// apt's lines for suites of Debian's archive, at the mirrors that this machine uses.
fn source_lines(addresses: &str, suites: &[&str]) -> Option<String> {
    let keys =
        if Path::new(KEYRING).exists() { format!(" [signed-by={KEYRING}]") } else { String::new() };
    let mirror = mirror(addresses)?;
    // A machine without updates of security gets what was in the archive's last edition.
    let security = security_mirror(addresses);
    let lines = suites.iter().filter_map(|suite| {
        let mirror = if suite.ends_with("-security") { security? } else { mirror };
        Some(format!("deb{keys} {mirror} {suite} main\n"))
    });
    Some(lines.collect())
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

/// The same of the archive of security updates.
fn security_mirror(addresses: &str) -> Option<&str> {
    addresses
        .lines()
        .filter_map(|line| line.strip_prefix('\'')?.split('\'').next()?.split_once("/dists/"))
        .find(|(_, rest)| rest.split('/').next().is_some_and(|suite| suite.ends_with("-security")))
        .map(|(mirror, _)| mirror)
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
        assert_eq!(security_mirror(&all), Some("http://mirror.example/debian-security"));
        assert_eq!(security_mirror(&main), None);
        assert_eq!(mirror("nonsense\n'/dists\n"), None);
    }

    #[test]
    fn the_newest_kernel_has_the_highest_numbers() {
        let names = "linux-image-6.12.90+deb13.1-cloud-amd64\nlinux-image-6.12-cloud-amd64\n\
            linux-image-6.12.117+deb13-cloud-amd64\nlinux-image-cloud-amd64\n\
            linux-image-6.12.118+deb13-amd64\nlinux-image-7.3.4+deb13-cloud-amd64\n\
            linux-image-7.2.13+deb14-cloud-amd64\nlinux-image-5.10.0-46-cloud-amd64\n";
        let newest = |release| newest_image(names, release);
        assert_eq!(newest("6.12."), Some("linux-image-6.12.117+deb13-cloud-amd64"));
        assert_eq!(newest("5.10."), Some("linux-image-5.10.0-46-cloud-amd64"));
        assert_eq!(newest(""), Some("linux-image-7.3.4+deb13-cloud-amd64"));
        assert_eq!(newest("6.18."), None);
    }

    #[test]
    fn a_kernel_that_is_not_there_is_named() {
        let options = Options { uml: Some("/no/such/linux.uml".into()), ..Options::default() };
        if cfg!(target_arch = "x86_64") {
            assert!(find(&options).unwrap_err().to_string().contains("/no/such/linux.uml"));
        }
    }
}
