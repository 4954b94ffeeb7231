//! What the program does, from its command line to its end.

use std::{ffi::OsString, io, path::Path, process::ExitCode, time::Duration};

use clap::Parser as _;
use lvs::{Desired, Plan, Policy, client::Client};
use lvs_health::check::News;
use netns_link::NetNs;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{sleep, sleep_until},
};

use crate::{
    config::Config,
    control::{self, Ask, Control, Request},
    director::{Director, Now},
    follow::Follow,
    hooks::Hooks,
    host::{self, Host, Role},
    import::{Origin, import},
    notify::notify,
    options::{Command, From, Options, RoleWord, Run},
    records::{Records, StateDirectory},
    runner::Runner,
};

/// A wrong command line, or a file with mistakes.
const WRONG: u8 = 2;
/// The first wait for a kernel without IPVS, and the longest.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long `--once` waits for first results.
const ONCE: Duration = Duration::from_secs(60);
/// So many results are taken in before what follows is written.
const BATCH: usize = 4096;

/// The program: its exit status is 0 when it did what it was asked to, 1 when it could not, 2 when the
/// command line or the file is wrong.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let options = match Options::try_parse_from(arguments) {
        Ok(options) => options,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { WRONG.into() } else { ExitCode::SUCCESS };
        }
    };
    match (options.check, options.command) {
        (Some(file), _) => check(&file),
        (None, Some(command)) => act(command),
        (None, None) => {
            eprintln!("lvs-director: a command is missing; --help lists them");
            WRONG.into()
        }
    }
}

fn act(command: Command) -> ExitCode {
    let (socket, request, as_json) = match command {
        Command::Run(options) => return start(options),
        Command::Import { from, file } => return imported(from, &file),
        Command::Schema => return printed(&crate::schema()),
        Command::Status { socket, json } => (socket, Request::Status, json),
        Command::Confirm { socket } => (socket, Request::Confirm, false),
        Command::Role { role, socket } => {
            (socket, Request::Role { master: role == RoleWord::Master }, false)
        }
        Command::Drain(it) => {
            (it.socket, Request::Drain { member: it.member, service: it.service }, false)
        }
        Command::Maintain(it) => {
            (it.socket, Request::Maintain { member: it.member, service: it.service }, false)
        }
        Command::Enable(it) => {
            (it.socket, Request::Enable { member: it.member, service: it.service }, false)
        }
        Command::Weight { member: it, percent } => {
            let request = Request::Weight { member: it.member, service: it.service, percent };
            (it.socket, request, false)
        }
    };
    match control::call(&socket.socket, &request) {
        Ok(answer) if answer.done => match answer.status {
            Some(status) if as_json => match serde_json::to_string_pretty(&status) {
                Ok(text) => printed(&format!("{text}\n")),
                Err(error) => failed(&error.to_string()),
            },
            Some(status) => printed(&status.text()),
            None => printed(&format!("{}\n", answer.text)),
        },
        Ok(answer) => failed(&answer.text),
        Err(error) => failed(&error.to_string()),
    }
}

/// Prints another program's file as ours; what has no counterpart is also said on standard error.
fn imported(from: From, file: &Path) -> ExitCode {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) => return failed(&format!("{}: {error}", file.display())),
    };
    let origin = match from {
        From::Keepalived => Origin::Keepalived,
        From::Ldirectord => Origin::Ldirectord,
    };
    let imported = import(origin, &String::from_utf8_lossy(&bytes));
    for (line, text) in &imported.notes {
        eprintln!("{}:{line}: {text}", file.display());
    }
    printed(&imported.yaml)
}

/// Prints to a pipe that may be closed.
fn printed(text: &str) -> ExitCode {
    use io::Write as _;
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => failed(&error.to_string()),
    }
}

fn failed(text: &str) -> ExitCode {
    eprintln!("lvs-director: {text}");
    ExitCode::FAILURE
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Says all mistakes of a file, and what would change.
fn check(file: &Path) -> ExitCode {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return WRONG.into();
        }
    };
    let servers: usize = config.services.values().map(|it| it.common.servers.len()).sum();
    let addresses = config.addresses.len();
    let services = config.services.len();
    let file = file.display();
    let head =
        format!("{file}: right; services {services}, servers {servers}, addresses {addresses}\n");
    let plan = runtime().map_err(|error| error.to_string());
    let plan = plan.and_then(|runtime| runtime.block_on(planned(config, &Records::default())));
    match plan {
        Ok(plan) => printed(&format!("{head}{plan}")),
        // A file can be checked where there is no director.
        Err(reason) => printed(&format!("{head}what would change is not known here: {reason}\n")),
    }
}

/// What would change in the kernel.
async fn planned(config: Config, records: &Records) -> Result<String, String> {
    let client = Client::connect().map_err(|error| error.to_string())?;
    let table = client.snapshot().await.map_err(|error| error.to_string())?;
    let now = Now::read();
    let mut director = Director::new(config.into(), now);
    let stored = records.health().map_err(|error| error.to_string())?;
    let _ = director.restore(&stored, now);
    director.assume(now);
    let mut desired = Desired::new();
    for service in director.step(now).set {
        desired.insert(service);
    }
    let ledger = records.ledger().map_err(|error| error.to_string())?;
    let policy = Policy::new().scope(lvs::Scope::Ledger(ledger));
    let plan = Plan::new(&desired, &table, &policy);
    let mut text = String::new();
    if !plan.is_empty() {
        text = format!("if every server that is not known is healthy:\n{}", plan.command_lines());
    }
    let namespace = NetNs::current().map_err(|error| error.to_string())?;
    let host = Host::new(namespace).map_err(|error| error.to_string())?;
    let config = director.config();
    for (setting, value) in &config.settings {
        match setting.read(&host.namespace) {
            Ok(there) if host::is_same(&there, value) => {}
            Ok(there) => text.push_str(&format!("sysctl -w {setting}={value} # was {there}\n")),
            Err(error) => text.push_str(&format!("# {error}\n")),
        }
    }
    let role = match config.role {
        crate::config::RoleSetting::Master => Role::Master,
        _ => Role::Backup,
    };
    let wanted = host::wanted(config, role);
    let addresses = host.plan(&wanted, records, |_| false).map_err(|error| error.to_string())?;
    let line = |verb, (link, ip): &host::Placed| {
        let length = if ip.is_ipv4() { 32 } else { 128 };
        format!("ip address {verb} {ip}/{length} dev {link}\n")
    };
    text.extend(addresses.add.iter().map(|it| line("add", it)));
    text.extend(addresses.remove.iter().map(|it| line("delete", it)));
    if text.is_empty() {
        text.push_str("nothing would change\n");
    }
    Ok(text)
}

fn start(options: Run) -> ExitCode {
    let level = tracing_subscriber::filter::LevelFilter::INFO;
    let log = tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr);
    // The journal has times of its own.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.with_target(false).without_time().with_ansi(false).init();
    } else {
        log.with_target(false).init();
    }
    let config = match Config::load(&options.file) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return WRONG.into();
        }
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.to_string()),
    };
    match runtime.block_on(directed(options, config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

async fn directed(options: Run, config: Config) -> Result<(), String> {
    if options.dry_run {
        let directory = options.state_dir.as_deref().map(StateDirectory::open).transpose();
        let records = directory.and_then(Records::open).map_err(|error| error.to_string())?;
        printed(&planned(config, &records).await?);
        return Ok(());
    }
    let mut signals = Signals::new().map_err(|error| error.to_string())?;
    let client = match options.once {
        true => Client::connect().map_err(|error| error.to_string())?,
        false => tokio::select! {
            client = connect() => client,
            () = signals.end.recv() => return Ok(()),
        },
    };
    let is_once = options.once;
    let (asks, mut asked) = mpsc::channel::<Ask>(16);
    let socket = options.socket.clone();
    let mut follow = Follow::new(&options.file);
    let (mut runner, mut news) = Runner::new(options, config, client, Hooks::start())
        .await
        .map_err(|error| error.to_string())?;
    let _control = match is_once || socket.as_os_str().is_empty() {
        true => None,
        false => Some(Control::listen(&socket, asks.clone()).map_err(|error| error.to_string())?),
    };
    let (file_changed, mut file_changes) = mpsc::channel(1);
    let following = tokio::spawn(async move {
        loop {
            follow.changed().await;
            if file_changed.send(()).await.is_err() {
                return;
            }
        }
    });
    let started = std::time::Instant::now();
    let mut http = None;
    let result = loop {
        runner.turn().await;
        if !is_once {
            runner.serve(&mut http, &asks).await;
        }
        if is_once {
            if runner.is_settled() {
                break Ok(());
            }
            if started.elapsed() > ONCE {
                let reason =
                    runner.failure().unwrap_or("not all servers had a result, or some drain");
                break Err(format!("not done within {} s: {reason}", ONCE.as_secs()));
            }
        }
        let due = runner.due();
        tokio::select! {
            Some(first) = news.recv() => hear(&mut runner, first, &mut news),
            Some(()) = file_changes.recv() => runner.reload(),
            _ = signals.reload.recv() => runner.reload(),
            _ = signals.master.recv() => note(runner.wish_role(Role::Master)),
            _ = signals.backup.recv() => note(runner.wish_role(Role::Backup)),
            Some((request, reply)) = asked.recv() => {
                let _ = reply.send(runner.answer(request).await);
            }
            () = sleep_until(due.into()) => {}
            () = signals.end.recv() => {
                notify("STOPPING=1");
                if runner.director().config().stop == crate::config::Stop::Drain {
                    tracing::info!("draining; a second signal ends it");
                    tokio::select! {
                        () = runner.drain() => {}
                        () = signals.end.recv() => {}
                    }
                }
                break Ok(());
            }
        }
    };
    following.abort();
    runner.store();
    result
}

fn hear(runner: &mut Runner, first: News, news: &mut mpsc::Receiver<News>) {
    runner.hear(first);
    for _ in 1..BATCH {
        let Ok(next) = news.try_recv() else { break };
        runner.hear(next);
    }
}

fn note(result: Result<(), &'static str>) {
    if let Err(reason) = result {
        tracing::warn!("a signal for the role: {reason}");
    }
}

struct Signals {
    end: End,
    reload: Signal,
    master: Signal,
    backup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            end: End(signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?),
            reload: signal(SignalKind::hangup())?,
            master: signal(SignalKind::user_defined1())?,
            backup: signal(SignalKind::user_defined2())?,
        })
    }
}

/// SIGTERM and SIGINT.
struct End(Signal, Signal);

impl End {
    async fn recv(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

/// The kernel, as soon as it has what is needed.
async fn connect() -> Client {
    let mut wait = WAITS.0;
    loop {
        match Client::connect() {
            Ok(client) => return client,
            Err(error) => {
                tracing::error!("{error}; the next attempt is in {} s", wait.as_secs_f64());
            }
        }
        sleep(wait).await;
        wait = (wait * 2).min(WAITS.1);
    }
}
