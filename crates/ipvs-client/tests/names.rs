//! The text of names that are bytes is written twice, in `ipvs-packet` and in `netlink-talk`, since the former
//! stands on nothing. Both say the same.

use ipvs_client::packet::InterfaceName;
use netlink_talk::names;
use proptest::{collection::vec, prelude::*};

/// Bytes among which there are many backslashes and escapes.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        3 => any::<u8>(),
        2 => prop::sample::select(&b"\\x5c0f\xc3\xa4\xff"[..]),
    ];
    vec(byte, 1..16)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn of_bytes(name in name()) {
        let text = names::to_text(&name);
        prop_assert_eq!(names::from_text(&text), &name[..]);
        // What a link can be called.
        if let Ok(interface) = InterfaceName::new(&text) {
            prop_assert_eq!(interface.as_bytes(), &name[..]);
            prop_assert_eq!(interface.to_string(), text);
        }
    }

    #[test]
    fn of_text(text in r"(\\|x|5c|ff|[a-zäß]|\\x[0-9a-f]{2}){1,8}") {
        if let Ok(interface) = InterfaceName::new(&text) {
            prop_assert_eq!(interface.as_bytes(), names::from_text(&text));
            prop_assert_eq!(interface.to_string(), names::to_text(interface.as_bytes()));
        }
    }
}

#[test]
fn most_names_are_taken() {
    // So that the laws above are not empty.
    for text in ["eth0", r"x\xffy", r"\x5cxff", r"\", "ä"] {
        assert_eq!(
            InterfaceName::new(text).map(|name| name.as_bytes().to_vec()),
            Ok(names::from_text(text))
        );
    }
}
