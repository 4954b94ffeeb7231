//! What ipvsadm can be told, as a value and as a command line.

mod read;
mod write;

use std::{fmt, str::FromStr};

use ipvs_packet::{
    DaemonRole, Destination, DestinationKey, Request, Service, ServiceKey, SyncDaemon, Timeouts,
};

use crate::{CommandOption, Mistake, Mistakes, Names, Numeric, Place, options::units};

use self::read::read_behind;
pub(crate) use self::read::read_line;
pub(crate) use self::read::scheduler_flag;

/// What ipvsadm 1.31 can be told by one command line.
///
/// It is read from arguments ([`parse`](Self::parse)) or from a line of text (`FromStr`), and
/// displays as the arguments that say it, in the form of `ipvsadm -Sn`, without the program's name:
/// `-a -t 10.0.0.185:80 -r 172.17.0.3:80 -m -w 3`. A real server's thresholds are written too, which
/// `ipvsadm -S` leaves out.
///
/// ```
/// use ipvs_table::{Command, Numeric};
///
/// let command = Command::parse(&["-At", "10.0.0.185:80", "--scheduler=wrr", "-p"], &Numeric)?;
/// assert_eq!(command.to_string(), "-A -t 10.0.0.185:80 -s wrr -p 360");
/// # Ok::<(), ipvs_table::Mistakes>(())
/// ```
///
/// # What is read
///
/// Everything that ipvsadm takes, and what it refuses is refused, with the same exit status
/// ([`Mistake::exit_status`]): which options go with which command, each at most once, the command
/// first, port 0 for persistent services only, one-packet scheduling for UDP and marks only, other
/// address families for tunnelled real servers only, `-6` behind `-f`. As there, direct routing and
/// tunnelling have the service's port whatever port `-r` names (not for `-f`), a real server without
/// a port has the service's, and the forwarding method is direct routing if none is said.
///
/// What differs from ipvsadm:
///
/// - Long options may be shortened: `--sched`.
/// - `-M 24` for IPv4 is the prefix length, 255.255.255.0; for ipvsadm it is the mask 0.0.0.24.
/// - `-M` and `-r` mean the same wherever `-t` stands. With ipvsadm, a prefix length before an IPv6
///   address is lost, and a real server before its service gets port 0.
/// - Names longer than the kernel's 15 bytes are refused, not cut.
/// - A short IPv4 address such as `10.1` is a name, to be looked up.
/// - `-p` takes more than 31 days, since `ipvsadm -S` writes what the kernel has.
///
/// # What ipvsadm cannot say
///
/// The kernel keeps what other programs set, and some of it has no option. It is displayed and read
/// by options of our own, which ipvsadm refuses: `--protocol 99 10.0.0.185:80`, `--forward-method`
/// with `local`, `bypass` or a number, `-b flag-4` to `flag-29`, `--flags-mask`, `--tun-type` with a number, and
/// `--tun-flags` with one.
///
/// What has no effect in the kernel is not displayed: timeout and netmask of a service that is not
/// persistent, the encapsulation of a real server that is not tunnelled, port and flags of IPIP, and
/// the port of GRE.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// `-A`: add a service.
    AddService(Service),
    /// `-E`: change a service.
    EditService(Service),
    /// `-D`: delete a service with its real servers.
    DeleteService(ServiceKey),
    /// `-C`: delete all services.
    Clear,
    /// `-a`: add a real server to a service.
    AddServer(ServiceKey, Destination),
    /// `-e`: change a real server.
    EditServer(ServiceKey, Destination),
    /// `-d`: delete a real server.
    DeleteServer(ServiceKey, DestinationKey),
    /// `-L`: show something.
    List(ListOptions),
    /// `-Z`: zero the counters of a service or of all.
    Zero(Option<ServiceKey>),
    /// `--set`: set the timeouts of connections.
    SetTimeouts(Timeouts),
    /// `--start-daemon`: start a sync daemon.
    StartDaemon(SyncDaemon),
    /// `--stop-daemon`: stop a sync daemon.
    StopDaemon(DaemonRole),
    /// `-R`: carry out the lines of the standard input.
    Restore,
    /// `-S`: write the table as lines for `-R`.
    Save {
        /// `-n`: addresses and ports as numbers.
        numeric: bool,
    },
    /// `-h`.
    Help,
    /// `-v`.
    Version,
}

/// What `ipvsadm -L` is to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ListOptions {
    /// What is listed.
    pub listed: Listed,
    /// `-n`: addresses and ports as numbers.
    pub numeric: bool,
    /// `--stats`: counters.
    pub statistics: bool,
    /// `--rate`: the kernel's averages by the second.
    pub rates: bool,
    /// `--thresholds`: when real servers are full.
    pub thresholds: bool,
    /// `--persistent-conn`: persistence templates; of connections, the data of persistence engines.
    pub persistent_connections: bool,
    /// `--tun-info`: encapsulations.
    pub tunnels: bool,
    /// `--exact`: large numbers in full.
    pub exact: bool,
    /// Not `--nosort`: in order, which is the default.
    pub sorted: bool,
}

impl ListOptions {
    /// What `-L` and `-c`, `--timeout`, `--daemon` or a service show without other options.
    pub const fn new(listed: Listed) -> Self {
        Self {
            listed,
            numeric: false,
            statistics: false,
            rates: false,
            thresholds: false,
            persistent_connections: false,
            tunnels: false,
            exact: false,
            sorted: true,
        }
    }
}

/// What `ipvsadm -L` lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Listed {
    /// All services with their real servers.
    Table,
    /// One service with its real servers.
    Service(ServiceKey),
    /// `-c`: the connections.
    Connections,
    /// `--timeout`: the timeouts of connections.
    Timeouts,
    /// `--daemon`: the sync daemons.
    Daemons,
}

impl Command {
    /// Reads the arguments of ipvsadm, without the program's name. Without any, ipvsadm lists the
    /// table.
    ///
    /// # Errors
    ///
    /// All mistakes, with the argument and, in the text, the word. After an unknown option, which
    /// may or may not have a value, nothing more is looked at.
    pub fn parse<S: AsRef<str>>(arguments: &[S], names: &dyn Names) -> Result<Self, Mistakes> {
        Ok(read::read(arguments, names)?.0)
    }

    /// Reads the arguments of a program that has options beyond ipvsadm's. These may stand anywhere,
    /// before the command too, and each at most once. Which of them go with which command is for
    /// the caller to say.
    ///
    /// ```
    /// use ipvs_table::{Command, CommandOption, Numeric, OptionValue};
    ///
    /// let value = OptionValue::Required("NAME");
    /// let namespace = CommandOption::new("netns", value, "in a network namespace");
    /// let parsed = Command::parse_with(&["--netns", "web", "-Ln"], &[namespace], &Numeric)?;
    /// assert_eq!(parsed.command.map(|command| command.to_string()).as_deref(), Some("-L -n"));
    /// assert_eq!(parsed.own[0].value.as_deref(), Some("web"));
    /// # Ok::<(), ipvs_table::Mistakes>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`parse`](Self::parse).
    pub fn parse_with<S: AsRef<str>>(
        arguments: &[S],
        own: &[CommandOption],
        names: &dyn Names,
    ) -> Result<ParsedCommand, Mistakes> {
        read::read_with(arguments, own, names)
    }

    /// Every option that is read, with what it is for, for a program's help: ipvsadm's, and those
    /// for what ipvsadm cannot say.
    pub fn options() -> impl Iterator<Item = &'static CommandOption> {
        units().map(|unit| &unit.described)
    }

    /// Reads a line such as `-A -t 10.0.0.185:80 -s wrr`; the word `ipvsadm` may stand before it.
    /// Names are looked up with `names`; `FromStr` takes numbers alone.
    ///
    /// # Errors
    ///
    /// As for [`parse`](Self::parse), by line (1) and column.
    pub fn parse_line(line: &str, names: &dyn Names) -> Result<Self, Mistakes> {
        match read_line(1, line, names)? {
            Some(rule) => Ok(rule.command),
            None => {
                let place = Place::Line { line: 1, column: 1 };
                Err(Mistake::usage(place, "a command such as -A or -L is missing").into())
            }
        }
    }

    /// Reads a real server without its service, as it displays: `-r 172.17.0.3:80 -m -w 3`. Its port
    /// is 0 where none is said.
    ///
    /// # Errors
    ///
    /// As for [`parse_line`](Self::parse_line).
    pub fn parse_server(line: &str) -> Result<Destination, Mistakes> {
        // Any mark of the family will do: its real servers have a port only if it is said.
        let before: &[_] =
            if line.contains('[') { &["-a", "-f", "1", "-6"] } else { &["-a", "-f", "1"] };
        match read_behind(before, 1, line, &Numeric)?.map(|rule| rule.command) {
            Some(Self::AddServer(_, destination)) => Ok(destination),
            _ => {
                let message = "expected a real server such as -r 172.17.0.3:80";
                Err(Mistake::new(Place::Line { line: 1, column: 1 }, message).into())
            }
        }
    }

    /// What the kernel is asked for. Of a listing, the request with which it begins; nothing for
    /// connections and for what does not concern the kernel.
    pub fn request(&self) -> Option<Request> {
        self.clone().into_request()
    }

    /// The same, without a copy of what the command holds.
    pub fn into_request(self) -> Option<Request> {
        Some(match self {
            Self::AddService(service) => Request::NewService(service),
            Self::EditService(service) => Request::SetService(service),
            Self::DeleteService(key) => Request::DeleteService(key),
            Self::Clear => Request::Flush,
            Self::AddServer(key, destination) => Request::NewDestination(key, destination),
            Self::EditServer(key, destination) => Request::SetDestination(key, destination),
            Self::DeleteServer(key, destination) => Request::DeleteDestination(key, destination),
            Self::Zero(key) => Request::Zero(key),
            Self::SetTimeouts(timeouts) => Request::SetTimeouts(timeouts),
            Self::StartDaemon(daemon) => Request::NewDaemon(daemon),
            Self::StopDaemon(role) => Request::DeleteDaemon(role),
            Self::List(options) => match options.listed {
                Listed::Table => Request::ListServices,
                Listed::Service(key) => Request::GetService(key),
                Listed::Timeouts => Request::GetTimeouts,
                Listed::Daemons => Request::ListDaemons,
                Listed::Connections => return None,
            },
            Self::Save { .. } => Request::ListServices,
            Self::Restore | Self::Help | Self::Version => return None,
        })
    }

    /// The command that makes a request. `GET_INFO`, whose answer is the first line of each
    /// listing, is `-L -n`, and a list of real servers is `-L -n` with their service. `None` for
    /// commands that this crate does not know.
    pub fn for_request(request: &Request) -> Option<Self> {
        let list = |listed| {
            let mut options = ListOptions::new(listed);
            options.numeric = matches!(listed, Listed::Table | Listed::Service(_));
            Self::List(options)
        };
        Some(match request {
            Request::NewService(service) => Self::AddService(service.clone()),
            Request::SetService(service) => Self::EditService(service.clone()),
            Request::DeleteService(key) => Self::DeleteService(*key),
            Request::GetService(key) | Request::ListDestinations(key) => {
                list(Listed::Service(*key))
            }
            Request::ListServices | Request::GetInfo => list(Listed::Table),
            Request::NewDestination(key, destination) => Self::AddServer(*key, destination.clone()),
            Request::SetDestination(key, destination) => {
                Self::EditServer(*key, destination.clone())
            }
            Request::DeleteDestination(key, destination) => Self::DeleteServer(*key, *destination),
            Request::NewDaemon(daemon) => Self::StartDaemon(daemon.clone()),
            Request::DeleteDaemon(role) => Self::StopDaemon(*role),
            Request::ListDaemons => list(Listed::Daemons),
            Request::SetTimeouts(timeouts) => Self::SetTimeouts(*timeouts),
            Request::GetTimeouts => list(Listed::Timeouts),
            Request::Zero(key) => Self::Zero(*key),
            Request::Flush => Self::Clear,
            _ => return None,
        })
    }
}

/// What a program's arguments say: [`Command::parse_with`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParsedCommand {
    /// ipvsadm's command; `None` where there are none of its options.
    pub command: Option<Command>,
    /// The program's own options, in the order of the arguments.
    pub own: Vec<OwnOption>,
    /// What was read and is probably not meant: an IPv6 address without brackets that ends as if a
    /// port followed it.
    pub warnings: Vec<Mistake>,
}

/// An option that a program has beyond ipvsadm's, as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OwnOption {
    /// Which of the program's options.
    pub index: usize,
    /// Where it stands.
    pub place: Place,
    /// Its value, if it has one.
    pub value: Option<String>,
}

impl FromStr for Command {
    type Err = Mistakes;

    fn from_str(line: &str) -> Result<Self, Mistakes> {
        Self::parse_line(line, &Numeric)
    }
}

/// A request as the ipvsadm command that makes it: `ipvsadm -A -t 10.0.0.185:80 -s wlc`. A shell
/// runs the line as it is, and what stands behind `ipvsadm` [reads](Command) as the same request
/// again, but for what has no effect.
///
/// Where ipvsadm has no command ([`Command::for_request`]), a comment with the command's number.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::exhaustive_structs, reason = "a view of what it holds, and no more")]
pub struct CommandLine<'a>(pub &'a Request);

impl fmt::Display for CommandLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Command::for_request(self.0) {
            Some(command) => write!(f, "ipvsadm {command}"),
            None => write!(f, "# {}", self.0.command()),
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use self::tests::{effective, effective_destination};
