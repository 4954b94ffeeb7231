//! Names of links, address labels and namespaces, which are bytes to the kernel, as text.
//!
//! Nearly all are UTF-8 and stay as they are. Another byte is `\xff` in the text. A backslash
//! that would start such an escape is `\x5c`. So every name has one text, and every text one name.

use std::fmt::Write;

/// The text of a name.
pub fn to_text(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        let valid = chunk.valid();
        let last = chunk.invalid().is_empty();
        for (at, c) in valid.char_indices() {
            let rest = &valid[at..];
            // After a backslash at the very end of the chunk comes an escape, not an `x`.
            let looks_escaped = escaped(rest.as_bytes()).is_some();
            if c == '\\' && looks_escaped {
                text.push_str(r"\x5c");
            } else {
                text.push(c);
            }
        }
        if !last {
            for byte in chunk.invalid() {
                // A string takes everything.
                let _ = write!(text, r"\x{byte:02x}");
            }
        }
    }
    text
}

/// The name of a text.
pub fn from_text(text: &str) -> Vec<u8> {
    let mut name = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        match escaped(rest) {
            Some(byte) => {
                name.push(byte);
                rest = &rest[4..];
            }
            None => {
                name.push(first);
                rest = behind;
            }
        }
    }
    name
}

/// The byte of an escape at the start of a text. Only bytes that are not ASCII are escaped,
/// and the backslash itself.
fn escaped(text: &[u8]) -> Option<u8> {
    let [b'\\', b'x', high, low, ..] = *text else { return None };
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let byte = digit(high)? * 16 + digit(low)?;
    (byte >= 0x80 || byte == b'\\').then_some(byte)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn odd_names_are_legible() {
        for (name, text) in [
            (&b"eth0"[..], "eth0"),
            ("é".as_bytes(), "é"),
            (b"x\xffy", r"x\xffy"),
            (b"\xc3", r"\xc3"),
            (br"a\b", r"a\b"),
            (br"a\xff", r"a\x5cxff"),
            (br"\x5c", r"\x5cx5c"),
            (b"\\\xff", r"\\xff"),
        ] {
            assert_eq!(to_text(name), text);
            assert_eq!(from_text(text), name, "{text}");
        }
    }

    proptest! {
        #[test]
        fn names_survive(name in vec(prop_oneof![Just(b'\\'), Just(b'x'), Just(b'5'), Just(b'c'), any::<u8>()], 0..20)) {
            prop_assert_eq!(from_text(&to_text(&name)), name);
        }
    }
}
