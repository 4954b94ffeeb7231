//! What guards against a source that has lost its objects.

use std::time::Duration;

use lvs::Limit;

/// This number of deletions needs no fresh lists, whatever part of the table it is.
const UNCONFIRMED_DELETIONS: usize = 20;
/// The part of the table, in percent, of which the deletion in one interval needs fresh lists.
const LARGE_PART: u8 = 50;
const INTERVAL: Duration = Duration::from_secs(60);

/// What may go without being confirmed, counted over all rounds: services and real servers that are
/// deleted, and services that are left without a usable one.
pub(crate) fn limit() -> Limit {
    Limit::percent(LARGE_PART).at_least(UNCONFIRMED_DELETIONS).per(INTERVAL)
}

/// Large deletions wait until fresh lists confirm them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Large deletions are held back.
    #[default]
    Up,
    /// They were, and lists were asked for; which of them have come.
    Asked { services: bool, slices: bool },
    /// Fresh lists have come: of what was held back, what is still due goes in the next round.
    Down,
}

impl Guard {
    /// After a list has come.
    #[must_use]
    pub(crate) fn heard(self, is_services: bool) -> Self {
        match self {
            Self::Asked { services, slices } => {
                let (services, slices) = (services || is_services, slices || !is_services);
                match services && slices {
                    true => Self::Down,
                    false => Self::Asked { services, slices },
                }
            }
            other => other,
        }
    }

    /// After a round, when this is held back: what was confirmed is done, and more than that is
    /// confirmed for itself.
    #[must_use]
    pub(crate) fn after(self, held_back: usize) -> Self {
        match self {
            Self::Asked { .. } if held_back > 0 => self,
            _ if held_back > 0 => Self::Asked { services: false, slices: false },
            _ => Self::Up,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lists_confirm() {
        let up = Guard::default();
        assert_eq!(up.after(0).heard(true).heard(false), Guard::Up);
        let asked = up.after(30);
        assert_eq!(asked, Guard::Asked { services: false, slices: false });
        // One list twice is not both.
        assert_ne!(asked.heard(true).heard(true), Guard::Down);
        // It is asked once, and what is held back meanwhile does not begin it again.
        let half = asked.heard(false);
        assert_eq!(half.after(40), half);
        assert_eq!(half.heard(true), Guard::Down);
        assert_eq!(half.heard(true).after(0), Guard::Up);
        // What fresh lists take away besides is asked for again.
        assert_eq!(half.heard(true).after(5), asked);
        // Nothing is held back any more, as it is wanted again.
        assert_eq!(half.after(0), Guard::Up);
    }
}
