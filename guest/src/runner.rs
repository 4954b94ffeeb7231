//! Running a command in a guest of its own, whatever the guest's kernel runs on.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            process::{CommandExt, parent_id},
        },
    },
    path::{Path, PathBuf},
    process::{self, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::{
        prctl,
        resource::{Resource, setrlimit},
        signal::{self, SigSet, Signal},
        statvfs::{FsFlags, statvfs},
        wait::{WaitStatus, waitpid},
    },
    unistd::{self, AccessFlags, Pid},
};

use crate::{
    error::{Context, Error},
    init,
    job::{self, Command, Files, Job, Order, Report},
    options::Options,
    package,
    qemu::{self, Accelerator, Machine},
    supervise::{End, Feed, Outcome, Signals, Stream},
    uml::{self, Uml},
};

/// The name under which the launcher is started.
const LAUNCHER: &str = "lvs-guest-launcher";
/// The launcher's words for the engines.
const UML: &str = "uml";
const QEMU: &str = "qemu";
const SHARED_MEMORY: &str = "/dev/shm";
/// How much of the kernel log is shown after a crash.
const LOG_LINES: usize = 60;

/// What runs a guest's kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Uml(Uml),
    Qemu(Machine),
}

/// The descriptors through which a guest speaks, for its engine to inherit.
pub(crate) struct Lines {
    pub(crate) output: OwnedFd,
    pub(crate) errors: OwnedFd,
    pub(crate) input: Option<OwnedFd>,
}

/// Runs a command in a guest of its own.
pub(crate) fn run(options: &Options, command: &Command) -> Result<Outcome, Error> {
    let least = if options.kernel.is_qemu() { qemu::LEAST_MEMORY } else { uml::LEAST_MEMORY };
    if options.memory < least {
        let value = options.memory.to_string();
        let expected = "more MiB (32 for User-Mode Linux, 128 for QEMU)";
        return Err(Error::Setting { name: "LVS_GUEST_MEMORY", value, expected });
    }
    let started = Instant::now();
    let engine = package::find(options)?;
    let run = Run { options, command, engine: &engine, started };
    let outcome = match &engine {
        Engine::Uml(_) => run.attempt(None, None, &mut false),
        Engine::Qemu(machine) => run.attempt_fast(machine),
    };
    if options.verbose {
        eprintln!("guest: {:.3} s from start to end", started.elapsed().as_secs_f64());
    }
    outcome
}

/// The launcher's part: becomes the engine, in a session of its own, and dies with the runner. These
/// things are done between fork and exec; a program of its own can do them without unsafe code.
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
    let (Some(runner), Some(job), Some(kind)) = (words.next(), words.next(), words.next()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput)).context("use", LAUNCHER);
    };
    prctl::set_pdeathsig(Signal::SIGKILL).context("ask for", "a signal when the runner dies")?;
    if runner != parent_id().to_string().as_str() {
        return Err(io::Error::from(io::ErrorKind::NotFound)).context("find the", "runner");
    }
    SigSet::empty().thread_set_mask().context("unblock", "signals")?;
    unistd::setsid().context("make", "a session")?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("rule out", "core files")?;
    let job = Path::new(&job);
    let program =
        if kind == UML { uml::launch(&mut words)? } else { qemu::launch(job, &mut words)? };
    let real = fs::canonicalize(program.get_program())
        .context("find", Path::new(program.get_program()).display())?;
    job::note_group(job, &real).context("write to", job.display())?;
    let mut command = process::Command::new(&real);
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Err(command.args(words).exec()).context("run", real.display())
}

/// What the attempts to run one command have in common.
struct Run<'a> {
    options: &'a Options,
    command: &'a Command,
    engine: &'a Engine,
    started: Instant,
}

impl Run<'_> {
    /// With KVM where it works, else without. Some machines offer a KVM that hangs or dies: a guest
    /// that does not speak within seconds is given up, and the next ones do not try.
    fn attempt_fast(&self, machine: &Machine) -> Result<Outcome, Error> {
        if !machine.may_use_kvm() {
            return self.attempt(Some(Accelerator::Tcg), None, &mut false);
        }
        let mut begun = false;
        match self.attempt(Some(Accelerator::Kvm), Some(qemu::KVM_PATIENCE), &mut begun) {
            Err(error @ (Error::TimeLimit { .. } | Error::Crash { .. })) if !begun => {
                let what = error.to_string();
                let line = what.lines().next().unwrap_or_default();
                eprintln!("guest: KVM does not work here ({line}), going on without it");
                machine.note_bad_kvm();
                self.attempt(Some(Accelerator::Tcg), None, &mut false)
            }
            result => result,
        }
    }

    /// Runs the command once. `begun` tells whether the guest came as far as starting it; a guest
    /// that does not within the patience is ended.
    fn attempt(
        &self,
        accelerator: Option<Accelerator>,
        patience: Option<Duration>,
        begun: &mut bool,
    ) -> Result<Outcome, Error> {
        let options = self.options;
        let base = base_directory(options.memory);
        let helper = std::env::current_exe().context("find the path of", "this program")?;
        let input = Feed::wanted();
        // Given up last: a signal that comes now takes effect when nothing is left.
        let mut signals = Signals::block()?;
        let job = Job::create(&base)?;
        job.put(&Order {
            write: written_through(options, self.command, &helper)?,
            show: shown(&helper),
            command: self.command.clone(),
            modules: self.engine.modules().to_owned(),
            files: self.engine.files(),
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
        // A copy made by dup is inherited by the kernel, these are not: the pipes end with the
        // kernel.
        let inherit = |end: &OwnedFd| unistd::dup(end).context("copy", "a pipe");
        let lines = Lines {
            output: inherit(&output_end)?,
            errors: inherit(&errors_end)?,
            input: input_end.as_ref().map(inherit).transpose()?,
        };
        drop((output_end, errors_end, input_end));
        let words = match self.engine {
            Engine::Uml(kernel) => kernel.words(&job, options, &lines),
            Engine::Qemu(machine) => {
                machine.prepare(&helper, job.path(), &lines)?;
                machine.words(&job, options, &lines, accelerator.unwrap_or(Accelerator::Tcg))
            }
        };
        let process = Process::start(&helper, self.engine, &job, &base, words, log_end)?;
        drop(lines);
        let mut feed = feed.map(Feed::new).transpose()?;
        let mut streams =
            [Stream::output(output)?, Stream::errors(errors)?, Stream::log(log, options.verbose)?];
        let limit = options.time_limit;
        let deadline = limit.map(|limit| self.started + limit);
        let early = patience.map(|patience| Instant::now() + patience);
        let first = [early, deadline].into_iter().flatten().min();
        let mut end = signals.supervise(process.group, &mut streams, feed.as_mut(), first)?;
        *begun = streams[0].count() > 0;
        if *begun && first != deadline && matches!(end, End::TimeLimit) {
            end = signals.supervise(process.group, &mut streams, feed.as_mut(), deadline)?;
        }
        let status = match end {
            End::Process(status) => status,
            End::Signal(signal) => return Ok(Outcome::Signal(signal as i32)),
            End::TimeLimit => {
                let limit = if first == deadline || *begun { limit } else { patience };
                return Err(Error::TimeLimit { limit: limit.unwrap_or_default() });
            }
        };
        let [output, errors, log] = &streams;
        let Some(report) = Report::read(job.path()) else {
            return Err(Error::Crash { end: describe(status), log: log.last_lines(LOG_LINES) });
        };
        let written = report.written.iter().sum::<u64>();
        let lost = written.saturating_sub(output.count() + errors.count());
        match report.end {
            job::End::Failed(words) => Err(Error::Init { words }),
            job::End::NotRun(errno) => Err(Error::Command {
                program: self.command.program.to_string_lossy().into_owned(),
                source: io::Error::from_raw_os_error(errno),
            }),
            _ if lost > 0 => Err(Error::Lost { bytes: lost }),
            job::End::Signal(number) => Ok(Outcome::Signal(number)),
            job::End::Exit(status) => Ok(Outcome::Exit(status)),
        }
    }
}

impl Engine {
    /// The directory that holds the kernel's modules, in one named by the kernel's release.
    fn modules(&self) -> &Path {
        match self {
            Self::Uml(kernel) => &kernel.modules,
            Self::Qemu(machine) => &machine.modules,
        }
    }

    fn files(&self) -> Files {
        match self {
            Self::Uml(_) => Files::Hostfs,
            Self::Qemu(_) => Files::Virtiofs,
        }
    }

    /// The launcher's word for it.
    fn kind(&self) -> &'static str {
        match self {
            Self::Uml(_) => UML,
            Self::Qemu(_) => QEMU,
        }
    }

    /// Where its process starts.
    fn directory(&self) -> &Path {
        match self {
            Self::Uml(Uml { library: Some((tree, _)), .. }) => tree,
            _ => Path::new("/"),
        }
    }
}

/// An engine's processes, ended when dropped.
struct Process {
    group: Pid,
    _orphans: Orphans,
}

/// While this lives, orphans among this process's descendants become its children. Otherwise they
/// would be the children of the machine's init, and some inits never wait for theirs.
struct Orphans {
    /// Whether it was so before.
    before: bool,
}

impl Process {
    fn start(
        helper: &Path,
        engine: &Engine,
        job: &Job,
        base: &Path,
        words: Vec<OsString>,
        log: OwnedFd,
    ) -> Result<Self, Error> {
        let orphans = Orphans::take()?;
        let log_copy = log.try_clone().context("copy", "a pipe")?;
        let child = process::Command::new(helper)
            .arg0(LAUNCHER)
            .arg(process::id().to_string())
            .arg(job.path())
            .arg(engine.kind())
            .args(words)
            .env_clear()
            // Where User-Mode Linux puts the file that is the guest's memory.
            .env("TMPDIR", base)
            .current_dir(engine.directory())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_copy)
            .spawn()
            .context("start", helper.display())?;
        Ok(Self { group: Pid::from_raw(child.id() as i32), _orphans: orphans })
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

impl Orphans {
    fn take() -> Result<Self, Error> {
        let before = prctl::get_child_subreaper().context("ask for", "the parent of orphans")?;
        prctl::set_child_subreaper(true).context("take", "the kernel's orphans")?;
        Ok(Self { before })
    }
}

impl Drop for Orphans {
    fn drop(&mut self) {
        let _ = prctl::set_child_subreaper(self.before);
    }
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
