//! What is logged of failures that hold up nothing else: each once, for as long as it goes on.

use std::collections::BTreeSet;

use crate::failure::Failure;

/// This number of lines is logged one by one, of changes and of failures.
pub(crate) const LOG_LIMIT: usize = 20;

/// The failures that are known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal {
    /// Those that the last whole round met, and the ones since.
    logged: BTreeSet<String>,
    /// Those since the last whole round.
    current: BTreeSet<String>,
}

impl Journal {
    /// Takes in a failure. Returns what has to be logged of it, if it is new.
    pub(crate) fn note(&mut self, failure: &Failure) -> Option<String> {
        let text = failure.to_string();
        let is_new = !self.logged.contains(&text) && !self.current.contains(&text);
        self.current.insert(text.clone());
        is_new.then_some(text)
    }

    /// Takes in that everything was looked at: what did not fail any more is forgotten.
    pub(crate) fn end_of_whole_round(&mut self) {
        self.logged = std::mem::take(&mut self.current);
    }

    /// What fails now.
    pub(crate) fn failing(&self) -> impl Iterator<Item = &String> {
        self.current.union(&self.logged)
    }
}

/// Logs the first lines, and how many more there are.
pub(crate) fn log_failures(texts: &[String]) {
    for text in texts.iter().take(LOG_LIMIT) {
        tracing::error!("{text}; will retry");
    }
    if let Some(more @ 1..) = texts.len().checked_sub(LOG_LIMIT) {
        tracing::error!("{more} more like these; will retry");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Step;

    #[test]
    fn each_failure_is_logged_once() {
        let mut journal = Journal::default();
        let failure = Failure::new(Step::Table, "it is refused");
        assert_eq!(journal.note(&failure).as_deref(), Some("it is refused"));
        for _ in 0..3 {
            assert_eq!(journal.note(&failure), None);
            journal.end_of_whole_round();
            assert_eq!(journal.failing().count(), 1);
        }
        // A whole round without it, and it is new again.
        journal.end_of_whole_round();
        assert_eq!(journal.failing().count(), 0);
        assert!(journal.note(&failure).is_some());
    }
}
