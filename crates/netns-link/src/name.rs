//! Names of links.

use netlink_talk::names;

use crate::error::Error;

/// The bytes of a link's name, if a link can have it: the kernel's rule (`dev_valid_name`); a percent sign
/// would be a pattern.
pub(crate) fn link_name(text: &str) -> Result<Vec<u8>, Error> {
    let name = names::from_text(text);
    let white = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, 0x0b | 0xa0);
    let rule = if name.is_empty() {
        "it is empty"
    } else if name.len() > 15 {
        "it is longer than 15 bytes"
    } else if name == b"." || name == b".." {
        "it is a directory"
    } else if name.iter().any(|byte| b"/:%\0".contains(byte)) {
        "it has a slash, a colon, a percent sign or a NUL"
    } else if name.iter().any(white) {
        "it has white space"
    } else {
        return Ok(name);
    };
    Err(Error::invalid(format_args!("link name {text:?}"), rule))
}

/// The same, of a text that stays one.
pub(crate) fn valid_name(text: &str) -> Result<&str, Error> {
    link_name(text).map(|_| text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn names() {
        for name in ["lo", "ipvs0", "kube-ipvs0", "a.100", "fifteen-bytes-x", "é", r"x\xffy"] {
            assert!(link_name(name).is_ok(), "{name:?}");
        }
        assert_eq!(link_name(r"x\xffy").unwrap(), b"x\xffy");
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a:1",
            "dummy%d",
            "a b",
            "a\tb",
            "a\0",
            "sixteen-bytes-xx",
            r"a\xa0",
        ] {
            assert_eq!(link_name(name).unwrap_err().kind(), ErrorKind::InvalidInput, "{name:?}");
        }
    }
}
