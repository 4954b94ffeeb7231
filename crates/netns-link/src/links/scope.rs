use std::{fmt, str::FromStr};

use super::prefix::number;
use crate::error::Error;

/// How far an IPv4 address is valid: `scope` of `ip address`, the kernel's `RT_SCOPE_…`.
///
/// The kernel takes no address of scope [`LINK`](Self::LINK) or [`HOST`](Self::HOST) as the source
/// of packets that go farther than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(into = "String", try_from = "String"))]
pub struct Scope(u8);

impl Scope {
    /// Everywhere (`RT_SCOPE_UNIVERSE`, 0).
    pub const GLOBAL: Self = Self(0);
    /// Within the site (`RT_SCOPE_SITE`, 200).
    pub const SITE: Self = Self(200);
    /// On the link (`RT_SCOPE_LINK`, 253).
    pub const LINK: Self = Self(253);
    /// Within the host (`RT_SCOPE_HOST`, 254).
    pub const HOST: Self = Self(254);

    /// A scope by its number, 0 (farthest) to 255.
    pub const fn new(number: u8) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn number(self) -> u8 {
        self.0
    }
}

const NAMES: [(Scope, &str); 4] = [
    (Scope::GLOBAL, "global"),
    (Scope::SITE, "site"),
    (Scope::LINK, "link"),
    (Scope::HOST, "host"),
];

/// The name, or the number where there is none.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(scope, _)| scope == self) {
            Some((_, name)) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

impl FromStr for Scope {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match NAMES.iter().find(|(_, name)| *name == text) {
            Some((scope, _)) => Ok(*scope),
            None => number(text)
                .map(Self)
                .map_err(|rule| Error::invalid(format_args!("scope {text:?}"), rule)),
        }
    }
}

text_form!(Scope);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notation_survives() {
        for number in 0..=255 {
            let scope = Scope::new(number);
            assert_eq!(scope.to_string().parse::<Scope>().unwrap(), scope);
        }
        assert_eq!(Scope::HOST.to_string(), "host");
        for bad in ["", "universe", "256", "+1"] {
            assert!(bad.parse::<Scope>().is_err(), "{bad}");
        }
    }
}
