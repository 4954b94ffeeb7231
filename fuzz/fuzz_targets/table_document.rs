//! Any YAML or JSON parses as a table or is refused. A parsed table can be written and parsed again to the
//! same value.
#![no_main]

use ipvs_table::{TableDocument, UncheckedDocument};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let json = serde_json::from_str::<UncheckedDocument>(text).ok();
    let yaml = || serde_saphyr::from_str::<UncheckedDocument>(text).ok();
    let Some(unchecked) = json.or_else(yaml) else { return };
    if let Ok(document) = unchecked.check() {
        let written = serde_json::to_string(&document).expect("it can be written");
        let read: TableDocument = serde_json::from_str(&written).expect("it can be read");
        assert_eq!(serde_json::to_string(&read).expect("it can be written"), written);
    }
});
