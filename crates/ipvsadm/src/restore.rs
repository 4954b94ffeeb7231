//! `-R`: the lines of the standard input.

use std::{
    env,
    ffi::OsStr,
    fmt::Write as _,
    io::{self, Write as _},
    time::{Duration, Instant},
};

use ipvs_table::{Command, Rule, Rules};
use lvs::client::{BatchOptions, Error, ErrorKind, blocking::Client, packet::Request};

use crate::{
    failure::{Failure, REFUSED, UNUSABLE},
    list,
    names::System,
    options::Invocation,
    output::Console,
    repeat::{self, There},
    send,
};

/// The environment variable that does what `--keep-going` does, for scripts that call `ipvsadm -R`.
const KEEP_GOING: &str = "IPVSADM_KEEP_GOING";

/// From when on a batch shows its progress.
const LONG: Duration = Duration::from_millis(500);

/// Returns the exit status.
pub(crate) fn restore(
    invocation: &Invocation,
    connect: &dyn Fn() -> Result<Client, Failure>,
    names: &System,
    console: &Console<'_>,
) -> Result<u8, Failure> {
    let text = console.read().map_err(|error| {
        Failure::new(UNUSABLE, format!("the standard input cannot be read: {error}"))
    })?;
    // Editors of Windows call it Unicode. ipvsadm finds no option in it.
    if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
        return Err(Failure::new(REFUSED, "the standard input is UTF-16; save the file as UTF-8"));
    }
    // What is no UTF-8 is a mistake in its line.
    let text = String::from_utf8_lossy(&text);
    let is_set = is_set(env::var_os(KEEP_GOING).as_deref());
    if invocation.keep_going || is_set && !invocation.dry_run {
        let why = if invocation.keep_going { "" } else { " (IPVSADM_KEEP_GOING is set)" };
        return line_by_line(&connect()?, &text, names, why, console);
    }
    let rules = Rules::parse(&text, names).map_err(|mistakes| {
        let (status, text) = Failure::from(mistakes).into_parts();
        let note = "nothing was changed; --keep-going, or IPVSADM_KEEP_GOING=1 in the environment, \
                    runs the other lines";
        Failure::new(status, format!("{text}\n{note}"))
    })?;
    for warning in rules.iter().flat_map(|rule| &rule.warnings) {
        console.say(&format!("warning: {warning}"));
    }
    if invocation.dry_run {
        return Ok(0);
    }
    whole(&connect()?, rules, console)?;
    Ok(0)
}

/// All rules as one batch.
fn whole(client: &Client, rules: Rules, console: &Console<'_>) -> Result<(), Failure> {
    let lines: Vec<usize> = rules.iter().map(|rule| rule.line).collect();
    // Every rule is a request.
    let requests: Vec<Request> =
        rules.into_iter().filter_map(|rule| rule.command.into_request()).collect();
    let total = requests.len();
    let mut progress = Progress::new(total, console.err_is_terminal);
    let mut report = |done| progress.report(done);
    let outcomes = client.batch_with(&requests, BatchOptions::new().progress(&mut report));
    progress.end();
    let mut there = repeat::judge(client, &requests, outcomes.iter());
    let (mut text, mut status, mut done) = (String::new(), REFUSED, 0);
    let (mut repeated, mut not_sent) = (Repeated::default(), None);
    for (number, (line, outcome)) in lines.into_iter().zip(outcomes).enumerate() {
        let error = match (outcome, there.remove(&number)) {
            (Ok(()), _) => {
                done += 1;
                continue;
            }
            (Err(_), Some(There::Same)) => {
                done += 1;
                repeated.add(line);
                continue;
            }
            (Err(error), _) if error.kind() == ErrorKind::NotSent => {
                not_sent.get_or_insert(line);
                continue;
            }
            (Err(error), there) => refused(error, there),
        };
        if error.status() == UNUSABLE {
            status = UNUSABLE;
        }
        // Into a string, which does not fail.
        let _ = writeln!(text, "line {line}: {}", error.into_parts().1);
    }
    repeated.say(console);
    if done == total {
        return Ok(());
    }
    if let Some(line) = not_sent {
        let _ = writeln!(text, "lines from {line} on were not tried");
    }
    let _ = write!(text, "{done} of {total} lines were carried out");
    Err(Failure::new(status, text))
}

/// What the kernel refused, with what is there instead, if that is why.
fn refused(error: Error, there: Option<There>) -> Failure {
    let failure = Failure::from(error);
    match there {
        Some(There::Other(what)) => {
            let (status, text) = failure.into_parts();
            Failure::new(status, format!("{text}, {what}"))
        }
        _ => failure,
    }
}

/// The lines that add what is there already.
#[derive(Default)]
struct Repeated {
    first: Option<usize>,
    count: usize,
}

impl Repeated {
    fn add(&mut self, line: usize) {
        self.first.get_or_insert(line);
        self.count += 1;
    }

    /// It may be a slip.
    fn say(&self, console: &Console<'_>) {
        match (self.first, self.count) {
            (None, _) => {}
            (Some(line), 1) => console.say(&format!("line {line} adds what is there already")),
            (Some(line), count) => {
                console
                    .say(&format!("{count} lines, from line {line} on, add what is there already"));
            }
        }
    }
}

/// Each line for itself, those that show something too. The status is the original's, which ends at
/// a mistake of that status, and otherwise returns what came of the last line.
fn line_by_line(
    client: &Client,
    text: &str,
    names: &System,
    why: &str,
    console: &Console<'_>,
) -> Result<u8, Failure> {
    let (mut done, mut failed, mut ended, mut last) = (0, 0, None, 0);
    let mut repeated = Repeated::default();
    for rule in Rules::lines(text, names) {
        let outcome = rule.map_err(Failure::from).and_then(|rule| {
            let Rule { line, command, warnings, .. } = rule;
            for warning in &warnings {
                console.say(&format!("warning: {warning}"));
            }
            let result = match &command {
                Command::List(options) => list::list_text(client, options, names, console),
                Command::Save { numeric } => list::save(client, *numeric, false, names, console),
                other => match other.request() {
                    Some(request) => write(client, request, || repeated.add(line)),
                    None => {
                        let text = format!("{command} cannot stand in a file");
                        Err(Failure::new(UNUSABLE, text))
                    }
                },
            };
            result.map_err(|failure| {
                let (status, text) = failure.into_parts();
                Failure::new(
                    status,
                    if text.is_empty() { text } else { format!("line {line}: {text}") },
                )
            })
        });
        match outcome {
            Ok(()) => {
                done += 1;
                last = 0;
            }
            Err(failure) => {
                failed += 1;
                let (status, text) = failure.into_parts();
                last = status;
                if status == UNUSABLE {
                    ended.get_or_insert(status);
                }
                console.say(&text);
            }
        }
    }
    repeated.say(console);
    if failed > 0 {
        console.say(&format!("{done} of {} lines were carried out{why}", done + failed));
    }
    Ok(ended.unwrap_or(last))
}

/// Carries out a line that may repeat what is so.
fn write(client: &Client, request: Request, repeats: impl FnOnce()) -> Result<(), Failure> {
    let outcome = send(client, &request);
    let there = repeat::judge(client, &[request], std::iter::once(&outcome)).remove(&0);
    match (outcome, there) {
        (Err(_), Some(There::Same)) => {
            repeats();
            Ok(())
        }
        (outcome, there) => outcome.map_err(|error| refused(error, there)),
    }
}

/// Whether a variable says yes.
fn is_set(value: Option<&OsStr>) -> bool {
    value.is_some_and(|value| !value.is_empty() && value != "0")
}

/// A progress bar, once it takes long and where a person looks.
struct Progress {
    total: usize,
    begun: Instant,
    is_seen: bool,
    is_shown: bool,
}

impl Progress {
    fn new(total: usize, is_seen: bool) -> Self {
        Self { total, begun: Instant::now(), is_seen, is_shown: false }
    }

    fn report(&mut self, done: usize) {
        let elapsed = self.begun.elapsed();
        if !self.is_seen || elapsed < LONG {
            return;
        }
        self.is_shown = true;
        // From the beginning of the line, and whatever stood there goes.
        show(&format!("\r{}\x1b[K", bar(done, self.total, elapsed)));
    }

    fn end(&self) {
        if self.is_shown {
            show("\r\x1b[K");
        }
    }
}

/// How far it is, and how long the rest takes if it goes on like that.
fn bar(done: usize, total: usize, elapsed: Duration) -> String {
    const WIDTH: usize = 40;
    let filled = WIDTH * done / total.max(1);
    let rest = (total - done.min(total)) as u128;
    let left = elapsed.as_millis() * rest / (done.max(1) as u128);
    let (full, empty) = ("#".repeat(filled), "-".repeat(WIDTH.saturating_sub(filled)));
    format!("[{full}{empty}] {done} of {total} lines, {} s left", left.div_ceil(1000))
}

fn show(text: &str) {
    // The terminal is the process's. There is nobody to tell if this fails.
    let _ = io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_says_yes_or_no() {
        for (value, expected) in [
            (None, false),
            (Some(""), false),
            (Some("0"), false),
            (Some("1"), true),
            (Some("yes"), true),
        ] {
            assert_eq!(is_set(value.map(OsStr::new)), expected, "{value:?}");
        }
    }

    #[test]
    fn a_bar_says_how_far_it_is_and_how_long_it_takes() {
        let shown = |done, millis| bar(done, 5500, Duration::from_millis(millis));
        let empty = "-".repeat(40);
        assert_eq!(shown(0, 500), format!("[{empty}] 0 of 5500 lines, 2750 s left"));
        let half = format!("[{}{}]", "#".repeat(20), "-".repeat(20));
        assert_eq!(shown(2750, 1500), format!("{half} 2750 of 5500 lines, 2 s left"));
        let full = "#".repeat(40);
        assert_eq!(shown(5500, 3000), format!("[{full}] 5500 of 5500 lines, 0 s left"));
        assert!(bar(0, 0, Duration::ZERO).ends_with("0 of 0 lines, 0 s left"));
    }
}
