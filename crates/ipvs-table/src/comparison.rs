//! The one comparison of two tables, which everything that compares goes by.

use std::{cmp::Ordering, iter, sync::Arc};

use ipvs_packet::{Destination, DestinationEntry, DestinationKey, Service, ServiceKey};

use crate::ServiceSnapshot;

/// Something with a key and settings: a service or a destination, whatever else is known of it.
pub trait Keyed {
    /// What makes it the same one in two tables.
    type Key: Ord;
    /// What may differ between the two.
    type Settings: PartialEq;

    /// Its key.
    fn key(&self) -> Self::Key;

    /// Its settings, without connections and statistics.
    fn settings(&self) -> &Self::Settings;
}

impl Keyed for ServiceSnapshot {
    type Key = ServiceKey;
    type Settings = Service;

    fn key(&self) -> ServiceKey {
        *self.entry.service.key()
    }

    fn settings(&self) -> &Service {
        &self.entry.service
    }
}

impl Keyed for Destination {
    type Key = DestinationKey;
    type Settings = Self;

    fn key(&self) -> DestinationKey {
        self.key
    }

    fn settings(&self) -> &Self {
        self
    }
}

impl Keyed for DestinationEntry {
    type Key = DestinationKey;
    type Settings = Destination;

    fn key(&self) -> DestinationKey {
        self.destination.key
    }

    fn settings(&self) -> &Destination {
        &self.destination
    }
}

impl<T: Keyed + ?Sized> Keyed for &T {
    type Key = T::Key;
    type Settings = T::Settings;

    fn key(&self) -> T::Key {
        (**self).key()
    }

    fn settings(&self) -> &T::Settings {
        (**self).settings()
    }
}

impl<T: Keyed + ?Sized> Keyed for Arc<T> {
    type Key = T::Key;
    type Settings = T::Settings;

    fn key(&self) -> T::Key {
        (**self).key()
    }

    fn settings(&self) -> &T::Settings {
        (**self).settings()
    }
}

/// What two tables have under one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_enums, reason = "there are two tables")]
pub enum Pair<A, B> {
    /// Only the one has it.
    Before(A),
    /// Only the other has it.
    After(B),
    /// Both have it, with the same settings or with others.
    Both(A, B),
}

impl<A, B> Pair<A, B> {
    /// What was found under one key; `None` where neither has it.
    pub fn found(before: Option<A>, after: Option<B>) -> Option<Self> {
        match (before, after) {
            (Some(before), Some(after)) => Some(Self::Both(before, after)),
            (Some(before), None) => Some(Self::Before(before)),
            (None, after) => after.map(Self::After),
        }
    }
}

impl<A: Keyed, B: Keyed<Settings = A::Settings>> Pair<A, B> {
    /// Whether both have it, with other settings.
    pub fn is_changed(&self) -> bool {
        matches!(self, Self::Both(before, after) if before.settings() != after.settings())
    }
}

/// Goes along the services of two tables, or the destinations of two services, of which each is in
/// order of its keys. It takes one look at each, and no memory.
///
/// ```
/// use ipvs_table::{Pair, pairs, packet::Destination};
///
/// let before: [Destination; 2] = ["10.1.0.2:80".parse()?, "10.1.0.3:80".parse()?].map(Destination::new);
/// let after: [Destination; 2] = ["10.1.0.3:80".parse()?, "10.1.0.4:80".parse()?].map(Destination::new);
/// let found: Vec<_> = pairs(&before, &after).collect();
/// assert_eq!(
///     found,
///     [Pair::Before(&before[0]), Pair::Both(&before[1], &after[0]), Pair::After(&after[1])]
/// );
/// assert!(!found[1].is_changed());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn pairs<A, B>(
    before: impl IntoIterator<Item = A>,
    after: impl IntoIterator<Item = B>,
) -> impl Iterator<Item = Pair<A, B>>
where
    A: Keyed,
    B: Keyed<Key = A::Key>,
{
    let (mut before, mut after) = (before.into_iter().peekable(), after.into_iter().peekable());
    iter::from_fn(move || {
        let order = match (before.peek(), after.peek()) {
            (Some(before), Some(after)) => before.key().cmp(&after.key()),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        Pair::found(
            if order.is_le() { before.next() } else { None },
            if order.is_ge() { after.next() } else { None },
        )
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use ipvs_packet::Weight;
    use proptest::prelude::*;

    use super::*;

    fn destinations(of: &BTreeMap<u16, u32>) -> Vec<Destination> {
        let destination = |(port, weight): (&u16, &u32)| {
            let mut destination =
                Destination::new(DestinationKey::new(([10, 1, 0, 2], *port).into()).unwrap());
            destination.weight = Weight::new(*weight).unwrap_or(Weight::ONE);
            destination
        };
        of.iter().map(destination).collect()
    }

    proptest! {
        #![proptest_config(crate::cases(256))]

        /// Each key comes once, in order, from where it is.
        #[test]
        fn pairs_are_what_looking_each_up_finds(
            before in proptest::collection::btree_map(0..20_u16, 0..3_u32, 0..12),
            after in proptest::collection::btree_map(0..20_u16, 0..3_u32, 0..12),
        ) {
            let (one, other) = (destinations(&before), destinations(&after));
            let keys: BTreeSet<u16> = before.keys().chain(after.keys()).copied().collect();
            let found = |list: &[Destination], port| {
                list.iter().find(|destination| destination.key.port == port).cloned()
            };
            let expected: Vec<_> = keys
                .iter()
                .filter_map(|port| Pair::found(found(&one, *port), found(&other, *port)))
                .collect();
            let got: Vec<_> = pairs(one, other).collect();
            prop_assert_eq!(&got, &expected);
            for (pair, port) in got.iter().zip(keys) {
                let (was, is) = (before.get(&port), after.get(&port));
                prop_assert_eq!(pair.is_changed(), was.is_some() && is.is_some() && was != is);
            }
        }
    }
}
