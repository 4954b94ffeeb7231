//! Values of settings, as the kernel writes them.

use std::{fmt, str::FromStr, time::Duration};

use crate::{Error, ErrorKind};

/// When a defence against overload is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(clippy::exhaustive_enums, reason = "the kernel takes 0 to 3, and nothing else")]
pub enum DefenseMode {
    /// Never. (0)
    #[default]
    Off,
    /// Whenever memory is short; it is not now. (1)
    Automatic,
    /// Whenever memory is short, as it is now: the kernel changes 1 to this and back. (2)
    AutomaticActive,
    /// Always. (3)
    Always,
}

/// After which packets a sync daemon sends a connection to the backup director:
/// [`Sysctl::SYNC_THRESHOLD`](super::Sysctl::SYNC_THRESHOLD).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SyncThreshold {
    /// A connection is sent when the number of its incoming packets, divided by the period, leaves
    /// this remainder: 0 to 2^31 - 1 and less than the period.
    pub threshold: u32,
    /// The period in packets, 0 to 2^31 - 1; 0 for once only.
    pub period: u32,
}

impl SyncThreshold {
    /// After the packets with this remainder, by this period.
    pub const fn new(threshold: u32, period: u32) -> Self {
        Self { threshold, period }
    }
}

impl fmt::Display for SyncThreshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.threshold, self.period)
    }
}

/// From what it displays: `3 50`.
impl FromStr for SyncThreshold {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        private::Text::parse(text).ok_or_else(|| {
            let wrong = format!("it must be two numbers such as \"3 50\", not \"{text}\"");
            Error::new(ErrorKind::Invalid, "reading a sync threshold", &wrong)
        })
    }
}

/// A type that a setting's value can have: `bool`, `i32`, `u64`, `String`, [`Duration`],
/// [`DefenseMode`], [`SyncThreshold`].
pub trait SysctlValue: Sized + Send + private::Text {}

pub(super) mod private {
    /// How the kernel writes and reads a value.
    pub trait Text: Sized {
        fn parse(text: &str) -> Option<Self>;
        fn text(self) -> String;
    }
}

impl SysctlValue for bool {}

impl private::Text for bool {
    /// To the kernel, every number but 0 is yes.
    fn parse(text: &str) -> Option<Self> {
        text.parse::<i32>().ok().map(|number| number != 0)
    }

    fn text(self) -> String {
        u8::from(self).to_string()
    }
}

impl SysctlValue for i32 {}

impl private::Text for i32 {
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn text(self) -> String {
        self.to_string()
    }
}

impl SysctlValue for u64 {}

impl private::Text for u64 {
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn text(self) -> String {
        self.to_string()
    }
}

impl SysctlValue for String {}

impl private::Text for String {
    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn text(self) -> String {
        self
    }
}

impl SysctlValue for Duration {}

impl private::Text for Duration {
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(Self::from_secs)
    }

    fn text(self) -> String {
        self.as_secs().to_string()
    }
}

impl SysctlValue for DefenseMode {}

impl private::Text for DefenseMode {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "0" => Self::Off,
            "1" => Self::Automatic,
            "2" => Self::AutomaticActive,
            "3" => Self::Always,
            _ => return None,
        })
    }

    fn text(self) -> String {
        (self as u8).to_string()
    }
}

impl SysctlValue for SyncThreshold {}

impl private::Text for SyncThreshold {
    fn parse(text: &str) -> Option<Self> {
        let (threshold, period) = text.split_once(char::is_whitespace)?;
        Some(Self { threshold: threshold.parse().ok()?, period: period.trim().parse().ok()? })
    }

    fn text(self) -> String {
        self.to_string()
    }
}
