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
mod tests;
