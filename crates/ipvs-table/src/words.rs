//! A line as words.

use std::borrow::Cow;

/// A word of a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Word<'a> {
    /// The byte at which it begins.
    pub(crate) start: usize,
    /// Borrowed where it is plain ASCII.
    pub(crate) text: Cow<'a, str>,
}

impl AsRef<str> for Word<'_> {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

/// A quotation mark that is never closed, by the byte at which it stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unclosed(pub(crate) usize);

/// Splits a line at white space. A `#` where a word could begin makes the rest a comment. As in a
/// shell, single and double quotes hold words together and a backslash takes the next character
/// for itself; ipvsadm has no quotes, and none of its words needs one.
pub(crate) fn split(line: &str) -> Result<Vec<Word<'_>>, Unclosed> {
    // As many as most lines have.
    let mut words = Vec::with_capacity(8);
    let mut start = 0;
    while let Some(blanks) = line[start..].find(|it: char| !it.is_whitespace()) {
        start += blanks;
        let rest = &line[start..];
        if rest.starts_with('#') {
            break;
        }
        let is_plain = |it: u8| it.is_ascii_graphic() && !matches!(it, b'\\' | b'\'' | b'"');
        let plain = rest.bytes().position(|it| !is_plain(it)).unwrap_or(rest.len());
        let (text, length) = match rest.as_bytes().get(plain) {
            Some(special) if !special.is_ascii_whitespace() => {
                let (text, length) = unquoted(rest).map_err(|Unclosed(at)| Unclosed(start + at))?;
                (Cow::Owned(text), length)
            }
            _ => (Cow::Borrowed(&rest[..plain]), plain),
        };
        words.push(Word { start, text });
        start += length;
    }
    Ok(words)
}

/// The word with which a text begins, without its quotes and backslashes, and its length with them.
fn unquoted(text: &str) -> Result<(String, usize), Unclosed> {
    let mut word = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((position, character)) =
        characters.next_if(|(_, character)| !character.is_whitespace())
    {
        match character {
            '\\' => word.push(characters.next().ok_or(Unclosed(position))?.1),
            '\'' | '"' => loop {
                match characters.next().ok_or(Unclosed(position))?.1 {
                    end if end == character => break,
                    '\\' if character == '"' => {
                        word.push(characters.next().ok_or(Unclosed(position))?.1);
                    }
                    other => word.push(other),
                }
            },
            other => word.push(other),
        }
    }
    Ok((word, characters.peek().map_or(text.len(), |(end, _)| *end)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use proptest::prelude::*;

    use super::*;

    fn texts(line: &str) -> Vec<String> {
        split(line).unwrap().into_iter().map(|word| word.text.into_owned()).collect()
    }

    #[test]
    fn words_quotes_and_comments() {
        assert_eq!(texts("  -A -t\t10.0.0.1:80 \r"), ["-A", "-t", "10.0.0.1:80"]);
        assert_eq!(texts("-A # -t"), ["-A"]);
        assert_eq!(texts("# -A"), [""; 0]);
        assert_eq!(texts("a#b"), ["a#b"]);
        assert_eq!(
            texts("\u{a0}a\u{2003}b\u{e9}c\u{a0}'d'e\u{1}\u{b}f"),
            ["a", "béc", "de\u{1}", "f"]
        );
        assert_eq!(
            texts(r#"'a b'c "d \" e" \  f\'g '' 'x'\''y'"#),
            ["a bc", "d \" e", " ", "f'g", "", "x'y"]
        );
        assert_eq!(split("-A 'x").unwrap_err(), Unclosed(3));
        assert_eq!(split("-A \"x").unwrap_err(), Unclosed(3));
        assert_eq!(split("-A x\\").unwrap_err(), Unclosed(4));
        assert_eq!(split(" é -b").unwrap()[1].start, 4);
    }

    proptest! {
        #![proptest_config(crate::cases(256))]

        #[test]
        fn what_a_shell_quotes_is_read(words in proptest::collection::vec(".*", 0..5)) {
            let quoted = |word: &String| format!("'{}'", word.replace('\'', r"'\''"));
            let line: Vec<_> = words.iter().map(quoted).collect();
            prop_assert_eq!(texts(&line.join(" ")), words);
        }
    }
}
