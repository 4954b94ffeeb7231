//! The rules of nftables, written by the program `nft`.

use std::{
    io::{self, Read as _, Write as _},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use netns_link::NetNs;

use super::nfnetlink::Nfnetlink;
use crate::{
    node::NoRules,
    rules::{RuleSet, RuleWrite, Rules, TABLE},
};

/// How long nft may take. Tens of thousands of elements take seconds.
const NFT_LIMIT: Duration = Duration::from_secs(60);

/// A socket to the kernel's nftables, if there are any.
pub(super) fn kernel(namespace: &NetNs) -> Result<Nfnetlink, NoRules> {
    let failed =
        |error: io::Error| NoRules { reason: format!("the kernel: {error}"), may_be_there: false };
    let mut socket = Nfnetlink::open(namespace).map_err(failed)?;
    socket.generation().map_err(failed)?;
    Ok(socket)
}

/// Whether the program is there, and takes such rules with the kernel. What is asked is a table with nothing in
/// it: nothing that is configured can spoil the answer.
pub(super) fn check(namespace: &NetNs) -> Result<(), NoRules> {
    let empty = RuleWrite::Whole(&RuleSet::new(Rules::default())).to_string();
    match nft(namespace, &["--check", "-f", "-"], &empty) {
        Ok(_) => Ok(()),
        Err(error) => {
            let may_be_there = !is_not_supported(&error);
            Err(NoRules { reason: error.to_string(), may_be_there })
        }
    }
}

/// Whether the kernel has no tables of both families, as nft says it.
pub(super) fn is_not_supported(error: &io::Error) -> bool {
    error.to_string().contains("Operation not supported")
}

/// Carries out commands in one step.
pub(super) fn write(namespace: &NetNs, text: &str) -> io::Result<()> {
    nft(namespace, &["-f", "-"], text).map(drop)
}

/// The table, as nft prints it; nothing if it is not there.
pub(super) fn list(namespace: &NetNs) -> io::Result<String> {
    // With protocols by name and ports by number, which is how nft prints them by default.
    let words: Vec<_> = ["list", "table"].into_iter().chain(TABLE.split(' ')).collect();
    match nft(namespace, &words, "") {
        Err(error) if error.to_string().contains("No such file or directory") => Ok(String::new()),
        result => result,
    }
}

/// Takes the table away.
pub(super) fn remove(namespace: &NetNs) -> io::Result<()> {
    write(namespace, &format!("table {TABLE}\ndelete table {TABLE}\n"))
}

/// Runs `nft` and returns what it prints.
fn nft(namespace: &NetNs, words: &[&str], text: &str) -> io::Result<String> {
    let mut command = Command::new("nft");
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = namespace.spawn(&mut command).map_err(io::Error::from)?;
    let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        scope.spawn(move || {
            // nft that ends before it has read all says why itself.
            let _ = input.map(|mut input| input.write_all(text.as_bytes()));
        });
        let printed = scope.spawn(move || {
            let mut printed = Vec::new();
            let _ = output.map(|mut output| output.read_to_end(&mut printed));
            printed
        });
        let said = scope.spawn(move || {
            let mut said = Vec::new();
            let _ = errors.map(|mut errors| errors.read_to_end(&mut said));
            said
        });
        let status = end(&mut child, NFT_LIMIT)?;
        let said = said.join().unwrap_or_default();
        let Some(status) = status else {
            let reason = format!("nft did not end within {} s", NFT_LIMIT.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
        };
        if status.success() {
            let printed = printed.join().unwrap_or_default();
            return Ok(String::from_utf8_lossy(&printed).into_owned());
        }
        let said = String::from_utf8_lossy(&said);
        let first = said.lines().next().unwrap_or("it says nothing");
        Err(io::Error::other(format!("nft: {status}: {first}")))
    })
}

/// Waits until a process has ended; one that does not in time is killed, and `None` returned.
fn end(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begin.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_does_not_end_is_ended() {
        let spawn = |seconds: &str| Command::new("sleep").arg(seconds).spawn().unwrap();
        let begin = Instant::now();
        assert!(end(&mut spawn("0"), Duration::from_secs(20)).unwrap().unwrap().success());
        assert_eq!(end(&mut spawn("60"), Duration::from_millis(50)).unwrap(), None);
        assert!(begin.elapsed() < Duration::from_secs(30));
    }
}
