//! What guards against a source that has lost its objects.

use lvs::Policy;

/// This number of deletions needs no fresh lists, whatever part of the table it is.
const UNCONFIRMED_DELETIONS: usize = 20;

/// Large deletions wait until fresh lists confirm them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Large deletions are held back.
    #[default]
    Up,
    /// They were, and lists were asked for; which of them have come.
    Asked { services: bool, slices: bool },
    /// Fresh lists have come, so what is due to be deleted is deleted.
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

    /// After a round that held something back, or nothing. A whole round that holds back nothing has
    /// done all that was confirmed.
    #[must_use]
    pub(crate) fn after(self, held_back: usize, is_whole: bool) -> Self {
        match self {
            Self::Up if held_back > 0 => Self::Asked { services: false, slices: false },
            _ if held_back == 0 && is_whole => Self::Up,
            other => other,
        }
    }

    /// The policy with the limit: half of what is there or was wanted before, of which there are `size`
    /// services and real servers.
    pub(crate) fn limited(self, policy: Policy, size: usize) -> Policy {
        match self {
            Self::Down => policy,
            Self::Up | Self::Asked { .. } => {
                policy.max_deletions(UNCONFIRMED_DELETIONS.max(size / 2))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lists_confirm() {
        let up = Guard::default();
        assert_eq!(up.after(0, true).heard(true).heard(false), Guard::Up);
        let asked = up.after(30, false);
        assert_eq!(asked, Guard::Asked { services: false, slices: false });
        // One list twice is not both.
        assert_ne!(asked.heard(true).heard(true), Guard::Down);
        // It is asked once, and what is held back meanwhile does not begin it again.
        let half = asked.heard(false);
        assert_eq!(half.after(40, true), half);
        assert_eq!(half.heard(true), Guard::Down);
        assert_eq!(half.heard(true).after(0, true), Guard::Up);
        // A part of the table says nothing about the rest.
        assert_eq!(half.heard(true).after(0, false), Guard::Down);
        // Nothing is held back any more, as it is wanted again.
        assert_eq!(half.after(0, true), Guard::Up);
    }
}
