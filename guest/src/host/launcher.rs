//! The processes that run a guest's kernel.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::{
        fd::OwnedFd,
        unix::process::{CommandExt, parent_id},
    },
    path::Path,
    process::{self, Stdio},
};

use nix::{
    sys::{
        prctl,
        resource::{Resource, setrlimit},
        signal::{self, SigSet, Signal},
        wait::waitpid,
    },
    unistd::{self, Pid},
};

use crate::{
    error::{Context, Error},
    host::{
        engine::{Engine, UML},
        job::{self, Job},
        qemu, uml,
    },
};

/// The program name under which the launcher is started.
const LAUNCHER: &str = "lvs-guest-launcher";

/// Acts as the launcher: becomes the engine, in a new session, and dies with the runner. This happens
/// between fork and exec; a separate program can do it without unsafe code.
pub(crate) fn assume_role() {
    let mut words = crate::words();
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

/// An engine's processes; ended when dropped.
pub(super) struct Process {
    pub(super) group: Pid,
    _orphans: Orphans,
}

/// While this lives, orphaned descendants of this process become its children. Otherwise they would be
/// the children of the machine's init, and some inits never wait for theirs.
struct Orphans {
    /// The setting before.
    before: bool,
}

impl Process {
    pub(super) fn start(
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
        // The kernel's helper processes survive if it is killed. They are in its group, and become this
        // process's children when the kernel is gone.
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
