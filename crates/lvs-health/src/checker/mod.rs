//! Makes many checks again and again, and reports what they find.

mod members;
mod schedule;

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::Arc,
    time::{Duration, Instant},
};

use lvs::client::packet::{DestinationKey, ServiceKey};
use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{Instant as Clock, timeout_at},
};

pub use self::schedule::{Limits, Pace};
use self::{
    members::Votes,
    schedule::{Schedule, Verdict},
};
use crate::{
    Outcome,
    check::{Check, Failure, Good, Target, To},
};

/// How many events may wait for who reads them; then no more checks are started.
const UNREAD: usize = 1024;

/// A check that is to be made of a member, again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "these four say it")]
pub struct Wanted {
    /// The service whose pool is told.
    pub pool: ServiceKey,
    /// The member.
    pub member: DestinationKey,
    /// What is asked.
    pub check: Check,
    /// How often.
    pub pace: Pace,
}

/// What a [`Checker`] tells.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum News {
    /// A check of a member came to its end.
    Result(Report),
    /// There is too little of something here for so many checks at once; fewer are made, and none fails for it.
    /// Told once, until it [is over](Self::ShortageOver).
    Shortage(String),
    /// As many are made at once as are allowed.
    ShortageOver,
}

/// What a check of a member found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The service whose pool it is for.
    pub pool: ServiceKey,
    /// The member.
    pub member: DestinationKey,
    /// The check.
    pub check: Arc<Check>,
    /// What it found.
    pub result: Result<Good, Failure>,
    /// How long it took.
    pub took: Duration,
    /// What is to be [reported](crate::Pool::report) to the pool. With several checks of one member `Good` is
    /// among it only when each is good; it is empty where a check says nothing of the server.
    pub outcomes: Vec<Outcome>,
}

/// Makes checks again and again, in a task of tokio's. They end when it is dropped.
///
/// Equal checks of one address are made once, and each pool is told. What is known of a check that is made
/// already is told to a pool that joins.
///
/// ```no_run
/// use lvs_health::{Pool, check::{Check, Checker, Kind, Limits, News, Pace, Wanted}};
///
/// # async fn example(mut pool: Pool) {
/// let (checker, mut news) = Checker::start(Limits::default());
/// let wanted = pool.members().map(|(member, ..)| Wanted {
///     pool: *pool.key(),
///     member: *member,
///     check: Check::new(Kind::Tcp),
///     pace: Pace::default(),
/// });
/// checker.replace(wanted.collect());
/// while let Some(news) = news.recv().await {
///     let News::Result(report) = news else { continue };
///     for outcome in report.outcomes {
///         pool.report(&report.member, outcome, std::time::Instant::now());
///     }
///     // pool.step(…)
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Checker {
    orders: mpsc::UnboundedSender<Order>,
    task: AbortHandle,
}

#[derive(Debug)]
enum Order {
    Replace(Vec<Wanted>),
    Ended(u64, Result<Good, Failure>, Duration),
}

impl Checker {
    /// Starts it without any checks.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time.
    pub fn start(limits: Limits) -> (Self, mpsc::Receiver<News>) {
        let (orders, receiver) = mpsc::unbounded_channel();
        let (news, reader) = mpsc::channel(UNREAD);
        let seed = RandomState::new().hash_one(0);
        let work = Work {
            orders: orders.downgrade(),
            news,
            schedule: Schedule::new(limits, seed),
            checks: BTreeMap::new(),
            numbers: HashMap::new(),
            last_number: 0,
            votes: BTreeMap::new(),
            is_short: false,
        };
        let task = tokio::spawn(work.run(receiver)).abort_handle();
        (Self { orders, task }, reader)
    }

    /// Makes these checks from now on, and no others. Those that are made already go on undisturbed.
    pub fn replace(&self, wanted: Vec<Wanted>) {
        // It fails once nobody reads the news: then there is nothing to make.
        let _ = self.orders.send(Order::Replace(wanted));
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What makes two checks one.
type Identity = (Check, Target, Pace);

/// One check that is made, and who is told.
#[derive(Debug)]
struct Known {
    check: Arc<Check>,
    target: Target,
    identity: Arc<Identity>,
    members: Vec<(ServiceKey, DestinationKey)>,
    last: Option<(Result<Good, Failure>, Duration)>,
    running: Option<Running>,
}

/// A check that is under way; it ends when this is dropped.
#[derive(Debug)]
struct Running(AbortHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The checker's task.
struct Work {
    orders: mpsc::WeakUnboundedSender<Order>,
    news: mpsc::Sender<News>,
    schedule: Schedule,
    checks: BTreeMap<u64, Known>,
    numbers: HashMap<Arc<Identity>, u64>,
    last_number: u64,
    votes: BTreeMap<(ServiceKey, DestinationKey), Votes>,
    is_short: bool,
}

/// Nobody reads the news.
struct Unread;

impl Work {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        loop {
            while let Some(number) = self.schedule.start(Instant::now()) {
                self.begin(number);
            }
            let order = match self.schedule.next() {
                Some(next) => timeout_at(Clock::from_std(next), orders.recv()).await,
                None => Ok(orders.recv().await),
            };
            let done = match order {
                Err(_) => continue,
                Ok(None) => return,
                Ok(Some(Order::Replace(wanted))) => self.replace(wanted).await,
                Ok(Some(Order::Ended(number, result, took))) => {
                    self.ended(number, result, took).await
                }
            };
            if let Err(Unread) = done {
                return;
            }
        }
    }

    fn begin(&mut self, number: u64) {
        let (Some(known), Some(orders)) = (self.checks.get_mut(&number), self.orders.upgrade())
        else {
            return;
        };
        let (check, target) = (known.check.clone(), known.target);
        let task = tokio::spawn(async move {
            let end = End { number, orders, start: Instant::now(), result: None };
            end.with(check.run(&target).await);
        });
        known.running = Some(Running(task.abort_handle()));
    }

    async fn ended(
        &mut self,
        number: u64,
        result: Result<Good, Failure>,
        took: Duration,
    ) -> Result<(), Unread> {
        let verdict = match &result {
            Ok(_) => Verdict::Good,
            Err(Failure::Bad(_) | Failure::Unable(_)) => Verdict::Bad,
            Err(Failure::Short(_)) => Verdict::Short,
        };
        // It may have been taken away while this was on its way.
        let Some(known) = self.checks.get_mut(&number) else { return Ok(()) };
        self.schedule.finished(number, verdict, Instant::now());
        known.running = None;
        if let Err(Failure::Short(reason)) = &result {
            if !std::mem::replace(&mut self.is_short, true) {
                return self.tell(News::Shortage(reason.clone())).await;
            }
            return Ok(());
        }
        known.last = Some((result.clone(), took));
        for member in known.members.clone() {
            self.report(number, member).await?;
        }
        if self.is_short && !self.schedule.is_short() {
            self.is_short = false;
            self.tell(News::ShortageOver).await?;
        }
        Ok(())
    }

    /// Tells one pool what a check found last.
    async fn report(
        &mut self,
        number: u64,
        member: (ServiceKey, DestinationKey),
    ) -> Result<(), Unread> {
        let Some(known) = self.checks.get(&number) else { return Ok(()) };
        let Some((result, took)) = known.last.clone() else { return Ok(()) };
        let check = known.check.clone();
        let outcomes = self.votes.entry(member).or_default().hear(number, &result);
        let (pool, member) = member;
        self.tell(News::Result(Report { pool, member, check, result, took, outcomes })).await
    }

    async fn tell(&self, news: News) -> Result<(), Unread> {
        self.news.send(news).await.map_err(|_| Unread)
    }

    async fn replace(&mut self, wanted: Vec<Wanted>) -> Result<(), Unread> {
        let before: BTreeMap<u64, Vec<_>> = self
            .checks
            .iter_mut()
            .map(|(number, known)| (*number, std::mem::take(&mut known.members)))
            .collect();
        let now = Instant::now();
        for Wanted { pool, member, check, pace } in wanted {
            let number = self.number(check, Target::of(&pool, &member), pace, now);
            let Some(known) = self.checks.get_mut(&number) else { continue };
            if !known.members.contains(&(pool, member)) {
                known.members.push((pool, member));
            }
        }
        let gone: Vec<u64> = self
            .checks
            .iter()
            .filter(|(_, known)| known.members.is_empty())
            .map(|(number, _)| *number)
            .collect();
        for number in gone {
            self.schedule.remove(number);
            if let Some(known) = self.checks.remove(&number) {
                self.numbers.remove(&known.identity);
            }
        }
        self.vote();
        let joined: Vec<_> = self
            .checks
            .iter()
            .flat_map(|(number, known)| known.members.iter().map(move |member| (*number, *member)))
            .filter(|(number, member)| {
                !before.get(number).is_some_and(|before| before.contains(member))
            })
            .collect();
        for (number, member) in joined {
            self.report(number, member).await?;
        }
        Ok(())
    }

    /// The number of a check that is made, or will be.
    fn number(&mut self, check: Check, mut target: Target, pace: Pace, now: Instant) -> u64 {
        // Where the virtual address makes no difference, services share a check.
        if check.to != To::Service && !check.kind.tells_the_service() {
            target.service = None;
        }
        let identity = Arc::new((check, target, pace));
        if let Some(number) = self.numbers.get(&identity) {
            return *number;
        }
        self.last_number += 1;
        let number = self.last_number;
        self.numbers.insert(identity.clone(), number);
        let known = Known {
            check: Arc::new(identity.0.clone()),
            target,
            identity,
            members: Vec::new(),
            last: None,
            running: None,
        };
        self.checks.insert(number, known);
        self.schedule.insert(number, pace, now);
        number
    }

    /// Brings the votes in line with the checks.
    fn vote(&mut self) {
        let mut numbers: BTreeMap<_, Vec<u64>> = BTreeMap::new();
        for (number, known) in &self.checks {
            for member in &known.members {
                numbers.entry(*member).or_default().push(*number);
            }
        }
        self.votes.retain(|member, _| numbers.contains_key(member));
        for (member, numbers) in numbers {
            let votes = self.votes.entry(member).or_default();
            votes.keep(|check| numbers.contains(&check));
            numbers.iter().for_each(|number| votes.expect(*number));
        }
    }
}

/// Says that a check has ended, whatever ends it: a place that nobody gives back would be lost.
struct End {
    number: u64,
    orders: mpsc::UnboundedSender<Order>,
    start: Instant,
    result: Option<Result<Good, Failure>>,
}

impl End {
    fn with(mut self, result: Result<Good, Failure>) {
        self.result = Some(result);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or_else(|| {
            Err(Failure::Unable("the check did not come to its end".to_owned()))
        });
        let _ = self.orders.send(Order::Ended(self.number, result, self.start.elapsed()));
    }
}
