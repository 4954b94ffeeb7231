//! Any text is imported as a file of keepalived's and of ldirectord's: what comes out is a file of
//! lvs-director's, or it is said why not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lvs_director::{Config, Origin, import};

fuzz_target!(|text: &str| {
    for origin in [Origin::Keepalived, Origin::Ldirectord] {
        let imported = import(origin, text);
        let is_right = Config::parse(&imported.yaml).is_ok();
        assert!(is_right || !imported.notes.is_empty(), "{}", imported.yaml);
        let lines = text.lines().count();
        assert!(imported.notes.iter().all(|(line, _)| *line <= lines), "{:?}", imported.notes);
    }
});
