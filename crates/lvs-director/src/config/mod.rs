//! The file: what the director should do, read and checked as a whole.

mod build;
mod check;
mod check_language;
mod entrance;
mod language;
mod range;
mod schema;
mod shape;
#[cfg(test)]
mod tests;
mod tree;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    io::Read as _,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use lvs::{
    Encapsulation, Invalid, Limit, RealServer, VirtualService,
    client::packet::{ForwardMethod, ServiceKey, SyncDaemon},
};
use lvs_health::{AllFailed, BeforeResult, Member, OnFailure, Pool, Quorum};
use netns_link::Setting;

pub use self::schema::schema;
use self::tree::{Node, Place};
pub(crate) use self::{check::CheckSpec, check_language::RECORD_TYPES};

/// What hooks are called for.
pub(crate) const EVENTS: &[&str] = &[
    "up",
    "down",
    "ramp-ended",
    "quorum-lost",
    "quorum-regained",
    "sorry-in",
    "sorry-out",
    "fail-open-began",
    "fail-open-ended",
    "role",
];

/// A longer file is refused.
const LONGEST: u64 = 64 << 20;

/// What a director should do: a file that was read and found right.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub(crate) http: Option<SocketAddr>,
    pub(crate) role: RoleSetting,
    pub(crate) stop: Stop,
    pub(crate) max_deletions: Option<Deletions>,
    pub(crate) resync: Duration,
    pub(crate) drain: Option<DrainSettings>,
    pub(crate) settings: Vec<(Setting, String)>,
    pub(crate) timeouts: Timeouts,
    /// With the role of a master; a backup's is the same but for that.
    pub(crate) sync: Option<SyncDaemon>,
    pub(crate) hooks: Vec<Hook>,
    pub(crate) addresses: Vec<VirtualAddress>,
    pub(crate) services: BTreeMap<ServiceKey, Service>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RoleSetting {
    #[default]
    Master,
    Backup,
    FromProgram,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stop {
    #[default]
    Leave,
    Drain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deletions {
    Number(usize),
    Percent(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DrainSettings {
    pub(crate) limit: Duration,
    pub(crate) services: bool,
    pub(crate) tcp: bool,
    pub(crate) udp: bool,
    pub(crate) sctp: bool,
    pub(crate) inactive: Option<bool>,
}

/// 0 leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timeouts {
    pub(crate) tcp: u32,
    pub(crate) tcp_fin: u32,
    pub(crate) udp: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// All, if empty.
    pub(crate) events: Vec<String>,
    pub(crate) timeout: Duration,
}

/// A virtual address, where it lives and where it is announced.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct VirtualAddress {
    pub(crate) address: IpAddr,
    /// The director's own dummy link, if none is named.
    pub(crate) link: Option<String>,
    pub(crate) announce: Option<String>,
}

/// One virtual service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Service {
    pub(crate) name: Arc<str>,
    /// Without real servers.
    pub(crate) frame: VirtualService,
    pub(crate) common: Arc<Common>,
}

/// What services that were written as one have in common.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Common {
    pub(crate) servers: Vec<Server>,
    pub(crate) sorry: Option<Server>,
    pub(crate) quorum: Quorum,
    pub(crate) hysteresis: u32,
    pub(crate) on_failure: OnFailure,
    pub(crate) all_failed: AllFailed,
    pub(crate) before_result: BeforeResult,
    pub(crate) slow_start: Duration,
    pub(crate) damping: Option<(usize, Duration, Duration)>,
}

/// A real server, and how it is checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Server {
    pub(crate) address: IpAddr,
    pub(crate) port: Option<u16>,
    pub(crate) forwarding: ForwardMethod,
    pub(crate) weight: u32,
    pub(crate) thresholds: (u32, u32),
    pub(crate) encapsulation: Encapsulation,
    /// All have to pass; without any it is up.
    pub(crate) checks: Vec<Arc<CheckSpec>>,
}

impl Config {
    /// Reads a text and checks all of it.
    ///
    /// # Errors
    ///
    /// Every mistake, in order of their places.
    pub fn parse(text: &str) -> Result<Self, Mistakes> {
        let mut mistakes = Vec::new();
        let config = match tree::read(text) {
            Ok(tree) => {
                language::kind().check(&tree, &mut mistakes);
                Some(build::config(&tree, &mut mistakes))
            }
            Err(mistake) => {
                mistakes.push(mistake);
                None
            }
        };
        mistakes.sort();
        mistakes.dedup();
        match config {
            Some(config) if mistakes.is_empty() => Ok(config),
            _ => Err(Mistakes(mistakes)),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// It cannot be read, is no file, is longer than 64 MiB, is not UTF-8; or it has mistakes.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let text = read(path).map_err(|source| LoadError::Io { path: path.to_owned(), source })?;
        Self::parse(&text)
            .map_err(|mistakes| LoadError::Mistakes { path: path.to_owned(), mistakes })
    }
}

fn read(path: &Path) -> io::Result<String> {
    // Opening a FIFO would wait for a writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut text = String::new();
    let file = fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    file.take(LONGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LONGEST {
        return Err(io::Error::other("it is longer than 64 MiB"));
    }
    Ok(text)
}

impl Common {
    /// Whether they differ in nothing but their servers.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let without = |common: &Self| Self { servers: Vec::new(), ..common.clone() };
        without(self) == without(other)
    }
}

impl Server {
    /// As a server of this service.
    pub(crate) fn real_server(&self, key: &ServiceKey) -> RealServer {
        let server = match self.forwarding {
            ForwardMethod::DIRECT_ROUTE => RealServer::direct(self.address),
            ForwardMethod::TUNNEL => {
                RealServer::tunnel(self.address).encapsulation(self.encapsulation)
            }
            _ => {
                let port = self.port.or(key.port()).unwrap_or(0);
                RealServer::nat(SocketAddr::new(self.address, port))
            }
        };
        let (upper, lower) = self.thresholds;
        server.weight(self.weight).thresholds(upper, lower)
    }
}

impl Service {
    /// The members of its pool.
    pub(crate) fn members(&self) -> Vec<Member> {
        let member = |server: &Server| {
            let most = |of: fn(&CheckSpec) -> u32| server.checks.iter().map(|it| of(it)).max();
            Member::new(server.real_server(self.frame.key()))
                .weight(server.weight)
                .rise(most(|check| check.rise).unwrap_or(1))
                .fall(most(|check| check.fall).unwrap_or(1))
        };
        self.common.servers.iter().map(member).collect()
    }

    /// Its pool, of which nothing is known yet.
    pub(crate) fn pool(&self) -> Result<Pool, Invalid> {
        let Common { quorum, hysteresis, on_failure, all_failed, before_result, .. } = *self.common;
        let mut builder = Pool::new(self.frame.to_builder())
            .quorum(quorum)
            .hysteresis(hysteresis)
            .on_failure(on_failure)
            .all_failed(all_failed)
            .before_result(before_result)
            .slow_start(self.common.slow_start);
        if let Some((falls, within, hold)) = self.common.damping {
            builder = builder.damping(falls, within, hold);
        }
        if let Some(sorry) = &self.common.sorry {
            builder = builder.sorry(sorry.real_server(self.frame.key()));
        }
        for member in self.members() {
            builder = builder.member(member);
        }
        builder.build()
    }
}

impl From<Deletions> for Limit {
    fn from(deletions: Deletions) -> Self {
        match deletions {
            Deletions::Number(number) => Self::number(number),
            Deletions::Percent(percent) => Self::percent(percent),
        }
    }
}

/// Something that is wrong in a file, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    place: Place,
    text: String,
}

impl Mistake {
    fn at(node: &Node, text: impl Into<String>) -> Self {
        Self { place: node.place, text: text.into() }
    }
}

impl Mistake {
    /// The line, the first being 1; 0 if it is of no line.
    pub fn line(&self) -> u64 {
        self.place.line
    }

    /// The column, the first being 1; 0 if it is of no line.
    pub fn column(&self) -> u64 {
        self.place.column
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place.line {
            0 => f.write_str(&self.text),
            _ => write!(f, "{}: {}", self.place, self.text),
        }
    }
}

/// All that is wrong in a file: at least one [`Mistake`]. It displays one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// The mistakes in order of their places.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.0.iter()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, mistake) in self.0.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            write!(f, "{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// Why a file is not in effect.
#[derive(Debug)]
#[non_exhaustive]
pub enum LoadError {
    /// It cannot be read.
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It has mistakes.
    Mistakes {
        /// The file.
        path: PathBuf,
        /// All of them.
        mistakes: Mistakes,
    },
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Mistakes { path, mistakes } => {
                for (number, mistake) in mistakes.iter().enumerate() {
                    if number > 0 {
                        writeln!(f)?;
                    }
                    write!(f, "{}: {mistake}", path.display())?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Mistakes { .. } => None,
        }
    }
}
