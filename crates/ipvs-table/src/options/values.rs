//! The values of options.

use super::{Given, Text};
use crate::Mistake;

/// The value of an option that has one.
pub(crate) fn required<'a>(given: &Given<'a>) -> Text<'a> {
    given.value.clone().unwrap_or(Text { text: "", place: given.place.clone() })
}

pub(crate) fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// A number as C's `strtol` reads it, within limits.
pub(crate) fn number(text: &Text<'_>, what: &str, least: i64, most: i64) -> Result<i64, Mistake> {
    let number = text.text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| {
        let message = format!("{} must be {what}, {least} to {most}", quoted(text.text));
        Mistake::new(text.place.clone(), message)
    })
}

/// Bits, decimal or hexadecimal.
pub(crate) fn mask(text: &Text<'_>, most: i64) -> Result<i64, Mistake> {
    let digits = text.text.strip_prefix("0x");
    let bits = digits.map_or_else(|| text.text.parse(), |digits| i64::from_str_radix(digits, 16));
    bits.ok().filter(|bits| (0..=most).contains(bits)).ok_or_else(|| {
        let message = format!("{} must be bits such as 0x1, at most {most:#x}", quoted(text.text));
        Mistake::new(text.place.clone(), message)
    })
}
