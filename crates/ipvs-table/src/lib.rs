//! A table of Linux IPVS, the kernel's load balancer, as a value and as text.
//!
//! Pure like [`ipvs_packet`], on which it stands: no I/O, no clock, no unsafe code. Whoever plans,
//! compares or prints a table can therefore be tested without a kernel.
//!
//! ```toml
//! [dependencies]
//! ipvs-table = "0.1"
//! ```
//!
//! ```
//! use ipvs_table::Rules;
//!
//! fn main() -> Result<(), ipvs_table::Mistakes> {
//!     let rules: Rules = "-A -t 10.0.0.185:80 -s wrr\n-a -t 10.0.0.185:80 -r 172.17.0.3:80 -m\n".parse()?;
//!     print!("{rules}");
//!     Ok(())
//! }
//! ```
//!
//! Values:
//!
//! - [`Snapshot`]: every service with its destinations. `ipvs-client` reads them from the kernel;
//!   anybody can make one.
//! - [`Differences`]: what differs between two snapshots, and the traffic between them.
//! - [`pairs`]: what two tables have under each key, for everybody else who compares.
//! - [`ServiceChanges`] and [`DestinationChanges`]: what differs between two settings, in words.
//! - [`Connection`]: one entry of the connection table.
//!
//! The text of ipvsadm 1.31, the standard tool, read and written:
//!
//! - [`Command`]: everything that it can be told by a command line. [`CommandLine`]: a request as
//!   the command line that makes it.
//! - [`Command::options`]: every option with what it is for, and [`Command::parse_with`], for programs
//!   that have more options.
//! - [`Rules`]: files of `ipvsadm -S` and `-R`.
//! - [`Listing`], [`ConnectionListing`], [`TimeoutListing`], [`DaemonListing`]: what `ipvsadm -L`
//!   prints.
//! - [`Mistakes`]: everything that is wrong with a text, each with its place.
//! - [`Names`]: names for hosts and services, looked up by the caller.
//!
//! # Features
//!
//! - `serde`: readable forms, and whole tables as documents that people write
//!   ([`TableDocument`](https://docs.rs/ipvs-table/latest/ipvs_table/struct.TableDocument.html): YAML,
//!   JSON, TOML). Of values the fields are those of the types, and what they hold is in the forms of
//!   [`ipvs_packet`]: a snapshot is `{"services": [{"entry": ..., "destinations": [...]}]}` with
//!   `uncertain` keys if there are any, a change of the table `{"service_added": ...}`. Times are
//!   seconds. A connection's state is its name, and the data of a persistence engine are text with
//!   escapes as in Rust (`\xff`, `\\`). A command is its line, and rules are a list of lines. Fields
//!   that do not exist are refused, and so are two entries with one key.

#![forbid(unsafe_code)]
// Where the pages of other crates link to, if they are built alone.
#![doc(html_root_url = "https://docs.rs/ipvs-table/latest")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod changes;
mod command;
mod comparison;
mod connection;
#[doc = include_str!("design.md")]
pub mod design {}
mod differences;
#[cfg(feature = "serde")]
mod document;
mod listing;
mod mistake;
mod names;
mod options;
mod rules;
#[cfg(feature = "serde")]
mod serialize;
mod settings;
mod snapshot;
mod words;

/// The messages under this crate: all of [`ipvs_packet`].
// A module, not another name of the crate: so the compiler names a type by this path in its errors.
pub mod packet {
    #[doc(no_inline)]
    pub use ipvs_packet::*;
}

#[cfg(feature = "serde")]
pub use crate::document::{RealServerDocument, ServiceDocument, TableDocument, UncheckedDocument};
pub use crate::{
    changes::{DestinationChanges, ServiceChanges},
    command::{Command, CommandLine, ListOptions, Listed, OwnOption, ParsedCommand},
    comparison::{Keyed, Pair, pairs},
    connection::{Connection, ConnectionOrigin, ConnectionState, EngineData, MalformedConnection},
    differences::{Activity, Differences, TableChange, Traffic},
    listing::{ConnectionListing, DaemonListing, Listing, TimeoutListing},
    mistake::{Mistake, Mistakes, Place},
    names::{Names, Numeric},
    options::{CommandOption, Completion, OptionGroup, OptionValue},
    rules::{Rule, Rules},
    snapshot::{ServiceSnapshot, Snapshot},
};

/// The programs in the README, which have to compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// How many cases a property is tried with; under Miri, which is some thousand times slower, few.
#[cfg(test)]
fn cases(number: u32) -> proptest::test_runner::Config {
    proptest::test_runner::Config::with_cases(if cfg!(miri) { 2 } else { number })
}
