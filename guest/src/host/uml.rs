//! User-Mode Linux: Linux as an ordinary program.

use std::{
    ffi::OsString,
    fs, io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process,
};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    error::{Context, Error},
    host::{engine::Lines, job::Job, shim},
    inside,
    options::Options,
};

/// In MiB: less does not boot.
pub(crate) const LEAST_MEMORY: u32 = 32;
/// Initcalls for devices and file systems that a guest never uses, which measure for some tenths of a
/// second.
const SKIPPED: &str =
    "raid6_select_algo,raid6_init,calibrate_xor_blocks,init_btrfs_fs,init_zswap,strp_dev_init";

/// A User-Mode Linux kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Uml {
    pub(crate) binary: PathBuf,
    /// The directory that holds its modules, in one named by the kernel's release.
    pub(crate) modules: PathBuf,
    /// The directory that its program interpreter's name starts from, and the directory of its C library,
    /// if they are not the machine's own.
    pub(crate) library: Option<(PathBuf, PathBuf)>,
}

impl Uml {
    /// The launcher's arguments: the kernel, its library, the shim and the kernel's arguments.
    pub(crate) fn words(
        &self,
        job: &Job,
        options: &Options,
        lines: &Lines,
    ) -> Result<Vec<OsString>, Error> {
        let library = self.library.as_ref().map_or(Path::new(""), |(_, library)| library);
        let shim = if shim::is_used(options, &self.releases()) {
            shim::put(job)?.into()
        } else {
            OsString::new()
        };
        let mut words = vec![self.binary.clone().into(), library.into(), shim];
        words.extend(kernel_arguments(job.path(), options, lines));
        Ok(words)
    }

    /// The releases of its modules, as `uname -r` prints them.
    pub(super) fn releases(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.modules).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

/// The launcher's part: moves to one CPU, and leaves the kernel's arguments in the iterator.
pub(crate) fn launch(
    words: &mut impl Iterator<Item = OsString>,
) -> Result<process::Command, Error> {
    let (Some(kernel), Some(library), Some(shim)) = (words.next(), words.next(), words.next())
    else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput)).context("use", "the launcher");
    };
    // The kernel's threads and processes take turns: on one CPU, a turn costs a fifth.
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("ask for", "the CPUs")?;
    let mut cpus = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false));
    let choice = process::id() as usize % cpus.clone().count().max(1);
    if let Some(cpu) = cpus.nth(choice) {
        let mut one = CpuSet::new();
        one.set(cpu)
            .and_then(|()| sched_setaffinity(Pid::from_raw(0), &one))
            .context("move to CPU", cpu)?;
    }
    let mut command = process::Command::new(kernel);
    if !library.is_empty() {
        command.env("LD_LIBRARY_PATH", library);
    }
    if !shim.is_empty() {
        command.env("LD_PRELOAD", shim);
    }
    Ok(command)
}

fn kernel_arguments(job: &Path, options: &Options, lines: &Lines) -> Vec<OsString> {
    let joined = |name: &str, value: &Path| {
        let mut argument = OsString::from(name);
        argument.push(value);
        argument
    };
    let mut arguments: Vec<OsString> = vec![
        // The root is this machine's, read only.
        "root=/dev/root".into(),
        "rootfstype=hostfs".into(),
        "rootflags=/".into(),
        "ro".into(),
        // Otherwise /dev/shm is hidden when the kernel looks for init there.
        "devtmpfs.mount=0".into(),
        joined("init=", &job.join("init")),
        joined(&format!("{}=", inside::JOB), job),
        format!("mem={}M", options.memory).into(),
        // The kernel log is the console. There are no terminals, and no programs started for them.
        "con=null".into(),
        "con0=null,fd:1".into(),
        "ssl=null".into(),
        format!("ssl0=null,fd:{}", lines.output.as_raw_fd()).into(),
        format!("ssl1=null,fd:{}", lines.errors.as_raw_fd()).into(),
        format!("ssl3=null,fd:{}", lines.control.as_raw_fd()).into(),
        // A panic ends the process.
        "panic=-1".into(),
        "noreboot".into(),
        // Skipping these measurements and devices saves a second at boot.
        "lpj=22355968".into(),
        "pty.legacy_count=0".into(),
        format!("initcall_blacklist={SKIPPED}").into(),
        // From 6.16 on: system calls take half the time. Older kernels do not know it.
        "seccomp=auto".into(),
        "umid=kernel".into(),
        joined("uml_dir=", &job.join("")),
    ];
    if let Some(input) = &lines.input {
        arguments.push(format!("ssl2=fd:{},null", input.as_raw_fd()).into());
    }
    arguments.push(if options.verbose { "printk.time=1" } else { "quiet" }.into());
    arguments
}
