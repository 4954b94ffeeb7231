//! The loop: what comes in goes to the [`Director`], what follows goes to the kernel.

mod answers;

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use lvs::{
    Desired, Drain, Policy, Reconciler, Scope,
    client::{Client, packet::ServiceKey},
};
use lvs_health::check::{Checker, Limits, News};
use netns_link::NetNs;
use tokio::sync::mpsc;

use crate::{
    config::{Config, DrainSettings, LoadError, RoleSetting},
    director::{Director, Now},
    hooks::Hooks,
    host::{self, AddressPlan, Done, Half, Host, Role},
    notify::notify,
    options::Run,
    records::{Records, StateDirectory},
    status::History,
};

/// Addresses wait so long for the first results of services.
const PATIENCE: Duration = Duration::from_secs(15);
/// What fails beside the table is tried again after this time.
const AGAIN: Duration = Duration::from_secs(2);
/// Health is stored at most this often.
const STORE: Duration = Duration::from_secs(1);
/// How far samples of traffic lie apart.
const SAMPLE: Duration = Duration::from_secs(2);
/// How long a drain at the end may take where the file says nothing.
const LAST_DRAIN: Duration = Duration::from_secs(60);

pub(crate) struct Runner {
    options: Run,
    client: Client,
    host: Host,
    records: Records,
    director: Director,
    reconciler: Reconciler,
    /// Shared with the policy: what the table has of these services stays.
    waiting: Arc<Mutex<BTreeSet<ServiceKey>>>,
    checker: Checker,
    check_count: usize,
    /// Why fewer checks are made at once than are wanted.
    shortage: Option<String>,
    hooks: Hooks,
    role: Role,
    started: Instant,
    /// Why the file as it is now is not in effect.
    mistakes: Option<String>,
    round_failure: Option<String>,
    host_failures: Vec<String>,
    http_failure: Option<String>,
    http_due: Instant,
    host_due: Instant,
    host_is_ready: bool,
    announces: bool,
    resync_due: Instant,
    health_due: Option<Instant>,
    stored_health: String,
    history: History,
    sample_due: Option<Instant>,
    is_ready: bool,
}

impl Runner {
    pub(crate) async fn new(
        options: Run,
        config: Config,
        client: Client,
        hooks: Hooks,
    ) -> io::Result<(Self, mpsc::Receiver<News>)> {
        let directory = options.state_dir.as_deref().map(StateDirectory::open).transpose()?;
        let records = Records::open(directory)?;
        let now = Now::read();
        let config = Arc::new(config);
        let mut director = Director::new(Arc::clone(&config), now);
        let stored = records.health()?;
        if let Err(error) = director.restore(&stored, now) {
            tracing::warn!("the stored health of servers: {error}");
        }
        let waiting = Arc::default();
        let policy = policy(&config, records.ledger()?, &waiting);
        // The times of resyncs are the file's, which may change.
        let reconciler = Reconciler::new(policy).resync_every(Duration::from_secs(24 * 3600));
        let host = Host::new(NetNs::current()?)?;
        let (checker, news) = Checker::start(Limits::default());
        let role = match config.role {
            RoleSetting::Master => Role::Master,
            RoleSetting::Backup | RoleSetting::FromProgram => Role::Backup,
        };
        let instant = now.instant;
        let mut runner = Self {
            options,
            client,
            host,
            records,
            director,
            reconciler,
            waiting,
            checker,
            check_count: 0,
            shortage: None,
            hooks,
            role,
            started: instant,
            mistakes: None,
            round_failure: None,
            host_failures: Vec::new(),
            http_failure: None,
            http_due: instant,
            host_due: instant,
            host_is_ready: false,
            announces: true,
            resync_due: instant + config.resync,
            health_due: None,
            stored_health: stored,
            history: History::default(),
            sample_due: config.http.is_some().then_some(instant),
            is_ready: false,
        };
        let begun = runner.begin(now);
        runner.reconciler.set(begun);
        runner.replace_checks();
        Ok((runner, news))
    }

    /// The first desired state. Services that wait are not in it, and are left alone.
    fn begin(&mut self, now: Now) -> Desired {
        let step = self.director.step(now);
        self.take_events(&step.happened);
        self.note_waiting();
        let mut desired = Desired::new();
        for service in step.set {
            desired.insert(service);
        }
        desired
    }

    fn note_waiting(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        *waiting = self.director.waiting().copied().collect();
    }

    pub(crate) fn director(&self) -> &Director {
        &self.director
    }

    fn replace_checks(&mut self) {
        let wanted = self.director.checks();
        self.check_count = wanted.len();
        self.checker.replace(wanted);
    }

    /// Takes in what the checks found.
    pub(crate) fn hear(&mut self, news: News) {
        match news {
            News::Result(report) => self.director.report(report, Now::read()),
            News::Shortage(reason) => {
                tracing::warn!("fewer checks are made at once: {reason}");
                self.shortage = Some(format!("fewer checks are made at once: {reason}"));
            }
            News::ShortageOver => self.shortage = None,
            _ => {}
        }
    }

    /// Reads the file again. One with mistakes changes nothing.
    pub(crate) fn reload(&mut self) {
        match Config::load(&self.options.file) {
            Ok(config) => self.take_config(config),
            Err(error) => self.refuse(&error),
        }
    }

    fn refuse(&mut self, error: &LoadError) {
        let text = error.to_string();
        if self.mistakes.as_ref() != Some(&text) {
            tracing::error!("{text}\nwhat the file said before stays in effect");
            self.mistakes = Some(text);
        }
    }

    fn take_config(&mut self, config: Config) {
        if self.mistakes.take().is_some() {
            tracing::info!("the file has no mistakes any more");
        }
        let now = Now::read();
        let before = Arc::clone(self.director.config());
        if *before == config {
            return;
        }
        tracing::info!("the file has changed");
        let config = Arc::new(config);
        self.director.set_config(Arc::clone(&config), now);
        self.replace_checks();
        self.note_waiting();
        if before.drain != config.drain || before.max_deletions != config.max_deletions {
            let ledger = self.reconciler.ledger().cloned().unwrap_or_default();
            self.reconciler.set_policy(policy(&config, ledger, &self.waiting));
        }
        if before.role != config.role {
            match config.role {
                RoleSetting::Master => self.set_role(Role::Master),
                RoleSetting::Backup => self.set_role(Role::Backup),
                // It stays what it is until it is told.
                RoleSetting::FromProgram => {}
            }
        }
        self.resync_due = self.resync_due.min(now.instant + config.resync);
        self.host_due = now.instant;
        self.sample_due = config.http.is_some().then_some(now.instant);
        self.health_due.get_or_insert(now.instant + STORE);
    }

    /// Becomes master or backup: the addresses, their announcement and the sync daemon follow.
    pub(crate) fn set_role(&mut self, role: Role) {
        if self.role == role {
            return;
        }
        self.role = role;
        let text = format!("the director is {} now", self.role_name());
        self.director.note("role", text, Now::read());
        self.host_due = Instant::now();
        self.announces = role == Role::Master;
    }

    /// A signal or a command that names a role.
    pub(crate) fn wish_role(&mut self, role: Role) -> Result<(), &'static str> {
        match self.director.config().role {
            RoleSetting::FromProgram => {
                self.set_role(role);
                Ok(())
            }
            _ => Err("the file names the role: role: from-program lets others choose"),
        }
    }

    fn role_name(&self) -> &'static str {
        match self.role {
            Role::Master => "master",
            Role::Backup => "backup",
        }
    }

    /// Does what is due.
    pub(crate) async fn turn(&mut self) {
        let now = Now::read();
        let step = self.director.step(now);
        self.take_events(&step.happened);
        if !step.happened.is_empty() {
            self.health_due.get_or_insert(now.instant + STORE);
        }
        if !step.set.is_empty() || !step.removed.is_empty() {
            self.note_waiting();
        }
        if step.failed_changed {
            let failed: BTreeSet<_> = self.director.failed().collect();
            // Set before they leave, so that they are never drained.
            self.reconciler.set_drain_limits(failed.into_iter().map(|it| (it, Duration::ZERO)));
        }
        for key in &step.removed {
            self.reconciler.remove(key);
        }
        for service in step.set {
            self.reconciler.insert(service);
        }
        if self.resync_due <= now.instant {
            self.resync_due = now.instant + self.director.config().resync;
            self.reconciler.resync();
            self.host_due = now.instant;
        }
        self.rounds().await;
        let is_ready = self.director.has_begun() || self.started.elapsed() > PATIENCE;
        if is_ready && !self.host_is_ready {
            self.host_is_ready = true;
            self.host_due = now.instant;
        }
        if self.host_due <= now.instant {
            self.attend().await;
        }
        if self.health_due.is_some_and(|due| due <= now.instant) {
            self.store_health();
        }
        if self.sample_due.is_some_and(|due| due <= now.instant) {
            if let Ok(table) = self.client.snapshot().await {
                self.history.add(&self.director, &table, SAMPLE.as_secs());
            }
            self.sample_due = Some(now.instant + SAMPLE);
        }
        if !self.is_ready && self.host_is_ready {
            self.is_ready = true;
            notify("READY=1");
        }
    }

    /// Brings the table to what it should be, as far as anything is due.
    async fn rounds(&mut self) {
        loop {
            let records = &self.records;
            if let Err(error) = self.reconciler.store(|ledger| records.store_ledger(ledger)) {
                self.round_failed(format!("new services wait: {error}"));
            }
            let Some(round) = self.reconciler.round(&self.client, Instant::now()).await else {
                break;
            };
            match &round.result {
                Ok(_) => self.round_failure = None,
                Err(error) => self.round_failed(error.to_string()),
            }
        }
    }

    fn round_failed(&mut self, text: String) {
        if self.round_failure.as_ref() != Some(&text) {
            tracing::error!("{text}");
            self.round_failure = Some(text);
        }
    }

    /// Brings what is beside the table to what it should be. What a new role needs comes first: the daemon
    /// that sends connections before the addresses that bring them; and what an old one had goes last.
    async fn attend(&mut self) {
        let config = Arc::clone(self.director.config());
        let mut done = Done::default();
        self.host.settings(&config, &mut done);
        host::timeouts(&self.client, &config, &mut done).await;
        host::daemon(&self.client, &config, self.role, &mut self.records, Half::Start, &mut done)
            .await;
        self.attend_addresses(&config, &mut done);
        host::daemon(&self.client, &config, self.role, &mut self.records, Half::Stop, &mut done)
            .await;
        if let Err(error) = self.records.store() {
            done.failures.push(error.to_string());
        }
        done.changes.iter().for_each(|change| tracing::info!("{change}"));
        self.host.unsaid(&done.failures).iter().for_each(|failure| tracing::error!("{failure}"));
        let has_failed = !done.failures.is_empty();
        self.host_failures = done.failures;
        let is_leaving = !self.reconciler.draining().is_empty();
        self.host_due = match has_failed || is_leaving {
            true => Instant::now() + AGAIN,
            // With the next resync.
            false => Instant::now() + Duration::from_secs(24 * 3600),
        };
    }

    fn attend_addresses(&mut self, config: &Config, done: &mut Done) {
        let wanted = host::wanted(config, self.role);
        // A service that is being drained needs its address.
        let draining: BTreeSet<IpAddr> =
            self.reconciler.draining().services().iter().filter_map(ServiceKey::address).collect();
        let is_backup = self.role == Role::Backup;
        let stays = |ip: &IpAddr| !is_backup && draining.contains(ip);
        let plan = match self.host.plan(&wanted, &self.records, stays) {
            Ok(plan) => plan,
            Err(error) => return done.failures.push(error.to_string()),
        };
        self.host.remove(&plan, &mut self.records, done);
        // Who comes before there is a service is refused.
        if !self.host_is_ready {
            return;
        }
        let added = self.host.add(&plan, &mut self.records, done);
        let announced: BTreeSet<IpAddr> = match self.announces {
            true => wanted.iter().map(|(_, ip)| *ip).collect(),
            false => added.iter().map(|(_, ip)| *ip).collect(),
        };
        self.announces = false;
        self.host.announce(config, &announced, done);
    }

    fn take_events(&mut self, happened: &[crate::director::Happening]) {
        for happening in happened {
            match happening.kind {
                "down" | "quorum-lost" | "sorry-in" | "fail-open-began" => {
                    tracing::warn!("{}", happening.text);
                }
                _ => tracing::info!("{}", happening.text),
            }
            self.hooks.call(&self.director.config().hooks, happening);
        }
    }

    fn store_health(&mut self) {
        self.health_due = None;
        let state = self.director.state();
        if state == self.stored_health {
            return;
        }
        match self.records.store_health(&state) {
            Ok(()) => self.stored_health = state,
            Err(error) => {
                self.round_failed(error.to_string());
                self.health_due = Some(Instant::now() + AGAIN);
            }
        }
    }

    /// When the next turn is due.
    pub(crate) fn due(&mut self) -> Instant {
        let now = Instant::now();
        let times = [Some(self.host_due), self.health_due, self.sample_due, Some(self.resync_due)];
        let patience = (!self.host_is_ready).then(|| self.started + PATIENCE);
        let http = self.http_failure.as_ref().map(|_| self.http_due);
        let times = times.into_iter().chain([
            patience,
            http,
            self.reconciler.due(now),
            self.director.next(),
        ]);
        times.flatten().min().unwrap_or(now).max(now)
    }

    /// Whether everything is as it should be.
    pub(crate) fn is_settled(&self) -> bool {
        self.director.has_begun() && self.reconciler.is_settled() && self.host_failures.is_empty()
    }

    /// What keeps it from being settled.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.round_failure.as_deref().or(self.host_failures.first().map(String::as_str))
    }

    /// Takes all services away, draining them, then the addresses; for the end of the program. It goes on
    /// until nothing is left, or the limit of the drain is over.
    pub(crate) async fn drain(&mut self) {
        let config = Arc::clone(self.director.config());
        let limit = config.drain.map_or(LAST_DRAIN, |drain| drain.limit);
        self.reconciler.drain_all(Drain::for_at_most(limit));
        let end = Instant::now() + limit + AGAIN;
        loop {
            self.rounds().await;
            let now = Instant::now();
            if self.reconciler.is_settled() || now >= end {
                break;
            }
            let due = self.reconciler.due(now).unwrap_or(end).min(end);
            tokio::time::sleep_until(due.into()).await;
        }
        let empty = Config { addresses: Vec::new(), sync: None, ..(*config).clone() };
        let mut done = Done::default();
        let plan = self.host.plan(&BTreeSet::new(), &self.records, |_| false);
        self.host.remove(
            &plan.unwrap_or_else(|_| AddressPlan::default()),
            &mut self.records,
            &mut done,
        );
        host::daemon(&self.client, &empty, self.role, &mut self.records, Half::Stop, &mut done)
            .await;
        done.failures.iter().for_each(|failure| tracing::error!("{failure}"));
    }

    /// Stores what is known, at the end.
    pub(crate) fn store(&mut self) {
        self.store_health();
        let records = &self.records;
        let ledger = self.reconciler.store(|ledger| records.store_ledger(ledger));
        if let Err(error) = ledger.map(drop).and_then(|()| self.records.store()) {
            tracing::error!("{error}");
        }
    }
}

/// How the table is brought to what should be: what this program has made may go, but of services that
/// wait for first results.
fn policy(
    config: &Config,
    ledger: lvs::Ledger,
    waiting: &Arc<Mutex<BTreeSet<ServiceKey>>>,
) -> Policy {
    let waiting = Arc::clone(waiting);
    let does_not_wait = Scope::only(move |key| {
        !waiting.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    });
    let mut policy = Policy::new().scope(Scope::Ledger(ledger).and(does_not_wait));
    if let Some(drain) = config.drain {
        policy = policy.drain(drain.into());
    }
    if let Some(deletions) = config.max_deletions {
        policy = policy.max_deletions(lvs::Limit::from(deletions));
    }
    policy
}

impl From<DrainSettings> for Drain {
    fn from(settings: DrainSettings) -> Self {
        let drain = Self::for_at_most(settings.limit)
            .services(settings.services)
            .tcp(settings.tcp)
            .udp(settings.udp)
            .sctp(settings.sctp);
        match settings.inactive {
            Some(waits) => drain.wait_for_inactive(waits),
            None => drain,
        }
    }
}
