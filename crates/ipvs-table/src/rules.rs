//! Rules: a table in the format of `ipvsadm -S` and `-R`.

use std::{
    collections::{
        BTreeMap, HashMap, HashSet,
        btree_map::Entry::{Occupied, Vacant},
    },
    fmt,
    str::FromStr,
};

use ipvs_packet::{
    Destination, DestinationEntry, DestinationKey, ForwardMethod, Request, Service, ServiceEntry,
    ServiceFlags, ServiceKey,
};

use crate::{
    Command, DestinationChanges, Mistake, Mistakes, Names, Numeric, Place, ServiceChanges,
    ServiceSnapshot, Snapshot,
    command::read_line,
    listing::{destinations_in_order, services_in_order},
};

/// The lines of a file for `ipvsadm -R`, as [`Command`]s: what `ipvsadm -S` writes, and everything
/// else that changes something (`-E`, `-D`, `-e`, `-d`, `-C`, `-Z`, `--set`, `--start-daemon`,
/// `--stop-daemon`).
///
/// It displays as `ipvsadm -Sn` writes it, with the thresholds of real servers as well, which that
/// leaves out. Read, it is a batch of [requests](Self::requests), or a [table](Self::table) that
/// should be.
///
/// ```
/// use ipvs_table::Rules;
///
/// let rules: Rules = "
///     -A -t 10.0.0.185:80 -s rr       # the pods of nginx
///     -a -t 10.0.0.185:80 -r 172.17.0.3 -m
///     -a -t 10.0.0.185:80 -r 172.17.0.4:80 --masquerading --weight=3 -x 100
/// "
/// .parse()?;
/// assert_eq!(
///     rules.to_string(),
///     "-A -t 10.0.0.185:80 -s rr\n\
///      -a -t 10.0.0.185:80 -r 172.17.0.3:80 -m -w 1\n\
///      -a -t 10.0.0.185:80 -r 172.17.0.4:80 -m -w 3 -x 100\n"
/// );
///
/// let wrong = "-A -t 10.0.0.185:80 -s rr\n-a -t 10.0.0.185:80 -r 172.17.0.300 -w x -m";
/// assert_eq!(
///     wrong.parse::<Rules>().unwrap_err().to_string(),
///     "line 2, column 24: \"172.17.0.300\" must be an address such as 10.0.0.185\n\
///      line 2, column 40: \"x\" must be a weight, 0 to 2147483647"
/// );
/// # Ok::<(), ipvs_table::Mistakes>(())
/// ```
///
/// # The format
///
/// Each line is a [command line](Command); the word `ipvsadm`, also with a path, may stand before
/// it. Lines without words are nothing. A `#` where a word could begin makes the rest of the line a
/// comment (ipvsadm has none: it ends there). Quotes and backslashes work as in a shell.
///
/// Commands that show something (`-L`, `-S`, `-h`, `-v`) and `-R` itself are mistakes here;
/// `ipvsadm -R` carries out all but `-R`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

/// A line of [`Rules`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rule {
    /// The number of the line in the text, from 1. Of rules that were not read, their own number.
    pub line: usize,
    /// What it says.
    pub command: Command,
    /// What was read and is probably not meant: an IPv6 address without brackets that ends as if a
    /// port followed it.
    pub warnings: Vec<Mistake>,
}

impl Rules {
    /// Reads rules whose hosts and services may have names. `FromStr` takes numbers alone.
    ///
    /// # Errors
    ///
    /// The mistakes of all lines.
    pub fn parse(text: &str, names: &dyn Names) -> Result<Self, Mistakes> {
        let (mut rules, mut mistakes) = (Vec::new(), Vec::new());
        for rule in Self::lines(text, names) {
            match rule {
                Ok(rule) if rule.command.is_write() => rules.push(rule),
                Ok(Rule { line, command, .. }) => {
                    let message = format!("{command} changes nothing, so it is no rule");
                    mistakes.push(Mistake::new(Place::Line { line, column: 1 }, message));
                }
                Err(more) => mistakes.extend(more),
            }
        }
        Mistakes::none(mistakes, Self(rules))
    }

    /// Reads the lines one by one, as `ipvsadm -R` carries them out: commands that show something
    /// are taken too. Lines without words are left out.
    pub fn lines<'a>(
        text: &'a str,
        names: &'a dyn Names,
    ) -> impl Iterator<Item = Result<Rule, Mistakes>> + 'a {
        // Some editors begin a file with a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        (1..)
            .zip(text.lines())
            .filter_map(move |(line, words)| read_line(line, words, names).transpose())
    }

    /// The rules in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Rule> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the kernel is asked for, one request for each rule: a batch that does what `ipvsadm -R`
    /// does.
    pub fn requests(&self) -> impl Iterator<Item = Request> + '_ {
        self.0.iter().filter_map(|rule| rule.command.request())
    }

    /// The rules as `ipvsadm -S` writes them: with names for hosts and services where there are some
    /// (with [`Numeric`], which is `-n`, none), and so that ipvsadm 1.31 reads them too.
    ///
    /// In one case this differs from what the rules display as. Direct routing and tunnelling leave a
    /// packet's port as it is, whatever port the real server has, and ipvsadm reads such a real server
    /// with the port of its service. One with another port displays with `--forward-method 3` or `2`,
    /// which ipvsadm 1.31 refuses, and is saved with `-g` or `-i`. If the service has two such real
    /// servers with one address, they are saved as they display, since they would become one.
    pub fn saved<'a>(&'a self, names: &'a dyn Names) -> impl fmt::Display + 'a {
        Saved { rules: self, names }
    }

    /// The table that an empty one becomes by these rules, without statistics.
    ///
    /// # Errors
    ///
    /// The mistakes of all rules: what the kernel would refuse because a service or real server is
    /// there already with other settings or is not there, and rules that are not about services
    /// (`--set` and those of sync daemons), for which a table has no place.
    pub fn table(&self) -> Result<Snapshot, Mistakes> {
        let (mut table, mut mistakes) = (Table::default(), Vec::new());
        for Rule { line, command, .. } in &self.0 {
            if let Err(message) = table.change(*line, command) {
                mistakes.push(Mistake::new(Place::Line { line: *line, column: 1 }, message));
            }
        }
        Mistakes::none(mistakes, table.into_snapshot())
    }
}

impl Command {
    /// Whether it changes something in the kernel.
    fn is_write(&self) -> bool {
        !matches!(
            self,
            Self::List(_) | Self::Save { .. } | Self::Restore | Self::Help | Self::Version
        )
    }
}

/// The rules by which `ipvsadm -R` makes the table, in the order of `ipvsadm -S`.
impl From<&Snapshot> for Rules {
    fn from(snapshot: &Snapshot) -> Self {
        let rules_of = |service: &ServiceSnapshot| {
            let key = *service.entry.service.key();
            let service_rule = Command::AddService(service.entry.service.clone());
            let add = |entry: &DestinationEntry| Command::AddServer(key, entry.destination.clone());
            let destinations = destinations_in_order(&service.destinations).into_iter().map(add);
            std::iter::once(service_rule).chain(destinations).collect::<Vec<_>>()
        };
        services_in_order(snapshot.services.values()).into_iter().flat_map(rules_of).collect()
    }
}

/// Numbers the rules from 1. Commands that change nothing are left out.
impl FromIterator<Command> for Rules {
    fn from_iter<I: IntoIterator<Item = Command>>(commands: I) -> Self {
        let writes = commands.into_iter().filter(Command::is_write);
        Self(
            (1..)
                .zip(writes)
                .map(|(line, command)| Rule { line, command, warnings: Vec::new() })
                .collect(),
        )
    }
}

impl IntoIterator for Rules {
    type Item = Rule;
    type IntoIter = std::vec::IntoIter<Rule>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Rules {
    type Item = &'a Rule;
    type IntoIter = std::slice::Iter<'a, Rule>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl FromStr for Rules {
    type Err = Mistakes;

    fn from_str(text: &str) -> Result<Self, Mistakes> {
        Self::parse(text, &Numeric)
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for rule in self {
            writeln!(f, "{}", rule.command)?;
        }
        Ok(())
    }
}

/// [`Rules::saved`].
struct Saved<'a> {
    rules: &'a Rules,
    names: &'a dyn Names,
}

impl fmt::Display for Saved<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at_service_port = self.rules.at_service_port();
        for (index, rule) in self.rules.iter().enumerate() {
            match at_service_port.contains(&index) {
                true => rule.command.write_at_service_port(f, self.names)?,
                false => rule.command.write(f, self.names)?,
            }
            f.write_str("\n")?;
        }
        Ok(())
    }
}

impl Rules {
    /// The rules that add a real server whose port means nothing, and may as well be the service's.
    fn at_service_port(&self) -> HashSet<usize> {
        let mut found = HashMap::new();
        for (index, rule) in self.iter().enumerate() {
            let (service, destination) = match &rule.command {
                Command::AddService(_) => continue,
                Command::AddServer(service, destination) => (service, destination),
                // A table has no such rules. They could name the real server by its port.
                _ => return HashSet::new(),
            };
            let ServiceKey::Address { port, .. } = *service else { continue };
            let is_port_free = destination.forward == ForwardMethod::DIRECT_ROUTE
                || destination.forward == ForwardMethod::TUNNEL;
            let differs = destination.key.port != port;
            if is_port_free || !differs {
                found
                    .entry((*service, destination.key.address))
                    .and_modify(|index| *index = None)
                    .or_insert(differs.then_some(index));
            }
        }
        found.into_values().flatten().collect()
    }
}

/// A table on which rules act as on the kernel's, each entry with the line that added it.
#[derive(Default)]
struct Table(BTreeMap<ServiceKey, Added>);

struct Added {
    line: usize,
    service: Service,
    destinations: BTreeMap<DestinationKey, (usize, Destination)>,
}

impl Table {
    fn change(&mut self, line: usize, command: &Command) -> Result<(), String> {
        match command {
            Command::AddService(service) => {
                let service = with_flags(service, ServiceFlags::empty());
                match self.0.entry(*service.key()) {
                    Occupied(first) => {
                        let Added { line, service: first, .. } = first.get();
                        let changes = ServiceChanges::between(first, &service);
                        if !changes.is_empty() {
                            let what = format!("service {}", service.key());
                            return Err(is_there(&what, *line, &changes));
                        }
                    }
                    Vacant(place) => {
                        let destinations = BTreeMap::new();
                        place.insert(Added { line, service, destinations });
                    }
                }
            }
            Command::EditService(service) => {
                let added = self.service(service.key())?;
                added.service = with_flags(service, added.service.flags);
            }
            Command::DeleteService(key) => {
                self.service(key)?;
                self.0.remove(key);
            }
            Command::Clear => self.0.clear(),
            Command::AddServer(service, destination) => {
                let key = destination.key;
                match self.service(service)?.destinations.entry(key) {
                    Occupied(first) => {
                        let (line, first) = first.get();
                        let changes = DestinationChanges::between(first, destination);
                        if !changes.is_empty() {
                            let what = format!("real server {key} of {service}");
                            return Err(is_there(&what, *line, &changes));
                        }
                    }
                    Vacant(place) => {
                        place.insert((line, destination.clone()));
                    }
                }
            }
            Command::EditServer(service, destination) => {
                let (_, old) = self.destination(service, &destination.key)?;
                *old = destination.clone();
            }
            Command::DeleteServer(service, key) => {
                self.destination(service, key)?;
                self.service(service)?.destinations.remove(key);
            }
            Command::Zero(None) => {}
            Command::Zero(Some(key)) => {
                self.service(key)?;
            }
            other => return Err(format!("{other} is not about services")),
        }
        Ok(())
    }

    fn service(&mut self, key: &ServiceKey) -> Result<&mut Added, String> {
        self.0.get_mut(key).ok_or_else(|| format!("there is no service {key} before this line"))
    }

    fn destination(
        &mut self,
        service: &ServiceKey,
        key: &DestinationKey,
    ) -> Result<&mut (usize, Destination), String> {
        self.service(service)?
            .destinations
            .get_mut(key)
            .ok_or_else(|| format!("there is no real server {key} of {service} before this line"))
    }

    fn into_snapshot(self) -> Snapshot {
        let snapshot = |added: Added| {
            let entries = added.destinations.into_values();
            let entries = entries.map(|(_, destination)| DestinationEntry::new(destination));
            ServiceSnapshot::new(ServiceEntry::new(added.service), entries.collect())
        };
        self.0.into_values().map(snapshot).collect()
    }
}

/// What is added again with the same settings changes nothing. With others it is a mistake.
fn is_there(what: &str, line: usize, changes: &dyn fmt::Display) -> String {
    format!("{what} is there already, from line {line}, and differs: {changes}")
}

/// A service as the kernel keeps it: with the flags that the mask sets, and else the old ones.
fn with_flags(service: &Service, old: ServiceFlags) -> Service {
    let mask = service.flags_mask;
    let mut service = service.clone();
    let flags = old.bits() & !mask | service.flags.bits() & mask;
    service.flags = ServiceFlags::from_bits_retain(flags);
    service.flags_mask = u32::MAX;
    service
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use ipvs_packet::{ForwardMethod, SchedulerName, Weight, strategy};
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn mistakes(text: &str) -> String {
        text.parse::<Rules>().and_then(|rules| rules.table()).unwrap_err().to_string()
    }

    #[test]
    fn lines_keep_their_numbers() {
        let text =
            "\n# nothing\nipvsadm -C\n\n  /sbin/ipvsadm -A -f 1 # a mark\r\n\tipvsadm\n-D -f 1";
        let rules: Rules = text.parse().unwrap();
        let lines: Vec<_> = rules.iter().map(|rule| rule.line).collect();
        assert_eq!(lines, [3, 5, 7]);
        assert_eq!(rules.to_string(), "-C\n-A -f 1 -s wlc\n-D -f 1\n");
        assert_eq!(rules.requests().count(), 3);
        assert!(rules.table().unwrap().services.is_empty());
        assert!("".parse::<Rules>().unwrap().is_empty());
    }

    #[test]
    fn every_line_is_judged() {
        assert_eq!(
            mistakes("-A -t 10.0.0.1\n-A -f 1\n  -Q\n-Ln\n-A -f 'x\n\u{e9} -Z"),
            "line 1, column 4: port 0, which is every port, needs persistence: -p\n\
             line 3, column 3: -Q is not an option\n\
             line 4, column 1: -L -n changes nothing, so it is no rule\n\
             line 5, column 7: a quotation mark or backslash has nothing behind it\n\
             line 6, column 1: \"\u{e9}\" belongs to no option"
        );
    }

    #[test]
    fn a_table_is_what_the_rules_leave() {
        let rules: Rules = "
            -A -t 10.0.0.1:80 -s rr -p 60
            -a -t 10.0.0.1:80 -r 172.17.0.3 -m
            -a -t 10.0.0.1:80 -r 172.17.0.4 -m
            -A -f 1
            -a -f 1 -r 172.17.0.4
            -e -t 10.0.0.1:80 -r 172.17.0.3 -m -w 0
            -d -t 10.0.0.1:80 -r 172.17.0.4
            -E -t 10.0.0.1:80 -s wrr
            -D -f 1
            -Z -t 10.0.0.1:80
        "
        .parse()
        .unwrap();
        let table = rules.table().unwrap();
        assert_eq!(
            Rules::from(&table).to_string(),
            "-A -t 10.0.0.1:80 -s wrr\n-a -t 10.0.0.1:80 -r 172.17.0.3:80 -m -w 0\n"
        );
        let entry = &table.service(&"-t 10.0.0.1:80".parse().unwrap()).unwrap().destinations[0];
        assert_eq!(entry.destination.weight, Weight::ZERO);
    }

    #[test]
    fn what_the_kernel_would_refuse_is_told_with_both_lines() {
        assert_eq!(
            mistakes(
                "-A -f 1\n-A -f 1 -s rr\n-a -f 1 -r 10.1.0.1\n-a -f 1 -r 10.1.0.1 -m\n-a -f 2 -r \
                 10.1.0.1\n-E -f 2\n-D -f 2\n-e -f 1 -r 10.1.0.2\n-d -f 1 -r 10.1.0.2\n-Z -f 2\n--set \
                 1 2 3"
            ),
            "line 2, column 1: service -f 1 is there already, from line 1, and differs: \
             scheduler wlc -> rr\n\
             line 4, column 1: real server 10.1.0.1:0 of -f 1 is there already, from line 3, and \
             differs: forwarding direct routing -> masquerade\n\
             line 5, column 1: there is no service -f 2 before this line\n\
             line 6, column 1: there is no service -f 2 before this line\n\
             line 7, column 1: there is no service -f 2 before this line\n\
             line 8, column 1: there is no real server 10.1.0.2:0 of -f 1 before this line\n\
             line 9, column 1: there is no real server 10.1.0.2:0 of -f 1 before this line\n\
             line 10, column 1: there is no service -f 2 before this line\n\
             line 11, column 1: --set 1 2 3 is not about services"
        );
    }

    #[test]
    fn a_byte_order_mark_is_no_mistake() {
        let rules: Rules = "\u{feff}-A -f 1\n-C".parse().unwrap();
        assert_eq!(rules.to_string(), "-A -f 1 -s wlc\n-C\n");
        assert!("-C\n\u{feff}-C".parse::<Rules>().is_err());
    }

    #[test]
    fn a_line_that_repeats_another_changes_nothing() {
        let once = "-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.1.0.1 -m -w 3\n";
        // Spelled in another way, and without effect where there is no persistence.
        let again = "--add-service -t 10.0.0.1:80 -s rr --flags-mask 0x3f\n\
                     -a -t 10.0.0.1:80 -r 10.1.0.1:80 --weight 3 -m\n";
        let table = |text: &str| text.parse::<Rules>().and_then(|rules| rules.table());
        assert_eq!(table(&format!("{once}{once}{again}")), table(once));
        // What counts is what is there then.
        let changed = format!("{once}-E -t 10.0.0.1:80\n-A -t 10.0.0.1:80\n");
        assert_eq!(
            Rules::from(&table(&changed).unwrap()).to_string().lines().next(),
            Some("-A -t 10.0.0.1:80 -s wlc")
        );
        assert!(mistakes(&(changed + once)).contains("scheduler wlc -> rr"));
    }

    #[test]
    fn a_port_that_means_nothing_is_saved_as_ipvsadm_reads_it() {
        let saved = |text: &str| text.parse::<Rules>().unwrap().saved(&Numeric).to_string();
        let service = "-A -t 10.0.0.1:80 -s wlc\n";
        let line = |server: &str, how: &str| format!("-a -t 10.0.0.1:80 -r {server} {how} -w 1\n");
        let (direct, tunnel) = ("--forward-method 3", "--forward-method 2");
        for (how, expected) in [(direct, "-g"), (tunnel, "-i"), ("-m", "-m")] {
            let text = service.to_owned() + &line("10.1.0.1:8080", how);
            let exact = text.parse::<Rules>().unwrap().to_string();
            assert!(exact.contains(&format!("10.1.0.1:8080 {how} ")), "{exact}");
            assert_eq!(saved(&text), exact.replace(how, expected));
        }
        // These would be one and the same.
        for other in [line("10.1.0.1:80", "-m"), line("10.1.0.1:8081", tunnel)] {
            let text = service.to_owned() + &line("10.1.0.1:8080", direct) + &other;
            assert!(saved(&text).contains(&format!("8080 {direct} ")), "{text}");
        }
        // Here it is named by its port.
        let text = service.to_owned()
            + &line("10.1.0.1:8080", direct)
            + "-d -t 10.0.0.1:80 -r 10.1.0.1:8080\n";
        assert_eq!(saved(&text), text);
    }

    #[test]
    fn flags_that_the_mask_leaves_alone_stay() {
        let rules: Rules =
            "-A -f 1 -b flag-1 -o\n-E -f 1 -b flag-2 --flags-mask 0x18".parse().unwrap();
        assert_eq!(
            Rules::from(&rules.table().unwrap()).to_string(),
            "-A -f 1 -s wlc -o -b flag-2\n"
        );
    }

    /// A file in the form of those that distributions' scripts keep.
    #[test]
    fn files_of_real_life() {
        let text = "\
# Generated by ipvsadm-save
-A -t director.example:http -s wlc -p 300 -M 255.255.255.0
-a -t director.example:http -r web1.example:http -g -w 1
ipvsadm -A -f 1 -s rr
ipvsadm -a -f 1 -r 192.168.10.1:0 -m
";
        struct Example;
        impl Names for Example {
            fn address(&self, host: &str) -> Option<std::net::IpAddr> {
                let host = host.strip_suffix(".example")?;
                Some(if host == "director" { [10, 0, 0, 1] } else { [10, 1, 0, 1] }.into())
            }

            fn port(&self, service: &str, _: ipvs_packet::Protocol) -> Option<u16> {
                (service == "http").then_some(80)
            }

            fn host(&self, address: std::net::IpAddr) -> Option<String> {
                (address.to_string() == "10.0.0.1").then(|| "director.example".to_owned())
            }
        }
        let rules = Rules::parse(text, &Example).unwrap();
        assert_eq!(
            rules.to_string(),
            "-A -t 10.0.0.1:80 -s wlc -p 300 -M 255.255.255.0\n\
             -a -t 10.0.0.1:80 -r 10.1.0.1:80 -g -w 1\n\
             -A -f 1 -s rr\n\
             -a -f 1 -r 192.168.10.1:0 -m -w 1\n"
        );
        assert!(rules.saved(&Example).to_string().starts_with("-A -t director.example:80 -s wlc"));
        assert_eq!(text.parse::<Rules>().unwrap_err().iter().count(), 3);
    }

    proptest! {
        #![proptest_config(crate::cases(256))]

        /// What the kernel can hold and ipvsadm can say survives.
        #[test]
        fn tables_survive_their_rules(
            services in vec((strategy::service(), vec(strategy::destination(), 0..4)), 0..5),
        ) {
            let snapshot: Snapshot = services
                .into_iter()
                .map(|(mut service, destinations)| {
                    service.flags_mask = u32::MAX;
                    // A line holds none of these, and no module has such a name.
                    if service.to_string().contains(['\n', '\r']) {
                        service.scheduler = SchedulerName::WLC;
                        service.engine = None;
                    }
                    let key = *service.key();
                    let entry = ServiceEntry::new(crate::command::effective(service));
                    let destinations = destinations.into_iter().map(|mut destination| {
                        if key.family() != destination.key.family() {
                            destination.forward = ForwardMethod::TUNNEL;
                        }
                        DestinationEntry::new(crate::command::effective_destination(destination))
                    });
                    ServiceSnapshot::new(entry, destinations.collect())
                })
                .collect();
            let rules = Rules::from(&snapshot);
            let text = rules.to_string();
            let read: Rules = text.parse().map_err(|error| {
                TestCaseError::fail(format!("{text}\n{error}"))
            })?;
            prop_assert_eq!(&read, &rules);
            prop_assert_eq!(read.table().unwrap(), snapshot);
        }
    }
}
