//! A director of IPVS, the kernel's load balancer: it checks real servers, and keeps the table, the virtual
//! addresses and the kernel's settings as one file says.
//!
//! The program is in the README; the page [`design`] says how it works inside. The library is for those who read or
//! write its file: [`Config`] checks one, [`schema`] is its language as JSON Schema, and [`run`] is the program.
//!
//! ```toml
//! [dependencies]
//! lvs-director = "0.1"
//! ```
//!
//! ```no_run
//! use lvs_director::Config;
//!
//! fn main() -> Result<(), lvs_director::LoadError> {
//!     Config::load("/etc/lvs-director.yaml".as_ref())?;
//!     println!("no mistakes");
//!     Ok(())
//! }
//! ```

#![forbid(unsafe_code)]

mod config;
mod control;
#[doc = include_str!("design.md")]
pub mod design {}
mod director;
mod follow;
mod hooks;
mod host;
mod http;
mod import;
mod notify;
mod options;
mod program;
mod records;
mod runner;
mod status;

pub use crate::{
    config::{Config, LoadError, Mistake, Mistakes, schema},
    import::{Imported, Origin, import},
    program::run,
};
