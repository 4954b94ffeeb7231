//! What came of a batch.

use std::{fmt, slice, vec};

use ipvs_packet::Request;

use crate::{Error, ErrorKind, error::Operation};

/// What came of each write of a batch, in order: see [`Client::batch`](crate::Client::batch).
///
/// A batch does not fail as a whole, so this is the only place where a failure shows. Ignoring it is a
/// warning of the compiler's:
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// # async fn example(client: ipvs_client::Client) {
/// client.batch(&[]).await;
/// # }
/// ```
///
/// For all or nothing, make it a result:
///
/// ```
/// #![deny(unused_must_use)]
/// # async fn example(client: ipvs_client::Client) -> Result<(), ipvs_client::Error> {
/// client.batch(&[]).await.into_result()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a write that failed is reported only here"]
pub struct BatchOutcomes(Vec<Result<(), Error>>);

impl BatchOutcomes {
    pub(super) fn new(outcomes: Vec<Result<(), Error>>) -> Self {
        Self(outcomes)
    }

    /// Nothing was sent, for one reason.
    pub(crate) fn refused(writes: &[Request], error: &Error) -> Self {
        let refuse = |write| Err(Error::new(error.kind(), Operation(write), error.text()));
        Self(writes.iter().map(refuse).collect())
    }

    /// The outcome of each write.
    pub fn iter(&self) -> slice::Iter<'_, Result<(), Error>> {
        self.0.iter()
    }

    /// How many writes there were.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there were no writes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The error of the first write that failed.
    pub fn first_error(&self) -> Option<&Error> {
        self.iter().find_map(|outcome| outcome.as_ref().err())
    }

    /// How many writes were carried out.
    pub fn succeeded(&self) -> usize {
        self.iter().filter(|outcome| outcome.is_ok()).count()
    }

    /// How many writes were sent and failed.
    pub fn failed(&self) -> usize {
        self.len() - self.succeeded() - self.not_sent()
    }

    /// How many writes were [not sent](ErrorKind::NotSent), because the batch ended before them.
    pub fn not_sent(&self) -> usize {
        let not_sent = |outcome: &&Result<(), Error>| {
            outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotSent)
        };
        self.iter().filter(not_sent).count()
    }

    /// The error of the first write that failed, if any did.
    pub fn into_result(self) -> Result<(), Error> {
        self.into_iter().collect()
    }
}

/// In words: `5 writes: 3 done, 1 failed, 1 not sent`.
impl fmt::Display for BatchOutcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (succeeded, failed, not_sent) = (self.succeeded(), self.failed(), self.not_sent());
        let plural = if self.len() == 1 { "" } else { "s" };
        write!(f, "{} write{plural}: {succeeded} done", self.len())?;
        if failed > 0 {
            write!(f, ", {failed} failed")?;
        }
        if not_sent > 0 {
            write!(f, ", {not_sent} not sent")?;
        }
        Ok(())
    }
}

impl IntoIterator for BatchOutcomes {
    type Item = Result<(), Error>;
    type IntoIter = vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a BatchOutcomes {
    type Item = &'a Result<(), Error>;
    type IntoIter = slice::Iter<'a, Result<(), Error>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(kind: ErrorKind) -> Result<(), Error> {
        Err(Error::new(kind, "writing", "it did not work"))
    }

    #[test]
    fn counts_and_the_first_error() {
        let outcomes = BatchOutcomes::new(vec![
            Ok(()),
            failure(ErrorKind::AlreadyExists),
            Ok(()),
            failure(ErrorKind::Invalid),
            failure(ErrorKind::NotSent),
        ]);
        let counts = [outcomes.len(), outcomes.succeeded(), outcomes.failed(), outcomes.not_sent()];
        assert_eq!(counts, [5, 2, 2, 1]);
        let first = outcomes.first_error().map(Error::kind);
        assert_eq!(first, Some(ErrorKind::AlreadyExists));
        assert_eq!(outcomes.to_string(), "5 writes: 2 done, 2 failed, 1 not sent");
        let error = outcomes.into_result().map_err(|error| error.kind());
        assert_eq!(error, Err(ErrorKind::AlreadyExists));

        let outcomes = BatchOutcomes::new(vec![Ok(())]);
        assert_eq!(outcomes.to_string(), "1 write: 1 done");
        assert!(outcomes.first_error().is_none() && outcomes.into_result().is_ok());
    }
}
