//! Arguments and lines, read as commands.

mod address;
mod dash;
mod draft;
mod list;
mod real_server;
mod service;

pub(crate) use self::service::scheduler_flag;

use super::{Command, ListOptions, Listed, ParsedCommand};
use crate::{
    CommandOption, Mistake, Mistakes, Names, Place, Rule,
    options::{Given, Opt, Scanner, Typed, Verb, quoted},
    words::split,
};

use self::{dash::odd_dash, draft::Draft};

/// [`Command::parse`], with warnings.
pub(super) fn read<S: AsRef<str>>(
    arguments: &[S],
    names: &dyn Names,
) -> Result<(Command, Vec<Mistake>), Mistakes> {
    let ParsedCommand { command, warnings, .. } = read_with(arguments, &[], names)?;
    Ok((command.unwrap_or(Command::List(ListOptions::new(Listed::Table))), warnings))
}

/// [`Command::parse_with`].
pub(super) fn read_with<S: AsRef<str>>(
    arguments: &[S],
    own: &[CommandOption],
    names: &dyn Names,
) -> Result<ParsedCommand, Mistakes> {
    let mut scanner = Scanner::new(arguments, own);
    let mut before = Vec::new();
    let said = loop {
        match scanner.option()? {
            Some(Given { option: Opt::Verb(verb), typed, value, .. }) => {
                break Some((verb, typed, value));
            }
            Some(given) if matches!(given.option, Opt::Own(_)) => before.push(given),
            Some(Given { typed, place, .. }) => {
                let mistake = odd_dash(&scanner.others).unwrap_or_else(|| {
                    let message = format!("{typed} must follow a command such as -A or -L");
                    Mistake::usage(place, message)
                });
                return Err(mistake.into());
            }
            None if before.is_empty() && !arguments.is_empty() => {
                let mistake = odd_dash(&scanner.others).unwrap_or_else(|| {
                    let missing = "a command such as -A or -L is missing";
                    match scanner.others.first() {
                        Some(word) => {
                            let message =
                                format!("{} is not an option; {missing}", quoted(word.text));
                            Mistake::usage(word.place.clone(), message)
                        }
                        None => Mistake::usage(scanner.end(), missing),
                    }
                });
                return Err(mistake.into());
            }
            None => break None,
        }
    };
    let is_said = said.is_some();
    let (verb, typed, value) = said.unwrap_or((Verb::List, Typed::Short('L'), None));
    let mut draft = Draft::new(verb, typed, names);
    for given in before {
        draft.add(given, &mut scanner);
    }
    let command = match verb {
        Verb::Help => Some(Command::Help),
        Verb::Version => Some(Command::Version),
        _ => match draft.scan(&mut scanner) {
            Ok(()) => draft.command(value, &scanner),
            Err(mistake) => {
                draft.mistakes.push(mistake);
                None
            }
        },
    };
    let own = draft.own();
    Mistakes::none(draft.mistakes, ())?;
    let warnings = draft.warnings;
    // What is not there has left a mistake.
    let command =
        command.ok_or_else(|| Mistake::new(scanner.end(), "this command line cannot be read"))?;
    Ok(ParsedCommand { command: is_said.then_some(command), own, warnings })
}

/// Reads a line with its number; `None` if there is nothing but white space and a comment.
pub(crate) fn read_line(
    number: usize,
    line: &str,
    names: &dyn Names,
) -> Result<Option<Rule>, Mistakes> {
    read_behind(&[], number, line, names)
}

/// Reads a line behind some arguments that it does not say itself.
pub(super) fn read_behind(
    before: &[&str],
    number: usize,
    line: &str,
    names: &dyn Names,
) -> Result<Option<Rule>, Mistakes> {
    let place = |offset: usize| {
        let before = line.get(..offset).unwrap_or(line);
        Place::Line { line: number, column: before.chars().count() + 1 }
    };
    let mut words = split(line).map_err(|unclosed| {
        Mistake::new(place(unclosed.0), "a quotation mark or backslash has nothing behind it")
    })?;
    if words.first().is_some_and(|word| word.text.rsplit('/').next() == Some("ipvsadm")) {
        words.remove(0);
        if words.is_empty() {
            // As ipvsadm -R has it.
            return Ok(None);
        }
    }
    if words.is_empty() && before.is_empty() {
        return Ok(None);
    }
    let arguments: Vec<&str> =
        before.iter().copied().chain(words.iter().map(|word| &*word.text)).collect();
    let in_line = |mistake: Mistake| {
        let offset = match mistake.place() {
            Place::Argument { number, offset } => match words.get(number - 1 - before.len()) {
                Some(word) => word.start + offset,
                None => line.trim_end().len(),
            },
            _ => 0,
        };
        mistake.moved_to(place(offset))
    };
    match read(&arguments, names) {
        Ok((command, warnings)) => {
            let warnings = warnings.into_iter().map(in_line).collect();
            Ok(Some(Rule { line: number, command, warnings }))
        }
        Err(mistakes) => Err(mistakes.map(in_line)),
    }
}
