//! Commands, written as ipvsadm writes them.

use std::fmt;

use ipvs_packet::{AddressFamily, Destination, DestinationKey, Protocol, Service, ServiceKey};

use super::{Command, ListOptions, Listed};
use crate::{
    Names, Numeric,
    names::{endpoint, protocol_of},
};

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, &Numeric)
    }
}

impl Command {
    /// Writes the command, with names where there are some.
    pub(crate) fn write(&self, f: &mut fmt::Formatter<'_>, names: &dyn Names) -> fmt::Result {
        let key = |key| KeyWords { key, names };
        match self {
            Self::AddService(service) => write_service(f, "-A", service, names),
            Self::EditService(service) => write_service(f, "-E", service, names),
            Self::DeleteService(service) => write!(f, "-D {}", key(service)),
            Self::Clear => f.write_str("-C"),
            Self::AddServer(key, destination) => {
                write_server(f, "-a", key, destination, has_own_port(key, destination), names)
            }
            Self::EditServer(key, destination) => {
                write_server(f, "-e", key, destination, has_own_port(key, destination), names)
            }
            Self::DeleteServer(service, destination) => {
                write!(f, "-d {} -r {}", key(service), server_words(service, destination, names))
            }
            Self::List(options) => write_list(f, options, names),
            Self::Zero(None) => f.write_str("-Z"),
            Self::Zero(Some(service)) => write!(f, "-Z {}", key(service)),
            Self::SetTimeouts(timeouts) => write!(f, "--set {timeouts}"),
            Self::StartDaemon(daemon) => write!(f, "{daemon}"),
            Self::StopDaemon(role) => write!(f, "--stop-daemon {role}"),
            Self::Restore => f.write_str("-R"),
            Self::Save { numeric } => f.write_str(if *numeric { "-S -n" } else { "-S" }),
            Self::Help => f.write_str("-h"),
            Self::Version => f.write_str("-v"),
        }
    }

    /// The same, but a real server that is read with the port of its service may be written so.
    pub(crate) fn write_at_service_port(
        &self,
        f: &mut fmt::Formatter<'_>,
        names: &dyn Names,
    ) -> fmt::Result {
        match self {
            Self::AddServer(key, destination) => {
                write_server(f, "-a", key, destination, false, names)
            }
            other => other.write(f, names),
        }
    }
}

/// A service's key as options.
struct KeyWords<'a> {
    key: &'a ServiceKey,
    names: &'a dyn Names,
}

impl fmt::Display for KeyWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self.key {
            ServiceKey::Address { protocol, address, port } => {
                match protocol {
                    Protocol::TCP => f.write_str("-t ")?,
                    Protocol::UDP => f.write_str("-u ")?,
                    Protocol::SCTP => f.write_str("--sctp-service ")?,
                    Protocol(number) => write!(f, "--protocol {number} ")?,
                }
                f.write_str(&endpoint(address, port, protocol, self.names))
            }
            ServiceKey::Mark { mark, family: AddressFamily::Ipv4 } => write!(f, "-f {mark}"),
            ServiceKey::Mark { mark, family: AddressFamily::Ipv6 } => write!(f, "-f {mark} -6"),
        }
    }
}

fn server_words(service: &ServiceKey, key: &DestinationKey, names: &dyn Names) -> String {
    endpoint(key.address, key.port, protocol_of(service), names)
}

fn write_service(
    f: &mut fmt::Formatter<'_>,
    verb: &str,
    service: &Service,
    names: &dyn Names,
) -> fmt::Result {
    let key = KeyWords { key: service.key(), names };
    write!(f, "{verb} {key} {}", service.switches())
}

/// Whether the port of a real server is another one than its service's. ipvsadm reads none such with
/// `-g` and `-i`.
fn has_own_port(service: &ServiceKey, destination: &Destination) -> bool {
    match *service {
        ServiceKey::Address { port, .. } => port != destination.key.port,
        ServiceKey::Mark { .. } => false,
    }
}

/// With its own port, other words say the forwarding method.
fn write_server(
    f: &mut fmt::Formatter<'_>,
    verb: &str,
    service: &ServiceKey,
    destination: &Destination,
    at_own_port: bool,
    names: &dyn Names,
) -> fmt::Result {
    let address = server_words(service, &destination.key, names);
    let switches = destination.switches().to_string();
    write!(f, "{verb} {} -r {address} ", KeyWords { key: service, names })?;
    match switches.strip_prefix("-g").or_else(|| switches.strip_prefix("-i")) {
        Some(others) if at_own_port => {
            write!(f, "--forward-method {}{others}", destination.forward.0)
        }
        _ => f.write_str(&switches),
    }
}

fn write_list(f: &mut fmt::Formatter<'_>, options: &ListOptions, names: &dyn Names) -> fmt::Result {
    f.write_str("-L")?;
    match &options.listed {
        Listed::Table => {}
        Listed::Service(key) => write!(f, " {}", KeyWords { key, names })?,
        Listed::Connections => f.write_str(" -c")?,
        Listed::Timeouts => f.write_str(" --timeout")?,
        Listed::Daemons => f.write_str(" --daemon")?,
    }
    for (given, option) in [
        (options.numeric, " -n"),
        (options.statistics, " --stats"),
        (options.rates, " --rate"),
        (options.thresholds, " --thresholds"),
        (options.persistent_connections, " --persistent-conn"),
        (options.tunnels, " --tun-info"),
        (options.exact, " --exact"),
        (!options.sorted, " --nosort"),
    ] {
        if given {
            f.write_str(option)?;
        }
    }
    Ok(())
}
