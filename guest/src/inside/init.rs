//! The guest's first process: builds the guest's root from this machine's files, runs the command,
//! reports how it ended, and turns the guest off. It is also the guest's `modprobe`.
//!
//! It needs no program installed in the guest.

use std::{
    convert::Infallible,
    ffi::OsStr,
    fs, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process,
};

use nix::{
    mount::{MsFlags, mount},
    sys::reboot::{RebootMode, reboot},
    unistd,
};

use crate::{
    error::{Context, Error},
    inside::{
        FILES, FIRST_MODULES, FIRST_STAGE, HOST, JOB, MODPROBE, MODULES, TAG, command,
        lines::Lines, own, root, terminal,
    },
    modules::{self, Modules},
    order::{End, Files, Order, Report},
};

/// Acts as init or modprobe if this process was started as that, and then does not return.
pub(crate) fn assume_role() {
    if process::id() == 1 {
        if let Some(job) = std::env::var_os(JOB) {
            // It exists in the initramfs only.
            if Path::new(FIRST_STAGE).exists() {
                first_stage(Path::new(&job));
            }
            init(Path::new(&job));
        }
    }
    terminal::assume_role();
    let mut words = crate::words();
    if words.next().as_deref() == Some(OsStr::new(MODPROBE)) && is_guest() {
        // The kernel runs `modprobe -q -- NAME`, and iptables `modprobe NAME -q`.
        let mut names = words.filter(|word| !word.as_encoded_bytes().starts_with(b"-"));
        let name = names.next_back().unwrap_or_default();
        process::exit(modprobe(&name.to_string_lossy()));
    }
}

/// Whether this process runs in a guest.
pub(crate) fn is_guest() -> bool {
    fs::read_to_string("/proc/cmdline").is_ok_and(|line| {
        line.split_ascii_whitespace()
            .any(|word| word.strip_prefix(JOB).is_some_and(|rest| rest.starts_with('=')))
    })
}

fn modprobe(name: &str) -> i32 {
    let result = Modules::new(MODULES).load(name);
    match result {
        Ok(()) => 0,
        // The kernel asks for many modules that may not exist.
        Err(error) if error.kind() == io::ErrorKind::NotFound => 1,
        Err(error) => {
            // To the kernel log, since nobody reads its standard error.
            let _ = fs::write("/dev/kmsg", format!("guest: cannot load module {name}: {error}\n"));
            1
        }
    }
}

/// The first program in QEMU's guests: changes to this machine's files, and runs the init there.
fn first_stage(job: &Path) -> ! {
    let Err(error) = go_over(job);
    eprintln!("guest: {error}");
    turn_off();
}

fn go_over(job: &Path) -> Result<Infallible, Error> {
    let mut modules: Vec<PathBuf> = fs::read_dir(FIRST_MODULES)
        .context("read", FIRST_MODULES)?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    modules.sort();
    for module in modules {
        modules::insert(&module).context("load", module.display())?;
    }
    let none: Option<&str> = None;
    let files = Files::named(&std::env::var_os(FILES).unwrap_or_default());
    root::mount_host(files, TAG, Path::new(HOST))?;
    std::env::set_current_dir(HOST).context("enter", HOST)?;
    mount(Some("."), "/", none, MsFlags::MS_MOVE, none).context("move", HOST)?;
    unistd::chroot(".").context("change to", HOST)?;
    std::env::set_current_dir("/").context("enter", "/")?;
    let init = job.join("init");
    let error = process::Command::new(&init).env_clear().env(JOB, job).exec();
    Err(error).context("run", init.display())
}

fn init(job: &Path) -> ! {
    let mut lines = None;
    let report = perform(job, &mut lines).unwrap_or_else(|error| {
        eprintln!("guest: {error}");
        Report { end: End::Failed(error.to_string()), written: [0; 2] }
    });
    // Without a report, the runner shows the kernel log, which has this line.
    if let Err(error) = report.write(&own("job")) {
        eprintln!("guest: cannot report {report}: {error}");
    } else if let Some(Err(error)) = lines.as_mut().map(Lines::finish) {
        eprintln!("guest: {error}");
    }
    turn_off();
}

fn turn_off() -> ! {
    unistd::sync();
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    // The kernel panics when init ends, so the guest ends in any case.
    eprintln!("guest: cannot turn off: {error}");
    process::exit(1);
}

fn perform(job: &Path, lines: &mut Option<Lines>) -> Result<Report, Error> {
    let order = Order::read(job)?;
    let release = crate::release()?;
    let modules = order.modules.join(&release);
    root::make(&order, &modules, &release)?;
    root::furnish(job, &order, &modules, &release)?;
    let directory = &order.command.directory;
    std::env::set_current_dir(directory).context("enter", directory.display())?;
    command::run(&order, lines.insert(Lines::open(&order)?))
}
