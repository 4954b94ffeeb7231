//! The guest's root: this machine's files with a layer in memory over them.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    unistd,
};

use crate::{
    error::{Context, Error},
    inside::{MODPROBE, MODULES, OWN, OWN_DIRECTORIES, TAG, WRITABLE_TAG, own},
    modules::Modules,
    netlink,
    order::{Files, Order},
};

/// Where the new root is built: a directory that every Linux has.
const SCRATCH: &str = "/proc";

/// Makes the guest's root, this machine's files with a layer in memory over them, and changes to it.
pub(super) fn make(order: &Order, modules: &Path, release: &str) -> Result<(), Error> {
    let scratch = Path::new(SCRATCH);
    mount_own("tmpfs", SCRATCH, Some("mode=755"))?;
    for name in ["upper", "work", "root"] {
        let path = scratch.join(name);
        fs::create_dir(&path).context("make the directory", path.display())?;
    }
    let root = &scratch.join("root");
    if has_layer(order, release) {
        Modules::new(modules).load("overlay").context("load the module", "overlay")?;
        let layers = format!("lowerdir=/,upperdir={SCRATCH}/upper,workdir={SCRATCH}/work");
        mount(Some("overlay"), root, Some("overlay"), MsFlags::empty(), Some(layers.as_str()))
            .context("mount", "the overlay")?;
    } else {
        make_plain_root(root)?;
    }
    // The new root is mounted over the old one, which is then unmounted.
    std::env::set_current_dir(root).context("enter", root.display())?;
    unistd::pivot_root(".", ".").context("change to", root.display())?;
    umount2(".", MntFlags::MNT_DETACH).context("let go of", "the old root")?;
    std::env::set_current_dir("/").context("enter", "/")
}

/// Whether the kernel supports a layer over this machine's files: up to 5.10, an overlay over hostfs
/// loses files.
fn has_layer(order: &Order, release: &str) -> bool {
    order.files != Files::Hostfs || !release.starts_with("5.")
}

/// Makes a root in memory that contains this machine's directories, read only.
fn make_plain_root(root: &Path) -> Result<(), Error> {
    mount(Some("tmpfs"), root, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .context("mount", root.display())?;
    for entry in fs::read_dir("/").context("read", "/")?.flatten() {
        let (path, new) = (entry.path(), root.join(entry.file_name()));
        match entry.file_type() {
            Ok(kind) if kind.is_symlink() => {
                let target = fs::read_link(&path).context("read", path.display())?;
                symlink(target, &new).context("make", path.display())?;
            }
            Ok(kind)
                if kind.is_dir()
                    && OWN_DIRECTORIES.iter().all(|hidden| path != Path::new(hidden)) =>
            {
                fs::create_dir(&new).context("make the directory", path.display())?;
                let (kind, flags) = (Some("hostfs"), MsFlags::MS_RDONLY);
                mount(kind, &new, kind, flags, Some(&path)).context("mount", path.display())?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Mounts the guest's own system directories, and those that it may write to.
pub(super) fn furnish(
    job: &Path,
    order: &Order,
    modules: &Path,
    release: &str,
) -> Result<(), Error> {
    mount_own("proc", "/proc", None)?;
    mount_own("sysfs", "/sys", None)?;
    mount_own("devtmpfs", "/dev", None)?;
    mount_own("devpts", "/dev/pts", Some("ptmxmode=666"))?;
    mount_own("tmpfs", "/dev/shm", Some("mode=1777"))?;
    mount_own("tmpfs", "/run", Some("mode=755"))?;
    mount_own("tmpfs", "/tmp", Some("mode=1777"))?;
    for path in ["/run/netns", "/run/lock", OWN] {
        fs::create_dir(path).context("make the directory", path)?;
    }
    for (link, target) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        let link = Path::new("/dev").join(link);
        symlink(format!("/proc/self/fd{target}"), &link).context("make", link.display())?;
    }
    let host = &HostFiles::new(order.files)?;
    host.show(job, &own("job"), MsFlags::empty())?;
    host.show(modules, Path::new(MODULES), MsFlags::MS_RDONLY)?;
    if has_layer(order, release) {
        // Other programs look for the modules here.
        host.show(modules, &Path::new("/lib/modules").join(release), MsFlags::MS_RDONLY)?;
    }
    for (path, mode) in &order.make {
        fs::create_dir_all(path).context("make the directory", path.display())?;
        fs::set_permissions(path, Permissions::from_mode(*mode))
            .context("set the mode of", path.display())?;
    }
    for path in &order.show {
        host.show(path, path, MsFlags::MS_RDONLY)?;
    }
    for path in &order.show_files {
        host.show_file(path)?;
    }
    for path in &order.write {
        host.show(path, path, MsFlags::empty())?;
    }
    // The program's directory need not be visible elsewhere.
    if let (Some(directory), Some(name)) = (order.helper.parent(), order.helper.file_name()) {
        host.show(directory, &own("program"), MsFlags::MS_RDONLY)?;
        symlink(own("program").join(name), MODPROBE).context("make", MODPROBE)?;
    }
    fs::write("/proc/sys/kernel/modprobe", MODPROBE).context("write", "kernel.modprobe")?;
    // The guest's purpose. Asking for the family loads it, but not up to 5.10. Loading it may request
    // other modules (crc32c, if that is not built in).
    Modules::new(MODULES).load("ip_vs").context("load the module", "ip_vs")?;
    unistd::sethostname(&order.host_name).context("set", "the host name")?;
    netlink::loopback_up().context("bring up", "lo")
}

/// Mounts one of the kernel's own file systems.
fn mount_own(kind: &str, path: &str, data: Option<&str>) -> Result<(), Error> {
    fs::create_dir_all(path).context("make the directory", path)?;
    mount(Some(kind), path, Some(kind), MsFlags::empty(), data).context("mount", path)
}

/// This machine's files, while the guest's root is built.
enum HostFiles {
    Hostfs,
    /// All of them are visible at this path.
    All(PathBuf),
}

impl HostFiles {
    fn new(files: Files) -> Result<Self, Error> {
        if files == Files::Hostfs {
            return Ok(Self::Hostfs);
        }
        let path = own("host");
        fs::create_dir(&path).context("make the directory", path.display())?;
        mount_host(files, if files == Files::NineP { WRITABLE_TAG } else { TAG }, &path)?;
        Ok(Self::All(path))
    }

    /// Shows one of this machine's directories in the guest.
    fn show(&self, host: &Path, path: &Path, flags: MsFlags) -> Result<(), Error> {
        let none: Option<&str> = None;
        fs::create_dir_all(path).context("make the directory", path.display())?;
        match self {
            Self::Hostfs => mount(Some("hostfs"), path, Some("hostfs"), flags, Some(host)),
            Self::All(all) => {
                let source = all.join(host.strip_prefix("/").unwrap_or(host));
                let again = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags;
                mount(Some(&source), path, none, MsFlags::MS_BIND, none)
                    .and_then(|()| mount(none, path, none, again, none))
            }
        }
        .context("mount", path.display())
    }

    /// Shows one of this machine's files in the guest, in the same place.
    fn show_file(&self, path: &Path) -> Result<(), Error> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(());
        };
        fs::create_dir_all(directory).context("make the directory", directory.display())?;
        File::create(path).context("make", path.display())?;
        // This machine offers directories only for mounting; a bound file stays after that.
        let all = own("directory");
        self.show(directory, &all, MsFlags::MS_RDONLY)?;
        let none: Option<&str> = None;
        mount(Some(&all.join(name)), path, none, MsFlags::MS_BIND, none)
            .context("mount", path.display())?;
        umount2(&all, MntFlags::MNT_DETACH).context("let go of", all.display())
    }
}

impl Drop for HostFiles {
    fn drop(&mut self) {
        // The command must see only what is shown.
        if let Self::All(path) = self {
            let _ = umount2(path.as_path(), MntFlags::MNT_DETACH);
        }
    }
}

/// Mounts all of this machine's files in a guest of QEMU.
pub(super) fn mount_host(files: Files, tag: &str, path: &Path) -> Result<(), Error> {
    let read_only = files == Files::NineP && tag == TAG;
    // The guest keeps in memory what it only reads. What it writes goes to this machine at once.
    let options = match (files, read_only) {
        (Files::NineP, true) => Some("trans=virtio,version=9p2000.L,msize=512000,cache=loose"),
        (Files::NineP, false) => Some("trans=virtio,version=9p2000.L,msize=512000,cache=mmap"),
        _ => None,
    };
    let mut flags = MsFlags::empty();
    flags.set(MsFlags::MS_RDONLY, read_only);
    mount(Some(tag), path, Some(files.name()), flags, options)
        .context("mount this machine's files at", path.display())
}
