//! Any text is a file of lvs-director's or has mistakes, with places that are in the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lvs_director::Config;

fuzz_target!(|text: &str| {
    if let Err(mistakes) = Config::parse(text) {
        assert!(mistakes.iter().next().is_some());
        let lines = text.lines().count() as u64;
        for mistake in mistakes.iter() {
            assert!(mistake.line() <= lines + 1, "{mistake}");
        }
    }
});
