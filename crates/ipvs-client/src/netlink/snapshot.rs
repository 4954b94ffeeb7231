//! How a snapshot of the table is taken while others change it.
//!
//! The kernel lists in steps and does not say when the table changes in between. Then a list may
//! lack what nobody touched, or repeat it. So the services are listed again until a list brings no
//! news. What only a later list has is read and taken in; what it lacks is asked for by itself. So
//! nothing starts anew, and what nobody touches is missing only if every list lacks it.
//!
//! Who cares for some services only names them, or says which ones: then others' news are no reason to
//! look again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ipvs_packet::{
    Destination, DestinationEntry, DestinationKey, Reply, Request, ServiceEntry, ServiceKey,
    Unreadable,
};
use ipvs_table::{ServiceSnapshot, Snapshot};

use super::{
    direct::{Answer, Direct},
    reply,
};
use crate::{Error, ErrorKind, List};

/// How often the services are listed at most, and the destinations of one.
const LOOKS: usize = 6;

/// Which services a caller cares for.
pub(crate) type Concerns<'a> = &'a (dyn Fn(&ServiceKey) -> bool + Sync);

/// A snapshot that is being taken.
#[derive(Default)]
pub(crate) struct SnapshotBuilder<'a> {
    /// The news that are a reason to look again; all if that is not said.
    concerns: Option<Concerns<'a>>,
    /// Only some services are asked for, each by itself.
    is_of_some: bool,
    snapshot: Snapshot,
    questions: VecDeque<Question>,
    /// How often the services were listed.
    looks: usize,
    /// The services that differ from what was known before the last look.
    news: BTreeSet<ServiceKey>,
    /// What was seen so far of a long list of destinations.
    long_list: Option<LongList>,
}

/// What is asked about a service.
enum Question {
    /// What are its destinations?
    Destinations(ServiceKey),
    /// Is it there?
    Service(ServiceKey),
}

/// A service in a look after the first, if it tells its key; what it looks like only if it differs.
type Look = (Option<ServiceKey>, Option<Box<Result<ServiceEntry, Unreadable>>>);

impl<'a> SnapshotBuilder<'a> {
    /// Of all services, with the certainty that matters for those that `concerns` the caller.
    pub(crate) fn concerning(concerns: Concerns<'a>) -> Self {
        Self { concerns: Some(concerns), ..Self::default() }
    }

    /// Of those of these services that exist.
    pub(crate) fn of<'k>(keys: impl IntoIterator<Item = &'k ServiceKey>) -> Self {
        let questions = keys.into_iter().map(|key| Question::Service(*key)).collect();
        Self { questions, is_of_some: true, ..Self::default() }
    }

    fn has_news(&self) -> bool {
        self.news.iter().any(|key| self.concerns.is_none_or(|concerns| concerns(key)))
    }

    /// Asks the next question. Returns false where there is none.
    pub(crate) fn ask_next(&mut self, direct: &mut Direct) -> Result<bool, Error> {
        match self.questions.pop_front() {
            Some(Question::Destinations(key)) => {
                let list = Request::ListDestinations(key);
                self.take_destinations(key, direct.ask(&list, reply::destination)?);
            }
            Some(Question::Service(key)) => match direct.service(&key) {
                Ok(entry) => self.take_service(key, Ok(entry)),
                Err(error) if error.kind() == ErrorKind::ServiceNotFound => self.remove(&key),
                Err(error) => match error.unreadable_entry() {
                    Some(entry) => self.take_service(key, Err(entry.clone())),
                    None => return Err(error),
                },
            },
            None if self.is_of_some => return Ok(false),
            None if self.looks == 0 => {
                self.looks = 1;
                self.take_first_look(direct.run(&Request::ListServices, reply::service)?);
            }
            None if self.looks == 1 || self.has_news() && self.looks < LOOKS => {
                self.looks += 1;
                let look = direct.run(&Request::ListServices, |reply| self.compare(reply))?;
                self.take_look(look);
            }
            None => return Ok(false),
        }
        Ok(true)
    }

    /// The snapshot, after the last question.
    pub(crate) fn finish(mut self) -> Snapshot {
        if !self.is_of_some {
            self.snapshot.uncertain.append(&mut self.news);
        }
        self.snapshot
    }

    fn take_first_look(&mut self, entries: Vec<Result<ServiceEntry, Unreadable>>) {
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(entry) => {
                    self.snapshot.add_unreadable(entry);
                    continue;
                }
            };
            let key = *entry.service.key();
            let new = ServiceSnapshot::new(entry, Vec::new());
            if self.snapshot.services.insert(key, new).is_none() {
                self.questions.push_back(Question::Destinations(key));
            }
        }
    }

    /// What a look keeps of a reply.
    fn compare(&self, reply: Result<Reply, Unreadable>) -> Option<Look> {
        let entry = reply::service(reply)?;
        let key = match &entry {
            Ok(entry) => Some(*entry.service.key()),
            Err(entry) => entry.service,
        };
        let is_news = key.is_none_or(|key| self.is_news(&key, &entry));
        Some((key, is_news.then(|| Box::new(entry))))
    }

    /// Whether a service is not known, or differs from what is known.
    fn is_news(&self, key: &ServiceKey, entry: &Result<ServiceEntry, Unreadable>) -> bool {
        match entry {
            Ok(entry) => {
                self.snapshot.service(key).is_none_or(|known| known.entry.service != entry.service)
            }
            Err(_) => self.snapshot.services.contains_key(key) || self.snapshot.is_readable(key),
        }
    }

    fn take_look(&mut self, look: Vec<Look>) {
        self.news.clear();
        let unreadable = self.snapshot.unreadable.keys().flatten();
        let known: BTreeSet<_> = self.snapshot.services.keys().chain(unreadable).copied().collect();
        // What does not tell its key is known from one look only.
        self.snapshot.unreadable.remove(&None);
        let mut seen = BTreeSet::new();
        for (key, different) in look {
            seen.extend(key);
            match (key, different.map(|entry| *entry)) {
                (Some(key), Some(entry)) => self.take_news(key, entry),
                (None, Some(Err(entry))) => self.snapshot.add_unreadable(entry),
                _ => {}
            }
        }
        let missed = known.into_iter().filter(|key| !seen.contains(key));
        self.questions.extend(missed.map(Question::Service));
    }

    /// The answer about one service.
    fn take_service(&mut self, key: ServiceKey, entry: Result<ServiceEntry, Unreadable>) {
        if self.is_news(&key, &entry) {
            self.take_news(key, entry);
        }
    }

    /// A service that is not known, or that differs: it may be another one of the same key, with
    /// other destinations.
    fn take_news(&mut self, key: ServiceKey, entry: Result<ServiceEntry, Unreadable>) {
        let is_new = self.news.insert(key);
        self.snapshot.unreadable.remove(&Some(key));
        match entry {
            Ok(entry) => {
                // One that is asked for by itself is as it was at one moment.
                match is_new {
                    true if self.is_of_some => {
                        self.questions.push_front(Question::Destinations(key));
                    }
                    true => self.questions.push_back(Question::Destinations(key)),
                    false => {}
                }
                self.snapshot.services.insert(key, ServiceSnapshot::new(entry, Vec::new()));
            }
            Err(entry) => {
                self.snapshot.services.remove(&key);
                self.snapshot.uncertain.remove(&key);
                self.snapshot.add_unreadable(entry);
            }
        }
    }

    fn remove(&mut self, key: &ServiceKey) {
        self.snapshot.services.remove(key);
        self.snapshot.uncertain.remove(key);
        self.snapshot.unreadable.remove(&Some(*key));
        self.news.insert(*key);
    }

    fn take_destinations(
        &mut self,
        key: ServiceKey,
        answer: Answer<Result<DestinationEntry, Unreadable>>,
    ) {
        let Answer { replies, datagrams } = answer;
        if replies.is_empty() {
            // The kernel's answer for a service that is gone, too.
            self.questions.push_front(Question::Service(key));
        }
        let (replies, unreadable) = replies.into_iter().collect::<List<_>>().apart();
        // In one datagram it is whole.
        if datagrams <= 1 {
            self.long_list = None;
            return self.put(key, replies, unreadable, true);
        }
        let list = self.long_list.get_or_insert_default();
        let agrees = list.take(replies, unreadable);
        if agrees || list.looks == LOOKS {
            let list = std::mem::take(list);
            self.long_list = None;
            self.put(key, list.seen.into_values().collect(), list.unreadable, agrees);
        } else {
            self.questions.push_front(Question::Destinations(key));
        }
    }

    fn put(
        &mut self,
        key: ServiceKey,
        destinations: Vec<DestinationEntry>,
        unreadable: Vec<Unreadable>,
        certain: bool,
    ) {
        let Some(service) = self.snapshot.services.get_mut(&key) else { return };
        *service = ServiceSnapshot::new(service.entry.clone(), destinations);
        self.snapshot.unreadable.remove(&Some(key));
        unreadable.into_iter().for_each(|entry| self.snapshot.add_unreadable(entry));
        match certain {
            true => self.snapshot.uncertain.remove(&key),
            false => self.snapshot.uncertain.insert(key),
        };
    }
}

/// A list of destinations that takes more than one datagram, read until two looks agree.
#[derive(Default)]
struct LongList {
    looks: usize,
    /// What the last look saw; `None` where it saw something twice, so that the list was changed
    /// meanwhile.
    last: Option<BTreeMap<DestinationKey, Destination>>,
    /// The last look if it agreed with the one before, else all that was ever seen, as it was seen last.
    seen: BTreeMap<DestinationKey, DestinationEntry>,
    /// What the last look could not read.
    unreadable: Vec<Unreadable>,
}

impl LongList {
    /// Takes in another look. Returns whether it agrees with the one before.
    fn take(&mut self, look: Vec<DestinationEntry>, unreadable: Vec<Unreadable>) -> bool {
        self.looks += 1;
        let count = look.len();
        let settings: BTreeMap<_, _> =
            look.iter().map(|entry| (entry.destination.key, entry.destination.clone())).collect();
        let settings = Some(settings).filter(|settings| settings.len() == count);
        let agrees = settings.is_some() && settings == self.last && unreadable == self.unreadable;
        if agrees {
            self.seen.clear();
        }
        // Of two with one key the last one counts, as in a snapshot.
        self.seen.extend(look.into_iter().map(|entry| (entry.destination.key, entry)));
        self.last = settings;
        self.unreadable = unreadable;
        agrees
    }
}
