//! Open sets: numbers of which some have a name. What each has in common is written once.

/// Implements `Display`, `Debug` and `FromStr` for `$type($number)`. A constant is shown as its
/// first text and reads from both texts, whatever their case; the second one is that of the
/// readable forms of the feature `serde`. Every other number is shown and reads as `$prefix` and
/// the number.
macro_rules! open_set {
    (
        $type:ident($number:ty), $what:literal, $prefix:literal,
        $($constant:ident = $shown:literal | $readable:literal,)*
    ) => {
        impl $type {
            #[cfg(feature = "serde")]
            pub(crate) const WORDS: &[(&str, $number)] =
                &[$(($readable, Self::$constant.0)),*];
            pub(crate) const RULE: &str = concat!("must be ", $($readable, ", ",)* "or a number");
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Self::$constant => f.pad($shown),)*
                    Self(number) => f.pad(&format!(concat!($prefix, "{}"), number)),
                }
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $type {
            type Err = InvalidValue;

            fn from_str(text: &str) -> Result<Self, InvalidValue> {
                $(
                    if [$shown, $readable].iter().any(|word| text.eq_ignore_ascii_case(word)) {
                        return Ok(Self::$constant);
                    }
                )*
                text.strip_prefix($prefix)
                    .unwrap_or(text)
                    .parse()
                    .map(Self)
                    .map_err(|_| InvalidValue::new($what, text, Self::RULE))
            }
        }
    };
}

pub(crate) use open_set;
