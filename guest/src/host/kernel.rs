//! The kernel that was asked for, fetched if need be.

use std::{fs, io, os::unix::fs::symlink, path::Path};

use nix::unistd::{self, AccessFlags};

use crate::{
    error::{Context, Error},
    host::{
        cache::{self, remove},
        engine::Engine,
        fetch::{Apt, fetch, said},
        qemu::{self, Machine},
        uml::Uml,
    },
    options::{Kernel, Options},
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
    let cache = cache::directory(options)?;
    let name = suites.first().map_or_else(cache::system_name, |suite| (*suite).to_owned());
    cache::kept(&cache, &format!("{UML}-{name}"), below, |partial| {
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
    let cache = cache::directory(options)?;
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
    cache::kept(&cache, &format!("linux-{kernel}"), machine, |partial| {
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

#[cfg(test)]
mod tests {
    use super::*;

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
