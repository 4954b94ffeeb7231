#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod apply;
mod drain;
mod failure;
mod help;
mod list;
mod names;
mod namespace;
mod options;
mod output;
mod repeat;
mod restore;
mod shell;

use std::{ffi::OsString, io::Write as _};

use lvs::client::{Error, blocking::Client, packet::Request};

use ipvs_table::Command;

use crate::{
    failure::{FAILED, Failure, UNUSABLE},
    names::System,
    options::{Invocation, Task},
    output::{print, say},
};

/// The one of musl takes more time than all else of a long listing.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// Does what the arguments say, without the program's name, and returns the exit status. Results go
/// to the standard output, and what went wrong to the standard error.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let names = System::default();
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let texts: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
    let result = match arguments.iter().find(|argument| argument.to_str().is_none()) {
        None => {
            Invocation::parse(&texts, &names).and_then(|invocation| perform(&invocation, &names))
        }
        Some(argument) => {
            let status = if options::only_looks(&texts) { FAILED } else { UNUSABLE };
            Err(Failure::new(status, format!("argument {argument:?} is not UTF-8")))
        }
    };
    let (status, text) = match result {
        Ok(status) => (status, String::new()),
        Err(failure) => failure.into_parts(),
    };
    if !text.is_empty() {
        say(&text);
    }
    // What was printed in vain is noticed here at the latest.
    match std::io::stdout().flush().map_err(Failure::from) {
        Err(failure) if status == 0 => failure.into_parts().0,
        _ => status,
    }
}

/// Returns the exit status.
fn perform(invocation: &Invocation, names: &System) -> Result<u8, Failure> {
    let connect = || namespace::connect(invocation.namespace.as_deref());
    match &invocation.task {
        Task::Command(command) => match command {
            Command::Help => print(&help::usage())?,
            Command::Version => print(&help::version())?,
            Command::Restore => return restore::restore(invocation, &connect, names),
            Command::Save { numeric } => list::save(&connect()?, *numeric, invocation.json, names)?,
            Command::List(options) => list::list(&connect()?, options, invocation, names)?,
            other => write(&connect()?, other)?,
        },
        Task::Apply { file, policy, mode } => {
            return apply::apply(&connect, file, policy, *mode, names);
        }
        Task::Drain { service, server, grace } => {
            drain::one(&connect()?, *service, *server, *grace)?;
        }
        Task::Completions(shell) => print(&shell.completions())?,
        Task::ManualPage => print(&help::manual_page())?,
    }
    Ok(0)
}

/// Carries out a command that changes something.
fn write(client: &Client, command: &Command) -> Result<(), Failure> {
    match command.request() {
        Some(request) => Ok(send(client, &request)?),
        None => Err(Failure::new(UNUSABLE, format!("{command} changes nothing"))),
    }
}

fn send(client: &Client, request: &Request) -> Result<(), Error> {
    match request {
        // Not every kernel acknowledges this one, which the client knows how to find out.
        Request::DeleteDaemon(role) => client.stop_daemon(*role),
        request => client.batch(std::slice::from_ref(request)).into_result(),
    }
}
