#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod apply;
#[doc = include_str!("design.md")]
pub mod design {}
mod drain;
mod failure;
mod help;
mod list;
mod names;
mod namespace;
mod options;
mod output;
mod own;
mod repeat;
mod restore;
mod shell;

use std::{
    ffi::OsString,
    fmt,
    io::{self, Read, Write},
    process::ExitCode,
};

use lvs::client::{Error, blocking::Client, packet::Request};

use ipvs_table::Command;

use crate::{
    failure::{FAILED, Failure, UNUSABLE},
    names::System,
    options::{Invocation, Task},
    output::Console,
};

/// With which status the program ends: ipvsadm 1.31's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExitStatus(u8);

impl ExitStatus {
    /// 0 to 255.
    pub fn code(self) -> u8 {
        self.0
    }

    /// Whether everything was done, status 0.
    pub fn is_success(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit status {}", self.0)
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.0)
    }
}

/// Does what the arguments say, without the program's name, as the process does: with its standard
/// streams.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitStatus {
    let (mut input, mut out, mut err) = (io::stdin().lock(), io::stdout().lock(), io::stderr());
    run_on(&Console::standard(&mut input, &mut out, &mut err), arguments)
}

/// Does what the arguments say, without the program's name. Results are written to `out`, and what
/// went wrong to `err`. What reads the standard input (`-R`, `--apply -`, `--diff -`) reads the
/// process's.
pub fn run_to(
    arguments: impl IntoIterator<Item = OsString>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> ExitStatus {
    run_with(arguments, &mut io::stdin(), out, err)
}

/// The same with an input in the place of the process's.
pub fn run_with(
    arguments: impl IntoIterator<Item = OsString>,
    input: &mut dyn Read,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> ExitStatus {
    run_on(&Console::new(input, out, err), arguments)
}

fn run_on(console: &Console<'_>, arguments: impl IntoIterator<Item = OsString>) -> ExitStatus {
    let names = System::default();
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let texts: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
    let result = match arguments.iter().find(|argument| argument.to_str().is_none()) {
        None => Invocation::parse(&texts, &names, console)
            .and_then(|invocation| perform(&invocation, &names, console)),
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
        console.say(&text);
    }
    ExitStatus(match console.flush() {
        Err(failure) if status == 0 => failure.into_parts().0,
        _ => status,
    })
}

/// Returns the exit status.
fn perform(invocation: &Invocation, names: &System, console: &Console<'_>) -> Result<u8, Failure> {
    let connect = || namespace::connect(invocation.namespace.as_deref());
    match &invocation.task {
        Task::Command(command) => match command {
            Command::Help => console.print(&help::usage())?,
            Command::Version => console.print(&help::version())?,
            Command::Restore => return restore::restore(invocation, &connect, names, console),
            Command::Save { numeric } => {
                list::save(&connect()?, *numeric, invocation.json, names, console)?;
            }
            Command::List(options) => {
                list::list(&connect()?, options, invocation, names, console)?;
            }
            other => write(&connect()?, other)?,
        },
        Task::Apply { file, policy, mode } => {
            return apply::apply(&connect, file, policy, *mode, names, console);
        }
        Task::Drain { service, server, grace } => {
            drain::one(&connect()?, *service, *server, *grace, console)?;
        }
        Task::Completions(shell) => console.print(&shell.completions())?,
        Task::ManualPage => console.print(&help::manual_page())?,
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
