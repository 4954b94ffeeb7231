//! Finds the requested kernel, and fetches it if necessary.

use std::{fs, io, os::unix::fs::symlink, path::Path};

use nix::unistd::{self, AccessFlags};

use crate::{
    architecture::Architecture,
    error::{Context, Error},
    host::{
        cache::{self, remove},
        engine::Engine,
        fetch::Fetch,
        find_program,
        mirror::Mirror,
        qemu::{self, Machine, Programs},
        uml::Uml,
    },
    options::{Kernel, Options},
    order::Files,
};

const UML: &str = "user-mode-linux";
/// The paths of the kernel and its modules in the package of User-Mode Linux.
const UML_BINARY: &str = "usr/bin/linux.uml";
const UML_MODULES: &str = "usr/lib/uml/modules";
/// The package of the C library that a kernel of another release is linked with.
const LIBRARY: &str = "libc6";
/// Prefix of the names of kernel images, before the kernel's release.
const IMAGE: &str = "linux-image-";
/// Prefix of the names of all packages of kernels.
const PACKAGES: &str = "linux-";
/// Prefixes of the packages that hold the kernel and its modules, if the image does not.
const NEEDED: [&str; 2] = ["linux-binary-", "linux-modules-"];
/// Prefix of the package that lists the built-in modules, if the image does not.
const USEFUL: &str = "linux-base-";
/// Where they hold the modules: older ones in the second.
const MODULES: [&str; 2] = ["usr/lib/modules", "lib/modules"];
/// Directories of drivers below, for devices that no guest has.
const NO_DEVICES: [&str; 12] = [
    "sound",
    "drivers/gpu",
    "drivers/hid",
    "drivers/iio",
    "drivers/infiniband",
    "drivers/media",
    "drivers/net/ethernet",
    "drivers/net/usb",
    "drivers/net/wireless",
    "drivers/scsi",
    "drivers/staging",
    "drivers/usb",
];

/// A kernel from this machine or from the cache, or else fetched.
pub(super) fn find(options: &Options, kernel: Kernel) -> Result<Engine, Error> {
    if kernel.is_qemu() {
        find_machine(options, kernel).map(Engine::Qemu)
    } else if !Architecture::has_uml_here() {
        let reason = "User-Mode Linux runs on x86-64 only".to_owned();
        Err(Error::NoKernel { reason })
    } else {
        find_uml(options, kernel).map(Engine::Uml)
    }
}

/// The User-Mode Linux kernel that is here already.
pub(super) fn uml_here(options: &Options, kernel: Kernel) -> Option<Uml> {
    let installed = || below(Path::new("/")).filter(|_| kernel == Kernel::Uml);
    let kept = || below(&cache::directory(options).ok()?.join(uml_name(options, kernel)));
    match &options.uml {
        Some(binary) => given(binary, options.uml_modules.as_deref()).ok(),
        None => installed().or_else(kept),
    }
}

/// Whether this machine has the programs that run the kernels named qemu-*.
pub(super) fn has_qemu() -> bool {
    Programs::find().is_ok()
}

/// Whether this machine can fetch User-Mode Linux.
pub(super) fn can_fetch(options: &Options) -> bool {
    Architecture::has_uml_here() && (options.mirror.is_some() || has_apt())
}

pub(super) fn has_apt() -> bool {
    find_program("apt-get").is_some()
}

/// The name of the directory in which a kernel is kept.
fn uml_name(options: &Options, kernel: Kernel) -> String {
    let suites = release_of(options, kernel).suites();
    let name = suites.first().map_or_else(cache::system_name, |suite| (*suite).to_owned());
    format!("{UML}-{name}")
}

/// The Debian release whose kernel `uml` is, so that one package is kept once: Debian 12's if there is no apt
/// to ask.
pub(super) fn release_of(options: &Options, kernel: Kernel) -> Kernel {
    released(kernel, &cache::system_name(), options.mirror.is_some() || !has_apt())
}

fn released(kernel: Kernel, system: &str, without_apt: bool) -> Kernel {
    match (kernel, system) {
        (Kernel::Uml, "debian-11") => Kernel::Uml5_10,
        (Kernel::Uml, "debian-12") => Kernel::Uml6_1,
        (Kernel::Uml, "debian-13") => Kernel::Uml6_12,
        (Kernel::Uml, _) if without_apt => Kernel::Uml6_1,
        (kernel, _) => kernel,
    }
}

fn find_uml(options: &Options, kernel: Kernel) -> Result<Uml, Error> {
    if let Some(binary) = &options.uml {
        return given(binary, options.uml_modules.as_deref());
    }
    if let Some(here) = uml_here(options, kernel) {
        return Ok(here);
    }
    let released = release_of(options, kernel);
    let suites = released.suites();
    let cache = cache::directory(options)?;
    cache::kept(&cache, &uml_name(options, kernel), below, |partial| {
        let tree = match &options.mirror {
            Some(mirror) => Mirror::new(mirror, partial, options)?.fetch(released)?,
            None => {
                let library = (!suites.is_empty()).then_some(LIBRARY);
                let packages = [Some(UML), library].into_iter().flatten().map(str::to_owned);
                Fetch::start(partial, suites)?.first_of(&[packages.collect()], "")?
            }
        };
        if below(&tree).is_none() {
            let reason = format!("the package {UML} has no {UML_BINARY} or no {UML_MODULES}");
            return Err(Error::NoKernel { reason });
        }
        if suites.is_empty() { Ok(()) } else { use_own_library(&tree) }
    })
}

fn find_machine(options: &Options, kernel: Kernel) -> Result<Machine, Error> {
    let programs = Programs::find()?;
    let flavour = programs.flavour();
    let name = match programs.files() {
        Files::NineP => format!("linux-{kernel}-generic"),
        _ => format!("linux-{kernel}"),
    };
    let cache = cache::directory(options)?;
    let machine = |tree: &Path| {
        let modules = MODULES.map(|name| tree.join(name)).into_iter().find(|path| path.is_dir())?;
        let release = fs::read_dir(&modules).ok()?.next()?.ok()?.file_name();
        let release = release.to_string_lossy().into_owned();
        // From 7.2 on, the kernel is beside the modules.
        let boot = tree.join("boot").join(format!("vmlinuz-{release}"));
        let places = [modules.join(&release).join("vmlinuz"), boot];
        let kernel = places.into_iter().find(|path| path.is_file())?;
        let (programs, cache) = (programs.clone(), cache.clone());
        Some(Machine { kernel, release, modules, cache, programs })
    };
    cache::kept(&cache, &name, machine, |partial| {
        let mut fetch = Fetch::start(partial, kernel.suites())?.trimmed(remove_drivers);
        let sets = image_packages(&mut fetch, kernel, &flavour)?;
        let (suites, release) = (kernel.suites().join(" and "), kernel.release());
        let none = format!("Debian's {suites} has no whole kernel {IMAGE}{release}*{flavour}");
        let tree = fetch.first_of(&sets, &none)?;
        let Some(machine) = machine(&tree) else {
            let reason = format!("the package of {kernel} has no kernel or no modules");
            return Err(Error::NoKernel { reason });
        };
        // depmod reads this path.
        if !tree.join("lib").exists() {
            symlink("usr/lib", tree.join("lib")).context("make the link", "lib")?;
        }
        qemu::write_module_lists(&tree, &machine.release)
    })
}

/// Removes the drivers of devices that no guest has: most of a kernel for any machine.
fn remove_drivers(tree: &Path) -> Result<(), Error> {
    for modules in MODULES.map(|name| tree.join(name)) {
        for release in fs::read_dir(modules).into_iter().flatten().flatten() {
            for name in NO_DEVICES {
                remove(&release.path().join("kernel").join(name))?;
            }
        }
    }
    Ok(())
}

/// The packages of the kernels whose release starts as requested, the newest kernel first.
fn image_packages(
    fetch: &mut Fetch<'_>,
    kernel: Kernel,
    flavour: &str,
) -> Result<Vec<Vec<String>>, Error> {
    let names = fetch.names(PACKAGES)?;
    let images = images(&names, kernel.release(), flavour);
    if images.is_empty() {
        return Ok(Vec::new());
    }
    let descriptions = fetch.show(&images)?;
    Ok(images.iter().filter_map(|image| parts(image, &descriptions, &names)).collect())
}

/// The images among the names of packages, the one with the highest numbers first:
/// `linux-image-6.12.117+deb13-cloud-amd64`.
fn images(names: &str, release: &str, flavour: &str) -> Vec<String> {
    let numbers = |name: &str| -> Vec<u64> {
        name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
    };
    let mut images: Vec<_> = names
        .lines()
        .filter_map(|name| {
            let version = name.strip_prefix(IMAGE)?.strip_suffix(flavour)?;
            // Without parts such as `rt` or `cloud`: these are other flavours.
            let plain =
                version.split('-').all(|part| part.starts_with(|c: char| c.is_ascii_digit()))
                    && version.matches('.').count() > 1
                    && version.starts_with(release);
            plain.then(|| (numbers(version), name.to_owned()))
        })
        .collect();
    images.sort();
    images.into_iter().rev().map(|(_, name)| name).collect()
}

/// The packages needed to boot an image: the image, and the packages of the kernel and its modules if
/// it depends on them. `None` if one of these is not among the names. The other dependencies matter
/// only on a machine where the image is installed.
fn parts(image: &str, descriptions: &str, names: &str) -> Option<Vec<String>> {
    let first = format!("Package: {image}");
    let description = descriptions.split("\n\n").find(|text| text.lines().any(|l| l == first))?;
    let depends = description.lines().find_map(|line| line.strip_prefix("Depends: "));
    let depends = depends.unwrap_or_default().split(", ");
    let is_there = |package: &str| names.lines().any(|name| name == package);
    let mut packages = vec![image.to_owned()];
    for package in depends.filter_map(|package| package.split(' ').next()) {
        let is_of = |parts: &[&str]| parts.iter().any(|part| package.starts_with(part));
        if is_of(&NEEDED) && !is_there(package) {
            return None;
        }
        if is_of(&NEEDED) || is_of(&[USEFUL]) && is_there(package) {
            packages.push(package.to_owned());
        }
    }
    Some(packages)
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

/// The kernel of a package that is unpacked in a directory.
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

/// Makes a kernel look for its program interpreter below its working directory: removes the leading
/// slash of the name, which needs no other change to the file.
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
    // The interpreter is beside the library. The package's own links may lead out of the tree.
    let link = tree.join("lib64");
    remove(&link)?;
    let target = library.strip_prefix(tree).unwrap_or(&library);
    symlink(target, &link).context("make", link.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOUD: &str = "-cloud-amd64";
    const GENERIC: &str = "-amd64";

    const NAMES: &str = "linux-image-6.12.90+deb13.1-cloud-amd64\nlinux-image-6.12-cloud-amd64\n\
        linux-image-6.12.117+deb13-cloud-amd64\nlinux-image-cloud-amd64\n\
        linux-image-6.12.118+deb13-amd64\nlinux-image-6.12.119+deb13-rt-amd64\nlinux-image-7.3.4+deb13-cloud-amd64-dbg\n\
        linux-image-7.3.4+deb13-cloud-amd64\nlinux-image-6.18.15+deb13-cloud-amd64\n\
        linux-image-6.19.14+deb13-cloud-amd64\nlinux-image-5.10.0-46-cloud-amd64\n\
        linux-binary-7.3.4+deb13-cloud-amd64\nlinux-modules-7.3.4+deb13-cloud-amd64\n\
        linux-base-7.3.4+deb13-cloud-amd64\nlinux-binary-6.19.14+deb13-cloud-amd64\nlinux-base\n";

    #[test]
    fn one_package_has_one_name() {
        assert_eq!(released(Kernel::Uml, "debian-12", false), Kernel::Uml6_1);
        assert_eq!(released(Kernel::Uml, "debian-13", true), Kernel::Uml6_12);
        assert_eq!(released(Kernel::Uml, "ubuntu-24.04", false), Kernel::Uml);
        assert_eq!(released(Kernel::Uml, "fedora-43", true), Kernel::Uml6_1);
        assert_eq!(released(Kernel::UmlTesting, "debian-12", true), Kernel::UmlTesting);
    }

    #[test]
    fn the_newest_kernel_has_the_highest_numbers() {
        assert_eq!(images(NAMES, "6.12.", GENERIC), ["linux-image-6.12.118+deb13-amd64"]);
        let images = |release| images(NAMES, release, CLOUD);
        let names = |releases: &[&str]| -> Vec<String> {
            releases.iter().map(|release| format!("{IMAGE}{release}{CLOUD}")).collect()
        };
        assert_eq!(images("6.12."), names(&["6.12.117+deb13", "6.12.90+deb13.1"]));
        assert_eq!(images("5.10."), names(&["5.10.0-46"]));
        assert_eq!(images("")[..2], names(&["7.3.4+deb13", "6.19.14+deb13"]));
        assert_eq!(images("6.17."), names(&[]));
        let arm64 = NAMES.replace("amd64", "arm64");
        assert_eq!(
            super::images(&arm64, "6.12.", "-cloud-arm64")[0],
            "linux-image-6.12.117+deb13-cloud-arm64"
        );
        assert_eq!(super::images(&arm64, "6.12.", "-arm64"), ["linux-image-6.12.118+deb13-arm64"]);
        assert!(super::images(&arm64, "6.12.", GENERIC).is_empty());
    }

    #[test]
    fn what_boots_is_fetched_and_not_what_is_depended_on() {
        let depends = |release: &str, parts: &[&str]| {
            let parts = parts.iter().map(|part| format!("{part}{release}{CLOUD} (= 1~bpo13+1)"));
            let depends = ["kmod".to_owned(), "dracut | initramfs-tools".to_owned()];
            let depends: Vec<_> = depends.into_iter().chain(parts).collect();
            format!("Package: {IMAGE}{release}{CLOUD}\nDepends: {}\nSize: 1\n", depends.join(", "))
        };
        let all = ["linux-base-", "linux-binary-", "linux-modules-"];
        let descriptions = [
            depends("6.18.15+deb13", &all[..1]),
            depends("6.19.14+deb13", &all),
            depends("7.3.4+deb13", &all),
        ]
        .join("\n");
        let parts = |release| parts(&format!("{IMAGE}{release}{CLOUD}"), &descriptions, NAMES);
        let names = |release: &str, parts: &[&str]| {
            Some(parts.iter().map(|part| format!("{part}{release}{CLOUD}")).collect::<Vec<_>>())
        };
        // The kernel is in the image: the package that is missing is not needed.
        assert_eq!(parts("6.18.15+deb13"), names("6.18.15+deb13", &[IMAGE]));
        // The modules are missing.
        assert_eq!(parts("6.19.14+deb13"), None);
        let whole = [IMAGE, all[0], all[1], all[2]];
        assert_eq!(parts("7.3.4+deb13"), names("7.3.4+deb13", &whole));
        assert_eq!(parts("6.12.117+deb13"), None);
    }

    #[test]
    fn a_kernel_that_is_not_there_is_named() {
        let options = Options { uml: Some("/no/such/linux.uml".into()), ..Options::default() };
        if Architecture::has_uml_here() {
            assert!(
                find(&options, Kernel::Uml).unwrap_err().to_string().contains("/no/such/linux.uml")
            );
        }
    }
}
