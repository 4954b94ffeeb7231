//! Runs a command in a new guest, on any kind of kernel.

use std::{
    io::{self, IsTerminal},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        resource::{RLIM_INFINITY, Resource, getrlimit},
        statvfs::{FsFlags, statvfs},
        wait::WaitStatus,
    },
    unistd::{self, AccessFlags},
};

use crate::{
    cause::{self, Cause},
    error::{Context, Error},
    host::{
        cache,
        candidates::Candidates,
        engine::{Engine, Lines},
        job::Job,
        kernel,
        launcher::Process,
        qemu::{self, Accelerator, Machine},
        starved,
        streams::{Feed, Stream},
        supervise::{End, Outcome, Signals},
        terminal::Terminal,
        traffic::Traffic,
        uml,
        visible::{SHARED_MEMORY, Visible},
    },
    options::{Kernel, Options},
    order::{self, Command, Order, Report},
};

/// Runs a command in a new guest, on the first kernel that starts here or the one that the user named.
pub(crate) fn run(options: &Options, command: &Command) -> Result<Outcome, Error> {
    let started = Instant::now();
    let mut candidates = Candidates::new(options);
    while let Some(kernel) = candidates.next() {
        let mut begun = false;
        let begin = || candidates.begin(kernel);
        let outcome = run_on(kernel, options, command, (started, &begin), &mut begun);
        match outcome {
            Err(error) if !begun => {
                if let Some(error) = candidates.failed(kernel, error) {
                    return Err(error);
                }
            }
            outcome => return outcome,
        }
    }
    Err(candidates.into_error())
}

/// Runs a command on a kernel. Sets `begun` if the command started.
fn run_on(
    kernel: Kernel,
    options: &Options,
    command: &Command,
    (started, begin): (Instant, &dyn Fn()),
    begun: &mut bool,
) -> Result<Outcome, Error> {
    let least = if kernel.is_qemu() { qemu::LEAST_MEMORY } else { uml::LEAST_MEMORY };
    if options.memory < least && (options.kernel.is_some() || !kernel.is_qemu()) {
        let value = options.memory.to_string();
        let expected = "more MiB (32 for User-Mode Linux, 128 for QEMU)";
        return Err(Error::Setting { name: "LVS_GUEST_MEMORY", value, expected });
    }
    let options = &Options { memory: options.memory.max(least), ..options.clone() };
    let engine = match kernel::find(options, kernel) {
        Err(Error::Interrupted { signal }) => return Ok(Outcome::Signal(signal)),
        engine => engine?,
    };
    engine.check(&options.modules)?;
    let run = Run { options, command, engine: &engine, started, begin };
    let outcome = match &engine {
        Engine::Uml(_) => run.attempt(None, None, begun),
        Engine::Qemu(machine) => run.attempt_fast(machine, begun),
    };
    if options.verbose {
        eprintln!("guest: {:.3} s in total", started.elapsed().as_secs_f64());
    }
    outcome
}

/// What all attempts to run one command share.
struct Run<'a> {
    options: &'a Options,
    command: &'a Command,
    engine: &'a Engine,
    started: Instant,
    /// Called when the command starts.
    begin: &'a dyn Fn(),
}

impl Run<'_> {
    /// Uses KVM if it works. Some machines offer a KVM that hangs or dies: a guest without output
    /// within seconds is ended, and later ones do not try KVM.
    fn attempt_fast(&self, machine: &Machine, begun: &mut bool) -> Result<Outcome, Error> {
        if !machine.may_use_kvm() {
            return self.attempt(Some(Accelerator::Tcg), None, begun);
        }
        match self.attempt(Some(Accelerator::Kvm), Some(qemu::KVM_START_TIMEOUT), begun) {
            Err(error @ (Error::TimeLimit { .. } | Error::Crash { .. })) if !*begun => {
                let reason = match error {
                    Error::Crash { end, .. } => end,
                    _ => format!("the guest did not start within {:?}", qemu::KVM_START_TIMEOUT),
                };
                eprintln!(
                    "guest: KVM does not work here ({reason}): continuing without it, slower, until this \
                     machine's next boot"
                );
                machine.note_bad_kvm();
                self.attempt(Some(Accelerator::Tcg), None, begun)
            }
            result => result,
        }
    }

    /// Runs the command once. Sets `begun` if the command started. Ends a guest that does not start
    /// it within the given time.
    fn attempt(
        &self,
        accelerator: Option<Accelerator>,
        patience: Option<Duration>,
        begun: &mut bool,
    ) -> Result<Outcome, Error> {
        let options = self.options;
        let base = base_directory(options);
        let helper = std::env::current_exe().context("find the path of", "this program")?;
        let terminal = Terminal::find();
        let input = terminal.is_some() || Feed::wanted();
        // Dropped last: a signal that arrives now takes effect when nothing is left.
        let mut signals = Signals::block()?;
        let job = Job::create(&base)?;
        let visible = Visible::new(options, self.command, &helper)?;
        let hint = visible.hint(self.command);
        job.put(&Order {
            write: visible.write,
            show: visible.show,
            show_files: visible.show_files,
            make: visible.make,
            command: self.command.clone(),
            modules: self.engine.modules().to_owned(),
            files: self.engine.files(),
            helper: helper.clone(),
            host_name: unistd::gethostname().unwrap_or_default(),
            input,
            terminal: terminal.as_ref().map(|terminal| order::Terminal {
                size: terminal.size(),
                errors: io::stderr().is_terminal(),
            }),
        })?;

        let (output, output_end) = pipe()?;
        let (errors, errors_end) = pipe()?;
        let (control, control_end) = pipe()?;
        let (log, log_end) = pipe()?;
        let (input_end, feed) = if input {
            let (input_end, feed) = pipe()?;
            (Some(input_end), Some(feed))
        } else {
            (None, None)
        };
        // The kernel inherits a copy made by dup, but not these: the pipes end with the kernel.
        let inherit = |end: &OwnedFd| unistd::dup(end).context("copy", "a pipe");
        let lines = Lines {
            output: inherit(&output_end)?,
            errors: inherit(&errors_end)?,
            control: inherit(&control_end)?,
            input: input_end.as_ref().map(inherit).transpose()?,
        };
        drop((output_end, errors_end, control_end, input_end));
        let words = match self.engine {
            Engine::Uml(kernel) => kernel.words(&job, options, &lines)?,
            Engine::Qemu(machine) => {
                machine.prepare(&helper, job.path(), &lines)?;
                machine.words(&job, options, &lines, accelerator.unwrap_or(Accelerator::Tcg))
            }
        };
        let process = Process::start(&helper, self.engine, &job, &base, words, log_end)?;
        drop(lines);
        let mut traffic = Traffic {
            output: Stream::output(output)?,
            errors: Stream::errors(errors)?,
            log: Stream::log(log, options.verbose, terminal.is_some())?,
            control: Stream::control(control),
            feed: feed.map(|feed| Feed::new(feed, terminal.is_some())).transpose()?,
            terminal,
            has_begun: false,
            rest: None,
            job: job.path().to_owned(),
            begin: self.begin,
        };
        let limit = options.time_limit;
        let deadline = limit.map(|limit| self.started + limit);
        let early = patience.map(|patience| Instant::now() + patience);
        let first = [early, deadline].into_iter().flatten().min();
        let mut end = signals.supervise(process.group, &mut traffic, first)?;
        *begun = traffic.has_begun;
        if *begun && first != deadline && matches!(end, End::TimeLimit) {
            end = signals.supervise(process.group, &mut traffic, deadline)?;
        }
        // Do not end a guest that makes progress on a busy machine.
        let mut given = Duration::ZERO;
        while let (true, End::TimeLimit, Some(limit)) = (*begun, &end, limit) {
            let allowance = starved::allowance(process.group, limit);
            if allowance <= given + Duration::from_millis(100) {
                break;
            }
            given = allowance;
            end = signals.supervise(
                process.group,
                &mut traffic,
                Some(self.started + limit + given),
            )?;
        }
        let status = match end {
            End::Process(status) => status,
            End::Signal(signal) => return Ok(Outcome::Signal(signal as i32)),
            End::TimeLimit => {
                let limit = if first == deadline || *begun { limit } else { patience };
                return Err(Error::TimeLimit { limit: limit.unwrap_or_default() });
            }
        };
        let Traffic { output, errors, log, .. } = &traffic;
        let Some(report) = Report::read(job.path()) else {
            let log = log.text();
            return Err(Error::Crash {
                cause: Cause::of(status, &log, is_limited()),
                end: describe(status),
                log: cause::log_end(&log),
            });
        };
        let lost = report.bytes().saturating_sub(output.count() + errors.count());
        drop(traffic);
        if let (order::End::Exit(1..), Some(hint)) = (&report.end, hint) {
            eprintln!("guest: {hint}");
        }
        match report.end {
            order::End::Failed(words) => Err(Error::Init { words }),
            order::End::NotRun(errno) => Err(Error::Command {
                program: self.command.program.to_string_lossy().into_owned(),
                source: io::Error::from_raw_os_error(errno),
                // A command that is missing there may exist here.
                is_hidden: errno == Errno::ENOENT as i32
                    && self.command.look_up().is_ok_and(|path| path.exists()),
            }),
            _ if lost > 0 => Err(Error::Lost { bytes: lost }),
            order::End::Signal(number) => Ok(Outcome::Signal(number)),
            order::End::Exit(status) => Ok(Outcome::Exit(status)),
        }
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).context("make", "a pipe")
}

/// The directory for the job and the guest's memory: in memory if there is room.
fn base_directory(options: &Options) -> PathBuf {
    let temporary = std::env::temp_dir();
    // A hardened machine may mount all of these noexec. Programs run where the kernels are kept.
    let cache = cache::directory(options).unwrap_or_default();
    let candidates = [Path::new(SHARED_MEMORY), &temporary, Path::new("/tmp"), &cache];
    let fitting = candidates.into_iter().find(|path| {
        // No colon either: it separates the names in LD_PRELOAD.
        let plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b':';
        let plain = path.as_os_str().as_bytes().iter().all(plain);
        let room = statvfs(*path).is_ok_and(|system| {
            let free = system.blocks_available() * system.fragment_size();
            // The kernel runs from the file that is its memory.
            free >> 20 > options.memory.into() && !system.flags().contains(FsFlags::ST_NOEXEC)
        });
        plain && path.is_absolute() && room && unistd::access(*path, AccessFlags::W_OK).is_ok()
    });
    fitting.unwrap_or(Path::new("/tmp")).to_owned()
}

/// Whether this process has a limit on memory (`ulimit -v`).
fn is_limited() -> bool {
    getrlimit(Resource::RLIMIT_AS).is_ok_and(|(soft, _)| soft != RLIM_INFINITY)
}

fn describe(status: WaitStatus) -> String {
    match status {
        WaitStatus::Exited(_, status) => format!("its process exited with status {status}"),
        WaitStatus::Signaled(_, signal, _) => format!("its process was ended by {signal}"),
        status => format!("its process: {status:?}"),
    }
}
