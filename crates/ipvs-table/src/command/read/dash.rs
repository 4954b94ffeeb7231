//! Dashes of word processors and web pages.

use crate::{
    Mistake,
    options::{Text, quoted},
};

/// The first word that begins with a dash of word processors and web pages, which is no option.
pub(super) fn odd_dash(words: &[Text<'_>]) -> Option<Mistake> {
    let mut found = words
        .iter()
        .filter_map(|word| Some(Mistake::usage(word.place.clone(), odd_dash_message(word.text)?)));
    found.next()
}

pub(super) fn odd_dash_message(word: &str) -> Option<String> {
    let is_odd = |it: &char| {
        matches!(it, '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{fe58}' | '\u{fe63}' | '\u{ff0d}')
    };
    let dash = word.chars().next().filter(is_odd)?;
    let code = u32::from(dash);
    Some(format!("{} begins with a dash (U+{code:04X}) that is not \"-\"", quoted(word)))
}
