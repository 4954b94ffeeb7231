//! What can be wrong with bytes ([`ParseError`]) and with values ([`InvalidValue`]).

use std::fmt;

use crate::{CommandNumber, number};

/// Why a message could not be read: the command, the attribute, its offset, and what is wrong with
/// it.
///
/// Its `Debug` is its text, for `fn main() -> Result`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ParseError {
    command: Option<CommandNumber>,
    space: Space,
    number: Option<u16>,
    offset: usize,
    problem: Problem,
}

impl ParseError {
    pub(crate) fn new(space: Space, number: Option<u16>, offset: usize, problem: Problem) -> Self {
        Self { command: None, space, number, offset, problem }
    }

    pub(crate) fn of_command(mut self, command: CommandNumber) -> Self {
        self.command = Some(command);
        self
    }

    /// The command number in the message's generic netlink header.
    pub fn command(&self) -> Option<CommandNumber> {
        self.command
    }

    /// The attribute's number within its nest; `None` if even that could not be read.
    pub fn attribute(&self) -> Option<u16> {
        self.number
    }

    /// The attribute's name as in `linux/ip_vs.h`, such as `IPVS_SVC_ATTR_PORT`.
    pub fn attribute_name(&self) -> Option<&'static str> {
        self.number.and_then(|number| self.space.attribute_name(number))
    }

    /// Where the attribute starts, in bytes from the start of the payload, which follows the
    /// generic netlink header. For a missing attribute, the end of the nest or message that lacks
    /// it.
    pub fn offset(&self) -> usize {
        self.offset
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(command) = self.command {
            write!(f, "IPVS message {command}: ")?;
        }
        match (self.attribute_name(), self.number) {
            (Some(name), _) => write!(f, "{name}")?,
            (None, Some(number)) => write!(f, "{} attribute {number}", self.space)?,
            (None, None) => write!(f, "{} attribute", self.space)?,
        }
        write!(f, " at byte {}: {}", self.offset, self.problem)
    }
}

impl fmt::Debug for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for ParseError {}

/// What is wrong with an attribute.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Problem {
    /// The attribute claims to be longer than the rest of its nest, or its header is cut off.
    Truncated { need: usize, have: usize },
    /// The value is shorter than its type.
    TooShort { need: usize, have: usize },
    /// A required attribute is missing.
    Missing,
    /// The value breaks this rule.
    Value(&'static str),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { need, have } => {
                write!(f, "truncated: {need} bytes are needed and {have} are left")
            }
            Self::TooShort { need, have } => {
                write!(f, "too short: {have} bytes where {need} are needed")
            }
            Self::Missing => f.write_str("missing"),
            Self::Value(rule) => f.write_str(rule),
        }
    }
}

/// Attribute numbers mean different things in different places.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Space {
    Message,
    Info,
    Service,
    Destination,
    Daemon,
    Statistics,
}

impl Space {
    pub(crate) const fn attribute_name(self, number: u16) -> Option<&'static str> {
        match self {
            Self::Message => number::message::name(number),
            Self::Info => number::info::name(number),
            Self::Service => number::service::name(number),
            Self::Destination => number::destination::name(number),
            Self::Daemon => number::daemon::name(number),
            Self::Statistics => number::statistics::name(number),
        }
    }
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Message => "message",
            Self::Info => "info",
            Self::Service => "service",
            Self::Destination => "destination",
            Self::Daemon => "daemon",
            Self::Statistics => "statistics",
        })
    }
}

/// A constructor refused a value that the kernel or its wire format cannot hold.
///
/// Its `Debug` is its text, for `fn main() -> Result`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct InvalidValue {
    what: &'static str,
    value: String,
    rule: &'static str,
}

impl InvalidValue {
    pub(crate) fn new(what: &'static str, value: impl fmt::Display, rule: &'static str) -> Self {
        Self { what, value: value.to_string(), rule }
    }

    /// The rule that the value breaks, such as "must be 0 to 2147483647".
    pub fn rule(&self) -> &'static str {
        self.rule
    }
}

impl fmt::Display for InvalidValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {}", self.what, self.value, self.rule)
    }
}

impl fmt::Debug for InvalidValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for InvalidValue {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Weight;

    /// `fn main() -> Result<…>` prints `Debug`.
    #[test]
    fn debug_is_the_text() {
        let invalid = Weight::new(1 << 31).unwrap_err();
        assert_eq!(format!("{invalid:?}"), invalid.to_string());
        let error = ParseError::new(Space::Service, Some(8), 4, Problem::Missing);
        assert_eq!(format!("{error:?}"), "IPVS_SVC_ATTR_TIMEOUT at byte 4: missing");
    }
}
