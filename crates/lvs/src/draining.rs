//! Real servers that leave without breaking a connection.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use ipvs_client::{
    Snapshot,
    packet::{DestinationKey, ServiceKey},
};

use crate::{
    Desired, Plan, Policy,
    memory::Memory,
    plan::planner::{Keys, make},
    removal::HeldBack,
};

/// Real servers that are being drained, and since when.
///
/// It does no I/O and takes the time as an argument. Each [step](Self::step) makes a plan out of the
/// desired state and a snapshot, and says when the next step is due:
///
/// 1. A real server that is not desired any more gets weight 0: it gets no new connections, and keeps
///    those that it has.
/// 2. It is taken away when it has no connections that [are waited for](crate::Drain::wait_for_inactive),
///    or when its [limit](crate::Drain::for_at_most) is over.
/// 3. If it is desired again meanwhile, it gets its weight back; its connections never notice.
///
/// Where the policy [says so](crate::Drain::services), a whole service leaves like that.
///
/// # After a restart
///
/// The table itself says what was being drained: a real server that is not desired and has weight 0.
/// Such a one is waited for as before, and its limit begins anew. So does it when somebody else has
/// set that weight.
///
/// # What a deleted real server leaves behind
///
/// Connections that are left at the limit break: the kernel drops their packets, or, with
/// `net.ipv4.vs.expire_nodest_conn` 1 (`Sysctl::EXPIRE_NODEST_CONN`), ends them. The kernel remembers a
/// deleted real server for two minutes, and as long as it has connections: added again within that
/// time, it comes back with its counters and its connections.
///
/// # What is held back
///
/// It remembers what was taken away lately, and [what is held back](Self::held_back) because it was
/// more than the policy's [limit](crate::Limit) allows: a step about some services lets none of that
/// go, whatever they are about.
#[derive(Debug, Default)]
pub struct Draining {
    pub(crate) memory: Memory,
}

impl Draining {
    /// Nothing is known to be drained.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is to be done now, and when to look again; `None` where nothing is being drained.
    ///
    /// The plan is expected to be applied. Where it was not, or where a part of it failed, the next
    /// step makes up for it.
    pub fn step(
        &mut self,
        desired: &Desired,
        table: &Snapshot,
        policy: &Policy,
        now: Instant,
    ) -> (Plan, Option<Instant>) {
        self.step_for(Keys::new(None), desired, table, policy, now)
    }

    /// The same for some services only; see [`Plan::of_services`].
    pub fn step_of_services(
        &mut self,
        keys: &BTreeSet<ServiceKey>,
        desired: &Desired,
        table: &Snapshot,
        policy: &Policy,
        now: Instant,
    ) -> (Plan, Option<Instant>) {
        self.step_for(Keys::new(Some(keys)), desired, table, policy, now)
    }

    fn step_for(
        &mut self,
        keys: Keys<'_>,
        desired: &Desired,
        table: &Snapshot,
        policy: &Policy,
        now: Instant,
    ) -> (Plan, Option<Instant>) {
        let plan = make(keys, desired, table, policy, &self.memory, Some(now));
        (plan, self.looks(policy, now).into_values().min())
    }

    /// The real servers that are being drained, by service, and since when.
    pub fn iter(
        &self,
    ) -> impl ExactSizeIterator<Item = (ServiceKey, DestinationKey, Instant)> + use<> {
        let since = self.memory.lock().leaving.since().clone();
        since.into_iter().map(|((service, real_server), since)| (service, real_server, since))
    }

    /// How many real servers are being drained.
    pub fn len(&self) -> usize {
        self.memory.lock().leaving.since().len()
    }

    /// Whether no real server is being drained.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The services that have such real servers.
    pub fn services(&self) -> BTreeSet<ServiceKey> {
        self.memory.lock().leaving.services()
    }

    /// Limits of some real servers, in the place of the policy's: a pod's grace period, say, as it is
    /// known from day to day. They take the place of those that were set before, and concern real
    /// servers that are being drained already as well.
    pub fn set_limits(
        &mut self,
        limits: impl IntoIterator<Item = ((ServiceKey, DestinationKey), Duration)>,
    ) {
        self.memory.lock().leaving.set_limits(limits.into_iter().collect());
    }

    /// What is to be taken away, and is more than the [limit](crate::Limit) allows.
    pub fn held_back(&self) -> HeldBack {
        self.memory.lock().guard.held_back()
    }

    /// How many removals are held back.
    pub fn held_back_count(&self) -> usize {
        self.memory.lock().guard.held_back_count()
    }

    /// Lets go what is held back and named: once, and whatever else changes meanwhile. Returns what is
    /// named and stays all the same, since it goes only with its service, and that is not named.
    pub fn confirm(&mut self, confirmed: &HeldBack) -> HeldBack {
        self.memory.lock().guard.confirm(confirmed)
    }

    /// When to look again at each service with real servers that are being drained.
    pub(crate) fn looks(&self, policy: &Policy, now: Instant) -> BTreeMap<ServiceKey, Instant> {
        let known = self.memory.lock();
        let mut looks = BTreeMap::new();
        for server in known.leaving.since().keys() {
            let Some(drain) = policy.drain_of(&server.0) else { continue };
            let Some(at) = known.leaving.next_look(server, drain, now) else { continue };
            looks
                .entry(server.0)
                .and_modify(|look: &mut Instant| *look = at.min(*look))
                .or_insert(at);
        }
        looks
    }

    /// When what is held back is within the limit, if only time has to pass for it.
    pub(crate) fn release(&self, policy: &Policy, now: Instant) -> Option<Instant> {
        self.memory.lock().guard.release(policy.limit(), now)
    }
}

/// A copy with a memory of its own.
impl Clone for Draining {
    fn clone(&self) -> Self {
        Self { memory: self.memory.fork() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use std::time::Duration;

    use ipvs_client::packet::Weight;
    use proptest::prelude::*;

    use super::*;
    use crate::{Action, Drain, RealServer, Scope, VirtualService, model::Kernel, strategy};

    const LIMIT: Duration = Duration::from_secs(10);

    fn policy() -> Policy {
        Policy::new().drain(Drain::for_at_most(LIMIT).udp(true).sctp(true))
    }

    fn web(real_servers: &[&str]) -> Desired {
        let real_servers = real_servers.iter().map(|at| RealServer::nat(at.parse().unwrap()));
        let web = VirtualService::tcp("10.0.0.185:80".parse().unwrap());
        web.real_servers(real_servers).build().unwrap().into()
    }

    fn execute(plan: &Plan, kernel: &mut Kernel) {
        plan.requests().for_each(|request| kernel.execute(&request).unwrap());
    }

    /// A kernel with two real servers, of which the second has connections.
    fn busy() -> (Kernel, ServiceKey, DestinationKey) {
        let mut kernel = Kernel::new();
        let both = web(&["10.1.0.2:80", "10.1.0.3:80"]);
        execute(&Plan::new(&both, &kernel.snapshot(), &policy()), &mut kernel);
        let (service, second) =
            ("-t 10.0.0.185:80".parse().unwrap(), "10.1.0.3:80".parse().unwrap());
        assert!(kernel.set_connections(&service, &second, 2, 1));
        (kernel, service, second)
    }

    #[test]
    fn it_is_taken_away_when_it_is_empty() {
        let (mut kernel, service, second) = busy();
        let one = web(&["10.1.0.2:80"]);
        let (mut draining, now) = (Draining::new(), Instant::now());
        let second_later = now + Duration::from_secs(1);
        let (plan, next) = draining.step(&one, &kernel.snapshot(), &policy(), now);
        let line = "~ -t 10.0.0.185:80 -> 10.1.0.3:80 weight 1 -> 0 (it leaves)\n";
        assert_eq!((plan.to_string().as_str(), next), (line, Some(second_later)));
        execute(&plan, &mut kernel);
        for (active, inactive) in [(2, 1), (0, 1)] {
            kernel.set_connections(&service, &second, active, inactive);
            let (plan, next) = draining.step(&one, &kernel.snapshot(), &policy(), now);
            assert!(plan.is_empty() && next == Some(second_later), "{plan}");
        }
        kernel.set_connections(&service, &second, 0, 0);
        let (plan, _) = draining.step(&one, &kernel.snapshot(), &policy(), now);
        assert_eq!(plan.to_string(), "- -t 10.0.0.185:80 -> 10.1.0.3:80\n");
        execute(&plan, &mut kernel);
        let (plan, next) = draining.step(&one, &kernel.snapshot(), &policy(), now);
        assert!(plan.is_empty() && next.is_none() && draining.is_empty());
    }

    #[test]
    fn a_limit_ends_it_and_begins_anew_after_a_restart() {
        let (mut kernel, ..) = busy();
        let one = web(&["10.1.0.2:80"]);
        let (mut draining, start) = (Draining::new(), Instant::now());
        execute(&draining.step(&one, &kernel.snapshot(), &policy(), start).0, &mut kernel);
        let late = start + LIMIT - Duration::from_millis(200);
        let (plan, next) = draining.step(&one, &kernel.snapshot(), &policy(), late);
        assert!(
            plan.is_empty() && next == Some(start + LIMIT),
            "the limit is before the next look"
        );
        let mut restarted = Draining::new();
        let (plan, _) = restarted.step(&one, &kernel.snapshot(), &policy(), start + LIMIT);
        assert!(plan.is_empty() && restarted.services().len() == 1, "{plan}");
        let (plan, _) = draining.step(&one, &kernel.snapshot(), &policy(), start + LIMIT);
        assert_eq!(plan.len(), 1);
        // Not carried out: it is planned again.
        let (plan, _) = draining.step(&one, &kernel.snapshot(), &policy(), start + LIMIT);
        assert_eq!(plan.len(), 1);
        let (plan, _) = restarted.step(&one, &kernel.snapshot(), &policy(), start + 2 * LIMIT);
        assert_eq!(plan.len(), 1);
    }

    #[test]
    fn limits_and_protocols_are_the_policys() {
        let (mut kernel, _, second) = busy();
        let one = web(&["10.1.0.2:80"]);
        let own = Policy::new().drain(
            Drain::for_at_most(LIMIT)
                .limit_of(move |_, at| (*at == second).then_some(Duration::from_secs(3)))
                .look_every(Duration::from_secs(5)),
        );
        let (mut draining, start) = (Draining::new(), Instant::now());
        let (plan, next) = draining.step(&one, &kernel.snapshot(), &own, start);
        assert_eq!(next, Some(start + Duration::from_secs(3)));
        execute(&plan, &mut kernel);
        let later = start + Duration::from_secs(3);
        assert_eq!(draining.step(&one, &kernel.snapshot(), &own, later).0.len(), 1);

        // Not drained, or for no time.
        let (kernel, ..) = busy();
        for drain in [
            Drain::for_at_most(LIMIT).tcp(false),
            Drain::for_at_most(Duration::ZERO),
            Drain::for_at_most(LIMIT).limit_of(|_, _| Some(Duration::ZERO)),
        ] {
            let at_once = Policy::new().drain(drain);
            let (plan, _) = Draining::new().step(&one, &kernel.snapshot(), &at_once, start);
            assert_eq!(plan.to_string(), "- -t 10.0.0.185:80 -> 10.1.0.3:80\n");
        }
    }

    #[test]
    fn one_that_returns_gets_its_weight_back() {
        let (mut kernel, ..) = busy();
        let (mut draining, now) = (Draining::new(), Instant::now());
        let one = web(&["10.1.0.2:80"]);
        execute(&draining.step(&one, &kernel.snapshot(), &policy(), now).0, &mut kernel);
        let both = web(&["10.1.0.2:80", "10.1.0.3:80"]);
        let (plan, next) = draining.step(&both, &kernel.snapshot(), &policy(), now);
        let line = "~ -t 10.0.0.185:80 -> 10.1.0.3:80 weight 0 -> 1\n";
        assert_eq!((plan.to_string().as_str(), next), (line, None));
        assert_eq!(draining.len(), 0);
    }

    #[test]
    fn what_is_held_back_is_not_being_drained() {
        let (kernel, ..) = busy();
        let guarded = policy().max_deletions(0);
        let mut draining = Draining::new();
        let (plan, next) = draining.step(&web(&[]), &kernel.snapshot(), &guarded, Instant::now());
        assert_eq!((plan.len(), plan.held_back().len(), next), (0, 2, None));
    }

    #[test]
    fn a_whole_service_leaves() {
        let (mut kernel, service, second) = busy();
        let guard = |allowed| {
            let drain = Drain::for_at_most(LIMIT).services(true);
            Policy::new().scope(Scope::All).drain(drain).max_deletions(allowed)
        };
        let (mut draining, start) = (Draining::new(), Instant::now());
        let none = Desired::new();
        let (plan, _) = draining.step(&none, &kernel.snapshot(), &guard(0), start);
        assert_eq!((plan.len(), plan.held_back_count()), (0, 3), "the service and both");
        let (plan, next) = draining.step(&none, &kernel.snapshot(), &guard(3), start);
        assert_eq!(
            plan.to_string(),
            "~ -t 10.0.0.185:80 -> 10.1.0.2:80 weight 1 -> 0 (it leaves)\n\
             ~ -t 10.0.0.185:80 -> 10.1.0.3:80 weight 1 -> 0 (it leaves)\n",
        );
        assert_eq!(next, Some(start + Duration::from_secs(1)));
        execute(&plan, &mut kernel);
        // A part of what is desired again gets its weight back, and so does the whole.
        let (plan, _) = draining.clone().step(
            &web(&["10.1.0.2:80", "10.1.0.3:80"]),
            &kernel.snapshot(),
            &guard(0),
            start,
        );
        assert_eq!(plan.phase(crate::Phase::RealServers).len(), 2, "{plan}");

        let keys = BTreeSet::from([service]);
        let late = start + LIMIT - Duration::from_secs(1);
        for (now, expected) in
            [(late, ""), (start + LIMIT, "- -t 10.0.0.185:80 with 2 real servers\n")]
        {
            let (plan, _) =
                draining.step_of_services(&keys, &none, &kernel.snapshot(), &guard(0), now);
            assert_eq!(plan.to_string(), expected);
        }
        kernel.set_connections(&service, &second, 0, 0);
        let (plan, _) = Draining::new().step(&none, &kernel.snapshot(), &guard(2), start);
        assert!(plan.is_empty(), "after a restart it counts again: {plan}");
        let (plan, _) = Draining::new().step(&none, &kernel.snapshot(), &guard(3), start);
        assert_eq!(plan.len(), 1, "and goes when it is empty: {plan}");
        execute(&plan, &mut kernel);
        let (plan, next) = draining.step(&none, &kernel.snapshot(), &guard(0), start + LIMIT);
        assert!(plan.is_empty() && next.is_none() && draining.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Nothing with a weight is taken away, nothing with connections before its limit; and in
        /// the end the table is as desired, restarts or not.
        #[test]
        fn nothing_breaks_before_its_limit(
            kernel in strategy::kernel(),
            desired in strategy::desired(),
            restart in 0..8u64,
            services in any::<bool>(),
            inactive in any::<bool>(),
        ) {
            let mut kernel = kernel;
            let drain = Drain::for_at_most(LIMIT).udp(true).sctp(true).services(services).wait_for_inactive(inactive);
            let policy = Policy::new().scope(Scope::All).drain(drain);
            let mut draining = Draining::new();
            let mut began: BTreeMap<(ServiceKey, DestinationKey), u64> = BTreeMap::new();
            let start = Instant::now();
            for seconds in 0..20 {
                if seconds == restart {
                    draining = Draining::new();
                }
                let now = start + Duration::from_secs(seconds);
                let table = kernel.snapshot();
                let (plan, next) = draining.step(&desired, &table, &policy, now);
                for change in plan.changes() {
                    let key = *change.service();
                    let taken: Vec<_> = match change.action() {
                        Action::DeleteRealServer { before } => {
                            table.service(&key).unwrap().destination(&before.key).into_iter().collect()
                        }
                        Action::DeleteService { .. } if services => {
                            table.service(&key).unwrap().destinations.iter().collect()
                        }
                        _ => Vec::new(),
                    };
                    for entry in taken {
                        let before = &entry.destination;
                        prop_assert_eq!(before.weight, Weight::ZERO);
                        if entry.active_connections > 0
                            || inactive && entry.inactive_connections > 0
                        {
                            let since = began.get(&(key, before.key)).copied().unwrap_or(0);
                            prop_assert!(seconds >= since + 10);
                        }
                    }
                    if let Action::DrainRealServer { before, .. } = change.action() {
                        prop_assert!(began.insert((key, before.key), seconds).is_none());
                    }
                }
                execute(&plan, &mut kernel);
                prop_assert_eq!(next.is_some(), !draining.is_empty());
                prop_assert!(next.is_none_or(|next| next > now));
            }
            let (plan, next) =
                draining.step(&desired, &kernel.snapshot(), &policy, start + 2 * LIMIT);
            prop_assert!(plan.is_empty() && next.is_none(), "{}", plan);
            prop_assert_eq!(Desired::try_from(&kernel.snapshot()).unwrap(), desired);
        }
    }
}
