//! What the results of a member's checks say together.

use std::collections::BTreeMap;

use crate::{
    Outcome,
    check::{Failure, Good},
};

/// A member of one pool, and what each of its checks found last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Votes {
    checks: BTreeMap<u64, Vote>,
    wishes: Vec<Outcome>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vote {
    /// It has no result yet.
    Awaited,
    Good,
    Bad,
    /// It cannot be made, and says nothing.
    None,
}

impl Votes {
    /// Another check of the member.
    pub(crate) fn expect(&mut self, check: u64) {
        self.checks.entry(check).or_insert(Vote::Awaited);
    }

    /// Leaves the checks that the member still has.
    pub(crate) fn keep(&mut self, is_kept: impl Fn(u64) -> bool) {
        self.checks.retain(|check, _| is_kept(*check));
    }

    /// What the pool is to be told: a member is good when each of its checks is, and bad when one is. What it
    /// asks for itself is told when it changes, so that it does not undo what a person has said since.
    pub(crate) fn hear(&mut self, check: u64, result: &Result<Good, Failure>) -> Vec<Outcome> {
        let Some(vote) = self.checks.get_mut(&check) else { return Vec::new() };
        let mut outcomes = Vec::new();
        match result {
            Ok(good) => {
                *vote = Vote::Good;
                if !good.wishes.is_empty() && good.wishes != self.wishes {
                    self.wishes.clone_from(&good.wishes);
                    outcomes.extend(good.wishes.iter().cloned());
                }
                if self.checks.values().all(|vote| matches!(vote, Vote::Good | Vote::None)) {
                    outcomes.push(Outcome::Good);
                }
            }
            Err(Failure::Bad(reason)) => {
                *vote = Vote::Bad;
                outcomes.push(Outcome::Bad(reason.clone()));
            }
            Err(Failure::Unable(_)) => *vote = Vote::None,
            Err(Failure::Short(_)) => {}
        }
        outcomes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Result<Good, Failure> {
        Ok(Good::new("fine"))
    }

    fn bad() -> Result<Good, Failure> {
        Err(Failure::Bad("not fine".to_owned()))
    }

    #[test]
    fn a_member_is_good_when_each_of_its_checks_is() {
        let mut votes = Votes::default();
        votes.expect(1);
        votes.expect(2);
        assert_eq!(votes.hear(1, &good()), [], "the other one has no result");
        assert_eq!(votes.hear(2, &good()), [Outcome::Good]);
        assert_eq!(votes.hear(1, &bad()), [Outcome::Bad("not fine".to_owned())]);
        assert_eq!(votes.hear(2, &good()), []);
        assert_eq!(votes.hear(1, &Err(Failure::Short("of files".to_owned()))), []);
        assert_eq!(votes.hear(2, &good()), [], "a shortage changes nothing");
        assert_eq!(votes.hear(1, &Err(Failure::Unable("no right".to_owned()))), []);
        assert_eq!(votes.hear(2, &good()), [Outcome::Good], "one that cannot be made has no say");
        assert_eq!(votes.hear(3, &bad()), [], "it is not the member's");
        votes.hear(1, &bad());
        votes.keep(|check| check == 2);
        assert_eq!(votes.hear(2, &good()), [Outcome::Good]);
    }

    #[test]
    fn wishes_are_told_when_they_change() {
        let mut votes = Votes::default();
        votes.expect(1);
        let wish = |outcome| Ok(Good { wishes: vec![outcome], ..Good::new("agent") });
        let drain = wish(Outcome::Drain);
        assert_eq!(votes.hear(1, &drain), [Outcome::Drain, Outcome::Good]);
        assert_eq!(votes.hear(1, &drain), [Outcome::Good]);
        assert_eq!(votes.hear(1, &wish(Outcome::Enable)), [Outcome::Enable, Outcome::Good]);
        assert_eq!(votes.hear(1, &drain), [Outcome::Drain, Outcome::Good]);
    }
}
