//! What the kernel lists.

use std::{slice, vec};

use ipvs_packet::Unreadable;

use crate::Error;

/// What the kernel lists: each entry, or what it is as far as that is known where it cannot be read. One
/// that cannot loses no other one.
///
/// Each is an item, so that none is overlooked:
///
/// ```no_run
/// # fn example(client: &ipvs_client::blocking::Client) -> Result<(), ipvs_client::Error> {
/// for entry in client.services()? {
///     match entry {
///         Ok(entry) => println!("{}", entry.service),
///         Err(unreadable) => eprintln!("{unreadable}"),
///     }
/// }
/// // Or all of them, or an error.
/// let services = client.services()?.all()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct List<T>(Vec<Result<T, Unreadable>>);

impl<T> List<T> {
    /// All entries.
    ///
    /// # Errors
    ///
    /// [`Malformed`](crate::ErrorKind::Malformed) where one cannot be read: the first of these.
    pub fn all(self) -> Result<Vec<T>, Error> {
        self.0.into_iter().map(|entry| entry.map_err(Error::from)).collect()
    }

    /// The entries, and those that cannot be read.
    pub fn apart(self) -> (Vec<T>, Vec<Unreadable>) {
        let (mut readable, mut unreadable) = (Vec::with_capacity(self.0.len()), Vec::new());
        for entry in self.0 {
            match entry {
                Ok(entry) => readable.push(entry),
                Err(entry) => unreadable.push(entry),
            }
        }
        (readable, unreadable)
    }

    /// How many entries the kernel listed, those that cannot be read included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the kernel listed nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The entries in the kernel's order.
    pub fn iter(&self) -> slice::Iter<'_, Result<T, Unreadable>> {
        self.0.iter()
    }
}

/// For what stands in for a client.
impl<T> FromIterator<Result<T, Unreadable>> for List<T> {
    fn from_iter<I: IntoIterator<Item = Result<T, Unreadable>>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

impl<T> IntoIterator for List<T> {
    type Item = Result<T, Unreadable>;
    type IntoIter = vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a List<T> {
    type Item = &'a Result<T, Unreadable>;
    type IntoIter = slice::Iter<'a, Result<T, Unreadable>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
