//! A cluster of a few services, a fake node, and the proxy on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use lvs::{
    Desired, VirtualService,
    client::{
        Snapshot,
        packet::{DestinationKey, Request, ServiceKey},
    },
};

use super::Refusal;
use crate::{
    config::Config,
    failure::Failure,
    manifest::{self, Object},
    node::{
        Listening, NodeDesired,
        fake::{FakeNode, Present},
    },
    object::{EndpointSlice, ObjectName, Service},
    proxy::{
        round::{Round, Rounds},
        rounds,
    },
    records::Records,
    state::{Event, State},
};

/// A service, an address and a real server of somebody else's.
const FOREIGN: &str = "-t 192.0.2.77:80";

/// What a Service looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Cluster,
    TwoPorts,
    Udp,
    /// A load balancer's address that only some clients may reach.
    Restricted,
    /// The policy is Local, with a health check.
    Local,
    /// It asks for something that is no scheduler.
    Odd,
    /// It asks for a scheduler.
    Hashed,
}

impl Form {
    pub(super) const ALL: [Self; 7] = [
        Self::Cluster,
        Self::Restricted,
        Self::TwoPorts,
        Self::Local,
        Self::Udp,
        Self::Odd,
        Self::Hashed,
    ];

    fn text(self, number: usize) -> String {
        let (annotations, spec, ingress) = match self {
            Self::Cluster => ("", "ports: [{port: 80}]".to_owned(), None),
            Self::TwoPorts => {
                ("", "ports: [{name: a, port: 80}, {name: b, port: 81}]".to_owned(), None)
            }
            Self::Udp => ("", "ports: [{port: 53, protocol: UDP}]".to_owned(), None),
            Self::Restricted => (
                "",
                "type: LoadBalancer, loadBalancerSourceRanges: [198.51.100.0/24], ports: [{port: 80}]"
                    .to_owned(),
                Some(format!("203.0.113.{number}")),
            ),
            Self::Local => (
                "",
                format!(
                    "type: LoadBalancer, externalTrafficPolicy: Local, \
                     healthCheckNodePort: 3000{number}, ports: [{{port: 80}}]"
                ),
                Some(format!("198.18.0.{number}")),
            ),
            Self::Hashed => {
                (", annotations: {lvs-kube-proxy/scheduler: mh}", "ports: [{port: 80}]".to_owned(), None)
            }
            Self::Odd => {
                (", annotations: {lvs-kube-proxy/scheduler: nosuch}", "ports: [{port: 80}]".to_owned(), None)
            }
        };
        let ingress = ingress.map_or(String::new(), |ip| format!("{{ip: {ip}}}"));
        format!(
            "kind: Service\nmetadata: {{name: s{number}{annotations}}}\n\
             spec: {{clusterIP: 10.96.0.{number}, {spec}}}\n\
             status: {{loadBalancer: {{ingress: [{ingress}]}}}}\n"
        )
    }
}

/// The address that the node can be told to refuse.
fn refused_server() -> DestinationKey {
    "10.42.0.4:80".parse().unwrap()
}

pub(super) struct World {
    pub(super) node: FakeNode,
    config: Config,
    services: BTreeMap<ObjectName, Service>,
    slices: BTreeMap<ObjectName, EndpointSlice>,
    rounds: Rounds<FakeNode>,
    now: Instant,
    refused: Option<DestinationKey>,
}

/// What is not there yet, or broken, or not as it was.
fn law(present: &Present) -> Result<(), String> {
    let table = present.table.snapshot();
    let foreign: ServiceKey = FOREIGN.parse().unwrap();
    let theirs = table.service(&foreign).map(|service| service.destinations.len());
    if theirs != Some(1) || !present.addresses.contains(&"192.0.2.77".parse().unwrap()) {
        return Err("what others have made was touched".to_owned());
    }
    for key in table.services.keys() {
        let ServiceKey::Address { address, port, .. } = key else { continue };
        if !address.to_string().starts_with("203.0.113.") {
            continue;
        }
        let rule = format!("restricted-ip {{ {address} . tcp . {port} }}");
        if !present.elements.iter().any(|element| element.to_string() == rule) {
            return Err(format!("{key} is there without its rule"));
        }
    }
    Ok(())
}

impl World {
    pub(super) fn new(words: &[&str]) -> Self {
        let node = FakeNode::default();
        {
            let mut present = node.present_mut();
            present.own = ["192.0.2.11", "2001:db8::11"].map(|ip| ip.parse().unwrap()).into();
            present.addresses = ["192.0.2.77".parse().unwrap()].into();
            let foreign = VirtualService::tcp("192.0.2.77:80".parse().unwrap())
                .real_server(lvs::RealServer::nat("10.9.9.9:80".parse().unwrap()))
                .build()
                .unwrap();
            present.table.execute(&Request::NewService(foreign.service().clone())).unwrap();
            let server = foreign.destinations()[0].clone();
            present.table.execute(&Request::NewDestination(*foreign.key(), server)).unwrap();
            present.law = Some(law);
        }
        let own = [
            "lvs-kube-proxy",
            "--hostname-override=node-a",
            "--healthz-bind-address=127.0.0.1:10256",
            "--metrics-bind-address=",
        ];
        let hold = if words.iter().any(|word| word.starts_with("--hold")) {
            &[][..]
        } else {
            &["--hold=0"]
        };
        let config = Config::from_command_line(own.iter().chain(hold).chain(words)).unwrap();
        let rounds = begin(&node, &config);
        let mut world = Self {
            node,
            config,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            rounds,
            now: Instant::now(),
            refused: None,
        };
        world.relist();
        world
    }

    /// The proxy ends, and another one begins.
    pub(super) fn restart(&mut self) {
        self.restart_with(Vec::new());
        self.relist();
    }

    /// The same, and it hears this.
    pub(super) fn restart_with(&mut self, events: Vec<Event>) {
        // Its listeners end first.
        self.rounds = begin(&FakeNode::default(), &self.config);
        self.rounds = begin(&self.node, &self.config);
        self.rounds.take_in(events);
    }

    /// What the next round would do.
    pub(super) fn dry_run(&mut self) -> String {
        let plan = self.rounds.dry_run(self.now).now_or_never();
        plan.expect("nothing is written").unwrap().to_string()
    }

    pub(super) fn rounds(&mut self) -> &mut Rounds<FakeNode> {
        &mut self.rounds
    }

    pub(super) fn tell(&mut self, event: Event) {
        self.rounds.take_in(vec![event]);
    }

    /// Both lists, as they are.
    pub(super) fn relist(&mut self) {
        let services = self.services.values().cloned().collect();
        let slices = self.slices.values().cloned().collect();
        self.rounds.take_in(vec![Event::Services(services), Event::Slices(slices)]);
    }

    /// Objects that are new or have changed.
    pub(super) fn apply(&mut self, text: &str) {
        for object in manifest::parse(text).unwrap() {
            match object {
                Object::Service(service) => {
                    self.services.insert(service.metadata.object_name(), service.clone());
                    self.tell(Event::Service(service));
                }
                Object::Slice(slice) => {
                    self.slices.insert(slice.metadata.object_name(), slice.clone());
                    self.tell(Event::Slice(slice));
                }
                Object::Node(node) => self.tell(Event::Node(node)),
            }
        }
    }

    pub(super) fn services(&self) -> Vec<Service> {
        self.services.values().cloned().collect()
    }

    pub(super) fn set_service(&mut self, number: usize, form: Option<Form>) {
        match form {
            Some(form) => self.apply(&form.text(number)),
            None => {
                let name = ObjectName::new("default", format!("s{number}"));
                self.services.remove(&name);
                self.tell(Event::ServiceGone(name));
            }
        }
    }

    pub(super) fn set_endpoints(&mut self, number: usize, endpoints: &BTreeSet<u8>) {
        let endpoints: Vec<_> =
            endpoints.iter().map(|number| format!("10.42.0.{number}")).collect();
        let endpoints =
            endpoints.iter().map(|ip| format!("{{addresses: [{ip}], nodeName: node-a}}"));
        let endpoints = endpoints.collect::<Vec<_>>().join(", ");
        let ports = "[{name: '', port: 80}, {name: a, port: 80}, {name: b, port: 80}, \
                      {name: '', port: 53, protocol: UDP}]";
        self.apply(&format!(
            "kind: EndpointSlice\n\
             metadata: {{name: s{number}, labels: {{kubernetes.io/service-name: s{number}}}}}\n\
             addressType: IPv4\nports: {ports}\nendpoints: [{endpoints}]\n"
        ));
    }

    /// Time goes by.
    pub(super) fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    pub(super) fn now(&self) -> Instant {
        self.now
    }

    /// A round at a later time; `None` if the proxy was killed in it.
    pub(super) fn round(&mut self, is_whole: bool) -> Option<Result<Round, Failure>> {
        self.now += Duration::from_secs(1);
        self.rounds.round(is_whole, self.now).now_or_never()
    }

    /// Kills the proxy after this number of writes of a round, and starts another one. Returns whether
    /// the round had that many.
    pub(super) fn is_killed_after(&mut self, writes: usize, is_whole: bool) -> bool {
        self.node.present_mut().writes_left = Some(writes);
        let is_killed = self.round(is_whole).is_none();
        self.node.present_mut().writes_left = None;
        self.restart();
        is_killed
    }

    pub(super) fn kill_after(&mut self, writes: usize, is_whole: bool) {
        self.is_killed_after(writes, is_whole);
    }

    pub(super) fn refuse(&mut self, refusal: Option<Refusal>) {
        let mut present = self.node.present_mut();
        let refusals = &mut present.refusals;
        let Some(refusal) = refusal else {
            *refusals = Default::default();
            self.refused = None;
            return;
        };
        match refusal {
            Refusal::Server => {
                refusals.real_servers.insert(refused_server());
                self.refused = Some(refused_server());
            }
            Refusal::Service => {
                refusals.services.insert("-t 10.96.0.1:80".parse().unwrap());
            }
            Refusal::Address => {
                refusals.addresses.insert("203.0.113.1".parse().unwrap());
            }
            Refusal::Route => {
                refusals.routes.insert("198.18.0.3/32".parse().unwrap());
            }
            Refusal::Rules => refusals.rules = true,
            Refusal::Ledger => refusals.ledger = true,
            Refusal::Ports => refusals.ports = true,
            Refusal::Table => refusals.table = true,
        }
    }

    /// Somebody changes what is the proxy's.
    pub(super) fn disturb(&mut self, number: u8) {
        let mut present = self.node.present_mut();
        let table = present.table.snapshot();
        let foreign: ServiceKey = FOREIGN.parse().unwrap();
        let own: Vec<_> = table.services.values().collect();
        let own: Vec<_> =
            own.into_iter().filter(|service| *service.entry.service.key() != foreign).collect();
        let Some(service) = own.get(usize::from(number) % own.len().max(1)) else { return };
        let key = *service.entry.service.key();
        let request = match (number % 3, service.destinations.first()) {
            (0, _) => Request::DeleteService(key),
            (1, Some(entry)) => Request::DeleteDestination(key, entry.destination.key),
            (_, Some(entry)) => {
                let mut changed = entry.destination.clone();
                changed.weight = lvs::client::packet::Weight::new(7).unwrap();
                Request::SetDestination(key, changed)
            }
            _ => return,
        };
        present.table.execute(&request).unwrap();
    }

    /// A real server gets connections, which do not end.
    pub(super) fn connect(&mut self, number: usize, server: u8) {
        let key = format!("-t 10.96.0.{number}:80").parse().unwrap();
        for port in [80, 8080] {
            let server = format!("10.42.0.{server}:{port}").parse().unwrap();
            self.node.present_mut().table.set_connections(&key, &server, 1, 0);
        }
    }

    /// Rounds, and lists where they are asked for, until nothing is to be done any more.
    pub(super) fn settle(&mut self) {
        for _ in 0..20 {
            // Drains are over, and what failed is tried again.
            self.now += Duration::from_secs(61);
            let round = self.round(true).expect("it is not killed");
            if self.rounds.held_back() > 0 {
                self.relist();
                continue;
            }
            let is_quiet = round.is_ok_and(|round| !round.is_partial || self.refused.is_some());
            if is_quiet && !self.rounds.is_wanted() && self.rounds.look().is_none() {
                return;
            }
        }
    }

    /// What of the node is not as it should be.
    pub(super) fn difference(&self) -> String {
        let present = self.node.present();
        let desired = self.desired();
        let mut table = present.table.snapshot();
        table.services.remove(&FOREIGN.parse().unwrap());
        let mut text = String::new();
        if Desired::try_from(&table).unwrap() != desired.table {
            text += &format!("table {}\nnot {}\n", table_text(&table), desired.table);
        }
        let mut addresses = present.addresses.clone();
        addresses.remove(&"192.0.2.77".parse::<IpAddr>().unwrap());
        if addresses != desired.addresses {
            text += &format!("addresses {addresses:?}, not {:?}\n", desired.addresses);
        }
        if present.routes != desired.routes() {
            text += &format!("routes {:?}, not {:?}\n", present.routes, desired.routes());
        }
        let elements = desired.rules.as_ref().unwrap().elements();
        if present.elements != elements {
            let lines = |of: &BTreeSet<crate::rules::Element>, other: &BTreeSet<_>| {
                of.difference(other).map(|element| format!("{element}; ")).collect::<String>()
            };
            let (more, fewer) =
                (lines(&present.elements, &elements), lines(&elements, &present.elements));
            text += &format!("rules: too many {more} too few {fewer}\n");
        }
        let ports: BTreeSet<u16> = present
            .ports
            .iter()
            .filter_map(|place| match place {
                Listening::Service { port } => Some(*port),
                Listening::Own { .. } => None,
            })
            .collect();
        if ports != desired.checks.keys().copied().collect() {
            text += &format!("ports {ports:?}\n");
        }
        text
    }

    /// What should be, from the objects alone, at once.
    pub(super) fn desired(&self) -> NodeDesired {
        let now = self.rounds.state();
        let mut state = State::new(now.node().clone(), now.settings().clone());
        state.apply(Event::Services(self.services.values().cloned().collect()));
        state.apply(Event::Slices(self.slices.values().cloned().collect()));
        let ranges = self.config.ownership.ranges.clone();
        let rules = crate::proxy::rules(&self.config, &ranges);
        let mut desired = NodeDesired::new(ranges, Some(rules));
        let update = state.update();
        desired.take_in(&state, &update);
        desired.set_source(true, Some("192.0.2.11".parse().unwrap()));
        desired.set_source(false, Some("2001:db8::11".parse().unwrap()));
        desired
    }

    /// Real servers that should be there and are not.
    pub(super) fn lacking_servers(&self) -> BTreeSet<DestinationKey> {
        let table = self.node.present().table.snapshot();
        let mut lacking = BTreeSet::new();
        for service in self.desired().table.iter() {
            for server in service.destinations() {
                let there = table.service(service.key());
                if there.is_none_or(|there| there.destination(&server.key).is_none()) {
                    lacking.insert(server.key);
                }
            }
        }
        lacking
    }

    pub(super) fn is_refused(&self, server: &DestinationKey) -> bool {
        self.refused.as_ref() == Some(server)
    }

    pub(super) fn failing(&self) -> Vec<String> {
        self.rounds.failing()
    }

    /// What is the matter, as /healthz says it.
    pub(super) fn conditions(&self) -> String {
        self.rounds.health().conditions()
    }

    pub(super) fn broken(&self) -> Option<String> {
        self.node.present().broken.clone()
    }

    pub(super) fn writes(&self) -> usize {
        self.node.present().writes
    }

    pub(super) fn log(&self) -> Vec<String> {
        self.node.present().log.clone()
    }

    /// The table in ipvsadm's words, without what is somebody else's.
    pub(super) fn table(&self) -> String {
        let mut table = self.node.present().table.snapshot();
        table.services.remove(&FOREIGN.parse().unwrap());
        table_text(&table)
    }
}

fn table_text(table: &Snapshot) -> String {
    Desired::try_from(table).unwrap().to_string()
}

/// A proxy that knows nothing yet but the ledger.
fn begin(node: &FakeNode, config: &Config) -> Rounds<FakeNode> {
    let mut records = Records::new(&config.ownership, "b1");
    records.read(&node.present().ledger).unwrap();
    let rounds = rounds(node.clone(), config.clone(), None, records);
    rounds.now_or_never().expect("nothing is written").unwrap()
}
