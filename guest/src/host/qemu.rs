//! QEMU, which runs Debian's ordinary kernels.

use std::{
    ffi::OsString,
    fs, io,
    os::{
        fd::AsRawFd,
        unix::{fs::symlink, net::UnixListener},
    },
    path::{Path, PathBuf},
    process::{self, Stdio},
    time::Duration,
};

use nix::unistd::{self, AccessFlags, Uid};

use crate::{
    architecture::Architecture,
    error::{Context, Error},
    host::{engine::Lines, find_program, initramfs::Initramfs, is_program, job::Job},
    inside,
    modules::Modules,
    options::Options,
    order::Files,
};

/// In MiB: with less, the kernel has no room for itself and its initramfs.
pub(crate) const LEAST_MEMORY: u32 = 128;
/// How long a guest with KVM may take to its first output. A second is usual.
pub(crate) const KVM_START_TIMEOUT: Duration = Duration::from_secs(5);

const DEPMOD: &str = "depmod";
/// In Debian 12 it is part of QEMU, later a separate package.
const FILE_SERVERS: [&str; 2] = ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"];
const KVM: &str = "/dev/kvm";
/// File in the cache with this boot's number, if its KVM does not work.
const BAD_KVM: &str = "bad-kvm";
/// File names in a job's directory.
const INITRAMFS: &str = "initramfs";
const SOCKET: &str = "files";
const INPUT: &str = "input";
/// Modules for output and for this machine's files.
const MODULES: [&str; 2] = ["virtio_pci", "virtio_console"];
const VIRTIOFS_MODULES: [&str; 1] = ["virtiofs"];
const NINE_P_MODULES: [&str; 2] = ["9pnet_virtio", "9p"];
/// Initcalls that take tenths of a second at boot, and that no guest needs.
const SKIPPED: &str = "load_system_certificate_list,jent_mod_init";

/// A kernel, and the programs of this machine that run it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) kernel: PathBuf,
    pub(crate) release: String,
    /// The directory that holds its modules, in one named by the kernel's release.
    pub(crate) modules: PathBuf,
    /// The directory of packages.
    pub(crate) cache: PathBuf,
    pub(crate) programs: Programs,
}

/// The programs that run it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Programs {
    architecture: &'static Architecture,
    qemu: PathBuf,
    /// If there is none, QEMU itself serves this machine's files.
    file_server: Option<PathBuf>,
}

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU, translating them.
    Tcg,
}

impl Programs {
    /// Finds the programs on this machine. Success means that any user can run a kernel.
    ///
    /// Only root can use the file server: the overlay opens files in a way that only their owners may,
    /// and only QEMU retries another way if that is refused.
    pub(crate) fn find() -> Result<Self, Error> {
        let architecture = Architecture::needed()?;
        let program = architecture.qemu;
        let qemu = find_program(program).ok_or(Error::NoProgram { program })?;
        find_program(DEPMOD).ok_or(Error::NoProgram { program: DEPMOD })?;
        let mut servers = FILE_SERVERS.iter().map(PathBuf::from);
        let file_server = servers.find(|path| Uid::effective().is_root() && is_program(path));
        Ok(Self { architecture, qemu, file_server })
    }

    /// The end of the names of the kernel packages that they run: those for virtual machines, or
    /// those for any machine, since only these have 9p.
    pub(crate) fn flavour(&self) -> String {
        let cloud = if self.files() == Files::NineP { "" } else { "-cloud" };
        format!("{cloud}-{}", self.architecture.debian)
    }

    /// How a guest sees this machine's files.
    pub(crate) fn files(&self) -> Files {
        if self.file_server.is_some() { Files::Virtiofs } else { Files::NineP }
    }
}

/// Writes `modules.dep` and similar lists, which packages leave to the machine that installs them.
pub(crate) fn write_module_lists(tree: &Path, release: &str) -> Result<(), Error> {
    let program = find_program(DEPMOD).ok_or(Error::NoProgram { program: DEPMOD })?;
    let output = process::Command::new(program).arg("-b").arg(tree).arg(release).output();
    let output = output.context("run", DEPMOD)?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let reason = format!("depmod cannot list the kernel's modules: {}", words.trim_end());
        return Err(Error::NoKernel { reason });
    }
    Ok(())
}

impl Machine {
    /// How a guest sees this machine's files.
    pub(crate) fn files(&self) -> Files {
        self.programs.files()
    }

    /// Puts the files that QEMU opens into a job's directory.
    pub(crate) fn prepare(&self, helper: &Path, job: &Path, lines: &Lines) -> Result<(), Error> {
        if let Some(input) = &lines.input {
            // QEMU reads from the pipe with this name, and opens another one to write, which stays empty.
            let input = format!("/proc/self/fd/{}", input.as_raw_fd());
            for (end, target) in [("in", input.as_str()), ("out", "/dev/null")] {
                let link = job.join(INPUT).with_extension(end);
                symlink(target, &link).context("make the link", link.display())?;
            }
        }
        self.write_initramfs(helper, job)
    }

    /// Writes the file system that the kernel starts with: this program, and the modules for this
    /// machine's files.
    fn write_initramfs(&self, helper: &Path, job: &Path) -> Result<(), Error> {
        let path = job.join(INITRAMFS);
        let mut archive = Initramfs::create(&path).context("make", path.display())?;
        archive.add_program(Path::new(inside::FIRST_STAGE), helper)?;
        let directory = Path::new(inside::FIRST_MODULES);
        for directory in [directory, Path::new(inside::HOST)] {
            archive.add_directory(directory).context("write", path.display())?;
        }
        let modules = Modules::new(self.modules.join(&self.release));
        let mut number = 0;
        let of_files: &[_] = match self.files() {
            Files::NineP => &NINE_P_MODULES,
            _ => &VIRTIOFS_MODULES,
        };
        for name in MODULES.iter().chain(of_files) {
            for file in modules.files(name).context("find the module", name)? {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                let packed = directory.join(format!("{number:03}-{name}"));
                let contents = fs::read(&file).context("read", file.display())?;
                archive.add_file(&packed, &contents).context("write", path.display())?;
                number += 1;
            }
        }
        archive.finish().context("write", path.display())
    }

    /// The launcher's arguments: QEMU, the file server, and QEMU's arguments.
    pub(crate) fn words(
        &self,
        job: &Job,
        options: &Options,
        lines: &Lines,
        accelerator: Accelerator,
    ) -> Vec<OsString> {
        let server = self.programs.file_server.clone().unwrap_or_default();
        let mut words = vec![self.programs.qemu.clone().into(), server.into()];
        words.extend(self.arguments(job.path(), options, lines, accelerator));
        words
    }

    fn arguments(
        &self,
        job: &Path,
        options: &Options,
        lines: &Lines,
        accelerator: Accelerator,
    ) -> Vec<OsString> {
        let (accelerator, processor) = match accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            Accelerator::Tcg => ("tcg", "max"),
        };
        let job_text = job.display();
        let Architecture { machine, console, parameters, .. } = self.programs.architecture;
        let loudness = if options.verbose { "printk.time=1" } else { "quiet" };
        let mut arguments: Vec<OsString> = Vec::new();
        let mut add = |name: &str, value: String| {
            arguments.push(name.into());
            arguments.push(value.into());
        };
        add("-accel", accelerator.to_owned());
        add("-cpu", processor.to_owned());
        add("-smp", "1".to_owned());
        let memory = options.memory;
        add("-m", format!("{memory}M"));
        if self.files() == Files::NineP {
            add("-machine", (*machine).to_owned());
            // Twice: read only, and writable as this user may. The guest shows only the requested parts of the latter.
            for (tag, rights) in [(inside::TAG, ",readonly=on"), (inside::WRITABLE_TAG, "")] {
                let served = "path=/,security_model=none,multidevs=remap";
                add("-fsdev", format!("local,id={tag},{served}{rights}"));
                add("-device", format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"));
            }
        } else {
            add("-machine", format!("{machine},memory-backend=memory"));
            // The file server works in the guest's memory.
            add("-object", format!("memory-backend-memfd,id=memory,size={memory}M,share=on"));
            add("-chardev", format!("socket,id=files,path={job_text}/{SOCKET}"));
            let tag = inside::TAG;
            add("-device", format!("vhost-user-fs-pci,queue-size=1024,chardev=files,tag={tag}"));
        }
        add("-display", "none".to_owned());
        add("-kernel", self.kernel.display().to_string());
        add("-initrd", format!("{job_text}/{INITRAMFS}"));
        add(
            "-append",
            format!(
                "rdinit={} {}={job_text} {}={} console={console} panic=-1 mitigations=off \
                 initcall_blacklist={SKIPPED} {loudness}{parameters}",
                inside::FIRST_STAGE,
                inside::JOB,
                inside::FILES,
                self.files().name(),
            ),
        );
        // The kernel log, and QEMU's own messages.
        add("-chardev", "file,id=log,path=/proc/self/fd/1".to_owned());
        add("-serial", "chardev:log".to_owned());
        add("-device", "virtio-serial-pci".to_owned());
        for (number, descriptor) in [(1, &lines.output), (2, &lines.errors), (4, &lines.control)] {
            let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
            add("-chardev", format!("file,id=line{number},path={path}"));
            add("-device", format!("virtserialport,chardev=line{number},nr={number}"));
        }
        if lines.input.is_some() {
            add("-chardev", format!("pipe,id=line3,path={job_text}/{INPUT}"));
            add("-device", "virtserialport,chardev=line3,nr=3".to_owned());
        }
        arguments.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(OsString::from));
        arguments
    }

    /// Whether this machine has a KVM that is not known to fail.
    pub(crate) fn may_use_kvm(&self) -> bool {
        let noted = fs::read_to_string(self.cache.join(BAD_KVM)).ok();
        unistd::access(KVM, AccessFlags::R_OK | AccessFlags::W_OK).is_ok() && noted != boot_number()
    }

    /// Notes, until this machine's next boot, that its KVM does not work.
    pub(crate) fn note_bad_kvm(&self) {
        // Without the note the next run tries KVM again.
        let _ = fs::write(self.cache.join(BAD_KVM), boot_number().unwrap_or_default());
    }
}

/// The launcher's part: starts the file server if there is one, which ends with its only client, and
/// leaves QEMU's arguments in the iterator.
pub(crate) fn launch(
    job: &Path,
    words: &mut impl Iterator<Item = OsString>,
) -> Result<process::Command, Error> {
    let (Some(program), Some(server)) = (words.next(), words.next()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput)).context("use", "the launcher");
    };
    if server.is_empty() {
        return Ok(process::Command::new(program));
    }
    let path = job.join(SOCKET);
    let listener = UnixListener::bind(&path).context("listen at", path.display())?;
    // QEMU inherits a copy made by dup, too: it is closed again.
    let inherited = unistd::dup(&listener).context("copy", "a socket")?;
    process::Command::new(&server)
        .arg(format!("--fd={}", inherited.as_raw_fd()))
        .args(["-o", "source=/", "-o", "cache=always", "-o", "sandbox=chroot"])
        .arg("--thread-pool-size=0")
        .stdin(Stdio::null())
        .spawn()
        .context("start", Path::new(&server).display())?;
    Ok(process::Command::new(program))
}

/// A number that changes with each boot of this machine.
fn boot_number() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::architecture::{ARM64, X86_64};

    /// A kernel, and programs that run it for root, with a server of files, or for anybody.
    fn machine(architecture: &'static Architecture, is_root: bool) -> Machine {
        let qemu = Path::new("/usr/bin").join(architecture.qemu);
        let file_server = is_root.then(|| FILE_SERVERS[0].into());
        Machine {
            kernel: "/boot/vmlinuz".into(),
            release: "6.1.0".into(),
            modules: "/lib/modules".into(),
            cache: "/cache".into(),
            programs: Programs { architecture, qemu, file_server },
        }
    }

    /// The values of an argument of QEMU's.
    fn values(machine: &Machine, accelerator: Accelerator, name: &str) -> Vec<String> {
        let line = || File::open("/dev/null").unwrap().into();
        let lines = Lines { output: line(), errors: line(), control: line(), input: None };
        let options = Options::default();
        let arguments = machine.arguments(Path::new("/job"), &options, &lines, accelerator);
        let arguments: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
        let pairs = arguments.windows(2).filter(|pair| pair[0] == name);
        pairs.map(|pair| pair[1].clone().into_owned()).collect()
    }

    #[test]
    fn each_processor_has_its_words() {
        for (architecture, board, console) in
            [(&X86_64, "q35", "console=ttyS0"), (&ARM64, "virt", "console=ttyAMA0")]
        {
            let (root, user) = (machine(architecture, true), machine(architecture, false));
            let shared = format!("{board},memory-backend=memory");
            assert_eq!(values(&root, Accelerator::Tcg, "-machine"), [shared]);
            assert_eq!(values(&user, Accelerator::Tcg, "-machine"), [board]);
            assert_eq!(values(&user, Accelerator::Tcg, "-cpu"), ["max"]);
            assert_eq!(values(&user, Accelerator::Kvm, "-cpu"), ["host"]);
            let append = values(&user, Accelerator::Tcg, "-append").join("\n");
            assert_eq!(append.split(' ').filter(|word| word.starts_with("console=")).count(), 1);
            assert!(append.split(' ').any(|word| word == console), "{append}");
        }
        let has_nopauth = |architecture| {
            let append = values(&machine(architecture, false), Accelerator::Tcg, "-append");
            append[0].ends_with(" arm64.nopauth")
        };
        assert!(has_nopauth(&ARM64) && !has_nopauth(&X86_64));
    }

    #[test]
    fn each_processor_has_kernels_of_its_own() {
        for (architecture, root, user) in
            [(&X86_64, "-cloud-amd64", "-amd64"), (&ARM64, "-cloud-arm64", "-arm64")]
        {
            assert_eq!(machine(architecture, true).programs.flavour(), root);
            assert_eq!(machine(architecture, false).programs.flavour(), user);
        }
        assert_eq!((X86_64.qemu, ARM64.qemu), ("qemu-system-x86_64", "qemu-system-aarch64"));
    }
}
