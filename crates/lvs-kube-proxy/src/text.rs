//! Texts for machines.

/// A text in JSON.
pub(crate) fn json(text: &str) -> String {
    let escaped = text.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        '\0'..='\x1f' => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_in_json() {
        let text = "a \"b\" \\ \n \u{7f} \u{1f600}";
        assert_eq!(serde_json::from_str::<String>(&json(text)).unwrap(), text);
    }
}
