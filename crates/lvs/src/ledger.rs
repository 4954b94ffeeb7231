//! What the caller has made, to be found again after a restart.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use ipvs_client::{Snapshot, packet::ServiceKey};

use crate::Desired;

/// How a ledger's text begins; the version follows.
const HEADER: &str = "lvs-ledger ";
/// How it ends; the number of lines between follows.
const END: &str = "end ";
/// The version that is written, and the newest one of which every line is known.
const VERSION: u32 = 2;
/// How the line of version 2 begins: how many removals a limit has let go lately.
const TAKEN: &str = "taken ";

/// The services that the caller has made. The caller stores it, so that it knows after a restart what
/// it may delete.
///
/// 1. Before an apply, [`claim`](Self::claim) what is desired, and store the ledger if that changed
///    it: a program that ends in the middle of the apply then finds what it added.
/// 2. With the next snapshot, [`settle`](Self::settle) forgets what is neither desired nor there any
///    more, so that it is not deleted when somebody else adds it later.
///
/// A [`Reconciler`](crate::Reconciler) does both, and writes no service before its claim
/// [is stored](crate::Reconciler::store).
///
/// Without its ledger a program can still change the services that it names; what it made and no
/// longer names stays in the table.
///
/// # As text
///
/// A header with the version, one key a line, how many removals a limit [has let go](Self::taken) if there
/// were any, and an end mark with the number of lines. A text that
/// was cut anywhere, an empty one included, is refused: it does not read as another ledger. Lines
/// that a later version added are kept, and written again.
///
/// ```
/// use lvs::{Desired, Ledger, VirtualService};
///
/// let mut ledger = Ledger::new();
/// let desired = Desired::from(VirtualService::tcp("10.0.0.185:80".parse()?).build()?);
/// assert!(ledger.claim(&desired));
/// assert_eq!(ledger.to_string(), "lvs-ledger 1\n-t 10.0.0.185:80\nend 1\n");
/// assert_eq!(ledger.to_string().parse::<Ledger>()?, ledger);
/// assert!("lvs-ledger 1\n-t 10.0.0.185:8".parse::<Ledger>().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Clones are cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Of the unknown lines.
    version: u32,
    services: Arc<BTreeSet<ServiceKey>>,
    taken: usize,
    /// Lines of a later version.
    unknown: Arc<[String]>,
}

/// Why a text is no [`Ledger`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LedgerError {
    /// It does not begin with `lvs-ledger` and a version.
    Header,
    /// Its end mark is missing, or says another number of lines: it was cut.
    Cut,
    /// This line, the first one being 1, is no service, and the version has no others.
    Line(usize),
}

impl Default for Ledger {
    fn default() -> Self {
        Self { version: VERSION, services: Arc::default(), taken: 0, unknown: Arc::new([]) }
    }
}

impl Ledger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what is desired. Returns whether that changed it.
    pub fn claim(&mut self, desired: &Desired) -> bool {
        if desired.keys().all(|key| self.contains(key)) {
            return false;
        }
        Arc::make_mut(&mut self.services).extend(desired.keys());
        true
    }

    /// Takes in one service. Returns whether it is new.
    pub fn insert(&mut self, service: ServiceKey) -> bool {
        !self.contains(&service) && Arc::make_mut(&mut self.services).insert(service)
    }

    /// How many removals the [limit](crate::Limit) of a [`Reconciler`](crate::Reconciler) has let go
    /// lately: they count after a restart, too.
    pub fn taken(&self) -> usize {
        self.taken
    }

    pub(crate) fn set_taken(&mut self, taken: usize) {
        self.taken = taken;
    }

    /// Takes in what another ledger holds. Returns whether that changed it.
    pub fn merge(&mut self, other: &Self) -> bool {
        if self.unknown.is_empty() && !other.unknown.is_empty() {
            self.unknown = Arc::clone(&other.unknown);
            self.version = self.version.max(other.version);
        }
        let taken = self.taken;
        self.taken = taken.max(other.taken);
        if other.iter().all(|key| self.contains(key)) {
            return taken != self.taken;
        }
        Arc::make_mut(&mut self.services).extend(other.iter());
        true
    }

    /// Forgets what is neither desired nor in the table. Returns whether that changed it.
    pub fn settle(&mut self, desired: &Desired, table: &Snapshot) -> bool {
        let stays = |key: &ServiceKey| {
            desired.get(key).is_some()
                || table.services.contains_key(key)
                || table.uncertain.contains(key)
                || !table.is_readable(key)
        };
        if self.services.iter().all(stays) {
            return false;
        }
        Arc::make_mut(&mut self.services).retain(stays);
        true
    }

    /// Whether a service is in it.
    pub fn contains(&self, service: &ServiceKey) -> bool {
        self.services.contains(service)
    }

    /// Its services, in order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &ServiceKey> + '_ {
        self.services.iter()
    }
}

impl FromIterator<ServiceKey> for Ledger {
    fn from_iter<I: IntoIterator<Item = ServiceKey>>(services: I) -> Self {
        Self { services: Arc::new(services.into_iter().collect()), ..Self::default() }
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let takes = usize::from(self.taken > 0);
        let version = match self.unknown.is_empty() {
            true => 1 + takes as u32,
            false => self.version,
        };
        writeln!(f, "{HEADER}{version}")?;
        self.iter().try_for_each(|key| writeln!(f, "{key}"))?;
        if takes > 0 {
            writeln!(f, "{TAKEN}{}", self.taken)?;
        }
        self.unknown.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        writeln!(f, "{END}{}", self.services.len() + takes + self.unknown.len())
    }
}

impl FromStr for Ledger {
    type Err = LedgerError;

    fn from_str(text: &str) -> Result<Self, LedgerError> {
        // The last line has an end, too: without it the text may have been cut.
        let mut lines: Vec<&str> = text.split('\n').collect();
        let version = lines[0].strip_prefix(HEADER).and_then(number);
        let version = match version {
            Some(0) => return Err(LedgerError::Header),
            Some(version) if lines.len() > 1 => version,
            Some(_) => return Err(LedgerError::Cut),
            None if HEADER.starts_with(lines[0]) && lines.len() == 1 => {
                return Err(LedgerError::Cut);
            }
            None => return Err(LedgerError::Header),
        };
        let (Some(""), Some(end)) = (lines.pop(), lines.pop()) else {
            return Err(LedgerError::Cut);
        };
        let count = end.strip_prefix(END).and_then(number::<usize>);
        if lines.is_empty() || count != Some(lines.len() - 1) {
            return Err(LedgerError::Cut);
        }
        let (mut services, mut taken, mut unknown) = (BTreeSet::new(), 0, Vec::new());
        for (index, line) in lines.iter().enumerate().skip(1) {
            let of_taken = line.strip_prefix(TAKEN).filter(|_| version > 1);
            match line.parse() {
                Ok(key) => {
                    services.insert(key);
                }
                Err(_) if of_taken.and_then(number::<usize>).is_some() => {
                    taken = of_taken.and_then(number).unwrap_or(taken);
                }
                Err(_) if version > VERSION => unknown.push((*line).to_owned()),
                Err(_) => return Err(LedgerError::Line(index + 1)),
            }
        }
        let version = if unknown.is_empty() { VERSION } else { version };
        Ok(Self { version, services: Arc::new(services), taken, unknown: unknown.into() })
    }
}

/// A number as it is written: no sign, no zeros before it.
fn number<N: FromStr + ToString>(text: &str) -> Option<N> {
    text.parse().ok().filter(|number: &N| number.to_string() == text)
}

impl fmt::Display for LedgerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => write!(f, "this is no ledger: it does not begin with `{HEADER}1`"),
            Self::Cut => f.write_str(
                "this ledger was cut: its end mark is missing; write it to another file and rename that",
            ),
            Self::Line(number) => write!(f, "line {number} of the ledger is no service"),
        }
    }
}

impl std::error::Error for LedgerError {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use proptest::prelude::*;

    use super::*;
    use crate::strategy;

    proptest! {
        /// A text that was cut anywhere is refused.
        #[test]
        fn a_cut_ledger_is_refused(
            keys in proptest::collection::btree_set(strategy::service_key(), 0..7),
            taken in 0..200usize,
        ) {
            let mut ledger: Ledger = keys.into_iter().collect();
            ledger.set_taken(taken);
            let text = ledger.to_string();
            prop_assert_eq!(text.parse::<Ledger>(), Ok(ledger));
            for cut in 0..text.len() {
                prop_assert_eq!(text[..cut].parse::<Ledger>(), Err(LedgerError::Cut), "{}", cut);
            }
        }
    }

    #[test]
    fn lines_of_a_later_version_are_kept() {
        let text = "lvs-ledger 3\n-t 10.0.0.185:80\nowner somebody\nend 2\n";
        let mut ledger: Ledger = text.parse().unwrap();
        assert_eq!(ledger.to_string(), text);
        ledger.insert("-f 1".parse().unwrap());
        assert!(ledger.to_string().contains("\nowner somebody\nend 3\n"));
        let now = text.replace("ledger 3", "ledger 1");
        assert_eq!(now.parse::<Ledger>(), Err(LedgerError::Line(3)));
        // No number but as it is written.
        for text in ["lvs-ledger +1\nend 0\n", "lvs-ledger 01\nend 0\n"] {
            assert_eq!(text.parse::<Ledger>(), Err(LedgerError::Header), "{text}");
        }
        assert_eq!("lvs-ledger 1\nend +0\n".parse::<Ledger>(), Err(LedgerError::Cut));
        // What was written before there was a header.
        assert_eq!("-t 10.0.0.185:80\n".parse::<Ledger>(), Err(LedgerError::Header));
        assert_eq!("lvs-ledger 0\nend 0\n".parse::<Ledger>(), Err(LedgerError::Header));
    }
}
