//! What is listed, as text and as JSON.

use std::{cell::Cell, fmt::Write as _, io::Write as _, thread};

use ipvs_table::{
    ConnectionListing, DaemonListing, ListOptions, Listed, Listing, Names, Numeric, Rules,
    ServiceSnapshot, Snapshot, TableDocument, TimeoutListing,
};
use lvs::client::{Connections, Error, ErrorKind, List, blocking::Client, packet::Unreadable};
use serde::{
    Serialize, Serializer,
    ser::{Error as _, SerializeSeq as _},
};

use crate::{
    failure::{FAILED, Failure},
    options::Invocation,
    output::Console,
};

/// `-L`, once or again and again.
pub(crate) fn list(
    client: &Client,
    options: &ListOptions,
    invocation: &Invocation,
    names: &dyn Names,
    console: &Console<'_>,
) -> Result<(), Failure> {
    let once = |in_one_line| match invocation.json {
        true => list_json(client, options, in_one_line, console).map_err(Failure::of_listing),
        false => list_text(client, options, names, console),
    };
    let Some(interval) = invocation.watch else { return once(false) };
    let clear = !invocation.json && console.out_is_terminal;
    loop {
        if clear {
            // Home, and whatever is below goes.
            console.print(&"\x1b[H\x1b[J")?;
        }
        once(true)?;
        thread::sleep(interval);
    }
}

pub(crate) fn list_text(
    client: &Client,
    options: &ListOptions,
    names: &dyn Names,
    console: &Console<'_>,
) -> Result<(), Failure> {
    write_text(client, options, names, console).map_err(Failure::of_listing)
}

fn write_text(
    client: &Client,
    options: &ListOptions,
    names: &dyn Names,
    console: &Console<'_>,
) -> Result<(), Failure> {
    match options.listed {
        Listed::Table if options.sorted => {
            let info = client.info()?;
            let snapshot = snapshot(client, console)?;
            console.print(&Listing::of_table(info, &snapshot).options(options).names(names))?;
            read_whole(snapshot.unreadable.values().flatten())
        }
        Listed::Table => {
            let info = client.info()?;
            let mut services = Vec::new();
            let (entries, mut unreadable) = client.services()?.apart();
            for entry in entries {
                match client.destinations(entry.service.key()).map(List::apart) {
                    Ok((destinations, rest)) => {
                        services.push((entry, destinations));
                        unreadable.extend(rest);
                    }
                    // It went in the meantime.
                    Err(error) if error.kind() == ErrorKind::ServiceNotFound => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let services = services.iter().map(|(entry, servers)| (entry, &servers[..]));
            console.print(&Listing::unsorted(info, services).options(options).names(names))?;
            read_whole(&unreadable)
        }
        Listed::Service(key) => {
            let entry = client.service(&key)?;
            let (destinations, unreadable) = client.destinations(&key)?.apart();
            if options.sorted {
                let service = ServiceSnapshot::new(entry, destinations);
                console.print(&Listing::of_service(&service).options(options).names(names))?;
            } else {
                let listing = Listing::unsorted_service(&entry, &destinations);
                console.print(&listing.options(options).names(names))?;
            }
            read_whole(&unreadable)
        }
        Listed::Connections => {
            let connections = client.connections()?;
            let listing = ConnectionListing::default().names(names).options(options);
            console.print_pieces(|output| {
                writeln!(output, "{}", listing.title())?;
                for connection in connections {
                    writeln!(output, "{}", listing.row(&connection?))?;
                }
                Ok(())
            })
        }
        Listed::Timeouts => console.print(&TimeoutListing(client.timeouts()?)),
        Listed::Daemons => {
            let (daemons, unreadable) = client.daemons()?.apart();
            console.print(&DaemonListing(&daemons))?;
            read_whole(&unreadable)
        }
        _ => Err(Failure::new(FAILED, "this cannot be listed")),
    }
}

fn list_json(
    client: &Client,
    options: &ListOptions,
    in_one_line: bool,
    console: &Console<'_>,
) -> Result<(), Failure> {
    match options.listed {
        Listed::Table => {
            let info = client.info()?;
            let table = snapshot(client, console)?;
            console.print_json(&Listing::of_table(info, &table), in_one_line)?;
            read_whole(table.unreadable.values().flatten())
        }
        Listed::Service(key) => {
            let entry = client.service(&key)?;
            let (destinations, unreadable) = client.destinations(&key)?.apart();
            let service = ServiceSnapshot::new(entry, destinations);
            console.print_json(&Listing::of_service(&service), in_one_line)?;
            read_whole(&unreadable)
        }
        Listed::Connections => {
            let connections =
                AsRead { left: Cell::new(Some(client.connections()?)), error: Cell::new(None) };
            let listing = ConnectionList { connections };
            let printed = console.print_json(&listing, in_one_line);
            // What could not be read is not the fault of the standard output.
            listing.connections.error.take().map_or(printed, |error| Err(error.into()))
        }
        Listed::Timeouts => console.print_json(&TimeoutListing(client.timeouts()?), in_one_line),
        Listed::Daemons => {
            let (daemons, unreadable) = client.daemons()?.apart();
            console.print_json(&DaemonListing(&daemons), in_one_line)?;
            read_whole(&unreadable)
        }
        _ => Err(Failure::new(FAILED, "this cannot be listed")),
    }
}

/// `-S`.
pub(crate) fn save(
    client: &Client,
    numeric: bool,
    json: bool,
    names: &dyn Names,
    console: &Console<'_>,
) -> Result<(), Failure> {
    let snapshot = snapshot(client, console)?;
    if json {
        console.print_json(&TableDocument::from(&snapshot), false)?;
    } else {
        let rules = Rules::from(&snapshot);
        console.print(&rules.saved(if numeric { &Numeric } else { names }))?;
    }
    read_whole(snapshot.unreadable.values().flatten())
}

/// Fails where something could not be read, and so was not printed with the rest.
fn read_whole<'a>(unreadable: impl IntoIterator<Item = &'a Unreadable>) -> Result<(), Failure> {
    let lines: Vec<String> = unreadable.into_iter().map(ToString::to_string).collect();
    match lines.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(FAILED, lines.join("\n"))),
    }
}

/// The table; what it is not sure of is said.
fn snapshot(client: &Client, console: &Console<'_>) -> Result<Snapshot, Failure> {
    let snapshot = client.snapshot()?;
    if !snapshot.is_certain() {
        let mut text = "another program changed these services while they were read; they may be \
                        incomplete:"
            .to_owned();
        for key in &snapshot.uncertain {
            // Into a string, which does not fail.
            let _ = write!(text, " {key}");
        }
        console.say(&text);
    }
    Ok(snapshot)
}

#[derive(Serialize)]
struct ConnectionList {
    connections: AsRead,
}

/// Connections, printed as they are read, since there may be millions.
struct AsRead {
    left: Cell<Option<Connections>>,
    /// Why not all could be read.
    error: Cell<Option<Error>>,
}

impl Serialize for AsRead {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for connection in self.left.take().into_iter().flatten() {
            let connection = connection.map_err(|error| {
                let custom = S::Error::custom(&error);
                self.error.set(Some(error));
                custom
            })?;
            list.serialize_element(&connection)?;
        }
        list.end()
    }
}
