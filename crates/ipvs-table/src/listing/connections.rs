//! Connections as ipvsadm lists them.

use std::fmt;

use ipvs_packet::Protocol;

use crate::{Connection, ListOptions, Names, Numeric, names::endpoint};

/// How `ipvsadm -L -n -c` lists connections: a title, and a row for each, in the order of the
/// kernel's table. With [`options`](Self::options) that have `persistent_connections`, the data of
/// persistence engines too.
///
/// ```
/// use ipvs_table::{Connection, ConnectionListing};
///
/// let listing = ConnectionListing::default();
/// let line = b"TCP AC110005 B9C4 0A0000B9 0050 AC110004 0050 ESTABLISHED     899";
/// assert_eq!(
///     format!("{}\n{}", listing.title(), listing.row(&Connection::parse(line)?)),
///     "\
/// IPVS connection entries
/// pro expire state       source             virtual            destination
/// TCP 14:59  ESTABLISHED 172.17.0.5:47556   10.0.0.185:80      172.17.0.4:80"
/// );
/// # Ok::<(), ipvs_table::MalformedConnection>(())
/// ```
///
/// What a client wrote into the data of a persistence engine is shown in full and with escapes for
/// what is not printable ASCII; ipvsadm prints it raw, up to the first blank, and breaks lines of
/// more than 255 bytes.
#[derive(Clone, Copy)]
pub struct ConnectionListing<'a> {
    engine_data: bool,
    names: &'a dyn Names,
}

impl<'a> ConnectionListing<'a> {
    /// Whether the data of persistence engines are shown, and whether there are names.
    #[must_use]
    pub fn options(self, options: &ListOptions) -> Self {
        let names = if options.numeric { &Numeric } else { self.names };
        Self { engine_data: options.persistent_connections, names }
    }

    /// Where names are looked up. By default nowhere.
    #[must_use]
    pub fn names(self, names: &'a dyn Names) -> Self {
        Self { names, ..self }
    }

    /// The two lines above the rows, without the last line's end.
    pub fn title(&self) -> &'static str {
        match self.engine_data {
            false => {
                "IPVS connection entries\n\
                 pro expire state       source             virtual            destination"
            }
            true => {
                "IPVS connection entries\n\
                 pro expire state       source             virtual            destination        \
                 pe name          pe_data"
            }
        }
    }

    /// A connection, without the line's end.
    pub fn row(&self, connection: &'a Connection) -> impl fmt::Display + use<'a> {
        Row { listing: *self, connection }
    }
}

/// Without data of persistence engines, without names.
impl Default for ConnectionListing<'_> {
    fn default() -> Self {
        Self { engine_data: false, names: &Numeric }
    }
}

impl fmt::Debug for ConnectionListing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionListing")
            .field("engine_data", &self.engine_data)
            .finish_non_exhaustive()
    }
}

struct Row<'a> {
    listing: ConnectionListing<'a>,
    connection: &'a Connection,
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listing: ConnectionListing { engine_data, names }, connection } = self;
        let protocol = match connection.protocol {
            Protocol(0) => "IP".to_owned(),
            Protocol(1) => "ICMP".to_owned(),
            Protocol(58) => "ICMPv6".to_owned(),
            other => other.to_string(),
        };
        let named = [Protocol::TCP, Protocol::UDP, Protocol::SCTP].contains(&connection.protocol);
        let of_names = if named { connection.protocol } else { Protocol(0) };
        let [client, virtual_address, destination] =
            [connection.client, connection.virtual_address, connection.destination]
                .map(|address| endpoint(address.ip(), address.port(), of_names, *names));
        let seconds = connection.expires.as_secs();
        let expires = format!("{:02}:{:02}", seconds / 60, seconds % 60);
        let state = connection.state.name();
        write!(f, "{protocol:<3} {expires:<6} {state:<11} {client:<18} {virtual_address:<18} ")?;
        match &connection.engine {
            Some(engine) if *engine_data && !engine.data.is_empty() => {
                let data = engine.data.escape_ascii();
                write!(f, "{destination:<16} {:<18} {data}", engine.name)
            }
            _ => f.write_str(&destination),
        }
    }
}

/// A row of `ipvsadm -L -n -c --persistent-conn`.
impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listing = ConnectionListing { engine_data: true, ..ConnectionListing::default() };
        listing.row(self).fmt(f)
    }
}
