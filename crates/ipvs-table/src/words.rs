//! A line as words.

/// A word of a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Word {
    /// The byte at which it begins.
    pub(crate) start: usize,
    pub(crate) text: String,
}

/// A quotation mark that is never closed, by the byte at which it stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unclosed(pub(crate) usize);

/// Splits a line at white space. A `#` where a word could begin makes the rest a comment. As in a
/// shell, single and double quotes hold words together and a backslash takes the next character
/// for itself; ipvsadm has no quotes, and none of its words needs one.
pub(crate) fn split(line: &str) -> Result<Vec<Word>, Unclosed> {
    let mut words = Vec::new();
    let mut characters = line.char_indices().peekable();
    while let Some(&(start, first)) = characters.peek() {
        if first.is_whitespace() {
            characters.next();
            continue;
        }
        if first == '#' {
            break;
        }
        let mut text = String::new();
        while let Some((position, character)) =
            characters.next_if(|(_, character)| !character.is_whitespace())
        {
            match character {
                '\\' => text.push(characters.next().ok_or(Unclosed(position))?.1),
                '\'' | '"' => loop {
                    match characters.next().ok_or(Unclosed(position))?.1 {
                        end if end == character => break,
                        '\\' if character == '"' => {
                            text.push(characters.next().ok_or(Unclosed(position))?.1);
                        }
                        other => text.push(other),
                    }
                },
                other => text.push(other),
            }
        }
        words.push(Word { start, text });
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use proptest::prelude::*;

    use super::*;

    fn texts(line: &str) -> Vec<String> {
        split(line).unwrap().into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn words_quotes_and_comments() {
        assert_eq!(texts("  -A -t\t10.0.0.1:80 \r"), ["-A", "-t", "10.0.0.1:80"]);
        assert_eq!(texts("-A # -t"), ["-A"]);
        assert_eq!(texts("# -A"), [""; 0]);
        assert_eq!(texts("a#b"), ["a#b"]);
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
