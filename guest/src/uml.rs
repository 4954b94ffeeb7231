//! User-Mode Linux: Linux as an ordinary program.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, parent_id};
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};
use std::time::Instant;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{self, SigSet, Signal};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{self, AccessFlags, Pid};

use crate::error::{Context, Error};
use crate::init;
use crate::job::{self, Command, Job, Order, Report};
use crate::options::Options;
use crate::package::{self, Uml};
use crate::supervise::{End, Feed, Outcome, Signals, Stream};

/// The name under which the launcher is started.
const LAUNCHER: &str = "lvs-guest-launcher";
/// Less does not boot.
const LEAST_MEMORY: u32 = 32;
const SHARED_MEMORY: &str = "/dev/shm";
/// How much of the kernel log is shown after a crash.
const LOG_LINES: usize = 40;
/// What the kernel would do at boot for devices and file systems that a guest never uses, measuring
/// for some tenths of a second.
const SKIPPED: &str =
    "raid6_select_algo,raid6_init,calibrate_xor_blocks,init_btrfs_fs,init_zswap,strp_dev_init";

/// Runs a command in a guest of its own.
pub(crate) fn run(options: &Options, command: &Command) -> Result<Outcome, Error> {
    let started = Instant::now();
    if options.memory < LEAST_MEMORY {
        let value = options.memory.to_string();
        let expected = "at least 32 (MiB)";
        return Err(Error::Setting { name: "LVS_GUEST_MEMORY", value, expected });
    }
    let kernel = package::find(options)?;
    let base = base_directory(options.memory);
    let helper = std::env::current_exe().context("find the path of", "this program")?;
    let input = Feed::wanted();
    let job = Job::create(&base)?;
    job.put(&Order {
        write: written_through(options, command, &helper)?,
        show: shown(&helper),
        command: command.clone(),
        modules: kernel.modules.clone(),
        helper: helper.clone(),
        host_name: unistd::gethostname().unwrap_or_default(),
        input,
    })?;

    let (output, output_end) = pipe()?;
    let (errors, errors_end) = pipe()?;
    let (log, log_end) = pipe()?;
    let (input_end, feed) = if input {
        let (input_end, feed) = pipe()?;
        (Some(input_end), Some(feed))
    } else {
        (None, None)
    };
    // A copy made by dup is inherited by the kernel, these are not: the pipes end with the kernel.
    let inherit = |end: &OwnedFd| unistd::dup(end).context("copy", "a pipe");
    let lines = Lines {
        output: inherit(&output_end)?,
        errors: inherit(&errors_end)?,
        input: input_end.as_ref().map(inherit).transpose()?,
    };
    drop((output_end, errors_end, input_end));
    let mut signals = Signals::block()?;
    let process = Process::start(&helper, &kernel, &job, &base, options, &lines, log_end)?;
    drop(lines);
    let mut feed = feed.map(Feed::new).transpose()?;
    let mut streams =
        [Stream::output(output)?, Stream::errors(errors)?, Stream::log(log, options.verbose)?];
    let deadline = options.time_limit.map(|limit| started + limit);
    let end = signals.supervise(process.group, &mut streams, feed.as_mut(), deadline)?;
    let status = match end {
        End::Process(status) => status,
        End::Signal(signal) => return Ok(Outcome::Signal(signal as i32)),
        End::TimeLimit => {
            return Err(Error::TimeLimit { limit: options.time_limit.unwrap_or_default() });
        }
    };
    if options.verbose {
        eprintln!("guest: {:.3} s from start to end", started.elapsed().as_secs_f64());
    }
    let [output, errors, log] = &streams;
    let Some(report) = Report::read(job.path()) else {
        return Err(Error::Crash { end: describe(status), log: log.last_lines(LOG_LINES) });
    };
    let lost = report.written.iter().sum::<u64>().saturating_sub(output.count() + errors.count());
    match report.end {
        job::End::Failed(words) => Err(Error::Init { words }),
        job::End::NotRun(errno) => Err(Error::Command {
            program: command.program.to_string_lossy().into_owned(),
            source: io::Error::from_raw_os_error(errno),
        }),
        _ if lost > 0 => Err(Error::Lost { bytes: lost }),
        job::End::Signal(number) => Ok(Outcome::Signal(number)),
        job::End::Exit(status) => Ok(Outcome::Exit(status)),
    }
}

/// The launcher's part: becomes the kernel, in a session of its own and on one CPU, and dies with
/// the runner. These things are done between fork and exec; a program of its own can do them
/// without unsafe code.
pub(crate) fn assume_role() {
    let mut words = std::env::args_os();
    if words.next().as_deref() != Some(OsStr::new(LAUNCHER)) {
        return;
    }
    let error = launch(words).err().map_or_else(String::new, |error| error.to_string());
    eprintln!("guest: {error}");
    process::exit(125);
}

fn launch(mut words: impl Iterator<Item = OsString>) -> Result<(), Error> {
    let (Some(runner), Some(job), Some(kernel), Some(library)) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput)).context("use", LAUNCHER);
    };
    prctl::set_pdeathsig(Signal::SIGKILL).context("ask for", "a signal when the runner dies")?;
    if runner != parent_id().to_string().as_str() {
        return Err(io::Error::from(io::ErrorKind::NotFound)).context("find the", "runner");
    }
    SigSet::empty().thread_set_mask().context("unblock", "signals")?;
    unistd::setsid().context("make", "a session")?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("rule out", "core files")?;
    // The kernel's threads and processes take turns: on one CPU each turn costs a fifth.
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("ask for", "the CPUs")?;
    let mut cpus = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false));
    let choice = process::id() as usize % cpus.clone().count().max(1);
    if let Some(cpu) = cpus.nth(choice) {
        let mut one = CpuSet::new();
        one.set(cpu)
            .and_then(|()| sched_setaffinity(Pid::from_raw(0), &one))
            .context("move to CPU", cpu)?;
    }
    let kernel = fs::canonicalize(&kernel).context("find", Path::new(&kernel).display())?;
    job::note_group(Path::new(&job), &kernel).context("write to", Path::new(&job).display())?;
    let mut command = process::Command::new(&kernel);
    if !library.is_empty() {
        command.env("LD_LIBRARY_PATH", library);
    }
    Err(command.args(words).exec()).context("run", kernel.display())
}

/// The descriptors that the guest's serial lines are.
struct Lines {
    output: OwnedFd,
    errors: OwnedFd,
    input: Option<OwnedFd>,
}

/// A kernel's processes, ended when dropped.
struct Process {
    group: Pid,
}

impl Process {
    fn start(
        helper: &Path,
        kernel: &Uml,
        job: &Job,
        base: &Path,
        options: &Options,
        lines: &Lines,
        log: OwnedFd,
    ) -> Result<Self, Error> {
        // Else the kernel's helpers would be the children of the machine's init, and some inits never
        // ask for theirs.
        prctl::set_child_subreaper(true).context("take", "the kernel's orphans")?;
        let log_copy = log.try_clone().context("copy", "a pipe")?;
        let child = process::Command::new(helper)
            .arg0(LAUNCHER)
            .arg(process::id().to_string())
            .arg(job.path())
            .arg(&kernel.binary)
            .arg(kernel.library.as_ref().map_or(Path::new(""), |(_, library)| library))
            .args(kernel_arguments(job.path(), options, lines))
            .env_clear()
            // Where the kernel puts the file that is the guest's memory.
            .env("TMPDIR", base)
            .current_dir(kernel.library.as_ref().map_or(Path::new("/"), |(tree, _)| tree))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_copy)
            .spawn()
            .context("start", helper.display())?;
        Ok(Self { group: Pid::from_raw(child.id() as i32) })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its helper processes outlive the kernel if it is killed. They are in its group, and are
        // this process's children once the kernel is gone.
        let _ = signal::kill(self.group, Signal::SIGKILL);
        let _ = signal::killpg(self.group, Signal::SIGKILL);
        let _ = waitpid(self.group, None);
        while waitpid(Pid::from_raw(-self.group.as_raw()), None).is_ok() {}
    }
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
        // Else /dev/shm is hidden when the kernel looks for init there.
        "devtmpfs.mount=0".into(),
        joined("init=", &job.join("init")),
        joined(&format!("{}=", init::JOB), job),
        format!("mem={}M", options.memory).into(),
        // The kernel log is the console. There are no terminals, and no programs started for them.
        "con=null".into(),
        "con0=null,fd:1".into(),
        "ssl=null".into(),
        format!("ssl0=null,fd:{}", lines.output.as_raw_fd()).into(),
        format!("ssl1=null,fd:{}", lines.errors.as_raw_fd()).into(),
        // A panic ends the process.
        "panic=-1".into(),
        "noreboot".into(),
        // What is not measured or made at boot is a second saved.
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

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).context("make", "a pipe")
}

/// Where the job and the guest's memory go: in memory if there is room.
fn base_directory(memory: u32) -> PathBuf {
    let temporary = std::env::temp_dir();
    let candidates = [Path::new(SHARED_MEMORY), &temporary, Path::new("/tmp")];
    let fitting = candidates.into_iter().find(|path| {
        let plain = path.as_os_str().as_bytes().iter().all(|byte| byte.is_ascii_graphic());
        let room = statvfs(*path).is_ok_and(|system| {
            let free = system.blocks_available() * system.fragment_size();
            // The kernel is run from the file that is its memory.
            free >> 20 > memory.into() && !system.flags().contains(FsFlags::ST_NOEXEC)
        });
        plain && path.is_absolute() && room && unistd::access(*path, AccessFlags::W_OK).is_ok()
    });
    fitting.unwrap_or(Path::new("/tmp")).to_owned()
}

/// What the guest writes straight through: what is asked for, the working directory and cargo's
/// target directory.
fn written_through(
    options: &Options,
    command: &Command,
    helper: &Path,
) -> Result<Vec<PathBuf>, Error> {
    let mut paths = Vec::new();
    for path in &options.write {
        let real = fs::canonicalize(path).context("find", path.display())?;
        if is_system(&real) || !real.is_dir() {
            let value = path.display().to_string();
            let expected = "directories that are none of the system's and hold none";
            return Err(Error::Setting { name: "LVS_GUEST_WRITE", value, expected });
        }
        paths.push(real);
    }
    let target = helper.ancestors().find(|path| path.join("CACHEDIR.TAG").is_file());
    let implied = [Some(command.directory.as_path()), target];
    paths.extend(implied.into_iter().flatten().filter(|path| !is_system(path)).map(Path::to_owned));
    // The outer ones first, which have the inner ones in them.
    paths.sort();
    paths.dedup_by(|inner, outer| inner.starts_with(outer));
    Ok(paths)
}

/// Whether a directory is one of the system's or holds one: mounted over the guest's, it would let
/// the guest change the machine and hide what the guest has of its own.
fn is_system(path: &Path) -> bool {
    const HELD: [&str; 11] =
        ["/bin", "/boot", "/dev", "/etc", "/lib", "/proc", "/run", "/sbin", "/sys", "/usr", "/var"];
    let below = |directory| path.starts_with(directory);
    HELD.iter().any(|held| Path::new(held).starts_with(path))
        || below("/proc")
        || below("/sys")
        || below("/dev") && !below(SHARED_MEMORY)
}

/// Where this program is, if the guest has something of its own there.
fn shown(helper: &Path) -> Vec<PathBuf> {
    let hidden = init::HIDDEN.iter().any(|directory| helper.starts_with(directory));
    helper.parent().filter(|_| hidden).map(Path::to_owned).into_iter().collect()
}

fn describe(status: WaitStatus) -> String {
    match status {
        WaitStatus::Exited(_, status) => format!("its process exited with status {status}"),
        WaitStatus::Signaled(_, signal, _) => format!("its process was ended by {signal}"),
        status => format!("its process: {status:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_the_system_are_not_written_through() {
        for path in ["/", "/usr", "/etc", "/var", "/proc/1", "/dev", "/dev/pts", "/sys/kernel"] {
            assert!(is_system(Path::new(path)), "{path}");
        }
        for path in ["/home", "/home/me", "/usr/src/app", "/tmp", "/tmp/x", "/dev/shm/x", "/root"] {
            assert!(!is_system(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn what_is_written_through_is_named_once() {
        let directory = std::env::temp_dir().canonicalize().unwrap();
        let options = Options { write: vec![directory.clone()], ..Options::default() };
        let helper = std::env::current_exe().unwrap();
        let mut command = Command::here("x".into(), "x".into(), Vec::new()).unwrap();
        command.directory = directory.join("sub");
        let paths = written_through(&options, &command, &helper).unwrap();
        assert_eq!(paths.iter().filter(|path| path.starts_with(&directory)).count(), 1);
        assert!(paths.iter().any(|path| helper.starts_with(path)), "{paths:?} {helper:?}");

        let options = Options { write: vec!["/".into()], ..Options::default() };
        assert!(written_through(&options, &command, &helper).is_err());
    }
}
