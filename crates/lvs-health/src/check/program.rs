//! A program that checks.

use std::{path::PathBuf, process::Stdio, time::Duration};

use lvs::client::packet::ServiceKey;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    runtime::Handle,
    time::timeout,
};

use super::{Failure, Good, Limit, Target, Way, beside::beside, failure::printable};
use crate::Outcome;

/// How much of a program's output is kept; the rest is read and forgotten.
const MOST: usize = 4096;

/// A program's exit status says whether the server is good: 0 is, any other is not. keepalived's
/// `MISC_CHECK`, ldirectord's `checktype=external`.
///
/// It runs with the rights and the environment of the caller, in a process group of its own, which is killed at
/// the time-out and when the program has ended: nothing that it started stays. The first line of its output
/// is the reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Program {
    /// The program, found as a shell would.
    pub path: PathBuf,
    /// Its arguments. `{address}` and `{port}` stand for the real server's; `{virtual_address}` and
    /// `{virtual_port}` for the service's, or its mark and nothing.
    pub args: Vec<String>,
    /// Whether exit status 2 and more set the weight: 2 is 0 %, 52 is 50 %, 102 and more 100 %. No by
    /// default. keepalived's `misc_dynamic`, whose numbers are weights, not percent.
    pub dynamic: bool,
}

impl Program {
    /// A program with these arguments.
    pub fn new(
        path: impl Into<PathBuf>,
        args: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self { path: path.into(), args: args.into_iter().map(Into::into).collect(), dynamic: false }
    }

    /// A program with the arguments that ldirectord gives: virtual address, virtual port, address, port.
    pub fn ldirectord(path: impl Into<PathBuf>) -> Self {
        Self::new(path, ["{virtual_address}", "{virtual_port}", "{address}", "{port}"])
    }

    pub(crate) async fn run(
        &self,
        way: Way<'_>,
        target: &Target,
        limit: Limit,
    ) -> Result<Good, Failure> {
        let mut command = Command::new(&self.path);
        command
            .args(self.args.iter().map(|arg| fill(arg, target)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let runtime = Handle::current();
        let started = way.inside(|| {
            let _context = runtime.enter();
            command.spawn()
        })?;
        let name = self.path.display().to_string();
        let mut child = started.map_err(|error| Failure::here(&name, &error))?;
        // Dropped before the child: its number is still the child's then.
        let group = Group::of(&child);
        let mut output = Output::new(child.stdout.take());
        let mut errors = Output::new(child.stderr.take());
        let ended = beside(read(&mut output, &mut errors), limit.within(&name, child.wait())).await;
        drop(group);
        if ended.is_ok() {
            // The ends of the pipes are near: nobody is left who could write.
            let _ = timeout(Duration::from_secs(1), read(&mut output, &mut errors)).await;
        }
        let status = ended?.map_err(|error| Failure::here(&name, &error))?;
        let said = output.first_line().or_else(|| errors.first_line());
        self.judge(status.code(), said, &status.to_string())
    }

    /// What an end says of the server.
    fn judge(
        &self,
        code: Option<i32>,
        said: Option<String>,
        status: &str,
    ) -> Result<Good, Failure> {
        let said = said.unwrap_or_else(|| status.to_owned());
        match code {
            Some(0) => Ok(Good::new(said)),
            Some(code @ 2..) if self.dynamic => {
                let percent = u8::try_from((code - 2).min(100)).unwrap_or(100);
                Ok(Good { wishes: vec![Outcome::Weight(percent)], ..Good::new(said) })
            }
            _ => Err(Failure::bad(said)),
        }
    }
}

/// A process group that is killed.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended by itself.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// Puts the addresses into an argument.
fn fill(arg: &str, target: &Target) -> String {
    let (address, port) = match target.service {
        Some(ServiceKey::Address { address, port, .. }) => (address.to_string(), port.to_string()),
        Some(ServiceKey::Mark { mark, .. }) => (mark.to_string(), String::new()),
        None => (String::new(), String::new()),
    };
    arg.replace("{virtual_address}", &address)
        .replace("{virtual_port}", &port)
        .replace("{address}", &target.server.ip().to_string())
        .replace("{port}", &target.server.port().to_string())
}

/// One of a program's outputs: read to its end, and only its beginning kept.
struct Output<R> {
    from: Option<R>,
    kept: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Output<R> {
    fn new(from: Option<R>) -> Self {
        Self { from, kept: Vec::new() }
    }

    /// It may be dropped and called again.
    async fn read(&mut self) {
        let mut piece = [0; 4096];
        while let Some(from) = &mut self.from {
            match from.read(&mut piece).await {
                Ok(read @ 1..) => {
                    let room = MOST.saturating_sub(self.kept.len());
                    self.kept.extend_from_slice(&piece[..read.min(room)]);
                }
                _ => self.from = None,
            }
        }
    }

    fn first_line(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.kept);
        text.lines().map(str::trim).find(|line| !line.is_empty()).map(printable)
    }
}

async fn read<A, B>(output: &mut Output<A>, errors: &mut Output<B>)
where
    A: AsyncRead + Unpin,
    B: AsyncRead + Unpin,
{
    beside(output.read(), errors.read()).await;
    output.read().await;
}
