//! Values of objects that may be of another type than they have in Kubernetes: such a value costs itself,
//! and not the object, nor the list that the object is in.
//!
//! What takes the place of such a value is never one that lets more in: a text that nothing is called, a
//! number that is no port, a list with one such element.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// What takes the place of a text that is none.
const NOT_A_TEXT: &str = "(not a text)";
/// What takes the place of a number that is none.
const NOT_A_NUMBER: i64 = -1;

/// A value that is read whatever stands in its place.
pub(crate) trait Value<'de>: Sized {
    /// What `null` is: an API server writes empty lists so.
    fn null() -> Self;

    /// What takes the place of something that cannot be understood.
    fn wrong() -> Self;

    fn of_text(_: &str) -> Self {
        Self::wrong()
    }

    fn of_number(_: i64) -> Self {
        Self::wrong()
    }

    fn of_flag(_: bool) -> Self {
        Self::wrong()
    }

    fn of_list<A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Self::wrong())
    }

    fn of_map<A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Self::wrong())
    }
}

/// Reads a value, for serde's `deserialize_with`.
pub(crate) fn lenient<'de, D: Deserializer<'de>, T: Value<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    deserializer.deserialize_any(Read(PhantomData))
}

/// A value within another one.
pub(crate) struct Any<T>(pub(crate) T);

impl<'de, T: Value<'de>> Deserialize<'de> for Any<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        lenient(deserializer).map(Self)
    }
}

struct Read<T>(PhantomData<T>);

impl<'de, T: Value<'de>> Visitor<'de> for Read<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E>(self, text: &str) -> Result<T, E> {
        Ok(T::of_text(text))
    }

    fn visit_i64<E>(self, number: i64) -> Result<T, E> {
        Ok(T::of_number(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<T, E> {
        Ok(i64::try_from(number).map_or_else(|_| T::wrong(), T::of_number))
    }

    fn visit_i128<E>(self, number: i128) -> Result<T, E> {
        Ok(i64::try_from(number).map_or_else(|_| T::wrong(), T::of_number))
    }

    fn visit_u128<E>(self, number: u128) -> Result<T, E> {
        Ok(i64::try_from(number).map_or_else(|_| T::wrong(), T::of_number))
    }

    fn visit_f64<E>(self, _: f64) -> Result<T, E> {
        Ok(T::wrong())
    }

    fn visit_bool<E>(self, flag: bool) -> Result<T, E> {
        Ok(T::of_flag(flag))
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<T, E> {
        Ok(T::wrong())
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::null())
    }

    fn visit_none<E>(self) -> Result<T, E> {
        Ok(T::null())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<T, A::Error> {
        T::of_list(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::of_map(map)
    }
}

impl Value<'_> for String {
    fn null() -> Self {
        Self::new()
    }

    fn wrong() -> Self {
        NOT_A_TEXT.to_owned()
    }

    fn of_text(text: &str) -> Self {
        text.to_owned()
    }

    fn of_number(number: i64) -> Self {
        number.to_string()
    }

    fn of_flag(flag: bool) -> Self {
        flag.to_string()
    }
}

impl Value<'_> for i64 {
    fn null() -> Self {
        0
    }

    fn wrong() -> Self {
        NOT_A_NUMBER
    }

    fn of_number(number: i64) -> Self {
        number
    }
}

/// One that cannot be understood counts as one that is missing.
impl Value<'_> for Option<bool> {
    fn null() -> Self {
        None
    }

    fn wrong() -> Self {
        None
    }

    fn of_flag(flag: bool) -> Self {
        Some(flag)
    }
}

/// A value that may be missing.
macro_rules! optional {
    ($($type:ty),*) => {$(
        impl<'de> Value<'de> for Option<$type> {
            fn null() -> Self {
                None
            }

            fn wrong() -> Self {
                Some(Value::wrong())
            }

            fn of_text(text: &str) -> Self {
                Some(Value::of_text(text))
            }

            fn of_number(number: i64) -> Self {
                Some(Value::of_number(number))
            }

            fn of_flag(flag: bool) -> Self {
                Some(Value::of_flag(flag))
            }

            fn of_map<A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
                Value::of_map(map).map(Some)
            }
        }
    )*};
}

pub(crate) use optional;

optional!(String, i64);

/// Most lists have one or two elements, and room for four would be half of all memory.
impl<'de, T: Value<'de>> Value<'de> for Vec<T> {
    fn null() -> Self {
        Self::new()
    }

    fn wrong() -> Self {
        vec![T::wrong()]
    }

    fn of_list<A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        let mut all = Self::new();
        while let Some(Any(value)) = list.next_element()? {
            all.push(value);
        }
        all.shrink_to_fit();
        Ok(all)
    }
}

/// A value with fields, each of which is read so. What takes its place is the second one, or the
/// default.
macro_rules! fields {
    ($($type:ty $(= $wrong:expr)?),* $(,)?) => {$(
        impl<'de> Value<'de> for $type {
            fn null() -> Self {
                Self::default()
            }

            #[allow(unreachable_code, reason = "where something else takes its place")]
            fn wrong() -> Self {
                $(return $wrong;)?
                Self::default()
            }

            fn of_map<A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
                Self::deserialize(MapAccessDeserializer::new(map))
            }
        }
    )*};
}

pub(crate) use fields;
