//! What is wrong with a text, and where.

use std::{cmp::Ordering, error, fmt};

/// Everything that is wrong with a text. It displays as one line for each mistake.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// The mistakes in the order of the text; there is at least one.
    pub fn iter(&self) -> std::slice::Iter<'_, Mistake> {
        self.0.iter()
    }

    /// The status with which ipvsadm exits: that of the first one that it finds before it asks the
    /// kernel.
    pub fn exit_status(&self) -> u8 {
        let found = self.iter().find(|mistake| mistake.kind != Kind::Refused);
        found.or(self.0.first()).map_or(2, Mistake::exit_status)
    }

    pub(crate) fn map(self, change: impl FnMut(Mistake) -> Mistake) -> Self {
        Self(self.0.into_iter().map(change).collect())
    }

    /// Succeeds where there are none; puts those of a text in its order.
    /// Those of a document are in it already.
    pub(crate) fn none<T>(mut mistakes: Vec<Mistake>, value: T) -> Result<T, Self> {
        if mistakes.is_empty() {
            return Ok(value);
        }
        mistakes.sort_by(|one, other| match (&one.place, &other.place) {
            (Place::Field(_), Place::Field(_)) => Ordering::Equal,
            (one, other) => one.cmp(other),
        });
        Err(Self(mistakes))
    }
}

impl From<Mistake> for Mistakes {
    fn from(mistake: Mistake) -> Self {
        Self(vec![mistake])
    }
}

impl IntoIterator for Mistakes {
    type Item = Mistake;
    type IntoIter = std::vec::IntoIter<Mistake>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Mistakes {
    type Item = &'a Mistake;
    type IntoIter = std::slice::Iter<'a, Mistake>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistake) in self.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

impl error::Error for Mistakes {}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mistake {
    place: Place,
    message: String,
    kind: Kind,
}

/// What ipvsadm makes of a mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Wrong,
    /// A word that is no option at all, or an option without its value.
    Usage,
    /// It does not see it, and the kernel refuses it.
    Refused,
}

impl Mistake {
    /// A mistake of a kind that only the caller knows, with exit status 2.
    pub fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place, message: message.into(), kind: Kind::Wrong }
    }

    /// A word that is no option at all, or an option without its value.
    pub(crate) fn usage(place: Place, message: impl Into<String>) -> Self {
        Self { kind: Kind::Usage, ..Self::new(place, message) }
    }

    /// What ipvsadm leaves to the kernel to refuse.
    pub(crate) fn refused(place: Place, message: impl Into<String>) -> Self {
        Self { kind: Kind::Refused, ..Self::new(place, message) }
    }

    pub(crate) fn moved_to(self, place: Place) -> Self {
        Self { place, ..self }
    }

    /// Where it is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What is wrong, without the place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The status with which ipvsadm exits on such a command line: 255 where a word is no option,
    /// where an option lacks its value, and where ipvsadm would leave it to the kernel to refuse (a
    /// name that is too long, a lower threshold above the upper one); 2 for all else.
    pub fn exit_status(&self) -> u8 {
        if self.kind == Kind::Wrong { 2 } else { 255 }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl error::Error for Mistake {}

/// Where in a text a mistake is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Place {
    /// In an argument of a command line.
    Argument {
        /// Which one, counted from 1 as the shell does; one more than there are where something is
        /// missing at the end.
        number: usize,
        /// How many bytes into it.
        offset: usize,
    },
    /// In a file of lines.
    Line {
        /// The line, counted from 1.
        line: usize,
        /// The character in the line, counted from 1.
        column: usize,
    },
    /// In a document, by the path to a field: `services[3].real_servers[1].weight`, counted from 0.
    Field(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument { number, .. } => write!(f, "argument {number}"),
            Self::Line { line, column } => write!(f, "line {line}, column {column}"),
            Self::Field(path) if path.is_empty() => f.write_str("the document"),
            Self::Field(path) => f.write_str(path),
        }
    }
}
